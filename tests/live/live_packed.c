/* SPDX-License-Identifier: Apache-2.0 */
/* Bases that other libraries packed, live: the products of every module of the conformance archive are those with the weights
 * that its library means, an adapter computes beside them, and everything is given back. */
#include "livelib.h"

#include "base/half.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROWS = 3 };

static double *expected(struct tt *t, const char *folder, const char *module, size_t *count)
{
	char path[1200], name[600];
	tn_safetensors *file;
	struct tn_buffer bytes;
	const struct tn_tensor *w;
	snprintf(path, sizeof path, "%s/expect.safetensors", folder);
	snprintf(name, sizeof name, "%s.weight", module);
	tt_ok(t, tn_safetensors_open(t->ctx, path, &file, &t->err));
	tt_ok(t, tn_safetensors_load(file, name, &bytes, &w, &t->err));
	double *out = malloc(w->elements * sizeof *out);
	for (uint64_t i = 0; i < w->elements; i++)
		out[i] = (double)((const float *)bytes.data)[i];
	*count = (size_t)w->elements;
	tn_buffer_release(t->ctx, &bytes);
	tn_safetensors_close(file);
	return out;
}

/* The bias of a module, zeros where it has none. */
static float *bias_of(const struct live_base *b, const char *path, size_t n)
{
	char name[600];
	float *out = calloc(n, sizeof *out);
	tn_snapshot *s = tn_live_snapshot(b->live);
	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, i ? "%s_bias" : "%s.bias", path);
		size_t tensor = tn_live_tensor(b->live, name);
		if (tensor != TN_LIVE_NONE)
			memcpy(out, tn_snapshot_tensor(s, tensor, TN_LIVE_BASE, NULL), n * sizeof *out);
	}
	tn_snapshot_release(s);
	return out;
}

/* Relative to the largest result; dense forms are rounded to the dtype of their library. */
static void check_module(struct tt *t, const struct live_base *b, const char *folder, const char *path)
{
	struct tn_module_shape shape;
	size_t n, module = tn_live_module(b->live, path);
	if (module == TN_LIVE_NONE)
		fail_msg("%s: no module %s", folder, path);
	tn_live_shape(b->live, module, &shape);
	double *w = expected(t, folder, path, &n);
	size_t in = (size_t)shape.in_features, out = (size_t)shape.out_features, experts = (size_t)(shape.experts ? shape.experts : 1);
	assert_int_equal(n, in * out * experts);
	float *x = live_x(ROWS, in, 3), *bias = bias_of(b, path, out * experts);
	tn_snapshot *s = tn_live_snapshot(b->live);
	for (size_t e = 0; e < experts; e++) {
		float *y = live_forward(s, b->live, module, e, ROWS, x, NULL);
		for (size_t r = 0; r < ROWS; r++) {
			double top = 0, error = 0;
			for (size_t o = 0; o < out; o++) {
				double sum = (double)bias[e * out + o], size = fabs(sum);
				for (size_t i = 0; i < in; i++) {
					sum += w[(e * out + o) * in + i] * (double)x[r * in + i];
					size += fabs(w[(e * out + o) * in + i] * (double)x[r * in + i]);
				}
				top = fmax(top, size);
				error = fmax(error, fabs((double)y[r * out + o] - sum) / (size > 0 ? size : 1));
			}
			int exact = strstr(folder, "/awq_") || (strstr(folder, "/gptq_") && !strstr(folder, "_act") && !strstr(folder, "p_b7"));
			if (!(error < (exact ? 1e-5 : 0x1p-8)) && isfinite(top))
				fail_msg("%s: '%s' is %g off", folder, path, error);
		}
		free(y);
	}
	tn_snapshot_release(s);
	free(bias);
	free(x);
	free(w);
}

static int has_nan(const char *name)
{
	return strstr(name, "fp8_all_") || strstr(name, "extreme");
}

static void every_packed_module_multiplies(void **state)
{
	struct tt *t = *state;
	static const char *const archives[] = { "foreign", "foreign_more" };
	size_t checked = 0;
	for (size_t a = 0; a < 2; a++) {
		json_t *manifest = json_load_file(a ? LIVE_FOREIGN "/../foreign_more/manifest.json" : LIVE_FOREIGN "/manifest.json", 0,
						  NULL), *entry, *value;
		const char *module;
		size_t i;
		assert_non_null(manifest);
		json_array_foreach(json_object_get(manifest, "folders"), i, entry) {
			char folder[1024];
			struct live_base base;
			const char *name = json_string_value(json_object_get(entry, "folder"));
			if (has_nan(name))
				continue;
			snprintf(folder, sizeof folder, "%s/%s", LIVE_FOREIGN, name);
			live_open(t, folder, &base);
			json_object_foreach(json_object_get(entry, "modules"), module, value)
				check_module(t, &base, folder, module);
			live_close(&base);
			checked++;
		}
		json_decref(manifest);
		printf("%s: %zu bases\n", archives[a], checked);
	}
	assert_true(checked > 120);
}

