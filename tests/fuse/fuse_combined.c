/* SPDX-License-Identifier: Apache-2.0 */
/* Several adapters in one fuse, and numbers that are not finite. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/* PEFT's combination_type "cat" is the sum of the weighted deltas; its file holds the merged weights and names them merged.*. */
static void as_peft_cats(void **state)
{
	static const struct {
		double a, b;
		const char *file;
	} cases[] = { { 0.7, 0.3, "cat_0.7_0.3" }, { 1, -0.5, "cat_1.0_-0.5" } };
	struct tt *t = *state;
	char out[4096], path[512];
	snprintf(out, sizeof out, "%s/out", t->folder);
	for (size_t i = 0; i < 2; i++) {
		struct fuse_job job = { .base = FUSE_DATA "/peft/llama", .adapter = FUSE_DATA "/peft/cases/comb_a",
					.second = FUSE_DATA "/peft/cases/comb_b", .out = out, .second_weight = cases[i].b,
					.options = TN_FUSE_OPTIONS_INIT };
		tn_safetensors *wanted;
		size_t compared = 0;
		job.options.weight = cases[i].a;
		fuse_run(t, t->ctx, &job, NULL, 0);
		snprintf(path, sizeof path, FUSE_DATA "/peft/combine/%s.safetensors", cases[i].file);
		tt_ok(t, tn_safetensors_open(t->ctx, path, &wanted, &t->err));
		for (size_t k = 0; k < tn_safetensors_count(wanted); k++) {
			const char *name = tn_safetensors_at(wanted, k)->name;
			size_t n, m;
			if (strncmp(name, "merged.", 7) != 0)
				continue;
			double *theirs = fuse_file_values(t, path, name, &n), *ours = fuse_values(t, out, name + 7, &m);
			assert_int_equal(n, m);
			for (size_t e = 0; e < n; e++)
				assert_true(fabs(ours[e] - theirs[e]) < 1e-6);
			free(theirs);
			free(ours);
			compared++;
		}
		assert_int_equal(compared, 21);
		tn_safetensors_close(wanted);
	}
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
	job.options.weight = (double)NAN;
	fuse_refused(t, &job, TN_E_ARG, "is not a number");
}

#define DOWN "model.layers.3.mlp.down_proj.weight"

/* Moves the largest of the first values of DOWN, BF16, in a fused folder away from zero by so many units in its last place. */
static void move_value(struct tt *t, const char *file, unsigned units)
{
	tn_safetensors *s;
	uint16_t values[64];
	size_t most = 0;
	tt_ok(t, tn_safetensors_open(t->ctx, file, &s, &t->err));
	const struct tn_tensor *down = tn_safetensors_find(s, DOWN);
	tt_ok(t, tn_safetensors_read(s, down, 0, values, sizeof values, &t->err));
	for (size_t i = 1; i < 64; i++)
		most = (values[i] & 0x7FFF) > (values[most] & 0x7FFF) ? i : most;
	values[most] = (uint16_t)(values[most] + units);
	FILE *f = fopen(file, "r+b");
	assert_non_null(f);
	assert_int_equal(fseek(f, (long)(down->offset + 2 * most), SEEK_SET), 0);
	assert_int_equal(fwrite(&values[most], 2, 1, f), 1);
	assert_int_equal(fclose(f), 0);
	tn_safetensors_close(s);
}

