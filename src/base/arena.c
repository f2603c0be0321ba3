/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/numeral.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 16, FIRST_CHUNK = 1024, LARGEST_CHUNK = 1 << 20 };

struct tn_arena_chunk {
	_Alignas(ALIGN) struct tn_arena_chunk *next;
	size_t capacity, used; /* bytes behind this header */
};

/* Under AddressSanitizer every piece gets a chunk of its own, so that a step past one is seen. */
#if defined(__SANITIZE_ADDRESS__)
#define ONE_PIECE_A_CHUNK 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ONE_PIECE_A_CHUNK 1
#endif
#endif
#ifndef ONE_PIECE_A_CHUNK
#define ONE_PIECE_A_CHUNK 0
#endif

static tn_status add_chunk(struct tn_arena *arena, size_t needed, struct tn_error *err)
{
	size_t capacity = FIRST_CHUNK;
	if (ONE_PIECE_A_CHUNK)
		capacity = needed;
	else if (arena->chunks)
		capacity = arena->chunks->capacity * 2 < LARGEST_CHUNK ? arena->chunks->capacity * 2 : LARGEST_CHUNK;
	if (capacity < needed)
		capacity = needed;
	size_t total;
	if (tn_add_size(capacity, sizeof(struct tn_arena_chunk), &total))
		return tn_fail_nomem(err, "metadata", needed);
	struct tn_arena_chunk *chunk;
	TN_TRY(tn_alloc(arena->ctx, total, "metadata", &chunk, err));
	chunk->next = arena->chunks;
	chunk->capacity = capacity;
	chunk->used = 0;
	arena->chunks = chunk;
	return TN_OK;
}

tn_status tn_arena_alloc(struct tn_arena *arena, size_t bytes, void *out, struct tn_error *err)
{
	size_t rounded = ONE_PIECE_A_CHUNK ? bytes : tn_align_up(bytes, ALIGN);
	if (rounded < bytes)
		return tn_fail_nomem(err, "metadata", bytes);
	struct tn_arena_chunk *chunk = arena->chunks;
	if (!chunk || chunk->capacity - chunk->used < rounded || ONE_PIECE_A_CHUNK) {
		TN_TRY(add_chunk(arena, rounded, err));
		chunk = arena->chunks;
	}
	char *p = (char *)(chunk + 1) + chunk->used;
	chunk->used += rounded;
	memset(p, 0, bytes);
	memcpy(out, &p, sizeof p);
	return TN_OK;
}

tn_status tn_arena_array(struct tn_arena *arena, size_t count, size_t size, void *out, struct tn_error *err)
{
	size_t bytes;
	if (tn_mul_size(count, size, &bytes))
		return tn_fail_nomem(err, "metadata", count);
	return tn_arena_alloc(arena, bytes, out, err);
}

tn_status tn_arena_text(struct tn_arena *arena, const char *text, size_t n, const char **out, struct tn_error *err)
{
	char *p = NULL;
	size_t bytes;
	if (tn_add_size(n, 1, &bytes))
		return tn_fail_nomem(err, "metadata", n);
	TN_TRY(tn_arena_alloc(arena, bytes, &p, err));
	memcpy(p, text, n);
	*out = p;
	return TN_OK;
}

tn_status tn_arena_printf(struct tn_arena *arena, const char **out, struct tn_error *err, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int n = tn_vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0)
		return tn_fail(err, TN_E_ARG, fmt, "text could not be formatted");
	char *p = NULL;
	TN_TRY(tn_arena_alloc(arena, (size_t)n + 1, &p, err));
	va_start(args, fmt);
	tn_vsnprintf(p, (size_t)n + 1, fmt, args);
	va_end(args);
	*out = p;
	return TN_OK;
}

void tn_arena_release(struct tn_arena *arena)
{
	struct tn_arena_chunk *chunk = arena->chunks;
	while (chunk) {
		struct tn_arena_chunk *next = chunk->next;
		tn_free(arena->ctx, chunk, chunk->capacity + sizeof *chunk);
		chunk = next;
	}
	arena->chunks = NULL;
}
