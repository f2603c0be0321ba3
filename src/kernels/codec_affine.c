/* SPDX-License-Identifier: Apache-2.0 */
/* MLX "affine": w = scale * code + bias, one scale and one bias for each group along the row.
 *
 * A row of codes is a little-endian bit stream, the first code in the lowest bits; 8 codes are `bits` bytes.
 * The encoder is MLX 0.32.4's (mlx/backend/cpu/quantized.cpp, quantize): the end of the range with the larger magnitude
 * is met exactly, and the scale is negative unless that is the minimum. Metal and CUDA, by their sources, let the range
 * reach at least up to 0, and round ties away from zero. */
#include "kernels/dither.h"
#include "kernels/isa_build.h"

enum { LARGEST_GROUP = 128 };

/* ---- the bit stream -------------------------------------------------------------------------------------- */

TN_INLINE void unpack(float *code, const unsigned char *src, int n, int bits)
{
	const uint64_t mask = (1u << bits) - 1;
	for (int i = 0; i < n; i += 8) {
		uint64_t stream = 0;
		memcpy(&stream, src, (size_t)bits);
		src += bits;
		for (int k = 0; k < 8; k++)
			code[i + k] = (float)(int32_t)(stream >> (k * bits) & mask);
	}
}

TN_INLINE void pack(unsigned char *dst, const uint32_t *code, int n, int bits)
{
	for (int i = 0; i < n; i += 8) {
		uint64_t stream = 0;
		for (int k = 0; k < 8; k++)
			stream |= (uint64_t)code[i + k] << (k * bits);
		memcpy(dst, &stream, (size_t)bits);
		dst += bits;
	}
}

/* ---- decoding -------------------------------------------------------------------------------------------- */

TN_INLINE void decode_row(float *dst, const struct tn_row *row, int group, int bits, size_t cols, tn_dtype dtype,
			  int like_mlx)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	const unsigned char *scales = row->part[TN_PART_SCALES], *biases = row->part[TN_PART_BIASES];
	for (size_t g = 0; g < cols / (size_t)group; g++) {
		float scale = load_as(scales, g, dtype), bias = load_as(biases, g, dtype);
		unpack(dst, src, group, bits);
		for (int i = 0; i < group; i++) {
			if (like_mlx)
				dst[i] = round_to(round_to(dst[i] * scale, dtype) + bias, dtype);
			else if (dtype == TN_F32)
				dst[i] = fmaf(dst[i], scale, bias);
			else
				dst[i] = dst[i] * scale + bias; /* the product of 8 and 11 bits is exact */
		}
		dst += group;
		src += group / 8 * bits;
	}
}

TN_INLINE void decode_bits(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, int bits)
{
	if (f->like_mlx && f->dtype == TN_F32)
		decode_row(dst, row, f->group, bits, cols, TN_F32, 1);
	else if (f->like_mlx && f->dtype == TN_F16)
		decode_row(dst, row, f->group, bits, cols, TN_F16, 1);
	else if (f->like_mlx)
		decode_row(dst, row, f->group, bits, cols, TN_BF16, 1);
	else if (f->dtype == TN_F32)
		decode_row(dst, row, f->group, bits, cols, TN_F32, 0);
	else if (f->dtype == TN_F16)
		decode_row(dst, row, f->group, bits, cols, TN_F16, 0);
	else
		decode_row(dst, row, f->group, bits, cols, TN_BF16, 0);
}

static void decode(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	switch (f->bits) {
	case 1: decode_bits(dst, row, f, cols, 1); break;
	case 2: decode_bits(dst, row, f, cols, 2); break;
	case 3: decode_bits(dst, row, f, cols, 3); break;
	case 4: decode_bits(dst, row, f, cols, 4); break;
	case 5: decode_bits(dst, row, f, cols, 5); break;
	case 6: decode_bits(dst, row, f, cols, 6); break;
	case 8: decode_bits(dst, row, f, cols, 8); break;
	default: break; /* refused by weights/format.c */
	}
}

/* ---- encoding -------------------------------------------------------------------------------------------- */

enum { LANES = 16 };

/* Least and greatest of a group; NaN is passed over, as in MLX. */
TN_INLINE void range(const float *w, int n, float *least, float *greatest)
{
	float lo[LANES], hi[LANES];
	for (int l = 0; l < LANES; l++) {
		lo[l] = INFINITY;
		hi[l] = -INFINITY;
	}
	for (int i = 0; i < n; i += LANES)
		for (int l = 0; l < LANES; l++) {
			lo[l] = w[i + l] < lo[l] ? w[i + l] : lo[l];
			hi[l] = w[i + l] > hi[l] ? w[i + l] : hi[l];
		}
	for (int l = 1; l < LANES; l++) {
		lo[0] = lo[l] < lo[0] ? lo[l] : lo[0];
		hi[0] = hi[l] > hi[0] ? hi[l] : hi[0];
	}
	*least = lo[0];
	*greatest = hi[0];
}

/* Which of the two zeros MLX keeps as the least: the first one. */
static float first_zero(const float *w, int n)
{
	for (int i = 0; i < n; i++)
		if (w[i] == 0)
			return w[i];
	return 0;
}

struct grid {
	float scale, bias;
};

TN_INLINE struct grid one_bit_grid(const float *w, int group)
{
	const float smallest = 1e-7f;
	float lo, hi;
	range(w, group, &lo, &hi);
	float span = hi - lo;
	return (struct grid){ span < smallest ? smallest : span, lo == 0 ? first_zero(w, group) : lo };
}

