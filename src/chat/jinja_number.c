/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include <math.h>
#include <string.h>

static const char *const op_text[] = { "+",  "-", "*",	"/", "//", "%",	 "** or pow()", "==",
				       "!=", "<", "<=", ">", ">=", "in", "not in" };

static tn_status unsupported(struct tn_j *j, enum tn_jop op, struct tn_jv a, struct tn_jv b)
{
	if (a.kind == TN_J_UNDEFINED || b.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, a.kind == TN_J_UNDEFINED ? a : b);
	if (op == TN_JO_ADD && tn_jv_is_string(a))
		return tn_j_fail(j, TN_E_MISMATCH, "can only concatenate str (not \"%s\") to str", tn_j_type_name(b));
	if (op == TN_JO_ADD && (a.kind == TN_J_LIST || a.kind == TN_J_TUPLE))
		return tn_j_fail(j, TN_E_MISMATCH, "can only concatenate %s (not \"%s\") to %s", tn_j_type_name(a),
				 tn_j_type_name(b), tn_j_type_name(a));
	return tn_j_fail(j, TN_E_MISMATCH, "unsupported operand type(s) for %s: '%s' and '%s'", op_text[op], tn_j_type_name(a),
			 tn_j_type_name(b));
}

static tn_status too_large(struct tn_j *j)
{
	return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
}

/* ---- whole numbers ---------------------------------------------------------------------------------------- */

/* Rounded down, as Python divides. */
static int64_t floor_div(int64_t a, int64_t b)
{
	int64_t q = a / b;
	return q - (a % b != 0 && (a < 0) != (b < 0));
}

static tn_status int_divide(struct tn_j *j, enum tn_jop op, int64_t a, int64_t b, struct tn_jv *out)
{
	if (b == 0)
		return tn_j_fail(j, TN_E_MISMATCH, op == TN_JO_DIV ? "division by zero" : "integer division or modulo by zero");
	if (b == -1 && op == TN_JO_FLOORDIV && a == INT64_MIN)
		return too_large(j);
	if (op == TN_JO_DIV)
		*out = tn_jv_float((double)a / (double)b);
	else if (b == -1 && op == TN_JO_FLOORDIV)
		*out = tn_jv_int(-a);
	else if (b == -1)
		*out = tn_jv_int(0);
	else
		*out = tn_jv_int(op == TN_JO_FLOORDIV ? floor_div(a, b) : a - floor_div(a, b) * b);
	return TN_OK;
}

static tn_status int_power(struct tn_j *j, int64_t a, int64_t b, struct tn_jv *out)
{
	int64_t result = 1;
	if (b < 0 && a == 0)
		return tn_j_fail(j, TN_E_MISMATCH, "0.0 cannot be raised to a negative power");
	if (b < 0) {
		*out = tn_jv_float(pow((double)a, (double)b));
		return TN_OK;
	}
	if (a == 0 || a == 1 || a == -1) {
		*out = tn_jv_int(b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a);
		return TN_OK;
	}
	for (int64_t i = 0; i < b; i++) /* at most 63 times */
		if (__builtin_mul_overflow(result, a, &result))
			return too_large(j);
	*out = tn_jv_int(result);
	return TN_OK;
}

static tn_status int_binary(struct tn_j *j, enum tn_jop op, int64_t a, int64_t b, struct tn_jv *out)
{
	int64_t result = 0;
	int over = 0;
	switch (op) {
	case TN_JO_ADD: over = __builtin_add_overflow(a, b, &result); break;
	case TN_JO_SUB: over = __builtin_sub_overflow(a, b, &result); break;
	case TN_JO_MUL: over = __builtin_mul_overflow(a, b, &result); break;
	case TN_JO_POW: return int_power(j, a, b, out);
	default: return int_divide(j, op, a, b, out);
	}
	*out = tn_jv_int(result);
	return over ? too_large(j) : TN_OK;
}

/* ---- doubles ---------------------------------------------------------------------------------------------- */

