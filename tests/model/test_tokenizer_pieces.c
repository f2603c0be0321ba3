/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.model in what the cases of other programs do not hold: which file counts, what is refused and how, damaged files,
 * memory that runs out. */
#include "testlib.h"

#include "tenon/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- writing models -------------------------------------------------------------------------------------- */

enum { MOST = 1 << 16 };
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

struct model {
	unsigned char bytes[MOST];
	size_t n;
	float next_score;    /* of the next piece: a little less than the last one's */
};

static void put(struct model *m, unsigned char byte)
{
	assert_true(m->n < MOST);
	m->bytes[m->n++] = byte;
}

static void put_varint(struct model *m, uint64_t value)
{
	for (; value >= 0x80; value >>= 7)
		put(m, (unsigned char)(value | 0x80));
	put(m, (unsigned char)value);
}

static void put_number(struct model *m, unsigned field, uint64_t value)
{
	put_varint(m, field << 3);
	put_varint(m, value);
}

static void put_bytes(struct model *m, unsigned field, const void *bytes, size_t n)
{
	put_varint(m, field << 3 | 2);
	put_varint(m, n);
	for (size_t i = 0; i < n; i++)
		put(m, ((const unsigned char *)bytes)[i]);
}

static void put_message(struct model *m, unsigned field, const struct model *inside)
{
	put_bytes(m, field, inside->bytes, inside->n);
}

static void add_piece_of(struct model *m, const char *text, size_t n, int type)
{
	struct model *piece = calloc(1, sizeof *piece);
	assert_non_null(piece);
	put_bytes(piece, 1, text, n);
	uint32_t score;
	memcpy(&score, &m->next_score, 4);
	m->next_score -= 1;
	put_varint(piece, 2 << 3 | 5);
	for (int i = 0; i < 4; i++)
		put(piece, (unsigned char)(score >> 8 * i));
	if (type != NORMAL)
		put_number(piece, 3, (uint64_t)type);
	put_message(m, 1, piece);
	free(piece);
}

static void add_piece(struct model *m, const char *text, int type)
{
	add_piece_of(m, text, strlen(text), type);
}

/* One setting of the trainer (message 2) or of the normalizer (message 3). */
static void set(struct model *m, unsigned message, unsigned field, uint64_t value)
{
	struct model *inside = calloc(1, sizeof *inside);
	assert_non_null(inside);
	put_number(inside, field, value);
	put_message(m, message, inside);
	free(inside);
}

enum { KIND = 3, AS_SUFFIX = 24, UNK_ID = 40, DUMMY_PREFIX = 3, REMOVE_EXTRA = 4, ESCAPE = 5 };

#define MARK "\xE2\x96\x81"

/* 0 <unk> 1 <s> 2 </s> 3 <x> 4 a 5 b 6 MARK 7 ab 8 MARK ab 9 bb 10 abb */
static struct model *new_model(uint64_t kind)
{
	static const char *const pieces[] = { "a", "b", MARK, "ab", MARK "ab", "bb", "abb" };
	struct model *m = calloc(1, sizeof *m);
	assert_non_null(m);
	add_piece(m, "<unk>", UNKNOWN);
	add_piece(m, "<s>", CONTROL);
	add_piece(m, "</s>", CONTROL);
	add_piece(m, "<x>", USER_DEFINED);
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
		add_piece(m, pieces[i], NORMAL);
	set(m, 2, KIND, kind);
	return m;
}

/* ---- reading them ---------------------------------------------------------------------------------------- */

static void write_model(struct tt *t, const struct model *m)
{
	tt_write_file(tt_path(t, "tokenizer.model"), m->bytes, m->n);
}

static void expect_ids(struct tt *t, const tn_tokenizer *tokenizer, const char *text, const char *want)
{
	struct tn_buffer ids;
	char got[256] = "";
	tt_ok(t, tn_tokenizer_encode(tokenizer, text, strlen(text), TN_ADD_SPECIAL, &ids, &t->err));
	for (size_t i = 0; i < ids.bytes / sizeof(uint32_t); i++)
		snprintf(got + strlen(got), sizeof got - strlen(got), "%s%u", i ? " " : "", (unsigned)((uint32_t *)ids.data)[i]);
	tn_buffer_release(t->ctx, &ids);
	assert_string_equal(got, want);
}

