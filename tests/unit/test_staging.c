/* SPDX-License-Identifier: Apache-2.0 */
/* What a crash leaves is in tests/crash. */
#include "testlib.h"

#include "store/staging.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct tn_staging *begin(struct tt *t, const char *path, int force)
{
	struct tn_staging *s = NULL;
	tt_ok(t, tn_staging_begin(t->ctx, path, force, &s, &t->err));
	return s;
}

static void refuse(struct tt *t, const char *path, int force, tn_status expected)
{
	struct tn_staging *s = NULL;
	char *before = tt_describe_tree(t->folder);
	tt_expect(t, tn_staging_begin(t->ctx, path, force, &s, &t->err), expected);
	assert_null(s);
	char *after = tt_describe_tree(t->folder);
	assert_string_equal(before, after); /* nothing is left behind */
	free(before);
	free(after);
}

static void expect_text(const char *path, const char *text)
{
	unsigned char *bytes = tt_read_file(path, NULL);
	assert_non_null(bytes);
	assert_string_equal((char *)bytes, text);
	free(bytes);
}

static void commit(struct tt *t, const char *path, int force, const char *text)
{
	struct tn_staging *s = begin(t, path, force);
	tt_ok(t, tn_staging_write(s, "config.json", text, strlen(text), &t->err));
	tt_ok(t, tn_staging_commit(s, &t->err));
}

static void committed_whole(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = begin(t, tt_path(t, "out"), 0);
	assert_false(tt_exists(tt_path(t, "out")));
	tt_write_text(tt_path(t, "source"), "sidecar");
	tt_ok(t, tn_staging_write(s, "config.json", "{}", 2, &t->err));
	tt_ok(t, tn_staging_write(s, "empty.txt", "", 0, &t->err));
	tt_ok(t, tn_staging_copy(s, tt_path(t, "source"), "tokenizer.json", &t->err));
	tt_ok(t, tn_staging_copy(s, tt_path(t, "source"), "additional_chat_templates/tool.jinja", &t->err));
	tt_ok(t, tn_staging_copy(s, tt_path(t, "source"), "additional_chat_templates/b.jinja", &t->err));
	tt_expect(t, tn_staging_write(s, "config.json", "{}", 2, &t->err), TN_E_IO);
	tt_expect(t, tn_staging_copy(s, tt_path(t, "absent"), "x", &t->err), TN_E_NOTFOUND);
	tt_ok(t, tn_staging_commit(s, &t->err));
	expect_text(tt_path(t, "out/config.json"), "{}");
	expect_text(tt_path(t, "out/empty.txt"), "");
	expect_text(tt_path(t, "out/tokenizer.json"), "sidecar");
	expect_text(tt_path(t, "out/additional_chat_templates/tool.jinja"), "sidecar");
	assert_int_equal(tt_count_entries(t->folder), 2);
	assert_int_equal(tt_count_entries(tt_path(t, "out")), 4);
}

static void abort_leaves_nothing(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = begin(t, tt_path(t, "a/b/c/out"), 0);
	tt_write_text(tt_path(t, "source"), "x");
	tt_ok(t, tn_staging_write(s, "config.json", "{}", 2, &t->err));
	tt_ok(t, tn_staging_copy(s, tt_path(t, "source"), "additional_chat_templates/x", &t->err));
	tn_staging_abort(s);
	tn_staging_abort(NULL);
	assert_int_equal(tt_count_entries(t->folder), 1);
	assert_int_equal(mkdir(tt_path(t, "kept"), 0700), 0);
	tn_staging_abort(begin(t, tt_path(t, "kept/new/out"), 0));
	assert_int_equal(tt_count_entries(tt_path(t, "kept")), 0);
	commit(t, tt_path(t, "out"), 0, "old");
	s = begin(t, tt_path(t, "out"), 1);
	tt_ok(t, tn_staging_write(s, "config.json", "new", 3, &t->err));
	tn_staging_abort(s);
	expect_text(tt_path(t, "out/config.json"), "old");
	assert_int_equal(tt_count_entries(t->folder), 3);
}

