/* SPDX-License-Identifier: Apache-2.0 */
/* Products with quantized matrices: checks and messages of mx.quantized_matmul and mx.gather_qmm (mlx/ops.cpp, MLX
 * 0.32.4), and those that MLX forgets. The portable path: rows decoded to float32, sums in float32. */
#include "weights/array.h"
#include "weights/format.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"

#include <string.h>

/* One product of x [m, in] with W [out, in]: m rows of x, at most this many at once, share a decoded row of W. */
struct qmm {
	const char *op;
	struct tn_format format;
	const struct tn_quantized *w;
	uint64_t rows, cols; /* of one matrix, logical */
	size_t row_bytes[TN_PART_COUNT];
	int transpose;
	uint64_t m, k, n; /* x [m, k] -> y [m, n] */
	tn_dtype result;
};

/* ---- checks ---------------------------------------------------------------------------------------------- */

static tn_status check_dtypes(const struct qmm *p, const struct tn_codec *codec, struct tn_error *err)
{
	const struct tn_array *s = &p->w->scales, *b = &p->w->biases;
	if (codec->has_biases && !b->data)
		return tn_fail(err, TN_E_ARG, "biases", "[%s] Biases must be provided for %s quantization.", p->op,
			       codec->name);
	if (codec->byte_scales && s->dtype != TN_U8)
		return tn_fail(err, TN_E_ARG, "scales", "[%s] Scale type must be uint8 but received type %s.", p->op,
			       tn_mlx_dtype_name(s->dtype));
	if (!codec->has_biases && b->data)
		return tn_fail(err, TN_E_ARG, "biases", "[%s] Biases must be null for quantization mode '%s'.", p->op,
			       codec->name);
	if (p->w->global_scale.data && !codec->takes_global_scale)
		return tn_fail(err, TN_E_ARG, "global_scale",
			       "[%s] Global scale is only supported for 'nvfp4' quantization mode.", p->op);
	if (!codec->byte_scales && (!tn_dtype_is_float(s->dtype) || !tn_dtype_is_float(b->dtype)))
		return tn_fail(err, TN_E_ARG, "scales",
			       "[%s] Only real floating types are supported but scales.dtype() == %s and "
			       "biases.dtype() == %s.",
			       p->op, tn_mlx_dtype_name(s->dtype), tn_mlx_dtype_name(b->dtype));
	return TN_OK;
}

static int same_batch(const struct tn_array *a, const struct tn_array *b)
{
	return a->rank == b->rank && a->rank >= 2 && memcmp(a->shape, b->shape, (a->rank - 2) * sizeof *a->shape) == 0;
}

static tn_status check_weight(const struct qmm *p, const struct tn_quantization *q, struct tn_error *err)
{
	const struct tn_array *w = &p->w->weight, *s = &p->w->scales, *b = &p->w->biases;
	char of_w[TN_SHAPE_TEXT], of_s[TN_SHAPE_TEXT];
	tn_shape_text(of_w, w->shape, w->rank);
	tn_shape_text(of_s, s->shape, s->rank);
	if (w->dtype != TN_U32)
		return tn_fail(err, TN_E_ARG, "w", "[%s] The weight matrix should be uint32 but received %s", p->op,
			       tn_mlx_dtype_name(w->dtype));
	if (b->data && (b->rank != s->rank || memcmp(b->shape, s->shape, s->rank * sizeof *s->shape) != 0)) {
		tn_shape_text(of_w, b->shape, b->rank);
		return tn_fail(err, TN_E_ARG, "biases",
			       "[%s] Scales and biases should have the same shape. Received scales with shape %s and "
			       "biases with %s",
			       p->op, of_s, of_w);
	}
	if (!same_batch(w, s))
		return tn_fail(err, TN_E_ARG, "scales",
			       "[%s] Weight and scales should have the same batch shape. Received weight with shape "
			       "%s, scales with "
			       "%s.",
			       p->op, of_w, of_s);
	if (q->bits <= 0 || q->group_size <= 0 ||
	    w->shape[w->rank - 1] * 32 / (uint64_t)q->bits != s->shape[s->rank - 1] * (uint64_t)q->group_size)
		return tn_fail(err, TN_E_ARG, "scales",
			       "[%s] The shapes of the weight and scales are incompatible based on bits and "
			       "group_size. w.shape() == "
			       "%s and scales.shape() == %s with group_size=%d and bits=%d",
			       p->op, of_w, of_s, q->group_size, q->bits);
	if (w->shape[w->rank - 2] != s->shape[s->rank - 2])
		return tn_fail(err, TN_E_ARG, "scales",
			       "[%s] Weight and scales should have the same number of rows. Received weight with shape "
			       "%s, scales with "
			       "%s",
			       p->op, of_w, of_s);
	return TN_OK;
}

