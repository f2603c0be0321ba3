/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/map.h"

#include <string.h>
#include <unistd.h>

static void test_maps_the_whole_file(void **state)
{
	struct tt *t = *state;
	const char *path = tt_path(t, "file");
	struct tn_file file;
	struct tn_map map;
	static unsigned char bytes[10000];
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (unsigned char)(i * 7);
	tt_write_file(path, bytes, sizeof bytes);
	tt_ok(t, tn_file_open(path, &file, &t->err));
	tt_ok(t, tn_map_open(&file, path, &map, &t->err));
	tn_file_close(&file);
	assert_int_equal(map.count, sizeof bytes);
	assert_memory_equal(map.bytes, bytes, sizeof bytes);
	tn_map_close(&map);
	assert_null(map.bytes);
	tn_map_close(&map);
}

/* Shortened between opening and mapping: an error in place of a SIGBUS. */
static void test_another_size(void **state)
{
	struct tt *t = *state;
	const char *path = tt_path(t, "file");
	struct tn_file file;
	struct tn_map map;
	tt_write_file(path, "0123456789", 10);
	tt_ok(t, tn_file_open(path, &file, &t->err));
	assert_int_equal(truncate(path, 4), 0);
	tt_expect(t, tn_map_open(&file, path, &map, &t->err), TN_E_IO);
	tt_expect_msg(t, "had 10 when it was opened");
	tn_file_close(&file);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(test_maps_the_whole_file), TT_TEST(test_another_size) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
