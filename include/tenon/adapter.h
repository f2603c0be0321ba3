/* tenon/adapter.h - LoRA-family adapters: what a folder holds, and where it lands on a base.
 *
 * Sources. PEFT 0.21 (src/peft/tuners/lora, utils/save_and_load.py) and mlx-lm 0.32.2 (tuner/utils.py, tuner/lora.py,
 * tuner/dora.py). Whatever an adapter says that tenon does not apply is an error that names it: nothing is dropped in
 * silence. Decisions and differences: docs/adapters.md.
 */
#ifndef TENON_ADAPTER_H
#define TENON_ADAPTER_H

#include "tenon/base.h"
#include "tenon/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_adapter tn_adapter;

/* Who wrote the files. */
typedef enum tn_adapter_dialect {
	TN_DIALECT_PEFT,   /* adapter_config.json with peft_type, adapter_model.safetensors */
	TN_DIALECT_MLX_LM, /* adapter_config.json with lora_parameters, adapters.safetensors */
	TN_DIALECT_KOHYA,  /* one .safetensors file without settings: sd-scripts, LyCORIS (locon) */
	TN_DIALECT_GGUF    /* one .gguf file of llama.cpp's convert_lora_to_gguf.py */
} tn_adapter_dialect;
TN_API const char *tn_adapter_dialect_name(tn_adapter_dialect dialect); /* "peft", "mlx-lm", "kohya", "gguf" */

typedef enum tn_module_kind {
	TN_MODULE_LORA,            /* W + scale * B A */
	TN_MODULE_DORA,            /* magnitude * (W + scale * B A) / norm of its rows */
	TN_MODULE_EMBEDDING,       /* the same two on a table of vectors [vocabulary, width] */
	TN_MODULE_EMBEDDING_DORA,
	TN_MODULE_EXPERTS,         /* one pair of factors for each expert of a stack */
	TN_MODULE_TOKENS,          /* some rows of a table replaced */
	TN_MODULE_SAVED            /* a whole tensor replaced */
} tn_module_kind;
/* "lora", "dora", "embedding", "embedding-dora", "experts", "tokens", "saved" */
TN_API const char *tn_module_kind_name(tn_module_kind kind);

/* What the adapter does to one module of the base. Belongs to the adapter. */
struct tn_adapter_module {
	const char *path;       /* of the module as the adapter names it, for example model.layers.3.mlp.down_proj; of the
	                           tensor for TN_MODULE_SAVED */
	tn_module_kind kind;
	uint64_t rank;          /* of one pair of factors; 0: no factors */
	double scale;           /* effective: alpha / r, alpha / sqrt(r) or mlx-lm's scale; the factor of B A */
	uint64_t in_features;   /* A [rank, in], whatever the order in the file; of an embedding the vocabulary */
	uint64_t out_features;  /* B [out, rank]; of an embedding the width */
	uint64_t experts;       /* TN_MODULE_EXPERTS: how many; else 0 */
	int has_bias;           /* scale * b is added to the bias of the module (lora_bias) */
	uint64_t parameters;    /* elements of all its tensors */
};

/* Opens an adapter folder, a .safetensors file with an adapter_config.json beside it (any of those that a training run left), or a
 * lone .safetensors (kohya) or .gguf file. Factors stay in the file until they are needed.
 * Errors: TN_E_NOTFOUND: no folder, no adapter_config.json, no weights. TN_E_FORMAT: damaged, a factor without its other
 * half, shapes that disagree with the rank. TN_E_UNSUPPORTED: a setting or tensor that tenon does not apply.
 * TN_E_LIMIT: a file larger than any adapter is, or a pattern that does not come to an end. */
TN_API tn_status tn_adapter_open(tn_context *ctx, const char *path, tn_adapter **out, struct tn_error *err);
/* The same over bytes that stay the caller's and must outlive it: the text of adapter_config.json, and a safetensors file.
 * `name` stands for the path. What changes in the bytes of a tensor shows in the adapter. */
TN_API tn_status tn_adapter_open_memory(tn_context *ctx, const char *config, size_t config_bytes, const void *weights,
					size_t weights_bytes, const char *name, tn_adapter **out, struct tn_error *err);
TN_API void tn_adapter_close(tn_adapter *adapter);

