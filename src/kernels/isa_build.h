/* For files that are compiled once per instruction set; TN_ISA comes from the build. */
#ifndef TN_ISA_BUILD_H
#define TN_ISA_BUILD_H

#define TN_JOIN_(a, b) a##_##b
#define TN_JOIN(a, b) TN_JOIN_(a, b)
/* A name of its own for each instruction set. */
#define TN_ISA_NAME(name) TN_JOIN(name, TN_ISA)

/* vdpbf16ps, two products at a time, is worth it where it takes one cycle. On Intel's CPUs it takes two, as two fused
 * multiply-adds of float32 do (TN_CPU_FAST_PAIRS), and CPUs with AMX are Intel's. */
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#define TN_FAST_PAIRS 1
#endif

/* Sums of four products of bytes, unsigned times signed, are one instruction. */
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define TN_BYTE_DOTS 1
#endif

#endif
