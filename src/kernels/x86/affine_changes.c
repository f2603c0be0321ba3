/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of affine codes that are written again, and what became of them, without rows of values: HALVES columns at a time, even ones
 * in one vector and odd ones in the other, from which the sums of change_rows.c follow, for these add even and odd lanes last. */
#include "kernels/x86/affine_halves.h"

enum { SUMS = 3, BLOCK = TN_DIRECTION_COLS, STEPS = BLOCK / HALVES };

/* ---- values ----------------------------------------------------------------------------------------------- */

/* What codes mean; a product of a code and a scale of 16 bits is exact, and F32 is fused everywhere. */
struct grid {
	floats scale, bias;
#if defined(__AVX512BW__)
	floats table;              /* of codes of 4 bits */
#endif
};

TN_INLINE struct grid grid_of(float scale, float bias)
{
	struct grid g = { V(set1_ps)(scale), V(set1_ps)(bias),
#if defined(__AVX512BW__)
			  V(fmadd_ps)(ascending_floats(), V(set1_ps)(scale), V(set1_ps)(bias))
#endif
	};
	return g;
}

TN_INLINE struct two values_of(ints codes, const struct grid *g, const int bits)
{
#if defined(__AVX512BW__)
	if (bits == 4)
		return (struct two){ _mm512_permutexvar_ps(codes, g->table),
				     _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), g->table) };
#endif
	struct two x = codes_as_floats(codes, bits);
	return (struct two){ V(fmadd_ps)(x.even, g->scale, g->bias), V(fmadd_ps)(x.odd, g->scale, g->bias) };
}

/* The same with MLX's roundings of products and of sums. */
struct rounded_grid {
	floats scale, bias;
	floats table[16 / FLOATS]; /* of codes of 4 bits */
};

TN_INLINE floats round_twice(floats codes, const struct rounded_grid *g, tn_dtype dtype)
{
	return round_number(V(add_ps)(round_number(V(mul_ps)(codes, g->scale), dtype), g->bias), dtype);
}

TN_INLINE struct rounded_grid rounded_grid_of(float scale, float bias, const int bits, tn_dtype dtype)
{
	struct rounded_grid g = { V(set1_ps)(scale), V(set1_ps)(bias), { V(setzero_ps)() } };
	if (bits == 4)
		TN_UNROLL(2)
		for (int i = 0; i < 16 / FLOATS; i++)
			g.table[i] = round_twice(V(add_ps)(ascending_floats(), V(set1_ps)((float)(i * FLOATS))), &g, dtype);
	return g;
}

/* Of indices in the lowest 4 bits of the lanes, of which `top` has the highest one as its sign. */
TN_INLINE floats look_up(const struct rounded_grid *g, ints index, ints top)
{
#if defined(__AVX512BW__)
	(void)top;
	return _mm512_permutexvar_ps(index, g->table[0]);
#else
	return _mm256_blendv_ps(_mm256_permutevar8x32_ps(g->table[0], index), _mm256_permutevar8x32_ps(g->table[1], index),
				AS_FLOATS(top));
#endif
}

TN_INLINE struct two rounded_values_of(ints codes, const struct rounded_grid *g, const int bits, tn_dtype dtype)
{
	if (bits == 4)
		return (struct two){ look_up(g, codes, V(slli_epi32)(codes, 28)),
				     look_up(g, V(srli_epi32)(codes, 4), V(slli_epi32)(codes, 24)) };
	struct two x = codes_as_floats(codes, bits);
	return (struct two){ round_twice(x.even, g, dtype), round_twice(x.odd, g, dtype) };
}

/* Scales or biases of usual size, so that every value is a multiple of a number that is not subnormal, as are differences. */
TN_INLINE int are_usual(const unsigned char *numbers, size_t n, tn_dtype dtype)
{
	const uint32_t least = 27u << 23, width = 200u << 23; /* 2^-100 to 2^100 */
	uint32_t odd = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t size = tn_f32_bits(load_as(numbers, i, dtype)) & 0x7FFFFFFFu;
		odd |= size && size - least > width;
	}
	return !odd;
}

