/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/extract.h"

#include "adapter/compress.h"
#include "base/checked.h"
#include "base/error.h"
#include "store/checkpoint.h"

#include <string.h>

/* Below this share of a change, where no rounding explains the rest of it, a module is named as one that lost something. */
static const double enough = 0.9;

static tn_status check_options(const struct tn_derive_options *o, const struct tn_extract_options *e, struct tn_error *err)
{
	if (o->dialect != TN_DIALECT_PEFT && o->dialect != TN_DIALECT_MLX_LM)
		return tn_fail(err, TN_E_ARG, "dialect", "adapters are made in the dialects mlx-lm and peft");
	TN_TRY(tn_rank_rule_check(&e->rule, err));
	if (e->others != TN_OTHERS_REFUSED && e->others != TN_OTHERS_SAVED && e->others != TN_OTHERS_IGNORED)
		return tn_fail(err, TN_E_ARG, "others", "%d is no way to treat what else changed", (int)e->others);
	return TN_OK;
}

/* ---- the report ------------------------------------------------------------------------------------------ */

static double share(const struct tn_extract_finding *f)
{
	return f->delta2 > 0 ? f->noise2 < f->delta2 ? f->noise2 / f->delta2 : 1 : 0;
}

static size_t count_rest(const struct tn_extract *x)
{
	size_t count = 0;
	for (size_t i = 0; i < x->module_count; i++)
		count += x->modules[i].found.differs && !x->modules[i].module->chosen;
	for (size_t i = 0; i < x->rest_count; i++)
		count += x->rest[i].found.differs != 0;
	return count;
}

static tn_status list_rest(const struct tn_extract *x, struct tn_draft *d, struct tn_extracted *out, struct tn_error *err)
{
	const char **names;
	TN_TRY(tn_arena_array(&d->arena, count_rest(x), sizeof *names, &names, err));
	for (size_t i = 0; i < x->module_count; i++)
		if (x->modules[i].found.differs && !x->modules[i].module->chosen)
			names[out->rest_count++] = x->modules[i].module->path;
	for (size_t i = 0; i < x->rest_count; i++)
		if (x->rest[i].found.differs)
			names[out->rest_count++] = x->rest[i].name;
	for (size_t i = 0; i < out->rest_count; i++)
		TN_TRY(tn_arena_text(&d->arena, names[i], strlen(names[i]), &names[i], err));
	out->rest = names;
	return TN_OK;
}

/* Those of the draft's modules, which are in the order of paths. */
static void list_noises(const struct tn_extract *x, const struct tn_draft *d, double *noises)
{
	for (size_t i = 0; i < x->module_count; i++) {
		const char *path = x->modules[i].module->path;
		size_t low = 0, high = tn_draft_derived_count(d);
		while (low < high) {
			size_t middle = low + (high - low) / 2;
			if (strcmp(tn_draft_derived_at(d, middle)->path, path) < 0)
				low = middle + 1;
			else
				high = middle;
		}
		if (low < tn_draft_derived_count(d) && strcmp(tn_draft_derived_at(d, low)->path, path) == 0)
			noises[low] = share(&x->modules[i].found);
	}
}

/* In one line, whatever their number. */
static void warn_of_losses(const struct tn_extract *x, const struct tn_draft *d, const struct tn_extracted *e)
{
	const struct tn_derived_module *worst = NULL;
	size_t count = 0;
	for (size_t i = 0; i < tn_draft_derived_count(d); i++) {
		const struct tn_derived_module *m = tn_draft_derived_at(d, i);
		if (m->kept + e->noise[i] >= enough)
			continue;
		worst = !worst || m->kept < worst->kept ? m : worst;
		count++;
	}
	if (!worst)
		return;
	tn_logf(x->ctx, TN_LOG_WARNING, "of the change of '%s' %.3g is kept, and less than %g of that of %zu modules: it is no "
		"change of so low a rank, and the adapter is not the tuned model; choose a larger rank, or keep the tuned model",
		worst->path, worst->kept, enough, count);
}

