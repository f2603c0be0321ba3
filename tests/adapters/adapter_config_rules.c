/* SPDX-License-Identifier: Apache-2.0 */
/* adapter_config.json of both dialects: what is read, what is refused, with which reason. Tests carry the names of the
 * seed's tests (mlxrs, lm/lora/tests.rs); docs/coverage-lora.md lists them all. */
#include "adapterlib.h"

#include "adapter/config.h"
#include "adapter/selection.h"

#include <math.h>
#include <string.h>

/* One configuration and what has to come of it. */
struct row {
	const char *name, *config;
	tn_status status;
	const char *named;        /* refused: a word of the error */
	int dialect, method;      /* accepted: TN_DIALECT_..., TN_METHOD_... */
	uint64_t rank;            /* of model.layers.0.self_attn.q_proj */
	double scale;             /* of the same */
	int64_t num_layers;
};
enum { PEFT = TN_DIALECT_PEFT, MLX = TN_DIALECT_MLX_LM, LORA = TN_METHOD_LORA, DORA = TN_METHOD_DORA };
#define UNUSED 0, 0, 0, 0, 0
#define ALL TN_ALL_LAYERS
#define P(rest) "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]," rest "}"

static const struct row rows[] = {
	{ "config_parse_lora_basic", "{\"fine_tune_type\":\"lora\",\"num_layers\":4,\"lora_parameters\":{\"rank\":16,\"scale\":20.0}}",
	  TN_OK, NULL, MLX, LORA, 16, 20, 4 },
	{ "config_parse_peft_flat_shape", "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":32,\"target_modules\":[\"q_proj\"],"
	  "\"lora_dropout\":0.05}", TN_OK, NULL, PEFT, LORA, 16, 2, ALL },
	{ "config_parse_peft_use_dora", P("\"use_dora\":true"), TN_OK, NULL, PEFT, DORA, 8, 2, ALL },
	{ "config_parse_peft_no_peft_type_still_detected", "{\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}", TN_OK, NULL,
	  PEFT, LORA, 4, 2, ALL },
	{ "null is as good as no key", "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":32,\"lora_parameters\":null,"
	  "\"fine_tune_type\":null}", TN_OK, NULL, PEFT, LORA, 16, 2, ALL },
	{ "null is as good as no key/peft_type", "{\"peft_type\":null,\"r\":16,\"lora_alpha\":32}", TN_OK, NULL, PEFT, LORA, 16, 2, ALL },
	{ "null is as good as no key/mlx-lm", "{\"peft_type\":null,\"r\":null,\"num_layers\":4}", TN_OK, NULL, MLX, LORA, 8, 20, 4 },
	{ "config_parse_peft_default_rank_when_r_absent", "{\"peft_type\":\"LORA\",\"target_modules\":[\"q_proj\"]}", TN_OK, NULL, PEFT,
	  LORA, 8, 1, ALL },
	{ "config_parse_peft_non_lora_peft_type_is_err", "{\"peft_type\":\"LOHA\"}", TN_E_UNSUPPORTED, "LOHA", UNUSED },
	{ "config_parse_peft_non_lora_peft_type_is_err/lokr", "{\"peft_type\":\"LOKR\"}", TN_E_UNSUPPORTED, "LOKR", UNUSED },
	{ "config_parse_peft_non_lora_peft_type_is_err/ia3", "{\"peft_type\":\"IA3\"}", TN_E_UNSUPPORTED, "IA3", UNUSED },
	{ "config_parse_peft_non_lora_peft_type_is_err/prompt", "{\"peft_type\":\"PROMPT_TUNING\"}", TN_E_UNSUPPORTED, "PROMPT_TUNING",
	  UNUSED },
	{ "config_parse_peft_type_case_insensitive", "{\"peft_type\":\"Lora\"}", TN_OK, NULL, PEFT, LORA, 8, 1, ALL },
	{ "config_parse_peft_invalid_regex_target_modules_is_err", "{\"peft_type\":\"LORA\",\"target_modules\":\"(unclosed\"}",
	  TN_E_FORMAT, "target_modules", UNUSED },
	{ "config_lora_parameters_nesting_wins_over_flat_keys", "{\"lora_parameters\":{\"rank\":64,\"scale\":8},\"num_layers\":3,"
	  "\"r\":8,\"lora_alpha\":16,\"peft_type\":\"LORA\"}", TN_OK, NULL, MLX, LORA, 64, 8, 3 },
	{ "config_parse_dora_and_alpha_scale", "{\"fine_tune_type\":\"dora\",\"lora_parameters\":{\"rank\":8,\"alpha\":32}}", TN_OK,
	  NULL, MLX, DORA, 8, 4, 16 },
	{ "config_use_dora_flag", "{\"use_dora\":true,\"lora_parameters\":{\"rank\":8}}", TN_OK, NULL, MLX, DORA, 8, 20, 16 },
	{ "config_defaults_and_unknown_keys_ignored", "{\"batch_size\":4,\"iters\":1000,\"learning_rate\":1e-5}", TN_OK, NULL, MLX, LORA,
	  8, 20, 16 },
	{ "config_unknown_fine_tune_type_is_err", "{\"fine_tune_type\":\"bogus\"}", TN_E_UNSUPPORTED, "bogus", UNUSED },
	{ "resolved_scale_alpha_only", "{\"lora_parameters\":{\"rank\":8,\"alpha\":32}}", TN_OK, NULL, MLX, LORA, 8, 4, 16 },
	{ "resolved_scale_scale_only", "{\"lora_parameters\":{\"rank\":8,\"scale\":7.5}}", TN_OK, NULL, MLX, LORA, 8, 7.5, 16 },
	{ "resolved_scale_alpha_wins_over_scale", "{\"lora_parameters\":{\"rank\":16,\"alpha\":64,\"scale\":99}}", TN_OK, NULL, MLX, LORA,
	  16, 4, 16 },
	{ "resolved_scale_neither_is_default", "{\"lora_parameters\":{\"rank\":16}}", TN_OK, NULL, MLX, LORA, 16, 20, 16 },
	{ "resolved_scale_alpha_with_nonpositive_rank_falls_back", "{\"lora_parameters\":{\"rank\":0,\"alpha\":1,\"scale\":5}}",
	  TN_E_FORMAT, "rank", UNUSED },
	{ "config_both_scale_and_alpha_alpha_wins", "{\"lora_parameters\":{\"rank\":8,\"alpha\":16,\"scale\":50}}", TN_OK, NULL, MLX,
	  LORA, 8, 2, 16 },
	{ "lora_layers_num_layers_negative_one_selects_all_blocks", "{\"num_layers\":-1}", TN_OK, NULL, MLX, LORA, 8, 20, ALL },
	{ "lora_layers_num_layers_zero_selects_all_blocks", "{\"num_layers\":0}", TN_OK, NULL, MLX, LORA, 8, 20, ALL },
	{ "peft_config_lora_alpha_defaults_to_8", "{\"peft_type\":\"LORA\",\"r\":16}", TN_OK, NULL, PEFT, LORA, 16, 0.5, ALL },
	{ "peft_config_accepts_and_ignores_training_only_fields", P("\"lora_dropout\":0.1,\"inference_mode\":false,"
	  "\"task_type\":\"CAUSAL_LM\",\"revision\":\"main\""), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_lora_bias_true_is_err (applied here)", P("\"lora_bias\":true"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_bias_all_or_lora_only_is_err (applied here)", P("\"bias\":\"lora_only\""), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_bias_all_or_lora_only_is_err/unknown", P("\"bias\":\"some\""), TN_E_UNSUPPORTED, "some", UNUSED },
	{ "peft_config_nonempty_modules_to_save_is_err (applied here)", P("\"modules_to_save\":[\"lm_head\"]"), TN_OK, NULL, PEFT, LORA,
	  8, 2, ALL },
	{ "peft_config_exotic_variants_are_rejected/alora", P("\"alora_invocation_tokens\":[1,2]"), TN_E_UNSUPPORTED,
	  "alora_invocation_tokens", UNUSED },
	{ "peft_config_exotic_variants_are_rejected/velora (harmless here)", P("\"velora_config\":{\"num_groups\":64}"), TN_OK, NULL,
	  PEFT, LORA, 8, 2, ALL },
	{ "peft_config_exotic_variants_are_rejected/monteclora (harmless here)", P("\"monteclora_config\":{\"num_samples\":8}"), TN_OK,
	  NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_exotic_variants_are_rejected/qalora (applied here)", P("\"use_qalora\":true"), TN_OK, NULL, PEFT, LORA, 8, 2,
	  ALL },
	{ "peft_config_exotic_variant_rejection_is_shape_independent", "{\"use_qalora\":true}", TN_E_UNSUPPORTED, "use_qalora", UNUSED },
	{ "peft_config_exotic_variant_rejection_is_shape_independent/native", "{\"lora_parameters\":{},\"alora_invocation_tokens\":[3]}",
	  TN_E_UNSUPPORTED, "alora_invocation_tokens", UNUSED },
	{ "peft_config_exotic_variant_defaults_are_accepted", P("\"use_qalora\":false,\"alora_invocation_tokens\":null,"
	  "\"velora_config\":null,\"qalora_group_size\":16"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_arrow_config_is_err", P("\"arrow_config\":{\"top_k\":3}"), TN_E_UNSUPPORTED, "arrow_config", UNUSED },
	{ "peft_config_use_bdlora_is_err (applied here)", P("\"use_bdlora\":{\"nblocks\":2,\"target_modules_bd_a\":[\"q_proj\"]}"), TN_OK,
	  NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_invented_unknown_active_field_is_err/object", P("\"novel\":{\"a\":1}"), TN_E_UNSUPPORTED, "novel", UNUSED },
	{ "peft_config_invented_unknown_active_field_is_err/number", P("\"novel\":3"), TN_E_UNSUPPORTED, "novel", UNUSED },
	{ "peft_config_invented_unknown_active_field_is_err/true", P("\"novel\":true"), TN_E_UNSUPPORTED, "novel", UNUSED },
	{ "peft_config_invented_unknown_active_field_is_err/text", P("\"novel\":\"x\""), TN_E_UNSUPPORTED, "novel", UNUSED },
	{ "peft_config_unknown_field_inactive_value_is_accepted", P("\"novel\":null,\"other\":false"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_benign_fields_with_real_values_are_accepted", P("\"auto_mapping\":{\"a\":1},\"base_model_name_or_path\":\"x\","
	  "\"peft_version\":\"0.21.0\",\"eva_config\":{\"rho\":2},\"corda_config\":{\"x\":1},\"lora_ga_config\":{\"x\":1},"
	  "\"loftq_config\":{\"bits\":4},\"megatron_config\":{\"x\":1},\"megatron_core\":\"megatron.core\","
	  "\"runtime_config\":{\"ephemeral_gpu_offload\":true},\"ensure_weight_tying\":true"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/niter", P("\"init_lora_weights\":\"pissa_niter_16\""),
	  TN_E_UNSUPPORTED, "pissa_niter_16", UNUSED },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/corda", P("\"init_lora_weights\":\"CorDA\""),
	  TN_E_UNSUPPORTED, "path_initial_model_for_weight_conversion", UNUSED },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/lora_ga", P("\"init_lora_weights\":\"lora_ga\""),
	  TN_E_UNSUPPORTED, "gradients", UNUSED },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/loftq", P("\"init_lora_weights\":\"loftq\""),
	  TN_E_UNSUPPORTED, "loftq", UNUSED },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/unknown", P("\"init_lora_weights\":\"magic\""),
	  TN_E_UNSUPPORTED, "magic", UNUSED },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/eva", P("\"init_lora_weights\":\"eva\""), TN_OK, NULL, PEFT,
	  LORA, 8, 2, ALL },
	{ "peft_config_init_lora_weights_allowlist_rejects_non_factor_modes/true", P("\"init_lora_weights\":true"), TN_OK, NULL, PEFT,
	  LORA, 8, 2, ALL },
	{ "peft_config_structural_reject_examples_layer_replication_and_token_indices (applied here)", P("\"layer_replication\":[[0,2]],"
	  "\"trainable_token_indices\":[1],\"target_parameters\":[\"experts.gate_up_proj\"]"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "layer_replication is a list of pairs", P("\"layer_replication\":[[0]]"), TN_E_FORMAT, "layer_replication", UNUSED },
	{ "peft_config_valid_flat_fixture_still_loads", "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":32,\"bias\":\"none\","
	  "\"rank_pattern\":{},\"alpha_pattern\":{},\"modules_to_save\":null,\"target_modules\":[\"q_proj\"],\"use_dora\":false}", TN_OK,
	  NULL, PEFT, LORA, 16, 2, ALL },
	{ "mlx_lm_native_fixture_still_loads_with_unknown_keys", "{\"num_layers\":8,\"lora_parameters\":{\"rank\":8,\"scale\":20},"
	  "\"novel\":{\"a\":1}}", TN_OK, NULL, MLX, LORA, 8, 20, 8 },
	{ "peft_rslora_scale_is_alpha_over_sqrt_r", "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":32,\"use_rslora\":true}", TN_OK,
	  NULL, PEFT, LORA, 16, 8, ALL },
	{ "peft_non_rslora_scale_is_alpha_over_r", "{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":32}", TN_OK, NULL, PEFT, LORA, 16, 2,
	  ALL },
	{ "peft_rank_pattern_overrides_rank_per_module", P("\"rank_pattern\":{\"q_proj\":32}"), TN_OK, NULL, PEFT, LORA, 32, 0.5, ALL },
	{ "peft_alpha_pattern_overrides_alpha_per_module", P("\"alpha_pattern\":{\"q_proj\":64}"), TN_OK, NULL, PEFT, LORA, 8, 8, ALL },
	{ "peft_rank_and_alpha_pattern_with_rslora", P("\"rank_pattern\":{\"q_proj\":16},\"alpha_pattern\":{\"q_proj\":64},"
	  "\"use_rslora\":true"), TN_OK, NULL, PEFT, LORA, 16, 16, ALL },
	{ "peft_pattern_lookup_anchors_at_segment_boundary", P("\"rank_pattern\":{\"_proj\":99}"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "peft_pattern_lookup_regex_key", P("\"rank_pattern\":{\"layers\\\\.0\\\\.self_attn\\\\.q_proj\":4}"), TN_OK, NULL, PEFT, LORA, 4,
	  4, ALL },
	{ "peft_rank_pattern_resolves_in_json_insertion_order_not_sorted", P("\"rank_pattern\":{\"self_attn.q_proj\":11,\"q_proj\":22}"),
	  TN_OK, NULL, PEFT, LORA, 11, 16.0 / 11, ALL },
	{ "peft_rank_pattern_resolves_in_json_insertion_order_not_sorted/reversed",
	  P("\"rank_pattern\":{\"q_proj\":22,\"self_attn.q_proj\":11}"), TN_OK, NULL, PEFT, LORA, 22, 16.0 / 22, ALL },
	{ "peft_alpha_pattern_resolves_in_json_insertion_order_not_sorted",
	  P("\"alpha_pattern\":{\"self_attn.q_proj\":40,\"q_proj\":80}"), TN_OK, NULL, PEFT, LORA, 8, 5, ALL },
	{ "pattern caret pins to the root", P("\"rank_pattern\":{\"^q_proj\":3,\"^model.layers.0.self_attn.q_proj\":5}"), TN_OK, NULL,
	  PEFT, LORA, 5, 16.0 / 5, ALL },
	{ "mlxlm_native_path_unchanged_by_peft_work", "{\"num_layers\":8,\"lora_parameters\":{\"rank\":4,\"scale\":16}}", TN_OK, NULL, MLX,
	  LORA, 4, 16, 8 },
	{ "peft_scale_for_nonpositive_resolved_rank_is_zero", P("\"rank_pattern\":{\"q_proj\":0}"), TN_OK, NULL, PEFT, LORA, 0, 0, ALL },
	{ "pattern_lookup_skips_uncompilable_pattern_key", P("\"rank_pattern\":{\"(bad\":11,\"q_proj\":22}"), TN_OK, NULL, PEFT, LORA, 22,
	  16.0 / 22, ALL },
	{ "ordered_pattern_non_map_value_is_parse_error/rank", P("\"rank_pattern\":[1]"), TN_E_FORMAT, "rank_pattern", UNUSED },
	{ "ordered_pattern_non_map_value_is_parse_error/alpha", P("\"alpha_pattern\":\"x\""), TN_E_FORMAT, "alpha_pattern", UNUSED },
	{ "config_parse_peft_invalid_regex_exclude_modules_is_err", P("\"exclude_modules\":\"[\""), TN_E_FORMAT, "exclude_modules", UNUSED },
	{ "lora_alpha may be a float", "{\"r\":16,\"lora_alpha\":11.313708498984761,\"use_rslora\":true}", TN_OK, NULL, PEFT, LORA, 16,
	  11.313708498984761 / 4, ALL },
	{ "fine_tune_type_as_str_and_display_and_variant_tags", "{\"fine_tune_type\":\"full\",\"lora_parameters\":null}", TN_OK, NULL, MLX,
	  TN_METHOD_FULL, 8, 20, 16 },
	{ "layers_to_transform with a pattern", "{\"peft_type\":\"LORA\",\"target_modules\":\".*q\",\"layers_to_transform\":[1]}",
	  TN_E_FORMAT, "layers_to_transform", UNUSED },
	{ "layers_pattern alone", P("\"layers_pattern\":\"h\""), TN_E_FORMAT, "layers_pattern", UNUSED },
	{ "use_dora with lora_bias", P("\"use_dora\":true,\"lora_bias\":true"), TN_E_FORMAT, "lora_bias", UNUSED },
	{ "load_adapters_peft_flat_shape_rank8_scale_not_default", "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":32}", TN_OK, NULL, PEFT,
	  LORA, 8, 4, ALL },
	{ "read_adapter_config_parses_valid_config", "{\"fine_tune_type\":\"dora\",\"num_layers\":5,\"lora_parameters\":{\"rank\":4,"
	  "\"scale\":4}}", TN_OK, NULL, MLX, DORA, 4, 4, 5 },
	{ "peft_config_all_selection_fields_parse", P("\"exclude_modules\":[\"x\"],\"layers_to_transform\":[0],\"layers_pattern\":"
	  "\"layers\",\"modules_to_save\":[\"y\"],\"target_parameters\":[\"z.w\"]"), TN_OK, NULL, PEFT, LORA, 8, 2, ALL },
	{ "the same key twice", "{\"r\":1,\"r\":2}", TN_E_FORMAT, "twice", UNUSED },
	{ "read_adapter_config_non_utf8_body_is_parse_error", "{\"r\":\"\xff\"}", TN_E_FORMAT, "", UNUSED },
};

