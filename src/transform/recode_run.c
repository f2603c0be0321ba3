/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/recode.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "store/checkpoint.h"
#include "transform/plan_id.h"

#include <stdatomic.h>
#include <string.h>

static const char mlx_readme[] = "---\nlanguage: en\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n";

struct run {
	const struct tn_recode *recode;
	struct tn_arena arena;
	struct tn_blocks blocks;
	_Atomic uint64_t *shard_blocks_left;
	struct tn_output *output;
};

/* ---- one block ------------------------------------------------------------------------------------------- */

/* Scratch of a block of n rows: its bytes in every input part, in every output part, then one row each of float32 and of
 * cast scales and biases. */
struct parts {
	unsigned char *in[TN_PART_COUNT], *out[TN_PART_COUNT];
	float *row;
	unsigned char *cast[TN_PART_COUNT];
};

static uint64_t scale_count(const struct tn_recode_step *step)
{
	return step->in.format.group ? step->in.cols / step->in.format.group : 0;
}

static void out_row_bytes(const struct tn_recode_step *step, size_t bytes[TN_PART_COUNT])
{
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		bytes[part] = step->out_parts[part].row_bytes;
}

static struct parts split_scratch(const struct tn_recode_step *step, const struct tn_block *block, unsigned char *scratch)
{
	struct parts p = { .row = NULL };
	size_t bytes[TN_PART_COUNT];
	out_row_bytes(step, bytes);
	const struct tn_tensor *to[TN_PART_COUNT];
	memcpy(to, step->outputs, sizeof to);
	scratch = tn_parts_place(scratch, step->in.part, block->first, block->count, step->in.row_bytes, p.in);
	scratch = tn_parts_place(scratch, to, block->first, block->count, bytes, p.out);
	p.row = (float *)(void *)scratch;
	scratch += tn_align_up((size_t)step->in.cols * sizeof(float), 64);
	for (unsigned part = TN_PART_SCALES; part < TN_PART_COUNT; part++) {
		p.cast[part] = scratch;
		scratch += tn_align_up((size_t)scale_count(step) * sizeof(float), 64);
	}
	return p;
}

static uint64_t fixed_scratch(const struct tn_recode_step *step)
{
	return step->in.cols * sizeof(float) + 2 * scale_count(step) * sizeof(float) + 64 * 3 + 2 * TN_PARTS_PADDING;
}

static tn_status read_parts(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			    const struct parts *p, struct tn_error *err)
{
	struct tn_stored stored[TN_PART_COUNT];
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		stored[part] = (struct tn_stored){ step->in.part[part], NULL };
	return tn_parts_read(run->recode->base, stored, step->in.row_bytes, block->first, block->count, p->in, err);
}

/* mlx-lm casts scales and biases before it dequantizes. */
static void cast_scales(const struct tn_kernels *k, const struct tn_recode_step *step, struct tn_row *row,
			const struct parts *p, float *values)
{
	const struct tn_codec *dense = k->codec[TN_CODEC_dense];
	struct tn_format from = { .codec = TN_CODEC_dense }, to = { .codec = TN_CODEC_dense, .dtype = step->scales_as };
	size_t n = (size_t)scale_count(step);
	for (unsigned part = TN_PART_SCALES; part < TN_PART_COUNT; part++) {
		if (!step->in.part[part])
			continue;
		struct tn_row in = { { row->part[part] } };
		struct tn_row_out out = { { p->cast[part] } };
		from.dtype = step->in.part[part]->dtype;
		dense->decode(values, &in, &from, n);
		dense->encode(&out, values, &to, n);
		row->part[part] = p->cast[part];
	}
}

/* Values that are quantized in another dtype than they are stored in are rounded to it first. */
static void round_row(float *row, size_t n, tn_dtype dtype)
{
	if (dtype == TN_BF16)
		for (size_t i = 0; i < n; i++)
			row[i] = tn_f32_from_bf16(tn_bf16_from_f32(row[i]));
	else if (dtype == TN_F16)
		for (size_t i = 0; i < n; i++)
			row[i] = tn_f32_from_f16(tn_f16_from_f32(row[i]));
}

/* Whether values have to be rounded before they are quantized. */
static int rounds_first(const struct tn_recode_step *step)
{
	return step->info.action == TN_RECODE_QUANTIZE && step->round_to != step->in.format.dtype;
}

static void recode_row(const struct tn_kernels *k, const struct tn_recode_step *step, const struct tn_row_out *out,
		       const struct tn_row *in, const struct tn_format *format, float *values)
{
	const size_t cols = (size_t)step->in.cols;
	if (!rounds_first(step)) { /* the result is written next, so it may stay in the caches */
		const struct tn_recoding how = { .from = format, .to = &step->out, .rows = 1, .cols = cols, .values = values };
		k->recode_rows(&(struct tn_rows_out){ .first = *out }, &(struct tn_rows){ .first = *in }, &how);
		return;
	}
	k->codec[format->codec]->decode(values, in, format, cols);
	round_row(values, cols, step->round_to);
	k->codec[step->out.codec]->encode(out, values, &step->out, cols);
}

