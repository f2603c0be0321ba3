/* SPDX-License-Identifier: Apache-2.0 */
/* The most that one thread can add up with this instruction set, nothing read from memory: tiles of BF16 pairs where there is an
 * instruction for them, else dot products of them, else fused multiply-adds, else both apart. */
#include "kernels/isa_build.h"

#include <stddef.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { SUMS = 12 };

double TN_ISA_NAME(bench_peak)(size_t rounds, float *sink);

#if defined(__AMX_BF16__)
enum { OPERATIONS = 2 * 16 * 16 * 32 };
#elif defined(__AVX512BF16__)
typedef __m512 vec;
enum { OPERATIONS = 64 };
#define SPREAD(x) _mm512_set1_ps(x)
#define STEP(s, x, y) _mm512_dpbf16_ps(s, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(y))
#elif defined(__AVX512F__)
typedef __m512 vec;
enum { OPERATIONS = 32 };
#define SPREAD(x) _mm512_set1_ps(x)
#define STEP(s, x, y) _mm512_fmadd_ps(x, y, s)
#elif defined(__AVX2__)
typedef __m256 vec;
enum { OPERATIONS = 16 };
#define SPREAD(x) _mm256_set1_ps(x)
#define STEP(s, x, y) _mm256_fmadd_ps(x, y, s)
#else
typedef float vec __attribute__((vector_size(16)));
enum { OPERATIONS = 8 };
#define SPREAD(x) ((vec){ 0 } + (x))
#define STEP(s, x, y) ((s) + (x) * (y))
#endif

/* The number of operations done; *sink keeps the compiler from leaving them out. */
#if defined(__AMX_BF16__)
double TN_ISA_NAME(bench_peak)(size_t rounds, float *sink)
{
	static const struct {
		unsigned char palette, unused[15];
		unsigned short row_bytes[16];
		unsigned char rows[16];
	} config = { 1, { 0 }, { 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16 } };
	static const unsigned char pairs[1024];
	float sums[256];
	_tile_loadconfig(&config);
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	_tile_loadd(4, pairs, 64);
	_tile_loadd(5, pairs, 64);
	for (size_t n = 0; n < rounds * SUMS / 4; n++) {
		_tile_dpbf16ps(0, 4, 5);
		_tile_dpbf16ps(1, 4, 5);
		_tile_dpbf16ps(2, 4, 5);
		_tile_dpbf16ps(3, 4, 5);
	}
	_tile_stored(0, sums, 64);
	_tile_release();
	*sink += sums[0];
	return (double)rounds * SUMS * OPERATIONS;
}
#else
double TN_ISA_NAME(bench_peak)(size_t rounds, float *sink)
{
	const vec x = SPREAD(1e-3f), y = SPREAD(0.5f);
	vec a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
	for (size_t n = 0; n < rounds; n++) {
		a = STEP(a, x, y);
		b = STEP(b, x, y);
		c = STEP(c, x, y);
		d = STEP(d, x, y);
		e = STEP(e, x, y);
		f = STEP(f, x, y);
		g = STEP(g, x, y);
		h = STEP(h, x, y);
		i = STEP(i, x, y);
		j = STEP(j, x, y);
		k = STEP(k, x, y);
		l = STEP(l, x, y);
#if defined(__GNUC__) && defined(__x86_64__)
		__asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f));
		__asm__ volatile("" : "+x"(g), "+x"(h), "+x"(i), "+x"(j), "+x"(k), "+x"(l));
#endif
	}
	vec sum = a + b + c + d + e + f + g + h + i + j + k + l;
	*sink += sum[0];
	return (double)rounds * SUMS * OPERATIONS;
}
#endif
