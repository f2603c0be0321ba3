/* SPDX-License-Identifier: Apache-2.0 */
/* One step: rows of several texts through all layers. */
#include "base/checked.h"
#include "base/error.h"
#include "live/live.h"
#include "model/decoder.h"

#include <string.h>

/* ---- before any arithmetic ------------------------------------------------------------------------------- */

static tn_status find_adapter(const tn_snapshot *snapshot, const struct tn_sequence *s, size_t *out, struct tn_error *err)
{
	*out = !s->adapter ? TN_LIVE_DEFAULT : !*s->adapter ? TN_LIVE_BASE : tn_snapshot_adapter(snapshot, s->adapter);
	if (*out == TN_LIVE_NONE)
		return tn_fail(err, TN_E_NOTFOUND, s->adapter, "no adapter '%.100s' is attached", s->adapter);
	return TN_OK;
}

static tn_status check_ids(const tn_decoder *d, const struct tn_step *step, struct tn_error *err)
{
	const size_t length = step->sequence->length + step->count;
	if (step->count == 0 || !step->ids)
		return tn_fail(err, TN_E_ARG, "tn_decoder_step", "a text without further tokens");
	for (size_t i = 0; i < step->count; i++)
		if (step->ids[i] >= d->config.vocabulary)
			return tn_fail(err, TN_E_ARG, "tn_decoder_step", "token %u of a vocabulary of %llu", step->ids[i],
				       (unsigned long long)d->config.vocabulary);
	if ((d->config.architecture->traits & TN_LEARNED_POSITIONS) && length > d->config.context)
		return tn_fail(err, TN_E_LIMIT, "tn_decoder_step", "a text of %zu tokens; the model has %llu positions", length,
			       (unsigned long long)d->config.context);
	return length > UINT32_MAX ? tn_fail(err, TN_E_LIMIT, "tn_decoder_step", "a text of %zu tokens", length) : TN_OK;
}

/* Room for the text's new tokens; what is cached of it under its adapters. */
static tn_status prepare(tn_decoder *d, const struct tn_step *step, const tn_snapshot *snapshot, struct tn_error *err)
{
	struct tn_sequence *s = step->sequence;
	if (s->decoder != d || s->in_step)
		return tn_fail(err, TN_E_ARG, "tn_decoder_step", "a text of another decoder, or twice in one step");
	TN_TRY(check_ids(d, step, err));
	TN_TRY(find_adapter(snapshot, s, &s->index, err));
	s->wanted = s->length + step->count;
	TN_TRY(tn_grow(d->ctx, &s->ids, &s->capacity, s->wanted, sizeof *s->ids, "tokens of a text", err));
	TN_TRY(tn_attention_reserve(d, s->wanted, err));
	s->in_step = 1;
	TN_TRY(tn_kv_open(d, s, tn_snapshot_identity(snapshot, s->index), s->wanted, &s->kv, err));
	memcpy(s->ids + s->length, step->ids, step->count * sizeof *step->ids);
	return TN_OK;
}

/* Scratch of modules that are computed together, where the layer has them. */
static size_t together(const tn_decoder *d, const tn_snapshot *snapshot, const size_t *modules, size_t count)
{
	return modules[0] == TN_LIVE_NONE ? 0 : tn_snapshot_together_bytes(snapshot, modules, count, d->rows);
}

static size_t layer_bytes(const tn_decoder *d, const tn_snapshot *snapshot, const struct tn_decoder_layer *l)
{
	const size_t three[3] = { l->q, l->k, l->v }, both[2] = { l->mlp.gate, l->mlp.up };
	const size_t experts = !l->expert ? 0 : l->stacked ? 1 : d->config.experts;
	size_t most = tn_max_size(together(d, snapshot, three, 3), together(d, snapshot, both, 2));
	for (size_t i = 0; i < experts; i++) {
		const size_t of_expert[2] = { l->expert[i].gate, l->expert[i].up };
		most = tn_max_size(most, together(d, snapshot, of_expert, 2));
	}
	return most;
}

