/* SPDX-License-Identifier: Apache-2.0 */
/* The change of one module as a product of two factors. It is read, decoded and subtracted row by row whenever it is needed; where
 * the budget has room for all of it, once. */
#include "transform/extract.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "linear/lowrank.h"

#include <string.h>

/* What one task reads. */
enum { TASK_BYTES = 1 << 20 };

struct stream {
	struct tn_extract *x;
	const struct tn_extract_module *module;
	uint64_t first_row;           /* of the group */
	uint64_t task_rows, scratch_bytes;
	unsigned workers;
	struct tn_buffer scratch;     /* of all workers */
	struct tn_buffer whole;       /* the change, where it fits */
	uint64_t end;                 /* of its share of the progress */
};

/* ---- reading --------------------------------------------------------------------------------------------- */

/* Rows of the group that are wanted, and where. */
struct wanted {
	const struct stream *stream;
	uint64_t first, count;
	float *dst;
};

static tn_status read_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct wanted *w = arg;
	const struct stream *s = w->stream;
	const struct tn_extract_module *m = s->module;
	uint64_t begin = w->first + task * s->task_rows, end = tn_min_u64(begin + s->task_rows, w->first + w->count);
	void *scratch = (unsigned char *)s->scratch.data + worker * s->scratch_bytes;
	for (size_t i = m->first_piece; i < m->first_piece + m->piece_count; i++) {
		const struct tn_extract_piece *p = &s->x->pieces[i];
		uint64_t from = tn_max_u64(p->row, s->first_row + begin), to = tn_min_u64(p->row + p->rows, s->first_row + end);
		if (from < to)
			TN_TRY(tn_extract_read(s->x, p, from - p->row, to - from,
					       w->dst + (from - s->first_row - w->first) * m->cols, scratch, NULL, err));
	}
	return TN_OK;
}

static tn_status read_rows(const struct stream *s, uint64_t first, uint64_t count, float *dst, struct tn_error *err)
{
	struct wanted wanted = { s, first, count, dst };
	struct tn_work work = { .task_count = tn_ceil_div(count, s->task_rows), .workers = s->workers, .run = read_task,
				.arg = &wanted };
	return tn_pool_run(s->x->ctx, &work, err);
}

static tn_status report(struct stream *s, uint64_t bytes, struct tn_error *err)
{
	tn_context *ctx = s->x->ctx;
	s->x->done = tn_min_u64(s->x->done + bytes, s->end);
	struct tn_progress progress = { s->x->done, s->x->total, "extract" };
	if (ctx->progress && ctx->progress(ctx->progress_user, &progress) != 0)
		return tn_fail(err, TN_E_CANCELLED, "extract", "extract was stopped");
	return TN_OK;
}

