/* SPDX-License-Identifier: Apache-2.0 */
/* Rows between formats: direct where there is a way (lanes.h), else by way of float32. */
#include "kernels/by_values.h"
#include "kernels/x86/lanes.h"

/* Results that go past the caches do so in whole lines. */
static int is_far(const struct tn_rows_out *dst, const struct tn_recoding *how)
{
	return how->is_far && (uintptr_t)dst->first.part[TN_PART_WEIGHT] % 64 == 0 && dst->stride[TN_PART_WEIGHT] % 64 == 0;
}

/* On Intel's CPUs reading waits behind what is written past the caches, the more so the more bytes codes are. There, while a row is
 * decoded in pieces, as many lines of the next rows are asked for with each, of READ_ROWS rows in turn: that many streams are
 * faster than one, however far ahead. AVX-512 without fast pairs (isa_build.h) is those CPUs; on others this takes time. */
#if defined(__AVX512BW__) && !defined(TN_FAST_PAIRS)
enum { READS_AHEAD = 1 };
#else
enum { READS_AHEAD = 0 };
#endif
enum { READ_ROWS = 4, PIECE = 1024, PIECE_LINES = PIECE / 64 / READ_ROWS };

static void ask_for(const struct tn_rows *src, size_t first, const struct tn_recoding *how, size_t line)
{
	for (size_t i = first; i < first + READ_ROWS && i < how->rows; i++)
		for (size_t at = line * 64; at < (line + PIECE_LINES) * 64 && at < how->cols; at += 64)
			_mm_prefetch((const char *)row_of(src, i).part[TN_PART_WEIGHT] + at, _MM_HINT_T0);
}

/* A row of codes of 8 bits. */
static void decode_reading_ahead(unsigned char *dst, const struct tn_rows *src, size_t row, const struct tn_recoding *how)
{
	const struct tn_codec *codec = TN_ISA_NAME(tn_x86_codec)(how->from->codec);
	const size_t pieces = (how->cols + PIECE - 1) / PIECE, next = (row / READ_ROWS + 1) * READ_ROWS;
	struct tn_recoding piece = *how;
	struct tn_row in = row_of(src, row);
	for (size_t p = 0; p < pieces; p++) {
		piece.cols = how->cols - p * PIECE < PIECE ? how->cols - p * PIECE : PIECE;
		ask_for(src, next, how, (row % READ_ROWS * pieces + p) * PIECE_LINES);
		TN_ISA_NAME(tn_x86_decode_halves)(dst + p * PIECE * 2, &in, &piece, 1);
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			if (in.part[part])
				in.part[part] = (const char *)in.part[part] + codec->part_bytes(how->from, part, PIECE);
	}
}

void TN_ISA_NAME(tn_x86_recode_rows)(const struct tn_rows_out *dst, const struct tn_rows *src, const struct tn_recoding *how)
{
	int decodes = TN_ISA_NAME(tn_x86_decodes_halves)(how->from, how->to);
	if (!decodes && !TN_ISA_NAME(tn_x86_encodes_halves)(how->from, how->to)) {
		recode_by_values(dst, src, how, TN_ISA_NAME(tn_x86_codec)(how->from->codec),
				 TN_ISA_NAME(tn_x86_codec)(how->to->codec));
		return;
	}
	int far = is_far(dst, how);
	for (size_t i = 0; i < how->rows; i++) {
		struct tn_row in = row_of(src, i);
		struct tn_row_out out = row_out_of(dst, i);
		if (READS_AHEAD && decodes && far && how->from->bits == 8)
			decode_reading_ahead(out.part[TN_PART_WEIGHT], src, i, how);
		else if (decodes)
			TN_ISA_NAME(tn_x86_decode_halves)(out.part[TN_PART_WEIGHT], &in, how, far);
		else
			TN_ISA_NAME(tn_x86_encode_halves)(&out, in.part[TN_PART_WEIGHT], how);
	}
	if (decodes && far)
		_mm_sfence(); /* what went past the caches is seen by other threads before what this one says next */
}
