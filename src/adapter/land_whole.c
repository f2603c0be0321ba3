/* SPDX-License-Identifier: Apache-2.0 */
/* Whole tensors, rows of tables, layers that stand several times, and what becomes of tied embeddings. */
#include "adapter/land.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"
#include "weights/head_copy.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST_NAME = 1024 };

/* ---- whole tensors --------------------------------------------------------------------------------------- */

static int same_shape(const struct tn_tensor *a, const struct tn_tensor *b)
{
	return a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

static tn_status module_of(const char *name, char module[LONGEST_NAME], struct tn_error *err)
{
	const char *dot = strrchr(name, '.');
	if (dot && dot - name >= LONGEST_NAME)
		return tn_fail(err, TN_E_LIMIT, name, "the name of a module, '%.100s...', is longer than %d bytes", name,
			       (int)LONGEST_NAME);
	snprintf(module, LONGEST_NAME, "%.*s", dot ? (int)(dot - name) : 0, name);
	return TN_OK;
}

static tn_status is_saved_module(const struct tn_adapter_config *c, const char *module, int *saved, struct tn_error *err)
{
	*saved = 0;
	for (size_t i = 0; i < c->saved.count && !*saved; i++)
		TN_TRY(tn_saved_covers(c, i, module, saved, err));
	return TN_OK;
}

/* A vocabulary may grow or shrink with the adapter; nothing else may change its shape. */
static tn_status check_replacement(struct tn_joint *j, const struct tn_target *t, const struct tn_tensor *new,
				   const char *module, struct tn_error *err)
{
	int peft = j->adapter->config.dialect == TN_DIALECT_PEFT;
	/* PEFT trains beside a dense copy, which is quantized now; mlx-lm trains the packed tensors themselves */
	const struct tn_tensor *old = t->logical && peft && new->dtype != TN_U32 ? t->logical : t->base;
	int floats = tn_dtype_is_float(old->dtype) && tn_dtype_is_float(new->dtype);
	int resized = old->rank == 2 && new->rank == 2 && old->shape[1] == new->shape[1] && new->shape[0] > 0 &&
		      (tn_path_is_embedding(module) || tn_path_is_head(module)) && peft;
	if (old->dtype != new->dtype && (!floats || (old->dtype != TN_F32 && old->dtype != TN_F16 && old->dtype != TN_BF16)))
		return tn_fail(err, TN_E_MISMATCH, new->name, "'%.100s' has the dtype %s, and the base's '%.100s' %s", new->name,
			       tn_dtype_name(new->dtype), t->name, tn_dtype_name(old->dtype));
	if (same_shape(old, new))
		return TN_OK;
	if (!resized)
		return tn_fail(err, TN_E_MISMATCH, new->name, "'%.100s' has another shape than the base's '%.100s': %u dimensions, "
			       "the first %llu, against %u and %llu; the adapter was trained on another base", new->name, t->name,
			       new->rank, new->rank ? (unsigned long long)new->shape[0] : 0ULL, old->rank,
			       old->rank ? (unsigned long long)old->shape[0] : 0ULL);
	return tn_joint_edit_config(j, "vocab_size", 0, new->shape[0], err);
}

/* A classifier on top of a model that came without one. */
static tn_status add_saved(struct tn_joint *j, const struct tn_adapter_entry *e, size_t *target, struct tn_error *err)
{
	TN_TRY(tn_joint_add_target(j, e->module.path, NULL, target, err));
	j->targets[*target].is_new = 1;
	tn_logf(j->adapter->ctx, TN_LOG_WARNING, "'%s' is new: the base has no such tensor, and a program that loads the result "
		"has to know the class that has it", e->module.path);
	return TN_OK;
}

tn_status tn_joint_land_saved(struct tn_joint *j, const struct tn_adapter_entry *e, size_t *target, struct tn_error *err)
{
	const char *name = e->module.path;
	char module[LONGEST_NAME];
	int saved;
	TN_TRY(module_of(name, module, err));
	TN_TRY(is_saved_module(&j->adapter->config, module, &saved, err));
	*target = tn_joint_find(j, name);
	if (*target == TN_NO_TARGET && j->tied && tn_path_is_head(module) && tn_ends_with(name, ".weight") &&
	    j->adapter->config.dialect == TN_DIALECT_PEFT)
		TN_TRY(tn_joint_untie(j, module, target, err));
	else if (*target == TN_NO_TARGET && saved)
		TN_TRY(add_saved(j, e, target, err));
	if (*target == TN_NO_TARGET)
		return tn_joint_fail_missing(j, name, name, err);
	struct tn_target *t = &j->targets[*target];
	if (t->replacement)
		return tn_fail(err, TN_E_MISMATCH, name, "'%.100s' and '%.100s' both replace '%.100s'", t->replacement->name,
			       e->values->name, t->name);
	if (t->base)
		TN_TRY(check_replacement(j, t, e->values, module, err));
	if (j->weight != 1)
		return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.100s' replaces a whole tensor, and that cannot be done by a "
			       "weight of %g; give the adapter the weight 1", name, j->weight);
	t->replacement = e->values;
	t->replacer = j->adapter;
	t->is_saved = saved;
	return TN_OK;
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

static tn_status land_rows(struct tn_joint *j, size_t slot, size_t target, struct tn_error *err)
{
	const struct tn_token_rule *tokens = j->slots[slot].entry->tokens;
	for (size_t i = 0; i < tokens->count; i++)
		TN_TRY(tn_joint_add_landing(j, target, slot, tokens->indices[i], i, 1, err));
	return TN_OK;
}

tn_status tn_joint_land_tokens(struct tn_joint *j, const struct tn_adapter_entry *e, size_t *target, struct tn_error *err)
{
	char name[LONGEST_NAME];
	size_t slot;
	if ((size_t)snprintf(name, sizeof name, "%s.weight", e->module.path) >= sizeof name)
		return tn_fail(err, TN_E_LIMIT, e->module.path, "the name of a module, '%.100s...', is longer than %d bytes",
			       e->module.path, (int)LONGEST_NAME);
	*target = tn_joint_find(j, name);
	if (*target == TN_NO_TARGET && j->tied && tn_path_is_head(e->module.path))
		TN_TRY(tn_joint_untie(j, e->module.path, target, err));
	if (*target == TN_NO_TARGET)
		return tn_joint_fail_missing(j, e->module.path, name, err);
	const struct tn_tensor *w = tn_target_source(&j->targets[*target]);
	if (w->rank != 2 || w->shape[1] != e->values->shape[1])
		return tn_fail(err, TN_E_MISMATCH, e->module.path, "'%.100s' has rows of %llu, and '%.100s' has others",
			       e->values->name, (unsigned long long)e->values->shape[1], w->name);
	for (size_t i = 0; i < e->tokens->count; i++)
		if (e->tokens->indices[i] >= w->shape[0])
			return tn_fail(err, TN_E_MISMATCH, e->module.path, "trainable_token_indices names the token %llu, and "
				       "'%.100s' has %llu", (unsigned long long)e->tokens->indices[i], w->name,
				       (unsigned long long)w->shape[0]);
	tn_dtype dtype = tn_target_dtype(&j->targets[*target]);
	if (dtype != TN_F32 && dtype != TN_F16 && dtype != TN_BF16)
		return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.100s' has the dtype %s in the base; tenon replaces "
			       "rows of F32, F16 and BF16 as yet", w->name, tn_dtype_name(dtype));
	TN_TRY(tn_joint_add_slot(j, e, TN_SLOT_TOKENS, NULL, *target, w->shape[1], &slot, err));
	return land_rows(j, slot, *target, err);
}

