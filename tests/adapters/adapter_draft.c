/* SPDX-License-Identifier: Apache-2.0 */
/* Drafts as a trainer uses them: parameters written and read, saved, opened, fused; the identity in their files; accounts; and
 * what is refused. */
#include "adapterlib.h"
#include "testlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LLAMA ADAPTER_DATA "/peft/llama"
#define MIXTRAL ADAPTER_DATA "/mlx_adapters/models/mixtral"

static tn_checkpoint *open_base(struct al *t, const char *path)
{
	tn_checkpoint *base;
	al_ok(t, tn_checkpoint_open(t->ctx, path, &base, &t->err));
	return base;
}

static struct tn_create_options options_for(tn_adapter_dialect dialect, const char *const *keys, size_t count)
{
	struct tn_create_options o = TN_CREATE_OPTIONS_INIT;
	o.dialect = dialect;
	o.keys = keys;
	o.key_count = count;
	return o;
}

static const char *const q_proj[] = { "q_proj" };

/* B of every module becomes something. */
static void train(tn_draft *d)
{
	for (size_t i = 0; i < tn_draft_count(d); i++) {
		const struct tn_parameter *p = tn_draft_at(d, i);
		for (uint64_t k = 0; k < p->elements && p->role == TN_PARAMETER_B; k++)
			p->data[k] = (float)((double)(k * 7 % 13) / 100 - 0.06);
	}
}

static void copy_file(const char *from, const char *to)
{
	char buffer[4096];
	FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
	assert_non_null(in);
	assert_non_null(out);
	for (size_t n; (n = fread(buffer, 1, sizeof buffer, in)) > 0;)
		assert_int_equal(fwrite(buffer, 1, n, out), n);
	fclose(in);
	assert_int_equal(fclose(out), 0);
}

/* ---- a new adapter changes nothing ----------------------------------------------------------------------- */

static void expect_same_bytes(struct al *t, const char *path, const char *other)
{
	tn_checkpoint *a = open_base(t, path), *b = open_base(t, other);
	for (size_t i = 0; i < tn_checkpoint_count(a); i++) {
		const struct tn_tensor *x = tn_checkpoint_at(a, i), *y = tn_checkpoint_find(b, x->name);
		assert_non_null(y);
		assert_int_equal(x->bytes, y->bytes);
		void *p = malloc(x->bytes), *q = malloc(x->bytes);
		al_ok(t, tn_checkpoint_read(a, x, 0, p, x->bytes, &t->err));
		al_ok(t, tn_checkpoint_read(b, y, 0, q, x->bytes, &t->err));
		assert_memory_equal(p, q, x->bytes);
		free(p);
		free(q);
	}
	tn_checkpoint_close(a);
	tn_checkpoint_close(b);
}

static void fusing_a_new_adapter_changes_no_byte(void **state)
{
	struct al *t = *state;
	for (int peft = 0; peft < 2; peft++) {
		tn_checkpoint *base = open_base(t, LLAMA);
		struct tn_create_options o = options_for(peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, NULL, 0);
		tn_draft *d;
		tn_fuse *fuse;
		al_ok(t, tn_draft_create(base, &o, &d, &t->err));
		al_ok(t, tn_fuse_plan(t->ctx, base, tn_draft_adapter(d), NULL, &fuse, &t->err));
		assert_int_equal(tn_fuse_merged_count(fuse), peft ? 6 : 21);
		al_ok(t, tn_fuse_run(fuse, al_path(t, "same%d", peft), 0, &t->err));
		expect_same_bytes(t, LLAMA, al_path(t, "same%d", peft));
		tn_fuse_free(fuse);
		tn_draft_destroy(d);
		tn_checkpoint_close(base);
	}
}

