/* SPDX-License-Identifier: Apache-2.0 */
/* Both factors of adapters, by vectors. A right factor has rows as short as its rank, so as many of them as a vector has lanes
 * are worked on at once: products are taken of the elements in the order in which they lie, and one tree adds up what belongs
 * to each row; or, for several x, columns are made of those rows first. */
#include "kernels/vector/dots.h"
#include "kernels/vector/vector.h"

void TN_ISA_NAME(tn_vector_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
					const float *x, size_t x_stride, size_t m)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_rows rows = { { { a } }, { cols * (dtype == TN_F32 ? 4 : 2) } };
	struct tn_prepared head = { x, x_stride };
	struct tn_product p = { &format, cols, m, TN_PRECISION_EXACT, TN_F32 };
	float scratch[TN_DOTS_SCRATCH];
	TN_ISA_NAME(tn_dots_rows)(t, t_stride, &p, &head, &rows, rank, scratch);
}

/* Rows of x that are spread out at once, and floats that they take: more than fit are a longer way round. */
enum { MOST_SPREAD = 16, SPREAD_FLOATS = 2048 };

/* y += scale * (rows of B, t) for LANES rows of BF16. A row is `width` lanes of pairs, or `count` times as many; even elements of
 * t stand in a vector of `spread`, odd ones in the next. */
TN_INLINE void expand_pairs(float *y, size_t y_stride, const unsigned char *b, const int width, const size_t count,
			    const float *spread, size_t m, float scale)
{
	for (size_t k = 0; k < m; k++, y += y_stride) {
		floats sum[16];
		TN_UNROLL(16)
		for (int i = 0; i < width; i++)
			sum[i] = ZERO();
		for (size_t c = 0; c < count; c++, spread += 2 * LANES) {
			floats even = LOAD(spread), odd = LOAD(spread + LANES);
			TN_UNROLL(16)
			for (int i = 0; i < width; i++) {
				floats w[2];
				load_pairs(w, b + ((size_t)i * count + c) * 4 * LANES);
				sum[i] = FMA(w[0], even, FMA(w[1], odd, sum[i]));
			}
		}
		STORE(y, FMA(SPREAD(scale), add_rows(sum, width), LOAD(y)));
	}
}

/* The same for any dtype, where the rank is a multiple of LANES. */
TN_INLINE void expand_wide(float *y, size_t y_stride, const unsigned char *b, size_t rank, const float *t, size_t t_stride,
			   size_t m, float scale, tn_dtype dtype)
{
	size_t stride = rank * (dtype == TN_F32 ? 4 : 2);
	for (size_t k = 0; k < m; k++, y += y_stride, t += t_stride) {
		floats sum[LANES];
		TN_UNROLL(16)
		for (int i = 0; i < LANES; i++)
			sum[i] = ZERO();
		for (size_t j = 0; j < rank; j += LANES) {
			floats x = LOAD(t + j);
			TN_UNROLL(16)
			for (int i = 0; i < LANES; i++)
				sum[i] = FMA(load_floats(b + (size_t)i * stride, j, dtype), x, sum[i]);
		}
		STORE(y, FMA(SPREAD(scale), add_rows(sum, LANES), LOAD(y)));
	}
}

/* Any rank, a row at a time. */
static void expand_rows(float *y, size_t y_stride, const unsigned char *b, size_t rank, size_t rows, const float *t,
			size_t t_stride, size_t m, float scale, tn_dtype dtype)
{
	for (size_t r = 0; r < rows; r++, b += rank * (dtype == TN_F32 ? 4 : 2))
		for (size_t k = 0; k < m; k++) {
			floats sum = ZERO();
			float lanes[LANES], rest = 0;
			size_t j = 0;
			for (; j + LANES <= rank; j += LANES)
				sum = FMA(load_floats(b, j, dtype), LOAD(t + k * t_stride + j), sum);
			for (; j < rank; j++)
				rest += load_as(b, j, dtype) * t[k * t_stride + j];
			STORE(lanes, sum);
			for (int i = 0; i < LANES; i++)
				rest += lanes[i];
			y[k * y_stride + r] += scale * rest;
		}
}

/* What comes behind the rows of a call is wanted soon too: the next rows of the same factor, by the next call. */
TN_INLINE void ask_ahead(const unsigned char *b, size_t bytes, size_t ahead)
{
	for (size_t i = 0; i < bytes; i += 64)
		PREFETCH(b + ahead + i);
}

/* Even elements of each t, repeated so that they meet those of the rows in a vector; then the odd ones. A rank that is less than
 * two vectors is a power of two. */
static void spread_pairs(float *spread, const float *t, size_t t_stride, size_t m, size_t rank)
{
	size_t n = rank < 2 * LANES ? 2 * LANES : rank, within = rank < 2 * LANES ? rank - 1 : SIZE_MAX;
	for (size_t k = 0; k < m; k++, t += t_stride)
		for (size_t j = 0; j < n; j += 2 * LANES, spread += 2 * LANES)
			for (size_t i = 0; i < LANES; i++) {
				spread[i] = t[(j + 2 * i) & within];
				spread[LANES + i] = t[(j + 2 * i + 1) & within];
			}
}

struct expansion {
	float *y;
	size_t y_stride;
	const unsigned char *b;
	size_t rank, rows;         /* a multiple of LANES */
	const float *t;
	size_t t_stride, m;
	float scale;
	tn_dtype dtype;
};

