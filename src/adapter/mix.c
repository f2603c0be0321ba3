/* SPDX-License-Identifier: Apache-2.0 */
#include "adapter/mix.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/pool.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

/* ---- sources --------------------------------------------------------------------------------------------- */

static tn_status read_memory(void *arg, size_t first, size_t count, float *dst, struct tn_error *err)
{
	(void)err;
	const struct tn_rows_in_memory *m = arg;
	memcpy(dst, m->values + first * m->cols, count * m->cols * sizeof *dst);
	return TN_OK;
}

struct tn_row_source tn_rows_in_memory(struct tn_rows_in_memory *matrix, size_t rows, const char *name)
{
	return (struct tn_row_source){ rows, matrix->cols, name, read_memory, matrix };
}

static tn_status run_rows(tn_context *ctx, tn_status (*row)(void *, uint64_t, unsigned, struct tn_error *), void *arg, size_t rows,
			  struct tn_error *err)
{
	struct tn_work work = { .task_count = rows, .workers = tn_pool_workers(ctx), .run = row, .arg = arg };
	return tn_pool_run(ctx, &work, err);
}

static tn_status make_row(void *arg, uint64_t row, unsigned worker, struct tn_error *err)
{
	(void)worker;
	(void)err;
	const struct tn_rows_of_product *p = arg;
	float *dst = p->dst + row * p->cols, scale = (float)p->scale;
	p->ctx->kernels->lowrank_f32(dst, p->a, p->b + (p->first + row) * p->rank, p->rank, p->cols);
	for (size_t i = 0; i < p->cols; i++)
		dst[i] *= scale;
	return TN_OK;
}

static tn_status read_product(void *arg, size_t first, size_t count, float *dst, struct tn_error *err)
{
	struct tn_rows_of_product *p = arg;
	p->first = first;
	p->dst = dst;
	return run_rows(p->ctx, make_row, p, count, err);
}

struct tn_row_source tn_rows_of_product(struct tn_rows_of_product *product, size_t rows, const char *name)
{
	return (struct tn_row_source){ rows, product->cols, name, read_product, product };
}

/* ---- the smallest ---------------------------------------------------------------------------------------- */

static uint32_t magnitude_bits(float x)
{
	return tn_f32_bits(x) & 0x7FFFFFFFu;
}

enum { HALF = 1 << 16 };

/* How often each upper half of a magnitude occurs, or each lower half of those with the upper half `upper`. */
static tn_status count_halves(const struct tn_mix *m, struct tn_mix_source *s, int64_t upper, uint64_t *counts,
			      struct tn_error *err)
{
	memset(counts, 0, HALF * sizeof *counts);
	for (size_t first = 0, rows; first < m->rows.rows; first += rows) {
		rows = tn_min_u64(m->block_rows, m->rows.rows - first);
		TN_TRY(s->rows.read(s->rows.arg, first, rows, s->block, err));
		for (size_t i = 0; i < rows * m->rows.cols; i++) {
			uint32_t bits = magnitude_bits(s->block[i]);
			if (upper < 0)
				counts[bits >> 16]++;
			else if (bits >> 16 == (uint32_t)upper)
				counts[bits & 0xFFFFu]++;
		}
	}
	return TN_OK;
}

/* The half in which the one stands that has *rank others above it; *rank becomes its place among those. */
static uint32_t half_of_rank(const uint64_t *counts, uint64_t *rank)
{
	uint32_t half = HALF - 1;
	for (; half && counts[half] <= *rank; half--)
		*rank -= counts[half];
	return half;
}

/* What int(density * elements) of the largest are: everything above `least`, and so many of it. */
static tn_status find_least(const struct tn_mix *m, struct tn_mix_source *s, uint64_t *counts, struct tn_error *err)
{
	uint64_t stay = (uint64_t)(m->rule->density * ((double)m->rows.rows * (double)m->rows.cols)), rank = stay - 1;
	s->least = UINT32_MAX;
	s->equals = 0;
	if (!stay)
		return TN_OK;
	TN_TRY(count_halves(m, s, -1, counts, err));
	uint32_t upper = half_of_rank(counts, &rank);
	TN_TRY(count_halves(m, s, upper, counts, err));
	s->least = upper << 16 | half_of_rank(counts, &rank);
	s->equals = rank + 1;
	return TN_OK;
}

/* Which of those that are exactly `least` stay depends on their order. */
static void count_equals(const struct tn_mix *m, struct tn_mix_source *s, size_t rows)
{
	if (m->first == 0)
		s->seen = 0;
	for (size_t row = 0; row < rows; row++) {
		const float *values = s->block + row * m->rows.cols;
		uint64_t equals = 0;
		for (size_t i = 0; i < m->rows.cols; i++)
			equals += magnitude_bits(values[i]) == s->least;
		s->before[row] = s->seen;
		s->seen += equals;
	}
}

/* ---- thinned rows, and their mixture --------------------------------------------------------------------- */

static void leave_smallest(const struct tn_mix_source *s, float *values, size_t n, uint64_t before)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t bits = magnitude_bits(values[i]);
		if (bits < s->least || (bits == s->least && before++ >= s->equals))
			values[i] = 0;
	}
}

/* Chance is a function of the seed and the place (splitmix64), so that it does not matter who asks. */
static void leave_at_random(const struct tn_mix_source *s, float *values, size_t n, uint64_t place, double density)
{
	float divisor = (float)density;
	for (size_t i = 0; i < n; i++) {
		uint64_t u = s->seed + (place + i + 1) * 0x9E3779B97F4A7C15u;
		u = (u ^ u >> 30) * 0xBF58476D1CE4E5B9u;
		u = (u ^ u >> 27) * 0x94D049BB133111EBu;
		values[i] = (double)((u ^ u >> 31) >> 11) * 0x1p-53 < density ? values[i] / divisor : 0;
	}
}

