/* SPDX-License-Identifier: Apache-2.0 */
/* Reading well-formed files; the malformed ones are in tests/hostile. */
#include "testlib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static tn_safetensors *open_mixed(struct tt *t)
{
	tn_safetensors *file = NULL;
	tt_ok(t, tn_safetensors_open(t->ctx, TEST_DATA "/mixed.safetensors", &file, &t->err));
	return file;
}

static void looking(void **state)
{
	struct tt *t = *state;
	tn_safetensors *file = open_mixed(t);
	const char *key, *value;
	assert_int_equal(tn_safetensors_count(file), 17);
	assert_string_equal(tn_safetensors_path(file), TEST_DATA "/mixed.safetensors");
	assert_int_equal(tn_safetensors_metadata_count(file), 1);
	tn_safetensors_metadata_at(file, 0, &key, &value);
	assert_string_equal(key, "format");
	assert_string_equal(value, "pt");
	tn_safetensors_metadata_at(file, 1, &key, &value);
	assert_null(key);
	uint64_t end = 0;
	for (size_t i = 0; i < 17; i++) {
		const struct tn_tensor *x = tn_safetensors_at(file, i);
		assert_ptr_equal(tn_safetensors_find(file, x->name), x);
		assert_true(i == 0 || x->offset == end);
		end = x->offset + x->bytes;
	}
	assert_int_equal(end, tn_safetensors_bytes(file));
	assert_null(tn_safetensors_at(file, 17));
	assert_null(tn_safetensors_find(file, "a.weight3"));
	assert_null(tn_safetensors_find(file, ""));
	const struct tn_tensor *z = tn_safetensors_find(file, "z.weight");
	assert_int_equal(z->dtype, TN_F32);
	assert_int_equal(z->rank, 2);
	assert_int_equal(z->shape[0], 2);
	assert_int_equal(z->shape[1], 3);
	assert_int_equal(z->elements, 6);
	assert_int_equal(z->bytes, 24);
	assert_int_equal(tn_safetensors_find(file, "scalar")->elements, 1);
	assert_int_equal(tn_safetensors_find(file, "none")->elements, 0);
	tn_safetensors_close(file);
	tn_safetensors_close(NULL);
}

static void reading(void **state)
{
	struct tt *t = *state;
	tn_safetensors *file = open_mixed(t);
	const struct tn_tensor *x = tn_safetensors_find(file, "a.weight");
	struct tt_guard g;
	for (size_t n = 0; n <= x->bytes; n++) {
		tt_guard_make(&g, n);
		tt_ok(t, tn_safetensors_read(file, x, x->bytes - n, g.at_end, n, &t->err));
		for (size_t i = 0; i < n; i++)
			assert_int_equal(g.at_end[i], (unsigned char)(7 * (x->bytes - n + i) + 8));
		tt_guard_free(&g);
	}
	char bytes[64];
	tt_expect(t, tn_safetensors_read(file, x, x->bytes, bytes, 1, &t->err), TN_E_ARG);
	tt_expect(t, tn_safetensors_read(file, x, UINT64_MAX, bytes, 2, &t->err), TN_E_ARG);
	tt_expect(t, tn_safetensors_read(file, x, 0, bytes, 31, &t->err), TN_E_ARG);
	tt_expect_msg(t, "a.weight");
	tn_safetensors_close(file);
}

static void loading(void **state)
{
	struct tt *t = *state;
	tn_safetensors *file = open_mixed(t);
	struct tn_buffer buffer = { NULL, 0 };
	const struct tn_tensor *x = NULL;
	tt_ok(t, tn_safetensors_load(file, "codes", &buffer, &x, &t->err));
	assert_ptr_equal(x, tn_safetensors_find(file, "codes"));
	assert_int_equal(buffer.bytes, 16);
	assert_int_equal((uintptr_t)buffer.data % 64, 0);
	assert_int_equal(((unsigned char *)buffer.data)[3], 7 * 3 + 5);
	tn_buffer_release(t->ctx, &buffer);
	tt_ok(t, tn_safetensors_load(file, "scalar", &buffer, NULL, &t->err));
	assert_int_equal(buffer.bytes, 4);
	tn_buffer_release(t->ctx, &buffer);
	x = NULL;
	tt_expect(t, tn_safetensors_load(file, "none", &buffer, &x, &t->err), TN_E_ARG);
	tt_expect_msg(t, "empty");
	tt_expect(t, tn_safetensors_load(file, "missing", &buffer, &x, &t->err), TN_E_NOTFOUND);
	tt_expect_msg(t, "missing");
	tt_expect(t, tn_safetensors_load(file, "flags", &buffer, &x, &t->err), TN_E_UNSUPPORTED);
	tt_expect_msg(t, "BOOL");
	assert_null(buffer.data);
	assert_null(x);
	tn_safetensors_close(file);
}

