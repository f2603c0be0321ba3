/* SPDX-License-Identifier: Apache-2.0 */
/* mlx-native 0.6.6, src/weight.rs: its tests, by their names there (those of configurations are in
 * test_quant_config.c). */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- a folder of its own --------------------------------------------------------------------------------- */

static char folder[64];

static int enter_folder(void **state)
{
	(void)state;
	strcpy(folder, "test_quantized_weight.XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int leave_folder(void **state)
{
	static const char *const names[] = { "model.safetensors", "quantization_config.json", "config.json" };
	char path[128];
	(void)state;
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		unlink(path);
	}
	return rmdir(folder);
}

static void write_file(const char *name, const void *data, size_t n)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	fclose(f);
}

/* A safetensors file of a header and `bytes` data bytes that count up. */
static void write_safetensors(const char *header, size_t bytes)
{
	static unsigned char file[4096];
	size_t n = strlen(header);
	memset(file, 0, 8);
	file[0] = (unsigned char)n;
	file[1] = (unsigned char)(n >> 8);
	memcpy(file + 8, header, n);
	for (size_t i = 0; i < bytes; i++)
		file[8 + n + i] = (unsigned char)i;
	write_file("model.safetensors", file, 8 + n + bytes);
}

static tn_safetensors *open_file(void)
{
	char path[128];
	tn_safetensors *file = NULL;
	snprintf(path, sizeof path, "%s/model.safetensors", folder);
	OK(tn_safetensors_open(test_context(), path, &file, err));
	return file;
}

#define TWO_TENSORS                                                                                                    \
	"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"                                          \
	"\"b\":{\"dtype\":\"U8\",\"shape\":[128],\"data_offsets\":[24,152]}}"

/* ---- QuantizedWeight ------------------------------------------------------------------------------------- */

static void test_quantized_weight_construction(void **state)
{
	static unsigned char bytes[64];
	const uint64_t shape[] = { 2816, 2816 };
	const struct tn_array packed = { TN_U32, 2, { 4, 4 }, bytes, 64 }, scales = { TN_F16, 2, { 4, 2 }, bytes, 16 };
	tn_quantized_weight *w;
	uint32_t rank;
	(void)state;
	OK(tn_quantized_weight_create(test_context(), "model.layers.0.self_attn.q_proj.weight", 2, shape, TN_F16, 4, 64,
				      &packed, &scales, &scales, &w, err));
	assert_string_equal(tn_quantized_weight_name(w), "model.layers.0.self_attn.q_proj.weight");
	assert_memory_equal(tn_quantized_weight_shape(w, &rank), shape, sizeof shape);
	assert_int_equal(rank, 2);
	assert_int_equal(tn_quantized_weight_dtype(w), TN_F16);
	assert_int_equal(tn_quantized_weight_bits(w), 4);
	assert_int_equal(tn_quantized_weight_group_size(w), 64);
	assert_non_null(tn_quantized_weight_biases(w));
	assert_int_equal(tn_quantized_weight_packed(w)->bytes, 64);
	assert_int_equal(tn_quantized_weight_scales(w)->bytes, 16);
	assert_int_equal(tn_quantized_weight_elements(w), 2816 * 2816);
	assert_int_equal(tn_quantized_weight_groups(w), (2816 + 64 - 1) / 64);
	tn_quantized_weight_destroy(w);
}

static void test_quantized_weight_no_biases(void **state)
{
	static unsigned char bytes[32];
	const uint64_t shape[] = { 128, 128 };
	const struct tn_array packed = { TN_U32, 2, { 4, 2 }, bytes, 32 }, scales = { TN_F16, 2, { 4, 1 }, bytes, 8 };
	tn_quantized_weight *w;
	(void)state;
	OK(tn_quantized_weight_create(test_context(), "test.weight", 2, shape, TN_BF16, 6, 32, &packed, &scales, NULL,
				      &w, err));
	assert_null(tn_quantized_weight_biases(w));
	assert_int_equal(tn_quantized_weight_bits(w), 6);
	assert_int_equal(tn_quantized_weight_groups(w), 4);
	tn_quantized_weight_destroy(w);
	OK(tn_quantized_weight_create(test_context(), "test.weight", 2, shape, TN_BF16, 6, 0, &packed, &scales, NULL,
				      &w, err));
	assert_int_equal(tn_quantized_weight_groups(w), 0);
	tn_quantized_weight_destroy(w);
}

