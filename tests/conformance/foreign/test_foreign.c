/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints that other libraries wrote (foreign.tar.xz): what `dequantize --dtype float32` makes of each is exactly the
 * weight that its library means; of the damaged ones nothing is made, and the error names the tensor or key. */
#include "tenon/foreign.h"
#include "tenon/recode.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static json_t *manifest;
static char work[] = "/tmp/tenon-foreign-XXXXXX";
static char warned[1024]; /* the last warning */

static void remember(void *user, tn_log_level level, const char *message)
{
	(void)user;
	if (level == TN_LOG_WARNING)
		snprintf(warned, sizeof warned, "%s", message);
}

static tn_context *context(unsigned threads, uint64_t budget, const char *isa)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx;
	options.log = remember;
	options.threads = threads;
	options.memory_budget_bytes = budget;
	options.isa = isa;
	return tn_context_create(&options, &ctx, NULL) == TN_OK ? ctx : NULL;
}

/* ---- one folder ------------------------------------------------------------------------------------------ */

static tn_status recode(tn_context *ctx, const char *folder, const struct tn_recode_request *request, const char *out,
			struct tn_error *err)
{
	tn_checkpoint *base;
	tn_recode *plan = NULL;
	warned[0] = '\0';
	tn_status status = tn_checkpoint_open(ctx, folder, &base, err);
	if (status != TN_OK)
		return status;
	status = tn_recode_plan(ctx, base, request, &plan, err);
	if (status == TN_OK)
		status = tn_recode_run(plan, out, 1, err);
	tn_recode_free(plan);
	tn_checkpoint_close(base);
	return status;
}

static tn_status dequantize(tn_context *ctx, const char *folder, const char *out, struct tn_error *err)
{
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	char path[1024];
	request.dequantize = 1;
	request.dtype = TN_F32;
	snprintf(path, sizeof path, "%s/%s", TN_TEST_VECTORS, folder);
	return recode(ctx, path, &request, out, err);
}

static tn_safetensors *open_file(tn_context *ctx, const char *folder, const char *name)
{
	char path[1024];
	struct tn_error err;
	tn_safetensors *file = NULL;
	snprintf(path, sizeof path, "%s/%s", folder, name);
	if (tn_safetensors_open(ctx, path, &file, &err) != TN_OK)
		fail_msg("%s", err.msg);
	return file;
}

static void compare(tn_context *ctx, const char *folder, const tn_safetensors *got, const tn_safetensors *want,
		    const char *module)
{
	char name[512];
	struct tn_buffer a, b;
	const struct tn_tensor *t, *u;
	struct tn_error err;
	snprintf(name, sizeof name, "%s.weight", module);
	assert_int_equal(tn_safetensors_load(want, name, &b, &u, &err), TN_OK);
	const char *stored = tn_safetensors_find(got, name) ? name : module; /* stacked FP8 experts have no .weight */
	if (tn_safetensors_load(got, stored, &a, &t, &err) != TN_OK)
		fail_msg("%s: %s", folder, err.msg);
	if (t->dtype != TN_F32 || t->rank != u->rank || memcmp(t->shape, u->shape, t->rank * sizeof *t->shape) != 0)
		fail_msg("%s: another dtype or shape of '%s'", folder, name);
	const float *x = a.data, *y = b.data;
	for (size_t i = 0; i < t->elements; i++)
		if (x[i] != y[i] && !(isnan(x[i]) && isnan(y[i])))
			fail_msg("%s: value %zu of '%s' is %.9g, %.9g was expected", folder, i, name, (double)x[i], (double)y[i]);
	tn_buffer_release(ctx, &a);
	tn_buffer_release(ctx, &b);
}

