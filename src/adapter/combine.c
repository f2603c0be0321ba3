/* SPDX-License-Identifier: Apache-2.0 */
/* Several adapters in one: module by module of the base, what PEFT's add_weighted_adapter does by name. */
#include "adapter/compress.h"
#include "adapter/mix.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

/* ---- types ----------------------------------------------------------------------------------------------- */

static const struct type {
	const char *name;
	enum tn_thinning thinning;
	int elects;
	enum { ON_SUM, ON_FACTORS, ON_PRODUCTS } works;
	int compresses;          /* without a rule too */
} types[] = {
	[TN_COMBINE_CAT] = { "cat", TN_THIN_NONE, 0, ON_SUM, 0 },
	[TN_COMBINE_SVD] = { "svd", TN_THIN_NONE, 0, ON_SUM, 1 },
	[TN_COMBINE_LINEAR] = { "linear", TN_THIN_NONE, 0, ON_FACTORS, 0 },
	[TN_COMBINE_TIES] = { "ties", TN_THIN_SMALLEST, 1, ON_FACTORS, 0 },
	[TN_COMBINE_DARE_LINEAR] = { "dare_linear", TN_THIN_RANDOM, 0, ON_FACTORS, 0 },
	[TN_COMBINE_DARE_TIES] = { "dare_ties", TN_THIN_RANDOM, 1, ON_FACTORS, 0 },
	[TN_COMBINE_MAGNITUDE_PRUNE] = { "magnitude_prune", TN_THIN_SMALLEST, 0, ON_FACTORS, 0 },
	[TN_COMBINE_TIES_SVD] = { "ties_svd", TN_THIN_SMALLEST, 1, ON_PRODUCTS, 1 },
	[TN_COMBINE_DARE_LINEAR_SVD] = { "dare_linear_svd", TN_THIN_RANDOM, 0, ON_PRODUCTS, 1 },
	[TN_COMBINE_DARE_TIES_SVD] = { "dare_ties_svd", TN_THIN_RANDOM, 1, ON_PRODUCTS, 1 },
	[TN_COMBINE_MAGNITUDE_PRUNE_SVD] = { "magnitude_prune_svd", TN_THIN_SMALLEST, 0, ON_PRODUCTS, 1 },
};
enum { TYPES = sizeof types / sizeof *types };

const char *tn_combination_name(tn_combination type)
{
	return (size_t)type < TYPES ? types[type].name : "unknown";
}

tn_status tn_combination_from_name(const char *name, tn_combination *out, struct tn_error *err)
{
	for (size_t i = 0; i < TYPES; i++)
		if (strcmp(types[i].name, name) == 0) {
			*out = (tn_combination)i;
			return TN_OK;
		}
	return tn_fail(err, TN_E_NOTFOUND, name, "'%.60s' is not a combination: cat, svd, linear, ties, dare_linear, dare_ties, "
		       "magnitude_prune, ties_svd, dare_linear_svd, dare_ties_svd, magnitude_prune_svd", name);
}

int tn_combination_has_density(tn_combination type)
{
	return (size_t)type < TYPES && types[type].thinning != TN_THIN_NONE;
}

/* ---- what is there --------------------------------------------------------------------------------------- */

/* What the adapters do to one module: those that do something. */
struct share {
	const struct tn_pair *pair;
	double weight;
};

struct combining {
	struct tn_arena *arena;
	tn_context *ctx;
	const struct tn_combine_options *options;
	const struct type *type;
	const struct tn_weighted_adapter *adapters;
	struct tn_pairs *loaded;          /* of each adapter */
	size_t count;
	struct tn_rank_rule rule;         /* with the type's bound */
	struct tn_pairs made;
	struct share *shares;             /* [count], of the module at hand */
	size_t share_count;
};

static const char *path_of(const struct combining *c)
{
	return c->shares[0].pair->module->path;
}

/* Scale and weight of one share. */
static double factor_of(const struct share *s)
{
	return s->weight * s->pair->scale;
}

