/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter out of two checkpoints. Where the tuned one was made by fusing an adapter, that adapter's change comes back; where it
 * was not, what the singular values say is kept is kept; and everything that no adapter holds is named. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PEFT FUSE_DATA "/peft"
#define MLX FUSE_DATA "/mlx_adapters"

struct job {
	const char *base, *tuned;
	tn_adapter_dialect dialect;
	struct tn_extract_options options;
};

static tn_status extract_with(tn_context *ctx, const struct job *j, tn_draft **out, struct tn_error *err)
{
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	tn_checkpoint *base = NULL, *tuned = NULL;
	o.dialect = j->dialect;
	tn_status status = tn_checkpoint_open(ctx, j->base, &base, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, j->tuned, &tuned, err);
	if (status == TN_OK)
		status = tn_draft_extract(base, tuned, &o, &j->options, out, err);
	tn_checkpoint_close(tuned);
	tn_checkpoint_close(base);
	return status;
}

static tn_draft *extract(struct tt *t, const struct job *j)
{
	tn_draft *d;
	tt_ok(t, extract_with(t->ctx, j, &d, &t->err));
	return d;
}

static void refused(struct tt *t, const struct job *j, tn_status code, const char *text)
{
	tn_draft *d;
	tt_expect(t, extract_with(t->ctx, j, &d, &t->err), code);
	tt_expect_msg(t, text);
}

static struct job job_of(const char *base, const char *tuned, tn_adapter_dialect dialect, uint64_t rank)
{
	struct job j = { base, tuned, dialect, TN_EXTRACT_OPTIONS_INIT };
	j.options.rule.rank = rank;
	return j;
}

/* ---- comparing ------------------------------------------------------------------------------------------- */

/* |b - a|^2 over all tensors of two folders, and |a - base|^2. */
struct distance {
	double between, from_base, largest;
};

static void add_distance(struct distance *d, const double *base, const double *a, const double *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		d->between += (b[i] - a[i]) * (b[i] - a[i]);
		d->from_base += (a[i] - base[i]) * (a[i] - base[i]);
		d->largest = fmax(d->largest, fabs(b[i] - a[i]));
	}
}

static struct distance measure(struct tt *t, const char *base, const char *a, const char *b)
{
	struct distance d = { 0 };
	tn_checkpoint *c;
	tt_ok(t, tn_checkpoint_open(t->ctx, base, &c, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(c); i++) {
		const char *name = tn_checkpoint_at(c, i)->name;
		size_t n, m, k;
		double *x = fuse_values(t, base, name, &n), *y = fuse_values(t, a, name, &m), *z = fuse_values(t, b, name, &k);
		assert_int_equal(n, m);
		assert_int_equal(n, k);
		add_distance(&d, x, y, z, n);
		free(x);
		free(y);
		free(z);
	}
	tn_checkpoint_close(c);
	return d;
}

/* Saves the draft, fuses it, and says how far the result is from the tuned model. */
static struct distance fuse_back(struct tt *t, const struct job *j, const tn_draft *d)
{
	char adapter[4096], out[4096];
	snprintf(adapter, sizeof adapter, "%s/extracted", t->folder);
	snprintf(out, sizeof out, "%s/again", t->folder);
	tt_remove_tree(adapter);
	tt_remove_tree(out);
	tt_ok(t, tn_draft_save(d, adapter, 0, &t->err));
	struct fuse_job fuse = FUSE_JOB(.base = j->base, .adapter = adapter, .out = out);
	fuse_run(t, t->ctx, &fuse, NULL, 0);
	return measure(t, j->base, j->tuned, out);
}

/* ---- what was fused comes back ----------------------------------------------------------------------------- */

/* F32 bases of both libraries, in both dialects: linear layers, Conv1D, embeddings and head, experts one by one and stacked. */
static void a_fused_adapter_comes_back(void **state)
{
	static const char *const all[] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens",
					   "lm_head" };
	static const struct {
		const char *base, *adapter;
		uint64_t rank;
		size_t keys;
	} cases[] = {
		{ PEFT "/llama", PEFT "/cases/lora_list", 64, 0 },
		{ PEFT "/llama", PEFT "/cases/all_linear", 64, 0 },
		{ PEFT "/llama", PEFT "/cases/embedding", 64, 9 },
		{ PEFT "/gpt2", PEFT "/cases/gpt2_conv1d", 64, 0 },
		{ PEFT "/mixtral", PEFT "/cases/moe_target_parameters", 64, 0 },
	};
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int peft = 0; peft < 2; peft++) {
			char tuned[4096];
			snprintf(tuned, sizeof tuned, "%s/tuned", t->folder);
			tt_remove_tree(tuned);
			struct fuse_job fuse = FUSE_JOB(.base = cases[i].base, .adapter = cases[i].adapter, .out = tuned);
			fuse_run(t, t->ctx, &fuse, NULL, 0);
			struct job j = job_of(cases[i].base, tuned, peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, cases[i].rank);
			j.options.keys = all;
			j.options.key_count = cases[i].keys;
			tn_draft *d = extract(t, &j);
			const struct tn_extracted *e = tn_draft_extracted(d);
			struct distance far = fuse_back(t, &j, d);
			if (!(e->kept > 1 - 1e-10 && far.largest < 1e-6 && far.between < 1e-10 * far.from_base))
				fail_msg("%s, %s: kept %g, off by %g, %g of the change", cases[i].adapter, peft ? "peft" : "mlx", e->kept,
					 far.largest, sqrt(far.between / far.from_base));
			assert_int_equal(e->rest_count, 0);
			tn_draft_destroy(d);
		}
}

