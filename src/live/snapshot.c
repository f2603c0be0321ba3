/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots: made whole, published by one pointer, counted, never changed. */
#include "live/live.h"

#include "base/error.h"

#include <string.h>

/* ---- the default set ------------------------------------------------------------------------------------- */

static size_t first_patch(const struct tn_edits *e, size_t expert)
{
	return e->first ? e->first[expert] : expert ? e->count : 0;
}

/* What several adapters do to one module: their patches, expert by expert. Only plain products meet. */
static tn_status join_edits(struct tn_snapshot *s, size_t module, size_t patch_count, const struct tn_edits **out,
			    struct tn_error *err)
{
	const struct tn_linear *l = &s->live->modules[module].linear;
	size_t experts = l->experts ? (size_t)l->experts : 1, n = 0;
	struct tn_edits *e;
	struct tn_patch *patches;
	size_t *first;
	TN_TRY(tn_arena_alloc(&s->arena, sizeof *e, &e, err));
	TN_TRY(tn_arena_array(&s->arena, patch_count, sizeof *patches, &patches, err));
	TN_TRY(tn_arena_array(&s->arena, experts + 1, sizeof *first, &first, err));
	s->bytes += sizeof *e + patch_count * sizeof *patches + (experts + 1) * sizeof *first;
	for (size_t x = 0; x < experts; x++) {
		for (size_t i = 0; i < s->enabled_count; i++) {
			const struct tn_edits *from = s->enabled[i]->edits[module];
			if (!from)
				continue;
			size_t begin = first_patch(from, x), end = first_patch(from, x + 1);
			if (end > begin)
				memcpy(patches + n, from->patches + begin, (end - begin) * sizeof *patches);
			n += end - begin;
			if (from->replacement)
				e->replacement = from->replacement;
		}
		first[x + 1] = n;
		size_t rank = tn_patches_rank(patches + first[x], n - first[x]);
		e->rank = rank > e->rank ? rank : e->rank;
	}
	e->patches = patches;
	e->first = first;
	e->count = n;
	*out = e;
	return TN_OK;
}

static tn_status set_edits(struct tn_snapshot *s, size_t module, struct tn_error *err)
{
	size_t count = 0, patch_count = 0;
	for (size_t i = 0; i < s->enabled_count; i++) {
		const struct tn_edits *e = s->enabled[i]->edits[module];
		if (!e)
			continue;
		s->edits[module] = e;
		patch_count += e->count;
		count++;
	}
	return count < 2 ? TN_OK : join_edits(s, module, patch_count, &s->edits[module], err);
}

