/* A live base from inside: its modules and small tensors, what an attached adapter does to them, and snapshots of all. */
#ifndef TN_LIVE_LIVE_H
#define TN_LIVE_LIVE_H

#include "base/arena.h"
#include "base/map.h"
#include "linear/linear.h"
#include "live/factor_memory.h"
#include "tenon/live.h"
#include "weights/foreign.h"
#include "weights/matrix.h"

#include <pthread.h>
#include <stdatomic.h>

/* A matrix or stack of the base. */
struct tn_live_module {
	const char *path;
	const struct tn_tensor *weight;
	struct tn_matrix matrix;
	struct tn_linear linear;       /* without bias: that is a tensor, which adapters change */
	int is_transposed;             /* stored [in, out]; `linear` has a copy that is not */
	size_t bias;                   /* tensor: one of the base, or the place of its own behind those */
};

/* A small tensor as float32. */
struct tn_live_tensor {
	const char *name;
	uint64_t elements;
	const float *values;
};

/* What one set does to one module. Immutable. */
struct tn_edits {
	const struct tn_patch *patches;
	const size_t *first;           /* [experts + 1] into patches; NULL: all are those of the one matrix */
	size_t count;                  /* of patches */
	size_t rank;                   /* largest sum of ranks of an expert */
	const struct tn_linear *replacement; /* stands in for the base's; NULL: none */
};

/* A small tensor as one adapter leaves it. */
struct tn_own_tensor {
	size_t tensor;
	const float *values;           /* the result when it is alone */
	const float *added;            /* what it adds; NULL: it replaces */
};

/* An adapter in memory. Shared by snapshots; freed with the last of them. */
struct tn_attached {
	_Atomic size_t references;
	struct tn_arena arena;         /* holds this struct too */
	const char *name;
	const tn_adapter *adapter;     /* open for as long as it is attached; snapshots do not use it */
	double weight;
	uint64_t serial;
	const struct tn_edits **edits; /* [modules]; NULL: none */
	struct tn_own_tensor *tensors; /* in the order of tensors */
	size_t tensor_count;
	struct tn_live *live;
	struct tn_factor_memory factors; /* those that stand as in the file */
	struct tn_buffer *buffers;     /* other factors, gains, replacements */
	size_t buffer_count, buffer_room;
	uint64_t bytes;                /* of buffers and lists */
};

/* A module as the default set leaves it, in the form of the base. Shared by snapshots. */
struct tn_merged {
	_Atomic size_t references;
	struct tn_buffer memory;
	struct tn_linear linear;
	struct tn_edits edits;         /* the linear in place of the base's */
};
void tn_merged_release(tn_context *ctx, struct tn_merged *merged);

struct tn_snapshot_entry {
	struct tn_attached *attached;
	int enabled;
};

struct tn_snapshot {
	_Atomic size_t references;
	struct tn_snapshot *next;      /* among the retired */
	struct tn_live *live;
	struct tn_arena arena;         /* holds this struct too */
	uint64_t bytes;
	struct tn_snapshot_entry *entries;
	size_t count;
	const struct tn_attached **enabled; /* the default set, in the order of entries */
	size_t enabled_count;
	const struct tn_edits **edits; /* [modules] of the default set */
	const float **tensors;         /* [tensors + modules] of the default set */
	struct tn_merged **merged;     /* [modules]; NULL: none is */
	uint64_t identity;
};

struct tn_live {
	tn_context *ctx;
	const tn_checkpoint *base;
	struct tn_arena arena;         /* holds this struct too */
	enum tn_precision precision;
	unsigned pause_us;
	struct tn_foreign_set *foreign; /* modules of the base that other libraries packed */
	struct tn_buffer *unpacked;    /* their parts */
	size_t unpacked_count;
	struct tn_map *maps;           /* [shards] */
	struct tn_live_module *modules; /* in the order of paths */
	size_t module_count;
	struct tn_live_tensor *tensors; /* in the order of names; behind them, one for each module, the biases that the base
	                                * does not have: without values */
	size_t tensor_count;
	size_t embedding, head;        /* modules of one matrix, where the two are tied; else TN_LIVE_NONE */
	pthread_mutex_t change;        /* held by whoever attaches, detaches, enables or swaps */
	pthread_mutex_t publish;       /* guards `current` for the moment of taking or replacing it */
	struct tn_snapshot *current;
	struct tn_factor_store store;
	struct tn_joint *joint;        /* on which no adapter has landed; made for the first, with `change` held */
	struct tn_arena joint_arena;
	struct tn_snapshot *_Atomic retired; /* released by all, not yet freed: that is not for a thread that computes */
	uint64_t next_serial;
};

/* Adds the modules that other libraries packed, unpacked into memory. */
tn_status tn_live_unpack(struct tn_live *live, struct tn_error *err);

/* Where adapters land on the base; `change` is held. */
tn_status tn_live_land(struct tn_live *live, const struct tn_weighted_adapter *adapters, size_t count, struct tn_arena *arena,
		       struct tn_joint **out, struct tn_error *err);

/* Where a byte of a tensor of the base stands. */
const unsigned char *tn_live_bytes(const struct tn_live *live, const struct tn_tensor *tensor);
/* The module of that tensor of the base (a tied head has the embedding's), or TN_LIVE_NONE. */
size_t tn_live_module_of(const struct tn_live *live, const char *tensor_name);

/* ---- attached adapters ----------------------------------------------------------------------------------- */

/* Reads an adapter. It has one reference. */
tn_status tn_attached_make(struct tn_live *live, const char *name, const tn_adapter *adapter, double weight,
			   struct tn_attached **out, struct tn_error *err);
void tn_attached_release(struct tn_attached *attached);
/* Memory for its plain factors, 0 bytes for none. */
tn_status tn_attached_factors(struct tn_attached *attached, uint64_t bytes, void **out, struct tn_error *err);
/* A buffer that lives as long. */
tn_status tn_attached_buffer(struct tn_attached *attached, size_t bytes, const char *what, void *out, struct tn_error *err);

/* ---- snapshots ------------------------------------------------------------------------------------------- */

/* A snapshot of those entries, with one reference; it holds each adapter. `merged` [modules] may be NULL, and so may each. */
tn_status tn_snapshot_make(struct tn_live *live, const struct tn_snapshot_entry *entries, size_t count,
			   struct tn_merged *const *merged, struct tn_snapshot **out, struct tn_error *err);
/* Makes it the present one, and lets the former go. */
void tn_live_publish(struct tn_live *live, struct tn_snapshot *snapshot);
/* Frees the adapters and snapshots that only released snapshots still held. */
void tn_live_free_retired(struct tn_live *live);
/* What a set does: adapter is an index, TN_LIVE_DEFAULT or TN_LIVE_BASE. NULL: nothing. */
const struct tn_edits *tn_snapshot_edits(const struct tn_snapshot *snapshot, size_t module, size_t adapter);

/* apply.c: calls with the same x, m and rows' adapters, at most TN_MOST_TOGETHER, as one piece of work where the adapters allow it.
 * Scratch: the most of together_bytes and of what each alone needs. */
size_t tn_snapshot_together_bytes(const tn_snapshot *s, const size_t *modules, size_t count, size_t m);
void tn_snapshot_forward_together(const tn_snapshot *s, const struct tn_live_call *calls, size_t count, void *scratch);

#endif
