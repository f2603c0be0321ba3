/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of dict and list. Those that would change it are there without a function: the sandbox keeps them away. */
#include "chat/jinja_call.h"

static tn_status make_view(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, enum tn_jview_kind what,
			   struct tn_jv *out)
{
	struct tn_jview *view = NULL;
	if (args->count || args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "keys(), values() and items() take no arguments");
	TN_TRY(tn_j_alloc(j, sizeof *view, &view));
	*view = (struct tn_jview){ what, self.as.dict };
	*out = (struct tn_jv){ .kind = TN_J_VIEW, .as.view = view };
	return TN_OK;
}

static tn_status call_keys(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_view(j, self, args, TN_J_KEYS, out);
}

static tn_status call_values(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_view(j, self, args, TN_J_VALUES, out);
}

static tn_status call_items(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return make_view(j, self, args, TN_J_ITEMS, out);
}

static tn_status call_get(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/key", "/default", NULL };
	struct tn_jv v[2];
	TN_TRY(tn_j_parameters(j, "get", args, names, 1, v));
	TN_TRY(tn_jd_get(j, self.as.dict, v[0], out));
	if (!tn_jv_is_given(*out))
		*out = tn_jv_is_given(v[1]) ? v[1] : tn_jv_none();
	return TN_OK;
}

static tn_status call_copy(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jdict *copy;
	*out = self;
	if (args->count || args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "copy() takes no arguments");
	if (self.kind != TN_J_DICT)
		return TN_OK;
	TN_TRY(tn_jd_copy(j, self.as.dict, &copy));
	*out = tn_jv_dict(copy);
	return TN_OK;
}

static tn_status call_index(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/value", "/start", "/stop", NULL };
	struct tn_jv v[3];
	int64_t n = (int64_t)self.as.list->count, from, to;
	int same = 0;
	TN_TRY(tn_j_parameters(j, "index", args, names, 1, v));
	TN_TRY(tn_j_want_int(j, "index", v[1], 0, &from));
	TN_TRY(tn_j_want_int(j, "index", v[2], n, &to));
	from = from < -n ? 0 : from < 0 ? from + n : from;
	to = to < 0 ? to + n : to > n ? n : to;
	for (int64_t i = from; i < to; i++) {
		TN_TRY(tn_j_equal(j, self.as.list->items[i], v[0], &same));
		*out = tn_jv_int(i);
		if (same)
			return TN_OK;
	}
	return tn_j_fail(j, TN_E_MISMATCH, "the value of index() is not in the list");
}

static tn_status call_count(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/value", NULL };
	struct tn_jv v;
	int64_t count = 0;
	TN_TRY(tn_j_parameters(j, "count", args, names, 1, &v));
	for (size_t i = 0; i < self.as.list->count; i++) {
		int same;
		TN_TRY(tn_j_equal(j, self.as.list->items[i], v, &same));
		count += same;
	}
	*out = tn_jv_int(count);
	return TN_OK;
}

const struct tn_jmethod tn_j_list_methods[] = {
	{ "index", call_index }, { "count", call_count }, { "copy", call_copy }, { "append", NULL }, { "clear", NULL },
	{ "pop", NULL }, { "reverse", NULL }, { "insert", NULL }, { "sort", NULL }, { "extend", NULL }, { "remove", NULL },
	{ NULL, NULL },
};

const struct tn_jmethod tn_j_dict_methods[] = {
	{ "get", call_get }, { "items", call_items }, { "keys", call_keys }, { "values", call_values }, { "copy", call_copy },
	{ "clear", NULL }, { "pop", NULL }, { "popitem", NULL }, { "setdefault", NULL }, { "update", NULL }, { NULL, NULL },
};