/* What is no part of a module is there as it was, and nothing else is. */
static void check_rest(tn_context *ctx, const json_t *entry, const tn_safetensors *got)
{
	const json_t *modules = json_object_get(entry, "modules");
	char path[1024];
	size_t kept = 0;
	snprintf(path, sizeof path, "%s/%s", TN_TEST_VECTORS, json_string_value(json_object_get(entry, "folder")));
	tn_safetensors *base = open_file(ctx, path, "model.safetensors");
	for (size_t i = 0; i < tn_safetensors_count(base); i++) {
		const struct tn_tensor *t = tn_safetensors_at(base, i), *found = tn_safetensors_find(got, t->name);
		size_t n = strlen(t->name);
		int is_bias = n > 5 && strcmp(t->name + n - 4, "bias") == 0;
		int is_plain = strstr(t->name, "norm.weight") || strstr(t->name, "embed_tokens") || strstr(t->name, "lm_head");
		kept += is_bias || is_plain;
		if ((is_bias || is_plain) && (!found || found->elements != t->elements))
			fail_msg("%s: '%s' is lost", path, t->name);
	}
	if (tn_safetensors_count(got) != kept + json_object_size(modules))
		fail_msg("%s: %zu tensors, %zu were expected", path, tn_safetensors_count(got), kept + json_object_size(modules));
	tn_safetensors_close(base);
}

static void check_config(const char *folder, const char *out)
{
	static const char *const others[] = { "quantize_config.json", "quant_config.json", "hf_quant_config.json" };
	char path[1024];
	snprintf(path, sizeof path, "%s/config.json", out);
	json_t *config = json_load_file(path, 0, NULL);
	assert_non_null(config);
	if (json_object_get(config, "quantization_config") || !json_object_get(config, "model_type"))
		fail_msg("%s: config.json still speaks of a quantization", folder);
	json_decref(config);
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", out, others[i]);
		if (access(path, F_OK) == 0)
			fail_msg("%s: %s was copied", folder, others[i]);
	}
}

/* `folder` must give what stands in the expect file of `entry`. */
static void check_folder(tn_context *ctx, const json_t *entry, const char *folder)
{
	const char *module, *own = json_string_value(json_object_get(entry, "folder"));
	char out[64], expected[1024];
	const json_t *value;
	struct tn_error err;
	snprintf(out, sizeof out, "%s/out", work);
	snprintf(expected, sizeof expected, "%s/%s", TN_TEST_VECTORS, own);
	if (dequantize(ctx, folder, out, &err) != TN_OK)
		fail_msg("%s: %s", folder, err.msg);
	tn_safetensors *got = open_file(ctx, out, "model.safetensors"), *want = open_file(ctx, expected, "expect.safetensors");
	json_object_foreach(json_object_get(entry, "modules"), module, value)
		compare(ctx, folder, got, want, module);
	check_rest(ctx, entry, got);
	check_config(folder, out);
	tn_safetensors_close(got);
	tn_safetensors_close(want);
}

/* ---- tests ----------------------------------------------------------------------------------------------- */

static void check_all(tn_context *ctx)
{
	const json_t *entry, *folders = json_object_get(manifest, "folders");
	size_t i;
	json_array_foreach(folders, i, entry)
		check_folder(ctx, entry, json_string_value(json_object_get(entry, "folder")));
	assert_int_equal(json_array_size(folders), 113 + 28);
	tn_context_destroy(ctx);
}

static void every_format_decodes_exactly(void **state)
{
	(void)state;
	check_all(context(1, 0, NULL));
}

/* The least memory that is enough cuts blocks of a few rows. */
static void small_blocks_and_threads_change_nothing(void **state)
{
	const json_t *entry;
	struct tn_error err;
	char out[64];
	size_t i;
	(void)state;
	snprintf(out, sizeof out, "%s/out", work);
	json_array_foreach(json_object_get(manifest, "folders"), i, entry) {
		const char *folder = json_string_value(json_object_get(entry, "folder"));
		tn_status status = TN_E_NOMEM;
		for (uint64_t budget = 2048; status == TN_E_NOMEM; budget += budget / 4) {
			tn_context *ctx = context(3, budget, NULL);
			status = dequantize(ctx, folder, out, &err);
			if (status == TN_OK)
				check_folder(ctx, entry, folder);
			tn_context_destroy(ctx);
		}
		if (status != TN_OK)
			fail_msg("%s: %s", folder, err.msg);
	}
}

static void plain_c_gives_the_same(void **state)
{
	(void)state;
	check_all(context(1, 0, "portable"));
}

