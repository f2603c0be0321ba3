/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters on a live base of a quantized model: attached, swapped, added up, merged and taken back. */
#include "oom.h"

#include "tenon/tenon.h"

#include <stdio.h>

/* A change that fails leaves the present state; the number of adapters tells. */
static size_t attached(tn_live *live)
{
	tn_snapshot *now = tn_live_snapshot(live);
	size_t count = tn_snapshot_count(now);
	tn_snapshot_release(now);
	return count;
}

static tn_status change(tn_live *live, tn_adapter *const lora[2], struct tn_error *err)
{
	tn_status status = tn_live_attach(live, "a", lora[0], 1, err);
	oom_require(attached(live) == (status == TN_OK), "a failed attach left something");
	if (status == TN_OK)
		status = tn_live_attach_disabled(live, "b", lora[1], 0.5, err);
	if (status == TN_OK)
		status = tn_live_enable(live, "b", 1, err);
	if (status == TN_OK)
		status = tn_live_swap(live, "a", "c", lora[0], 2, err);
	oom_require(status != TN_OK || attached(live) == 2, "a swap left another number of adapters");
	if (status == TN_OK)
		status = tn_live_merge(live, TN_LIVE_ALL, err);
	if (status == TN_OK)
		status = tn_live_unmerge(live, TN_LIVE_ALL, err);
	return status == TN_OK ? tn_live_detach(live, "b", err) : status;
}

static tn_status run_live(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char path[512];
	tn_checkpoint *base = NULL;
	tn_adapter *lora[2] = { NULL, NULL };
	tn_live *live = NULL;
	snprintf(path, sizeof path, "%.400s/packed", folder);
	tn_status status = tn_checkpoint_open(ctx, path, &base, err);
	snprintf(path, sizeof path, "%.400s/lora", folder);
	for (int i = 0; i < 2 && status == TN_OK; i++)
		status = tn_adapter_open(ctx, path, &lora[i], err);
	if (status == TN_OK)
		status = tn_live_open(base, NULL, &live, err);
	if (status == TN_OK)
		status = change(live, lora, err);
	tn_live_close(live);
	tn_adapter_close(lora[0]);
	tn_adapter_close(lora[1]);
	tn_checkpoint_close(base);
	return status;
}

static void a_packed_model(const char *folder)
{
	oom_fuse_packed.prepare(folder);
}

const struct oom_scenario oom_live = { "adapters on a live base", a_packed_model, run_live, 0 };
