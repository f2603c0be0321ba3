/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of 4 bits times many activations by AMX. A strip of rows becomes numbers in pairs of BF16, high and low part, together
 * 16 bits and more, with scales and biases in them: what a code of a group stands for is looked up. So sums over all columns stay
 * in tiles of AMX, and nothing is done to a group. An x is cut into a high and a low part too, a BF16 x is its high part:
 *
 *   sum of w x = sum of high x_high + low x_high + high x_low
 *
 * Rows of W are the rows of a left tile, as they lie; x are the columns of a right one, packed once for all rows. Every tile is
 * 1 KB without gaps. */
#include "kernels/x86/strips.h"

#if defined(__AMX_BF16__)

/* Columns that are looked up at once, and those of a tile: every fourth of these, as codes come out of their words. */
enum { UNIT = 128, TILE_COLS = 32, STEPS = UNIT / TILE_COLS, WORDS = UNIT / 4, TILE_BYTES = 1024, TILE_X = 16 };
/* A tile for each 16 rows of a strip, then the same of the low parts. */
enum { PARTS = 4, STEP_TILES = PARTS * TILE_BYTES };
/* Rows, and pairs of tiles of x, whose sums wait in memory while columns go by; units that are unpacked before these x meet
 * them. */
enum { TALL = 256, TALL_STRIPS = TALL / STRIP, PAIRS = TOKENS / (2 * TILE_X), UNITS = 2 };

struct tiles_scratch {
	unsigned char w[UNITS][STEPS][PARTS][TILE_BYTES];
	float scale[TALL_STRIPS][STRIP][SCALED], bias[TALL_STRIPS][STRIP][SCALED];
	float total[TALL_STRIPS][PAIRS][4][16][TILE_X]; /* [x tile][row tile]; where there is but one tile of x, of low parts */
};

/* ---- the activations ------------------------------------------------------------------------------------- */

/* Parts of an x. */
static size_t x_parts(const struct tn_product *p)
{
	return p->x_dtype == TN_BF16 || p->precision == TN_PRECISION_INT8 ? 1 : 2;
}

static size_t x_tiles(const struct tn_product *p)
{
	return (p->m + TILE_X - 1) / TILE_X;
}

/* Of TILE_X x and a unit: tiles [step][part]. All x of a unit stand together. */
static size_t block_bytes(const struct tn_product *p)
{
	return STEPS * x_parts(p) * TILE_BYTES;
}

static size_t units_of(const struct tn_product *p)
{
	return (p->cols + UNIT - 1) / UNIT;
}

size_t TN_ISA_NAME(tn_tiles_bytes)(const struct tn_product *p)
{
	return units_of(p) * x_tiles(p) * block_bytes(p);
}

size_t TN_ISA_NAME(tn_tiles_scratch)(void)
{
	return sizeof(struct tiles_scratch);
}

/* BF16 as float32. */
TN_INLINE __m512 widen(__m256i h)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* High parts of two vectors as BF16, and what is left of the vectors. */
TN_INLINE __m512i cut(__m512 *a, __m512 *b)
{
	const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(*b, *a);
	*a = _mm512_sub_ps(*a, widen(_mm512_castsi512_si256(both)));
	*b = _mm512_sub_ps(*b, widen(_mm512_extracti64x4_epi64(both, 1)));
	return both;
}

/* 32 columns of x, n of them there: of eight columns the pairs 0 4, 1 5, 2 6, 3 7. */
TN_INLINE void pair_columns(__m512i part[2], const float *x, size_t n, const unsigned parts)
{
	const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
	__m512 a = _mm512_maskz_loadu_ps(n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xFFFF, x);
	__m512 b = _mm512_maskz_loadu_ps(n < 32 ? (__mmask16)((1u << (n > 16 ? n - 16 : 0)) - 1) : (__mmask16)0xFFFF, x + 16);
	part[0] = _mm512_shuffle_epi8(cut(&a, &b), order);
	if (parts > 1)
		part[1] = _mm512_shuffle_epi8((__m512i)_mm512_cvtne2ps_pbh(b, a), order);
}

