/* What every version of add_product shares: which elements of a result are computed again in double.
 *
 * A float32 sum of products is off by little beside the last place of a 16-bit result, unless W and the product cancel, or the
 * products do among themselves while W is next to nothing. So the results below a limit are looked at again: where all that the
 * error could make of one rounds to the same number, that is it; else it is computed in double. The limit belongs to a row and
 * a panel of TN_PANEL_COLS columns. It also covers what instructions that take subnormal numbers for zero lose, so every
 * instruction set gives the same bits. */
#ifndef TN_ADD_PRODUCT_H
#define TN_ADD_PRODUCT_H

#include "kernels/isa_build.h"
#include "kernels/quant.h"

enum { LENGTH_LANES = 8 };

/* A panel of columns, and the length of the longest. */
struct panel {
	const struct tn_add_product *p;
	size_t first, cols;
	float longest;
};

/* A row within a panel. */
struct settled_row {
	const struct panel *panel;
	const float *b;              /* [rank] */
	double gain;                 /* 1 but for rows with a magnitude */
	float error;                 /* of its sums, times that */
	uint16_t limit;              /* bits of a 16-bit magnitude: below it the error may show */
};

TN_INLINE uint16_t narrow(float x, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
}

TN_INLINE float widen(uint16_t x, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_f32_from_bf16(x) : tn_f32_from_f16(x);
}

/* The bits of infinity. */
TN_INLINE uint16_t half_infinity(tn_dtype dtype)
{
	return dtype == TN_BF16 ? 0x7F80 : 0x7C00;
}

TN_INLINE size_t panel_cols(const struct tn_add_product *p, size_t first)
{
	return p->cols - first < TN_PANEL_COLS ? p->cols - first : TN_PANEL_COLS;
}

/* The length of the longest column in the panel of A from column `first` on, from the squares of all of them. */
static inline float longest_of(const struct tn_add_product *p, size_t first, const float *squares)
{
	float most[LENGTH_LANES] = { 0 }, longest = 0, top = 0;
	size_t n = panel_cols(p, first), j = 0;
	for (; j + LENGTH_LANES <= n; j += LENGTH_LANES)
		for (size_t l = 0; l < LENGTH_LANES; l++)
			most[l] = squares[j + l] > most[l] ? squares[j + l] : most[l];
	for (; j < n; j++)
		longest = squares[j] > longest ? squares[j] : longest;
	for (size_t l = 0; l < LENGTH_LANES; l++)
		longest = most[l] > longest ? most[l] : longest;
	if (longest > 0x1p-80f)
		return sqrtf(longest);
	for (size_t k = 0; k < p->rank; k++) { /* squares of small numbers vanish */
		float most_of_row = abs_max(p->a + k * p->cols + first, (int)n);
		top = most_of_row > top ? most_of_row : top;
	}
	return top * sqrtf((float)p->rank);
}

static inline float panel_longest(const struct tn_add_product *p, size_t first)
{
	float squares[TN_PANEL_COLS] = { 0 };
	for (size_t k = 0; k < p->rank; k++) {
		const float *row = p->a + k * p->cols + first;
		for (size_t j = 0; j < panel_cols(p, first); j++)
			squares[j] += row[j] * row[j];
	}
	return longest_of(p, first, squares);
}

/* |b|, summed in lanes so that the compiler may use vectors. */
TN_INLINE float length_of(const float *b, size_t n)
{
	float sum[LENGTH_LANES] = { 0 };
	size_t i = 0;
	for (; i + LENGTH_LANES <= n; i += LENGTH_LANES)
		for (size_t l = 0; l < LENGTH_LANES; l++)
			sum[l] += b[i + l] * b[i + l];
	for (size_t l = 0; i < n; i++, l++)
		sum[l] += b[i] * b[i];
	for (size_t width = LENGTH_LANES / 2; width; width /= 2)
		for (size_t l = 0; l < width; l++)
			sum[l] += sum[l + width];
	/* squares of small numbers vanish */
	return sum[0] > 0x1p-80f ? sqrtf(sum[0]) : abs_max(b, (int)n) * sqrtf((float)n);
}

