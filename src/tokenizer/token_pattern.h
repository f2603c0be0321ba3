/* Patterns of tokenizer.json, where they match, and how a text is cut there. */
#ifndef TN_TOKEN_PATTERN_H
#define TN_TOKEN_PATTERN_H

#include "base/arena.h"
#include "tokenizer/token_work.h"

#include <jansson.h>

/* A literal text, or a regular expression. */
struct tn_pattern {
	const char *literal;
	size_t bytes;
	struct tn_regex *regex;    /* NULL: the literal */
};

/* The members "String" or "Regex" of `json`. `owner` names the component in errors. */
tn_status tn_pattern_read(struct tn_arena *arena, const json_t *json, const char *owner, const char *where,
			  struct tn_pattern *out, struct tn_error *err);
/* An Oniguruma pattern that tenon itself brings. */
tn_status tn_pattern_compile(tn_context *ctx, const char *pattern, size_t n, const char *owner, const char *where,
			     struct tn_pattern *out, struct tn_error *err);
void tn_pattern_release(struct tn_pattern *pattern);

tn_status tn_pattern_find(const struct tn_pattern *pattern, const char *text, size_t n, struct tn_ranges *out,
			  struct tn_error *err);

/* SplitDelimiterBehavior of tokenizers. */
enum tn_cut { TN_CUT_REMOVED, TN_CUT_ISOLATED, TN_CUT_MERGED_WITH_PREVIOUS, TN_CUT_MERGED_WITH_NEXT, TN_CUT_CONTIGUOUS };

/* work->matches, taken turned round when `invert`, cut a text of n bytes: the parts go to work->spans, where is_match marks
 * those that are thrown away. */
tn_status tn_cut_matches(struct tn_work *work, size_t n, enum tn_cut cut, int invert, struct tn_error *err);

#endif
