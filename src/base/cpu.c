/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#include <sched.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>

/* No compiler's __builtin_cpu_supports knows it everywhere. */
static int has_sha(void)
{
	unsigned a, b = 0, c, d;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

/* Nor this one. */
static int has_avx_vnni(void)
{
	unsigned a = 0, b, c, d;
	return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

/* Linux keeps no tiles for a process until it asks, once and for all of its threads. */
static int has_amx(void)
{
	enum { OSXSAVE = 1 << 27, TILE_STATE = 3 << 17, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, REQUEST = 0x1023, TILE_DATA = 18 };
	unsigned a, b, c = 0, d = 0, states, high;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
		return 0;
	__asm__("xgetbv" : "=a"(states), "=d"(high) : "c"(0));
	if ((states & TILE_STATE) != TILE_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return 0;
	return (d & AMX_BF16) && (d & AMX_TILE) && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

/* __builtin_cpu_supports asks CPUID and XCR0: a feature that the system does not save counts as absent. */
unsigned tn_cpu_features(void)
{
	unsigned f = 0;
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
		f |= TN_CPU_AVX2; /* every CPU with avx2 has f16c */
	if ((f & TN_CPU_AVX2) && has_avx_vnni())
		f |= TN_CPU_AVX_VNNI;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
		f |= TN_CPU_AVX512;
	if ((f & TN_CPU_AVX512) && __builtin_cpu_supports("avx512vnni"))
		f |= TN_CPU_AVX512_VNNI;
	if ((f & TN_CPU_AVX512) && __builtin_cpu_supports("avx512bf16"))
		f |= TN_CPU_AVX512_BF16;
	if ((f & TN_CPU_AVX512_BF16) && !__builtin_cpu_is("intel"))
		f |= TN_CPU_FAST_PAIRS;
	if ((f & TN_CPU_AVX512_BF16) && has_amx())
		f |= TN_CPU_AMX;
	if (has_sha() && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1"))
		f |= TN_CPU_SHA;
	return f;
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static int has_dot(void)
{
	return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}
#else
/* What the compiler was told: other systems ask in ways of their own. */
static int has_dot(void)
{
#if defined(__ARM_FEATURE_DOTPROD)
	return 1;
#else
	return 0;
#endif
}
#endif

/* NEON is part of every ARMv8-A. */
unsigned tn_cpu_features(void)
{
	return has_dot() ? TN_CPU_NEON | TN_CPU_NEON_DOT : TN_CPU_NEON;
}
#else
unsigned tn_cpu_features(void)
{
	return 0;
}
#endif

unsigned tn_cpu_count(void)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
		return (unsigned)CPU_COUNT(&set);
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (unsigned)n : 1;
}
