/* Writing JSON as text, in the style of Python's json.dumps, which wrote nearly every file that tenon reads. */
#ifndef TN_JSON_TEXT_H
#define TN_JSON_TEXT_H

#include "base/text.h"

#include <jansson.h>

/* "..." with the escapes of RFC 8259 and all other characters as they are. TN_E_ARG: not UTF-8. */
tn_status tn_json_add_string(struct tn_text *text, const char *s, struct tn_error *err);

/* A number as Python's repr writes it: the shortest digits that read back as the same double, "1e-05", "0.1", "20.0".
 * NaN and infinities become NaN, Infinity, -Infinity, as json.dumps has them. */
tn_status tn_json_add_double(struct tn_text *text, double value, struct tn_error *err);

struct tn_json_style {
	int indent;        /* spaces for each level; negative: everything on one line, with ", " and ": " */
	int ascii;         /* characters beyond ASCII as \uXXXX */
	int sort_keys;     /* keys of the outermost object in bytewise order; inner ones keep theirs */
};

/* A whole document. Numbers that were integers stay so, and those that only Python has stand as they were read. */
tn_status tn_json_add_value(struct tn_text *text, const json_t *value, const struct tn_json_style *style,
			    struct tn_error *err);

#endif
