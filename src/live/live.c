/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a base: shards mapped, modules and small tensors found. */
#include "live/live.h"

#include "adapter/land.h"
#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "base/transpose.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "weights/foreign.h"
#include "weights/format.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL_TENSOR = 65536 };

const unsigned char *tn_live_bytes(const struct tn_live *live, const struct tn_tensor *tensor)
{
	return live->maps[tensor->shard].bytes + tensor->offset;
}

static tn_status map_shards(struct tn_live *live, struct tn_error *err)
{
	TN_TRY(tn_arena_array(&live->arena, live->base->shard_count, sizeof *live->maps, &live->maps, err));
	for (size_t i = 0; i < live->base->shard_count; i++)
		TN_TRY(tn_map_open(&live->base->shards[i]->file, live->base->shards[i]->path, &live->maps[i], err));
	return TN_OK;
}

/* ---- modules --------------------------------------------------------------------------------------------- */

/* Of a module that another library packed. */
static int is_foreign(const struct tn_live *live, const struct tn_tensor *t)
{
	int codes;
	return tn_foreign_set_count(live->foreign) && tn_foreign_set_owner(live->foreign, t, &codes) != NULL;
}

static int is_bias(const struct tn_tensor *t)
{
	return tn_ends_with(t->name, ".bias") || tn_ends_with(t->name, "_bias");
}

static int is_matrix(const struct tn_tensor *t)
{
	return !is_bias(t) && (t->rank == 2 || t->rank == 3) && t->elements && (tn_is_weight_dtype(t->dtype) || t->dtype == TN_U32);
}

static tn_status take_global_scale(const struct tn_live *live, struct tn_live_module *m, struct tn_error *err)
{
	const struct tn_tensor *scale = m->matrix.global_scale;
	if (scale->elements != 1 && scale->elements != m->linear.experts)
		return tn_fail(err, TN_E_UNSUPPORTED, scale->name, "'%.100s' has %llu values; one, or one for each of the %llu "
			       "experts of '%.60s', was expected", scale->name, (unsigned long long)scale->elements,
			       (unsigned long long)m->linear.experts, m->path);
	m->linear.global_scale = tn_live_bytes(live, scale);
	m->linear.global_count = scale->elements;
	return TN_OK;
}

static tn_status add_module(struct tn_live *live, const tn_quant_config *quant, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(live->base);
	struct tn_live_module *m = &live->modules[live->module_count];
	*m = (struct tn_live_module){ .weight = t };
	TN_TRY(tn_matrix_find(&source, quant, t, &m->matrix, err));
	TN_TRY(tn_arena_text(&live->arena, t->name, tn_layer_length(t->name), &m->path, err));
	m->linear = (struct tn_linear){ .ctx = live->ctx, .format = m->matrix.format, .experts = t->rank == 3 ? t->shape[0] : 0,
					.out = (size_t)t->shape[t->rank - 2], .in = (size_t)m->matrix.cols };
	memcpy(m->linear.row_bytes, m->matrix.row_bytes, sizeof m->linear.row_bytes);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (m->matrix.part[p])
			m->linear.part[p] = tn_live_bytes(live, m->matrix.part[p]);
	if (m->matrix.global_scale)
		TN_TRY(take_global_scale(live, m, err));
	live->module_count++;
	return TN_OK;
}

static int compare_modules(const void *a, const void *b)
{
	return strcmp(((const struct tn_live_module *)a)->path, ((const struct tn_live_module *)b)->path);
}

static tn_status list_modules(struct tn_live *live, const tn_quant_config *quant, struct tn_error *err)
{
	/* one more for a head that the base does not hold */
	TN_TRY(tn_arena_array(&live->arena, live->base->count + 1, sizeof *live->modules, &live->modules, err));
	for (size_t i = 0; i < live->base->count; i++) {
		const struct tn_tensor *t = live->base->by_name[i];
		if (is_matrix(t) && !tn_is_triple_part(live->base, t) && !is_foreign(live, t))
			TN_TRY(add_module(live, quant, t, err));
	}
	return tn_live_unpack(live, err);
}

static void sort_modules(struct tn_live *live)
{
	if (live->module_count > 1)
		qsort(live->modules, live->module_count, sizeof *live->modules, compare_modules);
}

static size_t find_module(const struct tn_live *live, const char *path, size_t bytes)
{
	size_t low = 0, high = live->module_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strncmp(live->modules[middle].path, path, bytes);
		if (order == 0)
			order = live->modules[middle].path[bytes] != '\0';
		if (order == 0)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return TN_LIVE_NONE;
}

size_t tn_live_module(const tn_live *live, const char *path)
{
	size_t found = find_module(live, path, strlen(path));
	if (found == TN_LIVE_NONE && live->head != TN_LIVE_NONE && tn_path_is_head(path))
		return live->head;
	return found;
}

size_t tn_live_module_of(const struct tn_live *live, const char *tensor_name)
{
	return find_module(live, tensor_name, tn_layer_length(tensor_name));
}

/* ---- ties ------------------------------------------------------------------------------------------------ */