/* Pairs of all adapters at module `at`; their places in *cursors move on. */
static void gather(struct combining *c, size_t at, size_t *cursors)
{
	c->share_count = 0;
	for (size_t i = 0; i < c->count; i++) {
		const struct tn_pairs *p = &c->loaded[i];
		if (cursors[i] < p->count && (size_t)(p->items[cursors[i]].module - p->modules.items) == at)
			c->shares[c->share_count++] = (struct share){ &p->items[cursors[i]++], c->adapters[i].weight };
	}
}

/* ---- on factors ------------------------------------------------------------------------------------------ */

static struct tn_mix_rule mix_rule(const struct combining *c)
{
	return (struct tn_mix_rule){ c->type->thinning, c->type->elects, c->options->by_frequency, c->options->density };
}

/* Of each adapter, group and side of each module another one. */
static uint64_t seed_of(const struct combining *c, size_t share, uint64_t group, int side)
{
	uint64_t part = ((uint64_t)share << 32 | group) * 2 + (uint64_t)side;
	return tn_init_key(c->options->seed, path_of(c)) ^ tn_init_key(part, "share");
}

/* One side of one group: dst [rows, cols] of what the shares have there. */
static tn_status mix_side(const struct combining *c, uint64_t group, int is_b, float *dst, struct tn_error *err)
{
	const struct tn_pair *first = c->shares[0].pair;
	size_t rows = (size_t)(is_b ? first->out : first->rank), cols = (size_t)(is_b ? first->rank : first->in);
	struct tn_mix_rule rule = mix_rule(c);
	struct tn_mix_source *sources;
	struct tn_rows_in_memory *matrices;
	struct tn_mix mix;
	TN_TRY(tn_arena_array(c->arena, c->share_count, sizeof *sources, &sources, err));
	TN_TRY(tn_arena_array(c->arena, c->share_count, sizeof *matrices, &matrices, err));
	for (size_t i = 0; i < c->share_count; i++) {
		const struct tn_pair *p = c->shares[i].pair;
		double factor = factor_of(&c->shares[i]), root = sqrt(fabs(factor));
		matrices[i] = (struct tn_rows_in_memory){ (is_b ? p->b : p->a) + group * rows * cols, cols };
		sources[i].rows = tn_rows_in_memory(&matrices[i], rows, path_of(c));
		sources[i].weight = factor < 0 && !is_b ? -root : root;
		sources[i].seed = seed_of(c, i, group, is_b);
	}
	TN_TRY(tn_mix_begin(c->ctx, &rule, sources, c->share_count, &mix, err));
	tn_status status = mix.rows.read(mix.rows.arg, 0, rows, dst, err);
	tn_mix_end(&mix);
	return status;
}

static tn_status mix_factors(const struct combining *c, struct tn_pair *made, struct tn_error *err)
{
	for (size_t i = 1; i < c->share_count; i++)
		if (c->shares[i].pair->rank != made->rank)
			return tn_fail(err, TN_E_MISMATCH, path_of(c), "%s adds factors, which need one rank, and at '%.100s' the "
				       "adapters have %llu and %llu; cat and svd do without", c->type->name, path_of(c),
				       (unsigned long long)made->rank, (unsigned long long)c->shares[i].pair->rank);
	size_t a = (size_t)(made->rank * made->in), b = (size_t)(made->rank * made->out);
	TN_TRY(tn_arena_array(c->arena, (size_t)made->groups * a, sizeof *made->a, &made->a, err));
	TN_TRY(tn_arena_array(c->arena, (size_t)made->groups * b, sizeof *made->b, &made->b, err));
	for (uint64_t g = 0; g < made->groups; g++) {
		TN_TRY(mix_side(c, g, 0, made->a + g * a, err));
		TN_TRY(mix_side(c, g, 1, made->b + g * b, err));
	}
	made->scale = 1;
	made->a_dtype = made->b_dtype = TN_F32;
	return TN_OK;
}

