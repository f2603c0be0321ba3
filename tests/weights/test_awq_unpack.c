/* SPDX-License-Identifier: Apache-2.0 */
/* Codes and configurations of AutoAWQ, under the names of mlxrs (src/lm/quant/tests.rs). */
#include "support.h"

#include "tenon/foreign.h"

#include <string.h>

/* ---- unpacking ------------------------------------------------------------------------------------------- */

static struct tn_array words(tn_dtype dtype, uint64_t rows, uint64_t cols, void *data)
{
	return (struct tn_array){ dtype, 2, { rows, cols }, data, (size_t)(rows * cols * 4) };
}

static void unpacks_to(tn_dtype dtype, uint32_t word, const uint32_t want[8])
{
	struct tn_array in = words(dtype, 1, 1, &word), out;
	OK(tn_unpack_awq_weights(test_context(), &in, &out, err));
	assert_true(out.dtype == TN_U32 && out.rank == 2 && out.shape[0] == 1 && out.shape[1] == 8);
	assert_memory_equal(out.data, want, 8 * sizeof *want);
	tn_array_release(test_context(), &out);
}

static void unpack_awq_weights_single_int32_gives_8_nibbles(void **state)
{
	(void)state;
	unpacks_to(TN_I32, 0x0000FFFFu, (const uint32_t[]){ 15, 0, 15, 0, 15, 0, 15, 0 });
}

static void unpack_awq_weights_reverses_awq_scramble(void **state)
{
	(void)state;
	unpacks_to(TN_U32, 0x75316420u, (const uint32_t[]){ 0, 1, 2, 3, 4, 5, 6, 7 });
}

static void unpack_awq_weights_preserves_row_count_expands_cols_8x(void **state)
{
	uint32_t data[6] = { 1, 2, 3, 4, 5, 6 };
	struct tn_array in = words(TN_U32, 3, 2, data), out;
	(void)state;
	OK(tn_unpack_awq_weights(test_context(), &in, &out, err));
	assert_true(out.shape[0] == 3 && out.shape[1] == 16);
	assert_int_equal(((const uint32_t *)out.data)[32 + 8], 6);
	tn_array_release(test_context(), &out);
}

static void unpack_awq_weights_handles_zero_input(void **state)
{
	(void)state;
	unpacks_to(TN_U32, 0, (const uint32_t[8]){ 0 });
}

static void unpack_awq_weights_rejects_non_2d(void **state)
{
	uint32_t data[8] = { 0 };
	struct tn_array one = { TN_U32, 1, { 8 }, data, 32 }, three = { TN_U32, 3, { 2, 2, 2 }, data, 32 }, out;
	(void)state;
	FAILS(TN_E_FORMAT, "rank 1", tn_unpack_awq_weights(test_context(), &one, &out, err));
	FAILS(TN_E_FORMAT, "rank 3", tn_unpack_awq_weights(test_context(), &three, &out, err));
}

static void unpack_awq_weights_rejects_non_32bit_int_dtype(void **state)
{
	uint32_t data[4] = { 0 };
	struct tn_array in = words(TN_F32, 2, 2, data), out;
	(void)state;
	FAILS(TN_E_FORMAT, "F32", tn_unpack_awq_weights(test_context(), &in, &out, err));
}

static void unpack_awq_weights_accepts_i32_input(void **state)
{
	(void)state; /* negative as an I32 */
	unpacks_to(TN_I32, 0xF0FFFFFFu, (const uint32_t[]){ 15, 15, 15, 15, 15, 0, 15, 15 });
}

static void unpack_awq_weights_accepts_u32_input(void **state)
{
	(void)state;
	unpacks_to(TN_U32, 0xF0FFFFFFu, (const uint32_t[]){ 15, 15, 15, 15, 15, 0, 15, 15 });
}

/* ---- configurations -------------------------------------------------------------------------------------- */

static void awq_load_config_parses_quantization_json(void **state)
{
	struct tn_awq_config c;
	(void)state;
	OK(tn_awq_config_parse(test_context(), "{\"quant_method\": \"awq\", \"bits\": 8, \"group_size\": 64, "
			       "\"zero_point\": false, \"version\": \"gemv\"}", &c, err));
	assert_true(c.bits == 8 && c.group_size == 64 && !c.zero_point && strcmp(c.version, "gemv") == 0);
	FAILS(TN_E_FORMAT, "bits", tn_awq_config_parse(test_context(), "{\"bits\": \"4\"}", &c, err));
}

static void awq_load_config_defaults_when_keys_absent(void **state)
{
	struct tn_awq_config c;
	(void)state;
	OK(tn_awq_config_parse(test_context(), "{}", &c, err));
	assert_true(c.bits == 4 && c.group_size == 128 && c.zero_point && c.version[0] == '\0');
}

static void awq_load_config_default_matches_serde_default(void **state)
{
	struct tn_awq_config parsed, made = TN_AWQ_CONFIG_INIT;
	(void)state;
	OK(tn_awq_config_parse(test_context(), "{}", &parsed, err));
	assert_true(parsed.bits == made.bits && parsed.group_size == made.group_size);
	assert_true(parsed.zero_point == made.zero_point && strcmp(parsed.version, made.version) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unpack_awq_weights_single_int32_gives_8_nibbles),
		cmocka_unit_test(unpack_awq_weights_reverses_awq_scramble),
		cmocka_unit_test(unpack_awq_weights_preserves_row_count_expands_cols_8x),
		cmocka_unit_test(unpack_awq_weights_handles_zero_input),
		cmocka_unit_test(unpack_awq_weights_rejects_non_2d),
		cmocka_unit_test(unpack_awq_weights_rejects_non_32bit_int_dtype),
		cmocka_unit_test(unpack_awq_weights_accepts_i32_input),
		cmocka_unit_test(unpack_awq_weights_accepts_u32_input),
		cmocka_unit_test(awq_load_config_parses_quantization_json),
		cmocka_unit_test(awq_load_config_defaults_when_keys_absent),
		cmocka_unit_test(awq_load_config_default_matches_serde_default),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