/* An adapter of rank 1 for modules of that name, [in] and [out]: lora_a and lora_b, which the caller frees. */
static float *write_adapter(const char *folder, const char *path, int in, int out)
{
	char config[512], header[1024], file[1200];
	snprintf(header, sizeof header, "{\"%s.lora_a\":{\"dtype\":\"F32\",\"shape\":[%d,1],\"data_offsets\":[0,%d]},"
		 "\"%s.lora_b\":{\"dtype\":\"F32\",\"shape\":[1,%d],\"data_offsets\":[%d,%d]}}", path, in, 4 * in, path, out, 4 * in,
		 4 * (in + out));
	float *ab = live_x(1, (size_t)(in + out), 8);
	mkdir(folder, 0777);
	snprintf(file, sizeof file, "%s/adapters.safetensors", folder);
	tt_write_st(file, header, ab, (size_t)(in + out) * sizeof *ab);
	snprintf(config, sizeof config, "{\"fine_tune_type\": \"lora\", \"num_layers\": -1, \"lora_parameters\": {\"rank\": 1, "
		 "\"dropout\": 0.0, \"scale\": 2.0, \"keys\": [\"%s\"]}}", path);
	snprintf(file, sizeof file, "%s/adapter_config.json", folder);
	tt_write_text(file, config);
	return ab;
}

/* The small model of the archive: what runs packed runs to the same numbers as what tenon dequantizes. */
static void an_adapter_computes_beside_packed_weights(void **state)
{
	static const char *const bases[] = { "awq_gemm_g64", "gptq_gqm_v1_b4_g32_asym_act", "bnb_nf4_b64_dq_u8_bf16_40x128",
					     "bnb_fp4_b64_u8_f16_40x128", "bnb_int8_24x256", "fp8_block_128", "modelopt_nvfp4" };
	static const char *const modules[] = { "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.q_proj",
					       "mlp.down_proj", "mlp.up_proj", "mlp.down_proj" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
		char folder[1024], path[256];
		struct live_base base;
		struct tn_module_shape shape;
		snprintf(folder, sizeof folder, "%s/%s", LIVE_FOREIGN, bases[i]);
		snprintf(path, sizeof path, "model.layers.0.%s", modules[i]);
		live_open(t, folder, &base);
		size_t module = tn_live_module(base.live, path), n;
		tn_live_shape(base.live, module, &shape);
		int in = (int)shape.in_features, out = (int)shape.out_features;
		float *ab = write_adapter(tt_path(t, "lora"), path, in, out);
		tn_adapter *adapter = live_adapter(t, tt_path(t, "lora"));
		tt_ok(t, tn_live_attach(base.live, "a", adapter, 1, &t->err));
		double *w = expected(t, folder, path, &n);
		for (size_t k = 0; k < n; k++)
			w[k] += 2.0 * (double)ab[(size_t)in + k / (size_t)in] * (double)ab[k % (size_t)in];
		tn_snapshot *s = tn_live_snapshot(base.live);
		float *x = live_x(ROWS, (size_t)in, 4), *y = live_forward(s, base.live, module, 0, ROWS, x, NULL);
		float *bias = bias_of(&base, path, (size_t)out);
		double error = live_error(y, x, w, bias, ROWS, (size_t)out, (size_t)in);
		if (error > 5e-3)
			fail_msg("%s with an adapter is %g off", bases[i], error);
		tn_snapshot_release(s);
		tt_ok(t, tn_live_detach(base.live, "a", &t->err));
		tn_adapter_close(adapter);
		live_close(&base);
		free(ab);
		free(bias);
		free(w);
		free(x);
		free(y);
		tt_remove_tree(tt_path(t, "lora"));
	}
}

static float *product(struct tn_live *live, size_t module, size_t in)
{
	tn_snapshot *s = tn_live_snapshot(live);
	float *x = live_x(ROWS, in, 4), *y = live_forward(s, live, module, 0, ROWS, x, NULL);
	tn_snapshot_release(s);
	free(x);
	return y;
}

