/* SPDX-License-Identifier: Apache-2.0 */
/* Products in plain C: a row of W is decoded to float32 and multiplied with every x. Sums in 16 lanes of a fixed order, so
 * the bits are the same on every instruction set, and a row of the result depends on nothing but its own row of W and x. */
#include "kernels/product.h"

#include "base/half.h"

#include <string.h>

enum { LANES = 16, CHUNK = 256 };

/* x stays where it is. */
struct prepared {
	const float *x;
	size_t stride;
};

void TN_ISA_NAME(tn_product_prepare)(void *prepared, const struct tn_vectors *v)
{
	struct prepared p = { v->x, v->stride };
	if (v->first == 0)
		memcpy(prepared, &p, sizeof p);
}

static void add_products(float *sum, const float *a, const float *b, size_t n)
{
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (size_t l = 0; l < LANES; l++)
			sum[l] += a[i + l] * b[i + l];
	for (size_t l = 0; i < n; i++, l++)
		sum[l] += a[i] * b[i];
}

static float add_lanes(float *sum)
{
	for (int width = LANES / 2; width; width /= 2)
		for (int l = 0; l < width; l++)
			sum[l] += sum[l + width];
	return sum[0];
}

static float dot(const float *a, const float *b, size_t n)
{
	float sum[LANES] = { 0 };
	add_products(sum, a, b, n);
	return add_lanes(sum);
}

/* ---- the base -------------------------------------------------------------------------------------------- */

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

static const struct tn_codec *const codecs[TN_CODEC_COUNT] = {
#define CODEC(name) [TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name),
#include "kernels/codecs.def"
#undef CODEC
};

void TN_ISA_NAME(tn_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				  const struct tn_rows *w, size_t rows, float *scratch)
{
	struct prepared in;
	struct tn_row row = w->first;
	memcpy(&in, prepared, sizeof in);
	for (size_t i = 0; i < rows; i++) {
		codecs[p->format->codec]->decode(scratch, &row, p->format, p->cols);
		for (size_t t = 0; t < p->m; t++)
			y[t * y_stride + i] = dot(in.x + t * in.stride, scratch, p->cols);
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			if (row.part[part])
				row.part[part] = (const unsigned char *)row.part[part] + w->stride[part];
	}
}

/* ---- factors --------------------------------------------------------------------------------------------- */

/* n <= CHUNK elements as float32: those of a factor of that dtype, or a copy of them. */
static const float *factor(const void *values, size_t first, size_t n, tn_dtype dtype, float *copy)
{
	const uint16_t *h = (const uint16_t *)values + first;
	if (dtype == TN_F32)
		return (const float *)values + first;
	if (dtype == TN_BF16)
		for (size_t i = 0; i < n; i++)
			copy[i] = tn_f32_from_bf16(h[i]);
	else
		for (size_t i = 0; i < n; i++)
			copy[i] = tn_f32_from_f16(h[i]);
	return copy;
}

/* The product of x with row `row` of a factor [.., cols]. */
static float dot_factor(const float *x, const void *values, size_t row, size_t cols, tn_dtype dtype)
{
	float sum[LANES] = { 0 }, copy[CHUNK];
	for (size_t i = 0; i < cols; i += CHUNK) {
		size_t n = cols - i < CHUNK ? cols - i : CHUNK;
		add_products(sum, x + i, factor(values, row * cols + i, n, dtype, copy), n);
	}
	return add_lanes(sum);
}

void TN_ISA_NAME(tn_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
				 const float *x, size_t x_stride, size_t m)
{
	for (size_t k = 0; k < rank; k++)
		for (size_t i = 0; i < m; i++)
			t[i * t_stride + k] = dot_factor(x + i * x_stride, a, k, cols, dtype);
}

void TN_ISA_NAME(tn_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
				 const float *t, size_t t_stride, size_t m, float scale)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t i = 0; i < m; i++)
			y[i * y_stride + r] += scale * dot_factor(t + i * t_stride, b, r, rank, dtype);
}

/* An exponent of all ones. */
int TN_ISA_NAME(tn_all_finite)(const void *values, tn_dtype dtype, size_t n)
{
	const uint16_t *h = values, mask = dtype == TN_BF16 ? 0x7F80u : 0x7C00u;
	const uint32_t *w = values;
	uint16_t odd = 0;
	uint32_t odd_word = 0;
	for (size_t i = 0; i < n && dtype != TN_F32; i++)
		odd |= (uint16_t)((h[i] & mask) == mask);
	for (size_t i = 0; i < n && dtype == TN_F32; i++)
		odd_word |= (w[i] & 0x7F800000u) == 0x7F800000u;
	return !odd && !odd_word;
}
