/* SPDX-License-Identifier: Apache-2.0 */
/* Strips in pairs of BF16: codes are BF16 numbers, and so is a narrow x, so one product of pairs is exact where integers would take
 * three planes. */
#include "kernels/x86/strips.h"

#if defined(TN_FAST_PAIRS)

/* ---- the activations ------------------------------------------------------------------------------------- */

/* Pairs [chunk][x][CHUNK], sums of groups [x][group_room]. Of eight columns the pairs are 0 4, 1 5, 2 6, 3 7: as they come out of
 * the codes. */
enum { X_BYTES = CHUNK * 2 };

static size_t pairs_bytes(const struct tn_product *p)
{
	return p->m * (chunks_of(p) * X_BYTES + group_room(p) * sizeof(float));
}

static float *sums_of(const unsigned char *prepared, const struct tn_product *p)
{
	return (float *)(uintptr_t)(prepared + chunks_of(p) * p->m * X_BYTES);
}

/* A chunk of n columns, a multiple of 16, of which `sums` are those of groups. */
static void prepare_chunk(unsigned char *dst, float *sums, const float *x, size_t n, size_t group)
{
	const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
	if (n < CHUNK)
		memset(dst, 0, X_BYTES);
	for (size_t i = 0; i < n; i += 32, dst += 64) {
		__m512 a = _mm512_loadu_ps(x + i), b = i + 16 < n ? _mm512_loadu_ps(x + i + 16) : _mm512_setzero_ps();
		_mm512_storeu_si512(dst, _mm512_shuffle_epi8((__m512i)_mm512_cvtne2ps_pbh(b, a), order));
		if (group > 16)
			sums[i / group] += _mm512_reduce_add_ps(_mm512_add_ps(a, b));
		else
			sums[i / group] = _mm512_reduce_add_ps(a);
		if (group == 16 && i + 16 < n)
			sums[i / group + 1] = _mm512_reduce_add_ps(b);
	}
}

static void prepare(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	memset(sums_of(dst, p) + v->first * group_room(p), 0, v->count * group_room(p) * sizeof(float));
	for (size_t t = v->first; t < v->first + v->count; t++)
		for (size_t i = 0; i < p->cols; i += CHUNK)
			prepare_chunk(dst + (i / CHUNK * p->m + t) * X_BYTES,
				      sums_of(dst, p) + t * group_room(p) + i / p->format->group, v->x + t * v->stride + i,
				      p->cols - i < CHUNK ? p->cols - i : CHUNK, p->format->group);
}

/* ---- codes ----------------------------------------------------------------------------------------------- */

/* [dword][pair][half][LANES] pairs of BF16. The table stands there twice, since its index has five bits. */
static void unpack(unsigned char *codes, const ints *turned, size_t dword, size_t half, const struct tn_format *f)
{
	static const uint16_t whole[32] = { 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100, 0x4110, 0x4120,
					    0x4130, 0x4140, 0x4150, 0x4160, 0x4170, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0,
					    0x40C0, 0x40E0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170 };
	static const uint16_t e2m1[32] = { 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80,
					   0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0, 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040,
					   0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80, 0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0 };
	const ints table = LOAD_INTS(f->codec == TN_CODEC_affine ? whole : e2m1);
	unsigned char *to = codes + (dword * 8 + half) * STEP_BYTES;
	for (size_t i = 0; i < LANES; i++, to += 8 * STEP_BYTES) {
		_mm512_storeu_si512(to, _mm512_permutexvar_epi16(turned[i], table));
		_mm512_storeu_si512(to + 2 * STEP_BYTES, _mm512_permutexvar_epi16(_mm512_srli_epi16(turned[i], 4), table));
		_mm512_storeu_si512(to + 4 * STEP_BYTES, _mm512_permutexvar_epi16(_mm512_srli_epi16(turned[i], 8), table));
		_mm512_storeu_si512(to + 6 * STEP_BYTES, _mm512_permutexvar_epi16(_mm512_srli_epi16(turned[i], 12), table));
	}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

enum { TILE = 6 };

TN_INLINE __m512bh one_pair(const unsigned char *x)
{
	int32_t two;
	memcpy(&two, x, sizeof two);
	return (__m512bh)_mm512_set1_epi32(two);
}

/* bias times the sum of each x, for all groups of the chunk. */
TN_INLINE void add_biases(floats total[2], const struct strip_chunk *c, const float *sums)
{
	for (size_t g = 0; g < c->count && c->bias; g++) {
		floats sum = SPREAD(sums[g]);
		total[0] = FMA(LOAD_FLOATS(c->bias[g]), sum, total[0]);
		total[1] = FMA(LOAD_FLOATS(c->bias[g] + LANES), sum, total[1]);
	}
}

/* The strip with `many` x from x number `t0` on. */
TN_INLINE void tile(const struct strip_chunk *c, size_t t0, const int many)
{
	const size_t room = group_room(c->p), pairs = c->dwords * 4;
	const unsigned char *x = c->prepared + (c->chunk * c->p->m + c->first_x + t0) * X_BYTES, *codes = c->codes;
	const float *sums = sums_of(c->prepared, c->p) + (c->first_x + t0) * room + c->first_group;
	floats total[TILE][2], sum[TILE][2];
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		total[t][0] = LOAD_FLOATS(c->total[t0 + (size_t)t]);
		total[t][1] = LOAD_FLOATS(c->total[t0 + (size_t)t] + LANES);
	}
	for (size_t g = 0; g < c->count; g++) {
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			sum[t][0] = sum[t][1] = ZERO();
			ask_for(x + (t + many) * X_BYTES, pairs * 4);
		}
		for (size_t n = 0; n < pairs; n++, x += 4, codes += 2 * STEP_BYTES) {
			__m512bh a = (__m512bh)LOAD_INTS(codes), b = (__m512bh)LOAD_INTS(codes + STEP_BYTES);
			TN_UNROLL(6)
			for (int t = 0; t < many; t++) {
				__m512bh v = one_pair(x + t * X_BYTES);
				sum[t][0] = _mm512_dpbf16_ps(sum[t][0], a, v);
				sum[t][1] = _mm512_dpbf16_ps(sum[t][1], b, v);
			}
		}
		floats a = LOAD_FLOATS(c->scale[g]), b = LOAD_FLOATS(c->scale[g] + LANES);
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			total[t][0] = FMA(sum[t][0], a, total[t][0]);
			total[t][1] = FMA(sum[t][1], b, total[t][1]);
		}
	}
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		add_biases(total[t], c, sums + (size_t)t * room);
		_mm512_storeu_ps(c->total[t0 + (size_t)t], total[t][0]);
		_mm512_storeu_ps(c->total[t0 + (size_t)t] + LANES, total[t][1]);
	}
}

static void multiply(const struct strip_chunk *c, size_t x_count)
{
	multiply_by_six(c, x_count, tile);
}

const struct strip_form TN_ISA_NAME(tn_strips_of_pairs) = {
	.fewest = 5, .codes_are_floats = 1, .bytes = pairs_bytes, .prepare = prepare, .unpack = unpack, .multiply = multiply,
};

#endif
