/* The chat templates of a model and its special tokens, as tn_chat_open left them. */
#ifndef TN_CHAT_H
#define TN_CHAT_H

#include "chat/jinja.h"

struct tn_chat_template {
	const char *name;
	struct tn_jprogram *program;   /* NULL: it could not be compiled, and `broken` says why */
	const char *source;
	size_t source_bytes;
	struct tn_error broken;
};

struct tn_chat {
	tn_context *ctx;
	struct tn_j j;                 /* the memory of names, sources and tokens */
	const char *folder;
	struct tn_chat_template *templates;
	size_t count, capacity;
	struct tn_jdict *tokens;       /* name -> text */
};

#endif
