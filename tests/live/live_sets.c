/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of adapters: sums with weights, rows that choose, what is refused, what is freed, what allocates. */
#include "livelib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>

enum { M = 20 };

/* The base, two plain adapters and a DoRA, none attached. */
struct bench {
	struct live_base b;
	tn_adapter *plain[2], *dora;
	size_t q;
	float *x;
};

static struct bench make_bench(struct tt *t)
{
	struct bench s;
	live_write_base(tt_path(t, "base"));
	live_write_adapter(tt_path(t, "a0"), 0, 21);
	live_write_adapter(tt_path(t, "a1"), 0, 22);
	live_write_adapter(tt_path(t, "d"), 1, 23);
	live_open(t, tt_path(t, "base"), &s.b);
	s.plain[0] = live_adapter(t, tt_path(t, "a0"));
	s.plain[1] = live_adapter(t, tt_path(t, "a1"));
	s.dora = live_adapter(t, tt_path(t, "d"));
	s.q = tn_live_module(s.b.live, LIVE_Q);
	s.x = live_x(M, LIVE_IN, 77);
	return s;
}

static void free_bench(struct bench *s)
{
	live_close(&s->b);
	tn_adapter_close(s->plain[0]);
	tn_adapter_close(s->plain[1]);
	tn_adapter_close(s->dora);
	free(s->x);
}

/* Row `row` of x through the module as those adapters leave it. */
static double row_error(struct tt *t, const struct bench *s, const float *y, size_t row, const struct tn_weighted_adapter *set,
			size_t count)
{
	struct tn_weighted_adapter none = { s->plain[0], 0 };
	double *w = live_truth(t, &s->b, s->q, count ? set : &none, count ? count : 1);
	double error = live_error(y + row * LIVE_OUT, s->x + row * LIVE_IN, w, NULL, 1, LIVE_OUT, LIVE_IN);
	free(w);
	return error;
}

static void test_weights_add_up(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	struct tn_weighted_adapter set[2] = { { s.plain[0], 0.5 }, { s.plain[1], -2 } };
	tt_ok(t, tn_live_attach(s.b.live, "first", s.plain[0], 0.5, &t->err));
	tt_ok(t, tn_live_attach(s.b.live, "second", s.plain[1], -2, &t->err));
	tn_snapshot *both = tn_live_snapshot(s.b.live);
	tt_ok(t, tn_live_enable(s.b.live, "second", 0, &t->err));
	tn_snapshot *one = tn_live_snapshot(s.b.live);
	float *y = live_forward(both, s.b.live, s.q, 0, M, s.x, NULL), *z = live_forward(one, s.b.live, s.q, 0, M, s.x, NULL);
	for (size_t row = 0; row < M; row += 7) {
		assert_true(row_error(t, &s, y, row, set, 2) < 1e-6);
		assert_true(row_error(t, &s, z, row, set, 1) < 1e-6);
		assert_true(row_error(t, &s, z, row, set, 2) > 1e-2);
	}
	free(y);
	free(z);
	tn_snapshot_release(both);
	tn_snapshot_release(one);
	free_bench(&s);
}

/* Rows in any order with sets of their own, in one call: each as if it were alone. */
static void test_rows_choose(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	struct tn_weighted_adapter set[3] = { { s.plain[0], 1 }, { s.dora, 1 }, { s.plain[1], 3 } };
	tt_ok(t, tn_live_attach(s.b.live, "first", s.plain[0], 1, &t->err));
	tt_ok(t, tn_live_attach_disabled(s.b.live, "dora", s.dora, 1, &t->err));
	tt_ok(t, tn_live_attach_disabled(s.b.live, "third", s.plain[1], 3, &t->err));
	tn_snapshot *snapshot = tn_live_snapshot(s.b.live);
	assert_int_equal(tn_snapshot_adapter(snapshot, "nobody"), TN_LIVE_NONE);
	size_t pattern[] = { tn_snapshot_adapter(snapshot, "third"), TN_LIVE_BASE, tn_snapshot_adapter(snapshot, "dora"),
			     TN_LIVE_DEFAULT, tn_snapshot_adapter(snapshot, "dora"), tn_snapshot_adapter(snapshot, "first"),
			     TN_LIVE_BASE };
	static const int member[] = { 2, -1, 1, 0, 1, 0, -1 };
	for (int sorted = 0; sorted < 2; sorted++) {
		size_t choice[M], kind[M];
		for (size_t i = 0; i < M; i++) {
			kind[i] = sorted ? i * 7 / M : (i * 5) % 7;
			choice[i] = pattern[kind[i]];
		}
		float *y = live_forward(snapshot, s.b.live, s.q, 0, M, s.x, choice);
		for (size_t i = 0; i < M; i++) {
			int at = member[kind[i]];
			double error = row_error(t, &s, y, i, at < 0 ? NULL : &set[at], at >= 0);
			if (!(error < 1e-6))
				fail_msg("row %zu with set %d is off by %g", i, at, error);
		}
		free(y);
	}
	tn_snapshot_release(snapshot);
	free_bench(&s);
}

