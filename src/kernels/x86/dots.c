/* SPDX-License-Identifier: Apache-2.0 */
/* Products in float32. A single x meets rows of floats where they lie; everything else is decoded a piece at a time, into the
 * nearest cache, and multiplied in tiles of some rows and some x, so that every load serves several multiplications. */
#include "kernels/x86/product_x86.h"

#if defined(__AVX512F__)
enum { LANES = 16, TILE_X = 6 };
typedef __m512 floats;
#define ZERO() _mm512_setzero_ps()
#define LOAD(p) _mm512_loadu_ps(p)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SPREAD(x) _mm512_set1_ps(x)
#define SUM(v) _mm512_reduce_add_ps(v)

TN_INLINE floats load_bytes(const unsigned char *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

TN_INLINE floats load_floats(const unsigned char *p, size_t i, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return _mm512_loadu_ps(p + 4 * i);
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(p + 2 * i));
	return dtype == TN_F16 ? _mm512_cvtph_ps(h) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
#else
enum { LANES = 8, TILE_X = 3 };
typedef __m256 floats;
#define ZERO() _mm256_setzero_ps()
#define LOAD(p) _mm256_loadu_ps(p)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define ADD(a, b) _mm256_add_ps(a, b)

TN_INLINE float sum_of(floats v)
{
	__m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	a = _mm_add_ps(a, _mm_movehl_ps(a, a));
	return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
#define SPREAD(x) _mm256_set1_ps(x)
#define SUM(v) sum_of(v)

TN_INLINE floats load_bytes(const unsigned char *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

TN_INLINE floats load_floats(const unsigned char *p, size_t i, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return _mm256_loadu_ps((const float *)(const void *)(p + 4 * i));
	__m128i h = _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * i));
	return dtype == TN_F16 ? _mm256_cvtph_ps(h) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
#endif

/* The sums over the lanes of eight vectors. */
TN_INLINE __m256 add_across(const floats v[8])
{
	__m256 half[8];
	TN_UNROLL(8)
	for (int i = 0; i < 8; i++) {
#if defined(__AVX512F__)
		half[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
#else
		half[i] = v[i];
#endif
	}
	__m256 a = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
	__m256 b = _mm256_hadd_ps(_mm256_hadd_ps(half[4], half[5]), _mm256_hadd_ps(half[6], half[7]));
	return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* Rows are read in blocks; this many blocks ahead their bytes are asked for, into the second cache. Nearer is too late. */
enum { AHEAD = 2 };

/* A piece of a row: what tiles work on at a time. */
enum { PIECE = 1024, PIECE_STRIDE = PIECE + 16 }; /* rows a power of two apart would push each other out of the cache */

size_t TN_ISA_NAME(tn_dots_scratch)(const struct tn_product *p)
{
	(void)p;
	return TN_DOTS_SCRATCH * sizeof(float);
}

/* ---- one x ----------------------------------------------------------------------------------------------- */

TN_INLINE float scalar_as(const unsigned char *p, size_t i, tn_dtype dtype)
{
	float x;
	uint16_t h;
	if (dtype == TN_F32) {
		memcpy(&x, p + 4 * i, sizeof x);
		return x;
	}
	memcpy(&h, p + 2 * i, sizeof h);
	return dtype == TN_F16 ? tn_f32_from_f16(h) : tn_f32_from_bf16(h);
}

TN_INLINE void dot_dense(float *y, const unsigned char *row, size_t stride, const int n, const float *x, size_t cols,
			 tn_dtype dtype)
{
	floats sum[TN_DOTS_ROWS][2];
	size_t j = 0, size = dtype == TN_F32 ? 4 : 2;
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		sum[r][0] = sum[r][1] = ZERO();
	for (; j + 2 * LANES <= cols; j += 2 * LANES) {
		floats a = LOAD(x + j), b = LOAD(x + j + LANES);
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			const unsigned char *at = row + (size_t)r * stride;
			_mm_prefetch((const char *)at + j * size + AHEAD * (size_t)n * stride, _MM_HINT_T1);
			if (dtype == TN_F32 && LANES == 16)
				_mm_prefetch((const char *)at + j * size + AHEAD * (size_t)n * stride + 64, _MM_HINT_T1);
			sum[r][0] = FMA(load_floats(at, j, dtype), a, sum[r][0]);
			sum[r][1] = FMA(load_floats(at, j + LANES, dtype), b, sum[r][1]);
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		float rest = 0;
		for (size_t i = j; i < cols; i++)
			rest += scalar_as(row + (size_t)r * stride, i, dtype) * x[i];
		y[r] = SUM(ADD(sum[r][0], sum[r][1])) + rest;
	}
}

TN_INLINE void dense_rows_as(float *y, const unsigned char *row, size_t stride, size_t rows, const float *x, size_t cols,
			     tn_dtype dtype)
{
	size_t i = 0;
	for (; i + TN_DOTS_ROWS <= rows; i += TN_DOTS_ROWS)
		dot_dense(y + i, row + i * stride, stride, TN_DOTS_ROWS, x, cols, dtype);
	for (; i < rows; i++)
		dot_dense(y + i, row + i * stride, stride, 1, x, cols, dtype);
}

static void dense_rows(float *y, const struct tn_rows *w, size_t rows, const float *x, size_t cols, tn_dtype dtype)
{
	const unsigned char *row = w->first.part[TN_PART_WEIGHT];
	size_t stride = w->stride[TN_PART_WEIGHT];
	if (dtype == TN_F32)
		dense_rows_as(y, row, stride, rows, x, cols, TN_F32);
	else if (dtype == TN_F16)
		dense_rows_as(y, row, stride, rows, x, cols, TN_F16);
	else
		dense_rows_as(y, row, stride, rows, x, cols, TN_BF16);
}

/* Affine codes of 8 bits: scale * (codes, x) + bias * (sum of x), group by group and lane by lane. */
TN_INLINE void dot_bytes(float *y, const struct tn_rows *w, size_t i, const int n, const float *x, size_t cols, size_t group,
			 tn_dtype dtype)
{
	const unsigned char *part[TN_DOTS_ROWS][TN_PART_COUNT];
	floats sum[TN_DOTS_ROWS];
	size_t ahead = AHEAD * (size_t)n * w->stride[TN_PART_WEIGHT];
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			part[r][p] = (const unsigned char *)w->first.part[p] + (i + (size_t)r) * w->stride[p];
		sum[r] = ZERO();
	}
	for (size_t g = 0; g < cols / group; g++) {
		floats dot[TN_DOTS_ROWS], total = ZERO();
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			dot[r] = ZERO();
			_mm_prefetch((const char *)part[r][TN_PART_WEIGHT] + g * group + ahead, _MM_HINT_T1);
		}
		for (size_t j = g * group; j < (g + 1) * group; j += LANES) {
			floats a = LOAD(x + j);
			total = ADD(total, a);
			TN_UNROLL(4)
			for (int r = 0; r < n; r++)
				dot[r] = FMA(load_bytes(part[r][TN_PART_WEIGHT] + j), a, dot[r]);
		}
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			floats bias = SPREAD(scalar_as(part[r][TN_PART_BIASES], g, dtype));
			sum[r] = FMA(dot[r], SPREAD(scalar_as(part[r][TN_PART_SCALES], g, dtype)), FMA(total, bias, sum[r]));
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = SUM(sum[r]);
}

TN_INLINE void byte_rows_as(float *y, const struct tn_rows *w, size_t rows, const float *x, size_t cols, size_t group,
			    tn_dtype dtype)
{
	size_t i = 0;
	for (; i + TN_DOTS_ROWS <= rows; i += TN_DOTS_ROWS)
		dot_bytes(y + i, w, i, TN_DOTS_ROWS, x, cols, group, dtype);
	for (; i < rows; i++)
		dot_bytes(y + i, w, i, 1, x, cols, group, dtype);
}

static void byte_rows(float *y, const struct tn_rows *w, size_t rows, const float *x, size_t cols, const struct tn_format *f)
{
	if (f->dtype == TN_F32)
		byte_rows_as(y, w, rows, x, cols, f->group, TN_F32);
	else if (f->dtype == TN_F16)
		byte_rows_as(y, w, rows, x, cols, f->group, TN_F16);
	else
		byte_rows_as(y, w, rows, x, cols, f->group, TN_BF16);
}

/* 1 when it was a product that needs no decoding: one x, and rows of floats or bytes. */
static int multiply_in_place(float *y, const struct tn_product *p, const float *x, const struct tn_rows *w, size_t rows)
{
	const struct tn_format *f = p->format;
	if (p->m != 1)
		return 0;
	if (f->codec == TN_CODEC_dense && (f->dtype == TN_F32 || f->dtype == TN_F16 || f->dtype == TN_BF16)) {
		dense_rows(y, w, rows, x, p->cols, f->dtype);
		return 1;
	}
	if (f->codec != TN_CODEC_affine || f->bits != 8 || f->like_mlx)
		return 0;
	byte_rows(y, w, rows, x, p->cols, f);
	return 1;
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* A piece of some rows, decoded: [TN_DOTS_ROWS][PIECE_STRIDE], n columns of it. */
TN_INLINE void tile(float *y, size_t y_stride, const float *w, const float *x, size_t x_stride, size_t n, const int rows,
		    const int many, int add)
{
	floats sum[TN_DOTS_ROWS][TILE_X];
	size_t j = 0;
	TN_UNROLL(4)
	for (int r = 0; r < rows; r++)
		TN_UNROLL(6)
		for (int t = 0; t < many; t++)
			sum[r][t] = ZERO();
	for (; j + LANES <= n; j += LANES) {
		floats a[TN_DOTS_ROWS];
		TN_UNROLL(4)
		for (int r = 0; r < rows; r++)
			a[r] = LOAD(w + (size_t)r * PIECE_STRIDE + j);
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			floats b = LOAD(x + (size_t)t * x_stride + j);
			TN_UNROLL(4)
			for (int r = 0; r < rows; r++)
				sum[r][t] = FMA(a[r], b, sum[r][t]);
		}
	}
	for (int t = 0; t < many; t++)
		for (int r = 0; r < rows; r++) {
			float rest = 0, *to = y + (size_t)t * y_stride + r;
			for (size_t i = j; i < n; i++)
				rest += w[(size_t)r * PIECE_STRIDE + i] * x[(size_t)t * x_stride + i];
			*to = (add ? *to : 0) + (SUM(sum[r][t]) + rest);
		}
}

/* Decoded rows times all x. */
TN_INLINE void tiles(float *y, size_t y_stride, const float *w, const struct tn_prepared *x, size_t first, size_t n, size_t m,
		     const int rows, int add)
{
	size_t t = 0;
	for (; t + TILE_X <= m; t += TILE_X)
		tile(y + t * y_stride, y_stride, w, x->x + t * x->stride + first, x->stride, n, rows, TILE_X, add);
	for (; t < m; t++)
		tile(y + t * y_stride, y_stride, w, x->x + t * x->stride + first, x->stride, n, rows, 1, add);
}

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

static const struct tn_codec *const codecs[TN_CODEC_COUNT] = {
#define CODEC(name) [TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name),
#include "kernels/codecs.def"
#undef CODEC
};

/* Columns first to first + n of row i. */
static void decode_piece(float *dst, const struct tn_product *p, const struct tn_rows *w, size_t i, size_t first, size_t n)
{
	const struct tn_codec *codec = codecs[p->format->codec];
	struct tn_row row = { { NULL } };
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		if (w->first.part[part])
			row.part[part] = (const unsigned char *)w->first.part[part] + i * w->stride[part] +
					 codec->part_bytes(p->format, part, first);
	TN_ISA_NAME(tn_x86_decode)(dst, &row, p->format, n);
}

/* Pieces outside, so that those of x stay in a near cache while the rows go by. */
void TN_ISA_NAME(tn_dots_rows)(float *y, size_t y_stride, const struct tn_product *p, const struct tn_prepared *x,
			       const struct tn_rows *w, size_t rows, float *scratch)
{
	if (multiply_in_place(y, p, x->x, w, rows))
		return;
	for (size_t first = 0; first < p->cols; first += PIECE) {
		size_t n = p->cols - first < PIECE ? p->cols - first : PIECE;
		for (size_t i = 0, count; i < rows; i += count) {
			count = rows - i >= TN_DOTS_ROWS ? TN_DOTS_ROWS : 1;
			for (size_t r = 0; r < count; r++)
				decode_piece(scratch + r * PIECE_STRIDE, p, w, i + r, first, n);
			if (count == TN_DOTS_ROWS)
				tiles(y + i, y_stride, scratch, x, first, n, p->m, TN_DOTS_ROWS, first > 0);
			else
				tiles(y + i, y_stride, scratch, x, first, n, p->m, 1, first > 0);
		}
	}
	for (size_t t = 0; t < p->m && p->cols == 0; t++)
		memset(y + t * y_stride, 0, rows * sizeof *y);
}

/* ---- the right factor ------------------------------------------------------------------------------------ */

/* y[r] += scale * (row r of B, t), for `n` rows of `rank`. */
TN_INLINE void expand_rows(float *y, const unsigned char *b, size_t rank, const int n, const float *t, float scale,
			   tn_dtype dtype)
{
	size_t j = 0, size = dtype == TN_F32 ? 4 : 2;
	floats sum[8];
	TN_UNROLL(8)
	for (int r = 0; r < n; r++)
		sum[r] = ZERO();
	for (; j + LANES <= rank; j += LANES) {
		floats x = LOAD(t + j);
		TN_UNROLL(8)
		for (int r = 0; r < n; r++)
			sum[r] = FMA(load_floats(b + (size_t)r * rank * size, j, dtype), x, sum[r]);
	}
	float rest[8] = { 0 };
	for (; j < rank; j++)
		for (int r = 0; r < n; r++)
			rest[r] += scalar_as(b + (size_t)r * rank * size, j, dtype) * t[j];
	float all[8];
	if (n == 8) {
		_mm256_storeu_ps(all, add_across(sum));
	} else {
		TN_UNROLL(8)
		for (int r = 0; r < n; r++)
			all[r] = SUM(sum[r]);
	}
	for (int r = 0; r < n; r++)
		y[r] += scale * (all[r] + rest[r]);
}

TN_INLINE void expand_as(float *y, size_t y_stride, const unsigned char *b, size_t rank, size_t rows, const float *t,
			 size_t t_stride, size_t m, float scale, tn_dtype dtype)
{
	size_t i = 0, stride = rank * (dtype == TN_F32 ? 4 : 2);
	for (; i + 8 <= rows; i += 8)
		for (size_t k = 0; k < m; k++)
			expand_rows(y + k * y_stride + i, b + i * stride, rank, 8, t + k * t_stride, scale, dtype);
	for (; i < rows; i++)
		for (size_t k = 0; k < m; k++)
			expand_rows(y + k * y_stride + i, b + i * stride, rank, 1, t + k * t_stride, scale, dtype);
}

void TN_ISA_NAME(tn_x86_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
				     const float *t, size_t t_stride, size_t m, float scale)
{
	if (dtype == TN_F32)
		expand_as(y, y_stride, b, rank, rows, t, t_stride, m, scale, TN_F32);
	else if (dtype == TN_F16)
		expand_as(y, y_stride, b, rank, rows, t, t_stride, m, scale, TN_F16);
	else
		expand_as(y, y_stride, b, rank, rows, t, t_stride, m, scale, TN_BF16);
}