/* Rounding to 16 bits is the only thing that is lost, and what is said to be rounding is just that. */
static void of_16_bits_only_the_rounding_is_lost(void **state)
{
	struct tt *t = *state;
	const char *base = FUSE_EXAMPLES "/base", *pirate = FUSE_EXAMPLES "/adapters/pirate";
	char tuned[4096];
	snprintf(tuned, sizeof tuned, "%s/tuned", t->folder);
	struct fuse_job fuse = FUSE_JOB(.base = base, .adapter = pirate, .out = tuned);
	fuse_run(t, t->ctx, &fuse, NULL, 0);
	for (int peft = 0; peft < 2; peft++) {
		struct job j = job_of(base, tuned, peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, 8);
		tn_draft *d = extract(t, &j);
		const struct tn_extracted *e = tn_draft_extracted(d);
		assert_int_equal(tn_draft_derived_count(d), 42);
		assert_int_equal(e->modules, 43);
		assert_int_equal(e->unchanged, 1);
		for (size_t i = 0; i < 42; i++) {
			double kept = tn_draft_derived_at(d, i)->kept;
			assert_int_equal(tn_draft_derived_at(d, i)->rank, 8);
			assert_true(kept < 1 && fabs(1 - kept - e->noise[i]) < 0.4 * e->noise[i] && e->noise[i] < 1e-3);
		}
		struct distance far = fuse_back(t, &j, d);
		assert_true(far.between < 2 * e->rounding * far.from_base);
		tn_draft_destroy(d);
	}
}

/* The base is in codes, the tuned one dense; and the other way round. */
static void codes_are_decoded(void **state)
{
	struct tt *t = *state;
	const char *base = FUSE_EXAMPLES "/base-mlx-4bit", *whisper = FUSE_EXAMPLES "/adapters/whisper";
	char tuned[4096];
	snprintf(tuned, sizeof tuned, "%s/tuned", t->folder);
	struct fuse_job fuse = FUSE_JOB(.base = base, .adapter = whisper, .out = tuned);
	fuse.options.dequantize = 1;
	fuse_run(t, t->ctx, &fuse, NULL, 0);
	struct job j = job_of(base, tuned, TN_DIALECT_MLX_LM, 8);
	tn_draft *d = extract(t, &j);
	const struct tn_extracted *e = tn_draft_extracted(d);
	assert_int_equal(tn_draft_derived_count(d), 42);
	assert_int_equal(e->rest_count, 0); /* the embedding was only decoded */
	assert_true(e->kept < 1 && fabs(1 - e->kept - e->rounding) < 0.4 * e->rounding && e->rounding < 1e-3);
	tn_draft_destroy(d);
	struct job back = job_of(tuned, base, TN_DIALECT_PEFT, 8);
	back.options.others = TN_OTHERS_IGNORED;
	d = extract(t, &back);
	assert_true(tn_draft_extracted(d)->rounding > 0.005); /* of four bits */
	tn_draft_destroy(d);
}