static void test_refusals(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	tt_ok(t, tn_live_attach(s.b.live, "plain", s.plain[0], 1, &t->err));
	tn_snapshot *before = tn_live_snapshot(s.b.live), *after;
	tt_expect(t, tn_live_attach(s.b.live, "plain again", s.plain[0], 1, &t->err), TN_E_ARG);
	tt_expect_msg(t, "is there twice; add the weights up");
	tt_expect(t, tn_live_attach(s.b.live, "dora", s.dora, 1, &t->err), TN_E_UNSUPPORTED);
	tt_expect_msg(t, "is a DoRA, whose magnitudes hold for the base");
	tt_expect(t, tn_live_attach(s.b.live, "plain", s.plain[1], 1, &t->err), TN_E_EXISTS);
	tt_expect(t, tn_live_detach(s.b.live, "nobody", &t->err), TN_E_NOTFOUND);
	tt_expect(t, tn_live_enable(s.b.live, "nobody", 1, &t->err), TN_E_NOTFOUND);
	tt_expect(t, tn_live_swap(s.b.live, "nobody", "x", s.dora, 1, &t->err), TN_E_NOTFOUND);
	after = tn_live_snapshot(s.b.live);
	assert_ptr_equal(before, after);
	tn_snapshot_release(after);
	tt_ok(t, tn_live_attach_disabled(s.b.live, "dora", s.dora, 1, &t->err));
	tt_expect(t, tn_live_enable(s.b.live, "dora", 1, &t->err), TN_E_UNSUPPORTED);
	tt_expect(t, tn_live_swap(s.b.live, "dora", "plain", s.plain[1], 1, &t->err), TN_E_EXISTS);
	tt_ok(t, tn_live_enable(s.b.live, "plain", 0, &t->err));
	tt_ok(t, tn_live_enable(s.b.live, "dora", 1, &t->err));
	tt_expect(t, tn_live_attach(s.b.live, "dora again", s.dora, 1, &t->err), TN_E_UNSUPPORTED);
	tt_expect_msg(t, "is a DoRA, whose magnitudes hold for the base");
	tt_expect(t, tn_live_transpose(s.b.live, tn_live_module_count(s.b.live), &t->err), TN_E_ARG);
	tt_expect(t, tn_live_transpose(s.b.live, TN_LIVE_NONE, &t->err), TN_E_ARG);
	tt_expect_msg(t, "no such module");
	tn_snapshot_release(before);
	free_bench(&s);
}

static uint64_t identity(const struct bench *s, const char *name)
{
	tn_snapshot *snapshot = tn_live_snapshot(s->b.live);
	size_t at = name ? tn_snapshot_adapter(snapshot, name) : TN_LIVE_DEFAULT;
	uint64_t id = tn_snapshot_identity(snapshot, at);
	tn_snapshot_release(snapshot);
	return id;
}

