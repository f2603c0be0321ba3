/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_call.h"

#include "base/text.h"
#include "chat/jinja.h"

#include <string.h>

/* ---- assigning -------------------------------------------------------------------------------------------- */

static tn_status assign_parts(struct tn_j *j, const struct tn_jnode *target, struct tn_jscope *scope, struct tn_jv value)
{
	struct tn_jlist *parts;
	TN_TRY(tn_j_to_list(j, value, &parts));
	if (parts->count != target->count)
		return tn_j_fail(j, TN_E_MISMATCH, "%s values to unpack (expected %zu, got %zu)",
				 parts->count < target->count ? "not enough" : "too many", target->count, parts->count);
	for (size_t i = 0; i < parts->count; i++)
		TN_TRY(tn_j_assign(j, target->items[i], scope, parts->items[i]));
	return TN_OK;
}

static tn_status assign_field(struct tn_j *j, const struct tn_jnode *target, struct tn_jscope *scope, struct tn_jv value)
{
	struct tn_jv space;
	TN_TRY(tn_j_lookup(j, scope, target->name, &space));
	if (space.kind != TN_J_NAMESPACE)
		return tn_j_fail(j, TN_E_MISMATCH, "cannot assign attribute on non-namespace object");
	if (target->value.as.str->text[0] == '_')
		return tn_j_fail(j, TN_E_FORMAT, "Chat templates cannot store underscore-prefixed attributes on a namespace. "
				 "Please rename the attribute.");
	return tn_jd_set(j, space.as.dict, target->value, value);
}

tn_status tn_j_assign(struct tn_j *j, const struct tn_jnode *target, struct tn_jscope *scope, struct tn_jv value)
{
	if (target->kind == TN_JN_TUPLE)
		return assign_parts(j, target, scope, value);
	if (target->kind == TN_JN_FIELD)
		return assign_field(j, target, scope, value);
	return tn_j_bind(j, scope, target->name, value);
}

/* ---- printing into a place of its own --------------------------------------------------------------------- */

tn_status tn_j_capture(struct tn_j *j, const struct tn_jnode *body, struct tn_jscope *scope, struct tn_jv *out,
		       enum tn_jflow *flow)
{
	struct tn_jbuffer text = { 0 }, *before = j->out;
	j->out = &text;
	tn_status status = tn_j_run_body(j, body, scope, flow);
	j->out = before;
	TN_TRY(status);
	return tn_jb_string(j, &text, out);
}

/* The filters of a set block or a filter block, innermost first. */
static tn_status apply_filters(struct tn_j *j, const struct tn_jnode *filter, struct tn_jscope *scope, struct tn_jv *value)
{
	struct tn_jargs args;
	if (!filter)
		return TN_OK;
	TN_TRY(tn_j_enter(j));
	TN_TRY(apply_filters(j, filter->a, scope, value));
	tn_j_leave(j);
	TN_TRY(tn_j_arguments(j, filter->call, scope, 1, &args));
	args.items[0] = *value;
	j->line = filter->line;
	return tn_j_filter(j, filter->name, &args, value);
}

/* What the body of a block prints, through filters; its scope is the filters' too. */
static tn_status filtered_body(struct tn_j *j, const struct tn_jnode *node, const struct tn_jnode *filters, struct tn_jscope *scope,
			       struct tn_jv *text, enum tn_jflow *flow)
{
	struct tn_jscope *inner;
	TN_TRY(tn_j_scope(j, scope, node->unset, &inner));
	TN_TRY(tn_j_capture(j, node->body, inner, text, flow));
	return *flow == TN_JF_ON ? apply_filters(j, filters, inner, text) : TN_OK;
}

static tn_status run_set_block(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, enum tn_jflow *flow)
{
	struct tn_jv text;
	TN_TRY(filtered_body(j, node, node->b, scope, &text, flow));
	return *flow == TN_JF_ON ? tn_j_assign(j, node->a, scope, text) : TN_OK;
}

/* What a block prints must be a text: Jinja2 joins it with the rest as it is. */
static tn_status print_text(struct tn_j *j, struct tn_jv text)
{
	if (!tn_jv_is_string(text))
		return tn_j_fail(j, TN_E_MISMATCH, "a block gives %s where a text was expected", tn_j_type_name(text));
	return tn_j_print(j, j->out, text);
}

static tn_status run_filter_block(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, enum tn_jflow *flow)
{
	struct tn_jv text;
	TN_TRY(filtered_body(j, node, node->a, scope, &text, flow));
	return *flow == TN_JF_ON ? print_text(j, text) : TN_OK;
}