/* Opens the folder, and says which ids it makes of the text. */
static void expect_folder(struct tt *t, const char *text, const char *want)
{
	tn_tokenizer *tokenizer;
	tt_ok(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err));
	expect_ids(t, tokenizer, text, want);
	tn_tokenizer_close(tokenizer);
}

static void configure(struct tt *t, const char *json)
{
	tt_write_text(tt_path(t, "tokenizer_config.json"), json);
}

/* Merges, in their order: a b, MARK ab, b b, a bb and ab b. Read plainly, the file says what becomes of spaces; a class decides that
 * itself. */
static void everyday(void **state)
{
	struct tt *t = *state;
	struct model *m = new_model(2);
	write_model(t, m);
	expect_folder(t, "  abb<x>abbb  a</s>q", "8 5 3 8 9 6 4 2 6 0");
	set(m, 3, REMOVE_EXTRA, 0);
	write_model(t, m);
	expect_folder(t, " abb<x>ab  a ", "6 8 5 3 8 6 6 4 6");
	set(m, 3, DUMMY_PREFIX, 0);
	write_model(t, m);
	expect_folder(t, "abb<x>abbb a</s>q", "10 3 7 9 6 4 2 0");
	configure(t, "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true}");
	expect_folder(t, "ab<x>ab", "1 8 3 7");
	configure(t, "{\"tokenizer_class\":\"LlamaTokenizer\",\"legacy\":true,\"add_eos_token\":true}");
	expect_folder(t, "ab<x>ab", "8 3 8 2");
	free(m);
}

/* Scores say what is merged first, not ids; of equal ones the leftmost is. */
static void scores_count(void **state)
{
	static const struct {
		float ab, bb;
		const char *ids; /* of abb */
	} cases[] = { { -1, -2, "3 2" }, { -2, -1, "1 4" }, { -1, -1, "3 2" }, { -1e9f, 0, "1 4" }, { 0, -1e9f, "3 2" } };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct model *m = calloc(1, sizeof *m);
		assert_non_null(m);
		add_piece(m, "<unk>", UNKNOWN);
		add_piece(m, "a", NORMAL);
		add_piece(m, "b", NORMAL);
		m->next_score = cases[i].ab;
		add_piece(m, "ab", NORMAL);
		m->next_score = cases[i].bb;
		add_piece(m, "bb", NORMAL);
		set(m, 2, KIND, 2);
		set(m, 3, DUMMY_PREFIX, 0);
		write_model(t, m);
		expect_folder(t, "abb", cases[i].ids);
		free(m);
	}
}

static void the_file_alone(void **state)
{
	struct tt *t = *state;
	struct model *m = new_model(2);
	tn_tokenizer *tokenizer;
	uint32_t id;
	write_model(t, m);
	configure(t, "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true}");
	tt_ok(t, tn_tokenizer_open(t->ctx, tt_path(t, "tokenizer.model"), &tokenizer, &t->err));
	expect_ids(t, tokenizer, "ab ab", "8 8");
	assert_string_equal(tn_tokenizer_special(tokenizer, "bos_token", &id), "<s>");
	assert_int_equal(id, 1);
	assert_true(tn_tokenizer_is_special(tokenizer, 1) && !tn_tokenizer_is_special(tokenizer, 3));
	tn_tokenizer_close(tokenizer);
	free(m);
}

static void tokenizer_json_counts(void **state)
{
	struct tt *t = *state;
	struct model *m = new_model(2);
	write_model(t, m);
	tt_write_text(tt_path(t, "tokenizer.json"), "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"ab\":77}}}");
	expect_folder(t, "ab", "77");
	free(m);
}

