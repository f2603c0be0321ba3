/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of 8 bits with scales beside them, and E2M1 and E2M3 by twos and fours in bytes: FP8 of transformers, ModelOpt and
 * compressed-tensors, NVFP4, MXFP4, MXFP6, MXFP8, gpt-oss; and compressed-tensors' packed integers. */
#include "weights/foreign_find.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"

#include <math.h>
#include <string.h>

enum {
	F8 = TN_BIT(TN_F8_E4M3) | TN_BIT(TN_F8_E5M2) | TN_BIT(TN_F8_E4M3FNUZ) | TN_BIT(TN_F8_E5M2FNUZ),
	POWERS = TN_BIT(TN_U8) | TN_BIT(TN_F8_E8M0)
};

static const struct tn_tensor *find_named(const struct tn_finder *finder, const char *name, size_t n, const char *suffix)
{
	char text[TN_NAME_BYTES];
	if (n + strlen(suffix) >= sizeof text)
		return NULL;
	memcpy(text, name, n);
	memcpy(text + n, suffix, strlen(suffix) + 1);
	return tn_checkpoint_find(finder->checkpoint, text);
}

/* Codes of a row in whole bytes; `cols` codes. */
static tn_status stream_codes(struct tn_module *m, const struct tn_tensor *t, unsigned bits, uint64_t cols, unsigned element,
			      struct tn_error *err)
{
	uint64_t shape[3];
	if (t->rank < 2 || t->rank > 3)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' has rank %u; 2 or 3 was expected", t->name, t->rank);
	memcpy(shape, t->shape, t->rank * sizeof *shape);
	shape[t->rank - 1] = cols;
	TN_TRY(tn_module_shape(m, t->rank, shape, err));
	m->f->bits = (uint8_t)bits;
	m->f->packing = TN_PACK_STREAM;
	tn_module_rows(m, TN_FOREIGN_CODES, t, 1, t->bytes / m->f->rows);
	return tn_module_table(m, element, err);
}

static uint64_t last_size(const struct tn_tensor *t)
{
	return t->rank ? t->shape[t->rank - 1] : 1;
}

static unsigned element_of(const struct tn_tensor *t)
{
	switch (t->dtype) {
	case TN_I8: return TN_ELEMENT_I8;
	case TN_F8_E4M3: return TN_ELEMENT_E4M3;
	case TN_F8_E4M3FNUZ: return TN_ELEMENT_E4M3FNUZ;
	case TN_F8_E5M2FNUZ: return TN_ELEMENT_E5M2FNUZ;
	default: return TN_ELEMENT_E5M2;
	}
}

static tn_status read_scalar(struct tn_module *m, const char *suffix, struct tn_error *err)
{
	const struct tn_tensor *t;
	TN_TRY(tn_module_need(m, suffix, &t, err));
	TN_TRY(tn_expect_dtype(t, TN_BIT(TN_F32), "F32", err));
	if (t->elements != 1)
		return tn_expect_shape(t, 1, 1, 0, err);
	TN_TRY(m->finder->source.read(m->finder->source.self, t, 0, &m->f->global_scale, sizeof(float), err));
	tn_module_drop(m, suffix);
	return TN_OK;
}

/* ---- packed bytes of compressed-tensors ------------------------------------------------------------------ */

static tn_status find_nvfp4(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			    struct tn_error *err)
{
	m->f->scheme = "nvfp4";
	TN_TRY(stream_codes(m, codes, 4, codes->shape[codes->rank - 1] * 2, TN_ELEMENT_E2M1, err));
	TN_TRY(read_scalar(m, ".weight_global_scale", err));
	m->f->global = TN_GLOBAL_OVER;
	if (!(m->f->global_scale > 0) || isinf(m->f->global_scale))
		return tn_fail(err, TN_E_FORMAT, m->layer, "'%.120s.weight_global_scale' is %g; a finite number above 0 was "
			       "expected, because scales are divided by it", m->layer, (double)m->f->global_scale);
	TN_TRY(tn_module_scales(m, scales, 1, 16, err));
	return tn_module_end(m, err);
}

