/* SPDX-License-Identifier: Apache-2.0 */
/* int, float, abs, round. */
#include "chat/jinja_call.h"

#include "base/numeral.h"
#include "chat/jinja_unicode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 400 };

/* A text as Python's int() and float() take it: no white space around it, decimal digits of any script as ASCII, single
 * underscores between digits left out. 0: it cannot be a number. */
static int plain_digits(const struct tn_jstr *s, char out[LONGEST])
{
	size_t n = tn_u_rstrip(s->text, s->bytes), begin = tn_u_lstrip(s->text, n), used = 0;
	int digit_before = 0;
	for (const char *p = s->text + begin, *end = s->text + n; p < end;) {
		uint32_t code = tn_u_next(&p);
		int digit = tn_u_decimal(code);
		const char *next = p;
		if (code == '_' && (!digit_before || p == end || tn_u_decimal(tn_u_next(&next)) < 0))
			return 0;
		digit_before = digit >= 0;
		if (code == '_')
			continue;
		if ((digit < 0 && code >= 0x80) || !code || used + 1 >= LONGEST)
			return 0;
		out[used++] = digit >= 0 ? (char)('0' + digit) : (char)code;
	}
	out[used] = '\0';
	return used > 0;
}

static int digit_of(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 : 99;
}

/* int(text, base): 1 done, 0 not a number, -1 beyond 64 bits. */
static int parse_int(const char *p, int base, int64_t *out)
{
	int negative = *p == '-';
	int64_t value = 0;
	p += *p == '-' || *p == '+';
	int prefix = p[0] != '0' ? 0 : (p[1] | 32) == 'x' ? 16 : (p[1] | 32) == 'o' ? 8 : (p[1] | 32) == 'b' ? 2 : 0;
	if (prefix && (base == prefix || base == 0)) {
		base = prefix;
		p += 2;
	}
	if (base == 0 && *p == '0' && strspn(p, "0") != strlen(p))
		return 0;
	base = base ? base : 10;
	if (!*p)
		return 0;
	for (const char *q = p; *q; q++)
		if (digit_of(*q) >= base)
			return 0;
	for (; *p; p++)
		if (__builtin_mul_overflow(value, base, &value) ||
		    __builtin_add_overflow(value, negative ? -digit_of(*p) : digit_of(*p), &value))
			return -1;
	*out = value;
	return 1;
}

/* float(text): digits with point and exponent, inf, infinity, nan; no hexadecimal. */
static int parse_float(const char *text, double *out)
{
	char *end;
	const char *p = text + (*text == '-' || *text == '+');
	int word = strcasecmp(p, "inf") == 0 || strcasecmp(p, "infinity") == 0 || strcasecmp(p, "nan") == 0;
	if (!word && strspn(p, "0123456789.eE+-") != strlen(p))
		return 0;
	*out = tn_strtod(text, &end);
	return end != text && !*end;
}

/* A double as a whole number; 0 when it is none or beyond 64 bits. */
static int whole_of(double value, int64_t *out)
{
	if (!(value > -9223372036854775809.0 && value < 9223372036854775808.0))
		return 0;
	*out = (int64_t)value;
	return 1;
}

static tn_status int_of_text(struct tn_j *j, const struct tn_jstr *s, int base, struct tn_jv otherwise, struct tn_jv *out)
{
	char digits[LONGEST];
	int64_t value = 0;
	double real;
	int plain = plain_digits(s, digits), done = plain ? parse_int(digits, base, &value) : 0;
	*out = tn_jv_int(value);
	if (done == 1)
		return TN_OK;
	if (done < 0 || (plain && parse_float(digits, &real) && isfinite(real) && !whole_of(real, &value)))
		return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
	*out = plain && parse_float(digits, &real) && whole_of(real, &value) ? tn_jv_int(value) : otherwise;
	return TN_OK;
}

static tn_status filter_int(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "default", "base", NULL };
	struct tn_jv v[3];
	int64_t base = 10, value;
	TN_TRY(tn_j_parameters(j, "int", args, names, 1, v));
	if (tn_jv_is_string(v[0]))
		TN_TRY(tn_j_want_int(j, "int", v[2], 10, &base));
	struct tn_jv otherwise = tn_jv_is_given(v[1]) ? v[1] : tn_jv_int(0);
	if (v[0].kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v[0]);
	if (tn_jv_is_string(v[0]))
		return int_of_text(j, v[0].as.str, base == 0 || (base >= 2 && base <= 36) ? (int)base : 1, otherwise, out);
	*out = v[0].kind == TN_J_BIG ? v[0] : otherwise;
	if (tn_jv_is_whole(v[0]))
		*out = tn_jv_int(v[0].as.integer);
	else if (v[0].kind == TN_J_FLOAT && whole_of(v[0].as.real, &value))
		*out = tn_jv_int(value);
	else if (v[0].kind == TN_J_FLOAT && isfinite(v[0].as.real))
		return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
	return TN_OK;
}

