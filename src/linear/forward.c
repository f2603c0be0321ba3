/* SPDX-License-Identifier: Apache-2.0 */
/* y = W x with edits. First t = A x for every pair; then blocks of rows of W, each with all that is done to them while they
 * are in the cache. Blocks and chunks are cut by the shapes alone, so threads cannot change a bit. Products of the same x are
 * one piece of work: x is prepared once, and threads wait for each other once. */
#include "linear/linear.h"

#include "base/checked.h"
#include "base/pool.h"

#include <string.h>

enum {
	BLOCK_PRODUCTS = 1 << 18,  /* of a block of rows with one x */
	FEW = 4,                   /* fewer x than this leave the blocks half as large: threads end together */
	MANY = 12, STRIPS = 64,    /* so many x: rows that are unpacked together */
	MANY_TASKS = 16,           /* ... of which so many blocks are made first, and then larger ones: each reads all x anew */
	MOST_BLOCK_ROWS = 256,
	X_CHUNK = TN_PREPARED_TOGETHER, RANK_CHUNK = 8, /* of a task that prepares or shrinks */
	SMALL = 1 << 16,           /* products that are done before another thread is awake */
	SMALL_SHRINK = 1 << 14     /* the same with factors, which are wider, and activations that are prepared */
};

/* One of the products. */
struct part {
	const struct tn_forward *f;
	struct tn_format format;
	struct tn_product product;
	size_t block, tasks, shrink_tasks;
	float *t;                  /* [m, rank] */
};

struct job {
	struct part part[TN_MOST_TOGETHER];
	const struct tn_kernels *kernels;
	void *prepared;
	unsigned char *workers;
	size_t worker_bytes, product_bytes, prepare_tasks;
};

static size_t block_rows(const tn_linear *linear, size_t m)
{
	const size_t products = m < FEW ? BLOCK_PRODUCTS / 2 : BLOCK_PRODUCTS, unit = m < MANY ? 8u : STRIPS;
	const size_t n = (m < MANY ? products / linear->in : linear->out / MANY_TASKS) & ~(unit - 1);
	return n < unit ? unit : n > MOST_BLOCK_ROWS ? MOST_BLOCK_ROWS : n;
}

static size_t pad(size_t bytes)
{
	return tn_align_up(bytes, 64);
}

/* Scratch in pieces: prepared x, then t of each, then that of the workers: the room that a product needs, and behind it one for
 * rows that go elsewhere. */
struct pieces {
	size_t prepared, t, product, rows;
};

static struct pieces cut_scratch(const struct tn_forward *forwards, size_t count, int scattered)
{
	struct pieces all = { 0, 0, 0, 0 };
	for (size_t i = 0; i < count; i++) {
		const struct tn_forward *f = &forwards[i];
		const struct tn_kernels *k = f->linear->ctx->kernels;
		struct tn_product p = { &f->linear->format, f->linear->in, f->m, f->precision, f->x_dtype };
		all.prepared = tn_max_size(all.prepared, pad(k->product_bytes(&p)));
		all.t += pad(f->m * f->rank * sizeof(float));
		all.product = tn_max_size(all.product, pad(k->product_scratch_bytes(&p)));
		const size_t few = f->m < MANY ? f->m : MANY - 1; /* whose blocks may be larger */
		if (scattered || f->order)
			all.rows = tn_max_size(all.rows, pad(tn_max_size(f->m * block_rows(f->linear, f->m),
									 few * block_rows(f->linear, few)) *
							     sizeof(float)));
	}
	return all;
}

size_t tn_forward_scratch_bytes(const struct tn_forward *forwards, size_t count, int scattered)
{
	const struct pieces all = cut_scratch(forwards, count, scattered);
	return all.prepared + all.t + tn_pool_workers(forwards->linear->ctx) * (all.product + all.rows);
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
static void shrink_group(const struct job *job, const struct part *part, const struct tn_patched_rows *group, size_t first,
			 size_t m, size_t begin, size_t end)
{
	const struct tn_forward *f = part->f;
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
			job->kernels->lora_shrink(part->t + first * f->rank + at - pair->rank + from, f->rank, a, pair->a_dtype,
						  to - from, in, f->x + first * f->x_stride, f->x_stride, m);
		}
}

