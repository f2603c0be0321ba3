/* JSON reports as a stream: pieces go to the caller as they fill, so a report of any length needs little memory.
 * The first failure sticks; tn_json_out_finish returns it. */
#ifndef TN_JSON_OUT_H
#define TN_JSON_OUT_H

#include "base/text.h"

struct tn_json_out {
	struct tn_text text;
	int (*write)(void *user, const char *bytes, size_t n);
	void *user;
	int depth, inline_depth;   /* inline_depth: levels that stand on one line */
	int first;                 /* nothing stands yet in the current object or array */
	int after_key;
	tn_status status;
	struct tn_error error;
};

void tn_json_out_init(struct tn_json_out *out, tn_context *ctx, int (*write)(void *, const char *, size_t), void *user);
/* A newline at the end, what is left to the caller, and the outcome. */
tn_status tn_json_out_finish(struct tn_json_out *out, struct tn_error *err);

void tn_json_out_begin(struct tn_json_out *out, char bracket);          /* '{' or '[' */
void tn_json_out_begin_line(struct tn_json_out *out, char bracket);     /* the same, on one line with all it holds */
void tn_json_out_end(struct tn_json_out *out, char bracket);            /* '}' or ']' */
void tn_json_out_key(struct tn_json_out *out, const char *key);
void tn_json_out_string(struct tn_json_out *out, const char *s);        /* NULL: null */
void tn_json_out_u64(struct tn_json_out *out, uint64_t n);
void tn_json_out_double(struct tn_json_out *out, double x);             /* not finite: null */
void tn_json_out_bool(struct tn_json_out *out, int truth);

#endif
