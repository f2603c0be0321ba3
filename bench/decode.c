/* SPDX-License-Identifier: Apache-2.0 */
/* decode [--threads N] [--isa NAME] [--activations f32|16|int8] [--adapter FOLDER] [--rounds N] [--tokens N] [--cached N]
 * [--prompt N]... MODEL: tokens a second of a decoder through the public API: of a reply behind so many cached tokens (16), in
 * turns with a read of as many bytes as the weights and the cache of one token are, and of prompts of N tokens. A round counts when
 * the reads before and behind it agree within a tenth.
 *
 * decode ... --serve 1 MODEL: answers lines of input, "0" with the tokens a second of a reply and "128" with those of a prompt of
 * 128 tokens, so that a peer can take turns. A reply that finds the cache of the one before computes no prompt. */
#include "base/pool.h"
#include "rounds.h"
#include "tenon/checkpoint.h"
#include "tenon/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PIECES = 256, CHECKED = 8, MOST_TOKENS = 1 << 17 };
static const uint64_t cache_bytes = (uint64_t)1 << 34;

static struct {
	unsigned threads;
	const char *isa, *adapter, *folder, *activations;
	size_t rounds, tokens, cached;
	size_t prompts[8], prompt_count;
	int serve;
} args = { .threads = 1, .activations = "f32", .rounds = 9, .tokens = 16, .cached = 16 };

/* A model that can compute. */
struct engine {
	tn_context *ctx;
	tn_checkpoint *base;
	tn_adapter *adapter;
	tn_live *live;
	tn_decoder *decoder;
	tn_sequence *text;
	tn_sampler *sampler;
	struct tn_decoder_info info;
	float *logits;
};

static void check(tn_status status, const struct tn_error *err)
{
	if (status == TN_OK)
		return;
	fprintf(stderr, "decode: %s: %s\n", err->where, err->msg);
	exit(1);
}

/* Of one thread its own time: what others do with the CPU in between is not counted. Beside peers, whose time is that of the wall,
 * it is. */
static double now(void)
{
	return clock_seconds(args.threads > 1 || args.serve ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID);
}

/* ---- the model ------------------------------------------------------------------------------------------- */

static size_t longest_text(void)
{
	size_t longest = args.cached + args.tokens;
	for (size_t i = 0; i < args.prompt_count; i++)
		longest = args.prompts[i] > longest ? args.prompts[i] : longest;
	return longest;
}

static void open_engine(struct engine *e, const char *isa, tn_activations activations)
{
	struct tn_options options = TN_OPTIONS_INIT;
	struct tn_live_options live = TN_LIVE_OPTIONS_INIT;
	struct tn_decoder_options decoder = TN_DECODER_OPTIONS_INIT;
	struct tn_sampling greedy = { 0 };
	struct tn_error err;
	options.threads = args.threads;
	options.isa = isa;
	live.activations = activations;
	decoder.cache_bytes = cache_bytes;
	check(tn_context_create(&options, &e->ctx, &err), &err);
	check(tn_checkpoint_open(e->ctx, args.folder, &e->base, &err), &err);
	check(tn_live_open(e->base, &live, &e->live, &err), &err);
	check(tn_decoder_create(e->live, e->base, &decoder, &e->decoder, &err), &err);
	if (args.adapter) {
		check(tn_adapter_open(e->ctx, args.adapter, &e->adapter, &err), &err);
		check(tn_live_attach(e->live, "adapter", e->adapter, 1, &err), &err);
	}
	check(tn_sequence_create(e->decoder, longest_text(), &e->text, &err), &err);
	tn_decoder_describe(e->decoder, &e->info);
	check(tn_sampler_create(e->ctx, &greedy, e->info.vocabulary, &e->sampler, &err), &err);
	e->logits = calloc(CHECKED * e->info.vocabulary, sizeof *e->logits);
	if (!e->logits)
		exit(1);
}

static void close_engine(struct engine *e)
{
	tn_sampler_destroy(e->sampler);
	tn_decoder_destroy(e->decoder);
	tn_live_close(e->live);
	tn_adapter_close(e->adapter);
	tn_checkpoint_close(e->base);
	tn_context_destroy(e->ctx);
	free(e->logits);
}

static void step(struct engine *e, const uint32_t *ids, size_t count, float *logits, int all)
{
	struct tn_error err;
	struct tn_step s = { .sequence = e->text, .ids = ids, .count = count, .logits = logits, .all_logits = all };
	check(tn_decoder_step(e->decoder, &s, 1, &err), &err);
}

