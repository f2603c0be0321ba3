/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters in the other dialect: every case of data/peft.tar.xz (PEFT 0.21) and data/mlx_adapters.tar.xz (mlx-lm 0.32.2) either
 * becomes an adapter that changes its base as the original does, byte for byte of the fused model where its numbers were kept, and
 * that gives the first file's tensors on the way back; or it is refused for a reason that is written down here.
 * tests/adapters/check_derive.py has the real libraries load the same. */
#include "adapterlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct archive {
	const char *folder, *adapters;
};
static const struct archive peft = { ADAPTER_DATA "/peft", "cases" }, mlx = { ADAPTER_DATA "/mlx_adapters", "adapters" };

/* Of one tensor, in units of 2^-23 of its largest element. */
static double tensor_distance(struct al *t, const tn_checkpoint *a, const char *one, const tn_checkpoint *b, const char *other)
{
	const struct tn_tensor *x, *y;
	struct tn_buffer p, q;
	double largest = 0, far = 0;
	al_ok(t, tn_checkpoint_load(a, one, &p, &x, &t->err));
	al_ok(t, tn_checkpoint_load(b, other, &q, &y, &t->err));
	assert_int_equal(x->dtype, y->dtype);
	assert_int_equal(p.bytes, q.bytes);
	int same = memcmp(p.data, q.data, p.bytes) == 0;
	tn_buffer_release(t->ctx, &p);
	tn_buffer_release(t->ctx, &q);
	if (same)
		return 0;
	double *v = al_load(t, a, one, &x), *w = al_load(t, b, other, &y);
	for (uint64_t k = 0; k < x->elements; k++) {
		largest = fmax(largest, fabs(v[k]));
		far = fmax(far, fabs(v[k] - w[k]));
	}
	free(v);
	free(w);
	return far / largest / 0x1p-23;
}

/* The largest distance between two models. What is a tied table in the one may be table and head in the other. */
static double model_distance(struct al *t, const char *one, const char *other)
{
	tn_checkpoint *a, *b;
	double worst = 0;
	size_t heads = 0;
	al_ok(t, tn_checkpoint_open(t->ctx, one, &a, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, other, &b, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(b); i++) {
		char table[64];
		const char *name = tn_checkpoint_at(b, i)->name, *twin = name;
		if (!tn_checkpoint_find(a, name) && strncmp(name, "lm_head", 7) == 0) {
			snprintf(table, sizeof table, "model.embed_tokens%s", name + 7);
			twin = table;
			heads++;
		}
		worst = fmax(worst, tensor_distance(t, a, twin, b, name));
	}
	assert_int_equal(tn_checkpoint_count(a) + heads, tn_checkpoint_count(b));
	tn_checkpoint_close(b);
	tn_checkpoint_close(a);
	return worst;
}

/* Every tensor of the one, and no other, with the same bytes. */
static void same_tensors(struct al *t, const char *name, const char *one, const char *other)
{
	tn_adapter *a, *b;
	al_ok(t, tn_adapter_open(t->ctx, one, &a, &t->err));
	al_ok(t, tn_adapter_open(t->ctx, other, &b, &t->err));
	const tn_safetensors *f = tn_adapter_file(a), *g = tn_adapter_file(b);
	if (tn_safetensors_count(f) != tn_safetensors_count(g))
		fail_msg("%s: %zu tensors became %zu", name, tn_safetensors_count(f), tn_safetensors_count(g));
	for (size_t i = 0; i < tn_safetensors_count(f); i++) {
		const struct tn_tensor *x = tn_safetensors_at(f, i), *y = tn_safetensors_find(g, x->name);
		struct tn_buffer p, q;
		if (!y || y->rank != x->rank || y->dtype != x->dtype || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) != 0)
			fail_msg("%s: '%s' did not come back in its shape and dtype", name, x->name);
		al_ok(t, tn_safetensors_load(f, x->name, &p, NULL, &t->err));
		al_ok(t, tn_safetensors_load(g, x->name, &q, NULL, &t->err));
		if (memcmp(p.data, q.data, p.bytes) != 0)
			fail_msg("%s: '%s' did not come back as it was", name, x->name);
		tn_buffer_release(t->ctx, &p);
		tn_buffer_release(t->ctx, &q);
	}
	tn_adapter_close(b);
	tn_adapter_close(a);
}

