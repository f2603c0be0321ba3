/* What one row of `speed` works with, and what its parts share. */
#ifndef BENCH_SPEED_H
#define BENCH_SPEED_H

#include "base/pool.h"
#include "transform/edit.h"

#include "speed_rows.h"

enum { MATRICES = 10, OUT = 4096, TASK_ROWS = 64, MANY_X_ROWS = 256, FUSE_ROWS = 512, SCRATCH = 2 << 20, MOST_RANK = 64 };

struct bench {
	const struct row *row;
	tn_context *ctx;
	const struct tn_kernels *k;
	unsigned threads;
	double (*peak)(size_t rounds, float *sink);
	size_t turn;                       /* which matrix is next: none is near when its turn comes */
	size_t row_bytes[TN_PART_COUNT];
	unsigned char *part[MATRICES][TN_PART_COUNT];
	uint16_t *dense[MATRICES], *factor_a, *factor_b;  /* BF16: matrices, or what is quantized; adapters */
	float *a, *b, *x, *y, *t;
	struct tn_loaded loaded;           /* the adapter as a fuse of packed rows has it */
	float *magnitude;                  /* of the rows of a DoRA */
	void *prepared;
	unsigned char *scratch;            /* SCRATCH for each worker */
	int lora;                          /* with the adapter, with all of them, or with its magnitudes */
	_Atomic unsigned sink;
};

/* On large pages and touched. Rows run in processes of their own, so that all of it ends with them. */
void *bench_memory(size_t bytes);
/* Where a row of a packed matrix lies. */
struct tn_row bench_row_at(const struct bench *b, size_t matrix, size_t row);
/* Adapter i of a matrix's worth of them: A and then B. */
const uint16_t *bench_factors_of(const struct bench *b, size_t i);
/* One round of the row: its seconds. */
double bench_ours(struct bench *b);
/* The error of one more round. */
double bench_check(struct bench *b);

/* A delta on a packed matrix: rows from first on, as tenon fuse writes them. */
void bench_load_packed(struct bench *b);
void bench_fuse_packed(const struct bench *b, const struct tn_kernels *k, size_t first, size_t count, unsigned char *const *to,
		       void *scratch);

/* Rows of the turn's matrix to nf4, or from it; 5 bytes of scratch for each column. */
void bench_nf4_make(struct bench *b);
void bench_nf4_rows(const struct bench *b, size_t first, size_t count, float *values);
double bench_nf4_check(struct bench *b);

#endif
