/* SPDX-License-Identifier: Apache-2.0 */
/* A joint from its beginning, which is what the base says, to its end, when all adapters have landed. */
#include "adapter/land.h"

#include "adapter/identity.h"
#include "adapter/selection.h"
#include "base/error.h"
#include "base/sort.h"
#include "store/json_doc.h"
#include "weights/foreign.h"

#include <string.h>

/* ---- the base -------------------------------------------------------------------------------------------- */

static size_t first_of(const struct tn_joint *j, const char *const *names)
{
	size_t found = TN_NO_TARGET;
	for (; *names && found == TN_NO_TARGET; names++)
		found = tn_joint_find(j, *names);
	return found;
}

/* InternLM's head is called so, and much else is: a head has the table's shape. */
static size_t find_output(const struct tn_joint *j)
{
	size_t found = tn_joint_find(j, "output.weight");
	if (found == TN_NO_TARGET || j->embedding == TN_NO_TARGET)
		return found;
	const struct tn_tensor *a = tn_target_source(&j->targets[found]), *b = tn_target_source(&j->targets[j->embedding]);
	int fits = a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
	return fits ? found : TN_NO_TARGET;
}

static uint64_t read_count(const json_t *root, const char *key)
{
	const json_t *value = json_object_get(root, key);
	if (!value)
		value = json_object_get(json_object_get(root, "text_config"), key);
	return json_is_integer(value) && json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;
}

/* Head and input embedding are one when there is no head, or when config.json ties what the file holds twice. */
static tn_status read_base(struct tn_joint *j, struct tn_error *err)
{
	static const char *const embeddings[] = { "embed_tokens.weight", "wte.weight", "word_embeddings.weight",
						  "embed_in.weight", "tok_embeddings.weight", NULL };
	static const char *const heads[] = { "lm_head.weight", "embed_out.weight", NULL };
	json_t *root = NULL;
	j->model_type = "";
	if (j->base->config)
		TN_TRY(tn_checkpoint_parse_config(j->base, &root, err));
	const json_t *type = json_object_get(root, "model_type");
	tn_status status = TN_OK;
	if (json_is_string(type))
		status = tn_arena_text(j->arena, json_string_value(type), strlen(json_string_value(type)), &j->model_type, err);
	j->heads = read_count(root, "num_attention_heads");
	j->kv_heads = read_count(root, "num_key_value_heads");
	j->kv_heads = j->kv_heads ? j->kv_heads : j->heads;
	j->embedding = first_of(j, embeddings);
	j->head = first_of(j, heads);
	if (j->head == TN_NO_TARGET)
		j->head = find_output(j);
	j->tied = j->embedding != TN_NO_TARGET && (j->head == TN_NO_TARGET || tn_config_ties(root));
	json_decref(root);
	return status;
}

static tn_status list_targets(struct tn_joint *j, struct tn_error *err)
{
	if (j->adapter && tn_foreign_set_count(j->foreign))
		return tn_fail(err, TN_E_UNSUPPORTED, j->adapter->path, "'%.200s' repeats layers (layer_replication), and "
			       "'%.200s' is packed by another library; run tenon convert --to mlx, or tenon dequantize, on the "
			       "base first",
			       j->adapter->path, j->base->path);
	if (j->adapter)
		return tn_joint_replicate(j, err);
	for (size_t i = 0; i < tn_checkpoint_count(j->base); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(j->base, i);
		const struct tn_foreign *f = tn_joint_foreign_of(j, t);
		size_t at;
		TN_TRY(tn_joint_add_target(j, f ? f->weight.name : t->name, t, &at, err));
	}
	return TN_OK;
}

/* ---- all adapters ------------------------------------------------------------------------------------------ */

static int compare_landings(const void *a, const void *b)
{
	const struct tn_landing *x = a, *y = b;
	if (x->target != y->target)
		return x->target < y->target ? -1 : 1;
	if (x->target_row != y->target_row)
		return x->target_row < y->target_row ? -1 : 1;
	return (x->slot > y->slot) - (x->slot < y->slot);
}

struct pair_of_target {
	const char *name;
	size_t at;
};

static int compare_targets(const void *a, const void *b)
{
	return strcmp(((const struct pair_of_target *)a)->name, ((const struct pair_of_target *)b)->name);
}