static void dtypes_that_do_not_load(void **state)
{
	static const char *const refused[] = { "BOOL", "C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ" };
	struct tt *t = *state;
	for (int i = 0; i < TN_DTYPE_COUNT; i++) {
		char header[200];
		unsigned bytes = tn_dtype_bits((tn_dtype)i);
		const char *name = tn_dtype_name((tn_dtype)i), *path = tt_path(t, "%s", name);
		snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,%u]}}", name, bytes);
		unsigned char data[64] = { 1, 2, 3 }, back[64] = { 0 };
		tt_write_st(path, header, data, bytes);
		tn_safetensors *file;
		struct tn_buffer buffer = { NULL, 0 };
		tt_ok(t, tn_safetensors_open(t->ctx, path, &file, &t->err));
		tn_status expected = TN_OK;
		for (size_t j = 0; j < sizeof refused / sizeof *refused; j++)
			if (strcmp(refused[j], name) == 0)
				expected = TN_E_UNSUPPORTED;
		tt_expect(t, tn_safetensors_load(file, "w", &buffer, NULL, &t->err), expected);
		tn_buffer_release(t->ctx, &buffer);
		tt_ok(t, tn_safetensors_read(file, tn_safetensors_at(file, 0), 0, back, bytes, &t->err));
		assert_memory_equal(back, data, bytes);
		tn_safetensors_close(file);
	}
}

static void from_memory(void **state)
{
	struct tt *t = *state;
	size_t n;
	unsigned char *bytes = tt_read_file(TEST_DATA "/mixed.safetensors", &n);
	struct tt_guard g;
	tt_guard_make(&g, n);
	memcpy(g.at_end, bytes, n);
	tn_safetensors *file;
	tt_ok(t, tn_safetensors_open_memory(t->ctx, g.at_end, n, "memory", &file, &t->err));
	assert_string_equal(tn_safetensors_path(file), "memory");
	assert_int_equal(tn_safetensors_count(file), 17);
	for (size_t i = 0; i < 17; i++) {
		const struct tn_tensor *x = tn_safetensors_at(file, i);
		unsigned char back[64];
		tt_ok(t, tn_safetensors_read(file, x, 0, back, x->bytes, &t->err));
		assert_memory_equal(back, bytes + x->offset, x->bytes);
		tt_expect(t, tn_safetensors_read(file, x, 0, back, x->bytes + 1, &t->err), TN_E_ARG);
	}
	tn_safetensors_close(file);
	/* every shorter file is refused, without a look behind its end */
	for (size_t cut = 0; cut < n; cut++) {
		memcpy(g.at_end + n - cut, bytes, cut);
		file = NULL;
		tt_expect(t, tn_safetensors_open_memory(t->ctx, g.at_end + n - cut, cut, "cut", &file, &t->err),
			  TN_E_FORMAT);
		assert_null(file);
	}
	tt_expect(t, tn_safetensors_open_memory(t->ctx, NULL, 0, "nothing", &file, &t->err), TN_E_FORMAT);
	tt_guard_free(&g);
	free(bytes);
}

static void file_shortened_while_open(void **state)
{
	struct tt *t = *state;
	const char *path = tt_path(t, "f.safetensors");
	char data[4096] = "";
	tt_write_st(path, "{\"w\":{\"dtype\":\"U8\",\"shape\":[4096],\"data_offsets\":[0,4096]}}", data, sizeof data);
	tn_safetensors *file;
	struct tn_buffer buffer = { NULL, 0 };
	tt_ok(t, tn_safetensors_open(t->ctx, path, &file, &t->err));
	assert_int_equal(truncate(path, 200), 0);
	tt_expect(t, tn_safetensors_load(file, "w", &buffer, NULL, &t->err), TN_E_IO);
	tt_expect_msg(t, "shortened");
	assert_null(buffer.data);
	tn_safetensors_close(file);
}

static void files_that_do_not_open(void **state)
{
	struct tt *t = *state;
	tn_safetensors *file = NULL;
	tt_expect(t, tn_safetensors_open(t->ctx, tt_path(t, "no"), &file, &t->err), TN_E_NOTFOUND);
	tt_expect(t, tn_safetensors_open(t->ctx, t->folder, &file, &t->err), TN_E_IO);
	tt_expect(t, tn_safetensors_open(t->ctx, "/dev/zero", &file, &t->err), TN_E_IO);
	assert_null(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(looking),     TT_TEST(reading),                   TT_TEST(loading),
		TT_TEST(from_memory), TT_TEST(file_shortened_while_open), TT_TEST(files_that_do_not_open),
		TT_TEST(dtypes_that_do_not_load),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
