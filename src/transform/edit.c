/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/edit.h"

#include "base/checked.h"
#include "base/error.h"
#include "kernels/kernels.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "weights/format.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- forms ----------------------------------------------------------------------------------------------- */

/* A seed of its own for every tensor: FNV-1a of the name. */
static uint64_t seed_of(const char *name)
{
	uint64_t hash = 0xCBF29CE484222325u;
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
	return hash;
}

int tn_edit_can_promote(const struct tn_target *t, int bits)
{
	if (!t->matrix || t->matrix->foreign || t->matrix->cols % 32 != 0)
		return 0;
	int affine = !tn_codec_info(t->matrix->format.codec)->byte_scales;
	return affine ? t->matrix->format.bits < bits : t->matrix->format.bits <= bits;
}

static tn_status choose_out(const struct tn_target *t, const struct tn_edit_choice *choice, struct tn_format *out,
			    struct tn_error *err)
{
	tn_dtype dtype = tn_target_dtype(t);
	*out = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = dtype };
	if (!t->matrix || choice->dequantize)
		return TN_OK;
	*out = t->matrix->format;
	if (!choice->promote_bits || !tn_edit_can_promote(t, choice->promote_bits))
		return TN_OK;
	int affine = !tn_codec_info(t->matrix->format.codec)->byte_scales;
	struct tn_quantization q = { affine ? t->matrix->q.group_size : t->matrix->cols % 64 ? 32 : 64, choice->promote_bits,
				     "affine", 0 };
	return tn_format_make(&q, dtype, TN_FLAVOUR_CPU, "fuse", out, err);
}

static int compare_name(const void *name, const void *target)
{
	return strcmp(name, ((const struct tn_target *)target)->name);
}

/* The triple of a target, with the parts that an adapter brought along. */
static void store_packed(const struct tn_joint *j, const struct tn_target *t, struct tn_edit_form *f)
{
	static const char *const suffixes[TN_PART_COUNT] = { ".weight", ".scales", ".biases" };
	f->in = *t->matrix;
	f->alignment = f->in.foreign ? tn_foreign_alignment(f->in.foreign) : 0;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		char name[TN_NAME_BYTES];
		f->stored[p] = (struct tn_stored){ t->matrix->part[p], NULL };
		if (!f->stored[p].tensor || !tn_sibling_name(name, t->name, suffixes[p]))
			continue;
		const struct tn_target *part = bsearch(name, j->targets, j->target_count, sizeof *part, compare_name);
		if (part && part->replacement)
			f->stored[p] = (struct tn_stored){ part->replacement, part->replacer->file };
	}
}

static uint64_t largest_rank(const struct tn_joint *j, const struct tn_target *t)
{
	uint64_t rank = 0;
	for (size_t i = 0; i < t->landing_count; i++)
		rank = tn_max_u64(rank, j->slots[j->landings[t->first_landing + i].slot].rank);
	return rank;
}

/* A tensor that is only copied: of its own bytes, whatever they mean. */
static tn_status make_copy(const struct tn_target *t, struct tn_arena *arena, struct tn_edit_form *f,
			   struct tn_tensor *outputs[TN_PART_COUNT], struct tn_error *err)
{
	const struct tn_tensor *source = t->replacement ? t->replacement : t->base;
	*f = (struct tn_edit_form){ .units = source->bytes, .cols = 1, .scratch_bytes = TN_PARTS_PADDING,
				    .stored = { { source, t->replacement ? t->replacer->file : NULL } } };
	f->source_bytes[TN_PART_WEIGHT] = f->result[TN_PART_WEIGHT].row_bytes = 1;
	TN_TRY(tn_arena_alloc(arena, sizeof(struct tn_tensor), &outputs[TN_PART_WEIGHT], err));
	*outputs[TN_PART_WEIGHT] = *source;
	if (!t->matrix || !t->matrix->foreign) /* whose codes have a name of their own */
		outputs[TN_PART_WEIGHT]->name = t->name;
	return TN_OK;
}

