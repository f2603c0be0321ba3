/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/matrix.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "weights/foreign.h"
#include "weights/format.h"

#include <string.h>

/* ---- sources --------------------------------------------------------------------------------------------- */

static const struct tn_tensor *find_in_checkpoint(const void *self, const char *name)
{
	return tn_checkpoint_find(self, name);
}

static tn_status read_checkpoint(const void *self, const struct tn_tensor *tensor, uint64_t offset, void *dst, size_t n,
				 struct tn_error *err)
{
	return tn_checkpoint_read(self, tensor, offset, dst, n, err);
}

struct tn_tensor_source tn_checkpoint_source(const tn_checkpoint *checkpoint)
{
	return (struct tn_tensor_source){ checkpoint, find_in_checkpoint, read_checkpoint };
}

/* ---- dense ----------------------------------------------------------------------------------------------- */

static uint64_t last_size(const struct tn_tensor *t)
{
	return t->rank ? t->shape[t->rank - 1] : 1;
}

/* Rows of a tensor of any rank; 0 when it has no elements. */
static uint64_t row_count(const struct tn_tensor *t)
{
	uint64_t rows = 1;
	for (uint32_t i = 0; i + 1 < t->rank; i++)
		rows *= t->shape[i]; /* fits: the product of all sizes was checked, and a 0 among them gives 0 */
	return t->elements ? rows : 0;
}

static tn_status fill_row_bytes(struct tn_matrix *m, struct tn_error *err)
{
	const char *name = m->part[TN_PART_WEIGHT]->name;
	if (m->cols > SIZE_MAX / 16)
		return tn_fail(err, TN_E_LIMIT, name, "'%.100s' has rows of %llu values, which do not fit in memory",
			       name, (unsigned long long)m->cols);
	const struct tn_codec *codec = tn_codec_info(m->format.codec);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		m->row_bytes[p] = codec->part_bytes(&m->format, p, (size_t)m->cols);
	return TN_OK;
}

static int is_dense_dtype(tn_dtype dtype)
{
	return tn_is_weight_dtype(dtype) || dtype == TN_F64 || dtype == TN_F8_E4M3 || dtype == TN_F8_E5M2;
}

static tn_status dense_matrix(const struct tn_tensor *weight, struct tn_matrix *out, struct tn_error *err)
{
	if (weight->dtype == TN_U32)
		return tn_fail(err, TN_E_UNSUPPORTED, weight->name,
			       "'%.100s' is U32, so packed, and has no `.scales` beside it; get the whole checkpoint",
			       weight->name);
	if (!is_dense_dtype(weight->dtype))
		return tn_fail(err, TN_E_UNSUPPORTED, weight->name,
			       "'%.100s' is %s; F32, F16, BF16, F64, F8_E4M3 or F8_E5M2 was expected of a weight",
			       weight->name, tn_dtype_name(weight->dtype));
	struct tn_matrix m = {
		.part = { weight },
		.format = { .codec = TN_CODEC_dense, .dtype = weight->dtype },
		.rows = row_count(weight),
		.cols = last_size(weight),
	};
	TN_TRY(fill_row_bytes(&m, err));
	*out = m;
	return TN_OK;
}

/* ---- quantized ------------------------------------------------------------------------------------------- */

/* words * 32 / bits == groups * group_size, which in a quantized matrix is the number of columns. */
static int fits(const struct tn_tensor *weight, const struct tn_tensor *scales, int64_t bits, int64_t group)
{
	uint64_t stream, cols;
	if (bits <= 0 || group <= 0 || tn_mul_u64(last_size(weight), 32, &stream) ||
	    tn_mul_u64(last_size(scales), (uint64_t)group, &cols))
		return 0;
	return stream % (uint64_t)bits == 0 && stream / (uint64_t)bits == cols;
}

