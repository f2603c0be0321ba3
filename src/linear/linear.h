/* One matrix of a base, or a stack of them, from inside: a view of bytes that are somebody else's. And what adapters do to
 * its product with activations. */
#ifndef TN_LINEAR_LINEAR_H
#define TN_LINEAR_LINEAR_H

#include "base/context.h"
#include "kernels/kernels.h"
#include "tenon/linear.h"

struct tn_linear {
	tn_context *ctx;
	struct tn_format format;
	uint64_t experts;                 /* 0: one matrix, no stack */
	size_t out, in;
	const unsigned char *part[TN_PART_COUNT];
	size_t row_bytes[TN_PART_COUNT];
	const unsigned char *global_scale; /* F32, one or one for each expert, at any alignment; NULL: none */
	uint64_t global_count;
	const float *bias;                /* [experts or 1, out]; NULL: none */
	struct tn_buffer bias_memory;     /* of tn_linear_create */
};

/* The format of one expert (0 for a matrix): with its global scale. */
struct tn_format tn_linear_format(const tn_linear *linear, uint64_t expert);
/* Row `row` of that expert as it lies. */
struct tn_row tn_linear_row(const tn_linear *linear, uint64_t expert, size_t row);

/* ---- edits ----------------------------------------------------------------------------------------------- */

/* scale * B A; the factors of a stack's delta are those of one expert. Factors are aligned to their dtypes. */
struct tn_pair {
	const void *a, *b;       /* A [rank, in], B [rows, rank] */
	tn_dtype a_dtype, b_dtype;
	size_t rank;             /* 0: no pair */
	float scale;
};

/* What is done to rows [row, row + rows) of one matrix: W becomes gain * (W + added - removed) * column_gain; or, with
 * `values`, the rows become those. */
struct tn_patch {
	size_t row, rows;
	struct tn_pair pair[2];      /* added; removed, with a negative scale */
	const float *row_gain;       /* [rows] or NULL */
	const float *column_gain;    /* [in] or NULL; only where the patch is the whole matrix, and the only one */
	const float *values;         /* [rows, in] or NULL */
};

/* Rows of x that share patches: consecutive ones. */
struct tn_patched_rows {
	size_t m;
	const struct tn_patch *patches;
	size_t patch_count;
	const float *bias;           /* [out] or NULL */
};

/* y = x W^T with edits. Groups cover the m rows of x in their order. */
struct tn_forward {
	const tn_linear *linear;
	uint64_t expert;
	enum tn_precision precision;
	size_t m;
	const float *x;
	tn_dtype x_dtype;            /* what x was before it was float32: BF16, F16, or anything else */
	size_t x_stride;
	float *y;
	size_t y_stride;
	const size_t *order;         /* where row t of x goes in y; NULL: to row t */
	const struct tn_patched_rows *groups;
	size_t group_count;
	size_t rank;                 /* largest sum of ranks of a group's pairs */
};

enum { TN_MOST_TOGETHER = 4 };

/* Products of the same x: matrices of one width; m, x, x_stride, x_dtype and precision are those of the first. No allocation.
 * Scratch is aligned to 64. The same bits for any number of threads, and as each alone. */
void tn_forward_run(const struct tn_forward *forwards, size_t count, void *scratch);
/* Bytes of scratch for forwards with these linears, precisions, m and ranks, of which nothing else is looked at; scattered: each
 * may have an order. */
size_t tn_forward_scratch_bytes(const struct tn_forward *forwards, size_t count, int scattered);

/* Sum of the ranks of all pairs. */
size_t tn_patches_rank(const struct tn_patch *patches, size_t count);

/* Row `row` of the edited matrix as float32: y [in]. */
void tn_embed_row(const tn_linear *linear, uint64_t expert, size_t row, const struct tn_patch *patches, size_t count,
		  float *y);

#endif
