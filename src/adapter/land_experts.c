/* SPDX-License-Identifier: Apache-2.0 */
/* Experts of a mixture. They stand in a base as one tensor for each expert (experts.3.w1.weight, experts.3.gate_proj.weight),
 * as stacks (switch_mlp.gate_proj.weight [E, out, in], mlx-lm), or fused (experts.gate_up_proj [E, 2 out, in], gate above up,
 * transformers 5); adapters for any of these land on any other. */
#include "adapter/land.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 1024 };

static const struct {
	const char *name;
	tn_projection role;
} role_names[] = {
	{ "gate_proj", TN_GATE }, { "w1", TN_GATE }, { "up_proj", TN_UP },     { "w3", TN_UP },
	{ "down_proj", TN_DOWN }, { "w2", TN_DOWN }, { "gate_up_proj", TN_GATE_UP },
};

tn_projection tn_projection_of(const char *name)
{
	for (size_t i = 0; i < sizeof role_names / sizeof *role_names; i++)
		if (strcmp(name, role_names[i].name) == 0)
			return role_names[i].role;
	return TN_NO_PROJECTION;
}

/* transformers marks these classes of experts as transposed: stored [E, in, out]. */
int tn_model_has_transposed_experts(const char *model_type)
{
	static const char *const types[] = { "gpt_oss", "llama4", "llama4_text" };
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (strcmp(model_type, types[i]) == 0)
			return 1;
	return 0;
}

/* Experts [first, first + block.count) of a block. */
struct experts {
	const struct tn_adapter_entry *entry;
	tn_projection role;
	struct tn_expert_block block;
	uint64_t first;
	size_t slot;
};

static int parse_path(const struct tn_adapter_entry *e, struct experts *out)
{
	const char *path = e->module.path, *at = strstr(path, ".experts."), *last = tn_path_last(path);
	*out = (struct experts){ .entry = e, .role = tn_projection_of(last) };
	int switched = !at && (at = strstr(path, ".switch_mlp.")) != NULL;
	if (!at || out->role == TN_NO_PROJECTION)
		return 0;
	out->block = (struct tn_expert_block){ path, (int)(at - path), e->groups, e->module.in_features };
	const char *rest = at + strlen(switched ? ".switch_mlp." : ".experts.");
	size_t digits = strspn(rest, "0123456789");
	if (digits && digits < 10 && rest[digits] == '.' && rest + digits + 1 == last && e->groups == 1) {
		out->first = strtoull(rest, NULL, 10);
		return 1;
	}
	return rest == last;
}

/* ---- the same form --------------------------------------------------------------------------------------- */

static int is_transposed_model(const struct tn_joint *j)
{
	const char *version = j->adapter->config.version;
	int old = version && (tn_starts_with(version, "0.17.") || tn_starts_with(version, "0.18."));
	return old || tn_model_has_transposed_experts(j->model_type);
}

static tn_status fail_stack(const struct tn_adapter_entry *e, const struct tn_tensor *w, struct tn_error *err)
{
	return tn_fail(err, TN_E_MISMATCH, e->module.path, "'%.80s' has %llu experts of [%llu, %llu], and the base's '%.80s' "
		       "%llu of [%llu, %llu]; the adapter was trained on another base", e->module.path,
		       (unsigned long long)e->groups, (unsigned long long)e->module.out_features,
		       (unsigned long long)e->module.in_features, w->name, (unsigned long long)w->shape[0],
		       (unsigned long long)w->shape[1], (unsigned long long)w->shape[2]);
}

static tn_status check_dtype(const struct tn_joint *j, const struct tn_adapter_entry *e, size_t target,
			     struct tn_error *err)
{
	tn_dtype dtype = tn_target_dtype(&j->targets[target]);
	if (dtype == TN_F32 || dtype == TN_F16 || dtype == TN_BF16)
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.100s' has the dtype %s in the base; tenon fuses into F32, F16 "
		       "and BF16 as yet", j->targets[target].name, tn_dtype_name(dtype));
}

