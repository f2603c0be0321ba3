/* SPDX-License-Identifier: Apache-2.0 */
/* The mixed recipes of mlx_lm.convert 0.32.2 (mlx_lm/convert.py, mixed_quant_predicate_builder). */
#include "weights/recipe.h"

#include "tenon/weights.h"

#include <stdlib.h>
#include <string.h>

static const struct recipe {
	const char *name;
	int32_t low, high;
} recipes[] = {
	{ "mixed_2_6", 2, 6 },
	{ "mixed_3_4", 3, 4 },
	{ "mixed_3_6", 3, 6 },
	{ "mixed_4_6", 4, 6 },
};

/* The i-th part between dots, or NULL. */
static const char *component(const char *path, uint32_t i, size_t *length)
{
	while (i--) {
		path = strchr(path, '.');
		if (!path)
			return NULL;
		path++;
	}
	*length = strcspn(path, ".");
	return path;
}

static int all_digits(const char *s, size_t n)
{
	size_t digits = strspn(s, "0123456789");
	return n > 0 && digits >= n;
}

uint32_t tn_recipe_layer_component(const char *path)
{
	size_t n = 0;
	uint32_t i = 0, last = 0;
	for (const char *part; (part = component(path, i, &n)) != NULL; i++) {
		last = i;
		if (all_digits(part, n))
			return i;
	}
	return last; /* Python's loop variable keeps its last value */
}

/* 1 when the path has a number there, or is too short, which counts as 0. */
int tn_recipe_layer_index(const char *path, uint32_t layer_component, uint32_t *out)
{
	size_t n;
	const char *part = component(path, layer_component, &n);
	*out = 0;
	if (!part)
		return 1;
	if (!all_digits(part, n) || n > 9)
		return 0;
	*out = (uint32_t)strtoul(part, NULL, 10);
	return 1;
}

int tn_recipe_is_down(const char *path)
{
	const char *experts = strstr(path, ".experts.");
	size_t n = strlen(path);
	return strstr(path, "down_proj") || (experts && n > 3 && strcmp(path + n - 3, ".w2") == 0);
}

static int gets_more(uint32_t layer, uint32_t count)
{
	uint32_t eighth = count / 8;
	return layer < eighth || layer >= 7 * count / 8 || (layer - eighth) % 3 == 2;
}

int32_t tn_recipe_bits(const char *recipe, const char *path, uint32_t layer_component, uint32_t layer_count)
{
	for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
		uint32_t layer;
		if (strcmp(recipes[i].name, recipe) != 0)
			continue;
		tn_recipe_layer_index(path, layer_component, &layer);
		int is_v = strstr(path, "v_proj") || strstr(path, "v_a_proj") || strstr(path, "v_b_proj");
		if ((is_v || tn_recipe_is_down(path)) && gets_more(layer, layer_count))
			return recipes[i].high;
		return strstr(path, "lm_head") ? recipes[i].high : recipes[i].low;
	}
	return 0;
}
