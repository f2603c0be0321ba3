/* The plan of a fuse from inside. */
#ifndef TN_FUSE_H
#define TN_FUSE_H

#include "adapter/land.h"
#include "base/text.h"
#include "tenon/transform.h"
#include "transform/blocks.h"
#include "transform/edit.h"

/* One tensor of the result in the order of the input's bytes; item i of the blocks. */
struct tn_fuse_step {
	size_t target;              /* in the joint */
	const struct tn_tensor *result;
	struct tn_edit_form form;
};

struct tn_fuse {
	tn_context *ctx;
	struct tn_arena arena;      /* holds this struct too */
	const tn_checkpoint *base;
	const tn_adapter *adapter;
	struct tn_joint *joint;
	struct tn_planned_tensor *planned;   /* in the order of names, as the joint's targets */
	struct tn_fuse_step *steps;          /* in the order of shards and offsets */
	size_t count, changed_count;
};

/* Cuts the steps into blocks for this context's budget. blocks->items comes from the arena. With `compare` the work of a
 * verification is cut: the merged rows take room beside the base's. */
tn_status tn_fuse_cut(const struct tn_fuse *fuse, int compare, struct tn_arena *arena, struct tn_blocks *blocks,
		      struct tn_error *err);

/* The base's config.json with what the adapter changes in it; empty when the base has none. */
tn_status tn_fuse_config(const struct tn_fuse *fuse, struct tn_text *out, struct tn_error *err);

#endif