static tn_status describe_dense(const struct tn_target *t, struct tn_arena *arena, struct tn_edit_form *f,
				struct tn_tensor **out, struct tn_error *err)
{
	struct tn_tensor *tensor;
	TN_TRY(tn_arena_alloc(arena, sizeof *tensor, &tensor, err));
	*tensor = *tn_target_source(t);
	tensor->name = t->name;
	tensor->dtype = f->out.dtype;
	tensor->bytes = tensor->elements * tn_dtype_bits(tensor->dtype) / 8;
	f->result[TN_PART_WEIGHT].row_bytes = f->cols * tn_dtype_bits(tensor->dtype) / 8;
	*out = tensor;
	return TN_OK;
}

static void describe_source(const struct tn_joint *j, const struct tn_target *t, struct tn_edit_form *f)
{
	const struct tn_tensor *source = tn_target_source(t);
	if (tn_target_is_packed(t)) {
		store_packed(j, t, f);
	} else {
		f->in = tn_parts_dense(source, t->landing_count ? t->cols : source->rank ? source->shape[source->rank - 1] : 1);
		f->stored[TN_PART_WEIGHT] = (struct tn_stored){ source, t->replacement ? t->replacer->file : NULL };
	}
	f->units = f->in.rows;
	f->cols = (size_t)f->in.cols;
	memcpy(f->source_bytes, f->in.row_bytes, sizeof f->source_bytes);
}

/* Where the values are at hand from before they were quantized, the sum with them is rounded, to nearest: their fraction of a
 * step is as good as chance. */
static void use_dense(const struct tn_target *t, struct tn_edit_form *f)
{
	if (!t->dense || !tn_target_is_packed(t))
		return;
	f->dense = (struct tn_stored){ t->dense, t->dense_file };
	f->dense_format = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = t->dense->dtype };
	f->dense_bytes = f->cols * tn_dtype_bits(t->dense->dtype) / 8;
	f->rounding = TN_ROUNDING_NEAREST;
	f->scratch_bytes += 64;
}

/* What a row magnitude multiplies can go into scales, where a row has its own. */
static int has_row_magnitude(const struct tn_joint *j, const struct tn_target *t)
{
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_slot *slot = &j->slots[j->landings[t->first_landing + i].slot];
		if (slot->kind == TN_SLOT_DELTA && slot->entry->magnitude &&
		    slot->shape.rows_are_inputs == slot->entry->magnitude_of_inputs)
			return 1;
	}
	return 0;
}

/* Another library's module keeps its tensors. Those that stay as they are have targets of their own. */
static tn_status describe_foreign(const struct tn_joint *j, const struct tn_target *t, struct tn_arena *arena,
				  struct tn_edit_form *f, struct tn_tensor *outputs[TN_PART_COUNT], struct tn_error *err)
{
	const struct tn_foreign *foreign = f->in.foreign;
	int by_row = tn_foreign_scales_by_row(foreign);
	if (!tn_target_is_packed(t))
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' is packed as %s in the base, and the adapter replaces "
			       "the whole weight; use --dequantize", t->name, foreign->scheme);
	f->gains_scales = has_row_magnitude(j, t) && by_row;
	f->fits_scales = f->rounding == TN_ROUNDING_NEAREST && !f->dense.tensor && by_row;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		f->result[p].row_bytes = f->in.row_bytes[p];
		int floats = p == TN_PART_SCALES || (p == TN_PART_BIASES && foreign->zeros == TN_ZEROS_COLUMN_FLOAT);
		if (!f->in.part[p] || (p != TN_PART_WEIGHT && !(floats && (f->gains_scales || f->fits_scales))))
			continue;
		TN_TRY(tn_arena_alloc(arena, sizeof(struct tn_tensor), &outputs[p], err));
		*outputs[p] = *f->in.part[p];
	}
	return TN_OK;
}

