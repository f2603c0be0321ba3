/* SPDX-License-Identifier: Apache-2.0 */
/* '%s is %d' % (a, b), as Python has it. */
#include "chat/jinja_call.h"

#include <math.h>
#include <string.h>

struct percent {
	struct tn_jv args;
	size_t next;             /* of a tuple; of anything else 0 or 1 */
	int named;               /* %(name)s was used */
};

static tn_status next_argument(struct tn_j *j, struct percent *p, struct tn_jv *out)
{
	if (p->args.kind != TN_J_TUPLE) {
		*out = p->args;
		return p->next++ ? tn_j_fail(j, TN_E_MISMATCH, "not enough arguments for format string") : TN_OK;
	}
	if (p->next >= p->args.as.list->count)
		return tn_j_fail(j, TN_E_MISMATCH, "not enough arguments for format string");
	*out = p->args.as.list->items[p->next++];
	return TN_OK;
}

static tn_status named_argument(struct tn_j *j, struct percent *p, const char **at, const char *end, struct tn_jv *out)
{
	const char *close = memchr(*at, ')', (size_t)(end - *at));
	struct tn_jv name;
	if (!close)
		return tn_j_fail(j, TN_E_MISMATCH, "incomplete format key");
	if (p->args.kind != TN_J_DICT)
		return tn_j_fail(j, TN_E_MISMATCH, "format requires a mapping");
	TN_TRY(tn_j_string_kept(j, *at, (size_t)(close - *at), &name));
	TN_TRY(tn_jd_get(j, p->args.as.dict, name, out));
	if (!tn_jv_is_given(*out))
		return tn_j_fail(j, TN_E_MISMATCH, "a format names the key '%.*s', which is missing",
				 name.as.str->bytes < 80 ? (int)name.as.str->bytes : 80, name.as.str->text);
	*at = close + 1;
	p->named = 1;
	return TN_OK;
}

/* A number, or * for the next argument; -1: none. */
static tn_status take_number(struct tn_j *j, struct percent *p, const char **at, const char *end, int64_t *out)
{
	*out = -1;
	if (*at < end && **at == '*') {
		struct tn_jv v;
		++*at;
		TN_TRY(next_argument(j, p, &v));
		return tn_j_want_int(j, "%", v, 0, out);
	}
	for (; *at < end && **at >= '0' && **at <= '9'; ++*at)
		*out = *out < 0 ? **at - '0' : *out < 1000000 ? *out * 10 + (**at - '0') : *out;
	return TN_OK;
}

static tn_status take_spec(struct tn_j *j, struct percent *p, const char **at, const char *end, struct tn_jspec *spec)
{
	*spec = (struct tn_jspec){ .width = -1, .precision = -1, .align = '>' };
	int left = 0;
	for (; *at < end && strchr("-+ #0", **at) && **at; ++*at) {
		left |= **at == '-';
		spec->alternate |= **at == '#';
		spec->zero |= **at == '0';
		spec->sign = **at == '+' ? '+' : **at == ' ' && !spec->sign ? ' ' : spec->sign;
	}
	TN_TRY(take_number(j, p, at, end, &spec->width));
	if (spec->width < -1) {
		left = 1;
		spec->width = -spec->width;
	}
	if (*at < end && **at == '.') {
		++*at;
		TN_TRY(take_number(j, p, at, end, &spec->precision));
		spec->precision = spec->precision < 0 ? 0 : spec->precision;
	}
	while (*at < end && strchr("hlL", **at) && **at)
		++*at;
	spec->align = left ? '<' : spec->zero ? '=' : '>';
	spec->zero = spec->zero && !left;
	return *at < end ? TN_OK : tn_j_fail(j, TN_E_MISMATCH, "incomplete format");
}

static tn_status put_text(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, struct tn_jspec *spec)
{
	spec->zero = 0;
	spec->align = spec->align == '=' ? '>' : spec->align;
	spec->sign = '\0';
	spec->type = 's';
	return tn_j_format_value(j, b, v, spec);
}

