/* The way through two rows whose difference is summed: runs of TN_CHANGE_RUN columns in blocks of TN_DIRECTION_COLS. */
#ifndef TN_CHANGE_RUNS_H
#define TN_CHANGE_RUNS_H

#include "kernels/quant.h"

/* Where a row, or a part of it, stands; halves: where its change goes. */
struct change_row {
	uint16_t *halves;
	const float *before, *after, *wanted;
};

TN_INLINE struct change_row change_from(const struct change_row *r, size_t i)
{
	return (struct change_row){ r->halves + i, r->before + i, r->after + i, r->wanted + i };
}

/* Adds whole blocks, n columns, and then `rest`, one block with zeros behind its columns, or NULL. */
typedef void (*tn_add_run)(struct tn_change_sums *sums, const struct change_row *run, size_t n, const struct change_row *rest);

TN_INLINE void add_runs(struct tn_change_sums *sums, const struct change_row *row, size_t n, tn_add_run add_run)
{
	float copy[3][TN_DIRECTION_COLS] = { { 0 } };
	const size_t left = n % TN_DIRECTION_COLS, whole = n - left;
	const struct change_row rest = { row->halves + whole, copy[0], copy[1], copy[2] };
	memcpy(copy[0], row->before + whole, left * sizeof **copy);
	memcpy(copy[1], row->after + whole, left * sizeof **copy);
	memcpy(copy[2], row->wanted + whole, left * sizeof **copy);
	for (size_t i = 0; i < n; i += TN_CHANGE_RUN) {
		const struct change_row run = change_from(row, i);
		const int is_last = n - i <= TN_CHANGE_RUN;
		add_run(sums, &run, is_last ? whole - i : TN_CHANGE_RUN, is_last && left ? &rest : NULL);
	}
}

#endif