static void test_quantized_weight_debug(void **state)
{
	static unsigned char bytes[16];
	const uint64_t shape[] = { 64 };
	const struct tn_array packed = { TN_U32, 1, { 4 }, bytes, 16 }, scales = { TN_F16, 1, { 2 }, bytes, 4 };
	tn_quantized_weight *w;
	char text[256];
	(void)state;
	OK(tn_quantized_weight_create(test_context(), "test.w", 1, shape, TN_F32, 4, 64, &packed, &scales, NULL, &w,
				      err));
	size_t length = tn_quantized_weight_describe(w, text, sizeof text);
	assert_int_equal(length, strlen(text));
	assert_true(contains(text, "QuantizedWeight") && contains(text, "test.w") && contains(text, "shape: [64]") &&
		    contains(text, "bits: 4") && contains(text, "group_size: 64") &&
		    contains(text, "packed_data_bytes: 16") && contains(text, "scales_bytes: 4") &&
		    contains(text, "has_biases: false"));
	tn_quantized_weight_destroy(w);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static void test_safetensors_dtype_conversion(void **state)
{
	static const char *const names[] = { "F32", "F16", "BF16", "U8", "U16", "U32", "I32" };
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16, TN_U8, TN_U16, TN_U32, TN_I32 };
	(void)state;
	for (int i = 0; i < 7; i++) {
		tn_dtype dtype;
		OK(tn_dtype_from_name(names[i], &dtype, err));
		assert_int_equal(dtype, dtypes[i]);
	}
}

static void test_safetensors_dtype_unsupported(void **state)
{
	struct tn_buffer out;
	(void)state;
	write_safetensors("{\"a\":{\"dtype\":\"BOOL\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
	tn_safetensors *file = open_file();
	FAILS(TN_E_UNSUPPORTED, "BOOL", tn_safetensors_load(file, "a", &out, NULL, err));
	tn_safetensors_close(file);
}

static void test_safetensors_to_metal_buffer_roundtrip(void **state)
{
	struct tn_buffer out;
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	tn_safetensors *file = open_file();
	OK(tn_safetensors_load(file, "a", &out, NULL, err));
	for (int i = 0; i < 24; i++)
		assert_int_equal(((unsigned char *)out.data)[i], i);
	tn_buffer_release(test_context(), &out);
	tn_safetensors_close(file);
}

static void test_safetensors_to_metal_buffer_empty_error(void **state)
{
	struct tn_buffer out;
	(void)state;
	write_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0);
	tn_safetensors *file = open_file();
	FAILS(TN_E_ARG, "empty", tn_safetensors_load(file, "a", &out, NULL, err));
	tn_safetensors_close(file);
}

static void test_safetensors_to_metal_buffer_u8_data(void **state)
{
	struct tn_buffer out;
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	tn_safetensors *file = open_file();
	OK(tn_safetensors_load(file, "b", &out, NULL, err));
	assert_int_equal(out.bytes, 128);
	for (int i = 0; i < 128; i++)
		assert_int_equal(((unsigned char *)out.data)[i], 24 + i);
	tn_buffer_release(test_context(), &out);
	tn_safetensors_close(file);
}

static void test_safetensors_file_open_and_list(void **state)
{
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	tn_safetensors *file = open_file();
	assert_int_equal(tn_safetensors_count(file), 2);
	assert_non_null(tn_safetensors_find(file, "a"));
	assert_non_null(tn_safetensors_find(file, "b"));
	tn_safetensors_close(file);
}

static void test_safetensors_file_load_tensor(void **state)
{
	const struct tn_tensor *t;
	struct tn_buffer out;
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	tn_safetensors *file = open_file();
	OK(tn_safetensors_load(file, "a", &out, &t, err));
	assert_int_equal(t->dtype, TN_F32);
	assert_int_equal(t->shape[0], 2);
	assert_int_equal(t->shape[1], 3);
	assert_int_equal(out.bytes, 24);
	tn_buffer_release(test_context(), &out);
	tn_safetensors_close(file);
}

static void test_safetensors_file_load_all(void **state)
{
	tn_checkpoint *checkpoint;
	tn_weight_map *map;
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	OK(tn_checkpoint_open(test_context(), folder, &checkpoint, err));
	OK(tn_weight_map_load(test_context(), checkpoint, &map, err));
	assert_int_equal(tn_weight_map_count(map), 2);
	map_expect(map, "a", TN_F32, 2, 3, 0);
	tn_weight_map_destroy(map);
	tn_checkpoint_close(checkpoint);
}

static void test_safetensors_file_tensor_not_found(void **state)
{
	struct tn_buffer out;
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	tn_safetensors *file = open_file();
	FAILS(TN_E_NOTFOUND, "nonexistent", tn_safetensors_load(file, "nonexistent", &out, NULL, err));
	tn_safetensors_close(file);
}

static void test_safetensors_file_open_missing(void **state)
{
	tn_safetensors *file;
	(void)state;
	FAILS(TN_E_NOTFOUND, "", tn_safetensors_open(test_context(), "no/such.safetensors", &file, err));
}

