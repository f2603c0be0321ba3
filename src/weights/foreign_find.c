/* SPDX-License-Identifier: Apache-2.0 */
/* All foreign modules of a checkpoint. */
#include "weights/foreign_find.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/text.h"
#include "weights/format.h"

#include <stdio.h>
#include <string.h>

struct tn_foreign_set {
	struct tn_arena arena;   /* holds this struct too */
	struct tn_finder finder;
};

/* ---- tensors --------------------------------------------------------------------------------------------- */

/* The number of a tensor of the checkpoint; names are sorted. */
static size_t number_of(const tn_checkpoint *c, const struct tn_tensor *t)
{
	size_t low = 0, high = tn_checkpoint_count(c);
	while (low + 1 < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(tn_checkpoint_at(c, middle)->name, t->name) <= 0)
			low = middle;
		else
			high = middle;
	}
	return low;
}

const struct tn_tensor *tn_module_find(const struct tn_module *m, const char *suffix)
{
	char name[TN_NAME_BYTES];
	int n = snprintf(name, sizeof name, "%s%s", m->layer, suffix);
	return n > 0 && (size_t)n < sizeof name ? tn_checkpoint_find(m->finder->checkpoint, name) : NULL;
}

tn_status tn_module_need(const struct tn_module *m, const char *suffix, const struct tn_tensor **out, struct tn_error *err)
{
	*out = tn_module_find(m, suffix);
	if (!*out)
		return tn_fail(err, TN_E_NOTFOUND, m->layer, "'%.120s%s' is missing beside '%.120s'; get the whole checkpoint",
			       m->layer, suffix, m->f->part[TN_FOREIGN_CODES].tensor->name);
	if ((*out)->elements == 0)
		return tn_fail(err, TN_E_FORMAT, (*out)->name, "'%.120s' has no values", (*out)->name);
	return TN_OK;
}

static void claim(const struct tn_module *m, const struct tn_tensor *t)
{
	if (!t)
		return;
	size_t i = number_of(m->finder->checkpoint, t);
	m->finder->roles[i] = TN_FOREIGN_PART;
	m->finder->owners[i] = m->f;
}

void tn_module_drop(const struct tn_module *m, const char *suffix)
{
	const struct tn_tensor *t = tn_module_find(m, suffix);
	claim(m, t);
	m->f->weight.bytes += t ? t->bytes : 0;
}

static tn_status expect(const struct tn_tensor *t, uint32_t rank, const uint64_t *shape, struct tn_error *err)
{
	char found[TN_SHAPE_TEXT], expected[TN_SHAPE_TEXT];
	if (t->rank == rank && memcmp(t->shape, shape, rank * sizeof *shape) == 0)
		return TN_OK;
	return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' has shape %s; %s was expected from the tensors beside it and the "
		       "configuration", t->name, tn_shape_text(found, t->shape, t->rank), tn_shape_text(expected, shape, rank));
}

tn_status tn_expect_shape(const struct tn_tensor *t, uint32_t rank, uint64_t a, uint64_t b, struct tn_error *err)
{
	uint64_t shape[2] = { a, b };
	return expect(t, rank, shape, err);
}

tn_status tn_expect_dtype(const struct tn_tensor *t, uint32_t dtypes, const char *names, struct tn_error *err)
{
	if (dtypes & TN_BIT(t->dtype))
		return TN_OK;
	return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' is %s; %s was expected", t->name, tn_dtype_name(t->dtype), names);
}

/* ---- a module -------------------------------------------------------------------------------------------- */

