/* Numbers as text with a decimal point, whatever locale the program that uses the library has set: strtod and printf of the C
 * library follow it, and files, templates and messages must not. */
#ifndef TN_NUMERAL_H
#define TN_NUMERAL_H

#include <stdarg.h>
#include <stddef.h>

/* strtod, snprintf and vsnprintf in the locale "C". */
double tn_strtod(const char *text, char **end);
int tn_snprintf(char *dst, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int tn_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list args) __attribute__((format(printf, 3, 0)));

#endif
