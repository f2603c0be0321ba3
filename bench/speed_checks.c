/* SPDX-License-Identifier: Apache-2.0 */
/* What every row of `speed` made, against what it should have made. */
#include "speed.h"

#include "base/half.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

/* What `portable` makes of the same row: the bytes must be the same. */
static double check_recoded(struct bench *b)
{
	const struct row *row = b->row;
	const struct tn_kernels *portable = tn_kernels_for("portable");
	const struct tn_format bf16 = BF16;
	float *values = bench_memory(row->cols * 4);
	unsigned char *want = bench_memory(row->cols * 4);
	double wrong = 0;
	bench_ours(b);
	for (size_t i = 0; i < OUT; i += 97) {
		size_t m = b->turn % MATRICES;
		struct tn_row packed = bench_row_at(b, m, i), plain = { { b->dense[m] + i * row->cols } };
		struct tn_row_out out = { { want, want + row->cols * 2, want + row->cols * 3 } };
		if (row->kind == DEQUANTIZE) {
			portable->codec[row->format.codec]->decode(values, &packed, &row->format, row->cols);
			portable->codec[TN_CODEC_dense]->encode(&out, values, &bf16, row->cols);
			wrong += memcmp(want, plain.part[0], row->cols * 2) != 0;
			continue;
		}
		portable->codec[TN_CODEC_dense]->decode(values, &plain, &bf16, row->cols);
		portable->codec[row->format.codec]->encode(&out, values, &row->format, row->cols);
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			wrong += b->row_bytes[p] && memcmp(out.part[p], packed.part[p], b->row_bytes[p]) != 0;
	}
	return wrong;
}

/* The same of a fuse. */
static double check_fused_packed(struct bench *b)
{
	unsigned char *want[TN_PART_COUNT], *scratch = bench_memory(SCRATCH);
	double wrong = 0;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		want[p] = bench_memory(b->row_bytes[p] + 64);
	bench_ours(b);
	for (size_t i = 0; i < OUT; i += 97) {
		struct tn_row got = bench_row_at(b, (b->turn + MATRICES / 2) % MATRICES, i);
		bench_fuse_packed(b, tn_kernels_for("portable"), i, 1, want, scratch);
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			wrong += b->row_bytes[p] && memcmp(want[p], got.part[p], b->row_bytes[p]) != 0;
	}
	return wrong;
}

/* The largest error in units of the last place of BF16, in every 97th row. */
static double check_fused(struct bench *b)
{
	const struct row *row = b->row;
	size_t from = (b->turn + 1) % MATRICES, to = row->kind == FUSE ? (from + MATRICES / 2) % MATRICES : from;
	uint16_t *w = bench_memory(OUT * row->cols * 2);
	double worst = 0, *truth = bench_memory(row->cols * sizeof *truth);
	memcpy(w, b->dense[from], OUT * row->cols * 2);
	bench_ours(b);
	for (size_t i = 0; i < OUT; i += 97) {
		double squares = 0;
		for (size_t j = 0; j < row->cols; j++) {
			double sum = 0;
			for (size_t k = 0; k < row->rank; k++)
				sum += (double)b->b[i * row->rank + k] * (double)b->a[k * row->cols + j];
			truth[j] = (double)tn_f32_from_bf16(w[i * row->cols + j]) + 2 * sum;
			squares += truth[j] * truth[j];
		}
		double gain = row->kind == FUSE_DORA ? (double)b->magnitude[i] / sqrt(squares) : 1;
		for (size_t j = 0; j < row->cols; j++) {
			double got = (double)tn_f32_from_bf16(b->dense[to][i * row->cols + j]), want = gain * truth[j];
			worst = fmax(worst, fabs(got - want) / ldexp(1, (int)floor(log2(fmax(fabs(want), 1e-30))) - 7));
		}
	}
	munmap(truth, row->cols * sizeof *truth);
	munmap(w, OUT * row->cols * 2);
	return worst;
}

/* y against sums in double: the error relative to the largest, every 97th row of the matrix and every token. */
static double check_product(struct bench *b)
{
	const struct row *row = b->row;
	float *values = bench_memory(row->cols * 4);
	double error = 0, size = 0;
	bench_ours(b);
	for (size_t i = 0; i < OUT; i += 97) {
		struct tn_row at = bench_row_at(b, b->turn % MATRICES, i);
		tn_kernels_for("portable")->codec[row->format.codec]->decode(values, &at, &row->format, row->cols);
		for (size_t t = 0; t < row->m; t++) {
			double sum = 0;
			for (size_t j = 0; j < row->cols; j++)
				sum += (double)values[j] * (double)b->x[t * row->cols + j];
			for (size_t k = 0; k < row->rank; k++)
				sum += 2.0 * (double)tn_f32_from_bf16(b->factor_b[i * row->rank + k]) *
				       (double)b->t[t * row->rank + k];
			error += pow(sum - (double)b->y[t * OUT + i], 2);
			size += sum * sum;
		}
	}
	return sqrt(error / size);
}

static double check_adapters(struct bench *b)
{
	const struct row *row = b->row;
	double error = 0, size = 0;
	memset(b->y, 0, TOKENS * OUT * sizeof *b->y);
	bench_ours(b);
	for (size_t t = 0; t < TOKENS; t += 7) {
		size_t adapter = t * row->m / TOKENS, rank = row->rank ? row->rank : (size_t)8 << adapter % 4;
		const uint16_t *a = bench_factors_of(b, adapter), *f = a + rank * row->cols;
		double z[MOST_RANK] = { 0 };
		for (size_t k = 0; k < rank * row->cols; k++)
			z[k / row->cols] += (double)tn_f32_from_bf16(a[k]) * (double)b->x[t * row->cols + k % row->cols];
		for (size_t i = 0; i < OUT; i++) {
			double sum = 0;
			for (size_t k = 0; k < rank; k++)
				sum += 2 * z[k] * (double)tn_f32_from_bf16(f[i * rank + k]);
			error += pow(sum - (double)b->y[t * OUT + i], 2);
			size += sum * sum;
		}
	}
	return sqrt(error / size);
}

double bench_check(struct bench *b)
{
	switch (b->row->kind) {
	case FUSE:
	case FUSE_IN_PLACE:
	case FUSE_DORA: return check_fused(b);
	case FUSE_PACKED:
	case FUSE_PACKED_DITHER:
	case FUSE_PACKED_DORA:
	case FUSE_PACKED_DORA_DITHER: return check_fused_packed(b);
	case QUANTIZE:
	case DEQUANTIZE: return check_recoded(b);
	case QUANTIZE_NF4:
	case DEQUANTIZE_NF4: return bench_nf4_check(b);
	case ADAPTERS: return check_adapters(b);
	default: return check_product(b);
	}
}
