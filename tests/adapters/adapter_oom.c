/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation of opening, planning, fusing, verifying, extracting and converting fails once: the call says so, and nothing is
 * left behind. */
#include "adapterlib.h"
#include "testlib.h"

#include <stdio.h>

#define CASES ADAPTER_DATA "/peft"

static tn_status whole_job(tn_context *ctx, const char *base, const char *adapter, const char *out, struct tn_error *err)
{
	tn_checkpoint *b = NULL, *m = NULL;
	tn_adapter *a = NULL;
	tn_fuse *fuse = NULL;
	tn_verify *v = NULL;
	unsigned char hash[TN_HASH_BYTES];
	tn_status status = tn_checkpoint_open(ctx, base, &b, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, adapter, &a, err);
	if (status == TN_OK)
		status = tn_adapter_hash(a, hash, err);
	if (status == TN_OK)
		status = tn_fuse_plan(ctx, b, a, NULL, &fuse, err);
	if (status == TN_OK)
		status = tn_fuse_run(fuse, out, 1, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, out, &m, err);
	if (status == TN_OK)
		status = tn_verify_run(ctx, b, a, NULL, m, &v, err);
	tn_verify_free(v);
	tn_checkpoint_close(m);
	tn_fuse_free(fuse);
	tn_adapter_close(a);
	tn_checkpoint_close(b);
	return status;
}

/* Base and what a fuse made of it into an adapter, which is saved. */
static tn_status extract_job(tn_context *ctx, const char *base, const char *tuned, const char *out, struct tn_error *err)
{
	tn_checkpoint *b = NULL, *m = NULL;
	tn_draft *d = NULL;
	struct tn_derive_options options = TN_DERIVE_OPTIONS_INIT;
	struct tn_extract_options extract = TN_EXTRACT_OPTIONS_INIT;
	extract.rule.rank = 3;
	extract.others = TN_OTHERS_IGNORED;
	tn_status status = tn_checkpoint_open(ctx, base, &b, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, tuned, &m, err);
	if (status == TN_OK)
		status = tn_draft_extract(b, m, &options, &extract, &d, err);
	if (status == TN_OK)
		status = tn_draft_save(d, out, 1, err);
	tn_draft_destroy(d);
	tn_checkpoint_close(m);
	tn_checkpoint_close(b);
	return status;
}

static tn_status convert(tn_context *ctx, const char *base, const char *adapter, tn_adapter_dialect dialect, const char *out,
			 struct tn_error *err)
{
	struct tn_derive_options options = TN_DERIVE_OPTIONS_INIT;
	tn_checkpoint *b = NULL;
	tn_adapter *a = NULL;
	tn_draft *draft = NULL;
	options.dialect = dialect;
	tn_status status = tn_checkpoint_open(ctx, base, &b, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, adapter, &a, err);
	if (status == TN_OK)
		status = tn_draft_convert(a, b, &options, &draft, err);
	if (status == TN_OK)
		status = tn_draft_save(draft, out, 1, err);
	tn_draft_destroy(draft);
	tn_adapter_close(a);
	tn_checkpoint_close(b);
	return status;
}

static tn_status to_peft(tn_context *ctx, const char *base, const char *adapter, const char *out, struct tn_error *err)
{
	return convert(ctx, base, adapter, TN_DIALECT_PEFT, out, err);
}

static tn_status to_mlx(tn_context *ctx, const char *base, const char *adapter, const char *out, struct tn_error *err)
{
	return convert(ctx, base, adapter, TN_DIALECT_MLX_LM, out, err);
}

typedef tn_status (*job_fn)(tn_context *ctx, const char *base, const char *other, const char *out, struct tn_error *err);

struct sweep {
	job_fn job;
	const char *base, *other, *out;
};

static tn_status run_job(tn_context *ctx, void *arg, struct tn_error *err)
{
	const struct sweep *s = arg;
	return s->job(ctx, s->base, s->other, s->out, err);
}

static void sweep_job(const char *what, job_fn job, const char *base, const char *other, const char *out)
{
	struct sweep s = { job, base, other, out };
	tt_fail_each_allocation(what, 60, run_job, &s);
}

