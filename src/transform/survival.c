/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/survival.h"

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

/* Coordinates of any row x: L^-1 (A x). */
static void coordinates(const struct tn_survival_row *r, const double *basis, const float *x, double *dst)
{
	const struct tn_delta *d = r->delta;
	const float *a = d->a + r->row / d->group_rows * d->rank * d->cols;
	for (size_t i = 0; i < d->rank; i++) {
		double pivot = basis[i * d->rank + i], sum = (double)r->kernels->dot_f32(a + i * d->cols, x, d->cols);
		for (size_t j = 0; j < i; j++)
			sum -= basis[i * d->rank + j] * dst[j];
		dst[i] = pivot > 0 ? sum / pivot : 0;
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

static void add_directions(struct tn_survival_sums *sum, const struct tn_survival_row *r, const float *change)
{
	size_t rank = r->delta->rank;
	const double *basis = r->basis + r->row / r->delta->group_rows * rank * rank;
	double *x = r->scratch, *y = x + rank;
	coordinates(r, basis, change, x);
	if (r->product)
		product_coordinates(r->delta, basis, r->row, y);
	else
		coordinates(r, basis, r->wanted, y);
	for (size_t i = 0; i < rank; i++) {
		sum->kept += x[i] * y[i];
		sum->captured2 += x[i] * x[i];
		sum->wanted2 += y[i] * y[i];
	}
}

void tn_survival_add_row(struct tn_survival_sums *sum, const struct tn_survival_row *r)
{
	size_t cols = r->delta->cols;
	float *change = (float *)(r->scratch + 2 * r->delta->rank);
	double squares[3] = { 0 };
	r->kernels->change_squares(squares, change, r->before, r->after, r->wanted, r->step, cols);
	sum->step2 += squares[0];
	sum->delta2 += squares[1];
	sum->error2 += squares[2];
	sum->codes += cols;
	sum->not_finite |= !isfinite(squares[2]);
	if (r->basis)
		add_directions(sum, r, change);
}

/* Nibbles that differ in 16 codes: their bits come together in the lowest of each. */
static uint64_t count_nibbles(const unsigned char *a, const unsigned char *b)
{
	uint64_t x, y;
	memcpy(&x, a, sizeof x);
	memcpy(&y, b, sizeof y);
	x ^= y;
	x |= x >> 2;
	x = (x | x >> 1) & 0x1111111111111111u;
	return ((x + (x >> 4)) & 0x0303030303030303u) * 0x0101010101010101u >> 56;
}

uint64_t tn_survival_count_codes(const unsigned char *a, const unsigned char *b, size_t codes, unsigned bits)
{
	uint64_t count = 0;
	size_t i = 0;
	for (; bits == 4 && i + 16 <= codes; i += 16)
		count += count_nibbles(a + i / 2, b + i / 2);
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