tn_status tn_module_begin(struct tn_finder *finder, const struct tn_tensor *codes, const char *suffix, const char *dense,
			  const char *scheme, unsigned methods, struct tn_module *out, struct tn_error *err)
{
	struct tn_module m = { .finder = finder };
	enum tn_foreign_method method = finder->config.method;
	if (method != TN_METHOD_NONE && !(methods & 1u << method))
		return tn_fail(err, TN_E_MISMATCH, codes->name,
			       "'%.120s' is of a module of %s, and %s says %s; one of them is wrong",
			       codes->name, scheme, finder->config.file, tn_foreign_method_name(method));
	if (codes->elements == 0)
		return tn_fail(err, TN_E_FORMAT, codes->name, "'%.120s' has no values", codes->name);
	TN_TRY(tn_arena_alloc(finder->arena, sizeof *m.f, &m.f, err));
	TN_TRY(tn_arena_text(finder->arena, codes->name, strlen(codes->name) - strlen(suffix), &m.layer, err));
	m.f->weight = *codes;
	TN_TRY(tn_arena_printf(finder->arena, &m.f->weight.name, err, "%s%s", m.layer, dense));
	m.f->scheme = scheme;
	m.f->factor = 1;
	m.f->part[TN_FOREIGN_CODES].tensor = codes;
	m.f->dtype = TN_BF16;
	const struct tn_tensor *taken = tn_checkpoint_find(finder->checkpoint, m.f->weight.name);
	if (taken && taken != codes)
		return tn_fail(err, TN_E_FORMAT, taken->name, "'%.120s' stands beside '%.120s', which holds the same weight "
			       "packed; remove the one that is left over", taken->name, codes->name);
	*out = m;
	return TN_OK;
}

tn_status tn_module_shape(struct tn_module *m, uint32_t rank, const uint64_t *shape, struct tn_error *err)
{
	struct tn_tensor *w = &m->f->weight;
	uint64_t *sizes, elements = 1, bits;
	TN_TRY(tn_arena_array(m->finder->arena, rank, sizeof *sizes, &sizes, err));
	for (uint32_t i = 0; i < rank; i++) {
		sizes[i] = shape[i];
		if (tn_mul_u64(elements, shape[i], &elements) || tn_mul_u64(elements, 64, &bits) || elements == 0)
			return tn_fail(err, TN_E_LIMIT, w->name, "the shape of '%.120s' has no product that can be", w->name);
	}
	w->rank = rank;
	w->shape = sizes;
	w->elements = elements;
	m->f->cols = rank ? shape[rank - 1] : 1;
	m->f->rows = elements / m->f->cols;
	return TN_OK;
}

static void set_slab(struct tn_module *m, unsigned part, const struct tn_slab *slab)
{
	m->f->part[part] = *slab;
	m->f->part[part].matrix_rows = m->f->rows;
	m->f->part[part].matrix_cells = tn_ceil_div(m->f->rows, slab->cell_rows);
}

void tn_module_rows(struct tn_module *m, unsigned part, const struct tn_tensor *t, uint64_t cell_rows, uint64_t cell_bytes)
{
	set_slab(m, part, &(struct tn_slab){ .tensor = t, .cell_rows = cell_rows, .cell_bytes = cell_bytes });
}

void tn_module_columns(struct tn_module *m, unsigned part, const struct tn_tensor *t, uint64_t stored, uint64_t cell_rows,
		       uint64_t cell_bytes)
{
	set_slab(m, part, &(struct tn_slab){ .tensor = t, .stored = stored, .cell_rows = cell_rows, .cell_bytes = cell_bytes });
}

