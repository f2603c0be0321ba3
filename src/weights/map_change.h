/* A change of a weight map that is done whole or not at all: new entries, and names that go. */
#ifndef TN_MAP_CHANGE_H
#define TN_MAP_CHANGE_H

#include "weights/weight_map.h"

/* Nothing in the map changes before all is made. */
struct tn_map_change {
	tn_weight_map *map;
	struct tn_map_entry **made;
	size_t made_count, made_capacity;
	const struct tn_tensor **gone; /* of the map */
	size_t gone_count, gone_capacity;
};

/* Takes the bytes of an array as `<layer><suffix>`; the layer is that of `weight_name`. */
tn_status tn_map_change_add(struct tn_map_change *c, const char *weight_name, const char *suffix, struct tn_array *array,
			    struct tn_error *err);
/* `<layer><suffix>` goes, if it is there. */
tn_status tn_map_change_remove(struct tn_map_change *c, const char *weight_name, const char *suffix, struct tn_error *err);
tn_status tn_map_change_commit(struct tn_map_change *c, struct tn_error *err);
void tn_map_change_release(struct tn_map_change *c);

#endif
