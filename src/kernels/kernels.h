/* The kernel table: everything that runs once per element. Pointers and sizes only: no heap, no I/O, no errors.
 *
 * Plain C in portable.c and codec_*.c, compiled once for each instruction set of isa.def with -ffp-contract=off and
 * sums of fixed order, so that every instruction set gives the same bits; hand-written overrides (vector/, x86/, arm/) say in
 * kernels.def when they do not. Pointers to numbers have the alignment of their type and no more; the parts of a row have
 * none.
 */
#ifndef TN_KERNELS_H
#define TN_KERNELS_H

#include "tenon/base.h"

/* ---- codecs ---------------------------------------------------------------------------------------------- */

enum tn_codec_id {
#define CODEC(name) TN_CODEC_##name,
#include "kernels/codecs.def"
#undef CODEC
	TN_CODEC_COUNT
};

/* Which MLX backend an encoder agrees with, byte for byte; the numbers of tn_flavour in tenon/weights.h. Decoding does
 * not depend on it. */
enum { TN_ENCODE_CPU, TN_ENCODE_METAL, TN_ENCODE_CUDA };

/* What codes are that kernels know without their table. */
enum tn_code_kind { TN_CODES_ANY, TN_CODES_E4M3, TN_CODES_I8 };

/* How one matrix lies on disk; the same for all of its rows. Fields that a codec does not use are 0. */
struct tn_format {
	enum tn_codec_id codec;
	tn_dtype dtype;            /* dense: of the elements. affine: of scales and biases. table: what values are
	                            * rounded to. Float codecs: of the values that are encoded (F32, F16, BF16), whose
	                            * arithmetic MLX rounds in */
	uint8_t bits;              /* of one code */
	uint8_t flavour;           /* TN_ENCODE_* */
	uint16_t group;            /* elements that share a scale */
	uint8_t like_mlx;          /* decode with MLX's own roundings, in `dtype`, in place of exactly */
	uint8_t has_global_scale;
	uint8_t code_kind;         /* table: enum tn_code_kind */
	float global_scale;        /* nvfp4: absolute maximum of the tensor; values are scaled by 2688 / global_scale */
	const struct tn_grid *grid; /* grid, table: what the codes mean, without scales and zeros, which are the row's */
};

/* A codec keeps a row in up to this many tensors: weight, scales, biases. */
enum { TN_PART_WEIGHT, TN_PART_SCALES, TN_PART_BIASES, TN_PART_COUNT };

/* Where the parts of a row stand; unused parts are NULL. */
struct tn_row {
	const void *part[TN_PART_COUNT];
};
struct tn_row_out {
	void *part[TN_PART_COUNT];
};

/* What dithering did to the codes of one or more rows; it adds to what is there. */
struct tn_dither_counts {
	uint64_t moved;      /* codes that changed */
	uint64_t clamped;    /* codes that should have gone beyond the grid */
};

struct tn_change_sums;
struct tn_refit;

/* decode: one row, dst [cols]: the exact value, rounded once to float32 (like_mlx: as MLX rounds). Rows are
 * independent, and so are whole groups: with the parts advanced, any run of groups of a row is a row.
 * encode: one row, src [cols], rounded once (codec_*.c say how). NULL where a codec only reads.
 * dither: one row, its codes moved so that the row changes by d [cols] on average (kernels/dither.h); scales and biases are
 * read and stay, and the codes do not overlap src's. u is a hash of (seed, row, column), so the result depends on nothing else.
 * NULL where there are no codes.
 * nearest: the same without chance: each code to the value next to it plus d. NULL where `encode` fits scales anew.
 * steps2: the sum of the squares of the distances between the two grid values around each value: how much a code can move it.
 * NULL likewise.
 * change_sums: the kernel of that name for two rows of one format, by the bytes that they are. 0, or NULL: it has to be done with
 * values.
 * refit: W + D as mlx_lm.fuse has it, of one format, in one go: what decode with like_mlx, round_sums, encode and change_sums make
 * one after the other, and how many codes differ. 0, or NULL: it has to be done like that; what was written until then is void.
 * part_bytes: bytes of one row in that part; 0 when the codec has no such part. cols is a multiple of the group. */