/* The scales say how many columns there are: 16 bytes for each are E2M1, 24 are E2M3. */
static tn_status find_mx(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			 struct tn_error *err)
{
	uint64_t bytes = last_size(codes), groups = last_size(scales);
	int six = bytes == groups * 24;
	if (!six && bytes != groups * 16)
		return tn_fail(err, TN_E_FORMAT, codes->name, "'%.120s' has %llu bytes in a row and %llu scales; 16 (MXFP4) or 24 "
			       "(MXFP6) for each scale were expected", codes->name, (unsigned long long)bytes,
			       (unsigned long long)groups);
	m->f->scheme = six ? "mxfp6" : "mxfp4";
	TN_TRY(stream_codes(m, codes, six ? 6 : 4, groups * 32, six ? TN_ELEMENT_E2M3 : TN_ELEMENT_E2M1, err));
	TN_TRY(tn_module_scales(m, scales, 1, 32, err));
	return tn_module_end(m, err);
}

/* The format of the configuration must be one that packs like that. */
static tn_status check_ct_format(const struct tn_module *m, struct tn_error *err)
{
	const struct tn_foreign_config *c = &m->finder->config;
	for (size_t i = 0; i < c->group_count; i++)
		if (strncmp(c->groups[i].format, m->f->scheme, strlen(m->f->scheme)) == 0 ||
		    strcmp(c->groups[i].format, "mixed-precision") == 0)
			return TN_OK;
	if (c->group_count == 0)
		return TN_OK;
	return tn_fail(err, TN_E_MISMATCH, "format", "'%.120s' is packed as %s, and `format` is '%s'", m->layer, m->f->scheme,
		       c->groups[0].format);
}

/* ---- packed integers of compressed-tensors --------------------------------------------------------------- */

/* Before 0.18 zero points and codes of 3, 5, 6 and 7 bits did not straddle words. */
static tn_status int_codes(struct tn_module *m, const struct tn_tensor *t, const struct tn_ct_group *g, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	unsigned bits = (unsigned)g->bits;
	uint64_t dense = tn_ceil_div(f->cols * bits, 32), padded = tn_ceil_div(f->cols, 32 / bits), found = last_size(t);
	int differ = 32 % bits != 0 && f->cols > 32 / bits;
	f->bits = (uint8_t)bits;
	if (differ && dense == padded && m->finder->config.words_padded < 0)
		return tn_fail(err, TN_E_NOTFOUND, "version", "'%.120s' may be packed in either of two ways; the `version` of "
			       "compressed-tensors tells, and config.json has none", t->name);
	f->words_padded = differ && found == padded && (dense != padded || m->finder->config.words_padded == 1);
	TN_TRY(tn_expect_shape(t, 2, f->rows, f->words_padded ? padded : dense, err));
	f->packing = f->words_padded ? TN_PACK_WORDS : TN_PACK_STREAM;
	tn_module_rows(m, TN_FOREIGN_CODES, t, 1, last_size(t) * 4);
	return TN_OK;
}

static tn_status i8_zeros(struct tn_module *m, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	struct tn_slab *scales = &f->part[TN_FOREIGN_SCALES];
	f->zeros = TN_ZEROS_ROW;
	if (scales->cell_rows != 1 && t->elements == 1) {
		tn_module_rows(m, TN_FOREIGN_ZEROS, t, f->rows, 1);
		return TN_OK;
	}
	TN_TRY(tn_expect_shape(t, 2, f->rows, f->groups, err));
	tn_module_rows(m, TN_FOREIGN_ZEROS, t, 1, f->groups);
	return TN_OK;
}

