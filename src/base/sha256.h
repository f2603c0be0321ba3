/* SHA-256 (FIPS 180-4). */
#ifndef TN_SHA256_H
#define TN_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct tn_sha256 {
	uint32_t state[8];
	uint64_t bytes;
	unsigned char block[64];
	int by_instructions;   /* of the CPU; the result is the same without */
};

void tn_sha256_init(struct tn_sha256 *h);
void tn_sha256_add(struct tn_sha256 *h, const void *bytes, size_t n);
/* Eight bytes, lowest first; a text with its NUL. */
void tn_sha256_add_u64(struct tn_sha256 *h, uint64_t n);
void tn_sha256_add_text(struct tn_sha256 *h, const char *text);
void tn_sha256_finish(struct tn_sha256 *h, unsigned char digest[32]);

#endif