TN_API const char *tn_adapter_path(const tn_adapter *adapter);
/* TN_E_ARG where a folder that is written at `path` would take the place of the adapter's own files, wherever links lead: for
 * asking before something is made of it. */
TN_API tn_status tn_adapter_check_path(const tn_adapter *adapter, const char *path, struct tn_error *err);
TN_API tn_adapter_dialect tn_adapter_dialect_of(const tn_adapter *adapter);
TN_API const tn_safetensors *tn_adapter_file(const tn_adapter *adapter);
TN_API size_t tn_adapter_count(const tn_adapter *adapter);
/* Modules in the order of paths. */
TN_API const struct tn_adapter_module *tn_adapter_at(const tn_adapter *adapter, size_t i);
/* Elements of all tensors that are applied. */
TN_API uint64_t tn_adapter_parameters(const tn_adapter *adapter);
/* 1 when `path` is a folder with an adapter_config.json. */
TN_API int tn_adapter_is_folder(const char *path);

/* One of several adapters that are applied together. `weight` is a factor beside the adapter's own scale. */
struct tn_weighted_adapter {
	const tn_adapter *adapter;
	double weight;
};

/* ---- identity -------------------------------------------------------------------------------------------- */

enum { TN_HASH_BYTES = 32 };

/* A hash of what the adapter does: kinds, paths, effective scales and factors as float32 in one order. Two folders with
 * the same hash change a base alike, in whatever dialect and dtype they were written. Reads all factors. */
TN_API tn_status tn_adapter_hash(const tn_adapter *adapter, unsigned char hash[TN_HASH_BYTES], struct tn_error *err);

/* A hash of the base tensors that the adapter changes: names, dtypes, shapes and bytes, in the order of names. */
TN_API tn_status tn_adapter_base_hash(const tn_adapter *adapter, const tn_checkpoint *base,
				      unsigned char hash[TN_HASH_BYTES], struct tn_error *err);

/* The same of a sample of their bytes: all of a part of up to 64 KiB, of a larger one 16 pieces of 4 KiB spread over it. Takes
 * milliseconds on a base of any size, and tells any two trainings of a model apart. */
TN_API tn_status tn_adapter_base_sample(const tn_adapter *adapter, const tn_checkpoint *base,
					unsigned char hash[TN_HASH_BYTES], struct tn_error *err);

/* Adapters that tenon writes carry both in the metadata of their weights, as hexadecimal digits. PEFT and mlx-lm load such
 * files, and write them without these keys once they have trained them further.
 * tn_adapter_open of a folder checks the first when it is there: TN_E_MISMATCH when factors or configuration were changed.
 * Landing on a base checks the second: another base is said in the log, and no error, because an adapter may be carried over
 * to a relative of its base on purpose. */
#define TN_METADATA_ADAPTER "tenon.adapter_sha256"
#define TN_METADATA_BASE "tenon.base_sample_sha256"

/* ---- accounting ------------------------------------------------------------------------------------------ */

enum { TN_OUTSIDE_LAYERS = -1 };

/* What an adapter adds, over all modules or those of one layer. */
struct tn_account {
	int64_t layer;          /* number; TN_OUTSIDE_LAYERS: embeddings, head and the like */
	size_t modules;
	uint64_t trainable;     /* elements of all tensors of the adapter that are applied */
	uint64_t adapted;       /* elements of the base's weights that they change; 0 without a base */
	uint64_t bytes;         /* memory of the factors as float32 */
	double ratio;           /* trainable / (adapted + trainable); 0 without a base */
};

struct tn_accounts {
	struct tn_account all;
	uint64_t base_parameters;    /* of the whole base, logical; 0 without a base */
	uint64_t file_bytes;         /* of the adapter's tensors in their file */
	struct tn_account *layers;   /* in the order of numbers, what is outside first */
	size_t layer_count, layer_room;
};

/* Adds up an adapter. With a base (NULL: none) it must land there. Release with tn_accounts_release. */
TN_API tn_status tn_adapter_account(tn_context *ctx, const tn_adapter *adapter, const tn_checkpoint *base,
				    struct tn_accounts *out, struct tn_error *err);
TN_API void tn_accounts_release(tn_context *ctx, struct tn_accounts *accounts);

#ifdef __cplusplus
}
#endif
#endif
