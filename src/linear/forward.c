/* SPDX-License-Identifier: Apache-2.0 */
/* y = W x with edits. First t = A x for every pair; then blocks of rows of W, each with all that is done to them while they
 * are in the cache. Blocks and chunks are cut by the shapes alone, so threads cannot change a bit. */
#include "linear/linear.h"

#include "base/checked.h"
#include "base/pool.h"

#include <string.h>

enum {
	BLOCK_PRODUCTS = 1 << 18,  /* of a block of rows with one x */
	MOST_BLOCK_ROWS = 256,
	X_CHUNK = 16, RANK_CHUNK = 8, /* of a task that shrinks */
	SMALL = 1 << 16            /* products that are done before another thread is awake */
};

struct job {
	const struct tn_forward *f;
	const struct tn_kernels *kernels;
	struct tn_format format;
	struct tn_product product;
	size_t block;
	void *prepared;
	float *t;                  /* [m, rank] */
	unsigned char *workers;
	size_t worker_bytes, product_bytes;
};

static size_t block_rows(const tn_linear *linear)
{
	size_t n = BLOCK_PRODUCTS / linear->in & ~(size_t)7;
	return n < 8 ? 8 : n > MOST_BLOCK_ROWS ? MOST_BLOCK_ROWS : n;
}

static size_t pad(size_t bytes)
{
	return tn_align_up(bytes, 64);
}

size_t tn_forward_scratch_bytes(const tn_linear *linear, enum tn_precision precision, size_t m, size_t rank, int scattered)
{
	const struct tn_kernels *k = linear->ctx->kernels;
	struct tn_product p = { &linear->format, linear->in, m, precision };
	size_t worker = pad(k->product_scratch_bytes(&p)) + (scattered ? pad(m * block_rows(linear) * sizeof(float)) : 0);
	return pad(k->product_bytes(&p)) + pad(m * rank * sizeof(float)) + tn_pool_workers(linear->ctx) * worker;
}

size_t tn_patches_rank(const struct tn_patch *patches, size_t count)
{
	size_t rank = 0;
	for (size_t i = 0; i < count; i++)
		rank += patches[i].pair[0].rank + patches[i].pair[1].rank;
	return rank;
}

static size_t dtype_bytes(tn_dtype dtype)
{
	return dtype == TN_F32 ? 4 : 2;
}

/* ---- t = A x --------------------------------------------------------------------------------------------- */

/* Columns [begin, end) of t for `m` rows of x from row `first`, which share patches. */
static void shrink_group(const struct job *job, const struct tn_patched_rows *group, size_t first, size_t m, size_t begin,
			 size_t end)
{
	const struct tn_forward *f = job->f;
	size_t at = 0, in = f->linear->in;
	for (size_t i = 0; i < group->patch_count; i++)
		for (int n = 0; n < 2; n++) {
			const struct tn_pair *pair = &group->patches[i].pair[n];
			size_t from = begin > at ? begin - at : 0, to = end > at ? end - at : 0;
			at += pair->rank;
			to = to < pair->rank ? to : pair->rank;
			if (from >= to)
				continue;
			const unsigned char *a = (const unsigned char *)pair->a + from * in * dtype_bytes(pair->a_dtype);
			job->kernels->lora_shrink(job->t + first * f->rank + at - pair->rank + from, f->rank, a, pair->a_dtype, to - from, in,
						  f->x + first * f->x_stride, f->x_stride, m);
		}
}

static tn_status shrink_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct job *job = arg;
	const struct tn_forward *f = job->f;
	size_t chunks = (f->rank + RANK_CHUNK - 1) / RANK_CHUNK, first = (size_t)task / chunks * X_CHUNK, row = 0;
	size_t begin = (size_t)task % chunks * RANK_CHUNK, end = first + X_CHUNK < f->m ? first + X_CHUNK : f->m;
	(void)worker;
	(void)err;
	for (size_t g = 0; g < f->group_count; row += f->groups[g++].m) {
		size_t from = row > first ? row : first, to = row + f->groups[g].m < end ? row + f->groups[g].m : end;
		if (from < to)
			shrink_group(job, &f->groups[g], from, to - from, begin, begin + RANK_CHUNK);
	}
	return TN_OK;
}

/* ---- y --------------------------------------------------------------------------------------------------- */

/* Rows of W, and where their results go. */
struct block {
	size_t row, rows;
	float *y;
	size_t stride;
};

