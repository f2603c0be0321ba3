/* tenon/live.h - a base with adapters that come and go while it computes: nothing is fused, the base never moves.
 *
 *   y = row_scale * (W x + s * B (A x)) + bias      for every module, every row with adapters of its own
 *
 * Sources. What attaching, swapping and merging do is that of mlx-swift-lm (MLXLMCommon/Adapters: LoRAContainer, LoRALayer) and
 * of PEFT 0.21 (set_adapter, disable_adapter, adapter_names); which module an adapter changes, and how, is decided where
 * fuse decides it, so a forward agrees with the fused checkpoint.
 *
 * Words. A module is a matrix [out, in] of the base, or a stack of experts [experts, out, in]; its path is its name without
 * `.weight`. A set is what a row computes with: one adapter, none, or the default set: all that are enabled, with their
 * weights, added up. A snapshot is the base with its adapters at one moment.
 *
 * Threads. Attaching, detaching, enabling and swapping may be called by any thread; they wait for each other, and publish a
 * new snapshot when they are done. A computation takes a snapshot, computes with it for as long as it likes, and releases it:
 * it takes no lock, never sees a change, and frees nothing: what a snapshot alone still held is freed by the next change, or by
 * tn_live_collect.
 *
 * Memory. The shards of the base are mapped read-only: its bytes are the system's and shared by all processes; modules
 * that another library packed are on the heap of the context (4 to 6 bits a weight in MLX's layout, else 16). An adapter
 * takes the bytes of its factors, in the dtype of its file. Files of a base must not be rewritten in place while it is live
 * (replacing them by renaming is fine): a file that becomes shorter ends the process with SIGBUS.
 *
 * Numerics. Those of tenon/linear.h: float32 sums, the same bits for any number of threads.
 */
#ifndef TENON_LIVE_H
#define TENON_LIVE_H

#include "tenon/adapter.h"
#include "tenon/base.h"
#include "tenon/checkpoint.h"
#include "tenon/linear.h"
#include "tenon/transform.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_live tn_live;
typedef struct tn_snapshot tn_snapshot;

#define TN_LIVE_NONE ((size_t)-1)      /* no such module, tensor or adapter */
#define TN_LIVE_DEFAULT ((size_t)-2)   /* of a row: the default set */
#define TN_LIVE_BASE ((size_t)-3)      /* of a row: no adapter */
#define TN_LIVE_ALL ((size_t)-4)       /* of modules: all that the default set changes */

/* ---- the base -------------------------------------------------------------------------------------------- */

/* Start from TN_LIVE_OPTIONS_INIT. */
struct tn_live_options {
	size_t struct_bytes;
	tn_activations activations;    /* how exactly activations enter products with the base */
	unsigned pause_us;             /* after every 256 KB of factors that it reads and at their end, the thread that attaches or
	                                * swaps sleeps so many microseconds: the memory is for those that compute then. 0: it
	                                * never does */
};
#define TN_LIVE_OPTIONS_INIT { sizeof(struct tn_live_options), TN_ACTIVATIONS_F32, 0 }

/* Maps the shards of a base, which stays the caller's and open until tn_live_close. `options` may be NULL.
 * Modules that another library packed (docs/foreign.md) are unpacked into memory: in MLX's layout where that holds the same
 * values (AWQ, GPTQ in order, packed integers, MXFP4, MXFP8 by 32), else as codes with float32 scales (nf4, fp4, int8, E4M3,
 * NVFP4), else dense in the dtype that their library decodes to.
 * Errors: TN_E_IO: a shard cannot be mapped. Those of reading config.json and packed modules. */
TN_API tn_status tn_live_open(const tn_checkpoint *base, const struct tn_live_options *options, tn_live **out,
			      struct tn_error *err);
/* Detaches everything. Every snapshot must have been released. NULL allowed. */
TN_API void tn_live_close(tn_live *live);

struct tn_module_shape {
	uint64_t experts;              /* 0: no stack */
	uint64_t out_features, in_features; /* a table of vectors [vocabulary, width] has out = vocabulary, in = width */
	int has_bias;
};

