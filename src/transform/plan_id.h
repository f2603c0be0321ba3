/* What a run makes, in 32 bytes: the job, its options and the state of its inputs. Inputs are told apart by what is cheap to
 * know: names, sizes, times of change; and the text of small files. Memory and threads do not belong to it: they do not
 * change a byte of the result. */
#ifndef TN_PLAN_ID_H
#define TN_PLAN_ID_H

#include "base/sha256.h"
#include "tenon/adapter.h"
#include "tenon/checkpoint.h"

/* `job` with the version of tenon. End with tn_sha256_finish. */
void tn_plan_id_begin(struct tn_sha256 *id, const char *job);
void tn_plan_id_add(struct tn_sha256 *id, const void *bytes, size_t n);
void tn_plan_id_add_text(struct tn_sha256 *id, const char *text); /* NULL allowed */
void tn_plan_id_add_checkpoint(struct tn_sha256 *id, const tn_checkpoint *checkpoint);
/* The same for one that is used up: what stays when its files are cut to their headers, the system starts anew, or all is moved
 * to another disk. */
void tn_plan_id_add_consumed(struct tn_sha256 *id, const tn_checkpoint *checkpoint);
void tn_plan_id_add_adapter(struct tn_sha256 *id, const tn_adapter *adapter);

#endif
