/* SPDX-License-Identifier: Apache-2.0 */
/* Every adapter of PEFT 0.21 and mlx-lm 0.32.2 in tests/adapters/data, attached to its base: the products of all modules
 * against the edited rows in double, and against the merged weights that PEFT wrote. */
#include "livelib.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { ROWS = 3 };

static const char *const archives[] = { "peft", "mlx_adapters" };

static double limit = 1e-5;

/* What cannot be done to a base that keeps its shape, or not without the caller's help. */
static const struct {
	const char *name, *says;
} refused[] = {
	{ "alora", "alora_invocation_tokens" },
	{ "layer_replication", "tenon fuse" },
	{ "dora_q3", "in = 64 was expected" }, /* mlx-lm counts the columns of a packed matrix wrong */
	{ "dora_embedding_q4", "out = 64 was expected" },
};

static const char *refusal(const char *name)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (strcmp(refused[i].name, name) == 0)
			return refused[i].says;
	return NULL;
}

/* The bias of a module as the adapter's file has it: what replaces it, or what is added. NULL: neither has one. */
static float *bias_of(struct tt *t, const struct live_base *b, const tn_adapter *adapter, size_t module)
{
	char name[1100];
	const char *path = tn_live_module_path(b->live, module);
	const tn_safetensors *file = tn_adapter_file(adapter);
	struct tn_module_shape shape;
	float *values = NULL, *added = NULL;
	tn_live_shape(b->live, module, &shape);
	size_t n = (size_t)(shape.out_features * (shape.experts ? shape.experts : 1));
	snprintf(name, sizeof name, "%s.bias", path);
	size_t tensor = tn_live_tensor(b->live, name);
	assert_int_equal(tensor != TN_LIVE_NONE, shape.has_bias);
	tn_snapshot *s = tn_live_snapshot(b->live);
	if (tensor != TN_LIVE_NONE) {
		values = malloc(n * sizeof *values);
		memcpy(values, tn_snapshot_tensor(s, tensor, TN_LIVE_BASE, NULL), n * sizeof *values);
	}
	tn_snapshot_release(s);
	for (size_t i = 0; i < tn_safetensors_count(file); i++) {
		const struct tn_tensor *f = tn_safetensors_at(file, i);
		const char *at = strstr(f->name, path), *rest = at ? at + strlen(path) : "";
		if (strcmp(rest, ".lora_B.bias") != 0 && strcmp(rest, ".bias") != 0 && strcmp(rest, ".base_layer.bias") != 0)
			continue;
		added = malloc(n * sizeof *added);
		tt_ok(t, tn_safetensors_read(file, f, 0, added, n * sizeof *added, &t->err));
		double scale = 0;
		for (size_t k = 0; k < tn_adapter_count(adapter); k++)
			if (strstr(tn_adapter_at(adapter, k)->path, path))
				scale = tn_adapter_at(adapter, k)->scale;
		int adds = strstr(at, "lora_B") != NULL;
		for (size_t k = 0; k < n; k++)
			added[k] = (float)((adds ? scale : 1) * (double)added[k] + (adds && values ? (double)values[k] : 0));
	}
	if (!added)
		return values;
	free(values);
	return added;
}

static void check_embed(const tn_snapshot *s, size_t module, const double *w, size_t rows, size_t in, const char *what)
{
	float *y = malloc(in * sizeof *y);
	for (uint32_t id = 0; id < rows; id += 1 + (uint32_t)rows / 50) {
		double top = 0, error = 0;
		tn_snapshot_embed(s, module, &id, 1, NULL, y, in);
		for (size_t i = 0; i < in; i++) {
			top = fmax(top, fabs(w[id * in + i]));
			error = fmax(error, fabs(w[id * in + i] - (double)y[i]));
		}
		if (!(error <= 2e-6 * top))
			fail_msg("%s: row %u is off by %g of %g", what, id, error, top);
	}
	free(y);
}

