/* SPDX-License-Identifier: Apache-2.0 */
#include "store/staging.h"

#include "base/arena.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "store/parents.h"
#include "store/removal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 20 };

struct tn_staging {
	struct tn_arena arena;  /* holds this struct too */
	const char *target;     /* without trailing slashes */
	struct tn_parents parents;
	const char *folder;     /* the hidden one */
	const char *retired;    /* where the old target goes on file systems that cannot exchange two names */
	const char *journal_path;
	struct tn_journal *journal; /* NULL: the run cannot be taken up again */
	int force, resume;
	int is_protected;       /* the folder holds the only copy of something */
	int lock_fd;            /* open on `folder`, holding its lock */
};

/* ---- beginning ------------------------------------------------------------------------------------------- */

static tn_status split_path(struct tn_staging *s, const char *path, struct tn_error *err)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n == 0 || (n == 1 && path[0] == '/'))
		return tn_fail(err, TN_E_ARG, path, "'%s' cannot be written to; name a new folder", path);
	TN_TRY(tn_arena_text(&s->arena, path, n, &s->target, err));
	const char *slash = strrchr(s->target, '/');
	const char *name = slash ? slash + 1 : s->target;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return tn_fail(err, TN_E_ARG, path, "'%s' has no name of its own; name a new folder", path);
	if (!slash)
		s->parents.path = ".";
	else
		TN_TRY(tn_arena_text(&s->arena, s->target, slash == s->target ? 1 : (size_t)(slash - s->target), &s->parents.path,
				     err));
	TN_TRY(tn_arena_printf(&s->arena, &s->folder, err, "%s/.%s.tenon-part", s->parents.path, name));
	TN_TRY(tn_arena_printf(&s->arena, &s->journal_path, err, "%s/.%s.tenon-journal", s->parents.path, name));
	return tn_arena_printf(&s->arena, &s->retired, err, "%s/.%s.tenon-old", s->parents.path, name);
}

static tn_status take_lock(struct tn_staging *s, struct tn_error *err)
{
	s->lock_fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->lock_fd < 0)
		return tn_fail_sys(err, errno, s->folder, "could not open '%s'", s->folder);
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		int e = errno;
		close(s->lock_fd);
		s->lock_fd = -1;
		if (e == EWOULDBLOCK)
			return tn_fail(err, TN_E_EXISTS, s->folder, "another tenon is writing '%s' at this moment", s->target);
		return tn_fail_sys(err, e, s->folder, "could not lock '%s'", s->folder);
	}
	return TN_OK;
}

/* A folder that was just made goes again when it cannot be locked, unless another run was faster and uses it. */
static tn_status lock_new_folder(struct tn_staging *s, struct tn_error *err)
{
	tn_status status = take_lock(s, err);
	if (status != TN_OK && status != TN_E_EXISTS)
		rmdir(s->folder);
	return status;
}

/* A folder that an interrupted run left is emptied; the lock tells whether that run is still there. */
static tn_status make_folder(tn_context *ctx, struct tn_staging *s, struct tn_error *err)
{
	if (mkdir(s->folder, 0777) == 0)
		return lock_new_folder(s, err);
	if (errno != EEXIST)
		return tn_fail_sys(err, errno, s->folder, "could not make the folder '%s'", s->folder);
	TN_TRY(take_lock(s, err));
	if (s->resume)
		return TN_OK;
	int is_protected;
	TN_TRY(tn_journal_is_protected(ctx, s->journal_path, &is_protected, err));
	if (is_protected)
		return tn_fail(err, TN_E_EXISTS, s->folder, "'%s' holds the only copy of what tenon fuse --consume-input has "
			       "used up; go on with that command and --resume", s->folder);
	tn_logf(ctx, TN_LOG_INFO, "clearing '%s', which an interrupted run left", s->folder);
	unlink(s->journal_path); /* first: it must never speak of another folder's files */
	TN_TRY(tn_folder_sync(s->parents.path, err));
	tn_status status = tn_folder_remove(s->folder, 1, err);
	close(s->lock_fd);
	s->lock_fd = -1;
	TN_TRY(status);
	if (mkdir(s->folder, 0777) != 0)
		return tn_fail_sys(err, errno, s->folder, "could not make the folder '%s'", s->folder);
	return lock_new_folder(s, err);
}

/* A run that was cut off inside replace_by_steps left the old folder aside: it goes back to its place when that is
 * empty, and away when the new one stands there. Called with the lock held. */
static tn_status settle_retired(struct tn_staging *s, struct tn_error *err)
{
	struct stat st;
	if (lstat(s->retired, &st) != 0 || !S_ISDIR(st.st_mode))
		return TN_OK;
	if (lstat(s->target, &st) == 0)
		return tn_folder_remove(s->retired, 1, err);
	if (rename(s->retired, s->target) != 0)
		return tn_fail_sys(err, errno, s->target, "could not put '%s' back in its place", s->target);
	return tn_replaceable_check(s->arena.ctx, s->target, s->force, err);
}

