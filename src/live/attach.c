/* SPDX-License-Identifier: Apache-2.0 */
/* From where an adapter lands to what it does to each module of a live base: factors in memory in the dtype of the file,
 * patches that point at them. */
#include "live/attach.h"

#include "base/checked.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory ---------------------------------------------------------------------------------------------- */

tn_status tn_attached_buffer(struct tn_attached *a, size_t bytes, const char *what, void *out, struct tn_error *err)
{
	if (a->buffer_count == a->buffer_room) {
		struct tn_buffer *grown;
		size_t room = a->buffer_room ? 2 * a->buffer_room : 64;
		TN_TRY(tn_arena_array(&a->arena, room, sizeof *grown, &grown, err));
		if (a->buffer_count)
			memcpy(grown, a->buffers, a->buffer_count * sizeof *grown);
		a->buffers = grown;
		a->buffer_room = room;
		a->bytes += room * sizeof *grown;
	}
	TN_TRY(tn_buffer_alloc(a->arena.ctx, bytes, what, &a->buffers[a->buffer_count], err));
	memcpy(out, &a->buffers[a->buffer_count++].data, sizeof(void *));
	a->bytes += bytes;
	return TN_OK;
}

tn_status tn_attached_factors(struct tn_attached *a, uint64_t bytes, void **out, struct tn_error *err)
{
	TN_TRY(tn_factor_memory_take(&a->live->store, bytes, !a->live->current->count, &a->factors, err));
	a->bytes += a->factors.bytes;
	*out = a->factors.data;
	return TN_OK;
}

void tn_attached_release(struct tn_attached *a)
{
	if (!a || atomic_fetch_sub_explicit(&a->references, 1, memory_order_acq_rel) != 1)
		return;
	tn_factor_memory_give(&a->live->store, &a->factors);
	for (size_t i = 0; i < a->buffer_count; i++)
		tn_buffer_release(a->arena.ctx, &a->buffers[i]);
	struct tn_arena arena = a->arena;
	tn_arena_release(&arena);
}

/* ---- factors --------------------------------------------------------------------------------------------- */

/* The dtype in which a factor is kept: that of the file, unless what is kept was computed from it. */
static tn_dtype kept_dtype(const struct tn_factor *factor, int computed)
{
	tn_dtype dtype = factor->tensor->dtype;
	return !computed && (dtype == TN_F16 || dtype == TN_BF16) ? dtype : TN_F32;
}

static tn_status keep(struct tn_attach *t, const float *values, size_t n, tn_dtype dtype, const void **out,
		      struct tn_error *err)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	void *memory;
	TN_TRY(tn_attached_buffer(t->attached, n * tn_dtype_bits(dtype) / 8, "factors", &memory, err));
	struct tn_row_out to = { { memory } };
	t->live->ctx->kernels->codec[TN_CODEC_dense]->encode(&to, values, &format, n);
	*out = memory;
	return TN_OK;
}

static tn_status keep_doubles(struct tn_attach *t, const double *values, size_t n, const void **out, struct tn_error *err)
{
	float *memory;
	TN_TRY(tn_attached_buffer(t->attached, n * sizeof *memory, "factors", &memory, err));
	for (size_t i = 0; i < n; i++)
		memory[i] = (float)values[i];
	*out = memory;
	return TN_OK;
}

static tn_status keep_delta(struct tn_attach *t, const struct tn_slot *slot, const struct tn_delta *d,
			    struct tn_kept *kept, struct tn_error *err)
{
	const struct tn_adapter_entry *e = slot->entry;
	size_t groups = d->rows / d->group_rows;
	tn_dtype in = kept_dtype(&e->a, slot->shape.qalora_group > 1), out = kept_dtype(&e->b, e->diagonal != NULL);
	struct tn_pair *pair = &kept->pair;
	*pair = (struct tn_pair){ .rank = d->rank, .scale = (float)d->scale, .a_dtype = slot->shape.rows_are_inputs ? out : in,
				  .b_dtype = slot->shape.rows_are_inputs ? in : out };
	kept->group_rows = d->group_rows;
	kept->cols = d->cols;
	TN_TRY(keep(t, d->a, groups * d->rank * d->cols, pair->a_dtype, &pair->a, err));
	TN_TRY(keep(t, d->b, d->rows * d->rank, pair->b_dtype, &pair->b, err));
	if (!d->removed.rank)
		return TN_OK;
	kept->removed = (struct tn_pair){ .rank = d->removed.rank, .scale = -1, .a_dtype = TN_F32, .b_dtype = TN_F32 };
	TN_TRY(keep_doubles(t, d->removed.a, d->removed.rank * d->cols, &kept->removed.a, err));
	return keep_doubles(t, d->removed.b, d->removed.rank * d->rows, &kept->removed.b, err);
}

