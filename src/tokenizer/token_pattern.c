/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/token_pattern.h"

#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/onig.h"

#include <string.h>

tn_status tn_pattern_compile(tn_context *ctx, const char *pattern, size_t n, const char *owner, const char *where,
			     struct tn_pattern *out, struct tn_error *err)
{
	struct tn_text translated;
	struct tn_regex *regex = NULL;
	tn_text_init(&translated, ctx);
	tn_status status = tn_text_puts(&translated, "", err);
	if (status == TN_OK)
		status = tn_onig_translate(pattern, n, where, &translated, err);
	if (status == TN_OK)
		status = tn_regex_compile_search(ctx, translated.data, translated.length, where, owner, &regex, err);
	tn_text_release(&translated);
	if (status == TN_OK)
		*out = (struct tn_pattern){ .regex = regex };
	return status;
}

tn_status tn_pattern_read(struct tn_arena *arena, const json_t *json, const char *owner, const char *where,
			  struct tn_pattern *out, struct tn_error *err)
{
	const json_t *regex = json_object_get(json, "Regex"), *literal = json_object_get(json, "String");
	if (json_is_string(regex))
		return tn_pattern_compile(arena->ctx, json_string_value(regex), json_string_length(regex), owner, where, out, err);
	if (!json_is_string(literal))
		return tn_fail(err, TN_E_FORMAT, where, "a %s in '%s' has no pattern: {\"String\": ...} or {\"Regex\": ...} was "
			       "expected", owner, where);
	*out = (struct tn_pattern){ .bytes = json_string_length(literal) };
	return tn_arena_text(arena, json_string_value(literal), out->bytes, &out->literal, err);
}

void tn_pattern_release(struct tn_pattern *pattern)
{
	tn_regex_free(pattern->regex);
	*pattern = (struct tn_pattern){ .literal = NULL };
}

/* An empty literal stands between all characters, as an empty regular expression does. */
static tn_status find_empty(const char *text, size_t n, struct tn_ranges *out, struct tn_error *err)
{
	for (size_t at = 0; at < n; at += tn_char_bytes(text + at))
		TN_TRY(tn_ranges_add(out, at, at, err));
	return tn_ranges_add(out, n, n, err);
}

/* The first character from `at` on that PCRE2 does not know, or n. */
static size_t find_young(const char *text, size_t n, size_t at)
{
	size_t bytes;
	for (; at < n; at += bytes) {
		int32_t c = tn_char_at(text + at, &bytes);
		if (c > 0x7F && tn_char_elder(c) != c)
			return at;
	}
	return n;
}

/* Matches only look at what kind of character there is, so an older one of the kind may stand in its place. */
static tn_status find_regex(const struct tn_regex *regex, const char *text, size_t n, struct tn_ranges *out,
			    struct tn_error *err)
{
	struct tn_text copy;
	size_t at = find_young(text, n, 0), bytes;
	if (at == n)
		return tn_regex_find_all(regex, text, n, out, err);
	tn_text_init(&copy, out->ctx);
	TN_TRY(tn_text_add(&copy, text, n, err));
	for (; at < n; at = find_young(copy.data, n, at))
		tn_char_put(copy.data + at, tn_char_elder(tn_char_at(copy.data + at, &bytes)));
	tn_status status = tn_regex_find_all(regex, copy.data, n, out, err);
	tn_text_release(&copy);
	return status;
}

/* Where the literal stands next, from `at` on, or n. A window at a time: sanitizers look at all that memmem is given, each
 * time, and matches may be as many as bytes. */
static size_t find_literal(const struct tn_pattern *pattern, const char *text, size_t n, size_t at)
{
	const size_t own = pattern->bytes, step = 4096 + 4 * own;
	for (; n - at >= own; at += step) {
		size_t window = n - at < step + own - 1 ? n - at : step + own - 1;
		const char *found = memmem(text + at, window, pattern->literal, own);
		if (found)
			return (size_t)(found - text);
		if (window == n - at)
			break;
	}
	return n;
}

tn_status tn_pattern_find(const struct tn_pattern *pattern, const char *text, size_t n, struct tn_ranges *out,
			  struct tn_error *err)
{
	out->count = 0;
	if (n == 0)
		return TN_OK;
	if (pattern->regex)
		return find_regex(pattern->regex, text, n, out, err);
	if (pattern->bytes == 0)
		return find_empty(text, n, out, err);
	for (size_t at = 0; (at = find_literal(pattern, text, n, at)) < n; at += pattern->bytes)
		TN_TRY(tn_ranges_add(out, at, at + pattern->bytes, err));
	return TN_OK;
}

/* ---- cutting --------------------------------------------------------------------------------------------- */

/* The matches and what is between them: the whole text, without gaps. */
static tn_status cover(struct tn_work *work, size_t n, int invert, struct tn_error *err)
{
	size_t at = 0;
	work->span_count = 0;
	if (n == 0)
		return tn_work_add_span(work, 0, 0, invert, err);
	for (size_t i = 0; i < work->matches.count; i++) {
		const struct tn_range *match = &work->matches.items[i];
		if (at != match->begin)
			TN_TRY(tn_work_add_span(work, at, match->begin, invert, err));
		TN_TRY(tn_work_add_span(work, match->begin, match->end, !invert, err));
		at = match->end;
	}
	return at == n ? TN_OK : tn_work_add_span(work, at, n, invert, err);
}

/* Neighbours of which both or neither are matches become one. */
static void join_equal(struct tn_work *work)
{
	size_t kept = 0;
	int previous = 0;
	for (size_t i = 0; i < work->span_count; i++) {
		struct tn_span span = work->spans[i];
		if (span.is_match == previous && kept)
			work->spans[kept - 1].end = span.end;
		else
			work->spans[kept++] = (struct tn_span){ span.begin, span.end, 0 };
		previous = span.is_match;
	}
	work->span_count = kept;
}

static void join_previous(struct tn_work *work)
{
	size_t kept = 0;
	int previous = 0;
	for (size_t i = 0; i < work->span_count; i++) {
		struct tn_span span = work->spans[i];
		if (span.is_match && !previous && kept)
			work->spans[kept - 1].end = span.end;
		else
			work->spans[kept++] = (struct tn_span){ span.begin, span.end, 0 };
		previous = span.is_match;
	}
	work->span_count = kept;
}

static void join_next(struct tn_work *work)
{
	size_t count = work->span_count, first = count;
	int previous = 0;
	for (size_t i = count; i-- > 0;) {
		struct tn_span span = work->spans[i];
		if (span.is_match && !previous && first < count)
			work->spans[first].begin = span.begin;
		else
			work->spans[--first] = (struct tn_span){ span.begin, span.end, 0 };
		previous = span.is_match;
	}
	work->span_count = count - first;
	if (work->span_count)
		memmove(work->spans, work->spans + first, work->span_count * sizeof *work->spans);
}

tn_status tn_cut_matches(struct tn_work *work, size_t n, enum tn_cut cut, int invert, struct tn_error *err)
{
	TN_TRY(cover(work, n, invert, err));
	switch (cut) {
	case TN_CUT_REMOVED:
		break;
	case TN_CUT_ISOLATED:
		for (size_t i = 0; i < work->span_count; i++)
			work->spans[i].is_match = 0;
		break;
	case TN_CUT_MERGED_WITH_PREVIOUS:
		join_previous(work);
		break;
	case TN_CUT_MERGED_WITH_NEXT:
		join_next(work);
		break;
	case TN_CUT_CONTIGUOUS:
		join_equal(work);
		break;
	}
	return TN_OK;
}
