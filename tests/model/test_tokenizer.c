/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers in what their users do wrong: damaged and foreign files, broken texts, memory that runs out. */
#include "testlib.h"

#include "tenon/tokenizer.h"
#include "tokenizer/chars.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A tokenizer with something of nearly everything. */
static const char whole[] =
	"{\"version\":\"1.0\",\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
	"{\"id\":10,\"content\":\"\\u0000x\",\"lstrip\":true,\"rstrip\":true,\"normalized\":true}],"
	"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":"
	"{\"Regex\":\" {2,}\"},\"content\":\" \"}]},"
	"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+|[a-z&&[^q]]+\"},"
	"\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\"}]},"
	"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
	"{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{\"Sequence\":{\"id\":\"B\",\"type_id\":0}}],"
	"\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[9],\"tokens\":[\"<s>\"]}}},"
	"\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},"
	"{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
	"\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"byte_fallback\":true,\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"\\u2581\":3,"
	"\"ab\":4,\"\\u2581ab\":5,\"<0xC3>\":6,\"<0xA9>\":7,\"\\\"\":8},\"merges\":[[\"a\",\"b\"],\"\\u2581 ab\"]}}";

static const char text[] = "ab  a<s>b\xC3\xA9 ab \xEF\xAC\x81";

static tn_tokenizer *open_text(struct tt *t, const char *json)
{
	tn_tokenizer *tokenizer;
	tt_write_text(tt_path(t, "tokenizer.json"), json);
	tt_ok(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err));
	return tokenizer;
}

static void expect_ids(struct tt *t, const tn_tokenizer *tokenizer, const char *s, unsigned flags, const uint32_t *want,
		       size_t count)
{
	struct tn_buffer ids;
	tt_ok(t, tn_tokenizer_encode(tokenizer, s, strlen(s), flags, &ids, &t->err));
	assert_int_equal(ids.bytes, count * sizeof *want);
	assert_memory_equal(ids.data, want, ids.bytes);
	tn_buffer_release(t->ctx, &ids);
}

static void everyday(void **state)
{
	static const uint32_t plain[] = { 5, 3, 1, 9, 2, 6, 7, 3, 4, 3, 0, 0 }, special[] = { 9, 5 };
	struct tt *t = *state;
	tn_tokenizer *tokenizer = open_text(t, whole);
	size_t n;
	expect_ids(t, tokenizer, text, 0, plain, sizeof plain / sizeof *plain);
	expect_ids(t, tokenizer, "ab", TN_ADD_SPECIAL, special, 2);
	assert_int_equal(tn_tokenizer_vocab_size(tokenizer), 11);
	assert_int_equal(tn_tokenizer_id_limit(tokenizer), 11);
	assert_int_equal(tn_tokenizer_find(tokenizer, "\xE2\x96\x81" "ab", 5), 5);
	assert_int_equal(tn_tokenizer_find(tokenizer, "abc", 3), TN_NO_TOKEN);
	assert_memory_equal(tn_tokenizer_token(tokenizer, 10, &n), "\0x", 2);
	assert_int_equal(n, 2);
	assert_null(tn_tokenizer_token(tokenizer, 11, &n));
	assert_true(tn_tokenizer_is_special(tokenizer, 9) && !tn_tokenizer_is_special(tokenizer, 1));
	assert_null(tn_tokenizer_special(tokenizer, "bos_token", NULL));
	tn_tokenizer_close(tokenizer);
}

static void expect_stop_ids(struct tt *t, const uint32_t *want, size_t count)
{
	size_t n;
	tn_tokenizer *tokenizer = open_text(t, whole);
	const uint32_t *ids = tn_tokenizer_stop_ids(tokenizer, &n);
	assert_int_equal(n, count);
	if (n)
		assert_memory_equal(ids, want, n * sizeof *ids);
	tn_tokenizer_close(tokenizer);
}

static void stop_ids(void **state)
{
	struct tt *t = *state;
	expect_stop_ids(t, NULL, 0);
	tt_write_text(tt_path(t, "config.json"), "{\"eos_token_id\": 4}");
	expect_stop_ids(t, (const uint32_t[]){ 4 }, 1);
	tt_write_text(tt_path(t, "generation_config.json"), "{\"eos_token_id\": [7, 2, 7, null, -1]}");
	expect_stop_ids(t, (const uint32_t[]){ 7, 2 }, 2);
	tt_write_text(tt_path(t, "tokenizer_config.json"), "{\"eos_token\": {\"content\": \"<s>\"}}");
	expect_stop_ids(t, (const uint32_t[]){ 7, 2, 9 }, 3);
	tt_write_text(tt_path(t, "generation_config.json"), "{");
	expect_stop_ids(t, (const uint32_t[]){ 4, 9 }, 2);
}

