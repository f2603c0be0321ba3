/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/numeral.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void tn_text_release(struct tn_text *text)
{
	tn_free(text->ctx, text->data, text->capacity);
	tn_text_init(text, text->ctx);
}

static tn_status reserve(struct tn_text *text, size_t more, struct tn_error *err)
{
	size_t needed;
	if (tn_add_size(text->length, more, &needed) || tn_add_size(needed, 1, &needed))
		return tn_fail_nomem(err, "text", more);
	return tn_grow(text->ctx, &text->data, &text->capacity, needed, 1, "text", err);
}

tn_status tn_text_add(struct tn_text *text, const char *bytes, size_t n, struct tn_error *err)
{
	TN_TRY(reserve(text, n, err));
	memcpy(text->data + text->length, bytes, n);
	text->length += n;
	text->data[text->length] = '\0';
	return TN_OK;
}

tn_status tn_text_puts(struct tn_text *text, const char *s, struct tn_error *err)
{
	return tn_text_add(text, s, strlen(s), err);
}

tn_status tn_text_printf(struct tn_text *text, struct tn_error *err, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int n = tn_vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0)
		return tn_fail(err, TN_E_ARG, fmt, "text could not be formatted");
	TN_TRY(reserve(text, (size_t)n, err));
	va_start(args, fmt);
	tn_vsnprintf(text->data + text->length, (size_t)n + 1, fmt, args);
	va_end(args);
	text->length += (size_t)n;
	return TN_OK;
}

/* Length of the well-formed sequence at p, 0 when there is none. The second byte's range depends on the first:
 * that excludes overlong forms, surrogates and what lies beyond U+10FFFF. */
static size_t sequence_length(const unsigned char *p, size_t n)
{
	unsigned char first = p[0], low = 0x80, high = 0xBF;
	size_t length;
	if (first < 0x80)
		return 1;
	if (first >= 0xC2 && first <= 0xDF)
		length = 2;
	else if (first >= 0xE0 && first <= 0xEF)
		length = 3;
	else if (first >= 0xF0 && first <= 0xF4)
		length = 4;
	else
		return 0;
	if (first == 0xE0)
		low = 0xA0;
	else if (first == 0xED)
		high = 0x9F;
	else if (first == 0xF0)
		low = 0x90;
	else if (first == 0xF4)
		high = 0x8F;
	if (n < length || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++)
		if ((p[i] & 0xC0) != 0x80)
			return 0;
	return length;
}

size_t tn_utf8_valid_prefix(const char *bytes, size_t n)
{
	const unsigned char *p = (const unsigned char *)bytes;
	size_t i = 0;
	while (i < n) {
		uint64_t word;
		while (n - i >= sizeof word) { /* mostly ASCII */
			memcpy(&word, p + i, sizeof word);
			if (word & 0x8080808080808080u)
				break;
			i += sizeof word;
		}
		if (i == n)
			break;
		size_t length = sequence_length(p + i, n - i);
		if (!length)
			break;
		i += length;
	}
	return i;
}

int tn_starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

int tn_ends_with(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);
	return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

int tn_join(char *dst, size_t room, const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
	if (a_bytes >= room || b_bytes >= room - a_bytes)
		return 0;
	memcpy(dst, a, a_bytes);
	memcpy(dst + a_bytes, b, b_bytes);
	dst[a_bytes + b_bytes] = '\0';
	return 1;
}
