/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *what, const char *path)
{
	fprintf(stderr, "testlib: %s '%s': %s\n", what, path, strerror(errno));
	abort();
}

/* ---- heap ------------------------------------------------------------------------------------------------ */

struct block {
	_Alignas(16) size_t bytes;
	uint64_t mark;
};
static const uint64_t live_mark = 0x6c6976656c697665;

/* Threads of the pool allocate too, seldom enough for one lock. */
static int lock_word;

static void lock(void)
{
	while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
		continue;
}

static void unlock(void)
{
	__atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
}

static int count_call(struct tt_heap *heap)
{
	lock();
	int fails = ++heap->calls == heap->fail_at;
	unlock();
	return !fails;
}

static void *heap_alloc(void *user, size_t bytes)
{
	struct tt_heap *heap = user;
	if (bytes == 0)
		die("an allocation of 0 bytes", "heap_alloc");
	if (!count_call(heap))
		return NULL;
	struct block *b = bytes < SIZE_MAX - sizeof *b ? malloc(sizeof *b + bytes) : NULL;
	if (!b)
		return NULL;
	*b = (struct block){ bytes, live_mark };
	memset(b + 1, 0xA5, bytes);
	lock();
	heap->live_blocks++;
	heap->live_bytes += bytes;
	if (heap->live_bytes > heap->largest_live_bytes)
		heap->largest_live_bytes = heap->live_bytes;
	unlock();
	return b + 1;
}

static void heap_release(void *user, void *ptr, size_t bytes)
{
	struct tt_heap *heap = user;
	struct block *b = (struct block *)ptr - 1;
	if (b->mark != live_mark || b->bytes != bytes) {
		fprintf(stderr, "testlib: released with %zu bytes, allocated with %zu\n", bytes, b->bytes);
		abort();
	}
	b->mark = 0;
	lock();
	heap->live_blocks--;
	heap->live_bytes -= bytes;
	unlock();
	free(b);
}

static void *heap_resize(void *user, void *ptr, size_t old_bytes, size_t new_bytes)
{
	void *moved = heap_alloc(user, new_bytes);
	if (!moved)
		return NULL;
	memcpy(moved, ptr, old_bytes < new_bytes ? old_bytes : new_bytes);
	heap_release(user, ptr, old_bytes);
	return moved;
}

struct tn_allocator tt_heap_allocator(struct tt_heap *heap)
{
	return (struct tn_allocator){ heap_alloc, heap_resize, heap_release, heap };
}

void tt_fail_each_allocation(const char *what, size_t each, tt_job *job, void *arg)
{
	tn_status status = TN_E_NOMEM;
	for (size_t at = 1; status != TN_OK; at += at < each ? 1 : at / 20 + 1) {
		struct tt_heap heap = { 0 };
		struct tn_options options = TN_OPTIONS_INIT;
		struct tn_error err = { .code = TN_OK };
		tn_context *ctx;
		options.allocator = tt_heap_allocator(&heap);
		options.threads = 1;
		assert_int_equal(tn_context_create(&options, &ctx, NULL), TN_OK);
		heap.calls = 0;
		heap.fail_at = at;
		status = job(ctx, arg, &err);
		if (status != TN_OK && status != TN_E_NOMEM)
			fail_msg("%s, allocation %zu: %s", what, at, err.msg);
		tn_context_destroy(ctx);
		if (heap.live_blocks != 0)
			fail_msg("%s, allocation %zu: %zu blocks are left", what, at, heap.live_blocks);
	}
}

/* ---- surroundings ---------------------------------------------------------------------------------------- */

int tt_setup(void **state)
{
	struct tt *t = calloc(1, sizeof *t);
	if (!t)
		die("no memory for", "a test");
	tt_make_folder(t->folder);
	struct tn_options options = TN_OPTIONS_INIT;
	options.allocator = tt_heap_allocator(&t->heap);
	options.threads = 2;
	if (tn_context_create(&options, &t->ctx, &t->err) != TN_OK)
		die(t->err.msg, "context");
	*state = t;
	return 0;
}

int tt_teardown(void **state)
{
	struct tt *t = *state;
	tn_context_destroy(t->ctx);
	tt_remove_tree(t->folder);
	size_t held = t->heap.live_blocks;
	free(t);
	if (held)
		fprintf(stderr, "testlib: %zu blocks are still held\n", held);
	return held ? -1 : 0;
}

const char *tt_path(struct tt *t, const char *fmt, ...)
{
	char *path = t->paths[t->next_path++ % 16];
	size_t n = strlen(t->folder);
	memcpy(path, t->folder, n);
	path[n++] = '/';
	va_list args;
	va_start(args, fmt);
	vsnprintf(path + n, sizeof t->paths[0] - n, fmt, args);
	va_end(args);
	return path;
}

void tt_no_error(struct tt *t)
{
	t->err = (struct tn_error){ TN_OK, 0, 0, "", "" };
}

