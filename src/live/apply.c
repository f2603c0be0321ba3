/* SPDX-License-Identifier: Apache-2.0 */
/* Products of a snapshot: rows grouped by their set, sets that share a matrix multiplied together. */
#include "live/live.h"

#include "base/checked.h"

#include <string.h>

/* Rows with one set. */
struct bucket {
	size_t rows;
	const struct tn_edits *edits;
};

/* A call in pieces: all of it in the caller's scratch. */
struct apply {
	const struct tn_snapshot *s;
	const struct tn_live_call *call;
	const struct tn_linear *base;
	size_t bucket_count;
	struct bucket *buckets;            /* base, default, then the adapters */
	struct tn_patched_rows *groups;    /* [buckets] of the product that is being collected */
	size_t *order;                     /* [m] grouped row -> row of the call; NULL: the same */
	float *x;                          /* [m, in] room for gathered rows */
	void *scratch;                     /* of the product */
};

static size_t bucket_of(size_t adapter)
{
	return adapter == TN_LIVE_BASE ? 0 : adapter == TN_LIVE_DEFAULT ? 1 : adapter + 2;
}

static size_t adapter_of(size_t bucket)
{
	return bucket == 0 ? TN_LIVE_BASE : bucket == 1 ? TN_LIVE_DEFAULT : bucket - 2;
}

static size_t pad(size_t bytes)
{
	return tn_align_up(bytes, 64);
}

/* ---- scratch --------------------------------------------------------------------------------------------- */

static size_t product_bytes(const struct tn_snapshot *s, size_t module, size_t m, size_t *rank, size_t adapter)
{
	const struct tn_edits *e = tn_snapshot_edits(s, module, adapter);
	const struct tn_linear *l = e && e->replacement ? e->replacement : &s->live->modules[module].linear;
	*rank = e && e->rank > *rank ? e->rank : *rank;
	const struct tn_forward f = { .linear = l, .precision = s->live->precision, .m = m };
	return e && !e->replacement ? 0 : tn_forward_scratch_bytes(&f, 1, 1);
}

size_t tn_snapshot_scratch_bytes(const tn_snapshot *s, size_t module, size_t m)
{
	const struct tn_linear *l = &s->live->modules[module].linear;
	size_t rank = 0, buckets = s->count + 2, most = product_bytes(s, module, m, &rank, TN_LIVE_BASE);
	for (size_t i = 1; i < buckets; i++) {
		size_t bytes = product_bytes(s, module, m, &rank, adapter_of(i));
		most = bytes > most ? bytes : most;
	}
	return 64 + pad(buckets * sizeof(struct bucket)) + pad(buckets * sizeof(struct tn_patched_rows)) + pad(m * sizeof(size_t)) +
	       pad(m * l->in * sizeof(float)) + pad(m * rank * sizeof(float)) + most;
}

static void split_scratch(struct apply *a, void *scratch)
{
	unsigned char *at = (unsigned char *)scratch + (-(uintptr_t)scratch & 63);
	a->bucket_count = a->s->count + 2;
	a->buckets = (struct bucket *)(void *)at;
	at += pad(a->bucket_count * sizeof *a->buckets);
	a->groups = (struct tn_patched_rows *)(void *)at;
	at += pad(a->bucket_count * sizeof *a->groups);
	a->order = (size_t *)(void *)at;
	at += pad(a->call->m * sizeof *a->order);
	a->x = (float *)(void *)at;
	a->scratch = at + pad(a->call->m * a->base->in * sizeof *a->x);
}

/* ---- grouping -------------------------------------------------------------------------------------------- */

