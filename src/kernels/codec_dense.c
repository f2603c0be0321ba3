/* SPDX-License-Identifier: Apache-2.0 */
/* Floats as they are: F32, F16, BF16, and F64 and the 8-bit floats for reading. Decoding is exact (F64: rounded to
 * float32), encoding rounds to nearest even. */
#include "base/half.h"
#include "kernels/isa_build.h"
#include "kernels/kernels.h"

/* One loop for each dtype, on memory of any alignment. */
#define LOAD(type, i) __extension__({ type load_; memcpy(&load_, src + (i) * sizeof load_, sizeof load_); load_; })

static void decode_f32(float *dst, const unsigned char *src, size_t n)
{
	memcpy(dst, src, n * sizeof *dst);
}

static void decode_f64(float *dst, const unsigned char *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = (float)LOAD(double, i);
}

static void decode_bf16(float *dst, const unsigned char *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = tn_f32_from_bf16(LOAD(uint16_t, i));
}

static void decode_f16(float *dst, const unsigned char *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = tn_f32_from_f16(LOAD(uint16_t, i));
}

static void decode_f8_e4m3(float *dst, const unsigned char *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = tn_f32_from_f8_e4m3(src[i]);
}

static void decode_f8_e5m2(float *dst, const unsigned char *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = tn_f32_from_f8_e5m2(src[i]);
}

static void decode(float *dst, const struct tn_row *row, const struct tn_format *format, size_t cols)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	switch (format->dtype) {
	case TN_F32: decode_f32(dst, src, cols); break;
	case TN_F64: decode_f64(dst, src, cols); break;
	case TN_BF16: decode_bf16(dst, src, cols); break;
	case TN_F16: decode_f16(dst, src, cols); break;
	case TN_F8_E4M3: decode_f8_e4m3(dst, src, cols); break;
	case TN_F8_E5M2: decode_f8_e5m2(dst, src, cols); break;
	default: break; /* no other dtype makes a dense matrix: weights/matrix.c */
	}
}

static void encode_bf16(unsigned char *dst, const float *src, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h = tn_bf16_from_f32(src[i]);
		memcpy(dst + 2 * i, &h, sizeof h);
	}
}

static void encode_f16(unsigned char *dst, const float *src, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h = tn_f16_from_f32(src[i]);
		memcpy(dst + 2 * i, &h, sizeof h);
	}
}

static void encode(const struct tn_row_out *row, const float *src, const struct tn_format *format, size_t cols)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT];
	switch (format->dtype) {
	case TN_F32: memcpy(dst, src, cols * sizeof *src); break;
	case TN_BF16: encode_bf16(dst, src, cols); break;
	default: encode_f16(dst, src, cols); break; /* no other dtype is written: weights/matrix.c */
	}
}

static size_t part_bytes(const struct tn_format *format, unsigned part, size_t cols)
{
	return part == TN_PART_WEIGHT ? cols * (tn_dtype_bits(format->dtype) / 8) : 0;
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_dense);
const struct tn_codec TN_ISA_NAME(tn_codec_dense) = {
	.name = "dense", .decode = decode, .encode = encode, .part_bytes = part_bytes
};
