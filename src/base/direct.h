/* Reading and writing past the page cache, straight between the disk and the buffers of the caller: what streams through once
 * would only push out of the cache what others use, and copying it in and writing it back later costs more than the disk does.
 *
 * The bytes of a file go this way in whole pages, between addresses that lie as the file's offsets do: so buffers are placed
 * with tn_direct_place. Where the system refuses, everything goes through the cache. */
#ifndef TN_DIRECT_H
#define TN_DIRECT_H

#include "base/context.h"

#include <sys/uio.h>

/* What disks and file systems ask for at most. */
enum { TN_DIRECT_PAGE = 4096 };

/* The first address from `at` on, less than a page away, that lies in its page as `offset` does in its own; values of 8 bytes
 * stay aligned. */
unsigned char *tn_direct_place(unsigned char *at, uint64_t offset);

/* The open file `fd` once more, for writing what lies at `src` to `offset` directly; to be closed by the caller. Negative where
 * that is refused, or the bytes are not placed as above. */
int tn_direct_open_for(int fd, const void *src, uint64_t offset);
/* Writes the pieces, whole pages in memory and in the file; what the system refuses to take directly goes to `fd`, through the
 * cache. */
tn_status tn_direct_write(int direct, int fd, struct iovec *pieces, int count, uint64_t offset, const char *where,
			  struct tn_error *err);

/* Tries to read n bytes at `offset`; 1 when they are there. 0: the range is small, not placed as above, for the most part in
 * the page cache, or it could not be read so; then it is read as any other. */
int tn_direct_read(int fd, void *dst, size_t n, uint64_t offset);

#endif
