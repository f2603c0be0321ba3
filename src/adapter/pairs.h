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

/* On a base whose table is its head too: in mlx-lm a pair on the table changes both, in PEFT the head is a module of its own. From
 * the one to the other a pair of the head is made, or the two become one. There is room for one more pair. TN_E_UNSUPPORTED: only
 * one of the two is changed in PEFT, or each in another way. */
tn_status tn_pairs_settle_tie(struct tn_pairs *pairs, struct tn_arena *arena, const struct tn_joint *empty,
			      const tn_adapter *adapter, struct tn_error *err);
/* What the adapter replaces, tensors and rows; `empty` is the joint of the base alone. */
tn_status tn_wholes_load(struct tn_pairs *pairs, struct tn_arena *arena, const struct tn_joint *empty, const tn_adapter *adapter,
			 struct tn_error *err);
/* TN_E_UNSUPPORTED: the dialect cannot hold one of them beside these pairs. */
tn_status tn_wholes_check(const struct tn_pairs *pairs, struct tn_error *err);
/* The same list with all tensors of the modules that PEFT saves whole: those that are missing are read from the base. Memory is
 * the arena's. */
tn_status tn_wholes_complete(const struct tn_pairs *pairs, struct tn_arena *arena, const tn_checkpoint *base,
			     struct tn_pairs *out, struct tn_error *err);
/* How the configuration speaks of them. */
tn_status tn_wholes_choose(const struct tn_pairs *pairs, struct tn_arena *arena, struct tn_choice *choice, struct tn_error *err);
/* The name in the file. */
tn_status tn_whole_name(const struct tn_pairs *pairs, const struct tn_whole *whole, struct tn_arena *arena, const char **out,
			struct tn_error *err);

#endif
