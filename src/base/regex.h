/* Regular expressions as Python's re has them, through PCRE2, with limits: a pattern from a file cannot hang. */
#ifndef TN_REGEX_H
#define TN_REGEX_H

#include "base/context.h"

struct tn_regex;

/* Compiles. `where` names the file and `key` the setting in errors. TN_E_FORMAT: not a regular expression, with the byte. */
tn_status tn_regex_compile(tn_context *ctx, const char *pattern, const char *where, const char *key,
			   struct tn_regex **out, struct tn_error *err);
void tn_regex_free(struct tn_regex *regex);

/* re.fullmatch and re.match. *group (may be NULL) gets the last group: its begin, or NULL, and *group_length.
 * TN_E_LIMIT: the match took too many steps. */
tn_status tn_regex_full(const struct tn_regex *regex, const char *text, int *matched, struct tn_error *err);
tn_status tn_regex_begin(const struct tn_regex *regex, const char *text, int *matched, const char **group,
			 size_t *group_length, struct tn_error *err);

/* ---- searching in texts ---------------------------------------------------------------------------------- */

struct tn_range {
	size_t begin, end;
};
struct tn_ranges {
	tn_context *ctx;
	struct tn_range *items;
	size_t count, capacity;
};
static inline void tn_ranges_init(struct tn_ranges *ranges, tn_context *ctx)
{
	*ranges = (struct tn_ranges){ .ctx = ctx };
}
void tn_ranges_release(struct tn_ranges *ranges);
tn_status tn_ranges_add(struct tn_ranges *ranges, size_t begin, size_t end, struct tn_error *err);

/* Compiles a pattern of n bytes, in PCRE2's own language, for texts of any length: classes follow Unicode, ^ and $ stand at
 * every line. */
tn_status tn_regex_compile_search(tn_context *ctx, const char *pattern, size_t n, const char *where, const char *key,
				  struct tn_regex **out, struct tn_error *err);

/* Every match in a text of n bytes, which must be UTF-8, from left to right; an empty match is passed over where another one
 * ended. They replace what `out` held. TN_E_LIMIT: one takes too many steps, or all
 * together more than so many for each byte of the text. */
tn_status tn_regex_find_all(const struct tn_regex *regex, const char *text, size_t n, struct tn_ranges *out,
			    struct tn_error *err);

#endif
