/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_ast.h"

#include <string.h>

/* ---- tokens ----------------------------------------------------------------------------------------------- */

void tn_jp_step(struct tn_jparser *p)
{
	if (p->at->kind != TN_JT_END)
		p->at++;
	p->j->line = p->at->line;
}

int tn_jt_is_op(const struct tn_jtoken *token, const char *op)
{
	return token->kind == TN_JT_OPERATOR && strcmp(token->op, op) == 0;
}

int tn_jt_is_name(const struct tn_jtoken *token, const char *name)
{
	return token->kind == TN_JT_NAME && tn_js_is(token->value.as.str, name);
}

int tn_jp_is_op(const struct tn_jparser *p, const char *op)
{
	return tn_jt_is_op(p->at, op);
}

int tn_jp_is_name(const struct tn_jparser *p, const char *name)
{
	return tn_jt_is_name(p->at, name);
}

int tn_jp_skip_op(struct tn_jparser *p, const char *op)
{
	int is = tn_jt_is_op(p->at, op);
	if (is)
		tn_jp_step(p);
	return is;
}

int tn_jp_skip_name(struct tn_jparser *p, const char *name)
{
	int is = tn_jt_is_name(p->at, name);
	if (is)
		tn_jp_step(p);
	return is;
}

tn_status tn_jp_unexpected(struct tn_jparser *p, const char *expected)
{
	static const char *const kinds[] = { "the end of the template", "text", "the begin of a statement",
		"the end of a statement", "the begin of a value", "the end of a value", "", "a string", "a number", "" };
	const struct tn_jtoken *t = p->at;
	if (t->kind == TN_JT_NAME)
		return tn_j_fail(p->j, TN_E_FORMAT, "'%.*s' stands where %s was expected",
				 t->value.as.str->bytes < 80 ? (int)t->value.as.str->bytes : 80, t->value.as.str->text, expected);
	if (t->kind == TN_JT_OPERATOR)
		return tn_j_fail(p->j, TN_E_FORMAT, "'%s' stands where %s was expected", t->op, expected);
	return tn_j_fail(p->j, TN_E_FORMAT, "%s stands where %s was expected", kinds[t->kind], expected);
}

tn_status tn_jp_expect_op(struct tn_jparser *p, const char *op)
{
	if (!tn_jp_skip_op(p, op)) {
		char quoted[8] = "'";
		strcat(strcat(quoted, op), "'");
		return tn_jp_unexpected(p, quoted);
	}
	return TN_OK;
}

tn_status tn_jp_expect_name(struct tn_jparser *p, struct tn_jstr **out)
{
	if (p->at->kind != TN_JT_NAME)
		return tn_jp_unexpected(p, "a name");
	*out = p->at->value.as.str;
	tn_jp_step(p);
	return TN_OK;
}

tn_status tn_jp_node(struct tn_jparser *p, enum tn_jnode_kind kind, struct tn_jnode **out)
{
	TN_TRY(tn_j_alloc(p->j, sizeof **out, out));
	(*out)->kind = kind;
	(*out)->line = p->at->line;
	return TN_OK;
}

tn_status tn_jp_push(struct tn_jparser *p, struct tn_jnode ***items, size_t *count, size_t *capacity, struct tn_jnode *node)
{
	TN_TRY(tn_j_grow(p->j, items, capacity, *count, *count + 1, sizeof **items));
	(*items)[(*count)++] = node;
	return TN_OK;
}

/* ---- bodies ----------------------------------------------------------------------------------------------- */

static tn_status parse_statement(struct tn_jparser *p, struct tn_jnode **out);

/* Whether a statement that begins here is one of the words that end the body. */
static int at_end_word(const struct tn_jparser *p, const char *const *ends)
{
	for (; ends && *ends; ends++)
		if (tn_jt_is_name(p->at + 1, *ends))
			return 1;
	return 0;
}

static tn_status parse_text(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_TEXT, out));
	TN_TRY(tn_j_string_kept(p->j, p->at->begin, p->at->bytes, &(*out)->value));
	tn_jp_step(p);
	return TN_OK;
}

