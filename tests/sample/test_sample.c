/* SPDX-License-Identifier: Apache-2.0 */
/* The sample speaks as its peers recorded it: base, live adapters, a swap, a batch of voices, and what fuse makes.
 * - golden.*: PEFT 0.21 on the bf16 weights widened to float32, on a GPU with TF32 products of 10 bits: transformers on a CPU
 *   in true float32 differs from those logits by 5.9e-3 at most and 1e-3 rms on the base, and so does this test. Its tokens
 *   are exact. The adapters move logits by 2.3 rms.
 * - golden_f32: the first prompt again, on a CPU in float32 (make_golden_f32.py).
 * - golden_mlx.*: mlx-lm 0.32.2 on the 4-bit base with float32 activations. */
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

enum { VOCABULARY = 1152, MOST = 256 };
static const double golden_rms = 2e-3, golden_largest = 1.5e-2, exact = 2e-4;

static tn_context *ctx;
static tn_safetensors *golden, *golden_f32, *golden_mlx;
static json_t *runs, *mlx_runs;
static char work[] = "/tmp/tenon-sample-XXXXXX";

static void must(tn_status status, const struct tn_error *err)
{
	if (status != TN_OK)
		fail_msg("%s: %s: %s", tn_status_name(status), err->where, err->msg);
}

/* ---- models ---------------------------------------------------------------------------------------------- */

struct model {
	tn_checkpoint *base;
	tn_adapter *adapters[2];
	tn_live *live;
	tn_decoder *decoder;
};

static void open_model(struct model *m, const char *path)
{
	struct tn_error err;
	*m = (struct model){ 0 };
	must(tn_checkpoint_open(ctx, path, &m->base, &err), &err);
	must(tn_live_open(m->base, NULL, &m->live, &err), &err);
	must(tn_decoder_create(m->live, m->base, NULL, &m->decoder, &err), &err);
}

/* Attached under its name, for rows that choose it. */
static void attach(struct model *m, int i, const char *voice)
{
	struct tn_error err;
	char path[256];
	snprintf(path, sizeof path, EXAMPLES "/adapters/%s", voice);
	must(tn_adapter_open(ctx, path, &m->adapters[i], &err), &err);
	must(tn_live_attach_disabled(m->live, voice, m->adapters[i], 1, &err), &err);
}

static void close_model(struct model *m)
{
	tn_decoder_destroy(m->decoder);
	tn_live_close(m->live);
	for (int i = 0; i < 2; i++)
		tn_adapter_close(m->adapters[i]);
	tn_checkpoint_close(m->base);
}

static tn_sequence *new_text(struct model *m, const char *voice)
{
	struct tn_error err;
	tn_sequence *text;
	must(tn_sequence_create(m->decoder, MOST, &text, &err), &err);
	must(tn_sequence_use(text, voice, &err), &err);
	return text;
}

static void step(struct model *m, tn_sequence *text, const uint32_t *ids, size_t n, float *logits, int all)
{
	struct tn_error err;
	struct tn_step one = { .sequence = text, .ids = ids, .count = n, .logits = logits, .all_logits = all };
	must(tn_decoder_step(m->decoder, &one, 1, &err), &err);
}

static uint32_t best(const float *x)
{
	uint32_t at = 0;
	for (uint32_t i = 1; i < VOCABULARY; i++)
		at = x[i] > x[at] ? i : at;
	return at;
}

/* ---- golden runs ----------------------------------------------------------------------------------------- */

static size_t read_ids(const json_t *runs_of, const char *variant, size_t i, const char *key, uint32_t ids[MOST])
{
	const json_t *list = json_object_get(json_array_get(json_object_get(runs_of, variant), i), key);
	assert_true(json_array_size(list) > 0 && json_array_size(list) < MOST);
	for (size_t j = 0; j < json_array_size(list); j++)
		ids[j] = (uint32_t)json_integer_value(json_array_get(list, j));
	return json_array_size(list);
}

/* The prompt and the first 16 tokens of the answer. */
static size_t golden_ids(const char *variant, size_t i, uint32_t ids[MOST])
{
	uint32_t answer[MOST];
	size_t n = read_ids(runs, variant, i, "prompt_ids", ids);
	read_ids(runs, variant, i, "output_ids", answer);
	memcpy(ids + n, answer, 16 * sizeof *ids);
	return n + 16;
}