static int is_conv1d(const char *path)
{
	static const char *const names[] = { "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strlen(path) > strlen(names[i]) && strcmp(path + strlen(path) - strlen(names[i]), names[i]) == 0)
			return 1;
	return 0;
}

/* [in, out] -> [out, in] */
static void turn(double *w, size_t out, size_t in)
{
	double *copy = malloc(out * in * sizeof *copy);
	memcpy(copy, w, out * in * sizeof *copy);
	for (size_t i = 0; i < out; i++)
		for (size_t k = 0; k < in; k++)
			w[i * in + k] = copy[k * out + i];
	free(copy);
}

/* One module of a base with one adapter. */
static void check_module(struct tt *t, const struct live_base *b, const tn_snapshot *s, size_t module,
			 const struct tn_weighted_adapter *adapter, const char *name)
{
	struct tn_module_shape shape;
	char what[1200];
	snprintf(what, sizeof what, "%s, %s", name, tn_live_module_path(b->live, module));
	tn_live_shape(b->live, module, &shape);
	size_t out = (size_t)shape.out_features, in = (size_t)shape.in_features, experts = shape.experts ? (size_t)shape.experts : 1;
	double *w = live_truth(t, b, module, adapter, 1);
	if (is_conv1d(tn_live_module_path(b->live, module)))
		turn(w, out, in);
	float *x = live_x(ROWS, in, 5 + module);
	float *bias = bias_of(t, b, adapter->adapter, module);
	for (size_t e = 0; e < experts; e++)
		for (size_t m = 1; m <= ROWS; m += ROWS - 1) {
			float *y = live_forward(s, b->live, module, e, m, x, NULL);
			double error = live_error(y, x, w + e * out * in, bias ? bias + e * out : NULL, m, out, in);
			if (!(error <= limit))
				fail_msg("%s: expert %zu, %zu rows: off by %g", what, e, m, error);
			free(y);
		}
	check_embed(s, module, w, experts * out, in, what);
	free(bias);
	free(x);
	free(w);
}

/* 1 when the adapter is live, 0 when it is refused as it should be. */
static int check_case(struct tt *t, const char *base, const char *folder, const char *name)
{
	struct live_base b;
	live_open(t, base, &b);
	for (size_t i = 0; i < tn_live_module_count(b.live); i++)
		if (is_conv1d(tn_live_module_path(b.live, i)))
			tt_ok(t, tn_live_transpose(b.live, i, &t->err));
	tn_adapter *adapter = NULL;
	tn_status status = tn_adapter_open(t->ctx, folder, &adapter, &t->err);
	if (status == TN_OK)
		status = tn_live_attach(b.live, "it", adapter, 1, &t->err);
	if (refusal(name)) {
		assert_int_not_equal(status, TN_OK);
		tt_expect_msg(t, refusal(name));
	} else {
		if (status != TN_OK)
			fail_msg("%s: %s", name, t->err.msg);
		struct tn_weighted_adapter one = { adapter, 1 };
		tn_snapshot *s = tn_live_snapshot(b.live);
		for (size_t i = 0; i < tn_live_module_count(b.live); i++)
			check_module(t, &b, s, i, &one, name);
		tn_snapshot_release(s);
		tt_ok(t, tn_live_detach(b.live, "it", &t->err));
	}
	tn_adapter_close(adapter);
	live_close(&b);
	return !refusal(name);
}

static void test_every_case(void **state)
{
	struct tt *t = *state;
	int checked = 0;
	for (int a = 0; a < 2; a++) {
		char path[512], folder[512], base[512];
		const char *name;
		json_t *info;
		snprintf(path, sizeof path, LIVE_DATA "/%s/cases.json", archives[a]);
		json_t *root = json_load_file(path, 0, NULL);
		assert_non_null(root);
		json_object_foreach(json_object_get(root, "cases"), name, info) {
			snprintf(base, sizeof base, LIVE_DATA "/%s/%s", archives[a], json_string_value(json_object_get(info, "base")));
			snprintf(folder, sizeof folder, LIVE_DATA "/%s/%s/%s", archives[a], a ? "adapters" : "cases", name);
			checked += check_case(t, base, folder, name);
		}
		json_decref(root);
	}
	/* which mlx-lm itself refuses */
	checked += check_case(t, LIVE_DATA "/mlx_adapters/models/afm7", LIVE_DATA "/mlx_adapters/errors/afm7_fused_projection", "afm7");
	assert_int_equal(checked, 100);
}

/* Biases of several adapters on one module: each adds its own to that of the base, once. */
static void test_biases_add_up(void **state)
{
	struct tt *t = *state;
	static const char *const names[] = { "one", "half" };
	struct live_base b;
	size_t looked = 0;
	live_open(t, LIVE_DATA "/peft/llama_bias", &b);
	tn_adapter *adapters[2];
	for (int i = 0; i < 2; i++) {
		adapters[i] = live_adapter(t, LIVE_DATA "/peft/cases/lora_b_bias_base");
		tt_ok(t, tn_live_attach(b.live, names[i], adapters[i], i ? 0.5 : 1, &t->err));
	}
	tn_snapshot *s = tn_live_snapshot(b.live);
	for (size_t m = 0; m < tn_live_module_count(b.live); m++) {
		char name[1100];
		uint64_t n;
		snprintf(name, sizeof name, "%s.bias", tn_live_module_path(b.live, m));
		size_t tensor = tn_live_tensor(b.live, name);
		if (tensor == TN_LIVE_NONE)
			continue;
		const float *sum = tn_snapshot_tensor(s, tensor, TN_LIVE_DEFAULT, &n),
			    *base = tn_snapshot_tensor(s, tensor, TN_LIVE_BASE, NULL),
			    *one = tn_snapshot_tensor(s, tensor, tn_snapshot_adapter(s, "one"), NULL);
		for (uint64_t i = 0; i < n; i++) {
			assert_true(fabsf(sum[i] - (base[i] + 1.5f * (one[i] - base[i]))) <= 1e-5f * (1 + fabsf(sum[i])));
			looked += one[i] != base[i];
		}
	}
	assert_true(looked > 0);
	tn_snapshot_release(s);
	live_close(&b);
	tn_adapter_close(adapters[0]);
	tn_adapter_close(adapters[1]);
}

#define EMBED "base_model.model.model.embed_tokens."

/* A DoRA of the table [96, 32] of the base `llama`, without the table itself, which PEFT saves beside it. */
static tn_adapter *embedding_dora(struct tt *t)
{
	static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"use_dora\": true, "
				     "\"target_modules\": [\"embed_tokens\"]}";
	static const char header[] = "{\"" EMBED "lora_embedding_A\":{\"dtype\":\"F32\",\"shape\":[2,96],\"data_offsets\":[0,768]},"
				     "\"" EMBED "lora_embedding_B\":{\"dtype\":\"F32\",\"shape\":[32,2],\"data_offsets\":[768,1024]},"
				     "\"" EMBED "lora_magnitude_vector\":{\"dtype\":\"F32\",\"shape\":[32],\"data_offsets\":[1024,1152]}}";
	const char *folder = tt_path(t, "dora");
	float *data = live_x(1, 288, 8);
	assert_int_equal(mkdir(folder, 0777), 0);
	tt_write_text(tt_path(t, "dora/adapter_config.json"), config);
	tt_write_st(tt_path(t, "dora/adapter_model.safetensors"), header, data, 1152);
	free(data);
	return live_adapter(t, folder);
}

/* A DoRA of an embedding has magnitudes of columns: rows of others in the same call do not see them, nor it lacks them. */
static void test_columns_beside_others(void **state)
{
	struct tt *t = *state;
	struct live_base b;
	struct tn_module_shape shape;
	live_open(t, LIVE_DATA "/peft/llama", &b);
	tn_adapter *adapter = embedding_dora(t);
	tt_ok(t, tn_live_attach_disabled(b.live, "it", adapter, 1, &t->err));
	tn_snapshot *s = tn_live_snapshot(b.live);
	size_t module = tn_live_module(b.live, "model.embed_tokens"), it = tn_snapshot_adapter(s, "it");
	const size_t choice[] = { TN_LIVE_BASE, it, TN_LIVE_DEFAULT, it, TN_LIVE_BASE };
	enum { COUNT = sizeof choice / sizeof *choice };
	tn_live_shape(b.live, module, &shape);
	size_t out = (size_t)shape.out_features, in = (size_t)shape.in_features;
	float *x = live_x(COUNT, in, 3), *y = live_forward(s, b.live, module, 0, COUNT, x, choice);
	for (size_t i = 0; i < COUNT; i++) {
		float *alone = live_forward(s, b.live, module, 0, 1, x + i * in, &choice[i]), top = 0, apart = 0;
		for (size_t k = 0; k < out; k++) {
			top = fmaxf(top, fabsf(alone[k]));
			apart = fmaxf(apart, fabsf(alone[k] - y[i * out + k]));
		}
		if (!(apart <= 1e-5f * top))
			fail_msg("row %zu is off by %g of %g", i, (double)apart, (double)top);
		free(alone);
	}
	free(x);
	free(y);
	tn_snapshot_release(s);
	live_close(&b);
	tn_adapter_close(adapter);
}

/* Tensors that are no modules are at hand as float32 up to a size: larger ones stay where they are, but for those of one dimension. */
static void test_small_tensors(void **state)
{
	static const char header[] =
		"{\"table\":{\"dtype\":\"BF16\",\"shape\":[16,16,16,16],\"data_offsets\":[0,131072]},"
		"\"larger\":{\"dtype\":\"BF16\",\"shape\":[1,1,1,65537],\"data_offsets\":[131072,262146]},"
		"\"line\":{\"dtype\":\"BF16\",\"shape\":[65537],\"data_offsets\":[262146,393220]},"
		"\"model.layers.0.self_attn.q_proj.bias\":{\"dtype\":\"BF16\",\"shape\":[65537,1],\"data_offsets\":[393220,524294]},"
		"\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[524294,524296]}}";
	static const struct {
		const char *name;
		uint64_t elements;   /* 0: not at hand */
	} cases[] = { { "table", 65536 }, { "larger", 0 }, { "line", 65537 }, { "model.layers.0.self_attn.q_proj.bias", 65537 },
		      { "scalar", 1 }, { "none", 0 } };
	static const unsigned char data[524296];
	struct tt *t = *state;
	struct live_base base;
	mkdir(tt_path(t, "base"), 0777);
	tt_write_st(tt_path(t, "base/model.safetensors"), header, data, sizeof data);
	tt_write_text(tt_path(t, "base/config.json"), "{\"model_type\":\"llama\"}");
	live_open(t, tt_path(t, "base"), &base);
	tn_snapshot *s = tn_live_snapshot(base.live);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		size_t tensor = tn_live_tensor(base.live, cases[i].name);
		uint64_t n = 0;
		if ((tensor == TN_LIVE_NONE) != !cases[i].elements)
			fail_msg("'%s' is %sat hand", cases[i].name, tensor == TN_LIVE_NONE ? "not " : "");
		if (tensor != TN_LIVE_NONE)
			assert_non_null(tn_snapshot_tensor(s, tensor, TN_LIVE_DEFAULT, &n));
		assert_int_equal(n, cases[i].elements);
	}
	tn_snapshot_release(s);
	live_close(&base);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(test_small_tensors), TT_TEST(test_every_case), TT_TEST(test_biases_add_up), TT_TEST(test_columns_beside_others) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