static void sweep_conversions(void **state)
{
	static const struct {
		const char *base, *adapter;
		job_fn job;
	} cases[] = {
		{ "peft/llama", "peft/cases/rank_alpha_pattern", to_mlx },
		{ "peft/llama", "peft/cases/embedding_dora", to_peft },
		{ "peft/llama", "peft/cases/init_pissa", to_mlx },
		{ "peft/mixtral", "peft/cases/moe_target_parameters", to_mlx },
		{ "peft/llama", "peft/cases/trainable_tokens", to_peft },
		{ "peft/llama", "peft/cases/modules_to_save", to_peft },
		{ "peft/llama_bias", "peft/cases/lora_b_bias_base", to_peft },
		{ "mlx_adapters/models/mixtral", "mlx_adapters/adapters/switch", to_peft },
		{ "mlx_adapters/models/llama", "mlx_adapters/adapters/full_partial", to_peft },
		{ "mlx_adapters/models/llama_tied", "mlx_adapters/adapters/key_embed_tokens_tied", to_peft },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char base[512], adapter[512];
		snprintf(base, sizeof base, "%s/%s", ADAPTER_DATA, cases[i].base);
		snprintf(adapter, sizeof adapter, "%s/%s", ADAPTER_DATA, cases[i].adapter);
		sweep_job(cases[i].adapter, cases[i].job, base, adapter, al_path(t, "out"));
	}
}

static void sweep_extract(void **state)
{
	static const char *const cases[][2] = {
		{ "llama", "all_linear" }, { "gpt2", "gpt2_conv1d" }, { "mixtral", "moe_target_parameters" }, { "llama_bias", "bias_all" },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char base[512], adapter[512], tuned[512];
		snprintf(base, sizeof base, "%s/%s", CASES, cases[i][0]);
		snprintf(adapter, sizeof adapter, "%s/cases/%s", CASES, cases[i][1]);
		snprintf(tuned, sizeof tuned, "%s", al_path(t, "tuned%zu", i));
		al_ok(t, al_fuse(t, base, adapter, tuned));
		sweep_job(cases[i][1], extract_job, base, tuned, al_path(t, "new%zu", i));
	}
}

static void sweep(void **state)
{
	static const char *const cases[][2] = {
		{ "llama", "embedding_dora" }, { "llama_tied", "tied_embedding" }, { "llama", "init_pissa" },
		{ "gpt2", "gpt2_conv1d_dora" }, { "mixtral", "moe_target_parameters" }, { "llama", "layer_replication" },
		{ "llama", "trainable_tokens" }, { "llama_bias", "lora_b_bias_base" }, { "llama", "lora_regex_lookahead" },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char base[512], adapter[512];
		snprintf(base, sizeof base, "%s/%s", CASES, cases[i][0]);
		snprintf(adapter, sizeof adapter, "%s/cases/%s", CASES, cases[i][1]);
		sweep_job(cases[i][1], whole_job, base, adapter, al_path(t, "out"));
	}
}

/* ---- adapters made of adapters ---------------------------------------------------------------------------- */

#define COMBINE ADAPTER_DATA "/combine"

/* Two adapters into one, by the type of that name; cat resizes the first one, too. */
static tn_status combine_job(tn_context *ctx, const char *folder, const char *type, const char *out, struct tn_error *err)
{
	struct tn_combine_options o = TN_COMBINE_OPTIONS_INIT;
	struct tn_weighted_adapter adapters[2] = { { NULL, 1 }, { NULL, 0.5 } };
	struct tn_rank_rule rule = { 2, 1 };
	tn_checkpoint *base = NULL;
	tn_adapter *a = NULL, *b = NULL;
	tn_draft *draft = NULL, *small = NULL;
	(void)folder;
	tn_status status = tn_combination_from_name(type, &o.type, err);
	o.density = tn_combination_has_density(o.type) ? 0.5 : 0;
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, COMBINE "/base", &base, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, COMBINE "/a", &a, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, COMBINE "/b", &b, err);
	adapters[0].adapter = a;
	adapters[1].adapter = b;
	if (status == TN_OK)
		status = tn_draft_combine(adapters, 2, base, NULL, &o, &draft, err);
	if (status == TN_OK && o.type == TN_COMBINE_CAT)
		status = tn_draft_resize(a, base, NULL, &rule, &small, err);
	if (status == TN_OK)
		status = tn_draft_save(draft, out, 1, err);
	tn_draft_destroy(small);
	tn_draft_destroy(draft);
	tn_adapter_close(b);
	tn_adapter_close(a);
	tn_checkpoint_close(base);
	return status;
}

static void sweep_combine(void **state)
{
	static const char *const types[] = { "cat", "ties", "ties_svd" };
	struct al *t = *state;
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		sweep_job(types[i], combine_job, COMBINE, types[i], al_path(t, "combined"));
}

int main(void)
{
	const struct CMUnitTest tests[] = { AL_TEST(sweep), AL_TEST(sweep_extract), AL_TEST(sweep_conversions), AL_TEST(sweep_combine) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
