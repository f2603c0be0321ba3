/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "store/json_scan.h"

#include <stdlib.h>
#include <string.h>

/* The text stands at the end of a guarded page: a step past it crashes. */
static tn_status skip_whole(struct tt *t, const char *text, size_t n)
{
	struct tt_guard g;
	tt_guard_make(&g, n);
	memcpy(g.at_end, text, n);
	struct tn_json_scan scan = { t->ctx, (char *)g.at_end, n, 0, "text", 100 };
	tn_status status = tn_json_skip_value(&scan, &t->err);
	if (status == TN_OK)
		status = tn_json_finish(&scan, &t->err);
	tt_guard_free(&g);
	return status;
}

static void valid_values(void **state)
{
	static const char *const texts[] = {
		"0", "-0", "10", "-1.5e+10", "1E5", "0.0", "1e-05", "true", "false", "null", "\"\"", "{}", "[]", " [ ] ",
		"[1,2]", "{\"a\":{\"b\":[1,{\"c\":null}]}}", "\"\\u0041\\ud83d\\ude00\\n\\/\"", "\t\r\n 1 \n",
		"{\"a\":1,\"A\":2}", "\"\x7f\"", "123456789012345678901234567890",
	};
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		tt_ok(t, skip_whole(t, texts[i], strlen(texts[i])));
}

static void invalid_values(void **state)
{
	static const char *const texts[] = {
		"", " ", "-", "01", "-01", "1.", ".5", "1e", "1e+", "+1", "0x10", "tru", "nul", "True", "NaN", "Infinity",
		"-Infinity", "\"", "\"a", "\"\\", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"",
		"\"\\ud800x\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\\ud800\\ud800\"", "\"a\nb\"", "\"\t\"", "'a'", "[",
		"[1", "[1,", "[1,]", "[,1]", "[1 2]", "]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}",
		"{a:1}", "{1:1}", "{\"a\" 1}", "{,}", "1 2", "{} {}", "[]]", "// x\n1", "1 /* */", "{\"a\":1,\"a\":2}",
		"{\"a\":1,\"\\u0061\":2}", "[{\"k\":[],\"q\":0,\"k\":[]}]",
	};
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		tt_expect(t, skip_whole(t, texts[i], strlen(texts[i])), TN_E_FORMAT);
		assert_true(t->err.pos >= 100 && t->err.pos <= 100 + strlen(texts[i]));
		tt_expect_msg(t, "text");
	}
	tt_expect(t, skip_whole(t, "1\0", 2), TN_E_FORMAT);
	tt_expect(t, skip_whole(t, "\"a\0b\"", 5), TN_E_FORMAT);
}

/* Cut anywhere, a document is an error and nothing is read behind the cut. */
static void every_cut_of_a_document(void **state)
{
	static const char text[] = "{\"k\\u00e9\\ud83d\\ude00y\" : [true, false, null, -12.5e-3, {\"\\\"\": \"\\\\\"}] }";
	struct tt *t = *state;
	for (size_t n = 0; n < sizeof text - 1; n++)
		tt_expect(t, skip_whole(t, text, n), TN_E_FORMAT);
	tt_ok(t, skip_whole(t, text, sizeof text - 1));
}

static void nesting(void **state)
{
	struct tt *t = *state;
	char text[600];
	for (size_t depth = 120; depth <= 140; depth++) {
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		tt_expect(t, skip_whole(t, text, 2 * depth), depth <= 128 ? TN_OK : TN_E_FORMAT);
		if (depth > 128)
			tt_expect_msg(t, "128");
	}
	enum { MANY = 1 << 20 };
	char *deep = malloc(MANY);
	memset(deep, '[', MANY);
	tt_expect(t, skip_whole(t, deep, MANY), TN_E_FORMAT);
	free(deep);
}

static void take_u64(struct tt *t, const char *text, tn_status expected, uint64_t value)
{
	struct tn_json_scan scan = { t->ctx, text, strlen(text), 0, "text", 0 };
	uint64_t got = 77;
	tt_expect(t, tn_json_take_u64(&scan, &got, &t->err), expected);
	assert_true(got == (expected == TN_OK ? value : 77));
}

static void whole_numbers(void **state)
{
	struct tt *t = *state;
	take_u64(t, "0", TN_OK, 0);
	take_u64(t, " 42,", TN_OK, 42);
	take_u64(t, "18446744073709551615", TN_OK, UINT64_MAX);
	static const char *const bad[] = { "", "-0", "-1", "1.0", "1e3", "1E3", "01", "00", "18446744073709551616",
					   "99999999999999999999999", "\"1\"", "+1", "null", "x" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		take_u64(t, bad[i], TN_E_FORMAT, 0);
}

static void strings_are_decoded(void **state)
{
	static const struct {
		const char *text, *decoded;
	} cases[] = {
		{ "\"\"", "" },
		{ "\"plain\"", "plain" },
		{ "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t" },
		{ "\"\\u0041\\u00e9\\u20AC\\ud83d\\uDE00\"", "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80" },
		{ "\"\xC3\xA9\"", "\xC3\xA9" },
		{ "\"\\u0001\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "\x01\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF" },
	};
	struct tt *t = *state;
	struct tn_arena arena;
	tn_arena_init(&arena, t->ctx);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct tn_json_scan scan = { t->ctx, cases[i].text, strlen(cases[i].text), 0, "text", 0 };
		struct tn_json_string s;
		const char *decoded = NULL;
		tt_ok(t, tn_json_take_string(&scan, &s, &t->err));
		tt_ok(t, tn_json_decode(&scan, &s, &arena, &decoded, &t->err));
		assert_string_equal(decoded, cases[i].decoded);
		for (size_t j = 0; j < sizeof cases / sizeof *cases; j++)
			assert_int_equal(tn_json_equals(&scan, &s, cases[j].decoded),
					 strcmp(cases[i].decoded, cases[j].decoded) == 0);
		assert_int_equal(tn_json_equals(&scan, &s, "plai"), 0);
	}
	static const char nul[] = "\"a\\u0000b\"";
	struct tn_json_scan scan = { t->ctx, nul, sizeof nul - 1, 0, "text", 0 };
	struct tn_json_string s;
	const char *decoded = NULL;
	tt_ok(t, tn_json_take_string(&scan, &s, &t->err));
	assert_int_equal(tn_json_equals(&scan, &s, "a"), 0);
	tt_expect(t, tn_json_decode(&scan, &s, &arena, &decoded, &t->err), TN_E_FORMAT);
	assert_null(decoded);
	tn_arena_release(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(valid_values), TT_TEST(invalid_values), TT_TEST(every_cut_of_a_document),
		TT_TEST(nesting),      TT_TEST(whole_numbers),  TT_TEST(strings_are_decoded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
