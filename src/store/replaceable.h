/* Which folders may be replaced: tenon does not delete what it does not know. */
#ifndef TN_REPLACEABLE_H
#define TN_REPLACEABLE_H

#include "base/file.h"

/* What may be replaced. */
enum { TN_REPLACE_NOTHING, TN_REPLACE_MODEL, TN_REPLACE_ADAPTER };

/* TN_E_EXISTS, and what is in the way, unless a new folder may take the place of `target`: nothing stands there, or an empty
 * folder, or, if `force` says so, one that holds a model (an adapter) and nothing that does not belong to it. */
tn_status tn_replaceable_check(tn_context *ctx, const char *target, int force, struct tn_error *err);

/* Refuses to write over an input: a folder, or a file that a new folder would replace with the one it lies in. */
tn_status tn_replaceable_check_input(const char *target, const char *input, struct tn_error *err);

#endif
