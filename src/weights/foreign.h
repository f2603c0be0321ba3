/* Matrices that other libraries quantized: which tensors make one, and its rows as floats. docs/foreign.md has the layouts.
 *
 * Every such format is, row by row, W = (table[code] - zero) * scale: codes of at most 8 bits, a table of what they stand
 * for, and scales and zero points by group. What differs is how codes, scales and zero points lie; a struct tn_foreign says
 * that, foreign_<family>.c fill it in and check it, foreign_read.c follows it. */
#ifndef TN_FOREIGN_H
#define TN_FOREIGN_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "weights/foreign_config.h"
#include "weights/matrix.h"

/* What a code stands for. */
enum tn_element {
	TN_ELEMENT_TABLE, TN_ELEMENT_UNSIGNED, TN_ELEMENT_I8, TN_ELEMENT_E4M3, TN_ELEMENT_E5M2, TN_ELEMENT_E2M1, TN_ELEMENT_E2M3,
	TN_ELEMENT_E4M3FNUZ, TN_ELEMENT_E5M2FNUZ,
	TN_ELEMENT_CENTRED,  /* + bits: code - 2^(bits - 1) */
	TN_ELEMENT_COUNT = TN_ELEMENT_CENTRED + 9
};

/* How a part stands against the rows of W: a cell serves `cell_rows` rows (flat: values). */
struct tn_slab {
	const struct tn_tensor *tensor;      /* NULL: there is no such part */
	uint64_t cell_rows, cell_bytes;
	uint64_t stored;                     /* 0: cells one behind the other. Else this many stored rows have each their piece
	                                      * of every cell: formats that pack along the columns of W */
	uint64_t matrix_rows, matrix_cells;  /* cells begin anew with each matrix of a stack */
	int flat;
};

enum { TN_FOREIGN_CODES, TN_FOREIGN_SCALES, TN_FOREIGN_ZEROS, TN_FOREIGN_NESTED, TN_FOREIGN_PARTS };

enum tn_foreign_scales {
	TN_SCALES_ROW,       /* a cell has the scales of its rows' groups */
	TN_SCALES_COLUMN,    /* stored row g has scale g of every row */
	TN_SCALES_MARLIN,    /* the same, columns permuted in runs of 64, or of 32 when there is one group */
	TN_SCALES_FLAT       /* one after the other over the flat matrix */
};

enum tn_foreign_zeros {
	TN_ZEROS_NONE,
	TN_ZEROS_ROW,          /* like scales; I8 */
	TN_ZEROS_ROW_STREAM,   /* a cell has the groups of a row as a stream */
	TN_ZEROS_DOWN_STREAM,  /* a cell has words for many rows: column g is a stream down the rows */
	TN_ZEROS_COLUMN_STREAM,/* stored row g is a stream over the rows */
	TN_ZEROS_COLUMN_PLANES,/* the same, 32 in planes of bits */
	TN_ZEROS_COLUMN_AWQ,   /* the same, nibbles in AutoAWQ's order */
	TN_ZEROS_COLUMN_FLOAT  /* stored row g has a float for each row; it is added after scaling */
};

struct tn_foreign {
	struct tn_tensor weight;    /* the matrix as it would be when dense: name, logical shape; `bytes` of all its parts,
	                             * dtype, offset and shard of its codes */
	const char *scheme;         /* "gptq", "nf4", ...: static text */
	tn_dtype dtype;             /* what the library decodes to */
	uint64_t rows, cols;
	uint64_t group, groups;     /* columns that share a scale; how many such groups a row has */
	uint8_t bits;               /* of one code */
	enum tn_packing packing;
	enum tn_foreign_scales scales;
	enum tn_foreign_zeros zeros;
	struct tn_slab part[TN_FOREIGN_PARTS];
	const float *table;         /* [256] */
	uint8_t element;            /* enum tn_element; TN_ELEMENT_TABLE for one of the file's own */
	uint8_t zeros_centred;      /* all zero points are 2^(bits - 1) */
	const uint32_t *group_of;   /* [cols], or NULL */
	uint32_t zero_word;         /* added to each word of zero points: GPTQ v1 stores z - 1 */
	uint8_t zero_plus;          /* the same for each zero point, modulo 2^bits */
	uint8_t words_padded;       /* zero points: floor(32 / bits) in each word */
	const float *nested_map;    /* [256]; scales are nested_map[byte] * nested + nested_offset */
	float nested_offset;
	enum { TN_GLOBAL_NONE, TN_GLOBAL_TIMES, TN_GLOBAL_OVER } global; /* scales are multiplied or divided by global_scale */
	float global_scale;
	float factor;               /* 1, or what the product is multiplied by */
};

/* All of a checkpoint. Judges every module; an error names the tensor or key. *out has no modules when nothing is foreign. */
struct tn_foreign_set;
tn_status tn_foreign_set_create(tn_context *ctx, const tn_checkpoint *checkpoint, struct tn_foreign_set **out,
				struct tn_error *err);
void tn_foreign_set_destroy(struct tn_foreign_set *set);
/* The same in memory of an arena, which frees it: it is not destroyed. */
tn_status tn_foreign_set_create_in(struct tn_arena *arena, tn_context *ctx, const tn_checkpoint *checkpoint,
				   struct tn_foreign_set **out, struct tn_error *err);
size_t tn_foreign_set_count(const struct tn_foreign_set *set);

/* What tensor i of the checkpoint is: *module is set for the one that holds the codes; TN_FOREIGN_PART is another tensor of
 * a module, which has no place beside the dense weight. */
