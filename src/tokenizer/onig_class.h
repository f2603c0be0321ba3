/* The parts of Oniguruma's patterns that stand for one character: escapes, properties and classes. */
#ifndef TN_ONIG_CLASS_H
#define TN_ONIG_CLASS_H

#include "base/text.h"

struct tn_onig_source {
	const char *pattern;    /* NUL-terminated, n bytes */
	size_t n, at;
	const char *where;
	int depth;              /* of classes within classes */
};

/* What \w is there, for the inside of a class. */
#define TN_ONIG_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* And outside of classes, and for \b, beside that. */
#define TN_ONIG_LATIN "\\xB2\\xB3\\xB9\\xBC-\\xBE"

/* The bytes of the character at the source's place. */
size_t tn_onig_character(const struct tn_onig_source *source);

/* Takes an escape outside of a class and appends what it is in PCRE2. */
tn_status tn_onig_put_escape(struct tn_onig_source *source, struct tn_text *out, struct tn_error *err);

/* Takes a class, from its [ to its ], and appends something that matches the same one character. */
tn_status tn_onig_put_class(struct tn_onig_source *source, struct tn_text *out, struct tn_error *err);

#endif
