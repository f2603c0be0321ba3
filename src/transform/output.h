/* A model folder being written: shards with known layout, and all the files that travel with the weights. */
#ifndef TN_OUTPUT_H
#define TN_OUTPUT_H

#include "store/st_index.h"
#include "store/st_writer.h"
#include "store/staging.h"
#include "tenon/transform.h"

/* One shard of the output. */
struct tn_output_shard {
	const char *name;
	struct tn_tensor **tensors;   /* sorted by tn_output_begin into the order of the file */
	size_t count;
	const struct tn_st_metadata *metadata;
	size_t metadata_count;
	int sparse;                   /* what is never put stays a hole */
};

struct tn_output;

/* Where and how a folder is written. */
struct tn_output_place {
	const char *path;
	unsigned flags;               /* of enum tn_save_flags */
	unsigned char plan_id[TN_PLAN_ID_BYTES];
};

/* Begins the folder and lays out its shards, with room reserved for all of them. The shards must outlive it. */
tn_status tn_output_begin(tn_context *ctx, const struct tn_output_place *place, const struct tn_output_shard *shards,
			  size_t count, struct tn_output **out, struct tn_error *err);

/* 1 when the shard was finished by the run that is taken up again: nothing is put into it, and it is not finished again. */
int tn_output_has_shard(const struct tn_output *output, size_t shard);

/* With TN_SAVE_CONSUME a shard takes no room before it is opened; others are open from the beginning. */
tn_status tn_output_open_shard(struct tn_output *output, size_t shard, struct tn_error *err);

/* See store/staging.h. */
tn_status tn_output_protect(struct tn_output *output, struct tn_error *err);
tn_status tn_output_remark(struct tn_output *output, const char *text, struct tn_error *err);

/* Bytes of a tensor of shard `shard`; thread-safe for bytes that do not overlap. */
tn_status tn_output_put(struct tn_output *output, size_t shard, const struct tn_tensor *tensor, uint64_t offset,
			const void *src, size_t n, struct tn_error *err);

/* All bytes of a shard have been put: makes it durable and closes it. Once for each shard. */
tn_status tn_output_finish_shard(struct tn_output *output, size_t shard, struct tn_error *err);

/* Copies every sidecar of the model folder `from`: tokenizer, chat templates, generation config, code, licence; not the one
 * called `except` (NULL: none). One that cannot be read is an error: the model would not be whole without it. */
tn_status tn_output_copy_sidecars(struct tn_output *output, const char *from, const char *except, struct tn_error *err);
/* Copies what other libraries keep their quantization in beside config.json, where there is such a file. */
tn_status tn_output_copy_quantization(struct tn_output *output, const char *from, struct tn_error *err);
tn_status tn_output_write(struct tn_output *output, const char *name, const void *bytes, size_t n, struct tn_error *err);

/* Writes the index and puts the folder in its place; `parameters` is the number of logical ones. Frees the output when it
 * succeeds. */
tn_status tn_output_commit(struct tn_output *output, uint64_t parameters, tn_index_style style, struct tn_error *err);
/* Removes everything. NULL allowed. */
void tn_output_abort(struct tn_output *output);

/* Refuses to write over a base, a folder and its shards, wherever links lead. */
tn_status tn_output_check_base(const char *save_path, const tn_checkpoint *base, struct tn_error *err);

#endif