/* ---- on products ----------------------------------------------------------------------------------------- */

/* The mixture is made anew for every pass, unless the budget has room for it. */
static tn_status factorise(const struct combining *c, struct tn_mix *mix, const struct tn_rank_rule *rule, uint64_t seed,
			   struct tn_lowrank_factors *out, struct tn_error *err)
{
	struct tn_buffer whole;
	size_t rows = mix->rows.rows, cols = mix->rows.cols;
	if (rows > c->ctx->memory_budget_bytes / sizeof(float) / cols)
		return tn_lowrank_of_rows(c->ctx, &mix->rows, rule, seed, out, err);
	TN_TRY(tn_buffer_alloc(c->ctx, rows * cols * sizeof(float), path_of(c), &whole, err));
	struct tn_rows_in_memory matrix = { whole.data, cols };
	struct tn_row_source source = tn_rows_in_memory(&matrix, rows, path_of(c));
	tn_status status = mix->rows.read(mix->rows.arg, 0, rows, whole.data, err);
	if (status == TN_OK)
		status = tn_lowrank_of_rows(c->ctx, &source, rule, seed, out, err);
	tn_buffer_release(c->ctx, &whole);
	return status;
}

static tn_status mix_group(const struct combining *c, uint64_t group, const struct tn_rank_rule *rule,
			   struct tn_lowrank_factors *out, struct tn_error *err)
{
	struct tn_mix_rule how = mix_rule(c);
	struct tn_mix_source *sources;
	struct tn_rows_of_product *products;
	struct tn_mix mix;
	TN_TRY(tn_arena_array(c->arena, c->share_count, sizeof *sources, &sources, err));
	TN_TRY(tn_arena_array(c->arena, c->share_count, sizeof *products, &products, err));
	for (size_t i = 0; i < c->share_count; i++) {
		const struct tn_pair *p = c->shares[i].pair;
		products[i] = (struct tn_rows_of_product){ c->ctx, p->a + group * p->rank * p->in, p->b + group * p->rank * p->out,
							   (size_t)p->rank, (size_t)p->in, p->scale, 0, NULL };
		sources[i].rows = tn_rows_of_product(&products[i], (size_t)p->out, path_of(c));
		sources[i].weight = c->shares[i].weight;
		sources[i].seed = seed_of(c, i, group, 0);
	}
	TN_TRY(tn_mix_begin(c->ctx, &how, sources, c->share_count, &mix, err));
	tn_status status = factorise(c, &mix, rule, seed_of(c, c->share_count, group, 0), out, err);
	tn_mix_end(&mix);
	return status;
}

static tn_status mix_products(const struct combining *c, struct tn_pair *made, struct tn_error *err)
{
	struct tn_lowrank_factors *factors;
	struct tn_rank_rule bound = { c->rule.rank, made->groups == 1 ? c->rule.energy : 1 };
	tn_status status = TN_OK;
	TN_TRY(tn_arena_array(c->arena, (size_t)made->groups, sizeof *factors, &factors, err));
	for (uint64_t g = 0; g < made->groups && status == TN_OK; g++)
		status = mix_group(c, g, &bound, &factors[g], err);
	made->scale = 1;
	if (status == TN_OK)
		status = tn_pair_take(c->arena, made, factors, &c->rule, err);
	for (uint64_t g = 0; g < made->groups; g++)
		tn_lowrank_release(c->ctx, &factors[g]);
	return status;
}

/* ---- side by side ---------------------------------------------------------------------------------------- */

/* The largest scale stays outside; the others' A are multiplied by what theirs is in terms of it, which makes no number larger. */
static double largest_factor(const struct combining *c)
{
	double largest = 0;
	for (size_t i = 0; i < c->share_count; i++)
		if (fabs(factor_of(&c->shares[i])) > fabs(largest))
			largest = factor_of(&c->shares[i]);
	return largest != 0 ? largest : 1; /* weights 0: nothing is wanted of any */
}

