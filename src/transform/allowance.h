/* How far an element may be from the truth when a correct program of another arithmetic merged it. */
#ifndef TN_ALLOWANCE_H
#define TN_ALLOWANCE_H

#include "transform/edit.h"

struct tn_allowance {
	tn_dtype unit;             /* whose units in the last place errors are counted in */
	double slack;              /* by which the largest term counts as larger than it is */
	double of_products;        /* error allowed beside that, of the products' sizes */
	double of_truth;           /* and of the true value */
};

/* For one row of a target that was found as `found`. On a closer look (t->products) the row gets what these lose:
 * - programs that compute all of it in float32, as PEFT does: sums of `rank` products, norms of rows, singular vectors;
 * - programs that compute the delta in the dtype of the factors, as mlx-lm and PEFT do with BF16 and F16: the scale, scale * B
 *   and the product are rounded to it, three errors of a unit each;
 * - DoRA in the dtype of the weights (PEFT), which rounds sum, norm, quotient and result; mlx-lm has the quotient in F32 and
 *   writes that. */
void tn_allowance_make(const struct tn_edit_truth *t, const struct tn_edit_form *form, tn_dtype found, struct tn_allowance *out);

#endif
