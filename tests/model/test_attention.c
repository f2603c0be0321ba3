/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by itself, of several texts in one step, against its definition in double; and the same bits on every instruction set,
 * for any number of workers and any size of the tiles. */
#include "testlib.h"

#include "base/context.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 4, MOST_ROWS = 160, LONGEST = 256, MOST_WIDTH = 128 };

/* One layer of a model without anything else. */
struct shape {
	uint64_t heads, kv_heads, width;
	uint32_t window;
	float cap;
};
static const struct shape shapes[] = {
	{ 8, 1, 64, 0, 0 },  { 8, 2, 16, 5, 0 },   { 7, 1, 10, 0, 3 },  { 3, 3, 80, 9, 2 },
	{ 12, 1, 8, 40, 0 }, { 40, 1, 24, 33, 0 }, { 10, 2, 72, 0, 0 }, { 4, 4, 128, 17, 0 },
};

/* Rows of each text in each step. */
static const size_t steps[][TEXTS] = { { 40, 0, 1, 17 }, { 1, 1, 1, 1 }, { 90, 3, 15, 0 }, { 1, 0, 0, 0 }, { 2, 64, 33, 1 } };

struct place {
	const char *isa;
	unsigned threads;
	size_t reserve;
};

/* What was stored, [text][position][kv_heads * width], and what comes out of it. */
struct world {
	struct shape shape;
	tn_decoder *d;
	struct tn_layer_config layer;
	tn_sequence *text[TEXTS];
	float *keys[TEXTS], *values[TEXTS];
	uint64_t state, hash;
};

static float some(struct world *w)
{
	return (float)(int64_t)tt_random(&w->state) * 0x1p-62f;
}

static void *array(size_t count)
{
	void *p = calloc(count, sizeof(float));
	assert_non_null(p);
	return p;
}

static void build(struct tt *t, struct world *w, tn_context *ctx, const struct shape *shape, size_t reserve)
{
	*w = (struct world){ .shape = *shape, .state = 5, .hash = 1469598103934665603u };
	tt_ok(t, tn_alloc_array(ctx, 1, sizeof *w->d, "decoder", &w->d, &t->err));
	w->layer = (struct tn_layer_config){ .window = shape->window, .attention_scale = 0.7f };
	w->d->ctx = ctx;
	w->d->config = (struct tn_decoder_config){ .layers = 1, .heads = shape->heads, .kv_heads = shape->kv_heads,
						   .head_dim = shape->width, .attention_cap = shape->cap, .layer = &w->layer };
	w->d->cache_budget = UINT64_MAX;
	struct tn_batch *b = &w->d->batch;
	b->sequence = calloc(MOST_ROWS, sizeof *b->sequence);
	b->position = calloc(MOST_ROWS, sizeof *b->position);
	b->tile_row = calloc(MOST_ROWS + 1, sizeof *b->tile_row);
	b->qkv = array(MOST_ROWS * (shape->heads + 2 * shape->kv_heads) * shape->width);
	b->mixed = array(MOST_ROWS * shape->heads * shape->width);
	tt_ok(t, tn_attention_reserve(w->d, reserve, &t->err));
	for (size_t i = 0; i < TEXTS; i++) {
		tt_ok(t, tn_sequence_create(w->d, 0, &w->text[i], &t->err));
		w->keys[i] = array(LONGEST * shape->kv_heads * shape->width);
		w->values[i] = array(LONGEST * shape->kv_heads * shape->width);
	}
}

static void tear_down(struct world *w)
{
	struct tn_batch *b = &w->d->batch;
	tn_context *ctx = w->d->ctx;
	for (size_t i = 0; i < TEXTS; i++) {
		tn_sequence_destroy(w->text[i]);
		free(w->keys[i]);
		free(w->values[i]);
	}
	free(b->sequence);
	free(b->position);
	free(b->tile_row);
	free(b->qkv);
	free(b->mixed);
	tn_buffer_release(ctx, &b->attending_buffer);
	tn_free(ctx, w->d, sizeof *w->d);
}

/* The rows of a step: random q, k and v, the latter kept. */
static void add_rows(struct tt *t, struct world *w, const size_t counts[TEXTS])
{
	struct tn_batch *b = &w->d->batch;
	const size_t heads = w->shape.heads, of_keys = w->shape.kv_heads * w->shape.width;
	const size_t stride = heads * w->shape.width + 2 * of_keys;
	b->m = 0;
	for (size_t i = 0; i < TEXTS; i++) {
		tn_sequence *s = w->text[i];
		struct tn_kv *kv;
		if (counts[i] == 0)
			continue;
		tt_ok(t, tn_attention_reserve(w->d, s->length + counts[i], &t->err));
		tt_ok(t, tn_kv_open(w->d, s, 1, s->length + counts[i], &kv, &t->err));
		for (size_t r = 0; r < counts[i]; r++, b->m++, s->length++) {
			float *row = b->qkv + b->m * stride;
			b->sequence[b->m] = s;
			b->position[b->m] = s->length;
			for (size_t j = 0; j < stride; j++)
				row[j] = some(w);
			memcpy(w->keys[i] + s->length * of_keys, row + heads * w->shape.width, of_keys * sizeof *row);
			memcpy(w->values[i] + s->length * of_keys, row + heads * w->shape.width + of_keys, of_keys * sizeof *row);
		}
		kv->length = s->length;
	}
}

