/* What evaluating shares: scopes, calls, iterators, attributes, filters and tests. */
#ifndef TN_JINJA_CALL_H
#define TN_JINJA_CALL_H

#include "chat/jinja_ast.h"
#include "chat/jinja_print.h"

/* ---- scopes ----------------------------------------------------------------------------------------------- */

struct tn_jbinding {
	const struct tn_jstr *name;  /* by its one object in the program */
	struct tn_jv value;
	struct tn_jbinding *next;
};

struct tn_jscope {
	struct tn_jscope *outer;
	struct tn_jbinding *first;
};

/* `unset`: names that begin undefined in it. */
tn_status tn_j_scope(struct tn_j *j, struct tn_jscope *outer, const struct tn_jnames *unset, struct tn_jscope **out);
tn_status tn_j_bind(struct tn_j *j, struct tn_jscope *scope, const struct tn_jstr *name, struct tn_jv value);
/* A variable, a global, or undefined. */
tn_status tn_j_lookup(struct tn_j *j, const struct tn_jscope *scope, struct tn_jstr *name, struct tn_jv *out);

/* ---- calls ------------------------------------------------------------------------------------------------ */

struct tn_jargs {
	size_t count, named_count;
	struct tn_jv *items, *named;
	struct tn_jstr **names;
};

/* A method gets its object as `self`. */
typedef tn_status tn_jbuiltin(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out);

struct tn_jfunc {
	const char *name;
	tn_jbuiltin *call;           /* NULL: a macro */
	struct tn_jv self;
	const struct tn_jmacro *macro;
	struct tn_jscope *scope;     /* where the macro was defined */
};

tn_status tn_j_call(struct tn_j *j, struct tn_jv callee, const struct tn_jargs *args, struct tn_jv *out);
tn_status tn_j_function(struct tn_j *j, const char *name, tn_jbuiltin *call, struct tn_jv self, struct tn_jv *out);

/* Sorts arguments into parameters: out[i] is absent when there is none. `names` ends with NULL; the first `required` must
 * be given. A name that begins with '/' takes no keyword. */
tn_status tn_j_parameters(struct tn_j *j, const char *function, const struct tn_jargs *args, const char *const *names,
			  size_t required, struct tn_jv *out);
/* Arguments as whole numbers, texts and truths, or the default when absent. */
tn_status tn_j_want_int(struct tn_j *j, const char *function, struct tn_jv v, int64_t otherwise, int64_t *out);
tn_status tn_j_want_string(struct tn_j *j, const char *function, struct tn_jv v, struct tn_jstr **out);

/* ---- iterators (jinja_iter.c) ----------------------------------------------------------------------------- */

struct tn_jiter {
	/* *out absent: the end. */
	tn_status (*next)(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out);
	struct tn_jv source;
	size_t at;                   /* of a text: in bytes */
	int backwards;
	struct tn_jiter *inner;
	void *state;
};

/* TypeError when it cannot be walked. */
tn_status tn_j_iterate(struct tn_j *j, struct tn_jv v, struct tn_jiter **out);
int tn_j_is_iterable(struct tn_jv v);
tn_status tn_j_iterate_back(struct tn_j *j, struct tn_jv v, struct tn_jiter **out);
tn_status tn_j_next(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out);
tn_status tn_j_iterator(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out);
/* list(v) */
tn_status tn_j_to_list(struct tn_j *j, struct tn_jv v, struct tn_jlist **out);
tn_status tn_j_rest(struct tn_j *j, struct tn_jiter *it, struct tn_jlist **out);
/* len(v); *known 0 when it has none. */
tn_status tn_j_length(struct tn_j *j, struct tn_jv v, size_t *out, int *known);
tn_status tn_j_contains(struct tn_j *j, struct tn_jv item, struct tn_jv in, int *out);

/* The value to sort by, of an item. */
typedef tn_status tn_jkey(struct tn_j *j, struct tn_jv item, void *user, struct tn_jv *out);
/* Stable; `list` is changed. */
tn_status tn_j_sort(struct tn_j *j, struct tn_jlist *list, tn_jkey *key, void *user, int reverse);
tn_status tn_j_first_of_pair(struct tn_j *j, struct tn_jv item, void *user, struct tn_jv *out);

/* ---- attributes and items (jinja_attribute.c) ------------------------------------------------------------- */

/* v.name, and v[key]: undefined when there is none. */
tn_status tn_j_attribute(struct tn_j *j, struct tn_jv v, struct tn_jv name, struct tn_jv *out);
tn_status tn_j_item(struct tn_j *j, struct tn_jv v, struct tn_jv key, struct tn_jv *out);
/* Attributes that are no keys: methods and the like; absent when there is none. */
tn_status tn_j_own_attribute(struct tn_j *j, struct tn_jv v, struct tn_jv name, struct tn_jv *out);
/* v[a:b:c]; absent parts are none. */
tn_status tn_j_slice(struct tn_j *j, struct tn_jv v, const struct tn_jv part[3], struct tn_jv *out);
/* The bytes of the code points from `from` to `to`, of a string. */
void tn_js_span(const struct tn_jstr *s, size_t from, size_t to, const char **begin, size_t *bytes);

struct tn_jmethod {
	const char *name;
	tn_jbuiltin *call;
};
extern const struct tn_jmethod tn_j_string_methods[], tn_j_string_more[], tn_j_list_methods[], tn_j_dict_methods[];

/* ---- loops (jinja_loop.c) --------------------------------------------------------------------------------- */