/* Fields and messages that nobody knows are passed over, known ones in another kind too; of two the last counts. */
/* special_tokens_map.json of older folders names further tokens too; the ids are those of transformers 5.23. */
static void older_folders(void **state)
{
	static const struct {
		const char *config, *map, *of_json, *of_pieces;    /* the ids of a<y>b, and of a<x>b<y> */
	} cases[] = {
		{ "", "", "2", "4 3 5" },
		{ "", "\"additional_special_tokens\":[\"<y>\"]", "0 3 1", "4 3 5" },
		{ ",\"extra_special_tokens\":[]", "\"additional_special_tokens\":[\"<y>\"]", "2", "7" },
		{ ",\"extra_special_tokens\":{\"j\":\"<z>\"}", "\"additional_special_tokens\":[\"<y>\"]", "0 4 1", "4 3 5" },
		{ ",\"extra_special_tokens\":{\"j\":\"<z>\"},\"additional_special_tokens\":[\"<y>\"]", "", "0 4 1", "4 3 5" },
		{ "", "\"extra_special_tokens\":[\"<y>\"]", "0 3 1", "7 11" },
		{ ",\"extra_special_tokens\":[\"<z>\"]", "\"extra_special_tokens\":[\"<y>\"]", "0 4 1", "7 12" },
		{ ",\"extra_special_tokens\":[\"<y>\"]", "\"extra_special_tokens\":{\"j\":\"<z>\"}", "2", "4 3 5" },
		{ "", "\"i_token\":\"<y>\"", "0 3 1", "4 3 5 11" },
		{ ",\"added_tokens_decoder\":{}", "\"i_token\":\"<y>\",\"extra_special_tokens\":[\"<y>\"]", "2", "4 3 5" },
	};
	struct tt *t = *state;
	struct model *m = new_model(2);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char json[256];
		snprintf(json, sizeof json, "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_prefix_space\":false%s}",
			 cases[i].config);
		configure(t, json);
		snprintf(json, sizeof json, "{%s}", cases[i].map);
		tt_write_text(tt_path(t, "special_tokens_map.json"), json);
		tt_write_text(tt_path(t, "tokenizer.json"),
			      "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":1,\"a<y>b\":2}}}");
		expect_folder(t, "a<y>b", cases[i].of_json);
		assert_int_equal(unlink(tt_path(t, "tokenizer.json")), 0);
		write_model(t, m);
		expect_folder(t, "a<x>b<y>", cases[i].of_pieces);
	}
	free(m);
}

static void unknown_fields(void **state)
{
	struct tt *t = *state;
	struct model *m = new_model(1);
	put_number(m, 99, 7);
	put_bytes(m, 4, "samples", 7);
	put_varint(m, 77 << 3 | 1);
	for (int i = 0; i < 8; i++)
		put(m, 0xFF);
	put_number(m, 1, UINT64_MAX);
	set(m, 3, 77, 1);
	set(m, 2, KIND, 2);
	write_model(t, m);
	expect_folder(t, "abb", "8 5");
	free(m);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void expect_refused(struct tt *t, const struct model *m, tn_status status, const char *says)
{
	tn_tokenizer *tokenizer = NULL;
	write_model(t, m);
	tt_expect(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err), status);
	tt_expect_msg(t, says);
	assert_null(tokenizer);
}

static void refused_settings(void **state)
{
	static const struct {
		unsigned message, field;
		uint64_t value;
		tn_status status;
		const char *says;
	} cases[] = {
		{ 2, KIND, 3, TN_E_UNSUPPORTED, "is a model of words or characters" },
		{ 2, KIND, 4, TN_E_UNSUPPORTED, "write tokenizer.json with transformers" },
		{ 2, AS_SUFFIX, 1, TN_E_UNSUPPORTED, "treat_whitespace_as_suffix" },
		{ 3, ESCAPE, 0, TN_E_UNSUPPORTED, "escape_whitespaces" },
		{ 2, UNK_ID, 11, TN_E_FORMAT, "the unk_id of" },
		{ 2, UNK_ID, UINT64_MAX, TN_E_FORMAT, "is -1, which is none of its 11 pieces" },
	};
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct model *m = new_model(1);
		set(m, cases[i].message, cases[i].field, cases[i].value);
		expect_refused(t, m, cases[i].status, cases[i].says);
		free(m);
	}
}

