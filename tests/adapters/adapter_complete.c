/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are complete, and files that are not: toy adapters on a toy base. Tests carry the names of the seed's tests
 * where there is one. */
#include "adapterlib.h"

#include <stdlib.h>

#define MLX(layers, rest) "{\"num_layers\":" #layers ",\"lora_parameters\":{\"rank\":2,\"scale\":2" rest "}}"
#define KEYS ",\"keys\":[\"q_proj\"]"
#define PEFT(rest) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]" rest "}"
#define NO_TARGETS(rest) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4" rest "}"
#define PREFIX "base_model.model."
#define Q0 PREFIX "model.layers.0.self_attn.q_proj"
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- completeness: the toy's folders --------------------------------------------------------------------- */

struct toy_case {
	const char *name, *config;
	int peft;
	unsigned rank, first, last;
	tn_status status;
	const char *named;
	size_t merged;
};

static const struct toy_case toy_cases[] = {
	{ "load_adapters_lora_end_to_end", MLX(-1, KEYS), 0, 2, 0, 3, TN_OK, NULL, 4 },
	{ "linear_to_lora_layers_skips_non_weight_keys", MLX(1, KEYS), 0, 2, 3, 3, TN_OK, NULL, 1 },
	{ "mlxlm_autodiscovery_skips_non_rank2_weights", MLX(1, ""), 0, 2, 3, 3, TN_OK, NULL, 1 },
	{ "lora_layers_autodiscovery_partial_factors_is_ok", MLX(-1, ""), 0, 2, 0, 1, TN_OK, NULL, 2 },
	{ "lora_layers_explicit_key_missing_factors_is_err (taken with a warning, as mlx-lm does)", MLX(-1, KEYS), 0, 2, 0, 1, TN_OK,
	  NULL, 2 },
	{ "an explicit key without any factors", MLX(-1, ",\"keys\":[\"q_proj\",\"k_proj\"]"), 0, 2, 0, 3, TN_E_MISMATCH,
	  "model.layers.0.self_attn.k_proj", 0 },
	{ "load_adapters_unused_factor_end_to_end_is_err", MLX(-1, KEYS), 0, 2, 3, 4, TN_E_MISMATCH, "model.layers.4.self_attn.q_proj", 0 },
	{ "lora_layers_unused_adapter_factor_is_err", MLX(1, KEYS), 0, 2, 2, 3, TN_E_MISMATCH, "model.layers.2.self_attn.q_proj", 0 },
	{ "load_adapters_rank_drift_is_shape_mismatch", MLX(-1, KEYS), 0, 1, 0, 3, TN_E_FORMAT, "rank 1", 0 },
	{ "load_adapters_peft_rank_drift_is_shape_mismatch", PEFT(""), 1, 1, 0, 3, TN_E_FORMAT, "rank 1", 0 },
	{ "rank_pattern: the one key that fits says another rank, though r has the file's",
	  PEFT(",\"rank_pattern\":{\"layers.1.self_attn.q_proj\":4}"), 1, 2, 0, 3, TN_E_FORMAT, "says 4", 0 },
	{ "rank_pattern: of overlapping keys one has the file's rank",
	  PEFT(",\"rank_pattern\":{\"q_proj\":4,\"self_attn.q_proj\":2}"), 1, 2, 0, 3, TN_OK, NULL, 4 },
	{ "load_adapters_peft_flat_shape_rank16_end_to_end", PEFT(""), 1, 2, 0, 3, TN_OK, NULL, 4 },
	{ "PEFT: a target without factors", PEFT(""), 1, 2, 0, 2, TN_E_MISMATCH, "model.layers.3.self_attn.q_proj", 0 },
	{ "PEFT without target_modules: those of its list for a llama", NO_TARGETS(""), 1, 2, 0, 3, TN_OK, NULL, 4 },
	{ "PEFT with target_modules null", NO_TARGETS(",\"target_modules\":null"), 1, 2, 0, 3, TN_OK, NULL, 4 },
	{ "PEFT without target_modules: a module of the list without factors", NO_TARGETS(""), 1, 2, 0, 2, TN_E_MISMATCH,
	  "model.layers.3.self_attn.q_proj", 0 },
	{ "PEFT without target_modules: layers_to_transform count", NO_TARGETS(",\"layers_to_transform\":[0,1,2]"), 1, 2, 0, 2, TN_OK,
	  NULL, 3 },
	{ "modules_to_save: a module of the base without a tensor in the file",
	  PEFT(",\"modules_to_save\":[\"lm_head\"]"), 1, 2, 0, 3, TN_E_MISMATCH, "lm_head", 0 },
	{ "modules_to_save: a module that the base has not either", PEFT(",\"modules_to_save\":[\"classifier\"]"), 1, 2, 0, 3,
	  TN_OK, NULL, 4 },
	{ "PEFT: factors that the configuration leaves out", PEFT(",\"layers_to_transform\":[0]"), 1, 2, 0, 1, TN_E_MISMATCH,
	  "model.layers.1.self_attn.q_proj", 0 },
	{ "peft_end_to_end_exclude_modules", PEFT(",\"exclude_modules\":\".*\\\\.3\\\\..*\""), 1, 2, 0, 2, TN_OK, NULL, 3 },
	{ "lora_layers_empty_result_is_err", MLX(-1, ",\"keys\":[\"nothing\"]"), 0, 2, 1, 0, TN_E_FORMAT, "no tensor", 0 },
	{ "load_adapters_empty_safetensors_is_err", MLX(-1, KEYS), 0, 2, 1, 0, TN_E_FORMAT, "no tensor", 0 },
	{ "peft_end_to_end_rslora_scale_and_all_blocks", PEFT(",\"use_rslora\":true"), 1, 2, 0, 3, TN_OK, NULL, 4 },
	{ "check_adapter_safetensors_regular_file_within_cap_is_ok", PEFT(""), 1, 2, 0, 3, TN_OK, NULL, 4 },
	{ "load_adapters_unknown_fine_tune_type_is_err", "{\"fine_tune_type\":\"bogus\"}", 0, 2, 0, 3, TN_E_UNSUPPORTED, "bogus", 0 },
	{ "load_adapters_full_is_unsupported_err (applied; factors in it are refused)", "{\"fine_tune_type\":\"full\"}", 0, 2, 0, 3,
	  TN_E_MISMATCH, "full", 0 },
};

