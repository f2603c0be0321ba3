/* SPDX-License-Identifier: Apache-2.0 */
/* Filters that Jinja2 writes as generators: nothing happens, and no error is seen, before somebody walks them. */
#include "chat/jinja_call.h"

#include <string.h>

/* A generator: the arguments of its filter, and what `next` keeps. */
struct lazy {
	struct tn_jargs args;        /* items[0] is the value */
	struct tn_jpath path;
	struct tn_jstr *name;        /* of the filter or test to apply, or NULL */
	int attribute, negated;
	struct tn_jdict *seen;
	tn_status (*start)(struct tn_j *j, const struct tn_jargs *args, struct tn_jlist **out); /* of what is made at once */
	int started;
};

typedef tn_status next_function(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out);

static tn_status make(struct tn_j *j, const struct tn_jargs *args, next_function *next, struct lazy **lazy, struct tn_jv *out)
{
	struct tn_jiter *it = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *it, &it));
	TN_TRY(tn_j_alloc(j, sizeof **lazy, lazy));
	(*lazy)->args = *args;
	it->next = next;
	it->state = *lazy;
	it->source = args->items[0];
	return tn_j_iterator(j, it, out);
}

/* ---- map -------------------------------------------------------------------------------------------------- */

static tn_status named_of(const struct tn_jargs *args, const char *name, struct tn_jv *out)
{
	*out = tn_jv_absent();
	for (size_t i = 0; i < args->named_count; i++)
		if (tn_js_is(args->names[i], name))
			*out = args->named[i];
	return TN_OK;
}

static tn_status start_map(struct tn_j *j, struct lazy *l)
{
	struct tn_jv attribute, otherwise;
	TN_TRY(named_of(&l->args, "attribute", &attribute));
	TN_TRY(named_of(&l->args, "default", &otherwise));
	if (l->args.count == 1 && tn_jv_is_given(attribute)) {
		if (l->args.named_count > 1u + (tn_jv_is_given(otherwise) ? 1 : 0))
			return tn_j_fail(j, TN_E_MISMATCH, "map() got an unexpected keyword argument");
		l->attribute = 1;
		TN_TRY(tn_j_path(j, attribute, &l->path));
		l->path.otherwise = otherwise.kind == TN_J_NONE ? tn_jv_absent() : otherwise;
		return TN_OK;
	}
	if (l->args.count < 2)
		return tn_j_fail(j, TN_E_MISMATCH, "map requires a filter argument");
	return tn_j_want_string(j, "map", l->args.items[1], &l->name);
}

/* `if value:` of the generators: what is false is not walked, whatever it is. */
static tn_status start_walk(struct tn_j *j, struct tn_jiter *it, int *empty)
{
	struct lazy *l = it->state;
	l->started = 1;
	*empty = !tn_j_truth(it->source);
	return *empty ? TN_OK : tn_j_iterate(j, it->source, &it->inner);
}

static tn_status apply(struct tn_j *j, struct lazy *l, struct tn_jv item, struct tn_jv *out)
{
	struct tn_jargs args = l->args;
	TN_TRY(tn_j_array(j, args.count, sizeof *args.items, &args.items));
	memcpy(args.items, l->args.items + 1, (args.count - 1) * sizeof *args.items);
	args.items[0] = item; /* over the filter's name */
	args.count--;
	return tn_j_filter(j, l->name, &args, out);
}

static tn_status next_map(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	struct lazy *l = it->state;
	int empty = 0;
	*out = tn_jv_absent();
	if (!l->started)
		TN_TRY(start_walk(j, it, &empty));
	if (!it->inner)
		return TN_OK;
	if (!l->attribute && !l->name)
		TN_TRY(start_map(j, l));
	struct tn_jv item;
	TN_TRY(tn_j_next(j, it->inner, &item));
	if (!tn_jv_is_given(item))
		return TN_OK;
	return l->attribute ? tn_j_follow(j, item, &l->path, out) : apply(j, l, item, out);
}

static tn_status filter_map(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct lazy *l = NULL;
	return make(j, args, next_map, &l, out);
}

/* ---- select and reject ------------------------------------------------------------------------------------ */

static tn_status start_select(struct tn_j *j, struct lazy *l)
{
	size_t off = 1;
	if (l->attribute) {
		if (l->args.count < 2)
			return tn_j_fail(j, TN_E_MISMATCH, "Missing parameter for attribute name");
		TN_TRY(tn_j_path(j, l->args.items[1], &l->path));
		off = 2;
	}
	if (l->args.count > off)
		TN_TRY(tn_j_want_string(j, "select", l->args.items[off], &l->name));
	return TN_OK;
}

