/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

tn_status tn_jl_next(struct tn_j *j, struct tn_jloop *loop, struct tn_jv *out)
{
	if (loop->peeked)
		*out = loop->after;
	else
		TN_TRY(tn_j_next(j, loop->it, out));
	if (!tn_jv_is_given(*out))
		return TN_OK;
	loop->peeked = 0;
	loop->index++;
	loop->before = loop->current;
	loop->current = *out;
	return TN_OK;
}

static tn_status peek(struct tn_j *j, struct tn_jloop *loop)
{
	if (!loop->peeked)
		TN_TRY(tn_j_next(j, loop->it, &loop->after));
	loop->peeked = 1;
	return TN_OK;
}

/* What has no length is walked to its end, and remembered. */
tn_status tn_jl_length(struct tn_j *j, struct tn_jloop *loop, size_t *out)
{
	struct tn_jlist *rest;
	if (!loop->length_known)
		TN_TRY(tn_j_length(j, loop->iterable, &loop->length, &loop->length_known));
	if (!loop->length_known) {
		TN_TRY(tn_j_rest(j, loop->it, &rest));
		loop->length = rest->count + loop->index + (loop->peeked && tn_jv_is_given(loop->after));
		loop->length_known = 1;
		TN_TRY(tn_j_iterate(j, tn_jv_list(rest), &loop->it));
	}
	*out = loop->length;
	return TN_OK;
}

static tn_status call_cycle(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	if (!args->count)
		return tn_j_fail(j, TN_E_MISMATCH, "no items for cycling given");
	*out = args->items[(self.as.loop->index - 1) % args->count];
	return TN_OK;
}

static tn_status call_changed(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jloop *loop = self.as.loop;
	struct tn_jlist *now;
	int same = 0;
	TN_TRY(tn_j_list(j, args->count, &now));
	for (size_t i = 0; i < args->count; i++)
		now->items[i] = args->items[i];
	if (tn_jv_is_given(loop->changed))
		TN_TRY(tn_j_equal(j, loop->changed, tn_jv_tuple(now), &same));
	loop->changed = tn_jv_tuple(now);
	*out = tn_jv_bool(!same);
	return TN_OK;
}

/* What depends on how many items there are. */
static tn_status counted(struct tn_j *j, struct tn_jloop *loop, const struct tn_jstr *name, struct tn_jv *out)
{
	size_t length;
	*out = tn_jv_absent();
	if (!tn_js_is(name, "length") && !tn_js_is(name, "revindex") && !tn_js_is(name, "revindex0"))
		return TN_OK;
	TN_TRY(tn_jl_length(j, loop, &length));
	int64_t left = (int64_t)length - (int64_t)loop->index;
	*out = tn_jv_int(tn_js_is(name, "length") ? (int64_t)length : tn_js_is(name, "revindex") ? left + 1 : left);
	return TN_OK;
}

static tn_status neighbour(struct tn_j *j, struct tn_jloop *loop, const struct tn_jstr *name, struct tn_jv *out)
{
	if (tn_js_is(name, "previtem")) {
		*out = loop->before;
		return loop->index > 1 ? TN_OK : tn_j_undefined_hint(j, "there is no previous item", out);
	}
	TN_TRY(peek(j, loop));
	if (tn_js_is(name, "last")) {
		*out = tn_jv_bool(!tn_jv_is_given(loop->after));
		return TN_OK;
	}
	*out = loop->after;
	return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_hint(j, "there is no next item", out);
}

tn_status tn_jl_attribute(struct tn_j *j, struct tn_jv v, const struct tn_jstr *name, struct tn_jv *out)
{
	struct tn_jloop *loop = v.as.loop;
	if (tn_js_is(name, "previtem") || tn_js_is(name, "nextitem") || tn_js_is(name, "last"))
		return neighbour(j, loop, name, out);
	if (tn_js_is(name, "cycle"))
		return tn_j_function(j, "cycle", call_cycle, v, out);
	if (tn_js_is(name, "changed"))
		return tn_j_function(j, "changed", call_changed, v, out);
	TN_TRY(counted(j, loop, name, out));
	if (tn_js_is(name, "index"))
		*out = tn_jv_int((int64_t)loop->index);
	else if (tn_js_is(name, "index0"))
		*out = tn_jv_int((int64_t)loop->index - 1);
	else if (tn_js_is(name, "first"))
		*out = tn_jv_bool(loop->index == 1);
	else if (tn_js_is(name, "depth"))
		*out = tn_jv_int((int64_t)loop->depth);
	else if (tn_js_is(name, "depth0"))
		*out = tn_jv_int((int64_t)loop->depth - 1);
	return TN_OK;
}
