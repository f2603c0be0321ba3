/* SPDX-License-Identifier: Apache-2.0 */
/* The fused sample says what PEFT's merged sample says: logits of golden.safetensors (PEFT 0.21, transformers 5.17, on the
 * bf16 weights widened to float32). They were computed on a GPU with TF32 products, of 10 bits; transformers on a CPU in
 * true float32 differs from them by 5.9e-3 at most and 1e-3 rms on the base, and so does this test. The adapter itself moves
 * logits by 2.3 rms. */
#include "mini_llama.h"

#include "base/half.h"
#include "store/st_writer.h"
#include "tenon/tenon.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const double golden_rms = 2e-3, golden_largest = 1.5e-2;

static tn_context *ctx;
static tn_safetensors *golden;
static json_t *runs;
static char work[] = "/tmp/tenon-sample-XXXXXX";

static void must(tn_status status, const struct tn_error *err)
{
	if (status != TN_OK)
		fail_msg("%s: %s: %s", tn_status_name(status), err->where, err->msg);
}

/* The base with every tensor widened to float32, as PEFT saw it. */
static void widen_base(const char *out)
{
	struct tn_error err;
	tn_checkpoint *base;
	must(tn_checkpoint_open(ctx, EXAMPLES "/base", &base, &err), &err);
	size_t n = tn_checkpoint_count(base);
	struct tn_tensor *wide = calloc(n, sizeof *wide), **order = calloc(n, sizeof *order);
	for (size_t i = 0; i < n; i++) {
		wide[i] = *tn_checkpoint_at(base, i);
		wide[i].dtype = TN_F32;
		wide[i].bytes = wide[i].elements * 4;
		order[i] = &wide[i];
	}
	char path[256];
	struct tn_st_writer *writer;
	mkdir(out, 0777);
	snprintf(path, sizeof path, "%s/model.safetensors", out);
	must(tn_st_writer_create(ctx, path, order, n, NULL, 0, 0, &writer, &err), &err);
	for (size_t i = 0; i < n; i++) {
		struct tn_buffer raw;
		must(tn_checkpoint_load(base, wide[i].name, &raw, NULL, &err), &err);
		float *values = malloc(wide[i].bytes);
		for (uint64_t j = 0; j < wide[i].elements; j++)
			values[j] = tn_f32_from_bf16(((const uint16_t *)raw.data)[j]);
		must(tn_st_writer_put(writer, &wide[i], 0, values, wide[i].bytes, &err), &err);
		free(values);
		tn_buffer_release(ctx, &raw);
	}
	must(tn_st_writer_finish(writer, &err), &err);
	free(wide);
	free(order);
	tn_checkpoint_close(base);
}

static void fuse(const char *base_path, const char *adapter_path, const char *out)
{
	struct tn_error err;
	tn_checkpoint *base;
	tn_adapter *adapter;
	tn_fuse *plan;
	must(tn_checkpoint_open(ctx, base_path, &base, &err), &err);
	must(tn_adapter_open(ctx, adapter_path, &adapter, &err), &err);
	must(tn_fuse_plan(ctx, base, adapter, NULL, &plan, &err), &err);
	must(tn_fuse_run(plan, out, 0, &err), &err);
	tn_fuse_free(plan);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
}

/* The prompt and the first 16 tokens of the answer of run i. */
static int golden_ids(const char *variant, size_t i, int ids[64])
{
	json_t *run = json_array_get(json_object_get(runs, variant), i), *id;
	size_t j;
	int n = 0;
	json_array_foreach(json_object_get(run, "prompt_ids"), j, id)
		ids[n++] = (int)json_integer_value(id);
	json_array_foreach(json_object_get(run, "output_ids"), j, id)
		if (j < 16)
			ids[n++] = (int)json_integer_value(id);
	return n;
}

