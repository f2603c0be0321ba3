/* SPDX-License-Identifier: Apache-2.0 */
/* add_product in tiles of 4 rows: A is packed once, and every load of it serves four rows. Few sums at a time leave the CPU
 * room to begin with the next tile while it rounds and stores the last one; with 24 of them it did one after the other.
 * The same bits as the portable one: multiplications and additions are fused only where the products are exact, and
 * vdpbf16ps adds the odd product first and then the even one, each rounded. */
#include "kernels/add_product.h"

#if defined(__x86_64__)
#include "kernels/x86/tiles_x86.h"
#else
#include "kernels/arm/tiles_arm.h"
#endif

enum {
	TILE_ROWS = 4,
	AHEAD = 4,             /* rows of the source that are asked for into the second cache */
	STREAM_FROM = 1 << 20  /* bytes that are written past the caches */
};

enum { TILE_COLS = LANES * VECTORS };

/* ---- packing --------------------------------------------------------------------------------------------- */

/* Columns of A as tiles [TILE_COLS] under each other, zeros behind its last column. */
static void pack_floats(float *dst, const struct tn_add_product *p, size_t first, size_t cols)
{
	for (size_t j = 0; j < cols; j += TILE_COLS) {
		size_t n = cols - j < TILE_COLS ? cols - j : TILE_COLS;
		for (size_t k = 0; k < p->rank; k++, dst += TILE_COLS) {
			memcpy(dst, p->a + swapped(k, p->rank) * p->cols + first + j, n * sizeof *dst);
			for (size_t l = n; l < TILE_COLS; l++)
				dst[l] = 0;
		}
	}
}

#if defined(__AVX512BF16__)
/* The same as pairs of BF16: k in the low half, k + 1 in the high one. */
static void pack_pairs(float *dst, const struct tn_add_product *p, size_t first, size_t cols)
{
	for (size_t j = 0; j < cols; j += TILE_COLS) {
		size_t n = cols - j < TILE_COLS ? cols - j : TILE_COLS;
		for (size_t k = 0; k < p->rank; k += 2, dst += TILE_COLS) {
			const float *low = p->a + k * p->cols + first + j, *high = k + 1 < p->rank ? low + p->cols : NULL;
			for (size_t l = 0; l < n && high; l++)
				dst[l] = tn_f32_from_bits(tn_f32_bits(low[l]) >> 16 | (tn_f32_bits(high[l]) & 0xFFFF0000u));
			for (size_t l = 0; l < n && !high; l++)
				dst[l] = tn_f32_from_bits(tn_f32_bits(low[l]) >> 16);
			for (size_t l = n; l < TILE_COLS; l++)
				dst[l] = 0;
		}
	}
}
#endif

/* `rows` rows of B beside each other, as the tiles multiply by them; bf16: pairs. */
static void pack_rows(float *dst, const float *b, size_t rows, size_t rank, float scale, int pairs)
{
	for (size_t k = 0; k < rank; k += pairs ? 2 : 1)
		for (size_t i = 0; i < rows; i++) {
			const float *row = b + i * rank;
			float high = k + 1 < rank ? scale * row[k + 1] : 0;
			uint32_t both = tn_f32_bits(scale * row[k]) >> 16 | (tn_f32_bits(high) & 0xFFFF0000u);
			*dst++ = pairs ? tn_f32_from_bits(both) : scale * row[swapped(k, rank)];
		}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

enum how { ROUND_BOTH, FUSED, PAIRS };

/* A call, and its scratch. */
struct work {
	const struct tn_add_product *p;
	unsigned char *dst;
	const unsigned char *src;
	size_t dst_stride, src_stride;
	enum how how;
	int scaled;                        /* sums are multiplied by the scale, where B is not */
	int stream;                        /* past the caches */
	size_t steps;                      /* packed rows of a tile: rank, or its pairs */
	size_t first, cols;                /* columns that are packed */
	float *a, *b, *lengths, *longest;  /* packed columns of A and rows of B, and what settle_row needs */
};

/* What is the same for all tiles in the same rows of a panel. */
struct rows {
	size_t first, count;
	const float *b;                    /* packed */
	const float *lengths;              /* see settle_row */
	struct panel panel;
	struct settled_row row[TILE_ROWS]; /* within the panel */
	vec scale;
	pair limit, width;                 /* of the row with the highest limit, doubled */
};

/* Columns of some rows, wherever they are. */
struct tile {
	unsigned char *dst;
	const unsigned char *src;
	size_t dst_stride, src_stride;
	const unsigned char *next;         /* what will be read in a while */
	size_t n;                          /* columns */
	int stream;
};

TN_INLINE vec multiply_add(vec a, vec b, vec sum, enum how how)
{
#if defined(__AVX512BF16__)
	if (how == PAIRS)
		return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(b), (__m512bh)_mm512_castps_si512(a));
#endif
	return how == ROUND_BOTH ? ADD(sum, MUL(b, a)) : FMA(b, a, sum);
}

