/* SPDX-License-Identifier: Apache-2.0 */
/* The grid of a foreign matrix, and rows of it written back where they were read: codes, and scales where a row has its own.
 *
 * A part that is packed along the columns of W is written as one piece of every stored row. Blocks share no byte as long as
 * they begin at a multiple of tn_foreign_alignment. */
#include "weights/foreign_rows.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the grid -------------------------------------------------------------------------------------------- */

struct level {
	float value;
	uint8_t code;
};

static int compare_levels(const void *a, const void *b)
{
	const struct level *x = a, *y = b;
	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return (x->code > y->code) - (x->code < y->code);
}

/* int8 of bitsandbytes is symmetric: its encoder never writes -128. */
static int is_level(const struct tn_foreign *f, unsigned code)
{
	return isfinite(f->table[code]) && !(f->element == TN_ELEMENT_I8 && f->factor != 1.0f && code == 0x80);
}

static void find_gaps(struct tn_levels *l)
{
	for (unsigned i = 0; i < l->count; i++) {
		float below = i ? l->value[i] - l->value[i - 1] : 0, above = i + 1 < l->count ? l->value[i + 1] - l->value[i] : 0;
		l->gap[l->code[i]] = below > above ? below : above;
	}
}

static void make_levels(const struct tn_foreign *f, struct tn_levels *l)
{
	struct level all[256];
	unsigned n = 0, codes = 1u << f->bits;
	for (unsigned code = 0; code < codes; code++)
		if (is_level(f, code))
			all[n++] = (struct level){ f->table[code], (uint8_t)code };
	qsort(all, n, sizeof *all, compare_levels);
	for (unsigned i = 0; i < n; i++) {
		if (l->count == 0 || l->value[l->count - 1] != all[i].value) {
			l->value[l->count] = all[i].value;
			l->code[l->count++] = all[i].code;
		}
		l->rank[all[i].code] = (uint8_t)(l->count - 1);
	}
	find_gaps(l);
	for (unsigned i = 0; i < n; i++)
		l->gap[all[i].code] = l->gap[l->code[l->rank[all[i].code]]];
}

tn_status tn_foreign_grid(const struct tn_foreign *f, struct tn_arena *arena, struct tn_grid *out, struct tn_error *err)
{
	struct tn_levels *levels = NULL;
	*out = (struct tn_grid){ .table = f->table, .code_count = 1u << f->bits, .group_of = f->group_of, .factor = f->factor,
				 .group = (size_t)(f->scales == TN_SCALES_FLAT ? f->cols / tn_foreign_row_groups(f) : f->group),
				 .add_zeros = f->zeros == TN_ZEROS_COLUMN_FLOAT, .has_zeros = f->zeros != TN_ZEROS_NONE,
				 .is_even = f->element == TN_ELEMENT_UNSIGNED || f->element >= TN_ELEMENT_CENTRED };
	if (!arena)
		return TN_OK;
	TN_TRY(tn_arena_alloc(arena, sizeof *levels, &levels, err));
	make_levels(f, levels);
	out->levels = levels;
	return TN_OK;
}

tn_status tn_foreign_text(struct tn_arena *arena, const struct tn_foreign *f, const char **out, struct tn_error *err)
{
	if (f->group >= f->cols)
		return tn_arena_printf(arena, out, err, "%s, %u bits", f->scheme, f->bits);
	return tn_arena_printf(arena, out, err, "%s, %u bits, group %llu", f->scheme, f->bits, (unsigned long long)f->group);
}

/* ---- what can be written --------------------------------------------------------------------------------- */

uint64_t tn_foreign_alignment(const struct tn_foreign *f)
{
	const struct tn_slab *codes = &f->part[TN_FOREIGN_CODES];
	if (codes->flat)
		return f->cols % codes->cell_rows ? codes->cell_rows : 1;
	return codes->cell_rows;
}

int tn_foreign_scales_by_row(const struct tn_foreign *f)
{
	const struct tn_slab *s = &f->part[TN_FOREIGN_SCALES], *zeros = &f->part[TN_FOREIGN_ZEROS];
	tn_dtype dtype = s->tensor->dtype;
	if (f->global != TN_GLOBAL_NONE || f->nested_map || (dtype != TN_F32 && dtype != TN_F16 && dtype != TN_BF16))
		return 0;
	if (f->zeros == TN_ZEROS_COLUMN_FLOAT && zeros->tensor->dtype != dtype)
		return 0;
	if (f->scales == TN_SCALES_FLAT)
		return f->cols % f->group == 0;
	return s->cell_rows == 1 || f->scales == TN_SCALES_MARLIN;
}

