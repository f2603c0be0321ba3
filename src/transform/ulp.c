/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/ulp.h"

#include <math.h>

double tn_dtype_unit(tn_dtype dtype)
{
	return dtype == TN_BF16 ? 0x1p-8 : dtype == TN_F16 ? 0x1p-11 : 0x1p-24;
}

double tn_ulp(tn_dtype dtype, double x)
{
	int digits = dtype == TN_F32 ? 23 : dtype == TN_F16 ? 10 : 7;
	int smallest = dtype == TN_F16 ? -14 : -126; /* exponent of the smallest normal value */
	int exponent = smallest;
	if (x != 0 && isfinite(x)) {
		frexp(x, &exponent);
		exponent--;
	}
	return ldexp(1, (exponent < smallest ? smallest : exponent) - digits);
}
