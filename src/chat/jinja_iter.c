/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include "chat/jinja_unicode.h"

#include <string.h>

/* ---- over what is there ----------------------------------------------------------------------------------- */

/* The i-th item of a list, a dict's keys, a view or a range. */
static tn_status item_at(struct tn_j *j, struct tn_jv v, size_t i, struct tn_jv *out)
{
	if (v.kind == TN_J_LIST || v.kind == TN_J_TUPLE)
		*out = v.as.list->items[i];
	else if (v.kind == TN_J_DICT)
		*out = v.as.dict->entries[i].key;
	else if (v.kind == TN_J_VIEW)
		return tn_jd_show(j, v.as.view, i, out);
	else
		*out = tn_jv_int(v.as.range->start + (int64_t)i * v.as.range->step);
	return TN_OK;
}

static tn_status next_indexed(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	size_t count;
	int known;
	TN_TRY(tn_j_length(j, it->source, &count, &known));
	if (it->at >= count) {
		*out = tn_jv_absent();
		return TN_OK;
	}
	size_t i = it->at++;
	return item_at(j, it->source, it->backwards ? count - 1 - i : i, out);
}

static tn_status next_char(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	const struct tn_jstr *s = it->source.as.str;
	const char *begin = s->text + it->at, *p = begin;
	if (it->at >= s->bytes) {
		*out = tn_jv_absent();
		return TN_OK;
	}
	tn_u_next(&p);
	it->at += (size_t)(p - begin);
	return tn_j_string_kept(j, begin, (size_t)(p - begin), out);
}

static tn_status next_none(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	(void)j;
	(void)it;
	*out = tn_jv_absent();
	return TN_OK;
}

int tn_j_is_iterable(struct tn_jv v)
{
	switch (v.kind) {
	case TN_J_UNDEFINED:
	case TN_J_STRING:
	case TN_J_LIST:
	case TN_J_TUPLE:
	case TN_J_DICT:
	case TN_J_VIEW:
	case TN_J_RANGE:
	case TN_J_ITER:
	case TN_J_LOOP: return 1;
	default: return 0;
	}
}

/* `{% for x in loop %}` takes from the loop itself. */
static tn_status next_of_loop(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	struct tn_jv item;
	TN_TRY(tn_jl_next(j, it->source.as.loop, &item));
	*out = item;
	return tn_jv_is_given(item) ? tn_j_pair(j, item, it->source, out) : TN_OK;
}

tn_status tn_j_iterate(struct tn_j *j, struct tn_jv v, struct tn_jiter **out)
{
	struct tn_jiter *it = NULL;
	if (!tn_j_is_iterable(v))
		return tn_j_fail(j, TN_E_MISMATCH, "'%s' object is not iterable", tn_j_type_name(v));
	if (v.kind == TN_J_ITER) {
		*out = v.as.iter;
		return TN_OK;
	}
	TN_TRY(tn_j_alloc(j, sizeof *it, &it));
	it->source = v;
	it->next = v.kind == TN_J_UNDEFINED ? next_none : v.kind == TN_J_STRING ? next_char :
		   v.kind == TN_J_LOOP ? next_of_loop : next_indexed;
	*out = it;
	return TN_OK;
}

tn_status tn_j_iterate_back(struct tn_j *j, struct tn_jv v, struct tn_jiter **out)
{
	struct tn_jlist *chars;
	if (tn_jv_is_string(v)) {
		TN_TRY(tn_j_to_list(j, v, &chars));
		v = tn_jv_list(chars);
	}
	if (v.kind == TN_J_ITER || v.kind == TN_J_LOOP || !tn_j_is_iterable(v))
		return tn_j_fail(j, TN_E_MISMATCH, "'%s' object is not reversible", tn_j_type_name(v));
	TN_TRY(tn_j_iterate(j, v, out));
	(*out)->backwards = 1;
	return TN_OK;
}

tn_status tn_j_next(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	TN_TRY(tn_j_enter(j));
	TN_TRY(it->next(j, it, out));
	tn_j_leave(j);
	return TN_OK;
}

tn_status tn_j_iterator(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	(void)j;
	*out = (struct tn_jv){ .kind = TN_J_ITER, .as.iter = it };
	return TN_OK;
}

/* ---- all of it -------------------------------------------------------------------------------------------- */

tn_status tn_j_rest(struct tn_j *j, struct tn_jiter *it, struct tn_jlist **out)
{
	struct tn_jlist *list;
	struct tn_jv item;
	size_t capacity = 0;
	TN_TRY(tn_j_list(j, 0, &list));
	for (;;) {
		TN_TRY(tn_j_next(j, it, &item));
		if (!tn_jv_is_given(item))
			break;
		TN_TRY(tn_j_grow(j, &list->items, &capacity, list->count, list->count + 1, sizeof *list->items));
		list->items[list->count++] = item;
	}
	*out = list;
	return TN_OK;
}

