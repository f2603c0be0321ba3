/* SPDX-License-Identifier: Apache-2.0 */
/* Two checkpoints side by side: which rows of the one stand for which of the other. */
#include "transform/extract.h"

#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "transform/parts.h"
#include "weights/foreign.h"
#include "weights/format.h"

#include <string.h>

/* ---- sides ----------------------------------------------------------------------------------------------- */

static tn_status open_side(struct tn_extract *x, struct tn_extract_side *side, struct tn_error *err)
{
	TN_TRY(tn_joint_open_base(side->checkpoint, &x->arena, &side->joint, err));
	return tn_arena_array(&x->arena, side->joint->target_count, 1, &side->used, err);
}

/* Scales, zero points and the like stand beside a matrix and are no tensors of their own. */
static int is_part(const struct tn_extract_side *side, const struct tn_target *t)
{
	int codes = 0;
	if (t->matrix || !t->base)
		return 0;
	if (tn_foreign_set_count(side->joint->foreign) && tn_foreign_set_owner(side->joint->foreign, t->base, &codes))
		return 1;
	return tn_is_triple_part(side->checkpoint, t->base);
}

static int same_shape(const struct tn_target *a, const struct tn_target *b)
{
	const struct tn_tensor *s = tn_target_source(a), *t = tn_target_source(b);
	return s->rank == t->rank && memcmp(s->shape, t->shape, s->rank * sizeof *s->shape) == 0;
}

/* A vocabulary that grew or shrank. */
static int is_resized(const struct tn_target *a, const struct tn_target *b, const char *path)
{
	const struct tn_tensor *s = tn_target_source(a), *t = tn_target_source(b);
	return s->rank == 2 && t->rank == 2 && s->shape[1] == t->shape[1] &&
	       (tn_path_is_embedding(path) || tn_path_is_head(path));
}

