/* SPDX-License-Identifier: Apache-2.0 */
/* Every case of data/peft.tar.xz (PEFT 0.21): the merged weights of PEFT, and where PEFT's merge is not its own forward pass
 * (tied embeddings, layer_replication) or PEFT cannot load its own file (overlapping patterns), the right result. */
#include "adapterlib.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CASES ADAPTER_DATA "/peft"

/* In units of 2^-23 of the largest element: PEFT sums in float32, and takes singular values in float32. */
static double tolerance(const char *name)
{
	return strcmp(name, "init_pissa") == 0 ? 256 : 8;
}

/* PEFT's merge is inconsistent here: these names hold what it should not have done. */
static int is_peft_wrong(const char *name, const char *tensor)
{
	if (strcmp(name, "tied_embedding") == 0)
		return strcmp(tensor, "lm_head.weight") == 0;
	return strcmp(name, "layer_replication") == 0;
}

/* A stack of experts in memory, from the tensors that stand on disk one by one. */
static double *load_stack(struct al *t, const tn_checkpoint *c, const char *name, uint64_t count)
{
	char path[256];
	const struct tn_tensor *found;
	const char *mlp = strstr(name, ".mlp.experts.");
	int down = strstr(name, "down_proj") != NULL, experts = 4;
	double *all = mlp ? malloc(count * sizeof *all) : NULL;
	uint64_t at = 0;
	for (int e = 0; e < experts && all; e++)
		for (int part = 0; part < (down ? 1 : 2); part++) {
			snprintf(path, sizeof path, "%.*s.block_sparse_moe.experts.%d.%s.weight", (int)(mlp - name), name, e,
				 down ? "w2" : part ? "w3" : "w1");
			double *one = al_load(t, c, path, &found);
			assert_non_null(one);
			memcpy(all + at, one, found->elements * sizeof *one);
			at += found->elements;
			free(one);
		}
	return all;
}

static void compare_tensor(struct al *t, const char *name, const tn_checkpoint *got, const tn_checkpoint *expect,
			   const char *tensor)
{
	const struct tn_tensor *w, *g;
	double *want = al_load(t, expect, tensor, &w), *have = al_load(t, got, tensor + strlen("merged."), &g);
	double largest = 0, worst = 0;
	if (!have)
		have = load_stack(t, got, tensor + strlen("merged."), w->elements);
	if (!have)
		fail_msg("%s: %s is missing", name, tensor);
	for (uint64_t i = 0; i < w->elements; i++) {
		largest = fmax(largest, fabs(want[i]));
		worst = fmax(worst, fabs(want[i] - have[i]));
	}
	if (!(worst <= tolerance(name) * largest * 0x1p-23))
		fail_msg("%s: %s is %g of 2^-23 away", name, tensor, worst / largest / 0x1p-23);
	free(want);
	free(have);
}