static const char module[] = "model.layers.0.self_attn.q_proj";

static void check_row(struct al *t, const struct row *r)
{
	struct tn_adapter_config c;
	struct tn_arena arena;
	double rank, scale;
	tn_arena_init(&arena, t->ctx);
	tn_status status = tn_adapter_config_parse(&arena, r->config, strlen(r->config), "adapter_config.json", &c, &t->err);
	if (status != r->status)
		fail_msg("%s gave %s: %s", r->name, tn_status_name(status), status == TN_OK ? "" : t->err.msg);
	if (status != TN_OK) {
		al_expect_named(t, r->named);
	} else {
		al_ok(t, tn_pattern_value(&c.ranks, module, (double)c.rank, &rank, &t->err));
		al_ok(t, tn_effective_scale(&c, module, (uint64_t)rank, &scale, &t->err));
		assert_int_equal(c.dialect, r->dialect);
		assert_int_equal(c.method, r->method);
		assert_int_equal((uint64_t)rank, r->rank);
		assert_int_equal(c.num_layers, r->num_layers);
		if (fabs(scale - r->scale) > 1e-15 * fabs(scale))
			fail_msg("%s: the scale is %.17g, %.17g was expected", r->name, scale, r->scale);
	}
	tn_adapter_config_release(&c);
	tn_arena_release(&arena);
}

static void test_row(void **state)
{
	struct al *t;
	const struct row *r = *state;
	void *made;
	al_setup(&made);
	t = made;
	check_row(t, r);
	al_teardown(&made);
}

int main(void)
{
	enum { COUNT = sizeof rows / sizeof *rows };
	struct CMUnitTest tests[COUNT];
	for (size_t i = 0; i < COUNT; i++)
		tests[i] = (struct CMUnitTest){ rows[i].name, test_row, NULL, NULL, (void *)(uintptr_t)&rows[i] };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
