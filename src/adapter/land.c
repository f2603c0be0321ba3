/* SPDX-License-Identifier: Apache-2.0 */
/* Every module of the adapter lands on its tensors of the base, or the error says which one could not and why. */
#include "adapter/land.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"
#include "weights/foreign.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST_NAME = 1024 };

/* ---- the lists ------------------------------------------------------------------------------------------- */

/* Grows an array of the arena; the old one stays in it until the end, which doubling keeps below the new one's size. */
static tn_status grow(struct tn_arena *arena, void *array, size_t *room, size_t count, size_t size, struct tn_error *err)
{
	void *old, *p;
	if (count < *room)
		return TN_OK;
	size_t wanted = *room ? 2 * *room : 64;
	TN_TRY(tn_arena_array(arena, wanted, size, &p, err));
	memcpy(&old, array, sizeof old);
	if (count)
		memcpy(p, old, count * size);
	memcpy(array, &p, sizeof p);
	*room = wanted;
	return TN_OK;
}

struct tn_foreign *tn_joint_foreign_of(const struct tn_joint *j, const struct tn_tensor *t)
{
	int codes = 0;
	struct tn_foreign *f = tn_foreign_set_count(j->foreign) ? tn_foreign_set_owner(j->foreign, t, &codes) : NULL;
	return codes ? f : NULL;
}

/* The matrix that a packed weight is, and what it looks like unpacked. */
static tn_status find_matrix_of(struct tn_joint *j, struct tn_target *t, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(j->base);
	struct tn_matrix *m;
	struct tn_tensor *logical;
	uint64_t *shape;
	struct tn_foreign *f = tn_joint_foreign_of(j, t->base);
	if (!f && (!tn_ends_with(t->base->name, ".weight") || !tn_is_triple(j->base, t->base)))
		return TN_OK;
	TN_TRY(tn_arena_alloc(j->arena, sizeof *m, &m, err));
	TN_TRY(f ? tn_matrix_of_foreign(j->foreign, f, j->arena, m, err) : tn_matrix_find(&source, j->quant, t->base, m, err));
	TN_TRY(tn_arena_alloc(j->arena, sizeof *logical, &logical, err));
	t->matrix = m;
	t->logical = logical;
	if (f) {
		*logical = f->weight;
		logical->dtype = f->dtype;
		logical->bytes = logical->elements * tn_dtype_bits(logical->dtype) / 8;
		return TN_OK;
	}
	TN_TRY(tn_arena_array(j->arena, t->base->rank, sizeof *shape, &shape, err));
	memcpy(shape, t->base->shape, t->base->rank * sizeof *shape);
	shape[t->base->rank - 1] = m->cols;
	*logical = *t->base;
	logical->shape = shape;
	logical->dtype = tn_matrix_dtype(m);
	logical->elements = m->rows * m->cols;
	logical->bytes = logical->elements * tn_dtype_bits(logical->dtype) / 8;
	return TN_OK;
}

tn_status tn_joint_add_target(struct tn_joint *j, const char *name, const struct tn_tensor *base, size_t *out,
			      struct tn_error *err)
{
	TN_TRY(grow(j->arena, &j->targets, &j->target_room, j->target_count, sizeof *j->targets, err));
	struct tn_target target = { .name = name, .base = base };
	if (base)
		TN_TRY(find_matrix_of(j, &target, err));
	target.is_layer = base && base->rank == 2 && tn_ends_with(name, ".weight") && !strstr(name, ".experts.");
	j->targets[j->target_count] = target;
	*out = j->target_count++;
	return TN_OK;
}

/* Of what is not a product of factors there is no part. */
static tn_status check_weight(const struct tn_slot *slot, struct tn_error *err)
{
	if (slot->weight == 1 || (slot->kind != TN_SLOT_TOKENS && slot->change == TN_BASE_AS_IS))
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, slot->entry->module.path, "'%.100s' %s, and that cannot be done by a weight of %g; "
		       "give the adapter the weight 1", slot->entry->module.path, slot->kind == TN_SLOT_TOKENS ? "replaces rows"
		       : "was trained beside a part that it took out of the base", slot->weight);
}

