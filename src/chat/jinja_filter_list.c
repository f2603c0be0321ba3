/* SPDX-License-Identifier: Apache-2.0 */
/* Filters on lists and dicts that give their result at once. */
#include "chat/jinja_call.h"

#include <string.h>

/* ---- paths of attributes ---------------------------------------------------------------------------------- */

static int all_digits(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] < '0' || p[i] > '9')
			return 0;
	return n > 0 && n < 18;
}

tn_status tn_j_path(struct tn_j *j, struct tn_jv attribute, struct tn_jpath *out)
{
	*out = (struct tn_jpath){ .otherwise = tn_jv_absent() };
	if (!tn_jv_is_given(attribute) || attribute.kind == TN_J_NONE)
		return TN_OK;
	if (!tn_jv_is_string(attribute)) {
		out->parts[out->count++] = attribute;
		return TN_OK;
	}
	const char *p = attribute.as.str->text, *end = p + attribute.as.str->bytes;
	for (;;) {
		const char *dot = memchr(p, '.', (size_t)(end - p));
		size_t n = (size_t)((dot ? dot : end) - p);
		if (out->count == sizeof out->parts / sizeof *out->parts)
			return tn_j_fail(j, TN_E_LIMIT, "a path of attributes has more than %zu parts", out->count);
		int64_t number = 0;
		for (size_t i = 0; all_digits(p, n) && i < n; i++)
			number = number * 10 + (p[i] - '0');
		if (all_digits(p, n))
			out->parts[out->count++] = tn_jv_int(number);
		else
			TN_TRY(tn_j_string_kept(j, p, n, &out->parts[out->count++]));
		if (!dot)
			return TN_OK;
		p = dot + 1;
	}
}

tn_status tn_j_follow(struct tn_j *j, struct tn_jv item, void *user, struct tn_jv *out)
{
	const struct tn_jpath *path = user;
	for (size_t i = 0; i < path->count; i++) {
		TN_TRY(tn_j_item(j, item, path->parts[i], &item));
		if (item.kind == TN_J_UNDEFINED && tn_jv_is_given(path->otherwise))
			item = path->otherwise;
	}
	*out = item;
	return path->fold_case && tn_jv_is_string(item) ? tn_j_change_case(j, item.as.str, 0, out) : TN_OK;
}

/* ---- asking ----------------------------------------------------------------------------------------------- */

static tn_status only(struct tn_j *j, const char *name, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", NULL };
	return tn_j_parameters(j, name, args, names, 1, out);
}

static tn_status filter_length(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jv v;
	size_t length;
	int known;
	TN_TRY(only(j, "length", args, &v));
	TN_TRY(tn_j_length(j, v, &length, &known));
	if (!known)
		return tn_j_fail(j, TN_E_MISMATCH, "object of type '%s' has no len()", tn_j_type_name(v));
	*out = tn_jv_int((int64_t)length);
	return TN_OK;
}

static tn_status filter_default(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "default_value", "boolean", NULL };
	struct tn_jv v[3];
	TN_TRY(tn_j_parameters(j, "default", args, names, 1, v));
	*out = v[0];
	if (v[0].kind != TN_J_UNDEFINED && !(tn_j_truth(v[2]) && !tn_j_truth(v[0])))
		return TN_OK;
	*out = v[1];
	return tn_jv_is_given(v[1]) ? TN_OK : tn_j_text(j, "", out);
}

/* The item that comes first in that order; `hint` is what an undefined one says of itself. */
static tn_status first_in(struct tn_j *j, const char *name, const struct tn_jargs *args,
			  tn_status (*iterate)(struct tn_j *j, struct tn_jv v, struct tn_jiter **out), const char *hint,
			  struct tn_jv *out)
{
	struct tn_jiter *it;
	struct tn_jv v;
	TN_TRY(only(j, name, args, &v));
	TN_TRY(iterate(j, v, &it));
	TN_TRY(tn_j_next(j, it, out));
	return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_hint(j, hint, out);
}

static tn_status filter_first(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return first_in(j, "first", args, tn_j_iterate, "No first item, sequence was empty.", out);
}

static tn_status filter_last(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return first_in(j, "last", args, tn_j_iterate_back, "No last item, sequence was empty.", out);
}

static tn_status filter_attr(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "obj", "name", NULL };
	struct tn_jv v[2];
	struct tn_jstr *name;
	TN_TRY(tn_j_parameters(j, "attr", args, names, 2, v));
	TN_TRY(tn_j_want_string(j, "attr", v[1], &name));
	if (v[0].kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v[0]);
	TN_TRY(tn_j_own_attribute(j, v[0], v[1], out));
	return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_in(j, v[0], v[1], out);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static tn_status filter_list(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jlist *list;
	struct tn_jv v;
	TN_TRY(only(j, "list", args, &v));
	TN_TRY(tn_j_to_list(j, v, &list));
	*out = tn_jv_list(list);
	return TN_OK;
}

