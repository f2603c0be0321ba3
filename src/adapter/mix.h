/* What PEFT's combinations do to numbers of the same place in several matrices: some of each are left out, then they are added.
 * PEFT 0.21, utils/merge_utils.py: magnitude_based_pruning, random_pruning, calculate_majority_sign_mask, disjoint_merge. */
#ifndef TN_MIX_H
#define TN_MIX_H

#include "linear/lowrank.h"

enum tn_thinning {
	TN_THIN_NONE,
	TN_THIN_SMALLEST,   /* the int(density * elements) largest stay; of equal ones the first */
	TN_THIN_RANDOM      /* each stays with the probability `density`, divided by it */
};

struct tn_mix_rule {
	enum tn_thinning thinning;
	int elects;         /* only numbers with the sign of the sum count, and their mean is taken instead of their sum */
	int by_frequency;   /* that sign is of the sum of signs */
	double density;     /* in (0, 1] */
};

/* One of the matrices. */
struct tn_mix_source {
	struct tn_row_source rows;
	double weight;      /* factor, after the numbers are chosen */
	uint64_t seed;      /* of what is left out at random */
	/* What tn_mix_begin finds. */
	uint32_t least;     /* bits of the smallest magnitude that stays */
	uint64_t equals;    /* how many of exactly that stay */
	uint64_t seen;      /* how many were read so far */
	uint64_t *before;   /* of each row of the block: how many stand before it */
	float *block;       /* rows as they were read */
};

/* The mixture: rows.read makes it. Its sources are all of one shape. */
struct tn_mix {
	tn_context *ctx;
	const struct tn_mix_rule *rule;
	struct tn_mix_source *sources;
	size_t count;
	struct tn_row_source rows;
	size_t block_rows, first;    /* at most; of the block in memory */
	float *dst;
	struct tn_buffer memory;
};

/* Reads each source twice where the smallest are left out, to find what these are. `sources` have rows, weight and seed, and stay
 * the caller's, as the rule. Memory: 8 MB for each source. The same bits for any number of threads. After success tn_mix_end. */
tn_status tn_mix_begin(tn_context *ctx, const struct tn_mix_rule *rule, struct tn_mix_source *sources, size_t count,
		       struct tn_mix *mix, struct tn_error *err);
void tn_mix_end(struct tn_mix *mix);

/* A matrix in memory: rows of `cols` numbers. */
struct tn_rows_in_memory {
	const float *values;
	size_t cols;
};
struct tn_row_source tn_rows_in_memory(struct tn_rows_in_memory *matrix, size_t rows, const char *name);

/* scale * B A, rows by the workers: a [rank, cols], b [rows, rank]; in float32, as PEFT's get_delta_weight. */
struct tn_rows_of_product {
	tn_context *ctx;
	const float *a, *b;
	size_t rank, cols;
	double scale;
	size_t first;      /* of the rows being made */
	float *dst;
};
struct tn_row_source tn_rows_of_product(struct tn_rows_of_product *product, size_t rows, const char *name);

#endif
