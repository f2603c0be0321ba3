/* SPDX-License-Identifier: Apache-2.0 */
/* Fusing into a quantized base with its dense original at hand: W16 + D is quantized, so nothing is lost but half a step. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const original = FUSE_EXAMPLES "/base", *const packed = FUSE_EXAMPLES "/base-mlx-4bit";
static const char *const whisper = FUSE_EXAMPLES "/adapters/whisper", *const robot = FUSE_EXAMPLES "/adapters/robot";
#define LAYER "model.layers.3.mlp.down_proj.weight"

static tn_checkpoint *open_model(struct tt *t, const char *folder)
{
	tn_checkpoint *c;
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &c, &t->err));
	return c;
}

/* The root mean square of the distance to `truth`, in steps of a grid of 16 values from end to end of each group: 0.29 is what
 * rounding to nearest loses. */
static double rms_in_steps(const double *got, const double *truth, size_t count)
{
	double sum = 0;
	for (size_t g = 0; g < count; g += 64) {
		double low = truth[g], high = truth[g], error2 = 0;
		for (size_t i = g; i < g + 64; i++) {
			low = fmin(low, truth[i]);
			high = fmax(high, truth[i]);
			error2 += (got[i] - truth[i]) * (got[i] - truth[i]);
		}
		sum += error2 / ((high - low) * (high - low) / 225);
	}
	return sqrt(sum / (double)count);
}

