/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void opens_regular_files_and_links_to_them(void **state)
{
	struct tt *t = *state;
	struct tn_file file = TN_FILE_CLOSED;
	tt_write_text(tt_path(t, "a"), "hello");
	assert_int_equal(symlink("a", tt_path(t, "link")), 0);
	tt_ok(t, tn_file_open(tt_path(t, "link"), &file, &t->err));
	assert_int_equal(file.bytes, 5);
	assert_true(fcntl(file.fd, F_GETFD) & FD_CLOEXEC);
	char text[6] = "";
	tt_ok(t, tn_file_read(&file, text, 5, 0, "a", &t->err));
	assert_string_equal(text, "hello");
	tt_ok(t, tn_file_read(&file, text, 0, 5, "a", &t->err));
	tn_file_close(&file);
	assert_int_equal(file.fd, -1);
	tn_file_close(&file);
}

/* A FIFO that nobody writes to would block an open for ever. */
static void refuses_everything_else(void **state)
{
	struct tt *t = *state;
	struct tn_file file = TN_FILE_CLOSED;
	assert_int_equal(mkfifo(tt_path(t, "fifo"), 0600), 0);
	assert_int_equal(mkdir(tt_path(t, "folder"), 0700), 0);
	assert_int_equal(symlink("loop", tt_path(t, "loop")), 0);
	assert_int_equal(symlink("nowhere", tt_path(t, "dangling")), 0);
	tt_write_text(tt_path(t, "plain"), "x");
	tt_expect(t, tn_file_open(tt_path(t, "fifo"), &file, &t->err), TN_E_IO);
	tt_expect_msg(t, "a FIFO");
	tt_expect(t, tn_file_open(tt_path(t, "folder"), &file, &t->err), TN_E_IO);
	tt_expect_msg(t, "a folder");
	assert_int_equal(t->err.sys_errno, EISDIR);
	tt_expect(t, tn_file_open("/dev/null", &file, &t->err), TN_E_IO);
	tt_expect_msg(t, "a character device");
	tt_expect(t, tn_file_open(tt_path(t, "loop"), &file, &t->err), TN_E_IO);
	assert_int_equal(t->err.sys_errno, ELOOP);
	tt_expect(t, tn_file_open(tt_path(t, "dangling"), &file, &t->err), TN_E_NOTFOUND);
	tt_expect(t, tn_file_open(tt_path(t, "absent"), &file, &t->err), TN_E_NOTFOUND);
	tt_expect_msg(t, "absent");
	tt_expect(t, tn_file_open(tt_path(t, "plain/below"), &file, &t->err), TN_E_IO);
	tt_expect(t, tn_file_open("", &file, &t->err), TN_E_NOTFOUND);
	assert_int_equal(file.fd, -1);
	assert_int_equal(tn_file_open("/dev/null", &file, NULL), TN_E_IO);
}

static void shortened_file_is_an_error(void **state)
{
	struct tt *t = *state;
	struct tn_file file;
	char bytes[64] = "";
	const char *path = tt_path(t, "a");
	tt_write_file(path, bytes, sizeof bytes);
	tt_ok(t, tn_file_open(path, &file, &t->err));
	assert_int_equal(truncate(path, 10), 0);
	tt_expect(t, tn_file_read(&file, bytes, sizeof bytes, 0, path, &t->err), TN_E_IO);
	assert_int_equal(t->err.pos, 10);
	tt_expect_msg(t, "shortened");
	tt_expect(t, tn_file_read(&file, bytes, 1, 1000, path, &t->err), TN_E_IO);
	tt_ok(t, tn_file_read(&file, bytes, 10, 0, path, &t->err));
	tn_file_close(&file);
}

/* Found by its name each time, and only itself. */
static void a_file_at_rest_takes_no_descriptor(void **state)
{
	struct tt *t = *state;
	struct tn_file file;
	char text[6] = "";
	int fd, folder = open(t->folder, O_RDONLY | O_DIRECTORY);
	tt_write_text(tt_path(t, "a"), "hello");
	tt_ok(t, tn_file_open(tt_path(t, "a"), &file, &t->err));
	tn_file_rest(&file, folder, "a");
	assert_int_equal(file.fd, -1);
	for (int i = 0; i < 2; i++) {
		tt_ok(t, tn_file_read(&file, text, 5, 0, "a", &t->err));
		assert_string_equal(text, "hello");
	}
	assert_true(tn_file_modified(&file) != 0);
	tt_ok(t, tn_file_borrow(&file, "a", &fd, &t->err));
	tn_file_return(&file, fd);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	tt_write_text(tt_path(t, "b"), "other");
	assert_int_equal(rename(tt_path(t, "b"), tt_path(t, "a")), 0);
	tt_expect(t, tn_file_read(&file, text, 5, 0, "a", &t->err), TN_E_IO);
	tt_expect_msg(t, "another program replaced it");
	assert_int_equal(tn_file_modified(&file), 0);
	assert_int_equal(unlink(tt_path(t, "a")), 0);
	tt_expect(t, tn_file_read(&file, text, 5, 0, "a", &t->err), TN_E_NOTFOUND);
	tn_file_close(&file);
	close(folder);
}

