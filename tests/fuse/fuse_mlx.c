/* SPDX-License-Identifier: Apache-2.0 */
/* Quantized bases against mlx-lm 0.32.2 on MLX 0.32.4 (CPU). `--rounding nearest` writes the bytes of mlx_lm.fuse, but where
 * a float32 sum in another order lands on a tie. `--dequantize` is within one unit in the last place of the truth in
 * float64; mlx_lm.fuse --dequantize is not. */
#include "fuselib.h"

#include "transform/survival.h"
#include "transform/ulp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct case_of {
	const char *name, *base;
};

static const struct case_of cases[] = {
	{ "q1", "llama_q1_g32" },          { "q2", "llama_q2_g32" },
	{ "q3", "llama_q3_g64" },          { "q4", "llama_q4_g64" },
	{ "q4_f32", "llama_q4_g32_f32" },  { "q4_f16", "llama_q4_g32_f16" },
	{ "q5", "llama_q5_g32" },          { "q6", "llama_q6_g64" },
	{ "q8", "llama_q8_g32" },          { "q4_bias", "llama_bias_q4" },
	{ "q_mixed_3_6", "llama_mixed_3_6" }, { "q4_lm_head", "llama_q4_g32_f32" },
	{ "q4_zero_delta", "llama_q4_g64" }, { "mxfp4", "llama_mxfp4" },
	{ "mxfp8", "llama_mxfp8" },        { "nvfp4", "llama_nvfp4" },
	{ "switch_q4", "mixtral_q4" },     { "switch_mxfp4", "mixtral_mxfp4" },
	{ "key_embed_tokens_tied_q4", "llama_tied_q4" },
};
enum { CASES = sizeof cases / sizeof *cases };

static void fuse_case(struct tt *t, const struct case_of *c, const struct tn_fuse_options *options, const char *out)
{
	struct fuse_job job = { .out = out };
	char base[4096], adapter[4096];
	snprintf(base, sizeof base, FUSE_DATA "/mlx_adapters/models/%s", c->base);
	snprintf(adapter, sizeof adapter, FUSE_DATA "/mlx_adapters/adapters/%s", c->name);
	job.base = base;
	job.adapter = adapter;
	job.options = *options;
	fuse_run(t, t->ctx, &job, NULL, 0);
}

static tn_safetensors *open_expected(struct tt *t, const struct case_of *c)
{
	char path[4096];
	tn_safetensors *st;
	snprintf(path, sizeof path, FUSE_DATA "/mlx_adapters/adapters/%s/expect.safetensors", c->name);
	tt_ok(t, tn_safetensors_open(t->ctx, path, &st, &t->err));
	return st;
}

/* Bits of one code of a packed tensor of the expected shape; 0 when it is not packed. */
static unsigned code_bits(struct tt *t, const tn_checkpoint *model, const char *name, const struct tn_tensor *packed)
{
	char scales[512];
	tn_quant_config *config = NULL;
	struct tn_quantization q = { 0 };
	snprintf(scales, sizeof scales, "%.*s.scales", (int)(strlen(name) - strlen(".weight")), name);
	if (packed->dtype != TN_U32 || !tn_checkpoint_find(model, scales))
		return 0;
	tt_ok(t, tn_quant_config_parse(t->ctx, tn_checkpoint_config(model), &config, &t->err));
	tn_quant_config_for_tensor(config, name, &q);
	tn_quant_config_destroy(config);
	return (unsigned)q.bits;
}

struct differences {
	size_t codes, other_codes, values, other_values;
};

static void compare_bytes(struct tt *t, const tn_checkpoint *ours, const tn_safetensors *theirs, const struct tn_tensor *e,
			  struct differences *d)
{
	struct tn_buffer a, b;
	const char *name = e->name + strlen("fused.");
	const struct tn_tensor *o;
	tt_ok(t, tn_safetensors_load(theirs, e->name, &a, NULL, &t->err));
	tt_ok(t, tn_checkpoint_load(ours, name, &b, &o, &t->err));
	assert_int_equal(o->bytes, e->bytes);
	assert_int_equal(o->dtype, e->dtype);
	unsigned bits = code_bits(t, ours, name, e);
	size_t unit = tn_dtype_bits(e->dtype) / 8, n = (size_t)e->bytes / unit;
	if (bits) {
		size_t codes = (size_t)e->bytes * 8 / bits;
		d->codes += codes;
		d->other_codes += (size_t)tn_survival_count_codes(a.data, b.data, codes, bits);
	} else {
		d->values += n;
		for (size_t i = 0; i < n; i++)
			d->other_values += memcmp((char *)a.data + i * unit, (char *)b.data + i * unit, unit) != 0;
	}
	tn_buffer_release(t->ctx, &a);
	tn_buffer_release(t->ctx, &b);
}

