/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include "base/error.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

static tn_status map(int fd, const struct tn_file *file, const char *where, struct tn_map *out, struct tn_error *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return tn_fail_sys(err, errno, where, "could not examine '%s'", where);
	if ((uint64_t)st.st_size != file->bytes)
		return tn_fail(err, TN_E_IO, where, "'%s' has %llu bytes, and had %llu when it was opened: another program "
			       "changed it; open it again", where, (unsigned long long)st.st_size, (unsigned long long)file->bytes);
	if (file->bytes > SIZE_MAX / 2)
		return tn_fail(err, TN_E_LIMIT, where, "'%s' has %llu bytes, which cannot be addressed here", where,
			       (unsigned long long)file->bytes);
	void *bytes = mmap(NULL, (size_t)file->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		return tn_fail_sys(err, errno, where, "could not map '%s'", where);
	/* A hint: pages that are not in memory yet are read as large ones, where the file system can. Weights that are read again
	 * and again cost a fifth more time in small ones. */
	madvise(bytes, (size_t)file->bytes, MADV_HUGEPAGE);
	*out = (struct tn_map){ bytes, (size_t)file->bytes };
	return TN_OK;
}

tn_status tn_map_open(const struct tn_file *file, const char *where, struct tn_map *out, struct tn_error *err)
{
	int fd;
	TN_TRY(tn_file_borrow(file, where, &fd, err));
	tn_status status = map(fd, file, where, out, err);
	tn_file_return(file, fd);
	return status;
}

void tn_map_close(struct tn_map *map)
{
	if (map->bytes)
		munmap((void *)(uintptr_t)map->bytes, map->count);
	*map = (struct tn_map){ NULL, 0 };
}