/* Packed down the rows, or bytes in older files and for whole tensors. Packed ones are offset like the codes. */
static tn_status int_zeros(struct tn_module *m, const struct tn_ct_group *g, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	const struct tn_tensor *t;
	if (g->symmetric) {
		t = tn_module_find(m, ".weight_zero_point");
		return t ? tn_fail(err, TN_E_MISMATCH, t->name, "'%.120s' stands there, and `symmetric` is true", t->name)
			 : tn_module_table(m, TN_ELEMENT_CENTRED + f->bits, err);
	}
	TN_TRY(tn_module_need(m, ".weight_zero_point", &t, err));
	if (t->dtype == TN_I8) {
		TN_TRY(tn_module_table(m, TN_ELEMENT_CENTRED + f->bits, err));
		return i8_zeros(m, t, err);
	}
	TN_TRY(tn_expect_dtype(t, TN_WORDS, "I32 or I8", err));
	uint64_t per = f->words_padded || 32u % f->bits == 0 ? 32u / f->bits : 32u;
	uint64_t words = per == 32 ? tn_ceil_div(f->rows * f->bits, 32) : tn_ceil_div(f->rows, per);
	TN_TRY(tn_expect_shape(t, 2, words, f->groups, err));
	f->zeros = TN_ZEROS_DOWN_STREAM;
	tn_module_rows(m, TN_FOREIGN_ZEROS, t, per, (per == 32 ? f->bits : 1) * f->groups * 4);
	return tn_module_table(m, TN_ELEMENT_UNSIGNED, err);
}

static tn_status ct_scales(struct tn_module *m, const struct tn_tensor *t, const struct tn_ct_group *g, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	switch (g->strategy) {
	case TN_CT_TENSOR: return tn_module_scales(m, t, 0, 0, err);
	case TN_CT_CHANNEL: return tn_module_scales(m, t, 1, f->cols, err);
	case TN_CT_GROUP: return tn_module_scales(m, t, 1, (uint64_t)g->group_size, err);
	default: return tn_module_scales(m, t, g->block[0], g->block[1], err);
	}
}

static tn_status fill_int(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			  const struct tn_ct_group *g, struct tn_error *err)
{
	if (g->is_float || strcmp(g->format, "pack-quantized") != 0)
		return tn_fail(err, TN_E_MISMATCH, "format", "'%.120s' holds packed integers, and `format` is '%s' with type %s",
			       codes->name, g->format, g->is_float ? "float" : "int");
	TN_TRY(int_codes(m, codes, g, err));
	TN_TRY(ct_scales(m, scales, g, err));
	return int_zeros(m, g, err);
}

static tn_status int_shape(struct tn_module *m, struct tn_error *err)
{
	const struct tn_tensor *t;
	int64_t sizes[2];
	TN_TRY(tn_module_need(m, ".weight_shape", &t, err));
	TN_TRY(tn_expect_dtype(t, TN_BIT(TN_I64) | TN_BIT(TN_I32), "I64", err));
	TN_TRY(tn_expect_shape(t, 1, 2, 0, err));
	int32_t narrow[2];
	TN_TRY(m->finder->source.read(m->finder->source.self, t, 0, t->dtype == TN_I64 ? (void *)sizes : (void *)narrow,
				      (size_t)t->bytes, err));
	for (int i = 0; i < 2; i++) {
		sizes[i] = t->dtype == TN_I64 ? sizes[i] : narrow[i];
		if (sizes[i] < 1 || sizes[i] > (int64_t)1 << 40)
			return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' says a size of %lld, which no matrix has", t->name,
				       (long long)sizes[i]);
	}
	tn_module_drop(m, ".weight_shape");
	return tn_module_shape(m, 2, (uint64_t[]){ (uint64_t)sizes[0], (uint64_t)sizes[1] }, err);
}

/* Tries each config_group on the module; the first that fits holds, and the last one's complaint is given. */
static tn_status for_group(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			   tn_status (*fill)(struct tn_module *m, const struct tn_tensor *codes,
					     const struct tn_tensor *scales, const struct tn_ct_group *g, struct tn_error *err),
			   struct tn_error *err)
{
	const struct tn_foreign_config *c = &m->finder->config;
	for (size_t i = 0; i < c->group_count; i++) {
		struct tn_foreign saved = *m->f;
		tn_status status = fill(m, codes, scales, &c->groups[i], err);
		if (status == TN_OK || i + 1 == c->group_count)
			return status;
		*m->f = saved;
	}
	return tn_fail(err, TN_E_NOTFOUND, codes->name, "'%.120s' is of compressed-tensors, and no `config_groups` say its bits "
		       "and strategy; get the config.json of this checkpoint", codes->name);
}

