/* SPDX-License-Identifier: Apache-2.0 */
/* Rows to and from nf4 of bitsandbytes by the kernels that tenon convert and dequantize take, blocks of 64: to it through
 * float32. The codes of a matrix stand in its first part, the largest magnitudes of the blocks in its second. */
#include "speed.h"

#include "weights/nf4.h"

#include <string.h>

static struct tn_row_out row_of(const struct bench *b, size_t matrix, size_t i)
{
	const size_t cols = b->row->cols;
	return (struct tn_row_out){ { b->part[matrix][0] + i * cols / 2,
				      b->part[matrix][1] + i * cols / TN_LEVEL_BLOCK * sizeof(float) } };
}

static void encode(const struct bench *b, const struct tn_kernels *k, const uint16_t *from, const struct tn_row_out *to,
		   float *values)
{
	const size_t cols = b->row->cols;
	struct tn_row in = { { from } };
	float bounds[15];
	for (int i = 0; i < 15; i++)
		bounds[i] = (tn_nf4_levels[i] + tn_nf4_levels[i + 1]) / 2;
	k->codec[TN_CODEC_dense]->decode(values, &in, &b->row->format, cols);
	k->level_codes(to->part[0], to->part[1], values, cols / TN_LEVEL_BLOCK, bounds);
}

static void decode(const struct tn_kernels *k, uint16_t *to, const struct tn_row_out *from, size_t n)
{
	float table[256] = { 0 };
	const struct tn_grid grid = {
		.table = table, .code_count = 16, .scales = from->part[1], .group = TN_LEVEL_BLOCK, .factor = 1
	};
	memcpy(table, tn_nf4_levels, sizeof tn_nf4_levels);
	k->nibble_values(to, TN_BF16, from->part[0], 0, n, &grid, 1);
}

void bench_nf4_make(struct bench *b)
{
	float *values = bench_memory(b->row->cols * 5);
	for (size_t m = 0; m < MATRICES; m++) {
		b->part[m][1] = bench_memory(OUT * b->row->cols / TN_LEVEL_BLOCK * sizeof(float));
		for (size_t i = 0; i < OUT; i++) {
			struct tn_row_out to = row_of(b, m, i);
			encode(b, b->k, b->dense[m] + i * b->row->cols, &to, values);
		}
	}
}

void bench_nf4_rows(const struct bench *b, size_t first, size_t count, float *values)
{
	const size_t m = b->turn % MATRICES, cols = b->row->cols;
	if (b->row->kind == DEQUANTIZE_NF4) {
		struct tn_row_out packed = row_of(b, m, first);
		decode(b->k, b->dense[m] + first * cols, &packed, count * cols);
		return;
	}
	for (size_t i = first; i < first + count; i++) {
		struct tn_row_out packed = row_of(b, m, i);
		encode(b, b->k, b->dense[m] + i * cols, &packed, values);
	}
}

double bench_nf4_check(struct bench *b)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	const size_t cols = b->row->cols, scales = cols / TN_LEVEL_BLOCK * sizeof(float);
	float *values = bench_memory(cols * 5);
	unsigned char *want = bench_memory(cols * 2);
	double wrong = 0;
	bench_ours(b);
	for (size_t i = 0; i < OUT; i += 97) {
		struct tn_row_out packed = row_of(b, b->turn % MATRICES, i), out = { { want, want + cols } };
		uint16_t *dense = b->dense[b->turn % MATRICES] + i * cols;
		if (b->row->kind == QUANTIZE_NF4) {
			encode(b, portable, dense, &out, values);
			wrong += memcmp(want, packed.part[0], cols / 2) != 0 || memcmp(want + cols, packed.part[1], scales) != 0;
		} else {
			decode(portable, (uint16_t *)(void *)want, &packed, cols);
			wrong += memcmp(want, dense, cols * 2) != 0;
		}
	}
	return wrong;
}