static void read_text_of(struct tt *t, const char *content, size_t n, size_t cap, tn_status expected)
{
	struct tn_buffer text = { NULL, 0 };
	const char *path = tt_path(t, "text");
	tt_write_file(path, content, n);
	tt_expect(t, tn_file_read_text(t->ctx, path, cap, &text, &t->err), expected);
	if (expected != TN_OK) {
		assert_null(text.data);
		return;
	}
	assert_int_equal(text.bytes, n + 1);
	assert_memory_equal(text.data, content, n);
	assert_int_equal(((char *)text.data)[n], 0);
	tn_buffer_release(t->ctx, &text);
}

static void small_texts(void **state)
{
	struct tt *t = *state;
	char *large = malloc(20000);
	memset(large, 'x', 20000);
	read_text_of(t, "", 0, 10, TN_OK);
	read_text_of(t, "abc", 3, 10, TN_OK);
	read_text_of(t, "0123456789", 10, 10, TN_OK);
	read_text_of(t, "0123456789a", 11, 10, TN_E_LIMIT);
	read_text_of(t, large, 20000, 10, TN_E_LIMIT);
	read_text_of(t, large, 20000, 20000, TN_OK);
	read_text_of(t, large, 20000, 19999, TN_E_LIMIT);
	read_text_of(t, large, 20000, 1 << 20, TN_OK);
	read_text_of(t, "x", 1, 0, TN_E_LIMIT);
	read_text_of(t, "ab\xFFz", 4, 10, TN_E_FORMAT);
	assert_int_equal(t->err.pos, 2);
	read_text_of(t, "ab\xE2\x82", 4, 10, TN_E_FORMAT);
	free(large);
	struct tn_buffer text = { NULL, 0 };
	/* its size is 0 for fstat, and it has bytes */
	tt_ok(t, tn_file_read_text(t->ctx, "/proc/self/status", 1 << 20, &text, &t->err));
	assert_true(text.bytes > 100);
	tn_buffer_release(t->ctx, &text);
	tt_expect(t, tn_file_read_text(t->ctx, t->folder, 10, &text, &t->err), TN_E_IO);
	tt_expect(t, tn_file_read_text(t->ctx, tt_path(t, "no"), 10, &text, &t->err), TN_E_NOTFOUND);
}

static void writing_to_a_full_disk(void **state)
{
	struct tt *t = *state;
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		skip();
	tt_expect(t, tn_fd_write(fd, "abc", 3, 0, "full", &t->err), TN_E_IO);
	assert_int_equal(t->err.sys_errno, ENOSPC);
	close(fd);
}

static void paths(void **state)
{
	struct tt *t = *state;
	char path[TN_PATH_BYTES], large[TN_PATH_BYTES];
	tt_ok(t, tn_path_join(path, "a", "b", &t->err));
	assert_string_equal(path, "a/b");
	tt_ok(t, tn_path_join(path, "/", "b", &t->err));
	assert_string_equal(path, "/b");
	memset(large, 'x', sizeof large - 1);
	for (size_t n = TN_PATH_BYTES - 6; n < TN_PATH_BYTES; n++) {
		large[n] = '\0';
		if (n + 3 < TN_PATH_BYTES)
			tt_ok(t, tn_path_join(path, large, "ab", &t->err));
		else
			tt_expect(t, tn_path_join(path, large, "ab", &t->err), TN_E_LIMIT);
		large[n] = 'x';
	}
	tn_path_kind kind;
	tt_ok(t, tn_path_kind_of(t->folder, &kind, &t->err));
	assert_int_equal(kind, TN_PATH_FOLDER);
	tt_ok(t, tn_path_kind_of("/dev/null", &kind, &t->err));
	assert_int_equal(kind, TN_PATH_OTHER);
	tt_ok(t, tn_path_kind_of(tt_path(t, "no"), &kind, &t->err));
	assert_int_equal(kind, TN_PATH_MISSING);
}

static void listing(void **state)
{
	struct tt *t = *state;
	struct tn_names names;
	tt_ok(t, tn_folder_list(t->ctx, t->folder, &names, &t->err));
	assert_int_equal(names.count, 0);
	tn_names_release(&names);
	for (int i = 40; i-- > 0;)
		tt_write_text(tt_path(t, "f%02d", i), "");
	tt_write_text(tt_path(t, "Z"), "");
	tt_write_text(tt_path(t, ".hidden"), "");
	tt_ok(t, tn_folder_list(t->ctx, t->folder, &names, &t->err));
	assert_int_equal(names.count, 42);
	assert_string_equal(names.items[0], ".hidden");
	assert_string_equal(names.items[1], "Z");
	for (size_t i = 1; i < names.count; i++)
		assert_true(strcmp(names.items[i - 1], names.items[i]) < 0);
	tn_names_release(&names);
	tt_expect(t, tn_folder_list(t->ctx, tt_path(t, "no"), &names, &t->err), TN_E_NOTFOUND);
	tt_expect(t, tn_folder_list(t->ctx, tt_path(t, "Z"), &names, &t->err), TN_E_IO);
	tt_ok(t, tn_folder_sync(t->folder, &t->err));
	tt_expect(t, tn_folder_sync(tt_path(t, "Z"), &t->err), TN_E_IO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(opens_regular_files_and_links_to_them), TT_TEST(refuses_everything_else),
		TT_TEST(shortened_file_is_an_error),            TT_TEST(small_texts),
		TT_TEST(writing_to_a_full_disk),                TT_TEST(paths),
		TT_TEST(listing),                               TT_TEST(a_file_at_rest_takes_no_descriptor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