static void free_staging(struct tn_staging *s)
{
	tn_journal_close(s->journal);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	struct tn_arena arena = s->arena;
	tn_arena_release(&arena);
}

/* Takes away all that the journal does not speak of; *kept of its files are there. */
static tn_status clear_unfinished(struct tn_staging *s, size_t *kept, struct tn_error *err)
{
	DIR *dir = opendir(s->folder);
	if (!dir)
		return tn_fail_sys(err, errno, s->folder, "could not open the folder '%s'", s->folder);
	tn_status status = TN_OK;
	const struct dirent *entry;
	*kept = 0;
	while (status == TN_OK && (errno = 0, entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (tn_journal_has(s->journal, entry->d_name))
			++*kept;
		else
			status = tn_folder_remove_entry(s->folder, entry->d_name, 1, err);
	}
	if (status == TN_OK && errno != 0)
		status = tn_fail_sys(err, errno, s->folder, "could not read the folder '%s'", s->folder);
	closedir(dir);
	return status;
}

/* A journal that speaks of files that are not there is of another folder: it must not vouch for files to come. */
static tn_status open_journal(struct tn_staging *s, const unsigned char *plan_id, struct tn_error *err)
{
	size_t kept;
	TN_TRY(tn_journal_open(s->arena.ctx, s->journal_path, plan_id, s->resume, &s->journal, err));
	TN_TRY(clear_unfinished(s, &kept, err));
	if (kept == tn_journal_count(s->journal)) {
		if (kept)
			tn_logf(s->arena.ctx, TN_LOG_INFO, "%zu files of the interrupted run are complete and stay", kept);
		return TN_OK;
	}
	int is_protected;
	TN_TRY(tn_journal_is_protected(s->arena.ctx, s->journal_path, &is_protected, err));
	if (is_protected) /* nothing takes the place of its files */
		return tn_fail(err, TN_E_EXISTS, s->journal_path, "'%.140s' speaks of files that are the only copy of what tenon "
			       "fuse --consume-input has used up: of %zu, %zu are in '%.140s'; put the others back",
			       s->journal_path, tn_journal_count(s->journal), kept, s->folder);
	tn_journal_close(s->journal);
	s->journal = NULL;
	TN_TRY(tn_journal_open(s->arena.ctx, s->journal_path, plan_id, 0, &s->journal, err));
	return clear_unfinished(s, &kept, err);
}

/* After a failure; a folder to take up again stays, and so does the journal of an only copy that somebody moved elsewhere. */
static void leave(struct tn_staging *s)
{
	int is_protected;
	if (!s->resume && tn_journal_is_protected(s->arena.ctx, s->journal_path, &is_protected, NULL) == TN_OK && !is_protected)
		unlink(s->journal_path);
	rmdir(s->folder);
}

/* All that changes the disk; undone when a step fails. */
static tn_status claim_place(tn_context *ctx, struct tn_staging *s, const unsigned char *plan_id, struct tn_error *err)
{
	TN_TRY(tn_parents_make(&s->parents, err));
	tn_status status = make_folder(ctx, s, err);
	if (status == TN_OK) {
		status = settle_retired(s, err);
		if (status == TN_OK && plan_id)
			status = open_journal(s, plan_id, err);
		if (status != TN_OK)
			leave(s);
	}
	if (status != TN_OK)
		tn_parents_remove(&s->parents);
	return status;
}

tn_status tn_staging_begin(tn_context *ctx, const char *path, int force, struct tn_staging **out, struct tn_error *err)
{
	return tn_staging_begin_plan(ctx, path, force, NULL, 0, out, err);
}

tn_status tn_staging_begin_plan(tn_context *ctx, const char *path, int force, const unsigned char *plan_id, int resume,
				struct tn_staging **out, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_staging *s;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *s, &s, err));
	s->arena = arena;
	s->lock_fd = -1;
	s->force = force;
	s->resume = plan_id && resume;
	tn_status status = split_path(s, path, err);
	if (status == TN_OK)
		status = tn_replaceable_check(ctx, s->target, s->force, err);
	if (status == TN_OK)
		status = claim_place(ctx, s, plan_id, err);
	if (status != TN_OK) {
		free_staging(s);
		return status;
	}
	*out = s;
	return TN_OK;
}

const char *tn_staging_folder(const struct tn_staging *s)
{
	return s->folder;
}

int tn_staging_has(const struct tn_staging *s, const char *name)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	return s->journal && tn_journal_has(s->journal, name) && tn_path_join(path, s->folder, name, NULL) == TN_OK &&
	       tn_path_kind_of(path, &kind, NULL) == TN_OK && kind == TN_PATH_FILE;
}

