/* SPDX-License-Identifier: Apache-2.0 */
/* A head that config.json ties to the embedding and that stands in the file all the same, in the embedding's layout or another: a
 * copy is known by its values. transformers 5.23 computes with one that differs, mlx-lm 0.32 with the embedding. */
#include "fuselib.h"

#include "base/half.h"
#include "weights/head_copy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define EMBEDDING "model.embed_tokens.weight"
#define HEAD "lm_head.weight"
#define OTHER "model.layers.0.self_attn.q_proj.weight"

enum { ROWS = 8, COLS = 32, N = ROWS * COLS };
enum layout { ABSENT, BF16, F32, BITS_4, BITS_8, LAYOUTS };

/* ---- files ----------------------------------------------------------------------------------------------- */

struct file {
	char header[4096];
	unsigned char data[16 * N];
	size_t at;
};

static void put(struct file *f, const char *name, const char *dtype, size_t cols, const void *bytes, size_t n)
{
	snprintf(f->header + strlen(f->header), sizeof f->header - strlen(f->header),
		 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%d,%zu],\"data_offsets\":[%zu,%zu]}", f->at ? "," : "{", name, dtype, (int)ROWS,
		 cols, f->at, f->at + n);
	memcpy(f->data + f->at, bytes, n);
	f->at += n;
}

/* Codes 0 to 15, which stand for code / 8 - 1: of every layout exactly. */
static void put_weight(struct file *f, const char *layer, enum layout layout, const unsigned char *codes)
{
	char name[128];
	uint16_t half[N], scales[ROWS], biases[ROWS];
	float whole[N];
	unsigned char nibbles[N / 2];
	for (size_t i = 0; i < N; i++) {
		whole[i] = (float)codes[i] / 8 - 1;
		half[i] = tn_bf16_from_f32(whole[i]);
	}
	for (size_t i = 0; i < N / 2; i++)
		nibbles[i] = (unsigned char)(codes[2 * i] | codes[2 * i + 1] << 4);
	for (size_t i = 0; i < ROWS; i++) {
		scales[i] = tn_bf16_from_f32(0.125f);
		biases[i] = tn_bf16_from_f32(-1);
	}
	snprintf(name, sizeof name, "%s.weight", layer);
	if (layout == BF16)
		put(f, name, "BF16", COLS, half, sizeof half);
	if (layout == F32)
		put(f, name, "F32", COLS, whole, sizeof whole);
	if (layout != BITS_4 && layout != BITS_8)
		return;
	int eight = layout == BITS_8;
	put(f, name, "U32", eight ? COLS / 4 : COLS / 8, eight ? codes : nibbles, eight ? N : N / 2);
	snprintf(name, sizeof name, "%s.scales", layer);
	put(f, name, "BF16", 1, scales, sizeof scales);
	snprintf(name, sizeof name, "%s.biases", layer);
	put(f, name, "BF16", 1, biases, sizeof biases);
}

/* A base of an embedding, a head whose last code is `more` larger, and one weight more. */
static const char *write_base(struct tt *t, enum layout embedding, enum layout head, int more)
{
	static struct file f;
	unsigned char codes[N];
	uint64_t state = 9;
	const char *folder = tt_path(t, "base-%d-%d-%d", (int)embedding, (int)head, more);
	memset(&f, 0, sizeof f);
	for (size_t i = 0; i < N; i++)
		codes[i] = (unsigned char)(tt_random(&state) % 15);
	put_weight(&f, "model.embed_tokens", embedding, codes);
	put_weight(&f, "model.layers.0.self_attn.q_proj", F32, codes);
	codes[N - 1] = (unsigned char)(codes[N - 1] + more);
	put_weight(&f, "lm_head", head, codes);
	strcat(f.header, "}");
	mkdir(folder, 0777);
	tt_write_st(tt_path(t, "base-%d-%d-%d/model.safetensors", (int)embedding, (int)head, more), f.header, f.data, f.at);
	char config[512];
	snprintf(config, sizeof config, "{\"model_type\":\"llama\",\"tie_word_embeddings\":true,\"num_hidden_layers\":1,"
		 "\"quantization\":{\"group_size\":32,\"bits\":4,\"model.embed_tokens\":{\"group_size\":32,\"bits\":%d},"
		 "\"lm_head\":{\"group_size\":32,\"bits\":%d}}}", embedding == BITS_8 ? 8 : 4, head == BITS_8 ? 8 : 4);
	tt_write_text(tt_path(t, "base-%d-%d-%d/config.json", (int)embedding, (int)head, more), config);
	return folder;
}

