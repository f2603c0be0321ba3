/* A strict JSON reader that builds nothing: it hands out one token after another, with byte positions.
 *
 * For headers and indexes, which can hold a million names and come from strangers: a document tree of a 100 MB header
 * would take gigabytes, and jansson reads -0 as 0 and does not say at which byte a name stands twice. Small
 * configuration files go through jansson (store/json_doc.h).
 *
 * Strict: RFC 8259, UTF-8, no lone surrogates, no raw control characters, at most 128 levels, no key twice in an object.
 */
#ifndef TN_JSON_SCAN_H
#define TN_JSON_SCAN_H

#include "base/arena.h"
#include "tenon/base.h"

#include <string.h>

struct tn_json_scan {
	tn_context *ctx;        /* NULL: no heap is used, and the keys of skipped objects are not compared */
	const char *text;       /* checked to be UTF-8 by the caller */
	size_t length, pos;
	const char *where;      /* file name for errors */
	uint64_t file_pos;      /* of text[0] in the file, for errors */
};

/* A string in the text, between its quotes. */
struct tn_json_string {
	size_t begin, length;   /* bytes of text, escapes not yet decoded */
	int escaped;
};

static inline void tn_json_skip_space(struct tn_json_scan *scan)
{
	size_t at = scan->pos;
	while (at < scan->length &&
	       (scan->text[at] == ' ' || scan->text[at] == '\t' || scan->text[at] == '\n' || scan->text[at] == '\r'))
		at++;
	scan->pos = at;
}

/* The next byte that is not white space, '\0' at the end. */
static inline char tn_json_peek(struct tn_json_scan *scan)
{
	tn_json_skip_space(scan);
	return scan->pos < scan->length ? scan->text[scan->pos] : '\0';
}

/* Takes `c`, or says what stands there and that `expected` was expected. */
tn_status tn_json_take(struct tn_json_scan *scan, char c, const char *expected, struct tn_error *err);
/* After an element: 1 in *more when a comma was taken, 0 when `close` was. */
tn_status tn_json_next(struct tn_json_scan *scan, char close, int *more, struct tn_error *err);

tn_status tn_json_take_string(struct tn_json_scan *scan, struct tn_json_string *out, struct tn_error *err);
/* An integer written without sign, fraction or exponent, up to 2^64-1. */
tn_status tn_json_take_u64(struct tn_json_scan *scan, uint64_t *out, struct tn_error *err);
tn_status tn_json_take_null(struct tn_json_scan *scan, struct tn_error *err);
/* Any value, checked and thrown away. */
tn_status tn_json_skip_value(struct tn_json_scan *scan, struct tn_error *err);
/* Only white space may follow. */
tn_status tn_json_finish(struct tn_json_scan *scan, struct tn_error *err);

/* The decoded string in the arena. A NUL character in it is TN_E_FORMAT: it cannot be a name in C. */
tn_status tn_json_decode(const struct tn_json_scan *scan, const struct tn_json_string *string, struct tn_arena *arena,
			 const char **out, struct tn_error *err);
/* The same with its length, and with NUL characters allowed. */
tn_status tn_json_decode_any(const struct tn_json_scan *scan, const struct tn_json_string *string, struct tn_arena *arena,
			     const char **out, size_t *length, struct tn_error *err);
/* 1 when the decoded string equals `text`. */
int tn_json_equals_escaped(const struct tn_json_scan *scan, const struct tn_json_string *string, const char *text);
static inline int tn_json_equals(const struct tn_json_scan *scan, const struct tn_json_string *string, const char *text)
{
	if (string->escaped)
		return tn_json_equals_escaped(scan, string, text);
	return string->length == strlen(text) && memcmp(scan->text + string->begin, text, string->length) == 0;
}

/* An error at the scan's position. */
tn_status tn_json_fail(const struct tn_json_scan *scan, size_t at, struct tn_error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
