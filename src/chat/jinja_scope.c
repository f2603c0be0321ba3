/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include <string.h>


static tn_status add(struct tn_j *j, struct tn_jscope *scope, const struct tn_jstr *name, struct tn_jv value)
{
	struct tn_jbinding *binding;
	TN_TRY(tn_j_alloc(j, sizeof *binding, &binding));
	*binding = (struct tn_jbinding){ name, value, scope->first };
	scope->first = binding;
	return TN_OK;
}

tn_status tn_j_scope(struct tn_j *j, struct tn_jscope *outer, const struct tn_jnames *unset, struct tn_jscope **out)
{
	struct tn_jscope *scope;
	TN_TRY(tn_j_alloc(j, sizeof *scope, &scope));
	scope->outer = outer;
	for (; unset; unset = unset->next)
		TN_TRY(add(j, scope, unset->name, tn_jv_absent()));
	*out = scope;
	return TN_OK;
}

tn_status tn_j_bind(struct tn_j *j, struct tn_jscope *scope, const struct tn_jstr *name, struct tn_jv value)
{
	struct tn_jbinding *binding = scope->first;
	while (binding && binding->name != name)
		binding = binding->next;
	if (!binding)
		return add(j, scope, name, value);
	binding->value = value;
	return TN_OK;
}

tn_status tn_j_lookup(struct tn_j *j, const struct tn_jscope *scope, struct tn_jstr *name, struct tn_jv *out)
{
	for (; scope; scope = scope->outer)
		for (const struct tn_jbinding *b = scope->first; b; b = b->next)
			if (b->name == name) {
				*out = b->value;
				return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_name(j, name, out);
			}
	TN_TRY(tn_jd_get(j, j->variables, tn_jv_str(name), out));
	if (!tn_jv_is_given(*out))
		TN_TRY(tn_j_global(j, name, out));
	return tn_jv_is_given(*out) ? TN_OK : tn_j_undefined_name(j, name, out);
}

/* ---- calls ------------------------------------------------------------------------------------------------ */

tn_status tn_j_function(struct tn_j *j, const char *name, tn_jbuiltin *call, struct tn_jv self, struct tn_jv *out)
{
	struct tn_jfunc *func = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *func, &func));
	*func = (struct tn_jfunc){ .name = name, .call = call, .self = self };
	*out = (struct tn_jv){ .kind = TN_J_FUNC, .as.func = func };
	return TN_OK;
}

/* loop(items) of a recursive loop: its body again, one level deeper. */
static tn_status call_loop(struct tn_j *j, struct tn_jloop *loop, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jbuffer text = { 0 }, *before = j->out;
	enum tn_jflow flow = TN_JF_ON;
	if (!loop->node)
		return tn_j_fail(j, TN_E_MISMATCH, "The loop must have the 'recursive' marker to be called recursively.");
	if (args->count != 1 || args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "a recursive loop is called with one list");
	TN_TRY(tn_j_enter(j));
	j->out = &text;
	tn_status status = tn_j_run_loop(j, loop->node, loop->scope, args->items[0], loop->depth + 1, &flow);
	j->out = before;
	TN_TRY(status);
	tn_j_leave(j);
	return tn_jb_string(j, &text, out);
}

/* joiner(): nothing the first time, then its separator. */
static tn_status call_joiner(struct tn_j *j, struct tn_jcycler *joiner, struct tn_jv *out)
{
	*out = joiner->items->items[0];
	return joiner->at++ ? TN_OK : tn_j_text(j, "", out);
}

tn_status tn_j_call(struct tn_j *j, struct tn_jv callee, const struct tn_jargs *args, struct tn_jv *out)
{
	if (callee.kind == TN_J_UNDEFINED)
		return tn_j_fail_undefined(j, callee);
	if (callee.kind == TN_J_LOOP)
		return call_loop(j, callee.as.loop, args, out);
	if (callee.kind == TN_J_JOINER)
		return call_joiner(j, callee.as.cycler, out);
	if (callee.kind != TN_J_FUNC)
		return tn_j_fail(j, TN_E_MISMATCH, "'%s' object is not callable", tn_j_type_name(callee));
	if (callee.as.func->macro)
		return tn_j_run_macro(j, callee.as.func, args, out);
	return callee.as.func->call(j, callee.as.func->self, args, out);
}

/* ---- arguments -------------------------------------------------------------------------------------------- */

static tn_status place_named(struct tn_j *j, const char *function, const struct tn_jargs *args, size_t i,
			     const char *const *names, struct tn_jv *out)
{
	for (size_t k = 0; names[k]; k++) {
		if (!tn_js_is(args->names[i], names[k]))
			continue;
		if (tn_jv_is_given(out[k]))
			return tn_j_fail(j, TN_E_MISMATCH, "%s() got multiple values for argument '%s'", function, names[k]);
		out[k] = args->named[i];
		return TN_OK;
	}
	return tn_j_fail(j, TN_E_MISMATCH, "%s() got an unexpected keyword argument '%.*s'", function,
			 args->names[i]->bytes < 60 ? (int)args->names[i]->bytes : 60, args->names[i]->text);
}

tn_status tn_j_parameters(struct tn_j *j, const char *function, const struct tn_jargs *args, const char *const *names,
			  size_t required, struct tn_jv *out)
{
	size_t most = 0;
	while (names[most])
		most++;
	if (args->count > most)
		return tn_j_fail(j, TN_E_MISMATCH, "%s() takes at most %zu arguments (%zu given)", function, most, args->count);
	for (size_t i = 0; i < most; i++)
		out[i] = i < args->count ? args->items[i] : tn_jv_absent();
	for (size_t i = 0; i < args->named_count; i++)
		TN_TRY(place_named(j, function, args, i, names, out));
	for (size_t i = 0; i < required; i++)
		if (!tn_jv_is_given(out[i]))
			return tn_j_fail(j, TN_E_MISMATCH, "%s() missing required argument '%s'", function,
					 names[i] + (names[i][0] == '/'));
	return TN_OK;
}

tn_status tn_j_want_int(struct tn_j *j, const char *function, struct tn_jv v, int64_t otherwise, int64_t *out)
{
	if (!tn_jv_is_given(v)) {
		*out = otherwise;
		return TN_OK;
	}
	if (!tn_jv_is_whole(v))
		return tn_j_fail(j, TN_E_MISMATCH, "%s(): '%s' object cannot be interpreted as an integer", function,
				 tn_j_type_name(v));
	*out = v.as.integer;
	return TN_OK;
}

tn_status tn_j_want_string(struct tn_j *j, const char *function, struct tn_jv v, struct tn_jstr **out)
{
	if (!tn_jv_is_string(v))
		return tn_j_fail(j, TN_E_MISMATCH, "%s() argument must be str, not %s", function, tn_j_type_name(v));
	*out = v.as.str;
	return TN_OK;
}