static tn_status keep_rows(struct tn_attach *t, const struct tn_slot *slot, struct tn_kept *kept, struct tn_error *err)
{
	float *rows;
	const struct tn_tensor *values = slot->entry->values;
	TN_TRY(tn_attached_buffer(t->attached, (size_t)values->elements * sizeof *rows, "rows", &rows, err));
	kept->values = rows;
	kept->cols = (size_t)slot->cols;
	kept->group_rows = SIZE_MAX;
	return tn_adapter_load_f32(slot->adapter, values, rows, err);
}

/* What a slot does to a matrix that is turned round is its own product turned round. */
static tn_status turn(struct tn_attach *t, struct tn_slot *slot, struct tn_error *err)
{
	const struct tn_target *target = &t->joint->targets[slot->target];
	size_t module = tn_attach_module(t, target);
	if (module == TN_LIVE_NONE || !t->live->modules[module].is_transposed)
		return TN_OK;
	if (slot->change != TN_BASE_AS_IS || slot->kind != TN_SLOT_DELTA)
		return tn_fail(err, TN_E_UNSUPPORTED, target->name,
			       "'%.100s' %s, which is not done live to a matrix that is "
			       "stored [in, out]; run tenon fuse with this adapter",
			       slot->entry->module.path,
			       slot->kind == TN_SLOT_DELTA ? "was trained beside a part that it took out of the base"
							   : "replaces rows");
	slot->shape.rows_are_inputs = !slot->shape.rows_are_inputs;
	return TN_OK;
}

/* A factor that is read with the others, when nothing has to be computed. */
static void read_later(struct tn_attach *t, const struct tn_slot *slot, int is_b, const void **out, tn_dtype *dtype)
{
	*dtype = (is_b ? &slot->entry->b : &slot->entry->a)->tensor->dtype;
	/* what goes with the rows of W stands by feature */
	t->factors[t->factor_count++] = (struct tn_factor_read){ slot->entry, is_b, is_b != slot->shape.rows_are_inputs, out, 0 };
}

static int is_plain(const struct tn_slot *slot)
{
	return !slot->entry->magnitude && slot->change == TN_BASE_AS_IS &&
	       tn_adapter_factor_is_plain(slot->entry, &slot->shape, 0) && tn_adapter_factor_is_plain(slot->entry, &slot->shape, 1);
}

static void load_plain(struct tn_attach *t, const struct tn_slot *slot, struct tn_kept *kept)
{
	const struct tn_adapter_module *m = &slot->entry->module;
	struct tn_pair *pair = &kept->pair;
	int swap = slot->shape.rows_are_inputs;
	pair->rank = (size_t)m->rank;
	pair->scale = (float)(m->scale * slot->weight);
	kept->group_rows = (size_t)(swap ? m->in_features : m->out_features);
	kept->cols = (size_t)(swap ? m->out_features : m->in_features);
	read_later(t, slot, swap, &pair->a, &pair->a_dtype);
	read_later(t, slot, !swap, &pair->b, &pair->b_dtype);
}

static tn_status load_delta(struct tn_attach *t, struct tn_slot *slot, struct tn_kept *kept, struct tn_error *err)
{
	struct tn_delta delta;
	struct tn_buffer memory, prepared = { 0 };
	TN_TRY(turn(t, slot, err));
	if (is_plain(slot)) {
		load_plain(t, slot, kept);
		return TN_OK;
	}
	TN_TRY(tn_adapter_load_delta(slot->adapter, slot->entry, &slot->shape, &delta, &memory, err));
	delta.scale *= slot->weight;
	tn_status status = tn_prepare(t->joint, slot, &delta, &prepared, err);
	if (status == TN_OK)
		status = keep_delta(t, slot, &delta, kept, err);
	if (status == TN_OK && (delta.row_magnitude || delta.column_gain))
		status = tn_attach_gains(t, slot, &delta, kept, err);
	tn_buffer_release(t->live->ctx, &prepared);
	tn_buffer_release(t->live->ctx, &memory);
	return status;
}

