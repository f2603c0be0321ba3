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
	if (x->adapter == y->adapter)
		return tn_fail(err, TN_E_MISMATCH, name, "'%.100s' and '%.100s' both change '%.100s'", x->entry->module.path,
			       y->entry->module.path, name);
	if (is_plain(x) && is_plain(y))
		return tn_fail(err, TN_E_UNSUPPORTED, name, "two adapters change different parts of '%.100s' that meet in some rows; "
			       "fuse one, and then the other into the result", name);
	const struct tn_slot *other = is_plain(x) ? y : x;
	return tn_fail(err, TN_E_UNSUPPORTED, name, "two adapters change '%.100s', and '%.80s' of '%.80s' %s, so the result would "
		       "depend on their order; fuse one, and then the other into the result", name, other->entry->module.path,
		       other->adapter->path, why_not(other));
}

/* Appends the slots that `slot` stands for. */
static size_t list_parts(const struct tn_joint *j, size_t slot, size_t *parts, size_t n)
{
	const struct tn_slot *s = &j->slots[slot];
	if (!s->stacked) {
		parts[n++] = slot;
		return n;
	}
	memcpy(parts + n, s->stacked, s->stacked_count * sizeof *parts);
	return n + s->stacked_count;
}

static size_t find_stack(const struct tn_joint *j, const size_t *parts, size_t count)
{
	for (size_t i = 0; i < j->slot_count; i++)
		if (j->slots[i].stacked_count == count && memcmp(j->slots[i].stacked, parts, count * sizeof *parts) == 0)
			return i;
	return TN_NO_TARGET;
}

/* The slot of both: found, because other landings need it too, or made. */
static tn_status stack_slots(struct tn_joint *j, size_t a, size_t b, size_t *out, struct tn_error *err)
{
	struct tn_slot first = j->slots[a];
	size_t *parts, n = 0;
	TN_TRY(tn_arena_array(j->arena, first.stacked_count + j->slots[b].stacked_count + 2, sizeof *parts, &parts, err));
	n = list_parts(j, a, parts, n);
	n = list_parts(j, b, parts, n);
	*out = find_stack(j, parts, n);
	if (*out != TN_NO_TARGET)
		return TN_OK;
	j->adapter = first.adapter;
	j->weight = first.weight;
	uint64_t rank = first.rank + j->slots[b].rank;
	TN_TRY(tn_joint_add_slot(j, first.entry, first.kind, &first.shape, first.target, first.cols, out, err));
	j->slots[*out].rank = rank;
	j->slots[*out].stacked = parts;
	j->slots[*out].stacked_count = n;
	return TN_OK;
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

static tn_status check_replacement(const struct tn_joint *j, const struct tn_landing *l, struct tn_error *err)
{
	const struct tn_target *t = &j->targets[l->target];
	const struct tn_slot *slot = &j->slots[l->slot];
	if (!t->replacement || t->replacer == slot->adapter)
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' replaces '%.100s', and '%.80s' of another adapter was trained on what "
		       "stood there before", t->replacer->path, t->name, slot->entry->module.path);
}

/* mlx-lm's delta on a tied table is the head's too; a head that another adapter unties would lose it. */
static tn_status check_ties(const struct tn_joint *j, const struct tn_landing *l, struct tn_error *err)
{
	int untied = 0;
	for (size_t i = 0; i < j->edit_count; i++)
		untied |= strcmp(j->edits[i].key, "tie_word_embeddings") == 0 && j->edits[i].value == 0;
	const struct tn_slot *slot = &j->slots[l->slot];
	if (!untied || l->target != j->embedding || slot->adapter->config.dialect != TN_DIALECT_MLX_LM)
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, j->targets[l->target].name, "'%.100s' changes embedding and head together, and another "
		       "adapter only one of the two; fuse one, and then the other into the result", slot->adapter->path);
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
		if (!fit(j, a, b))
			return refuse(j, a, b, err);
		TN_TRY(stack_slots(j, a->slot, b->slot, &a->slot, err));
	}
	j->landing_count = n;
	return TN_OK;
}
