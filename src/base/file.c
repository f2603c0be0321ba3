/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include "base/checked.h"
#include "base/direct.h"
#include "base/error.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kind_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return "a folder";
	case S_IFIFO: return "a FIFO";
	case S_IFCHR: return "a character device";
	case S_IFBLK: return "a block device";
	case S_IFSOCK: return "a socket";
	default: return "not a regular file";
	}
}

tn_status tn_file_open(const char *path, struct tn_file *out, struct tn_error *err)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return tn_fail_sys(err, errno, path, "could not open '%s'", path);
	struct stat st;
	if (fstat(fd, &st) != 0) {
		int e = errno;
		close(fd);
		return tn_fail_sys(err, e, path, "could not examine '%s'", path);
	}
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		tn_fail(err, TN_E_IO, path, "'%s' is %s, a regular file was expected", path, kind_name(st.st_mode));
		if (err)
			err->sys_errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
		return TN_E_IO;
	}
	*out = (struct tn_file){ fd, (uint64_t)st.st_size, (uint64_t)st.st_dev, (uint64_t)st.st_ino, -1, NULL };
	return TN_OK;
}

void tn_file_close(struct tn_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	*file = (struct tn_file){ .fd = -1, .bytes = file->bytes, .device = file->device, .inode = file->inode };
}

void tn_file_rest(struct tn_file *file, int folder, const char *name)
{
	tn_file_close(file);
	file->folder = folder;
	file->name = name;
}

