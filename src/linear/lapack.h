/* What is used of LAPACK (Fortran: matrices by columns, numbers by their address). */
#ifndef TN_LAPACK_H
#define TN_LAPACK_H

#include "base/checked.h"

/* A = U S V^T, S descending; jobz S: the first min(m, n) columns of U and rows of V^T. A is overwritten. */
void dgesdd_(const char *jobz, const int *m, const int *n, double *a, const int *lda, double *s, double *u, const int *ldu,
	     double *vt, const int *ldvt, double *work, const int *lwork, int *iwork, int *info, size_t jobz_bytes);

/* Elements of its workspace with jobz = S, as its documentation bounds them; and 8 * min(m, n) ints. */
static inline uint64_t tn_svd_work(uint64_t m, uint64_t n)
{
	uint64_t low = tn_min_u64(m, n), high = tn_max_u64(m, n);
	return 4 * low * low + 7 * low + high + low * 64 + high * 64;
}

#endif