static double ratio_of(const struct combining *c, size_t share, double scale)
{
	double factor = factor_of(&c->shares[share]);
	return factor == scale ? 1 : factor / scale;
}

static void put_beside(const struct combining *c, size_t share, uint64_t at, struct tn_pair *made)
{
	const struct tn_pair *p = c->shares[share].pair;
	double ratio = ratio_of(c, share, made->scale);
	for (uint64_t g = 0; g < p->groups; g++) {
		const float *a = p->a + g * p->rank * p->in, *b = p->b + g * p->rank * p->out;
		float *to_a = made->a + (g * made->rank + at) * p->in, *to_b = made->b + g * made->rank * p->out + at;
		for (uint64_t i = 0; i < p->rank * p->in; i++)
			to_a[i] = ratio == 1 ? a[i] : (float)(ratio * (double)a[i]);
		for (uint64_t o = 0; o < p->out; o++)
			memcpy(to_b + o * made->rank, b + o * p->rank, (size_t)p->rank * sizeof *b);
	}
	made->a_dtype = p->a_dtype == made->a_dtype && ratio == 1 ? p->a_dtype : TN_F32;
	made->b_dtype = p->b_dtype == made->b_dtype ? p->b_dtype : TN_F32;
}

/* scale * bias of each share, in terms of the scale of the new pair. */
static tn_status add_biases(const struct combining *c, struct tn_pair *made, struct tn_error *err)
{
	int any = 0;
	for (size_t i = 0; i < c->share_count; i++)
		any |= c->shares[i].pair->bias != NULL;
	if (!any)
		return TN_OK;
	TN_TRY(tn_arena_array(c->arena, (size_t)made->out, sizeof *made->bias, &made->bias, err));
	for (uint64_t o = 0; o < made->out; o++) {
		double sum = 0;
		for (size_t i = 0; i < c->share_count; i++)
			if (c->shares[i].pair->bias)
				sum += ratio_of(c, i, made->scale) * (double)c->shares[i].pair->bias[o];
		made->bias[o] = (float)sum;
	}
	made->bias_dtype = TN_F32;
	return TN_OK;
}

static tn_status put_side_by_side(const struct combining *c, struct tn_pair *made, struct tn_error *err)
{
	uint64_t at = 0;
	made->scale = largest_factor(c);
	made->rank = made->rank_before;
	TN_TRY(tn_arena_array(c->arena, (size_t)(made->groups * made->rank * made->in), sizeof *made->a, &made->a, err));
	TN_TRY(tn_arena_array(c->arena, (size_t)(made->groups * made->rank * made->out), sizeof *made->b, &made->b, err));
	for (size_t i = 0; i < c->share_count; i++) {
		put_beside(c, i, at, made);
		at += c->shares[i].pair->rank;
	}
	return add_biases(c, made, err);
}

/* ---- a module -------------------------------------------------------------------------------------------- */

static tn_status refuse(const struct combining *c, const char *what, struct tn_error *err)
{
	return tn_fail(err, TN_E_UNSUPPORTED, path_of(c), "'%.100s' %s", path_of(c), what);
}

static tn_status check_shares(const struct combining *c, struct tn_error *err)
{
	int alone = c->share_count == 1 && c->shares[0].weight == 1;
	for (size_t i = 0; i < c->share_count; i++) {
		const struct tn_pair *p = c->shares[i].pair;
		if (p->magnitude && !(alone && c->type->works == ON_SUM && !tn_rank_rule_bounds(&c->rule)))
			return refuse(c, "is a DoRA, which is kept where one adapter alone changes the module, with the weight 1 "
				      "and the type cat, and cannot be added to others; fuse one adapter into the base, and the "
				      "others into the result (tenon fuse)", err);
		if (p->bias && c->type->works != ON_SUM)
			return refuse(c, "adds a bias (lora_bias), which adds up with the types cat and svd only", err);
		if (p->groups != c->shares[0].pair->groups || p->in != c->shares[0].pair->in || p->out != c->shares[0].pair->out)
			return tn_fail(err, TN_E_MISMATCH, path_of(c), "the adapters have factors of other shapes for '%.100s'",
				       path_of(c));
	}
	return TN_OK;
}

