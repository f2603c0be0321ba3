/* SPDX-License-Identifier: Apache-2.0 */
/* Expected texts come from Python 3.11: json.dumps(x, ...), repr(x). */
#include "testlib.h"

#include "store/json_doc.h"
#include "store/json_text.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void expect_double(struct tt *t, double value, const char *expected)
{
	struct tn_text text;
	tn_text_init(&text, t->ctx);
	tt_ok(t, tn_json_add_double(&text, value, &t->err));
	assert_string_equal(text.data, expected);
	tn_text_release(&text);
}

static void doubles_as_python_writes_them(void **state)
{
	struct tt *t = *state;
	expect_double(t, 0.0, "0.0");
	expect_double(t, -0.0, "-0.0");
	expect_double(t, 1e-05, "1e-05");
	expect_double(t, 0.0001, "0.0001");
	expect_double(t, 0.00012345, "0.00012345");
	expect_double(t, 0.1, "0.1");
	expect_double(t, 0.1 + 0.2, "0.30000000000000004");
	expect_double(t, 20.0, "20.0");
	expect_double(t, -1.5, "-1.5");
	expect_double(t, 100.25, "100.25");
	expect_double(t, 1e15, "1000000000000000.0");
	expect_double(t, 9999999999999998.0, "9999999999999998.0");
	expect_double(t, 1e16, "1e+16");
	expect_double(t, 1.5e16, "1.5e+16");
	expect_double(t, 1e22, "1e+22");
	expect_double(t, 1e100, "1e+100");
	expect_double(t, 5e-324, "5e-324");
	expect_double(t, 2.2250738585072014e-308, "2.2250738585072014e-308");
	expect_double(t, 1.7976931348623157e308, "1.7976931348623157e+308");
	expect_double(t, 123456789.125, "123456789.125");
	expect_double(t, 1e-06, "1e-06");
	expect_double(t, 3.0e-5, "3e-05");
	expect_double(t, (double)NAN, "NaN");
	expect_double(t, (double)INFINITY, "Infinity");
	expect_double(t, -(double)INFINITY, "-Infinity");
}

static void doubles_read_back(void **state)
{
	struct tt *t = *state;
	uint64_t seed = 3;
	for (int i = 0; i < 20000; i++) {
		uint64_t bits = tt_random(&seed);
		double value;
		memcpy(&value, &bits, sizeof value);
		if (!isfinite(value))
			continue;
		struct tn_text text;
		tn_text_init(&text, t->ctx);
		tt_ok(t, tn_json_add_double(&text, value, &t->err));
		assert_true(strtod(text.data, NULL) == value);
		assert_non_null(strpbrk(text.data, ".e"));
		tn_text_release(&text);
	}
}

static void expect_document(struct tt *t, const char *source, struct tn_json_style style, const char *expected)
{
	json_t *root = NULL;
	tt_ok(t, tn_json_parse(t->ctx, source, strlen(source), "source", &root, &t->err));
	struct tn_text text;
	tn_text_init(&text, t->ctx);
	tt_ok(t, tn_json_add_value(&text, root, &style, &t->err));
	assert_string_equal(text.data, expected);
	tn_text_release(&text);
	json_decref(root);
}

static void documents(void **state)
{
	static const char source[] = "{\"b\":[1,2.0,[],{}],\"a\":{\"z\":null,\"y\":true,\"x\":false},\"c\":\"q\\\"\"}";
	struct tt *t = *state;
	expect_document(t, source, (struct tn_json_style){ -1, 1, 0 },
			"{\"b\": [1, 2.0, [], {}], \"a\": {\"z\": null, \"y\": true, \"x\": false}, \"c\": \"q\\\"\"}");
	expect_document(t, source, (struct tn_json_style){ 2, 1, 1 },
			"{\n  \"a\": {\n    \"z\": null,\n    \"y\": true,\n    \"x\": false\n  },\n  \"b\": [\n    1,\n"
			"    2.0,\n    [],\n    {}\n  ],\n  \"c\": \"q\\\"\"\n}");
	expect_document(t, source, (struct tn_json_style){ 4, 0, 0 },
			"{\n    \"b\": [\n        1,\n        2.0,\n        [],\n        {}\n    ],\n    \"a\": {\n"
			"        \"z\": null,\n        \"y\": true,\n        \"x\": false\n    },\n    \"c\": \"q\\\"\"\n}");
	expect_document(t, "{}", (struct tn_json_style){ 2, 1, 1 }, "{}");
	expect_document(t, "{\"big\":9223372036854775807,\"min\":-9223372036854775808,\"f\":1e5}",
			(struct tn_json_style){ -1, 1, 0 },
			"{\"big\": 9223372036854775807, \"min\": -9223372036854775808, \"f\": 100000.0}");
	expect_document(t, "{\"a\":[0.0,Infinity],\"b\":-Infinity,\"c\":NaN,\"d\":18446744073709551616}",
			(struct tn_json_style){ -1, 1, 0 },
			"{\"a\": [0.0, Infinity], \"b\": -Infinity, \"c\": NaN, \"d\": 18446744073709551616}");
}

static void characters(void **state)
{
	struct tt *t = *state;
	static const char source[] = "{\"k\xC3\xA9\":\"\xE2\x82\xAC\xF0\x9F\x98\x80\\u0001\\u007f\\b\\f\\n\\r\\t\\\\/\\u0000z\"}";
	expect_document(t, source, (struct tn_json_style){ -1, 1, 0 },
			"{\"k\\u00e9\": \"\\u20ac\\ud83d\\ude00\\u0001\x7f\\b\\f\\n\\r\\t\\\\/\\u0000z\"}");
	expect_document(t, source, (struct tn_json_style){ -1, 0, 0 },
			"{\"k\xC3\xA9\": \"\xE2\x82\xAC\xF0\x9F\x98\x80\\u0001\x7f\\b\\f\\n\\r\\t\\\\/\\u0000z\"}");
}

/* Names and paths come from callers: what is not UTF-8 is refused, and nothing behind its NUL is read. */
static void text_that_is_not_utf8(void **state)
{
	static const char *const bad[] = { "\xF0", "a\xE2\x82", "\xFF", "ab\xC3", "\xED\xA0\x80" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct tt_guard g;
		struct tn_text text;
		tt_guard_make(&g, strlen(bad[i]) + 1);
		memcpy(g.at_end, bad[i], strlen(bad[i]) + 1);
		tn_text_init(&text, t->ctx);
		tt_expect(t, tn_json_add_string(&text, (char *)g.at_end, &t->err), TN_E_ARG);
		tn_text_release(&text);
		tt_guard_free(&g);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(doubles_as_python_writes_them), TT_TEST(doubles_read_back), TT_TEST(documents),
		TT_TEST(characters),                    TT_TEST(text_that_is_not_utf8),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