static tn_status holds(struct tn_j *j, struct lazy *l, struct tn_jv item, int *out)
{
	struct tn_jargs args = l->args;
	size_t off = 1 + (size_t)l->attribute;
	TN_TRY(tn_j_follow(j, item, &l->path, &item));
	if (!l->name) {
		*out = tn_j_truth(item);
		return TN_OK;
	}
	args.count -= off;
	TN_TRY(tn_j_array(j, args.count, sizeof *args.items, &args.items));
	memcpy(args.items, l->args.items + off, args.count * sizeof *args.items);
	args.items[0] = item; /* over the test's name */
	return tn_j_test(j, l->name, &args, out);
}

static tn_status next_selected(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	struct lazy *l = it->state;
	int empty = 0, yes = 0;
	*out = tn_jv_absent();
	if (!l->started) {
		TN_TRY(start_walk(j, it, &empty));
		if (!empty)
			TN_TRY(start_select(j, l));
	}
	while (it->inner) {
		struct tn_jv item;
		TN_TRY(tn_j_next(j, it->inner, &item));
		if (!tn_jv_is_given(item))
			return TN_OK;
		TN_TRY(holds(j, l, item, &yes));
		if (yes == l->negated)
			continue;
		*out = item;
		return TN_OK;
	}
	return TN_OK;
}

static tn_status make_selection(struct tn_j *j, const struct tn_jargs *args, int attribute, int negated, struct tn_jv *out)
{
	struct lazy *l = NULL;
	TN_TRY(make(j, args, next_selected, &l, out));
	l->attribute = attribute;
	l->negated = negated;
	return TN_OK;
}

static tn_status filter_select(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_selection(j, args, 0, 0, out);
}

static tn_status filter_reject(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_selection(j, args, 0, 1, out);
}

static tn_status filter_selectattr(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_selection(j, args, 1, 0, out);
}

static tn_status filter_rejectattr(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_selection(j, args, 1, 1, out);
}

/* ---- unique ----------------------------------------------------------------------------------------------- */

static tn_status next_unique(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	struct lazy *l = it->state;
	if (!it->inner) {
		TN_TRY(tn_j_iterate(j, it->source, &it->inner));
		TN_TRY(tn_jd_new(j, &l->seen));
	}
	for (;;) {
		struct tn_jv key, known;
		TN_TRY(tn_j_next(j, it->inner, out));
		if (!tn_jv_is_given(*out))
			return TN_OK;
		TN_TRY(tn_j_follow(j, *out, &l->path, &key));
		TN_TRY(tn_jd_get(j, l->seen, key, &known));
		if (!tn_jv_is_given(known))
			return tn_jd_set(j, l->seen, key, tn_jv_none());
	}
}

static tn_status filter_unique(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "case_sensitive", "attribute", NULL };
	struct lazy *l = NULL;
	struct tn_jv v[3];
	TN_TRY(tn_j_parameters(j, "unique", args, names, 1, v));
	TN_TRY(make(j, args, next_unique, &l, out));
	out->as.iter->source = v[0];
	TN_TRY(tn_j_path(j, v[2], &l->path));
	l->path.fold_case = !tn_j_truth(v[1]);
	return TN_OK;
}

/* ---- items, batch, slice, reverse ------------------------------------------------------------------------- */

/* Walks the list that `start` made of the arguments when the first item was asked for. */
static tn_status next_made(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	struct lazy *l = it->state;
	if (!l->started) {
		struct tn_jlist *list;
		l->started = 1;
		TN_TRY(l->start(j, &l->args, &list));
		TN_TRY(tn_j_iterate(j, tn_jv_list(list), &it->inner));
	}
	return tn_j_next(j, it->inner, out);
}

static tn_status make_late(struct tn_j *j, const struct tn_jargs *args,
			   tn_status (*start)(struct tn_j *, const struct tn_jargs *, struct tn_jlist **), struct tn_jv *out)
{
	struct lazy *l = NULL;
	TN_TRY(make(j, args, next_made, &l, out));
	l->start = start;
	return TN_OK;
}

static tn_status start_items(struct tn_j *j, const struct tn_jargs *args, struct tn_jlist **out)
{
	static const char *const names[] = { "value", NULL };
	struct tn_jv v;
	TN_TRY(tn_j_parameters(j, "items", args, names, 1, &v));
	if (v.kind == TN_J_UNDEFINED)
		return tn_j_list(j, 0, out);
	if (v.kind != TN_J_DICT)
		return tn_j_fail(j, TN_E_MISMATCH, "Can only get item pairs from a mapping.");
	struct tn_jview view = { TN_J_ITEMS, v.as.dict };
	return tn_j_to_list(j, (struct tn_jv){ .kind = TN_J_VIEW, .as.view = &view }, out);
}