/* An error of a number that is larger by this factor stays below 0.02 units in its last place. */
TN_INLINE int errors_seen(tn_dtype dtype)
{
	return dtype == TN_BF16 ? 12800 : 102400;
}

/* A power of two of usual size can multiply B in place of the sum: the same bits, but for the subnormal ones, unless sums overflow.
 * Not a negative one, which turns the sign of a sum that is zero: of products it would not, for the sum begins with +0. */
static inline int moves_into_b(double scale)
{
	int exponent;
	return frexp(scale, &exponent) == 0.5 && exponent > -16 && exponent <= 16;
}

/* `length` is that of the row of B, times |scale|. With the signs of chance the roundings of a sum come to some 2^-26 of the
 * lengths of its factors, whatever the rank; this error is eight times that. Numbers of B that are subnormal, or become so with the
 * scale, may be taken for zero. A row of zeros has no error, however long A is. */
TN_INLINE float error_of(float length, float longest)
{
	const float error = length * longest * 0x1p-23f, least = longest * 0x1p-110f;
	return !(length > 0 && longest > 0) ? 0 : error > least ? error : least;
}

TN_INLINE struct settled_row settle_row(const struct panel *panel, const float *b, float length)
{
	float error = error_of(length, panel->longest);
	if (error > 0 && error < 0x1p-118f)
		error = 0x1p-118f;
	float limit = error * (float)errors_seen(panel->p->dtype);
	limit = limit > 0x1p-90f ? limit : 0x1p-90f;
	uint16_t bits = narrow(limit, panel->p->dtype), top = half_infinity(panel->p->dtype);
	return (struct settled_row){ panel, b, 1, error, (uint16_t)(bits + 1 < top ? bits + 1 : top - 1) };
}

TN_INLINE float row_length(const struct tn_add_product *p, const float *b)
{
	return (float)fabs(p->scale) * length_of(b, p->rank);
}

/* A bit for each of n <= 64 results that settle() has to look at. */
TN_INLINE uint64_t unsettled(const struct settled_row *row, const uint16_t *out, size_t n)
{
	uint16_t top = half_infinity(row->panel->p->dtype), width = (uint16_t)(top - row->limit);
	uint64_t which = 0;
	int any = 0;
	for (size_t l = 0; l < n; l++)
		any |= (uint16_t)((out[l] & 0x7FFFu) - row->limit) >= width;
	for (size_t l = 0; any && l < n; l++)
		which |= (uint64_t)((uint16_t)((out[l] & 0x7FFFu) - row->limit) >= width) << l;
	return which;
}

/* Neighbouring columns of A, as they are or as they were packed: rows of two k swapped, or pairs of BF16 in one. `apart`: if not
 * 0, odd columns stand so far behind even ones, and so do their sums. */
struct columns {
	const float *a;
	size_t stride;
	enum { ROWS_AS_THEY_ARE, ROWS_SWAPPED, ROWS_PAIRED } rows;
	size_t apart;
};

/* Where column l stands. */
TN_INLINE size_t column_place(const struct columns *c, size_t l)
{
	return c->apart ? l / 2 + l % 2 * c->apart : l;
}

/* Products in the order of their sum. */
TN_INLINE size_t swapped(size_t k, size_t rank)
{
	return (k ^ 1u) < rank ? k ^ 1u : k;
}

/* Row k of the column at `place`. */
TN_INLINE float column_value(const struct columns *c, size_t k, size_t place, size_t rank)
{
	if (c->rows == ROWS_PAIRED) {
		uint32_t both = tn_f32_bits(c->a[k / 2 * c->stride + place]);
		return tn_f32_from_bits(k % 2 ? both & 0xFFFF0000u : both << 16);
	}
	return c->a[(c->rows == ROWS_SWAPPED ? swapped(k, rank) : k) * c->stride + place];
}

