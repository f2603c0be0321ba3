/* SPDX-License-Identifier: Apache-2.0 */
/* One pair of factors out of what landed on the rows of a module: mostly one entry as it is; else blocks of several, between which
 * there are zeros. */
#include "adapter/pairs.h"

#include "base/checked.h"
#include "base/error.h"

#include <math.h>
#include <string.h>

/* An entry in memory: A [groups, rank, in], B [groups, out, rank]. */
struct source {
	const struct tn_slot *slot;
	struct tn_delta delta;
	struct tn_buffer memory, removed;
	tn_dtype a_dtype, b_dtype;
	uint64_t in, out, groups, rank;   /* rank: with what was taken out of the base */
	int is_split;                     /* the module has not all of its rows */
};

struct making {
	const struct tn_joint *joint;
	struct tn_arena *arena;
	const struct tn_base_module *module;
	const struct tn_pair_part *parts;
	size_t part_count;
	struct source *sources;
	size_t source_count;
	struct tn_pair *pair;
};

/* ---- sources --------------------------------------------------------------------------------------------- */

static tn_dtype kept_dtype(tn_dtype dtype)
{
	return dtype == TN_BF16 || dtype == TN_F16 ? dtype : TN_F32;
}

/* What the initialisation took out of the base, which only its rows tell. They stand as the slot's shape says. */
static tn_status load_removed(const struct tn_joint *j, struct source *s, struct tn_error *err)
{
	struct tn_delta delta;
	struct tn_buffer memory;
	TN_TRY(tn_adapter_load_delta(s->slot->adapter, s->slot->entry, &s->slot->shape, &delta, &memory, err));
	tn_status status = tn_prepare(j, s->slot, &delta, &s->removed, err);
	tn_buffer_release(j->ctx, &memory);
	s->delta.removed = delta.removed;
	s->rank += status == TN_OK ? delta.removed.rank : 0;
	return status;
}

static tn_status load_source(const struct tn_joint *j, const struct tn_slot *slot, struct source *s, struct tn_error *err)
{
	const struct tn_adapter_entry *e = slot->entry;
	struct tn_delta_shape by_outputs = slot->shape;
	int computed = slot->shape.qalora_group > 1;
	by_outputs.rows_are_inputs = 0;
	TN_TRY(tn_adapter_load_delta(slot->adapter, e, &by_outputs, &s->delta, &s->memory, err));
	s->slot = slot;
	s->in = s->delta.cols;
	s->out = s->delta.group_rows;
	s->groups = e->groups;
	s->rank = s->delta.rank;
	s->a_dtype = computed || slot->change != TN_BASE_AS_IS ? TN_F32 : kept_dtype(e->a.tensor->dtype);
	s->b_dtype = e->diagonal || slot->change != TN_BASE_AS_IS ? TN_F32 : kept_dtype(e->b.tensor->dtype);
	return slot->change == TN_BASE_AS_IS ? TN_OK : load_removed(j, s, err);
}

static struct source *source_of(const struct making *m, const struct tn_slot *slot)
{
	size_t i = 0;
	while (i < m->source_count && m->sources[i].slot != slot)
		i++;
	return i < m->source_count ? &m->sources[i] : NULL;
}

static tn_status load_sources(struct making *m, struct tn_error *err)
{
	for (size_t i = 0; i < m->part_count; i++) {
		if (source_of(m, m->parts[i].slot))
			continue;
		struct source *s = &m->sources[m->source_count++];
		s->slot = m->parts[i].slot;
		TN_TRY(load_source(m->joint, m->parts[i].slot, s, err));
	}
	for (size_t k = 0; k < m->source_count; k++) {
		struct source *s = &m->sources[k];
		uint64_t rows = 0;
		for (size_t i = 0; i < m->part_count; i++)
			rows += m->parts[i].slot == s->slot && !m->parts[i].is_whole ? m->parts[i].rows : 0;
		s->is_split = rows && rows < s->groups * s->out;
	}
	return TN_OK;
}

/* ---- one entry as it is ---------------------------------------------------------------------------------- */

/* W - removed + scale B A is W + scale [B, -removed / scale] [A; ...]. */
static void add_removed(struct tn_pair *p, const struct source *s)
{
	const struct tn_removed *r = &s->delta.removed;
	int swapped = s->slot->shape.rows_are_inputs;   /* then its rows are inputs */
	uint64_t old = s->delta.rank;
	for (uint64_t k = 0; k < r->rank; k++) {
		for (uint64_t i = 0; i < p->in; i++)
			p->a[(old + k) * p->in + i] = (float)(swapped ? r->b[i * r->rank + k] : r->a[k * p->in + i]);
		for (uint64_t o = 0; o < p->out; o++)
			p->b[o * p->rank + old + k] =
				(float)(-(swapped ? r->a[k * p->out + o] : r->b[o * r->rank + k]) / p->scale);
	}
}

