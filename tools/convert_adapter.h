/* The other job of `tenon convert`: an adapter in another dialect. */
#ifndef TENON_CONVERT_ADAPTER_H
#define TENON_CONVERT_ADAPTER_H

#include "cli.h"

struct adapter_conversion {
	const struct cli_command *command;
	const char *model, *adapter, *save_path, *to, *dtype, *base_name;
	int force, dry_run;
};

/* Checks the call and runs it; the exit status. */
int convert_adapter(const struct adapter_conversion *conversion);

#endif
