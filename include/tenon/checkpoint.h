/* tenon/checkpoint.h - safetensors files and checkpoint folders: names, shapes and bytes of tensors.
 *
 * Sources. The format and its checks: safetensors 0.8 (safetensors/src/tensor.rs, README.md). Folders and the index:
 * transformers 5.23 and mlx-lm 0.32.2 (utils.py). The API covers mlx-native 0.6.6 (src/weight.rs): open, names, one
 * tensor, all tensors, quantized weights (tenon/weights.h).
 *
 * Files are untrusted: whatever they hold, nothing is read outside them, memory grows only with their real headers, and
 * every rejection names the tensor or the byte. Files are read with pread and are never mapped (a live base, tenon/live.h, maps
 * its own): when another program shortens a file that is open, the read gives TN_E_IO and the process lives on.
 */
#ifndef TENON_CHECKPOINT_H
#define TENON_CHECKPOINT_H

#include "tenon/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One tensor of a file. Belongs to the tn_safetensors or tn_checkpoint that handed it out and lives as long. */
struct tn_tensor {
	const char *name;
	tn_dtype dtype;
	uint32_t rank;
	const uint64_t *shape;   /* rank sizes, outermost first; rank 0 is one element */
	uint64_t elements;       /* product of the shape */
	uint64_t bytes;          /* elements * bits / 8 */
	uint64_t offset;         /* of its first byte in the file */
	uint32_t shard;          /* number of the file in its checkpoint; 0 in a lone file */
};

/* ---- one file -------------------------------------------------------------------------------------------- */

typedef struct tn_safetensors tn_safetensors;

/* Opens a .safetensors file and checks its whole header: length at most 100,000,000, UTF-8, strict JSON without
 * duplicate keys, known dtypes, shapes whose product fits, offsets that cover the data exactly, without hole, overlap or
 * trailing bytes. Accepted as in real files: any order of keys, `"__metadata__": null`, white space around the object,
 * data at any alignment.
 * Errors: TN_E_NOTFOUND, TN_E_IO; TN_E_FORMAT with `where` the tensor or file and `pos` the byte; TN_E_LIMIT. */
TN_API tn_status tn_safetensors_open(tn_context *ctx, const char *path, tn_safetensors **out, struct tn_error *err);

/* The same over `bytes` bytes at `data`, which stay the caller's and must outlive it. `name` stands for the path. */
TN_API tn_status tn_safetensors_open_memory(tn_context *ctx, const void *data, size_t bytes, const char *name,
					    tn_safetensors **out, struct tn_error *err);
TN_API void tn_safetensors_close(tn_safetensors *file);

TN_API const char *tn_safetensors_path(const tn_safetensors *file);
TN_API uint64_t tn_safetensors_bytes(const tn_safetensors *file);        /* of the whole file */
TN_API size_t tn_safetensors_count(const tn_safetensors *file);
/* The i-th tensor in the order of the data in the file. */
TN_API const struct tn_tensor *tn_safetensors_at(const tn_safetensors *file, size_t i);
/* NULL when there is none of that name. */
TN_API const struct tn_tensor *tn_safetensors_find(const tn_safetensors *file, const char *name);

/* The `__metadata__` entries, in the order of the file. */
TN_API size_t tn_safetensors_metadata_count(const tn_safetensors *file);
TN_API void tn_safetensors_metadata_at(const tn_safetensors *file, size_t i, const char **key, const char **value);

/* Reads `n` bytes of a tensor, from byte `offset` of its data, into dst. TN_E_ARG when they reach past its end. */
TN_API tn_status tn_safetensors_read(const tn_safetensors *file, const struct tn_tensor *tensor, uint64_t offset,
				     void *dst, size_t n, struct tn_error *err);

/* The whole tensor of that name, in a buffer that the caller releases. *tensor (may be NULL) gets its description.
 * TN_E_NOTFOUND: no such tensor. TN_E_ARG: it has no bytes ("empty"). TN_E_UNSUPPORTED: its dtype is not one that
 * computes (F32, F16, BF16, U8, U16, U32, I32, as mlx-native has them, and I8, I16, I64, U64, F64, F8_E4M3, F8_E5M2,
 * F8_E8M0); BOOL, C64, F4, F6 and the FNUZ types are read with tn_safetensors_read. */
TN_API tn_status tn_safetensors_load(const tn_safetensors *file, const char *name, struct tn_buffer *out,
				     const struct tn_tensor **tensor, struct tn_error *err);

/* ---- a folder -------------------------------------------------------------------------------------------- */

typedef struct tn_checkpoint tn_checkpoint;

/* Opens a checkpoint folder: the shards of its `*.safetensors.index.json`; without an index, beside a model.safetensors the
 * files model*.safetensors, as mlx-lm has it, else every *.safetensors file in the order of names (adapter files excepted). A
 * path to a single .safetensors file is a checkpoint of one shard.
 * Errors: TN_E_NOTFOUND: no such folder, no safetensors file in it, or a shard of the index is missing. TN_E_FORMAT:
 * a name in two shards, an index that disagrees with a header (a tensor that its shard lacks, or that the index does not
 * list), a shard name that is a path, a damaged file; each names both files. */
TN_API tn_status tn_checkpoint_open(tn_context *ctx, const char *path, tn_checkpoint **out, struct tn_error *err);
/* The same for a model that a fuse with TN_SAVE_CONSUME is using up: files that it has cut to their headers are opened too, and
 * reading their data is TN_E_IO. */
TN_API tn_status tn_checkpoint_open_consumed(tn_context *ctx, const char *path, tn_checkpoint **out,
					     struct tn_error *err);
TN_API void tn_checkpoint_close(tn_checkpoint *checkpoint);

TN_API const char *tn_checkpoint_path(const tn_checkpoint *checkpoint);
TN_API int tn_checkpoint_is_folder(const tn_checkpoint *checkpoint);
TN_API int tn_checkpoint_has_index(const tn_checkpoint *checkpoint);
TN_API size_t tn_checkpoint_shard_count(const tn_checkpoint *checkpoint);
TN_API const tn_safetensors *tn_checkpoint_shard(const tn_checkpoint *checkpoint, size_t i);
/* File name of a shard, without folder. */
TN_API const char *tn_checkpoint_shard_name(const tn_checkpoint *checkpoint, size_t i);

TN_API size_t tn_checkpoint_count(const tn_checkpoint *checkpoint);
/* Tensors in the order of names, compared bytewise. */
TN_API const struct tn_tensor *tn_checkpoint_at(const tn_checkpoint *checkpoint, size_t i);
TN_API const struct tn_tensor *tn_checkpoint_find(const tn_checkpoint *checkpoint, const char *name);
TN_API uint64_t tn_checkpoint_tensor_bytes(const tn_checkpoint *checkpoint); /* sum over the tensors */

TN_API tn_status tn_checkpoint_read(const tn_checkpoint *checkpoint, const struct tn_tensor *tensor, uint64_t offset,
				    void *dst, size_t n, struct tn_error *err);
/* As tn_safetensors_load. */
TN_API tn_status tn_checkpoint_load(const tn_checkpoint *checkpoint, const char *name, struct tn_buffer *out,
				    const struct tn_tensor **tensor, struct tn_error *err);

/* Text of config.json, or NULL when the folder has none. */
TN_API const char *tn_checkpoint_config(const tn_checkpoint *checkpoint);

#ifdef __cplusplus
}
#endif
#endif
