/* SPDX-License-Identifier: Apache-2.0 */
/* bitsandbytes: 4-bit weights with a `<weight>.quant_state.bitsandbytes__<type>` of JSON beside them, and int8 ones with
 * `<layer>.SCB`. Its own loader checks next to nothing of this; here everything must agree with the data. */
#include "weights/foreign_find.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/text.h"
#include "store/json_doc.h"
#include "weights/nf4.h"

#include <math.h>
#include <string.h>

enum { STATE_CAP = 1 << 16, MAX_RANK = 8 };

struct state {
	uint64_t shape[MAX_RANK];
	uint32_t rank;
	uint64_t block, nested_block;   /* nested_block 0: scales are floats */
	tn_dtype dtype;
	double nested_offset;
};

/* ---- the JSON -------------------------------------------------------------------------------------------- */

static tn_status read_shape(const json_t *root, const char *where, struct state *out, struct tn_error *err)
{
	const json_t *shape = json_object_get(root, "shape");
	size_t rank = json_array_size(shape);
	if (rank < 1 || rank > MAX_RANK)
		return tn_fail(err, TN_E_FORMAT, where, "`shape` in '%.120s' must be an array of 1 to 8 sizes", where);
	for (size_t i = 0; i < rank; i++) {
		json_int_t size = json_integer_value(json_array_get(shape, i));
		if (size < 1)
			return tn_fail(err, TN_E_FORMAT, where,
				       "`shape` in '%.120s' has a size that is no whole number above 0", where);
		out->shape[i] = (uint64_t)size;
	}
	out->rank = (uint32_t)rank;
	return TN_OK;
}

/* A block size is a power of two from 32 to 4096; that of the scales themselves is 256. */
static tn_status read_block(const json_t *root, const char *key, const char *where, uint64_t *out, struct tn_error *err)
{
	const json_t *value = json_object_get(root, key);
	json_int_t n = json_integer_value(value);
	if (n < 32 || n > 4096 || (n & (n - 1)) != 0)
		return tn_fail(err, TN_E_FORMAT, where, "`%s` in '%.120s' is %lld; a power of two from 32 to 4096 was expected",
			       key, where, (long long)n);
	*out = (uint64_t)n;
	return TN_OK;
}

static tn_status read_members(const json_t *root, const char *type, const char *where, struct state *out, struct tn_error *err)
{
	static const char *const names[] = { "float32", "float16", "bfloat16" };
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	const char *said = json_string_value(json_object_get(root, "quant_type"));
	const char *dtype = json_string_value(json_object_get(root, "dtype"));
	size_t at = 0;
	if (!said || strcmp(said, type) != 0)
		return tn_fail(err, TN_E_FORMAT, where, "`quant_type` in '%.120s' is '%.20s', and the name says %s", where,
			       said ? said : "missing", type);
	while (at < 3 && !(dtype && strcmp(dtype, names[at]) == 0))
		at++;
	if (at == 3)
		return tn_fail(err, TN_E_FORMAT, where, "`dtype` in '%.120s' is '%.20s'; float32, float16 or bfloat16 was expected",
			       where, dtype ? dtype : "missing");
	out->dtype = dtypes[at];
	TN_TRY(read_shape(root, where, out, err));
	TN_TRY(read_block(root, "blocksize", where, &out->block, err));
	if (!json_object_get(root, "nested_blocksize"))
		return TN_OK;
	const json_t *offset = json_object_get(root, "nested_offset");
	out->nested_offset = json_number_value(offset);
	if (!json_is_number(offset) || !isfinite((float)out->nested_offset))
		return tn_fail(err, TN_E_FORMAT, where, "`nested_offset` in '%.120s' must be a finite number", where);
	return read_block(root, "nested_blocksize", where, &out->nested_block, err);
}

static tn_status read_state(struct tn_finder *finder, const struct tn_tensor *t, const char *type, struct state *out,
			    struct tn_error *err)
{
	struct tn_buffer text;
	json_t *root;
	*out = (struct state){ .rank = 0 };
	if (t->dtype != TN_U8 || t->bytes > STATE_CAP)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' must be at most %d bytes of JSON, U8", t->name, STATE_CAP);
	TN_TRY(tn_buffer_alloc(finder->ctx, (size_t)t->bytes, t->name, &text, err));
	tn_status status = finder->source.read(finder->source.self, t, 0, text.data, (size_t)t->bytes, err);
	if (status == TN_OK && tn_utf8_valid_prefix(text.data, text.bytes) != text.bytes)
		status = tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' is not UTF-8, so no JSON", t->name);
	if (status == TN_OK)
		status = tn_json_parse(finder->ctx, text.data, (size_t)t->bytes, t->name, &root, err);
	tn_buffer_release(finder->ctx, &text);
	TN_TRY(status);
	status = read_members(root, type, t->name, out, err);
	json_decref(root);
	return status;
}