/* ---- ties ------------------------------------------------------------------------------------------------ */

static int has_delta(const struct tn_joint *j, size_t target)
{
	for (size_t i = 0; i < j->landing_count; i++)
		if (j->landings[i].target == target && j->slots[j->landings[i].slot].kind == TN_SLOT_DELTA)
			return 1;
	return 0;
}

static int has_own_rows(const struct tn_joint *j, size_t target)
{
	for (size_t i = j->own_landings; i < j->landing_count; i++)
		if (j->landings[i].target == target && j->slots[j->landings[i].slot].kind == TN_SLOT_TOKENS)
			return 1;
	return 0;
}

static void share_replacement(const struct tn_target *from, struct tn_target *to)
{
	if (to->replacement || !from->replacement || from->is_saved)
		return;
	to->replacement = from->replacement;
	to->replacer = from->replacer;
}

/* Rows of the table are the head's too, unless it has some of its own. What replaces the shared tensor, under whichever name, and
 * not one module's copy of it, is for both. */
static tn_status share_with_head(struct tn_joint *j, size_t head, struct tn_error *err)
{
	share_replacement(&j->targets[j->embedding], &j->targets[head]);
	share_replacement(&j->targets[head], &j->targets[j->embedding]);
	size_t count = has_own_rows(j, head) ? 0 : j->landing_count;
	for (size_t i = j->own_landings; i < count; i++) {
		size_t slot = j->landings[i].slot;
		if (j->landings[i].target != j->embedding || j->slots[slot].kind != TN_SLOT_TOKENS)
			continue;
		if (has_delta(j, head))
			return tn_fail(err, TN_E_UNSUPPORTED, j->targets[head].name, "the adapter has factors for '%.100s' and "
				       "rows (trainable_token_indices) for '%.100s', which is tied to it; the two cannot be merged "
				       "into one weight (PEFT does not do it either)", j->targets[head].name,
				       j->targets[j->embedding].name);
		TN_TRY(tn_joint_add_landing(j, head, slot, j->landings[i].target_row, j->landings[i].delta_row,
					    j->landings[i].rows, err));
	}
	return TN_OK;
}

