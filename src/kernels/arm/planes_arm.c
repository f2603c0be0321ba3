/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of 4 bits times activations, in integers. The activations of a group become whole numbers n of at most 24, 16 or 8 bits
 * times a scale, n = 65536 h + 256 m + l with every part in a signed byte; products of a code and a byte are added exactly, so
 * the only error is that of the rounding to n.
 *
 *   sum of w x over a group = scale * (sum of code * x) + bias * (sum of x)
 *
 * E2M1 codes are looked up as 2 w + 12, which is not negative: scale / 2, and a bias of -6 scale. */
#include "kernels/arm/override_arm.h"
#include "kernels/vector/codes4_kind.h"

/* Rows that are multiplied at once: they share the loads of x. */
enum { ROWS = 4 };

/* Codes whose products a lane of 32 bits can take: 64 / 4 codes of at most 15 times n, or half as many of at most 24. */
enum { MOST_CODES = 64 };

/* A step: codes that are loaded at once, two to a byte. A group is a number of them. */
TN_INLINE size_t step_of(enum scale_kind kind)
{
	return kind == SCALE_E4M3 ? 16 : 32;
}

int TN_ISA_NAME(tn_arm_planes_take)(const struct tn_product *p)
{
	const struct tn_format *f = p->format;
	int in_fours = (f->codec == TN_CODEC_affine && f->bits == 4) || f->codec == TN_CODEC_mxfp4 || f->codec == TN_CODEC_nvfp4;
	return in_fours && !f->like_mlx && f->group % step_of(kind_of(f)) == 0;
}

/* ---- the activations ------------------------------------------------------------------------------------- */

/* One x: bytes [step][plane][even, odd ones], scales [groups], sums [groups]. */
static size_t vector_bytes(const struct tn_product *p)
{
	return (p->cols * planes_of(p) + 2 * p->cols / p->format->group * sizeof(float) + 63) / 64 * 64;
}

size_t TN_ISA_NAME(tn_arm_planes_bytes)(const struct tn_product *p)
{
	return p->m * vector_bytes(p);
}

/* Whole numbers [16] lose their lowest byte each: the even ones' go to `even`, the others' to `odd`. */
TN_INLINE void cut_bytes(int8_t *even, int8_t *odd, int32x4_t n[4])
{
	int8x16_t low = vreinterpretq_s8_s16(vuzp1q_s16(vreinterpretq_s16_s32(n[0]), vreinterpretq_s16_s32(n[1])));
	int8x16_t high = vreinterpretq_s8_s16(vuzp1q_s16(vreinterpretq_s16_s32(n[2]), vreinterpretq_s16_s32(n[3])));
	int8x16_t bytes = vuzp1q_s8(low, high);
	vst1_s8(even, vget_low_s8(vuzp1q_s8(bytes, bytes)));
	vst1_s8(odd, vget_low_s8(vuzp2q_s8(bytes, bytes)));
	TN_UNROLL(4)
	for (int i = 0; i < 4; i++)
		n[i] = vshrq_n_s32(vsubq_s32(n[i], vshrq_n_s32(vshlq_n_s32(n[i], 24), 24)), 8);
}

/* A group of n; returns the scale of its whole numbers. *sum is that of what they stand for, so that a bias meets the same x as a
 * code. */
static float cut_group(int8_t *bytes, const float *x, size_t n, size_t step, unsigned planes, float *sum)
{
	const float most = planes == 3 ? 127.0f * 65536 : planes == 2 ? 127.0f * 256 : 127.0f;
	float top = abs_max(x, (int)n), factor = top > 0x1p-100f ? most / top : 0;
	int32x4_t whole = vdupq_n_s32(0);
	for (size_t i = 0; i < n; i += 16) {
		int8_t *at = bytes + i / step * step * planes + i % step / 2;
		int32x4_t v[4];
		TN_UNROLL(4)
		for (size_t k = 0; k < 4; k++) {
			v[k] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * k), factor));
			whole = vaddq_s32(whole, v[k]);
		}
		for (unsigned p = planes; p-- > 0;)
			cut_bytes(at + p * step, at + p * step + step / 2, v);
	}
	float scale = top > 0x1p-100f || top != top ? top / most : 0;
	*sum = scale * (float)vaddvq_s32(whole);
	return scale;
}

