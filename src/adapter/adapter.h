/* An open adapter from inside. */
#ifndef TN_ADAPTER_ADAPTER_H
#define TN_ADAPTER_ADAPTER_H

#include "adapter/config.h"
#include "base/arena.h"
#include "linear/delta.h"
#include "tenon/adapter.h"

/* The largest file of weights that is opened, and so the largest that is made. Adapters in the wild have some hundreds of
 * megabytes; one that brings both embeddings along a few billion bytes. */
#define TN_ADAPTER_MOST_BYTES ((uint64_t)2 << 30)
#define TN_ADAPTER_MOST_RANK (1 << 20)   /* of what is made */

/* A factor as a block [groups, rank, features] of a tensor, whatever the order in the file. */
struct tn_factor {
	const struct tn_tensor *tensor;
	uint64_t group_stride, rank_stride, feature_stride;   /* in elements */
};

/* A module and the tensors that make it. */
struct tn_adapter_entry {
	struct tn_adapter_module module;
	struct tn_factor a, b;              /* without tensors for TN_MODULE_TOKENS and TN_MODULE_SAVED */
	const struct tn_tensor *magnitude;  /* DoRA; of the outputs, in mlx-lm's embeddings of the inputs */
	int magnitude_of_inputs;
	const struct tn_tensor *bias;       /* lora_bias */
	const struct tn_tensor *diagonal;   /* KaSA, AdaLoRA: B diag(d) A */
	const struct tn_tensor *values;     /* TN_MODULE_TOKENS: the rows; TN_MODULE_SAVED: the tensor */
	const struct tn_token_rule *tokens;
	uint64_t groups;                    /* experts of a stack, else 1 */
	uint64_t a_blocks, b_blocks;        /* BD-LoRA: that factor is packed from so many diagonal blocks; else 1 */
	unsigned list_place;                /* from 1 on: of a list of factors, whose outputs stand under each other; 0: of none */
	int of_parameter;                   /* path names a parameter itself (target_parameters), not a module */
	int is_attention_output;            /* PEFT merges the out_proj of a MultiheadAttention twice, and trains so */
};

struct tn_adapter {
	tn_context *ctx;
	struct tn_arena arena;  /* holds this struct too */
	const char *path;
	const char *folder;     /* of adapter_config.json; NULL: it has none */
	struct tn_adapter_config config;
	tn_safetensors *file;
	const char *unread;     /* weights of the other dialect's name in the folder too; NULL: none */
	struct tn_adapter_entry *entries;   /* in the order of paths */
	size_t count;
};

/* Groups the tensors of adapter->file into entries. */
tn_status tn_adapter_collect(tn_adapter *adapter, struct tn_error *err);

/* ---- factors in memory ----------------------------------------------------------------------------------- */

/* How the delta of an entry lies in the tensor that it changes. */
struct tn_delta_shape {
	int rows_are_inputs;    /* W is stored [in, out]: embeddings, GPT-2's Conv1D, transposed expert stacks */
	uint64_t qalora_group;  /* 1: none; else each column of A stands for so many inputs */
	uint64_t heads;         /* 0; else the rows of B are interleaved within so many heads, as llama.cpp's rope has them */
};

/* The bytes that tn_adapter_load_delta takes, and those that it takes beside them while it works. */
uint64_t tn_adapter_delta_bytes(const struct tn_adapter_entry *entry, const struct tn_delta_shape *shape);
uint64_t tn_adapter_delta_extra_bytes(const struct tn_adapter_entry *entry);

/* Reads the factors and magnitude of an entry into memory of the context; freed with tn_buffer_release(ctx, memory),
 * which ends *delta. TN_E_FORMAT: a factor holds NaN or infinity. */
tn_status tn_adapter_load_delta(const tn_adapter *adapter, const struct tn_adapter_entry *entry,
				const struct tn_delta_shape *shape, struct tn_delta *delta, struct tn_buffer *memory,
				struct tn_error *err);

/* Factors as they stand in the file, without going through float32: [groups, rank, features], or with by_feature [groups,
 * features, rank], in the dtype of the file. Only for plain ones: whole, F32, F16 or BF16, and multiplied by nothing. */
int tn_adapter_factor_is_plain(const struct tn_adapter_entry *entry, const struct tn_delta_shape *shape, int is_b);
struct tn_factor_read {
	const struct tn_adapter_entry *entry;
	int is_b, by_feature;
	const void **out;       /* gets where it is then, aligned to 64 */
	size_t at;              /* in the memory of all of them */
};
/* Puts them into the order of the file, and gives each its place in memory. Returns how many bytes that takes. */
uint64_t tn_adapter_place_factors(struct tn_factor_read *reads, size_t count);
/* Reads them, what stands together at once, and sleeps for pause_us microseconds after every 256 KB and at the end. TN_E_FORMAT:
 * one holds NaN or infinity. */
tn_status tn_adapter_read_factors(const tn_adapter *adapter, const struct tn_factor_read *reads, size_t count, unsigned pause_us,
				  void *memory, struct tn_error *err);

/* The bias of an entry as a delta of one row. */
tn_status tn_adapter_load_bias(const tn_adapter *adapter, const struct tn_adapter_entry *entry, struct tn_delta *delta,
			       struct tn_buffer *memory, struct tn_error *err);

/* Any tensor of the adapter as float32: dst [elements], checked to be finite. */
tn_status tn_adapter_load_f32(const tn_adapter *adapter, const struct tn_tensor *tensor, float *dst, struct tn_error *err);

#endif