tn_status tn_joint_add_slot(struct tn_joint *j, const struct tn_adapter_entry *entry, tn_slot_kind kind,
			    const struct tn_delta_shape *shape, size_t target, uint64_t cols, size_t *out,
			    struct tn_error *err)
{
	static const struct tn_delta_shape plain = { 0, 1, 0 };
	TN_TRY(grow(j->arena, &j->slots, &j->slot_room, j->slot_count, sizeof *j->slots, err));
	/* a base weight that the adapter brings along has lost its part already */
	int linear = (entry->module.kind == TN_MODULE_LORA || entry->module.kind == TN_MODULE_DORA) &&
		     !j->targets[target].replacement;
	j->slots[j->slot_count] = (struct tn_slot){
		.adapter = j->adapter, .entry = entry, .weight = j->weight,
		.rank = kind == TN_SLOT_DELTA ? entry->module.rank : 1,
		.kind = kind, .shape = shape ? *shape : plain, .target = target, .cols = cols,
		.change = kind == TN_SLOT_DELTA && linear ? j->adapter->config.base_change : TN_BASE_AS_IS,
	};
	TN_TRY(check_weight(&j->slots[j->slot_count], err));
	*out = j->slot_count++;
	return TN_OK;
}

tn_status tn_joint_add_landing(struct tn_joint *j, size_t target, size_t slot, uint64_t target_row, uint64_t delta_row,
			       uint64_t rows, struct tn_error *err)
{
	struct tn_target *t = &j->targets[target];
	if (t->matrix && t->matrix->cols != j->slots[slot].cols)
		return tn_fail(err, TN_E_UNSUPPORTED, j->slots[slot].entry->module.path, "'%.100s' changes rows of %llu, and "
			       "'%.100s' is quantized along rows of %llu", j->slots[slot].entry->module.path,
			       (unsigned long long)j->slots[slot].cols, t->name, (unsigned long long)t->matrix->cols);
	if (t->cols && t->cols != j->slots[slot].cols)
		return tn_fail(err, TN_E_MISMATCH, j->slots[slot].entry->module.path, "'%.100s' changes '%.100s' by rows of "
			       "%llu, and another module by rows of %llu", j->slots[slot].entry->module.path, t->name,
			       (unsigned long long)j->slots[slot].cols, (unsigned long long)t->cols);
	t->cols = j->slots[slot].cols;
	TN_TRY(grow(j->arena, &j->landings, &j->landing_room, j->landing_count, sizeof *j->landings, err));
	j->landings[j->landing_count++] = (struct tn_landing){ target, slot, target_row, delta_row, rows };
	return TN_OK;
}

tn_status tn_joint_edit_config(struct tn_joint *j, const char *key, int is_flag, uint64_t value, struct tn_error *err)
{
	for (size_t i = 0; i < j->edit_count; i++)
		if (strcmp(j->edits[i].key, key) == 0) {
			if (j->edits[i].value == value)
				return TN_OK;
			return tn_fail(err, TN_E_MISMATCH, key, "the adapter wants '%s' to be %llu and %llu at once", key,
				       (unsigned long long)j->edits[i].value, (unsigned long long)value);
		}
	j->edits[j->edit_count++] = (struct tn_config_edit){ key, is_flag, value };
	return TN_OK;
}

/* ---- the base -------------------------------------------------------------------------------------------- */

/* GPT-2's Conv1D keeps its weight as [in, out]. */
static int is_conv1d(const struct tn_joint *j, const char *path)
{
	int fits = tn_model_has_conv1d(j->model_type) || (!*j->model_type && j->adapter->config.fan_in_fan_out);
	return fits && tn_path_is_conv1d(path);
}

