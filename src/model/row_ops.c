/* SPDX-License-Identifier: Apache-2.0 */
/* Norms and activations of the rows of a step. */
#include "base/checked.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <math.h>
#include <string.h>

static void rms(const struct tn_kernels *k, float *y, const float *x, size_t n, const float *w, float epsilon, float offset)
{
	float scale = 1.0f / sqrtf(k->dot_f32(x, x, n) / (float)n + epsilon);
	for (size_t i = 0; i < n; i++)
		y[i] = x[i] * scale * (w[i] + offset);
}

static void layer_norm(float *y, const float *x, size_t n, const float *w, const float *bias, float epsilon)
{
	double sum = 0, square = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)x[i];
	const float mean = (float)(sum / (double)n);
	for (size_t i = 0; i < n; i++)
		square += (double)(x[i] - mean) * (double)(x[i] - mean);
	const float scale = 1.0f / sqrtf((float)(square / (double)n) + epsilon);
	for (size_t i = 0; i < n; i++)
		y[i] = (x[i] - mean) * scale * w[i] + (bias ? bias[i] : 0.0f);
}

void tn_norm_rows(const tn_decoder *d, const struct tn_batch *b, const struct tn_norm *norm, float *y, const float *x,
		  size_t stride, size_t width, uint64_t heads, struct tn_row_range rows)
{
	const unsigned traits = d->config.architecture->traits;
	const float offset = traits & TN_NORM_PLUS_ONE ? 1.0f : 0.0f, epsilon = d->config.epsilon;
	const float *w = NULL, *bias = NULL;
	uint64_t n;
	for (size_t t = rows.first; t < rows.end; t++) {
		if (t == rows.first || b->adapter[t] != b->adapter[t - 1]) {
			w = tn_snapshot_tensor(b->snapshot, norm->weight, b->adapter[t], &n);
			bias = norm->bias == TN_LIVE_NONE ? NULL : tn_snapshot_tensor(b->snapshot, norm->bias, b->adapter[t], &n);
		}
		for (uint64_t h = 0; h < heads; h++) {
			const size_t at = t * stride + h * width;
			if (traits & TN_LAYER_NORM)
				layer_norm(y + at, x + at, width, w, bias, epsilon);
			else
				rms(d->ctx->kernels, y + at, x + at, width, w, epsilon, offset);
		}
	}
}

/* Rows of one task: with those of a small model it still takes longer than to hand it out. */
enum { TASK_ROWS = 4 };

struct row_work {
	tn_decoder *d;
	struct tn_batch *b;
	size_t layer;
	tn_row_fn run;
};

static tn_status row_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct row_work *w = arg;
	const size_t first = (size_t)task * TASK_ROWS, end = first + TASK_ROWS;
	(void)worker;
	(void)err;
	w->run(w->d, w->b, w->layer, (struct tn_row_range){ first, end < w->b->m ? end : w->b->m });
	return TN_OK;
}

void tn_each_row(tn_decoder *d, struct tn_batch *b, size_t layer, tn_row_fn run)
{
	struct row_work w = { d, b, layer, run };
	struct tn_work work = { .task_count = tn_ceil_div(b->m, TASK_ROWS), .in_stretches = 1, .run = row_task, .arg = &w };
	tn_pool_run(d->ctx, &work, NULL); /* tasks do not fail */
}

/* Loops over a piece have a fixed length, which compilers turn into vectors. */
enum { PIECE = 64 };

/* y[i] = x[i] / (1 + exp(e[i])) */
static void divide(const struct tn_kernels *k, float *x, float *e)
{
	k->exp_f32(e, e, PIECE);
	for (size_t i = 0; i < PIECE; i++)
		x[i] = x[i] / (1 + e[i]);
}

/* y[i] = x[i] / (1 + exp(-s x[i])) */
static void sigmoid_product(const struct tn_kernels *k, float *x, float s)
{
	float e[PIECE];
	for (size_t i = 0; i < PIECE; i++)
		e[i] = -s * x[i];
	divide(k, x, e);
}

/* 0.5 x (1 + tanh(u)) is x / (1 + exp(-2 u)). */
static void gelu_tanh(const struct tn_kernels *k, float *x)
{
	float e[PIECE];
	for (size_t i = 0; i < PIECE; i++)
		e[i] = -2 * 0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
	divide(k, x, e);
}

static void activate(const struct tn_kernels *k, enum tn_activation activation, float *x)
{
	switch (activation) {
	case TN_SILU: sigmoid_product(k, x, 1); return;
	case TN_GELU_QUICK: sigmoid_product(k, x, 1.702f); return;
	case TN_GELU_TANH: gelu_tanh(k, x); return;
	case TN_GELU:
		for (size_t i = 0; i < PIECE; i++)
			x[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678118654752f));
		return;
	default:
		for (size_t i = 0; i < PIECE; i++)
			x[i] = x[i] > 0 ? (activation == TN_RELU ? x[i] : x[i] * x[i]) : 0;
	}
}

/* Pieces [begin, end) of a row: gate [width], and up behind it. */
static void activate_pieces(const tn_decoder *d, float *gate, size_t width, size_t begin, size_t end, int gated)
{
	for (size_t i = begin * PIECE; i < width && i < end * PIECE; i += PIECE) {
		const size_t n = width - i < PIECE ? width - i : PIECE;
		float x[PIECE] = { 0 };
		memcpy(x, gate + i, n * sizeof *x);
		activate(d->ctx->kernels, d->config.activation, x);
		for (size_t j = 0; gated && j < n; j++)
			x[j] *= gate[width + i + j];
		memcpy(gate + i, x, n * sizeof *x);
	}
}

struct activation {
	const tn_decoder *d;
	float *wide;
	size_t stride, width, tasks_of_row;
	int gated;
};

/* Pieces of a row that one task takes: some microseconds. */
enum { TASK_PIECES = 16 };

static tn_status activate_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct activation *a = arg;
	const size_t row = (size_t)task / a->tasks_of_row, first = (size_t)task % a->tasks_of_row * TASK_PIECES;
	(void)worker;
	(void)err;
	activate_pieces(a->d, a->wide + row * a->stride, a->width, first, first + TASK_PIECES, a->gated);
	return TN_OK;
}

void tn_activate_rows(const tn_decoder *d, float *wide, size_t m, size_t stride, size_t width, int gated)
{
	struct activation a = { d, wide, stride, width, tn_ceil_div(width, PIECE * TASK_PIECES), gated };
	struct tn_work work = { .task_count = m * a.tasks_of_row, .in_stretches = 1, .run = activate_task, .arg = &a };
	tn_pool_run(d->ctx, &work, NULL);
}

void tn_softcap(float *x, size_t n, float cap)
{
	for (size_t i = 0; i < n; i++)
		x[i] = tanhf(x[i] / cap) * cap;
}
