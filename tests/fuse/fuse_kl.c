/* SPDX-License-Identifier: Apache-2.0 */
/* fuse_kl [all]
 *
 * What the sample says after a fuse, against what it says with the adapter beside the base: KL(live || fused) in nats a token,
 * over the sentences of the golden runs: one of each voice, or all, for the table of docs/numerics.md. Rounding to nearest is mlx_lm.fuse, byte for byte
 * (fuse_mlx). */
#include "fuselib.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 1152, MOST = 160, TEXTS = 12 };
static const char *const examples = FUSE_EXAMPLES;

static struct {
	uint32_t ids[MOST];
	size_t count;
} texts[TEXTS];
static size_t text_count = 3, positions;

static void read_texts(void)
{
	static const char *const variants[] = { "base", "pirate", "robot" };
	json_error_t err;
	json_t *root = json_load_file(SAMPLE_DATA "/golden.json", 0, &err);
	assert_non_null(root);
	positions = 0;
	for (size_t i = 0; i < text_count; i++) {
		const json_t *run = json_array_get(json_object_get(json_object_get(root, "runs"), variants[i % 3]), i / 3);
		texts[i].count = 0;
		for (int part = 0; part < 2; part++) {
			const json_t *ids = json_object_get(run, part ? "output_ids" : "prompt_ids");
			for (size_t k = 0; k < json_array_size(ids) && texts[i].count < MOST; k++)
				texts[i].ids[texts[i].count++] = (uint32_t)json_integer_value(json_array_get(ids, k));
		}
		assert_in_range(texts[i].count, 60, MOST);
		positions += texts[i].count;
	}
	json_decref(root);
}

/* Log-probabilities [positions, VOCABULARY] of a model, with an adapter beside it or none. */
static float *speak(struct tt *t, const char *folder, const char *adapter_path, double weight)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx;
	tn_checkpoint *base;
	tn_adapter *adapter = NULL;
	tn_live *live;
	tn_decoder *decoder;
	float *all = malloc(positions * VOCABULARY * sizeof *all), *at = all;
	options.threads = 1; /* rows of 192 are not worth a thread */
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	tt_ok(t, tn_checkpoint_open(ctx, folder, &base, &t->err));
	tt_ok(t, tn_live_open(base, NULL, &live, &t->err));
	tt_ok(t, tn_decoder_create(live, base, NULL, &decoder, &t->err));
	if (adapter_path) {
		tt_ok(t, tn_adapter_open(ctx, adapter_path, &adapter, &t->err));
		tt_ok(t, tn_live_attach(live, "voice", adapter, weight, &t->err));
	}
	for (size_t i = 0; i < text_count; i++) {
		tn_sequence *text;
		tt_ok(t, tn_sequence_create(decoder, MOST, &text, &t->err));
		struct tn_step step = { .sequence = text, .ids = texts[i].ids, .count = texts[i].count, .logits = at, .all_logits = 1 };
		tt_ok(t, tn_decoder_step(decoder, &step, 1, &t->err));
		tn_sequence_destroy(text);
		at += texts[i].count * VOCABULARY;
	}
	for (size_t p = 0; p < positions; p++) {
		float *x = all + p * VOCABULARY, top = x[0];
		double sum = 0;
		for (int v = 0; v < VOCABULARY; v++)
			top = fmaxf(top, x[v]);
		for (int v = 0; v < VOCABULARY; v++)
			sum += exp((double)(x[v] - top));
		for (int v = 0; v < VOCABULARY; v++)
			x[v] = (float)((double)(x[v] - top) - log(sum));
	}
	tn_decoder_destroy(decoder);
	tn_live_close(live);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
	tn_context_destroy(ctx);
	return all;
}

static double divergence(const float *p, const float *q)
{
	double sum = 0;
	for (size_t i = 0; i < positions * VOCABULARY; i++)
		sum += exp((double)p[i]) * (double)(p[i] - q[i]);
	return sum / (double)positions;
}

