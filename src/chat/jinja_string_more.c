/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of str: finding, splitting, joining, filling. */
#include "chat/jinja_call.h"

#include "chat/jinja_unicode.h"

#include <string.h>

/* ---- finding ---------------------------------------------------------------------------------------------- */

/* [from, to) of code points after Python's rules for start and end, which may be absent or none. */
static tn_status window(struct tn_j *j, const char *name, const struct tn_jstr *s, struct tn_jv start, struct tn_jv end,
			size_t *from, size_t *to)
{
	int64_t n = (int64_t)s->chars, a, b;
	TN_TRY(tn_j_want_int(j, name, start.kind == TN_J_NONE ? tn_jv_absent() : start, 0, &a));
	TN_TRY(tn_j_want_int(j, name, end.kind == TN_J_NONE ? tn_jv_absent() : end, n, &b));
	a = a < -n ? 0 : a < 0 ? a + n : a;
	b = b < -n ? 0 : b < 0 ? b + n : b > n ? n : b;
	*from = (size_t)a; /* may lie beyond the end: then nothing is found, not even an empty text */
	*to = (size_t)b;
	return TN_OK;
}

static const char *find_last(const char *text, size_t n, const char *what, size_t m)
{
	if (m > n)
		return NULL;
	for (const char *p = text + (n - m);; p--) {
		if (memcmp(p, what, m) == 0)
			return p;
		if (p == text)
			return NULL;
	}
}

/* The search from the end is a plain one. */
static tn_status find_last_work(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *what)
{
	return tn_j_work(j, (s->bytes / 16 + 1) * (what->bytes / 64 + 1));
}

static size_t chars_between(const char *from, const char *to)
{
	size_t chars = 0;
	for (; from < to; from++)
		chars += ((unsigned char)*from & 0xC0) != 0x80;
	return chars;
}

/* The code point where it stands, or -1. */
static tn_status find_in(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int last, int64_t *out)
{
	static const char *const names[] = { "/sub", "/start", "/end", NULL };
	const struct tn_jstr *s = self.as.str;
	struct tn_jv v[3];
	struct tn_jstr *what;
	const char *begin;
	size_t from, to, bytes;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, v));
	TN_TRY(tn_j_want_string(j, name, v[0], &what));
	TN_TRY(window(j, name, s, v[1], v[2], &from, &to));
	TN_TRY(last ? find_last_work(j, s, what) : tn_j_work(j, s->bytes / 16));
	*out = -1;
	if (from > to || from > s->chars)
		return TN_OK;
	tn_js_span(s, from, to, &begin, &bytes);
	const char *found = last ? find_last(begin, bytes, what->text, what->bytes) :
			    memmem(begin, bytes, what->text, what->bytes);
	if (found)
		*out = (int64_t)(from + chars_between(begin, found));
	return TN_OK;
}

static tn_status call_find(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	int64_t at;
	TN_TRY(find_in(j, "find", self, args, 0, &at));
	*out = tn_jv_int(at);
	return TN_OK;
}

static tn_status call_rfind(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	int64_t at;
	TN_TRY(find_in(j, "rfind", self, args, 1, &at));
	*out = tn_jv_int(at);
	return TN_OK;
}

static tn_status index_of(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int last,
			  struct tn_jv *out)
{
	int64_t at;
	TN_TRY(find_in(j, name, self, args, last, &at));
	*out = tn_jv_int(at);
	return at < 0 ? tn_j_fail(j, TN_E_MISMATCH, "substring not found") : TN_OK;
}

static tn_status call_index(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return index_of(j, "index", self, args, 0, out);
}

static tn_status call_rindex(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return index_of(j, "rindex", self, args, 1, out);
}