/* A quantized table has its scales and biases copied with it. */
static tn_status untie_parts(struct tn_joint *j, const char *head, struct tn_error *err)
{
	static const char *const suffixes[] = { ".scales", ".biases", ".global_scale" };
	const struct tn_matrix *m = j->targets[j->embedding].matrix;
	if (!m)
		return TN_OK;
	const struct tn_tensor *parts[] = { m->part[TN_PART_SCALES], m->part[TN_PART_BIASES], m->global_scale };
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		const char *name;
		size_t at;
		if (!parts[i])
			continue;
		TN_TRY(tn_arena_printf(j->arena, &name, err, "%.*s%s", (int)tn_layer_length(head), head, suffixes[i]));
		TN_TRY(tn_joint_add_target(j, name, parts[i], &at, err));
		j->targets[at].is_new = 1;
	}
	return TN_OK;
}

const char *tn_head_of_table(const char *table)
{
	if (tn_starts_with(table, "language_model."))
		return "language_model.lm_head.weight";
	return tn_ends_with(table, "embed_in.weight") ? "embed_out.weight" : "lm_head.weight";
}

tn_status tn_joint_untie(struct tn_joint *j, const char *head_path, size_t *head, struct tn_error *err)
{
	if (j->head == TN_NO_TARGET) {
		const struct tn_target *embedding = &j->targets[j->embedding];
		if (embedding->matrix && embedding->matrix->foreign)
			return tn_fail(err, TN_E_UNSUPPORTED, embedding->name,
				       "'%.100s' is packed as %s, and the adapter "
				       "changes the head that is tied to it; run tenon dequantize on the base first",
				       embedding->name, embedding->matrix->foreign->scheme);
		const char *name = tn_head_of_table(embedding->name);
		if (head_path)
			TN_TRY(tn_arena_printf(j->arena, &name, err, "%s.weight", head_path));
		const struct tn_tensor *base = embedding->base;
		TN_TRY(tn_joint_add_target(j, name, base, &j->head, err));
		j->targets[j->head].is_new = 1;
		TN_TRY(untie_parts(j, name, err));
	}
	*head = j->head;
	return tn_joint_edit_config(j, "tie_word_embeddings", 1, 0, err);
}

/* ---- a matrix -------------------------------------------------------------------------------------------- */

static tn_status fail_shape(const struct tn_adapter_module *m, const struct tn_tensor *w, uint64_t rows, uint64_t cols,
			    int by_input, struct tn_error *err)
{
	uint64_t in = by_input ? rows : cols, out = by_input ? cols : rows;
	if (m->in_features != in)
		return tn_fail(err, TN_E_MISMATCH, m->path,
			       "%.100s: A is [%llu, %llu], the base '%.60s' is [%llu, %llu], so in = %llu was expected; the "
			       "adapter was trained on another base", m->path, (unsigned long long)m->rank,
			       (unsigned long long)m->in_features, w->name, (unsigned long long)rows, (unsigned long long)cols,
			       (unsigned long long)in);
	return tn_fail(err, TN_E_MISMATCH, m->path,
		       "%.100s: B is [%llu, %llu], the base '%.60s' is [%llu, %llu], so out = %llu was expected; the adapter was "
		       "trained on another base", m->path, (unsigned long long)m->out_features, (unsigned long long)m->rank,
		       w->name, (unsigned long long)rows, (unsigned long long)cols, (unsigned long long)out);
}

static tn_status check_editable(const struct tn_joint *j, const struct tn_adapter_entry *e, size_t target,
				struct tn_error *err)
{
	tn_dtype dtype = tn_target_dtype(&j->targets[target]);
	if (dtype == TN_F32 || dtype == TN_F16 || dtype == TN_BF16)
		return TN_OK;
	return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.100s' has the dtype %s in the base; tenon fuses into F32, F16 "
		       "and BF16 as yet", j->targets[target].name, tn_dtype_name(dtype));
}

/* Which way round W is stored: [out, in], or [in, out] for a table of vectors and for Conv1D. Where both fit, the kind of
 * the module decides. */
