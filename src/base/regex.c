/* SPDX-License-Identifier: Apache-2.0 */
#include "base/regex.h"

#include "base/error.h"
#include "base/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

/* A sane pattern on a module name takes some hundred steps. In a text of a million spaces it can take as many as there are
 * spaces, and the engine that tokenizers were made with gives up after ten million. */
enum {
	NAME_STEPS = 200000,
	SEARCH_STEPS = 10000000,
	CHEAP_STEPS = 256,             /* of a try at one character: these are not counted */
	STEPS_MORE = 8,                /* a try that is not enough is followed by one with so many times the steps */
	STEPS_OF_TEXT = 4096,          /* of all tries together that are not cheap: these, and */
	STEPS_OF_BYTE = 256,           /* so many for each byte of the text; sane patterns stay below 40 */
	NAME_HEAP_KIB = 4096,
	SEARCH_HEAP_KIB = 65536,
	LONGEST_PATTERN = 1 << 16
};

struct tn_regex {
	tn_context *ctx;
	pcre2_general_context *general;
	pcre2_match_context *limits;
	pcre2_code *code;
	uint32_t steps;
	size_t pattern_bytes;
	char pattern[];
};

/* ---- the context's heap ---------------------------------------------------------------------------------- */

/* PCRE2 frees without a size, so each piece begins with its own. */
union piece {
	size_t bytes;
	max_align_t align;
};

static void *piece_alloc(size_t bytes, void *user)
{
	union piece *piece;
	if (bytes > SIZE_MAX - sizeof *piece || tn_alloc(user, bytes + sizeof *piece, "pattern", &piece, NULL) != TN_OK)
		return NULL;
	piece->bytes = bytes + sizeof *piece;
	return piece + 1;
}

static void piece_free(void *p, void *user)
{
	if (!p)
		return;
	union piece *piece = (union piece *)p - 1;
	tn_free(user, piece, piece->bytes);
}

/* ---- compiling ------------------------------------------------------------------------------------------- */

/* Python's \Z is the very end, PCRE2's is the end or a newline there. */
static void translate(char *pattern)
{
	for (char *p = pattern; *p; p++) {
		if (*p == '\\' && p[1] == 'Z')
			p[1] = 'z';
		p += *p == '\\' && p[1];
	}
}

static tn_status compile(struct tn_regex *regex, uint32_t options, const char *where, const char *key,
			 struct tn_error *err)
{
	int code;
	PCRE2_SIZE at;
	regex->general = pcre2_general_context_create(piece_alloc, piece_free, regex->ctx);
	regex->limits = regex->general ? pcre2_match_context_create(regex->general) : NULL;
	pcre2_compile_context *c = regex->limits ? pcre2_compile_context_create(regex->general) : NULL;
	if (!c)
		return tn_fail_nomem(err, where, regex->pattern_bytes);
	pcre2_set_newline(c, PCRE2_NEWLINE_LF);
	pcre2_set_match_limit(regex->limits, regex->steps);
	pcre2_set_depth_limit(regex->limits, regex->steps);
	pcre2_set_heap_limit(regex->limits, regex->steps == NAME_STEPS ? NAME_HEAP_KIB : SEARCH_HEAP_KIB);
	regex->code = pcre2_compile((PCRE2_SPTR)regex->pattern, regex->pattern_bytes, options, &code, &at, c);
	pcre2_compile_context_free(c);
	if (regex->code)
		return TN_OK;
	if (code == PCRE2_ERROR_HEAP_FAILED)
		return tn_fail_nomem(err, where, regex->pattern_bytes);
	PCRE2_UCHAR message[128] = "";
	pcre2_get_error_message(code, message, sizeof message);
	return tn_fail_at(err, TN_E_FORMAT, where, at, "'%s' in '%.120s' is not a regular expression: %s (at byte %zu of '%.60s')",
			  key, where, (const char *)message, (size_t)at, regex->pattern);
}

