/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters come and go while threads compute: every product is that of the snapshot it was computed with. Run under
 * ThreadSanitizer by scripts/check.sh tsan. */
#include "livelib.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 2, TAKERS = 2, CHANGES = 200, M = 5, ADAPTERS = 3 };

struct shared {
	struct live_base b;
	size_t q;
	float *x;
	float *expected[ADAPTERS + 1]; /* of each adapter alone, and of the base */
	_Atomic int stop, wrong;
	_Atomic size_t products;
};

/* The set of a snapshot: the one adapter that is in it, or the base. */
static int set_of(const tn_snapshot *snapshot)
{
	struct tn_attachment info;
	for (size_t i = 0; i < tn_snapshot_count(snapshot); i++) {
		tn_snapshot_at(snapshot, i, &info);
		if (info.enabled)
			return info.name[0] - '0';
	}
	return ADAPTERS;
}

static void *compute(void *arg)
{
	struct shared *s = arg;
	static const size_t bytes = M * LIVE_OUT * sizeof(float);
	while (!atomic_load(&s->stop)) {
		tn_snapshot *now = tn_live_snapshot(s->b.live);
		float *y = live_forward(now, s->b.live, s->q, 0, M, s->x, NULL);
		if (memcmp(y, s->expected[set_of(now)], bytes) != 0)
			atomic_store(&s->wrong, 1);
		free(y);
		tn_snapshot_release(now);
		atomic_fetch_add(&s->products, 1);
	}
	return NULL;
}

/* Takes and releases as fast as can be, so that changes meet every moment of that. */
static void *take(void *arg)
{
	struct shared *s = arg;
	while (!atomic_load(&s->stop)) {
		tn_snapshot *now = tn_live_snapshot(s->b.live);
		if (tn_snapshot_count(now) > ADAPTERS)
			atomic_store(&s->wrong, 1);
		tn_snapshot_release(now);
	}
	return NULL;
}

static void change(struct tt *t, struct shared *s, tn_adapter *const *adapters, int i)
{
	char name[2] = { (char)('0' + i % ADAPTERS), 0 }, next[2] = { (char)('0' + (i + 1) % ADAPTERS), 0 };
	if (i % 7 == 3) {
		tt_ok(t, tn_live_enable(s->b.live, name, 0, &t->err));
		tt_ok(t, tn_live_enable(s->b.live, name, 1, &t->err));
	}
	if (i % 5 == 4) {
		tt_ok(t, tn_live_detach(s->b.live, name, &t->err));
		tt_ok(t, tn_live_attach(s->b.live, next, adapters[(i + 1) % ADAPTERS], 1, &t->err));
	} else {
		tt_ok(t, tn_live_swap(s->b.live, name, next, adapters[(i + 1) % ADAPTERS], 1, &t->err));
	}
}

static void test_changes_while_computing(void **state)
{
	struct tt *t = *state;
	struct shared s = { .wrong = 0 };
	tn_adapter *adapters[ADAPTERS];
	pthread_t threads[WORKERS + TAKERS];
	live_write_base(tt_path(t, "base"));
	live_open(t, tt_path(t, "base"), &s.b);
	s.q = tn_live_module(s.b.live, LIVE_Q);
	s.x = live_x(M, LIVE_IN, 9);
	for (int i = 0; i <= ADAPTERS; i++) {
		char name[2] = { (char)('0' + i), 0 };
		if (i < ADAPTERS) {
			live_write_adapter(tt_path(t, "a%d", i), i == 1, (uint64_t)i);
			adapters[i] = live_adapter(t, tt_path(t, "a%d", i));
			tt_ok(t, tn_live_attach(s.b.live, name, adapters[i], 1, &t->err));
		}
		tn_snapshot *now = tn_live_snapshot(s.b.live);
		s.expected[i] = live_forward(now, s.b.live, s.q, 0, M, s.x, NULL);
		tn_snapshot_release(now);
		if (i < ADAPTERS)
			tt_ok(t, tn_live_detach(s.b.live, name, &t->err));
	}
	tt_ok(t, tn_live_attach(s.b.live, "0", adapters[0], 1, &t->err));
	for (int i = 0; i < WORKERS + TAKERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, i < WORKERS ? compute : take, &s), 0);
	for (int i = 0; i < CHANGES || atomic_load(&s.products) < 3 * WORKERS; i++)
		change(t, &s, adapters, i);
	atomic_store(&s.stop, 1);
	for (int i = 0; i < WORKERS + TAKERS; i++)
		pthread_join(threads[i], NULL);
	assert_false(atomic_load(&s.wrong));
	live_close(&s.b);
	for (int i = 0; i <= ADAPTERS; i++)
		free(s.expected[i]);
	for (int i = 0; i < ADAPTERS; i++)
		tn_adapter_close(adapters[i]);
	free(s.x);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(test_changes_while_computing) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
