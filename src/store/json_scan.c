/* SPDX-License-Identifier: Apache-2.0 */
#include "store/json_scan.h"

#include "base/error.h"
#include "base/numeral.h"
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 128 };

tn_status tn_json_fail(const struct tn_json_scan *scan, size_t at, struct tn_error *err, const char *fmt, ...)
{
	char detail[300];
	va_list args;
	va_start(args, fmt);
	tn_vsnprintf(detail, sizeof detail, fmt, args);
	va_end(args);
	return tn_fail_at(err, TN_E_FORMAT, scan->where, scan->file_pos + at, "could not parse the JSON of '%s' at byte %llu: %s",
			  scan->where, (unsigned long long)(scan->file_pos + at), detail);
}

/* What stands at the position, for a message. */
static tn_status unexpected(const struct tn_json_scan *scan, const char *expected, struct tn_error *err)
{
	if (scan->pos >= scan->length)
		return tn_json_fail(scan, scan->pos, err, "the text ends, %s was expected", expected);
	unsigned char c = (unsigned char)scan->text[scan->pos];
	if (c > ' ' && c < 0x7F)
		return tn_json_fail(scan, scan->pos, err, "'%c' was found, %s was expected", c, expected);
	return tn_json_fail(scan, scan->pos, err, "the byte 0x%02X was found, %s was expected", c, expected);
}

tn_status tn_json_take(struct tn_json_scan *scan, char c, const char *expected, struct tn_error *err)
{
	if (tn_json_peek(scan) != c || scan->pos >= scan->length)
		return unexpected(scan, expected, err);
	scan->pos++;
	return TN_OK;
}

tn_status tn_json_next(struct tn_json_scan *scan, char close, int *more, struct tn_error *err)
{
	char c = tn_json_peek(scan);
	if (scan->pos < scan->length && (c == ',' || c == close)) {
		scan->pos++;
		*more = c == ',';
		return TN_OK;
	}
	return unexpected(scan, close == '}' ? "',' or '}'" : "',' or ']'", err);
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The four digits behind \u at p; -1 when they are not four digits. */
static int unicode_unit(const char *p, const char *end)
{
	int unit = 0;
	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int digit = hex_value(p[i]);
		if (digit < 0)
			return -1;
		unit = unit << 4 | digit;
	}
	return unit;
}

/* Decodes the escape at p (behind the backslash) to a code point and moves p past it; -1 when it is not one. */
static int32_t decode_escape(const char **p, const char *end)
{
	static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	if (*p >= end)
		return -1;
	char c = *(*p)++;
	const char *found = c ? strchr(letters, c) : NULL;
	if (found)
		return (unsigned char)values[found - letters];
	if (c != 'u')
		return -1;
	int unit = unicode_unit(*p, end);
	if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF))
		return -1;
	*p += 4;
	if (unit < 0xD800 || unit > 0xDBFF)
		return unit;
	if (end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
		return -1;
	int low = unicode_unit(*p + 2, end);
	if (low < 0xDC00 || low > 0xDFFF)
		return -1;
	*p += 6;
	return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
}

/* How many of eight bytes stand for themselves, from the first on: no quote, no backslash, no control character, ASCII. A borrow
 * only reaches bytes behind one that does not. */
static size_t plain_bytes(const char *p)
{
	const uint64_t ones = 0x0101010101010101u;
	uint64_t w, quote, slash;
	memcpy(&w, p, sizeof w);
	quote = w ^ ones * '"';
	slash = w ^ ones * '\\';
	uint64_t odd = (w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) & ones * 0x80;
	return odd ? (size_t)__builtin_ctzll(odd) / 8 : 8;
}

tn_status tn_json_take_string(struct tn_json_scan *scan, struct tn_json_string *out, struct tn_error *err)
{
	TN_TRY(tn_json_take(scan, '"', "a string", err));
	const char *begin = scan->text + scan->pos, *p = begin, *end = scan->text + scan->length;
	int escaped = 0;
	for (;;) {
		for (size_t n = 8; end - p >= 8 && n == 8; p += n)
			n = plain_bytes(p);
		if (p == end || *p == '"')
			break;
		if ((unsigned char)*p < 0x20)
			return tn_json_fail(scan, (size_t)(p - scan->text), err,
					    "a string holds the control character 0x%02X", (unsigned char)*p);
		if (*p++ != '\\')
			continue;
		escaped = 1;
		size_t at = (size_t)(p - 1 - scan->text);
		if (decode_escape(&p, end) < 0)
			return tn_json_fail(scan, at, err, "an escape in a string is not valid");
	}
	if (p == end)
		return tn_json_fail(scan, scan->pos - 1, err, "a string does not end");
	*out = (struct tn_json_string){ scan->pos, (size_t)(p - begin), escaped };
	scan->pos += out->length + 1;
	return TN_OK;
}

