/* SPDX-License-Identifier: Apache-2.0 */
/* Ids to text, at once and one by one. */
#include "base/error.h"
#include "tokenizer/tokenizer_parts.h"

#include <string.h>

static const char *decoding_token(const struct tn_tokenizer *t, uint32_t id, size_t *n)
{
	const struct tn_added_token *added = tn_added_tokens_at(&t->added, id);
	if (!added)
		return tn_vocab_text(&t->model.vocab, id, n);
	*n = added->normal_bytes;
	return added->normal;
}

/* The library looks up what it leaves out by text, and a text may stand in the vocabulary twice. */
static int is_special_text(const struct tn_tokenizer *t, const char *token, size_t n)
{
	const struct tn_added_token *named = tn_added_tokens_find(&t->added, token, n);
	return named && named->special;
}

tn_status tn_tokenizer_text(const struct tn_tokenizer *t, struct tn_decode_work *work, const uint32_t *ids, size_t count,
			    unsigned flags, const struct tn_text_list **out, struct tn_error *err)
{
	struct tn_text_list *tokens = &work->lists[0];
	tokens->count = tokens->text.length = 0;
	for (size_t i = 0; i < count; i++) {
		size_t n;
		const char *token = decoding_token(t, ids[i], &n);
		if (token && !((flags & TN_SKIP_SPECIAL) && is_special_text(t, token, n)))
			TN_TRY(tn_text_list_add(tokens, token, n, err));
	}
	return tn_detokenize(&t->decoder, work, out, err);
}

static tn_status make_text(tn_context *ctx, const char *text, size_t n, struct tn_buffer *out, struct tn_error *err)
{
	struct tn_buffer buffer;
	TN_TRY(tn_buffer_alloc(ctx, n, "text", &buffer, err));
	if (n)
		memcpy(buffer.data, text, n);
	*out = buffer;
	return TN_OK;
}

tn_status tn_tokenizer_decode(const tn_tokenizer *t, const uint32_t *ids, size_t count, unsigned flags, struct tn_buffer *text,
			      struct tn_error *err)
{
	struct tn_decode_work work;
	const struct tn_text_list *list;
	tn_decode_work_init(&work, t->ctx);
	tn_status status = tn_tokenizer_text(t, &work, ids, count, flags, &list, err);
	const struct tn_text *result = status == TN_OK ? &list->text : NULL;
	if (status == TN_OK && t->clean_up && result->length) {
		status = tn_clean_up_spaces(&work, result->data, result->length, 0, err);
		result = &work.scratch[0];
	}
	if (status == TN_OK)
		status = make_text(t->ctx, result->data, result->length, text, err);
	tn_decode_work_release(&work);
	return status;
}

/* ---- streams --------------------------------------------------------------------------------------------- */

/* As DecodeStream of tokenizers does it: `ids` are the last ones, and the first `read` of them made `prefix`, which has been
 * handed out; so every piece is decoded together with what stands before it. */
struct tn_token_stream {
	const struct tn_tokenizer *tokenizer;
	unsigned flags;
	struct tn_decode_work work;
	struct tn_id_list ids;
	size_t read;
	struct tn_text prefix, piece;
};

tn_status tn_token_stream_create(const tn_tokenizer *tokenizer, unsigned flags, tn_token_stream **out, struct tn_error *err)
{
	struct tn_token_stream *stream;
	TN_TRY(tn_alloc_array(tokenizer->ctx, 1, sizeof *stream, "token stream", &stream, err));
	stream->tokenizer = tokenizer;
	stream->flags = flags;
	tn_decode_work_init(&stream->work, tokenizer->ctx);
	tn_id_list_init(&stream->ids, tokenizer->ctx);
	tn_text_init(&stream->prefix, tokenizer->ctx);
	tn_text_init(&stream->piece, tokenizer->ctx);
	*out = stream;
	return TN_OK;
}

void tn_token_stream_destroy(tn_token_stream *stream)
{
	if (!stream)
		return;
	tn_decode_work_release(&stream->work);
	tn_id_list_release(&stream->ids);
	tn_text_release(&stream->prefix);
	tn_text_release(&stream->piece);
	tn_free(stream->tokenizer->ctx, stream, sizeof *stream);
}

static tn_status decode_ids(struct tn_token_stream *s, const struct tn_text **out, struct tn_error *err)
{
	const struct tn_text_list *list;
	TN_TRY(tn_tokenizer_text(s->tokenizer, &s->work, s->ids.items, s->ids.count, s->flags, &list, err));
	*out = &list->text;
	return TN_OK;
}

static int ends_broken(const struct tn_text *text)
{
	return text->length >= 3 && memcmp(text->data + text->length - 3, "\xEF\xBF\xBD", 3) == 0;
}

static tn_status set_text(struct tn_text *to, const char *text, size_t n, struct tn_error *err)
{
	to->length = 0;
	return n ? tn_text_add(to, text, n, err) : TN_OK;
}

/* How much of the text has been handed out; where bytes have changed what they mean, as much as is still the same. */
static size_t known_bytes(const struct tn_token_stream *s, const struct tn_text *text)
{
	size_t n = 0;
	while (n < s->prefix.length && n < text->length && s->prefix.data[n] == text->data[n])
		n++;
	while (n > 0 && n < text->length && ((unsigned char)text->data[n] & 0xC0) == 0x80)
		n--;
	return n;
}

/* The ids that made the text before this one are no longer needed. */
static tn_status move_on(struct tn_token_stream *s, struct tn_error *err)
{
	const struct tn_text *text;
	size_t left = s->ids.count - s->read;
	memmove(s->ids.items, s->ids.items + s->read, left * sizeof *s->ids.items);
	s->ids.count = s->read = left;
	TN_TRY(decode_ids(s, &text, err));
	return set_text(&s->prefix, text->data, text->length, err);
}

tn_status tn_token_stream_push(tn_token_stream *s, uint32_t id, const char **piece, size_t *bytes, struct tn_error *err)
{
	const struct tn_text *text;
	if (s->prefix.length == 0 && s->ids.count) {
		TN_TRY(decode_ids(s, &text, err));
		if (!ends_broken(text)) {
			TN_TRY(set_text(&s->prefix, text->data, text->length, err));
			s->read = s->ids.count;
		}
	}
	TN_TRY(tn_id_list_add(&s->ids, id, err));
	TN_TRY(decode_ids(s, &text, err));
	if (text->length <= s->prefix.length || ends_broken(text)) {
		*piece = NULL;
		*bytes = 0;
		return TN_OK;
	}
	size_t known = known_bytes(s, text);
	TN_TRY(set_text(&s->piece, text->data + known, text->length - known, err));
	TN_TRY(move_on(s, err));
	*piece = s->piece.data;
	*bytes = s->piece.length;
	return TN_OK;
}

tn_status tn_token_stream_finish(tn_token_stream *s, const char **piece, size_t *bytes, struct tn_error *err)
{
	const struct tn_text *text;
	s->piece.length = 0;
	if (s->ids.count) {
		TN_TRY(decode_ids(s, &text, err));
		size_t known = known_bytes(s, text);
		if (known < text->length)
			TN_TRY(set_text(&s->piece, text->data + known, text->length - known, err));
	}
	s->ids.count = s->read = s->prefix.length = 0;
	*piece = s->piece.length ? s->piece.data : NULL;
	*bytes = s->piece.length;
	return TN_OK;
}