/* Pairs and gain of one patch on rows [begin, end) of W, for x rows [first, first + m); `at` is its place in t. */
static void add_patch(const struct job *job, const struct tn_patch *patch, const struct block *b, size_t begin, size_t end,
		      size_t first, size_t m, size_t at)
{
	const struct tn_forward *f = job->f;
	float *y = b->y + first * b->stride + (begin - b->row);
	size_t skip = begin - patch->row, rows = end - begin;
	for (int n = 0; n < 2; n++) {
		const struct tn_pair *pair = &patch->pair[n];
		if (!pair->rank)
			continue;
		job->kernels->lora_expand(y, b->stride,
					  (const unsigned char *)pair->b + skip * pair->rank * dtype_bytes(pair->b_dtype), pair->b_dtype,
					  pair->rank, rows, job->t + first * f->rank + at, f->rank, m, pair->scale);
		at += pair->rank;
	}
	for (size_t t = 0; t < m && patch->row_gain; t++)
		for (size_t i = 0; i < rows; i++)
			y[t * b->stride + i] *= patch->row_gain[skip + i];
	for (size_t t = 0; t < m && patch->values; t++)
		for (size_t i = 0; i < rows; i++)
			y[t * b->stride + i] = job->kernels->dot_f32(f->x + (first + t) * f->x_stride,
								     patch->values + (skip + i) * f->linear->in, f->linear->in);
}

static void edit_group(const struct job *job, const struct tn_patched_rows *group, const struct block *b, size_t first)
{
	size_t at = 0;
	for (size_t i = 0; i < group->patch_count; i++) {
		const struct tn_patch *patch = &group->patches[i];
		size_t begin = patch->row > b->row ? patch->row : b->row;
		size_t end = patch->row + patch->rows < b->row + b->rows ? patch->row + patch->rows : b->row + b->rows;
		if (begin < end)
			add_patch(job, patch, b, begin, end, first, group->m, at);
		at += patch->pair[0].rank + patch->pair[1].rank;
	}
	for (size_t t = first; t < first + group->m && group->bias; t++)
		for (size_t i = 0; i < b->rows; i++)
			b->y[t * b->stride + i] += group->bias[b->row + i];
}

static tn_status rows_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct job *job = arg;
	const struct tn_forward *f = job->f;
	const tn_linear *linear = f->linear;
	unsigned char *scratch = job->workers + worker * job->worker_bytes;
	struct block b = { .row = (size_t)task * job->block, .y = f->y + (size_t)task * job->block, .stride = f->y_stride };
	struct tn_rows w = { .first = tn_linear_row(linear, f->expert, b.row) };
	(void)err;
	memcpy(w.stride, linear->row_bytes, sizeof w.stride);
	b.rows = linear->out - b.row < job->block ? linear->out - b.row : job->block;
	if (f->order) {
		b.y = (float *)(void *)(scratch + job->product_bytes);
		b.stride = job->block;
	}
	job->kernels->product_rows(b.y, b.stride, &job->product, job->prepared, &w, b.rows, scratch);
	for (size_t g = 0, first = 0; g < f->group_count; first += f->groups[g++].m)
		edit_group(job, &f->groups[g], &b, first);
	for (size_t t = 0; t < f->m && f->order; t++)
		memcpy(f->y + f->order[t] * f->y_stride + b.row, b.y + t * b.stride, b.rows * sizeof *b.y);
	return TN_OK;
}

static void run_tasks(const struct job *job, tn_status (*run)(void *, uint64_t, unsigned, struct tn_error *), uint64_t count,
		      int small)
{
	struct job copy = *job;
	struct tn_work work = { .task_count = count, .run = run, .arg = &copy };
	if (!small) {
		tn_pool_run(job->f->linear->ctx, &work, NULL); /* tasks do not fail */
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		run(&copy, i, 0, NULL);
}

void tn_forward_run(const struct tn_forward *f, void *scratch)
{
	const tn_linear *linear = f->linear;
	struct job job = { .f = f, .kernels = linear->ctx->kernels, .format = tn_linear_format(linear, f->expert),
			   .block = block_rows(linear) };
	if (!f->m)
		return;
	job.product = (struct tn_product){ &job.format, linear->in, f->m, f->precision };
	job.product_bytes = pad(job.kernels->product_scratch_bytes(&job.product));
	job.worker_bytes = job.product_bytes + (f->order ? pad(f->m * job.block * sizeof(float)) : 0);
	job.prepared = scratch;
	unsigned char *t = (unsigned char *)scratch + pad(job.kernels->product_bytes(&job.product));
	job.t = (float *)(void *)t;
	job.workers = t + pad(f->m * f->rank * sizeof(float));
	job.kernels->product_prepare(job.prepared, &job.product, f->x, f->x_stride);
	if (f->rank)
		run_tasks(&job, shrink_task, tn_ceil_div(f->m, X_CHUNK) * tn_ceil_div(f->rank, RANK_CHUNK),
			  f->m * f->rank <= SMALL / linear->in);
	run_tasks(&job, rows_task, tn_ceil_div(linear->out, job.block), f->m * linear->out <= SMALL / linear->in);
}