/* The draft in memory and the folder that it was saved to are one adapter; so are both dialects with the same numbers. */
static void a_trained_draft_fuses_as_its_folder_does(void **state)
{
	struct al *t = *state;
	unsigned char hash[2][TN_HASH_BYTES], saved[TN_HASH_BYTES];
	tn_checkpoint *base = open_base(t, LLAMA);
	for (int peft = 0; peft < 2; peft++) {
		struct tn_create_options o = options_for(peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, q_proj, 1);
		const char *out = al_path(t, "trained%d", peft);
		tn_adapter *adapter;
		tn_draft *d;
		o.init = TN_INIT_XORSHIFT;
		o.scale = 2;
		al_ok(t, tn_draft_create(base, &o, &d, &t->err));
		for (size_t i = 0; i < tn_draft_count(d); i++) {
			const struct tn_parameter *p = tn_draft_at(d, i);
			uint64_t rank = p->shape[!peft ? 0 : 1], width = p->shape[!peft ? 1 : 0];
			for (uint64_t k = 0; k < p->elements && p->role == TN_PARAMETER_B; k++)
				p->data[k] = (float)(peft ? k % rank * width + k / rank : k) / 512;
		}
		al_ok(t, tn_adapter_hash(tn_draft_adapter(d), hash[peft], &t->err));
		al_ok(t, tn_draft_save(d, out, 0, &t->err));
		al_ok(t, tn_adapter_open(t->ctx, out, &adapter, &t->err));
		al_ok(t, tn_adapter_hash(adapter, saved, &t->err));
		assert_memory_equal(saved, hash[peft], TN_HASH_BYTES);
		tn_adapter_close(adapter);
		tn_draft_destroy(d);
	}
	assert_memory_equal(hash[0], hash[1], TN_HASH_BYTES);
	tn_checkpoint_close(base);
	assert_int_equal(t->warnings, 0);
}

static void the_same_call_writes_the_same_bytes(void **state)
{
	struct al *t = *state;
	tn_checkpoint *base = open_base(t, LLAMA);
	for (int i = 0; i < 2; i++) {
		struct tn_create_options o = options_for(TN_DIALECT_PEFT, NULL, 0);
		tn_draft *d;
		o.dora = 1;
		al_ok(t, tn_draft_create(base, &o, &d, &t->err));
		al_ok(t, tn_draft_save(d, al_path(t, "run%d", i), 0, &t->err));
		tn_draft_destroy(d);
	}
	tn_checkpoint_close(base);
	char command[1100];
	snprintf(command, sizeof command, "diff -r %s %s", al_path(t, "run0"), al_path(t, "run1"));
	assert_int_equal(system(command), 0);
}

/* ---- parameters ------------------------------------------------------------------------------------------ */

