/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of attention: every usable instruction set against portable, bit by bit, and against what their comments say. */
#include "testlib.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures;
static uint64_t state = 7;

static void complain(const char *isa, const char *kernel, size_t n, size_t more, const char *what)
{
	failures++;
	printf("%s %s (%zu, %zu): %s\n", isa, kernel, n, more, what);
}

static float some_float(void)
{
	return (float)(int64_t)tt_random(&state) * 0x1p-62f;
}

enum { MOST_WIDTH = 256, BLOCKS = 4, KEYS = BLOCKS * TN_KEY_BLOCK, NUMBERS = 4096 };

/* A group of queries, and what the kernels make of it. */
static struct {
	float q[MOST_WIDTH * TN_QUERY_GROUP], keys[KEYS * MOST_WIDTH], values[KEYS * MOST_WIDTH];
	float scores[KEYS * TN_QUERY_GROUP], shares[KEYS * TN_QUERY_GROUP], sums[TN_QUERY_GROUP], y[TN_QUERY_GROUP * MOST_WIDTH];
	struct tn_key_span span[TN_QUERY_GROUP];
} g;

static size_t some_below(size_t n)
{
	return (size_t)(tt_random(&state) % n);
}

static size_t at(size_t queries, size_t n, size_t key)
{
	return (key / TN_KEY_BLOCK * queries + n) * TN_KEY_BLOCK + key % TN_KEY_BLOCK;
}

static void fill(size_t queries, size_t keys, size_t width)
{
	for (size_t i = 0; i < queries * width; i++)
		g.q[i] = some_float();
	for (size_t i = 0; i < KEYS * width; i++) {
		g.keys[i] = some_float();
		g.values[i] = some_float();
	}
	for (size_t n = 0; n < queries; n++) { /* all keys, as rows of a window have them, or any */
		const size_t first = some_below(keys), end = first + 1 + some_below(keys - first), kind = some_below(3);
		g.span[n] = kind == 0 ? (struct tn_key_span){ 0, keys }
			    : kind == 1 && keys > queries ? (struct tn_key_span){ n, keys - queries + n + 1 }
							  : (struct tn_key_span){ first, end };
	}
}

static void check_scores(const struct tn_kernels *k, size_t queries, size_t keys, size_t width)
{
	const size_t blocks = (keys + TN_KEY_BLOCK - 1) / TN_KEY_BLOCK;
	g.scores[blocks * queries * TN_KEY_BLOCK % (KEYS * TN_QUERY_GROUP)] = 12;
	k->scores_f32(g.scores, g.q, queries, g.keys, blocks, width, 0.37f);
	for (size_t n = 0; n < queries; n++)
		for (size_t i = 0; i < keys; i++) {
			volatile float dot = 0;
			for (size_t j = 0; j < width; j++) {
				volatile float product = g.q[j * queries + n]
							 * g.keys[(i / TN_KEY_BLOCK * width + j) * TN_KEY_BLOCK + i % TN_KEY_BLOCK];
				dot = dot + product;
			}
			const float want = dot * 0.37f;
			if (memcmp(&g.scores[at(queries, n, i)], &want, sizeof want) != 0)
				complain(k->isa, "scores_f32", queries, width, "not the sum that its comment defines");
		}
	if (blocks < BLOCKS && g.scores[blocks * queries * TN_KEY_BLOCK] != 12)
		complain(k->isa, "scores_f32", queries, width, "writes behind its blocks");
}

