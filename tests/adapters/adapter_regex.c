/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns mean what they mean in Python; SHA-256 is that of FIPS 180-4. */
#include "adapterlib.h"

#include "base/regex.h"
#include "base/sha256.h"

#include <string.h>

static void fullmatch_and_match(void **state)
{
	static const struct {
		const char *pattern, *text;
		int full, begin;
	} rows[] = {
		{ "a|ab", "ab", 1, 1 }, { "a*?", "aaa", 1, 1 }, { "b", "ab", 0, 0 }, { "a", "ab", 0, 1 }, { "^a$", "a", 1, 1 },
		{ "a\\Z", "a", 1, 1 }, { "(?!x)a", "a", 1, 1 }, { "(?P<n>a)(?P=n)", "aa", 1, 1 }, { "(?i)AB", "ab", 1, 1 },
		{ "a.c", "abc", 1, 1 }, { "a\\.c", "abc", 0, 0 }, { "[^.]*", "a.b", 0, 1 }, { "", "", 1, 1 }, { "\\\\Z", "\\Z", 1, 1 },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct tn_regex *r;
		int full, begin;
		al_ok(t, tn_regex_compile(t->ctx, rows[i].pattern, "test", "key", &r, &t->err));
		al_ok(t, tn_regex_full(r, rows[i].text, &full, &t->err));
		al_ok(t, tn_regex_begin(r, rows[i].text, &begin, NULL, NULL, &t->err));
		if (full != rows[i].full || begin != rows[i].begin)
			fail_msg("'%s' on '%s': %d %d", rows[i].pattern, rows[i].text, full, begin);
		tn_regex_free(r);
	}
}

static void groups_and_errors(void **state)
{
	struct al *t = *state;
	struct tn_regex *r;
	const char *group;
	size_t n;
	int matched;
	al_ok(t, tn_regex_compile(t->ctx, ".*?\\.(\\d+)\\.", "test", "key", &r, &t->err));
	al_ok(t, tn_regex_begin(r, "a.12.b.7.c", &matched, &group, &n, &t->err));
	assert_true(matched && n == 2 && memcmp(group, "12", 2) == 0);
	tn_regex_free(r);
	al_expect(t, tn_regex_compile(t->ctx, "a(b", "the file", "the key", &r, &t->err), TN_E_FORMAT);
	al_expect_named(t, "the key");
	al_ok(t, tn_regex_compile(t->ctx, "(a+)+$", "test", "key", &r, &t->err));
	al_expect(t, tn_regex_full(r, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", &matched, &t->err), TN_E_LIMIT);
	tn_regex_free(r);
}

static void check_digest(const char *text, size_t repeat, const char *expected)
{
	struct tn_sha256 h;
	unsigned char digest[32];
	char hex[65];
	tn_sha256_init(&h);
	for (size_t i = 0; i < repeat; i++)
		tn_sha256_add(&h, text, strlen(text));
	tn_sha256_finish(&h, digest);
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	assert_string_equal(hex, expected);
}

static void sha256_of_the_standard(void **state)
{
	(void)state;
	check_digest("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	check_digest("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	check_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
		     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	check_digest("a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

int main(void)
{
	const struct CMUnitTest tests[] = { AL_TEST(fullmatch_and_match), AL_TEST(groups_and_errors),
					    AL_TEST(sha256_of_the_standard) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