static const uint32_t *make_ids(const struct engine *e)
{
	static uint32_t ids[MOST_TOKENS];
	for (size_t i = 0; i < MOST_TOKENS; i++)
		ids[i] = (uint32_t)((i * 7919 + 1) % e->info.vocabulary);
	return ids;
}

/* All that a reply stands behind, but for one token, is computed if it is not cached. */
static void fill_cache(struct engine *e, const uint32_t *ids)
{
	size_t length;
	tn_sequence_ids(e->text, &length);
	if (length + 1 < args.cached)
		step(e, ids + length, args.cached - 1 - length, e->logits, 0);
	tn_sequence_rewind(e->text, args.cached - 1);
}

/* Seconds for a token of a reply: chosen as tenon run does with temperature 0. */
static double reply(struct engine *e)
{
	const uint32_t *ids = make_ids(e);
	size_t length;
	fill_cache(e, ids);
	step(e, ids + args.cached - 1, 1, e->logits, 0);
	double begun = now();
	for (size_t i = 0; i < args.tokens; i++) {
		const uint32_t *had = tn_sequence_ids(e->text, &length);
		uint32_t id = tn_sampler_next(e->sampler, e->logits, had, length);
		step(e, &id, 1, e->logits, 0);
	}
	return (now() - begun) / (double)args.tokens;
}

/* Seconds for a token of a prompt. */
static double prompt(struct engine *e, size_t count)
{
	const uint32_t *ids = make_ids(e);
	count = count > MOST_TOKENS ? MOST_TOKENS : count;
	tn_sequence_rewind(e->text, 0);
	double begun = now();
	step(e, ids, count, e->logits, 0);
	return (now() - begun) / (double)count;
}

/* ---- the limit ------------------------------------------------------------------------------------------- */

/* Bytes on large pages, and what came out of reading them. */
struct memory {
	unsigned char *data;
	size_t bytes;
	_Atomic uint64_t sink;
};

/* Of weights: everything but the table of tokens, of which a token needs one row, and the factors. */
static size_t bytes_of_token(const struct engine *e)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < tn_checkpoint_count(e->base); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(e->base, i);
		bytes += strstr(t->name, "embed_tokens") ? 0 : t->bytes;
	}
	if (!tn_checkpoint_find(e->base, "lm_head.weight"))
		bytes = tn_checkpoint_tensor_bytes(e->base);
	for (size_t i = 0; e->adapter && i < tn_safetensors_count(tn_adapter_file(e->adapter)); i++)
		bytes += tn_safetensors_at(tn_adapter_file(e->adapter), i)->bytes;
	return (size_t)bytes;
}

static void make_memory(struct memory *m, size_t bytes)
{
	const size_t page = 2 << 20;
	m->bytes = bytes / (PIECES * 64) * (PIECES * 64);
	unsigned char *p = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		exit(1);
	m->data = p + (page - (uintptr_t)p % page) % page;
	madvise(m->data, m->bytes, MADV_HUGEPAGE);
	memset(m->data, 1, m->bytes);
}

static tn_status read_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct memory *m = arg;
	const size_t bytes = m->bytes / PIECES;
	const unsigned char *from = m->data + task * bytes;
	uint64_t sum[8] = { 0 }, v[8];
	(void)worker;
	(void)err;
	for (size_t i = 0; i < bytes; i += 64) {
		__builtin_prefetch(from + i + 4096, 0, 2);
		memcpy(v, from + i, 64);
		for (int l = 0; l < 8; l++)
			sum[l] ^= v[l];
	}
	for (int l = 1; l < 8; l++)
		sum[0] ^= sum[l];
	m->sink += sum[0];
	return TN_OK;
}

static double limit(struct engine *e, struct memory *m)
{
	struct tn_work work = { .task_count = PIECES, .run = read_task, .arg = m };
	double begun = now();
	tn_pool_run(e->ctx, &work, NULL);
	return now() - begun;
}

/* ---- the row --------------------------------------------------------------------------------------------- */

/* Logits of a prompt, and of a token behind it, against those of plain C with exact activations: the root of the mean square of
 * the errors, relative to that of the logits. */
static double error_of(struct engine *e)
{
	struct engine plain = { .ctx = NULL };
	const size_t n = CHECKED * e->info.vocabulary;
	double error = 0, size = 0;
	open_engine(&plain, "portable", TN_ACTIVATIONS_F32);
	const uint32_t *ids = make_ids(e);
	for (int i = 0; i < 2; i++) {
		struct engine *each = i ? &plain : e;
		tn_sequence_rewind(each->text, 0);
		step(each, ids, CHECKED - 1, each->logits, 1);
		step(each, ids + CHECKED - 1, 1, each->logits + (CHECKED - 1) * e->info.vocabulary, 0);
	}
	for (size_t i = 0; i < n; i++) {
		error += pow((double)e->logits[i] - (double)plain.logits[i], 2);
		size += pow((double)plain.logits[i], 2);
	}
	close_engine(&plain);
	return sqrt(error / size);
}

