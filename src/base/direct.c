/* SPDX-License-Identifier: Apache-2.0 */
#include "base/direct.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* LEAST: below it reading through the page cache is faster. */
enum { PAGE = TN_DIRECT_PAGE, LEAST = 256 << 10, PROBED_PAGES = 4096 };
/* Where a file goes on elsewhere on the disk, ext4 lets nobody else write to it during a write that reaches over that place: the
 * pieces of large files lie between multiples of this. */
enum { STRETCH = 8 << 20, MOST_PIECES = 3 };

unsigned char *tn_direct_place(unsigned char *at, uint64_t offset)
{
	return at + ((offset & (PAGE - 8)) - (uintptr_t)at) % PAGE;
}

/* Pages of the cache must not be larger: one that holds bytes written through it must not be written past it. */
static int is_placed(const void *memory, uint64_t offset)
{
	return ((uintptr_t)memory - offset) % PAGE == 0 && sysconf(_SC_PAGESIZE) == PAGE;
}

/* By number, for the name may have changed. */
static int open_again(int fd, int access)
{
	char name[40];
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	return open(name, access | O_DIRECT | O_CLOEXEC);
}

int tn_direct_open_for(int fd, const void *src, uint64_t offset)
{
	return is_placed(src, offset) ? open_again(fd, O_WRONLY) : -1;
}

/* Takes n bytes off the front. */
static void advance(struct iovec **pieces, int *count, size_t n)
{
	for (; *count && n >= (*pieces)->iov_len; ++*pieces, --*count)
		n -= (*pieces)->iov_len;
	if (*count) {
		(*pieces)->iov_base = (char *)(*pieces)->iov_base + n;
		(*pieces)->iov_len -= n;
	}
}

/* The first of the pieces, as far as n bytes go. */
static int front_of(const struct iovec *pieces, int count, uint64_t n, struct iovec front[MOST_PIECES])
{
	int i = 0;
	for (; i < count && i < MOST_PIECES && n; i++) {
		front[i] = pieces[i];
		front[i].iov_len = (size_t)tn_min_u64(n, pieces[i].iov_len);
		n -= front[i].iov_len;
	}
	return i;
}

tn_status tn_direct_write(int direct, int fd, struct iovec *pieces, int count, uint64_t offset, const char *where,
			  struct tn_error *err)
{
	while (count) {
		struct iovec front[MOST_PIECES];
		int n = front_of(pieces, count, STRETCH - offset % STRETCH, front);
		ssize_t put = pwritev(direct, front, n, (off_t)offset);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EINVAL) { /* it could be opened, but does not take this */
			TN_TRY(tn_fd_write(fd, front->iov_base, front->iov_len, offset, where, err));
			put = (ssize_t)front->iov_len;
		}
		if (put < 0)
			return tn_fail_sys(err, errno, where, "could not write %zu bytes at %llu of '%s'", front->iov_len,
					   (unsigned long long)offset, where);
		advance(&pieces, &count, (size_t)put);
		offset += (uint64_t)put;
	}
	return TN_OK;
}

/* Linux 6.5 and later tell how much of a file is cached without mapping it: what maps memory waits for every other thread that
 * does, and for those that were interrupted meanwhile. Negative where that is not to be had. */
static int64_t count_cached(int fd, uint64_t offset, size_t n)
{
#if defined(SYS_cachestat)
	enum { NUMBER = SYS_cachestat };
#else
	enum { NUMBER = 451 }; /* on all architectures */
#endif
	struct {
		uint64_t offset, n;
	} range = { offset, n };
	struct {
		uint64_t cached, dirty, written, evicted, recently_evicted;
	} pages;
	return syscall(NUMBER, fd, &range, &pages, 0) == 0 ? (int64_t)pages.cached : -1;
}

/* The same by a mapping, which is never looked into; negative when that fails too. */
static int64_t count_mapped(int fd, uint64_t offset, size_t n)
{
	unsigned char pages[PROBED_PAGES];
	size_t shift = (size_t)(offset % PAGE);
	int64_t cached = 0;
	void *map = mmap(NULL, n + shift, PROT_READ, MAP_SHARED, fd, (off_t)(offset - shift));
	if (map == MAP_FAILED)
		return -1;
	int known = mincore(map, n + shift, pages) == 0;
	munmap(map, n + shift);
	for (size_t i = 0; known && i < (n + shift + PAGE - 1) / PAGE; i++)
		cached += pages[i] & 1;
	return known ? cached : -1;
}

/* Whether half of a range is, or of its beginning when it is long. Of a file that this process may not write the system says
 * nothing, or that all of it is cached; then it is read through the cache. */
static int is_cached(int fd, uint64_t offset, size_t n)
{
	n = (size_t)tn_min_u64(n, (PROBED_PAGES - 1) * (uint64_t)PAGE);
	int64_t cached = count_cached(fd, offset, n);
	if (cached < 0)
		cached = count_mapped(fd, offset, n);
	return cached < 0 || (uint64_t)cached * 2 >= (n + offset % PAGE + PAGE - 1) / PAGE;
}

/* The pages at both ends go to the side, all with one call. */
static int read_pages(int direct, char *dst, size_t n, uint64_t offset)
{
	_Alignas(PAGE) char head[PAGE], tail[PAGE];
	size_t before = (size_t)(offset % PAGE), lead = before ? PAGE - before : 0, trail = (size_t)((offset + n) % PAGE);
	struct iovec pieces[3];
	int count = 0;
	if (before)
		pieces[count++] = (struct iovec){ head, PAGE };
	pieces[count++] = (struct iovec){ dst + lead, n - lead - trail };
	if (trail)
		pieces[count++] = (struct iovec){ tail, PAGE };
	ssize_t got = preadv(direct, pieces, count, (off_t)(offset - before));
	if (got < 0 || (size_t)got < before + n) /* a short one may end anywhere */
		return 0;
	memcpy(dst, head + before, lead);
	memcpy(dst + n - trail, tail, trail);
	return 1;
}

int tn_direct_read(int fd, void *dst, size_t n, uint64_t offset)
{
	if (n < LEAST || !is_placed(dst, offset) || is_cached(fd, offset, n))
		return 0;
	int direct = open_again(fd, O_RDONLY), done = 0;
	if (direct >= 0) {
		done = read_pages(direct, dst, n, offset);
		close(direct);
	}
	return done;
}
