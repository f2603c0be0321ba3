/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters on a live base of an 8B Llama's shape: attaching, swapping and detaching beside one read of the same bytes, a batch
 * with an adapter for every row, and what swaps do to the steps of another thread.
 *
 *   live FOLDER [PART...]     a place for 16 GB of holes and 84 MB of adapter; parts: attach, many, rows, swaps, large-swaps,
 *                             paused-swaps */
#include "rounds.h"
#include "tenon/tenon.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HIDDEN = 4096, INNER = 14336, KEYS = 1024, LAYERS = 32, RANK = 16, RUNS = 7, ROWS = 64, STEPS = 3000, STEP_LAYERS = 16 };

static const struct {
	const char *name;
	int out, in;
} modules[] = {
	{ "self_attn.q_proj", HIDDEN, HIDDEN }, { "self_attn.k_proj", KEYS, HIDDEN },  { "self_attn.v_proj", KEYS, HIDDEN },
	{ "self_attn.o_proj", HIDDEN, HIDDEN }, { "mlp.gate_proj", INNER, HIDDEN },    { "mlp.up_proj", INNER, HIDDEN },
	{ "mlp.down_proj", HIDDEN, INNER },
};
enum { MODULES = sizeof modules / sizeof *modules };

static struct tn_error err;

static void must(int holds)
{
	if (!holds) {
		fprintf(stderr, "live: %s\n", err.msg[0] ? err.msg : "the folder cannot be written");
		exit(1);
	}
}

static double seconds(void)
{
	return clock_seconds(CLOCK_MONOTONIC);
}

static void report(const char *what, double *runs, int n, double unit, const char *name)
{
	const double middle = median(runs, (size_t)n);
	printf("%-44s %9.3f %s (%.3f - %.3f)\n", what, middle * unit, name, runs[0] * unit, runs[n - 1] * unit);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

struct file {
	char *header;
	size_t at;
	unsigned long long bytes;
};

static void add(struct file *f, const char *front, int layer, const char *name, const char *back, int rows, int cols)
{
	unsigned long long end = f->bytes + 2ull * (unsigned)rows * (unsigned)cols;
	f->at += (size_t)sprintf(f->header + f->at,
				 "%s\"%s.%d.%s.%sweight\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[%llu,%llu]}",
				 f->at ? "," : "{", front, layer, name, back, rows, cols, f->bytes, end);
	f->bytes = end;
}

/* With holes for data, or with numbers. */
static void finish(struct file *f, const char *path, int with_numbers)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	f->header[f->at++] = '}';
	unsigned long long length = f->at, done = 0;
	must(fd >= 0 && write(fd, &length, 8) == 8 && write(fd, f->header, f->at) == (ssize_t)f->at);
	static unsigned short numbers[1 << 16];
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		numbers[i] = (unsigned short)(0x3C00u + i * 2654435761u % 256u + (i & 1u) * 0x8000u);
	for (; with_numbers && done < f->bytes; done += sizeof numbers) {
		size_t n = f->bytes - done < sizeof numbers ? (size_t)(f->bytes - done) : sizeof numbers;
		must(write(fd, numbers, n) == (ssize_t)n);
	}
	must(with_numbers || ftruncate(fd, (off_t)(8 + f->at + f->bytes)) == 0);
	close(fd);
	free(f->header);
}