/* Adds the distance of [n, VOCABULARY] logits from a tensor of `file` to sums. */
struct distance {
	double square, count, largest;
};
static void measure(struct distance *d, const tn_safetensors *file, const char *name, const float *got, size_t n)
{
	struct tn_error err;
	struct tn_buffer want;
	const struct tn_tensor *t;
	must(tn_safetensors_load(file, name, &want, &t, &err), &err);
	assert_int_equal(t->elements, n * VOCABULARY);
	for (uint64_t j = 0; j < t->elements; j++) {
		double off = fabs((double)got[j] - (double)((const float *)want.data)[j]);
		d->square += off * off;
		d->count++;
		d->largest = off > d->largest ? off : d->largest;
	}
	tn_buffer_release(ctx, &want);
}

static double rms(const struct distance *d)
{
	return sqrt(d->square / d->count);
}

/* A voice of a model against the golden logits of `variant`, all four prompts. */
static struct distance distance_of(struct model *m, const char *voice, const char *variant)
{
	static float logits[64 * VOCABULARY];
	struct distance d = { 0 };
	for (size_t i = 0; i < 4; i++) {
		char name[64];
		uint32_t ids[MOST];
		size_t n = golden_ids(variant, i, ids);
		tn_sequence *text = new_text(m, voice);
		step(m, text, ids, n, logits, 1);
		snprintf(name, sizeof name, "%s.%zu.logits", variant, i);
		measure(&d, golden, name, logits, n);
		tn_sequence_destroy(text);
	}
	print_message("%s against %s: rms %.2e, largest %.2e\n", voice && *voice ? voice : "base", variant, rms(&d), d.largest);
	return d;
}

static void expect_golden(struct model *m, const char *voice, const char *variant)
{
	struct distance d = distance_of(m, voice, variant);
	assert_true(rms(&d) < golden_rms && d.largest < golden_largest);
}

/* The answer, token by token, to prompt i; `text` holds what was said before. */
static void expect_answer(struct model *m, tn_sequence *text, const json_t *runs_of, const char *variant, size_t i)
{
	static float logits[VOCABULARY];
	uint32_t prompt[MOST], want[MOST];
	size_t n = read_ids(runs_of, variant, i, "prompt_ids", prompt), count = read_ids(runs_of, variant, i, "output_ids", want);
	tn_sequence_rewind(text, 0);
	step(m, text, prompt, n, logits, 0);
	for (size_t j = 0; j < count; j++) {
		uint32_t id = best(logits);
		if (id != want[j])
			fail_msg("%s, prompt %zu: token %zu is %u, not %u", variant, i, j, id, want[j]);
		step(m, text, &id, 1, logits, 0);
	}
}

/* ---- fusing ---------------------------------------------------------------------------------------------- */

