/* The plan of a fuse from inside. */
#ifndef TN_FUSE_H
#define TN_FUSE_H

#include "adapter/adapter.h"
#include "tenon/transform.h"
#include "transform/blocks.h"

enum { TN_NO_LANDING = -1 };

/* One tensor in the order of the input's bytes; item i of the blocks. */
struct tn_fuse_step {
	const struct tn_tensor *tensor;
	int64_t landing;            /* in tn_fuse.landings, or TN_NO_LANDING */
};

struct tn_fuse {
	tn_context *ctx;
	struct tn_arena arena;      /* holds this struct too */
	const tn_checkpoint *base;
	const tn_adapter *adapter;
	struct tn_planned_tensor *planned;   /* in the order of names */
	struct tn_fuse_step *steps;          /* in the order of shards and offsets */
	size_t count;
	struct tn_landing *landings;         /* in the order of tensor names */
	size_t landing_count;
};

/* Cuts the steps into blocks for this context's budget. blocks->items comes from the arena. */
tn_status tn_fuse_cut(const struct tn_fuse *fuse, struct tn_arena *arena, struct tn_blocks *blocks, struct tn_error *err);

#endif
