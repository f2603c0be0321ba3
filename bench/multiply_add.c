/* SPDX-License-Identifier: Apache-2.0 */
/* The most that one thread can multiply and add with this instruction set, nothing read from memory. Product and sum
 * are rounded each (-ffp-contract=off), as in the kernels: what a fused multiply-add could do is not their limit. */
#include "kernels/isa_build.h"

#include <stddef.h>

/* Twelve sums hide the latency of both operations and fit the sixteen registers of SSE2 and AVX2. */
enum { SUMS = 12 };
typedef float vec __attribute__((vector_size(__BIGGEST_ALIGNMENT__))); /* one register of this instruction set */

double TN_ISA_NAME(bench_multiply_add)(size_t rounds, float *sink);

/* The number of operations done; *sink keeps the compiler from leaving them out. */
double TN_ISA_NAME(bench_multiply_add)(size_t rounds, float *sink)
{
	const vec factor = (vec){ 0 } + 0.999f, term = (vec){ 0 } + 1e-3f;
	vec s0 = term, s1 = s0 + term, s2 = s1 + term, s3 = s2 + term, s4 = s3 + term, s5 = s4 + term;
	vec s6 = s5 + term, s7 = s6 + term, s8 = s7 + term, s9 = s8 + term, s10 = s9 + term, s11 = s10 + term;
	for (size_t i = 0; i < rounds; i++) {
		s0 = s0 * factor + term;
		s1 = s1 * factor + term;
		s2 = s2 * factor + term;
		s3 = s3 * factor + term;
		s4 = s4 * factor + term;
		s5 = s5 * factor + term;
		s6 = s6 * factor + term;
		s7 = s7 * factor + term;
		s8 = s8 * factor + term;
		s9 = s9 * factor + term;
		s10 = s10 * factor + term;
		s11 = s11 * factor + term;
	}
	vec sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
	*sink += sum[0];
	return (double)rounds * SUMS * 2 * (sizeof(vec) / sizeof(float));
}
