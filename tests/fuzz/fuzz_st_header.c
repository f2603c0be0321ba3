/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: refused, or every tensor can be read and the file can be laid out again. What is laid
 * out parses to the same descriptions: layout(parse(x)) is x but for order and padding. */
#include "fuzz.h"

#include "store/safetensors.h"

#include <stdlib.h>
#include <string.h>

static void read_all(const tn_safetensors *file)
{
	for (size_t i = 0; i < tn_safetensors_count(file); i++) {
		const struct tn_tensor *t = tn_safetensors_at(file, i);
		unsigned char *bytes = malloc((size_t)t->bytes + 1);
		require(bytes != NULL, "no memory");
		require(tn_safetensors_read(file, t, 0, bytes, (size_t)t->bytes, NULL) == TN_OK, "a tensor cannot be read");
		require(tn_safetensors_read(file, t, 1, bytes, (size_t)t->bytes, NULL) == TN_E_ARG, "a read past the end");
		require(tn_safetensors_find(file, t->name) == t, "a tensor is not found");
		free(bytes);
	}
}

static void require_equal(const tn_safetensors *a, const tn_safetensors *b)
{
	size_t n = tn_safetensors_count(a);
	require(tn_safetensors_count(b) == n, "another number of tensors");
	for (size_t i = 0; i < n; i++) {
		const struct tn_tensor *x = tn_safetensors_at(a, i), *y = tn_safetensors_find(b, x->name);
		require(y != NULL, "a tensor was lost");
		require(x->dtype == y->dtype && x->rank == y->rank && x->bytes == y->bytes && x->elements == y->elements,
			"another description");
		require(x->rank == 0 || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) == 0, "another shape");
	}
	require(tn_safetensors_metadata_count(a) == tn_safetensors_metadata_count(b), "another number of metadata");
	for (size_t i = 0; i < tn_safetensors_metadata_count(a); i++) {
		const char *key[2], *value[2];
		tn_safetensors_metadata_at(a, i, &key[0], &value[0]);
		tn_safetensors_metadata_at(b, i, &key[1], &value[1]);
		require(strcmp(key[0], key[1]) == 0 && strcmp(value[0], value[1]) == 0, "other metadata");
	}
}

static void lay_out_again(tn_context *ctx, const tn_safetensors *file)
{
	size_t n = tn_safetensors_count(file);
	uint64_t data = 0;
	struct tn_tensor *copies = calloc(n + 1, sizeof *copies), **list = calloc(n + 1, sizeof *list);
	require(copies && list, "no memory");
	for (size_t i = 0; i < n; i++) {
		copies[i] = *tn_safetensors_at(file, i);
		list[i] = &copies[i];
		data += copies[i].bytes;
	}
	struct tn_text text;
	tn_text_init(&text, ctx);
	require(tn_st_header_layout(list, n, file->header.metadata, file->header.metadata_count, &text, NULL) == TN_OK,
		"what was read cannot be written");
	size_t bytes = text.length + (size_t)data;
	char *again = calloc(1, bytes);
	require(again != NULL, "no memory");
	memcpy(again, text.data, text.length);
	tn_safetensors *second = NULL;
	require(tn_safetensors_open_memory(ctx, again, bytes, "again", &second, NULL) == TN_OK,
		"what was written cannot be read");
	require_equal(file, second);
	tn_safetensors_close(second);
	free(again);
	tn_text_release(&text);
	free(copies);
	free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static tn_context *ctx;
	if (!ctx) {
		struct tn_options options = TN_OPTIONS_INIT;
		options.threads = 1;
		require(tn_context_create(&options, &ctx, NULL) == TN_OK, "no context");
	}
	struct tn_error error;
	tn_safetensors *file = NULL;
	memset(&error, 0, sizeof error);
	tn_status status = tn_safetensors_open_memory(ctx, data, size, "input", &file, &error);
	if (status != TN_OK) {
		require(status == TN_E_FORMAT || status == TN_E_LIMIT, "an unexpected status");
		require(error.code == status && error.msg[0], "an error without words");
		require(file == NULL, "an output on failure");
		return 0;
	}
	read_all(file);
	lay_out_again(ctx, file);
	tn_safetensors_close(file);
	return 0;
}