/* ---- spans of the assistant ------------------------------------------------------------------------------- */

/* Code points of the page so far. */
static size_t page_chars(struct tn_j *j)
{
	const struct tn_jbuffer *page = j->page;
	for (; j->page_counted < page->length; j->page_counted++)
		j->page_chars += ((unsigned char)page->data[j->page_counted] & 0xC0) != 0x80;
	return j->page_chars;
}

/* As transformers counts: from what has reached the page, whatever holds the text back. */
static tn_status run_generation(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope)
{
	struct tn_jscope *inner;
	struct tn_jv text;
	enum tn_jflow flow = TN_JF_ON;
	TN_TRY(tn_j_scope(j, scope, node->unset, &inner));
	TN_TRY(tn_j_capture(j, node->body, inner, &text, &flow));
	TN_TRY(tn_j_grow(j, &j->spans, &j->span_capacity, j->span_count, j->span_count + 1, sizeof *j->spans));
	size_t begin = page_chars(j);
	j->spans[j->span_count++] = (struct tn_chat_span){ begin, begin + text.as.str->chars };
	return tn_j_print(j, j->out, text);
}

/* ---- loops ------------------------------------------------------------------------------------------------ */

struct filtered {
	const struct tn_jnode *node;
	struct tn_jscope *scope;
};

/* The next item for which the loop's condition holds. */
static tn_status next_filtered(struct tn_j *j, struct tn_jiter *it, struct tn_jv *out)
{
	const struct filtered *f = it->state;
	for (;;) {
		struct tn_jscope *scope;
		struct tn_jv holds;
		TN_TRY(tn_j_next(j, it->inner, out));
		if (!tn_jv_is_given(*out))
			return TN_OK;
		TN_TRY(tn_j_scope(j, f->scope, NULL, &scope));
		TN_TRY(tn_j_assign(j, f->node->a, scope, *out));
		TN_TRY(tn_j_eval(j, f->node->c, scope, &holds));
		if (tn_j_truth(holds))
			return TN_OK;
	}
}

static tn_status filter_loop(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv *iterable)
{
	struct filtered *f = NULL;
	struct tn_jiter *it = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *f, &f));
	TN_TRY(tn_j_alloc(j, sizeof *it, &it));
	*f = (struct filtered){ node, scope };
	TN_TRY(tn_j_iterate(j, *iterable, &it->inner));
	it->next = next_filtered;
	it->state = f;
	return tn_j_iterator(j, it, iterable);
}

static tn_status make_loop(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv iterable,
			   size_t depth, struct tn_jloop **out)
{
	TN_TRY(tn_j_alloc(j, sizeof **out, out));
	struct tn_jloop *loop = *out;
	if (node->c)
		TN_TRY(filter_loop(j, node, scope, &iterable));
	loop->iterable = iterable;
	loop->depth = depth;
	loop->node = node->flag ? node : NULL;
	loop->scope = scope;
	loop->before = loop->current = loop->after = loop->changed = tn_jv_absent();
	return tn_j_iterate(j, iterable, &loop->it);
}

tn_status tn_j_run_loop(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, struct tn_jv iterable, size_t depth,
			enum tn_jflow *flow)
{
	struct tn_jloop *loop = NULL;
	struct tn_jscope *inner;
	struct tn_jv item;
	int completed = 0; /* Jinja2 runs else unless one pass reached the end of the body, whatever cut the others short */
	TN_TRY(make_loop(j, node, scope, iterable, depth, &loop));
	for (;;) {
		enum tn_jflow within = TN_JF_ON;
		TN_TRY(tn_jl_next(j, loop, &item));
		if (!tn_jv_is_given(item))
			break;
		TN_TRY(tn_j_scope(j, scope, node->unset, &inner));
		TN_TRY(tn_j_bind(j, inner, j->program->loop, (struct tn_jv){ .kind = TN_J_LOOP, .as.loop = loop }));
		j->line = node->line;
		TN_TRY(tn_j_assign(j, node->a, inner, item));
		TN_TRY(tn_j_run_body(j, node->body, inner, &within));
		completed |= within == TN_JF_ON;
		if (within == TN_JF_BREAK)
			break;
	}
	if (completed || !node->other)
		return TN_OK;
	TN_TRY(tn_j_scope(j, scope, node->unset_other, &inner));
	return tn_j_run_body(j, node->other, inner, flow);
}

static tn_status run_for(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, enum tn_jflow *flow)
{
	struct tn_jv iterable;
	TN_TRY(tn_j_eval(j, node->b, scope, &iterable));
	return tn_j_run_loop(j, node, scope, iterable, 1, flow);
}

