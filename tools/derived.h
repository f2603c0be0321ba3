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

/* The whole report of a verb that has nothing to add: ranks and what is kept of each kind of module before the line; or the object
 * of --json. */
void derived_print_all(const struct derived *derived, const tn_draft *draft);

/* --rank (UINT64_MAX: not given) and --energy (negative: not given) to *rule; 0 after a message. */
int derived_rule(const struct cli_command *command, uint64_t rank, double energy, struct tn_rank_rule *rule);
/* --dialect and --dtype, which may be NULL; 0 after a message. Without a dialect derived_for takes that of an adapter, or PEFT. */
int derived_options(const struct cli_command *command, const char *dialect, const char *dtype, struct tn_derive_options *options);
const struct tn_derive_options *derived_for(const char *dialect, const tn_adapter *adapter, struct tn_derive_options *options);

/* "mlx", "mlx-lm" or "peft" to *out; 1 when it is one. */
int derived_dialect(const char *name, tn_adapter_dialect *out);

#endif