tn_status tn_edit_form_make(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_choice *choice,
			    struct tn_arena *arena, struct tn_edit_form *f, struct tn_tensor *outputs[TN_PART_COUNT],
			    struct tn_error *err)
{
	const struct tn_tensor *source = tn_target_source(t);
	int packed = tn_target_is_packed(t), unpacks = packed && choice->dequantize;
	if (!t->landing_count && !unpacks && (packed || (!t->matrix && source->dtype == tn_target_dtype(t))))
		return make_copy(t, arena, f, outputs, err);
	*f = (struct tn_edit_form){ .by_rows = 1, .rounding = choice->rounding, .seed = seed_of(t->name) };
	describe_source(j, t, f);
	TN_TRY(choose_out(t, choice, &f->out, err));
	int dense_out = f->out.codec == TN_CODEC_dense;
	f->apart = !dense_out || packed || source->dtype != f->out.dtype;
	f->is_measured = packed && !dense_out;
	size_t rank = (size_t)largest_rank(j, t), by_row = tn_edit_delta_bytes(rank, f->cols);
	size_t bulk = has_row_magnitude(j, t) && !f->apart ? tn_gain_product_scratch(rank, f->cols) :
							     tn_add_product_scratch(rank, f->cols);
	f->scratch_bytes = (by_row > bulk ? by_row : bulk) + 2 * TN_PARTS_PADDING + 512 + tn_edit_row_bytes(f);
	f->scratch_bytes += f->in.foreign ? tn_matrix_raw_fixed_bytes(&f->in) + 64 : 0;
	use_dense(t, f);
	if (dense_out)
		return describe_dense(t, arena, f, &outputs[TN_PART_WEIGHT], err);
	if (f->out.codec == TN_CODEC_grid)
		return describe_foreign(j, t, arena, f, outputs, err);
	f->gains_scales = !tn_codec_info(f->in.format.codec)->byte_scales;
	return tn_parts_describe(arena, t->name, source, f->units, f->cols, &f->out, f->result, outputs, err);
}

uint64_t tn_edit_unit_bytes(const struct tn_edit_form *f)
{
	uint64_t bytes = f->dense_bytes + tn_matrix_raw_row_bytes(&f->in);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		bytes += f->source_bytes[p] + (f->apart ? f->result[p].row_bytes : 0);
	return bytes;
}

void tn_edit_place(const struct tn_edit_form *f, struct tn_tensor *const *outputs, uint64_t first, uint64_t count, void *scratch,
		   struct tn_edit_block *b)
{
	size_t bytes[TN_PART_COUNT];
	const struct tn_tensor *from[TN_PART_COUNT], *to[TN_PART_COUNT];
	b->first = first;
	b->count = count;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		bytes[p] = f->result[p].row_bytes;
		to[p] = outputs ? outputs[p] : NULL;
		from[p] = !outputs ? NULL : f->apart ? f->stored[p].tensor : to[p];
	}
	b->scratch = tn_parts_place(scratch, from, first, count, f->source_bytes, b->in);
	if (f->apart)
		b->scratch = tn_parts_place(b->scratch, to, first, count, bytes, b->out);
	else
		memcpy(b->out, b->in, sizeof b->out);
	b->dense = b->scratch;
	b->raw = b->dense + tn_align_up((size_t)count * f->dense_bytes, 64);
	uint64_t raw = tn_matrix_raw_row_bytes(&f->in) * count + tn_matrix_raw_fixed_bytes(&f->in);
	b->scratch = (unsigned char *)b->raw + tn_align_up((size_t)raw, 64);
}

