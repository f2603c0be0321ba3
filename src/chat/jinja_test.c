/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include <math.h>

enum what { DEFINED, UNDEFINED, NONE, BOOLEAN, FALSE_, TRUE_, INTEGER, FLOAT, STRING, MAPPING, NUMBER, SEQUENCE, ITERABLE,
	    CALLABLE, ESCAPED, FILTER, TEST };

/* Tests of the value alone. */
static int is_what(enum what what, struct tn_jv v)
{
	switch (what) {
	case DEFINED: return v.kind != TN_J_UNDEFINED;
	case UNDEFINED: return v.kind == TN_J_UNDEFINED;
	case NONE: return v.kind == TN_J_NONE;
	case BOOLEAN: return v.kind == TN_J_BOOL;
	case FALSE_: return v.kind == TN_J_BOOL && !v.as.integer;
	case TRUE_: return v.kind == TN_J_BOOL && v.as.integer;
	case INTEGER: return v.kind == TN_J_INT || v.kind == TN_J_BIG;
	case FLOAT: return v.kind == TN_J_FLOAT;
	case STRING: return tn_jv_is_string(v);
	case MAPPING: return v.kind == TN_J_DICT;
	case NUMBER: return tn_jv_is_number(v);
	case SEQUENCE:
		return v.kind == TN_J_UNDEFINED || tn_jv_is_string(v) || v.kind == TN_J_LIST || v.kind == TN_J_TUPLE ||
		       v.kind == TN_J_DICT || v.kind == TN_J_RANGE;
	case ITERABLE: return tn_j_is_iterable(v);
	case CALLABLE: return v.kind == TN_J_FUNC || v.kind == TN_J_UNDEFINED || v.kind == TN_J_LOOP || v.kind == TN_J_JOINER;
	case ESCAPED: return tn_jv_is_string(v) && v.as.str->markup;
	case FILTER: return tn_jv_is_string(v) && tn_j_find_filter(v.as.str);
	case TEST: return tn_jv_is_string(v) && tn_j_find_test(v.as.str);
	}
	return 0;
}

static tn_status alone(struct tn_j *j, const struct tn_jargs *args, enum what what, int *out)
{
	if (args->count != 1 || args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "a test was given arguments that it does not take");
	*out = is_what(what, args->items[0]);
	return TN_OK;
}

#define ALONE(name, what)                                                              \
	static tn_status test_##name(struct tn_j *j, const struct tn_jargs *args, int *out) \
	{                                                                              \
		return alone(j, args, what, out);                                      \
	}
ALONE(defined, DEFINED)
ALONE(undefined, UNDEFINED)
ALONE(none, NONE)
ALONE(boolean, BOOLEAN)
ALONE(false, FALSE_)
ALONE(true, TRUE_)
ALONE(integer, INTEGER)
ALONE(float, FLOAT)
ALONE(string, STRING)
ALONE(mapping, MAPPING)
ALONE(number, NUMBER)
ALONE(sequence, SEQUENCE)
ALONE(iterable, ITERABLE)
ALONE(callable, CALLABLE)
ALONE(escaped, ESCAPED)
ALONE(filter, FILTER)
ALONE(test, TEST)

static tn_status two(struct tn_j *j, const char *name, const struct tn_jargs *args, struct tn_jv v[2])
{
	static const char *const names[] = { "value", "other", NULL };
	return tn_j_parameters(j, name, args, names, 2, v);
}

