/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/unicode_form.h"

#include "base/error.h"
#include "tokenizer/chars.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static int compare_keys(const void *a, const void *b)
{
	uint64_t x, y;
	memcpy(&x, a, sizeof x);
	memcpy(&y, b, sizeof y);
	return x < y ? -1 : x > y;
}

static uint32_t class_of(int32_t c)
{
	return (uint32_t)utf8proc_get_property(c)->combining_class;
}

/* Marks behind one another are ordered by their class, those of one class stay as they stand. utf8proc's own ordering takes
 * a time that grows with the square of the run. */
static tn_status order_marks(struct tn_work *work, size_t begin, size_t end, struct tn_error *err)
{
	size_t n = end - begin;
	TN_TRY(tn_grow(work->ctx, &work->order, &work->order_capacity, 2 * n, sizeof *work->order, "marks", err));
	int sorted = 1;
	for (size_t i = 0; i < n; i++) {
		work->order[i] = (uint64_t)class_of(work->points[begin + i]) << 32 | i;
		sorted &= i == 0 || work->order[i - 1] < work->order[i];
	}
	if (sorted)
		return TN_OK;
	qsort(work->order, n, sizeof *work->order, compare_keys);
	for (size_t i = 0; i < n; i++)
		work->order[n + i] = (uint64_t)work->points[begin + (uint32_t)work->order[i]];
	for (size_t i = 0; i < n; i++)
		work->points[begin + i] = (int32_t)work->order[n + i];
	return TN_OK;
}

static tn_status order_all(struct tn_work *work, size_t count, struct tn_error *err)
{
	for (size_t i = 0; i < count; i++) {
		size_t begin = i;
		while (i < count && class_of(work->points[i]) != 0)
			i++;
		if (i - begin > 1)
			TN_TRY(order_marks(work, begin, i, err));
	}
	return TN_OK;
}

/* Characters that the tables of the tokenizers library, which follow Unicode 9, have no decomposition for. */
static int is_young(int32_t c)
{
	static const int32_t ranges[][2] = {
		{ 0x32FF, 0x32FF }, { 0xA7F2, 0xA7F4 }, { 0xAB69, 0xAB69 }, { 0x10781, 0x107BA }, { 0x11938, 0x11938 },
		{ 0x1E030, 0x1E06D }, { 0x1F16C, 0x1F16C }, { 0x1FBF0, 0x1FBF9 },
	};
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges && c >= ranges[i][0]; i++)
		if (c <= ranges[i][1])
			return 1;
	return 0;
}

static tn_status decompose(struct tn_work *work, const char *text, size_t n, unsigned options, size_t *count,
			   struct tn_error *err)
{
	enum { LONGEST = 32 }; /* the longest decomposition has 18 characters */
	size_t bytes;
	*count = 0;
	for (size_t at = 0; at < n; at += bytes) {
		int boundary = 0;
		int32_t c = tn_char_at(text + at, &bytes);
		TN_TRY(tn_grow(work->ctx, &work->points, &work->point_capacity, *count + LONGEST, sizeof *work->points,
			       "characters", err));
		if (is_young(c)) {
			work->points[(*count)++] = c;
			continue;
		}
		utf8proc_ssize_t made = utf8proc_decompose_char(c, work->points + *count, LONGEST, (utf8proc_option_t)options,
								&boundary);
		if (made < 0 || made > LONGEST)
			return tn_fail(err, TN_E_ARG, "text", "the character U+%04X cannot be normalized", (unsigned)c);
		*count += (size_t)made;
	}
	return order_all(work, *count, err);
}

/* Plain text is in every form already. */
static int is_ascii(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] >= 0x80)
			return 0;
	return 1;
}

tn_status tn_unicode_form(struct tn_work *work, const char *text, size_t n, unsigned form, struct tn_text *out,
			  struct tn_error *err)
{
	unsigned options = UTF8PROC_STABLE;
	size_t count;
	if (is_ascii(text, n))
		return n ? tn_text_add(out, text, n, err) : TN_OK;
	options |= form & TN_FORM_COMPOSED ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
	if (form & TN_FORM_COMPATIBLE)
		options |= UTF8PROC_COMPAT;
	TN_TRY(decompose(work, text, n, UTF8PROC_DECOMPOSE | (options & ~(unsigned)UTF8PROC_COMPOSE), &count, err));
	utf8proc_ssize_t left = utf8proc_normalize_utf32(work->points, (utf8proc_ssize_t)count, (utf8proc_option_t)options);
	for (utf8proc_ssize_t i = 0; i < left; i++)
		TN_TRY(tn_text_add_char(out, work->points[i], err));
	return TN_OK;
}
