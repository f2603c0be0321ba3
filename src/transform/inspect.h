/* Pieces of JSON that more than one report has. */
#ifndef TN_TRANSFORM_INSPECT_H
#define TN_TRANSFORM_INSPECT_H

#include "store/json_out.h"
#include "tenon/adapter.h"

/* The keys dtype, shape and bytes. */
void tn_tensor_form_json(struct tn_json_out *out, const struct tn_tensor *t);

/* An array of the adapter's modules; empty for NULL. */
void tn_modules_json(struct tn_json_out *out, const tn_adapter *adapter);

/* The key "hash": what tn_adapter_hash says; null when a factor holds NaN or infinity. */
void tn_adapter_hash_json(struct tn_json_out *out, const tn_adapter *adapter);

#endif