static tn_status choose_shape(const struct tn_joint *j, const struct tn_adapter_entry *e, const struct tn_tensor *w,
			      struct tn_delta_shape *shape, struct tn_error *err)
{
	const struct tn_adapter_module *m = &e->module;
	uint64_t rows = w->shape[0], cols = rows ? w->elements / rows : 0, group = j->adapter->config.qalora_group;
	int embedding = m->kind == TN_MODULE_EMBEDDING || m->kind == TN_MODULE_EMBEDDING_DORA;
	int by_input = embedding || is_conv1d(j, m->path);
	int normal_fits = rows == m->out_features && cols == m->in_features;
	int other_fits = rows == m->in_features && cols == m->out_features;
	if (by_input && !embedding && !other_fits && normal_fits)
		by_input = 0; /* GPT-2 as mlx-lm stores it */
	else if (!by_input && !normal_fits && other_fits && j->adapter->config.fan_in_fan_out)
		by_input = 1;
	*shape = (struct tn_delta_shape){ by_input, 1, 0 };
	if (!by_input && group > 1 && rows == m->out_features && cols == m->in_features * group) {
		shape->qalora_group = group;
		return TN_OK;
	}
	return (by_input ? other_fits : normal_fits) ? TN_OK : fail_shape(m, w, rows, cols, by_input, err);
}

/* llama.cpp stores q and k of the llama family with the halves of each head interleaved. */
static tn_status choose_heads(const struct tn_joint *j, const struct tn_adapter_entry *e, struct tn_delta_shape *shape,
			      struct tn_error *err)
{
	const struct tn_adapter_config *c = &j->adapter->config;
	const char *path = e->module.path;
	int q = tn_path_has_ending(path, "self_attn.q_proj"), k = tn_path_has_ending(path, "self_attn.k_proj");
	if (c->dialect != TN_DIALECT_GGUF || strcmp(c->architecture, "llama") != 0 || (!q && !k))
		return TN_OK;
	shape->heads = q ? j->heads : j->kv_heads;
	if (!shape->heads || e->module.out_features % (2 * shape->heads))
		return tn_fail(err, TN_E_MISMATCH, path,
			       "llama.cpp interleaves the rows of '%.100s' within heads, and "
			       "config.json of the base does not say into how many its %llu rows fall",
			       path, (unsigned long long)e->module.out_features);
	return TN_OK;
}

/* Of several adapters the first makes it. */
static tn_status new_bias(struct tn_joint *j, const char *name, size_t *out, struct tn_error *err)
{
	const char *kept;
	for (size_t i = 0; i < j->target_count; i++)
		if (!j->targets[i].base && strcmp(j->targets[i].name, name) == 0) {
			*out = i;
			return TN_OK;
		}
	TN_TRY(tn_arena_text(j->arena, name, strlen(name), &kept, err));
	TN_TRY(tn_joint_add_target(j, kept, NULL, out, err));
	j->targets[*out].is_new = 1;
	return TN_OK;
}

static tn_status land_bias(struct tn_joint *j, const struct tn_adapter_entry *e, size_t weight, struct tn_error *err)
{
	char name[LONGEST_NAME];
	const char *of = j->targets[weight].name;
	int n = (int)(tn_ends_with(of, ".weight") ? strlen(of) - strlen("weight") : strlen(of) + 1);
	if (snprintf(name, sizeof name, "%.*sbias", n, of) >= (int)sizeof name)
		return tn_fail(err, TN_E_LIMIT, of, "the name of a tensor, '%.100s...', is longer than %d bytes", of,
			       (int)LONGEST_NAME);
	size_t target = tn_joint_find_exact(j, name), slot;
	if (target == TN_NO_TARGET && j->is_live)
		TN_TRY(new_bias(j, name, &target, err));
	if (target == TN_NO_TARGET)
		return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.80s' was trained with lora_bias, and the base has no "
			       "'%.80s' that it could be added to (PEFT cannot merge it either); serve it unmerged, or give a "
			       "base whose layers have biases", e->module.path, name);
	if (j->targets[target].base && tn_target_source(&j->targets[target])->elements != e->bias->elements)
		return tn_fail(err, TN_E_MISMATCH, e->bias->name, "'%.100s' has %llu elements, and '%.100s' %llu", e->bias->name,
			       (unsigned long long)e->bias->elements, name,
			       (unsigned long long)tn_target_source(&j->targets[target])->elements);
	if (j->targets[target].base)
		TN_TRY(check_editable(j, e, target, err));
	TN_TRY(tn_joint_add_slot(j, e, TN_SLOT_BIAS, NULL, target, e->bias->elements, &slot, err));
	return tn_joint_add_landing(j, target, slot, 0, 0, 1, err);
}

