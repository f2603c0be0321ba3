/* SPDX-License-Identifier: Apache-2.0 */
/* From an adapter to pairs of factors by modules of the base: it lands as for a fuse, and what its landings change is looked up
 * among the rows that the modules are. */
#include "adapter/pairs.h"

#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/sort.h"
#include "base/text.h"

#include <string.h>

/* Rows of a tensor that are rows of a module. */
struct piece_of_module {
	const char *tensor;
	size_t module;
	struct tn_module_piece at;
};

struct loading {
	struct tn_arena *arena, *work;   /* of the result; of what is needed until it is there */
	const tn_adapter *adapter;
	struct tn_pairs *pairs;
	struct tn_joint *empty, *joint;  /* the base; the adapter on it */
	struct piece_of_module *pieces;  /* in the order of tensors and rows */
	size_t piece_count;
	struct tn_pair_part *parts;
	size_t part_count, part_room;
};

/* ---- pieces ---------------------------------------------------------------------------------------------- */

static int compare_pieces(const void *a, const void *b)
{
	const struct piece_of_module *x = a, *y = b;
	int order = strcmp(x->tensor, y->tensor);
	return order ? order : (x->at.target_row > y->at.target_row) - (x->at.target_row < y->at.target_row);
}

/* mlx-lm has two modules where a transposed stack has one tensor without rows of its own for either. */
static int has_pieces(const struct tn_base_module *m)
{
	return !m->is_transposed || m->of_parameter;
}

static tn_status list_pieces(struct loading *l, struct tn_error *err)
{
	const struct tn_base_modules *m = &l->pairs->modules;
	size_t room = 0;
	for (size_t i = 0; i < m->count; i++)
		room += m->items[i].weight ? 1 : (size_t)(2 * m->items[i].experts);
	room += l->empty->target_count + 1;   /* for those of no module in the list */
	TN_TRY(tn_arena_array(l->work, room, sizeof *l->pieces, &l->pieces, err));
	for (size_t i = 0; i < m->count; i++) {
		struct tn_module_piece *pieces;
		size_t count;
		if (!has_pieces(&m->items[i]))
			continue;
		TN_TRY(tn_module_pieces(l->empty, &m->items[i], &pieces, &count, err));
		for (size_t k = 0; k < count; k++)
			l->pieces[l->piece_count++] =
				(struct piece_of_module){ l->empty->targets[pieces[k].target].name, i, pieces[k] };
	}
	tn_sort(l->pieces, l->piece_count, sizeof *l->pieces, compare_pieces);
	return TN_OK;
}

/* The first piece of that tensor, or the count of all. */
static size_t first_piece(const struct loading *l, const char *tensor)
{
	size_t low = 0, high = l->piece_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(l->pieces[middle].tensor, tensor) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < l->piece_count && strcmp(l->pieces[low].tensor, tensor) == 0 ? low : l->piece_count;
}

/* ---- modules that the list does not have ------------------------------------------------------------------ */

/* The same ones for every adapter of a base, so that modules have the same places in all lists. */
static tn_status add_module(struct loading *l, struct tn_base_module *item, const char *tensor, struct tn_error *err)
{
	struct tn_module_piece all = { TN_NO_TARGET, 0, 0, 0, item->out };
	TN_TRY(tn_arena_text(l->arena, tensor, strlen(tensor), &item->weight, err));
	l->pieces[l->piece_count++] = (struct piece_of_module){ item->weight, l->pairs->modules.count, all };
	return tn_base_modules_add(&l->pairs->modules, item, err);
}

/* A matrix that is no layer is a parameter in PEFT. */
static tn_status add_parameter(struct loading *l, const struct tn_target *t, struct tn_error *err)
{
	const struct tn_tensor *w = tn_target_source(t);
	struct tn_base_module item = { .kind = TN_MODULE_LORA, .of_parameter = 1, .experts = 1 };
	if (w->rank != 2 || !tn_ends_with(t->name, ".weight") || !tn_dtype_is_float(w->dtype))
		return TN_OK;
	item.in = w->shape[1];
	item.out = w->shape[0];
	TN_TRY(tn_base_tensor_name(&l->pairs->modules, t->name, &item.path, err));
	return add_module(l, &item, t->name, err);
}

