/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of checkpoints that other libraries packed, one byte each, and what they mean. Layouts: AutoAWQ 0.2.9
 * (awq/modules/linear), AutoGPTQ 0.7.1 and GPTQModel 7.7.0 (pack), bitsandbytes 0.50 (functional.py), compressed-tensors
 * 0.20 (compressors). */
#include "base/half.h"
#include "kernels/eight_codes.h"
#include "kernels/isa_build.h"
#include "kernels/kernels.h"

/* In which nibble of its word AutoAWQ keeps each of eight neighbours. */
static const unsigned char awq_nibble[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };

static uint32_t word_at(const unsigned char *src, size_t i)
{
	uint32_t word;
	memcpy(&word, src + i * sizeof word, sizeof word);
	return word;
}

/* ---- packed along the row -------------------------------------------------------------------------------- */

/* A dense little-endian bit stream. Reads no byte behind the one that holds the last bit. */
static void unpack_stream(uint8_t *dst, const unsigned char *src, size_t n, unsigned bits)
{
	unsigned mask = (1u << bits) - 1;
	if (bits == 8) {
		memcpy(dst, src, n);
		return;
	}
	size_t i = 0;
	for (; i + 8 <= n && i * bits + 64 <= n * bits; i += 8) { /* of 8 bytes, those of 8 codes */
		uint64_t word;
		memcpy(&word, src + i / 8 * bits, sizeof word);
		word = spread_codes(word, bits);
		memcpy(dst + i, &word, sizeof word);
	}
	for (; i < n; i++) {
		size_t bit = i * bits;
		unsigned byte = src[bit / 8], shift = (unsigned)(bit % 8);
		if (shift + bits > 8)
			byte |= (unsigned)src[bit / 8 + 1] << 8;
		dst[i] = (uint8_t)(byte >> shift & mask);
	}
}

static void unpack_words(uint8_t *dst, const unsigned char *src, size_t n, unsigned bits)
{
	unsigned per = 32 / bits, mask = (1u << bits) - 1;
	for (size_t i = 0; i < n; i++)
		dst[i] = (uint8_t)(word_at(src, i / per) >> bits * (unsigned)(i % per) & mask);
}

/* From nibble `skip` on, the high half of a byte first. */
static void unpack_high_first(uint8_t *dst, const unsigned char *src, size_t skip, size_t n)
{
	size_t begin = skip % 2 && n ? 1 : 0, pairs = (n - begin) / 2;
	const unsigned char *from = src + (skip + begin) / 2;
	if (begin)
		dst[0] = src[skip / 2] & 15u;
	dst += begin;
	for (size_t i = 0; i < pairs; i++) {
		dst[2 * i] = from[i] >> 4;
		dst[2 * i + 1] = from[i] & 15u;
	}
	if ((n - begin) % 2)
		dst[2 * pairs] = from[pairs] >> 4;
}

/* ---- packed along the column ----------------------------------------------------------------------------- */

/* Code t of a stream in up to 8 words. */
static unsigned stream_code(const uint32_t *words, unsigned t, unsigned bits)
{
	unsigned bit = t * bits, at = bit / 32, shift = bit % 32;
	uint64_t pair = words[at] | (uint64_t)words[at + 1] << 32;
	return (unsigned)(pair >> shift) & ((1u << bits) - 1);
}

/* Code t of 32 in planes of 4, 2 and 1 bits, low plane first: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. */
static unsigned plane_code(const uint32_t *words, unsigned t, unsigned bits)
{
	unsigned code = 0, done = 0;
	for (unsigned width = 4; width; width /= 2) {
		if (!(bits & width))
			continue;
		code |= (words[done + t * width / 32] >> t * width % 32 & ((1u << width) - 1)) << done;
		done += width;
	}
	return code;
}

/* Stored rows are words down the input dimension, blocks of 32 codes in `bits` of them; a block may end early. */
static void unpack_columns(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols)
{
	unsigned bits = src->bits;
	size_t stored = cols * bits / 32;
	for (size_t block = 0; block * 32 < cols; block++) {
		size_t left = stored - block * bits, words = left < bits ? left : bits;
		for (size_t n = 0; n < rows; n++) {
			uint32_t w[9] = { 0 };
			uint8_t *out = dst + n * cols + block * 32;
			for (size_t i = 0; i < words; i++)
				w[i] = word_at(src->bytes + (block * bits + i) * src->stride, skip + n);
			for (unsigned t = 0; t < words * 32 / bits; t++)
				out[t] = (uint8_t)(src->packing == TN_PACK_PLANES ? plane_code(w, t, bits)
										  : stream_code(w, t, bits));
		}
	}
}

