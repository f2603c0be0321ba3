/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/error.h"
#include "store/json_text.h"
#include "store/st_header.h"

#include <stdlib.h>
#include <string.h>

/* The order of the reference writer (safetensors 0.8, prepare()): dtype descending, then name. */
static int compare_for_file(const void *a, const void *b)
{
	const struct tn_tensor *x = *(struct tn_tensor *const *)a, *y = *(struct tn_tensor *const *)b;
	if (x->dtype != y->dtype)
		return x->dtype > y->dtype ? -1 : 1;
	return strcmp(x->name, y->name);
}

static tn_status add_metadata(struct tn_text *text, const struct tn_st_metadata *metadata, size_t count,
			      struct tn_error *err)
{
	TN_TRY(tn_text_puts(text, "\"__metadata__\":{", err));
	for (size_t i = 0; i < count; i++) {
		if (i)
			TN_TRY(tn_text_puts(text, ",", err));
		TN_TRY(tn_json_add_string(text, metadata[i].key, err));
		TN_TRY(tn_text_puts(text, ":", err));
		TN_TRY(tn_json_add_string(text, metadata[i].value, err));
	}
	return tn_text_puts(text, "}", err);
}

static tn_status add_tensor(struct tn_text *text, const struct tn_tensor *t, uint64_t begin, struct tn_error *err)
{
	TN_TRY(tn_json_add_string(text, t->name, err));
	TN_TRY(tn_text_printf(text, err, ":{\"dtype\":\"%s\",\"shape\":[", tn_dtype_name(t->dtype)));
	for (uint32_t i = 0; i < t->rank; i++)
		TN_TRY(tn_text_printf(text, err, "%s%llu", i ? "," : "", (unsigned long long)t->shape[i]));
	return tn_text_printf(text, err, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
			      (unsigned long long)(begin + t->bytes));
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts the names; NULL when all differ, else one that stands twice. */
static const char *find_twin(const char **names, size_t count)
{
	if (count > 1)
		qsort(names, count, sizeof *names, compare_texts);
	for (size_t i = 1; i < count; i++)
		if (strcmp(names[i - 1], names[i]) == 0)
			return names[i];
	return NULL;
}

static tn_status check_names(tn_context *ctx, struct tn_tensor *const *tensors, size_t count, struct tn_error *err)
{
	const char **names;
	TN_TRY(tn_alloc_array(ctx, count, sizeof *names, "tensor names", &names, err));
	for (size_t i = 0; i < count; i++)
		names[i] = tensors[i]->name;
	const char *twin = find_twin(names, count);
	tn_free_array(ctx, names, count, sizeof *names);
	if (twin)
		return tn_fail(err, TN_E_ARG, twin, "two tensors are called '%.100s'", twin);
	for (size_t i = 0; i < count; i++)
		if (strcmp(tensors[i]->name, "__metadata__") == 0)
			return tn_fail(err, TN_E_ARG, tensors[i]->name, "a tensor cannot be called '__metadata__'");
	return TN_OK;
}

static tn_status check_keys(tn_context *ctx, const struct tn_st_metadata *metadata, size_t count, struct tn_error *err)
{
	const char **keys;
	TN_TRY(tn_alloc_array(ctx, count, sizeof *keys, "metadata", &keys, err));
	for (size_t i = 0; i < count; i++)
		keys[i] = metadata[i].key;
	const char *twin = find_twin(keys, count);
	tn_free_array(ctx, keys, count, sizeof *keys);
	return twin ? tn_fail(err, TN_E_ARG, twin, "the metadata have the key '%.100s' twice", twin) : TN_OK;
}

static tn_status add_header(struct tn_text *text, struct tn_tensor *const *tensors, size_t count,
			    const struct tn_st_metadata *metadata, size_t metadata_count, struct tn_error *err)
{
	uint64_t at = 0;
	TN_TRY(tn_text_puts(text, "{", err));
	if (metadata_count)
		TN_TRY(add_metadata(text, metadata, metadata_count, err));
	for (size_t i = 0; i < count; i++) {
		if (i || metadata_count)
			TN_TRY(tn_text_puts(text, ",", err));
		TN_TRY(add_tensor(text, tensors[i], at, err));
		if (tn_add_u64(at, tensors[i]->bytes, &at))
			return tn_fail(err, TN_E_LIMIT, tensors[i]->name, "the tensors exceed 2^64 bytes");
	}
	return tn_text_puts(text, "}", err);
}

tn_status tn_st_header_layout(struct tn_tensor **tensors, size_t count, const struct tn_st_metadata *metadata,
			      size_t metadata_count, struct tn_text *text, struct tn_error *err)
{
	size_t start = text->length;
	TN_TRY(check_names(text->ctx, tensors, count, err));
	TN_TRY(check_keys(text->ctx, metadata, metadata_count, err));
	if (count > 1)
		qsort(tensors, count, sizeof *tensors, compare_for_file);
	TN_TRY(tn_text_add(text, "\0\0\0\0\0\0\0\0", 8, err));
	TN_TRY(add_header(text, tensors, count, metadata, metadata_count, err));
	while ((text->length - start) % 8)
		TN_TRY(tn_text_puts(text, " ", err));
	uint64_t header = text->length - start - 8;
	if (header > TN_ST_LONGEST_HEADER)
		return tn_fail(err, TN_E_LIMIT, "header", "the header would have %llu bytes, a safetensors file allows %d",
			       (unsigned long long)header, TN_ST_LONGEST_HEADER);
	for (int i = 0; i < 8; i++)
		text->data[start + (size_t)i] = (char)(header >> 8 * i);
	uint64_t at = header + 8;
	for (size_t i = 0; i < count; i++) {
		tensors[i]->offset = at;
		if (tn_add_u64(at, tensors[i]->bytes, &at))
			return tn_fail(err, TN_E_LIMIT, tensors[i]->name, "the file would exceed 2^64 bytes");
	}
	return TN_OK;
}
