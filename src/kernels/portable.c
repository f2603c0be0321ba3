/* SPDX-License-Identifier: Apache-2.0 */
/* Plain C, compiled once for each instruction set; every sum has a fixed order, so the compiler may vectorise across
 * columns and the bits stay the same. */
#include "kernels/attend.h"
#include "kernels/eight_codes.h"
#include "kernels/isa_build.h"
#include "kernels/kernels.h"
#include "kernels/product.h"
#include "kernels/by_values.h"

#include <string.h>

enum { LANES = 64 };

static void lowrank_f32(float *dst, const float *a, const float *b, size_t rank, size_t cols)
{
	size_t j = 0;
	for (; j + LANES <= cols; j += LANES) {
		float sum[LANES] = { 0 };
		for (size_t k = 0; k < rank; k++) {
			const float *row = a + k * cols + j;
			for (int l = 0; l < LANES; l++)
				sum[l] += b[k] * row[l];
		}
		memcpy(dst + j, sum, sizeof sum);
	}
	for (; j < cols; j++) {
		float sum = 0;
		for (size_t k = 0; k < rank; k++)
			sum += b[k] * a[k * cols + j];
		dst[j] = sum;
	}
}

static void lowrank_f64(double *dst, const float *a, const double *b, size_t rank, size_t cols)
{
	size_t j = 0;
	for (; j + LANES / 2 <= cols; j += LANES / 2) {
		double sum[LANES / 2] = { 0 };
		for (size_t k = 0; k < rank; k++) {
			const float *row = a + k * cols + j;
			for (int l = 0; l < LANES / 2; l++)
				sum[l] += b[k] * (double)row[l];
		}
		memcpy(dst + j, sum, sizeof sum);
	}
	for (; j < cols; j++) {
		double sum = 0;
		for (size_t k = 0; k < rank; k++)
			sum += b[k] * (double)a[k * cols + j];
		dst[j] = sum;
	}
}

enum { DOT_LANES = 16 };

static float dot_f32(const float *a, const float *b, size_t n)
{
	float sum[DOT_LANES] = { 0 };
	size_t i = 0;
	for (; i + DOT_LANES <= n; i += DOT_LANES)
		for (int l = 0; l < DOT_LANES; l++)
			sum[l] += a[i + (size_t)l] * b[i + (size_t)l];
	for (int l = 0; i < n; i++, l++)
		sum[l] += a[i] * b[i];
	for (int width = DOT_LANES / 2; width; width /= 2)
		for (int l = 0; l < width; l++)
			sum[l] += sum[l + width];
	return sum[0];
}

static void axpy_f32(float *y, float a, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] += a * x[i];
}

/* of change_rows.c */
void TN_ISA_NAME(tn_change_sums)(struct tn_change_sums *sums, uint16_t *halves, const float *before, const float *after,
				 const float *wanted, size_t n);
void TN_ISA_NAME(tn_round_sums)(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n);
void TN_ISA_NAME(tn_project_rows)(float *dst, const uint16_t *directions, size_t rank, size_t cols, const uint16_t *halves,
				  size_t stride, size_t rows);

static void change_sums(struct tn_change_sums *sums, uint16_t *halves, const float *before, const float *after,
			const float *wanted, size_t n)
{
	TN_ISA_NAME(tn_change_sums)(sums, halves, before, after, wanted, n);
}

static void project_rows(float *dst, const uint16_t *directions, size_t rank, size_t cols, const uint16_t *halves, size_t stride,
			 size_t rows)
{
	TN_ISA_NAME(tn_project_rows)(dst, directions, rank, cols, halves, stride, rows);
}

static void round_sums(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n)
{
	TN_ISA_NAME(tn_round_sums)(dst, w, d, product, dtype, n);
}

/* of panel_product.c */
void TN_ISA_NAME(tn_panel_product)(double *dst, const double *w, size_t row_step, size_t step, const double *panel, size_t count,
				   size_t rows);

static void panel_product(double *dst, const double *w, size_t row_step, size_t step, const double *panel, size_t count,
			  size_t rows)
{
	TN_ISA_NAME(tn_panel_product)(dst, w, row_step, step, panel, count, rows);
}