static tn_status call_count(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/sub", "/start", "/end", NULL };
	struct tn_jv v[3];
	struct tn_jstr *what;
	const char *p;
	size_t from, to, bytes;
	int64_t count = 0;
	TN_TRY(tn_j_parameters(j, "count", args, names, 1, v));
	TN_TRY(tn_j_want_string(j, "count", v[0], &what));
	TN_TRY(window(j, "count", self.as.str, v[1], v[2], &from, &to));
	TN_TRY(tn_j_work(j, self.as.str->bytes / 16));
	*out = tn_jv_int(0);
	if (from > to || from > self.as.str->chars)
		return TN_OK;
	tn_js_span(self.as.str, from, to, &p, &bytes);
	if (!what->bytes) {
		*out = tn_jv_int((int64_t)(to - from + 1));
		return TN_OK;
	}
	for (const char *end = p + bytes; (p = memmem(p, (size_t)(end - p), what->text, what->bytes)); p += what->bytes)
		count++;
	*out = tn_jv_int(count);
	return TN_OK;
}

static int has_at(const char *text, size_t n, const struct tn_jstr *affix, int at_end)
{
	return affix->bytes <= n && memcmp(at_end ? text + n - affix->bytes : text, affix->text, affix->bytes) == 0;
}

static tn_status begins_or_ends(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int at_end,
				struct tn_jv *out)
{
	static const char *const names[] = { "/affix", "/start", "/end", NULL };
	struct tn_jv v[3];
	const char *begin;
	size_t from, to, bytes;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, v));
	TN_TRY(window(j, name, self.as.str, v[1], v[2], &from, &to));
	struct tn_jlist one = { .items = v, .count = 1 };
	const struct tn_jlist *choices = v[0].kind == TN_J_TUPLE ? v[0].as.list : &one;
	int inside = from <= to && from <= self.as.str->chars;
	tn_js_span(self.as.str, from, to, &begin, &bytes);
	*out = tn_jv_bool(0);
	for (size_t i = 0; i < choices->count; i++) {
		struct tn_jstr *affix;
		if (!tn_jv_is_string(choices->items[i]))
			return tn_j_fail(j, TN_E_MISMATCH, "%s first arg must be str or a tuple of str, not %s", name,
					 tn_j_type_name(choices->items[i]));
		affix = choices->items[i].as.str;
		if (inside && has_at(begin, bytes, affix, at_end))
			*out = tn_jv_bool(1);
	}
	return TN_OK;
}

static tn_status call_startswith(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return begins_or_ends(j, "startswith", self, args, 0, out);
}

static tn_status call_endswith(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return begins_or_ends(j, "endswith", self, args, 1, out);
}

/* ---- replacing -------------------------------------------------------------------------------------------- */

/* An empty text stands before every character and at the end. */
static tn_status replace_empty(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *to, int64_t most,
			       struct tn_jbuffer *b)
{
	const char *p = s->text, *end = p + s->bytes;
	for (int64_t done = 0;; done++) {
		const char *here = p;
		if (most >= 0 && done >= most)
			break;
		TN_TRY(tn_jb_add(j, b, to->text, to->bytes));
		if (p == end)
			return TN_OK;
		tn_u_next(&p);
		TN_TRY(tn_jb_add(j, b, here, (size_t)(p - here)));
	}
	return tn_jb_add(j, b, p, (size_t)(end - p));
}

tn_status tn_js_replace(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *from, const struct tn_jstr *to, int64_t most,
			struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	const char *p = s->text, *end = p + s->bytes, *found;
	TN_TRY(tn_j_work(j, s->bytes / 16));
	if (!from->bytes) {
		TN_TRY(replace_empty(j, s, to, most, &b));
		return tn_jb_string(j, &b, out);
	}
	for (int64_t done = 0; most < 0 || done < most; done++) {
		found = memmem(p, (size_t)(end - p), from->text, from->bytes);
		if (!found)
			break;
		TN_TRY(tn_jb_add(j, &b, p, (size_t)(found - p)));
		TN_TRY(tn_jb_add(j, &b, to->text, to->bytes));
		p = found + from->bytes;
	}
	TN_TRY(tn_jb_add(j, &b, p, (size_t)(end - p)));
	return tn_jb_string(j, &b, out);
}

static tn_status call_replace(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/old", "/new", "/count", NULL };
	struct tn_jv v[3];
	struct tn_jstr *from, *to;
	int64_t most;
	TN_TRY(tn_j_parameters(j, "replace", args, names, 2, v));
	TN_TRY(tn_j_want_string(j, "replace", v[0], &from));
	TN_TRY(tn_j_want_string(j, "replace", v[1], &to));
	TN_TRY(tn_j_want_int(j, "replace", v[2], -1, &most));
	return tn_js_replace(j, self.as.str, from, to, most, out);
}