static tn_status read_change(void *arg, size_t first, size_t count, float *dst, struct tn_error *err)
{
	struct stream *s = arg;
	uint64_t cols = s->module->cols;
	TN_TRY(report(s, count * cols * sizeof(float), err));
	if (!s->whole.data)
		return read_rows(s, first, count, dst, err);
	memcpy(dst, (const float *)s->whole.data + first * cols, (size_t)(count * cols) * sizeof *dst);
	return TN_OK;
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

/* Scratch of a task of as many rows as are worth a system call, or of fewer where the budget is small. */
static tn_status size_tasks(struct stream *s, uint64_t left, struct tn_error *err)
{
	const struct tn_extract_module *m = s->module;
	uint64_t unit = 0, fixed = 0;
	for (size_t i = m->first_piece; i < m->first_piece + m->piece_count; i++) {
		uint64_t u, f;
		tn_extract_piece_bytes(&s->x->pieces[i], &u, &f);
		unit = tn_max_u64(unit, u);
		fixed = tn_max_u64(fixed, f);
	}
	s->task_rows = tn_max_u64(1, TASK_BYTES / tn_max_u64(unit, 1));
	for (s->workers = tn_pool_workers(s->x->ctx);; ) {
		s->scratch_bytes = tn_align_up((size_t)(unit * s->task_rows + fixed), 64);
		if (s->workers * s->scratch_bytes <= left)
			return TN_OK;
		if (s->task_rows > 1)
			s->task_rows = (s->task_rows + 1) / 2;
		else if (s->workers > 1)
			s->workers--;
		else
			break;
	}
	return tn_fail(err, TN_E_NOMEM, m->module->path, "to read '%.100s' takes %llu bytes of memory beside its factors, and the "
		       "budget leaves %llu; raise it", m->module->path, (unsigned long long)s->scratch_bytes,
		       (unsigned long long)left);
}

static tn_status open_stream(struct stream *s, const struct tn_rank_rule *rule, struct tn_error *err)
{
	const struct tn_extract_module *m = s->module;
	tn_context *ctx = s->x->ctx;
	uint64_t budget = ctx->memory_budget_bytes, works = tn_lowrank_rows_bytes(ctx, m->rows, m->cols, rule), whole;
	if (works > budget)
		return tn_fail(err, TN_E_NOMEM, m->module->path, "the factors of '%.100s' take %llu bytes of memory to compute, "
			       "and the budget is %llu; raise it, or choose a smaller rank", m->module->path,
			       (unsigned long long)works, (unsigned long long)budget);
	TN_TRY(size_tasks(s, budget - works, err));
	TN_TRY(tn_buffer_alloc(ctx, (size_t)(s->workers * s->scratch_bytes), m->module->path, &s->scratch, err));
	works += s->workers * s->scratch_bytes;
	if (tn_mul_u64(m->rows * m->cols, sizeof(float), &whole) || whole > budget - works)
		return TN_OK;
	TN_TRY(tn_buffer_alloc(ctx, (size_t)whole, m->module->path, &s->whole, err));
	return read_rows(s, 0, m->rows, s->whole.data, err);
}

tn_status tn_extract_factor(struct tn_extract *x, const struct tn_extract_module *m, uint64_t group,
			    const struct tn_rank_rule *rule, struct tn_lowrank_factors *out, struct tn_error *err)
{
	struct stream s = { .x = x, .module = m, .first_row = group * m->rows };
	struct tn_row_source rows = { (size_t)m->rows, (size_t)m->cols, m->module->path, read_change, &s };
	s.end = x->done + tn_extract_group_work(m);
	tn_status status = open_stream(&s, rule, err);
	if (status == TN_OK)
		status = tn_lowrank_of_rows(x->ctx, &rows, rule, 0, out, err);
	tn_buffer_release(x->ctx, &s.whole);
	tn_buffer_release(x->ctx, &s.scratch);
	x->done = s.end;
	return status;
}

/* ---- all groups ------------------------------------------------------------------------------------------ */

/* dst [cols, rows] from src [rows, cols], of a larger row each. */
static void transpose(float *dst, size_t dst_stride, const float *src, size_t rows, size_t cols)
{
	for (size_t i = 0; i < rows; i++)
		for (size_t k = 0; k < cols; k++)
			dst[k * dst_stride + i] = src[i * cols + k];
}

/* Into a pair of a rank that is at least the group's; what is missing stays zero. */
static void put_group(const struct tn_extract_module *m, uint64_t group, const struct tn_lowrank_factors *f, struct tn_pair *p)
{
	float *a = p->a + group * p->rank * p->in, *b = p->b + group * p->out * p->rank;
	if (m->by_inputs) {
		transpose(a, (size_t)p->in, f->b, (size_t)p->in, (size_t)f->rank);
		transpose(b, (size_t)p->rank, f->a, (size_t)f->rank, (size_t)p->out);
		return;
	}
	memcpy(a, f->a, (size_t)(f->rank * p->in) * sizeof *a);
	for (uint64_t i = 0; i < p->out; i++)
		memcpy(b + i * p->rank, f->b + i * f->rank, (size_t)f->rank * sizeof *b);
}

static tn_status take_apart(struct tn_extract *x, const struct tn_extract_module *m, const struct tn_rank_rule *rule,
			    struct tn_lowrank_factors *groups, struct tn_pair *p, struct tn_error *err)
{
	double total = 0, kept = 0;
	for (uint64_t g = 0; g < m->groups; g++) {
		TN_TRY(tn_extract_factor(x, m, g, rule, &groups[g], err));
		p->rank = tn_max_u64(p->rank, groups[g].rank);
		total += groups[g].total;
		kept += groups[g].kept * groups[g].total;
	}
	p->kept = total > 0 ? kept / total : 1;
	TN_TRY(tn_arena_array(&x->arena, (size_t)(p->groups * p->rank * p->in), sizeof *p->a, &p->a, err));
	TN_TRY(tn_arena_array(&x->arena, (size_t)(p->groups * p->out * p->rank), sizeof *p->b, &p->b, err));
	for (uint64_t g = 0; g < m->groups; g++)
		put_group(m, g, &groups[g], p);
	return TN_OK;
}

tn_status tn_extract_pair(struct tn_extract *x, const struct tn_extract_module *m, const struct tn_rank_rule *rule,
			  struct tn_pair *out, struct tn_error *err)
{
	struct tn_lowrank_factors *groups;
	*out = (struct tn_pair){ .module = m->module, .groups = m->groups, .in = m->by_inputs ? m->rows : m->cols,
				 .out = m->by_inputs ? m->cols : m->rows, .scale = 1, .a_dtype = TN_F32, .b_dtype = TN_F32 };
	TN_TRY(tn_alloc_array(x->ctx, (size_t)m->groups, sizeof *groups, m->module->path, &groups, err));
	tn_status status = take_apart(x, m, rule, groups, out, err);
	for (uint64_t g = 0; g < m->groups; g++)
		tn_lowrank_release(x->ctx, &groups[g]);
	tn_free_array(x->ctx, groups, (size_t)m->groups, sizeof *groups);
	return status;
}