/* The module of that path: of `<path>.weight`, or of a tensor `<path>` (stacks of experts). TN_LIVE_NONE: there is none. Where
 * config.json ties the head to the embedding, or where there is no head, "lm_head" (also behind "language_model.") is a module
 * of its own with the embedding's matrix: adapters that untie it change it alone, all others change both. */
TN_API size_t tn_live_module(const tn_live *live, const char *path);
TN_API size_t tn_live_module_count(const tn_live *live);
TN_API const char *tn_live_module_path(const tn_live *live, size_t module);
TN_API void tn_live_shape(const tn_live *live, size_t module, struct tn_module_shape *out);

/* Says that a dense matrix is stored [in, out], as GPT-2's Conv1D has it, and turns it round: [out, in] for shapes, products
 * and adapters alike. Takes a copy of the matrix in memory. Called before anything is attached and any snapshot is taken.
 * TN_E_ARG: there is no such module, it is no dense matrix, or something is attached. */
TN_API tn_status tn_live_transpose(tn_live *live, size_t module, struct tn_error *err);

/* A small float tensor of the base that is no module: a bias, one of at most one dimension, or of at most 65536 elements.
 * TN_LIVE_NONE: no such. */
TN_API size_t tn_live_tensor(const tn_live *live, const char *name);

/* ---- adapters -------------------------------------------------------------------------------------------- */

/* Reads the adapter's factors and adds it to the default set, beside those that are there. `name` is the caller's, copied,
 * and must be new; `weight` is a factor beside the adapter's own scale. The adapter must stay open until it is detached.
 * Errors, and then nothing has changed: those of fusing it (it does not fit the base); those of fusing it with the others of
 * the default set (what meets must be plain products of factors); TN_E_EXISTS: the name is taken; TN_E_ARG: the weight is not
 * finite. */
TN_API tn_status tn_live_attach(tn_live *live, const char *name, const tn_adapter *adapter, double weight,
				struct tn_error *err);
/* The same without adding it to the default set: for rows that choose it, or to be enabled later. */
TN_API tn_status tn_live_attach_disabled(tn_live *live, const char *name, const tn_adapter *adapter, double weight,
					 struct tn_error *err);
/* TN_E_NOTFOUND: no adapter of that name. TN_E_ARG: it is enabled, and modules are merged (see below), so the default set cannot
 * change. Nothing else can fail but memory. */
TN_API tn_status tn_live_detach(tn_live *live, const char *name, struct tn_error *err);
/* In the default set or not. TN_E_NOTFOUND; on enabling, what cannot be added up as in tn_live_attach. */
TN_API tn_status tn_live_enable(tn_live *live, const char *name, int enabled, struct tn_error *err);
/* Detaches `old_name` and attaches the adapter in one step: no snapshot has both or none of the two. The names may be equal.
 * The new one is enabled if the old one was. */
TN_API tn_status tn_live_swap(tn_live *live, const char *old_name, const char *name, const tn_adapter *adapter, double weight,
			      struct tn_error *err);

/* Frees what only released snapshots still held: adapters that were detached or swapped out while a thread computed with them.
 * Every change above does that too when it is done, and a thread that computes never does. A swap keeps the memory of the
 * factors that went for those of the next adapter; this, and detaching, gives it back. */
TN_API void tn_live_collect(tn_live *live);

/* ---- merging --------------------------------------------------------------------------------------------- */

/* Writes what the default set makes of a module (TN_LIVE_ALL: of every one that it changes) into memory: in the form of the
 * base, the bytes that a fuse of the same adapters writes; modules that another library packed become dense, two bytes a weight,
 * the bytes of a fuse that dequantizes. From then on products of the default set use that in place of
 * factors, and the set cannot change; rows that choose the base or one adapter are computed as before. Biases and tensors that
 * are replaced whole stay as they are live.
 * Errors: TN_E_EXISTS: it is merged already. TN_E_ARG: there is no such module, or the default set does not change it.
 * TN_E_UNSUPPORTED: an adapter replaces it whole, so that there is nothing to merge. Those of a fuse. */