tn_status tn_edit_read(const struct tn_joint *j, const struct tn_edit_form *f, struct tn_edit_block *b, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(j->base);
	if (f->in.foreign)
		TN_TRY(tn_matrix_read(j->ctx->kernels, &source, &f->in, b->first, b->count, b->in, b->raw, &b->pieces, err));
	else
		TN_TRY(tn_parts_read(j->base, f->stored, f->source_bytes, b->first, b->count, b->in, err));
	if (!f->dense.tensor)
		return TN_OK;
	return tn_safetensors_read(f->dense.file, f->dense.tensor, b->first * f->dense_bytes, b->dense,
				   (size_t)b->count * f->dense_bytes, err);
}

struct shard {
	struct tn_output *output;
	size_t number;
};

static tn_status put(void *self, const struct tn_tensor *t, uint64_t offset, const void *src, size_t n, struct tn_error *err)
{
	const struct shard *shard = self;
	return tn_output_put(shard->output, shard->number, t, offset, src, n, err);
}

tn_status tn_edit_write(const struct tn_joint *j, const struct tn_edit_form *f, const struct tn_edit_block *b,
			struct tn_output *output, size_t number, struct tn_tensor *const outputs[TN_PART_COUNT],
			struct tn_error *err)
{
	struct shard shard = { output, number };
	struct tn_tensor_sink sink = { &shard, put };
	if (f->out.codec != TN_CODEC_grid)
		return tn_parts_write(output, number, outputs, f->result, b->first, b->count, b->out, err);
	struct tn_tensor *const parts[TN_FOREIGN_PARTS] = { outputs[TN_PART_WEIGHT], outputs[TN_PART_SCALES],
							    outputs[TN_PART_BIASES] };
	struct tn_grid_rows rows = { b->out[TN_PART_WEIGHT], NULL, NULL };
	if (f->gains_scales || f->fits_scales) {
		rows.scales = (float *)(void *)b->out[TN_PART_SCALES];
		rows.zeros = (float *)(void *)b->out[TN_PART_BIASES];
	}
	return tn_foreign_store(j->ctx->kernels, f->in.foreign, &b->pieces, &rows, &sink, parts, err);
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* Rows of what only measured forms have. */
static size_t rows_at_once(const struct tn_edit_form *f)
{
	return f->is_measured ? TN_ROWS_AT_ONCE : 0;
}

size_t tn_edit_row_bytes(const struct tn_edit_form *f)
{
	size_t many = 2 * f->cols * sizeof(float) + tn_survival_stride(f->cols) * sizeof(uint16_t);
	return tn_align_up(f->cols * 2 * (sizeof(double) + sizeof(float)), 64) + tn_align_up(rows_at_once(f) * many, 64);
}

size_t tn_edit_delta_bytes(size_t rank, size_t cols)
{
	size_t row = tn_delta_scratch_bytes(rank, cols), rows = 2 * TN_ROWS_AT_ONCE * rank * sizeof(float);
	return row > rows ? row : rows;
}

struct tn_row_scratch tn_edit_row_scratch(void *scratch, const struct tn_edit_form *f)
{
	struct tn_row_scratch s;
	s.truth = scratch;
	s.size = s.truth + f->cols;
	s.w = (float *)(s.size + f->cols);
	s.after = s.w + f->cols;
	s.wanted = (float *)(void *)((unsigned char *)scratch + tn_align_up(f->cols * 2 * (sizeof(double) + sizeof(float)), 64));
	s.product = s.wanted + rows_at_once(f) * f->cols;
	s.halves = (uint16_t *)(s.product + rows_at_once(f) * f->cols);
	s.delta = (unsigned char *)scratch + tn_edit_row_bytes(f);
	return s;
}

/* A walk over the rows of a block. */
struct walk {
	const struct tn_joint *joint;
	const struct tn_edit_block *block;
	struct tn_row_edit row;
	uint64_t format_end;           /* the formats in `row` hold up to here */
};

static struct walk begin_walk(const struct tn_joint *j, const struct tn_edit_form *f, const struct tn_edit_block *b)
{
	struct walk w = { .joint = j, .block = b, .format_end = f->in.global_scale ? b->first : UINT64_MAX };
	w.row.kernels = j->ctx->kernels;
	w.row.form = f;
	w.row.in = f->in.format;
	w.row.out = f->out;
	w.row.s = tn_edit_row_scratch(b->scratch, f);
	return w;
}

/* Points at a row. An encoder that keeps the scheme keeps the global scale too. */
static tn_status go_to(struct walk *w, uint64_t row, struct tn_error *err)
{
	const struct tn_edit_form *f = w->row.form;
	size_t at = (size_t)(row - w->block->first);
	if (row >= w->format_end) {
		struct tn_tensor_source source = tn_checkpoint_source(w->joint->base);
		TN_TRY(tn_matrix_format_at(&source, &f->in, row, &w->row.in, &w->format_end, err));
		w->row.out = f->out.codec == f->in.format.codec ? w->row.in : f->out;
	}
	w->row.row = row;
	w->row.dense.part[TN_PART_WEIGHT] = w->block->dense + at * f->dense_bytes;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		w->row.source.part[p] = f->source_bytes[p] ? w->block->in[p] + at * f->source_bytes[p] : NULL;
		w->row.result.part[p] = f->result[p].row_bytes ? w->block->out[p] + at * f->result[p].row_bytes : NULL;
	}
	return TN_OK;
}

