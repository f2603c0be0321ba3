/* The other job of `tenon convert`: an adapter in another dialect. */
#ifndef TENON_CONVERT_ADAPTER_H
#define TENON_CONVERT_ADAPTER_H

#include "derived.h"

struct adapter_conversion {
	const struct cli_command *command;
	const char *adapter;
	struct derived shared;   /* its dialect is that of --to */
};

/* Checks the call and runs it; the exit status. */
int convert_adapter(const struct adapter_conversion *conversion);

#endif