static float element_value(unsigned element, unsigned code)
{
	static const float e2m1[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
	unsigned exponent = code >> 3 & 3u;
	float x, fraction = (float)(code & 7u) * 0.125f;
	switch (element) {
	case TN_ELEMENT_UNSIGNED: return (float)code;
	case TN_ELEMENT_I8: return (float)(int8_t)(uint8_t)code;
	case TN_ELEMENT_E4M3: return tn_f32_from_f8_e4m3((uint8_t)code);
	case TN_ELEMENT_E5M2: return tn_f32_from_f8_e5m2((uint8_t)code);
	case TN_ELEMENT_E4M3FNUZ: return tn_f32_from_f8_e4m3fnuz((uint8_t)code);
	case TN_ELEMENT_E5M2FNUZ: return tn_f32_from_f8_e5m2fnuz((uint8_t)code);
	case TN_ELEMENT_E2M1: return code & 8u ? -e2m1[code & 7u] : e2m1[code & 7u];
	case TN_ELEMENT_E2M3:
		x = exponent ? (1 + fraction) * (float)(1u << (exponent - 1)) : fraction;
		return code & 32u ? -x : x;
	default: return (float)code - (float)(1u << (element - TN_ELEMENT_CENTRED)) / 2;
	}
}

tn_status tn_module_table(struct tn_module *m, unsigned element, struct tn_error *err)
{
	struct tn_finder *finder = m->finder;
	if (!finder->tables[element]) {
		float *table;
		TN_TRY(tn_arena_array(finder->arena, 256, sizeof *table, &table, err));
		for (unsigned code = 0; code < 256; code++)
			table[code] = element_value(element, code);
		finder->tables[element] = table;
	}
	m->f->table = finder->tables[element];
	m->f->element = (uint8_t)element;
	return TN_OK;
}

tn_status tn_module_scales(struct tn_module *m, const struct tn_tensor *t, uint64_t row_block, uint64_t col_block,
			   struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	const struct tn_tensor *w = &f->weight;
	uint64_t bytes = tn_dtype_bits(t->dtype) / 8, rows = w->rank > 1 ? w->shape[w->rank - 2] : 1;
	f->scales = TN_SCALES_ROW;
	f->group = col_block ? col_block : f->cols;
	f->groups = tn_ceil_div(f->cols, f->group);
	if (!row_block && !col_block && t->elements == 1) {
		tn_module_rows(m, TN_FOREIGN_SCALES, t, f->rows, bytes);
		return TN_OK;
	}
	uint64_t block = row_block ? row_block : rows, cells = tn_ceil_div(rows, block);
	uint64_t shape[3] = { w->shape[0], cells, f->groups };
	int stacked = w->rank == 3, flat = !stacked && f->groups == 1 && t->rank == 1;
	TN_TRY(expect(t, flat ? 1 : w->rank, stacked ? shape : shape + 1, err));
	tn_module_rows(m, TN_FOREIGN_SCALES, t, block, f->groups * bytes);
	f->part[TN_FOREIGN_SCALES].matrix_rows = rows;
	f->part[TN_FOREIGN_SCALES].matrix_cells = cells;
	return TN_OK;
}

tn_status tn_module_groups(struct tn_module *m, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	size_t cols = (size_t)f->cols;
	uint32_t *group_of;
	int trivial = 1;
	TN_TRY(tn_expect_dtype(t, TN_BIT(TN_I32), "I32", err));
	TN_TRY(tn_expect_shape(t, 1, f->cols, 0, err));
	TN_TRY(tn_arena_array(m->finder->arena, cols, sizeof *group_of, &group_of, err));
	TN_TRY(m->finder->source.read(m->finder->source.self, t, 0, group_of, cols * sizeof *group_of, err));
	for (size_t i = 0; i < cols; i++) {
		int64_t g = (int32_t)group_of[i], groups = (int64_t)f->groups;
		if (g >= groups || g < -groups)
			return tn_fail(err, TN_E_FORMAT, t->name, "'%.120s' names group %lld for column %zu, and there are %lld",
				       t->name, (long long)g, i, (long long)groups);
		group_of[i] = (uint32_t)(g < 0 ? g + groups : g);
		trivial &= group_of[i] == i / f->group;
	}
	f->group_of = trivial ? NULL : group_of;
	return TN_OK;
}

/* Scales of activations have no meaning beside a dense weight. */
static void drop_companions(const struct tn_module *m)
{
	static const char *const suffixes[] = { ".input_scale", ".input_global_scale", ".input_zero_point", ".output_scale",
						".activation_scale", "_activation_scale", ".k_scale", ".v_scale" };
	for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
		tn_module_drop(m, suffixes[i]);
}

tn_status tn_module_end(struct tn_module *m, struct tn_error *err)
{
	struct tn_foreign *f = m->f;
	const struct tn_tensor *codes = f->part[TN_FOREIGN_CODES].tensor;
	size_t i = number_of(m->finder->checkpoint, codes);
	if (m->finder->modules[i])
		return tn_fail(err, TN_E_FORMAT, codes->name, "'%.120s' is described twice, as %s and as %s", codes->name,
			       m->finder->modules[i]->scheme, f->scheme);
	for (unsigned p = TN_FOREIGN_SCALES; p < TN_FOREIGN_PARTS; p++)
		if (f->part[p].tensor) {
			claim(m, f->part[p].tensor);
			f->weight.bytes += f->part[p].tensor->bytes;
		}
	drop_companions(m);
	m->finder->roles[i] = TN_FOREIGN_MODULE;
	m->finder->modules[i] = m->finder->owners[i] = f;
	m->finder->count++;
	return TN_OK;
}

/* ---- the checkpoint -------------------------------------------------------------------------------------- */

static tn_status look_at(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	const char *name = t->name;
	if (tn_ends_with(name, ".qweight"))
		return tn_find_qweight(finder, t, err);
	if (tn_ends_with(name, ".B"))
		return tn_find_marlin(finder, t, err);
	if (strstr(name, ".quant_state.bitsandbytes__"))
		return tn_find_quant_state(finder, t, err);
	if (tn_ends_with(name, ".SCB"))
		return tn_find_scb(finder, t, err);
	if (tn_ends_with(name, ".weight_packed"))
		return tn_find_packed(finder, t, err);
	if (tn_ends_with(name, ".weight_scale"))
		return tn_find_weight_scale(finder, t, err);
	if (tn_ends_with(name, "_proj_scale"))
		return tn_find_expert_scale(finder, t, err);
	if (tn_ends_with(name, "_scale_inv"))
		return tn_find_scale_inv(finder, t, err);
	if (tn_ends_with(name, "_blocks") || tn_ends_with(name, ".blocks"))
		return tn_find_blocks(finder, t, err);
	return TN_OK;
}

/* A weight that the method of the configuration packs, and that no scale stands beside: never a matrix of numbers. */
static tn_status judge_orphan(const struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err)
{
	static const char *const companions[] = {
		[TN_METHOD_AWQ] = NULL, [TN_METHOD_BNB] = ".weight.quant_state.bitsandbytes__nf4` (or __fp4), or `.SCB",
		[TN_METHOD_CT] = ".weight_scale", [TN_METHOD_FP8] = ".weight_scale_inv` or `.weight_scale",
		[TN_METHOD_MODELOPT] = ".weight_scale` and `.weight_scale_2", [TN_METHOD_MXFP4] = NULL,
	};
	const char *missing = companions[finder->config.method];
	int packed = t->dtype == TN_I8 || t->dtype == TN_U8 || t->dtype == TN_F8_E4M3 || t->dtype == TN_F8_E5M2 ||
		     t->dtype == TN_F8_E4M3FNUZ || t->dtype == TN_F8_E5M2FNUZ;
	if (!missing || !packed || t->rank < 2 || !tn_ends_with(t->name, ".weight"))
		return TN_OK;
	return tn_fail(err, TN_E_NOTFOUND, t->name, "'%.120s' is %s, and `%s` is missing beside it; get the whole checkpoint",
		       t->name, tn_dtype_name(t->dtype), missing);
}

static tn_status find_all(struct tn_finder *finder, struct tn_error *err)
{
	size_t n = tn_checkpoint_count(finder->checkpoint);
	TN_TRY(tn_foreign_config_load(finder->arena, finder->checkpoint, &finder->config, err));
	TN_TRY(tn_arena_array(finder->arena, n, sizeof *finder->roles, &finder->roles, err));
	TN_TRY(tn_arena_array(finder->arena, n, sizeof *finder->modules, &finder->modules, err));
	TN_TRY(tn_arena_array(finder->arena, n, sizeof *finder->owners, &finder->owners, err));
	for (size_t i = 0; i < n; i++)
		TN_TRY(look_at(finder, tn_checkpoint_at(finder->checkpoint, i), err));
	for (size_t i = 0; i < n; i++)
		if (finder->roles[i] == TN_FOREIGN_PLAIN)
			TN_TRY(judge_orphan(finder, tn_checkpoint_at(finder->checkpoint, i), err));
	return TN_OK;
}

tn_status tn_foreign_set_create_in(struct tn_arena *arena, tn_context *ctx, const tn_checkpoint *checkpoint,
				   struct tn_foreign_set **out, struct tn_error *err)
{
	struct tn_foreign_set *set;
	TN_TRY(tn_arena_alloc(arena, sizeof *set, &set, err));
	set->finder = (struct tn_finder){ .ctx = ctx, .arena = arena, .checkpoint = checkpoint,
					  .source = tn_checkpoint_source(checkpoint) };
	TN_TRY(find_all(&set->finder, err));
	*out = set;
	return TN_OK;
}

tn_status tn_foreign_set_create(tn_context *ctx, const tn_checkpoint *checkpoint, struct tn_foreign_set **out,
				struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_foreign_set *set;
	tn_arena_init(&arena, ctx);
	tn_status status = tn_foreign_set_create_in(&arena, ctx, checkpoint, &set, err);
	if (status != TN_OK) {
		tn_arena_release(&arena);
		return status;
	}
	set->arena = arena;
	set->finder.arena = &set->arena;
	*out = set;
	return TN_OK;
}

void tn_foreign_set_destroy(struct tn_foreign_set *set)
{
	if (!set)
		return;
	struct tn_arena arena = set->arena;
	tn_arena_release(&arena);
}

size_t tn_foreign_set_count(const struct tn_foreign_set *set)
{
	return set->finder.count;
}

tn_foreign_role tn_foreign_set_at(const struct tn_foreign_set *set, size_t i, struct tn_foreign **module)
{
	*module = set->finder.modules[i];
	return (tn_foreign_role)set->finder.roles[i];
}

struct tn_foreign *tn_foreign_set_owner(const struct tn_foreign_set *set, const struct tn_tensor *t, int *codes)
{
	size_t i = number_of(set->finder.checkpoint, t);
	*codes = set->finder.modules[i] != NULL;
	return set->finder.owners[i];
}

/* The codes of `<layer>.weight` are called `<layer>` and something, or that itself; the few tensors that begin so stand
 * together. */
struct tn_foreign *tn_foreign_set_find(const struct tn_foreign_set *set, const char *weight)
{
	const tn_checkpoint *c = set->finder.checkpoint;
	size_t layer = tn_layer_length(weight), low = 0, high = tn_checkpoint_count(c);
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strncmp(tn_checkpoint_at(c, middle)->name, weight, layer) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < tn_checkpoint_count(c) && strncmp(tn_checkpoint_at(c, low)->name, weight, layer) == 0; low++)
		if (set->finder.modules[low] && strcmp(set->finder.modules[low]->weight.name, weight) == 0)
			return set->finder.modules[low];
	return NULL;
}