static void test_identities(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	uint64_t bare = identity(&s, NULL);
	tt_ok(t, tn_live_attach_disabled(s.b.live, "a", s.plain[0], 1, &t->err));
	assert_true(identity(&s, NULL) == bare);
	tt_ok(t, tn_live_enable(s.b.live, "a", 1, &t->err));
	uint64_t one = identity(&s, NULL);
	assert_true(one != bare && one == identity(&s, "a"));
	tt_ok(t, tn_live_attach(s.b.live, "b", s.plain[1], 1, &t->err));
	assert_true(identity(&s, NULL) != one && identity(&s, "a") == one);
	tt_ok(t, tn_live_detach(s.b.live, "b", &t->err));
	assert_true(identity(&s, NULL) == one);
	tt_ok(t, tn_live_swap(s.b.live, "a", "a", s.dora, 1, &t->err));
	assert_true(identity(&s, NULL) != one && identity(&s, NULL) != bare);
	tt_ok(t, tn_live_detach(s.b.live, "a", &t->err));
	assert_true(identity(&s, NULL) == bare);
	free_bench(&s);
}

/* Adapters are numbered, and so are modules: a set of two is not the first of them merged into the module of that number. */
static void test_identities_of_merged_sets(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	enum { MOST = 64 };
	uint64_t sets[MOST];
	size_t modules = tn_live_module_count(s.b.live), merged = 0;
	tt_ok(t, tn_live_attach(s.b.live, "a", s.plain[0], 1, &t->err));
	for (size_t i = 0; i < MOST; i++) {
		tt_ok(t, tn_live_attach(s.b.live, "b", s.plain[1], 1, &t->err));
		sets[i] = identity(&s, NULL);
		tt_ok(t, tn_live_detach(s.b.live, "b", &t->err));
	}
	for (size_t m = 0; m < modules; m++) {
		if (tn_live_merge(s.b.live, m, &t->err) != TN_OK)
			continue;
		for (size_t i = 0; i < MOST; i++)
			assert_true(identity(&s, NULL) != sets[i]);
		merged++;
		tt_ok(t, tn_live_unmerge(s.b.live, m, &t->err));
	}
	assert_true(merged > 0);
	free_bench(&s);
}

/* Another context on the same heap without workers, which would give memory back in their own time. Returns the former one. */
static tn_context *single_thread(struct tt *t)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *former = t->ctx;
	options.allocator = tt_heap_allocator(&t->heap);
	options.threads = 1;
	tt_ok(t, tn_context_create(&options, &t->ctx, &t->err));
	return former;
}

/* A snapshot outlives what is detached; the memory goes with it. */
static void test_snapshots_keep(void **state)
{
	struct tt *t = *state;
	tn_context *shared = single_thread(t);
	struct bench s = make_bench(t);
	struct tn_weighted_adapter one = { s.dora, 1 };
	struct tn_attachment info;
	tt_ok(t, tn_live_attach(s.b.live, "d", s.dora, 1, &t->err)); /* the first: what it lands on stays with the base */
	tt_ok(t, tn_live_detach(s.b.live, "d", &t->err));
	size_t empty = t->heap.live_bytes;
	tt_ok(t, tn_live_attach(s.b.live, "d", s.dora, 1, &t->err));
	tn_snapshot *held = tn_live_snapshot(s.b.live);
	tt_ok(t, tn_live_swap(s.b.live, "d", "a", s.plain[0], 1, &t->err));
	tn_snapshot *now = tn_live_snapshot(s.b.live);
	assert_int_equal(tn_snapshot_count(now), 1);
	tn_snapshot_at(now, 0, &info);
	assert_string_equal(info.name, "a");
	assert_true(info.enabled && info.weight == 1);
	tn_snapshot_release(now);
	float *y = live_forward(held, s.b.live, s.q, 0, M, s.x, NULL);
	assert_true(row_error(t, &s, y, 3, &one, 1) < 1e-6);
	free(y);
	tt_ok(t, tn_live_detach(s.b.live, "a", &t->err));
	assert_true(t->heap.live_bytes > empty + LIVE_RANK * LIVE_IN);
	size_t calls = t->heap.calls, before = t->heap.live_bytes;
	tn_snapshot_release(held);
	assert_true(t->heap.calls == calls && t->heap.live_bytes == before); /* a thread that computes frees nothing */
	tn_live_collect(s.b.live);
	assert_int_equal(t->heap.live_bytes, empty);
	free_bench(&s);
	tn_context_destroy(t->ctx);
	t->ctx = shared;
}