/* With the sign of the divisor, as Python's %. */
static double python_mod(double a, double b)
{
	double mod = fmod(a, b);
	if (mod == 0.0)
		return copysign(0.0, b);
	return (mod < 0) != (b < 0) ? mod + b : mod;
}

static double python_floor_div(double a, double b)
{
	double mod = fmod(a, b), div = (a - mod) / b;
	if (mod != 0.0 && (mod < 0) != (b < 0))
		div -= 1.0;
	if (div == 0.0)
		return copysign(0.0, a / b);
	double floored = floor(div);
	return div - floored > 0.5 ? floored + 1.0 : floored;
}

static tn_status real_power(struct tn_j *j, double a, double b, struct tn_jv *out)
{
	if (a == 0.0 && b < 0.0)
		return tn_j_fail(j, TN_E_MISMATCH, "0.0 cannot be raised to a negative power");
	if (a < 0.0 && isfinite(a) && isfinite(b) && b != floor(b))
		return tn_j_fail(j, TN_E_UNSUPPORTED, "a power is a complex number");
	double result = pow(a, b);
	if (isinf(result) && isfinite(a) && isfinite(b))
		return tn_j_fail(j, TN_E_MISMATCH, "a power is too large for a float");
	*out = tn_jv_float(result);
	return TN_OK;
}

static tn_status real_binary(struct tn_j *j, enum tn_jop op, double a, double b, struct tn_jv *out)
{
	if (b == 0.0 && (op == TN_JO_DIV || op == TN_JO_FLOORDIV || op == TN_JO_MOD))
		return tn_j_fail(j, TN_E_MISMATCH, op == TN_JO_DIV ? "float division by zero" : "float floor division by zero");
	switch (op) {
	case TN_JO_ADD: *out = tn_jv_float(a + b); return TN_OK;
	case TN_JO_SUB: *out = tn_jv_float(a - b); return TN_OK;
	case TN_JO_MUL: *out = tn_jv_float(a * b); return TN_OK;
	case TN_JO_DIV: *out = tn_jv_float(a / b); return TN_OK;
	case TN_JO_FLOORDIV: *out = tn_jv_float(python_floor_div(a, b)); return TN_OK;
	case TN_JO_MOD: *out = tn_jv_float(python_mod(a, b)); return TN_OK;
	default: return real_power(j, a, b, out);
	}
}

static tn_status number_binary(struct tn_j *j, enum tn_jop op, struct tn_jv a, struct tn_jv b, struct tn_jv *out)
{
	if (tn_jv_is_whole(a) && tn_jv_is_whole(b))
		return int_binary(j, op, a.as.integer, b.as.integer, out);
	if (a.kind != TN_J_FLOAT && b.kind != TN_J_FLOAT && op != TN_JO_DIV)
		return too_large(j);
	return real_binary(j, op, tn_j_to_double(a), tn_j_to_double(b), out);
}

/* ---- texts and lists -------------------------------------------------------------------------------------- */

/* Markup escapes what is added to it. */
static tn_status add_strings(struct tn_j *j, struct tn_jv a, struct tn_jv b, struct tn_jv *out)
{
	int markup = a.as.str->markup || b.as.str->markup;
	if (markup) {
		TN_TRY(tn_j_escape(j, a, &a));
		TN_TRY(tn_j_escape(j, b, &b));
	}
	TN_TRY(tn_j_concat(j, a.as.str, b.as.str, out));
	out->as.str->markup = markup;
	return TN_OK;
}

static tn_status add_lists(struct tn_j *j, struct tn_jv a, struct tn_jv b, struct tn_jv *out)
{
	const struct tn_jlist *x = a.as.list, *y = b.as.list;
	struct tn_jlist *sum;
	TN_TRY(tn_j_list(j, x->count + y->count, &sum));
	if (x->count)
		memcpy(sum->items, x->items, x->count * sizeof *sum->items);
	if (y->count)
		memcpy(sum->items + x->count, y->items, y->count * sizeof *sum->items);
	*out = a.kind == TN_J_LIST ? tn_jv_list(sum) : tn_jv_tuple(sum);
	return TN_OK;
}