typedef enum tn_foreign_role { TN_FOREIGN_PLAIN, TN_FOREIGN_MODULE, TN_FOREIGN_PART } tn_foreign_role;
tn_foreign_role tn_foreign_set_at(const struct tn_foreign_set *set, size_t i, struct tn_foreign **module);
/* The module that tensor t of the checkpoint is a part of, codes or others; NULL: none. *codes is 1 where it holds the codes. */
struct tn_foreign *tn_foreign_set_owner(const struct tn_foreign_set *set, const struct tn_tensor *t, int *codes);
/* The module that is that weight when dense; NULL: none. */
struct tn_foreign *tn_foreign_set_find(const struct tn_foreign_set *set, const char *weight);

/* "gptq, 4 bits, group 128" */
tn_status tn_foreign_text(struct tn_arena *arena, const struct tn_foreign *f, const char **out, struct tn_error *err);

/* What needs more than headers: GPTQ zero points that contradict the label, scales of AutoAWQ that contradict the group size
 * (TN_E_MISMATCH). Called once before decoding. */
tn_status tn_foreign_settle(struct tn_foreign_set *set, struct tn_foreign *module, struct tn_error *err);

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* What a block of rows needs of one part, in memory. */
struct tn_foreign_piece {
	unsigned char *bytes;
	uint64_t first_cell;
	size_t stride;              /* between cells, or between stored rows */
	size_t width;               /* bytes of it in each stored row */
};
struct tn_foreign_block {
	uint64_t first, count;      /* rows */
	struct tn_foreign_piece piece[TN_FOREIGN_PARTS];
};

/* The form in which rows are worked on (kernels/codec_grid.c): a code in each byte, and for each group of a row a scale and a
 * zero point. Rows of bitsandbytes do not begin with a block of absmax: their groups are as large as lets them do so. */
struct tn_grid_rows {
	uint8_t *codes;             /* [rows, cols] */
	float *scales, *zeros;      /* [rows, tn_foreign_row_groups]; no zeros where f->zeros is TN_ZEROS_NONE */
};
uint64_t tn_foreign_row_groups(const struct tn_foreign *f);
/* All that a decoder needs but scales and zeros, and with an arena what the other functions of the codec need. */
tn_status tn_foreign_grid(const struct tn_foreign *f, struct tn_arena *arena, struct tn_grid *out, struct tn_error *err);

/* Memory of the pieces of n rows: raw_row_bytes * n + raw_fixed_bytes, aligned to 64. */
uint64_t tn_foreign_raw_row_bytes(const struct tn_foreign *f);
uint64_t tn_foreign_raw_fixed_bytes(const struct tn_foreign *f);
/* Reads rows [first, first + count) into `raw`, and spreads them. */
tn_status tn_foreign_load(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			  const struct tn_foreign *f, uint64_t first, uint64_t count, void *raw,
			  struct tn_foreign_block *block, const struct tn_grid_rows *rows, struct tn_error *err);

/* Rows that share bytes: blocks that are written begin at a multiple of this. */
uint64_t tn_foreign_alignment(const struct tn_foreign *f);
/* 1 when every row has scales of its own, as floats, so that they can take a factor of the row. */
int tn_foreign_scales_by_row(const struct tn_foreign *f);
/* Puts codes, and unless rows->scales is NULL scales and float zeros, into the pieces of the block, where all else stays, and
 * hands them to `put`. `outputs` [TN_FOREIGN_PARTS] are the tensors that they go to. */
struct tn_tensor_sink {
	void *self;
	tn_status (*put)(void *self, const struct tn_tensor *tensor, uint64_t offset, const void *src, size_t n,
			 struct tn_error *err);
};
tn_status tn_foreign_store(const struct tn_kernels *kernels, const struct tn_foreign *f, const struct tn_foreign_block *block,
			   const struct tn_grid_rows *rows, const struct tn_tensor_sink *sink,
			   struct tn_tensor *const outputs[TN_FOREIGN_PARTS], struct tn_error *err);

/* Reads and decodes rows [first, first + count) to dst [count][cols], rounded once to F32, F16 or BF16, within scratch of
 * row_bytes * count + fixed_bytes. */
uint64_t tn_foreign_row_bytes(const struct tn_foreign *f);
uint64_t tn_foreign_fixed_bytes(const struct tn_foreign *f);
tn_status tn_foreign_read(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			  const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch, tn_dtype dtype, void *dst,
			  struct tn_error *err);

/* What the module is in MLX's terms without loss: 1 and *q, with the dtype of scales and biases in *dtype, when it is. */
int tn_foreign_as_mlx(const struct tn_foreign *f, struct tn_quantization *q, tn_dtype *dtype);
/* The rows in that form: the parts of MLX's triple, scales and biases of `format->dtype`. TN_E_UNSUPPORTED when that dtype does
 * not hold a bias exactly and `exact` is asked for. Scratch as for tn_foreign_read. */
tn_status tn_foreign_read_mlx(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			      const struct tn_foreign *f, const struct tn_format *format, int exact, uint64_t first,
			      uint64_t count, void *scratch, const struct tn_row_out *rows, struct tn_error *err);

/* What the module is in the codec `table` (kernels/codec_table.c), in which codes keep their bits: 1 and *format, without its grid,
 * when it is. The values are those of tn_foreign_read in the module's dtype. Scratch as for tn_foreign_read. */
int tn_foreign_as_table(const struct tn_foreign *f, struct tn_format *format);
tn_status tn_foreign_read_table(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
				const struct tn_foreign *f, const struct tn_format *format, uint64_t first, uint64_t count,
				void *scratch, const struct tn_row_out *rows, struct tn_error *err);

#endif
