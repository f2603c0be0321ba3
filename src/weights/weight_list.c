/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"
#include "base/error.h"
#include "base/text.h"
#include "weights/foreign.h"
#include "weights/matrix.h"

#include <stdlib.h>
#include <string.h>

struct tn_weight_list {
	tn_context *ctx;
	struct tn_arena arena;       /* holds this struct too */
	struct tn_foreign_set *foreign; /* NULL when it could not be made out */
	struct tn_weight *weights;
	size_t count;
	uint64_t parameters;
};

static int is_packed(const struct tn_tensor *t)
{
	return t->dtype == TN_U32 && t->rank >= 2 && tn_ends_with(t->name, ".weight");
}

int tn_is_triple_part(const tn_checkpoint *checkpoint, const struct tn_tensor *tensor)
{
	static const char *const suffixes[] = { ".scales", ".biases", ".global_scale" };
	char name[TN_NAME_BYTES];
	for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
		if (!tn_ends_with(tensor->name, suffixes[i]))
			continue;
		size_t n = strlen(tensor->name) - strlen(suffixes[i]);
		if (n + sizeof ".weight" > sizeof name)
			return 0;
		memcpy(name, tensor->name, n);
		memcpy(name + n, ".weight", sizeof ".weight");
		const struct tn_tensor *weight = tn_checkpoint_find(checkpoint, name);
		return weight && is_packed(weight);
	}
	return 0;
}

int tn_is_triple(const tn_checkpoint *checkpoint, const struct tn_tensor *weight)
{
	char name[TN_NAME_BYTES];
	return is_packed(weight) && tn_sibling_name(name, weight->name, ".scales") && tn_checkpoint_find(checkpoint, name);
}

static void add_plain(struct tn_weight_list *list, const struct tn_tensor *t)
{
	list->weights[list->count++] = (struct tn_weight){
		.tensor = t,
		.last = t->rank ? t->shape[t->rank - 1] : 1,
		.parameters = t->elements,
		.bytes = t->bytes,
	};
	list->parameters += t->elements;
}

static void add_triple(struct tn_weight_list *list, const struct tn_matrix *m)
{
	struct tn_weight w = { .tensor = m->part[TN_PART_WEIGHT], .q = m->q, .last = m->cols, .parameters = m->rows * m->cols };
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		w.bytes += m->part[part] ? m->part[part]->bytes : 0;
	w.bytes += m->global_scale ? m->global_scale->bytes : 0;
	list->weights[list->count++] = w;
	list->parameters += w.parameters;
}

static void add_foreign(struct tn_weight_list *list, const struct tn_foreign *f)
{
	struct tn_weight w = { .tensor = &f->weight, .last = f->cols, .parameters = f->weight.elements, .bytes = f->weight.bytes };
	w.q = (struct tn_quantization){ (int32_t)f->group, f->bits, f->scheme, 0 };
	list->weights[list->count++] = w;
	list->parameters += w.parameters;
}

/* The dense name of a foreign module may stand elsewhere than the names of its tensors. */
static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct tn_weight *)a)->tensor->name, ((const struct tn_weight *)b)->tensor->name);
}

static tn_foreign_role foreign_role(const struct tn_weight_list *list, size_t i, struct tn_foreign **f)
{
	*f = NULL;
	return list->foreign ? tn_foreign_set_at(list->foreign, i, f) : TN_FOREIGN_PLAIN;
}

static tn_status fill(struct tn_weight_list *list, const tn_checkpoint *checkpoint, const tn_quant_config *config,
		      struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(checkpoint);
	size_t n = tn_checkpoint_count(checkpoint);
	TN_TRY(tn_arena_array(&list->arena, n, sizeof *list->weights, &list->weights, err));
	for (size_t i = 0; i < n; i++) {
		const struct tn_tensor *t = tn_checkpoint_at(checkpoint, i);
		struct tn_matrix m;
		struct tn_error judged;
		struct tn_foreign *f;
		tn_foreign_role role = foreign_role(list, i, &f);
		if (role == TN_FOREIGN_PART || tn_is_triple_part(checkpoint, t)) {
			continue;
		} else if (f) {
			add_foreign(list, f);
		} else if (!tn_is_triple(checkpoint, t)) {
			add_plain(list, t);
		} else if (tn_matrix_find(&source, config, t, &m, &judged) == TN_OK) {
			add_triple(list, &m);
		} else {
			tn_logf(list->ctx, TN_LOG_WARNING, "%s", judged.msg);
			add_plain(list, t);
		}
	}
	if (list->foreign && list->count > 1)
		qsort(list->weights, list->count, sizeof *list->weights, compare_names);
	return TN_OK;
}

/* A configuration or module that cannot be read is no reason not to look: the shapes alone tell most. */
static tn_status pass_over(tn_context *ctx, const struct tn_error *found, struct tn_error *err)
{
	if (found->code == TN_E_NOMEM)
		return tn_fail_with(err, found);
	tn_logf(ctx, TN_LOG_WARNING, "%s", found->msg);
	return TN_OK;
}

static tn_status look_and_fill(struct tn_weight_list *list, const tn_checkpoint *checkpoint, struct tn_error *err)
{
	const char *text = tn_checkpoint_config(checkpoint);
	tn_quant_config *config = NULL;
	struct tn_error found;
	if (text && tn_quant_config_parse(list->ctx, text, &config, &found) != TN_OK)
		TN_TRY(pass_over(list->ctx, &found, err));
	tn_status status = TN_OK;
	if (tn_foreign_set_create(list->ctx, checkpoint, &list->foreign, &found) != TN_OK)
		status = pass_over(list->ctx, &found, err);
	if (status == TN_OK)
		status = fill(list, checkpoint, config, err);
	tn_quant_config_destroy(config);
	return status;
}

tn_status tn_weight_list_create(tn_context *ctx, const tn_checkpoint *checkpoint, tn_weight_list **out,
				struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_weight_list *list;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *list, &list, err));
	list->ctx = ctx;
	list->arena = arena;
	tn_status status = look_and_fill(list, checkpoint, err);
	if (status != TN_OK) {
		tn_weight_list_destroy(list);
		return status;
	}
	*out = list;
	return TN_OK;
}

void tn_weight_list_destroy(tn_weight_list *list)
{
	if (!list)
		return;
	tn_foreign_set_destroy(list->foreign);
	struct tn_arena arena = list->arena;
	tn_arena_release(&arena);
}

size_t tn_weight_list_count(const tn_weight_list *list)
{
	return list->count;
}

const struct tn_weight *tn_weight_list_at(const tn_weight_list *list, size_t i)
{
	return i < list->count ? &list->weights[i] : NULL;
}

uint64_t tn_weight_list_parameters(const tn_weight_list *list)
{
	return list->parameters;
}