static tn_status find_int(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			  struct tn_error *err)
{
	m->f->scheme = "pack-quantized";
	TN_TRY(tn_expect_dtype(scales, TN_FLOATS, "F32, F16 or BF16", err));
	TN_TRY(int_shape(m, err));
	m->f->dtype = scales->dtype;
	TN_TRY(for_group(m, codes, scales, fill_int, err));
	const struct tn_tensor *g_idx = tn_module_find(m, ".weight_g_idx");
	int32_t first = 0;
	if (g_idx && g_idx->dtype == TN_I32 && g_idx->elements)
		TN_TRY(m->finder->source.read(m->finder->source.self, g_idx, 0, &first, sizeof first, err));
	if (g_idx && first != -1) /* -1 stands for none */
		TN_TRY(tn_module_groups(m, g_idx, err));
	tn_module_drop(m, ".weight_g_idx");
	return tn_module_end(m, err);
}

tn_status tn_find_packed(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales;
	TN_TRY(tn_module_begin(finder, t, ".weight_packed", ".weight", "compressed-tensors", 1u << TN_METHOD_CT, &m, err));
	TN_TRY(tn_module_need(&m, ".weight_scale", &scales, err));
	if (t->dtype == TN_I32)
		return find_int(&m, t, scales, err);
	TN_TRY(tn_expect_dtype(t, TN_BIT(TN_U8), "I32 or U8", err));
	TN_TRY(tn_expect_dtype(scales, POWERS | TN_BIT(TN_F8_E4M3), "F8_E4M3, U8 or F8_E8M0", err));
	if (t->rank == 0)
		return tn_expect_shape(t, 2, 0, 0, err);
	TN_TRY(scales->dtype == TN_F8_E4M3 ? find_nvfp4(&m, t, scales, err) : find_mx(&m, t, scales, err));
	return check_ct_format(&m, err);
}

/* ---- 8 bits ---------------------------------------------------------------------------------------------- */

static tn_status fill_8bit(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			   const struct tn_ct_group *g, struct tn_error *err)
{
	int is_float = codes->dtype != TN_I8;
	const struct tn_tensor *zeros = tn_module_find(m, ".weight_zero_point");
	if (g->bits != 8 || g->is_float != is_float)
		return tn_fail(err, TN_E_MISMATCH, "config_groups", "'%.120s' is %s, and the configuration says %lld bits, type %s",
			       codes->name, tn_dtype_name(codes->dtype), (long long)g->bits, g->is_float ? "float" : "int");
	TN_TRY(ct_scales(m, scales, g, err));
	if (!is_float && !g->symmetric)
		TN_TRY(tn_module_need(m, ".weight_zero_point", &zeros, err));
	if (!zeros || is_float)
		return TN_OK;
	if (g->symmetric)
		return tn_fail(err, TN_E_MISMATCH, zeros->name, "'%.120s' stands there, and `symmetric` is true", zeros->name);
	TN_TRY(tn_expect_dtype(zeros, TN_BIT(TN_I8), "I8", err));
	return i8_zeros(m, zeros, err);
}

/* A dimension that the block does not divide may be cut by a divisor of it: writers that want whole blocks do that. */
static uint64_t block_for(uint64_t size, uint64_t block, uint64_t cells)
{
	if (cells && size % block != 0 && size % cells == 0 && block % (size / cells) == 0)
		return tn_ceil_div(size, block) == cells ? block : size / cells;
	return block;
}

/* One scale, one for each row, or those of the blocks that the configuration says. */
static tn_status scales_by_shape(struct tn_module *m, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	const uint64_t *block = m->finder->config.block;
	uint64_t rows = f->weight.shape[f->weight.rank - 2];
	if (block[0] && t->rank >= 2)
		return tn_module_scales(m, t, block_for(rows, block[0], t->shape[t->rank - 2]),
					block_for(f->cols, block[1], last_size(t)), err);
	if (t->elements == 1 || t->rank != 2)
		return tn_module_scales(m, t, 0, 0, err);
	if (POWERS & TN_BIT(t->dtype) && f->cols == last_size(t) * 32)
		return tn_module_scales(m, t, 1, 32, err);
	return tn_module_scales(m, t, 1, f->cols, err);
}

