/* SPDX-License-Identifier: Apache-2.0 */
/* What several adapters do to the same rows. */
#include "adapter/land.h"

#include "base/error.h"

#include <string.h>

/* Plain products add up in any order. */
static int is_plain(const struct tn_slot *slot)
{
	return slot->kind == TN_SLOT_BIAS ||
	       (slot->kind == TN_SLOT_DELTA && !slot->entry->magnitude && slot->change == TN_BASE_AS_IS);
}

static const char *why_not(const struct tn_slot *slot)
{
	if (slot->kind == TN_SLOT_TOKENS)
		return "replaces rows";
	if (slot->entry->magnitude)
		return "is a DoRA, whose magnitudes hold for the base with its own delta alone";
	return "was trained beside a part that it took out of the base";
}

static tn_status refuse(const struct tn_joint *j, const struct tn_landing *a, const struct tn_landing *b,
			struct tn_error *err)
{
	const struct tn_slot *x = &j->slots[a->slot], *y = &j->slots[b->slot];
	const char *name = j->targets[a->target].name;
	if (x->adapter == y->adapter && x->entry != y->entry)
		return tn_fail(err, TN_E_MISMATCH, name, "'%.100s' and '%.100s' both change '%.100s'", x->entry->module.path,
			       y->entry->module.path, name);
	if (is_plain(x) && x->entry == y->entry)
		return tn_fail(err, TN_E_ARG, x->adapter->path, "'%.200s' is there twice; add the weights up", x->adapter->path);
	if (is_plain(x) && is_plain(y))
		return tn_fail(err, TN_E_UNSUPPORTED, name, "two adapters change different parts of '%.100s' that meet in some "
			       "rows; fuse one, and then the other into the result", name);
	const struct tn_slot *other = is_plain(x) ? y : x;
	return tn_fail(err, TN_E_UNSUPPORTED, name, "two adapters change '%.100s', and '%.80s' of '%.80s' %s, so the result would "
		       "depend on their order; fuse one, and then the other into the result", name, other->entry->module.path,
		       other->adapter->path, why_not(other));
}

/* Appends the slots that `slot` stands for, from that column of rank on. */
static size_t list_parts(const struct tn_joint *j, size_t slot, uint64_t first_rank, struct tn_slot_part *parts, size_t n)
{
	const struct tn_slot *s = &j->slots[slot];
	if (!s->stacked)
		parts[n++] = (struct tn_slot_part){ slot, first_rank, TN_EVERY_GROUP };
	for (size_t i = 0; i < s->stacked_count; i++) {
		parts[n] = s->stacked[i];
		parts[n++].first_rank += first_rank;
	}
	return n;
}

static int same_parts(const struct tn_slot_part *a, const struct tn_slot_part *b, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (a[i].slot != b[i].slot || a[i].first_rank != b[i].first_rank || a[i].group != b[i].group)
			return 0;
	return 1;
}

static size_t find_stack(const struct tn_joint *j, const struct tn_slot_part *parts, size_t count)
{
	for (size_t i = 0; i < j->slot_count; i++)
		if (j->slots[i].stacked_count == count && same_parts(j->slots[i].stacked, parts, count))
			return i;
	return TN_NO_TARGET;
}

static size_t part_count(const struct tn_slot *slot)
{
	return slot->stacked ? slot->stacked_count : 1;
}

/* A slot like `like` for those parts. */
static tn_status add_stack(struct tn_joint *j, size_t like, struct tn_slot_part *parts, size_t count, size_t room, uint64_t rank,
			   size_t *out, struct tn_error *err)
{
	struct tn_slot first = j->slots[like];
	j->adapter = first.adapter;
	j->weight = first.weight;
	TN_TRY(tn_joint_add_slot(j, first.entry, first.kind, &first.shape, first.target, first.cols, out, err));
	j->slots[*out].rank = rank;
	j->slots[*out].stacked = parts;
	j->slots[*out].stacked_count = count;
	j->slots[*out].stacked_room = room;
	return TN_OK;
}

/* The slot of both: found, because other landings need it too, or made. */
static tn_status stack_slots(struct tn_joint *j, size_t a, size_t b, size_t *out, struct tn_error *err)
{
	uint64_t rank = j->slots[a].rank;
	size_t room = part_count(&j->slots[a]) + part_count(&j->slots[b]), n = 0;
	struct tn_slot_part *parts;
	TN_TRY(tn_arena_array(j->arena, room, sizeof *parts, &parts, err));
	n = list_parts(j, a, 0, parts, n);
	n = list_parts(j, b, rank, parts, n);
	*out = find_stack(j, parts, n);
	return *out != TN_NO_TARGET ? TN_OK : add_stack(j, a, parts, n, room, rank + j->slots[b].rank, out, err);
}

static uint64_t group_rows(const struct tn_slot *slot)
{
	const struct tn_adapter_module *m = &slot->entry->module;
	return slot->kind == TN_SLOT_BIAS ? 1 : slot->shape.rows_are_inputs ? m->in_features : m->out_features;
}

static int fit(const struct tn_joint *j, const struct tn_landing *a, const struct tn_landing *b)
{
	const struct tn_slot *x = &j->slots[a->slot], *y = &j->slots[b->slot];
	return is_plain(x) && is_plain(y) && x->kind == y->kind && x->adapter != y->adapter && x->cols == y->cols &&
	       a->target_row == b->target_row && a->rows == b->rows && a->delta_row == b->delta_row &&
	       x->entry->groups == y->entry->groups && group_rows(x) == group_rows(y);
}

/* ---- a stack of experts, and one expert ------------------------------------------------------------------ */

