/* SPDX-License-Identifier: Apache-2.0 */
/* heap.c and arena.c. The allocator of the tests aborts when a size that comes back is not the one that went out. */
#include "testlib.h"

#include "base/arena.h"
#include "base/checked.h"

#include <string.h>

static void checked_arithmetic(void **state)
{
	uint64_t u;
	size_t s;
	(void)state;
	assert_int_equal(tn_mul_u64(UINT64_MAX, 1, &u), 0);
	assert_int_equal(tn_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &u), 1);
	assert_int_equal(tn_add_u64(UINT64_MAX, 1, &u), 1);
	assert_int_equal(tn_mul_size(SIZE_MAX / 2 + 1, 2, &s), 1);
	assert_int_equal(tn_add_size(SIZE_MAX, 0, &s), 0);
	assert_int_equal(tn_ceil_div(0, 8), 0);
	assert_int_equal(tn_ceil_div(9, 8), 2);
	assert_true(tn_ceil_div(UINT64_MAX, 2) == (UINT64_C(1) << 63));
	assert_int_equal(tn_align_up(17, 16), 32);
	assert_int_equal(tn_align_up(16, 16), 16);
}

static void zero_bytes_are_a_pointer(void **state)
{
	struct tt *t = *state;
	void *p = NULL;
	tt_ok(t, tn_alloc(t->ctx, 0, "thing", &p, &t->err));
	assert_non_null(p);
	tn_free(t->ctx, p, 0);
	tn_free(t->ctx, NULL, 8);
}

static void arrays_are_cleared_and_checked(void **state)
{
	struct tt *t = *state;
	uint32_t *a = NULL, *untouched = (void *)&a;
	tt_ok(t, tn_alloc_array(t->ctx, 100, sizeof *a, "thing", &a, &t->err));
	for (int i = 0; i < 100; i++)
		assert_int_equal(a[i], 0);
	tn_free_array(t->ctx, a, 100, sizeof *a);
	tt_expect(t, tn_alloc_array(t->ctx, SIZE_MAX / 2, 4, "thing", &untouched, &t->err), TN_E_LIMIT);
	assert_ptr_equal(untouched, &a);
	tt_expect(t, tn_alloc_array(t->ctx, SIZE_MAX / 4, 1, "thing", &untouched, &t->err), TN_E_NOMEM);
	assert_ptr_equal(untouched, &a);
}

static void growing_keeps_what_is_there(void **state)
{
	struct tt *t = *state;
	uint16_t *a = NULL;
	size_t capacity = 0;
	for (size_t n = 1; n < 1000; n++) {
		tt_ok(t, tn_grow(t->ctx, &a, &capacity, n, sizeof *a, "list", &t->err));
		assert_true(capacity >= n);
		a[n - 1] = (uint16_t)n;
	}
	for (size_t n = 1; n < 1000; n++)
		assert_int_equal(a[n - 1], n);
	uint16_t *before = a;
	size_t capacity_before = capacity;
	tt_expect(t, tn_grow(t->ctx, &a, &capacity, SIZE_MAX, sizeof *a, "list", &t->err), TN_E_NOMEM);
	t->heap.fail_at = t->heap.calls + 1;
	tt_expect(t, tn_grow(t->ctx, &a, &capacity, capacity + 1, sizeof *a, "list", &t->err), TN_E_NOMEM);
	assert_ptr_equal(a, before);
	assert_int_equal(capacity, capacity_before);
	tn_free_array(t->ctx, a, capacity, sizeof *a);
}

static void buffers_are_aligned(void **state)
{
	struct tt *t = *state;
	for (size_t n = 0; n < 300; n++) {
		struct tn_buffer b = { NULL, 0 };
		tt_ok(t, tn_buffer_alloc(t->ctx, n, "buffer", &b, &t->err));
		assert_int_equal((uintptr_t)b.data % 64, 0);
		assert_int_equal(b.bytes, n);
		memset(b.data, 1, n);
		tn_buffer_release(t->ctx, &b);
		assert_null(b.data);
		assert_int_equal(b.bytes, 0);
		tn_buffer_release(t->ctx, &b);
	}
	tn_buffer_release(t->ctx, NULL);
	struct tn_buffer none = { NULL, 7 };
	tt_expect(t, tn_buffer_alloc(t->ctx, SIZE_MAX - 8, "buffer", &none, &t->err), TN_E_NOMEM);
	assert_int_equal(none.bytes, 7);
}

static void arena_pieces(void **state)
{
	struct tt *t = *state;
	struct tn_arena arena;
	tn_arena_init(&arena, t->ctx);
	unsigned char *pieces[200];
	for (size_t i = 0; i < 200; i++) {
		tt_ok(t, tn_arena_alloc(&arena, i * 37, &pieces[i], &t->err));
		assert_int_equal((uintptr_t)pieces[i] % 16, 0);
		for (size_t j = 0; j < i * 37; j++)
			assert_int_equal(pieces[i][j], 0);
		memset(pieces[i], (int)i, i * 37);
	}
	for (size_t i = 0; i < 200; i++)
		for (size_t j = 0; j < i * 37; j++)
			assert_int_equal(pieces[i][j], i);
	const char *text = NULL, *printed = NULL;
	tt_ok(t, tn_arena_text(&arena, "hello world", 5, &text, &t->err));
	assert_string_equal(text, "hello");
	tt_ok(t, tn_arena_printf(&arena, &printed, &t->err, "%s-%05d", "x", 42));
	assert_string_equal(printed, "x-00042");
	void *big = NULL;
	tt_ok(t, tn_arena_alloc(&arena, 5 << 20, &big, &t->err));
	tt_expect(t, tn_arena_alloc(&arena, SIZE_MAX, &big, &t->err), TN_E_NOMEM);
	tt_expect(t, tn_arena_alloc(&arena, SIZE_MAX - 40, &big, &t->err), TN_E_NOMEM);
	tt_expect(t, tn_arena_array(&arena, SIZE_MAX / 2, 3, &big, &t->err), TN_E_NOMEM);
	tt_expect(t, tn_arena_text(&arena, "", SIZE_MAX, &text, &t->err), TN_E_NOMEM);
	assert_string_equal(text, "hello");
	tn_arena_release(&arena);
	tn_arena_release(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(checked_arithmetic),          TT_TEST(zero_bytes_are_a_pointer),
		TT_TEST(arrays_are_cleared_and_checked), TT_TEST(growing_keeps_what_is_there),
		TT_TEST(buffers_are_aligned),         TT_TEST(arena_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
