/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/added_tokens.h"

#include "base/error.h"
#include "tokenizer/chars.h"

#include <stdlib.h>
#include <string.h>

void tn_added_tokens_init(struct tn_added_tokens *added, struct tn_arena *arena, uint64_t seed)
{
	*added = (struct tn_added_tokens){ .ctx = arena->ctx, .arena = arena };
	tn_vocab_init(&added->by_content, arena->ctx, seed);
	tn_trie_init(&added->plain, arena->ctx);
	tn_trie_init(&added->normalized, arena->ctx);
}

void tn_added_tokens_release(struct tn_added_tokens *added)
{
	if (!added->ctx)
		return;
	tn_free_array(added->ctx, added->items, added->capacity, sizeof *added->items);
	tn_vocab_release(&added->by_content);
	tn_trie_release(&added->plain);
	tn_trie_release(&added->normalized);
}

/* ---- the list -------------------------------------------------------------------------------------------- */

static uint32_t next_id(const struct tn_added_tokens *added, const struct tn_token_model *model)
{
	size_t size = model->kind == TN_MODEL_UNIGRAM ? model->score_count : model->vocab.count;
	return added->id_limit > size ? added->id_limit : (uint32_t)size;
}

/* Of tokens with the same content the last counts; what has been special once stays so. */
tn_status tn_added_tokens_put(struct tn_added_tokens *added, const struct tn_added_token *token,
			      const struct tn_token_model *model, const char *where, struct tn_error *err)
{
	if (!token->bytes)
		return TN_OK;
	uint32_t index = tn_vocab_find(&added->by_content, token->content, token->bytes);
	struct tn_added_token item = *token;
	if (index != TN_NO_TOKEN) {
		item.id = added->items[index].id;
		item.content = added->items[index].content;
		item.special |= added->items[index].special;
		added->items[index] = item;
		return TN_OK;
	}
	item.id = tn_vocab_find(&model->vocab, token->content, token->bytes);
	if (item.id == TN_NO_TOKEN)
		item.id = next_id(added, model);
	TN_TRY(tn_arena_text(added->arena, token->content, token->bytes, &item.content, err));
	TN_TRY(tn_grow(added->ctx, &added->items, &added->capacity, added->count + 1, sizeof *added->items, "added tokens",
		       err));
	TN_TRY(tn_vocab_put(&added->by_content, token->content, token->bytes, added->count, where, err));
	added->items[added->count++] = item;
	if (item.id >= added->id_limit)
		added->id_limit = item.id + 1;
	return TN_OK;
}

struct id_index {
	uint32_t id, index;
};

