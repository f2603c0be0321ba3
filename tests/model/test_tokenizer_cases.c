/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers against the tokenizers library: ids, decoding and streaming of models/tok, with tokenizer.json as it is and under
 * the class that transformers knows for it; of random shapes, made by make_tokenizers.py; of tokenizer.model, made by
 * make_sentencepiece.py; and the sample. */
#include "testlib.h"

#include "store/json_doc.h"
#include "tenon/tokenizer.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- comparing ------------------------------------------------------------------------------------------- */

static void expect_ids(const json_t *want, const struct tn_buffer *got, const char *what)
{
	const uint32_t *ids = got->data;
	size_t count = got->bytes / sizeof *ids, wrong = json_array_size(want) != count;
	for (size_t i = 0; !wrong && i < count; i++)
		wrong = json_integer_value(json_array_get(want, i)) != (json_int_t)ids[i];
	if (!wrong)
		return;
	char *wanted = json_dumps(want, JSON_COMPACT | JSON_ENCODE_ANY);
	print_message("%s\n  wanted %s\n  got    [", what, wanted);
	for (size_t i = 0; i < count; i++)
		print_message("%s%u", i ? "," : "", (unsigned)ids[i]);
	print_message("]\n");
	free(wanted);
	fail();
}

static void expect_text(const json_t *want, const char *got, size_t n, const char *what)
{
	if (json_string_length(want) == n && memcmp(json_string_value(want), got, n) == 0)
		return;
	print_message("%s: wanted '%s', got '%.*s'\n", what, json_string_value(want), (int)n, got);
	fail();
}

static uint32_t *ids_of(const json_t *list, size_t *count)
{
	*count = json_array_size(list);
	uint32_t *ids = calloc(*count + 1, sizeof *ids);
	assert_non_null(ids);
	for (size_t i = 0; i < *count; i++)
		ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
	return ids;
}

static void check_encode(struct tt *t, const tn_tokenizer *tokenizer, const json_t *text, unsigned flags, const json_t *want)
{
	struct tn_buffer ids;
	tt_ok(t, tn_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), flags, &ids, &t->err));
	expect_ids(want, &ids, json_string_value(text));
	tn_buffer_release(t->ctx, &ids);
}

static void check_decode(struct tt *t, const tn_tokenizer *tokenizer, const uint32_t *ids, size_t count, unsigned flags,
			 const json_t *want)
{
	struct tn_buffer text;
	tt_ok(t, tn_tokenizer_decode(tokenizer, ids, count, flags, &text, &t->err));
	expect_text(want, text.data, text.bytes, "decoding");
	tn_buffer_release(t->ctx, &text);
}

/* A text in the place of a list says that the library gave up: then only the sum counts. */
static void check_stream(struct tt *t, const tn_tokenizer *tokenizer, const uint32_t *ids, size_t count, unsigned flags,
			 const json_t *want)
{
	tn_token_stream *stream;
	const char *piece;
	size_t n;
	tt_ok(t, tn_token_stream_create(tokenizer, flags, &stream, &t->err));
	for (size_t i = 0; i < count; i++) {
		const json_t *expected = json_array_get(want, i);
		tt_ok(t, tn_token_stream_push(stream, ids[i], &piece, &n, &t->err));
		if (!json_is_array(want))
			continue;
		assert_int_equal(piece == NULL, json_is_null(expected));
		if (piece)
			expect_text(expected, piece, n, "streaming");
	}
	tt_ok(t, tn_token_stream_finish(stream, &piece, &n, &t->err));
	tn_token_stream_destroy(stream);
}

static const json_t *or_else(const json_t *d, const char *key, const char *otherwise)
{
	const json_t *value = json_object_get(d, key);
	return value ? value : json_object_get(d, otherwise);
}

