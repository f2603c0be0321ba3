/* SPDX-License-Identifier: Apache-2.0 */
/* add_product in tiles of 6 rows: a panel of A is packed once, stays in the nearest cache, and every load of it serves six rows.
 * The same bits as the portable one: multiplications and additions are fused only where the products are exact, and vdpbf16ps adds
 * the odd product first and then the even one, each rounded. */
#include "kernels/add_product.h"
#include "kernels/x86/override.h"

enum { TILE_ROWS = 6, AHEAD = 24 }; /* rows of the source that are asked for into the second cache */

/* ---- vectors --------------------------------------------------------------------------------------------- */

/* A `pair` is the 16-bit form of two vectors. */
#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
typedef __m512 vec;
typedef __m512i pair;
#define ZERO() _mm512_setzero_ps()
#define SPREAD(x) _mm512_set1_ps(x)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ADD(a, b) _mm512_add_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define LOAD_HALVES(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE_PAIR(p, v) _mm512_storeu_si512(p, v)
#define SPREAD_HALF(x) _mm512_set1_epi16((short)(x))

TN_INLINE vec widen_halves(__m256i h, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return _mm512_cvtph_ps(h);
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

#if !defined(__AVX512BF16__)
/* NaN comes out as something that is not finite, or by overflow as zero: settle() looks at either. */
TN_INLINE __m256i narrow_bf16(vec v)
{
	__m512i u = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
	return _mm512_cvtepi32_epi16(
		_mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16));
}
#endif

TN_INLINE pair narrow_pair(vec low, vec high, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
					  _mm512_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
#if defined(__AVX512BF16__)
	return (pair)_mm512_cvtne2ps_pbh(high, low);
#else
	return _mm512_inserti64x4(_mm512_castsi256_si512(narrow_bf16(low)), narrow_bf16(high), 1);
#endif
}

/* A bit for each number that is not at least `limit` and below `limit` + `width`. */
TN_INLINE uint64_t outside(pair h, pair limit, pair width)
{
	pair over = _mm512_sub_epi16(_mm512_and_si512(h, SPREAD_HALF(0x7FFF)), limit);
	return _mm512_cmpge_epu16_mask(over, width);
}
#else
enum { LANES = 8, VECTORS = 2 };
typedef __m256 vec;
typedef __m256i pair;
#define ZERO() _mm256_setzero_ps()
#define SPREAD(x) _mm256_set1_ps(x)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define ADD(a, b) _mm256_add_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define LOAD_HALVES(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define STORE_PAIR(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define SPREAD_HALF(x) _mm256_set1_epi16((short)(x))