static void compare_case(struct al *t, const char *name, const char *out)
{
	tn_checkpoint *got, *expect;
	char path[512];
	snprintf(path, sizeof path, "%s/cases/%s/expect.safetensors", CASES, name);
	al_ok(t, tn_checkpoint_open(t->ctx, out, &got, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, path, &expect, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(expect); i++) {
		const char *tensor = tn_checkpoint_at(expect, i)->name;
		if (strncmp(tensor, "merged.", 7) == 0 && !is_peft_wrong(name, tensor + 7))
			compare_tensor(t, name, got, expect, tensor);
	}
	tn_checkpoint_close(expect);
	tn_checkpoint_close(got);
}

static void verify_case(struct al *t, const char *name, const char *base, const char *adapter, const char *out)
{
	tn_checkpoint *b, *m;
	tn_adapter *a;
	tn_verify *v;
	al_ok(t, tn_checkpoint_open(t->ctx, base, &b, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, out, &m, &t->err));
	al_ok(t, tn_adapter_open(t->ctx, adapter, &a, &t->err));
	al_ok(t, tn_verify_run(t->ctx, b, a, NULL, m, &v, &t->err));
	if (!tn_verify_ok(v))
		fail_msg("%s does not verify", name);
	for (size_t i = 0; i < tn_verify_count(v); i++)
		assert_true(tn_verify_at(v, i)->max_ulp <= 0.5001);
	tn_verify_free(v);
	tn_adapter_close(a);
	tn_checkpoint_close(m);
	tn_checkpoint_close(b);
}

static void test_every_case(void **state)
{
	struct al *t = *state;
	json_t *root = al_json(CASES "/cases.json"), *info;
	const char *name;
	size_t fused = 0, refused = 0;
	json_object_foreach(json_object_get(root, "cases"), name, info) {
		char base[512], adapter[512];
		const char *out = al_path(t, "%s", name);
		snprintf(base, sizeof base, "%s/%s", CASES, json_string_value(json_object_get(info, "base")));
		snprintf(adapter, sizeof adapter, "%s/cases/%s", CASES, name);
		tn_status status = al_fuse(t, base, adapter, out);
		if (strcmp(name, "alora") == 0 || strcmp(name, "lora_b_bias") == 0) { /* PEFT does not merge these either */
			assert_int_equal(status, TN_E_UNSUPPORTED);
			al_expect_named(t, strcmp(name, "alora") ? "lora_bias" : "alora_invocation_tokens");
			refused++;
			continue;
		}
		if (status != TN_OK)
			fail_msg("%s: %s", name, t->err.msg);
		compare_case(t, name, out);
		verify_case(t, name, base, adapter, out);
		fused++;
	}
	assert_int_equal(fused, 34);
	assert_int_equal(refused, 2);
	json_decref(root);
}

/* An embedding alone is adapted: the head keeps the base's weight, under a name of its own. */
static void test_tied_embedding_is_untied(void **state)
{
	struct al *t = *state;
	const char *out = al_path(t, "out");
	const struct tn_tensor *a, *b;
	tn_checkpoint *base, *got;
	al_ok(t, al_fuse(t, CASES "/llama_tied", CASES "/cases/tied_embedding", out));
	al_ok(t, tn_checkpoint_open(t->ctx, CASES "/llama_tied", &base, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, out, &got, &t->err));
	assert_null(tn_checkpoint_find(base, "lm_head.weight"));
	double *embedding = al_load(t, base, "model.embed_tokens.weight", &a), *head = al_load(t, got, "lm_head.weight", &b);
	assert_non_null(head);
	assert_memory_equal(embedding, head, a->elements * sizeof *head);
	json_t *config = al_json(al_path(t, "out/config.json"));
	assert_true(json_is_false(json_object_get(config, "tie_word_embeddings")));
	json_decref(config);
	free(embedding);
	free(head);
	tn_checkpoint_close(got);
	tn_checkpoint_close(base);
}

/* Whether the head is the embedding is said by text_config first; a head that leaves it is said to all readers, at the top and
 * in text_config. -1: the key is not there. */
static void test_ties_of_nested_configs(void **state)
{
	static const struct {
		const char *config;
		int head_is_there, top, text;
	} cases[] = {
		{ "{\"model_type\":\"x\",\"text_config\":{\"tie_word_embeddings\":true}}", 1, 0, 0 },
		{ "{\"model_type\":\"x\",\"text_config\":{},\"tie_word_embeddings\":true}", 1, 0, 0 },
		{ "{\"model_type\":\"x\",\"text_config\":{}}", 0, 0, 0 },
		{ "{\"model_type\":\"x\",\"text_config\":{\"tie_word_embeddings\":false},\"tie_word_embeddings\":true}", 1, 1, 0 },
		{ "{\"model_type\":\"x\",\"text_config\":{}}", 1, -1, -1 },
		{ "{\"model_type\":\"x\",\"tie_word_embeddings\":true}", 1, 0, -1 },
	};
	static const struct al_tensor base[] = { { "model.embed_tokens.weight", { 4, 3 }, 2, NULL },
						 { "lm_head.weight", { 4, 3 }, 2, NULL } };
	static const struct al_tensor factors[] = { { "base_model.model.lm_head.lora_A.weight", { 2, 3 }, 2, NULL },
						    { "base_model.model.lm_head.lora_B.weight", { 4, 2 }, 2, NULL } };
	struct al *t = *state;
	al_write_adapter(al_path(t, "a"), "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"lm_head\"]}",
			 "adapter_model.safetensors", factors, 2);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		al_write_base(al_path(t, "b"), cases[i].config, base, cases[i].head_is_there ? 2 : 1);
		al_ok(t, al_fuse(t, al_path(t, "b"), al_path(t, "a"), al_path(t, "out")));
		json_t *config = al_json(al_path(t, "out/config.json"));
		const json_t *top = json_object_get(config, "tie_word_embeddings");
		const json_t *text = json_object_get(json_object_get(config, "text_config"), "tie_word_embeddings");
		assert_int_equal(top ? json_is_true(top) : -1, cases[i].top);
		assert_int_equal(text ? json_is_true(text) : -1, cases[i].text);
		json_decref(config);
	}
}

