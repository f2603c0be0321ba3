/* What the products of strips share (strips.c): the shapes, and where everything lies. */
#ifndef TN_STRIPS_H
#define TN_STRIPS_H

#include "kernels/x86/codes4.h"

/* Rows of a strip, columns that are unpacked at once, x that meet them before the next are, and strips that share those x. */
enum { STRIP = 2 * LANES, CHUNK = 256, TOKENS = 64, BLOCK = 128, STRIPS = BLOCK / STRIP, SCALED = 16 };
/* Eight codes of one row. */
enum { DWORDS = CHUNK / 8 };

struct strip_scratch {
	unsigned char codes[STRIP * CHUNK * 2];       /* the widest form: pairs of BF16 */
	float scale[STRIPS][SCALED][STRIP];           /* of SCALED groups from a chunk's first on, at most */
	float bias[STRIPS][SCALED][STRIP];
	float total[STRIPS][TOKENS][STRIP];
	float tile[4][16][16];                        /* what comes out of AMX */
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
	float (*tile)[16][16];
};

/* How codes and x are multiplied. */
struct strip_form {
	int codes_are_floats;                         /* E2M1 codes as they are: without a bias */
	size_t (*bytes)(const struct tn_product *p);
	void (*prepare)(unsigned char *dst, const struct tn_product *p, const float *x, size_t x_stride);
	/* Eight codes of LANES rows each, from `dword` of the chunk on, into one half of the strip. */
	void (*unpack)(unsigned char *codes, const ints *turned, size_t dword, size_t half, int is_float);
	void (*begin)(const struct tn_product *p);    /* before a thread multiplies, and behind it */
	void (*multiply)(const struct strip_chunk *c, size_t x_count);
	void (*end)(void);
};

#if defined(__AVX512BF16__)
extern const struct strip_form TN_ISA_NAME(tn_strips_of_pairs);
#endif

#endif
