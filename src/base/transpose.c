/* SPDX-License-Identifier: Apache-2.0 */
#include "base/transpose.h"

#include <string.h>

/* A square of this many elements stays in the nearest cache. */
enum { TILE = 32 };

/* `unit` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void exchange(unsigned char *dst, const unsigned char *src, size_t rows,
							    size_t cols, size_t unit)
{
	for (size_t i = 0; i < rows; i += TILE)
		for (size_t j = 0; j < cols; j += TILE)
			for (size_t c = j; c < j + TILE && c < cols; c++)
				for (size_t r = i; r < i + TILE && r < rows; r++)
					memcpy(dst + (c * rows + r) * unit, src + (r * cols + c) * unit, unit);
}

void tn_transpose(void *dst, const void *src, size_t rows, size_t cols, size_t unit)
{
	switch (unit) {
	case 1: exchange(dst, src, rows, cols, 1); break;
	case 2: exchange(dst, src, rows, cols, 2); break;
	case 4: exchange(dst, src, rows, cols, 4); break;
	default: exchange(dst, src, rows, cols, 8); break;
	}
}
