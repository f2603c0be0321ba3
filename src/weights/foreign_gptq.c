/* SPDX-License-Identifier: Apache-2.0 */
/* AutoAWQ and GPTQ: `<layer>.qweight` with .scales and zero points. Which of the layouts it is says the configuration; all
 * shapes must then agree with it. */
#include "weights/foreign_find.h"

#include "base/checked.h"
#include "base/error.h"

#include <string.h>

/* ---- groups ---------------------------------------------------------------------------------------------- */

/* Columns in a group, from the configuration (0: not said, -1: the row) and the number of groups of scales. */
static tn_status set_groups(struct tn_module *m, uint64_t groups, int exact, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	const struct tn_foreign_config *c = &m->finder->config;
	int64_t size = c->dynamic ? 0 : c->group_size;
	f->groups = groups;
	f->group = size > 0 ? (uint64_t)size : size < 0 ? f->cols : groups ? f->cols / groups : 0;
	if (f->group == 0 || tn_ceil_div(f->cols, f->group) != groups || (exact && f->cols % f->group != 0))
		return tn_fail(err, TN_E_MISMATCH, "group_size",
			       "'%.120s' has %llu groups of scales for %llu columns, which "
			       "does not agree with `group_size` %lld",
			       m->layer, (unsigned long long)groups, (unsigned long long)f->cols, (long long)c->group_size);
	return TN_OK;
}

static tn_status begin(struct tn_finder *finder, const struct tn_tensor *qweight, const char *scheme, struct tn_module *m,
		       const struct tn_tensor **scales, struct tn_error *err)
{
	TN_TRY(tn_module_begin(finder, qweight, ".qweight", ".weight", scheme, 1u << TN_METHOD_AWQ | 1u << TN_METHOD_GPTQ, m, err));
	if (qweight->rank != 2)
		return tn_fail(err, TN_E_FORMAT, qweight->name, "'%.120s' has rank %u; 2 was expected", qweight->name,
			       qweight->rank);
	TN_TRY(tn_module_need(m, ".scales", scales, err));
	TN_TRY(tn_expect_dtype(*scales, TN_FLOATS, "F16, BF16 or F32", err));
	if ((*scales)->rank != 2)
		return tn_fail(err, TN_E_FORMAT, (*scales)->name, "'%.120s' has rank %u; 2 was expected", (*scales)->name,
			       (*scales)->rank);
	m->f->dtype = (*scales)->dtype;
	m->f->bits = 4;
	return TN_OK;
}

static uint64_t value_bytes(const struct tn_tensor *t)
{
	return tn_dtype_bits(t->dtype) / 8;
}

/* [groups, rows] */
static void column_scales(struct tn_module *m, const struct tn_tensor *scales)
{
	m->f->scales = TN_SCALES_COLUMN;
	tn_module_columns(m, TN_FOREIGN_SCALES, scales, scales->shape[0], 1, value_bytes(scales));
}

/* ---- AutoAWQ --------------------------------------------------------------------------------------------- */

static tn_status find_gemm(struct tn_finder *finder, const struct tn_tensor *q, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales, *zeros;
	TN_TRY(begin(finder, q, "awq gemm", &m, &scales, err));
	TN_TRY(tn_expect_dtype(q, TN_WORDS, "I32", err));
	uint64_t shape[2] = { q->shape[1] * 8, q->shape[0] };
	TN_TRY(tn_module_shape(&m, 2, shape, err));
	TN_TRY(tn_expect_shape(scales, 2, scales->shape[0], shape[0], err));
	TN_TRY(set_groups(&m, scales->shape[0], 1, err));
	if (tn_module_find(&m, ".g_idx"))
		return tn_fail(err, TN_E_FORMAT, m.layer, "'%.120s.g_idx' stands beside an AWQ module, which has none", m.layer);
	m.f->packing = TN_PACK_AWQ;
	tn_module_columns(&m, TN_FOREIGN_CODES, q, q->shape[0], 8, 4);
	column_scales(&m, scales);
	if (!tn_module_find(&m, ".qzeros") && finder->config.method == TN_METHOD_AWQ && !finder->config.zero_point) {
		TN_TRY(tn_module_table(&m, TN_ELEMENT_CENTRED + 4, err));
		return tn_module_end(&m, err);
	}
	TN_TRY(tn_module_table(&m, TN_ELEMENT_UNSIGNED, err));
	TN_TRY(tn_module_need(&m, ".qzeros", &zeros, err));
	TN_TRY(tn_expect_dtype(zeros, TN_WORDS, "I32", err));
	TN_TRY(tn_expect_shape(zeros, 2, m.f->groups, q->shape[1], err));
	m.f->zeros = TN_ZEROS_COLUMN_AWQ;
	tn_module_columns(&m, TN_FOREIGN_ZEROS, zeros, m.f->groups, 8, 4);
	return tn_module_end(&m, err);
}

