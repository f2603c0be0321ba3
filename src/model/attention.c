/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention of the rows of a step over the caches of their texts, in float32.
 *
 * A query is one head of one row. Queries that look at the same keys, of rows of one text and of heads that share a head of keys,
 * are computed together: a tile of them goes over a piece of the keys that stays in the cache, in groups for whose sums the
 * registers have room. Each query is computed as if it were alone, in the same order, whatever tile it is in. */
#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <string.h>

/* Products above which the work is spread over the workers. */
static const uint64_t worth_spreading = 1 << 16;

/* Queries of a tile: as many as have their scores in half of a usual second cache, within these limits. Piece: keys or values that
 * stay in the cache while all groups of a tile meet them. */
enum { LEAST_QUERIES = 2 * TN_QUERY_GROUP, MOST_QUERIES = 4 * TN_QUERY_GROUP, SCORE_FLOATS = 1 << 17, PIECE_FLOATS = 1 << 13 };

/* Groups of a tile, each more than half full. */
enum { MOST_GROUPS = MOST_QUERIES / (TN_QUERY_GROUP / 2) };

struct attention {
	tn_decoder *d;
	struct tn_batch *b;
	size_t layer;
	/* The tiles: `rows` rows of one text or fewer, number t from b->tile_row[t] on, by `heads` of the heads that share keys, or
	 * fewer. */
	size_t rows, heads, tiles, parts;
};

/* Up to TN_QUERY_GROUP queries of a tile, number `query` and those behind it. */
struct group {
	size_t query, count;
	size_t key, blocks;                     /* the block that the first key is in, and how many there are */
	struct tn_key_span span[TN_QUERY_GROUP]; /* counted from there */
	float *q, *scores, *y;                  /* as the kernels have them */
};

/* Queries of rows [row, row_end) and heads [head, head_end), by rows. */
struct tile {
	const struct attention *a;
	const float *keys, *values;
	size_t row, row_end, head, head_end;
	size_t group_count;
	struct group group[MOST_GROUPS];
};

tn_status tn_attention_reserve(tn_decoder *d, size_t longest, struct tn_error *err)
{
	struct tn_batch *b = &d->batch;
	struct tn_buffer larger;
	size_t keys = tn_max_size(b->longest * 2, longest), queries, of_worker, bytes;
	if (longest <= b->longest)
		return TN_OK;
	keys = tn_align_up(keys, TN_KEY_BLOCK);
	queries = SCORE_FLOATS / keys / TN_QUERY_GROUP * TN_QUERY_GROUP;
	queries = queries < LEAST_QUERIES ? LEAST_QUERIES : queries > MOST_QUERIES ? MOST_QUERIES : queries;
	const size_t of_query = keys + 2 * tn_align_up(d->config.head_dim, TN_KEY_BLOCK); /* scores, q and y */
	if (tn_mul_size(queries * sizeof(float), of_query, &of_worker)
	    || tn_mul_size(of_worker, tn_pool_workers(d->ctx), &bytes))
		return tn_fail(err, TN_E_LIMIT, "attention", "%zu tokens are too many", longest);
	TN_TRY(tn_buffer_alloc(d->ctx, bytes, "attention scores", &larger, err));
	tn_buffer_release(d->ctx, &b->attending_buffer);
	b->attending_buffer = larger;
	b->attending = larger.data;
	b->attending_stride = of_worker / sizeof(float);
	b->tile_queries = queries;
	b->longest = keys;
	return TN_OK;
}

/* ---- a tile ---------------------------------------------------------------------------------------------- */

static size_t row_of(const struct tile *t, size_t query)
{
	return t->row + query / (t->head_end - t->head);
}

static size_t head_of(const struct tile *t, size_t query)
{
	return t->head + query % (t->head_end - t->head);
}

/* The keys that a row looks at. */
static struct tn_key_span span_of(const struct attention *a, size_t row)
{
	const size_t window = a->d->config.layer[a->layer].window, end = a->b->position[row] + 1;
	return (struct tn_key_span){ window && end > window ? end - window : 0, end };
}