enum { SHAPE_TEXT = 120 };
static const char *shape_text(char text[SHAPE_TEXT], const struct tn_tensor *t)
{
	size_t n = 0;
	text[0] = '\0';
	for (uint32_t i = 0; i < t->rank && n < SHAPE_TEXT; i++)
		n += (size_t)snprintf(text + n, SHAPE_TEXT - n, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
	return text;
}

static tn_status fail_shape(const struct tn_extract *x, const struct tn_target *base, const struct tn_target *tuned,
			    struct tn_error *err)
{
	char was[SHAPE_TEXT], is[SHAPE_TEXT];
	return tn_fail(err, TN_E_MISMATCH, base->name, "'%.100s' is [%s] in the base, and '%.100s' [%s] in '%.100s': that is no "
		       "fine-tune of this base", base->name, shape_text(was, tn_target_source(base)), tuned->name,
		       shape_text(is, tn_target_source(tuned)), x->tuned.checkpoint->path);
}

/* ---- pieces ---------------------------------------------------------------------------------------------- */

static struct tn_matrix matrix_of(const struct tn_target *t, uint64_t cols)
{
	return tn_target_is_packed(t) ? *t->matrix : tn_parts_dense(t->base, cols);
}

/* Of anything else the bytes are compared. */
static int has_values(const struct tn_target *t)
{
	tn_dtype dtype = t->base->dtype;
	return tn_target_is_packed(t) || tn_is_weight_dtype(dtype) || dtype == TN_F64 || dtype == TN_F8_E4M3 || dtype == TN_F8_E5M2;
}

static uint64_t last_size(const struct tn_target *t)
{
	const struct tn_tensor *s = tn_target_source(t);
	return s->rank ? s->shape[s->rank - 1] : 1;
}

static tn_status add_piece(struct tn_extract *x, const struct tn_extract_piece *piece, struct tn_error *err)
{
	if (x->piece_count == x->piece_room) {
		struct tn_extract_piece *grown;
		size_t room = x->piece_room ? 2 * x->piece_room : 256;
		TN_TRY(tn_arena_array(&x->arena, room, sizeof *grown, &grown, err));
		if (x->piece_count)
			memcpy(grown, x->pieces, x->piece_count * sizeof *grown);
		x->pieces = grown;
		x->piece_room = room;
	}
	x->pieces[x->piece_count++] = *piece;
	return TN_OK;
}

/* Rows that both sides have in one run. */
static tn_status join(struct tn_extract *x, const struct tn_module_piece *b, const struct tn_module_piece *t, struct tn_error *err)
{
	const struct tn_target *base = &x->base.joint->targets[b->target], *tuned = &x->tuned.joint->targets[t->target];
	uint64_t begin = tn_max_u64(b->module_row, t->module_row);
	uint64_t end = tn_min_u64(b->module_row + b->rows, t->module_row + t->rows);
	if (begin >= end)
		return TN_OK;
	if (b->rows_are_inputs != t->rows_are_inputs || last_size(base) != last_size(tuned))
		return fail_shape(x, base, tuned, err);
	if (!has_values(base) || !has_values(tuned))
		return tn_fail(err, TN_E_UNSUPPORTED, base->name, "'%.100s' is %s in the base and %s in '%.100s'; floats were "
			       "expected", base->name, tn_dtype_name(tn_target_dtype(base)),
			       tn_dtype_name(tn_target_dtype(tuned)), x->tuned.checkpoint->path);
	struct tn_extract_piece piece = {
		.base = matrix_of(base, last_size(base)), .tuned = matrix_of(tuned, last_size(tuned)),
		.base_row = b->target_row + (begin - b->module_row), .tuned_row = t->target_row + (begin - t->module_row),
		.row = begin, .rows = end - begin, .owner = x->module_count,
	};
	if (piece.base.cols != piece.tuned.cols)
		return fail_shape(x, base, tuned, err);
	return add_piece(x, &piece, err);
}

/* ---- modules --------------------------------------------------------------------------------------------- */

/* *skip: not as an adapter of this dialect. What it is then, the rest says. */
static tn_status look_at_tuned(const struct tn_extract *x, const struct tn_base_module *m, const struct tn_module_piece *first,
			       int *skip, struct tn_error *err)
{
	const struct tn_target *base = &x->base.joint->targets[first->target];
	size_t found = tn_joint_find(x->tuned.joint, base->name);
	*skip = tn_path_is_head(m->path) && x->base.joint->tied;
	if (*skip || found == TN_NO_TARGET)
		return TN_OK;
	const struct tn_target *tuned = &x->tuned.joint->targets[found];
	if (same_shape(base, tuned))
		return TN_OK;
	*skip = is_resized(base, tuned, m->path);
	return *skip ? TN_OK : fail_shape(x, base, tuned, err);
}

static tn_status find_tuned(struct tn_extract *x, const struct tn_base_module *m, struct tn_module_piece **out, size_t *count,
			    struct tn_error *err)
{
	static const char stack[] = ".switch_mlp.";
	const char *at = m->weight ? strstr(m->weight, stack) : NULL;
	struct tn_error found;
	tn_status status = tn_module_pieces(x->tuned.joint, m, out, count, &found);
	if (status == TN_E_MISMATCH && at) { /* a stack in the base, and rows of several tensors here */
		struct tn_base_module apart = *m;
		apart.weight = NULL;
		TN_TRY(tn_arena_text(&x->arena, m->weight, (size_t)(at - m->weight), &apart.block, err));
		status = tn_module_pieces(x->tuned.joint, &apart, out, count, &found);
	}
	if (status != TN_E_MISMATCH)
		return status == TN_OK ? TN_OK : tn_fail_with(err, &found);
	return tn_fail(err, TN_E_MISMATCH, m->path, "'%.100s' has no weights for '%.100s' of the base: that is no fine-tune of it",
		       x->tuned.checkpoint->path, m->path);
}

static void describe(struct tn_extract_module *out, const struct tn_base_module *m, int by_inputs)
{
	out->module = m;
	out->by_inputs = by_inputs;
	out->groups = m->experts ? m->experts : 1;
	out->rows = by_inputs ? m->in : m->out;
	out->cols = by_inputs ? m->out : m->in;
}

static tn_status match_module(struct tn_extract *x, const struct tn_base_module *m, struct tn_error *err)
{
	struct tn_module_piece *base, *tuned;
	size_t n, k;
	struct tn_error found;
	int skip;
	tn_status status = tn_module_pieces(x->base.joint, m, &base, &n, &found);
	if (status != TN_OK)
		return status == TN_E_UNSUPPORTED ? TN_OK : tn_fail_with(err, &found);
	TN_TRY(look_at_tuned(x, m, &base[0], &skip, err));
	if (skip)
		return TN_OK;
	TN_TRY(find_tuned(x, m, &tuned, &k, err));
	struct tn_extract_module *out = &x->modules[x->module_count];
	describe(out, m, base[0].rows_are_inputs);
	out->first_piece = x->piece_count;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < k; j++)
			TN_TRY(join(x, &base[i], &tuned[j], err));
	uint64_t rows = 0;
	for (size_t i = out->first_piece; i < x->piece_count; i++)
		rows += x->pieces[i].rows;
	if (rows != out->groups * out->rows)
		return tn_fail(err, TN_E_MISMATCH, m->path, "'%.100s' has %llu rows in the base, of which %llu are in '%.100s': "
			       "that is no fine-tune of it", m->path, (unsigned long long)(out->groups * out->rows),
			       (unsigned long long)rows, x->tuned.checkpoint->path);
	out->piece_count = x->piece_count - out->first_piece;
	x->module_count++;
	for (size_t i = 0; i < n; i++)
		x->base.used[base[i].target] = 1;
	for (size_t j = 0; j < k; j++)
		x->tuned.used[tuned[j].target] = 1;
	return TN_OK;
}