/* Factors for one module, as mlx-lm or PEFT writes them. */
static const char *write_adapter(struct tt *t, const char *module, int peft)
{
	static const char *const ends[2][2] = { { ".lora_a", ".lora_b" }, { ".lora_A.weight", ".lora_B.weight" } };
	int is_table = strstr(module, "embed") != NULL;
	float a[COLS], b[ROWS];
	char names[2][128], config[512];
	for (size_t i = 0; i < COLS; i++)
		a[i] = 0.5f + (float)i / 64;
	for (size_t i = 0; i < ROWS; i++)
		b[i] = 0.75f - (float)i / 16;
	for (int i = 0; i < 2; i++)
		snprintf(names[i], sizeof names[i], "%s%s%s", peft ? "base_model.model." : "", module,
			 peft && is_table ? (i ? ".lora_embedding_B" : ".lora_embedding_A") : ends[peft][i]);
	const float *first = is_table ? b : a, *second = is_table ? a : b;
	uint64_t n = is_table ? ROWS : COLS, m = is_table ? COLS : ROWS;
	struct fuse_tensor tensors[] = { { names[0], peft ? 1 : n, peft ? n : 1, first },
					 { names[1], peft ? m : 1, peft ? 1 : m, second } };
	const char *folder = tt_path(t, "adapter-%d-%s", peft, module);
	tt_remove_tree(folder);
	mkdir(folder, 0777);
	fuse_write_tensors(t, tt_path(t, "adapter-%d-%s/%s", peft, module, peft ? "adapter_model.safetensors" : "adapters.safetensors"),
			   tensors, 2);
	if (peft)
		snprintf(config, sizeof config, "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"target_modules\":[\"%s\"]}",
			 strrchr(module, '.') ? strrchr(module, '.') + 1 : module);
	else
		snprintf(config, sizeof config, "{\"fine_tune_type\":\"lora\",\"num_layers\":-1,\"lora_parameters\":{\"rank\":1,"
			 "\"scale\":1.0,\"dropout\":0.0,\"keys\":[\"%s\"]}}", strstr(module, "self_attn") ? "self_attn.q_proj" : module);
	tt_write_text(tt_path(t, "adapter-%d-%s/adapter_config.json", peft, module), config);
	return folder;
}

/* Paths of their own: those of tt_path are used again. */
struct folders {
	char base[256], adapter[4][256], out[256];
};

static void make_folders(struct tt *t, enum layout embedding, enum layout head, int more, int head_by_mlx, struct folders *f)
{
	snprintf(f->base, sizeof f->base, "%s", write_base(t, embedding, head, more));
	snprintf(f->adapter[0], sizeof f->adapter[0], "%s", write_adapter(t, "model.embed_tokens", 0));
	snprintf(f->adapter[1], sizeof f->adapter[1], "%s", write_adapter(t, "model.embed_tokens", 1));
	snprintf(f->adapter[2], sizeof f->adapter[2], "%s", write_adapter(t, "lm_head", !head_by_mlx));
	snprintf(f->adapter[3], sizeof f->adapter[3], "%s", write_adapter(t, "model.layers.0.self_attn.q_proj", 0));
	snprintf(f->out, sizeof f->out, "%s", tt_path(t, "out"));
}

/* ---- the tests ------------------------------------------------------------------------------------------- */

static void a_copy_is_known_by_its_values(void **state)
{
	struct tt *t = *state;
	for (int embedding = ABSENT; embedding < LAYOUTS; embedding++)
		for (int head = ABSENT; head < LAYOUTS; head++)
			for (int more = 0; more < 2; more++) {
				tn_checkpoint *base;
				const char *folder = write_base(t, (enum layout)embedding, (enum layout)head, more);
				tt_ok(t, tn_checkpoint_open(t->ctx, folder, &base, &t->err));
				int differ = more && embedding != ABSENT && head != ABSENT;
				tt_expect(t, tn_check_head_copy(base, EMBEDDING, HEAD, &t->err), differ ? TN_E_MISMATCH : TN_OK);
				if (differ) {
					tt_expect_msg(t, EMBEDDING);
					tt_expect_msg(t, HEAD);
				}
				tn_checkpoint_close(base);
			}
}

