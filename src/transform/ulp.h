/* Units in the last place. */
#ifndef TN_ULP_H
#define TN_ULP_H

#include "tenon/base.h"

/* The distance between neighbouring values of `dtype` (F32, F16, BF16) around x; that of the subnormals near 0. */
double tn_ulp(tn_dtype dtype, double x);
/* The largest relative error of a normal value that is rounded to `dtype`: 2^-8 for BF16, 2^-11 for F16, else that of F32. */
double tn_dtype_unit(tn_dtype dtype);

#endif
