/* SPDX-License-Identifier: Apache-2.0 */
/* What attention and activations need beside products. Sums have a fixed order: the same bits on every instruction set, and for
 * any number of queries that are computed together. */
#include "kernels/attend.h"

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

/* Floats of a register; queries whose sums the registers hold; vectors of keys or columns of values that so many queries meet at
 * once, fewer queries more of them, for sums that do not wait for each other. With AVX-512 one vector is best: a factor that is
 * needed once comes out of memory as a part of the product, and one that is kept is an operation of its own. */
#ifdef __AVX512F__
enum { VECTOR = 16, TOGETHER = 8, NARROW = 1, KEYS_OF_ONE = 2, KEYS_OF_TWO = 2, COLUMNS_OF_ONE = 4 };
#elif defined __AVX__
enum { VECTOR = 8, TOGETHER = 4, NARROW = 2, KEYS_OF_ONE = 4, KEYS_OF_TWO = 4, COLUMNS_OF_ONE = 8 };
#elif defined __aarch64__
enum { VECTOR = 4, TOGETHER = 8, NARROW = 2, KEYS_OF_ONE = 8, KEYS_OF_TWO = 4, COLUMNS_OF_ONE = 8 };
#else
enum { VECTOR = 4, TOGETHER = 4, NARROW = 2, KEYS_OF_ONE = 8, KEYS_OF_TWO = 4, COLUMNS_OF_ONE = 8 };
#endif
enum { PARTS = TN_KEY_BLOCK / VECTOR, COLUMNS_OF_TWO = 4, MOST_VECTORS = 8 };

/* Functions with constant arguments: their loops become straight code, their arrays registers. */
#define INLINE static inline __attribute__((always_inline))

/* Left to itself gcc 12 turns these loops inside out, and they take ten times as long; vectors longer than a register it keeps
 * in memory, and they take twenty times as long. */
typedef float vector __attribute__((vector_size(VECTOR * sizeof(float))));

INLINE vector load(const float *p)
{
	vector v;
	memcpy(&v, p, sizeof v);
	return v;
}

INLINE void store(float *p, vector v)
{
	memcpy(p, &v, sizeof v);
}

/* ---- scores ---------------------------------------------------------------------------------------------- */

/* Queries of a group, keys in blocks, and where their scores go. */
struct scoring {
	float *scores;
	const float *q, *keys;
	size_t queries, width;
	float scale;
};

/* `count` queries from `query` on meet `vectors` vectors of keys from number `first` on: every vector that is loaded serves all of
 * them. */
INLINE void score(const struct scoring *s, size_t query, size_t count, size_t first, size_t vectors)
{
	const float *q = s->q + query, *from[MOST_VECTORS];
	vector sum[TN_QUERY_GROUP][MOST_VECTORS] = { { { 0 } } };
	for (size_t v = 0; v < vectors; v++)
		from[v] = s->keys + (first + v) / PARTS * TN_KEY_BLOCK * s->width + (first + v) % PARTS * VECTOR;
	for (size_t j = 0; j < s->width; j++, q += s->queries) {
		vector key[MOST_VECTORS];
		for (size_t v = 0; v < vectors; v++)
			key[v] = load(from[v] + j * TN_KEY_BLOCK);
		for (size_t n = 0; n < count; n++)
			for (size_t v = 0; v < vectors; v++)
				sum[n][v] += q[n] * key[v];
	}
	for (size_t n = 0; n < count; n++)
		for (size_t v = 0; v < vectors; v++)
			store(s->scores + (first + v) / PARTS * TN_KEY_BLOCK * s->queries + (query + n) * TN_KEY_BLOCK
			      + (first + v) % PARTS * VECTOR, sum[n][v] * s->scale);
}

