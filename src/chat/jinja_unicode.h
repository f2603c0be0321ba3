/* Characters as Python's str knows them: white space, cases, classes. The tables are those of Python 3.11 (Unicode 14), so that
 * texts come out as there; tokenizers go by other rules (tokenizer/chars.h). */
#ifndef TN_JINJA_UNICODE_H
#define TN_JINJA_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* The code point at *p, which is valid UTF-8; moves *p behind it. */
uint32_t tn_u_next(const char **p);
/* Its UTF-8 into `to` (4 bytes of room); the number of bytes. */
size_t tn_u_write(uint32_t code, char *to);

int tn_u_is_space(uint32_t code);
/* Bytes of the text without the white space at its end, respectively the white space at its begin. */
size_t tn_u_rstrip(const char *text, size_t n);
size_t tn_u_lstrip(const char *text, size_t n);

enum tn_u_case { TN_U_LOWER, TN_U_UPPER, TN_U_TITLE, TN_U_FOLD };
/* The full mapping: up to 3 code points; their number. */
int tn_u_map(uint32_t code, enum tn_u_case to, uint32_t out[3]);

enum tn_u_class {
	TN_U_ALPHA = 1, TN_U_DECIMAL = 2, TN_U_DIGIT = 4, TN_U_NUMERIC = 8, TN_U_PRINTABLE = 16, TN_U_IS_LOWER = 32,
	TN_U_IS_UPPER = 64, TN_U_IS_TITLE = 128
};
/* The classes a character is in. */
unsigned tn_u_classes(uint32_t code);
/* The value of a decimal digit, or -1. */
int tn_u_decimal(uint32_t code);

#endif
