/* Values of a template: what Python's would be, in one arena that lives as long as the rendering.
 *
 * All are immutable except namespaces and iterators. Strings are UTF-8 and count code points, as Python's do. */
#ifndef TN_JINJA_VALUE_H
#define TN_JINJA_VALUE_H

#include "base/arena.h"
#include "base/error.h"

#include <stdint.h>

enum tn_jkind {
	TN_J_ABSENT,     /* an argument that was not given; no template sees it */
	TN_J_UNDEFINED,
	TN_J_NONE,
	TN_J_BOOL,
	TN_J_INT,
	TN_J_BIG,        /* a whole number beyond 64 bits, as its digits: carried and printed */
	TN_J_FLOAT,
	TN_J_STRING,
	TN_J_LIST,
	TN_J_TUPLE,
	TN_J_DICT,
	TN_J_VIEW,       /* what keys(), values() and items() of a dict give */
	TN_J_RANGE,
	TN_J_ITER,       /* walked once: what map, select and their like give */
	TN_J_NAMESPACE,
	TN_J_FUNC,       /* a global, a method with its object, a macro */
	TN_J_LOOP,       /* the loop variable */
	TN_J_CYCLER,
	TN_J_JOINER
};

struct tn_jv {
	enum tn_jkind kind;
	union {
		int64_t integer; /* TN_J_BOOL, TN_J_INT */
		double real;
		struct tn_jstr *str; /* TN_J_STRING, TN_J_BIG */
		struct tn_jlist *list; /* TN_J_LIST, TN_J_TUPLE */
		struct tn_jdict *dict; /* TN_J_DICT, TN_J_NAMESPACE */
		struct tn_jview *view;
		struct tn_jrange *range;
		struct tn_jiter *iter;
		struct tn_jfunc *func;
		struct tn_jloop *loop;
		struct tn_jcycler *cycler; /* TN_J_CYCLER, TN_J_JOINER */
		struct tn_jundefined *undefined;
	} as;
};

/* Room behind a string that was put together, so that adding to it again and again does not copy it each time. */
struct tn_jroom {
	char *begin;
	size_t used, capacity;
};

struct tn_jstr {
	const char *text;
	size_t bytes, chars;
	int markup;              /* from the filters safe and escape: + escapes what is added to it */
	struct tn_jroom *room;
};

struct tn_jlist {
	struct tn_jv *items;
	size_t count;
	int grouped;             /* of groupby: has .grouper and .list */
};

struct tn_jentry {
	struct tn_jv key, value;
	uint64_t hash;
};

struct tn_jdict {
	struct tn_jentry *entries; /* in the order of their first setting */
	size_t count, capacity;
	uint32_t *slots;           /* entry + 1, 0: free; NULL while the dict is small */
	size_t slot_count;         /* a power of two */
};

enum tn_jview_kind { TN_J_KEYS, TN_J_VALUES, TN_J_ITEMS };
struct tn_jview {
	enum tn_jview_kind what;
	struct tn_jdict *dict;
};

struct tn_jrange {
	int64_t start, stop, step;
	size_t count;
};

/* Why a value is undefined, for the error when it is used. */
struct tn_jundefined {
	const char *hint;        /* the whole reason, or NULL */
	struct tn_jv object;     /* TN_J_ABSENT: a variable */
	struct tn_jv name;
};

struct tn_jcycler {
	struct tn_jlist *items;  /* of a joiner: one separator */
	size_t at;
};

struct tn_jprogram;
struct tn_jscope;
struct tn_jbuffer;

/* One compilation or one rendering: its memory, its limits and where it is. */
struct tn_j {
	struct tn_arena arena;
	size_t used, limit;      /* bytes taken from the arena, and how many may be */
	uint64_t steps, most_steps;
	int depth;
	struct tn_error *err;
	const char *where;       /* the template's name */
	int line;

	/* of a rendering */
	const struct tn_jprogram *program;
	struct tn_jdict *variables;
	struct tn_jscope *root;
	struct tn_jbuffer *out, *page;     /* where output goes, and the outermost of those places */
	size_t page_chars, page_counted;   /* code points among the first page_counted bytes of page */
	const char *now;                   /* of strftime_now, or NULL */
	struct tn_chat_span *spans;
	size_t span_count, span_capacity;
	struct tn_jstr *refusal;           /* the text of raise_exception */
};

/* ---- memory, limits, errors (jinja_value.c) --------------------------------------------------------------- */

