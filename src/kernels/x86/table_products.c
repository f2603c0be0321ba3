/* SPDX-License-Identifier: Apache-2.0 */
/* Codes that a table explains times one x. What the codes of a group stand for is computed and rounded once: sixteen numbers of 4
 * bits; of 8 bits, with AVX-512, the 128 that are not negative, with AVX2 those of one exponent of E4M3. A run of 64 codes is
 * looked up in the order in which shifts and shuffles bring them, and x is put into that order beforehand. */
#include "kernels/x86/product_x86.h"
#include "kernels/x86/table_numbers.h"
#include "kernels/x86/vector_x86.h"

/* Columns that are taken at once; how many rows share x; and so many blocks of rows ahead their bytes are asked for. */
enum { RUN = 64, ROWS = 4, AHEAD = 2, VECTORS = RUN / FLOATS };

/* AVX2 looks numbers of 16 bits up by their bytes. Int8 of bitsandbytes alone has a factor. */
int TN_ISA_NAME(tn_table_takes)(const struct tn_product *p)
{
	const struct tn_format *f = p->format;
	if (f->codec != TN_CODEC_table || p->m != 1 || f->group % RUN != 0)
		return 0;
	if (f->code_kind == TN_CODES_I8)
		return 1;
	return f->grid->factor == 1.0f && (f->bits == 8 ? f->code_kind == TN_CODES_E4M3 : FLOATS == 16 || f->dtype != TN_F32);
}

/* Bytes that become numbers of 16 bits by looking them up. */
TN_INLINE int are_looked_up(const enum tn_code_kind kind, tn_dtype dtype)
{
	return FLOATS == 16 ? dtype != TN_F32 : kind == TN_CODES_E4M3 && dtype == TN_BF16;
}

size_t TN_ISA_NAME(tn_table_bytes)(const struct tn_product *p)
{
	return p->cols * sizeof(float);
}

/* Which of 64 codes stands in lane l of vector v. AVX-512, 8 bits: even or odd bytes, and of these again, or, as F16 is converted,
 * those of one half. 4 bits: words of four codes, in the upper half shifted by 4 bits, and then by 8 more; of these even or odd
 * ones, or those of one half; to float32 words of eight, in the upper half shifted by 4 bits, and by 8 v more. AVX2, 4 bits: lower
 * or upper halves of bytes; bytes 0 to 7 or 8 to 15 of each 128 bits; then even or odd ones, or those of one half; 8 bits: bytes
 * themselves, of 32 and of the next 32. */
static size_t code_at(size_t v, size_t l, const struct tn_format *f)
{
	if (f->bits == 8 && !are_looked_up(f->code_kind, f->dtype))
		return v * FLOATS + l;
	if (f->bits == 8 && FLOATS == 16)
		return f->dtype == TN_F16 ? 32 * (v % 2) + 2 * l + v / 2 : 4 * l + 2 * (v % 2) + v / 2;
	if (f->bits == 8)
		return 32 * (v / 4) + 16 * (l / 4) + v / 2 % 2 * 8 + 2 * (l % 4) + v % 2;
	if (FLOATS == 16 && f->dtype == TN_F32)
		return 8 * (l % 8) + 2 * v + l / 8;
	if (FLOATS == 16)
		return f->dtype == TN_F16 ? 4 * l + v : 8 * (l % 8) + l / 8 + 4 * (v % 2) + v / 2 * 2;
	size_t upper = v / 4, first = v / 2 % 2 * 8, odd = v % 2;
	size_t byte = f->dtype == TN_F16 ? 16 * odd + first + l : 16 * (l / 4) + first + 2 * (l % 4) + odd;
	return 2 * byte + upper;
}

void TN_ISA_NAME(tn_table_prepare)(unsigned char *dst, const struct tn_product *p, const float *x)
{
	float *to = (float *)(void *)dst;
	for (size_t i = 0; i < p->cols; i += RUN)
		for (size_t v = 0; v < VECTORS; v++)
			for (size_t l = 0; l < FLOATS; l++)
				*to++ = x[i + code_at(v, l, p->format)];
}

/* ---- 4 bits ---------------------------------------------------------------------------------------------- */

/* Numbers of 16 bits times x, in the order of code_at. */
TN_INLINE floats add_halves(floats sum, ints h, const float *x, tn_dtype dtype)
{
	floats a, b;
	if (dtype == TN_F16) {
#if defined(__AVX512BW__)
		a = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
		b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
#else
		a = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
		b = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
#endif
	} else {
		a = even_floats(h, TN_BF16);
		b = odd_floats(h, TN_BF16);
	}
	return FMA(b, LOAD(x + FLOATS), FMA(a, LOAD(x), sum));
}

