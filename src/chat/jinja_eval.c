/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include <string.h>

static tn_status eval_items(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jlist **out)
{
	TN_TRY(tn_j_list(j, node->count, out));
	for (size_t i = 0; i < node->count; i++)
		TN_TRY(tn_j_eval(j, node->items[i], scope, &(*out)->items[i]));
	return TN_OK;
}

static tn_status eval_dict(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jdict *dict;
	TN_TRY(tn_jd_new(j, &dict));
	for (size_t i = 0; i < node->count; i += 2) {
		struct tn_jv key, value;
		TN_TRY(tn_j_eval(j, node->items[i], scope, &key));
		TN_TRY(tn_j_eval(j, node->items[i + 1], scope, &value));
		TN_TRY(tn_jd_set(j, dict, key, value));
	}
	*out = tn_jv_dict(dict);
	return TN_OK;
}

/* ---- attributes and items --------------------------------------------------------------------------------- */

static tn_status eval_slice(struct tn_j *j, struct tn_jv of, const struct tn_jnode *slice, struct tn_jscope *scope,
			    struct tn_jv *out)
{
	const struct tn_jnode *nodes[3] = { slice->a, slice->b, slice->c };
	struct tn_jv parts[3];
	for (int i = 0; i < 3; i++) {
		parts[i] = tn_jv_none();
		if (nodes[i])
			TN_TRY(tn_j_eval(j, nodes[i], scope, &parts[i]));
	}
	j->line = slice->line;
	return tn_j_slice(j, of, parts, out);
}

static tn_status eval_item(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv of, key;
	TN_TRY(tn_j_eval(j, node->a, scope, &of));
	if (node->b->kind == TN_JN_SLICE)
		return eval_slice(j, of, node->b, scope, out);
	TN_TRY(tn_j_eval(j, node->b, scope, &key));
	j->line = node->line;
	return tn_j_item(j, of, key, out);
}