INLINE void score_all(const struct scoring *s, size_t query, size_t count, size_t blocks)
{
	const size_t all = blocks * PARTS;
	size_t v = 0;
	for (; count == 1 && v + KEYS_OF_ONE <= all; v += KEYS_OF_ONE)
		score(s, query, count, v, KEYS_OF_ONE);
	for (; count == 2 && v + KEYS_OF_TWO <= all; v += KEYS_OF_TWO)
		score(s, query, count, v, KEYS_OF_TWO);
	for (; v + NARROW <= all; v += NARROW)
		score(s, query, count, v, NARROW);
	for (; v < all; v++)
		score(s, query, count, v, 1);
}

void TN_ISA_NAME(tn_scores_f32)(float *scores, const float *q, size_t queries, const float *keys, size_t blocks, size_t width,
				float scale)
{
	const struct scoring s = { scores, q, keys, queries, width, scale };
	size_t n = 0;
	for (; n + TOGETHER <= queries; n += TOGETHER)
		score_all(&s, n, TOGETHER, blocks);
	switch ((queries - n) % TOGETHER) {
	case 1: score_all(&s, n, 1, blocks); break;
	case 2: score_all(&s, n, 2, blocks); break;
	case 3: score_all(&s, n, 3, blocks); break;
	case 4: score_all(&s, n, 4, blocks); break;
	case 5: score_all(&s, n, 5, blocks); break;
	case 6: score_all(&s, n, 6, blocks); break;
	case 7: score_all(&s, n, 7, blocks); break;
	default: break;
	}
}

/* ---- shares ---------------------------------------------------------------------------------------------- */

/* What a query does not look at counts for nothing. */
static void leave_out(float *scores, const struct tn_key_span *span, size_t queries, size_t keys)
{
	for (size_t i = 0; i < span->first; i++)
		scores[i / TN_KEY_BLOCK * TN_KEY_BLOCK * queries + i % TN_KEY_BLOCK] = -INFINITY;
	for (size_t i = span->end; i < keys; i++)
		scores[i / TN_KEY_BLOCK * TN_KEY_BLOCK * queries + i % TN_KEY_BLOCK] = -INFINITY;
}

static inline float larger(float a, float b)
{
	return a > b ? a : b;
}

/* The largest of each query's scores. */
static void find_most(float most[TN_QUERY_GROUP], const float *scores, size_t queries, size_t blocks)
{
	float of_lane[TN_QUERY_GROUP * TN_KEY_BLOCK];
	memcpy(of_lane, scores, queries * TN_KEY_BLOCK * sizeof *scores);
	for (size_t b = 1; b < blocks; b++)
		for (size_t i = 0; i < queries * TN_KEY_BLOCK; i++)
			of_lane[i] = larger(scores[b * queries * TN_KEY_BLOCK + i], of_lane[i]);
	for (size_t n = 0; n < queries; n++) {
		most[n] = -INFINITY;
		for (size_t i = 0; i < TN_KEY_BLOCK; i++)
			most[n] = larger(of_lane[n * TN_KEY_BLOCK + i], most[n]);
	}
}

/* 2^k * exp(r) with |r| <= log(2) / 2: the polynomial of Cephes' expf (S. Moshier), to 2 units in the last place. */
static inline float exponential(float x)
{
	const float high = 88.7f, low = -87.3f;
	float clamped = x > high ? high : x < low ? low : x;
	float k = clamped * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the rounded number */
	uint32_t bits;
	memcpy(&bits, &k, sizeof bits);
	k -= 12582912.0f;
	float r = clamped - k * 0.693359375f - k * -2.12194440e-4f;
	float p = 1.9875691500e-4f;
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * (r * r) + r + 1;
	uint32_t power = (bits - 0x4B400000u + 127u) << 23;
	float scale;
	memcpy(&scale, &power, sizeof scale);
	float e = p * scale;
	return x < low ? 0 : x > high ? x * 3.4e38f : x != x ? x : e;
}

void TN_ISA_NAME(tn_exp_f32)(float *y, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] = exponential(x[i]);
}