/* What is refused, and a word of the reason. */
static const struct {
	const char *name;
	int from_mlx, to_mlx;   /* to_mlx 2: to either */
	const char *word;
} refused[] = {
	{ "lora_b_bias", 0, 1, "lora_bias" },
	{ "lora_b_bias_base", 0, 1, "lora_bias" },
	{ "bias_all", 0, 1, "model.layers.0.mlp.down_proj.bias" },
	{ "bias_lora_only", 0, 1, "model.layers.0.self_attn.q_proj.bias" },
	{ "modules_to_save", 0, 1, "lm_head.weight" },
	{ "embedding_dora", 0, 1, "DoRA of an embedding" },
	{ "tied_embedding", 0, 1, "tied" },
	{ "trainable_tokens", 0, 1, "rows" },
	{ "layer_replication", 0, 2, "layer_replication" },
	{ "alora", 0, 2, "alora_invocation_tokens" },
	{ "keys_empty", 1, 2, "nothing is adapted" },
	{ "dora_embedding", 1, 0, "DoRA of an embedding" },
	{ "dora_embedding_tied", 1, 0, "tied" },
	{ "dora_embedding_bf16", 1, 0, "DoRA of an embedding" },
	{ "dora_q3", 1, 2, "in = 64 was expected" },        /* mlx-lm takes wrong widths for these bases */
	{ "dora_embedding_q4", 1, 2, "out = 64 was expected" },
	{ "full_q4", 1, 2, "as quantized models have them" },
};

static const char *refusal_of(const char *name, int from_mlx, int to_mlx)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (strcmp(refused[i].name, name) == 0 && refused[i].from_mlx == from_mlx &&
		    (refused[i].to_mlx == to_mlx || refused[i].to_mlx == 2))
			return refused[i].word;
	return NULL;
}

/* Computed factors are rounded to float32: scales that differ from the common one, what was taken out of the base. */
static double tolerance(const char *name, int to_mlx)
{
	int scales = strstr(name, "pattern") && !strstr(name, "layers_int_pattern"), removed = strncmp(name, "init_", 5) == 0;
	return (scales && to_mlx) || removed ? 1 : 0;
}

static void remove_folder(const char *path)
{
	char command[600];
	snprintf(command, sizeof command, "rm -rf '%s'", path);
	assert_int_equal(system(command), 0);
}

/* Fuses what was converted beside the original; a bias that the base does not have can only be served, not fused. */
static void compare_fused(struct al *t, const char *name, const char *base, const char *converted, const char *original,
			  tn_status expected, double tolerated)
{
	const char *out = al_path(t, "other");
	tn_status status = al_fuse(t, base, converted, out);
	if (status != expected)
		fail_msg("%s: fused as it was %d, converted %d: %s", name, expected, status, t->err.msg);
	double far = status == TN_OK ? model_distance(t, original, out) : 0;
	if (!(far <= tolerated))
		fail_msg("%s: the fused models are %g of 2^-23 apart", name, far);
	remove_folder(out);
}

