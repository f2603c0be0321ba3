/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank factors of a matrix that is only read, row by row, some times over. Every pass makes Y = W V and Z = W^T Y from the same
 * rows; the basis of Z is the next V. W V V^T is a projection, so the squares of Y are what it keeps of W's. */
#include "linear/lowrank.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "linear/factorise.h"

#include <math.h>
#include <string.h>

enum { ROWS = 32, COLS = 256, EXACT = 128, MORE = 10, MOST_PASSES = 6 };

struct sketch {
	tn_context *ctx;
	const struct tn_row_source *source;
	size_t width;                /* of V */
	size_t block_rows;           /* at once in memory */
	struct tn_panels v, y, z;    /* [cols, width], [rows, width], [cols, width] */
	double *tiles;               /* [worker][ROWS * COLS] */
	double *squares;             /* of the rows, [task of the block] */
	float *block;
	double *work;                /* of the factorisation; while rows are read Z stands there */
	size_t first, count;         /* rows in the block */
};

static size_t width_for(uint64_t rows, uint64_t cols, const struct tn_rank_rule *rule)
{
	uint64_t low = tn_min_u64(rows, cols), wanted = rule->rank ? tn_min_u64(rule->rank, low) : low;
	uint64_t width = (wanted + MORE + TN_PANEL - 1) / TN_PANEL * TN_PANEL;
	return (size_t)tn_min_u64(low <= EXACT ? low : width, low);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static size_t rows_of_block(size_t rows, size_t cols)
{
	size_t most = tn_max_size(TN_ROWS_BYTES / sizeof(float) / cols, 1);
	return tn_min_u64(most > ROWS ? most / ROWS * ROWS : most, rows);
}

/* Lays everything out from `base` on, which may be NULL, and returns how many bytes that is. */
static tn_status lay_out(struct sketch *s, unsigned char *base, uint64_t *bytes, struct tn_error *err)
{
	const struct tn_row_source *w = s->source;
	uint64_t tall, wide, work, at = 0;
	TN_TRY(tn_factorise_size(w->rows, w->cols, s->width, w->name, &work, err));
	(void)tn_panels_size(w->cols, s->width, &wide);
	(void)tn_panels_size(w->rows, s->width, &tall);
	s->block_rows = rows_of_block(w->rows, w->cols);
	uint64_t sizes[] = { work, wide, tall, (uint64_t)tn_pool_workers(s->ctx) * ROWS * COLS, s->block_rows / ROWS + 8 };
	double **places[] = { &s->work, &s->v.data, &s->y.data, &s->tiles, &s->squares };
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		*places[i] = base ? (double *)(void *)(base + at) : NULL;
		at += tn_align_up((size_t)sizes[i] * sizeof(double), 64);
	}
	s->block = base ? (float *)(void *)(base + at) : NULL;
	s->z.data = s->work;
	s->v.rows = s->z.rows = w->cols;
	s->y.rows = w->rows;
	s->v.cols = s->y.cols = s->z.cols = s->width;
	*bytes = at + (uint64_t)s->block_rows * w->cols * sizeof(float);
	return TN_OK;
}

uint64_t tn_lowrank_rows_bytes(tn_context *ctx, uint64_t rows, uint64_t cols, const struct tn_rank_rule *rule)
{
	struct tn_row_source shape = { (size_t)rows, (size_t)cols, "", NULL, NULL };
	struct sketch s = { .ctx = ctx, .source = &shape, .width = width_for(rows, cols, rule) };
	uint64_t bytes;
	return lay_out(&s, NULL, &bytes, NULL) == TN_OK ? bytes : UINT64_MAX;
}

/* ---- a pass ---------------------------------------------------------------------------------------------- */

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Y of some rows of the block. */
static tn_status project(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	(void)err;
	struct sketch *s = arg;
	const struct tn_kernels *k = s->ctx->kernels;
	size_t cols = s->source->cols, from = (size_t)task * ROWS, rows = least(ROWS, s->count - from);
	double *tile = s->tiles + (size_t)worker * ROWS * COLS;
	s->squares[task] = 0;
	for (size_t c = 0; c < cols; c += COLS) {
		size_t n = least(COLS, cols - c);
		for (size_t i = 0; i < rows; i++)
			s->squares[task] += k->widen_f64(tile + i * COLS, s->block + (from + i) * cols + c, n);
		for (size_t p = 0; p < tn_panels_count(&s->v); p++)
			k->panel_product(tn_panels_at(&s->y, p) + (s->first + from) * TN_PANEL, tile, COLS, 1,
					 tn_panels_at(&s->v, p) + c * TN_PANEL, n, rows);
	}
	return TN_OK;
}

/* What the rows of the block add to some rows of Z. */
static tn_status spread(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	(void)err;
	struct sketch *s = arg;
	const struct tn_kernels *k = s->ctx->kernels;
	size_t cols = s->source->cols, c = (size_t)task * COLS, n = least(COLS, cols - c);
	double *tile = s->tiles + (size_t)worker * ROWS * COLS;
	for (size_t from = 0; from < s->count; from += ROWS) {
		size_t rows = least(ROWS, s->count - from);
		for (size_t i = 0; i < rows; i++)
			(void)k->widen_f64(tile + i * COLS, s->block + (from + i) * cols + c, n);
		for (size_t p = 0; p < tn_panels_count(&s->v); p++)
			k->panel_product(tn_panels_at(&s->z, p) + c * TN_PANEL, tile, 1, COLS,
					 tn_panels_at(&s->y, p) + (s->first + from) * TN_PANEL, rows, n);
	}
	return TN_OK;
}

