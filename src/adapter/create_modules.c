/* SPDX-License-Identifier: Apache-2.0 */
/* Which modules a checkpoint has. Their classes are not visible in it: shapes and names decide. */
#include "adapter/create.h"

#include "adapter/land.h"
#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "weights/model_rules.h"

#include <stdlib.h>
#include <string.h>

const char *tn_path_inside(const char *path)
{
	uint64_t number;
	size_t prefix;
	const char *inside = tn_path_in_layer(path, &number, &prefix);
	return inside ? inside : path;
}

/* Of the paths that begin with path[0..prefix), or of all. */
static uint64_t count_layers(const struct tn_base_modules *m, const char *path, size_t prefix)
{
	uint64_t number, count = 0;
	size_t other;
	for (size_t i = 0; i < m->count; i++) {
		const char *name = m->items[i].path;
		if (tn_path_in_layer(name, &number, &other) && (!path || (other == prefix && memcmp(name, path, prefix) == 0)))
			count = number + 1 > count ? number + 1 : count;
	}
	return count;
}

uint64_t tn_base_modules_layers(const struct tn_base_modules *m)
{
	return count_layers(m, NULL, 0);
}

uint64_t tn_base_modules_layers_beside(const struct tn_base_modules *m, const char *path, struct tn_layer_memo *memo)
{
	uint64_t number;
	size_t prefix;
	if (!tn_path_in_layer(path, &number, &prefix))
		return 0;
	if (!tn_layer_memo_holds(memo, path, prefix))
		*memo = (struct tn_layer_memo){ path, prefix, count_layers(m, path, prefix) };
	return memo->count;
}

/* The old array stays in the arena until its end, which doubling keeps below the new one's size. */
tn_status tn_base_modules_add(struct tn_base_modules *m, const struct tn_base_module *item, struct tn_error *err)
{
	if (m->count == m->room) {
		struct tn_base_module *grown;
		size_t room = m->room ? 2 * m->room : 256;
		TN_TRY(tn_arena_array(m->arena, room, sizeof *grown, &grown, err));
		if (m->count)
			memcpy(grown, m->items, m->count * sizeof *grown);
		m->items = grown;
		m->room = room;
	}
	m->items[m->count++] = *item;
	return TN_OK;
}

/* Parts that transformers 5 calls otherwise than the files do. mlx-lm keeps the names of the files. */
static const struct {
	const char *model_type, *file, *model;
} parts[] = {
	{ "mixtral", ".block_sparse_moe", ".mlp" },
	{ "gpt_neox", "embed_out", "lm_head" },
	{ "granitemoe", ".router.layer", ".router" },
	{ "granitemoeshared", ".router.layer", ".router" },
	{ "granitemoehybrid", ".router.layer", ".router" },
};

/* name[0..n) with such a part as the program calls it. */
static tn_status name_renamed(struct tn_base_modules *m, const char *name, int n, const char **out, struct tn_error *err)
{
	for (size_t i = 0; i < sizeof parts / sizeof *parts && m->peft; i++) {
		const char *at = strcmp(m->model_type, parts[i].model_type) ? NULL : strstr(name, parts[i].file);
		if (!at || at - name + (int)strlen(parts[i].file) > n)
			continue;
		const char *rest = at + strlen(parts[i].file);
		return tn_arena_printf(m->arena, out, err, "%.*s%s%.*s", (int)(at - name), name, parts[i].model,
				       (int)(name + n - rest), rest);
	}
	return tn_arena_text(m->arena, name, (size_t)n, out, err);
}

/* ---- experts --------------------------------------------------------------------------------------------- */

/* One block of experts while its tensors pass by, which stand together in the order of names. */
struct block {
	const char *name;          /* of any of its tensors */
	size_t bytes;              /* of its path: up to ".experts" */
	int is_transposed;
	uint64_t experts;
	uint64_t in[TN_NO_PROJECTION], out[TN_NO_PROJECTION];   /* 0: not there */
};

static void note(struct block *b, tn_projection p, uint64_t experts, uint64_t out, uint64_t in)
{
	b->experts = experts > b->experts ? experts : b->experts;
	b->in[p] = in;
	b->out[p] = out;
}

