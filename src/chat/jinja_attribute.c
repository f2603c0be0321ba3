/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include "chat/jinja_unicode.h"

#include <string.h>

/* ---- pieces of strings ------------------------------------------------------------------------------------ */

/* The byte of the n-th code point. */
static size_t byte_of(const struct tn_jstr *s, size_t n)
{
	if (s->chars == s->bytes || n >= s->chars)
		return n < s->chars ? n : s->bytes;
	size_t at = 0;
	for (; n; n--)
		for (at++; at < s->bytes && ((unsigned char)s->text[at] & 0xC0) == 0x80; at++)
			;
	return at;
}

void tn_js_span(const struct tn_jstr *s, size_t from, size_t to, const char **begin, size_t *bytes)
{
	size_t first = byte_of(s, from), last = to > from ? byte_of(s, to) : first;
	*begin = s->text + first;
	*bytes = last - first;
}

/* ---- slices ----------------------------------------------------------------------------------------------- */

static tn_status slice_part(struct tn_j *j, struct tn_jv v, int64_t otherwise, int64_t *out)
{
	*out = otherwise;
	if (v.kind == TN_J_NONE)
		return TN_OK;
	if (v.kind == TN_J_UNDEFINED || !tn_jv_is_whole(v))
		return tn_j_fail(j, TN_E_MISMATCH, "slice indices must be integers or None or have an __index__ method");
	*out = v.as.integer;
	return TN_OK;
}

struct cut {
	int64_t start, step;
	size_t count;
};

/* As slice.indices does. */
static tn_status slice_indices(struct tn_j *j, const struct tn_jv part[3], size_t length, struct cut *out)
{
	int64_t n = (int64_t)length, start, stop;
	TN_TRY(slice_part(j, part[2], 1, &out->step));
	if (out->step == 0)
		return tn_j_fail(j, TN_E_MISMATCH, "slice step cannot be zero");
	int back = out->step < 0;
	if (out->step < -INT64_MAX)
		out->step = -INT64_MAX;
	TN_TRY(slice_part(j, part[0], back ? n - 1 : 0, &start));
	TN_TRY(slice_part(j, part[1], back ? -n - 1 : n, &stop));
	int64_t low = back ? -1 : 0, high = back ? n - 1 : n;
	if (part[0].kind != TN_J_NONE)
		start = start < 0 ? (start + n < low ? low : start + n) : start > high ? high : start;
	stop = stop < 0 ? (stop + n < low ? low : stop + n) : stop > high ? high : stop;
	int64_t span = back ? start - stop : stop - start, step = back ? -out->step : out->step;
	out->start = start;
	out->count = span > 0 ? (size_t)((span - 1) / step + 1) : 0;
	return TN_OK;
}

static tn_status slice_string(struct tn_j *j, const struct tn_jstr *s, const struct cut *cut, struct tn_jv *out)
{
	const char *begin;
	size_t bytes;
	struct tn_jbuffer b = { 0 };
	if (cut->step == 1 || cut->count < 2) {
		tn_js_span(s, (size_t)cut->start, (size_t)cut->start + cut->count, &begin, &bytes);
		TN_TRY(tn_j_work(j, s->bytes / 64));
		return tn_j_string_kept(j, begin, bytes, out);
	}
	const char **at = NULL, *p = s->text;
	TN_TRY(tn_j_array(j, s->chars + 1, sizeof *at, &at));
	for (size_t i = 0; i < s->chars; i++) {
		at[i] = p;
		tn_u_next(&p);
	}
	at[s->chars] = p;
	for (size_t i = 0; i < cut->count; i++) {
		int64_t k = cut->start + (int64_t)i * cut->step;
		TN_TRY(tn_jb_add(j, &b, at[k], (size_t)(at[k + 1] - at[k])));
	}
	return tn_jb_string(j, &b, out);
}

static tn_status slice_list(struct tn_j *j, struct tn_jv v, const struct cut *cut, struct tn_jv *out)
{
	struct tn_jlist *made;
	TN_TRY(tn_j_list(j, cut->count, &made));
	for (size_t i = 0; i < cut->count; i++)
		made->items[i] = v.as.list->items[cut->start + (int64_t)i * cut->step];
	*out = v.kind == TN_J_LIST ? tn_jv_list(made) : tn_jv_tuple(made);
	return TN_OK;
}