/* ---- splitting -------------------------------------------------------------------------------------------- */

struct pieces {
	struct tn_jlist *list;
	size_t capacity;
};

static tn_status add_piece(struct tn_j *j, struct pieces *p, const char *begin, const char *end)
{
	TN_TRY(tn_j_grow(j, &p->list->items, &p->capacity, p->list->count, p->list->count + 1, sizeof *p->list->items));
	return tn_j_string_kept(j, begin, (size_t)(end - begin), &p->list->items[p->list->count++]);
}

static void turn_around(struct tn_jlist *list)
{
	for (size_t i = 0; i < list->count / 2; i++) {
		struct tn_jv swap = list->items[i];
		list->items[i] = list->items[list->count - 1 - i];
		list->items[list->count - 1 - i] = swap;
	}
}

static tn_status split_space(struct tn_j *j, const struct tn_jstr *s, int64_t most, struct pieces *out)
{
	const char *p = s->text, *end = p + s->bytes;
	for (int64_t done = 0;; done++) {
		p += tn_u_lstrip(p, (size_t)(end - p));
		if (p == end)
			return TN_OK;
		const char *begin = p;
		if (most >= 0 && done >= most)
			return add_piece(j, out, begin, end);
		for (const char *next = p; p < end && !tn_u_is_space(tn_u_next(&next)); p = next)
			;
		TN_TRY(add_piece(j, out, begin, p));
	}
}

static tn_status rsplit_space(struct tn_j *j, const struct tn_jstr *s, int64_t most, struct pieces *out)
{
	const char *begin = s->text;
	size_t n = s->bytes;
	for (int64_t done = 0;; done++) {
		n = tn_u_rstrip(begin, n);
		if (!n)
			break;
		if (most >= 0 && done >= most) {
			TN_TRY(add_piece(j, out, begin, begin + n));
			break;
		}
		size_t end = n;
		while (n) {
			const char *p = begin + n - 1;
			while (((unsigned char)*p & 0xC0) == 0x80)
				p--;
			const char *q = p;
			if (tn_u_is_space(tn_u_next(&q)))
				break;
			n = (size_t)(p - begin);
		}
		TN_TRY(add_piece(j, out, begin + n, begin + end));
	}
	turn_around(out->list);
	return TN_OK;
}

static tn_status split_by(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *by, int64_t most, struct pieces *out)
{
	const char *p = s->text, *end = p + s->bytes;
	for (int64_t done = 0; most < 0 || done < most; done++) {
		const char *found = memmem(p, (size_t)(end - p), by->text, by->bytes);
		if (!found)
			break;
		TN_TRY(add_piece(j, out, p, found));
		p = found + by->bytes;
	}
	return add_piece(j, out, p, end);
}

static tn_status rsplit_by(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *by, int64_t most, struct pieces *out)
{
	const char *begin = s->text, *end = begin + s->bytes;
	TN_TRY(find_last_work(j, s, by));
	for (int64_t done = 0; most < 0 || done < most; done++) {
		const char *found = find_last(begin, (size_t)(end - begin), by->text, by->bytes);
		if (!found)
			break;
		TN_TRY(add_piece(j, out, found + by->bytes, end));
		end = found;
	}
	TN_TRY(add_piece(j, out, begin, end));
	turn_around(out->list);
	return TN_OK;
}

static tn_status split(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int from_right,
		       struct tn_jv *out)
{
	static const char *const names[] = { "sep", "maxsplit", NULL };
	struct tn_jv v[2];
	struct tn_jstr *by = NULL;
	struct pieces pieces = { 0 };
	int64_t most;
	TN_TRY(tn_j_parameters(j, name, args, names, 0, v));
	if (tn_jv_is_given(v[0]) && v[0].kind != TN_J_NONE)
		TN_TRY(tn_j_want_string(j, name, v[0], &by));
	TN_TRY(tn_j_want_int(j, name, v[1], -1, &most));
	if (by && !by->bytes)
		return tn_j_fail(j, TN_E_MISMATCH, "empty separator");
	TN_TRY(tn_j_list(j, 0, &pieces.list));
	TN_TRY(tn_j_work(j, self.as.str->bytes / 16));
	*out = tn_jv_list(pieces.list);
	if (!by)
		return from_right ? rsplit_space(j, self.as.str, most, &pieces) : split_space(j, self.as.str, most, &pieces);
	return from_right ? rsplit_by(j, self.as.str, by, most, &pieces) : split_by(j, self.as.str, by, most, &pieces);
}

