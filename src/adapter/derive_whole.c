/* SPDX-License-Identifier: Apache-2.0 */
/* Whole tensors and token rows of adapters: which there are, and how either dialect says so. */
#include "adapter/pairs.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/sort.h"
#include "base/text.h"

#include <string.h>

static const char way_out[] = "fuse the adapter into the base instead (tenon fuse)";

static tn_dtype kept_dtype(tn_dtype dtype)
{
	return dtype == TN_BF16 || dtype == TN_F16 ? dtype : TN_F32;
}

/* ---- from an adapter ------------------------------------------------------------------------------------- */

static tn_status is_saved(const tn_adapter *a, const char *tensor, int *saved, struct tn_error *err)
{
	char module[1024];
	const char *dot = strrchr(tensor, '.');
	*saved = 0;
	if (!dot || dot - tensor >= (int)sizeof module)
		return TN_OK;
	memcpy(module, tensor, (size_t)(dot - tensor));
	module[dot - tensor] = '\0';
	for (size_t i = 0; i < a->config.saved.count && !*saved; i++)
		TN_TRY(tn_saved_covers(&a->config, i, module, saved, err));
	return TN_OK;
}

/* 1 when the base has the same values there. */
static tn_status equals_base(const struct tn_joint *empty, const struct tn_target *t, const struct tn_whole *w, int *equal,
			     struct tn_error *err)
{
	const struct tn_tensor *source = tn_target_source(t);
	struct tn_buffer memory;
	uint64_t elements = source->elements;
	*equal = 0;
	if (source->rank != w->rank || memcmp(source->shape, w->shape, w->rank * sizeof *w->shape) != 0)
		return TN_OK;
	TN_TRY(tn_buffer_alloc(empty->ctx, (size_t)elements * (8 + sizeof(float)), t->name, &memory, err));
	float *values = (float *)(void *)((unsigned char *)memory.data + elements * 8);
	tn_status status = tn_target_read_f32(empty, t, 0, elements, values, memory.data, err);
	*equal = status == TN_OK && memcmp(values, w->values, (size_t)elements * sizeof *values) == 0;
	tn_buffer_release(empty->ctx, &memory);
	return status;
}

static tn_status read_whole(struct tn_arena *arena, const tn_adapter *a, const struct tn_adapter_entry *e, struct tn_whole *w,
			    struct tn_error *err)
{
	const struct tn_tensor *t = e->values;
	if (!tn_dtype_is_float(t->dtype) || t->rank > TN_PARAMETER_RANK)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' is %s with %u dimensions, as quantized models have "
			       "them; %s",
			       t->name, tn_dtype_name(t->dtype), t->rank, way_out);
	w->rank = t->rank;
	w->dtype = kept_dtype(t->dtype);
	memcpy(w->shape, t->shape, t->rank * sizeof *t->shape);
	TN_TRY(tn_arena_array(arena, (size_t)t->elements, sizeof *w->values, &w->values, err));
	return tn_adapter_load_f32(a, t, w->values, err);
}

/* The name in the base where it has one; a classifier on top of it keeps the adapter's. */
static tn_status name_whole(struct tn_pairs *p, const struct tn_joint *empty, const struct tn_adapter_entry *e, size_t *target,
			    struct tn_whole *w, struct tn_error *err)
{
	const char *name = e->module.path;
	if (e->tokens)
		TN_TRY(tn_arena_printf(p->modules.arena, &name, err, "%s.weight", name));
	*target = tn_joint_find(empty, name);
	return tn_base_tensor_name(&p->modules, *target == TN_NO_TARGET ? name : empty->targets[*target].name, &w->path, err);
}

static tn_status add_whole(struct tn_pairs *p, struct tn_arena *arena, const struct tn_joint *empty, const tn_adapter *a,
			   const struct tn_adapter_entry *e, struct tn_error *err)
{
	struct tn_whole w = { 0 };
	size_t target;
	int saved, equal = 0;
	TN_TRY(name_whole(p, empty, e, &target, &w, err));
	TN_TRY(read_whole(arena, a, e, &w, err));
	if (e->tokens) {
		w.token_count = e->tokens->count;
		TN_TRY(tn_arena_array(arena, e->tokens->count, sizeof *w.tokens, &w.tokens, err));
		memcpy((uint64_t *)(uintptr_t)w.tokens, e->tokens->indices, e->tokens->count * sizeof *w.tokens);
	} else if (a->config.dialect == TN_DIALECT_PEFT && !tn_ends_with(e->module.path, ".bias")) {
		TN_TRY(is_saved(a, e->module.path, &saved, err));
		w.is_shared = !saved;
	}
	/* PEFT copies tables that it did not change */
	if (w.is_shared && target != TN_NO_TARGET)
		TN_TRY(equals_base(empty, &empty->targets[target], &w, &equal, err));
	if (!equal)
		p->wholes[p->whole_count++] = w;
	return TN_OK;
}

