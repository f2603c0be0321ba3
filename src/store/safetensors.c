/* SPDX-License-Identifier: Apache-2.0 */
#include "store/safetensors.h"

#include "base/checked.h"
#include "base/error.h"

#include <string.h>

static uint64_t little_endian_u64(const unsigned char bytes[8])
{
	uint64_t n = 0;
	for (int i = 7; i >= 0; i--)
		n = n << 8 | bytes[i];
	return n;
}

static tn_status read_bytes(const tn_safetensors *file, void *dst, size_t n, uint64_t offset, struct tn_error *err)
{
	if (file->memory) {
		memcpy(dst, file->memory + offset, n); /* offset + n is inside: the header was checked */
		return TN_OK;
	}
	return tn_file_read(&file->file, dst, n, offset, file->path, err);
}

/* What git has in place of a large file that it did not fetch: a few lines of text that begin so. */
static tn_status refuse_pointer(const tn_safetensors *file, struct tn_error *err)
{
	static const char pointer[] = "version https://git-lfs";
	char found[sizeof pointer - 1];
	if (file->bytes < sizeof found)
		return TN_OK;
	TN_TRY(read_bytes(file, found, sizeof found, 0, err));
	if (memcmp(found, pointer, sizeof found) != 0)
		return TN_OK;
	return tn_fail(err, TN_E_FORMAT, file->path,
		       "'%s' is a pointer of git-lfs, and the weights themselves were not fetched: run `git lfs pull` in its "
		       "folder",
		       file->path);
}

static int is_text(const unsigned char word[8])
{
	int text = 1;
	for (int i = 0; i < 8; i++)
		text &= (word[i] >= ' ' && word[i] < 0x7f) || word[i] == '\n' || word[i] == '\r' || word[i] == '\t';
	return text;
}

static tn_status read_header(tn_safetensors *file, struct tn_error *err)
{
	unsigned char word[8];
	if (file->bytes < 8)
		return tn_fail(err, TN_E_FORMAT, file->path,
			       "'%s' has %llu bytes, and a safetensors file begins with 8 bytes for the length of its header",
			       file->path, (unsigned long long)file->bytes);
	TN_TRY(read_bytes(file, word, 8, 0, err));
	uint64_t length = little_endian_u64(word);
	if (length > TN_ST_LONGEST_HEADER)
		TN_TRY(refuse_pointer(file, err));
	if (length > TN_ST_LONGEST_HEADER && is_text(word))
		return tn_fail(err, TN_E_LIMIT, file->path, "'%s' is a text and no safetensors file: name that, or its folder",
			       file->path);
	if (length > TN_ST_LONGEST_HEADER)
		return tn_fail(err, TN_E_LIMIT, file->path,
			       "'%s' says its header has %llu bytes, and at most %d are allowed: it is damaged, or no "
			       "safetensors file",
			       file->path, (unsigned long long)length, TN_ST_LONGEST_HEADER);
	if (length > file->bytes - 8)
		return tn_fail_at(err, TN_E_FORMAT, file->path, file->bytes,
				  "'%s' says its header has %llu bytes, and %llu follow: it is cut short; get it again",
				  file->path, (unsigned long long)length, (unsigned long long)(file->bytes - 8));
	struct tn_buffer text;
	TN_TRY(tn_buffer_alloc(file->ctx, (size_t)length, file->path, &text, err));
	tn_status status = read_bytes(file, text.data, (size_t)length, 8, err);
	if (status == TN_OK)
		status = tn_st_header_parse(&file->arena, text.data, (size_t)length,
					    file->may_be_cut && file->bytes == 8 + length ? TN_ST_CUT : file->bytes, file->path,
					    &file->header, err);
	tn_buffer_release(file->ctx, &text);
	return status;
}

tn_status tn_safetensors_header_bytes(const tn_safetensors *file, uint64_t *bytes, struct tn_error *err)
{
	unsigned char word[8];
	TN_TRY(read_bytes(file, word, 8, 0, err));
	*bytes = 8 + little_endian_u64(word);
	return TN_OK;
}

static tn_status open_file(tn_context *ctx, struct tn_file *source, const void *memory, uint64_t bytes, const char *path,
			   int may_be_cut, tn_safetensors **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_arena_init(&arena, ctx);
	tn_safetensors *file = NULL;
	tn_status status = tn_arena_alloc(&arena, sizeof *file, &file, err);
	if (status == TN_OK) {
		file->ctx = ctx;
		file->arena = arena;
		file->memory = memory;
		file->file = *source;
		file->bytes = bytes;
		file->may_be_cut = may_be_cut;
		status = tn_arena_text(&file->arena, path, strlen(path), &file->path, err);
		if (status == TN_OK)
			status = read_header(file, err);
		arena = file->arena;
	}
	if (status != TN_OK) {
		tn_arena_release(&arena);
		tn_file_close(source);
		return status;
	}
	*out = file;
	return TN_OK;
}

tn_status tn_safetensors_open(tn_context *ctx, const char *path, tn_safetensors **out, struct tn_error *err)
{
	struct tn_file file;
	TN_TRY(tn_file_open(path, &file, err));
	return tn_safetensors_open_file(ctx, &file, path, out, err);
}

tn_status tn_safetensors_open_file(tn_context *ctx, struct tn_file *file, const char *path, tn_safetensors **out,
				   struct tn_error *err)
{
	return open_file(ctx, file, NULL, file->bytes, path, 0, out, err);
}

