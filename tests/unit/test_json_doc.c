/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "store/json_doc.h"

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
	expect_refused(t, "{\"a\":NaN}", TN_E_FORMAT);
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

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(objects_are_read), TT_TEST(everything_else_is_refused) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