static tn_status slice_range(struct tn_j *j, const struct tn_jrange *r, const struct cut *cut, struct tn_jv *out)
{
	struct tn_jrange *made = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *made, &made));
	made->start = r->start + cut->start * r->step;
	if (__builtin_mul_overflow(r->step, cut->step, &made->step))
		made->step = cut->step < 0 ? -1 : 1; /* fewer than two items are left */
	made->count = cut->count;
	made->stop = made->start + (int64_t)cut->count * made->step;
	*out = (struct tn_jv){ .kind = TN_J_RANGE, .as.range = made };
	return TN_OK;
}

tn_status tn_j_slice(struct tn_j *j, struct tn_jv v, const struct tn_jv part[3], struct tn_jv *out)
{
	struct cut cut;
	size_t length;
	int known;
	if (v.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v);
	TN_TRY(tn_j_length(j, v, &length, &known));
	switch (v.kind) {
	case TN_J_STRING:
		TN_TRY(slice_indices(j, part, length, &cut));
		return slice_string(j, v.as.str, &cut, out);
	case TN_J_LIST:
	case TN_J_TUPLE:
		TN_TRY(slice_indices(j, part, length, &cut));
		return slice_list(j, v, &cut, out);
	case TN_J_RANGE:
		TN_TRY(slice_indices(j, part, length, &cut));
		return slice_range(j, v.as.range, &cut, out);
	case TN_J_DICT: return tn_j_fail(j, TN_E_MISMATCH, "unhashable type: 'slice'");
	default: return tn_j_fail(j, TN_E_MISMATCH, "'%s' object is not subscriptable", tn_j_type_name(v));
	}
}

/* ---- attributes ------------------------------------------------------------------------------------------- */

static tn_status find_method(struct tn_j *j, const struct tn_jmethod *methods, struct tn_jv v, const struct tn_jstr *name,
			     struct tn_jv *out)
{
	for (; methods->name; methods++)
		if (tn_js_is(name, methods->name))
			return methods->call ? tn_j_function(j, methods->name, methods->call, v, out) :
			       tn_j_undefined_hint(j, "a method that changes its object is not safe in a chat template", out);
	return TN_OK;
}

static tn_status call_next(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jcycler *c = self.as.cycler;
	(void)j;
	(void)args;
	*out = c->items->items[c->at];
	c->at = (c->at + 1) % c->items->count;
	return TN_OK;
}

static tn_status call_reset(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	(void)j;
	(void)args;
	self.as.cycler->at = 0;
	*out = tn_jv_none();
	return TN_OK;
}

static tn_status cycler_attribute(struct tn_j *j, struct tn_jv v, const struct tn_jstr *name, struct tn_jv *out)
{
	if (tn_js_is(name, "current"))
		*out = v.as.cycler->items->items[v.as.cycler->at];
	else if (tn_js_is(name, "next"))
		return tn_j_function(j, "next", call_next, v, out);
	else if (tn_js_is(name, "reset"))
		return tn_j_function(j, "reset", call_reset, v, out);
	return TN_OK;
}

static tn_status range_attribute(struct tn_jv v, const struct tn_jstr *name, struct tn_jv *out)
{
	if (tn_js_is(name, "start"))
		*out = tn_jv_int(v.as.range->start);
	else if (tn_js_is(name, "stop"))
		*out = tn_jv_int(v.as.range->stop);
	else if (tn_js_is(name, "step"))
		*out = tn_jv_int(v.as.range->step);
	return TN_OK;
}

static tn_status tuple_attribute(struct tn_j *j, struct tn_jv v, const struct tn_jstr *name, struct tn_jv *out)
{
	if (v.as.list->grouped && (tn_js_is(name, "grouper") || tn_js_is(name, "list"))) {
		*out = v.as.list->items[tn_js_is(name, "list")];
		return TN_OK;
	}
	if (!tn_js_is(name, "index") && !tn_js_is(name, "count"))
		return TN_OK;
	return find_method(j, tn_j_list_methods, v, name, out);
}