#define HEAD "base_model.model.lm_head"
#define TABLE "base_model.model.model.embed_tokens"
#define TOKENS(rule) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"none\"],\"trainable_token_indices\":" rule "}"
#define FACTORS(rest) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"lm_head\"]" rest "}"

/* The rows of a fused table of three columns that are not the base's, as bits; all when it has not its shape. -1: not there. */
static int changed_rows(struct al *t, const char *base, const char *out, const char *name)
{
	const struct tn_tensor *a, *b;
	tn_checkpoint *before, *after;
	int rows = 0;
	al_ok(t, tn_checkpoint_open(t->ctx, base, &before, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, out, &after, &t->err));
	double *x = al_load(t, before, "model.embed_tokens.weight", &a), *y = al_load(t, after, name, &b);
	for (uint64_t i = 0; y && i < b->elements; i++)
		rows |= (a->elements != b->elements || x[i] != y[i]) << i / 3;
	free(x);
	tn_checkpoint_close(after);
	tn_checkpoint_close(before);
	int found = y != NULL;
	free(y);
	return found ? rows : -1;
}

/* What PEFT computes where table and head are one: the head follows the table's rows unless it has some of its own, the table
 * never follows the head's; a whole table is for both, whichever name it has, but for modules_to_save. */
static void test_tables_that_are_tied(void **state)
{
	static const float row[] = { 7, 8, 9, 1, 2, 3 }, whole[18] = { 5, 0, 1, 5, 0, 1, 5, 0, 1, 5, 0, 1, 5, 0, 1, 5, 0, 1 };
	static const struct {
		const char *config;
		struct al_tensor tensors[3];
		size_t count;
		int table, head;         /* rows that change; head -1: it stays tied */
	} cases[] = {
		{ TOKENS("{\"embed_tokens\":[1]}"), { { TABLE ".token_adapter.trainable_tokens_delta", { 1, 3 }, 2, row } }, 1, 2, -1 },
		{ TOKENS("{\"lm_head\":[1]}"), { { HEAD ".token_adapter.trainable_tokens_delta", { 1, 3 }, 2, row } }, 1, 0, 2 },
		{ TOKENS("{\"embed_tokens\":[1],\"lm_head\":[2,3]}"),
		  { { TABLE ".token_adapter.trainable_tokens_delta", { 1, 3 }, 2, row },
		    { HEAD ".token_adapter.trainable_tokens_delta", { 2, 3 }, 2, row } }, 2, 2, 4 + 8 },
		{ FACTORS(""), { { HEAD ".lora_A.weight", { 2, 3 }, 2, NULL }, { HEAD ".lora_B.weight", { 4, 2 }, 2, NULL } }, 2, 0, 15 },
		{ FACTORS(""), { { HEAD ".lora_A.weight", { 2, 3 }, 2, NULL }, { HEAD ".lora_B.weight", { 6, 2 }, 2, NULL },
				 { HEAD ".base_layer.weight", { 6, 3 }, 2, whole } }, 3, 63, 63 },
		{ TOKENS("null,\"modules_to_save\":[\"lm_head\"]"), { { HEAD ".weight", { 4, 3 }, 2, whole } }, 1, 0, 15 },
	};
	static const struct al_tensor base = { "model.embed_tokens.weight", { 4, 3 }, 2, NULL };
	static const struct al_tensor both[] = { { HEAD ".lora_A.weight", { 2, 3 }, 2, NULL }, { HEAD ".lora_B.weight", { 4, 2 }, 2, NULL },
						 { TABLE ".token_adapter.trainable_tokens_delta", { 1, 3 }, 2, row } };
	struct al *t = *state;
	const char *b = al_path(t, "b"), *a = al_path(t, "a"), *out = al_path(t, "out");
	al_write_base(b, "{\"model_type\":\"llama\",\"tie_word_embeddings\":true,\"vocab_size\":4}", &base, 1);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		al_write_adapter(a, cases[i].config, "adapter_model.safetensors", cases[i].tensors, cases[i].count);
		if (al_fuse(t, b, a, out) != TN_OK)
			fail_msg("%zu: %s", i, t->err.msg);
		assert_int_equal(changed_rows(t, b, out, "model.embed_tokens.weight"), cases[i].table);
		assert_int_equal(changed_rows(t, b, out, "lm_head.weight"), cases[i].head);
	}
	al_write_adapter(a, FACTORS(",\"trainable_token_indices\":[1]"), "adapter_model.safetensors", both, 3);
	al_expect(t, al_fuse(t, b, a, out), TN_E_UNSUPPORTED);
	al_expect_named(t, "trainable_token_indices");
}