TN_INLINE int is_usual(const struct tn_row *row, size_t groups, tn_dtype dtype)
{
	return are_usual(row->part[TN_PART_SCALES], groups, dtype) && are_usual(row->part[TN_PART_BIASES], groups, dtype);
}

/* ---- sums that are measured ------------------------------------------------------------------------------- */

struct run {
	struct two sum[SUMS][STEPS];
};

TN_INLINE void clear_run(struct run *run)
{
	TN_UNROLL(3)
	for (int i = 0; i < SUMS; i++)
		TN_UNROLL(2)
		for (int s = 0; s < STEPS; s++)
			run->sum[i][s] = (struct two){ V(setzero_ps)(), V(setzero_ps)() };
}

TN_INLINE void add_error(struct run *run, const int s, struct two change, const float *wanted)
{
	const struct two d = load_two(wanted);
	struct two error = { V(sub_ps)(change.even, d.even), V(sub_ps)(change.odd, d.odd) };
	run->sum[0][s].even = V(add_ps)(run->sum[0][s].even, V(mul_ps)(d.even, d.even));
	run->sum[0][s].odd = V(add_ps)(run->sum[0][s].odd, V(mul_ps)(d.odd, d.odd));
	run->sum[1][s].even = V(add_ps)(run->sum[1][s].even, V(mul_ps)(error.even, error.even));
	run->sum[1][s].odd = V(add_ps)(run->sum[1][s].odd, V(mul_ps)(error.odd, error.odd));
	run->sum[2][s].even = V(add_ps)(run->sum[2][s].even, V(mul_ps)(error.even, d.even));
	run->sum[2][s].odd = V(add_ps)(run->sum[2][s].odd, V(mul_ps)(error.odd, d.odd));
}