/* Columns [at, at + 32) of `count` x: four rows of the tile of each of the unit's four steps. */
TN_INLINE void prepare_columns(unsigned char *dst, const struct tn_product *p, const float *x, size_t x_stride, size_t count,
			       size_t at, const unsigned parts)
{
	const size_t row = at % UNIT / 8;
	__m512i v[2][TILE_X];
	for (size_t t = 0; t < TILE_X; t++) {
		__m512i part[2] = { _mm512_setzero_si512(), _mm512_setzero_si512() };
		if (t < count)
			pair_columns(part, x + t * x_stride + at, p->cols - at < 32 ? p->cols - at : 32, parts);
		v[0][t] = part[0];
		v[1][t] = part[1];
	}
	for (unsigned i = 0; i < parts; i++) {
		turn(v[i]);
		for (size_t r = 0; r < 16; r++)
			_mm512_storeu_si512(dst + (r % 4 * parts + i) * TILE_BYTES + (row + r / 4) * 64, v[i][r]);
	}
}

void TN_ISA_NAME(tn_tiles_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	const size_t begin = v->first / TILE_X, end = (v->first + v->count + TILE_X - 1) / TILE_X;
	if (p->cols % UNIT)
		memset(dst + ((units_of(p) - 1) * x_tiles(p) + begin) * block_bytes(p), 0, (end - begin) * block_bytes(p));
	for (size_t at = 0; at < p->cols; at += 32)
		for (size_t i = begin; i < end; i++) {
			unsigned char *block = dst + (at / UNIT * x_tiles(p) + i) * block_bytes(p);
			const float *first = v->x + i * TILE_X * v->stride;
			const size_t left = v->first + v->count - i * TILE_X;
			if (x_parts(p) == 1)
				prepare_columns(block, p, first, v->stride, left, at, 1);
			else
				prepare_columns(block, p, first, v->stride, left, at, 2);
		}
}

/* ---- rows of W ------------------------------------------------------------------------------------------- */

static void fill_scales(float (*scale)[SCALED], float (*bias)[SCALED], const struct source *s, const struct tn_format *f, size_t g,
			size_t groups)
{
	const enum scale_kind kind = kind_of(f);
	const floats factor = SPREAD(scale_factor(f));
	for (size_t i = 0; i < STRIP; i++) {
		_mm512_storeu_ps(scale[i], MUL(load_scales(row_of(s, i, TN_PART_SCALES), g, groups, kind), factor));
		_mm512_storeu_ps(bias[i], f->codec == TN_CODEC_affine ? load_scales(row_of(s, i, TN_PART_BIASES), g, groups, kind) :
									 ZERO());
	}
}

/* What the 16 codes mean in two groups, high and low parts. */
struct table {
	__m512i high, low;
};

/* As cut(), in whole numbers, where halves are rounded up: half as many instructions that move numbers between lanes. */
TN_INLINE __m512i cut_table(__m512 *a, __m512 *b)
{
	static const uint16_t upper[32] = { 1,	3,  5,	7,  9,	11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
					    33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63 };
	const __m512i half = _mm512_set1_epi32(0x8000), top = _mm512_set1_epi32(-0x10000);
	const __m512i first = _mm512_add_epi32(AS_INTS(*a), half), second = _mm512_add_epi32(AS_INTS(*b), half);
	*a = _mm512_sub_ps(*a, _mm512_castsi512_ps(AND(first, top)));
	*b = _mm512_sub_ps(*b, _mm512_castsi512_ps(AND(second, top)));
	return _mm512_permutex2var_epi16(first, LOAD_INTS(upper), second);
}

TN_INLINE struct table make_table(const float *scale, const float *bias, size_t g, size_t h, __m512 codes)
{
	__m512 a = FMA(codes, SPREAD(scale[g]), SPREAD(bias[g])), b = FMA(codes, SPREAD(scale[h]), SPREAD(bias[h]));
	struct table t;
	t.high = cut_table(&a, &b);
	t.low = (__m512i)_mm512_cvtne2ps_pbh(b, a);
	return t;
}

/* Of tables for two groups each; a group of 16 leaves four, of which each half of the lanes needs two. */
TN_INLINE __m512i look_up(__m512i index, const __m512i *table, const unsigned tables)
{
	if (tables == 1)
		return _mm512_permutexvar_epi16(index, table[0]);
	__m512i found = _mm512_permutex2var_epi16(table[0], index, table[1]);
	if (tables == 4)
		found = _mm512_mask_blend_epi16(0xFFFF0000u, found, _mm512_permutex2var_epi16(table[2], index, table[3]));
	return found;
}

