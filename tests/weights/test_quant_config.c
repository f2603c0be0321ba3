/* SPDX-License-Identifier: Apache-2.0 */
/* Quantization configurations. Tests named after mlxrs (src/lm/quant/tests.rs) and mlx-native (src/weight.rs) keep the
 * name they have there. */
#include "support.h"

#include <string.h>

static void expect(const tn_quant_config *config, const char *layer, tn_quant_choice choice, int32_t group_size,
		   int32_t bits, const char *mode)
{
	struct tn_quantization q = { 0 };
	assert_int_equal(tn_quant_config_for_layer(config, layer, &q), choice);
	if (choice < TN_QUANT_GLOBAL)
		return;
	assert_int_equal(q.group_size, group_size);
	assert_int_equal(q.bits, bits);
	assert_string_equal(q.mode, mode);
}

static void expect_tensor(const tn_quant_config *config, const char *tensor, int32_t bits, int32_t group_size)
{
	struct tn_quantization q = { 0 };
	assert_true(tn_quant_config_for_tensor(config, tensor, &q) >= TN_QUANT_GLOBAL);
	assert_int_equal(q.bits, bits);
	assert_int_equal(q.group_size, group_size);
}

/* ---- mlxrs ----------------------------------------------------------------------------------------------- */

static void quantization_parses_minimal_block(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse("{\"quantization\": {\"group_size\": 64, \"bits\": 4}}");
	assert_int_equal(tn_quant_config_count(c), 0);
	expect(c, "any", TN_QUANT_GLOBAL, 64, 4, "affine");
	tn_quant_config_destroy(c);
}

static void quantization_parses_mode_explicit(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse("{\"quantization\": {\"group_size\": 32, \"bits\": 4, \"mode\": \"mxfp4\"}}");
	expect(c, "any", TN_QUANT_GLOBAL, 32, 4, "mxfp4");
	tn_quant_config_destroy(c);
}

static void quantization_parses_per_layer_overrides(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse(
		"{\"quantization\": {\"group_size\": 64, \"bits\": 8, \"model.embed_tokens\": "
		"{\"group_size\": 32, \"bits\": 4}, \"model.layers.0.self_attn.q_norm\": false}}");
	assert_int_equal(tn_quant_config_count(c), 2);
	expect(c, "model.embed_tokens", TN_QUANT_LAYER, 32, 4, "affine");
	expect(c, "model.layers.0.self_attn.q_norm", TN_QUANT_SKIP, 0, 0, NULL);
	expect(c, "model.layers.0.mlp", TN_QUANT_GLOBAL, 64, 8, "affine");
	tn_quant_config_destroy(c);
}

static void quantization_ignores_legacy_hf_keys(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse(
		"{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"quant_method\": \"x\", "
		"\"linear_class\": \"y\", \"quantization_mode\": \"z\"}}");
	assert_int_equal(tn_quant_config_count(c), 0);
	tn_quant_config_destroy(c);
}

static void quantization_absent_returns_none(void **state)
{
	(void)state;
	assert_null(config_parse("{\"model_type\": \"llama\"}"));
	assert_null(config_parse("{\"quantization\": null}"));
}

static void fails(tn_status code, const char *text, const char *json)
{
	tn_quant_config *c;
	FAILS(code, text, tn_quant_config_parse(test_context(), json, &c, err));
}

static void quantization_invalid_json_errors(void **state)
{
	(void)state;
	fails(TN_E_FORMAT, "could not parse", "{not json");
}

static void quantization_missing_bits_errors(void **state)
{
	(void)state;
	fails(TN_E_FORMAT, "`quantization` block is missing required key `bits`",
	      "{\"quantization\": {\"group_size\": 64}}");
}

static void quantization_missing_group_size_errors(void **state)
{
	(void)state;
	fails(TN_E_FORMAT, "`quantization` block is missing required key `group_size`",
	      "{\"quantization\": {\"bits\": 4}}");
}

static void quantization_both_present_ok(void **state)
{
	quantization_parses_minimal_block(state);
}

static void quantization_block_non_object_errors(void **state)
{
	(void)state;
	fails(TN_E_FORMAT, "must be a JSON object", "{\"quantization\": [1, 2]}");
}