/* To its own dialect, to the other one, and back. */
static size_t try_case(struct al *t, const char *name, int from_mlx, const char *base, const char *adapter)
{
	static const tn_adapter_dialect dialects[] = { TN_DIALECT_PEFT, TN_DIALECT_MLX_LM };
	const char *own = al_path(t, "own"), *there = al_path(t, "there"), *back = al_path(t, "back");
	const char *original = al_path(t, "original");
	tn_status fused = al_fuse(t, base, adapter, original);
	size_t converted = 0;
	for (int other = 0; other < 2; other++) {
		int to_mlx = from_mlx != other;
		const char *word = refusal_of(name, from_mlx, to_mlx), *out = other ? there : own;
		tn_status status = al_convert(t, base, adapter, dialects[to_mlx], out);
		if ((status == TN_OK) != !word)
			fail_msg("%s was %s: %s", name, word ? "converted" : "refused", word ? word : t->err.msg);
		if (word) {
			al_expect_named(t, word);
			continue;
		}
		compare_fused(t, name, base, out, original, fused, tolerance(name, to_mlx));
		converted++;
	}
	/* PEFT copies tables that it did not change; what initialisations took out of the base becomes factors */
	int copies = !from_mlx && (strstr(name, "embedding") || strcmp(name, "lm_head") == 0);
	if (!refusal_of(name, from_mlx, from_mlx) && !copies && strncmp(name, "init_", 5) != 0)
		same_tensors(t, name, adapter, own);
	if (converted == 2 && tolerance(name, 1) == 0) {
		al_ok(t, al_convert(t, base, there, dialects[from_mlx], back));
		same_tensors(t, name, own, back);
	}
	remove_folder(original);
	return converted;
}

static size_t try_archive(struct al *t, const struct archive *archive, int from_mlx)
{
	char path[512];
	snprintf(path, sizeof path, "%s/cases.json", archive->folder);
	json_t *root = al_json(path), *info;
	const char *name;
	size_t converted = 0;
	json_object_foreach(json_object_get(root, "cases"), name, info) {
		char base[512], adapter[512];
		snprintf(base, sizeof base, "%s/%s", archive->folder, json_string_value(json_object_get(info, "base")));
		snprintf(adapter, sizeof adapter, "%s/%s/%s", archive->folder, archive->adapters, name);
		converted += try_case(t, name, from_mlx, base, adapter);
	}
	json_decref(root);
	return converted;
}

static void test_every_case_of_peft(void **state)
{
	assert_int_equal(try_archive(*state, &peft, 0), 60);
}

static void test_every_case_of_mlx_lm(void **state)
{
	assert_int_equal(try_archive(*state, &mlx, 1), 123);
}

/* ---- dtypes ---------------------------------------------------------------------------------------------- */

static const char *const lora_of_two = "{\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"l\"]}";

static void write_pair(struct al *t, const float *a)
{
	static const float w[6] = { 0 }, b[6] = { 1, 0, 0, 1, 1, 1 };
	const struct al_tensor base = { "l.weight", { 3, 2 }, 2, w };
	const struct al_tensor lora[] = { { "base_model.model.l.lora_A.weight", { 2, 2 }, 2, a },
					  { "base_model.model.l.lora_B.weight", { 3, 2 }, 2, b } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), lora_of_two, "adapter_model.safetensors", lora, 2);
}

/* Of the adapter [3, 2] over [2, 2] that write_pair wrote, in another dtype. */
static tn_status draft_as(struct al *t, tn_dtype dtype, tn_draft **out)
{
	struct tn_derive_options options = TN_DERIVE_OPTIONS_INIT;
	tn_checkpoint *base;
	tn_adapter *adapter;
	options.keep_dtype = 0;
	options.dtype = dtype;
	al_ok(t, tn_checkpoint_open(t->ctx, al_path(t, "base"), &base, &t->err));
	al_ok(t, tn_adapter_open(t->ctx, al_path(t, "a"), &adapter, &t->err));
	tn_status status = tn_draft_convert(adapter, base, &options, out, &t->err);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
	return status;
}

