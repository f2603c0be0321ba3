/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/pretokenizer.h"

#include "base/error.h"
#include "tokenizer/chars.h"

#include <string.h>

/* Every step reads the pieces of `from` and adds its own to `to`, with their text. */
struct step_io {
	struct tn_work *work;
	const struct tn_pieces *from;
	struct tn_pieces *to;
};

static const char *piece_text(const struct tn_pieces *pieces, const struct tn_piece *piece)
{
	return pieces->text.data + piece->begin;
}

/* Adds a piece to `to` with the text as it is. */
static tn_status copy_piece(struct step_io *io, const struct tn_piece *piece, struct tn_piece *out, struct tn_error *err)
{
	size_t begin = io->to->text.length, n = piece->end - piece->begin;
	if (n)
		TN_TRY(tn_text_add(&io->to->text, piece_text(io->from, piece), n, err));
	*out = (struct tn_piece){ begin, begin + n, piece->leading, piece->at_start };
	return TN_OK;
}

/* Adds the parts of `piece`, whose text stands in `to` already, that the spans keep. */
static tn_status add_parts(struct step_io *io, const struct tn_piece *piece, struct tn_error *err)
{
	for (size_t i = 0; i < io->work->span_count; i++) {
		const struct tn_span *span = &io->work->spans[i];
		if (!span->is_match)
			TN_TRY(tn_pieces_add(io->to, tn_piece_part(piece, piece->begin + span->begin, piece->begin + span->end),
					     err));
	}
	return TN_OK;
}

/* ---- cutting by patterns and classes --------------------------------------------------------------------- */

static tn_status split_pattern(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
			       struct tn_error *err)
{
	struct tn_piece copy;
	size_t n = piece->end - piece->begin;
	TN_TRY(tn_pattern_find(&step->pattern, piece_text(io->from, piece), n, &io->work->matches, err));
	TN_TRY(tn_cut_matches(io->work, n, step->cut, step->invert, err));
	TN_TRY(copy_piece(io, piece, &copy, err));
	return add_parts(io, &copy, err);
}

static tn_status split_characters(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
				  struct tn_error *err)
{
	struct tn_piece copy;
	const char *text = piece_text(io->from, piece);
	size_t n = piece->end - piece->begin, bytes;
	io->work->matches.count = 0;
	for (size_t at = 0; at < n; at += bytes) {
		int32_t c = tn_char_at(text + at, &bytes);
		if (step->is_delimiter ? step->is_delimiter(c) : c == step->delimiter)
			TN_TRY(tn_ranges_add(&io->work->matches, at, at + bytes, err));
	}
	TN_TRY(tn_cut_matches(io->work, n, step->cut, 0, err));
	TN_TRY(copy_piece(io, piece, &copy, err));
	return add_parts(io, &copy, err);
}

static int word_class(int32_t c)
{
	return tn_char_is_space(c) ? 0 : tn_char_is_word(c) ? 1 : 2;
}

/* Runs of word characters and runs of other ones; white space is thrown away. */
static tn_status split_whitespace(struct step_io *io, const struct tn_piece *piece, struct tn_error *err)
{
	struct tn_piece copy;
	TN_TRY(copy_piece(io, piece, &copy, err));
	size_t begin = copy.begin, bytes;
	int before = 0;
	for (size_t at = copy.begin; at < copy.end; at += bytes) {
		int now = word_class(tn_char_at(io->to->text.data + at, &bytes));
		if (now == before)
			continue;
		if (before)
			TN_TRY(tn_pieces_add(io->to, tn_piece_part(&copy, begin, at), err));
		begin = at;
		before = now;
	}
	return before ? tn_pieces_add(io->to, tn_piece_part(&copy, begin, copy.end), err) : TN_OK;
}

static tn_status split_lengths(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
			       struct tn_error *err)
{
	struct tn_piece copy;
	TN_TRY(copy_piece(io, piece, &copy, err));
	for (size_t at = copy.begin; at < copy.end;) {
		size_t begin = at;
		for (uint32_t i = 0; i < step->length && at < copy.end; i++)
			at += tn_char_bytes(io->to->text.data + at);
		TN_TRY(tn_pieces_add(io->to, tn_piece_part(&copy, begin, at), err));
	}
	return TN_OK;
}

/* ---- Metaspace ------------------------------------------------------------------------------------------- */

static int begins_with(const struct tn_pre_step *step, const char *text, size_t n)
{
	return n >= step->replacement_bytes && memcmp(text, step->replacement, step->replacement_bytes) == 0;
}

