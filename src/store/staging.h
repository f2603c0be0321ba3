/* A folder that appears whole or not at all.
 *
 * Everything is written into `<parent>/.<name>.tenon-part`, made durable, and renamed to `<parent>/<name>` at the end: a
 * crash at any instant leaves the old state, or the new one, and at most a hidden folder that the next run to the same
 * place clears away. A lock on that folder keeps two runs to the same place apart.
 */
#ifndef TN_STAGING_H
#define TN_STAGING_H

#include "base/file.h"
#include "store/journal.h"
#include "store/replaceable.h"

struct tn_staging;

/* Begins. `path` may have missing parents; they are made. A folder that stands there already is TN_E_EXISTS, unless it is
 * empty or `force` (TN_REPLACE_...) says that it may be replaced; then it is at the end. */
tn_status tn_staging_begin(tn_context *ctx, const char *path, int force, struct tn_staging **out, struct tn_error *err);

/* The same for a run that can be taken up again, known by its plan_id [TN_PLAN_ID_BYTES]: files that are noted with
 * tn_staging_note outlast an interruption, and when the next run of the same plan begins with `resume`, they are still
 * there (tn_staging_has). Everything else that was left is cleared away. The journal stands beside the hidden folder, as
 * `<parent>/.<name>.tenon-journal`. */
tn_status tn_staging_begin_plan(tn_context *ctx, const char *path, int force, const unsigned char *plan_id,
				int resume, struct tn_staging **out, struct tn_error *err);
/* 1 when an earlier run noted the file and it is in the folder. */
int tn_staging_has(const struct tn_staging *staging, const char *name);
/* Notes that the file, which the caller has made durable, is complete. Thread-safe. Does nothing without a plan. */
tn_status tn_staging_note(struct tn_staging *staging, const char *name, struct tn_error *err);

/* What is in the folder becomes the only copy of something: whatever fails from here on, the folder and its journal stay, and are
 * cleared away by nobody but the user. The place has to be free: nothing is replaced. */
tn_status tn_staging_protect(struct tn_staging *staging, struct tn_error *err);
/* A remark in the journal (store/journal.h), durable with the next file that is noted. */
tn_status tn_staging_remark(struct tn_staging *staging, const char *text, struct tn_error *err);
/* The remarks that an earlier run of that plan to that place left; see tn_journal_remarks. */
tn_status tn_staging_remarks(tn_context *ctx, const char *path, const unsigned char *plan_id, struct tn_buffer *out,
			     struct tn_error *err);
/* 1 when an earlier run to that place has put its result there and nothing else is left; a journal that is goes. */
int tn_staging_settle(tn_context *ctx, const char *path);

/* Path of the folder to write into. */
const char *tn_staging_folder(const struct tn_staging *staging);

/* Writes a small file, durably. */
tn_status tn_staging_write(struct tn_staging *staging, const char *name, const void *bytes, size_t n,
			   struct tn_error *err);

/* Copies a file of any size under a name that may have one folder in front, durably. */
tn_status tn_staging_copy(struct tn_staging *staging, const char *from, const char *name, struct tn_error *err);

/* Puts the folder in its place. Frees the staging when it succeeds; when it fails call tn_staging_abort. */
tn_status tn_staging_commit(struct tn_staging *staging, struct tn_error *err);

/* Removes what was written, and the parents that were made for it; with `resume` all stays for the next run. NULL
 * allowed. */
void tn_staging_abort(struct tn_staging *staging);

#endif
