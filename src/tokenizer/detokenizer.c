/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/detokenizer.h"

#include "base/error.h"
#include "tokenizer/chars.h"

#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Every step reads the texts of `from` and adds its own to `to`. */
struct step_io {
	struct tn_decode_work *work;
	const struct tn_text_list *from;
	struct tn_text_list *to;
	size_t most;       /* bytes of `to`, for steps that write what the file gives them */
};

/* ---- lists of texts -------------------------------------------------------------------------------------- */

void tn_text_list_init(struct tn_text_list *list, tn_context *ctx)
{
	*list = (struct tn_text_list){ .count = 0 };
	tn_text_init(&list->text, ctx);
}

void tn_text_list_release(struct tn_text_list *list)
{
	tn_free_array(list->text.ctx, list->ends, list->capacity, sizeof *list->ends);
	tn_text_release(&list->text);
}

static tn_status add(struct tn_text *text, const char *bytes, size_t n, struct tn_error *err)
{
	return n ? tn_text_add(text, bytes, n, err) : TN_OK;
}

/* Ends the text that is being written. */
static tn_status end_text(struct tn_text_list *list, struct tn_error *err)
{
	TN_TRY(tn_grow(list->text.ctx, &list->ends, &list->capacity, list->count + 1, sizeof *list->ends, "texts", err));
	list->ends[list->count++] = list->text.length;
	return TN_OK;
}

tn_status tn_text_list_add(struct tn_text_list *list, const char *text, size_t n, struct tn_error *err)
{
	TN_TRY(add(&list->text, text, n, err));
	return end_text(list, err);
}

static const char *text_at(const struct tn_text_list *list, size_t i, size_t *n)
{
	size_t begin = i ? list->ends[i - 1] : 0;
	*n = list->ends[i] - begin;
	return *n ? list->text.data + begin : "";
}

void tn_decode_work_init(struct tn_decode_work *work, tn_context *ctx)
{
	for (int i = 0; i < 2; i++) {
		tn_text_list_init(&work->lists[i], ctx);
		tn_text_init(&work->scratch[i], ctx);
	}
	tn_ranges_init(&work->matches, ctx);
}

void tn_decode_work_release(struct tn_decode_work *work)
{
	for (int i = 0; i < 2; i++) {
		tn_text_list_release(&work->lists[i]);
		tn_text_release(&work->scratch[i]);
	}
	tn_ranges_release(&work->matches);
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

/* The bytes of a broken character at p: as many as could still have become one. */
static size_t broken_bytes(const char *p, size_t n)
{
	const unsigned char *u = (const unsigned char *)p;
	unsigned char low = 0x80, high = 0xBF;
	if (u[0] < 0xC2 || u[0] > 0xF4 || n < 2)
		return 1;
	if (u[0] == 0xE0 || u[0] == 0xF0)
		low = u[0] == 0xE0 ? 0xA0 : 0x90;
	if (u[0] == 0xED || u[0] == 0xF4)
		high = u[0] == 0xED ? 0x9F : 0x8F;
	if (u[1] < low || u[1] > high)
		return 1;
	size_t length = tn_char_bytes(p), taken = 2;
	while (taken < length && taken < n && (u[taken] & 0xC0) == 0x80)
		taken++;
	return taken;
}

/* With one U+FFFD for each broken character. */
static tn_status add_lossy(struct tn_text *out, const char *bytes, size_t n, struct tn_error *err)
{
	while (n) {
		size_t valid = tn_utf8_valid_prefix(bytes, n);
		TN_TRY(add(out, bytes, valid, err));
		bytes += valid;
		n -= valid;
		if (!n)
			break;
		size_t broken = broken_bytes(bytes, n);
		TN_TRY(add(out, REPLACEMENT, 3, err));
		bytes += broken;
		n -= broken;
	}
	return TN_OK;
}

/* A token of the byte-level alphabet gives its bytes, any other itself. */
static tn_status add_token_bytes(struct tn_text *out, const char *token, size_t n, struct tn_error *err)
{
	size_t begin = out->length, bytes;
	for (size_t at = 0; at < n; at += bytes) {
		int byte = tn_char_byte(tn_char_at(token + at, &bytes));
		if (byte < 0) {
			out->length = begin;
			return add(out, token, n, err);
		}
		TN_TRY(tn_text_add(out, &(char){ (char)byte }, 1, err));
	}
	return TN_OK;
}

static tn_status from_byte_level(struct step_io *io, struct tn_error *err)
{
	struct tn_text *bytes = &io->work->scratch[0];
	size_t n;
	bytes->length = 0;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		TN_TRY(add_token_bytes(bytes, token, n, err));
	}
	if (bytes->length)
		TN_TRY(add_lossy(&io->to->text, bytes->data, bytes->length, err));
	return end_text(io->to, err);
}

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* <0x41>; one digit may be a + there, as Rust reads numbers. */
static int byte_token(const char *token, size_t n)
{
	if (n != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>' || hex_value(token[4]) < 0)
		return -1;
	if (token[3] == '+')
		return hex_value(token[4]);
	return hex_value(token[3]) < 0 ? -1 : hex_value(token[3]) << 4 | hex_value(token[4]);
}

/* A run of bytes is a text as a whole, or nothing but U+FFFD. */
static tn_status end_run(struct step_io *io, struct tn_error *err)
{
	struct tn_text *run = &io->work->scratch[0];
	size_t n = run->length;
	run->length = 0;
	if (n == 0)
		return TN_OK;
	if (tn_utf8_valid_prefix(run->data, n) == n)
		return tn_text_list_add(io->to, run->data, n, err);
	for (size_t i = 0; i < n; i++)
		TN_TRY(tn_text_list_add(io->to, REPLACEMENT, 3, err));
	return TN_OK;
}

static tn_status from_byte_fallback(struct step_io *io, struct tn_error *err)
{
	size_t n;
	io->work->scratch[0].length = 0;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		int byte = byte_token(token, n);
		if (byte >= 0) {
			TN_TRY(tn_text_add(&io->work->scratch[0], &(char){ (char)byte }, 1, err));
			continue;
		}
		TN_TRY(end_run(io, err));
		TN_TRY(tn_text_list_add(io->to, token, n, err));
	}
	return end_run(io, err);
}

