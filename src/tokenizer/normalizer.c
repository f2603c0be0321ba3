/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/normalizer.h"

#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/unicode_form.h"

#include <string.h>

/* A step reads `from`, of which the first `leading` bytes come from the first character of the user's text, and writes
 * `to`. */
struct step_io {
	struct tn_work *work;
	const char *from;
	size_t n, leading;
	struct tn_leading_text *to;
	size_t most;       /* bytes of `to` */
};

/* Characters one by one: each becomes none, one or several. `at_leading` is called where the leading ones end. */
static void mark_leading(struct step_io *io, size_t at)
{
	if (at == io->leading)
		io->to->leading = io->to->text.length;
}

static tn_status check_growth(const struct step_io *io, size_t more, struct tn_error *err)
{
	if (io->to->text.length <= io->most && more <= io->most - io->to->text.length)
		return TN_OK;
	return tn_fail(err, TN_E_LIMIT, "normalizer", "the normalizer of the tokenizer makes more than %zu bytes of one text, "
		       "which none that is meant to be used does", io->most);
}

static tn_status add(struct step_io *io, const char *text, size_t n, struct tn_error *err)
{
	TN_TRY(check_growth(io, n, err));
	return n ? tn_text_add(&io->to->text, text, n, err) : TN_OK;
}

/* ---- characters one by one ------------------------------------------------------------------------------- */

