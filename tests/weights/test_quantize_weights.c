/* SPDX-License-Identifier: Apache-2.0 */
/* Quantizing and dequantizing maps of weights. The tests keep the names that they have in mlxrs
 * (src/lm/quant/tests.rs); docs/coverage-quant.md lists them all. */
#include "support.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int never(void *user, const char *layer, const struct tn_tensor *weight)
{
	(void)user;
	(void)layer;
	(void)weight;
	return 0;
}

static int only(void *user, const char *layer, const struct tn_tensor *weight)
{
	(void)weight;
	return strcmp(layer, user) == 0;
}

/* The call fails with that code and text, names the layer, and the map is as it was. Ends map and configuration. */
static void refused(tn_weight_map *map, tn_quant_config *config, int dequantize, tn_status code, const char *layer,
		    const char *text)
{
	struct tn_error e = { 0 };
	uint64_t before = map_digest(map);
	tn_status status = dequantize ? tn_dequantize_weights(map, config, NULL, &e)
				      : tn_quantize_weights(map, config, NULL, &e);
	if (status != code || !contains(e.msg, text) || strcmp(e.where, layer) != 0)
		fail_msg("%s, where %s: %s; expected %s, %s, \"%s\"", tn_status_name(status), e.where, e.msg,
			 tn_status_name(code), layer, text);
	assert_true(map_digest(map) == before);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

/* The call succeeds and changes nothing. Ends map and configuration. */
static void untouched(tn_weight_map *map, tn_quant_config *config, int dequantize)
{
	uint64_t before = map_digest(map);
	if (dequantize)
		OK(tn_dequantize_weights(map, config, NULL, err));
	else
		OK(tn_quantize_weights(map, config, NULL, err));
	assert_true(map_digest(map) == before);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

/* "l" as a triple: weight [rows, words] U32, scales and, when asked for, biases. */
static tn_weight_map *triple(uint64_t rows, uint64_t words, uint64_t groups, int biases)
{
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, rows, words, 0, NULL);
	map_put(map, "l.scales", TN_F32, rows, groups, 0, NULL);
	if (biases)
		map_put(map, "l.biases", TN_F32, rows, groups, 0, NULL);
	return map;
}

static tn_quant_config *empty_config(void)
{
	tn_quant_config *config;
	OK(tn_quant_config_create(test_context(), NULL, &config, err));
	return config;
}

static tn_quant_config *with_layer(tn_quant_config *config, const char *layer, const struct tn_quantization *q)
{
	OK(tn_quant_config_set(config, layer, q, err));
	return config;
}

static const struct tn_quantization mxfp4 = { 32, 4, "mxfp4", 0 };

/* ---- quantize: what is chosen ---------------------------------------------------------------------------- */

static void quantize_weights_applies_to_eligible_and_skips_rest(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(64, 4, NULL);
	map_put(map, "a.weight", TN_F32, 3, 64, 0, NULL);
	map_put(map, "b.weight", TN_F32, 3, 64, 0, NULL);
	map_put(map, "a.bias", TN_F32, 3, 0, 0, NULL);
	map_put(map, "odd.weight", TN_F32, 3, 65, 0, NULL);
	map_put(map, "norm.weight", TN_F32, 64, 0, 0, NULL);
	map_put(map, "table", TN_F32, 3, 64, 0, NULL);
	map_put(map, "q.weight", TN_U32, 3, 8, 0, NULL);
	map_put(map, "q.scales", TN_F32, 3, 1, 0, NULL);
	map_put(map, "q.biases", TN_F32, 3, 1, 0, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	for (const char *layer = "a"; layer; layer = *layer == 'a' ? "b" : NULL) {
		char name[16];
		for (int i = 0; i < 3; i++) {
			static const char *const parts[] = { "weight", "scales", "biases" };
			strcpy(name, layer);
			strcat(name, ".");
			strcat(name, parts[i]);
			map_expect(map, name, i ? TN_F32 : TN_U32, 3, i ? 1 : 8, 0);
		}
	}
	map_expect(map, "a.bias", TN_F32, 3, 0, 0);
	map_expect(map, "odd.weight", TN_F32, 3, 65, 0);
	map_expect(map, "norm.weight", TN_F32, 64, 0, 0);
	map_expect(map, "table", TN_F32, 3, 64, 0);
	assert_int_equal(tn_weight_map_count(map), 13);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void quantize_weights_per_layer_skip_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 2, 64, 0, NULL);
	untouched(map, with_layer(config_new(64, 4, NULL), "l", NULL), 0);
}

static void quantize_weights_per_layer_override_uses_override_params(void **state)
{
	const struct tn_quantization q = { 32, 4, NULL, 0 };
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = with_layer(config_new(64, 8, NULL), "l", &q);
	map_put(map, "l.weight", TN_F32, 2, 32, 0, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	map_expect(map, "l.scales", TN_F32, 2, 1, 0);
	map_expect(map, "l.weight", TN_U32, 2, 4, 0);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void quantize_weights_predicate_rejected_passes_through(void **state)
{
	const struct tn_quantize_options options = { .eligible = never };
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(64, 4, NULL);
	map_put(map, "l.weight", TN_F32, 2, 64, 0, NULL);
	uint64_t before = map_digest(map);
	OK(tn_quantize_weights(map, config, &options, err));
	assert_true(map_digest(map) == before);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void quantize_weights_predicate_approved_quantizes(void **state)
{
	char approved[] = "yes";
	struct tn_quantize_options options = { .eligible = only, .user = approved };
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(64, 4, NULL);
	map_put(map, "yes.weight", TN_F32, 2, 64, 0, NULL);
	map_put(map, "no.weight", TN_F32, 2, 64, 0, NULL);
	OK(tn_quantize_weights(map, config, &options, err));
	map_expect(map, "yes.weight", TN_U32, 2, 8, 0);
	map_expect(map, "no.weight", TN_F32, 2, 64, 0);
	assert_false(map_has(map, "no.scales"));
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void quantize_weights_rank1_weight_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 64, 0, 0, NULL);
	untouched(map, config_new(64, 4, NULL), 0);
}

static void quantize_weights_zero_group_size_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 2, 64, 0, NULL);
	untouched(map, config_new(0, 4, NULL), 0);
}

static void quantize_weights_negative_group_size_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 2, 64, 0, NULL);
	refused(map, config_new(-1, 4, NULL), 0, TN_E_ARG, "l", "group_size -1");
}

