/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "tokenizer/tokenizer_parts.h"

#include <string.h>

const char *const tn_special_names[TN_SPECIAL_COUNT] = {
	[TN_BOS] = "bos_token", [TN_EOS] = "eos_token", [TN_UNK] = "unk_token", [TN_SEP] = "sep_token",
	[TN_PAD] = "pad_token", [TN_CLS] = "cls_token", [TN_MASK] = "mask_token",
};

/* A folder with one of two files, of which the first counts; or one of them alone. */
static tn_status open_path(struct tn_tokenizer *t, const char *path, struct tn_error *err)
{
	char file[TN_PATH_BYTES];
	tn_path_kind kind;
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind != TN_PATH_FOLDER)
		return tn_ends_with(path, ".model") ? tn_tokenizer_read_pieces(t, path, NULL, err) :
						      tn_tokenizer_read(t, path, NULL, err);
	TN_TRY(tn_path_join(file, path, "tokenizer.json", err));
	TN_TRY(tn_path_kind_of(file, &kind, err));
	if (kind != TN_PATH_MISSING)
		return tn_tokenizer_read(t, file, path, err);
	TN_TRY(tn_path_join(file, path, "tokenizer.model", err));
	TN_TRY(tn_path_kind_of(file, &kind, err));
	if (kind != TN_PATH_MISSING)
		return tn_tokenizer_read_pieces(t, file, path, err);
	return tn_fail(err, TN_E_NOTFOUND, path, "'%s' has no tokenizer.json and no tokenizer.model; a vocab.json or a file of "
		       "another name is not read: save the tokenizer with transformers, which writes tokenizer.json", path);
}

tn_status tn_tokenizer_open(tn_context *ctx, const char *path, tn_tokenizer **out, struct tn_error *err)
{
	struct tn_tokenizer *t;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *t, "tokenizer", &t, err));
	t->ctx = ctx;
	tn_arena_init(&t->arena, ctx);
	tn_normalizer_init(&t->normalizer, &t->arena);
	tn_pretokenizer_init(&t->pre, &t->arena);
	tn_detokenizer_init(&t->decoder, &t->arena);
	tn_id_list_init(&t->stop_ids, ctx);
	tn_status status = open_path(t, path, err);
	if (status != TN_OK) {
		tn_tokenizer_close(t);
		return status;
	}
	*out = t;
	return TN_OK;
}

void tn_tokenizer_close(tn_tokenizer *t)
{
	if (!t)
		return;
	tn_token_model_release(&t->model);
	tn_added_tokens_release(&t->added);
	tn_normalizer_release(&t->normalizer);
	tn_pretokenizer_release(&t->pre);
	tn_detokenizer_release(&t->decoder);
	tn_id_list_release(&t->stop_ids);
	tn_arena_release(&t->arena);
	tn_free(t->ctx, t, sizeof *t);
}

/* ---- looking up ------------------------------------------------------------------------------------------ */

size_t tn_tokenizer_vocab_size(const tn_tokenizer *t)
{
	return t->vocab_size;
}

uint32_t tn_tokenizer_id_limit(const tn_tokenizer *t)
{
	return t->id_limit;
}

const char *tn_tokenizer_token(const tn_tokenizer *t, uint32_t id, size_t *bytes)
{
	const struct tn_added_token *added = tn_added_tokens_at(&t->added, id);
	if (!added)
		return tn_vocab_text(&t->model.vocab, id, bytes);
	*bytes = added->bytes;
	return added->content;
}

uint32_t tn_tokenizer_id_of(const struct tn_tokenizer *t, const char *token, size_t n)
{
	const struct tn_added_token *added = tn_added_tokens_find(&t->added, token, n);
	return added ? added->id : tn_vocab_find(&t->model.vocab, token, n);
}

uint32_t tn_tokenizer_find(const tn_tokenizer *t, const char *token, size_t bytes)
{
	return tn_tokenizer_id_of(t, token, bytes);
}

int tn_tokenizer_is_special(const tn_tokenizer *t, uint32_t id)
{
	const struct tn_added_token *added = tn_added_tokens_at(&t->added, id);
	return added && added->special;
}

const char *tn_tokenizer_special(const tn_tokenizer *t, const char *name, uint32_t *id)
{
	for (int i = 0; i < TN_SPECIAL_COUNT; i++) {
		if (strcmp(name, tn_special_names[i]) != 0 || !t->special[i])
			continue;
		if (id)
			*id = tn_tokenizer_id_of(t, t->special[i], strlen(t->special[i]));
		return t->special[i];
	}
	return NULL;
}

const uint32_t *tn_tokenizer_stop_ids(const tn_tokenizer *t, size_t *count)
{
	*count = t->stop_ids.count;
	return t->stop_ids.items;
}
