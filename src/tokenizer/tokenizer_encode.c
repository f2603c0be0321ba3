/* SPDX-License-Identifier: Apache-2.0 */
/* Text to ids: added tokens are cut out, what is between them is normalized, added tokens that are normalized themselves are
 * cut out of that, and the rest goes through the pre-tokenizer to the model. */
#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/tokenizer_parts.h"

#include <string.h>

struct encoding {
	const struct tn_tokenizer *t;
	struct tn_work *work;
	const char *text;          /* the user's */
	struct tn_text normal;     /* the part that is being cut; work->normal is used for the next */
	size_t leading;
	struct tn_id_list *out;
};

/* A part without added tokens, of e->normal. */
static tn_status encode_part(struct encoding *e, size_t begin, size_t end, struct tn_error *err)
{
	struct tn_work *work = e->work;
	struct tn_pieces *first = &work->pieces[0], *pieces;
	size_t leading = e->leading > begin ? e->leading - begin : 0;
	tn_pieces_clear(first);
	TN_TRY(tn_text_add(&first->text, e->normal.data + begin, end - begin, err));
	TN_TRY(tn_pieces_add(first, (struct tn_piece){ 0, end - begin, leading, leading > 0 }, err));
	TN_TRY(tn_pretokenize(&e->t->pre, work, &pieces, err));
	work->ids.count = 0;
	for (size_t i = 0; i < pieces->count; i++) {
		const struct tn_piece *piece = &pieces->items[i];
		TN_TRY(tn_token_model_encode(&e->t->model, work, pieces->text.data + piece->begin, piece->end - piece->begin,
					     err));
	}
	for (size_t i = 0; i < work->ids.count; i++)
		TN_TRY(tn_id_list_add(e->out, work->ids.items[i], err));
	return TN_OK;
}

static tn_status on_normal_part(void *user, const struct tn_added_token *token, size_t begin, size_t end, struct tn_error *err)
{
	struct encoding *e = user;
	return token ? tn_id_list_add(e->out, token->id, err) : encode_part(e, begin, end, err);
}

static tn_status on_part(void *user, const struct tn_added_token *token, size_t begin, size_t end, struct tn_error *err)
{
	struct encoding *e = user;
	const struct tn_leading_text *normal;
	if (token)
		return tn_id_list_add(e->out, token->id, err);
	TN_TRY(tn_normalize(&e->t->normalizer, e->work, e->text + begin, end - begin,
			    begin == 0 ? tn_char_bytes(e->text) : 0, &normal, err));
	e->normal.length = 0;
	if (normal->text.length)
		TN_TRY(tn_text_add(&e->normal, normal->text.data, normal->text.length, err));
	e->leading = normal->leading;
	return tn_added_tokens_split(&e->t->added, &e->t->added.normalized, e->normal.data, e->normal.length, on_normal_part, e,
				     err);
}

tn_status tn_tokenizer_ids(const struct tn_tokenizer *t, struct tn_work *work, const char *text, size_t n,
			   struct tn_id_list *out, struct tn_error *err)
{
	struct encoding e = { .t = t, .work = work, .text = text, .out = out };
	size_t valid = tn_utf8_valid_prefix(text, n);
	if (valid != n)
		return tn_fail_at(err, TN_E_ARG, "text", valid, "the text is not UTF-8: byte %zu is 0x%02X", valid,
				  (unsigned char)text[valid]);
	tn_text_init(&e.normal, t->ctx);
	tn_status status = tn_added_tokens_split(&t->added, &t->added.plain, text, n, on_part, &e, err);
	tn_text_release(&e.normal);
	return status;
}

static tn_status finish(const struct tn_tokenizer *t, const struct tn_id_list *a, const struct tn_id_list *b, unsigned flags,
			struct tn_buffer *ids, struct tn_error *err)
{
	struct tn_id_list all;
	struct tn_buffer buffer;
	tn_id_list_init(&all, t->ctx);
	tn_status status = tn_frame_apply(b ? &t->post.pair : &t->post.single, a, b, (flags & TN_ADD_SPECIAL) != 0, &all, err);
	if (status == TN_OK)
		status = tn_buffer_alloc(t->ctx, all.count * sizeof *all.items, "ids", &buffer, err);
	if (status == TN_OK) {
		if (all.count)
			memcpy(buffer.data, all.items, buffer.bytes);
		*ids = buffer;
	}
	tn_id_list_release(&all);
	return status;
}

static tn_status encode(const struct tn_tokenizer *t, const char *const texts[2], const size_t bytes[2], int count,
			unsigned flags, struct tn_buffer *ids, struct tn_error *err)
{
	struct tn_work work;
	struct tn_id_list lists[2];
	tn_status status = TN_OK;
	tn_work_init(&work, t->ctx);
	for (int i = 0; i < 2; i++)
		tn_id_list_init(&lists[i], t->ctx);
	for (int i = 0; status == TN_OK && i < count; i++)
		status = tn_tokenizer_ids(t, &work, texts[i], bytes[i], &lists[i], err);
	if (status == TN_OK)
		status = finish(t, &lists[0], count > 1 ? &lists[1] : NULL, flags, ids, err);
	for (int i = 0; i < 2; i++)
		tn_id_list_release(&lists[i]);
	tn_work_release(&work);
	return status;
}

tn_status tn_tokenizer_encode(const tn_tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
			      struct tn_buffer *ids, struct tn_error *err)
{
	return encode(tokenizer, (const char *const[]){ text, NULL }, (const size_t[]){ bytes, 0 }, 1, flags, ids, err);
}

tn_status tn_tokenizer_encode_pair(const tn_tokenizer *tokenizer, const char *a, size_t a_bytes, const char *b, size_t b_bytes,
				   unsigned flags, struct tn_buffer *ids, struct tn_error *err)
{
	return encode(tokenizer, (const char *const[]){ a, b }, (const size_t[]){ a_bytes, b_bytes }, 2, flags, ids, err);
}