/* Pythia's files call the head embed_out, transformers 5 calls it lm_head: one module, in either direction. */
static void test_heads_of_gpt_neox(void **state)
{
	static const char *const heads[] = { "embed_out", "lm_head" };
	struct al *t = *state;
	const char *b = al_path(t, "b"), *a = al_path(t, "a"), *out = al_path(t, "out");
	for (size_t i = 0; i < 4; i++) {
		char config[160], name[3][64], weight[2][64];
		const char *base_head = heads[i % 2], *head = heads[i / 2];
		tn_checkpoint *c;
		for (size_t k = 0; k < 2; k++) {
			snprintf(weight[k], sizeof weight[k], "%s.weight", heads[k]);
			snprintf(name[k], sizeof name[k], "base_model.model.%s.lora_%c.weight", head, "AB"[k]);
		}
		const struct al_tensor base[] = { { "gpt_neox.embed_in.weight", { 4, 3 }, 2, NULL },
						 { weight[i % 2], { 4, 3 }, 2, NULL } };
		const struct al_tensor lora[] = { { name[0], { 2, 3 }, 2, NULL }, { name[1], { 4, 2 }, 2, NULL } };
		al_write_base(b, "{\"model_type\":\"gpt_neox\",\"tie_word_embeddings\":false}", base, 2);
		for (int saved = 0; saved < 2; saved++) {
			snprintf(name[2], sizeof name[2], "base_model.model.%s.weight", head);
			const struct al_tensor whole = { name[2], { 4, 3 }, 2, (const float[12]){ 3 } };
			snprintf(config, sizeof config, "{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"%s\"]%s%s%s}", saved ? "x" : head,
				 saved ? ",\"modules_to_save\":[\"" : "", saved ? head : "", saved ? "\"]" : "");
			al_write_adapter(a, config, "adapter_model.safetensors", saved ? &whole : lora, saved ? 1 : 2);
			if (al_fuse(t, b, a, out) != TN_OK)
				fail_msg("%s on %s: %s", head, base_head, t->err.msg);
			al_ok(t, tn_checkpoint_open(t->ctx, out, &c, &t->err));
			assert_int_equal(tn_checkpoint_count(c), 2);
			tn_checkpoint_close(c);
		}
	}
}

/* Granite's files keep the stacks of experts as input_linear and output_linear. */
static void test_experts_of_granite(void **state)
{
#define MOE "model.layers.0.block_sparse_moe."
#define EXPERTS "base_model.model." MOE "experts."
	static const struct al_tensor base[] = { { MOE "input_linear.weight", { 2, 4, 3 }, 3, NULL },
						 { MOE "output_linear.weight", { 2, 3, 2 }, 3, NULL } };
	static const struct al_tensor lora[] = { { EXPERTS "base_layer.lora_A.weight", { 2, 3 }, 2, NULL },
						 { EXPERTS "base_layer.lora_B.weight", { 4, 2 }, 2, NULL },
						 { EXPERTS "lora_A.weight", { 2, 2 }, 2, NULL },
						 { EXPERTS "lora_B.weight", { 3, 2 }, 2, NULL } };
	struct al *t = *state;
	const char *b = al_path(t, "b"), *a = al_path(t, "a"), *out = al_path(t, "out");
	al_write_base(b, "{\"model_type\":\"granitemoe\"}", base, 2);
	al_write_adapter(a, "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"target_modules\":[],\"target_parameters\":"
			 "[\"experts.gate_up_proj\",\"experts.down_proj\"]}", "adapter_model.safetensors", lora, 4);
	al_ok(t, al_fuse(t, b, a, out));
	for (size_t i = 0; i < 2; i++) {
		const struct tn_tensor *w, *g;
		tn_checkpoint *before, *after;
		al_ok(t, tn_checkpoint_open(t->ctx, b, &before, &t->err));
		al_ok(t, tn_checkpoint_open(t->ctx, out, &after, &t->err));
		double *x = al_load(t, before, base[i].name, &w), *y = al_load(t, after, base[i].name, &g);
		for (uint64_t k = 0; k < w->elements; k++)
			assert_true(y[k] > x[k]);
		free(x);
		free(y);
		tn_checkpoint_close(before);
		tn_checkpoint_close(after);
	}
}

