/* Pairs of a lower rank: docs/adapters.md, "Resized adapters". */
#ifndef TN_COMPRESS_H
#define TN_COMPRESS_H

#include "adapter/derive.h"
#include "linear/lowrank.h"

/* TN_E_ARG: an energy outside (0, 1]. */
tn_status tn_rank_rule_check(const struct tn_rank_rule *rule, struct tn_error *err);
/* 1 when the rule may change pairs. */
int tn_rank_rule_bounds(const struct tn_rank_rule *rule);

/* The factors of each group [pair->groups] become those of the pair, whose groups get one rank; they are cut to it. */
tn_status tn_pair_take(struct tn_arena *arena, struct tn_pair *pair, struct tn_lowrank_factors *factors,
		       const struct tn_rank_rule *rule, struct tn_error *err);

/* Lowers ranks where the rule says so; all other pairs keep their numbers. Scales, magnitudes and biases stay. A pair that changes
 * nothing is a new one, and keeps as much of A as the rule lets. */
tn_status tn_pairs_compress(tn_context *ctx, struct tn_arena *arena, struct tn_pairs *pairs, const struct tn_rank_rule *rule,
			    struct tn_error *err);

#endif