static void write_text(const char *folder, const char *name, const char *text)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "w");
	must(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void write_base(const char *folder)
{
	struct file f = { malloc(1 << 20), 0, 0 };
	char path[4096];
	mkdir(folder, 0777);
	write_text(folder, "config.json", "{\"model_type\": \"llama\", \"tie_word_embeddings\": false}");
	for (int l = 0; l < LAYERS; l++)
		for (int m = 0; m < MODULES; m++)
			add(&f, "model.layers", l, modules[m].name, "", modules[m].out, modules[m].in);
	snprintf(path, sizeof path, "%s/model.safetensors", folder);
	finish(&f, path, 0);
}

/* On all modules, or on the first of every layer with rank 1. */
static void write_adapter(const char *folder, int small)
{
	static const char front[] = "base_model.model.model.layers";
	struct file f = { malloc(1 << 20), 0, 0 };
	char path[4096];
	int rank = small ? 1 : RANK;
	mkdir(folder, 0777);
	write_text(folder, "adapter_config.json", small
		? "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 2, \"target_modules\": [\"q_proj\"]}"
		: "{\"peft_type\": \"LORA\", \"r\": 16, \"lora_alpha\": 32, \"target_modules\": [\"q_proj\", \"k_proj\", "
		  "\"v_proj\", \"o_proj\", \"gate_proj\", \"up_proj\", \"down_proj\"]}");
	for (int l = 0; l < LAYERS; l++)
		for (int m = 0; m < (small ? 1 : MODULES); m++) {
			add(&f, front, l, modules[m].name, "lora_A.", rank, modules[m].in);
			add(&f, front, l, modules[m].name, "lora_B.", modules[m].out, rank);
		}
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
	finish(&f, path, 1);
}

/* ---- attaching ------------------------------------------------------------------------------------------- */

/* The bytes of a file into new memory, in pieces of a factor's size. */
static double read_once(const char *folder)
{
	enum { PIECE = 1 << 18 };
	char path[4096];
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
	int fd = open(path, O_RDONLY);
	struct stat st;
	must(fd >= 0 && fstat(fd, &st) == 0);
	size_t pieces = (size_t)st.st_size / PIECE + 1;
	void **memory = malloc(pieces * sizeof *memory);
	double begun = seconds();
	for (size_t i = 0; i < pieces; i++) {
		memory[i] = malloc(PIECE);
		must(pread(fd, memory[i], PIECE, (off_t)(i * PIECE)) >= 0);
	}
	double took = seconds() - begun;
	for (size_t i = 0; i < pieces; i++)
		free(memory[i]);
	free(memory);
	close(fd);
	return took;
}

/* The same bytes from memory to memory, both written before. */
static double copy_once(void)
{
	enum { BYTES = 84 << 20 };
	static unsigned char *from, *to;
	if (!from) {
		from = malloc(BYTES);
		to = malloc(BYTES);
		must(from && to);
		memset(from, 1, BYTES);
		memset(to, 1, BYTES);
	}
	double begun = seconds();
	memcpy(to, from, BYTES);
	return seconds() - begun;
}

static void time_attaching(tn_context *ctx, tn_live *live, const char *folder)
{
	double pass[RUNS], copy[RUNS], attach[RUNS], swap[RUNS], detach[RUNS];
	for (int i = 0; i < RUNS; i++) {
		tn_adapter *adapter;
		pass[i] = read_once(folder);
		copy[i] = copy_once();
		double begun = seconds();
		must(tn_adapter_open(ctx, folder, &adapter, &err) == TN_OK);
		must(tn_live_attach(live, "it", adapter, 1, &err) == TN_OK);
		attach[i] = seconds() - begun;
		for (int n = 0; n < 2; n++) { /* the second into the memory of the one before the first */
			begun = seconds();
			must(tn_live_swap(live, "it", "it", adapter, 1, &err) == TN_OK);
			swap[i] = seconds() - begun;
		}
		begun = seconds();
		must(tn_live_detach(live, "it", &err) == TN_OK);
		detach[i] = seconds() - begun;
		tn_adapter_close(adapter);
	}
	report("read its 84 MB into new memory", pass, RUNS, 1e3, "ms");
	report("copy as much, memory to memory", copy, RUNS, 1e3, "ms");
	report("open and attach r16 on 224 modules", attach, RUNS, 1e3, "ms");
	report("swap it", swap, RUNS, 1e3, "ms");
	report("detach it", detach, RUNS, 1e3, "ms");
}

/* What is not the reading of factors, and how it grows with the number of adapters. */
static void time_many(tn_context *ctx, tn_live *live, const char *folder)
{
	enum { MANY = 200 };
	static tn_adapter *adapters[MANY];
	double took[MANY], pass[MANY], sum = 0;
	char name[16];
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "%d", i);
		pass[i] = read_once(folder);
		double begun = seconds();
		must(tn_adapter_open(ctx, folder, &adapters[i], &err) == TN_OK);
		must(tn_live_attach_disabled(live, name, adapters[i], 1, &err) == TN_OK);
		took[i] = seconds() - begun;
	}
	for (int i = 0; i < MANY; i++)
		sum += took[i];
	report("read its 0.5 MB into new memory", pass, MANY, 1e6, "us");
	printf("%-44s %9.3f us\n", "open and attach 0.5 MB: mean of 200", sum / MANY * 1e6);
	report("open and attach 0.5 MB: the first 50", took, 50, 1e6, "us");
	report("open and attach 0.5 MB: the last 50", took + MANY - 50, 50, 1e6, "us");
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "%d", i);
		must(tn_live_detach(live, name, &err) == TN_OK);
		tn_adapter_close(adapters[i]);
	}
}

