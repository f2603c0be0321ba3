/* Arrays in memory, and rows of them through codecs. */
#ifndef TN_ARRAY_H
#define TN_ARRAY_H

#include "base/context.h"
#include "kernels/kernels.h"
#include "tenon/weights.h"

/* An owned array of that shape, its bytes not cleared. */
tn_status tn_array_make(tn_context *ctx, tn_dtype dtype, uint32_t rank, const uint64_t *shape, const char *what,
			struct tn_array *out, struct tn_error *err);
/* A view of bytes that are somebody else's. */
struct tn_array tn_array_view(tn_dtype dtype, uint32_t rank, const uint64_t *shape, const void *data);

uint64_t tn_array_elements(const struct tn_array *array);

/* n elements from element `first` as float32: floats and integers. */
tn_status tn_array_floats(const struct tn_array *array, uint64_t first, size_t n, float *dst, struct tn_error *err);

/* Rows of a matrix in memory. part[p] advances by row_bytes[p] with each row. */
struct tn_row_block {
	struct tn_format format;
	uint64_t rows;
	size_t cols;
	void *part[TN_PART_COUNT];
	size_t row_bytes[TN_PART_COUNT];
};
/* Fills row_bytes from the format. */
void tn_row_block_init(struct tn_row_block *rows, const struct tn_format *format, uint64_t count, size_t cols);

/* Every row of `src` decoded and encoded into the same row of `dst`, on the workers of the context. */
tn_status tn_row_block_convert(tn_context *ctx, const struct tn_row_block *dst, const struct tn_row_block *src,
			       struct tn_error *err);

#endif