static void refused_files(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		tn_status status;
		const char *says;
	} cases[] = {
		{ "", 0, TN_E_FORMAT, "without a single piece" },
		{ "IQ== 0\nIg== 1\n", 14, TN_E_UNSUPPORTED, "is a table of tiktoken" },
		{ "IQ== 0", 6, TN_E_FORMAT, "is no model of SentencePiece" },
		{ "version https://git-lfs", 23, TN_E_FORMAT, "get the file again" },
		{ "\x0A\x05\x0A\x03" "ab", 6, TN_E_FORMAT, "at byte 2 a field is longer than what it is part of" },
		{ "\x0A\x02\x0A\x00", 4, TN_E_FORMAT, "at byte 2 a piece has no text" },
		{ "\x0A\x04\x0A\x02" "a\xFF", 6, TN_E_FORMAT, "at byte 5 a text is not UTF-8" },
		{ "\x0A\x80", 2, TN_E_FORMAT, "a number is cut short" },
		{ "\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, TN_E_FORMAT, "more than ten bytes" },
		{ "\x0B\x0C", 2, TN_E_FORMAT, "of a kind that such models do not have" },
		{ "\x00\x00", 2, TN_E_FORMAT, "a number that none can have" },
		{ "\x0A\x03\x0A\x01" "a\x0A\x03\x0A\x01" "a\x12\x02\x18\x02", 14, TN_E_FORMAT, "the pieces 0 and 1 of" },
		{ "\x0A\x03\x0A\x01" "a\x1A\x03\x12\x01\x00", 10, TN_E_FORMAT, "is no character map of sentencepiece" },
	};
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct model *m = calloc(1, sizeof *m);
		assert_non_null(m);
		memcpy(m->bytes, cases[i].bytes, cases[i].n);
		m->n = cases[i].n;
		expect_refused(t, m, cases[i].status, cases[i].says);
		free(m);
	}
}

static void refused_classes(void **state)
{
	struct tt *t = *state;
	struct model *bpe = new_model(2), *unigram = new_model(1);
	configure(t, "{\"tokenizer_class\":\"T5TokenizerFast\"}");
	expect_refused(t, bpe, TN_E_UNSUPPORTED, "the class 'T5TokenizerFast', for which tenon reads tokenizer.json only");
	configure(t, "{\"tokenizer_class\":\"XGLMTokenizer\",\"auto_map\":{\"AutoTokenizer\":[\"x.y\",null]}}");
	expect_refused(t, bpe, TN_E_UNSUPPORTED, "or name LlamaTokenizer in tokenizer_config.json");
	configure(t, "{\"tokenizer_class\":\"GemmaTokenizer\"}");
	expect_refused(t, unigram, TN_E_UNSUPPORTED, "which is made for BPE, and is a Unigram model");
	configure(t, "{\"tokenizer_class\":\"LlamaTokenizer\"}");
	tt_write_text(tt_path(t, "config.json"), "{\"model_type\":\"qwen2\"}");
	expect_refused(t, bpe, TN_E_UNSUPPORTED, "'Qwen2Tokenizer'");
	tt_write_text(tt_path(t, "config.json"), "{\"model_type\":\"mistral\"}");
	write_model(t, unigram);
	expect_folder(t, "ab", "8");
	free(bpe);
	free(unigram);
}

/* Pieces a, aa, aaa, ...: every way to cut every one is a merge. */
static void long_pieces(void **state)
{
	enum { LONGEST = 1500, ROOM = LONGEST * (LONGEST / 2 + 20) };
	struct tt *t = *state;
	unsigned char *file = malloc(ROOM);
	tn_tokenizer *tokenizer = NULL;
	size_t n = 0;
	assert_non_null(file);
	for (unsigned length = 1; length <= LONGEST; length++) {
		const unsigned char head[] = { 0x0A, (unsigned char)((length + 3) | 0x80), (unsigned char)((length + 3) >> 7), 0x0A,
					       (unsigned char)(length | 0x80), (unsigned char)(length >> 7) };
		memcpy(file + n, head, sizeof head);
		memset(file + n + sizeof head, 'a', length);
		n += sizeof head + length;
	}
	memcpy(file + n, "\x12\x02\x18\x02", 4);
	tt_write_file(tt_path(t, "tokenizer.model"), file, n + 4);
	tt_expect(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err), TN_E_LIMIT);
	tt_expect_msg(t, "so long that their merges");
	free(file);
}

/* One piece of some megabytes: its cuts alone would take minutes. */
static void one_long_piece(void **state)
{
	enum { BYTES = 4 << 20 };
	struct tt *t = *state;
	const unsigned char head[] = { 0x0A, 0x85, 0x80, 0x80, 0x02, 0x0A, 0x80, 0x80, 0x80, 0x02 };
	unsigned char *file = malloc(sizeof head + BYTES + 4);
	tn_tokenizer *tokenizer = NULL;
	assert_non_null(file);
	memcpy(file, head, sizeof head);
	memset(file + sizeof head, 'a', BYTES);
	memcpy(file + sizeof head + BYTES, "\x12\x02\x18\x02", 4);
	tt_write_file(tt_path(t, "tokenizer.model"), file, sizeof head + BYTES + 4);
	clock_t began = clock();
	tt_expect(t, tn_tokenizer_open(t->ctx, t->folder, &tokenizer, &t->err), TN_E_LIMIT);
	tt_expect_msg(t, "so long that their merges");
	assert_true((double)(clock() - began) / CLOCKS_PER_SEC < 30);
	free(file);
}