/* The base with every tensor widened to float32, as PEFT saw it. */
static void widen_base(const char *out)
{
	struct tn_error err;
	tn_checkpoint *base;
	char command[512], path[256];
	snprintf(command, sizeof command, "mkdir %s && cp %s/base/*.json %s", out, EXAMPLES, out);
	assert_int_equal(system(command), 0);
	must(tn_checkpoint_open(ctx, EXAMPLES "/base", &base, &err), &err);
	size_t n = tn_checkpoint_count(base);
	struct tn_tensor *wide = calloc(n, sizeof *wide), **order = calloc(n, sizeof *order);
	for (size_t i = 0; i < n; i++) {
		wide[i] = *tn_checkpoint_at(base, i);
		wide[i].dtype = TN_F32;
		wide[i].bytes = wide[i].elements * 4;
		order[i] = &wide[i];
	}
	struct tn_st_writer *writer;
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

static void fuse(const char *base_path, const char *voice, const struct tn_fuse_options *options, const char *out)
{
	struct tn_error err;
	tn_checkpoint *base;
	tn_adapter *adapter;
	tn_fuse *plan;
	char path[256];
	snprintf(path, sizeof path, EXAMPLES "/adapters/%s", voice);
	must(tn_checkpoint_open(ctx, base_path, &base, &err), &err);
	must(tn_adapter_open(ctx, path, &adapter, &err), &err);
	must(tn_fuse_plan(ctx, base, adapter, options, &plan, &err), &err);
	must(tn_fuse_run(plan, out, 0, &err), &err);
	tn_fuse_free(plan);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
}

/* ---- tests ----------------------------------------------------------------------------------------------- */

static void live_voices_give_golden_logits(void **state)
{
	struct model m;
	uint32_t ids[MOST];
	static float logits[64 * VOCABULARY];
	static const char *const voices[] = { "", "pirate", "robot" }, *const variants[] = { "base", "pirate", "robot" };
	(void)state;
	open_model(&m, EXAMPLES "/base");
	attach(&m, 0, "pirate");
	attach(&m, 1, "robot");
	for (int i = 0; i < 3; i++) {
		expect_golden(&m, voices[i], variants[i]);
		struct distance d = { 0 };
		tn_sequence *text = new_text(&m, voices[i]);
		size_t n = read_ids(runs, "base", 0, "prompt_ids", ids);
		step(&m, text, ids, n, logits, 1);
		measure(&d, golden_f32, variants[i], logits, n);
		print_message("%s in float32: largest %.2e\n", variants[i], d.largest);
		assert_true(d.largest < exact);
		tn_sequence_destroy(text);
	}
	close_model(&m);
}

/* One text, told by the base, then by one adapter, then by the other; then all of it again, for what is cached now. */
static void swapped_voices_tell_their_stories(void **state)
{
	struct model m;
	static const char *const voices[] = { "", "pirate", "robot" }, *const variants[] = { "base", "pirate", "robot" };
	(void)state;
	open_model(&m, EXAMPLES "/base");
	attach(&m, 0, "pirate");
	attach(&m, 1, "robot");
	tn_sequence *text = new_text(&m, NULL);
	struct tn_error err;
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 3; i++) {
			must(tn_sequence_use(text, voices[i], &err), &err);
			for (size_t prompt = 0; prompt < 4; prompt++)
				expect_answer(&m, text, runs, variants[i], prompt);
		}
	close_model(&m);
}

/* Three voices answer in the same steps, a row each. */
static void voices_speak_at_once(void **state)
{
	enum { VOICES = 3, TOKENS = 60 };
	struct model m;
	struct tn_error err;
	static const char *const voices[] = { "robot", "", "pirate" }, *const variants[] = { "robot", "base", "pirate" };
	static float logits[VOICES * VOCABULARY];
	uint32_t want[VOICES][MOST], prompt[VOICES][MOST], id[VOICES];
	struct tn_step steps[VOICES];
	(void)state;
	open_model(&m, EXAMPLES "/base");
	attach(&m, 0, "pirate");
	attach(&m, 1, "robot");
	for (int i = 0; i < VOICES; i++) {
		read_ids(runs, variants[i], 1, "output_ids", want[i]);
		steps[i] = (struct tn_step){ .sequence = new_text(&m, voices[i]), .ids = prompt[i],
					     .count = read_ids(runs, variants[i], 1, "prompt_ids", prompt[i]),
					     .logits = logits + i * VOCABULARY };
	}
	for (int j = 0; j < TOKENS; j++) {
		must(tn_decoder_step(m.decoder, steps, VOICES, &err), &err);
		for (int i = 0; i < VOICES; i++) {
			id[i] = best(steps[i].logits);
			assert_int_equal(id[i], want[i][j]);
			steps[i].ids = &id[i];
			steps[i].count = 1;
		}
	}
	close_model(&m);
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
		struct model m;
		snprintf(out, sizeof out, "%s/wide-%s", work, voices[i]);
		snprintf(variant, sizeof variant, "%s.merged", voices[i]);
		fuse(wide, voices[i], NULL, out);
		open_model(&m, out);
		expect_golden(&m, NULL, variant);
		expect_golden(&m, NULL, voices[i]);
		tn_sequence *text = new_text(&m, NULL);
		for (size_t prompt = 0; prompt < 4; prompt++)
			expect_answer(&m, text, runs, variant, prompt);
		close_model(&m);
	}
}

/* Rounded to bf16 the model moves by its own precision: far less than the adapter moved it. */
static void bf16_fuse_stays_close(void **state)
{
	char out[64];
	struct model base, fused;
	(void)state;
	snprintf(out, sizeof out, "%s/pirate", work);
	fuse(EXAMPLES "/base", "pirate", NULL, out);
	open_model(&base, EXAMPLES "/base");
	open_model(&fused, out);
	struct distance far = distance_of(&base, NULL, "pirate"), near = distance_of(&fused, NULL, "pirate");
	assert_true(rms(&near) < 0.02 * rms(&far));
	close_model(&base);
	close_model(&fused);
}