static void copy_whole(struct tn_pair *p, const struct source *s)
{
	for (uint64_t g = 0; g < p->groups; g++)
		memcpy(p->a + g * p->rank * p->in, s->delta.a + g * s->delta.rank * p->in,
		       (size_t)(s->delta.rank * p->in) * sizeof(float));
	for (uint64_t row = 0; row < p->groups * p->out; row++)
		memcpy(p->b + row * p->rank, s->delta.b + row * s->delta.rank, (size_t)s->delta.rank * sizeof(float));
	if (s->delta.removed.rank)
		add_removed(p, s);
}

static tn_status copy_vector(struct making *m, const struct tn_tensor *t, float **out, tn_dtype *dtype, struct tn_error *err)
{
	TN_TRY(tn_arena_array(m->arena, (size_t)t->elements, sizeof **out, out, err));
	*dtype = kept_dtype(t->dtype);
	return tn_adapter_load_f32(m->sources[0].slot->adapter, t, *out, err);
}

/* ---- blocks ---------------------------------------------------------------------------------------------- */

/* Which columns of rank a part has within its group. */
struct columns {
	uint64_t first;
	const struct source *source;
	uint64_t group;      /* of the source */
};

static const float *a_of(const struct source *s, uint64_t group)
{
	return s->delta.a + group * s->rank * s->in;
}

static int same_inputs(const struct columns *c, const struct source *s, uint64_t group)
{
	return c->source->rank == s->rank && c->source->slot->entry->module.scale == s->slot->entry->module.scale &&
	       memcmp(a_of(c->source, c->group), a_of(s, group), (size_t)(s->rank * s->in) * sizeof(float)) == 0;
}

/* The columns of part `i`: those of an earlier part of its module's group that reads the same, or new ones. Returns the rank that
 * the group has then. */
static uint64_t place_columns(const struct making *m, size_t i, struct columns *columns)
{
	uint64_t out = m->module->out, group = m->parts[i].module_row / out, rank = 0;
	const struct source *s = source_of(m, m->parts[i].slot);
	columns[i] = (struct columns){ 0, s, m->parts[i].entry_row / s->out };
	size_t k = i;
	while (k > 0 && m->parts[k - 1].module_row / out == group)
		k--;
	for (; k < i; k++) {
		rank = tn_max_u64(rank, columns[k].first + columns[k].source->rank);
		if (same_inputs(&columns[k], s, columns[i].group)) {
			columns[i].first = columns[k].first;
			return rank;
		}
	}
	columns[i].first = rank;
	return rank + s->rank;
}

/* B of a part, in the pair's scale. */
static void put_part(struct tn_pair *p, const struct tn_pair_part *part, const struct columns *c)
{
	const struct source *s = c->source;
	uint64_t group = part->module_row / p->out;
	double scale = s->slot->entry->module.scale, factor = scale == p->scale ? 1 : scale / p->scale;
	memcpy(p->a + (group * p->rank + c->first) * p->in, a_of(s, c->group), (size_t)(s->rank * p->in) * sizeof(float));
	for (uint64_t row = 0; row < part->rows; row++) {
		const float *from = s->delta.b + (part->entry_row + row) * s->rank;
		float *to = p->b + (part->module_row + row) * p->rank + c->first;
		for (uint64_t k = 0; k < s->rank; k++)
			to[k] = factor == 1 ? from[k] : (float)(factor * (double)from[k]);
	}
}

static tn_status make_blocks(struct making *m, struct tn_error *err)
{
	struct tn_pair *p = m->pair;
	struct columns *columns;
	TN_TRY(tn_alloc_array(m->joint->ctx, m->part_count, sizeof *columns, p->module->path, &columns, err));
	for (size_t i = 0; i < m->part_count; i++)
		p->rank = tn_max_u64(p->rank, place_columns(m, i, columns));
	p->rank_before = p->rank;
	tn_status status = tn_arena_array(m->arena, (size_t)(p->groups * p->rank * p->in), sizeof(float), &p->a, err);
	if (status == TN_OK)
		status = tn_arena_array(m->arena, (size_t)(p->groups * p->out * p->rank), sizeof(float), &p->b, err);
	for (size_t i = 0; i < m->part_count && status == TN_OK; i++)
		put_part(p, &m->parts[i], &columns[i]);
	tn_free_array(m->joint->ctx, columns, m->part_count, sizeof *columns);
	return status;
}

/* ---- columns without effect ------------------------------------------------------------------------------ */

static int is_zero_column(const float *first, uint64_t count, uint64_t stride)
{
	for (uint64_t i = 0; i < count; i++)
		if (first[i * stride] != 0)
			return 0;
	return 1;
}

/* Both halves zero: what fills a pair up to a common rank. Zero in B alone: of a pair whose other rows went elsewhere. */
static int is_idle(const struct tn_pair *p, uint64_t k, int is_split)
{
	for (uint64_t g = 0; g < p->groups; g++) {
		if (!is_zero_column(p->b + g * p->out * p->rank + k, p->out, p->rank))
			return 0;
		if (!is_split && !is_zero_column(p->a + (g * p->rank + k) * p->in, p->in, 1))
			return 0;
	}
	return 1;
}

