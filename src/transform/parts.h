/* The tensors of one matrix, row by row: what a fuse and a conversion read and write. */
#ifndef TN_PARTS_H
#define TN_PARTS_H

#include "base/arena.h"
#include "base/direct.h"
#include "tenon/checkpoint.h"
#include "transform/output.h"
#include "weights/matrix.h"

/* A tensor, and the file that it is in when that is not the base's. */
struct tn_stored {
	const struct tn_tensor *tensor;   /* NULL: no such part */
	const tn_safetensors *file;       /* NULL: the base */
};

/* Lays room for `rows` rows of each part out at `at`; returns what is behind it, aligned to 64 as `at` is. `tensors` (NULL: none)
 * are those whose rows from `first` on are read into it or written from it, so that they can pass between file and memory
 * without a copy (base/direct.h). */
unsigned char *tn_parts_place(unsigned char *at, const struct tn_tensor *const *tensors, uint64_t first, uint64_t rows,
			      const size_t row_bytes[TN_PART_COUNT], unsigned char *parts[TN_PART_COUNT]);
/* What that takes at most, for any number of rows, beside the rows. */
enum { TN_PARTS_PADDING = (TN_DIRECT_PAGE + 128) * TN_PART_COUNT };

tn_status tn_parts_read(const tn_checkpoint *base, const struct tn_stored stored[TN_PART_COUNT],
			const size_t row_bytes[TN_PART_COUNT], uint64_t first, uint64_t rows,
			unsigned char *const *dst, struct tn_error *err);
tn_status tn_parts_write(struct tn_output *output, size_t shard, struct tn_tensor *const *outputs,
			 const struct tn_part_plan *plan, uint64_t first, uint64_t rows,
			 unsigned char *const *src, struct tn_error *err);

/* Describes the tensors of a matrix of that shape in a format: `<layer>.weight`, `.scales`, `.biases`, or `name` alone.
 * plan and outputs are filled; outputs that do not exist stay NULL. */
tn_status tn_parts_describe(struct tn_arena *arena, const char *name, const struct tn_tensor *like, uint64_t rows,
			    uint64_t cols, const struct tn_format *format, struct tn_part_plan plan[TN_PART_COUNT],
			    struct tn_tensor *outputs[TN_PART_COUNT], struct tn_error *err);

/* Any tensor as rows of `cols` elements. */
struct tn_matrix tn_parts_dense(const struct tn_tensor *tensor, uint64_t cols);

/* "affine, 4 bits, group 64", or "BF16". */
tn_status tn_parts_text(struct tn_arena *arena, const struct tn_format *format, const char **out, struct tn_error *err);

#endif
