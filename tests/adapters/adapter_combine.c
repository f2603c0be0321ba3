/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters combined and resized: what PEFT's add_weighted_adapter makes (data/combine.tar.xz, by make_combine_vectors.py); sums of
 * which nothing is lost; what DARE leaves out; ranks; and what is refused. */
#include "adapterlib.h"

#include "adapter/mix.h"
#include "base/context.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS ADAPTER_DATA "/combine"
#define PEFT_CASES ADAPTER_DATA "/peft/cases"
#define LLAMA ADAPTER_DATA "/peft/llama"

enum { MOST_ADAPTERS = 4 };

struct several {
	tn_checkpoint *base;
	struct tn_weighted_adapter items[MOST_ADAPTERS];
	size_t count;
};

static void add(struct al *t, struct several *s, double weight, const char *path)
{
	tn_adapter *adapter;
	al_ok(t, tn_adapter_open(t->ctx, path, &adapter, &t->err));
	s->items[s->count++] = (struct tn_weighted_adapter){ adapter, weight };
}

static struct several begin(struct al *t, const char *base)
{
	struct several s = { 0 };
	al_ok(t, tn_checkpoint_open(t->ctx, base, &s.base, &t->err));
	return s;
}

static void end(struct several *s)
{
	for (size_t i = 0; i < s->count; i++)
		tn_adapter_close((tn_adapter *)(uintptr_t)s->items[i].adapter);
	tn_checkpoint_close(s->base);
}

static tn_draft *combined(struct al *t, const struct several *s, const struct tn_combine_options *o)
{
	tn_draft *draft = NULL;
	al_ok(t, tn_draft_combine(s->items, s->count, s->base, NULL, o, &draft, &t->err));
	return draft;
}

static tn_draft *resized(struct al *t, const struct several *s, struct tn_rank_rule rule, const struct tn_derive_options *o)
{
	tn_draft *draft = NULL;
	al_ok(t, tn_draft_resize(s->items[0].adapter, s->base, o, &rule, &draft, &t->err));
	return draft;
}

/* ---- products -------------------------------------------------------------------------------------------- */

static const struct tn_adapter_module *module_of(const tn_draft *d, const char *path)
{
	const tn_adapter *a = tn_draft_adapter(d);
	for (size_t i = 0; i < tn_adapter_count(a); i++)
		if (strcmp(tn_adapter_at(a, i)->path, path) == 0)
			return tn_adapter_at(a, i);
	return NULL;
}

/* scale * B A of a draft of PEFT, [out, in]. */
static double *product_of(const tn_draft *d, const char *path, size_t *elements)
{
	const struct tn_adapter_module *m = module_of(d, path);
	assert_non_null(m);
	const struct tn_parameter *a = tn_draft_of(d, path, TN_PARAMETER_A), *b = tn_draft_of(d, path, TN_PARAMETER_B);
	double *dst = calloc((size_t)(m->in_features * m->out_features), sizeof *dst);
	assert_non_null(dst);
	for (uint64_t o = 0; o < m->out_features; o++)
		for (uint64_t i = 0; i < m->in_features; i++)
			for (uint64_t k = 0; k < m->rank; k++)
				dst[o * m->in_features + i] += m->scale * (double)b->data[o * m->rank + k] *
							       (double)a->data[k * m->in_features + i];
	*elements = (size_t)(m->in_features * m->out_features);
	return dst;
}

/* |D - E| / |E|. */
static double distance(const double *d, const double *e, size_t n)
{
	double far = 0, all = 0;
	for (size_t i = 0; i < n; i++) {
		far += (d[i] - e[i]) * (d[i] - e[i]);
		all += e[i] * e[i];
	}
	assert_true(isfinite(far));
	return sqrt(far / (all > 0 ? all : 1));
}

