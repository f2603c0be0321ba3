/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a tokenizer.model, in folders of each class that takes one: refused with words, or texts become ids below its limit
 * and ids become UTF-8. Either way the memory is in proportion to the file. */
#include "fuzz.h"
#include "testlib.h"

#include "base/text.h"
#include "tenon/tokenizer.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const texts[] = { "", " ", "ab  <s>abb\xC3\xA9\n", "\xE2\x96\x81 \xEF\xAC\x81 \xF0\x9F\x98\x80" };

/* Folders whose tokenizer.model is the memory file. */
static const char *const configs[] = {
	NULL, "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true}",
	"{\"added_tokens_decoder\":{\"1\":{\"content\":\"<x>\",\"special\":true},\"3\":{\"content\":\"ab\"}}}",
	"{\"tokenizer_class\":\"CodeLlamaTokenizer\"}",
};
enum { FOLDERS = sizeof configs / sizeof *configs };
static char root[] = "/tmp/fuzz_sentencepiece_XXXXXX";

static void folder_of(char path[128], int i, const char *file)
{
	snprintf(path, 128, "%s/%d%s", root, i, file);
}

static void remove_folders(void)
{
	char path[128];
	for (int i = 0; i < FOLDERS; i++) {
		folder_of(path, i, "/tokenizer.model");
		unlink(path);
		folder_of(path, i, "/tokenizer_config.json");
		unlink(path);
		folder_of(path, i, "");
		rmdir(path);
	}
	rmdir(root);
}

static void make_folders(const char *memory_file)
{
	char path[128];
	require(mkdtemp(root) != NULL, "no folder for temporary files");
	for (int i = 0; i < FOLDERS; i++) {
		folder_of(path, i, "");
		require(mkdir(path, 0777) == 0, "no folder");
		folder_of(path, i, "/tokenizer.model");
		require(symlink(memory_file, path) == 0, "no link");
		folder_of(path, i, "/tokenizer_config.json");
		if (configs[i])
			tt_write_text(path, configs[i]);
	}
	atexit(remove_folders);
}

static void check_tokenizer(tn_context *ctx, const tn_tokenizer *t)
{
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct tn_buffer ids, text;
		struct tn_error error;
		tn_status status = tn_tokenizer_encode(t, texts[i], strlen(texts[i]), TN_ADD_SPECIAL, &ids, &error);
		if (status != TN_OK) {
			require(status == TN_E_MISMATCH || status == TN_E_LIMIT, "an unexpected status of a text");
			require(error.msg[0] != 0, "an error without words");
			continue;
		}
		const uint32_t *items = ids.data;
		for (size_t k = 0; k < ids.bytes / sizeof *items; k++)
			require(items[k] < tn_tokenizer_id_limit(t), "an id at its limit");
		require(tn_tokenizer_decode(t, items, ids.bytes / sizeof *items, 0, &text, NULL) == TN_OK, "ids without a text");
		require(tn_utf8_valid_prefix(text.data, text.bytes) == text.bytes, "a text that is not UTF-8");
		tn_buffer_release(ctx, &text);
		tn_buffer_release(ctx, &ids);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static tn_context *ctx;
	static struct tt_heap heap;
	const char *file = tt_memory_file(data, size);
	if (!ctx) {
		struct tn_options options = TN_OPTIONS_INIT;
		options.threads = 1;
		options.allocator = tt_heap_allocator(&heap);
		require(tn_context_create(&options, &ctx, NULL) == TN_OK, "no context");
		make_folders(file);
	}
	for (int i = 0; i < FOLDERS; i++) {
		char path[128];
		struct tn_error error;
		tn_tokenizer *t = NULL;
		memset(&error, 0, sizeof error);
		folder_of(path, i, "");
		heap.largest_live_bytes = 0;
		tn_status status = tn_tokenizer_open(ctx, path, &t, &error);
		require(heap.largest_live_bytes <= 256 * size + (4 << 20), "memory out of proportion to the file");
		if (status != TN_OK) {
			require(status == TN_E_FORMAT || status == TN_E_UNSUPPORTED || status == TN_E_LIMIT, "an unexpected status");
			require(error.code == status && error.msg[0], "an error without words");
			require(t == NULL, "an output on failure");
			continue;
		}
		check_tokenizer(ctx, t);
		tn_tokenizer_close(t);
	}
	return 0;
}
