/* SPDX-License-Identifier: Apache-2.0 */
/* Unigram: of all ways to cut a piece into tokens, the one with the best sum of scores (Viterbi). */
#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/token_model.h"

#include <string.h>

/* What an unknown character costs beside the worst token. */
#define UNKNOWN_PENALTY 10.0

tn_status tn_unigram_add(struct tn_token_model *model, const char *text, size_t n, double score, const char *where,
			 struct tn_error *err)
{
	uint32_t id = (uint32_t)model->score_count;
	TN_TRY(tn_grow(model->ctx, &model->scores, &model->score_capacity, model->score_count + 1, sizeof *model->scores,
		       "vocabulary", err));
	TN_TRY(tn_vocab_put(&model->vocab, text, n, id, where, err));
	TN_TRY(tn_trie_put(&model->trie, text, n, id, err));
	model->scores[model->score_count++] = score;
	if (score < model->least_score)
		model->least_score = score;
	return TN_OK;
}

static void offer(struct tn_best_end *end, size_t begin, uint32_t id, double score)
{
	if (end->reached && !(score > end->score))
		return;
	*end = (struct tn_best_end){ .score = score, .begin = begin, .id = id, .reached = 1 };
}

/* All tokens that begin at `at`. */
static void offer_tokens(const struct tn_token_model *model, struct tn_best_end *ends, const char *text, size_t n, size_t at,
			 int *single)
{
	uint32_t node = 0;
	size_t character = tn_char_bytes(text + at);
	*single = 0;
	for (size_t i = at; i < n; i++) {
		node = tn_trie_step(&model->trie, node, (unsigned char)text[i]);
		if (!node)
			return;
		uint32_t id = model->trie.nodes[node].value;
		if (id == TN_NO_TOKEN)
			continue;
		offer(&ends[i + 1], at, id, model->scores[id] + ends[at].score);
		*single |= i + 1 - at == character;
	}
}

/* Unknown characters behind one another are one text; it may be a token, or bytes. */
static tn_status add_text(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			  struct tn_error *err)
{
	uint32_t id = tn_vocab_find(&model->vocab, text, n);
	int done = 0;
	if (id == TN_NO_TOKEN && model->byte_fallback)
		TN_TRY(tn_token_bytes(model, work, text, n, &done, err));
	if (done)
		return TN_OK;
	if (id == TN_NO_TOKEN)
		id = model->unk_id;
	return id == TN_NO_TOKEN ? tn_token_unknown(model, text, n, err) : tn_id_list_add(&work->ids, id, err);
}

/* Turns the path, which is known from its end, round. */
static void turn_path(struct tn_best_end *ends, size_t n)
{
	for (size_t at = n; at > 0; at = ends[at].begin) {
		ends[ends[at].begin].next = at;
		ends[ends[at].begin].next_id = ends[at].id;
	}
}

static tn_status add_path(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			  struct tn_error *err)
{
	const struct tn_best_end *ends = work->ends;
	for (size_t at = 0, begin = 0; at < n; begin = at) {
		uint32_t id = ends[at].next_id;
		at = ends[at].next;
		while (id == model->unk_id && at < n && ends[at].next_id == id)
			at = ends[at].next;
		TN_TRY(add_text(model, work, text + begin, at - begin, err));
	}
	return TN_OK;
}

tn_status tn_unigram_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			    struct tn_error *err)
{
	double unknown = model->least_score - UNKNOWN_PENALTY;
	size_t bytes;
	int single;
	TN_TRY(tn_grow(work->ctx, &work->ends, &work->end_capacity, n + 1, sizeof *work->ends, "tokens", err));
	memset(work->ends, 0, (n + 1) * sizeof *work->ends);
	for (size_t at = 0; at < n; at += bytes) {
		bytes = tn_char_bytes(text + at);
		offer_tokens(model, work->ends, text, n, at, &single);
		if (single)
			continue;
		if (model->unk_id == TN_NO_TOKEN)
			return tn_token_unknown(model, text + at, bytes, err);
		offer(&work->ends[at + bytes], at, model->unk_id, unknown + work->ends[at].score);
	}
	turn_path(work->ends, n);
	return add_path(model, work, text, n, err);
}
