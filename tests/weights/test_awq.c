/* SPDX-License-Identifier: Apache-2.0 */
/* AutoAWQ on load. The tests keep the names that they have in mlxrs (src/lm/quant/tests.rs); docs/coverage-quant.md lists
 * them all. */
#include "support.h"

#include "base/half.h"
#include "tenon/foreign.h"

#include <stdio.h>
#include <string.h>

/* ---- maps ------------------------------------------------------------------------------------------------ */

static const struct tn_awq_config four = { 4, 4, 1, "" }; /* group size 4 */

static void put(tn_weight_map *map, const char *layer, const char *suffix, tn_dtype dtype, uint64_t a, uint64_t b,
		const void *data)
{
	char name[64];
	snprintf(name, sizeof name, "%s.%s", layer, suffix);
	map_put(map, name, dtype, a, b, 0, data);
}

static uint16_t half_of(tn_dtype dtype, float x)
{
	return dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
}

/* scales [2, 8], all of one value */
static void put_scales(tn_weight_map *map, const char *layer, tn_dtype dtype, float value)
{
	unsigned char data[16 * 8];
	for (int i = 0; i < 16; i++) {
		double d = value;
		uint16_t h = half_of(dtype, value);
		if (dtype == TN_F64)
			memcpy(data + i * 8, &d, 8);
		else if (dtype == TN_F32)
			memcpy(data + i * 4, &value, 4);
		else
			memcpy(data + i * 2, &h, 2);
	}
	put(map, layer, "scales", dtype, 2, 8, data);
}

/* A layer of 8 inputs and 8 outputs in groups of 4. */
static void put_layer(tn_weight_map *map, const char *layer, tn_dtype word, tn_dtype scale, float value, int zeros)
{
	uint32_t codes[8], zero[2] = { 0x88888888u, 0x75316420u };
	for (uint32_t i = 0; i < 8; i++)
		codes[i] = 0x75316420u + i * 0x11111111u;
	put(map, layer, "qweight", word, 8, 1, codes);
	put_scales(map, layer, scale, value);
	if (zeros)
		put(map, layer, "qzeros", word, 2, 1, zero);
}

static tn_weight_map *one_layer(tn_dtype scale)
{
	tn_weight_map *map = map_new();
	put_layer(map, "layer", TN_U32, scale, 0.5f, 1);
	return map;
}

static struct tn_quantization transform(tn_weight_map *map, const struct tn_awq_config *config)
{
	struct tn_quantization q = { 0 };
	OK(tn_transform_awq_weights(map, config, &q, err));
	return q;
}

/* Fails with that code, naming `where`, and leaves the map as it is; ends the map. */
static void refused(tn_weight_map *map, const struct tn_awq_config *config, tn_status code, const char *where)
{
	struct tn_error e = { 0 };
	uint64_t before = map_digest(map);
	tn_status status = tn_transform_awq_weights(map, config, NULL, &e);
	if (status != code || strcmp(e.where, where) != 0 || !e.msg[0])
		fail_msg("%s, where %s: %s; %s, %s were expected", tn_status_name(status), e.where, e.msg, tn_status_name(code), where);
	assert_true(map_digest(map) == before);
	tn_weight_map_destroy(map);
}

/* Converts, and checks what became of the layer in that dtype. Ends the map. */
static void converted(tn_weight_map *map, const struct tn_awq_config *config, tn_dtype dtype)
{
	transform(map, config);
	map_expect(map, "layer.weight", TN_U32, 8, 1, 0);
	map_expect(map, "layer.scales", dtype, 8, 2, 0);
	map_expect(map, "layer.biases", dtype, 8, 2, 0);
	assert_false(map_has(map, "layer.qweight") || map_has(map, "layer.qzeros"));
	tn_weight_map_destroy(map);
}

/* ---- what is converted ----------------------------------------------------------------------------------- */

