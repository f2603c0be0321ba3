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

#endif
