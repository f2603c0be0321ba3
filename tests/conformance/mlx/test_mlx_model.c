/* SPDX-License-Identifier: Apache-2.0 */
/* Whole-model conversions of the sample by mlx_lm.convert (model/manifest.json): the same tensors, the same
 * config.json, the same bits per weight. */
#include "vectors.h"

#include "store/json_doc.h"
#include "store/json_text.h"
#include "store/st_writer.h"
#include "tenon/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *cases;

/* A model in the middle of a conversion. */
struct model {
	tn_weight_map *map;
	tn_quant_config *config; /* NULL: dense */
	char *config_json;
};

/* What the command line of a case asks for. */
struct request {
	const char *source;
	int quantize, dequantize;
	struct tn_quant_request q;
};

#define OK(call)                                                                                                       \
	do {                                                                                                           \
		struct tn_error err_ = { 0 };                                                                          \
		struct tn_error *err = &err_;                                                                          \
		if ((call) != TN_OK)                                                                                   \
			fail_msg("%s: %s", #call, err_.msg);                                                           \
	} while (0)

static struct request parse_args(const json_t *args)
{
	struct request r = { .q = TN_QUANT_REQUEST_INIT };
	for (size_t i = 0; i < json_array_size(args); i++) {
		const char *arg = json_string_value(json_array_get(args, i));
		const char *value = json_string_value(json_array_get(args, i + 1));
		if (strcmp(arg, "--hf-path") == 0)
			r.source = value;
		else if (strcmp(arg, "-q") == 0)
			r.quantize = 1;
		else if (strcmp(arg, "-d") == 0)
			r.dequantize = 1;
		else if (strcmp(arg, "--q-bits") == 0)
			r.q.q.bits = atoi(value);
		else if (strcmp(arg, "--q-group-size") == 0)
			r.q.q.group_size = atoi(value);
		else if (strcmp(arg, "--q-mode") == 0)
			r.q.q.mode = value;
		else if (strcmp(arg, "--quant-predicate") == 0)
			r.q.recipe = value;
		else if (strcmp(arg, "--dtype") == 0)
			r.q.dtype = strcmp(value, "float32") == 0   ? TN_F32
				    : strcmp(value, "float16") == 0 ? TN_F16
								    : TN_BF16;
	}
	return r;
}

/* ---- conversions ----------------------------------------------------------------------------------------- */

static char *read_all(const char *path)
{
	FILE *f = fopen(path, "rb");
	char *text = calloc(1, 1 << 16);
	assert_non_null(f);
	assert_true(fread(text, 1, (1 << 16) - 1, f) > 0);
	fclose(f);
	return text;
}

/* --dtype: every floating tensor is cast, one rounding. */
static void cast(struct model *m, tn_dtype dtype)
{
	const struct tn_kernels *kernels = tn_kernels_for(NULL);
	if (dtype == TN_DTYPE_COUNT)
		return;
	for (size_t i = 0; i < tn_weight_map_count(m->map); i++) {
		const void *data;
		const struct tn_tensor *t = tn_weight_map_at(m->map, i, &data);
		if (!tn_dtype_is_float(t->dtype))
			continue;
		float *values = malloc(t->elements * 4);
		char *out = malloc(t->elements * 4), name[256];
		uint64_t shape[8];
		struct tn_format from = { .dtype = t->dtype }, to = { .dtype = dtype };
		struct tn_row row = { { data } };
		struct tn_row_out dst = { { out } };
		kernels->codec[TN_CODEC_dense]->decode(values, &row, &from, (size_t)t->elements);
		kernels->codec[TN_CODEC_dense]->encode(&dst, values, &to, (size_t)t->elements);
		snprintf(name, sizeof name, "%s", t->name);
		memcpy(shape, t->shape, t->rank * sizeof *shape);
		OK(tn_weight_map_set(m->map, name, dtype, t->rank, shape, out, err));
		free(values);
		free(out);
	}
}

/* The map as a checkpoint of one file, for the functions that plan over a checkpoint. */
static tn_checkpoint *as_checkpoint(const struct model *m, const char *path)
{
	size_t n = tn_weight_map_count(m->map);
	struct tn_tensor *copies = calloc(n, sizeof *copies), **list = calloc(n, sizeof *list);
	struct tn_st_writer *writer;
	tn_checkpoint *checkpoint = NULL;
	for (size_t i = 0; i < n; i++) {
		copies[i] = *tn_weight_map_at(m->map, i, NULL);
		list[i] = &copies[i];
	}
	unlink(path);
	OK(tn_st_writer_create(test_context(), path, list, n, NULL, 0, 0, &writer, err));
	for (size_t i = 0; i < n; i++) {
		const void *data;
		tn_weight_map_find(m->map, list[i]->name, &data);
		OK(tn_st_writer_put(writer, list[i], 0, data, (size_t)list[i]->bytes, err));
	}
	OK(tn_st_writer_finish(writer, err));
	free(copies);
	free(list);
	OK(tn_checkpoint_open(test_context(), path, &checkpoint, err));
	return checkpoint;
}

static int in_plan(void *user, const char *layer, const struct tn_tensor *weight)
{
	const struct tn_quant_layer *l = tn_quant_plan_find(user, layer);
	(void)weight;
	return l && !l->skipped;
}

static void write_config(struct model *m)
{
	struct tn_buffer text;
	OK(tn_quant_config_write(test_context(), m->config_json, m->config, &text, err));
	free(m->config_json);
	m->config_json = strdup(text.data);
	tn_buffer_release(test_context(), &text);
}

static void quantize(struct model *m, const struct request *r, const char *name, const char *expected_bits)
{
	char path[64], bits[32];
	tn_quant_plan *plan;
	tn_quant_config *kept;
	snprintf(path, sizeof path, "test_mlx_model_%d.safetensors", (int)getpid());
	tn_checkpoint *checkpoint = as_checkpoint(m, path);
	OK(tn_quant_plan_create(test_context(), checkpoint, m->config, &r->q, &plan, err));
	snprintf(bits, sizeof bits, "%.3f", tn_quant_plan_bits_per_weight(plan));
	if (expected_bits && strcmp(bits, expected_bits) != 0)
		fail_msg("%s: %s bits per weight, mlx-lm says %s", name, bits, expected_bits);
	struct tn_quantize_options options = { .eligible = in_plan, .user = plan };
	OK(tn_quantize_weights(m->map, tn_quant_plan_config(plan), &options, err));
	tn_quant_config_destroy(m->config);
	/* the plan's configuration, by way of its text, so that what is written is also what is read */
	struct tn_buffer text;
	OK(tn_quant_config_write(test_context(), m->config_json, tn_quant_plan_config(plan), &text, err));
	OK(tn_quant_config_parse(test_context(), text.data, &kept, err));
	tn_buffer_release(test_context(), &text);
	m->config = kept;
	tn_quant_plan_destroy(plan);
	tn_checkpoint_close(checkpoint);
	unlink(path);
}

static void dequantize(struct model *m)
{
	struct tn_dequantize_options options = { .dtype = (tn_dtype)TN_DTYPE_COUNT, .like_mlx = 1 };
	if (m->config)
		OK(tn_dequantize_weights(m->map, m->config, &options, err));
	tn_quant_config_destroy(m->config);
	m->config = NULL;
}

static void convert(struct model *m, const char *name)
{
	const json_t *c = json_object_get(cases, name);
	struct request r = parse_args(json_object_get(c, "args"));
	if (strcmp(r.source, "sample/base") == 0) {
		tn_checkpoint *base;
		OK(tn_checkpoint_open(test_context(), TN_TEST_EXAMPLES "/base", &base, err));
		OK(tn_weight_map_load(test_context(), base, &m->map, err));
		tn_checkpoint_close(base);
		m->config_json = read_all(TN_TEST_EXAMPLES "/base/config.json");
	} else {
		convert(m, strrchr(r.source, '/') + 1);
	}
	cast(m, r.q.dtype);
	if (r.quantize)
		quantize(m, &r, name, json_string_value(json_object_get(c, "bits_per_weight")));
	if (r.dequantize)
		dequantize(m);
	write_config(m);
}

/* ---- comparing ------------------------------------------------------------------------------------------- */

static void compare_tensors(const struct model *m, const char *name, const json_t *expected)
{
	const char *key;
	json_t *value;
	assert_int_equal(tn_weight_map_count(m->map), json_object_size(expected));
	json_object_foreach((json_t *)(uintptr_t)expected, key, value) {
		const void *data = NULL;
		char hex[65];
		const struct tn_tensor *t = tn_weight_map_find(m->map, key, &data);
		const json_t *shape = json_array_get(value, 1);
		if (!t)
			fail_msg("%s: there is no %s", name, key);
		assert_string_equal(tn_dtype_name(t->dtype), json_string_value(json_array_get(value, 0)));
		assert_int_equal(t->rank, json_array_size(shape));
		for (uint32_t i = 0; i < t->rank; i++)
			assert_int_equal(t->shape[i], json_integer_value(json_array_get(shape, i)));
		sha256_hex(data, (size_t)t->bytes, hex);
		if (strcmp(hex, json_string_value(json_array_get(value, 2))) != 0)
			fail_msg("%s: %s has other bytes than mlx-lm's", name, key);
	}
}

static void compare_config(const struct model *m, const char *name, const json_t *expected)
{
	static const struct tn_json_style style = { .indent = 4, .ascii = 1, .sort_keys = 1 };
	struct tn_text text;
	tn_text_init(&text, test_context());
	OK(tn_json_add_value(&text, expected, &style, err));
	if (strcmp(text.data, m->config_json) != 0)
		fail_msg("%s: config.json is\n%s\nmlx-lm's is\n%s", name, m->config_json, text.data);
	tn_text_release(&text);
}

static void model_release(struct model *m)
{
	tn_weight_map_destroy(m->map);
	tn_quant_config_destroy(m->config);
	free(m->config_json);
}

static void test_conversions(void **state)
{
	const char *name;
	json_t *c;
	int compared = 0;
	(void)state;
	json_object_foreach(cases, name, c) {
		struct model m = { 0 };
		if (json_integer_value(json_object_get(c, "status")) != 0 || !json_object_get(c, "tensors"))
			continue;
		convert(&m, name);
		compare_tensors(&m, name, json_object_get(c, "tensors"));
		compare_config(&m, name, json_object_get(c, "config"));
		model_release(&m);
		compared++;
	}
	print_message("%d conversions compared, of %zu cases\n", compared, json_object_size(cases));
	assert_true(compared > 40);
}

/* Refusals that are the plan's to make; the others are the command's. */
static void test_refusals(void **state)
{
	static const char *const names[] = { "bad_bits_7",       "bad_group_16",  "bad_group_48",   "bad_group_256",
					     "bad_mxfp4_bits_8", "bad_mxfp8_g64", "bad_recipe_mode" };
	tn_checkpoint *base;
	(void)state;
	OK(tn_checkpoint_open(test_context(), TN_TEST_EXAMPLES "/base", &base, err));
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const json_t *c = json_object_get(cases, names[i]);
		struct request r = parse_args(json_object_get(c, "args"));
		struct tn_error err;
		tn_quant_plan *plan;
		assert_int_equal(tn_quant_plan_create(test_context(), base, NULL, &r.q, &plan, &err), TN_E_ARG);
		const char *expected = json_string_value(json_object_get(c, "error"));
		assert_string_equal(err.msg, expected + strlen("ValueError: "));
	}
	tn_checkpoint_close(base);
}

static void test_config_text(void **state)
{
	struct model m = { 0 };
	(void)state;
	convert(&m, "q4_g64");
	char *expected = read_all(TN_TEST_VECTORS "/model/q4_g64/config.json");
	assert_string_equal(m.config_json, expected);
	free(expected);
	model_release(&m);
}

int main(void)
{
	struct tn_error err;
	json_t *manifest;
	if (tn_json_load(test_context(), TN_TEST_VECTORS "/model/manifest.json", &manifest, &err) != TN_OK) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	cases = json_object_get(manifest, "cases");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_conversions),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_config_text),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	json_decref(manifest);
	return failed;
}
