/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/token_vocab.h"

#include "base/error.h"

#include <string.h>

/* Ids may have gaps, but a table by id is not to take memory that the file's size does not explain. */
enum { FREE_IDS = 1 << 17, IDS_PER_TOKEN = 8 };

uint64_t tn_token_hash(uint64_t seed, const char *text, size_t n)
{
	uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15u);
	while (n >= 8) {
		uint64_t word;
		memcpy(&word, text, 8);
		h = (h ^ word) * 0xD6E8FEB86659FD93u;
		h ^= h >> 32;
		text += 8;
		n -= 8;
	}
	uint64_t rest = 0;
	memcpy(&rest, text, n);
	h = (h ^ rest) * 0xD6E8FEB86659FD93u;
	h ^= h >> 32;
	h *= 0xD6E8FEB86659FD93u;
	return h ^ h >> 32;
}

void tn_vocab_init(struct tn_vocab *vocab, tn_context *ctx, uint64_t seed)
{
	*vocab = (struct tn_vocab){ .ctx = ctx, .seed = seed };
	tn_text_init(&vocab->pool, ctx);
}

void tn_vocab_release(struct tn_vocab *vocab)
{
	if (!vocab->ctx)
		return;
	tn_text_release(&vocab->pool);
	tn_free_array(vocab->ctx, vocab->by_id, vocab->id_capacity, sizeof *vocab->by_id);
	tn_free_array(vocab->ctx, vocab->slots, vocab->slot_count, sizeof *vocab->slots);
	*vocab = (struct tn_vocab){ .ctx = vocab->ctx };
}

/* The slot of the text, or the free one where it belongs. The table has free slots. */
static struct tn_vocab_slot *slot_of(const struct tn_vocab *vocab, const char *text, size_t n)
{
	size_t mask = vocab->slot_count - 1, i = (size_t)tn_token_hash(vocab->seed, text, n) & mask;
	for (;; i = (i + 1) & mask) {
		struct tn_vocab_slot *slot = &vocab->slots[i];
		if (slot->id == TN_NO_TOKEN)
			return slot;
		if (slot->text.length == n && (n == 0 || memcmp(vocab->pool.data + slot->text.at, text, n) == 0))
			return slot;
	}
}

static tn_status grow_slots(struct tn_vocab *vocab, struct tn_error *err)
{
	struct tn_vocab_slot *old = vocab->slots, *slots;
	size_t old_count = vocab->slot_count, count = old_count ? 2 * old_count : 1024;
	TN_TRY(tn_alloc_array(vocab->ctx, count, sizeof *slots, "vocabulary", &slots, err));
	for (size_t i = 0; i < count; i++)
		slots[i].id = TN_NO_TOKEN;
	vocab->slots = slots;
	vocab->slot_count = count;
	for (size_t i = 0; i < old_count; i++)
		if (old[i].id != TN_NO_TOKEN)
			*slot_of(vocab, vocab->pool.data + old[i].text.at, old[i].text.length) = old[i];
	tn_free_array(vocab->ctx, old, old_count, sizeof *old);
	return TN_OK;
}

static tn_status reach_id(struct tn_vocab *vocab, uint64_t id, const char *where, struct tn_error *err)
{
	if (id < vocab->id_limit)
		return TN_OK;
	if (id >= FREE_IDS + (uint64_t)IDS_PER_TOKEN * vocab->count)
		return tn_fail(err, TN_E_LIMIT, where, "'%s' gives a token the id %llu, although it has only about %zu tokens",
			       where, (unsigned long long)id, vocab->count);
	TN_TRY(tn_grow(vocab->ctx, &vocab->by_id, &vocab->id_capacity, (size_t)id + 1, sizeof *vocab->by_id, "vocabulary",
		       err));
	for (; vocab->id_limit <= id; vocab->id_limit++)
		vocab->by_id[vocab->id_limit] = (struct tn_vocab_text){ UINT32_MAX, 0 };
	return TN_OK;
}

