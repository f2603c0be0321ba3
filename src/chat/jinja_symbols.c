/* SPDX-License-Identifier: Apache-2.0 */
/* Which names of a scope begin undefined. Jinja2 (idtracking.py) gives every name that a scope assigns a place in that scope
 * before anything runs. A name whose first mention there is an assignment that is always reached takes nothing from the
 * variables of the rendering: until it is assigned it is undefined, also for the scopes inside. A name that is mentioned before,
 * that only branches of an if assign, or that a scope around knows, begins with the value from outside. */
#include "chat/jinja_ast.h"

struct symbols {
	struct tn_j *j;
	const struct symbols *outer;
	struct tn_jdict *known;      /* names that this scope has mentioned */
	struct tn_jnames **unset;    /* the last link of its list */
};

static tn_status is_known(const struct symbols *s, struct tn_jstr *name, int *known)
{
	*known = 0;
	for (; s && !*known; s = s->outer) {
		struct tn_jv found;
		TN_TRY(tn_jd_get(s->j, s->known, tn_jv_str(name), &found));
		*known = tn_jv_is_given(found);
	}
	return TN_OK;
}

static tn_status know(struct symbols *s, struct tn_jstr *name)
{
	return tn_jd_set(s->j, s->known, tn_jv_str(name), tn_jv_bool(1));
}

static tn_status load(struct symbols *s, struct tn_jstr *name)
{
	int known;
	TN_TRY(is_known(s, name, &known));
	return known ? TN_OK : know(s, name);
}

static tn_status store(struct symbols *s, struct tn_jstr *name, int in_branch)
{
	int known;
	TN_TRY(is_known(s, name, &known));
	if (known)
		return TN_OK;
	TN_TRY(know(s, name));
	if (in_branch)
		return TN_OK;
	TN_TRY(tn_j_alloc(s->j, sizeof **s->unset, s->unset));
	(*s->unset)->name = name;
	s->unset = &(*s->unset)->next;
	return TN_OK;
}

/* ---- what a scope mentions -------------------------------------------------------------------------------- */

static tn_status load_names(struct symbols *s, const struct tn_jnode *node);

static tn_status load_list(struct symbols *s, struct tn_jnode *const *items, size_t count)
{
	for (size_t i = 0; i < count; i++)
		TN_TRY(load_names(s, items[i]));
	return TN_OK;
}

/* All names of an expression. */
static tn_status load_names(struct symbols *s, const struct tn_jnode *node)
{
	if (!node)
		return TN_OK;
	TN_TRY(tn_j_enter(s->j));
	if (node->kind == TN_JN_NAME || node->kind == TN_JN_FIELD)
		TN_TRY(load(s, node->name));
	TN_TRY(load_names(s, node->a));
	TN_TRY(load_names(s, node->b));
	TN_TRY(load_names(s, node->c));
	TN_TRY(load_list(s, node->items, node->count));
	if (node->call) {
		TN_TRY(load_list(s, node->call->positional, node->call->count));
		TN_TRY(load_list(s, node->call->named, node->call->named_count));
		TN_TRY(load_names(s, node->call->list));
		TN_TRY(load_names(s, node->call->dict));
	}
	tn_j_leave(s->j);
	return TN_OK;
}

/* The names of a target; `given`: they have their values when the scope begins. */
static tn_status store_names(struct symbols *s, const struct tn_jnode *target, int in_branch, int given)
{
	if (target->kind == TN_JN_FIELD)
		return load(s, target->name);
	if (target->kind != TN_JN_TUPLE)
		return given ? know(s, target->name) : store(s, target->name, in_branch);
	TN_TRY(tn_j_enter(s->j));
	for (size_t i = 0; i < target->count; i++)
		TN_TRY(store_names(s, target->items[i], in_branch, given));
	tn_j_leave(s->j);
	return TN_OK;
}

