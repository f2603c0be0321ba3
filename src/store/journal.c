/* SPDX-License-Identifier: Apache-2.0 */
#include "store/journal.h"

#include "base/error.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { JOURNAL_CAP = 64 << 20, HEAD_BYTES = 16 + 2 * TN_PLAN_ID_BYTES };

struct tn_journal {
	tn_context *ctx;
	int fd;
	uint64_t end;              /* where the next line goes */
	pthread_mutex_t lock;
	struct tn_buffer kept;     /* text of the earlier run, whole lines only */
	char path[TN_PATH_BYTES];
};

static size_t make_head(char head[HEAD_BYTES + 1], const unsigned char id[TN_PLAN_ID_BYTES])
{
	size_t n = (size_t)snprintf(head, HEAD_BYTES + 1, "tenon journal ");
	for (int i = 0; i < TN_PLAN_ID_BYTES; i++)
		n += (size_t)snprintf(head + n, HEAD_BYTES + 1 - n, "%02x", id[i]);
	n += (size_t)snprintf(head + n, HEAD_BYTES + 1 - n, "\n");
	return n;
}

/* The whole text with a NUL behind it. Its names are those of files, so any bytes will do: a journal is never passed over for
 * what stands in it. */
static tn_status read_text(tn_context *ctx, const char *path, struct tn_buffer *out, struct tn_error *err)
{
	struct tn_file file;
	TN_TRY(tn_file_open(path, &file, err));
	size_t n = file.bytes < JOURNAL_CAP ? (size_t)file.bytes : JOURNAL_CAP;
	tn_status status = TN_OK;
	if (file.bytes > JOURNAL_CAP)
		status = tn_fail(err, TN_E_LIMIT, path, "'%s' has more than %d bytes; no journal does", path, JOURNAL_CAP);
	if (status == TN_OK)
		status = tn_buffer_alloc(ctx, n + 1, path, out, err);
	if (status == TN_OK && (status = tn_file_read(&file, out->data, n, 0, path, err)) != TN_OK)
		tn_buffer_release(ctx, out);
	if (status == TN_OK)
		((char *)out->data)[n] = '\0';
	tn_file_close(&file);
	return status;
}

static int has_protection(const char *text)
{
	return strstr(text, "\n" TN_JOURNAL_ONLY_COPY "\n") != NULL;
}

tn_status tn_journal_is_protected(tn_context *ctx, const char *path, int *is_protected, struct tn_error *err)
{
	struct tn_buffer text;
	struct tn_error found;
	tn_status status = read_text(ctx, path, &text, &found);
	*is_protected = 0;
	if (status != TN_OK)
		return status == TN_E_NOTFOUND ? TN_OK : tn_fail_with(err, &found);
	*is_protected = has_protection(text.data);
	tn_buffer_release(ctx, &text);
	return TN_OK;
}

static tn_status fail_protected(const char *path, struct tn_error *err)
{
	return tn_fail(err, TN_E_EXISTS, path, "'%s' speaks of files beside it that are the only copy of what tenon fuse "
		       "--consume-input has used up; go on with that command and --resume, with the same inputs and options", path);
}

/* The earlier journal, if it is of this plan; else nothing is kept. */
static tn_status read_kept(struct tn_journal *j, const char *head, size_t head_bytes, struct tn_error *err)
{
	struct tn_buffer text;
	struct tn_error found;
	tn_status status = read_text(j->ctx, j->path, &text, &found);
	if (status != TN_OK)
		return status == TN_E_NOTFOUND ? TN_OK : tn_fail_with(err, &found);
	const char *last = strrchr(text.data, '\n');
	if (text.bytes <= head_bytes || memcmp(text.data, head, head_bytes) != 0) {
		int is_protected = has_protection(text.data);
		if (is_protected) {
			tn_buffer_release(j->ctx, &text);
			return fail_protected(j->path, err);
		}
		tn_logf(j->ctx, TN_LOG_WARNING, "the interrupted run was of another plan, so everything is done again");
		tn_buffer_release(j->ctx, &text);
		return TN_OK;
	}
	j->end = (uint64_t)(last + 1 - (const char *)text.data);
	((char *)text.data)[j->end] = '\0';
	j->kept = text;
	return TN_OK;
}

