/* SPDX-License-Identifier: Apache-2.0 */
#include "base/numeral.h"
#include "chat/jinja_lex.h"
#include "chat/jinja_unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- strings ---------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \x, \u and \U with the digits that must follow. */
static tn_status take_hex(struct tn_j *j, const char **p, const char *end, int digits, char **to)
{
	uint32_t code = 0;
	for (int i = 0; i < digits; i++) {
		int digit = *p < end ? hex_digit(**p) : -1;
		if (digit < 0)
			return tn_j_fail(j, TN_E_FORMAT, "a string has an escape that lacks hexadecimal digits");
		code = code << 4 | (uint32_t)digit;
		++*p;
	}
	if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
		return tn_j_fail(j, TN_E_FORMAT, "a string has an escape for U+%04X, which is no character", (unsigned)code);
	*to += tn_u_write(code, *to);
	return TN_OK;
}

static void take_octal(const char **p, const char *end, char **to)
{
	uint32_t code = 0;
	for (int i = 0; i < 3 && *p < end && **p >= '0' && **p <= '7'; i++)
		code = code << 3 | (uint32_t)(*(*p)++ - '0');
	*to += tn_u_write(code, *to);
}

/* Jinja2 sends the text through ASCII with backslashes: a character beyond it behind a backslash shows that. */
static void take_beyond_ascii(const char **p, char **to)
{
	uint32_t code = tn_u_next(p);
	*to += sprintf(*to, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)code);
}

static tn_status take_escape(struct tn_j *j, const char **p, const char *end, char **to)
{
	static const char letters[] = "\\'\"abfnrtv", means[] = "\\'\"\a\b\f\n\r\t\v";
	char c = **p;
	const char *found = c ? strchr(letters, c) : NULL;
	if (c == 'N')
		return tn_j_fail(j, TN_E_UNSUPPORTED,
				 "a string names a character with \\N; write it as it is, or as \\u with its number");
	if (c >= '0' && c <= '7') {
		take_octal(p, end, to);
		return TN_OK;
	}
	if ((unsigned char)c >= 0x80) {
		take_beyond_ascii(p, to);
		return TN_OK;
	}
	++*p;
	if (c == 'x' || c == 'u' || c == 'U')
		return take_hex(j, p, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, to);
	if (c == '\n')
		return TN_OK;
	if (!found)
		*(*to)++ = '\\';
	*(*to)++ = found ? means[found - letters] : c;
	return TN_OK;
}

tn_status tn_jinja_unescape(struct tn_j *j, const char *text, size_t n, struct tn_jv *out)
{
	if (!memchr(text, '\\', n))
		return tn_j_string_kept(j, text, n, out);
	char *made = NULL, *to;
	TN_TRY(tn_j_array(j, n + 1, 5, &made)); /* \ and a character of 4 bytes become \Uxxxxxxxx */
	to = made;
	for (const char *p = text, *end = text + n; p < end;) {
		if (*p != '\\') {
			*to++ = *p++;
			continue;
		}
		p++;
		TN_TRY(take_escape(j, &p, end, &to));
	}
	return tn_j_string_kept(j, made, (size_t)(to - made), out);
}

/* ---- numbers ---------------------------------------------------------------------------------------------- */

static tn_status big_number(struct tn_j *j, const char *digits, unsigned base, struct tn_jv *out)
{
	if (base != 10)
		return tn_j_fail(j, TN_E_UNSUPPORTED, "the number %.40s needs more than 64 bits", digits);
	while (*digits == '0')
		digits++;
	TN_TRY(tn_j_text(j, digits, out));
	out->kind = TN_J_BIG;
	return TN_OK;
}

tn_status tn_jinja_number(struct tn_j *j, const char *text, size_t n, unsigned base, int real, struct tn_jv *out)
{
	char *digits = NULL;
	size_t used = 0;
	uint64_t value = 0;
	int too_large = 0;
	TN_TRY(tn_j_alloc(j, n + 1, &digits));
	for (size_t i = 0; i < n; i++)
		if (text[i] != '_')
			digits[used++] = text[i];
	if (real) {
		*out = tn_jv_float(tn_strtod(digits, NULL));
		return TN_OK;
	}
	for (size_t i = 0; i < used; i++)
		too_large |= __builtin_mul_overflow(value, base, &value) ||
			     __builtin_add_overflow(value, (unsigned)hex_digit(digits[i]), &value) || value > INT64_MAX;
	if (too_large)
		return big_number(j, digits, base, out);
	*out = tn_jv_int((int64_t)value);
	return TN_OK;
}