/* `as_rows`: the stack is stored [E, out, in], whatever the class of its model does. */
static tn_status land_stack(struct tn_joint *j, const struct tn_adapter_entry *e, size_t target, int as_rows,
			    struct tn_error *err)
{
	const struct tn_tensor *w = tn_target_source(&j->targets[target]);
	uint64_t in = e->module.in_features, out = e->module.out_features;
	int normal = w->shape[1] == out && w->shape[2] == in, other = w->shape[1] == in && w->shape[2] == out;
	if (w->shape[0] != e->groups || (!normal && (as_rows || !(other && e->of_parameter))))
		return fail_stack(e, w, err);
	TN_TRY(check_dtype(j, e, target, err));
	struct tn_delta_shape shape = { !normal || (other && e->of_parameter && !as_rows && is_transposed_model(j)), 1, 0 };
	size_t slot;
	TN_TRY(tn_joint_add_slot(j, e, TN_SLOT_DELTA, &shape, target, w->shape[2], &slot, err));
	return tn_joint_add_landing(j, target, slot, 0, 0, w->shape[0] * w->shape[1], err);
}

/* ---- another form ---------------------------------------------------------------------------------------- */

static size_t find(const struct tn_joint *j, const struct tn_expert_block *b, const char *rest)
{
	char name[LONGEST_NAME];
	if (snprintf(name, sizeof name, "%.*s.%s", b->bytes, b->path, rest) >= (int)sizeof name)
		return TN_NO_TARGET;
	return tn_joint_find(j, name);
}

/* A stack of `rows` rows for each expert, of which ours begin at `offset`. */
static int find_in_stack(const struct tn_joint *j, const struct tn_expert_block *b, const char *name, uint64_t expert,
			 uint64_t rows, uint64_t offset, struct tn_expert_place *out)
{
	size_t target = find(j, b, name);
	if (target == TN_NO_TARGET)
		return 0;
	const struct tn_tensor *w = tn_target_source(&j->targets[target]);
	if (w->rank != 3 || expert >= w->shape[0] || w->shape[1] != rows || w->shape[2] != b->in ||
	    (b->count > 1 && w->shape[0] != b->count))
		return 0;
	*out = (struct tn_expert_place){ target, expert * rows + offset };
	return 1;
}

int tn_joint_find_expert(const struct tn_joint *j, const struct tn_expert_block *b, tn_projection role, uint64_t expert,
			 uint64_t rows, struct tn_expert_place *out)
{
	char rest[64];
	static const char *const stacks[] = { "switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight",
					      "switch_mlp.down_proj.weight" };
	static const char *const plain[] = { "experts.gate_proj", "experts.up_proj", "experts.down_proj" };
	for (size_t i = 0; i < sizeof role_names / sizeof *role_names; i++) {
		if (role_names[i].role != role)
			continue;
		snprintf(rest, sizeof rest, "experts.%llu.%s.weight", (unsigned long long)expert, role_names[i].name);
		size_t target = find(j, b, rest);
		if (target == TN_NO_TARGET)
			continue;
		const struct tn_tensor *w = tn_target_source(&j->targets[target]);
		*out = (struct tn_expert_place){ target, 0 };
		return w->rank == 2 && w->shape[0] == rows && w->shape[1] == b->in;
	}
	if (find_in_stack(j, b, stacks[role], expert, rows, 0, out) || find_in_stack(j, b, plain[role], expert, rows, 0, out))
		return 1;
	return role != TN_DOWN && find_in_stack(j, b, "experts.gate_up_proj", expert, 2 * rows, role == TN_UP ? rows : 0, out);
}

static tn_status land_rows(struct tn_joint *j, struct experts *x, tn_projection role, uint64_t delta_row, uint64_t expert,
			   uint64_t rows, struct tn_error *err)
{
	struct tn_expert_place place;
	const struct tn_adapter_entry *e = x->entry;
	if (!tn_joint_find_expert(j, &x->block, role, expert, rows, &place))
		return tn_fail(err, TN_E_MISMATCH, e->module.path, "'%.100s' changes expert %llu with [%llu, %llu], and the "
			       "base has no such expert; the adapter was trained on another base", e->module.path,
			       (unsigned long long)expert, (unsigned long long)rows, (unsigned long long)e->module.in_features);
	TN_TRY(check_dtype(j, e, place.target, err));
	if (x->slot == TN_NO_TARGET)
		TN_TRY(tn_joint_add_slot(j, e, TN_SLOT_DELTA, NULL, place.target, e->module.in_features, &x->slot, err));
	return tn_joint_add_landing(j, place.target, x->slot, place.row, delta_row, rows, err);
}

