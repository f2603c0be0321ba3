/* SPDX-License-Identifier: Apache-2.0 */
#include "model/decoder.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "store/checkpoint.h"

#include <string.h>

enum { USUAL_ROWS = 128, MOST_ROWS = 1 << 14 };
static const uint64_t usual_cache_bytes = (uint64_t)1 << 30;

/* ---- the memory of a step -------------------------------------------------------------------------------- */

/* A walk over the pieces of the batch: first to add their sizes up, then to hand out their places. */
struct carve {
	char *base;          /* NULL: only counting */
	size_t used;
	int overflow;
};

static void *piece(struct carve *c, size_t count, size_t size)
{
	size_t bytes, at = tn_align_up(c->used, 64);
	if (tn_mul_size(count, size, &bytes) || tn_add_size(at, bytes, &c->used))
		c->overflow = 1;
	return c->base ? c->base + at : NULL;
}

static size_t widest_mlp(const struct tn_decoder_config *c)
{
	uint64_t widest = tn_max_u64(c->expert_intermediate, c->shared_intermediate);
	for (uint64_t i = 0; i < c->layers; i++)
		if (!c->layer[i].has_experts)
			widest = tn_max_u64(widest, c->intermediate);
	return widest;
}

static void carve_batch(const tn_decoder *d, struct carve *c, struct tn_batch *b)
{
	const struct tn_decoder_config *k = &d->config;
	const size_t rows = d->rows, hidden = rows * k->hidden, heads = k->heads * k->head_dim;
	b->sequence = piece(c, rows, sizeof *b->sequence);
	b->position = piece(c, rows, sizeof *b->position);
	b->ids = piece(c, rows, sizeof *b->ids);
	b->position_ids = piece(c, rows, sizeof *b->position_ids);
	b->adapter = piece(c, rows, sizeof *b->adapter);
	b->logits = piece(c, rows, sizeof *b->logits);
	b->tile_row = piece(c, rows + 1, sizeof *b->tile_row);
	for (unsigned r = 0; r < k->ropes; r++) {
		b->cosine[r] = piece(c, rows * d->pairs[r], sizeof(float));
		b->sine[r] = piece(c, rows * d->pairs[r], sizeof(float));
	}
	b->x = piece(c, hidden, sizeof(float));
	b->h = piece(c, hidden, sizeof(float));
	b->y = piece(c, hidden, sizeof(float));
	b->qkv = piece(c, rows * (heads + 2 * k->kv_heads * k->head_dim), sizeof(float));
	b->mixed = piece(c, rows * heads, sizeof(float));
	b->wide = piece(c, rows * 2, widest_mlp(k) * sizeof(float));
	if (!k->experts)
		return;
	b->routes = piece(c, rows, k->experts * sizeof(float));
	b->chosen = piece(c, rows, k->experts_per_token * sizeof(uint32_t));
	b->share = piece(c, rows, k->experts_per_token * sizeof(float));
	b->gathered = piece(c, hidden, sizeof(float));
	b->answered = piece(c, hidden, sizeof(float));
	b->row_of = piece(c, rows, sizeof(uint32_t));
	b->share_of = piece(c, rows, sizeof(float));
	b->adapter_gathered = piece(c, rows, sizeof(size_t));
}

static tn_status prepare_batch(tn_decoder *d, struct tn_error *err)
{
	struct carve c = { 0 };
	carve_batch(d, &c, &d->batch);
	if (c.overflow)
		return tn_fail(err, TN_E_LIMIT, "config.json", "a step of such a model does not fit in memory");
	TN_TRY(tn_buffer_alloc(d->ctx, c.used, "memory of a step", &d->batch_memory, err));
	c = (struct carve){ .base = d->batch_memory.data };
	carve_batch(d, &c, &d->batch);
	return TN_OK;
}

/* ---- making ---------------------------------------------------------------------------------------------- */

static tn_status fill(tn_decoder *d, const tn_checkpoint *base, struct tn_error *err)
{
	TN_TRY(tn_decoder_config_read(base, &d->arena, &d->config, err));
	TN_TRY(tn_rope_prepare(d, err));
	TN_TRY(tn_decoder_bind(d, base, err));
	return prepare_batch(d, err);
}

tn_status tn_decoder_create(tn_live *live, const tn_checkpoint *base, const struct tn_decoder_options *options,
			    tn_decoder **out, struct tn_error *err)
{
	tn_decoder *d;
	const struct tn_decoder_options none = TN_DECODER_OPTIONS_INIT;
	options = options ? options : &none;
	if (options->struct_bytes != sizeof *options)
		return tn_fail(err, TN_E_ARG, "tn_decoder_options", "struct_bytes is %zu, %zu was expected", options->struct_bytes,
			       sizeof *options);
	TN_TRY(tn_alloc_array(base->ctx, 1, sizeof *d, "decoder", &d, err));
	d->ctx = base->ctx;
	d->live = live;
	tn_arena_init(&d->arena, d->ctx);
	d->rows = options->rows ? options->rows : USUAL_ROWS;
	d->rows = d->rows > MOST_ROWS ? MOST_ROWS : d->rows;
	d->cache_budget = options->cache_bytes ? options->cache_bytes : usual_cache_bytes;
	tn_status status = fill(d, base, err);
	if (status != TN_OK) {
		tn_decoder_destroy(d);
		return status;
	}
	*out = d;
	return TN_OK;
}

void tn_decoder_destroy(tn_decoder *d)
{
	if (!d)
		return;
	while (d->sequences)
		tn_sequence_destroy(d->sequences);
	tn_buffer_release(d->ctx, &d->batch_memory);
	tn_buffer_release(d->ctx, &d->batch.scratch);
	tn_buffer_release(d->ctx, &d->batch.attending_buffer);
	tn_free_array(d->ctx, d->modules, d->module_capacity, sizeof *d->modules);
	tn_arena_release(&d->arena);
	tn_free(d->ctx, d, sizeof *d);
}

void tn_decoder_describe(const tn_decoder *d, struct tn_decoder_info *out)
{
	const struct tn_decoder_config *c = &d->config;
	*out = (struct tn_decoder_info){
		.model_type = c->architecture->model_type, .layers = c->layers, .hidden = c->hidden, .heads = c->heads,
		.kv_heads = c->kv_heads, .head_dim = c->head_dim, .vocabulary = c->vocabulary, .context = c->context,
		.experts = c->experts, .cache_bytes_per_token = tn_kv_bytes_per_token(d), .end_ids = c->end_ids,
		.end_count = c->end_count,
	};
}

uint64_t tn_decoder_cache_bytes(const tn_decoder *d)
{
	return d->cache_used;
}