static tn_status put_metaspaces(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
				struct tn_piece *out, struct tn_error *err)
{
	const char *text = piece_text(io->from, piece);
	size_t n = piece->end - piece->begin, begin = io->to->text.length;
	int marked = n > 0 && (text[0] == ' ' || begins_with(step, text, n));
	int prepend = step->prepend == TN_PREPEND_ALWAYS || (step->prepend == TN_PREPEND_FIRST && piece->at_start);
	*out = (struct tn_piece){ begin, begin, 0, piece->at_start };
	if (n && !marked && prepend)
		TN_TRY(tn_text_add(&io->to->text, step->replacement, step->replacement_bytes, err));
	for (size_t i = 0; i < n; i++) {
		if (text[i] == ' ')
			TN_TRY(tn_text_add(&io->to->text, step->replacement, step->replacement_bytes, err));
		else
			TN_TRY(tn_text_add(&io->to->text, text + i, 1, err));
		if (i + 1 == piece->leading)
			out->leading = io->to->text.length - begin;
	}
	out->end = io->to->text.length;
	return TN_OK;
}

static tn_status split_metaspace(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
				 struct tn_error *err)
{
	struct tn_piece whole;
	struct tn_pattern pattern = { .literal = step->replacement, .bytes = step->replacement_bytes };
	TN_TRY(put_metaspaces(io, step, piece, &whole, err));
	size_t n = whole.end - whole.begin;
	if (!step->split || n == 0)
		return tn_pieces_add(io->to, whole, err);
	TN_TRY(tn_pattern_find(&pattern, io->to->text.data + whole.begin, n, &io->work->matches, err));
	TN_TRY(tn_cut_matches(io->work, n, TN_CUT_MERGED_WITH_NEXT, 0, err));
	return add_parts(io, &whole, err);
}

/* ---- ByteLevel ------------------------------------------------------------------------------------------- */

/* The bytes of `part`, in the alphabet of bytes. `prefix`: a space before them that is in no text. */
static tn_status add_bytes(struct step_io *io, const struct tn_piece *part, int prefix, struct tn_error *err)
{
	struct tn_text *text = &io->to->text;
	struct tn_piece piece = { text->length, text->length, 0, part->at_start };
	if (prefix)
		TN_TRY(tn_text_add_char(text, tn_byte_char(' '), err));
	for (size_t i = part->begin; i < part->end; i++) {
		TN_TRY(tn_text_add_char(text, tn_byte_char((unsigned char)io->from->text.data[i]), err));
		if (i + 1 - part->begin == part->leading)
			piece.leading = text->length - piece.begin;
	}
	piece.end = text->length;
	return tn_pieces_add(io->to, piece, err);
}

/* With a prefix space the matches are looked for in a text that has it. */
static tn_status find_words(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece, int prefix,
			    struct tn_error *err)
{
	struct tn_text *word = &io->work->word;
	size_t n = piece->end - piece->begin;
	const char *text = piece_text(io->from, piece);
	if (prefix) {
		word->length = 0;
		TN_TRY(tn_text_add(word, " ", 1, err));
		TN_TRY(tn_text_add(word, text, n, err));
		text = word->data;
		n++;
	}
	TN_TRY(tn_pattern_find(&step->pattern, text, n, &io->work->matches, err));
	return tn_cut_matches(io->work, n, TN_CUT_ISOLATED, 0, err);
}

static tn_status split_bytes(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
			     struct tn_error *err)
{
	int prefix = step->add_prefix_space && io->from->text.data[piece->begin] != ' ';
	if (!step->use_regex)
		return add_bytes(io, piece, prefix, err);
	TN_TRY(find_words(io, step, piece, prefix, err));
	size_t shift = (size_t)prefix;
	for (size_t i = 0; i < io->work->span_count; i++) {
		const struct tn_span *span = &io->work->spans[i];
		int first = prefix && span->begin == 0;
		size_t begin = piece->begin + (first ? 0 : span->begin - shift), end = piece->begin + span->end - shift;
		struct tn_piece part = tn_piece_part(piece, begin, end);
		TN_TRY(add_bytes(io, &part, first, err));
	}
	return TN_OK;
}

/* ---- all steps ------------------------------------------------------------------------------------------- */

static tn_status run_piece(struct step_io *io, const struct tn_pre_step *step, const struct tn_piece *piece,
			   struct tn_error *err)
{
	switch (step->kind) {
	case TN_PRE_SPLIT: return split_pattern(io, step, piece, err);
	case TN_PRE_CHARACTERS: return split_characters(io, step, piece, err);
	case TN_PRE_WHITESPACE: return split_whitespace(io, piece, err);
	case TN_PRE_FIXED_LENGTH: return split_lengths(io, step, piece, err);
	case TN_PRE_METASPACE: return split_metaspace(io, step, piece, err);
	case TN_PRE_BYTE_LEVEL: return split_bytes(io, step, piece, err);
	}
	return TN_OK;
}

tn_status tn_pretokenize(const struct tn_pretokenizer *pre, struct tn_work *work, struct tn_pieces **out,
			 struct tn_error *err)
{
	struct tn_pieces *now = &work->pieces[0], *next = &work->pieces[1];
	for (size_t i = 0; i < pre->count; i++) {
		struct step_io io = { work, now, next };
		tn_pieces_clear(next);
		for (size_t k = 0; k < now->count; k++)
			TN_TRY(run_piece(&io, &pre->steps[i], &now->items[k], err));
		struct tn_pieces *swap = now;
		now = next;
		next = swap;
	}
	*out = now;
	return TN_OK;
}