/* ---- scales ---------------------------------------------------------------------------------------------- */

void tn_foreign_put_value(void *dst, size_t i, tn_dtype dtype, float x)
{
	uint16_t h = dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
	if (dtype == TN_F32)
		memcpy((unsigned char *)dst + i * sizeof x, &x, sizeof x);
	else
		memcpy((unsigned char *)dst + i * sizeof h, &h, sizeof h);
}

/* Scales, or zero points that lie like them, into their piece. */
static void put_scales(const struct tn_foreign *f, const struct tn_foreign_block *b, unsigned part, const float *values)
{
	const struct tn_foreign_piece *p = &b->piece[part];
	tn_dtype dtype = f->part[part].tensor->dtype;
	size_t groups = (size_t)tn_foreign_row_groups(f), skip = tn_foreign_skip(f, b, part);
	int marlin = f->scales == TN_SCALES_MARLIN;
	for (size_t r = 0; r < b->count; r++)
		for (size_t g = 0; g < groups; g++) {
			float x = values[r * groups + g];
			if (f->scales == TN_SCALES_FLAT)
				tn_foreign_put_value(p->bytes, r * groups + g, dtype, x);
			else if (f->scales == TN_SCALES_ROW)
				tn_foreign_put_value(p->bytes + r * p->stride, g, dtype, x);
			else
				tn_foreign_put_value(p->bytes + g * p->stride,
						     marlin ? tn_foreign_marlin_column(skip + r, groups == 1) : skip + r, dtype, x);
		}
}

/* ---- writing --------------------------------------------------------------------------------------------- */

/* To where foreign_read.c read it from. */
static tn_status write_piece(const struct tn_foreign *f, const struct tn_foreign_block *b, unsigned part,
			     const struct tn_tensor_sink *sink, const struct tn_tensor *output, struct tn_error *err)
{
	const struct tn_slab *s = &f->part[part];
	const struct tn_foreign_piece *p = &b->piece[part];
	uint64_t runs = s->stored ? s->stored : 1, run_bytes = output->bytes / runs, offset = p->first_cell * s->cell_bytes;
	if (p->width == run_bytes)
		return sink->put(sink->self, output, 0, p->bytes, (size_t)output->bytes, err);
	for (uint64_t i = 0; i < runs; i++)
		TN_TRY(sink->put(sink->self, output, i * run_bytes + offset, p->bytes + i * p->width,
				 (size_t)tn_min_u64(p->width, run_bytes - offset), err));
	return TN_OK;
}

tn_status tn_foreign_store(const struct tn_kernels *kernels, const struct tn_foreign *f, const struct tn_foreign_block *b,
			   const struct tn_grid_rows *rows, const struct tn_tensor_sink *sink,
			   struct tn_tensor *const outputs[TN_FOREIGN_PARTS], struct tn_error *err)
{
	const struct tn_foreign_piece *codes = &b->piece[TN_FOREIGN_CODES];
	struct tn_packed packed = { f->packing, f->bits, codes->bytes, codes->stride };
	kernels->repack_codes(codes->bytes, &packed, rows->codes, tn_foreign_skip(f, b, TN_FOREIGN_CODES), (size_t)b->count,
			      (size_t)f->cols);
	TN_TRY(write_piece(f, b, TN_FOREIGN_CODES, sink, outputs[TN_FOREIGN_CODES], err));
	if (!rows->scales)
		return TN_OK;
	put_scales(f, b, TN_FOREIGN_SCALES, rows->scales);
	TN_TRY(write_piece(f, b, TN_FOREIGN_SCALES, sink, outputs[TN_FOREIGN_SCALES], err));
	if (f->zeros != TN_ZEROS_COLUMN_FLOAT)
		return TN_OK;
	put_scales(f, b, TN_FOREIGN_ZEROS, rows->zeros);
	return write_piece(f, b, TN_FOREIGN_ZEROS, sink, outputs[TN_FOREIGN_ZEROS], err);
}
