/* SPDX-License-Identifier: Apache-2.0 */
/* A quantized fuse that fails in its last shard and is taken up again: the same bytes, and the same numbers in the receipt, of
 * shards that the first run had finished too. */
#include "fuselib.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 64 };

static void make_base(struct tt *t, const char *folder)
{
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	tn_checkpoint *dense;
	tn_recode *plan;
	request.quantize = 1;
	request.shard_bytes = 500000;
	tt_ok(t, tn_checkpoint_open(t->ctx, FUSE_EXAMPLES "/base", &dense, &t->err));
	tt_ok(t, tn_recode_plan(t->ctx, dense, &request, &plan, &t->err));
	assert_true(tn_recode_shard_count(plan) > 2);
	tt_ok(t, tn_recode_run(plan, folder, 0, &t->err));
	tn_recode_free(plan);
	tn_checkpoint_close(dense);
}

struct opened {
	tn_context *ctx;
	tn_checkpoint *base;
	tn_adapter *adapter;
	tn_fuse *fuse;
};

static void open_job(struct tt *t, struct opened *o, const char *base, unsigned threads)
{
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	struct tn_options surroundings = TN_OPTIONS_INIT;
	surroundings.allocator = tt_heap_allocator(&t->heap);
	surroundings.threads = threads;
	tt_ok(t, tn_context_create(&surroundings, &o->ctx, &t->err));
	options.weight = 0.25;
	options.rounding = TN_ROUNDING_DITHER; /* to choose one would read the whole base first */
	tt_ok(t, tn_checkpoint_open(o->ctx, base, &o->base, &t->err));
	tt_ok(t, tn_adapter_open(o->ctx, FUSE_EXAMPLES "/adapters/whisper", &o->adapter, &t->err));
	tt_ok(t, tn_fuse_plan(o->ctx, o->base, o->adapter, &options, &o->fuse, &t->err));
}

static void close_job(struct opened *o)
{
	tn_fuse_free(o->fuse);
	tn_adapter_close(o->adapter);
	tn_checkpoint_close(o->base);
	tn_context_destroy(o->ctx);
}

static size_t survivals(const tn_fuse *fuse, struct tn_survival out[MOST])
{
	size_t n = 0;
	for (size_t i = 0; i < tn_fuse_count(fuse) && n < MOST; i++)
		if (tn_fuse_at(fuse, i)->survival)
			out[n++] = *tn_fuse_at(fuse, i)->survival;
	return n;
}

/* Cuts the last shard of an open base, and puts back what it was, with its time: the inputs of the second run are the same. */
struct cut {
	char path[4200];
	unsigned char *bytes;
	size_t n;
	struct stat st;
};

static void cut_last(struct cut *cut, const tn_checkpoint *base, const char *folder)
{
	const char *name = tn_checkpoint_shard_name(base, tn_checkpoint_shard_count(base) - 1);
	snprintf(cut->path, sizeof cut->path, "%s/%s", folder, name);
	cut->bytes = tt_read_file(cut->path, &cut->n);
	assert_int_equal(stat(cut->path, &cut->st), 0);
	assert_int_equal(truncate(cut->path, (off_t)cut->n / 2), 0);
}

static void mend(struct cut *cut)
{
	struct timespec times[] = { cut->st.st_atim, cut->st.st_mtim };
	int fd = open(cut->path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, cut->bytes, cut->n, 0), cut->n);
	close(fd);
	assert_int_equal(utimensat(AT_FDCWD, cut->path, times, 0), 0);
	free(cut->bytes);
}

static void same_files(const tn_checkpoint *base, const char *a, const char *b)
{
	for (size_t i = 0; i < tn_checkpoint_shard_count(base); i++) {
		char path[4300];
		size_t n, m;
		snprintf(path, sizeof path, "%s/%s", a, tn_checkpoint_shard_name(base, i));
		unsigned char *x = tt_read_file(path, &n);
		snprintf(path, sizeof path, "%s/%s", b, tn_checkpoint_shard_name(base, i));
		unsigned char *y = tt_read_file(path, &m);
		assert_int_equal(n, m);
		assert_memory_equal(x, y, n);
		free(x);
		free(y);
	}
}

/* The journal speaks of shards that are finished. */
static int has_sums(struct tt *t)
{
	char path[4200];
	size_t n;
	snprintf(path, sizeof path, "%s/.out.tenon-journal", t->folder);
	char *text = (char *)tt_read_file(path, &n);
	assert_non_null(text);
	int found = strstr(text, "\n/sums ") != NULL && strstr(text, "\nmodel-00001") != NULL;
	free(text);
	return found;
}

static void numbers_outlive_a_failure(void **state)
{
	struct tt *t = *state;
	char base[4096], whole[4096], out[4096];
	struct tn_survival wanted[MOST], found[MOST];
	struct opened job;
	struct cut cut;
	snprintf(base, sizeof base, "%s/base", t->folder);
	snprintf(whole, sizeof whole, "%s/whole", t->folder);
	snprintf(out, sizeof out, "%s/out", t->folder);
	make_base(t, base);
	open_job(t, &job, base, 2);
	tt_ok(t, tn_fuse_run(job.fuse, whole, 0, &t->err));
	size_t n = survivals(job.fuse, wanted);
	assert_int_equal(n, 42);
	close_job(&job);

	open_job(t, &job, base, 1); /* block by block: the shards before the cut one are finished when it fails */
	cut_last(&cut, job.base, base);
	assert_int_equal(tn_fuse_run(job.fuse, out, TN_SAVE_RESUME, &t->err), TN_E_IO);
	mend(&cut);
	close_job(&job);
	assert_true(has_sums(t));

	open_job(t, &job, base, 2);
	tt_ok(t, tn_fuse_run(job.fuse, out, TN_SAVE_RESUME, &t->err));
	assert_int_equal(survivals(job.fuse, found), n);
	for (size_t i = 0; i < n; i++) {
		assert_true(found[i].cap == wanted[i].cap && found[i].noise == wanted[i].noise && found[i].rho == wanted[i].rho);
		assert_true(found[i].changed == wanted[i].changed && found[i].rounding == wanted[i].rounding);
	}
	same_files(job.base, whole, out);
	close_job(&job);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(numbers_outlive_a_failure) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
