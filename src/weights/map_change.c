/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/map_change.h"

#include "base/error.h"
#include "weights/matrix.h"

void tn_map_change_release(struct tn_map_change *c)
{
	tn_context *ctx = c->map->ctx;
	for (size_t i = 0; i < c->made_count; i++)
		tn_map_entry_free(ctx, c->made[i]);
	tn_free_array(ctx, c->made, c->made_capacity, sizeof *c->made);
	tn_free_array(ctx, c->gone, c->gone_capacity, sizeof *c->gone);
}

tn_status tn_map_change_add(struct tn_map_change *c, const char *weight_name, const char *suffix, struct tn_array *array,
			    struct tn_error *err)
{
	char name[TN_NAME_BYTES];
	struct tn_buffer data = { array->data, array->bytes };
	if (!array->data)
		return TN_OK;
	if (!tn_sibling_name(name, weight_name, suffix))
		return tn_fail(err, TN_E_LIMIT, weight_name, "the name of a weight has more than %d bytes",
			       TN_NAME_BYTES);
	TN_TRY(tn_grow(c->map->ctx, &c->made, &c->made_capacity, c->made_count + 1, sizeof *c->made, "weight map",
		       err));
	TN_TRY(tn_map_entry_make(c->map->ctx, name, array->dtype, array->rank, array->shape, &data,
				 &c->made[c->made_count], err));
	c->made_count++;
	array->data = NULL;
	return TN_OK;
}

tn_status tn_map_change_remove(struct tn_map_change *c, const char *weight_name, const char *suffix, struct tn_error *err)
{
	char name[TN_NAME_BYTES];
	const struct tn_tensor *t = NULL;
	if (tn_sibling_name(name, weight_name, suffix))
		t = tn_weight_map_find(c->map, name, NULL);
	if (!t)
		return TN_OK;
	TN_TRY(tn_grow(c->map->ctx, &c->gone, &c->gone_capacity, c->gone_count + 1, sizeof *c->gone, "weight map",
		       err));
	c->gone[c->gone_count++] = t;
	return TN_OK;
}

tn_status tn_map_change_commit(struct tn_map_change *c, struct tn_error *err)
{
	TN_TRY(tn_weight_map_reserve(c->map, c->made_count, err));
	for (size_t i = 0; i < c->gone_count; i++)
		tn_weight_map_remove(c->map, c->gone[i]->name);
	for (size_t i = 0; i < c->made_count; i++)
		tn_weight_map_put(c->map, c->made[i]);
	c->made_count = 0;
	return TN_OK;
}