/* ---- models made up ---------------------------------------------------------------------------------------- */

enum { WIDTH = 32, WIDE = 48, WORDS = 40, TENSORS = 10 };

struct model {
	struct fuse_tensor tensors[TENSORS];
	size_t count;
	float values[TENSORS][WIDE * WORDS];
};

static const struct {
	const char *name;
	uint64_t rows, cols;
} parts[TENSORS] = {
	{ "model.embed_tokens.weight", WORDS, WIDTH },
	{ "model.layers.0.input_layernorm.weight", 0, WIDTH },
	{ "model.layers.0.mlp.down_proj.weight", WIDTH, WIDE },
	{ "model.layers.0.mlp.up_proj.weight", WIDE, WIDTH },
	{ "model.layers.0.self_attn.q_proj.bias", 0, WIDTH },
	{ "model.layers.0.self_attn.q_proj.weight", WIDTH, WIDTH },
	{ "model.layers.1.mlp.down_proj.weight", WIDTH, WIDE },
	{ "model.layers.1.mlp.up_proj.weight", WIDE, WIDTH },
	{ "model.norm.weight", 0, WIDTH },
	{ "lm_head.weight", WORDS, WIDTH },
};
enum { EMBEDDING, FIRST_NORM, DOWN, UP, BIAS, Q, SECOND_DOWN, SECOND_UP, NORM, HEAD };

static void make_model(struct model *m)
{
	uint64_t seed = 17;
	m->count = TENSORS;
	for (size_t i = 0; i < TENSORS; i++) {
		m->tensors[i] = (struct fuse_tensor){ parts[i].name, parts[i].rows, parts[i].cols, m->values[i] };
		for (size_t k = 0; k < WIDE * WORDS; k++)
			m->values[i][k] = fuse_normal(&seed) / 8;
	}
}

static const char *write_model(struct tt *t, const struct model *m, const char *name, tn_dtype dtype)
{
	const char *path = tt_path(t, "%s", name);
	fuse_write_model(t, path, m->tensors, m->count, dtype);
	return path;
}

static void shake(float *values, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		values[i] += fuse_normal(&seed) / 16;
}

static void every_rank_gives_everything_back(void **state)
{
	struct tt *t = *state;
	struct model m;
	make_model(&m);
	const char *base = write_model(t, &m, "base", TN_F32);
	shake(m.values[UP], WIDE * WIDTH, 1);
	shake(m.values[DOWN], WIDE * WIDTH, 2);
	shake(m.values[Q], WIDTH * WIDTH, 3);
	const char *tuned = write_model(t, &m, "tuned", TN_F32);
	for (int peft = 0; peft < 2; peft++) {
		struct job j = job_of(base, tuned, peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, 0);
		tn_draft *d = extract(t, &j);
		assert_int_equal(tn_draft_derived_count(d), 3);
		assert_int_equal(tn_draft_extracted(d)->unchanged, 4);
		for (size_t i = 0; i < 3; i++)
			assert_int_equal(tn_draft_derived_at(d, i)->rank, WIDTH);
		struct distance far = fuse_back(t, &j, d);
		assert_true(far.largest < 1e-6 && far.from_base > 1);
		tn_draft_destroy(d);
	}
}