struct tn_codec {
	const char *name;          /* of quantized codecs: the "mode" of MLX */
	void (*decode)(float *dst, const struct tn_row *src, const struct tn_format *format, size_t cols);
	void (*encode)(const struct tn_row_out *dst, const float *src, const struct tn_format *format, size_t cols);
	void (*dither)(void *codes, const struct tn_row *src, const float *d, const struct tn_format *format, size_t cols,
		       uint64_t seed, uint64_t row, struct tn_dither_counts *counts);
	void (*nearest)(void *codes, const struct tn_row *src, const float *d, const struct tn_format *format, size_t cols,
			struct tn_dither_counts *counts);
	double (*steps2)(const struct tn_row *src, const struct tn_format *format, size_t cols);
	int (*change_sums)(struct tn_change_sums *sums, uint16_t *halves, const struct tn_row *before, const struct tn_row *after,
			   const struct tn_format *format, const float *wanted, size_t cols);
	int (*refit)(struct tn_refit *refit, const struct tn_row_out *dst, const struct tn_row *src, const struct tn_format *format,
		     size_t cols);
	size_t (*part_bytes)(const struct tn_format *format, unsigned part, size_t cols);
	/* For the quantized ones; the rest is 0 for dense. The first of each list is the default, 0 ends it. */
	uint8_t bits[8];
	uint8_t groups[4];
	uint8_t byte_scales;       /* scales are U8; else of the format's dtype */
	uint8_t has_biases;
	uint8_t takes_global_scale;
};

/* Rows of a matrix in memory: part p of row i stands at first.part[p] + i * stride[p]. */
struct tn_rows {
	struct tn_row first;
	size_t stride[TN_PART_COUNT];
};
struct tn_rows_out {
	struct tn_row_out first;
	size_t stride[TN_PART_COUNT];
};

/* Rows from one format into another: the bytes that decode and encode make by way of float32. */
struct tn_recoding {
	const struct tn_format *from, *to;
	size_t rows, cols;
	int is_far;                /* so much that nobody finds the result in a cache: it may be written past them */
	float *values;             /* [cols], scratch */
};

/* ---- codes of other libraries ---------------------------------------------------------------------------- */

/* How the codes of a matrix [rows, cols] lie. `stored row` is a run of `stride` bytes in memory. */
enum tn_packing {
	TN_PACK_STREAM,      /* stored row is a row: a dense bit stream, first code lowest */
	TN_PACK_WORDS,       /* the same with floor(32 / bits) codes in each 32-bit word */
	TN_PACK_HIGH_FIRST,  /* bitsandbytes: nibbles over the flat matrix, high half of a byte first */
	TN_PACK_COLUMNS,     /* GPTQ: [cols * bits / 32][rows] words, the stream runs down each column */
	TN_PACK_PLANES,      /* gptq_p: the same, 32 codes in planes of 4, 2 and 1 bits */
	TN_PACK_AWQ,         /* AutoAWQ gemm: [cols][rows / 8] words, nibbles in the order 0 4 1 5 2 6 3 7 */
	TN_PACK_AWQ_FAST,    /* AutoAWQ gemv_fast: [rows / 4][cols] half words */
	TN_PACK_MARLIN       /* [cols / 16][rows * 2] words */
};
struct tn_packed {
	enum tn_packing packing;
	unsigned bits;             /* at most 8 */
	const unsigned char *bytes;
	size_t stride;
};

/* The values of a table in their order. */
struct tn_levels {
	unsigned count;            /* values, all finite; at least 1 */
	uint8_t code[256];         /* [count] ascending; of codes with the same value the lowest */
	float value[256];          /* [count] their values */
	uint8_t rank[256];         /* where the value of a code stands in `code` */
	float gap[256];            /* of a code: the wider of the distances to its neighbours; 0: it is none of them, and stays */
};

/* What the codes of a row mean: (table[code] - zeros[g]) * scales[g], or table[code] * scales[g] + zeros[g], then times
 * factor; each operation rounded to float32. g is group_of[i], or (offset + i) / group. */