/* Counts rows by set, and orders them so. */
static void group_rows(struct apply *a)
{
	const struct tn_live_call *c = a->call;
	size_t at = 0, same = 1;
	for (size_t i = 0; i < a->bucket_count; i++)
		a->buckets[i] = (struct bucket){ 0, NULL };
	for (size_t t = 0; t < c->m; t++)
		a->buckets[bucket_of(c->adapter_of_row[t])].rows++;
	for (size_t i = 0; i < a->bucket_count; i++) {
		size_t rows = a->buckets[i].rows;
		a->buckets[i].rows = at;
		at += rows;
		if (rows)
			a->buckets[i].edits = tn_snapshot_edits(a->s, c->module, adapter_of(i));
	}
	for (size_t t = 0; t < c->m; t++) {
		size_t to = a->buckets[bucket_of(c->adapter_of_row[t])].rows++;
		a->order[to] = t;
		same &= to == t;
	}
	for (size_t i = a->bucket_count; i-- > 1;) /* from ends to counts */
		a->buckets[i].rows -= a->buckets[i - 1].rows;
	if (same)
		a->order = NULL;
}

/* ---- products -------------------------------------------------------------------------------------------- */

static void patches_of(const struct tn_edits *e, uint64_t expert, struct tn_patched_rows *group)
{
	group->patches = NULL;
	group->patch_count = 0;
	if (!e || !e->count)
		return;
	size_t first = e->first ? e->first[expert] : 0, end = e->first ? e->first[expert + 1] : e->count;
	group->patches = e->patches + first;
	group->patch_count = end - first;
}

static const float *bias_of(const struct apply *a, size_t bucket)
{
	const struct tn_live_module *m = &a->s->live->modules[a->call->module];
	const float *bias = tn_snapshot_tensor(a->s, m->bias, adapter_of(bucket), NULL);
	return bias ? bias + a->call->expert * m->linear.out : NULL;
}

static const float *gain_of(const struct tn_patched_rows *group)
{
	return group->patch_count ? group->patches[0].column_gain : NULL;
}

/* Grouped rows [first, first + m) of x in one piece: gathered, times the gain of columns. */
static void gather(const struct apply *a, size_t first, size_t m, const float *gain)
{
	size_t in = a->base->in;
	for (size_t t = first; t < first + m; t++) {
		const float *x = a->call->x + (a->order ? a->order[t] : t) * a->call->x_stride;
		memcpy(a->x + t * in, x, in * sizeof *x);
		for (size_t j = 0; j < in && gain; j++)
			a->x[t * in + j] *= gain[j];
	}
}

/* One product for grouped rows from `first` on, which the collected groups cover. */
static void multiply(const struct apply *a, const struct tn_linear *linear, size_t first, size_t group_count)
{
	const struct tn_live_call *c = a->call;
	const float *gain = group_count ? gain_of(&a->groups[0]) : NULL;
	struct tn_forward f = {
		.linear = linear, .expert = c->expert, .precision = a->s->live->precision, .x = c->x + first * c->x_stride,
		.x_stride = c->x_stride, .y = c->y + (a->order ? 0 : first * c->y_stride), .y_stride = c->y_stride,
		.order = a->order ? a->order + first : NULL, .groups = a->groups, .group_count = group_count,
		.x_dtype = gain ? TN_F32 : c->x_dtype,
	};
	for (size_t i = 0; i < group_count; i++) {
		size_t rank = tn_patches_rank(a->groups[i].patches, a->groups[i].patch_count);
		f.m += a->groups[i].m;
		f.rank = rank > f.rank ? rank : f.rank;
	}
	if (a->order || gain) {
		gather(a, first, f.m, gain);
		f.x = a->x + first * a->base->in;
		f.x_stride = a->base->in;
	}
	tn_forward_run(&f, 1, a->scratch);
}

/* Sets whose product with the base is the base's share one; a set with a matrix or a gain of columns of its own does not. */
static void multiply_buckets(struct apply *a)
{
	size_t first = 0, at = 0, n = 0;
	for (size_t i = 0; i < a->bucket_count; i++) {
		const struct bucket *b = &a->buckets[i];
		if (!b->rows)
			continue;
		struct tn_patched_rows group = { .m = b->rows, .bias = bias_of(a, i) };
		patches_of(b->edits, a->call->expert, &group);
		const struct tn_linear *own = b->edits ? b->edits->replacement : NULL;
		int apart = own || gain_of(&group);
		if (apart && n) {
			multiply(a, a->base, first, n);
			n = 0;
			first = at;
		}
		a->groups[n++] = group;
		at += b->rows;
		if (apart) {
			multiply(a, own ? own : a->base, first, n);
			n = 0;
			first = at;
		}
	}
	if (n)
		multiply(a, a->base, first, n);
}