/* 4, 2 and 1 on the diagonal of a rotated plane: of 21 parts, one direction keeps 16 and two keep 20. */
static void what_is_kept_is_what_the_singular_values_say(void **state)
{
	struct tt *t = *state;
	static const double values[] = { 4, 2, 1 };
	struct model m;
	make_model(&m);
	memset(m.values[UP], 0, sizeof m.values[UP]);
	const char *base = write_model(t, &m, "base", TN_F32);
	for (size_t i = 0; i < WIDE; i++)
		for (size_t k = 0; k < WIDTH; k++)
			for (size_t s = 0; s < 3; s++) /* rows of Walsh and Fourier are orthogonal */
				m.values[UP][i * WIDTH + k] +=
					(float)(values[s] * sqrt(2.0 / WIDE) * cos(6.283185307179586 * (double)((s + 1) * i) / WIDE) *
						(__builtin_popcountll(k & (s + 1)) % 2 ? -1 : 1) / sqrt(WIDTH));
	struct job j = job_of(base, write_model(t, &m, "tuned", TN_F32), TN_DIALECT_PEFT, 1);
	static const struct {
		struct tn_rank_rule rule;
		uint64_t rank;
		double kept;
	} cases[] = { { { 1, 1 }, 1, 16 / 21.0 }, { { 2, 1 }, 2, 20 / 21.0 }, { { 0, 0.95 }, 2, 20 / 21.0 }, { { 0, 0.76 }, 1, 16 / 21.0 },
		      { { 1, 0.95 }, 1, 16 / 21.0 }, { { 0, 0.96 }, 3, 1 } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		j.options.rule = cases[i].rule;
		tn_draft *d = extract(t, &j);
		const struct tn_derived_module *found = tn_draft_derived_at(d, 0);
		if (found->rank != cases[i].rank || fabs(found->kept - cases[i].kept) > 1e-6)
			fail_msg("case %zu: rank %llu, kept %g", i, (unsigned long long)found->rank, found->kept);
		assert_true(fabs(tn_draft_extracted(d)->kept - cases[i].kept) < 1e-6);
		tn_draft_destroy(d);
	}
}

/* ---- experts ----------------------------------------------------------------------------------------------- */

enum { EXPERTS = 3, HIDDEN = 16, INNER = 20 };

/* gate [INNER, HIDDEN] above up, and down [HIDDEN, INNER], of each expert. */
struct experts {
	float gate_up[EXPERTS][2 * INNER * HIDDEN], down[EXPERTS][HIDDEN * INNER];
};
#define BLOCK "model.layers.0.block_sparse_moe.experts"

static void write_config(struct tt *t, const char *name)
{
	tt_write_text(tt_path(t, "%s/config.json", name), "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 1}\n");
}

static void write_apart(struct tt *t, const struct experts *x, const char *name)
{
	struct fuse_tensor tensors[3 * EXPERTS];
	char names[3 * EXPERTS][96];
	for (int i = 0; i < EXPERTS; i++) {
		for (int w = 0; w < 3; w++)
			snprintf(names[3 * i + w], sizeof names[0], BLOCK ".%d.w%d.weight", i, w + 1);
		tensors[3 * i] = (struct fuse_tensor){ names[3 * i], INNER, HIDDEN, x->gate_up[i] };
		tensors[3 * i + 1] = (struct fuse_tensor){ names[3 * i + 1], HIDDEN, INNER, x->down[i] };
		tensors[3 * i + 2] = (struct fuse_tensor){ names[3 * i + 2], INNER, HIDDEN, x->gate_up[i] + INNER * HIDDEN };
	}
	const char *path = tt_path(t, "%s", name);
	fuse_write_model(t, path, tensors, 3 * EXPERTS, TN_F32);
	write_config(t, name);
}

static void write_fused(struct tt *t, const struct experts *x, const char *name)
{
	const struct fuse_tensor stacks[] = { { BLOCK ".down_proj", HIDDEN, INNER, x->down[0] },
					      { BLOCK ".gate_up_proj", 2 * INNER, HIDDEN, x->gate_up[0] } };
	const char *path = tt_path(t, "%s", name);
	mkdir(path, 0777);
	fuse_write_stacks(t, tt_path(t, "%s/model.safetensors", name), stacks, 2, EXPERTS);
	write_config(t, name);
}

/* mlx-lm's three stacks. */
static void write_switch(struct tt *t, const struct experts *x, const char *name)
{
	static const char *const names[] = { "down_proj", "gate_proj", "up_proj" };
	static float halves[2][EXPERTS][INNER * HIDDEN];
	const float *values[] = { x->down[0], halves[0][0], halves[1][0] };
	struct fuse_tensor stack[3];
	char full[3][96];
	for (int i = 0; i < EXPERTS; i++)
		for (int up = 0; up < 2; up++)
			memcpy(halves[up][i], x->gate_up[i] + up * INNER * HIDDEN, sizeof halves[up][i]);
	const char *path = tt_path(t, "%s", name);
	mkdir(path, 0777);
	for (int i = 0; i < 3; i++) {
		snprintf(full[i], sizeof full[i], "model.layers.0.block_sparse_moe.switch_mlp.%s.weight", names[i]);
		stack[i] = (struct fuse_tensor){ full[i], i ? INNER : HIDDEN, i ? HIDDEN : INNER, values[i] };
	}
	fuse_write_stacks(t, tt_path(t, "%s/model-1.safetensors", name), stack, 1, EXPERTS);
	fuse_write_stacks(t, tt_path(t, "%s/model-2.safetensors", name), stack + 1, 2, EXPERTS);
	write_config(t, name);
}