/* Statements of the scope itself: what stands in a scope inside is mentioned there. */
static tn_status mention(struct symbols *s, const struct tn_jnode *body, int in_branch)
{
	TN_TRY(tn_j_enter(s->j));
	for (; body; body = body->next)
		switch (body->kind) {
		case TN_JN_PRINT:
		case TN_JN_FILTER_BLOCK:
		case TN_JN_CALL_BLOCK: TN_TRY(load_names(s, body->a)); break;
		case TN_JN_FOR: TN_TRY(load_names(s, body->b)); break;
		case TN_JN_IF:
			TN_TRY(load_names(s, body->a));
			TN_TRY(mention(s, body->body, 1));
			TN_TRY(mention(s, body->other, 1));
			break;
		case TN_JN_SET: TN_TRY(load_names(s, body->b)); /* fall through */
		case TN_JN_SET_BLOCK: TN_TRY(store_names(s, body->a, in_branch, 0)); break;
		case TN_JN_MACRO: TN_TRY(store(s, body->name, in_branch)); break;
		case TN_JN_WITH:
			for (size_t i = 0; i < body->count; i += 2)
				TN_TRY(load_names(s, body->items[i + 1]));
			break;
		default: break;
		}
	tn_j_leave(s->j);
	return TN_OK;
}

/* ---- the scopes inside ------------------------------------------------------------------------------------ */

static tn_status inside(const struct symbols *s, struct tn_jnode *body);

static tn_status begin(struct symbols *s, struct tn_j *j, const struct symbols *outer, struct tn_jnames **unset)
{
	*s = (struct symbols){ .j = j, .outer = outer, .unset = unset };
	return tn_jd_new(j, &s->known);
}

/* A scope whose names from outside are known already. */
static tn_status finish(struct symbols *s, struct tn_jnode *body)
{
	TN_TRY(mention(s, body, 0));
	return inside(s, body);
}

static tn_status plain_scope(const struct symbols *outer, struct tn_j *j, struct tn_jnode *body, struct tn_jnames **unset)
{
	struct symbols s;
	TN_TRY(begin(&s, j, outer, unset));
	return finish(&s, body);
}

static tn_status macro_scope(const struct symbols *outer, struct tn_jmacro *macro)
{
	struct symbols s;
	TN_TRY(begin(&s, outer->j, outer, &macro->unset));
	for (size_t i = 0; i < macro->count; i++)
		TN_TRY(know(&s, macro->parameters[i]));
	TN_TRY(load_list(&s, macro->defaults, macro->default_count));
	return finish(&s, macro->body);
}

static tn_status with_scope(const struct symbols *outer, struct tn_jnode *node)
{
	struct symbols s;
	TN_TRY(begin(&s, outer->j, outer, &node->unset));
	for (size_t i = 0; i < node->count; i += 2)
		TN_TRY(store_names(&s, node->items[i], 0, 1));
	return finish(&s, node->body);
}

static tn_status loop_scopes(const struct symbols *outer, struct tn_jnode *node)
{
	struct symbols s;
	TN_TRY(begin(&s, outer->j, outer, &node->unset));
	TN_TRY(store_names(&s, node->a, 0, 1));
	TN_TRY(finish(&s, node->body));
	return plain_scope(outer, outer->j, node->other, &node->unset_other);
}

static tn_status inside(const struct symbols *s, struct tn_jnode *body)
{
	TN_TRY(tn_j_enter(s->j));
	for (struct tn_jnode *node = body; node; node = node->next)
		switch (node->kind) {
		case TN_JN_FOR: TN_TRY(loop_scopes(s, node)); break;
		case TN_JN_MACRO:
		case TN_JN_CALL_BLOCK: TN_TRY(macro_scope(s, node->macro)); break;
		case TN_JN_WITH: TN_TRY(with_scope(s, node)); break;
		case TN_JN_SET_BLOCK:
		case TN_JN_FILTER_BLOCK:
		case TN_JN_GENERATION: TN_TRY(plain_scope(s, s->j, node->body, &node->unset)); break;
		case TN_JN_BLOCK: TN_TRY(plain_scope(NULL, s->j, node->body, &node->unset)); break;
		case TN_JN_IF:
			TN_TRY(inside(s, node->body));
			TN_TRY(inside(s, node->other));
			break;
		default: break;
		}
	tn_j_leave(s->j);
	return TN_OK;
}

tn_status tn_jinja_symbols(struct tn_jprogram *program)
{
	return plain_scope(NULL, &program->j, program->body, &program->unset);
}