static const struct tn_own_tensor *own_tensor(const struct tn_attached *a, size_t tensor)
{
	size_t low = 0, high = a->tensor_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (a->tensors[middle].tensor == tensor)
			return &a->tensors[middle];
		if (a->tensors[middle].tensor < tensor)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* A second adapter on the same tensor: both only add, or the set was refused. */
static tn_status add_tensor(struct tn_snapshot *s, const struct tn_own_tensor *own, struct tn_error *err)
{
	const struct tn_live_tensor *t = &s->live->tensors[own->tensor];
	const float *before = s->tensors[own->tensor];
	float *sum;
	if (before == t->values || !own->added) { /* the first */
		s->tensors[own->tensor] = own->values;
		return TN_OK;
	}
	TN_TRY(tn_arena_array(&s->arena, (size_t)t->elements, sizeof *sum, &sum, err));
	s->bytes += t->elements * sizeof *sum;
	for (size_t i = 0; i < t->elements; i++)
		sum[i] = before[i] + own->added[i];
	s->tensors[own->tensor] = sum;
	return TN_OK;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		hash = (hash ^ (value >> 8 * i & 0xFF)) * 0x100000001B3u;
	return hash;
}

static const uint64_t base_identity = 0xCBF29CE484222325u;

static tn_status settle_default(struct tn_snapshot *s, struct tn_error *err)
{
	const struct tn_live *live = s->live;
	TN_TRY(tn_arena_array(&s->arena, live->module_count, sizeof *s->edits, &s->edits, err));
	size_t tensors = live->tensor_count + live->module_count;
	TN_TRY(tn_arena_array(&s->arena, tensors, sizeof *s->tensors, &s->tensors, err));
	s->bytes += live->module_count * sizeof *s->edits + tensors * sizeof *s->tensors;
	s->identity = base_identity;
	for (size_t i = 0; i < tensors; i++)
		s->tensors[i] = live->tensors[i].values;
	TN_TRY(tn_arena_array(&s->arena, s->count, sizeof *s->enabled, &s->enabled, err));
	for (size_t i = 0; i < s->count; i++)
		if (s->entries[i].enabled)
			s->enabled[s->enabled_count++] = s->entries[i].attached;
	for (size_t i = 0; i < live->module_count && s->enabled_count; i++)
		TN_TRY(set_edits(s, i, err));
	for (size_t i = 0; i < s->enabled_count; i++) {
		for (size_t t = 0; t < s->enabled[i]->tensor_count; t++)
			TN_TRY(add_tensor(s, &s->enabled[i]->tensors[t], err));
		s->identity = mix(s->identity, s->enabled[i]->serial);
	}
	return TN_OK;
}

/* ---- making ---------------------------------------------------------------------------------------------- */

static void destroy(struct tn_snapshot *s)
{
	for (size_t i = 0; s->merged && i < s->live->module_count; i++)
		tn_merged_release(s->live->ctx, s->merged[i]);
	for (size_t i = 0; i < s->count; i++)
		tn_attached_release(s->entries[i].attached);
	struct tn_arena arena = s->arena;
	tn_arena_release(&arena);
}

/* Merged modules stand in for what the set does to them. What they compute is rounded as a fuse rounds, so it counts as
 * another set. */
static tn_status take_merged(struct tn_snapshot *s, struct tn_merged *const *merged, struct tn_error *err)
{
	size_t n = s->live->module_count, count = 0;
	for (size_t i = 0; merged && i < n; i++)
		count += merged[i] != NULL;
	if (!count)
		return TN_OK;
	TN_TRY(tn_arena_array(&s->arena, n, sizeof *s->merged, &s->merged, err));
	s->bytes += n * sizeof *s->merged;
	for (size_t i = 0; i < n; i++) {
		if (!merged[i])
			continue;
		atomic_fetch_add_explicit(&merged[i]->references, 1, memory_order_relaxed);
		s->merged[i] = merged[i];
		s->edits[i] = &merged[i]->edits;
		s->bytes += merged[i]->memory.bytes;
		s->identity = mix(s->identity, ~(uint64_t)i); /* no adapter's number */
	}
	return TN_OK;
}

tn_status tn_snapshot_make(struct tn_live *live, const struct tn_snapshot_entry *entries, size_t count,
			   struct tn_merged *const *merged, struct tn_snapshot **out, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_snapshot *s;
	tn_arena_init(&arena, live->ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *s, &s, err));
	atomic_init(&s->references, 1);
	s->live = live;
	s->arena = arena;
	s->bytes = sizeof *s + count * (sizeof *entries + sizeof *s->enabled);
	tn_status status = tn_arena_array(&s->arena, count, sizeof *s->entries, &s->entries, err);
	for (; status == TN_OK && s->count < count; s->count++) {
		s->entries[s->count] = entries[s->count];
		atomic_fetch_add_explicit(&entries[s->count].attached->references, 1, memory_order_relaxed);
	}
	if (status == TN_OK)
		status = settle_default(s, err);
	if (status == TN_OK)
		status = take_merged(s, merged, err);
	if (status != TN_OK) {
		destroy(s);
		return status;
	}
	*out = s;
	return TN_OK;
}

