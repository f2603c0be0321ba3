/* SPDX-License-Identifier: Apache-2.0 */
/* Which tensors make one matrix; recipes; the order of layers. */
#include "support.h"

#include "weights/matrix.h"
#include "weights/model_rules.h"

#include <stdio.h>
#include <string.h>

static tn_status find(const tn_weight_map *map, const tn_quant_config *config, const char *name, struct tn_matrix *m,
		      struct tn_error *err)
{
	struct tn_tensor_source source = tn_weight_map_source(map);
	return tn_matrix_find(&source, config, tn_weight_map_find(map, name, NULL), m, err);
}

/* "l": codes of `words` words, scales of `groups` values. */
static tn_weight_map *triple(uint64_t words, uint64_t groups, tn_dtype scales)
{
	tn_weight_map *map = map_new();
	map_put(map, "l.weight", TN_U32, 2, 3, words, NULL);
	map_put(map, "l.scales", scales, 2, 3, groups, NULL);
	if (scales != TN_U8)
		map_put(map, "l.biases", scales, 2, 3, groups, NULL);
	return map;
}

static void dense_matrices(void **state)
{
	struct tn_matrix m;
	(void)state;
	tn_weight_map *map = map_new();
	map_put(map, "a.weight", TN_BF16, 2, 3, 5, NULL);
	map_put(map, "a.biases", TN_BF16, 6, 0, 0, NULL);
	map_put(map, "norm", TN_F32, 7, 0, 0, NULL);
	map_put(map, "i.weight", TN_I32, 2, 2, 0, NULL);
	map_put(map, "p.weight", TN_U32, 2, 2, 0, NULL);
	OK(find(map, NULL, "a.weight", &m, err));
	assert_int_equal(m.rows, 6);
	assert_int_equal(m.cols, 5);
	assert_int_equal(m.row_bytes[0], 10);
	assert_int_equal(m.format.codec, TN_CODEC_dense);
	assert_null(m.part[1]);
	OK(find(map, NULL, "norm", &m, err));
	assert_int_equal(m.rows, 1);
	assert_int_equal(m.cols, 7);
	FAILS(TN_E_UNSUPPORTED, "'i.weight' is I32", find(map, NULL, "i.weight", &m, err));
	FAILS(TN_E_UNSUPPORTED, "has no `.scales`", find(map, NULL, "p.weight", &m, err));
	tn_weight_map_destroy(map);
}

static void an_affine_triple(void **state)
{
	struct tn_matrix m;
	(void)state;
	tn_weight_map *map = triple(18, 3, TN_F16);
	tn_quant_config *config = config_new(64, 3, NULL);
	OK(find(map, config, "l.weight", &m, err));
	assert_int_equal(m.rows, 6);
	assert_int_equal(m.cols, 192);
	assert_int_equal(m.format.bits, 3);
	assert_int_equal(m.format.dtype, TN_F16);
	assert_int_equal(m.row_bytes[0], 72);
	assert_int_equal(m.row_bytes[1], 6);
	assert_int_equal(m.row_bytes[2], 6);
	assert_string_equal(m.part[2]->name, "l.biases");
	tn_quant_config_destroy(config);
	tn_weight_map_destroy(map);
}

/* 8 words for 2 groups are bits * group = 128: 4 * 32, 2 * 64 or 1 * 128. */
static void shapes_and_configuration_must_agree(void **state)
{
	struct tn_matrix m;
	const struct tn_quantization wrong = { 64, 4, NULL, 0 }, right = { 32, 4, NULL, 0 };
	(void)state;
	tn_weight_map *map = triple(8, 2, TN_F32);
	tn_quant_config *config = config_new(64, 4, NULL);
	FAILS(TN_E_MISMATCH, "not affine with group size 64 and 4 bits", find(map, config, "l.weight", &m, err));
	OK(tn_quant_config_set(config, "l", &right, err));
	OK(find(map, config, "l.weight", &m, err));
	assert_int_equal(m.cols, 64);
	OK(tn_quant_config_set(config, "l", &wrong, err));
	FAILS(TN_E_MISMATCH, "give this layer its own entry", find(map, config, "l.weight", &m, err));
	OK(tn_quant_config_set(config, "l", NULL, err));
	FAILS(TN_E_FORMAT, "marks this layer", find(map, config, "l.weight", &m, err));
	FAILS(TN_E_MISMATCH, "no configuration says in how many bits", find(map, NULL, "l.weight", &m, err));
	tn_quant_config_destroy(config);
	tn_weight_map_destroy(map);
}

/* mlx-lm 0.32.2 looks at the shapes of a layer that the configuration does not name. */
static void what_leaves_one_choice_is_inferred(void **state)
{
	static const struct {
		uint64_t words, groups;
		tn_dtype scales;
		const char *mode;
		int32_t bits, group_size;
	} layers[] = {
		{ 10, 1, TN_F32, "affine", 5, 64 }, { 4, 1, TN_U8, "mxfp4", 4, 32 },    { 8, 1, TN_U8, "mxfp8", 8, 32 },
		{ 4, 2, TN_U8, "nvfp4", 4, 16 },    { 3, 1, TN_BF16, "affine", 3, 32 },
	};
	(void)state;
	tn_quant_config *config = config_new(128, 8, NULL);
	for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
		struct tn_matrix m;
		tn_weight_map *map = triple(layers[i].words, layers[i].groups, layers[i].scales);
		OK(find(map, config, "l.weight", &m, err));
		assert_string_equal(m.q.mode, layers[i].mode);
		assert_int_equal(m.q.bits, layers[i].bits);
		assert_int_equal(m.q.group_size, layers[i].group_size);
		tn_weight_map_destroy(map);
	}
	tn_quant_config_destroy(config);
}

