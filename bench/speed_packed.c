/* SPDX-License-Identifier: Apache-2.0 */
/* Fuses of an adapter into a packed matrix that stays packed: what tenon fuse does with each row between reading and writing,
 * with its measure of what is left of the adapter. */
#include "speed.h"

#include <string.h>

void bench_fuse_packed(const struct bench *b, const struct tn_kernels *k, size_t first, size_t count, unsigned char *const *to,
		       void *scratch)
{
	const struct row *row = b->row;
	struct tn_edit_form form = { .by_rows = 1, .is_measured = 1, .cols = row->cols, .out = row->format, .seed = 1 };
	struct tn_loaded loaded = { .basis = b->basis, .delta = { .a = b->a, .b = b->b, .rank = row->rank, .cols = row->cols } };
	struct tn_survival_sums sum = { 0 };
	struct tn_row_edit e = { .kernels = k, .form = &form, .loaded = &loaded, .in = row->format, .out = row->format, .sum = &sum };
	loaded.delta.rows = loaded.delta.group_rows = OUT;
	loaded.delta.scale = 2;
	loaded.delta.left = loaded.delta.product = TN_BF16; /* as mlx-lm holds an adapter of BF16 */
	form.rounding = row->kind == FUSE_PACKED_NEAREST ? TN_ROUNDING_NEAREST : TN_ROUNDING_DITHER;
	memcpy(form.source_bytes, b->row_bytes, sizeof form.source_bytes);
	e.s = tn_edit_row_scratch(scratch, row->cols);
	for (size_t i = 0; i < count; i++) {
		e.row = e.delta_row = first + i;
		e.source = bench_row_at(b, b->turn % MATRICES, first + i);
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			e.result.part[p] = b->row_bytes[p] ? to[p] + i * b->row_bytes[p] : NULL;
		tn_requantize_row(&e);
	}
}