/* `near`: how far the logits may be; `answers`: whether the tokens are the same. */
static void expect_mlx(const char *path, const char *voice, const char *variant, double near, int answers)
{
	static float logits[64 * VOCABULARY];
	struct model m;
	struct tn_error err;
	struct tn_buffer raw;
	struct distance d = { 0 };
	uint32_t ids[MOST];
	char name[64];
	const struct tn_tensor *t;
	open_model(&m, path);
	if (*voice)
		attach(&m, 0, voice);
	must(tn_safetensors_load(golden_mlx, "input_ids", &raw, &t, &err), &err);
	size_t n = t->elements;
	for (size_t i = 0; i < n; i++)
		ids[i] = t->dtype == TN_I64 ? (uint32_t)((const int64_t *)raw.data)[i] : ((const uint32_t *)raw.data)[i];
	tn_buffer_release(ctx, &raw);
	tn_sequence *text = new_text(&m, voice);
	step(&m, text, ids, n, logits, 1);
	snprintf(name, sizeof name, "%s.logits", variant);
	measure(&d, golden_mlx, name, logits, n);
	print_message("mlx-lm's %s: largest %.2e\n", variant, d.largest);
	assert_true(d.largest < near);
	for (size_t i = 0; answers && i < 4; i++)
		expect_answer(&m, text, mlx_runs, variant, i);
	close_model(&m);
}

static void quantized_voices_give_golden_logits(void **state)
{
	(void)state;
	expect_mlx(EXAMPLES "/base-mlx-4bit", "", "base", exact, 1);
	expect_mlx(EXAMPLES "/base-mlx-4bit", "whisper", "live", exact, 1);
}

/* Codes rounded to nearest are those of mlx_lm.fuse. A dense fuse is not: mlx-lm rounds the delta to bf16 and then the sum,
 * tenon once, so that its logits stand nearer to the live ones (mlx-lm's 0.13 at most). */
static void quantized_fuses_give_golden_logits(void **state)
{
	struct tn_fuse_options nearest = TN_FUSE_OPTIONS_INIT, dense = TN_FUSE_OPTIONS_INIT;
	char out[64];
	(void)state;
	nearest.rounding = TN_ROUNDING_NEAREST;
	snprintf(out, sizeof out, "%s/requantized", work);
	fuse(EXAMPLES "/base-mlx-4bit", "whisper", &nearest, out);
	expect_mlx(out, "", "fused_requantized", exact, 1);
	dense.dequantize = 1;
	snprintf(out, sizeof out, "%s/dequantized", work);
	fuse(EXAMPLES "/base-mlx-4bit", "whisper", &dense, out);
	expect_mlx(out, "", "fused_dequantized", 0.2, 0);
	expect_mlx(out, "", "live", 0.1, 0);
}

static json_t *load_runs(const char *path)
{
	json_t *root = json_load_file(path, 0, NULL), *found = json_incref(json_object_get(root, "runs"));
	assert_non_null(found);
	json_decref(root);
	return found;
}

static int set_up(void **state)
{
	struct tn_error err;
	(void)state;
	must(tn_context_create(NULL, &ctx, &err), &err);
	must(tn_safetensors_open(ctx, DATA "/golden.safetensors", &golden, &err), &err);
	must(tn_safetensors_open(ctx, DATA "/golden_f32.safetensors", &golden_f32, &err), &err);
	must(tn_safetensors_open(ctx, DATA "/golden_mlx.safetensors", &golden_mlx, &err), &err);
	runs = load_runs(DATA "/golden.json");
	mlx_runs = load_runs(DATA "/golden_mlx.json");
	return mkdtemp(work) ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[128];
	(void)state;
	json_decref(runs);
	json_decref(mlx_runs);
	tn_safetensors_close(golden);
	tn_safetensors_close(golden_f32);
	tn_safetensors_close(golden_mlx);
	tn_context_destroy(ctx);
	snprintf(command, sizeof command, "rm -rf '%s'", work);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(live_voices_give_golden_logits),
		cmocka_unit_test(swapped_voices_tell_their_stories),
		cmocka_unit_test(voices_speak_at_once),
		cmocka_unit_test(float32_fuse_gives_golden_logits),
		cmocka_unit_test(bf16_fuse_stays_close),
		cmocka_unit_test(quantized_voices_give_golden_logits),
		cmocka_unit_test(quantized_fuses_give_golden_logits),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