tn_status tn_j_alloc(struct tn_j *j, size_t bytes, void *out);
tn_status tn_j_array(struct tn_j *j, size_t count, size_t size, void *out);
/* A buffer twice as large, or large enough for `needed`, with what it had. */
tn_status tn_j_grow(struct tn_j *j, void *array, size_t *capacity, size_t count, size_t needed, size_t size);
/* Counts work, so that no template runs for ever: one unit is about a small expression or 64 bytes looked at. */
tn_status tn_j_work(struct tn_j *j, size_t units);
/* Around everything that calls itself. */
tn_status tn_j_enter(struct tn_j *j);
static inline void tn_j_leave(struct tn_j *j) { j->depth--; }
/* An error at the line that is being worked on. */
tn_status tn_j_fail(struct tn_j *j, tn_status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- making values ---------------------------------------------------------------------------------------- */

static inline struct tn_jv tn_jv_absent(void) { return (struct tn_jv){ .kind = TN_J_ABSENT, .as.integer = 0 }; }
static inline struct tn_jv tn_jv_none(void) { return (struct tn_jv){ .kind = TN_J_NONE, .as.integer = 0 }; }
static inline struct tn_jv tn_jv_bool(int b) { return (struct tn_jv){ .kind = TN_J_BOOL, .as.integer = b != 0 }; }
static inline struct tn_jv tn_jv_int(int64_t i) { return (struct tn_jv){ .kind = TN_J_INT, .as.integer = i }; }
static inline struct tn_jv tn_jv_float(double f) { return (struct tn_jv){ .kind = TN_J_FLOAT, .as.real = f }; }
static inline struct tn_jv tn_jv_str(struct tn_jstr *s) { return (struct tn_jv){ .kind = TN_J_STRING, .as.str = s }; }
static inline struct tn_jv tn_jv_list(struct tn_jlist *l) { return (struct tn_jv){ .kind = TN_J_LIST, .as.list = l }; }
static inline struct tn_jv tn_jv_tuple(struct tn_jlist *l) { return (struct tn_jv){ .kind = TN_J_TUPLE, .as.list = l }; }
static inline struct tn_jv tn_jv_dict(struct tn_jdict *d) { return (struct tn_jv){ .kind = TN_J_DICT, .as.dict = d }; }

static inline int tn_jv_is_string(struct tn_jv v) { return v.kind == TN_J_STRING; }
static inline int tn_jv_is_whole(struct tn_jv v) { return v.kind == TN_J_INT || v.kind == TN_J_BOOL; }
static inline int tn_jv_is_given(struct tn_jv v) { return v.kind != TN_J_ABSENT; }

/* Of n bytes of UTF-8: copied, or kept where they are (they must live as long as the arena). */
tn_status tn_j_string(struct tn_j *j, const char *text, size_t n, struct tn_jv *out);
tn_status tn_j_string_kept(struct tn_j *j, const char *text, size_t n, struct tn_jv *out);
static inline tn_status tn_j_text(struct tn_j *j, const char *text, struct tn_jv *out)
{
	return tn_j_string(j, text, __builtin_strlen(text), out);
}
/* a + b; grows a in place where nothing stands behind it. */
tn_status tn_j_concat(struct tn_j *j, const struct tn_jstr *a, const struct tn_jstr *b, struct tn_jv *out);
/* A list with room for n items, all absent. */
tn_status tn_j_list(struct tn_j *j, size_t n, struct tn_jlist **out);
tn_status tn_j_pair(struct tn_j *j, struct tn_jv a, struct tn_jv b, struct tn_jv *out);
tn_status tn_j_undefined_name(struct tn_j *j, struct tn_jstr *name, struct tn_jv *out);
tn_status tn_j_undefined_in(struct tn_j *j, struct tn_jv object, struct tn_jv name, struct tn_jv *out);
/* `hint` must outlive the rendering. */
tn_status tn_j_undefined_hint(struct tn_j *j, const char *hint, struct tn_jv *out);
/* The error for using an undefined value. */
tn_status tn_j_fail_undefined(struct tn_j *j, struct tn_jv v);

/* ---- dicts (jinja_dict.c) --------------------------------------------------------------------------------- */

tn_status tn_jd_new(struct tn_j *j, struct tn_jdict **out);
/* Keys that Python cannot hash are an error. */
tn_status tn_jd_set(struct tn_j *j, struct tn_jdict *dict, struct tn_jv key, struct tn_jv value);
/* *out absent when there is no such key. */
tn_status tn_jd_get(struct tn_j *j, const struct tn_jdict *dict, struct tn_jv key, struct tn_jv *out);
tn_status tn_jd_set_text(struct tn_j *j, struct tn_jdict *dict, const char *key, struct tn_jv value);
tn_status tn_jd_get_text(struct tn_j *j, const struct tn_jdict *dict, const char *key, struct tn_jv *out);
tn_status tn_jd_copy(struct tn_j *j, const struct tn_jdict *from, struct tn_jdict **out);
/* What a view shows of one entry. */
tn_status tn_jd_show(struct tn_j *j, const struct tn_jview *view, size_t i, struct tn_jv *out);

/* ---- comparing (jinja_compare.c) -------------------------------------------------------------------------- */

tn_status tn_j_equal(struct tn_j *j, struct tn_jv a, struct tn_jv b, int *out);
/* -1, 0 or 1; 2 where one is not a number. TypeError as Python has it, `op` being the operator it would name. */
tn_status tn_j_order(struct tn_j *j, struct tn_jv a, struct tn_jv b, const char *op, int *out);
tn_status tn_j_hash(struct tn_j *j, struct tn_jv v, uint64_t *out);
int tn_j_truth(struct tn_jv v);
int tn_js_is(const struct tn_jstr *s, const char *text);
int tn_js_same(const struct tn_jstr *a, const struct tn_jstr *b);
/* "str", "NoneType", "list": as Python names the type. */
const char *tn_j_type_name(struct tn_jv v);
/* The number as a double; the value is one. */
double tn_j_to_double(struct tn_jv v);
static inline int tn_jv_is_number(struct tn_jv v)
{
	return v.kind == TN_J_BOOL || v.kind == TN_J_INT || v.kind == TN_J_BIG || v.kind == TN_J_FLOAT;
}

#endif
