/* SPDX-License-Identifier: Apache-2.0 */
/* What codes of 4 bits mean that share a scale by groups, as NF4 and FP4 of bitsandbytes: the sixteen numbers of a group are
 * computed and rounded once, and looked up. */
#include "kernels/x86/tables.h"

void TN_ISA_NAME(tn_nibble_values)(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
				   const struct tn_grid *grid);

/* What codes stand for before they are scaled. AVX-512: all sixteen. AVX2: of even codes and of odd ones; of lower and upper
 * ones. */
struct levels {
#if defined(__AVX512BW__)
	floats all;
#else
	floats even, odd, lower, upper;
#endif
};

static struct levels levels_of(const float *table)
{
#if defined(__AVX512BW__)
	return (struct levels){ _mm512_loadu_ps(table) };
#else
	float even[8], odd[8];
	for (int i = 0; i < 8; i++) {
		even[i] = table[2 * i];
		odd[i] = table[2 * i + 1];
	}
	return (struct levels){ _mm256_loadu_ps(even), _mm256_loadu_ps(odd), _mm256_loadu_ps(table), _mm256_loadu_ps(table + 8) };
#endif
}

/* ---- numbers of 16 bits ------------------------------------------------------------------------------------ */

TN_INLINE struct table scaled_table(const struct levels *levels, float scale, tn_dtype dtype)
{
	const floats s = V(set1_ps)(scale);
#if defined(__AVX512BW__)
	floats numbers = _mm512_mul_ps(levels->all, s);
	ints both = narrow_in_order(numbers, numbers, dtype);
	return (struct table){ both, both };
#else
	return split_table(narrow_pairs(_mm256_mul_ps(levels->even, s), _mm256_mul_ps(levels->odd, s), dtype));
#endif
}

/* Returns 1 when a scale is not usual; its group is to be done again. */
TN_INLINE int scale_halves(unsigned char *dst, const unsigned char *src, const float *scales, size_t groups, size_t group,
			   const struct levels *levels, tn_dtype dtype, int far)
{
	int odd = 0;
	for (size_t g = 0; g < groups; g++, src += group / 2, dst += 2 * group) {
		const struct table t = scaled_table(levels, scales[g], dtype);
		odd |= !is_usual_scale(scales[g]);
		for (size_t i = 0; i < group; i += LOOKED_UP)
			look_up(dst + 2 * i, t, next_nibbles(src + i / 2, 1), 4, far);
	}
	return odd;
}

/* ---- float32 ----------------------------------------------------------------------------------------------- */

/* FLOATS codes, each in the lowest bits of its lane. */
TN_INLINE ints spread_high_first(const unsigned char *src)
{
#if defined(__AVX512BW__)
	const ints halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
	const ints shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
	ints codes = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)(const void *)src));
	return _mm512_srlv_epi32(_mm512_permutexvar_epi32(halves, codes), shifts);
#else
	int32_t codes;
	memcpy(&codes, src, sizeof codes);
	return _mm256_srlv_epi32(_mm256_set1_epi32(codes), _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24));
#endif
}

TN_INLINE void scale_floats(float *dst, const unsigned char *src, const float *scales, size_t groups, size_t group,
			    const struct levels *levels, int far)
{
	for (size_t g = 0; g < groups; g++, src += group / 2, dst += group) {
		const floats s = V(set1_ps)(scales[g]);
#if defined(__AVX512BW__)
		const floats numbers = _mm512_mul_ps(levels->all, s);
#else
		const floats lower = _mm256_mul_ps(levels->lower, s), upper = _mm256_mul_ps(levels->upper, s);
#endif
		for (size_t i = 0; i < group; i += FLOATS) {
			ints codes = spread_high_first(src + i / 2);
#if defined(__AVX512BW__)
			store_ints(dst + i, AS_INTS(_mm512_permutexvar_ps(codes, numbers)), far);
#else
			floats low = _mm256_permutevar8x32_ps(lower, codes), high = _mm256_permutevar8x32_ps(upper, codes);
			store_ints(dst + i, AS_INTS(_mm256_blendv_ps(low, high, AS_FLOATS(_mm256_slli_epi32(codes, 28)))), far);
#endif
		}
	}
}

/* ---- all --------------------------------------------------------------------------------------------------- */

/* A run of whole groups, from the first one on. */
struct run {
	unsigned char *dst;
	const unsigned char *src;
	const float *scales;
	size_t groups;
	tn_dtype dtype;
};

static void run_again(const struct run *r, const struct tn_grid *grid)
{
	const size_t group = grid->group;
	struct tn_grid one = *grid;
	one.offset = 0;
	for (size_t g = 0; g < r->groups; g++) {
		one.scales = r->scales + g;
		if (!is_usual_scale(r->scales[g]))
			TN_ISA_NAME(tn_nibble_values)(r->dst + 2 * g * group, r->dtype, r->src + g * group / 2, 0, group, &one);
	}
}

static void scale_run(const struct run *r, const struct tn_grid *grid, int far)
{
	const struct levels levels = levels_of(grid->table);
	const size_t group = grid->group;
	int odd = 0;
	if (r->dtype == TN_F32)
		scale_floats((float *)(void *)r->dst, r->src, r->scales, r->groups, group, &levels, far);
	else if (r->dtype == TN_F16)
		odd = scale_halves(r->dst, r->src, r->scales, r->groups, group, &levels, TN_F16, far);
	else if (far)
		odd = scale_halves(r->dst, r->src, r->scales, r->groups, group, &levels, TN_BF16, 1);
	else
		odd = scale_halves(r->dst, r->src, r->scales, r->groups, group, &levels, TN_BF16, 0);
	if (odd)
		run_again(r, grid);
	if (far)
		_mm_sfence(); /* as in recode_rows */
}

/* What comes before the first whole group and behind the last, and all where values are no products, the plain way. */
void TN_ISA_NAME(tn_x86_nibble_values)(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
				       const struct tn_grid *grid, int is_far)
{
	const size_t group = grid->group, size = dtype == TN_F32 ? sizeof(float) : sizeof(uint16_t);
	const size_t first = (grid->offset + group - 1) / group, head = first * group - grid->offset;
	const int is_product = !grid->zeros && !grid->add_zeros && grid->factor == 1.0f;
	if (!is_product || group % LOOKED_UP || head + group > n || (skip + head) % 2 ||
	    (dtype != TN_F32 && !has_usual_levels(grid->table))) {
		TN_ISA_NAME(tn_nibble_values)(dst, dtype, nibbles, skip, n, grid);
		return;
	}
	const struct run run = { (unsigned char *)dst + head * size, nibbles + (skip + head) / 2, grid->scales + first,
				 (n - head) / group, dtype };
	const size_t done = head + run.groups * group;
	struct tn_grid rest = *grid;
	TN_ISA_NAME(tn_nibble_values)(dst, dtype, nibbles, skip, head, &rest);
	scale_run(&run, grid, is_far && (uintptr_t)run.dst % 64 == 0);
	rest.offset += done;
	TN_ISA_NAME(tn_nibble_values)((unsigned char *)dst + done * size, dtype, nibbles, skip + done, n - done, &rest);
}