static tn_status filter_join(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "d", "attribute", NULL };
	struct tn_jv v[3], item, by;
	struct tn_jpath path;
	struct tn_jiter *it;
	struct tn_jbuffer b = { 0 };
	TN_TRY(tn_j_parameters(j, "join", args, names, 1, v));
	TN_TRY(tn_j_path(j, v[2], &path));
	TN_TRY(tn_jv_is_given(v[1]) ? tn_j_str(j, v[1], &by) : tn_j_text(j, "", &by));
	TN_TRY(tn_j_iterate(j, v[0], &it));
	for (int first = 1;; first = 0) {
		TN_TRY(tn_j_next(j, it, &item));
		if (!tn_jv_is_given(item))
			return tn_jb_string(j, &b, out);
		TN_TRY(tn_j_follow(j, item, &path, &item));
		if (!first)
			TN_TRY(tn_j_print(j, &b, by));
		TN_TRY(tn_j_print(j, &b, item));
	}
}

/* Keys of several attributes, "a,b.c", compared one after the other. */
struct paths {
	struct tn_jpath items[8];
	size_t count;
};

static tn_status several_paths(struct tn_j *j, struct tn_jv attribute, int fold_case, struct paths *out)
{
	out->count = 0;
	const char *p = tn_jv_is_string(attribute) ? attribute.as.str->text : NULL, *end = p ? p + attribute.as.str->bytes : NULL;
	do {
		const char *comma = p ? memchr(p, ',', (size_t)(end - p)) : NULL;
		struct tn_jv part = attribute;
		if (out->count == sizeof out->items / sizeof *out->items)
			return tn_j_fail(j, TN_E_LIMIT, "sort by more than %zu attributes", out->count);
		if (p)
			TN_TRY(tn_j_string_kept(j, p, (size_t)((comma ? comma : end) - p), &part));
		TN_TRY(tn_j_path(j, part, &out->items[out->count]));
		out->items[out->count++].fold_case = fold_case;
		p = comma ? comma + 1 : NULL;
	} while (p);
	return TN_OK;
}

static tn_status follow_several(struct tn_j *j, struct tn_jv item, void *user, struct tn_jv *out)
{
	struct paths *paths = user;
	struct tn_jlist *keys;
	TN_TRY(tn_j_list(j, paths->count, &keys));
	for (size_t i = 0; i < paths->count; i++)
		TN_TRY(tn_j_follow(j, item, &paths->items[i], &keys->items[i]));
	*out = tn_jv_list(keys);
	return TN_OK;
}

static tn_status filter_sort(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "reverse", "case_sensitive", "attribute", NULL };
	struct tn_jv v[4];
	struct paths paths;
	struct tn_jlist *list;
	int64_t reverse;
	TN_TRY(tn_j_parameters(j, "sort", args, names, 1, v));
	TN_TRY(tn_j_want_int(j, "sort", v[1], 0, &reverse));
	TN_TRY(several_paths(j, v[3], !tn_j_truth(v[2]), &paths));
	TN_TRY(tn_j_to_list(j, v[0], &list));
	TN_TRY(tn_j_sort(j, list, follow_several, &paths, reverse != 0));
	*out = tn_jv_list(list);
	return TN_OK;
}

struct dict_order {
	size_t by;
	int fold_case;
};

static tn_status key_of_pair(struct tn_j *j, struct tn_jv item, void *user, struct tn_jv *out)
{
	const struct dict_order *order = user;
	*out = item.as.list->items[order->by];
	return order->fold_case && tn_jv_is_string(*out) ? tn_j_change_case(j, out->as.str, 0, out) : TN_OK;
}

static tn_status filter_dictsort(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "case_sensitive", "by", "reverse", NULL };
	struct tn_jv v[4];
	struct tn_jlist *pairs;
	struct dict_order order = { 0 };
	int64_t reverse;
	TN_TRY(tn_j_parameters(j, "dictsort", args, names, 1, v));
	TN_TRY(tn_j_want_int(j, "dictsort", v[3], 0, &reverse));
	if (tn_jv_is_given(v[2]))
		order.by = tn_jv_is_string(v[2]) && tn_js_is(v[2].as.str, "value");
	if (tn_jv_is_given(v[2]) && !order.by && !(tn_jv_is_string(v[2]) && tn_js_is(v[2].as.str, "key")))
		return tn_j_fail(j, TN_E_MISMATCH, "You can only sort by either \"key\" or \"value\"");
	if (v[0].kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, v[0]);
	if (v[0].kind != TN_J_DICT)
		return tn_j_fail(j, TN_E_MISMATCH, "'%s' object has no attribute 'items'", tn_j_type_name(v[0]));
	order.fold_case = !tn_j_truth(v[1]);
	struct tn_jview view = { TN_J_ITEMS, v[0].as.dict };
	TN_TRY(tn_j_to_list(j, (struct tn_jv){ .kind = TN_J_VIEW, .as.view = &view }, &pairs));
	TN_TRY(tn_j_sort(j, pairs, key_of_pair, &order, reverse != 0));
	*out = tn_jv_list(pairs);
	return TN_OK;
}