tn_status tn_wholes_load(struct tn_pairs *p, struct tn_arena *arena, const struct tn_joint *empty, const tn_adapter *a,
			 struct tn_error *err)
{
	TN_TRY(tn_arena_array(arena, a->count, sizeof *p->wholes, &p->wholes, err));
	for (size_t i = 0; i < a->count; i++)
		if (a->entries[i].module.kind == TN_MODULE_SAVED || a->entries[i].module.kind == TN_MODULE_TOKENS)
			TN_TRY(add_whole(p, arena, empty, a, &a->entries[i], err));
	return TN_OK;
}

/* ---- into a draft ---------------------------------------------------------------------------------------- */

tn_status tn_wholes_check(const struct tn_pairs *p, struct tn_error *err)
{
	for (size_t i = 0; i < p->whole_count && p->dialect == TN_DIALECT_MLX_LM; i++)
		if (p->count || p->wholes[i].tokens)
			return tn_fail(err, TN_E_UNSUPPORTED, p->wholes[i].path, "'%.100s' replaces %s of the base, and mlx-lm "
				       "loads nothing but pairs of factors beside such; %s", p->wholes[i].path,
				       p->wholes[i].tokens ? "rows" : "a tensor", way_out);
	return TN_OK;
}

/* The length of the module's path. */
static size_t module_length(const char *tensor)
{
	const char *dot = strrchr(tensor, '.');
	return dot ? (size_t)(dot - tensor) : strlen(tensor);
}

static int same_module(const char *a, const char *b)
{
	size_t n = module_length(a);
	return n == module_length(b) && memcmp(a, b, n) == 0;
}

static int is_pair(const struct tn_pairs *p, const char *tensor)
{
	size_t n = module_length(tensor);
	for (size_t i = 0; i < p->count; i++)
		if (strlen(p->items[i].module->path) == n && memcmp(p->items[i].module->path, tensor, n) == 0)
			return 1;
	return 0;
}

/* A bias of its own: the module has factors, or keeps its weight. */
static int is_bias(const struct tn_pairs *p, const struct tn_whole *w)
{
	if (!tn_ends_with(w->path, ".bias"))
		return 0;
	for (size_t i = 0; i < p->whole_count && !is_pair(p, w->path); i++)
		if (&p->wholes[i] != w && same_module(p->wholes[i].path, w->path))
			return 0;
	return 1;
}

static int is_module_to_save(const struct tn_pairs *p, const struct tn_whole *w)
{
	return p->dialect == TN_DIALECT_PEFT && !w->tokens && !w->is_shared && !is_bias(p, w);
}

static tn_status add_from_base(struct tn_pairs *out, struct tn_arena *arena, const tn_checkpoint *base, const struct tn_tensor *t,
			       const char *path, struct tn_error *err)
{
	struct tn_whole *w = &out->wholes[out->whole_count];
	struct tn_buffer raw;
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
	if (!tn_dtype_is_float(t->dtype) || t->rank > TN_PARAMETER_RANK)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' is %s in the base, and PEFT saves its module whole; %s",
			       t->name, tn_dtype_name(t->dtype), way_out);
	*w = (struct tn_whole){ .path = path, .rank = t->rank, .dtype = kept_dtype(t->dtype) };
	memcpy(w->shape, t->shape, t->rank * sizeof *t->shape);
	TN_TRY(tn_arena_array(arena, (size_t)t->elements, sizeof *w->values, &w->values, err));
	TN_TRY(tn_checkpoint_load(base, t->name, &raw, NULL, err));
	struct tn_row row = { { raw.data } };
	base->ctx->kernels->codec[TN_CODEC_dense]->decode(w->values, &row, &format, (size_t)t->elements);
	tn_buffer_release(base->ctx, &raw);
	out->whole_count++;
	return TN_OK;
}

static int compare_wholes(const void *a, const void *b)
{
	return strcmp((*(const struct tn_whole *const *)a)->path, (*(const struct tn_whole *const *)b)->path);
}

