/* Units in the last place. */
#ifndef TN_ULP_H
#define TN_ULP_H

#include "tenon/base.h"

/* The distance between neighbouring values of `dtype` (F32, F16, BF16) around x; that of the subnormals near 0. */
double tn_ulp(tn_dtype dtype, double x);

#endif