/* Sums of a tile, what they round to, and bits for what settle() has to look at. */
struct outcome {
	float sum[TILE_ROWS][TILE_COLS];
	uint16_t half[TILE_ROWS][TILE_COLS];
	uint64_t which[TILE_ROWS];
};

static __attribute__((noinline)) int finish_slowly(const struct rows *rows, const struct tile *t,
						   const struct columns *columns, struct outcome *o)
{
	int bad = 0;
	for (size_t r = 0; r < rows->count; r++) {
		unsigned char *dst = t->dst + r * t->dst_stride;
		uint64_t which = o->which[r] & unsettled(&rows->row[r], o->half[r], t->n);
		if (which) {
			uint16_t source[TILE_COLS];
			memcpy(source, t->src + r * t->src_stride, 2 * t->n);
			bad |= settle(&rows->row[r], columns, which, source, o->sum[r], o->half[r]);
		}
		if (t->stream)
			STREAM_PAIR(dst, LOAD_PAIR(o->half[r]));
		else if (t->n == TILE_COLS)
			STORE_PAIR(dst, LOAD_PAIR(o->half[r]));
		else
			memcpy(dst, o->half[r], 2 * t->n);
	}
	return bad;
}

/* The results in a row of a tile that settle() has to look at, and some of rows whose limit is lower; not those, nearly all, that
 * would stay as they are: where two numbers round to the same, all between them do. Zero may be what became of a subnormal
 * number or of a NaN. */
TN_INLINE uint64_t undecided_in_row(const struct rows *rows, int r, const vec sum[VECTORS], pair out, tn_dtype dtype)
{
	vec error = SPREAD(rows->row[r].error);
	pair low = narrow_pair(SUB(sum[0], error), SUB(sum[1], error), dtype);
	pair high = narrow_pair(ADD(sum[0], error), ADD(sum[1], error), dtype);
	return undecided(out, rows->limit, rows->width, low, high, 2u * half_infinity(dtype));
}

/* Rounds the sums and stores them, or has them looked at again. */
TN_INLINE int finish(const struct rows *rows, const struct tile t, vec sum[TILE_ROWS][VECTORS], const float *a,
		     const int count, enum how how, tn_dtype dtype, int scaled)
{
	pair out[TILE_ROWS], worst = SPREAD_HALF(0);
	TN_UNROLL(4)
	for (int r = 0; r < count; r++) {
		TN_UNROLL(2)
		for (int v = 0; v < VECTORS; v++) {
			vec w = widen_halves(LOAD_HALVES(t.src + (size_t)r * t.src_stride + 2 * v * LANES), dtype);
			sum[r][v] = ADD(w, scaled ? MUL(rows->scale, sum[r][v]) : sum[r][v]);
		}
		out[r] = narrow_pair(sum[r][0], sum[r][1], dtype);
		worst = LARGER_HALVES(worst, doubled_less(out[r], rows->limit));
	}
	uint64_t which[TILE_ROWS], any = 0;
	if (__builtin_expect(ANY_FROM(worst, rows->width), 0)) {
		TN_UNROLL(4)
		for (int r = 0; r < count; r++)
			any |= which[r] = undecided_in_row(rows, r, sum[r], out[r], dtype);
	}
	if (__builtin_expect(any != 0, 0)) {
		struct outcome o;
		for (int r = 0; r < count; r++) {
			o.which[r] = which[r];
			for (int v = 0; v < VECTORS; v++)
				STORE(o.sum[r] + v * LANES, sum[r][v]);
			STORE_PAIR(o.half[r], out[r]);
		}
		struct tile where = t;
		const struct columns columns = { a, TILE_COLS, how == PAIRS ? ROWS_PAIRED : ROWS_SWAPPED };
		return finish_slowly(rows, &where, &columns, &o);
	}
	if (t.stream) {
		TN_UNROLL(4)
		for (int r = 0; r < count; r++)
			STREAM_PAIR(t.dst + (size_t)r * t.dst_stride, out[r]);
	} else {
		TN_UNROLL(4)
		for (int r = 0; r < count; r++)
			STORE_PAIR(t.dst + (size_t)r * t.dst_stride, out[r]);
	}
	return 0;
}