/* What was target `i` is target moved[i]. */
static void move_targets(struct tn_joint *j, const size_t *moved)
{
	j->embedding = j->embedding == TN_NO_TARGET ? TN_NO_TARGET : moved[j->embedding];
	j->head = j->head == TN_NO_TARGET ? TN_NO_TARGET : moved[j->head];
	for (size_t i = 0; i < j->slot_count; i++)
		j->slots[i].target = moved[j->slots[i].target];
	for (size_t i = 0; i < j->landing_count; i++)
		j->landings[i].target = moved[j->landings[i].target];
}

static tn_status sort_targets(struct tn_joint *j, struct tn_error *err)
{
	struct pair_of_target *order;
	size_t *moved;
	struct tn_target *targets;
	TN_TRY(tn_arena_array(j->arena, j->target_count, sizeof *order, &order, err));
	TN_TRY(tn_arena_array(j->arena, j->target_count, sizeof *moved, &moved, err));
	TN_TRY(tn_arena_array(j->arena, j->target_count, sizeof *targets, &targets, err));
	for (size_t i = 0; i < j->target_count; i++)
		order[i] = (struct pair_of_target){ j->targets[i].name, i };
	qsort(order, j->target_count, sizeof *order, compare_targets);
	for (size_t i = 0; i < j->target_count; i++) {
		targets[i] = j->targets[order[i].at];
		moved[order[i].at] = i;
		if (i && strcmp(targets[i].name, targets[i - 1].name) == 0)
			return tn_fail(err, TN_E_MISMATCH, targets[i].name, "two tensors of the result are called '%.100s'",
				       targets[i].name);
	}
	j->targets = targets;
	move_targets(j, moved);
	return TN_OK;
}

/* Targets into the order of names, in which a checkpoint lists them, landings behind them. */
static tn_status sort_joint(struct tn_joint *j, struct tn_error *err)
{
	int order = -1;
	for (size_t i = 1; i < j->target_count && order < 0; i++)
		order = strcmp(j->targets[i - 1].name, j->targets[i].name);
	if (order >= 0)
		TN_TRY(sort_targets(j, err));
	tn_sort(j->landings, j->landing_count, sizeof *j->landings, compare_landings);
	TN_TRY(tn_joint_stack(j, err));
	for (size_t i = j->landing_count; i-- > 0;) {
		j->targets[j->landings[i].target].first_landing = i;
		j->targets[j->landings[i].target].landing_count++;
	}
	tn_joint_drop_copy(j);
	return TN_OK;
}

static tn_status land_modules(struct tn_joint *j, struct tn_error *err)
{
	size_t *targets;
	j->own_landings = j->landing_count;
	TN_TRY(tn_arena_array(j->arena, j->adapter->count, sizeof *targets, &targets, err));
	j->entry_target = targets;
	for (int saved = 1; saved >= 0; saved--)
		for (size_t i = 0; i < j->adapter->count; i++) {
			tn_status status = tn_joint_land_entry(j, i, saved, targets, err);
			if (status == TN_E_MISMATCH)
				tn_joint_name_misfits(j, i, saved, targets);
			TN_TRY(status);
		}
	TN_TRY(tn_joint_check_selection(j, err));
	TN_TRY(tn_joint_check_complete(j, err));
	TN_TRY(tn_joint_settle_ties(j, err));
	return tn_joint_check_base(j, err);
}

/* All modules of one adapter. With target_parameters, PEFT's default would add modules that such files have no factors for. */
static tn_status land_adapter(struct tn_joint *j, const struct tn_weighted_adapter *adapter, struct tn_error *err)
{
	struct tn_adapter_config config = adapter->adapter->config;
	const char *targets = config.dialect == TN_DIALECT_PEFT && config.target.kind == TN_RULE_ABSENT && !config.parameters.count
			      ? tn_default_targets(j->model_type, config.adalora_rank > 0) : NULL;
	if (targets)
		TN_TRY(tn_rule_of_targets(j->arena, targets, &config.target, err));
	j->adapter = adapter->adapter;
	j->config = &config;
	j->weight = adapter->weight;
	tn_status status = land_modules(j, err);
	j->config = NULL;
	if (targets)
		tn_regex_free(config.target.regex);
	return status;
}