void tt_expect_(struct tt *t, tn_status got, tn_status expected, const char *call, const char *file, int line)
{
	if (got == expected && t->err.code == got)
		return;
	print_error("%s\n  gave %s, %s was expected\n  error %s, where '%s', pos %llu: %s\n", call, tn_status_name(got),
		    tn_status_name(expected), tn_status_name(t->err.code), t->err.where, (unsigned long long)t->err.pos,
		    t->err.msg);
	_fail(file, line);
}

void tt_expect_msg(const struct tt *t, const char *text)
{
	if (strstr(t->err.msg, text) || strstr(t->err.where, text))
		return;
	print_error("'%s' is not in the error: where '%s': %s\n", text, t->err.where, t->err.msg);
	fail();
}

/* ---- files ----------------------------------------------------------------------------------------------- */

char *tt_make_folder(char folder[64])
{
	const char *base = getenv("TMPDIR");
	snprintf(folder, 64, "%.40s/tenon-test-XXXXXX", base && strlen(base) < 40 ? base : "/tmp");
	if (!mkdtemp(folder))
		die("could not make", folder);
	return folder;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

void tt_remove_tree(const char *path)
{
	if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
		die("could not remove", path);
}

void tt_write_file(const char *path, const void *bytes, size_t n)
{
	FILE *f = fopen(path, "wb");
	if (!f || (n && fwrite(bytes, 1, n, f) != n) || fclose(f) != 0)
		die("could not write", path);
}

void tt_write_text(const char *path, const char *text)
{
	tt_write_file(path, text, strlen(text));
}

const char *tt_memory_file(const void *bytes, size_t n)
{
	static char path[64];
	static int fd = -1;
	if (fd < 0) {
		fd = memfd_create("test", 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	}
	if (fd < 0 || ftruncate(fd, 0) != 0 || (n && pwrite(fd, bytes, n, 0) != (ssize_t)n))
		die("could not write", path);
	return path;
}

void tt_write_st(const char *path, const char *header, const void *data, size_t n)
{
	uint64_t length = strlen(header);
	unsigned char word[8];
	for (int i = 0; i < 8; i++)
		word[i] = (unsigned char)(length >> 8 * i);
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(word, 1, 8, f) != 8 || fwrite(header, 1, length, f) != length ||
	    (n && fwrite(data, 1, n, f) != n) || fclose(f) != 0)
		die("could not write", path);
}

unsigned char *tt_read_file(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	if (!f)
		return NULL;
	struct stat st;
	if (fstat(fileno(f), &st) != 0)
		die("could not examine", path);
	unsigned char *bytes = malloc((size_t)st.st_size + 1);
	if (!bytes || fread(bytes, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
		die("could not read", path);
	fclose(f);
	bytes[st.st_size] = '\0';
	if (n)
		*n = (size_t)st.st_size;
	return bytes;
}

int tt_exists(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

size_t tt_count_entries(const char *path)
{
	DIR *dir = opendir(path);
	if (!dir)
		die("could not open", path);
	size_t n = 0;
	for (const struct dirent *entry; (entry = readdir(dir));)
		n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
	closedir(dir);
	return n;
}

static void describe(FILE *out, const char *path, const char *shown)
{
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, alphasort);
	if (count < 0)
		die("could not open", path);
	for (int i = 0; i < count; i++) {
		const char *name = entries[i]->d_name;
		char full[4096], below[4096];
		struct stat st;
		snprintf(full, sizeof full, "%s/%s", path, name);
		snprintf(below, sizeof below, "%s%s/", shown, name);
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || lstat(full, &st) != 0) {
			free(entries[i]);
			continue;
		}
		uint64_t hash = 0xcbf29ce484222325;
		size_t n = 0;
		if (S_ISREG(st.st_mode)) {
			unsigned char *bytes = tt_read_file(full, &n);
			for (size_t j = 0; bytes && j < n; j++)
				hash = (hash ^ bytes[j]) * 0x100000001b3;
			free(bytes);
		}
		fprintf(out, "%s%s %o %zu %016llx\n", shown, name, (unsigned)(st.st_mode & S_IFMT), n,
			(unsigned long long)hash);
		if (S_ISDIR(st.st_mode))
			describe(out, full, below);
		free(entries[i]);
	}
	free(entries);
}

char *tt_describe_tree(const char *path)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);
	if (!out)
		die("no memory for", path);
	describe(out, path, "");
	fclose(out);
	return text;
}

/* ---- guarded memory -------------------------------------------------------------------------------------- */

void tt_guard_make(struct tt_guard *g, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + page) / page * page;
	g->map_bytes = room + 2 * page;
	g->map = mmap(NULL, g->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->map == MAP_FAILED || mprotect(g->map + page, room, PROT_READ | PROT_WRITE) != 0)
		die("could not map", "guard pages");
	g->at_begin = g->map + page;
	g->at_end = g->map + page + room - bytes;
}

void tt_guard_free(struct tt_guard *g)
{
	munmap(g->map, g->map_bytes);
}

int tt_is_chosen(int argc, char **argv, const char *part)
{
	int named = 0, found = 0;
	for (int i = 1; i < argc; i++) {
		named |= strncmp(argv[i], "--", 2) != 0;
		found |= strcmp(argv[i], part) == 0;
	}
	return !named || found;
}

uint64_t tt_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15; /* splitmix64 */
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}