/* mlx-lm: three stacks. PEFT, as transformers 5 holds experts: two parameters, gate above up. */
static tn_status add_block(struct tn_base_modules *m, const struct block *b, struct tn_error *err)
{
	static const char *const stacks[] = { "switch_mlp.gate_proj", "switch_mlp.up_proj", "switch_mlp.down_proj" };
	static const tn_projection stack_of[] = { TN_GATE, TN_UP, TN_DOWN };
	if (!b->name)
		return TN_OK;
	struct tn_base_module item = { .kind = TN_MODULE_EXPERTS, .experts = b->experts, .of_parameter = m->peft,
				       .is_transposed = b->is_transposed };
	const char *front;
	TN_TRY(name_renamed(m, b->name, (int)b->bytes, &front, err));
	TN_TRY(tn_arena_text(m->arena, b->name, b->bytes, &item.block, err));
	for (size_t i = 0; i < 3 && !m->peft; i++) {
		tn_projection p = stack_of[i];
		int fused = p != TN_DOWN && b->out[TN_GATE_UP];
		item.in = fused ? b->in[TN_GATE_UP] : b->in[p];
		item.out = fused ? b->out[TN_GATE_UP] / 2 : b->out[p];
		if (!item.out)
			continue;
		TN_TRY(tn_arena_printf(m->arena, &item.path, err, "%s.%s", front, stacks[i]));
		TN_TRY(tn_base_modules_add(m, &item, err));
	}
	for (int down = 0; down < 2 && m->peft; down++) {
		int fused = !down && b->out[TN_GATE_UP];
		item.in = b->in[fused ? TN_GATE_UP : down ? TN_DOWN : TN_GATE];
		item.out = fused ? b->out[TN_GATE_UP] : down ? b->out[TN_DOWN] : b->out[TN_GATE] + b->out[TN_UP];
		if (!item.out)
			continue;
		TN_TRY(tn_arena_printf(m->arena, &item.path, err, "%s.experts.%s", front, down ? "down_proj" : "gate_up_proj"));
		TN_TRY(tn_base_modules_add(m, &item, err));
	}
	return TN_OK;
}

/* A tensor of the next block ends the one before. */
static tn_status turn_to(struct tn_base_modules *m, struct block *b, const char *name, size_t bytes, struct tn_error *err)
{
	if (b->name && b->bytes == bytes && memcmp(b->name, name, bytes) == 0)
		return TN_OK;
	TN_TRY(add_block(m, b, err));
	*b = (struct block){ .name = name, .bytes = bytes };
	return TN_OK;
}

/* Granite's block_sparse_moe.input_linear.weight [E, 2 out, in] and output_linear.weight [E, out, in], which programs hold as
 * they hold all experts. */
static tn_status look_at_granite(struct tn_base_modules *m, struct block *b, const struct tn_weight *w, int *taken,
				 struct tn_error *err)
{
	static const char block[] = ".block_sparse_moe";
	const char *name = w->tensor->name, *at = w->tensor->rank == 3 ? strstr(name, block) : NULL;
	const char *rest = at ? at + strlen(block) : "";
	int down = strcmp(rest, ".output_linear.weight") == 0;
	if (!down && strcmp(rest, ".input_linear.weight") != 0)
		return TN_OK;
	*taken = 1;
	TN_TRY(turn_to(m, b, name, (size_t)(rest - name), err));
	note(b, down ? TN_DOWN : TN_GATE_UP, w->tensor->shape[0], w->tensor->shape[1], w->last);
	return TN_OK;
}

/* experts.3.w1.weight [out, in], experts.gate_up_proj [E, 2 out, in] or [E, in, 2 out]; for PEFT also mlx-lm's
 * switch_mlp.gate_proj.weight [E, out, in]. *taken: it is one of them. */
static tn_status look_at_expert(struct tn_base_modules *m, struct block *b, const struct tn_weight *w, int *taken,
				struct tn_error *err)
{
	const char *name = w->tensor->name, *at = strstr(name, ".experts."), *stack = m->peft ? strstr(name, ".switch_mlp.") : NULL;
	char last[32];
	if ((!at && !stack) || w->tensor->rank < 2 || w->tensor->rank > 3)
		return TN_OK;
	at = at ? at : stack;
	const char *rest = strchr(at + 1, '.') + 1;
	size_t digits = strspn(rest, "0123456789");
	int single = digits && digits < 10 && rest[digits] == '.' && w->tensor->rank == 2 && tn_ends_with(rest, ".weight");
	const char *part = single ? rest + digits + 1 : rest;
	size_t n = strlen(part) - (single || (stack && tn_ends_with(part, ".weight")) ? strlen(".weight") : 0);
	if ((!single && w->tensor->rank != 3) || n >= sizeof last)
		return TN_OK;
	memcpy(last, part, n);
	last[n] = '\0';
	tn_projection p = tn_projection_of(last);
	if (p == TN_NO_PROJECTION)
		return TN_OK;
	*taken = 1;
	TN_TRY(turn_to(m, b, name, (size_t)(at - name), err));
	if (single) {
		note(b, p, strtoull(rest, NULL, 10) + 1, w->tensor->shape[0], w->last);
		return TN_OK;
	}
	int swapped = !stack && tn_model_has_transposed_experts(m->model_type);
	b->is_transposed = swapped;
	note(b, p, w->tensor->shape[0], swapped ? w->last : w->tensor->shape[1], swapped ? w->tensor->shape[1] : w->last);
	return TN_OK;
}

