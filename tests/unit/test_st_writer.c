/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "store/st_writer.h"

#include <pthread.h>
#include <stdlib.h>


static const uint64_t shape[] = { 1000 };
static const struct tn_tensor plain = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = shape, .elements = 1000,
					.bytes = 1000 };

struct piece {
	struct tn_st_writer *writer;
	const struct tn_tensor *tensor;
	uint64_t from;
	tn_status status;
};

static void *put_piece(void *arg)
{
	struct piece *p = arg;
	for (uint64_t at = p->from; at < 1000 && p->status == TN_OK; at += 4) {
		unsigned char byte = (unsigned char)(at * 3);
		p->status = tn_st_writer_put(p->writer, p->tensor, at, &byte, 1, NULL);
	}
	return NULL;
}

static void any_order_from_any_thread(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = plain, b = plain, *list[] = { &a, &b };
	struct tn_st_writer *writer;
	b.name = "b";
	tt_ok(t, tn_st_writer_create(t->ctx, tt_path(t, "f"), list, 2, NULL, 0, 0, &writer, &t->err));
	struct piece pieces[4];
	pthread_t threads[4];
	for (uint64_t i = 0; i < 4; i++) {
		pieces[i] = (struct piece){ writer, &b, i, TN_OK };
		assert_int_equal(pthread_create(&threads[i], NULL, put_piece, &pieces[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(pieces[i].status, TN_OK);
	}
	tt_ok(t, tn_st_writer_finish(writer, &t->err));

	tn_safetensors *file;
	unsigned char bytes[1000];
	tt_ok(t, tn_safetensors_open(t->ctx, tt_path(t, "f"), &file, &t->err));
	tt_ok(t, tn_safetensors_read(file, tn_safetensors_find(file, "b"), 0, bytes, 1000, &t->err));
	for (size_t i = 0; i < 1000; i++)
		assert_int_equal(bytes[i], (unsigned char)(i * 3));
	tt_ok(t, tn_safetensors_read(file, tn_safetensors_find(file, "a"), 0, bytes, 1000, &t->err));
	for (size_t i = 0; i < 1000; i++)
		assert_int_equal(bytes[i], 0); /* what was not written is zero */
	tn_safetensors_close(file);
}

static void bytes_that_do_not_fit(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = plain, *list[] = { &a };
	struct tn_st_writer *writer;
	char bytes[16] = "";
	tt_ok(t, tn_st_writer_create(t->ctx, tt_path(t, "f"), list, 1, NULL, 0, 0, &writer, &t->err));
	tt_ok(t, tn_st_writer_put(writer, &a, 1000, bytes, 0, &t->err));
	tt_expect(t, tn_st_writer_put(writer, &a, 1000, bytes, 1, &t->err), TN_E_ARG);
	tt_expect(t, tn_st_writer_put(writer, &a, 990, bytes, 11, &t->err), TN_E_ARG);
	tt_expect(t, tn_st_writer_put(writer, &a, UINT64_MAX, bytes, 2, &t->err), TN_E_ARG);
	tn_st_writer_abort(writer);
	tn_st_writer_abort(NULL);
}

static void files_that_cannot_be_made(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = plain, *list[] = { &a };
	struct tn_st_writer *writer = NULL;
	tt_write_text(tt_path(t, "there"), "mine");
	tt_expect(t, tn_st_writer_create(t->ctx, tt_path(t, "there"), list, 1, NULL, 0, 0, &writer, &t->err), TN_E_IO);
	tt_expect(t, tn_st_writer_create(t->ctx, tt_path(t, "no/f"), list, 1, NULL, 0, 0, &writer, &t->err), TN_E_NOTFOUND);
	a.bytes = a.elements = UINT64_C(1) << 60; /* more than any disk: found before any work */
	tt_expect(t, tn_st_writer_create(t->ctx, tt_path(t, "large"), list, 1, NULL, 0, 0, &writer, &t->err), TN_E_IO);
	assert_null(writer);
	assert_false(tt_exists(tt_path(t, "large")));
	size_t n;
	unsigned char *kept = tt_read_file(tt_path(t, "there"), &n);
	assert_string_equal((char *)kept, "mine");
	free(kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(any_order_from_any_thread), TT_TEST(bytes_that_do_not_fit),
					    TT_TEST(files_that_cannot_be_made) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
