/* SPDX-License-Identifier: Apache-2.0 */
/* Functions that every template has. */
#include "chat/jinja_call.h"

#include "chat/jinja_clock.h"

#include <string.h>

enum { LONGEST_RANGE = 100000 };

static tn_status call_range(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "/start", "/stop", "/step", NULL };
	struct tn_jrange *range = NULL;
	struct tn_jv v[3];
	(void)self;
	TN_TRY(tn_j_parameters(j, "range", args, names, 1, v));
	TN_TRY(tn_j_alloc(j, sizeof *range, &range));
	TN_TRY(tn_j_want_int(j, "range", v[0], 0, &range->start));
	TN_TRY(tn_j_want_int(j, "range", v[1], 0, &range->stop));
	TN_TRY(tn_j_want_int(j, "range", v[2], 1, &range->step));
	if (!tn_jv_is_given(v[1])) {
		range->stop = range->start;
		range->start = 0;
	}
	if (range->step == 0)
		return tn_j_fail(j, TN_E_MISMATCH, "range() arg 3 must not be zero");
	int up = range->step > 0;
	uint64_t step = up ? (uint64_t)range->step : 0 - (uint64_t)range->step;
	uint64_t span = up ? (uint64_t)range->stop - (uint64_t)range->start : (uint64_t)range->start - (uint64_t)range->stop;
	int empty = up ? range->stop <= range->start : range->stop >= range->start;
	range->count = empty ? 0 : (size_t)((span - 1) / step + 1);
	if (range->count > LONGEST_RANGE)
		return tn_j_fail(j, TN_E_LIMIT, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
				 (int)LONGEST_RANGE);
	*out = (struct tn_jv){ .kind = TN_J_RANGE, .as.range = range };
	return TN_OK;
}

/* dict(a mapping or pairs, name=value) */
static tn_status make_dict(struct tn_j *j, const struct tn_jargs *args, struct tn_jdict **out)
{
	struct tn_jlist *items, *pair;
	TN_TRY(tn_jd_new(j, out));
	if (args->count > 1)
		return tn_j_fail(j, TN_E_MISMATCH, "dict expected at most 1 argument, got %zu", args->count);
	if (args->count == 1) {
		struct tn_jv from = args->items[0];
		struct tn_jview view = { TN_J_ITEMS, from.kind == TN_J_DICT ? from.as.dict : NULL };
		TN_TRY(tn_j_to_list(j, from.kind == TN_J_DICT ? (struct tn_jv){ .kind = TN_J_VIEW, .as.view = &view } : from,
				    &items));
		for (size_t i = 0; i < items->count; i++) {
			TN_TRY(tn_j_to_list(j, items->items[i], &pair));
			if (pair->count != 2)
				return tn_j_fail(j, TN_E_MISMATCH, "a dict is made of pairs, and one has %zu items", pair->count);
			TN_TRY(tn_jd_set(j, *out, pair->items[0], pair->items[1]));
		}
	}
	for (size_t i = 0; i < args->named_count; i++)
		TN_TRY(tn_jd_set(j, *out, tn_jv_str(args->names[i]), args->named[i]));
	return TN_OK;
}

static tn_status call_dict(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jdict *dict;
	(void)self;
	TN_TRY(make_dict(j, args, &dict));
	*out = tn_jv_dict(dict);
	return TN_OK;
}

static tn_status call_namespace(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jdict *dict;
	(void)self;
	TN_TRY(make_dict(j, args, &dict));
	for (size_t i = 0; i < dict->count; i++)
		if (tn_jv_is_string(dict->entries[i].key) && dict->entries[i].key.as.str->bytes &&
		    dict->entries[i].key.as.str->text[0] == '_')
			return tn_j_fail(j, TN_E_FORMAT, "Chat templates cannot store underscore-prefixed attributes on a "
					 "namespace. Please rename the attribute.");
	*out = (struct tn_jv){ .kind = TN_J_NAMESPACE, .as.dict = dict };
	return TN_OK;
}

static tn_status call_raise(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "message", NULL };
	struct tn_jv message;
	(void)self;
	(void)out;
	TN_TRY(tn_j_parameters(j, "raise_exception", args, names, 1, &message));
	TN_TRY(tn_j_str(j, message, &message));
	size_t n = message.as.str->bytes, room = sizeof j->err->msg - 1;
	n = tn_utf8_valid_prefix(message.as.str->text, n < room ? n : room);
	return tn_fail(j->err, TN_E_MISMATCH, "raise_exception", "%.*s", (int)n, message.as.str->text);
}

static tn_status call_strftime(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "format", NULL };
	struct tn_jv v;
	struct tn_jstr *format;
	(void)self;
	TN_TRY(tn_j_parameters(j, "strftime_now", args, names, 1, &v));
	TN_TRY(tn_j_want_string(j, "strftime_now", v, &format));
	if (!j->now)
		return tn_j_fail(j, TN_E_MISMATCH, "it asks for the time with strftime_now, and no time was given");
	return tn_j_strftime(j, format, out);
}

static tn_status make_cycler(struct tn_j *j, const struct tn_jlist *items, enum tn_jkind kind, struct tn_jv *out)
{
	struct tn_jcycler *cycler = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *cycler, &cycler));
	TN_TRY(tn_j_list(j, items->count, &cycler->items));
	memcpy(cycler->items->items, items->items, items->count * sizeof *items->items);
	*out = (struct tn_jv){ .kind = kind, .as.cycler = cycler };
	return TN_OK;
}

static tn_status call_cycler(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jlist items = { .items = args->items, .count = args->count };
	(void)self;
	if (!args->count || args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "cycler() needs at least one item");
	return make_cycler(j, &items, TN_J_CYCLER, out);
}

static tn_status call_joiner(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "sep", NULL };
	struct tn_jv by;
	struct tn_jlist items = { .items = &by, .count = 1 };
	(void)self;
	TN_TRY(tn_j_parameters(j, "joiner", args, names, 0, &by));
	if (!tn_jv_is_given(by))
		TN_TRY(tn_j_text(j, ", ", &by));
	return make_cycler(j, &items, TN_J_JOINER, out);
}

static tn_status call_lipsum(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	(void)self;
	(void)args;
	(void)out;
	return tn_j_fail(j, TN_E_UNSUPPORTED, "lipsum() is not supported: its text is random");
}

tn_status tn_j_global(struct tn_j *j, const struct tn_jstr *name, struct tn_jv *out)
{
	static const struct {
		const char *name;
		tn_jbuiltin *call;
	} globals[] = { { "range", call_range }, { "dict", call_dict }, { "namespace", call_namespace },
			{ "raise_exception", call_raise }, { "strftime_now", call_strftime }, { "cycler", call_cycler },
			{ "joiner", call_joiner }, { "lipsum", call_lipsum } };
	*out = tn_jv_absent();
	if (tn_js_is(name, "self")) { /* the template's blocks; nothing is found in it here */
		struct tn_jdict *empty;
		TN_TRY(tn_jd_new(j, &empty));
		*out = (struct tn_jv){ .kind = TN_J_NAMESPACE, .as.dict = empty };
		return TN_OK;
	}
	for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
		if (tn_js_is(name, globals[i].name))
			return tn_j_function(j, globals[i].name, globals[i].call, tn_jv_absent(), out);
	return TN_OK;
}