static tn_status call_split(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return split(j, "split", self, args, 0, out);
}

static tn_status call_rsplit(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return split(j, "rsplit", self, args, 1, out);
}

static tn_status partition(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int last,
			   struct tn_jv *out)
{
	static const char *const names[] = { "/sep", NULL };
	const struct tn_jstr *s = self.as.str;
	struct tn_jv v;
	struct tn_jstr *by;
	struct tn_jlist *parts;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, &v));
	TN_TRY(tn_j_want_string(j, name, v, &by));
	if (!by->bytes)
		return tn_j_fail(j, TN_E_MISMATCH, "empty separator");
	TN_TRY(tn_j_list(j, 3, &parts));
	TN_TRY(find_last_work(j, s, by));
	const char *end = s->text + s->bytes;
	const char *at = last ? find_last(s->text, s->bytes, by->text, by->bytes) : memmem(s->text, s->bytes, by->text, by->bytes);
	const char *behind = at ? at + by->bytes : last ? s->text : end;
	at = at ? at : last ? s->text : end;
	TN_TRY(tn_j_string_kept(j, s->text, (size_t)(at - s->text), &parts->items[0]));
	TN_TRY(tn_j_string_kept(j, at, (size_t)(behind - at), &parts->items[1]));
	TN_TRY(tn_j_string_kept(j, behind, (size_t)(end - behind), &parts->items[2]));
	*out = tn_jv_tuple(parts);
	return TN_OK;
}

static tn_status call_partition(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return partition(j, "partition", self, args, 0, out);
}

static tn_status call_rpartition(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return partition(j, "rpartition", self, args, 1, out);
}

static int ends_line(uint32_t code)
{
	return (code >= 10 && code <= 13) || (code >= 0x1C && code <= 0x1E) || code == 0x85 || code == 0x2028 || code == 0x2029;
}

tn_status tn_js_splitlines(struct tn_j *j, const struct tn_jstr *s, int keep, struct tn_jv *out)
{
	struct pieces pieces = { 0 };
	const char *p = s->text, *end = p + s->bytes, *begin = p;
	TN_TRY(tn_j_list(j, 0, &pieces.list));
	TN_TRY(tn_j_work(j, s->bytes / 16));
	*out = tn_jv_list(pieces.list);
	while (p < end) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		if (!ends_line(code))
			continue;
		p += code == '\r' && p < end && *p == '\n';
		TN_TRY(add_piece(j, &pieces, begin, keep ? p : here));
		begin = p;
	}
	return begin < end ? add_piece(j, &pieces, begin, end) : TN_OK;
}

static tn_status call_splitlines(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "keepends", NULL };
	struct tn_jv v;
	int64_t keep;
	TN_TRY(tn_j_parameters(j, "splitlines", args, names, 0, &v));
	TN_TRY(tn_j_want_int(j, "splitlines", v, 0, &keep));
	return tn_js_splitlines(j, self.as.str, keep != 0, out);
}

/* ---- joining and filling ---------------------------------------------------------------------------------- */

static tn_status call_join(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/iterable", NULL };
	struct tn_jv v;
	struct tn_jlist *items;
	struct tn_jbuffer b = { 0 };
	TN_TRY(tn_j_parameters(j, "join", args, names, 1, &v));
	TN_TRY(tn_j_to_list(j, v, &items));
	for (size_t i = 0; i < items->count; i++) {
		if (!tn_jv_is_string(items->items[i]))
			return tn_j_fail(j, TN_E_MISMATCH, "sequence item %zu: expected str instance, %s found", i,
					 tn_j_type_name(items->items[i]));
		if (i)
			TN_TRY(tn_j_print(j, &b, self));
		TN_TRY(tn_j_print(j, &b, items->items[i]));
	}
	return tn_jb_string(j, &b, out);
}

