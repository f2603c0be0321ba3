/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "store/st_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void load(struct tt *t, const char *text, tn_status expected)
{
	struct tn_arena arena;
	struct tn_index index;
	tn_arena_init(&arena, t->ctx);
	tt_write_text(tt_path(t, "i.json"), text);
	tt_expect(t, tn_index_load(&arena, tt_path(t, "i.json"), &index, &t->err), expected);
	tn_arena_release(&arena);
}

static void entries_and_shards_are_sorted(void **state)
{
	struct tt *t = *state;
	struct tn_arena arena;
	struct tn_index index;
	tn_arena_init(&arena, t->ctx);
	tt_write_text(tt_path(t, "i.json"),
		      "{\"metadata\":{\"total_size\":12,\"x\":[{}]},\"weight_map\":{\"b\":\"s2\",\"a\":\"s1\",\"c\":\"s2\","
		      "\"\\u0061\\u0061\":\"s\\u0031\"},\"more\":null}\n");
	tt_ok(t, tn_index_load(&arena, tt_path(t, "i.json"), &index, &t->err));
	assert_int_equal(index.count, 4);
	assert_int_equal(index.shard_count, 2);
	assert_string_equal(index.shards[0], "s1");
	assert_string_equal(index.shards[1], "s2");
	static const char *const names[] = { "a", "aa", "b", "c" };
	for (size_t i = 0; i < 4; i++) {
		assert_string_equal(index.entries[i].tensor, names[i]);
		assert_int_equal(index.entries[i].shard, i / 2);
	}
	tn_arena_release(&arena);
}

static void what_is_refused(void **state)
{
	static const char *const shards[] = { "../x", "/etc/passwd", "a/b", "a\\\\b", "..", ".", "" };
	struct tt *t = *state;
	load(t, "{}", TN_E_FORMAT);
	load(t, "[]", TN_E_FORMAT);
	load(t, "", TN_E_FORMAT);
	load(t, "{\"metadata\":{}}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{}}", TN_OK);
	load(t, "{\"weight_map\":null}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{\"a\":1}}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{\"a\":\"s\",\"a\":\"s\"}}", TN_E_FORMAT);
	tt_expect_msg(t, "'a'");
	load(t, "{\"weight_map\":{\"a\":\"s\",\"\\u0061\":\"t\"}}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{},\"weight_map\":{}}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{}} x", TN_E_FORMAT);
	load(t, "{\"weight_map\":{\"a\":\"s\"}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{\"a\":\"s\\u0000\"}}", TN_E_FORMAT);
	load(t, "{\"weight_map\":{},\"metadata\":{\"a\":1,\"a\":1}}", TN_E_FORMAT);
	for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
		char text[200];
		snprintf(text, sizeof text, "{\"weight_map\":{\"ok\":\"s\",\"t\":\"%s\"}}", shards[i]);
		load(t, text, TN_E_FORMAT);
		tt_expect_msg(t, "plain file name");
	}
}

static void written_as_transformers_does(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = { .name = "a\"", .shard = 1 }, b = { .name = "b", .shard = 0 };
	const struct tn_tensor *list[] = { &a, &b };
	const char *const shards[] = { "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors" };
	struct tn_text text;
	tn_text_init(&text, t->ctx);
	tt_ok(t, tn_index_write(list, 2, shards, UINT64_MAX, 7, TN_INDEX_TRANSFORMERS, &text, &t->err));
	assert_string_equal(text.data, "{\n  \"metadata\": {\n    \"total_parameters\": 7,\n"
				       "    \"total_size\": 18446744073709551615\n  },\n  \"weight_map\": {\n"
				       "    \"a\\\"\": \"model-00002-of-00002.safetensors\",\n"
				       "    \"b\": \"model-00001-of-00002.safetensors\"\n  }\n}\n");
	load(t, text.data, TN_OK);
	tn_text_release(&text);
	tt_ok(t, tn_index_write(list, 2, shards, 2, 7, TN_INDEX_MLX, &text, &t->err));
	assert_string_equal(text.data, "{\n    \"metadata\": {\n        \"total_size\": 2,\n"
				       "        \"total_parameters\": 7\n    },\n    \"weight_map\": {\n"
				       "        \"a\\\"\": \"model-00002-of-00002.safetensors\",\n"
				       "        \"b\": \"model-00001-of-00002.safetensors\"\n    }\n}");
	load(t, text.data, TN_OK);
	tn_text_release(&text);
	for (int style = TN_INDEX_TRANSFORMERS; style <= TN_INDEX_MLX; style++) {
		tt_ok(t, tn_index_write(NULL, 0, NULL, 0, 0, (tn_index_style)style, &text, &t->err));
		load(t, text.data, TN_OK);
		tn_text_release(&text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(entries_and_shards_are_sorted), TT_TEST(what_is_refused),
					    TT_TEST(written_as_transformers_does) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