static void transform_awq_weights_round_trips_known_fixture(void **state)
{
	tn_weight_map *map = one_layer(TN_F32);
	(void)state;
	struct tn_quantization q = transform(map, &four);
	assert_true(q.group_size == 4 && q.bits == 4 && strcmp(q.mode, "affine") == 0);
	const uint32_t *codes = map_expect(map, "layer.weight", TN_U32, 8, 1, 0);
	const float *scales = map_expect(map, "layer.scales", TN_F32, 8, 2, 0);
	const float *biases = map_expect(map, "layer.biases", TN_F32, 8, 2, 0);
	for (uint32_t n = 0; n < 8; n++)
		for (uint32_t k = 0; k < 8; k++) {
			float code = (float)(codes[n] >> 4 * k & 15), zero = k < 4 ? 8 : (float)n;
			/* at input k output n has code n + k modulo 16, with a carry into the next nibble only beyond 15 */
			assert_true(code == (float)(n + k));
			assert_true(code * scales[n * 2 + k / 4] + biases[n * 2 + k / 4] == (code - zero) * 0.5f);
		}
	assert_false(map_has(map, "layer.qweight") || map_has(map, "layer.qzeros"));
	tn_weight_map_destroy(map);
}

static void transform_awq_weights_handles_multiple_layers(void **state)
{
	tn_weight_map *map = map_new();
	(void)state;
	put_layer(map, "a", TN_U32, TN_F16, 0.5f, 1);
	put_layer(map, "b", TN_I32, TN_F16, 0.25f, 1);
	map_put(map, "norm.weight", TN_F16, 8, 0, 0, NULL);
	transform(map, &four);
	map_expect(map, "a.weight", TN_U32, 8, 1, 0);
	map_expect(map, "b.weight", TN_U32, 8, 1, 0);
	map_expect(map, "norm.weight", TN_F16, 8, 0, 0);
	assert_int_equal(tn_weight_map_count(map), 7);
	tn_weight_map_destroy(map);
}

/* Biases are -8 * scale. */
static void symmetric(tn_weight_map *map, const struct tn_awq_config *config)
{
	transform(map, config);
	const uint16_t *scales = map_expect(map, "layer.scales", TN_F16, 8, 2, 0);
	const uint16_t *biases = map_expect(map, "layer.biases", TN_F16, 8, 2, 0);
	for (int i = 0; i < 16; i++)
		assert_true(tn_f32_from_f16(biases[i]) == -8 * tn_f32_from_f16(scales[i]));
	assert_false(map_has(map, "layer.qzeros"));
	tn_weight_map_destroy(map);
}

static void transform_awq_weights_symmetric_uses_implicit_zero(void **state)
{
	struct tn_awq_config config = four;
	(void)state;
	config.zero_point = 0;
	symmetric(one_layer(TN_F16), &config);
}

static void transform_awq_weights_zero_point_true_without_qzeros_uses_symmetric(void **state)
{
	tn_weight_map *map = map_new();
	(void)state;
	put_layer(map, "layer", TN_U32, TN_F16, 0.5f, 0);
	symmetric(map, &four);
}

static void transform_awq_weights_empty_input_is_noop(void **state)
{
	tn_weight_map *map = map_new();
	struct tn_awq_config config = TN_AWQ_CONFIG_INIT;
	(void)state;
	map_put(map, "norm.weight", TN_F16, 8, 0, 0, NULL);
	uint64_t before = map_digest(map);
	struct tn_quantization q = transform(map, &config);
	assert_true(q.group_size == 128 && q.bits == 4 && strcmp(q.mode, "affine") == 0);
	assert_true(map_digest(map) == before);
	tn_weight_map_destroy(map);
}

static void transform_awq_weights_accepts_empty_version(void **state)
{
	(void)state;
	converted(one_layer(TN_F16), &four, TN_F16);
}

static void transform_awq_weights_accepts_gemm_version(void **state)
{
	struct tn_awq_config config = { 4, 4, 1, "gemm" };
	(void)state;
	converted(one_layer(TN_F16), &config, TN_F16);
}

