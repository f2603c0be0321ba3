/* SPDX-License-Identifier: Apache-2.0 */
/* Runs that are taken up again. The interrupted one is a child process that ends without a word. */
#include "testlib.h"

#include "store/staging.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const unsigned char plan_a[TN_PLAN_ID_BYTES] = { 1, 2, 3 };
static const unsigned char plan_b[TN_PLAN_ID_BYTES] = { 1, 2, 4 };

static struct tn_staging *begin(struct tt *t, const unsigned char *plan_id, int resume)
{
	struct tn_staging *s = NULL;
	tt_ok(t, tn_staging_begin_plan(t->ctx, tt_path(t, "out"), 0, plan_id, resume, &s, &t->err));
	return s;
}

static void write_noted(struct tt *t, struct tn_staging *s, const char *name)
{
	tt_ok(t, tn_staging_write(s, name, name, strlen(name), &t->err));
	tt_ok(t, tn_staging_note(s, name, &t->err));
}

/* A run that finishes one and two, has three in the works, and is killed. */
static void interrupted(struct tt *t)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct tn_staging *s = begin(t, plan_a, 0);
		write_noted(t, s, "one");
		write_noted(t, s, "two");
		tt_ok(t, tn_staging_write(s, "three", "thr", 3, &t->err));
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(tt_count_entries(t->folder), 2);
}

static void expect_state(const struct tn_staging *s, int one, int two)
{
	assert_int_equal(tn_staging_has(s, "one"), one);
	assert_int_equal(tn_staging_has(s, "two"), two);
	assert_false(tn_staging_has(s, "three"));
	assert_int_equal(tt_count_entries(tn_staging_folder(s)), (size_t)(one + two));
}

static void finished_files_stay(void **state)
{
	struct tt *t = *state;
	interrupted(t);
	struct tn_staging *s = begin(t, plan_a, 1);
	expect_state(s, 1, 1);
	write_noted(t, s, "three");
	tt_ok(t, tn_staging_commit(s, &t->err));
	assert_int_equal(tt_count_entries(t->folder), 1);
	assert_int_equal(tt_count_entries(tt_path(t, "out")), 3);
}

static void all_goes_without_resume(void **state)
{
	struct tt *t = *state;
	interrupted(t);
	struct tn_staging *s = begin(t, plan_a, 0);
	expect_state(s, 0, 0);
	tn_staging_abort(s);
	assert_int_equal(tt_count_entries(t->folder), 0);
}

static void all_goes_for_another_plan(void **state)
{
	struct tt *t = *state;
	interrupted(t);
	struct tn_staging *s = begin(t, plan_b, 1);
	expect_state(s, 0, 0);
	tt_ok(t, tn_staging_commit(s, &t->err));
	assert_int_equal(tt_count_entries(t->folder), 1);
}

/* A journal of files that are not there could vouch for a half-written one later. */
static void a_missing_file_makes_the_journal_worthless(void **state)
{
	struct tt *t = *state;
	interrupted(t);
	assert_int_equal(unlink(tt_path(t, ".out.tenon-part/one")), 0);
	struct tn_staging *s = begin(t, plan_a, 1);
	expect_state(s, 0, 0);
	tt_ok(t, tn_staging_commit(s, &t->err));
}

static void a_cut_line_does_not_count(void **state)
{
	struct tt *t = *state;
	interrupted(t);
	size_t n;
	unsigned char *journal = tt_read_file(tt_path(t, ".out.tenon-journal"), &n);
	tt_write_file(tt_path(t, ".out.tenon-journal"), journal, n - 1); /* "two" without its end */
	free(journal);
	struct tn_staging *s = begin(t, plan_a, 1);
	expect_state(s, 1, 0);
	write_noted(t, s, "two");
	assert_false(tn_staging_has(s, "two")); /* this run's own: an earlier one did not finish it */
	tn_staging_abort(s);
}

static void damaged_journals_count_for_nothing(void **state)
{
	static const char *const texts[] = { "", "tenon", "tenon journal \n", "one\ntwo\n", "\n\n\n", "\xff\xfe" };
	struct tt *t = *state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		interrupted(t);
		tt_write_text(tt_path(t, ".out.tenon-journal"), texts[i]);
		struct tn_staging *s = begin(t, plan_a, 1);
		expect_state(s, 0, 0);
		tt_ok(t, tn_staging_commit(s, &t->err));
		tt_remove_tree(tt_path(t, "out"));
	}
}

static void a_failed_run_with_resume_leaves_its_files(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = begin(t, plan_a, 1);
	write_noted(t, s, "one");
	tn_staging_abort(s);
	s = begin(t, plan_a, 1);
	expect_state(s, 1, 0);
	write_noted(t, s, "two");
	tt_ok(t, tn_staging_commit(s, &t->err));
	assert_int_equal(tt_count_entries(tt_path(t, "out")), 2);
}

