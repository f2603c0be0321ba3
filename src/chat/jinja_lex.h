/* The text of a template as tokens. Follows Jinja2 3.1.6 (src/jinja2/lexer.py) with trim_blocks and lstrip_blocks. */
#ifndef TN_JINJA_LEX_H
#define TN_JINJA_LEX_H

#include "chat/jinja_value.h"

enum tn_jtoken_kind {
	TN_JT_END,
	TN_JT_DATA,         /* text outside of tags: begin, bytes */
	TN_JT_BLOCK_BEGIN,
	TN_JT_BLOCK_END,
	TN_JT_PRINT_BEGIN,
	TN_JT_PRINT_END,
	TN_JT_NAME,         /* value: a string; one object for each different name */
	TN_JT_STRING,       /* value, unescaped */
	TN_JT_NUMBER,       /* value */
	TN_JT_OPERATOR      /* op: its characters */
};

struct tn_jtoken {
	enum tn_jtoken_kind kind;
	int line;
	const char *begin;
	size_t bytes;
	char op[3];
	struct tn_jv value;
};

struct tn_jlexer {
	struct tn_j *j;
	const char *text;       /* without a last newline; all newlines are \n */
	size_t bytes, pos;
	int line;
	int line_starting;      /* what came before ended with a newline */
	enum tn_jtoken_kind closing;  /* inside a tag: what ends it; TN_JT_END outside */
	char open[256];         /* brackets that are open inside the tag */
	size_t open_count;
	struct tn_jdict *names; /* every name once */
	struct tn_jtoken *tokens;
	size_t count, capacity;
};

/* Fills lexer->tokens; the last is TN_JT_END. Everything lies in the arena of `j`, the text included. */
tn_status tn_jinja_lex(struct tn_j *j, const char *text, size_t bytes, struct tn_jlexer *lexer);

/* A string literal's inside without its escapes (jinja_literal.c). */
tn_status tn_jinja_unescape(struct tn_j *j, const char *text, size_t n, struct tn_jv *out);
/* A whole number in base 2, 8, 10 or 16 without prefix, or a number with fraction or exponent; `_` is passed over. */
tn_status tn_jinja_number(struct tn_j *j, const char *text, size_t n, unsigned base, int real, struct tn_jv *out);

#endif