tn_status tn_j_to_list(struct tn_j *j, struct tn_jv v, struct tn_jlist **out)
{
	struct tn_jiter *it;
	TN_TRY(tn_j_iterate(j, v, &it));
	return tn_j_rest(j, it, out);
}

tn_status tn_j_length(struct tn_j *j, struct tn_jv v, size_t *out, int *known)
{
	*known = 1;
	switch (v.kind) {
	case TN_J_UNDEFINED: *out = 0; return TN_OK;
	case TN_J_STRING: *out = v.as.str->chars; return TN_OK;
	case TN_J_LIST:
	case TN_J_TUPLE: *out = v.as.list->count; return TN_OK;
	case TN_J_DICT: *out = v.as.dict->count; return TN_OK;
	case TN_J_VIEW: *out = v.as.view->dict->count; return TN_OK;
	case TN_J_RANGE: *out = v.as.range->count; return TN_OK;
	case TN_J_LOOP: return tn_jl_length(j, v.as.loop, out);
	default: *known = 0; *out = 0; return TN_OK;
	}
}

static tn_status contains_text(struct tn_j *j, struct tn_jv item, const struct tn_jstr *in, int *out)
{
	if (item.kind == TN_J_UNDEFINED || !tn_jv_is_string(item))
		return tn_j_fail(j, TN_E_MISMATCH, "'in <string>' requires string as left operand, not %s", tn_j_type_name(item));
	TN_TRY(tn_j_work(j, in->bytes / 64));
	*out = memmem(in->text, in->bytes, item.as.str->text, item.as.str->bytes) != NULL;
	return TN_OK;
}

tn_status tn_j_contains(struct tn_j *j, struct tn_jv item, struct tn_jv in, int *out)
{
	struct tn_jiter *it;
	struct tn_jv other;
	if (tn_jv_is_string(in))
		return contains_text(j, item, in.as.str, out);
	if (in.kind == TN_J_DICT || (in.kind == TN_J_VIEW && in.as.view->what == TN_J_KEYS)) {
		TN_TRY(tn_jd_get(j, in.kind == TN_J_DICT ? in.as.dict : in.as.view->dict, item, &other));
		*out = tn_jv_is_given(other);
		return TN_OK;
	}
	if (!tn_j_is_iterable(in))
		return tn_j_fail(j, TN_E_MISMATCH, "argument of type '%s' is not iterable", tn_j_type_name(in));
	TN_TRY(tn_j_iterate(j, in, &it));
	for (*out = 0; !*out;) {
		TN_TRY(tn_j_next(j, it, &other));
		if (!tn_jv_is_given(other))
			break;
		TN_TRY(tn_j_equal(j, other, item, out));
	}
	return TN_OK;
}

/* ---- sorting ---------------------------------------------------------------------------------------------- */

struct sorted {
	struct tn_jv key, item;
};

tn_status tn_j_first_of_pair(struct tn_j *j, struct tn_jv item, void *user, struct tn_jv *out)
{
	(void)j;
	(void)user;
	*out = item.as.list->items[0];
	return TN_OK;
}

/* Merges two runs; of equal keys the left one goes first. Reversed, larger keys go first, and equal ones stay in order. */
static tn_status merge(struct tn_j *j, const struct sorted *from, size_t begin, size_t middle, size_t end, struct sorted *to,
		       int reverse)
{
	size_t left = begin, right = middle;
	for (size_t i = begin; i < end; i++) {
		int order = 0;
		if (left < middle && right < end) {
			TN_TRY(tn_j_work(j, 1));
			if (reverse)
				TN_TRY(tn_j_order(j, from[left].key, from[right].key, "<", &order));
			else
				TN_TRY(tn_j_order(j, from[right].key, from[left].key, "<", &order));
		}
		int take_right = left >= middle || (right < end && order == -1);
		to[i] = take_right ? from[right++] : from[left++];
	}
	return TN_OK;
}

tn_status tn_j_sort(struct tn_j *j, struct tn_jlist *list, tn_jkey *key, void *user, int reverse)
{
	struct sorted *a = NULL, *b = NULL;
	size_t n = list->count;
	TN_TRY(tn_j_array(j, n, sizeof *a, &a));
	TN_TRY(tn_j_array(j, n, sizeof *b, &b));
	for (size_t i = 0; i < n; i++) {
		a[i].item = list->items[i];
		TN_TRY(key(j, a[i].item, user, &a[i].key));
	}
	for (size_t width = 1; width < n; width *= 2) {
		for (size_t begin = 0; begin < n; begin += 2 * width) {
			size_t middle = n - begin < width ? n : begin + width, end = n - begin < 2 * width ? n : begin + 2 * width;
			TN_TRY(merge(j, a, begin, middle, end, b, reverse));
		}
		struct sorted *swap = a;
		a = b;
		b = swap;
	}
	for (size_t i = 0; i < n; i++)
		list->items[i] = a[i].item;
	return TN_OK;
}