/* NVFP4 of ModelOpt. */
static tn_status find_modelopt(struct tn_module *m, const struct tn_tensor *codes, const struct tn_tensor *scales,
			       struct tn_error *err)
{
	m->f->scheme = "nvfp4";
	TN_TRY(tn_expect_dtype(scales, TN_BIT(TN_F8_E4M3), "F8_E4M3", err));
	TN_TRY(stream_codes(m, codes, 4, last_size(codes) * 2, TN_ELEMENT_E2M1, err));
	TN_TRY(read_scalar(m, ".weight_scale_2", err));
	m->f->global = TN_GLOBAL_TIMES;
	if (!isfinite(m->f->global_scale))
		return tn_fail(err, TN_E_FORMAT, m->layer, "'%.120s.weight_scale_2' is not finite", m->layer);
	TN_TRY(tn_module_scales(m, scales, 1, 16, err));
	return tn_module_end(m, err);
}

tn_status tn_find_weight_scale(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *codes = find_named(finder, t->name, strlen(t->name) - strlen("_scale"), "");
	unsigned methods = 1u << TN_METHOD_CT | 1u << TN_METHOD_FP8 | 1u << TN_METHOD_MODELOPT;
	if (!codes || !((F8 | TN_BIT(TN_I8) | TN_BIT(TN_U8)) & TN_BIT(codes->dtype)))
		return TN_OK; /* that of a `.weight_packed`, or of a weight that is dense */
	const char *scheme = codes->dtype == TN_I8 ? "int-quantized" : "fp8";
	TN_TRY(tn_module_begin(finder, codes, ".weight", ".weight", scheme, methods, &m, err));
	if (t->elements == 0)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' has no values", t->name);
	if (codes->dtype == TN_U8)
		return find_modelopt(&m, codes, t, err);
	TN_TRY(tn_expect_dtype(t, TN_FLOATS | POWERS, "F32, F16, BF16, U8 or F8_E8M0", err));
	TN_TRY(stream_codes(&m, codes, 8, last_size(codes), element_of(codes), err));
	if (POWERS & TN_BIT(t->dtype))
		m.f->scheme = "mxfp8";
	else
		m.f->dtype = t->dtype == TN_F16 ? TN_F16 : TN_BF16;
	TN_TRY(finder->config.method == TN_METHOD_CT ? for_group(&m, codes, t, fill_8bit, err) : scales_by_shape(&m, t, err));
	return tn_module_end(&m, err);
}

/* fbgemm's experts of Llama 4 (transformers, integrations/fbgemm_fp8.py): `<proj>` [experts, in, out] and `<proj>_scale`
 * [experts, 1, out] or [experts, out, 1], a scale for each output. */
tn_status tn_find_expert_scale(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *codes = find_named(finder, t->name, strlen(t->name) - strlen("_scale"), "");
	if (finder->config.method != TN_METHOD_FP8 || !codes || !(F8 & TN_BIT(codes->dtype)) || codes->rank != 3)
		return TN_OK;
	TN_TRY(tn_module_begin(finder, codes, "", "", "fp8", 1u << TN_METHOD_FP8, &m, err));
	TN_TRY(tn_expect_dtype(t, TN_FLOATS, "F32, F16 or BF16", err));
	TN_TRY(stream_codes(&m, codes, 8, last_size(codes), element_of(codes), err));
	uint64_t cols = m.f->cols, flat[3] = { codes->shape[0], cols, 1 }, across[3] = { flat[0], 1, cols };
	struct tn_tensor scales = *t;
	if (t->rank == 3 && memcmp(t->shape, flat, sizeof flat) == 0)
		scales.shape = across;
	TN_TRY(tn_module_scales(&m, &scales, 0, 1, err));
	m.f->part[TN_FOREIGN_SCALES].tensor = t;
	return tn_module_end(&m, err);
}

/* DeepSeek's and transformers' FP8: `<weight>_scale_inv` is multiplied, whatever its name says. Bytes of type I8 hold two
 * E2M1 there. */