static void nearest_is_mlx(void **state)
{
	struct tt *t = *state;
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	options.rounding = TN_ROUNDING_NEAREST;
	print_message("--rounding nearest against mlx_lm.fuse: other codes, other scales and biases\n");
	for (size_t i = 0; i < CASES; i++) {
		char out[4096];
		tn_checkpoint *ours;
		struct differences d = { 0 };
		snprintf(out, sizeof out, "%s/%s", t->folder, cases[i].name);
		fuse_case(t, &cases[i], &options, out);
		tn_safetensors *theirs = open_expected(t, &cases[i]);
		tt_ok(t, tn_checkpoint_open(t->ctx, out, &ours, &t->err));
		for (size_t k = 0; k < tn_safetensors_count(theirs); k++) {
			const struct tn_tensor *e = tn_safetensors_at(theirs, k);
			if (strncmp(e->name, "fused.", 6) == 0)
				compare_bytes(t, ours, theirs, e, &d);
		}
		print_message("  %-26s %5zu of %6zu, %5zu of %6zu\n", cases[i].name, d.other_codes, d.codes, d.other_values, d.values);
		assert_true(d.codes > 0 || d.values > 0);
		assert_true(d.other_codes <= d.codes / 200 && d.other_values <= d.values / 20);
		tn_checkpoint_close(ours);
		tn_safetensors_close(theirs);
	}
}

/* In units in the last place at the truth; in F32 at the larger of truth and W, which is rounded to float32 itself. */
static double distance(const double *x, const double *truth, const double *w, size_t n, tn_dtype dtype)
{
	double worst = 0;
	for (size_t i = 0; i < n; i++)
		worst = fmax(worst, fabs(x[i] - truth[i]) /
				     tn_ulp(dtype, dtype == TN_F32 ? fmax(fabs(truth[i]), fabs(w[i])) : truth[i]));
	return worst;
}

static void compare_truth(struct tt *t, const struct case_of *c, const char *out, const struct tn_tensor *e, double *ours,
			  double *theirs)
{
	char file[4096], name[512], base[4096];
	const char *layer = e->name + strlen("expect64.");
	size_t n, m;
	tn_checkpoint *model;
	snprintf(file, sizeof file, FUSE_DATA "/mlx_adapters/adapters/%s/expect.safetensors", c->name);
	double *truth = fuse_file_values(t, file, e->name, &n), *mine = fuse_values(t, out, layer, &m);
	assert_int_equal(n, m);
	tt_ok(t, tn_checkpoint_open(t->ctx, out, &model, &t->err));
	tn_dtype dtype = tn_checkpoint_find(model, layer)->dtype;
	tn_checkpoint_close(model);
	snprintf(base, sizeof base, FUSE_DATA "/mlx_adapters/models/%s", c->base);
	double *w = fuse_values(t, base, layer, &m);
	*ours = fmax(*ours, distance(mine, truth, w, n, dtype));
	snprintf(name, sizeof name, "dequantized.%s", layer);
	double *mlx = fuse_file_values(t, file, name, &m);
	*theirs = fmax(*theirs, distance(mlx, truth, w, n, dtype));
	free(w);
	free(mlx);
	free(mine);
	free(truth);
}

static void dequantized_is_true(void **state)
{
	struct tt *t = *state;
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	options.dequantize = 1;
	print_message("--dequantize against float64, largest error in ulps: tenon, mlx_lm.fuse\n");
	for (size_t i = 0; i < CASES; i++) {
		char out[4096];
		double ours = 0, theirs = 0;
		snprintf(out, sizeof out, "%s/%s", t->folder, cases[i].name);
		fuse_case(t, &cases[i], &options, out);
		tn_safetensors *expected = open_expected(t, &cases[i]);
		for (size_t k = 0; k < tn_safetensors_count(expected); k++) {
			const struct tn_tensor *e = tn_safetensors_at(expected, k);
			if (strncmp(e->name, "expect64.", 9) == 0)
				compare_truth(t, &cases[i], out, e, &ours, &theirs);
		}
		print_message("  %-26s %.3f  %.4g\n", cases[i].name, ours, theirs);
		assert_true(ours <= 1);
		tn_safetensors_close(expected);
	}
}

/* Layers without factors in the file keep their bytes, where mlx_lm.fuse refits them. */
static void untouched_stay(void **state)
{
	struct tt *t = *state;
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	static const struct case_of partial = { "q4_partial_file", "llama_q4_g64" };
	char out[4096];
	size_t changed = 0;
	tn_checkpoint *base, *ours;
	snprintf(out, sizeof out, "%s/partial", t->folder);
	fuse_case(t, &partial, &options, out);
	tt_ok(t, tn_checkpoint_open(t->ctx, out, &ours, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, FUSE_DATA "/mlx_adapters/models/llama_q4_g64", &base, &t->err));
	assert_int_equal(tn_checkpoint_count(ours), tn_checkpoint_count(base));
	for (size_t i = 0; i < tn_checkpoint_count(base); i++) {
		struct tn_buffer a, b;
		const struct tn_tensor *e = tn_checkpoint_at(base, i);
		tt_ok(t, tn_checkpoint_load(base, e->name, &a, NULL, &t->err));
		tt_ok(t, tn_checkpoint_load(ours, e->name, &b, NULL, &t->err));
		if (memcmp(a.data, b.data, (size_t)e->bytes) != 0) {
			changed++;
			assert_non_null(strstr(e->name, "model.layers.1.self_attn.k_proj."));
		}
		tn_buffer_release(t->ctx, &a);
		tn_buffer_release(t->ctx, &b);
	}
	assert_true(changed >= 1);
	tn_checkpoint_close(ours);
	tn_checkpoint_close(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(nearest_is_mlx),
		TT_TEST(dequantized_is_true),
		TT_TEST(untouched_stay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