static tn_status parse_print(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_PRINT, out));
	tn_jp_step(p);
	TN_TRY(tn_jp_tuple(p, 1, NULL, 0, &(*out)->a));
	if (p->at->kind != TN_JT_PRINT_END)
		return tn_jp_unexpected(p, "the end of the value");
	tn_jp_step(p);
	return TN_OK;
}

static tn_status end_statement(struct tn_jparser *p)
{
	if (p->at->kind != TN_JT_BLOCK_END)
		return tn_jp_unexpected(p, "the end of the statement");
	tn_jp_step(p);
	return TN_OK;
}

/* Statements until one of `ends` (NULL: the end of the template), whose word is the next token afterwards. */
static tn_status parse_until(struct tn_jparser *p, const char *const *ends, struct tn_jnode **out)
{
	struct tn_jnode *first = NULL, **link = &first;
	int opened = p->at->line;
	TN_TRY(tn_j_enter(p->j));
	while (p->at->kind != TN_JT_END) {
		if (p->at->kind == TN_JT_BLOCK_BEGIN && at_end_word(p, ends)) {
			tn_jp_step(p);
			tn_j_leave(p->j);
			*out = first;
			return TN_OK;
		}
		if (p->at->kind == TN_JT_BLOCK_BEGIN) {
			tn_jp_step(p);
			TN_TRY(parse_statement(p, link));
			TN_TRY(end_statement(p));
		} else {
			TN_TRY(p->at->kind == TN_JT_DATA ? parse_text(p, link) : parse_print(p, link));
		}
		while (*link) /* a print statement makes several nodes, or none */
			link = &(*link)->next;
	}
	tn_j_leave(p->j);
	if (ends)
		return tn_j_fail(p->j, TN_E_FORMAT, "the template ends where {%% %s %%} was expected, for line %d", ends[0],
				 opened);
	*out = first;
	return TN_OK;
}

/* The rest of a statement's tag, and its body up to one of the words that end it; the word is left. */
static tn_status parse_body_of(struct tn_jparser *p, const char *const *ends, struct tn_jnode **out)
{
	tn_jp_skip_op(p, ":");
	TN_TRY(end_statement(p));
	return parse_until(p, ends, out);
}

/* The same with one word, which is taken. The body is a frame of its own in Jinja2, which an if around it does not guard. */
static tn_status parse_body(struct tn_jparser *p, const char *end, struct tn_jnode **out)
{
	const char *ends[] = { end, NULL };
	int guarded = p->guarded;
	p->guarded = guarded && strcmp(end, "endif") == 0;
	TN_TRY(parse_body_of(p, ends, out));
	p->guarded = guarded;
	tn_jp_step(p);
	return TN_OK;
}

/* ---- statements ------------------------------------------------------------------------------------------- */

static tn_status parse_for(struct tn_jparser *p, struct tn_jnode **out)
{
	static const char *const ends[] = { "endfor", "else", NULL };
	struct tn_jnode *node;
	TN_TRY(tn_jp_node(p, TN_JN_FOR, &node));
	tn_jp_step(p);
	TN_TRY(tn_jp_target(p, "in", 0, &node->a));
	if (!tn_jp_skip_name(p, "in"))
		return tn_jp_unexpected(p, "'in'");
	TN_TRY(tn_jp_tuple(p, 0, "recursive", 0, &node->b));
	if (tn_jp_skip_name(p, "if"))
		TN_TRY(tn_jp_expression(p, 1, &node->c));
	node->flag = tn_jp_skip_name(p, "recursive");
	int guarded = p->guarded;
	p->loops++;
	p->guarded = 0;
	TN_TRY(parse_body_of(p, ends, &node->body));
	p->guarded = guarded;
	p->loops--;
	if (tn_jp_skip_name(p, "else"))
		TN_TRY(parse_body(p, "endfor", &node->other));
	else
		tn_jp_step(p);
	*out = node;
	return TN_OK;
}

