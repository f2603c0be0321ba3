/* SPDX-License-Identifier: Apache-2.0 */
/* A draft of given pairs: checked against what the dialect can hold, named, and filled. */
#include "adapter/pairs.h"

#include "base/error.h"
#include "base/sort.h"

#include <math.h>
#include <string.h>

struct drafting {
	tn_draft *draft;
	const struct tn_pairs *pairs;
	const struct tn_derive_options *options;
	struct tn_base_modules modules;      /* of the pairs, with those that are chosen marked */
	struct tn_create_options create;
	struct tn_choice choice;
	const struct tn_pair **by_path;
};

static const char way_out[] = "fuse the adapter into the base instead (tenon fuse)";

/* ---- what a dialect can hold ------------------------------------------------------------------------------ */

static tn_status check_magnitude(const struct drafting *w, const struct tn_pair *p, struct tn_error *err)
{
	const char *path = p->module->path;
	int peft = w->pairs->dialect == TN_DIALECT_PEFT, table = p->module->kind == TN_MODULE_EMBEDDING;
	if (!p->magnitude != !w->create.dora)
		return tn_fail(err, TN_E_UNSUPPORTED, path, "'%.100s' %s a DoRA and other modules %s, and an adapter of %s is of "
			       "one kind; %s", path, p->magnitude ? "is" : "is not", p->magnitude ? "are not" : "are",
			       peft ? "PEFT" : "mlx-lm", way_out);
	if (p->magnitude && table && p->magnitude_of_inputs == peft)
		return tn_fail(err, TN_E_UNSUPPORTED, path, "'%.100s' is a DoRA of an embedding, which scales %s; that of %s "
			       "scales %s; %s", path, peft ? "vectors" : "columns", peft ? "PEFT" : "mlx-lm",
			       peft ? "columns" : "vectors",
			       way_out);
	if (p->magnitude && (p->module->kind == TN_MODULE_EXPERTS || p->module->of_parameter))
		return tn_fail(err, TN_E_UNSUPPORTED, path, "'%.100s' is %s, and there is no DoRA for these; %s", path,
			       p->module->of_parameter ? "a parameter and no layer in PEFT" : "a stack of experts", way_out);
	return TN_OK;
}

static tn_status check_pairs(struct drafting *w, struct tn_error *err)
{
	const struct tn_pairs *p = w->pairs;
	if (!p->count && !p->whole_count)
		return tn_fail(err, TN_E_ARG, "adapter", "nothing is adapted: there is no pair of factors");
	TN_TRY(tn_wholes_check(p, err));
	for (size_t i = 0; i < p->count; i++)
		w->create.dora |= p->items[i].magnitude != NULL;
	for (size_t i = 0; i < p->count; i++) {
		const struct tn_pair *item = &p->items[i];
		TN_TRY(check_magnitude(w, item, err));
		if (item->bias && p->dialect == TN_DIALECT_MLX_LM)
			return tn_fail(err, TN_E_UNSUPPORTED, item->module->path, "'%.100s' adds a bias (lora_bias), which "
				       "mlx-lm's adapters do not have; %s", item->module->path, way_out);
		if (!isfinite(item->scale))
			return tn_fail(err, TN_E_ARG, item->module->path, "the scale of '%.100s' is no number", item->module->path);
	}
	return TN_OK;
}

static tn_status check_options(const struct tn_derive_options *o, const struct tn_pairs *p, struct tn_error *err)
{
	if (o->dialect != TN_DIALECT_PEFT && o->dialect != TN_DIALECT_MLX_LM)
		return tn_fail(err, TN_E_ARG, "dialect", "adapters are made in the dialects mlx-lm and peft");
	if (p->dialect != o->dialect)
		return tn_fail(err, TN_E_ARG, "dialect", "the pairs are those of another dialect");
	if (!o->keep_dtype && o->dtype != TN_F32 && o->dtype != TN_BF16 && o->dtype != TN_F16)
		return tn_fail(err, TN_E_ARG, "dtype", "adapters are written as F32, BF16 or F16");
	return TN_OK;
}