static int same_format(const struct tn_edit_form *f)
{
	const struct tn_format *a = &f->in.format, *b = &f->out;
	return a->codec == b->codec && a->bits == b->bits && a->group == b->group && a->dtype == b->dtype;
}

/* Rows that nothing lands on. */
static tn_status pass_rows(struct walk *w, uint64_t begin, uint64_t end, struct tn_error *err)
{
	const struct tn_edit_form *f = w->row.form;
	const struct tn_kernels *k = w->row.kernels;
	size_t at = (size_t)(begin - w->block->first), rows = (size_t)(end - begin);
	if (!f->apart)
		return TN_OK;
	if (same_format(f)) {
		for (unsigned p = 0; p < TN_PART_COUNT && begin < end; p++)
			memcpy(w->block->out[p] + at * f->source_bytes[p], w->block->in[p] + at * f->source_bytes[p],
			       rows * f->source_bytes[p]);
		return TN_OK;
	}
	for (uint64_t row = begin; row < end; row++) {
		TN_TRY(go_to(w, row, err));
		const struct tn_recoding how = { &w->row.in, &w->row.out, 1, f->cols, 0, w->row.s.w };
		k->recode_rows(&(struct tn_rows_out){ .first = w->row.result }, &(struct tn_rows){ .first = w->row.source }, &how);
	}
	return TN_OK;
}

void tn_edit_source(const struct tn_row_edit *e, float *dst)
{
	const struct tn_edit_form *f = e->form;
	if (f->dense.tensor)
		e->kernels->codec[TN_CODEC_dense]->decode(dst, &e->dense, &f->dense_format, f->cols);
	else
		e->kernels->codec[e->in.codec]->decode(dst, &e->source, &e->in, f->cols);
}

/* The smallest magnitude that the dtype rounds to infinity. */
static float beyond(tn_dtype dtype)
{
	return dtype == TN_F16 ? 65520.0f : dtype == TN_BF16 ? 0x1.FFp127f : INFINITY;
}

