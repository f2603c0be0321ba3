/* SPDX-License-Identifier: Apache-2.0 */
/* What a decoder promises beside the right numbers: caches that belong to their adapters and stay within their budget, no
 * allocation while it speaks, the same bits for any number of threads, and configs that are refused by name. */
#include "testlib.h"

#include "tenon/tenon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 128, TEXT = 12 };

struct model {
	tn_checkpoint *base;
	tn_adapter *adapter;
	tn_live *live;
	tn_decoder *decoder;
	struct tn_decoder_info info;
};

static const uint32_t text[TEXT] = { 5, 17, 42, 8, 99, 3, 61, 77, 12, 30, 55, 9 };

static void open_in(struct tt *t, tn_context *ctx, struct model *m, const char *name, uint64_t cache_bytes)
{
	char path[512];
	struct tn_decoder_options options = TN_DECODER_OPTIONS_INIT;
	options.cache_bytes = cache_bytes;
	*m = (struct model){ 0 };
	snprintf(path, sizeof path, ARCH "/%s", name);
	tt_ok(t, tn_checkpoint_open(ctx, path, &m->base, &t->err));
	tt_ok(t, tn_live_open(m->base, NULL, &m->live, &t->err));
	tt_ok(t, tn_decoder_create(m->live, m->base, &options, &m->decoder, &t->err));
	tn_decoder_describe(m->decoder, &m->info);
}

static void attach(struct tt *t, struct model *m, const char *name)
{
	char path[512];
	snprintf(path, sizeof path, ARCH "/%s/adapters/lora", name);
	tt_ok(t, tn_adapter_open(t->ctx, path, &m->adapter, &t->err));
	tt_ok(t, tn_live_attach_disabled(m->live, "a", m->adapter, 1, &t->err));
}

static void close_model(struct model *m)
{
	tn_decoder_destroy(m->decoder);
	tn_live_close(m->live);
	tn_adapter_close(m->adapter);
	tn_checkpoint_close(m->base);
}

static void say(struct tt *t, struct model *m, tn_sequence *s, const uint32_t *ids, size_t n, float *logits)
{
	struct tn_step step = { .sequence = s, .ids = ids, .count = n, .logits = logits };
	tt_ok(t, tn_decoder_step(m->decoder, &step, 1, &t->err));
}

/* The logits behind the text, computed by a text of their own. */
static void fresh(struct tt *t, struct model *m, const char *adapter, size_t n, float *logits)
{
	tn_sequence *s;
	tt_ok(t, tn_sequence_create(m->decoder, n, &s, &t->err));
	tt_ok(t, tn_sequence_use(s, adapter, &t->err));
	say(t, m, s, text, n, logits);
	tn_sequence_destroy(s);
}

/* A product of one row and one of many may differ in the last bits. */
static void expect_near(const float *got, const float *want)
{
	for (int i = 0; i < MOST; i++)
		if (!(got[i] - want[i] < 2e-5f && want[i] - got[i] < 2e-5f))
			fail_msg("logit %d is %g, not %g", i, (double)got[i], (double)want[i]);
}

static void a_cache_belongs_to_its_adapter(void **state)
{
	struct tt *t = *state;
	struct model m;
	float got[MOST], base[MOST], adapted[MOST];
	tn_sequence *s;
	open_in(t, t->ctx, &m, "llama", 0);
	attach(t, &m, "llama");
	fresh(t, &m, "", TEXT, base);
	fresh(t, &m, "a", TEXT, adapted);
	assert_memory_not_equal(base, adapted, sizeof base);
	tt_ok(t, tn_sequence_create(m.decoder, TEXT, &s, &t->err));
	say(t, &m, s, text, TEXT - 1, NULL);
	tt_ok(t, tn_sequence_use(s, "a", &t->err));
	say(t, &m, s, text + TEXT - 1, 1, got);        /* the whole text again, adapted */
	expect_near(got, adapted);
	uint64_t both = tn_decoder_cache_bytes(m.decoder);
	tn_sequence_rewind(s, TEXT - 1);
	tt_ok(t, tn_sequence_use(s, "", &t->err));
	say(t, &m, s, text + TEXT - 1, 1, got);        /* what the base had left is still there */
	expect_near(got, base);
	assert_int_equal(tn_decoder_cache_bytes(m.decoder), both);
	/* enabled, the adapter is the default; detached, it is gone */
	tt_ok(t, tn_live_enable(m.live, "a", 1, &t->err));
	tn_sequence_rewind(s, TEXT - 1);
	tt_ok(t, tn_sequence_use(s, NULL, &t->err));
	say(t, &m, s, text + TEXT - 1, 1, got);
	expect_near(got, adapted);
	tt_ok(t, tn_live_detach(m.live, "a", &t->err));
	tn_sequence_rewind(s, TEXT - 1);
	say(t, &m, s, text + TEXT - 1, 1, got);
	expect_near(got, base);
	close_model(&m);
}