tn_status tn_joint_name_weight(char *name, size_t room, const struct tn_adapter_entry *e, struct tn_error *err)
{
	const char *path = e->module.path, *end = e->of_parameter ? "" : ".weight";
	if (tn_join(name, room, path, strlen(path), end, strlen(end)))
		return TN_OK;
	return tn_fail(err, TN_E_LIMIT, path, "the name of a module, '%.100s...', is longer than %d bytes", path,
		       (int)LONGEST_NAME);
}

/* The tensor that a module's factors change. */
static tn_status find_matrix(struct tn_joint *j, const struct tn_adapter_entry *e, size_t *out, struct tn_error *err)
{
	char name[LONGEST_NAME];
	const char *path = e->module.path;
	TN_TRY(tn_joint_name_weight(name, sizeof name - 16, e, err));
	*out = tn_joint_find(j, name);
	if (*out == TN_NO_TARGET && j->adapter->config.dialect == TN_DIALECT_KOHYA)
		*out = tn_joint_find_flat(j, path);
	if (*out == TN_NO_TARGET && e->of_parameter) {
		snprintf(name, sizeof name, "%s.weight", path);
		*out = tn_joint_find(j, name);
	}
	if (*out == TN_NO_TARGET && j->tied && j->adapter->config.dialect == TN_DIALECT_PEFT && tn_path_is_head(path))
		return tn_joint_untie(j, path, out, err);
	if (*out == TN_NO_TARGET) {
		snprintf(name, sizeof name, "%s.in_proj_weight", path);
		*out = tn_joint_find(j, name);
	}
	if (*out != TN_NO_TARGET)
		return TN_OK;
	snprintf(name, sizeof name, e->of_parameter ? "%s" : "%s.weight", path);
	return tn_joint_fail_missing(j, path, name, err);
}

/* A list of factors, as mlx-lm has it for AFM's projections of several matrices in one: its outputs stand under each other in the
 * weight, in the order of the list. *first gets the row of this one. */
static tn_status place_in_list(const struct tn_joint *j, const struct tn_adapter_entry *e, const struct tn_tensor *w,
			       uint64_t *first, struct tn_error *err)
{
	const tn_adapter *a = j->adapter;
	const size_t own = (size_t)(e - a->entries);
	uint64_t rows = 0;
	unsigned place = 1;
	int is_whole = 1;
	size_t i = own;
	while (i > 0 && strcmp(a->entries[i - 1].module.path, e->module.path) == 0)
		i--;
	for (; is_whole && i < a->count && strcmp(a->entries[i].module.path, e->module.path) == 0; i++) {
		is_whole = a->entries[i].list_place == place++;
		*first = i == own ? rows : *first;
		rows += a->entries[i].module.out_features;
	}
	if (!is_whole || rows != w->shape[0])
		return tn_fail(err, TN_E_MISMATCH, e->module.path,
			       "the list of factors of '%.100s' gives %llu rows%s, and the base '%.60s' has %llu: the file is "
			       "incomplete, or of another base", e->module.path, (unsigned long long)rows,
			       is_whole ? "" : " with one missing or too many", w->name, (unsigned long long)w->shape[0]);
	return e->module.in_features == w->elements / w->shape[0] ? TN_OK
	       : fail_shape(&e->module, w, e->module.out_features, w->elements / w->shape[0], 0, err);
}