static tn_status open_file(struct tn_journal *j, const char *head, size_t head_bytes, struct tn_error *err)
{
	j->fd = open(j->path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (j->fd < 0)
		return tn_fail_sys(err, errno, j->path, "could not open '%s'", j->path);
	if (ftruncate(j->fd, (off_t)j->end) != 0)
		return tn_fail_sys(err, errno, j->path, "could not cut '%s'", j->path);
	if (j->end)
		return TN_OK;
	j->end = head_bytes;
	TN_TRY(tn_fd_write(j->fd, head, head_bytes, 0, j->path, err));
	return fsync(j->fd) == 0 ? TN_OK : tn_fail_sys(err, errno, j->path, "could not make '%s' durable", j->path);
}

tn_status tn_journal_open(tn_context *ctx, const char *path, const unsigned char plan_id[TN_PLAN_ID_BYTES], int resume,
			  struct tn_journal **out, struct tn_error *err)
{
	char head[HEAD_BYTES + 1];
	size_t head_bytes = make_head(head, plan_id);
	struct tn_journal *j;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *j, "journal", &j, err));
	j->ctx = ctx;
	j->fd = -1;
	pthread_mutex_init(&j->lock, NULL);
	snprintf(j->path, sizeof j->path, "%s", path);
	int is_protected = 0;
	tn_status status = resume ? read_kept(j, head, head_bytes, err) : tn_journal_is_protected(ctx, path, &is_protected, err);
	if (status == TN_OK && is_protected)
		status = fail_protected(path, err);
	if (status == TN_OK)
		status = open_file(j, head, head_bytes, err);
	if (status != TN_OK) {
		tn_journal_close(j);
		return status;
	}
	*out = j;
	return TN_OK;
}

void tn_journal_close(struct tn_journal *j)
{
	if (!j)
		return;
	if (j->fd >= 0)
		close(j->fd);
	pthread_mutex_destroy(&j->lock);
	tn_buffer_release(j->ctx, &j->kept);
	tn_free(j->ctx, j, sizeof *j);
}

/* The line behind `line` in the kept text, or NULL. */
static const char *next_line(const char *line)
{
	const char *end = line ? strchr(line, '\n') : NULL;
	return end && end[1] ? end + 1 : NULL;
}

int tn_journal_has(const struct tn_journal *j, const char *name)
{
	size_t n = strlen(name);
	for (const char *line = next_line(j->kept.data); line; line = next_line(line))
		if (strncmp(line, name, n) == 0 && line[n] == '\n')
			return 1;
	return 0;
}

size_t tn_journal_count(const struct tn_journal *j)
{
	size_t count = 0;
	for (const char *line = next_line(j->kept.data); line; line = next_line(line))
		count += *line != '/';
	return count;
}

static tn_status append(struct tn_journal *j, const char *text, int durably, struct tn_error *err)
{
	size_t n = strlen(text);
	pthread_mutex_lock(&j->lock);
	tn_status status = tn_fd_write(j->fd, text, n, j->end, j->path, err);
	if (status == TN_OK)
		status = tn_fd_write(j->fd, "\n", 1, j->end + n, j->path, err);
	if (status == TN_OK && durably && fsync(j->fd) != 0)
		status = tn_fail_sys(err, errno, j->path, "could not make '%s' durable", j->path);
	if (status == TN_OK)
		j->end += n + 1;
	pthread_mutex_unlock(&j->lock);
	return status;
}

tn_status tn_journal_add(struct tn_journal *j, const char *name, struct tn_error *err)
{
	return append(j, name, 1, err);
}

tn_status tn_journal_remark(struct tn_journal *j, const char *text, struct tn_error *err)
{
	return append(j, text, 0, err);
}

tn_status tn_journal_protect(struct tn_journal *j, struct tn_error *err)
{
	return append(j, TN_JOURNAL_ONLY_COPY, 1, err);
}

tn_status tn_journal_remarks(tn_context *ctx, const char *path, const unsigned char plan_id[TN_PLAN_ID_BYTES],
			     struct tn_buffer *out, struct tn_error *err)
{
	char head[HEAD_BYTES + 1];
	size_t head_bytes = plan_id ? make_head(head, plan_id) : 0, n = 0;
	struct tn_error found;
	tn_status status = read_text(ctx, path, out, &found);
	if (status == TN_E_NOTFOUND) {
		TN_TRY(tn_buffer_alloc(ctx, 1, path, out, err));
		*(char *)out->data = '\0';
		return TN_OK;
	}
	if (status != TN_OK)
		return tn_fail_with(err, &found);
	char *text = out->data;
	if (out->bytes > head_bytes && memcmp(text, head, head_bytes) == 0)
		for (const char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
			size_t length = (size_t)(end - line) + 1;
			if (*line != '/')
				continue;
			memmove(text + n, line, length);
			n += length;
		}
	text[n] = '\0';
	return TN_OK;
}
