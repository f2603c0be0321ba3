/* SPDX-License-Identifier: Apache-2.0 */
#include "store/st_writer.h"

#include "base/checked.h"
#include "base/direct.h"
#include "base/error.h"
#include "base/file.h"
#include "store/st_edges.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* LEAST: from so many bytes on a block is written directly. MOST_COPIED: small tensors beside such blocks are copied to where
 * they can be. */
enum { PAGE = TN_DIRECT_PAGE, LEAST = 256 << 10, MOST_COPIED = 32 << 10 };

struct tn_st_writer {
	struct tn_arena arena; /* holds this struct too */
	pthread_mutex_t opening;
	int fd;                /* -1 until the first bytes are put: a job lays out all of its files before it fills the first */
	_Atomic int is_direct; /* blocks have been written directly */
	const char *path;
	struct tn_edges *edges;
};

/* Reserves `bytes` bytes. Without it a full disk would show after hours; file systems that cannot reserve are asked how
 * much is free instead. */
static tn_status reserve(int fd, uint64_t bytes, int sparse, const char *path, struct tn_error *err)
{
	if (bytes == 0 || (!sparse && fallocate(fd, 0, 0, (off_t)bytes) == 0))
		return TN_OK;
	int e = sparse ? 0 : errno;
	if (e == EOPNOTSUPP || e == ENOSYS) {
		struct statvfs vfs;
		e = fstatvfs(fd, &vfs) == 0 && vfs.f_frsize && bytes / vfs.f_frsize < vfs.f_bavail ? 0 : ENOSPC;
	}
	if (e == 0 && ftruncate(fd, (off_t)bytes) == 0)
		return TN_OK;
	return tn_fail_sys(err, e ? e : errno, path, "could not reserve %llu bytes for '%s'", (unsigned long long)bytes, path);
}

static tn_status write_header(struct tn_st_writer *w, struct tn_tensor **tensors, size_t count,
			      const struct tn_st_metadata *metadata, size_t metadata_count, int sparse,
			      struct tn_error *err)
{
	struct tn_text header;
	tn_text_init(&header, w->arena.ctx);
	tn_status status = tn_st_header_layout(tensors, count, metadata, metadata_count, &header, err);
	if (status == TN_OK) {
		uint64_t end = count ? tensors[count - 1]->offset + tensors[count - 1]->bytes : header.length;
		status = reserve(w->fd, end, sparse, w->path, err);
	}
	if (status == TN_OK)
		status = tn_fd_write(w->fd, header.data, header.length, 0, w->path, err);
	tn_text_release(&header);
	return status;
}

tn_status tn_st_writer_create(tn_context *ctx, const char *path, struct tn_tensor **tensors, size_t count,
			      const struct tn_st_metadata *metadata, size_t metadata_count, int sparse,
			      struct tn_st_writer **out, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_st_writer *w;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *w, &w, err));
	w->arena = arena;
	w->fd = -1;
	pthread_mutex_init(&w->opening, NULL);
	tn_status status = tn_arena_text(&w->arena, path, strlen(path), &w->path, err);
	if (status == TN_OK) {
		w->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (w->fd < 0)
			status = tn_fail_sys(err, errno, path, "could not create '%s'", path);
	}
	if (status == TN_OK)
		status = tn_edges_create(ctx, &w->edges, err);
	if (status == TN_OK)
		status = write_header(w, tensors, count, metadata, metadata_count, sparse, err);
	if (status != TN_OK) {
		if (w->fd >= 0)
			unlink(path); /* this call made it */
		tn_st_writer_abort(w);
		return status;
	}
	close(w->fd);
	w->fd = -1;
	*out = w;
	return TN_OK;
}