static tn_status filter_float(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "default", NULL };
	char digits[LONGEST];
	struct tn_jv v[2];
	double real;
	TN_TRY(tn_j_parameters(j, "float", args, names, 1, v));
	*out = tn_jv_is_given(v[1]) ? v[1] : tn_jv_float(0.0);
	if (v[0].kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v[0]);
	if (tn_jv_is_number(v[0]))
		*out = tn_jv_float(tn_j_to_double(v[0]));
	else if (tn_jv_is_string(v[0]) && plain_digits(v[0].as.str, digits) && parse_float(digits, &real))
		*out = tn_jv_float(real);
	return TN_OK;
}

static tn_status filter_abs(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "x", NULL };
	TN_TRY(tn_j_parameters(j, "abs", args, names, 1, out));
	if (!tn_jv_is_number(*out))
		return tn_j_fail(j, TN_E_MISMATCH, "bad operand type for abs(): '%s'", tn_j_type_name(*out));
	if (out->kind == TN_J_FLOAT)
		*out = tn_jv_float(fabs(out->as.real));
	else if (out->kind == TN_J_BIG)
		return out->as.str->text[0] == '-' ? tn_j_negate(j, *out, 1, out) : TN_OK;
	else
		return tn_j_negate(j, *out, out->as.integer < 0, out);
	return TN_OK;
}

/* round(): the decimal that is nearest to the double's exact value, halves to even. The exact digits decide, so printf does it. */
static double round_real(double value, int64_t precision)
{
	char text[700];
	if (!isfinite(value) || precision > 300 || precision < -310)
		return precision < 0 && isfinite(value) ? copysign(0.0, value) : value;
	if (precision >= 0) {
		tn_snprintf(text, sizeof text, "%.*f", (int)precision, value);
		return tn_strtod(text, NULL);
	}
	double unit = pow(10.0, (double)-precision);
	return nearbyint(value / unit) * unit;
}

static tn_status round_whole(struct tn_j *j, int64_t value, int64_t precision, struct tn_jv *out)
{
	int64_t unit = 1;
	*out = tn_jv_int(value);
	if (precision >= 0)
		return TN_OK;
	for (int64_t i = precision; i < 0; i++)
		if (__builtin_mul_overflow(unit, 10, &unit)) {
			*out = tn_jv_int(0);
			return TN_OK;
		}
	int64_t rest = ((value % unit) + unit) % unit, low;
	if (__builtin_sub_overflow(value, rest, &low))
		return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
	int up = rest > unit - rest || (rest == unit - rest && (low / unit) % 2 != 0);
	if (up && __builtin_add_overflow(low, unit, &low))
		return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
	*out = tn_jv_int(low);
	return TN_OK;
}

/* math.ceil or math.floor of value * 10 ** precision, over 10 ** precision: the operators do what Python's would. */
static tn_status round_to(struct tn_j *j, struct tn_jv value, struct tn_jv precision, int up, struct tn_jv *out)
{
	struct tn_jv scale, scaled;
	int64_t whole;
	TN_TRY(tn_j_power(j, tn_jv_int(10), precision, &scale));
	TN_TRY(tn_j_binary(j, TN_JO_MUL, value, scale, &scaled));
	if (scaled.kind == TN_J_FLOAT) {
		if (!whole_of(up ? ceil(scaled.as.real) : floor(scaled.as.real), &whole))
			return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
		scaled = tn_jv_int(whole);
	}
	return tn_j_binary(j, TN_JO_DIV, scaled, scale, out);
}

static tn_status filter_round(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "precision", "method", NULL };
	struct tn_jv v[3];
	int64_t precision, whole;
	TN_TRY(tn_j_parameters(j, "round", args, names, 1, v));
	int to_int = v[1].kind == TN_J_NONE;
	TN_TRY(tn_j_want_int(j, "round", to_int ? tn_jv_absent() : v[1], 0, &precision));
	if (v[0].kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v[0]);
	if (!tn_jv_is_number(v[0]))
		return tn_j_fail(j, TN_E_MISMATCH, "type %s doesn't define __round__ method", tn_j_type_name(v[0]));
	const struct tn_jstr *method = tn_jv_is_string(v[2]) ? v[2].as.str : NULL;
	if (method && (tn_js_is(method, "ceil") || tn_js_is(method, "floor")))
		return round_to(j, v[0], tn_jv_int(precision), tn_js_is(method, "ceil"), out);
	if (tn_jv_is_given(v[2]) && (!method || !tn_js_is(method, "common")))
		return tn_j_fail(j, TN_E_MISMATCH, "method must be common, ceil or floor");
	if (tn_jv_is_whole(v[0]))
		return round_whole(j, v[0].as.integer, precision, out);
	*out = v[0].kind == TN_J_BIG ? v[0] : tn_jv_float(round_real(v[0].as.real, precision));
	if (to_int && v[0].kind == TN_J_FLOAT) {
		if (!whole_of(out->as.real, &whole))
			return tn_j_fail(j, TN_E_UNSUPPORTED, "a whole number grows beyond 64 bits");
		*out = tn_jv_int(whole);
	}
	return TN_OK;
}

const struct tn_jfilter_entry tn_j_number_filters[] = {
	{ "int", filter_int }, { "float", filter_float }, { "abs", filter_abs }, { "round", filter_round }, { NULL, NULL },
};