/* Which of the tables' groups a word belongs to, above the bits of a code. */
TN_INLINE __m512i group_of_words(size_t group, unsigned tables)
{
	uint16_t words[WORDS];
	for (size_t i = 0; i < WORDS; i++)
		words[i] = (uint16_t)(group >= UNIT ? 0 : i * 4 / group % (tables == 1 ? 2 : 4) << 4);
	return _mm512_loadu_si512(words);
}

/* UNIT columns of one row, from `at` on: rows of four tiles, in both parts. */
TN_INLINE void unpack_row(unsigned char *to, __m512i v, const float *scale, const float *bias, size_t group, __m512i groups,
			  __m512 codes, const unsigned tables)
{
	__m512i high[4], low[4];
	TN_UNROLL(4)
	for (unsigned i = 0; i < tables; i++) {
		struct table t = make_table(scale, bias, group >= UNIT ? 0 : 2 * i, group >= UNIT ? 0 : 2 * i + 1, codes);
		high[i] = t.high;
		low[i] = t.low;
	}
	const __m512i words[4] = { v, _mm512_srli_epi16(v, 4), _mm512_srli_epi16(v, 8), _mm512_srli_epi16(v, 12) };
	TN_UNROLL(4)
	for (unsigned n = 0; n < 4; n++) {
		const __m512i index = _mm512_ternarylogic_epi32(words[n], _mm512_set1_epi16(15), groups, 0xEA); /* (a & b) | c */
		_mm512_store_si512(to + n * STEP_TILES, look_up(index, high, tables));
		_mm512_store_si512(to + n * STEP_TILES + 2 * TILE_BYTES, look_up(index, low, tables));
	}
}

/* UNIT columns of a strip of a block, from `at` on, into place `to` of the scratch. */
TN_INLINE void unpack_as(struct tiles_scratch *scratch, size_t to, const struct source *s, const struct tn_product *p, size_t strip,
			 size_t at, const unsigned tables)
{
	static const float whole[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
	static const float e2m1[16] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6 };
	const size_t group = p->format->group, g = at / group % SCALED, row_bytes = p->cols / 2;
	const __m512 codes = _mm512_loadu_ps(p->format->codec == TN_CODEC_affine ? whole : e2m1);
	const __m512i groups = group_of_words(group, tables);
	if (at / group % SCALED == 0)
		fill_scales(scratch->scale[strip], scratch->bias[strip], s, p->format, at / group, p->cols / group);
	for (size_t i = 0; i < STRIP; i++) {
		const unsigned char *row = row_of(s, i, TN_PART_WEIGHT);
		_mm_prefetch((const char *)row + at / 2 + CHUNK / 2, _MM_HINT_T1);
		unpack_row(scratch->w[to][0][i / 16] + i % 16 * 64, load_codes(row, at / 2, row_bytes),
			   &scratch->scale[strip][i][g], &scratch->bias[strip][i][g], group, groups, codes, tables);
	}
}