static tn_status check_replications(const struct tn_weighted_adapter *adapters, size_t count, struct tn_error *err)
{
	for (size_t i = 0; i < count && count > 1; i++)
		if (adapters[i].adapter->config.replication_count)
			return tn_fail(err, TN_E_UNSUPPORTED, adapters[i].adapter->path,
				       "'%.200s' repeats layers "
				       "(layer_replication), which cannot be combined with other adapters; fuse it alone",
				       adapters[i].adapter->path);
	return TN_OK;
}

/* All that the base says. `repeating` is the adapter that repeats its layers, or NULL. */
static tn_status open_joint(const tn_checkpoint *base, const tn_adapter *repeating, int is_live, struct tn_arena *arena,
			    struct tn_joint **out, struct tn_error *err)
{
	struct tn_joint *j;
	tn_quant_config *quant = NULL;
	TN_TRY(tn_arena_alloc(arena, sizeof *j, &j, err));
	*j = (struct tn_joint){ .ctx = base->ctx, .base = base, .arena = arena, .adapter = repeating, .is_live = is_live,
				.embedding = TN_NO_TARGET, .head = TN_NO_TARGET };
	if (base->config)
		TN_TRY(tn_quant_config_parse(base->ctx, base->config, &quant, err));
	j->quant = quant;
	tn_status status = tn_foreign_set_create_in(arena, base->ctx, base, &j->foreign, err);
	if (status == TN_OK)
		status = list_targets(j, err);
	if (status == TN_OK)
		status = tn_joint_index(j, err);
	if (status == TN_OK)
		status = read_base(j, err);
	if (status != TN_OK)
		tn_quant_config_destroy(quant);
	else
		*out = j;
	return status;
}

static tn_status land_all(struct tn_joint *j, const struct tn_weighted_adapter *adapters, size_t count, struct tn_error *err)
{
	for (size_t i = 0; i < count; i++)
		TN_TRY(land_adapter(j, &adapters[i], err));
	return sort_joint(j, err);
}

static tn_status make_joint(const struct tn_weighted_adapter *adapters, size_t count, const tn_checkpoint *base, int is_live,
			    struct tn_arena *arena, struct tn_joint **out, struct tn_error *err)
{
	const tn_adapter *first = adapters[0].adapter;
	struct tn_joint *j;
	TN_TRY(check_replications(adapters, count, err));
	TN_TRY(open_joint(base, first->config.replication_count ? first : NULL, is_live, arena, &j, err));
	tn_status status = land_all(j, adapters, count, err);
	tn_joint_close_base(j);
	if (status == TN_OK)
		*out = j;
	return status;
}

tn_status tn_joint_open_base(const tn_checkpoint *base, struct tn_arena *arena, struct tn_joint **out, struct tn_error *err)
{
	return open_joint(base, NULL, 1, arena, out, err);
}

void tn_joint_close_base(struct tn_joint *j)
{
	if (!j)
		return;
	tn_quant_config_destroy(j->quant);
	j->quant = NULL;
}

tn_status tn_joint_make_all(const struct tn_weighted_adapter *adapters, size_t count, const tn_checkpoint *base,
			    struct tn_arena *arena, struct tn_joint **out, struct tn_error *err)
{
	return make_joint(adapters, count, base, 0, arena, out, err);
}

tn_status tn_joint_make_live(const struct tn_weighted_adapter *adapters, size_t count, const struct tn_joint *empty,
			     struct tn_arena *arena, struct tn_joint **out, struct tn_error *err)
{
	struct tn_joint *j;
	if (adapters[0].adapter->config.replication_count)
		return make_joint(adapters, count, empty->base, 1, arena, out, err);
	TN_TRY(check_replications(adapters, count, err));
	TN_TRY(tn_arena_alloc(arena, sizeof *j, &j, err));
	*j = *empty;
	j->arena = arena;
	j->target_room = empty->target_count;
	TN_TRY(tn_arena_array(arena, j->target_count, sizeof *j->targets, &j->targets, err));
	if (j->target_count)
		memcpy(j->targets, empty->targets, j->target_count * sizeof *j->targets);
	TN_TRY(land_all(j, adapters, count, err));
	*out = j;
	return TN_OK;
}

tn_status tn_joint_make(const tn_adapter *adapter, const tn_checkpoint *base, struct tn_arena *arena,
			struct tn_joint **out, struct tn_error *err)
{
	struct tn_weighted_adapter one = { adapter, 1 };
	return tn_joint_make_all(&one, 1, base, arena, out, err);
}