/* What `d` says of decoding these ids. */
static void check_texts(struct tt *t, const tn_tokenizer *tokenizer, const json_t *d, const json_t *list)
{
	size_t count;
	uint32_t *ids = ids_of(list, &count);
	const json_t *prefixes = json_object_get(d, "prefixes");
	check_decode(t, tokenizer, ids, count, 0, json_object_get(d, "decoded"));
	check_decode(t, tokenizer, ids, count, TN_SKIP_SPECIAL, or_else(d, "decoded_skip", "decoded"));
	if (json_object_get(d, "stream")) {
		check_stream(t, tokenizer, ids, count, 0, json_object_get(d, "stream"));
		check_stream(t, tokenizer, ids, count, TN_SKIP_SPECIAL, or_else(d, "stream_skip", "stream"));
	}
	for (size_t i = 0; i < json_array_size(prefixes); i++)
		check_decode(t, tokenizer, ids, i + 1, TN_SKIP_SPECIAL, json_array_get(prefixes, i));
	free(ids);
}

static void check_pair(struct tt *t, const tn_tokenizer *tokenizer, const json_t *d)
{
	const json_t *text = json_object_get(d, "text"), *a = json_array_get(text, 0), *b = json_array_get(text, 1);
	struct tn_buffer ids;
	tt_ok(t, tn_tokenizer_encode_pair(tokenizer, json_string_value(a), json_string_length(a), json_string_value(b),
					  json_string_length(b), TN_ADD_SPECIAL, &ids, &t->err));
	expect_ids(json_object_get(d, "ids_special"), &ids, "a pair");
	tn_buffer_release(t->ctx, &ids);
}

static void check_golden(struct tt *t, const tn_tokenizer *tokenizer, const json_t *golden)
{
	size_t i;
	const json_t *d;
	json_array_foreach(json_object_get(golden, "strings"), i, d) {
		if (json_object_get(d, "ids"))
			check_encode(t, tokenizer, json_object_get(d, "text"), 0, json_object_get(d, "ids"));
		check_encode(t, tokenizer, json_object_get(d, "text"), TN_ADD_SPECIAL, or_else(d, "ids_special", "ids"));
		check_texts(t, tokenizer, d, or_else(d, "ids_special", "ids"));
	}
	json_array_foreach(json_object_get(golden, "pairs"), i, d)
		check_pair(t, tokenizer, d);
	json_array_foreach(json_object_get(golden, "ids"), i, d)
		check_texts(t, tokenizer, d, json_object_get(d, "ids"));
}

/* ---- the cases ------------------------------------------------------------------------------------------- */

static json_t *load(const char *folder, const char *name)
{
	char path[4096];
	json_error_t error;
	snprintf(path, sizeof path, "%s/%s", folder, name);
	json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
	if (!json)
		fail_msg("%s: %s", path, error.text);
	return json;
}

/* The same tokenizer.json where tokenizer_config.json names a class. */
static void check_class(struct tt *t, const char folder[2048], const json_t *golden, const char *name)
{
	char path[4096], key[64];
	size_t n, i;
	const json_t *d;
	tn_tokenizer *tokenizer;
	json_t *config;
	snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
	tt_ok(t, tn_json_load(t->ctx, path, &config, &t->err));
	json_object_del(config, "model_max_length"); /* 1e30, which jansson cannot write */
	snprintf(path, sizeof path, "%s/tokenizer.json", folder);
	unsigned char *file = tt_read_file(path, &n);
	assert_non_null(file);
	tt_write_file(tt_path(t, "tokenizer.json"), file, n);
	json_object_set_new(config, "tokenizer_class", json_string(name));
	assert_int_equal(json_dump_file(config, tt_path(t, "tokenizer_config.json"), 0), 0);
	tt_ok(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err));
	snprintf(key, sizeof key, "ids_%s", name);
	json_array_foreach(json_object_get(golden, "strings"), i, d) {
		const json_t *want = json_object_get(d, key);
		check_encode(t, tokenizer, json_object_get(d, "text"), TN_ADD_SPECIAL, want ? want : or_else(d, "ids_special", "ids"));
	}
	tn_tokenizer_close(tokenizer);
	json_decref(config);
	free(file);
}

