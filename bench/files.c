/* SPDX-License-Identifier: Apache-2.0 */
/* files [--rounds N] [--model FOLDER] [--threads N] [ROW...]: `tenon fuse` from file to file, beside what the disk can do with as
 * many bytes and beside `cp; sync`, in turns. Rows:
 *
 *   file-warm   the base is in the page cache; the limit writes as many bytes past the cache and makes them durable
 *   file-cold   it is not, which is checked; the limit reads as many bytes meanwhile
 *
 * A round that is not counted comes first: its output is read again, untouched tensors byte for byte, and rows of every fused one
 * against a sum in double. FOLDER is one of make_model; without, one of 1000 MB is made.
 *
 * TENON and TOOLS: the command, and the folder of make_model. BENCH_DIR: where to write, twice the model. */
#include "rounds.h"
#include "tenon/checkpoint.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 4 << 20, STREAMS = 2, LARGE_PAGE = 2 << 20, RANK = 16, SAMPLED_ROWS = 5 };
enum job { LIMIT, COPY, OURS, JOBS };

static struct {
	int rounds, is_cold;
	const char *threads, *model, *tenon, *tools;
	char base[4096], adapter[4096], weights[4096];
	uint64_t bytes;
	long resident_kb;
	double worst;                  /* error of a sampled element in units in the last place */
	uint64_t sampled, compared;
} b;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	return clock_seconds(CLOCK_MONOTONIC);
}

/* ---- states of the page cache ---------------------------------------------------------------------------- */

static double cached_share(int fd)
{
	size_t pages = (size_t)(b.bytes / 4096), cached = 0;
	unsigned char *flags = malloc(pages + 1);
	void *map = mmap(NULL, (size_t)b.bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (!flags || map == MAP_FAILED || mincore(map, (size_t)b.bytes, flags) != 0)
		die("mincore");
	for (size_t i = 0; i < pages; i++)
		cached += flags[i] & 1;
	munmap(map, (size_t)b.bytes);
	free(flags);
	return (double)cached / (double)pages;
}

static void prepare_cache(void)
{
	static char buffer[1 << 20];
	int fd = open(b.weights, O_RDONLY);
	if (fd < 0)
		die(b.weights);
	sync(); /* what was removed, and pages that could not be dropped while they are dirty */
	if (b.is_cold)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	else
		while (read(fd, buffer, sizeof buffer) > 0)
			continue;
	double share = cached_share(fd);
	if (b.is_cold ? share > 0.01 : share < 0.99) {
		fprintf(stderr, "files: %.0f %% of the base are cached\n", 100 * share);
		exit(1);
	}
	close(fd);
}

/* ---- what the disk can do -------------------------------------------------------------------------------- */

static struct {
	int in, out;
	char *memory;
	_Atomic uint64_t next_read, next_write;
} disk;

static void *stream(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;
	_Atomic uint64_t *next = i % 2 ? &disk.next_read : &disk.next_write;
	char *chunk = disk.memory + i * CHUNK;
	for (uint64_t at; (at = atomic_fetch_add(next, CHUNK)) + CHUNK <= b.bytes;) {
		ssize_t n = i % 2 ? pread(disk.in, chunk, CHUNK, (off_t)at) : pwrite(disk.out, chunk, CHUNK, (off_t)at);
		if (n != CHUNK)
			die("the disk");
	}
	return NULL;
}

static double limit(void)
{
	pthread_t threads[2 * STREAMS];
	int step = b.is_cold ? 1 : 2;
	double start = now();
	disk.in = open(b.weights, O_RDONLY | O_DIRECT);
	disk.out = open("limit", O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0600);
	if (disk.in < 0 || disk.out < 0 || fallocate(disk.out, 0, 0, (off_t)b.bytes) != 0)
		die("limit");
	disk.next_read = disk.next_write = 0;
	for (int i = 0; i < 2 * STREAMS; i += step)
		if (pthread_create(&threads[i], NULL, stream, (void *)(uintptr_t)i) != 0)
			die("a thread");
	for (int i = 0; i < 2 * STREAMS; i += step)
		pthread_join(threads[i], NULL);
	if (fsync(disk.out) != 0)
		die("fsync");
	double seconds = now() - start;
	close(disk.in);
	close(disk.out);
	unlink("limit");
	return seconds;
}

static void make_chunks(void)
{
	size_t bytes = 2 * STREAMS * (size_t)CHUNK;
	char *memory = mmap(NULL, bytes + LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("memory");
	disk.memory = memory + -(uintptr_t)memory % LARGE_PAGE;
	madvise(disk.memory, bytes, MADV_HUGEPAGE);
	uint64_t x = 88172645463325252u;
	for (size_t i = 0; i < bytes; i += sizeof x) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(disk.memory + i, &x, sizeof x);
	}
}

/* ---- commands -------------------------------------------------------------------------------------------- */

static double command(const char *const *words, struct rusage *usage)
{
	int status;
	double start = now();
	pid_t child = fork();
	if (child == 0) {
		char *copy[32] = { NULL };
		for (int i = 0; i < 31 && words[i]; i++)
			copy[i] = strdup(words[i]);
		execvp(copy[0], copy);
		perror(copy[0]);
		_exit(127);
	}
	if (child < 0 || wait4(child, &status, 0, usage) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "files: '%s' failed\n", words[0]);
		exit(1);
	}
	return now() - start;
}

