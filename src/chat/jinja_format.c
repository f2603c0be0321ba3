/* SPDX-License-Identifier: Apache-2.0 */
/* One value by a format specification, as Python's format() and % write it; str.format. */
#include "chat/jinja_call.h"

#include "chat/jinja_unicode.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDEST = 100000, MOST_DIGITS = 1000 };

/* ---- digits ----------------------------------------------------------------------------------------------- */

/* A separator between groups of three digits in front of the point (four in other bases than ten). */
static tn_status group_digits(struct tn_j *j, struct tn_jbuffer *b, const char *digits, size_t whole, char separator, size_t size)
{
	for (size_t i = 0; i < whole; i++) {
		if (i && (whole - i) % size == 0)
			TN_TRY(tn_jb_add(j, b, &separator, 1));
		TN_TRY(tn_jb_add(j, b, digits + i, 1));
	}
	return tn_jb_puts(j, b, digits + whole);
}

static void int_digits(uint64_t value, char type, char out[80])
{
	char *p = out;
	if (type == 'b') {
		int bit = 63;
		while (bit && !(value >> bit & 1))
			bit--;
		for (; bit >= 0; bit--)
			*p++ = (char)('0' + (value >> bit & 1));
		*p = '\0';
		return;
	}
	snprintf(out, 80, type == 'x' ? "%" PRIx64 : type == 'X' ? "%" PRIX64 : type == 'o' ? "%" PRIo64 : "%" PRIu64, value);
}

/* The digits of a double without its sign. */
static tn_status real_digits(struct tn_j *j, double value, const struct tn_jspec *spec, struct tn_jbuffer *b)
{
	char form[8], *digits = NULL;
	char type = spec->type ? spec->type : spec->precision >= 0 ? 'g' : 'r';
	int precision = spec->precision < 0 ? 6 : (int)spec->precision;
	if (isnan(value) || isinf(value))
		return tn_jb_puts(j, b, isnan(value) ? (type == 'F' || type == 'E' || type == 'G' ? "NAN" : "nan") :
				  type == 'F' || type == 'E' || type == 'G' ? "INF" : "inf");
	if (type == 'r')
		return tn_j_print_double(j, b, value);
	if (spec->precision > MOST_DIGITS)
		return tn_j_fail(j, TN_E_LIMIT, "a format asks for more than %d digits", (int)MOST_DIGITS);
	if (type == '%')
		value *= 100;
	snprintf(form, sizeof form, "%%%s.*%c", spec->alternate ? "#" : "", type == '%' ? 'f' : type == 'n' ? 'g' : type);
	TN_TRY(tn_j_alloc(j, 400 + MOST_DIGITS, &digits));
	snprintf(digits, 400 + MOST_DIGITS, form, precision, value);
	TN_TRY(tn_jb_puts(j, b, digits));
	/* without a type, a whole number still shows that it is a float */
	if (!spec->type && !strpbrk(digits, ".e"))
		TN_TRY(tn_jb_puts(j, b, ".0"));
	return type == '%' ? tn_jb_puts(j, b, "%") : TN_OK;
}

/* ---- sides ------------------------------------------------------------------------------------------------ */

/* prefix (sign and 0x) and body in a field. `align` is what the kind of value does by itself. */
static tn_status put_field(struct tn_j *j, struct tn_jbuffer *b, const char *prefix, const char *body, size_t bytes,
			   const struct tn_jspec *spec, char align)
{
	char fill[4];
	size_t fill_bytes = tn_u_write(spec->fill ? spec->fill : spec->zero ? '0' : ' ', fill), chars = strlen(prefix);
	align = spec->align ? spec->align : spec->zero ? '=' : align;
	for (size_t i = 0; i < bytes; i++)
		chars += ((unsigned char)body[i] & 0xC0) != 0x80;
	if (spec->width > WIDEST)
		return tn_j_fail(j, TN_E_LIMIT, "a format asks for a field of %" PRId64 " characters", spec->width);
	size_t room = spec->width > (int64_t)chars ? (size_t)spec->width - chars : 0;
	size_t before = align == '<' || align == '=' ? 0 : align == '^' ? room / 2 : room;
	TN_TRY(tn_jb_repeat(j, b, fill, fill_bytes, before));
	TN_TRY(tn_jb_puts(j, b, prefix));
	TN_TRY(tn_jb_repeat(j, b, fill, fill_bytes, align == '=' ? room : 0));
	TN_TRY(tn_jb_add(j, b, body, bytes));
	return tn_jb_repeat(j, b, fill, fill_bytes, align == '=' ? 0 : room - before);
}

