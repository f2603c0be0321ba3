/* SPDX-License-Identifier: Apache-2.0 */
/* What mlx_lm.convert -q does with a checkpoint: mlx-lm 0.32.2, mlx_lm/utils.py (quantize_model), mlx_lm/convert.py. */
#include "weights/format.h"
#include "weights/matrix.h"
#include "weights/model_rules.h"
#include "weights/quant_config.h"
#include "weights/recipe.h"

#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tn_quant_plan {
	tn_context *ctx;
	struct tn_arena arena; /* this struct, layers and their names */
	const tn_checkpoint *checkpoint;
	struct tn_quant_layer *layers; /* in the order of an mlx-lm model */
	struct tn_quant_layer **by_name;
	size_t count;
	tn_quant_config *config;
	tn_dtype dtype;
	struct tn_quantization global; /* resolved: of the request */
	const char *recipe;
	const char *model_type; /* of config.json, or NULL */
	uint32_t layer_component, layer_count;
};

/* ---- the order of an mlx-lm model ------------------------------------------------------------------------ */

/* Modules stand in a Python object in the order in which its class sets them. These are the names of the model files of
 * mlx-lm that share Llama's layout, in that order; others come behind them, by name. */
static const char *const module_order[] = {
	"embed_tokens", "wte", "layers", "h", "blocks", "self_attn", "linear_attn", "attn", "q_proj", "q_a_proj", "q_b_proj",
	"k_proj", "v_proj", "kv_a_proj_with_mqa", "kv_b_proj", "qkv_proj", "o_proj", "mlp", "block_sparse_moe", "gate",
	"switch_mlp", "gate_proj", "down_proj", "up_proj", "shared_expert", "shared_experts", "shared_expert_gate", "norm",
	"model", "lm_head",
};

static unsigned place_of(const char *part, size_t n)
{
	unsigned i = 0;
	while (i < sizeof module_order / sizeof *module_order &&
	       (strlen(module_order[i]) != n || memcmp(module_order[i], part, n) != 0))
		i++;
	return 2 * i;
}

/* A stack of experts (SwitchGLU) sets up_proj before down_proj. */
static unsigned rank_of(const char *part, size_t n, int in_switch)
{
	unsigned place = place_of(part, n);
	return in_switch && place == place_of("down_proj", 9) ? place_of("up_proj", 7) + 1 : place;
}

static int is_number(const char *part, size_t n)
{
	return n > 0 && n < 10 && strspn(part, "0123456789") >= n;
}

static int compare_parts(const char *a, size_t m, const char *b, size_t n, int in_switch)
{
	if (is_number(a, m) && is_number(b, n)) {
		unsigned long x = strtoul(a, NULL, 10), y = strtoul(b, NULL, 10);
		return x < y ? -1 : x > y;
	}
	unsigned x = rank_of(a, m, in_switch), y = rank_of(b, n, in_switch);
	if (x != y)
		return x < y ? -1 : 1;
	int order = memcmp(a, b, m < n ? m : n);
	return order ? order : m < n ? -1 : m > n;
}

static int compare_paths(const char *a, const char *b)
{
	for (int in_switch = 0;;) {
		size_t m = strcspn(a, "."), n = strcspn(b, ".");
		int order = compare_parts(a, m, b, n, in_switch);
		if (order || !a[m] || !b[n])
			return order ? order : !b[n] - !a[m];
		in_switch = m == 10 && memcmp(a, "switch_mlp", m) == 0;
		a += m + 1;
		b += n + 1;
	}
}

static int compare_layers(const void *a, const void *b)
{
	const struct tn_quant_layer *x = a, *y = b;
	return compare_paths(x->layer, y->layer);
}

static int compare_by_name(const void *a, const void *b)
{
	const struct tn_quant_layer *const *x = a, *const *y = b;
	return strcmp((*x)->layer, (*y)->layer);
}

/* ---- eligible layers ------------------------------------------------------------------------------------- */

static int is_eligible(const tn_checkpoint *checkpoint, const struct tn_tensor *t)
{
	char name[TN_NAME_BYTES];
	if (!tn_ends_with(t->name, ".weight") || !tn_is_weight_dtype(t->dtype) || t->rank < 2 || t->rank > 3)
		return 0;
	if (strstr(t->name, "conv") || !tn_sibling_name(name, t->name, ".scales"))
		return 0;
	return tn_checkpoint_find(checkpoint, name) == NULL;
}