/* ---- the rest -------------------------------------------------------------------------------------------- */

/* Loaders tie the head whatever the file holds in its place. */
static int is_tied_head(const struct tn_extract *x, const struct tn_target *t)
{
	char path[TN_NAME_BYTES];
	size_t n = tn_layer_length(t->name);
	if (!x->base.joint->tied || !x->tuned.joint->tied || n >= sizeof path)
		return 0;
	memcpy(path, t->name, n);
	path[n] = '\0';
	return tn_path_is_head(path);
}

static tn_status compare_rest(struct tn_extract *x, struct tn_extract_rest *r, struct tn_error *err)
{
	const struct tn_tensor *b = tn_target_source(r->base), *t = tn_target_source(r->tuned);
	struct tn_extract_piece piece = { .owner = x->module_count + x->rest_count - 1 };
	int floats = has_values(r->base) && has_values(r->tuned);
	int packed = tn_target_is_packed(r->base) || tn_target_is_packed(r->tuned);
	r->is_reshaped = !same_shape(r->base, r->tuned);
	r->found.differs = r->is_reshaped || (!floats && b->dtype != t->dtype);
	if (r->found.differs || !b->elements)
		return TN_OK;
	uint64_t cols = !floats ? b->bytes : packed ? last_size(r->base) : b->rank > 1 ? b->elements / b->shape[0] : b->elements;
	piece.base = matrix_of(r->base, cols);
	piece.tuned = matrix_of(r->tuned, cols);
	piece.rows = floats ? b->elements / cols : b->bytes;
	piece.is_bytes = !floats;
	if (!floats)
		piece.base.row_bytes[TN_PART_WEIGHT] = piece.tuned.row_bytes[TN_PART_WEIGHT] = 1;
	return add_piece(x, &piece, err);
}

static tn_status add_rest(struct tn_extract *x, const char *name, const struct tn_target *base, const struct tn_target *tuned,
			  struct tn_error *err)
{
	struct tn_extract_rest *r = &x->rest[x->rest_count++];
	*r = (struct tn_extract_rest){ .name = name, .base = base, .tuned = tuned };
	if (base && tuned)
		return compare_rest(x, r, err);
	r->found.differs = 1;
	return TN_OK;
}

static tn_status match_rest(struct tn_extract *x, struct tn_error *err)
{
	struct tn_extract_side *b = &x->base, *t = &x->tuned;
	TN_TRY(tn_arena_array(&x->arena, b->joint->target_count + t->joint->target_count, sizeof *x->rest, &x->rest, err));
	for (size_t i = 0; i < b->joint->target_count; i++) {
		const struct tn_target *base = &b->joint->targets[i], *tuned = NULL;
		if (b->used[i] || is_part(b, base) || is_tied_head(x, base))
			continue;
		size_t found = tn_joint_find(t->joint, base->name);
		if (found != TN_NO_TARGET && !t->used[found]) {
			tuned = &t->joint->targets[found];
			t->used[found] = 1;
		}
		TN_TRY(add_rest(x, base->name, base, tuned, err));
	}
	for (size_t i = 0; i < t->joint->target_count; i++) {
		const struct tn_target *tuned = &t->joint->targets[i];
		if (!t->used[i] && !is_part(t, tuned) && !is_tied_head(x, tuned))
			TN_TRY(add_rest(x, tuned->name, NULL, tuned, err));
	}
	return TN_OK;
}

tn_status tn_extract_match(struct tn_extract *x, struct tn_error *err)
{
	TN_TRY(open_side(x, &x->base, err));
	TN_TRY(open_side(x, &x->tuned, err));
	TN_TRY(tn_base_modules_list(&x->arena, x->base.checkpoint, x->dialect == TN_DIALECT_PEFT, &x->list, err));
	TN_TRY(tn_arena_array(&x->arena, x->list.count, sizeof *x->modules, &x->modules, err));
	for (size_t i = 0; i < x->list.count; i++)
		TN_TRY(match_module(x, &x->list.items[i], err));
	return match_rest(x, err);
}