/* Memory that the adapters of this snapshot may ask for. */
static tn_status reserve_scratch(tn_decoder *d, const tn_snapshot *snapshot, struct tn_error *err)
{
	size_t most = 0;
	for (size_t i = 0; i < d->module_count; i++)
		most = tn_max_size(most, tn_snapshot_scratch_bytes(snapshot, d->modules[i], d->rows));
	for (size_t i = 0; i < d->config.layers; i++)
		most = tn_max_size(most, layer_bytes(d, snapshot, &d->layer[i]));
	if (most <= d->batch.scratch.bytes)
		return TN_OK;
	struct tn_buffer larger;
	TN_TRY(tn_buffer_alloc(d->ctx, most, "memory of a step", &larger, err));
	tn_buffer_release(d->ctx, &d->batch.scratch);
	d->batch.scratch = larger;
	return TN_OK;
}

/* ---- layers ---------------------------------------------------------------------------------------------- */

static void add_rows(const tn_decoder *d, struct tn_batch *b, struct tn_row_range rows)
{
	const float scale = d->config.residual_scale;
	for (size_t i = rows.first * d->config.hidden; i < rows.end * d->config.hidden; i++)
		b->x[i] += b->y[i] * scale;
}

static void norm(const tn_decoder *d, struct tn_batch *b, const struct tn_norm *norm, float *y, const float *x,
		 struct tn_row_range rows)
{
	const size_t hidden = d->config.hidden;
	if (norm->weight != TN_LIVE_NONE)
		tn_norm_rows(d, b, norm, y, x, hidden, hidden, 1, rows);
	else if (y != x)
		memcpy(y + rows.first * hidden, x + rows.first * hidden, (rows.end - rows.first) * hidden * sizeof *y);
}

static void norm_heads(const tn_decoder *d, struct tn_batch *b, const struct tn_decoder_layer *l, size_t stride,
		       struct tn_row_range rows)
{
	const struct tn_decoder_config *c = &d->config;
	float *k = b->qkv + c->heads * c->head_dim;
	if (c->architecture->traits & TN_QK_NORM) {
		tn_norm_rows(d, b, &l->q_norm, b->qkv, b->qkv, stride, c->head_dim, c->heads, rows);
		tn_norm_rows(d, b, &l->k_norm, k, k, stride, c->head_dim, c->kv_heads, rows);
	} else if (c->architecture->traits & TN_QK_NORM_WHOLE) {
		tn_norm_rows(d, b, &l->q_norm, b->qkv, b->qkv, stride, c->heads * c->head_dim, 1, rows);
		tn_norm_rows(d, b, &l->k_norm, k, k, stride, c->kv_heads * c->head_dim, 1, rows);
	}
}

/* ---- what is done to each row by itself ---- */

static void before_attention(tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows)
{
	norm(d, b, &d->layer[layer].norm[0], b->h, b->x, rows);
}

static void before_scores(tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows)
{
	const struct tn_decoder_config *c = &d->config;
	const struct tn_decoder_layer *l = &d->layer[layer];
	const size_t q = c->heads * c->head_dim, stride = q + 2 * c->kv_heads * c->head_dim;
	norm_heads(d, b, l, stride, rows);
	if (l->config->rope != TN_NO_ROPE) {
		tn_rope_turn(d, b, l->config->rope, b->qkv, stride, c->heads, rows);
		tn_rope_turn(d, b, l->config->rope, b->qkv + q, stride, c->kv_heads, rows);
	}
	tn_store_keys(d, b, layer, rows);
}

static void between_halves(tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows)
{
	const struct tn_decoder_layer *l = &d->layer[layer];
	norm(d, b, &l->norm[1], b->y, b->y, rows);
	add_rows(d, b, rows);
	norm(d, b, &l->norm[2], b->h, b->x, rows);
}

static void behind_layer(tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows)
{
	norm(d, b, &d->layer[layer].norm[3], b->y, b->y, rows);
	add_rows(d, b, rows);
	if (layer + 1 < d->config.layers)
		before_attention(d, b, layer + 1, rows);
}