TN_INLINE vec widen_halves(__m128i h, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return _mm256_cvtph_ps(h);
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* NaN comes out as something that is not finite, or by overflow as zero: settle() looks at either. */
TN_INLINE __m256i narrow_bf16(vec v)
{
	__m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
}

TN_INLINE pair narrow_pair(vec low, vec high, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
					       _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
	return _mm256_permute4x64_epi64(_mm256_packus_epi32(narrow_bf16(low), narrow_bf16(high)), 0xD8);
}

/* A bit for each number that is not at least `limit` and below `limit` + `width`, or all bits: settle() looks itself. */
TN_INLINE uint64_t outside(pair h, pair limit, pair width)
{
	pair over = _mm256_sub_epi16(_mm256_and_si256(h, SPREAD_HALF(0x7FFF)), limit);
	pair beyond = _mm256_subs_epu16(over, _mm256_sub_epi16(width, SPREAD_HALF(1)));
	return _mm256_testz_si256(beyond, beyond) ? 0 : 0xFFFF;
}
#endif

enum { TILE_COLS = LANES * VECTORS };

/* ---- packing --------------------------------------------------------------------------------------------- */

/* Products in the order of their sum. */
TN_INLINE size_t order(size_t k, size_t rank)
{
	return (k ^ 1u) < rank ? k ^ 1u : k;
}

/* A panel of A as tiles [TILE_COLS] under each other, zeros behind its last column. */
static void pack_floats(float *dst, const struct panel *panel)
{
	const struct tn_add_product *p = panel->p;
	for (size_t j = 0; j < panel->cols; j += TILE_COLS) {
		size_t n = panel->cols - j < TILE_COLS ? panel->cols - j : TILE_COLS;
		for (size_t k = 0; k < p->rank; k++, dst += TILE_COLS) {
			memcpy(dst, p->a + order(k, p->rank) * p->cols + panel->first + j, n * sizeof *dst);
			memset(dst + n, 0, (TILE_COLS - n) * sizeof *dst);
		}
	}
}

#if defined(__AVX512BF16__)
/* The same as pairs of BF16: k in the low half, k + 1 in the high one. */
static void pack_pairs(float *dst, const struct panel *panel)
{
	const struct tn_add_product *p = panel->p;
	for (size_t j = 0; j < panel->cols; j += TILE_COLS) {
		size_t n = panel->cols - j < TILE_COLS ? panel->cols - j : TILE_COLS;
		for (size_t k = 0; k < p->rank; k += 2, dst += TILE_COLS) {
			const float *low = p->a + k * p->cols + panel->first + j, *high = k + 1 < p->rank ? low + p->cols : NULL;
			for (size_t l = 0; l < n && high; l++)
				dst[l] = tn_f32_from_bits(tn_f32_bits(low[l]) >> 16 | (tn_f32_bits(high[l]) & 0xFFFF0000u));
			for (size_t l = 0; l < n && !high; l++)
				dst[l] = tn_f32_from_bits(tn_f32_bits(low[l]) >> 16);
			memset(dst + n, 0, (TILE_COLS - n) * sizeof *dst);
		}
	}
}
#endif

/* Rows of B in the form that the tiles multiply by; bf16: pairs. */
static void pack_rows(float *dst, const float *b, size_t rows, size_t rank, float scale, int pairs)
{
	for (size_t i = 0; i < rows; i++, b += rank)
		for (size_t k = 0; k < rank; k += pairs ? 2 : 1) {
			float high = k + 1 < rank ? scale * b[k + 1] : 0;
			uint32_t both = tn_f32_bits(scale * b[k]) >> 16 | (tn_f32_bits(high) & 0xFFFF0000u);
			*dst++ = pairs ? tn_f32_from_bits(both) : scale * b[order(k, rank)];
		}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* Rows of a panel. */
struct band {
	const struct panel *panel;
	size_t count;                      /* of rows */
	const float *a, *b;                /* packed */
	const float *rows;                 /* of B as they are */
	size_t steps;                      /* packed rows of a tile: rank, or its pairs */
	const float *lengths;              /* of the rows of B, see settle_row */
	unsigned char *dst;
	const unsigned char *src;
	size_t dst_stride, src_stride;
};

enum how { ROUND_BOTH, FUSED, PAIRS };

TN_INLINE vec multiply_add(vec a, vec b, vec sum, enum how how)
{
#if defined(__AVX512BF16__)
	if (how == PAIRS)
		return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(b), (__m512bh)_mm512_castps_si512(a));
#endif
	return how == ROUND_BOTH ? ADD(sum, MUL(b, a)) : FMA(b, a, sum);
}

/* What is the same for all rows of a tile. */
struct finish {
	vec scale;
	pair limit, width;                 /* of the row with the highest limit */
	const char *next;                  /* what will be read in a while */
	size_t j, n;                       /* n is TILE_COLS but for the last tile of a row */
	int scaled;
};

/* A row of a tile: sums, and what they round to. */
struct outcome {
	vec sum[VECTORS];
	pair half[VECTORS / 2];
};

static __attribute__((noinline)) int finish_slowly(const struct band *band, size_t i, const struct finish *f,
						   const struct outcome *o, uint64_t which)
{
	const struct tn_add_product *p = band->panel->p;
	const struct settled_row row = settle_row(band->panel, band->rows + i * p->rank, band->lengths[i]);
	unsigned char *dst = band->dst + i * band->dst_stride + 2 * f->j;
	float sums[TILE_COLS];
	uint16_t w[TILE_COLS], halves[TILE_COLS];
	memcpy(w, band->src + i * band->src_stride + 2 * f->j, 2 * f->n);
	for (int v = 0; v < VECTORS; v++)
		STORE(sums + v * LANES, o->sum[v]);
	for (int v = 0; v < VECTORS / 2; v++)
		STORE_PAIR(halves + v * 2 * LANES, o->half[v]);
	which &= ~(uint64_t)0 >> (64 - f->n);
	int bad = settle(&row, f->j, which, w, sums, halves);
	memcpy(dst, halves, f->n * sizeof *halves);
	return bad;
}

/* Adds to the columns of a row, and settles what has to be. */
TN_INLINE int finish_row(const struct band *band, size_t i, const struct finish *f, const vec sum[VECTORS], int whole)
{
	tn_dtype dtype = band->panel->p->dtype;
	const unsigned char *src = band->src + i * band->src_stride + 2 * f->j;
	uint16_t last[TILE_COLS];
	const void *from = src;
	vec result[VECTORS];
	pair out[VECTORS / 2];
	uint64_t which = 0;
	if (!whole) {
		memset(last, 0, sizeof last);
		from = memcpy(last, src, 2 * f->n);
	}
	TN_UNROLL(4)
	for (int v = 0; v < VECTORS; v++) {
		vec w = widen_halves(LOAD_HALVES((const uint16_t *)from + v * LANES), dtype);
		result[v] = ADD(w, f->scaled ? MUL(f->scale, sum[v]) : sum[v]);
	}
	TN_UNROLL(2)
	for (int v = 0; v < VECTORS / 2; v++) {
		out[v] = narrow_pair(result[2 * v], result[2 * v + 1], dtype);
		which |= outside(out[v], f->limit, f->width) << (2 * LANES * v);
	}
	if (__builtin_expect(which != 0 || !whole, 0)) {
		struct outcome o;
		for (int v = 0; v < VECTORS; v++) {
			o.sum[v] = result[v];
			o.half[v / 2] = out[v / 2];
		}
		return finish_slowly(band, i, f, &o, which);
	}
	unsigned char *dst = band->dst + i * band->dst_stride + 2 * f->j;
	TN_UNROLL(2)
	for (int v = 0; v < VECTORS / 2; v++)
		STORE_PAIR(dst + v * LANES * 4, out[v]);
	return 0;
}

TN_INLINE struct finish finish_for(const struct band *band, size_t i, size_t rows, int scaled)
{
	const struct tn_add_product *p = band->panel->p;
	float longest = 0;
	for (size_t r = 0; r < rows; r++)
		longest = band->lengths[i + r] > longest ? band->lengths[i + r] : longest;
	uint16_t limit = settle_row(band->panel, NULL, longest).limit;
	const char *next = (const char *)band->src + (i + AHEAD) * band->src_stride;
	if (i + AHEAD >= band->count) /* the same rows, one panel further */
		next += 2 * TN_PANEL_COLS - band->count * band->src_stride;
	return (struct finish){ SPREAD((float)p->scale), SPREAD_HALF(limit), SPREAD_HALF(half_infinity(p->dtype) - limit), next, 0, 0,
				scaled };
}

/* `rows` rows from row i on of the band. */
TN_INLINE int tile(const struct band *band, size_t i, const struct finish *f, const int rows, enum how how)
{
	const float *b = band->b + i * band->steps, *a = band->a + f->j / TILE_COLS * band->steps * TILE_COLS;
	vec sum[TILE_ROWS][VECTORS];
	TN_UNROLL(6)
	for (int r = 0; r < rows; r++) {
		const char *next = f->next + (size_t)r * band->src_stride + 2 * f->j;
		_mm_prefetch(next, _MM_HINT_T1);
		if (TILE_COLS > 32)
			_mm_prefetch(next + 64, _MM_HINT_T1);
		TN_UNROLL(4)
		for (int v = 0; v < VECTORS; v++)
			sum[r][v] = ZERO();
	}
	for (size_t k = 0; k < band->steps; k++, a += TILE_COLS) {
		vec x[VECTORS];
		TN_UNROLL(4)
		for (int v = 0; v < VECTORS; v++)
			x[v] = LOAD(a + v * LANES);
		TN_UNROLL(6)
		for (int r = 0; r < rows; r++) {
			vec y = SPREAD(b[(size_t)r * band->steps + k]);
			TN_UNROLL(4)
			for (int v = 0; v < VECTORS; v++)
				sum[r][v] = multiply_add(x[v], y, sum[r][v], how);
		}
	}
	int bad = 0;
	TN_UNROLL(6)
	for (int r = 0; r < rows; r++)
		bad |= finish_row(band, i + (size_t)r, f, sum[r], f->n == TILE_COLS);
	return bad;
}

TN_INLINE int add_rows_as(const struct band *band, size_t i, const int rows, enum how how, int scaled)
{
	struct finish f = finish_for(band, i, (size_t)rows, scaled);
	int bad = 0;
	for (f.j = 0; f.j < band->panel->cols; f.j += TILE_COLS) {
		f.n = band->panel->cols - f.j < TILE_COLS ? band->panel->cols - f.j : TILE_COLS;
		bad |= tile(band, i, &f, rows, how);
	}
	return bad;
}

TN_INLINE int add_band_as(const struct band *band, size_t rows, enum how how, int scaled)
{
	size_t i = 0;
	int bad = 0;
	for (; i + TILE_ROWS <= rows; i += TILE_ROWS)
		bad |= add_rows_as(band, i, TILE_ROWS, how, scaled);
	for (; i < rows; i++)
		bad |= add_rows_as(band, i, 1, how, scaled);
	return bad;
}

static int add_band(const struct band *band, size_t rows, enum how how, int scaled)
{
	switch (how) {
#if defined(__AVX512BF16__)
	case PAIRS: return scaled ? add_band_as(band, rows, PAIRS, 1) : add_band_as(band, rows, PAIRS, 0);
#endif
	case ROUND_BOTH: return scaled ? add_band_as(band, rows, ROUND_BOTH, 1) : add_band_as(band, rows, ROUND_BOTH, 0);
	default: return scaled ? add_band_as(band, rows, FUSED, 1) : add_band_as(band, rows, FUSED, 0);
	}
}

/* A power of two of usual size can multiply B in place of the sum: the same bits, but for the subnormal ones. */
static int moves_into_b(double scale)
{
	int exponent;
	return fabs(frexp(scale, &exponent)) == 0.5 && exponent > -16 && exponent <= 16;
}

static enum how how_for(const struct tn_add_product *p)
{
#if defined(__AVX512BF16__)
	if (p->width == TN_FACTORS_BF16)
		return PAIRS;
#endif
	return p->width == TN_FACTORS_WIDE ? ROUND_BOTH : FUSED;
}

/* The scratch of a call. */
struct work {
	const struct tn_add_product *p;
	enum how how;
	int scaled;
	size_t steps;
	float *a, *b, *lengths, *longest;     /* a packed panel, packed rows, and what settle_row needs */
};

static struct work plan(const struct tn_add_product *p, float *scratch)
{
	enum how how = how_for(p);
	struct work w = { p, how, !moves_into_b(p->scale), how == PAIRS ? (p->rank + 1) / 2 : p->rank, scratch, NULL, NULL, NULL };
	w.b = w.a + w.steps * TN_PANEL_COLS;
	w.lengths = w.b + w.steps * TN_PANEL_ROWS;
	w.longest = w.lengths + TN_PANEL_ROWS;
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS)
		w.longest[first / TN_PANEL_COLS] = panel_longest(p, first);
	return w;
}