static tn_status parse_if(struct tn_jparser *p, struct tn_jnode **out)
{
	static const char *const ends[] = { "endif", "else", "elif", NULL };
	struct tn_jnode *node, **link = out;
	int guarded = p->guarded;
	p->guarded = 1;
	do { /* each elif is an if that stands in the else of the one before */
		TN_TRY(tn_jp_node(p, TN_JN_IF, &node));
		*link = node;
		link = &node->other;
		tn_jp_step(p);
		TN_TRY(tn_jp_tuple(p, 0, NULL, 0, &node->a));
		TN_TRY(parse_body_of(p, ends, &node->body));
	} while (tn_jp_is_name(p, "elif"));
	if (tn_jp_skip_name(p, "else"))
		TN_TRY(parse_body(p, "endif", &node->other));
	else
		tn_jp_step(p);
	p->guarded = guarded;
	return TN_OK;
}

/* The filters of a block belong to its frame. */
static tn_status parse_block_filters(struct tn_jparser *p, int inline_first, struct tn_jnode **out)
{
	int guarded = p->guarded;
	p->guarded = 0;
	TN_TRY(tn_jp_filters(p, NULL, inline_first, out));
	p->guarded = guarded;
	return TN_OK;
}

static tn_status parse_set(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *node;
	TN_TRY(tn_jp_node(p, TN_JN_SET, &node));
	*out = node;
	tn_jp_step(p);
	TN_TRY(tn_jp_target(p, NULL, 1, &node->a));
	if (tn_jp_skip_op(p, "="))
		return tn_jp_tuple(p, 1, NULL, 0, &node->b);
	node->kind = TN_JN_SET_BLOCK;
	TN_TRY(parse_block_filters(p, 0, &node->b));
	return parse_body(p, "endset", &node->body);
}

static tn_status parse_parameters(struct tn_jparser *p, struct tn_jmacro *macro)
{
	size_t capacity = 0, default_capacity = 0;
	TN_TRY(tn_jp_expect_op(p, "("));
	while (!tn_jp_is_op(p, ")")) {
		struct tn_jnode *value;
		if (macro->count)
			TN_TRY(tn_jp_expect_op(p, ","));
		TN_TRY(tn_j_grow(p->j, &macro->parameters, &capacity, macro->count, macro->count + 1, sizeof *macro->parameters));
		TN_TRY(tn_jp_expect_name(p, &macro->parameters[macro->count]));
		macro->count++;
		if (tn_jp_skip_op(p, "=")) {
			TN_TRY(tn_jp_expression(p, 1, &value));
			TN_TRY(tn_jp_push(p, &macro->defaults, &macro->default_count, &default_capacity, value));
		} else if (macro->default_count) {
			return tn_j_fail(p->j, TN_E_FORMAT, "non-default argument follows default argument");
		}
	}
	return tn_jp_expect_op(p, ")");
}

/* The body of a macro or of a call block. A loop around it is none inside. */
static tn_status parse_macro_body(struct tn_jparser *p, struct tn_jmacro *macro, const char *end)
{
	int loops = p->loops;
	if (p->macro_count == TN_J_MOST_MACROS)
		return tn_j_fail(p->j, TN_E_LIMIT, "more than %d macros stand in each other", (int)TN_J_MOST_MACROS);
	p->macros[p->macro_count++] = macro;
	p->loops = 0;
	TN_TRY(parse_body(p, end, &macro->body));
	p->loops = loops;
	p->macro_count--;
	for (size_t i = 0; i < macro->count; i++) {
		if (macro->uses_caller && macro->parameters[i] == p->program->caller && i < macro->count - macro->default_count)
			return tn_j_fail(p->j, TN_E_FORMAT, "a macro that calls its caller must not have 'caller' as a "
					 "parameter without a default");
		macro->uses_caller &= macro->parameters[i] != p->program->caller;
		macro->uses_kwargs &= macro->parameters[i] != p->program->kwargs;
		macro->uses_varargs &= macro->parameters[i] != p->program->varargs;
	}
	return TN_OK;
}