/* ---- damage ---------------------------------------------------------------------------------------------- */

static tn_status use(tn_context *ctx, const char *folder, struct tn_error *err)
{
	static const char text[] = "ab <x> bb<s>\xC3\xA9 h\xC3\xA4 \xE6\xB5\xB7 a</s>";
	struct tn_buffer ids, back;
	tn_tokenizer *tokenizer;
	tn_status status = tn_tokenizer_open(ctx, folder, &tokenizer, err);
	if (status != TN_OK)
		return status;
	status = tn_tokenizer_encode(tokenizer, text, sizeof text - 1, TN_ADD_SPECIAL, &ids, err);
	if (status == TN_OK) {
		status = tn_tokenizer_decode(tokenizer, ids.data, ids.bytes / sizeof(uint32_t), 0, &back, err);
		if (status == TN_OK)
			tn_buffer_release(ctx, &back);
		tn_buffer_release(ctx, &ids);
	}
	tn_tokenizer_close(tokenizer);
	return status;
}

static void expect_answer(struct tt *t)
{
	struct tn_error err = { .code = TN_OK };
	tn_status status = use(t->ctx, t->folder, &err);
	if (status == TN_OK)
		return;
	assert_true(status == TN_E_FORMAT || status == TN_E_UNSUPPORTED || status == TN_E_MISMATCH || status == TN_E_LIMIT);
	assert_int_equal(err.code, status);
	assert_true(err.msg[0] != 0);
}

/* Models of make_sentencepiece.py, cut short and with bytes that are others: an answer, whatever it is. */
static void damage(struct tt *t, const char *name, const char *config)
{
	enum { CUTS = 300, CHANGES = 1000 };
	char path[4096];
	size_t n;
	uint32_t random = 1;
	snprintf(path, sizeof path, "%s/%s/tokenizer.model", TN_PIECE_CASES, name);
	unsigned char *whole = tt_read_file(path, &n);
	assert_non_null(whole);
	configure(t, config);
	for (size_t i = 0; i < CUTS; i++) {
		tt_memory_file(whole, i < CUTS / 2 ? i : n - 1 - (i - CUTS / 2));
		expect_answer(t);
	}
	for (size_t i = 0; i < CHANGES; i++) {
		size_t at[3];
		unsigned char old[3];
		for (int k = 0; k < 3; k++) {
			random = random * 1664525u + 1013904223u;
			at[k] = i % 3 == 0 ? n - 1 - random % (n < 700 ? n : 700) : random % n;
			old[k] = whole[at[k]];
			whole[at[k]] = (unsigned char)(random >> 24);
		}
		tt_memory_file(whole, n);
		expect_answer(t);
		for (int k = 3; k-- > 0;)
			whole[at[k]] = old[k];
	}
	free(whole);
}

static void damaged_files(void **state)
{
	struct tt *t = *state;
	assert_int_equal(symlink(tt_memory_file("", 0), tt_path(t, "tokenizer.model")), 0); /* no disk has to keep thousands of files */
	damage(t, "llama_small", "{\"tokenizer_class\":\"LlamaTokenizer\"}");
	damage(t, "unigram_mapped", "{}");
	damage(t, "mapped", "{\"added_tokens_decoder\":{\"5\":{\"content\":\"<y>\"}}}");
}

static tn_status job(tn_context *ctx, void *folder, struct tn_error *err)
{
	return use(ctx, folder, err);
}

static void memory_runs_out(void **state)
{
	static const char *const folders[] = { "code_llama", "phi3_renamed", "llama_older", "unigram_mapped", "mapped" };
	char path[4096];
	(void)state;
	for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
		snprintf(path, sizeof path, "%s/%s", TN_PIECE_CASES, folders[i]);
		tt_fail_each_allocation(folders[i], 400, job, path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(everyday), TT_TEST(scores_count), TT_TEST(the_file_alone), TT_TEST(tokenizer_json_counts), TT_TEST(unknown_fields),
		TT_TEST(older_folders), TT_TEST(refused_settings), TT_TEST(refused_files), TT_TEST(refused_classes), TT_TEST(long_pieces),
		TT_TEST(one_long_piece),
		TT_TEST(damaged_files), TT_TEST(memory_runs_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
