/* What other programs make of an adapter. */
#ifndef TN_ENGINES_H
#define TN_ENGINES_H

#include "adapter/land.h"

typedef tn_status (*tn_engine_report)(void *arg, int level, const char *where, const char *message, struct tn_error *err);

/* 1 when there is an engine of that name. */
int tn_engine_exists(const char *engine);

/* Reports what `engine` refuses, ignores or needs. `joint`: where the adapter lands; NULL: nowhere, or on no base. */
tn_status tn_engine_check(const char *engine, const tn_adapter *adapter, const struct tn_joint *joint, tn_engine_report report,
			  void *arg, struct tn_error *err);

#endif