/* Of a base whose table is the head too. For mlx-lm it is no module, but what PEFT's adapter does to it has to be looked at. */
static tn_status add_tied_head(struct loading *l, struct tn_error *err)
{
	const struct tn_joint *j = l->empty;
	if (!j->tied || j->head != TN_NO_TARGET)
		return TN_OK;
	const struct tn_tensor *w = tn_target_source(&j->targets[j->embedding]);
	const char *name = tn_head_of_table(j->targets[j->embedding].name);
	struct tn_base_module item = { .kind = TN_MODULE_LORA, .in = w->shape[1], .out = w->shape[0] };
	TN_TRY(tn_arena_text(l->arena, name, strlen(name) - strlen(".weight"), &item.path, err));
	return add_module(l, &item, name, err);
}

static tn_status add_modules(struct loading *l, struct tn_error *err)
{
	const struct loading listed = { .pieces = l->pieces, .piece_count = l->piece_count };
	for (size_t i = 0; i < l->empty->target_count && l->pairs->modules.peft; i++)
		if (first_piece(&listed, l->empty->targets[i].name) == listed.piece_count)
			TN_TRY(add_parameter(l, &l->empty->targets[i], err));
	TN_TRY(add_tied_head(l, err));
	tn_sort(l->pieces, l->piece_count, sizeof *l->pieces, compare_pieces);
	return TN_OK;
}

/* ---- parts ----------------------------------------------------------------------------------------------- */

static tn_status add_part(struct loading *l, const struct tn_pair_part *part, struct tn_error *err)
{
	if (l->part_count == l->part_room) {
		struct tn_pair_part *grown;
		size_t room = l->part_room ? 2 * l->part_room : 256;
		TN_TRY(tn_arena_array(l->work, room, sizeof *grown, &grown, err));
		if (l->part_count)
			memcpy(grown, l->parts, l->part_count * sizeof *grown);
		l->parts = grown;
		l->part_room = room;
	}
	l->parts[l->part_count++] = *part;
	return TN_OK;
}

/* Rows of one group of the entry and of one of the module. */
static tn_status add_rows(struct loading *l, struct tn_pair_part part, struct tn_error *err)
{
	uint64_t out = l->pairs->modules.items[part.module].out, entry_out = part.slot->entry->module.out_features;
	for (uint64_t left = part.rows; left; left -= part.rows) {
		part.rows = tn_min_u64(left, tn_min_u64(out - part.module_row % out, entry_out - part.entry_row % entry_out));
		TN_TRY(add_part(l, &part, err));
		part.module_row += part.rows;
		part.entry_row += part.rows;
	}
	return TN_OK;
}

static tn_status refuse(const struct loading *l, const struct tn_landing *landing, struct tn_error *err)
{
	const struct tn_slot *slot = &l->joint->slots[landing->slot];
	const char *dialect = l->pairs->dialect == TN_DIALECT_PEFT ? "PEFT" : "mlx-lm";
	return tn_fail(err, TN_E_UNSUPPORTED, slot->entry->module.path, "'%.100s' changes '%.100s' of the base, and %s has no "
		       "module of these rows that could take factors; fuse the adapter into the base instead (tenon fuse)",
		       slot->entry->module.path, l->joint->targets[landing->target].name, dialect);
}

/* 1 when the landing is all of the piece and of its entry, so that groups stand for groups. */
static int is_whole(const struct loading *l, const struct tn_landing *landing, const struct piece_of_module *p)
{
	const struct tn_slot *slot = &l->joint->slots[landing->slot];
	const struct tn_adapter_entry *e = slot->entry;
	const struct tn_base_module *m = &l->pairs->modules.items[p->module];
	uint64_t groups = m->kind == TN_MODULE_EXPERTS ? m->experts : 1;
	uint64_t rows = slot->shape.rows_are_inputs ? e->module.in_features : e->module.out_features;
	return e->groups == groups && landing->delta_row == 0 && landing->target_row == 0 && landing->rows == e->groups * rows &&
	       p->at.module_row == 0 && p->at.target_row == 0 && p->at.rows == landing->rows;
}