static void quantize_weights_scale_only_mxfp4_emits_weight_and_scales_no_biases(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(32, 4, "mxfp4");
	map_put(map, "l.weight", TN_F32, 4, 32, 0, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	map_expect(map, "l.weight", TN_U32, 4, 4, 0);
	map_expect(map, "l.scales", TN_U8, 4, 1, 0);
	assert_false(map_has(map, "l.biases"));
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void a_failure_after_others_were_done_changes_nothing(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "a.weight", TN_F32, 2, 64, 0, NULL);
	map_put(map, "z.weight", TN_I32, 2, 64, 0, NULL);
	refused(map, config_new(64, 4, NULL), 0, TN_E_ARG, "z.weight", "but w has type int32");
}

static void three_dimensional_experts_quantize(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(32, 6, NULL);
	map_put(map, "experts.weight", TN_BF16, 2, 3, 64, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	map_expect(map, "experts.weight", TN_U32, 2, 3, 12);
	map_expect(map, "experts.scales", TN_BF16, 2, 3, 2);
	OK(tn_dequantize_weights(map, config, NULL, err));
	map_expect(map, "experts.weight", TN_BF16, 2, 3, 64);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

/* ---- quantize: triples that stand there ------------------------------------------------------------------ */

static void quantize_weights_orphan_biases_collision_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 2, 64, 0, NULL);
	map_put(map, "l.biases", TN_F32, 2, 1, 0, NULL);
	refused(map, config_new(64, 4, NULL), 0, TN_E_NOTFOUND, "l", "without 'l.scales'");
}

static void quantize_weights_valid_existing_triple_still_skipped(void **state)
{
	(void)state;
	untouched(triple(2, 8, 1, 1), config_new(64, 4, NULL), 0);
}

static void quantize_weights_orphan_scales_with_dense_weight_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 2, 64, 0, NULL);
	map_put(map, "l.scales", TN_F32, 2, 1, 0, NULL);
	map_put(map, "l.biases", TN_F32, 2, 1, 0, NULL);
	refused(map, config_new(64, 4, NULL), 0, TN_E_FORMAT, "l", "is F32, U32 was expected");
}

static void quantize_weights_mismatched_scales_shape_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, 2, 8, 0, NULL);
	map_put(map, "l.scales", TN_F32, 3, 1, 0, NULL);
	map_put(map, "l.biases", TN_F32, 3, 1, 0, NULL);
	refused(map, config_new(64, 4, NULL), 0, TN_E_FORMAT, "l", "'l.scales' is (3,1) and its weight (2,8)");
}