static tn_status recode_rows(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			     const struct parts *p, struct tn_error *err)
{
	const struct tn_kernels *k = run->recode->ctx->kernels;
	struct tn_tensor_source source = tn_checkpoint_source(run->recode->base);
	struct tn_format format = step->in.format;
	uint64_t format_end = step->in.global_scale ? block->first : UINT64_MAX;
	for (uint64_t i = 0; i < block->count; i++) {
		struct tn_row in;
		struct tn_row_out out;
		if (block->first + i >= format_end)
			TN_TRY(tn_matrix_format_at(&source, &step->in, block->first + i, &format, &format_end, err));
		for (unsigned part = 0; part < TN_PART_COUNT; part++) {
			in.part[part] = step->in.part[part] ? p->in[part] + i * step->in.row_bytes[part] : NULL;
			out.part[part] = step->outputs[part] ? p->out[part] + i * step->out_parts[part].row_bytes : NULL;
		}
		if (step->info.action == TN_RECODE_DEQUANTIZE && step->scales_as != TN_DTYPE_COUNT)
			cast_scales(k, step, &in, p, p->row);
		recode_row(k, step, &out, &in, &format, p->row);
	}
	return TN_OK;
}

/* Rows of another library's matrix as MLX has them. */
static tn_status repack_block(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			      const struct parts *p, struct tn_row_out *rows, void *scratch, struct tn_error *err)
{
	const struct tn_recode *r = run->recode;
	struct tn_tensor_source source = tn_checkpoint_source(r->base);
	for (uint64_t i = 0; i < block->count; i++)
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			rows[i].part[part] = step->outputs[part] ? p->out[part] + i * step->out_parts[part].row_bytes : NULL;
	return tn_foreign_read_mlx(r->ctx->kernels, &source, step->in.foreign, &step->out, r->asked == TN_DTYPE_COUNT,
				   block->first, block->count, scratch, rows, err);
}

/* The same decoded, and encoded unless floats are asked for. */
static tn_status decode_block(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			      const struct parts *p, void *scratch, struct tn_error *err)
{
	const struct tn_kernels *k = run->recode->ctx->kernels;
	struct tn_tensor_source source = tn_checkpoint_source(run->recode->base);
	size_t cols = (size_t)step->in.cols;
	if (step->out.codec == TN_CODEC_dense)
		return tn_foreign_read(k, &source, step->in.foreign, block->first, block->count, scratch, step->out.dtype,
				       p->out[TN_PART_WEIGHT], err);
	TN_TRY(tn_foreign_read(k, &source, step->in.foreign, block->first, block->count, scratch, TN_F32, p->row, err));
	for (uint64_t i = 0; i < block->count; i++) {
		struct tn_row_out out;
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			out.part[part] = step->outputs[part] ? p->out[part] + i * step->out_parts[part].row_bytes : NULL;
		if (step->info.action == TN_RECODE_REQUANTIZE)
			round_row(p->row + i * cols, cols, step->round_to);
		k->codec[step->out.codec]->encode(&out, p->row + i * cols, &step->out, cols);
	}
	return TN_OK;
}

/* Rows that are encoded from float32. */
static uint64_t value_bytes(const struct tn_recode_step *step)
{
	int is_encoded = step->info.action != TN_RECODE_REPACK && step->out.codec != TN_CODEC_dense;
	return is_encoded ? step->in.cols * sizeof(float) : 0;
}

static uint64_t foreign_row_bytes(const struct tn_recode_step *step)
{
	return value_bytes(step) + sizeof(struct tn_row_out) + tn_foreign_row_bytes(step->in.foreign);
}

static tn_status foreign_block(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			       void *scratch, struct tn_error *err)
{
	struct parts p = split_scratch(step, block, scratch);
	size_t n = (size_t)block->count;
	unsigned char *rows = (unsigned char *)p.row + tn_align_up(n * (size_t)value_bytes(step), 64);
	unsigned char *rest = rows + tn_align_up(n * sizeof(struct tn_row_out), 64);
	if (step->info.action == TN_RECODE_REPACK)
		return repack_block(run, step, block, &p, (struct tn_row_out *)(void *)rows, rest, err);
	return decode_block(run, step, block, &p, rest, err);
}