static void a_text_can_be_rewound(void **state)
{
	struct tt *t = *state;
	struct model m;
	float got[MOST], want[MOST];
	tn_sequence *s;
	size_t n;
	static const uint32_t other[3] = { 70, 71, 72 };
	open_in(t, t->ctx, &m, "gemma2", 0);
	fresh(t, &m, NULL, TEXT, want);
	tt_ok(t, tn_sequence_create(m.decoder, 4, &s, &t->err)); /* it grows beyond its reserve */
	say(t, &m, s, text, 9, NULL);
	say(t, &m, s, other, 3, got);
	tn_sequence_rewind(s, 9);
	say(t, &m, s, text + 9, 3, got);
	expect_near(got, want);
	assert_memory_equal(tn_sequence_ids(s, &n), text, sizeof text);
	assert_int_equal(n, TEXT);
	close_model(&m);
}

static void the_budget_holds(void **state)
{
	struct tt *t = *state;
	struct model m;
	float got[MOST], want[MOST];
	tn_sequence *one, *two, *large;
	open_in(t, t->ctx, &m, "llama", 0);
	fresh(t, &m, NULL, TEXT, want);
	const uint64_t bytes = m.info.cache_bytes_per_token;
	close_model(&m);
	open_in(t, t->ctx, &m, "llama", bytes * (TEXT + 4));
	tt_ok(t, tn_sequence_create(m.decoder, TEXT, &one, &t->err));
	tt_ok(t, tn_sequence_create(m.decoder, TEXT, &two, &t->err));
	tt_ok(t, tn_sequence_create(m.decoder, 0, &large, &t->err));
	for (int round = 0; round < 3; round++) { /* each gives up the cache of the other, and computes its own again */
		tn_sequence_rewind(one, 0);
		say(t, &m, one, text, TEXT - 1, NULL);
		tn_sequence_rewind(two, 0);
		say(t, &m, two, text, TEXT, got);
		expect_near(got, want);
		say(t, &m, one, text + TEXT - 1, 1, got);
		expect_near(got, want);
		assert_true(tn_decoder_cache_bytes(m.decoder) <= bytes * (TEXT + 4));
	}
	struct tn_step step = { .sequence = large, .ids = text, .count = TEXT };
	tt_ok(t, tn_decoder_step(m.decoder, &step, 1, &t->err));
	tt_expect(t, tn_decoder_step(m.decoder, &step, 1, &t->err), TN_E_LIMIT);
	tt_expect_msg(t, "24 tokens");
	close_model(&m);
	/* one text may have the whole budget: there it is computed again where old and new do not stand side by side */
	open_in(t, t->ctx, &m, "llama", bytes * 48);
	tt_ok(t, tn_sequence_create(m.decoder, 0, &one, &t->err));
	for (int i = 0; i < 48 / TEXT; i++)
		say(t, &m, one, text, TEXT, got);
	assert_int_equal(tn_decoder_cache_bytes(m.decoder), bytes * 48);
	tt_ok(t, tn_sequence_create(m.decoder, 48, &two, &t->err));
	for (int i = 0; i < 48 / TEXT; i++)
		say(t, &m, two, text, TEXT, want);
	expect_near(got, want);
	close_model(&m);
}

static void speaking_allocates_nothing(void **state)
{
	struct tt *t = *state;
	static const char *const names[] = { "llama", "mixtral", "gemma2", "llama_dynamic" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct model m;
		float logits[MOST];
		tn_sequence *s;
		open_in(t, t->ctx, &m, names[i], 0);
		if (i < 3) {
			attach(t, &m, names[i]);
			tt_ok(t, tn_live_enable(m.live, "a", 1, &t->err));
		}
		tt_ok(t, tn_sequence_create(m.decoder, 60, &s, &t->err));
		say(t, &m, s, text, TEXT, logits);
		say(t, &m, s, text, 1, logits);
		const size_t calls = t->heap.calls;
		for (uint32_t k = 0; k < 40; k++)
			say(t, &m, s, &k, 1, logits);
		assert_int_equal(t->heap.calls, calls);
		close_model(&m);
	}
}

