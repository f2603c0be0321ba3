/* Values as text: Python's str and repr, and JSON as Python's json.dumps writes it. */
#ifndef TN_JINJA_PRINT_H
#define TN_JINJA_PRINT_H

#include "base/text.h"
#include "chat/jinja_value.h"

/* A growing text in the arena. */
struct tn_jbuffer {
	char *data;
	size_t length, capacity;
};

tn_status tn_jb_add(struct tn_j *j, struct tn_jbuffer *b, const char *text, size_t n);
tn_status tn_jb_puts(struct tn_j *j, struct tn_jbuffer *b, const char *text);
tn_status tn_jb_code(struct tn_j *j, struct tn_jbuffer *b, uint32_t code);
tn_status tn_jb_repeat(struct tn_j *j, struct tn_jbuffer *b, const char *text, size_t n, size_t times);
/* The buffer's text as a value; the buffer is not added to afterwards. */
tn_status tn_jb_string(struct tn_j *j, const struct tn_jbuffer *b, struct tn_jv *out);

/* str(v): a string is itself. */
tn_status tn_j_str(struct tn_j *j, struct tn_jv v, struct tn_jv *out);
/* The same behind what the buffer has. */
tn_status tn_j_print(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v);
/* repr(v). */
tn_status tn_j_repr(struct tn_j *j, struct tn_jv v, struct tn_jv *out);
tn_status tn_j_print_repr(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v);
/* A double as repr has it: "1e-07", "nan", "inf". */
tn_status tn_j_print_double(struct tn_j *j, struct tn_jbuffer *b, double value);

struct tn_jdumps {
	int ascii, sort_keys;
	const struct tn_jstr *indent;            /* of one level; NULL: all on one line */
	const struct tn_jstr *item_separator, *key_separator;
};
tn_status tn_j_dumps(struct tn_j *j, struct tn_jv v, const struct tn_jdumps *style, struct tn_jv *out);

#endif
