/* SPDX-License-Identifier: Apache-2.0 */
#include "adapter/compress.h"

#include "base/error.h"
#include "base/pool.h"

#include <math.h>
#include <string.h>

tn_status tn_rank_rule_check(const struct tn_rank_rule *rule, struct tn_error *err)
{
	if (!(rule->energy > 0 && rule->energy <= 1))
		return tn_fail(err, TN_E_ARG, "energy", "energy is %g; a share above 0, at most 1, was expected", rule->energy);
	if (rule->rank > TN_ADAPTER_MOST_RANK)
		return tn_fail(err, TN_E_ARG, "rank", "LoRA rank is %llu; at most %d was expected", (unsigned long long)rule->rank,
			       (int)TN_ADAPTER_MOST_RANK);
	return TN_OK;
}

int tn_rank_rule_bounds(const struct tn_rank_rule *rule)
{
	return rule->rank || rule->energy < 1;
}

/* ---- one pair -------------------------------------------------------------------------------------------- */

/* One rank for all groups: their squares of the same place count together. */
static tn_status choose(struct tn_arena *arena, const struct tn_pair *pair, const struct tn_lowrank_factors *f,
			const struct tn_rank_rule *rule, uint64_t *rank, struct tn_error *err)
{
	size_t most = 0;
	double total = 0, *squares;
	for (uint64_t g = 0; g < pair->groups; g++) {
		most = f[g].rank > most ? (size_t)f[g].rank : most;
		total += f[g].total;
	}
	TN_TRY(tn_arena_array(arena, most, sizeof *squares, &squares, err));
	for (uint64_t g = 0; g < pair->groups; g++)
		for (uint64_t t = 0; t < f[g].rank; t++)
			squares[t] += f[g].s[t] * f[g].s[t];
	*rank = tn_rank_for(squares, most, total, rule);
	return TN_OK;
}

static void copy_group(struct tn_pair *pair, uint64_t group, const struct tn_lowrank_factors *f)
{
	memcpy(pair->a + group * pair->rank * pair->in, f->a, (size_t)(f->rank * pair->in) * sizeof *f->a);
	for (uint64_t o = 0; o < pair->out; o++)
		memcpy(pair->b + (group * pair->out + o) * pair->rank, f->b + o * f->rank, (size_t)f->rank * sizeof *f->b);
}

tn_status tn_pair_take(struct tn_arena *arena, struct tn_pair *pair, struct tn_lowrank_factors *factors,
		       const struct tn_rank_rule *rule, struct tn_error *err)
{
	double total = 0, kept = 0;
	TN_TRY(choose(arena, pair, factors, rule, &pair->rank, err));
	TN_TRY(tn_arena_array(arena, (size_t)(pair->groups * pair->rank * pair->in), sizeof *pair->a, &pair->a, err));
	TN_TRY(tn_arena_array(arena, (size_t)(pair->groups * pair->rank * pair->out), sizeof *pair->b, &pair->b, err));
	for (uint64_t g = 0; g < pair->groups; g++) {
		if (factors[g].rank > pair->rank)
			tn_lowrank_cut(&factors[g], (size_t)pair->out, pair->rank);
		copy_group(pair, g, &factors[g]);
		total += factors[g].total;
		kept += factors[g].kept * factors[g].total;
	}
	pair->kept = total > 0 ? kept / total : 1;
	pair->a_dtype = pair->b_dtype = TN_F32;
	return TN_OK;
}

