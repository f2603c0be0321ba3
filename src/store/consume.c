/* SPDX-License-Identifier: Apache-2.0 */
#include "store/consume.h"

#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MARK_CAP = 64 << 10 };
#define TEMPORARY_NAME ".tenon-consumed-part"

static const char going_on[] = "This model is being used up. The folder to be: ", complete[] = "This model was used up. The folder "
											       "made of it: ";

/* ---- the text file --------------------------------------------------------------------------------------- */

tn_status tn_consumed_read(tn_context *ctx, const char *folder, struct tn_consumed *out, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	struct tn_buffer text;
	*out = (struct tn_consumed){ .is_marked = 0 };
	TN_TRY(tn_path_join(path, folder, TN_CONSUMED_NAME, err));
	tn_status status = tn_file_read_text(ctx, path, MARK_CAP, &text, NULL);
	if (status == TN_E_NOTFOUND)
		return TN_OK;
	if (status != TN_OK) /* an odd file of that name is not ours */
		return status == TN_E_NOMEM ? tn_file_read_text(ctx, path, MARK_CAP, &text, err) : TN_OK;
	const char *line = text.data;
	out->is_complete = tn_starts_with(line, complete);
	out->is_marked = out->is_complete || tn_starts_with(line, going_on);
	if (out->is_marked) {
		line += strlen(out->is_complete ? complete : going_on);
		snprintf(out->output, sizeof out->output, "%.*s", (int)strcspn(line, "\n"), line);
	}
	tn_buffer_release(ctx, &text);
	return TN_OK;
}

static tn_status write_durably(const char *path, const char *text, size_t n, struct tn_error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (fd < 0)
		return tn_fail_sys(err, errno, path, "could not create '%s'", path);
	tn_status status = tn_fd_write(fd, text, n, 0, path, err);
	if (status == TN_OK && fsync(fd) != 0)
		status = tn_fail_sys(err, errno, path, "could not make '%s' durable", path);
	if (close(fd) != 0 && status == TN_OK)
		status = tn_fail_sys(err, errno, path, "could not close '%s'", path);
	return status;
}

tn_status tn_consumed_mark(const char *folder, const char *output, int is_complete, struct tn_error *err)
{
	static const char advice[] = "Its files are cut to their headers one by one, once their weights are safe in a hidden "
				     "folder beside the folder to be.\nDo not remove that: it holds the only copy. Go on with "
				     "the same tenon fuse --consume-input and --resume.\n";
	char path[TN_PATH_BYTES], part[TN_PATH_BYTES], text[TN_PATH_BYTES + 512];
	int n = snprintf(text, sizeof text, "%s%s\n%s", is_complete ? complete : going_on, output, is_complete ? "" : advice);
	TN_TRY(tn_path_join(path, folder, TN_CONSUMED_NAME, err));
	TN_TRY(tn_path_join(part, folder, TEMPORARY_NAME, err));
	tn_status status = write_durably(part, text, (size_t)n, err);
	if (status == TN_OK && rename(part, path) != 0)
		status = tn_fail_sys(err, errno, path, "could not put '%s' in its place", path);
	if (status != TN_OK)
		unlink(part);
	return status == TN_OK ? tn_folder_sync(folder, err) : status;
}

tn_status tn_consumed_unmark(const char *folder, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	TN_TRY(tn_path_join(path, folder, TN_CONSUMED_NAME, err));
	if (unlink(path) != 0 && errno != ENOENT)
		return tn_fail_sys(err, errno, path, "could not remove '%s'", path);
	return tn_folder_sync(folder, err);
}

tn_status tn_consume_lock(const char *folder, int *fd, struct tn_error *err)
{
	*fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0)
		return tn_fail_sys(err, errno, folder, "could not open '%s'", folder);
	if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
		return TN_OK;
	int e = errno;
	close(*fd);
	*fd = -1;
	if (e == EWOULDBLOCK)
		return tn_fail(err, TN_E_EXISTS, folder, "another tenon is using '%s' up at this moment", folder);
	return tn_fail_sys(err, e, folder, "could not lock '%s'", folder);
}

/* ---- shards ---------------------------------------------------------------------------------------------- */

/* The index lists names as UTF-8, and the journal one to a line: what neither can hold must be known before all is used up. */
static int is_plain_name(const char *name)
{
	size_t n = strlen(name);
	return tn_utf8_valid_prefix(name, n) == n && !strchr(name, '\n');
}

tn_status tn_consume_check(const tn_checkpoint *c, struct tn_error *err)
{
	for (size_t i = 0; i < c->shard_count; i++) {
		char path[TN_PATH_BYTES];
		struct stat st;
		if (!is_plain_name(c->shard_names[i]))
			return tn_fail(err, TN_E_UNSUPPORTED, c->path, "'%s' holds '%s', whose name is not UTF-8 on one line, "
				       "as an index needs it; rename the file", c->path, c->shard_names[i]);
		TN_TRY(tn_path_join(path, c->path, c->shard_names[i], err));
		if (lstat(path, &st) != 0)
			return tn_fail_sys(err, errno, path, "could not examine '%s'", path);
		if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
			return tn_fail(err, TN_E_UNSUPPORTED, path, "'%s' is a link, so its room would not become free, and "
				       "others may need the file; fuse without --consume-input, or copy the model first", path);
		if (access(path, W_OK) != 0)
			return tn_fail_sys(err, errno, path, "'%s' cannot be written to, so it cannot be cut", path);
	}
	return TN_OK;
}