static tn_status open_again(struct tn_st_writer *w, struct tn_error *err)
{
	pthread_mutex_lock(&w->opening);
	if (w->fd < 0)
		w->fd = open(w->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	int e = w->fd < 0 ? errno : 0;
	pthread_mutex_unlock(&w->opening);
	return e ? tn_fail_sys(err, e, w->path, "could not open '%s'", w->path) : TN_OK;
}

/* The bytes of a block in a page that it shares. *whole: they made it complete, in `page`. */
static tn_status put_edge(struct tn_st_writer *w, const void *src, size_t n, uint64_t offset, void *page, int *whole,
			  struct tn_error *err)
{
	tn_edge edge = n ? tn_edges_leave(w->edges, src, n, offset, page) : TN_EDGE_LEFT;
	*whole = edge == TN_EDGE_WHOLE;
	return edge == TN_EDGE_REFUSED ? tn_fd_write(w->fd, src, n, offset, w->path, err) : TN_OK;
}

static tn_status put_pages(struct tn_st_writer *w, int direct, char *src, size_t n, uint64_t offset, struct tn_error *err)
{
	_Alignas(PAGE) char head[PAGE], tail[PAGE];
	size_t lead = (size_t)tn_min_u64(n, -offset % PAGE), trail = (size_t)(offset + n) % PAGE;
	int has_head, has_tail;
	trail = lead < n ? trail : 0;
	TN_TRY(put_edge(w, src, lead, offset, head, &has_head, err));
	TN_TRY(put_edge(w, src + n - trail, trail, offset + n - trail, tail, &has_tail, err));
	struct iovec pieces[] = { { head, PAGE }, { src + lead, n - lead - trail }, { tail, PAGE } };
	uint64_t first = has_head ? offset - offset % PAGE : offset + lead;
	return tn_direct_write(direct, w->fd, pieces + !has_head, 1 + has_head + has_tail, first, w->path, err);
}

/* 0 in *taken: it has to go through the cache. */
static tn_status put_direct(struct tn_st_writer *w, const void *src, size_t n, uint64_t offset, int *taken, struct tn_error *err)
{
	int direct = tn_direct_open_for(w->fd, src, offset);
	*taken = direct >= 0;
	if (direct < 0)
		return TN_OK;
	tn_status status = put_pages(w, direct, (char *)(uintptr_t)src, n, offset, err);
	close(direct);
	return status;
}

/* A small tensor between blocks. Writing it through the cache would wait for all direct writes under way, and hold up those that
 * come behind; and the pages that it shares with its neighbours would never be whole. */
static tn_status put_between(struct tn_st_writer *w, const void *src, size_t n, uint64_t offset, int *taken, struct tn_error *err)
{
	_Alignas(PAGE) unsigned char copy[MOST_COPIED + PAGE];
	unsigned char *placed = copy + offset % PAGE;
	memcpy(placed, src, n);
	return put_direct(w, placed, n, offset, taken, err);
}

tn_status tn_st_writer_put(struct tn_st_writer *w, const struct tn_tensor *tensor, uint64_t offset, const void *src,
			   size_t n, struct tn_error *err)
{
	int taken = 0;
	if (offset > tensor->bytes || n > tensor->bytes - offset)
		return tn_fail(err, TN_E_ARG, tensor->name, "%zu bytes at %llu do not fit into the %llu of '%.100s'", n,
			       (unsigned long long)offset, (unsigned long long)tensor->bytes, tensor->name);
	uint64_t at = tensor->offset + offset;
	TN_TRY(open_again(w, err));
	if (n >= LEAST) {
		TN_TRY(put_direct(w, src, n, at, &taken, err));
		if (taken)
			atomic_store(&w->is_direct, 1);
	} else if (n && n == tensor->bytes && n <= MOST_COPIED && atomic_load(&w->is_direct)) {
		TN_TRY(put_between(w, src, n, at, &taken, err));
	}
	return taken ? TN_OK : tn_fd_write(w->fd, src, n, at, w->path, err);
}

void tn_st_writer_abort(struct tn_st_writer *w)
{
	if (!w)
		return;
	if (w->fd >= 0)
		close(w->fd);
	tn_edges_free(w->edges);
	pthread_mutex_destroy(&w->opening);
	struct tn_arena arena = w->arena;
	tn_arena_release(&arena);
}

static tn_status put_what_is_left(struct tn_st_writer *w, struct tn_error *err)
{
	unsigned char bytes[TN_DIRECT_PAGE];
	size_t n;
	uint64_t offset;
	while (tn_edges_take(w->edges, bytes, &n, &offset))
		TN_TRY(tn_fd_write(w->fd, bytes, n, offset, w->path, err));
	return TN_OK;
}

/* Of a file that was written past the cache: the few pages that went through it are between the others, and who maps the file next
 * gets small pages around each of them, where the system would read pages of 2 MB. */
static void forget_cached(const struct tn_st_writer *w)
{
	if (atomic_load(&w->is_direct))
		posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
}

tn_status tn_st_writer_finish(struct tn_st_writer *w, struct tn_error *err)
{
	tn_status status = open_again(w, err);
	if (status != TN_OK) {
		tn_st_writer_abort(w);
		return status;
	}
	status = put_what_is_left(w, err);
	if (status == TN_OK && fsync(w->fd) != 0)
		status = tn_fail_sys(err, errno, w->path, "could not make '%s' durable", w->path);
	if (status == TN_OK)
		forget_cached(w);
	int fd = w->fd;
	w->fd = -1;
	if (close(fd) != 0 && status == TN_OK)
		status = tn_fail_sys(err, errno, w->path, "could not close '%s'", w->path);
	tn_st_writer_abort(w);
	return status;
}

static tn_status compare_header(tn_context *ctx, const struct tn_file *file, const struct tn_text *header, uint64_t end,
				const char *path, struct tn_error *err)
{
	struct tn_buffer found;
	if (file->bytes != end)
		return tn_fail(err, TN_E_FORMAT, path, "'%s' has %llu bytes, %llu were expected; run again without --resume", path,
			       (unsigned long long)file->bytes, (unsigned long long)end);
	TN_TRY(tn_buffer_alloc(ctx, header->length, path, &found, err));
	tn_status status = tn_file_read(file, found.data, header->length, 0, path, err);
	if (status == TN_OK && memcmp(found.data, header->data, header->length) != 0)
		status = tn_fail(err, TN_E_FORMAT, path, "'%s' has another header than this run would write; run again without "
				 "--resume", path);
	tn_buffer_release(ctx, &found);
	return status;
}

tn_status tn_st_file_matches(tn_context *ctx, const char *path, struct tn_tensor **tensors, size_t count,
			     const struct tn_st_metadata *metadata, size_t metadata_count, struct tn_error *err)
{
	struct tn_text header;
	struct tn_file file;
	tn_text_init(&header, ctx);
	tn_status status = tn_st_header_layout(tensors, count, metadata, metadata_count, &header, err);
	if (status == TN_OK)
		status = tn_file_open(path, &file, err);
	if (status == TN_OK) {
		uint64_t end = count ? tensors[count - 1]->offset + tensors[count - 1]->bytes : header.length;
		status = compare_header(ctx, &file, &header, end, path, err);
		tn_file_close(&file);
	}
	tn_text_release(&header);
	return status;
}