/* The widths and group sizes of a mode that the shapes allow; *q gets the last one. */
static int count_fits(const struct tn_codec *codec, const struct tn_tensor *weight, const struct tn_tensor *scales,
		      struct tn_quantization *q)
{
	int count = 0;
	for (size_t b = 0; b < sizeof codec->bits && codec->bits[b]; b++)
		for (size_t g = 0; g < sizeof codec->groups && codec->groups[g]; g++)
			if (fits(weight, scales, codec->bits[b], codec->groups[g])) {
				*q = (struct tn_quantization){ codec->groups[g], codec->bits[b], codec->name, 0 };
				count++;
			}
	return count;
}

/* All modes whose scales have that dtype. */
static int infer(const struct tn_tensor *weight, const struct tn_tensor *scales, struct tn_quantization *q)
{
	int count = 0;
	for (int id = 0; id < TN_CODEC_COUNT; id++) {
		const struct tn_codec *codec = tn_codec_info((enum tn_codec_id)id);
		if (codec->bits[0] && codec->byte_scales == (scales->dtype == TN_U8))
			count += count_fits(codec, weight, scales, q);
	}
	return count;
}

static tn_status choose_parameters(const tn_quant_config *config, const struct tn_tensor *weight,
				   const struct tn_tensor *scales, struct tn_quantization *q, struct tn_error *err)
{
	struct tn_quantization given = { 0 };
	char of_w[TN_SHAPE_TEXT], of_s[TN_SHAPE_TEXT];
	tn_quant_choice choice = tn_quant_config_for_tensor(config, weight->name, &given);
	if (choice >= TN_QUANT_GLOBAL) {
		const struct tn_codec *codec = tn_codec_of_mode(given.mode, NULL);
		*q = given;
		if (codec->byte_scales == (scales->dtype == TN_U8) &&
		    fits(weight, scales, given.bits, given.group_size))
			return TN_OK;
	}
	/* an override must be right; a default speaks of most layers, and mlx-lm infers the others */
	if (choice != TN_QUANT_LAYER && infer(weight, scales, q) == 1)
		return TN_OK;
	if (choice < TN_QUANT_GLOBAL)
		return tn_fail(err, TN_E_MISMATCH, weight->name,
			       "'%.100s' is %s with scales %s, and no configuration says in how many bits; add a "
			       "`quantization` block "
			       "to config.json",
			       weight->name, tn_shape_text(of_w, weight->shape, weight->rank),
			       tn_shape_text(of_s, scales->shape, scales->rank));
	return tn_fail(err, TN_E_MISMATCH, weight->name,
		       "'%.80s' is %s with %s scales %s, which is not %s with group size %d and %d bits, as the "
		       "configuration says; "
		       "give this layer its own entry",
		       weight->name, tn_shape_text(of_w, weight->shape, weight->rank), tn_dtype_name(scales->dtype),
		       tn_shape_text(of_s, scales->shape, scales->rank), given.mode, given.group_size, given.bits);
}

static tn_status check_parts(const struct tn_matrix *m, struct tn_error *err)
{
	const struct tn_tensor *w = m->part[TN_PART_WEIGHT], *s = m->part[TN_PART_SCALES], *b = m->part[TN_PART_BIASES];
	const struct tn_codec *codec = tn_codec_info(m->format.codec);
	if (!codec->byte_scales && !tn_is_weight_dtype(s->dtype))
		return tn_fail(err, TN_E_UNSUPPORTED, s->name,
			       "'%.100s' is %s; F32, F16 or BF16 was expected of scales", s->name,
			       tn_dtype_name(s->dtype));
	if (b && (b->dtype != s->dtype || b->rank != s->rank || memcmp(b->shape, s->shape, s->rank * sizeof *s->shape)))
		return tn_fail(err, TN_E_UNSUPPORTED, b->name,
			       "'%.100s' and the scales beside it differ in shape or dtype; they must be equal",
			       b->name);
	if (m->global_scale && !codec->takes_global_scale)
		return tn_fail(err, TN_E_FORMAT, m->global_scale->name,
			       "'%.100s' stands beside %s, and only nvfp4 has one", m->global_scale->name, codec->name);
	if (m->global_scale && (m->global_scale->dtype != TN_F32 || !m->global_scale->elements ||
				m->rows % m->global_scale->elements != 0))
		return tn_fail(err, TN_E_FORMAT, m->global_scale->name,
			       "'%.100s' has %llu values %s; one F32, or one for each expert of '%.60s', was expected",
			       m->global_scale->name, (unsigned long long)m->global_scale->elements,
			       tn_dtype_name(m->global_scale->dtype), w->name);
	return TN_OK;
}

