/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/survival.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

static const double rank_tolerance = 1e-5;

void tn_basis_make(const struct tn_kernels *k, const float *a, size_t rank, size_t cols, double *basis)
{
	for (size_t i = 0; i < rank; i++)
		for (size_t j = 0; j <= i; j++)
			basis[i * rank + j] = (double)k->dot_f32(a + i * cols, a + j * cols, cols);
	for (size_t j = 0; j < rank; j++) {
		double pivot = basis[j * rank + j], size = pivot;
		for (size_t i = 0; i < j; i++)
			pivot -= basis[j * rank + i] * basis[j * rank + i];
		double diagonal = pivot > size * rank_tolerance ? sqrt(pivot) : 0;
		basis[j * rank + j] = diagonal;
		for (size_t i = j + 1; i < rank; i++) {
			double sum = basis[i * rank + j];
			for (size_t t = 0; t < j; t++)
				sum -= basis[i * rank + t] * basis[j * rank + t];
			basis[i * rank + j] = diagonal > 0 ? sum / diagonal : 0;
			basis[j * rank + i] = 0;
		}
	}
}

void tn_survival_add(struct tn_survival_sums *sum, const struct tn_survival_sums *part)
{
	sum->step2 += part->step2;
	sum->delta2 += part->delta2;
	sum->error2 += part->error2;
	sum->kept += part->kept;
	sum->captured2 += part->captured2;
	sum->wanted2 += part->wanted2;
	sum->codes += part->codes;
	sum->moved += part->moved;
	sum->clamped += part->clamped;
	sum->dense2 += part->dense2;
	sum->drift2 += part->drift2;
	sum->not_finite |= part->not_finite;
}

/* Coordinates of scale * B A: scale * b L. */
static void product_coordinates(const struct tn_delta *delta, const double *basis, size_t row, double *dst)
{
	const float *b = delta->b + row * delta->rank;
	for (size_t j = 0; j < delta->rank; j++) {
		double sum = 0;
		for (size_t i = j; i < delta->rank; i++)
			sum += (double)b[i] * basis[i * delta->rank + j];
		dst[j] = delta->scale * sum;
	}
}

double tn_survival_product2(const struct tn_delta *delta, const double *basis, size_t row, double *scratch)
{
	double sum = 0;
	product_coordinates(delta, basis + row / delta->group_rows * delta->rank * delta->rank, row, scratch);
	for (size_t i = 0; i < delta->rank; i++)
		sum += scratch[i] * scratch[i];
	return sum;
}

/* Columns of one block, [rank][TN_DIRECTION_COLS]: L^-1 A, by forward substitution. */
static void make_block(const float *a, size_t rank, size_t cols, size_t n, const double *basis, float *u)
{
	for (size_t k = 0; k < rank; k++, u += TN_DIRECTION_COLS) {
		const double *l = basis + k * rank;
		for (size_t j = 0; j < TN_DIRECTION_COLS; j++)
			u[j] = j < n && l[k] > 0 ? a[k * cols + j] : 0;
		for (size_t i = 0; i < k && l[k] > 0; i++) {
			const float *before = u - (k - i) * TN_DIRECTION_COLS;
			for (size_t j = 0; j < TN_DIRECTION_COLS; j++)
				u[j] -= (float)l[i] * before[j];
		}
		for (size_t j = 0; j < TN_DIRECTION_COLS && l[k] > 0; j++)
			u[j] *= (float)(1 / l[k]);
	}
}

size_t tn_directions_bytes(size_t rank, size_t cols)
{
	return rank * tn_survival_stride(cols) * sizeof(uint16_t);
}

void tn_directions_make(const float *a, size_t rank, size_t cols, const double *basis, float *work, uint16_t *dst)
{
	for (size_t first = 0; first < cols; first += TN_DIRECTION_COLS, dst += rank * TN_DIRECTION_COLS) {
		size_t n = cols - first < TN_DIRECTION_COLS ? cols - first : TN_DIRECTION_COLS;
		make_block(a + first, rank, cols, n, basis, work);
		for (size_t i = 0; i < rank * TN_DIRECTION_COLS; i++)
			dst[i] = tn_bf16_from_f32(fabsf(work[i]) < 0x1p-60f ? 0 : work[i]);
	}
}

/* Where squares overflow or vanish in float32. */
static void add_in_double(struct tn_change_sums *sums, const float *before, const float *after, const float *wanted, size_t n)
{
	*sums = (struct tn_change_sums){ 0, 0, 0 };
	for (size_t i = 0; i < n; i++) {
		double d = (double)wanted[i], e = (double)(after[i] - before[i]) - d;
		sums->wanted2 += d * d;
		sums->error2 += e * e;
		sums->both += e * d;
	}
}

static int is_usual(double square)
{
	return square > 0x1p-80 && square < 0x1p100;
}

int tn_survival_is_usual(const struct tn_change_sums *s)
{
	return is_usual(s->wanted2) && is_usual(s->error2);
}