/* What the file holds, and that its identity is that of what it holds: opening compares it. */
static void expect_saved(struct al *t, const tn_draft *draft, tn_dtype dtype, const double *a)
{
	const char *out = al_path(t, "saved"), *name = "base_model.model.l.lora_A.weight";
	const struct tn_tensor *found;
	tn_adapter *adapter;
	tn_checkpoint *file;
	al_ok(t, tn_draft_save(draft, out, 1, &t->err));
	al_ok(t, tn_adapter_open(t->ctx, out, &adapter, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, tn_safetensors_path(tn_adapter_file(adapter)), &file, &t->err));
	double *values = al_load(t, file, name, &found);
	assert_int_equal(found->dtype, dtype);
	for (int i = 0; i < 4; i++)
		assert_true(values[i] == a[i]);
	free(values);
	tn_checkpoint_close(file);
	tn_adapter_close(adapter);
}

static void test_dtypes(void **state)
{
	struct al *t = *state;
	/* 1 + 2^-8 lies between two BF16 numbers and goes to the even one, as does 1 + 3 * 2^-8 */
	static const float a[] = { 1.00390625F, 1.01171875F, -3, 0.1F }, far[] = { 1, 70000, 0, 0 };
	static const double bf16[] = { 1, 1.015625, -3, 0.10009765625 };
	static const double f16[] = { 1.00390625, 1.01171875, -3, 0.0999755859375 };
	tn_draft *draft;
	write_pair(t, a);
	al_ok(t, draft_as(t, TN_BF16, &draft));
	const struct tn_parameter *p = tn_draft_find(draft, "base_model.model.l.lora_A.weight");
	assert_true((double)p->data[1] == bf16[1] && (double)p->data[3] == bf16[3]);
	expect_saved(t, draft, TN_BF16, bf16);
	p->data[2] = 257.0F; /* a trainer's number */
	expect_saved(t, draft, TN_BF16, (const double[]){ bf16[0], bf16[1], 256, bf16[3] });
	tn_draft_destroy(draft);
	al_ok(t, draft_as(t, TN_F16, &draft));
	expect_saved(t, draft, TN_F16, f16);
	p = tn_draft_find(draft, "base_model.model.l.lora_A.weight");
	p->data[0] = 65520.0F;
	al_expect(t, tn_draft_save(draft, al_path(t, "saved"), 1, &t->err), TN_E_FORMAT);
	al_expect_named(t, "65520");
	tn_draft_destroy(draft);
	write_pair(t, far);
	al_expect(t, draft_as(t, TN_F16, &draft), TN_E_FORMAT);
	al_expect_named(t, "lora_A.weight");
}

/* ---- what most modules have ------------------------------------------------------------------------------ */

/* Block i of the toy with ranks[i] and, for all, an alpha of 4. */
static void write_ranks(struct al *t, const unsigned *ranks)
{
	static char names[8][96];
	struct al_tensor lora[8];
	char config[512], *end = config;
	end += sprintf(end, "{\"peft_type\":\"LORA\",\"r\":%u,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"rank_pattern\":{", ranks[0]);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(names[2 * i], sizeof *names, "base_model.model.model.layers.%u.self_attn.q_proj.lora_A.weight", i);
		snprintf(names[2 * i + 1], sizeof *names, "base_model.model.model.layers.%u.self_attn.q_proj.lora_B.weight", i);
		lora[2 * i] = (struct al_tensor){ names[2 * i], { ranks[i], 3 }, 2, NULL };
		lora[2 * i + 1] = (struct al_tensor){ names[2 * i + 1], { 2, ranks[i] }, 2, NULL };
		end += sprintf(end, "%s\"layers.%u.self_attn.q_proj\":%u", i ? "," : "", i, ranks[i]);
	}
	strcpy(end, "}}");
	al_write_adapter(al_path(t, "ranks"), config, "adapter_model.safetensors", lora, 8);
}

/* A configuration names the rank that most modules have, of several the first one's, and lists the others. mlx-lm has one scale, and
 * the factors of modules with another are divided: of as few as may be. */