static tn_status filter_groupby(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "attribute", "default", "case_sensitive", NULL };
	struct tn_jv v[4], before = tn_jv_absent(), key;
	struct tn_jpath path, real;
	struct tn_jlist *list, *groups;
	size_t capacity = 0;
	TN_TRY(tn_j_parameters(j, "groupby", args, names, 2, v));
	TN_TRY(tn_j_path(j, v[1], &path));
	path.otherwise = v[2].kind == TN_J_NONE ? tn_jv_absent() : v[2];
	real = path;
	path.fold_case = !tn_j_truth(v[3]);
	TN_TRY(tn_j_to_list(j, v[0], &list));
	TN_TRY(tn_j_sort(j, list, tn_j_follow, &path, 0));
	TN_TRY(tn_j_list(j, 0, &groups));
	for (size_t i = 0; i < list->count; i++) {
		int same = 0;
		TN_TRY(tn_j_follow(j, list->items[i], &path, &key));
		if (i)
			TN_TRY(tn_j_equal(j, before, key, &same));
		before = key;
		if (!same) {
			struct tn_jlist *members;
			TN_TRY(tn_j_follow(j, list->items[i], &real, &key));
			TN_TRY(tn_j_list(j, 0, &members));
			members->items = list->items + i; /* sorted, so each group stands together */
			TN_TRY(tn_j_grow(j, &groups->items, &capacity, groups->count, groups->count + 1, sizeof key));
			TN_TRY(tn_j_pair(j, key, tn_jv_list(members), &groups->items[groups->count]));
			groups->items[groups->count++].as.list->grouped = 1;
		}
		groups->items[groups->count - 1].as.list->items[1].as.list->count++;
	}
	*out = tn_jv_list(groups);
	return TN_OK;
}

/* ---- numbers out of lists --------------------------------------------------------------------------------- */

static tn_status filter_sum(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "iterable", "attribute", "start", NULL };
	struct tn_jv v[3], item, sum;
	struct tn_jpath path;
	struct tn_jiter *it;
	TN_TRY(tn_j_parameters(j, "sum", args, names, 1, v));
	TN_TRY(tn_j_path(j, v[1], &path));
	TN_TRY(tn_j_iterate(j, v[0], &it));
	sum = tn_jv_is_given(v[2]) ? v[2] : tn_jv_int(0);
	if (tn_jv_is_string(sum))
		return tn_j_fail(j, TN_E_MISMATCH, "sum() can't sum strings [use ''.join(seq) instead]");
	for (;;) {
		TN_TRY(tn_j_next(j, it, &item));
		if (!tn_jv_is_given(item))
			break;
		TN_TRY(tn_j_follow(j, item, &path, &item));
		TN_TRY(tn_j_binary(j, TN_JO_ADD, sum, item, &sum));
	}
	*out = sum;
	return TN_OK;
}

static tn_status extreme(struct tn_j *j, const char *name, const struct tn_jargs *args, int wanted, struct tn_jv *out)
{
	static const char *const names[] = { "value", "case_sensitive", "attribute", NULL };
	struct tn_jv v[3], item, key, best_key = tn_jv_absent();
	struct tn_jpath path;
	struct tn_jiter *it;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, v));
	TN_TRY(tn_j_path(j, v[2], &path));
	path.fold_case = !tn_j_truth(v[1]);
	TN_TRY(tn_j_iterate(j, v[0], &it));
	for (;;) {
		int order = wanted;
		TN_TRY(tn_j_next(j, it, &item));
		if (!tn_jv_is_given(item))
			break;
		TN_TRY(tn_j_follow(j, item, &path, &key));
		if (tn_jv_is_given(best_key))
			TN_TRY(tn_j_order(j, key, best_key, wanted < 0 ? "<" : ">", &order));
		if (order != wanted)
			continue;
		*out = item;
		best_key = key;
	}
	return tn_jv_is_given(best_key) ? TN_OK : tn_j_undefined_hint(j, "No aggregated item, sequence was empty.", out);
}

static tn_status filter_min(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return extreme(j, "min", args, -1, out);
}

static tn_status filter_max(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return extreme(j, "max", args, 1, out);
}

const struct tn_jfilter_entry tn_j_list_filters[] = {
	{ "length", filter_length }, { "count", filter_length }, { "default", filter_default }, { "d", filter_default },
	{ "first", filter_first }, { "last", filter_last }, { "attr", filter_attr }, { "list", filter_list },
	{ "join", filter_join }, { "sort", filter_sort }, { "dictsort", filter_dictsort }, { "groupby", filter_groupby },
	{ "sum", filter_sum }, { "min", filter_min }, { "max", filter_max }, { NULL, NULL },
};