static void parents_are_made(void **state)
{
	struct tt *t = *state;
	commit(t, tt_path(t, "x/y/out///"), 0, "1");
	expect_text(tt_path(t, "x/y/out/config.json"), "1");
	commit(t, tt_path(t, "x//z/out"), 0, "2");
	expect_text(tt_path(t, "x/z/out/config.json"), "2");
	assert_int_equal(chdir(t->folder), 0);
	commit(t, "relative", 0, "3");
	commit(t, "rel/below", 0, "4");
	assert_int_equal(chdir("/"), 0);
	expect_text(tt_path(t, "relative/config.json"), "3");
	expect_text(tt_path(t, "rel/below/config.json"), "4");
}

static void paths_without_a_place(void **state)
{
	struct tt *t = *state;
	char large[300];
	memset(large, 'n', sizeof large - 1);
	large[sizeof large - 1] = '\0';
	refuse(t, "", 0, TN_E_ARG);
	refuse(t, "/", 0, TN_E_ARG);
	refuse(t, "///", 0, TN_E_ARG);
	refuse(t, tt_path(t, "."), 0, TN_E_ARG);
	refuse(t, tt_path(t, "x/.."), 0, TN_E_ARG);
	refuse(t, tt_path(t, "new/%s/out", large), 0, TN_E_IO);
	refuse(t, tt_path(t, "new/deep/%s", large), 0, TN_E_IO);
	tt_write_text(tt_path(t, "file"), "");
	refuse(t, tt_path(t, "file/out"), 0, TN_E_IO);
	refuse(t, tt_path(t, "file"), 1, TN_E_EXISTS);
}

static void what_stands_there_stays(void **state)
{
	struct tt *t = *state;
	assert_int_equal(mkdir(tt_path(t, "empty"), 0700), 0);
	commit(t, tt_path(t, "empty"), 0, "now full");
	refuse(t, tt_path(t, "empty"), 0, TN_E_EXISTS);
	tt_expect_msg(t, "--force");
	expect_text(tt_path(t, "empty/config.json"), "now full");
	assert_int_equal(symlink("empty", tt_path(t, "link")), 0);
	refuse(t, tt_path(t, "link"), 1, TN_E_EXISTS);
}

static void force_replaces_model_folders_only(void **state)
{
	struct tt *t = *state;
	commit(t, tt_path(t, "out"), 0, "old");
	tt_write_text(tt_path(t, "out/README.md"), "");
	tt_write_text(tt_path(t, "out/model.safetensors"), "");
	assert_int_equal(mkdir(tt_path(t, "out/additional_chat_templates"), 0700), 0);
	tt_write_text(tt_path(t, "out/additional_chat_templates/a.jinja"), "");
	commit(t, tt_path(t, "out"), 1, "new");
	expect_text(tt_path(t, "out/config.json"), "new");
	assert_int_equal(tt_count_entries(tt_path(t, "out")), 1);
	assert_int_equal(tt_count_entries(t->folder), 1);
	static const char *const strangers[] = { "thesis.odt", "adapters.safetensors", "model.gguf", "optimizer.pt", ".git",
						"data" };
	for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
		const char *path = tt_path(t, "out/%s", strangers[i]);
		if (i < 4)
			tt_write_text(path, "");
		else
			assert_int_equal(mkdir(path, 0700), 0);
		refuse(t, tt_path(t, "out"), 1, TN_E_EXISTS);
		tt_expect_msg(t, strangers[i]);
		assert_int_equal(remove(path), 0);
	}
}

static void force_does_not_replace_what_is_no_model(void **state)
{
	struct tt *t = *state;
	assert_int_equal(mkdir(tt_path(t, "out"), 0700), 0);
	tt_write_text(tt_path(t, "out/secrets.json"), "{}");
	tt_write_text(tt_path(t, "out/train.jsonl"), "");
	refuse(t, tt_path(t, "out"), 1, TN_E_EXISTS);
	tt_expect_msg(t, "holds no model");
}

