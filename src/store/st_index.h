/* model.safetensors.index.json: which tensor stands in which shard. */
#ifndef TN_ST_INDEX_H
#define TN_ST_INDEX_H

#include "base/arena.h"
#include "base/text.h"
#include "tenon/checkpoint.h"

struct tn_index_entry {
	const char *tensor;
	uint32_t shard;         /* in tn_index.shards */
};

struct tn_index {
	struct tn_index_entry *entries;  /* in the order of tensor names */
	size_t count;
	const char **shards;             /* file names, in bytewise order */
	size_t shard_count;
};

/* Reads and checks an index. All memory comes from the arena. */
tn_status tn_index_load(struct tn_arena *arena, const char *path, struct tn_index *out, struct tn_error *err);

/* transformers writes an index with an indent of 2, sorted keys and a newline at the end; mlx-lm with an indent of 4 and
 * neither. */
typedef enum tn_index_style { TN_INDEX_TRANSFORMERS, TN_INDEX_MLX } tn_index_style;

/* Writes one. Tensors in the order of names; `shard` of each is its number in `shards`. */
tn_status tn_index_write(const struct tn_tensor *const *by_name, size_t count, const char *const *shards,
			 uint64_t total_bytes, uint64_t total_parameters, tn_index_style style, struct tn_text *text,
			 struct tn_error *err);

#endif