int tn_consume_is_cut(const tn_checkpoint *c, size_t shard)
{
	const tn_safetensors *file = c->shards[shard];
	uint64_t end = 0;
	for (size_t i = 0; i < file->header.count; i++)
		if (file->header.tensors[i].offset + file->header.tensors[i].bytes > end)
			end = file->header.tensors[i].offset + file->header.tensors[i].bytes;
	return end > file->bytes;
}

int tn_consume_has_begun(const tn_checkpoint *c)
{
	for (size_t i = 0; i < c->shard_count; i++)
		if (tn_consume_is_cut(c, i))
			return 1;
	return 0;
}

static tn_status cut_file(int fd, const tn_safetensors *file, const char *path, struct tn_error *err)
{
	struct stat st;
	uint64_t bytes;
	TN_TRY(tn_safetensors_header_bytes(file, &bytes, err));
	if (fstat(fd, &st) != 0)
		return tn_fail_sys(err, errno, path, "could not examine '%s'", path);
	if ((uint64_t)st.st_dev != file->file.device || (uint64_t)st.st_ino != file->file.inode || st.st_nlink != 1)
		return tn_fail(err, TN_E_IO, path, "'%s' is another file than when the fuse began, and is left alone", path);
	if ((uint64_t)st.st_size <= bytes)
		return TN_OK;
	if (ftruncate(fd, (off_t)bytes) != 0)
		return tn_fail_sys(err, errno, path, "could not cut '%s'", path);
	return fsync(fd) == 0 ? TN_OK : tn_fail_sys(err, errno, path, "could not make '%s' durable", path);
}

tn_status tn_consume_shard(const tn_checkpoint *c, size_t shard, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	TN_TRY(tn_path_join(path, c->path, c->shard_names[shard], err));
	int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return tn_fail_sys(err, errno, path, "could not open '%s'", path);
	tn_status status = cut_file(fd, c->shards[shard], path, err);
	close(fd);
	return status;
}

/* A file that is no longer than its header. What cannot be opened is none of ours. */
static tn_status is_stub(tn_context *ctx, const char *path, int *out, struct tn_error *err)
{
	tn_safetensors *file;
	struct tn_error found;
	uint64_t header_bytes;
	*out = 0;
	tn_status status = tn_safetensors_open_cut(ctx, path, &file, &found);
	if (status != TN_OK)
		return status == TN_E_NOMEM ? tn_fail_with(err, &found) : TN_OK;
	status = tn_safetensors_header_bytes(file, &header_bytes, err);
	*out = status == TN_OK && file->bytes <= header_bytes;
	tn_safetensors_close(file);
	return status;
}

static tn_status clear_file(tn_context *ctx, const char *folder, const char *name, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	int goes = tn_ends_with(name, ".json");
	TN_TRY(tn_path_join(path, folder, name, err));
	if (!goes)
		TN_TRY(is_stub(ctx, path, &goes, err));
	return goes && unlink(path) != 0 ? tn_fail_sys(err, errno, path, "could not remove '%s'", path) : TN_OK;
}

tn_status tn_consumed_clear(tn_context *ctx, const char *folder, struct tn_error *err)
{
	struct tn_names names;
	TN_TRY(tn_folder_list(ctx, folder, &names, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < names.count && status == TN_OK; i++)
		if (tn_file_role_of(names.items[i]) == TN_ROLE_WEIGHTS)
			status = clear_file(ctx, folder, names.items[i], err);
	tn_names_release(&names);
	return status == TN_OK ? tn_folder_sync(folder, err) : status;
}

tn_status tn_consume_absolute(char out[TN_PATH_BYTES], const char *path, struct tn_error *err)
{
	char parent[TN_PATH_BYTES], resolved[PATH_MAX];
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n >= sizeof parent)
		return tn_fail(err, TN_E_LIMIT, path, "the path is longer than %d bytes", TN_PATH_BYTES - 1);
	memcpy(parent, path, n);
	parent[n] = '\0';
	char *slash = strrchr(parent, '/');
	const char *name = slash ? path + (slash - parent) + 1 : path;
	if (slash)
		*(slash == parent ? slash + 1 : slash) = '\0';
	if (!realpath(slash ? parent : ".", resolved))
		return tn_fail_sys(err, errno, path, "could not find the folder that '%s' is to stand in", path);
	int length = snprintf(out, TN_PATH_BYTES, "%s/%.*s", strcmp(resolved, "/") == 0 ? "" : resolved,
			      (int)(n - (size_t)(name - path)), name);
	return length > 0 && length < TN_PATH_BYTES ? TN_OK
						    : tn_fail(err, TN_E_LIMIT, path, "the path is longer than %d bytes",
							      TN_PATH_BYTES - 1);
}
