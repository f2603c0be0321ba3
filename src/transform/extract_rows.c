/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of two checkpoints, decoded, and the difference of them. */
#include "transform/extract.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "store/checkpoint.h"
#include "transform/parts.h"
#include "weights/foreign.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- one side -------------------------------------------------------------------------------------------- */

struct rows {
	const tn_checkpoint *checkpoint;
	const struct tn_matrix *matrix;
	uint64_t first;
	unsigned char *part[TN_PART_COUNT];
};

static void measure_side(const struct tn_matrix *m, uint64_t *unit, uint64_t *fixed)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		*unit += m->row_bytes[p];
	*unit += tn_matrix_raw_row_bytes(m);
	*fixed += tn_matrix_raw_fixed_bytes(m) + TN_PARTS_PADDING + 2 * 64 + m->cols * sizeof(float);
}

static tn_status read_side(const struct tn_extract *x, struct rows *r, uint64_t count, unsigned char **scratch,
			   struct tn_error *err)
{
	const struct tn_matrix *m = r->matrix;
	struct tn_tensor_source source = tn_checkpoint_source(r->checkpoint);
	struct tn_foreign_block pieces;
	unsigned char *raw = tn_parts_place(*scratch, NULL, 0, count, m->row_bytes, r->part);
	uint64_t bytes = tn_matrix_raw_row_bytes(m) * count + tn_matrix_raw_fixed_bytes(m);
	*scratch = raw + tn_align_up((size_t)bytes, 64);
	return tn_matrix_read(x->ctx->kernels, &source, m, r->first, count, r->part, raw, &pieces, err);
}

static tn_status decode_row(const struct tn_extract *x, const struct rows *r, uint64_t i, float *dst, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(r->checkpoint);
	struct tn_format format = r->matrix->format;
	struct tn_row row = { { NULL } };
	uint64_t end;
	if (r->matrix->global_scale)
		TN_TRY(tn_matrix_format_at(&source, r->matrix, r->first + i, &format, &end, err));
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		row.part[p] = r->part[p] + i * r->matrix->row_bytes[p];
	x->ctx->kernels->codec[format.codec]->decode(dst, &row, &format, (size_t)r->matrix->cols);
	return TN_OK;
}

/* ---- two rows -------------------------------------------------------------------------------------------- */

static int is_dense(const struct tn_matrix *m)
{
	return m->format.codec == TN_CODEC_dense;
}

static int same_bytes(const struct rows *a, const struct rows *b, uint64_t i)
{
	const struct tn_format *f = &a->matrix->format, *g = &b->matrix->format;
	if (a->matrix->foreign || b->matrix->foreign || a->matrix->global_scale || b->matrix->global_scale)
		return 0;
	if (f->codec != g->codec || f->dtype != g->dtype || f->bits != g->bits || f->group != g->group)
		return 0;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (memcmp(a->part[p] + i * a->matrix->row_bytes[p], b->part[p] + i * b->matrix->row_bytes[p],
			   a->matrix->row_bytes[p]) != 0)
			return 0;
	return 1;
}

static float rounded(float v, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_f32_from_bf16(tn_bf16_from_f32(v)) : dtype == TN_F16 ? tn_f32_from_f16(tn_f16_from_f32(v)) : v;
}

/* 1 when the one is the other in a narrower dtype: a checkpoint that was only saved anew has not changed. */
static int is_rounding(const struct tn_matrix *base, const float *b, const struct tn_matrix *tuned, const float *t, size_t n)
{
	int forth = is_dense(tuned), back = is_dense(base);
	for (size_t i = 0; i < n && (forth || back); i++) {
		forth = forth && rounded(b[i], tuned->format.dtype) == t[i];
		back = back && rounded(t[i], base->format.dtype) == b[i];
	}
	return forth || back;
}

/* In eight sums side by side, which a compiler turns into vectors without changing the result. */
struct sums {
	double lane[8];
};

static double sum_of(const struct sums *s)
{
	return ((s->lane[0] + s->lane[4]) + (s->lane[2] + s->lane[6])) + ((s->lane[1] + s->lane[5]) + (s->lane[3] + s->lane[7]));
}

static inline double square(float v)
{
	return (double)v * (double)v;
}

static double squares(const float *v, size_t n)
{
	struct sums s = { { 0 } };
	size_t i = 0;
	for (; i + 8 <= n; i += 8)
		for (size_t lane = 0; lane < 8; lane++)
			s.lane[lane] += square(v[i + lane]);
	for (; i < n; i++)
		s.lane[0] += square(v[i]);
	return sum_of(&s);
}

/* d -= b, in eights for the same reason. */
static void subtract(float *restrict d, const float *restrict b, size_t n)
{
	size_t i = 0;
	for (; i + 8 <= n; i += 8)
		for (size_t lane = 0; lane < 8; lane++)
			d[i + lane] -= b[i + lane];
	for (; i < n; i++)
		d[i] -= b[i];
}