static const json_t *entry_of(const char *folder)
{
	const json_t *entry;
	size_t i;
	json_array_foreach(json_object_get(manifest, "folders"), i, entry)
		if (strcmp(json_string_value(json_object_get(entry, "folder")), folder) == 0)
			return entry;
	fail_msg("%s is no folder", folder);
	return NULL;
}

/* Damage that need not be refused: what is done instead. The others must be. */
static const struct {
	const char *name;
	int same_as_base;      /* decoded like the sound one */
	const char *warning;   /* and said */
} tolerated[] = {
	{ "bad/gptq_g_idx_negative", 1, NULL },  /* counted from the end, as torch does */
	{ "bad/gptq_v1_marked_v2_sym", 1, "labelled GPTQ v2" },
	{ "bad/gptq_v2_marked_v1_sym", 1, "labelled GPTQ v1" },
	{ "bad/gptq_v1_marked_v2_asym", 0, NULL }, /* cannot be seen */
	{ "bad/bnb_shape_swapped", 0, NULL },      /* cannot be seen */
	{ "bad/gptq_scales_nan", 0, NULL },        /* NaN in, NaN out */
	{ "bad/gptq_autogptq_zero_of_0", 0, "zero points of 0" },
	{ "bad/bnb_no_config", 1, NULL },          /* the names of the tensors say it */
};

static void check_damaged(tn_context *ctx, const json_t *bad)
{
	const char *folder = json_string_value(json_object_get(bad, "folder"));
	char out[64];
	struct tn_error err = { .code = TN_OK };
	snprintf(out, sizeof out, "%s/out", work);
	for (size_t i = 0; i < sizeof tolerated / sizeof *tolerated; i++) {
		if (strcmp(folder, tolerated[i].name) != 0)
			continue;
		assert_int_equal(dequantize(ctx, folder, out, &err), TN_OK);
		if (tolerated[i].warning && !strstr(warned, tolerated[i].warning))
			fail_msg("%s: said \"%s\"", folder, warned);
		if (tolerated[i].same_as_base)
			check_folder(ctx, entry_of(json_string_value(json_object_get(bad, "base"))), folder);
		return;
	}
	tn_status status = dequantize(ctx, folder, out, &err);
	if (status != TN_E_FORMAT && status != TN_E_MISMATCH && status != TN_E_NOTFOUND && status != TN_E_UNSUPPORTED &&
	    status != TN_E_LIMIT)
		fail_msg("%s: %s: %s", folder, tn_status_name(status), err.msg);
	if (!err.where[0] || !(strchr(err.msg, '\'') || strchr(err.msg, '`')))
		fail_msg("%s: names nothing: %s", folder, err.msg);
}

static void damaged_ones_are_refused(void **state)
{
	const json_t *bad, *all = json_object_get(manifest, "bad");
	tn_context *ctx = context(1, 0, NULL);
	size_t i;
	(void)state;
	json_array_foreach(all, i, bad)
		check_damaged(ctx, bad);
	assert_int_equal(json_array_size(all), 77);
	tn_context_destroy(ctx);
}

/* Two groups of 128 in a row have the shapes of one of 256, which AutoAWQ reads -1 as; padding that is not zero tells. */
static void awq_of_another_group_size_is_refused(void **state)
{
	static const char *const folders[] = { "awq_gemv_g128", "awq_gemv_fast_g128" };
	static const int sizes[] = { -1, 256 };
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	tn_context *ctx = context(1, 0, NULL);
	(void)state;
	request.dequantize = 1;
	for (size_t i = 0; i < 4; i++) {
		char from[1024], folder[64], path[1024], out[64];
		struct tn_error err = { .code = TN_OK };
		snprintf(folder, sizeof folder, "%s/group-%zu", work, i);
		snprintf(out, sizeof out, "%s/out", work);
		assert_int_equal(mkdir(folder, 0777), 0);
		snprintf(from, sizeof from, "%s/%s/model.safetensors", TN_TEST_VECTORS, folders[i / 2]);
		snprintf(path, sizeof path, "%s/model.safetensors", folder);
		assert_int_equal(symlink(from, path), 0);
		snprintf(from, sizeof from, "%s/%s/config.json", TN_TEST_VECTORS, folders[i / 2]);
		snprintf(path, sizeof path, "%s/config.json", folder);
		json_t *config = json_load_file(from, 0, NULL);
		json_object_set_new(json_object_get(config, "quantization_config"), "group_size", json_integer(sizes[i % 2]));
		assert_int_equal(json_dump_file(config, path, 0), 0);
		json_decref(config);
		assert_int_equal(recode(ctx, folder, &request, out, &err), TN_E_MISMATCH);
		assert_non_null(strstr(err.msg, "scales of 2 groups"));
		assert_string_equal(err.where, "group_size");
	}
	tn_context_destroy(ctx);
}