static tn_status list_layers(tn_quant_plan *plan, struct tn_error *err)
{
	size_t total = tn_checkpoint_count(plan->checkpoint);
	TN_TRY(tn_arena_array(&plan->arena, total, sizeof *plan->layers, &plan->layers, err));
	TN_TRY(tn_arena_array(&plan->arena, total, sizeof *plan->by_name, &plan->by_name, err));
	for (size_t i = 0; i < total; i++) {
		const struct tn_tensor *t = tn_checkpoint_at(plan->checkpoint, i);
		struct tn_quant_layer *layer = &plan->layers[plan->count];
		if (!is_eligible(plan->checkpoint, t))
			continue;
		layer->weight = t;
		TN_TRY(tn_arena_text(&plan->arena, t->name, tn_layer_length(t->name), &layer->layer, err));
		plan->count++;
	}
	if (plan->count > 1)
		qsort(plan->layers, plan->count, sizeof *plan->layers, compare_layers);
	for (size_t i = 0; i < plan->count; i++)
		plan->by_name[i] = &plan->layers[i];
	if (plan->count > 1)
		qsort(plan->by_name, plan->count, sizeof *plan->by_name, compare_by_name);
	return TN_OK;
}

/* ---- parameters ------------------------------------------------------------------------------------------ */

static tn_status resolve_request(tn_quant_plan *plan, const struct tn_quant_request *request, struct tn_error *err)
{
	struct tn_format format;
	plan->global = request->q;
	if (plan->global.bits == 0)
		plan->global.bits = TN_QUANT_DEFAULT;
	if (plan->global.group_size == 0)
		plan->global.group_size = TN_QUANT_DEFAULT;
	TN_TRY(tn_quantization_resolve(&plan->global, err));
	if (request->dtype != TN_DTYPE_COUNT && !tn_is_weight_dtype(request->dtype))
		return tn_fail(err, TN_E_ARG, "dtype", "dtype %s cannot be quantized; F32, F16 or BF16 was expected",
			       tn_dtype_name(request->dtype));
	TN_TRY(tn_format_make(&plan->global, TN_F32, TN_FLAVOUR_CPU, "quantize", &format, err));
	if (!request->recipe)
		return TN_OK;
	if (tn_recipe_bits(request->recipe, "", 0, 1) == 0)
		return tn_fail(
			err, TN_E_ARG, "recipe",
			"Invalid quant recipe %.40s (choose from 'mixed_2_6', 'mixed_3_4', 'mixed_3_6', 'mixed_4_6')",
			request->recipe);
	if (strcmp(plan->global.mode, "affine") != 0)
		return tn_fail(err, TN_E_ARG, "recipe", "Quant predicates only support 'affine' quantization.");
	return tn_arena_text(&plan->arena, request->recipe, strlen(request->recipe), &plan->recipe, err);
}

/* Where layer numbers stand, and how many layers there are: from the first path with a down_proj. */
static tn_status measure_layers(tn_quant_plan *plan, struct tn_error *err)
{
	const char *first = NULL;
	if (!plan->recipe)
		return TN_OK;
	for (size_t i = 0; i < plan->count && !first; i++)
		if (tn_recipe_is_down(plan->layers[i].layer))
			first = plan->layers[i].layer;
	if (!first)
		return tn_fail(err, TN_E_ARG, "recipe", "Model does not have expected keys for mixed quant.");
	plan->layer_component = tn_recipe_layer_component(first);
	for (size_t i = 0; i < plan->count; i++) {
		uint32_t index;
		const char *path = plan->layers[i].layer;
		if (!tn_recipe_layer_index(path, plan->layer_component, &index))
			return tn_fail(
				err, TN_E_ARG, path,
				"'%.100s' has no layer number where '%.100s' has one, so the recipe cannot be applied",
				path, first);
		if (tn_recipe_is_down(path) && index >= plan->layer_count)
			plan->layer_count = index + 1;
	}
	return TN_OK;
}

