/* SPDX-License-Identifier: Apache-2.0 */
/* One tensor of the result: what it is made from, and its values. */
#include "adapter/land.h"

#include "base/checked.h"
#include "base/error.h"
#include "weights/foreign.h"

int tn_target_is_packed(const struct tn_target *target)
{
	return target->matrix && (!target->replacement || target->replacement->dtype == TN_U32);
}

const struct tn_tensor *tn_target_source(const struct tn_target *target)
{
	if (tn_target_is_packed(target))
		return target->logical;
	return target->replacement ? target->replacement : target->base;
}

tn_dtype tn_target_dtype(const struct tn_target *target)
{
	if (target->logical)
		return target->logical->dtype;
	return target->base ? target->base->dtype : target->replacement->dtype;
}

/* Rows of another library's matrix need more memory than their values. */
static tn_status read_foreign(const struct tn_joint *j, const struct tn_matrix *m, uint64_t first, uint64_t rows, float *dst,
			      struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(j->base);
	struct tn_buffer scratch;
	uint64_t bytes;
	if (tn_mul_u64(tn_foreign_row_bytes(m->foreign), rows, &bytes) || bytes > PTRDIFF_MAX / 2)
		return tn_fail_nomem(err, m->foreign->weight.name, SIZE_MAX);
	TN_TRY(tn_buffer_alloc(j->ctx, (size_t)(bytes + tn_foreign_fixed_bytes(m->foreign)), m->foreign->weight.name, &scratch,
			       err));
	tn_status status = tn_foreign_read(j->ctx->kernels, &source, m->foreign, first, rows, scratch.data, TN_F32, dst, err);
	tn_buffer_release(j->ctx, &scratch);
	return status;
}

/* Whole rows through the codec. */
static tn_status read_packed(const struct tn_joint *j, const struct tn_matrix *m, uint64_t first, uint64_t rows, float *dst,
			     unsigned char *raw, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(j->base);
	if (m->foreign)
		return read_foreign(j, m, first, rows, dst, err);
	for (uint64_t row = first; row < first + rows; row++, dst += m->cols) {
		struct tn_format format;
		struct tn_row in = { { NULL } };
		unsigned char *at = raw;
		uint64_t end;
		for (unsigned p = 0; p < TN_PART_COUNT; p++) {
			if (!m->part[p])
				continue;
			TN_TRY(tn_checkpoint_read(j->base, m->part[p], row * m->row_bytes[p], at, m->row_bytes[p], err));
			in.part[p] = at;
			at += m->row_bytes[p];
		}
		TN_TRY(tn_matrix_format_at(&source, m, row, &format, &end, err));
		j->ctx->kernels->codec[format.codec]->decode(dst, &in, &format, (size_t)m->cols);
	}
	return TN_OK;
}

static tn_status read_dense(const struct tn_joint *j, const struct tn_target *target, uint64_t first, uint64_t count, float *dst,
			    void *raw, struct tn_error *err)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = target->dense->dtype };
	uint64_t unit = tn_dtype_bits(format.dtype) / 8;
	struct tn_row row = { { raw } };
	TN_TRY(tn_safetensors_read(target->dense_file, target->dense, first * unit, raw, (size_t)(count * unit), err));
	j->ctx->kernels->codec[TN_CODEC_dense]->decode(dst, &row, &format, (size_t)count);
	return TN_OK;
}

tn_status tn_target_read_f32(const struct tn_joint *j, const struct tn_target *target, uint64_t first, uint64_t count,
			     float *dst, void *raw, struct tn_error *err)
{
	const struct tn_tensor *t = tn_target_source(target);
	uint64_t unit = tn_dtype_bits(t->dtype) / 8;
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
	struct tn_row row = { { raw } };
	if (target->dense)
		return read_dense(j, target, first, count, dst, raw, err);
	if (tn_target_is_packed(target))
		return read_packed(j, target->matrix, first / target->matrix->cols, count / target->matrix->cols, dst, raw, err);
	if (target->replacement)
		TN_TRY(tn_safetensors_read(target->replacer->file, t, first * unit, raw, (size_t)(count * unit), err));
	else
		TN_TRY(tn_checkpoint_read(j->base, t, first * unit, raw, (size_t)(count * unit), err));
	j->ctx->kernels->codec[TN_CODEC_dense]->decode(dst, &row, &format, (size_t)count);
	return TN_OK;
}