/* A change of rank 2. */
static void turn(float *w, size_t rows, size_t cols, uint64_t seed)
{
	float left[2 * 2 * INNER], right[2 * 2 * INNER];
	for (size_t i = 0; i < 4 * INNER; i++) {
		left[i] = fuse_normal(&seed) / 4;
		right[i] = fuse_normal(&seed) / 4;
	}
	for (size_t i = 0; i < rows; i++)
		for (size_t k = 0; k < cols; k++)
			w[i * cols + k] += left[2 * i] * right[2 * k] + left[2 * i + 1] * right[2 * k + 1];
}

static void expect_values(struct tt *t, const char *folder, const char *name, const float *wanted, size_t count)
{
	size_t n;
	double *got = fuse_values(t, folder, name, &n);
	assert_int_equal(n, count);
	for (size_t i = 0; i < n; i++)
		if (fabs(got[i] - (double)wanted[i]) > 1e-6)
			fail_msg("%s, %zu: %g, %g was expected", name, i, got[i], (double)wanted[i]);
	free(got);
}

static void experts_may_stand_in_another_form(void **state)
{
	struct tt *t = *state;
	struct experts x;
	uint64_t seed = 5;
	for (size_t i = 0; i < sizeof x / sizeof(float); i++)
		((float *)&x)[i] = fuse_normal(&seed);
	write_apart(t, &x, "apart");
	write_fused(t, &x, "fused");
	write_switch(t, &x, "switch");
	for (uint64_t i = 0; i < EXPERTS; i++) {
		turn(x.gate_up[i], 2 * INNER, HIDDEN, 10 + i);
		turn(x.down[i], HIDDEN, INNER, 20 + i);
	}
	write_fused(t, &x, "tuned_fused");
	write_switch(t, &x, "tuned_switch");
	write_apart(t, &x, "tuned_apart");
	for (int form = 0; form < 3; form++)
		for (int peft = 0; peft < 2; peft++) {
			static const char *const bases[] = { "apart", "fused", "switch" };
			static const char *const tuned[] = { "tuned_fused", "tuned_switch", "tuned_apart" };
			struct job j = job_of(tt_path(t, "%s", bases[form]), tt_path(t, "%s", tuned[form]),
					      peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, 2);
			char again[4096], adapter[4096];
			tn_draft *d = extract(t, &j);
			assert_int_equal(tn_draft_derived_count(d), peft ? 2 : 3);
			snprintf(adapter, sizeof adapter, "%s/adapter%d%d", t->folder, form, peft);
			snprintf(again, sizeof again, "%s/again%d%d", t->folder, form, peft);
			tt_ok(t, tn_draft_save(d, adapter, 0, &t->err));
			struct fuse_job fuse = FUSE_JOB(.base = j.base, .adapter = adapter, .out = again);
			fuse_run(t, t->ctx, &fuse, NULL, 0);
			if (form == 2) {
				expect_values(t, again, "model.layers.0.block_sparse_moe.switch_mlp.down_proj.weight", x.down[0],
					      EXPERTS * HIDDEN * INNER);
			} else if (form == 1) {
				expect_values(t, again, BLOCK ".gate_up_proj", x.gate_up[0], EXPERTS * 2 * INNER * HIDDEN);
				expect_values(t, again, BLOCK ".down_proj", x.down[0], EXPERTS * HIDDEN * INNER);
			} else {
				expect_values(t, again, BLOCK ".1.w1.weight", x.gate_up[1], INNER * HIDDEN);
				expect_values(t, again, BLOCK ".2.w3.weight", x.gate_up[2] + INNER * HIDDEN, INNER * HIDDEN);
				expect_values(t, again, BLOCK ".2.w2.weight", x.down[2], HIDDEN * INNER);
			}
			tn_draft_destroy(d);
		}
}

/* ---- what else changed ------------------------------------------------------------------------------------- */

