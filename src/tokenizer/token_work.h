/* What one call of encode or decode works with: pieces of text, ids, and scratch that grows and is used again. */
#ifndef TN_TOKEN_WORK_H
#define TN_TOKEN_WORK_H

#include "base/regex.h"
#include "base/text.h"

#include <stdint.h>

struct tn_id_list {
	tn_context *ctx;
	uint32_t *items;
	size_t count, capacity;
};
static inline void tn_id_list_init(struct tn_id_list *list, tn_context *ctx)
{
	*list = (struct tn_id_list){ .ctx = ctx };
}
void tn_id_list_release(struct tn_id_list *list);
tn_status tn_id_list_add(struct tn_id_list *list, uint32_t id, struct tn_error *err);

/* A part of a text. `leading` is how many of its first bytes come from the very first character of the text that the user
 * gave: Metaspace's scheme "first" prepends only to the piece that begins there. */
struct tn_piece {
	size_t begin, end;
	size_t leading;
	int at_start;
};

struct tn_pieces {
	tn_context *ctx;
	struct tn_text text;
	struct tn_piece *items;
	size_t count, capacity;
};
void tn_pieces_init(struct tn_pieces *pieces, tn_context *ctx);
void tn_pieces_release(struct tn_pieces *pieces);
void tn_pieces_clear(struct tn_pieces *pieces);
/* A piece of the text that is there. Empty ones are left out. */
tn_status tn_pieces_add(struct tn_pieces *pieces, struct tn_piece piece, struct tn_error *err);
/* The part [begin, end) of `piece`, both counted in the text. */
struct tn_piece tn_piece_part(const struct tn_piece *piece, size_t begin, size_t end);

/* A normalized text and how many of its first bytes come from the first character of the user's text. */
struct tn_leading_text {
	struct tn_text text;
	size_t leading;
};

/* BPE's symbols are a list in an array. */
struct tn_symbol {
	uint32_t id;
	int32_t previous, next;    /* -1: none */
	int gone;
};

struct tn_merge {
	uint32_t rank, id;
	int32_t at;
};

/* The best way to cut a text up to a place, and once the whole is cut, the token that goes on from there. */
struct tn_best_end {
	double score;
	size_t begin, next;
	uint32_t id, next_id;
	int reached;
};

struct tn_span {
	size_t begin, end;
	int is_match;
};

struct tn_work {
	tn_context *ctx;
	struct tn_leading_text normal[2];
	struct tn_pieces pieces[2];
	struct tn_ranges matches;
	struct tn_span *spans;
	size_t span_count, span_capacity;
	int32_t *points;             /* decomposed characters */
	size_t point_capacity;
	uint64_t *order;
	size_t order_capacity;
	struct tn_symbol *symbols;
	size_t symbol_capacity;
	struct tn_merge *heap;
	size_t heap_count, heap_capacity;
	struct tn_best_end *ends;
	size_t end_capacity;
	struct tn_text word;
	struct tn_id_list ids;
};
void tn_work_init(struct tn_work *work, tn_context *ctx);
void tn_work_release(struct tn_work *work);

/* What the steps of a normalizer or decoder may make of so many bytes: each could multiply what the one before has made, and a
 * file of a few lines would take all memory. */
static inline size_t tn_most_growth(size_t bytes)
{
	const size_t free_bytes = (size_t)16 << 20, factor = 64;
	return bytes > (SIZE_MAX - free_bytes) / factor ? SIZE_MAX : free_bytes + factor * bytes;
}

/* One more span behind the last. */
tn_status tn_work_add_span(struct tn_work *work, size_t begin, size_t end, int is_match, struct tn_error *err);

#endif