void tn_snapshot_forward(const tn_snapshot *s, const struct tn_live_call *call, void *scratch)
{
	struct apply a = { .s = s, .call = call, .base = &s->live->modules[call->module].linear };
	split_scratch(&a, scratch);
	if (call->adapter_of_row) {
		group_rows(&a);
	} else {
		a.bucket_count = 2;
		a.buckets[0] = (struct bucket){ 0, NULL };
		a.buckets[1] = (struct bucket){ call->m, s->edits[call->module] };
		a.order = NULL;
	}
	multiply_buckets(&a);
}

/* ---- several ---------------------------------------------------------------------------------------------- */

/* The default set's product with rows as they are; 0: its x must be changed first. */
static int is_plain(const struct tn_snapshot *s, const struct tn_live_call *call, struct tn_forward *f,
		    struct tn_patched_rows *group)
{
	const struct tn_live_module *m = &s->live->modules[call->module];
	const struct tn_edits *e = s->edits[call->module];
	const struct tn_linear *linear = e && e->replacement ? e->replacement : &m->linear;
	const float *bias = tn_snapshot_tensor(s, m->bias, TN_LIVE_DEFAULT, NULL);
	if (call->adapter_of_row)
		return 0;
	group->m = call->m;
	group->bias = bias ? bias + call->expert * m->linear.out : NULL;
	patches_of(e, call->expert, group);
	*f = (struct tn_forward){ .linear = linear, .expert = call->expert, .precision = s->live->precision, .m = call->m,
				  .x = call->x, .x_stride = call->x_stride, .x_dtype = call->x_dtype, .y = call->y,
				  .y_stride = call->y_stride, .groups = group, .group_count = 1,
				  .rank = tn_patches_rank(group->patches, group->patch_count) };
	return !gain_of(group);
}

size_t tn_snapshot_together_bytes(const tn_snapshot *s, const size_t *modules, size_t count, size_t m)
{
	struct tn_forward f[TN_MOST_TOGETHER];
	for (size_t i = 0; i < count; i++) {
		const struct tn_edits *e = s->edits[modules[i]];
		f[i] = (struct tn_forward){ .linear = e && e->replacement ? e->replacement : &s->live->modules[modules[i]].linear,
					    .precision = s->live->precision, .m = m, .rank = e ? e->rank : 0 };
	}
	return 64 + tn_forward_scratch_bytes(f, count, 0);
}

void tn_snapshot_forward_together(const tn_snapshot *s, const struct tn_live_call *calls, size_t count, void *scratch)
{
	struct tn_forward f[TN_MOST_TOGETHER];
	struct tn_patched_rows group[TN_MOST_TOGETHER];
	size_t plain = 0;
	while (plain < count && is_plain(s, &calls[plain], &f[plain], &group[plain]))
		plain++;
	if (plain == count) {
		tn_forward_run(f, count, (unsigned char *)scratch + (-(uintptr_t)scratch & 63));
		return;
	}
	for (size_t i = 0; i < count; i++)
		tn_snapshot_forward(s, &calls[i], scratch);
}

/* ---- rows of a table ------------------------------------------------------------------------------------- */

void tn_snapshot_embed(const tn_snapshot *s, size_t module, const uint32_t *ids, size_t m, const size_t *adapter_of_row,
		       float *y, size_t y_stride)
{
	const struct tn_linear *base = &s->live->modules[module].linear;
	for (size_t t = 0; t < m; t++) {
		const struct tn_edits *e = tn_snapshot_edits(s, module, adapter_of_row ? adapter_of_row[t] : TN_LIVE_DEFAULT);
		struct tn_patched_rows group;
		uint64_t expert = ids[t] / base->out;
		patches_of(e, expert, &group);
		tn_embed_row(e && e->replacement ? e->replacement : base, expert, ids[t] % base->out, group.patches,
			     group.patch_count, y + t * y_stride);
	}
}