static tn_status decode_rows(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			     const struct parts *p, float *values, struct tn_error *err)
{
	const struct tn_kernels *k = run->recode->ctx->kernels;
	struct tn_tensor_source source = tn_checkpoint_source(run->recode->base);
	TN_TRY(read_parts(run, step, block, p, err));
	for (uint64_t i = 0; i < block->count; i++) {
		struct tn_row in = { { NULL } };
		struct tn_format format;
		uint64_t end;
		TN_TRY(tn_matrix_format_at(&source, &step->in, block->first + i, &format, &end, err));
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			in.part[part] = step->in.part[part] ? p->in[part] + i * step->in.row_bytes[part] : NULL;
		k->codec[format.codec]->decode(values + i * step->in.cols, &in, &format, (size_t)step->in.cols);
	}
	return TN_OK;
}

static tn_status nf4_block(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block,
			   void *scratch, struct tn_error *err)
{
	struct parts p = split_scratch(step, block, scratch);
	struct tn_tensor_source source = tn_checkpoint_source(run->recode->base);
	size_t n = (size_t)(block->count * step->in.cols), bytes = (size_t)(tn_nf4_row_bytes(step->in.cols) * block->count);
	unsigned char *rest = (unsigned char *)p.row + tn_align_up(n * sizeof(float), 64);
	if (step->in.foreign)
		TN_TRY(tn_foreign_read(run->recode->ctx->kernels, &source, step->in.foreign, block->first, block->count,
				       rest + tn_align_up(bytes + 256, 64), TN_F32, p.row, err));
	else
		TN_TRY(decode_rows(run, step, block, &p, p.row, err));
	round_row(p.row, n, step->round_to);
	return tn_nf4_write(run->recode->ctx->kernels, run->output, step, block->first, block->count, p.row, rest, err);
}

/* ---- stages of a block ----------------------------------------------------------------------------------- */

/* NULL: an interrupted run has written its shard. */
static const struct tn_recode_step *step_to_do(const struct run *run, const struct tn_block *block)
{
	const struct tn_recode_step *step = &run->recode->steps[block->item];
	return tn_output_has_shard(run->output, step->shard) ? NULL : step;
}

static unsigned char *place_of_copy(const struct tn_recode_step *step, const struct tn_block *block, void *scratch)
{
	return tn_direct_place(scratch, step->outputs[TN_PART_WEIGHT]->offset + block->first);
}

static tn_status read_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_recode_step *step = step_to_do(run, block);
	(void)result;
	if (!step)
		return TN_OK;
	if (step->info.action == TN_RECODE_COPY)
		return tn_checkpoint_read(run->recode->base, step->info.tensor, block->first, place_of_copy(step, block, scratch),
					  (size_t)block->count, err);
	if (step->state || step->in.foreign) /* reading is a part of the decoding */
		return TN_OK;
	struct parts p = split_scratch(step, block, scratch);
	return read_parts(run, step, block, &p, err);
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_recode_step *step = step_to_do(run, block);
	(void)result;
	if (!step || step->info.action == TN_RECODE_COPY)
		return TN_OK;
	if (step->state) /* writing is a part of the encoding */
		return nf4_block(run, step, block, scratch, err);
	if (step->in.foreign)
		return foreign_block(run, step, block, scratch, err);
	struct parts p = split_scratch(step, block, scratch);
	return recode_rows(run, step, block, &p, err);
}

static tn_status write_rows(const struct run *run, const struct tn_recode_step *step, const struct tn_block *block, void *scratch,
			    struct tn_error *err)
{
	struct parts p = split_scratch(step, block, scratch);
	return tn_parts_write(run->output, step->shard, step->outputs, step->out_parts, block->first, block->count, p.out, err);
}

static tn_status write_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_recode_step *step = step_to_do(run, block);
	(void)result;
	if (!step)
		return TN_OK;
	if (step->info.action == TN_RECODE_COPY)
		TN_TRY(tn_output_put(run->output, step->shard, step->outputs[TN_PART_WEIGHT], block->first,
				     place_of_copy(step, block, scratch), (size_t)block->count, err));
	else if (!step->state)
		TN_TRY(write_rows(run, step, block, scratch, err));
	if (atomic_fetch_sub(&run->shard_blocks_left[step->shard], 1) == 1)
		return tn_output_finish_shard(run->output, step->shard, err);
	return TN_OK;
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

static struct tn_block_item block_item(const struct tn_recode_step *step)
{
	uint64_t work = step->info.bytes_before + step->info.bytes_after, unit = 0;
	if (step->info.action == TN_RECODE_COPY)
		return (struct tn_block_item){ .units = step->info.bytes_before, .unit_bytes = 1, .work_bytes = work,
					       .fixed_bytes = TN_DIRECT_PAGE };
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		unit += step->in.row_bytes[part] + step->out_parts[part].row_bytes;
	uint64_t fixed = fixed_scratch(step);
	if (step->in.foreign) {
		unit += foreign_row_bytes(step);
		fixed += tn_foreign_fixed_bytes(step->in.foreign);
	}
	if (step->state)
		return (struct tn_block_item){ .units = step->in.rows, .work_bytes = work, .fixed_bytes = fixed + 1024,
					       .unit_bytes = unit + step->in.cols * sizeof(float) + tn_nf4_row_bytes(step->in.cols),
					       .alignment = tn_nf4_alignment(step->in.cols) };
	return (struct tn_block_item){ .units = step->in.rows, .unit_bytes = unit, .fixed_bytes = fixed, .work_bytes = work };
}

