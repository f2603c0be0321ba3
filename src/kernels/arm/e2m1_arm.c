/* SPDX-License-Identifier: Apache-2.0 */
/* mxfp4 and nvfp4: codes E2M1 in groups of 32 and 16. codec_mxfp4.c, codec_nvfp4.c and dither.h say what is computed. */
#include "kernels/arm/codec_arm.h"

TN_INLINE size_t group_of(const struct tn_format *f)
{
	return f->codec == TN_CODEC_mxfp4 ? 32 : 16;
}

TN_INLINE uint32x4_t bits_of(float32x4_t x)
{
	return vreinterpretq_u32_f32(x);
}

TN_INLINE float32x4_t from_bits(uint32x4_t x)
{
	return vreinterpretq_f32_u32(x);
}

/* ---- encoding -------------------------------------------------------------------------------------------- */

/* Rounded to the dtype; of NaN nothing is promised but that no comparison holds or that it is 0. */
TN_INLINE float32x4_t round_4(float32x4_t x, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return vcvt_f32_f16(vcvt_f16_f32(x));
	if (dtype == TN_F32)
		return x;
	uint32x4_t u = bits_of(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
	u = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
	return from_bits(vandq_u32(u, vdupq_n_u32(0xFFFF0000u)));
}

/* How many midpoints lie below a magnitude up to 64. From 1 on the upper bits of a float are the code, less 252, and whatever is
 * less than half of the last one falls away with them; below 1 there are two midpoints. */
TN_INLINE uint32x4_t nearest_4(float32x4_t magnitude)
{
	int32x4_t code = vreinterpretq_s32_u32(vshrq_n_u32(vaddq_u32(bits_of(magnitude), vdupq_n_u32(0x1FFFFF)), 22));
	uint32x4_t below = vaddq_u32(vcgtq_f32(magnitude, vdupq_n_f32(0.25f)), vcgtq_f32(magnitude, vdupq_n_f32(0.75f)));
	code = vmaxq_s32(vsubq_s32(code, vdupq_n_s32(252)), vnegq_s32(vreinterpretq_s32_u32(below)));
	return vminq_u32(vreinterpretq_u32_s32(code), vdupq_n_u32(7));
}

/* 16 codes, unless they hold what only the plain codec knows: then 0. */
TN_INLINE int encode_16(unsigned char *dst, const float *w, float scale, float factor, tn_dtype dtype)
{
	uint32x4_t codes[4], negative[4], beyond = vdupq_n_u32(0);
	TN_UNROLL(4)
	for (int v = 0; v < 4; v++) {
		float32x4_t x = vmulq_n_f32(round_4(vdivq_f32(vld1q_f32(w + 4 * v), vdupq_n_f32(scale)), dtype), factor);
		float32x4_t magnitude = vabsq_f32(x);
		/* NaN, whose code is 0 */
		magnitude = from_bits(vandq_u32(bits_of(magnitude), vceqq_f32(x, x)));
		beyond = vorrq_u32(beyond, vcgtq_f32(magnitude, vdupq_n_f32(64)));
		codes[v] = nearest_4(magnitude);
		negative[v] = vshrq_n_u32(bits_of(x), 31);
	}
	uint8x16_t code = narrow_16(codes), sign = vshlq_n_u8(narrow_16(negative), 3);
	pack_16(dst, 8, vorrq_u8(code, vandq_u8(sign, vtstq_u8(code, code))), 4);
	return vmaxvq_u32(beyond) == 0;
}

/* As integers the bits of magnitudes have their order, with NaN above all. */
TN_INLINE float top_of(const float *w, size_t n)
{
	uint32x4_t top = vdupq_n_u32(0);
	for (size_t i = 0; i < n; i += 4)
		top = vmaxq_u32(top, bits_of(vabsq_f32(vld1q_f32(w + i))));
	return tn_f32_from_bits(vmaxvq_u32(top));
}

TN_INLINE void encode_row(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols,
			  const size_t group, tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const float factor = f->has_global_scale ? 2688.0f / f->global_scale : 1.0f;
	for (size_t g = 0; g < cols / group; g++, src += group, dst += group / 2) {
		float s = round_to(top_of(src, group) / 6.0f, dtype), scale;
		int known = isfinite(s);
		if (group == 32) {
			int e = known && s != 0 ? ceil_log2(s) : 0;
			scales[g] = (uint8_t)(e + 127);
			scale = power_of_two(e);
		} else {
			scales[g] = e4m3_encode(s * factor);
			scale = tn_f32_from_f8_e4m3(scales[g]);
		}
		for (size_t i = 0; i < group; i += 16)
			known = known && encode_16(dst + i / 2, src + i, scale, group == 32 ? 1.0f : factor, dtype);
		if (known)
			continue;
		struct tn_row_out one = { { dst, scales + g } };
		TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(&one, src, f, group);
	}
}

TN_INLINE void encode_as(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols, tn_dtype dtype)
{
	if (group_of(f) == 32)
		encode_row(row, src, f, cols, 32, dtype);
	else
		encode_row(row, src, f, cols, 16, dtype);
}

void TN_ISA_NAME(tn_arm_encode_e2m1)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	if (f->flavour != TN_ENCODE_CPU)
		TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(row, src, f, cols);
	else if (f->dtype == TN_F32)
		encode_as(row, src, f, cols, TN_F32);
	else if (f->dtype == TN_F16)
		encode_as(row, src, f, cols, TN_F16);
	else
		encode_as(row, src, f, cols, TN_BF16);
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

/* Twice the magnitudes of the codes. */
static const uint8_t doubled[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, 1, 2, 3, 4, 6, 8, 12 };

/* What has come of four codes: magnitudes 0 to 8, of which 8 stands for 7, and masks. */
struct moved_4 {
	uint32x4_t magnitude, negative, some;
};

/* x = old + d / scale. Up to 6 the values are multiples of half a unit, of one from 2 on and of two from 4 on: the magnitude of x
 * in such steps is a whole number, by which the code is found, and a share of the way to the next; from 6 on the codes end.
 * Powers of two leave the roundings of e2m1_dither() as they are. */
TN_INLINE struct moved_4 dither_4(float32x4_t old, float32x4_t d, float32x4_t scale, uint32x4_t any, float32x4_t u,
				  uint32x4_t *clamped)
{
	float32x4_t delta = from_bits(vandq_u32(bits_of(vdivq_f32(d, scale)), any)), x = vaddq_f32(old, delta), size = vabsq_f32(x);
	uint32x4_t some = vcagtq_f32(delta, vdupq_n_f32(0)), negative = vcltzq_f32(x);
	int32x4_t binade = vreinterpretq_s32_u32(vandq_u32(bits_of(size), vdupq_n_u32(0x7F800000)));
	int32x4_t step = vmaxq_s32(vsubq_s32(binade, vdupq_n_s32(0x00800000)), vdupq_n_s32(0x3F000000));
	float32x4_t inverse = vreinterpretq_f32_s32(vsubq_s32(vdupq_n_s32(0x7F000000), step));
	float32x4_t steps = vmulq_f32(size, inverse), whole = vrndmq_f32(steps);
	float32x4_t share = vbslq_f32(negative, vsubq_f32(vaddq_f32(whole, vdupq_n_f32(1)), steps), vsubq_f32(steps, whole));
	/* upwards is away from 0, or of negative numbers towards it */
	uint32x4_t away = veorq_u32(vcgtq_f32(share, u), negative);
	uint32x4_t first = vreinterpretq_u32_s32(vsubq_s32(step, vdupq_n_s32(0x3F000000)));
	uint32x4_t magnitude = vsubq_u32(vsraq_n_u32(vcvtq_u32_f32(whole), first, 22), away);
	*clamped = vsubq_u32(*clamped, vandq_u32(some, vcgtq_f32(size, vdupq_n_f32(6))));
	return (struct moved_4){ magnitude, negative, some };
}

/* Of masks: bytes. */
TN_INLINE uint8x16_t narrow_masks(const uint32x4_t v[4])
{
	uint16x8_t low = vcombine_u16(vmovn_u32(v[0]), vmovn_u32(v[1])), high = vcombine_u16(vmovn_u32(v[2]), vmovn_u32(v[3]));
	return vcombine_u8(vmovn_u16(low), vmovn_u16(high));
}

/* -0 as 0: neither moves to the other. */
TN_INLINE uint8x16_t without_sign_of_zero(uint8x16_t codes)
{
	return vbicq_u8(codes, vceqq_u8(codes, vdupq_n_u8(8)));
}

struct counts_4 {
	uint32x4_t moved, clamped;
};

TN_INLINE uint8x16_t dither_16(uint8x16_t codes, const float *d, float32x4_t scale, uint32x4_t any, uint32x4_t columns,
			       struct counts_4 *counts)
{
	uint32x4_t entries[4], magnitude[4], negative[4], some[4];
	uint8x16_t signs = vandq_u8(codes, vdupq_n_u8(8));
	widen_16(entries, vorrq_u8(vqtbl1q_u8(vld1q_u8(doubled), codes), vshlq_n_u8(signs, 4)));
	TN_UNROLL(4)
	for (int v = 0; v < 4; v++) {
		float32x4_t size = vcvtq_n_f32_u32(vandq_u32(entries[v], vdupq_n_u32(15)), 1);
		float32x4_t old = from_bits(vsliq_n_u32(bits_of(size), vshrq_n_u32(entries[v], 7), 31));
		struct moved_4 to = dither_4(old, vld1q_f32(d + 4 * v), scale, any, uniform_4(columns), &counts->clamped);
		columns = vaddq_u32(columns, vdupq_n_u32(4 * TN_HASH_STEP));
		magnitude[v] = to.magnitude;
		negative[v] = to.negative;
		some[v] = to.some;
	}
	uint8x16_t to = vminq_u8(narrow_16(magnitude), vdupq_n_u8(7));
	to = without_sign_of_zero(vorrq_u8(to, vandq_u8(narrow_masks(negative), vdupq_n_u8(8))));
	uint8x16_t moves = vbicq_u8(narrow_masks(some), vceqq_u8(to, without_sign_of_zero(codes)));
	counts->moved = vpadalq_u16(counts->moved, vpaddlq_u8(vshrq_n_u8(moves, 7)));
	return vbslq_u8(moves, to, codes);
}

static float scale_of(uint8_t byte, const struct tn_format *f)
{
	if (f->codec == TN_CODEC_mxfp4)
		return e8m0_decode(byte);
	float scale = tn_f32_from_f8_e4m3(byte);
	return f->has_global_scale ? (float)((double)scale * (double)f->global_scale / 2688.0) : scale;
}

void TN_ISA_NAME(tn_arm_dither_e2m1)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				     size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	unsigned char *dst = codes;
	const size_t group = group_of(f);
	const uint32_t hash = row_seed(seed, row_number);
	struct counts_4 sum = { vdupq_n_u32(0), vdupq_n_u32(0) };
	for (size_t g = 0; g < cols / group; g++) {
		const float s = scale_of(scales[g], f);
		const uint32x4_t any = vdupq_n_u32(s != 0 ? 0xFFFFFFFFu : 0);
		for (size_t i = g * group; i < (g + 1) * group; i += 16, src += 8, dst += 8)
			pack_16(dst, 8, dither_16(unpack_16(src, 8, 4), d + i, vdupq_n_f32(s), any, columns_4(hash, i), &sum), 4);
	}
	counts->moved += vaddvq_u32(sum.moved);
	counts->clamped += vaddvq_u32(sum.clamped);
}
