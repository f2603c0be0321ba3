/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include <string.h>

typedef tn_status level(struct tn_jparser *p, struct tn_jnode **out);

/* ---- names and literals ----------------------------------------------------------------------------------- */

/* A macro takes what it names: every macro around the name, as Jinja2 looks through nested ones too. */
static void note_special(struct tn_jparser *p, const struct tn_jstr *name)
{
	for (int i = 0; i < p->macro_count; i++) {
		p->macros[i]->uses_caller |= name == p->program->caller;
		p->macros[i]->uses_kwargs |= name == p->program->kwargs;
		p->macros[i]->uses_varargs |= name == p->program->varargs;
	}
}

static tn_status parse_name(struct tn_jparser *p, int with_field, struct tn_jnode **out)
{
	struct tn_jstr *name = p->at->value.as.str, *field;
	TN_TRY(tn_jp_node(p, TN_JN_CONST, out));
	tn_jp_step(p);
	int truth = tn_js_is(name, "true") || tn_js_is(name, "True");
	if (truth || tn_js_is(name, "false") || tn_js_is(name, "False")) {
		(*out)->value = tn_jv_bool(truth);
	} else if (tn_js_is(name, "none") || tn_js_is(name, "None")) {
		(*out)->value = tn_jv_none();
	} else if (with_field && tn_jp_skip_op(p, ".")) {
		TN_TRY(tn_jp_expect_name(p, &field));
		(*out)->kind = TN_JN_FIELD;
		(*out)->value = tn_jv_str(field);
	} else {
		(*out)->kind = TN_JN_NAME;
		note_special(p, name);
	}
	(*out)->name = name;
	return TN_OK;
}

/* Strings that stand beside each other are one. */
static tn_status parse_string(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_CONST, out));
	(*out)->value = p->at->value;
	for (tn_jp_step(p); p->at->kind == TN_JT_STRING; tn_jp_step(p))
		TN_TRY(tn_j_concat(p->j, (*out)->value.as.str, p->at->value.as.str, &(*out)->value));
	(*out)->value.as.str->room = NULL; /* constants are shared by renderings */
	return TN_OK;
}

static tn_status parse_list(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *item;
	size_t capacity = 0;
	TN_TRY(tn_jp_node(p, TN_JN_LIST, out));
	tn_jp_step(p);
	while (!tn_jp_is_op(p, "]")) {
		if ((*out)->count)
			TN_TRY(tn_jp_expect_op(p, ","));
		if (tn_jp_is_op(p, "]"))
			break;
		TN_TRY(tn_jp_expression(p, 1, &item));
		TN_TRY(tn_jp_push(p, &(*out)->items, &(*out)->count, &capacity, item));
	}
	return tn_jp_expect_op(p, "]");
}

static tn_status parse_dict(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *item;
	size_t capacity = 0;
	TN_TRY(tn_jp_node(p, TN_JN_DICT, out));
	tn_jp_step(p);
	while (!tn_jp_is_op(p, "}")) {
		if ((*out)->count)
			TN_TRY(tn_jp_expect_op(p, ","));
		if (tn_jp_is_op(p, "}"))
			break;
		TN_TRY(tn_jp_expression(p, 1, &item));
		TN_TRY(tn_jp_push(p, &(*out)->items, &(*out)->count, &capacity, item));
		TN_TRY(tn_jp_expect_op(p, ":"));
		TN_TRY(tn_jp_expression(p, 1, &item));
		TN_TRY(tn_jp_push(p, &(*out)->items, &(*out)->count, &capacity, item));
	}
	return tn_jp_expect_op(p, "}");
}

static tn_status parse_primary(struct tn_jparser *p, int with_field, struct tn_jnode **out)
{
	if (p->at->kind == TN_JT_NAME)
		return parse_name(p, with_field, out);
	if (p->at->kind == TN_JT_STRING)
		return parse_string(p, out);
	if (p->at->kind == TN_JT_NUMBER) {
		TN_TRY(tn_jp_node(p, TN_JN_CONST, out));
		(*out)->value = p->at->value;
		tn_jp_step(p);
		return TN_OK;
	}
	if (tn_jp_skip_op(p, "(")) {
		TN_TRY(tn_jp_tuple(p, 1, NULL, 1, out));
		return tn_jp_expect_op(p, ")");
	}
	if (tn_jp_is_op(p, "["))
		return parse_list(p, out);
	if (tn_jp_is_op(p, "{"))
		return parse_dict(p, out);
	return tn_jp_unexpected(p, "an expression");
}

/* ---- calls, attributes, filters, tests -------------------------------------------------------------------- */

