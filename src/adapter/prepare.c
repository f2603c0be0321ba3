/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be known of a whole matrix before its first row can be edited: norms of columns, and the part that PiSSA,
 * OLoRA or KaSA took out of the base before training. */
#include "adapter/land.h"

#include "base/checked.h"
#include "base/error.h"
#include "linear/lapack.h"

#include <math.h>
#include <string.h>

/* W of one delta: rows x cols, and what is needed of it. */
struct matrix {
	const struct tn_joint *joint;
	const struct tn_target *target;
	size_t rows, cols, rank;
};

static uint64_t small_side(const struct tn_joint *j, const struct tn_slot *slot)
{
	uint64_t rows = tn_target_source(&j->targets[slot->target])->elements / slot->cols;
	return tn_min_u64(rows, slot->cols);
}

void tn_prepare_bytes(const struct tn_joint *j, const struct tn_slot *slot, uint64_t *stays, uint64_t *works)
{
	const struct tn_adapter_entry *e = slot->entry;
	uint64_t cols = slot->cols, rows = tn_target_source(&j->targets[slot->target])->elements / cols;
	uint64_t low = small_side(j, slot);
	*stays = *works = 0;
	if (e->magnitude && slot->kind == TN_SLOT_DELTA)
		*stays += cols * sizeof(double);
	if (slot->change != TN_BASE_AS_IS)
		*stays += tn_min_u64(e->module.rank, low) * (rows + cols) * sizeof(double);
	if (slot->change == TN_BASE_PISSA || slot->change == TN_BASE_KASA)
		*works = (rows * cols + low * (rows + cols) + low + tn_svd_work(rows, cols)) * sizeof(double) +
			 8 * low * sizeof(int) + cols * 12;
	else if (e->magnitude || slot->change == TN_BASE_OLORA)
		*works = cols * (3 * sizeof(double) + 12) + e->module.rank * sizeof(double) + 1024;
}

static tn_status read_row(const struct matrix *m, size_t row, float *dst, void *raw, struct tn_error *err)
{
	return tn_target_read_f32(m->joint, m->target, (uint64_t)row * m->cols, m->cols, dst, raw, err);
}

/* ---- norms of columns ------------------------------------------------------------------------------------ */

static tn_status add_squares(const struct matrix *m, const struct tn_delta *delta, double *sum, unsigned char *scratch,
			     struct tn_error *err)
{
	double *v = (double *)(void *)scratch, *rest = v + m->cols;
	float *w = (float *)(rest + m->cols + delta->rank);
	for (size_t i = 0; i < m->rows; i++) {
		TN_TRY(read_row(m, i, w, w + m->cols, err));
		tn_delta_sum_f64(m->joint->ctx->kernels, delta, i, w, v, TN_SIZES_NONE, NULL, rest);
		for (size_t c = 0; c < m->cols; c++)
			sum[c] += v[c] * v[c];
	}
	return TN_OK;
}

static tn_status measure_columns(const struct matrix *m, struct tn_delta *delta, double *gain, struct tn_error *err)
{
	struct tn_buffer scratch;
	tn_context *ctx = m->joint->ctx;
	size_t bytes = m->cols * (2 * sizeof(double) + 12) + delta->rank * sizeof(double) + 64;
	TN_TRY(tn_buffer_alloc(ctx, bytes, "norms of columns", &scratch, err));
	memset(gain, 0, m->cols * sizeof *gain);
	tn_status status = add_squares(m, delta, gain, scratch.data, err);
	for (size_t c = 0; c < m->cols; c++)
		gain[c] = gain[c] > 0 ? (double)delta->column_magnitude[c] / sqrt(gain[c]) : 1;
	delta->column_gain = gain;
	tn_buffer_release(ctx, &scratch);
	return status;
}

/* ---- singular triplets ----------------------------------------------------------------------------------- */

static tn_status read_matrix(const struct matrix *m, double *dst, float *row, struct tn_error *err)
{
	for (size_t i = 0; i < m->rows; i++) {
		TN_TRY(read_row(m, i, row, row + m->cols, err));
		for (size_t c = 0; c < m->cols; c++)
			dst[i * m->cols + c] = (double)row[c];
	}
	return TN_OK;
}

/* The rows of W are columns to LAPACK, so it sees W^T = U S V^T with U [cols, low] and V^T [low, rows]. */
static tn_status split_svd(const struct matrix *m, int smallest, double *b, double *a, double *work, struct tn_error *err)
{
	size_t low = m->rows < m->cols ? m->rows : m->cols, first = smallest ? low - m->rank : 0;
	int rows = (int)m->cols, cols = (int)m->rows, k = (int)low, info = 0, lwork = (int)tn_svd_work(m->rows, m->cols);
	double *w = work, *s = w + m->rows * m->cols, *u = s + low, *vt = u + m->cols * low, *rest = vt + low * m->rows;
	int *iwork = (int *)(void *)(rest + lwork);
	float *row = (float *)(iwork + 8 * low);
	TN_TRY(read_matrix(m, w, row, err));
	dgesdd_("S", &rows, &cols, w, &rows, s, u, &rows, vt, &k, rest, &lwork, iwork, &info, 1);
	if (info != 0)
		return tn_fail(err, TN_E_FORMAT, m->target->name, "the singular values of '%.100s' do not converge; it holds "
			       "NaN or infinity", m->target->name);
	for (size_t t = 0; t < m->rank; t++) {
		memcpy(a + t * m->cols, u + (first + t) * m->cols, m->cols * sizeof *a);
		for (size_t i = 0; i < m->rows; i++)
			b[i * m->rank + t] = s[first + t] * vt[i * low + first + t];
	}
	return TN_OK;
}