/* rms and largest distance of a model folder's logits from the golden ones of `variant`, all four prompts. */
static void distance(const char *model_path, const char *variant, double *rms, double *largest)
{
	struct tn_error err;
	tn_checkpoint *model;
	double square = 0, count = 0;
	*largest = 0;
	must(tn_checkpoint_open(ctx, model_path, &model, &err), &err);
	for (size_t i = 0; i < 4; i++) {
		char name[64];
		int ids[64], n = golden_ids(variant, i, ids);
		struct tn_buffer want;
		const struct tn_tensor *t;
		snprintf(name, sizeof name, "%s.%zu.logits", variant, i);
		must(tn_safetensors_load(golden, name, &want, &t, &err), &err);
		assert_int_equal(t->shape[0], n);
		float *got = malloc(t->bytes);
		assert_true(mini_llama_logits(ctx, model, ids, n, got));
		for (uint64_t j = 0; j < t->elements; j++) {
			double d = fabs((double)got[j] - (double)((const float *)want.data)[j]);
			square += d * d;
			count++;
			*largest = d > *largest ? d : *largest;
		}
		free(got);
		tn_buffer_release(ctx, &want);
	}
	*rms = sqrt(square / count);
	print_message("%s against %s: rms %.2e, largest %.2e\n", model_path, variant, *rms, *largest);
	tn_checkpoint_close(model);
}

static void base_gives_golden_logits(void **state)
{
	double rms, largest;
	(void)state;
	distance(EXAMPLES "/base", "base", &rms, &largest);
	assert_true(rms < golden_rms && largest < golden_largest);
}

/* In float32 the only difference to PEFT is rounding; merged and live logits differ by as little. */
static void float32_fuse_gives_golden_logits(void **state)
{
	static const char *const voices[] = { "pirate", "robot" };
	char wide[64], out[64], variant[64];
	(void)state;
	snprintf(wide, sizeof wide, "%s/wide", work);
	widen_base(wide);
	for (size_t i = 0; i < sizeof voices / sizeof *voices; i++) {
		double rms, largest;
		char adapter[256];
		snprintf(out, sizeof out, "%s/wide-%s", work, voices[i]);
		snprintf(adapter, sizeof adapter, EXAMPLES "/adapters/%s", voices[i]);
		snprintf(variant, sizeof variant, "%s.merged", voices[i]);
		fuse(wide, adapter, out);
		distance(out, variant, &rms, &largest);
		assert_true(rms < golden_rms && largest < golden_largest);
		distance(out, voices[i], &rms, &largest);
		assert_true(rms < golden_rms && largest < golden_largest);
	}
}

/* Rounded to bf16 the model moves by its own precision: far less than the adapter moved it. */
static void bf16_fuse_stays_close(void **state)
{
	char out[64];
	double rms, largest, base_rms;
	(void)state;
	snprintf(out, sizeof out, "%s/pirate", work);
	fuse(EXAMPLES "/base", EXAMPLES "/adapters/pirate", out);
	distance(EXAMPLES "/base", "pirate", &base_rms, &largest);
	distance(out, "pirate", &rms, &largest);
	print_message("rms distance of the logits to the live adapter: base %.3f, fused bf16 %.4f\n", base_rms, rms);
	assert_true(rms < 0.02 * base_rms);
}

static int set_up(void **state)
{
	struct tn_error err;
	(void)state;
	must(tn_context_create(NULL, &ctx, &err), &err);
	must(tn_safetensors_open(ctx, DATA "/golden.safetensors", &golden, &err), &err);
	json_t *root = json_load_file(DATA "/golden.json", 0, NULL);
	assert_non_null(root);
	runs = json_incref(json_object_get(root, "runs"));
	json_decref(root);
	return mkdtemp(work) ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[128];
	(void)state;
	json_decref(runs);
	tn_safetensors_close(golden);
	tn_context_destroy(ctx);
	snprintf(command, sizeof command, "rm -rf '%s'", work);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base_gives_golden_logits),
		cmocka_unit_test(float32_fuse_gives_golden_logits),
		cmocka_unit_test(bf16_fuse_stays_close),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
