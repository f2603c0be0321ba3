/* The vectors of the instruction set that a file is compiled for. Each header has LANES, TILE_X (how many x a tile of dots.c
 * takes), floats and what is done to them. */
#ifndef TN_VECTOR_H
#define TN_VECTOR_H

#if defined(__x86_64__)
#include "kernels/x86/vector_x86.h"
#else
#include "kernels/arm/vector_arm.h"
#endif

#endif