/* The configuration's entry for a layer, and what it means. */
static tn_status override(tn_quant_plan *plan, struct tn_quant_layer *layer, const struct tn_quantization *entry,
			  struct tn_error *err)
{
	const struct tn_tensor *w = layer->weight;
	layer->q = *entry;
	if (layer->q.group_size == 0)
		layer->q.group_size = TN_QUANT_DEFAULT;
	TN_TRY(tn_quantization_resolve(&layer->q, err));
	if (w->shape[w->rank - 1] % (uint64_t)layer->q.group_size != 0)
		return tn_fail(
			err, TN_E_ARG, layer->layer,
			"'%.100s' has %llu columns, which its own group size %d does not divide; ask for another",
			layer->layer, (unsigned long long)w->shape[w->rank - 1], layer->q.group_size);
	return tn_quant_config_set(plan->config, layer->layer, entry, err);
}

/* The parameters of one layer, and its entry in the configuration. With a recipe the entry keeps the group size as it
 * was asked for: null when it was not. An entry of the model file has no mode. */
static tn_status decide(tn_quant_plan *plan, struct tn_quant_layer *layer, const struct tn_quant_request *request,
			int fine_grained, struct tn_error *err)
{
	static const struct tn_quantization eight_bits = { 64, 8, NULL, 0 };
	const struct tn_tensor *w = layer->weight;
	unsigned rules = tn_model_rules(plan->model_type, layer->layer);
	if (plan->recipe)
		rules &= TN_RULE_PARAMETER;
	layer->q = plan->global;
	if (w->shape[w->rank - 1] % (uint64_t)plan->global.group_size != 0)
		layer->skipped = 1;
	else if (rules & (TN_RULE_DENSE | TN_RULE_PARAMETER))
		layer->skipped = 2;
	if (layer->skipped)
		return TN_OK;
	if (plan->recipe) {
		struct tn_quantization entry = { request->q.group_size, 0, "affine", 0 };
		entry.bits = tn_recipe_bits(plan->recipe, layer->layer, plan->layer_component, plan->layer_count);
		return override(plan, layer, &entry, err);
	}
	if (rules & TN_RULE_EIGHT_BITS)
		return override(plan, layer, &eight_bits, err);
	return fine_grained ? tn_quant_config_set(plan->config, layer->layer, &plan->global, err) : TN_OK;
}

/* model_type of config.json; without one no rule holds. */
static tn_status read_model_type(tn_quant_plan *plan, struct tn_error *err)
{
	const char *text = tn_checkpoint_config(plan->checkpoint);
	json_t *root;
	if (!text)
		return TN_OK;
	TN_TRY(tn_checkpoint_parse_config(plan->checkpoint, &root, err));
	const char *type = json_string_value(json_object_get(root, "model_type"));
	tn_status status = type ? tn_arena_text(&plan->arena, type, strlen(type), &plan->model_type, err) : TN_OK;
	json_decref(root);
	return status;
}

static tn_status fill(tn_quant_plan *plan, const tn_quant_config *config, const struct tn_quant_request *request,
		      struct tn_error *err)
{
	plan->dtype = request->dtype;
	TN_TRY(resolve_request(plan, request, err));
	TN_TRY(read_model_type(plan, err));
	TN_TRY(list_layers(plan, err));
	TN_TRY(measure_layers(plan, err));
	if (config)
		TN_TRY(tn_quant_config_copy(config, &plan->config, err));
	else
		TN_TRY(tn_quant_config_create(plan->ctx, &plan->global, &plan->config, err));
	for (size_t i = 0; i < plan->count; i++)
		TN_TRY(decide(plan, &plan->layers[i], request, config != NULL, err));
	return TN_OK;
}

tn_status tn_quant_plan_create(tn_context *ctx, const tn_checkpoint *checkpoint, const tn_quant_config *config,
			       const struct tn_quant_request *request, tn_quant_plan **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_quant_plan *plan = NULL;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *plan, &plan, err));
	plan->ctx = ctx;
	plan->arena = arena;
	plan->checkpoint = checkpoint;
	tn_status status = fill(plan, config, request, err);
	if (status != TN_OK) {
		tn_quant_plan_destroy(plan);
		return status;
	}
	*out = plan;
	return TN_OK;
}

void tn_quant_plan_destroy(tn_quant_plan *plan)
{
	if (!plan)
		return;
	tn_quant_config_destroy(plan->config);
	struct tn_arena arena = plan->arena; /* it holds `plan` itself */
	tn_arena_release(&arena);
}

size_t tn_quant_plan_count(const tn_quant_plan *plan)
{
	return plan->count;
}