static int base_has_more(const struct tn_joint *j, const struct experts *x)
{
	char rest[64];
	for (size_t i = 0; i < sizeof role_names / sizeof *role_names && x->entry->groups > 1; i++) {
		snprintf(rest, sizeof rest, "experts.%llu.%s.weight", (unsigned long long)x->block.count, role_names[i].name);
		if (find(j, &x->block, rest) != TN_NO_TARGET)
			return 1;
	}
	return 0;
}

static tn_status land_apart(struct tn_joint *j, struct experts *x, struct tn_error *err)
{
	const struct tn_adapter_entry *e = x->entry;
	uint64_t out = e->module.out_features, half = out / 2;
	x->slot = TN_NO_TARGET;
	if (base_has_more(j, x))
		return tn_fail(err, TN_E_MISMATCH, e->module.path, "'%.100s' is for %llu experts, and the base has more",
			       e->module.path, (unsigned long long)x->block.count);
	if (e->bias || j->adapter->config.base_change != TN_BASE_AS_IS)
		return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.100s' would have to land on a stack of experts, and its "
			       "initialisation or bias belongs to an expert of its own", e->module.path);
	for (uint64_t i = 0; i < x->block.count; i++) {
		uint64_t expert = x->first + i;
		if (x->role != TN_GATE_UP) {
			TN_TRY(land_rows(j, x, x->role, i * out, expert, out, err));
			continue;
		}
		TN_TRY(land_rows(j, x, TN_GATE, i * out, expert, half, err));
		TN_TRY(land_rows(j, x, TN_UP, i * out + half, expert, half, err));
	}
	return TN_OK;
}

/* The blocks of gpt-oss hold the transpose of a parameter of transformers, and their weight has a name of its own. */
static size_t find_rows(const struct tn_joint *j, const char *path, int *as_rows)
{
	char name[LONGEST_NAME];
	size_t target = TN_NO_TARGET;
	if (snprintf(name, sizeof name, "%s.weight", path) < (int)sizeof name)
		target = tn_joint_find(j, name);
	*as_rows = target != TN_NO_TARGET && tn_target_source(&j->targets[target])->rank == 3;
	return *as_rows ? target : TN_NO_TARGET;
}

/* In any form. */
static int has_experts(const struct tn_joint *j, const struct tn_expert_block *b)
{
	static const char *const names[] = { "experts.gate_up_proj", "experts.down_proj", "switch_mlp.down_proj.weight",
					     "experts.0.w1.weight", "experts.0.down_proj.weight" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (find(j, b, names[i]) != TN_NO_TARGET)
			return 1;
	return 0;
}

tn_status tn_joint_land_experts(struct tn_joint *j, const struct tn_adapter_entry *e, int *landed, struct tn_error *err)
{
	struct experts x;
	char name[LONGEST_NAME];
	*landed = 0;
	TN_TRY(tn_joint_name_weight(name, sizeof name, e, err));
	size_t target = tn_joint_find(j, name);
	int as_rows = 0;
	if (target == TN_NO_TARGET && e->of_parameter)
		target = find_rows(j, e->module.path, &as_rows);
	const struct tn_tensor *w = target == TN_NO_TARGET ? NULL : tn_target_source(&j->targets[target]);
	if (w && w->rank == 3 && (e->module.kind == TN_MODULE_EXPERTS || e->of_parameter)) {
		*landed = 1;
		return land_stack(j, e, target, as_rows, err);
	}
	if (w || !parse_path(e, &x))
		return e->module.kind == TN_MODULE_EXPERTS && w ? tn_fail(err, TN_E_MISMATCH, e->module.path,
			       "'%.100s' is a stack of experts, and the base's '%.100s' has %u dimensions", e->module.path,
			       w->name, w->rank) : TN_OK;
	*landed = 1;
	if (e->module.kind != TN_MODULE_EXPERTS && !has_experts(j, &x.block))
		*landed = 0;
	return *landed ? land_apart(j, &x, err) : TN_OK;
}
