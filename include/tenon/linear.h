/* tenon/linear.h - one matrix in memory, in any codec, and its product with activations, with low-rank factors beside it.
 *
 *   y = row_scale * (W x + sum of scale * B (A x)) + bias
 *
 * Shapes: W [out, in], or a stack [experts, out, in]; x [m, in] -> y [m, out]; A [rank, in]; B [out, rank]; row_scale [out];
 * bias [out], of a stack [experts, out].
 *
 * Dtypes. W: F32, F16, BF16, or a quantized triple (affine, mxfp4, mxfp8, nvfp4). x, y, A, B: F32, F16 or BF16, each on its
 * own. Numerics: weights are decoded exactly, everything is summed in float32, and the result is rounded once to the dtype of
 * y; so a narrow x costs nothing but what it lacks, and a float32 y shows the full sum. The same bits for any number of
 * threads. Products of the same matrix in two m's may differ in the last bits of float32.
 *
 * Threads. A tn_linear is never changed once it is made: any number of threads compute with it, each with a scratch of its
 * own. Products allocate nothing, and fail only for arguments that do not fit. Work is spread over the workers of the context;
 * a small product, and one that finds them busy, stays on the calling thread.
 */
#ifndef TENON_LINEAR_H
#define TENON_LINEAR_H

#include "tenon/base.h"
#include "tenon/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_linear tn_linear;

/* Bytes are the caller's, at any alignment, and must outlive the linear (the bias is copied). */
struct tn_linear_weight {
	struct tn_array dense;          /* [out, in] or [experts, out, in]; data NULL: `quantized` is used */
	struct tn_quantized quantized;  /* the same shapes packed; global_scale: one F32, or one for each expert */
	struct tn_quantization q;       /* of `quantized`; TN_QUANT_DEFAULT is the mode's own */
	struct tn_array bias;           /* F32, F16 or BF16; data NULL: none */
};

/* Errors, TN_E_ARG: shapes or dtypes that are not those above, parts that do not fit each other, sizes of 0. */
TN_API tn_status tn_linear_create(tn_context *ctx, const struct tn_linear_weight *weight, tn_linear **out,
				  struct tn_error *err);
TN_API void tn_linear_destroy(tn_linear *linear);

TN_API uint64_t tn_linear_out_features(const tn_linear *linear);
TN_API uint64_t tn_linear_in_features(const tn_linear *linear);
TN_API uint64_t tn_linear_experts(const tn_linear *linear);   /* 0: a matrix, no stack */
TN_API int tn_linear_has_bias(const tn_linear *linear);

/* One pair of factors. Bytes are the caller's and aligned to their dtype. */
struct tn_lora {
	struct tn_array a;          /* [rank, in] */
	struct tn_array b;          /* [out, rank] */
	double scale;
};

/* How exactly activations enter a product with W; sums are float32 in any case. Errors are shares of the largest result, where sums
 * do not cancel. */
typedef enum tn_activations {
	TN_ACTIVATIONS_F32,         /* as they are: error at most 1e-5 of the largest result */
	TN_ACTIVATIONS_16,          /* rounded to 16 bits: 5e-5 */
	TN_ACTIVATIONS_INT8         /* rounded to 8 bits, a scale for each group: fastest */
} tn_activations;

struct tn_linear_call {
	uint64_t expert;            /* of a stack; else 0 */
	size_t m;                   /* rows of x */
	tn_dtype x_dtype, y_dtype;  /* F32, F16 or BF16 */
	const void *x;              /* [m, in] */
	size_t x_stride;            /* from row to row, in elements */
	void *y;                    /* [m, out] */
	size_t y_stride;
	const struct tn_lora *loras; /* [lora_count]: their products are added; factors of one matrix, also for a stack */
	size_t lora_count;
	const float *row_scale;     /* [out] or NULL: what DoRA multiplies the sum with (tn_linear_dora_scale) */
	tn_activations activations;
};

enum { TN_MOST_LORAS = 16 };        /* in one call */

/* Bytes of scratch for the call. Fields x and y are not looked at. */
TN_API size_t tn_linear_scratch_bytes(const tn_linear *linear, const struct tn_linear_call *call);

/* The product. TN_E_ARG, before anything is written: a dtype, expert or factor that does not fit. m of 0 is allowed. */
TN_API tn_status tn_linear_forward(const tn_linear *linear, const struct tn_linear_call *call, void *scratch,
				   struct tn_error *err);

/* W as a table of vectors: y[t] = row ids[t] of W + sum of scale * B A, times row_scale. m, ids, y, y_stride as in a call;
 * x is not used. TN_E_ARG: also an id that is no row. */
TN_API tn_status tn_linear_embed(const tn_linear *linear, const struct tn_linear_call *call, const uint32_t *ids,
				 void *scratch, struct tn_error *err);

/* magnitude [out] -> row_scale [out] = magnitude / norm of the rows of W + sum of scale * B A, the norms in double, rows
 * decoded one at a time: W is never dense in memory. A row without any length gets 1. */
TN_API tn_status tn_linear_dora_scale(const tn_linear *linear, uint64_t expert, const struct tn_lora *loras,
				      size_t lora_count, const float *magnitude, float *row_scale, struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
