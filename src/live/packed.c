/* SPDX-License-Identifier: Apache-2.0 */
/* Modules that other libraries packed, in memory: as MLX has them where that holds the same values, else codes and float32 scales
 * where rows can be decoded from those at speed, else dense in the dtype that their library decodes to. */
#include "live/live.h"

#include "base/checked.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "transform/blocks.h"
#include "weights/foreign.h"
#include "weights/format.h"

#include <string.h>

/* A module on its way into memory. */
struct packed {
	const struct tn_foreign *foreign;
	struct tn_format format;
	struct tn_part_plan plan[TN_PART_COUNT];
	unsigned char *part[TN_PART_COUNT];
};

struct unpacking {
	struct tn_live *live;
	struct packed *items;
	struct tn_blocks blocks;
};

/* ---- one block ------------------------------------------------------------------------------------------- */

static struct tn_row_out row_of(const struct packed *p, uint64_t row)
{
	struct tn_row_out out = { { NULL } };
	for (unsigned i = 0; i < TN_PART_COUNT; i++)
		if (p->part[i])
			out.part[i] = p->part[i] + row * p->plan[i].row_bytes;
	return out;
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	const struct unpacking *u = arg;
	const struct packed *p = &u->items[block->item];
	const struct tn_kernels *k = u->live->ctx->kernels;
	struct tn_tensor_source source = tn_checkpoint_source(u->live->base);
	size_t n = (size_t)block->count, cols = (size_t)p->foreign->cols;
	(void)result;
	if (p->format.codec == TN_CODEC_dense) {
		float *values = scratch;
		void *rest = (unsigned char *)scratch + tn_align_up(n * cols * sizeof *values, 64);
		struct tn_row_out out = row_of(p, block->first);
		TN_TRY(tn_foreign_read(k, &source, p->foreign, block->first, block->count, rest, TN_F32, values, err));
		k->codec[TN_CODEC_dense]->encode(&out, values, &p->format, n * cols);
		return TN_OK;
	}
	struct tn_row_out *rows = scratch;
	for (uint64_t i = 0; i < block->count; i++)
		rows[i] = row_of(p, block->first + i);
	void *rest = (unsigned char *)scratch + tn_align_up(n * sizeof *rows, 64);
	if (p->format.codec == TN_CODEC_table)
		return tn_foreign_read_table(k, &source, p->foreign, &p->format, block->first, block->count, rest, rows, err);
	return tn_foreign_read_mlx(k, &source, p->foreign, &p->format, 1, block->first, block->count, rest, rows, err);
}

static struct tn_block_item item_of(const struct packed *p)
{
	const struct tn_foreign *f = p->foreign;
	uint64_t own = p->format.codec == TN_CODEC_dense ? f->cols * sizeof(float) : sizeof(struct tn_row_out);
	return (struct tn_block_item){ .units = f->rows, .unit_bytes = own + tn_foreign_row_bytes(f),
				       .fixed_bytes = 64 + tn_foreign_fixed_bytes(f), .work_bytes = f->weight.bytes };
}

/* ---- modules --------------------------------------------------------------------------------------------- */

/* MLX's form, when the dtype of its scales holds every bias: F32 does. */
static tn_status choose_format(struct tn_live *live, const struct tn_foreign *f, struct tn_format *out, struct tn_error *err)
{
	struct tn_quantization q;
	struct tn_grid *grid;
	tn_dtype dtype;
	if (tn_foreign_as_mlx(f, &q, &dtype))
		return tn_format_make(&q, dtype == TN_F16 ? TN_F32 : dtype, TN_FLAVOUR_CPU, "live", out, err);
	if (!tn_foreign_as_table(f, out)) {
		*out = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = f->dtype };
		return TN_OK;
	}
	TN_TRY(tn_arena_alloc(&live->arena, sizeof *grid, &grid, err));
	out->grid = grid;
	return tn_foreign_grid(f, NULL, grid, err);
}

static tn_status add_module(struct tn_live *live, struct tn_foreign *f, struct packed *p, struct tn_error *err)
{
	const struct tn_tensor *w = &f->weight;
	struct tn_live_module *m = &live->modules[live->module_count];
	TN_TRY(tn_foreign_settle(live->foreign, f, err));
	p->foreign = f;
	TN_TRY(choose_format(live, f, &p->format, err));
	tn_format_parts(&p->format, f->cols, p->plan);
	*m = (struct tn_live_module){ .weight = f->part[TN_FOREIGN_CODES].tensor };
	TN_TRY(tn_arena_text(&live->arena, w->name, tn_layer_length(w->name), &m->path, err));
	m->linear = (struct tn_linear){ .ctx = live->ctx, .format = p->format, .experts = w->rank == 3 ? w->shape[0] : 0,
					.out = w->rank == 1 ? 1 : (size_t)w->shape[w->rank - 2], .in = (size_t)f->cols };
	for (unsigned i = 0; i < TN_PART_COUNT; i++) {
		size_t bytes;
		if (!p->plan[i].row_bytes)
			continue;
		if (f->rows > SIZE_MAX || tn_mul_size((size_t)f->rows, p->plan[i].row_bytes, &bytes))
			return tn_fail_nomem(err, w->name, SIZE_MAX);
		TN_TRY(tn_buffer_alloc(live->ctx, bytes, w->name, &live->unpacked[live->unpacked_count], err));
		p->part[i] = live->unpacked[live->unpacked_count++].data;
		m->linear.part[i] = p->part[i];
		m->linear.row_bytes[i] = p->plan[i].row_bytes;
	}
	live->module_count++;
	return TN_OK;
}

tn_status tn_live_unpack(struct tn_live *live, struct tn_error *err)
{
	struct unpacking u = { .live = live };
	struct tn_block_work work = { .run = run_block, .arg = &u, .phase = "unpack" };
	struct tn_arena arena;
	size_t count = tn_foreign_set_count(live->foreign);
	struct tn_foreign *f;
	if (!count)
		return TN_OK;
	TN_TRY(tn_arena_array(&live->arena, count * TN_PART_COUNT, sizeof *live->unpacked, &live->unpacked, err));
	tn_arena_init(&arena, live->ctx);
	tn_status status = tn_arena_array(&arena, count, sizeof *u.items, &u.items, err);
	if (status == TN_OK)
		status = tn_arena_array(&arena, count, sizeof *u.blocks.items, &u.blocks.items, err);
	for (size_t i = 0; i < live->base->count && status == TN_OK; i++)
		if (tn_foreign_set_at(live->foreign, i, &f) == TN_FOREIGN_MODULE) {
			struct packed *p = &u.items[u.blocks.item_count];
			status = add_module(live, f, p, err);
			u.blocks.items[u.blocks.item_count++] = item_of(p);
		}
	if (status == TN_OK)
		status = tn_blocks_cut(live->ctx, &u.blocks, "unpack", err);
	if (status == TN_OK)
		status = tn_blocks_run(live->ctx, &u.blocks, &work, err);
	tn_arena_release(&arena);
	return status;
}
