/* The header of a safetensors file: from text to checked descriptions, and back.
 * Rules and their numbers: safetensors 0.8, safetensors/src/tensor.rs; the duplicate check is stricter than there. */
#ifndef TN_ST_HEADER_H
#define TN_ST_HEADER_H

#include "base/arena.h"
#include "base/text.h"
#include "tenon/checkpoint.h"

enum { TN_ST_LONGEST_HEADER = 100000000 };

struct tn_st_metadata {
	const char *key, *value;
};

struct tn_st_header {
	struct tn_tensor *tensors;          /* in the order of the data */
	const struct tn_tensor **by_name;   /* the same, in the order of names */
	size_t count;
	struct tn_st_metadata *metadata;
	size_t metadata_count;
};

/* In place of the size of a file whose data are gone: the header alone says where they were. */
#define TN_ST_CUT UINT64_MAX

/* Parses the `length` bytes of JSON at `text`, which stand 8 bytes into a file of `file_bytes` bytes. All memory comes
 * from the arena. `where` names the file in errors. */
tn_status tn_st_header_parse(struct tn_arena *arena, const char *text, size_t length, uint64_t file_bytes,
			     const char *where, struct tn_st_header *out, struct tn_error *err);

/* Sorts descriptions into the order in which the reference implementation lays out files (dtype descending, then name),
 * gives them offsets behind a header of that content, and appends the header with its length word to `text`, padded with
 * spaces so that the data begins at a multiple of 8. TN_E_ARG: a name is "__metadata__" or
 * not UTF-8, or a name or a key stands twice. */
tn_status tn_st_header_layout(struct tn_tensor **tensors, size_t count, const struct tn_st_metadata *metadata,
			      size_t metadata_count, struct tn_text *text, struct tn_error *err);

#endif
