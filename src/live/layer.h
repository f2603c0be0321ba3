/* A layer from inside. */
#ifndef TN_LIVE_LAYER_H
#define TN_LIVE_LAYER_H

#include "base/context.h"
#include "tenon/layer.h"

struct tn_layer {
	tn_context *ctx;
	tn_layer_kind kind;
	struct tn_linear_weight weight;   /* the caller's; nothing in a packed layer */
	tn_linear *base;                  /* over it; NULL in a packed layer */
	struct tn_nf4 nf4;                /* of a packed layer */
	int is_packed;
	uint64_t experts;                 /* 0: no stack */
	uint64_t out, in, rank;
	double scale;
	struct tn_array a, b;             /* [experts,] [rank, in] and [out, rank]; own memory */
	struct tn_array magnitude;        /* [out]; data NULL: no DoRA */
	struct tn_buffer row_scale;       /* [out] floats beside a magnitude */
	int enabled, merged;
	struct tn_linear_weight merged_weight;
	tn_linear *merged_linear;
};

/* Rows [first, first + count) of the base, decoded; rows of a stack count on through its experts. dst [count, in]. */
void tn_layer_base_rows(const tn_layer *layer, uint64_t first, uint64_t count, float *dst);

/* The dtype of the base's values as MLX decodes them: of its rows, and of a merged weight before it is quantized again. */
tn_dtype tn_layer_dtype(const tn_layer *layer);

#endif