/* ---- 4 bits ---------------------------------------------------------------------------------------------- */

static void flat_part(struct tn_module *m, unsigned part, const struct tn_tensor *t, uint64_t values, uint64_t bytes)
{
	m->f->part[part] = (struct tn_slab){ .tensor = t, .cell_rows = values, .cell_bytes = bytes, .flat = 1 };
}

static tn_status read_floats(struct tn_module *m, const char *suffix, size_t n, const float **out, struct tn_error *err)
{
	const struct tn_tensor *t;
	float *values;
	TN_TRY(tn_module_need(m, suffix, &t, err));
	TN_TRY(tn_expect_dtype(t, TN_BIT(TN_F32), "F32", err));
	TN_TRY(tn_expect_shape(t, 1, n, 0, err));
	TN_TRY(tn_arena_array(m->finder->arena, 256, sizeof *values, &values, err));
	TN_TRY(m->finder->source.read(m->finder->source.self, t, 0, values, n * sizeof *values, err));
	tn_module_drop(m, suffix);
	*out = values;
	return TN_OK;
}

static tn_status find_absmax(struct tn_module *m, const struct state *s, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	const struct tn_tensor *absmax, *nested;
	uint64_t blocks = tn_ceil_div(f->weight.elements, s->block);
	TN_TRY(tn_module_need(m, ".absmax", &absmax, err));
	TN_TRY(tn_expect_shape(absmax, 1, blocks, 0, err));
	f->scales = TN_SCALES_FLAT;
	f->group = s->block;
	f->groups = f->cols / s->block + 2; /* that a row can touch */
	if (!s->nested_block) {
		TN_TRY(tn_expect_dtype(absmax, TN_BIT(TN_F32), "F32 (U8 needs a nested quantization, which the state lacks)", err));
		flat_part(m, TN_FOREIGN_SCALES, absmax, s->block, sizeof(float));
		return TN_OK;
	}
	TN_TRY(tn_expect_dtype(absmax, TN_BIT(TN_U8), "U8", err));
	TN_TRY(read_floats(m, ".nested_quant_map", 256, &f->nested_map, err));
	TN_TRY(tn_module_need(m, ".nested_absmax", &nested, err));
	TN_TRY(tn_expect_dtype(nested, TN_BIT(TN_F32), "F32", err));
	TN_TRY(tn_expect_shape(nested, 1, tn_ceil_div(blocks, s->nested_block), 0, err));
	f->nested_offset = (float)s->nested_offset;
	flat_part(m, TN_FOREIGN_SCALES, absmax, s->block, 1);
	flat_part(m, TN_FOREIGN_NESTED, nested, s->block * s->nested_block, sizeof(float));
	return TN_OK;
}

/* The stored table holds; the kernels of bitsandbytes use their own, so a difference is said. */
static tn_status find_table(struct tn_module *m, int is_nf4, struct tn_error *err)
{
	static const float fp4[8] = { 0.0f, 0.0052083335f, 0.6666667f, 1.0f, 0.33333334f, 0.5f, 0.16666667f, 0.25f };
	int differs = 0;
	TN_TRY(read_floats(m, ".quant_map", 16, &m->f->table, err));
	for (int i = 0; i < 16; i++) {
		float known = is_nf4 ? tn_nf4_levels[i] : i < 8 ? fp4[i] : -fp4[i - 8];
		differs |= !(fabsf(m->f->table[i] - known) <= 1e-6f);
	}
	if (differs)
		tn_logf(m->finder->ctx, TN_LOG_WARNING, "'%s.quant_map' is not the table of %s; it is used all the same", m->layer,
			m->f->scheme);
	return TN_OK;
}