static void transform_awq_weights_accepts_i32_qweight_and_qzeros(void **state)
{
	tn_weight_map *map = map_new();
	(void)state;
	put_layer(map, "layer", TN_I32, TN_F16, 0.5f, 1);
	converted(map, &four, TN_F16);
}

static void transform_awq_weights_preserves_bit_pattern_on_i32_input(void **state)
{
	uint64_t digests[2];
	(void)state;
	for (int i = 0; i < 2; i++) {
		tn_weight_map *map = map_new();
		put_layer(map, "layer", i ? TN_I32 : TN_U32, TN_F16, 0.5f, 1);
		transform(map, &four);
		digests[i] = map_digest(map);
		tn_weight_map_destroy(map);
	}
	assert_true(digests[0] == digests[1]);
}

static void transform_awq_weights_accepts_unrelated_weight_keys(void **state)
{
	tn_weight_map *map = one_layer(TN_F16);
	(void)state;
	map_put(map, "other.weight", TN_F16, 8, 8, 0, NULL);
	map_put(map, "other.biases", TN_F16, 8, 8, 0, NULL);
	converted(map, &four, TN_F16);
}

static void transform_awq_weights_orphan_scales_and_qzeros_pass_through(void **state)
{
	tn_weight_map *map = map_new();
	(void)state;
	put_scales(map, "orphan", TN_F16, 1);
	put(map, "orphan", "qzeros", TN_I32, 2, 1, NULL);
	uint64_t before = map_digest(map);
	transform(map, &four);
	assert_true(map_digest(map) == before);
	tn_weight_map_destroy(map);
}

/* ---- dtypes ---------------------------------------------------------------------------------------------- */

static void floating_dtype_precision_rank_orders_and_sentinels(void **state)
{
	(void)state;
	assert_true(tn_awq_precision_rank(TN_F64) > tn_awq_precision_rank(TN_F32));
	assert_true(tn_awq_precision_rank(TN_F32) > tn_awq_precision_rank(TN_BF16));
	assert_true(tn_awq_precision_rank(TN_BF16) > tn_awq_precision_rank(TN_F16));
	assert_true(tn_awq_precision_rank(TN_F16) > 0);
	assert_true(tn_awq_precision_rank(TN_I32) == 0 && tn_awq_precision_rank(TN_U8) == 0);
}

/* Layers a, b, ... with scales of these dtypes; TN_DTYPE_COUNT ends the list. */
static tn_dtype resolved(const tn_dtype *dtypes)
{
	tn_weight_map *map = map_new();
	tn_dtype out;
	for (int i = 0; dtypes[i] != TN_DTYPE_COUNT; i++) {
		char layer[2] = { (char)('a' + i), '\0' };
		put_layer(map, layer, TN_U32, dtypes[i], 0.5f, 1);
	}
	OK(tn_awq_model_dtype(map, &out, err));
	tn_weight_map_destroy(map);
	return out;
}
#define RESOLVED(...) resolved((const tn_dtype[]){ __VA_ARGS__, (tn_dtype)TN_DTYPE_COUNT })

static void resolve_awq_model_dtype_uses_highest_when_hierarchical(void **state)
{
	(void)state;
	assert_int_equal(RESOLVED(TN_F32, TN_F16), TN_F32);
	assert_int_equal(RESOLVED(TN_BF16, TN_F64), TN_F64);
}

static void resolve_awq_model_dtype_escalates_f16_plus_bf16_to_f32(void **state)
{
	(void)state;
	assert_int_equal(RESOLVED(TN_F16, TN_BF16), TN_F32);
	assert_int_equal(RESOLVED(TN_BF16, TN_F16), TN_F32);
}

static void resolve_awq_model_dtype_escalates_f16_plus_bf16_plus_f32_stays_at_f32(void **state)
{
	(void)state;
	assert_int_equal(RESOLVED(TN_F16, TN_BF16, TN_F32), TN_F32);
}

