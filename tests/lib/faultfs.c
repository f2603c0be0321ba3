/* SPDX-License-Identifier: Apache-2.0 */
/* A library to preload: lets the n-th call that changes files fail, or kills the process in its place, so that a power
 * cut can be tried at every instant.
 *
 *   FAULT_CALLS   names of the calls that count, with a space around each; unset: all
 *   FAULT_N       the number of the call, from 1; unset: none
 *   FAULT_ERRNO   what it fails with; 0: the process is killed before the call is made
 *   FAULT_MARK    this file is made when it happens
 *   FAULT_ALWAYS  this call fails each time, with FAULT_ALWAYS_ERRNO (a file system that does not have it)
 *
 * A killed process loses nothing that it wrote, and a machine without power does. So the order is watched too: a rename
 * while bytes of any file are not yet durable, or an end without a sync of a folder behind the last rename, aborts.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned calls; /* of those that count */

static void mark(void)
{
	const char *path = getenv("FAULT_MARK");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (fd >= 0)
		close(fd);
}

static int is_named(const char *list, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = list; (p = strstr(p, name)) != NULL; p += n)
		if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
			return 1;
	return 0;
}

/* 1 when this call fails; errno is set. */
static int fault(const char *name)
{
	const char *always = getenv("FAULT_ALWAYS"), *which = getenv("FAULT_CALLS"), *number = getenv("FAULT_N");
	if (always && strcmp(always, name) == 0) {
		errno = atoi(getenv("FAULT_ALWAYS_ERRNO"));
		return 1;
	}
	if (!number || (which && !is_named(which, name)))
		return 0;
	if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) != (unsigned)atoi(number))
		return 0;
	int code = atoi(getenv("FAULT_ERRNO"));
	mark();
	if (code == 0)
		raise(SIGKILL);
	errno = code;
	return 1;
}

/* The next definition of a function, as a pointer of the type of `like`. */
#define NEXT(like, name)                                  \
	static __typeof__(&like) next;                    \
	if (!next) {                                      \
		void *found_ = dlsym(RTLD_NEXT, name);    \
		memcpy(&next, &found_, sizeof next);      \
	}

#define FORWARD(result, name, parameters, arguments) \
	result name parameters                       \
	{                                            \
		NEXT(name, #name)                    \
		return fault(#name) ? -1 : next arguments; \
	}

FORWARD(int, fdatasync, (int fd), (fd))
FORWARD(int, mkdir, (const char *path, mode_t mode), (path, mode))
FORWARD(int, unlink, (const char *path), (path))
FORWARD(int, rmdir, (const char *path), (path))
FORWARD(int, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))

/* ---- what is not durable yet ----------------------------------------------------------------------------- */

enum { MOST_FDS = 1024 };
static unsigned char dirty[MOST_FDS];
static int rename_not_synced;
/* Closed before a sync: one of the same file does it later. */
static struct {
	dev_t device;
	ino_t inode;
} closed_dirty[MOST_FDS];
static int closed_count;

static void complain(const char *what)
{
	fprintf(stderr, "faultfs: %s\n", what);
	abort();
}

static mode_t kind_of(int fd)
{
	struct stat st;
	return fd >= 0 && fd < MOST_FDS && fstat(fd, &st) == 0 ? st.st_mode & S_IFMT : 0;
}

static void wrote(int fd)
{
	if (kind_of(fd) == S_IFREG)
		dirty[fd] = 1;
}

static void was_closed(int fd)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return;
	if (closed_count == MOST_FDS)
		complain("too many files are closed without a sync");
	closed_dirty[closed_count].device = st.st_dev;
	closed_dirty[closed_count++].inode = st.st_ino;
}

static void was_synced(int fd)
{
	struct stat st;
	dirty[fd] = 0;
	for (int i = 0; fstat(fd, &st) == 0 && i < closed_count;)
		if (closed_dirty[i].device == st.st_dev && closed_dirty[i].inode == st.st_ino)
			closed_dirty[i] = closed_dirty[--closed_count];
		else
			i++;
}

static int any_dirty(void)
{
	int found = closed_count > 0;
	for (int i = 0; i < MOST_FDS; i++)
		found |= dirty[i];
	return found;
}

static void before_rename(void)
{
	if (any_dirty())
		complain("a rename before the bytes of a file are durable");
}

__attribute__((destructor)) static void at_end(void)
{
	if (rename_not_synced)
		complain("the process ends without a sync of the folder behind its last rename");
}

/* What is cut off a file is gone, so what was made from it has to be safe. */
int ftruncate(int fd, off_t n)
{
	struct stat st;
	NEXT(ftruncate, "ftruncate")
	if (fstat(fd, &st) == 0 && n > 0 && n < st.st_size) {
		if (any_dirty())
			complain("a file is cut before what was written is durable");
	}
	return fault("ftruncate") ? -1 : next(fd, n);
}

int fsync(int fd)
{
	NEXT(fsync, "fsync")
	int result = fault("fsync") ? -1 : next(fd);
	mode_t kind = kind_of(fd);
	if (kind == S_IFDIR)
		rename_not_synced = 0;
	else if (kind == S_IFREG && result == 0)
		was_synced(fd);
	return result;
}

/* A file that is open twice is made durable by a sync of either. */
static int leave_to_other(int fd)
{
	struct stat own, other;
	for (int i = 0; fstat(fd, &own) == 0 && i < MOST_FDS; i++)
		if (i != fd && fstat(i, &other) == 0 && other.st_ino == own.st_ino && other.st_dev == own.st_dev &&
		    (fcntl(i, F_GETFL) & O_ACCMODE) != O_RDONLY) {
			dirty[i] = 1;
			return 1;
		}
	return 0;
}

int close(int fd)
{
	NEXT(close, "close")
	if (fd >= 0 && fd < MOST_FDS && dirty[fd]) {
		dirty[fd] = 0;
		if (!leave_to_other(fd))
			was_closed(fd);
	}
	return next(fd);
}

int rename(const char *from, const char *to)
{
	NEXT(rename, "rename")
	before_rename();
	int result = fault("rename") ? -1 : next(from, to);
	rename_not_synced |= result == 0;
	return result;
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	NEXT(renameat2, "renameat2")
	before_rename();
	int result = fault("renameat2") ? -1 : next(a, from, b, to, flags);
	rename_not_synced |= result == 0;
	return result;
}

/* ---- writing --------------------------------------------------------------------------------------------- */

/* Half of the bytes are written before the process dies or the disk is full. */
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
	NEXT(pwrite, "pwrite")
	wrote(fd);
	if (!getenv("FAULT_N") || n < 2)
		return fault("pwrite") ? -1 : next(fd, bytes, n, at);
	ssize_t half = next(fd, bytes, n / 2, at);
	if (half < 0 || fault("pwrite"))
		return -1;
	ssize_t rest = next(fd, (const char *)bytes + half, n - (size_t)half, at + half);
	return rest < 0 ? half : half + rest;
}

/* The first piece is written before. */
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at)
{
	NEXT(pwritev, "pwritev")
	wrote(fd);
	if (!getenv("FAULT_N") || count < 2)
		return fault("pwritev") ? -1 : next(fd, pieces, count, at);
	ssize_t first = next(fd, pieces, 1, at);
	if (first < 0 || fault("pwritev"))
		return -1;
	return first;
}

ssize_t write(int fd, const void *bytes, size_t n)
{
	NEXT(write, "write")
	wrote(fd);
	return fd > 2 && fault("write") ? -1 : next(fd, bytes, n);
}