static tn_status open_and_check(tn_context *ctx, void *folder, struct tn_error *err)
{
	tn_checkpoint *base;
	tn_status status = tn_checkpoint_open(ctx, folder, &base, err);
	if (status != TN_OK)
		return status;
	status = tn_check_head_copy(base, EMBEDDING, HEAD, err);
	tn_checkpoint_close(base);
	return status;
}

static void every_allocation_may_fail(void **state)
{
	char folder[256];
	snprintf(folder, sizeof folder, "%s", write_base(*state, BITS_4, BF16, 0));
	tt_fail_each_allocation("head copy", 1000, open_and_check, folder);
}

static int is_verified(struct tt *t, const struct fuse_job *job)
{
	tn_checkpoint *base, *merged;
	tn_adapter *adapter;
	tn_verify *v;
	tt_ok(t, tn_checkpoint_open(t->ctx, job->base, &base, &t->err));
	tt_ok(t, tn_adapter_open(t->ctx, job->adapter, &adapter, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, job->out, &merged, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, base, adapter, NULL, merged, &v, &t->err));
	int ok = tn_verify_ok(v);
	tn_verify_free(v);
	tn_checkpoint_close(merged);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
	return ok;
}

/* What of the head is in the result, and whether config.json still ties it. */
static size_t head_tensors(struct tt *t, int *tied)
{
	tn_checkpoint *out;
	size_t n = 0;
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "out"), &out, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(out); i++)
		n += strncmp(tn_checkpoint_at(out, i)->name, "lm_head.", 8) == 0;
	*tied = strstr(tn_checkpoint_config(out), "\"tie_word_embeddings\": true") != NULL ||
		strstr(tn_checkpoint_config(out), "\"tie_word_embeddings\":true") != NULL;
	tn_checkpoint_close(out);
	return n;
}

/* mlx-lm's table is the head too: a copy of what it was would be served by transformers. PEFT's is one of two modules. */
static void a_copy_does_not_stay_behind(void **state)
{
	struct tt *t = *state;
	for (int embedding = BF16; embedding < LAYOUTS; embedding++)
		for (int head = BF16; head < LAYOUTS; head++) {
			struct folders f;
			size_t parts = head == BITS_4 || head == BITS_8 ? 3 : 1;
			make_folders(t, (enum layout)embedding, (enum layout)head, 0, 0, &f);
			for (int i = 0; i < 4; i++) {
				struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[i], .out = f.out);
				int tied;
				fuse_run(t, t->ctx, &job, NULL, 0);
				assert_int_equal(head_tensors(t, &tied), i == 0 ? 0 : parts);
				assert_int_equal(tied, i == 0 || i == 3);
				if (!is_verified(t, &job))
					fail_msg("embedding %d, head %d, adapter %d", embedding, head, i);
			}
		}
}

static tn_status open_and_verify(tn_context *ctx, void *arg, struct tn_error *err)
{
	const struct fuse_job *job = arg;
	tn_checkpoint *base = NULL, *merged = NULL;
	tn_adapter *adapter = NULL;
	tn_verify *v = NULL;
	tn_status status = tn_checkpoint_open(ctx, job->base, &base, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, job->out, &merged, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, job->adapter, &adapter, err);
	if (status == TN_OK)
		status = tn_verify_run(ctx, base, adapter, NULL, merged, &v, err);
	tn_verify_free(v);
	tn_adapter_close(adapter);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(base);
	return status;
}

static void every_allocation_of_verify_may_fail(void **state)
{
	struct tt *t = *state;
	struct folders f;
	make_folders(t, BF16, ABSENT, 0, 0, &f);
	struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[3], .out = f.out);
	fuse_run(t, t->ctx, &job, NULL, 0);
	make_folders(t, BF16, BITS_4, 0, 0, &f);
	tt_fail_each_allocation("verify without a head", 2000, open_and_verify, &job);
}

/* transformers saves no head that is tied: the same numbers once more are not missing, others are. */
static void a_copy_may_be_left_out(void **state)
{
	struct tt *t = *state;
	for (int embedding = BF16; embedding < LAYOUTS; embedding++)
		for (int head = BF16; head < LAYOUTS; head++)
			for (int more = 0; more < 2; more++) {
				struct folders f;
				make_folders(t, (enum layout)embedding, ABSENT, 0, 0, &f);
				struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[3], .out = f.out);
				tt_remove_tree(f.out);
				fuse_run(t, t->ctx, &job, NULL, 0);
				make_folders(t, (enum layout)embedding, (enum layout)head, more, 0, &f);
				assert_int_equal(is_verified(t, &job), !more);
				tt_write_text(tt_path(t, "out/config.json"), "{\"model_type\":\"llama\",\"tie_word_embeddings\":false}");
				assert_false(is_verified(t, &job));
			}
}