/* ---- parameters ------------------------------------------------------------------------------------------ */

static int compare_pairs(const void *a, const void *b)
{
	const struct tn_pair *const *x = a, *const *y = b;
	return strcmp((*x)->module->path, (*y)->module->path);
}

/* Pairs in the order of paths: there may be tens of thousands, one for each layer of each expert. */
static tn_status sort_pairs(struct drafting *w, struct tn_error *err)
{
	size_t count = w->pairs->count;
	TN_TRY(tn_arena_array(&w->draft->arena, count, sizeof *w->by_path, &w->by_path, err));
	for (size_t i = 0; i < count; i++)
		w->by_path[i] = &w->pairs->items[i];
	tn_sort(w->by_path, count, sizeof *w->by_path, compare_pairs);
	return TN_OK;
}

/* NULL: the parameter is a whole tensor. */
static const struct tn_pair *pair_of(const struct drafting *w, const struct tn_parameter *p)
{
	size_t low = 0, high = w->pairs->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(w->by_path[middle]->module->path, p->module) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < w->pairs->count && w->by_path[low]->module->path == p->module ? w->by_path[low] : NULL;
}

/* mlx-lm has one for all. */
static uint64_t rank_of(const struct drafting *w, const struct tn_pair *p)
{
	return w->pairs->dialect == TN_DIALECT_PEFT ? p->rank : w->create.rank;
}

static tn_status add_bias(struct drafting *w, const struct tn_pair *p, struct tn_error *err)
{
	struct tn_parameter bias = { .module = p->module->path, .role = TN_PARAMETER_OTHER, .rank = 1, .shape = { p->out } };
	TN_TRY(tn_arena_printf(&w->draft->arena, &bias.name, err, "base_model.model.%s.lora_B.bias", p->module->path));
	return tn_draft_add(w->draft, &bias, err);
}

static tn_status add_whole(struct drafting *w, const struct tn_whole *whole, struct tn_error *err)
{
	struct tn_parameter p = { .module = whole->path, .role = TN_PARAMETER_OTHER, .rank = whole->rank };
	memcpy(p.shape, whole->shape, sizeof p.shape);
	TN_TRY(tn_whole_name(w->pairs, whole, &w->draft->arena, &p.name, err));
	return tn_draft_add(w->draft, &p, err);
}

static tn_status add_parameters(struct drafting *w, struct tn_error *err)
{
	const struct tn_pairs *p = w->pairs;
	TN_TRY(tn_draft_reserve(w->draft, 4 * p->count + p->whole_count, err));
	for (size_t i = 0; i < p->count; i++) {
		struct tn_base_module *item = &w->modules.items[p->items[i].module - p->modules.items];
		uint64_t rank = rank_of(w, &p->items[i]);
		item->in = p->items[i].in;
		item->out = p->items[i].out;
		TN_TRY(tn_draft_add_module(w->draft, &w->modules, item, rank, w->create.dora, err));
		if (p->items[i].bias)
			TN_TRY(add_bias(w, &p->items[i], err));
	}
	for (size_t i = 0; i < p->whole_count; i++)
		TN_TRY(add_whole(w, &p->wholes[i], err));
	return TN_OK;
}

/* ---- values ---------------------------------------------------------------------------------------------- */

/* A [groups, rank, in] as the file has it; what is missing up to `rank` stays zero. */
static void fill_a(struct tn_parameter *d, const struct tn_pair *p, uint64_t rank, int inputs_first)
{
	for (uint64_t g = 0; g < p->groups; g++)
		for (uint64_t k = 0; k < p->rank; k++) {
			const float *from = p->a + (g * p->rank + k) * p->in;
			if (!inputs_first)
				memcpy(d->data + (g * rank + k) * p->in, from, (size_t)p->in * sizeof *from);
			else
				for (uint64_t i = 0; i < p->in; i++)
					d->data[i * rank + k] = from[i];
		}
}

