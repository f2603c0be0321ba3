/* From the name of a tensor of an adapter to the module that it is for, and its part there. */
#ifndef TN_ADAPTER_KEYS_H
#define TN_ADAPTER_KEYS_H

#include "adapter/config.h"

typedef enum tn_key_role {
	TN_KEY_A, TN_KEY_B, TN_KEY_EMBEDDING_A, TN_KEY_EMBEDDING_B, TN_KEY_MAGNITUDE, TN_KEY_BIAS, TN_KEY_DIAGONAL,
	TN_KEY_ALPHA, TN_KEY_TOKENS,
	TN_KEY_WHOLE,    /* a tensor of the base under its own name */
	TN_KEY_IDLE      /* has no effect at inference: training state, PEFT's copy of the original module */
} tn_key_role;

struct tn_key {
	const char *path;       /* of the module; of the tensor for TN_KEY_WHOLE */
	tn_key_role role;
	unsigned depth;         /* PEFT: how many ".base_layer" stood behind the module */
	int is_inner;           /* PEFT: ".base_layer" stood inside the path: the out_proj of a MultiheadAttention */
	unsigned list_place;    /* mlx-lm: X.lora_a.2 is the third of a list: 3; 0: of no list */
	int of_base_layer;      /* TN_KEY_WHOLE: of a module that has factors too */
};

/* Takes the prefixes off that wrappers put on ("base_model.model.", "_orig_mod.", "module.", ...), and an adapter's name
 * inside. TN_E_UNSUPPORTED: the name is none that the dialect has; TN_E_LIMIT: it has more than 64 parts. */
tn_status tn_key_parse(struct tn_arena *arena, const struct tn_adapter_config *config, const char *name,
		       struct tn_key *out, struct tn_error *err);

#endif
