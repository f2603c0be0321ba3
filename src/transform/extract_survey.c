/* SPDX-License-Identifier: Apache-2.0 */
/* What changed at all: both checkpoints are read once, before anything is computed. */
#include "transform/extract.h"

#include "base/checked.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "transform/blocks.h"

#include <string.h>

struct survey {
	struct tn_extract *extract;
	struct tn_blocks blocks;      /* an item for each piece */
};

static int is_hole(const tn_checkpoint *c, const struct tn_matrix *m, uint64_t first, uint64_t count)
{
	const struct tn_tensor *t = m->part[TN_PART_WEIGHT];
	return m->format.codec == TN_CODEC_dense && !m->foreign &&
	       tn_tensor_is_hole(c->shards[t->shard], t, first * m->row_bytes[0], count * m->row_bytes[0]);
}

static tn_status survey_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	const struct survey *s = arg;
	const struct tn_extract *x = s->extract;
	const struct tn_extract_piece *p = &x->pieces[block->item];
	/* what neither file ever wrote is the same */
	if (is_hole(x->base.checkpoint, &p->base, p->base_row + block->first, block->count) &&
	    is_hole(x->tuned.checkpoint, &p->tuned, p->tuned_row + block->first, block->count))
		return TN_OK;
	return tn_extract_read(x, p, block->first, block->count, NULL, scratch, result, err);
}

/* Blocks are added up in their order, so the sums do not depend on threads. */
static void fold(void *arg, const struct tn_block *block, const void *result)
{
	struct survey *s = arg;
	const struct tn_extract_finding *f = result;
	size_t owner = s->extract->pieces[block->item].owner;
	struct tn_extract_finding *sum = owner < s->extract->module_count
					 ? &s->extract->modules[owner].found
					 : &s->extract->rest[owner - s->extract->module_count].found;
	sum->delta2 += f->delta2;
	sum->noise2 += f->noise2;
	sum->differs |= f->differs;
	sum->not_finite |= f->not_finite;
}

tn_status tn_extract_survey(struct tn_extract *x, struct tn_error *err)
{
	struct survey s = { .extract = x, .blocks = { .item_count = x->piece_count, .waits = 1 } };
	/* reading takes most of it: as a stage that reads, so that more are under way than compute */
	struct tn_block_work work = { .read = survey_block, .arg = &s, .phase = "compare",
				      .result_bytes = sizeof(struct tn_extract_finding), .fold = fold };
	TN_TRY(tn_arena_array(&x->arena, x->piece_count, sizeof *s.blocks.items, &s.blocks.items, err));
	for (size_t i = 0; i < x->piece_count; i++) {
		struct tn_block_item *item = &s.blocks.items[i];
		item->units = x->pieces[i].rows;
		tn_extract_piece_bytes(&x->pieces[i], &item->unit_bytes, &item->fixed_bytes);
		item->work_bytes = item->units * item->unit_bytes;
	}
	if (!x->piece_count)
		return TN_OK;
	TN_TRY(tn_blocks_cut(x->ctx, &s.blocks, "extract", err));
	return tn_blocks_run(x->ctx, &s.blocks, &work, err);
}
