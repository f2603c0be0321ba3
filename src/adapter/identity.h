/* What an adapter and its base are, as hashes, and what files say of themselves (tenon/adapter.h). */
#ifndef TN_ADAPTER_IDENTITY_H
#define TN_ADAPTER_IDENTITY_H

#include "adapter/land.h"

enum { TN_HASH_TEXT = 2 * TN_HASH_BYTES + 1 };
void tn_hash_text(char text[TN_HASH_TEXT], const unsigned char hash[TN_HASH_BYTES]);

/* TN_E_MISMATCH when the metadata of the file has another hash than the adapter gives; TN_OK when it has none. */
tn_status tn_adapter_check_identity(const tn_adapter *adapter, struct tn_error *err);

/* Of the adapter that is landing: a warning in the log when its file names another base. */
tn_status tn_joint_check_base(const struct tn_joint *joint, struct tn_error *err);

#endif
