/* Reading an adapter for a live base. */
#ifndef TN_LIVE_ATTACH_H
#define TN_LIVE_ATTACH_H

#include "adapter/land.h"
#include "live/live.h"

/* A slot of the joint as it is kept: the delta's rows in groups, each group with an A of its own. */
struct tn_kept {
	struct tn_pair pair, removed;
	size_t group_rows, cols;
	const float *values;       /* TN_SLOT_TOKENS */
	const float *row_gain, *column_gain;
};

/* A whole tensor of the adapter's file in memory. */
struct tn_read_tensor {
	const struct tn_tensor *tensor;
	const unsigned char *bytes;
};

struct tn_attach {
	struct tn_live *live;
	struct tn_attached *attached;
	struct tn_joint *joint;
	struct tn_kept *kept;      /* [slots] */
	size_t *modules;           /* [targets]: tn_attach_module */
	struct tn_factor_read *factors; /* plain ones: room for two of each slot */
	size_t factor_count;
	struct tn_read_tensor *read; /* room for one of each target */
	size_t read_count;
};

/* The module that a target is; the head that is made of the embedding's bytes is the tied one. TN_LIVE_NONE: it is none. */
size_t tn_attach_module(const struct tn_attach *attach, const struct tn_target *target);
/* The matrix that landings on a module's target count on: the base's, or what the adapter brings in its place. */
tn_status tn_attach_linear(struct tn_attach *attach, const struct tn_target *target, struct tn_linear *out,
			   struct tn_error *err);

/* What magnitudes come to on this base: the gain of each row, or of each column. */
tn_status tn_attach_gains(struct tn_attach *attach, const struct tn_slot *slot, const struct tn_delta *delta,
			  struct tn_kept *kept, struct tn_error *err);
/* A matrix of the adapter's file that stands in for the base's. */
tn_status tn_attach_replacement(struct tn_attach *attach, const struct tn_target *target, struct tn_edits *edits,
				struct tn_error *err);
/* A small tensor that the adapter replaces or adds to. */
tn_status tn_attach_tensor(struct tn_attach *attach, const struct tn_target *target, size_t tensor, struct tn_error *err);

#endif