TN_INLINE float add_lanes(const struct two *sum, const int odd)
{
#if defined(__AVX512BW__)
	floats v = odd ? sum->odd : sum->even;
	__m256 b = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
	__m256 b = odd ? _mm256_add_ps(sum[0].odd, sum[1].odd) : _mm256_add_ps(sum[0].even, sum[1].even);
#endif
	__m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
	c = _mm_add_ps(c, _mm_movehl_ps(c, c));
	return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

TN_INLINE void end_run(struct tn_change_sums *sums, const struct run *run)
{
	sums->wanted2 += (double)(add_lanes(run->sum[0], 0) + add_lanes(run->sum[0], 1));
	sums->error2 += (double)(add_lanes(run->sum[1], 0) + add_lanes(run->sum[1], 1));
	sums->both += (double)(add_lanes(run->sum[2], 0) + add_lanes(run->sum[2], 1));
}

TN_INLINE struct two difference(struct two a, struct two b)
{
	return (struct two){ V(sub_ps)(a.even, b.even), V(sub_ps)(a.odd, b.odd) };
}

/* Sums of changes, which stand as even columns of HALVES and then odd ones. By themselves, for then they stay in registers. */
TN_INLINE void sum_changes(struct run *run, uint16_t *halves, const float *changes, const float *wanted, size_t cols)
{
	struct run sum = *run;
	for (size_t j = 0; j < cols; j += BLOCK)
		TN_UNROLL(2)
		for (int s = 0; s < STEPS; s++) {
			const size_t at = j + (size_t)s * HALVES;
			const struct two change = { V(loadu_ps)(changes + at), V(loadu_ps)(changes + at + FLOATS) };
			add_error(&sum, s, change, wanted + at);
			store_ints(halves + at, narrow_two(change, TN_BF16), 0);
		}
	*run = sum;
}

/* A group's. */
TN_INLINE void make_changes(float *changes, const unsigned char *old, const unsigned char *new, const struct grid *was,
			    const struct grid *is, size_t group, const int bits)
{
	for (size_t i = 0; i < group; i += HALVES) {
		const size_t byte = i / 8 * (size_t)bits;
		const struct two change = difference(values_of(load_codes(new + byte, bits), is, bits),
						     values_of(load_codes(old + byte, bits), was, bits));
		V(storeu_ps)(changes + i, change.even);
		V(storeu_ps)(changes + i + FLOATS, change.odd);
	}
}

TN_INLINE void change_sums(struct tn_change_sums *sums, uint16_t *halves, const struct tn_row *before, const struct tn_row *after,
			   size_t group, tn_dtype dtype, const float *wanted, size_t cols, const int bits)
{
	const unsigned char *old = before->part[TN_PART_WEIGHT], *new = after->part[TN_PART_WEIGHT];
	for (size_t i = 0, n; i < cols; i += n) {
		float changes[TN_CHANGE_RUN];
		struct run run;
		n = cols - i < TN_CHANGE_RUN ? cols - i : TN_CHANGE_RUN;
		for (size_t j = 0; j < n; j += group) {
			const size_t g = (i + j) / group, byte = (i + j) / 8 * (size_t)bits;
			const struct grid was = grid_of(load_as(before->part[TN_PART_SCALES], g, dtype),
							load_as(before->part[TN_PART_BIASES], g, dtype));
			const struct grid is = grid_of(load_as(after->part[TN_PART_SCALES], g, dtype),
						       load_as(after->part[TN_PART_BIASES], g, dtype));
			make_changes(changes + j, old + byte, new + byte, &was, &is, group, bits);
		}
		clear_run(&run);
		sum_changes(&run, halves + i, changes, wanted + i, n);
		end_run(sums, &run);
	}
}

TN_INLINE int change_sums_of(struct tn_change_sums *sums, uint16_t *halves, const struct tn_row *before, const struct tn_row *after,
			     const struct tn_format *f, tn_dtype dtype, const float *wanted, size_t cols)
{
	const size_t groups = cols / f->group;
	if ((f->bits != 4 && f->bits != 8) || !is_usual(before, groups, dtype) || !is_usual(after, groups, dtype))
		return 0;
	if (f->bits == 4)
		change_sums(sums, halves, before, after, f->group, dtype, wanted, cols, 4);
	else
		change_sums(sums, halves, before, after, f->group, dtype, wanted, cols, 8);
	return 1;
}

int TN_ISA_NAME(tn_x86_change_sums_affine)(struct tn_change_sums *sums, uint16_t *halves, const struct tn_row *before,
					   const struct tn_row *after, const struct tn_format *f, const float *wanted, size_t cols)
{
	if (f->dtype == TN_F32)
		return change_sums_of(sums, halves, before, after, f, TN_F32, wanted, cols);
	if (f->dtype == TN_F16)
		return change_sums_of(sums, halves, before, after, f, TN_F16, wanted, cols);
	return change_sums_of(sums, halves, before, after, f, TN_BF16, wanted, cols);
}

/* ---- moving codes ----------------------------------------------------------------------------------------- */

TN_INLINE ints add_unequal(ints count, floats a, floats b)
{
#if defined(__AVX512BW__)
	return _mm512_mask_add_epi32(count, _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ), count, _mm512_set1_epi32(1));
#else
	return _mm256_sub_epi32(count, as_ints(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)));
#endif
}

TN_INLINE uint64_t add_up(ints count)
{
	uint32_t lane[FLOATS];
	uint64_t sum = 0;
	memcpy(lane, &count, sizeof lane);
	for (int i = 0; i < FLOATS; i++)
		sum += lane[i];
	return sum;
}