tn_status tn_staging_note(struct tn_staging *s, const char *name, struct tn_error *err)
{
	if (!s->journal)
		return TN_OK;
	TN_TRY(tn_folder_sync(s->folder, err));
	return tn_journal_add(s->journal, name, err);
}

tn_status tn_staging_remark(struct tn_staging *s, const char *text, struct tn_error *err)
{
	return s->journal ? tn_journal_remark(s->journal, text, err) : TN_OK;
}

tn_status tn_staging_protect(struct tn_staging *s, struct tn_error *err)
{
	TN_TRY(tn_folder_sync(s->folder, err));
	TN_TRY(tn_parents_sync(&s->parents, err));
	TN_TRY(tn_journal_protect(s->journal, err));
	s->is_protected = 1;
	return TN_OK;
}

tn_status tn_staging_remarks(tn_context *ctx, const char *path, const unsigned char *plan_id, struct tn_buffer *out,
			     struct tn_error *err)
{
	struct tn_staging s = { .lock_fd = -1 };
	tn_arena_init(&s.arena, ctx);
	tn_status status = split_path(&s, path, err);
	if (status == TN_OK)
		status = tn_journal_remarks(ctx, s.journal_path, plan_id, out, err);
	tn_arena_release(&s.arena);
	return status;
}

int tn_staging_settle(tn_context *ctx, const char *path)
{
	struct tn_staging s = { .lock_fd = -1 };
	tn_path_kind folder = TN_PATH_OTHER, target = TN_PATH_OTHER;
	tn_arena_init(&s.arena, ctx);
	int known = split_path(&s, path, NULL) == TN_OK && tn_path_kind_of(s.folder, &folder, NULL) == TN_OK &&
		    tn_path_kind_of(s.target, &target, NULL) == TN_OK;
	if (known && folder == TN_PATH_MISSING && target == TN_PATH_FOLDER && unlink(s.journal_path) == 0)
		tn_folder_sync(s.parents.path, NULL);
	tn_arena_release(&s.arena);
	return known && folder == TN_PATH_MISSING && target == TN_PATH_FOLDER;
}

/* ---- filling --------------------------------------------------------------------------------------------- */

static tn_status create(struct tn_staging *s, const char *name, char path[TN_PATH_BYTES], int *fd, struct tn_error *err)
{
	TN_TRY(tn_path_join(path, s->folder, name, err));
	*fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	return *fd < 0 ? tn_fail_sys(err, errno, path, "could not create '%s'", path) : TN_OK;
}

static tn_status finish(int fd, const char *path, tn_status status, struct tn_error *err)
{
	if (status == TN_OK && fsync(fd) != 0)
		status = tn_fail_sys(err, errno, path, "could not make '%s' durable", path);
	if (close(fd) != 0 && status == TN_OK)
		status = tn_fail_sys(err, errno, path, "could not close '%s'", path);
	return status;
}

tn_status tn_staging_write(struct tn_staging *s, const char *name, const void *bytes, size_t n, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	int fd;
	TN_TRY(create(s, name, path, &fd, err));
	return finish(fd, path, tn_fd_write(fd, bytes, n, 0, path, err), err);
}

static tn_status copy_bytes(tn_context *ctx, const struct tn_file *from, int to, const char *from_path,
			    const char *to_path, struct tn_error *err)
{
	struct tn_buffer block;
	TN_TRY(tn_buffer_alloc(ctx, COPY_BYTES, "copy", &block, err));
	tn_status status = TN_OK;
	for (uint64_t at = 0; at < from->bytes && status == TN_OK;) {
		size_t n = from->bytes - at < COPY_BYTES ? (size_t)(from->bytes - at) : COPY_BYTES;
		status = tn_file_read(from, block.data, n, at, from_path, err);
		if (status == TN_OK)
			status = tn_fd_write(to, block.data, n, at, to_path, err);
		at += n;
	}
	tn_buffer_release(ctx, &block);
	return status;
}

static tn_status make_subfolder(struct tn_staging *s, const char *name, struct tn_error *err)
{
	const char *slash = strchr(name, '/');
	if (!slash)
		return TN_OK;
	char sub[256], path[TN_PATH_BYTES];
	snprintf(sub, sizeof sub, "%.*s", (int)(slash - name), name);
	TN_TRY(tn_path_join(path, s->folder, sub, err));
	if (mkdir(path, 0777) != 0 && errno != EEXIST)
		return tn_fail_sys(err, errno, path, "could not make the folder '%s'", path);
	return TN_OK;
}