/* A block of shares onto the sums, which do not wait for each other. */
static void add_shares(float sums[TN_QUERY_GROUP], const float *shares, size_t queries)
{
	for (size_t n = 0; n < queries; n++, shares += TN_KEY_BLOCK) {
		float sum = sums[n];
		for (size_t i = 0; i < TN_KEY_BLOCK; i++)
			sum += shares[i];
		sums[n] = sum;
	}
}

void TN_ISA_NAME(tn_weigh_f32)(float *scores, float *sums, const struct tn_key_span *spans, size_t queries, size_t blocks)
{
	const size_t step = queries * TN_KEY_BLOCK;
	float most[TN_QUERY_GROUP], sum[TN_QUERY_GROUP] = { 0 };
	for (size_t n = 0; n < queries; n++)
		leave_out(scores + n * TN_KEY_BLOCK, &spans[n], queries, blocks * TN_KEY_BLOCK);
	find_most(most, scores, queries, blocks);
	for (size_t b = 0; b < blocks; b++) {
		float *block = scores + b * step;
		for (size_t n = 0; n < queries; n++)
			for (size_t i = 0; i < TN_KEY_BLOCK; i++)
				block[n * TN_KEY_BLOCK + i] = exponential(block[n * TN_KEY_BLOCK + i] - most[n]);
		if (b > 0) /* what was stored just now would have to be waited for */
			add_shares(sum, block - step, queries);
	}
	add_shares(sum, scores + (blocks - 1) * step, queries);
	memcpy(sums, sum, queries * sizeof *sums);
}

/* ---- mixtures -------------------------------------------------------------------------------------------- */

/* Queries of a group, their shares, the values, and what they add up to. */
struct mixing {
	float *y;
	const float *shares, *values;
	size_t queries, width;
};

/* Some vectors of columns of `count` queries: values `keys` once for all of them. As many values behind those are asked for, in the
 * order of memory, a part of them by each strip of columns: what is read in strips no CPU foresees. Keys are read in order. */
INLINE void add_values(vector sum[TN_QUERY_GROUP][MOST_VECTORS], const struct mixing *m, size_t query, size_t count,
		       struct tn_key_span keys, size_t column, size_t vectors)
{
	const float *row = m->values + keys.first * m->width + column;
	const float *next = m->values + keys.end * m->width + (keys.end - keys.first) * column;
	for (size_t i = keys.first; i < keys.end;) {
		const size_t inside = i % TN_KEY_BLOCK, left = keys.end - i;
		const size_t stop = i + (left < TN_KEY_BLOCK - inside ? left : TN_KEY_BLOCK - inside);
		const float *share = m->shares + (i - inside) * m->queries + query * TN_KEY_BLOCK + inside;
		for (; i < stop; i++, row += m->width, next += vectors * VECTOR, share++) {
			vector value[MOST_VECTORS];
			for (size_t v = 0; v < vectors; v++) {
				value[v] = load(row + v * VECTOR);
				if (v * VECTOR % TN_KEY_BLOCK == 0)
					__builtin_prefetch(next + v * VECTOR, 0, 2);
			}
			for (size_t n = 0; n < count; n++)
				for (size_t v = 0; v < vectors; v++)
					sum[n][v] += share[n * TN_KEY_BLOCK] * value[v];
		}
	}
}

/* Of vectors[count] from that column on the last `kept` floats are stored: columns in front of them are another strip's. */
INLINE void mix_strip(const struct mixing *m, size_t query, size_t count, struct tn_key_span keys, size_t column, size_t vectors,
		      size_t kept)
{
	vector sum[TN_QUERY_GROUP][MOST_VECTORS];
	float *y = m->y + query * m->width + column;
	for (size_t n = 0; n < count; n++)
		for (size_t v = 0; v < vectors; v++)
			sum[n][v] = load(y + n * m->width + v * VECTOR);
	add_values(sum, m, query, count, keys, column, vectors);
	for (size_t n = 0; n < count; n++) {
		if (kept)
			memcpy(y + n * m->width + VECTOR - kept, (const float *)&sum[n][0] + VECTOR - kept, kept * sizeof *y);
		for (size_t v = 0; v < vectors && !kept; v++)
			store(y + n * m->width + v * VECTOR, sum[n][v]);
	}
}