/* Each slot once, however many landings it has. */
static tn_status load_slots(struct tn_attach *t, struct tn_error *err)
{
	size_t count = t->joint->slot_count;
	void *memory;
	TN_TRY(tn_arena_array(t->joint->arena, count, sizeof *t->kept, &t->kept, err));
	TN_TRY(tn_arena_array(t->joint->arena, 2 * count, sizeof *t->factors, &t->factors, err));
	for (size_t i = 0; i < count; i++) {
		struct tn_slot *slot = &t->joint->slots[i];
		if (slot->kind == TN_SLOT_DELTA)
			TN_TRY(load_delta(t, slot, &t->kept[i], err));
		else if (slot->kind == TN_SLOT_TOKENS)
			TN_TRY(keep_rows(t, slot, &t->kept[i], err));
	}
	if (!t->factor_count)
		return TN_OK;
	TN_TRY(tn_attached_factors(t->attached, tn_adapter_place_factors(t->factors, t->factor_count), &memory, err));
	return tn_adapter_read_factors(t->attached->adapter, t->factors, t->factor_count, t->live->pause_us, memory, err);
}

/* ---- patches --------------------------------------------------------------------------------------------- */

static size_t unit(tn_dtype dtype)
{
	return tn_dtype_bits(dtype) / 8;
}

/* Row `row` of a kept delta as the first of a patch. */
static struct tn_patch patch_at(const struct tn_kept *kept, size_t row)
{
	struct tn_patch p = { .pair = { kept->pair, kept->removed }, .column_gain = kept->column_gain };
	if (kept->values) {
		p.values = kept->values + row * kept->cols;
		return p;
	}
	p.pair[0].a = (const unsigned char *)kept->pair.a +
		      row / kept->group_rows * kept->pair.rank * kept->cols * unit(kept->pair.a_dtype);
	p.pair[0].b = (const unsigned char *)kept->pair.b + row * kept->pair.rank * unit(kept->pair.b_dtype);
	if (kept->removed.rank)
		p.pair[1].b = (const float *)kept->removed.b + row * kept->removed.rank;
	p.row_gain = kept->row_gain ? kept->row_gain + row : NULL;
	return p;
}

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t ab = a < b ? a : b;
	return ab < c ? ab : c;
}

/* A landing cut where an expert of the base or one of the delta ends: `patches` NULL counts. Landings come in the order of
 * rows, so patches come in the order of experts. */
static size_t cut_landing(const struct tn_attach *t, const struct tn_landing *l, const struct tn_live_module *m,
			  struct tn_patch *patches, size_t *experts)
{
	const struct tn_kept *kept = &t->kept[l->slot];
	size_t n = 0, done = 0, out = m->linear.out, rows = m->is_transposed ? out : (size_t)l->rows;
	while (done < rows) {
		size_t row = (size_t)l->target_row + done, from = (size_t)l->delta_row + done;
		size_t take = min3(rows - done, out - row % out, kept->group_rows - from % kept->group_rows);
		if (patches) {
			patches[n] = patch_at(kept, from);
			patches[n].row = row % out;
			patches[n].rows = take;
			experts[n] = row / out;
		}
		n++;
		done += take;
	}
	return n;
}

static tn_status index_experts(struct tn_attach *t, struct tn_edits *e, const size_t *expert_of, size_t experts,
			       struct tn_error *err)
{
	size_t *first, n = 0;
	TN_TRY(tn_arena_array(&t->attached->arena, experts + 1, sizeof *first, &first, err));
	t->attached->bytes += (experts + 1) * sizeof *first;
	for (size_t x = 0; x < experts; x++) {
		while (n < e->count && expert_of[n] <= x)
			n++;
		first[x + 1] = n;
		size_t rank = tn_patches_rank(e->patches + first[x], n - first[x]);
		e->rank = rank > e->rank ? rank : e->rank;
	}
	e->first = experts > 1 ? first : NULL;
	return TN_OK;
}