/* What turns are taken with. */
struct turn {
	struct engine *e;
	struct memory *m;
};

static double one_reply(void *turn)
{
	return reply(((struct turn *)turn)->e);
}

static double one_read(void *turn)
{
	struct turn *t = turn;
	return limit(t->e, t->m);
}

static void measure_reply(struct engine *e)
{
	const double error = error_of(e);
	struct memory m = { .data = NULL };
	struct turn turn = { e, &m };
	struct rounds r;
	make_memory(&m, bytes_of_token(e) + args.cached * e->info.cache_bytes_per_token);
	if (!take_rounds(&r, args.rounds, one_reply, one_read, &turn)) {
		printf("| reply | busy: %zu of %zu rounds were steady |\n", r.count, args.rounds);
		return;
	}
	const double middle = median(r.ratio, r.count), seconds = median(r.time, r.count), least = median(r.limit_time, r.count);
	printf("| reply behind %zu, %s%s | %u | %.1f tokens/s | %.1f | %.2f (%.2f - %.2f) of reading %.0f MB at %.1f GB/s | "
	       "error %.1e | %s |\n",
	       args.cached, args.activations, args.adapter ? ", adapter" : "", args.threads, 1 / seconds, 1 / least, middle,
	       r.ratio[0], r.ratio[r.count - 1], (double)m.bytes * 1e-6,
	       (double)m.bytes / least * 1e-9, error, tn_context_isa(e->ctx));
	fflush(stdout);
}

static void measure_prompt(struct engine *e, size_t count)
{
	double time[3];
	prompt(e, count);
	for (int i = 0; i < 3; i++)
		time[i] = prompt(e, count);
	const double seconds = median(time, 3);
	printf("| prompt of %zu, %s%s | %u | %.1f tokens/s (%.1f - %.1f) |\n", count, args.activations,
	       args.adapter ? ", adapter" : "", args.threads, 1 / seconds, 1 / time[2], 1 / time[0]);
	fflush(stdout);
}

static void serve(struct engine *e)
{
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		const int count = atoi(line);
		printf("%.4f\n", 1 / (count > 0 ? prompt(e, (size_t)count) : reply(e)));
		fflush(stdout);
	}
}

static int parse(int argc, char **argv)
{
	int i = 1;
	for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
		const char *value = argv[i + 1];
		if (strcmp(argv[i], "--threads") == 0)
			args.threads = (unsigned)atoi(value);
		else if (strcmp(argv[i], "--rounds") == 0)
			args.rounds = (size_t)atoi(value) % MOST_ROUNDS;
		else if (strcmp(argv[i], "--tokens") == 0)
			args.tokens = (size_t)atoi(value);
		else if (strcmp(argv[i], "--cached") == 0)
			args.cached = (size_t)atoi(value);
		else if (strcmp(argv[i], "--isa") == 0)
			args.isa = value;
		else if (strcmp(argv[i], "--activations") == 0)
			args.activations = value;
		else if (strcmp(argv[i], "--adapter") == 0)
			args.adapter = value;
		else if (strcmp(argv[i], "--prompt") == 0 && args.prompt_count < 8)
			args.prompts[args.prompt_count++] = (size_t)atoi(value);
		else if (strcmp(argv[i], "--serve") == 0)
			args.serve = 1;
		else
			return 0;
	}
	args.folder = argv[i];
	return i + 1 == argc && args.threads && args.rounds && args.tokens && args.cached && args.cached <= MOST_TOKENS;
}

int main(int argc, char **argv)
{
	struct engine e = { .ctx = NULL };
	if (!parse(argc, argv)) {
		fprintf(stderr, "usage: decode [--threads N] [--isa NAME] [--activations f32|16|int8] [--adapter FOLDER] "
				"[--rounds N]\n              [--tokens N] [--cached N] [--prompt N]... [--serve 1] MODEL\n");
		return 2;
	}
	open_engine(&e, args.isa, strcmp(args.activations, "int8") == 0 ? TN_ACTIVATIONS_INT8
				  : strcmp(args.activations, "16") == 0 ? TN_ACTIVATIONS_16
									: TN_ACTIVATIONS_F32);
	if (args.serve) {
		serve(&e);
	} else {
		measure_reply(&e);
		for (size_t i = 0; i < args.prompt_count; i++)
			measure_prompt(&e, args.prompts[i]);
	}
	close_engine(&e);
	return 0;
}
