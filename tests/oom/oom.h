/* Scenarios for the sweep: each is run again and again while the n-th allocation fails, until none does.
 * To add one, write its two functions in scenarios_<noun>.c, and name it in oom_sweep.c. */
#ifndef TENON_OOM_H
#define TENON_OOM_H

#include "testlib.h"

struct oom_scenario {
	const char *name;
	/* Puts what the scenario needs into the empty folder; memory is plentiful. */
	void (*prepare)(const char *folder);
	/* Does the work, checks its result, and releases everything. Memory may run out at any call: returns what failed. A
	 * wrong result aborts. On failure the folder must be as it was. */
	tn_status (*run)(tn_context *ctx, const char *folder, struct tn_error *err);
	/* 1: the run makes its context itself and gets none. */
	int without_context;
};

extern const struct oom_scenario oom_context, oom_open_file, oom_open_folder, oom_load, oom_write, oom_replace, oom_fuse,
	oom_verify, oom_quantize, oom_dequantize, oom_fuse_packed, oom_list, oom_speak, oom_live, oom_clear;

/* Aborts with the text when `holds` is 0. */
void oom_require(int holds, const char *what);

#endif
