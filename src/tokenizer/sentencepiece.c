/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/sentencepiece.h"

#include "base/error.h"
#include "base/file.h"
#include "base/half.h"
#include "base/text.h"

#include <string.h>

enum { LARGEST_MODEL = 64 << 20 };

/* ---- the wire format ------------------------------------------------------------------------------------- */

enum wire { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 };

/* A message: a part of the file. */
struct message {
	const char *file;
	size_t at, end;
	const char *where;    /* the file's path */
};

struct field {
	uint64_t number;
	enum wire wire;
	uint64_t value;               /* VARINT, 32 */
	struct tn_piece_text text;    /* BYTES */
};

static tn_status damaged(const struct message *m, size_t at, const char *what, struct tn_error *err)
{
	return tn_fail_at(err, TN_E_FORMAT, m->where, at, "'%s' is no model of SentencePiece, or a damaged one: at byte %zu %s; "
			  "get the file again", m->where, at, what);
}

static tn_status take_varint(struct message *m, uint64_t *out, struct tn_error *err)
{
	size_t begin = m->at;
	*out = 0;
	for (int shift = 0; shift < 70; shift += 7) {
		if (m->at == m->end)
			return damaged(m, begin, "a number is cut short", err);
		unsigned char byte = (unsigned char)m->file[m->at++];
		*out |= (uint64_t)(byte & 0x7F) << shift;
		if (byte < 0x80)
			return TN_OK;
	}
	return damaged(m, begin, "a number has more than ten bytes", err);
}

static tn_status take_bytes(struct message *m, uint64_t n, struct field *out, struct tn_error *err)
{
	if (n > m->end - m->at)
		return damaged(m, m->at, "a field is longer than what it is part of", err);
	out->text = (struct tn_piece_text){ m->file + m->at, (size_t)n };
	m->at += (size_t)n;
	return TN_OK;
}

static tn_status take_field(struct message *m, struct field *out, struct tn_error *err)
{
	size_t begin = m->at;
	uint64_t key;
	TN_TRY(take_varint(m, &key, err));
	*out = (struct field){ .number = key >> 3, .wire = (enum wire)(key & 7) };
	if (out->number == 0 || out->number >= 1u << 29)
		return damaged(m, begin, "a field has a number that none can have", err);
	switch (out->wire) {
	case WIRE_VARINT:
		return take_varint(m, &out->value, err);
	case WIRE_64:
		return take_bytes(m, 8, out, err);
	case WIRE_BYTES:
		TN_TRY(take_varint(m, &out->value, err));
		return take_bytes(m, out->value, out, err);
	case WIRE_32:
		TN_TRY(take_bytes(m, 4, out, err));
		for (int i = 3; i >= 0; i--)
			out->value = out->value << 8 | (unsigned char)out->text.text[i];
		return TN_OK;
	}
	return damaged(m, begin, "a field is of a kind that such models do not have", err);
}

/* A field that stands there in another kind than its own is one that nobody knows. */
static int is(const struct field *f, uint64_t number, enum wire wire)
{
	return f->number == number && f->wire == wire;
}

static struct message inside(const struct message *m, const struct field *f)
{
	size_t begin = (size_t)(f->text.text - m->file);
	return (struct message){ m->file, begin, begin + f->text.bytes, m->where };
}

static int32_t number_of(const struct field *f)
{
	return (int32_t)(uint32_t)f->value;
}

/* An empty text leaves the one that counts otherwise. */
static tn_status take_text(const struct message *m, const struct field *f, struct tn_piece_text *out, struct tn_error *err)
{
	size_t valid = tn_utf8_valid_prefix(f->text.text, f->text.bytes);
	if (valid != f->text.bytes)
		return damaged(m, (size_t)(f->text.text - m->file) + valid, "a text is not UTF-8", err);
	if (f->text.bytes)
		*out = f->text;
	return TN_OK;
}

/* ---- the messages ---------------------------------------------------------------------------------------- */

static tn_status read_piece(struct tn_sentencepiece *model, struct message m, struct tn_error *err)
{
	struct tn_sentencepiece_piece piece = { .type = TN_PIECE_NORMAL };
	struct field f;
	size_t begin = m.at;
	while (m.at < m.end) {
		TN_TRY(take_field(&m, &f, err));
		if (is(&f, 1, WIRE_BYTES))
			TN_TRY(take_text(&m, &f, &piece.text, err));
		else if (is(&f, 2, WIRE_32))
			piece.score = tn_f32_from_bits((uint32_t)f.value);
		else if (is(&f, 3, WIRE_VARINT) && number_of(&f) >= TN_PIECE_NORMAL && number_of(&f) <= TN_PIECE_BYTE)
			piece.type = (enum tn_piece_type)number_of(&f);
	}
	if (!piece.text.bytes)
		return damaged(&m, begin, "a piece has no text", err);
	TN_TRY(tn_grow(model->ctx, &model->pieces, &model->capacity, model->count + 1, sizeof *model->pieces, "pieces", err));
	model->pieces[model->count++] = piece;
	return TN_OK;
}

static tn_status unsupported(const struct message *m, const char *what, struct tn_error *err)
{
	return tn_fail(err, TN_E_UNSUPPORTED, m->where, "'%s' %s, which tenon does not read; " TN_WRITE_TOKENIZER_JSON,
		       m->where, what);
}

