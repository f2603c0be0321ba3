/* config.json of a decoder in one form for every family and both spellings (transformers 4 and 5). */
#ifndef TN_DECODER_CONFIG_H
#define TN_DECODER_CONFIG_H

#include "base/arena.h"
#include "tenon/checkpoint.h"

#include <jansson.h>

/* What sets a family apart from Llama; rows of architectures.def. */
enum tn_trait {
	TN_LAYER_NORM = 1 << 0,        /* norms take the mean away and have a bias */
	TN_NORM_PLUS_ONE = 1 << 1,     /* x * (1 + w) */
	TN_NORM_AFTER = 1 << 2,        /* norms stand behind attention and MLP, none before (OLMo 2) */
	TN_NORM_AROUND = 1 << 3,       /* before and behind (Gemma 2 and 3) */
	TN_QK_NORM = 1 << 4,           /* q_norm, k_norm over each head */
	TN_QK_NORM_WHOLE = 1 << 5,     /* over the whole projection */
	TN_FUSED_QKV = 1 << 6,
	TN_FUSED_GATE_UP = 1 << 7,
	TN_PLAIN_MLP = 1 << 8,         /* no gate: act(x W1) W2 */
	TN_EMBEDDING_SCALED = 1 << 9,  /* times sqrt(hidden) */
	TN_QUERY_SCALAR = 1 << 10,     /* scores times query_pre_attn_scalar^-0.5 */
	TN_ATTENTION_CAP = 1 << 11,
	TN_FINAL_CAP = 1 << 12,
	TN_MULTIPLIERS = 1 << 13,      /* Granite's four */
	TN_LEARNED_POSITIONS = 1 << 14,/* GPT-2: a table of positions, no rope */
	TN_CONV1D = 1 << 15,           /* GPT-2: dense weights lie [in, out] */
	TN_EXPERTS = 1 << 16,
	TN_SHARED_EXPERT = 1 << 17,
	TN_TOPK_ALWAYS_NORMAL = 1 << 18, /* the weights of the chosen experts add up to 1 whatever the config says */
	TN_PARTIAL_ROPE = 1 << 19,     /* the default rope heeds partial_rotary_factor */
	TN_ROPE_BY_LAYER_TYPE = 1 << 20, /* Gemma 3: a rope for full and one for sliding layers */
	TN_LONGROPE_RESTARTS = 1 << 21,  /* Phi-3: the cache is dropped where long factors begin */
	TN_NO_ROPE_LAYERS = 1 << 22,   /* SmolLM3 */
	TN_GELU_IS_TANH = 1 << 23,     /* "gelu" in the file means the tanh form (Gemma 1) */
	TN_QKV_BIAS = 1 << 24,         /* always; without it attention_bias or the like decides */
	TN_WINDOW_FLAG = 1 << 25       /* sliding_window counts only with use_sliding_window */
};

/* Which layers slide when the file has no layer_types. */
enum tn_window_rule {
	TN_WINDOW_NONE,
	TN_WINDOW_ALL,
	TN_WINDOW_FROM,      /* from layer max_window_layers on */
	TN_WINDOW_UNTO_EVEN, /* even layers below max_window_layers (Qwen2-MoE) */
	TN_WINDOW_EVEN,      /* Gemma 2 */
	TN_WINDOW_PATTERN,   /* Gemma 3: full every sliding_window_pattern layers */
	TN_WINDOW_NO_ROPE    /* layers without rope (SmolLM3) */
};

/* Names of the parts of a layer, behind "<prefix>layers.N."; NULL: the family has none. */
struct tn_part_names {
	const char *layers, *embedding, *positions, *final_norm;
	const char *norm[4];     /* before attention, behind it, before the MLP, behind it */
	const char *q, *k, *v, *qkv, *o, *q_norm, *k_norm;
	const char *gate, *up, *down, *gate_up;
	const char *router, *experts;   /* experts.N.<expert_gate> ... */
	const char *expert_gate, *expert_up, *expert_down;
	const char *shared, *shared_gate;
};