static void toy_row(void **state)
{
	const struct toy_case *c = *state;
	void *made;
	al_setup(&made);
	struct al *t = made;
	al_write_toy(al_path(t, "base"));
	al_write_toy_adapter(al_path(t, "a"), c->config, c->peft, c->rank, c->first, c->last);
	tn_status status = al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out"));
	if (status != c->status)
		fail_msg("%s gave %s: %s", c->name, tn_status_name(status), status ? t->err.msg : "");
	if (status != TN_OK) {
		al_expect_named(t, c->named);
	} else {
		tn_checkpoint *base;
		tn_adapter *a;
		tn_fuse *fuse;
		al_ok(t, tn_checkpoint_open(t->ctx, al_path(t, "base"), &base, &t->err));
		al_ok(t, tn_adapter_open(t->ctx, al_path(t, "a"), &a, &t->err));
		al_ok(t, tn_fuse_plan(t->ctx, base, a, NULL, &fuse, &t->err));
		assert_int_equal(tn_fuse_merged_count(fuse), c->merged);
		tn_fuse_free(fuse);
		tn_adapter_close(a);
		tn_checkpoint_close(base);
	}
	al_teardown(&made);
}

/* ---- tensors of PEFT files ------------------------------------------------------------------------------- */

struct file_case {
	const char *name, *config;
	struct al_tensor tensors[4];
	tn_status status;
	const char *named;
};
#define A { Q0 ".lora_A.weight", { 2, 3 }, 2, NULL }
#define B { Q0 ".lora_B.weight", { 2, 2 }, 2, NULL }
#define ONLY0 ",\"exclude_modules\":\".*[123].*\""

