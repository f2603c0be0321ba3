/* What fuse and verify share: adapters with weights. */
#ifndef TENON_JOINING_H
#define TENON_JOINING_H

#include "cli.h"

/* Open adapters; the first goes to tn_fuse_plan, the others into its options. */
struct joining {
	tn_adapter *adapters[CLI_MOST_VALUES];
	struct tn_weighted_adapter more[CLI_MOST_VALUES];
	int count;
};

/* Opens PATH or PATH:WEIGHT each, and fills weight and further adapters of the options. TN_E_ARG: a weight that is no
 * number. Close in any case. */
tn_status joining_open(tn_context *ctx, const struct cli_list *paths, struct joining *joining,
		       struct tn_fuse_options *options, struct tn_error *err);
void joining_close(struct joining *joining);

#endif