static tn_status report(const struct tn_extract *x, const struct tn_pairs *pairs, struct tn_draft *d, struct tn_error *err)
{
	struct tn_extracted *e;
	double *noises, total = 0, kept = 0, noise = 0;
	size_t n = tn_draft_derived_count(d);
	TN_TRY(tn_arena_alloc(&d->arena, sizeof *e, &e, err));
	TN_TRY(tn_arena_array(&d->arena, n, sizeof *noises, &noises, err));
	e->modules = x->module_count;
	for (size_t i = 0, k = 0; i < x->module_count; i++) {
		const struct tn_extract_module *m = &x->modules[i];
		e->unchanged += !m->found.differs;
		if (k == pairs->count || pairs->items[k].module != m->module)
			continue;
		total += m->found.delta2;
		noise += m->found.noise2;
		kept += pairs->items[k++].kept * m->found.delta2;
	}
	e->kept = total > 0 ? kept / total : 1;
	e->rounding = share(&(struct tn_extract_finding){ .delta2 = total, .noise2 = noise });
	e->rest_is_saved = x->options->others == TN_OTHERS_SAVED;
	list_noises(x, d, noises);
	e->noise = noises;
	TN_TRY(list_rest(x, d, e, err));
	d->extracted = e;
	warn_of_losses(x, d, e);
	return TN_OK;
}

/* ---- the job --------------------------------------------------------------------------------------------- */

static tn_status take_apart(struct tn_extract *x, struct tn_pairs *pairs, struct tn_error *err)
{
	pairs->dialect = x->dialect;
	pairs->modules = x->list;
	TN_TRY(tn_extract_wholes(x, pairs, err));
	TN_TRY(tn_arena_array(&x->arena, x->module_count, sizeof *pairs->items, &pairs->items, err));
	for (size_t i = 0; i < x->module_count; i++)
		if (x->modules[i].found.differs && x->modules[i].module->chosen)
			TN_TRY(tn_extract_pair(x, &x->modules[i], &x->options->rule, &pairs->items[pairs->count++], err));
	return TN_OK;
}

static tn_status run(struct tn_extract *x, const struct tn_derive_options *options, tn_draft **out, struct tn_error *err)
{
	struct tn_pairs pairs = { .count = 0 };
	tn_draft *d;
	TN_TRY(tn_extract_match(x, err));
	TN_TRY(tn_extract_survey(x, err));
	TN_TRY(tn_extract_judge(x, err));
	TN_TRY(take_apart(x, &pairs, err));
	TN_TRY(tn_draft_of_pairs(x->base.checkpoint, &pairs, options, &d, err));
	tn_status status = report(x, &pairs, d, err);
	if (status == TN_OK)
		*out = d;
	else
		tn_draft_destroy(d);
	return status;
}

tn_status tn_draft_extract(const tn_checkpoint *base, const tn_checkpoint *tuned, const struct tn_derive_options *options,
			   const struct tn_extract_options *extract, tn_draft **out, struct tn_error *err)
{
	static const struct tn_derive_options derive_defaults = TN_DERIVE_OPTIONS_INIT;
	static const struct tn_extract_options extract_defaults = TN_EXTRACT_OPTIONS_INIT;
	options = options ? options : &derive_defaults;
	struct tn_extract x = { .ctx = base->ctx, .options = extract ? extract : &extract_defaults, .dialect = options->dialect,
				.base = { .checkpoint = base }, .tuned = { .checkpoint = tuned } };
	TN_TRY(check_options(options, x.options, err));
	tn_arena_init(&x.arena, x.ctx);
	tn_status status = run(&x, options, out, err);
	tn_joint_close_base(x.base.joint);
	tn_joint_close_base(x.tuned.joint);
	tn_arena_release(&x.arena);
	return status;
}

const struct tn_extracted *tn_draft_extracted(const tn_draft *draft)
{
	return draft->extracted;
}