/* Whole rows, where a group has room for them: their queries look at the same keys. */
static void make_groups(struct tile *t, float *memory)
{
	const size_t heads = t->head_end - t->head, queries = (t->row_end - t->row) * heads, width = t->a->d->config.head_dim;
	const size_t most = heads <= TN_QUERY_GROUP ? TN_QUERY_GROUP / heads * heads : TN_QUERY_GROUP;
	t->group_count = 0;
	for (size_t query = 0; query < queries; query += most) {
		struct group *g = &t->group[t->group_count++];
		const size_t count = tn_min_size(queries - query, most), key = span_of(t->a, row_of(t, query)).first;
		*g = (struct group){ .query = query, .count = count, .key = key - key % TN_KEY_BLOCK };
		for (size_t n = 0; n < count; n++) {
			const struct tn_key_span span = span_of(t->a, row_of(t, query + n));
			g->span[n] = (struct tn_key_span){ span.first - g->key, span.end - g->key };
		}
		g->blocks = tn_ceil_div(g->span[count - 1].end, TN_KEY_BLOCK);
		g->scores = memory;
		g->q = g->scores + count * g->blocks * TN_KEY_BLOCK;
		g->y = g->q + count * width;
		memory = g->scores + tn_align_up((size_t)(g->y - g->scores) + count * width, TN_KEY_BLOCK);
	}
}

static void gather_queries(const struct tile *t, const struct group *g)
{
	const struct tn_decoder_config *c = &t->a->d->config;
	const size_t width = c->head_dim, stride = (c->heads + 2 * c->kv_heads) * width;
	for (size_t n = 0; n < g->count; n++) {
		const float *q = t->a->b->qkv + row_of(t, g->query + n) * stride + head_of(t, g->query + n) * width;
		for (size_t i = 0; i < width; i++)
			g->q[i * g->count + n] = q[i];
	}
	memset(g->y, 0, g->count * width * sizeof *g->y);
}

/* Those of keys [key, end) of the text that a group looks at, counted from its own first block; first may lie behind end. */
static struct tn_key_span keys_of(const struct group *g, size_t key, size_t end)
{
	const size_t last = tn_min_size(end, g->key + g->blocks * TN_KEY_BLOCK);
	return (struct tn_key_span){ tn_max_size(key, g->key) - g->key, last > g->key ? last - g->key : 0 };
}

static void score_piece(const struct tile *t, size_t key, size_t end)
{
	const tn_decoder *d = t->a->d;
	const size_t width = d->config.head_dim;
	const float scale = d->config.layer[t->a->layer].attention_scale;
	for (size_t i = 0; i < t->group_count; i++) {
		const struct group *g = &t->group[i];
		const struct tn_key_span keys = keys_of(g, key, end);
		if (keys.first < keys.end)
			d->ctx->kernels->scores_f32(g->scores + keys.first * g->count, g->q, g->count,
						    t->keys + (g->key + keys.first) * width,
						    (keys.end - keys.first) / TN_KEY_BLOCK, width, scale);
	}
}

static void mix_piece(const struct tile *t, size_t key, size_t end)
{
	const tn_decoder *d = t->a->d;
	const size_t width = d->config.head_dim;
	for (size_t i = 0; i < t->group_count; i++) {
		const struct group *g = &t->group[i];
		const struct tn_key_span keys = keys_of(g, key, end);
		if (keys.first < keys.end)
			d->ctx->kernels->mix_f32(g->y, g->scores, g->span, g->count, t->values + g->key * width, &keys, width);
	}
}

/* Scores become shares, but for their sums. */
static void weigh(const struct tile *t, const struct group *g, float sums[TN_QUERY_GROUP])
{
	const tn_decoder *d = t->a->d;
	if (d->config.attention_cap > 0)
		tn_softcap(g->scores, g->count * g->blocks * TN_KEY_BLOCK, d->config.attention_cap);
	d->ctx->kernels->weigh_f32(g->scores, sums, g->span, g->count, g->blocks);
}

static void write_rows(const struct tile *t, const struct group *g, const float sums[TN_QUERY_GROUP])
{
	const struct tn_decoder_config *c = &t->a->d->config;
	const size_t width = c->head_dim;
	for (size_t n = 0; n < g->count; n++) {
		float *out = t->a->b->mixed + (row_of(t, g->query + n) * c->heads + head_of(t, g->query + n)) * width;
		for (size_t i = 0; i < width; i++)
			out[i] = g->y[n * width + i] / sums[n];
	}
}