static tn_status remove_triplets(const struct matrix *m, int smallest, double *b, double *a, struct tn_error *err)
{
	struct tn_buffer work;
	tn_context *ctx = m->joint->ctx;
	uint64_t low = tn_min_u64(m->rows, m->cols), lwork = tn_svd_work(m->rows, m->cols);
	if (lwork > INT32_MAX)
		return tn_fail(err, TN_E_LIMIT, m->target->name, "'%.100s' is too large to be taken apart", m->target->name);
	uint64_t bytes = ((uint64_t)m->rows * m->cols + low * (m->rows + m->cols + 1) + lwork) * sizeof(double) +
			 8 * low * sizeof(int) + m->cols * 12;
	TN_TRY(tn_buffer_alloc(ctx, (size_t)bytes, m->target->name, &work, err));
	tn_status status = split_svd(m, smallest, b, a, work.data, err);
	tn_buffer_release(ctx, &work);
	return status;
}

/* ---- the first columns ----------------------------------------------------------------------------------- */

/* Q of the first `rank` columns, by rows: Gram-Schmidt, twice. */
static tn_status orthogonalise(const struct matrix *m, double *q, struct tn_error *err)
{
	for (size_t t = 0; t < m->rank; t++) {
		double before = 0, after = 0;
		for (size_t i = 0; i < m->rows; i++)
			before += q[i * m->rank + t] * q[i * m->rank + t];
		for (size_t pass = 0; pass < 2; pass++)
			for (size_t s = 0; s < t; s++) {
				double dot = 0;
				for (size_t i = 0; i < m->rows; i++)
					dot += q[i * m->rank + s] * q[i * m->rank + t];
				for (size_t i = 0; i < m->rows; i++)
					q[i * m->rank + t] -= dot * q[i * m->rank + s];
			}
		for (size_t i = 0; i < m->rows; i++)
			after += q[i * m->rank + t] * q[i * m->rank + t];
		if (!(after > before * 1e-24))
			return tn_fail(err, TN_E_UNSUPPORTED, m->target->name, "the first %zu columns of '%.100s' depend on "
				       "each other, so what olora took out of it is not determined", m->rank, m->target->name);
		for (size_t i = 0; i < m->rows; i++)
			q[i * m->rank + t] /= sqrt(after);
	}
	return TN_OK;
}

/* W = Q R; what OLoRA takes out is scale * Q[:, :r] R[:r], and R[:r] = Q[:, :r]^T W. */
static tn_status remove_columns(const struct matrix *m, double scale, double *b, double *a, struct tn_error *err)
{
	struct tn_buffer memory;
	tn_context *ctx = m->joint->ctx;
	TN_TRY(tn_buffer_alloc(ctx, m->cols * 12, m->target->name, &memory, err));
	float *row = memory.data;
	tn_status status = TN_OK;
	for (size_t i = 0; i < m->rows && status == TN_OK; i++) {
		status = read_row(m, i, row, row + m->cols, err);
		for (size_t t = 0; t < m->rank; t++)
			b[i * m->rank + t] = (double)row[t];
	}
	if (status == TN_OK)
		status = orthogonalise(m, b, err);
	memset(a, 0, m->rank * m->cols * sizeof *a);
	for (size_t i = 0; i < m->rows && status == TN_OK; i++) {
		status = read_row(m, i, row, row + m->cols, err);
		for (size_t t = 0; t < m->rank; t++)
			for (size_t c = 0; c < m->cols; c++)
				a[t * m->cols + c] += scale * b[i * m->rank + t] * (double)row[c];
	}
	tn_buffer_release(ctx, &memory);
	return status;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status prepare(const struct matrix *m, const struct tn_slot *slot, struct tn_delta *delta, double *memory,
			 struct tn_error *err)
{
	double *gain = memory, *b = memory + (slot->entry->magnitude ? m->cols : 0), *a = b + m->rows * m->rank;
	if (slot->change == TN_BASE_OLORA)
		TN_TRY(remove_columns(m, delta->scale, b, a, err));
	else if (slot->change != TN_BASE_AS_IS)
		TN_TRY(remove_triplets(m, slot->change == TN_BASE_KASA, b, a, err));
	if (slot->change != TN_BASE_AS_IS)
		delta->removed = (struct tn_removed){ a, b, m->rank };
	return delta->column_magnitude ? measure_columns(m, delta, gain, err) : TN_OK;
}

tn_status tn_prepare(const struct tn_joint *j, const struct tn_slot *slot, struct tn_delta *delta,
		     struct tn_buffer *memory, struct tn_error *err)
{
	struct matrix m = { j, &j->targets[slot->target], delta->rows, delta->cols, 0 };
	uint64_t stays, works;
	*memory = (struct tn_buffer){ 0 };
	if (slot->change == TN_BASE_AS_IS && !delta->column_magnitude)
		return TN_OK;
	m.rank = (size_t)tn_min_u64(slot->entry->module.rank, small_side(j, slot));
	tn_prepare_bytes(j, slot, &stays, &works);
	TN_TRY(tn_buffer_alloc(j->ctx, (size_t)stays, m.target->name, memory, err));
	tn_status status = prepare(&m, slot, delta, memory->data, err);
	if (status != TN_OK)
		tn_buffer_release(j->ctx, memory);
	return status;
}
