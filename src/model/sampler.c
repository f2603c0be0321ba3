/* SPDX-License-Identifier: Apache-2.0 */
/* The chains of mlx-lm 0.32.2 (sample_utils.py) and transformers 5.23 (generation/logits_process.py), in float32 where they
 * are, because a border of top_p can run between equal numbers. */
#include "base/context.h"
#include "base/error.h"
#include "tenon/model.h"

#include <math.h>
#include <string.h>

enum { MLX_PENALTY_TOKENS = 20 };

struct tn_sampler {
	tn_context *ctx;
	struct tn_sampling set;
	size_t n;
	uint64_t state;      /* of the random numbers */
	float *x;            /* logits, -infinity once a token is out */
	uint32_t *heap;
};

/* ---- making ---------------------------------------------------------------------------------------------- */

static tn_status check(const struct tn_sampling *s, struct tn_error *err)
{
	if (!(s->temperature >= 0 && isfinite(s->temperature)))
		return tn_fail(err, TN_E_ARG, "temperature", "%g; 0 or more was expected", s->temperature);
	if (!(s->top_p >= 0 && s->top_p <= 1))
		return tn_fail(err, TN_E_ARG, "top_p", "%g; 0 to 1 was expected", s->top_p);
	if (!(s->min_p >= 0 && s->min_p <= 1))
		return tn_fail(err, TN_E_ARG, "min_p", "%g; 0 to 1 was expected", s->min_p);
	if (!(s->repetition_penalty >= 0 && isfinite(s->repetition_penalty)))
		return tn_fail(err, TN_E_ARG, "repetition_penalty", "%g; more than 0 was expected", s->repetition_penalty);
	return TN_OK;
}

tn_status tn_sampler_create(tn_context *ctx, const struct tn_sampling *sampling, uint64_t vocabulary, tn_sampler **out,
			    struct tn_error *err)
{
	tn_sampler *s;
	TN_TRY(check(sampling, err));
	if (vocabulary == 0 || vocabulary > UINT32_MAX)
		return tn_fail(err, TN_E_ARG, "vocabulary", "%llu tokens", (unsigned long long)vocabulary);
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *s, "sampler", &s, err));
	*s = (tn_sampler){ .ctx = ctx, .set = *sampling, .n = (size_t)vocabulary, .state = sampling->seed };
	tn_status status = tn_alloc_array(ctx, s->n, sizeof *s->x, "sampler", &s->x, err);
	if (status == TN_OK)
		status = tn_alloc_array(ctx, s->n, sizeof *s->heap, "sampler", &s->heap, err);
	if (status != TN_OK) {
		tn_sampler_destroy(s);
		return status;
	}
	*out = s;
	return TN_OK;
}

void tn_sampler_destroy(tn_sampler *s)
{
	if (!s)
		return;
	tn_free_array(s->ctx, s->x, s->n, sizeof *s->x);
	tn_free_array(s->ctx, s->heap, s->n, sizeof *s->heap);
	tn_free(s->ctx, s, sizeof *s);
}

/* ---- the largest first ----------------------------------------------------------------------------------- */

/* Of equal ones transformers, which sorts upwards, drops the first id first. */
static int before(const tn_sampler *s, uint32_t a, uint32_t b)
{
	if (s->x[a] > s->x[b] || s->x[b] > s->x[a])
		return s->x[a] > s->x[b];
	return s->set.chain == TN_CHAIN_TRANSFORMERS ? a > b : a < b;
}

static void sift(tn_sampler *s, size_t at, size_t n)
{
	for (size_t child; (child = 2 * at + 1) < n; at = child) {
		if (child + 1 < n && before(s, s->heap[child + 1], s->heap[child]))
			child++;
		if (!before(s, s->heap[child], s->heap[at]))
			return;
		uint32_t id = s->heap[at];
		s->heap[at] = s->heap[child];
		s->heap[child] = id;
	}
}

/* All that are left, as a heap; returns how many. */
static size_t make_heap(tn_sampler *s)
{
	size_t n = 0;
	for (size_t i = 0; i < s->n; i++)
		if (s->x[i] > -INFINITY)
			s->heap[n++] = (uint32_t)i;
	for (size_t i = n / 2; i-- > 0;)
		sift(s, i, n);
	return n;
}

