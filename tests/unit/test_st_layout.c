/* SPDX-License-Identifier: Apache-2.0 */
/* The files of data/ were written by the reference implementation (data/make_data.py); ours must be the same bytes. */
#include "testlib.h"

#include "store/st_header.h"
#include "store/st_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 32 };

/* Descriptions of a file's tensors in an order of ours, so that the layout has work to do. */
static size_t describe(const tn_safetensors *file, struct tn_tensor *made, struct tn_tensor **list, uint64_t seed)
{
	size_t n = tn_safetensors_count(file);
	for (size_t i = 0; i < n; i++) {
		made[i] = *tn_safetensors_at(file, i);
		made[i].offset = 0;
		list[i] = &made[i];
	}
	for (size_t i = n; i > 1; i--) {
		size_t j = tt_random(&seed) % i;
		struct tn_tensor *swapped = list[i - 1];
		list[i - 1] = list[j];
		list[j] = swapped;
	}
	return n;
}

static size_t metadata_of(const tn_safetensors *file, struct tn_st_metadata *metadata)
{
	size_t n = tn_safetensors_metadata_count(file);
	for (size_t i = 0; i < n; i++)
		tn_safetensors_metadata_at(file, i, &metadata[i].key, &metadata[i].value);
	return n;
}

static void rewrite(struct tt *t, const tn_safetensors *file, const char *path, uint64_t seed)
{
	struct tn_tensor made[MOST], *list[MOST];
	struct tn_st_metadata metadata[MOST];
	struct tn_st_writer *writer;
	size_t n = describe(file, made, list, seed);
	tt_ok(t, tn_st_writer_create(t->ctx, path, list, n, metadata, metadata_of(file, metadata), seed % 2,
				     &writer, &t->err));
	for (size_t i = n; i-- > 0;) {
		unsigned char data[64];
		assert_true(list[i]->bytes <= sizeof data);
		for (size_t j = 0; j < list[i]->bytes; j++)
			data[j] = (unsigned char)(7 * j + strlen(list[i]->name));
		tt_ok(t, tn_st_writer_put(writer, list[i], 0, data, list[i]->bytes, &t->err));
	}
	tt_ok(t, tn_st_writer_finish(writer, &t->err));
}

static void same_bytes_as_the_reference(void **state)
{
	static const char *const names[] = { "mixed", "empty", "characters" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char path[512];
		size_t want_bytes = 0, got_bytes = 0;
		tn_safetensors *file;
		snprintf(path, sizeof path, TEST_DATA "/%s.safetensors", names[i]);
		tt_ok(t, tn_safetensors_open(t->ctx, path, &file, &t->err));
		unsigned char *want = tt_read_file(path, &want_bytes);
		for (uint64_t seed = 0; seed < 5; seed++) {
			const char *ours = tt_path(t, "%s-%d", names[i], (int)seed);
			rewrite(t, file, ours, seed);
			unsigned char *got = tt_read_file(ours, &got_bytes);
			assert_int_equal(got_bytes, want_bytes);
			assert_memory_equal(got, want, want_bytes);
			free(got);
		}
		free(want);
		tn_safetensors_close(file);
	}
}

static const uint64_t two[] = { 2 };

static tn_status layout(struct tt *t, struct tn_tensor *a, struct tn_tensor *b, const struct tn_st_metadata *m, size_t n)
{
	struct tn_tensor *list[] = { a, b };
	struct tn_text text;
	tn_text_init(&text, t->ctx);
	tn_status status = tn_st_header_layout(list, b ? 2 : 1, m, n, &text, &t->err);
	if (status == TN_OK) {
		assert_int_equal(text.length % 8, 0);
		assert_int_equal(text.data[8], '{');
		assert_int_equal(list[0]->offset, text.length);
	}
	tn_text_release(&text);
	return status;
}

static void names_that_cannot_be(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = two, .elements = 2, .bytes = 2 }, b = a;
	b.name = "b";
	tt_ok(t, layout(t, &a, &b, NULL, 0));
	b.name = "a";
	tt_expect(t, layout(t, &a, &b, NULL, 0), TN_E_ARG);
	tt_expect_msg(t, "'a'");
	b.dtype = TN_F16; /* another place in the order, and the same name */
	b.bytes = 4;
	tt_expect(t, layout(t, &a, &b, NULL, 0), TN_E_ARG);
	b.name = "__metadata__";
	tt_expect(t, layout(t, &a, &b, NULL, 0), TN_E_ARG);
	b.name = "bad\xFF";
	tt_expect(t, layout(t, &a, &b, NULL, 0), TN_E_ARG);
	b.name = "";
	tt_ok(t, layout(t, &a, &b, NULL, 0));
}

static void metadata_keys_stand_once(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = two, .elements = 2, .bytes = 2 };
	struct tn_st_metadata m[] = { { "k", "1" }, { "l", "2" }, { "k", "3" } };
	tt_ok(t, layout(t, &a, NULL, m, 2));
	tt_expect(t, layout(t, &a, NULL, m, 3), TN_E_ARG);
	tt_expect_msg(t, "'k'");
}

static void sizes_that_do_not_fit(void **state)
{
	struct tt *t = *state;
	uint64_t huge[] = { UINT64_MAX };
	struct tn_tensor a = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = huge, .elements = UINT64_MAX,
			       .bytes = UINT64_MAX };
	struct tn_tensor b = { .name = "b", .dtype = TN_U8, .rank = 1, .shape = two, .elements = 2, .bytes = 2 };
	tt_expect(t, layout(t, &a, &b, NULL, 0), TN_E_LIMIT);
	tt_expect(t, layout(t, &a, NULL, NULL, 0), TN_E_LIMIT); /* it fits alone, and not behind a header */
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(same_bytes_as_the_reference), TT_TEST(names_that_cannot_be),
					    TT_TEST(metadata_keys_stand_once), TT_TEST(sizes_that_do_not_fit) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
