/* SPDX-License-Identifier: Apache-2.0 */
#include "store/gguf.h"

#include "base/checked.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST_HEADER = 64 << 20, MOST_TENSORS = 1 << 20, LONGEST_NAME = 255, ARRAY = 9, TEXT = 8 };
enum { LEAST_TENSOR = 8 + 1 + 4 + 4 + 8 }; /* bytes of a description: a name of one, no dimension, type, offset */

struct scan {
	const unsigned char *bytes;
	size_t length, pos;
	const char *where;
};

static tn_status fail_cut(const struct scan *s, struct tn_error *err)
{
	return tn_fail_at(err, TN_E_FORMAT, s->where, s->pos,
			  "the header of '%s' ends in the middle, or is longer than any adapter's", s->where);
}

static tn_status take_u64(struct scan *s, size_t n, uint64_t *out, struct tn_error *err)
{
	if (s->length - s->pos < n)
		return fail_cut(s, err);
	*out = 0;
	for (size_t i = n; i-- > 0;)
		*out = *out << 8 | s->bytes[s->pos + i];
	s->pos += n;
	return TN_OK;
}

static tn_status skip(struct scan *s, uint64_t n, struct tn_error *err)
{
	if (s->length - s->pos < n)
		return fail_cut(s, err);
	s->pos += (size_t)n;
	return TN_OK;
}

/* A text of the file: where it begins, and its length. */
static tn_status take_text(struct scan *s, const char **text, uint64_t *n, struct tn_error *err)
{
	TN_TRY(take_u64(s, 8, n, err));
	*text = (const char *)s->bytes + s->pos;
	return skip(s, *n, err);
}

/* Bytes of a value of a plain type; 0: text, array or unknown. */
static unsigned type_bytes(uint64_t type)
{
	static const unsigned char bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
	return type < sizeof bytes ? bytes[type] : 0;
}

static tn_status skip_array(struct scan *s, struct tn_error *err)
{
	uint64_t type, count, bytes, length;
	const char *text;
	TN_TRY(take_u64(s, 4, &type, err));
	TN_TRY(take_u64(s, 8, &count, err));
	if (type == TEXT) {
		for (uint64_t i = 0; i < count; i++)
			TN_TRY(take_text(s, &text, &length, err));
		return TN_OK;
	}
	if (!type_bytes(type) || tn_mul_u64(count, type_bytes(type), &bytes))
		return tn_fail_at(err, TN_E_FORMAT, s->where, s->pos, "'%s' holds an array of the unknown type %llu", s->where,
				  (unsigned long long)type);
	return skip(s, bytes, err);
}

/* ---- settings -------------------------------------------------------------------------------------------- */

static int is_key(const char *key, uint64_t n, const char *wanted)
{
	return n == strlen(wanted) && memcmp(key, wanted, n) == 0;
}

static void keep_text(char out[32], const char *text, uint64_t n)
{
	size_t length = n < 31 ? (size_t)n : 31;
	memcpy(out, text, length);
	out[length] = '\0';
}

static tn_status take_setting(struct scan *s, struct tn_gguf_info *info, uint64_t *alignment, struct tn_error *err)
{
	const char *key, *text;
	uint64_t n, type, value, length;
	TN_TRY(take_text(s, &key, &n, err));
	TN_TRY(take_u64(s, 4, &type, err));
	if (type == ARRAY) {
		info->has_invocation |= is_key(key, n, "adapter.alora.invocation_tokens");
		return skip_array(s, err);
	}
	if (type == TEXT) {
		TN_TRY(take_text(s, &text, &length, err));
		if (is_key(key, n, "general.type"))
			keep_text(info->type, text, length);
		else if (is_key(key, n, "general.architecture"))
			keep_text(info->architecture, text, length);
		else if (is_key(key, n, "adapter.type"))
			keep_text(info->adapter_type, text, length);
		return TN_OK;
	}
	if (!type_bytes(type))
		return tn_fail_at(err, TN_E_FORMAT, s->where, s->pos, "'%s' holds a value of the unknown type %llu", s->where,
				  (unsigned long long)type);
	TN_TRY(take_u64(s, type_bytes(type), &value, err));
	if (type == 6 && is_key(key, n, "adapter.lora.alpha")) {
		uint32_t bits = (uint32_t)value;
		float alpha;
		memcpy(&alpha, &bits, sizeof alpha);
		info->alpha = (double)alpha;
	} else if (type == 4 && is_key(key, n, "general.alignment")) {
		*alignment = value;
	}
	return TN_OK;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

static tn_status find_dtype(const struct scan *s, uint64_t type, const char *name, tn_dtype *out, struct tn_error *err)
{
	switch (type) {
	case 0: *out = TN_F32; return TN_OK;
	case 1: *out = TN_F16; return TN_OK;
	case 28: *out = TN_F64; return TN_OK;
	case 30: *out = TN_BF16; return TN_OK;
	default: break;
	}
	return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.100s' in '%s' has the ggml type %llu; F32, F16 or BF16 was expected", name,
		       s->where, (unsigned long long)type);
}