static void threads_change_no_bit(void **state)
{
	struct tt *t = *state;
	float got[2][MOST];
	for (unsigned i = 0; i < 2; i++) {
		struct tn_options options = TN_OPTIONS_INIT;
		struct model m;
		tn_context *ctx;
		options.threads = i ? 4 : 1;
		tt_ok(t, tn_context_create(&options, &ctx, &t->err));
		open_in(t, ctx, &m, "qwen3_moe", 0);
		fresh(t, &m, NULL, TEXT, got[i]);
		close_model(&m);
		tn_context_destroy(ctx);
	}
	assert_memory_equal(got[0], got[1], sizeof got[0]);
}

/* Fills the tensors whose names end so, of the model copied into the test's folder, with NaN. */
static void damage(const char *path, const char *ending)
{
	size_t n, header;
	unsigned char *file = tt_read_file(path, &n);
	memcpy(&header, file, 8);
	char *names = strndup((char *)file + 8, header), *at = names;
	int found = 0;
	while ((at = strstr(at, ending))) {
		unsigned long long begin, end;
		at = strstr(at, "\"data_offsets\"");
		assert_int_equal(sscanf(at + strcspn(at, "["), "[%llu,%llu]", &begin, &end), 2);
		memset(file + 8 + header + begin, 0xFF, end - begin);
		found++;
	}
	assert_true(found > 0);
	tt_write_file(path, file, n);
	free(names);
	free(file);
}

/* A router of NaN chooses nothing sensible, but no expert twice: the memory of a step has room for each row once. */
static void a_damaged_router_stays_in_its_memory(void **state)
{
	struct tt *t = *state;
	char command[1024];
	enum { LONG = 200 };
	uint32_t ids[LONG];
	float logits[MOST];
	struct model m = { 0 };
	tn_sequence *s;
	snprintf(command, sizeof command, "cp -r " ARCH "/mixtral %s", tt_path(t, "m"));
	assert_int_equal(system(command), 0);
	damage(tt_path(t, "m/model.safetensors"), ".gate.weight\"");
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "m"), &m.base, &t->err));
	tt_ok(t, tn_live_open(m.base, NULL, &m.live, &t->err));
	tt_ok(t, tn_decoder_create(m.live, m.base, NULL, &m.decoder, &t->err));
	for (uint32_t i = 0; i < LONG; i++)
		ids[i] = i % 100;
	tt_ok(t, tn_sequence_create(m.decoder, LONG, &s, &t->err));
	say(t, &m, s, ids, LONG, logits);
	assert_true(logits[0] != logits[0]);
	close_model(&m);
}

static void wrong_calls_change_nothing(void **state)
{
	struct tt *t = *state;
	struct model m;
	tn_sequence *s;
	size_t n;
	static const uint32_t beyond[2] = { 1, 128 };
	open_in(t, t->ctx, &m, "gpt2", 0);
	tt_ok(t, tn_sequence_create(m.decoder, 8, &s, &t->err));
	struct tn_step steps[2] = { { .sequence = s, .ids = text, .count = 4 }, { .sequence = s, .ids = text, .count = 1 } };
	tt_expect(t, tn_decoder_step(m.decoder, steps, 2, &t->err), TN_E_ARG);
	steps[0].ids = beyond;
	steps[0].count = 2;
	tt_expect(t, tn_decoder_step(m.decoder, steps, 1, &t->err), TN_E_ARG);
	tt_expect_msg(t, "token 128");
	steps[0].count = 0;
	tt_expect(t, tn_decoder_step(m.decoder, steps, 1, &t->err), TN_E_ARG);
	tt_ok(t, tn_sequence_use(s, "nobody", &t->err));
	steps[0] = (struct tn_step){ .sequence = s, .ids = text, .count = 4 };
	tt_expect(t, tn_decoder_step(m.decoder, steps, 1, &t->err), TN_E_NOTFOUND);
	tt_expect_msg(t, "nobody");
	tt_ok(t, tn_sequence_use(s, NULL, &t->err));
	for (int i = 0; i < 5; i++)
		say(t, &m, s, text, TEXT, NULL);
	steps[0].count = TEXT; /* 72 tokens, and 64 positions */
	tt_expect(t, tn_decoder_step(m.decoder, steps, 1, &t->err), TN_E_LIMIT);
	tn_sequence_ids(s, &n);
	assert_int_equal(n, 60);
	close_model(&m);
}

static int stop_at_once(void *user, const struct tn_progress *progress)
{
	const int *armed = user;
	assert_string_equal(progress->phase, "tokens");
	assert_true(progress->done_bytes < progress->total_bytes);
	return *armed;
}