static int is_nmt_removed(int32_t c)
{
	return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

static int is_nmt_space(int32_t c)
{
	return c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
	       c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
}

static int is_removed(enum tn_normal_kind kind, int32_t c)
{
	switch (kind) {
	case TN_NORMAL_STRIP_ACCENTS: return tn_char_is_mark(c);
	case TN_NORMAL_STRIP_NONSPACING: return tn_char_is_nonspacing(c);
	case TN_NORMAL_NMT: return is_nmt_removed(c);
	case TN_NORMAL_CLEAN: return c == 0 || c == 0xFFFD || tn_char_is_control(c);
	default: return 0;
	}
}

static tn_status put_character(enum tn_normal_kind kind, int32_t c, struct tn_text *out, struct tn_error *err)
{
	int32_t lower[2];
	if (is_removed(kind, c))
		return TN_OK;
	if ((kind == TN_NORMAL_NMT && is_nmt_space(c)) || (kind == TN_NORMAL_CLEAN && tn_char_is_space(c)))
		return tn_text_add(out, " ", 1, err);
	if (kind == TN_NORMAL_LOWERCASE) {
		size_t n = tn_char_lower(c, lower);
		for (size_t i = 0; i < n; i++)
			TN_TRY(tn_text_add_char(out, lower[i], err));
		return TN_OK;
	}
	if (kind == TN_NORMAL_CHINESE && tn_char_is_chinese(c)) {
		TN_TRY(tn_text_add(out, " ", 1, err));
		TN_TRY(tn_text_add_char(out, c, err));
		return tn_text_add(out, " ", 1, err);
	}
	return tn_text_add_char(out, c, err);
}

static tn_status by_character(struct step_io *io, enum tn_normal_kind kind, struct tn_error *err)
{
	size_t bytes;
	for (size_t at = 0; at < io->n; at += bytes) {
		int32_t c = tn_char_at(io->from + at, &bytes);
		mark_leading(io, at);
		TN_TRY(put_character(kind, c, &io->to->text, err));
	}
	mark_leading(io, io->n);
	return TN_OK;
}

static tn_status to_bytes(struct step_io *io, struct tn_error *err)
{
	for (size_t at = 0; at < io->n; at++) {
		mark_leading(io, at);
		TN_TRY(tn_text_add_char(&io->to->text, tn_byte_char((unsigned char)io->from[at]), err));
	}
	mark_leading(io, io->n);
	return TN_OK;
}

/* ---- whole texts ----------------------------------------------------------------------------------------- */

static tn_status to_form(struct step_io *io, unsigned form, struct tn_error *err)
{
	TN_TRY(tn_unicode_form(io->work, io->from, io->leading, form, &io->to->text, err));
	io->to->leading = io->to->text.length;
	io->to->text.length = 0;
	return tn_unicode_form(io->work, io->from, io->n, form, &io->to->text, err);
}

static tn_status strip(struct step_io *io, const struct tn_normal_step *step, struct tn_error *err)
{
	size_t begin = 0, end = io->n, bytes;
	while (step->left && begin < end && tn_char_is_space(tn_char_at(io->from + begin, &bytes)))
		begin += bytes;
	while (step->right && begin < end && tn_char_is_space(tn_char_last(io->from + begin, end - begin, &bytes)))
		end -= bytes;
	io->to->leading = io->leading > begin ? io->leading - begin : 0;
	return add(io, io->from + begin, end - begin, err);
}

/* Adds the text between matches. */
static tn_status add_between(struct step_io *io, size_t begin, size_t end, struct tn_error *err)
{
	if (io->leading > begin && io->leading <= end)
		io->to->leading = io->to->text.length + io->leading - begin;
	return add(io, io->from + begin, end - begin, err);
}

/* What stands for a match counts as coming from where the match ends. */
static tn_status replace(struct step_io *io, const struct tn_normal_step *step, struct tn_error *err)
{
	struct tn_ranges *matches = &io->work->matches;
	size_t at = 0;
	TN_TRY(tn_pattern_find(&step->pattern, io->from, io->n, matches, err));
	for (size_t i = 0; i < matches->count; i++) {
		const struct tn_range *match = &matches->items[i];
		TN_TRY(add_between(io, at, match->begin, err));
		TN_TRY(add(io, step->content, step->content_bytes, err));
		if (io->leading >= match->end)
			io->to->leading = io->to->text.length;
		at = match->end;
	}
	return add_between(io, at, io->n, err);
}

static tn_status prepend(struct step_io *io, const struct tn_normal_step *step, struct tn_error *err)
{
	if (io->n)
		TN_TRY(add(io, step->content, step->content_bytes, err));
	io->to->leading = io->leading && io->n ? io->leading + step->content_bytes : 0;
	return add(io, io->from, io->n, err);
}

/* ---- character maps -------------------------------------------------------------------------------------- */

/* Which input character an output character is counted as: the tokenizers library hands out the input's characters in order,
 * and forgets those that were removed at the very beginning. */
struct alignment {
	size_t taken;      /* bytes of the input */
	int started;
};

static size_t character_count(const char *text, size_t n)
{
	size_t count = 0;
	for (size_t i = 0; i < n; i++)
		count += ((unsigned char)text[i] & 0xC0) != 0x80;
	return count;
}

static void take(const struct step_io *io, struct alignment *a, size_t characters)
{
	for (; characters && a->taken < io->n; characters--)
		a->taken += tn_char_bytes(io->from + a->taken);
}

static tn_status put_mapped(struct step_io *io, struct alignment *a, const char *old, size_t old_bytes, const char *new,
			    size_t new_bytes, struct tn_error *err)
{
	size_t before = character_count(old, old_bytes);
	if (new_bytes || a->started) {
		int is_leading = a->taken < io->leading;
		take(io, a, before);
		TN_TRY(add(io, new, new_bytes, err));
		a->started = 1;
		if (is_leading)
			io->to->leading = io->to->text.length;
	}
	return TN_OK;
}

/* A cluster of fewer than six bytes is looked up as a whole, and what is not found so, character by character. */
static tn_status map_cluster(struct step_io *io, const struct tn_charsmap *map, struct alignment *a, const char *cluster,
			     size_t n, struct tn_error *err)
{
	size_t bytes, found_bytes;
	const char *found = n < 6 ? tn_charsmap_find(map, cluster, n, &found_bytes) : NULL;
	if (found)
		return put_mapped(io, a, cluster, n, found, found_bytes, err);
	for (size_t at = 0; at < n; at += bytes) {
		bytes = tn_char_bytes(cluster + at);
		found = tn_charsmap_find(map, cluster + at, bytes, &found_bytes);
		if (!found) {
			found = cluster + at;
			found_bytes = bytes;
		}
		TN_TRY(put_mapped(io, a, cluster + at, bytes, found, found_bytes, err));
	}
	return TN_OK;
}

static tn_status map_characters(struct step_io *io, const struct tn_charsmap *map, struct tn_error *err)
{
	struct alignment a = { 0, 0 };
	size_t n;
	for (size_t at = 0; at < io->n; at += n) {
		n = tn_grapheme_bytes(io->from + at, io->n - at);
		TN_TRY(map_cluster(io, map, &a, io->from + at, n, err));
	}
	return TN_OK;
}

/* ---- all steps ------------------------------------------------------------------------------------------- */

/* SentencePiece's remove_extra_whitespaces: of spaces behind one another one stays, and none at the ends (at the end no U+2581
 * either). */
static tn_status squeeze(struct step_io *io, struct tn_error *err)
{
	struct tn_text *out = &io->to->text;
	for (size_t at = 0; at < io->n; at++) {
		mark_leading(io, at);
		if (io->from[at] != ' ' || (out->length && out->data[out->length - 1] != ' '))
			TN_TRY(tn_text_add(out, io->from + at, 1, err));
	}
	mark_leading(io, io->n);
	for (;;) {
		if (out->length && out->data[out->length - 1] == ' ')
			out->length--;
		else if (out->length >= 3 && memcmp(out->data + out->length - 3, "\xE2\x96\x81", 3) == 0)
			out->length -= 3;
		else
			break;
	}
	if (io->to->leading > out->length)
		io->to->leading = out->length;
	return TN_OK;
}

static tn_status run_step(struct step_io *io, const struct tn_normal_step *step, struct tn_error *err)
{
	io->to->text.length = 0;
	io->to->leading = 0;
	switch (step->kind) {
	case TN_NORMAL_NFC: return to_form(io, TN_FORM_COMPOSED, err);
	case TN_NORMAL_NFD: return to_form(io, 0, err);
	case TN_NORMAL_NFKC: return to_form(io, TN_FORM_COMPOSED | TN_FORM_COMPATIBLE, err);
	case TN_NORMAL_NFKD: return to_form(io, TN_FORM_COMPATIBLE, err);
	case TN_NORMAL_STRIP: return strip(io, step, err);
	case TN_NORMAL_REPLACE: return replace(io, step, err);
	case TN_NORMAL_PREPEND: return prepend(io, step, err);
	case TN_NORMAL_PRECOMPILED: return map_characters(io, &step->map, err);
	case TN_NORMAL_BYTE_LEVEL: return to_bytes(io, err);
	case TN_NORMAL_SQUEEZE: return squeeze(io, err);
	default: return by_character(io, step->kind, err);
	}
}

tn_status tn_normalize(const struct tn_normalizer *normalizer, struct tn_work *work, const char *text, size_t n,
		       size_t leading, const struct tn_leading_text **out, struct tn_error *err)
{
	struct tn_leading_text *now = &work->normal[0], *next = &work->normal[1];
	now->text.length = 0;
	now->leading = leading;
	if (n)
		TN_TRY(tn_text_add(&now->text, text, n, err));
	for (size_t i = 0; i < normalizer->count && now->text.length; i++) {
		struct step_io io = { work, now->text.data, now->text.length, now->leading, next, tn_most_growth(n) };
		TN_TRY(run_step(&io, &normalizer->steps[i], err));
		TN_TRY(check_growth(&io, 0, err));
		struct tn_leading_text *swap = now;
		now = next;
		next = swap;
	}
	*out = now;
	return TN_OK;
}