/* What the codes of a group stand for: numbers of 16 bits, of AVX-512 twice, of AVX2 their bytes; or floats. */
#if defined(__AVX512BW__)
typedef ints group_numbers;

TN_INLINE struct sixteen levels_of(const float *table)
{
	return sixteen_of(table);
}

TN_INLINE group_numbers group_numbers_of(struct sixteen levels, struct scaling s, tn_dtype dtype)
{
	floats numbers = scaled(levels.of[0], s);
	if (dtype == TN_F32)
		return AS_INTS(numbers);
	if (dtype == TN_F16)
		return _mm512_broadcast_i64x4(_mm512_cvtps_ph(numbers, _MM_FROUND_TO_NEAREST_INT));
	return narrow_in_order(numbers, numbers, TN_BF16);
}

TN_INLINE floats add_run(floats sum, const unsigned char *src, group_numbers n, const float *x, tn_dtype dtype)
{
	const ints shift_words = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
	const ints shift_longs = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(4), 1);
	ints codes = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)src));
	if (dtype != TN_F32) {
		codes = _mm512_srlv_epi16(codes, shift_words);
		sum = add_halves(sum, _mm512_permutexvar_epi16(codes, n), x, dtype);
		return add_halves(sum, _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), n), x + 2 * FLOATS, dtype);
	}
	codes = _mm512_srlv_epi32(codes, shift_longs);
	TN_UNROLL(4)
	for (int v = 0; v < VECTORS; v++, codes = _mm512_srli_epi32(codes, 8))
		sum = FMA(_mm512_permutexvar_ps(codes, AS_FLOATS(n)), LOAD(x + v * FLOATS), sum);
	return sum;
}
#else
typedef struct table group_numbers;

/* Even and odd levels. */
TN_INLINE struct sixteen levels_of(const float *table)
{
	float split[16];
	for (int i = 0; i < 16; i++)
		split[i % 2 * 8 + i / 2] = table[i];
	return sixteen_of(split);
}

TN_INLINE group_numbers group_numbers_of(struct sixteen levels, struct scaling s, tn_dtype dtype)
{
	return split_table(narrow_pairs(scaled(levels.of[0], s), scaled(levels.of[1], s), dtype));
}

TN_INLINE floats add_run(floats sum, const unsigned char *src, group_numbers n, const float *x, tn_dtype dtype)
{
	const ints low = _mm256_set1_epi8(15), bytes = _mm256_loadu_si256((const __m256i *)(const void *)src);
	TN_UNROLL(2)
	for (int upper = 0; upper < 2; upper++, x += 4 * FLOATS) {
		ints codes = _mm256_and_si256(upper ? _mm256_srli_epi16(bytes, 4) : bytes, low);
		ints a = _mm256_shuffle_epi8(n.a, codes), b = _mm256_shuffle_epi8(n.b, codes);
		sum = add_halves(sum, _mm256_unpacklo_epi8(a, b), x, dtype);
		sum = add_halves(sum, _mm256_unpackhi_epi8(a, b), x + 2 * FLOATS, dtype);
	}
	return sum;
}
#endif

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* n rows, one behind the other. */
struct rows {
	const unsigned char *codes, *scales;
	size_t code_stride, scale_stride, cols;
	const struct tn_format *format;
};

TN_INLINE const unsigned char *codes_of(const struct rows *w, int r)
{
	return w->codes + (size_t)r * w->code_stride;
}

TN_INLINE const unsigned char *scales_of(const struct rows *w, int r)
{
	return w->scales + (size_t)r * w->scale_stride;
}

/* 1 where the numbers of all groups are 0 or normal. */
static int is_usual_row(const struct rows *w, int r)
{
	const unsigned char *scales = scales_of(w, r);
	const size_t n = w->cols / w->format->group;
	unsigned beyond = !has_usual_levels(w->format->grid->table);
	size_t g = 0;
	for (; g + FLOATS <= n; g += FLOATS)
		beyond |= lanes_of_other_sizes(LOAD((const float *)(const void *)(scales + g * sizeof(float))));
	for (; g < n; g++)
		beyond |= !is_usual_scale(load_as(scales, g, TN_F32));
	return !beyond;
}

/* Bytes that a way of computing does not know: those of `bits` that are `value`. */
struct unknown_bytes {
	unsigned char bits, value;
};

/* 1 where a row of 8 bits has a scale or a byte for which another way is needed: what a row comes to is its own affair, so of
 * rows that were computed together each is looked at when one has. */