static tn_status repeat(struct tn_j *j, struct tn_jv v, int64_t times, struct tn_jv *out)
{
	size_t n = times > 0 ? (size_t)times : 0, items;
	struct tn_jlist *list;
	if (tn_jv_is_string(v)) {
		struct tn_jbuffer b = { 0 };
		TN_TRY(tn_jb_repeat(j, &b, v.as.str->text, v.as.str->bytes, n));
		TN_TRY(tn_jb_string(j, &b, out));
		out->as.str->markup = v.as.str->markup;
		return TN_OK;
	}
	if (__builtin_mul_overflow(v.as.list->count, n, &items))
		return tn_j_fail(j, TN_E_LIMIT, "a list grows beyond memory");
	TN_TRY(tn_j_list(j, items, &list));
	for (size_t i = 0; i < items; i++)
		list->items[i] = v.as.list->items[i % v.as.list->count];
	*out = v.kind == TN_J_LIST ? tn_jv_list(list) : tn_jv_tuple(list);
	return TN_OK;
}

static int is_sequence(struct tn_jv v)
{
	return tn_jv_is_string(v) || v.kind == TN_J_LIST || v.kind == TN_J_TUPLE;
}

tn_status tn_j_binary(struct tn_j *j, enum tn_jop op, struct tn_jv a, struct tn_jv b, struct tn_jv *out)
{
	if (op == TN_JO_MOD && tn_jv_is_string(a))
		return tn_j_percent(j, a.as.str, b, out);
	if (tn_jv_is_number(a) && tn_jv_is_number(b))
		return number_binary(j, op, a, b, out);
	if (op == TN_JO_ADD && tn_jv_is_string(a) && tn_jv_is_string(b))
		return add_strings(j, a, b, out);
	if (op == TN_JO_ADD && a.kind == b.kind && (a.kind == TN_J_LIST || a.kind == TN_J_TUPLE))
		return add_lists(j, a, b, out);
	if (op == TN_JO_MUL && is_sequence(a) && tn_jv_is_whole(b))
		return repeat(j, a, b.as.integer, out);
	if (op == TN_JO_MUL && tn_jv_is_whole(a) && is_sequence(b))
		return repeat(j, b, a.as.integer, out);
	return unsupported(j, op, a, b);
}

tn_status tn_j_power(struct tn_j *j, struct tn_jv a, struct tn_jv b, struct tn_jv *out)
{
	return tn_j_binary(j, TN_JO_POW, a, b, out);
}

tn_status tn_j_negate(struct tn_j *j, struct tn_jv v, int minus, struct tn_jv *out)
{
	if (v.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v);
	if (!tn_jv_is_number(v))
		return tn_j_fail(j, TN_E_MISMATCH, "bad operand type for unary %c: '%s'", minus ? '-' : '+', tn_j_type_name(v));
	if (minus && (v.kind == TN_J_BIG || (v.kind != TN_J_FLOAT && v.as.integer == INT64_MIN)))
		return too_large(j);
	if (v.kind == TN_J_FLOAT)
		*out = tn_jv_float(minus ? -v.as.real : v.as.real);
	else if (v.kind == TN_J_BIG)
		*out = v;
	else
		*out = tn_jv_int(minus ? -v.as.integer : v.as.integer);
	return TN_OK;
}

tn_status tn_j_compare(struct tn_j *j, enum tn_jop op, struct tn_jv a, struct tn_jv b, int *out)
{
	int order;
	if (op == TN_JO_EQ || op == TN_JO_NE) {
		TN_TRY(tn_j_equal(j, a, b, out));
		*out ^= op == TN_JO_NE;
		return TN_OK;
	}
	if (op == TN_JO_IN || op == TN_JO_NOT_IN) {
		TN_TRY(tn_j_contains(j, a, b, out));
		*out ^= op == TN_JO_NOT_IN;
		return TN_OK;
	}
	TN_TRY(tn_j_order(j, a, b, op_text[op], &order));
	*out = order != 2 && (op == TN_JO_LT ? order < 0 : op == TN_JO_LE ? order <= 0 : op == TN_JO_GT ? order > 0 : order >= 0);
	return TN_OK;
}
