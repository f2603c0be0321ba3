/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF file: refused with words, or every tensor lies within the file and can be read and found. Either
 * way the memory is in proportion to the file, whatever its counts say. */
#include "fuzz.h"
#include "testlib.h"

#include "store/gguf.h"

#include <stdlib.h>
#include <string.h>

static void check_tensor(const tn_safetensors *file, size_t i)
{
	const struct tn_tensor *t = tn_safetensors_at(file, i);
	uint64_t elements = 1;
	for (uint32_t k = 0; k < t->rank; k++)
		elements *= t->shape[k];
	require(t->name[0] && strlen(t->name) <= 255, "a name of another length");
	require(t->rank <= 4 && t->elements == elements, "elements that the shape does not have");
	require(t->bytes == elements * tn_dtype_bits(t->dtype) / 8, "bytes that the shape does not have");
	unsigned char *bytes = malloc((size_t)t->bytes + 1);
	require(bytes != NULL, "no memory");
	require(tn_safetensors_read(file, t, 0, bytes, (size_t)t->bytes, NULL) == TN_OK, "a tensor cannot be read");
	require(tn_safetensors_read(file, t, 1, bytes, (size_t)t->bytes, NULL) == TN_E_ARG, "a read past the end");
	require(tn_safetensors_find(file, t->name) == t, "a tensor is not found");
	free(bytes);
}

static void check_info(const struct tn_gguf_info *info)
{
	require(memchr(info->type, 0, sizeof info->type) && memchr(info->architecture, 0, sizeof info->architecture) &&
		memchr(info->adapter_type, 0, sizeof info->adapter_type), "a text without an end");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static tn_context *ctx;
	static struct tt_heap heap;
	if (!ctx) {
		struct tn_options options = TN_OPTIONS_INIT;
		options.threads = 1;
		options.allocator = tt_heap_allocator(&heap);
		require(tn_context_create(&options, &ctx, NULL) == TN_OK, "no context");
	}
	struct tn_error error;
	struct tn_gguf_info info;
	tn_safetensors *file = NULL;
	memset(&error, 0, sizeof error);
	heap.largest_live_bytes = 0;
	tn_status status = tn_gguf_open(ctx, tt_memory_file(data, size), &file, &info, &error);
	require(heap.largest_live_bytes <= 32 * size + (1 << 18), "memory out of proportion to the file");
	if (status != TN_OK) {
		require(status == TN_E_FORMAT || status == TN_E_UNSUPPORTED || status == TN_E_LIMIT, "an unexpected status");
		require(error.code == status && error.msg[0], "an error without words");
		require(file == NULL, "an output on failure");
		return 0;
	}
	check_info(&info);
	for (size_t i = 0; i < tn_safetensors_count(file); i++)
		check_tensor(file, i);
	tn_safetensors_close(file);
	return 0;
}