static size_t put_utf8(char *dst, int32_t code)
{
	if (code < 0x80) {
		dst[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		dst[0] = (char)(0xC0 | code >> 6);
		dst[1] = (char)(0x80 | (code & 0x3F));
		return 2;
	}
	if (code < 0x10000) {
		dst[0] = (char)(0xE0 | code >> 12);
		dst[1] = (char)(0x80 | (code >> 6 & 0x3F));
		dst[2] = (char)(0x80 | (code & 0x3F));
		return 3;
	}
	dst[0] = (char)(0xF0 | code >> 18);
	dst[1] = (char)(0x80 | (code >> 12 & 0x3F));
	dst[2] = (char)(0x80 | (code >> 6 & 0x3F));
	dst[3] = (char)(0x80 | (code & 0x3F));
	return 4;
}

/* Decodes into dst, which holds at least string->length bytes: no escape is shorter than what it stands for. */
static size_t decode(const struct tn_json_scan *scan, const struct tn_json_string *string, char *dst)
{
	const char *p = scan->text + string->begin, *end = p + string->length;
	size_t n = 0;
	while (p < end) {
		if (*p != '\\') {
			dst[n++] = *p++;
			continue;
		}
		p++;
		n += put_utf8(dst + n, decode_escape(&p, end));
	}
	return n;
}

tn_status tn_json_decode_any(const struct tn_json_scan *scan, const struct tn_json_string *string, struct tn_arena *arena,
			     const char **out, size_t *length, struct tn_error *err)
{
	char *dst;
	TN_TRY(tn_arena_alloc(arena, string->length + 1, &dst, err));
	*length = string->length;
	if (string->escaped)
		*length = decode(scan, string, dst);
	else
		memcpy(dst, scan->text + string->begin, string->length);
	*out = dst;
	return TN_OK;
}

tn_status tn_json_decode(const struct tn_json_scan *scan, const struct tn_json_string *string, struct tn_arena *arena,
			 const char **out, struct tn_error *err)
{
	const char *text;
	size_t length;
	TN_TRY(tn_json_decode_any(scan, string, arena, &text, &length, err));
	if (memchr(text, '\0', length))
		return tn_json_fail(scan, string->begin, err, "a name holds the character U+0000");
	*out = text;
	return TN_OK;
}

int tn_json_equals_escaped(const struct tn_json_scan *scan, const struct tn_json_string *string, const char *text)
{
	size_t n = strlen(text);
	const char *p = scan->text + string->begin, *end = p + string->length;
	size_t done = 0;
	while (p < end) {
		char unit[4];
		size_t m = 1;
		if (*p != '\\') {
			unit[0] = *p++;
		} else {
			p++;
			m = put_utf8(unit, decode_escape(&p, end));
		}
		if (n - done < m || memcmp(text + done, unit, m) != 0)
			return 0;
		done += m;
	}
	return done == n;
}

tn_status tn_json_take_u64(struct tn_json_scan *scan, uint64_t *out, struct tn_error *err)
{
	static const char expected[] = "a whole number from 0 to 2^64-1 without sign, fraction or exponent";
	char c = tn_json_peek(scan);
	size_t at = scan->pos;
	if (c < '0' || c > '9')
		return unexpected(scan, expected, err);
	uint64_t value = 0;
	size_t end = at;
	for (; end < scan->length && scan->text[end] >= '0' && scan->text[end] <= '9'; end++) {
		uint64_t digit = (uint64_t)(scan->text[end] - '0');
		if (__builtin_mul_overflow(value, 10u, &value) || __builtin_add_overflow(value, digit, &value))
			return tn_json_fail(scan, at, err, "a number is larger than 2^64-1");
	}
	scan->pos = end;
	if (c == '0' && end - at > 1)
		return tn_json_fail(scan, at, err, "a number begins with 0");
	c = end < scan->length ? scan->text[end] : '\0';
	if (c == '.' || c == 'e' || c == 'E')
		return unexpected(scan, expected, err);
	*out = value;
	return TN_OK;
}

static tn_status take_word(struct tn_json_scan *scan, const char *word, struct tn_error *err)
{
	size_t n = strlen(word);
	if (scan->length - scan->pos < n || memcmp(scan->text + scan->pos, word, n) != 0)
		return unexpected(scan, "a value", err);
	scan->pos += n;
	return TN_OK;
}

tn_status tn_json_take_null(struct tn_json_scan *scan, struct tn_error *err)
{
	tn_json_skip_space(scan);
	return take_word(scan, "null", err);
}

static void skip_digits(struct tn_json_scan *scan)
{
	while (scan->pos < scan->length && scan->text[scan->pos] >= '0' && scan->text[scan->pos] <= '9')
		scan->pos++;
}

static int at_digit(const struct tn_json_scan *scan)
{
	return scan->pos < scan->length && scan->text[scan->pos] >= '0' && scan->text[scan->pos] <= '9';
}

static tn_status skip_number(struct tn_json_scan *scan, struct tn_error *err)
{
	if (scan->text[scan->pos] == '-')
		scan->pos++;
	if (!at_digit(scan))
		return unexpected(scan, "a digit", err);
	if (scan->text[scan->pos] == '0')
		scan->pos++;
	else
		skip_digits(scan);
	if (at_digit(scan))
		return tn_json_fail(scan, scan->pos, err, "a number begins with 0");
	if (scan->pos < scan->length && scan->text[scan->pos] == '.') {
		scan->pos++;
		if (!at_digit(scan))
			return unexpected(scan, "a digit", err);
		skip_digits(scan);
	}
	if (scan->pos < scan->length && (scan->text[scan->pos] | 0x20) == 'e') {
		scan->pos++;
		if (scan->pos < scan->length && (scan->text[scan->pos] == '+' || scan->text[scan->pos] == '-'))
			scan->pos++;
		if (!at_digit(scan))
			return unexpected(scan, "a digit", err);
		skip_digits(scan);
	}
	return TN_OK;
}

/* Keys of one skipped object, decoded. */
struct key_list {
	struct tn_arena arena;
	const char **keys;
	size_t count, capacity;
};

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static tn_status check_keys(const struct tn_json_scan *scan, struct key_list *list, size_t at, struct tn_error *err)
{
	if (list->count > 1)
		qsort(list->keys, list->count, sizeof *list->keys, compare_keys);
	for (size_t i = 1; i < list->count; i++)
		if (strcmp(list->keys[i - 1], list->keys[i]) == 0)
			return tn_json_fail(scan, at, err, "an object has the key '%.80s' twice", list->keys[i]);
	return TN_OK;
}

static tn_status skip_value(struct tn_json_scan *scan, int depth, struct tn_error *err);

static tn_status keep_key(const struct tn_json_scan *scan, const struct tn_json_string *key, struct key_list *list,
			  struct tn_error *err)
{
	TN_TRY(tn_grow(scan->ctx, &list->keys, &list->capacity, list->count + 1, sizeof *list->keys, "JSON keys", err));
	TN_TRY(tn_json_decode(scan, key, &list->arena, &list->keys[list->count], err));
	list->count++;
	return TN_OK;
}

static tn_status skip_members(struct tn_json_scan *scan, struct key_list *list, int depth, struct tn_error *err)
{
	int more = 1;
	while (more) {
		struct tn_json_string key;
		TN_TRY(tn_json_take_string(scan, &key, err));
		if (scan->ctx)
			TN_TRY(keep_key(scan, &key, list, err));
		TN_TRY(tn_json_take(scan, ':', "':'", err));
		TN_TRY(skip_value(scan, depth, err));
		TN_TRY(tn_json_next(scan, '}', &more, err));
	}
	return TN_OK;
}

static tn_status skip_object(struct tn_json_scan *scan, int depth, struct tn_error *err)
{
	size_t at = scan->pos++;
	if (tn_json_peek(scan) == '}') {
		scan->pos++;
		return TN_OK;
	}
	struct key_list list = { .keys = NULL };
	tn_arena_init(&list.arena, scan->ctx);
	tn_status status = skip_members(scan, &list, depth, err);
	if (status == TN_OK)
		status = check_keys(scan, &list, at, err);
	tn_free_array(scan->ctx, list.keys, list.capacity, sizeof *list.keys);
	tn_arena_release(&list.arena);
	return status;
}

static tn_status skip_array(struct tn_json_scan *scan, int depth, struct tn_error *err)
{
	scan->pos++;
	if (tn_json_peek(scan) == ']') {
		scan->pos++;
		return TN_OK;
	}
	int more = 1;
	while (more) {
		TN_TRY(skip_value(scan, depth, err));
		TN_TRY(tn_json_next(scan, ']', &more, err));
	}
	return TN_OK;
}

static tn_status skip_value(struct tn_json_scan *scan, int depth, struct tn_error *err)
{
	if (depth >= DEEPEST)
		return tn_json_fail(scan, scan->pos, err, "values are nested more than %d levels deep", DEEPEST);
	struct tn_json_string string;
	switch (tn_json_peek(scan)) {
	case '{': return skip_object(scan, depth + 1, err);
	case '[': return skip_array(scan, depth + 1, err);
	case '"': return tn_json_take_string(scan, &string, err);
	case 't': return take_word(scan, "true", err);
	case 'f': return take_word(scan, "false", err);
	case 'n': return take_word(scan, "null", err);
	case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
		return skip_number(scan, err);
	default: return unexpected(scan, "a value", err);
	}
}

tn_status tn_json_skip_value(struct tn_json_scan *scan, struct tn_error *err)
{
	return skip_value(scan, 0, err);
}

tn_status tn_json_finish(struct tn_json_scan *scan, struct tn_error *err)
{
	tn_json_skip_space(scan);
	return scan->pos == scan->length ? TN_OK : unexpected(scan, "nothing more", err);
}