/* The largest distance of any module's product. */
static double drafts_apart(const tn_draft *d, const tn_draft *e)
{
	const tn_adapter *a = tn_draft_adapter(e);
	double worst = 0;
	assert_int_equal(tn_adapter_count(tn_draft_adapter(d)), tn_adapter_count(a));
	for (size_t i = 0; i < tn_adapter_count(a); i++) {
		size_t n, m;
		double *x = product_of(d, tn_adapter_at(a, i)->path, &n), *y = product_of(e, tn_adapter_at(a, i)->path, &m);
		assert_int_equal(n, m);
		worst = fmax(worst, distance(x, y, n));
		free(x);
		free(y);
	}
	return worst;
}

/* ---- PEFT ------------------------------------------------------------------------------------------------ */

static struct tn_combine_options options_of(const json_t *c)
{
	struct tn_combine_options o = TN_COMBINE_OPTIONS_INIT;
	struct tn_error err;
	const char *method = json_string_value(json_object_get(c, "majority_sign_method"));
	assert_int_equal(tn_combination_from_name(json_string_value(json_object_get(c, "type")), &o.type, &err), TN_OK);
	o.density = json_number_value(json_object_get(c, "density"));
	o.rule.rank = (uint64_t)json_integer_value(json_object_get(c, "svd_rank"));
	o.by_frequency = method && strcmp(method, "frequency") == 0;
	return o;
}

/* A and B themselves, where PEFT's are no product of a decomposition. */
static void expect_same_factors(const tn_draft *d, const tn_draft *e)
{
	assert_int_equal(tn_draft_count(d), tn_draft_count(e));
	for (size_t i = 0; i < tn_draft_count(e); i++) {
		const struct tn_parameter *want = tn_draft_at(e, i), *got = tn_draft_find(d, want->name);
		assert_non_null(got);
		assert_int_equal(got->elements, want->elements);
		for (uint64_t k = 0; k < want->elements; k++)
			assert_true(fabsf(got->data[k] - want->data[k]) <= 1e-7f);
	}
}

static void peft_combines_alike(void **state)
{
	struct al *t = *state;
	json_t *cases = al_json(VECTORS "/cases.json"), *c, *weight;
	size_t i;
	const char *name;
	assert_int_equal(json_array_size(cases), 16);
	json_array_foreach(cases, i, c) {
		struct several s = begin(t, VECTORS "/base");
		struct tn_combine_options o = options_of(c);
		char path[512];
		tn_draft *wanted;
		json_object_foreach(json_object_get(c, "weights"), name, weight) {
			snprintf(path, sizeof path, VECTORS "/%s", name);
			add(t, &s, json_number_value(weight), path);
		}
		snprintf(path, sizeof path, VECTORS "/%s", json_string_value(json_object_get(c, "name")));
		al_ok(t, tn_draft_open(t->ctx, path, &wanted, &t->err));
		tn_draft *made = combined(t, &s, &o);
		double apart = drafts_apart(made, wanted);
		if (!(apart < 3e-6))
			fail_msg("%s: %g", json_string_value(json_object_get(c, "name")), apart);
		if (!strstr(tn_combination_name(o.type), "svd") && o.type != TN_COMBINE_CAT)
			expect_same_factors(made, wanted);
		tn_draft_destroy(wanted);
		tn_draft_destroy(made);
		end(&s);
	}
	json_decref(cases);
}

/* ---- sums ------------------------------------------------------------------------------------------------ */

#define Q_PROJ "model.layers.0.self_attn.q_proj"

/* The scales of a and b are 2 and 1. */
static void equal_factors_keep_their_bits(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	add(t, &s, 1, VECTORS "/a");
	add(t, &s, 2, VECTORS "/b");
	tn_draft *made = combined(t, &s, NULL), *parts[2];
	al_ok(t, tn_draft_open(t->ctx, VECTORS "/a", &parts[0], &t->err));
	al_ok(t, tn_draft_open(t->ctx, VECTORS "/b", &parts[1], &t->err));
	const struct tn_parameter *a = tn_draft_of(made, Q_PROJ, TN_PARAMETER_A), *b = tn_draft_of(made, Q_PROJ, TN_PARAMETER_B);
	assert_int_equal(a->shape[0], 8);
	for (size_t p = 0; p < 2; p++) {
		const struct tn_parameter *x = tn_draft_of(parts[p], Q_PROJ, TN_PARAMETER_A);
		const struct tn_parameter *y = tn_draft_of(parts[p], Q_PROJ, TN_PARAMETER_B);
		assert_memory_equal(a->data + p * x->elements, x->data, x->elements * sizeof *x->data);
		for (uint64_t o = 0; o < y->shape[0]; o++)
			assert_memory_equal(b->data + o * 8 + p * 4, y->data + o * 4, 4 * sizeof *y->data);
		tn_draft_destroy(parts[p]);
	}
	assert_true(module_of(made, Q_PROJ)->scale == 2);
	const struct tn_derived_module *d = tn_draft_derived_at(made, 0);
	assert_true(d->kept == 1);
	assert_int_equal(d->rank, d->rank_before);
	tn_draft_destroy(made);
	end(&s);
}