tn_status tn_file_borrow(const struct tn_file *file, const char *where, int *out, struct tn_error *err)
{
	*out = file->fd;
	if (!file->name)
		return TN_OK;
	int fd = openat(file->folder, file->name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return tn_fail_sys(err, errno, where, "could not open '%s'", where);
	struct stat st;
	if (fstat(fd, &st) != 0 || (uint64_t)st.st_dev != file->device || (uint64_t)st.st_ino != file->inode) {
		close(fd);
		return tn_fail(err, TN_E_IO, where, "'%s' is another file than the one that was opened: another program replaced "
			       "it; repeat when that is done", where);
	}
	*out = fd;
	return TN_OK;
}

void tn_file_return(const struct tn_file *file, int fd)
{
	if (file->name)
		close(fd);
}

static tn_status read_from(int fd, const struct tn_file *file, void *dst, size_t n, uint64_t offset, const char *where,
			   struct tn_error *err)
{
	char *p = dst;
	if (tn_direct_read(fd, dst, n, offset))
		return TN_OK;
	while (n) {
		ssize_t got = pread(fd, p, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return tn_fail_sys(err, errno, where, "could not read %zu bytes at %llu of '%s'", n,
					   (unsigned long long)offset, where);
		if (got == 0)
			return tn_fail_at(err, TN_E_IO, where, offset,
					  "'%s' ends at byte %llu, and had %llu bytes when it was opened: another program "
					  "shortened it; make it whole again and repeat",
					  where, (unsigned long long)offset, (unsigned long long)file->bytes);
		p += got;
		n -= (size_t)got;
		offset += (uint64_t)got;
	}
	return TN_OK;
}

tn_status tn_file_read(const struct tn_file *file, void *dst, size_t n, uint64_t offset, const char *where,
		       struct tn_error *err)
{
	int fd;
	TN_TRY(tn_file_borrow(file, where, &fd, err));
	tn_status status = read_from(fd, file, dst, n, offset, where, err);
	tn_file_return(file, fd);
	return status;
}

int tn_file_is_hole(const struct tn_file *file, uint64_t offset, uint64_t n)
{
	int fd;
	if (tn_file_borrow(file, "", &fd, NULL) != TN_OK)
		return 0;
	off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
	int is_hole = data < 0 ? errno == ENXIO : (uint64_t)data >= offset + n;
	tn_file_return(file, fd);
	return is_hole;
}

static int examine(const struct tn_file *file, struct stat *st)
{
	int fd;
	if (tn_file_borrow(file, "", &fd, NULL) != TN_OK)
		return 0;
	int known = fstat(fd, st) == 0;
	tn_file_return(file, fd);
	return known;
}

int64_t tn_file_modified(const struct tn_file *file)
{
	struct stat st;
	return examine(file, &st) ? (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec : 0;
}

int tn_file_is_sparse(const struct tn_file *file)
{
	struct stat st;
	return examine(file, &st) && (uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size / 2;
}

tn_status tn_fd_write(int fd, const void *src, size_t n, uint64_t offset, const char *where, struct tn_error *err)
{
	const char *p = src;
	while (n) {
		ssize_t put = pwrite(fd, p, n, (off_t)offset);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return tn_fail_sys(err, errno, where, "could not write %zu bytes at %llu of '%s'", n,
					   (unsigned long long)offset, where);
		p += put;
		n -= (size_t)put;
		offset += (uint64_t)put;
	}
	return TN_OK;
}

/* The size that fstat gave is a hint only: a file in /proc says 0, and a file can grow. At most cap + 1 bytes are read. */
static tn_status read_up_to(const struct tn_file *file, char *dst, size_t cap, size_t *got, const char *path,
			    struct tn_error *err)
{
	size_t n = 0;
	while (n < cap) {
		ssize_t some = pread(file->fd, dst + n, cap - n, (off_t)n);
		if (some < 0 && errno == EINTR)
			continue;
		if (some < 0)
			return tn_fail_sys(err, errno, path, "could not read '%s'", path);
		if (some == 0)
			break;
		n += (size_t)some;
	}
	*got = n;
	return TN_OK;
}

static tn_status read_text(tn_context *ctx, const struct tn_file *file, const char *path, size_t cap,
			   struct tn_buffer *out, struct tn_error *err)
{
	size_t room = file->bytes < cap ? (size_t)file->bytes + 4096 : cap + 1;
	if (room > cap + 1)
		room = cap + 1;
	struct tn_buffer whole;
	TN_TRY(tn_buffer_alloc(ctx, room + 1, path, &whole, err));
	size_t n = 0;
	tn_status status = read_up_to(file, whole.data, room, &n, path, err);
	size_t valid = status == TN_OK ? tn_utf8_valid_prefix(whole.data, n) : 0;
	if (status == TN_OK && (n > cap || n == room))
		status = tn_fail(err, TN_E_LIMIT, path, "'%s' has more than %zu bytes; a file of its kind has far fewer",
				 path, n > cap ? cap : room - 1);
	else if (status == TN_OK && valid != n)
		status = tn_fail_at(err, TN_E_FORMAT, path, valid, "'%s' is not UTF-8 text: byte %zu is 0x%02X", path, valid,
				    ((unsigned char *)whole.data)[valid]);
	if (status != TN_OK) {
		tn_buffer_release(ctx, &whole);
		return status;
	}
	/* a copy of the exact size, so that the buffer can be released by its size and ends in NUL */
	status = tn_buffer_alloc(ctx, n + 1, path, out, err);
	if (status == TN_OK) {
		memcpy(out->data, whole.data, n);
		((char *)out->data)[n] = '\0';
	}
	tn_buffer_release(ctx, &whole);
	return status;
}

tn_status tn_file_read_text(tn_context *ctx, const char *path, size_t cap, struct tn_buffer *out, struct tn_error *err)
{
	struct tn_file file;
	TN_TRY(tn_file_open(path, &file, err));
	tn_status status = read_text(ctx, &file, path, cap, out, err);
	tn_file_close(&file);
	return status;
}

tn_status tn_path_join(char path[TN_PATH_BYTES], const char *dir, const char *name, struct tn_error *err)
{
	size_t n = strlen(dir);
	const char *slash = n && dir[n - 1] == '/' ? "" : "/";
	if (n + strlen(slash) + strlen(name) >= TN_PATH_BYTES)
		return tn_fail(err, TN_E_LIMIT, name, "the path '%.80s.../%.80s' is longer than %d bytes", dir, name,
			       TN_PATH_BYTES - 1);
	memcpy(path, dir, n);
	snprintf(path + n, TN_PATH_BYTES - n, "%s%s", slash, name);
	return TN_OK;
}

tn_status tn_path_kind_of(const char *path, tn_path_kind *out, struct tn_error *err)
{
	struct stat st;
	if (stat(path, &st) != 0) {
		if (errno != ENOENT)
			return tn_fail_sys(err, errno, path, "could not examine '%s'", path);
		*out = TN_PATH_MISSING;
		return TN_OK;
	}
	*out = S_ISREG(st.st_mode) ? TN_PATH_FILE : S_ISDIR(st.st_mode) ? TN_PATH_FOLDER : TN_PATH_OTHER;
	return TN_OK;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static tn_status add_name(struct tn_names *names, const char *name, struct tn_error *err)
{
	TN_TRY(tn_grow(names->ctx, &names->items, &names->capacity, names->count + 1, sizeof *names->items, "file names",
		       err));
	size_t bytes = strlen(name) + 1;
	char *copy;
	TN_TRY(tn_alloc(names->ctx, bytes, "file name", &copy, err));
	memcpy(copy, name, bytes);
	names->items[names->count++] = copy;
	return TN_OK;
}

tn_status tn_folder_list(tn_context *ctx, const char *path, struct tn_names *out, struct tn_error *err)
{
	DIR *dir = opendir(path);
	if (!dir)
		return tn_fail_sys(err, errno, path, "could not open the folder '%s'", path);
	struct tn_names names = { .ctx = ctx };
	tn_status status = TN_OK;
	while (status == TN_OK) {
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (!entry) {
			if (errno)
				status = tn_fail_sys(err, errno, path, "could not read the folder '%s'", path);
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			status = add_name(&names, entry->d_name, err);
	}
	closedir(dir);
	if (status != TN_OK) {
		tn_names_release(&names);
		return status;
	}
	if (names.count)
		qsort(names.items, names.count, sizeof *names.items, compare_names);
	*out = names;
	return TN_OK;
}

void tn_names_release(struct tn_names *names)
{
	for (size_t i = 0; i < names->count; i++)
		tn_free(names->ctx, names->items[i], strlen(names->items[i]) + 1);
	tn_free_array(names->ctx, names->items, names->capacity, sizeof *names->items);
	names->items = NULL;
	names->count = names->capacity = 0;
}

tn_status tn_folder_sync(const char *path, struct tn_error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return tn_fail_sys(err, errno, path, "could not open the folder '%s'", path);
	/* some file systems cannot sync a folder and say EINVAL: nothing more can be done there */
	int failed = fsync(fd) != 0 && errno != EINVAL ? errno : 0;
	close(fd);
	return failed ? tn_fail_sys(err, failed, path, "could not make the folder '%s' durable", path) : TN_OK;
}
