/* What the test programs share: a folder of their own, a heap that counts, files made from text, guarded memory. */
#ifndef TENON_TESTLIB_H
#define TENON_TESTLIB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tenon/base.h"
#include "tenon/checkpoint.h"

/* ---- a heap that counts, checks and fails ---------------------------------------------------------------- */

/* Every block remembers its size: a release or resize with another one aborts the test. */
struct tt_heap {
	size_t live_blocks, live_bytes;
	size_t largest_live_bytes;
	size_t calls;
	size_t fail_at; /* the number of the call that fails, counted from 1; 0: none */
};
struct tn_allocator tt_heap_allocator(struct tt_heap *heap);

/* Runs a job on a new context, of one thread, whose heap fails at the job's 1st, 2nd, ... allocation, until it succeeds: each time it
 * must say TN_E_NOMEM and leave nothing. Behind the first `each` allocations in steps of a twentieth. */
typedef tn_status tt_job(tn_context *ctx, void *arg, struct tn_error *err);
void tt_fail_each_allocation(const char *what, size_t each, tt_job *job, void *arg);

/* ---- one test's surroundings ----------------------------------------------------------------------------- */

struct tt {
	char folder[64];
	struct tt_heap heap;
	tn_context *ctx;        /* uses `heap`, two threads */
	struct tn_error err;
	char paths[16][4096];   /* of the last calls of tt_path */
	unsigned next_path;
};

/* For cmocka: *state becomes a struct tt with an empty folder and a context. The teardown removes the folder, and fails
 * the test when heap is still held. */
int tt_setup(void **state);
int tt_teardown(void **state);
#define TT_TEST(function) cmocka_unit_test_setup_teardown(function, tt_setup, tt_teardown)

/* A path in the test's folder; valid for 15 further calls. */
const char *tt_path(struct tt *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The status, shown with its message when it is not the expected one. A call that succeeds leaves t->err alone. */
#define tt_expect(t, call, expected) tt_expect_(t, (tt_no_error(t), call), expected, #call, __FILE__, __LINE__)
void tt_no_error(struct tt *t);
void tt_expect_(struct tt *t, tn_status got, tn_status expected, const char *call, const char *file, int line);
#define tt_ok(t, call) tt_expect(t, call, TN_OK)

/* Fails the test when the last error's message or `where` does not hold the text. */
void tt_expect_msg(const struct tt *t, const char *text);

/* ---- files ----------------------------------------------------------------------------------------------- */

/* Without cmocka, for programs that run in a child process or are no cmocka programs: these abort on failure. */
char *tt_make_folder(char folder[64]);
void tt_remove_tree(const char *path);
void tt_write_file(const char *path, const void *bytes, size_t n);
void tt_write_text(const char *path, const char *text);
/* A file without a folder, in memory; every call replaces what the last one put there. */
const char *tt_memory_file(const void *bytes, size_t n);
/* Length word, header, data. */
void tt_write_st(const char *path, const char *header, const void *data, size_t n);
/* The whole file, with a NUL behind it; the caller frees it. NULL when there is none. */
unsigned char *tt_read_file(const char *path, size_t *n);
int tt_exists(const char *path);
/* Number of entries of a folder, hidden ones too. */
size_t tt_count_entries(const char *path);
/* One text for everything below a folder: names, kinds and a hash of the bytes. The caller frees it. */
char *tt_describe_tree(const char *path);

/* ---- guarded memory -------------------------------------------------------------------------------------- */

/* Memory that ends, or begins, where no page is: one byte too far is a crash. */
struct tt_guard {
	unsigned char *map;
	size_t map_bytes;
	unsigned char *at_end;   /* `bytes` bytes that end at a guard page */
	unsigned char *at_begin; /* `bytes` bytes that begin behind one */
};
void tt_guard_make(struct tt_guard *g, size_t bytes);
void tt_guard_free(struct tt_guard *g);

/* ---- programs that check by parts --------------------------------------------------------------------------- */

/* 1 when the command line names the part, or no part at all; options, "--...", name none. */
int tt_is_chosen(int argc, char **argv, const char *part);

/* ---- numbers --------------------------------------------------------------------------------------------- */

/* A counter hash: the same numbers in every run. */
uint64_t tt_random(uint64_t *state);

#endif
