/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/token_work.h"

#include "base/error.h"

void tn_id_list_release(struct tn_id_list *list)
{
	tn_free_array(list->ctx, list->items, list->capacity, sizeof *list->items);
	tn_id_list_init(list, list->ctx);
}

tn_status tn_id_list_add(struct tn_id_list *list, uint32_t id, struct tn_error *err)
{
	TN_TRY(tn_grow(list->ctx, &list->items, &list->capacity, list->count + 1, sizeof *list->items, "ids", err));
	list->items[list->count++] = id;
	return TN_OK;
}

void tn_pieces_init(struct tn_pieces *pieces, tn_context *ctx)
{
	*pieces = (struct tn_pieces){ .ctx = ctx };
	tn_text_init(&pieces->text, ctx);
}

void tn_pieces_release(struct tn_pieces *pieces)
{
	tn_text_release(&pieces->text);
	tn_free_array(pieces->ctx, pieces->items, pieces->capacity, sizeof *pieces->items);
	tn_pieces_init(pieces, pieces->ctx);
}

void tn_pieces_clear(struct tn_pieces *pieces)
{
	pieces->text.length = 0;
	pieces->count = 0;
}

tn_status tn_pieces_add(struct tn_pieces *pieces, struct tn_piece piece, struct tn_error *err)
{
	if (piece.begin == piece.end)
		return TN_OK;
	TN_TRY(tn_grow(pieces->ctx, &pieces->items, &pieces->capacity, pieces->count + 1, sizeof *pieces->items, "pieces", err));
	pieces->items[pieces->count++] = piece;
	return TN_OK;
}

struct tn_piece tn_piece_part(const struct tn_piece *piece, size_t begin, size_t end)
{
	size_t before = begin - piece->begin, leading = piece->leading > before ? piece->leading - before : 0;
	return (struct tn_piece){ begin, end, leading, leading > 0 };
}

void tn_work_init(struct tn_work *work, tn_context *ctx)
{
	*work = (struct tn_work){ .ctx = ctx };
	for (int i = 0; i < 2; i++) {
		tn_text_init(&work->normal[i].text, ctx);
		tn_pieces_init(&work->pieces[i], ctx);
	}
	tn_ranges_init(&work->matches, ctx);
	tn_text_init(&work->word, ctx);
	tn_id_list_init(&work->ids, ctx);
}

void tn_work_release(struct tn_work *work)
{
	tn_context *ctx = work->ctx;
	for (int i = 0; i < 2; i++) {
		tn_text_release(&work->normal[i].text);
		tn_pieces_release(&work->pieces[i]);
	}
	tn_ranges_release(&work->matches);
	tn_free_array(ctx, work->spans, work->span_capacity, sizeof *work->spans);
	tn_free_array(ctx, work->points, work->point_capacity, sizeof *work->points);
	tn_free_array(ctx, work->order, work->order_capacity, sizeof *work->order);
	tn_free_array(ctx, work->symbols, work->symbol_capacity, sizeof *work->symbols);
	tn_free_array(ctx, work->heap, work->heap_capacity, sizeof *work->heap);
	tn_free_array(ctx, work->ends, work->end_capacity, sizeof *work->ends);
	tn_text_release(&work->word);
	tn_id_list_release(&work->ids);
}

tn_status tn_work_add_span(struct tn_work *work, size_t begin, size_t end, int is_match, struct tn_error *err)
{
	TN_TRY(tn_grow(work->ctx, &work->spans, &work->span_capacity, work->span_count + 1, sizeof *work->spans, "matches",
		       err));
	work->spans[work->span_count++] = (struct tn_span){ begin, end, is_match };
	return TN_OK;
}