/* What is fused of the sum is what is fused of all. */
static void a_sum_is_fused_as_its_parts(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	struct tn_fuse_options fuse = TN_FUSE_OPTIONS_INIT;
	add(t, &s, 1, VECTORS "/a");
	add(t, &s, -0.5, VECTORS "/b");
	add(t, &s, 2, VECTORS "/c");
	tn_draft *made = combined(t, &s, NULL);
	const char *parts = al_path(t, "parts"), *sum = al_path(t, "sum");
	tn_fuse *plan;
	fuse.more = s.items + 1;
	fuse.more_count = s.count - 1;
	al_ok(t, tn_fuse_plan(t->ctx, s.base, s.items[0].adapter, &fuse, &plan, &t->err));
	al_ok(t, tn_fuse_run(plan, parts, 1, &t->err));
	tn_fuse_free(plan);
	al_ok(t, tn_fuse_plan(t->ctx, s.base, tn_draft_adapter(made), NULL, &plan, &t->err));
	al_ok(t, tn_fuse_run(plan, sum, 1, &t->err));
	tn_fuse_free(plan);
	tn_checkpoint *x, *y;
	al_ok(t, tn_checkpoint_open(t->ctx, parts, &x, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, sum, &y, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(x); i++) {
		const struct tn_tensor *tensor = tn_checkpoint_at(x, i);
		const struct tn_tensor *same;
		double *v = al_load(t, x, tensor->name, &same), *w = al_load(t, y, tensor->name, &same);
		for (uint64_t k = 0; k < tensor->elements; k++)
			assert_true(fabs(v[k] - w[k]) < 2e-7);
		free(v);
		free(w);
	}
	tn_checkpoint_close(x);
	tn_checkpoint_close(y);
	tn_draft_destroy(made);
	end(&s);
}

static void sums_are_compressed_when_asked(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	struct tn_combine_options cat = TN_COMBINE_OPTIONS_INIT, svd = TN_COMBINE_OPTIONS_INIT;
	add(t, &s, 1, VECTORS "/a");
	add(t, &s, 0.5, VECTORS "/b");
	cat.rule.rank = svd.rule.rank = 3;
	svd.type = TN_COMBINE_SVD;
	tn_draft *x = combined(t, &s, &cat), *y = combined(t, &s, &svd);
	assert_true(drafts_apart(x, y) == 0);
	for (size_t i = 0; i < tn_draft_derived_count(x); i++) {
		const struct tn_derived_module *m = tn_draft_derived_at(x, i);
		assert_int_equal(m->rank, 3);
		assert_true(m->kept > 0.5 && m->kept < 1);
	}
	tn_draft_destroy(x);
	cat.rule = (struct tn_rank_rule){ 0, 0.9 };
	x = combined(t, &s, &cat);
	for (size_t i = 0; i < tn_draft_derived_count(x); i++)
		assert_true(tn_draft_derived_at(x, i)->kept >= 0.9);
	tn_draft_destroy(x);
	tn_draft_destroy(y);
	end(&s);
}

/* ---- what is left out ------------------------------------------------------------------------------------ */

enum { ROWS = 301, COLS = 400 };

/* In pieces of 1 to 64 rows, as if memory were short. */
static void mix(struct al *t, const struct tn_mix_rule *rule, const float *values, uint64_t seed, float *dst)
{
	struct tn_rows_in_memory m = { values, COLS };
	struct tn_mix_source source = { .rows = tn_rows_in_memory(&m, ROWS, "x"), .weight = 1, .seed = seed };
	struct tn_mix mixed;
	al_ok(t, tn_mix_begin(t->ctx, rule, &source, 1, &mixed, &t->err));
	for (size_t first = 0, rows; first < ROWS; first += rows) {
		rows = first % 64 + 1 < ROWS - first ? first % 64 + 1 : ROWS - first;
		al_ok(t, mixed.rows.read(mixed.rows.arg, first, rows, dst + first * COLS, &t->err));
	}
	tn_mix_end(&mixed);
}

/* As many as the density says, each as large as makes up for the others, elsewhere for another seed. */
static void dare_keeps_density_and_mean(void **state)
{
	struct al *t = *state;
	static float ones[ROWS * COLS], got[ROWS * COLS], other[ROWS * COLS];
	for (size_t i = 0; i < ROWS * COLS; i++)
		ones[i] = 1;
	for (double density = 0.1; density < 1; density += 0.2) {
		struct tn_mix_rule rule = { TN_THIN_RANDOM, 0, 0, density };
		size_t stay = 0, same = 0, repeated = 0;
		double sum = 0, n = ROWS * COLS, deviation = sqrt(n * density * (1 - density));
		mix(t, &rule, ones, 1, got);
		mix(t, &rule, ones, 2, other);
		for (size_t i = 0; i < ROWS * COLS; i++) {
			stay += got[i] != 0;
			same += got[i] != 0 && other[i] != 0;
			repeated += got[i] != 0 && got[i % (16 * COLS)] != 0;
			sum += (double)got[i];
			assert_true(got[i] == 0 || got[i] == 1 / (float)density);
		}
		assert_true(fabs((double)stay - n * density) < 4 * deviation);
		assert_true(fabs((double)same - n * density * density) < 4 * deviation);
		assert_true((double)repeated < n * density * (density + 0.1 * (1 - density)) + 4 * deviation);
		assert_true(fabs(sum / n - 1) < 4 * deviation / density / n);
	}
}

static void dare_depends_on_the_seed(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	struct tn_combine_options o = TN_COMBINE_OPTIONS_INIT;
	add(t, &s, 1, VECTORS "/a");
	add(t, &s, 1, VECTORS "/b");
	o.density = 0.5;
	for (o.type = TN_COMBINE_DARE_LINEAR; o.type <= TN_COMBINE_DARE_TIES_SVD; o.type++) {
		if (o.type == TN_COMBINE_MAGNITUDE_PRUNE || o.type == TN_COMBINE_TIES_SVD)
			continue;
		o.seed = 7;
		tn_draft *x = combined(t, &s, &o), *y = combined(t, &s, &o);
		assert_true(drafts_apart(x, y) == 0);
		tn_draft_destroy(y);
		o.seed = 8;
		y = combined(t, &s, &o);
		assert_true(drafts_apart(x, y) > 0.1);
		tn_draft_destroy(x);
		tn_draft_destroy(y);
	}
	end(&s);
}

/* The largest weight stays outside of the factors, wherever it comes. */
static void weights_may_be_far_apart(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base"), alone = begin(t, VECTORS "/base");
	struct tn_combine_options cat = TN_COMBINE_OPTIONS_INIT;
	add(t, &s, 1e-300, VECTORS "/b");
	add(t, &s, 1, VECTORS "/b");
	add(t, &alone, 1, VECTORS "/b");
	tn_draft *x = combined(t, &s, &cat), *y = combined(t, &alone, &cat);
	assert_true(drafts_apart(x, y) == 0);
	tn_draft_destroy(x);
	tn_draft_destroy(y);
	end(&s);
	end(&alone);
}

/* Products that have no room are made again for every pass: the same numbers, by any number of threads. */
static void memory_and_threads_do_not_show(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	struct tn_combine_options o = TN_COMBINE_OPTIONS_INIT;
	struct tn_options small = TN_OPTIONS_INIT;
	tn_context *ctx;
	add(t, &s, 1, VECTORS "/a");
	add(t, &s, 0.5, VECTORS "/b");
	o.density = 0.5;
	o.seed = 3;
	small.memory_budget_bytes = 1000;
	small.threads = 3;
	al_ok(t, tn_context_create(&small, &ctx, &t->err));
	for (o.type = TN_COMBINE_TIES_SVD; o.type <= TN_COMBINE_MAGNITUDE_PRUNE_SVD; o.type++) {
		struct several u = { .count = s.count };
		tn_draft *x = combined(t, &s, &o), *y;
		memcpy(u.items, s.items, sizeof u.items);
		al_ok(t, tn_checkpoint_open(ctx, VECTORS "/base", &u.base, &t->err));
		y = combined(t, &u, &o);
		expect_same_factors(x, y);
		assert_true(drafts_apart(x, y) == 0);
		tn_draft_destroy(x);
		tn_draft_destroy(y);
		tn_checkpoint_close(u.base);
	}
	tn_context_destroy(ctx);
	end(&s);
}

/* Of numbers that are alike the first stay, so that it is exactly as many as PEFT has. */
static void the_largest_are_counted(void **state)
{
	struct al *t = *state;
	static float values[ROWS * COLS], got[ROWS * COLS];
	for (int levels = 1; levels < 1000; levels *= 7)
		for (double density = 0.01; density <= 1; density += 0.33) {
			struct tn_mix_rule rule = { TN_THIN_SMALLEST, 0, 0, density };
			size_t stay = 0, wanted = (size_t)(density * ROWS * COLS);
			float least = INFINITY, dropped = 0;
			for (size_t i = 0; i < ROWS * COLS; i++)
				values[i] = (float)(1 + i * 7919 % 104729 % (size_t)levels) * (i % 3 ? 1.0f : -1.0f);
			mix(t, &rule, values, 1, got);
			for (size_t i = 0; i < ROWS * COLS; i++) {
				assert_true(got[i] == 0 || got[i] == values[i]);
				stay += got[i] != 0;
				least = got[i] != 0 ? fminf(least, fabsf(values[i])) : least;
				dropped = got[i] == 0 ? fmaxf(dropped, fabsf(values[i])) : dropped;
			}
			assert_int_equal(stay, wanted);
			assert_true(dropped <= least);
		}
}

/* ---- ranks ----------------------------------------------------------------------------------------------- */

static void resizing_keeps_what_it_says(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	add(t, &s, 1, VECTORS "/a");
	tn_draft *whole, *made = resized(t, &s, (struct tn_rank_rule){ 2, 1 }, NULL);
	al_ok(t, tn_draft_open(t->ctx, VECTORS "/a", &whole, &t->err));
	assert_int_equal(tn_draft_derived_count(made), 3);
	for (size_t i = 0; i < tn_draft_derived_count(made); i++) {
		const struct tn_derived_module *m = tn_draft_derived_at(made, i);
		size_t n;
		double *x = product_of(made, m->path, &n), *y = product_of(whole, m->path, &n), far = distance(x, y, n);
		assert_int_equal(m->rank_before, 4);
		assert_int_equal(m->rank, 2);
		assert_true(fabs(1 - far * far - m->kept) < 1e-6);
		assert_true(m->kept > 0.4 && m->kept < 0.95);
		assert_true(module_of(made, m->path)->scale == 2);
		free(x);
		free(y);
	}
	tn_draft_destroy(made);
	made = resized(t, &s, (struct tn_rank_rule){ 4, 1 }, NULL);
	expect_same_factors(made, whole);
	tn_draft_destroy(made);
	made = resized(t, &s, (struct tn_rank_rule){ 0, 1 - 1e-9 }, NULL);
	expect_same_factors(made, whole);
	tn_draft_destroy(made);
	made = resized(t, &s, (struct tn_rank_rule){ 0, 0.6 }, NULL);
	for (size_t i = 0; i < tn_draft_derived_count(made); i++)
		assert_true(tn_draft_derived_at(made, i)->kept >= 0.6 && tn_draft_derived_at(made, i)->rank < 4);
	tn_draft_destroy(made);
	tn_draft_destroy(whole);
	end(&s);
}

/* The lengths of the rows that a DoRA was trained to; only the directions are approximated. */
static void magnitudes_stay(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, LLAMA);
	add(t, &s, 1, PEFT_CASES "/dora");
	tn_draft *whole, *made = resized(t, &s, (struct tn_rank_rule){ 1, 1 }, NULL);
	al_ok(t, tn_draft_open(t->ctx, PEFT_CASES "/dora", &whole, &t->err));
	size_t magnitudes = 0;
	for (size_t i = 0; i < tn_draft_count(whole); i++) {
		const struct tn_parameter *want = tn_draft_at(whole, i), *got = tn_draft_find(made, want->name);
		assert_non_null(got);
		if (want->role != TN_PARAMETER_MAGNITUDE)
			continue;
		assert_memory_equal(got->data, want->data, want->elements * sizeof *want->data);
		magnitudes++;
	}
	assert_true(magnitudes > 0);
	tn_draft_destroy(made);
	tn_draft_destroy(whole);
	end(&s);
}

