/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja.h"

#include "chat/jinja_call.h"

#include <string.h>

/* A long conversation with a long list of tools takes some megabytes and 10^5 steps. */
enum { MOST_BYTES = 256 << 20, MOST_STEPS = 20000000, LONGEST_TEMPLATE = 4 << 20 };

void tn_jinja_start(struct tn_j *j, tn_context *ctx, const char *where, struct tn_error *err)
{
	*j = (struct tn_j){ .limit = MOST_BYTES, .most_steps = MOST_STEPS, .err = err, .where = where, .line = 1 };
	tn_arena_init(&j->arena, ctx);
}

tn_status tn_jinja_compile(tn_context *ctx, const char *text, size_t bytes, const char *where, struct tn_jprogram **out,
			   struct tn_error *err)
{
	struct tn_jprogram *program;
	size_t valid = tn_utf8_valid_prefix(text, bytes);
	if (valid != bytes)
		return tn_fail_at(err, TN_E_FORMAT, where, valid, "the chat template is not UTF-8 at byte %zu", valid);
	if (bytes > LONGEST_TEMPLATE)
		return tn_fail(err, TN_E_LIMIT, where, "the chat template has %zu bytes; at most %d were expected", bytes,
			       (int)LONGEST_TEMPLATE);
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *program, "chat template", &program, err));
	tn_jinja_start(&program->j, ctx, where, err);
	tn_status status = tn_jinja_parse(program, text, bytes);
	program->j.err = NULL;
	if (status == TN_OK)
		*out = program;
	else
		tn_jinja_free(program);
	return status;
}

void tn_jinja_free(struct tn_jprogram *program)
{
	if (!program)
		return;
	tn_context *ctx = program->j.arena.ctx;
	tn_arena_release(&program->j.arena);
	tn_free(ctx, program, sizeof *program);
}

void tn_jinja_begin(struct tn_j *j, tn_context *ctx, const struct tn_jprogram *program, struct tn_error *err)
{
	tn_jinja_start(j, ctx, program->j.where, err);
	j->program = program;
}

void tn_jinja_end(struct tn_j *j)
{
	tn_arena_release(&j->arena);
}

tn_status tn_jinja_run(struct tn_j *j, struct tn_jdict *variables, struct tn_jv *out)
{
	struct tn_jbuffer page = { 0 };
	enum tn_jflow flow = TN_JF_ON;
	j->variables = variables;
	j->page = j->out = &page;
	j->depth = 0;
	TN_TRY(tn_j_scope(j, NULL, j->program->unset, &j->root));
	tn_status status = tn_j_run_body(j, j->program->body, j->root, &flow);
	if (status == TN_OK)
		status = tn_jb_string(j, &page, out);
	j->page = j->out = NULL;
	return status;
}