TN_API tn_status tn_live_merge(tn_live *live, size_t module, struct tn_error *err);
/* Back to base and factors: the base's bytes were never touched. TN_E_NOTFOUND: it is not merged. TN_E_ARG: no such module. */
TN_API tn_status tn_live_unmerge(tn_live *live, size_t module, struct tn_error *err);

/* Fuses the default set into a new checkpoint: tn_fuse_plan with its defaults, and tn_fuse_run. TN_E_ARG: the set is empty. */
TN_API tn_status tn_live_fuse(tn_live *live, const char *save_path, unsigned flags, struct tn_error *err);

/* ---- snapshots ------------------------------------------------------------------------------------------- */

/* The present state. Never fails and does not wait for a change in progress. */
TN_API tn_snapshot *tn_live_snapshot(tn_live *live);
TN_API void tn_snapshot_release(tn_snapshot *snapshot);   /* NULL allowed */

/* An attached adapter, as it stands in a snapshot. */
struct tn_attachment {
	const char *name;
	double weight;
	int enabled;
	uint64_t bytes;                /* of memory that it takes */
};
TN_API int tn_snapshot_is_merged(const tn_snapshot *snapshot, size_t module);
TN_API size_t tn_snapshot_count(const tn_snapshot *snapshot);
TN_API void tn_snapshot_at(const tn_snapshot *snapshot, size_t i, struct tn_attachment *out);
/* Its index in this snapshot, for rows that choose it. TN_LIVE_NONE: it is not attached. */
TN_API size_t tn_snapshot_adapter(const tn_snapshot *snapshot, const char *name);
/* A number for base and set: equal for two snapshots of one tn_live when the same is computed. A key for caches of keys and
 * values. `adapter` is an index, TN_LIVE_DEFAULT or TN_LIVE_BASE. */
TN_API uint64_t tn_snapshot_identity(const tn_snapshot *snapshot, size_t adapter);
/* Bytes that the snapshot itself takes, merged modules included, without its adapters. */
TN_API uint64_t tn_snapshot_bytes(const tn_snapshot *snapshot);

/* ---- computing ------------------------------------------------------------------------------------------- */

struct tn_live_call {
	size_t module;
	size_t m;                      /* rows */
	const float *x;                /* [m, in] */
	size_t x_stride;               /* from row to row, in elements */
	float *y;                      /* [m, out] */
	size_t y_stride;
	const size_t *adapter_of_row;  /* [m]: an index, TN_LIVE_DEFAULT or TN_LIVE_BASE; NULL: the default set for all */
	uint64_t expert;               /* of a stack; else 0 */
	tn_dtype x_dtype;              /* BF16 or F16: every x is a value of that dtype, and products may be quicker for it; others
	                                * promise nothing */
};

/* Bytes of scratch for a call of at most m rows with this snapshot: the caller's, one for each thread that computes. */
TN_API size_t tn_snapshot_scratch_bytes(const tn_snapshot *snapshot, size_t module, size_t m);

/* One product. Rows with the same set are computed together, whatever their order. No allocation, no lock; arguments are
 * not checked. */
TN_API void tn_snapshot_forward(const tn_snapshot *snapshot, const struct tn_live_call *call, void *scratch);

/* The module as a table of vectors: y[t] = row ids[t], below out_features, as the set has it. y [m, in]. The rows of a stack
 * are those of all experts, one behind the other. */
TN_API void tn_snapshot_embed(const tn_snapshot *snapshot, size_t module, const uint32_t *ids, size_t m,
			      const size_t *adapter_of_row, float *y, size_t y_stride);

/* A small tensor of tn_live_tensor as float32, with what the set replaces or adds. Lives as long as the snapshot. *elements
 * may be NULL. */
TN_API const float *tn_snapshot_tensor(const tn_snapshot *snapshot, size_t tensor, size_t adapter, uint64_t *elements);

#ifdef __cplusplus
}
#endif
#endif
