/* SPDX-License-Identifier: Apache-2.0 */
/* Strips in planes whose products are crossed: with codes c, d and activations x, y of one byte each
 *
 *   (c + y)(d + x) = c x + d y + c d + x y
 *
 * so one product of sums gives two products of a code and an activation; c d belongs to the row and x y to the activation, and
 * both are known before (Winograd, 1968). A code takes so few of its eight bits that the sums fit where planes of x keep to 7 bits,
 * the highest to nearly 8. The two additions that a pair takes are done by units that do not multiply. Where those would be too
 * many, every fourth pair is left as it is: five multiplications and six additions for eight products. */
#include "kernels/x86/strips.h"

#if defined(TN_FAST_PAIRS)

enum { PLANES = 3, DIGIT_BITS = 7, TILE = 6, MOST_GROUPS = CHUNK / 16 };

/* 1 at the place of each plane: what is the same in all of them is in their sum so many times. */
enum { ALL_PLANES = 1 + (1 << DIGIT_BITS) + (1 << 2 * DIGIT_BITS) };

/* A chunk of one x: bytes [step][plane][even, odd][STEP_BYTES] of columns. The products of activations are there less than zero. */
struct crossed_x {
	int8_t bytes[PLANES * CHUNK];
	float scale[MOST_GROUPS], sum[MOST_GROUPS];
	int32_t known[MOST_GROUPS];
};

/* A chunk of a strip: [dword][even, odd][half][LANES] lanes of four codes, and of each group what belongs to the rows alone, less
 * than zero. */
struct crossed_codes {
	unsigned char bytes[CHUNK / 8][4 * STEP_BYTES];
	int32_t known[MOST_GROUPS][STRIP];
};

_Static_assert(sizeof(struct crossed_codes) <= STRIP * CHUNK * 2, "room for a chunk of a strip");

/* `raise` is added to even codes, `middle` subtracted from odd ones: no sum leaves a byte then, for an x of at most `raise`. */
struct shifts {
	int raise, middle;
};

TN_INLINE struct shifts shifts_of(const struct tn_format *f)
{
	return f->codec == TN_CODEC_affine ? (struct shifts){ 120, 8 } : (struct shifts){ 115, 12 };
}

/* Dword i of a group. Loops over groups of 16 know that both of theirs are. */
TN_INLINE int is_crossed(size_t i, size_t dwords)
{
	return dwords < 4 || i % 4 != 2;
}

static size_t bytes_of(const struct tn_product *p)
{
	return chunks_of(p) * p->m * sizeof(struct crossed_x);
}

/* ---- the activations ------------------------------------------------------------------------------------- */

static float most_of_group(const struct tn_product *p)
{
	const struct tn_format *f = p->format;
	const int32_t fits = INT32_MAX / (f->group * (f->codec == TN_CODEC_affine ? 15 : 24));
	const int32_t most = shifts_of(f).raise << 2 * DIGIT_BITS;
	return (float)(fits < most ? fits : most);
}

/* The products of activations in the groups of a step. */
static void cross_step(int32_t *known, const int8_t *bytes, size_t dwords, struct shifts by)
{
	const __m512i raise = SPREAD_BYTE((char)by.raise), middle = SPREAD_BYTE((char)by.middle);
	__m512i sum = _mm512_setzero_si512();
	uint32_t lanes[LANES];
	for (size_t plane = 0; plane < PLANES; plane++, bytes += 2 * STEP_BYTES)
		sum = _mm512_dpbusd_epi32(_mm512_add_epi32(_mm512_slli_epi32(sum, DIGIT_BITS),
							   _mm512_set1_epi32(4 * by.raise * by.middle)),
					  _mm512_add_epi8(LOAD_INTS(bytes + STEP_BYTES), raise),
					  _mm512_sub_epi8(LOAD_INTS(bytes), middle));
	_mm512_storeu_si512(lanes, sum);
	for (size_t l = 0; l < LANES; l += dwords) {
		uint32_t all = 0;
		for (size_t i = 0; i < dwords; i++)
			all -= is_crossed(i, dwords) ? lanes[l + i] : 0;
		*known++ = (int32_t)all;
	}
}