/* The adapter that is landing changes the target. */
static int lands_on(const struct tn_joint *j, size_t target)
{
	for (size_t i = j->own_landings; i < j->landing_count; i++)
		if (j->landings[i].target == target)
			return 1;
	return j->targets[target].replacement && j->targets[target].replacer == j->adapter;
}

/* A head that config.json ties may stand in the file too: one that differs cannot be told from one that is meant, unless both are
 * replaced, and mlx-lm, which does not read it, has no adapters for it. */
static tn_status check_copy(struct tn_joint *j, struct tn_error *err)
{
	if (j->head == TN_NO_TARGET || j->targets[j->head].is_new || (!lands_on(j, j->embedding) && !lands_on(j, j->head)))
		return TN_OK;
	const char *embedding = j->targets[j->embedding].name, *head = j->targets[j->head].name;
	if (lands_on(j, j->head) && j->adapter->config.dialect == TN_DIALECT_MLX_LM)
		return tn_fail(err, TN_E_MISMATCH, head, "the adapter changes '%.100s', and config.json ties the head to '%.100s': "
			       "mlx-lm reads no head of its own then; set tie_word_embeddings to false in the base, if that is "
			       "what the adapter was trained on", head, embedding);
	if (j->targets[j->embedding].replacement && j->targets[j->head].replacement)
		return TN_OK;
	if (!j->is_copy_checked && !j->base->is_consumed) /* its bytes may be gone, and were looked at before */
		TN_TRY(tn_check_head_copy(j->base, embedding, head, err));
	j->is_copy_checked = 1;
	return TN_OK;
}

/* In mlx-lm the adapted table is the head as well, so the tie stays. In PEFT the two are modules of their own: where only
 * one is adapted, the other keeps its weight, although PEFT's merge changes both. */
tn_status tn_joint_settle_ties(struct tn_joint *j, struct tn_error *err)
{
	size_t head = j->head;
	if (j->tied)
		TN_TRY(check_copy(j, err));
	if (!j->tied || j->adapter->config.dialect != TN_DIALECT_PEFT)
		return TN_OK;
	int head_is_apart = head != TN_NO_TARGET && (has_delta(j, head) || has_own_rows(j, head) ||
						     j->targets[head].replacement || j->targets[head].is_new);
	const struct tn_target *embedding = &j->targets[j->embedding];
	if (!has_delta(j, j->embedding) && !(embedding->replacement && embedding->is_saved) && !head_is_apart)
		return TN_OK;
	TN_TRY(tn_joint_untie(j, NULL, &head, err));
	return share_with_head(j, head, err);
}

