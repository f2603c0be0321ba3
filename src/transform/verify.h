/* The report of a verification from inside. */
#ifndef TN_VERIFY_H
#define TN_VERIFY_H

#include "base/arena.h"
#include "tenon/transform.h"

struct tn_verify {
	tn_context *ctx;
	struct tn_arena arena;   /* holds this struct too */
	struct tn_verified_tensor *tensors;   /* in the order of names */
	size_t count;
	int ok;
};

/* An empty report. */
tn_status tn_verify_create(tn_context *ctx, tn_verify **out, struct tn_error *err);
/* Puts the tensors into their order, makes their names the report's own, and says whether all is well. */
tn_status tn_verify_settle(tn_verify *verify, struct tn_error *err);

/* Adds the fields of config.json that decide what is computed and that both say otherwise; v->tensors has room for
 * tn_verify_config_room more. */
struct tn_fuse;
size_t tn_verify_config_room(void);
tn_status tn_verify_config(const struct tn_fuse *fuse, const tn_checkpoint *merged, tn_verify *verify, struct tn_error *err);

#endif
