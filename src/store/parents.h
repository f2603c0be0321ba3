/* The folders above a new one: those that are missing are made, and go again when it does not come to be. */
#ifndef TN_PARENTS_H
#define TN_PARENTS_H

#include "base/file.h"

struct tn_parents {
	const char *path; /* the deepest; the caller's, who keeps it */
	int made;         /* how many of it and those above were made */
};

/* Makes what is missing of p->path. Those that were made go again when a later one fails. */
tn_status tn_parents_make(struct tn_parents *p, struct tn_error *err);
/* Makes durable what p->path and those above it that were made hold: each has the name of the next. */
tn_status tn_parents_sync(const struct tn_parents *p, struct tn_error *err);
/* Removes those that were made, as far as they are empty. */
void tn_parents_remove(struct tn_parents *p);

#endif