/* B [groups, out, rank] as the file has it: [out, rank], [rank, out], [groups, out, rank], or of a parameter of PEFT [out, rank,
 * groups]. */
static void fill_b(struct tn_parameter *d, const struct tn_pair *p, uint64_t rank, int outputs_last, double factor)
{
	int of_parameter = p->module->of_parameter;
	for (uint64_t g = 0; g < p->groups; g++)
		for (uint64_t o = 0; o < p->out; o++)
			for (uint64_t k = 0; k < p->rank; k++) {
				float x = p->b[(g * p->out + o) * p->rank + k];
				uint64_t at = outputs_last ? k * p->out + o : of_parameter ? (o * rank + k) * p->groups + g
											   : (g * p->out + o) * rank + k;
				d->data[at] = factor == 1 ? x : (float)(factor * (double)x);
			}
}

static tn_dtype fill_values(const struct drafting *w, struct tn_parameter *d, const struct tn_pair *p)
{
	int mlx = w->pairs->dialect == TN_DIALECT_MLX_LM, plain = mlx && p->module->kind != TN_MODULE_EXPERTS;
	uint64_t rank = rank_of(w, p);
	double factor = !mlx || p->scale == w->choice.scale ? 1 : p->scale / w->choice.scale;
	if (d->role == TN_PARAMETER_A) {
		fill_a(d, p, rank, plain);
		return p->a_dtype;
	}
	if (d->role == TN_PARAMETER_B) {
		fill_b(d, p, rank, plain, factor);
		return factor == 1 || tn_dtype_holds(p->b_dtype, d->data, d->elements) ? p->b_dtype : TN_F32;
	}
	const float *from = d->role == TN_PARAMETER_MAGNITUDE ? p->magnitude : p->bias;
	memcpy(d->data, from, (size_t)d->elements * sizeof *from);
	return d->role == TN_PARAMETER_MAGNITUDE ? p->magnitude_dtype : p->bias_dtype;
}

static tn_dtype fill_whole(const struct drafting *w, struct tn_parameter *d)
{
	const struct tn_whole *whole = w->pairs->wholes;
	while (whole->path != d->module)
		whole++;
	memcpy(d->data, whole->values, (size_t)d->elements * sizeof *d->data);
	return whole->dtype;
}