static tn_status bad_call(struct tn_jparser *p)
{
	return tn_j_fail(p->j, TN_E_FORMAT, "the arguments of a call stand in an order that is not allowed");
}

static tn_status parse_argument(struct tn_jparser *p, struct tn_jcall *call, size_t capacity[3])
{
	struct tn_jnode *value;
	if (tn_jp_skip_op(p, "*"))
		return call->list || call->dict ? bad_call(p) : tn_jp_expression(p, 1, &call->list);
	if (call->dict)
		return bad_call(p);
	if (tn_jp_skip_op(p, "**"))
		return tn_jp_expression(p, 1, &call->dict);
	if (p->at->kind == TN_JT_NAME && tn_jt_is_op(p->at + 1, "=")) {
		struct tn_jstr *name = p->at->value.as.str;
		tn_jp_step(p);
		tn_jp_step(p);
		TN_TRY(tn_jp_expression(p, 1, &value));
		TN_TRY(tn_j_grow(p->j, &call->names, &capacity[2], call->named_count, call->named_count + 1, sizeof *call->names));
		call->names[call->named_count] = name;
		return tn_jp_push(p, &call->named, &call->named_count, &capacity[1], value);
	}
	if (call->list || call->named_count)
		return bad_call(p);
	TN_TRY(tn_jp_expression(p, 1, &value));
	return tn_jp_push(p, &call->positional, &call->count, &capacity[0], value);
}

static tn_status parse_arguments(struct tn_jparser *p, struct tn_jcall **out)
{
	size_t capacity[3] = { 0 };
	TN_TRY(tn_j_alloc(p->j, sizeof **out, out));
	TN_TRY(tn_jp_expect_op(p, "("));
	for (int first = 1; !tn_jp_is_op(p, ")"); first = 0) {
		if (!first)
			TN_TRY(tn_jp_expect_op(p, ","));
		if (tn_jp_is_op(p, ")"))
			break;
		TN_TRY(parse_argument(p, *out, capacity));
	}
	return tn_jp_expect_op(p, ")");
}

/* One of the parts between [ and ]: an expression or a slice. */
static tn_status parse_subscript(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *first = NULL, *slice;
	if (!tn_jp_is_op(p, ":")) {
		TN_TRY(tn_jp_expression(p, 1, &first));
		if (!tn_jp_is_op(p, ":")) {
			*out = first;
			return TN_OK;
		}
	}
	TN_TRY(tn_jp_node(p, TN_JN_SLICE, &slice));
	tn_jp_step(p);
	slice->a = first;
	if (!tn_jp_is_op(p, ":") && !tn_jp_is_op(p, "]") && !tn_jp_is_op(p, ","))
		TN_TRY(tn_jp_expression(p, 1, &slice->b));
	if (tn_jp_skip_op(p, ":") && !tn_jp_is_op(p, "]") && !tn_jp_is_op(p, ","))
		TN_TRY(tn_jp_expression(p, 1, &slice->c));
	*out = slice;
	return TN_OK;
}

static tn_status parse_brackets(struct tn_jparser *p, struct tn_jnode *of, struct tn_jnode **out)
{
	struct tn_jnode *part, *tuple;
	size_t capacity = 0;
	TN_TRY(tn_jp_node(p, TN_JN_ITEM, out));
	TN_TRY(tn_jp_node(p, TN_JN_TUPLE, &tuple));
	tn_jp_step(p);
	while (!tn_jp_is_op(p, "]")) {
		if (tuple->count)
			TN_TRY(tn_jp_expect_op(p, ","));
		TN_TRY(parse_subscript(p, &part));
		TN_TRY(tn_jp_push(p, &tuple->items, &tuple->count, &capacity, part));
	}
	(*out)->a = of;
	(*out)->b = tuple->count == 1 ? tuple->items[0] : tuple;
	return tn_jp_expect_op(p, "]");
}

static tn_status parse_dot(struct tn_jparser *p, struct tn_jnode *of, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_ATTRIBUTE, out));
	tn_jp_step(p);
	(*out)->a = of;
	if (p->at->kind == TN_JT_NUMBER && p->at->value.kind == TN_J_INT) {
		(*out)->kind = TN_JN_ITEM;
		TN_TRY(tn_jp_node(p, TN_JN_CONST, &(*out)->b));
		(*out)->b->value = p->at->value;
		tn_jp_step(p);
		return TN_OK;
	}
	return tn_jp_expect_name(p, &(*out)->name);
}

static tn_status parse_call(struct tn_jparser *p, struct tn_jnode *of, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_CALL, out));
	(*out)->a = of;
	return parse_arguments(p, &(*out)->call);
}