static void clear(const char *path)
{
	const char *const words[] = { "rm", "-rf", path, NULL };
	struct rusage usage;
	command(words, &usage);
}

static double run(enum job job)
{
	struct rusage usage = { 0 };
	const char *const copy[] = { "sh", "-c", "cp -r --reflink=never \"$1\" out && sync out/* out", "sh", b.base, NULL };
	const char *const ours[] = { b.tenon, "fuse", "-q", "--model", b.base, "--adapter-path", b.adapter, "--save-path", "out",
				     b.threads ? "--threads" : NULL, b.threads, NULL };
	clear("out");
	prepare_cache();
	double seconds = job == LIMIT ? limit() : command(job == COPY ? copy : ours, &usage);
	if (job == OURS && usage.ru_maxrss > b.resident_kb)
		b.resident_kb = usage.ru_maxrss;
	return seconds;
}

/* ---- the check ------------------------------------------------------------------------------------------- */

static tn_context *ctx;

static void must(tn_status status, const struct tn_error *err)
{
	if (status == TN_OK)
		return;
	fprintf(stderr, "files: %s\n", err->msg);
	exit(1);
}

static void *load(const tn_safetensors *file, const struct tn_tensor *t, uint64_t offset, uint64_t n)
{
	struct tn_error err;
	void *bytes = malloc((size_t)n);
	if (!bytes)
		die("memory");
	must(tn_safetensors_read(file, t, offset, bytes, (size_t)n, &err), &err);
	return bytes;
}

static double value(const uint16_t *row, uint64_t i)
{
	uint32_t bits = (uint32_t)row[i] << 16;
	float x;
	memcpy(&x, &bits, sizeof x);
	return (double)x;
}

/* Of BF16, where x lies. */
static double last_place(double x)
{
	int exponent;
	frexp(x, &exponent);
	return ldexp(1, (exponent < -125 ? -125 : exponent) - 8);
}

static void check_row(const uint16_t *before, const uint16_t *after, const float *a, const float *b_row, uint64_t cols)
{
	for (uint64_t i = 0; i < cols; i++) {
		double truth = value(before, i);
		for (uint64_t k = 0; k < RANK; k++)
			truth += 2.0 * (double)b_row[k] * (double)a[k * cols + i];
		double error = fabs(value(after, i) - truth) / last_place(truth);
		b.worst = error > b.worst ? error : b.worst;
	}
	b.sampled++;
}

static void check_fused(const tn_safetensors *from, const tn_safetensors *to, const tn_safetensors *adapter,
			const struct tn_tensor *t, const struct tn_tensor *a, const struct tn_tensor *factor)
{
	const struct tn_tensor *result = tn_safetensors_find(to, t->name);
	uint64_t rows = t->shape[0], cols = t->shape[1];
	float *all = load(adapter, a, 0, a->bytes);
	for (uint64_t k = 0; k < SAMPLED_ROWS; k++) {
		uint64_t row = k * (rows - 1) / (SAMPLED_ROWS - 1);
		uint16_t *before = load(from, t, row * cols * 2, cols * 2), *after = load(to, result, row * cols * 2, cols * 2);
		float *of_row = load(adapter, factor, row * RANK * sizeof(float), RANK * sizeof(float));
		check_row(before, after, all, of_row, cols);
		free(before);
		free(after);
		free(of_row);
	}
	free(all);
}

static void check_copied(const tn_safetensors *from, const tn_safetensors *to, const struct tn_tensor *t)
{
	void *before = load(from, t, 0, t->bytes), *after = load(to, tn_safetensors_find(to, t->name), 0, t->bytes);
	if (memcmp(before, after, (size_t)t->bytes) != 0) {
		fprintf(stderr, "files: '%s' changed\n", t->name);
		exit(1);
	}
	b.compared += t->bytes;
	free(before);
	free(after);
}

