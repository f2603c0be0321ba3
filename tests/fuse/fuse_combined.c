/* SPDX-License-Identifier: Apache-2.0 */
/* Several adapters in one fuse, and numbers that are not finite. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER "model.layers.0.self_attn.q_proj"

static const char *const base = FUSE_EXAMPLES "/base", *const pirate = FUSE_EXAMPLES "/adapters/pirate";
static const char *const whisper = FUSE_EXAMPLES "/adapters/whisper", *const robot = FUSE_EXAMPLES "/adapters/robot";

enum { WIDTH = 192, RANK = 8 };

/* scale * B A from the two files, whose layouts differ. */
static double element(const double *a, const double *b, size_t i, size_t j, int mlx)
{
	double sum = 0;
	for (size_t k = 0; k < RANK; k++)
		sum += mlx ? b[k * WIDTH + i] * a[j * RANK + k] : b[i * RANK + k] * a[k * WIDTH + j];
	return sum;
}

static void weights_add_up(void **state)
{
	struct tt *t = *state;
	char out[4096], turned[4096];
	size_t n;
	snprintf(out, sizeof out, "%s/out", t->folder);
	snprintf(turned, sizeof turned, "%s/turned", t->folder);
	struct fuse_job job = { .base = base, .adapter = pirate, .second = whisper, .out = out, .second_weight = 0.3,
				.options = TN_FUSE_OPTIONS_INIT };
	job.options.weight = 0.7;
	fuse_run(t, t->ctx, &job, NULL, 0);
	struct fuse_job other = { .base = base, .adapter = whisper, .second = pirate, .out = turned, .second_weight = 0.7,
				  .options = TN_FUSE_OPTIONS_INIT };
	other.options.weight = 0.3;
	fuse_run(t, t->ctx, &other, NULL, 0);
	const char *peft_file = FUSE_EXAMPLES "/adapters/pirate/adapter_model.safetensors";
	const char *mlx_file = FUSE_EXAMPLES "/adapters/whisper/adapters.safetensors";
	double *w = fuse_values(t, base, LAYER ".weight", &n), *got = fuse_values(t, out, LAYER ".weight", &n);
	double *swapped = fuse_values(t, turned, LAYER ".weight", &n);
	double *pa = fuse_file_values(t, peft_file, "base_model.model." LAYER ".lora_A.weight", &n);
	double *pb = fuse_file_values(t, peft_file, "base_model.model." LAYER ".lora_B.weight", &n);
	double *ma = fuse_file_values(t, mlx_file, LAYER ".lora_a", &n), *mb = fuse_file_values(t, mlx_file, LAYER ".lora_b", &n);
	tn_adapter *peft;
	tt_ok(t, tn_adapter_open(t->ctx, pirate, &peft, &t->err));
	double scale = tn_adapter_at(peft, 0)->scale;
	assert_int_equal(tn_adapter_at(peft, 0)->rank, RANK);
	tn_adapter_close(peft);
	for (size_t i = 0; i < WIDTH; i++)
		for (size_t j = 0; j < WIDTH; j++) {
			double truth = w[i * WIDTH + j] + 0.7 * scale * element(pa, pb, i, j, 0) + 0.3 * 10 * element(ma, mb, i, j, 1);
			double ulp = ldexp(1, (int)floor(log2(fmax(fabs(truth), 1e-30))) - 7);
			assert_true(fabs(got[i * WIDTH + j] - truth) <= 0.52 * ulp);
			assert_true(fabs(swapped[i * WIDTH + j] - truth) <= 0.52 * ulp);
		}
	free(w);
	free(got);
	free(swapped);
	free(pa);
	free(pb);
	free(ma);
	free(mb);
}

static void what_depends_on_order_is_refused(void **state)
{
	struct tt *t = *state;
	char out[4096];
	snprintf(out, sizeof out, "%s/out", t->folder);
	struct fuse_job job = { .base = base, .adapter = pirate, .second = robot, .out = out, .second_weight = 1,
				.options = TN_FUSE_OPTIONS_INIT };
	fuse_refused(t, &job, TN_E_UNSUPPORTED, "is a DoRA");
	job.adapter = robot;
	job.second = pirate;
	fuse_refused(t, &job, TN_E_UNSUPPORTED, "is a DoRA");
	job.options.weight = NAN;
	fuse_refused(t, &job, TN_E_ARG, "is not a number");
}

static void options_are_checked(void **state)
{
	struct tt *t = *state;
	char out[4096];
	snprintf(out, sizeof out, "%s/out", t->folder);
	struct fuse_job job = { .base = base, .adapter = pirate, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	job.options.promote_bits = 5;
	fuse_refused(t, &job, TN_E_ARG, "6 or 8");
	job.options.promote_bits = 8;
	job.options.dequantize = 1;
	fuse_refused(t, &job, TN_E_ARG, "not both");
	job.options = (struct tn_fuse_options)TN_FUSE_OPTIONS_INIT;
	job.options.min_survival = 2;
	fuse_refused(t, &job, TN_E_ARG, "between 0 and 1");
}

/* 1e3 * 1e3 is beyond F16, and well inside BF16. */
static void infinity_is_refused(void **state)
{
	struct tt *t = *state;
	char half[4096], brain[4096], adapter[4096], out[4096];
	float w[64], a[8], b[8];
	snprintf(half, sizeof half, "%s/half", t->folder);
	snprintf(brain, sizeof brain, "%s/brain", t->folder);
	snprintf(adapter, sizeof adapter, "%s/adapter", t->folder);
	snprintf(out, sizeof out, "%s/out", t->folder);
	for (int i = 0; i < 64; i++)
		w[i] = 1;
	for (int i = 0; i < 8; i++)
		a[i] = b[i] = 1000;
	struct fuse_tensor tensor = { "model.layers.0.mlp.up_proj.weight", 8, 8, w };
	fuse_write_model(t, half, &tensor, 1, TN_F16);
	fuse_write_model(t, brain, &tensor, 1, TN_BF16);
	fuse_write_adapter(t, adapter, a, b, 8, 1, 8, 1);
	struct fuse_job job = { .base = half, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	fuse_refused(t, &job, TN_E_MISMATCH, "model.layers.0.mlp.up_proj.weight");
	job.options.allow_nonfinite = 1;
	fuse_run(t, t->ctx, &job, NULL, 0);
	job.options.allow_nonfinite = 0;
	job.base = brain;
	fuse_run(t, t->ctx, &job, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(weights_add_up),
		TT_TEST(what_depends_on_order_is_refused),
		TT_TEST(options_are_checked),
		TT_TEST(infinity_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
