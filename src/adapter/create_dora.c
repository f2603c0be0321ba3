/* SPDX-License-Identifier: Apache-2.0 */
/* Magnitudes of a new DoRA: the norms of the base's rows, or columns, block by block. B is zero, so these are the norms of
 * the adapted weight too, and the new adapter changes nothing. */
#include "adapter/create.h"

#include "adapter/land.h"
#include "base/error.h"
#include "base/pool.h"

#include <math.h>
#include <string.h>

enum { BLOCK_BYTES = 1 << 20 };

struct job {
	const struct tn_joint *joint;
	unsigned char *image;
};

/* One landing and the memory to read it with. */
struct reading {
	const struct tn_joint *joint;
	const struct tn_target *target;
	uint64_t cols, block_rows;
	float *rows;
	void *raw;
};

/* In eight sums side by side, which a compiler turns into vectors without changing the result. */
static double norm(const float *w, uint64_t n)
{
	double sums[8] = { 0 };
	uint64_t i = 0;
	for (; i + 8 <= n; i += 8)
		for (unsigned lane = 0; lane < 8; lane++)
			sums[lane] += (double)w[i + lane] * (double)w[i + lane];
	for (; i < n; i++)
		sums[0] += (double)w[i] * (double)w[i];
	return sqrt(((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])));
}

static tn_status measure_rows(const struct reading *r, const struct tn_landing *l, float *magnitude, struct tn_error *err)
{
	for (uint64_t first = 0; first < l->rows; first += r->block_rows) {
		uint64_t n = l->rows - first < r->block_rows ? l->rows - first : r->block_rows;
		TN_TRY(tn_target_read_f32(r->joint, r->target, (l->target_row + first) * r->cols, n * r->cols, r->rows, r->raw,
					  err));
		for (uint64_t i = 0; i < n; i++)
			magnitude[l->delta_row + first + i] = (float)norm(r->rows + i * r->cols, r->cols);
	}
	return TN_OK;
}

static tn_status measure_columns(const struct reading *r, const struct tn_landing *l, double *sums, float *magnitude,
				 struct tn_error *err)
{
	memset(sums, 0, (size_t)r->cols * sizeof *sums);
	for (uint64_t first = 0; first < l->rows; first += r->block_rows) {
		uint64_t n = l->rows - first < r->block_rows ? l->rows - first : r->block_rows;
		TN_TRY(tn_target_read_f32(r->joint, r->target, (l->target_row + first) * r->cols, n * r->cols, r->rows, r->raw,
					  err));
		for (uint64_t i = 0; i < n; i++)
			for (uint64_t c = 0; c < r->cols; c++)
				sums[c] += (double)r->rows[i * r->cols + c] * (double)r->rows[i * r->cols + c];
	}
	for (uint64_t c = 0; c < r->cols; c++)
		magnitude[c] = (float)sqrt(sums[c]);
	return TN_OK;
}

static tn_status measure(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct job *job = arg;
	const struct tn_joint *j = job->joint;
	const struct tn_landing *l = &j->landings[task];
	const struct tn_slot *slot = &j->slots[l->slot];
	const struct tn_tensor *m = slot->entry->magnitude;
	struct tn_buffer memory;
	(void)worker;
	if (!m || slot->kind != TN_SLOT_DELTA)
		return TN_OK;
	struct reading r = { .joint = j, .target = &j->targets[l->target], .cols = slot->cols };
	r.block_rows = BLOCK_BYTES / (slot->cols * sizeof(float)) + 1;
	size_t elements = (size_t)(r.block_rows * r.cols), cols = (size_t)r.cols;
	TN_TRY(tn_buffer_alloc(j->ctx, cols * sizeof(double) + elements * (8 + sizeof(float)), r.target->name, &memory, err));
	double *sums = memory.data;
	r.raw = sums + cols;
	r.rows = (float *)(void *)((unsigned char *)r.raw + elements * 8);
	float *magnitude = (float *)(void *)(job->image + m->offset);
	int by_row = slot->shape.rows_are_inputs == slot->entry->magnitude_of_inputs;
	tn_status status = by_row ? measure_rows(&r, l, magnitude, err) : measure_columns(&r, l, sums, magnitude, err);
	tn_buffer_release(j->ctx, &memory);
	return status;
}

tn_status tn_create_magnitudes(const tn_adapter *adapter, const tn_checkpoint *base, unsigned char *image,
			       struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_joint *joint;
	tn_arena_init(&arena, adapter->ctx);
	tn_status status = tn_joint_make(adapter, base, &arena, &joint, err);
	if (status == TN_OK) {
		struct job job = { joint, image };
		struct tn_work work = { .task_count = joint->landing_count, .run = measure, .arg = &job };
		status = tn_pool_run(adapter->ctx, &work, err);
	}
	tn_arena_release(&arena);
	return status;
}