static void prepare_chunk(struct crossed_x *dst, const struct tn_product *p, const float *x, size_t n)
{
	const size_t group = p->format->group, dwords = group / 8;
	const float most = most_of_group(p);
	if (n < CHUNK)
		memset(dst, 0, sizeof *dst);
	for (size_t g = 0; g < n / group; g++)
		dst->scale[g] = cut_group(dst->bytes, x, g * group, group, PLANES, DIGIT_BITS, DIGIT_BITS, most,
					  &dst->sum[g]);
	for (size_t step = 0; step < CHUNK / STEP_CODES; step++)
		cross_step(dst->known + step * LANES / dwords, dst->bytes + step * PLANES * 2 * STEP_BYTES, dwords,
			   shifts_of(p->format));
}

static void prepare(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	struct crossed_x *to = (struct crossed_x *)(void *)dst;
	for (size_t i = 0; i < p->cols; i += CHUNK, to += p->m)
		for (size_t t = v->first; t < v->first + v->count; t++)
			prepare_chunk(to + t, p, v->x + t * v->stride + i, p->cols - i < CHUNK ? p->cols - i : CHUNK);
}

/* ---- codes ----------------------------------------------------------------------------------------------- */

static void unpack(unsigned char *codes, const ints *turned, size_t dword, size_t half, const struct tn_format *f)
{
	struct crossed_codes *to = (struct crossed_codes *)(void *)codes;
	const ints table = load_e2m1_table();
	const size_t dwords = f->group / 8u;
	const struct shifts by = shifts_of(f);
	ints known = _mm512_setzero_si512();
	for (size_t i = 0; i < LANES; i++) {
		ints even = AND(turned[i], SPREAD_BYTE(15)), odd = HIGH_NIBBLES(turned[i]);
		if (f->codec != TN_CODEC_affine) {
			even = LOOK_UP(table, even);
			odd = LOOK_UP(table, odd);
		}
		if (is_crossed(i % dwords, dwords)) {
			even = _mm512_add_epi8(even, SPREAD_BYTE((char)by.raise));
			odd = _mm512_sub_epi8(odd, SPREAD_BYTE((char)by.middle));
			known = _mm512_dpbusd_epi32(known, even, odd);
		}
		STORE_INTS(to->bytes[dword + i] + half * STEP_BYTES, even);
		STORE_INTS(to->bytes[dword + i] + (2 + half) * STEP_BYTES, odd);
		if ((i + 1) % dwords)
			continue;
		STORE_INTS(to->known[(dword + i) / dwords] + half * LANES,
			   _mm512_mullo_epi32(known, _mm512_set1_epi32(-ALL_PLANES)));
		known = _mm512_setzero_si512();
	}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

TN_INLINE ints four_bytes(const int8_t *x)
{
	int32_t four;
	memcpy(&four, x, sizeof four);
	return _mm512_set1_epi32(four);
}

/* A dword of codes with those columns of `many` x, the bytes of the first at x. */
TN_INLINE void add_dword(ints sum[][2], const unsigned char *codes, const int8_t *x, const int crossed, const int many)
{
	const ints even[2] = { LOAD_INTS(codes), LOAD_INTS(codes + STEP_BYTES) };
	const ints odd[2] = { LOAD_INTS(codes + 2 * STEP_BYTES), LOAD_INTS(codes + 3 * STEP_BYTES) };
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		const int8_t *at = x + (size_t)t * sizeof(struct crossed_x);
		const ints first = four_bytes(at), second = four_bytes(at + STEP_BYTES);
		TN_UNROLL(2)
		for (int h = 0; h < 2; h++)
			if (crossed)
				sum[t][h] = _mm512_dpbusd_epi32(sum[t][h], _mm512_add_epi8(even[h], second),
								_mm512_add_epi8(odd[h], first));
			else
				sum[t][h] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum[t][h], even[h], first), odd[h], second);
	}
}

