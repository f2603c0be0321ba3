/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/token_model.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>

void tn_token_model_init(struct tn_token_model *model, tn_context *ctx, uint64_t seed)
{
	*model = (struct tn_token_model){ .ctx = ctx, .unk_id = TN_NO_TOKEN, .least_score = HUGE_VAL, .longest_word = 100 };
	tn_vocab_init(&model->vocab, ctx, seed);
	tn_trie_init(&model->trie, ctx);
}

void tn_token_model_release(struct tn_token_model *model)
{
	if (!model->ctx)
		return;
	tn_vocab_release(&model->vocab);
	tn_trie_release(&model->trie);
	tn_free_array(model->ctx, model->merges, model->merge_slots, sizeof *model->merges);
	tn_free_array(model->ctx, model->scores, model->score_capacity, sizeof *model->scores);
}

void tn_token_model_finish(struct tn_token_model *model)
{
	if (model->unk)
		model->unk_id = tn_vocab_find(&model->vocab, model->unk, model->unk_bytes);
	for (unsigned i = 0; i < 256; i++) {
		char name[8];
		int n = snprintf(name, sizeof name, "<0x%02X>", i);
		model->byte_ids[i] = tn_vocab_find(&model->vocab, name, (size_t)n);
	}
}

tn_status tn_token_bytes(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n, int *done,
			 struct tn_error *err)
{
	*done = 0;
	for (size_t i = 0; i < n; i++)
		if (model->byte_ids[(unsigned char)text[i]] == TN_NO_TOKEN)
			return TN_OK;
	for (size_t i = 0; i < n; i++)
		TN_TRY(tn_id_list_add(&work->ids, model->byte_ids[(unsigned char)text[i]], err));
	*done = 1;
	return TN_OK;
}

tn_status tn_token_unknown(const struct tn_token_model *model, const char *text, size_t n, struct tn_error *err)
{
	int shown = n < 40 ? (int)n : 40;
	if (model->unk)
		return tn_fail(err, TN_E_MISMATCH, model->unk, "the vocabulary has no token for '%.*s', and its unknown token "
			       "'%.60s' is not in it either", shown, text, model->unk);
	return tn_fail(err, TN_E_MISMATCH, "vocabulary", "the vocabulary has no token for '%.*s', and no unknown token", shown,
		       text);
}

static tn_status encode_word(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			     struct tn_error *err)
{
	uint32_t id = tn_vocab_find(&model->vocab, text, n);
	if (id == TN_NO_TOKEN)
		id = model->unk_id;
	return id == TN_NO_TOKEN ? tn_token_unknown(model, text, n, err) : tn_id_list_add(&work->ids, id, err);
}

tn_status tn_token_model_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
				struct tn_error *err)
{
	switch (model->kind) {
	case TN_MODEL_BPE: return tn_bpe_encode(model, work, text, n, err);
	case TN_MODEL_UNIGRAM: return tn_unigram_encode(model, work, text, n, err);
	case TN_MODEL_WORDPIECE: return tn_wordpiece_encode(model, work, text, n, err);
	case TN_MODEL_WORDLEVEL: return encode_word(model, work, text, n, err);
	}
	return TN_OK;
}