static tn_status eval_attribute(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv of;
	TN_TRY(tn_j_eval(j, node->a, scope, &of));
	j->line = node->line;
	return tn_j_attribute(j, of, tn_jv_str(node->name), out);
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

/* *list and **dict, behind what stands there by itself. */
static tn_status add_spread(struct tn_j *j, const struct tn_jcall *call, struct tn_jscope *scope, struct tn_jlist **list,
			    struct tn_jv *dict)
{
	struct tn_jv v;
	*list = NULL;
	*dict = tn_jv_absent();
	if (call->list) {
		TN_TRY(tn_j_eval(j, call->list, scope, &v));
		TN_TRY(tn_j_to_list(j, v, list));
	}
	if (!call->dict)
		return TN_OK;
	TN_TRY(tn_j_eval(j, call->dict, scope, dict));
	if (dict->kind != TN_J_DICT)
		return tn_j_fail(j, TN_E_MISMATCH, "what stands behind ** must be a mapping, not %s", tn_j_type_name(*dict));
	for (size_t i = 0; i < dict->as.dict->count; i++)
		if (!tn_jv_is_string(dict->as.dict->entries[i].key))
			return tn_j_fail(j, TN_E_MISMATCH, "keywords must be strings");
	return TN_OK;
}

tn_status tn_j_arguments(struct tn_j *j, const struct tn_jcall *call, struct tn_jscope *scope, size_t room, struct tn_jargs *out)
{
	static const struct tn_jcall none;
	struct tn_jlist *list;
	struct tn_jv dict;
	call = call ? call : &none;
	*out = (struct tn_jargs){ .count = room + call->count, .named_count = call->named_count };
	struct tn_jv own[8], *values = own;
	if (call->count + call->named_count > 8)
		TN_TRY(tn_j_array(j, call->count + call->named_count, sizeof *values, &values));
	for (size_t i = 0; i < call->count; i++)
		TN_TRY(tn_j_eval(j, call->positional[i], scope, &values[i]));
	for (size_t i = 0; i < call->named_count; i++)
		TN_TRY(tn_j_eval(j, call->named[i], scope, &values[call->count + i]));
	TN_TRY(add_spread(j, call, scope, &list, &dict));
	size_t more = list ? list->count : 0, named = tn_jv_is_given(dict) ? dict.as.dict->count : 0;
	/* one place more: a call block adds its caller */
	TN_TRY(tn_j_array(j, out->count + more, sizeof *out->items, &out->items));
	TN_TRY(tn_j_array(j, out->named_count + named + 1, sizeof *out->named, &out->named));
	TN_TRY(tn_j_array(j, out->named_count + named + 1, sizeof *out->names, &out->names));
	if (call->count)
		memcpy(out->items + room, values, call->count * sizeof *values);
	if (more)
		memcpy(out->items + out->count, list->items, more * sizeof *values);
	out->count += more;
	for (size_t i = 0; i < call->named_count; i++) {
		out->named[i] = values[call->count + i];
		out->names[i] = call->names[i];
	}
	for (size_t i = 0; i < named; i++) {
		out->named[out->named_count] = dict.as.dict->entries[i].value;
		out->names[out->named_count++] = dict.as.dict->entries[i].key.as.str;
	}
	return TN_OK;
}

static tn_status eval_call(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv callee;
	struct tn_jargs args;
	TN_TRY(tn_j_eval(j, node->a, scope, &callee));
	TN_TRY(tn_j_arguments(j, node->call, scope, 0, &args));
	j->line = node->line;
	return tn_j_call(j, callee, &args, out);
}

static tn_status eval_filter(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv value;
	struct tn_jargs args;
	TN_TRY(tn_j_eval(j, node->a, scope, &value));
	TN_TRY(tn_j_arguments(j, node->call, scope, 1, &args));
	args.items[0] = value;
	j->line = node->line;
	return tn_j_filter(j, node->name, &args, out);
}

static tn_status eval_test(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv value;
	struct tn_jargs args;
	int is;
	TN_TRY(tn_j_eval(j, node->a, scope, &value));
	TN_TRY(tn_j_arguments(j, node->call, scope, 1, &args));
	args.items[0] = value;
	j->line = node->line;
	TN_TRY(tn_j_test(j, node->name, &args, &is));
	*out = tn_jv_bool(is);
	return TN_OK;
}

/* ---- operators -------------------------------------------------------------------------------------------- */

static tn_status eval_logic(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	TN_TRY(tn_j_eval(j, node->a, scope, out));
	if (tn_j_truth(*out) == (node->kind == TN_JN_OR))
		return TN_OK;
	return tn_j_eval(j, node->b, scope, out);
}

static tn_status eval_compare(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv left, right;
	int holds = 1;
	TN_TRY(tn_j_eval(j, node->a, scope, &left));
	for (size_t i = 0; i < node->count && holds; i++) {
		TN_TRY(tn_j_eval(j, node->items[i], scope, &right));
		j->line = node->line;
		TN_TRY(tn_j_compare(j, node->ops[i], left, right, &holds));
		left = right;
	}
	*out = tn_jv_bool(holds);
	return TN_OK;
}

/* Each part is evaluated before the first is made text. */
static tn_status eval_concat(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jlist *parts;
	struct tn_jv sum, text;
	TN_TRY(eval_items(j, node, scope, &parts));
	TN_TRY(tn_j_str(j, parts->items[0], &sum));
	for (size_t i = 1; i < parts->count; i++) {
		TN_TRY(tn_j_str(j, parts->items[i], &text));
		TN_TRY(tn_j_concat(j, sum.as.str, text.as.str, &sum));
	}
	*out = sum;
	return TN_OK;
}

static tn_status eval_choice(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv condition;
	TN_TRY(tn_j_eval(j, node->a, scope, &condition));
	if (tn_j_truth(condition))
		return tn_j_eval(j, node->b, scope, out);
	if (node->c)
		return tn_j_eval(j, node->c, scope, out);
	return tn_j_undefined_hint(j, "the inline if-expression evaluated to false and no else section was defined.", out);
}

static tn_status eval_binary(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv a, b;
	TN_TRY(tn_j_eval(j, node->a, scope, &a));
	TN_TRY(tn_j_eval(j, node->b, scope, &b));
	j->line = node->line;
	return tn_j_binary(j, node->op, a, b, out);
}

static tn_status eval_unary(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jv v;
	TN_TRY(tn_j_eval(j, node->a, scope, &v));
	if (node->kind == TN_JN_NOT) {
		*out = tn_jv_bool(!tn_j_truth(v));
		return TN_OK;
	}
	j->line = node->line;
	return tn_j_negate(j, v, node->kind == TN_JN_NEGATE, out);
}

static tn_status eval_kind(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jlist *list;
	switch (node->kind) {
	case TN_JN_CONST: *out = node->value; return TN_OK;
	case TN_JN_NAME: return tn_j_lookup(j, scope, node->name, out);
	case TN_JN_LIST:
	case TN_JN_TUPLE:
		TN_TRY(eval_items(j, node, scope, &list));
		*out = node->kind == TN_JN_LIST ? tn_jv_list(list) : tn_jv_tuple(list);
		return TN_OK;
	case TN_JN_DICT: return eval_dict(j, node, scope, out);
	case TN_JN_ATTRIBUTE: return eval_attribute(j, node, scope, out);
	case TN_JN_ITEM: return eval_item(j, node, scope, out);
	case TN_JN_CALL: return eval_call(j, node, scope, out);
	case TN_JN_FILTER: return eval_filter(j, node, scope, out);
	case TN_JN_TEST: return eval_test(j, node, scope, out);
	case TN_JN_NOT:
	case TN_JN_NEGATE:
	case TN_JN_PLUS: return eval_unary(j, node, scope, out);
	case TN_JN_AND:
	case TN_JN_OR: return eval_logic(j, node, scope, out);
	case TN_JN_BINARY: return eval_binary(j, node, scope, out);
	case TN_JN_CONCAT: return eval_concat(j, node, scope, out);
	case TN_JN_COMPARE: return eval_compare(j, node, scope, out);
	case TN_JN_CHOICE: return eval_choice(j, node, scope, out);
	default: return tn_j_fail(j, TN_E_FORMAT, "a slice stands where a value was expected");
	}
}

tn_status tn_j_eval(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out)
{
	j->line = node->line;
	TN_TRY(tn_j_enter(j));
	TN_TRY(eval_kind(j, node, scope, out));
	tn_j_leave(j);
	return TN_OK;
}
