/* SPDX-License-Identifier: Apache-2.0 */
/* How far a fuse is from the truth in float64, ours and that of the peers: PEFT's merge_and_unload and mlx_lm.fuse. Units in the
 * last place of the base's dtype, at the true value. The table of docs/numerics.md. */
#include "fuselib.h"

#include "transform/ulp.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct distance {
	double max, square;
	size_t count;
};

static void add(struct distance *d, double ulps)
{
	d->max = fmax(d->max, ulps);
	d->square += ulps * ulps;
	d->count++;
}

static double rms(const struct distance *d)
{
	return sqrt(d->square / (double)d->count);
}

static void print_row(const char *what, const struct distance *ours, const struct distance *theirs)
{
	print_message("  | %-44s | %.3f, %.3f | %.3g, %.3g |\n", what, ours->max, rms(ours), theirs->max, rms(theirs));
}

/* ---- PEFT and mlx-lm on the sample ----------------------------------------------------------------------- */

/* Factors of one weight as [out, rank] and [rank, in], whatever the file's order. */
struct factors {
	double *a, *b, *magnitude, scale;
	size_t rank;
	int mlx;
};

static double *find_values(struct tt *t, const char *file, const char *layer, const char *suffix)
{
	char name[400];
	size_t n;
	snprintf(name, sizeof name, "%s%s", layer, suffix);
	return fuse_file_values(t, file, name, &n);
}

static struct factors load_factors(struct tt *t, const char *voice, const char *layer)
{
	struct factors f = { .mlx = strcmp(voice, "whisper") == 0 };
	char file[512], path[300];
	tn_adapter *adapter;
	snprintf(file, sizeof file, FUSE_EXAMPLES "/adapters/%s/%s", voice, f.mlx ? "adapters.safetensors"
										      : "adapter_model.safetensors");
	snprintf(path, sizeof path, f.mlx ? "%s" : "base_model.model.%s", layer);
	f.a = find_values(t, file, path, f.mlx ? ".lora_a" : ".lora_A.weight");
	f.b = find_values(t, file, path, f.mlx ? ".lora_b" : ".lora_B.weight");
	if (strcmp(voice, "robot") == 0)
		f.magnitude = find_values(t, file, path, ".lora_magnitude_vector");
	snprintf(file, sizeof file, FUSE_EXAMPLES "/adapters/%s", voice);
	tt_ok(t, tn_adapter_open(t->ctx, file, &adapter, &t->err));
	for (size_t i = 0; i < tn_adapter_count(adapter); i++)
		if (strcmp(tn_adapter_at(adapter, i)->path, layer) == 0) {
			f.scale = tn_adapter_at(adapter, i)->scale;
			f.rank = (size_t)tn_adapter_at(adapter, i)->rank;
		}
	tn_adapter_close(adapter);
	return f;
}

/* The row of the truth, by the definition alone: W + scale * B A, times m / its length for a DoRA. */
static void true_row(const struct factors *f, const double *w, size_t rows, size_t i, size_t cols, double *out)
{
	double length = 0;
	for (size_t c = 0; c < cols; c++) {
		double sum = 0;
		for (size_t k = 0; k < f->rank; k++)
			sum += f->mlx ? f->b[k * rows + i] * f->a[c * f->rank + k] : f->b[i * f->rank + k] * f->a[k * cols + c];
		out[c] = w[i * cols + c] + f->scale * sum;
		length += out[c] * out[c];
	}
	for (size_t c = 0; c < cols && f->magnitude; c++)
		out[c] *= f->magnitude[i] / sqrt(length);
}

