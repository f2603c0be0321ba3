/* What the products of strips share (strips.c): the shapes, and where everything lies. */
#ifndef TN_STRIPS_H
#define TN_STRIPS_H

#include "kernels/x86/codes4.h"

/* Rows of a strip, columns that are unpacked at once, x that meet them before the next are, and strips that share those x. */
enum { STRIP = 2 * LANES, CHUNK = 256, TOKENS = 256, BLOCK = 128, STRIPS = BLOCK / STRIP, SCALED = 16 };

struct strip_scratch {
	unsigned char codes[STRIP * CHUNK * 2];       /* the widest form: pairs of BF16 */
	float scale[STRIPS][SCALED][STRIP];           /* of SCALED groups from a chunk's first on, at most */
	float bias[STRIPS][SCALED][STRIP];
	float total[][STRIP];                         /* [strip][x] */
};

/* A chunk of a strip and the x that it meets: `count` groups of `dwords` each. */
struct strip_chunk {
	const struct tn_product *p;
	const unsigned char *prepared;
	const unsigned char *codes;
	const float (*scale)[STRIP], (*bias)[STRIP];  /* bias NULL: none */
	size_t chunk, first_group, count, dwords;
	size_t first_x;                               /* of the first total */
	float (*total)[STRIP];
};

/* How codes and x are multiplied. */
struct strip_form {
	size_t fewest;                                /* x for which it is worth while */
	int codes_are_floats;                         /* E2M1 codes as they are: without a bias */
	size_t (*bytes)(const struct tn_product *p);
	void (*prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v);
	/* Eight codes of LANES rows each, from `dword` of the chunk on, into one half of the strip. */
	void (*unpack)(unsigned char *codes, const ints *turned, size_t dword, size_t half, const struct tn_format *f);
	void (*multiply)(const struct strip_chunk *c, size_t x_count);
};

#if defined(TN_FAST_PAIRS)
extern const struct strip_form TN_ISA_NAME(tn_strips_of_pairs);
extern const struct strip_form TN_ISA_NAME(tn_strips_crossed);
#endif

TN_INLINE size_t chunks_of(const struct tn_product *p)
{
	return (p->cols + CHUNK - 1) / CHUNK;
}

/* What is prepared of the next x, asked for while these are multiplied: from further away they come too late. */
TN_INLINE void ask_for(const void *x, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 64)
		_mm_prefetch((const char *)x + i, _MM_HINT_T0);
}

/* ---- rows become lanes ----------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
#define LOW_32(a, b) _mm512_unpacklo_epi32(a, b)
#define HIGH_32(a, b) _mm512_unpackhi_epi32(a, b)
#define LOW_64(a, b) _mm512_unpacklo_epi64(a, b)
#define HIGH_64(a, b) _mm512_unpackhi_epi64(a, b)
#define AS_INTS(v) _mm512_castps_si512(v)
#define STORE_INTS(p, v) _mm512_storeu_si512(p, v)
#define STORE_FLOATS(p, v) _mm512_storeu_ps(p, v)
#else
#define LOW_32(a, b) _mm256_unpacklo_epi32(a, b)
#define HIGH_32(a, b) _mm256_unpackhi_epi32(a, b)
#define LOW_64(a, b) _mm256_unpacklo_epi64(a, b)
#define HIGH_64(a, b) _mm256_unpackhi_epi64(a, b)
#define AS_INTS(v) _mm256_castps_si256(v)
#define STORE_INTS(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define STORE_FLOATS(p, v) _mm256_storeu_ps(p, v)
#endif

/* v[i] gets lane i of every v: first among neighbours of four, within 128 bits, then between these. */
TN_INLINE void turn(ints v[LANES])
{
	ints a[LANES], b[LANES];
	TN_UNROLL(8)
	for (int i = 0; i < LANES; i += 2) {
		a[i] = LOW_32(v[i], v[i + 1]);
		a[i + 1] = HIGH_32(v[i], v[i + 1]);
	}
	TN_UNROLL(4)
	for (int i = 0; i < LANES; i += 4) {
		b[i] = LOW_64(a[i], a[i + 2]);
		b[i + 1] = HIGH_64(a[i], a[i + 2]);
		b[i + 2] = LOW_64(a[i + 1], a[i + 3]);
		b[i + 3] = HIGH_64(a[i + 1], a[i + 3]);
	}
	TN_UNROLL(4)
	for (int i = 0; i < 4; i++) {
#if defined(__AVX512F__)
		ints low = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x44), high = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xEE);
		ints low2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x44),
		     high2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xEE);
		v[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
		v[i + 4] = _mm512_shuffle_i32x4(low, low2, 0xDD);
		v[i + 8] = _mm512_shuffle_i32x4(high, high2, 0x88);
		v[i + 12] = _mm512_shuffle_i32x4(high, high2, 0xDD);
#else
		v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
		v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
#endif
	}
}

/* ---- where codes come from -------------------------------------------------------------------------------- */

/* Rows of W from row `first` on, `rows` of them; those behind the last stand for it again. */
struct source {
	const struct tn_rows *w;
	size_t first, rows;
};

TN_INLINE const unsigned char *row_of(const struct source *s, size_t i, unsigned part)
{
	return (const unsigned char *)s->w->first.part[part] + (s->first + (i < s->rows ? i : s->rows - 1)) * s->w->stride[part];
}

/* Bytes [at, at + STEP_BYTES) of a row that may end before, zeros behind its end. */
TN_INLINE ints load_codes(const unsigned char *row, size_t at, size_t row_bytes)
{
	unsigned char padded[STEP_BYTES];
	if (at + STEP_BYTES <= row_bytes)
		return LOAD_INTS(row + at);
	memset(padded, 0, sizeof padded);
	memcpy(padded, row + at, row_bytes - at);
	return LOAD_INTS(padded);
}

/* ---- how x are dealt out ---------------------------------------------------------------------------------- */

/* The chunk with x from number t0 on, `many` of them, which is a constant where it is called. */
typedef void (*strip_tile)(const struct strip_chunk *c, size_t t0, const int many);

/* All x, up to six at once, in tiles that differ by one at most. */
TN_INLINE void multiply_by_six(const struct strip_chunk *c, size_t x_count, strip_tile tile)
{
	for (size_t t = 0, left = (x_count + 5) / 6, many; t < x_count; t += many, left--) {
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
