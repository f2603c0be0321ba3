/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja.h"

#include "base/numeral.h"
#include "base/text.h"
#include "store/json_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NUMBER = 4000 };

struct json {
	struct tn_j *j;
	struct tn_json_scan scan;
};

static tn_status read_value(struct json *r, struct tn_jv *out);

static tn_status read_string(struct json *r, struct tn_jv *out)
{
	struct tn_json_string string;
	const char *text;
	size_t length;
	TN_TRY(tn_json_take_string(&r->scan, &string, r->j->err));
	if (!string.escaped)
		return tn_j_string_kept(r->j, r->scan.text + string.begin, string.length, out);
	TN_TRY(tn_json_decode_any(&r->scan, &string, &r->j->arena, &text, &length, r->j->err));
	return tn_j_string_kept(r->j, text, length, out);
}

/* A whole number keeps being one, of whatever size. */
static tn_status read_number(struct json *r, struct tn_jv *out)
{
	size_t begin = r->scan.pos;
	struct tn_jv text;
	TN_TRY(tn_json_skip_value(&r->scan, r->j->err));
	size_t n = r->scan.pos - begin;
	if (n > LONGEST_NUMBER)
		return tn_json_fail(&r->scan, begin, r->j->err, "a number has more than %d characters", LONGEST_NUMBER);
	TN_TRY(tn_j_string(r->j, r->scan.text + begin, n, &text)); /* the arena puts a NUL behind it */
	if (memchr(r->scan.text + begin, '.', n) || memchr(r->scan.text + begin, 'e', n) || memchr(r->scan.text + begin, 'E', n)) {
		*out = tn_jv_float(tn_strtod(text.as.str->text, NULL));
		return TN_OK;
	}
	errno = 0;
	long long integer = strtoll(text.as.str->text, NULL, 10);
	*out = tn_jv_int(integer);
	if (errno == ERANGE) {
		*out = text;
		out->kind = TN_J_BIG;
	}
	return TN_OK;
}

static tn_status read_object(struct json *r, struct tn_jv *out)
{
	struct tn_jdict *dict;
	int more = 1;
	TN_TRY(tn_jd_new(r->j, &dict));
	*out = tn_jv_dict(dict);
	r->scan.pos++;
	if (tn_json_peek(&r->scan) == '}')
		return tn_json_take(&r->scan, '}', "'}'", r->j->err);
	while (more) {
		struct tn_jv key, value;
		tn_json_skip_space(&r->scan);
		TN_TRY(read_string(r, &key));
		TN_TRY(tn_json_take(&r->scan, ':', "':'", r->j->err));
		TN_TRY(read_value(r, &value));
		TN_TRY(tn_jd_set(r->j, dict, key, value));
		TN_TRY(tn_json_next(&r->scan, '}', &more, r->j->err));
	}
	return TN_OK;
}

static tn_status read_array(struct json *r, struct tn_jv *out)
{
	struct tn_jlist *list;
	size_t capacity = 0;
	int more = 1;
	TN_TRY(tn_j_list(r->j, 0, &list));
	*out = tn_jv_list(list);
	r->scan.pos++;
	if (tn_json_peek(&r->scan) == ']')
		return tn_json_take(&r->scan, ']', "']'", r->j->err);
	while (more) {
		TN_TRY(tn_j_grow(r->j, &list->items, &capacity, list->count, list->count + 1, sizeof *list->items));
		TN_TRY(read_value(r, &list->items[list->count]));
		list->count++;
		TN_TRY(tn_json_next(&r->scan, ']', &more, r->j->err));
	}
	return TN_OK;
}

/* NaN, Infinity and -Infinity, which Python's json reads. */
static int read_word(struct json *r, struct tn_jv *out)
{
	static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
	for (size_t i = 0; i < 3; i++) {
		size_t n = strlen(words[i]);
		if (r->scan.length - r->scan.pos < n || memcmp(r->scan.text + r->scan.pos, words[i], n) != 0)
			continue;
		r->scan.pos += n;
		*out = tn_jv_float(tn_strtod(words[i], NULL));
		return 1;
	}
	return 0;
}

static tn_status read_plain(struct json *r, char c, struct tn_jv *out)
{
	if (c == '"')
		return read_string(r, out);
	if (read_word(r, out))
		return TN_OK;
	if (c == '-' || (c >= '0' && c <= '9'))
		return read_number(r, out);
	TN_TRY(tn_json_skip_value(&r->scan, r->j->err)); /* true, false, null, or the error */
	*out = c == 'n' ? tn_jv_none() : tn_jv_bool(c == 't');
	return TN_OK;
}

static tn_status read_value(struct json *r, struct tn_jv *out)
{
	char c = tn_json_peek(&r->scan);
	if (c != '{' && c != '[')
		return read_plain(r, c, out);
	TN_TRY(tn_j_enter(r->j));
	TN_TRY(c == '{' ? read_object(r, out) : read_array(r, out));
	tn_j_leave(r->j);
	return TN_OK;
}

tn_status tn_jinja_json(struct tn_j *j, const char *text, size_t bytes, const char *where, struct tn_jv *out)
{
	struct json r = { .j = j, .scan = { NULL, text, bytes, 0, where, 0 } };
	size_t valid = tn_utf8_valid_prefix(text, bytes);
	if (valid != bytes)
		return tn_fail_at(j->err, TN_E_FORMAT, where, valid, "'%s' is not UTF-8 at byte %zu", where, valid);
	TN_TRY(read_value(&r, out));
	return tn_json_finish(&r.scan, j->err);
}