static tn_status parse_postfix(struct tn_jparser *p, struct tn_jnode **node)
{
	for (;;) {
		if (tn_jp_is_op(p, "."))
			TN_TRY(parse_dot(p, *node, node));
		else if (tn_jp_is_op(p, "["))
			TN_TRY(parse_brackets(p, *node, node));
		else if (tn_jp_is_op(p, "("))
			TN_TRY(parse_call(p, *node, node));
		else
			return TN_OK;
	}
}

/* A name that may have dots, as the names of filters and tests may. */
static tn_status parse_dotted(struct tn_jparser *p, struct tn_jstr **out)
{
	TN_TRY(tn_jp_expect_name(p, out));
	while (tn_jp_skip_op(p, ".")) {
		struct tn_jstr *more, dot = { .text = ".", .bytes = 1, .chars = 1 };
		struct tn_jv made;
		TN_TRY(tn_jp_expect_name(p, &more));
		TN_TRY(tn_j_concat(p->j, *out, &dot, &made));
		TN_TRY(tn_j_concat(p->j, made.as.str, more, &made));
		*out = made.as.str;
	}
	return TN_OK;
}

tn_status tn_jp_filters(struct tn_jparser *p, struct tn_jnode *node, int inline_first, struct tn_jnode **out)
{
	*out = node;
	while (inline_first || tn_jp_is_op(p, "|")) {
		struct tn_jnode *filter;
		if (!inline_first)
			tn_jp_step(p);
		inline_first = 0;
		TN_TRY(tn_jp_node(p, TN_JN_FILTER, &filter));
		TN_TRY(parse_dotted(p, &filter->name));
		if (!p->guarded && !p->unknown && !tn_j_knows_filter(filter->name))
			p->unknown = filter;
		if (tn_jp_is_op(p, "("))
			TN_TRY(parse_arguments(p, &filter->call));
		filter->a = *out;
		*out = filter;
	}
	return TN_OK;
}

/* An argument of a test that stands there without brackets. */
static int test_argument_follows(const struct tn_jparser *p)
{
	if (p->at->kind == TN_JT_NAME)
		return !tn_jp_is_name(p, "else") && !tn_jp_is_name(p, "or") && !tn_jp_is_name(p, "and");
	return p->at->kind == TN_JT_STRING || p->at->kind == TN_JT_NUMBER || tn_jp_is_op(p, "[") || tn_jp_is_op(p, "{");
}

static tn_status parse_test(struct tn_jparser *p, struct tn_jnode *of, struct tn_jnode **out)
{
	struct tn_jnode *test, *argument;
	size_t capacity = 0;
	tn_jp_step(p);
	int negated = tn_jp_skip_name(p, "not");
	TN_TRY(tn_jp_node(p, TN_JN_TEST, &test));
	test->a = of;
	TN_TRY(parse_dotted(p, &test->name));
	if (!p->guarded && !p->unknown && !tn_j_find_test(test->name))
		p->unknown = test;
	if (tn_jp_is_op(p, "(")) {
		TN_TRY(parse_arguments(p, &test->call));
	} else if (test_argument_follows(p)) {
		if (tn_jp_is_name(p, "is"))
			return tn_j_fail(p->j, TN_E_FORMAT, "You cannot chain multiple tests with is");
		TN_TRY(tn_j_alloc(p->j, sizeof *test->call, &test->call));
		TN_TRY(parse_primary(p, 0, &argument));
		TN_TRY(parse_postfix(p, &argument));
		TN_TRY(tn_jp_push(p, &test->call->positional, &test->call->count, &capacity, argument));
	}
	*out = test;
	if (!negated)
		return TN_OK;
	TN_TRY(tn_jp_node(p, TN_JN_NOT, out));
	(*out)->a = test;
	return TN_OK;
}

/* ---- operators, from the tightest to the loosest ---------------------------------------------------------- */

static tn_status parse_unary(struct tn_jparser *p, int with_filters, struct tn_jnode **out)
{
	struct tn_jnode *node;
	TN_TRY(tn_j_enter(p->j));
	if (tn_jp_is_op(p, "-") || tn_jp_is_op(p, "+")) {
		TN_TRY(tn_jp_node(p, tn_jp_is_op(p, "-") ? TN_JN_NEGATE : TN_JN_PLUS, &node));
		tn_jp_step(p);
		TN_TRY(parse_unary(p, 0, &node->a));
	} else {
		TN_TRY(parse_primary(p, 0, &node));
	}
	TN_TRY(parse_postfix(p, &node));
	while (with_filters) {
		if (tn_jp_is_op(p, "|"))
			TN_TRY(tn_jp_filters(p, node, 0, &node));
		else if (tn_jp_is_name(p, "is"))
			TN_TRY(parse_test(p, node, &node));
		else if (tn_jp_is_op(p, "("))
			TN_TRY(parse_call(p, node, &node));
		else
			break;
	}
	tn_j_leave(p->j);
	*out = node;
	return TN_OK;
}