/* Experts of a stack have one rank, in either dialect. */
static void experts_share_a_rank(void **state)
{
	struct al *t = *state;
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	struct several s = begin(t, ADAPTER_DATA "/peft/mixtral");
	add(t, &s, 1, PEFT_CASES "/moe_target_parameters");
	for (o.dialect = TN_DIALECT_PEFT; o.dialect <= TN_DIALECT_MLX_LM; o.dialect++) {
		tn_draft *made = resized(t, &s, (struct tn_rank_rule){ 2, 1 }, &o);
		size_t stacks = 0;
		for (size_t i = 0; i < tn_draft_derived_count(made); i++) {
			const struct tn_derived_module *m = tn_draft_derived_at(made, i);
			stacks += m->kind == TN_MODULE_EXPERTS;
			assert_true(m->rank <= 2 && m->kept > 0 && m->kept <= 1);
		}
		assert_true(stacks > 0);
		tn_draft_destroy(made);
		made = resized(t, &s, (struct tn_rank_rule){ 0, 0.5 }, &o);
		for (size_t i = 0; i < tn_draft_derived_count(made); i++) {
			const struct tn_derived_module *m = tn_draft_derived_at(made, i);
			assert_true(m->rank < m->rank_before && m->kept >= 0.5 && m->kept < 1);
		}
		tn_draft_destroy(made);
	}
	end(&s);
}

