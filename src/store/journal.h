/* What an interrupted run has finished, so that the next one need not do it again. A text file: one line that says which plan
 * it is of, then one line for each finished file, each durable before the next work begins. A line that was cut off by a
 * crash does not count. */
#ifndef TN_JOURNAL_H
#define TN_JOURNAL_H

#include "base/file.h"

enum { TN_PLAN_ID_BYTES = 32 };

struct tn_journal;

/* Opens the journal at `path` for the plan of that identity. With `resume`, what an earlier run of the same plan noted is
 * kept; a journal of another plan, or none, starts empty, as without `resume`. */
tn_status tn_journal_open(tn_context *ctx, const char *path, const unsigned char plan_id[TN_PLAN_ID_BYTES], int resume,
			  struct tn_journal **out, struct tn_error *err);
void tn_journal_close(struct tn_journal *journal);

/* Remarks stand between the names: lines that begin with '/', which no name holds. A remark is durable with the next name. */
tn_status tn_journal_remark(struct tn_journal *journal, const char *text, struct tn_error *err);
/* The remarks of the journal at `path`, each ended by a newline, when it is of that plan (NULL: of any); else an empty
 * text. */
tn_status tn_journal_remarks(tn_context *ctx, const char *path, const unsigned char plan_id[TN_PLAN_ID_BYTES],
			     struct tn_buffer *out, struct tn_error *err);

/* The remark of a journal whose finished files are the only copy of what is in them. Such a journal and its files are never
 * cleared away: tn_journal_open fails with TN_E_EXISTS where it would begin anew. */
#define TN_JOURNAL_ONLY_COPY "/only copy"
/* Makes it so, durably. */
tn_status tn_journal_protect(struct tn_journal *journal, struct tn_error *err);
/* *is_protected is 1 when the journal at `path`, of whatever plan, is protected; 0 when there is none. One that cannot be read
 * is an error: it may be. */
tn_status tn_journal_is_protected(tn_context *ctx, const char *path, int *is_protected, struct tn_error *err);

int tn_journal_has(const struct tn_journal *journal, const char *name);
size_t tn_journal_count(const struct tn_journal *journal);
/* Notes that the file `name` is complete and durable. Thread-safe. */
tn_status tn_journal_add(struct tn_journal *journal, const char *name, struct tn_error *err);

#endif
