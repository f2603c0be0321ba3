/* SPDX-License-Identifier: Apache-2.0 */
/* Affine codes: fitting and moving them. codec_affine.c says what is computed. */
#include "kernels/arm/codec_arm.h"

/* ---- encoding -------------------------------------------------------------------------------------------- */

/* Groups whose grids are made at once: a vector of each number. `odd` are all ones where only the plain codec does right. */
enum { GRIDS = 4 };
struct grids {
	float scale[GRIDS], bias[GRIDS], inverse[GRIDS];
	uint32_t odd[GRIDS];
};

/* NaN, which the plain codec passes over, comes through. */
TN_INLINE void range_of(const float *w, size_t group, float *lo, float *hi)
{
	float32x4_t least[2] = { vld1q_f32(w), vld1q_f32(w + 4) }, most[2] = { least[0], least[1] };
	for (size_t i = 8; i < group; i += 8)
		for (size_t k = 0; k < 2; k++) {
			float32x4_t x = vld1q_f32(w + i + 4 * k);
			least[k] = vminq_f32(least[k], x);
			most[k] = vmaxq_f32(most[k], x);
		}
	*lo = vminvq_f32(vminq_f32(least[0], least[1]));
	*hi = vmaxvq_f32(vmaxq_f32(most[0], most[1]));
}

TN_INLINE struct grids grids_of(const float *w, size_t group, size_t count, float top)
{
	struct grids grids;
	float lows[GRIDS] = { 0 }, highs[GRIDS] = { 0 };
	/* below it nothing overflows on the way */
	const float32x4_t smallest = vdupq_n_f32(1e-7f), limit = vdupq_n_f32(0x1p100f);
	for (size_t g = 0; g < count; g++)
		range_of(w + g * group, group, &lows[g], &highs[g]);
	float32x4_t lo = vld1q_f32(lows), hi = vld1q_f32(highs), step = vdivq_f32(vsubq_f32(hi, lo), vdupq_n_f32(top));
	step = vbslq_f32(vcltq_f32(step, smallest), smallest, step);
	uint32x4_t low_end = vcagtq_f32(lo, hi);
	float32x4_t scale = vbslq_f32(low_end, step, vnegq_f32(step)), edge = vbslq_f32(low_end, lo, hi);
	float32x4_t zero_code = vrndnq_f32(vdivq_f32(edge, scale));
	uint32x4_t none = vceqzq_f32(zero_code);
	float32x4_t fitted = vbslq_f32(none, scale, vdivq_f32(edge, zero_code));
	vst1q_f32(grids.scale, fitted);
	vst1q_f32(grids.bias, vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(edge), none)));
	vst1q_f32(grids.inverse, vdivq_f32(vdupq_n_f32(1), fitted));
	vst1q_u32(grids.odd, vmvnq_u32(vandq_u32(vcaltq_f32(lo, limit), vcaltq_f32(hi, limit))));
	return grids;
}

/* (w - bias) / scale, rounded; what is below 0, or no number, becomes 0. A quotient made of the rounded inverse and corrected
 * by its remainder falls on the same side of every k + 1/2, and on it, as the rounded quotient does: tried for all 2^23
 * fractions of a scale, all k below 256 and all numbers within 12 floats around. */
TN_INLINE uint32x4_t codes_of(const float *w, float32x4_t scale, float32x4_t bias, float32x4_t inverse)
{
	float32x4_t a = vsubq_f32(vld1q_f32(w), bias), q = vmulq_f32(a, inverse);
	return vcvtnq_u32_f32(vfmaq_f32(q, vfmsq_f32(a, q, scale), inverse));
}

TN_INLINE void encode_group(unsigned char *dst, size_t left, const float *w, size_t group, const struct grids *grids, size_t g,
			    const int bits)
{
	const float32x4_t scale = vdupq_n_f32(grids->scale[g]), bias = vdupq_n_f32(grids->bias[g]);
	const float32x4_t inverse = vdupq_n_f32(grids->inverse[g]);
	const uint8x16_t top = vdupq_n_u8((uint8_t)((1u << bits) - 1));
	for (size_t i = 0; i < group; i += 16, w += 16, dst += 2 * bits, left -= 2 * (size_t)bits) {
		uint32x4_t codes[4];
		TN_UNROLL(4)
		for (int v = 0; v < 4; v++)
			codes[v] = codes_of(w + 4 * v, scale, bias, inverse);
		pack_16(dst, left, vminq_u8(narrow_16(codes), top), bits);
	}
}

/* By the plain codec. */
static void encode_odd_group(const struct tn_row_out *row, size_t g, const float *w, const struct tn_format *f)
{
	const struct tn_codec *plain = TN_ISA_NAME(tn_plain_codec)(TN_CODEC_affine);
	struct tn_row_out out;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		out.part[p] = (unsigned char *)row->part[p] + g * plain->part_bytes(f, p, f->group);
	plain->encode(&out, w, f, f->group);
}