/* A new pair, whose B is zero: the first rows of A, and nothing is lost. */
static void shorten(struct tn_pair *pair, uint64_t rank)
{
	uint64_t left = rank * pair->in, before = pair->rank * pair->in;
	for (uint64_t g = 0; g < pair->groups; g++)
		memmove(pair->a + g * left, pair->a + g * before, (size_t)left * sizeof *pair->a);
	memset(pair->b, 0, (size_t)(pair->groups * rank * pair->out) * sizeof *pair->b);
	pair->rank = rank;
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

struct task {
	size_t pair;
	uint64_t group;
};

struct compression {
	tn_context *ctx;
	const struct tn_pairs *pairs;
	const struct tn_rank_rule *rule;
	struct task *tasks;
	struct tn_lowrank_factors *factors;   /* of each task */
	size_t count;
};

static tn_status take_apart(void *arg, uint64_t number, unsigned worker, struct tn_error *err)
{
	(void)worker;
	const struct compression *c = arg;
	const struct task *task = &c->tasks[number];
	const struct tn_pair *p = &c->pairs->items[task->pair];
	struct tn_factor_product product = { (size_t)p->out, (size_t)p->in, (size_t)p->rank, p->a + task->group * p->rank * p->in,
					     p->b + task->group * p->rank * p->out, NULL };
	struct tn_rank_rule bound = { c->rule->rank, p->groups == 1 ? c->rule->energy : 1 };
	return tn_lowrank_of_product(c->ctx, &product, &bound, p->module->path, &c->factors[number], err);
}

static int is_touched(const struct compression *c, const struct tn_pair *p)
{
	return c->rule->energy < 1 || (c->rule->rank && p->rank > c->rule->rank);
}

static tn_status list_tasks(struct compression *c, struct tn_arena *arena, struct tn_error *err)
{
	size_t count = 0;
	for (size_t i = 0; i < c->pairs->count; i++)
		count += is_touched(c, &c->pairs->items[i]) ? (size_t)c->pairs->items[i].groups : 0;
	TN_TRY(tn_arena_array(arena, count, sizeof *c->tasks, &c->tasks, err));
	TN_TRY(tn_arena_array(arena, count, sizeof *c->factors, &c->factors, err));
	for (size_t i = 0; i < c->pairs->count; i++)
		for (uint64_t g = 0; g < c->pairs->items[i].groups && is_touched(c, &c->pairs->items[i]); g++)
			c->tasks[c->count++] = (struct task){ i, g };
	return TN_OK;
}

static int is_zero(const struct tn_lowrank_factors *factors, uint64_t groups)
{
	double total = 0;
	for (uint64_t g = 0; g < groups; g++)
		total += factors[g].total;
	return total == 0;
}

static tn_status replace(const struct compression *c, struct tn_arena *arena, struct tn_error *err)
{
	for (size_t i = 0; i < c->count; i += (size_t)c->pairs->items[c->tasks[i].pair].groups) {
		struct tn_pair *pair = &c->pairs->items[c->tasks[i].pair], made = *pair;
		if (is_zero(&c->factors[i], pair->groups)) {
			if (c->rule->rank && c->rule->rank < pair->rank)
				shorten(pair, c->rule->rank);
			continue;
		}
		TN_TRY(tn_pair_take(arena, &made, &c->factors[i], c->rule, err));
		if (made.rank < pair->rank)
			*pair = made;
	}
	return TN_OK;
}

tn_status tn_pairs_compress(tn_context *ctx, struct tn_arena *arena, struct tn_pairs *pairs, const struct tn_rank_rule *rule,
			    struct tn_error *err)
{
	struct compression c = { .ctx = ctx, .pairs = pairs, .rule = rule };
	TN_TRY(list_tasks(&c, arena, err));
	struct tn_work work = { .task_count = c.count, .workers = tn_pool_workers(ctx), .run = take_apart, .arg = &c };
	tn_status status = tn_pool_run(ctx, &work, err);
	if (status == TN_OK)
		status = replace(&c, arena, err);
	for (size_t i = 0; i < c.count; i++)
		tn_lowrank_release(ctx, &c.factors[i]);
	return status;
}

tn_status tn_draft_resize(const tn_adapter *adapter, const tn_checkpoint *base, const struct tn_derive_options *options,
			  const struct tn_rank_rule *rule, tn_draft **out, struct tn_error *err)
{
	static const struct tn_derive_options defaults = TN_DERIVE_OPTIONS_INIT;
	const struct tn_derive_options *o = options ? options : &defaults;
	struct tn_arena arena;
	struct tn_pairs pairs;
	TN_TRY(tn_rank_rule_check(rule, err));
	if (!tn_rank_rule_bounds(rule))
		return tn_fail(err, TN_E_ARG, "rank", "neither a rank nor an energy below 1 says how small the adapter shall be");
	tn_arena_init(&arena, base->ctx);
	tn_status status = tn_pairs_load(&arena, adapter, base, o->dialect, &pairs, err);
	if (status == TN_OK)
		status = tn_pairs_compress(base->ctx, &arena, &pairs, rule, err);
	if (status == TN_OK)
		status = tn_draft_of_pairs(base, &pairs, o, out, err);
	tn_arena_release(&arena);
	return status;
}
