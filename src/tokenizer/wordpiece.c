/* SPDX-License-Identifier: Apache-2.0 */
/* WordPiece: the longest token first, then again behind it with the prefix of continuing pieces. */
#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/token_model.h"

static size_t character_count(const char *text, size_t n)
{
	size_t count = 0;
	for (size_t at = 0; at < n; at += tn_char_bytes(text + at))
		count++;
	return count;
}

/* The node behind the prefix; 0: no token begins so. */
static uint32_t behind_prefix(const struct tn_token_model *model)
{
	uint32_t node = 0;
	for (size_t i = 0; i < model->prefix_bytes; i++) {
		node = tn_trie_step(&model->trie, node, (unsigned char)model->prefix[i]);
		if (!node)
			return 0;
	}
	return node;
}

/* The end of the longest token that begins at `begin`, or `begin`; its id. */
static size_t longest(const struct tn_token_model *model, const char *text, size_t n, size_t begin, uint32_t *id)
{
	int has_prefix = begin > 0 && model->prefix_bytes;
	uint32_t node = has_prefix ? behind_prefix(model) : 0;
	size_t end = begin;
	if (has_prefix && !node)
		return begin;
	for (size_t i = begin; i < n; i++) {
		node = tn_trie_step(&model->trie, node, (unsigned char)text[i]);
		if (!node)
			break;
		if (model->trie.nodes[node].value != TN_NO_TOKEN) {
			*id = model->trie.nodes[node].value;
			end = i + 1;
		}
	}
	return end;
}

static tn_status add_unknown(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			     struct tn_error *err)
{
	if (model->unk_id == TN_NO_TOKEN)
		return tn_token_unknown(model, text, n, err);
	return tn_id_list_add(&work->ids, model->unk_id, err);
}

tn_status tn_wordpiece_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			      struct tn_error *err)
{
	size_t first = work->ids.count, end;
	uint32_t id = TN_NO_TOKEN;
	if (character_count(text, n) > model->longest_word)
		return add_unknown(model, work, text, n, err);
	for (size_t begin = 0; begin < n; begin = end) {
		end = longest(model, text, n, begin, &id);
		if (end == begin) {
			work->ids.count = first;
			return add_unknown(model, work, text, n, err);
		}
		TN_TRY(tn_id_list_add(&work->ids, id, err));
	}
	return TN_OK;
}
