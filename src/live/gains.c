/* SPDX-License-Identifier: Apache-2.0 */
/* What the magnitudes of a DoRA come to on a base: the gain of each row, magnitude over norm, or of each column. */
#include "live/attach.h"

#include "base/error.h"
#include "base/pool.h"

#include <math.h>
#include <string.h>

enum { NORM_ROWS = 16 };

/* Where so little of W is left beside the delta, the sums are made again in double. */
static const double cancelled = 0x1p-6;

/* Norms of the rows that one landing changes, computed by the workers. With t = W A^T and G = A A^T,
 * |w + s b A|^2 = |w|^2 + 2 s b.t + s^2 b G b: the row itself is never added up. */
struct norms {
	const struct tn_kernels *kernels;
	const struct tn_linear *linear;
	struct tn_landing landing;
	const struct tn_delta *delta;
	const float *gram;          /* G [groups, rank, rank]; NULL: rows are added up in double */
	float *gain;                /* [rows of the delta] */
	unsigned char *scratch;
	size_t worker_bytes;
};

/* Scratch of a worker: rows of W and their t; and what a row in double needs. */
struct norm_scratch {
	double *sum, *rest;
	float *w, *t;
};

static size_t scratch_bytes(const struct norms *n)
{
	size_t in = n->linear->in, rank = n->delta->rank;
	return (2 * in + rank) * sizeof(double) + NORM_ROWS * (in + rank) * sizeof(float) + 64;
}

static struct norm_scratch split(const struct norms *n, unsigned worker)
{
	struct norm_scratch s;
	s.sum = (double *)(void *)(n->scratch + worker * n->worker_bytes);
	s.rest = s.sum + n->linear->in;
	s.w = (float *)(s.rest + n->linear->in + n->delta->rank);
	s.t = s.w + NORM_ROWS * n->linear->in;
	return s;
}

static double gain_in_double(const struct norms *n, const struct norm_scratch *s, size_t at, const float *w)
{
	tn_delta_sum_f64(n->kernels, n->delta, at, w, s->sum, TN_SIZES_NONE, NULL, s->rest);
	return tn_delta_row_gain(n->delta, at, s->sum);
}

static double gain_of(const struct norms *n, const struct norm_scratch *s, size_t at, const float *w, const float *t)
{
	const struct tn_delta *d = n->delta;
	if (!n->gram)
		return gain_in_double(n, s, at, w);
	const float *gram = n->gram + at / d->group_rows * d->rank * d->rank, *b = d->b + at * d->rank;
	double base = (double)n->kernels->dot_f32(w, w, d->cols), cross = 0, own = 0;
	for (size_t i = 0; i < d->rank; i++) {
		double sum = 0;
		for (size_t k = 0; k < d->rank; k++)
			sum += (double)b[k] * (double)gram[i * d->rank + k];
		own += (double)b[i] * sum;
		cross += (double)b[i] * (double)t[i];
	}
	double square = base + 2 * d->scale * cross + d->scale * d->scale * own;
	if (d->removed.rank || !(square > cancelled * (base + d->scale * d->scale * own)))
		return gain_in_double(n, s, at, w);
	return (double)d->row_magnitude[at] / sqrt(square);
}

/* t of rows [i, i + count) of the task, which share an A. */
static void shrink(const struct norms *n, const struct norm_scratch *s, size_t group, size_t i, size_t count)
{
	const struct tn_delta *d = n->delta;
	n->kernels->lora_shrink(s->t + i * d->rank, d->rank, d->a + group * d->rank * d->cols, TN_F32, d->rank, d->cols,
				s->w + i * d->cols, d->cols, count);
}

static tn_status measure_rows(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct norms *n = arg;
	const struct tn_delta *d = n->delta;
	struct norm_scratch s = split(n, worker);
	size_t out = n->linear->out, first = (size_t)task * NORM_ROWS, count = (size_t)n->landing.rows - first;
	size_t row = (size_t)n->landing.target_row + first, at = (size_t)n->landing.delta_row + first, begin = 0;
	(void)err;
	count = count < NORM_ROWS ? count : NORM_ROWS;
	for (size_t i = 0; i < count; i++)
		tn_embed_row(n->linear, (row + i) / out, (row + i) % out, NULL, 0, s.w + i * d->cols);
	for (size_t i = 1; i <= count; i++)
		if (n->gram && (i == count || (at + i) % d->group_rows == 0)) {
			shrink(n, &s, (at + begin) / d->group_rows, begin, i - begin);
			begin = i;
		}
	for (size_t i = 0; i < count; i++)
		n->gain[at + i] = (float)gain_of(n, &s, at + i, s.w + i * d->cols, s.t + i * d->rank);
	return TN_OK;
}