/* ---- the table ------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	tn_rounding rounding;
	int promote_bits, from_dense;
} ways[] = { { "nearest", TN_ROUNDING_NEAREST, 0, 0 }, { "dither", TN_ROUNDING_DITHER, 0, 0 }, { "auto", TN_ROUNDING_AUTO, 0, 0 },
	     { "6 bits", TN_ROUNDING_AUTO, 6, 0 },     { "8 bits", TN_ROUNDING_AUTO, 8, 0 } };
enum { NEAREST, DITHER, AUTO, SIX, EIGHT, WAYS };

struct row {
	double alone, rho, kl[WAYS];
};

static struct row measure(struct tt *t, const char *what, const char *base, const char *voice, double weight)
{
	char adapter[512], out[4096];
	struct row row = { 0 };
	snprintf(adapter, sizeof adapter, "%s/adapters/%s", examples, voice);
	snprintf(out, sizeof out, "%s/out", t->folder);
	float *live = speak(t, base, adapter, weight), *alone = speak(t, base, NULL, 0);
	row.alone = divergence(live, alone);
	for (int w = 0; w < WAYS; w++) {
		struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		struct tn_survival s[64];
		job.options.weight = weight;
		job.options.rounding = ways[w].rounding;
		job.options.promote_bits = ways[w].promote_bits;
		size_t n = fuse_run(t, t->ctx, &job, s, 64);
		for (size_t i = 0; i < n && w == 0; i++)
			row.rho += s[i].rho / (double)n;
		float *fused = speak(t, out, NULL, 0);
		row.kl[w] = divergence(live, fused);
		free(fused);
	}
	print_message("  | %-22s | %4.1f | %.4f | %.4f | %.4f | %.4f | %.4f | %.4f |\n", what, row.rho, row.alone, row.kl[NEAREST],
		      row.kl[DITHER], row.kl[AUTO], row.kl[SIX], row.kl[EIGHT]);
	free(alone);
	free(live);
	return row;
}

static void quantize(struct tt *t, const char *out, int bits)
{
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	tn_checkpoint *dense;
	tn_recode *plan;
	request.quantize = 1;
	request.quantization.q.bits = bits;
	tt_ok(t, tn_checkpoint_open(t->ctx, FUSE_EXAMPLES "/base", &dense, &t->err));
	tt_ok(t, tn_recode_plan(t->ctx, dense, &request, &plan, &t->err));
	tt_ok(t, tn_recode_run(plan, out, 0, &t->err));
	tn_recode_free(plan);
	tn_checkpoint_close(dense);
}

static void the_table(void **state)
{
	struct tt *t = *state;
	char four[512], three[4096];
	snprintf(four, sizeof four, "%s/base-mlx-4bit", examples);
	snprintf(three, sizeof three, "%s/three", t->folder);
	read_texts();
	quantize(t, three, 3);
	print_message("  | KL(live, ...), %zu tokens | rho | base alone | nearest | dither | auto | 6 bits | 8 bits |\n", positions);
	struct row whole = measure(t, "whisper, 4 bits", four, "whisper", 1);
	struct row quarter = measure(t, "whisper x 1/4, 4 bits", four, "whisper", 0.25);
	struct row little = measure(t, "whisper x 1/16, 4 bits", four, "whisper", 0.0625);
	struct row pirate = measure(t, "pirate x .25, 4 bits", four, "pirate", 0.25);
	struct row faint = measure(t, "pirate x .15, 4 bits", four, "pirate", 0.15);
	struct row coarse = measure(t, "pirate x .25, 3 bits", three, "pirate", 0.25);
	struct row coarser = measure(t, "pirate x .15, 3 bits", three, "pirate", 0.15);
	struct row dora = measure(t, "robot (DoRA), 4 bits", four, "robot", 1);
	const struct row *lossy[] = { &little, &faint, &coarse, &coarser };
	for (size_t i = 0; i < sizeof lossy / sizeof *lossy; i++)
		assert_true(lossy[i]->kl[DITHER] < lossy[i]->kl[NEAREST] && lossy[i]->kl[DITHER] < 0.75 * lossy[i]->alone);
	const struct row *all[] = { &whole, &quarter, &little, &pirate, &faint, &coarse, &coarser, &dora };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		assert_true(all[i]->kl[AUTO] <= 2.5 * fmin(all[i]->kl[NEAREST], all[i]->kl[DITHER]) + 5e-3);
		assert_true(all[i]->kl[EIGHT] < 2e-3 && all[i]->kl[SIX] < 1e-2);
	}
	assert_true(whole.kl[NEAREST] < 0.3 * whole.kl[DITHER] && dora.kl[NEAREST] < 0.3 * dora.kl[DITHER]);
}

int main(int argc, char **argv)
{
	text_count = argc > 1 && strcmp(argv[1], "all") == 0 ? TEXTS : text_count;
	const struct CMUnitTest tests[] = { TT_TEST(the_table) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