static void quantize_weights_rank1_uint32_triple_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, 8, 0, 0, NULL);
	map_put(map, "l.scales", TN_F32, 1, 0, 0, NULL);
	map_put(map, "l.biases", TN_F32, 1, 0, 0, NULL);
	refused(map, config_new(64, 4, NULL), 0, TN_E_FORMAT, "l", "has rank 1, at least 2");
}

static void quantize_weights_scales_rank_mismatch_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, 2, 8, 0, NULL);
	map_put(map, "l.scales", TN_F32, 2, 0, 0, NULL);
	map_put(map, "l.biases", TN_F32, 2, 0, 0, NULL);
	refused(map, config_new(64, 4, NULL), 0, TN_E_FORMAT, "l", "'l.scales' has rank 1, and its weight rank 2");
}

/* Widths are not judged here: who uses the triple finds out (tn_matrix_find, tn_dequantize). */
static void quantize_weights_pre_quantized_triple_passes_through_to_mlxc(void **state)
{
	(void)state;
	untouched(triple(2, 8, 5, 1), config_new(64, 4, NULL), 0);
}

static void quantize_weights_pre_quantized_bits3_triple_passes_through(void **state)
{
	(void)state;
	untouched(triple(2, 6, 1, 1), config_new(64, 3, NULL), 0);
}

static void quantize_weights_valid_triple_skipped(void **state)
{
	(void)state;
	untouched(triple(4, 16, 2, 1), config_new(64, 4, NULL), 0);
}

static void quantize_weights_triple_on_skip_path_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 1, 1), with_layer(config_new(64, 4, NULL), "l", NULL), 0, TN_E_FORMAT, "l",
		"marks this layer as not quantized");
}

static void quantize_weights_affine_triple_missing_biases_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 1, 0), config_new(64, 4, NULL), 0, TN_E_NOTFOUND, "l", "'l.biases' is missing");
}

static void quantize_weights_mxfp4_triple_with_stale_biases_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 2, 1), config_new(32, 4, "mxfp4"), 0, TN_E_FORMAT, "l",
		"has no biases, and 'l.biases' stands");
}

static void quantize_weights_valid_mxfp4_scales_only_triple_passes(void **state)
{
	(void)state;
	untouched(triple(2, 8, 2, 0), config_new(32, 4, "mxfp4"), 0);
}

static void quantize_weights_valid_triple_resolves_via_per_layer_override(void **state)
{
	(void)state;
	untouched(triple(2, 8, 2, 0), with_layer(config_new(64, 4, NULL), "l", &mxfp4), 0);
}

static void quantize_weights_triple_with_no_resolvable_params_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 1, 1), empty_config(), 0, TN_E_MISMATCH, "l", "must be resolvable");
}

/* ---- dequantize ------------------------------------------------------------------------------------------ */

static void dequantize_weights_affine_missing_biases_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 1, 0), config_new(64, 4, NULL), 1, TN_E_NOTFOUND, "l", "'l.biases' is missing");
}

static void dequantize_weights_mxfp4_with_stale_biases_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 2, 1), config_new(32, 4, "mxfp4"), 1, TN_E_FORMAT, "l", "'l.biases' stands there");
}

static void dequantize_weights_orphan_biases_with_packed_weight_errors(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, 2, 8, 0, NULL);
	map_put(map, "l.biases", TN_F32, 2, 1, 0, NULL);
	refused(map, config_new(64, 4, NULL), 1, TN_E_NOTFOUND, "l", "'l.scales' is missing");
}

static void dequantize_weights_dense_weight_with_biases_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_F32, 2, 8, 0, NULL);
	map_put(map, "l.biases", TN_F32, 2, 0, 0, NULL);
	untouched(map, config_new(64, 4, NULL), 1);
}

static void dequantize_weights_orphan_biases_without_weight_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.biases", TN_F32, 2, 1, 0, NULL);
	untouched(map, config_new(64, 4, NULL), 1);
}

static void dequantize_weights_rank1_uint32_weight_with_biases_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, 8, 0, 0, NULL);
	map_put(map, "l.biases", TN_F32, 1, 0, 0, NULL);
	untouched(map, config_new(64, 4, NULL), 1);
}

