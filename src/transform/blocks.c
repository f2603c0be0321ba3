/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/blocks.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "transform/stages.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Large enough that a system call is nothing beside it, small enough to stay in the caches of a few cores. */
enum { BLOCK_BYTES = 4 << 20, SMALLEST_BLOCK_BYTES = 64 << 10 };
/* Buffers of the largest blocks lie in large pages: a disk is given 4 MiB as two or three pieces and not as a thousand, which
 * doubles the rate of a fast one. */
enum { LARGE_PAGE = 2 << 20 };
/* Of the sizes that are tried, those that are worth waiting for. */
enum { LARGE_SIZES = 2 };
/* Beside those that threads are at: they have been computed, and the disk is not done with others. */
enum { SPARE_PLACES = 2 };

/* ---- cutting --------------------------------------------------------------------------------------------- */

static uint64_t units_for(const struct tn_block_item *item, uint64_t block_bytes)
{
	uint64_t units = item->unit_bytes ? block_bytes / item->unit_bytes : item->units, least = tn_max_u64(item->alignment, 1);
	units = tn_max_u64(least, units - units % least);
	return tn_max_u64(1, tn_min_u64(units, item->units));
}

/* What one block needs with blocks of that size: scratch, and the shared memory of the item it works on. */
static tn_status measure(const struct tn_blocks *blocks, uint64_t block_bytes, uint64_t *scratch, uint64_t *shared,
			 struct tn_error *err)
{
	*scratch = *shared = 0;
	for (size_t i = 0; i < blocks->item_count; i++) {
		const struct tn_block_item *item = &blocks->items[i];
		uint64_t bytes;
		if (item->units == 0)
			continue;
		if (tn_mul_u64(units_for(item, block_bytes), item->unit_bytes, &bytes) ||
		    tn_add_u64(bytes, item->fixed_bytes, &bytes) || tn_add_u64(bytes, -bytes % 64, &bytes))
			return tn_fail(err, TN_E_LIMIT, "rows", "a row of 2^64 bytes cannot be worked on");
		*scratch = tn_max_u64(*scratch, bytes);
		*shared = tn_max_u64(*shared, item->shared_bytes);
	}
	return TN_OK;
}

/* Large pages begin and end outside of the buffers. */
static uint64_t slack_for(uint64_t all_scratch)
{
	return all_scratch >= 2 * LARGE_PAGE ? 2 * LARGE_PAGE : 0;
}

/* Of so many at once, all in all. */
static int memory_of(unsigned places, uint64_t scratch, uint64_t shared, uint64_t *bytes)
{
	return tn_mul_u64(scratch, places, &scratch) || tn_mul_u64(shared, places, &shared) ||
	       tn_add_u64(scratch, slack_for(scratch), bytes) || tn_add_u64(*bytes, shared, bytes);
}

/* Fewer at once cost speed, smaller blocks nearly nothing: shrink the blocks first, to a size that is still cheap. */
static tn_status choose(tn_context *ctx, struct tn_blocks *blocks, const char *what, uint64_t *block_bytes,
			struct tn_error *err)
{
	uint64_t budget = ctx->memory_budget_bytes, scratch, shared, need = 0;
	uint64_t sizes[] = { BLOCK_BYTES, BLOCK_BYTES / 4, SMALLEST_BLOCK_BYTES, 1 };
	size_t all = sizeof sizes / sizeof *sizes;
	unsigned threads = tn_pool_workers(ctx), most = blocks->waits ? tn_pool_most(ctx) : threads;
	for (unsigned places = most > threads ? most + SPARE_PLACES : threads; places > 0; places--)
		for (size_t i = 0; i < (places > threads ? LARGE_SIZES : all); i++) {
			TN_TRY(measure(blocks, sizes[i], &scratch, &shared, err));
			if (memory_of(places, scratch, shared, &need) || need > budget)
				continue;
			*block_bytes = sizes[i];
			blocks->places = places;
			blocks->workers = places < most ? places : most;
			blocks->scratch_bytes = scratch;
			blocks->memory_bytes = need;
			return TN_OK;
		}
	return tn_fail(err, TN_E_NOMEM, what, "%s needs %llu bytes of memory even with one thread, and the budget is %llu; "
		       "raise it", what, (unsigned long long)need, (unsigned long long)budget);
}

tn_status tn_blocks_cut(tn_context *ctx, struct tn_blocks *blocks, const char *what, struct tn_error *err)
{
	uint64_t block_bytes = 0;
	TN_TRY(choose(ctx, blocks, what, &block_bytes, err));
	blocks->block_count = 0;
	blocks->work_bytes = 0;
	for (size_t i = 0; i < blocks->item_count; i++) {
		struct tn_block_item *item = &blocks->items[i];
		item->first_block = blocks->block_count;
		item->units_per_block = units_for(item, block_bytes);
		blocks->block_count += tn_ceil_div(item->units, item->units_per_block);
		blocks->work_bytes += item->work_bytes;
	}
	return TN_OK;
}

/* ---- running --------------------------------------------------------------------------------------------- */

struct run {
	tn_context *ctx;
	const struct tn_blocks *blocks;
	const struct tn_block_work *work;
	struct tn_buffer scratch;    /* of all places */
	uint64_t first_block;
	_Atomic uint64_t done_bytes;
	int64_t next_report_ns;
};