static void put_sign(char *prefix, int negative, char sign)
{
	const char *text = negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : "";
	strcpy(prefix, text);
}

static tn_status format_int(struct tn_j *j, struct tn_jbuffer *b, int64_t value, const struct tn_jspec *spec)
{
	char prefix[8], digits[80];
	struct tn_jbuffer body = { 0 };
	char type = spec->type ? spec->type : 'd';
	if (spec->precision >= 0)
		return tn_j_fail(j, TN_E_MISMATCH, "Precision not allowed in integer format specifier");
	if (type == 'c') {
		char utf8[4];
		if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
			return tn_j_fail(j, TN_E_MISMATCH, "%%c arg not in range(0x110000)");
		return put_field(j, b, "", utf8, tn_u_write((uint32_t)value, utf8), spec, '<');
	}
	put_sign(prefix, value < 0, spec->sign);
	if (spec->alternate && strchr("xXob", type))
		strcat(prefix, type == 'x' ? "0x" : type == 'X' ? "0X" : type == 'o' ? "0o" : "0b");
	int_digits(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, type, digits);
	if (spec->group)
		TN_TRY(group_digits(j, &body, digits, strlen(digits), spec->group, type == 'd' || type == 'n' ? 3 : 4));
	else
		TN_TRY(tn_jb_puts(j, &body, digits));
	return put_field(j, b, prefix, body.data, body.length, spec, '>');
}

static tn_status format_real(struct tn_j *j, struct tn_jbuffer *b, double value, const struct tn_jspec *spec)
{
	char prefix[8];
	struct tn_jbuffer plain = { 0 }, body = { 0 };
	put_sign(prefix, signbit(value) && !isnan(value), spec->sign);
	TN_TRY(real_digits(j, fabs(value), spec, &plain));
	TN_TRY(tn_jb_add(j, &plain, "", 1)); /* a NUL */
	size_t whole = strspn(plain.data, "0123456789");
	if (spec->group)
		TN_TRY(group_digits(j, &body, plain.data, whole, spec->group, 3));
	else
		TN_TRY(tn_jb_puts(j, &body, plain.data));
	return put_field(j, b, prefix, body.data, body.length, spec, '>');
}

static tn_status format_string(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jstr *s, const struct tn_jspec *spec)
{
	const char *begin = s->text;
	size_t bytes = s->bytes;
	if (spec->precision >= 0 && (uint64_t)spec->precision < s->chars)
		tn_js_span(s, 0, (size_t)spec->precision, &begin, &bytes);
	return put_field(j, b, "", begin, bytes, spec, '<');
}

tn_status tn_j_format_value(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, const struct tn_jspec *spec)
{
	char type = spec->type;
	int real = type && strchr("eEfFgG%", type) != NULL, whole = type && strchr("bcdoxXn", type) != NULL;
	if (tn_jv_is_string(v) && (!type || type == 's'))
		return format_string(j, b, v.as.str, spec);
	if (v.kind == TN_J_BIG && (!type || type == 'd')) {
		int negative = v.as.str->text[0] == '-';
		return put_field(j, b, negative ? "-" : "", v.as.str->text + negative, v.as.str->bytes - (size_t)negative, spec,
				 '>');
	}
	if (tn_jv_is_number(v) && (real || (v.kind == TN_J_FLOAT && (!type || type == 'n'))))
		return format_real(j, b, tn_j_to_double(v), spec);
	if (tn_jv_is_whole(v) && (whole || !type))
		return format_int(j, b, v.as.integer, spec);
	return tn_j_fail(j, TN_E_MISMATCH, "Unknown format code '%c' for object of type '%s'", type ? type : 's',
			 tn_j_type_name(v));
}