/* A stopped prompt leaves the text as it was, and what is said to it then is what it would have been. */
static void a_long_prompt_can_be_stopped(void **state)
{
	struct tt *t = *state;
	float want[MOST], got[MOST], part[MOST];
	struct tn_options options = TN_OPTIONS_INIT;
	struct model m;
	tn_context *ctx;
	int armed = 0;
	uint32_t others[TEXT] = { 0 };
	size_t n;
	options.progress = stop_at_once;
	options.progress_user = &armed;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	open_in(t, ctx, &m, "llama", 0);
	tn_decoder_destroy(m.decoder);
	struct tn_decoder_options small = TN_DECODER_OPTIONS_INIT;
	small.rows = 3;
	tt_ok(t, tn_decoder_create(m.live, m.base, &small, &m.decoder, &t->err));
	tn_decoder_describe(m.decoder, &m.info);
	fresh(t, &m, NULL, TEXT, want);
	tn_sequence *s;
	tt_ok(t, tn_sequence_create(m.decoder, 0, &s, &t->err));
	say(t, &m, s, text, 4, got);
	armed = 1;
	struct tn_step step = { .sequence = s, .ids = others, .count = TEXT, .logits = part };
	tt_expect(t, tn_decoder_step(m.decoder, &step, 1, &t->err), TN_E_CANCELLED);
	tn_sequence_ids(s, &n);
	assert_int_equal(n, 4);
	armed = 0;
	say(t, &m, s, text + 4, TEXT - 4, got);
	expect_near(got, want);
	close_model(&m);
	tn_context_destroy(ctx);
}

/* ---- configs --------------------------------------------------------------------------------------------- */

/* A model with one text of its config.json replaced by another. */
static void expect_config(struct tt *t, const char *name, const char *old, const char *new, tn_status wanted,
			  const char *message)
{
	char command[1024], path[512];
	snprintf(command, sizeof command, "rm -rf %s && mkdir %s && cp " ARCH "/%s/*.safetensors %s", tt_path(t, "m"),
		 tt_path(t, "m"), name, tt_path(t, "m"));
	assert_int_equal(system(command), 0);
	snprintf(path, sizeof path, ARCH "/%s/config.json", name);
	size_t n;
	char *config = (char *)tt_read_file(path, &n), *at = strstr(config, old), *changed = malloc(n + 1024);
	if (!at)
		fail_msg("%s is not in %s", old, path);
	snprintf(changed, n + 1024, "%.*s%s%s", (int)(at - config), config, new, at + strlen(old));
	tt_write_text(tt_path(t, "m/config.json"), changed);
	tn_checkpoint *base;
	tn_live *live;
	tn_decoder *decoder = NULL;
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "m"), &base, &t->err));
	tt_ok(t, tn_live_open(base, NULL, &live, &t->err));
	tt_expect(t, tn_decoder_create(live, base, NULL, &decoder, &t->err), wanted);
	if (message)
		tt_expect_msg(t, message);
	tn_decoder_destroy(decoder);
	tn_live_close(live);
	tn_checkpoint_close(base);
	free(config);
	free(changed);
}