static tn_status check_inner(const struct qmm *p, const struct tn_array *x, const struct tn_quantization *q,
			     struct tn_error *err)
{
	char of_w[TN_SHAPE_TEXT];
	uint64_t outer = p->transpose ? p->cols : p->rows, inner = p->transpose ? p->rows : p->cols;
	if (p->k == outer)
		return TN_OK;
	return tn_fail(err, TN_E_ARG, "x",
		       "[%s] Last dimension of first input with shape (..., %llu) does not match the expanded "
		       "quantized matrix (%llu, "
		       "%llu) computed from shape %s with group_size=%d, bits=%d and transpose=%s",
		       p->op, (unsigned long long)x->shape[x->rank - 1], (unsigned long long)outer,
		       (unsigned long long)inner, tn_shape_text(of_w, p->w->weight.shape, p->w->weight.rank),
		       q->group_size, q->bits, p->transpose ? "true" : "false");
}

/* MLX's promotion of the floats that are products and sums here; integers give way. */
static tn_dtype promote(tn_dtype a, tn_dtype b)
{
	if (!tn_dtype_is_float(a) || a == b)
		return b;
	return a == TN_F32 || b == TN_F32 || a != b ? TN_F32 : a;
}

static tn_status choose_result(struct qmm *p, const struct tn_array *x, const struct tn_codec *codec,
			       struct tn_error *err)
{
	tn_dtype result = x->dtype;
	if (x->dtype == TN_F64 || x->dtype == TN_C64)
		return tn_fail(err, TN_E_ARG, "x", "[%s] only floating types of at most 32 bits are supported, x is %s",
			       p->op, tn_mlx_dtype_name(x->dtype));
	if (!codec->byte_scales)
		result = promote(x->dtype, p->w->scales.dtype);
	if (!tn_is_weight_dtype(result))
		return tn_fail(err, TN_E_ARG, "x", "[%s] Only real floating types are supported but x.dtype() == %s.",
			       p->op, tn_mlx_dtype_name(x->dtype));
	if (!codec->byte_scales && p->w->biases.dtype != p->w->scales.dtype)
		return tn_fail(err, TN_E_UNSUPPORTED, "biases", "[%s] Scales are %s and biases %s; both must be equal",
			       p->op, tn_mlx_dtype_name(p->w->scales.dtype), tn_mlx_dtype_name(p->w->biases.dtype));
	p->result = result;
	return TN_OK;
}

static tn_status prepare(struct qmm *p, const struct tn_array *x, const struct tn_quantization *q, struct tn_error *err)
{
	struct tn_quantization resolved = *q;
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, NULL);
	if (!codec)
		return tn_fail(err, TN_E_ARG, "mode", "[%s] Invalid quantization mode '%.40s'.", p->op, q->mode);
	TN_TRY(tn_quantization_resolve(&resolved, err));
	if (x->rank == 0)
		return tn_fail(err, TN_E_ARG, "x", "[%s] x is a scalar, at least one dimension was expected", p->op);
	TN_TRY(check_dtypes(p, codec, err));
	TN_TRY(check_weight(p, &resolved, err));
	const struct tn_array *w = &p->w->weight, *s = &p->w->scales;
	p->rows = w->shape[w->rank - 2];
	p->cols = s->shape[s->rank - 1] * (uint64_t)resolved.group_size;
	p->m = x->rank > 1 ? x->shape[x->rank - 2] : 1;
	p->k = x->shape[x->rank - 1];
	p->n = p->transpose ? p->rows : p->cols;
	TN_TRY(check_inner(p, x, &resolved, err));
	TN_TRY(choose_result(p, x, codec, err));
	TN_TRY(tn_format_make(&resolved, codec->byte_scales ? TN_F32 : s->dtype, TN_FLAVOUR_CPU, p->op, &p->format,
			      err));
	for (unsigned i = 0; i < TN_PART_COUNT; i++)
		p->row_bytes[i] = tn_codec_info(p->format.codec)->part_bytes(&p->format, i, (size_t)p->cols);
	return TN_OK;
}