struct tn_jloop {
	struct tn_jv iterable;
	struct tn_jiter *it;
	size_t index;                /* from 1 */
	size_t depth;                /* from 1 */
	struct tn_jv before, current, after; /* absent where there is none */
	int peeked;                  /* `after` is what comes, absent at the end */
	size_t length;
	int length_known;
	struct tn_jv changed;        /* the last arguments of loop.changed, a tuple, or absent */
	const struct tn_jnode *node; /* of a recursive loop, to run it again */
	struct tn_jscope *scope;
};

tn_status tn_jl_length(struct tn_j *j, struct tn_jloop *loop, size_t *out);
tn_status tn_jl_next(struct tn_j *j, struct tn_jloop *loop, struct tn_jv *out);
tn_status tn_jl_attribute(struct tn_j *j, struct tn_jv loop, const struct tn_jstr *name, struct tn_jv *out);

/* ---- running (jinja_run.c, jinja_eval.c) ------------------------------------------------------------------ */

tn_status tn_j_eval(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *out);
enum tn_jflow { TN_JF_ON, TN_JF_BREAK, TN_JF_CONTINUE };
tn_status tn_j_run_body(struct tn_j *j, const struct tn_jnode *body, struct tn_jscope *scope, enum tn_jflow *flow);
tn_status tn_j_run_loop(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv iterable, size_t depth,
			enum tn_jflow *flow);
/* Runs with what it prints as a value. */
tn_status tn_j_capture(struct tn_j *j, const struct tn_jnode *body, struct tn_jscope *scope, struct tn_jv *out,
		       enum tn_jflow *flow);
tn_status tn_j_run_macro(struct tn_j *j, const struct tn_jfunc *macro, const struct tn_jargs *args, struct tn_jv *out);
tn_status tn_j_assign(struct tn_j *j, const struct tn_jnode *target, struct tn_jscope *scope, struct tn_jv value);
tn_status tn_j_arguments(struct tn_j *j, const struct tn_jcall *call, struct tn_jscope *scope, size_t room, struct tn_jargs *out);

/* ---- operators (jinja_number.c), filters, tests, globals ---------------------------------------------------- */

tn_status tn_j_binary(struct tn_j *j, enum tn_jop op, struct tn_jv a, struct tn_jv b, struct tn_jv *out);
tn_status tn_j_negate(struct tn_j *j, struct tn_jv v, int minus, struct tn_jv *out);
tn_status tn_j_compare(struct tn_j *j, enum tn_jop op, struct tn_jv a, struct tn_jv b, int *out);
tn_status tn_j_power(struct tn_j *j, struct tn_jv a, struct tn_jv b, struct tn_jv *out);

/* args->items[0] is the value. */
typedef tn_status tn_jfilter(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out);
struct tn_jfilter_entry {
	const char *name;
	tn_jfilter *call;
};
extern const struct tn_jfilter_entry tn_j_text_filters[], tn_j_number_filters[], tn_j_list_filters[], tn_j_lazy_filters[],
	tn_j_html_filters[];
tn_jfilter *tn_j_find_filter(const struct tn_jstr *name);
/* 1 also for those of Jinja2 that are refused when they are reached. */
int tn_j_knows_filter(const struct tn_jstr *name);
tn_status tn_j_filter(struct tn_j *j, const struct tn_jstr *name, const struct tn_jargs *args, struct tn_jv *out);
typedef tn_status tn_jtest(struct tn_j *j, const struct tn_jargs *args, int *out);
tn_jtest *tn_j_find_test(const struct tn_jstr *name);
tn_status tn_j_test(struct tn_j *j, const struct tn_jstr *name, const struct tn_jargs *args, int *out);
/* A global of that name; absent when there is none. */
tn_status tn_j_global(struct tn_j *j, const struct tn_jstr *name, struct tn_jv *out);

/* A path of attributes as the filters take it: "a.b.0", a number, none. */
struct tn_jpath {
	struct tn_jv parts[16];
	size_t count;
	struct tn_jv otherwise;      /* for what is missing; absent: undefined */
	int fold_case;               /* strings in lower case */
};
tn_status tn_j_path(struct tn_j *j, struct tn_jv attribute, struct tn_jpath *out);
tn_status tn_j_follow(struct tn_j *j, struct tn_jv item, void *path, struct tn_jv *out);

/* '%...' % args, and '...'.format(...) (jinja_format.c, jinja_percent.c) */
tn_status tn_j_percent(struct tn_j *j, const struct tn_jstr *format, struct tn_jv args, struct tn_jv *out);
tn_jbuiltin tn_j_str_format;
/* One value by a format specification, or by a letter of '%'. */
struct tn_jspec {
	uint32_t fill;
	char align, sign, type;      /* '\0': not given */
	int alternate, zero;
	char group;                  /* ',' or '_' between digits */
	int64_t width, precision;    /* -1: not given */
};
tn_status tn_j_format_value(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, const struct tn_jspec *spec);

/* Text in another case (jinja_string.c) */
tn_status tn_j_change_case(struct tn_j *j, const struct tn_jstr *s, int upper, struct tn_jv *out);
tn_status tn_j_capitalize(struct tn_j *j, const struct tn_jstr *s, struct tn_jv *out);
/* & < > ' " as HTML has them (jinja_html.c) */
tn_status tn_j_escape(struct tn_j *j, struct tn_jv v, struct tn_jv *out);
tn_status tn_js_strip(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *chars, int left, int right, struct tn_jv *out);
/* str.replace; most < 0: all */
tn_status tn_js_replace(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *from, const struct tn_jstr *to, int64_t most,
			struct tn_jv *out);
tn_status tn_js_splitlines(struct tn_j *j, const struct tn_jstr *s, int keep, struct tn_jv *out);

#endif