static void test_what_most_modules_have(void **state)
{
	static const struct {
		unsigned ranks[4], rank;
		size_t listed;
		double scale;
	} cases[] = { { { 4, 2, 2, 2 }, 2, 1, 2 }, { { 4, 1, 4, 2 }, 4, 2, 1 }, { { 2, 4, 4, 2 }, 2, 2, 2 }, { { 1, 4, 4, 2 }, 4, 2, 1 },
		      { { 1, 2, 4, 4 }, 4, 2, 1 } };
	struct al *t = *state;
	al_write_toy(al_path(t, "toy"));
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		write_ranks(t, cases[i].ranks);
		al_ok(t, al_convert(t, al_path(t, "toy"), al_path(t, "ranks"), TN_DIALECT_PEFT, al_path(t, "peft")));
		json_t *config = al_json(al_path(t, "peft/adapter_config.json"));
		assert_int_equal(json_integer_value(json_object_get(config, "r")), cases[i].rank);
		assert_int_equal(json_object_size(json_object_get(config, "rank_pattern")), cases[i].listed);
		json_decref(config);
		al_ok(t, al_convert(t, al_path(t, "toy"), al_path(t, "ranks"), TN_DIALECT_MLX_LM, al_path(t, "mlx")));
		config = al_json(al_path(t, "mlx/adapter_config.json"));
		const json_t *scale = json_object_get(json_object_get(config, "lora_parameters"), "scale");
		assert_true(json_number_value(scale) == cases[i].scale);
		json_decref(config);
	}
}

/* ---- experts one by one ---------------------------------------------------------------------------------- */

/* A file of kohya's with factors for single experts, of different ranks and scales: stacks of either dialect. */
static void test_single_experts(void **state)
{
	struct al *t = *state;
	static char names[24][96];
	struct al_tensor base[12], lora[9];
	static const float alphas[] = { 2, 6, 1 };
	static const struct {
		int expert, part;
		unsigned rank;
	} pairs[] = { { 0, 0, 2 }, { 0, 1, 3 }, { 2, 2, 1 } };
	static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
	for (unsigned i = 0; i < 12; i++) {
		snprintf(names[i], sizeof *names, "model.layers.0.mlp.experts.%u.%s.weight", i / 3, parts[i % 3]);
		base[i] = (struct al_tensor){ names[i], { i % 3 == 2 ? 3 : 4, i % 3 == 2 ? 4 : 3 }, 2, NULL };
	}
	for (unsigned i = 0; i < 9; i++) {
		static const char *const roles[] = { "lora_down.weight", "lora_up.weight", "alpha" };
		unsigned k = i / 3, down = pairs[k].part == 2, rank = pairs[k].rank;
		snprintf(names[12 + i], sizeof *names, "lora_te_model_layers_0_mlp_experts_%d_%s.%s", pairs[k].expert,
			 parts[pairs[k].part], roles[i % 3]);
		lora[i] = (struct al_tensor){ names[12 + i], { rank, down ? 4 : 3 }, 2, NULL };
		if (i % 3 == 1)
			lora[i] = (struct al_tensor){ names[12 + i], { down ? 3 : 4, rank }, 2, NULL };
		if (i % 3 == 2)
			lora[i] = (struct al_tensor){ names[12 + i], { 0 }, 0, &alphas[k] };
	}
	const char *folder = al_path(t, "base"), *file = al_path(t, "k.safetensors"), *one = al_path(t, "one");
	al_write_base(folder, "{\"model_type\":\"qwen3_moe\"}", base, 12);
	al_write_st(file, lora, 9);
	al_ok(t, al_fuse(t, folder, file, one));
	for (int to_mlx = 0; to_mlx < 2; to_mlx++) {
		const char *converted = al_path(t, "converted"), *other = al_path(t, "other");
		al_ok(t, al_convert(t, folder, file, to_mlx ? TN_DIALECT_MLX_LM : TN_DIALECT_PEFT, converted));
		al_ok(t, al_fuse(t, folder, converted, other));
		assert_true(model_distance(t, one, other) <= 1);
	}
}