static tn_status find_4bit(struct tn_finder *finder, const struct tn_tensor *weight, const struct tn_tensor *t, int is_nf4,
			   struct tn_error *err)
{
	struct tn_module m;
	struct state s;
	const char *type = is_nf4 ? "nf4" : "fp4";
	TN_TRY(tn_module_begin(finder, weight, "", "", type, 1u << TN_METHOD_BNB, &m, err));
	if (tn_module_find(&m, is_nf4 ? ".quant_state.bitsandbytes__fp4" : ".quant_state.bitsandbytes__nf4"))
		return tn_fail(err, TN_E_FORMAT, weight->name, "'%.120s' has a quant_state of nf4 and one of fp4", weight->name);
	TN_TRY(read_state(finder, t, type, &s, err));
	TN_TRY(tn_module_shape(&m, s.rank, s.shape, err));
	uint64_t bytes = tn_ceil_div(m.f->weight.elements, 2), unit = tn_dtype_bits(weight->dtype) / 8;
	if (weight->bytes < bytes || weight->bytes - bytes >= (unit ? unit : 1))
		return tn_fail(err, TN_E_FORMAT, weight->name, "'%.120s' has %llu bytes; %llu were expected for the `shape` in its "
			       "quant_state", weight->name, (unsigned long long)weight->bytes, (unsigned long long)bytes);
	m.f->bits = 4;
	m.f->dtype = s.dtype;
	m.f->packing = TN_PACK_HIGH_FIRST;
	flat_part(&m, TN_FOREIGN_CODES, weight, 2, 1);
	TN_TRY(find_absmax(&m, &s, err));
	TN_TRY(find_table(&m, is_nf4, err));
	TN_TRY(tn_module_end(&m, err));
	tn_module_drop(&m, is_nf4 ? ".quant_state.bitsandbytes__nf4" : ".quant_state.bitsandbytes__fp4");
	return TN_OK;
}

tn_status tn_find_quant_state(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	char name[TN_NAME_BYTES];
	const char *at = strstr(t->name, ".quant_state.bitsandbytes__"), *type = at + strlen(".quant_state.bitsandbytes__");
	size_t n = (size_t)(at - t->name);
	int is_nf4 = strcmp(type, "nf4") == 0;
	if (!is_nf4 && strcmp(type, "fp4") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.120s' is of a type that is not known; nf4 and fp4 are", t->name);
	memcpy(name, t->name, n < sizeof name ? n : 0);
	name[n < sizeof name ? n : 0] = '\0';
	const struct tn_tensor *weight = tn_checkpoint_find(finder->checkpoint, name);
	if (!weight)
		return tn_fail(err, TN_E_NOTFOUND, t->name,
			       "'%.120s' describes '%.120s', which is missing; get the whole checkpoint", t->name, name);
	return find_4bit(finder, weight, t, is_nf4, err);
}

/* ---- int8 ------------------------------------------------------------------------------------------------ */

static tn_status check_weight_format(const struct tn_module *m, struct tn_error *err)
{
	const struct tn_tensor *t = tn_module_find(m, ".weight_format");
	unsigned char format = 0;
	if (!t)
		return TN_OK;
	if (t->elements == 1 && t->dtype == TN_U8)
		TN_TRY(m->finder->source.read(m->finder->source.self, t, 0, &format, 1, err));
	if (t->elements != 1 || t->dtype != TN_U8 || format != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.120s' is %u, a tile order of some GPU; 0, rows, was expected",
			       t->name, format);
	tn_module_drop(m, ".weight_format");
	return TN_OK;
}

/* W = (q * SCB) * (1 / 127), the factor as bitsandbytes rounds it to float32. */
tn_status tn_find_scb(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_module m;
	char name[TN_NAME_BYTES];
	size_t n = strlen(t->name) - strlen(".SCB");
	if (n + sizeof ".weight" > sizeof name)
		return TN_OK;
	memcpy(name, t->name, n);
	memcpy(name + n, ".weight", sizeof ".weight");
	const struct tn_tensor *weight = tn_checkpoint_find(finder->checkpoint, name);
	if (!weight)
		return tn_fail(err, TN_E_NOTFOUND, t->name, "'%.120s' stands there without '%.120s'; get the whole checkpoint",
			       t->name, name);
	TN_TRY(tn_module_begin(finder, weight, ".weight", ".weight", "int8", 1u << TN_METHOD_BNB, &m, err));
	TN_TRY(tn_expect_dtype(weight, TN_BIT(TN_I8), "I8", err));
	TN_TRY(tn_module_shape(&m, weight->rank, weight->shape, err));
	TN_TRY(tn_expect_shape(weight, 2, m.f->rows, m.f->cols, err));
	TN_TRY(tn_expect_dtype(t, TN_BIT(TN_F32), "F32", err));
	TN_TRY(tn_expect_shape(t, 1, m.f->rows, 0, err));
	TN_TRY(check_weight_format(&m, err));
	m.f->bits = 8;
	m.f->dtype = TN_F16;
	m.f->packing = TN_PACK_STREAM;
	m.f->group = m.f->cols;
	m.f->groups = 1;
	m.f->factor = tn_f32_from_bits(0x3C010204u);
	tn_module_rows(&m, TN_FOREIGN_CODES, weight, 1, m.f->cols);
	tn_module_rows(&m, TN_FOREIGN_SCALES, t, 1, sizeof(float));
	TN_TRY(tn_module_table(&m, TN_ELEMENT_I8, err));
	return tn_module_end(&m, err);
}