static void keep_columns(struct tn_pair *p, const unsigned char *idle, uint64_t rank)
{
	float *a = p->a, *b = p->b;
	for (uint64_t row = 0; row < p->groups * p->rank; row++)
		if (!idle[row % p->rank]) {
			memmove(a, p->a + row * p->in, (size_t)p->in * sizeof *a);
			a += p->in;
		}
	for (uint64_t i = 0; i < p->groups * p->out * p->rank; i++)
		if (!idle[i % p->rank])
			*b++ = p->b[i];
	p->rank = rank;
}

/* A pair of nothing but idle columns stays as it is: a trainer may go on with it. */
static tn_status drop_idle(struct making *m, struct tn_error *err)
{
	struct tn_pair *p = m->pair;
	unsigned char *idle;
	uint64_t rank = 0, before = p->rank;
	int is_split = 0;
	for (size_t i = 0; i < m->source_count; i++)
		is_split |= m->sources[i].is_split;
	TN_TRY(tn_alloc_array(m->joint->ctx, (size_t)before, 1, p->module->path, &idle, err));
	for (uint64_t k = 0; k < before; k++) {
		idle[k] = (unsigned char)is_idle(p, k, is_split);
		rank += !idle[k];
	}
	if (rank && rank < before)
		keep_columns(p, idle, rank);
	tn_free_array(m->joint->ctx, idle, (size_t)before, 1);
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status make_whole(struct making *m, struct tn_error *err)
{
	struct tn_pair *p = m->pair;
	const struct source *s = &m->sources[0];
	const struct tn_adapter_entry *e = s->slot->entry;
	p->rank = s->rank;
	p->rank_before = s->delta.rank;
	p->in = s->in;
	p->out = s->out;
	p->groups = s->groups;
	TN_TRY(tn_arena_array(m->arena, (size_t)(p->groups * p->rank * p->in), sizeof(float), &p->a, err));
	TN_TRY(tn_arena_array(m->arena, (size_t)(p->groups * p->out * p->rank), sizeof(float), &p->b, err));
	copy_whole(p, s);
	p->magnitude_of_inputs = e->magnitude_of_inputs;
	if (e->magnitude)
		TN_TRY(copy_vector(m, e->magnitude, &p->magnitude, &p->magnitude_dtype, err));
	return e->bias ? copy_vector(m, e->bias, &p->bias, &p->bias_dtype, err) : TN_OK;
}

static tn_status refuse_parts(const struct making *m, struct tn_error *err)
{
	for (size_t i = 0; i < m->source_count; i++) {
		const struct tn_slot *s = m->sources[i].slot;
		if (s->entry->magnitude || s->entry->bias || s->change != TN_BASE_AS_IS)
			return tn_fail(err, TN_E_UNSUPPORTED, s->entry->module.path, "'%.100s' is a part of '%.100s' here, and has "
				       "a %s that holds for itself; fuse the adapter into the base instead (tenon fuse)",
				       s->entry->module.path, m->module->path,
				       s->entry->magnitude ? "magnitude" : s->entry->bias ? "bias" : "removed part");
	}
	return TN_OK;
}

static tn_status make(struct making *m, struct tn_error *err)
{
	struct tn_pair *p = m->pair;
	TN_TRY(load_sources(m, err));
	for (size_t i = 0; i < m->source_count && p->scale == 0; i++)
		p->scale = m->sources[i].slot->entry->module.scale;
	p->a_dtype = m->sources[0].a_dtype;
	p->b_dtype = m->sources[0].b_dtype;
	for (size_t i = 1; i < m->source_count; i++) {
		p->a_dtype = p->a_dtype == m->sources[i].a_dtype ? p->a_dtype : TN_F32;
		p->b_dtype = p->b_dtype == m->sources[i].b_dtype ? p->b_dtype : TN_F32;
	}
	if (m->part_count == 1 && m->parts[0].is_whole) {
		TN_TRY(make_whole(m, err));
	} else {
		TN_TRY(refuse_parts(m, err));
		TN_TRY(make_blocks(m, err));
	}
	return drop_idle(m, err);
}

tn_status tn_pair_make(const struct tn_joint *j, struct tn_arena *arena, const struct tn_base_module *module,
		       const struct tn_pair_part *parts, size_t count, struct tn_pair *out, struct tn_error *err)
{
	struct making m = { .joint = j, .arena = arena, .module = module, .parts = parts, .part_count = count, .pair = out };
	*out = (struct tn_pair){ .module = module, .groups = module->kind == TN_MODULE_EXPERTS ? module->experts : 1,
				 .in = module->in, .out = module->out, .kept = 1 };
	TN_TRY(tn_alloc_array(j->ctx, count, sizeof *m.sources, module->path, &m.sources, err));
	tn_status status = make(&m, err);
	for (size_t i = 0; i < m.source_count; i++) {
		tn_buffer_release(j->ctx, &m.sources[i].memory);
		tn_buffer_release(j->ctx, &m.sources[i].removed);
	}
	tn_free_array(j->ctx, m.sources, count, sizeof *m.sources);
	if (status == TN_OK && !tn_dtype_holds(out->b_dtype, out->b, out->groups * out->out * out->rank))
		out->b_dtype = TN_F32;
	return status;
}