static void attend_tile(struct tile *t, float *memory)
{
	const size_t width = t->a->d->config.head_dim;
	const size_t piece = tn_max_size(PIECE_FLOATS / width / TN_KEY_BLOCK, 2) * TN_KEY_BLOCK;
	float sums[MOST_GROUPS][TN_QUERY_GROUP];
	make_groups(t, memory);
	const struct group *last = &t->group[t->group_count - 1];
	const size_t first = t->group[0].key, end = last->key + last->blocks * TN_KEY_BLOCK;
	for (size_t i = 0; i < t->group_count; i++)
		gather_queries(t, &t->group[i]);
	for (size_t key = first; key < end; key += piece)
		score_piece(t, key, key + piece);
	for (size_t i = 0; i < t->group_count; i++)
		weigh(t, &t->group[i], sums[i]);
	for (size_t key = first; key < end; key += piece)
		mix_piece(t, key, key + piece);
	for (size_t i = 0; i < t->group_count; i++)
		write_rows(t, &t->group[i], sums[i]);
}

/* ---- all tiles ------------------------------------------------------------------------------------------- */

/* Tasks that look at the same keys stand behind one another. */
static tn_status attend_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct attention *a = arg;
	const struct tn_decoder_config *c = &a->d->config;
	const size_t of_head = a->tiles * a->parts, shared = c->heads / c->kv_heads;
	const size_t kv_head = task / of_head, tile = task % of_head / a->parts, part = task % a->parts;
	struct tile t = { .a = a, .row = a->b->tile_row[tile], .row_end = a->b->tile_row[tile + 1] };
	const struct tn_kv *kv = a->b->sequence[t.row]->kv;
	(void)err;
	t.head = kv_head * shared + part * a->heads;
	t.head_end = tn_min_size(t.head + a->heads, (kv_head + 1) * shared);
	t.keys = tn_kv_head(a->d, kv, a->layer, 0, kv_head);
	t.values = tn_kv_head(a->d, kv, a->layer, 1, kv_head);
	attend_tile(&t, a->b->attending + worker * a->b->attending_stride);
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

/* Rows of a text stand behind one another in a batch. */
static void cut_rows(struct attention *a)
{
	const struct tn_batch *b = a->b;
	a->tiles = 0;
	for (size_t row = 0; row < b->m; row++)
		if (row == 0 || b->sequence[row] != b->sequence[row - 1] || row - b->tile_row[a->tiles - 1] == a->rows)
			b->tile_row[a->tiles++] = row;
	b->tile_row[a->tiles] = b->m;
}

/* Tiles as large as there is memory for, and smaller ones where some of the workers would have none. */
static void cut(struct attention *a, unsigned workers)
{
	const struct tn_decoder_config *c = &a->d->config;
	const size_t shared = c->heads / c->kv_heads;
	a->heads = tn_min_size(shared, a->b->tile_queries);
	a->rows = a->b->tile_queries / a->heads;
	for (;;) {
		a->parts = tn_ceil_div(shared, a->heads);
		cut_rows(a);
		if (a->tiles * a->parts * c->kv_heads >= workers || a->rows * a->heads == 1)
			return;
		if (a->rows > 1)
			a->rows = (a->rows + 1) / 2;
		else
			a->heads = (a->heads + 1) / 2;
	}
}

void tn_attend(tn_decoder *d, struct tn_batch *b, size_t layer)
{
	struct attention a = { .d = d, .b = b, .layer = layer };
	uint64_t products = 0;
	for (size_t t = 0; t < b->m; t++)
		products += (b->position[t] + 1) * d->config.heads * d->config.head_dim;
	const int is_alone = products < worth_spreading;
	cut(&a, is_alone ? 1 : tn_pool_workers(d->ctx));
	struct tn_work work = { .task_count = a.tiles * a.parts * d->config.kv_heads, .run = attend_task, .arg = &a };
	for (uint64_t i = 0; i < work.task_count && is_alone; i++)
		attend_task(&a, i, 0, NULL);
	if (!is_alone)
		tn_pool_run(d->ctx, &work, NULL);
}