/* ---- one product ----------------------------------------------------------------------------------------- */

/* x [m, k] float32 and matrix number `matrix` of the stack -> y [m, n] float32. Tasks are blocks of rows of W; without
 * transposition, blocks of its columns. */
struct product {
	const struct qmm *p;
	const struct tn_kernels *kernels;
	struct tn_format format;
	uint64_t matrix;
	const float *x;
	float *y;
	uint64_t step;  /* rows, or columns, in a task */
	float *scratch; /* a decoded row for each worker */
};

static void decode_part(const struct product *job, uint64_t row, uint64_t first, size_t n, float *dst)
{
	const struct qmm *p = job->p;
	const void *parts[TN_PART_COUNT] = { p->w->weight.data, p->w->scales.data, p->w->biases.data };
	const struct tn_codec *codec = job->kernels->codec[job->format.codec];
	struct tn_row in;
	for (unsigned i = 0; i < TN_PART_COUNT; i++) {
		size_t skipped = first ? codec->part_bytes(&job->format, i, (size_t)first) : 0;
		in.part[i] = parts[i] ? (const char *)parts[i] + (job->matrix * p->rows + row) * p->row_bytes[i] +
						skipped
				      : NULL;
	}
	codec->decode(dst, &in, &job->format, n);
}

static tn_status multiply_rows(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct product *job = arg;
	const struct qmm *p = job->p;
	float *w = job->scratch + worker * p->cols;
	uint64_t end = tn_min_u64((task + 1) * job->step, p->rows);
	(void)err;
	for (uint64_t r = task * job->step; r < end; r++) {
		decode_part(job, r, 0, (size_t)p->cols, w);
		for (uint64_t i = 0; i < p->m; i++)
			job->y[i * p->n + r] = job->kernels->dot_f32(job->x + i * p->k, w, (size_t)p->k);
	}
	return TN_OK;
}

static tn_status multiply_columns(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct product *job = arg;
	const struct qmm *p = job->p;
	uint64_t first = task * job->step;
	size_t n = (size_t)(tn_min_u64(first + job->step, p->cols) - first);
	float *w = job->scratch + worker * p->cols;
	(void)err;
	for (uint64_t i = 0; i < p->m; i++)
		memset(job->y + i * p->n + first, 0, n * sizeof *job->y);
	for (uint64_t r = 0; r < p->rows; r++) {
		decode_part(job, r, first, n, w);
		for (uint64_t i = 0; i < p->m; i++)
			job->kernels->axpy_f32(job->y + i * p->n + first, job->x[i * p->k + r], w, n);
	}
	return TN_OK;
}

enum { TASK_ROWS = 32, TASK_COLUMNS = 256 /* whole groups of every codec */ };

static tn_status multiply(tn_context *ctx, const struct qmm *p, uint64_t matrix, const float *x, float *y,
			  float *scratch, struct tn_error *err)
{
	struct product job = { .p = p,
			       .kernels = ctx->kernels,
			       .format = p->format,
			       .matrix = matrix,
			       .x = x,
			       .y = y,
			       .scratch = scratch,
			       .step = p->transpose ? TASK_ROWS : TASK_COLUMNS };
	const struct tn_array *global = &p->w->global_scale;
	if (global->data) {
		uint64_t at = tn_array_elements(global) > 1 ? matrix : 0;
		job.format.has_global_scale = 1;
		memcpy(&job.format.global_scale, (const char *)global->data + at * sizeof(float), sizeof(float));
	}
	struct tn_work work = {
		.task_count = tn_ceil_div(p->transpose ? p->rows : p->cols, job.step),
		.run = p->transpose ? multiply_rows : multiply_columns,
		.arg = &job,
	};
	return tn_pool_run(ctx, &work, err);
}