static void quantization_per_layer_true_is_ignored(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse("{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a.b\": true}}");
	assert_int_equal(tn_quant_config_count(c), 0);
	expect(c, "a.b", TN_QUANT_GLOBAL, 64, 4, "affine");
	tn_quant_config_destroy(c);
}

static void quantization_per_layer_scalar_value_errors(void **state)
{
	(void)state;
	fails(TN_E_FORMAT, "per-layer quantization value at \"a.b\" must be `false` or a quantization object",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a.b\": 7}}");
	fails(TN_E_FORMAT, "per-layer quantization value at \"a.b\"",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a.b\": \"x\"}}");
	fails(TN_E_FORMAT, "per-layer quantization value at \"a.b\"",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a.b\": null}}");
}

static void quant_mode_as_str_covers_all_variants(void **state)
{
	static const char *const names[] = { "affine", "mxfp4", "mxfp8", "nvfp4" };
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct tn_quantization q = TN_QUANTIZATION_INIT;
		q.mode = names[i];
		OK(tn_quantization_resolve(&q, err));
		assert_string_equal(q.mode, names[i]);
		assert_string_equal(tn_quant_mode_name((size_t)i), names[i]);
	}
	assert_null(tn_quant_mode_name(4));
	struct tn_quantization q = { 64, 4, "int4", 0 };
	FAILS(TN_E_ARG, "Invalid quantization mode 'int4'", tn_quantization_resolve(&q, err));
}

static void per_layer_ref_exposes_override_map(void **state)
{
	const struct tn_quantization narrow = { 32, 8, NULL, 0 }, *q;
	const char *layer;
	(void)state;
	tn_quant_config *c = config_new(64, 4, NULL);
	OK(tn_quant_config_set(c, "b", &narrow, err));
	OK(tn_quant_config_set(c, "a", NULL, err));
	assert_int_equal(tn_quant_config_count(c), 2);
	tn_quant_config_at(c, 0, &layer, &q);
	assert_string_equal(layer, "b");
	assert_int_equal(q->bits, 8);
	tn_quant_config_at(c, 1, &layer, &q);
	assert_string_equal(layer, "a");
	assert_null(q);
	tn_quant_config_destroy(c);
}

/* ---- MLX's own rules ------------------------------------------------------------------------------------- */