static void parameters_are_set_with_their_shape_alone(void **state)
{
	struct al *t = *state;
	tn_checkpoint *base = open_base(t, LLAMA);
	struct tn_create_options o = options_for(TN_DIALECT_MLX_LM, q_proj, 1);
	tn_draft *d;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	tn_checkpoint_close(base);
	const char *a = "model.layers.0.self_attn.q_proj.lora_a";
	float values[33 * 8];
	for (size_t i = 0; i < 33 * 8; i++)
		values[i] = (float)i;
	al_ok(t, tn_draft_set(d, a, 2, (uint64_t[]){ 32, 8 }, values, &t->err));
	assert_memory_equal(tn_draft_find(d, a)->data, values, 32 * 8 * sizeof(float));
	al_expect(t, tn_draft_set(d, a, 2, (uint64_t[]){ 8, 32 }, values, &t->err), TN_E_MISMATCH);
	al_expect_named(t, "[32, 8]");
	al_expect_named(t, "[8, 32]");
	al_expect(t, tn_draft_set(d, a, 2, (uint64_t[]){ 33, 8 }, values, &t->err), TN_E_MISMATCH);
	al_expect(t, tn_draft_set(d, a, 1, (uint64_t[]){ 256 }, values, &t->err), TN_E_MISMATCH);
	al_expect(t, tn_draft_set(d, a, 5, (uint64_t[]){ 32, 8, 1, 1, 1 }, values, &t->err), TN_E_MISMATCH);
	al_expect(t, tn_draft_set(d, "lora_c", 1, (uint64_t[]){ 1 }, values, &t->err), TN_E_NOTFOUND);
	values[3] = NAN;
	al_expect(t, tn_draft_set(d, a, 2, (uint64_t[]){ 32, 8 }, values, &t->err), TN_E_ARG);
	al_expect_named(t, "element 3");
	assert_true(tn_draft_find(d, a)->data[3] == 3);
	assert_null(tn_draft_find(d, "lora_c"));
	assert_null(tn_draft_of(d, "model.layers.0.self_attn.q_proj", TN_PARAMETER_MAGNITUDE));
	assert_null(tn_draft_at(d, tn_draft_count(d)));
	tn_draft_at(d, 0)->data[0] = INFINITY;
	al_expect(t, tn_draft_save(d, al_path(t, "bad"), 0, &t->err), TN_E_FORMAT);
	assert_int_equal(access(al_path(t, "bad"), F_OK), -1);
	tn_draft_destroy(d);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void expect_refused(struct al *t, const char *folder, struct tn_create_options o, tn_status status, const char *words)
{
	tn_checkpoint *base = open_base(t, folder);
	tn_draft *d = NULL;
	al_expect(t, tn_draft_create(base, &o, &d, &t->err), status);
	al_expect_named(t, words);
	assert_null(d);
	tn_checkpoint_close(base);
}

static void test_lora_config_validation(void **state)
{
	struct al *t = *state;
	struct tn_create_options o = TN_CREATE_OPTIONS_INIT;
	al_ok(t, tn_lora_check(8, 16, 0, &t->err));
	al_ok(t, tn_lora_check(8, 16, 1, &t->err));
	al_expect(t, tn_lora_check(0, 16, 0, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA rank must be > 0");
	al_expect(t, tn_lora_check(8, -1, 0, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA alpha must be > 0.0");
	al_expect(t, tn_lora_check(8, (double)NAN, 0, &t->err), TN_E_ARG);
	al_expect(t, tn_lora_check(8, 16, 1.5, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA dropout must be in [0.0, 1.0]");
	o.rank = 0;
	expect_refused(t, LLAMA, o, TN_E_ARG, "LoRA rank must be > 0");
	o.rank = 8;
	o.alpha = -1;
	expect_refused(t, LLAMA, o, TN_E_ARG, "LoRA alpha must be > 0.0");
	o.alpha = 1;
	o.scale = 1;
	expect_refused(t, LLAMA, o, TN_E_ARG, "exclude each other");
	o.scale = 0;
	o.dropout = 1;
	expect_refused(t, LLAMA, o, TN_E_ARG, "0 to below 1");
	o.dropout = 0;
	o.dialect = TN_DIALECT_GGUF;
	expect_refused(t, LLAMA, o, TN_E_ARG, "mlx-lm and peft");
	o.dialect = TN_DIALECT_PEFT;
	o.init = (tn_init)5;
	expect_refused(t, LLAMA, o, TN_E_ARG, "one of tn_init");
}

static void keys_must_name_something(void **state)
{
	struct al *t = *state;
	static const char *const typo[] = { "self_attn.q_porj" }, *const outside[] = { "model.layers.0.self_attn.q_proj", "lm_haed" };
	static const char *const experts[] = { "experts.down_proj" };
	struct tn_create_options o = options_for(TN_DIALECT_MLX_LM, typo, 1);
	expect_refused(t, LLAMA, o, TN_E_MISMATCH, "nearest is 'self_attn.q_proj'");
	o.keys = outside;
	o.key_count = 2;
	expect_refused(t, LLAMA, o, TN_E_MISMATCH, "nearest is 'lm_head'");
	o = options_for(TN_DIALECT_MLX_LM, NULL, 0);
	o.dora = 1;
	static const char *const stack[] = { "switch_mlp.up_proj" };
	o.keys = stack;
	o.key_count = 1;
	expect_refused(t, MIXTRAL, o, TN_E_UNSUPPORTED, "no DoRA");
	o = options_for(TN_DIALECT_PEFT, experts, 1);
	o.dora = 1;
	expect_refused(t, ADAPTER_DATA "/peft/mixtral", o, TN_E_UNSUPPORTED, "no DoRA");
	o.dora = 0;
	o.num_layers = 1;
	expect_refused(t, ADAPTER_DATA "/peft/mixtral", o, TN_E_UNSUPPORTED, "no window");
	/* without keys the stacks are left out of a DoRA, and everything else is taken */
	o = options_for(TN_DIALECT_MLX_LM, NULL, 0);
	o.dora = 1;
	tn_checkpoint *base = open_base(t, MIXTRAL);
	tn_draft *d;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	assert_non_null(tn_draft_of(d, "model.layers.0.block_sparse_moe.gate", TN_PARAMETER_MAGNITUDE));
	assert_null(tn_draft_of(d, "model.layers.0.block_sparse_moe.switch_mlp.up_proj", TN_PARAMETER_A));
	tn_draft_destroy(d);
	tn_checkpoint_close(base);
}

/* transformers 5 holds the router as a parameter: PEFT's all-linear leaves it out, and so do routers and heads here. */
static void all_linear_leaves_routers_and_heads_out(void **state)
{
	struct al *t = *state;
	tn_checkpoint *base = open_base(t, ADAPTER_DATA "/peft/mixtral");
	struct tn_create_options o = options_for(TN_DIALECT_PEFT, NULL, 0);
	tn_draft *d;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	assert_true(tn_draft_count(d) > 0);
	for (size_t i = 0; i < tn_draft_count(d); i++)
		assert_non_null(strstr(tn_draft_at(d, i)->module, ".self_attn."));
	tn_draft_destroy(d);
	tn_checkpoint_close(base);
}

/* More rows than are read at a time, and a table whose columns are measured. */
static void magnitudes_are_measured_block_by_block(void **state)
{
	struct al *t = *state;
	enum { ROWS = 70000, COLS = 4 };
	static float values[ROWS * COLS];
	for (size_t i = 0; i < ROWS * COLS; i++)
		values[i] = (float)(i % 977) / 977 - 0.5f;
	const struct al_tensor tensors[] = { { "x.layers.0.tall.weight", { ROWS, COLS }, 2, values },
					     { "x.embed_tokens.weight", { ROWS, COLS }, 2, values } };
	static const char *const keys[] = { "tall", "embed_tokens" };
	const char *folder = al_path(t, "tall");
	al_write_base(folder, "{\"model_type\": \"none\"}", tensors, 2);
	tn_checkpoint *base = open_base(t, folder);
	struct tn_create_options o = options_for(TN_DIALECT_PEFT, keys, 2);
	tn_draft *d;
	double columns[COLS] = { 0 };
	o.dora = 1;
	o.rank = 1;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	const float *rows = tn_draft_of(d, "x.layers.0.tall", TN_PARAMETER_MAGNITUDE)->data;
	const struct tn_parameter *table = tn_draft_of(d, "x.embed_tokens", TN_PARAMETER_MAGNITUDE);
	assert_int_equal(table->elements, COLS);
	for (size_t i = 0; i < ROWS; i++) {
		double sum = 0;
		for (size_t c = 0; c < COLS; c++) {
			sum += (double)values[i * COLS + c] * (double)values[i * COLS + c];
			columns[c] += (double)values[i * COLS + c] * (double)values[i * COLS + c];
		}
		assert_true(fabs((double)rows[i] - sqrt(sum)) < 1e-6);
	}
	for (size_t c = 0; c < COLS; c++)
		assert_true(fabs((double)table->data[c] / sqrt(columns[c]) - 1) < 1e-6);
	tn_draft_destroy(d);
	tn_checkpoint_close(base);
}

static void a_base_without_layers_has_nothing_to_choose(void **state)
{
	struct al *t = *state;
	static const struct al_tensor tensors[] = { { "norm.weight", { 4 }, 1, NULL }, { "proj.weight", { 4, 3 }, 2, NULL } };
	const char *folder = al_path(t, "flat");
	al_write_base(folder, "{\"model_type\": \"none\"}", tensors, 2);
	expect_refused(t, folder, options_for(TN_DIALECT_MLX_LM, NULL, 0), TN_E_MISMATCH, "name modules by keys");
	static const char *const key[] = { "proj" };
	struct tn_create_options o = options_for(TN_DIALECT_MLX_LM, key, 1);
	tn_checkpoint *base = open_base(t, folder);
	tn_draft *d;
	o.rank = 4;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	assert_int_equal(t->warnings, 1);   /* the rank exceeds the smaller side */
	al_ok(t, tn_draft_save(d, al_path(t, "flat_lora"), 0, &t->err));
	al_expect(t, tn_draft_save(d, al_path(t, "flat_lora"), 0, &t->err), TN_E_EXISTS);
	al_ok(t, tn_draft_save(d, al_path(t, "flat_lora"), 1, &t->err));
	al_expect(t, tn_draft_save(d, folder, 1, &t->err), TN_E_EXISTS);
	al_write_text(al_path(t, "flat_lora/notes.csv"), "1");
	al_expect(t, tn_draft_save(d, al_path(t, "flat_lora"), 1, &t->err), TN_E_EXISTS);
	al_expect_named(t, "notes.csv");
	tn_draft_destroy(d);
	tn_checkpoint_close(base);
}

/* A router of DeepSeek's kind is a matrix, and no layer to mlx-lm: no factors are made for it, and nothing quantizes it. */
static void matrices_that_are_no_layers_are_left_alone(void **state)
{
	struct al *t = *state;
	static const struct al_tensor tensors[] = { { "model.layers.1.mlp.gate.weight", { 4, 64 }, 2, NULL },
						    { "model.layers.1.mlp.shared_experts.down_proj.weight", { 8, 64 }, 2, NULL } };
	const char *folder = al_path(t, "deepseek");
	al_write_base(folder, "{\"model_type\": \"deepseek_v3\"}", tensors, 2);
	tn_checkpoint *base = open_base(t, folder);
	struct tn_create_options o = options_for(TN_DIALECT_MLX_LM, NULL, 0);
	tn_draft *d;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	assert_int_equal(tn_draft_count(d), 2);
	assert_null(tn_draft_of(d, "model.layers.1.mlp.gate", TN_PARAMETER_A));
	tn_draft_destroy(d);
	for (int recipe = 0; recipe < 2; recipe++) {
		struct tn_quant_request request = TN_QUANT_REQUEST_INIT;
		tn_quant_plan *plan;
		request.recipe = recipe ? "mixed_3_6" : NULL;
		al_ok(t, tn_quant_plan_create(t->ctx, base, NULL, &request, &plan, &t->err));
		assert_true(tn_quant_plan_find(plan, "model.layers.1.mlp.gate")->skipped);
		assert_false(tn_quant_plan_find(plan, "model.layers.1.mlp.shared_experts.down_proj")->skipped);
		tn_quant_plan_destroy(plan);
	}
	tn_checkpoint_close(base);
}

/* ---- identity -------------------------------------------------------------------------------------------- */

static void a_changed_file_or_configuration_is_refused(void **state)
{
	struct al *t = *state;
	tn_checkpoint *base = open_base(t, LLAMA);
	struct tn_create_options o = options_for(TN_DIALECT_MLX_LM, q_proj, 1);
	tn_adapter *adapter = NULL;
	tn_draft *d;
	const char *folder = al_path(t, "mine");
	char weights[600], config[600];
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	tn_checkpoint_close(base);
	train(d);
	al_ok(t, tn_draft_save(d, folder, 0, &t->err));
	tn_draft_destroy(d);
	snprintf(weights, sizeof weights, "%s/adapters.safetensors", folder);
	snprintf(config, sizeof config, "%s/adapter_config.json", folder);

	char text[4096];
	FILE *f = fopen(config, "r+");
	text[fread(text, 1, sizeof text - 1, f)] = '\0';
	char *scale = strstr(text, "20.0");
	fseek(f, scale - text, SEEK_SET);
	fputs("21.0", f);
	fclose(f);
	al_expect(t, tn_adapter_open(t->ctx, folder, &adapter, &t->err), TN_E_MISMATCH);
	al_expect_named(t, "adapters.safetensors");
	al_expect_named(t, TN_METADATA_ADAPTER);
	al_expect(t, tn_adapter_open(t->ctx, weights, &adapter, &t->err), TN_E_MISMATCH); /* by the file alone too */
	f = fopen(config, "r+");
	fseek(f, scale - text, SEEK_SET);
	fputs("20.0", f);
	fclose(f);
	al_ok(t, tn_adapter_open(t->ctx, folder, &adapter, &t->err));
	tn_adapter_close(adapter);

	f = fopen(weights, "r+");
	fseek(f, -5, SEEK_END);
	int byte = fgetc(f);
	fseek(f, -5, SEEK_END);
	fputc(byte ^ 1, f);
	fclose(f);
	adapter = NULL;
	al_expect(t, tn_adapter_open(t->ctx, folder, &adapter, &t->err), TN_E_MISMATCH);
	assert_null(adapter);
}

static void another_base_is_said_in_the_log(void **state)
{
	struct al *t = *state;
	char from[600], to[600];
	tn_checkpoint *base = open_base(t, LLAMA), *other;
	struct tn_create_options o = options_for(TN_DIALECT_PEFT, q_proj, 1);
	tn_adapter *adapter;
	tn_draft *d;
	tn_fuse *fuse;
	unsigned char hash[2][TN_HASH_BYTES];
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	al_ok(t, tn_draft_save(d, al_path(t, "mine"), 0, &t->err));
	tn_draft_destroy(d);
	al_ok(t, tn_adapter_open(t->ctx, al_path(t, "mine"), &adapter, &t->err));
	al_ok(t, tn_fuse_plan(t->ctx, base, adapter, NULL, &fuse, &t->err));
	tn_fuse_free(fuse);
	assert_int_equal(t->warnings, 0);

	/* the same model with another number in one q_proj, and then with another number that the adapter does not touch */
	const char *folder = al_path(t, "other");
	const struct tn_tensor *q = tn_checkpoint_find(base, "model.layers.1.self_attn.q_proj.weight");
	const struct tn_tensor *norm = tn_checkpoint_find(base, "model.norm.weight");
	assert_int_equal(mkdir(folder, 0777), 0);
	snprintf(from, sizeof from, "%s/config.json", LLAMA);
	snprintf(to, sizeof to, "%s/config.json", folder);
	copy_file(from, to);
	for (int touched = 0; touched < 2; touched++) {
		snprintf(from, sizeof from, "%s/model.safetensors", LLAMA);
		snprintf(to, sizeof to, "%s/model.safetensors", folder);
		copy_file(from, to);
		FILE *f = fopen(to, "r+");
		fseek(f, (long)(touched ? q : norm)->offset + 2, SEEK_SET);
		fputc(1, f);
		fclose(f);
		other = open_base(t, folder);
		al_ok(t, tn_fuse_plan(t->ctx, other, adapter, NULL, &fuse, &t->err));
		tn_fuse_free(fuse);
		assert_int_equal(t->warnings, touched);
		al_ok(t, tn_adapter_base_sample(adapter, other, hash[touched], &t->err));
		tn_checkpoint_close(other);
	}
	assert_memory_not_equal(hash[0], hash[1], TN_HASH_BYTES);
	tn_checkpoint_close(base);
	tn_adapter_close(adapter);
}

/* ---- accounts -------------------------------------------------------------------------------------------- */

static void accounts_add_up(void **state)
{
	struct al *t = *state;
	static const char *const keys[] = { "q_proj", "v_proj", "embed_tokens" };
	tn_checkpoint *base = open_base(t, LLAMA);
	struct tn_create_options o = options_for(TN_DIALECT_PEFT, keys, 3);
	struct tn_accounts a;
	tn_draft *d;
	o.rank = 4;
	al_ok(t, tn_draft_create(base, &o, &d, &t->err));
	al_ok(t, tn_adapter_account(t->ctx, tn_draft_adapter(d), base, &a, &t->err));
	/* q [32, 32] and v [16, 32] in three layers, the table [96, 32] */
	uint64_t layer = 4 * (32 + 32) + 4 * (32 + 16), table = 4 * (96 + 32);
	assert_int_equal(a.layer_count, 4);
	assert_int_equal(a.layers[0].layer, TN_OUTSIDE_LAYERS);
	assert_int_equal(a.layers[0].trainable, table);
	assert_int_equal(a.layers[0].adapted, 96 * 32);
	for (int i = 1; i < 4; i++) {
		assert_int_equal(a.layers[i].layer, i - 1);
		assert_int_equal(a.layers[i].modules, 2);
		assert_int_equal(a.layers[i].trainable, layer);
		assert_int_equal(a.layers[i].adapted, 32 * 32 + 16 * 32);
		assert_int_equal(a.layers[i].bytes, 4 * layer);
		assert_true(fabs(a.layers[i].ratio - (double)layer / (double)(layer + 1536)) < 1e-12);
	}
	assert_int_equal(a.all.modules, 7);
	assert_int_equal(a.all.trainable, 3 * layer + table);
	assert_int_equal(a.all.adapted, 3 * 1536 + 96 * 32);
	assert_int_equal(a.file_bytes, a.all.bytes);
	uint64_t all = 0;
	for (size_t i = 0; i < tn_checkpoint_count(base); i++)
		all += tn_checkpoint_at(base, i)->elements;
	assert_int_equal(a.base_parameters, all);
	tn_accounts_release(t->ctx, &a);
	al_ok(t, tn_adapter_account(t->ctx, tn_draft_adapter(d), NULL, &a, &t->err));
	assert_int_equal(a.all.trainable, 3 * layer + table);
	assert_int_equal(a.all.adapted + a.base_parameters, 0);
	tn_accounts_release(t->ctx, &a);
	tn_draft_destroy(d);
	tn_checkpoint_close(base);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

struct life {
	struct al *t;
	const char *folder;
	struct tn_create_options options;
	unsigned number;         /* of the try: each has a folder of its own */
};

static tn_status whole_life(tn_context *ctx, void *arg, struct tn_error *err)
{
	struct life *life = arg;
	const char *out = al_path(life->t, "out%u", life->number++);
	tn_checkpoint *base = NULL;
	tn_draft *d = NULL, *again = NULL;
	tn_adapter *adapter = NULL;
	struct tn_accounts accounts = { 0 };
	tn_status status = tn_checkpoint_open(ctx, life->folder, &base, err);
	if (status == TN_OK)
		status = tn_draft_create(base, &life->options, &d, err);
	if (status == TN_OK)
		status = tn_adapter_account(ctx, tn_draft_adapter(d), base, &accounts, err);
	if (status == TN_OK)
		status = tn_draft_save(d, out, 0, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, out, &adapter, err);
	if (status == TN_OK)
		status = tn_draft_open(ctx, out, &again, err);
	tn_draft_destroy(again);
	tn_adapter_close(adapter);
	tn_accounts_release(ctx, &accounts);
	tn_draft_destroy(d);
	tn_checkpoint_close(base);
	return status;
}

static void every_allocation_may_fail(void **state)
{
	static const char *const experts[] = { "q_proj", "experts.gate_up_proj", "experts.down_proj" };
	const char *folders[] = { LLAMA, ADAPTER_DATA "/peft/mixtral", MIXTRAL };
	struct life life = { .t = *state };
	for (int i = 0; i < 3; i++) {
		life.folder = folders[i];
		life.options = options_for(i < 2 ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, experts, i == 1 ? 3 : 0);
		life.options.dora = i == 0;
		tt_fail_each_allocation(folders[i], 40, whole_life, &life);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(fusing_a_new_adapter_changes_no_byte),
		AL_TEST(a_trained_draft_fuses_as_its_folder_does),
		AL_TEST(the_same_call_writes_the_same_bytes),
		AL_TEST(parameters_are_set_with_their_shape_alone),
		AL_TEST(test_lora_config_validation),
		AL_TEST(keys_must_name_something),
		AL_TEST(all_linear_leaves_routers_and_heads_out),
		AL_TEST(magnitudes_are_measured_block_by_block),
		AL_TEST(a_base_without_layers_has_nothing_to_choose),
		AL_TEST(matrices_that_are_no_layers_are_left_alone),
		AL_TEST(a_changed_file_or_configuration_is_refused),
		AL_TEST(another_base_is_said_in_the_log),
		AL_TEST(accounts_add_up),
		AL_TEST(every_allocation_may_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