const struct tn_quant_layer *tn_quant_plan_at(const tn_quant_plan *plan, size_t i)
{
	return i < plan->count ? &plan->layers[i] : NULL;
}

const struct tn_quant_layer *tn_quant_plan_find(const tn_quant_plan *plan, const char *layer)
{
	struct tn_quant_layer key = { .layer = layer }, *wanted = &key;
	if (plan->count == 0)
		return NULL;
	struct tn_quant_layer **found = bsearch(&wanted, plan->by_name, plan->count, sizeof *plan->by_name,
						compare_by_name);
	return found ? *found : NULL;
}

const tn_quant_config *tn_quant_plan_config(const tn_quant_plan *plan)
{
	return plan->config;
}

/* ---- bits per weight ------------------------------------------------------------------------------------- */

struct tally {
	double bytes, elements;
};

/* A tensor that stays dense, in the dtype it is converted to. */
static void tally_dense(struct tally *sum, const struct tn_tensor *t, tn_dtype dtype)
{
	tn_dtype stored = tn_is_weight_dtype(t->dtype) && dtype != TN_DTYPE_COUNT ? dtype : t->dtype;
	sum->bytes += (double)t->elements * tn_dtype_bits(stored) / 8;
	sum->elements += (double)t->elements;
}

static void tally_layer(struct tally *sum, const tn_quant_plan *plan, const struct tn_quant_layer *layer)
{
	struct tn_format format;
	struct tn_part_plan parts[TN_PART_COUNT];
	const struct tn_tensor *w = layer->weight;
	uint64_t cols = w->shape[w->rank - 1];
	tn_dtype dtype = plan->dtype == TN_DTYPE_COUNT ? w->dtype : plan->dtype;
	tn_format_make(&layer->q, dtype, TN_FLAVOUR_CPU, "quantize", &format, NULL); /* checked when it was decided */
	tn_format_parts(&format, cols, parts);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		sum->bytes += (double)parts[p].row_bytes * (cols ? (double)(w->elements / cols) : 0);
	sum->elements += (double)w->elements;
}

/* A part of a triple that was there before; scales and biases hold no weights of their own. */
static void tally_packed(struct tally *sum, const tn_quant_plan *plan, const struct tn_tensor *t)
{
	struct tn_tensor_source source = tn_checkpoint_source(plan->checkpoint);
	struct tn_matrix m;
	tn_dtype stored = tn_is_weight_dtype(t->dtype) && plan->dtype != TN_DTYPE_COUNT ? plan->dtype : t->dtype;
	sum->bytes += (double)t->elements * tn_dtype_bits(stored) / 8;
	if (tn_ends_with(t->name, ".weight") && tn_matrix_find(&source, plan->config, t, &m, NULL) == TN_OK)
		sum->elements += (double)m.rows * (double)m.cols;
}

static int in_triple(const tn_checkpoint *checkpoint, const struct tn_tensor *t)
{
	static const char *const parts[] = { ".weight", ".scales", ".biases", ".global_scale" };
	char name[TN_NAME_BYTES];
	for (int i = 0; i < 4; i++) {
		size_t n = strlen(t->name), m = strlen(parts[i]);
		if (!tn_ends_with(t->name, parts[i]) || n - m + 8 > sizeof name)
			continue;
		memcpy(name, t->name, n - m);
		strcpy(name + n - m, ".scales");
		return tn_checkpoint_find(checkpoint, name) != NULL;
	}
	return 0;
}

double tn_quant_plan_bits_per_weight(const tn_quant_plan *plan)
{
	struct tally sum = { 0 };
	for (size_t i = 0; i < tn_checkpoint_count(plan->checkpoint); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(plan->checkpoint, i);
		char name[TN_NAME_BYTES];
		const struct tn_quant_layer *layer = NULL;
		if (tn_ends_with(t->name, ".weight") && tn_sibling_name(name, t->name, ""))
			layer = tn_quant_plan_find(plan, name);
		if (layer && !layer->skipped)
			tally_layer(&sum, plan, layer);
		else if (in_triple(plan->checkpoint, t))
			tally_packed(&sum, plan, t);
		else
			tally_dense(&sum, t, plan->dtype);
	}
	return sum.elements > 0 ? 8 * sum.bytes / sum.elements : 0;
}
