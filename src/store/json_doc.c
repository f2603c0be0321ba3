/* SPDX-License-Identifier: Apache-2.0 */
/* jansson's documents, read by the scanner of this floor: jansson's own reader (2.14) aborts when memory runs out inside a
 * string, and does not say which key stands twice. */
#include "store/json_doc.h"

#include "base/error.h"
#include "base/file.h"
#include "base/numeral.h"
#include "base/text.h"
#include "store/json_scan.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 128, LONGEST_NUMBER = 400 };

/* A number that jansson has no value for is a string of this mark and its token. No text decodes to the mark, for UTF-8 has
 * no byte 0xFF, and who takes the string for a text finds an empty one, or one with a NUL in it. */
static const char number_mark[2] = { '\0', '\xFF' };

struct reader {
	struct tn_json_scan scan;
	struct tn_arena arena;   /* decoded keys and strings, until jansson has copied them */
};

static tn_status read_value(struct reader *r, int depth, json_t **out, struct tn_error *err);

/* json == NULL is jansson without memory. */
static tn_status keep(const struct reader *r, json_t *json, json_t **out, struct tn_error *err)
{
	*out = json;
	return json ? TN_OK : tn_fail_nomem(err, r->scan.where, 0);
}

static tn_status read_string(struct reader *r, json_t **out, struct tn_error *err)
{
	struct tn_json_string string;
	const char *text;
	size_t length;
	TN_TRY(tn_json_take_string(&r->scan, &string, err));
	TN_TRY(tn_json_decode_any(&r->scan, &string, &r->arena, &text, &length, err));
	return keep(r, json_stringn_nocheck(text, length), out, err);
}

/* Of the n bytes at `token`. */
static tn_status keep_token(const struct reader *r, const char *token, size_t n, json_t **out, struct tn_error *err)
{
	char marked[sizeof number_mark + LONGEST_NUMBER];
	memcpy(marked, number_mark, sizeof number_mark);
	memcpy(marked + sizeof number_mark, token, n);
	return keep(r, json_stringn_nocheck(marked, sizeof number_mark + n), out, err);
}

const char *tn_json_number_token(const json_t *value)
{
	if (json_string_length(value) <= sizeof number_mark ||
	    memcmp(json_string_value(value), number_mark, sizeof number_mark) != 0)
		return NULL;
	return json_string_value(value) + sizeof number_mark;
}

static tn_status read_number(struct reader *r, json_t **out, struct tn_error *err)
{
	char text[LONGEST_NUMBER + 1];
	size_t begin = r->scan.pos;
	TN_TRY(tn_json_skip_value(&r->scan, err));
	size_t n = r->scan.pos - begin;
	if (n > LONGEST_NUMBER)
		return tn_json_fail(&r->scan, begin, err, "a number has more than %d characters", LONGEST_NUMBER);
	memcpy(text, r->scan.text + begin, n);
	text[n] = '\0';
	errno = 0;
	if (strpbrk(text, ".eE")) {
		double real = tn_strtod(text, NULL);
		return isinf(real) ? keep_token(r, text, n, out, err) : keep(r, json_real(real), out, err);
	}
	long long integer = strtoll(text, NULL, 10);
	return errno == ERANGE ? keep_token(r, text, n, out, err) : keep(r, json_integer(integer), out, err);
}

/* The length of the word for a number that is not finite; 0 when none stands here. Python's json writes and reads them. */
static size_t word_length(const struct tn_json_scan *scan)
{
	static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		size_t n = strlen(words[i]);
		if (scan->length - scan->pos >= n && memcmp(scan->text + scan->pos, words[i], n) == 0)
			return n;
	}
	return 0;
}

static tn_status read_member(struct reader *r, json_t *object, int depth, struct tn_error *err)
{
	struct tn_json_string string;
	const char *key;
	json_t *value;
	TN_TRY(tn_json_take_string(&r->scan, &string, err));
	TN_TRY(tn_json_decode(&r->scan, &string, &r->arena, &key, err));
	if (json_object_get(object, key))
		return tn_json_fail(&r->scan, string.begin - 1, err, "an object has the key '%.80s' twice", key);
	TN_TRY(tn_json_take(&r->scan, ':', "':'", err));
	TN_TRY(read_value(r, depth, &value, err));
	return json_object_set_new_nocheck(object, key, value) == 0 ? TN_OK : tn_fail_nomem(err, r->scan.where, 0);
}

