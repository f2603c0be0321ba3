/* SPDX-License-Identifier: Apache-2.0 */
/* Codes E2M1 and E4M3 moved by chance. dither.h says what is computed. */
#include "kernels/arm/codec_arm.h"

/* ---- what both have in common ---------------------------------------------------------------------------- */

/* `first` are the bits of the smallest value above 0, which is the smallest step, too. */
struct small_float {
	int fraction;                /* bits of it */
	uint8_t last_code, sign;     /* the code of the largest value; the bit of the sign */
	int32_t first;
	float largest;
};

/* What has come of four codes: magnitudes, of which those beyond the last stand for it, and masks. */
struct moved_4 {
	uint32x4_t magnitude, negative, some;
};

/* x = old + d / scale. The exponent of x says how long a step is where x lies: in such steps it is a whole number, by which the
 * code is found, and a share of the way to the next. Powers of two leave the roundings of the plain codec as they are. */
TN_INLINE struct moved_4 dither_4(float32x4_t old, float32x4_t d, float32x4_t scale, uint32x4_t any, float32x4_t u,
				  const struct small_float kind, uint32x4_t *clamped)
{
	float32x4_t delta = from_bits(vandq_u32(bits_of(vdivq_f32(d, scale)), any)), x = vaddq_f32(old, delta), size = vabsq_f32(x);
	uint32x4_t some = vandq_u32(vcagtq_f32(delta, vdupq_n_f32(0)), vceqq_f32(x, x)), negative = vcltzq_f32(x);
	int32x4_t binade = vreinterpretq_s32_u32(vandq_u32(bits_of(size), vdupq_n_u32(0x7F800000)));
	int32x4_t step = vmaxq_s32(vsubq_s32(binade, vdupq_n_s32(kind.fraction << 23)), vdupq_n_s32(kind.first));
	float32x4_t inverse = vreinterpretq_f32_s32(vsubq_s32(vdupq_n_s32(0x7F000000), step));
	float32x4_t steps = vmulq_f32(size, inverse), whole = vrndmq_f32(steps);
	float32x4_t share = vbslq_f32(negative, vsubq_f32(vaddq_f32(whole, vdupq_n_f32(1)), steps), vsubq_f32(steps, whole));
	/* upwards is away from 0, or of negative numbers towards it */
	uint32x4_t away = veorq_u32(vcgtq_f32(share, u), negative);
	int32x4_t below = vshlq_s32(vsubq_s32(step, vdupq_n_s32(kind.first)), vdupq_n_s32(kind.fraction - 23));
	uint32x4_t magnitude = vsubq_u32(vaddq_u32(vcvtq_u32_f32(whole), vreinterpretq_u32_s32(below)), away);
	*clamped = vsubq_u32(*clamped, vandq_u32(some, vcgtq_f32(size, vdupq_n_f32(kind.largest))));
	return (struct moved_4){ magnitude, negative, some };
}

/* Of masks: bytes. */
TN_INLINE uint8x16_t narrow_masks(const uint32x4_t v[4])
{
	uint16x8_t low = vcombine_u16(vmovn_u32(v[0]), vmovn_u32(v[1])), high = vcombine_u16(vmovn_u32(v[2]), vmovn_u32(v[3]));
	return vcombine_u8(vmovn_u16(low), vmovn_u16(high));
}

/* -0 as 0: neither moves to the other. */
TN_INLINE uint8x16_t without_sign_of_zero(uint8x16_t codes, uint8x16_t sign)
{
	return vbicq_u8(codes, vceqq_u8(codes, sign));
}

struct counts_4 {
	uint32x4_t moved, clamped;
};

/* `old` are the values of the codes. */
TN_INLINE uint8x16_t dither_16(uint8x16_t codes, const float32x4_t old[4], const float *d, float32x4_t scale, uint32x4_t any,
			       uint32x4_t columns, const struct small_float kind, struct counts_4 *counts)
{
	uint32x4_t magnitude[4], negative[4], some[4];
	const uint8x16_t sign = vdupq_n_u8(kind.sign);
	TN_UNROLL(4)
	for (int v = 0; v < 4; v++) {
		struct moved_4 to = dither_4(old[v], vld1q_f32(d + 4 * v), scale, any, uniform_4(columns), kind, &counts->clamped);
		columns = vaddq_u32(columns, vdupq_n_u32(4 * TN_HASH_STEP));
		magnitude[v] = to.magnitude;
		negative[v] = to.negative;
		some[v] = to.some;
	}
	uint8x16_t to = vminq_u8(narrow_16(magnitude), vdupq_n_u8(kind.last_code));
	to = without_sign_of_zero(vorrq_u8(to, vandq_u8(narrow_masks(negative), sign)), sign);
	uint8x16_t moves = vbicq_u8(narrow_masks(some), vceqq_u8(to, without_sign_of_zero(codes, sign)));
	counts->moved = vpadalq_u16(counts->moved, vpaddlq_u8(vshrq_n_u8(moves, 7)));
	return vbslq_u8(moves, to, codes);
}

TN_INLINE void add_counts(struct tn_dither_counts *counts, struct counts_4 sum)
{
	counts->moved += vaddvq_u32(sum.moved);
	counts->clamped += vaddvq_u32(sum.clamped);
}

/* ---- E2M1 ------------------------------------------------------------------------------------------------ */

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
	static const struct small_float kind = { 1, 7, 8, 0x3F000000, 6 };
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	unsigned char *dst = codes;
	const size_t group = f->codec == TN_CODEC_mxfp4 ? 32 : 16;
	const uint32_t hash = row_seed(seed, row_number);
	struct counts_4 sum = { vdupq_n_u32(0), vdupq_n_u32(0) };
	for (size_t g = 0; g < cols / group; g++) {
		const float s = scale_of(scales[g], f);
		const uint32x4_t any = vdupq_n_u32(s != 0 ? 0xFFFFFFFFu : 0);
		for (size_t i = g * group; i < (g + 1) * group; i += 16, src += 8, dst += 8) {
			float32x4_t old[4];
			uint8x16_t at = unpack_16(src, 8, 4);
			e2m1_values(old, at);
			pack_16(dst, 8, dither_16(at, old, d + i, vdupq_n_f32(s), any, columns_4(hash, i), kind, &sum), 4);
		}
	}
	add_counts(counts, sum);
}

/* ---- E4M3 ------------------------------------------------------------------------------------------------ */

void TN_ISA_NAME(tn_arm_dither_e4m3)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				     size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	static const struct small_float kind = { 3, 0x7E, 0x80, 0x3B000000, 448 };
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	unsigned char *dst = codes;
	const uint32_t hash = row_seed(seed, row_number);
	struct counts_4 sum = { vdupq_n_u32(0), vdupq_n_u32(0) };
	(void)f;
	for (size_t i = 0; i < cols; i += 16) {
		float32x4_t old[4], scale = vdupq_n_f32(e8m0_decode(scales[i / 32]));
		uint8x16_t at = vld1q_u8(src + i);
		e4m3_values(old, at);
		at = dither_16(at, old, d + i, scale, vdupq_n_u32(0xFFFFFFFFu), columns_4(hash, i), kind, &sum);
		vst1q_u8(dst + i, at);
	}
	add_counts(counts, sum);
}
