/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void names_are_the_enumerators(void **state)
{
	(void)state;
	assert_string_equal(tn_status_name(TN_OK), "TN_OK");
	assert_string_equal(tn_status_name(TN_E_ARG), "TN_E_ARG");
	assert_string_equal(tn_status_name(TN_E_FORMAT), "TN_E_FORMAT");
	assert_string_equal(tn_status_name(TN_E_CANCELLED), "TN_E_CANCELLED");
	assert_string_equal(tn_status_name((tn_status)99), "TN_E_UNKNOWN");
	assert_string_equal(tn_status_name((tn_status)-1), "TN_E_UNKNOWN");
}

static void version_is_the_header_s(void **state)
{
	char text[32];
	(void)state;
	assert_string_equal(tn_version(), TN_VERSION_STRING);
	snprintf(text, sizeof text, "%d.%d.%d", TN_VERSION_MAJOR, TN_VERSION_MINOR, TN_VERSION_PATCH);
	assert_string_equal(tn_version(), text);
}

static void fields_are_filled(void **state)
{
	struct tn_error e;
	(void)state;
	memset(&e, 0x55, sizeof e);
	assert_int_equal(tn_fail_at(&e, TN_E_FORMAT, "w", 77, "found %d", 3), TN_E_FORMAT);
	assert_int_equal(e.code, TN_E_FORMAT);
	assert_int_equal(e.sys_errno, 0);
	assert_int_equal(e.pos, 77);
	assert_string_equal(e.where, "w");
	assert_string_equal(e.msg, "found 3");
	assert_int_equal(tn_fail(&e, TN_E_ARG, NULL, "x"), TN_E_ARG);
	assert_string_equal(e.where, "");
	assert_int_equal(e.pos, 0);
	assert_int_equal(tn_fail(NULL, TN_E_LIMIT, "w", "x"), TN_E_LIMIT);
	assert_int_equal(tn_fail_sys(NULL, EACCES, "w", "x"), TN_E_IO);
}

static void where_keeps_its_end(void **state)
{
	struct tn_error e;
	char name[400];
	(void)state;
	for (size_t n = 120; n < 140; n++) {
		memset(name, 'a', n);
		memcpy(name + n - 4, ".end", 5);
		tn_fail(&e, TN_E_ARG, name, "x");
		if (n < sizeof e.where) {
			assert_string_equal(e.where, name);
			continue;
		}
		assert_int_equal(strlen(e.where), sizeof e.where - 1);
		assert_memory_equal(e.where, "...", 3);
		assert_string_equal(e.where + 3, name + n - (sizeof e.where - 4));
	}
}

static void msg_is_cut_visibly(void **state)
{
	struct tn_error e;
	char long_text[1000];
	(void)state;
	for (size_t n = sizeof e.msg - 4; n < sizeof e.msg + 4; n++) {
		memset(long_text, 'm', n);
		long_text[n] = '\0';
		tn_fail(&e, TN_E_ARG, "w", "%s", long_text);
		if (n < sizeof e.msg) {
			assert_string_equal(e.msg, long_text);
			continue;
		}
		assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
		assert_string_equal(e.msg + sizeof e.msg - 4, "...");
	}
	memset(long_text, 'm', sizeof long_text - 1);
	long_text[sizeof long_text - 1] = '\0';
	assert_int_equal(tn_fail_sys(&e, EIO, long_text, "%s", long_text), TN_E_IO);
	assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
}

static void errno_chooses_the_code(void **state)
{
	struct tn_error e;
	(void)state;
	assert_int_equal(tn_fail_sys(&e, ENOENT, "p", "could not open"), TN_E_NOTFOUND);
	assert_int_equal(e.sys_errno, ENOENT);
	assert_string_equal(e.msg, "could not open: No such file or directory");
	assert_int_equal(tn_fail_sys(&e, ENOMEM, "p", "x"), TN_E_NOMEM);
	assert_int_equal(tn_fail_sys(&e, EACCES, "p", "x"), TN_E_IO);
	assert_int_equal(tn_fail_nomem(&e, "buffer", 12), TN_E_NOMEM);
	assert_non_null(strstr(e.msg, "12 bytes"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_the_enumerators), cmocka_unit_test(version_is_the_header_s),
		cmocka_unit_test(fields_are_filled),         cmocka_unit_test(where_keeps_its_end),
		cmocka_unit_test(msg_is_cut_visibly),        cmocka_unit_test(errno_chooses_the_code),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