struct tn_architecture {
	const char *model_type;
	unsigned traits;
	enum tn_window_rule windows;
	const struct tn_part_names *names;
	const char *defaults;    /* JSON: what a field stands for that the file does not have */
};

/* NULL: no such family. */
const struct tn_architecture *tn_architecture_find(const char *model_type);
/* The i-th; NULL behind the last. */
const struct tn_architecture *tn_architecture_at(size_t i);

enum tn_activation { TN_SILU, TN_GELU, TN_GELU_TANH, TN_GELU_QUICK, TN_RELU, TN_RELU_SQUARED };

enum tn_rope_kind { TN_ROPE_DEFAULT, TN_ROPE_LINEAR, TN_ROPE_DYNAMIC, TN_ROPE_LLAMA3, TN_ROPE_YARN, TN_ROPE_LONG };

struct tn_rope {
	enum tn_rope_kind kind;
	double theta, factor;
	uint64_t dims;              /* of each head that turn; of an odd number one more does */
	uint64_t trained;           /* max_position_embeddings */
	uint64_t original;          /* original_max_position_embeddings */
	double attention_factor;    /* of cos and sin */
	double low_freq_factor, high_freq_factor;   /* llama3 */
	double beta_fast, beta_slow;                /* yarn */
	int truncate;
	const double *short_factor, *long_factor;   /* longrope, [dims / 2], rounded up */
};

enum { TN_ROPES = 2, TN_NO_ROPE = 255 };

struct tn_layer_config {
	uint32_t window;     /* positions seen, the own one included; 0: all */
	uint8_t rope;        /* of config.rope, or TN_NO_ROPE */
	uint8_t has_experts;
	float attention_scale;
};

struct tn_decoder_config {
	const struct tn_architecture *architecture;
	uint64_t vocabulary, hidden, layers, heads, kv_heads, head_dim, intermediate, context;
	uint64_t experts, experts_per_token, expert_intermediate, shared_intermediate;
	int normalize_topk, tied, qkv_bias, o_bias, mlp_bias;
	enum tn_activation activation;
	float epsilon;
	float embedding_scale, residual_scale;               /* factors; 1: none */
	float logit_divisor;
	float attention_cap, final_cap;                      /* 0: none */
	struct tn_rope rope[TN_ROPES];
	unsigned ropes;
	const struct tn_layer_config *layer;                 /* [layers] */
	int nested;                                          /* the text part of a larger model */
	const uint32_t *end_ids;
	size_t end_count;
};

/* Reads the config of the checkpoint. Everything is allocated in `arena`. TN_E_UNSUPPORTED names the field that tenon does not
 * run, TN_E_FORMAT the one that is wrong. */
tn_status tn_decoder_config_read(const tn_checkpoint *base, struct tn_arena *arena, struct tn_decoder_config *out,
				 struct tn_error *err);

/* ---- fields ---------------------------------------------------------------------------------------------- */

/* A document whose errors name the file. */
struct tn_fields {
	const json_t *json;
	const char *where;       /* "…/config.json" */
};

/* Numbers; `fallback` where the field is absent or null. TN_E_FORMAT: not a number, or out of range. */
tn_status tn_field_count(const struct tn_fields *f, const char *key, uint64_t fallback, uint64_t most, uint64_t *out,
			 struct tn_error *err);
tn_status tn_field_number(const struct tn_fields *f, const char *key, double fallback, double *out, struct tn_error *err);
tn_status tn_field_bool(const struct tn_fields *f, const char *key, int fallback, int *out, struct tn_error *err);
/* NULL where absent or null. */
tn_status tn_field_text(const struct tn_fields *f, const char *key, const char **out, struct tn_error *err);

/* The ropes of the config: rope_parameters, or rope_theta and rope_scaling. */
tn_status tn_rope_read(const struct tn_fields *f, struct tn_arena *arena, struct tn_decoder_config *config,
		       struct tn_error *err);

#endif