/* One plane of a group. The units that add are as busy as those that multiply if both kinds of pairs are near each other. */
TN_INLINE void add_plane(ints sum[][2], const unsigned char (*codes)[4 * STEP_BYTES], const int8_t *x, const size_t dwords,
			 const int many)
{
	if (dwords < 4) {
		add_dword(sum, codes[0], x, 1, many);
		add_dword(sum, codes[1], x + 4, 1, many);
		return;
	}
	for (size_t d = 0; d < dwords; d += 4, codes += 4, x += 16) {
		add_dword(sum, codes[0], x, 1, many);
		add_dword(sum, codes[1], x + 4, 1, many);
		add_dword(sum, codes[2], x + 8, 0, many);
		add_dword(sum, codes[3], x + 12, 1, many);
	}
}

/* Group g of the chunk: planes from the highest on. What comes out is a whole number of 32 bits; that sums on the way do not fit
 * them makes no difference to it. */
TN_INLINE void add_group(float (*total)[STRIP], const struct strip_chunk *c, size_t g, const struct crossed_x *x,
			 const size_t dwords, const int many)
{
	const struct crossed_codes *codes = (const struct crossed_codes *)(const void *)c->codes;
	const float *scale = c->scale[g], *bias = c->bias[g];
	const size_t begin = g * dwords;
	const int8_t *bytes = x->bytes + begin / LANES * PLANES * 2 * STEP_BYTES + begin % LANES * 4;
	ints sum[TILE][2];
	TN_UNROLL(3)
	for (size_t plane = 0; plane < PLANES; plane++) {
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			sum[t][0] = plane ? _mm512_slli_epi32(sum[t][0], DIGIT_BITS) : _mm512_setzero_si512();
			sum[t][1] = plane ? _mm512_slli_epi32(sum[t][1], DIGIT_BITS) : _mm512_setzero_si512();
			ask_for(x[t + many].bytes + (g * PLANES + plane) * dwords * 8, dwords * 8);
		}
		add_plane(sum, codes->bytes + begin, bytes + plane * 2 * STEP_BYTES, dwords, many);
	}
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		const floats factor = SPREAD(x[t].scale[g]), x_sum = SPREAD(x[t].sum[g]);
		const ints known = _mm512_set1_epi32(x[t].known[g]);
		TN_UNROLL(2)
		for (size_t h = 0; h < STRIP; h += LANES) {
			ints all = _mm512_add_epi32(sum[t][h / LANES], _mm512_add_epi32(known, LOAD_INTS(codes->known[g] + h)));
			floats sums = FMA(TO_FLOATS(all), MUL(LOAD_FLOATS(scale + h), factor), LOAD_FLOATS(total[t] + h));
			_mm512_storeu_ps(total[t] + h, FMA(LOAD_FLOATS(bias + h), x_sum, sums));
		}
	}
}

/* The strip with `many` x from x number `t0` on. */
TN_INLINE void tile_of(const struct strip_chunk *c, size_t t0, const size_t dwords, const int many)
{
	const struct crossed_x *x = (const struct crossed_x *)(const void *)c->prepared + c->chunk * c->p->m + c->first_x + t0;
	for (size_t g = 0; g < c->count; g++)
		add_group(c->total + t0, c, g, x, dwords, many);
}

TN_INLINE void tile(const struct strip_chunk *c, size_t t0, const int many)
{
	switch (c->dwords) {
	case 2: tile_of(c, t0, 2, many); break;
	case 4: tile_of(c, t0, 4, many); break;
	case 8: tile_of(c, t0, 8, many); break;
	default: tile_of(c, t0, 16, many); break;
	}
}

static void multiply(const struct strip_chunk *c, size_t x_count)
{
	multiply_by_six(c, x_count, tile);
}

const struct strip_form TN_ISA_NAME(tn_strips_crossed) = {
	.fewest = 8, .bytes = bytes_of, .prepare = prepare, .unpack = unpack, .multiply = multiply,
};

#endif