/* ---- what the data tell ---------------------------------------------------------------------------------- */

/* The last group that has a scale in any row, plus one. */
static uint64_t groups_in_use(const struct tn_foreign *f, const uint16_t *scales, uint64_t stored)
{
	uint64_t used = 0, across = f->scales == TN_SCALES_ROW ? 1 : f->rows, down = f->scales == TN_SCALES_ROW ? stored : 1;
	for (uint64_t row = 0; row < f->rows; row++)
		for (uint64_t g = stored; g > used; g--)
			if (scales[row * down + (g - 1) * across])
				used = g;
	return used;
}

/* AutoAWQ's gemv and gemv_fast pad the scales of a row with zeros, and no scale of theirs is zero: several group sizes have the
 * same shapes, and the wrong ones are seen by that. */
static tn_status check_padding(struct tn_finder *finder, const struct tn_foreign *f, struct tn_error *err)
{
	const struct tn_tensor *t = f->part[TN_FOREIGN_SCALES].tensor;
	struct tn_buffer scales;
	if (f->zeros != TN_ZEROS_COLUMN_FLOAT && f->zeros != TN_ZEROS_ROW_STREAM)
		return TN_OK;
	uint64_t stored = t->elements / f->rows;
	if (finder->config.method != TN_METHOD_AWQ || tn_dtype_bits(t->dtype) != 16 || stored == f->groups)
		return TN_OK;
	TN_TRY(tn_buffer_alloc(finder->ctx, (size_t)t->bytes, t->name, &scales, err));
	tn_status status = finder->source.read(finder->source.self, t, 0, scales.data, (size_t)t->bytes, err);
	uint64_t used = status == TN_OK ? groups_in_use(f, scales.data, stored) : f->groups;
	tn_buffer_release(finder->ctx, &scales);
	if (status == TN_OK && used != f->groups)
		status = tn_fail(err, TN_E_MISMATCH, "group_size", "'%.120s' has scales of %llu groups of columns, and by "
				 "`group_size` %lld there are %llu: the configuration is not that of the file; put the "
				 "config.json beside it that came with it", t->name,
				 (unsigned long long)used, (long long)finder->config.group_size, (unsigned long long)f->groups);
	return status;
}

