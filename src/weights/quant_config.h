/* A quantization configuration from inside. */
#ifndef TN_QUANT_CONFIG_H
#define TN_QUANT_CONFIG_H

#include "base/arena.h"
#include "tenon/weights.h"

#include <jansson.h>

struct tn_quant_override {
	const char *layer;
	struct tn_quantization q; /* as given: TN_QUANT_DEFAULT stays */
	int skip;
};

struct tn_quant_config {
	tn_context *ctx;
	struct tn_arena arena; /* layer names */
	int has_global;
	struct tn_quantization global;
	struct tn_quant_override *overrides; /* in the order in which they were set */
	size_t count, capacity;
	size_t *sorted, sorted_capacity; /* their numbers, by layer */
	json_t *block;                   /* what it was read from, with what was set since: it is written back whole */
};

/* An empty configuration. */
tn_status tn_quant_config_make(tn_context *ctx, tn_quant_config **out, struct tn_error *err);

/* A copy that can be changed. */
tn_status tn_quant_config_copy(const tn_quant_config *config, tn_quant_config **out, struct tn_error *err);

/* Adds an override without touching `block`. `q` NULL: skip. */
tn_status tn_quant_config_add(tn_quant_config *config, const char *layer, const struct tn_quantization *q,
			      struct tn_error *err);

#endif
