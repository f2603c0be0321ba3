/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "store/json_doc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void objects_are_read(void **state)
{
	struct tt *t = *state;
	json_t *root = NULL;
	tt_write_text(tt_path(t, "c.json"), "{\"model_type\": \"llama\", \"hidden_size\": 64}\n");
	tt_ok(t, tn_json_load(t->ctx, tt_path(t, "c.json"), &root, &t->err));
	assert_string_equal(json_string_value(json_object_get(root, "model_type")), "llama");
	json_decref(root);
}

static void expect_refused(struct tt *t, const char *text, tn_status expected)
{
	json_t *root = NULL;
	const char *path = tt_path(t, "bad.json");
	tt_write_text(path, text);
	tt_expect(t, tn_json_load(t->ctx, path, &root, &t->err), expected);
	assert_null(root);
	tt_expect_msg(t, "bad.json");
}

static void everything_else_is_refused(void **state)
{
	struct tt *t = *state;
	expect_refused(t, "", TN_E_FORMAT);
	expect_refused(t, "[1]", TN_E_FORMAT);
	expect_refused(t, "null", TN_E_FORMAT);
	expect_refused(t, "{\"a\":1,}", TN_E_FORMAT);
	expect_refused(t, "{\"a\":1,\"a\":2}", TN_E_FORMAT);
	expect_refused(t, "{\"a\":NaNs}", TN_E_FORMAT);
	expect_refused(t, "{\"a\":+Infinity}", TN_E_FORMAT);
	expect_refused(t, "{\"a\":Inf", TN_E_FORMAT);
	expect_refused(t, "{\"a\":1} x", TN_E_FORMAT);
	expect_refused(t, "{\"a\":\"\xFF\"}", TN_E_FORMAT);
	char *deep = malloc(1 << 18);
	memset(deep, '[', (1 << 18) - 1);
	memcpy(deep, "{\"a\":", 5);
	deep[(1 << 18) - 1] = '\0';
	expect_refused(t, deep, TN_E_FORMAT);
	free(deep);
	char *large = malloc(TN_CONFIG_CAP + 2);
	memset(large, ' ', TN_CONFIG_CAP + 1);
	memcpy(large, "{}", 2);
	large[TN_CONFIG_CAP + 1] = '\0';
	expect_refused(t, large, TN_E_LIMIT);
	large[TN_CONFIG_CAP] = '\0';
	json_t *root = NULL;
	tt_write_text(tt_path(t, "full.json"), large);
	tt_ok(t, tn_json_load(t->ctx, tt_path(t, "full.json"), &root, &t->err));
	json_decref(root);
	free(large);
	tt_expect(t, tn_json_load(t->ctx, tt_path(t, "absent.json"), &root, &t->err), TN_E_NOTFOUND);
}

/* A config may hold what Python writes and jansson has no value for; nobody takes it for a number, a text or nothing. */
static void numbers_that_jansson_cannot_hold(void **state)
{
	static const char *const tokens[] = { "NaN", "Infinity", "-Infinity", "9223372036854775808",
					      "-9223372036854775809", "340282366920938463463374607431768211456", "1e999" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
		char text[100];
		json_t *root = NULL;
		snprintf(text, sizeof text, "{\"a\":[0.0,%s]}", tokens[i]);
		tt_ok(t, tn_json_parse(t->ctx, text, strlen(text), "c", &root, &t->err));
		const json_t *value = json_array_get(json_object_get(root, "a"), 1);
		assert_string_equal(tn_json_number_token(value), tokens[i]);
		assert_false(json_is_number(value) || json_is_null(value));
		assert_string_equal(json_string_value(value), "");
		json_decref(root);
	}
}

static void strings_are_no_number_tokens(void **state)
{
	static const char text[] = "{\"a\":[\"NaN\",\"\\u0000\\u00ff1\",\"\",1,null,9223372036854775807]}";
	struct tt *t = *state;
	json_t *root = NULL;
	tt_ok(t, tn_json_parse(t->ctx, text, sizeof text - 1, "c", &root, &t->err));
	for (size_t i = 0; i < 6; i++)
		assert_null(tn_json_number_token(json_array_get(json_object_get(root, "a"), i)));
	json_decref(root);
	tt_expect(t, tn_json_parse(t->ctx, "{\"a\":\"\\u0000\xFF\"}", 15, "c", &root, &t->err), TN_E_FORMAT);
}

static void a_byte_order_mark_is_named(void **state)
{
	struct tt *t = *state;
	expect_refused(t, "\xEF\xBB\xBF{}", TN_E_FORMAT);
	tt_expect_msg(t, "begins with a byte order mark; remove it");
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(objects_are_read), TT_TEST(everything_else_is_refused),
					    TT_TEST(numbers_that_jansson_cannot_hold),
					    TT_TEST(strings_are_no_number_tokens), TT_TEST(a_byte_order_mark_is_named) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
