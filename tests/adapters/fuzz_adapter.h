#ifndef FUZZ_ADAPTER_H
#define FUZZ_ADAPTER_H
#include <stddef.h>
#include <stdint.h>
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
#endif