/* Stored row k has the codes of all outputs at input k, eight to a word: each word is read once for the outputs in it. */
static void unpack_awq(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols)
{
	for (size_t n = 0, count; n < rows; n += count) {
		size_t in_word = (skip + n) % 8;
		const unsigned char *word = src->bytes + (skip + n) / 8 * 4;
		uint8_t *out = dst + n * cols;
		count = 8 - in_word < rows - n ? 8 - in_word : rows - n;
		for (size_t k = 0; k < cols; k++) {
			uint32_t codes = word_at(word + k * src->stride, 0);
			for (size_t i = 0; i < count; i++)
				out[i * cols + k] = (uint8_t)(codes >> 4 * awq_nibble[in_word + i] & 15u);
		}
	}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* gemv_fast: stored row is four outputs; 64 inputs of one output are 16 half words, interleaved for 128-bit loads. */
static void unpack_awq_fast(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols)
{
	for (size_t i = 0; i < rows; i++) {
		size_t n = skip + i;
		const unsigned char *group = src->bytes + n / 4 * src->stride;
		for (size_t k = 0; k < cols; k++) {
			size_t a = k % 32 / 8, b = k % 8 / 2, c = k % 2, j = 32 * (k % 64 / 32) + 8 * b + 4 * c + a;
			uint16_t half;
			memcpy(&half, group + 2 * (k / 64 * 64 + n % 4 * 16 + j / 4), sizeof half);
			dst[i * cols + k] = (uint8_t)(half >> 4 * (j % 4) & 15);
		}
	}
}

/* marlin: tiles of 16 x 16 in the order in which tensor cores take them, four tiles of outputs side by side. */
static void unpack_marlin(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols)
{
	for (size_t x = 0; x < rows; x++) {
		size_t n = skip + x, c = n % 16, tile = n / 16;
		for (size_t k = 0; k < cols; k++) {
			size_t r = k % 16, i = c % 8 * 4 + r % 8 / 2, e = 4 * (c / 8) + 2 * (r / 8) + r % 2;
			uint32_t word = word_at(src->bytes + k / 16 * src->stride, tile / 4 * 128 + i * 4 + tile % 4);
			dst[x * cols + k] = (uint8_t)(word >> 4 * awq_nibble[e] & 15u);
		}
	}
}

/* ---- the kernels ----------------------------------------------------------------------------------------- */

void TN_ISA_NAME(tn_unpack_codes)(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols);
void TN_ISA_NAME(tn_unpack_codes)(uint8_t *dst, const struct tn_packed *src, size_t skip, size_t rows, size_t cols)
{
	switch (src->packing) {
	case TN_PACK_STREAM:
	case TN_PACK_WORDS:
		for (size_t n = 0; n < rows; n++) {
			const unsigned char *row = src->bytes + (skip + n) * src->stride;
			if (src->packing == TN_PACK_STREAM)
				unpack_stream(dst + n * cols, row, cols, src->bits);
			else
				unpack_words(dst + n * cols, row, cols, src->bits);
		}
		break;
	case TN_PACK_HIGH_FIRST: unpack_high_first(dst, src->bytes, skip, rows * cols); break;
	case TN_PACK_COLUMNS:
	case TN_PACK_PLANES: unpack_columns(dst, src, skip, rows, cols); break;
	case TN_PACK_AWQ: unpack_awq(dst, src, skip, rows, cols); break;
	case TN_PACK_AWQ_FAST: unpack_awq_fast(dst, src, skip, rows, cols); break;
	case TN_PACK_MARLIN: unpack_marlin(dst, src, skip, rows, cols); break;
	}
}

/* Values that share a scale. */
static void decode_run(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid, size_t g)
{
	float scale = grid->scales[g], zero = grid->zeros ? grid->zeros[g] : 0;
	float first = grid->table[0];
	if (grid->add_zeros) {
		for (size_t i = 0; i < n; i++)
			dst[i] = grid->table[codes[i]] * scale + zero;
	} else if (grid->is_even) {
		for (size_t i = 0; i < n; i++)
			dst[i] = (first + (float)codes[i] - zero) * scale;
	} else {
		for (size_t i = 0; i < n; i++)
			dst[i] = (grid->table[codes[i]] - zero) * scale;
	}
	for (size_t i = 0; i < n && grid->factor != 1.0f; i++)
		dst[i] *= grid->factor;
}

void TN_ISA_NAME(tn_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid);
void TN_ISA_NAME(tn_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid)
{
	for (size_t i = 0, end; i < n; i = end) {
		size_t g = grid->group_of ? grid->group_of[i] : (grid->offset + i) / grid->group;
		size_t next = grid->group_of ? i + 1 : (g + 1) * grid->group - grid->offset;
		end = next < n ? next : n;
		decode_run(dst + i, codes + i, end - i, grid, g);
	}
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_dense);

void TN_ISA_NAME(tn_nibble_values)(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
				   const struct tn_grid *grid);
void TN_ISA_NAME(tn_nibble_values)(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
				   const struct tn_grid *grid)
{
	enum { CHUNK = 256 };
	const struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	const size_t size = dtype == TN_F32 ? sizeof(float) : sizeof(uint16_t);
	struct tn_grid rest = *grid;
	uint8_t codes[CHUNK];
	float values[CHUNK];
	for (size_t i = 0; i < n; i += CHUNK) {
		size_t count = n - i < CHUNK ? n - i : CHUNK;
		struct tn_row_out out = { { (unsigned char *)dst + i * size } };
		rest.offset = grid->offset + i;
		unpack_high_first(codes, nibbles, skip + i, count);
		TN_ISA_NAME(tn_grid_f32)(values, codes, count, &rest);
		TN_ISA_NAME(tn_codec_dense).encode(&out, values, &format, count);
	}
}