#define M2 { Q0 ".lora_magnitude_vector", { 2 }, 1, NULL }
#define EA { PREFIX "model.embed_tokens.lora_embedding_A", { 2, 4 }, 2, NULL }
#define EB { PREFIX "model.embed_tokens.lora_embedding_B", { 3, 2 }, 2, NULL }

static const struct file_case file_cases[] = {
	{ "split_adapter_params_lora_a_without_lora_b_is_err", PEFT(ONLY0), { A }, TN_E_FORMAT, "lora_B" },
	{ "split_adapter_params_lora_b_without_lora_a_is_err", PEFT(ONLY0), { B }, TN_E_FORMAT, "lora_A" },
	{ "split_adapter_params_dora_missing_m_is_err", PEFT(ONLY0 ",\"use_dora\":true"), { A, B }, TN_E_FORMAT,
	  "lora_magnitude_vector" },
	{ "a stray magnitude", PEFT(ONLY0), { A, B, { Q0 ".lora_magnitude_vector", { 2 }, 1, NULL } }, TN_E_MISMATCH, "magnitude" },
	{ "peft_key_translation_magnitude_vector_dot_weight_variant", PEFT(ONLY0 ",\"use_dora\":true"),
	  { A, B, { Q0 ".lora_magnitude_vector.weight", { 2 }, 1, NULL } }, TN_OK, NULL },
	{ "dora_linear_rejects_wrong_magnitude_shape", PEFT(ONLY0 ",\"use_dora\":true"),
	  { A, B, { Q0 ".lora_magnitude_vector", { 3 }, 1, NULL } }, TN_E_FORMAT, "3 elements" },
	{ "lora_linear_rejects_rank1_lora_a_with_lora_context", PEFT(ONLY0), { { Q0 ".lora_A.weight", { 6 }, 1, NULL }, B }, TN_E_FORMAT,
	  "dimensions" },
	{ "lora_rejects_rank_mismatch", PEFT(ONLY0), { { Q0 ".lora_A.weight", { 3, 3 }, 2, NULL }, B }, TN_E_FORMAT, "ranks 3 and 2" },
	{ "lora_rejects_wrong_lora_a_input_dim_dense", PEFT(ONLY0), { { Q0 ".lora_A.weight", { 2, 4 }, 2, NULL }, B }, TN_E_MISMATCH,
	  "in = 3" },
	{ "lora_rejects_mismatched_output_dims", PEFT(ONLY0), { A, { Q0 ".lora_B.weight", { 5, 2 }, 2, NULL } }, TN_E_MISMATCH, "out = 2" },
	{ "validate_config_rank_catches_lora_b_only_drift", PEFT(ONLY0), { A, { Q0 ".lora_B.weight", { 2, 3 }, 2, NULL } }, TN_E_FORMAT,
	  "ranks 2 and 3" },
	{ "peft_key_translation_rejects_sidecar_bias_and_modules_to_save_tensors", PEFT(ONLY0),
	  { A, B, { Q0 ".base_layer.bias", { 2 }, 1, NULL } }, TN_E_MISMATCH, "bias" },
	{ "peft_key_translation_rejects_sidecar_bias_and_modules_to_save_tensors/weight", PEFT(ONLY0),
	  { A, B, { PREFIX "model.norm.weight", { 3 }, 1, NULL } }, TN_E_MISMATCH, "model.norm.weight" },
	{ "peft_key_translation_embedding_lora_precise_reject (applied)",
	  "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"embed_tokens\"]}",
	  { { PREFIX "model.embed_tokens.lora_embedding_A", { 2, 4 }, 2, NULL },
	    { PREFIX "model.embed_tokens.lora_embedding_B", { 3, 2 }, 2, NULL } }, TN_OK, NULL },
	{ "dora_embedding_rejects_wrong_factor_shape", "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"embed_tokens\"]}",
	  { { PREFIX "model.embed_tokens.lora_embedding_A", { 2, 5 }, 2, NULL },
	    { PREFIX "model.embed_tokens.lora_embedding_B", { 3, 2 }, 2, NULL } }, TN_E_MISMATCH, "in = 4" },
	{ "modules_to_save of a wrong shape", PEFT(ONLY0 ",\"modules_to_save\":[\"norm\"]"),
	  { A, B, { PREFIX "model.norm.weight", { 4 }, 1, NULL } }, TN_E_MISMATCH, "model.norm.weight" },
	{ "a vocabulary that grew", PEFT(ONLY0), { A, B, { PREFIX "model.embed_tokens.weight", { 6, 3 }, 2, NULL },
	  { PREFIX "lm_head.weight", { 6, 3 }, 2, NULL } }, TN_OK, NULL },
	{ "trainable tokens beyond the vocabulary", PEFT(ONLY0 ",\"trainable_token_indices\":[9]"),
	  { A, B, { PREFIX "model.embed_tokens.token_adapter.trainable_tokens_delta", { 1, 3 }, 2, NULL } }, TN_E_MISMATCH, "token 9" },
	{ "trainable tokens of another number", PEFT(ONLY0 ",\"trainable_token_indices\":[1,2]"),
	  { A, B, { PREFIX "model.embed_tokens.token_adapter.trainable_tokens_delta", { 1, 3 }, 2, NULL } }, TN_E_MISMATCH,
	  "trainable_token_indices" },
	{ "lora_bias without a bias in the base", PEFT(ONLY0 ",\"lora_bias\":true"), { A, B, { Q0 ".lora_B.bias", { 2 }, 1, NULL } },
	  TN_E_UNSUPPORTED, "lora_bias" },
	{ "an untrained copy has no effect", PEFT(ONLY0), { A, B, { PREFIX "lm_head.original_module.weight", { 4, 3 }, 2, NULL } }, TN_OK,
	  NULL },
	{ "dora_linear_rank_mismatch_uses_dora_validation_context", PEFT(ONLY0 ",\"use_dora\":true"),
	  { { Q0 ".lora_A.weight", { 6 }, 1, NULL }, B, M2 }, TN_E_FORMAT, "lora_A" },
	{ "dora_linear_lora_b_rank_and_output_dim_mismatch", PEFT(ONLY0 ",\"use_dora\":true"),
	  { A, { Q0 ".lora_B.weight", { 3, 2 }, 2, NULL }, { Q0 ".lora_magnitude_vector", { 3 }, 1, NULL } }, TN_E_MISMATCH, "out = 2" },
	{ "validate_config_rank_dora_context_lora_a_drift", PEFT(ONLY0 ",\"use_dora\":true"),
	  { { Q0 ".lora_A.weight", { 4, 3 }, 2, NULL }, B, M2 }, TN_E_FORMAT, "ranks 4 and 2" },
	{ "validate_config_rank_dora_context_lora_b_only_drift", PEFT(ONLY0 ",\"use_dora\":true"),
	  { A, { Q0 ".lora_B.weight", { 2, 3 }, 2, NULL }, M2 }, TN_E_FORMAT, "ranks 2 and 3" },
	{ "dora_linear_shared_rank_and_input_dim_mismatch_use_dora_context", PEFT(ONLY0 ",\"use_dora\":true"),
	  { { Q0 ".lora_A.weight", { 2, 5 }, 2, NULL }, B, M2 }, TN_E_MISMATCH, "in = 3" },
	{ "dora_embedding_requires_magnitude", "{\"r\":2,\"use_dora\":true,\"target_modules\":[\"embed_tokens\"]}",
	  { EA, EB }, TN_E_FORMAT, "lora_magnitude_vector" },
	{ "dora_embedding_rejects_wrong_magnitude_shape", "{\"r\":2,\"use_dora\":true,\"target_modules\":[\"embed_tokens\"]}",
	  { EA, EB, { PREFIX "model.embed_tokens.lora_magnitude_vector", { 4 }, 1, NULL } }, TN_E_FORMAT, "4 elements" },
	{ "dora_embedding_rejects_non_rank2_lora_a_and_lora_b", "{\"r\":2,\"target_modules\":[\"embed_tokens\"]}",
	  { { PREFIX "model.embed_tokens.lora_embedding_A", { 8 }, 1, NULL }, EB }, TN_E_FORMAT, "dimensions" },
	{ "dora_embedding_rejects_shared_rank_and_dims_mismatch", "{\"r\":2,\"target_modules\":[\"embed_tokens\"]}",
	  { EA, { PREFIX "model.embed_tokens.lora_embedding_B", { 3, 3 }, 2, NULL } }, TN_E_FORMAT, "ranks 2 and 3" },
	{ "PEFT without target_modules leaves out what is not in its list", NO_TARGETS(ONLY0),
	  { A, B, { PREFIX "model.layers.0.self_attn.k_proj.lora_A.weight", { 2, 3 }, 2, NULL },
	    { PREFIX "model.layers.0.self_attn.k_proj.lora_B.weight", { 2, 2 }, 2, NULL } }, TN_E_MISMATCH, "PEFT takes 'q_proj v_proj'" },
	{ "target_parameters alone take no modules of PEFT's list", NO_TARGETS(",\"target_parameters\":[\"q_proj.weight\"]"),
	  { { PREFIX "model.layers.0.self_attn.q_proj.lora_A.weight", { 2, 3 }, 2, NULL },
	    { PREFIX "model.layers.0.self_attn.q_proj.lora_B.weight", { 2, 2 }, 2, NULL } }, TN_OK, NULL },
	{ "BD-LoRA blocks that do not divide", PEFT(ONLY0 ",\"use_bdlora\":{\"nblocks\":3,\"target_modules_bd_a\":[\"q_proj\"]}"),
	  { A, B }, TN_E_FORMAT, "3 blocks" },
	{ "the nearest name and the change that would match", "{\"r\":2,\"target_modules\":[\"q_proj\"]}",
	  { { PREFIX "model.blocks.0.attn.q_proj.lora_A.weight", { 2, 3 }, 2, NULL },
	    { PREFIX "model.blocks.0.attn.q_proj.lora_B.weight", { 2, 2 }, 2, NULL } }, TN_E_MISMATCH, "in place of" },
};