static tn_status combine_module(struct combining *c, size_t at, struct tn_error *err)
{
	struct tn_pair *made = &c->made.items[c->made.count];
	TN_TRY(check_shares(c, err));
	*made = *c->shares[0].pair;
	made->module = &c->made.modules.items[at];
	made->kept = 1;
	made->rank_before = 0;
	for (size_t i = 0; i < c->share_count; i++)
		made->rank_before += c->shares[i].pair->rank;
	c->made.count++;
	if (c->type->works == ON_FACTORS)
		return mix_factors(c, made, err);
	if (c->type->works == ON_PRODUCTS)
		return mix_products(c, made, err);
	return put_side_by_side(c, made, err);
}

static tn_status combine_modules(struct combining *c, struct tn_error *err)
{
	size_t *cursors, most = 0;
	for (size_t i = 0; i < c->count; i++)
		most += c->loaded[i].count;
	TN_TRY(tn_arena_array(c->arena, c->count, sizeof *cursors, &cursors, err));
	TN_TRY(tn_arena_array(c->arena, c->count, sizeof *c->shares, &c->shares, err));
	TN_TRY(tn_arena_array(c->arena, most, sizeof *c->made.items, &c->made.items, err));
	for (size_t at = 0; at < c->made.modules.count; at++) {
		gather(c, at, cursors);
		if (c->share_count)
			TN_TRY(combine_module(c, at, err));
	}
	return TN_OK;
}

/* ---- what replaces tensors ------------------------------------------------------------------------------- */

/* 1 when the path of the module is that of the tensor without its last part. */
static int is_of(const char *tensor, const char *module)
{
	const char *dot = strrchr(tensor, '.');
	size_t n = dot ? (size_t)(dot - tensor) : 0;
	return strncmp(tensor, module, n) == 0 && module[n] == '\0';
}

/* A tensor of adapter `owner` that no other adapter changes. */
static tn_status check_whole(const struct combining *c, size_t owner, const struct tn_whole *w, struct tn_error *err)
{
	if (c->adapters[owner].weight != 1)
		return tn_fail(err, TN_E_UNSUPPORTED, w->path, "'%.100s' is replaced by an adapter, which has no weight but 1",
			       w->path);
	for (size_t i = 0; i < c->count; i++) {
		int meets = 0;
		for (size_t k = 0; k < c->loaded[i].whole_count; k++)
			meets |= strcmp(c->loaded[i].wholes[k].path, w->path) == 0;
		for (size_t k = 0; k < c->loaded[i].count; k++)
			meets |= is_of(w->path, c->loaded[i].items[k].module->path);
		if (meets && i != owner)
			return tn_fail(err, TN_E_UNSUPPORTED, w->path, "'%.100s' is replaced by one adapter, and another one "
				       "changes it too; fuse one into the base, and the other into the result (tenon fuse)",
				       w->path);
	}
	return TN_OK;
}