/* Heads that are narrower than a register. */
static void mix_narrow(const struct mixing *m, size_t query, struct tn_key_span keys)
{
	for (size_t j = 0; j < m->width; j++) {
		float *y = m->y + query * m->width + j;
		for (size_t i = keys.first; i < keys.end; i++)
			*y += m->shares[i / TN_KEY_BLOCK * TN_KEY_BLOCK * m->queries + query * TN_KEY_BLOCK + i % TN_KEY_BLOCK]
			      * m->values[i * m->width + j];
	}
}

INLINE void mix_keys(const struct mixing *m, size_t query, size_t count, struct tn_key_span keys)
{
	const size_t whole = m->width / VECTOR * VECTOR;
	size_t j = 0;
	if (m->width < VECTOR) {
		for (size_t n = 0; n < count; n++)
			mix_narrow(m, query + n, keys);
		return;
	}
	if (whole < m->width) /* before the columns that it shares with others are summed */
		mix_strip(m, query, count, keys, m->width - VECTOR, 1, m->width - whole);
	for (; count == 1 && j + COLUMNS_OF_ONE * VECTOR <= whole; j += COLUMNS_OF_ONE * VECTOR)
		mix_strip(m, query, count, keys, j, COLUMNS_OF_ONE, 0);
	for (; count <= 2 && j + COLUMNS_OF_TWO * VECTOR <= whole; j += COLUMNS_OF_TWO * VECTOR)
		mix_strip(m, query, count, keys, j, COLUMNS_OF_TWO, 0);
	for (; j + NARROW * VECTOR <= whole; j += NARROW * VECTOR)
		mix_strip(m, query, count, keys, j, NARROW, 0);
	for (; j < whole; j += VECTOR)
		mix_strip(m, query, count, keys, j, 1, 0);
}

static void mix_one(const struct mixing *m, size_t query, size_t first, size_t end)
{
	if (first < end)
		mix_keys(m, query, 1, (struct tn_key_span){ first, end });
}

static inline size_t least_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static inline size_t most_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* Keys that all `count` queries look at are summed together; those before and behind, that only some do, for each of them. */
INLINE void mix_some(const struct mixing *m, const struct tn_key_span *spans, size_t query, size_t count, struct tn_key_span keys)
{
	struct tn_key_span common = keys;
	for (size_t n = query; n < query + count; n++) {
		common.first = most_size(common.first, spans[n].first);
		common.end = least_size(common.end, spans[n].end);
	}
	common.end = most_size(common.first, common.end);
	for (size_t n = query; n < query + count; n++)
		mix_one(m, n, most_size(keys.first, spans[n].first), least_size(least_size(keys.end, spans[n].end), common.first));
	if (common.first < common.end)
		mix_keys(m, query, count, common);
	for (size_t n = query; n < query + count; n++)
		mix_one(m, n, most_size(common.end, spans[n].first), least_size(keys.end, spans[n].end));
}

void TN_ISA_NAME(tn_mix_f32)(float *y, const float *shares, const struct tn_key_span *spans, size_t queries, const float *values,
			     const struct tn_key_span *keys, size_t width)
{
	const struct mixing m = { y, shares, values, queries, width };
	size_t n = 0;
	for (; n + TOGETHER <= queries; n += TOGETHER)
		mix_some(&m, spans, n, TOGETHER, *keys);
	switch ((queries - n) % TOGETHER) {
	case 1: mix_some(&m, spans, n, 1, *keys); break;
	case 2: mix_some(&m, spans, n, 2, *keys); break;
	case 3: mix_some(&m, spans, n, 3, *keys); break;
	case 4: mix_some(&m, spans, n, 4, *keys); break;
	case 5: mix_some(&m, spans, n, 5, *keys); break;
	case 6: mix_some(&m, spans, n, 6, *keys); break;
	case 7: mix_some(&m, spans, n, 7, *keys); break;
	default: break;
	}
}