/* A run whose finished files are the only copy: nothing clears them away but the end of the same plan. */
static void only_copies_stay(void **state)
{
	struct tt *t = *state;
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct tn_staging *s = begin(t, plan_a, 0);
		tt_ok(t, tn_staging_remark(s, "/found 7", &t->err));
		write_noted(t, s, "one");
		tt_ok(t, tn_staging_protect(s, &t->err));
		tt_ok(t, tn_staging_remark(s, "/found 8", &t->err));
		write_noted(t, s, "two");
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	struct tn_staging *s = NULL;
	const char *out = tt_path(t, "out");
	assert_int_equal(tn_staging_begin_plan(t->ctx, out, 0, plan_a, 0, &s, &t->err), TN_E_EXISTS);
	assert_int_equal(tn_staging_begin_plan(t->ctx, out, 0, plan_b, 1, &s, &t->err), TN_E_EXISTS);
	assert_int_equal(tn_staging_begin(t->ctx, out, 1, &s, &t->err), TN_E_EXISTS);
	assert_int_equal(tn_staging_settle(t->ctx, out), 0);
	struct tn_buffer remarks;
	tt_ok(t, tn_staging_remarks(t->ctx, out, plan_b, &remarks, &t->err));
	assert_string_equal(remarks.data, "");
	tn_buffer_release(t->ctx, &remarks);
	tt_ok(t, tn_staging_remarks(t->ctx, out, plan_a, &remarks, &t->err));
	assert_string_equal(remarks.data, "/found 7\n/only copy\n/found 8\n");
	tn_buffer_release(t->ctx, &remarks);
	s = begin(t, plan_a, 1);
	expect_state(s, 1, 1);
	tt_ok(t, tn_staging_protect(s, &t->err));
	tn_staging_abort(s); /* a failure leaves them too */
	s = begin(t, plan_a, 1);
	expect_state(s, 1, 1);
	tt_ok(t, tn_staging_protect(s, &t->err));
	tt_ok(t, tn_staging_commit(s, &t->err));
	assert_int_equal(tt_count_entries(t->folder), 1);
	assert_int_equal(tn_staging_settle(t->ctx, out), 1);
}

/* A run that has begun to use its input up, and is killed. A crash of the system may leave anything behind the last line that
 * was durable. */
static void protected_and_interrupted(struct tt *t)
{
	size_t n;
	struct tn_staging *s = begin(t, plan_a, 1);
	write_noted(t, s, "one\xe8");
	tt_ok(t, tn_staging_protect(s, &t->err));
	tn_staging_abort(s);
	unsigned char *journal = tt_read_file(tt_path(t, ".out.tenon-journal"), &n);
	unsigned char *longer = malloc(n + 4);
	assert_non_null(longer);
	memcpy(longer, journal, n);
	memcpy(longer + n, "\xff\xfe\0\x80", 4);
	tt_write_file(tt_path(t, ".out.tenon-journal"), longer, n + 4);
	free(longer);
	free(journal);
}

static void an_only_copy_outlives_a_damaged_journal(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = NULL;
	protected_and_interrupted(t);
	tt_expect(t, tn_staging_begin_plan(t->ctx, tt_path(t, "out"), 0, plan_b, 0, &s, &t->err), TN_E_EXISTS);
	tt_expect(t, tn_staging_begin_plan(t->ctx, tt_path(t, "out"), 0, plan_b, 1, &s, &t->err), TN_E_EXISTS);
	s = begin(t, plan_a, 1);
	assert_true(tn_staging_has(s, "one\xe8"));
	tt_ok(t, tn_staging_commit(s, &t->err));
}

static void a_journal_that_cannot_be_read_may_protect(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = NULL;
	interrupted(t);
	assert_int_equal(rename(tt_path(t, ".out.tenon-journal"), tt_path(t, "journal")), 0);
	assert_int_equal(mkdir(tt_path(t, ".out.tenon-journal"), 0777), 0);
	tt_expect(t, tn_staging_begin_plan(t->ctx, tt_path(t, "out"), 0, plan_a, 0, &s, &t->err), TN_E_IO);
	tt_expect(t, tn_staging_begin_plan(t->ctx, tt_path(t, "out"), 0, plan_a, 1, &s, &t->err), TN_E_IO);
	assert_int_equal(tt_count_entries(tt_path(t, ".out.tenon-part")), 3);
}

static void the_journal_of_an_only_copy_stays_when_that_is_elsewhere(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = NULL;
	protected_and_interrupted(t);
	assert_int_equal(rename(tt_path(t, ".out.tenon-part"), tt_path(t, "elsewhere")), 0);
	tt_expect(t, tn_staging_begin_plan(t->ctx, tt_path(t, "out"), 0, plan_b, 0, &s, &t->err), TN_E_EXISTS);
	assert_int_equal(rename(tt_path(t, "elsewhere"), tt_path(t, ".out.tenon-part")), 0);
	s = begin(t, plan_a, 1);
	assert_true(tn_staging_has(s, "one\xe8"));
	tt_ok(t, tn_staging_commit(s, &t->err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(finished_files_stay),
		TT_TEST(all_goes_without_resume),
		TT_TEST(all_goes_for_another_plan),
		TT_TEST(a_missing_file_makes_the_journal_worthless),
		TT_TEST(a_cut_line_does_not_count),
		TT_TEST(damaged_journals_count_for_nothing),
		TT_TEST(a_failed_run_with_resume_leaves_its_files),
		TT_TEST(only_copies_stay),
		TT_TEST(an_only_copy_outlives_a_damaged_journal),
		TT_TEST(a_journal_that_cannot_be_read_may_protect),
		TT_TEST(the_journal_of_an_only_copy_stays_when_that_is_elsewhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