static tn_status filter_items(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_late(j, args, start_items, out);
}

/* A list of `count` items from `from`, then `fill` up to `room`. */
static tn_status part_of(struct tn_j *j, const struct tn_jlist *list, size_t from, size_t count, struct tn_jv fill, size_t room,
			 struct tn_jv *out)
{
	struct tn_jlist *part;
	int filled = tn_jv_is_given(fill) && fill.kind != TN_J_NONE && room > count;
	TN_TRY(tn_j_list(j, filled ? room : count, &part));
	for (size_t i = 0; i < part->count; i++)
		part->items[i] = i < count ? list->items[from + i] : fill;
	*out = tn_jv_list(part);
	return TN_OK;
}

static tn_status start_batch(struct tn_j *j, const struct tn_jargs *args, struct tn_jlist **out)
{
	static const char *const names[] = { "value", "linecount", "fill_with", NULL };
	struct tn_jv v[3];
	struct tn_jlist *list;
	TN_TRY(tn_j_parameters(j, "batch", args, names, 2, v));
	TN_TRY(tn_j_to_list(j, v[0], &list));
	/* a size that no batch comes to leaves all in one */
	int64_t size = tn_jv_is_whole(v[1]) ? v[1].as.integer : 0;
	size_t n = size > 0 ? (size_t)size : list->count + 1, batches = list->count / n + (list->count % n != 0);
	v[2] = size > 0 ? v[2] : tn_jv_absent();
	TN_TRY(tn_j_list(j, batches, out));
	for (size_t i = 0; i < batches; i++) {
		size_t left = list->count - i * n;
		TN_TRY(part_of(j, list, i * n, left < n ? left : n, v[2], n, &(*out)->items[i]));
	}
	return TN_OK;
}

static tn_status filter_batch(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_late(j, args, start_batch, out);
}

static tn_status start_slice(struct tn_j *j, const struct tn_jargs *args, struct tn_jlist **out)
{
	static const char *const names[] = { "value", "slices", "fill_with", NULL };
	struct tn_jv v[3];
	struct tn_jlist *list;
	int64_t slices;
	TN_TRY(tn_j_parameters(j, "slice", args, names, 2, v));
	TN_TRY(tn_j_want_int(j, "slice", v[1], 1, &slices));
	TN_TRY(tn_j_to_list(j, v[0], &list));
	if (slices == 0)
		return tn_j_fail(j, TN_E_MISMATCH, "integer division or modulo by zero");
	size_t n = slices > 0 ? (size_t)slices : 0, each = n ? list->count / n : 0, longer = n ? list->count % n : 0, at = 0;
	TN_TRY(tn_j_list(j, n, out));
	for (size_t i = 0; i < n; i++) {
		size_t count = each + (i < longer);
		TN_TRY(part_of(j, list, at, count, i < longer ? tn_jv_absent() : v[2], each + 1, &(*out)->items[i]));
		at += count;
	}
	return TN_OK;
}

static tn_status filter_slice(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_late(j, args, start_slice, out);
}

static tn_status filter_reverse(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", NULL };
	static const struct tn_jv back[3] = { { .kind = TN_J_NONE, .as.integer = 0 }, { .kind = TN_J_NONE, .as.integer = 0 },
					      { .kind = TN_J_INT, .as.integer = -1 } };
	struct tn_jv v;
	struct tn_jiter *it;
	struct tn_jlist *list;
	TN_TRY(tn_j_parameters(j, "reverse", args, names, 1, &v));
	if (tn_jv_is_string(v))
		return tn_j_slice(j, v, back, out);
	if (v.kind == TN_J_ITER || v.kind == TN_J_LOOP) {
		TN_TRY(tn_j_to_list(j, v, &list));
		return tn_j_slice(j, tn_jv_list(list), back, out);
	}
	TN_TRY(tn_j_iterate_back(j, v, &it));
	return tn_j_iterator(j, it, out);
}

const struct tn_jfilter_entry tn_j_lazy_filters[] = {
	{ "map", filter_map }, { "select", filter_select }, { "reject", filter_reject }, { "selectattr", filter_selectattr },
	{ "rejectattr", filter_rejectattr }, { "unique", filter_unique }, { "items", filter_items }, { "batch", filter_batch },
	{ "slice", filter_slice }, { "reverse", filter_reverse }, { NULL, NULL },
};
