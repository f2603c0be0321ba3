/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a tokenizer.json: refused with words, or texts become ids below its limit and ids become UTF-8. Either way
 * the memory is in proportion to the file. */
#include "fuzz.h"
#include "testlib.h"

#include "base/text.h"
#include "tenon/tokenizer.h"

#include <string.h>

static const char *const texts[] = {
	"", " ", "Hello, world! it's 123  \n\n", "a<s>b\xC3\xA9\xCC\x81 \xE2\x96\x81\xEF\xAC\x81", "\xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80\xE2\x80\x8D",
};

static void check_ids(tn_context *ctx, const tn_tokenizer *t, const struct tn_buffer *ids)
{
	const uint32_t *items = ids->data;
	struct tn_buffer text;
	tn_token_stream *stream;
	const char *piece;
	size_t n, count = ids->bytes / sizeof *items;
	require(tn_token_stream_create(t, TN_SKIP_SPECIAL, &stream, NULL) == TN_OK, "no stream");
	for (size_t i = 0; i < count; i++)
		require(tn_token_stream_push(stream, items[i], &piece, &n, NULL) == TN_OK || i > 0, "a stream fails at once");
	require(tn_token_stream_finish(stream, &piece, &n, NULL) == TN_OK || count > 0, "an empty stream fails");
	tn_token_stream_destroy(stream);
	if (tn_tokenizer_decode(t, items, count, 0, &text, NULL) != TN_OK)
		return;
	require(tn_utf8_valid_prefix(text.data, text.bytes) == text.bytes, "a text that is not UTF-8");
	tn_buffer_release(ctx, &text);
}

static void check_tokenizer(tn_context *ctx, const tn_tokenizer *t)
{
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct tn_buffer ids;
		struct tn_error error;
		tn_status status = tn_tokenizer_encode(t, texts[i], strlen(texts[i]), TN_ADD_SPECIAL, &ids, &error);
		if (status != TN_OK) {
			require(status == TN_E_MISMATCH || status == TN_E_LIMIT, "an unexpected status of a text");
			require(error.msg[0] != 0, "an error without words");
			continue;
		}
		check_ids(ctx, t, &ids);
		tn_buffer_release(ctx, &ids);
	}
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
	tn_tokenizer *t = NULL;
	memset(&error, 0, sizeof error);
	heap.largest_live_bytes = 0;
	tn_status status = tn_tokenizer_open(ctx, tt_memory_file(data, size), &t, &error);
	require(heap.largest_live_bytes <= 256 * size + (4 << 20), "memory out of proportion to the file");
	if (status != TN_OK) {
		require(status == TN_E_FORMAT || status == TN_E_UNSUPPORTED || status == TN_E_LIMIT, "an unexpected status");
		require(error.code == status && error.msg[0], "an error without words");
		require(t == NULL, "an output on failure");
		return 0;
	}
	check_tokenizer(ctx, t);
	tn_tokenizer_close(t);
	return 0;
}
