/* SPDX-License-Identifier: Apache-2.0 */
/* Fuses of an adapter into a packed matrix that stays packed: what tenon fuse does with each row between reading and writing,
 * with its measure of what is left of the adapter. */
#include "speed.h"

#include <string.h>

void bench_load_packed(struct bench *b)
{
	const struct row *row = b->row;
	const size_t rank = row->rank, cols = row->cols;
	struct tn_delta *d = &b->loaded.delta;
	double *basis = bench_memory(rank * rank * sizeof *basis);
	void *directions = bench_memory(tn_directions_bytes(rank, cols)), *packed;
	*d = (struct tn_delta){ .a = b->a, .b = b->b, .rank = rank, .cols = cols, .rows = OUT, .group_rows = OUT, .scale = 2,
				.left = TN_BF16, .product = TN_BF16 }; /* as mlx-lm holds an adapter of BF16 */
	if (row->kind == FUSE_PACKED_DORA || row->kind == FUSE_PACKED_DORA_DITHER)
		d->row_magnitude = b->magnitude;
	d->width = tn_delta_width(d);
	packed = bench_memory(b->k->lowrank_bytes(d->width, rank, cols));
	tn_basis_make(b->k, b->a, rank, cols, basis);
	tn_directions_make(b->a, rank, cols, basis, (float *)(void *)b->scratch, directions);
	b->loaded.least = b->k->lowrank_pack(packed, b->a, d->width, rank, cols);
	b->loaded.basis = basis;
	b->loaded.directions = directions;
	b->loaded.packed = packed;
}

void bench_fuse_packed(const struct bench *b, const struct tn_kernels *k, size_t first, size_t count, unsigned char *const *to,
		       void *scratch)
{
	const struct row *row = b->row;
	struct tn_edit_form form = { .by_rows = 1, .is_measured = 1, .cols = row->cols, .out = row->format, .seed = 1 };
	struct tn_survival_sums sum = { 0 };
	struct tn_row_edit e = {
		.kernels = k, .form = &form, .loaded = &b->loaded, .in = row->format, .out = row->format, .sum = &sum
	};
	struct tn_row_edit edits[TN_ROWS_AT_ONCE];
	form.rounding = row->kind == FUSE_PACKED || row->kind == FUSE_PACKED_DORA ? TN_ROUNDING_NEAREST : TN_ROUNDING_DITHER;
	form.gains_scales = !k->codec[row->format.codec]->byte_scales;
	memcpy(form.source_bytes, b->row_bytes, sizeof form.source_bytes);
	e.s = tn_edit_row_scratch(scratch, &form);
	for (size_t i = 0; i < count; i += TN_ROWS_AT_ONCE) {
		size_t n = count - i < TN_ROWS_AT_ONCE ? count - i : TN_ROWS_AT_ONCE;
		for (size_t r = 0; r < n; r++) {
			e.row = e.delta_row = first + i + r;
			e.source = bench_row_at(b, b->turn % MATRICES, first + i + r);
			for (unsigned p = 0; p < TN_PART_COUNT; p++)
				e.result.part[p] = b->row_bytes[p] ? to[p] + (i + r) * b->row_bytes[p] : NULL;
			edits[r] = e;
		}
		tn_requantize_rows(edits, n);
	}
}
