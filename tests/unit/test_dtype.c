/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "tenon/tenon.h"

#include <string.h>

/* safetensors 0.8, tensor.rs: the order of the enum is the order of the writer. */
static const struct {
	const char *name;
	unsigned bits;
	int is_float;
} expected[] = {
	{ "BOOL", 8, 0 },       { "F4", 4, 1 },         { "F6_E2M3", 6, 1 }, { "F6_E3M2", 6, 1 }, { "U8", 8, 0 },
	{ "I8", 8, 0 },         { "F8_E5M2", 8, 1 },    { "F8_E4M3", 8, 1 }, { "F8_E8M0", 8, 0 }, { "F8_E4M3FNUZ", 8, 1 },
	{ "F8_E5M2FNUZ", 8, 1 }, { "I16", 16, 0 },      { "U16", 16, 0 },    { "F16", 16, 1 },    { "BF16", 16, 1 },
	{ "I32", 32, 0 },       { "U32", 32, 0 },       { "F32", 32, 1 },    { "C64", 64, 0 },    { "F64", 64, 1 },
	{ "I64", 64, 0 },       { "U64", 64, 0 },
};

static void table_is_the_format_s(void **state)
{
	(void)state;
	assert_int_equal(sizeof expected / sizeof *expected, TN_DTYPE_COUNT);
	for (int i = 0; i < TN_DTYPE_COUNT; i++) {
		tn_dtype back = TN_U64;
		assert_string_equal(tn_dtype_name((tn_dtype)i), expected[i].name);
		assert_int_equal(tn_dtype_bits((tn_dtype)i), expected[i].bits);
		assert_int_equal(tn_dtype_is_float((tn_dtype)i), expected[i].is_float);
		assert_int_equal(tn_dtype_from_name(expected[i].name, &back, NULL), TN_OK);
		assert_int_equal(back, i);
	}
}

static void other_names_are_refused(void **state)
{
	static const char *const names[] = { "", "bf16", "F", "F3", "F322", "BF16 ", "F8", "float32" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		tn_dtype out = TN_C64;
		tt_expect(t, tn_dtype_from_name(names[i], &out, &t->err), TN_E_NOTFOUND);
		assert_int_equal(out, TN_C64);
		tt_expect_msg(t, names[i]);
	}
}

static void outside_of_the_enum(void **state)
{
	(void)state;
	assert_string_equal(tn_dtype_name((tn_dtype)TN_DTYPE_COUNT), "unknown");
	assert_int_equal(tn_dtype_bits((tn_dtype)-1), 0);
	assert_string_equal(tn_status_name((tn_status)99), "TN_E_UNKNOWN");
	const char *const names[] = {
		tn_adapter_dialect_name((tn_adapter_dialect)99), tn_module_kind_name((tn_module_kind)99), tn_init_name((tn_init)99),
		tn_fine_tune_name((tn_fine_tune)99), tn_combination_name((tn_combination)99), tn_action_name((tn_action)99),
		tn_rounding_name((tn_rounding)99), tn_verdict_name((tn_verdict)99), tn_recode_action_name((tn_recode_action)99),
		tn_combination_name((tn_combination)-1),
	};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		assert_string_equal(names[i], "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(table_is_the_format_s), TT_TEST(other_names_are_refused),
					    TT_TEST(outside_of_the_enum) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