struct tn_grid {
	const float *table;        /* [256] */
	unsigned code_count;       /* codes lie below it */
	const float *scales, *zeros; /* zeros may be NULL */
	const uint32_t *group_of;  /* or NULL */
	size_t group, offset;
	int add_zeros;
	float factor;
	const struct tn_levels *levels; /* the codec needs them, decoding alone does not */
	int has_zeros;             /* of the codec: rows have zeros */
	int is_even;               /* table[code] is table[0] + code for all codes of the matrix, 2^bits of them */
};

/* ---- products -------------------------------------------------------------------------------------------- */

/* How exactly activations enter a product; errors against the product in double, relative to its largest element. */
enum tn_precision {
	TN_PRECISION_EXACT,   /* float32 activations and sums, or better: 1e-5. What everything uses unless it is told */
	TN_PRECISION_16,      /* rounded to 16 bits: 5e-5 */
	TN_PRECISION_INT8     /* rounded to 8 bits, a scale for each group */
};

/* y = x W^T for some rows of W. */
struct tn_product {
	const struct tn_format *format;   /* of W */
	size_t cols;                      /* of a row of W, and of x */
	size_t m;                         /* rows of x, at least 1 */
	enum tn_precision precision;
	tn_dtype x_dtype;                 /* BF16 or F16: every x is one; anything else promises nothing */
};

/* Rows [first, first + count) of activations x [m, cols]. */
struct tn_vectors {
	const float *x;                   /* row 0 */
	size_t stride;                    /* elements from row to row */
	size_t first, count;
};

/* So many x may be prepared into the same piece of memory. */
enum { TN_PREPARED_TOGETHER = 16 };

/* ---- W + scale * B A ------------------------------------------------------------------------------------- */

/* How many bits the factors of a product need: with few of them every product of two is a float32, and a fused multiply-add
 * is the same as the two roundings. */
enum tn_factor_width {
	TN_FACTORS_WIDE,
	TN_FACTORS_SHORT,    /* at most 12 significant bits, as in F16 */
	TN_FACTORS_BF16      /* BF16 values, none of them subnormal */
};

/* Rows of 16-bit numbers and the product that is added to them. For each element, in float32 with every operation rounded:
 * sum = 0, then += b[k] a[k] for k = 1, 0, 3, 2, 5, 4 ...; result = w + scale * sum, rounded once to the dtype. Where that is
 * so small beside the products that their roundings could show, or overflows, the element is computed in double (add_product.h).
 * A row with a magnitude is multiplied by that over its length before it is rounded: squares in float32, in 16 lanes, lane
 * j % 16, over the columns of a panel; what the lanes come to in double; and the 16 in order at the end. A row without any
 * length keeps that. */
struct tn_add_product {
	const float *a;      /* [rank, cols] */
	const float *b;      /* [rows, rank] */
	size_t rank, cols, rows;
	double scale;
	tn_dtype dtype;      /* BF16 or F16 */
	enum tn_factor_width width; /* of both factors: a promise; tn_delta_width finds it */
	const float *row_magnitude; /* [rows]; or NULL */
};

/* Columns that share a limit below which elements are looked at again. */
enum { TN_PANEL_COLS = 512, TN_PACKED_FLOATS = 1 << 16, TN_MOST_TILE_ROWS = 8 };

/* Columns of A that are packed at once: as many as half of a usual second cache holds. */
static inline size_t tn_add_product_packed_cols(size_t rank, size_t cols)
{
	size_t panels = TN_PACKED_FLOATS / TN_PANEL_COLS / (rank ? rank : 1), all = cols / TN_PANEL_COLS + 1;
	panels = panels ? panels : 1;
	return (panels < all ? panels : all) * TN_PANEL_COLS;
}

/* Scratch of add_product in bytes, aligned to 64. */
static inline size_t tn_add_product_scratch(size_t rank, size_t cols)
{
	size_t packed = tn_add_product_packed_cols(rank, cols);
	return ((rank + 1) * (packed + TN_MOST_TILE_ROWS) + packed / TN_PANEL_COLS) * sizeof(float);
}

enum { TN_GAIN_ROWS = 32 };

/* The same for rows with a magnitude: a row is summed as a whole before it is multiplied, so all of A is packed when that is
 * not very much. If it is, TN_GAIN_ROWS are summed each time that parts of it are. */