static void a_new_adapter_stays_one(void **state)
{
	struct al *t = *state;
	struct several s = begin(t, VECTORS "/base");
	struct tn_create_options create = TN_CREATE_OPTIONS_INIT;
	tn_draft *fresh, *made;
	create.dialect = TN_DIALECT_PEFT;
	al_ok(t, tn_draft_create(s.base, &create, &fresh, &t->err));
	al_ok(t, tn_draft_resize(tn_draft_adapter(fresh), s.base, NULL, &(struct tn_rank_rule){ 3, 0.5 }, &made, &t->err));
	const struct tn_parameter *x = tn_draft_of(fresh, Q_PROJ, TN_PARAMETER_A), *y = tn_draft_of(made, Q_PROJ, TN_PARAMETER_A);
	assert_int_equal(y->shape[0], 3);
	assert_memory_equal(x->data, y->data, y->elements * sizeof *y->data);
	tn_draft_destroy(fresh);
	tn_draft_destroy(made);
	end(&s);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void refuse(struct al *t, const char *base, const char *one, double weight, const char *other,
		   const struct tn_combine_options *o, tn_status status, const char *named)
{
	struct several s = begin(t, base);
	tn_draft *draft = NULL;
	add(t, &s, weight, one);
	if (other)
		add(t, &s, 1, other);
	al_expect(t, tn_draft_combine(s.items, s.count, s.base, NULL, o, &draft, &t->err), status);
	al_expect_named(t, named);
	end(&s);
}

static void what_has_no_sum_is_refused(void **state)
{
	struct al *t = *state;
	struct tn_combine_options cat = TN_COMBINE_OPTIONS_INIT, linear = cat, ties = cat, odd = cat;
	linear.type = TN_COMBINE_LINEAR;
	ties.type = TN_COMBINE_TIES;
	refuse(t, VECTORS "/base", VECTORS "/a", 1, VECTORS "/d", &linear, TN_E_MISMATCH, "4 and 2");
	refuse(t, VECTORS "/base", VECTORS "/a", 1, NULL, &ties, TN_E_ARG, "density");
	odd.density = 0.5;
	refuse(t, VECTORS "/base", VECTORS "/a", 1, NULL, &odd, TN_E_ARG, "density");
	odd = cat;
	odd.rule.energy = 0;
	refuse(t, VECTORS "/base", VECTORS "/a", 1, NULL, &odd, TN_E_ARG, "energy");
	refuse(t, VECTORS "/base", VECTORS "/a", (double)NAN, NULL, &cat, TN_E_ARG, "weight");
	refuse(t, LLAMA, PEFT_CASES "/dora", 1, PEFT_CASES "/lora_list", &cat, TN_E_UNSUPPORTED, "DoRA");
	refuse(t, LLAMA, PEFT_CASES "/dora", 0.5, NULL, &cat, TN_E_UNSUPPORTED, "DoRA");
	refuse(t, LLAMA, PEFT_CASES "/modules_to_save", 1, PEFT_CASES "/modules_to_save", &cat, TN_E_UNSUPPORTED, "replaced by one");
	refuse(t, LLAMA, PEFT_CASES "/modules_to_save", 0.5, NULL, &cat, TN_E_UNSUPPORTED, "no weight but 1");
	refuse(t, LLAMA, PEFT_CASES "/lora_b_bias", 1, NULL, &linear, TN_E_UNSUPPORTED, "lora_bias");
	struct tn_rank_rule nothing = { 0, 1 };
	struct several s = begin(t, VECTORS "/base");
	tn_draft *draft;
	add(t, &s, 1, VECTORS "/a");
	al_expect(t, tn_draft_resize(s.items[0].adapter, s.base, NULL, &nothing, &draft, &t->err), TN_E_ARG);
	nothing.energy = 1.5;
	al_expect(t, tn_draft_resize(s.items[0].adapter, s.base, NULL, &nothing, &draft, &t->err), TN_E_ARG);
	al_expect(t, tn_draft_combine(NULL, 0, s.base, NULL, NULL, &draft, &t->err), TN_E_ARG);
	end(&s);
}

/* What one adapter alone has goes along. */
static void what_one_adapter_has_goes_along(void **state)
{
	struct al *t = *state;
	static const char *const alone[] = { PEFT_CASES "/dora", PEFT_CASES "/modules_to_save", PEFT_CASES "/trainable_tokens" };
	for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
		struct several s = begin(t, LLAMA);
		tn_draft *whole, *made;
		add(t, &s, 1, alone[i]);
		al_ok(t, tn_draft_open(t->ctx, alone[i], &whole, &t->err));
		made = combined(t, &s, NULL);
		expect_same_factors(made, whole);
		tn_draft_destroy(made);
		tn_draft_destroy(whole);
		end(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(peft_combines_alike),
		AL_TEST(equal_factors_keep_their_bits),
		AL_TEST(a_sum_is_fused_as_its_parts),
		AL_TEST(sums_are_compressed_when_asked),
		AL_TEST(dare_keeps_density_and_mean),
		AL_TEST(dare_depends_on_the_seed), AL_TEST(weights_may_be_far_apart),
		AL_TEST(memory_and_threads_do_not_show),
		AL_TEST(the_largest_are_counted),
		AL_TEST(resizing_keeps_what_it_says),
		AL_TEST(magnitudes_stay),
		AL_TEST(experts_share_a_rank),
		AL_TEST(a_new_adapter_stays_one),
		AL_TEST(what_has_no_sum_is_refused),
		AL_TEST(what_one_adapter_has_goes_along),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