static tn_status fill_draft(struct drafting *w, struct tn_error *err)
{
	tn_draft *d = w->draft;
	TN_TRY(sort_pairs(w, err));
	for (size_t i = 0; i < d->count; i++) {
		struct tn_parameter *p = &d->parameters[i];
		const struct tn_pair *pair = pair_of(w, p);
		tn_dtype dtype = pair ? fill_values(w, p, pair) : fill_whole(w, p);
		p->dtype = w->options->keep_dtype ? dtype : w->options->dtype;
		TN_TRY(tn_parameter_round(p, p->data, err));
	}
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_module_kind kind_of(const struct tn_pair *p)
{
	int table = p->module->kind == TN_MODULE_EMBEDDING;
	return p->magnitude ? (table ? TN_MODULE_EMBEDDING_DORA : TN_MODULE_DORA) : p->module->kind;
}

static int compare_derived(const void *a, const void *b)
{
	return strcmp(((const struct tn_derived_module *)a)->path, ((const struct tn_derived_module *)b)->path);
}

static tn_status list_derived(const struct drafting *w, struct tn_error *err)
{
	struct tn_derived_module *list;
	const struct tn_pairs *p = w->pairs;
	TN_TRY(tn_arena_array(&w->draft->arena, p->count, sizeof *list, &list, err));
	for (size_t i = 0; i < p->count; i++)
		list[i] = (struct tn_derived_module){ NULL, kind_of(&p->items[i]), p->items[i].rank_before, p->items[i].rank,
						      p->items[i].kept };
	for (size_t i = 0; i < p->count; i++)
		TN_TRY(tn_arena_text(&w->draft->arena, p->items[i].module->path, strlen(p->items[i].module->path), &list[i].path,
				     err));
	if (p->count > 1)
		qsort(list, p->count, sizeof *list, compare_derived);
	w->draft->derived = list;
	w->draft->derived_count = p->count;
	return TN_OK;
}

/* The draft outlives the pairs. */
static tn_status own_paths(struct drafting *w, struct tn_error *err)
{
	for (size_t i = 0; i < w->draft->count; i++) {
		struct tn_parameter *p = &w->draft->parameters[i];
		TN_TRY(tn_arena_text(&w->draft->arena, p->module, strlen(p->module), &p->module, err));
	}
	return TN_OK;
}

/* Modules and pairs of its own: routers become parameters, and widths those of the pairs. */
static tn_status copy_modules(struct drafting *w, struct tn_pairs *all, struct tn_error *err)
{
	const struct tn_base_modules m = all->modules;
	const struct tn_pair *items = all->items;
	TN_TRY(tn_arena_array(&w->draft->arena, m.count, sizeof *m.items, &all->modules.items, err));
	TN_TRY(tn_arena_array(&w->draft->arena, all->count, sizeof *items, &all->items, err));
	all->modules.arena = &w->draft->arena;
	for (size_t i = 0; i < m.count; i++) {
		struct tn_base_module *item = &all->modules.items[i];
		*item = m.items[i];
		if (m.peft && tn_base_module_is_router(&m, item)) {
			item->of_parameter = 1;
			item->experts = 1;
			TN_TRY(tn_arena_printf(&w->draft->arena, &item->path, err, "%s.weight", item->path));
		}
	}
	for (size_t i = 0; i < all->count; i++) {
		all->items[i] = items[i];
		all->items[i].module = &all->modules.items[items[i].module - m.items];
	}
	w->pairs = all;
	w->modules = all->modules;
	return TN_OK;
}

static tn_status make(struct drafting *w, struct tn_pairs *all, const tn_checkpoint *base, struct tn_error *err)
{
	tn_draft *d = w->draft;
	const struct tn_derive_options *o = w->options;
	TN_TRY(check_options(o, w->pairs, err));
	TN_TRY(copy_modules(w, all, err));
	TN_TRY(check_pairs(w, err));
	d->dialect = o->dialect;
	w->create.dialect = o->dialect;
	w->create.dropout = w->pairs->dropout;
	w->create.base_name = o->base_name ? o->base_name : w->pairs->base_name;
	w->create.task_type = o->task_type ? o->task_type : w->pairs->task_type;
	TN_TRY(tn_pairs_choose(&d->arena, w->pairs, &w->modules, &w->create, &w->choice, err));
	TN_TRY(tn_wholes_choose(w->pairs, &d->arena, &w->choice, err));
	TN_TRY(tn_create_config(&d->arena, &w->choice, &w->modules, base->path, &d->config, err));
	TN_TRY(add_parameters(w, err));
	TN_TRY(tn_draft_make_image(d, err));
	TN_TRY(fill_draft(w, err));
	TN_TRY(own_paths(w, err));
	TN_TRY(list_derived(w, err));
	TN_TRY(tn_adapter_open_memory(d->ctx, d->config, strlen(d->config), d->image.data, d->image.bytes, "the new adapter",
				      &d->adapter, err));
	d->has_base_sample = 1;
	return tn_adapter_base_sample(d->adapter, base, d->base_sample, err);
}

tn_status tn_draft_of_pairs(const tn_checkpoint *base, const struct tn_pairs *pairs, const struct tn_derive_options *options,
			    tn_draft **out, struct tn_error *err)
{
	struct tn_pairs all;
	struct tn_arena arena;
	struct drafting w = { .pairs = &all, .options = options };
	TN_TRY(tn_draft_begin(base->ctx, &w.draft, err));
	tn_arena_init(&arena, base->ctx);
	tn_status status = tn_wholes_complete(pairs, &arena, base, &all, err);
	if (status == TN_OK)
		status = make(&w, &all, base, err);
	tn_arena_release(&arena);
	if (status != TN_OK) {
		tn_draft_destroy(w.draft);
		return status;
	}
	*out = w.draft;
	return TN_OK;
}
