/* A receipt: what was done, as JSON in a file. It is created before the work begins, so that a folder that is missing or not
 * writable is known in time, and appears under its name when it is whole. */
#ifndef TENON_RECEIPT_H
#define TENON_RECEIPT_H

#include "cli.h"

struct receipt {
	const char *path;   /* NULL: none is wanted, and all of this does nothing */
	FILE *file;         /* path with ".tenon-part" behind it */
};

/* Replaces nothing without `force`, and with it receipts only. 1 when all is well. */
int receipt_begin(struct receipt *receipt, const char *path, int force, struct tn_error *err);

/* For the library's JSON writers; `user` is the receipt. */
int receipt_write(void *user, const char *bytes, size_t n);

/* Puts it in its place; 1 when all is well. */
int receipt_end(struct receipt *receipt, struct tn_error *err);

/* Removes what was written; after receipt_end, and for a receipt that was not begun, it does nothing. */
void receipt_abort(struct receipt *receipt);

#endif