/* Codes of 4 or 8 bits that differ in so many bytes, a multiple of 16. */
TN_INLINE uint64_t count_moved(const unsigned char *a, const unsigned char *b, size_t bytes, const int bits)
{
	uint64_t moved = 0;
#if defined(__AVX512BW__)
	for (size_t i = 0; i < bytes; i += 64) {
		__mmask64 some = bytes - i < 64 ? ((__mmask64)1 << (bytes - i)) - 1 : ~(__mmask64)0;
		__m512i old = bytes - i < 64 ? _mm512_maskz_loadu_epi8(some, a + i) : _mm512_loadu_si512(a + i);
		__m512i new = bytes - i < 64 ? _mm512_maskz_loadu_epi8(some, b + i) : _mm512_loadu_si512(b + i);
		__m512i x = _mm512_xor_si512(old, new);
		moved += (uint64_t)__builtin_popcountll(_mm512_test_epi8_mask(x, _mm512_set1_epi8((char)(bits == 4 ? 15 : 255))));
		if (bits == 4)
			moved += (uint64_t)__builtin_popcountll(_mm512_test_epi8_mask(x, _mm512_set1_epi8((char)0xF0)));
	}
#else
	const __m128i low = _mm_set1_epi8((char)(bits == 4 ? 15 : 255)), zero = _mm_setzero_si128();
	for (size_t i = 0; i < bytes; i += 16) {
		__m128i x = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)(a + i)),
					  _mm_loadu_si128((const __m128i *)(const void *)(b + i)));
		unsigned same = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(x, low), zero));
		if (bits == 4)
			same |= (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_andnot_si128(low, x), zero)) << 16;
		moved += (bits == 4 ? 32u : 16u) - (unsigned)__builtin_popcount(same);
	}
#endif
	return moved;
}

/* How many steps codes move, `place` being a row's hash and column put together; NaN moves nothing. */
TN_INLINE floats steps_of(floats d, ints place, floats scale)
{
#if defined(__AVX512BW__)
	floats x = _mm512_add_ps(_mm512_div_ps(d, scale), mix_16(place));
	x = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
#else
	floats x = _mm256_floor_ps(_mm256_add_ps(_mm256_div_ps(d, scale), mix_8(place)));
	return _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
#endif
}

/* Counts the lanes that leave the grid. */
TN_INLINE ints move_codes(floats old, floats steps, const int bits, ints *clamped)
{
	floats x = V(add_ps)(old, steps);
	floats kept = V(min_ps)(V(max_ps)(x, V(setzero_ps)()), V(set1_ps)((float)((1 << bits) - 1)));
	*clamped = add_unequal(*clamped, kept, x);
	return V(cvtps_epi32)(kept);
}

/* Steps of `cols` columns, even ones of HALVES and then odd ones; the place of the next column. */
TN_INLINE ints make_steps(float *steps, const float *d, size_t cols, floats scale, ints place)
{
	const ints step = V(set1_epi32)((int)(TN_HASH_STEP * (uint32_t)HALVES)), next = V(set1_epi32)((int)TN_HASH_STEP);
	for (size_t i = 0; i < cols; i += HALVES, place = V(add_epi32)(place, step)) {
		const struct two change = load_two(d + i);
		V(storeu_ps)(steps + i, steps_of(change.even, place, scale));
		V(storeu_ps)(steps + i + FLOATS, steps_of(change.odd, V(add_epi32)(place, next), scale));
	}
	return place;
}

/* Steps first, for so many columns, and then codes: what waits for quotients does not keep other work out. */
enum { AT_ONCE = 256 };

