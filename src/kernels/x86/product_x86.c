/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the products takes what: the one place that chooses. */
#include "kernels/x86/product_x86.h"

#include "kernels/product.h"

/* A row of `grid` cannot be cut in pieces. */
enum way { IN_PLANES, IN_STRIPS, IN_TILES, IN_TABLES, IN_PIECES, IN_ROWS };

/* Codes of 4 bits: so few x in planes, row by row; more of them unpacked once for all. Measured. */
static size_t most_in_planes(const struct tn_product *p)
{
#if defined(__AMX_BF16__)
	return p->precision == TN_PRECISION_EXACT && p->x_dtype != TN_BF16 ? 6 : 5;
#elif defined(TN_BYTE_DOTS)
	return TN_ISA_NAME(tn_strips_fewest)(p) - 1;
#else
	return p->precision == TN_PRECISION_EXACT ? 15 : 5;
#endif
}

/* Everything else in float32; so are codes of 4 bits where there is no instruction for sums of four bytes, and three planes take
 * longer than to decode. */
static enum way way_of(const struct tn_product *p)
{
	if (TN_ISA_NAME(tn_table_takes)(p))
		return IN_TABLES;
	const enum way in_floats = p->format->codec != TN_CODEC_grid ? IN_PIECES : IN_ROWS;
	if (!TN_ISA_NAME(tn_planes_take)(p))
		return in_floats;
	if (p->m <= most_in_planes(p))
		return IN_PLANES;
#if !defined(TN_BYTE_DOTS)
	if (p->precision == TN_PRECISION_EXACT)
		return in_floats;
#endif
#if defined(__AMX_BF16__)
	if (p->precision != TN_PRECISION_INT8) /* which takes one plane, and less to unpack */
		return IN_TILES;
#endif
	return IN_STRIPS;
}

/* Of a copy: an odd number of cache lines, so that rows do not push each other out. */
static size_t copy_stride(size_t cols)
{
	return ((cols + 15) / 16 | 1) * 16;
}

static size_t bytes_of(const struct tn_product *p)
{
	switch (way_of(p)) {
	case IN_PLANES: return TN_ISA_NAME(tn_planes_bytes)(p);
	case IN_STRIPS: return TN_ISA_NAME(tn_strips_bytes)(p);
#if defined(__AMX_BF16__)
	case IN_TILES: return TN_ISA_NAME(tn_tiles_bytes)(p);
#endif
	case IN_TABLES: return TN_ISA_NAME(tn_table_bytes)(p);
	case IN_PIECES: return p->m > 1 ? p->m * copy_stride(p->cols) * sizeof(float) : 0;
	default: return 0;
	}
}

static size_t scratch_of(const struct tn_product *p)
{
	switch (way_of(p)) {
	case IN_PLANES:
	case IN_TABLES: return 64;
	case IN_STRIPS: return TN_ISA_NAME(tn_strips_scratch)(p);
#if defined(__AMX_BF16__)
	case IN_TILES: return TN_ISA_NAME(tn_tiles_scratch)();
#endif
	case IN_PIECES: return TN_ISA_NAME(tn_dots_scratch)(p);
	default: return tn_decoded_row_bytes(p->cols);
	}
}

/* Never less for more x, because scratch is asked for by the most there will be; and enough for x of any dtype, because it is
 * asked for before they are known. */
static size_t most_of(size_t (*of)(const struct tn_product *p), const struct tn_product *p)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	size_t most = 0;
	for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
		struct tn_product all = *p, few;
		all.x_dtype = dtypes[i];
		few = all;
		few.m = all.m < most_in_planes(&all) ? all.m : most_in_planes(&all);
		most = of(&all) > most ? of(&all) : most;
		most = of(&few) > most ? of(&few) : most;
	}
	return most;
}

size_t TN_ISA_NAME(tn_x86_product_bytes)(const struct tn_product *p)
{
	return TN_PREPARED_HEAD + most_of(bytes_of, p);
}

size_t TN_ISA_NAME(tn_x86_product_scratch)(const struct tn_product *p)
{
	return most_of(scratch_of, p);
}

/* Returns where rows of the products read x. */
static struct tn_prepared copy_rows(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	float *copy = (float *)(void *)dst;
	const size_t stride = copy_stride(p->cols);
	for (size_t t = v->first; t < v->first + v->count; t++)
		memcpy(copy + t * stride, v->x + t * v->stride, p->cols * sizeof *copy);
	return (struct tn_prepared){ copy, stride };
}

void TN_ISA_NAME(tn_x86_product_prepare)(void *prepared, const struct tn_product *p, const struct tn_vectors *v)
{
	unsigned char *rest = (unsigned char *)prepared + TN_PREPARED_HEAD;
	struct tn_prepared head = { v->x, v->stride };
	enum way way = way_of(p);
	if (way == IN_PLANES)
		TN_ISA_NAME(tn_planes_prepare)(rest, p, v);
	else if (way == IN_STRIPS)
		TN_ISA_NAME(tn_strips_prepare)(rest, p, v);
#if defined(__AMX_BF16__)
	else if (way == IN_TILES)
		TN_ISA_NAME(tn_tiles_prepare)(rest, p, v);
#endif
	else if (way == IN_TABLES)
		TN_ISA_NAME(tn_table_prepare)(rest, p, v->x);
	else if (way == IN_PIECES && p->m > 1)
		head = copy_rows(rest, p, v);
	if (v->first == 0)
		memcpy(prepared, &head, sizeof head);
}

void TN_ISA_NAME(tn_x86_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch)
{
	const unsigned char *rest = (const unsigned char *)prepared + TN_PREPARED_HEAD;
	struct tn_prepared head;
	memcpy(&head, prepared, sizeof head);
	switch (way_of(p)) {
	case IN_PLANES: TN_ISA_NAME(tn_planes_rows)(y, y_stride, p, rest, w, rows); break;
	case IN_STRIPS: TN_ISA_NAME(tn_strips_rows)(y, y_stride, p, rest, w, rows, scratch); break;
#if defined(__AMX_BF16__)
	case IN_TILES: TN_ISA_NAME(tn_tiles_rows)(y, y_stride, p, rest, w, rows, scratch); break;
#endif
	case IN_TABLES: TN_ISA_NAME(tn_table_rows)(y, p, rest, w, rows); break;
	case IN_PIECES: TN_ISA_NAME(tn_dots_rows)(y, y_stride, p, &head, w, rows, scratch); break;
	default: TN_ISA_NAME(tn_product_rows)(y, y_stride, p, prepared, w, rows, scratch); break;
	}
}
