/* qsort for lists that are mostly in their order already, as the names in a file that a library has written: one comparison
 * for each element then. */
#ifndef TN_SORT_H
#define TN_SORT_H

#include <stdlib.h>

static inline void tn_sort(void *list, size_t count, size_t size, int (*compare)(const void *, const void *))
{
	const char *at = list;
	for (size_t i = 1; i < count; i++)
		if (compare(at + (i - 1) * size, at + i * size) > 0) {
			qsort(list, count, size, compare);
			return;
		}
}

#endif
