/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile safetensors files, and odd ones that must be accepted. Each case is named for the status it must give; the
 * message must name the tensor, or the file. Every case is opened from a file and from memory that ends at a guard page.
 *
 * The list: rules 1-10 of safetensors 0.8 (tensor.rs), its README, its tests, and the findings of its audit (TOB-SFTN). */
#include "testlib.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hostile {
	const char *name;      /* begins with the status */
	const char *header;
	size_t data_bytes;
	const char *says;      /* must stand in `where` or `msg`; NULL: the file's name */
};

#define W(rest) "{\"w\":{" rest "}}"
#define F32_4 "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"
#define U8(name, begin, end, n) \
	"\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #n "],\"data_offsets\":[" #begin "," #end "]}"
#define NEST8(x) "[[[[[[[[" x "]]]]]]]]"
#define NEST64(x) NEST8(NEST8(NEST8(NEST8(NEST8(NEST8(NEST8(NEST8(x))))))))
#define TEN "1,1,1,1,1,1,1,1,1,1,"
#define SIXTY TEN TEN TEN TEN TEN TEN

static const struct hostile cases[] = {
	/* JSON as such */
	{ "E_FORMAT-empty-header", "", 0, NULL },
	{ "E_FORMAT-only-spaces", "        ", 0, NULL },
	{ "E_FORMAT-not-json", "hello", 0, NULL },
	{ "E_FORMAT-array", "[]", 0, NULL },
	{ "E_FORMAT-null", "null", 0, NULL },
	{ "E_FORMAT-string", "\"{}\"", 0, NULL },
	{ "E_FORMAT-open-object", "{", 0, NULL },
	{ "E_FORMAT-open-tensor", "{\"w\":{" F32_4, 4, NULL },
	{ "E_FORMAT-open-string", "{\"w", 0, NULL },
	{ "E_FORMAT-open-array", "{\"w\":{\"dtype\":\"F32\",\"shape\":[1", 0, NULL },
	{ "E_FORMAT-trailing-comma", "{\"w\":{" F32_4 "},}", 4, NULL },
	{ "E_FORMAT-trailing-comma-in-tensor", W(F32_4 ","), 4, NULL },
	{ "E_FORMAT-trailing-comma-in-shape", W("\"dtype\":\"F32\",\"shape\":[1,],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-missing-colon", "{\"w\"{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-missing-comma", "{" U8("a", 0, 1, 1) U8("b", 1, 2, 1) "}", 2, NULL },
	{ "E_FORMAT-single-quotes", "{'w':{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-bare-key", "{w:{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-comment", "{/**/}", 0, NULL },
	{ "E_FORMAT-text-behind", "{}x", 0, NULL },
	{ "E_FORMAT-second-object", "{}{}", 0, NULL },
	{ "E_FORMAT-form-feed", "{}\f", 0, NULL },
	{ "E_FORMAT-bom", "\xEF\xBB\xBF{}", 0, NULL },
	{ "E_FORMAT-not-utf8", "{\"\xFF\":{" F32_4 "}}", 4, "UTF-8" },
	{ "E_FORMAT-latin1", "{\"caf\xE9\":{" F32_4 "}}", 4, "UTF-8" },
	{ "E_FORMAT-overlong-slash", "{\"\xC0\xAF\":{" F32_4 "}}", 4, "UTF-8" },
	{ "E_FORMAT-utf8-surrogate", "{\"\xED\xA0\x80\":{" F32_4 "}}", 4, "UTF-8" },
	{ "E_FORMAT-utf8-beyond-10ffff", "{\"\xF4\x90\x80\x80\":{" F32_4 "}}", 4, "UTF-8" },
	{ "E_FORMAT-lone-high-surrogate", "{\"\\ud800\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-lone-low-surrogate", "{\"\\udc00\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-bad-escape", "{\"\\x41\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-short-unicode-escape", "{\"\\u004\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-raw-newline", "{\"a\nb\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-raw-control", "{\"a\x01\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-nul-in-name", "{\"w\\u0000x\":{" F32_4 "}}", 4, NULL },
	{ "E_FORMAT-nesting-129", W(F32_4 ",\"x\":[" NEST64(NEST64("")) "]"), 4, "128" },
	{ "E_FORMAT-bad-value-in-unknown-member", W(F32_4 ",\"x\":[nul]"), 4, NULL },

	/* names that stand twice */
	{ "E_FORMAT-duplicate-tensor", "{" U8("w", 0, 1, 1) "," U8("w", 1, 2, 1) "}", 2, "'w'" },
	{ "E_FORMAT-duplicate-tensor-same-bytes", /* xz.aliyun.com/news/92700: loads in the reference */
	  "{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"w\":{" F32_4 "}}", 4, "'w'" },
	{ "E_FORMAT-duplicate-tensor-escaped", "{" U8("w", 0, 1, 1) "," U8("\\u0077", 1, 2, 1) "}", 2, "'w'" },
	{ "E_FORMAT-duplicate-empty-tensor", "{" U8("w", 0, 0, 0) "," U8("w", 0, 0, 0) "}", 0, "'w'" },
	{ "E_FORMAT-duplicate-metadata", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__" },
	{ "E_FORMAT-duplicate-metadata-null", "{\"__metadata__\":null,\"__metadata__\":{\"a\":\"b\"}}", 0, "__metadata__" },
	{ "E_FORMAT-duplicate-metadata-escaped", "{\"__metadata__\":{},\"__m\\u0065tadata__\":{}}", 0, "__metadata__" },
	{ "E_FORMAT-duplicate-metadata-key", "{\"__metadata__\":{\"k\":\"1\",\"l\":\"\",\"k\":\"1\"}}", 0, "'k'" },
	{ "E_FORMAT-duplicate-metadata-key-escaped", "{\"__metadata__\":{\"k\":\"1\",\"\\u006b\":\"2\"}}", 0, "'k'" },
	{ "E_FORMAT-duplicate-dtype", W(F32_4 ",\"dtype\":\"F32\""), 4, "'w'" },
	{ "E_FORMAT-duplicate-shape", W(F32_4 ",\"shape\":[1]"), 4, "'w'" },
	{ "E_FORMAT-duplicate-offsets", W(F32_4 ",\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-duplicate-member-escaped", W(F32_4 ",\"\\u0064type\":\"F32\""), 4, "'w'" },
	{ "E_FORMAT-duplicate-unknown-member", W(F32_4 ",\"x\":1,\"x\":1"), 4, "'w'" },
	{ "E_FORMAT-duplicate-key-in-unknown-member", W(F32_4 ",\"x\":{\"y\":1,\"y\":1}"), 4, "'y'" },

	/* metadata */
	{ "E_FORMAT-metadata-number", "{\"__metadata__\":{\"k\":1}}", 0, "'k'" },
	{ "E_FORMAT-metadata-null-value", "{\"__metadata__\":{\"k\":null}}", 0, "'k'" },
	{ "E_FORMAT-metadata-nested", "{\"__metadata__\":{\"k\":{}}}", 0, "'k'" },
	{ "E_FORMAT-metadata-array", "{\"__metadata__\":[]}", 0, NULL },
	{ "E_FORMAT-metadata-string", "{\"__metadata__\":\"\"}", 0, NULL },
	{ "E_FORMAT-metadata-false", "{\"__metadata__\":false}", 0, NULL },
	{ "E_FORMAT-metadata-is-a-tensor", "{\"__metadata__\":{" F32_4 "}}", 4, NULL },

	/* descriptions */
	{ "E_FORMAT-tensor-null", "{\"w\":null}", 0, NULL },
	{ "E_FORMAT-tensor-array-form", "{\"w\":[\"F32\",[1],[0,4]]}", 4, NULL },
	{ "E_FORMAT-no-members", W(""), 0, "'w'" },
	{ "E_FORMAT-no-dtype", W("\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-no-shape", W("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-no-offsets", W("\"dtype\":\"F32\",\"shape\":[1]"), 4, "'w'" },
	{ "E_FORMAT-member-in-capitals", W("\"DTYPE\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-dtype-unknown", W("\"dtype\":\"F128\",\"shape\":[1],\"data_offsets\":[0,16]"), 16, "'w'" },
	{ "E_FORMAT-dtype-lower-case", W("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-dtype-with-space", W("\"dtype\":\"F32 \",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-dtype-empty", W("\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-dtype-number", W("\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-dtype-object-form", W("\"dtype\":{\"F32\":null},\"shape\":[1],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-shape-null", W("\"dtype\":\"F32\",\"shape\":null,\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-shape-number", W("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-shape-negative", W("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-shape-minus-zero", W("\"dtype\":\"F32\",\"shape\":[-0],\"data_offsets\":[0,0]"), 0, NULL },
	{ "E_FORMAT-shape-fraction", W("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-shape-exponent", W("\"dtype\":\"U8\",\"shape\":[1e3],\"data_offsets\":[0,1000]"), 1000, NULL },
	{ "E_FORMAT-shape-leading-zero", W("\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-shape-2-to-64", W("\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]"), 0, "2^64" },
	{ "E_FORMAT-shape-string", W("\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]"), 4, NULL },
	{ "E_FORMAT-65-dimensions", W("\"dtype\":\"U8\",\"shape\":[" SIXTY "1,1,1,1,1],\"data_offsets\":[0,1]"), 1, "'w'" },
	{ "E_FORMAT-offsets-one", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]"), 4, NULL },
	{ "E_FORMAT-offsets-three", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]"), 4, NULL },
	{ "E_FORMAT-offsets-empty", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[]"), 4, NULL },
	{ "E_FORMAT-offsets-negative", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]"), 4, NULL },
	{ "E_FORMAT-offsets-minus-zero", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-0,4]"), 4, NULL },
	{ "E_FORMAT-offsets-fraction", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]"), 4, NULL },
	{ "E_FORMAT-offsets-2-to-64", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,18446744073709551616]"), 4, "2^64" },

	/* sizes */
	{ "E_FORMAT-product-overflow", W("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, "'w'" },
	{ "E_FORMAT-product-overflow-to-4", /* (2^63 + 2) * 2 is 4 in 64 bits */
	  W("\"dtype\":\"U8\",\"shape\":[9223372036854775810,2],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-bits-overflow", W("\"dtype\":\"F64\",\"shape\":[288230376151711744],\"data_offsets\":[0,0]"), 0, "'w'" },
	{ "E_FORMAT-overflow-then-zero",
	  W("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]"), 0, "'w'" },
	{ "E_FORMAT-f4-odd", W("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, "'w'" },
	{ "E_FORMAT-f6-odd", W("\"dtype\":\"F6_E2M3\",\"shape\":[3],\"data_offsets\":[0,3]"), 3, "'w'" },
	{ "E_FORMAT-shape-larger-than-data", W("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, "'w'" },
	{ "E_FORMAT-shape-smaller-than-data", W("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]"), 8, "'w'" },
	{ "E_FORMAT-dtype-against-data", W("\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "'w'" },

	/* offsets */
	{ "E_FORMAT-hole-at-start", "{" U8("w", 1, 2, 1) "}", 2, "'w'" },
	{ "E_FORMAT-hole", "{" U8("a", 0, 1, 1) "," U8("w", 2, 3, 1) "}", 3, "'w'" },
	{ "E_FORMAT-overlap", "{" U8("a", 0, 2, 2) "," U8("w", 1, 3, 2) "}", 3, "'w'" },
	{ "E_FORMAT-alias", "{" U8("a", 0, 2, 2) "," U8("w", 0, 2, 2) "}", 2, "'w'" },
	{ "E_FORMAT-reversed", "{" U8("w", 4, 0, 4) "}", 4, "'w'" },
	{ "E_FORMAT-reversed-behind", "{" U8("a", 0, 4, 4) "," U8("w", 4, 0, 4) "}", 4, "'w'" },
	{ "E_FORMAT-empty-tensor-in-a-hole", "{" U8("a", 0, 1, 1) "," U8("w", 2, 2, 0) "}", 1, "'w'" },
	{ "E_FORMAT-empty-tensor-inside-another", "{" U8("a", 0, 4, 4) "," U8("w", 2, 2, 0) "}", 4, "'w'" },
	{ "E_FORMAT-past-the-end", "{" U8("w", 0, 5, 5) "}", 4, "'w'" },
	{ "E_FORMAT-offset-2-to-64-less-1",
	  W("\"dtype\":\"U8\",\"shape\":[18446744073709551615],\"data_offsets\":[0,18446744073709551615]"), 4, "'w'" },
	{ "E_FORMAT-offset-begins-at-the-end-of-64-bits",
	  W("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[18446744073709551615,18446744073709551615]"), 4, "'w'" },
	{ "E_FORMAT-truncated", "{" U8("a", 0, 4, 4) "," U8("w", 4, 8, 4) "}", 7, "'w'" },
	{ "E_FORMAT-no-data", "{" U8("w", 0, 4, 4) "}", 0, "'w'" },
	{ "E_FORMAT-trailing-byte", "{" U8("w", 0, 4, 4) "}", 5, NULL },
	{ "E_FORMAT-trailing-data-of-none", "{}", 1, NULL },

	/* odd, and allowed */
	{ "OK-empty", "{}", 0, NULL },
	{ "OK-space-before", " \t\r\n{}", 0, NULL },
	{ "OK-space-behind", "{} \t\r\n      ", 0, NULL },
	{ "OK-space-between", "{ \"w\" :\n{ \"dtype\" : \"F32\" , \"shape\" : [ 1 ] , \"data_offsets\" : [ 0 , 4 ] } }", 4, NULL },
	{ "OK-metadata-null", "{\"__metadata__\":null," U8("w", 0, 1, 1) "}", 1, NULL },
	{ "OK-metadata-empty", "{\"__metadata__\":{}}", 0, NULL },
	{ "OK-metadata-last", "{" U8("w", 0, 1, 1) ",\"__metadata__\":{\"k\":\"\",\"\":\"v\"}}", 1, NULL },
	{ "OK-rank-0", W("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]"), 4, NULL },
	{ "OK-zero-size", W("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]"), 0, NULL },
	{ "OK-zero-then-large",
	  W("\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]"), 0, NULL },
	{ "OK-zero-sizes-at-one-offset",
	  "{" U8("a", 0, 0, 0) "," U8("b", 0, 0, 0) "," U8("c", 0, 1, 1) "," U8("d", 1, 1, 0) "," U8("e", 1, 1, 0) "}", 1, NULL },
	{ "OK-64-dimensions", W("\"dtype\":\"U8\",\"shape\":[" SIXTY "1,1,1,1],\"data_offsets\":[0,1]"), 1, NULL },
	{ "OK-any-order", "{" U8("b", 2, 3, 1) "," U8("a", 0, 2, 2) "}", 3, NULL },
	{ "OK-members-in-any-order", W("\"data_offsets\":[0,4],\"shape\":[1],\"dtype\":\"F32\""), 4, NULL },
	{ "OK-unaligned", "{" U8("a", 0, 1, 1) ",\"w\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]}}", 9, NULL },
	{ "OK-unknown-members", W(F32_4 ",\"x\":{\"y\":[1,-2.5e3,true,null,\"\\ud83d\\ude00\"]},\"\":\"\""), 4, NULL },
	{ "OK-nesting-128", W(F32_4 ",\"x\":" NEST64(NEST64(""))), 4, NULL },
	{ "OK-empty-name", "{" U8("", 0, 1, 1) "}", 1, NULL },
	{ "OK-escaped-names", "{" U8("\\u0061\\/\\\"", 0, 1, 1) "," U8("\xF0\x9F\x98\x80", 1, 2, 1) "}", 2, NULL },
	{ "OK-name-with-path", "{" U8("../../etc/passwd", 0, 1, 1) "}", 1, NULL },
	{ "OK-f4-pair", W("\"dtype\":\"F4\",\"shape\":[1,2],\"data_offsets\":[0,1]"), 1, NULL },
	{ "OK-f6-four", W("\"dtype\":\"F6_E3M2\",\"shape\":[4],\"data_offsets\":[0,3]"), 3, NULL },
	{ "OK-dtype-escaped", W("\"dtype\":\"F\\u00332\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, NULL },
};

/* Those that are not a length word, a text and some data. */
struct raw {
	const char *name;
	const char *bytes;
	size_t n;
	const char *says;
};

static const struct raw raws[] = {
	{ "E_FORMAT-no-bytes", "", 0, NULL },
	{ "E_FORMAT-7-bytes", "\2\0\0\0\0\0\0", 7, NULL },
	{ "E_FORMAT-length-0", "\0\0\0\0\0\0\0\0", 8, NULL },
	{ "E_FORMAT-length-past-the-end", "\3\0\0\0\0\0\0\0{}", 10, NULL },
	{ "E_FORMAT-length-at-the-cap", "\x00\xE1\xF5\x05\0\0\0\0{}", 10, NULL },
	{ "E_LIMIT-length-over-the-cap", "\x01\xE1\xF5\x05\0\0\0\0{}", 10, NULL },
	{ "E_LIMIT-length-2-to-63", "\0\0\0\0\0\0\0\x80{}", 10, NULL },
	{ "E_LIMIT-length-2-to-64-less-1", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, NULL },
	{ "E_LIMIT-length-2-to-64-less-8", "\xF8\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, NULL },
	{ "E_LIMIT-zip", "PK\3\4\24\0\0\0\0\0{}", 12, NULL },
	{ "E_LIMIT-gguf", "GGUF\3\0\0\0\0\0\0\0", 12, NULL },
	{ "E_LIMIT-version", "version 1", 9, NULL },
	{ "E_FORMAT-git-lfs-pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", 64, "git lfs pull" },
	{ "E_FORMAT-nul-padding", "\4\0\0\0\0\0\0\0{}\0\0", 12, NULL },
	{ "E_FORMAT-nul-inside", "\4\0\0\0\0\0\0\0{\0\0}", 12, NULL },
	{ "E_FORMAT-nul-in-a-string", "\7\0\0\0\0\0\0\0{\"a\0b\"}", 15, NULL },
	{ "E_FORMAT-cut-utf8", "\4\0\0\0\0\0\0\0{\"\xE2\x82", 12, NULL },
	{ "E_LIMIT-text-beginning", "{\"w\":1}\0\0\0\0", 8, NULL },
	{ "OK-smallest", "\2\0\0\0\0\0\0\0{}", 10, NULL },
};

static int failures;

static tn_status status_of(const char *name)
{
	return strncmp(name, "OK-", 3) == 0       ? TN_OK
	       : strncmp(name, "E_LIMIT-", 8) == 0 ? TN_E_LIMIT
						   : TN_E_FORMAT;
}

static void judge(const char *name, const char *how, tn_status got, const struct tn_error *e, const char *says)
{
	tn_status want = status_of(name);
	int told = got == TN_OK || (e->code == got && (strstr(e->msg, says ? says : name) || strstr(e->where, says ? says : name)) &&
				    strstr(e->msg, name));
	if (got == want && told)
		return;
	failures++;
	printf("%s (%s): gave %s, where '%s', pos %" PRIu64 ": %s%s%s\n", name, how, tn_status_name(got), e->where, e->pos,
	       e->msg, told ? "" : "; and does not say ", told ? "" : says ? says : name);
}

static void read_everything(const tn_safetensors *file, const char *name)
{
	struct tt_guard g;
	for (size_t i = 0; i < tn_safetensors_count(file); i++) {
		const struct tn_tensor *t = tn_safetensors_at(file, i);
		tt_guard_make(&g, (size_t)t->bytes);
		struct tn_error e = { 0 };
		if (tn_safetensors_read(file, t, 0, g.at_end, (size_t)t->bytes, &e) != TN_OK ||
		    tn_safetensors_find(file, t->name) != t)
			judge(name, "read", TN_E_IO, &e, NULL);
		tt_guard_free(&g);
	}
}

static void try_bytes(struct tt *t, const char *name, const void *bytes, size_t n, const char *says)
{
	struct tt_guard g;
	struct tn_error e = { 0 };
	tn_safetensors *file = NULL;
	tt_guard_make(&g, n);
	memcpy(g.at_end, bytes, n);
	tn_status status = tn_safetensors_open_memory(t->ctx, g.at_end, n, name, &file, &e);
	judge(name, "memory", status, &e, says);
	if (status == TN_OK)
		read_everything(file, name);
	tn_safetensors_close(file);
	tt_guard_free(&g);

	const char *path = tt_path(t, "%s", name);
	memset(&e, 0, sizeof e);
	file = NULL;
	tt_write_file(path, bytes, n);
	status = tn_safetensors_open(t->ctx, path, &file, &e);
	judge(name, "file", status, &e, says);
	if (status == TN_OK)
		read_everything(file, name);
	tn_safetensors_close(file);
}

static void try_case(struct tt *t, const struct hostile *c)
{
	size_t length = strlen(c->header), n = 8 + length + c->data_bytes;
	unsigned char *bytes = calloc(1, n);
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(length >> 8 * i);
	memcpy(bytes + 8, c->header, length);
	try_bytes(t, c->name, bytes, n, c->says);
	free(bytes);
}

/* A header of exactly 100,000,000 bytes is allowed, one of a byte more is not. Memory may grow with the header only. */
static void try_largest(struct tt *t)
{
	size_t cap = 100000000, n = 8 + cap + 1;
	unsigned char *bytes = malloc(n);
	for (size_t extra = 0; extra < 2; extra++) {
		memset(bytes, ' ', n);
		for (int i = 0; i < 8; i++)
			bytes[i] = (unsigned char)((cap + extra) >> 8 * i);
		memcpy(bytes + 8, "{}", 2);
		try_bytes(t, extra ? "E_LIMIT-largest-header-and-one" : "OK-largest-header", bytes, 8 + cap + extra, NULL);
	}
	free(bytes);
	if (t->heap.largest_live_bytes > cap + (1 << 20)) {
		failures++;
		printf("a header of %zu bytes took %zu bytes of heap\n", cap, t->heap.largest_live_bytes);
	}
}

/* Many names are slow to compare when it is done in pairs. */
static void try_many_tensors(struct tt *t)
{
	enum { COUNT = 200000 };
	char *header = malloc((size_t)COUNT * 80);
	size_t n = 0;
	header[n++] = '{';
	for (int i = 0; i < COUNT; i++)
		n += (size_t)sprintf(header + n, "%s\"layer.%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
				     i ? "," : "", i);
	header[n++] = '}';
	header[n] = '\0';
	try_case(t, &(struct hostile){ "OK-many-tensors", header, 0, NULL });
	header[n - 1] = ',';
	strcpy(header + n, "\"layer.7\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
	try_case(t, &(struct hostile){ "E_FORMAT-many-tensors-and-one-twice", header, 0, "'layer.7'" });
	free(header);
}

int main(void)
{
	void *state = NULL;
	tt_setup(&state);
	struct tt *t = state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		try_case(t, &cases[i]);
	for (size_t i = 0; i < sizeof raws / sizeof *raws; i++)
		try_bytes(t, raws[i].name, raws[i].bytes, raws[i].n, raws[i].says);
	try_many_tensors(t);
	t->heap.largest_live_bytes = 0;
	try_largest(t);
	if (tt_teardown(&state) != 0)
		failures++;
	printf("%zu files, %d failures\n", sizeof cases / sizeof *cases + sizeof raws / sizeof *raws + 4, failures);
	return failures != 0;
}
