/* SPDX-License-Identifier: Apache-2.0 */
#include "base/regex.h"

#include "base/error.h"
#include "base/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

/* A sane pattern on a module name takes some hundred steps. */
enum { STEP_LIMIT = 200000, HEAP_LIMIT_KIB = 4096, LONGEST_PATTERN = 1 << 16 };

struct tn_regex {
	tn_context *ctx;
	pcre2_general_context *general;
	pcre2_match_context *limits;
	pcre2_code *code;
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

static tn_status compile(struct tn_regex *regex, const char *where, const char *key, struct tn_error *err)
{
	int code;
	PCRE2_SIZE at;
	regex->general = pcre2_general_context_create(piece_alloc, piece_free, regex->ctx);
	regex->limits = regex->general ? pcre2_match_context_create(regex->general) : NULL;
	pcre2_compile_context *c = regex->limits ? pcre2_compile_context_create(regex->general) : NULL;
	if (!c)
		return tn_fail_nomem(err, where, regex->pattern_bytes);
	pcre2_set_match_limit(regex->limits, STEP_LIMIT);
	pcre2_set_depth_limit(regex->limits, STEP_LIMIT);
	pcre2_set_heap_limit(regex->limits, HEAP_LIMIT_KIB);
	regex->code = pcre2_compile((PCRE2_SPTR)regex->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, c);
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

tn_status tn_regex_compile(tn_context *ctx, const char *pattern, const char *where, const char *key,
			   struct tn_regex **out, struct tn_error *err)
{
	struct tn_regex *regex;
	size_t n = strlen(pattern);
	if (n > LONGEST_PATTERN)
		return tn_fail(err, TN_E_LIMIT, where, "'%s' in '%.120s' is a pattern of %zu bytes; at most %d were expected", key,
			       where, n, (int)LONGEST_PATTERN);
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *regex + n + 1, "pattern", &regex, err));
	regex->ctx = ctx;
	regex->pattern_bytes = n;
	memcpy(regex->pattern, pattern, n + 1);
	translate(regex->pattern);
	tn_status status = compile(regex, where, key, err);
	if (status != TN_OK) {
		tn_regex_free(regex);
		return status;
	}
	*out = regex;
	return TN_OK;
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

static tn_status match(const struct tn_regex *regex, const char *text, uint32_t options, int *matched, const char **group,
		       size_t *group_length, struct tn_error *err)
{
	pcre2_match_data *data = pcre2_match_data_create_from_pattern(regex->code, regex->general);
	if (!data)
		return tn_fail_nomem(err, regex->pattern, sizeof(PCRE2_SIZE));
	int n = pcre2_match(regex->code, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, options, data, regex->limits);
	const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
	if (group && n > 1 && at[2] != PCRE2_UNSET) {
		*group = text + at[2];
		*group_length = at[3] - at[2];
	} else if (group) {
		*group = NULL;
	}
	pcre2_match_data_free(data);
	*matched = n >= 0;
	if (n >= 0 || n == PCRE2_ERROR_NOMATCH)
		return TN_OK;
	if (n == PCRE2_ERROR_NOMEMORY)
		return tn_fail_nomem(err, regex->pattern, regex->pattern_bytes);
	return tn_fail(err, TN_E_LIMIT, text, "the pattern '%.100s' takes more than %d steps on '%.100s'; write it without nested "
		       "repetition", regex->pattern, (int)STEP_LIMIT, text);
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
