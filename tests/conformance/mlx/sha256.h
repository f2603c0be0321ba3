/* SHA-256 (FIPS 180-4) as 64 hex digits, for the digests in the manifests. */
#ifndef TN_TEST_SHA256_H
#define TN_TEST_SHA256_H

#include <stddef.h>

void sha256_hex(const void *data, size_t n, char hex[65]);

#endif
