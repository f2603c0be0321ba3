/* Jinja templates: compiled once, rendered by any number of threads. */
#ifndef TN_JINJA_H
#define TN_JINJA_H

#include "chat/jinja_value.h"
#include "tenon/chat.h"

/* Errors name the template by `where`, which must live as long as the program. */
tn_status tn_jinja_compile(tn_context *ctx, const char *text, size_t bytes, const char *where, struct tn_jprogram **out,
			   struct tn_error *err);
void tn_jinja_free(struct tn_jprogram *program);

/* An empty arena with its limits. `where` names the template in errors. */
void tn_jinja_start(struct tn_j *j, tn_context *ctx, const char *where, struct tn_error *err);

/* A rendering: begin, make its variables with the functions of jinja_value.h, run, read `out`, end. */
void tn_jinja_begin(struct tn_j *j, tn_context *ctx, const struct tn_jprogram *program, struct tn_error *err);
void tn_jinja_end(struct tn_j *j);
tn_status tn_jinja_run(struct tn_j *j, struct tn_jdict *variables, struct tn_jv *out);

/* JSON as values in the arena of `j`; `where` names it in errors. */
tn_status tn_jinja_json(struct tn_j *j, const char *text, size_t bytes, const char *where, struct tn_jv *out);

#endif
