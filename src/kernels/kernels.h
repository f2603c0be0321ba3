/* The kernel table: everything that runs once per element. Pointers and sizes only: no heap, no I/O, no errors.
 *
 * Plain C in portable.c and codec_*.c, compiled once for each instruction set of isa.def with -ffp-contract=off and sums
 * of fixed order, so that every instruction set gives the same bits; hand-written overrides (x86/, arm/) say in
 * kernels.def when they do not. Pointers to numbers have the
 * alignment of their type and no more; the parts of a row have none.
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

/* How one matrix lies on disk; the same for all of its rows. */
struct tn_format {
	enum tn_codec_id codec;
	tn_dtype dtype;            /* dense: of the elements */
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

/* decode: one row, dst [cols], exact. encode: one row, src [cols], rounded once (codec_*.c say how).
 * encode is NULL where a codec only reads. */
struct tn_codec {
	const char *name;
	void (*decode)(float *dst, const struct tn_row *src, const struct tn_format *format, size_t cols);
	void (*encode)(const struct tn_row_out *dst, const float *src, const struct tn_format *format, size_t cols);
};

/* ---- the table ------------------------------------------------------------------------------------------- */

/* lowrank_f32: dst[j] = sum over k of b[k] * a[k][j]     a [rank, cols], b [rank] -> dst [cols]; k ascending, from 0.
 * lowrank_f64: the same in double, for results that are rounded to float32. */
struct tn_kernels {
	const char *isa;
#define KERNEL(ret, name, args) ret (*name) args;
#include "kernels/kernels.def"
#undef KERNEL
	const struct tn_codec *codec[TN_CODEC_COUNT];
};

/* The table of that instruction set, NULL when this CPU or this build has none of that name; of the best one for NULL. */
const struct tn_kernels *tn_kernels_for(const char *isa);

/* Names of the instruction sets of this build, in the order of isa.def; NULL behind the last. */
const char *tn_kernels_isa_name(unsigned i);

#endif