static inline uint16_t in_double(const struct settled_row *row, const struct columns *c, size_t l, float w)
{
	const struct tn_add_product *p = row->panel->p;
	double sum[4] = { 0 };
	size_t k = 0, place = column_place(c, l);
	for (; k + 4 <= p->rank; k += 4)
		for (size_t i = 0; i < 4; i++)
			sum[i] += (double)row->b[k + i] * (double)column_value(c, k + i, place, p->rank);
	for (size_t i = 0; k < p->rank; k++, i++)
		sum[i] += (double)row->b[k] * (double)column_value(c, k, place, p->rank);
	return narrow((float)(row->gain * ((double)w + p->scale * ((sum[0] + sum[1]) + (sum[2] + sum[3])))), p->dtype);
}

/* The sum in float32, in its order: of B times `of_b`, the sum of products times `of_sum`. */
static inline float in_order(const struct settled_row *row, const struct columns *c, size_t l, float w, float of_b, float of_sum,
			     int fused)
{
	const size_t rank = row->panel->p->rank;
	float sum = 0;
	for (size_t k = 0; k < rank; k++) {
		size_t at = swapped(k, rank);
		float b = of_b * row->b[at], a = column_value(c, at, column_place(c, l), rank);
		sum = fused ? fmaf(b, a, sum) : sum + b * a;
	}
	return w + of_sum * sum;
}

/* The same as it is defined; where that overflows, as the tiles compute it, for it may not overflow there. */
static inline float sum_again(const struct settled_row *row, const struct columns *c, size_t l, float w)
{
	const struct tn_add_product *p = row->panel->p;
	const float scale = (float)p->scale, sum = in_order(row, c, l, w, 1, scale, 0);
	const int moves = moves_into_b(p->scale), fused = p->width != TN_FACTORS_WIDE;
	return isfinite(sum) ? sum : in_order(row, c, l, w, moves ? scale : 1, moves ? 1 : scale, fused);
}

/* Looks at the results in columns l for every bit l of `which`: sum before and out after rounding, w the source. Zero and what is
 * not finite may stand for other sums than those that are given, of any size. Returns 1 when one of them is not finite. */
__attribute__((noinline, unused)) static int settle(const struct settled_row *row, const struct columns *c, uint64_t which,
						    const uint16_t *w, const float *sum, uint16_t *out)
{
	tn_dtype dtype = row->panel->p->dtype;
	uint16_t top = half_infinity(dtype);
	int bad = 0;
	for (; which; which &= which - 1) {
		size_t l = (size_t)__builtin_ctzll(which);
		uint16_t size = out[l] & 0x7FFFu;
		float source = widen(w[l], dtype);
		float v = size && size < top ? sum[column_place(c, l)] : sum_again(row, c, l, source);
		uint16_t low = narrow(v - row->error, dtype), high = narrow(v + row->error, dtype);
		out[l] = narrow(v, dtype);
		size = out[l] & 0x7FFFu;
		if (size >= top || (size < row->limit && low != high))
			out[l] = in_double(row, c, l, source);
		else if (size < row->limit)
			out[l] = low;
		bad |= (out[l] & 0x7FFFu) >= top;
	}
	return bad;
}

/* ---- rows with a magnitude --------------------------------------------------------------------------------- */

enum { SQUARE_LANES = 16, DOUBLE_LANES = 64 };

/* What the lanes of a panel came to, to those of a row. */
TN_INLINE void add_squares(double *sum, const float *lanes)
{
	for (size_t l = 0; l < SQUARE_LANES; l++)
		sum[l] += (double)lanes[l];
}

/* The length that A can have at most, from the longest columns of its panels. */
static inline double whole_length(const struct tn_add_product *p, const float *longest)
{
	double sum = 0;
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		double length = (double)longest[first / TN_PANEL_COLS];
		sum += (double)panel_cols(p, first) * length * length;
	}
	return sqrt(sum);
}

/* What a row is multiplied by, from the lanes of its squares; `products` is the most that its products can be as a whole. 0 where
 * float32 may show, because all of the row cancels, or squares or results may leave the range: such rows are computed in double. No
 * other result can be larger than the magnitude, so they are finite. */
