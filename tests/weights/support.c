/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include "base/half.h"

#include <stdlib.h>
#include <string.h>

tn_context *test_context(void)
{
	static tn_context *ctx;
	if (!ctx)
		assert_int_equal(tn_context_create(NULL, &ctx, NULL), TN_OK);
	return ctx;
}

int contains(const char *text, const char *part)
{
	return strstr(text, part) != NULL;
}

float wave(uint64_t i)
{
	uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u;
	x ^= x >> 29;
	x *= 0xBF58476D1CE4E5B9u;
	return (float)(int32_t)(x >> 32) * 0x1p-31f;
}

tn_weight_map *map_new(void)
{
	tn_weight_map *map;
	OK(tn_weight_map_create(test_context(), &map, err));
	return map;
}

void map_put(tn_weight_map *map, const char *name, tn_dtype dtype, uint64_t a, uint64_t b, uint64_t c, const void *data)
{
	uint64_t shape[3] = { a, b, c }, n = a * (b ? b : 1) * (c ? c : 1);
	char *made = calloc(n, 8);
	for (uint64_t i = 0; i < n; i++) {
		float x = wave(i);
		uint16_t h = dtype == TN_F16 ? tn_f16_from_f32(x) : tn_bf16_from_f32(x);
		if (dtype == TN_F32)
			memcpy(made + 4 * i, &x, 4);
		else if (dtype == TN_F16 || dtype == TN_BF16)
			memcpy(made + 2 * i, &h, 2);
		else
			made[i * tn_dtype_bits(dtype) / 8] = (char)i;
	}
	OK(tn_weight_map_set(map, name, dtype, b ? c ? 3 : 2 : 1, shape, data ? data : made, err));
	free(made);
}

const void *map_expect(const tn_weight_map *map, const char *name, tn_dtype dtype, uint64_t a, uint64_t b, uint64_t c)
{
	const void *data = NULL;
	const uint64_t shape[3] = { a, b, c };
	const struct tn_tensor *t = tn_weight_map_find(map, name, &data);
	if (!t)
		fail_msg("there is no %s", name);
	assert_string_equal(tn_dtype_name(t->dtype), tn_dtype_name(dtype));
	assert_int_equal(t->rank, b ? c ? 3 : 2 : 1);
	for (uint32_t i = 0; i < t->rank; i++)
		assert_int_equal(t->shape[i], shape[i]);
	return data;
}

int map_has(const tn_weight_map *map, const char *name)
{
	return tn_weight_map_find(map, name, NULL) != NULL;
}

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const unsigned char *)data)[i]) * 0x100000001B3u;
	return h;
}

uint64_t map_digest(const tn_weight_map *map)
{
	uint64_t h = 0xCBF29CE484222325u;
	for (size_t i = 0; i < tn_weight_map_count(map); i++) {
		const void *data;
		const struct tn_tensor *t = tn_weight_map_at(map, i, &data);
		h = mix(h, t->name, strlen(t->name) + 1);
		h = mix(h, &t->dtype, sizeof t->dtype);
		h = mix(h, t->shape, t->rank * sizeof *t->shape);
		h = mix(h, data, (size_t)t->bytes);
	}
	return h;
}

tn_quant_config *config_new(int32_t group_size, int32_t bits, const char *mode)
{
	struct tn_quantization q = { group_size, bits, mode, 0 };
	tn_quant_config *config;
	OK(tn_quant_config_create(test_context(), &q, &config, err));
	return config;
}

tn_quant_config *config_parse(const char *config_json)
{
	tn_quant_config *config = NULL;
	OK(tn_quant_config_parse(test_context(), config_json, &config, err));
	return config;
}
