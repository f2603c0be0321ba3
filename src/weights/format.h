/* Modes, and from parameters to the format of a codec. */
#ifndef TN_WEIGHTS_FORMAT_H
#define TN_WEIGHTS_FORMAT_H

#include "kernels/kernels.h"
#include "tenon/weights.h"

/* The codec of that mode (NULL: affine), or NULL. What a codec says of itself is the same for every instruction set, so
 * these come from the portable table. */
const struct tn_codec *tn_codec_of_mode(const char *mode, enum tn_codec_id *id);
const struct tn_codec *tn_codec_info(enum tn_codec_id id);

/* 1 when F32, F16 or BF16: what is encoded, and what decoding gives. */
int tn_is_weight_dtype(tn_dtype dtype);

/* The format of resolved parameters. `dtype` is that of the values, and of affine's scales. Errors, TN_E_ARG in the
 * words of MLX with `op` in brackets: a mode, group size or width that does not exist. */
tn_status tn_format_make(const struct tn_quantization *q, tn_dtype dtype, tn_flavour flavour, const char *op,
			 struct tn_format *out, struct tn_error *err);

/* "(4,128)" in a buffer of the caller. */
enum { TN_SHAPE_TEXT = 200 };
const char *tn_shape_text(char text[TN_SHAPE_TEXT], const uint64_t *shape, uint32_t rank);

/* MLX's name of a dtype: "float32". */
const char *tn_mlx_dtype_name(tn_dtype dtype);

#endif