static tn_status look_up(struct loading *l, const struct tn_landing *landing, struct tn_error *err)
{
	const struct tn_slot *slot = &l->joint->slots[landing->slot];
	const struct tn_target *target = &l->joint->targets[landing->target];
	/* a target that is new is the head of a tied base, by whatever name the adapter has for it */
	const char *tensor = target->is_new && l->empty->tied ? tn_head_of_table(l->empty->targets[l->empty->embedding].name)
							       : target->name;
	uint64_t end = landing->target_row + landing->rows, found = 0;
	for (size_t i = first_piece(l, tensor); i < l->piece_count && strcmp(l->pieces[i].tensor, tensor) == 0; i++) {
		const struct tn_module_piece *p = &l->pieces[i].at;
		uint64_t low = tn_max_u64(p->target_row, landing->target_row), high = tn_min_u64(p->target_row + p->rows, end);
		if (low >= high)
			continue;
		struct tn_pair_part part = { .module = l->pieces[i].module, .slot = slot, .rows = high - low };
		part.is_whole = is_whole(l, landing, &l->pieces[i]);
		part.entry_row = landing->delta_row + (low - landing->target_row);
		part.module_row = p->module_row + (low - p->target_row);
		if (!part.is_whole && (slot->shape.rows_are_inputs || p->rows_are_inputs))
			return refuse(l, landing, err);
		TN_TRY(part.is_whole ? add_part(l, &part, err) : add_rows(l, part, err));
		found += high - low;
	}
	return found == landing->rows ? TN_OK : refuse(l, landing, err);
}

static int compare_parts(const void *a, const void *b)
{
	const struct tn_pair_part *x = a, *y = b;
	if (x->module != y->module)
		return x->module < y->module ? -1 : 1;
	return (x->module_row > y->module_row) - (x->module_row < y->module_row);
}

