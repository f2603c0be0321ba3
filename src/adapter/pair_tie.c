/* SPDX-License-Identifier: Apache-2.0 */
/* Tied tables in either dialect: what is one pair in mlx-lm is two in PEFT, of which one is the other turned round. */
#include "adapter/pairs.h"

#include "base/error.h"
#include "base/transpose.h"

#include <string.h>

static struct tn_pair *pair_on(const struct tn_pairs *p, const char *weight)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->items[i].module->weight && strcmp(p->items[i].module->weight, weight) == 0)
			return &p->items[i];
	return NULL;
}

static const struct tn_base_module *module_of(const struct tn_pairs *p, const char *weight)
{
	size_t i = 0;
	while (!p->modules.items[i].weight || strcmp(p->modules.items[i].weight, weight) != 0)
		i++;
	return &p->modules.items[i];
}

/* A table [vocabulary, width] gets A^T B^T, a head [vocabulary, width] B A: the one's B turned round is the other's A. */
static tn_status add_head(struct tn_pairs *p, struct tn_arena *arena, const char *weight, const struct tn_pair *table,
			  struct tn_error *err)
{
	struct tn_pair *head = &p->items[p->count];
	*head = (struct tn_pair){ .module = module_of(p, weight), .groups = 1, .rank = table->rank, .in = table->out,
				  .out = table->in, .scale = table->scale, .a_dtype = table->b_dtype, .b_dtype = table->a_dtype,
				  .rank_before = table->rank_before, .kept = table->kept };
	TN_TRY(tn_arena_array(arena, (size_t)(head->rank * head->in), sizeof(float), &head->a, err));
	TN_TRY(tn_arena_array(arena, (size_t)(head->out * head->rank), sizeof(float), &head->b, err));
	tn_transpose(head->a, table->b, (size_t)table->out, (size_t)table->rank, sizeof(float));
	tn_transpose(head->b, table->a, (size_t)table->rank, (size_t)table->in, sizeof(float));
	p->count++;
	return TN_OK;
}

static int is_turned_round(const struct tn_pair *table, const struct tn_pair *head)
{
	if (table->rank != head->rank || table->scale != head->scale || table->in != head->out || table->out != head->in)
		return 0;
	for (uint64_t k = 0; k < table->rank; k++) {
		for (uint64_t i = 0; i < table->in; i++)
			if (table->a[k * table->in + i] != head->b[i * head->rank + k])
				return 0;
		for (uint64_t o = 0; o < table->out; o++)
			if (table->b[o * table->rank + k] != head->a[k * head->in + o])
				return 0;
	}
	return 1;
}

static tn_status refuse(const struct tn_pair *p, const char *why, struct tn_error *err)
{
	return tn_fail(err, TN_E_UNSUPPORTED, p->module->path, "'%.100s' is tied in the base, %s; fuse the adapter into the base "
		       "instead (tenon fuse)", p->module->path, why);
}

tn_status tn_pairs_settle_tie(struct tn_pairs *p, struct tn_arena *arena, const struct tn_joint *empty, const tn_adapter *adapter,
			      struct tn_error *err)
{
	int from_peft = adapter->config.dialect == TN_DIALECT_PEFT, to_peft = p->dialect == TN_DIALECT_PEFT;
	if (!empty->tied || from_peft == to_peft)
		return TN_OK;
	const char *name = empty->targets[empty->embedding].name;
	const char *head_name = empty->head != TN_NO_TARGET ? empty->targets[empty->head].name : tn_head_of_table(name);
	struct tn_pair *table = pair_on(p, name), *head = pair_on(p, head_name);
	if (!table && !head)
		return TN_OK;
	if (to_peft && (head || table->magnitude))
		return refuse(head ? head : table, "and PEFT would have to change table and head in two ways", err);
	if (to_peft)
		return add_head(p, arena, head_name, table, err);
	if (!table || !head || table->magnitude || head->magnitude || !is_turned_round(table, head))
		return refuse(table ? table : head, "where mlx-lm changes table and head together and the adapter does not", err);
	*head = p->items[--p->count];
	return TN_OK;
}
