/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a chat template, and behind a NUL as JSON of the messages: refused in words, or rendered twice alike, with
 * nothing held and in bounded memory. */
#include "fuzz.h"
#include "testlib.h"

#include "base/text.h"
#include "tenon/chat.h"

#include <string.h>

static void check_error(tn_status status, const struct tn_error *err)
{
	require(status == TN_E_FORMAT || status == TN_E_MISMATCH || status == TN_E_LIMIT || status == TN_E_UNSUPPORTED,
		"an unexpected status");
	require(err->code == status, "an error with another code");
	require(tn_utf8_valid_prefix(err->msg, strlen(err->msg)) == strlen(err->msg) || strlen(err->msg) > 370, "a message that is no UTF-8");
}

static void render(const tn_chat *chat, const char *messages, size_t bytes)
{
	static const char names[] = "{\"d\": {\"a\": [1, 2.5, null], \"b\": \"x\\u00e9\"}, \"n\": 3, \"s\": \"Some text \\ud83d\\ude00\", \"l\": [3, 1, 2]}";
	static const char plain[] = "[{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": null}]";
	struct tn_chat_request request = { .messages_json = bytes ? messages : plain, .messages_bytes = bytes ? bytes : sizeof plain - 1,
		.variables_json = names, .variables_bytes = sizeof names - 1, .now = "2026-11-21T18:30:00" };
	struct tn_chat_text first, second;
	struct tn_error err;
	memset(&err, 0, sizeof err);
	tn_status status = tn_chat_render(chat, &request, &first, &err);
	if (status != TN_OK) {
		check_error(status, &err);
		return;
	}
	require(tn_utf8_valid_prefix(first.text.data, first.text.bytes) == first.text.bytes, "text that is no UTF-8");
	for (size_t i = 0; i < first.span_count; i++)
		require(first.spans[i].begin <= first.spans[i].end, "a span that ends before it begins");
	require(tn_chat_render(chat, &request, &second, &err) == TN_OK, "refused the second time");
	require(first.text.bytes == second.text.bytes && memcmp(first.text.data, second.text.data, first.text.bytes) == 0,
		"another text the second time");
	tn_chat_text_release(chat, &first);
	tn_chat_text_release(chat, &second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static tn_context *ctx;
	static struct tt_heap heap;
	static size_t held;
	if (!ctx) {
		struct tn_options options = TN_OPTIONS_INIT;
		options.threads = 1;
		options.allocator = tt_heap_allocator(&heap);
		require(tn_context_create(&options, &ctx, NULL) == TN_OK, "no context");
		held = heap.live_blocks;
	}
	const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
	size_t n = cut ? (size_t)(cut - data) : size;
	struct tn_error err;
	tn_chat *chat;
	memset(&err, 0, sizeof err);
	heap.largest_live_bytes = 0;
	tn_status status = tn_chat_from_text(ctx, (const char *)data, n, "fuzz", &chat, &err);
	if (status == TN_OK) {
		render(chat, cut ? (const char *)cut + 1 : "", cut ? size - n - 1 : 0);
		tn_chat_close(chat);
	} else {
		check_error(status, &err);
	}
	require(heap.live_blocks == held, "memory is held");
	require(heap.largest_live_bytes < (size_t)1 << 30, "more memory than a rendering may take");
	return 0;
}
