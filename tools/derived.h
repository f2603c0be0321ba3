/* What verbs share whose result is an adapter made of what is there: saved, and told. */
#ifndef TENON_DERIVED_H
#define TENON_DERIVED_H

#include "cli.h"

struct derived {
	const char *path;      /* to write */
	int force, dry_run;
};

/* Saves the draft, unless it is a dry run; 1 when all is well. */
int derived_save(const struct derived *derived, const tn_draft *draft, struct tn_error *err);

/* A line that says what it is; or, with --json, members of an object which the verb begins before and ends behind. */
void derived_print(const struct derived *derived, const tn_draft *draft);

/* "mlx", "mlx-lm" or "peft" to *out; 1 when it is one. */
int derived_dialect(const char *name, tn_adapter_dialect *out);

#endif