static void dequantize_weights_non_suffix_key_passes_through(void **state)
{
	(void)state;
	tn_weight_map *map = triple(2, 8, 1, 1);
	tn_quant_config *config = config_new(64, 4, NULL);
	map_put(map, "gamma", TN_F32, 4, 0, 0, NULL);
	OK(tn_dequantize_weights(map, config, NULL, err));
	map_expect(map, "gamma", TN_F32, 4, 0, 0);
	map_expect(map, "l.weight", TN_F32, 2, 64, 0);
	assert_int_equal(tn_weight_map_count(map), 2);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void dequantize_weights_unresolvable_params_errors(void **state)
{
	(void)state;
	refused(triple(2, 8, 1, 1), empty_config(), 1, TN_E_MISMATCH, "l", "must be resolvable");
}

static void dequantize_names_the_layer_when_shapes_do_not_fit(void **state)
{
	(void)state;
	refused(triple(2, 8, 5, 1), config_new(64, 4, NULL), 1, TN_E_ARG, "l",
		"l: [dequantize] Shape of scales and biases");
}

/* ---- there and back -------------------------------------------------------------------------------------- */

/* The largest error of a round trip of wave values [8, 128] in F32, relative to the largest magnitude. */
static double round_trip(int32_t group_size, int32_t bits, const char *mode, tn_dtype result)
{
	const struct tn_dequantize_options options = { .dtype = result };
	double worst = 0;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(group_size, bits, mode);
	map_put(map, "l.weight", TN_F32, 8, 128, 0, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	OK(tn_dequantize_weights(map, config, &options, err));
	const float *y = map_expect(map, "l.weight", TN_F32, 8, 128, 0);
	for (uint64_t i = 0; i < 8 * 128; i++)
		worst = fmax(worst, fabs((double)y[i] - (double)wave(i)));
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
	return worst;
}

static void quantize_then_dequantize_roundtrips_within_tolerance(void **state)
{
	(void)state;
	/* 16 codes over a range of at most 2; mlxrs has 0.05 for a range of 0.7 */
	assert_true(round_trip(64, 4, NULL, TN_F32) < 2 * 0.05 / 0.7);
}

/* The bounds that docs/quantization.md states, for a range of 2: affine one step, because the far end may be clamped;
 * E2M1 up to a sixth of the top of its binade and E4M3 a sixteenth, times at most 2 for the rounded-up scale. */
static void error_bounds_of_every_mode(void **state)
{
	static const int32_t widths[] = { 1, 2, 3, 4, 5, 6, 8 };
	(void)state;
	for (int i = 0; i < 7; i++)
		assert_true(round_trip(32, widths[i], NULL, TN_F32) <= 2.0 / ((1 << widths[i]) - 1) * 1.001);
	assert_true(round_trip(32, 4, "mxfp4", TN_F32) <= 0.25);
	assert_true(round_trip(32, 8, "mxfp8", TN_F32) <= 0.0625);
	assert_true(round_trip(16, 4, "nvfp4", TN_F32) <= 0.25);
}

static void quantize_then_dequantize_mxfp4_scale_only_roundtrips(void **state)
{
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(32, 4, "mxfp4");
	map_put(map, "l.weight", TN_F32, 4, 32, 0, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	OK(tn_dequantize_weights(map, config, NULL, err));
	const uint16_t *y = map_expect(map, "l.weight", TN_BF16, 4, 32, 0);
	for (uint64_t i = 0; i < 4 * 32; i++)
		assert_true(fabsf(tn_f32_from_bf16(y[i]) - wave(i)) <= 0.25f);
	assert_false(map_has(map, "l.scales"));
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void quantize_then_dequantize_affine_on_grid_recovers_values(void **state)
{
	float w[64];
	(void)state;
	for (int i = 0; i < 64; i++)
		w[i] = (float)(i % 16);
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(64, 4, NULL);
	map_put(map, "l.weight", TN_F32, 1, 64, 0, w);
	OK(tn_quantize_weights(map, config, NULL, err));
	/* not scale 1, bias 0: MLX meets the larger end exactly and counts down from it */
	assert_true(*(const float *)map_expect(map, "l.scales", TN_F32, 1, 1, 0) == -1);
	assert_true(*(const float *)map_expect(map, "l.biases", TN_F32, 1, 1, 0) == 15);
	OK(tn_dequantize_weights(map, config, NULL, err));
	assert_memory_equal(map_expect(map, "l.weight", TN_F32, 1, 64, 0), w, sizeof w);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

/* quantize(dequantize(q)) is not q: the encoder starts from the range it finds, and the range of decoded values is
 * another. How often codes change is printed, and docs/quantization.md says why. */
static void quantizing_again_is_not_the_identity(void **state)
{
	size_t changed = 0;
	(void)state;
	tn_weight_map *map = map_new();
	tn_quant_config *config = config_new(64, 4, NULL);
	map_put(map, "l.weight", TN_BF16, 64, 512, 0, NULL);
	OK(tn_quantize_weights(map, config, NULL, err));
	uint32_t *first = malloc(64 * 64 * 4);
	memcpy(first, map_expect(map, "l.weight", TN_U32, 64, 64, 0), 64 * 64 * 4);
	OK(tn_dequantize_weights(map, config, NULL, err));
	OK(tn_quantize_weights(map, config, NULL, err));
	const uint32_t *second = map_expect(map, "l.weight", TN_U32, 64, 64, 0);
	for (int i = 0; i < 64 * 64; i++)
		for (int k = 0; k < 32; k += 4)
			changed += (first[i] >> k & 15) != (second[i] >> k & 15);
	print_message("bf16, 4 bits, group 64: %.2f%% of codes change when decoded values are encoded again\n",
		      100.0 * (double)changed / (64 * 512));
	assert_true(changed < 64 * 512);
	free(first);
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantize_weights_applies_to_eligible_and_skips_rest),
		cmocka_unit_test(quantize_weights_per_layer_skip_passes_through),
		cmocka_unit_test(quantize_weights_per_layer_override_uses_override_params),
		cmocka_unit_test(quantize_weights_predicate_rejected_passes_through),
		cmocka_unit_test(quantize_weights_predicate_approved_quantizes),
		cmocka_unit_test(quantize_weights_rank1_weight_passes_through),
		cmocka_unit_test(quantize_weights_zero_group_size_passes_through),
		cmocka_unit_test(quantize_weights_negative_group_size_errors),
		cmocka_unit_test(quantize_weights_scale_only_mxfp4_emits_weight_and_scales_no_biases),
		cmocka_unit_test(a_failure_after_others_were_done_changes_nothing),
		cmocka_unit_test(three_dimensional_experts_quantize),
		cmocka_unit_test(quantize_weights_orphan_biases_collision_errors),
		cmocka_unit_test(quantize_weights_valid_existing_triple_still_skipped),
		cmocka_unit_test(quantize_weights_orphan_scales_with_dense_weight_errors),
		cmocka_unit_test(quantize_weights_mismatched_scales_shape_errors),
		cmocka_unit_test(quantize_weights_rank1_uint32_triple_errors),
		cmocka_unit_test(quantize_weights_scales_rank_mismatch_errors),
		cmocka_unit_test(quantize_weights_pre_quantized_triple_passes_through_to_mlxc),
		cmocka_unit_test(quantize_weights_pre_quantized_bits3_triple_passes_through),
		cmocka_unit_test(quantize_weights_valid_triple_skipped),
		cmocka_unit_test(quantize_weights_triple_on_skip_path_errors),
		cmocka_unit_test(quantize_weights_affine_triple_missing_biases_errors),
		cmocka_unit_test(quantize_weights_mxfp4_triple_with_stale_biases_errors),
		cmocka_unit_test(quantize_weights_valid_mxfp4_scales_only_triple_passes),
		cmocka_unit_test(quantize_weights_valid_triple_resolves_via_per_layer_override),
		cmocka_unit_test(quantize_weights_triple_with_no_resolvable_params_errors),
		cmocka_unit_test(dequantize_weights_affine_missing_biases_errors),
		cmocka_unit_test(dequantize_weights_mxfp4_with_stale_biases_errors),
		cmocka_unit_test(dequantize_weights_orphan_biases_with_packed_weight_errors),
		cmocka_unit_test(dequantize_weights_dense_weight_with_biases_passes_through),
		cmocka_unit_test(dequantize_weights_orphan_biases_without_weight_passes_through),
		cmocka_unit_test(dequantize_weights_rank1_uint32_weight_with_biases_passes_through),
		cmocka_unit_test(dequantize_weights_non_suffix_key_passes_through),
		cmocka_unit_test(dequantize_weights_unresolvable_params_errors),
		cmocka_unit_test(dequantize_names_the_layer_when_shapes_do_not_fit),
		cmocka_unit_test(quantize_then_dequantize_roundtrips_within_tolerance),
		cmocka_unit_test(error_bounds_of_every_mode),
		cmocka_unit_test(quantize_then_dequantize_mxfp4_scale_only_roundtrips),
		cmocka_unit_test(quantize_then_dequantize_affine_on_grid_recovers_values),
		cmocka_unit_test(quantizing_again_is_not_the_identity),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