static tn_status list_parts(struct loading *l, struct tn_error *err)
{
	const struct tn_joint *j = l->joint;
	for (size_t i = 0; i < j->landing_count; i++)
		if (j->slots[j->landings[i].slot].kind == TN_SLOT_DELTA)
			TN_TRY(look_up(l, &j->landings[i], err));
	tn_sort(l->parts, l->part_count, sizeof *l->parts, compare_parts);
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

/* What no landing tells. */
static tn_status check_adapter(const tn_adapter *a, tn_adapter_dialect dialect, struct tn_error *err)
{
	if (a->config.replication_count)
		return tn_fail(err, TN_E_UNSUPPORTED, a->path, "'%.200s' repeats layers of its base (layer_replication), which "
			       "no other file can say; fuse it into the base instead (tenon fuse)", a->path);
	for (size_t i = 0; i < a->count; i++) {
		const struct tn_adapter_module *m = &a->entries[i].module;
		if (a->entries[i].list_place && dialect == TN_DIALECT_MLX_LM)
			return tn_fail(err, TN_E_UNSUPPORTED, m->path, "'%.100s' has a list of factors, which mlx-lm writes and "
				       "does not load; fuse the adapter into the base instead (tenon fuse)", m->path);
		if (a->entries[i].is_attention_output)
			return tn_fail(err, TN_E_UNSUPPORTED, m->path, "'%.100s' belongs to a MultiheadAttention, whose factors "
				       "count twice in PEFT and nowhere else; fuse the adapter into the base instead (tenon "
				       "fuse)", m->path);
	}
	return TN_OK;
}

static int is_zero(const float *values, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		if (values[i] != 0)
			return 0;
	return 1;
}

static int is_untrained(const struct tn_pair *p)
{
	return is_zero(p->b, p->groups * p->out * p->rank);
}

/* The half of a split pair that nobody trained is left out: gate and up are one parameter in PEFT, and two modules in mlx-lm. */
static tn_status drop_untrained_halves(struct loading *l, const struct tn_slot *const *slots, struct tn_error *err)
{
	struct tn_pairs *p = l->pairs;
	unsigned char *untrained;
	size_t kept = 0;
	TN_TRY(tn_arena_array(l->work, p->count, 1, &untrained, err));
	for (size_t i = 0; i < p->count; i++)
		untrained[i] = p->items[i].module->kind == TN_MODULE_EXPERTS && is_untrained(&p->items[i]);
	for (size_t i = 0; i < p->count; i++) {
		int is_trained_elsewhere = 0;
		for (size_t k = 0; k < p->count && untrained[i]; k++)
			is_trained_elsewhere |= slots[k] == slots[i] && !untrained[k];
		if (!is_trained_elsewhere)
			p->items[kept++] = p->items[i];
	}
	p->count = kept;
	return TN_OK;
}

static tn_status make_pairs(struct loading *l, struct tn_error *err)
{
	struct tn_pairs *p = l->pairs;
	const struct tn_slot **slots;
	TN_TRY(tn_arena_array(l->arena, p->modules.count + 1, sizeof *p->items, &p->items, err)); /* and a tied head */
	TN_TRY(tn_arena_array(l->work, p->modules.count, sizeof *slots, &slots, err));
	for (size_t i = 0, next; i < l->part_count; i = next) {
		for (next = i; next < l->part_count && l->parts[next].module == l->parts[i].module; next++)
			continue;
		TN_TRY(tn_pair_make(l->joint, l->arena, &p->modules.items[l->parts[i].module], l->parts + i, next - i,
				    &p->items[p->count], err));
		slots[p->count++] = l->parts[i].slot;
	}
	return drop_untrained_halves(l, slots, err);
}

static int compare_pairs(const void *a, const void *b)
{
	const struct tn_pair *x = a, *y = b;
	return (x->module > y->module) - (x->module < y->module);
}

static tn_status load(struct loading *l, const tn_checkpoint *base, struct tn_error *err)
{
	struct tn_weighted_adapter one = { l->adapter, 1 };
	struct tn_pairs *p = l->pairs;
	TN_TRY(check_adapter(l->adapter, p->dialect, err));
	TN_TRY(tn_base_modules_list(l->arena, base, p->dialect == TN_DIALECT_PEFT, &p->modules, err));
	TN_TRY(tn_joint_open_base(base, l->work, &l->empty, err));
	TN_TRY(tn_joint_make_live(&one, 1, l->empty, l->work, &l->joint, err));
	TN_TRY(list_pieces(l, err));
	TN_TRY(add_modules(l, err));
	TN_TRY(list_parts(l, err));
	TN_TRY(make_pairs(l, err));
	TN_TRY(tn_pairs_settle_tie(p, l->arena, l->empty, l->adapter, err));
	tn_sort(p->items, p->count, sizeof *p->items, compare_pairs);
	TN_TRY(tn_wholes_load(p, l->arena, l->empty, l->adapter, err));
	p->dropout = l->adapter->config.dropout;
	const struct tn_adapter_config *c = &l->adapter->config;
	if (c->base_name)
		TN_TRY(tn_arena_text(l->arena, c->base_name, strlen(c->base_name), &p->base_name, err));
	return c->task_type ? tn_arena_text(l->arena, c->task_type, strlen(c->task_type), &p->task_type, err) : TN_OK;
}

tn_status tn_pairs_load(struct tn_arena *arena, const tn_adapter *adapter, const tn_checkpoint *base, tn_adapter_dialect dialect,
			struct tn_pairs *out, struct tn_error *err)
{
	struct tn_arena work;
	struct loading l = { .arena = arena, .work = &work, .adapter = adapter, .pairs = out };
	tn_arena_init(&work, adapter->ctx);
	*out = (struct tn_pairs){ .dialect = dialect };
	tn_status status = load(&l, base, err);
	tn_joint_close_base(l.empty);
	tn_arena_release(&work);
	return status;
}
