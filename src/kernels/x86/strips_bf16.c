/* SPDX-License-Identifier: Apache-2.0 */
/* Strips in pairs of BF16: codes are BF16 numbers, and so is a narrow x, so one product of pairs is exact where integers would take
 * three planes. With AMX, any x is cut into as many BF16 numbers as it needs, whose products all go into the same sums. */
#include "kernels/x86/strips.h"

#if defined(__AVX512BF16__)

/* ---- the activations ------------------------------------------------------------------------------------- */

/* Of eight columns the pairs are 0 4, 1 5, 2 6, 3 7: as they come out of the codes. */

static unsigned pair_planes(const struct tn_product *p)
{
	if (p->precision == TN_PRECISION_INT8 || p->x_dtype == TN_BF16)
		return 1;
	return p->precision == TN_PRECISION_16 || p->x_dtype == TN_F16 ? 2 : 3;
}

/* x as rows of a tile of AMX come in sixteens. */
static size_t x_room(const struct tn_product *p)
{
#if defined(__AMX_BF16__)
	return (p->m + 15) / 16 * 16;
#else
	return p->m;
#endif
}

static size_t chunks_of(const struct tn_product *p)
{
	return (p->cols + CHUNK - 1) / CHUNK;
}

static size_t chunk_bytes(const struct tn_product *p)
{
	return x_room(p) * pair_planes(p) * CHUNK * 2;
}

/* Pairs [chunk][x][plane][CHUNK], sums of groups [x][group_room]. */
static size_t pairs_bytes(const struct tn_product *p)
{
	return chunks_of(p) * chunk_bytes(p) + (p->m * group_room(p) * sizeof(float) + 63) / 64 * 64;
}

static float *sums_of(const unsigned char *prepared, const struct tn_product *p)
{
	return (float *)(uintptr_t)(prepared + chunks_of(p) * chunk_bytes(p));
}

/* BF16 as float32. */
TN_INLINE __m512 widen(__m256i h)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Columns [first, first + n) of a chunk, n <= 32 and a multiple of 16. The planes but the last are cut, not rounded: nothing
 * overflows, and three are all of a float32. Returns what the planes leave out of x, in lanes of 16. */
TN_INLINE __m512 cut_pairs(unsigned char *dst, const float *x, size_t n, const unsigned planes)
{
	const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
	const __m512 top = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xFFFF0000u));
	__m512 a = _mm512_loadu_ps(x), b = n > 16 ? _mm512_loadu_ps(x + 16) : _mm512_setzero_ps();
	for (unsigned plane = 0; plane + 1 < planes; plane++, dst += CHUNK * 2) {
		__m512 high_a = _mm512_and_ps(a, top), high_b = _mm512_and_ps(b, top);
		__m512i both = (__m512i)_mm512_cvtne2ps_pbh(high_b, high_a);
		_mm512_storeu_si512(dst, _mm512_shuffle_epi8(both, order));
		a = _mm512_sub_ps(a, high_a);
		b = _mm512_sub_ps(b, high_b);
	}
	__m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
	_mm512_storeu_si512(dst, _mm512_shuffle_epi8(both, order));
	a = _mm512_sub_ps(a, widen(_mm512_castsi512_si256(both)));
	b = _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64(both, 1)));
	return _mm512_add_ps(a, b);
}

TN_INLINE void prepare_pairs(unsigned char *dst, float *sums, const struct tn_product *p, const float *x, const unsigned planes)
{
	const size_t group = p->format->group;
	for (size_t i = 0; i < p->cols; i += 32) {
		size_t n = p->cols - i < 32 ? p->cols - i : 32;
		unsigned char *to = dst + i / CHUNK * chunk_bytes(p) + i % CHUNK * 2;
		__m512 left = cut_pairs(to, x + i, n, planes);
		for (size_t g = i; g < i + n && group == 16; g += 16)
			sums[g / 16] = _mm512_reduce_add_ps(_mm512_loadu_ps(x + g));
		if (group > 16) /* a bias meets the same x as a code */
			sums[i / group] += _mm512_reduce_add_ps(
				_mm512_sub_ps(_mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i + 16)), left));
	}
}