/* 1 when `one` is all rows of one group of `stack`; *group is its number. */
static int holds(const struct tn_joint *j, const struct tn_landing *stack, const struct tn_landing *one, uint64_t *group)
{
	const struct tn_slot *x = &j->slots[stack->slot], *y = &j->slots[one->slot];
	uint64_t rows = group_rows(x);
	if (!is_plain(x) || !is_plain(y) || x->kind != TN_SLOT_DELTA || y->kind != TN_SLOT_DELTA || x->adapter == y->adapter ||
	    x->cols != y->cols || x->entry->groups < 2 || y->entry->groups != 1 || group_rows(y) != rows || one->rows != rows ||
	    one->delta_row || one->target_row < stack->target_row ||
	    one->target_row + one->rows > stack->target_row + stack->rows)
		return 0;
	uint64_t row = stack->delta_row + (one->target_row - stack->target_row);
	*group = row / rows;
	return row % rows == 0;
}

/* A stack of its own for `slot`, which groups may be added to; all its landings go over to it. */
static tn_status make_host(struct tn_joint *j, size_t slot, size_t *host, struct tn_error *err)
{
	struct tn_slot_part *parts;
	size_t count = part_count(&j->slots[slot]), room = 2 * count + 8;
	if (j->slots[slot].stacked && j->slots[slot].stacked_room > count) {
		*host = slot;
		return TN_OK;
	}
	TN_TRY(tn_arena_array(j->arena, room, sizeof *parts, &parts, err));
	list_parts(j, slot, 0, parts, 0);
	if (j->slots[slot].stacked) {
		j->slots[slot].stacked = parts;
		j->slots[slot].stacked_room = room;
		*host = slot;
		return TN_OK;
	}
	TN_TRY(add_stack(j, slot, parts, count, room, j->slots[slot].rank, host, err));
	for (size_t i = 0; i < j->landing_count; i++)
		if (j->landings[i].slot == slot)
			j->landings[i].slot = *host;
	return TN_OK;
}

/* Experts of one adapter share columns of rank: where one has none, its factors are zeros. */
static uint64_t columns_for(struct tn_joint *j, struct tn_slot *host, const struct tn_slot *one)
{
	for (size_t i = 0; i < host->stacked_count; i++) {
		const struct tn_slot_part *p = &host->stacked[i];
		if (p->group != TN_EVERY_GROUP && j->slots[p->slot].adapter == one->adapter && j->slots[p->slot].rank >= one->rank)
			return p->first_rank;
	}
	host->rank += one->rank;
	return host->rank - one->rank;
}

/* `one` becomes a part of `stack`, for one group alone. */
static tn_status add_to_group(struct tn_joint *j, size_t stack, size_t one, uint64_t group, struct tn_error *err)
{
	struct tn_slot_part *parts;
	size_t count = part_count(&j->slots[one]), host;
	TN_TRY(tn_arena_array(j->arena, count, sizeof *parts, &parts, err));
	list_parts(j, one, 0, parts, 0);
	for (size_t i = 0; i < count; i++) {
		TN_TRY(make_host(j, stack, &host, err));
		struct tn_slot *h = &j->slots[host];
		uint64_t first_rank = columns_for(j, h, &j->slots[parts[i].slot]);
		h->stacked[h->stacked_count++] = (struct tn_slot_part){ parts[i].slot, first_rank, group };
		stack = host;
	}
	return TN_OK;
}

static tn_status check_replacement(const struct tn_joint *j, const struct tn_landing *l, struct tn_error *err)
{
	const struct tn_target *t = &j->targets[l->target];
	const struct tn_slot *slot = &j->slots[l->slot];
	if (!t->replacement || t->replacer == slot->adapter)
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' replaces '%.100s', and '%.80s' of another adapter was trained "
		       "on what stood there before", t->replacer->path, t->name, slot->entry->module.path);
}

/* mlx-lm's delta on a tied table is the head's too; a head that another adapter unties would lose it. */
static tn_status check_ties(const struct tn_joint *j, const struct tn_landing *l, struct tn_error *err)
{
	const struct tn_slot *slot = &j->slots[l->slot];
	if (!tn_joint_is_untied(j) || l->target != j->embedding || slot->adapter->config.dialect != TN_DIALECT_MLX_LM)
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, j->targets[l->target].name, "'%.100s' changes embedding and head together, and "
		       "another adapter only one of the two; fuse one, and then the other into the result", slot->adapter->path);
}

tn_status tn_joint_stack(struct tn_joint *j, struct tn_error *err)
{
	size_t n = 0;
	for (size_t i = 0; i < j->landing_count; i++) {
		struct tn_landing *b = &j->landings[i], *a = n ? &j->landings[n - 1] : NULL;
		TN_TRY(check_replacement(j, b, err));
		TN_TRY(check_ties(j, b, err));
		if (!a || a->target != b->target || a->target_row + a->rows <= b->target_row) {
			j->landings[n++] = *b;
			continue;
		}
		uint64_t group;
		if (fit(j, a, b)) {
			TN_TRY(stack_slots(j, a->slot, b->slot, &a->slot, err));
		} else if (holds(j, a, b, &group)) {
			TN_TRY(add_to_group(j, a->slot, b->slot, group, err));
		} else if (holds(j, b, a, &group)) { /* both begin at the same row */
			size_t one = a->slot;
			*a = *b;
			TN_TRY(add_to_group(j, a->slot, one, group, err));
		} else {
			return refuse(j, a, b, err);
		}
	}
	j->landing_count = n;
	return TN_OK;
}