void tn_survival_sum_row(struct tn_change_sums *s, const struct tn_survival_rows *r, size_t i, const float *before,
			 const float *after, const float *wanted)
{
	*s = (struct tn_change_sums){ 0, 0, 0 };
	r->kernels->change_sums(s, r->halves + i * tn_survival_stride(r->cols), before, after, wanted, r->cols);
	if (!tn_survival_is_usual(s))
		add_in_double(s, before, after, wanted, r->cols);
}

void tn_survival_add_row(struct tn_survival_sums *sum, const struct tn_survival_rows *r, const struct tn_change_sums *s,
			 double steps2, int is_product)
{
	sum->step2 += steps2;
	sum->delta2 += s->wanted2;
	sum->error2 += s->error2;
	sum->codes += r->cols;
	sum->not_finite |= !isfinite(s->error2);
	if (!r->directions || !is_product)
		return;
	sum->kept += s->both + s->wanted2; /* <R, D>, for D U is D */
	sum->wanted2 += s->wanted2;
}

void tn_survival_add_directions(struct tn_survival_sums *sum, const struct tn_survival_rows *r, size_t count)
{
	r->kernels->project_rows(r->coordinates, r->directions, r->rank, r->cols, r->halves, tn_survival_stride(r->cols), count);
	for (size_t i = 0; i < count * r->rank; i++)
		sum->captured2 += (double)r->coordinates[i] * (double)r->coordinates[i];
}

void tn_survival_add_both(struct tn_survival_sums *sum, const struct tn_survival_rows *r, const float *wanted, size_t count)
{
	static const struct tn_format bf16 = { .codec = TN_CODEC_dense, .dtype = TN_BF16 };
	const size_t stride = tn_survival_stride(r->cols);
	const float *x = r->coordinates, *y = x + count * r->rank;
	for (size_t i = 0; i < count; i++) {
		uint16_t *halves = r->halves + (count + i) * stride;
		r->kernels->codec[TN_CODEC_dense]->encode(&(struct tn_row_out){ { halves } }, wanted + i * r->cols, &bf16, r->cols);
		memset(halves + r->cols, 0, (stride - r->cols) * sizeof *halves);
	}
	r->kernels->project_rows(r->coordinates, r->directions, r->rank, r->cols, r->halves, stride, 2 * count);
	for (size_t i = 0; i < count * r->rank; i++) {
		sum->kept += (double)x[i] * (double)y[i];
		sum->captured2 += (double)x[i] * (double)x[i];
		sum->wanted2 += (double)y[i] * (double)y[i];
	}
}

enum { WORDS = 8 };

/* Nibbles that differ in WORDS words: a bit for each, added up in their bytes. */
static uint64_t count_many(const unsigned char *a, const unsigned char *b)
{
	uint64_t x[WORDS], y[WORDS], sum = 0;
	memcpy(x, a, sizeof x);
	memcpy(y, b, sizeof y);
	for (int i = 0; i < WORDS; i++) {
		x[i] ^= y[i];
		x[i] |= x[i] >> 2;
		x[i] = (x[i] | x[i] >> 1) & 0x1111111111111111u;
	}
	for (int i = 0; i < WORDS; i++)
		sum += x[i]; /* at most 8 in each nibble */
	sum = (sum & 0x0F0F0F0F0F0F0F0Fu) + (sum >> 4 & 0x0F0F0F0F0F0F0F0Fu);
	return sum * 0x0101010101010101u >> 56;
}

uint64_t tn_survival_count_codes(const unsigned char *a, const unsigned char *b, size_t codes, unsigned bits)
{
	uint64_t count = 0;
	size_t i = 0;
	for (; bits == 4 && i + 16 * WORDS <= codes; i += 16 * WORDS)
		count += count_many(a + i / 2, b + i / 2);
	for (; i < codes; i++) {
		size_t at = i * bits;
		unsigned low = (unsigned)(a[at / 8] ^ b[at / 8]) >> at % 8, width = 8 - (unsigned)(at % 8);
		if (width < bits)
			low |= (unsigned)(a[at / 8 + 1] ^ b[at / 8 + 1]) << width;
		count += (low & ((1u << bits) - 1)) != 0;
	}
	return count;
}

struct tn_survival tn_survival_of(const struct tn_survival_sums *s, tn_rounding rounding)
{
	struct tn_survival out = { .rounding = rounding, .codes = s->codes, .changed = s->moved, .clamped = s->clamped };
	int any = s->wanted2 > 0 && s->delta2 > 0;
	out.rho = s->delta2 > 0 ? sqrt(s->step2 / s->delta2) : HUGE_VAL;
	out.cap = any ? s->kept / s->wanted2 : 1;
	out.cosine = any && s->captured2 > 0 ? s->kept / sqrt(s->captured2 * s->wanted2) : any ? 0 : 1;
	out.noise = s->step2 > 0 ? s->error2 / (s->step2 / 12) : 0;
	return out;
}