static inline size_t tn_gain_packed_cols(size_t rank, size_t cols)
{
	size_t panels = 16 * TN_PACKED_FLOATS / TN_PANEL_COLS / (rank ? rank : 1), all = cols / TN_PANEL_COLS + 1;
	panels = panels ? panels : 1;
	return (panels < all ? panels : all) * TN_PANEL_COLS;
}

/* Floats between the sums of two rows, which would evict each other a power of two apart. */
static inline size_t tn_gain_stride(size_t cols)
{
	return (cols + 63) / 64 * 64 + 16;
}

static inline size_t tn_gain_product_scratch(size_t rank, size_t cols)
{
	size_t packed = tn_gain_packed_cols(rank, cols), rows = packed < cols ? TN_GAIN_ROWS : TN_MOST_TILE_ROWS;
	size_t of_row = tn_gain_stride(cols) + 1 + 2 * 16, of_columns = cols / TN_PANEL_COLS + 1;
	return ((rank + 1) * (packed + TN_MOST_TILE_ROWS) + rows * of_row + of_columns) * sizeof(float);
}

/* ---- products that stay apart, and what became of them ---------------------------------------------------- */

enum { TN_ROWS_AT_ONCE = 4, TN_DIRECTION_COLS = 32, TN_CHANGE_RUN = 1024 };

/* A right factor, for many rows. */
struct tn_lowrank {
	const float *a;      /* [rank, cols] */
	const void *packed;  /* by lowrank_pack */
	float least;         /* the smallest magnitude in it that is not 0; 0: not known, or products may overflow */
	size_t rank, cols;
	enum tn_factor_width width; /* of A: a promise */
};

/* What was wanted of a row, squared; what it is off by, squared; and both multiplied. Of float32 values in 32 lanes, lane j % 32,
 * every operation rounded; after each TN_CHANGE_RUN columns lanes half of 32, 16, 8, 4, 2 apart are added, and that in double. */
struct tn_change_sums {
	double wanted2, error2, both;
};

/* What is added to a row that is written again, and what became of it. */
struct tn_refit {
	const float *product;       /* what MLX adds, before it is rounded to product_dtype */
	tn_dtype product_dtype;
	const float *wanted;
	uint16_t *halves;           /* the change; change_sums says how */
	struct tn_change_sums sums; /* added to */
	uint64_t moved;             /* added to */
};

/* ---- the table ------------------------------------------------------------------------------------------- */

/* Attention: keys in blocks, [block][width][TN_KEY_BLOCK], the last one whole, whatever the numbers in it are; values as rows. Up
 * to TN_QUERY_GROUP queries that look at keys of one head: q [width][queries], scores [block][queries][TN_KEY_BLOCK]. Keys are
 * counted from the first of the first block. */
enum { TN_KEY_BLOCK = 16, TN_QUERY_GROUP = 8 };

/* Keys [first, end): those that a query looks at, at least one. */
struct tn_key_span {
	size_t first, end;
};

enum { TN_LEVEL_BLOCK = 64, TN_PANEL = 16 };

