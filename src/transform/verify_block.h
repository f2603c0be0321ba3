/* A block of rows of the merged checkpoint, compared with what base plus adapter is there. */
#ifndef TN_VERIFY_BLOCK_H
#define TN_VERIFY_BLOCK_H

#include "transform/fuse.h"

/* What was found in one or more blocks of a tensor. */
struct tn_verify_finding {
	double max_ulp, square_sum; /* against W + delta, at the true value */
	double worst;               /* the largest error in units at the largest term, for the verdict */
	uint64_t first_row;         /* of those that hold what they should not; TN_VERIFY_NO_ROW: none */
	int differs;                /* from the base, in any byte */
	int not_as_fused;           /* from what a fuse writes, in any byte */
	int strays;                 /* from the base, in rows that should not change */
	int not_finite;             /* a value is NaN or infinite where the true one is not */
	int far_off;                /* quantized values are further from the truth than any rounding takes them */
	uint64_t scales, new_scales; /* of groups, and those that are not the base's */
	uint64_t odd_scales;         /* nvfp4: of those, what no value of the group asks for */
	uint64_t odd_row;            /* the first with such a one */
	struct tn_survival_sums sums;
};

/* By how many units in the last place of the largest term any element may be off. */
#define TN_VERIFY_ULPS 2.0

void tn_verify_add(struct tn_verify_finding *sum, const struct tn_verify_finding *part);

/* A step of the fuse that would have been, and what stands in its place. */
struct tn_verify_block {
	const struct tn_fuse *fuse;
	const struct tn_fuse_step *step;
	const tn_checkpoint *merged;
	const struct tn_matrix *other;       /* in `merged` */
	struct tn_delta_cache *deltas;
	uint64_t first, count;               /* units */
};
/* Memory of a block beside the form's. */
struct tn_fuse_extra tn_verify_extra(const struct tn_edit_form *form, const struct tn_matrix *other);
/* Rows of both have the same parts and sizes. */
static inline int tn_verify_same_row_bytes(const struct tn_matrix *m, const struct tn_edit_form *f)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (m->row_bytes[p] != f->result[p].row_bytes)
			return 0;
	return 1;
}
/* Fills *finding, which is zero but for the rows. Scratch: the form's, and the extra. */
tn_status tn_verify_compare(const struct tn_verify_block *block, void *scratch, struct tn_verify_finding *finding,
			    struct tn_error *err);

/* ---- groups of a quantized row ----------------------------------------------------------------------------- */

/* A row of the merged matrix, the base's, and the truth. */
struct tn_verify_groups {
	const struct tn_kernels *kernels;
	const struct tn_row *found, *base;
	const struct tn_format *found_format, *base_format;
	size_t cols;
	const float *values;                 /* of `found` */
	const double *truth;
	const double *products;              /* as in tn_edit_truth; NULL: not looked at */
	int is_gained;                       /* DoRA: in what scales are rounded to, and norms in, the row is larger or smaller */
	tn_dtype unit;                       /* in which values were rounded before they were quantized */
};
/* 1 when some group holds values that no rounding of the truth has. What a rounding may do: either value beside it, on either
 * grid; where the grid ends, its end. Adds to finding->scales and odd_scales. */
int tn_verify_groups_are_off(const struct tn_verify_groups *row, struct tn_verify_finding *finding);

#endif