static tn_status create(tn_context *ctx, const char *pattern, size_t n, const char *where, const char *key,
			struct tn_regex **out, struct tn_error *err)
{
	struct tn_regex *regex;
	if (n > LONGEST_PATTERN)
		return tn_fail(err, TN_E_LIMIT, where, "'%s' in '%.120s' is a pattern of %zu bytes; at most %d were expected", key,
			       where, n, (int)LONGEST_PATTERN);
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *regex + n + 1, "pattern", &regex, err));
	regex->ctx = ctx;
	regex->pattern_bytes = n;
	memcpy(regex->pattern, pattern, n);
	*out = regex;
	return TN_OK;
}

static tn_status finish(struct tn_regex *regex, uint32_t options, const char *where, const char *key,
			struct tn_regex **out, struct tn_error *err)
{
	tn_status status = compile(regex, options, where, key, err);
	if (status != TN_OK) {
		tn_regex_free(regex);
		return status;
	}
	*out = regex;
	return TN_OK;
}

tn_status tn_regex_compile(tn_context *ctx, const char *pattern, const char *where, const char *key,
			   struct tn_regex **out, struct tn_error *err)
{
	struct tn_regex *regex = NULL;
	TN_TRY(create(ctx, pattern, strlen(pattern), where, key, &regex, err));
	translate(regex->pattern);
	regex->steps = NAME_STEPS;
	return finish(regex, PCRE2_UTF, where, key, out, err);
}

tn_status tn_regex_compile_search(tn_context *ctx, const char *pattern, size_t n, const char *where, const char *key,
				  struct tn_regex **out, struct tn_error *err)
{
	struct tn_regex *regex = NULL;
	TN_TRY(create(ctx, pattern, n, where, key, &regex, err));
	regex->steps = SEARCH_STEPS;
	return finish(regex, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, where, key, out, err);
}

void tn_regex_free(struct tn_regex *regex)
{
	if (!regex)
		return;
	pcre2_code_free(regex->code);
	pcre2_match_context_free(regex->limits);
	pcre2_general_context_free(regex->general);
	tn_free(regex->ctx, regex, sizeof *regex + regex->pattern_bytes + 1);
}

/* ---- matching -------------------------------------------------------------------------------------------- */

/* The text need not end with a NUL. */
static tn_status match_failed(const struct tn_regex *regex, int code, const char *text, size_t n, struct tn_error *err)
{
	char start[101];
	n = n < sizeof start ? n : sizeof start - 1;
	memcpy(start, text, n);
	start[n] = '\0';
	if (code == PCRE2_ERROR_NOMEMORY)
		return tn_fail_nomem(err, regex->pattern, regex->pattern_bytes);
	return tn_fail(err, TN_E_LIMIT, start, "the pattern '%.100s' takes more than %u steps on '%s', or too many for a text of "
		       "its length; write it without nested repetition", regex->pattern, (unsigned)regex->steps, start);
}

static tn_status match(const struct tn_regex *regex, const char *text, uint32_t options, int *matched, const char **group,
		       size_t *group_length, struct tn_error *err)
{
	pcre2_match_data *data = pcre2_match_data_create_from_pattern(regex->code, regex->general);
	if (!data)
		return tn_fail_nomem(err, regex->pattern, sizeof(PCRE2_SIZE));
	int n = pcre2_match(regex->code, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, options, data, regex->limits);
	uint32_t groups = pcre2_get_ovector_count(data) - 1;
	const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data) + 2 * (size_t)groups;
	if (group && groups && n > (int)groups && at[0] != PCRE2_UNSET) {
		*group = text + at[0];
		*group_length = at[1] - at[0];
	} else if (group) {
		*group = NULL;
	}
	pcre2_match_data_free(data);
	*matched = n >= 0;
	if (n >= 0 || n == PCRE2_ERROR_NOMATCH)
		return TN_OK;
	return match_failed(regex, n, text, strlen(text), err);
}

tn_status tn_regex_full(const struct tn_regex *regex, const char *text, int *matched, struct tn_error *err)
{
	return match(regex, text, PCRE2_ANCHORED | PCRE2_ENDANCHORED, matched, NULL, NULL, err);
}

tn_status tn_regex_begin(const struct tn_regex *regex, const char *text, int *matched, const char **group,
			 size_t *group_length, struct tn_error *err)
{
	return match(regex, text, PCRE2_ANCHORED, matched, group, group_length, err);
}

/* ---- searching ------------------------------------------------------------------------------------------- */

