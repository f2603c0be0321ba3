/* SPDX-License-Identifier: Apache-2.0 */
/* adapter_config.json by itself, through the public header: every value that it can hold, and what follows for a module. */
#include "adapterlib.h"
#include "testlib.h"

#include <math.h>
#include <string.h>

#define Q(n) "model.layers." #n ".self_attn.q_proj"

static const char peft_text[] =
	"{\"peft_type\":\"LORA\",\"r\":16,\"lora_alpha\":32,\"lora_dropout\":0.05,\"use_dora\":true,\"use_rslora\":true,"
	"\"fan_in_fan_out\":true,\"target_modules\":[\"q_proj\",\"v_proj\"],\"exclude_modules\":\".*\\\\.v_proj\","
	"\"layers_to_transform\":[0,3],\"layers_pattern\":\"layers\",\"rank_pattern\":{\"layers.3.self_attn.q_proj\":4,\"q_proj\":64},"
	"\"alpha_pattern\":{\"q_proj\":8}}";

static const char mlx_text[] = "{\"fine_tune_type\":\"dora\",\"num_layers\":2,\"lora_parameters\":{\"rank\":4,\"scale\":10.0,"
			       "\"dropout\":0.1,\"keys\":[\"self_attn.q_proj\",\"lm_head\"]}}";

static tn_lora_config *parse(struct al *t, const char *text)
{
	tn_lora_config *config = NULL;
	al_ok(t, tn_lora_config_parse(t->ctx, text, strlen(text), &config, &t->err));
	return config;
}

static void values_of_peft(void **state)
{
	struct al *t = *state;
	tn_lora_config *config = parse(t, peft_text);
	const struct tn_lora_parameters *p = tn_lora_config_parameters(config);
	struct tn_module_matcher m;
	assert_int_equal(p->dialect, TN_DIALECT_PEFT);
	assert_int_equal(p->fine_tune, TN_FINE_TUNE_DORA);
	assert_int_equal(p->rank, 16);
	assert_true(p->alpha == 32 && p->scale == 8 && p->dropout == 0.05);
	assert_int_equal(p->num_layers, TN_LORA_ALL_LAYERS);
	assert_true(p->use_rslora && p->fan_in_fan_out);
	assert_int_equal(p->layers_to_transform_count, 2);
	assert_int_equal(p->layers_to_transform[1], 3);
	assert_int_equal(p->layers_pattern_count, 1);
	assert_string_equal(p->layers_pattern[0], "layers");
	assert_int_equal(p->rank_pattern_count, 2);
	assert_string_equal(p->rank_pattern[0].pattern, "layers.3.self_attn.q_proj");
	assert_true(p->rank_pattern[0].value == 4 && p->rank_pattern[1].value == 64);
	assert_int_equal(p->alpha_pattern_count, 1);
	assert_true(p->alpha_pattern[0].value == 8);
	tn_lora_config_matcher(config, TN_LORA_TARGET_MODULES, &m);
	assert_int_equal(m.kind, TN_MATCHER_LIST);
	assert_int_equal(m.count, 2);
	assert_string_equal(m.names[1], "v_proj");
	tn_lora_config_matcher(config, TN_LORA_EXCLUDE_MODULES, &m);
	assert_int_equal(m.kind, TN_MATCHER_REGEX);
	assert_string_equal(m.pattern, ".*\\.v_proj");
	tn_lora_config_matcher(config, TN_LORA_KEYS, &m);
	assert_int_equal(m.kind, TN_MATCHER_NONE);
	tn_lora_config_destroy(config);
}

static void values_of_mlx_lm(void **state)
{
	struct al *t = *state;
	tn_lora_config *config = parse(t, mlx_text);
	const struct tn_lora_parameters *p = tn_lora_config_parameters(config);
	struct tn_module_matcher m;
	assert_int_equal(p->dialect, TN_DIALECT_MLX_LM);
	assert_int_equal(p->fine_tune, TN_FINE_TUNE_DORA);
	assert_int_equal(p->rank, 4);
	assert_true(p->alpha == 40 && p->scale == 10 && p->dropout == 0.1);
	assert_int_equal(p->num_layers, 2);
	tn_lora_config_matcher(config, TN_LORA_KEYS, &m);
	assert_int_equal(m.kind, TN_MATCHER_LIST);
	assert_string_equal(m.names[0], "self_attn.q_proj");
	tn_lora_config_destroy(config);
}

