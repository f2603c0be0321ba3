/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_value.h"

#include "base/numeral.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *tn_j_type_name(struct tn_jv v)
{
	static const char *const views[] = { "dict_keys", "dict_values", "dict_items" };
	switch (v.kind) {
	case TN_J_UNDEFINED: return "Undefined";
	case TN_J_NONE: return "NoneType";
	case TN_J_BOOL: return "bool";
	case TN_J_INT:
	case TN_J_BIG: return "int";
	case TN_J_FLOAT: return "float";
	case TN_J_STRING: return v.as.str->markup ? "Markup" : "str";
	case TN_J_LIST: return "list";
	case TN_J_TUPLE: return "tuple";
	case TN_J_DICT: return "dict";
	case TN_J_VIEW: return views[v.as.view->what];
	case TN_J_RANGE: return "range";
	case TN_J_ITER: return "generator";
	case TN_J_NAMESPACE: return "Namespace";
	case TN_J_LOOP: return "LoopContext";
	case TN_J_CYCLER: return "Cycler";
	case TN_J_JOINER: return "Joiner";
	case TN_J_ABSENT:
	case TN_J_FUNC: break;
	}
	return "function";
}

int tn_js_is(const struct tn_jstr *s, const char *text)
{
	size_t n = strlen(text);
	return s->bytes == n && memcmp(s->text, text, n) == 0;
}

int tn_js_same(const struct tn_jstr *a, const struct tn_jstr *b)
{
	return a == b || (a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0);
}

int tn_j_truth(struct tn_jv v)
{
	switch (v.kind) {
	case TN_J_ABSENT:
	case TN_J_UNDEFINED:
	case TN_J_NONE: return 0;
	case TN_J_BOOL:
	case TN_J_INT: return v.as.integer != 0;
	case TN_J_FLOAT: return v.as.real != 0.0;
	case TN_J_STRING: return v.as.str->bytes != 0;
	case TN_J_LIST:
	case TN_J_TUPLE: return v.as.list->count != 0;
	case TN_J_DICT: return v.as.dict->count != 0;
	case TN_J_VIEW: return v.as.view->dict->count != 0;
	case TN_J_RANGE: return v.as.range->count != 0;
	default: return 1;
	}
}

double tn_j_to_double(struct tn_jv v)
{
	if (v.kind == TN_J_FLOAT)
		return v.as.real;
	return v.kind == TN_J_BIG ? tn_strtod(v.as.str->text, NULL) : (double)v.as.integer;
}

/* ---- numbers ---------------------------------------------------------------------------------------------- */