static int is_odd_row(const struct rows *w, int r, struct unknown_bytes unknown)
{
	int odd = 0;
	for (size_t g = 0; g < w->cols / w->format->group; g++)
		odd |= !is_usual_scale(load_as(scales_of(w, r), g, TN_F32));
	for (size_t i = 0; i < w->cols && !odd; i++)
		odd = (codes_of(w, r)[i] & unknown.bits) == unknown.value;
	return odd;
}

/* A row for which other ways do not give what the table says: x is `ordered`. */
static float dot_decoded(const struct rows *w, int r, const float *x)
{
	struct tn_format run = *w->format;
	double sum = 0;
	run.group = RUN;
	for (size_t i = 0; i < w->cols; i += RUN) {
		const unsigned char *scale = scales_of(w, r) + i / w->format->group * sizeof(float);
		struct tn_row at = { { codes_of(w, r) + i * run.bits / 8, scale } };
		float values[RUN];
		TN_ISA_NAME(tn_x86_decode_table)(values, &at, &run, RUN);
		for (size_t j = 0; j < RUN; j++)
			sum += (double)values[code_at(j / FLOATS, j % FLOATS, w->format)] * (double)x[i + j];
	}
	return (float)sum;
}

TN_INLINE void dot_nibbles(float *y, const struct rows *w, const float *x, const int n, tn_dtype dtype)
{
	const struct sixteen levels = levels_of(w->format->grid->table);
	const size_t group = w->format->group, ahead = AHEAD * (size_t)n * w->code_stride;
	floats sum[ROWS];
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		sum[r] = ZERO();
	for (size_t g = 0; g < w->cols / group; g++) {
		group_numbers numbers[ROWS];
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			const struct scaling s = { .scale = V(set1_ps)(load_as(scales_of(w, r), g, TN_F32)) };
			PREFETCH(scales_of(w, r + 2 * n) + g * sizeof(float));
			numbers[r] = group_numbers_of(levels, s, dtype);
		}
		for (size_t i = g * group; i < (g + 1) * group; i += RUN) {
			TN_UNROLL(4)
			for (int r = 0; r < n; r++) {
				const unsigned char *src = codes_of(w, r) + i / 2;
				PREFETCH(src + ahead);
				sum[r] = add_run(sum[r], src, numbers[r], x + i, dtype);
			}
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = is_usual_row(w, r) ? SUM(sum[r]) : dot_decoded(w, r, x);
}

#if defined(__AVX512BW__)
/* Sums of a row that go side by side. */
enum { CHAINS = 2 };

/* What codes below 128 stand for. */
struct byte_table {
	ints part[4];
};

/* Bytes that were met and have no number in the table: a bit for each. */
typedef uint64_t strangers;

TN_INLINE struct unknown_bytes lacked_by_table(const enum tn_code_kind kind)
{
	return (struct unknown_bytes){ kind == TN_CODES_I8 ? 0xFF : 0, 0x80 };
}

TN_INLINE strangers no_strangers(void)
{
	return 0;
}

TN_INLINE int any_strangers(strangers odd)
{
	return odd != 0;
}

TN_INLINE struct byte_table byte_table_of(const struct tn_format *f, float scale, const enum tn_code_kind kind, tn_dtype dtype)
{
	const struct scaling s = { V(set1_ps)(scale), V(set1_ps)(f->grid->factor), kind == TN_CODES_I8 };
	const float *table = f->grid->table;
	struct byte_table t;
	TN_UNROLL(4)
	for (int i = 0; i < 4; i++, table += 2 * FLOATS)
		t.part[i] = narrow_in_order(scaled(V(loadu_ps)(table), s), scaled(V(loadu_ps)(table + FLOATS), s), dtype);
	return t;
}

/* 32 numbers by the low 7 bits of the lanes of `codes`, negated where the highest bits of those of `signs` say so. */
TN_INLINE ints signed_numbers(struct byte_table t, ints codes, ints signs)
{
	ints low = _mm512_permutex2var_epi16(t.part[0], codes, t.part[1]);
	ints high = _mm512_permutex2var_epi16(t.part[2], codes, t.part[3]);
	ints size = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(codes, _mm512_set1_epi16(64)), low, high);
	return _mm512_ternarylogic_epi32(size, signs, _mm512_set1_epi16((short)0x8000), 0x78);
}

