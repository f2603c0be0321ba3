/* For files that are compiled once per instruction set; TN_ISA comes from the build. */
#ifndef TN_ISA_BUILD_H
#define TN_ISA_BUILD_H

#define TN_JOIN_(a, b) a##_##b
#define TN_JOIN(a, b) TN_JOIN_(a, b)
/* A name of its own for each instruction set. */
#define TN_ISA_NAME(name) TN_JOIN(name, TN_ISA)

#endif
