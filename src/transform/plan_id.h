/* What a run makes, in 32 bytes: the job, its options and the state of its inputs. Inputs are told apart by what is cheap to
 * know: names, sizes, times of change; and the text of small files. Memory and threads do not belong to it: they do not
 * change a byte of the result. */
#ifndef TN_PLAN_ID_H
#define TN_PLAN_ID_H

#include "base/sha256.h"
#include "tenon/adapter.h"
#include "tenon/checkpoint.h"
#include "transform/content.h"

/* Versions of tenon that share this number go on with each other's runs. Raise it with the change that makes the same plan write
 * other bytes, or that reads or leaves other remarks in a journal: shards of two such versions do not mix. The program's own
 * version does not count, so that an upgrade locks nobody out of a model that is half used up. */
enum { TN_RESULTS_VERSION = 1 };

/* `job` with TN_RESULTS_VERSION. End with tn_sha256_finish. */
void tn_plan_id_begin(struct tn_sha256 *id, const char *job);
void tn_plan_id_add(struct tn_sha256 *id, const void *bytes, size_t n);
void tn_plan_id_add_text(struct tn_sha256 *id, const char *text); /* NULL allowed */
void tn_plan_id_add_checkpoint(struct tn_sha256 *id, const tn_checkpoint *checkpoint);
/* The same for one that is used up: what stays when its files are cut to their headers, the system starts anew, or all is moved
 * to another disk. */
void tn_plan_id_add_consumed(struct tn_sha256 *id, const tn_checkpoint *checkpoint);
void tn_plan_id_add_adapter(struct tn_sha256 *id, const tn_adapter *adapter);
/* The same by content, wherever its files lie and whenever they were copied: tn_adapter_hash, which *hash gets, and the text of
 * its configuration, whose digest *config gets (zeros: it has none). Reads the whole adapter. */
tn_status tn_plan_id_add_adapter_content(struct tn_sha256 *id, const tn_adapter *adapter, unsigned char hash[TN_HASH_BYTES],
					 struct tn_digest *config, struct tn_error *err);

#endif