/* Panels inside, so that the rows stay near while all of their columns are gone through. */
static int add_rows(const struct work *w, unsigned char *dst, size_t dst_stride, const unsigned char *src, size_t src_stride,
		    size_t first_row, size_t rows)
{
	const struct tn_add_product *p = w->p;
	const float *b = p->b + first_row * p->rank;
	int bad = 0;
	pack_rows(w->b, b, rows, p->rank, w->scaled ? 1.0f : (float)p->scale, w->how == PAIRS);
	for (size_t i = 0; i < rows; i++)
		w->lengths[i] = row_length(p, b + i * p->rank);
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		const struct panel panel = { p, first, panel_cols(p, first), w->longest[first / TN_PANEL_COLS] };
		struct band band = { &panel, rows, w->a, w->b, b, w->steps, w->lengths, dst + 2 * first, src + 2 * first, dst_stride,
				     src_stride };
#if defined(__AVX512BF16__)
		if (w->how == PAIRS)
			pack_pairs(w->a, &panel);
		else
#endif
			pack_floats(w->a, &panel);
		bad |= add_band(&band, rows, w->how, w->scaled);
	}
	return bad;
}

int TN_ISA_NAME(tn_x86_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
				    const struct tn_add_product *p, void *scratch)
{
	struct work w = plan(p, scratch);
	int bad = 0;
	for (size_t i = 0; i < p->rows; i += TN_PANEL_ROWS)
		bad |= add_rows(&w, (unsigned char *)dst + i * dst_stride, dst_stride, (const unsigned char *)src + i * src_stride,
				src_stride, i, p->rows - i < TN_PANEL_ROWS ? p->rows - i : TN_PANEL_ROWS);
	return bad;
}
