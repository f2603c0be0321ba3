/* Arithmetic on sizes that come from files. Each returns 1 when the result does not fit, and then *out is unspecified. */
#ifndef TN_CHECKED_H
#define TN_CHECKED_H

#include <stddef.h>
#include <stdint.h>

static inline int tn_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	return __builtin_mul_overflow(a, b, out);
}

static inline int tn_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	return __builtin_add_overflow(a, b, out);
}

static inline int tn_mul_size(size_t a, size_t b, size_t *out)
{
	return __builtin_mul_overflow(a, b, out);
}

static inline int tn_add_size(size_t a, size_t b, size_t *out)
{
	return __builtin_add_overflow(a, b, out);
}

/* a rounded up to a multiple of the power of two `align`. */
static inline size_t tn_align_up(size_t a, size_t align)
{
	return (a + align - 1) & ~(align - 1);
}

static inline uint64_t tn_ceil_div(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

static inline uint64_t tn_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t tn_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline size_t tn_min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

static inline size_t tn_max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

#endif