/* Between the check at the beginning and the end of a long run, files of the user's may appear. */
static void files_that_appear_meanwhile(void **state)
{
	struct tt *t = *state;
	struct tn_staging *s = begin(t, tt_path(t, "out"), 0);
	tt_ok(t, tn_staging_write(s, "config.json", "new", 3, &t->err));
	assert_int_equal(mkdir(tt_path(t, "out"), 0700), 0);
	tt_write_text(tt_path(t, "out/config.json"), "the user's");
	tt_expect(t, tn_staging_commit(s, &t->err), TN_E_EXISTS);
	tn_staging_abort(s);
	expect_text(tt_path(t, "out/config.json"), "the user's");
	s = begin(t, tt_path(t, "out"), 1);
	tt_write_text(tt_path(t, "out/thesis.odt"), "");
	tt_expect(t, tn_staging_commit(s, &t->err), TN_E_EXISTS);
	tn_staging_abort(s);
	expect_text(tt_path(t, "out/thesis.odt"), "");
	assert_int_equal(tt_count_entries(t->folder), 1);
}

static void leftovers_are_cleared(void **state)
{
	struct tt *t = *state;
	assert_int_equal(mkdir(tt_path(t, ".out.tenon-part"), 0700), 0);
	tt_write_text(tt_path(t, ".out.tenon-part/model.safetensors"), "half");
	assert_int_equal(mkdir(tt_path(t, ".out.tenon-part/additional_chat_templates"), 0700), 0);
	tt_write_text(tt_path(t, ".out.tenon-part/additional_chat_templates/x"), "half");
	tt_write_text(tt_path(t, "precious"), "");
	assert_int_equal(symlink("../precious", tt_path(t, ".out.tenon-part/link")), 0);
	commit(t, tt_path(t, "out"), 0, "whole");
	assert_int_equal(tt_count_entries(t->folder), 2);
	assert_int_equal(tt_count_entries(tt_path(t, "out")), 1);
	/* a link in the place of the hidden folder is not followed */
	assert_int_equal(mkdir(tt_path(t, "elsewhere"), 0700), 0);
	tt_write_text(tt_path(t, "elsewhere/precious"), "");
	assert_int_equal(symlink("elsewhere", tt_path(t, ".b.tenon-part")), 0);
	refuse(t, tt_path(t, "b"), 0, TN_E_IO);
}

static void another_process_holds_the_lock(void **state)
{
	struct tt *t = *state;
	int ready[2], stop[2];
	char byte = 0;
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(stop), 0);
	pid_t child = fork();
	if (child == 0) {
		struct tn_staging *s;
		int ok = tn_staging_begin(t->ctx, tt_path(t, "out"), 0, &s, NULL) == TN_OK &&
			 write(ready[1], &byte, 1) == 1 && read(stop[0], &byte, 1) == 1;
		if (ok)
			tn_staging_abort(s);
		_exit(!ok);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	refuse(t, tt_path(t, "out"), 0, TN_E_EXISTS);
	tt_expect_msg(t, "another tenon");
	assert_int_equal(write(stop[1], &byte, 1), 1);
	int status = 1;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(stop[i]);
	}
	commit(t, tt_path(t, "out"), 0, "mine");
}

/* The hidden folder is made and cannot be opened: it must not stay. */
static void no_descriptor_left(void **state)
{
	struct tt *t = *state;
	struct rlimit old, none;
	struct tn_staging *s = NULL;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	tn_status status = tn_staging_begin(t->ctx, tt_path(t, "p/out"), 0, &s, &t->err);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(status, TN_E_IO);
	assert_int_equal(tt_count_entries(t->folder), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(committed_whole),          TT_TEST(abort_leaves_nothing),
		TT_TEST(parents_are_made),         TT_TEST(paths_without_a_place),
		TT_TEST(what_stands_there_stays),  TT_TEST(force_replaces_model_folders_only),
		TT_TEST(force_does_not_replace_what_is_no_model),
		TT_TEST(files_that_appear_meanwhile), TT_TEST(leftovers_are_cleared),
		TT_TEST(another_process_holds_the_lock), TT_TEST(no_descriptor_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
