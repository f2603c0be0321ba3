/* Cutting work into blocks that fit the memory budget, and running them.
 *
 * An item is a run of equal units: the rows of a matrix, or the bytes of a tensor that is only copied or compared. A block
 * is a run of units of one item. Blocks are independent and any thread may do any of them.
 */
#ifndef TN_BLOCKS_H
#define TN_BLOCKS_H

#include "base/arena.h"

struct tn_block_item {
	uint64_t units;
	uint64_t unit_bytes;      /* of a block buffer, for each unit */
	uint64_t fixed_bytes;     /* of scratch beside the block buffer, whatever the number of units */
	uint64_t shared_bytes;    /* memory that the item needs while any of its blocks is being worked on */
	uint64_t work_bytes;      /* for the progress: each unit's share of reading and writing, times units */
	uint64_t alignment;       /* blocks begin at a multiple of this: units in between share bytes. 0: any */
	/* set by tn_blocks_cut */
	uint64_t first_block, units_per_block;
};

struct tn_blocks {
	struct tn_block_item *items;
	size_t item_count;
	int waits;                /* for files, read and written: some blocks wait while others compute. Set before they are cut */
	/* set by tn_blocks_cut */
	uint64_t block_count;
	unsigned workers;         /* threads */
	unsigned places;          /* blocks under way at once; no fewer */
	uint64_t scratch_bytes;   /* for each of them; a multiple of 64 */
	uint64_t memory_bytes;    /* all that the run will hold at most */
	uint64_t work_bytes;
};

/* Chooses block sizes and numbers of workers and places within the budget of the context. TN_E_NOMEM when one worker with blocks of
 * one unit does not fit; `what` names the job. */
tn_status tn_blocks_cut(tn_context *ctx, struct tn_blocks *blocks, const char *what, struct tn_error *err);

struct tn_block {
	size_t item;
	uint64_t first, count;    /* units */
	uint64_t number;          /* among all blocks */
};

/* Runs `work` on every block, with scratch of blocks->scratch_bytes aligned to 64, and reports progress as `phase`. */
struct tn_block_work {
	/* What computes, of no more blocks at once than the context has threads. A block has its scratch through all three stages,
	 * on one thread or on several, and result_bytes of zeros for what it finds. */
	tn_status (*run)(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err);
	/* Before and behind that, for work that waits. Each of the three may be NULL. */
	tn_status (*read)(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err);
	tn_status (*write)(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err);
	void *arg;
	const char *phase;
	size_t result_bytes;
	/* Gets the results in the order of the blocks, one at a time: sums do not depend on threads, and nothing is kept for a
	 * block. May be NULL. */
	void (*fold)(void *arg, const struct tn_block *block, const void *result);
	/* Called by any thread after results were folded, to do what takes long. May be NULL. */
	tn_status (*follow)(void *arg, struct tn_error *err);
};
tn_status tn_blocks_run(tn_context *ctx, const struct tn_blocks *blocks, const struct tn_block_work *work,
			struct tn_error *err);
/* The same for the blocks of some items, from `first` to before `end`. *done, the progress so far, goes on. */
tn_status tn_blocks_run_items(tn_context *ctx, const struct tn_blocks *blocks, const struct tn_block_work *work, size_t first,
			      size_t end, uint64_t *done, struct tn_error *err);

#endif