static int compare_ids(const void *a, const void *b)
{
	const struct id_index *x = a, *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

static tn_status order_by_id(struct tn_added_tokens *added, struct tn_error *err)
{
	struct id_index *order;
	TN_TRY(tn_alloc_array(added->ctx, added->count, sizeof *order, "added tokens", &order, err));
	tn_status status = tn_arena_array(added->arena, added->count, sizeof *added->by_id, &added->by_id, err);
	for (size_t i = 0; i < added->count; i++)
		order[i] = (struct id_index){ added->items[i].id, (uint32_t)i };
	if (added->count)
		qsort(order, added->count, sizeof *order, compare_ids);
	for (size_t i = 0; status == TN_OK && i < added->count; i++)
		added->by_id[i] = order[i].index;
	tn_free_array(added->ctx, order, added->count, sizeof *order);
	return status;
}

static tn_status normalize(struct tn_added_tokens *added, struct tn_added_token *token, const struct tn_normalizer *normalizer,
			   struct tn_work *work, struct tn_error *err)
{
	const struct tn_leading_text *normal;
	token->normal = token->content;
	token->normal_bytes = token->bytes;
	if (!token->normalized)
		return TN_OK;
	TN_TRY(tn_normalize(normalizer, work, token->content, token->bytes, 0, &normal, err));
	token->normal_bytes = normal->text.length;
	return tn_arena_text(added->arena, normal->text.length ? normal->text.data : "", normal->text.length, &token->normal,
			     err);
}

tn_status tn_added_tokens_finish(struct tn_added_tokens *added, const struct tn_normalizer *normalizer, struct tn_work *work,
				 struct tn_error *err)
{
	TN_TRY(order_by_id(added, err));
	for (size_t i = 0; i < added->count; i++) {
		struct tn_added_token *token = &added->items[i];
		TN_TRY(normalize(added, token, normalizer, work, err));
		TN_TRY(tn_trie_put(token->normalized ? &added->normalized : &added->plain, token->normal, token->normal_bytes,
				   (uint32_t)i, err));
	}
	return TN_OK;
}

const struct tn_added_token *tn_added_tokens_at(const struct tn_added_tokens *added, uint32_t id)
{
	size_t low = 0, high = added->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (added->items[added->by_id[middle]].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == added->count)
		return NULL;
	const struct tn_added_token *token = &added->items[added->by_id[low]];
	return token->id == id ? token : NULL;
}

const struct tn_added_token *tn_added_tokens_find(const struct tn_added_tokens *added, const char *content, size_t n)
{
	uint32_t index = tn_vocab_find(&added->by_content, content, n);
	return index == TN_NO_TOKEN ? NULL : &added->items[index];
}

/* ---- finding them ---------------------------------------------------------------------------------------- */

static int stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
	size_t bytes;
	if (begin > 0 && tn_char_is_word(tn_char_last(text, begin, &bytes)))
		return 0;
	return end == n || !tn_char_is_word(tn_char_at(text + end, &bytes));
}

/* One pass over a text. White space is looked at once, however many tokens take it. */
struct splitting {
	const char *text;
	size_t n;
	size_t done;                       /* where the last part ended */
	size_t spaces_begin, spaces_end;   /* white space that a token has taken on its right */
	tn_added_part_fn part;
	void *user;
};

static size_t spaces_before(const struct splitting *s, size_t at)
{
	size_t bytes;
	while (at > s->done && tn_char_is_space(tn_char_last(s->text, at, &bytes)))
		at -= bytes;
	return at;
}

static size_t spaces_behind(struct splitting *s, size_t at)
{
	size_t bytes;
	if (at >= s->spaces_begin && at < s->spaces_end)
		return s->spaces_end;
	s->spaces_begin = at;
	while (at < s->n && tn_char_is_space(tn_char_at(s->text + at, &bytes)))
		at += bytes;
	s->spaces_end = at;
	return at;
}

/* The token found at [begin, end), with the white space that it takes. */
static tn_status emit(struct splitting *s, const struct tn_added_token *token, size_t begin, size_t end, struct tn_error *err)
{
	if (token->lstrip)
		begin = begin < s->done ? s->done : spaces_before(s, begin);
	if (token->rstrip)
		end = spaces_behind(s, end);
	if (s->done < begin)
		TN_TRY(s->part(s->user, NULL, s->done, begin, err));
	s->done = end;
	/* nothing is left of it when the one before has taken its white space */
	return begin < end ? s->part(s->user, token, begin, end, err) : TN_OK;
}

tn_status tn_added_tokens_split(const struct tn_added_tokens *added, const struct tn_trie *trie, const char *text, size_t n,
				tn_added_part_fn part, void *user, struct tn_error *err)
{
	struct splitting s = { text, n, 0, 0, 0, part, user };
	uint32_t index = 0;
	for (size_t at = 0; trie->count && at < n;) {
		size_t bytes = trie->first[(unsigned char)text[at]] ? tn_trie_longest(trie, text + at, n - at, &index) : 0;
		if (!bytes) {
			at++;
			continue;
		}
		const struct tn_added_token *token = &added->items[index];
		if (!token->single_word || stands_alone(text, n, at, at + bytes))
			TN_TRY(emit(&s, token, at, at + bytes, err));
		at += bytes;
	}
	return s.done < n ? part(user, NULL, s.done, n, err) : TN_OK;
}
