/* SPDX-License-Identifier: Apache-2.0 */
/* Which rows of a base's tensors a module is. */
#include "adapter/derive.h"

#include "adapter/selection.h"
#include "base/error.h"

#include <string.h>

static tn_status fail_gone(const struct tn_joint *j, const char *path, const char *name, struct tn_error *err)
{
	return tn_fail(err, TN_E_MISMATCH, path, "'%.100s' has no tensor '%.100s', which is the module '%.100s'",
		       tn_checkpoint_path(j->base), name, path);
}

/* One tensor, or a transposed parameter. */
static tn_status whole_piece(const struct tn_joint *j, const struct tn_base_module *m, const char *name, int rows_are_inputs,
			     struct tn_module_piece *out, struct tn_error *err)
{
	size_t target = tn_joint_find(j, name);
	if (target == TN_NO_TARGET)
		return fail_gone(j, m->path, name, err);
	const struct tn_tensor *w = tn_target_source(&j->targets[target]);
	uint64_t rows = w->rank ? w->shape[0] : 0;
	if (m->kind == TN_MODULE_EXPERTS && w->rank == 3)
		rows *= w->shape[1];
	*out = (struct tn_module_piece){ target, rows_are_inputs, 0, 0, rows };
	return TN_OK;
}

static tn_status transposed_piece(const struct tn_joint *j, const struct tn_base_module *m, struct tn_module_piece *out,
				  struct tn_error *err)
{
	const char *name;
	if (!m->of_parameter)
		return tn_fail(err, TN_E_UNSUPPORTED, m->path, "the base holds the experts of '%.100s' transposed, and gate and "
			       "up of one tensor, which is no set of rows", m->path);
	TN_TRY(tn_arena_printf(j->arena, &name, err, "%s.experts.%s", m->block, tn_path_last(m->path)));
	return whole_piece(j, m, name, 1, out, err);
}

static tn_status expert_pieces(const struct tn_joint *j, const struct tn_base_module *m, struct tn_module_piece *out, size_t *count,
			       struct tn_error *err)
{
	struct tn_expert_block block = { m->block, (int)strlen(m->block), m->experts, m->in };
	tn_projection whole = tn_projection_of(tn_path_last(m->path));
	unsigned parts = whole == TN_GATE_UP ? 2 : 1;
	uint64_t rows = m->out / parts;
	for (uint64_t i = 0; i < m->experts * parts; i++) {
		tn_projection role = whole != TN_GATE_UP ? whole : i % 2 ? TN_UP : TN_GATE;
		struct tn_expert_place place;
		if (!tn_joint_find_expert(j, &block, role, i / parts, rows, &place))
			return tn_fail(err, TN_E_MISMATCH, m->path, "'%.100s' has no expert %llu of '%.100s' with %llu rows",
				       tn_checkpoint_path(j->base), (unsigned long long)(i / parts), m->path,
				       (unsigned long long)rows);
		out[(*count)++] = (struct tn_module_piece){ place.target, 0, place.row, i * rows, rows };
	}
	return TN_OK;
}

tn_status tn_module_pieces(const struct tn_joint *j, const struct tn_base_module *m, struct tn_module_piece **out, size_t *count,
			   struct tn_error *err)
{
	size_t room = m->weight || m->is_transposed ? 1 : (size_t)(2 * m->experts);
	*count = 0;
	TN_TRY(tn_arena_array(j->arena, room, sizeof **out, out, err));
	if (!m->weight && !m->is_transposed)
		return expert_pieces(j, m, *out, count, err);
	*count = 1;
	return m->weight ? whole_piece(j, m, m->weight, m->kind == TN_MODULE_EMBEDDING || m->is_conv1d, *out, err)
			 : transposed_piece(j, m, *out, err);
}