static tn_status put_whole(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, struct tn_jspec *spec)
{
	if (v.kind == TN_J_FLOAT && strchr("diu", spec->type)) {
		if (!(fabs(v.as.real) < 9.2e18))
			return tn_j_fail(j, TN_E_MISMATCH, "cannot convert a float of that size to an integer");
		v = tn_jv_int((int64_t)v.as.real);
	}
	if (!tn_jv_is_whole(v) && v.kind != TN_J_BIG)
		return tn_j_fail(j, TN_E_MISMATCH, "%%%c format: a number is required, not %s", spec->type, tn_j_type_name(v));
	spec->type = strchr("diu", spec->type) ? 'd' : spec->type;
	if (spec->precision >= 0) { /* at least so many digits */
		int64_t width = spec->precision + (tn_jv_is_whole(v) && v.as.integer < 0);
		if (spec->width > width)
			return tn_j_fail(j, TN_E_UNSUPPORTED, "a format of a whole number has a width and a precision");
		spec->width = width;
		spec->zero = 1;
		spec->align = '=';
		spec->precision = -1;
	}
	return tn_j_format_value(j, b, v, spec);
}

static tn_status put_real(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, const struct tn_jspec *spec)
{
	if (!tn_jv_is_number(v))
		return tn_j_fail(j, TN_E_MISMATCH, "must be real number, not %s", tn_j_type_name(v));
	return tn_j_format_value(j, b, v, spec);
}

static tn_status put_char(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, struct tn_jspec *spec)
{
	if (tn_jv_is_string(v) && v.as.str->chars == 1)
		return put_text(j, b, v, spec);
	if (!tn_jv_is_whole(v))
		return tn_j_fail(j, TN_E_MISMATCH, "%%c requires int or char");
	spec->precision = -1;
	return tn_j_format_value(j, b, v, spec);
}

static tn_status put_one(struct tn_j *j, struct percent *p, const char **at, const char *end, struct tn_jbuffer *b)
{
	struct tn_jspec spec;
	struct tn_jv v = tn_jv_absent();
	if (*at < end && **at == '(') {
		++*at;
		TN_TRY(named_argument(j, p, at, end, &v));
	}
	TN_TRY(take_spec(j, p, at, end, &spec));
	spec.type = *(*at)++;
	if (!spec.type)
		return tn_j_fail(j, TN_E_MISMATCH, "unsupported format character NUL");
	if (spec.type == '%')
		return tn_jb_puts(j, b, "%");
	if (!tn_jv_is_given(v))
		TN_TRY(next_argument(j, p, &v));
	if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
		TN_TRY(spec.type == 's' ? tn_j_str(j, v, &v) : tn_j_repr(j, v, &v));
		return put_text(j, b, v, &spec);
	}
	if (spec.type == 'c')
		return put_char(j, b, v, &spec);
	if (strchr("diuxXo", spec.type))
		return put_whole(j, b, v, &spec);
	if (strchr("eEfFgG", spec.type))
		return put_real(j, b, v, &spec);
	return tn_j_fail(j, TN_E_MISMATCH, "unsupported format character '%c'", spec.type);
}

tn_status tn_j_percent(struct tn_j *j, const struct tn_jstr *format, struct tn_jv args, struct tn_jv *out)
{
	struct percent p = { .args = args };
	struct tn_jbuffer b = { 0 };
	const char *at = format->text, *end = at + format->bytes;
	while (at < end) {
		const char *sign = memchr(at, '%', (size_t)(end - at));
		TN_TRY(tn_jb_add(j, &b, at, (size_t)((sign ? sign : end) - at)));
		if (!sign)
			break;
		at = sign + 1;
		TN_TRY(put_one(j, &p, &at, end, &b));
	}
	/* what can be asked for keys may be left over, as a dict may */
	int keyed = args.kind == TN_J_DICT || args.kind == TN_J_LIST || args.kind == TN_J_RANGE || args.kind == TN_J_UNDEFINED;
	int left = args.kind == TN_J_TUPLE ? p.next < args.as.list->count : !p.next && !keyed;
	if (left && !p.named)
		return tn_j_fail(j, TN_E_MISMATCH, "not all arguments converted during string formatting");
	return tn_jb_string(j, &b, out);
}