enum side { LEFT, RIGHT, CENTER };

static tn_status fill(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, enum side side,
		      struct tn_jv *out)
{
	static const char *const names[] = { "/width", "/fillchar", NULL };
	const struct tn_jstr *s = self.as.str;
	struct tn_jstr blank = { .text = " ", .bytes = 1, .chars = 1 }, *by = &blank;
	struct tn_jv v[2];
	struct tn_jbuffer b = { 0 };
	int64_t width;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, v));
	TN_TRY(tn_j_want_int(j, name, v[0], 0, &width));
	if (tn_jv_is_given(v[1]))
		TN_TRY(tn_j_want_string(j, name, v[1], &by));
	if (by->chars != 1)
		return tn_j_fail(j, TN_E_MISMATCH, "The fill character must be exactly one character long");
	size_t room = width > (int64_t)s->chars ? (size_t)width - s->chars : 0;
	size_t before = side == LEFT ? 0 : side == RIGHT ? room : room / 2 + (room & (size_t)width & 1);
	TN_TRY(tn_jb_repeat(j, &b, by->text, by->bytes, before));
	TN_TRY(tn_jb_add(j, &b, s->text, s->bytes));
	TN_TRY(tn_jb_repeat(j, &b, by->text, by->bytes, room - before));
	return tn_jb_string(j, &b, out);
}

static tn_status call_ljust(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return fill(j, "ljust", self, args, LEFT, out);
}

static tn_status call_rjust(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return fill(j, "rjust", self, args, RIGHT, out);
}

static tn_status call_center(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return fill(j, "center", self, args, CENTER, out);
}

static tn_status call_zfill(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/width", NULL };
	const struct tn_jstr *s = self.as.str;
	struct tn_jv v;
	struct tn_jbuffer b = { 0 };
	int64_t width;
	TN_TRY(tn_j_parameters(j, "zfill", args, names, 1, &v));
	TN_TRY(tn_j_want_int(j, "zfill", v, 0, &width));
	size_t sign = s->bytes && (s->text[0] == '-' || s->text[0] == '+');
	TN_TRY(tn_jb_add(j, &b, s->text, sign));
	TN_TRY(tn_jb_repeat(j, &b, "0", 1, width > (int64_t)s->chars ? (size_t)width - s->chars : 0));
	TN_TRY(tn_jb_add(j, &b, s->text + sign, s->bytes - sign));
	return tn_jb_string(j, &b, out);
}

static tn_status call_expandtabs(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "tabsize", NULL };
	struct tn_jv v;
	struct tn_jbuffer b = { 0 };
	int64_t size, column = 0;
	TN_TRY(tn_j_parameters(j, "expandtabs", args, names, 0, &v));
	TN_TRY(tn_j_want_int(j, "expandtabs", v, 8, &size));
	for (const char *p = self.as.str->text, *end = p + self.as.str->bytes; p < end;) {
		uint32_t code = tn_u_next(&p);
		if (code != '\t') {
			column = code == '\n' || code == '\r' ? 0 : column + 1;
			TN_TRY(tn_jb_code(j, &b, code));
		} else if (size > 0) {
			TN_TRY(tn_jb_repeat(j, &b, " ", 1, (size_t)(size - column % size)));
			column += size - column % size;
		}
	}
	return tn_jb_string(j, &b, out);
}

const struct tn_jmethod tn_j_string_more[] = {
	{ "find", call_find }, { "rfind", call_rfind }, { "index", call_index }, { "rindex", call_rindex }, { "count", call_count },
	{ "startswith", call_startswith }, { "endswith", call_endswith }, { "replace", call_replace }, { "split", call_split },
	{ "rsplit", call_rsplit }, { "partition", call_partition }, { "rpartition", call_rpartition },
	{ "splitlines", call_splitlines }, { "join", call_join }, { "ljust", call_ljust }, { "rjust", call_rjust },
	{ "center", call_center }, { "zfill", call_zfill }, { "expandtabs", call_expandtabs }, { "format", tn_j_str_format },
	{ NULL, NULL },
};
