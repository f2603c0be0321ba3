/* SPDX-License-Identifier: Apache-2.0 */
#include "store/json_text.h"

#include "base/error.h"
#include "base/numeral.h"
#include "store/json_doc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Code point at *p, which is valid UTF-8; moves p past it. */
static uint32_t next_code(const unsigned char **p)
{
	unsigned char c = *(*p)++;
	int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
	uint32_t code = more == 3 ? c & 7u : more == 2 ? c & 15u : more == 1 ? c & 31u : c;
	while (more--)
		code = code << 6 | (*(*p)++ & 63u);
	return code;
}

static tn_status add_escape(struct tn_text *text, uint32_t code, struct tn_error *err)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
	const char *found = code && code < 0x80 ? strchr(plain, (int)code) : NULL;
	if (found)
		return tn_text_printf(text, err, "\\%c", letters[found - plain]);
	if (code < 0x10000)
		return tn_text_printf(text, err, "\\u%04x", (unsigned)code);
	code -= 0x10000;
	return tn_text_printf(text, err, "\\u%04x\\u%04x", 0xD800 + (unsigned)(code >> 10),
			      0xDC00 + (unsigned)(code & 0x3FF));
}

static tn_status add_string(struct tn_text *text, const char *s, size_t n, int ascii, struct tn_error *err)
{
	size_t valid = tn_utf8_valid_prefix(s, n);
	if (valid != n)
		return tn_fail_at(err, TN_E_ARG, s, valid, "'%.100s' is not UTF-8 at byte %zu, and JSON holds nothing else", s,
				  valid);
	const unsigned char *p = (const unsigned char *)s, *end = p + n, *begin = p;
	TN_TRY(tn_text_puts(text, "\"", err));
	while (p < end) {
		const unsigned char *here = p;
		uint32_t code = next_code(&p);
		if (code >= 0x20 && code != '"' && code != '\\' && (code < 0x7F || !ascii || code == 0x7F))
			continue;
		TN_TRY(tn_text_add(text, (const char *)begin, (size_t)(here - begin), err));
		TN_TRY(add_escape(text, code, err));
		begin = p;
	}
	TN_TRY(tn_text_add(text, (const char *)begin, (size_t)(end - begin), err));
	return tn_text_puts(text, "\"", err);
}

tn_status tn_json_add_string(struct tn_text *text, const char *s, struct tn_error *err)
{
	return add_string(text, s, strlen(s), 0, err);
}