static void shrink(const struct job *job, const struct part *part, size_t task)
{
	const struct tn_forward *f = part->f;
	size_t chunks = (f->rank + RANK_CHUNK - 1) / RANK_CHUNK, first = task / chunks * X_CHUNK, row = 0;
	size_t begin = task % chunks * RANK_CHUNK, end = first + X_CHUNK < f->m ? first + X_CHUNK : f->m;
	for (size_t g = 0; g < f->group_count; row += f->groups[g++].m) {
		size_t from = row > first ? row : first, to = row + f->groups[g].m < end ? row + f->groups[g].m : end;
		if (from < to)
			shrink_group(job, part, &f->groups[g], from, to - from, begin, begin + RANK_CHUNK);
	}
}

static void prepare(const struct job *job, size_t first)
{
	const struct tn_forward *f = job->part[0].f;
	const size_t count = f->m - first < X_CHUNK ? f->m - first : X_CHUNK;
	const struct tn_vectors some = { f->x, f->x_stride, first, count };
	job->kernels->product_prepare(job->prepared, &job->part[0].product, &some);
}

/* What comes before the rows: the first tasks prepare x, the others shrink it. */
static tn_status begin_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct job *job = arg;
	const struct part *part = job->part;
	(void)worker;
	(void)err;
	if (task < job->prepare_tasks) {
		prepare(job, (size_t)task * X_CHUNK);
		return TN_OK;
	}
	for (task -= job->prepare_tasks; task >= part->shrink_tasks; part++)
		task -= part->shrink_tasks;
	shrink(job, part, (size_t)task);
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
static void add_patch(const struct job *job, const struct part *part, const struct tn_patch *patch, const struct block *b,
		      size_t begin, size_t end, size_t first, size_t m, size_t at)
{
	const struct tn_forward *f = part->f;
	float *y = b->y + first * b->stride + (begin - b->row);
	size_t skip = begin - patch->row, rows = end - begin;
	for (int n = 0; n < 2; n++) {
		const struct tn_pair *pair = &patch->pair[n];
		if (!pair->rank)
			continue;
		job->kernels->lora_expand(
			y, b->stride, (const unsigned char *)pair->b + skip * pair->rank * dtype_bytes(pair->b_dtype),
			pair->b_dtype, pair->rank, rows, part->t + first * f->rank + at, f->rank, m, pair->scale);
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

static void edit_group(const struct job *job, const struct part *part, const struct tn_patched_rows *group,
		       const struct block *b, size_t first)
{
	size_t at = 0;
	for (size_t i = 0; i < group->patch_count; i++) {
		const struct tn_patch *patch = &group->patches[i];
		size_t begin = patch->row > b->row ? patch->row : b->row;
		size_t end = patch->row + patch->rows < b->row + b->rows ? patch->row + patch->rows : b->row + b->rows;
		if (begin < end)
			add_patch(job, part, patch, b, begin, end, first, group->m, at);
		at += patch->pair[0].rank + patch->pair[1].rank;
	}
	for (size_t t = first; t < first + group->m && group->bias; t++)
		for (size_t i = 0; i < b->rows; i++)
			b->y[t * b->stride + i] += group->bias[b->row + i];
}

static void multiply(const struct job *job, const struct part *part, size_t task, unsigned char *scratch)
{
	const struct tn_forward *f = part->f;
	const tn_linear *linear = f->linear;
	struct block b = { .row = task * part->block, .y = f->y + task * part->block, .stride = f->y_stride };
	struct tn_rows w = { .first = tn_linear_row(linear, f->expert, b.row) };
	memcpy(w.stride, linear->row_bytes, sizeof w.stride);
	b.rows = linear->out - b.row < part->block ? linear->out - b.row : part->block;
	if (f->order) {
		b.y = (float *)(void *)(scratch + job->product_bytes);
		b.stride = part->block;
	}
	job->kernels->product_rows(b.y, b.stride, &part->product, job->prepared, &w, b.rows, scratch);
	for (size_t g = 0, first = 0; g < f->group_count; first += f->groups[g++].m)
		edit_group(job, part, &f->groups[g], &b, first);
	for (size_t t = 0; t < f->m && f->order; t++)
		memcpy(f->y + f->order[t] * f->y_stride + b.row, b.y + t * b.stride, b.rows * sizeof *b.y);
}

static tn_status rows_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct job *job = arg;
	const struct part *part = job->part;
	(void)err;
	for (; task >= part->tasks; part++)
		task -= part->tasks;
	multiply(job, part, (size_t)task, job->workers + worker * job->worker_bytes);
	return TN_OK;
}

/* ---- both ------------------------------------------------------------------------------------------------ */

static void run_tasks(struct job *job, tn_status (*run)(void *, uint64_t, unsigned, struct tn_error *), uint64_t count,
		      int in_stretches, int small)
{
	struct tn_work work = { .task_count = count, .in_stretches = in_stretches, .run = run, .arg = job };
	if (!small) {
		tn_pool_run(job->part[0].f->linear->ctx, &work, NULL); /* tasks do not fail */
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		run(job, i, 0, NULL);
}

/* Forwards for which x is prepared alike. */
static void run_alike(const struct tn_forward *forwards, size_t count, unsigned char *scratch)
{
	const struct pieces pieces = cut_scratch(forwards, count, 0);
	const size_t in = forwards->linear->in, m = forwards->m;
	struct job job = { .kernels = forwards->linear->ctx->kernels, .prepared = scratch,
			   .prepare_tasks = tn_ceil_div(m, X_CHUNK),
			   .product_bytes = pieces.product, .worker_bytes = pieces.product + pieces.rows,
			   .workers = scratch + pieces.prepared + pieces.t };
	unsigned char *t = scratch + pieces.prepared;
	size_t tasks = 0, shrink_tasks = 0, rank = 0, out = 0;
	for (size_t i = 0; i < count; i++) {
		const struct tn_forward *f = &forwards[i];
		struct part *part = &job.part[i];
		part->f = f;
		part->format = tn_linear_format(f->linear, f->expert);
		part->product = (struct tn_product){ &part->format, in, m, forwards->precision, forwards->x_dtype };
		part->block = block_rows(f->linear, m);
		part->tasks = tn_ceil_div(f->linear->out, part->block);
		part->shrink_tasks = tn_ceil_div(m, X_CHUNK) * tn_ceil_div(f->rank, RANK_CHUNK);
		part->t = (float *)(void *)t;
		t += pad(m * f->rank * sizeof(float));
		tasks += part->tasks;
		shrink_tasks += part->shrink_tasks;
		rank += f->rank;
		out += f->linear->out;
	}
	const size_t apart = job.prepare_tasks > 1 ? m : 0; /* x that more than one task prepares */
	run_tasks(&job, begin_task, job.prepare_tasks + shrink_tasks, 0, m * rank + apart <= SMALL_SHRINK / in);
	run_tasks(&job, rows_task, tasks, 1, m * out <= SMALL / in);
}

static int is_prepared_alike(const struct tn_forward *a, const struct tn_forward *b)
{
	const struct tn_format *f = &a->linear->format, *g = &b->linear->format;
	return f->codec == g->codec && f->dtype == g->dtype && f->bits == g->bits && f->group == g->group &&
	       f->like_mlx == g->like_mlx && f->code_kind == g->code_kind;
}

void tn_forward_run(const struct tn_forward *forwards, size_t count, void *scratch)
{
	for (size_t first = 0, n; forwards->m && first < count; first += n) {
		for (n = 1; first + n < count && is_prepared_alike(&forwards[first], &forwards[first + n]); n++)
			continue;
		run_alike(forwards + first, n, scratch);
	}
}
