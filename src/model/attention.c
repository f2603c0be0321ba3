/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention of the rows of a step over the caches of their texts, in float32. */
#include "base/error.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <string.h>

/* Products above which the work is spread over the workers. */
static const uint64_t worth_spreading = 1 << 16;

struct attention {
	tn_decoder *d;
	struct tn_batch *b;
	size_t layer;
};

tn_status tn_attention_reserve(tn_decoder *d, size_t longest, struct tn_error *err)
{
	struct tn_batch *b = &d->batch;
	if (longest + TN_KEY_BLOCK <= b->score_stride)
		return TN_OK;
	struct tn_buffer larger;
	size_t stride = b->score_stride * 2 > longest ? b->score_stride * 2 : longest;
	stride = (stride + 2 * TN_KEY_BLOCK - 1) & ~(size_t)(TN_KEY_BLOCK - 1);
	TN_TRY(tn_buffer_alloc(d->ctx, stride * tn_pool_workers(d->ctx) * sizeof(float), "attention scores", &larger, err));
	tn_buffer_release(d->ctx, &b->score_buffer);
	b->score_buffer = larger;
	b->scores = larger.data;
	b->score_stride = stride;
	return TN_OK;
}

/* scores [n] become weights; their sum is returned. */
static float weigh(const struct tn_kernels *k, float *scores, size_t n)
{
	float most = scores[0], sum = 0;
	for (size_t i = 1; i < n; i++)
		most = scores[i] > most ? scores[i] : most;
	for (size_t i = 0; i < n; i++)
		scores[i] -= most;
	k->exp_f32(scores, scores, n);
	for (size_t i = 0; i < n; i++)
		sum += scores[i];
	return sum;
}

/* One head of one row. */
static void attend_head(const struct attention *a, size_t t, uint64_t head, float *scores)
{
	tn_decoder *d = a->d;
	const struct tn_kernels *k = d->ctx->kernels;
	const struct tn_decoder_config *c = &d->config;
	const struct tn_layer_config *layer = &c->layer[a->layer];
	const struct tn_kv *kv = a->b->sequence[t]->kv;
	const uint64_t shared = head / (c->heads / c->kv_heads), width = c->head_dim;
	const size_t end = a->b->position[t] + 1, begin = layer->window && end > layer->window ? end - layer->window : 0;
	const float *keys = tn_kv_head(d, kv, a->layer, 0, shared), *values = tn_kv_head(d, kv, a->layer, 1, shared);
	const float *q = a->b->qkv + t * (c->heads + 2 * c->kv_heads) * width + head * width;
	float *out = a->b->mixed + (t * c->heads + head) * width;
	/* from the begin of a block of keys */
	const size_t block = begin - begin % TN_KEY_BLOCK;
	k->scores_f32(scores, q, keys + block * width, end - block, width, layer->attention_scale);
	scores += begin - block;
	if (c->attention_cap > 0)
		tn_softcap(scores, end - begin, c->attention_cap);
	const float sum = weigh(k, scores, end - begin);
	k->mix_f32(out, scores, values + begin * width, end - begin, width);
	for (uint64_t i = 0; i < width; i++)
		out[i] /= sum;
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

/* Keys lie in blocks, number j of all keys of a block together; values one behind the other. */
void tn_store_keys(const tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows)
{
	const struct tn_decoder_config *c = &d->config;
	const size_t width = c->head_dim, stride = (c->heads + 2 * c->kv_heads) * width;
	for (size_t t = rows.first; t < rows.end; t++)
		for (uint64_t h = 0; h < c->kv_heads; h++) {
			const size_t position = b->position[t], inside = position % TN_KEY_BLOCK;
			const float *key = b->qkv + t * stride + (c->heads + h) * width, *value = key + c->kv_heads * width;
			float *keys = tn_kv_head(d, b->sequence[t]->kv, layer, 0, h) + (position - inside) * width + inside;
			for (size_t i = 0; i < width; i++)
				keys[i * TN_KEY_BLOCK] = key[i];
			memcpy(tn_kv_head(d, b->sequence[t]->kv, layer, 1, h) + position * width, value, width * sizeof *value);
		}
}

void tn_attend(tn_decoder *d, struct tn_batch *b, size_t layer)
{
	struct attention a = { d, b, layer };
	uint64_t products = 0;
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
