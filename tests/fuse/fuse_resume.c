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

static void open_job_with(struct tt *t, struct opened *o, const char *base, const char *adapter, unsigned threads)
{
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	struct tn_options surroundings = TN_OPTIONS_INIT;
	surroundings.allocator = tt_heap_allocator(&t->heap);
	surroundings.threads = threads;
	tt_ok(t, tn_context_create(&surroundings, &o->ctx, &t->err));
	options.weight = 0.25;
	options.rounding = TN_ROUNDING_DITHER; /* to choose one would read the whole base first */
	tt_ok(t, tn_checkpoint_open_consumed(o->ctx, base, &o->base, &t->err));
	tt_ok(t, tn_adapter_open(o->ctx, adapter, &o->adapter, &t->err));
	tt_ok(t, tn_fuse_plan(o->ctx, o->base, o->adapter, &options, &o->fuse, &t->err));
}

static void open_job(struct tt *t, struct opened *o, const char *base, unsigned threads)
{
	open_job_with(t, o, base, FUSE_EXAMPLES "/adapters/whisper", threads);
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

/* Cuts the last shard of an open base, and puts back what it was, both with its time: the inputs of the two runs are the same. */
struct cut {
	char path[4200];
	unsigned char *bytes;
	size_t n;
	struct stat st;
};

static void keep_time(const struct cut *cut)
{
	struct timespec times[] = { cut->st.st_atim, cut->st.st_mtim };
	assert_int_equal(utimensat(AT_FDCWD, cut->path, times, 0), 0);
}

static void cut_last(struct cut *cut, const tn_checkpoint *base, const char *folder)
{
	const char *name = tn_checkpoint_shard_name(base, tn_checkpoint_shard_count(base) - 1);
	snprintf(cut->path, sizeof cut->path, "%s/%s", folder, name);
	cut->bytes = tt_read_file(cut->path, &cut->n);
	assert_int_equal(stat(cut->path, &cut->st), 0);
	assert_int_equal(truncate(cut->path, (off_t)cut->n / 2), 0);
	keep_time(cut);
}

static void mend(struct cut *cut)
{
	int fd = open(cut->path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, cut->bytes, cut->n, 0), cut->n);
	close(fd);
	keep_time(cut);
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

/* A fuse that uses its base up and fails in the last shard. */
static void use_up(struct tt *t, const char *base, const char *out)
{
	struct opened job;
	struct cut cut;
	open_job(t, &job, base, 1);
	cut_last(&cut, job.base, base);
	assert_int_equal(tn_fuse_run(job.fuse, out, TN_SAVE_CONSUME, &t->err), TN_E_IO);
	mend(&cut);
	close_job(&job);
}

/* What an interrupted run is known by is written down here: versions of tenon to come must give the same 32 bytes, or a model that
 * is half used up can be finished by nobody but the version that began it. A change that makes other bytes of the same plan raises
 * TN_RESULTS_VERSION (transform/plan_id.h) and sets this anew. */
static void known_by_content_alone(struct tt *t)
{
	static const char expected[] = "tenon journal b334b8e2e7ee8f159ac55ee58376c0fa94956e19fdddc4a7a98ed47e507a86d0\n";
	char path[4200];
	size_t n;
	snprintf(path, sizeof path, "%s/.used.tenon-journal", t->folder);
	char *text = (char *)tt_read_file(path, &n);
	assert_non_null(text);
	text[strcspn(text, "\n") + 1] = '\0';
	assert_string_equal(text, expected);
	free(text);
}

static void expect_refusal(struct tt *t, const char *base, const char *out, unsigned flags, tn_status code, const char *text)
{
	struct opened job;
	open_job(t, &job, base, 1);
	assert_int_equal(tn_fuse_run(job.fuse, out, TN_SAVE_CONSUME | flags, &t->err), code);
	close_job(&job);
	tt_expect_msg(t, text);
}

/* The refusal while `name` of the test's folder is elsewhere. */
static void expect_missed(struct tt *t, const char *name, const char *base, const char *out, tn_status code, const char *text)
{
	char path[4200], away[4200];
	snprintf(path, sizeof path, "%s/%s", t->folder, name);
	snprintf(away, sizeof away, "%s/away", t->folder);
	assert_int_equal(rename(path, away), 0);
	expect_refusal(t, base, out, TN_SAVE_RESUME, code, text);
	assert_int_equal(rename(away, path), 0);
}

/* Each refusal names what is to be done about it. */
static void what_is_in_the_way_is_said(struct tt *t, const char *base, const char *out)
{
	expect_refusal(t, base, out, 0, TN_E_EXISTS, "go on with --resume");
	expect_refusal(t, base, base, TN_SAVE_RESUME, TN_E_ARG, "is an input");
	expect_missed(t, ".used.tenon-journal", base, out, TN_E_NOTFOUND, ".tenon-journal) and the hidden folder back");
	expect_missed(t, ".used.tenon-part", base, out, TN_E_EXISTS, "put the others back");
}

/* The words of the error for what was begun, and for what was asked for. */
static void expect_two_plans(const struct tt *t, const char *second_words)
{
	const char *first = strstr(t->err.msg, "[tenon "), *second = first ? strstr(first + 1, "[tenon ") : NULL;
	if (!second || strncmp(strstr(first, "adapter"), strstr(second, "adapter"), 36) == 0 || !strstr(second, second_words))
		fail_msg("%s", t->err.msg);
}

static void a_base_that_is_used_up_goes_with_a_copy_of_the_adapter(void **state)
{
	struct tt *t = *state;
	char base[4096], whole[4096], used[4096], copy[4096], command[9000];
	struct opened job;
	snprintf(base, sizeof base, "%s/base", t->folder);
	snprintf(whole, sizeof whole, "%s/whole", t->folder);
	snprintf(used, sizeof used, "%s/used", t->folder);
	snprintf(copy, sizeof copy, "%s/copy", t->folder);
	make_base(t, base);
	open_job(t, &job, base, 2);
	tt_ok(t, tn_fuse_run(job.fuse, whole, 0, &t->err));
	close_job(&job);
	use_up(t, base, used);
	known_by_content_alone(t);

	open_job_with(t, &job, base, FUSE_EXAMPLES "/adapters/pirate", 1);
	assert_int_equal(tn_fuse_run(job.fuse, used, TN_SAVE_CONSUME | TN_SAVE_RESUME, &t->err), TN_E_EXISTS);
	close_job(&job);
	expect_two_plans(t, "x 0.25, rounding dither]");
	what_is_in_the_way_is_said(t, base, used);

	snprintf(command, sizeof command, "cp -R '%s' '%s' && echo >>'%s/adapter_config.json'", FUSE_EXAMPLES "/adapters/whisper",
		 copy, copy);
	assert_int_equal(system(command), 0);
	open_job_with(t, &job, base, copy, 1);
	assert_int_equal(tn_fuse_run(job.fuse, used, TN_SAVE_CONSUME | TN_SAVE_RESUME, &t->err), TN_E_EXISTS);
	close_job(&job);
	expect_two_plans(t, "x 0.25, rounding dither]");
	snprintf(command, sizeof command, "cp '%s'/* '%s'", FUSE_EXAMPLES "/adapters/whisper", copy);
	assert_int_equal(system(command), 0);
	open_job_with(t, &job, base, copy, 2);
	tt_ok(t, tn_fuse_run(job.fuse, used, TN_SAVE_CONSUME | TN_SAVE_RESUME, &t->err));
	same_files(job.base, whole, used);
	close_job(&job);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(numbers_outlive_a_failure),
		TT_TEST(a_base_that_is_used_up_goes_with_a_copy_of_the_adapter),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
