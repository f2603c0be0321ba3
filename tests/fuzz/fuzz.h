/* What every fuzz target defines. */
#ifndef TENON_FUZZ_H
#define TENON_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Aborts when a property does not hold; always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Such a property; the text says what else was found. */
static inline void require(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz: %s\n", what);
	abort();
}

#endif
