/* Regular expressions as Python's re has them, through PCRE2, with limits: a pattern from a file cannot hang. */
#ifndef TN_REGEX_H
#define TN_REGEX_H

#include "base/context.h"

struct tn_regex;

/* Compiles. `where` names the file and `key` the setting in errors. TN_E_FORMAT: not a regular expression, with the byte. */
tn_status tn_regex_compile(tn_context *ctx, const char *pattern, const char *where, const char *key,
			   struct tn_regex **out, struct tn_error *err);
void tn_regex_free(struct tn_regex *regex);

/* re.fullmatch and re.match. *group (may be NULL) gets the first group: its begin, or NULL, and *group_length.
 * TN_E_LIMIT: the match took too many steps. */
tn_status tn_regex_full(const struct tn_regex *regex, const char *text, int *matched, struct tn_error *err);
tn_status tn_regex_begin(const struct tn_regex *regex, const char *text, int *matched, const char **group,
			 size_t *group_length, struct tn_error *err);

#endif
