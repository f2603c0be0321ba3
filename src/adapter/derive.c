/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter in another dialect; what a derived draft says of its modules. */
#include "adapter/derive.h"

#include "base/error.h"

tn_status tn_draft_convert(const tn_adapter *adapter, const tn_checkpoint *base, const struct tn_derive_options *options,
			   tn_draft **out, struct tn_error *err)
{
	static const struct tn_derive_options defaults = TN_DERIVE_OPTIONS_INIT;
	const struct tn_derive_options *o = options ? options : &defaults;
	struct tn_arena arena;
	struct tn_pairs pairs;
	tn_arena_init(&arena, base->ctx);
	tn_status status = tn_pairs_load(&arena, adapter, base, o->dialect, &pairs, err);
	if (status == TN_OK)
		status = tn_draft_of_pairs(base, &pairs, o, out, err);
	tn_arena_release(&arena);
	return status;
}

size_t tn_draft_derived_count(const tn_draft *d)
{
	return d->derived_count;
}

const struct tn_derived_module *tn_draft_derived_at(const tn_draft *d, size_t i)
{
	return i < d->derived_count ? &d->derived[i] : NULL;
}
