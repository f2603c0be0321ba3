/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers in text do not follow the program's locale. */
#include "testlib.h"

#include "base/numeral.h"
#include "base/text.h"
#include "store/json_text.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>

/* Where the system has a locale with a decimal comma, the tests run in it. */
static const char *const commas[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "pt_BR.UTF-8", "ru_RU.UTF-8", "de_DE", "fr_FR" };

static int take_a_comma(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof commas / sizeof *commas; i++)
		if (setlocale(LC_ALL, commas[i]))
			return 0;
	print_message("no locale with a decimal comma here: held in the locale C alone\n");
	return 0;
}

static void reads_a_point(void **state)
{
	(void)state;
	char *end;
	assert_true(tn_strtod("1.5e1;", &end) == 15);
	assert_string_equal(end, ";");
	assert_true(tn_strtod("2,5", &end) == 2);
	assert_string_equal(end, ",5");
}

static void writes_a_point(void **state)
{
	(void)state;
	char text[32];
	assert_int_equal(tn_snprintf(text, sizeof text, "%.2f|%g", 0.25, 1e-7), 10);
	assert_string_equal(text, "0.25|1e-07");
}

static void json_keeps_its_point(void **state)
{
	struct tt *t = *state;
	struct tn_text text;
	tn_text_init(&text, t->ctx);
	tt_ok(t, tn_json_add_double(&text, 0.1, &t->err));
	tt_ok(t, tn_text_printf(&text, &t->err, " %.1f", 2.5));
	assert_string_equal(text.data, "0.1 2.5");
	tn_text_release(&text);
}

static void leaves_the_locale(void **state)
{
	(void)state;
	char before[64];
	snprintf(before, sizeof before, "%.1f", 0.5);
	tn_strtod("0.5", NULL);
	char after[64];
	snprintf(after, sizeof after, "%.1f", 0.5);
	assert_string_equal(before, after);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_a_point),
		cmocka_unit_test(writes_a_point),
		TT_TEST(json_keeps_its_point),
		cmocka_unit_test(leaves_the_locale),
	};
	return cmocka_run_group_tests(tests, take_a_comma, NULL);
}