static tn_status patch_module(struct tn_attach *t, const struct tn_target *target, const struct tn_live_module *m,
			      struct tn_edits *e, struct tn_error *err)
{
	struct tn_patch *patches;
	size_t *expert_of, experts = m->linear.experts ? (size_t)m->linear.experts : 1, n = 0;
	for (size_t i = 0; i < target->landing_count; i++)
		n += cut_landing(t, &t->joint->landings[target->first_landing + i], m, NULL, NULL);
	TN_TRY(tn_arena_array(&t->attached->arena, n, sizeof *patches, &patches, err));
	TN_TRY(tn_arena_array(t->joint->arena, n, sizeof *expert_of, &expert_of, err));
	t->attached->bytes += n * sizeof *patches;
	e->patches = patches;
	for (size_t i = 0; i < target->landing_count; i++)
		e->count += cut_landing(t, &t->joint->landings[target->first_landing + i], m, patches + e->count,
					expert_of + e->count);
	return index_experts(t, e, expert_of, experts, err);
}

static tn_status edit_module(struct tn_attach *t, const struct tn_target *target, size_t module, struct tn_error *err)
{
	const struct tn_live_module *m = &t->live->modules[module];
	struct tn_edits *e;
	if (target->landing_count && target->cols != (m->is_transposed ? m->linear.out : m->linear.in))
		return tn_fail(err, TN_E_UNSUPPORTED, target->name, "'%.100s' is changed by rows of %llu, as a convolution is, "
			       "and live modules have rows of %zu; run tenon fuse with this adapter", target->name,
			       (unsigned long long)target->cols, m->linear.in);
	TN_TRY(tn_arena_alloc(&t->attached->arena, sizeof *e, &e, err));
	t->attached->bytes += sizeof *e;
	TN_TRY(patch_module(t, target, m, e, err));
	for (size_t i = 0; i < e->count; i++)
		if (e->patches[i].column_gain && e->patches[i].rows != m->linear.out)
			return tn_fail(err, TN_E_UNSUPPORTED, target->name, "'%.100s' has magnitudes for the columns of a part "
				       "of its rows; run tenon fuse with this adapter", target->name);
	TN_TRY(tn_attach_replacement(t, target, e, err));
	t->attached->edits[module] = e;
	return TN_OK;
}

/* ---- targets --------------------------------------------------------------------------------------------- */

size_t tn_attach_module(const struct tn_attach *t, const struct tn_target *target)
{
	return t->modules[target - t->joint->targets];
}

static size_t module_of(const struct tn_live *live, const struct tn_target *target)
{
	if (target->is_new)
		return live->head != TN_LIVE_NONE && target->base == live->modules[live->head].weight ? live->head : TN_LIVE_NONE;
	return tn_live_module_of(live, target->name);
}

static tn_status refuse_new(const struct tn_attach *t, const struct tn_target *target, struct tn_error *err)
{
	return tn_fail(err, TN_E_UNSUPPORTED, target->name, "'%.100s' of '%.100s' %s, which cannot be done to a live base; run "
		       "tenon fuse with this adapter, and open the result", target->name, t->attached->adapter->path,
		       target->is_new ? "adds a tensor that the base does not have" : "changes a tensor that is neither a "
			       "matrix nor small");
}

/* The small tensor that a target is: one of the base, or the bias that a module does not have yet. TN_LIVE_NONE: it is none. */
static size_t tensor_of(const struct tn_attach *t, const struct tn_target *target)
{
	char path[TN_NAME_BYTES];
	size_t n = strlen(target->name);
	if (!target->is_new)
		return tn_live_tensor(t->live, target->name);
	if (target->base || target->replacement || n <= 5 || n >= sizeof path)
		return TN_LIVE_NONE;
	memcpy(path, target->name, n - 5); /* without .bias */
	path[n - 5] = '\0';
	size_t module = tn_live_module_of(t->live, path);
	return module == TN_LIVE_NONE ? TN_LIVE_NONE : t->live->modules[module].bias;
}

static tn_status edit_target(struct tn_attach *t, const struct tn_target *target, struct tn_error *err)
{
	if (!target->landing_count && !target->replacement)
		return TN_OK;
	size_t tensor = tensor_of(t, target), module = tn_attach_module(t, target);
	if (module == TN_LIVE_NONE && tensor == TN_LIVE_NONE && target->base && tn_is_triple_part(t->live->base, target->base))
		return TN_OK; /* with its weight */
	if (module == TN_LIVE_NONE && tensor == TN_LIVE_NONE)
		return refuse_new(t, target, err);
	if (tensor != TN_LIVE_NONE)
		TN_TRY(tn_attach_tensor(t, target, tensor, err));
	return module == TN_LIVE_NONE ? TN_OK : edit_module(t, target, module, err);
}