TN_INLINE void sum_tile(vec sum[TILE_ROWS][VECTORS], const struct rows *rows, const struct tile t, size_t steps,
			const float *a, const int count, enum how how)
{
	const float *b = rows->b;
	TN_UNROLL(4)
	for (int r = 0; r < count; r++) {
		PREFETCH(t.next + (size_t)r * t.src_stride);
		TN_UNROLL(2)
		for (int v = 0; v < VECTORS; v++)
			sum[r][v] = ZERO();
	}
	for (size_t k = 0; k < steps; k++, a += TILE_COLS, b += count) {
		vec x[VECTORS];
		TN_UNROLL(2)
		for (int v = 0; v < VECTORS; v++)
			x[v] = LOAD(a + v * LANES);
		TN_UNROLL(4)
		for (int r = 0; r < count; r++) {
			vec y = SPREAD(b[r]);
			TN_UNROLL(2)
			for (int v = 0; v < VECTORS; v++)
				sum[r][v] = multiply_add(x[v], y, sum[r][v], how);
		}
	}
}

TN_INLINE void set_panel(const struct work *w, struct rows *rows, size_t first)
{
	unsigned limit = 0;
	rows->panel = (struct panel){ w->p, first, panel_cols(w->p, first), w->longest[(first - w->first) / TN_PANEL_COLS] };
	for (size_t r = 0; r < rows->count; r++) {
		rows->row[r] = settle_row(&rows->panel, w->p->b + (rows->first + r) * w->p->rank, rows->lengths[r]);
		limit = rows->row[r].limit > limit ? rows->row[r].limit : limit;
	}
	rows->limit = SPREAD_HALF(2 * limit);
	rows->width = SPREAD_HALF(2 * (half_infinity(w->p->dtype) - limit));
}

TN_INLINE struct tile next_tile(struct tile t)
{
	t.dst += 2 * TILE_COLS;
	t.src += 2 * TILE_COLS;
	t.next += 2 * TILE_COLS;
	return t;
}

/* The whole tiles of a panel. */
TN_INLINE int add_whole_tiles(const struct rows *rows, struct tile t, size_t steps, const float *a, const int count,
			      enum how how, tn_dtype dtype, int scaled)
{
	int bad = 0;
	for (size_t left = rows->panel.cols / TILE_COLS; left; left--) {
		vec sum[TILE_ROWS][VECTORS];
		sum_tile(sum, rows, t, steps, a, count, how);
		bad |= finish(rows, t, sum, a, count, how, dtype, scaled);
		t = next_tile(t);
		a += steps * TILE_COLS;
	}
	return bad;
}

/* The last columns, which are no whole tile, in a copy that is one. */
TN_INLINE int add_last_tile(const struct rows *rows, struct tile t, size_t steps, const float *a, const int count, enum how how,
			    tn_dtype dtype, int scaled)
{
	uint16_t copy[TILE_ROWS][TILE_COLS] = { { 0 } };
	vec sum[TILE_ROWS][VECTORS];
	struct tile whole = { (unsigned char *)copy, (unsigned char *)copy, sizeof *copy, sizeof *copy, t.src, t.n, 0 };
	for (int r = 0; r < count; r++)
		memcpy(copy[r], t.src + (size_t)r * t.src_stride, 2 * t.n);
	sum_tile(sum, rows, whole, steps, a, count, how);
	int bad = finish(rows, whole, sum, a, count, how, dtype, scaled);
	for (int r = 0; r < count; r++)
		memcpy(t.dst + (size_t)r * t.dst_stride, copy[r], 2 * t.n);
	return bad;
}

