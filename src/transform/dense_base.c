/* SPDX-License-Identifier: Apache-2.0 */
/* The dense original of a quantized base, where it is at hand. */
#include "transform/fuse.h"

#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "weights/format.h"

#include <math.h>
#include <string.h>

/* Of the energy of the original, the quantized values may miss this share: 2 bits, fitted to the ends of each group, miss a
 * third, and another model twice as much as there is. */
static const double most_drift = 0.75;

/* 1 when the names differ in nothing but parts in front. */
static int is_same_name(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	const char *longer = n > m ? a : b, *shorter = n > m ? b : a;
	size_t front = n > m ? n - m : m - n;
	return front && longer[front - 1] == '.' && strcmp(longer + front, shorter) == 0;
}

/* By its name, or the only one that differs from it in parts in front. */
static const struct tn_tensor *find_original(const tn_checkpoint *dense, const char *name)
{
	const struct tn_tensor *found = tn_checkpoint_find(dense, name);
	for (size_t i = 0; i < dense->count && !found; i++)
		if (is_same_name(dense->by_name[i]->name, name)) {
			found = dense->by_name[i];
			for (size_t k = i + 1; k < dense->count; k++)
				if (is_same_name(dense->by_name[k]->name, name))
					return NULL;
		}
	return found;
}

static tn_status check_original(const tn_checkpoint *dense, const struct tn_target *t, const struct tn_tensor *found,
				struct tn_error *err)
{
	if (!found)
		return tn_fail(err, TN_E_MISMATCH, t->name,
			       "'%.120s' is quantized in the base, and the dense base '%.120s' has "
			       "no such tensor; give the model that the base was quantized from, in the same layout",
			       t->name, dense->path);
	if (found->dtype != TN_F32 && found->dtype != TN_F16 && found->dtype != TN_BF16)
		return tn_fail(err, TN_E_MISMATCH, found->name, "'%.120s' has the dtype %s in the dense base '%.120s'; F32, F16 "
			       "or BF16 was expected", found->name, tn_dtype_name(found->dtype), dense->path);
	if (found->rank != t->logical->rank || memcmp(found->shape, t->logical->shape, found->rank * sizeof *found->shape) != 0)
		return tn_fail(err, TN_E_MISMATCH, found->name, "'%.120s' has another shape in the dense base '%.120s' than in "
			       "the base: the last dimension is %llu, against %llu", found->name, dense->path,
			       (unsigned long long)(found->rank ? found->shape[found->rank - 1] : 0),
			       (unsigned long long)t->logical->shape[t->logical->rank - 1]);
	return TN_OK;
}

static int has_delta(const struct tn_joint *j, const struct tn_target *t)
{
	for (size_t i = 0; i < t->landing_count; i++)
		if (j->slots[j->landings[t->first_landing + i].slot].kind == TN_SLOT_DELTA)
			return 1;
	return 0;
}

tn_status tn_fuse_find_dense(const struct tn_fuse *fuse, struct tn_error *err)
{
	const tn_checkpoint *dense = fuse->options.dense_base;
	size_t count = 0;
	if (!dense)
		return TN_OK;
	for (size_t i = 0; i < fuse->joint->target_count; i++) {
		struct tn_target *t = &fuse->joint->targets[i];
		if (!tn_target_is_packed(t) || t->replacement || !has_delta(fuse->joint, t))
			continue;
		/* a head that is made from a tied embedding has the embedding's original */
		const struct tn_tensor *found = find_original(dense, t->name);
		if (!found && t->is_new)
			found = find_original(dense, t->base->name);
		TN_TRY(check_original(dense, t, found, err));
		t->dense = found;
		t->dense_file = dense->shards[found->shard];
		count++;
	}
	if (!count)
		return tn_fail(err, TN_E_ARG, "dense_base", "no quantized weight of '%.120s' is changed, so there is nothing to "
			       "make from the dense base '%.120s'; leave it out", fuse->base->path, dense->path);
	return TN_OK;
}

tn_status tn_fuse_check_dense(const struct tn_fuse *fuse, const struct tn_fuse_step *step,
			      const struct tn_survival_sums *sum, struct tn_error *err)
{
	const char *name = fuse->joint->targets[step->target].name;
	if (!(sum->drift2 > most_drift * sum->dense2) || step->form.in.format.bits < 2)
		return TN_OK;
	return tn_fail(err, TN_E_MISMATCH, name, "'%.120s': the dense base '%.120s' is not what this base was quantized from: "
		       "the two differ by %.2g of the size of the weight", name, fuse->options.dense_base->path,
		       sqrt(sum->drift2 / sum->dense2));
}