/* ---- everything else ------------------------------------------------------------------------------------- */

/* name[0..n) as the program calls it. Files of GPT-2 are with and without "transformer." in front; the model of transformers has
 * it, and mlx-lm's has "model." there. */
static tn_status name_part(struct tn_base_modules *m, const char *name, int n, const char **out, struct tn_error *err)
{
	static const char front[] = "transformer.";
	if (strcmp(m->model_type, "gpt2") != 0 || tn_starts_with(name, "lm_head.") || tn_starts_with(name, "model."))
		return name_renamed(m, name, n, out, err);
	if (tn_starts_with(name, front)) {
		name += sizeof front - 1;
		n -= (int)sizeof front - 1;
	}
	return tn_arena_printf(m->arena, out, err, "%s%.*s", m->peft ? front : "model.", n, name);
}

tn_status tn_base_tensor_name(struct tn_base_modules *m, const char *tensor, const char **out, struct tn_error *err)
{
	return name_part(m, tensor, (int)strlen(tensor), out, err);
}

static tn_status look_at_matrix(struct tn_base_modules *m, const struct tn_weight *w, struct tn_error *err)
{
	const struct tn_tensor *t = w->tensor;
	struct tn_base_module item = { .in = w->last, .bits = w->q.mode ? (unsigned)w->q.bits : 0 };
	if (!tn_ends_with(t->name, ".weight") || w->parameters == 0)
		return TN_OK;
	TN_TRY(tn_arena_text(m->arena, t->name, strlen(t->name), &item.weight, err));
	TN_TRY(name_part(m, t->name, (int)(strlen(t->name) - strlen(".weight")), &item.path, err));
	if (t->rank == 3) {
		/* a stack of mlx-lm; a convolution has three dimensions too */
		if (m->peft || !(strstr(item.path, ".switch_mlp.") || strstr(item.path, ".experts.")))
			return TN_OK;
		item.kind = TN_MODULE_EXPERTS;
		item.experts = t->shape[0];
		item.out = t->shape[1];
		return tn_base_modules_add(m, &item, err);
	}
	if (t->rank != 2 || tn_model_rules(m->model_type, item.path) & TN_RULE_PARAMETER)
		return TN_OK;
	item.out = t->shape[0];
	item.is_conv1d = !w->q.mode && tn_model_has_conv1d(m->model_type) && tn_path_is_conv1d(item.path);
	if (tn_path_is_embedding(item.path) || item.is_conv1d) {
		item.kind = item.is_conv1d ? TN_MODULE_LORA : TN_MODULE_EMBEDDING;
		item.in = t->shape[0];
		item.out = w->last;
	}
	return tn_base_modules_add(m, &item, err);
}

static tn_status read_model_type(struct tn_base_modules *m, const tn_checkpoint *base, struct tn_error *err)
{
	json_t *root;
	m->model_type = "";
	if (!base->config)
		return TN_OK;
	TN_TRY(tn_checkpoint_parse_config(base, &root, err));
	const json_t *type = json_object_get(root, "model_type");
	tn_status status = TN_OK;
	if (json_is_string(type))
		status = tn_arena_text(m->arena, json_string_value(type), strlen(json_string_value(type)), &m->model_type, err);
	json_decref(root);
	return status;
}

static tn_status look_at_all(struct tn_base_modules *m, const tn_weight_list *list, struct tn_error *err)
{
	struct block block = { 0 };
	for (size_t i = 0; i < tn_weight_list_count(list); i++) {
		const struct tn_weight *w = tn_weight_list_at(list, i);
		int taken = 0;
		if (!w->q.mode && !tn_dtype_is_float(w->tensor->dtype))
			continue;
		TN_TRY(look_at_granite(m, &block, w, &taken, err));
		if (!taken)
			TN_TRY(look_at_expert(m, &block, w, &taken, err));
		if (!taken)
			TN_TRY(look_at_matrix(m, w, err));
	}
	return add_block(m, &block, err);
}

tn_status tn_base_modules_list(struct tn_arena *arena, const tn_checkpoint *base, int peft, struct tn_base_modules *out,
			       struct tn_error *err)
{
	tn_weight_list *list;
	*out = (struct tn_base_modules){ .arena = arena, .peft = peft };
	TN_TRY(read_model_type(out, base, err));
	TN_TRY(tn_weight_list_create(base->ctx, base, &list, err));
	tn_status status = look_at_all(out, list, err);
	tn_weight_list_destroy(list);
	return status;
}