/* Into a dense result, or anew into a grid. Sums in double where the result shows it. */
static void edit_row(const struct tn_row_edit *e)
{
	const struct tn_edit_form *f = e->form;
	const struct tn_kernels *k = e->kernels;
	float *w = e->s.w, limit = beyond(f->out.codec == TN_CODEC_dense ? f->out.dtype : TN_F32);
	int bad = 0;
	if (e->loaded->rows) {
		memcpy(w, e->loaded->rows + e->delta_row * f->cols, f->cols * sizeof *w);
	} else {
		tn_edit_source(e, w);
		if (f->out.dtype != TN_F32 && tn_delta_is_plain(&e->loaded->delta)) {
			tn_delta_edit_f32(k, &e->loaded->delta, e->delta_row, w, e->s.delta);
		} else {
			tn_delta_row_f64(k, &e->loaded->delta, e->delta_row, w, e->s.truth, TN_SIZES_NONE, NULL, e->s.delta);
			for (size_t i = 0; i < f->cols; i++)
				w[i] = (float)e->s.truth[i];
		}
	}
	for (size_t i = 0; i < f->cols; i++)
		bad |= !(fabsf(w[i]) < limit);
	e->sum->not_finite |= bad;
	if (e->out.codec == TN_CODEC_grid) /* whose encoder takes the scales that are there */
		tn_requantize_keep_scales(e);
	k->codec[e->out.codec]->encode(&e->result, w, &e->out, f->cols);
}

/* The rows of the block that a landing changes. */
struct span {
	uint64_t begin, end;
};

static struct span meet(const struct tn_landing *landing, const struct tn_edit_block *b)
{
	struct span s = { tn_max_u64(landing->target_row, b->first),
			  tn_min_u64(landing->target_row + landing->rows, b->first + b->count) };
	return s;
}

/* Deltas on 16-bit rows that stay what they are: all rows at once. */
static int is_bulk(const struct tn_row_edit *e)
{
	const struct tn_edit_form *f = e->form;
	return !e->loaded->rows && f->out.codec == TN_CODEC_dense && (f->out.dtype == TN_BF16 || f->out.dtype == TN_F16) &&
	       same_format(f) && tn_delta_takes_rows(&e->loaded->delta);
}

static void edit_bulk(const struct walk *w, const struct tn_landing *landing, struct span span)
{
	const struct tn_row_edit *e = &w->row;
	size_t bytes = e->form->source_bytes[TN_PART_WEIGHT], at = (size_t)(span.begin - w->block->first) * bytes;
	struct tn_delta_rows rows = {
		.first = (size_t)(span.begin - landing->target_row + landing->delta_row),
		.count = (size_t)(span.end - span.begin),
		.dtype = e->form->out.dtype,
		.dst = w->block->out[TN_PART_WEIGHT] + at,
		.dst_stride = bytes,
		.src = w->block->in[TN_PART_WEIGHT] + at,
		.src_stride = bytes,
	};
	e->sum->not_finite |= tn_delta_add_rows(e->kernels, &e->loaded->delta, &rows, e->s.delta);
}

/* Rows from `first` on that are written and measured together: of one group of the delta. */
static size_t count_together(const struct tn_delta *delta, size_t first, uint64_t left)
{
	size_t group = delta->group_rows - first % delta->group_rows, n = group < TN_ROWS_AT_ONCE ? group : TN_ROWS_AT_ONCE;
	return left < n ? (size_t)left : n;
}

static tn_status requantize_span(struct walk *w, const struct tn_landing *landing, struct span span, struct tn_error *err)
{
	struct tn_row_edit rows[TN_ROWS_AT_ONCE];
	for (uint64_t row = span.begin; row < span.end;) {
		size_t first = (size_t)(row - landing->target_row + landing->delta_row);
		size_t n = count_together(&w->row.loaded->delta, first, span.end - row);
		for (size_t i = 0; i < n; i++, row++) {
			TN_TRY(go_to(w, row, err));
			w->row.delta_row = first + i;
			rows[i] = w->row;
		}
		tn_requantize_rows(rows, n);
	}
	return TN_OK;
}

static tn_status edit_span(struct walk *w, const struct tn_landing *landing, struct span span, struct tn_error *err)
{
	if (w->row.form->is_measured && !w->row.loaded->rows)
		return requantize_span(w, landing, span, err);
	if (is_bulk(&w->row)) {
		edit_bulk(w, landing, span);
		return TN_OK;
	}
	for (uint64_t row = span.begin; row < span.end; row++) {
		TN_TRY(go_to(w, row, err));
		w->row.delta_row = (size_t)(row - landing->target_row + landing->delta_row);
		edit_row(&w->row);
	}
	return TN_OK;
}