TN_INLINE void expand_blocks(const struct expansion *e, const int width, const float *spread, tn_dtype dtype)
{
	size_t block = LANES * e->rank * (dtype == TN_F32 ? 4 : 2), all = e->rows / LANES * block, ahead = all < 8192 ? all : 8192;
	for (size_t i = 0; i < e->rows; i += LANES) {
		const unsigned char *b = e->b + i / LANES * block;
		ask_ahead(b, block, ahead);
		if (width)
			expand_pairs(e->y + i, e->y_stride, b, width, width < LANES ? 1 : e->rank / (2 * LANES), spread, e->m,
				     e->scale);
		else
			expand_wide(e->y + i, e->y_stride, b, e->rank, e->t, e->t_stride, e->m, e->scale, dtype);
	}
}

static void expand_bf16(const struct expansion *e, const float *spread)
{
	size_t pairs = e->rank / 2;
	if (pairs == 2 && LANES > 2)
		expand_blocks(e, 2, spread, TN_BF16);
	else if (pairs == 4 && LANES > 4)
		expand_blocks(e, 4, spread, TN_BF16);
	else if (pairs == 8 && LANES > 8)
		expand_blocks(e, 8, spread, TN_BF16);
	else
		expand_blocks(e, LANES, spread, TN_BF16);
}

static void expand_any(const struct expansion *e)
{
	if (e->dtype == TN_F32)
		expand_blocks(e, 0, NULL, TN_F32);
	else if (e->dtype == TN_F16)
		expand_blocks(e, 0, NULL, TN_F16);
	else
		expand_blocks(e, 0, NULL, TN_BF16);
}

/* For several x: a block of BF16 made columns, in float32, once for all of them. */
enum { COLUMNS = 16, MOST_COLUMNS = 64, FEWEST_TURNED = 4 };

TN_INLINE void add_columns(const struct expansion *e, size_t row, size_t first, const int many, const float *columns)
{
	const float *t = e->t + first * e->t_stride;
	float *y = e->y + first * e->y_stride + row;
	floats sum[8];
	TN_UNROLL(8)
	for (int k = 0; k < many; k++) {
		PREFETCH(y + (size_t)k * e->y_stride + 8 * LANES);
		sum[k] = ZERO();
	}
	for (size_t j = 0; j < e->rank; j++) {
		floats column = LOAD(columns + j * LANES);
		TN_UNROLL(8)
		for (int k = 0; k < many; k++)
			sum[k] = FMA(SPREAD(t[(size_t)k * e->t_stride + j]), column, sum[k]);
	}
	TN_UNROLL(8)
	for (int k = 0; k < many; k++) {
		float *to = y + (size_t)k * e->y_stride;
		STORE(to, FMA(SPREAD(e->scale), sum[k], LOAD(to)));
	}
}

static void expand_turned(const struct expansion *e)
{
	float columns[MOST_COLUMNS * LANES];
	size_t block = LANES * e->rank * 2, all = e->rows / LANES * block, ahead = all < 8192 ? all : 8192;
	for (size_t i = 0; i < e->rows; i += LANES) {
		const unsigned char *b = e->b + i / LANES * block;
		ask_ahead(b, block, ahead);
		for (size_t j = 0; j < e->rank; j += COLUMNS) {
			floats v[COLUMNS];
			load_columns(v, b + 2 * j, e->rank * 2);
			TN_UNROLL(16)
			for (int c = 0; c < COLUMNS; c++)
				STORE(columns + (j + (size_t)c) * LANES, v[c]);
		}
		size_t k = 0;
		for (; k + 8 <= e->m; k += 8)
			add_columns(e, i, k, 8, columns);
		for (; k + 4 <= e->m; k += 4)
			add_columns(e, i, k, 4, columns);
		for (; k < e->m; k++)
			add_columns(e, i, k, 1, columns);
	}
}

/* Returns how many rows that were. */
static size_t expand_whole_blocks(struct expansion *e)
{
	float spread[SPREAD_FLOATS];
	size_t rows = e->rows, size = e->rank < 2 * LANES ? 2 * LANES : e->rank, most = SPREAD_FLOATS / size;
	int pairs = e->dtype == TN_BF16 && (e->rank == 4 || e->rank == 8 || e->rank == 16 || e->rank % (2 * LANES) == 0) && most;
	if ((!pairs && e->rank % LANES) || !e->rank)
		return 0;
	e->rows = rows / LANES * LANES;
	if (pairs && e->m >= FEWEST_TURNED && e->rank % COLUMNS == 0 && e->rank <= MOST_COLUMNS) {
		expand_turned(e);
		return e->rows;
	}
	if (!pairs) {
		expand_any(e);
		return e->rows;
	}
	struct expansion part = *e;
	most = most < MOST_SPREAD ? most : MOST_SPREAD;
	for (size_t k = 0; k < e->m; k += part.m) {
		part.m = e->m - k < most ? e->m - k : most;
		part.y = e->y + k * e->y_stride;
		spread_pairs(spread, e->t + k * e->t_stride, e->t_stride, part.m, e->rank);
		expand_bf16(&part, spread);
	}
	return e->rows;
}

void TN_ISA_NAME(tn_vector_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
					const float *t, size_t t_stride, size_t m, float scale)
{
	struct expansion e = { y, y_stride, b, rank, rows, t, t_stride, m, scale, dtype };
	size_t done = expand_whole_blocks(&e);
	expand_rows(y + done, y_stride, e.b + done * rank * (dtype == TN_F32 ? 4 : 2), rank, rows - done, t, t_stride, m, scale,
		    dtype);
}