static tn_status land_matrix(struct tn_joint *j, const struct tn_adapter_entry *e, size_t *out, struct tn_error *err)
{
	struct tn_delta_shape shape = { 0, 1, 0 };
	uint64_t first = 0;
	size_t slot;
	TN_TRY(find_matrix(j, e, out, err));
	const struct tn_tensor *w = tn_target_source(&j->targets[*out]);
	if (w->rank < 2)
		return tn_fail(err, TN_E_MISMATCH, e->module.path, "'%.100s' has %u dimensions in the base; a matrix was expected",
			       w->name, w->rank);
	TN_TRY(check_editable(j, e, *out, err));
	if (e->list_place) {
		TN_TRY(place_in_list(j, e, w, &first, err));
	} else {
		TN_TRY(choose_shape(j, e, w, &shape, err));
		TN_TRY(choose_heads(j, e, &shape, err));
	}
	uint64_t cols = w->elements / w->shape[0];
	TN_TRY(tn_joint_add_slot(j, e, TN_SLOT_DELTA, &shape, *out, cols, &slot, err));
	TN_TRY(tn_joint_add_landing(j, *out, slot, first, 0, e->list_place ? e->module.out_features : w->shape[0], err));
	if (j->slots[slot].change == TN_BASE_OLORA && shape.rows_are_inputs)
		return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.100s' is a Conv1D, for which PEFT's olora is broken",
			       e->module.path);
	return e->bias ? land_bias(j, e, *out, err) : TN_OK;
}

/* Whether what stands behind the first two dimensions is the kernel of `w`, and not only of the right product. */
static int is_kernel_of(const struct tn_tensor *w, const struct tn_tensor *a, const struct tn_tensor *b)
{
	int fits = a->rank == w->rank && (b->rank == 2 || b->rank == w->rank);
	for (uint32_t i = 1; i < a->rank && fits; i++)
		fits = a->shape[i] == w->shape[i];
	for (uint32_t i = 2; i < b->rank && fits; i++)
		fits = b->shape[i] == 1;
	return fits;
}

static void write_shape(char out[96], const struct tn_tensor *t)
{
	size_t n = 0;
	for (uint32_t i = 0; i < t->rank && n < 96; i++)
		n += (size_t)snprintf(out + n, 96 - n, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
}

/* Factors of more than two dimensions are those of a convolution; a stack's first one is the expert. */
static tn_status check_kernel(const struct tn_joint *j, const struct tn_adapter_entry *e, size_t target,
			      struct tn_error *err)
{
	const struct tn_tensor *w = tn_target_source(&j->targets[target]), *a = e->a.tensor, *b = e->b.tensor;
	char odd[96], base[96];
	int stack = e->module.kind == TN_MODULE_EXPERTS && !e->of_parameter;
	if ((a->rank == 2 && b->rank == 2) || stack || is_kernel_of(w, a, b))
		return TN_OK;
	const struct tn_tensor *t = a->rank > 2 ? a : b;
	write_shape(odd, t);
	write_shape(base, w);
	return tn_fail(err, TN_E_MISMATCH, t->name, "'%.100s' is [%s], and the base '%.80s' is [%s]: more than two dimensions "
		       "are those of a convolution, A [rank, in, kernel...] and B [out, rank, 1...] on [out, in, kernel...]; "
		       "give the base that the adapter was trained on, or save the factors with two dimensions", t->name, odd,
		       w->name, base);
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

/* Replacements first: deltas land on what they leave. */
tn_status tn_joint_land_entry(struct tn_joint *j, size_t i, int saved, size_t *targets, struct tn_error *err)
{
	const struct tn_adapter_entry *e = &j->adapter->entries[i];
	int landed = 0;
	if ((e->module.kind == TN_MODULE_SAVED) != saved)
		return TN_OK;
	if (saved)
		return tn_joint_land_saved(j, e, &targets[i], err);
	if (e->module.kind == TN_MODULE_TOKENS)
		return tn_joint_land_tokens(j, e, &targets[i], err);
	size_t first = j->landing_count;
	TN_TRY(tn_joint_land_experts(j, e, &landed, err));
	if (landed)
		targets[i] = j->landings[first].target;
	else
		TN_TRY(land_matrix(j, e, &targets[i], err));
	return check_kernel(j, e, targets[i], err);
}
