/* An open safetensors file from inside. */
#ifndef TN_STORE_SAFETENSORS_H
#define TN_STORE_SAFETENSORS_H

#include "base/file.h"
#include "store/st_header.h"

struct tn_safetensors {
	tn_context *ctx;
	struct tn_arena arena;      /* holds this struct too */
	struct tn_file file;        /* closed when the bytes are in memory */
	const unsigned char *memory;
	uint64_t bytes;
	int may_be_cut;             /* see tn_safetensors_open_cut */
	const char *path;
	struct tn_st_header header;
};

/* As tn_safetensors_open, of a file that is open already: it is the result's then, and closed when this fails. */
tn_status tn_safetensors_open_file(tn_context *ctx, struct tn_file *file, const char *path, tn_safetensors **out,
				   struct tn_error *err);
/* As tn_safetensors_open; a file that ends with its header, because its data were used up, is opened too. */
tn_status tn_safetensors_open_cut(tn_context *ctx, const char *path, tn_safetensors **out, struct tn_error *err);
/* Bytes of the length word and the header. */
tn_status tn_safetensors_header_bytes(const tn_safetensors *file, uint64_t *bytes, struct tn_error *err);

/* Binary search in descriptions sorted by name; NULL when absent. */
const struct tn_tensor *tn_tensor_find(const struct tn_tensor *const *by_name, size_t count, const char *name);

/* A tensor of the file in a buffer of its own; the checks of tn_safetensors_load. */
tn_status tn_tensor_load(const tn_safetensors *file, const struct tn_tensor *tensor, struct tn_buffer *out,
			 struct tn_error *err);

/* n bytes from byte `offset` of the tensor on, through those of the tensors behind it. */
tn_status tn_safetensors_read_on(const tn_safetensors *file, const struct tn_tensor *tensor, uint64_t offset, void *dst, size_t n,
				 struct tn_error *err);

/* 1 when n bytes of the tensor from `offset` are a hole in the file; in memory there are none. */
int tn_tensor_is_hole(const tn_safetensors *file, const struct tn_tensor *tensor, uint64_t offset, uint64_t n);

#endif