static void check(void)
{
	tn_safetensors *from, *to, *adapter;
	char path[4200];
	struct tn_error err;
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", b.adapter);
	must(tn_safetensors_open(ctx, b.weights, &from, &err), &err);
	must(tn_safetensors_open(ctx, "out/model.safetensors", &to, &err), &err);
	must(tn_safetensors_open(ctx, path, &adapter, &err), &err);
	for (size_t i = 0; i < tn_safetensors_count(from); i++) {
		const struct tn_tensor *t = tn_safetensors_at(from, i);
		char a[512], factor[512];
		int n = (int)(strlen(t->name) - strlen(".weight"));
		snprintf(a, sizeof a, "base_model.model.%.*s.lora_A.weight", n, t->name);
		snprintf(factor, sizeof factor, "base_model.model.%.*s.lora_B.weight", n, t->name);
		const struct tn_tensor *left = tn_safetensors_find(adapter, a);
		if (left)
			check_fused(from, to, adapter, t, left, tn_safetensors_find(adapter, factor));
		else
			check_copied(from, to, t);
	}
	tn_safetensors_close(from);
	tn_safetensors_close(to);
	tn_safetensors_close(adapter);
	if (b.worst > 0.52) {
		fprintf(stderr, "files: an element is %.3f units in the last place off\n", b.worst);
		exit(1);
	}
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

static void print_spread(const char *what, double *values)
{
	const double middle = median(values, (size_t)b.rounds);
	printf("  %s %.2f (%.2f - %.2f)", what, middle, values[0], values[b.rounds - 1]);
}

static void row(const char *name, int is_cold)
{
	double seconds[JOBS][MOST_ROUNDS], ratio[JOBS][MOST_ROUNDS];
	b.is_cold = is_cold;
	b.resident_kb = 0;
	run(OURS);
	check();
	for (int i = 0; i < b.rounds; i++) {
		for (int k = 0; k < JOBS; k++) {
			enum job job = (enum job)((i + k) % JOBS);
			seconds[job][i] = run(job);
		}
		ratio[LIMIT][i] = seconds[LIMIT][i] / seconds[OURS][i];
		ratio[COPY][i] = seconds[COPY][i] / seconds[OURS][i];
	}
	clear("out");
	printf("%s  %.2f GB, %d rounds", name, (double)b.bytes * 1e-9, b.rounds);
	print_spread("seconds", seconds[OURS]);
	print_spread("disk", seconds[LIMIT]);
	print_spread("cp; sync", seconds[COPY]);
	printf("\n%*s", (int)strlen(name), "");
	print_spread("of the disk's rate", ratio[LIMIT]);
	print_spread("times cp; sync", ratio[COPY]);
	printf("  resident %.0f MB\n", (double)b.resident_kb / 1e3);
	fflush(stdout);
}

static void set_paths(const char *program)
{
	static char tools[4096], tenon[4200], model[4096];
	struct stat st;
	char *slash = realpath(program, tools) ? strrchr(tools, '/') : NULL;
	if (slash)
		*slash = '\0';
	b.tools = getenv("TOOLS") ? getenv("TOOLS") : tools;
	snprintf(tenon, sizeof tenon, "%s/../tenon", tools);
	b.tenon = getenv("TENON") ? getenv("TENON") : tenon;
	if (b.model && !realpath(b.model, model))
		die(b.model);
	b.model = b.model ? model : NULL;
	static char area[4096];
	snprintf(area, sizeof area, "%s/tenon-files-XXXXXX", getenv("BENCH_DIR") ? getenv("BENCH_DIR") : "/tmp");
	if (!mkdtemp(area) || chdir(area) != 0)
		die(area);
	if (!b.model) {
		char make[4200];
		struct rusage usage;
		snprintf(make, sizeof make, "%s/make_model", b.tools);
		command((const char *const[]){ make, "model", "1000", NULL }, &usage);
		snprintf(model, sizeof model, "%.4000s/model", area);
		b.model = model;
	}
	snprintf(b.base, sizeof b.base, "%.4000s/base", b.model);
	snprintf(b.adapter, sizeof b.adapter, "%.4000s/adapter", b.model);
	snprintf(b.weights, sizeof b.weights, "%.4000s/model.safetensors", b.base);
	if (stat(b.weights, &st) != 0)
		die(b.weights);
	b.bytes = (uint64_t)st.st_size;
}

int main(int argc, char **argv)
{
	const char *rows[] = { "file-warm", "file-cold" };
	struct tn_error err;
	int wanted = 0, i = 1;
	b.rounds = 5;
	for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
		if (strcmp(argv[i], "--rounds") == 0)
			b.rounds = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--model") == 0)
			b.model = argv[i + 1];
		else if (strcmp(argv[i], "--threads") == 0)
			b.threads = argv[i + 1];
	}
	for (int k = i; k < argc; k++)
		for (int r = 0; r < 2; r++)
			wanted |= (strcmp(argv[k], rows[r]) == 0) << r;
	if (b.rounds < 1 || b.rounds > MOST_ROUNDS || (i < argc && !wanted))
		return 2;
	must(tn_context_create(NULL, &ctx, &err), &err);
	set_paths(argv[0]);
	make_chunks();
	for (int r = 0; r < 2; r++)
		if (i == argc || (wanted >> r & 1))
			row(rows[r], r);
	printf("checked: %.0f MB that nothing touches, %llu fused rows within %.4f units in the last place\n",
	       (double)b.compared * 1e-6, (unsigned long long)b.sampled, b.worst);
	tn_context_destroy(ctx);
	char area[4096];
	if (getcwd(area, sizeof area) && chdir("/") == 0)
		clear(area);
	return 0;
}
