/* The precompiled character map of sentencepiece: a darts-clone double array over UTF-8, and the texts it leads to. */
#ifndef TN_CHARSMAP_H
#define TN_CHARSMAP_H

#include "base/text.h"

#include <stdint.h>

struct tn_charsmap {
	tn_context *ctx;
	unsigned char *blob;
	size_t bytes, capacity;
	const unsigned char *units;    /* little-endian 32-bit words */
	size_t unit_count;
	const char *texts;             /* each with a NUL behind it */
	size_t text_bytes;
};

/* From base64. TN_E_FORMAT: not such a map. */
tn_status tn_charsmap_read(tn_context *ctx, const char *base64, size_t n, const char *where, struct tn_charsmap *out,
			   struct tn_error *err);
/* The same from the n bytes themselves, which are copied. */
tn_status tn_charsmap_copy(tn_context *ctx, const void *bytes, size_t n, const char *where, struct tn_charsmap *out,
			   struct tn_error *err);
void tn_charsmap_release(struct tn_charsmap *map);

/* What the shortest mapped beginning of these bytes becomes (then it stands for all of them), or NULL: nothing is mapped. */
const char *tn_charsmap_find(const struct tn_charsmap *map, const char *text, size_t n, size_t *bytes);

#endif