/* ---- str.format ------------------------------------------------------------------------------------------- */

static int is_align(uint32_t c)
{
	return c == '<' || c == '>' || c == '=' || c == '^';
}

static int64_t take_digits(const char **p, const char *end)
{
	int64_t value = 0;
	if (*p == end || **p < '0' || **p > '9')
		return -1;
	for (; *p < end && **p >= '0' && **p <= '9'; ++*p)
		value = value < WIDEST * 10 ? value * 10 + (**p - '0') : value;
	return value;
}

static tn_status parse_spec(struct tn_j *j, const char *p, const char *end, struct tn_jspec *out)
{
	const char *next = p;
	*out = (struct tn_jspec){ .width = -1, .precision = -1 };
	uint32_t first = p < end ? tn_u_next(&next) : 0;
	if (next < end && is_align((unsigned char)*next)) {
		out->fill = first;
		p = next;
	}
	if (p < end && is_align((unsigned char)*p))
		out->align = *p++;
	if (p < end && *p && strchr("+- ", *p))
		out->sign = *p++;
	if (p < end && *p == '#')
		out->alternate = *p++ != '\0';
	if (p < end && *p == '0' && !out->align)
		out->zero = *p++ != '\0';
	out->width = take_digits(&p, end);
	if (p < end && (*p == ',' || *p == '_'))
		out->group = *p++;
	if (p < end && *p == '.') {
		p++;
		out->precision = take_digits(&p, end);
		if (out->precision < 0)
			return tn_j_fail(j, TN_E_MISMATCH, "Format specifier missing precision");
	}
	if (p < end && *p) /* '\0' stands for none */
		out->type = *p++;
	return p == end ? TN_OK : tn_j_fail(j, TN_E_MISMATCH, "Invalid format specifier");
}

struct formatting {
	const struct tn_jargs *args;
	size_t next;             /* of {} */
	int automatic, numbered; /* {} and {0} do not go together */
	int depth;
	struct tn_jbuffer *b;
};

static tn_status format_text(struct tn_j *j, struct formatting *f, const char *p, const char *end);

static tn_status first_of_field(struct tn_j *j, struct formatting *f, const char *p, size_t n, struct tn_jv *out)
{
	const char *digits = p;
	int64_t at = n ? take_digits(&digits, p + n) : (int64_t)f->next++;
	if (!n || digits == p + n) {
		f->automatic |= !n;
		f->numbered |= n > 0;
		if (f->automatic && f->numbered)
			return tn_j_fail(j, TN_E_MISMATCH, "a format has both fields with numbers and fields without");
		if ((uint64_t)at >= f->args->count)
			return tn_j_fail(j, TN_E_MISMATCH,
					 "Replacement index %" PRId64 " out of range for positional args tuple", at);
		*out = f->args->items[at];
		return TN_OK;
	}
	for (size_t i = 0; i < f->args->named_count; i++)
		if (f->args->names[i]->bytes == n && memcmp(f->args->names[i]->text, p, n) == 0) {
			*out = f->args->named[i];
			return TN_OK;
		}
	return tn_j_fail(j, TN_E_MISMATCH, "no argument '%.*s' was given to str.format()", n < 80 ? (int)n : 80, p);
}