/* Python's repr: fixed notation for exponents from -4 to 15, else d.ddde-XX with at least two exponent digits. */
static tn_status add_digits(struct tn_text *text, const char *digits, int exponent, struct tn_error *err)
{
	int n = (int)strlen(digits);
	if (exponent < -4 || exponent >= 16) {
		TN_TRY(tn_text_printf(text, err, "%c%s%se%c%02d", digits[0], n > 1 ? "." : "", digits + 1,
				      exponent < 0 ? '-' : '+', abs(exponent)));
		return TN_OK;
	}
	if (exponent < 0)
		return tn_text_printf(text, err, "0.%.*s%s", -exponent - 1, "0000", digits);
	if (n <= exponent + 1)
		return tn_text_printf(text, err, "%s%.*s.0", digits, exponent + 1 - n, "0000000000000000");
	return tn_text_printf(text, err, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
}

tn_status tn_json_add_double(struct tn_text *text, double value, struct tn_error *err)
{
	if (isnan(value))
		return tn_text_puts(text, "NaN", err);
	if (isinf(value))
		return tn_text_puts(text, value < 0 ? "-Infinity" : "Infinity", err);
	char form[40];
	int precision = 0;
	do /* the fewest digits that read back the same */
		tn_snprintf(form, sizeof form, "%.*e", precision, fabs(value));
	while (tn_strtod(form, NULL) != fabs(value) && ++precision < 17);
	char *e = strchr(form, 'e');
	int exponent = atoi(e + 1);
	*e = '\0';
	if (form[1])
		memmove(form + 1, form + 2, strlen(form + 2) + 1);
	if (signbit(value))
		TN_TRY(tn_text_puts(text, "-", err));
	return add_digits(text, form, exponent, err);
}

static tn_status add_break(struct tn_text *text, const struct tn_json_style *style, int depth, struct tn_error *err)
{
	if (style->indent < 0)
		return TN_OK;
	return tn_text_printf(text, err, "\n%*s", style->indent * depth, "");
}

static tn_status add_value(struct tn_text *text, const json_t *value, const struct tn_json_style *style, int depth,
			   struct tn_error *err);

static tn_status add_member(struct tn_text *text, const char *key, const json_t *value,
			    const struct tn_json_style *style, int depth, int first, struct tn_error *err)
{
	if (!first)
		TN_TRY(tn_text_puts(text, style->indent < 0 ? ", " : ",", err));
	TN_TRY(add_break(text, style, depth + 1, err));
	TN_TRY(add_string(text, key, strlen(key), style->ascii, err));
	TN_TRY(tn_text_puts(text, ": ", err));
	return add_value(text, value, style, depth + 1, err);
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static tn_status add_sorted(struct tn_text *text, const json_t *object, const struct tn_json_style *style, int depth,
			    struct tn_error *err)
{
	size_t n = json_object_size(object), i = 0;
	const char **keys;
	TN_TRY(tn_alloc_array(text->ctx, n, sizeof *keys, "JSON keys", &keys, err));
	for (void *it = json_object_iter((json_t *)(uintptr_t)object); it;
	     it = json_object_iter_next((json_t *)(uintptr_t)object, it))
		keys[i++] = json_object_iter_key(it);
	qsort(keys, n, sizeof *keys, compare_keys);
	tn_status status = TN_OK;
	for (i = 0; i < n && status == TN_OK; i++)
		status = add_member(text, keys[i], json_object_get(object, keys[i]), style, depth, i == 0, err);
	tn_free_array(text->ctx, keys, n, sizeof *keys);
	return status;
}

static tn_status add_object(struct tn_text *text, const json_t *object, const struct tn_json_style *style, int depth,
			    struct tn_error *err)
{
	if (json_object_size(object) == 0)
		return tn_text_puts(text, "{}", err);
	TN_TRY(tn_text_puts(text, "{", err));
	if (style->sort_keys && depth == 0) {
		TN_TRY(add_sorted(text, object, style, depth, err));
	} else {
		int first = 1;
		for (void *it = json_object_iter((json_t *)(uintptr_t)object); it;
		     it = json_object_iter_next((json_t *)(uintptr_t)object, it), first = 0)
			TN_TRY(add_member(text, json_object_iter_key(it), json_object_iter_value(it), style, depth,
					  first, err));
	}
	TN_TRY(add_break(text, style, depth, err));
	return tn_text_puts(text, "}", err);
}

static tn_status add_array(struct tn_text *text, const json_t *array, const struct tn_json_style *style, int depth,
			   struct tn_error *err)
{
	if (json_array_size(array) == 0)
		return tn_text_puts(text, "[]", err);
	TN_TRY(tn_text_puts(text, "[", err));
	for (size_t i = 0; i < json_array_size(array); i++) {
		if (i)
			TN_TRY(tn_text_puts(text, style->indent < 0 ? ", " : ",", err));
		TN_TRY(add_break(text, style, depth + 1, err));
		TN_TRY(add_value(text, json_array_get(array, i), style, depth + 1, err));
	}
	TN_TRY(add_break(text, style, depth, err));
	return tn_text_puts(text, "]", err);
}

static tn_status add_value(struct tn_text *text, const json_t *value, const struct tn_json_style *style, int depth,
			   struct tn_error *err)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT: return add_object(text, value, style, depth, err);
	case JSON_ARRAY: return add_array(text, value, style, depth, err);
	case JSON_STRING:
		if (tn_json_number_token(value))
			return tn_text_puts(text, tn_json_number_token(value), err);
		return add_string(text, json_string_value(value), json_string_length(value), style->ascii, err);
	case JSON_INTEGER: return tn_text_printf(text, err, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	case JSON_REAL: return tn_json_add_double(text, json_real_value(value), err);
	case JSON_TRUE: return tn_text_puts(text, "true", err);
	case JSON_FALSE: return tn_text_puts(text, "false", err);
	default: return tn_text_puts(text, "null", err);
	}
}

tn_status tn_json_add_value(struct tn_text *text, const json_t *value, const struct tn_json_style *style,
			    struct tn_error *err)
{
	return add_value(text, value, style, 0, err);
}