static tn_status take_wholes(struct combining *c, struct tn_error *err)
{
	size_t most = 0;
	for (size_t i = 0; i < c->count; i++)
		most += c->loaded[i].whole_count;
	TN_TRY(tn_arena_array(c->arena, most, sizeof *c->made.wholes, &c->made.wholes, err));
	for (size_t i = 0; i < c->count; i++)
		for (size_t k = 0; k < c->loaded[i].whole_count; k++) {
			TN_TRY(check_whole(c, i, &c->loaded[i].wholes[k], err));
			c->made.wholes[c->made.whole_count++] = c->loaded[i].wholes[k];
		}
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status check_options(const struct tn_weighted_adapter *adapters, size_t count, const struct tn_combine_options *o,
			       struct tn_error *err)
{
	if (!count)
		return tn_fail(err, TN_E_ARG, "adapters", "there is no adapter to combine");
	for (size_t i = 0; i < count; i++)
		if (!isfinite(adapters[i].weight))
			return tn_fail(err, TN_E_ARG, tn_adapter_path(adapters[i].adapter), "the weight of '%.200s' is no number",
				       tn_adapter_path(adapters[i].adapter));
	if ((unsigned)o->type >= TYPES)
		return tn_fail(err, TN_E_ARG, "type", "there is no such combination");
	if (tn_combination_has_density(o->type) && !(o->density > 0 && o->density <= 1))
		return tn_fail(err, TN_E_ARG, "density", "%s keeps a part of the numbers: it needs a density above 0 and at most 1",
			       types[o->type].name);
	if (!tn_combination_has_density(o->type) && o->density != 0)
		return tn_fail(err, TN_E_ARG, "density", "%s keeps all numbers, so that a density has no meaning",
			       types[o->type].name);
	return tn_rank_rule_check(&o->rule, err);
}

static tn_status load(struct combining *c, const tn_checkpoint *base, tn_adapter_dialect dialect, struct tn_error *err)
{
	TN_TRY(tn_arena_array(c->arena, c->count, sizeof *c->loaded, &c->loaded, err));
	for (size_t i = 0; i < c->count; i++)
		TN_TRY(tn_pairs_load(c->arena, c->adapters[i].adapter, base, dialect, &c->loaded[i], err));
	c->made = (struct tn_pairs){ .dialect = dialect, .modules = c->loaded[0].modules, .dropout = c->loaded[0].dropout };
	for (size_t i = 0; i < c->count; i++) {
		c->made.task_type = c->made.task_type ? c->made.task_type : c->loaded[i].task_type;
		c->made.base_name = c->made.base_name ? c->made.base_name : c->loaded[i].base_name;
	}
	return TN_OK;
}

/* The largest rank of any adapter bounds what is compressed without being told how far. */
static void bound(struct combining *c)
{
	c->rule = c->options->rule;
	if (!c->type->compresses || c->rule.rank)
		return;
	for (size_t i = 0; i < c->count; i++)
		for (size_t k = 0; k < c->loaded[i].count; k++)
			if (c->loaded[i].items[k].rank > c->rule.rank)
				c->rule.rank = c->loaded[i].items[k].rank;
}

static tn_status combine_all(struct combining *c, const tn_checkpoint *base, const struct tn_derive_options *o, tn_draft **out,
			     struct tn_error *err)
{
	TN_TRY(load(c, base, o->dialect, err));
	bound(c);
	TN_TRY(combine_modules(c, err));
	TN_TRY(take_wholes(c, err));
	if (c->type->works != ON_PRODUCTS && tn_rank_rule_bounds(&c->rule))
		TN_TRY(tn_pairs_compress(c->ctx, c->arena, &c->made, &c->rule, err));
	return tn_draft_of_pairs(base, &c->made, o, out, err);
}

tn_status tn_draft_combine(const struct tn_weighted_adapter *adapters, size_t count, const tn_checkpoint *base,
			   const struct tn_derive_options *options, const struct tn_combine_options *combine, tn_draft **out,
			   struct tn_error *err)
{
	static const struct tn_derive_options defaults = TN_DERIVE_OPTIONS_INIT;
	static const struct tn_combine_options cat = TN_COMBINE_OPTIONS_INIT;
	struct tn_arena arena;
	struct combining c = { .arena = &arena, .ctx = base->ctx, .options = combine ? combine : &cat, .adapters = adapters,
			       .count = count };
	TN_TRY(check_options(adapters, count, c.options, err));
	c.type = &types[c.options->type];
	tn_arena_init(&arena, base->ctx);
	tn_status status = combine_all(&c, base, options ? options : &defaults, out, err);
	tn_arena_release(&arena);
	return status;
}