static const struct tn_tensor *sibling(const struct tn_tensor_source *source, const struct tn_tensor *weight,
				       const char *suffix)
{
	char name[TN_NAME_BYTES];
	return tn_sibling_name(name, weight->name, suffix) ? source->find(source->self, name) : NULL;
}

static tn_status quantized_matrix(const struct tn_tensor_source *source, const tn_quant_config *config,
				  const struct tn_tensor *weight, struct tn_matrix *out, struct tn_error *err)
{
	struct tn_matrix m = { .part = { weight, sibling(source, weight, ".scales"),
					 sibling(source, weight, ".biases") } };
	const struct tn_tensor *scales = m.part[TN_PART_SCALES];
	TN_TRY(choose_parameters(config, weight, scales, &m.q, err));
	TN_TRY(tn_format_make(&m.q, scales->dtype == TN_U8 ? TN_BF16 : scales->dtype, TN_FLAVOUR_CPU, weight->name,
			      &m.format, err));
	m.global_scale = sibling(source, weight, ".global_scale");
	m.rows = row_count(weight);
	m.cols = last_size(scales) * (uint64_t)m.q.group_size;
	TN_TRY(check_parts(&m, err));
	TN_TRY(fill_row_bytes(&m, err));
	if (m.global_scale) {
		uint64_t end;
		TN_TRY(tn_matrix_format_at(source, &m, 0, &m.format, &end, err));
	}
	*out = m;
	return TN_OK;
}

tn_status tn_matrix_find(const struct tn_tensor_source *source, const tn_quant_config *config,
			 const struct tn_tensor *weight, struct tn_matrix *out, struct tn_error *err)
{
	tn_triple triple = TN_TRIPLE_ABSENT;
	struct tn_quantization q;
	/* a default does not say the mode of every layer: without an override the scales tell it */
	tn_quant_choice choice = tn_quant_config_for_tensor(config, weight->name, NULL);
	const tn_quant_config *binding = choice == TN_QUANT_LAYER || choice == TN_QUANT_SKIP ? config : NULL;
	/* a dense layer may have its own `.biases`: only packed weights are asked about orphans */
	if (sibling(source, weight, ".scales") || (weight->dtype == TN_U32 && weight->rank >= 2))
		TN_TRY(tn_triple_judge(source, binding, weight, "quantized layer", &triple, &q, err));
	if (triple == TN_TRIPLE_ABSENT)
		return dense_matrix(weight, out, err);
	return quantized_matrix(source, config, weight, out, err);
}

tn_status tn_matrix_format_at(const struct tn_tensor_source *source, const struct tn_matrix *matrix, uint64_t row,
			      struct tn_format *format, uint64_t *end, struct tn_error *err)
{
	struct tn_format f = matrix->format;
	uint64_t until = matrix->rows;
	if (matrix->global_scale && matrix->rows) {
		uint64_t rows = matrix->rows / matrix->global_scale->elements, expert = row / rows;
		until = (expert + 1) * rows;
		f.has_global_scale = 1;
		TN_TRY(source->read(source->self, matrix->global_scale, expert * sizeof f.global_scale, &f.global_scale,
				    sizeof f.global_scale, err));
	}
	*format = f;
	*end = until;
	return TN_OK;
}