static int order_int(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

/* Exact: a double of 2^53 and more is a whole number, and what lies beyond 64 bits is larger than any of ours. */
static int order_int_double(int64_t a, double b)
{
	if (isnan(b))
		return 2;
	if (b >= 9223372036854775808.0)
		return -1;
	if (b < -9223372036854775808.0)
		return 1;
	int whole = order_int(a, (int64_t)b);
	double fraction = b - trunc(b);
	return whole ? whole : (fraction < 0) - (fraction > 0);
}

static int order_big(struct tn_jv a, struct tn_jv b)
{
	const struct tn_jstr *x = a.as.str, *y = b.as.str;
	int minus = x->text[0] == '-', other = y->text[0] == '-';
	if (minus != other)
		return minus ? -1 : 1;
	int order = x->bytes != y->bytes ? (x->bytes > y->bytes ? 1 : -1) : memcmp(x->text, y->text, x->bytes);
	order = (order > 0) - (order < 0);
	return minus ? -order : order;
}

static int order_numbers(struct tn_jv a, struct tn_jv b)
{
	if (a.kind == TN_J_BIG && b.kind == TN_J_BIG)
		return order_big(a, b);
	if (a.kind == TN_J_BIG && tn_jv_is_whole(b))
		return a.as.str->text[0] == '-' ? -1 : 1;
	if (tn_jv_is_whole(a) && b.kind == TN_J_BIG)
		return -order_numbers(b, a);
	if (tn_jv_is_whole(a) && tn_jv_is_whole(b))
		return order_int(a.as.integer, b.as.integer);
	if (tn_jv_is_whole(a))
		return order_int_double(a.as.integer, b.as.real);
	if (tn_jv_is_whole(b)) {
		int order = order_int_double(b.as.integer, a.as.real);
		return order == 2 ? 2 : -order;
	}
	double x = tn_j_to_double(a), y = tn_j_to_double(b);
	return isnan(x) || isnan(y) ? 2 : (x > y) - (x < y);
}

/* ---- equality --------------------------------------------------------------------------------------------- */

static tn_status equal_lists(struct tn_j *j, const struct tn_jlist *a, const struct tn_jlist *b, int *out)
{
	*out = a->count == b->count;
	for (size_t i = 0; i < a->count && *out; i++)
		TN_TRY(tn_j_equal(j, a->items[i], b->items[i], out));
	return TN_OK;
}

static tn_status equal_dicts(struct tn_j *j, const struct tn_jdict *a, const struct tn_jdict *b, int *out)
{
	*out = a->count == b->count;
	for (size_t i = 0; i < a->count && *out; i++) {
		struct tn_jv other;
		TN_TRY(tn_jd_get(j, b, a->entries[i].key, &other));
		*out = tn_jv_is_given(other);
		if (*out)
			TN_TRY(tn_j_equal(j, a->entries[i].value, other, out));
	}
	return TN_OK;
}

static int equal_ranges(const struct tn_jrange *a, const struct tn_jrange *b)
{
	return a->count == b->count && (!a->count || (a->start == b->start && (a->count == 1 || a->step == b->step)));
}

static tn_status equal_kinds(struct tn_j *j, struct tn_jv a, struct tn_jv b, int *out)
{
	switch (a.kind) {
	case TN_J_UNDEFINED:
	case TN_J_NONE: *out = 1; return TN_OK;
	case TN_J_STRING:
		*out = tn_js_same(a.as.str, b.as.str);
		return a.as.str->bytes == b.as.str->bytes ? tn_j_work(j, a.as.str->bytes / 64) : TN_OK;
	case TN_J_LIST:
	case TN_J_TUPLE: return equal_lists(j, a.as.list, b.as.list, out);
	case TN_J_DICT: return equal_dicts(j, a.as.dict, b.as.dict, out);
	case TN_J_RANGE: *out = equal_ranges(a.as.range, b.as.range); return TN_OK;
	case TN_J_VIEW:
		*out = a.as.view == b.as.view || (a.as.view->dict == b.as.view->dict && a.as.view->what == b.as.view->what &&
						  a.as.view->what != TN_J_VALUES);
		return TN_OK;
	default: *out = a.as.func == b.as.func; return TN_OK;
	}
}

tn_status tn_j_equal(struct tn_j *j, struct tn_jv a, struct tn_jv b, int *out)
{
	if (tn_jv_is_number(a) && tn_jv_is_number(b)) {
		*out = order_numbers(a, b) == 0;
		return TN_OK;
	}
	if (a.kind != b.kind) {
		*out = 0;
		return TN_OK;
	}
	TN_TRY(tn_j_enter(j));
	tn_status status = equal_kinds(j, a, b, out);
	tn_j_leave(j);
	return status;
}

/* ---- order ------------------------------------------------------------------------------------------------ */

static tn_status order_lists(struct tn_j *j, const struct tn_jlist *a, const struct tn_jlist *b, const char *op, int *out)
{
	size_t shared = a->count < b->count ? a->count : b->count;
	for (size_t i = 0; i < shared; i++) {
		int same;
		TN_TRY(tn_j_equal(j, a->items[i], b->items[i], &same));
		if (!same)
			return tn_j_order(j, a->items[i], b->items[i], op, out);
	}
	*out = (a->count > b->count) - (a->count < b->count);
	return TN_OK;
}

tn_status tn_j_order(struct tn_j *j, struct tn_jv a, struct tn_jv b, const char *op, int *out)
{
	if (tn_jv_is_number(a) && tn_jv_is_number(b)) {
		*out = order_numbers(a, b);
		return TN_OK;
	}
	if (a.kind == TN_J_UNDEFINED || b.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, a.kind == TN_J_UNDEFINED ? a : b);
	if (tn_jv_is_string(a) && tn_jv_is_string(b)) {
		size_t n = a.as.str->bytes < b.as.str->bytes ? a.as.str->bytes : b.as.str->bytes;
		int order = memcmp(a.as.str->text, b.as.str->text, n);
		*out = order ? (order > 0) - (order < 0) : (a.as.str->bytes > n) - (b.as.str->bytes > n);
		return tn_j_work(j, n / 64 + 1);
	}
	if (a.kind != b.kind || (a.kind != TN_J_LIST && a.kind != TN_J_TUPLE))
		return tn_j_fail(j, TN_E_MISMATCH, "'%s' not supported between instances of '%s' and '%s'", op,
				 tn_j_type_name(a), tn_j_type_name(b));
	TN_TRY(tn_j_enter(j));
	tn_status status = order_lists(j, a.as.list, b.as.list, op, out);
	tn_j_leave(j);
	return status;
}

/* ---- hashes ----------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xBF58476D1CE4E5B9u;
	x ^= x >> 27;
	x *= 0x94D049BB133111EBu;
	return x ^ x >> 31;
}

static uint64_t hash_bytes(const char *p, size_t n)
{
	uint64_t h = 0xCBF29CE484222325u;
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)p[i]) * 0x100000001B3u;
	return mix(h);
}

/* Equal numbers of different types have one hash. */
static uint64_t hash_double(double value)
{
	if (value >= -9223372036854775808.0 && value < 9223372036854775808.0 && value == trunc(value))
		return mix((uint64_t)(int64_t)value);
	uint64_t bits;
	memcpy(&bits, &value, sizeof bits);
	return mix(bits);
}

static tn_status hash_tuple(struct tn_j *j, const struct tn_jlist *list, uint64_t *out)
{
	uint64_t all = 1, one;
	for (size_t i = 0; i < list->count; i++) {
		TN_TRY(tn_j_hash(j, list->items[i], &one));
		all = mix(all + one);
	}
	*out = all;
	return TN_OK;
}

tn_status tn_j_hash(struct tn_j *j, struct tn_jv v, uint64_t *out)
{
	switch (v.kind) {
	case TN_J_BOOL:
	case TN_J_INT: *out = mix((uint64_t)v.as.integer); return TN_OK;
	case TN_J_BIG:
	case TN_J_FLOAT: *out = hash_double(tn_j_to_double(v)); return TN_OK;
	case TN_J_STRING:
		*out = hash_bytes(v.as.str->text, v.as.str->bytes);
		return tn_j_work(j, v.as.str->bytes / 64);
	case TN_J_TUPLE:
		TN_TRY(tn_j_enter(j));
		TN_TRY(hash_tuple(j, v.as.list, out));
		tn_j_leave(j);
		return TN_OK;
	case TN_J_LIST:
	case TN_J_DICT:
	case TN_J_VIEW: return tn_j_fail(j, TN_E_MISMATCH, "unhashable type: '%s'", tn_j_type_name(v));
	default: *out = (uint64_t)v.kind; return TN_OK;
	}
}