/* Verify takes what a tool that rounds twice may lose, and no more. */
static void two_units_are_the_limit(void **state)
{
	struct tt *t = *state;
	for (int far = 0; far < 2; far++) {
		char out[4096], file[4200];
		tn_checkpoint *from, *merged;
		tn_adapter *adapter;
		tn_verify *v;
		snprintf(out, sizeof out, "%s/limit%d", t->folder, far);
		snprintf(file, sizeof file, "%s/model.safetensors", out);
		struct fuse_job job = { .base = base, .adapter = pirate, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		fuse_run(t, t->ctx, &job, NULL, 0);
		move_value(t, file, far ? 16 : 1);
		tt_ok(t, tn_checkpoint_open(t->ctx, base, &from, &t->err));
		tt_ok(t, tn_checkpoint_open(t->ctx, out, &merged, &t->err));
		tt_ok(t, tn_adapter_open(t->ctx, pirate, &adapter, &t->err));
		tt_ok(t, tn_verify_run(t->ctx, from, adapter, NULL, merged, &v, &t->err));
		assert_int_equal(tn_verify_ok(v), !far);
		for (size_t i = 0; i < tn_verify_count(v); i++)
			if (strcmp(tn_verify_at(v, i)->name, DOWN) == 0)
				assert_int_equal(tn_verify_at(v, i)->verdict, far ? TN_VERDICT_WRONG : TN_VERDICT_MERGED);
		tn_verify_free(v);
		tn_adapter_close(adapter);
		tn_checkpoint_close(merged);
		tn_checkpoint_close(from);
	}
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
	job.options.rounding = (tn_rounding)3;
	fuse_refused(t, &job, TN_E_ARG, "one of tn_rounding");
	job.options.rounding = TN_ROUNDING_AUTO;
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

/* ---- tied and quantized ---------------------------------------------------------------------------------- */

enum { VOCABULARY = 1152 };

static void write_peft(const char *folder, const char *config)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/adapter_config.json", folder);
	tt_write_text(path, config);
}

static int verified(struct tt *t, const struct fuse_job *job)
{
	tn_checkpoint *from, *merged;
	tn_adapter *adapter;
	tn_verify *v;
	tt_ok(t, tn_checkpoint_open(t->ctx, job->base, &from, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, job->out, &merged, &t->err));
	tt_ok(t, tn_adapter_open(t->ctx, job->adapter, &adapter, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, from, adapter, &job->options, merged, &v, &t->err));
	int ok = tn_verify_ok(v);
	tn_verify_free(v);
	tn_adapter_close(adapter);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(from);
	return ok;
}

/* A head of its own, with scales and biases, beside a table that stays: in every form of the result. */
static void fuse_all_forms(struct tt *t, const char *adapter)
{
	char out[4096], config[4200];
	snprintf(out, sizeof out, "%s/out", t->folder);
	snprintf(config, sizeof config, "%s/config.json", out);
	for (int form = 0; form < 3; form++) {
		struct fuse_job job = { .base = FUSE_EXAMPLES "/base-mlx-4bit", .adapter = adapter, .out = out,
					.options = TN_FUSE_OPTIONS_INIT };
		job.options.dequantize = form == 1;
		job.options.promote_bits = form == 2 ? 8 : 0;
		fuse_run(t, t->ctx, &job, NULL, 0);
		assert_true(verified(t, &job));
		size_t n;
		char *text = (char *)tt_read_file(config, &n);
		assert_non_null(strstr(text, "\"tie_word_embeddings\": false"));
		assert_int_equal(strstr(text, "\"lm_head\"") != NULL, form == 2);
		assert_int_equal(strstr(text, "quantization") != NULL, form != 1);
		free(text);
	}
}

static void quantized_heads_are_untied(void **state)
{
	struct tt *t = *state;
	uint64_t rng = 3;
	char lora[4096], saved[4096], path[4200];
	static float a[4 * WIDTH], b[VOCABULARY * 4], head[VOCABULARY * WIDTH];
	for (size_t i = 0; i < sizeof a / sizeof *a; i++)
		a[i] = 0.1f * fuse_normal(&rng);
	for (size_t i = 0; i < sizeof b / sizeof *b; i++)
		b[i] = 0.1f * fuse_normal(&rng);
	for (size_t i = 0; i < sizeof head / sizeof *head; i++)
		head[i] = 0.1f * fuse_normal(&rng);
	snprintf(lora, sizeof lora, "%s/lora", t->folder);
	snprintf(saved, sizeof saved, "%s/saved", t->folder);
	mkdir(lora, 0777);
	mkdir(saved, 0777);
	struct fuse_tensor factors[] = { { "base_model.model.lm_head.lora_A.weight", 4, WIDTH, a },
					 { "base_model.model.lm_head.lora_B.weight", VOCABULARY, 4, b } };
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", lora);
	fuse_write_tensors(t, path, factors, 2);
	write_peft(lora, "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 4, \"target_modules\": [\"lm_head\"]}");
	fuse_all_forms(t, lora);
	struct fuse_tensor whole[] = { { "base_model.model.lm_head.weight", VOCABULARY, WIDTH, head },
				       { "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight", 4, WIDTH, a },
				       { "base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight", WIDTH, 4, b } };
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", saved);
	fuse_write_tensors(t, path, whole, 3);
	write_peft(saved, "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 4, \"target_modules\": "
			  "[\"layers.0.self_attn.o_proj\"], \"modules_to_save\": [\"lm_head\"]}");
	fuse_all_forms(t, saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(weights_add_up),
		TT_TEST(as_peft_cats),
		TT_TEST(what_depends_on_order_is_refused),
		TT_TEST(two_units_are_the_limit),
		TT_TEST(options_are_checked),
		TT_TEST(infinity_is_refused),
		TT_TEST(quantized_heads_are_untied),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