/* The largest goes behind the others: after k pops the k largest stand at the end. */
static uint32_t pop(tn_sampler *s, size_t *n)
{
	uint32_t top = s->heap[0];
	s->heap[0] = s->heap[--*n];
	s->heap[*n] = top;
	sift(s, 0, *n);
	return top;
}

static void drop(tn_sampler *s, const uint32_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s->x[ids[i]] = -INFINITY;
}

static void drop_below(tn_sampler *s, float border)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->x[i] < border)
			s->x[i] = -INFINITY;
}

/* ---- steps of the chains --------------------------------------------------------------------------------- */

/* Once for each token, however often it stands there. */
static void penalize(tn_sampler *s, const float *logits, const uint32_t *tokens, size_t count)
{
	const float penalty = (float)s->set.repetition_penalty;
	if (penalty == 0 || penalty == 1)
		return;
	if (s->set.chain == TN_CHAIN_MLX && count > MLX_PENALTY_TOKENS) {
		tokens += count - MLX_PENALTY_TOKENS;
		count = MLX_PENALTY_TOKENS;
	}
	for (size_t i = 0; i < count; i++)
		if (tokens[i] < s->n) {
			const float x = logits[tokens[i]];
			s->x[tokens[i]] = x < 0 ? x * penalty : x / penalty;
		}
}

static float largest(const tn_sampler *s)
{
	float most = s->x[0];
	for (size_t i = 1; i < s->n; i++)
		most = s->x[i] > most ? s->x[i] : most;
	return most;
}

/* log of the sum of exp(x) */
static float log_sum(const tn_sampler *s)
{
	const float most = largest(s);
	double sum = 0;
	for (size_t i = 0; i < s->n; i++)
		sum += (double)expf(s->x[i] - most);
	return most + (float)log(sum);
}

static void add(tn_sampler *s, float number)
{
	for (size_t i = 0; i < s->n; i++)
		s->x[i] += number;
}

static void mlx_top_p(tn_sampler *s)
{
	const float p = (float)s->set.top_p;
	double total = 0;
	for (size_t i = 0; i < s->n; i++)
		total += (double)expf(s->x[i]);
	const float share = p * (float)total;
	float above = 0, border = 0;
	for (size_t n = make_heap(s); n > 0 && above < share;) {
		border = s->x[pop(s, &n)];
		above += expf(border);
	}
	drop_below(s, border);
}

static void keep_k(tn_sampler *s, int with_ties)
{
	size_t n = make_heap(s);
	float border = 0;
	for (uint32_t k = 0; k < s->set.top_k && n > 0; k++)
		border = s->x[pop(s, &n)];
	if (with_ties)
		drop_below(s, border);
	else
		drop(s, s->heap, n);
}

static void mlx_chain(tn_sampler *s)
{
	add(s, -log_sum(s));
	if (s->set.top_p > 0 && s->set.top_p < 1)
		mlx_top_p(s);
	if (s->set.min_p > 0)
		drop_below(s, largest(s) + (float)log(s->set.min_p));
	if (s->set.top_k > 0 && s->set.top_k < s->n)
		keep_k(s, 0);
	for (size_t i = 0; i < s->n; i++)
		s->x[i] *= (float)(1 / s->set.temperature);
}

/* Probabilities are added up from the least; what does not reach 1 - p goes. */
static void transformers_top_p(tn_sampler *s)
{
	const float most = largest(s), out = (float)(1 - s->set.top_p);
	float sum = 0;
	double left = 0;
	for (size_t i = 0; i < s->n; i++)
		sum += expf(s->x[i] - most);
	for (size_t i = 0; i < s->n; i++)
		left += (double)(expf(s->x[i] - most) / sum);
	size_t n = make_heap(s), kept = 0;
	while (n > 0 && (kept == 0 || (float)left > out)) {
		left -= (double)(expf(s->x[s->heap[0]] - most) / sum);
		pop(s, &n);
		kept++;
	}
	drop(s, s->heap, n);
}

static void transformers_min_p(tn_sampler *s)
{
	const float most = largest(s);
	float sum = 0;
	for (size_t i = 0; i < s->n; i++)
		sum += expf(s->x[i] - most);
	const float border = (float)s->set.min_p * (1 / sum);
	for (size_t i = 0; i < s->n; i++)
		if (expf(s->x[i] - most) / sum < border)
			s->x[i] = -INFINITY;
}