static void defaults(void **state)
{
	struct al *t = *state;
	tn_lora_config *config = parse(t, "{}");
	const struct tn_lora_parameters *p = tn_lora_config_parameters(config);
	assert_true(p->dialect == TN_DIALECT_MLX_LM && p->fine_tune == TN_FINE_TUNE_LORA);
	assert_true(p->rank == 8 && p->scale == 20 && p->alpha == 160 && p->dropout == 0 && p->num_layers == 16);
	assert_true(p->rank_pattern_count == 0 && p->layers_to_transform_count == 0 && p->layers_pattern_count == 0);
	tn_lora_config_destroy(config);
	config = parse(t, "{\"peft_type\":\"LORA\"}");
	p = tn_lora_config_parameters(config);
	assert_true(p->dialect == TN_DIALECT_PEFT && p->rank == 8 && p->alpha == 8 && p->scale == 1 && p->dropout == 0);
	tn_lora_config_destroy(config);
	config = parse(t, "{\"fine_tune_type\":\"full\",\"lora_parameters\":{\"rank\":8,\"alpha\":16,\"scale\":99},\"num_layers\":0}");
	p = tn_lora_config_parameters(config);
	assert_true(p->fine_tune == TN_FINE_TUNE_FULL && p->alpha == 16 && p->scale == 2 && p->num_layers == TN_LORA_ALL_LAYERS);
	tn_lora_config_destroy(config);
	tn_lora_config_destroy(NULL);
	assert_string_equal(tn_fine_tune_name(TN_FINE_TUNE_LORA), "lora");
	assert_string_equal(tn_fine_tune_name(TN_FINE_TUNE_DORA), "dora");
	assert_string_equal(tn_fine_tune_name(TN_FINE_TUNE_FULL), "full");
}

static void expect_module(struct al *t, const tn_lora_config *config, const char *path, uint64_t rank, double alpha, double scale)
{
	uint64_t found_rank;
	double found_alpha, found_scale;
	al_ok(t, tn_lora_config_module(config, path, &found_rank, &found_alpha, &found_scale, &t->err));
	assert_int_equal(found_rank, rank);
	assert_true(found_alpha == alpha && fabs(found_scale - scale) < 1e-15);
	al_ok(t, tn_lora_config_module(config, path, NULL, NULL, NULL, &t->err));
}

static void ranks_and_scales_of_modules(void **state)
{
	struct al *t = *state;
	tn_lora_config *config = parse(t, peft_text);
	expect_module(t, config, Q(3), 4, 8, 4);
	expect_module(t, config, Q(0), 64, 8, 1);
	expect_module(t, config, "model.layers.0.self_attn.v_proj", 16, 32, 8);
	tn_lora_config_destroy(config);
	config = parse(t, "{\"peft_type\":\"LORA\",\"rank_pattern\":{\"q_proj\":-2}}");
	expect_module(t, config, Q(0), 0, 8, 0);
	tn_lora_config_destroy(config);
	config = parse(t, mlx_text);
	expect_module(t, config, Q(0), 4, 40, 10);
	tn_lora_config_destroy(config);
}

static int selects(struct al *t, const tn_lora_config *config, const char *path, uint64_t layers)
{
	int selected = -1;
	al_ok(t, tn_lora_config_selects(config, path, layers, &selected, &t->err));
	return selected;
}

static int matches(struct al *t, const tn_lora_config *config, tn_lora_rule rule, const char *path)
{
	int matched = -1;
	al_ok(t, tn_lora_config_matches(config, rule, path, &matched, &t->err));
	return matched;
}