static void resolve_awq_model_dtype_escalates_f16_plus_bf16_with_f64_stays_at_f64(void **state)
{
	(void)state;
	assert_int_equal(RESOLVED(TN_F16, TN_F64, TN_BF16), TN_F64);
}

/* 1 + 2^-10 is an F16 and no BF16. */
static void keeps_precision(const char *half, const char *brain)
{
	tn_weight_map *map = map_new();
	char name[64];
	put_layer(map, half, TN_U32, TN_F16, 1 + 0x1p-10f, 1);
	put_layer(map, brain, TN_U32, TN_BF16, 0.5f, 1);
	transform(map, &four);
	snprintf(name, sizeof name, "%s.scales", half);
	const float *scales = map_expect(map, name, TN_F32, 8, 2, 0);
	assert_true(scales[0] == 1 + 0x1p-10f);
	snprintf(name, sizeof name, "%s.biases", brain);
	map_expect(map, name, TN_F32, 8, 2, 0);
	tn_weight_map_destroy(map);
}

static void transform_awq_weights_preserves_f16_precision_when_mixed_with_bf16(void **state)
{
	(void)state;
	keeps_precision("a", "b");
}

static void transform_awq_weights_preserves_f16_precision_with_bf16_in_reversed_prefix_order(void **state)
{
	(void)state;
	keeps_precision("b", "a");
}

/* Layers of both half dtypes beside a dense tensor of `dtype`: that one stays, byte for byte. */
static void passes_through(tn_dtype dtype)
{
	tn_weight_map *map = map_new();
	const void *data;
	uint16_t before[32];
	put_layer(map, "a", TN_U32, TN_F16, 0.5f, 1);
	put_layer(map, "b", TN_U32, TN_BF16, 0.5f, 1);
	map_put(map, "embed.weight", dtype, 4, 8, 0, NULL);
	tn_weight_map_find(map, "embed.weight", &data);
	memcpy(before, data, sizeof before);
	transform(map, &four);
	const struct tn_tensor *t = tn_weight_map_find(map, "embed.weight", &data);
	assert_true(t->dtype == dtype && t->bytes == sizeof before);
	assert_memory_equal(data, before, sizeof before);
	map_expect(map, "a.scales", TN_F32, 8, 2, 0);
	map_expect(map, "b.scales", TN_F32, 8, 2, 0);
	tn_weight_map_destroy(map);
}

static void transform_awq_weights_does_not_widen_passthrough_bf16_tensor(void **state)
{
	(void)state;
	passes_through(TN_BF16);
}

static void transform_awq_weights_does_not_widen_passthrough_f16_tensor_when_mixed_with_bf16_awq_scales(void **state)
{
	(void)state;
	passes_through(TN_F16);
}

static void transform_awq_weights_widens_only_generated_scales_and_biases(void **state)
{
	tn_weight_map *map = one_layer(TN_BF16);
	(void)state;
	map_put(map, "norm.weight", TN_F16, 8, 0, 0, NULL);
	transform(map, &four);
	map_expect(map, "layer.scales", TN_BF16, 8, 2, 0);
	map_expect(map, "layer.biases", TN_BF16, 8, 2, 0);
	map_expect(map, "norm.weight", TN_F16, 8, 0, 0);
	tn_weight_map_destroy(map);
}