void tn_live_publish(struct tn_live *live, struct tn_snapshot *snapshot)
{
	pthread_mutex_lock(&live->publish);
	struct tn_snapshot *old = live->current;
	live->current = snapshot;
	pthread_mutex_unlock(&live->publish);
	tn_snapshot_release(old);
}

/* The pointer and the count have to change together, so that nobody frees in between; nothing else happens in there. */
tn_snapshot *tn_live_snapshot(tn_live *live)
{
	pthread_mutex_lock(&live->publish);
	struct tn_snapshot *s = live->current;
	atomic_fetch_add_explicit(&s->references, 1, memory_order_relaxed);
	pthread_mutex_unlock(&live->publish);
	return s;
}

/* Freeing an adapter takes as long as giving many megabytes back to the system takes: the last one to let a snapshot go only
 * puts it aside. */
void tn_snapshot_release(tn_snapshot *snapshot)
{
	if (!snapshot || atomic_fetch_sub_explicit(&snapshot->references, 1, memory_order_acq_rel) != 1)
		return;
	struct tn_live *live = snapshot->live;
	struct tn_snapshot *first = atomic_load_explicit(&live->retired, memory_order_relaxed);
	do
		snapshot->next = first;
	while (!atomic_compare_exchange_weak_explicit(&live->retired, &first, snapshot, memory_order_release,
						      memory_order_relaxed));
}

void tn_live_free_retired(struct tn_live *live)
{
	struct tn_snapshot *s = atomic_exchange_explicit(&live->retired, NULL, memory_order_acquire), *next;
	for (; s; s = next) {
		next = s->next;
		destroy(s);
	}
}

void tn_live_collect(tn_live *live)
{
	tn_factor_store_keep(&live->store, 0);
	tn_live_free_retired(live);
}

/* ---- looking --------------------------------------------------------------------------------------------- */

size_t tn_snapshot_count(const tn_snapshot *snapshot)
{
	return snapshot->count;
}

void tn_snapshot_at(const tn_snapshot *snapshot, size_t i, struct tn_attachment *out)
{
	const struct tn_snapshot_entry *e = &snapshot->entries[i];
	*out = (struct tn_attachment){ e->attached->name, e->attached->weight, e->enabled, e->attached->bytes };
}

size_t tn_snapshot_adapter(const tn_snapshot *snapshot, const char *name)
{
	for (size_t i = 0; i < snapshot->count; i++)
		if (strcmp(snapshot->entries[i].attached->name, name) == 0)
			return i;
	return TN_LIVE_NONE;
}

uint64_t tn_snapshot_identity(const tn_snapshot *snapshot, size_t adapter)
{
	if (adapter == TN_LIVE_DEFAULT)
		return snapshot->identity;
	return adapter == TN_LIVE_BASE ? base_identity : mix(base_identity, snapshot->entries[adapter].attached->serial);
}

uint64_t tn_snapshot_bytes(const tn_snapshot *snapshot)
{
	return snapshot->bytes;
}

const struct tn_edits *tn_snapshot_edits(const struct tn_snapshot *snapshot, size_t module, size_t adapter)
{
	if (adapter == TN_LIVE_DEFAULT)
		return snapshot->edits[module];
	return adapter == TN_LIVE_BASE ? NULL : snapshot->entries[adapter].attached->edits[module];
}

const float *tn_snapshot_tensor(const tn_snapshot *snapshot, size_t tensor, size_t adapter, uint64_t *elements)
{
	const struct tn_live_tensor *t = &snapshot->live->tensors[tensor];
	const struct tn_own_tensor *own = NULL;
	if (elements)
		*elements = t->elements;
	if (adapter == TN_LIVE_DEFAULT)
		return snapshot->tensors[tensor];
	if (adapter != TN_LIVE_BASE)
		own = own_tensor(snapshot->entries[adapter].attached, tensor);
	return own ? own->values : t->values;
}
