/* SPDX-License-Identifier: Apache-2.0 */
/* Every case of data/mlx_adapters.tar.xz (mlx-lm 0.32.2) on a base that is not quantized: at most half a unit in the last
 * place from the float64 truth. And every adapter that mlx-lm refuses, or takes although it should not. */
#include "adapterlib.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CASES ADAPTER_DATA "/mlx_adapters"

static int is_quantized(const char *base)
{
	return strstr(base, "_q") || strstr(base, "fp4") || strstr(base, "fp8") || strstr(base, "mixed");
}

static double ulp(tn_dtype dtype, double x)
{
	int digits = dtype == TN_F32 ? 23 : dtype == TN_F16 ? 10 : 7, low = dtype == TN_F16 ? -14 : -126, e;
	frexp(x, &e);
	return ldexp(1, (x == 0 || e - 1 < low ? low : e - 1) - digits);
}

/* Element i of tensor `name` of mlx-lm's model object: as it stands, GPT-2's stored the other way round, or one expert of
 * the Hugging Face layout. */
struct view {
	double *values;
	tn_dtype dtype;
	uint64_t rows;            /* of the transposed tensor, or 0 */
};

static struct view view_tensor(struct al *t, const tn_checkpoint *got, const char *name, const struct tn_tensor *want)
{
	struct view v = { 0 };
	const struct tn_tensor *found;
	char path[256];
	const char *stack = strstr(name, ".switch_mlp.");
	v.values = al_load(t, got, name, &found);
	if (!v.values && strncmp(name, "model.h.", 8) == 0) {
		v.values = al_load(t, got, name + 6, &found);
		v.rows = want->rank == 2 ? want->shape[0] : 0;
	}
	if (!v.values && stack) {
		const char *w = strstr(name, "gate_proj") ? "w1" : strstr(name, "up_proj") ? "w3" : "w2";
		v.values = malloc(want->elements * sizeof(double));
		for (uint64_t e = 0, at = 0; e < want->shape[0]; e++) {
			snprintf(path, sizeof path, "%.*s.experts.%llu.%s.weight", (int)(stack - name), name,
				 (unsigned long long)e, w);
			double *one = al_load(t, got, path, &found);
			assert_non_null(one);
			memcpy(v.values + at, one, found->elements * sizeof *one);
			at += found->elements;
			free(one);
		}
	}
	if (!v.values)
		fail_msg("the result has no %s", name);
	v.dtype = found->dtype;
	return v;
}

/* Largest distance to the truth in units of the last place. */
static double distance(struct al *t, const tn_checkpoint *got, const tn_checkpoint *expect, const char *name)
{
	const struct tn_tensor *want;
	double *truth = al_load(t, expect, name, &want), worst = 0;
	struct view v = view_tensor(t, got, strchr(name, '.') + 1, want);
	for (uint64_t i = 0; i < want->elements; i++) {
		uint64_t k = v.rows ? i % want->shape[1] * v.rows + i / want->shape[1] : i;
		worst = fmax(worst, fabs(v.values[k] - truth[i]) / ulp(v.dtype, truth[i]));
	}
	free(truth);
	free(v.values);
	return worst;
}

