/* SPDX-License-Identifier: Apache-2.0 */
/* A plan as JSON, and a receipt once it has run. */
#include "transform/fuse.h"

#include "base/error.h"
#include "base/numeral.h"
#include "store/json_out.h"
#include "transform/inspect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Six digits: sums over blocks of other sizes differ in the last ones. */
static void rounded_json(struct tn_json_out *out, const char *key, double value)
{
	char text[40];
	tn_snprintf(text, sizeof text, "%.6g", value);
	tn_json_out_key(out, key);
	tn_json_out_double(out, isfinite(value) ? tn_strtod(text, NULL) : value);
}

static void survival_json(struct tn_json_out *out, const struct tn_survival *s)
{
	tn_json_out_key(out, "survival");
	tn_json_out_begin(out, '{');
	tn_json_out_key(out, "rounding");
	tn_json_out_string(out, tn_rounding_name(s->rounding));
	rounded_json(out, "rho", s->rho);
	rounded_json(out, "cap", s->cap);
	rounded_json(out, "cosine", s->cosine);
	rounded_json(out, "noise", s->noise);
	tn_json_out_key(out, "codes");
	tn_json_out_u64(out, s->codes);
	tn_json_out_key(out, "changed");
	tn_json_out_u64(out, s->changed);
	tn_json_out_key(out, "clamped");
	tn_json_out_u64(out, s->clamped);
	tn_json_out_end(out, '}');
}

/* At most so many units in the last place are lost in a dense result: docs/numerics.md. */
static double ulp_bound(tn_dtype dtype)
{
	return dtype == TN_F32 ? 0.5 : dtype == TN_BF16 ? 0.52 : 0.63;
}

static void planned_json(struct tn_json_out *out, const struct tn_fuse *fuse, const struct tn_planned_tensor *p,
			 const struct tn_digest *digest)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "name");
	tn_json_out_string(out, p->tensor->name);
	tn_json_out_key(out, "action");
	tn_json_out_string(out, tn_action_name(p->action));
	tn_tensor_form_json(out, p->tensor);
	tn_json_out_key(out, "shard");
	tn_json_out_string(out, tn_checkpoint_shard_name(fuse->base, p->tensor->shard));
	if (p->scheme) {
		tn_json_out_key(out, "scheme");
		tn_json_out_string(out, p->scheme);
	}
	if (p->module) {
		tn_json_out_key(out, "module");
		tn_json_out_string(out, p->module->path);
		tn_json_out_key(out, "kind");
		tn_json_out_string(out, tn_module_kind_name(p->module->kind));
		tn_json_out_key(out, "rank");
		tn_json_out_u64(out, p->module->rank);
		tn_json_out_key(out, "scale");
		tn_json_out_double(out, p->module->scale);
	}
	if (p->from_dense) {
		tn_json_out_key(out, "from");
		tn_json_out_string(out, "dense_base");
	}
	if (p->action == TN_ACTION_MERGE) {
		tn_json_out_key(out, "ulp_bound");
		tn_json_out_double(out, ulp_bound(p->tensor->dtype));
	}
	if (p->survival)
		survival_json(out, p->survival);
	if (digest)
		tn_digest_json(out, "sha256", digest);
	tn_json_out_end(out, '}');
}

static void adapters_json(struct tn_json_out *out, const struct tn_fuse *fuse)
{
	tn_json_out_key(out, "adapters");
	tn_json_out_begin(out, '[');
	for (size_t i = 0; i < fuse->adapter_count; i++) {
		const tn_adapter *a = fuse->adapters[i].adapter;
		tn_json_out_begin(out, '{');
		tn_json_out_key(out, "path");
		tn_json_out_string(out, tn_adapter_path(a));
		tn_json_out_key(out, "dialect");
		tn_json_out_string(out, tn_adapter_dialect_name(tn_adapter_dialect_of(a)));
		tn_json_out_key(out, "weight");
		tn_json_out_double(out, fuse->adapters[i].weight);
		tn_adapter_hash_json(out, a);
		tn_json_out_end(out, '}');
	}
	tn_json_out_end(out, ']');
	if (fuse->options.dense_base) {
		tn_json_out_key(out, "dense_base");
		tn_json_out_string(out, tn_checkpoint_path(fuse->options.dense_base));
	}
	tn_json_out_key(out, "rounding");
	tn_json_out_string(out, tn_rounding_name(fuse->options.rounding));
}

static void config_json(struct tn_json_out *out, const struct tn_fuse *fuse)
{
	tn_json_out_key(out, "config");
	tn_json_out_begin(out, '{');
	for (size_t i = 0; i < fuse->joint->edit_count; i++) {
		const struct tn_config_edit *edit = &fuse->joint->edits[i];
		tn_json_out_key(out, edit->key);
		if (edit->is_flag)
			tn_json_out_bool(out, edit->value != 0);
		else
			tn_json_out_u64(out, edit->value);
	}
	tn_json_out_end(out, '}');
}

tn_status tn_fuse_plan_json(const tn_fuse *fuse, tn_write_fn write, void *user, struct tn_error *err)
{
	return tn_fuse_write_json(fuse, NULL, write, user, err);
}

tn_status tn_fuse_write_json(const tn_fuse *fuse, const struct tn_outcome *outcome, tn_write_fn write, void *user,
			     struct tn_error *err)
{
	uint64_t memory;
	TN_TRY(tn_fuse_memory(fuse, &memory, err));
	struct tn_json_out out;
	tn_json_out_init(&out, fuse->ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "base");
	tn_json_out_string(&out, tn_checkpoint_path(fuse->base));
	tn_json_out_key(&out, "adapter");
	tn_json_out_string(&out, tn_adapter_path(fuse->adapter));
	tn_json_out_key(&out, "dialect");
	tn_json_out_string(&out, tn_adapter_dialect_name(tn_adapter_dialect_of(fuse->adapter)));
	adapters_json(&out, fuse);
	tn_json_out_key(&out, "bytes");
	tn_json_out_u64(&out, tn_checkpoint_tensor_bytes(fuse->base));
	tn_json_out_key(&out, "shards");
	tn_json_out_u64(&out, tn_checkpoint_shard_count(fuse->base));
	tn_json_out_key(&out, "memory_bytes");
	tn_json_out_u64(&out, memory);
	tn_json_out_key(&out, "merged");
	tn_json_out_u64(&out, fuse->changed_count);
	tn_json_out_key(&out, "copied");
	tn_json_out_u64(&out, tn_fuse_copied_count(fuse));
	config_json(&out, fuse);
	if (outcome)
		tn_outcome_json(&out, outcome);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < fuse->count; i++)
		planned_json(&out, fuse, &fuse->planned[i], outcome ? &outcome->tensors[i] : NULL);
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