tn_status tn_safetensors_open_cut(tn_context *ctx, const char *path, tn_safetensors **out, struct tn_error *err)
{
	struct tn_file file;
	TN_TRY(tn_file_open(path, &file, err));
	return open_file(ctx, &file, NULL, file.bytes, path, 1, out, err);
}

tn_status tn_safetensors_open_memory(tn_context *ctx, const void *data, size_t bytes, const char *name,
				     tn_safetensors **out, struct tn_error *err)
{
	struct tn_file none = TN_FILE_CLOSED;
	return open_file(ctx, &none, data ? data : "", bytes, name, 0, out, err);
}

void tn_safetensors_close(tn_safetensors *file)
{
	if (!file)
		return;
	tn_file_close(&file->file);
	struct tn_arena arena = file->arena; /* it holds `file` itself */
	tn_arena_release(&arena);
}

const char *tn_safetensors_path(const tn_safetensors *file)
{
	return file->path;
}

uint64_t tn_safetensors_bytes(const tn_safetensors *file)
{
	return file->bytes;
}

size_t tn_safetensors_count(const tn_safetensors *file)
{
	return file->header.count;
}

const struct tn_tensor *tn_safetensors_at(const tn_safetensors *file, size_t i)
{
	return i < file->header.count ? &file->header.tensors[i] : NULL;
}

const struct tn_tensor *tn_tensor_find(const struct tn_tensor *const *by_name, size_t count, const char *name)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(name, by_name[middle]->name);
		if (order == 0)
			return by_name[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

const struct tn_tensor *tn_safetensors_find(const tn_safetensors *file, const char *name)
{
	return tn_tensor_find(file->header.by_name, file->header.count, name);
}

size_t tn_safetensors_metadata_count(const tn_safetensors *file)
{
	return file->header.metadata_count;
}

void tn_safetensors_metadata_at(const tn_safetensors *file, size_t i, const char **key, const char **value)
{
	*key = i < file->header.metadata_count ? file->header.metadata[i].key : NULL;
	*value = i < file->header.metadata_count ? file->header.metadata[i].value : NULL;
}

tn_status tn_safetensors_read(const tn_safetensors *file, const struct tn_tensor *tensor, uint64_t offset, void *dst,
			      size_t n, struct tn_error *err)
{
	uint64_t end;
	if (tn_add_u64(offset, n, &end) || end > tensor->bytes)
		return tn_fail(err, TN_E_ARG, tensor->name, "%zu bytes at %llu of '%.100s' were asked for, and it has %llu", n,
			       (unsigned long long)offset, tensor->name, (unsigned long long)tensor->bytes);
	return read_bytes(file, dst, n, tensor->offset + offset, err);
}

tn_status tn_safetensors_read_on(const tn_safetensors *file, const struct tn_tensor *tensor, uint64_t offset, void *dst, size_t n,
				 struct tn_error *err)
{
	uint64_t begin, end;
	if (tn_add_u64(tensor->offset, offset, &begin) || tn_add_u64(begin, n, &end) || end > file->bytes)
		return tn_fail(err, TN_E_ARG, tensor->name,
			       "%zu bytes from byte %llu of '%.100s' were asked for, and the file ends before",
			       n, (unsigned long long)offset, tensor->name);
	return read_bytes(file, dst, n, begin, err);
}

int tn_tensor_is_hole(const tn_safetensors *file, const struct tn_tensor *tensor, uint64_t offset, uint64_t n)
{
	return !file->memory && tn_file_is_hole(&file->file, tensor->offset + offset, n);
}

static tn_status check_loadable(const struct tn_tensor *tensor, struct tn_error *err)
{
	if (tensor->bytes == 0)
		return tn_fail(err, TN_E_ARG, tensor->name, "'%.100s' is empty: it has no bytes to load", tensor->name);
	switch (tensor->dtype) {
	case TN_BOOL: case TN_C64: case TN_F4: case TN_F6_E2M3: case TN_F6_E3M2: case TN_F8_E4M3FNUZ:
	case TN_F8_E5M2FNUZ:
		return tn_fail(err, TN_E_UNSUPPORTED, tensor->name,
			       "'%.100s' has the dtype %s, which is not loaded as a tensor; tn_safetensors_read gives its bytes",
			       tensor->name, tn_dtype_name(tensor->dtype));
	default: return TN_OK;
	}
}

tn_status tn_tensor_load(const tn_safetensors *file, const struct tn_tensor *tensor, struct tn_buffer *out,
			 struct tn_error *err)
{
	TN_TRY(check_loadable(tensor, err));
	if (tensor->bytes > SIZE_MAX)
		return tn_fail_nomem(err, tensor->name, SIZE_MAX);
	struct tn_buffer buffer;
	TN_TRY(tn_buffer_alloc(file->ctx, (size_t)tensor->bytes, tensor->name, &buffer, err));
	tn_status status = tn_safetensors_read(file, tensor, 0, buffer.data, buffer.bytes, err);
	if (status != TN_OK) {
		tn_buffer_release(file->ctx, &buffer);
		return status;
	}
	*out = buffer;
	return TN_OK;
}

tn_status tn_safetensors_load(const tn_safetensors *file, const char *name, struct tn_buffer *out,
			      const struct tn_tensor **tensor, struct tn_error *err)
{
	const struct tn_tensor *found = tn_safetensors_find(file, name);
	if (!found)
		return tn_fail(err, TN_E_NOTFOUND, name, "'%s' has no tensor '%.100s'", file->path, name);
	TN_TRY(tn_tensor_load(file, found, out, err));
	if (tensor)
		*tensor = found;
	return TN_OK;
}
