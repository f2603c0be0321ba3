/* Memory for the metadata of one object: many small pieces, freed together. Pieces are aligned to 16 and cleared. */
#ifndef TN_ARENA_H
#define TN_ARENA_H

#include "base/context.h"

struct tn_arena_chunk;

struct tn_arena {
	tn_context *ctx;
	struct tn_arena_chunk *chunks;
};

static inline void tn_arena_init(struct tn_arena *arena, tn_context *ctx)
{
	arena->ctx = ctx;
	arena->chunks = NULL;
}

void tn_arena_release(struct tn_arena *arena);

tn_status tn_arena_alloc(struct tn_arena *arena, size_t bytes, void *out, struct tn_error *err);
tn_status tn_arena_array(struct tn_arena *arena, size_t count, size_t size, void *out, struct tn_error *err);
/* The first n bytes of text, and a NUL. */
tn_status tn_arena_text(struct tn_arena *arena, const char *text, size_t n, const char **out, struct tn_error *err);
tn_status tn_arena_printf(struct tn_arena *arena, const char **out, struct tn_error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