static int has_module(const tn_adapter *adapter, const char *path)
{
	size_t i = 0;
	while (i < tn_adapter_count(adapter) && strcmp(tn_adapter_at(adapter, i)->path, path) != 0)
		i++;
	return i < tn_adapter_count(adapter);
}

/* Granite's files hold experts as transformers does, under names that neither program has. */
static void test_experts_of_granite(void **state)
{
#define MOE "model.layers.0.block_sparse_moe."
	static const struct al_tensor base[] = { { MOE "input_linear.weight", { 2, 4, 3 }, 3, NULL },
						 { MOE "output_linear.weight", { 2, 3, 2 }, 3, NULL },
						 { MOE "router.layer.weight", { 2, 3 }, 2, NULL } };
	static const struct al_tensor lora[] = {
		{ MOE "switch_mlp.gate_proj.lora_a", { 2, 1, 3 }, 3, NULL }, { MOE "switch_mlp.gate_proj.lora_b", { 2, 2, 1 }, 3, NULL },
		{ MOE "switch_mlp.up_proj.lora_a", { 2, 1, 3 }, 3, NULL },   { MOE "switch_mlp.up_proj.lora_b", { 2, 2, 1 }, 3, NULL },
		{ MOE "switch_mlp.down_proj.lora_a", { 2, 1, 2 }, 3, NULL }, { MOE "switch_mlp.down_proj.lora_b", { 2, 3, 1 }, 3, NULL },
		{ MOE "router.layer.lora_a", { 3, 1 }, 2, NULL },            { MOE "router.layer.lora_b", { 1, 2 }, 2, NULL },
	};
	static const char *const expected[] = { MOE "experts.gate_up_proj", MOE "experts.down_proj", MOE "router.weight" };
	static const char *const types[] = { "granitemoe", "granitemoeshared", "granitemoehybrid" };
	struct al *t = *state;
	const char *b = al_path(t, "b"), *a = al_path(t, "a"), *one = al_path(t, "one"), *other = al_path(t, "other");
	const char *there = al_path(t, "there"), *back = al_path(t, "back");
	al_write_adapter(a, "{\"fine_tune_type\":\"lora\",\"num_layers\":1,\"lora_parameters\":{\"rank\":1,\"scale\":2,\"dropout\":0}}",
			 "adapters.safetensors", lora, sizeof lora / sizeof *lora);
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		char config[64];
		tn_adapter *made;
		snprintf(config, sizeof config, "{\"model_type\":\"%s\"}", types[i]);
		al_write_base(b, config, base, 3);
		al_ok(t, al_convert(t, b, a, TN_DIALECT_PEFT, there));
		al_ok(t, tn_adapter_open(t->ctx, there, &made, &t->err));
		assert_int_equal(tn_adapter_count(made), 3);
		for (size_t k = 0; k < 3; k++)
			assert_true(has_module(made, expected[k]));
		tn_adapter_close(made);
		al_ok(t, al_convert(t, b, there, TN_DIALECT_MLX_LM, back));
		same_tensors(t, types[i], a, back);
		al_ok(t, al_fuse(t, b, a, one));
		al_ok(t, al_fuse(t, b, there, other));
		assert_true(model_distance(t, one, other) == 0);
	}
}

/* AFM's projections of several matrices in one: the rows of one weight, so one pair for PEFT; mlx-lm loads no lists. */
static void test_lists(void **state)
{
	struct al *t = *state;
	const char *base = ADAPTER_DATA "/mlx_adapters/models/afm7", *out = al_path(t, "out");
	const char *adapter = ADAPTER_DATA "/mlx_adapters/errors/afm7_fused_projection", *one = al_path(t, "one");
	const char *other = al_path(t, "other");
	al_expect(t, al_convert(t, base, adapter, TN_DIALECT_MLX_LM, out), TN_E_UNSUPPORTED);
	al_expect_named(t, "list of factors");
	al_ok(t, al_convert(t, base, adapter, TN_DIALECT_PEFT, out));
	al_ok(t, al_fuse(t, base, adapter, one));
	al_ok(t, al_fuse(t, base, out, other));
	assert_true(model_distance(t, one, other) <= 1);
}

