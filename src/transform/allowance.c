/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/allowance.h"

#include "transform/ulp.h"

#include <math.h>

static const double roundings = 3; /* of the scale, of scale * B, and of the product with A */

static int has_gain(const struct tn_delta *d)
{
	return d->row_magnitude || d->column_gain;
}

/* In terms of one rounding of the largest term. */
static double slack_of(const struct tn_delta *d, tn_dtype unit)
{
	if (unit == TN_F32)
		return 1 + (double)d->rank / 8 + (has_gain(d) ? 4 : 0) + (d->removed.rank ? 256 : 0);
	return has_gain(d) ? 2 : 1;
}

static double length(const double *x, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	return sqrt(sum);
}

void tn_allowance_make(const struct tn_edit_truth *t, const struct tn_edit_form *f, tn_dtype found, struct tn_allowance *out)
{
	const struct tn_delta *d = t->loaded && !t->loaded->rows ? &t->loaded->delta : NULL;
	int gained = d && has_gain(d);
	*out = (struct tn_allowance){ .unit = found, .slack = 1 };
	if (gained && tn_dtype_unit(f->out.dtype) > tn_dtype_unit(found))
		out->unit = f->out.dtype;
	if (!t->products)
		return;
	out->slack = slack_of(d, out->unit);
	if (tn_dtype_unit(d->coarsest) <= tn_dtype_unit(out->unit))
		return;
	out->of_products = roundings * tn_dtype_unit(d->coarsest);
	double size = gained ? length(t->truth, f->cols) : 0; /* an error of the norm is one of all the row */
	if (size > 0)
		out->of_truth = out->of_products * length(t->products, f->cols) / size;
}