static tn_status run(struct sketch *s, tn_status (*task)(void *, uint64_t, unsigned, struct tn_error *), size_t tasks,
		     struct tn_error *err)
{
	struct tn_work work = { .task_count = tasks, .workers = tn_pool_workers(s->ctx), .run = task, .arg = s };
	return tn_pool_run(s->ctx, &work, err);
}

/* Y = W V and, unless it is the last pass, Z = W^T Y; the squares of W. */
static tn_status read_all(struct sketch *s, int is_last, double *total, struct tn_error *err)
{
	const struct tn_row_source *w = s->source;
	tn_panels_clear(&s->y);
	tn_panels_clear(&s->z);
	*total = 0;
	for (s->first = 0; s->first < w->rows; s->first += s->count) {
		s->count = least(s->block_rows, w->rows - s->first);
		size_t tasks = (s->count + ROWS - 1) / ROWS;
		TN_TRY(w->read(w->arg, s->first, s->count, s->block, err));
		TN_TRY(run(s, project, tasks, err));
		for (size_t i = 0; i < tasks; i++)
			*total += s->squares[i];
		if (!is_last)
			TN_TRY(run(s, spread, (w->cols + COLS - 1) / COLS, err));
	}
	if (!isfinite(*total))
		return tn_fail(err, TN_E_FORMAT, w->name, "'%.100s' holds NaN or infinity", w->name);
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

/* Numbers between -1 and 1, of their seed and place alone (splitmix64). */
static void fill_random(const struct tn_panels *m, uint64_t seed)
{
	tn_panels_clear(m);
	for (size_t i = 0; i < m->rows; i++)
		for (size_t j = 0; j < m->cols; j++) {
			uint64_t u = seed + ((uint64_t)i * m->cols + j + 1) * 0x9E3779B97F4A7C15u;
			u = (u ^ u >> 30) * 0xBF58476D1CE4E5B9u;
			u = (u ^ u >> 27) * 0x94D049BB133111EBu;
			*tn_panels_element(m, i, j) = (double)((u ^ u >> 31) >> 11) * 0x1p-52 - 1;
		}
}

/* V as that what W reads most, and Y with it. `share` is what one more pass must add to be worth it. */
static tn_status iterate(struct sketch *s, uint64_t seed, double *total, struct tn_error *err)
{
	const double share = 0.001, rounding = 1e-12;
	double found = 0;
	fill_random(&s->v, seed);
	for (int pass = 1;; pass++) {
		TN_TRY(read_all(s, pass == MOST_PASSES, total, err));
		double before = found;
		found = tn_panels_squares(&s->y);
		if (pass == MOST_PASSES || *total == 0)
			return TN_OK;
		if (pass > 1 && (found >= *total * (1 - rounding) || (pass > 2 && found - before <= share * found)))
			return TN_OK;
		memcpy(s->v.data, s->z.data, tn_panels_count(&s->v) * TN_PANEL * s->v.rows * sizeof *s->v.data);
		tn_panels_orthonormalise(s->ctx->kernels, &s->v, s->work);
	}
}

/* A small matrix as the product of itself and the unit matrix of its shorter side. */
static tn_status read_exactly(struct sketch *s, double *total, struct tn_error *err)
{
	const struct tn_row_source *w = s->source;
	int by_rows = s->width == w->cols;
	tn_panels_set_unit(by_rows ? &s->v : &s->y);
	if (by_rows)
		tn_panels_clear(&s->y);
	else
		tn_panels_clear(&s->v);
	for (size_t first = 0; first < w->rows; first += s->block_rows) {
		size_t count = least(s->block_rows, w->rows - first);
		TN_TRY(w->read(w->arg, first, count, s->block, err));
		for (size_t i = 0; i < count; i++)
			for (size_t j = 0; j < w->cols; j++)
				*(by_rows ? tn_panels_element(&s->y, first + i, j) : tn_panels_element(&s->v, j, first + i)) =
					(double)s->block[i * w->cols + j];
	}
	*total = tn_panels_squares(by_rows ? &s->y : &s->v);
	return TN_OK;
}

tn_status tn_lowrank_of_rows(tn_context *ctx, const struct tn_row_source *source, const struct tn_rank_rule *rule, uint64_t seed,
			     struct tn_lowrank_factors *out, struct tn_error *err)
{
	struct sketch s = { .ctx = ctx, .source = source, .width = width_for(source->rows, source->cols, rule) };
	struct tn_buffer memory;
	uint64_t bytes;
	double total = 0;
	TN_TRY(lay_out(&s, NULL, &bytes, err));
	TN_TRY(tn_buffer_alloc(ctx, (size_t)bytes, source->name, &memory, err));
	(void)lay_out(&s, memory.data, &bytes, NULL);
	int is_exact = s.width == source->rows || s.width == source->cols;
	tn_status status = is_exact ? read_exactly(&s, &total, err) : iterate(&s, seed, &total, err);
	struct tn_panel_product product = { s.y, s.v, total, source->name };
	if (status == TN_OK)
		status = tn_factorise(ctx, &product, rule, s.work, out, err);
	tn_buffer_release(ctx, &memory);
	return status;
}
