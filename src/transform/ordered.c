/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/ordered.h"

#include "base/checked.h"
#include "base/context.h"
#include "base/error.h"

#include <pthread.h>
#include <string.h>

/* Results that wait for an earlier one, for each worker: blocks take about the same time, so few are enough. */
enum { ROOM_PER_WORKER = 4 };

struct tn_ordered {
	tn_context *ctx;
	tn_ordered_fn fold;
	void *arg;
	size_t stride;                  /* of a result */
	unsigned workers;
	uint64_t room;                  /* results that can wait */
	struct tn_buffer memory;
	unsigned char *places, *waiting, *is_there;
	pthread_mutex_t lock;           /* guards all below and what waits */
	pthread_cond_t moved;
	uint64_t next;                  /* the first task that is not handed on */
	int stopped;
};

tn_status tn_ordered_create(tn_context *ctx, unsigned workers, size_t result_bytes, tn_ordered_fn fold, void *arg,
			    struct tn_ordered **out, struct tn_error *err)
{
	struct tn_ordered *o;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *o, "results", &o, err));
	*o = (struct tn_ordered){ .ctx = ctx, .fold = fold, .arg = arg, .workers = workers };
	o->stride = tn_align_up(result_bytes, 64);
	o->room = (uint64_t)workers * ROOM_PER_WORKER;
	size_t results = (size_t)o->room + workers;
	tn_status status = tn_buffer_alloc(ctx, results * o->stride + (size_t)o->room, "results", &o->memory, err);
	if (status != TN_OK) {
		tn_free(ctx, o, sizeof *o);
		return status;
	}
	o->places = o->memory.data;
	o->waiting = o->places + workers * o->stride;
	o->is_there = o->waiting + o->room * o->stride;
	memset(o->is_there, 0, (size_t)o->room);
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->moved, NULL);
	*out = o;
	return TN_OK;
}

void tn_ordered_free(struct tn_ordered *o)
{
	if (!o)
		return;
	pthread_cond_destroy(&o->moved);
	pthread_mutex_destroy(&o->lock);
	tn_buffer_release(o->ctx, &o->memory);
	tn_free(o->ctx, o, sizeof *o);
}

void *tn_ordered_place(struct tn_ordered *o, unsigned worker)
{
	return memset(o->places + worker * o->stride, 0, o->stride);
}

/* With the lock held. */
static void hand_on(struct tn_ordered *o)
{
	uint64_t first = o->next;
	for (uint64_t at = o->next % o->room; o->is_there[at]; at = o->next % o->room) {
		o->fold(o->arg, o->next, o->waiting + at * o->stride);
		o->is_there[at] = 0;
		o->next++;
	}
	if (o->next != first)
		pthread_cond_broadcast(&o->moved);
}

void tn_ordered_done(struct tn_ordered *o, unsigned worker, uint64_t task)
{
	pthread_mutex_lock(&o->lock);
	while (!o->stopped && task - o->next >= o->room)
		pthread_cond_wait(&o->moved, &o->lock);
	if (!o->stopped) {
		uint64_t at = task % o->room;
		memcpy(o->waiting + at * o->stride, o->places + worker * o->stride, o->stride);
		o->is_there[at] = 1;
		hand_on(o);
	}
	pthread_mutex_unlock(&o->lock);
}

void tn_ordered_stop(struct tn_ordered *o)
{
	pthread_mutex_lock(&o->lock);
	o->stopped = 1;
	pthread_cond_broadcast(&o->moved);
	pthread_mutex_unlock(&o->lock);
}