/* b->y = attention of b->h, which is normed */
static void attention(tn_decoder *d, struct tn_batch *b, size_t layer)
{
	const struct tn_decoder_config *c = &d->config;
	const struct tn_decoder_layer *l = &d->layer[layer];
	const size_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, stride = q + 2 * kv;
	const struct tn_projection whole = { l->qkv, b->qkv }, out = { l->o, b->y };
	const struct tn_projection three[3] = { { l->q, b->qkv }, { l->k, b->qkv + q }, { l->v, b->qkv + q + kv } };
	if (l->qkv != TN_LIVE_NONE)
		tn_project(b, &whole, 1, stride, b->h, c->hidden);
	else
		tn_project(b, three, 3, stride, b->h, c->hidden);
	tn_each_row(d, b, layer, before_scores);
	tn_attend(d, b, layer);
	tn_project(b, &out, 1, c->hidden, b->mixed, q);
}

static void run_layer(tn_decoder *d, struct tn_batch *b, size_t layer)
{
	attention(d, b, layer);
	tn_each_row(d, b, layer, between_halves);
	tn_mlp_rows(d, b, &d->layer[layer]);
	tn_each_row(d, b, layer, behind_layer);
}

static void embed(const tn_decoder *d, struct tn_batch *b)
{
	const size_t hidden = d->config.hidden, n = b->m * hidden;
	tn_snapshot_embed(b->snapshot, d->embedding, b->ids, b->m, b->adapter_of_row, b->x, hidden);
	if (d->config.embedding_scale != 1)
		for (size_t i = 0; i < n; i++)
			b->x[i] *= d->config.embedding_scale;
	if (!(d->config.architecture->traits & TN_LEARNED_POSITIONS))
		return;
	tn_snapshot_embed(b->snapshot, d->positions, b->position_ids, b->m, b->adapter_of_row, b->y, hidden);
	for (size_t i = 0; i < n; i++)
		b->x[i] += b->y[i];
}

/* ---- logits ---------------------------------------------------------------------------------------------- */

/* Keeps the rows that are asked for. */
static void keep_wanted(const tn_decoder *d, struct tn_batch *b)
{
	const size_t hidden = d->config.hidden;
	size_t n = 0;
	for (size_t t = 0; t < b->m; t++) {
		if (!b->logits[t])
			continue;
		memmove(b->x + n * hidden, b->x + t * hidden, hidden * sizeof *b->x);
		b->adapter[n] = b->adapter[t];
		b->logits[n++] = b->logits[t];
	}
	b->m = n;
}

static void finish_logits(const tn_decoder *d, float *y)
{
	const size_t n = d->config.vocabulary;
	if (d->config.logit_divisor != 1)
		for (size_t i = 0; i < n; i++)
			y[i] /= d->config.logit_divisor;
	if (d->config.final_cap > 0)
		tn_softcap(y, n, d->config.final_cap);
}

/* Rows whose logits stand behind one another are computed in one product. */
static void write_logits(const tn_decoder *d, struct tn_batch *b)
{
	const size_t hidden = d->config.hidden, vocabulary = d->config.vocabulary;
	keep_wanted(d, b);
	if (b->m == 0)
		return;
	tn_norm_rows(d, b, &d->final_norm, b->h, b->x, hidden, hidden, 1, (struct tn_row_range){ 0, b->m });
	for (size_t t = 0, n; t < b->m; t += n) {
		for (n = 1; t + n < b->m && b->logits[t + n] == b->logits[t] + n * vocabulary; n++)
			continue;
		struct tn_live_call call = { .module = d->head, .m = n, .x = b->h + t * hidden, .x_stride = hidden,
					     .y = b->logits[t], .y_stride = vocabulary,
					     .adapter_of_row = b->adapter_of_row ? b->adapter + t : NULL };
		tn_snapshot_forward(b->snapshot, &call, b->scratch.data);
		for (size_t i = 0; i < n; i++)
			finish_logits(d, b->logits[t] + i * vocabulary);
	}
}

/* ---- batches --------------------------------------------------------------------------------------------- */