/* ---- macros ----------------------------------------------------------------------------------------------- */

static tn_status make_macro(struct tn_j *j, const struct tn_jmacro *macro, struct tn_jscope *scope, struct tn_jv *out)
{
	struct tn_jfunc *func = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *func, &func));
	func->name = macro->name->text;
	func->macro = macro;
	func->scope = scope;
	func->self = tn_jv_absent();
	*out = (struct tn_jv){ .kind = TN_J_FUNC, .as.func = func };
	return TN_OK;
}

static tn_status run_call_block(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope)
{
	struct tn_jv callee, caller, text;
	struct tn_jargs args;
	TN_TRY(make_macro(j, node->macro, scope, &caller));
	TN_TRY(tn_j_eval(j, node->a->a, scope, &callee));
	TN_TRY(tn_j_arguments(j, node->a->call, scope, 0, &args));
	args.names[args.named_count] = j->program->caller;
	args.named[args.named_count++] = caller;
	j->line = node->line;
	TN_TRY(tn_j_call(j, callee, &args, &text));
	return print_text(j, text);
}

static int has_parameter(const struct tn_jmacro *macro, const struct tn_jstr *name)
{
	for (size_t i = 0; i < macro->count; i++)
		if (tn_js_same(macro->parameters[i], name))
			return 1;
	return 0;
}

/* The named argument of that name, or absent. */
static struct tn_jv named_argument(const struct tn_jargs *args, const struct tn_jstr *name)
{
	for (size_t i = 0; i < args->named_count; i++)
		if (tn_js_same(args->names[i], name))
			return args->named[i];
	return tn_jv_absent();
}

/* caller, kwargs and varargs, where the body names them; other arguments without a parameter are an error. */
static tn_status bind_special(struct tn_j *j, const struct tn_jmacro *macro, const struct tn_jargs *args, struct tn_jscope *scope)
{
	struct tn_jdict *rest;
	struct tn_jlist *more;
	struct tn_jv caller = named_argument(args, j->program->caller);
	TN_TRY(tn_jd_new(j, &rest));
	for (size_t i = 0; i < args->named_count; i++)
		if (!has_parameter(macro, args->names[i]) &&
		    !(macro->uses_caller && tn_js_same(args->names[i], j->program->caller)))
			TN_TRY(tn_jd_set(j, rest, tn_jv_str(args->names[i]), args->named[i]));
	if (rest->count && !macro->uses_kwargs)
		return tn_j_fail(j, TN_E_MISMATCH, "macro '%.60s' takes no keyword argument '%.60s'", macro->name->text,
				 rest->entries[0].key.as.str->text);
	if (args->count > macro->count && !macro->uses_varargs)
		return tn_j_fail(j, TN_E_MISMATCH, "macro '%.60s' takes not more than %zu argument(s)", macro->name->text,
				 macro->count);
	if (macro->uses_caller && !tn_jv_is_given(caller))
		TN_TRY(tn_j_undefined_hint(j, "No caller defined", &caller));
	if (macro->uses_caller)
		TN_TRY(tn_j_bind(j, scope, j->program->caller, caller));
	if (macro->uses_kwargs)
		TN_TRY(tn_j_bind(j, scope, j->program->kwargs, tn_jv_dict(rest)));
	if (!macro->uses_varargs)
		return TN_OK;
	TN_TRY(tn_j_list(j, args->count > macro->count ? args->count - macro->count : 0, &more));
	for (size_t i = 0; i < more->count; i++)
		more->items[i] = args->items[macro->count + i];
	return tn_j_bind(j, scope, j->program->varargs, tn_jv_tuple(more));
}

static tn_status bind_parameters(struct tn_j *j, const struct tn_jmacro *macro, const struct tn_jargs *args,
				 struct tn_jscope *scope)
{
	size_t first_default = macro->count - macro->default_count;
	for (size_t i = 0; i < macro->count; i++) {
		struct tn_jv v = i < args->count ? args->items[i] : named_argument(args, macro->parameters[i]);
		if (i < args->count && tn_jv_is_given(named_argument(args, macro->parameters[i])))
			return tn_j_fail(j, TN_E_MISMATCH, "macro '%.60s' takes no keyword argument '%.60s'", macro->name->text,
					 macro->parameters[i]->text);
		if (!tn_jv_is_given(v) && i >= first_default)
			TN_TRY(tn_j_eval(j, macro->defaults[i - first_default], scope, &v));
		else if (!tn_jv_is_given(v))
			TN_TRY(tn_j_undefined_hint(j, "a parameter of a macro was not provided", &v));
		TN_TRY(tn_j_bind(j, scope, macro->parameters[i], v));
	}
	return TN_OK;
}