TN_INLINE void dither(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		      uint32_t row_hash, struct tn_dither_counts *counts, const int bits)
{
	static const uint32_t numbers[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	const size_t bytes = HALVES / 8 * (size_t)bits;
	float steps[AT_ONCE];
	ints clamped = VI(setzero)();
	ints place = V(add_epi32)(V(mullo_epi32)(load_ints(numbers), V(set1_epi32)((int)(2 * TN_HASH_STEP))),
				  V(set1_epi32)((int)row_hash));
	for (size_t i = 0; i < cols;) {
		const size_t n = cols - i < AT_ONCE ? cols - i : AT_ONCE;
		for (size_t j = 0, end; j < n; j = end) {
			const size_t g = (i + j) / f->group, left = (g + 1) * f->group - i;
			const float number = load_as(row->part[TN_PART_SCALES], g, f->dtype);
			end = left < n ? left : n; /* without a scale nothing moves, as for NaN */
			place = make_steps(steps + j, d + i + j, end - j, V(set1_ps)(number != 0 ? number : NAN), place);
		}
		for (const size_t end = i + n; i < end; i += HALVES) {
			const size_t byte = i / 8 * (size_t)bits;
			const float *at = steps + i % AT_ONCE;
			const struct two old = codes_as_floats(load_codes(src + byte, bits), bits);
			ints even = move_codes(old.even, V(loadu_ps)(at), bits, &clamped);
			ints odd = move_codes(old.odd, V(loadu_ps)(at + FLOATS), bits, &clamped);
			store_codes(dst + byte, bytes, even, odd, bits);
		}
	}
	counts->moved += count_moved(src, dst, cols / 8 * (size_t)bits, bits);
	counts->clamped += add_up(clamped);
}

void TN_ISA_NAME(tn_x86_dither_pairs)(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f,
				      size_t cols, uint32_t row_hash, struct tn_dither_counts *counts)
{
	if (f->bits == 4)
		dither(dst, row, d, f, cols, row_hash, counts, 4);
	else
		dither(dst, row, d, f, cols, row_hash, counts, 8);
}

/* ---- sums that are written -------------------------------------------------------------------------------- */

/* Groups whose grids are fitted together. */
struct batch {
	const unsigned char *codes, *scales, *biases; /* of the source */
	unsigned char *to, *to_scales, *to_biases;
	const float *product, *wanted;
	uint16_t *halves;
	size_t group, count;
	tn_dtype first;            /* what the product is rounded to before the dtype; F32: nothing */
};

/* What makes a batch one for the long way: NaN, or a number that became 0 where it was not 0 before. */
struct doubts {
	unsigned nan;
#if defined(__AVX512BF16__)
	ints least;                /* of all halves, without their signs */
#endif
};

TN_INLINE struct doubts no_doubts(void)
{
	struct doubts none = { 0,
#if defined(__AVX512BF16__)
			       _mm512_set1_epi16(-1)
#endif
	};
	return none;
}

#if defined(__AVX512BF16__)
TN_INLINE void note_zeros(struct doubts *doubts, ints halves)
{
	doubts->least = _mm512_min_epu16(doubts->least, _mm512_add_epi16(halves, halves));
}
#endif

TN_INLINE struct two round_product(const float *p, tn_dtype first, tn_dtype dtype, struct doubts *doubts)
{
#if defined(__AVX512BF16__)
	if (dtype == TN_BF16 && first == TN_F32) {
		ints h = (ints)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p));
		note_zeros(doubts, h);
		return (struct two){ even_floats(h, TN_BF16), odd_floats(h, TN_BF16) };
	}
#endif
	struct two x = load_two(p);
	doubts->nan |= LANES_UNLESS(x.even, _CMP_ORD_Q, x.odd);
	return (struct two){ round_number(round_number(x.even, first), dtype), round_number(round_number(x.odd, first), dtype) };
}

/* The numbers of all groups of a batch, as floats, before and after. */
struct numbers {
	float old_scale[FLOATS], old_bias[FLOATS], scale[FLOATS], bias[FLOATS];
};

