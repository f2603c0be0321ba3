/* SPDX-License-Identifier: Apache-2.0 */
/* Factors of a lower rank for a product of factors. */
#include "linear/lowrank.h"

#include "base/error.h"
#include "linear/factorise.h"

#include <math.h>
#include <string.h>

void tn_lowrank_release(tn_context *ctx, struct tn_lowrank_factors *factors)
{
	tn_buffer_release(ctx, &factors->memory);
	*factors = (struct tn_lowrank_factors){ 0 };
}

uint64_t tn_rank_for(const double *squares, size_t count, double total, const struct tn_rank_rule *rule)
{
	const double noise = 1e-26; /* what is below the rounding of doubles is nothing that W holds */
	size_t k = 0;
	double sum = 0;
	do
		sum += squares[k++];
	while (k < count && k != rule->rank && !(sum >= rule->energy * total) && squares[k] > squares[0] * noise);
	return k;
}

void tn_lowrank_cut(struct tn_lowrank_factors *factors, size_t rows, uint64_t rank)
{
	double sum = 0;
	for (size_t i = 0; i < rows && rank < factors->rank; i++)
		memmove(factors->b + i * rank, factors->b + i * factors->rank, (size_t)rank * sizeof *factors->b);
	for (size_t t = 0; t < rank; t++)
		sum += factors->s[t] * factors->s[t];
	factors->kept = factors->total > 0 ? fmin(sum / factors->total, 1) : 1;
	factors->rank = rank;
}

/* B with its scales, and A^T. */
static void widen(const struct tn_factor_product *p, const struct tn_panels *left, const struct tn_panels *right)
{
	tn_panels_clear(left);
	tn_panels_clear(right);
	for (size_t t = 0; t < p->rank; t++) {
		double scale = p->scales ? p->scales[t] : 1;
		for (size_t i = 0; i < p->rows; i++)
			*tn_panels_element(left, i, t) = scale * (double)p->b[i * p->rank + t];
		for (size_t i = 0; i < p->cols; i++)
			*tn_panels_element(right, i, t) = (double)p->a[t * p->cols + i];
	}
}

tn_status tn_lowrank_of_product(tn_context *ctx, const struct tn_factor_product *product, const struct tn_rank_rule *rule,
				const char *name, struct tn_lowrank_factors *out, struct tn_error *err)
{
	struct tn_buffer memory;
	uint64_t work = 0, left = 0, right = 0;
	TN_TRY(tn_factorise_size(product->rows, product->cols, product->rank, name, &work, err));
	(void)tn_panels_size(product->rows, product->rank, &left);
	(void)tn_panels_size(product->cols, product->rank, &right);
	TN_TRY(tn_buffer_alloc(ctx, (size_t)(work + left + right) * sizeof(double), name, &memory, err));
	double *at = memory.data;
	struct tn_panel_product p = { { at + work, product->rows, product->rank },
				      { at + work + left, product->cols, product->rank }, -1, name };
	widen(product, &p.left, &p.right);
	tn_status status = tn_factorise(ctx, &p, rule, at, out, err);
	tn_buffer_release(ctx, &memory);
	return status;
}