static void broken_text(void **state)
{
	struct tt *t = *state;
	tn_tokenizer *tokenizer = open_text(t, whole);
	struct tn_buffer ids;
	tt_expect(t, tn_tokenizer_encode(tokenizer, "a\xC3(", 3, 0, &ids, &t->err), TN_E_ARG);
	tt_expect_msg(t, "byte 1 is 0xC3");
	tn_tokenizer_close(tokenizer);
	tokenizer = open_text(t, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"<unk>\"}}");
	tt_expect(t, tn_tokenizer_encode(tokenizer, "b", 1, 0, &ids, &t->err), TN_E_MISMATCH);
	tt_expect_msg(t, "no token for 'b'");
	tn_tokenizer_close(tokenizer);
}

static void streams(void **state)
{
	struct tt *t = *state;
	tn_tokenizer *tokenizer = open_text(t, whole);
	tn_token_stream *stream;
	const char *piece;
	size_t n, calls = 0;
	tt_ok(t, tn_token_stream_create(tokenizer, TN_SKIP_SPECIAL, &stream, &t->err));
	tt_ok(t, tn_token_stream_push(stream, 1, &piece, &n, &t->err));
	assert_string_equal(piece, "a");
	tt_ok(t, tn_token_stream_push(stream, 6, &piece, &n, &t->err));
	assert_null(piece);
	tt_ok(t, tn_token_stream_push(stream, 9, &piece, &n, &t->err));
	assert_null(piece);
	tt_ok(t, tn_token_stream_push(stream, 7, &piece, &n, &t->err));
	assert_string_equal(piece, "\xC3\xA9");
	for (int i = 0; i < 1000; i++) {
		if (i == 500)
			calls = t->heap.calls;
		tt_ok(t, tn_token_stream_push(stream, i % 5 ? 5 : 4, &piece, &n, &t->err));
		assert_non_null(piece);
	}
	assert_int_equal(t->heap.calls, calls);
	tt_ok(t, tn_token_stream_push(stream, 6, &piece, &n, &t->err));
	tt_ok(t, tn_token_stream_finish(stream, &piece, &n, &t->err));
	assert_string_equal(piece, "\xEF\xBF\xBD");
	tt_ok(t, tn_token_stream_finish(stream, &piece, &n, &t->err));
	assert_null(piece);
	tn_token_stream_destroy(stream);
	tn_tokenizer_close(tokenizer);
}

static void refused(void **state)
{
	static const struct {
		const char *json;
		tn_status status;
		const char *says;
	} files[] = {
		{ "[]", TN_E_FORMAT, "'{' was expected" },
		{ "{}", TN_E_FORMAT, "no 'vocab'" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", TN_E_FORMAT, "no 'merges'" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", TN_E_FORMAT, "the token 'b'" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", TN_E_FORMAT, "not two tokens" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\"]]}}", TN_E_FORMAT, "the token 'aa'" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000},\"merges\":[]}}", TN_E_LIMIT, "the id 4000000000" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"b\"},\"merges\":[]}}", TN_E_FORMAT, "at byte" },
		{ "{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{},\"merges\":[]}}", TN_E_UNSUPPORTED, "dropout" },
		{ "{\"model\":{\"type\":\"Magic\",\"vocab\":{}}}", TN_E_UNSUPPORTED, "the model 'Magic'" },
		{ "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}", TN_E_FORMAT, "a score was expected" },
		{ "{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",0]]}}", TN_E_FORMAT, "beyond its 1 tokens" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"normalizer\":{\"type\":\"Upside\"}}", TN_E_UNSUPPORTED,
		  "the normalizer 'Upside'" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":"
		  "\"AAAA\"}}", TN_E_FORMAT, "no character map" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}",
		  TN_E_UNSUPPORTED, "the pre-tokenizer 'UnicodeScripts'" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
		  "\"pattern\":{\"Regex\":\"(a\"}}}", TN_E_FORMAT, "not a regular expression" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
		  "\"pattern\":{\"Regex\":\"[a\"}}}", TN_E_FORMAT, "without an end" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"post_processor\":{\"type\":\"Frame\"}}", TN_E_UNSUPPORTED,
		  "the post-processor 'Frame'" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
		  "[{\"SpecialToken\":{\"id\":\"x\"}}],\"pair\":[]}}", TN_E_FORMAT, "TemplateProcessing" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"decoder\":{\"type\":\"CTC\"}}", TN_E_UNSUPPORTED,
		  "the decoder 'CTC'" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"added_tokens\":[{\"id\":1}]}", TN_E_FORMAT, "no 'content'" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}}} x", TN_E_FORMAT, "nothing more was expected" },
	};
	struct tt *t = *state;
	tn_tokenizer *tokenizer = NULL;
	tt_expect(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err), TN_E_NOTFOUND);
	tt_expect_msg(t, "no tokenizer.json and no tokenizer.model");
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		tt_write_text(tt_path(t, "tokenizer.json"), files[i].json);
		tt_expect(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err), files[i].status);
		tt_expect_msg(t, files[i].says);
		assert_null(tokenizer);
	}
}