/* ---- computing ------------------------------------------------------------------------------------------- */

struct product {
	const tn_snapshot *snapshot;
	struct tn_live_call call;
	void *scratch;
};

static struct product make_product(const tn_live *live, const tn_snapshot *s, size_t m)
{
	size_t module = tn_live_module(live, "model.layers.0.self_attn.q_proj");
	struct product p = { .snapshot = s, .scratch = malloc(tn_snapshot_scratch_bytes(s, module, m)) };
	p.call = (struct tn_live_call){
		.module = module, .m = m, .x_stride = HIDDEN, .y = malloc(m * HIDDEN * 4), .y_stride = HIDDEN
	};
	float *x = malloc(m * HIDDEN * 4);
	for (size_t i = 0; i < m * HIDDEN; i++)
		x[i] = (float)(i % 17) - 8;
	p.call.x = x;
	return p;
}

static double time_product(const struct product *p)
{
	double begun = seconds();
	tn_snapshot_forward(p->snapshot, &p->call, p->scratch);
	return seconds() - begun;
}

static void time_rows(tn_context *ctx, tn_live *live, const char *folder)
{
	static tn_adapter *adapters[ROWS];
	double own[RUNS], base[RUNS];
	size_t choice[ROWS], none[ROWS];
	char name[16];
	for (int i = 0; i < ROWS; i++) {
		snprintf(name, sizeof name, "%d", i);
		must(tn_adapter_open(ctx, folder, &adapters[i], &err) == TN_OK);
		must(tn_live_attach_disabled(live, name, adapters[i], 1, &err) == TN_OK);
		choice[i] = (size_t)(i * 29 % ROWS);
		none[i] = TN_LIVE_BASE;
	}
	tn_snapshot *s = tn_live_snapshot(live);
	struct product p = make_product(live, s, ROWS);
	for (int i = -1; i < RUNS; i++) {
		p.call.adapter_of_row = choice;
		own[i < 0 ? 0 : i] = time_product(&p);
		p.call.adapter_of_row = none;
		base[i < 0 ? 0 : i] = time_product(&p);
	}
	report("64 rows, 4096x4096, the base", base, RUNS, 1e3, "ms");
	report("64 rows, 4096x4096, 64 adapters", own, RUNS, 1e3, "ms");
	tn_snapshot_release(s);
	for (int i = 0; i < ROWS; i++) {
		snprintf(name, sizeof name, "%d", i);
		must(tn_live_detach(live, name, &err) == TN_OK);
		tn_adapter_close(adapters[i]);
	}
}

struct swapping {
	tn_live *live;
	tn_adapter *adapter;
	_Atomic int stop;
	size_t swaps;
};