void tn_ranges_release(struct tn_ranges *ranges)
{
	tn_free_array(ranges->ctx, ranges->items, ranges->capacity, sizeof *ranges->items);
	tn_ranges_init(ranges, ranges->ctx);
}

tn_status tn_ranges_add(struct tn_ranges *ranges, size_t begin, size_t end, struct tn_error *err)
{
	TN_TRY(tn_grow(ranges->ctx, &ranges->items, &ranges->capacity, ranges->count + 1, sizeof *ranges->items, "matches",
		       err));
	ranges->items[ranges->count++] = (struct tn_range){ begin, end };
	return TN_OK;
}

static size_t next_character(const char *text, size_t n, size_t at)
{
	at++;
	while (at < n && ((unsigned char)text[at] & 0xC0) == 0x80)
		at++;
	return at;
}

/* One search through a text. PCRE2 bounds the steps of a try at one character, and does not say how many it took: so each begins
 * with few, and what takes more is charged. */
struct search {
	const struct tn_regex *regex;
	pcre2_match_data *data;
	pcre2_match_context *limits;
	const char *text;
	size_t n;
	uint64_t left;               /* steps for tries that are not cheap */
};

static int try_with(struct search *s, size_t from, uint32_t steps, uint32_t options)
{
	pcre2_set_match_limit(s->limits, steps);
	return pcre2_match(s->regex->code, (PCRE2_SPTR)s->text, s->n, from, PCRE2_NO_UTF_CHECK | options, s->data, s->limits);
}

/* A match that begins right at `from`. */
static int try_at(struct search *s, size_t from)
{
	int rc = try_with(s, from, CHEAP_STEPS, PCRE2_ANCHORED);
	for (uint32_t steps = CHEAP_STEPS; rc == PCRE2_ERROR_MATCHLIMIT && steps < SEARCH_STEPS;) {
		steps = steps * STEPS_MORE < SEARCH_STEPS ? steps * STEPS_MORE : SEARCH_STEPS;
		if (steps > s->left)
			return rc;
		s->left -= steps;
		rc = try_with(s, from, steps, PCRE2_ANCHORED);
	}
	return rc;
}

/* The next match: PCRE2's own search while that is cheap, else character by character. */
static int find_next(struct search *s, size_t from)
{
	int rc = try_with(s, from, CHEAP_STEPS, 0);
	if (rc != PCRE2_ERROR_MATCHLIMIT)
		return rc;
	for (rc = PCRE2_ERROR_NOMATCH; rc == PCRE2_ERROR_NOMATCH && from <= s->n; from = next_character(s->text, s->n, from))
		rc = try_at(s, from);
	return rc;
}

static tn_status find_all(struct search *s, struct tn_ranges *out, struct tn_error *err)
{
	const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->data);
	size_t from = 0, last_end = SIZE_MAX;
	while (from <= s->n) {
		int rc = find_next(s, from);
		if (rc == PCRE2_ERROR_NOMATCH)
			return TN_OK;
		if (rc < 0)
			return match_failed(s->regex, rc, s->text, s->n, err);
		size_t begin = at[0], end = at[1];
		if (end < begin) /* \K can do that */
			begin = end;
		if (begin == end && end == last_end) {
			from = next_character(s->text, s->n, from);
			continue;
		}
		if (begin < from)
			begin = from;
		TN_TRY(tn_ranges_add(out, begin, end < begin ? begin : end, err));
		from = last_end = out->items[out->count - 1].end;
	}
	return TN_OK;
}

tn_status tn_regex_find_all(const struct tn_regex *regex, const char *text, size_t n, struct tn_ranges *out,
			    struct tn_error *err)
{
	struct search s = { .regex = regex, .text = text, .n = n, .left = STEPS_OF_TEXT + (uint64_t)n * STEPS_OF_BYTE };
	tn_status status;
	s.data = pcre2_match_data_create(1, regex->general);
	s.limits = pcre2_match_context_copy(regex->limits); /* the pattern's own is other threads' too */
	out->count = 0;
	if (s.data && s.limits)
		status = find_all(&s, out, err);
	else
		status = tn_fail_nomem(err, regex->pattern, sizeof(PCRE2_SIZE));
	pcre2_match_data_free(s.data);
	pcre2_match_context_free(s.limits);
	return status;
}
