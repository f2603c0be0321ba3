/* The header of a GGUF file (ggml, include/gguf.h; version 2 and 3), as far as an adapter needs it: its tensors as those of
 * a tn_safetensors, and a few settings. */
#ifndef TN_GGUF_H
#define TN_GGUF_H

#include "store/safetensors.h"

struct tn_gguf_info {
	char type[32];           /* general.type; "" when absent */
	char architecture[32];   /* general.architecture */
	char adapter_type[32];   /* adapter.type */
	double alpha;            /* adapter.lora.alpha; 0 when absent */
	int has_invocation;      /* adapter.alora.invocation_tokens */
};

/* Opens and checks it. Shapes are in the order of safetensors, outermost first. TN_E_UNSUPPORTED: a tensor of a quantized
 * type. */
tn_status tn_gguf_open(tn_context *ctx, const char *path, tn_safetensors **out, struct tn_gguf_info *info,
		       struct tn_error *err);

#endif