tn_status tn_j_run_macro(struct tn_j *j, const struct tn_jfunc *func, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jscope *scope;
	enum tn_jflow flow = TN_JF_ON;
	TN_TRY(tn_j_enter(j));
	TN_TRY(tn_j_scope(j, func->scope, func->macro->unset, &scope));
	TN_TRY(bind_special(j, func->macro, args, scope));
	TN_TRY(bind_parameters(j, func->macro, args, scope));
	TN_TRY(tn_j_capture(j, func->macro->body, scope, out, &flow));
	tn_j_leave(j);
	return TN_OK;
}

/* ---- statements ------------------------------------------------------------------------------------------- */

/* elif after elif, without going deeper. */
static tn_status run_if(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, enum tn_jflow *flow)
{
	struct tn_jv condition;
	for (;;) {
		TN_TRY(tn_j_eval(j, node->a, scope, &condition));
		if (tn_j_truth(condition))
			return tn_j_run_body(j, node->body, scope, flow);
		if (!node->other || node->other->kind != TN_JN_IF || node->other->next)
			return tn_j_run_body(j, node->other, scope, flow);
		node = node->other;
	}
}

static tn_status run_set(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope)
{
	struct tn_jv value;
	TN_TRY(tn_j_eval(j, node->b, scope, &value));
	return tn_j_assign(j, node->a, scope, value);
}

static tn_status run_with(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, enum tn_jflow *flow)
{
	struct tn_jscope *inner;
	struct tn_jv value;
	TN_TRY(tn_j_scope(j, scope, node->unset, &inner));
	for (size_t i = 0; i < node->count; i += 2) {
		TN_TRY(tn_j_eval(j, node->items[i + 1], scope, &value));
		TN_TRY(tn_j_assign(j, node->items[i], inner, value));
	}
	return tn_j_run_body(j, node->body, inner, flow);
}

static tn_status run_block(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope)
{
	struct tn_jscope *inner;
	enum tn_jflow flow = TN_JF_ON;
	TN_TRY(tn_j_scope(j, node->flag ? scope : j->root, node->unset, &inner));
	return tn_j_run_body(j, node->body, inner, &flow);
}

static tn_status run_print(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope)
{
	struct tn_jv value;
	TN_TRY(tn_j_eval(j, node->a, scope, &value));
	return tn_j_print(j, j->out, value);
}

static tn_status run_macro_definition(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope)
{
	struct tn_jv macro;
	TN_TRY(make_macro(j, node->macro, scope, &macro));
	return tn_j_bind(j, scope, node->name, macro);
}

static tn_status run_statement(struct tn_j *j, const struct tn_jnode *node, struct tn_jscope *scope, enum tn_jflow *flow)
{
	switch (node->kind) {
	case TN_JN_TEXT: return tn_j_print(j, j->out, node->value);
	case TN_JN_PRINT: return run_print(j, node, scope);
	case TN_JN_FOR: return run_for(j, node, scope, flow);
	case TN_JN_IF: return run_if(j, node, scope, flow);
	case TN_JN_SET: return run_set(j, node, scope);
	case TN_JN_SET_BLOCK: return run_set_block(j, node, scope, flow);
	case TN_JN_MACRO: return run_macro_definition(j, node, scope);
	case TN_JN_CALL_BLOCK: return run_call_block(j, node, scope);
	case TN_JN_FILTER_BLOCK: return run_filter_block(j, node, scope, flow);
	case TN_JN_WITH: return run_with(j, node, scope, flow);
	case TN_JN_BLOCK: return run_block(j, node, scope);
	case TN_JN_GENERATION: return run_generation(j, node, scope);
	case TN_JN_BREAK: *flow = TN_JF_BREAK; return TN_OK;
	case TN_JN_CONTINUE: *flow = TN_JF_CONTINUE; return TN_OK;
	default:
		return tn_j_fail(j, TN_E_UNSUPPORTED, "'%.20s' needs other templates, and a chat template stands alone",
				 node->name->text);
	}
}

tn_status tn_j_run_body(struct tn_j *j, const struct tn_jnode *body, struct tn_jscope *scope, enum tn_jflow *flow)
{
	TN_TRY(tn_j_enter(j));
	for (; body && *flow == TN_JF_ON; body = body->next) {
		j->line = body->line;
		TN_TRY(tn_j_work(j, 1));
		TN_TRY(run_statement(j, body, scope, flow));
	}
	tn_j_leave(j);
	return TN_OK;
}
