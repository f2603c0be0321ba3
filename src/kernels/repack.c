/* SPDX-License-Identifier: Apache-2.0 */
/* The way back of unpack.c: codes of one byte each to where they were taken from. Only their own bits are written, so what
 * stands between and behind them stays. Not in any inner loop of weight: plain loops. */
#include "kernels/isa_build.h"
#include "kernels/kernels.h"

#include <string.h>

/* In which nibble of its word AutoAWQ keeps each of eight neighbours. */
static const unsigned char awq_nibble[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

/* `width` bits at bit `shift` of word i. */
static void put_bits(unsigned char *bytes, size_t i, unsigned shift, unsigned width, unsigned code)
{
	uint32_t word, mask = ((1u << width) - 1) << shift;
	memcpy(&word, bytes + i * sizeof word, sizeof word);
	word = (word & ~mask) | (code << shift & mask);
	memcpy(bytes + i * sizeof word, &word, sizeof word);
}

/* ---- packed along the row -------------------------------------------------------------------------------- */

static void put_in_byte(unsigned char *byte, unsigned shift, unsigned mask, unsigned code)
{
	*byte = (unsigned char)((*byte & ~(mask << shift)) | (code << shift & mask << shift));
}

static void repack_stream(unsigned char *dst, const uint8_t *codes, size_t n, unsigned bits)
{
	unsigned mask = (1u << bits) - 1;
	for (size_t i = 0; i < n; i++) {
		size_t bit = i * bits;
		unsigned shift = (unsigned)(bit % 8), low = 8 - shift;
		put_in_byte(dst + bit / 8, shift, mask & 0xFFu >> shift, codes[i]);
		if (bits > low)
			put_in_byte(dst + bit / 8 + 1, 0, mask >> low, (unsigned)codes[i] >> low);
	}
}

static void repack_words(unsigned char *dst, const uint8_t *codes, size_t n, unsigned bits)
{
	unsigned per = 32 / bits;
	for (size_t i = 0; i < n; i++)
		put_bits(dst, i / per, bits * (unsigned)(i % per), bits, codes[i]);
}

static void repack_high_first(unsigned char *dst, const uint8_t *codes, size_t skip, size_t n)
{
	for (size_t i = 0; i < n; i++)
		put_in_byte(dst + (skip + i) / 2, (skip + i) % 2 ? 0 : 4, 15u, codes[i]);
}

/* ---- packed along the column ----------------------------------------------------------------------------- */

/* Words down the input dimension: word i of column n stands at row i. */
struct column {
	unsigned char *bytes;
	size_t stride, n;
};

static void put_in_column(const struct column *c, size_t word, unsigned shift, unsigned width, unsigned code)
{
	put_bits(c->bytes + word * c->stride, c->n, shift, width, code);
}

static void put_stream_code(const struct column *c, size_t first, unsigned t, unsigned bits, unsigned code)
{
	unsigned bit = t * bits, shift = bit % 32, low = 32 - shift < bits ? 32 - shift : bits;
	put_in_column(c, first + bit / 32, shift, low, code);
	if (low < bits)
		put_in_column(c, first + bit / 32 + 1, 0, bits - low, code >> low);
}

static void put_plane_code(const struct column *c, size_t first, unsigned t, unsigned bits, unsigned code)
{
	unsigned done = 0;
	for (unsigned width = 4; width; width /= 2) {
		if (!(bits & width))
			continue;
		put_in_column(c, first + done + t * width / 32, t * width % 32, width, code >> done);
		done += width;
	}
}

static void repack_columns(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip, size_t rows,
			   size_t cols)
{
	unsigned bits = how->bits;
	for (size_t k = 0; k < cols; k++)
		for (size_t n = 0; n < rows; n++) {
			struct column c = { bytes, how->stride, skip + n };
			size_t first = k / 32 * bits;
			if (how->packing == TN_PACK_PLANES)
				put_plane_code(&c, first, (unsigned)(k % 32), bits, codes[n * cols + k]);
			else
				put_stream_code(&c, first, (unsigned)(k % 32), bits, codes[n * cols + k]);
		}
}

static void repack_awq(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip, size_t rows,
		       size_t cols)
{
	for (size_t k = 0; k < cols; k++)
		for (size_t n = skip; n < skip + rows; n++)
			put_bits(bytes + k * how->stride, n / 8, 4u * awq_nibble[n % 8], 4, codes[(n - skip) * cols + k]);
}

/* ---- tiles: the places of unpack.c ------------------------------------------------------------------------ */

static void repack_awq_fast(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip, size_t rows,
			    size_t cols)
{
	for (size_t i = 0; i < rows; i++) {
		size_t n = skip + i;
		for (size_t k = 0; k < cols; k++) {
			size_t a = k % 32 / 8, b = k % 8 / 2, c = k % 2, j = 32 * (k % 64 / 32) + 8 * b + 4 * c + a;
			size_t at = n / 4 * how->stride + 2 * (k / 64 * 64 + n % 4 * 16 + j / 4);
			put_in_byte(bytes + at + j % 4 / 2, 4u * (unsigned)(j % 2), 15u, codes[i * cols + k]);
		}
	}
}

static void repack_marlin(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip, size_t rows,
			  size_t cols)
{
	for (size_t x = 0; x < rows; x++) {
		size_t n = skip + x, c = n % 16, tile = n / 16;
		for (size_t k = 0; k < cols; k++) {
			size_t r = k % 16, i = c % 8 * 4 + r % 8 / 2, e = 4 * (c / 8) + 2 * (r / 8) + r % 2;
			put_bits(bytes + k / 16 * how->stride, tile / 4 * 128 + i * 4 + tile % 4, 4u * awq_nibble[e], 4,
				 codes[x * cols + k]);
		}
	}
}

/* ---- the kernel ------------------------------------------------------------------------------------------ */

void TN_ISA_NAME(tn_repack_codes)(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip,
				  size_t rows, size_t cols);
void TN_ISA_NAME(tn_repack_codes)(unsigned char *bytes, const struct tn_packed *how, const uint8_t *codes, size_t skip,
				  size_t rows, size_t cols)
{
	switch (how->packing) {
	case TN_PACK_STREAM:
	case TN_PACK_WORDS:
		for (size_t n = 0; n < rows; n++) {
			unsigned char *row = bytes + (skip + n) * how->stride;
			if (how->packing == TN_PACK_STREAM)
				repack_stream(row, codes + n * cols, cols, how->bits);
			else
				repack_words(row, codes + n * cols, cols, how->bits);
		}
		break;
	case TN_PACK_HIGH_FIRST: repack_high_first(bytes, codes, skip, rows * cols); break;
	case TN_PACK_COLUMNS:
	case TN_PACK_PLANES: repack_columns(bytes, how, codes, skip, rows, cols); break;
	case TN_PACK_AWQ: repack_awq(bytes, how, codes, skip, rows, cols); break;
	case TN_PACK_AWQ_FAST: repack_awq_fast(bytes, how, codes, skip, rows, cols); break;
	case TN_PACK_MARLIN: repack_marlin(bytes, how, codes, skip, rows, cols); break;
	}
}