static double widen_f64(double *dst, const float *src, size_t n)
{
	double sum[8] = { 0 };
	for (size_t i = 0; i < n; i++)
		dst[i] = (double)src[i];
	for (size_t i = 0; i + 8 <= n; i += 8)
		for (size_t l = 0; l < 8; l++)
			sum[l] += (double)src[i + l] * (double)src[i + l];
	for (size_t i = n / 8 * 8; i < n; i++)
		sum[0] += (double)src[i] * (double)src[i];
	return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static size_t lowrank_bytes(enum tn_factor_width width, size_t rank, size_t cols)
{
	(void)width;
	(void)rank;
	(void)cols;
	return 0;
}

static float lowrank_pack(void *packed, const float *a, enum tn_factor_width width, size_t rank, size_t cols)
{
	(void)packed;
	(void)a;
	(void)width;
	(void)rank;
	(void)cols;
	return 0;
}

static void lowrank_rows(float *dst, size_t dst_stride, const struct tn_lowrank *p, const float *b, size_t rows, void *scratch)
{
	(void)scratch;
	for (size_t i = 0; i < rows; i++)
		lowrank_f32(dst + i * dst_stride, p->a, b + i * p->rank, p->rank, p->cols);
}

static void scores_f32(float *scores, const float *q, size_t queries, const float *keys, size_t blocks, size_t width, float scale)
{
	TN_ISA_NAME(tn_scores_f32)(scores, q, queries, keys, blocks, width, scale);
}

static void weigh_f32(float *scores, float *sums, const struct tn_key_span *spans, size_t queries, size_t blocks)
{
	TN_ISA_NAME(tn_weigh_f32)(scores, sums, spans, queries, blocks);
}

static void mix_f32(float *y, const float *shares, const struct tn_key_span *spans, size_t queries, const float *values,
		    const struct tn_key_span *keys, size_t width)
{
	TN_ISA_NAME(tn_mix_f32)(y, shares, spans, queries, values, keys, width);
}

static void exp_f32(float *y, const float *x, size_t n)
{
	TN_ISA_NAME(tn_exp_f32)(y, x, n);
}

/* of add_product.c */
int TN_ISA_NAME(tn_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
				const struct tn_add_product *p, void *scratch);

static int add_product(void *dst, size_t dst_stride, const void *src, size_t src_stride, const struct tn_add_product *p,
		       void *scratch)
{
	return TN_ISA_NAME(tn_add_product)(dst, dst_stride, src, src_stride, p, scratch);
}

/* of unpack.c */
void TN_ISA_NAME(tn_unpack_codes)(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols);
void TN_ISA_NAME(tn_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid);
void TN_ISA_NAME(tn_nibble_values)(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
				   const struct tn_grid *grid);
void TN_ISA_NAME(tn_level_codes)(uint8_t *codes, float *largest, const float *values, size_t blocks, const float bounds[15]);
/* of repack.c */
void TN_ISA_NAME(tn_repack_codes)(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip,
				  size_t rows, size_t cols);

static void repack_codes(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip, size_t rows,
			 size_t cols)
{
	TN_ISA_NAME(tn_repack_codes)(bytes, how, codes, skip, rows, cols);
}

static void unpack_codes(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols)
{
	TN_ISA_NAME(tn_unpack_codes)(dst, src, skip, rows, cols);
}

static void level_codes(uint8_t *codes, float *largest, const float *values, size_t blocks, const float bounds[15])
{
	TN_ISA_NAME(tn_level_codes)(codes, largest, values, blocks, bounds);
}

static void grid_f32(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid)
{
	TN_ISA_NAME(tn_grid_f32)(dst, codes, n, grid);
}

static void nibble_values(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
			  const struct tn_grid *grid, int is_far)
{
	(void)is_far;
	TN_ISA_NAME(tn_nibble_values)(dst, dtype, nibbles, skip, n, grid);
}

static void pack_codes(void *dst, const uint8_t *codes, size_t n, unsigned bits)
{
	unsigned char *out = dst;
	uint32_t held = 0;
	unsigned count = 0;
	size_t i = 0;
	for (; i * bits + 64 <= n * bits; i += 8, out += bits) { /* of the 8 bytes, those behind 8 codes are written again */
		uint64_t word;
		memcpy(&word, codes + i, sizeof word);
		word = gather_codes(word, bits);
		memcpy(out, &word, sizeof word);
	}
	for (; i < n; i++) {
		held |= (uint32_t)codes[i] << count;
		for (count += bits; count >= 8; count -= 8) {
			*out++ = (unsigned char)held;
			held >>= 8;
		}
	}
}

static size_t product_bytes(const struct tn_product *p)
{
	(void)p;
	return TN_PREPARED_BYTES;
}

static void product_prepare(void *prepared, const struct tn_product *p, const struct tn_vectors *v)
{
	(void)p;
	TN_ISA_NAME(tn_product_prepare)(prepared, v);
}

static size_t product_scratch_bytes(const struct tn_product *p)
{
	return tn_decoded_row_bytes(p->cols);
}

static void product_rows(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
			 const struct tn_rows *w, size_t rows, void *scratch)
{
	TN_ISA_NAME(tn_product_rows)(y, y_stride, p, prepared, w, rows, scratch);
}

static int all_finite(const void *values, tn_dtype dtype, size_t n)
{
	return TN_ISA_NAME(tn_all_finite)(values, dtype, n);
}

static void lora_shrink(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
			const float *x, size_t x_stride, size_t m)
{
	TN_ISA_NAME(tn_lora_shrink)(t, t_stride, a, dtype, rank, cols, x, x_stride, m);
}

static void lora_expand(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
			const float *t, size_t t_stride, size_t m, float scale)
{
	TN_ISA_NAME(tn_lora_expand)(y, y_stride, b, dtype, rank, rows, t, t_stride, m, scale);
}

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

/* Written once, by the function that fills it: recode_rows takes the codecs that stand there, hand-written or not. */
static const struct tn_kernels *filled;

static void recode_rows(const struct tn_rows_out *dst, const struct tn_rows *src, const struct tn_recoding *how)
{
	recode_by_values(dst, src, how, filled->codec[how->from->codec], filled->codec[how->to->codec]);
}

#if TN_HAS_OVERRIDES
void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k);
#endif
void TN_ISA_NAME(tn_kernels_fill)(struct tn_kernels *k);

void TN_ISA_NAME(tn_kernels_fill)(struct tn_kernels *k)
{
#define KERNEL(ret, name, args) k->name = name;
#include "kernels/kernels.def"
#undef KERNEL
#define CODEC(name) k->codec[TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC
#if TN_HAS_OVERRIDES
	TN_ISA_NAME(tn_kernels_override)(k);
#endif
	filled = k;
}