static void thin(const struct tn_mix *m, const struct tn_mix_source *s, size_t row)
{
	float *values = s->block + row * m->rows.cols;
	if (m->rule->thinning == TN_THIN_SMALLEST)
		leave_smallest(s, values, m->rows.cols, s->before[row]);
	else if (m->rule->thinning == TN_THIN_RANDOM)
		leave_at_random(s, values, m->rows.cols, (uint64_t)(m->first + row) * m->rows.cols, m->rule->density);
}

static int sign_of(float x)
{
	return (x > 0) - (x < 0);
}

/* The sign that most of the sum, or most of the numbers, have; a sum of 0 counts as positive. */
static int elected(const struct tn_mix *m, size_t at)
{
	double sum = 0;
	for (size_t k = 0; k < m->count; k++) {
		float x = m->sources[k].block[at];
		sum += m->rule->by_frequency ? sign_of(x) : (double)x;
	}
	return sum >= 0 ? 1 : -1;
}

static float mix_elected(const struct tn_mix *m, size_t at)
{
	int sign = elected(m, at), voters = 0;
	double sum = 0;
	for (size_t k = 0; k < m->count; k++) {
		float x = m->sources[k].block[at];
		if (sign_of(x) != sign)
			continue;
		sum += m->sources[k].weight * (double)x;
		voters++;
	}
	return (float)(voters > 1 ? sum / voters : sum);
}

static float mix_sum(const struct tn_mix *m, size_t at)
{
	double sum = 0;
	for (size_t k = 0; k < m->count; k++)
		sum += m->sources[k].weight * (double)m->sources[k].block[at];
	return (float)sum;
}

/* Factors are finite when they come here, so it is their product or the weights that made numbers too large. */
static tn_status mix_row(void *arg, uint64_t row, unsigned worker, struct tn_error *err)
{
	(void)worker;
	const struct tn_mix *m = arg;
	size_t at = (size_t)row * m->rows.cols, end = at + m->rows.cols;
	for (size_t k = 0; k < m->count; k++)
		thin(m, &m->sources[k], (size_t)row);
	for (; at < end; at++) {
		m->dst[at] = m->rule->elects ? mix_elected(m, at) : mix_sum(m, at);
		if (!isfinite(m->dst[at]))
			return tn_fail(err, TN_E_ARG, m->rows.name, "combined with these weights, numbers of '%.100s' are larger "
				       "than float32 holds; give the adapters smaller weights", m->rows.name);
	}
	return TN_OK;
}

static tn_status read_mixed(void *arg, size_t first, size_t count, float *dst, struct tn_error *err)
{
	struct tn_mix *m = arg;
	for (size_t rows; count; first += rows, count -= rows, dst += rows * m->rows.cols) {
		rows = tn_min_u64(count, m->block_rows);
		m->first = first;
		m->dst = dst;
		for (size_t k = 0; k < m->count; k++) {
			struct tn_mix_source *s = &m->sources[k];
			TN_TRY(s->rows.read(s->rows.arg, first, rows, s->block, err));
			if (m->rule->thinning == TN_THIN_SMALLEST)
				count_equals(m, s, rows);
		}
		TN_TRY(run_rows(m->ctx, mix_row, m, rows, err));
	}
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status find_all(struct tn_mix *m, struct tn_error *err)
{
	struct tn_buffer counts;
	tn_status status = TN_OK;
	if (m->rule->thinning != TN_THIN_SMALLEST)
		return TN_OK;
	TN_TRY(tn_buffer_alloc(m->ctx, HALF * sizeof(uint64_t), "counts of magnitudes", &counts, err));
	for (size_t i = 0; i < m->count && status == TN_OK; i++)
		status = find_least(m, &m->sources[i], counts.data, err);
	tn_buffer_release(m->ctx, &counts);
	return status;
}

tn_status tn_mix_begin(tn_context *ctx, const struct tn_mix_rule *rule, struct tn_mix_source *sources, size_t count,
		       struct tn_mix *mix, struct tn_error *err)
{
	struct tn_row_source like = sources[0].rows;
	*mix = (struct tn_mix){ .ctx = ctx, .rule = rule, .sources = sources, .count = count };
	mix->block_rows = tn_min_u64(like.rows, tn_max_size(TN_ROWS_BYTES / sizeof(float) / tn_max_size(like.cols, 1), 1));
	size_t before = tn_align_up(mix->block_rows * sizeof(uint64_t), 64);
	size_t block = tn_align_up(mix->block_rows * like.cols * sizeof(float), 64);
	TN_TRY(tn_buffer_alloc(ctx, count * (before + block), "rows of adapters", &mix->memory, err));
	for (size_t i = 0; i < count; i++) {
		unsigned char *at = (unsigned char *)mix->memory.data + i * (before + block);
		sources[i].before = (uint64_t *)(void *)at;
		sources[i].block = (float *)(void *)(at + before);
	}
	mix->rows = (struct tn_row_source){ like.rows, like.cols, like.name, read_mixed, mix };
	tn_status status = find_all(mix, err);
	if (status != TN_OK)
		tn_mix_end(mix);
	return status;
}

void tn_mix_end(struct tn_mix *mix)
{
	tn_buffer_release(mix->ctx, &mix->memory);
}