/* Words of zero points in a row: padded so that the scales of a row, eight for each, are a multiple of what the kernels load
 * (awq/modules/linear/gemv.py, calculate_zeros_width). 0: no such group size. */
static uint64_t gemv_width(uint64_t cols, uint64_t group)
{
	uint64_t multiple = group >= 128 ? 1 : group == 64 ? 2 : group == 32 ? 4 : 0;
	return multiple ? tn_ceil_div(tn_ceil_div(cols / group, 8), multiple) * multiple : 0;
}

static tn_status gemv_groups(struct tn_module *m, uint64_t *width, struct tn_error *err)
{
	int64_t size = m->finder->config.group_size;
	uint64_t group = size > 0 ? (uint64_t)size : m->f->cols;
	*width = gemv_width(m->f->cols, group);
	if (*width == 0 || m->f->cols % group != 0)
		return tn_fail(err, TN_E_MISMATCH, "group_size", "'%.120s' has %llu columns and `group_size` %lld; this layout "
			       "of AWQ has 32, 64, or a multiple from 128 on that divides the columns", m->layer,
			       (unsigned long long)m->f->cols, (long long)size);
	return set_groups(m, m->f->cols / group, 1, err);
}

static tn_status find_gemv(struct tn_finder *finder, const struct tn_tensor *q, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales, *zeros;
	uint64_t width;
	TN_TRY(begin(finder, q, "awq gemv", &m, &scales, err));
	TN_TRY(tn_expect_dtype(q, TN_WORDS, "I32", err));
	TN_TRY(tn_module_shape(&m, 2, (uint64_t[]){ q->shape[0], q->shape[1] * 8 }, err));
	TN_TRY(gemv_groups(&m, &width, err));
	TN_TRY(tn_expect_shape(scales, 2, m.f->rows, width * 8, err));
	TN_TRY(tn_module_need(&m, ".qzeros", &zeros, err));
	TN_TRY(tn_expect_dtype(zeros, TN_WORDS, "I32", err));
	TN_TRY(tn_expect_shape(zeros, 2, m.f->rows, width, err));
	m.f->packing = TN_PACK_STREAM;
	m.f->scales = TN_SCALES_ROW;
	m.f->zeros = TN_ZEROS_ROW_STREAM;
	tn_module_rows(&m, TN_FOREIGN_CODES, q, 1, q->shape[1] * 4);
	tn_module_rows(&m, TN_FOREIGN_SCALES, scales, 1, width * 8 * value_bytes(scales));
	tn_module_rows(&m, TN_FOREIGN_ZEROS, zeros, 1, width * 4);
	TN_TRY(tn_module_table(&m, TN_ELEMENT_UNSIGNED, err));
	return tn_module_end(&m, err);
}

/* llm-awq calls the zero points scaled_zeros; in both they are -zero * scale already. */
static tn_status find_gemv_fast(struct tn_finder *finder, const struct tn_tensor *q, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales, *zeros;
	uint64_t width;
	TN_TRY(begin(finder, q, "awq gemv_fast", &m, &scales, err));
	TN_TRY(tn_expect_dtype(q, TN_BIT(TN_I16), "I16", err));
	TN_TRY(tn_module_shape(&m, 2, (uint64_t[]){ q->shape[0] * 4, q->shape[1] }, err));
	if (m.f->cols % 64 != 0)
		return tn_fail(err, TN_E_FORMAT, q->name, "'%.120s' has %llu columns; gemv_fast has a multiple of 64", q->name,
			       (unsigned long long)m.f->cols);
	TN_TRY(gemv_groups(&m, &width, err));
	zeros = tn_module_find(&m, ".scaled_zeros");
	if (!zeros || tn_module_find(&m, ".qzeros"))
		TN_TRY(tn_module_need(&m, ".qzeros", &zeros, err));
	TN_TRY(tn_expect_dtype(zeros, TN_FLOATS, "F16, BF16 or F32", err));
	TN_TRY(tn_expect_shape(scales, 2, width * 8, m.f->rows, err));
	TN_TRY(tn_expect_shape(zeros, 2, width * 8, m.f->rows, err));
	m.f->packing = TN_PACK_AWQ_FAST;
	m.f->zeros = TN_ZEROS_COLUMN_FLOAT;
	tn_module_rows(&m, TN_FOREIGN_CODES, q, 4, m.f->cols * 2);
	column_scales(&m, scales);
	tn_module_columns(&m, TN_FOREIGN_ZEROS, zeros, width * 8, 1, value_bytes(zeros));
	TN_TRY(tn_module_table(&m, TN_ELEMENT_UNSIGNED, err));
	return tn_module_end(&m, err);
}

