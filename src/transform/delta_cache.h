/* The factors that blocks are being worked on with: read when the first block that needs them begins, freed when the last
 * one has ended. */
#ifndef TN_DELTA_CACHE_H
#define TN_DELTA_CACHE_H

#include "adapter/land.h"

struct tn_delta_cache;

/* A slot of the joint in memory. */
struct tn_loaded {
	struct tn_delta delta;   /* TN_SLOT_DELTA, TN_SLOT_BIAS */
	const float *rows;       /* TN_SLOT_TOKENS */
	/* Of a delta on a quantized target, see transform/survival.h; else NULL. */
	const double *basis;          /* [groups, rank, rank] */
	const uint16_t *directions;   /* [groups][directions_bytes] */
	size_t directions_bytes;
	const unsigned char *packed;  /* [groups][packed_bytes]: A for lowrank_rows */
	size_t packed_bytes;
	float least;                  /* in all groups */
};

/* takes[i] is how often slot i will be taken. */
tn_status tn_delta_cache_create(const struct tn_joint *joint, const uint64_t *takes, struct tn_delta_cache **out,
				struct tn_error *err);
void tn_delta_cache_free(struct tn_delta_cache *cache);

/* The contents of a slot, valid until tn_delta_cache_return. Each take is returned once, also after a failure of the work
 * that it was for. */
tn_status tn_delta_cache_take(struct tn_delta_cache *cache, size_t slot, const struct tn_loaded **out,
			      struct tn_error *err);
void tn_delta_cache_return(struct tn_delta_cache *cache, size_t slot);

/* Memory that loading and holding a slot takes. */
uint64_t tn_delta_cache_bytes(const struct tn_joint *joint, const struct tn_slot *slot);

#endif
