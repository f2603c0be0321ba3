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

static void refused(struct tt *t, const struct fuse_extraction *j, tn_status code, const char *text)
{
	tn_draft *d;
	tt_expect(t, fuse_try_extract(t->ctx, j, &d, &t->err), code);
	tt_expect_msg(t, text);
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
static struct distance fuse_back(struct tt *t, const struct fuse_extraction *j, const tn_draft *d)
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
			struct fuse_extraction j = fuse_extraction_of(cases[i].base, tuned, peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, cases[i].rank);
			j.options.keys = all;
			j.options.key_count = cases[i].keys;
			tn_draft *d = fuse_extract(t, &j);
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
		struct fuse_extraction j = fuse_extraction_of(base, tuned, peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, 8);
		tn_draft *d = fuse_extract(t, &j);
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
	struct fuse_extraction j = fuse_extraction_of(base, tuned, TN_DIALECT_MLX_LM, 8);
	tn_draft *d = fuse_extract(t, &j);
	const struct tn_extracted *e = tn_draft_extracted(d);
	assert_int_equal(tn_draft_derived_count(d), 42);
	assert_int_equal(e->rest_count, 0); /* the embedding was only decoded */
	assert_true(e->kept < 1 && fabs(1 - e->kept - e->rounding) < 0.4 * e->rounding && e->rounding < 1e-3);
	tn_draft_destroy(d);
	struct fuse_extraction back = fuse_extraction_of(tuned, base, TN_DIALECT_PEFT, 8);
	back.options.others = TN_OTHERS_IGNORED;
	d = fuse_extract(t, &back);
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
		struct fuse_extraction j = fuse_extraction_of(base, tuned, peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, 0);
		tn_draft *d = fuse_extract(t, &j);
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
	struct fuse_extraction j = fuse_extraction_of(base, write_model(t, &m, "tuned", TN_F32), TN_DIALECT_PEFT, 1);
	static const struct {
		struct tn_rank_rule rule;
		uint64_t rank;
		double kept;
	} cases[] = { { { 1, 1 }, 1, 16 / 21.0 }, { { 2, 1 }, 2, 20 / 21.0 }, { { 0, 0.95 }, 2, 20 / 21.0 }, { { 0, 0.76 }, 1, 16 / 21.0 },
		      { { 1, 0.95 }, 1, 16 / 21.0 }, { { 0, 0.96 }, 3, 1 } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		j.options.rule = cases[i].rule;
		tn_draft *d = fuse_extract(t, &j);
		const struct tn_derived_module *found = tn_draft_derived_at(d, 0);
		if (found->rank != cases[i].rank || fabs(found->kept - cases[i].kept) > 1e-6)
			fail_msg("case %zu: rank %llu, kept %g", i, (unsigned long long)found->rank, found->kept);
		assert_true(fabs(tn_draft_extracted(d)->kept - cases[i].kept) < 1e-6);
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
	struct fuse_extraction j = fuse_extraction_of(base, base, TN_DIALECT_PEFT, 4);
	refused(t, &j, TN_E_MISMATCH, "nothing to extract");
	shake(m.values[UP], WIDE * WIDTH, 1);
	m.values[NORM][3] += 1;
	m.values[BIAS][3] += 1;
	m.values[HEAD][3] += 1;
	j.tuned = write_model(t, &m, "tuned", TN_F32);
	refused(t, &j, TN_E_MISMATCH, "3 changed tensors are no part of the adapter: 'lm_head', 'model.layers.0.self_attn.q_proj.bias', "
		"'model.norm.weight'");
	j.options.others = TN_OTHERS_IGNORED;
	tn_draft *d = fuse_extract(t, &j);
	const struct tn_extracted *e = tn_draft_extracted(d);
	assert_int_equal(tn_draft_derived_count(d), 1);
	assert_int_equal(e->rest_count, 3);
	assert_string_equal(e->rest[0], "lm_head");
	assert_false(e->rest_is_saved);
	tn_draft_destroy(d);
	static const char *const keys[] = { "up_proj", "lm_head" };
	j.options.keys = keys;
	j.options.key_count = 2;
	d = fuse_extract(t, &j);
	assert_int_equal(tn_draft_derived_count(d), 2);
	assert_int_equal(tn_draft_extracted(d)->rest_count, 2);
	tn_draft_destroy(d);
	static const char *const wrong[] = { "up_porj" };
	j.options.keys = wrong;
	j.options.key_count = 1;
	refused(t, &j, TN_E_MISMATCH, "the nearest is 'up_proj'");
}

static void what_else_changed_goes_along(void **state)
{
	struct tt *t = *state;
	struct model m;
	make_model(&m);
	const char *base = write_model(t, &m, "base", TN_F32);
	shake(m.values[UP], WIDE * WIDTH, 1);
	m.values[NORM][3] += 1;
	m.values[BIAS][3] += 1;
	m.values[HEAD][3] += 1;
	m.values[EMBEDDING][7] += 1;
	struct fuse_extraction j = fuse_extraction_of(base, write_model(t, &m, "tuned", TN_F32), TN_DIALECT_PEFT, WIDTH);
	j.options.others = TN_OTHERS_SAVED;
	tn_draft *d = fuse_extract(t, &j);
	assert_int_equal(tn_draft_extracted(d)->rest_count, 4);
	assert_true(tn_draft_extracted(d)->rest_is_saved);
	struct distance far = fuse_back(t, &j, d);
	assert_true(far.largest < 1e-6 && far.from_base > 4);
	tn_draft_destroy(d);
	j.dialect = TN_DIALECT_MLX_LM;
	refused(t, &j, TN_E_UNSUPPORTED, "take the dialect peft");
	m.tensors[EMBEDDING].rows = m.tensors[HEAD].rows = WORDS - 1;
	j.tuned = write_model(t, &m, "smaller", TN_F32);
	j.dialect = TN_DIALECT_PEFT;
	d = fuse_extract(t, &j);
	const struct tn_parameter *head = tn_draft_find(d, "base_model.model.lm_head.weight");
	assert_non_null(head);
	assert_int_equal(head->shape[0], WORDS - 1);
	assert_true(head->data[3] == m.values[HEAD][3]);
	tn_draft_destroy(d);
}

/* A factor on the table of a tied base leaves the head as it was: the tuned model has two tensors where the base has one. */
static void a_head_that_is_no_longer_tied_goes_along(void **state)
{
	struct tt *t = *state;
	char tuned[4096];
	size_t n;
	snprintf(tuned, sizeof tuned, "%s/untied", t->folder);
	struct fuse_job fuse = FUSE_JOB(.base = PEFT "/llama_tied", .adapter = PEFT "/cases/tied_embedding", .out = tuned);
	fuse_run(t, t->ctx, &fuse, NULL, 0);
	struct fuse_extraction j = fuse_extraction_of(PEFT "/llama_tied", tuned, TN_DIALECT_PEFT, 64);
	j.options.others = TN_OTHERS_SAVED;
	tn_draft *d = fuse_extract(t, &j);
	const struct tn_parameter *head = tn_draft_find(d, "base_model.model.lm_head.weight");
	const struct tn_parameter *table = tn_draft_find(d, "base_model.model.model.embed_tokens.weight");
	double *values = fuse_values(t, tuned, "lm_head.weight", &n);
	assert_true(head && table && head->elements == n);
	for (size_t i = 0; i < n; i++)
		assert_true((double)head->data[i] == values[i]);
	assert_memory_not_equal(head->data, table->data, n * sizeof *head->data);
	free(values);
	tn_draft_destroy(d);
}

static void a_dtype_or_a_name_in_front_is_no_change(void **state)
{
	struct tt *t = *state;
	struct model m;
	char names[TENSORS][64];
	make_model(&m);
	const char *wide = write_model(t, &m, "wide", TN_F32), *narrow = write_model(t, &m, "narrow", TN_BF16);
	struct fuse_extraction j = fuse_extraction_of(wide, narrow, TN_DIALECT_PEFT, 4);
	refused(t, &j, TN_E_MISMATCH, "nothing to extract");
	struct fuse_extraction back = fuse_extraction_of(narrow, wide, TN_DIALECT_PEFT, 4);
	refused(t, &back, TN_E_MISMATCH, "nothing to extract");
	for (size_t i = 0; i < TENSORS; i++) {
		snprintf(names[i], sizeof names[i], "language_model.%s", parts[i].name);
		m.tensors[i].name = names[i];
	}
	shake(m.values[UP], WIDE * WIDTH, 1);
	j.base = narrow;
	j.tuned = write_model(t, &m, "wrapped", TN_BF16);
	tn_draft *d = fuse_extract(t, &j);
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
	struct fuse_extraction j = fuse_extraction_of(base, write_model(t, &m, "no_head", TN_F32), TN_DIALECT_PEFT, 4);
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
static double hash_with(struct tt *t, unsigned threads, uint64_t budget, const struct fuse_extraction *j, unsigned char hash[TN_HASH_BYTES])
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx;
	tn_draft *d;
	options.threads = threads;
	options.memory_budget_bytes = budget;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	tt_ok(t, fuse_try_extract(ctx, j, &d, &t->err));
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
	struct fuse_extraction j = fuse_extraction_of(base, tuned, TN_DIALECT_PEFT, 6);
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
	struct fuse_extraction j = fuse_extraction_of(write_model(t, &m, "base", TN_F32), NULL, TN_DIALECT_PEFT, 4);
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
	tt_expect(t, fuse_try_extract(ctx, &j, &d, &t->err), TN_E_CANCELLED);
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
		TT_TEST(what_no_adapter_holds_is_named),
		TT_TEST(what_else_changed_goes_along),
		TT_TEST(a_head_that_is_no_longer_tied_goes_along),
		TT_TEST(a_dtype_or_a_name_in_front_is_no_change),
		TT_TEST(another_model_is_refused),
		TT_TEST(threads_and_memory_change_no_bit),
		TT_TEST(it_can_be_stopped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
