/* SPDX-License-Identifier: Apache-2.0 */
/* What codes of other libraries mean, where there are at most sixteen: a table in registers. The same operations as in unpack.c. */
#include "kernels/x86/lanes.h"

void TN_ISA_NAME(tn_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid);

/* How the values of a run are computed: the table (AVX2: in two halves) and the numbers of its group. */
struct run {
	floats table[16 / FLOATS], scale, zero, factor;
	int add_zeros, has_factor;
};

TN_INLINE floats level_of(const uint8_t *codes, const struct run *r)
{
#if defined(__AVX512BW__)
	return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)codes)), r->table[0]);
#else
	__m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
	__m256 low = _mm256_permutevar8x32_ps(r->table[0], index), high = _mm256_permutevar8x32_ps(r->table[1], index);
	return _mm256_blendv_ps(low, high, AS_FLOATS(_mm256_slli_epi32(index, 28)));
#endif
}

TN_INLINE floats value_of(const uint8_t *codes, const struct run *r)
{
	floats x = level_of(codes, r);
	x = r->add_zeros ? V(add_ps)(V(mul_ps)(x, r->scale), r->zero) : V(mul_ps)(V(sub_ps)(x, r->zero), r->scale);
	return r->has_factor ? V(mul_ps)(x, r->factor) : x;
}

TN_INLINE void decode_run(float *dst, const uint8_t *codes, size_t n, const struct run *r)
{
	size_t i = 0;
	for (; i + FLOATS <= n; i += FLOATS)
		V(storeu_ps)(dst + i, value_of(codes + i, r));
	if (i < n) {
		uint8_t rest[FLOATS] = { 0 };
		float values[FLOATS];
		memcpy(rest, codes + i, n - i);
		V(storeu_ps)(values, value_of(rest, r));
		memcpy(dst + i, values, (n - i) * sizeof *values);
	}
}

void TN_ISA_NAME(tn_x86_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid)
{
	if (grid->code_count > 16 || grid->group_of) {
		TN_ISA_NAME(tn_grid_f32)(dst, codes, n, grid);
		return;
	}
	struct run r = { .factor = V(set1_ps)(grid->factor), .add_zeros = grid->add_zeros, .has_factor = grid->factor != 1.0f };
	for (int t = 0; t < 16 / FLOATS; t++)
		r.table[t] = V(loadu_ps)(grid->table + t * FLOATS);
	for (size_t i = 0, end; i < n; i = end) {
		size_t g = (grid->offset + i) / grid->group, next = (g + 1) * grid->group - grid->offset;
		end = next < n ? next : n;
		r.scale = V(set1_ps)(grid->scales[g]);
		r.zero = V(set1_ps)(grid->zeros ? grid->zeros[g] : 0);
		decode_run(dst + i, codes + i, end - i, &r);
	}
}
