/* SPDX-License-Identifier: Apache-2.0 */
#include "live/factor_memory.h"

#include "base/error.h"

#include <stdint.h>
#include <string.h>

/* Pieces consist of units, which begin at the first border of a large page: the page in front of it holds what the allocator
 * wrote, so it is a small one. What of a slab nobody has taken yet is not touched either. */
enum { LARGE_PAGE = 2 << 20, UNIT = 4 << 10, UNITS = (8 << 20) / UNIT, SLAB_BYTES = UNITS * UNIT + LARGE_PAGE };
enum { LARGEST_PIECE = 2 << 20 };

struct tn_slab {
	struct tn_slab *next;
	struct tn_buffer memory;
	unsigned char *begin;
	size_t taken;                  /* units */
	unsigned char is_taken[UNITS];
};

void tn_factor_store_init(struct tn_factor_store *s, tn_context *ctx)
{
	*s = (struct tn_factor_store){ .ctx = ctx };
	pthread_mutex_init(&s->lock, NULL);
}

void tn_factor_store_release(struct tn_factor_store *s)
{
	tn_factor_store_keep(s, 0);
	pthread_mutex_destroy(&s->lock);
}

/* ---- slabs; `lock` is held ------------------------------------------------------------------------------- */

static tn_status add_slab(struct tn_factor_store *s, struct tn_error *err)
{
	struct tn_slab *slab;
	TN_TRY(tn_alloc_array(s->ctx, 1, sizeof *slab, "factors", &slab, err));
	tn_status status = tn_buffer_alloc(s->ctx, SLAB_BYTES, "factors", &slab->memory, err);
	if (status != TN_OK) {
		tn_free_array(s->ctx, slab, 1, sizeof *slab);
		return status;
	}
	tn_buffer_use_large_pages(&slab->memory);
	slab->begin = (unsigned char *)slab->memory.data + (-(uintptr_t)slab->memory.data & (LARGE_PAGE - 1));
	slab->next = s->slabs;
	s->slabs = slab;
	return TN_OK;
}

static void free_unused_slabs(struct tn_factor_store *s)
{
	for (struct tn_slab **at = &s->slabs; *at;) {
		struct tn_slab *slab = *at;
		if (slab->taken) {
			at = &slab->next;
			continue;
		}
		*at = slab->next;
		tn_buffer_release(s->ctx, &slab->memory);
		tn_free_array(s->ctx, slab, 1, sizeof *slab);
	}
}

/* The first of `count` units in a row that are free, or UNITS. */
static size_t find_units(const struct tn_slab *slab, size_t count)
{
	size_t n = 0;
	for (size_t i = 0; i < UNITS; i++) {
		n = slab->is_taken[i] ? 0 : n + 1;
		if (n == count)
			return i + 1 - count;
	}
	return UNITS;
}

/* Where there is room at the lowest address, so that few large pages are touched. */
static int take_units(struct tn_slab *slab, size_t count, struct tn_factor_memory *out)
{
	size_t first = UNITS - slab->taken < count ? UNITS : find_units(slab, count);
	if (first == UNITS)
		return 0;
	memset(slab->is_taken + first, 1, count);
	slab->taken += count;
	*out = (struct tn_factor_memory){ slab->begin + first * UNIT, count * UNIT, slab };
	return 1;
}

static tn_status take_piece(struct tn_factor_store *s, size_t bytes, struct tn_factor_memory *out, struct tn_error *err)
{
	size_t count = bytes ? (bytes + UNIT - 1) / UNIT : 1;
	for (struct tn_slab *slab = s->slabs; slab; slab = slab->next)
		if (take_units(slab, count, out))
			return TN_OK;
	TN_TRY(add_slab(s, err));
	take_units(s->slabs, count, out);
	return TN_OK;
}

/* ---- both ------------------------------------------------------------------------------------------------ */

static void take_spare(struct tn_factor_store *s, size_t bytes, struct tn_buffer *out)
{
	if (s->spare.bytes < bytes || s->spare.bytes / 2 > bytes)
		return;
	*out = s->spare;
	s->spare = (struct tn_buffer){ 0 };
}

tn_status tn_factor_memory_take(struct tn_factor_store *s, uint64_t bytes, int is_alone, struct tn_factor_memory *out,
				struct tn_error *err)
{
	struct tn_buffer buffer = { 0 };
	tn_status status = TN_OK;
	int shares = bytes <= LARGEST_PIECE && !is_alone;
	if (bytes > SIZE_MAX / 2)
		return tn_fail_nomem(err, "factors", SIZE_MAX);
	pthread_mutex_lock(&s->lock);
	if (shares)
		status = take_piece(s, (size_t)bytes, out, err);
	else
		take_spare(s, (size_t)bytes, &buffer);
	pthread_mutex_unlock(&s->lock);
	if (shares)
		return status;
	if (!buffer.data) {
		TN_TRY(tn_buffer_alloc(s->ctx, (size_t)bytes, "factors", &buffer, err));
		tn_buffer_use_large_pages(&buffer);
	}
	*out = (struct tn_factor_memory){ buffer.data, buffer.bytes, NULL };
	return TN_OK;
}

static void give_piece(struct tn_factor_store *s, const struct tn_factor_memory *m)
{
	size_t first = (size_t)((unsigned char *)m->data - m->slab->begin) / UNIT;
	memset(m->slab->is_taken + first, 0, m->bytes / UNIT);
	m->slab->taken -= m->bytes / UNIT;
	if (!s->keeps)
		free_unused_slabs(s);
}

void tn_factor_memory_give(struct tn_factor_store *s, struct tn_factor_memory *m)
{
	struct tn_buffer buffer = { 0 };
	if (!m->data)
		return;
	pthread_mutex_lock(&s->lock);
	if (m->slab)
		give_piece(s, m);
	else
		buffer = (struct tn_buffer){ m->data, m->bytes };
	if (s->keeps && buffer.bytes > s->spare.bytes) {
		struct tn_buffer kept = buffer;
		buffer = s->spare;
		s->spare = kept;
	}
	pthread_mutex_unlock(&s->lock);
	tn_buffer_release(s->ctx, &buffer);
	*m = (struct tn_factor_memory){ 0 };
}

void tn_factor_store_keep(struct tn_factor_store *s, int keep)
{
	struct tn_buffer spare = { 0 };
	pthread_mutex_lock(&s->lock);
	s->keeps = keep;
	if (!keep) {
		spare = s->spare;
		s->spare = (struct tn_buffer){ 0 };
		free_unused_slabs(s);
	}
	pthread_mutex_unlock(&s->lock);
	tn_buffer_release(s->ctx, &spare);
}