static size_t number_of(const struct world *w, const tn_sequence *s)
{
	size_t i = 0;
	while (w->text[i] != s)
		i++;
	return i;
}

/* One head of one row as it is defined. */
static void define(const struct world *w, size_t row, size_t head, double *out)
{
	const struct tn_batch *b = &w->d->batch;
	const size_t width = w->shape.width, of_keys = w->shape.kv_heads * width, text = number_of(w, b->sequence[row]);
	const size_t at = head / (w->shape.heads / w->shape.kv_heads) * width, end = b->position[row] + 1;
	const size_t begin = w->shape.window && end > w->shape.window ? end - w->shape.window : 0;
	const float *q = b->qkv + row * (w->shape.heads * width + 2 * of_keys) + head * width;
	double score[LONGEST], most = (double)-INFINITY, sum = 0;
	for (size_t i = begin; i < end; i++) {
		score[i] = 0;
		for (size_t j = 0; j < width; j++)
			score[i] += (double)q[j] * (double)w->keys[text][i * of_keys + at + j];
		score[i] *= (double)w->layer.attention_scale;
		if (w->shape.cap > 0)
			score[i] = (double)w->shape.cap * tanh(score[i] / (double)w->shape.cap);
		most = fmax(most, score[i]);
	}
	memset(out, 0, width * sizeof *out);
	for (size_t i = begin; i < end; i++) {
		const double share = exp(score[i] - most);
		sum += share;
		for (size_t j = 0; j < width; j++)
			out[j] += share * (double)w->values[text][i * of_keys + at + j];
	}
	for (size_t j = 0; j < width; j++)
		out[j] /= sum;
}

static void check_rows(const struct world *w)
{
	const size_t width = w->shape.width;
	double want[MOST_WIDTH];
	for (size_t row = 0; row < w->d->batch.m; row++)
		for (size_t head = 0; head < w->shape.heads; head++) {
			const float *got = w->d->batch.mixed + (row * w->shape.heads + head) * width;
			define(w, row, head, want);
			for (size_t j = 0; j < width; j++)
				if (!(fabs((double)got[j] - want[j]) < 2e-5))
					fail_msg("%zu of %zu heads, width %zu, window %u: row %zu, head %zu, number %zu is %g, not %g",
						 (size_t)w->shape.kv_heads, (size_t)w->shape.heads, width, w->shape.window, row, head, j,
						 (double)got[j], want[j]);
		}
}

/* All steps; what came out as one number. */
static uint64_t attend(struct tt *t, const struct shape *shape, const struct place *place, int is_checked)
{
	struct tn_options options = TN_OPTIONS_INIT;
	struct world w;
	tn_context *ctx;
	options.isa = place->isa;
	options.threads = place->threads;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	build(t, &w, ctx, shape, place->reserve);
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		struct tn_batch *b = &w.d->batch;
		add_rows(t, &w, steps[i]);
		tn_store_keys(w.d, b, 0, (struct tn_row_range){ 0, b->m });
		tn_attend(w.d, b, 0);
		if (is_checked)
			check_rows(&w);
		for (size_t j = 0; j < b->m * shape->heads * shape->width; j++) {
			uint32_t bits;
			memcpy(&bits, &b->mixed[j], sizeof bits);
			w.hash = (w.hash ^ bits) * 1099511628211u;
		}
	}
	tear_down(&w);
	tn_context_destroy(ctx);
	return w.hash;
}

static void rows_are_what_they_are_defined_to_be(void **state)
{
	struct tt *t = *state;
	const struct place plain = { NULL, 1, 0 };
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		attend(t, &shapes[i], &plain, 1);
}

/* A large reserve makes small tiles. */
static void the_same_bits_everywhere(void **state)
{
	struct tt *t = *state;
	static const unsigned threads[] = { 1, 2, 3, 16 };
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		const uint64_t want = attend(t, &shapes[i], &(struct place){ "portable", 1, 0 }, 0);
		for (unsigned k = 0; tn_kernels_isa_name(k); k++)
			for (size_t n = 0; n < sizeof threads / sizeof *threads && tn_kernels_for(tn_kernels_isa_name(k)); n++) {
				const struct place place = { tn_kernels_isa_name(k), threads[n], n % 2 ? 20000 : 0 };
				if (attend(t, &shapes[i], &place, 0) != want)
					fail_msg("shape %zu: %s with %u threads has other bits than portable", i, place.isa, threads[n]);
			}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(rows_are_what_they_are_defined_to_be),
		TT_TEST(the_same_bits_everywhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
