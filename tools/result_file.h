/* A file beside the job's folder: what was done, as JSON, or what was computed. It is created before the work begins, so that a
 * folder that is missing or not writable is known in time, and appears under its name when it is whole. */
#ifndef TENON_RESULT_FILE_H
#define TENON_RESULT_FILE_H

#include "cli.h"

typedef enum result_kind { RESULT_RECEIPT, RESULT_LOGITS } result_kind;

struct result_file {
	const char *path;   /* NULL: none is wanted, and all of this does nothing */
	result_kind kind;
	FILE *file;         /* path with ".tenon-part" behind it */
};

/* Replaces nothing without `force`, and with it files of that kind only. `folder`: where the job writes, NULL for nowhere.
 * 1 when all is well. */
int result_file_begin(struct result_file *result, result_kind kind, const char *path, const char *folder, int force,
		      struct tn_error *err);

/* For the library's JSON writers; `user` is the file. */
int result_file_write(void *user, const char *bytes, size_t n);

/* Puts it in its place; 1 when all is well. */
int result_file_end(struct result_file *result, struct tn_error *err);

/* Removes what was written; after result_file_end, and for a file that was not begun, it does nothing. */
void result_file_abort(struct result_file *result);

#endif