/* ---- texts ----------------------------------------------------------------------------------------------- */

/* Appends `text` with every `from` in it replaced. */
static tn_status add_replaced(struct tn_text *out, const char *text, size_t n, const char *from, size_t from_bytes,
			      const char *to, size_t to_bytes, struct tn_error *err)
{
	const char *end = text + n, *found;
	while (from_bytes && (found = memmem(text, (size_t)(end - text), from, from_bytes))) {
		TN_TRY(add(out, text, (size_t)(found - text), err));
		TN_TRY(add(out, to, to_bytes, err));
		text = found + from_bytes;
	}
	return add(out, text, (size_t)(end - text), err);
}

tn_status tn_clean_up_spaces(struct tn_decode_work *work, const char *text, size_t n, int contract, struct tn_error *err)
{
	static const char *const habits[][2] = {
		{ " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" }, { " n't", "n't" }, { " 'm", "'m" },
		{ " do not", " don't" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" },
	};
	struct tn_text *now = &work->scratch[0], *next = &work->scratch[1], swap;
	now->length = 0;
	TN_TRY(add(now, text, n, err));
	for (size_t i = 0; i < sizeof habits / sizeof *habits && now->length; i++) {
		const char *from = habits[i][0], *to = habits[i][1];
		if (!contract && strcmp(from, " do not") == 0)
			continue;
		next->length = 0;
		TN_TRY(add_replaced(next, now->data, now->length, from, strlen(from), to, strlen(to), err));
		swap = *now;
		*now = *next;
		*next = swap;
	}
	return TN_OK;
}

static tn_status from_metaspace(struct step_io *io, const struct tn_decode_step *step, struct tn_error *err)
{
	size_t n;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		int drop = i == 0 && step->drop_first;
		TN_TRY(add_replaced(&io->to->text, token, n, step->text, step->bytes, " ", drop ? 0 : 1, err));
		TN_TRY(end_text(io->to, err));
	}
	return TN_OK;
}

static tn_status from_replace(struct step_io *io, const struct tn_decode_step *step, struct tn_error *err)
{
	struct tn_ranges *matches = &io->work->matches;
	size_t n;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		size_t at = 0;
		TN_TRY(tn_pattern_find(&step->pattern, token, n, matches, err));
		for (size_t k = 0; k < matches->count; k++) {
			if (io->to->text.length > io->most)
				return tn_fail(err, TN_E_LIMIT, "decoder", "the decoder of the tokenizer makes more than %zu "
					       "bytes of one text, which none that is meant to be used does", io->most);
			TN_TRY(add(&io->to->text, token + at, matches->items[k].begin - at, err));
			TN_TRY(add(&io->to->text, step->text, step->bytes, err));
			at = matches->items[k].end;
		}
		TN_TRY(add(&io->to->text, token + at, n - at, err));
		TN_TRY(end_text(io->to, err));
	}
	return TN_OK;
}

