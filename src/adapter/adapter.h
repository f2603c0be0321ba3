/* An open adapter from inside. */
#ifndef TN_ADAPTER_ADAPTER_H
#define TN_ADAPTER_ADAPTER_H

#include "base/arena.h"
#include "linear/delta.h"
#include "tenon/adapter.h"

/* Settings of adapter_config.json in one form for every dialect. */
struct tn_adapter_config {
	tn_adapter_dialect dialect;
	uint64_t rank;
	double alpha;           /* PEFT */
	int use_rslora;
	double scale;           /* mlx-lm */
};

/* Reads and normalises adapter_config.json of the folder `path`. */
tn_status tn_adapter_config_load(tn_context *ctx, const char *path, struct tn_adapter_config *out, struct tn_error *err);

/* A module and the tensors that make it. */
struct tn_adapter_entry {
	struct tn_adapter_module module;
	const struct tn_tensor *a, *b;
	int transposed;         /* as mlx-lm has them: A [in, rank], B [rank, out] */
};

struct tn_adapter {
	tn_context *ctx;
	struct tn_arena arena;  /* holds this struct too */
	const char *path;
	struct tn_adapter_config config;
	tn_safetensors *file;
	struct tn_adapter_entry *entries;   /* in the order of paths */
	size_t count;
};

/* Groups the tensors of adapter->file into entries. */
tn_status tn_adapter_collect(tn_adapter *adapter, struct tn_error *err);

/* ---- landing on a base ----------------------------------------------------------------------------------- */

/* One module of an adapter and the base tensor that it changes. */
struct tn_landing {
	const struct tn_adapter_entry *entry;
	const struct tn_tensor *weight;
};

/* Finds the base tensor of every module, and checks shapes. All of them land, each on a tensor of its own, or the error
 * names the module, what the base has instead, and the nearest name. `out` [adapter->count] is of the arena, in the order
 * of tensor names. */
tn_status tn_adapter_land(const tn_adapter *adapter, const tn_checkpoint *base, struct tn_arena *arena,
			  struct tn_landing **out, struct tn_error *err);

/* Bytes of the factors of an entry in memory. */
size_t tn_adapter_delta_bytes(const struct tn_adapter_entry *entry);

/* Reads the factors of an entry into memory of the context; freed with tn_buffer_release(ctx, memory), which ends *delta.
 * TN_E_FORMAT: a factor holds NaN or infinity. */
tn_status tn_adapter_load_delta(const tn_adapter *adapter, const struct tn_adapter_entry *entry, struct tn_delta *delta,
				struct tn_buffer *memory, struct tn_error *err);

#endif
