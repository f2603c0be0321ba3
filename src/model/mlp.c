/* SPDX-License-Identifier: Apache-2.0 */
/* The second half of a layer: a plain or gated MLP, or experts chosen by a router, as transformers 5.23 has them
 * (models/mixtral, qwen2_moe, qwen3_moe). */
#include "live/live.h"
#include "model/decoder.h"

#include <math.h>
#include <string.h>

/* ---- products -------------------------------------------------------------------------------------------- */

/* Rows of one MLP, or of one expert. */
struct mlp_call {
	const struct tn_mlp *mlp;
	const float *x;
	float *y;
	size_t m;
	const size_t *adapter_of_row;
	uint64_t expert;
};

static void multiply(const struct tn_batch *b, const struct mlp_call *c, const struct tn_projection *to, size_t count,
		     size_t y_stride, size_t x_stride)
{
	struct tn_live_call calls[TN_MOST_TOGETHER];
	for (size_t i = 0; i < count; i++)
		calls[i] = (struct tn_live_call){ .module = to[i].module, .m = c->m, .x = c->x, .x_stride = x_stride, .y = to[i].y,
						  .y_stride = y_stride, .adapter_of_row = c->adapter_of_row, .expert = c->expert };
	tn_snapshot_forward_together(b->snapshot, calls, count, b->scratch.data);
}

void tn_project(const struct tn_batch *b, const struct tn_projection *to, size_t count, size_t y_stride, const float *x,
		size_t x_stride)
{
	struct mlp_call call = { .x = x, .m = b->m, .adapter_of_row = b->adapter_of_row };
	multiply(b, &call, to, count, y_stride, x_stride);
}

static void run(const tn_decoder *d, struct tn_batch *b, const struct mlp_call *c)
{
	const struct tn_mlp *mlp = c->mlp;
	const size_t hidden = d->config.hidden, width = mlp->width, stride = 2 * width;
	const struct tn_projection gate_up = { mlp->gate_up, b->wide }, up = { mlp->up, b->wide }, down = { mlp->down, c->y };
	const struct tn_projection both[2] = { { mlp->gate, b->wide }, { mlp->up, b->wide + width } };
	int gated = 1;
	if (mlp->gate_up != TN_LIVE_NONE) {
		multiply(b, c, &gate_up, 1, stride, hidden);
	} else if (mlp->gate != TN_LIVE_NONE) {
		multiply(b, c, both, 2, stride, hidden);
	} else {
		multiply(b, c, &up, 1, stride, hidden);
		gated = 0;
	}
	tn_activate_rows(d, b->wide, c->m, stride, width, gated);
	struct mlp_call back = *c;
	back.x = b->wide;
	multiply(b, &back, &down, 1, hidden, stride);
}

/* ---- experts --------------------------------------------------------------------------------------------- */

static void softmax(float *x, size_t n)
{
	float most = x[0], sum = 0;
	for (size_t i = 1; i < n; i++)
		most = x[i] > most ? x[i] : most;
	for (size_t i = 0; i < n; i++) {
		x[i] = expf(x[i] - most);
		sum += x[i];
	}
	for (size_t i = 0; i < n; i++)
		x[i] /= sum;
}

static const float taken = -1;

/* The experts_per_token largest of one row, first the largest; of equal ones the first. No expert twice, whatever the numbers
 * are: a damaged router gives NaN, and the rows of one expert have room for each row of the step once. */
static void choose(const struct tn_decoder_config *c, float *probability, uint32_t *chosen, float *share)
{
	float sum = 0;
	for (uint64_t k = 0; k < c->experts_per_token; k++) {
		uint32_t best = 0;
		while (probability[best] == taken)
			best++;
		for (uint32_t e = best + 1; e < c->experts; e++)
			if (probability[e] > probability[best])
				best = e;
		chosen[k] = best;
		share[k] = probability[best];
		sum += share[k];
		probability[best] = taken;
	}
	for (uint64_t k = 0; c->normalize_topk && k < c->experts_per_token; k++)
		share[k] /= sum;
}

static void route(const tn_decoder *d, struct tn_batch *b, const struct tn_decoder_layer *layer)
{
	const struct tn_decoder_config *c = &d->config;
	tn_project(b, &(struct tn_projection){ layer->router, b->routes }, 1, c->experts, b->h, c->hidden);
	for (size_t t = 0; t < b->m; t++) {
		softmax(b->routes + t * c->experts, c->experts);
		choose(c, b->routes + t * c->experts, b->chosen + t * c->experts_per_token, b->share + t * c->experts_per_token);
	}
}

/* The rows that chose an expert, side by side. Returns how many. */
static size_t gather(const tn_decoder *d, struct tn_batch *b, uint32_t expert)
{
	const struct tn_decoder_config *c = &d->config;
	size_t n = 0;
	for (size_t t = 0; t < b->m; t++)
		for (uint64_t k = 0; k < c->experts_per_token; k++) {
			if (b->chosen[t * c->experts_per_token + k] != expert)
				continue;
			memcpy(b->gathered + n * c->hidden, b->h + t * c->hidden, c->hidden * sizeof *b->h);
			b->adapter_gathered[n] = b->adapter[t];
			b->share_of[n] = b->share[t * c->experts_per_token + k];
			b->row_of[n++] = (uint32_t)t;
		}
	return n;
}

static void add_scaled(float *y, const float *x, size_t n, float scale)
{
	for (size_t i = 0; i < n; i++)
		y[i] += x[i] * scale;
}

static void run_experts(const tn_decoder *d, struct tn_batch *b, const struct tn_decoder_layer *layer)
{
	const struct tn_decoder_config *c = &d->config;
	route(d, b, layer);
	memset(b->y, 0, b->m * c->hidden * sizeof *b->y);
	for (uint32_t e = 0; e < c->experts; e++) {
		size_t n = gather(d, b, e);
		if (n == 0)
			continue;
		struct mlp_call call = { .mlp = &layer->expert[layer->stacked ? 0 : e], .x = b->gathered, .y = b->answered,
					 .m = n, .adapter_of_row = b->adapter_of_row ? b->adapter_gathered : NULL,
					 .expert = layer->stacked ? e : 0 };
		run(d, b, &call);
		for (size_t i = 0; i < n; i++)
			add_scaled(b->y + b->row_of[i] * c->hidden, b->answered + i * c->hidden, c->hidden, b->share_of[i]);
	}
}

/* Beside the experts: an MLP behind a gate of one number. */
static void add_shared(const tn_decoder *d, struct tn_batch *b, const struct tn_decoder_layer *layer)
{
	const size_t hidden = d->config.hidden;
	struct mlp_call call = { .mlp = &layer->mlp, .x = b->h, .y = b->answered, .m = b->m,
				 .adapter_of_row = b->adapter_of_row };
	run(d, b, &call);
	tn_project(b, &(struct tn_projection){ layer->shared_gate, b->routes }, 1, 1, b->h, hidden);
	for (size_t t = 0; t < b->m; t++)
		add_scaled(b->y + t * hidden, b->answered + t * hidden, hidden, 1 / (1 + expf(-b->routes[t])));
}

void tn_mlp_rows(tn_decoder *d, struct tn_batch *b, const struct tn_decoder_layer *layer)
{
	if (!layer->config->has_experts) {
		struct mlp_call call = { .mlp = &layer->mlp, .x = b->h, .y = b->y, .m = b->m,
					 .adapter_of_row = b->adapter_of_row };
		run(d, b, &call);
		return;
	}
	run_experts(d, b, layer);
	if (d->config.architecture->traits & TN_SHARED_EXPERT)
		add_shared(d, b, layer);
}
