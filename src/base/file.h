/* Files and folders. Files are read with pread, never mapped: a file that another program shortens while it is in use
 * gives an error here, where a mapping would kill the process with SIGBUS. */
#ifndef TN_FILE_H
#define TN_FILE_H

#include "base/context.h"

struct tn_file {
	int fd;            /* -1 when closed, or at rest */
	uint64_t bytes;    /* size when it was opened */
	uint64_t device, inode;
	int folder;        /* of a file at rest: where `name` is looked up */
	const char *name;  /* NULL: it is not at rest */
};
#define TN_FILE_CLOSED { -1, 0, 0, 0, -1, NULL }

/* Opens a regular file (or a link to one) for reading, with O_NONBLOCK|O_CLOEXEC, so that a FIFO or a device answers at
 * once. TN_E_NOTFOUND: no such file. TN_E_IO: anything else, with its cause; not a regular file says what it is. */
tn_status tn_file_open(const char *path, struct tn_file *out, struct tn_error *err);
void tn_file_close(struct tn_file *file);

/* Closes the file between uses, for a process may have few files open at once: each use opens `name` in `folder` (both outlive
 * the file) and fails when that is another file by now. All that follows is done with files at rest too, by any number of
 * threads. */
void tn_file_rest(struct tn_file *file, int folder, const char *name);
/* A descriptor of the file, to be handed back. TN_E_IO: another file has its name. */
tn_status tn_file_borrow(const struct tn_file *file, const char *where, int *fd, struct tn_error *err);
void tn_file_return(const struct tn_file *file, int fd);

/* Reads exactly n bytes at `offset`. TN_E_IO when the file has become shorter. `where` names the file in errors. */
tn_status tn_file_read(const struct tn_file *file, void *dst, size_t n, uint64_t offset, const char *where,
		       struct tn_error *err);

/* 1 when the file system says that all of these bytes are a hole (never written, read as zeros). */
int tn_file_is_hole(const struct tn_file *file, uint64_t offset, uint64_t n);

/* When its bytes were last changed: nanoseconds since 1970; 0 when the system does not say. */
int64_t tn_file_modified(const struct tn_file *file);

/* 1 when the file takes much less room than its size: it was made with holes. */
int tn_file_is_sparse(const struct tn_file *file);

/* Writes exactly n bytes at `offset`. */
tn_status tn_fd_write(int fd, const void *src, size_t n, uint64_t offset, const char *where, struct tn_error *err);

/* The whole of a small text file, with a NUL behind it (counted in out->bytes). More than `cap` bytes is TN_E_LIMIT,
 * bytes that are not UTF-8 are TN_E_FORMAT. */
tn_status tn_file_read_text(tn_context *ctx, const char *path, size_t cap, struct tn_buffer *out, struct tn_error *err);

/* dir + "/" + name in a buffer of the caller; TN_E_LIMIT when it does not fit. */
enum { TN_PATH_BYTES = 4096 };
tn_status tn_path_join(char path[TN_PATH_BYTES], const char *dir, const char *name, struct tn_error *err);

/* What a path is, links followed. */
typedef enum tn_path_kind { TN_PATH_MISSING, TN_PATH_FILE, TN_PATH_FOLDER, TN_PATH_OTHER } tn_path_kind;
tn_status tn_path_kind_of(const char *path, tn_path_kind *out, struct tn_error *err);

/* Names of a folder's entries, without "." and "..", sorted bytewise. Released with tn_names_release. */
struct tn_names {
	tn_context *ctx;
	char **items;
	size_t count, capacity;
};
tn_status tn_folder_list(tn_context *ctx, const char *path, struct tn_names *out, struct tn_error *err);
void tn_names_release(struct tn_names *names);

/* fsync of a folder, so that renames in it last. */
tn_status tn_folder_sync(const char *path, struct tn_error *err);

#endif