int tn_joint_is_untied(const struct tn_joint *j)
{
	int untied = 0;
	for (size_t i = 0; i < j->edit_count; i++)
		untied |= strcmp(j->edits[i].key, "tie_word_embeddings") == 0 && j->edits[i].value == 0;
	return untied;
}

void tn_joint_drop_copy(struct tn_joint *j)
{
	const struct tn_target *embedding = j->embedding == TN_NO_TARGET ? NULL : &j->targets[j->embedding];
	struct tn_target *head = j->head == TN_NO_TARGET ? NULL : &j->targets[j->head];
	if (!j->tied || !embedding || !head || head->is_new || tn_joint_is_untied(j))
		return;
	head->is_dropped = (embedding->landing_count || embedding->replacement) && !head->landing_count && !head->replacement;
}

/* ---- layer_replication ----------------------------------------------------------------------------------- */

/* The container of the decoder's layers: of those in the base, the one whose name ends as the adapter's paths begin. */
static const char *find_container(const struct tn_joint *j, size_t *bytes)
{
	const char *best = NULL;
	uint64_t number;
	size_t n, m, wanted_bytes = 0;
	const char *wanted = NULL;
	for (size_t i = 0; i < j->adapter->count && !wanted; i++)
		if (tn_path_in_layer(j->adapter->entries[i].module.path, &number, &wanted_bytes))
			wanted = j->adapter->entries[i].module.path;
	for (size_t i = 0; i < tn_checkpoint_count(j->base); i++) {
		const char *name = tn_checkpoint_at(j->base, i)->name;
		if (!tn_path_in_layer(name, &number, &n))
			continue;
		m = n < wanted_bytes ? n : wanted_bytes;
		int fits = wanted && memcmp(name + n - m, wanted + wanted_bytes - m, m) == 0;
		if (!best || (fits && n >= *bytes)) {
			best = name;
			*bytes = n;
		}
		if (fits && n == wanted_bytes)
			return best;
	}
	return best;
}

static tn_status add_replica(struct tn_joint *j, const char *container, size_t bytes, uint64_t from, uint64_t to,
			     size_t *found, struct tn_error *err)
{
	for (size_t i = 0; i < tn_checkpoint_count(j->base); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(j->base, i);
		const char *name, *rest;
		uint64_t number;
		size_t n, at;
		if (!(rest = tn_path_in_layer(t->name, &number, &n)) || n != bytes || memcmp(t->name, container, n) != 0 ||
		    number != from)
			continue;
		TN_TRY(tn_arena_printf(j->arena, &name, err, "%.*s%llu.%s", (int)n, container, (unsigned long long)to, rest));
		TN_TRY(tn_joint_add_target(j, name, t, &at, err));
		j->targets[at].is_new = strcmp(name, t->name) != 0;
		(*found)++;
	}
	return TN_OK;
}

tn_status tn_joint_replicate(struct tn_joint *j, struct tn_error *err)
{
	const struct tn_adapter_config *c = &j->adapter->config;
	size_t bytes = 0, at;
	const char *container = find_container(j, &bytes);
	uint64_t layers = 0;
	if (!container)
		return tn_fail(err, TN_E_MISMATCH, "layer_replication", "the base '%.100s' has no layers that could be repeated",
			       tn_checkpoint_path(j->base));
	for (size_t i = 0; i < tn_checkpoint_count(j->base); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(j->base, i);
		uint64_t number;
		size_t n;
		if (tn_path_in_layer(t->name, &number, &n) && n == bytes && memcmp(t->name, container, n) == 0)
			continue;
		TN_TRY(tn_joint_add_target(j, t->name, t, &at, err));
	}
	for (size_t i = 0; i < c->replication_count; i++)
		for (uint64_t from = c->replication[i].begin; from < c->replication[i].end; from++) {
			size_t found = 0;
			TN_TRY(add_replica(j, container, bytes, from, layers++, &found, err));
			if (!found)
				return tn_fail(err, TN_E_MISMATCH, "layer_replication", "the base has no layer '%.*s%llu', which "
					       "layer_replication names", (int)bytes, container, (unsigned long long)from);
		}
	return tn_joint_edit_config(j, "num_hidden_layers", 0, layers, err);
}
