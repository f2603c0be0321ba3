/* Rows and columns exchanged. */
#ifndef TN_TRANSPOSE_H
#define TN_TRANSPOSE_H

#include <stddef.h>

/* src [rows, cols] -> dst [cols, rows], elements of `unit` bytes: 1, 2, 4 or 8. */
void tn_transpose(void *dst, const void *src, size_t rows, size_t cols, size_t unit);

#endif