static void archive_cases(void **state)
{
	static const char *const cases[][2] = {
		{ "bpe_digits", NULL }, { "bpe_gpt2", "GPT2Tokenizer" }, { "bpe_gpt2_prefix", NULL }, { "bpe_llama3", NULL },
		{ "bpe_qwen2", "Qwen2Tokenizer" }, { "bpe_splits", NULL }, { "sp_gemma", "GemmaTokenizer" },
		{ "sp_llama2", "LlamaTokenizer" }, { "sp_metaspace", "LlamaTokenizer" }, { "unigram_bytes", NULL },
		{ "unigram_t5", "T5Tokenizer" }, { "unigram_xlm", "XLMRobertaTokenizer" }, { "wordpiece", "BertTokenizer" },
	};
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char folder[2048];
		tn_tokenizer *tokenizer;
		snprintf(folder, sizeof folder, "%s/tok/%s", TN_MODEL_CASES, cases[i][0]);
		json_t *golden = load(folder, "golden.json");
		tt_ok(t, tn_tokenizer_open(t->ctx, folder, &tokenizer, &t->err));
		check_golden(t, tokenizer, golden);
		tn_tokenizer_close(tokenizer);
		if (cases[i][1])
			check_class(t, folder, golden, cases[i][1]);
		json_decref(golden);
	}
}

/* Every folder of a folder; returns how many. */
static size_t check_folders(struct tt *t, const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;
	size_t count = 0;
	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		char folder[4096];
		tn_tokenizer *tokenizer;
		if (entry->d_name[0] == '.')
			continue;
		snprintf(folder, sizeof folder, "%s/%s", path, entry->d_name);
		print_message("%s\n", entry->d_name);
		json_t *golden = load(folder, "golden.json");
		tt_ok(t, tn_tokenizer_open(t->ctx, folder, &tokenizer, &t->err));
		check_golden(t, tokenizer, golden);
		if (json_object_get(golden, "tokens"))
			assert_int_equal(tn_tokenizer_vocab_size(tokenizer), json_integer_value(json_object_get(golden, "tokens")));
		tn_tokenizer_close(tokenizer);
		json_decref(golden);
		count++;
	}
	closedir(dir);
	return count;
}

static void random_shapes(void **state)
{
	assert_int_equal(check_folders(*state, TN_MORE_CASES "/random"), 60);
}

static void named_classes(void **state)
{
	assert_int_equal(check_folders(*state, TN_MORE_CASES "/class"), 15);
}

static void models_of_sentencepiece(void **state)
{
	assert_int_equal(check_folders(*state, TN_PIECE_CASES), 24);
}

static void sample(void **state)
{
	struct tt *t = *state;
	tn_tokenizer *tokenizer;
	size_t i, count;
	const json_t *d;
	json_error_t error;
	json_t *golden = json_load_file(TEST_DATA "/sample_tokenizer.json", 0, &error);
	assert_non_null(golden);
	tt_ok(t, tn_tokenizer_open(t->ctx, TN_TEST_EXAMPLES "/base", &tokenizer, &t->err));
	json_array_foreach(golden, i, d) {
		uint32_t *ids = ids_of(json_object_get(d, "ids"), &count);
		check_encode(t, tokenizer, json_object_get(d, "text"), 0, json_object_get(d, "ids"));
		check_decode(t, tokenizer, ids, count, 0, json_object_get(d, "decoded"));
		free(ids);
	}
	assert_string_equal(tn_tokenizer_special(tokenizer, "bos_token", NULL), "<|begin|>");
	assert_int_equal(tn_tokenizer_stop_ids(tokenizer, &count)[0], 1);
	tn_tokenizer_close(tokenizer);
	json_decref(golden);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(archive_cases),
		TT_TEST(random_shapes),
		TT_TEST(named_classes), TT_TEST(models_of_sentencepiece),
		TT_TEST(sample),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