/* a.b[c] */
static tn_status walk_field(struct tn_j *j, struct formatting *f, const char *p, const char *end, struct tn_jv *out)
{
	size_t n = 0;
	while (p + n < end && p[n] != '.' && p[n] != '[')
		n++;
	TN_TRY(first_of_field(j, f, p, n, out));
	for (p += n; p < end;) {
		struct tn_jv name;
		int brackets = *p++ == '[';
		for (n = 0; p + n < end && (brackets ? p[n] != ']' : p[n] != '.' && p[n] != '['); n++)
			;
		TN_TRY(tn_j_string_kept(j, p, n, &name));
		const char *digits = p;
		int64_t at = take_digits(&digits, p + n);
		if (brackets && n && digits == p + n)
			name = tn_jv_int(at);
		TN_TRY(brackets ? tn_j_item(j, *out, name, out) : tn_j_attribute(j, *out, name, out));
		p += n + (size_t)brackets;
	}
	return TN_OK;
}

static tn_status convert(struct tn_j *j, char how, struct tn_jv *v)
{
	if (how == 'r')
		return tn_j_repr(j, *v, v);
	if (how == 's')
		return tn_j_str(j, *v, v);
	return tn_j_fail(j, TN_E_MISMATCH, "a format asks for the conversion '!%c'; r and s are known", how);
}

/* Between { and }: a field, `!` and a conversion, `:` and a specification, which may hold fields too. */
static tn_status format_field(struct tn_j *j, struct formatting *f, const char *p, const char *end)
{
	const char *colon = p;
	struct tn_jv v;
	struct tn_jspec spec;
	struct tn_jbuffer text = { 0 }, *before = f->b;
	while (colon < end && *colon != ':' && *colon != '!')
		colon += *colon == '[' && memchr(colon, ']', (size_t)(end - colon)) ?
			 (const char *)memchr(colon, ']', (size_t)(end - colon)) - colon : 1;
	TN_TRY(walk_field(j, f, p, colon, &v));
	if (colon < end && *colon == '!') {
		if (end - colon < 2)
			return tn_j_fail(j, TN_E_MISMATCH, "a format ends behind '!'");
		TN_TRY(convert(j, colon[1], &v));
		colon += 2;
	}
	f->b = &text;
	if (colon < end)
		TN_TRY(format_text(j, f, colon + 1, end));
	f->b = before;
	if (!text.length)
		return tn_j_print(j, f->b, v);
	TN_TRY(parse_spec(j, text.data, text.data + text.length, &spec));
	return tn_j_format_value(j, f->b, v, &spec);
}

static const char *field_end(const char *p, const char *end)
{
	int open = 1;
	for (; p < end; p++) {
		open += (*p == '{') - (*p == '}');
		if (!open)
			return p;
	}
	return NULL;
}

static tn_status format_text(struct tn_j *j, struct formatting *f, const char *p, const char *end)
{
	if (f->depth > 2)
		return tn_j_fail(j, TN_E_MISMATCH, "Max string recursion exceeded");
	f->depth++;
	while (p < end) {
		if ((*p == '{' || *p == '}') && p + 1 < end && p[1] == *p && f->depth == 1) {
			TN_TRY(tn_jb_add(j, f->b, p, 1));
			p += 2;
		} else if (*p == '{') {
			const char *close = field_end(p + 1, end);
			if (!close)
				return tn_j_fail(j, TN_E_MISMATCH, "expected '}' before end of string");
			TN_TRY(format_field(j, f, p + 1, close));
			p = close + 1;
		} else if (*p == '}') {
			return tn_j_fail(j, TN_E_MISMATCH, "Single '}' encountered in format string");
		} else {
			TN_TRY(tn_jb_add(j, f->b, p++, 1));
		}
	}
	f->depth--;
	return TN_OK;
}

tn_status tn_j_str_format(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	struct formatting f = { .args = args, .b = &b };
	TN_TRY(format_text(j, &f, self.as.str->text, self.as.str->text + self.as.str->bytes));
	return tn_jb_string(j, &b, out);
}