static void compare_case(struct al *t, const char *name, const char *out)
{
	tn_checkpoint *got, *expect;
	char path[512];
	snprintf(path, sizeof path, "%s/adapters/%s/expect.safetensors", CASES, name);
	al_ok(t, tn_checkpoint_open(t->ctx, out, &got, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, path, &expect, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(expect); i++) {
		const char *tensor = tn_checkpoint_at(expect, i)->name;
		int full = strncmp(name, "full", 4) == 0 && strncmp(tensor, "fused.", 6) == 0;
		if (strncmp(tensor, "expect64.", 9) != 0 && !full)
			continue;
		double worst = distance(t, got, expect, tensor);
		if (!(worst <= (full ? 0 : 0.505)))
			fail_msg("%s: %s is %g units in the last place away", name, tensor, worst);
	}
	tn_checkpoint_close(expect);
	tn_checkpoint_close(got);
}

static void test_every_dense_case(void **state)
{
	struct al *t = *state;
	json_t *root = al_json(CASES "/cases.json"), *info;
	const char *name;
	size_t fused = 0;
	json_object_foreach(json_object_get(root, "cases"), name, info) {
		char base[512], adapter[512];
		const char *out = al_path(t, "%s", name);
		snprintf(base, sizeof base, "%s/%s", CASES, json_string_value(json_object_get(info, "base")));
		if (is_quantized(base))
			continue;
		snprintf(adapter, sizeof adapter, "%s/adapters/%s", CASES, name);
		if (al_fuse(t, base, adapter, out) != TN_OK)
			fail_msg("%s: %s", name, t->err.msg);
		compare_case(t, name, out);
		fused++;
	}
	assert_int_equal(fused, 39);
	json_decref(root);
}

/* What tenon takes although mlx-lm does not, and why: docs/adapters.md. */
static const char *const taken[] = {
	"missing_num_layers", "missing_scale", "alpha_for_scale", "missing_dropout", "num_layers_too_many", "type_absent",
	"key_unknown", "key_suffix_only", "switch_2d", "full_outside_window", "full_other_dtype", "peft", "peft_renamed",
	"afm7_fused_projection",
};

/* A word that the refusal has to hold: the tensor, the key or the file. */
static const char *const named[][2] = {
	{ "unknown_key", "model.layers.3.self_attn.k_proj" },
	{ "module_outside_window", "model.layers.1.self_attn.k_proj" },
	{ "module_not_in_keys", "model.layers.2.self_attn.k_proj" },
	{ "wrong_shape", "model.layers.2.self_attn.k_proj" },
	{ "rank_differs", "model.layers.2.self_attn.k_proj" },
	{ "base_weight", "model.layers.2.self_attn.k_proj.linear.weight" },
	{ "base_weight_plain_name", "model.layers.0.self_attn.k_proj.weight" },
	{ "dropout_1", "dropout" },
	{ "num_layers_float", "num_layers" },
	{ "scale_string", "scale" },
	{ "missing_weights", "adapters.safetensors" },
	{ "missing_config", "adapter_config.json" },
	{ "type_unknown", "qlora" },
	{ "type_full_for_lora_file", "fine_tune_type" },
	{ "type_lora_for_dora_file", "model.layers.2.self_attn.k_proj.m" },
	{ "dora_switch", "block_sparse_moe.switch_mlp.up_proj" },
	{ "key_is_norm", "input_layernorm" },
	{ "key_is_block", "self_attn" },
	{ "keys_string", "keys" },
	{ "a_without_b", "lora_b" },
	{ "b_without_a", "lora_a" },
	{ "nan_factor", "NaN" },
	{ "integer_factor", "I32" },
	{ "full_unknown", "model.layers.9.input_layernorm.weight" },
	{ "full_wrong_shape", "model.norm.weight" },
	{ "peft_native_config", "base_model.model" },
};

static void test_every_bad_adapter(void **state)
{
	struct al *t = *state;
	json_t *root = al_json(CASES "/cases.json"), *info;
	const char *name;
	json_object_foreach(json_object_get(root, "errors"), name, info) {
		char base[512], adapter[512];
		const char *of = json_string_value(json_object_get(info, "base"));
		const char *slash = strrchr(of, '/');
		int take = 0;
		snprintf(base, sizeof base, "%s/models/%s", CASES, slash ? slash + 1 : of);
		snprintf(adapter, sizeof adapter, "%s/errors/%s", CASES, name);
		for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
			take |= strcmp(taken[i], name) == 0;
		tn_status status = al_fuse(t, base, adapter, al_path(t, "%s", name));
		if ((status == TN_OK) != take)
			fail_msg("%s was %s: %s", name, take ? "refused" : "taken", take ? t->err.msg : "");
		for (size_t i = 0; i < sizeof named / sizeof *named && status != TN_OK; i++)
			if (strcmp(named[i][0], name) == 0)
				al_expect_named(t, named[i][1]);
	}
	json_decref(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = { AL_TEST(test_every_dense_case), AL_TEST(test_every_bad_adapter) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
