/* SPDX-License-Identifier: Apache-2.0 */
/* Byte pair encoding: a piece begins as its characters, and of all neighbours that have a merge, the pair of the lowest rank
 * (the leftmost of equal ones) becomes one symbol, until none has. A heap of possible merges makes that n log n. */
#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/token_model.h"

#include <string.h>

/* ---- the table of merges --------------------------------------------------------------------------------- */

static struct tn_merge_slot *slot_of(const struct tn_token_model *model, uint64_t pair)
{
	uint64_t h = (pair ^ model->vocab.seed) * 0x9E3779B97F4A7C15u;
	size_t mask = model->merge_slots - 1;
	h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
	for (size_t i = (size_t)(h ^ h >> 32) & mask;; i = (i + 1) & mask)
		if (model->merges[i].pair == pair || model->merges[i].pair == UINT64_MAX)
			return &model->merges[i];
}

static const struct tn_merge_slot *find_merge(const struct tn_token_model *model, uint32_t left, uint32_t right)
{
	if (!model->merge_slots)
		return NULL;
	const struct tn_merge_slot *slot = slot_of(model, (uint64_t)left << 32 | right);
	return slot->pair == UINT64_MAX ? NULL : slot;
}

static tn_status grow_merges(struct tn_token_model *model, struct tn_error *err)
{
	struct tn_merge_slot *old = model->merges, *slots;
	size_t old_count = model->merge_slots, count = old_count ? 2 * old_count : 1024;
	TN_TRY(tn_alloc_array(model->ctx, count, sizeof *slots, "merges", &slots, err));
	for (size_t i = 0; i < count; i++)
		slots[i].pair = UINT64_MAX;
	model->merges = slots;
	model->merge_slots = count;
	for (size_t i = 0; i < old_count; i++)
		if (old[i].pair != UINT64_MAX)
			*slot_of(model, old[i].pair) = old[i];
	tn_free_array(model->ctx, old, old_count, sizeof *old);
	return TN_OK;
}

tn_status tn_bpe_add_merge(struct tn_token_model *model, uint32_t left, uint32_t right, uint32_t rank, uint32_t id,
			   struct tn_error *err)
{
	if (2 * (model->merge_count + 1) > model->merge_slots)
		TN_TRY(grow_merges(model, err));
	struct tn_merge_slot *slot = slot_of(model, (uint64_t)left << 32 | right);
	model->merge_count += slot->pair == UINT64_MAX;
	*slot = (struct tn_merge_slot){ (uint64_t)left << 32 | right, rank, id };
	return TN_OK;
}

/* ---- the symbols of a piece ------------------------------------------------------------------------------ */

struct symbols {
	const struct tn_token_model *model;
	struct tn_work *work;
	size_t count;
	uint32_t unknown;    /* the pending unknown token; TN_NO_TOKEN: none */
};

static tn_status add_symbol(struct symbols *s, uint32_t id, struct tn_error *err)
{
	struct tn_work *work = s->work;
	if (s->count >= INT32_MAX)
		return tn_fail(err, TN_E_LIMIT, "text", "a piece of the text has more than 2 billion characters");
	TN_TRY(tn_grow(work->ctx, &work->symbols, &work->symbol_capacity, s->count + 1, sizeof *work->symbols, "symbols", err));
	int32_t at = (int32_t)s->count++;
	work->symbols[at] = (struct tn_symbol){ id, at - 1, at + 1, 0 };
	return TN_OK;
}

static tn_status flush_unknown(struct symbols *s, struct tn_error *err)
{
	uint32_t id = s->unknown;
	s->unknown = TN_NO_TOKEN;
	return id == TN_NO_TOKEN ? TN_OK : add_symbol(s, id, err);
}

/* A character (with its prefix and suffix) that is no token. Without an unknown token it is left out. */
static tn_status add_unknown(struct symbols *s, const char *text, size_t n, struct tn_error *err)
{
	const struct tn_token_model *model = s->model;
	int known = model->byte_fallback;
	for (size_t i = 0; known && i < n; i++)
		known = model->byte_ids[(unsigned char)text[i]] != TN_NO_TOKEN;
	if (known) {
		for (size_t i = 0; i < n; i++)
			TN_TRY(add_symbol(s, model->byte_ids[(unsigned char)text[i]], err));
		return TN_OK;
	}
	if (!model->unk)
		return TN_OK;
	if (model->unk_id == TN_NO_TOKEN)
		return tn_token_unknown(model, text, n, err);
	if (!model->fuse_unk)
		TN_TRY(flush_unknown(s, err));
	s->unknown = model->unk_id;
	return TN_OK;
}