static void file_row(void **state)
{
	const struct file_case *c = *state;
	void *made;
	size_t n = 0;
	al_setup(&made);
	struct al *t = made;
	while (n < 4 && c->tensors[n].name)
		n++;
	al_write_toy(al_path(t, "base"));
	al_write_adapter(al_path(t, "a"), c->config, "adapter_model.safetensors", c->tensors, n);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")), c->status);
	if (c->status != TN_OK)
		al_expect_named(t, c->named);
	al_teardown(&made);
}

static void a_grown_vocabulary_changes_the_config(void **state)
{
	struct al *t = *state;
	const struct al_tensor tensors[] = { A, B, { PREFIX "model.embed_tokens.weight", { 6, 3 }, 2, NULL },
					     { PREFIX "lm_head.weight", { 6, 3 }, 2, NULL } };
	al_write_toy(al_path(t, "base"));
	al_write_adapter(al_path(t, "a"), PEFT(ONLY0), "adapter_model.safetensors", tensors, 4);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	json_t *config = al_json(al_path(t, "out/config.json"));
	assert_int_equal(json_integer_value(json_object_get(config, "vocab_size")), 6);
	json_decref(config);
}

/* AFM's projections of mlx-lm: rows of the first factors above those of the second. */
static void lists_of_factors_stand_under_each_other(void **state)
{
	struct al *t = *state;
	static const float zero[9] = { 0 }, a0[] = { 1, 2, 3 }, b0[] = { 1, 2 }, a1[] = { 4, 5, 6 }, b1[] = { 3 };
	static const double w[] = { 2, 4, 6, 4, 8, 12, 24, 30, 36 };
	static const char config[] = "{\"num_layers\":-1,\"lora_parameters\":{\"rank\":1,\"scale\":2,\"keys\":[\"l.qkv\"]}}";
	const struct al_tensor base = { "m.layers.0.l.qkv.weight", { 3, 3 }, 2, zero };
	const struct al_tensor lora[] = { { "m.layers.0.l.qkv.lora_a.0", { 3, 1 }, 2, a0 }, { "m.layers.0.l.qkv.lora_b.0", { 1, 2 }, 2, b0 },
					  { "m.layers.0.l.qkv.lora_a.1", { 3, 1 }, 2, a1 }, { "m.layers.0.l.qkv.lora_b.1", { 1, 1 }, 2, b1 } };
	const struct al_tensor narrow[] = { lora[0], lora[1], { lora[2].name, { 2, 1 }, 2, NULL }, lora[3] };
	const struct al_tensor late[] = { lora[0], lora[1], { "m.layers.0.l.qkv.lora_a.2", { 3, 1 }, 2, a1 },
					  { "m.layers.0.l.qkv.lora_b.2", { 1, 1 }, 2, b1 } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), config, "adapters.safetensors", lora, 4);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	tn_checkpoint *out;
	const struct tn_tensor *made;
	al_ok(t, tn_checkpoint_open(t->ctx, al_path(t, "out"), &out, &t->err));
	double *values = al_load(t, out, base.name, &made);
	for (size_t i = 0; i < COUNT(w); i++)
		assert_true(values[i] == w[i]);
	free(values);
	tn_checkpoint_close(out);
	al_write_adapter(al_path(t, "short"), config, "adapters.safetensors", lora, 2);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "short"), al_path(t, "no")), TN_E_MISMATCH);
	al_expect_named(t, "gives 2 rows");
	al_write_adapter(al_path(t, "late"), config, "adapters.safetensors", late, 4);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "late"), al_path(t, "no")), TN_E_MISMATCH);
	al_expect_named(t, "one missing");
	al_write_adapter(al_path(t, "narrow"), config, "adapters.safetensors", narrow, 4);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "narrow"), al_path(t, "no")), TN_E_MISMATCH);
	al_expect_named(t, "in = 3");
	const struct al_tensor both[] = { lora[0], lora[1], lora[2], lora[3], { "m.layers.0.l.qkv.lora_a", { 3, 1 }, 2, NULL },
					  { "m.layers.0.l.qkv.lora_b", { 1, 3 }, 2, NULL } };
	al_write_adapter(al_path(t, "both"), config, "adapters.safetensors", both, 6);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "both"), al_path(t, "no")), TN_E_MISMATCH);
	al_write_adapter(al_path(t, "half"), config, "adapters.safetensors", lora, 3);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "half"), al_path(t, "no")), TN_E_FORMAT);
}

int main(void)
{
	struct CMUnitTest tests[2 + COUNT(toy_cases) + COUNT(file_cases)];
	size_t n = 0;
	tests[n++] = (struct CMUnitTest)AL_TEST(a_grown_vocabulary_changes_the_config);
	tests[n++] = (struct CMUnitTest)AL_TEST(lists_of_factors_stand_under_each_other);
	for (size_t i = 0; i < COUNT(toy_cases); i++)
		tests[n++] = (struct CMUnitTest){ toy_cases[i].name, toy_row, NULL, NULL, (void *)(uintptr_t)&toy_cases[i] };
	for (size_t i = 0; i < COUNT(file_cases); i++)
		tests[n++] = (struct CMUnitTest){ file_cases[i].name, file_row, NULL, NULL, (void *)(uintptr_t)&file_cases[i] };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