/* Rounded sums of a batch in `sums`. */
TN_INLINE void add_products(uint16_t *sums, const struct batch *b, const struct numbers *n, tn_dtype first, const int bits,
			    tn_dtype dtype, struct doubts *doubts)
{
	for (size_t g = 0, i = 0; g < b->count; g++) {
		const struct rounded_grid grid = rounded_grid_of(n->old_scale[g], n->old_bias[g], bits, dtype);
		for (size_t end = i + b->group; i < end; i += HALVES) {
			struct two w = rounded_values_of(load_codes(b->codes + i / 8 * (size_t)bits, bits), &grid, bits, dtype);
			struct two d = round_product(b->product + i, first, dtype, doubts);
			ints h = narrow_two((struct two){ V(add_ps)(w.even, d.even), V(add_ps)(w.odd, d.odd) }, dtype);
#if defined(__AVX512BF16__)
			note_zeros(doubts, h);
#endif
			store_ints(sums + i, h, 0);
		}
	}
}

#if defined(__AVX512BF16__)
/* Whether a number is so small that it, or its sum with another, can be subnormal. */
static int any_tiny(const float *p, size_t n)
{
	uint32_t tiny = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t size = tn_f32_bits(p[i]) & 0x7FFFFFFFu;
		tiny |= size && size < 27u << 23;
	}
	return tiny != 0;
}
#endif

/* Writes them in the dtype; gets what they are then. None is NaN. */
TN_INLINE void write_numbers(unsigned char *dst, float *rounded, const float *numbers, size_t count, tn_dtype dtype)
{
	uint16_t halves[FLOATS];
	floats v = round_number(V(loadu_ps)(numbers), dtype);
	V(storeu_ps)(rounded, v);
#if defined(__AVX512BW__)
	__m256i h = dtype == TN_F16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)
				    : _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(v), 16));
	_mm256_storeu_si256((__m256i *)(void *)halves, h);
#else
	__m256i upper = _mm256_srli_epi32(_mm256_castps_si256(v), 16);
	__m128i h = dtype == TN_F16 ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)
				    : _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
	_mm_storeu_si128((__m128i *)(void *)halves, h);
#endif
	memcpy(dst, halves, count * sizeof *halves);
}

/* Codes of a group, and how far they moved its numbers: even columns of HALVES, then odd ones. */
TN_INLINE void encode_group(float *changes, const struct batch *b, const uint16_t *sums, const struct grids *grids,
			    const struct numbers *n, size_t g, const int bits, tn_dtype dtype)
{
	const floats scale = V(set1_ps)(grids->scale[g]), bias = V(set1_ps)(grids->bias[g]);
	const floats inverse = V(set1_ps)(grids->inverse[g]);
	const floats new_scale = V(set1_ps)(n->scale[g]), new_bias = V(set1_ps)(n->bias[g]);
	const struct grid was = grid_of(n->old_scale[g], n->old_bias[g]);
	for (size_t at = g * b->group; at < (g + 1) * b->group; at += HALVES) {
		const size_t byte = at / 8 * (size_t)bits;
		ints h = load_ints(sums + at);
		ints even = codes_of(even_floats(h, dtype), scale, bias, inverse, bits);
		ints odd = codes_of(odd_floats(h, dtype), scale, bias, inverse, bits);
		struct two new = { V(fmadd_ps)(V(cvtepi32_ps)(even), new_scale, new_bias),
				   V(fmadd_ps)(V(cvtepi32_ps)(odd), new_scale, new_bias) };
		struct two change = difference(new, values_of(load_codes(b->codes + byte, bits), &was, bits));
		store_codes(b->to + byte, HALVES / 8 * (size_t)bits, even, odd, bits);
		V(storeu_ps)(changes + at, change.even);
		V(storeu_ps)(changes + at + FLOATS, change.odd);
	}
}