static tn_status parse_filtered(struct tn_jparser *p, struct tn_jnode **out)
{
	return parse_unary(p, 1, out);
}

struct operator {
	const char *text;
	enum tn_jop op;
};

/* Operators of one level, from left to right. */
static tn_status parse_left(struct tn_jparser *p, const struct operator *operators, level *next, struct tn_jnode **out)
{
	TN_TRY(next(p, out));
	for (;;) {
		const struct operator *found = operators;
		struct tn_jnode *node;
		while (found->text && !tn_jp_is_op(p, found->text))
			found++;
		if (!found->text)
			return TN_OK;
		TN_TRY(tn_jp_node(p, TN_JN_BINARY, &node));
		tn_jp_step(p);
		node->op = found->op;
		node->a = *out;
		TN_TRY(next(p, &node->b));
		*out = node;
	}
}

static tn_status parse_power(struct tn_jparser *p, struct tn_jnode **out)
{
	static const struct operator operators[] = { { "**", TN_JO_POW }, { NULL, 0 } };
	return parse_left(p, operators, parse_filtered, out);
}

static tn_status parse_product(struct tn_jparser *p, struct tn_jnode **out)
{
	static const struct operator operators[] = { { "*", TN_JO_MUL }, { "/", TN_JO_DIV }, { "//", TN_JO_FLOORDIV },
						     { "%", TN_JO_MOD }, { NULL, 0 } };
	return parse_left(p, operators, parse_power, out);
}

static tn_status parse_concat(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *all, *item;
	size_t capacity = 0;
	TN_TRY(parse_product(p, out));
	if (!tn_jp_is_op(p, "~"))
		return TN_OK;
	TN_TRY(tn_jp_node(p, TN_JN_CONCAT, &all));
	TN_TRY(tn_jp_push(p, &all->items, &all->count, &capacity, *out));
	while (tn_jp_skip_op(p, "~")) {
		TN_TRY(parse_product(p, &item));
		TN_TRY(tn_jp_push(p, &all->items, &all->count, &capacity, item));
	}
	*out = all;
	return TN_OK;
}

static tn_status parse_sum(struct tn_jparser *p, struct tn_jnode **out)
{
	static const struct operator operators[] = { { "+", TN_JO_ADD }, { "-", TN_JO_SUB }, { NULL, 0 } };
	return parse_left(p, operators, parse_concat, out);
}

/* The comparison that stands here, taken; 0: none. */
static int take_comparison(struct tn_jparser *p, enum tn_jop *op)
{
	static const struct operator operators[] = { { "==", TN_JO_EQ }, { "!=", TN_JO_NE }, { "<", TN_JO_LT }, { "<=", TN_JO_LE },
						     { ">", TN_JO_GT }, { ">=", TN_JO_GE } };
	for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
		if (tn_jp_skip_op(p, operators[i].text)) {
			*op = operators[i].op;
			return 1;
		}
	*op = TN_JO_IN;
	if (tn_jp_skip_name(p, "in"))
		return 1;
	if (!tn_jp_is_name(p, "not") || !tn_jt_is_name(p->at + 1, "in"))
		return 0;
	tn_jp_step(p);
	tn_jp_step(p);
	*op = TN_JO_NOT_IN;
	return 1;
}

static tn_status parse_comparison(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *all = NULL, *operand;
	size_t capacity = 0, op_capacity = 0;
	enum tn_jop op;
	TN_TRY(parse_sum(p, out));
	while (take_comparison(p, &op)) {
		if (!all) {
			TN_TRY(tn_jp_node(p, TN_JN_COMPARE, &all));
			all->a = *out;
			*out = all;
		}
		TN_TRY(parse_sum(p, &operand));
		TN_TRY(tn_j_grow(p->j, &all->ops, &op_capacity, all->count, all->count + 1, sizeof *all->ops));
		all->ops[all->count] = op;
		TN_TRY(tn_jp_push(p, &all->items, &all->count, &capacity, operand));
	}
	return TN_OK;
}

static tn_status parse_not(struct tn_jparser *p, struct tn_jnode **out)
{
	if (!tn_jp_is_name(p, "not"))
		return parse_comparison(p, out);
	TN_TRY(tn_jp_node(p, TN_JN_NOT, out));
	tn_jp_step(p);
	TN_TRY(tn_j_enter(p->j));
	TN_TRY(parse_not(p, &(*out)->a));
	tn_j_leave(p->j);
	return TN_OK;
}