/* ---- marlin ---------------------------------------------------------------------------------------------- */

static tn_status fill_marlin(struct tn_module *m, const struct tn_tensor *q, const struct tn_tensor *scales,
			     struct tn_error *err)
{
	TN_TRY(tn_expect_dtype(q, TN_WORDS, "I32", err));
	TN_TRY(tn_module_shape(m, 2, (uint64_t[]){ q->shape[1] / 2, q->shape[0] * 16 }, err));
	if (q->shape[1] % 128 != 0)
		return tn_fail(err, TN_E_FORMAT, q->name, "'%.120s' has %llu columns; marlin has a multiple of 128", q->name,
			       (unsigned long long)q->shape[1]);
	TN_TRY(tn_expect_shape(scales, 2, scales->shape[0], m->f->rows, err));
	TN_TRY(set_groups(m, scales->shape[0], 1, err));
	m->f->packing = TN_PACK_MARLIN;
	m->f->scales = TN_SCALES_MARLIN;
	tn_module_columns(m, TN_FOREIGN_CODES, q, q->shape[0], 64, 512);
	tn_module_columns(m, TN_FOREIGN_SCALES, scales, m->f->groups, 64, 64 * value_bytes(scales));
	TN_TRY(tn_module_table(m, TN_ELEMENT_CENTRED + 4, err));
	return tn_module_end(m, err);
}

static tn_status find_awq_marlin(struct tn_finder *finder, const struct tn_tensor *q, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales;
	TN_TRY(begin(finder, q, "awq marlin", &m, &scales, err));
	const struct tn_tensor *zeros = tn_module_find(&m, ".qzeros");
	if (zeros)
		return tn_fail(err, TN_E_FORMAT, zeros->name, "'%.120s' stands there, and marlin has no zero points", zeros->name);
	return fill_marlin(&m, q, scales, err);
}

tn_status tn_find_marlin(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales;
	if (finder->config.method != TN_METHOD_GPTQ || finder->config.format != TN_GPTQ_MARLIN || t->rank != 2)
		return TN_OK;
	TN_TRY(tn_module_begin(finder, t, ".B", ".weight", "gptq marlin", 1u << TN_METHOD_GPTQ, &m, err));
	TN_TRY(tn_module_need(&m, ".s", &scales, err));
	TN_TRY(tn_expect_dtype(scales, TN_FLOATS, "F16, BF16 or F32", err));
	if (scales->rank != 2)
		return tn_fail(err, TN_E_FORMAT, scales->name, "'%.120s' has rank %u; 2 was expected", scales->name, scales->rank);
	m.f->dtype = scales->dtype;
	m.f->bits = 4;
	return fill_marlin(&m, t, scales, err);
}

/* ---- GPTQ ------------------------------------------------------------------------------------------------ */

/* The width that the zero points say. It must be the configuration's, unless that lets modules differ. */
static tn_status gptq_bits(struct tn_module *m, const struct tn_tensor *zeros, uint64_t rows, uint64_t *bits,
			   struct tn_error *err)
{
	const struct tn_foreign_config *c = &m->finder->config;
	uint64_t words = zeros->rank == 2 ? zeros->shape[1] : 0;
	*bits = words * 32 % rows == 0 ? words * 32 / rows : 0;
	int known = *bits == 2 || *bits == 3 || *bits == 4 || *bits == 8;
	if (c->format == TN_GPTQ_P || c->any_width)
		known = *bits >= 2 && *bits <= 8;
	if (!known)
		return tn_fail(err, TN_E_FORMAT, zeros->name,
			       "'%.120s' has %llu words for %llu outputs; 2, 3, 4 or 8 bits for "
			       "each were expected (gptq_p and AutoRound: 2 to 8)",
			       zeros->name, (unsigned long long)words, (unsigned long long)rows);
	if (c->bits && !c->dynamic && (int64_t)*bits != c->bits)
		return tn_fail(err, TN_E_MISMATCH, "bits", "'%.120s' has %llu bits for each output, and `bits` is %lld",
			       zeros->name, (unsigned long long)*bits, (long long)c->bits);
	return TN_OK;
}