static tn_status read_trainer(struct tn_sentencepiece *model, struct message m, struct tn_error *err)
{
	struct field f;
	while (m.at < m.end) {
		TN_TRY(take_field(&m, &f, err));
		if (is(&f, 3, WIRE_VARINT)) {
			if (f.value != TN_SENTENCEPIECE_UNIGRAM && f.value != TN_SENTENCEPIECE_BPE)
				return unsupported(&m, "is a model of words or characters", err);
			model->kind = (enum tn_sentencepiece_kind)f.value;
		} else if (is(&f, 24, WIRE_VARINT) && f.value) {
			return unsupported(&m, "puts spaces behind words (treat_whitespace_as_suffix)", err);
		} else if (is(&f, 35, WIRE_VARINT)) {
			model->byte_fallback = f.value != 0;
		} else if (is(&f, 40, WIRE_VARINT)) {
			model->unk_id = number_of(&f);
		} else if (is(&f, 41, WIRE_VARINT)) {
			model->bos_id = number_of(&f);
		} else if (is(&f, 42, WIRE_VARINT)) {
			model->eos_id = number_of(&f);
		} else if (is(&f, 45, WIRE_BYTES)) {
			TN_TRY(take_text(&m, &f, &model->unk_piece, err));
		} else if (is(&f, 46, WIRE_BYTES)) {
			TN_TRY(take_text(&m, &f, &model->bos_piece, err));
		} else if (is(&f, 47, WIRE_BYTES)) {
			TN_TRY(take_text(&m, &f, &model->eos_piece, err));
		}
	}
	return TN_OK;
}

static tn_status read_normalizer(struct tn_sentencepiece *model, struct message m, struct tn_error *err)
{
	struct field f;
	while (m.at < m.end) {
		TN_TRY(take_field(&m, &f, err));
		if (is(&f, 2, WIRE_BYTES))
			model->charsmap = f.text;
		else if (is(&f, 3, WIRE_VARINT))
			model->add_dummy_prefix = f.value != 0;
		else if (is(&f, 4, WIRE_VARINT))
			model->remove_extra_whitespaces = f.value != 0;
		else if (is(&f, 5, WIRE_VARINT) && !f.value)
			return unsupported(&m, "keeps spaces as they are (escape_whitespaces is false)", err);
	}
	return TN_OK;
}

static tn_status read_model(struct tn_sentencepiece *model, struct message m, struct tn_error *err)
{
	struct field f;
	while (m.at < m.end) {
		TN_TRY(take_field(&m, &f, err));
		if (is(&f, 1, WIRE_BYTES))
			TN_TRY(read_piece(model, inside(&m, &f), err));
		else if (is(&f, 2, WIRE_BYTES))
			TN_TRY(read_trainer(model, inside(&m, &f), err));
		else if (is(&f, 3, WIRE_BYTES))
			TN_TRY(read_normalizer(model, inside(&m, &f), err));
	}
	return model->count ? TN_OK : damaged(&m, m.end, "it ends without a single piece", err);
}

/* ---- the file -------------------------------------------------------------------------------------------- */

static int is_base64(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/' || c == '=';
}

/* tiktoken's tables go by the same name: lines of base64, a space and a number. */
static int is_tiktoken(const char *text, size_t n)
{
	size_t at = 0, digits;
	while (at < n && is_base64(text[at]))
		at++;
	if (at == 0 || at == n || text[at] != ' ')
		return 0;
	for (digits = at + 1; digits < n && text[digits] >= '0' && text[digits] <= '9'; digits++)
		;
	return digits > at + 1 && digits < n && text[digits] == '\n';
}

static tn_status load(tn_context *ctx, const char *path, struct tn_buffer *out, struct tn_error *err)
{
	struct tn_file file;
	TN_TRY(tn_file_open(path, &file, err));
	tn_status status = TN_OK;
	if (file.bytes > LARGEST_MODEL)
		status = tn_fail(err, TN_E_LIMIT, path, "'%s' has %llu bytes; a model of SentencePiece with more than %d is not "
				 "read; " TN_WRITE_TOKENIZER_JSON, path, (unsigned long long)file.bytes, LARGEST_MODEL);
	if (status == TN_OK)
		status = tn_buffer_alloc(ctx, (size_t)file.bytes, "tokenizer.model", out, err);
	if (status == TN_OK) {
		status = tn_file_read(&file, out->data, out->bytes, 0, path, err);
		if (status != TN_OK)
			tn_buffer_release(ctx, out);
	}
	tn_file_close(&file);
	return status;
}

tn_status tn_sentencepiece_read(tn_context *ctx, const char *path, struct tn_sentencepiece *out, struct tn_error *err)
{
	struct tn_sentencepiece model = { .ctx = ctx, .kind = TN_SENTENCEPIECE_UNIGRAM, .bos_id = 1, .eos_id = 2,
					  .unk_piece = { "<unk>", 5 }, .bos_piece = { "<s>", 3 }, .eos_piece = { "</s>", 4 },
					  .add_dummy_prefix = 1, .remove_extra_whitespaces = 1 };
	TN_TRY(load(ctx, path, &model.file, err));
	struct message all = { model.file.data, 0, model.file.bytes, path };
	tn_status status = is_tiktoken(all.file, all.end) ? unsupported(&all, "is a table of tiktoken", err) :
							    read_model(&model, all, err);
	if (status != TN_OK) {
		tn_sentencepiece_release(&model);
		return status;
	}
	*out = model;
	return TN_OK;
}

void tn_sentencepiece_release(struct tn_sentencepiece *model)
{
	if (!model->ctx)
		return;
	tn_free_array(model->ctx, model->pieces, model->capacity, sizeof *model->pieces);
	tn_buffer_release(model->ctx, &model->file);
	model->ctx = NULL;
}
