/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

static void text_grows(void **state)
{
	struct tt *t = *state;
	struct tn_text text;
	tn_text_init(&text, t->ctx);
	tt_ok(t, tn_text_puts(&text, "", &t->err));
	for (int i = 0; i < 500; i++)
		tt_ok(t, tn_text_printf(&text, &t->err, "%d,", i));
	tt_ok(t, tn_text_add(&text, "a\0b", 3, &t->err));
	assert_int_equal(text.length, 10 * 2 + 90 * 3 + 400 * 4 + 3);
	assert_memory_equal(text.data, "0,1,2,3,", 8);
	assert_memory_equal(text.data + text.length - 3, "a\0b", 4);
	t->heap.fail_at = t->heap.calls + 1;
	size_t before = text.length;
	char *large = calloc(1, 100000);
	tt_expect(t, tn_text_add(&text, large, 100000, &t->err), TN_E_NOMEM);
	free(large);
	assert_int_equal(text.length, before);
	tn_text_release(&text);
	assert_int_equal(text.length, 0);
	tt_ok(t, tn_text_puts(&text, "again", &t->err));
	assert_string_equal(text.data, "again");
	tn_text_release(&text);
}

/* An independent definition: decode by the bit patterns, then judge the code point. */
static size_t reference_sequence(const unsigned char *p, size_t n)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
	if (!length || n < length)
		return 0;
	uint32_t code = length == 1 ? p[0] : p[0] & (0x7Fu >> length);
	for (size_t i = 1; i < length; i++) {
		if (p[i] >> 6 != 2)
			return 0;
		code = code << 6 | (p[i] & 0x3Fu);
	}
	return code < least[length] || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF ? 0 : length;
}

static void utf8_all_three_byte_texts(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 1u << 24; i++) {
		unsigned char b[3] = { (unsigned char)(i >> 16), (unsigned char)(i >> 8), (unsigned char)i };
		if (b[0] < 0x80 && b[1] < 0x80)
			continue;
		size_t want = 0, step;
		while (want < 3 && (step = reference_sequence(b + want, 3 - want)))
			want += step;
		if (tn_utf8_valid_prefix((char *)b, 3) != want)
			fail_msg("%02x %02x %02x", b[0], b[1], b[2]);
	}
}

static void utf8_four_bytes(void **state)
{
	static const unsigned char edges[] = { 0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF };
	enum { N = sizeof edges };
	(void)state;
	for (unsigned first = 0xF0; first <= 0xFF; first++)
		for (unsigned i = 0; i < N * N * N; i++) {
			unsigned char b[4] = { (unsigned char)first, edges[i % N], edges[i / N % N], edges[i / N / N] };
			size_t whole = reference_sequence(b, 4);
			size_t got = tn_utf8_valid_prefix((char *)b, 4);
			assert_int_equal(whole == 4, got == 4 && whole);
			for (size_t cut = 1; cut < 4 && whole == 4; cut++)
				assert_int_equal(tn_utf8_valid_prefix((char *)b, cut), 0);
		}
	assert_int_equal(tn_utf8_valid_prefix("", 0), 0);
	assert_int_equal(tn_utf8_valid_prefix("ab\xF0\x9F\x98\x80z\xED\xA0\x80", 10), 7);
}

static void beginnings_and_ends(void **state)
{
	(void)state;
	assert_true(tn_starts_with("model.layers", "model."));
	assert_true(tn_starts_with("x", ""));
	assert_false(tn_starts_with("mod", "model"));
	assert_true(tn_ends_with("a.safetensors", ".safetensors"));
	assert_false(tn_ends_with("tensors", ".safetensors"));
	assert_true(tn_ends_with("", ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(text_grows), TT_TEST(utf8_all_three_byte_texts),
					    TT_TEST(utf8_four_bytes), TT_TEST(beginnings_and_ends) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