/* A pattern that takes forever is stopped, and the text is named; nothing behind its end is read. */
static void hostile_pattern(void **state)
{
	enum { LONG = 40 };
	struct tt *t = *state;
	char *a = malloc(LONG);
	struct tn_buffer ids;
	tn_tokenizer *tokenizer = open_text(t, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"Split\","
					       "\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"(a+)+[bc]\"}}}");
	memset(a, 'a', LONG);
	tt_expect(t, tn_tokenizer_encode(tokenizer, a, LONG, 0, &ids, &t->err), TN_E_LIMIT);
	tt_expect_msg(t, "takes more than");
	tt_expect_msg(t, "on 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', or");
	tn_tokenizer_close(tokenizer);
	free(a);
}

/* Each match of such a pattern stays below the steps of one, and the text has many. What is long and sane goes through. */
static void hostile_pattern_all_over(void **state)
{
	enum { LONG = 100000 };
	struct tt *t = *state;
	char *a = malloc(LONG);
	struct tn_buffer ids;
	tn_tokenizer *tokenizer = open_text(t, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"pre_tokenizer\":{\"type\":\"Split\","
					       "\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"(?:a|a){0,14}b|a\"}}}");
	assert_non_null(a);
	memset(a, 'a', LONG);
	tt_expect(t, tn_tokenizer_encode(tokenizer, a, LONG, 0, &ids, &t->err), TN_E_LIMIT);
	tt_expect_msg(t, "too many for a text of its length");
	tn_tokenizer_close(tokenizer);
	tokenizer = open_text(t, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":{\"u\":0}},"
				 "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+|[^\\\\s]+\"}}}");
	for (size_t i = 0; i < LONG; i++)
		a[i] = i < LONG / 2 || i % 300 ? ' ' : 'x';
	tt_ok(t, tn_tokenizer_encode(tokenizer, a, LONG, 0, &ids, &t->err));
	tn_buffer_release(t->ctx, &ids);
	tn_tokenizer_close(tokenizer);
	free(a);
}

static void a_long_template(void **state)
{
	struct tt *t = *state;
	static char json[40000];
	size_t n = (size_t)snprintf(json, sizeof json, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"post_processor\":{\"type\":"
				    "\"TemplateProcessing\",\"pair\":[],\"single\":[");
	for (int i = 0; i < 1025; i++)
		n += (size_t)snprintf(json + n, sizeof json - n, "%s{\"Sequence\":{\"id\":\"A\"}}", i ? "," : "");
	snprintf(json + n, sizeof json - n, "]}}");
	tn_tokenizer *tokenizer = NULL;
	tt_write_text(tt_path(t, "tokenizer.json"), json);
	tt_expect(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err), TN_E_LIMIT);
	tt_expect_msg(t, "1025 parts");
}

static tn_status work(struct tt *t, const char *path)
{
	tn_tokenizer *tokenizer;
	struct tn_buffer ids, back;
	tn_status status = tn_tokenizer_open(t->ctx, path, &tokenizer, &t->err);
	if (status != TN_OK)
		return status;
	status = tn_tokenizer_encode(tokenizer, text, sizeof text - 1, TN_ADD_SPECIAL, &ids, &t->err);
	if (status == TN_OK) {
		status = tn_tokenizer_decode(tokenizer, ids.data, ids.bytes / sizeof(uint32_t), 0, &back, &t->err);
		if (status == TN_OK)
			tn_buffer_release(t->ctx, &back);
		tn_buffer_release(t->ctx, &ids);
	}
	tn_tokenizer_close(tokenizer);
	return status;
}

static void memory_runs_out(void **state)
{
	struct tt *t = *state;
	const char *path = tt_path(t, "tokenizer.json");
	size_t held = t->heap.live_blocks, failures = 0;
	tt_write_text(path, whole);
	for (;;) {
		t->heap.fail_at = t->heap.calls + 1 + failures;
		tn_status status = work(t, path);
		assert_int_equal(t->heap.live_blocks, held);
		if (status == TN_OK)
			break;
		assert_int_equal(status, TN_E_NOMEM);
		assert_int_equal(t->err.code, TN_E_NOMEM);
		failures++;
	}
	t->heap.fail_at = 0;
	assert_in_range(failures, 50, 10000);
}

/* src/tokenizer/char_classes.def: an old table of punctuation and of marks, young numbers and small letters. */
static void characters_are_what_the_library_says(void **state)
{
	int32_t small[2];
	(void)state;
	assert_true(tn_char_is_punctuation(0x166D) && !tn_char_is_punctuation(0x11A9A) && tn_char_is_punctuation(0x2014));
	assert_true(!tn_char_is_mark(0x1CF0D) && !tn_char_is_nonspacing(0x1CF0D) && tn_char_is_mark(0x301));
	assert_true(!tn_char_is_control(0x890) && tn_char_is_control(0x200B));
	assert_true(tn_char_is_numeric(0x16FF4) && tn_char_is_numeric(0x663) && !tn_char_is_numeric('a'));
	assert_true(tn_char_lower(0xA7CB, small) == 1 && small[0] == 0x264);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(everyday), TT_TEST(stop_ids), TT_TEST(broken_text), TT_TEST(streams), TT_TEST(refused), TT_TEST(hostile_pattern),
		TT_TEST(hostile_pattern_all_over), TT_TEST(a_long_template),
		TT_TEST(memory_runs_out), cmocka_unit_test(characters_are_what_the_library_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