static void run_batch(tn_decoder *d, struct tn_batch *b)
{
	tn_rope_rows(d, b);
	embed(d, b);
	tn_each_row(d, b, 0, before_attention);
	for (size_t layer = 0; layer < d->config.layers; layer++)
		run_layer(d, b, layer);
	write_logits(d, b);
	b->m = 0;
	b->adapter_of_row = NULL;
}

static float *logits_of(const tn_decoder *d, const struct tn_step *step, size_t position)
{
	const struct tn_sequence *s = step->sequence;
	if (!step->logits || position < s->length)
		return NULL;
	if (step->all_logits)
		return step->logits + (position - s->length) * d->config.vocabulary;
	return position + 1 == s->wanted ? step->logits : NULL;
}

static void add_row(tn_decoder *d, struct tn_batch *b, const struct tn_step *step, size_t position)
{
	struct tn_sequence *s = step->sequence;
	const size_t t = b->m++;
	b->sequence[t] = s;
	b->position[t] = position;
	b->position_ids[t] = (uint32_t)position;
	b->ids[t] = s->ids[position];
	b->adapter[t] = s->index;
	b->logits[t] = logits_of(d, step, position);
	if (s->index != TN_LIVE_DEFAULT)
		b->adapter_of_row = b->adapter;
}

/* Asked between batches: a long prompt takes minutes. */
static int is_stopped(const tn_decoder *d, size_t done, size_t total)
{
	const uint64_t bytes = tn_kv_bytes_per_token(d);
	struct tn_progress progress = { done * bytes, total * bytes, "tokens" };
	return done < total && d->ctx->progress && d->ctx->progress(d->ctx->progress_user, &progress) != 0;
}

/* Computes what is not cached. kv->length counts along: rows in front of it are computed, or in the batch. 0: stopped. */
static int compute_rows(tn_decoder *d, struct tn_batch *b, const struct tn_step *steps, size_t count, size_t total)
{
	size_t done = 0;
	for (size_t i = 0; i < count; i++) {
		struct tn_sequence *s = steps[i].sequence;
		while (s->kv->length < s->wanted) {
			add_row(d, b, &steps[i], s->kv->length++);
			if (b->m < d->rows)
				continue;
			run_batch(d, b);
			done += d->rows;
			if (is_stopped(d, done, total))
				return 0;
		}
	}
	if (b->m)
		run_batch(d, b);
	return 1;
}

static tn_status compute(tn_decoder *d, const struct tn_step *steps, size_t count, const tn_snapshot *snapshot,
			 struct tn_error *err)
{
	struct tn_batch *b = &d->batch;
	size_t total = 0;
	b->snapshot = snapshot;
	b->adapter_of_row = NULL;
	b->m = 0;
	for (size_t i = 0; i < count; i++) {
		struct tn_sequence *s = steps[i].sequence;
		s->kv->length = tn_rope_extend(d, s->kv, s->wanted);
		total += s->wanted - s->kv->length;
	}
	const int finished = compute_rows(d, b, steps, count, total);
	for (size_t i = 0; i < count; i++) {
		struct tn_sequence *s = steps[i].sequence;
		if (finished)
			s->length = s->kv->length = s->wanted;
		else if (s->kv->length > s->length)
			s->kv->length = s->length;
	}
	return finished ? TN_OK : tn_fail(err, TN_E_CANCELLED, "tn_decoder_step", "the step was stopped");
}

tn_status tn_decoder_step(tn_decoder *d, const struct tn_step *steps, size_t count, struct tn_error *err)
{
	tn_status status = TN_OK;
	tn_snapshot *snapshot = tn_live_snapshot(d->live);
	size_t begun = 0;
	for (; begun < count && status == TN_OK; begun++)
		status = prepare(d, &steps[begun], snapshot, err);
	if (status == TN_OK)
		status = reserve_scratch(d, snapshot, err);
	if (status == TN_OK)
		status = compute(d, steps, count, snapshot, err);
	tn_snapshot_release(snapshot);
	for (size_t i = 0; i < begun; i++)
		if (steps[i].sequence->decoder == d)
			steps[i].sequence->in_step = 0;
	return status;
}
