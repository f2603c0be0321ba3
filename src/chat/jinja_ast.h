/* A parsed template: a tree in the arena of its compilation. */
#ifndef TN_JINJA_AST_H
#define TN_JINJA_AST_H

#include "chat/jinja_lex.h"

enum tn_jnode_kind {
	/* expressions */
	TN_JN_CONST,        /* value */
	TN_JN_NAME,         /* name */
	TN_JN_LIST,         /* items */
	TN_JN_TUPLE,        /* items */
	TN_JN_DICT,         /* items: key, value, key, value */
	TN_JN_ATTRIBUTE,    /* a.name */
	TN_JN_ITEM,         /* a[b] */
	TN_JN_SLICE,        /* a:b:c, each may be NULL */
	TN_JN_CALL,         /* a(call) */
	TN_JN_FILTER,       /* a|name(call); a is NULL in a filter block */
	TN_JN_TEST,         /* a is name(call) */
	TN_JN_NOT, TN_JN_NEGATE, TN_JN_PLUS,
	TN_JN_AND, TN_JN_OR,
	TN_JN_BINARY,       /* a op b */
	TN_JN_CONCAT,       /* items joined by ~ */
	TN_JN_COMPARE,      /* a, then items with their operators in ops */
	TN_JN_CHOICE,       /* b if a else c; c may be NULL */
	TN_JN_FIELD,        /* name.b of a namespace as a target: name, value */

	/* statements; `next` follows */
	TN_JN_TEXT,         /* value */
	TN_JN_PRINT,        /* a */
	TN_JN_FOR,          /* for a in b if c: body, other; flag: recursive */
	TN_JN_IF,           /* a: body, other (which may be another TN_JN_IF that stands for elif) */
	TN_JN_SET,          /* a = b */
	TN_JN_SET_BLOCK,    /* a: body, b: the filters or NULL */
	TN_JN_MACRO,        /* name, macro */
	TN_JN_CALL_BLOCK,   /* a: the call, macro: the body */
	TN_JN_FILTER_BLOCK, /* a: the filters, body */
	TN_JN_WITH,         /* items: target, value, target, value; body */
	TN_JN_BLOCK,        /* body; flag: scoped */
	TN_JN_GENERATION,   /* body */
	TN_JN_BREAK, TN_JN_CONTINUE,
	TN_JN_MISSING       /* a statement that needs other templates: name */
};

enum tn_jop {
	TN_JO_ADD, TN_JO_SUB, TN_JO_MUL, TN_JO_DIV, TN_JO_FLOORDIV, TN_JO_MOD, TN_JO_POW,
	TN_JO_EQ, TN_JO_NE, TN_JO_LT, TN_JO_LE, TN_JO_GT, TN_JO_GE, TN_JO_IN, TN_JO_NOT_IN
};

struct tn_jnode;

/* Names of a scope that are undefined until it assigns them, whatever stands outside. */
struct tn_jnames {
	struct tn_jstr *name;
	struct tn_jnames *next;
};

/* What stands between the brackets of a call. */
struct tn_jcall {
	struct tn_jnode **positional, **named;
	struct tn_jstr **names;      /* of `named` */
	size_t count, named_count;
	struct tn_jnode *list, *dict; /* *list and **dict, or NULL */
};

struct tn_jmacro {
	struct tn_jstr *name;        /* "caller" for the body of a call block */
	struct tn_jstr **parameters;
	size_t count;
	struct tn_jnode **defaults;  /* of the last default_count parameters */
	size_t default_count;
	struct tn_jnode *body;
	struct tn_jnames *unset;
	int uses_caller, uses_kwargs, uses_varargs; /* the body names them, and no parameter is called so */
};

struct tn_jnode {
	enum tn_jnode_kind kind;
	int line;
	enum tn_jop op;
	int flag;
	struct tn_jstr *name;
	struct tn_jnode *a, *b, *c;
	struct tn_jnode **items;
	enum tn_jop *ops;
	size_t count;
	struct tn_jcall *call;
	struct tn_jmacro *macro;
	struct tn_jnode *body, *other, *next;
	struct tn_jnames *unset, *unset_other; /* of the scopes of body and, in a loop, of other */
	struct tn_jv value;
};

struct tn_jprogram {
	struct tn_j j;               /* its memory */
	struct tn_jnode *body;
	struct tn_jnames *unset;
	struct tn_jstr *loop, *caller, *varargs, *kwargs; /* names that mean something: compare the pointers */
};

/* ---- the parser's own (jinja_parse.c, jinja_expression.c) -------------------------------------------------- */

enum { TN_J_MOST_MACROS = 64 };

struct tn_jparser {
	struct tn_j *j;
	struct tn_jprogram *program;
	struct tn_jtoken *at;
	int loops;                   /* for statements around this place, inside the innermost macro */
	struct tn_jmacro *macros[TN_J_MOST_MACROS]; /* around this place */
	int macro_count;
	int guarded;                 /* inside an if or a choice, which may ask whether a filter is there before using it */
	const struct tn_jnode *unknown; /* the first filter or test outside of those that is not there */
};

tn_status tn_jp_node(struct tn_jparser *p, enum tn_jnode_kind kind, struct tn_jnode **out);
tn_status tn_jp_push(struct tn_jparser *p, struct tn_jnode ***items, size_t *count, size_t *capacity, struct tn_jnode *node);
int tn_jt_is_op(const struct tn_jtoken *token, const char *op);
int tn_jt_is_name(const struct tn_jtoken *token, const char *name);
int tn_jp_is_op(const struct tn_jparser *p, const char *op);
int tn_jp_is_name(const struct tn_jparser *p, const char *name);
int tn_jp_skip_op(struct tn_jparser *p, const char *op);
int tn_jp_skip_name(struct tn_jparser *p, const char *name);
tn_status tn_jp_expect_op(struct tn_jparser *p, const char *op);
tn_status tn_jp_expect_name(struct tn_jparser *p, struct tn_jstr **out);
tn_status tn_jp_unexpected(struct tn_jparser *p, const char *expected);
void tn_jp_step(struct tn_jparser *p);

tn_status tn_jp_expression(struct tn_jparser *p, int with_choice, struct tn_jnode **out);
/* One expression, or several with commas as a tuple. `until`: a name that ends it, or NULL. */
tn_status tn_jp_tuple(struct tn_jparser *p, int with_choice, const char *until, int in_brackets, struct tn_jnode **out);
/* What may stand left of = or between for and in. */
tn_status tn_jp_target(struct tn_jparser *p, const char *until, int with_fields, struct tn_jnode **out);
/* `| a | b(...)` after `node`; `inline_first`: the first without its bar. */
tn_status tn_jp_filters(struct tn_jparser *p, struct tn_jnode *node, int inline_first, struct tn_jnode **out);

/* Finds for each scope of a parsed program the names that begin undefined. */
tn_status tn_jinja_symbols(struct tn_jprogram *program);
/* Parses into *program, whose `j` holds the arena. */
tn_status tn_jinja_parse(struct tn_jprogram *program, const char *text, size_t bytes);

#endif