tn_status tn_vocab_put(struct tn_vocab *vocab, const char *text, size_t n, uint64_t id, const char *where,
		       struct tn_error *err)
{
	if (2 * (vocab->count + 1) > vocab->slot_count)
		TN_TRY(grow_slots(vocab, err));
	TN_TRY(reach_id(vocab, id, where, err));
	struct tn_vocab_slot *slot = slot_of(vocab, text, n);
	if (slot->id == TN_NO_TOKEN) {
		if (vocab->pool.length + n >= UINT32_MAX)
			return tn_fail(err, TN_E_LIMIT, where, "the tokens of '%s' take more than 4 GiB", where);
		struct tn_vocab_text at = { (uint32_t)vocab->pool.length, (uint32_t)n };
		TN_TRY(tn_text_add(&vocab->pool, text, n, err));
		slot->text = at;
		vocab->count++;
	}
	slot->id = (uint32_t)id;
	vocab->by_id[id] = slot->text;
	return TN_OK;
}

uint32_t tn_vocab_find(const struct tn_vocab *vocab, const char *text, size_t n)
{
	return vocab->slot_count ? slot_of(vocab, text, n)->id : TN_NO_TOKEN;
}

const char *tn_vocab_text(const struct tn_vocab *vocab, uint32_t id, size_t *n)
{
	if (id >= vocab->id_limit || vocab->by_id[id].at == UINT32_MAX)
		return NULL;
	*n = vocab->by_id[id].length;
	return vocab->pool.data + vocab->by_id[id].at;
}

/* ---- the trie -------------------------------------------------------------------------------------------- */

void tn_trie_init(struct tn_trie *trie, tn_context *ctx)
{
	memset(trie, 0, sizeof *trie);
	trie->ctx = ctx;
}

void tn_trie_release(struct tn_trie *trie)
{
	if (trie->ctx)
		tn_free_array(trie->ctx, trie->nodes, trie->capacity, sizeof *trie->nodes);
	tn_trie_init(trie, trie->ctx);
}

static tn_status add_node(struct tn_trie *trie, unsigned char byte, uint32_t *out, struct tn_error *err)
{
	if (trie->count >= UINT32_MAX - 1)
		return tn_fail(err, TN_E_LIMIT, "vocabulary", "the tokens take more than 4 billion nodes");
	TN_TRY(tn_grow(trie->ctx, &trie->nodes, &trie->capacity, trie->count + 1, sizeof *trie->nodes, "trie", err));
	trie->nodes[trie->count] = (struct tn_trie_node){ .value = TN_NO_TOKEN, .byte = byte };
	*out = (uint32_t)trie->count++;
	return TN_OK;
}

tn_status tn_trie_put(struct tn_trie *trie, const char *text, size_t n, uint32_t value, struct tn_error *err)
{
	uint32_t node = 0;
	if (trie->count == 0)
		TN_TRY(add_node(trie, 0, &node, err));
	for (size_t i = 0; i < n; i++) {
		unsigned char byte = (unsigned char)text[i];
		uint32_t next = tn_trie_step(trie, node, byte);
		if (!next) {
			TN_TRY(add_node(trie, byte, &next, err));
			if (node == 0) {
				trie->first[byte] = next;
			} else {
				trie->nodes[next].sibling = trie->nodes[node].child;
				trie->nodes[node].child = next;
			}
		}
		node = next;
	}
	if (n)
		trie->nodes[node].value = value;
	return TN_OK;
}

size_t tn_trie_longest(const struct tn_trie *trie, const char *text, size_t n, uint32_t *value)
{
	uint32_t node = 0;
	size_t longest = 0;
	for (size_t i = 0; i < n; i++) {
		node = tn_trie_step(trie, node, (unsigned char)text[i]);
		if (!node)
			break;
		if (trie->nodes[node].value != TN_NO_TOKEN) {
			longest = i + 1;
			*value = trie->nodes[node].value;
		}
	}
	return longest;
}