tn_status tn_find_scale_inv(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *codes = find_named(finder, t->name, strlen(t->name) - strlen("_scale_inv"), "");
	if (!codes && finder->config.method != TN_METHOD_FP8)
		return TN_OK; /* something else of that name */
	if (!codes)
		return tn_fail(err, TN_E_NOTFOUND, t->name, "'%.120s' stands there without its weight; get the whole checkpoint",
			       t->name);
	const char *suffix = tn_ends_with(codes->name, ".weight") ? ".weight" : "";
	TN_TRY(tn_module_begin(finder, codes, suffix, suffix, "fp8", 1u << TN_METHOD_FP8, &m, err));
	TN_TRY(tn_expect_dtype(codes, F8 | TN_BIT(TN_I8), "F8_E4M3, F8_E5M2, or I8 for pairs of E2M1", err));
	TN_TRY(tn_expect_dtype(t, TN_FLOATS | POWERS, "F32, F16, BF16, U8 or F8_E8M0", err));
	if (codes->dtype == TN_I8) {
		m.f->scheme = "fp4";
		TN_TRY(tn_expect_dtype(t, POWERS, "U8 or F8_E8M0", err));
		TN_TRY(stream_codes(&m, codes, 4, last_size(codes) * 2, TN_ELEMENT_E2M1, err));
		TN_TRY(tn_module_scales(&m, t, 1, 32, err));
		return tn_module_end(&m, err);
	}
	TN_TRY(stream_codes(&m, codes, 8, last_size(codes), element_of(codes), err));
	TN_TRY(scales_by_shape(&m, t, err));
	return tn_module_end(&m, err);
}

/* ---- gpt-oss --------------------------------------------------------------------------------------------- */

/* `<layer>_blocks` [experts, out, in / 32, 16] and `<layer>_scales`, or with dots in OpenAI's own files. */
tn_status tn_find_blocks(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	const struct tn_tensor *scales;
	int dotted = tn_ends_with(t->name, ".blocks");
	const char *suffix = dotted ? ".blocks" : "_blocks", *scales_suffix = dotted ? ".scales" : "_scales";
	if (t->dtype != TN_U8 || t->rank < 3)
		return TN_OK;
	if (finder->config.method == TN_METHOD_NONE && !find_named(finder, t->name, strlen(t->name) - 7, scales_suffix))
		return TN_OK;
	TN_TRY(tn_module_begin(finder, t, suffix, ".weight", "mxfp4", 1u << TN_METHOD_MXFP4, &m, err));
	TN_TRY(tn_module_need(&m, scales_suffix, &scales, err));
	TN_TRY(tn_expect_dtype(scales, POWERS, "U8", err));
	if (t->rank > 4 || last_size(t) != 16)
		return tn_fail(err, TN_E_FORMAT, t->name,
			       "'%.120s' has blocks of %llu bytes; [experts, out, in / 32, 16] was expected",
			       t->name, (unsigned long long)last_size(t));
	if (scales->rank != t->rank - 1 || memcmp(scales->shape, t->shape, scales->rank * sizeof *t->shape) != 0)
		return tn_fail(err, TN_E_FORMAT, scales->name, "'%.120s' does not have one scale for each block of '%.120s'",
			       scales->name, t->name);
	uint64_t shape[3];
	memcpy(shape, t->shape, scales->rank * sizeof *shape);
	shape[scales->rank - 1] *= 32;
	TN_TRY(tn_module_shape(&m, scales->rank, shape, err));
	m.f->bits = 4;
	m.f->packing = TN_PACK_STREAM;
	m.f->group = 32;
	m.f->groups = m.f->cols / 32;
	m.f->scales = TN_SCALES_ROW;
	tn_module_rows(&m, TN_FOREIGN_CODES, t, 1, m.f->cols / 2);
	tn_module_rows(&m, TN_FOREIGN_SCALES, scales, 1, m.f->groups);
	TN_TRY(tn_module_table(&m, TN_ELEMENT_E2M1, err));
	return tn_module_end(&m, err);
}