static void *swap_on(void *arg)
{
	struct swapping *s = arg;
	const struct timespec pause = { 0, 5000000 };
	for (; !atomic_load(&s->stop); s->swaps++) {
		must(tn_live_swap(s->live, "it", "it", s->adapter, 1, &err) == TN_OK);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

/* One row through a matrix of another layer each time, so that none is near: 512 MB of them. */
static void time_steps(tn_live *live, const char *what)
{
	static double took[STEPS];
	static struct product p;
	static size_t layer[STEP_LAYERS];
	for (int i = p.scratch ? 0 : -STEP_LAYERS; i < STEPS; i++) {
		double begun = seconds();
		tn_snapshot *s = tn_live_snapshot(live);
		if (!p.scratch)
			p = make_product(live, s, 1);
		if (i < 0) {
			char name[64];
			snprintf(name, sizeof name, "model.layers.%d.self_attn.q_proj", i + STEP_LAYERS);
			layer[i + STEP_LAYERS] = tn_live_module(live, name);
		}
		p.snapshot = s;
		p.call.module = layer[(i + STEP_LAYERS) % STEP_LAYERS];
		tn_snapshot_forward(s, &p.call, p.scratch);
		tn_snapshot_release(s);
		took[i < 0 ? 0 : i] = seconds() - begun;
	}
	report(what, took, STEPS, 1e6, "us");
	printf("%-44s %9.3f us\n", "  99 of 100 within", took[STEPS * 99 / 100] * 1e6);
}

static void time_swaps(tn_context *ctx, tn_live *live, const char *folder)
{
	tn_adapter *adapter;
	must(tn_adapter_open(ctx, folder, &adapter, &err) == TN_OK);
	must(tn_live_attach(live, "it", adapter, 1, &err) == TN_OK);
	for (int i = 0; i < 2; i++) {
		struct swapping s = { .live = live, .adapter = adapter };
		pthread_t thread;
		time_steps(live, "one row, 4096x4096, nobody swaps");
		must(pthread_create(&thread, NULL, swap_on, &s) == 0);
		time_steps(live, "one row, 4096x4096, swaps 5 ms apart");
		atomic_store(&s.stop, 1);
		pthread_join(thread, NULL);
		printf("%-44s %9zu\n", "  swaps meanwhile", s.swaps);
	}
	must(tn_live_detach(live, "it", &err) == TN_OK);
	tn_adapter_close(adapter);
}

/* With the pauses that leave the memory to who computes. */
static void time_paused_swaps(tn_context *ctx, const tn_checkpoint *base, const char *folder)
{
	struct tn_live_options options = TN_LIVE_OPTIONS_INIT;
	tn_live *live;
	options.pause_us = 100;
	must(tn_live_open(base, &options, &live, &err) == TN_OK);
	time_swaps(ctx, live, folder);
	tn_live_close(live);
}

static int is_wanted(int argc, char **argv, const char *part)
{
	int wanted = argc == 2;
	for (int i = 2; i < argc; i++)
		wanted |= strcmp(argv[i], part) == 0;
	return wanted;
}

int main(int argc, char **argv)
{
	char base[4000], large[4000], small[4000];
	tn_context *ctx;
	tn_checkpoint *checkpoint;
	tn_live *live;
	if (argc < 2)
		return fprintf(stderr, "usage: live FOLDER [PART...]\n"), 2;
	snprintf(base, sizeof base, "%s/base", argv[1]);
	snprintf(large, sizeof large, "%s/r16", argv[1]);
	snprintf(small, sizeof small, "%s/r1", argv[1]);
	write_base(base);
	write_adapter(large, 0);
	write_adapter(small, 1);
	struct tn_options options = TN_OPTIONS_INIT;
	options.threads = 1; /* another is for swapping */
	must(tn_context_create(&options, &ctx, &err) == TN_OK);
	must(tn_checkpoint_open(ctx, base, &checkpoint, &err) == TN_OK);
	double begun = seconds();
	must(tn_live_open(checkpoint, NULL, &live, &err) == TN_OK);
	printf("%-44s %9.3f ms\n", "open a base of 224 modules live", (seconds() - begun) * 1e3);
	if (is_wanted(argc, argv, "attach"))
		time_attaching(ctx, live, large);
	if (is_wanted(argc, argv, "many"))
		time_many(ctx, live, small);
	if (is_wanted(argc, argv, "rows"))
		time_rows(ctx, live, small);
	if (is_wanted(argc, argv, "swaps"))
		time_swaps(ctx, live, small);
	if (is_wanted(argc, argv, "large-swaps"))
		time_swaps(ctx, live, large);
	if (is_wanted(argc, argv, "paused-swaps"))
		time_paused_swaps(ctx, checkpoint, large);
	tn_live_close(live);
	tn_checkpoint_close(checkpoint);
	tn_context_destroy(ctx);
	return 0;
}
