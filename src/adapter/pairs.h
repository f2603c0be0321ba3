/* How pairs are made: which rows of an adapter's entries make which rows of a module. */
#ifndef TN_ADAPTER_PAIRS_H
#define TN_ADAPTER_PAIRS_H

#include "adapter/derive.h"

/* Rows count outputs through groups: group * out + output. */
struct tn_pair_part {
	size_t module;              /* of pairs->modules */
	const struct tn_slot *slot;
	int is_whole;               /* the entry and the module are the same, group by group */
	uint64_t module_row, entry_row, rows;   /* of one group on either side, unless is_whole */
};

/* One pair out of all parts of one module, which are in the order of rows. */
tn_status tn_pair_make(const struct tn_joint *joint, struct tn_arena *arena, const struct tn_base_module *module,
		       const struct tn_pair_part *parts, size_t count, struct tn_pair *out, struct tn_error *err);

/* Sets `chosen` of `modules`, which are those of the pairs, the rank of the options, and the lists of *choice. */
tn_status tn_pairs_choose(struct tn_arena *arena, const struct tn_pairs *pairs, struct tn_base_modules *modules,
			  struct tn_create_options *options, struct tn_choice *choice, struct tn_error *err);

#endif