/* Codes in MLX's form, in order, with a table and dense in memory: merged they have the bits of what fuse --dequantize writes. */
static void merged_packed_modules_are_the_dequantized_fuse(void **state)
{
	static const char *const bases[] = { "awq_gemm_g64", "gptq_gqm_v1_b4_g32_asym_act", "bnb_nf4_b64_dq_u8_bf16_40x128",
					     "bnb_fp4_b64_u8_f16_40x128", "bnb_int8_24x256", "fp8_block_128" };
	static const char *const paths[] = { "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
					     "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj",
					     "model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
		struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
		struct live_base base, fused;
		struct tn_module_shape shape;
		char folder[1024];
		tn_fuse *fuse;
		snprintf(folder, sizeof folder, "%s/%s", LIVE_FOREIGN, bases[i]);
		live_open(t, folder, &base);
		size_t module = tn_live_module(base.live, paths[i]);
		tn_live_shape(base.live, module, &shape);
		const size_t in = (size_t)shape.in_features, bytes = ROWS * (size_t)shape.out_features * sizeof(float);
		free(write_adapter(tt_path(t, "lora%zu", i), paths[i], (int)in, (int)shape.out_features));
		tn_adapter *adapter = live_adapter(t, tt_path(t, "lora%zu", i));
		options.dequantize = 1;
		tt_ok(t, tn_fuse_plan(t->ctx, base.checkpoint, adapter, &options, &fuse, &t->err));
		tt_ok(t, tn_fuse_run(fuse, tt_path(t, "dense%zu", i), 0, &t->err));
		tn_fuse_free(fuse);
		live_open(t, tt_path(t, "dense%zu", i), &fused);
		float *expected_y = product(fused.live, tn_live_module(fused.live, paths[i]), in), *bare = product(base.live, module, in);
		tt_ok(t, tn_live_attach(base.live, "a", adapter, 1, &t->err));
		for (int all = 0; all < 2; all++) {
			tt_ok(t, tn_live_merge(base.live, all ? TN_LIVE_ALL : module, &t->err));
			float *merged = product(base.live, module, in);
			if (memcmp(merged, expected_y, bytes) != 0)
				fail_msg("%s: merged is not what the fuse wrote: %g, %g", bases[i], (double)merged[0], (double)expected_y[0]);
			tt_ok(t, tn_live_unmerge(base.live, module, &t->err));
			free(merged);
		}
		tt_ok(t, tn_live_detach(base.live, "a", &t->err));
		float *after = product(base.live, module, in);
		assert_memory_equal(bare, after, bytes);
		tn_adapter_close(adapter);
		live_close(&base);
		live_close(&fused);
		free(expected_y);
		free(bare);
		free(after);
	}
}

/* x that are BF16 numbers, and said to be: the same products, by kernels that may live by it. */
static void narrow_activations_may_be_named(void **state)
{
	enum { MANY = 35 };
	struct tt *t = *state;
	struct live_base base;
	struct tn_module_shape shape;
	size_t n;
	const char *folder = LIVE_FOREIGN "/awq_gemm_g64", *path = "model.layers.0.self_attn.k_proj";
	live_open(t, folder, &base);
	const size_t module = tn_live_module(base.live, path);
	tn_live_shape(base.live, module, &shape);
	const size_t in = (size_t)shape.in_features, out = (size_t)shape.out_features;
	float *x = live_x(MANY, in, 5), *y = malloc(MANY * out * sizeof *y), *bias = bias_of(&base, path, out);
	for (size_t i = 0; i < MANY * in; i++)
		x[i] = tn_f32_from_bf16(tn_bf16_from_f32(x[i]));
	double *w = expected(t, folder, path, &n);
	tn_snapshot *s = tn_live_snapshot(base.live);
	void *scratch = malloc(tn_snapshot_scratch_bytes(s, module, MANY));
	size_t rows[MANY];
	for (size_t r = 0; r < MANY; r++)
		rows[r] = r % 2 ? TN_LIVE_BASE : TN_LIVE_DEFAULT;
	for (size_t i = 0; i < 2; i++) {
		struct tn_live_call call = { .module = module, .m = MANY, .x = x, .x_stride = in, .y = y, .y_stride = out,
					     .adapter_of_row = i ? rows : NULL, .x_dtype = TN_BF16 };
		tn_snapshot_forward(s, &call, scratch);
		assert_true(live_error(y, x, w, bias, MANY, out, in) < 1e-5);
	}
	tn_snapshot_release(s);
	live_close(&base);
	free(scratch);
	free(bias);
	free(w);
	free(x);
	free(y);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(every_packed_module_multiplies),
		TT_TEST(an_adapter_computes_beside_packed_weights),
		TT_TEST(merged_packed_modules_are_the_dequantized_fuse),
		TT_TEST(narrow_activations_may_be_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
