/* SPDX-License-Identifier: Apache-2.0 */
/* Which modules a configuration selects: PEFT's order of checks and mlx-lm's keys and window. */
#include "adapterlib.h"

#include "adapter/config.h"
#include "adapter/selection.h"

#include <string.h>

/* One configuration, a module, the number of layers beside it (mlx-lm), and whether it is selected. */
struct row {
	const char *name, *config, *path;
	uint64_t layers;
	int selected;
};
#define P(rest) "{\"peft_type\":\"LORA\"," rest "}"
#define M(layers, keys) "{\"num_layers\":" #layers ",\"lora_parameters\":{\"keys\":" keys "}}"
#define Q(n) "model.layers." #n ".self_attn.q_proj"

static const struct row rows[] = {
	{ "config_parse_peft_target_modules_regex", P("\"target_modules\":\".*\\\\.(q|v)_proj\""), Q(0), 0, 1 },
	{ "config_parse_peft_target_modules_regex/k", P("\"target_modules\":\".*\\\\.(q|v)_proj\""), "a.k_proj", 0, 0 },
	{ "path_key_matching", M(-1, "[\"q_proj\"]"), Q(0), 4, 1 },
	{ "path_key_matching/xq", M(-1, "[\"q_proj\"]"), "model.layers.0.self_attn.xq_proj", 4, 0 },
	{ "path_key_matching/exact", M(-1, "[\"lm_head\"]"), "lm_head", 0, 1 },
	{ "lora_layers_keys_and_num_layers_window", M(2, "[\"q_proj\"]"), Q(2), 4, 1 },
	{ "lora_layers_keys_and_num_layers_window/outside", M(2, "[\"q_proj\"]"), Q(1), 4, 0 },
	{ "lora_layers_covers_all_blocks_when_num_layers_large", M(16, "[\"q_proj\"]"), Q(0), 4, 1 },
	{ "mlx-lm: a full path is not limited by the window", M(1, "[\"model.layers.0.self_attn.q_proj\"]"), Q(0), 4, 1 },
	{ "mlx-lm: a key with its place inside the layer", M(1, "[\"self_attn.q_proj\"]"), Q(3), 4, 1 },
	{ "mlx-lm: without keys everything in the window", "{\"num_layers\":1}", "model.layers.3.mlp.gate", 4, 1 },
	{ "mlx-lm: without keys nothing outside layers", "{\"num_layers\":-1}", "lm_head", 0, 0 },
	{ "peft_select_target_modules_list", P("\"target_modules\":[\"q_proj\"]"), Q(3), 0, 1 },
	{ "peft_select_target_modules_regex", P("\"target_modules\":\".*layers\\\\.[0-2]\\\\..*q_proj\""), Q(2), 0, 1 },
	{ "peft_select_target_modules_regex/no", P("\"target_modules\":\".*layers\\\\.[0-2]\\\\..*q_proj\""), Q(3), 0, 0 },
	{ "peft_select_exclude_modules_list", P("\"target_modules\":[\"q_proj\",\"v_proj\"],\"exclude_modules\":[\"v_proj\"]"),
	  "model.layers.0.self_attn.v_proj", 0, 0 },
	{ "peft_select_exclude_modules_list/kept", P("\"target_modules\":[\"q_proj\",\"v_proj\"],\"exclude_modules\":[\"v_proj\"]"), Q(0), 0,
	  1 },
	{ "peft_select_exclude_modules_regex", P("\"target_modules\":[\"q_proj\"],\"exclude_modules\":\".*layers\\\\.1\\\\..*\""), Q(1), 0,
	  0 },
	{ "config_parse_peft_exclude_modules_all_linear_is_literal_regex",
	  P("\"target_modules\":[\"q_proj\"],\"exclude_modules\":\"all-linear\""), Q(1), 0, 1 },
	{ "peft_select_layers_to_transform_int", P("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1"), Q(1), 0, 1 },
	{ "peft_select_layers_to_transform_int/other", P("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1"), Q(2), 0, 0 },
	{ "layers_to_transform 0 is a layer", P("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":0"), Q(0), 0, 1 },
	{ "peft_select_layers_to_transform_list", P("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0,3]"), Q(3), 0, 1 },
	{ "peft_layers_to_transform_index_not_in_list_deselects", P("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[5]"), Q(0), 0,
	  0 },
	{ "peft_layers_to_transform_index_not_in_list_deselects/5", P("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[5]"), Q(5),
	  0, 1 },
	{ "peft_layers_to_transform_no_extractable_index_deselects", P("\"target_modules\":[\"head\"],\"layers_to_transform\":[0]"),
	  "lm.head", 0, 0 },
	{ "peft_select_layers_pattern_custom_attr",
	  P("\"target_modules\":[\"c_attn\"],\"layers_to_transform\":[2],\"layers_pattern\":\"h\""), "transformer.h.2.attn.c_attn", 0, 1 },
	{ "peft_select_layers_pattern_custom_attr/no",
	  P("\"target_modules\":[\"c_attn\"],\"layers_to_transform\":[2],\"layers_pattern\":\"h\""), "transformer.x.2.attn.c_attn", 0, 0 },
	{ "peft_select_no_restriction_adapts_all_blocks_over_16", P("\"target_modules\":[\"q_proj\"]"), Q(19), 20, 1 },
	{ "peft_target_modules_all_linear_string_is_sentinel_not_regex", P("\"target_modules\":\"all-linear\""), Q(0), 0, 1 },
	{ "peft_target_modules_all_linear_is_case_insensitive", P("\"target_modules\":\"ALL-Linear\""), Q(0), 0, 1 },
	{ "peft_target_modules_all_linear_excludes_head_and_non_rank2", P("\"target_modules\":\"all-linear\""), "lm_head", 0, 0 },
	{ "peft_target_modules_all_linear_excludes_head_and_non_rank2/prefix", P("\"target_modules\":\"all-linear\""), "model.lm_head", 0,
	  0 },
	{ "module_matcher_list_is_exact_or_dotted_suffix", P("\"target_modules\":[\"q_proj\"]"), "xq_proj", 0, 0 },
	{ "module_matcher_list_is_exact_or_dotted_suffix/extra", P("\"target_modules\":[\"q_proj\"]"), "a.q_proj_extra", 0, 0 },
	{ "module_matcher_list_is_exact_or_dotted_suffix/exact", P("\"target_modules\":[\"q_proj\"]"), "q_proj", 0, 1 },
	{ "module_matcher_regex_is_full_match", P("\"target_modules\":\"q_proj\""), "model.q_proj", 0, 0 },
	{ "fullmatch tries further alternatives: a|ab", P("\"target_modules\":\"a|ab\""), "ab", 0, 1 },
	{ "lookahead", P("\"target_modules\":\"model\\\\.layers\\\\.(?!0\\\\.)\\\\d+\\\\..*q_proj\""), Q(0), 0, 0 },
	{ "lookahead/other", P("\"target_modules\":\"model\\\\.layers\\\\.(?!0\\\\.)\\\\d+\\\\..*q_proj\""), Q(1), 0, 1 },
	{ "peft_autodiscovery_none_target_skips_non_rank2", P("\"r\":8"), Q(0), 0, 1 },
	/* the rules behind PEFT's own table (tests/test_tuners_utils.py), in this order */
	{ "PEFT: an exact name is not filtered by layers", P("\"target_modules\":[\"model.layers.0.q\"],\"layers_to_transform\":[3]"),
	  "model.layers.0.q", 0, 1 },
	{ "PEFT: an ending is filtered by layers", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[3]"), "model.layers.0.q", 0, 0 },
	{ "PEFT: layers at the root have no index", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[0]"), "layers.0.q", 0, 0 },
	{ "PEFT: the first index counts, not the last", P("\"target_modules\":[\"w1\"],\"layers_to_transform\":[2]"),
	  "model.layers.2.experts.7.w1", 0, 1 },
	{ "PEFT: not the index of the expert", P("\"target_modules\":[\"w1\"],\"layers_to_transform\":[7]"), "model.layers.2.experts.7.w1", 0,
	  0 },
	{ "PEFT: layers_pattern finds layers at the root", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[0],\"layers_pattern\":"
	  "\"layers\""), "layers.0.q", 0, 1 },
	{ "PEFT: layers_pattern at the root is a whole name", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[0],\"layers_pattern\":"
	  "\"layers\""), "my_layers.0.q", 0, 0 },
	{ "PEFT: groups of a layers_pattern are its own", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[3],\"layers_pattern\":"
	  "\"(h|layers)\""), "model.layers.3.q", 0, 1 },
	{ "PEFT: layers_pattern is a pattern", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[1],\"layers_pattern\":\"lay..s\""),
	  "model.layers.1.q", 0, 1 },
	{ "PEFT: several layers_patterns", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[1],\"layers_pattern\":[\"h\",\"layers\"]"),
	  "model.layers.1.q", 0, 1 },
	{ "PEFT: an empty list of layers filters nothing", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[]"), "m.layers.9.q", 0, 1 },
	{ "PEFT: modules_to_save are no targets", P("\"target_modules\":[\"lm_head\",\"q\"],\"modules_to_save\":[\"lm_head\"]"), "lm_head", 0,
	  0 },
	{ "PEFT: nor what is below them", P("\"target_modules\":[\"dense\"],\"modules_to_save\":[\"score\"]"), "model.score.dense", 0, 0 },
	{ "PEFT: exclude_modules wins over an exact name", P("\"target_modules\":[\"a.q\"],\"exclude_modules\":[\"q\"]"), "a.q", 0, 0 },
	{ "PEFT: target_parameters alone select no module", P("\"target_parameters\":[\"experts.w\"]"), Q(0), 0, 0 },
	{ "peft_layer_index_default_and_custom_pattern", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[7]"), "model.layers.7.q",
	  0, 1 },
	{ "peft_layer_index_default_and_custom_pattern/custom",
	  P("\"target_modules\":[\"q\"],\"layers_to_transform\":[3],\"layers_pattern\":\"blk\""), "model.blk.3.q", 0, 1 },
	{ "linear_to_dora_layers_grafts_correctly", M(-1, "[\"q_proj\"]"), "model.layers.0.self_attn.k_proj", 4, 0 },
	{ "linear_to_dora_layers_grafts_correctly/head", M(-1, "[\"q_proj\"]"), "lm_head", 0, 0 },
	{ "PEFT: 001 is 1", P("\"target_modules\":[\"q\"],\"layers_to_transform\":[1]"), "model.layers.001.q", 0, 1 },
};