static tn_status parse_macro(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *node;
	TN_TRY(tn_jp_node(p, TN_JN_MACRO, &node));
	TN_TRY(tn_j_alloc(p->j, sizeof *node->macro, &node->macro));
	*out = node;
	tn_jp_step(p);
	TN_TRY(tn_jp_expect_name(p, &node->name));
	node->macro->name = node->name;
	TN_TRY(parse_parameters(p, node->macro));
	return parse_macro_body(p, node->macro, "endmacro");
}

static tn_status parse_call_block(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode *node;
	TN_TRY(tn_jp_node(p, TN_JN_CALL_BLOCK, &node));
	TN_TRY(tn_j_alloc(p->j, sizeof *node->macro, &node->macro));
	*out = node;
	tn_jp_step(p);
	node->macro->name = p->program->caller;
	if (tn_jp_is_op(p, "("))
		TN_TRY(parse_parameters(p, node->macro));
	TN_TRY(tn_jp_expression(p, 1, &node->a));
	if (node->a->kind != TN_JN_CALL)
		return tn_j_fail(p->j, TN_E_FORMAT, "a call block needs a call");
	return parse_macro_body(p, node->macro, "endcall");
}

static tn_status parse_filter_block(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_FILTER_BLOCK, out));
	struct tn_jnode *node = *out;
	tn_jp_step(p);
	TN_TRY(parse_block_filters(p, 1, &node->a));
	return parse_body(p, "endfilter", &node->body);
}

static tn_status parse_with(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_WITH, out));
	struct tn_jnode *node = *out, *part;
	size_t capacity = 0;
	tn_jp_step(p);
	while (p->at->kind != TN_JT_BLOCK_END) {
		if (node->count)
			TN_TRY(tn_jp_expect_op(p, ","));
		TN_TRY(tn_jp_target(p, NULL, 0, &part));
		TN_TRY(tn_jp_push(p, &node->items, &node->count, &capacity, part));
		TN_TRY(tn_jp_expect_op(p, "="));
		TN_TRY(tn_jp_expression(p, 1, &part));
		TN_TRY(tn_jp_push(p, &node->items, &node->count, &capacity, part));
	}
	return parse_body(p, "endwith", &node->body);
}

static tn_status parse_block(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_BLOCK, out));
	struct tn_jnode *node = *out;
	tn_jp_step(p);
	TN_TRY(tn_jp_expect_name(p, &node->name));
	node->flag = tn_jp_skip_name(p, "scoped");
	tn_jp_skip_name(p, "required");
	TN_TRY(parse_body(p, "endblock", &node->body));
	if (p->at->kind == TN_JT_NAME && p->at->value.as.str == node->name)
		tn_jp_step(p);
	return TN_OK;
}

/* {% generation %} is a function of its own in Jinja2, so a loop around it is none inside. */
static tn_status parse_generation(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_GENERATION, out));
	struct tn_jnode *node = *out;
	int loops = p->loops;
	tn_jp_step(p);
	p->loops = 0;
	TN_TRY(parse_body(p, "endgeneration", &node->body));
	p->loops = loops;
	return TN_OK;
}

static tn_status parse_print_statement(struct tn_jparser *p, struct tn_jnode **out)
{
	struct tn_jnode **link = out;
	tn_jp_step(p);
	while (p->at->kind != TN_JT_BLOCK_END) {
		if (link != out)
			TN_TRY(tn_jp_expect_op(p, ","));
		TN_TRY(tn_jp_node(p, TN_JN_PRINT, link));
		TN_TRY(tn_jp_expression(p, 1, &(*link)->a));
		link = &(*link)->next;
	}
	return TN_OK;
}

static tn_status parse_loop_control(struct tn_jparser *p, struct tn_jnode **out)
{
	if (!p->loops)
		return tn_j_fail(p->j, TN_E_FORMAT, "'%s' outside of a loop", tn_jp_is_name(p, "break") ? "break" : "continue");
	TN_TRY(tn_jp_node(p, tn_jp_is_name(p, "break") ? TN_JN_BREAK : TN_JN_CONTINUE, out));
	tn_jp_step(p);
	return TN_OK;
}