TN_INLINE int add_rows_as(const struct work *w, struct rows *rows, const int count, enum how how, tn_dtype dtype, int scaled)
{
	const float *a = w->a;
	int bad = 0;
	rows->scale = SPREAD((float)w->p->scale);
	for (size_t first = w->first; first < w->first + w->cols; first += TN_PANEL_COLS) {
		set_panel(w, rows, first);
		const size_t left = rows->panel.cols % TILE_COLS, whole = rows->panel.cols - left;
		struct tile t = { w->dst + rows->first * w->dst_stride + 2 * first, w->src + rows->first * w->src_stride + 2 * first,
				  w->dst_stride, w->src_stride, NULL, TILE_COLS, w->stream };
		t.next = t.src + AHEAD * t.src_stride;
		if (whole)
			bad |= add_whole_tiles(rows, t, w->steps, a, count, how, dtype, scaled);
		a += w->steps * whole;
		t.dst += 2 * whole;
		t.src += 2 * whole;
		t.n = left;
		if (left)
			bad |= add_last_tile(rows, t, w->steps, a, count, how, dtype, scaled);
	}
	return bad;
}

TN_INLINE int add_rows_of(const struct work *w, struct rows *rows, enum how how, tn_dtype dtype, int scaled)
{
	return rows->count == TILE_ROWS ? add_rows_as(w, rows, TILE_ROWS, how, dtype, scaled) :
					  add_rows_as(w, rows, 1, how, dtype, scaled);
}

TN_INLINE int add_rows_how(const struct work *w, struct rows *rows, enum how how)
{
	if (w->p->dtype == TN_BF16)
		return w->scaled ? add_rows_of(w, rows, how, TN_BF16, 1) : add_rows_of(w, rows, how, TN_BF16, 0);
	return w->scaled ? add_rows_of(w, rows, how, TN_F16, 1) : add_rows_of(w, rows, how, TN_F16, 0);
}

static int add_rows(const struct work *w, struct rows *rows)
{
	switch (w->how) {
#if defined(__AVX512BF16__)
	case PAIRS: return add_rows_how(w, rows, PAIRS);
#endif
	case ROUND_BOTH: return add_rows_how(w, rows, ROUND_BOTH);
	default: return add_rows_how(w, rows, FUSED);
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

/* Packs columns from w->first on. */
static void pack_columns(struct work *w)
{
	for (size_t first = w->first; first < w->first + w->cols; first += TN_PANEL_COLS)
		w->longest[(first - w->first) / TN_PANEL_COLS] = panel_longest(w->p, first);
#if defined(__AVX512BF16__)
	if (w->how == PAIRS) {
		pack_pairs(w->a, w->p, w->first, w->cols);
		return;
	}
#endif
	pack_floats(w->a, w->p, w->first, w->cols);
}

/* All rows of the packed columns, TILE_ROWS at a time. */
static int add_columns(const struct work *w)
{
	const struct tn_add_product *p = w->p;
	int bad = 0;
	for (size_t i = 0, n; i < p->rows; i += n) {
		n = p->rows - i < TILE_ROWS ? 1 : TILE_ROWS;
		pack_rows(w->b, p->b + i * p->rank, n, p->rank, w->scaled ? 1.0f : (float)p->scale, w->how == PAIRS);
		for (size_t r = 0; r < n; r++)
			w->lengths[r] = row_length(p, p->b + (i + r) * p->rank);
		struct rows rows = { .first = i, .count = n, .b = w->b, .lengths = w->lengths };
		bad |= add_rows(w, &rows);
	}
	return bad;
}

int TN_ISA_NAME(tn_vector_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
					  const struct tn_add_product *p, void *scratch)
{
	struct work w = { .p = p, .dst = dst, .src = src, .dst_stride = dst_stride, .src_stride = src_stride, .how = how_for(p),
			  .scaled = !moves_into_b(p->scale), .a = scratch };
	size_t wide = tn_add_product_packed_cols(p->rank, p->cols);
	int bad = 0;
	w.steps = w.how == PAIRS ? (p->rank + 1) / 2 : p->rank;
	w.b = w.a + w.steps * wide;
	w.lengths = w.b + w.steps * TILE_ROWS;
	w.longest = w.lengths + TILE_ROWS;
	w.stream = dst != src && p->rows * p->cols * 2 >= STREAM_FROM && ((uintptr_t)dst | dst_stride) % sizeof(pair) == 0;
	for (w.first = 0; w.first < p->cols; w.first += wide) {
		w.cols = p->cols - w.first < wide ? p->cols - w.first : wide;
		pack_columns(&w);
		bad |= add_columns(&w);
	}
	if (w.stream)
		END_STREAM();
	return bad;
}