static void configs_are_refused_by_name(void **state)
{
	struct tt *t = *state;
	static const struct {
		const char *model, *old, *new;
		tn_status status;
		const char *message;
	} cases[] = {
		{ "llama", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", TN_E_UNSUPPORTED, "'mamba'" },
		{ "llama", "\"model_type\": \"llama\",", "", TN_E_FORMAT, "model_type" },
		{ "llama", "\"silu\"", "\"xielu\"", TN_E_UNSUPPORTED, "xielu" },
		{ "llama", "\"rope_type\": \"default\"", "\"rope_type\": \"proportional\"", TN_E_UNSUPPORTED, "proportional" },
		{ "llama", "\"rope_type\": \"default\"", "\"rope_type\": \"linear\"", TN_E_FORMAT, "factor" },
		{ "llama", "\"rope_type\": \"default\"", "\"mrope_section\": [1]", TN_E_UNSUPPORTED, "mrope_section" },
		{ "llama", "\"rope_theta\": 20000.0", "\"rope_theta\": -1", TN_E_FORMAT, "rope_theta" },
		{ "llama", "\"rope_theta\": 20000.0", "\"rope_theta\": 1e300", TN_E_FORMAT, "rope_theta" },
		{ "llama", "\"rope_type\": \"default\"", "\"rope_type\": \"linear\", \"factor\": 1e40", TN_E_FORMAT, "'factor'" },
		{ "llama", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\", \"factor\": -2", TN_E_FORMAT, "'factor'" },
		{ "llama", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\", \"factor\": 2, \"beta_slow\": -1", TN_E_FORMAT,
		  "beta_slow" },
		{ "llama", "\"rms_norm_eps\": ", "\"rms_norm_eps\": -", TN_E_FORMAT, "rms_norm_eps" },
		{ "llama", "\"rms_norm_eps\": ", "\"rms_norm_eps\": 1e39, \"x\": ", TN_E_FORMAT, "rms_norm_eps" },
		{ "gpt2", "\"layer_norm_epsilon\": ", "\"layer_norm_epsilon\": -", TN_E_FORMAT, "layer_norm_epsilon" },
		{ "llama", "\"use_cache\"", "\"clip_qkv\": 8.0, \"use_cache\"", TN_E_UNSUPPORTED, "clip_qkv" },
		{ "llama", "\"use_cache\"", "\"clip_qkv\": null, \"use_cache\"", TN_OK, NULL },
		{ "llama", "\"use_cache\"", "\"is_causal\": false, \"use_cache\"", TN_E_UNSUPPORTED, "is_causal" },
		{ "llama", "\"use_cache\"", "\"is_causal\": true, \"use_cache\"", TN_OK, NULL },
		/* what these families do not read counts for nothing */
		{ "llama", "\"use_cache\"", "\"norm_epsilon\": -1, \"use_cache\"", TN_OK, NULL },
		{ "llama", "\"use_cache\"", "\"use_bias\": true, \"use_cache\"", TN_OK, NULL },
		{ "llama", "\"use_cache\"", "\"layer_types\": [\"chunked_attention\"], \"use_cache\"", TN_OK, NULL },
		{ "mistral", "\"use_cache\"", "\"layer_types\": [\"chunked_attention\"], \"use_cache\"", TN_OK, NULL },
		{ "llama", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2.5", TN_E_FORMAT, "num_hidden_layers" },
		{ "llama", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", TN_E_MISMATCH, "model.layers.3" },
		{ "llama", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1e9", TN_E_LIMIT, "num_hidden_layers" },
		{ "llama", "\"hidden_size\": 32", "\"hidden_size\": \"32\"", TN_E_FORMAT, "hidden_size" },
		{ "llama", "\"head_dim\": 8", "\"head_dim\": 16", TN_E_MISMATCH, "q_proj" },
		{ "llama", "\"head_dim\": 8", "\"head_dim\": null", TN_OK, NULL },
		{ "llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", TN_E_FORMAT, "num_key_value_heads" },
		{ "llama", "\"attention_bias\": false", "\"attention_bias\": true", TN_E_MISMATCH, "bias" },
		{ "llama_bias", "\"mlp_bias\": true", "\"mlp_bias\": false", TN_E_MISMATCH, "bias" },
		{ "llama_tied", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", TN_E_MISMATCH, "lm_head" },
		{ "llama", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", TN_E_MISMATCH, "other numbers" },
		{ "gemma3", "\"sliding_attention\",", "\"chunked_attention\",", TN_E_UNSUPPORTED, "chunked_attention" },
		{ "gemma3", "\"use_bidirectional_attention\": false", "\"use_bidirectional_attention\": true", TN_E_UNSUPPORTED,
		  "use_bidirectional_attention" },
		{ "llama_longrope", "\"short_factor\": [", "\"short_factor\": [9.0, ", TN_E_FORMAT, "short_factor" },
		{ "mixtral", "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9", TN_E_FORMAT, "num_experts_per_tok" },
		{ "mixtral", "\"num_local_experts\": 4", "\"num_local_experts\": 5", TN_E_MISMATCH, "experts.4" },
		{ "gpt2", "\"add_cross_attention\": false", "\"add_cross_attention\": true", TN_E_UNSUPPORTED, "cross_attention" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_config(t, cases[i].model, cases[i].old, cases[i].new, cases[i].status, cases[i].message);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(a_cache_belongs_to_its_adapter),
		TT_TEST(a_text_can_be_rewound),
		TT_TEST(the_budget_holds),
		TT_TEST(speaking_allocates_nothing),
		TT_TEST(threads_change_no_bit),
		TT_TEST(a_damaged_router_stays_in_its_memory),
		TT_TEST(wrong_calls_change_nothing),
		TT_TEST(a_long_prompt_can_be_stopped),
		TT_TEST(configs_are_refused_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