static void transform_awq_weights_preserves_resident_size_for_passthrough(void **state)
{
	(void)state;
	passes_through(TN_BF16); /* its bytes are counted there */
	passes_through(TN_F16);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void refused_config(struct tn_awq_config config, tn_status code, const char *where)
{
	refused(one_layer(TN_F16), &config, code, where);
}

static void transform_awq_weights_rejects_non_4_bits(void **state)
{
	(void)state;
	refused_config((struct tn_awq_config){ 8, 4, 1, "" }, TN_E_ARG, "bits");
}

static void transform_awq_weights_rejects_gemv_version(void **state)
{
	(void)state;
	refused_config((struct tn_awq_config){ 4, 4, 1, "gemv" }, TN_E_UNSUPPORTED, "version");
}

static void transform_awq_weights_rejects_unknown_version(void **state)
{
	(void)state;
	refused_config((struct tn_awq_config){ 4, 4, 1, "marlin-2" }, TN_E_UNSUPPORTED, "version");
}

static void transform_awq_weights_group_size_overflows_i32_errors(void **state)
{
	(void)state;
	refused_config((struct tn_awq_config){ 4, (int64_t)INT32_MAX + 1, 1, "" }, TN_E_ARG, "group_size");
}

static void transform_awq_weights_rejects_zero_group_size(void **state)
{
	(void)state;
	refused_config((struct tn_awq_config){ 4, 0, 1, "" }, TN_E_ARG, "group_size");
}

static void transform_awq_weights_rejects_indivisible_in_features(void **state)
{
	(void)state;
	refused_config((struct tn_awq_config){ 4, 3, 1, "" }, TN_E_FORMAT, "layer.qweight");
}

static void transform_awq_weights_rejects_missing_scales(void **state)
{
	tn_weight_map *map = map_new();
	(void)state;
	put(map, "layer", "qweight", TN_U32, 8, 1, NULL);
	refused(map, &four, TN_E_NOTFOUND, "layer.qweight");
}

/* One tensor of the layer replaced. */
static void replaced(const char *suffix, tn_dtype dtype, uint64_t a, uint64_t b)
{
	tn_weight_map *map = one_layer(TN_F16);
	char name[64];
	put(map, "layer", suffix, dtype, a, b, NULL);
	snprintf(name, sizeof name, "layer.%s", suffix);
	refused(map, &four, TN_E_FORMAT, name);
}

static void transform_awq_weights_rejects_mismatched_shapes(void **state)
{
	(void)state;
	replaced("scales", TN_F16, 1, 8);
	replaced("scales", TN_F16, 2, 7);
}

static void transform_awq_weights_rejects_integer_scales_dtype(void **state)
{
	(void)state;
	replaced("scales", TN_I32, 2, 8);
}

static void transform_awq_weights_rejects_uint_scales_dtype(void **state)
{
	(void)state;
	replaced("scales", TN_U8, 2, 8);
}

static void transform_awq_weights_rejects_non_int_qweight_dtype(void **state)
{
	(void)state;
	replaced("qweight", TN_F32, 8, 1);
}

static void transform_awq_weights_rejects_non_2d_qweight(void **state)
{
	(void)state;
	replaced("qweight", TN_U32, 8, 0);
}

static void transform_awq_weights_rejects_non_2d_scales(void **state)
{
	(void)state;
	replaced("scales", TN_F16, 16, 0);
}

static void transform_awq_weights_rejects_non_int_qzeros_dtype(void **state)
{
	(void)state;
	replaced("qzeros", TN_F32, 2, 1);
}

static void transform_awq_weights_rejects_mismatched_qzeros_shape(void **state)
{
	(void)state;
	replaced("qzeros", TN_U32, 1, 1);
	replaced("qzeros", TN_U32, 2, 2);
}

/* A further tensor beside the layer. */
static void beside(const char *suffix, const char *other, const char *where)
{
	tn_weight_map *map = one_layer(TN_F16);
	put(map, "layer", suffix, TN_F16, 8, 2, NULL);
	if (other)
		put(map, "layer", other, TN_F16, 8, 2, NULL);
	refused(map, &four, TN_E_FORMAT, where);
}

static void transform_awq_weights_rejects_g_idx(void **state)
{
	(void)state;
	beside("g_idx", NULL, "layer.g_idx");
}

static void transform_awq_weights_rejects_collision_with_stale_weight(void **state)
{
	(void)state;
	beside("weight", NULL, "layer.weight");
}

static void transform_awq_weights_rejects_collision_with_stale_biases(void **state)
{
	(void)state;
	beside("biases", NULL, "layer.biases");
}

static void transform_awq_weights_rejects_collision_with_both_stale_keys(void **state)
{
	(void)state;
	beside("weight", "biases", "layer.weight");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transform_awq_weights_round_trips_known_fixture),
		cmocka_unit_test(transform_awq_weights_handles_multiple_layers),
		cmocka_unit_test(transform_awq_weights_symmetric_uses_implicit_zero),
		cmocka_unit_test(transform_awq_weights_zero_point_true_without_qzeros_uses_symmetric),
		cmocka_unit_test(transform_awq_weights_empty_input_is_noop),
		cmocka_unit_test(transform_awq_weights_accepts_empty_version),
		cmocka_unit_test(transform_awq_weights_accepts_gemm_version),
		cmocka_unit_test(transform_awq_weights_accepts_i32_qweight_and_qzeros),
		cmocka_unit_test(transform_awq_weights_preserves_bit_pattern_on_i32_input),
		cmocka_unit_test(transform_awq_weights_accepts_unrelated_weight_keys),
		cmocka_unit_test(transform_awq_weights_orphan_scales_and_qzeros_pass_through),
		cmocka_unit_test(floating_dtype_precision_rank_orders_and_sentinels),
		cmocka_unit_test(resolve_awq_model_dtype_uses_highest_when_hierarchical),
		cmocka_unit_test(resolve_awq_model_dtype_escalates_f16_plus_bf16_to_f32),
		cmocka_unit_test(resolve_awq_model_dtype_escalates_f16_plus_bf16_plus_f32_stays_at_f32),
		cmocka_unit_test(resolve_awq_model_dtype_escalates_f16_plus_bf16_with_f64_stays_at_f64),
		cmocka_unit_test(transform_awq_weights_preserves_f16_precision_when_mixed_with_bf16),
		cmocka_unit_test(transform_awq_weights_preserves_f16_precision_with_bf16_in_reversed_prefix_order),
		cmocka_unit_test(transform_awq_weights_does_not_widen_passthrough_bf16_tensor),
		cmocka_unit_test(transform_awq_weights_does_not_widen_passthrough_f16_tensor_when_mixed_with_bf16_awq_scales),
		cmocka_unit_test(transform_awq_weights_widens_only_generated_scales_and_biases),
		cmocka_unit_test(transform_awq_weights_preserves_resident_size_for_passthrough),
		cmocka_unit_test(transform_awq_weights_rejects_non_4_bits),
		cmocka_unit_test(transform_awq_weights_rejects_gemv_version),
		cmocka_unit_test(transform_awq_weights_rejects_unknown_version),
		cmocka_unit_test(transform_awq_weights_group_size_overflows_i32_errors),
		cmocka_unit_test(transform_awq_weights_rejects_zero_group_size),
		cmocka_unit_test(transform_awq_weights_rejects_indivisible_in_features),
		cmocka_unit_test(transform_awq_weights_rejects_missing_scales),
		cmocka_unit_test(transform_awq_weights_rejects_mismatched_shapes),
		cmocka_unit_test(transform_awq_weights_rejects_integer_scales_dtype),
		cmocka_unit_test(transform_awq_weights_rejects_uint_scales_dtype),
		cmocka_unit_test(transform_awq_weights_rejects_non_int_qweight_dtype),
		cmocka_unit_test(transform_awq_weights_rejects_non_2d_qweight),
		cmocka_unit_test(transform_awq_weights_rejects_non_2d_scales),
		cmocka_unit_test(transform_awq_weights_rejects_non_int_qzeros_dtype),
		cmocka_unit_test(transform_awq_weights_rejects_mismatched_qzeros_shape),
		cmocka_unit_test(transform_awq_weights_rejects_g_idx),
		cmocka_unit_test(transform_awq_weights_rejects_collision_with_stale_weight),
		cmocka_unit_test(transform_awq_weights_rejects_collision_with_stale_biases),
		cmocka_unit_test(transform_awq_weights_rejects_collision_with_both_stale_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