static tn_status gptq_shape(struct tn_module *m, const struct tn_tensor *q, const struct tn_tensor *scales,
			    const struct tn_tensor *zeros, struct tn_error *err)
{
	uint64_t rows = scales->shape[1], bits;
	TN_TRY(gptq_bits(m, zeros, rows, &bits, err));
	int straddles = bits != 2 && bits != 4 && bits != 8;
	if (q->shape[1] != rows)
		return tn_expect_shape(q, 2, q->shape[0], rows, err);
	if (q->shape[0] * 32 % bits != 0 || (straddles && (q->shape[0] % bits != 0 || rows % 32 != 0)))
		return tn_fail(err, TN_E_FORMAT, q->name, "'%.120s' has %llu words in a column, which is no whole number of "
			       "inputs at %llu bits", q->name, (unsigned long long)q->shape[0], (unsigned long long)bits);
	TN_TRY(tn_module_shape(m, 2, (uint64_t[]){ rows, q->shape[0] * 32 / bits }, err));
	m->f->bits = (uint8_t)bits;
	TN_TRY(tn_expect_shape(zeros, 2, scales->shape[0], rows * bits / 32, err));
	return set_groups(m, scales->shape[0], 0, err);
}

static void gptq_zeros(struct tn_module *m, const struct tn_tensor *zeros)
{
	static const uint32_t words[9] = { [2] = 0x55555555u, [4] = 0x11111111u, [8] = 0x01010101u };
	struct tn_foreign *f = m->f;
	const struct tn_foreign_config *c = &m->finder->config;
	uint64_t cell_rows = 32u % f->bits == 0 ? 32u / f->bits : 32u;
	int planes = c->format == TN_GPTQ_P && cell_rows == 32;
	f->packing = planes ? TN_PACK_PLANES : TN_PACK_COLUMNS;
	f->zeros = planes ? TN_ZEROS_COLUMN_PLANES : TN_ZEROS_COLUMN_STREAM;
	if (c->format == TN_GPTQ_V1) {
		f->zero_word = words[f->bits];
		f->zero_plus = f->zero_word == 0;
	}
	tn_module_columns(m, TN_FOREIGN_ZEROS, zeros, f->groups, cell_rows, cell_rows * f->bits / 8);
}

static tn_status find_gptq(struct tn_finder *finder, const struct tn_tensor *q, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales, *zeros, *g_idx;
	TN_TRY(begin(finder, q, "gptq", &m, &scales, err));
	TN_TRY(tn_expect_dtype(q, TN_WORDS, "I32", err));
	TN_TRY(tn_module_need(&m, ".qzeros", &zeros, err));
	TN_TRY(tn_expect_dtype(zeros, TN_WORDS, "I32", err));
	TN_TRY(gptq_shape(&m, q, scales, zeros, err));
	tn_module_columns(&m, TN_FOREIGN_CODES, q, q->shape[0], 1, 4);
	column_scales(&m, scales);
	gptq_zeros(&m, zeros);
	g_idx = tn_module_find(&m, ".g_idx");
	if (g_idx)
		TN_TRY(tn_module_groups(&m, g_idx, err));
	tn_module_drop(&m, ".g_idx");
	TN_TRY(tn_module_table(&m, TN_ELEMENT_UNSIGNED, err));
	return tn_module_end(&m, err);
}

/* Without a configuration the shapes of gemm still tell everything; those of the others leave the group size or the version
 * of the zero points open. */
static tn_status find_unconfigured(struct tn_finder *finder, const struct tn_tensor *q, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales;
	TN_TRY(begin(finder, q, "awq or gptq", &m, &scales, err));
	if (scales->shape[1] == q->shape[1] * 8)
		return find_gemm(finder, q, err);
	return tn_fail(err, TN_E_NOTFOUND, q->name, "'%.120s' is packed by AutoAWQ or GPTQ, and no configuration says how; add "
		       "config.json with its `quantization_config`, or quantize_config.json", q->name);
}

tn_status tn_find_qweight(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	const struct tn_foreign_config *c = &finder->config;
	if (c->method == TN_METHOD_NONE)
		return find_unconfigured(finder, t, err);
	if (c->method == TN_METHOD_GPTQ)
		return c->format == TN_GPTQ_MARLIN ? find_awq_marlin(finder, t, err) : find_gptq(finder, t, err);
	switch (c->version) {
	case TN_AWQ_GEMM: return find_gemm(finder, t, err);
	case TN_AWQ_GEMV: return find_gemv(finder, t, err);
	case TN_AWQ_GEMV_FAST: return find_gemv_fast(finder, t, err);
	default: return find_awq_marlin(finder, t, err);
	}
}