static tn_status read_members(struct reader *r, json_t *object, int depth, struct tn_error *err)
{
	int more = 1;
	r->scan.pos++;
	if (tn_json_peek(&r->scan) == '}')
		return tn_json_take(&r->scan, '}', "'}'", err);
	while (more) {
		TN_TRY(read_member(r, object, depth, err));
		TN_TRY(tn_json_next(&r->scan, '}', &more, err));
	}
	return TN_OK;
}

static tn_status read_elements(struct reader *r, json_t *array, int depth, struct tn_error *err)
{
	int more = 1;
	r->scan.pos++;
	if (tn_json_peek(&r->scan) == ']')
		return tn_json_take(&r->scan, ']', "']'", err);
	while (more) {
		json_t *value;
		TN_TRY(read_value(r, depth, &value, err));
		if (json_array_append_new(array, value) != 0)
			return tn_fail_nomem(err, r->scan.where, 0);
		TN_TRY(tn_json_next(&r->scan, ']', &more, err));
	}
	return TN_OK;
}

static tn_status read_container(struct reader *r, int is_object, int depth, json_t **out, struct tn_error *err)
{
	json_t *made;
	if (depth > DEEPEST)
		return tn_json_fail(&r->scan, r->scan.pos, err, "values are nested more than %d levels deep", DEEPEST);
	TN_TRY(keep(r, is_object ? json_object() : json_array(), &made, err));
	tn_status status = is_object ? read_members(r, made, depth, err) : read_elements(r, made, depth, err);
	if (status != TN_OK) {
		json_decref(made);
		return status;
	}
	*out = made;
	return TN_OK;
}

static tn_status read_value(struct reader *r, int depth, json_t **out, struct tn_error *err)
{
	char c = tn_json_peek(&r->scan);
	if (c == '{' || c == '[')
		return read_container(r, c == '{', depth + 1, out, err);
	if (c == '"')
		return read_string(r, out, err);
	size_t n = word_length(&r->scan);
	if (n) {
		r->scan.pos += n;
		return keep_token(r, r->scan.text + r->scan.pos - n, n, out, err);
	}
	if (c == '-' || (c >= '0' && c <= '9'))
		return read_number(r, out, err);
	TN_TRY(tn_json_skip_value(&r->scan, err)); /* true, false, null, or the error */
	return keep(r, c == 't' ? json_true() : c == 'f' ? json_false() : json_null(), out, err);
}

/* A text that an editor marked as UTF-8 opens with three bytes that no reader of the model takes. */
static tn_status check_text(const char *text, size_t bytes, const char *where, struct tn_error *err)
{
	size_t valid = tn_utf8_valid_prefix(text, bytes);
	if (valid != bytes)
		return tn_fail_at(err, TN_E_FORMAT, where, valid, "'%s' is not UTF-8: byte %zu is 0x%02X", where, valid,
				  (unsigned char)text[valid]);
	if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
		return tn_fail(err, TN_E_FORMAT, where, "'%s' begins with a byte order mark; remove it", where);
	return TN_OK;
}

tn_status tn_json_parse(tn_context *ctx, const char *text, size_t bytes, const char *where, json_t **out,
			struct tn_error *err)
{
	struct reader r = { .scan = { ctx, text, bytes, 0, where, 0 } };
	json_t *root;
	TN_TRY(check_text(text, bytes, where, err));
	tn_arena_init(&r.arena, ctx);
	if (tn_json_peek(&r.scan) != '{')
		return tn_fail(err, TN_E_FORMAT, where, "could not parse '%s': it must be a JSON object", where);
	tn_status status = read_value(&r, 0, &root, err);
	if (status == TN_OK) {
		status = tn_json_finish(&r.scan, err);
		if (status != TN_OK)
			json_decref(root);
	}
	tn_arena_release(&r.arena);
	if (status == TN_OK)
		*out = root;
	return status;
}

tn_status tn_json_load(tn_context *ctx, const char *path, json_t **out, struct tn_error *err)
{
	struct tn_buffer text;
	TN_TRY(tn_file_read_text(ctx, path, TN_CONFIG_CAP, &text, err));
	tn_status status = tn_json_parse(ctx, text.data, text.bytes - 1, path, out, err);
	tn_buffer_release(ctx, &text);
	return status;
}