static tn_status refuse_config(const struct tn_attach *t, struct tn_error *err)
{
	const struct tn_joint *j = t->joint;
	for (size_t i = 0; i < j->edit_count; i++)
		if (strcmp(j->edits[i].key, "tie_word_embeddings") != 0)
			return tn_fail(err, TN_E_UNSUPPORTED, j->edits[i].key,
				       "'%.200s' changes %s to %llu, and a live base "
				       "keeps its shape; run tenon fuse with this adapter, and open the result",
				       t->attached->adapter->path, j->edits[i].key, (unsigned long long)j->edits[i].value);
	return TN_OK;
}

/* A tied head is what the embedding is, unless the adapter unties them. */
static void share_with_head(struct tn_attach *t)
{
	const struct tn_live *live = t->live;
	int unties = 0;
	for (size_t i = 0; i < t->joint->edit_count; i++)
		unties |= strcmp(t->joint->edits[i].key, "tie_word_embeddings") == 0 && t->joint->edits[i].value == 0;
	if (live->head != TN_LIVE_NONE && !unties)
		t->attached->edits[live->head] = t->attached->edits[live->embedding];
}

static int compare_tensors(const void *a, const void *b)
{
	const struct tn_own_tensor *x = a, *y = b;
	return (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

static tn_status read_joint(struct tn_attach *t, struct tn_error *err)
{
	size_t count = t->joint->target_count, small = 0;
	TN_TRY(refuse_config(t, err));
	TN_TRY(tn_arena_array(t->joint->arena, count, sizeof *t->modules, &t->modules, err));
	for (size_t i = 0; i < count; i++) {
		const struct tn_target *target = &t->joint->targets[i];
		int changes = target->landing_count || target->replacement != NULL;
		t->modules[i] = changes ? module_of(t->live, target) : TN_LIVE_NONE;
		small += (size_t)changes;
	}
	TN_TRY(tn_arena_array(t->joint->arena, count, sizeof *t->read, &t->read, err));
	TN_TRY(tn_arena_array(&t->attached->arena, small, sizeof *t->attached->tensors, &t->attached->tensors, err));
	TN_TRY(load_slots(t, err));
	for (size_t i = 0; i < count; i++)
		TN_TRY(edit_target(t, &t->joint->targets[i], err));
	share_with_head(t);
	if (t->attached->tensor_count > 1)
		qsort(t->attached->tensors, t->attached->tensor_count, sizeof *t->attached->tensors, compare_tensors);
	return TN_OK;
}

static tn_status fill(struct tn_attach *t, const char *name, struct tn_error *err)
{
	struct tn_attached *a = t->attached;
	struct tn_weighted_adapter one = { a->adapter, a->weight };
	struct tn_arena arena;
	TN_TRY(tn_arena_text(&a->arena, name, strlen(name), &a->name, err));
	TN_TRY(tn_arena_array(&a->arena, t->live->module_count, sizeof *a->edits, &a->edits, err));
	a->bytes = sizeof *a + t->live->module_count * sizeof *a->edits;
	tn_arena_init(&arena, t->live->ctx);
	tn_status status = tn_live_land(t->live, &one, 1, &arena, &t->joint, err);
	if (status == TN_OK)
		status = read_joint(t, err);
	tn_arena_release(&arena);
	return status;
}

tn_status tn_attached_make(struct tn_live *live, const char *name, const tn_adapter *adapter, double weight,
			   struct tn_attached **out, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_attached *a;
	tn_arena_init(&arena, live->ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *a, &a, err));
	atomic_init(&a->references, 1);
	a->arena = arena;
	a->live = live;
	a->adapter = adapter;
	a->weight = weight;
	a->serial = ++live->next_serial;
	struct tn_attach t = { .live = live, .attached = a };
	tn_status status = fill(&t, name, err);
	if (status != TN_OK) {
		tn_attached_release(a);
		return status;
	}
	*out = a;
	return TN_OK;
}