TN_INLINE void add_bytes(floats sum[CHAINS], const unsigned char *src, struct byte_table t, const float *x,
			 const enum tn_code_kind kind, tn_dtype dtype, strangers *odd)
{
	const ints bytes = load_ints(src), sizes = kind == TN_CODES_I8 ? _mm512_abs_epi8(bytes) : bytes;
	if (kind == TN_CODES_I8)
		*odd |= _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8((char)0x80));
	sum[0] = add_halves(sum[0], signed_numbers(t, sizes, _mm512_slli_epi16(bytes, 8)), x, dtype);
	sum[1] = add_halves(sum[1], signed_numbers(t, _mm512_srli_epi16(sizes, 8), bytes), x + 2 * FLOATS, dtype);
}
#else
enum { CHAINS = 4 };

/* What the magnitudes of E4M3 that are subnormal stand for, 0 to 7, and the eight behind them as if their exponent were 0 too: the
 * exponent of a code is added to that of its number, but where the scale is 0. */
struct byte_table {
	struct table sixteen;
	ints added;                /* bits of a code, where BF16 has them */
};

/* The greatest magnitudes that were met; the greatest of all is that of NaN. */
typedef ints strangers;

TN_INLINE struct unknown_bytes lacked_by_table(const enum tn_code_kind kind)
{
	(void)kind;
	return (struct unknown_bytes){ 0x7F, 0x7F };
}

TN_INLINE strangers no_strangers(void)
{
	return _mm256_setzero_si256();
}

TN_INLINE int any_strangers(strangers most)
{
	return _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, _mm256_set1_epi8(0x7F))) != 0;
}

TN_INLINE struct byte_table byte_table_of(const struct tn_format *f, float scale, const enum tn_code_kind kind, tn_dtype dtype)
{
	const struct scaling s = { .scale = V(set1_ps)(scale) };
	float levels[16];
	(void)kind;
	for (int i = 0; i < 16; i++)
		levels[i] = i < 8 ? f->grid->table[i] : f->grid->table[i] / 2;
	return (struct byte_table){ group_numbers_of(levels_of(levels), s, dtype),
				    _mm256_set1_epi16((short)(scale == 0 ? 0x8000 : 0x8780)) };
}

/* The numbers of 16 codes, which stand in the upper bytes of lanes and are looked up by their bytes. */
TN_INLINE ints with_exponents(ints numbers, ints codes, ints added)
{
	return _mm256_add_epi16(numbers, _mm256_and_si256(_mm256_srai_epi16(codes, 4), added));
}

TN_INLINE void add_bytes(floats sum[CHAINS], const unsigned char *src, struct byte_table t, const float *x,
			 const enum tn_code_kind kind, tn_dtype dtype, strangers *most)
{
	(void)kind;
	TN_UNROLL(2)
	for (int i = 0; i < 2; i++, src += 4 * FLOATS, x += 4 * FLOATS) {
		const ints codes = load_ints(src), sizes = _mm256_and_si256(codes, _mm256_set1_epi8(0x7F));
		const ints index = _mm256_or_si256(sizes, _mm256_min_epu8(sizes, _mm256_set1_epi8(8)));
		const ints low = _mm256_shuffle_epi8(t.sixteen.a, index), high = _mm256_shuffle_epi8(t.sixteen.b, index);
		*most = _mm256_max_epu8(*most, sizes);
		ints first = with_exponents(_mm256_unpacklo_epi8(low, high), _mm256_unpacklo_epi8(codes, codes), t.added);
		ints second = with_exponents(_mm256_unpackhi_epi8(low, high), _mm256_unpackhi_epi8(codes, codes), t.added);
		sum[2 * i] = add_halves(sum[2 * i], first, x, dtype);
		sum[2 * i + 1] = add_halves(sum[2 * i + 1], second, x + 2 * FLOATS, dtype);
	}
}
#endif

TN_INLINE floats add_chains(const floats sum[CHAINS])
{
	floats all = ADD(sum[0], sum[1]);
	for (int i = 2; i < CHAINS; i += 2)
		all = ADD(all, ADD(sum[i], sum[i + 1]));
	return all;
}