void TN_ISA_NAME(tn_arm_planes_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	size_t group = p->format->group, groups = p->cols / group, step = step_of(kind_of(p->format));
	unsigned planes = planes_of(p);
	const float *x = v->x + v->first * v->stride;
	dst += v->first * vector_bytes(p);
	for (size_t t = 0; t < v->count; t++, dst += vector_bytes(p), x += v->stride) {
		float *scales = (float *)(void *)(dst + p->cols * planes), *sums = scales + groups;
		for (size_t g = 0; g < groups; g++)
			scales[g] = cut_group((int8_t *)dst + g * group * planes, x + g * group, group, step, planes, &sums[g]);
	}
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* sum + the sums of four products each. */
TN_INLINE int32x4_t add_products(int32x4_t sum, int8x16_t codes, int8x16_t x)
{
#if defined(__ARM_FEATURE_DOTPROD)
	return vdotq_s32(sum, codes, x);
#else
	int16x8_t pairs = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
	return vpadalq_s16(sum, vmlal_high_s8(pairs, codes, x));
#endif
}

/* Codes of a step: the even ones and the odd ones; of a step of 16 both in one. */
struct codes {
	int8x16_t even, odd;
};

TN_INLINE struct codes load_codes(const unsigned char *p, enum scale_kind kind)
{
	static const uint8_t e2m1_times_2_plus_12[16] = { 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0 };
	uint8x16_t even, odd;
	if (step_of(kind) == 16) {
		uint8x8_t v = vld1_u8(p);
		even = odd = vcombine_u8(vand_u8(v, vdup_n_u8(15)), vshr_n_u8(v, 4));
	} else {
		uint8x16_t v = vld1q_u8(p);
		even = vandq_u8(v, vdupq_n_u8(15));
		odd = vshrq_n_u8(v, 4);
	}
	if (kind == SCALE_E8M0 || kind == SCALE_E4M3) {
		uint8x16_t table = vld1q_u8(e2m1_times_2_plus_12);
		even = vqtbl1q_u8(table, even);
		odd = vqtbl1q_u8(table, odd);
	}
	return (struct codes){ vreinterpretq_s8_u8(even), vreinterpretq_s8_u8(odd) };
}

TN_INLINE float load_scale(const unsigned char *scales, size_t g, enum scale_kind kind)
{
	switch (kind) {
	case SCALE_F32: return load_as(scales, g, TN_F32);
	case SCALE_F16: return load_as(scales, g, TN_F16);
	case SCALE_BF16: return load_as(scales, g, TN_BF16);
	case SCALE_E8M0: return e8m0_decode(scales[g]);
	default: return tn_f32_from_f8_e4m3(scales[g]);
	}
}

struct rows {
	const unsigned char *codes[ROWS], *scales[ROWS], *biases[ROWS];
};

/* One x. */
struct vector {
	const int8_t *bytes;
	const float *scales, *sums;
	size_t group, groups;
	float factor;                      /* of all scales */
};

/* Sums of `n` rows over `count` codes from code `first` on, at most MOST_CODES. */
TN_INLINE void add_codes(int32x4_t sum[ROWS], const struct rows *rows, const int8_t *bytes, size_t first, size_t count, const int n,
			 const unsigned planes, const enum scale_kind kind)
{
	const size_t step = step_of(kind);
	int32x4_t plane[3][ROWS];
	TN_UNROLL(3)
	for (unsigned p = 0; p < planes; p++)
		TN_UNROLL(4)
		for (int r = 0; r < n; r++)
			plane[p][r] = vdupq_n_s32(0);
	for (size_t i = first; i < first + count; i += step) {
		struct codes c[ROWS];
		TN_UNROLL(4)
		for (int r = 0; r < n; r++)
			c[r] = load_codes(rows->codes[r] + i / 2, kind);
		TN_UNROLL(3)
		for (unsigned p = 0; p < planes; p++) {
			const int8_t *at = bytes + i * planes + p * step;
			int8x16_t even = vld1q_s8(at), odd = step == 32 ? vld1q_s8(at + 16) : even;
			TN_UNROLL(4)
			for (int r = 0; r < n; r++) {
				plane[p][r] = add_products(plane[p][r], c[r].even, even);
				if (step == 32)
					plane[p][r] = add_products(plane[p][r], c[r].odd, odd);
			}
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		sum[r] = plane[0][r];
		TN_UNROLL(2)
		for (unsigned p = 1; p < planes; p++)
			sum[r] = vaddq_s32(vshlq_n_s32(sum[r], 8), plane[p][r]);
	}
}

TN_INLINE void multiply(float *y, const struct rows *rows, const struct vector *x, const int n, const unsigned planes,
			const enum scale_kind kind)
{
	const int is_float = kind == SCALE_E8M0 || kind == SCALE_E4M3;
	float32x4_t sum[ROWS];
	float biases[ROWS], scale[ROWS];
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		sum[r] = vdupq_n_f32(0);
		biases[r] = 0;
	}
	for (size_t g = 0; g < x->groups; g++) {
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			float s = load_scale(rows->scales[r], g, kind);
			if (kind == SCALE_E4M3)
				s *= x->factor;
			biases[r] += (is_float ? -6 * s : load_scale(rows->biases[r], g, kind)) * x->sums[g];
			scale[r] = (is_float ? 0.5f * s : s) * x->scales[g];
		}
		for (size_t first = 0, count; first < x->group; first += count) {
			int32x4_t dot[ROWS];
			count = x->group - first < MOST_CODES ? x->group - first : MOST_CODES;
			if (is_float && count > MOST_CODES / 2)
				count = MOST_CODES / 2;
			add_codes(dot, rows, x->bytes, g * x->group + first, count, n, planes, kind);
			TN_UNROLL(4)
			for (int r = 0; r < n; r++)
				sum[r] = vfmaq_n_f32(sum[r], vcvtq_f32_s32(dot[r]), scale[r]);
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = vaddvq_f32(sum[r]) + biases[r];
}

TN_DEFINE_MULTIPLY_ROWS

static struct vector vector_at(const struct tn_product *p, const unsigned char *planes)
{
	const struct tn_format *f = p->format;
	const float *scales = (const float *)(const void *)(planes + p->cols * planes_of(p));
	return (struct vector){
		.bytes = (const int8_t *)planes,
		.scales = scales,
		.sums = scales + p->cols / f->group,
		.group = f->group,
		.groups = p->cols / f->group,
		.factor = scale_factor(f),
	};
}

void TN_ISA_NAME(tn_arm_planes_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *planes,
				     const struct tn_rows *w, size_t rows)
{
	for (size_t i = 0, n; i < rows; i += n) {
		struct rows now = { { NULL }, { NULL }, { NULL } };
		n = rows - i >= ROWS ? ROWS : 1;
		for (size_t r = 0; r < n; r++) {
			now.codes[r] = (const unsigned char *)w->first.part[TN_PART_WEIGHT] + (i + r) * w->stride[TN_PART_WEIGHT];
			now.scales[r] = (const unsigned char *)w->first.part[TN_PART_SCALES] + (i + r) * w->stride[TN_PART_SCALES];
			if (w->first.part[TN_PART_BIASES])
				now.biases[r] = (const unsigned char *)w->first.part[TN_PART_BIASES] +
						(i + r) * w->stride[TN_PART_BIASES];
		}
		for (size_t t = 0; t < p->m; t++) {
			struct vector x = vector_at(p, planes + t * vector_bytes(p));
			multiply_rows(y + t * y_stride + i, &now, &x, (int)n, planes_of(p), kind_of(p->format));
		}
	}
}