tn_status tn_j_own_attribute(struct tn_j *j, struct tn_jv v, struct tn_jv key, struct tn_jv *out)
{
	const struct tn_jstr *name = key.as.str;
	*out = tn_jv_absent();
	switch (v.kind) {
	case TN_J_STRING:
		TN_TRY(find_method(j, tn_j_string_methods, v, name, out));
		return tn_jv_is_given(*out) ? TN_OK : find_method(j, tn_j_string_more, v, name, out);
	case TN_J_LIST: return find_method(j, tn_j_list_methods, v, name, out);
	case TN_J_TUPLE: return tuple_attribute(j, v, name, out);
	case TN_J_DICT: return find_method(j, tn_j_dict_methods, v, name, out);
	case TN_J_RANGE: return range_attribute(v, name, out);
	case TN_J_NAMESPACE: return tn_jd_get(j, v.as.dict, key, out);
	case TN_J_LOOP: return tn_jl_attribute(j, v, name, out);
	case TN_J_CYCLER: return cycler_attribute(j, v, name, out);
	case TN_J_FUNC:
		if (v.as.func->macro && tn_js_is(name, "name"))
			return tn_j_text(j, v.as.func->name, out);
		return TN_OK;
	default: return TN_OK;
	}
}

/* ---- v.name and v[key] ------------------------------------------------------------------------------------ */

/* What every object of Python has under such a name is kept from templates. */
static int is_internal(struct tn_jv name)
{
	return tn_jv_is_string(name) && name.as.str->bytes >= 2 && memcmp(name.as.str->text, "__", 2) == 0;
}

static tn_status list_item(struct tn_jv v, struct tn_jv key, struct tn_jv *out)
{
	int64_t n = (int64_t)v.as.list->count, i = tn_jv_is_whole(key) ? key.as.integer : n;
	i += i < 0 ? n : 0;
	if (tn_jv_is_whole(key) && i >= 0 && i < n)
		*out = v.as.list->items[i];
	return TN_OK;
}

/* v[key] as Python alone does it; absent when that fails. */
static tn_status subscript(struct tn_j *j, struct tn_jv v, struct tn_jv key, struct tn_jv *out)
{
	const char *begin;
	size_t bytes;
	*out = tn_jv_absent();
	if (v.kind == TN_J_LIST || v.kind == TN_J_TUPLE)
		return list_item(v, key, out);
	if (v.kind == TN_J_DICT && key.kind != TN_J_LIST && key.kind != TN_J_DICT)
		return tn_jd_get(j, v.as.dict, key, out);
	if (!tn_jv_is_whole(key) || (v.kind != TN_J_STRING && v.kind != TN_J_RANGE))
		return TN_OK;
	int64_t n = (int64_t)(v.kind == TN_J_STRING ? v.as.str->chars : v.as.range->count);
	int64_t i = key.as.integer < 0 ? key.as.integer + n : key.as.integer;
	if (i < 0 || i >= n)
		return TN_OK;
	if (v.kind == TN_J_RANGE) {
		*out = tn_jv_int(v.as.range->start + i * v.as.range->step);
		return TN_OK;
	}
	TN_TRY(tn_j_work(j, v.as.str->chars == v.as.str->bytes ? 0 : v.as.str->bytes / 64));
	tn_js_span(v.as.str, (size_t)i, (size_t)i + 1, &begin, &bytes);
	return tn_j_string_kept(j, begin, bytes, out);
}

tn_status tn_j_attribute(struct tn_j *j, struct tn_jv v, struct tn_jv name, struct tn_jv *out)
{
	if (v.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v);
	TN_TRY(tn_j_own_attribute(j, v, name, out));
	if (!tn_jv_is_given(*out))
		TN_TRY(subscript(j, v, name, out));
	if (!tn_jv_is_given(*out) && is_internal(name))
		return tn_j_undefined_hint(j, "access to an attribute that begins with __ is unsafe.", out);
	return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_in(j, v, name, out);
}

tn_status tn_j_item(struct tn_j *j, struct tn_jv v, struct tn_jv key, struct tn_jv *out)
{
	if (v.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v);
	TN_TRY(subscript(j, v, key, out));
	if (!tn_jv_is_given(*out) && tn_jv_is_string(key))
		TN_TRY(tn_j_own_attribute(j, v, key, out));
	return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_in(j, v, key, out);
}