/* ---- load_quantized_weights ------------------------------------------------------------------------------ */

static void test_load_quantized_weights_integration(void **state)
{
	tn_quantized_weight **weights;
	size_t count;
	(void)state;
	/* a scales tensor without weight is passed over */
	write_safetensors("{\"proj.weight\":{\"dtype\":\"U32\",\"shape\":[2,4],\"data_offsets\":[0,32]},"
			  "\"proj.scales\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[32,36]},"
			  "\"proj.biases\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[36,40]},"
			  "\"lone.scales\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[40,44]}}",
			  44);
	write_file("quantization_config.json", "{\"bits\": 4, \"group_size\": 64}", 29);
	OK(tn_load_quantized_weights(test_context(), folder, &weights, &count, err));
	assert_int_equal(count, 1);
	assert_string_equal(tn_quantized_weight_name(weights[0]), "proj.weight");
	assert_int_equal(tn_quantized_weight_bits(weights[0]), 4);
	assert_int_equal(tn_quantized_weight_group_size(weights[0]), 64);
	assert_int_equal(tn_quantized_weight_packed(weights[0])->bytes, 32);
	assert_int_equal(tn_quantized_weight_scales(weights[0])->bytes, 4);
	assert_int_equal(((unsigned char *)tn_quantized_weight_biases(weights[0])->data)[0], 36);
	tn_quantized_weights_free(test_context(), weights, count);
}

static void test_load_quantized_weights_no_safetensors(void **state)
{
	tn_quantized_weight **weights;
	size_t count;
	(void)state;
	write_file("quantization_config.json", "{}", 2);
	FAILS(TN_E_NOTFOUND, "No .safetensors files",
	      tn_load_quantized_weights(test_context(), folder, &weights, &count, err));
}

static void test_load_quantized_weights_missing_config(void **state)
{
	tn_quantized_weight **weights;
	size_t count;
	(void)state;
	write_safetensors(TWO_TENSORS, 152);
	FAILS(TN_E_NOTFOUND, "quantization_config",
	      tn_load_quantized_weights(test_context(), folder, &weights, &count, err));
}

static void test_load_quantized_weights_by_config_json(void **state)
{
	static const char text[] = "{\"model_type\": \"x\", \"quantization\": {\"bits\": 8, \"proj\": {\"bits\": 6, \"group_size\": 32}}}";
	tn_quantized_weight **weights;
	size_t count;
	(void)state;
	write_safetensors("{\"a.weight\":{\"dtype\":\"U32\",\"shape\":[2,4],\"data_offsets\":[0,32]},"
			  "\"a.scales\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[32,36]},"
			  "\"proj.scales\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[36,40]},"
			  "\"proj.weight\":{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[40,44]}}",
			  44);
	write_file("config.json", "{\"model_type\": \"x\"}", 19);
	FAILS(TN_E_FORMAT, "quantization", tn_load_quantized_weights(test_context(), folder, &weights, &count, err));
	write_file("config.json", text, strlen(text));
	OK(tn_load_quantized_weights(test_context(), folder, &weights, &count, err));
	assert_int_equal(count, 2);
	assert_int_equal(tn_quantized_weight_bits(weights[0]), 8);
	assert_int_equal(tn_quantized_weight_group_size(weights[0]), 64);
	assert_int_equal(tn_quantized_weight_bits(weights[1]), 6);
	assert_int_equal(tn_quantized_weight_group_size(weights[1]), 32);
	tn_quantized_weights_free(test_context(), weights, count);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, enter_folder, leave_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quantized_weight_construction),
		cmocka_unit_test(test_quantized_weight_no_biases),
		cmocka_unit_test(test_quantized_weight_debug),
		cmocka_unit_test(test_safetensors_dtype_conversion),
		IN_FOLDER(test_safetensors_dtype_unsupported),
		IN_FOLDER(test_safetensors_to_metal_buffer_roundtrip),
		IN_FOLDER(test_safetensors_to_metal_buffer_empty_error),
		IN_FOLDER(test_safetensors_to_metal_buffer_u8_data),
		IN_FOLDER(test_safetensors_file_open_and_list),
		IN_FOLDER(test_safetensors_file_load_tensor),
		IN_FOLDER(test_safetensors_file_load_all),
		IN_FOLDER(test_safetensors_file_tensor_not_found),
		cmocka_unit_test(test_safetensors_file_open_missing),
		IN_FOLDER(test_load_quantized_weights_integration),
		IN_FOLDER(test_load_quantized_weights_no_safetensors),
		IN_FOLDER(test_load_quantized_weights_missing_config),
		IN_FOLDER(test_load_quantized_weights_by_config_json),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
