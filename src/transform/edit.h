/* Rows of the result: what a target's source becomes through the landings on it. The same for writing and for checking. */
#ifndef TN_EDIT_H
#define TN_EDIT_H

#include "transform/delta_cache.h"

/* How a target is cut: a unit is a row where something lands, an element where a replacement changes its dtype, else a
 * byte. */
struct tn_edit_form {
	uint64_t units;
	uint64_t source_bytes, result_bytes;   /* of a unit */
	int converts;                          /* source and result have different dtypes */
	uint64_t row_bytes;                    /* scratch beside the units */
};
struct tn_edit_form tn_edit_form_of(const struct tn_joint *joint, const struct tn_target *target);

/* Bytes of the source for `count` units from `first`. */
tn_status tn_edit_read(const struct tn_joint *joint, const struct tn_target *target, const struct tn_edit_form *form,
		       uint64_t first, uint64_t count, void *dst, struct tn_error *err);

/* Units of the result from those of the source; the two may be the same memory unless the form converts. */
tn_status tn_edit_units(const struct tn_joint *joint, const struct tn_target *target, const struct tn_edit_form *form,
			struct tn_delta_cache *cache, uint64_t first, uint64_t count, unsigned char *source,
			unsigned char *result, void *scratch, struct tn_error *err);

/* Calls `visit` for every unit that a landing changes, with the exact result in double [cols], and the size of the largest
 * term of each element: of W and the delta. When it returns nonzero it is called again for that unit, with `closely` set
 * and the products in the delta counted too, as often as a program that computes in float32 rounds them. */
typedef int (*tn_edit_visit)(void *arg, uint64_t unit, int closely, const double *truth, const double *size);
tn_status tn_edit_truths(const struct tn_joint *joint, const struct tn_target *target, const struct tn_edit_form *form,
			 struct tn_delta_cache *cache, uint64_t first, uint64_t count, const unsigned char *source,
			 void *scratch, tn_edit_visit visit, void *arg, struct tn_error *err);

/* How often blocks of `units` units take each slot: added to takes [slot_count]. */
void tn_edit_count_takes(const struct tn_joint *joint, const struct tn_target *target, uint64_t units_per_block,
			 uint64_t *takes);

#endif