static tn_status cut(struct run *run, struct tn_error *err)
{
	const struct tn_recode *r = run->recode;
	run->blocks.item_count = r->count;
	run->blocks.waits = 1;
	TN_TRY(tn_arena_array(&run->arena, r->count, sizeof *run->blocks.items, &run->blocks.items, err));
	TN_TRY(tn_arena_array(&run->arena, r->shard_count, sizeof *run->shard_blocks_left, &run->shard_blocks_left, err));
	for (size_t i = 0; i < r->count; i++)
		run->blocks.items[i] = block_item(&r->steps[i]);
	TN_TRY(tn_blocks_cut(r->ctx, &run->blocks, "convert", err));
	for (size_t i = 0; i < r->count; i++) {
		const struct tn_block_item *item = &run->blocks.items[i];
		run->shard_blocks_left[r->steps[i].shard] += tn_ceil_div(item->units, item->units_per_block);
	}
	return TN_OK;
}

static tn_status write_files(struct run *run, struct tn_error *err)
{
	const struct tn_recode *r = run->recode;
	struct tn_buffer config;
	/* what that file says is in config.json, as far as it still holds */
	TN_TRY(tn_output_copy_sidecars(run->output, tn_checkpoint_path(r->base), "quantization_config.json", err));
	TN_TRY(tn_recode_config(r, &config, err));
	tn_status status = TN_OK;
	if (config.data)
		status = tn_output_write(run->output, "config.json", config.data, config.bytes - 1, err);
	tn_buffer_release(r->ctx, &config);
	if (status == TN_OK && r->request.mlx_folder)
		status = tn_output_write(run->output, "README.md", mlx_readme, sizeof mlx_readme - 1, err);
	return status;
}

static tn_status write_output(struct run *run, struct tn_error *err)
{
	const struct tn_recode *r = run->recode;
	struct tn_block_work work = { .read = read_block, .run = run_block, .write = write_block, .arg = run, .phase = "convert" };
	TN_TRY(write_files(run, err));
	for (size_t i = 0; i < r->shard_count; i++)
		if (run->shard_blocks_left[i] == 0 && !tn_output_has_shard(run->output, i)) /* nothing but empty tensors */
			TN_TRY(tn_output_finish_shard(run->output, i, err));
	TN_TRY(tn_blocks_run(r->ctx, &run->blocks, &work, err));
	return tn_output_commit(run->output, r->parameters, r->request.mlx_folder ? TN_INDEX_MLX : TN_INDEX_TRANSFORMERS,
				err);
}

static struct tn_output_place place_of(const struct tn_recode *r, const char *save_path, unsigned flags)
{
	struct tn_output_place place = { .path = save_path, .flags = flags };
	struct tn_sha256 id;
	tn_plan_id_begin(&id, "recode");
	tn_plan_id_add_checkpoint(&id, r->base);
	const struct tn_recode_request *q = &r->request;
	const uint64_t options[] = { (uint64_t)q->quantize, (uint64_t)q->dequantize, (uint64_t)q->like_mlx, (uint64_t)q->dtype,
				     (uint64_t)q->flavour, q->shard_bytes, (uint64_t)q->to_mlx, (uint64_t)q->requantize,
				     (uint64_t)q->to_nf4 };
	tn_plan_id_add(&id, options, sizeof options);
	for (size_t i = 0; i < r->count; i++)
		tn_plan_id_add_text(&id, r->steps[i].info.to);
	tn_sha256_finish(&id, place.plan_id);
	return place;
}

static tn_status run_recode(struct run *run, const char *save_path, unsigned flags, struct tn_error *err)
{
	const struct tn_recode *r = run->recode;
	struct tn_output_place place = place_of(r, save_path, flags);
	TN_TRY(tn_output_check_base(save_path, r->base, err));
	TN_TRY(cut(run, err));
	TN_TRY(tn_output_begin(r->ctx, &place, r->shards, r->shard_count, &run->output, err));
	tn_status status = write_output(run, err);
	if (status != TN_OK)
		tn_output_abort(run->output);
	return status;
}

tn_status tn_recode_run(const tn_recode *recode, const char *save_path, unsigned flags, struct tn_error *err)
{
	struct run run = { .recode = recode };
	tn_arena_init(&run.arena, recode->ctx);
	tn_status status = run_recode(&run, save_path, flags, err);
	tn_arena_release(&run.arena);
	return status;
}