static void test_row(void **state)
{
	const struct row *r = *state;
	struct tn_adapter_config c;
	struct tn_arena arena;
	void *made;
	int selected = 0;
	al_setup(&made);
	struct al *t = made;
	tn_arena_init(&arena, t->ctx);
	al_ok(t, tn_adapter_config_parse(&arena, r->config, strlen(r->config), "adapter_config.json", &c, &t->err));
	if (c.dialect == TN_DIALECT_MLX_LM)
		selected = tn_select_mlx(&c, r->path, r->layers);
	else
		al_ok(t, tn_select_peft(&c, r->path, tn_path_is_head(r->path), &selected, &t->err));
	if (selected != r->selected)
		fail_msg("'%s' is %sselected", r->path, selected ? "" : "not ");
	tn_adapter_config_release(&c);
	tn_arena_release(&arena);
	al_teardown(&made);
}

static void block_index_parsing(void **state)
{
	uint64_t number;
	size_t prefix;
	(void)state;
	assert_string_equal(tn_path_in_layer("model.layers.27.mlp.up", &number, &prefix), "mlp.up");
	assert_int_equal(number, 27);
	assert_int_equal(prefix, strlen("model.layers."));
	assert_non_null(tn_path_in_layer("layers.0.q", &number, &prefix));
	assert_int_equal(number, 0);
	assert_null(tn_path_in_layer("lm_head", &number, &prefix));
	assert_null(tn_path_in_layer("model.layers.x.q", &number, &prefix));
}