static tn_status parse_logic(struct tn_jparser *p, const char *word, enum tn_jnode_kind kind, level *next, struct tn_jnode **out)
{
	TN_TRY(next(p, out));
	while (tn_jp_is_name(p, word)) {
		struct tn_jnode *node;
		TN_TRY(tn_jp_node(p, kind, &node));
		tn_jp_step(p);
		node->a = *out;
		TN_TRY(next(p, &node->b));
		*out = node;
	}
	return TN_OK;
}

static tn_status parse_and(struct tn_jparser *p, struct tn_jnode **out)
{
	return parse_logic(p, "and", TN_JN_AND, parse_not, out);
}

static tn_status parse_or(struct tn_jparser *p, struct tn_jnode **out)
{
	return parse_logic(p, "or", TN_JN_OR, parse_and, out);
}

tn_status tn_jp_expression(struct tn_jparser *p, int with_choice, struct tn_jnode **out)
{
	const struct tn_jnode *unknown = p->unknown;
	int guarded = p->guarded;
	TN_TRY(tn_j_enter(p->j));
	TN_TRY(parse_or(p, out));
	while (with_choice && tn_jp_is_name(p, "if")) {
		struct tn_jnode *node;
		p->unknown = unknown;
		p->guarded = 1;
		TN_TRY(tn_jp_node(p, TN_JN_CHOICE, &node));
		tn_jp_step(p);
		node->b = *out;
		TN_TRY(parse_or(p, &node->a));
		if (tn_jp_skip_name(p, "else"))
			TN_TRY(tn_jp_expression(p, 1, &node->c));
		*out = node;
	}
	p->guarded = guarded;
	tn_j_leave(p->j);
	return TN_OK;
}

/* ---- tuples and targets ----------------------------------------------------------------------------------- */

static int tuple_ends(const struct tn_jparser *p, const char *until)
{
	return p->at->kind == TN_JT_PRINT_END || p->at->kind == TN_JT_BLOCK_END || tn_jp_is_op(p, ")") ||
	       (until && tn_jp_is_name(p, until));
}

enum part { PART_EXPRESSION, PART_WITHOUT_CHOICE, PART_PRIMARY, PART_FIELD };

static tn_status parse_part(struct tn_jparser *p, enum part what, struct tn_jnode **out)
{
	if (what == PART_PRIMARY || what == PART_FIELD)
		return parse_primary(p, what == PART_FIELD, out);
	return tn_jp_expression(p, what == PART_EXPRESSION, out);
}

static tn_status parse_parts(struct tn_jparser *p, enum part what, const char *until, int in_brackets, struct tn_jnode **out)
{
	struct tn_jnode *tuple, *part;
	size_t capacity = 0;
	int is_tuple = 0;
	TN_TRY(tn_jp_node(p, TN_JN_TUPLE, &tuple));
	for (;;) {
		if (tuple->count)
			TN_TRY(tn_jp_expect_op(p, ","));
		if (tuple_ends(p, until))
			break;
		TN_TRY(parse_part(p, what, &part));
		TN_TRY(tn_jp_push(p, &tuple->items, &tuple->count, &capacity, part));
		if (!tn_jp_is_op(p, ","))
			break;
		is_tuple = 1;
	}
	if (!is_tuple && !tuple->count && !in_brackets)
		return tn_jp_unexpected(p, "an expression");
	*out = !is_tuple && tuple->count ? tuple->items[0] : tuple;
	return TN_OK;
}

tn_status tn_jp_tuple(struct tn_jparser *p, int with_choice, const char *until, int in_brackets, struct tn_jnode **out)
{
	return parse_parts(p, with_choice ? PART_EXPRESSION : PART_WITHOUT_CHOICE, until, in_brackets, out);
}

static int can_assign(const struct tn_jnode *node)
{
	if (node->kind == TN_JN_NAME || node->kind == TN_JN_FIELD)
		return 1;
	int all = node->kind == TN_JN_TUPLE;
	for (size_t i = 0; i < node->count && all; i++)
		all = can_assign(node->items[i]);
	return all;
}

tn_status tn_jp_target(struct tn_jparser *p, const char *until, int with_fields, struct tn_jnode **out)
{
	TN_TRY(parse_parts(p, with_fields ? PART_FIELD : PART_PRIMARY, until, 0, out));
	if (!can_assign(*out))
		return tn_j_fail(p->j, TN_E_FORMAT, "something that is neither a name nor a field of a namespace is assigned to");
	return TN_OK;
}