/* include, import, from, extends: a chat template stands alone. An error when it is reached, as in Jinja2. */
static tn_status parse_missing(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_MISSING, out));
	(*out)->name = p->at->value.as.str;
	while (p->at->kind != TN_JT_BLOCK_END && p->at->kind != TN_JT_END)
		tn_jp_step(p);
	return TN_OK;
}

/* Only what is on all the time would change anything: values are not escaped in chat templates. */
static tn_status parse_autoescape(struct tn_jparser *p, struct tn_jnode **out)
{
	TN_TRY(tn_jp_node(p, TN_JN_WITH, out));
	tn_jp_step(p);
	if (!tn_jp_skip_name(p, "false") && !tn_jp_skip_name(p, "False"))
		return tn_j_fail(p->j, TN_E_UNSUPPORTED, "autoescape is supported with 'false' only");
	return parse_body(p, "endautoescape", &(*out)->body);
}

static const struct {
	const char *word;
	tn_status (*parse)(struct tn_jparser *p, struct tn_jnode **out);
} statements[] = {
	{ "for", parse_for }, { "if", parse_if }, { "set", parse_set }, { "macro", parse_macro }, { "call", parse_call_block },
	{ "filter", parse_filter_block }, { "with", parse_with }, { "block", parse_block }, { "generation", parse_generation },
	{ "print", parse_print_statement }, { "break", parse_loop_control }, { "continue", parse_loop_control },
	{ "include", parse_missing }, { "import", parse_missing }, { "from", parse_missing }, { "extends", parse_missing },
	{ "autoescape", parse_autoescape },
};

static tn_status parse_statement(struct tn_jparser *p, struct tn_jnode **out)
{
	if (p->at->kind != TN_JT_NAME)
		return tn_jp_unexpected(p, "the name of a statement");
	for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
		if (tn_jp_is_name(p, statements[i].word))
			return statements[i].parse(p, out);
	return tn_j_fail(p->j, TN_E_FORMAT, "Encountered unknown tag '%.*s'.",
			 p->at->value.as.str->bytes < 80 ? (int)p->at->value.as.str->bytes : 80, p->at->value.as.str->text);
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

/* The object that the lexer keeps for a name, whether the template has it or not. */
static tn_status intern(struct tn_jlexer *lexer, const char *text, struct tn_jstr **out)
{
	struct tn_jv name;
	TN_TRY(tn_jd_get_text(lexer->j, lexer->names, text, &name));
	if (!tn_jv_is_given(name))
		TN_TRY(tn_j_text(lexer->j, text, &name));
	*out = name.as.str;
	return TN_OK;
}

static tn_status unknown_name(struct tn_jparser *p)
{
	const struct tn_jstr *name = p->unknown->name;
	p->j->line = p->unknown->line;
	return tn_j_fail(p->j, TN_E_FORMAT, "No %s named '%.*s'.", p->unknown->kind == TN_JN_FILTER ? "filter" : "test",
			 name->bytes < 80 ? (int)name->bytes : 80, name->text);
}

tn_status tn_jinja_parse(struct tn_jprogram *program, const char *text, size_t bytes)
{
	struct tn_jlexer lexer;
	struct tn_jparser parser = { .j = &program->j, .program = program };
	TN_TRY(tn_jinja_lex(&program->j, text, bytes, &lexer));
	TN_TRY(intern(&lexer, "loop", &program->loop));
	TN_TRY(intern(&lexer, "caller", &program->caller));
	TN_TRY(intern(&lexer, "varargs", &program->varargs));
	TN_TRY(intern(&lexer, "kwargs", &program->kwargs));
	parser.at = lexer.tokens;
	program->j.line = 1;
	TN_TRY(parse_until(&parser, NULL, &program->body));
	return parser.unknown ? unknown_name(&parser) : tn_jinja_symbols(program);
}