static int is_text_embedding(const char *path)
{
	static const char *const names[] = { "embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(tn_path_last(path), names[i]) == 0)
			return 1;
	return 0;
}

static tn_status config_ties(const struct tn_live *live, int *ties, struct tn_error *err)
{
	json_t *root;
	*ties = 0;
	if (!live->base->config)
		return TN_OK;
	TN_TRY(tn_checkpoint_parse_config(live->base, &root, err));
	*ties = tn_config_ties(root);
	json_decref(root);
	return TN_OK;
}

/* A tied head becomes a module with the embedding's matrix; the copy that some files hold besides is not looked at here, as
 * mlx-lm does not (model/decoder_bind.c refuses one that differs). */
static tn_status tie_head(struct tn_live *live, struct tn_error *err)
{
	const struct tn_live_module *embedding = NULL;
	struct tn_live_module *head = NULL;
	int ties;
	TN_TRY(config_ties(live, &ties, err));
	for (size_t i = 0; i < live->module_count; i++) {
		struct tn_live_module *m = &live->modules[i];
		if (is_text_embedding(m->path) && (!embedding || strlen(m->path) < strlen(embedding->path)))
			embedding = m;
		if (tn_path_is_head(m->path) && !strstr(m->path, ".layers."))
			head = m;
	}
	if (!embedding || (head && !ties))
		return TN_OK;
	if (!head) {
		const char *name = strncmp(embedding->path, "language_model.", 15) == 0 ? "language_model.lm_head"
			: strcmp(tn_path_last(embedding->path), "embed_in") == 0 ? "embed_out" : "lm_head";
		head = &live->modules[live->module_count++];
		head->path = name;
	}
	const char *path = head->path, *of = embedding->path;
	*head = *embedding;
	head->path = path;
	sort_modules(live);
	live->embedding = find_module(live, of, strlen(of));
	live->head = find_module(live, path, strlen(path));
	return TN_OK;
}

/* ---- small tensors --------------------------------------------------------------------------------------- */

/* `<path>.bias`, or `<path>_bias` of a stack. */
static const struct tn_tensor *find_bias(const struct tn_live *live, const struct tn_live_module *m)
{
	char name[TN_NAME_BYTES];
	const struct tn_tensor *t = NULL;
	uint64_t wanted = m->linear.out * (m->linear.experts ? m->linear.experts : 1);
	for (int i = 0; i < 2 && !t; i++)
		if ((size_t)snprintf(name, sizeof name, i ? "%s_bias" : "%s.bias", m->path) < sizeof name)
			t = tn_checkpoint_find(live->base, name);
	return t && t->elements == wanted && tn_dtype_is_float(t->dtype) ? t : NULL;
}

static void set_bias(struct tn_live *live, size_t module)
{
	struct tn_live_module *m = &live->modules[module];
	const struct tn_tensor *bias = find_bias(live, m);
	m->bias = bias ? tn_live_tensor(live, bias->name) : live->tensor_count + module;
	live->tensors[live->tensor_count + module] = (struct tn_live_tensor){
		m->path, m->linear.out * (m->linear.experts ? m->linear.experts : 1), NULL
	};
}

static int is_small(const struct tn_live *live, const struct tn_tensor *t)
{
	return (tn_is_weight_dtype(t->dtype) || t->dtype == TN_F64) && t->elements && !tn_is_triple_part(live->base, t) &&
	       !is_foreign(live, t) &&
	       tn_live_module_of(live, t->name) == TN_LIVE_NONE && (t->rank <= 1 || t->elements <= SMALL_TENSOR || is_bias(t));
}

static tn_status list_tensors(struct tn_live *live, struct tn_error *err)
{
	const struct tn_codec *dense = live->ctx->kernels->codec[TN_CODEC_dense];
	TN_TRY(tn_arena_array(&live->arena, live->base->count + live->module_count, sizeof *live->tensors, &live->tensors, err));
	for (size_t i = 0; i < live->base->count; i++) {
		const struct tn_tensor *t = live->base->by_name[i];
		float *values;
		if (!is_small(live, t))
			continue;
		struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
		struct tn_row row = { { tn_live_bytes(live, t) } };
		TN_TRY(tn_arena_array(&live->arena, (size_t)t->elements, sizeof *values, &values, err));
		dense->decode(values, &row, &format, (size_t)t->elements);
		live->tensors[live->tensor_count++] = (struct tn_live_tensor){ t->name, t->elements, values };
	}
	for (size_t i = 0; i < live->module_count; i++)
		set_bias(live, i);
	return TN_OK;
}

size_t tn_live_tensor(const tn_live *live, const char *name)
{
	size_t low = 0, high = live->tensor_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(live->tensors[middle].name, name);
		if (order == 0)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return TN_LIVE_NONE;
}

/* ---- matrices that lie the other way round --------------------------------------------------------------- */

tn_status tn_live_transpose(tn_live *live, size_t module, struct tn_error *err)
{
	unsigned char *copy;
	if (module >= live->module_count)
		return tn_fail(err, TN_E_ARG, "modules", "there is no such module: number %zu, and the base has %zu; "
			       "tn_live_module() finds one by its path", module, live->module_count);
	struct tn_live_module *m = &live->modules[module];
	struct tn_linear *l = &m->linear;
	size_t unit = tn_dtype_bits(l->format.dtype) / 8;
	if (l->format.codec != TN_CODEC_dense || l->experts || m->is_transposed || live->current->count)
		return tn_fail(err, TN_E_ARG, m->path,
			       "'%.100s' is no dense matrix, is turned round already, or an adapter is attached", m->path);
	TN_TRY(tn_arena_array(&live->arena, l->out, l->row_bytes[TN_PART_WEIGHT], &copy, err));
	tn_transpose(copy, l->part[TN_PART_WEIGHT], l->out, l->in, unit);
	size_t out = l->in;
	l->in = l->out;
	l->out = out;
	l->part[TN_PART_WEIGHT] = copy;
	l->row_bytes[TN_PART_WEIGHT] = l->in * unit;
	m->is_transposed = 1;
	set_bias(live, module);
	return TN_OK;
}

/* ---- adapters on it -------------------------------------------------------------------------------------- */

/* What an adapter lands on is looked at once, and not for a base that has none. */
tn_status tn_live_land(struct tn_live *live, const struct tn_weighted_adapter *adapters, size_t count, struct tn_arena *arena,
		       struct tn_joint **out, struct tn_error *err)
{
	if (!live->joint) {
		tn_arena_init(&live->joint_arena, live->ctx);
		tn_status status = tn_joint_open_base(live->base, &live->joint_arena, &live->joint, err);
		if (status != TN_OK) {
			live->joint = NULL;
			tn_arena_release(&live->joint_arena);
			return status;
		}
	}
	return tn_joint_make_live(adapters, count, live->joint, arena, out, err);
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status fill(struct tn_live *live, struct tn_error *err)
{
	tn_quant_config *quant = NULL;
	TN_TRY(tn_foreign_set_create_in(&live->arena, live->ctx, live->base, &live->foreign, err));
	TN_TRY(map_shards(live, err));
	if (live->base->config)
		TN_TRY(tn_quant_config_parse(live->ctx, live->base->config, &quant, err));
	tn_status status = list_modules(live, quant, err);
	tn_quant_config_destroy(quant);
	TN_TRY(status);
	sort_modules(live);
	TN_TRY(tie_head(live, err));
	TN_TRY(list_tensors(live, err));
	return tn_snapshot_make(live, NULL, 0, NULL, &live->current, err);
}

tn_status tn_live_open(const tn_checkpoint *base, const struct tn_live_options *options, tn_live **out, struct tn_error *err)
{
	struct tn_live_options o = TN_LIVE_OPTIONS_INIT;
	struct tn_arena arena;
	struct tn_live *live;
	if (options && (!options->struct_bytes || options->struct_bytes > sizeof o))
		return tn_fail(err, TN_E_ARG, "options", "struct_bytes is %zu, at most %zu was expected: start from "
			       "TN_LIVE_OPTIONS_INIT of the same version", options->struct_bytes, sizeof o);
	if (options)
		memcpy(&o, options, options->struct_bytes);
	if ((unsigned)o.activations > TN_ACTIVATIONS_INT8)
		return tn_fail(err, TN_E_ARG, "options", "activations is %d, and one of tn_activations was expected",
			       (int)o.activations);
	tn_arena_init(&arena, base->ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *live, &live, err));
	live->ctx = base->ctx;
	live->base = base;
	live->arena = arena;
	live->precision = (enum tn_precision)o.activations;
	live->pause_us = o.pause_us;
	live->embedding = live->head = TN_LIVE_NONE;
	pthread_mutex_init(&live->change, NULL);
	pthread_mutex_init(&live->publish, NULL);
	tn_factor_store_init(&live->store, live->ctx);
	tn_status status = fill(live, err);
	if (status != TN_OK) {
		tn_live_close(live);
		return status;
	}
	*out = live;
	return TN_OK;
}

void tn_live_close(tn_live *live)
{
	if (!live)
		return;
	tn_snapshot_release(live->current);
	tn_live_collect(live);
	for (size_t i = 0; live->maps && i < live->base->shard_count; i++)
		tn_map_close(&live->maps[i]);
	for (size_t i = 0; i < live->unpacked_count; i++)
		tn_buffer_release(live->ctx, &live->unpacked[i]);
	if (live->joint) {
		tn_joint_close_base(live->joint);
		tn_arena_release(&live->joint_arena);
	}
	tn_factor_store_release(&live->store);
	pthread_mutex_destroy(&live->change);
	pthread_mutex_destroy(&live->publish);
	struct tn_arena arena = live->arena;
	tn_arena_release(&arena);
}

size_t tn_live_module_count(const tn_live *live)
{
	return live->module_count;
}

const char *tn_live_module_path(const tn_live *live, size_t module)
{
	return module < live->module_count ? live->modules[module].path : NULL;
}

void tn_live_shape(const tn_live *live, size_t module, struct tn_module_shape *out)
{
	const struct tn_live_module *m = &live->modules[module];
	*out = (struct tn_module_shape){ m->linear.experts, m->linear.out, m->linear.in, live->tensors[m->bias].values != NULL };
}