/* What MLX can hold. */
static int has_mlx_form(const json_t *entry)
{
	static const char *const none[] = { "bnb_", "fp8_block_1", "fp8_block_8", "fp8_w", "fp8_s", "fp8_c", "fp8_e", "fp8_m", "fp8_a", "ct_fp8", "ct_nvfp4",
					    "ct_mxfp6", "ct_llama_fp8", "modelopt", "ct_old_int4_g_idx",
					    "ct_pack_int4_channel", "ct_pack_int3_channel", "gptq_gqm_p_b7",
					    "ct_pack_int4_g128_asym", "fbgemm", "auto_round_gptqmodel_b7" };
	const char *folder = json_string_value(json_object_get(entry, "folder"));
	if (strrchr(folder, '/')) /* of foreign_more */
		folder = strrchr(folder, '/') + 1;
	for (size_t i = 0; i < sizeof none / sizeof *none; i++)
		if (strncmp(folder, none[i], strlen(none[i])) == 0)
			return 0;
	return !strstr(folder, "_act");
}

/* As an MLX model, and back: the values are the same. Where MLX has no such layout that is said, and quantizing anew works. */
static void check_to_mlx(tn_context *ctx, const json_t *entry)
{
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT, back = TN_RECODE_REQUEST_INIT;
	const char *module, *folder = json_string_value(json_object_get(entry, "folder"));
	char base[1024], mlx[64], dense[64];
	const json_t *value;
	struct tn_error err;
	snprintf(base, sizeof base, "%s/%s", TN_TEST_VECTORS, folder);
	snprintf(mlx, sizeof mlx, "%s/mlx", work);
	snprintf(dense, sizeof dense, "%s/out", work);
	request.to_mlx = request.mlx_folder = back.dequantize = 1;
	back.dtype = TN_F32;
	tn_status status = recode(ctx, base, &request, mlx, &err);
	if (status != (has_mlx_form(entry) ? TN_OK : TN_E_UNSUPPORTED))
		fail_msg("%s: %s: %s", folder, tn_status_name(status), err.msg);
	if (status != TN_OK) {
		request.requantize = 1;
		if (recode(ctx, base, &request, mlx, &err) != TN_OK)
			fail_msg("%s: %s", folder, err.msg);
		return;
	}
	if (recode(ctx, mlx, &back, dense, &err) != TN_OK)
		fail_msg("%s: %s", folder, err.msg);
	tn_safetensors *got = open_file(ctx, dense, "model.safetensors"), *want = open_file(ctx, base, "expect.safetensors");
	json_object_foreach(json_object_get(entry, "modules"), module, value)
		compare(ctx, folder, got, want, module);
	tn_safetensors_close(got);
	tn_safetensors_close(want);
}

static void mlx_form_has_the_same_values(void **state)
{
	tn_context *ctx = context(2, 0, NULL);
	const json_t *entry;
	size_t i;
	(void)state;
	json_array_foreach(json_object_get(manifest, "folders"), i, entry)
		check_to_mlx(ctx, entry);
	tn_context_destroy(ctx);
}