static void null_means_the_default_of_the_mode(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse(
		"{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": {\"group_size\": null, "
		"\"bits\": 6}, \"b\": {\"mode\": \"nvfp4\"}}}");
	expect(c, "a", TN_QUANT_LAYER, 64, 6, "affine");
	expect(c, "b", TN_QUANT_LAYER, 16, 4, "nvfp4");
	tn_quant_config_destroy(c);
}

static void quantization_config_is_read_when_it_is_mlx(void **state)
{
	(void)state;
	tn_quant_config *c = config_parse("{\"quantization_config\": {\"group_size\": 32, \"bits\": 8}}");
	expect(c, "a", TN_QUANT_GLOBAL, 32, 8, "affine");
	tn_quant_config_destroy(c);
	c = config_parse("{\"text_config\": {\"quantization_config\": {\"quant_method\": \"mxfp4\"}}}");
	expect(c, "a", TN_QUANT_GLOBAL, 32, 4, "mxfp4");
	tn_quant_config_destroy(c);
	assert_null(config_parse(
		"{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128}}"));
	fails(TN_E_FORMAT, "`mode` of 'quantization' is a number",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": 3}}");
	fails(TN_E_FORMAT, "`mode` of 'a' is an object",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": {\"mode\": {}}}}");
	fails(TN_E_FORMAT, "`mode` of 'quantization' is a number",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": NaN}}");
	fails(TN_E_FORMAT, "`mode` of 'quantization' is 'int4'",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": \"int4\"}}");
	fails(TN_E_FORMAT, "`bits` of 'a' must be a whole number",
	      "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": {\"bits\": \"4\"}}}");
}

static void written_as_mlx_lm_writes_it(void **state)
{
	struct tn_buffer text;
	const struct tn_quantization q = { TN_QUANT_DEFAULT, 6, "affine", 0 };
	(void)state;
	tn_quant_config *c = config_new(64, 4, "affine");
	OK(tn_quant_config_set(c, "z.v_proj", &q, err));
	OK(tn_quant_config_set(c, "a", NULL, err));
	OK(tn_quant_config_write(test_context(), "{\"b\": 1e-05, \"_name_or_path\": \"x\", \"a\": \"\\u00e9\"}", c,
				 &text, err));
#define BLOCK                                                                                                          \
	"{\n        \"group_size\": 64,\n        \"bits\": 4,\n        \"mode\": \"affine\",\n"                        \
	"        \"z.v_proj\": {\n            \"group_size\": null,\n            \"bits\": 6,\n"                       \
	"            \"mode\": \"affine\"\n        },\n        \"a\": false\n    }"
	assert_string_equal(text.data, "{\n    \"a\": \"\\u00e9\",\n    \"b\": 1e-05,\n    \"quantization\": " BLOCK
				       ",\n    \"quantization_config\": " BLOCK "\n}");
	assert_int_equal(text.bytes, strlen(text.data) + 1);
	tn_buffer_release(test_context(), &text);
	OK(tn_quant_config_write(test_context(), "{\"quantization\": {}, \"quantization_config\": {}}", NULL, &text,
				 err));
	assert_string_equal(text.data, "{}");
	tn_buffer_release(test_context(), &text);
	tn_quant_config_destroy(c);
}

static void what_was_read_is_written_back_whole(void **state)
{
	struct tn_buffer text;
	(void)state;
	tn_quant_config *c = config_parse(
		"{\"quantization\": {\"bits\": 4, \"group_size\": 64, \"quant_method\": \"m\", \"a\": true}}");
	OK(tn_quant_config_write(test_context(), "{}", c, &text, err));
	assert_true(contains(
		text.data,
		"\"bits\": 4,\n        \"group_size\": 64,\n        \"quant_method\": \"m\",\n        \"a\": true"));
	tn_buffer_release(test_context(), &text);
	tn_quant_config_destroy(c);
}

/* ---- mlx-native ------------------------------------------------------------------------------------------ */

static tn_quant_config *native(const char *json)
{
	tn_quant_config *c = NULL;
	OK(tn_quant_config_parse_native(test_context(), json, &c, err));
	return c;
}

static void test_quant_config_defaults(void **state)
{
	(void)state;
	tn_quant_config *c = native("{}");
	expect_tensor(c, "anything.weight", 4, 64);
	tn_quant_config_destroy(c);
}

static void test_quant_config_with_per_tensor(void **state)
{
	(void)state;
	tn_quant_config *c = native(
		"{\"bits\": 4, \"group_size\": 64, \"per_tensor\": {\"model.layers.0.self_attn.v_proj.weight\": "
		"{\"bits\": 6, \"group_size\": 128}}}");
	expect_tensor(c, "model.layers.0.self_attn.v_proj.weight", 6, 128);
	expect_tensor(c, "model.layers.1.self_attn.v_proj.weight", 4, 64);
	tn_quant_config_destroy(c);
}

static void test_quant_config_invalid_json(void **state)
{
	tn_quant_config *c;
	(void)state;
	FAILS(TN_E_FORMAT, "parse", tn_quant_config_parse_native(test_context(), "not json", &c, err));
	FAILS(TN_E_FORMAT, "parse",
	      tn_quant_config_parse_native(test_context(), "{\"per_tensor\": {\"a\": {\"bits\": 4}}}", &c, err));
	FAILS(TN_E_FORMAT, "bits", tn_quant_config_parse_native(test_context(), "{\"bits\": -3}", &c, err));
	FAILS(TN_E_FORMAT, "bits", tn_quant_config_parse_native(test_context(), "{\"bits\": 256}", &c, err));
	FAILS(TN_E_FORMAT, "group_size", tn_quant_config_parse_native(test_context(), "{\"group_size\": -64}", &c, err));
	FAILS(TN_E_FORMAT, "bits", tn_quant_config_parse_native(test_context(),
								"{\"per_tensor\": {\"a\": {\"bits\": -1, \"group_size\": 64}}}", &c, err));
}

static void test_config_for_tensor_strips_weight_suffix(void **state)
{
	(void)state;
	tn_quant_config *c = native("{\"per_tensor\": {\"x\": {\"bits\": 8, \"group_size\": 32}}}");
	expect_tensor(c, "x.weight", 8, 32);
	expect_tensor(c, "x.scales", 8, 32);
	expect_tensor(c, "x.biases", 8, 32);
	expect_tensor(c, "x.other", 4, 64);
	tn_quant_config_destroy(c);
}

static void test_config_for_tensor_adds_language_model_prefix(void **state)
{
	(void)state;
	tn_quant_config *c = native("{\"per_tensor\": {\"language_model.x\": {\"bits\": 6, \"group_size\": 64}}}");
	expect_tensor(c, "x.weight", 6, 64);
	expect_tensor(c, "x", 6, 64);
	tn_quant_config_destroy(c);
}

static void test_config_for_tensor_strips_language_model_prefix(void **state)
{
	(void)state;
	tn_quant_config *c = native("{\"per_tensor\": {\"x\": {\"bits\": 6, \"group_size\": 64}}}");
	expect_tensor(c, "language_model.x.weight", 6, 64);
	expect_tensor(c, "language_model.x", 6, 64);
	tn_quant_config_destroy(c);
}

static void test_from_model_config_json_basic(void **state)
{
	tn_quant_config *c;
	(void)state;
	OK(tn_quant_config_parse_native_model(
		test_context(),
		"{\"quantization\": {\"bits\": 4, \"group_size\": 64, \"quant_method\": \"q\", "
		"\"a\": {\"bits\": 8, \"group_size\": 32}, \"b\": {\"bits\": 6}, \"c\": 3}}",
		&c, err));
	expect_tensor(c, "a.weight", 8, 32);
	expect_tensor(c, "b.weight", 6, 64);
	expect_tensor(c, "c.weight", 4, 64);
	tn_quant_config_destroy(c);
}

static void test_from_model_config_json_no_quantization_key(void **state)
{
	tn_quant_config *c;
	(void)state;
	FAILS(TN_E_FORMAT, "No \"quantization\" key",
	      tn_quant_config_parse_native_model(test_context(), "{}", &c, err));
	FAILS(TN_E_FORMAT, "is not an object",
	      tn_quant_config_parse_native_model(test_context(), "{\"quantization\": 4}", &c, err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantization_parses_minimal_block),
		cmocka_unit_test(quantization_parses_mode_explicit),
		cmocka_unit_test(quantization_parses_per_layer_overrides),
		cmocka_unit_test(quantization_ignores_legacy_hf_keys),
		cmocka_unit_test(quantization_absent_returns_none),
		cmocka_unit_test(quantization_invalid_json_errors),
		cmocka_unit_test(quantization_missing_bits_errors),
		cmocka_unit_test(quantization_missing_group_size_errors),
		cmocka_unit_test(quantization_both_present_ok),
		cmocka_unit_test(quantization_block_non_object_errors),
		cmocka_unit_test(quantization_per_layer_true_is_ignored),
		cmocka_unit_test(quantization_per_layer_scalar_value_errors),
		cmocka_unit_test(quant_mode_as_str_covers_all_variants),
		cmocka_unit_test(per_layer_ref_exposes_override_map),
		cmocka_unit_test(null_means_the_default_of_the_mode),
		cmocka_unit_test(quantization_config_is_read_when_it_is_mlx),
		cmocka_unit_test(written_as_mlx_lm_writes_it),
		cmocka_unit_test(what_was_read_is_written_back_whole),
		cmocka_unit_test(test_quant_config_defaults),
		cmocka_unit_test(test_quant_config_with_per_tensor),
		cmocka_unit_test(test_quant_config_invalid_json),
		cmocka_unit_test(test_config_for_tensor_strips_weight_suffix),
		cmocka_unit_test(test_config_for_tensor_adds_language_model_prefix),
		cmocka_unit_test(test_config_for_tensor_strips_language_model_prefix),
		cmocka_unit_test(test_from_model_config_json_basic),
		cmocka_unit_test(test_from_model_config_json_no_quantization_key),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