/* ---- a list of products ---------------------------------------------------------------------------------- */

/* Which x and which matrix make result number `i`. */
typedef void (*pick_fn)(const void *self, uint64_t i, uint64_t *x, uint64_t *matrix);

static tn_status one_result(tn_context *ctx, const struct qmm *p, const struct tn_array *x, uint64_t xi,
			    uint64_t matrix, float *xs, float *ys, float *scratch, char *dst, struct tn_error *err)
{
	struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = p->result };
	struct tn_row_out out = { .part = { dst } };
	TN_TRY(tn_array_floats(x, xi * p->m * p->k, (size_t)(p->m * p->k), xs, err));
	TN_TRY(multiply(ctx, p, matrix, xs, ys, scratch, err));
	ctx->kernels->codec[TN_CODEC_dense]->encode(&out, ys, &dense, (size_t)(p->m * p->n));
	return TN_OK;
}

static tn_status run(tn_context *ctx, const struct qmm *p, const struct tn_array *x, uint64_t results, pick_fn pick,
		     const void *self, struct tn_array *out, struct tn_error *err)
{
	uint64_t x_count, y_count, w_count, total;
	float *floats;
	if (tn_mul_u64(p->m, p->k, &x_count) || tn_mul_u64(p->m, p->n, &y_count) ||
	    tn_mul_u64(p->cols, tn_pool_workers(ctx), &w_count) || tn_add_u64(x_count, y_count, &total) ||
	    tn_add_u64(total, w_count, &total) || total > SIZE_MAX / sizeof *floats)
		return tn_fail(err, TN_E_LIMIT, p->op, "[%s] the operands do not fit in memory", p->op);
	if (results == 0 || y_count == 0)
		return TN_OK;
	TN_TRY(tn_alloc_array(ctx, (size_t)total, sizeof *floats, p->op, &floats, err));
	tn_status status = TN_OK;
	size_t y_bytes = (size_t)y_count * (tn_dtype_bits(p->result) / 8);
	for (uint64_t i = 0; i < results && status == TN_OK; i++) {
		uint64_t xi, matrix;
		pick(self, i, &xi, &matrix);
		status = one_result(ctx, p, x, xi, matrix, floats, floats + x_count, floats + x_count + y_count,
				    (char *)out->data + i * y_bytes, err);
	}
	tn_free_array(ctx, floats, (size_t)total, sizeof *floats);
	return status;
}

/* ---- broadcasting ---------------------------------------------------------------------------------------- */

/* A shape of leading dimensions, and for each operand the step that a dimension makes in it. */
struct broadcast {
	uint32_t rank;
	uint64_t shape[TN_ARRAY_RANK], step[2][TN_ARRAY_RANK];
};

static uint64_t aligned(const uint64_t *shape, uint32_t rank, uint32_t to, uint32_t i)
{
	return i + rank < to ? 1 : shape[i + rank - to];
}

static tn_status broadcast(const uint64_t *a, uint32_t a_rank, const uint64_t *b, uint32_t b_rank,
			   struct broadcast *out, struct tn_error *err)
{
	char of_a[TN_SHAPE_TEXT], of_b[TN_SHAPE_TEXT];
	uint64_t a_step = 1, b_step = 1;
	*out = (struct broadcast){ .rank = a_rank > b_rank ? a_rank : b_rank };
	for (uint32_t i = out->rank; i-- > 0;) {
		uint64_t m = aligned(a, a_rank, out->rank, i), n = aligned(b, b_rank, out->rank, i);
		if (m != n && m != 1 && n != 1)
			return tn_fail(err, TN_E_ARG, "shapes",
				       "[broadcast_shapes] Shapes %s and %s cannot be broadcast.",
				       tn_shape_text(of_a, a, a_rank), tn_shape_text(of_b, b, b_rank));
		out->shape[i] = m == 1 ? n : m;
		out->step[0][i] = m == 1 ? 0 : a_step;
		out->step[1][i] = n == 1 ? 0 : b_step;
		a_step *= m;
		b_step *= n;
	}
	return TN_OK;
}

static uint64_t product_of(const uint64_t *shape, uint32_t rank)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < rank; i++)
		n *= shape[i];
	return n;
}

