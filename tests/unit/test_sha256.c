/* SPDX-License-Identifier: Apache-2.0 */
/* FIPS 180-4's examples, with the instructions of the CPU and without, in pieces of every size. */
#include "testlib.h"

#include "base/sha256.h"

#include <stdio.h>
#include <string.h>

static void digest_of(const char *bytes, size_t n, size_t piece, int by_instructions, char hex[65])
{
	struct tn_sha256 h;
	unsigned char digest[32];
	tn_sha256_init(&h);
	h.by_instructions &= by_instructions;
	for (size_t at = 0; at < n; at += piece)
		tn_sha256_add(&h, bytes + at, n - at < piece ? n - at : piece);
	tn_sha256_finish(&h, digest);
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

static void check(const char *bytes, size_t n, const char *expected)
{
	char hex[65];
	for (int by_instructions = 0; by_instructions < 2; by_instructions++)
		for (size_t piece = 1; piece <= (n < 300 ? n + 1 : 300); piece++) {
			digest_of(bytes, n, piece, by_instructions, hex);
			assert_string_equal(hex, expected);
		}
}

static void test_examples(void **state)
{
	static char many[1000000];
	char hex[65];
	(void)state;
	check("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	check("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	check("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
	      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	check("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu", 112,
	      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
	memset(many, 'a', sizeof many);
	for (int by_instructions = 0; by_instructions < 2; by_instructions++)
		for (size_t piece = 63; piece <= sizeof many; piece = piece < 1000 ? piece * 7 : piece * 31) {
			digest_of(many, sizeof many, piece, by_instructions, hex);
			assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
		}
}

/* Every length around the borders of blocks, both ways. */
static void test_both_ways_agree(void **state)
{
	char bytes[400], a[65], b[65];
	(void)state;
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)(i * 37 + 11);
	for (size_t n = 0; n <= sizeof bytes; n++) {
		digest_of(bytes, n, 1, 0, a);
		digest_of(bytes, n, n + 1, 1, b);
		assert_string_equal(a, b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_examples), cmocka_unit_test(test_both_ways_agree) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
