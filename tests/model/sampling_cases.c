/* SPDX-License-Identifier: Apache-2.0 */
/* models/sampling.json: what the chains of transformers and mlx-lm leave of a vector of logits. Where equal logits meet a
 * border of top_p or top_k, which of them stay is the library's own choice: their number and probabilities count. */
#include "testlib.h"

#include "tenon/tenon.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };

static tn_context *ctx;
static int failures, checks;

struct list {
	uint32_t ids[MOST];
	float probabilities[MOST];
	size_t n;
};

static double number(const json_t *object, const char *key, double fallback)
{
	const json_t *value = json_object_get(object, key);
	return value ? json_number_value(value) : fallback;
}

static void read_vector(const json_t *json, float *x)
{
	size_t i;
	json_t *value;
	json_array_foreach(json, i, value)
		x[i] = json_is_string(value) ? -INFINITY : (float)json_number_value(value);
}

static void read_list(const json_t *json, struct list *out)
{
	const json_t *ids = json_object_get(json, "ids"), *probs = json_object_get(json, "probs");
	out->n = json_array_size(ids);
	for (size_t i = 0; i < out->n; i++) {
		out->ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
		out->probabilities[i] = (float)json_number_value(json_array_get(probs, i));
	}
}

/* Those of at most 1e-9 are not recorded. */
static void leave_out_small(struct list *l)
{
	size_t n = 0;
	for (size_t i = 0; i < l->n; i++)
		if (l->probabilities[i] > 1e-9f) {
			l->ids[n] = l->ids[i];
			l->probabilities[n++] = l->probabilities[i];
		}
	l->n = n;
}

static int by_size(const void *a, const void *b)
{
	const float x = *(const float *)a, y = *(const float *)b;
	return x > y ? -1 : x < y;
}

static int same(const struct list *got, const struct list *wanted, int with_ties)
{
	if (got->n != wanted->n)
		return 0;
	float a[MOST], b[MOST];
	memcpy(a, got->probabilities, sizeof a);
	memcpy(b, wanted->probabilities, sizeof b);
	if (with_ties) {
		qsort(a, got->n, sizeof *a, by_size);
		qsort(b, got->n, sizeof *b, by_size);
	}
	for (size_t i = 0; i < got->n; i++)
		if (fabsf(a[i] - b[i]) > 2e-6f + 1e-5f * b[i] || (!with_ties && got->ids[i] != wanted->ids[i]))
			return 0;
	return 1;
}

static void check(const json_t *one, const float *x, size_t n, tn_sampler_chain chain, const json_t *expected)
{
	const json_t *o = json_object_get(one, "options"), *tokens = json_object_get(one, "tokens");
	const char *vector = json_string_value(json_object_get(one, "vector"));
	struct tn_sampling set = {
		.chain = chain, .temperature = number(o, "temperature", 1), .top_p = number(o, "top_p", 0),
		.min_p = number(o, "min_p", 0), .repetition_penalty = number(o, "repetition_penalty", 0),
		.top_k = (uint32_t)number(o, "top_k", 0),
	};
	struct list got = { .n = 0 }, wanted;
	uint32_t ids[MOST];
	size_t count = json_array_size(tokens);
	tn_sampler *sampler;
	for (size_t i = 0; i < count; i++)
		ids[i] = (uint32_t)json_integer_value(json_array_get(tokens, i));
	if (tn_sampler_create(ctx, &set, n, &sampler, NULL) != TN_OK)
		abort();
	got.n = tn_sampler_candidates(sampler, x, ids, count, got.ids, got.probabilities);
	leave_out_small(&got);
	read_list(expected, &wanted);
	checks++;
	if (!same(&got, &wanted, strcmp(vector, "ties") == 0 || strcmp(vector, "equal") == 0)) {
		char *text = json_dumps(o, 0);
		printf("%s %s %s: %zu left, %zu expected\n", vector, chain == TN_CHAIN_MLX ? "mlx" : "transformers", text, got.n,
		       wanted.n);
		free(text);
		failures++;
	}
	/* what is drawn is among what is left, and the seed decides */
	for (int i = 0; i < 20; i++) {
		uint32_t id = tn_sampler_next(sampler, x, ids, count), found = 0;
		for (size_t k = 0; k < got.n; k++)
			found |= got.ids[k] == id;
		if (!found) {
			printf("%s: %u was drawn\n", vector, id);
			failures++;
		}
	}
	tn_sampler_destroy(sampler);
}

/* Frequencies of many draws come near the probabilities. */
static void check_draws(void)
{
	static const float x[4] = { 1, 0, 2, -1 };
	struct tn_sampling set = { .temperature = 1, .seed = 7 };
	int counts[4] = { 0 };
	uint32_t ids[4];
	float p[4];
	tn_sampler *sampler;
	if (tn_sampler_create(ctx, &set, 4, &sampler, NULL) != TN_OK)
		abort();
	for (int i = 0; i < 20000; i++)
		counts[tn_sampler_next(sampler, x, NULL, 0)]++;
	tn_sampler_candidates(sampler, x, NULL, 0, ids, p);
	for (int i = 0; i < 4; i++)
		if (fabs(counts[i] / 20000.0 - (double)p[i]) > 0.015) {
			printf("token %d was drawn %d times of 20000, probability %g\n", i, counts[i], (double)p[i]);
			failures++;
		}
	checks++;
	tn_sampler_destroy(sampler);
}

int main(int argc, char **argv)
{
	json_t *all = argc > 1 ? json_load_file(argv[1], 0, NULL) : NULL, *one;
	size_t i;
	if (!all || tn_context_create(NULL, &ctx, NULL) != TN_OK) {
		fprintf(stderr, "usage: sampling_cases sampling.json\n");
		return 2;
	}
	json_array_foreach(json_object_get(all, "cases"), i, one) {
		const json_t *vector = json_object_get(json_object_get(all, "vectors"),
						       json_string_value(json_object_get(one, "vector")));
		const json_t *transformers = json_object_get(one, "transformers"), *mlx = json_object_get(one, "mlx_lm");
		float x[MOST];
		read_vector(vector, x);
		check(one, x, json_array_size(vector), TN_CHAIN_TRANSFORMERS, transformers);
		check(one, x, json_array_size(vector), TN_CHAIN_MLX, mlx ? mlx : transformers);
	}
	check_draws();
	json_decref(all);
	tn_context_destroy(ctx);
	printf("%d checks, %d failures\n", checks, failures);
	return failures || checks < 100;
}