tn_status tn_staging_copy(struct tn_staging *s, const char *from, const char *name, struct tn_error *err)
{
	struct tn_file file;
	char path[TN_PATH_BYTES];
	int fd;
	TN_TRY(tn_file_open(from, &file, err));
	tn_status status = make_subfolder(s, name, err);
	if (status == TN_OK)
		status = create(s, name, path, &fd, err);
	if (status == TN_OK)
		status = finish(fd, path, copy_bytes(s->arena.ctx, &file, fd, from, path, err), err);
	tn_file_close(&file);
	return status;
}

/* ---- ending ---------------------------------------------------------------------------------------------- */

/* Where two names cannot be exchanged (some network file systems), the old folder steps aside first: for an instant
 * neither stands under the name, and both exist. */
static tn_status replace_by_steps(struct tn_staging *s, struct tn_error *err)
{
	if (rename(s->target, s->retired) != 0)
		return tn_fail_sys(err, errno, s->target, "could not move '%s' aside", s->target);
	if (rename(s->folder, s->target) != 0) {
		int e = errno;
		if (rename(s->retired, s->target) != 0)
			return tn_fail_sys(err, e, s->target, "could not put '%s' in its place; the old one is '%s'", s->target,
					   s->retired);
		tn_folder_sync(s->parents.path, NULL); /* as good as it gets: the error above is the one to tell */
		return tn_fail_sys(err, e, s->target, "could not put '%s' in its place", s->target);
	}
	s->folder = s->retired;
	return TN_OK;
}

/* After this s->folder names the old folder, or nothing. The target is looked at again: files of the user's may have
 * appeared there during a long run. */
static tn_status put_in_place(struct tn_staging *s, int *replaced, struct tn_error *err)
{
	*replaced = 0;
	if (rename(s->folder, s->target) == 0) /* a missing or empty target */
		return TN_OK;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return tn_fail_sys(err, errno, s->target, "could not put '%s' in its place", s->target);
	TN_TRY(tn_replaceable_check(s->arena.ctx, s->target, s->force, err));
	*replaced = 1;
	if (renameat2(AT_FDCWD, s->folder, AT_FDCWD, s->target, RENAME_EXCHANGE) == 0)
		return TN_OK;
	if (errno != EINVAL && errno != ENOSYS)
		return tn_fail_sys(err, errno, s->target, "could not put '%s' in its place", s->target);
	return replace_by_steps(s, err);
}

static tn_status sync_folders(struct tn_staging *s, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	TN_TRY(tn_path_join(path, s->folder, TN_TEMPLATES_FOLDER, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind == TN_PATH_FOLDER)
		TN_TRY(tn_folder_sync(path, err));
	return tn_folder_sync(s->folder, err);
}

/* Before the folder takes its place: where two folders change places, the old one stands under the hidden name for a while,
 * and a journal beside it would speak of its files. */
static tn_status end_journal(struct tn_staging *s, struct tn_error *err)
{
	if (!s->journal)
		return TN_OK;
	if (unlink(s->journal_path) != 0)
		return tn_fail_sys(err, errno, s->journal_path, "could not remove '%s'", s->journal_path);
	return tn_folder_sync(s->parents.path, err);
}

tn_status tn_staging_commit(struct tn_staging *s, struct tn_error *err)
{
	tn_context *ctx = s->arena.ctx;
	int replaced;
	TN_TRY(sync_folders(s, err));
	if (!s->is_protected) /* else the journal stays until the folder stands in its place; nothing is replaced */
		TN_TRY(end_journal(s, err));
	TN_TRY(put_in_place(s, &replaced, err));
	/* The result stands under its name now: what fails from here on is a warning. */
	struct tn_error late;
	if (tn_parents_sync(&s->parents, &late) != TN_OK)
		tn_logf(ctx, TN_LOG_WARNING, "'%s' is complete, but may not survive a power cut: %s", s->target, late.msg);
	if (replaced && tn_folder_remove(s->folder, 1, &late) != TN_OK)
		tn_logf(ctx, TN_LOG_WARNING, "'%s' is complete; the folder it replaced is '%s': %s", s->target, s->folder,
			late.msg);
	if (s->is_protected && end_journal(s, &late) != TN_OK)
		tn_logf(ctx, TN_LOG_WARNING, "'%s' is complete; %s", s->target, late.msg);
	free_staging(s);
	return TN_OK;
}

void tn_staging_abort(struct tn_staging *s)
{
	if (!s)
		return;
	struct tn_error late;
	if (s->resume || s->is_protected) {
		tn_logf(s->arena.ctx, TN_LOG_WARNING, "what is finished stays in '%s', to be taken up again", s->folder);
		free_staging(s);
		return;
	}
	if (s->journal)
		unlink(s->journal_path);
	if (tn_folder_remove(s->folder, 1, &late) != TN_OK)
		tn_logf(s->arena.ctx, TN_LOG_WARNING, "'%s' could not be cleared away: %s", s->folder, late.msg);
	tn_parents_remove(&s->parents);
	free_staging(s);
}
