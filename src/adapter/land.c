/* SPDX-License-Identifier: Apache-2.0 */
/* Every module of the adapter lands on one tensor of the base, or the error says which one could not and why. */
#include "adapter/adapter.h"

#include "base/error.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 1024 };

/* ---- the nearest name, for messages ---------------------------------------------------------------------- */

/* How many of their last dotted parts two names share. */
static int shared_tail(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	int parts = 0;
	while (n && m && a[n - 1] == b[m - 1]) {
		n--;
		m--;
		if (n == 0 || m == 0 || a[n - 1] == '.' || b[m - 1] == '.')
			parts += (n == 0 || a[n - 1] == '.') && (m == 0 || b[m - 1] == '.');
	}
	return parts;
}

static size_t shared_head(const char *a, const char *b)
{
	size_t n = 0;
	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

/* The matrix of the base whose name is most like `weight`: most shared last parts, then the longest shared beginning. */
static const struct tn_tensor *nearest(const tn_checkpoint *base, const char *weight)
{
	const struct tn_tensor *best = NULL;
	int best_tail = -1;
	size_t best_head = 0;
	for (size_t i = 0; i < tn_checkpoint_count(base); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(base, i);
		if (t->rank < 2)
			continue;
		int tail = shared_tail(t->name, weight);
		size_t head = shared_head(t->name, weight);
		if (tail > best_tail || (tail == best_tail && head > best_head)) {
			best = t;
			best_tail = tail;
			best_head = head;
		}
	}
	return best;
}

static tn_status fail_missing(const tn_checkpoint *base, const char *path, const char *weight, struct tn_error *err)
{
	const struct tn_tensor *near = nearest(base, weight);
	if (!near)
		return tn_fail(err, TN_E_MISMATCH, path, "the adapter changes '%.100s', and the base '%.60s' has no matrices", path,
			       tn_checkpoint_path(base));
	return tn_fail(err, TN_E_MISMATCH, path,
		       "the adapter changes '%.80s', and the base has no '%.90s'; the nearest it has is '%.90s'. The adapter was "
		       "trained on another base, or its names have another prefix", path, weight, near->name);
}

/* ---- landing --------------------------------------------------------------------------------------------- */

static tn_status check_shape(const struct tn_adapter_module *m, const struct tn_tensor *w, struct tn_error *err)
{
	if (w->rank != 2)
		return tn_fail(err, TN_E_MISMATCH, m->path, "'%.100s' has %u dimensions in the base; a matrix was expected",
			       w->name, w->rank);
	if (w->dtype != TN_F32 && w->dtype != TN_F16 && w->dtype != TN_BF16)
		return tn_fail(err, TN_E_UNSUPPORTED, m->path, "'%.100s' has the dtype %s in the base; tenon fuses into F32, F16 "
			       "and BF16 as yet", w->name, tn_dtype_name(w->dtype));
	if (w->shape[1] != m->in_features)
		return tn_fail(err, TN_E_MISMATCH, m->path,
			       "%.100s: A is [%llu, %llu], the base is [%llu, %llu], so in = %llu was expected; the adapter was "
			       "trained on another base", m->path, (unsigned long long)m->rank,
			       (unsigned long long)m->in_features, (unsigned long long)w->shape[0],
			       (unsigned long long)w->shape[1], (unsigned long long)w->shape[1]);
	if (w->shape[0] != m->out_features)
		return tn_fail(err, TN_E_MISMATCH, m->path,
			       "%.100s: B is [%llu, %llu], the base is [%llu, %llu], so out = %llu was expected; the adapter was "
			       "trained on another base", m->path, (unsigned long long)m->out_features,
			       (unsigned long long)m->rank, (unsigned long long)w->shape[0],
			       (unsigned long long)w->shape[1], (unsigned long long)w->shape[0]);
	return TN_OK;
}

static tn_status land_one(const struct tn_adapter_entry *entry, const tn_checkpoint *base, struct tn_landing *out,
			  struct tn_error *err)
{
	char name[LONGEST_NAME];
	const char *path = entry->module.path;
	if ((size_t)snprintf(name, sizeof name, "%s.weight", path) >= sizeof name)
		return tn_fail(err, TN_E_LIMIT, path, "the name of a module is longer than %d bytes", LONGEST_NAME);
	const struct tn_tensor *weight = tn_checkpoint_find(base, name);
	if (!weight)
		return fail_missing(base, path, name, err);
	TN_TRY(check_shape(&entry->module, weight, err));
	*out = (struct tn_landing){ entry, weight };
	return TN_OK;
}

static int compare_landings(const void *a, const void *b)
{
	return strcmp(((const struct tn_landing *)a)->weight->name, ((const struct tn_landing *)b)->weight->name);
}

tn_status tn_adapter_land(const tn_adapter *adapter, const tn_checkpoint *base, struct tn_arena *arena,
			  struct tn_landing **out, struct tn_error *err)
{
	struct tn_landing *landings;
	TN_TRY(tn_arena_array(arena, adapter->count, sizeof *landings, &landings, err));
	for (size_t i = 0; i < adapter->count; i++)
		TN_TRY(land_one(&adapter->entries[i], base, &landings[i], err));
	qsort(landings, adapter->count, sizeof *landings, compare_landings);
	for (size_t i = 1; i < adapter->count; i++)
		if (landings[i - 1].weight == landings[i].weight)
			return tn_fail(err, TN_E_MISMATCH, landings[i].weight->name,
				       "'%.100s' and '%.100s' both change '%.100s'", landings[i - 1].entry->module.path,
				       landings[i].entry->module.path, landings[i].weight->name);
	*out = landings;
	return TN_OK;
}
