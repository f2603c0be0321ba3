/* Which tensors make one logical matrix, in which codec, and how many bytes of each part a row has: what a stream needs
 * to read a block of rows, decode, edit, encode and write it. */
#ifndef TN_MATRIX_H
#define TN_MATRIX_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "tenon/weights.h"

/* Where tensors come from: a checkpoint or a map in memory. */
struct tn_tensor_source {
	const void *self;
	const struct tn_tensor *(*find)(const void *self, const char *name);
	tn_status (*read)(const void *self, const struct tn_tensor *tensor, uint64_t offset, void *dst, size_t n,
			  struct tn_error *err);
};
struct tn_tensor_source tn_checkpoint_source(const tn_checkpoint *checkpoint);
struct tn_tensor_source tn_weight_map_source(const tn_weight_map *map);

/* Leading dimensions are flattened into rows, the last axis is cols; a tensor of rank 1 is one row. Part p of row r
 * stands at byte r * row_bytes[p] of part[p]. */
struct tn_matrix {
	const struct tn_tensor *part[TN_PART_COUNT]; /* NULL where the codec has none */
	const struct tn_tensor *global_scale;        /* nvfp4, or NULL */
	struct tn_format format;
	uint64_t rows, cols;
	size_t row_bytes[TN_PART_COUNT];
	struct tn_quantization q; /* resolved; all 0 for a dense matrix */
	struct tn_foreign *foreign; /* of another library (weights/foreign.h): then its rows are read with tn_matrix_read into
	                             * the form of the codec `grid`, which row_bytes are of; part[] are tensors, no rows */
};

/* `weight` is `<layer>.weight`, or `<layer>` itself. Dense (F32, F16, BF16, F64, F8_E4M3, F8_E5M2) when it has no
 * `.scales` beside it. Else a triple: the override of the configuration holds, and must fit the shapes; without one the
 * global default holds if it fits, and if not (or if there is no configuration) the shapes decide when they leave one
 * choice, as mlx-lm 0.32.2 infers them.
 * Errors: those of tn_triple_judge; TN_E_MISMATCH when shapes and configuration do not agree; TN_E_UNSUPPORTED for a
 * dtype that is no weight, and U32 without scales. */
tn_status tn_matrix_find(const struct tn_tensor_source *source, const tn_quant_config *config,
			 const struct tn_tensor *weight, struct tn_matrix *out, struct tn_error *err);

/* A foreign module as a matrix; what only its data tells is looked at (tn_foreign_settle). Memory is the arena's. */
struct tn_foreign_set;
tn_status tn_matrix_of_foreign(struct tn_foreign_set *set, struct tn_foreign *module, struct tn_arena *arena,
			       struct tn_matrix *out, struct tn_error *err);

/* Reads rows [first, first + count) of each part to parts[p], row_bytes[p] apart. A foreign matrix needs `raw`, memory of
 * raw_row_bytes * count + raw_fixed_bytes, 0 of the others; what a write needs is then in *block. */
struct tn_foreign_block;
uint64_t tn_matrix_raw_row_bytes(const struct tn_matrix *matrix);
uint64_t tn_matrix_raw_fixed_bytes(const struct tn_matrix *matrix);
tn_status tn_matrix_read(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			 const struct tn_matrix *matrix, uint64_t first, uint64_t count, unsigned char *const *parts, void *raw,
			 struct tn_foreign_block *block, struct tn_error *err);

/* The format for rows from `row` on, up to *end: a stack of experts may have one global scale for each. */
tn_status tn_matrix_format_at(const struct tn_tensor_source *source, const struct tn_matrix *matrix, uint64_t row,
			      struct tn_format *format, uint64_t *end, struct tn_error *err);

/* The dtype of the values that MLX decodes to: of affine's scales; BF16 for the others, F32 with a global scale. */
tn_dtype tn_matrix_dtype(const struct tn_matrix *matrix);

/* What a matrix [rows, cols] becomes in another format: row_bytes of each part, and shape and dtype of its tensors.
 * `shape` and `rank` are those of the logical tensor; part_shape differs from it in the last size only. */
struct tn_part_plan {
	size_t row_bytes; /* 0: no such part */
	uint64_t last;    /* last size of the part's shape */
	tn_dtype dtype;
};
void tn_format_parts(const struct tn_format *format, uint64_t cols, struct tn_part_plan parts[TN_PART_COUNT]);

/* ---- siblings -------------------------------------------------------------------------------------------- */

typedef enum tn_triple { TN_TRIPLE_ABSENT, TN_TRIPLE_VALID } tn_triple;

/* Judges `<layer>.scales` and `<layer>.biases` beside a weight, without looking at widths: the errors that
 * tenon/weights.h lists at tn_quantize_weights. `layer_length` bytes of weight->name are the layer. *q gets the
 * resolved parameters of a valid triple, unless `config` is NULL, where the mode is told by the scales alone. `op`
 * names the caller. */
tn_status tn_triple_judge(const struct tn_tensor_source *source, const tn_quant_config *config,
			  const struct tn_tensor *weight, const char *op, tn_triple *out, struct tn_quantization *q,
			  struct tn_error *err);

/* 1 for the `.weight` of a triple; 1 for the `.scales`, `.biases` or `.global_scale` of one. By names and dtype alone. */
int tn_is_triple(const tn_checkpoint *checkpoint, const struct tn_tensor *weight);
int tn_is_triple_part(const tn_checkpoint *checkpoint, const struct tn_tensor *tensor);

/* Bytes of a tensor name that are the layer: all but ".weight". */
size_t tn_layer_length(const char *weight_name);

/* `<layer><suffix>` in a buffer of the caller; 0 when it does not fit, and then no tensor has that name. */
enum { TN_NAME_BYTES = 4096 };
int tn_sibling_name(char name[TN_NAME_BYTES], const char *weight_name, const char *suffix);

#endif
