/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sha256.h"

#include "base/cpu.h"

#include <string.h>

static const uint32_t k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void add_block(struct tn_sha256 *h, const unsigned char *p)
{
	uint32_t w[64], s[8];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
		w[i] = w[i - 16] + a + w[i - 7] + b;
	}
	memcpy(s, h->state, sizeof s);
	for (int i = 0; i < 64; i++) {
		uint32_t e = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
		uint32_t t1 = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t a = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
		uint32_t t2 = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 7 * sizeof *s);
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h->state[i] += s[i];
}

#if defined(__x86_64__)
#include <immintrin.h>

/* Four rounds with the words w. a holds A, B, E and F, c holds C, D, G and H. */
__attribute__((target("sha,sse4.1"))) static inline void four_rounds(__m128i *a, __m128i *c, __m128i w, const uint32_t *constants)
{
	__m128i sum = _mm_add_epi32(w, _mm_loadu_si128((const __m128i *)(const void *)constants));
	*c = _mm_sha256rnds2_epu32(*c, *a, sum);
	*a = _mm_sha256rnds2_epu32(*a, *c, _mm_shuffle_epi32(sum, 0x0E));
}

/* The four words after sixteen. */
__attribute__((target("sha,sse4.1"))) static inline __m128i next_words(__m128i w0, __m128i w1, __m128i w2, __m128i w3)
{
	__m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));
	return _mm_sha256msg2_epu32(sum, w3);
}

__attribute__((target("sha,sse4.1"))) static void add_blocks_sha(struct tn_sha256 *h, const unsigned char *p, size_t count)
{
	const __m128i turn = _mm_set_epi64x(0x0C0D0E0F08090A0B, 0x0405060700010203);
	__m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)h->state), 0xB1);
	__m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(h->state + 4)), 0x1B);
	__m128i a = _mm_alignr_epi8(low, high, 8), c = _mm_blend_epi16(high, low, 0xF0);
	for (; count; count--, p += 64) {
		const __m128i *block = (const __m128i *)(const void *)p;
		__m128i a_before = a, c_before = c;
		__m128i w0 = _mm_shuffle_epi8(_mm_loadu_si128(block), turn);
		__m128i w1 = _mm_shuffle_epi8(_mm_loadu_si128(block + 1), turn);
		__m128i w2 = _mm_shuffle_epi8(_mm_loadu_si128(block + 2), turn);
		__m128i w3 = _mm_shuffle_epi8(_mm_loadu_si128(block + 3), turn);
		for (int i = 0; i < 64; i += 16) {
			four_rounds(&a, &c, w0, k + i);
			w0 = next_words(w0, w1, w2, w3);
			four_rounds(&a, &c, w1, k + i + 4);
			w1 = next_words(w1, w2, w3, w0);
			four_rounds(&a, &c, w2, k + i + 8);
			w2 = next_words(w2, w3, w0, w1);
			four_rounds(&a, &c, w3, k + i + 12);
			w3 = next_words(w3, w0, w1, w2);
		}
		a = _mm_add_epi32(a, a_before);
		c = _mm_add_epi32(c, c_before);
	}
	low = _mm_shuffle_epi32(a, 0x1B);
	high = _mm_shuffle_epi32(c, 0xB1);
	_mm_storeu_si128((__m128i *)(void *)h->state, _mm_blend_epi16(low, high, 0xF0));
	_mm_storeu_si128((__m128i *)(void *)(h->state + 4), _mm_alignr_epi8(high, low, 8));
}
#else
static void add_blocks_sha(struct tn_sha256 *h, const unsigned char *p, size_t count)
{
	for (; count; count--, p += 64)
		add_block(h, p);
}
#endif

static void add_blocks(struct tn_sha256 *h, const unsigned char *p, size_t count)
{
	if (h->by_instructions) {
		add_blocks_sha(h, p, count);
		return;
	}
	for (; count; count--, p += 64)
		add_block(h, p);
}

void tn_sha256_init(struct tn_sha256 *h)
{
	*h = (struct tn_sha256){ .state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
					    0x5be0cd19 },
				  .by_instructions = (tn_cpu_features() & TN_CPU_SHA) != 0 };
}

void tn_sha256_add(struct tn_sha256 *h, const void *bytes, size_t n)
{
	const unsigned char *p = bytes;
	while (n) {
		size_t used = h->bytes % 64, take = 64 - used < n ? 64 - used : n;
		if (used == 0 && n >= 64) {
			take = n - n % 64;
			add_blocks(h, p, take / 64);
		} else {
			memcpy(h->block + used, p, take);
			if (used + take == 64)
				add_blocks(h, h->block, 1);
		}
		h->bytes += take;
		p += take;
		n -= take;
	}
}

void tn_sha256_add_u64(struct tn_sha256 *h, uint64_t n)
{
	unsigned char bytes[8];
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(n >> (8 * i));
	tn_sha256_add(h, bytes, sizeof bytes);
}

void tn_sha256_add_text(struct tn_sha256 *h, const char *text)
{
	tn_sha256_add(h, text, strlen(text) + 1);
}

void tn_sha256_finish(struct tn_sha256 *h, unsigned char digest[32])
{
	uint64_t bits = h->bytes * 8;
	static const unsigned char padding[64] = { 0x80 };
	unsigned char length[8];
	for (int i = 0; i < 8; i++)
		length[i] = (unsigned char)(bits >> (56 - 8 * i));
	tn_sha256_add(h, padding, 1 + (119 - h->bytes % 64) % 64);
	tn_sha256_add(h, length, sizeof length);
	for (int i = 0; i < 32; i++)
		digest[i] = (unsigned char)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}