static void positions(const struct broadcast *b, uint64_t i, uint64_t *first, uint64_t *second)
{
	*first = *second = 0;
	for (uint32_t d = b->rank; d-- > 0; i /= b->shape[d]) {
		*first += i % b->shape[d] * b->step[0][d];
		*second += i % b->shape[d] * b->step[1][d];
	}
}

static void pick_broadcast(const void *self, uint64_t i, uint64_t *x, uint64_t *matrix)
{
	positions(self, i, x, matrix);
}

/* The result: leading dimensions, then [m, n]; a 1-D x gives no m. */
static tn_status make_result(tn_context *ctx, const struct qmm *p, const uint64_t *leading, uint32_t rank, int has_m,
			     struct tn_array *out, struct tn_error *err)
{
	uint64_t shape[TN_ARRAY_RANK + 2];
	if (rank + 2 > TN_ARRAY_RANK)
		return tn_fail(err, TN_E_LIMIT, p->op, "[%s] the result would have more than %d dimensions", p->op,
			       TN_ARRAY_RANK);
	memcpy(shape, leading, rank * sizeof *shape);
	if (has_m)
		shape[rank++] = p->m;
	shape[rank++] = p->n;
	return tn_array_make(ctx, p->result, rank, shape, p->op, out, err);
}

/* ---- the two calls --------------------------------------------------------------------------------------- */

tn_status tn_quantized_matmul(tn_context *ctx, const struct tn_array *x, const struct tn_quantized *w, int transpose,
			      const struct tn_quantization *q, struct tn_array *out, struct tn_error *err)
{
	struct qmm p = { .op = "quantized_matmul", .w = w, .transpose = transpose != 0 };
	struct broadcast b;
	struct tn_array made;
	char of_w[TN_SHAPE_TEXT], of_x[TN_SHAPE_TEXT];
	TN_TRY(prepare(&p, x, q, err));
	if (w->weight.rank > 2 && x->rank < 3)
		return tn_fail(err, TN_E_ARG, "x",
			       "[%s] The weight has shape %s and x %s: a stack of matrices needs an x of at least 3 "
			       "dimensions (MLX "
			       "would use the first matrix alone)",
			       p.op, tn_shape_text(of_w, w->weight.shape, w->weight.rank),
			       tn_shape_text(of_x, x->shape, x->rank));
	if (w->global_scale.data && tn_array_elements(&w->global_scale) != 1)
		return tn_fail(err, TN_E_ARG, "global_scale", "[%s] Global scale must be a scalar.", p.op);
	TN_TRY(broadcast(x->shape, x->rank > 2 ? x->rank - 2 : 0, w->weight.shape, w->weight.rank - 2, &b, err));
	TN_TRY(make_result(ctx, &p, b.shape, b.rank, x->rank > 1, &made, err));
	tn_status status = run(ctx, &p, x, product_of(b.shape, b.rank), pick_broadcast, &b, &made, err);
	if (status != TN_OK) {
		tn_array_release(ctx, &made);
		return status;
	}
	*out = made;
	return TN_OK;
}

/* An index array, or the count 0, 1, ... in a shape. */
struct indices {
	const struct tn_array *given;
	uint64_t shape[TN_ARRAY_RANK];
	uint32_t rank;
	uint64_t limit;
};

struct gather {
	struct broadcast b;
	struct indices side[2];
};

static int64_t index_at(const struct indices *s, uint64_t i)
{
	const unsigned char *data;
	int8_t i8;
	int16_t i16;
	uint16_t u16;
	int32_t i32;
	uint32_t u32;
	int64_t i64;
	if (!s->given)
		return (int64_t)i;
	data = (const unsigned char *)s->given->data + i * (tn_dtype_bits(s->given->dtype) / 8);
	switch (s->given->dtype) {
	case TN_I8: memcpy(&i8, data, 1); return i8;
	case TN_I16: memcpy(&i16, data, 2); return i16;
	case TN_U16: memcpy(&u16, data, 2); return u16;
	case TN_I32: memcpy(&i32, data, 4); return i32;
	case TN_U32: memcpy(&u32, data, 4); return u32;
	case TN_I64:
	case TN_U64: memcpy(&i64, data, 8); return i64;
	default: return *data;
	}
}