static void bad_parts_are_named(void **state)
{
	struct tn_matrix m;
	(void)state;
	tn_weight_map *map = triple(16, 2, TN_I32);
	tn_quant_config *config = config_new(64, 4, NULL);
	FAILS(TN_E_UNSUPPORTED, "'l.scales' is I32", find(map, config, "l.weight", &m, err));
	tn_weight_map_destroy(map);
	map = triple(16, 2, TN_F32);
	map_put(map, "l.biases", TN_F16, 2, 3, 2, NULL);
	FAILS(TN_E_UNSUPPORTED, "'l.biases' and the scales", find(map, config, "l.weight", &m, err));
	map_put(map, "l.biases", TN_F32, 2, 3, 2, NULL);
	map_put(map, "l.global_scale", TN_F32, 1, 0, 0, NULL);
	FAILS(TN_E_FORMAT, "only nvfp4 has one", find(map, config, "l.weight", &m, err));
	tn_weight_map_destroy(map);
	tn_quant_config_destroy(config);
}

static void each_expert_may_have_a_global_scale(void **state)
{
	static const float scales[] = { 2, 3 };
	struct tn_matrix m;
	struct tn_format f;
	uint64_t end;
	(void)state;
	tn_weight_map *map = triple(4, 2, TN_U8);
	map_put(map, "l.global_scale", TN_F32, 2, 0, 0, scales);
	OK(find(map, NULL, "l.weight", &m, err));
	struct tn_tensor_source source = tn_weight_map_source(map);
	OK(tn_matrix_format_at(&source, &m, 2, &f, &end, err));
	assert_true(f.has_global_scale && f.global_scale == 2);
	assert_int_equal(end, 3);
	OK(tn_matrix_format_at(&source, &m, 3, &f, &end, err));
	assert_true(f.global_scale == 3);
	assert_int_equal(end, 6);
	tn_weight_map_destroy(map);
}

/* spec/quantization.md, 6.3 */
static void recipes_give_more_bits_to_these_layers(void **state)
{
	static const struct {
		uint32_t count;
		const char *more;
	} models[] = {
		{ 16, "1100100100100111" },
		{ 24, "111001001001001001001111" },
		{ 28, "1110010010010010010010011111" },
		{ 32, "11110010010010010010010010011111" },
	};
	(void)state;
	for (int m = 0; m < 4; m++)
		for (uint32_t i = 0; i < models[m].count; i++) {
			char path[64];
			snprintf(path, sizeof path, "model.layers.%u.mlp.down_proj", i);
			assert_int_equal(tn_recipe_bits("mixed_2_6", path, 2, models[m].count),
					 models[m].more[i] == '1' ? 6 : 2);
			snprintf(path, sizeof path, "model.layers.%u.self_attn.q_proj", i);
			assert_int_equal(tn_recipe_bits("mixed_3_4", path, 2, models[m].count), 3);
		}
	assert_int_equal(tn_recipe_bits("mixed_4_6", "lm_head", 2, 32), 6);
	assert_int_equal(tn_recipe_bits("mixed_3_6", "model.embed_tokens", 2, 32), 3);
	assert_int_equal(tn_recipe_bits("mixed_3_4", "model.layers.0.attn.qkv_proj", 2, 32), 4);
	assert_int_equal(tn_recipe_bits("mixed_3_6", "model.layers.0.block_sparse_moe.experts.7.w2", 2, 32), 6);
	assert_int_equal(tn_recipe_bits("mixed_3_6", "model.layers.0.block_sparse_moe.experts.7.w1", 2, 32), 3);
	assert_int_equal(tn_recipe_bits("mixed_5_6", "lm_head", 2, 32), 0);
}

/* src/weights/model_rules.def */
static void model_files_of_mlx_lm_have_their_say(void **state)
{
	(void)state;
	assert_int_equal(tn_model_rules("granite", "model.layers.3.mlp.down_proj"), TN_RULE_EIGHT_BITS);
	assert_int_equal(tn_model_rules("granite", "model.layers.3.mlp.up_proj"), TN_RULE_NONE);
	assert_int_equal(tn_model_rules("llama", "model.layers.3.mlp.down_proj"), TN_RULE_NONE);
	assert_int_equal(tn_model_rules("bailing_hybrid", "model.layers.0.attention.embed_q"), TN_RULE_DENSE);
	assert_int_equal(tn_model_rules(NULL, "lm_head"), TN_RULE_NONE);
	assert_int_equal(tn_model_rules("glm_moe_dsa", "model.layers.3.mlp.gate"), TN_RULE_PARAMETER);
	assert_int_equal(tn_model_rules("kimi_k2", "model.layers.3.mlp.gate_proj"), TN_RULE_NONE);
	assert_true(tn_model_keeps_dtype("kimi_k2", "model.layers.1.mlp.gate.e_score_correction_bias"));
	assert_false(tn_model_keeps_dtype("llama", "model.layers.1.mlp.gate.e_score_correction_bias"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dense_matrices),
		cmocka_unit_test(an_affine_triple),
		cmocka_unit_test(shapes_and_configuration_must_agree),
		cmocka_unit_test(what_leaves_one_choice_is_inferred),
		cmocka_unit_test(bad_parts_are_named),
		cmocka_unit_test(each_expert_may_have_a_global_scale),
		cmocka_unit_test(recipes_give_more_bits_to_these_layers),
		cmocka_unit_test(model_files_of_mlx_lm_have_their_say),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