static tn_status measure(tn_context *ctx, struct norms *n, struct tn_error *err)
{
	struct tn_buffer scratch;
	struct tn_work work = { .task_count = (n->landing.rows + NORM_ROWS - 1) / NORM_ROWS, .run = measure_rows, .arg = n };
	n->worker_bytes = scratch_bytes(n) & ~(size_t)63;
	TN_TRY(tn_buffer_alloc(ctx, tn_pool_workers(ctx) * n->worker_bytes, "norms of rows", &scratch, err));
	n->scratch = scratch.data;
	tn_status status = tn_pool_run(ctx, &work, err);
	tn_buffer_release(ctx, &scratch);
	return status;
}

/* ---- one slot -------------------------------------------------------------------------------------------- */

static void make_gram(const struct tn_kernels *k, const struct tn_delta *d, float *gram)
{
	size_t groups = d->rows / d->group_rows;
	for (size_t g = 0; g < groups; g++, gram += d->rank * d->rank) {
		const float *a = d->a + g * d->rank * d->cols;
		for (size_t i = 0; i < d->rank; i++)
			for (size_t j = 0; j <= i; j++)
				gram[i * d->rank + j] = gram[j * d->rank + i] = k->dot_f32(a + i * d->cols, a + j * d->cols,
											   d->cols);
	}
}

static tn_status measure_landings(struct tn_attach *t, size_t slot, const struct tn_delta *delta, const float *gram, float *gain,
				  struct tn_error *err)
{
	const struct tn_joint *j = t->joint;
	for (size_t i = 0; i < j->landing_count; i++) {
		const struct tn_target *target = &j->targets[j->landings[i].target];
		struct tn_linear linear;
		if (j->landings[i].slot != slot)
			continue;
		TN_TRY(tn_attach_linear(t, target, &linear, err));
		struct norms n = { .kernels = t->live->ctx->kernels, .linear = &linear, .landing = j->landings[i], .delta = delta,
				   .gram = gram, .gain = gain };
		if (t->live->modules[tn_attach_module(t, target)].is_transposed)
			n.landing.rows = linear.out;
		TN_TRY(measure(t->live->ctx, &n, err));
	}
	return TN_OK;
}

static tn_status row_gains(struct tn_attach *t, size_t slot, const struct tn_delta *delta, float *gain, struct tn_error *err)
{
	struct tn_buffer gram;
	tn_context *ctx = t->live->ctx;
	if (delta->rank > delta->cols) /* G would take more than A, and more work than the rows themselves */
		return measure_landings(t, slot, delta, NULL, gain, err);
	TN_TRY(tn_buffer_alloc(ctx, delta->rows / delta->group_rows * delta->rank * delta->rank * sizeof(float),
			       "norms of rows", &gram, err));
	make_gram(ctx->kernels, delta, gram.data);
	tn_status status = measure_landings(t, slot, delta, gram.data, gain, err);
	tn_buffer_release(ctx, &gram);
	return status;
}

tn_status tn_attach_gains(struct tn_attach *t, const struct tn_slot *slot, const struct tn_delta *delta, struct tn_kept *kept,
			  struct tn_error *err)
{
	float *gain;
	size_t n = delta->column_gain ? delta->cols : delta->rows;
	TN_TRY(tn_attached_buffer(t->attached, n * sizeof *gain, "gains", &gain, err));
	if (!delta->column_gain) {
		kept->row_gain = gain;
		return row_gains(t, (size_t)(slot - t->joint->slots), delta, gain, err);
	}
	for (size_t i = 0; i < n; i++)
		gain[i] = (float)delta->column_gain[i];
	kept->column_gain = gain;
	return TN_OK;
}