/* GPTQ files have been labelled v1 and v2 wrongly. Symmetric ones have zero points of 2^(bits - 1), so what is stored tells
 * the version; in the others a v1 field of all ones is a zero point of 0, which some writers spoil their neighbours with. */
static tn_status settle_zeros(struct tn_finder *finder, struct tn_foreign *f, struct tn_error *err)
{
	const struct tn_tensor *t = f->part[TN_FOREIGN_ZEROS].tensor;
	static const uint32_t each[9] = { [2] = 0x55555555u, [4] = 0x11111111u, [8] = 0x01010101u };
	uint32_t step = each[f->bits], ones = (1u << f->bits) - 1, v1 = step * (ones / 2);
	uint32_t all_v1 = 1, all_v2 = 1, any_ones = 0;
	struct tn_buffer words;
	if (f->zeros != TN_ZEROS_COLUMN_STREAM || !step || finder->config.method != TN_METHOD_GPTQ)
		return TN_OK;
	TN_TRY(tn_buffer_alloc(finder->ctx, (size_t)t->bytes, t->name, &words, err));
	tn_status status = finder->source.read(finder->source.self, t, 0, words.data, (size_t)t->bytes, err);
	for (size_t i = 0; i < t->bytes / 4 && status == TN_OK; i++) {
		uint32_t word = ((const uint32_t *)words.data)[i];
		all_v1 &= word == v1;
		all_v2 &= word == v1 + step;
		for (unsigned shift = 0; shift < 32; shift += f->bits)
			any_ones |= (word >> shift & ones) == ones;
	}
	tn_buffer_release(finder->ctx, &words);
	TN_TRY(status);
	uint32_t right = finder->config.sym == 1 && all_v1 ? step : finder->config.sym == 1 && all_v2 ? 0 : f->zero_word;
	if (right != f->zero_word && !finder->said_label++)
		tn_logf(finder->ctx, TN_LOG_WARNING, "'%s' is labelled GPTQ %s, and its zero points are those of %s: read as that",
			t->name, right ? "v2" : "v1", right ? "v1" : "v2");
	f->zero_word = right;
	f->zeros_centred = (uint8_t)(right ? all_v1 : all_v2);
	if (finder->config.sym == 0 && right && any_ones && !finder->said_zero++)
		tn_logf(finder->ctx, TN_LOG_WARNING, "'%s' has zero points of 0; AutoGPTQ's packer spoils the other zero points of "
			"such a word", t->name);
	return TN_OK;
}

tn_status tn_foreign_settle(struct tn_foreign_set *set, struct tn_foreign *f, struct tn_error *err)
{
	TN_TRY(check_padding(&set->finder, f, err));
	return settle_zeros(&set->finder, f, err);
}
