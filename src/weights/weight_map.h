/* A weight map from inside. */
#ifndef TN_WEIGHT_MAP_H
#define TN_WEIGHT_MAP_H

#include "base/context.h"
#include "tenon/weights.h"

/* One block of memory: this struct, the shape, the name. The bytes are apart, so that they can move between entries. */
struct tn_map_entry {
	struct tn_tensor tensor;
	struct tn_buffer data;
	size_t block_bytes;
};

struct tn_weight_map {
	tn_context *ctx;
	struct tn_map_entry **entries; /* sorted by name */
	size_t count, capacity;
};

/* An entry of that name for bytes that are handed over; on failure they stay with the caller. */
tn_status tn_map_entry_make(tn_context *ctx, const char *name, tn_dtype dtype, uint32_t rank, const uint64_t *shape,
			    const struct tn_buffer *data, struct tn_map_entry **out, struct tn_error *err);
void tn_map_entry_free(tn_context *ctx, struct tn_map_entry *entry);

/* Room for `more` entries beyond those there are, so that as many calls of tn_weight_map_put cannot fail. */
tn_status tn_weight_map_reserve(tn_weight_map *map, size_t more, struct tn_error *err);
/* Puts an entry in, freeing the one of that name. */
void tn_weight_map_put(tn_weight_map *map, struct tn_map_entry *entry);
/* Removes the entry of that name, if there is one. */
void tn_weight_map_remove(tn_weight_map *map, const char *name);

#endif
