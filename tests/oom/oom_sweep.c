/* SPDX-License-Identifier: Apache-2.0 */
/* The n-th allocation fails, for n = 1, 2, ... until a run needs fewer; then again with all behind the n-th failing too.
 * TEST_STEP=N in the environment: every N-th of them.
 * Every run must succeed or give TN_E_NOMEM, hold nothing afterwards, and on failure leave the folder as it was.
 *
 * Linked with -Wl,--wrap for malloc and its family, and with the static jansson, so that its allocations count too. */
#include "oom.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct oom_scenario *const scenarios[] = {
	&oom_context, &oom_open_file, &oom_open_folder, &oom_load, &oom_write, &oom_replace,
	&oom_fuse, &oom_verify, &oom_quantize, &oom_dequantize,
	&oom_fuse_packed, &oom_list, &oom_speak, &oom_live, &oom_clear,
};

/* ---- malloc ---------------------------------------------------------------------------------------------- */

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
void __wrap_free(void *p);

static struct {
	int armed;              /* allocations are counted */
	int all_behind;         /* the n-th and all behind it fail */
	size_t calls, fail_at;
	long live;
} heap;

static int may_allocate(void)
{
	if (!heap.armed)
		return 1;
	heap.calls++;
	return heap.all_behind ? heap.calls < heap.fail_at : heap.calls != heap.fail_at;
}

static void *counted(void *p)
{
	if (p && heap.armed)
		heap.live++;
	return p;
}

void *__wrap_malloc(size_t n)
{
	return may_allocate() ? counted(__real_malloc(n)) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
	return may_allocate() ? counted(__real_calloc(count, size)) : NULL;
}

void *__wrap_realloc(void *p, size_t n)
{
	if (!may_allocate())
		return NULL;
	return p ? __real_realloc(p, n) : counted(__real_realloc(NULL, n));
}

int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
	int failed = may_allocate() ? __real_posix_memalign(out, align, n) : ENOMEM;
	if (!failed)
		counted(*out);
	return failed;
}

void __wrap_free(void *p)
{
	if (p && heap.armed)
		heap.live--;
	__real_free(p);
}

/* ---- the sweep ------------------------------------------------------------------------------------------- */

void oom_require(int holds, const char *what)
{
	if (holds)
		return;
	heap.armed = 0;
	fprintf(stderr, "oom: allocation %zu fails%s: %s\n", heap.fail_at, heap.all_behind ? " and all behind it" : "", what);
	abort();
}

static tn_status run_once(const struct oom_scenario *s, const char *folder, struct tn_error *err)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx = NULL;
	options.threads = 1;
	if (!s->without_context)
		oom_require(tn_context_create(&options, &ctx, NULL) == TN_OK, "no context");
	heap.calls = 0;
	heap.live = 0;
	heap.armed = 1;
	tn_status status = s->run(ctx, folder, err);
	heap.armed = 0;
	tn_context_destroy(ctx);
	return status;
}

/* One run in a folder of its own; 1 when the allocation that was to fail was never asked for. */
static int step(const struct oom_scenario *s)
{
	char folder[64];
	struct tn_error error;
	memset(&error, 0, sizeof error);
	tt_make_folder(folder);
	s->prepare(folder);
	char *before = tt_describe_tree(folder);
	tn_status status = run_once(s, folder, &error);
	if (status != TN_OK && status != TN_E_NOMEM)
		fprintf(stderr, "%s: where '%s': %s\n", tn_status_name(status), error.where, error.msg);
	oom_require(status == TN_OK || status == TN_E_NOMEM, "another status than TN_E_NOMEM");
	oom_require(status == TN_OK || (error.code == TN_E_NOMEM && error.msg[0]), "an error without words");
	oom_require(status != TN_OK || error.code == TN_OK, "what succeeded has touched the error");
	oom_require(heap.live == 0, "memory is still held");
	if (status != TN_OK) {
		char *after = tt_describe_tree(folder);
		if (strcmp(before, after) != 0)
			fprintf(stderr, "before:\n%safter:\n%s", before, after);
		oom_require(strcmp(before, after) == 0, "the folder changed");
		free(after);
	}
	free(before);
	tt_remove_tree(folder);
	int enough = heap.calls < heap.fail_at;
	if (enough)
		oom_require(status == TN_OK, "a failure without cause");
	return enough;
}

static int matches(int argc, char **argv, const char *name)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return 1;
	return argc < 2;
}

int main(int argc, char **argv)
{
	const char *every = getenv("TEST_STEP");
	size_t ran = 0, stride = every ? (size_t)strtoul(every, NULL, 10) : 1;
	if (stride == 0) {
		fprintf(stderr, "oom: TEST_STEP is '%s'; a number above 0 was expected\n", every);
		return 2;
	}
	for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
		if (!matches(argc, argv, scenarios[i]->name))
			continue;
		for (heap.all_behind = 0; heap.all_behind < 2; heap.all_behind++) {
			heap.fail_at = 1;
			while (!step(scenarios[i]))
				heap.fail_at += stride;
		}
		printf("%-12s %zu allocations\n", scenarios[i]->name, heap.calls);
		oom_require(heap.fail_at > 1, "nothing was allocated");
		ran++;
	}
	return ran == 0;
}