static int begins_with(const char *text, size_t n, const struct tn_decode_step *step)
{
	return n >= step->bytes && memcmp(text, step->text, step->bytes) == 0;
}

static int ends_with(const char *text, size_t n, const struct tn_decode_step *step)
{
	return n >= step->bytes && memcmp(text + n - step->bytes, step->text, step->bytes) == 0;
}

static tn_status from_strip(struct step_io *io, const struct tn_decode_step *step, struct tn_error *err)
{
	size_t n;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		for (uint32_t k = 0; k < step->start && begins_with(token, n, step); k++) {
			token += step->bytes;
			n -= step->bytes;
		}
		for (uint32_t k = 0; k < step->stop && ends_with(token, n, step); k++)
			n -= step->bytes;
		TN_TRY(tn_text_list_add(io->to, token, n, err));
	}
	return TN_OK;
}

static tn_status from_wordpiece(struct step_io *io, const struct tn_decode_step *step, struct tn_error *err)
{
	size_t n;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		size_t begin = io->to->text.length;
		if (i > 0 && begins_with(token, n, step)) {
			token += step->bytes;
			n -= step->bytes;
		} else if (i > 0) {
			TN_TRY(tn_text_add(&io->to->text, " ", 1, err));
		}
		TN_TRY(add(&io->to->text, token, n, err));
		if (step->cleanup && io->to->text.length > begin) {
			TN_TRY(tn_clean_up_spaces(io->work, io->to->text.data + begin, io->to->text.length - begin, 1, err));
			io->to->text.length = begin;
			TN_TRY(add(&io->to->text, io->work->scratch[0].data, io->work->scratch[0].length, err));
		}
		TN_TRY(end_text(io->to, err));
	}
	return TN_OK;
}

/* The suffix that ends words becomes a space, but for the last word. */
static tn_status from_suffix(struct step_io *io, const struct tn_decode_step *step, struct tn_error *err)
{
	size_t n;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		TN_TRY(add_replaced(&io->to->text, token, n, step->text, step->bytes, " ", i + 1 < io->from->count, err));
		TN_TRY(end_text(io->to, err));
	}
	return TN_OK;
}

static tn_status fuse(struct step_io *io, struct tn_error *err)
{
	return tn_text_list_add(io->to, io->from->text.data, io->from->text.length, err);
}

/* ---- all steps ------------------------------------------------------------------------------------------- */

static tn_status run_step(struct step_io *io, const struct tn_decode_step *step, struct tn_error *err)
{
	switch (step->kind) {
	case TN_DECODE_BYTE_LEVEL: return from_byte_level(io, err);
	case TN_DECODE_METASPACE: return from_metaspace(io, step, err);
	case TN_DECODE_BYTE_FALLBACK: return from_byte_fallback(io, err);
	case TN_DECODE_FUSE: return fuse(io, err);
	case TN_DECODE_REPLACE: return from_replace(io, step, err);
	case TN_DECODE_STRIP: return from_strip(io, step, err);
	case TN_DECODE_WORDPIECE: return from_wordpiece(io, step, err);
	case TN_DECODE_SUFFIX: return from_suffix(io, step, err);
	}
	return TN_OK;
}

static tn_status join_with_spaces(struct step_io *io, struct tn_error *err)
{
	size_t n;
	for (size_t i = 0; i < io->from->count; i++) {
		const char *token = text_at(io->from, i, &n);
		TN_TRY(add(&io->to->text, " ", i > 0, err));
		TN_TRY(add(&io->to->text, token, n, err));
	}
	return TN_OK;
}

tn_status tn_detokenize(const struct tn_detokenizer *decoder, struct tn_decode_work *work, const struct tn_text_list **out,
			struct tn_error *err)
{
	struct tn_text_list *now = &work->lists[0], *next = &work->lists[1];
	const size_t most = tn_most_growth(now->text.length);
	for (size_t i = 0; i < decoder->count || (i == 0 && !decoder->present); i++) {
		struct step_io io = { work, now, next, most };
		next->count = next->text.length = 0;
		if (decoder->present)
			TN_TRY(run_step(&io, &decoder->steps[i], err));
		else
			TN_TRY(join_with_spaces(&io, err));
		next = now;
		now = io.to;
	}
	*out = now;
	return TN_OK;
}