static void pick_gathered(const void *self, uint64_t i, uint64_t *x, uint64_t *matrix)
{
	const struct gather *g = self;
	uint64_t l, r;
	positions(&g->b, i, &l, &r);
	*x = (uint64_t)index_at(&g->side[0], l);
	*matrix = (uint64_t)index_at(&g->side[1], r);
}

static tn_status make_indices(const struct tn_array *given, const struct tn_array *operand, const char *name,
			      struct indices *out, struct tn_error *err)
{
	struct indices s = { .given = given, .limit = product_of(operand->shape, operand->rank - 2) };
	const struct tn_array *from = given ? given : operand;
	s.rank = given ? given->rank : operand->rank - 2;
	memcpy(s.shape, from->shape, s.rank * sizeof *s.shape);
	if (given && (tn_dtype_is_float(given->dtype) || given->dtype == TN_C64 || given->dtype == TN_F8_E8M0))
		return tn_fail(err, TN_E_ARG, name,
			       "[gather_qmm] Got indices with invalid dtype. Indices must be integral.");
	for (uint64_t i = 0, n = product_of(s.shape, s.rank); given && i < n; i++) {
		int64_t index = index_at(&s, i);
		if (index < 0 || (uint64_t)index >= s.limit)
			return tn_fail(err, TN_E_ARG, name,
				       "[gather_qmm] index %lld of %s is out of range: there are %llu matrices",
				       (long long)index, name, (unsigned long long)s.limit);
	}
	*out = s;
	return TN_OK;
}

static tn_status check_ranks(const struct tn_array *x, const struct tn_array *w, struct tn_error *err)
{
	char shape[TN_SHAPE_TEXT];
	const struct tn_array *bad = x->rank < 2 ? x : w->rank < 2 ? w : NULL;
	if (!bad)
		return TN_OK;
	return tn_fail(err, TN_E_ARG, bad == x ? "x" : "w",
		       "[gather_qmm] Input must have at least two dimensions but got input with shape %s.",
		       tn_shape_text(shape, bad->shape, bad->rank));
}

static tn_status check_expert_scales(const struct qmm *p, uint64_t experts, struct tn_error *err)
{
	const struct tn_array *g = &p->w->global_scale;
	char shape[TN_SHAPE_TEXT];
	if (!g->data || (g->rank == 1 && g->shape[0] == experts && g->dtype == TN_F32))
		return TN_OK;
	return tn_fail(err, TN_E_ARG, "global_scale",
		       "[gather_qmm] Global scale must have one entry per expert with shape (%llu) but got %s.",
		       (unsigned long long)experts, tn_shape_text(shape, g->shape, g->rank));
}

tn_status tn_gather_qmm(tn_context *ctx, const struct tn_array *x, const struct tn_quantized *w,
			const struct tn_array *lhs, const struct tn_array *rhs, int transpose,
			const struct tn_quantization *q, struct tn_array *out, struct tn_error *err)
{
	struct qmm p = { .op = "gather_qmm", .w = w, .transpose = transpose != 0 };
	struct gather g;
	struct tn_array made;
	if (!lhs && !rhs)
		return tn_quantized_matmul(ctx, x, w, transpose, q, out, err);
	TN_TRY(prepare(&p, x, q, err));
	TN_TRY(check_ranks(x, &w->weight, err));
	TN_TRY(make_indices(lhs, x, "lhs_indices", &g.side[0], err));
	TN_TRY(make_indices(rhs, &w->weight, "rhs_indices", &g.side[1], err));
	TN_TRY(check_expert_scales(&p, g.side[1].limit, err));
	TN_TRY(broadcast(g.side[0].shape, g.side[0].rank, g.side[1].shape, g.side[1].rank, &g.b, err));
	TN_TRY(make_result(ctx, &p, g.b.shape, g.b.rank, 1, &made, err));
	tn_status status = run(ctx, &p, x, product_of(g.b.shape, g.b.rank), pick_gathered, &g, &made, err);
	if (status != TN_OK) {
		tn_array_release(ctx, &made);
		return status;
	}
	*out = made;
	return TN_OK;
}