static void what_no_adapter_holds_is_named(void **state)
{
	struct tt *t = *state;
	struct model m;
	make_model(&m);
	const char *base = write_model(t, &m, "base", TN_F32);
	struct job j = job_of(base, base, TN_DIALECT_PEFT, 4);
	refused(t, &j, TN_E_MISMATCH, "nothing to extract");
	shake(m.values[UP], WIDE * WIDTH, 1);
	m.values[NORM][3] += 1;
	m.values[BIAS][3] += 1;
	m.values[HEAD][3] += 1;
	j.tuned = write_model(t, &m, "tuned", TN_F32);
	refused(t, &j, TN_E_MISMATCH, "3 changed tensors are no part of the adapter: 'lm_head', 'model.layers.0.self_attn.q_proj.bias', "
		"'model.norm.weight'");
	j.options.others = TN_OTHERS_IGNORED;
	tn_draft *d = extract(t, &j);
	const struct tn_extracted *e = tn_draft_extracted(d);
	assert_int_equal(tn_draft_derived_count(d), 1);
	assert_int_equal(e->rest_count, 3);
	assert_string_equal(e->rest[0], "lm_head");
	assert_false(e->rest_is_saved);
	tn_draft_destroy(d);
	static const char *const keys[] = { "up_proj", "lm_head" };
	j.options.keys = keys;
	j.options.key_count = 2;
	d = extract(t, &j);
	assert_int_equal(tn_draft_derived_count(d), 2);
	assert_int_equal(tn_draft_extracted(d)->rest_count, 2);
	tn_draft_destroy(d);
	static const char *const wrong[] = { "up_porj" };
	j.options.keys = wrong;
	j.options.key_count = 1;
	refused(t, &j, TN_E_MISMATCH, "the nearest is 'up_proj'");
}

static void a_dtype_or_a_name_in_front_is_no_change(void **state)
{
	struct tt *t = *state;
	struct model m;
	char names[TENSORS][64];
	make_model(&m);
	const char *wide = write_model(t, &m, "wide", TN_F32), *narrow = write_model(t, &m, "narrow", TN_BF16);
	struct job j = job_of(wide, narrow, TN_DIALECT_PEFT, 4);
	refused(t, &j, TN_E_MISMATCH, "nothing to extract");
	struct job back = job_of(narrow, wide, TN_DIALECT_PEFT, 4);
	refused(t, &back, TN_E_MISMATCH, "nothing to extract");
	for (size_t i = 0; i < TENSORS; i++) {
		snprintf(names[i], sizeof names[i], "language_model.%s", parts[i].name);
		m.tensors[i].name = names[i];
	}
	shake(m.values[UP], WIDE * WIDTH, 1);
	j.base = narrow;
	j.tuned = write_model(t, &m, "wrapped", TN_BF16);
	tn_draft *d = extract(t, &j);
	assert_int_equal(tn_draft_derived_count(d), 1);
	assert_string_equal(tn_draft_derived_at(d, 0)->path, "model.layers.0.mlp.up_proj");
	tn_draft_destroy(d);
}

static void another_model_is_refused(void **state)
{
	struct tt *t = *state;
	struct model m;
	make_model(&m);
	const char *base = write_model(t, &m, "base", TN_F32);
	shake(m.values[UP], WIDE * WIDTH, 1);
	m.count = TENSORS - 1;
	struct job j = job_of(base, write_model(t, &m, "no_head", TN_F32), TN_DIALECT_PEFT, 4);
	refused(t, &j, TN_E_MISMATCH, "lm_head");
	m.count = TENSORS;
	m.tensors[DOWN].cols = WIDE - 1;
	j.tuned = write_model(t, &m, "other_shape", TN_F32);
	refused(t, &j, TN_E_MISMATCH, "is [32, 48] in the base");
	m.tensors[DOWN].cols = WIDE;
	m.tensors[FIRST_NORM].name = "model.layers.0.pre_norm.weight";
	j.tuned = write_model(t, &m, "other_norm", TN_F32);
	refused(t, &j, TN_E_MISMATCH, "'model.layers.0.input_layernorm.weight' (gone), 'model.layers.0.pre_norm.weight' (new)");
	m.tensors[FIRST_NORM].name = parts[FIRST_NORM].name;
	m.tensors[EMBEDDING].rows = WORDS - 1;
	j.tuned = write_model(t, &m, "smaller", TN_F32);
	refused(t, &j, TN_E_MISMATCH, "'model.embed_tokens.weight' (of another shape)");
	m.tensors[EMBEDDING].rows = WORDS;
	m.values[UP][5] = NAN;
	j.tuned = write_model(t, &m, "broken", TN_F32);
	refused(t, &j, TN_E_FORMAT, "NaN or infinity");
}

