/* Eight codes of 1 to 8 bits between the low bits of a word, one behind the other, and the eight bytes of another. Codes hold no
 * bits beyond their own. */
#ifndef TN_EIGHT_CODES_H
#define TN_EIGHT_CODES_H

#include "kernels/quant.h"

#include <stdint.h>

#ifdef __BMI2__
#include <immintrin.h>
#endif

TN_INLINE uint64_t spread_codes(uint64_t word, unsigned bits)
{
	uint64_t mask = (1u << bits) - 1;
#ifdef __BMI2__
	return _pdep_u64(word, mask * 0x0101010101010101u);
#else
	uint64_t bytes = 0;
	for (unsigned k = 0; k < 8; k++)
		bytes |= (word >> k * bits & mask) << 8 * k;
	return bytes;
#endif
}

TN_INLINE uint64_t gather_codes(uint64_t bytes, unsigned bits)
{
#ifdef __BMI2__
	return _pext_u64(bytes, ((1u << bits) - 1) * 0x0101010101010101u);
#else
	uint64_t word = 0;
	for (unsigned k = 0; k < 8; k++)
		word |= (bytes >> 8 * k & 0xFF) << k * bits;
	return word;
#endif
}

#endif