/* Against the fuse into the dense original, whose rounding to BF16 is far below a step. */
static void try_adapter(struct tt *t, const char *adapter, double weight, double cap, double most_noise)
{
	char out[4096], dense_out[4096];
	struct tn_survival s[64];
	size_t n;
	tn_checkpoint *dense = open_model(t, original);
	snprintf(out, sizeof out, "%s/out", t->folder);
	snprintf(dense_out, sizeof dense_out, "%s/dense", t->folder);
	struct fuse_job wide = { .base = original, .adapter = adapter, .out = dense_out, .options = TN_FUSE_OPTIONS_INIT };
	struct fuse_job job = { .base = packed, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	wide.options.weight = job.options.weight = weight;
	job.options.dense_base = dense;
	fuse_run(t, t->ctx, &wide, NULL, 0);
	size_t weights = fuse_run(t, t->ctx, &job, s, 64);
	assert_in_range(weights, 1, 64);
	for (size_t i = 0; i < weights; i++) {
		assert_int_equal(s[i].rounding, TN_ROUNDING_NEAREST);
		assert_true(s[i].cap > cap && s[i].cap < 2 - cap);
		assert_true(s[i].noise > 0.5 && s[i].noise < most_noise);
	}
	double *got = fuse_values(t, out, LAYER, &n), *truth = fuse_values(t, dense_out, LAYER, &n);
	assert_true(rms_in_steps(got, truth, n) < 0.31);
	free(got);
	free(truth);
	tn_checkpoint_close(dense);
}

static void nothing_is_lost(void **state)
{
	try_adapter(*state, whisper, 0.25, 0.9, 1.6);
	/* their deltas are larger than the step, and widen the grid */
	try_adapter(*state, whisper, 1, 0.98, 2.5);
	try_adapter(*state, robot, 1, 0.98, 1.5);
}

/* Base and fuse side by side: what the adapter leaves alone keeps its bytes, and verify agrees. */
static void the_rest_stays_and_verify_agrees(void **state)
{
	struct tt *t = *state;
	char out[4096];
	tn_verify *v;
	tn_adapter *adapter;
	snprintf(out, sizeof out, "%s/out", t->folder);
	tn_checkpoint *dense = open_model(t, original), *base = open_model(t, packed);
	struct fuse_job job = { .base = packed, .adapter = whisper, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	job.options.weight = 0.0625;
	job.options.dense_base = dense;
	job.options.min_survival = 0.5;
	fuse_run(t, t->ctx, &job, NULL, 0);
	tn_checkpoint *merged = open_model(t, out);
	tt_ok(t, tn_adapter_open(t->ctx, whisper, &adapter, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, base, adapter, &job.options, merged, &v, &t->err));
	assert_true(tn_verify_ok(v));
	size_t identical = 0, requantized = 0;
	for (size_t i = 0; i < tn_verify_count(v); i++) {
		identical += tn_verify_at(v, i)->verdict == TN_VERDICT_IDENTICAL;
		requantized += tn_verify_at(v, i)->verdict == TN_VERDICT_REQUANTIZED;
	}
	assert_int_equal(requantized, 42);
	assert_true(identical > 10);
	tn_verify_free(v);
	tn_adapter_close(adapter);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(base);
	tn_checkpoint_close(dense);
}

static void what_does_not_belong_is_refused(void **state)
{
	struct tt *t = *state;
	char out[4096], other[4096];
	uint64_t rng = 5;
	static float w[192 * 512];
	snprintf(out, sizeof out, "%s/out", t->folder);
	snprintf(other, sizeof other, "%s/other", t->folder);
	struct fuse_job job = { .base = original, .adapter = whisper, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	tn_checkpoint *dense = open_model(t, original), *quantized = open_model(t, packed);
	job.options.dense_base = dense;
	fuse_refused(t, &job, TN_E_ARG, "nothing to make from the dense base");
	job.base = packed;
	job.options.dequantize = 1;
	fuse_refused(t, &job, TN_E_ARG, "fuse into that");
	job.options.dequantize = 0;
	job.options.rounding = TN_ROUNDING_DITHER;
	fuse_refused(t, &job, TN_E_ARG, "rounded to nearest");
	job.options.rounding = TN_ROUNDING_AUTO;
	job.options.dense_base = quantized;
	fuse_refused(t, &job, TN_E_MISMATCH, "has the dtype U32");
	for (size_t i = 0; i < sizeof w / sizeof *w; i++)
		w[i] = 0.05f * fuse_normal(&rng);
	struct fuse_tensor tensor = { "model.layers.0.mlp.down_proj.weight", 192, 512, w };
	fuse_write_model(t, other, &tensor, 1, TN_BF16);
	tn_checkpoint *small = open_model(t, other);
	job.options.dense_base = small;
	fuse_refused(t, &job, TN_E_MISMATCH, "has no such tensor");
	tn_checkpoint_close(small);
	tn_checkpoint_close(quantized);
	tn_checkpoint_close(dense);
}

/* The same names and shapes, and other weights: found when they are read. */
static void another_model_is_noticed(void **state)
{
	struct tt *t = *state;
	char base[4096], dense[4096], foreign[4096], adapter[4096], out[4096], refused[4096];
	enum { ROWS = 64, COLS = 256 };
	static float w[ROWS * COLS], a[COLS * 2], b[2 * ROWS];
	uint64_t rng = 9;
	struct fuse_tensor tensor = { "model.layers.0.mlp.up_proj.weight", ROWS, COLS, w };
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	tn_recode *plan;
	snprintf(base, sizeof base, "%s/base", t->folder);
	snprintf(dense, sizeof dense, "%s/dense", t->folder);
	snprintf(foreign, sizeof foreign, "%s/foreign", t->folder);
	snprintf(adapter, sizeof adapter, "%s/adapter", t->folder);
	snprintf(out, sizeof out, "%s/out", t->folder);
	snprintf(refused, sizeof refused, "%s/refused", t->folder);
	for (int model = 0; model < 2; model++) {
		for (size_t i = 0; i < ROWS * COLS; i++)
			w[i] = 0.05f * fuse_normal(&rng);
		fuse_write_model(t, model ? foreign : dense, &tensor, 1, TN_BF16);
	}
	for (size_t i = 0; i < COLS * 2; i++)
		a[i] = 0.01f * fuse_normal(&rng);
	for (size_t i = 0; i < 2 * ROWS; i++)
		b[i] = 0.1f * fuse_normal(&rng);
	fuse_write_adapter(t, adapter, a, b, COLS, 2, ROWS, 1);
	tn_checkpoint *from = open_model(t, dense), *other = open_model(t, foreign);
	for (int bits = 2; bits <= 8; bits += 2) {
		request.quantize = 1;
		request.quantization.q.bits = bits;
		tt_ok(t, tn_recode_plan(t->ctx, from, &request, &plan, &t->err));
		tt_ok(t, tn_recode_run(plan, base, TN_SAVE_FORCE, &t->err));
		tn_recode_free(plan);
		struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		job.options.dense_base = from;
		fuse_run(t, t->ctx, &job, NULL, 0);
		job.options.dense_base = other;
		job.out = refused;
		fuse_refused(t, &job, TN_E_MISMATCH, "not what this base was quantized from");
	}
	tn_checkpoint_close(other);
	tn_checkpoint_close(from);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(nothing_is_lost),
		TT_TEST(the_rest_stays_and_verify_agrees),
		TT_TEST(what_does_not_belong_is_refused),
		TT_TEST(another_model_is_noticed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