static tn_status add_character(struct symbols *s, const char *text, size_t n, int first, int last, struct tn_error *err)
{
	const struct tn_token_model *model = s->model;
	struct tn_text *word = &s->work->word;
	if ((model->prefix_bytes && !first) || (model->suffix_bytes && last)) {
		word->length = 0;
		if (model->prefix_bytes && !first)
			TN_TRY(tn_text_add(word, model->prefix, model->prefix_bytes, err));
		TN_TRY(tn_text_add(word, text, n, err));
		if (model->suffix_bytes && last)
			TN_TRY(tn_text_add(word, model->suffix, model->suffix_bytes, err));
		text = word->data;
		n = word->length;
	}
	uint32_t id = tn_vocab_find(&model->vocab, text, n);
	if (id == TN_NO_TOKEN)
		return add_unknown(s, text, n, err);
	TN_TRY(flush_unknown(s, err));
	return add_symbol(s, id, err);
}

/* ---- merging --------------------------------------------------------------------------------------------- */

static int is_before(const struct tn_merge *a, const struct tn_merge *b)
{
	return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

static tn_status push(struct tn_work *work, struct tn_merge merge, struct tn_error *err)
{
	TN_TRY(tn_grow(work->ctx, &work->heap, &work->heap_capacity, work->heap_count + 1, sizeof *work->heap, "merges", err));
	size_t at = work->heap_count++;
	while (at > 0 && is_before(&merge, &work->heap[(at - 1) / 2])) {
		work->heap[at] = work->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	work->heap[at] = merge;
	return TN_OK;
}

static struct tn_merge pop(struct tn_work *work)
{
	struct tn_merge top = work->heap[0], last = work->heap[--work->heap_count];
	size_t at = 0, n = work->heap_count;
	for (;;) {
		size_t child = 2 * at + 1;
		if (child >= n)
			break;
		if (child + 1 < n && is_before(&work->heap[child + 1], &work->heap[child]))
			child++;
		if (!is_before(&work->heap[child], &last))
			break;
		work->heap[at] = work->heap[child];
		at = child;
	}
	work->heap[at] = last;
	return top;
}

static tn_status push_pair(struct symbols *s, int32_t left, int32_t right, struct tn_error *err)
{
	const struct tn_symbol *symbols = s->work->symbols;
	if (left < 0 || right < 0)
		return TN_OK;
	const struct tn_merge_slot *merge = find_merge(s->model, symbols[left].id, symbols[right].id);
	return merge ? push(s->work, (struct tn_merge){ merge->rank, merge->id, left }, err) : TN_OK;
}

/* A merge whose symbols have changed since it was pushed is passed over, unless they still make the same token. */
static tn_status apply(struct symbols *s, const struct tn_merge *merge, struct tn_error *err)
{
	struct tn_symbol *symbols = s->work->symbols, *left = &symbols[merge->at];
	if (left->gone || left->next < 0)
		return TN_OK;
	struct tn_symbol *right = &symbols[left->next];
	const struct tn_merge_slot *now = find_merge(s->model, left->id, right->id);
	if (!now || now->id != merge->id)
		return TN_OK;
	left->id = merge->id;
	left->next = right->next;
	right->gone = 1;
	if (right->next >= 0)
		symbols[right->next].previous = merge->at;
	TN_TRY(push_pair(s, left->previous, merge->at, err));
	return push_pair(s, merge->at, left->next, err);
}

static tn_status merge_all(struct symbols *s, struct tn_error *err)
{
	struct tn_work *work = s->work;
	work->heap_count = 0;
	if (s->count == 0)
		return TN_OK;
	work->symbols[s->count - 1].next = -1;
	for (size_t i = 0; i + 1 < s->count; i++)
		TN_TRY(push_pair(s, (int32_t)i, (int32_t)i + 1, err));
	while (work->heap_count) {
		struct tn_merge top = pop(work);
		TN_TRY(apply(s, &top, err));
	}
	for (int32_t i = 0; i >= 0; i = work->symbols[i].next)
		TN_TRY(tn_id_list_add(&work->ids, work->symbols[i].id, err));
	return TN_OK;
}

tn_status tn_bpe_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			struct tn_error *err)
{
	struct symbols s = { model, work, 0, TN_NO_TOKEN };
	size_t bytes;
	uint32_t whole = model->ignore_merges ? tn_vocab_find(&model->vocab, text, n) : TN_NO_TOKEN;
	if (whole != TN_NO_TOKEN)
		return tn_id_list_add(&work->ids, whole, err);
	for (size_t at = 0; at < n; at += bytes) {
		bytes = tn_char_bytes(text + at);
		TN_TRY(add_character(&s, text + at, bytes, at == 0, at + bytes == n, err));
	}
	TN_TRY(flush_unknown(&s, err));
	return merge_all(&s, err);
}