static inline double row_gain(const struct tn_add_product *p, size_t row, const double *squares, double products)
{
	double sum = 0, least = products * 0x1p-23 * errors_seen(p->dtype);
	for (size_t l = 0; l < SQUARE_LANES; l++)
		sum += squares[l];
	double gain = (double)p->row_magnitude[row] / sqrt(sum), most = p->dtype == TN_BF16 ? 0x1p126 : 0x1p15;
	int usual = sum > 0x1p-80 && sum < 0x1p127 && sum > least * least && fabs((double)p->row_magnitude[row]) < most;
	return usual && fabs(gain) > 0x1p-60 && fabs(gain) < 0x1p60 ? gain : 0;
}

/* A row that is multiplied by its gain. The error is too large for what becomes of subnormal numbers to be told from zero. */
TN_INLINE struct settled_row gained_row(const struct panel *panel, const float *b, float length, double gain)
{
	float error = error_of(length, panel->longest) * (float)fabs(gain);
	return (struct settled_row){ panel, b, gain, error > 0x1p-125f ? error : 0x1p-125f, 0 };
}

/* n results from the sums of a row and its source: rounded where the two ends of the error round to the same, else computed in
 * double. */
TN_INLINE void round_gained(uint16_t *out, const struct settled_row *row, const struct columns *c, const float *sum,
			    const uint16_t *w, size_t n, tn_dtype dtype)
{
	uint16_t high[DOUBLE_LANES], differ = 0;
	const float gain = (float)row->gain;
	for (size_t l = 0; l < n; l++) {
		out[l] = narrow(gain * sum[l] - row->error, dtype);
		high[l] = narrow(gain * sum[l] + row->error, dtype);
		differ |= out[l] ^ high[l];
	}
	for (size_t l = 0; differ && l < n; l++)
		if (out[l] != high[l])
			out[l] = in_double(row, c, l, widen(w[l], dtype));
}

/* n <= DOUBLE_LANES columns of a row from j on. */
static inline void sum_in_double(double *v, const struct tn_add_product *p, const float *b, const unsigned char *src, size_t j,
				 size_t n)
{
	double sum[DOUBLE_LANES] = { 0 };
	uint16_t w[DOUBLE_LANES];
	memcpy(w, src + 2 * j, n * sizeof *w);
	for (size_t k = 0; k < p->rank; k++)
		for (size_t l = 0; l < n; l++)
			sum[l] += (double)b[k] * (double)p->a[k * p->cols + j + l];
	for (size_t l = 0; l < n; l++)
		v[l] = (double)widen(w[l], p->dtype) + p->scale * sum[l];
}

/* A whole row; src may be dst. One without any length keeps that. Returns 1 when a result is not finite. */
__attribute__((noinline, unused)) static int row_in_double(const struct tn_add_product *p, size_t row, unsigned char *dst,
							   const unsigned char *src)
{
	const float *b = p->b + row * p->rank;
	uint16_t top = half_infinity(p->dtype), out[DOUBLE_LANES];
	double v[DOUBLE_LANES], sum = 0;
	int bad = 0;
	for (size_t j = 0, n; j < p->cols; j += n) {
		n = p->cols - j < DOUBLE_LANES ? p->cols - j : DOUBLE_LANES;
		sum_in_double(v, p, b, src, j, n);
		for (size_t l = 0; l < n; l++)
			sum += v[l] * v[l];
	}
	double gain = sum > 0 ? (double)p->row_magnitude[row] / sqrt(sum) : 1;
	for (size_t j = 0, n; j < p->cols; j += n) {
		n = p->cols - j < DOUBLE_LANES ? p->cols - j : DOUBLE_LANES;
		sum_in_double(v, p, b, src, j, n);
		for (size_t l = 0; l < n; l++) {
			out[l] = narrow((float)(gain * v[l]), p->dtype);
			bad |= (out[l] & 0x7FFFu) >= top;
		}
		memcpy(dst + 2 * j, out, n * sizeof *out);
	}
	return bad;
}

/* By vectors (vector/add_tiles.c); rows with a magnitude (vector/gain_tiles.c). */
int TN_ISA_NAME(tn_vector_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
				       const struct tn_add_product *p, void *scratch);
int TN_ISA_NAME(tn_vector_gain_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
					const struct tn_add_product *p, void *scratch);

#endif
