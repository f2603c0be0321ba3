/* A decoder from inside: its modules, its caches, the memory of a step. */
#ifndef TN_DECODER_H
#define TN_DECODER_H

#include "model/decoder_config.h"
#include "tenon/model.h"

/* A norm: indices of tn_live_tensor, TN_LIVE_NONE for parts that it has not. */
struct tn_norm {
	size_t weight, bias;
};

struct tn_mlp {
	size_t gate, up, down, gate_up;   /* modules, or TN_LIVE_NONE */
	uint64_t width;
};

struct tn_decoder_layer {
	const struct tn_layer_config *config;
	struct tn_norm norm[4];          /* before attention, behind it, before the MLP, behind it */
	struct tn_norm q_norm, k_norm;
	size_t q, k, v, qkv, o;
	struct tn_mlp mlp;               /* of a layer without experts, or the shared expert */
	size_t router, shared_gate;
	const struct tn_mlp *expert;     /* [experts], or one stack */
	int stacked;
};

/* Keys and values of one text under one identity: [layers][key, value][kv_heads][capacity][head_dim], keys in blocks (kernels.h:
 * scores_f32). */
struct tn_kv {
	struct tn_kv *next;              /* of the same text */
	uint64_t identity;
	size_t length, capacity;
	struct tn_buffer data;
	uint64_t last_use;
	uint64_t longest[TN_ROPES];      /* dynamic ropes grow with the longest text seen */
	const float *inverse[TN_ROPES];  /* frequencies in use */
	float *own[TN_ROPES];            /* of a dynamic rope, [pairs] */
};

struct tn_sequence {
	tn_decoder *decoder;
	struct tn_sequence *next;
	char *adapter;                   /* NULL: the default set */
	size_t adapter_bytes;
	uint32_t *ids;
	size_t length, capacity, reserve;
	struct tn_kv *caches;
	/* of the step that is being computed */
	struct tn_kv *kv;
	size_t index, first, wanted;     /* adapter in the snapshot; length before the step and behind it */
	int in_step;
};

/* Rows [first, end) of a batch. */
struct tn_row_range {
	size_t first, end;
};

/* The memory of a step: rows of the batch side by side. */
struct tn_batch {
	const tn_snapshot *snapshot;
	size_t m;                        /* rows now */
	struct tn_sequence **sequence;   /* [rows] */
	size_t *position;
	uint32_t *ids, *position_ids;
	size_t *adapter;
	const size_t *adapter_of_row;    /* `adapter`, or NULL when every row has the default set */
	float **logits;                  /* where each row's go; NULL: nowhere */
	float *cosine[TN_ROPES], *sine[TN_ROPES];   /* [rows][pairs] */
	float *x, *h, *y;                /* [rows][hidden] */
	float *qkv, *mixed;              /* [rows][(heads + 2 kv_heads) head_dim], [rows][heads head_dim] */
	float *wide;                     /* [rows][2 * widest MLP] */
	/* experts */
	float *routes;                   /* [rows][experts] */
	uint32_t *chosen;                /* [rows][experts_per_token] */
	float *share;
	float *gathered, *answered;      /* [rows][hidden] */
	uint32_t *row_of;
	float *share_of;
	size_t *adapter_gathered;
	size_t *tile_row;                /* [rows + 1]; where the tiles of attention begin */
	float *attending;                /* [workers][attending_stride] */
	size_t attending_stride;
	size_t tile_queries, longest;    /* queries of a tile, and keys, that there is memory for */
	struct tn_buffer scratch;        /* of the live base */
	struct tn_buffer attending_buffer;
};

struct tn_decoder {
	tn_context *ctx;
	tn_live *live;
	struct tn_arena arena;
	struct tn_decoder_config config;
	struct tn_decoder_layer *layer;
	size_t embedding, positions, head;
	struct tn_norm final_norm;
	uint64_t pairs[TN_ROPES];               /* of a head that turn */
	float *inverse[TN_ROPES][2];            /* frequencies: usual, and long (longrope) */
	float rope_scale[TN_ROPES];             /* of cosine and sine */
	size_t *modules;                        /* all that are computed, for their scratch */
	size_t module_count, module_capacity;
	size_t rows;
	struct tn_batch batch;
	struct tn_buffer batch_memory;
	uint64_t cache_budget, cache_used, clock;
	struct tn_sequence *sequences;
};

/* decoder_bind.c: finds modules and tensors and checks their shapes. */
tn_status tn_decoder_bind(tn_decoder *d, const tn_checkpoint *base, struct tn_error *err);

/* rope.c */
tn_status tn_rope_prepare(tn_decoder *d, struct tn_error *err);
/* Sets the frequencies of a cache for a text that will have `length` tokens. Returns how many tokens stay cached. */
size_t tn_rope_extend(const tn_decoder *d, struct tn_kv *kv, size_t length);
/* cosine and sine of the rows of the batch. */
void tn_rope_rows(const tn_decoder *d, struct tn_batch *b);
/* x [m at `stride`][heads][head_dim], of which `rows` are turned in place. */
void tn_rope_turn(const tn_decoder *d, const struct tn_batch *b, unsigned rope, float *x, size_t stride, uint64_t heads,
		  struct tn_row_range rows);

/* row_ops.c */
/* What is done to each row of a step by itself, in one layer. */
typedef void (*tn_row_fn)(tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows);
/* All rows, spread over the workers. */
void tn_each_row(tn_decoder *d, struct tn_batch *b, size_t layer, tn_row_fn run);
/* `rows` of y [m][width] = norm of x; each row with the weights of its adapters. */
void tn_norm_rows(const tn_decoder *d, const struct tn_batch *b, const struct tn_norm *norm, float *y, const float *x,
		  size_t stride, size_t width, uint64_t heads, struct tn_row_range rows);
/* wide [m][2 width]: gate half = act(gate) * up, or act(gate) alone without a gate. */
void tn_activate_rows(const tn_decoder *d, float *wide, size_t m, size_t stride, size_t width, int gated);
void tn_softcap(float *x, size_t n, float cap);

/* attention.c */
/* Memory for texts of up to `longest` tokens: for each worker the scores of a tile of queries for all keys. */
tn_status tn_attention_reserve(tn_decoder *d, size_t longest, struct tn_error *err);
/* Keys and values of `rows`, which b->qkv holds, into the caches of their texts. */
void tn_store_keys(const tn_decoder *d, struct tn_batch *b, size_t layer, struct tn_row_range rows);
void tn_attend(tn_decoder *d, struct tn_batch *b, size_t layer);

/* mlp.c: b->y = MLP of b->h. */
void tn_mlp_rows(tn_decoder *d, struct tn_batch *b, const struct tn_decoder_layer *layer);
/* A module and where its product goes. */
struct tn_projection {
	size_t module;
	float *y;
};
/* The modules' products with x, rows of the batch. */
void tn_project(const struct tn_batch *b, const struct tn_projection *to, size_t count, size_t y_stride, const float *x,
		size_t x_stride);

/* kv_cache.c */
/* The cache of the text under that identity, with room for `tokens`; other caches may be given up for it. */
tn_status tn_kv_open(tn_decoder *d, struct tn_sequence *s, uint64_t identity, size_t tokens, struct tn_kv **out,
		     struct tn_error *err);
void tn_kv_free(tn_decoder *d, struct tn_sequence *s, struct tn_kv *kv);
/* Where a head's keys (part 0) or values (1) begin. */
float *tn_kv_head(const tn_decoder *d, const struct tn_kv *kv, size_t layer, unsigned part, uint64_t head);
size_t tn_kv_bytes_per_token(const tn_decoder *d);

#endif