/* What mlx-lm makes of a gemm checkpoint on load; of group_size -1 tenon takes the size that the shapes say. */
static void check_mlx(tn_context *ctx, const char *folder, const char *module)
{
	static const char *const suffixes[] = { "weight", "scales", "biases" };
	struct tn_awq_config config = TN_AWQ_CONFIG_INIT;
	char path[1024], name[512];
	struct tn_error err;
	tn_weight_map *map;
	tn_checkpoint *c;
	snprintf(path, sizeof path, "%s/%s", TN_TEST_VECTORS, folder);
	assert_int_equal(tn_checkpoint_open(ctx, path, &c, &err), TN_OK);
	assert_int_equal(tn_weight_map_load(ctx, c, &map, &err), TN_OK);
	snprintf(name, sizeof name, "%s.qweight", module);
	uint64_t columns = tn_weight_map_find(map, name, NULL)->shape[0];
	snprintf(name, sizeof name, "%s.scales", module);
	config.group_size = (int64_t)(columns / tn_weight_map_find(map, name, NULL)->shape[0]);
	if (tn_transform_awq_weights(map, &config, NULL, &err) != TN_OK)
		fail_msg("%s: %s", folder, err.msg);
	tn_safetensors *want = open_file(ctx, path, "expect.safetensors");
	for (int i = 0; i < 3; i++) {
		struct tn_buffer expected;
		const void *got;
		snprintf(name, sizeof name, "%s.mlx.%s", module, suffixes[i]);
		assert_int_equal(tn_safetensors_load(want, name, &expected, NULL, &err), TN_OK);
		snprintf(name, sizeof name, "%s.%s", module, suffixes[i]);
		assert_int_equal(tn_weight_map_find(map, name, &got)->bytes, expected.bytes);
		assert_memory_equal(got, expected.data, expected.bytes);
		tn_buffer_release(ctx, &expected);
	}
	tn_safetensors_close(want);
	tn_weight_map_destroy(map);
	tn_checkpoint_close(c);
}

static void awq_gemm_becomes_what_mlx_lm_makes_of_it(void **state)
{
	tn_context *ctx = context(1, 0, NULL);
	const json_t *entry, *value;
	const char *module;
	size_t i, seen = 0;
	(void)state;
	json_array_foreach(json_object_get(manifest, "folders"), i, entry) {
		const char *folder = json_string_value(json_object_get(entry, "folder"));
		if (strncmp(folder, "awq_gemm_", 9) != 0)
			continue;
		seen++;
		json_object_foreach(json_object_get(entry, "modules"), module, value)
			check_mlx(ctx, folder, module);
	}
	assert_int_equal(seen, 4);
	tn_context_destroy(ctx);
}

/* ---- memory that ends ------------------------------------------------------------------------------------ */

struct heap {
	long left;       /* allocations that succeed */
	long held;
};

static void *take(void *user, size_t bytes)
{
	struct heap *heap = user;
	if (heap->left-- <= 0)
		return NULL;
	heap->held++;
	return malloc(bytes);
}

static void *resize(void *user, void *ptr, size_t old_bytes, size_t new_bytes)
{
	struct heap *heap = user;
	(void)old_bytes;
	return heap->left-- > 0 ? realloc(ptr, new_bytes) : NULL;
}

static void give(void *user, void *ptr, size_t bytes)
{
	(void)bytes;
	((struct heap *)user)->held--;
	free(ptr);
}

/* The n-th allocation fails, for every n: nothing is held then, and the status is TN_E_NOMEM. */
static void every_allocation_may_fail(void **state)
{
	static const char *const folders[] = { "gptq_gqm_v1_b4_g32_asym_act", "bnb_nf4_b64_dq_u8_bf16_33x65", "ct_pack_int4_g32_asym",
					       "awq_gemm_g128", "awq_gemv_fast_g128", "gptoss_mxfp4" };
	char out[64];
	struct tn_error err;
	(void)state;
	snprintf(out, sizeof out, "%s/out", work);
	for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
		tn_status status = TN_E_NOMEM;
		for (long n = 0; status == TN_E_NOMEM; n++) {
			struct heap heap = { n, 0 };
			struct tn_options options = TN_OPTIONS_INIT;
			tn_context *ctx;
			options.threads = 1;
			options.allocator = (struct tn_allocator){ take, resize, give, &heap };
			status = tn_context_create(&options, &ctx, &err);
			if (status != TN_OK)
				continue;
			status = dequantize(ctx, folders[i], out, &err);
			tn_context_destroy(ctx);
			if (heap.held != 0)
				fail_msg("%s: %ld pieces are held after allocation %ld failed", folders[i], heap.held, n);
		}
		if (status != TN_OK)
			fail_msg("%s: %s", folders[i], err.msg);
	}
}

