/* Regular expressions of tokenizer.json, which are Oniguruma's (Ruby syntax), in the words of PCRE2. */
#ifndef TN_ONIG_H
#define TN_ONIG_H

#include "base/text.h"

/* Appends to `out` a PCRE2 pattern (for UTF, UCP and MULTILINE) that matches what the n bytes of `pattern` match there.
 * What is the same in both languages is copied unseen; PCRE2 finds its errors. Translated are: \s \w \d \h \v \b and their
 * opposites, properties, POSIX brackets, classes within classes, && in them, {n,m}+, {,m} and the option m.
 * TN_E_FORMAT: a class that does not end, or is nested too deeply. */
tn_status tn_onig_translate(const char *pattern, size_t n, const char *where, struct tn_text *out, struct tn_error *err);

#endif