/* Nothing is allocated between taking a snapshot and releasing it. */
static void test_no_allocation(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	static float y[M * LIVE_OUT];
	uint32_t ids[M] = { 0 };
	tt_ok(t, tn_live_attach(s.b.live, "a", s.plain[0], 1, &t->err));
	tt_ok(t, tn_live_attach_disabled(s.b.live, "d", s.dora, 1, &t->err));
	tn_snapshot *warm = tn_live_snapshot(s.b.live);
	free(live_forward(warm, s.b.live, s.q, 0, M, s.x, NULL)); /* the workers start */
	tn_snapshot_release(warm);
	size_t calls = t->heap.calls, choice[M];
	for (size_t i = 0; i < M; i++)
		choice[i] = i % 3 == 0 ? TN_LIVE_BASE : i % 3 - 1;
	for (int round = 0; round < 3; round++) {
		tn_snapshot *now = tn_live_snapshot(s.b.live);
		void *scratch = malloc(tn_snapshot_scratch_bytes(now, s.q, M)); /* not the context's */
		struct tn_live_call call = { .module = s.q, .m = M, .x = s.x, .x_stride = LIVE_IN, .y = y, .y_stride = LIVE_OUT,
					     .adapter_of_row = round ? choice : NULL };
		tn_snapshot_forward(now, &call, scratch);
		tn_snapshot_embed(now, s.q, ids, 2, NULL, y, LIVE_IN);
		free(scratch);
		tn_snapshot_release(now);
	}
	assert_int_equal(t->heap.calls, calls);
	free_bench(&s);
}

/* From buffers as from a folder. */
static void test_from_memory(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	size_t config_bytes, weight_bytes;
	unsigned char *config = tt_read_file(tt_path(t, "d/adapter_config.json"), &config_bytes);
	unsigned char *weights = tt_read_file(tt_path(t, "d/adapter_model.safetensors"), &weight_bytes);
	tn_adapter *adapter;
	tt_ok(t, tn_adapter_open_memory(t->ctx, (const char *)config, config_bytes, weights, weight_bytes, "d", &adapter, &t->err));
	tt_ok(t, tn_live_attach(s.b.live, "it", adapter, 1, &t->err));
	tn_snapshot *now = tn_live_snapshot(s.b.live);
	float *y = live_forward(now, s.b.live, s.q, 0, M, s.x, NULL);
	tn_snapshot_release(now);
	tt_ok(t, tn_live_swap(s.b.live, "it", "it", s.dora, 1, &t->err));
	tn_adapter_close(adapter);
	free(config);
	free(weights);
	now = tn_live_snapshot(s.b.live);
	float *z = live_forward(now, s.b.live, s.q, 0, M, s.x, NULL);
	assert_memory_equal(y, z, M * LIVE_OUT * sizeof *y);
	tn_snapshot_release(now);
	free(y);
	free(z);
	free_bench(&s);
}

static void test_same_bits(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	float *first = NULL;
	free_bench(&s);
	for (unsigned threads = 1; threads <= 7; threads += 2) {
		struct tn_options options = TN_OPTIONS_INIT;
		tn_context *ctx, *own = t->ctx;
		options.threads = threads;
		tt_ok(t, tn_context_create(&options, &ctx, &t->err));
		t->ctx = ctx;
		s = make_bench(t);
		tt_ok(t, tn_live_attach(s.b.live, "d", s.dora, 1, &t->err));
		tn_snapshot *now = tn_live_snapshot(s.b.live);
		float *y = live_forward(now, s.b.live, s.q, 0, M, s.x, NULL);
		if (first)
			assert_memory_equal(first, y, M * LIVE_OUT * sizeof *y);
		tn_snapshot_release(now);
		free_bench(&s);
		free(first);
		first = y;
		t->ctx = own;
		tn_context_destroy(ctx);
	}
	free(first);
}

/* Sixty-four adapters on one base: memory grows by the slabs of 10 MB that hold their factors, in pages of 4 KB, and by next to
 * nothing for each. */