/* Scores of up to 20, so that some shares are 0; what no query looks at is not a number. */
static void check_shares(const struct tn_kernels *k, const struct tn_kernels *portable, size_t queries, size_t keys)
{
	const size_t blocks = (keys + TN_KEY_BLOCK - 1) / TN_KEY_BLOCK;
	for (size_t n = 0; n < queries; n++)
		for (size_t i = 0; i < blocks * TN_KEY_BLOCK; i++)
			g.scores[at(queries, n, i)] = i < g.span[n].first || i >= g.span[n].end ? (float)NAN : some_float() * 100;
	memcpy(g.shares, g.scores, sizeof g.shares);
	k->weigh_f32(g.shares, g.sums, g.span, queries, blocks);
	for (size_t n = 0; n < queries; n++) {
		float most = g.scores[at(queries, n, g.span[n].first)];
		volatile float sum = 0;
		for (size_t i = g.span[n].first; i < g.span[n].end; i++)
			most = fmaxf(most, g.scores[at(queries, n, i)]);
		for (size_t i = 0; i < blocks * TN_KEY_BLOCK; i++) {
			float want = g.scores[at(queries, n, i)] - most;
			portable->exp_f32(&want, &want, 1);
			want = i < g.span[n].first || i >= g.span[n].end ? 0 : want;
			if (memcmp(&g.shares[at(queries, n, i)], &want, sizeof want) != 0)
				complain(k->isa, "weigh_f32", queries, i, "not the exponential, or not 0 outside of the span");
			sum = sum + want;
		}
		if (g.sums[n] != sum)
			complain(k->isa, "weigh_f32", queries, keys, "not the sum in order");
	}
}

/* In two pieces. Values that no query looks at are not numbers. */
static void check_mixture(const struct tn_kernels *k, size_t queries, size_t keys, size_t width)
{
	const struct tn_key_span pieces[2] = { { 0, some_below(keys + 1) }, { 0, keys } };
	for (size_t i = 0; i < queries * width; i++)
		g.y[i] = 0;
	for (size_t i = 0; i < KEYS; i++) {
		int is_seen = 0;
		for (size_t n = 0; n < queries; n++)
			is_seen |= i >= g.span[n].first && i < g.span[n].end;
		for (size_t j = 0; j < width && !is_seen; j++)
			g.values[i * width + j] = (float)NAN;
	}
	for (size_t i = 0; i < 2; i++) {
		const struct tn_key_span piece = { i ? pieces[0].end : 0, pieces[i].end };
		k->mix_f32(g.y, g.shares, g.span, queries, g.values, &piece, width);
	}
	for (size_t n = 0; n < queries; n++)
		for (size_t j = 0; j < width; j++) {
			volatile float sum = 0;
			for (size_t i = g.span[n].first; i < g.span[n].end; i++) {
				volatile float product = g.shares[at(queries, n, i)] * g.values[i * width + j];
				sum = sum + product;
			}
			if (g.y[n * width + j] != sum)
				complain(k->isa, "mix_f32", queries, width, "not the sum that its comment defines");
		}
}

/* Every width up to some, those that heads have, every number of queries, keys around whole blocks. */
static void check_attention(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const size_t wide[] = { 72, 80, 96, 100, 112, 128, 192, MOST_WIDTH };
	static const size_t counts[] = { 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64 };
	for (size_t w = 1; w <= 70 + sizeof wide / sizeof *wide; w++)
		for (size_t queries = 1; queries <= TN_QUERY_GROUP; queries++)
			for (size_t i = 0; i < 2; i++) {
				const size_t width = w <= 70 ? w : wide[w - 71];
				const size_t keys = counts[some_below(sizeof counts / sizeof *counts)];
				fill(queries, keys, width);
				check_scores(k, queries, keys, width);
				check_shares(k, portable, queries, keys);
				check_mixture(k, queries, keys, width);
			}
}

/* Against the real one. */
static void check_exponential(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static float a[NUMBERS], b[NUMBERS];
	for (size_t i = 0; i < NUMBERS; i++)
		a[i] = ((float)i - NUMBERS / 2) * 0.0421f;
	k->exp_f32(b, a, NUMBERS);
	for (size_t i = 0; i < NUMBERS; i++) {
		double want = exp((double)a[i]), off = fabs((double)b[i] - want);
		if (want < 1e-38 ? b[i] > 1.2e-38f : off > want * 2.5e-7)
			complain(k->isa, "exp_f32", i, 0, "not the exponential");
	}
	portable->exp_f32(a, a, NUMBERS);
	if (memcmp(a, b, sizeof a) != 0)
		complain(k->isa, "exp_f32", NUMBERS, 0, "other bits than portable");
}

int main(void)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!k) {
			printf("NOT RUN: %s\n", tn_kernels_isa_name(i));
			continue;
		}
		check_attention(k, portable);
		check_exponential(k, portable);
	}
	return failures != 0;
}
