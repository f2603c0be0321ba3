/* Rows of the result: what a target's source becomes through the landings on it. The same for writing and for checking. */
#ifndef TN_EDIT_H
#define TN_EDIT_H

#include "transform/delta_cache.h"
#include "transform/parts.h"
#include "transform/survival.h"
#include "weights/foreign.h"

/* What is to become of a quantized target. */
struct tn_edit_choice {
	int dequantize;
	int promote_bits;        /* affine with that many bits in place of its own scheme; 0: its own */
	tn_rounding rounding;
};

/* How a target is cut: a unit is a row where something is computed, else a byte. */
struct tn_edit_form {
	uint64_t units;
	size_t cols;                           /* elements of a row */
	int by_rows;
	int apart;                             /* results are in other memory than the source; else they replace it */
	int is_measured;                       /* survival is added up: quantized before and after, and changed by a delta */
	struct tn_matrix in;                   /* by rows: how the source lies */
	struct tn_stored stored[TN_PART_COUNT];
	size_t source_bytes[TN_PART_COUNT];    /* of a unit */
	struct tn_format out;
	struct tn_part_plan result[TN_PART_COUNT]; /* of a unit */
	struct tn_stored dense;                /* the values before they were quantized, which deltas are added to; NULL: none */
	struct tn_format dense_format;
	size_t dense_bytes;                    /* of a unit */
	tn_rounding rounding;
	uint64_t seed;
	int gains_scales;                      /* scales, and zeros that are floats, take the gain of a row */
	int fits_scales;                       /* of a foreign grid: to nearest, with scales fitted anew */
	uint64_t alignment;                    /* of blocks; 0: any */
	uint64_t scratch_bytes;                /* beside the units */
};

/* The form of a target, and the tensors that it becomes. */
tn_status tn_edit_form_make(const struct tn_joint *joint, const struct tn_target *target,
			    const struct tn_edit_choice *choice, struct tn_arena *arena, struct tn_edit_form *form,
			    struct tn_tensor *outputs[TN_PART_COUNT], struct tn_error *err);
/* 1 where the scheme of a quantized target can be made finer to that many bits. */
int tn_edit_can_promote(const struct tn_target *target, int bits);

/* Bytes of a unit in the block buffers. */
uint64_t tn_edit_unit_bytes(const struct tn_edit_form *form);

/* A run of units in memory. */
struct tn_edit_block {
	uint64_t first, count;
	unsigned char *in[TN_PART_COUNT], *out[TN_PART_COUNT];
	unsigned char *dense;
	void *raw;                       /* of a foreign source: its pieces as they lie in the file */
	struct tn_foreign_block pieces;
	void *scratch;
};
/* Splits scratch of tn_edit_unit_bytes * count + form->scratch_bytes. `outputs` (NULL: none) are what it
 * will be written to; then source and result pass by the page cache. */
void tn_edit_place(const struct tn_edit_form *form, struct tn_tensor *const *outputs, uint64_t first, uint64_t count,
		   void *scratch, struct tn_edit_block *block);
tn_status tn_edit_read(const struct tn_joint *joint, const struct tn_edit_form *form, struct tn_edit_block *block,
		       struct tn_error *err);
/* Puts the result of a block where it belongs in its shard. */
tn_status tn_edit_write(const struct tn_joint *joint, const struct tn_edit_form *form, const struct tn_edit_block *block,
			struct tn_output *output, size_t shard, struct tn_tensor *const outputs[TN_PART_COUNT],
			struct tn_error *err);

/* Units of the result from those of the source. What the rows lose is added to *sum. */
tn_status tn_edit_units(const struct tn_joint *joint, const struct tn_target *target, const struct tn_edit_form *form,
			struct tn_delta_cache *cache, const struct tn_edit_block *block, struct tn_survival_sums *sum,
			struct tn_error *err);

/* One row that a landing changes: its number, the source, the exact result in double, and the size of the largest term of
 * each element. All [cols]. */
struct tn_edit_truth {
	uint64_t unit;
	const double *products;        /* of a closer look: the sum of the sizes of the products in each element of the delta,
	                                * which `size` counts too; else NULL, and it is of W and the delta */
	const float *source;
	const double *truth, *size;
	const struct tn_loaded *loaded;
	size_t delta_row;
};
/* Calls `visit` for every such row of the block. When it sets *closer, for a delta alone, it is called again for that row,
 * closely. */
typedef tn_status (*tn_edit_visit)(void *arg, const struct tn_edit_truth *row, int *closer, struct tn_error *err);
tn_status tn_edit_truths(const struct tn_joint *joint, const struct tn_target *target, const struct tn_edit_form *form,
			 struct tn_delta_cache *cache, const struct tn_edit_block *block, tn_edit_visit visit, void *arg,
			 struct tn_error *err);

/* How often blocks of `units` units take each slot: added to takes [slot_count]. */
void tn_edit_count_takes(const struct tn_joint *joint, const struct tn_target *target, uint64_t units_per_block,
			 uint64_t *takes);

/* ---- one row --------------------------------------------------------------------------------------------- */

/* Scratch of rows. */
struct tn_row_scratch {
	double *truth, *size;
	float *w, *after;
	float *wanted, *product;       /* rows of a delta, and of what is added of it: [TN_ROWS_AT_ONCE, cols] where it is
	                                * measured */
	uint16_t *halves;              /* the same number of rows, at tn_survival_stride */
	void *delta;
};
/* Splits the scratch of a form, which begins with a run of so many bytes. */
struct tn_row_scratch tn_edit_row_scratch(void *scratch, const struct tn_edit_form *form);
size_t tn_edit_row_bytes(const struct tn_edit_form *form);
/* Behind it, for rows of a delta of that rank. */
size_t tn_edit_delta_bytes(size_t rank, size_t cols);

/* A row between its source and its result. */
struct tn_row_edit {
	const struct tn_kernels *kernels;
	const struct tn_edit_form *form;
	const struct tn_loaded *loaded;
	size_t delta_row;
	uint64_t row;                  /* of the target */
	struct tn_format in, out;      /* with the global scale of this row */
	struct tn_row source, dense;
	struct tn_row_out result;
	struct tn_row_scratch s;
	double gain;                   /* of the whole row, once its delta has been made */
	struct tn_survival_sums *sum;
};

/* The values that the delta is added to. */
void tn_edit_source(const struct tn_row_edit *edit, float *dst);

/* Source and result quantized: moves codes, refits or encodes anew, and measures what it did. Up to TN_ROWS_AT_ONCE rows of one
 * group of the delta, which share their scratch. */
void tn_requantize_rows(struct tn_row_edit *edits, size_t count);
/* Scales and biases of the result are those of the source. */
void tn_requantize_keep_scales(const struct tn_row_edit *edit);

#endif