/* 0: by the long way. */
TN_INLINE int refit_batch(struct run *run, const struct batch *b, const int bits, tn_dtype dtype)
{
	uint16_t sums[TN_CHANGE_RUN];
	float changes[TN_CHANGE_RUN];
	struct numbers numbers;
	struct doubts doubts = no_doubts();
	for (size_t g = 0; g < b->count; g++) {
		numbers.old_scale[g] = load_as(b->scales, g, dtype);
		numbers.old_bias[g] = load_as(b->biases, g, dtype);
	}
	if (b->first == TN_F32)
		add_products(sums, b, &numbers, TN_F32, bits, dtype, &doubts);
	else
		add_products(sums, b, &numbers, b->first, bits, dtype, &doubts);
	if (doubts.nan)
		return 0;
#if defined(__AVX512BF16__)
	if (_mm512_testn_epi16_mask(doubts.least, doubts.least) && any_tiny(b->product, b->count * b->group))
		return 0;
#endif
	const struct grids grids = grids_of((const unsigned char *)sums, b->group, b->count, bits, dtype);
	if (grids.odd)
		return 0;
	write_numbers(b->to_scales, numbers.scale, grids.scale, b->count, dtype);
	write_numbers(b->to_biases, numbers.bias, grids.bias, b->count, dtype);
	for (size_t g = 0; g < b->count; g++)
		encode_group(changes, b, sums, &grids, &numbers, g, bits, dtype);
	sum_changes(run, b->halves, changes, b->wanted, b->count * b->group);
	return 1;
}

TN_INLINE struct batch batch_at(const struct tn_refit *r, const struct tn_row_out *dst, const struct tn_row *src,
				const struct tn_format *f, size_t i, size_t most, tn_dtype dtype)
{
	const size_t at = i / f->group * sizeof(uint16_t), byte = i / 8 * f->bits;
	const size_t run = TN_CHANGE_RUN / f->group, count = most / f->group, room = run < FLOATS ? run : FLOATS;
	return (struct batch){
		.codes = (const unsigned char *)src->part[TN_PART_WEIGHT] + byte,
		.scales = (const unsigned char *)src->part[TN_PART_SCALES] + at,
		.biases = (const unsigned char *)src->part[TN_PART_BIASES] + at,
		.to = (unsigned char *)dst->part[TN_PART_WEIGHT] + byte,
		.to_scales = (unsigned char *)dst->part[TN_PART_SCALES] + at,
		.to_biases = (unsigned char *)dst->part[TN_PART_BIASES] + at,
		.product = r->product + i,
		.wanted = r->wanted + i,
		.halves = r->halves + i,
		.group = f->group,
		.count = count < room ? count : room,
		.first = r->product_dtype == dtype ? TN_F32 : r->product_dtype,
	};
}

TN_INLINE int refit(struct tn_refit *r, const struct tn_row_out *dst, const struct tn_row *src, const struct tn_format *f,
		    size_t cols, const int bits, tn_dtype dtype)
{
	if (!is_usual(src, cols / f->group, dtype))
		return 0;
	for (size_t i = 0; i < cols;) {
		struct run run;
		size_t end = cols - i < TN_CHANGE_RUN ? cols : i + TN_CHANGE_RUN;
		clear_run(&run);
		while (i < end) {
			struct batch b = batch_at(r, dst, src, f, i, end - i, dtype);
			if (!refit_batch(&run, &b, bits, dtype))
				return 0;
			i += b.count * b.group;
		}
		end_run(&r->sums, &run);
	}
	r->moved += count_moved(src->part[TN_PART_WEIGHT], dst->part[TN_PART_WEIGHT], cols / 8 * (size_t)bits, bits);
	return 1;
}

int TN_ISA_NAME(tn_x86_refit_affine)(struct tn_refit *r, const struct tn_row_out *dst, const struct tn_row *src,
				     const struct tn_format *f, size_t cols)
{
	const int bits = f->flavour == TN_ENCODE_CPU && (f->dtype == TN_BF16 || f->dtype == TN_F16) ? f->bits : 0;
	if (bits == 4)
		return f->dtype == TN_BF16 ? refit(r, dst, src, f, cols, 4, TN_BF16) : refit(r, dst, src, f, cols, 4, TN_F16);
	if (bits == 8)
		return f->dtype == TN_BF16 ? refit(r, dst, src, f, cols, 8, TN_BF16) : refit(r, dst, src, f, cols, 8, TN_F16);
	return 0;
}