/* Wholes in the order of paths. */
struct sorted_wholes {
	const struct tn_pairs *pairs;
	const struct tn_whole **items;
};

/* Whether a module that is saved whole has a tensor of that path, which is not among the wholes. */
static int is_missing(const struct sorted_wholes *s, const char *path)
{
	size_t low = 0, high = s->pairs->whole_count, n = module_length(path) + 1;
	int wanted = 0;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strncmp(s->items[middle]->path, path, n) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < s->pairs->whole_count && strncmp(s->items[low]->path, path, n) == 0; low++) {
		if (strcmp(s->items[low]->path, path) == 0)
			return 0;
		wanted |= same_module(s->items[low]->path, path) && is_module_to_save(s->pairs, s->items[low]);
	}
	return wanted;
}

tn_status tn_wholes_complete(const struct tn_pairs *p, struct tn_arena *arena, const tn_checkpoint *base, struct tn_pairs *out,
			     struct tn_error *err)
{
	size_t count = tn_checkpoint_count(base);
	struct sorted_wholes sorted = { .pairs = p };
	*out = *p;
	out->modules.arena = arena;
	if (!p->whole_count || p->dialect != TN_DIALECT_PEFT)
		return TN_OK;
	TN_TRY(tn_arena_array(arena, p->whole_count, sizeof *sorted.items, &sorted.items, err));
	TN_TRY(tn_arena_array(arena, p->whole_count + count, sizeof *out->wholes, &out->wholes, err));
	memcpy(out->wholes, p->wholes, p->whole_count * sizeof *out->wholes);
	for (size_t i = 0; i < p->whole_count; i++)
		sorted.items[i] = &p->wholes[i];
	tn_sort(sorted.items, p->whole_count, sizeof *sorted.items, compare_wholes);
	for (size_t i = 0; i < count; i++) {
		const struct tn_tensor *t = tn_checkpoint_at(base, i);
		const char *path;
		TN_TRY(tn_base_tensor_name(&out->modules, t->name, &path, err));
		if (is_missing(&sorted, path))
			TN_TRY(add_from_base(out, arena, base, t, path, err));
	}
	return TN_OK;
}

static tn_status add_saved(struct tn_arena *arena, struct tn_choice *c, const char *tensor, struct tn_error *err)
{
	const char *module;
	TN_TRY(tn_arena_text(arena, tensor, module_length(tensor), &module, err));
	for (size_t i = 0; i < c->saved_count; i++)
		if (strcmp(c->saved[i], module) == 0)
			return TN_OK;
	c->saved[c->saved_count++] = module;
	return TN_OK;
}

tn_status tn_wholes_choose(const struct tn_pairs *p, struct tn_arena *arena, struct tn_choice *c, struct tn_error *err)
{
	struct tn_choice_tokens *tokens;
	TN_TRY(tn_arena_array(arena, p->whole_count, sizeof *c->saved, &c->saved, err));
	TN_TRY(tn_arena_array(arena, p->whole_count, sizeof *tokens, &tokens, err));
	c->tokens = tokens;
	c->full = p->dialect == TN_DIALECT_MLX_LM && p->whole_count > 0;
	for (size_t i = 0; i < p->whole_count; i++) {
		const struct tn_whole *w = &p->wholes[i];
		c->bias |= p->dialect == TN_DIALECT_PEFT && is_bias(p, w);
		if (is_module_to_save(p, w))
			TN_TRY(add_saved(arena, c, w->path, err));
		if (!w->tokens)
			continue;
		struct tn_choice_tokens *line = &tokens[c->token_count++];
		line->indices = w->tokens;
		line->count = w->token_count;
		TN_TRY(tn_arena_text(arena, w->path, module_length(w->path), &line->module, err));
	}
	return TN_OK;
}

tn_status tn_whole_name(const struct tn_pairs *p, const struct tn_whole *w, struct tn_arena *arena, const char **out,
			struct tn_error *err)
{
	int n = (int)module_length(w->path);
	if (p->dialect == TN_DIALECT_MLX_LM)
		return tn_arena_text(arena, w->path, strlen(w->path), out, err);
	if (w->tokens)
		return tn_arena_printf(arena, out, err, "base_model.model.%.*s.token_adapter.trainable_tokens_delta", n, w->path);
	if (is_pair(p, w->path)) /* below the factors stands what they are added to */
		return tn_arena_printf(arena, out, err, "base_model.model.%.*s.base_layer%s", n, w->path, w->path + n);
	return tn_arena_printf(arena, out, err, "base_model.model.%s", w->path);
}