TN_INLINE void encode_groups(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols, const int bits)
{
	const size_t groups = cols / f->group, step = f->group / 8 * (size_t)bits;
	unsigned char *codes = row->part[TN_PART_WEIGHT];
	for (size_t first = 0; first < groups; first += GRIDS) {
		size_t count = groups - first < GRIDS ? groups - first : GRIDS;
		struct grids grids = grids_of(src + first * f->group, f->group, count, (float)((1 << bits) - 1));
		for (size_t k = 0; k < count; k++) {
			const size_t g = first + k;
			if (grids.odd[k]) {
				encode_odd_group(row, g, src + g * f->group, f);
				continue;
			}
			encode_group(codes + g * step, (groups - g) * step, src + g * f->group, f->group, &grids, k, bits);
			store_as(row->part[TN_PART_SCALES], g, grids.scale[k], f->dtype);
			store_as(row->part[TN_PART_BIASES], g, grids.bias[k], f->dtype);
		}
	}
}

void TN_ISA_NAME(tn_arm_encode_affine)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	int bits = f->flavour == TN_ENCODE_CPU ? f->bits : 0;
	switch (bits) {
	case 2: encode_groups(row, src, f, cols, 2); break;
	case 3: encode_groups(row, src, f, cols, 3); break;
	case 4: encode_groups(row, src, f, cols, 4); break;
	case 5: encode_groups(row, src, f, cols, 5); break;
	case 6: encode_groups(row, src, f, cols, 6); break;
	case 8: encode_groups(row, src, f, cols, 8); break;
	default: TN_ISA_NAME(tn_plain_codec)(TN_CODEC_affine)->encode(row, src, f, cols); break;
	}
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

/* How many codes stayed, and how many did not go beyond the grid, in each lane. */
struct kept {
	uint32x4_t still, within;
};

/* `any` are all ones where there is a scale. */
TN_INLINE uint32x4_t dither_4(uint32x4_t code, float32x4_t d, float32x4_t scale, uint32x4_t any, float32x4_t u, float32x4_t top,
			      struct kept *kept)
{
	float32x4_t old = vcvtq_f32_u32(code), change = vrndmq_f32(vaddq_f32(vdivq_f32(d, scale), u));
	any = vandq_u32(any, vceqq_f32(change, change));
	float32x4_t x = vaddq_f32(old, vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(change), any)));
	float32x4_t near = vminq_f32(vmaxq_f32(x, vdupq_n_f32(0)), top);
	kept->still = vsubq_u32(kept->still, vceqq_f32(near, old));
	kept->within = vsubq_u32(kept->within, vceqq_f32(near, x));
	return vcvtq_u32_f32(near);
}

TN_INLINE void dither_row(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
			  const int bits, uint32_t row_hash, struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	const float32x4_t top = vdupq_n_f32((float)((1 << bits) - 1));
	struct kept kept = { vdupq_n_u32(0), vdupq_n_u32(0) };
	size_t left = cols / 8 * (size_t)bits;
	for (size_t g = 0; g < cols / f->group; g++) {
		const float s = load_as(row->part[TN_PART_SCALES], g, f->dtype);
		const float32x4_t scale = vdupq_n_f32(s);
		const uint32x4_t any = vdupq_n_u32(s != 0 ? 0xFFFFFFFFu : 0);
		uint32x4_t columns = columns_4(row_hash, g * f->group);
		for (size_t i = 0; i < f->group; i += 16, d += 16) {
			uint32x4_t codes[4];
			widen_16(codes, unpack_16(src, left, bits));
			TN_UNROLL(4)
			for (int v = 0; v < 4; v++) {
				codes[v] = dither_4(codes[v], vld1q_f32(d + 4 * v), scale, any, uniform_4(columns), top, &kept);
				columns = vaddq_u32(columns, vdupq_n_u32(4 * TN_HASH_STEP));
			}
			pack_16(dst, left, narrow_16(codes), bits);
			src += 2 * bits;
			dst += 2 * bits;
			left -= 2 * (size_t)bits;
		}
	}
	counts->moved += cols - vaddvq_u32(kept.still);
	counts->clamped += cols - vaddvq_u32(kept.within);
}

void TN_ISA_NAME(tn_arm_dither_affine)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				       size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	uint32_t hash = row_seed(seed, row_number);
	switch (f->bits) {
	case 1: dither_row(codes, row, d, f, cols, 1, hash, counts); break;
	case 2: dither_row(codes, row, d, f, cols, 2, hash, counts); break;
	case 3: dither_row(codes, row, d, f, cols, 3, hash, counts); break;
	case 4: dither_row(codes, row, d, f, cols, 4, hash, counts); break;
	case 5: dither_row(codes, row, d, f, cols, 5, hash, counts); break;
	case 6: dither_row(codes, row, d, f, cols, 6, hash, counts); break;
	default: dither_row(codes, row, d, f, cols, 8, hash, counts); break;
	}
}