/* The last item whose first block is not behind `number`; items without blocks share the number of the next. */
static size_t item_of(const struct tn_blocks *blocks, uint64_t number)
{
	size_t low = 0, high = blocks->item_count - 1;
	while (low < high) {
		size_t middle = low + (high - low + 1) / 2;
		if (blocks->items[middle].first_block <= number)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

static struct tn_block block_of(struct run *run, uint64_t number)
{
	const struct tn_blocks *blocks = run->blocks;
	size_t i = item_of(blocks, number);
	const struct tn_block_item *item = &blocks->items[i];
	uint64_t first = (number - item->first_block) * item->units_per_block;
	return (struct tn_block){ i, first, tn_min_u64(item->units_per_block, item->units - first), number };
}

static void fold(void *arg, uint64_t task, const void *result)
{
	struct run *run = arg;
	struct tn_block block = block_of(run, run->first_block + task);
	if (run->work->fold)
		run->work->fold(run->work->arg, &block, result);
}

static tn_status follow(void *arg, struct tn_error *err)
{
	struct run *run = arg;
	return run->work->follow ? run->work->follow(run->work->arg, err) : TN_OK;
}

static unsigned char *scratch_of(const struct run *run, unsigned place)
{
	unsigned char *first = run->scratch.data;
	if (slack_for(run->blocks->places * run->blocks->scratch_bytes))
		first += -(uintptr_t)first % LARGE_PAGE;
	return first + place * run->blocks->scratch_bytes;
}

static tn_status run_stage(void *arg, enum tn_stage stage, const struct tn_stage_task *task, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_block_work *work = run->work;
	tn_status (*const stages[TN_STAGES])(void *, const struct tn_block *, void *, void *, struct tn_error *) = {
		work->read, work->run, work->write
	};
	struct tn_block block = block_of(run, run->first_block + task->number);
	const struct tn_block_item *item = &run->blocks->items[block.item];
	if (stages[stage])
		TN_TRY(stages[stage](work->arg, &block, scratch_of(run, task->place), task->result, err));
	if (stage == TN_STAGE_WRITE) /* an item's bytes over its units, without overflow: blocks are small */
		atomic_fetch_add(&run->done_bytes,
				 (uint64_t)((double)item->work_bytes / (double)item->units * (double)block.count));
	return TN_OK;
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static tn_status report(struct run *run, uint64_t done, struct tn_error *err)
{
	struct tn_progress progress = { tn_min_u64(done, run->blocks->work_bytes), run->blocks->work_bytes, run->work->phase };
	if (run->ctx->progress && run->ctx->progress(run->ctx->progress_user, &progress) != 0)
		return tn_fail(err, TN_E_CANCELLED, run->work->phase, "%s was stopped", run->work->phase);
	return TN_OK;
}

static tn_status tick(void *arg, struct tn_error *err)
{
	struct run *run = arg;
	int64_t now = now_ns();
	if (now < run->next_report_ns)
		return TN_OK;
	run->next_report_ns = now + 100 * 1000 * 1000;
	return report(run, atomic_load(&run->done_bytes), err);
}

static tn_status allocate(struct run *run, struct tn_error *err)
{
	tn_context *ctx = run->ctx;
	unsigned places = run->blocks->places;
	uint64_t bytes = places * run->blocks->scratch_bytes, slack = slack_for(bytes);
	TN_TRY(tn_buffer_alloc(ctx, (size_t)(bytes + slack), "scratch", &run->scratch, err));
	if (slack) /* a wish */
		madvise(scratch_of(run, 0), tn_align_up((size_t)bytes, LARGE_PAGE), MADV_HUGEPAGE);
	return TN_OK;
}

static tn_status run_blocks(struct run *run, uint64_t count, struct tn_error *err)
{
	struct tn_stage_work stages = { .task_count = count, .workers = run->blocks->workers, .places = run->blocks->places,
					.result_bytes = run->work->result_bytes, .run = run_stage, .fold = fold,
					.follow = follow, .tick = tick, .arg = run };
	TN_TRY(allocate(run, err));
	tn_status status = tn_stages_run(run->ctx, &stages, err);
	tn_buffer_release(run->ctx, &run->scratch);
	return status;
}

tn_status tn_blocks_run(tn_context *ctx, const struct tn_blocks *blocks, const struct tn_block_work *work,
			struct tn_error *err)
{
	struct run run = { .ctx = ctx, .blocks = blocks, .work = work };
	TN_TRY(run_blocks(&run, blocks->block_count, err));
	return report(&run, blocks->work_bytes, err);
}

tn_status tn_blocks_run_items(tn_context *ctx, const struct tn_blocks *blocks, const struct tn_block_work *work, size_t first,
			      size_t end, uint64_t *done, struct tn_error *err)
{
	struct run run = { .ctx = ctx, .blocks = blocks, .work = work, .done_bytes = *done };
	uint64_t end_block = end < blocks->item_count ? blocks->items[end].first_block : blocks->block_count;
	if (first == end)
		return TN_OK;
	run.first_block = blocks->items[first].first_block;
	TN_TRY(run_blocks(&run, end_block - run.first_block, err));
	*done = atomic_load(&run.done_bytes);
	return report(&run, *done, err);
}