/* The same tensors and bytes as bitsandbytes; from what was quantized before too; and read back. */
static void nf4_is_that_of_bitsandbytes(void **state)
{
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	char out[64], again[64];
	struct tn_error err;
	(void)state;
	snprintf(out, sizeof out, "%s/nf4", work);
	snprintf(again, sizeof again, "%s/nf4-again", work);
	request.to_nf4 = 1;
	for (unsigned threads = 1; threads < 4; threads += 2) {
		tn_context *ctx = context(threads, threads == 1 ? 0 : 130000, NULL);
		if (recode(ctx, TN_TEST_VECTORS "/../nf4", &request, out, &err) != TN_OK ||
		    recode(ctx, out, &request, again, &err) != TN_OK)
			fail_msg("%s", err.msg);
		tn_safetensors *want = open_file(ctx, TN_TEST_VECTORS "/../nf4", "expect.safetensors");
		tn_safetensors *got = open_file(ctx, out, "model.safetensors"), *second = open_file(ctx, again, "model.safetensors");
		assert_int_equal(tn_safetensors_count(got), tn_safetensors_count(want));
		for (size_t i = 0; i < tn_safetensors_count(want); i++) {
			struct tn_buffer a, b, c;
			const struct tn_tensor *t = tn_safetensors_at(want, i), *u, *v;
			assert_int_equal(tn_safetensors_load(want, t->name, &a, &t, &err), TN_OK);
			if (tn_safetensors_load(got, t->name, &b, &u, &err) != TN_OK)
				fail_msg("%s", err.msg);
			assert_int_equal(tn_safetensors_load(second, t->name, &c, &v, &err), TN_OK);
			if (t->dtype != u->dtype || t->rank != u->rank || a.bytes != b.bytes || memcmp(a.data, b.data, a.bytes) != 0)
				fail_msg("'%s' is not what bitsandbytes writes", t->name);
			if (c.bytes != b.bytes || (!strstr(t->name, "absmax") && memcmp(b.data, c.data, b.bytes) != 0))
				fail_msg("'%s' changes when it is quantized again", t->name);
			tn_buffer_release(ctx, &a);
			tn_buffer_release(ctx, &b);
			tn_buffer_release(ctx, &c);
		}
		tn_safetensors_close(second);
		tn_safetensors_close(got);
		tn_safetensors_close(want);
		tn_context_destroy(ctx);
	}
	request.quantize = 1;
	tn_context *ctx = context(1, 0, NULL);
	assert_int_equal(recode(ctx, TN_TEST_VECTORS "/../nf4", &request, out, &err), TN_E_ARG);
	tn_context_destroy(ctx);
}

static int set_up(void **state)
{
	(void)state;
	manifest = json_load_file(TN_TEST_VECTORS "/manifest.json", 0, NULL);
	json_t *more = json_load_file(TN_TEST_VECTORS "/../foreign_more/manifest.json", 0, NULL);
	json_array_extend(json_object_get(manifest, "folders"), json_object_get(more, "folders"));
	json_decref(more);
	return manifest && mkdtemp(work) ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[128];
	(void)state;
	json_decref(manifest);
	snprintf(command, sizeof command, "rm -rf '%s'", work);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_format_decodes_exactly),
		cmocka_unit_test(small_blocks_and_threads_change_nothing),
		cmocka_unit_test(plain_c_gives_the_same),
		cmocka_unit_test(damaged_ones_are_refused),
		cmocka_unit_test(awq_of_another_group_size_is_refused),
		cmocka_unit_test(mlx_form_has_the_same_values),
		cmocka_unit_test(every_allocation_may_fail),
		cmocka_unit_test(awq_gemm_becomes_what_mlx_lm_makes_of_it),
		cmocka_unit_test(nf4_is_that_of_bitsandbytes),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
