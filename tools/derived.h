/* What verbs share whose result is an adapter made of what is there: saved, and told. */
#ifndef TENON_DERIVED_H
#define TENON_DERIVED_H

#include "cli.h"

struct derived {
	const char *model;     /* the base */
	const char *path;      /* to write */
	const char *dialect, *dtype, *base_name, *rank;   /* NULL: not given */
	double energy;         /* negative: not given */
	int force, dry_run;
};
#define DERIVED_INIT { .energy = -1 }

/* The options that all have, checked: --rank and --energy to *rule. EXIT_DONE, or EXIT_USAGE after a message. Without --dialect
 * derived_for takes that of an adapter, or PEFT. */
int derived_check(const struct cli_command *command, const struct derived *derived, struct tn_rank_rule *rule,
		  struct tn_derive_options *options);
const struct tn_derive_options *derived_for(const struct derived *derived, const tn_adapter *adapter,
					    struct tn_derive_options *options);

/* Asks whether the result may be written where it shall be, before any work, and opens the base. 1 when all is well. */
int derived_open(const struct derived *derived, tn_context *ctx, tn_checkpoint **base, struct tn_error *err);

/* Refuses to write over the adapter that is read; 1 when all is well. */
int derived_keeps(const struct derived *derived, const tn_adapter *adapter, struct tn_error *err);

/* Saves the draft, unless it is a dry run; 1 when all is well. */
int derived_save(const struct derived *derived, const tn_draft *draft, struct tn_error *err);

/* A line that says what it is; or, with --json, members of an object which the verb begins before and ends behind. */
void derived_print(const struct derived *derived, const tn_draft *draft);

/* The whole report of a verb that has nothing to add: ranks and what is kept of each kind of module before the line; or the object
 * of --json. */
void derived_print_all(const struct derived *derived, const tn_draft *draft);

#endif