static void target_parameters_are_nested_in_the_order_of_registration(void **state)
{
	void *made;
	struct tn_adapter_config c;
	struct tn_arena arena;
	const char *names[4];
	static const char config[] = P("\"target_parameters\":[\"mlp.experts.down_proj\",\"mlp.experts.gate_up_proj\"]");
	(void)state;
	al_setup(&made);
	struct al *t = made;
	tn_arena_init(&arena, t->ctx);
	al_ok(t, tn_adapter_config_parse(&arena, config, strlen(config), "x", &c, &t->err));
	assert_int_equal(tn_select_parameters(&c, "model.layers.0.mlp.experts", names), 2);
	assert_string_equal(names[0], "gate_up_proj");
	assert_string_equal(names[1], "down_proj");
	assert_int_equal(tn_select_parameters(&c, "model.layers.0.xmlp.experts", names), 0);
	tn_adapter_config_release(&c);
	tn_arena_release(&arena);
	al_teardown(&made);
}

int main(void)
{
	enum { COUNT = sizeof rows / sizeof *rows };
	struct CMUnitTest tests[COUNT + 2];
	for (size_t i = 0; i < COUNT; i++)
		tests[i] = (struct CMUnitTest){ rows[i].name, test_row, NULL, NULL, (void *)(uintptr_t)&rows[i] };
	tests[COUNT] = (struct CMUnitTest)cmocka_unit_test(block_index_parsing);
	tests[COUNT + 1] = (struct CMUnitTest)cmocka_unit_test(target_parameters_are_nested_in_the_order_of_registration);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
