/* Writing a safetensors file of known layout: header first, then the tensors' bytes in any order, from any thread. */
#ifndef TN_ST_WRITER_H
#define TN_ST_WRITER_H

#include "store/st_header.h"

struct tn_st_writer;

/* Creates `path`, which must not exist, lays out `tensors` (sorted in place; their offsets are set) and writes the
 * header. The room for the data is reserved, so that a full disk is found before the work begins; with `sparse` it is not,
 * and what is never put stays a hole that reads as zeros. The tensors must outlive the writer. */
tn_status tn_st_writer_create(tn_context *ctx, const char *path, struct tn_tensor **tensors, size_t count,
			      const struct tn_st_metadata *metadata, size_t metadata_count, int sparse,
			      struct tn_st_writer **out, struct tn_error *err);

/* For a file that an earlier run has finished: lays out `tensors` as for a new one, and checks that the file has exactly that
 * header and that size. TN_E_FORMAT when it has not. */
tn_status tn_st_file_matches(tn_context *ctx, const char *path, struct tn_tensor **tensors, size_t count,
			     const struct tn_st_metadata *metadata, size_t metadata_count, struct tn_error *err);

/* n bytes of a tensor from byte `offset` of its data. Thread-safe for bytes that do not overlap. */
tn_status tn_st_writer_put(struct tn_st_writer *writer, const struct tn_tensor *tensor, uint64_t offset, const void *src,
			   size_t n, struct tn_error *err);

/* Makes the file durable and closes it. Frees the writer whatever the outcome. */
tn_status tn_st_writer_finish(struct tn_st_writer *writer, struct tn_error *err);

/* Closes without care for the contents; the file stays for its owner to remove. NULL allowed. */
void tn_st_writer_abort(struct tn_st_writer *writer);

#endif