static void compare_sample(struct tt *t, const char *voice, const char *name, struct distance *ours, struct distance *theirs)
{
	enum { COLS = 192 };
	char key[256], out[4096], layer[256];
	size_t n;
	snprintf(out, sizeof out, "%s/out", t->folder);
	snprintf(layer, sizeof layer, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
	struct factors f = load_factors(t, voice, layer);
	snprintf(key, sizeof key, "%s.%s.%s", f.mlx ? "mlx" : "peft", voice, name);
	double *peer = fuse_file_values(t, FUSE_PEERS, key, &n), *got = fuse_values(t, out, name, &n);
	double *w = fuse_values(t, FUSE_EXAMPLES "/base", name, &n), truth[COLS];
	for (size_t i = 0; i < n / COLS; i++) {
		true_row(&f, w, n / COLS, i, COLS, truth);
		for (size_t c = 0; c < COLS; c++) {
			double unit = tn_ulp(TN_BF16, truth[c]);
			add(ours, fabs(got[i * COLS + c] - truth[c]) / unit);
			add(theirs, fabs(peer[i * COLS + c] - truth[c]) / unit);
		}
	}
	free(f.a);
	free(f.b);
	free(f.magnitude);
	free(peer);
	free(got);
	free(w);
}

static void the_sample(void **state)
{
	static const struct {
		const char *voice, *what;
	} rows[] = { { "pirate", "sample BF16, LoRA: PEFT" }, { "robot", "sample BF16, DoRA: PEFT" },
		     { "whisper", "sample BF16, LoRA: mlx_lm.fuse" } };
	struct tt *t = *state;
	print_message("  | | ours: max, rms | theirs: max, rms |\n");
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct distance ours = { 0, 0, 0 }, theirs = { 0, 0, 0 };
		char out[4096], adapter[512];
		snprintf(out, sizeof out, "%s/out", t->folder);
		snprintf(adapter, sizeof adapter, FUSE_EXAMPLES "/adapters/%s", rows[i].voice);
		struct fuse_job job = { .base = FUSE_EXAMPLES "/base", .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		fuse_run(t, t->ctx, &job, NULL, 0);
		compare_sample(t, rows[i].voice, "model.layers.2.self_attn.q_proj.weight", &ours, &theirs);
		compare_sample(t, rows[i].voice, "model.layers.2.self_attn.k_proj.weight", &ours, &theirs);
		print_row(rows[i].what, &ours, &theirs);
		assert_true(ours.max <= 0.52 && rms(&ours) < 0.3);
		assert_true(theirs.max > ours.max && rms(&theirs) > rms(&ours));
	}
}

/* ---- mlx-lm's cases, whose truth comes with them --------------------------------------------------------- */

/* Of the tensors expect64.* whose fused.* is not packed. Returns how many there were. */
static size_t compare_case(struct tt *t, const char *name, const char *model, const char *out, struct distance *ours,
			   struct distance *theirs)
{
	tn_safetensors *expect;
	char path[4096];
	size_t found = 0;
	snprintf(path, sizeof path, FUSE_DATA "/mlx_adapters/adapters/%s/expect.safetensors", name);
	tt_ok(t, tn_safetensors_open(t->ctx, path, &expect, &t->err));
	for (size_t i = 0; i < tn_safetensors_count(expect); i++) {
		const char *key = tn_safetensors_at(expect, i)->name, *tensor = key + strlen("expect64.");
		char fused[256];
		size_t n, m;
		snprintf(fused, sizeof fused, "fused.%s", strncmp(key, "expect64.", 9) == 0 ? tensor : "");
		const struct tn_tensor *peer = tn_safetensors_find(expect, fused);
		if (!peer || peer->dtype == TN_U32)
			continue;
		tn_checkpoint *base;
		tt_ok(t, tn_checkpoint_open(t->ctx, model, &base, &t->err));
		const struct tn_tensor *source = tn_checkpoint_find(base, tensor);
		tn_dtype dtype = source ? source->dtype : TN_U32;
		tn_checkpoint_close(base);
		if (dtype == TN_U32)
			continue;
		double *truth = fuse_file_values(t, path, key, &n), *them = fuse_file_values(t, path, fused, &m);
		double *us = fuse_values(t, out, tensor, &m);
		for (size_t k = 0; k < n; k++) {
			add(ours, fabs(us[k] - truth[k]) / tn_ulp(dtype, truth[k]));
			add(theirs, fabs(them[k] - truth[k]) / tn_ulp(dtype, truth[k]));
		}
		free(truth);
		free(them);
		free(us);
		found++;
	}
	tn_safetensors_close(expect);
	return found;
}

static void the_cases_of_mlx(void **state)
{
	struct tt *t = *state;
	json_error_t problem;
	json_t *root = json_load_file(FUSE_DATA "/mlx_adapters/cases.json", 0, &problem), *info;
	const char *name;
	size_t compared = 0;
	assert_non_null(root);
	json_object_foreach(json_object_get(root, "cases"), name, info) {
		char base[4096], adapter[4096], out[4096];
		struct distance ours = { 0, 0, 0 }, theirs = { 0, 0, 0 };
		const char *model = json_string_value(json_object_get(info, "base"));
		snprintf(base, sizeof base, FUSE_DATA "/mlx_adapters/%s", model);
		snprintf(adapter, sizeof adapter, FUSE_DATA "/mlx_adapters/adapters/%s", name);
		snprintf(out, sizeof out, "%s/out", t->folder);
		if (strstr(model, "_q") || strstr(model, "fp4") || strstr(model, "fp8") || strstr(model, "mixed"))
			continue;
		struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		fuse_run(t, t->ctx, &job, NULL, 0);
		if (!compare_case(t, name, base, out, &ours, &theirs))
			continue;
		print_row(name, &ours, &theirs);
		assert_true(ours.max <= (strstr(model, "16") ? 0.63 : 0.501));
		compared++;
	}
	json_decref(root);
	assert_true(compared > 10);
}

/* ---- AdaLoRA --------------------------------------------------------------------------------------------- */

/* B (E * A) * alpha / (init_r + 1e-5), a module of it pruned; PEFT's merge in float32. */
static void adalora_as_peft(void **state)
{
	static const char *const names[] = { "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight" };
	struct tt *t = *state;
	char out[4096];
	snprintf(out, sizeof out, "%s/out", t->folder);
	struct fuse_job job = { .base = FUSE_DATA "/peft/llama", .adapter = FUSE_ADALORA, .out = out,
				.options = TN_FUSE_OPTIONS_INIT };
	fuse_run(t, t->ctx, &job, NULL, 0);
	for (size_t k = 0; k < 2; k++) {
		size_t n, m;
		double *ours = fuse_values(t, out, names[k], &n);
		double *theirs = fuse_file_values(t, FUSE_ADALORA "/expect.safetensors", names[k], &m);
		assert_int_equal(n, m);
		for (size_t i = 0; i < n; i++)
			assert_true(fabs(ours[i] - theirs[i]) < 1e-6);
		free(ours);
		free(theirs);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(adalora_as_peft), TT_TEST(the_sample), TT_TEST(the_cases_of_mlx) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
