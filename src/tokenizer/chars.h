/* Characters of UTF-8 texts, and what Unicode says of them. Texts here are UTF-8 throughout: who takes them in checks. */
#ifndef TN_CHARS_H
#define TN_CHARS_H

#include "base/text.h"

#include <stdint.h>

/* The bytes of the character that begins with this byte. */
static inline size_t tn_char_bytes(const char *p)
{
	unsigned char c = (unsigned char)*p;
	return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* The character at p; *bytes gets its length. */
static inline int32_t tn_char_at(const char *p, size_t *bytes)
{
	const unsigned char *u = (const unsigned char *)p;
	*bytes = tn_char_bytes(p);
	switch (*bytes) {
	case 1: return u[0];
	case 2: return (u[0] & 0x1F) << 6 | (u[1] & 0x3F);
	case 3: return (u[0] & 0x0F) << 12 | (u[1] & 0x3F) << 6 | (u[2] & 0x3F);
	default: return (u[0] & 0x07) << 18 | (u[1] & 0x3F) << 12 | (u[2] & 0x3F) << 6 | (u[3] & 0x3F);
	}
}

/* The last character of the n > 0 bytes at p. */
int32_t tn_char_last(const char *p, size_t n, size_t *bytes);

/* Writes 1 to 4 bytes and returns how many. */
size_t tn_char_put(char dst[4], int32_t c);
tn_status tn_text_add_char(struct tn_text *text, int32_t c, struct tn_error *err);

int tn_char_is_space(int32_t c);          /* White_Space */
/* Classes are those of the library's tables: char_classes.def. */
int tn_char_is_word(int32_t c);           /* \w of Rust's regex: letters, marks, digits, connectors, joiners */
int tn_char_is_numeric(int32_t c);        /* N */
int tn_char_is_punctuation(int32_t c);    /* P, and the symbols of ASCII */
int tn_char_is_mark(int32_t c);           /* M */
int tn_char_is_nonspacing(int32_t c);     /* Mn */
int tn_char_is_control(int32_t c);        /* C, without tab and line ends */
int tn_char_is_chinese(int32_t c);        /* the blocks that BERT sets apart */

/* Small letters; U+0130 gives two. Returns how many characters were put into dst. */
size_t tn_char_lower(int32_t c, int32_t dst[2]);

/* A character that PCRE2's tables lack, as one of the same category and length in UTF-8 that they have; others as they are. */
int32_t tn_char_elder(int32_t c);

/* The character of the byte-level alphabet that stands for a byte, and back (-1: none). */
int32_t tn_byte_char(unsigned char byte);
int tn_char_byte(int32_t c);

/* The bytes of the first user-perceived character of the n > 0 bytes at p. */
size_t tn_grapheme_bytes(const char *p, size_t n);

#endif