static void test_many_adapters(void **state)
{
	struct tt *t = *state;
	tn_context *shared = single_thread(t);
	struct bench s = make_bench(t);
	size_t factors = 2 * LIVE_RANK * (LIVE_IN + LIVE_OUT) * sizeof(float), before = t->heap.live_bytes;
	for (int i = 0; i < 64; i++) {
		char name[16];
		snprintf(name, sizeof name, "%d", i);
		tt_ok(t, tn_live_attach_disabled(s.b.live, name, s.plain[i % 2], 1, &t->err));
	}
	size_t grown = t->heap.live_bytes - before, pages = 64 * ((factors + 4095) / 4096), slabs = (pages + 2047) / 2048;
	if (grown > slabs * (10 << 20) + 64 * factors * 5 / 100)
		fail_msg("64 adapters of %zu bytes take %zu", factors, grown);
	struct tn_attachment info;
	tn_snapshot *now = tn_live_snapshot(s.b.live);
	tn_snapshot_at(now, 63, &info);
	assert_true(info.bytes >= factors && info.bytes <= factors * 105 / 100);
	assert_true(tn_snapshot_bytes(now) < 10000);
	tn_snapshot_release(now);
	free_bench(&s);
	tn_context_destroy(t->ctx);
	t->ctx = shared;
}

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Reading sleeps, and what was read is the same. */
static void test_pauses(void **state)
{
	struct tt *t = *state;
	struct bench s = make_bench(t);
	struct tn_live_options options = TN_LIVE_OPTIONS_INIT;
	tn_live *paused;
	options.pause_us = 50000;
	tt_ok(t, tn_live_open(s.b.checkpoint, &options, &paused, &t->err));
	double begun = seconds();
	tt_ok(t, tn_live_attach(paused, "a", s.plain[0], 1, &t->err));
	assert_true(seconds() - begun >= 0.05);
	tt_ok(t, tn_live_attach(s.b.live, "a", s.plain[0], 1, &t->err));
	tn_snapshot *a = tn_live_snapshot(paused), *b = tn_live_snapshot(s.b.live);
	float *y = live_forward(a, paused, s.q, 0, M, s.x, NULL), *expected = live_forward(b, s.b.live, s.q, 0, M, s.x, NULL);
	assert_memory_equal(y, expected, M * LIVE_OUT * sizeof *y);
	free(y);
	free(expected);
	tn_snapshot_release(a);
	tn_snapshot_release(b);
	tn_live_close(paused);
	free_bench(&s);
}

/* A head that config.json ties is the embedding, whatever the file holds; text_config says so before the rest. */
static void test_ties(void **state)
{
	static const struct {
		const char *config;
		int tied;
	} cases[] = {
		{ "{\"tie_word_embeddings\": false}", 0 },
		{ "{\"tie_word_embeddings\": true}", 1 },
		{ "{\"text_config\": {\"tie_word_embeddings\": true}}", 1 },
		{ "{\"text_config\": {\"tie_word_embeddings\": false}, \"tie_word_embeddings\": true}", 0 },
	};
	struct tt *t = *state;
	float *values = live_x(2, 64 * 64, 5), *x = live_x(1, 64, 6);
	mkdir(tt_path(t, "tie"), 0777);
	tt_write_st(tt_path(t, "tie/model.safetensors"),
		    "{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[64,64],\"data_offsets\":[0,16384]},"
		    "\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[64,64],\"data_offsets\":[16384,32768]}}",
		    values, 32768);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct live_base b;
		tt_write_text(tt_path(t, "tie/config.json"), cases[i].config);
		live_open(t, tt_path(t, "tie"), &b);
		tn_snapshot *now = tn_live_snapshot(b.live);
		float *head = live_forward(now, b.live, tn_live_module(b.live, "lm_head"), 0, 1, x, NULL);
		float *embedding = live_forward(now, b.live, tn_live_module(b.live, "model.embed_tokens"), 0, 1, x, NULL);
		assert_int_equal(memcmp(head, embedding, 64 * sizeof *head) == 0, cases[i].tied);
		free(head);
		free(embedding);
		tn_snapshot_release(now);
		live_close(&b);
	}
	free(values);
	free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(test_weights_add_up), TT_TEST(test_rows_choose),   TT_TEST(test_refusals),
		TT_TEST(test_identities),     TT_TEST(test_identities_of_merged_sets),
		TT_TEST(test_snapshots_keep), TT_TEST(test_no_allocation),
		TT_TEST(test_same_bits),      TT_TEST(test_many_adapters), TT_TEST(test_from_memory),
		TT_TEST(test_ties),           TT_TEST(test_pauses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