/* ---- the same bits ----------------------------------------------------------------------------------------- */

/* Returns what is said to be rounding. */
static double hash_with(struct tt *t, unsigned threads, uint64_t budget, const struct job *j, unsigned char hash[TN_HASH_BYTES])
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx;
	tn_draft *d;
	options.threads = threads;
	options.memory_budget_bytes = budget;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	tt_ok(t, extract_with(ctx, j, &d, &t->err));
	tt_ok(t, tn_adapter_hash(tn_draft_adapter(d), hash, &t->err));
	double rounding = tn_draft_extracted(d)->rounding;
	tn_draft_destroy(d);
	tn_context_destroy(ctx);
	return rounding;
}

static void threads_and_memory_change_no_bit(void **state)
{
	struct tt *t = *state;
	const char *base = FUSE_EXAMPLES "/base", *pirate = FUSE_EXAMPLES "/adapters/pirate";
	char tuned[4096];
	unsigned char first[TN_HASH_BYTES], other[TN_HASH_BYTES];
	snprintf(tuned, sizeof tuned, "%s/tuned", t->folder);
	struct fuse_job fuse = FUSE_JOB(.base = base, .adapter = pirate, .out = tuned);
	fuse_run(t, t->ctx, &fuse, NULL, 0);
	struct job j = job_of(base, tuned, TN_DIALECT_PEFT, 6);
	double rounding = hash_with(t, 1, 0, &j, first);
	for (unsigned threads = 2; threads < 8; threads += 5) {
		hash_with(t, threads, 0, &j, other);
		assert_memory_equal(first, other, TN_HASH_BYTES);
	}
	/* in smaller blocks, and without room for a whole module */
	assert_true(fabs(hash_with(t, 2, 1600 << 10, &j, other) / rounding - 1) < 1e-9);
	assert_memory_equal(first, other, TN_HASH_BYTES);
}

static int stop(void *user, const struct tn_progress *progress)
{
	size_t *calls = user;
	return strcmp(progress->phase, "extract") == 0 && ++*calls > 3;
}

static void it_can_be_stopped(void **state)
{
	struct tt *t = *state;
	struct tt_heap heap = { 0 };
	struct tn_options options = TN_OPTIONS_INIT;
	struct model m;
	tn_context *ctx;
	tn_draft *d;
	size_t calls = 0;
	make_model(&m);
	struct job j = job_of(write_model(t, &m, "base", TN_F32), NULL, TN_DIALECT_PEFT, 4);
	shake(m.values[UP], WIDE * WIDTH, 1);
	shake(m.values[DOWN], WIDE * WIDTH, 1);
	shake(m.values[Q], WIDTH * WIDTH, 1);
	shake(m.values[SECOND_UP], WIDE * WIDTH, 1);
	shake(m.values[SECOND_DOWN], WIDE * WIDTH, 1);
	j.tuned = write_model(t, &m, "tuned", TN_F32);
	options.allocator = tt_heap_allocator(&heap);
	options.progress = stop;
	options.progress_user = &calls;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	tt_expect(t, extract_with(ctx, &j, &d, &t->err), TN_E_CANCELLED);
	tn_context_destroy(ctx);
	assert_int_equal(heap.live_blocks, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(a_fused_adapter_comes_back),
		TT_TEST(of_16_bits_only_the_rounding_is_lost),
		TT_TEST(codes_are_decoded),
		TT_TEST(every_rank_gives_everything_back),
		TT_TEST(what_is_kept_is_what_the_singular_values_say),
		TT_TEST(experts_may_stand_in_another_form),
		TT_TEST(what_no_adapter_holds_is_named),
		TT_TEST(a_dtype_or_a_name_in_front_is_no_change),
		TT_TEST(another_model_is_refused),
		TT_TEST(threads_and_memory_change_no_bit),
		TT_TEST(it_can_be_stopped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