TN_INLINE struct grid many_bit_grid(const float *w, int group, float top, int gpu)
{
	const float smallest = 1e-7f;
	float lo, hi;
	range(w, group, &lo, &hi);
	if (gpu && !(hi > 0))
		hi = 0;
	float step = (hi - lo) / top;
	step = step < smallest ? smallest : step;
	int low_end = fabsf(lo) > fabsf(hi);
	float scale = low_end ? step : -step, edge = low_end ? lo : hi;
	float zero_code = gpu ? roundf(edge / scale) : rintf(edge / scale);
	if (zero_code == 0)
		return (struct grid){ scale, 0 };
	return (struct grid){ edge / zero_code, edge };
}

/* Codes are rounded with the unrounded grid. Adding 2^23 rounds a float in [0, 255] to nearest, ties to even, into its
 * last bits; NaN has become 0. */
TN_INLINE void round_codes(uint32_t *code, const float *w, int group, struct grid grid, float top, int gpu)
{
	for (int i = 0; i < group; i++) {
		float x = (w[i] - grid.bias) / grid.scale;
		x = x > 0 ? x : 0;
		x = x < top ? x : top;
		if (gpu)
			code[i] = (uint32_t)roundf(x);
		else
			code[i] = tn_f32_bits(x + 0x1p23f) & 0xFFu;
	}
}

TN_INLINE void encode_row(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols,
			  int bits)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT];
	const float top = (float)((1 << bits) - 1);
	const int group = f->group, gpu = f->flavour != TN_ENCODE_CPU;
	uint32_t code[LARGEST_GROUP];
	for (size_t g = 0; g < cols / (size_t)group; g++, src += group) {
		struct grid grid = bits == 1 ? one_bit_grid(src, group) : many_bit_grid(src, group, top, gpu);
		round_codes(code, src, group, grid, top, gpu && bits > 1);
		pack(dst, code, group, bits);
		dst += group / 8 * bits;
		store_as(row->part[TN_PART_SCALES], g, grid.scale, f->dtype);
		store_as(row->part[TN_PART_BIASES], g, grid.bias, f->dtype);
	}
}

static void encode(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	switch (f->bits) {
	case 1: encode_row(row, src, f, cols, 1); break;
	case 2: encode_row(row, src, f, cols, 2); break;
	case 3: encode_row(row, src, f, cols, 3); break;
	case 4: encode_row(row, src, f, cols, 4); break;
	case 5: encode_row(row, src, f, cols, 5); break;
	case 6: encode_row(row, src, f, cols, 6); break;
	case 8: encode_row(row, src, f, cols, 8); break;
	default: break; /* refused by weights/format.c */
	}
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

/* code + floor(d / scale + u). The sum is added to the integer code, never to a decoded float: d = 0 moves nothing. */
TN_INLINE void dither_row(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
			  int bits, uint32_t row_hash, struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	const float top = (float)((1 << bits) - 1);
	float old[LARGEST_GROUP];
	uint32_t code[LARGEST_GROUP];
	for (size_t g = 0; g < cols / f->group; g++) {
		float scale = load_as(row->part[TN_PART_SCALES], g, f->dtype);
		uint32_t moved = 0, clamped = 0;
		unpack(old, src, f->group, bits);
		for (int i = 0; i < f->group; i++) {
			float change = scale != 0 ? floorf(d[i] / scale + uniform(row_hash, g * f->group + (size_t)i)) : 0;
			float x = change == change ? old[i] + change : old[i], kept = x > 0 ? x : 0;
			kept = kept < top ? kept : top;
			moved += kept != old[i];
			clamped += kept != x;
			code[i] = (uint32_t)(int32_t)kept;
		}
		pack(dst, code, f->group, bits);
		counts->moved += moved;
		counts->clamped += clamped;
		d += f->group;
		src += f->group / 8 * bits;
		dst += f->group / 8 * bits;
	}
}

static void dither(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		   uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	uint32_t hash = row_seed(seed, row_number);
	switch (f->bits) {
	case 1: dither_row(codes, row, d, f, cols, 1, hash, counts); break;
	case 2: dither_row(codes, row, d, f, cols, 2, hash, counts); break;
	case 3: dither_row(codes, row, d, f, cols, 3, hash, counts); break;
	case 4: dither_row(codes, row, d, f, cols, 4, hash, counts); break;
	case 5: dither_row(codes, row, d, f, cols, 5, hash, counts); break;
	case 6: dither_row(codes, row, d, f, cols, 6, hash, counts); break;
	case 8: dither_row(codes, row, d, f, cols, 8, hash, counts); break;
	default: break; /* refused by weights/format.c */
	}
}

static double steps2(const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	double sum = 0;
	for (size_t g = 0; g < cols / f->group; g++) {
		double scale = (double)load_as(row->part[TN_PART_SCALES], g, f->dtype);
		sum += scale * scale;
	}
	return sum * f->group;
}

static size_t part_bytes(const struct tn_format *f, unsigned part, size_t cols)
{
	return part == TN_PART_WEIGHT ? cols / 8 * f->bits : cols / f->group * (tn_dtype_bits(f->dtype) / 8);
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_affine);
const struct tn_codec TN_ISA_NAME(tn_codec_affine) = {
	.name = "affine",
	.decode = decode,
	.encode = encode,
	.dither = dither,
	.steps2 = steps2,
	.part_bytes = part_bytes,
	.bits = { 4, 1, 2, 3, 5, 6, 8 },
	.groups = { 64, 32, 128 },
	.has_biases = 1,
};