/* Neighbouring rows often have the same scale: a table is made anew where one differs from the last. */
TN_INLINE void dot_byte_tables(float *y, const struct rows *w, const float *x, const int n, const enum tn_code_kind kind,
			       tn_dtype dtype)
{
	const size_t group = w->format->group, ahead = AHEAD * (size_t)n * w->code_stride;
	const struct unknown_bytes unknown = lacked_by_table(kind);
	struct byte_table t = byte_table_of(w->format, 0, kind, dtype);
	floats sum[ROWS][CHAINS];
	strangers odd = no_strangers();
	int beyond = 0;
	float last = 0;
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		TN_UNROLL(4)
		for (int i = 0; i < CHAINS; i++)
			sum[r][i] = ZERO();
	for (size_t g = 0; g < w->cols / group; g++) {
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			const unsigned char *src = codes_of(w, r) + g * group;
			const float scale = load_as(scales_of(w, r), g, TN_F32), *of_x = x + g * group;
			if (!(scale == last)) {
				t = byte_table_of(w->format, scale, kind, dtype);
				last = scale;
				beyond |= !is_usual_scale(scale);
			}
			for (const unsigned char *end = src + group; src < end; src += RUN, of_x += RUN) {
				PREFETCH(src + ahead);
				add_bytes(sum[r], src, t, of_x, kind, dtype, &odd);
			}
		}
	}
	beyond |= any_strangers(odd);
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = beyond && is_odd_row(w, r, unknown) ? dot_decoded(w, r, x) : SUM(add_chains(sum[r]));
}

TN_INLINE void dot_bytes(float *y, const struct rows *w, const float *x, const int n, const enum tn_code_kind kind, tn_dtype dtype)
{
	const size_t group = w->format->group, ahead = AHEAD * (size_t)n * w->code_stride;
	const struct unknown_bytes unknown = { kind == TN_CODES_E4M3 ? 0x7F : 0, 0x7F };
	floats sum[ROWS];
	int odd = 0;
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		sum[r] = ZERO();
	for (size_t g = 0; g < w->cols / group; g++) {
		struct scaling s[ROWS];
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			s[r] = scaling_of(w->format, load_as(scales_of(w, r), g, TN_F32));
			odd |= !is_usual_scale(load_as(scales_of(w, r), g, TN_F32));
			if (kind == TN_CODES_E4M3)
				odd |= has_e4m3_nan(codes_of(w, r) + g * group, group);
		}
		for (size_t i = g * group; i < (g + 1) * group; i += 16) {
			TN_UNROLL(4)
			for (int r = 0; r < n; r++) {
				const unsigned char *src = codes_of(w, r) + i;
				PREFETCH(src + ahead);
				TN_UNROLL(2)
				for (int j = 0; j < 16; j += FLOATS)
					sum[r] = FMA(round_number(scaled(bytes_as_floats(src, j, kind), s[r]), dtype),
						     LOAD(x + i + (size_t)j), sum[r]);
			}
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = odd && is_odd_row(w, r, unknown) ? dot_decoded(w, r, x) : SUM(sum[r]);
}

/* 8 bits, by the better way. */
TN_INLINE void dot_bytes_as(float *y, const struct rows *w, const float *x, const int n, const enum tn_code_kind kind,
			    tn_dtype dtype)
{
	if (are_looked_up(kind, dtype))
		dot_byte_tables(y, w, x, n, kind, dtype);
	else
		dot_bytes(y, w, x, n, kind, dtype);
}

TN_INLINE void dot_rows(float *y, const struct rows *w, const float *x, const int n, tn_dtype dtype)
{
	if (w->format->bits == 4)
		dot_nibbles(y, w, x, n, dtype);
	else if (w->format->code_kind == TN_CODES_I8)
		dot_bytes_as(y, w, x, n, TN_CODES_I8, dtype);
	else
		dot_bytes_as(y, w, x, n, TN_CODES_E4M3, dtype);
}

TN_INLINE void all_rows(float *y, struct rows w, const float *x, size_t rows, tn_dtype dtype)
{
	size_t i = 0;
	for (; i + ROWS <= rows; i += ROWS, w.codes += ROWS * w.code_stride, w.scales += ROWS * w.scale_stride)
		dot_rows(y + i, &w, x, ROWS, dtype);
	for (; i < rows; i++, w.codes += w.code_stride, w.scales += w.scale_stride)
		dot_rows(y + i, &w, x, 1, dtype);
}

void TN_ISA_NAME(tn_table_rows)(float *y, const struct tn_product *p, const unsigned char *ordered, const struct tn_rows *w,
				size_t rows)
{
	const float *x = (const float *)(const void *)ordered;
	const struct rows all = { w->first.part[TN_PART_WEIGHT], w->first.part[TN_PART_SCALES], w->stride[TN_PART_WEIGHT],
				  w->stride[TN_PART_SCALES], p->cols, p->format };
	if (p->format->dtype == TN_F32)
		all_rows(y, all, x, rows, TN_F32);
	else if (p->format->dtype == TN_F16)
		all_rows(y, all, x, rows, TN_F16);
	else
		all_rows(y, all, x, rows, TN_BF16);
}