tn_dtype tn_matrix_dtype(const struct tn_matrix *matrix)
{
	if (matrix->foreign)
		return matrix->foreign->dtype;
	if (!tn_codec_info(matrix->format.codec)->byte_scales)
		return matrix->format.dtype;
	return matrix->global_scale ? TN_F32 : TN_BF16;
}

void tn_format_parts(const struct tn_format *format, uint64_t cols, struct tn_part_plan parts[TN_PART_COUNT])
{
	const struct tn_codec *codec = tn_codec_info(format->codec);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		tn_dtype dtype = format->dtype;
		if (p == TN_PART_WEIGHT && codec->bits[0])
			dtype = TN_U32;
		else if (p == TN_PART_SCALES && codec->byte_scales)
			dtype = TN_U8;
		size_t bytes = codec->part_bytes(format, p, (size_t)cols);
		parts[p] = (struct tn_part_plan){ bytes, bytes / (tn_dtype_bits(dtype) / 8), dtype };
	}
}

/* ---- of other libraries ---------------------------------------------------------------------------------- */

tn_status tn_matrix_of_foreign(struct tn_foreign_set *set, struct tn_foreign *f, struct tn_arena *arena,
			       struct tn_matrix *out, struct tn_error *err)
{
	size_t group_bytes = (size_t)tn_foreign_row_groups(f) * sizeof(float);
	struct tn_grid *grid;
	TN_TRY(tn_foreign_settle(set, f, err));
	TN_TRY(tn_arena_alloc(arena, sizeof *grid, &grid, err));
	TN_TRY(tn_foreign_grid(f, arena, grid, err));
	*out = (struct tn_matrix){ .foreign = f, .rows = f->rows, .cols = f->cols };
	out->part[TN_PART_WEIGHT] = f->part[TN_FOREIGN_CODES].tensor;
	out->part[TN_PART_SCALES] = f->part[TN_FOREIGN_SCALES].tensor;
	out->part[TN_PART_BIASES] = f->part[TN_FOREIGN_ZEROS].tensor;
	out->format = (struct tn_format){ .codec = TN_CODEC_grid, .dtype = f->part[TN_FOREIGN_SCALES].tensor->dtype,
					  .bits = f->bits, .grid = grid };
	out->row_bytes[TN_PART_WEIGHT] = (size_t)f->cols;
	out->row_bytes[TN_PART_SCALES] = group_bytes;
	out->row_bytes[TN_PART_BIASES] = grid->has_zeros ? group_bytes : 0;
	out->q = (struct tn_quantization){ (int32_t)tn_min_u64(f->group, INT32_MAX), f->bits, f->scheme, 0 };
	return TN_OK;
}

uint64_t tn_matrix_raw_row_bytes(const struct tn_matrix *m)
{
	return m->foreign ? tn_foreign_raw_row_bytes(m->foreign) : 0;
}

uint64_t tn_matrix_raw_fixed_bytes(const struct tn_matrix *m)
{
	return m->foreign ? tn_foreign_raw_fixed_bytes(m->foreign) : 0;
}

tn_status tn_matrix_read(const struct tn_kernels *kernels, const struct tn_tensor_source *source, const struct tn_matrix *m,
			 uint64_t first, uint64_t count, unsigned char *const *parts, void *raw,
			 struct tn_foreign_block *block, struct tn_error *err)
{
	if (m->foreign) {
		struct tn_grid_rows rows = { parts[TN_PART_WEIGHT], (float *)(void *)parts[TN_PART_SCALES],
					     (float *)(void *)parts[TN_PART_BIASES] };
		return tn_foreign_load(kernels, source, m->foreign, first, count, raw, block, &rows, err);
	}
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (m->part[p])
			TN_TRY(source->read(source->self, m->part[p], first * m->row_bytes[p], parts[p],
					    (size_t)count * m->row_bytes[p], err));
	return TN_OK;
}
