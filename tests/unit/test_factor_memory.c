/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "live/factor_memory.h"

#include <stdint.h>
#include <string.h>

enum { KB = 1 << 10, MB = 1 << 20 };

static struct tn_factor_memory take(struct tt *t, struct tn_factor_store *s, size_t bytes, int is_alone)
{
	struct tn_factor_memory m = { 0 };
	tt_ok(t, tn_factor_memory_take(s, bytes, is_alone, &m, &t->err));
	assert_non_null(m.data);
	assert_true(m.bytes >= bytes && (uintptr_t)m.data % 64 == 0);
	return m;
}

static void small_ones_share(void **state)
{
	struct tt *t = *state;
	struct tn_factor_store s;
	size_t empty = t->heap.live_bytes;
	tn_factor_store_init(&s, t->ctx);
	struct tn_factor_memory alone = take(t, &s, 100 * KB, 1), large = take(t, &s, 3 * MB, 0);
	assert_null(alone.slab);
	assert_null(large.slab);
	assert_true(t->heap.live_bytes < empty + 4 * MB);
	struct tn_factor_memory a = take(t, &s, 100 * KB, 0);
	size_t calls = t->heap.calls;
	struct tn_factor_memory b = take(t, &s, 0, 0), c = take(t, &s, 2 * MB, 0);
	assert_true(a.slab && a.slab == b.slab && b.slab == c.slab);
	assert_int_equal(t->heap.calls, calls);
	tn_factor_memory_give(&s, &a);
	assert_null(a.data);
	tn_factor_memory_give(&s, &a); /* twice is nothing */
	tn_factor_memory_give(&s, &c);
	assert_true(t->heap.live_bytes > empty + 7 * MB);
	tn_factor_memory_give(&s, &b);
	assert_true(t->heap.live_bytes < empty + 4 * MB); /* the slab went with its last piece */
	tn_factor_memory_give(&s, &alone);
	tn_factor_memory_give(&s, &large);
	tn_factor_store_release(&s);
	assert_int_equal(t->heap.live_bytes, empty);
}

static void what_is_left_is_kept_for_the_next(void **state)
{
	struct tt *t = *state;
	struct tn_factor_store s;
	tn_factor_store_init(&s, t->ctx);
	size_t empty = t->heap.live_bytes;
	tn_factor_store_keep(&s, 1);
	struct tn_factor_memory a = take(t, &s, 10 * MB, 0), small = take(t, &s, 5 * KB, 0);
	void *at = a.data, *small_at = small.data;
	tn_factor_memory_give(&s, &a);
	tn_factor_memory_give(&s, &small);
	size_t calls = t->heap.calls;
	a = take(t, &s, 9 * MB, 0);
	small = take(t, &s, 4 * KB, 0);
	assert_ptr_equal(a.data, at);
	assert_ptr_equal(small.data, small_at);
	assert_int_equal(t->heap.calls, calls);
	tn_factor_memory_give(&s, &a);
	a = take(t, &s, 3 * MB, 0); /* far too large for it */
	assert_ptr_not_equal(a.data, at);
	tn_factor_memory_give(&s, &a); /* smaller than what is kept */
	tn_factor_memory_give(&s, &small);
	assert_true(t->heap.live_bytes > empty + 18 * MB);
	tn_factor_store_keep(&s, 0);
	assert_int_equal(t->heap.live_bytes, empty);
	tn_factor_store_release(&s);
}

/* Pieces of many lengths come and go: none is written by another's owner. */
static void pieces_stay_apart(void **state)
{
	enum { MANY = 40, ROUNDS = 2000 };
	struct tt *t = *state;
	struct tn_factor_store s;
	struct tn_factor_memory held[MANY] = { { 0 } };
	unsigned seed = 1;
	tn_factor_store_init(&s, t->ctx);
	for (int i = 0; i < ROUNDS; i++) {
		seed = seed * 1664525u + 1013904223u;
		struct tn_factor_memory *m = &held[(seed >> 8) % MANY];
		unsigned char mark = (unsigned char)(m - held + 1);
		if (m->data) {
			const unsigned char *p = m->data;
			for (size_t k = 0; k < m->bytes; k += 512)
				assert_int_equal(p[k], mark);
			assert_int_equal(p[m->bytes - 1], mark);
			tn_factor_memory_give(&s, m);
		} else {
			*m = take(t, &s, (seed >> 14) % (700 * KB), 0);
			memset(m->data, mark, m->bytes);
		}
	}
	for (int i = 0; i < MANY; i++)
		tn_factor_memory_give(&s, &held[i]);
	tn_factor_store_release(&s);
}

static void without_memory_nothing_changes(void **state)
{
	struct tt *t = *state;
	struct tn_factor_store s;
	struct tn_factor_memory m = { 0 };
	tn_factor_store_init(&s, t->ctx);
	size_t empty = t->heap.live_bytes;
	for (size_t n = 0; n < 2; n++) {
		t->heap.fail_at = t->heap.calls + n + 1;
		tt_expect(t, tn_factor_memory_take(&s, KB, 0, &m, &t->err), TN_E_NOMEM);
		assert_int_equal(t->heap.live_bytes, empty);
	}
	t->heap.fail_at = 0;
	tt_expect(t, tn_factor_memory_take(&s, UINT64_MAX, 0, &m, &t->err), TN_E_NOMEM);
	assert_null(m.data);
	m = take(t, &s, KB, 0);
	tn_factor_memory_give(&s, &m);
	tn_factor_store_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(small_ones_share),
		TT_TEST(what_is_left_is_kept_for_the_next),
		TT_TEST(pieces_stay_apart),
		TT_TEST(without_memory_nothing_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