/* ---- a tied head ----------------------------------------------------------------------------------------- */

/* There and back: one pair of mlx-lm, two of PEFT. A head alone is PEFT's. */
static void test_tied_tables(void **state)
{
	struct al *t = *state;
	const char *base = ADAPTER_DATA "/mlx_adapters/models/llama_tied";
	const char *first = ADAPTER_DATA "/mlx_adapters/adapters/key_embed_tokens_tied", *there = al_path(t, "there");
	const char *back = al_path(t, "back"), *head = al_path(t, "head");
	al_ok(t, al_convert(t, base, first, TN_DIALECT_PEFT, there));
	al_ok(t, al_convert(t, base, there, TN_DIALECT_MLX_LM, back));
	same_tensors(t, "key_embed_tokens_tied", first, back);
	const float b[2 * 96] = { 1, 2, 3 }, a[2 * 32] = { 0.5F, 0.25F, [32] = 1 };
	const struct al_tensor lora[] = { { "base_model.model.lm_head.lora_A.weight", { 2, 32 }, 2, a },
					  { "base_model.model.lm_head.lora_B.weight", { 96, 2 }, 2, b } };
	al_write_adapter(head, "{\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"lm_head\"]}", "adapter_model.safetensors", lora, 2);
	al_ok(t, al_convert(t, base, head, TN_DIALECT_PEFT, there));
	same_tensors(t, "lm_head", head, there);
	al_expect(t, al_convert(t, base, head, TN_DIALECT_MLX_LM, there), TN_E_UNSUPPORTED);
	al_expect_named(t, "tied");
}

/* That head is in the list of the table's adapter, and has to be in that of one that changes other modules. */
static void test_a_tied_head_beside_layers(void **state)
{
	static const char *const keys[] = { "q_proj" };
	struct al *t = *state;
	struct tn_create_options o = TN_CREATE_OPTIONS_INIT;
	tn_checkpoint *base;
	tn_adapter *table;
	tn_draft *layers, *made;
	o.dialect = TN_DIALECT_PEFT;
	o.keys = keys;
	o.key_count = 1;
	al_ok(t, tn_checkpoint_open(t->ctx, ADAPTER_DATA "/mlx_adapters/models/llama_tied", &base, &t->err));
	al_ok(t, tn_adapter_open(t->ctx, ADAPTER_DATA "/mlx_adapters/adapters/key_embed_tokens_tied", &table, &t->err));
	al_ok(t, tn_draft_create(base, &o, &layers, &t->err));
	for (int swapped = 0; swapped < 2; swapped++) {
		struct tn_weighted_adapter both[] = { { tn_draft_adapter(layers), 1 }, { table, 1 } }, last = both[0];
		if (swapped) {
			both[0] = both[1];
			both[1] = last;
		}
		al_ok(t, tn_draft_combine(both, 2, base, NULL, NULL, &made, &t->err));
		assert_non_null(tn_draft_of(made, "lm_head", TN_PARAMETER_A));
		assert_non_null(tn_draft_of(made, "model.embed_tokens", TN_PARAMETER_A));
		assert_int_equal(tn_draft_derived_count(made), tn_adapter_count(tn_draft_adapter(layers)) + 3);
		tn_draft_destroy(made);
	}
	tn_draft_destroy(layers);
	tn_adapter_close(table);
	tn_checkpoint_close(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = { AL_TEST(test_every_case_of_peft), AL_TEST(test_every_case_of_mlx_lm),
		AL_TEST(test_dtypes), AL_TEST(test_single_experts), AL_TEST(test_tied_tables), AL_TEST(test_lists),
		AL_TEST(test_experts_of_granite), AL_TEST(test_what_most_modules_have),
		AL_TEST(test_a_tied_head_beside_layers) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
