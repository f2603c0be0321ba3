/* Using a model folder up: once what its shards hold is safe elsewhere, they are cut to their headers one after the other.
 *
 * A header alone is no safetensors file to any program, so nothing takes the rest for a model; tenon reads it to go on after an
 * interruption. A text file in the folder says what is going on, to people and to tenon, before the first shard is cut.
 */
#ifndef TN_CONSUME_H
#define TN_CONSUME_H

#include "base/file.h"
#include "tenon/checkpoint.h"

#define TN_CONSUMED_NAME "CONSUMED-BY-TENON.txt"

struct tn_consumed {
	int is_marked, is_complete;
	char output[TN_PATH_BYTES];   /* absolute path of the folder that is made from this one */
};

/* What the text file in the folder says; without one nothing is marked. */
tn_status tn_consumed_read(tn_context *ctx, const char *folder, struct tn_consumed *out, struct tn_error *err);

/* Writes that file, durably and in one step. */
tn_status tn_consumed_mark(const char *folder, const char *output, int is_complete, struct tn_error *err);
/* Nothing was cut: the file goes again. */
tn_status tn_consumed_unmark(const char *folder, struct tn_error *err);

/* Only one run at a time uses a folder up: TN_E_EXISTS when there is another, else it lasts until *fd is closed. */
tn_status tn_consume_lock(const char *folder, int *fd, struct tn_error *err);

/* TN_E_UNSUPPORTED when the shards cannot be used up: links, which stand for files of somebody else's; names that no index
 * holds. */
tn_status tn_consume_check(const tn_checkpoint *checkpoint, struct tn_error *err);

/* Cuts a shard to its header, durably. A shard that is cut already stays so. */
tn_status tn_consume_shard(const tn_checkpoint *checkpoint, size_t shard, struct tn_error *err);
/* 1 when the data of the shard were gone when the checkpoint was opened. */
int tn_consume_is_cut(const tn_checkpoint *checkpoint, size_t shard);
/* 1 when those of some shard were. */
int tn_consume_has_begun(const tn_checkpoint *checkpoint);

/* At the end: removes the cut shards and the index of a folder that is marked complete. */
tn_status tn_consumed_clear(tn_context *ctx, const char *folder, struct tn_error *err);

/* The absolute path of a folder that need not exist, whose parent does. */
tn_status tn_consume_absolute(char out[TN_PATH_BYTES], const char *path, struct tn_error *err);

#endif
