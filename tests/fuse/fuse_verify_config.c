/* SPDX-License-Identifier: Apache-2.0 */
/* What verify takes for a change of config.json, and what for the same in the words of another program. */
#include "fuselib.h"

#include <stdio.h>
#include <string.h>

enum { ROWS = 4, COLS = 32 };

/* The fields beside the model's own; `changed`: the field that is reported, or NULL. The pairs that are the same are what
 * transformers 5.23 makes of files that were published. */
static const struct pair {
	const char *base, *merged, *changed;
} pairs[] = {
	{ "\"rms_norm_eps\":1e-05,\"torch_dtype\":\"bfloat16\"", "\"rms_norm_eps\":0.00001,\"dtype\":\"bfloat16\"", NULL },
	{ "\"rms_norm_eps\":1e-05", "\"rms_norm_eps\":1e-06", "rms_norm_eps" },
	{ "\"rope_theta\":10000", "\"rope_theta\":10000.0", NULL },
	{ "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}", "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}", NULL },
	{ "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}", "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}",
	  "rope_scaling" },
	{ "\"model_type\":\"gemma\",\"hidden_act\":\"gelu\"", "\"model_type\":\"gemma\",\"hidden_act\":\"gelu_pytorch_tanh\"", NULL },
	{ "\"model_type\":\"gemma\",\"hidden_act\":\"gelu\"", "\"model_type\":\"gemma\",\"hidden_act\":\"silu\"", "hidden_act" },
	{ "\"model_type\":\"phi\",\"hidden_act\":\"gelu\"", "\"model_type\":\"phi\",\"hidden_act\":\"gelu_pytorch_tanh\"", "hidden_act" },
	{ "\"model_type\":\"qwen2_moe\",\"sliding_window\":32768,\"use_sliding_window\":false",
	  "\"model_type\":\"qwen2_moe\",\"sliding_window\":0,\"use_sliding_window\":false", NULL },
	{ "\"model_type\":\"qwen2_moe\",\"sliding_window\":32768", "\"model_type\":\"qwen2_moe\",\"sliding_window\":0", NULL },
	{ "\"model_type\":\"qwen2_moe\",\"sliding_window\":32768,\"use_sliding_window\":true",
	  "\"model_type\":\"qwen2_moe\",\"sliding_window\":0,\"use_sliding_window\":true", "sliding_window" },
	{ "\"model_type\":\"mistral\",\"sliding_window\":4096", "\"model_type\":\"mistral\",\"sliding_window\":0", "sliding_window" },
	{ "\"sliding_window\":32768,\"use_sliding_window\":false", "\"sliding_window\":null,\"use_sliding_window\":false", NULL },
	{ "\"sliding_window\":32768,\"use_sliding_window\":false", "\"sliding_window\":32768,\"use_sliding_window\":true",
	  "use_sliding_window" },
	{ "\"intermediate_size\":128", "\"intermediate_size\":[128,128]", NULL },
	{ "\"intermediate_size\":[128,128]", "\"intermediate_size\":128", NULL },
	{ "\"intermediate_size\":128", "\"intermediate_size\":[128,64]", "intermediate_size" },
	{ "\"intermediate_size\":128", "\"intermediate_size\":[]", "intermediate_size" },
	{ "\"intermediate_size\":[128,64]", "\"intermediate_size\":[64,128]", "intermediate_size" },
	{ "\"text_config\":{\"hidden_size\":64}", "\"text_config\":{\"hidden_size\":65}", "text_config.hidden_size" },
};

static void write_config(struct tt *t, const char *folder, const char *fields)
{
	char text[512];
	snprintf(text, sizeof text, "{%s}", fields);
	tt_write_text(tt_path(t, "%s/config.json", folder), text);
}

static void check(struct tt *t, const struct pair *pair)
{
	tn_checkpoint *base, *merged;
	tn_adapter *adapter;
	tn_verify *v;
	char wanted[128] = "";
	size_t fields = 0;
	write_config(t, "base", pair->base);
	write_config(t, "out", pair->merged);
	if (pair->changed)
		snprintf(wanted, sizeof wanted, "config.json: %s", pair->changed);
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "base"), &base, &t->err));
	tt_ok(t, tn_adapter_open(t->ctx, tt_path(t, "adapter"), &adapter, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "out"), &merged, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, base, adapter, NULL, merged, &v, &t->err));
	for (size_t i = 0; i < tn_verify_count(v); i++) {
		const struct tn_verified_tensor *found = tn_verify_at(v, i);
		if (strncmp(found->name, "config.json", 11) != 0)
			continue;
		if (strcmp(found->name, wanted) != 0 || found->verdict != TN_VERDICT_CHANGED)
			fail_msg("%s and %s: %s is %s", pair->base, pair->merged, found->name, tn_verdict_name(found->verdict));
		fields++;
	}
	if (fields != (pair->changed != NULL) || tn_verify_ok(v) != !pair->changed)
		fail_msg("%s and %s: %zu fields", pair->base, pair->merged, fields);
	tn_verify_free(v);
	tn_checkpoint_close(merged);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
}

static void only_what_is_computed_counts(void **state)
{
	struct tt *t = *state;
	float w[ROWS * COLS], a[COLS], b[ROWS];
	uint64_t random = 3;
	char folders[3][256];
	static const char *const names[] = { "base", "adapter", "out" };
	struct fuse_tensor tensor = { "model.layers.0.mlp.up_proj.weight", ROWS, COLS, w };
	for (size_t i = 0; i < ROWS * COLS; i++)
		w[i] = fuse_normal(&random);
	for (size_t i = 0; i < COLS; i++)
		a[i] = fuse_normal(&random);
	for (size_t i = 0; i < ROWS; i++)
		b[i] = fuse_normal(&random);
	for (int i = 0; i < 3; i++)
		snprintf(folders[i], sizeof folders[i], "%s", tt_path(t, "%s", names[i]));
	fuse_write_model(t, folders[0], &tensor, 1, TN_F32);
	fuse_write_adapter(t, folders[1], a, b, COLS, 1, ROWS, 2);
	struct fuse_job job = FUSE_JOB(.base = folders[0], .adapter = folders[1], .out = folders[2]);
	fuse_run(t, t->ctx, &job, NULL, 0);
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		check(t, &pairs[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(only_what_is_computed_counts) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