#define COMPARE(name, op)                                                              \
	static tn_status test_##name(struct tn_j *j, const struct tn_jargs *args, int *out) \
	{                                                                              \
		struct tn_jv v[2];                                                     \
		TN_TRY(two(j, #name, args, v));                                        \
		return tn_j_compare(j, op, v[0], v[1], out);                           \
	}
COMPARE(eq, TN_JO_EQ)
COMPARE(ne, TN_JO_NE)
COMPARE(lt, TN_JO_LT)
COMPARE(le, TN_JO_LE)
COMPARE(gt, TN_JO_GT)
COMPARE(ge, TN_JO_GE)

static tn_status test_in(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	static const char *const names[] = { "value", "seq", NULL };
	struct tn_jv v[2];
	TN_TRY(tn_j_parameters(j, "in", args, names, 2, v));
	return tn_j_contains(j, v[0], v[1], out);
}

/* The same object: equal for what Python has one object of, else one and the same place. */
static tn_status test_sameas(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	struct tn_jv v[2];
	TN_TRY(two(j, "sameas", args, v));
	*out = v[0].kind == v[1].kind;
	if (!*out || v[0].kind == TN_J_NONE)
		return TN_OK;
	if (tn_jv_is_whole(v[0]) || tn_jv_is_string(v[0]))
		return tn_j_equal(j, v[0], v[1], out);
	*out = v[0].kind != TN_J_FLOAT && v[0].as.func == v[1].as.func;
	return TN_OK;
}

static tn_status remainder_is(struct tn_j *j, struct tn_jv v, struct tn_jv by, int64_t wanted, int *out)
{
	struct tn_jv rest;
	TN_TRY(tn_j_binary(j, TN_JO_MOD, v, by, &rest));
	return tn_j_equal(j, rest, tn_jv_int(wanted), out);
}

static tn_status test_odd(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	static const char *const names[] = { "value", NULL };
	struct tn_jv v;
	TN_TRY(tn_j_parameters(j, "odd", args, names, 1, &v));
	return remainder_is(j, v, tn_jv_int(2), 1, out);
}

static tn_status test_even(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	static const char *const names[] = { "value", NULL };
	struct tn_jv v;
	TN_TRY(tn_j_parameters(j, "even", args, names, 1, &v));
	return remainder_is(j, v, tn_jv_int(2), 0, out);
}

static tn_status test_divisibleby(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	static const char *const names[] = { "value", "num", NULL };
	struct tn_jv v[2];
	TN_TRY(tn_j_parameters(j, "divisibleby", args, names, 2, v));
	return remainder_is(j, v[0], v[1], 0, out);
}

static tn_status in_case(struct tn_j *j, const struct tn_jargs *args, const char *method, int *out)
{
	static const char *const names[] = { "value", NULL };
	static const struct tn_jargs none;
	struct tn_jv v, name, ask, answer;
	TN_TRY(tn_j_parameters(j, method, args, names, 1, &v));
	TN_TRY(tn_j_str(j, v, &v));
	TN_TRY(tn_j_text(j, method, &name));
	TN_TRY(tn_j_own_attribute(j, v, name, &ask));
	TN_TRY(tn_j_call(j, ask, &none, &answer));
	*out = tn_j_truth(answer);
	return TN_OK;
}

static tn_status test_lower(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	return in_case(j, args, "islower", out);
}

static tn_status test_upper(struct tn_j *j, const struct tn_jargs *args, int *out)
{
	return in_case(j, args, "isupper", out);
}

static const struct {
	const char *name;
	tn_jtest *call;
} tests[] = {
	{ "defined", test_defined }, { "undefined", test_undefined }, { "none", test_none }, { "boolean", test_boolean },
	{ "false", test_false }, { "true", test_true }, { "integer", test_integer }, { "float", test_float },
	{ "string", test_string }, { "mapping", test_mapping }, { "number", test_number }, { "sequence", test_sequence },
	{ "iterable", test_iterable }, { "callable", test_callable }, { "escaped", test_escaped }, { "filter", test_filter },
	{ "test", test_test }, { "odd", test_odd }, { "even", test_even }, { "divisibleby", test_divisibleby },
	{ "lower", test_lower }, { "upper", test_upper }, { "in", test_in }, { "sameas", test_sameas },
	{ "==", test_eq }, { "eq", test_eq }, { "equalto", test_eq }, { "!=", test_ne }, { "ne", test_ne },
	{ ">", test_gt }, { "gt", test_gt }, { "greaterthan", test_gt }, { "ge", test_ge }, { ">=", test_ge },
	{ "<", test_lt }, { "lt", test_lt }, { "lessthan", test_lt }, { "<=", test_le }, { "le", test_le },
};

tn_jtest *tn_j_find_test(const struct tn_jstr *name)
{
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
		if (tn_js_is(name, tests[i].name))
			return tests[i].call;
	return NULL;
}

tn_status tn_j_test(struct tn_j *j, const struct tn_jstr *name, const struct tn_jargs *args, int *out)
{
	tn_jtest *call = tn_j_find_test(name);
	if (!call)
		return tn_j_fail(j, TN_E_FORMAT, "No test named '%.*s'.", name->bytes < 80 ? (int)name->bytes : 80, name->text);
	return call(j, args, out);
}
