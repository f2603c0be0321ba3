/* What this CPU and its system can run. The only place that asks. */
#ifndef TN_CPU_H
#define TN_CPU_H

enum {
	TN_CPU_AVX2 = 1 << 0,       /* avx2, fma, f16c, bmi2 */
	TN_CPU_AVX512 = 1 << 1,     /* avx512 f bw dq vl */
	TN_CPU_AVX512_VNNI = 1 << 2,
	TN_CPU_AVX512_BF16 = 1 << 3,
	TN_CPU_NEON = 1 << 4,
	TN_CPU_SHA = 1 << 5,        /* sha, ssse3, sse4.1 */
	TN_CPU_NEON_DOT = 1 << 6,   /* sums of four products of bytes */
	TN_CPU_AMX = 1 << 7,        /* amx tile and bf16, and the system's leave to use them */
	TN_CPU_FAST_PAIRS = 1 << 8, /* products of BF16 pairs as often as multiply-adds; CPUs of Intel take twice as long */
	TN_CPU_AVX_VNNI = 1 << 9    /* sums of four products of bytes in registers of AVX2, where there is no AVX-512 too */
};

/* Or of the above. Wide registers count only when the system saves them (XCR0). */
unsigned tn_cpu_features(void);

/* CPUs that this process may use (its affinity), at least 1. */
unsigned tn_cpu_count(void);

/* For loops that wait for another thread. */
static inline void tn_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