/* W of the layer that a copy stands for, plus that copy's own factors. */
static void check_replica(struct al *t, const tn_checkpoint *base, const tn_checkpoint *factors, const tn_checkpoint *got,
			  unsigned from, unsigned to)
{
	char name[256];
	const struct tn_tensor *tw, *ta, *tb, *tg;
	snprintf(name, sizeof name, "model.layers.%u.self_attn.v_proj.weight", from);
	double *w = al_load(t, base, name, &tw);
	snprintf(name, sizeof name, "model.layers.%u.self_attn.v_proj.weight", to);
	double *g = al_load(t, got, name, &tg);
	snprintf(name, sizeof name, "base_model.model.model.layers.%u.self_attn.v_proj.lora_A.weight", to);
	double *a = al_load(t, factors, name, &ta);
	snprintf(name, sizeof name, "base_model.model.model.layers.%u.self_attn.v_proj.lora_B.weight", to);
	double *b = al_load(t, factors, name, &tb);
	assert_true(w && g && a && b);
	for (uint64_t o = 0; o < tw->shape[0]; o++)
		for (uint64_t i = 0; i < tw->shape[1]; i++) {
			double sum = 0;
			for (uint64_t k = 0; k < ta->shape[0]; k++)
				sum += b[o * tb->shape[1] + k] * a[k * ta->shape[1] + i];
			double truth = w[o * tw->shape[1] + i] + 2 * sum;
			assert_true(fabs(g[o * tw->shape[1] + i] - (double)(float)truth) <= fabs(truth) * 0x1p-23);
		}
	free(w);
	free(g);
	free(a);
	free(b);
}

static void test_replicated_layers_are_written(void **state)
{
	struct al *t = *state;
	const char *out = al_path(t, "out");
	static const unsigned from[] = { 0, 1, 1, 2 };
	tn_checkpoint *base, *factors, *got;
	al_ok(t, al_fuse(t, CASES "/llama", CASES "/cases/layer_replication", out));
	al_ok(t, tn_checkpoint_open(t->ctx, CASES "/llama", &base, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, CASES "/cases/layer_replication/adapter_model.safetensors", &factors, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, out, &got, &t->err));
	for (unsigned i = 0; i < 4; i++)
		check_replica(t, base, factors, got, from[i], i);
	json_t *config = al_json(al_path(t, "out/config.json"));
	assert_int_equal(json_integer_value(json_object_get(config, "num_hidden_layers")), 4);
	json_decref(config);
	tn_checkpoint_close(got);
	tn_checkpoint_close(factors);
	tn_checkpoint_close(base);
}

/* Overlapping keys of rank_pattern: the file order says 3 for all down_proj, and the tensors say which had 5. */
static void test_overlapping_patterns(void **state)
{
	struct al *t = *state;
	static const struct {
		const char *path;
		uint64_t rank;
		double scale;
	} expected[] = {
		{ "model.layers.0.mlp.down_proj", 3, 16.0 / 3 },       { "model.layers.1.mlp.down_proj", 5, 16.0 / 5 },
		{ "model.layers.0.self_attn.q_proj", 2, 8 },           { "model.layers.0.self_attn.v_proj", 8, 3.0 / 8 },
		{ "model.layers.0.self_attn.o_proj", 8, 5 },           { "model.layers.1.self_attn.o_proj", 8, 7.0 / 8 },
		{ "model.layers.1.self_attn.k_proj", 8, 2 },
	};
	tn_adapter *a;
	size_t found = 0;
	al_ok(t, tn_adapter_open(t->ctx, CASES "/cases/rank_alpha_pattern", &a, &t->err));
	for (size_t i = 0; i < tn_adapter_count(a); i++)
		for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
			const struct tn_adapter_module *m = tn_adapter_at(a, i);
			if (strcmp(m->path, expected[k].path))
				continue;
			assert_int_equal(m->rank, expected[k].rank);
			assert_true(m->scale == expected[k].scale);
			found++;
		}
	assert_int_equal(found, 7);
	tn_adapter_close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(test_every_case),
		AL_TEST(test_tied_embedding_is_untied),
		AL_TEST(test_ties_of_nested_configs),
		AL_TEST(test_tables_that_are_tied),
		AL_TEST(test_heads_of_gpt_neox),
		AL_TEST(test_experts_of_granite),
		AL_TEST(test_replicated_layers_are_written),
		AL_TEST(test_overlapping_patterns),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