static void rules_alone_and_together(void **state)
{
	struct al *t = *state;
	tn_lora_config *config = parse(t, peft_text);
	assert_int_equal(matches(t, config, TN_LORA_TARGET_MODULES, "model.layers.1.self_attn.v_proj"), 1);
	assert_int_equal(matches(t, config, TN_LORA_TARGET_MODULES, "xq_proj"), 0);
	assert_int_equal(matches(t, config, TN_LORA_EXCLUDE_MODULES, "model.layers.1.self_attn.v_proj"), 1);
	assert_int_equal(matches(t, config, TN_LORA_EXCLUDE_MODULES, "v_proj"), 0);
	assert_int_equal(matches(t, config, TN_LORA_KEYS, Q(0)), 0);
	assert_int_equal(selects(t, config, Q(3), 0), 1);
	assert_int_equal(selects(t, config, Q(1), 0), 0);
	assert_int_equal(selects(t, config, "model.layers.3.self_attn.v_proj", 0), 0);
	tn_lora_config_destroy(config);
	config = parse(t, "{\"peft_type\":\"LORA\",\"target_modules\":\"All-Linear\"}");
	struct tn_module_matcher m;
	tn_lora_config_matcher(config, TN_LORA_TARGET_MODULES, &m);
	assert_int_equal(m.kind, TN_MATCHER_ALL_LINEAR);
	assert_int_equal(matches(t, config, TN_LORA_TARGET_MODULES, Q(0)), 1);
	assert_int_equal(matches(t, config, TN_LORA_TARGET_MODULES, "model.lm_head"), 0);
	tn_lora_config_destroy(config);
	config = parse(t, mlx_text);
	assert_int_equal(matches(t, config, TN_LORA_KEYS, Q(0)), 1);
	assert_int_equal(selects(t, config, Q(3), 4), 1);
	assert_int_equal(selects(t, config, Q(1), 4), 0);
	assert_int_equal(selects(t, config, Q(1), 0), 1);
	assert_int_equal(selects(t, config, "lm_head", 4), 1);
	tn_lora_config_destroy(config);
}

static void what_is_refused(void **state)
{
	struct al *t = *state;
	tn_lora_config *config = NULL;
	static const struct {
		const char *text, *named;
		tn_status status;
	} rows[] = {
		{ "[]", "object", TN_E_FORMAT },
		{ "{\"peft_type\":\"LOHA\"}", "LOHA", TN_E_UNSUPPORTED },
		{ "{\"r\":0}", "'r'", TN_E_FORMAT },
		{ "{\"r\":8,\"target_modules\":\"(unclosed\"}", "target_modules", TN_E_FORMAT },
		{ "{\"r\":8,\"lora_dropout\":\"0.1\"}", "lora_dropout", TN_E_FORMAT },
		{ "{\"r\":8,\"novel\":1}", "novel", TN_E_UNSUPPORTED },
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		al_expect(t, tn_lora_config_parse(t->ctx, rows[i].text, strlen(rows[i].text), &config, &t->err), rows[i].status);
		al_expect_named(t, rows[i].named);
		assert_null(config);
	}
	config = parse(t, "{\"peft_type\":\"LORA\",\"target_modules\":\"(a+)+x\"}");
	int selected = -1;
	al_expect(t, tn_lora_config_selects(config, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaayx", 0, &selected, &t->err), TN_E_LIMIT);
	assert_int_equal(selected, -1);
	tn_lora_config_destroy(config);
}

static void files(void **state)
{
	struct al *t = *state;
	const char *folder = al_path(t, "adapter");
	tn_lora_config *config = NULL;
	al_expect(t, tn_lora_config_read(t->ctx, folder, &config, &t->err), TN_E_NOTFOUND);
	al_write_toy_adapter(folder, peft_text, 1, 2, 0, 0);
	al_ok(t, tn_lora_config_read(t->ctx, folder, &config, &t->err));
	assert_int_equal(tn_lora_config_parameters(config)->rank, 16);
	tn_lora_config_destroy(config);
}

static tn_status parse_job(tn_context *ctx, void *arg, struct tn_error *err)
{
	(void)arg;
	tn_lora_config *config = NULL;
	tn_status status = tn_lora_config_parse(ctx, peft_text, strlen(peft_text), &config, err);
	tn_lora_config_destroy(config);
	return status;
}

static void every_allocation_fails_once(void **state)
{
	(void)state;
	tt_fail_each_allocation("adapter_config.json", SIZE_MAX, parse_job, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(values_of_peft), AL_TEST(values_of_mlx_lm), AL_TEST(defaults), AL_TEST(ranks_and_scales_of_modules),
		AL_TEST(rules_alone_and_together), AL_TEST(what_is_refused), AL_TEST(files),
		cmocka_unit_test(every_allocation_fails_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