tn_status tn_edit_units(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_form *f,
			struct tn_delta_cache *cache, const struct tn_edit_block *b, struct tn_survival_sums *sum,
			struct tn_error *err)
{
	struct walk w = begin_walk(j, f, b);
	uint64_t next = b->first;
	w.row.sum = sum;
	if (!f->by_rows)
		return TN_OK;
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *landing = &j->landings[t->first_landing + i];
		struct span span = meet(landing, b);
		if (span.begin >= span.end)
			continue;
		TN_TRY(pass_rows(&w, next, span.begin, err));
		TN_TRY(tn_delta_cache_take(cache, landing->slot, &w.row.loaded, err));
		tn_status status = edit_span(&w, landing, span, err);
		tn_delta_cache_return(cache, landing->slot);
		TN_TRY(status);
		next = span.end;
	}
	return pass_rows(&w, next, b->first + b->count, err);
}

/* ---- exact rows ------------------------------------------------------------------------------------------ */

static void exact_row(const struct tn_row_edit *e, enum tn_delta_sizes sizes)
{
	const struct tn_row_scratch *s = &e->s;
	size_t cols = e->form->cols;
	tn_edit_source(e, s->w);
	if (!e->loaded->rows) {
		tn_delta_row_f64(e->kernels, &e->loaded->delta, e->delta_row, s->w, s->truth, sizes, s->size, s->delta);
		return;
	}
	for (size_t i = 0; i < cols; i++) {
		s->truth[i] = (double)e->loaded->rows[e->delta_row * cols + i];
		s->size[i] = fabs(s->truth[i]);
	}
}

static tn_status visit_span(struct walk *w, const struct tn_landing *landing, struct span span, tn_edit_visit visit,
			    void *arg, struct tn_error *err)
{
	for (uint64_t row = span.begin; row < span.end; row++) {
		TN_TRY(go_to(w, row, err));
		w->row.delta_row = (size_t)(row - landing->target_row + landing->delta_row);
		exact_row(&w->row, TN_SIZES_SUMS);
		struct tn_edit_truth truth = { row, NULL, w->row.s.w, w->row.s.truth, w->row.s.size, w->row.loaded,
					       w->row.delta_row };
		int closer = 0;
		TN_TRY(visit(arg, &truth, &closer, err));
		if (!closer)
			continue;
		exact_row(&w->row, TN_SIZES_PRODUCTS);
		truth.products = tn_delta_products(w->row.s.delta, w->row.loaded->delta.rank);
		TN_TRY(visit(arg, &truth, &closer, err));
	}
	return TN_OK;
}

tn_status tn_edit_truths(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_form *f,
			 struct tn_delta_cache *cache, const struct tn_edit_block *b, tn_edit_visit visit, void *arg,
			 struct tn_error *err)
{
	struct walk w = begin_walk(j, f, b);
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *landing = &j->landings[t->first_landing + i];
		struct span span = meet(landing, b);
		if (span.begin >= span.end)
			continue;
		TN_TRY(tn_delta_cache_take(cache, landing->slot, &w.row.loaded, err));
		tn_status status = visit_span(&w, landing, span, visit, arg, err);
		tn_delta_cache_return(cache, landing->slot);
		TN_TRY(status);
	}
	return TN_OK;
}

void tn_edit_count_takes(const struct tn_joint *j, const struct tn_target *t, uint64_t units_per_block, uint64_t *takes)
{
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *l = &j->landings[t->first_landing + i];
		if (l->rows)
			takes[l->slot] += (l->target_row + l->rows - 1) / units_per_block - l->target_row / units_per_block + 1;
	}
}
