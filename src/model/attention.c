/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention of the rows of a step over the caches of their texts, in float32. */
#include "base/error.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <math.h>
#include <string.h>

/* Products above which the work is spread over the workers. */
static const uint64_t worth_spreading = 1 << 20;

struct attention {
	tn_decoder *d;
	struct tn_batch *b;
	size_t layer;
};

tn_status tn_attention_reserve(tn_decoder *d, size_t longest, struct tn_error *err)
{
	struct tn_batch *b = &d->batch;
	if (longest <= b->score_stride)
		return TN_OK;
	struct tn_buffer larger;
	size_t stride = b->score_stride * 2 > longest ? b->score_stride * 2 : longest;
	stride = (stride + 15) & ~(size_t)15;
	TN_TRY(tn_buffer_alloc(d->ctx, stride * tn_pool_workers(d->ctx) * sizeof(float), "attention scores", &larger, err));
	tn_buffer_release(d->ctx, &b->score_buffer);
	b->score_buffer = larger;
	b->scores = larger.data;
	b->score_stride = stride;
	return TN_OK;
}

/* scores [n] become probabilities. */
static void softmax(float *scores, size_t n)
{
	float most = scores[0], sum = 0;
	for (size_t i = 1; i < n; i++)
		most = scores[i] > most ? scores[i] : most;
	for (size_t i = 0; i < n; i++) {
		scores[i] = expf(scores[i] - most);
		sum += scores[i];
	}
	for (size_t i = 0; i < n; i++)
		scores[i] /= sum;
}

/* One head of one row. */
static void attend_head(const struct attention *a, size_t t, uint64_t head, float *scores)
{
	tn_decoder *d = a->d;
	const struct tn_decoder_config *c = &d->config;
	const struct tn_layer_config *layer = &c->layer[a->layer];
	const struct tn_kv *kv = a->b->sequence[t]->kv;
	const uint64_t shared = head / (c->heads / c->kv_heads), width = c->head_dim;
	const size_t end = a->b->position[t] + 1, begin = layer->window && end > layer->window ? end - layer->window : 0;
	const float *keys = tn_kv_head(d, kv, a->layer, 0, shared), *values = tn_kv_head(d, kv, a->layer, 1, shared);
	const float *q = a->b->qkv + t * (c->heads + 2 * c->kv_heads) * width + head * width;
	float *out = a->b->mixed + (t * c->heads + head) * width;
	for (size_t i = begin; i < end; i++)
		scores[i - begin] = d->ctx->kernels->dot_f32(q, keys + i * width, width) * layer->attention_scale;
	if (c->attention_cap > 0)
		tn_softcap(scores, end - begin, c->attention_cap);
	softmax(scores, end - begin);
	memset(out, 0, width * sizeof *out);
	for (size_t i = begin; i < end; i++)
		d->ctx->kernels->axpy_f32(out, scores[i - begin], values + i * width, width);
}

/* A task is one head of all rows. */
static tn_status attend_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct attention *a = arg;
	(void)err;
	for (size_t t = 0; t < a->b->m; t++)
		attend_head(a, t, task, a->b->scores + worker * a->b->score_stride);
	return TN_OK;
}

static void store(const tn_decoder *d, struct tn_batch *b, size_t layer)
{
	const struct tn_decoder_config *c = &d->config;
	const size_t width = c->head_dim, stride = (c->heads + 2 * c->kv_heads) * width;
	for (size_t t = 0; t < b->m; t++)
		for (unsigned part = 0; part < 2; part++)
			for (uint64_t h = 0; h < c->kv_heads; h++)
				memcpy(tn_kv_head(d, b->sequence[t]->kv, layer, part, h) + b->position[t] * width,
				       b->qkv + t * stride + (c->heads + part * c->kv_heads + h) * width, width * sizeof(float));
}

void tn_attend(tn_decoder *d, struct tn_batch *b, size_t layer)
{
	struct attention a = { d, b, layer };
	uint64_t products = 0;
	store(d, b, layer);
	for (size_t t = 0; t < b->m; t++)
		products += (b->position[t] + 1) * d->config.heads * d->config.head_dim;
	if (products < worth_spreading) {
		for (uint64_t h = 0; h < d->config.heads; h++)
			attend_task(&a, h, 0, NULL);
		return;
	}
	struct tn_work work = { .task_count = d->config.heads, .run = attend_task, .arg = &a };
	tn_pool_run(d->ctx, &work, NULL);
}
