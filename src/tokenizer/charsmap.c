/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/charsmap.h"

#include "base/error.h"

#include <string.h>

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Returns the number of bytes, or SIZE_MAX for something that is no base64. */
static size_t decode_base64(const char *text, size_t n, unsigned char *dst)
{
	uint32_t bits = 0;
	size_t bytes = 0;
	int held = 0;
	while (n && text[n - 1] == '=')
		n--;
	for (size_t i = 0; i < n; i++) {
		int value = base64_value(text[i]);
		if (value < 0)
			return SIZE_MAX;
		bits = bits << 6 | (uint32_t)value;
		held += 6;
		if (held >= 8) {
			held -= 8;
			dst[bytes++] = (unsigned char)(bits >> held);
		}
	}
	return bytes;
}

static uint32_t word_at(const unsigned char *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void tn_charsmap_release(struct tn_charsmap *map)
{
	if (map->ctx)
		tn_free(map->ctx, map->blob, map->capacity);
	*map = (struct tn_charsmap){ .ctx = map->ctx };
}

/* Finds the parts of map->blob, whose map->bytes bytes are known; what is no map is released. */
static tn_status divide(struct tn_charsmap *map, const char *where, struct tn_error *err)
{
	uint32_t trie = map->bytes != SIZE_MAX && map->bytes >= 4 ? word_at(map->blob) : UINT32_MAX;
	if (trie == UINT32_MAX || trie > map->bytes - 4 || trie < 4) {
		tn_charsmap_release(map);
		return tn_fail(err, TN_E_FORMAT, where, "the precompiled_charsmap of '%s' is no character map of sentencepiece",
			       where);
	}
	map->units = map->blob + 4;
	map->unit_count = trie / 4;
	map->texts = (const char *)map->blob + 4 + trie;
	map->text_bytes = map->bytes - 4 - trie;
	return TN_OK;
}

tn_status tn_charsmap_read(tn_context *ctx, const char *base64, size_t n, const char *where, struct tn_charsmap *out,
			   struct tn_error *err)
{
	struct tn_charsmap map = { .ctx = ctx, .capacity = n / 4 * 3 + 4 };
	TN_TRY(tn_alloc(ctx, map.capacity, "character map", &map.blob, err));
	map.bytes = decode_base64(base64, n, map.blob);
	TN_TRY(divide(&map, where, err));
	*out = map;
	return TN_OK;
}

tn_status tn_charsmap_copy(tn_context *ctx, const void *bytes, size_t n, const char *where, struct tn_charsmap *out,
			   struct tn_error *err)
{
	struct tn_charsmap map = { .ctx = ctx, .bytes = n, .capacity = n };
	TN_TRY(tn_alloc(ctx, map.capacity, "character map", &map.blob, err));
	if (n)
		memcpy(map.blob, bytes, n);
	TN_TRY(divide(&map, where, err));
	*out = map;
	return TN_OK;
}

/* A unit: bits 0-7 and 31 the label, bit 8 whether a text ends here, bits 10-30 the offset of the children (shifted by 8 more
 * when bit 9 is set); a leaf is bit 31 and the value. */
static uint32_t offset_of(uint32_t unit)
{
	return unit >> 10 << ((unit & 1u << 9) >> 6);
}

/* Where the text of the first leaf begins; SIZE_MAX: none. */
static size_t find_leaf(const struct tn_charsmap *map, const char *text, size_t n)
{
	uint32_t at = offset_of(word_at(map->units));
	for (size_t i = 0; i < n && text[i]; i++) {
		unsigned char byte = (unsigned char)text[i];
		at ^= byte;
		if (at >= map->unit_count)
			return SIZE_MAX;
		uint32_t unit = word_at(map->units + 4 * (size_t)at);
		if ((unit & (1u << 31 | 0xFF)) != byte)
			return SIZE_MAX;
		at ^= offset_of(unit);
		if (at >= map->unit_count)
			return SIZE_MAX;
		if (unit >> 8 & 1)
			return word_at(map->units + 4 * (size_t)at) & 0x7FFFFFFF;
	}
	return SIZE_MAX;
}

const char *tn_charsmap_find(const struct tn_charsmap *map, const char *text, size_t n, size_t *bytes)
{
	size_t at = find_leaf(map, text, n);
	if (at >= map->text_bytes)
		return NULL;
	const char *found = map->texts + at, *end = memchr(found, '\0', map->text_bytes - at);
	*bytes = end ? (size_t)(end - found) : map->text_bytes - at;
	/* a damaged map could lead into the middle of a character */
	return tn_utf8_valid_prefix(found, *bytes) == *bytes ? found : NULL;
}