static void prepare(unsigned char *dst, const struct tn_product *p, const float *x, size_t x_stride)
{
	const unsigned planes = pair_planes(p);
	const size_t x_bytes = planes * CHUNK * 2;
	if (x_room(p) > p->m || p->cols % CHUNK)
		memset(dst, 0, chunks_of(p) * chunk_bytes(p));
	memset(sums_of(dst, p), 0, p->m * group_room(p) * sizeof(float));
	for (size_t t = 0; t < p->m; t++) {
		float *sums = sums_of(dst, p) + t * group_room(p);
		if (planes == 1)
			prepare_pairs(dst + t * x_bytes, sums, p, x + t * x_stride, 1);
		else if (planes == 2)
			prepare_pairs(dst + t * x_bytes, sums, p, x + t * x_stride, 2);
		else
			prepare_pairs(dst + t * x_bytes, sums, p, x + t * x_stride, 3);
	}
}

/* ---- codes ----------------------------------------------------------------------------------------------- */

/* [dword][pair][half][LANES] pairs of BF16. The table stands there twice, since its index has five bits. */
static void unpack(unsigned char *codes, const ints *turned, size_t dword, size_t half, int is_float)
{
	static const uint16_t whole[32] = { 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100, 0x4110, 0x4120,
					    0x4130, 0x4140, 0x4150, 0x4160, 0x4170, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0,
					    0x40C0, 0x40E0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170 };
	static const uint16_t e2m1[32] = { 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80,
					   0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0, 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040,
					   0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80, 0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0 };
	const ints table = LOAD_INTS(is_float ? e2m1 : whole);
	unsigned char *to = codes + (dword * 8 + half) * STEP_BYTES;
	for (size_t i = 0; i < LANES; i++, to += 8 * STEP_BYTES) {
		_mm512_storeu_si512(to, _mm512_permutexvar_epi16(turned[i], table));
		_mm512_storeu_si512(to + 2 * STEP_BYTES, _mm512_permutexvar_epi16(_mm512_srli_epi16(turned[i], 4), table));
		_mm512_storeu_si512(to + 4 * STEP_BYTES, _mm512_permutexvar_epi16(_mm512_srli_epi16(turned[i], 8), table));
		_mm512_storeu_si512(to + 6 * STEP_BYTES, _mm512_permutexvar_epi16(_mm512_srli_epi16(turned[i], 12), table));
	}
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

#if defined(__AMX_BF16__)

/* ---- tiles of AMX ---------------------------------------------------------------------------------------- */

/* Pairs of a row of a tile: 32 codes, or the 16 of a short group. */
static size_t tile_pairs(const struct tn_product *p)
{
	return p->format->group < 32 ? p->format->group / 2u : 16;
}

static void begin(const struct tn_product *p)
{
	struct {
		uint8_t palette, start, unused[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} config = { .palette = 1 };
	for (int i = 0; i < 8; i++) {
		config.rows[i] = (uint8_t)(i < 6 ? 16 : tile_pairs(p));
		config.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? tile_pairs(p) * 4 : 64);
	}
	__asm__ volatile("" : : "r"(&config) : "memory"); /* gcc 12 takes only the first bytes of it for read */
	_tile_loadconfig(&config);
}

static void end(void)
{
	_tile_release();
}

/* One group with 32 x, or 16: sums into tile[which x][half]. */
TN_INLINE void add_tiles(const struct strip_chunk *c, const unsigned char *x, size_t pair, const unsigned planes, const int two)
{
	const size_t stride = planes * CHUNK * 2, step = tile_pairs(c->p);
	_tile_zero(0);
	_tile_zero(1);
	if (two) {
		_tile_zero(2);
		_tile_zero(3);
	}
	for (size_t end = pair + c->dwords * 4; pair < end; pair += step) {
		_tile_loadd(6, c->codes + pair * 2 * STEP_BYTES, 2 * STEP_BYTES);
		_tile_loadd(7, c->codes + pair * 2 * STEP_BYTES + STEP_BYTES, 2 * STEP_BYTES);
		for (unsigned plane = 0; plane < planes; plane++) {
			const unsigned char *at = x + plane * CHUNK * 2 + pair * 4;
			_tile_loadd(4, at, stride);
			_tile_dpbf16ps(0, 4, 6);
			_tile_dpbf16ps(1, 4, 7);
			if (two) {
				_tile_loadd(5, at + 16 * stride, stride);
				_tile_dpbf16ps(2, 5, 6);
				_tile_dpbf16ps(3, 5, 7);
			}
		}
	}
	_tile_stored(0, c->tile[0], 64);
	_tile_stored(1, c->tile[1], 64);
	if (two) {
		_tile_stored(2, c->tile[2], 64);
		_tile_stored(3, c->tile[3], 64);
	}
}

TN_INLINE void multiply_tiles(const struct strip_chunk *c, size_t x_count, const unsigned planes)
{
	const size_t x_bytes = planes * CHUNK * 2, room = group_room(c->p);
	const unsigned char *x = c->prepared + c->chunk * chunk_bytes(c->p) + c->first_x * x_bytes;
	const float *sums = sums_of(c->prepared, c->p) + c->first_x * room + c->first_group;
	for (size_t t = 0, many; t < x_count; t += many) {
		many = x_count - t < 32 ? x_count - t : 32;
		for (size_t g = 0; g < c->count; g++) {
			floats a = LOAD_FLOATS(c->scale[g]), b = LOAD_FLOATS(c->scale[g] + LANES);
			if (many > 16)
				add_tiles(c, x + t * x_bytes, g * c->dwords * 4, planes, 1);
			else
				add_tiles(c, x + t * x_bytes, g * c->dwords * 4, planes, 0);
			for (size_t i = 0; i < many; i++) {
				float *to = c->total[t + i];
				_mm512_storeu_ps(to, FMA(LOAD_FLOATS(c->tile[i / 16 * 2][i % 16]), a, LOAD_FLOATS(to)));
				_mm512_storeu_ps(to + LANES, FMA(LOAD_FLOATS(c->tile[i / 16 * 2 + 1][i % 16]), b, LOAD_FLOATS(to + LANES)));
			}
		}
		for (size_t i = t; i < t + many && c->bias; i++) {
			floats total[2] = { LOAD_FLOATS(c->total[i]), LOAD_FLOATS(c->total[i] + LANES) };
			add_biases(total, c, sums + i * room);
			_mm512_storeu_ps(c->total[i], total[0]);
			_mm512_storeu_ps(c->total[i] + LANES, total[1]);
		}
	}
}

static void multiply(const struct strip_chunk *c, size_t x_count)
{
	switch (pair_planes(c->p)) {
	case 1: multiply_tiles(c, x_count, 1); break;
	case 2: multiply_tiles(c, x_count, 2); break;
	default: multiply_tiles(c, x_count, 3); break;
	}
}

#else

/* ---- tiles of vectors ------------------------------------------------------------------------------------ */

enum { TILE = 6 };

static void begin(const struct tn_product *p)
{
	(void)p;
}

static void end(void)
{
}

TN_INLINE __m512bh one_pair(const unsigned char *x)
{
	int32_t two;
	memcpy(&two, x, sizeof two);
	return (__m512bh)_mm512_set1_epi32(two);
}

/* The strip with `many` x from x number `t0` on. */
TN_INLINE void tile(const struct strip_chunk *c, size_t t0, const int many)
{
	const size_t x_bytes = CHUNK * 2, room = group_room(c->p), pairs = c->dwords * 4;
	const unsigned char *x = c->prepared + c->chunk * chunk_bytes(c->p) + (c->first_x + t0) * x_bytes, *codes = c->codes;
	const float *sums = sums_of(c->prepared, c->p) + (c->first_x + t0) * room + c->first_group;
	floats total[TILE][2], sum[TILE][2];
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		total[t][0] = LOAD_FLOATS(c->total[t0 + (size_t)t]);
		total[t][1] = LOAD_FLOATS(c->total[t0 + (size_t)t] + LANES);
	}
	for (size_t g = 0; g < c->count; g++) {
		TN_UNROLL(6)
		for (int t = 0; t < many; t++)
			sum[t][0] = sum[t][1] = ZERO();
		for (size_t n = 0; n < pairs; n++, x += 4, codes += 2 * STEP_BYTES) {
			__m512bh a = (__m512bh)LOAD_INTS(codes), b = (__m512bh)LOAD_INTS(codes + STEP_BYTES);
			TN_UNROLL(6)
			for (int t = 0; t < many; t++) {
				__m512bh v = one_pair(x + (size_t)t * x_bytes);
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
	for (size_t t = 0, left = (x_count + TILE - 1) / TILE, many; t < x_count; t += many, left--) {
		many = (x_count - t + left - 1) / left;
		switch (many) {
		case 1: tile(c, t, 1); break;
		case 2: tile(c, t, 2); break;
		case 3: tile(c, t, 3); break;
		case 4: tile(c, t, 4); break;
		case 5: tile(c, t, 5); break;
		default: tile(c, t, 6); break;
		}
	}
}

#endif

const struct strip_form TN_ISA_NAME(tn_strips_of_pairs) = {
	.codes_are_floats = 1, .bytes = pairs_bytes, .prepare = prepare, .unpack = unpack,
	.begin = begin, .multiply = multiply, .end = end,
};

#endif