static tn_status take_tensor(struct scan *s, struct tn_arena *arena, struct tn_tensor *t, struct tn_error *err)
{
	const char *name;
	uint64_t n, dims, type, *shape;
	TN_TRY(take_text(s, &name, &n, err));
	if (n == 0 || n > LONGEST_NAME || memchr(name, 0, (size_t)n))
		return tn_fail_at(err, TN_E_FORMAT, s->where, s->pos, "'%s' holds a tensor whose name has %llu bytes", s->where,
				  (unsigned long long)n);
	TN_TRY(tn_arena_text(arena, name, (size_t)n, &t->name, err));
	TN_TRY(take_u64(s, 4, &dims, err));
	if (dims > 4)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.100s' has %llu dimensions", t->name, (unsigned long long)dims);
	TN_TRY(tn_arena_array(arena, 4, sizeof *shape, &shape, err));
	t->rank = (uint32_t)dims;
	t->shape = shape;
	t->elements = 1;
	for (uint64_t i = 0; i < dims; i++) {
		TN_TRY(take_u64(s, 8, &shape[dims - 1 - i], err));
		if (tn_mul_u64(t->elements, shape[dims - 1 - i], &t->elements) || t->elements > UINT64_MAX / 64)
			return tn_fail(err, TN_E_FORMAT, t->name, "'%.100s' has more elements than fit", t->name);
	}
	TN_TRY(take_u64(s, 4, &type, err));
	TN_TRY(find_dtype(s, type, t->name, &t->dtype, err));
	t->bytes = t->elements * tn_dtype_bits(t->dtype) / 8;
	return take_u64(s, 8, &t->offset, err);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(const struct tn_tensor *const *)a)->name, (*(const struct tn_tensor *const *)b)->name);
}

static tn_status place_tensors(const struct scan *s, tn_safetensors *file, uint64_t alignment, struct tn_error *err)
{
	struct tn_st_header *h = &file->header;
	uint64_t data = (s->pos + alignment - 1) / alignment * alignment, end;
	for (size_t i = 0; i < h->count; i++) {
		struct tn_tensor *t = &h->tensors[i];
		if (tn_add_u64(t->offset, data, &t->offset) || tn_add_u64(t->offset, t->bytes, &end) || end > file->bytes)
			return tn_fail(err, TN_E_FORMAT, t->name,
				       "'%.100s' reaches past the end of '%s': it is cut short; get it again",
				       t->name, s->where);
		h->by_name[i] = t;
	}
	if (h->count > 1)
		qsort(h->by_name, h->count, sizeof *h->by_name, compare_names);
	for (size_t i = 1; i < h->count; i++)
		if (strcmp(h->by_name[i - 1]->name, h->by_name[i]->name) == 0)
			return tn_fail(err, TN_E_FORMAT, h->by_name[i]->name, "'%.100s' stands twice in '%s'", h->by_name[i]->name,
				       s->where);
	return TN_OK;
}

static tn_status parse(struct scan *s, tn_safetensors *file, struct tn_gguf_info *info, struct tn_error *err)
{
	uint64_t version, tensors, settings, alignment = 32;
	struct tn_st_header *h = &file->header;
	if (s->length < 4 || memcmp(s->bytes, "GGUF", 4) != 0)
		return tn_fail(err, TN_E_FORMAT, s->where, "'%s' does not begin with GGUF", s->where);
	s->pos = 4;
	TN_TRY(take_u64(s, 4, &version, err));
	TN_TRY(take_u64(s, 8, &tensors, err));
	TN_TRY(take_u64(s, 8, &settings, err));
	if (version < 2 || version > 3 || tensors > MOST_TENSORS)
		return tn_fail(err, TN_E_UNSUPPORTED, s->where,
			       "'%s' has the version %llu and %llu tensors; version 2 or 3 was expected",
			       s->where, (unsigned long long)version, (unsigned long long)tensors);
	for (uint64_t i = 0; i < settings; i++)
		TN_TRY(take_setting(s, info, &alignment, err));
	if (alignment == 0 || alignment > 1 << 20 || (alignment & (alignment - 1)))
		return tn_fail(err, TN_E_FORMAT, s->where, "general.alignment of '%s' is %llu", s->where,
			       (unsigned long long)alignment);
	if (tensors > (s->length - s->pos) / LEAST_TENSOR) /* before memory is taken for them */
		return fail_cut(s, err);
	TN_TRY(tn_arena_array(&file->arena, (size_t)tensors, sizeof *h->tensors, &h->tensors, err));
	TN_TRY(tn_arena_array(&file->arena, (size_t)tensors, sizeof *h->by_name, &h->by_name, err));
	for (h->count = 0; h->count < tensors; h->count++)
		TN_TRY(take_tensor(s, &file->arena, &h->tensors[h->count], err));
	return place_tensors(s, file, alignment, err);
}

static tn_status open_file(tn_safetensors *file, const char *path, struct tn_gguf_info *info, struct tn_error *err)
{
	struct tn_buffer header;
	TN_TRY(tn_arena_text(&file->arena, path, strlen(path), &file->path, err));
	TN_TRY(tn_file_open(path, &file->file, err));
	file->bytes = file->file.bytes;
	size_t length = file->bytes < LONGEST_HEADER ? (size_t)file->bytes : LONGEST_HEADER;
	TN_TRY(tn_buffer_alloc(file->ctx, length, path, &header, err));
	struct scan s = { header.data, length, 0, file->path };
	tn_status status = tn_file_read(&file->file, header.data, length, 0, path, err);
	if (status == TN_OK)
		status = parse(&s, file, info, err);
	tn_buffer_release(file->ctx, &header);
	return status;
}

tn_status tn_gguf_open(tn_context *ctx, const char *path, tn_safetensors **out, struct tn_gguf_info *info,
		       struct tn_error *err)
{
	struct tn_arena arena;
	tn_safetensors *file;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *file, &file, err));
	file->ctx = ctx;
	file->arena = arena;
	file->file = (struct tn_file)TN_FILE_CLOSED;
	*info = (struct tn_gguf_info){ .alpha = 0 };
	tn_status status = open_file(file, path, info, err);
	if (status != TN_OK) {
		tn_safetensors_close(file);
		return status;
	}
	*out = file;
	return TN_OK;
}