static void unpack(struct tiles_scratch *scratch, size_t to, const struct source *s, const struct tn_product *p, size_t strip,
		   size_t at)
{
	switch (p->format->group) {
	case 16: unpack_as(scratch, to, s, p, strip, at, 4); break;
	case 32: unpack_as(scratch, to, s, p, strip, at, 2); break;
	default: unpack_as(scratch, to, s, p, strip, at, 1); break;
	}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* All of them 16 rows of 64 bytes. */
static void begin(void)
{
	struct {
		uint8_t palette, start, unused[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} config = { .palette = 1 };
	for (int i = 0; i < 8; i++) {
		config.rows[i] = 16;
		config.row_bytes[i] = 64;
	}
	__asm__ volatile("" : : "r"(&config) : "memory"); /* gcc 12 takes only the first bytes of it for read */
	_tile_loadconfig(&config);
}

TN_INLINE void load_tiles(float (*total)[16][TILE_X])
{
	_tile_loadd(0, total[0], 64);
	_tile_loadd(1, total[1], 64);
	_tile_loadd(2, total[2], 64);
	_tile_loadd(3, total[3], 64);
}

TN_INLINE void store_tiles(float (*total)[16][TILE_X])
{
	_tile_stored(0, total[0], 64);
	_tile_stored(1, total[1], 64);
	_tile_stored(2, total[2], 64);
	_tile_stored(3, total[3], 64);
}

/* x that are met when the strips have gone by: `share` bytes of them are asked for with every step. */
struct ahead {
	const unsigned char *x;
	size_t share;
};

TN_INLINE void go_ahead(struct ahead *a)
{
	for (size_t i = 0; i < a->share; i += 64)
		_mm_prefetch((const char *)a->x + i, _MM_HINT_T1);
	a->x += a->share;
}

/* A unit with two tiles of x, whose parts stand at x and y. They are read past the first cache, which what was unpacked and is
 * read again would leave otherwise. */
TN_INLINE void add_two(const unsigned char *w, const unsigned char *x, const unsigned char *y, const size_t parts,
		       struct ahead *ahead)
{
	for (size_t n = 0; n < STEPS; n++, w += STEP_TILES, x += parts * TILE_BYTES, y += parts * TILE_BYTES) {
		_tile_loadd(4, w, 64);
		_tile_loadd(5, w + TILE_BYTES, 64);
		if (parts > 1) {
			_tile_stream_loadd(6, x + TILE_BYTES, 64);
			_tile_dpbf16ps(0, 4, 6);
			_tile_dpbf16ps(1, 5, 6);
			_tile_stream_loadd(7, y + TILE_BYTES, 64);
			_tile_dpbf16ps(2, 4, 7);
			_tile_dpbf16ps(3, 5, 7);
		}
		_tile_stream_loadd(6, x, 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 5, 6);
		_tile_stream_loadd(7, y, 64);
		_tile_dpbf16ps(2, 4, 7);
		_tile_dpbf16ps(3, 5, 7);
		_tile_loadd(4, w + 2 * TILE_BYTES, 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(2, 4, 7);
		_tile_loadd(5, w + 3 * TILE_BYTES, 64);
		_tile_dpbf16ps(1, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
		go_ahead(ahead);
	}
}

/* The same with one; products with low parts have sums of their own, so that none waits for another. */
TN_INLINE void add_one(const unsigned char *w, const unsigned char *x, const size_t parts)
{
	for (size_t n = 0; n < STEPS; n++, w += STEP_TILES, x += parts * TILE_BYTES) {
		_tile_loadd(4, w, 64);
		_tile_loadd(5, w + TILE_BYTES, 64);
		_tile_stream_loadd(6, x, 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_dpbf16ps(1, 5, 6);
		if (parts > 1) {
			_tile_stream_loadd(7, x + TILE_BYTES, 64);
			_tile_dpbf16ps(2, 4, 7);
			_tile_dpbf16ps(3, 5, 7);
		}
		_tile_loadd(4, w + 2 * TILE_BYTES, 64);
		_tile_dpbf16ps(2, 4, 6);
		_tile_loadd(5, w + 3 * TILE_BYTES, 64);
		_tile_dpbf16ps(3, 5, 6);
	}
}

/* A unit of a strip with `count` tiles of x, one or two, added to what is in the tiles. */
static void add_unit(const unsigned char *w, const struct tn_product *p, const unsigned char *x, size_t count, struct ahead *ahead)
{
	if (count > 1 && x_parts(p) > 1)
		add_two(w, x, x + block_bytes(p), 2, ahead);
	else if (count > 1)
		add_two(w, x, x + block_bytes(p), 1, ahead);
	else if (x_parts(p) > 1)
		add_one(w, x, 2);
	else
		add_one(w, x, 1);
}

/* gcc 12 does not know that tiles are read from memory, and written to it. */
static void settle_memory(void)
{
	__asm__ volatile("" : : : "memory");
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

/* Sums of 16 rows with x from `first` on, turned into rows of y; `low` NULL or what belongs to them. */
static void store_turned(float *y, size_t y_stride, float (*total)[16], float (*low)[16], size_t rows, size_t count)
{
	__m512i v[16];
	for (size_t i = 0; i < 16; i++)
		v[i] = AS_INTS(ADD(LOAD_FLOATS(total[i]), low ? LOAD_FLOATS(low[i]) : ZERO()));
	turn(v);
	for (size_t t = 0; t < count && t < TILE_X; t++, y += y_stride)
		_mm512_mask_storeu_epi32(y, rows < 16 ? (__mmask16)((1u << rows) - 1) : (__mmask16)0xFFFF, v[t]);
}

static void store_strip(float *y, size_t y_stride, float (*total)[4][16][TILE_X], size_t rows, size_t x_count)
{
	for (size_t t = 0; t < x_count; t += 2 * TILE_X, total++)
		for (size_t half = 0; half < 2 && half * 16 < rows; half++) {
			float *to = y + t * y_stride + half * 16;
			const int alone = x_count - t <= TILE_X;
			store_turned(to, y_stride, (*total)[half], alone ? (*total)[2 + half] : NULL, rows - half * 16,
				     x_count - t);
			if (!alone)
				store_turned(to + TILE_X * y_stride, y_stride, (*total)[2 + half], NULL, rows - half * 16,
					     x_count - t - TILE_X);
		}
}

/* At most TALL rows with at most TOKENS x, from x number first_x on. */
struct block {
	const struct tn_product *p;
	struct source rows;
	const unsigned char *prepared;
	size_t first_x, x_count, tiles;
};

static struct source strip_of(const struct block *b, size_t s)
{
	return (struct source){ b->rows.w, b->rows.first + s * STRIP, b->rows.rows - s * STRIP };
}

static const unsigned char *x_of(const struct block *b, size_t at)
{
	return b->prepared + (at / UNIT * x_tiles(b->p) + b->first_x / TILE_X) * block_bytes(b->p);
}

/* Two tiles of x at most: the sums of a strip stay in tiles while all columns go by. */
static void multiply_few(const struct block *b, struct tiles_scratch *scratch)
{
	struct ahead nothing = { NULL, 0 };
	for (size_t s = 0; s * STRIP < b->rows.rows; s++) {
		const struct source strip = strip_of(b, s);
		_tile_zero(0);
		_tile_zero(1);
		_tile_zero(2);
		_tile_zero(3);
		for (size_t at = 0; at < b->p->cols; at += UNIT) {
			unpack(scratch, 0, &strip, b->p, s, at);
			settle_memory();
			add_unit(scratch->w[0][0][0], b->p, x_of(b, at), b->tiles, &nothing);
		}
		store_tiles(scratch->total[s][0]);
	}
}

/* Columns outside, so that what is unpacked meets all x at once, and x stay near while the strips go by. */
static void multiply_many(const struct block *b, struct tiles_scratch *scratch)
{
	const struct tn_product *p = b->p;
	const size_t strips = (b->rows.rows + STRIP - 1) / STRIP, bytes = block_bytes(p);
	const size_t share = (bytes * 2 / STEPS / strips + 63) / 64 * 64;
	for (size_t s = 0; s < strips; s++)
		memset(scratch->total[s], 0, (b->tiles + 1) / 2 * sizeof scratch->total[s][0]);
	for (size_t at = 0; at < p->cols; at += UNITS * UNIT)
		for (size_t s = 0; s < strips; s++) {
			const struct source strip = strip_of(b, s);
			size_t units = 0;
			for (; units < UNITS && at + units * UNIT < p->cols; units++)
				unpack(scratch, units, &strip, p, s, at + units * UNIT);
			settle_memory();
			for (size_t i = 0; i < b->tiles; i += 2) {
				load_tiles(scratch->total[s][i / 2]);
				for (size_t u = 0; u < units; u++) {
					struct ahead ahead = { x_of(b, at + (UNITS + u) * UNIT) + i * bytes + s * STEPS * share,
							       share };
					add_unit(scratch->w[u][0][0], p, x_of(b, at + u * UNIT) + i * bytes, b->tiles - i, &ahead);
				}
				store_tiles(scratch->total[s][i / 2]);
			}
		}
}

void TN_ISA_NAME(tn_tiles_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *prepared,
				const struct tn_rows *w, size_t rows, void *scratch)
{
	struct tiles_scratch *room = scratch;
	begin();
	for (size_t i = 0; i < rows; i += TALL)
		for (size_t t = 0; t < p->m; t += TOKENS) {
			const size_t x_count = p->m - t < TOKENS ? p->m - t : TOKENS;
			struct block b = { p,	     { w, i, rows - i < TALL ? rows - i : TALL },
					   prepared, t,
					   x_count,  (x_count + TILE_X - 1) / TILE_X };
			if (b.tiles > 2)
				multiply_many(&b, room);
			else
				multiply_few(&b, room);
			settle_memory();
			for (size_t s = 0; s * STRIP < b.rows.rows; s++)
				store_strip(y + t * y_stride + i + s * STRIP, y_stride, room->total[s], b.rows.rows - s * STRIP,
					    x_count);
		}
	_tile_release();
}

#endif