static void transformers_chain(tn_sampler *s)
{
	for (size_t i = 0; i < s->n; i++)
		s->x[i] /= (float)s->set.temperature;
	if (s->set.top_k > 0 && s->set.top_k < s->n)
		keep_k(s, 1);
	if (s->set.top_p > 0 && s->set.top_p < 1)
		transformers_top_p(s);
	if (s->set.min_p > 0)
		transformers_min_p(s);
}

/* ---- choosing -------------------------------------------------------------------------------------------- */

/* Of equal ones the first. NaN is larger than nothing, and in front nothing is larger. */
static uint32_t most_likely(const tn_sampler *s)
{
	enum { LANES = 16 };
	float most[LANES];
	size_t i = 0, best = 0;
	for (size_t l = 0; l < LANES; l++)
		most[l] = s->x[0];
	for (; i + LANES <= s->n; i += LANES)
		for (size_t l = 0; l < LANES; l++)
			most[l] = s->x[i + l] > most[l] ? s->x[i + l] : most[l];
	for (; i < s->n; i++)
		most[0] = s->x[i] > most[0] ? s->x[i] : most[0];
	for (size_t l = 1; l < LANES; l++)
		most[0] = most[l] > most[0] ? most[l] : most[0];
	while (best < s->n && !(s->x[best] >= most[0]))
		best++;
	return best < s->n ? (uint32_t)best : 0;
}

/* After this x holds what is left. */
static void treat(tn_sampler *s, const float *logits, const uint32_t *tokens, size_t count)
{
	memcpy(s->x, logits, s->n * sizeof *s->x);
	penalize(s, logits, tokens, count);
	if (s->set.temperature == 0)
		return;
	if (s->set.chain == TN_CHAIN_MLX)
		mlx_chain(s);
	else
		transformers_chain(s);
}

/* The sum of exp(x - *most). */
static double sum_up(const tn_sampler *s, float *most)
{
	double sum = 0;
	*most = largest(s);
	for (size_t i = 0; i < s->n; i++)
		sum += (double)expf(s->x[i] - *most);
	return sum;
}

/* SplitMix64 (Steele, Lea and Flood 2014): a number in [0, 1). */
static double uniform(tn_sampler *s)
{
	uint64_t z = s->state += 0x9E3779B97F4A7C15u;
	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
	z = (z ^ z >> 27) * 0x94D049BB133111EBu;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

uint32_t tn_sampler_next(tn_sampler *s, const float *logits, const uint32_t *tokens, size_t count)
{
	float most;
	treat(s, logits, tokens, count);
	if (s->set.temperature == 0)
		return most_likely(s);
	const double sum = sum_up(s, &most);
	if (!(sum > 0))
		return most_likely(s);
	double at = uniform(s) * sum;
	uint32_t last = most_likely(s);
	for (size_t i = 0; i < s->n; i++) {
		const double weight = (double)expf(s->x[i] - most);
		if (weight > 0)
			last = (uint32_t)i;
		at -= weight;
		if (at < 0)
			break;
	}
	return last;
}

size_t tn_sampler_candidates(tn_sampler *s, const float *logits, const uint32_t *tokens, size_t count, uint32_t *ids,
			     float *probabilities)
{
	float most;
	size_t n = 0;
	treat(s, logits, tokens, count);
	if (s->set.temperature == 0) {
		ids[0] = most_likely(s);
		probabilities[0] = 1;
		return 1;
	}
	const double sum = sum_up(s, &most);
	for (size_t i = 0; i < s->n; i++)
		if (s->x[i] > -INFINITY) {
			ids[n] = (uint32_t)i;
			probabilities[n++] = (float)((double)expf(s->x[i] - most) / sum);
		}
	return n;
}

double tn_token_loss(const float *logits, uint64_t vocabulary, uint32_t id)
{
	float most = logits[0];
	double sum = 0;
	for (uint64_t i = 1; i < vocabulary; i++)
		most = logits[i] > most ? logits[i] : most;
	for (uint64_t i = 0; i < vocabulary; i++)
		sum += exp((double)(logits[i] - most));
	return (double)most + log(sum) - (double)logits[id];
}
