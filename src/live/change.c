/* SPDX-License-Identifier: Apache-2.0 */
/* Attaching, detaching, enabling, swapping: a new list of adapters, a snapshot of it, one pointer replaced. */
#include "adapter/land.h"
#include "live/live.h"

#include "base/error.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The list that is to become the present one. */
struct draft {
	struct tn_live *live;
	struct tn_snapshot_entry *entries;
	size_t count, room;
};

static tn_status begin(struct tn_live *live, struct draft *d, struct tn_error *err)
{
	const struct tn_snapshot *now = live->current; /* changes with `change` held only */
	*d = (struct draft){ .live = live, .count = now->count, .room = now->count + 1 };
	TN_TRY(tn_alloc_array(live->ctx, d->room, sizeof *d->entries, "adapters", &d->entries, err));
	if (now->count)
		memcpy(d->entries, now->entries, now->count * sizeof *d->entries);
	return TN_OK;
}

static void end(struct draft *d)
{
	tn_free_array(d->live->ctx, d->entries, d->room, sizeof *d->entries);
}

static size_t find(const struct draft *d, const char *name)
{
	for (size_t i = 0; i < d->count; i++)
		if (strcmp(d->entries[i].attached->name, name) == 0)
			return i;
	return TN_LIVE_NONE;
}

static tn_status find_or_fail(const struct draft *d, const char *name, size_t *out, struct tn_error *err)
{
	*out = find(d, name);
	if (*out != TN_LIVE_NONE)
		return TN_OK;
	return tn_fail(err, TN_E_NOTFOUND, name, "no adapter '%.100s' is attached; there are %zu", name, d->count);
}

/* What the default set may not add up is what a fuse may not. */
static tn_status check_set(const struct draft *d, struct tn_error *err)
{
	struct tn_weighted_adapter *set;
	struct tn_arena arena;
	struct tn_joint *joint;
	size_t n = 0;
	tn_arena_init(&arena, d->live->ctx);
	tn_status status = tn_arena_array(&arena, d->count, sizeof *set, &set, err);
	for (size_t i = 0; i < d->count && status == TN_OK; i++)
		if (d->entries[i].enabled)
			set[n++] = (struct tn_weighted_adapter){ d->entries[i].attached->adapter, d->entries[i].attached->weight };
	if (status == TN_OK && n > 1)
		status = tn_live_land(d->live, set, n, &arena, &joint, err);
	tn_arena_release(&arena);
	return status;
}

/* While modules are merged the default set stays as it is. */
static tn_status check_merged(const struct draft *d, const char *name, struct tn_error *err)
{
	if (!d->live->current->merged)
		return TN_OK;
	return tn_fail(err, TN_E_ARG, name,
		       "'%.100s' would change the default set, which is merged; call tn_live_unmerge first", name);
}

static tn_status publish(const struct draft *d, struct tn_error *err)
{
	struct tn_snapshot *made;
	TN_TRY(tn_snapshot_make(d->live, d->entries, d->count, d->live->current->merged, &made, err));
	tn_live_publish(d->live, made);
	return TN_OK;
}

/* ---- the changes ----------------------------------------------------------------------------------------- */

/* Puts a new adapter at place `at` of the draft, and publishes. */
static tn_status put(struct draft *d, size_t at, const char *name, const tn_adapter *adapter, double weight, int enabled,
		     struct tn_error *err)
{
	struct tn_attached *attached;
	size_t taken = find(d, name);
	if (!(fabs(weight) <= (double)FLT_MAX))
		return tn_fail(err, TN_E_ARG, name, "the weight of '%.100s' is %g; a finite number was expected", name, weight);
	if (taken != TN_LIVE_NONE && taken != at)
		return tn_fail(err, TN_E_EXISTS, name, "an adapter '%.100s' is attached already; detach it, or swap it", name);
	if (enabled)
		TN_TRY(check_merged(d, name, err));
	TN_TRY(tn_attached_make(d->live, name, adapter, weight, &attached, err));
	d->entries[at] = (struct tn_snapshot_entry){ attached, enabled };
	d->count += at == d->count;
	tn_status status = enabled ? check_set(d, err) : TN_OK;
	if (status == TN_OK)
		status = publish(d, err);
	tn_attached_release(attached);
	return status;
}

static tn_status attach(struct tn_live *live, const char *name, const tn_adapter *adapter, double weight, int enabled,
			struct tn_error *err)
{
	struct draft d;
	pthread_mutex_lock(&live->change);
	tn_status status = begin(live, &d, err);
	if (status == TN_OK) {
		status = put(&d, d.count, name, adapter, weight, enabled, err);
		end(&d);
	}
	pthread_mutex_unlock(&live->change);
	tn_live_free_retired(live);
	return status;
}

tn_status tn_live_attach(tn_live *live, const char *name, const tn_adapter *adapter, double weight, struct tn_error *err)
{
	return attach(live, name, adapter, weight, 1, err);
}

tn_status tn_live_attach_disabled(tn_live *live, const char *name, const tn_adapter *adapter, double weight,
				  struct tn_error *err)
{
	return attach(live, name, adapter, weight, 0, err);
}

tn_status tn_live_swap(tn_live *live, const char *old_name, const char *name, const tn_adapter *adapter, double weight,
		       struct tn_error *err)
{
	struct draft d;
	size_t at;
	pthread_mutex_lock(&live->change);
	tn_factor_store_keep(&live->store, 1);
	tn_status status = begin(live, &d, err);
	if (status == TN_OK) {
		status = find_or_fail(&d, old_name, &at, err);
		if (status == TN_OK)
			status = put(&d, at, name, adapter, weight, d.entries[at].enabled, err);
		end(&d);
	}
	pthread_mutex_unlock(&live->change);
	tn_live_free_retired(live);
	return status;
}

static tn_status detach(struct draft *d, const char *name, struct tn_error *err)
{
	size_t at;
	TN_TRY(find_or_fail(d, name, &at, err));
	if (d->entries[at].enabled)
		TN_TRY(check_merged(d, name, err));
	d->count--;
	memmove(d->entries + at, d->entries + at + 1, (d->count - at) * sizeof *d->entries);
	return publish(d, err);
}

tn_status tn_live_detach(tn_live *live, const char *name, struct tn_error *err)
{
	struct draft d;
	pthread_mutex_lock(&live->change);
	tn_status status = begin(live, &d, err);
	if (status == TN_OK) {
		status = detach(&d, name, err);
		end(&d);
	}
	pthread_mutex_unlock(&live->change);
	tn_live_collect(live);
	return status;
}

static tn_status enable(struct draft *d, const char *name, int enabled, struct tn_error *err)
{
	size_t at;
	TN_TRY(find_or_fail(d, name, &at, err));
	if (d->entries[at].enabled == (enabled != 0))
		return TN_OK;
	TN_TRY(check_merged(d, name, err));
	d->entries[at].enabled = enabled != 0;
	if (enabled)
		TN_TRY(check_set(d, err));
	return publish(d, err);
}

tn_status tn_live_enable(tn_live *live, const char *name, int enabled, struct tn_error *err)
{
	struct draft d;
	pthread_mutex_lock(&live->change);
	tn_status status = begin(live, &d, err);
	if (status == TN_OK) {
		status = enable(&d, name, enabled, err);
		end(&d);
	}
	pthread_mutex_unlock(&live->change);
	tn_live_free_retired(live);
	return status;
}
