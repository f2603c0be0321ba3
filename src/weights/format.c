/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/format.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)TN_FLAVOUR_CPU == (int)TN_ENCODE_CPU && (int)TN_FLAVOUR_METAL == (int)TN_ENCODE_METAL &&
		       (int)TN_FLAVOUR_CUDA == (int)TN_ENCODE_CUDA,
	       "the kernels know flavours by these numbers");

const struct tn_codec *tn_codec_info(enum tn_codec_id id)
{
	return tn_kernels_for("portable")->codec[id];
}

const struct tn_codec *tn_codec_of_mode(const char *mode, enum tn_codec_id *id)
{
	const char *name = mode ? mode : "affine";
	for (int i = 0; i < TN_CODEC_COUNT; i++) {
		const struct tn_codec *codec = tn_codec_info((enum tn_codec_id)i);
		if (!codec->bits[0] || strcmp(codec->name, name) != 0)
			continue;
		if (id)
			*id = (enum tn_codec_id)i;
		return codec;
	}
	return NULL;
}

const char *tn_quant_mode_name(size_t i)
{
	for (int id = 0; id < TN_CODEC_COUNT; id++) {
		const struct tn_codec *codec = tn_codec_info((enum tn_codec_id)id);
		if (codec->bits[0] && i-- == 0)
			return codec->name;
	}
	return NULL;
}

tn_status tn_quantization_resolve(struct tn_quantization *q, struct tn_error *err)
{
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, NULL);
	if (!codec)
		return tn_fail(err, TN_E_ARG, q->mode,
			       "Invalid quantization mode '%.40s'; affine, mxfp4, mxfp8 and nvfp4 exist", q->mode);
	q->mode = codec->name;
	if (q->bits == TN_QUANT_DEFAULT)
		q->bits = codec->bits[0];
	if (q->group_size == TN_QUANT_DEFAULT)
		q->group_size = codec->groups[0];
	return TN_OK;
}

int tn_is_weight_dtype(tn_dtype dtype)
{
	return dtype == TN_F32 || dtype == TN_F16 || dtype == TN_BF16;
}

static int listed(const uint8_t *list, size_t n, int32_t value)
{
	for (size_t i = 0; i < n && list[i]; i++)
		if (list[i] == value)
			return 1;
	return 0;
}

/* A mode with one width and one group size says which; affine lists its own. */
static tn_status refuse(const struct tn_codec *codec, const struct tn_quantization *q, int group_is_bad, const char *op,
			struct tn_error *err)
{
	if (group_is_bad && codec->groups[1])
		return tn_fail(err, TN_E_ARG, "group_size",
			       "[%s] The requested group size %d is not supported. The supported group sizes are 32, "
			       "64, and 128.",
			       op, q->group_size);
	if (group_is_bad)
		return tn_fail(err, TN_E_ARG, "group_size", "[%s] %s quantization requires group size %d but got %d.",
			       op, codec->name, codec->groups[0], q->group_size);
	if (codec->bits[1])
		return tn_fail(err, TN_E_ARG, "bits",
			       "[%s] The requested number of bits %d is not supported. The supported bits are 1, 2, 3, "
			       "4, 5, 6 and "
			       "8.",
			       op, q->bits);
	return tn_fail(err, TN_E_ARG, "bits", "[%s] %s quantization requires bits to be %d but got %d.", op,
		       codec->name, codec->bits[0], q->bits);
}

tn_status tn_format_make(const struct tn_quantization *q, tn_dtype dtype, tn_flavour flavour, const char *op,
			 struct tn_format *out, struct tn_error *err)
{
	enum tn_codec_id id;
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, &id);
	if (!codec)
		return tn_fail(err, TN_E_ARG, "mode", "[%s] Invalid quantization mode '%.40s'.", op, q->mode);
	if (!listed(codec->groups, sizeof codec->groups, q->group_size))
		return refuse(codec, q, 1, op, err);
	if (!listed(codec->bits, sizeof codec->bits, q->bits))
		return refuse(codec, q, 0, op, err);
	*out = (struct tn_format){
		.codec = id,
		.dtype = dtype,
		.bits = (uint8_t)q->bits,
		.group = (uint16_t)q->group_size,
		.flavour = (uint8_t)flavour,
	};
	return TN_OK;
}

const char *tn_shape_text(char text[TN_SHAPE_TEXT], const uint64_t *shape, uint32_t rank)
{
	size_t used = 1;
	text[0] = '(';
	for (uint32_t i = 0; i < rank && used < TN_SHAPE_TEXT - 24; i++)
		used += (size_t)snprintf(text + used, TN_SHAPE_TEXT - used, "%s%llu", i ? "," : "",
					 (unsigned long long)shape[i]);
	snprintf(text + used, TN_SHAPE_TEXT - used, ")");
	return text;
}

const char *tn_mlx_dtype_name(tn_dtype dtype)
{
	switch (dtype) {
	case TN_BOOL: return "bool";
	case TN_U8: return "uint8";
	case TN_I8: return "int8";
	case TN_U16: return "uint16";
	case TN_I16: return "int16";
	case TN_U32: return "uint32";
	case TN_I32: return "int32";
	case TN_U64: return "uint64";
	case TN_I64: return "int64";
	case TN_F16: return "float16";
	case TN_BF16: return "bfloat16";
	case TN_F32: return "float32";
	case TN_F64: return "float64";
	case TN_C64: return "complex64";
	default: return tn_dtype_name(dtype);
	}
}