/* The power of two at or below the size of a value. */
static inline float power_below(float v, float least)
{
	uint32_t bits;
	float size = v < 0 ? -v : v;
	size = size < least ? least : size;
	memcpy(&bits, &size, sizeof bits);
	bits &= 0x7f800000u;
	memcpy(&size, &bits, sizeof size);
	return size;
}

static double power_squares(const float *v, size_t n, float least)
{
	struct sums s = { { 0 } };
	size_t i = 0;
	for (; i + 8 <= n; i += 8)
		for (size_t lane = 0; lane < 8; lane++)
			s.lane[lane] += square(power_below(v[i + lane], least));
	for (; i < n; i++)
		s.lane[0] += square(power_below(v[i], least));
	return sum_of(&s);
}

/* A value between two neighbours of a grid is rounded to one of them: on average by a twelfth of the square of their distance. */
static double rounding_noise(const struct tn_extract *x, const struct rows *r, uint64_t i, const float *t)
{
	const struct tn_matrix *m = r->matrix;
	size_t n = (size_t)m->cols;
	if (!is_dense(m)) {
		const struct tn_codec *codec = x->ctx->kernels->codec[m->format.codec];
		struct tn_row row = { { NULL } };
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			row.part[p] = r->part[p] + i * m->row_bytes[p];
		return codec->steps2 ? codec->steps2(&row, &m->format, n) / 12 : 0;
	}
	switch (m->format.dtype) {
	case TN_BF16: return power_squares(t, n, FLT_MIN) * 0x1p-14 / 12;
	case TN_F16: return power_squares(t, n, 0x1p-14f) * 0x1p-20 / 12;
	case TN_F32: return power_squares(t, n, FLT_MIN) * 0x1p-46 / 12;
	default: return 0;
	}
}

static void compare_rows(const struct tn_extract *x, const struct rows *base, const struct rows *tuned, uint64_t i, const float *b,
			 float *d, struct tn_extract_finding *f)
{
	size_t n = (size_t)base->matrix->cols;
	f->differs |= !is_rounding(base->matrix, b, tuned->matrix, d, n);
	f->noise2 += rounding_noise(x, tuned, i, d);
	subtract(d, b, n);
	double delta2 = squares(d, n);
	f->delta2 += delta2;
	f->not_finite |= !isfinite(delta2);
}

/* ---- a block --------------------------------------------------------------------------------------------- */

void tn_extract_piece_bytes(const struct tn_extract_piece *piece, uint64_t *unit, uint64_t *fixed)
{
	*unit = *fixed = 0;
	measure_side(&piece->base, unit, fixed);
	measure_side(&piece->tuned, unit, fixed);
}

static tn_status compare_bytes(const struct tn_extract *x, struct rows *base, struct rows *tuned, uint64_t count, void *scratch,
			       struct tn_extract_finding *found, struct tn_error *err)
{
	unsigned char *at = scratch;
	TN_TRY(read_side(x, base, count, &at, err));
	TN_TRY(read_side(x, tuned, count, &at, err));
	found->differs |= memcmp(base->part[TN_PART_WEIGHT], tuned->part[TN_PART_WEIGHT], (size_t)count) != 0;
	return TN_OK;
}

tn_status tn_extract_read(const struct tn_extract *x, const struct tn_extract_piece *piece, uint64_t first, uint64_t count,
			  float *dst, void *scratch, struct tn_extract_finding *found, struct tn_error *err)
{
	struct rows base = { .checkpoint = x->base.checkpoint, .matrix = &piece->base, .first = piece->base_row + first };
	struct rows tuned = { .checkpoint = x->tuned.checkpoint, .matrix = &piece->tuned, .first = piece->tuned_row + first };
	unsigned char *at = scratch;
	size_t cols = (size_t)piece->base.cols;
	if (piece->is_bytes)
		return compare_bytes(x, &base, &tuned, count, scratch, found, err);
	TN_TRY(read_side(x, &base, count, &at, err));
	TN_TRY(read_side(x, &tuned, count, &at, err));
	float *row = (float *)(void *)at;
	for (uint64_t i = 0; i < count; i++) {
		float *d = found ? row + cols : dst + i * cols;
		if (same_bytes(&base, &tuned, i)) {
			if (!found)
				memset(d, 0, cols * sizeof *d);
			continue;
		}
		TN_TRY(decode_row(x, &base, i, row, err));
		TN_TRY(decode_row(x, &tuned, i, d, err));
		if (found)
			compare_rows(x, &base, &tuned, i, row, d, found);
		else
			subtract(d, row, cols);
	}
	return TN_OK;
}
