/* A growing text. On failure it keeps what it had. */
#ifndef TN_TEXT_H
#define TN_TEXT_H

#include "base/context.h"

struct tn_text {
	tn_context *ctx;
	char *data;       /* NUL at data[length]; NULL while empty */
	size_t length, capacity;
};

static inline void tn_text_init(struct tn_text *text, tn_context *ctx)
{
	*text = (struct tn_text){ .ctx = ctx };
}

void tn_text_release(struct tn_text *text);
tn_status tn_text_add(struct tn_text *text, const char *bytes, size_t n, struct tn_error *err);
tn_status tn_text_puts(struct tn_text *text, const char *s, struct tn_error *err);
tn_status tn_text_printf(struct tn_text *text, struct tn_error *err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Bytes before the first that is not part of well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms, at most
 * U+10FFFF); n when all is well. */
size_t tn_utf8_valid_prefix(const char *bytes, size_t n);

/* 1 when s begins, respectively ends, with the other text. */
int tn_starts_with(const char *s, const char *prefix);
int tn_ends_with(const char *s, const char *suffix);

/* The two texts in one; 0 when `room` bytes are too few for them and a NUL. */
int tn_join(char *dst, size_t room, const char *a, size_t a_bytes, const char *b, size_t b_bytes);

#endif