/* lowrank_f32: dst[j] = sum over k of b[k] * a[k][j]     a [rank, cols], b [rank] -> dst [cols]; k ascending, from 0.
 * lowrank_f64: the same in double, for results that are rounded to float32.
 * dot_f32: sum of a[i] * b[i] in 16 lanes, lane i % 16, added pairwise at the end.
 * axpy_f32: y[i] += a * x[i].
 * lowrank_bytes: of A as lowrank_rows wants it, aligned to 64; 0: as it is. lowrank_pack makes it, and returns its `least`.
 * lowrank_rows: up to TN_ROWS_AT_ONCE rows of lowrank_f32, with the same bits; b [rows, rank] -> dst [rows, cols], stride in
 *   elements. Scratch: rows * rank floats.
 * round_sums: dst = w + d in the dtype, F16 or BF16, all [n]: d rounded to the dtype `product`, then to that of dst, and so the
 *   sum.
 * change_sums: sums of one row; change is after - before, all [n]. halves [n, up to a multiple of TN_DIRECTION_COLS] gets it in
 *   BF16, subnormal numbers as 0, zeros behind.
 * project_rows: dst[i][k] = sum over j of direction k [j] * halves i [j]: up to TN_ROWS_AT_ONCE rows of what change_sums made, at
 *   `stride` elements, and what tn_directions_make made. In 16 lanes, lane j % TN_DIRECTION_COLS / 2, each adding the odd column
 *   before the even one, rounded; then lanes half of 16, 8, 4, 2 apart.
 * scores_f32: of each query and each key of `blocks`: scale * sum over j, ascending, of q[j] * key[j].
 * weigh_f32: scores of each query's span become exp(score - the largest of them), all others in the blocks 0; sums[n] is the sum
 *   of query n's, ascending. spans [queries].
 * mix_f32: y [queries][width] += for each query the sum over i, ascending, of its share i * row i of values; i goes over those of
 *   `keys` that are in its span. Nothing else of values is looked at.
 * exp_f32: y[i] = exp(x[i]) within 2 units in the last place from -87.3 to 88.7, 0 below, infinite above; y may be x.
 * add_product: dst [rows][cols] = src + scale * B A; strides in bytes; src and dst are the same rows or do not overlap.
 * Scratch is aligned to 64.
 * Returns 1 when a result is not finite.
 * unpack_codes: dst [rows][cols], one code in each byte; `skip` rows (TN_PACK_HIGH_FIRST: codes) stand before the first.
 * grid_f32: dst[n], what n codes mean.
 * nibble_values: what n codes mean that lie as TN_PACK_HIGH_FIRST has them, `skip` others before them, rounded once to F32, F16 or
 *   BF16: dst[n]. grid->group_of is NULL. is_far as of tn_recoding.
 * repack_codes: codes [rows][cols] to where unpack_codes reads them, `bytes` standing for packed->bytes; all other bits stay.
 * recode_rows: src -> dst, which do not overlap.
 * level_codes: blocks of TN_LEVEL_BLOCK values: the largest magnitude of each, and of values times its reciprocal how many of the
 * bounds, which ascend, lie below: two to a byte, the first in the upper half. NaN lies above none.
 * pack_codes: n codes as a dense bit stream, first code lowest; n * bits is a multiple of 8.
 * product_bytes: bytes of prepared activations, a multiple of 64. product_scratch_bytes: bytes that each worker needs.
 *   Neither shrinks when m grows.
 * product_prepare: rows of x [m, cols] -> prepared, which is aligned to 64, `first` a multiple of TN_PREPARED_TOGETHER. x may be
 *   pointed into, and stays. Any worker, any run of x; all of them before rows are computed.
 * product_rows: y[t * y_stride + i] = sum over j of w[i][j] * x[t][j]    w [rows, cols], x [m, cols]; any worker, any run
 *   of rows, on scratch aligned to 64.
 * lora_shrink: t = x A^T    x [m, cols], A [rank, cols] F32, F16 or BF16 -> t [m, rank].
 * lora_expand: y += scale * t B^T    t [m, rank], B [rows, rank] F32, F16 or BF16 -> y [m, rows].
 * Factors are aligned to their dtype.
 * panel_product: dst[i][j] += sum over k, ascending, of w[i * row_step + k * step] * panel[k][j]    panel [count][TN_PANEL], dst
 *   [rows][TN_PANEL].
 * widen_f64: src [n] as doubles, and the sum of their squares: of i % 8 apart, then of those 4, 2 and 1 apart.
 * all_finite: 1 when no F32, F16 or BF16 value among n is infinite or NaN; aligned to their dtype. */
struct tn_kernels {
	const char *isa;
#define KERNEL(ret, name, args) ret (*name) args;
#include "kernels/kernels.def"
#undef KERNEL
	const struct tn_codec *codec[TN_CODEC_COUNT];
};

/* The table of that instruction set, NULL when this CPU or this build has none of that name; of the best one for
 * NULL. */
const struct tn_kernels *tn_kernels_for(const char *isa);

/* Names of the instruction sets of this build, in the order of isa.def; NULL behind the last. */
const char *tn_kernels_isa_name(unsigned i);

#endif