/* An adapter of PEFT that brings both tables whole: what the base has there does not count. */
static const char *write_both(struct tt *t)
{
	float values[2][N], a[COLS], b[ROWS];
	for (size_t i = 0; i < N; i++) {
		values[0][i] = (float)i / 64;
		values[1][i] = 1 - (float)i / 128;
	}
	for (size_t i = 0; i < COLS; i++)
		a[i] = (float)i / 32;
	for (size_t i = 0; i < ROWS; i++)
		b[i] = (float)i / 16;
	struct fuse_tensor tensors[] = {
		{ "base_model.model.model.embed_tokens.weight", ROWS, COLS, values[0] },
		{ "base_model.model.lm_head.weight", ROWS, COLS, values[1] },
		{ "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 1, COLS, a },
		{ "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", ROWS, 1, b },
	};
	const char *folder = tt_path(t, "both");
	mkdir(folder, 0777);
	fuse_write_tensors(t, tt_path(t, "both/adapter_model.safetensors"), tensors, 4);
	tt_write_text(tt_path(t, "both/adapter_config.json"), "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"target_modules\":"
		      "[\"q_proj\"],\"modules_to_save\":[\"embed_tokens\",\"lm_head\"]}");
	return folder;
}

static void what_is_replaced_may_differ(void **state)
{
	struct tt *t = *state;
	struct folders f;
	int tied;
	make_folders(t, BF16, F32, 1, 0, &f);
	snprintf(f.adapter[0], sizeof f.adapter[0], "%s", write_both(t));
	struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[0], .out = f.out);
	fuse_run(t, t->ctx, &job, NULL, 0);
	assert_int_equal(head_tensors(t, &tied), 1);
	assert_true(!tied && is_verified(t, &job));
}

/* "output.weight" is a head's name in some families, and in others anything's: of another shape it is none. */
static void not_every_output_is_a_head(void **state)
{
	struct tt *t = *state;
	float table[N], other[ROWS * 5] = { 1 };
	struct fuse_tensor tensors[] = { { EMBEDDING, ROWS, COLS, table }, { OTHER, ROWS, COLS, table },
					 { "vision_tower.output.weight", 5, ROWS, other } };
	struct folders f;
	make_folders(t, BF16, ABSENT, 0, 0, &f);
	snprintf(f.base, sizeof f.base, "%s", tt_path(t, "seeing"));
	for (size_t i = 0; i < N; i++)
		table[i] = (float)i / 64;
	fuse_write_model(t, f.base, tensors, 3, TN_F32);
	tt_write_text(tt_path(t, "seeing/config.json"), "{\"model_type\":\"llama\",\"tie_word_embeddings\":true}");
	for (int i = 0; i < 3; i++) {
		struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[i], .out = f.out);
		int tied;
		tt_remove_tree(f.out);
		fuse_run(t, t->ctx, &job, NULL, 0);
		assert_int_equal(head_tensors(t, &tied), i != 0);
		assert_true(is_verified(t, &job));
	}
}

static void a_head_that_differs_is_refused(void **state)
{
	struct tt *t = *state;
	for (int head = BF16; head < LAYOUTS; head++)
		for (int by_mlx = 0; by_mlx < 2; by_mlx++) {
			struct folders f;
			int tied;
			make_folders(t, BF16, (enum layout)head, 1, by_mlx, &f);
			for (int i = 0; i < 3; i++) {
				struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[i], .out = f.out);
				tt_remove_tree(f.out);
				fuse_refused(t, &job, TN_E_MISMATCH, HEAD);
				tt_expect_msg(t, EMBEDDING);
			}
			struct fuse_job job = FUSE_JOB(.base = f.base, .adapter = f.adapter[3], .out = f.out);
			fuse_run(t, t->ctx, &job, NULL, 0);
			assert_true(head_tensors(t, &tied) && tied && is_verified(t, &job));
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(a_copy_is_known_by_its_values),
		TT_TEST(every_allocation_may_fail),
		TT_TEST(a_copy_does_not_stay_behind),
		TT_TEST(a_copy_may_be_left_out),
		TT_TEST(every_allocation_of_verify_may_fail),
		TT_TEST(what_is_replaced_may_differ),
		TT_TEST(not_every_output_is_a_head),
		TT_TEST(a_head_that_differs_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
