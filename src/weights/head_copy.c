/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/head_copy.h"

#include "base/checked.h"
#include "base/context.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "weights/foreign.h"
#include "weights/matrix.h"

#include <string.h>

/* One of the two, and memory for a row of it. */
struct side {
	struct tn_matrix matrix;
	unsigned char *parts[TN_PART_COUNT];
	void *raw;
	float *values;
	struct tn_format format;
	uint64_t format_end;
};

struct pair {
	const tn_checkpoint *base;
	struct tn_arena arena;
	tn_quant_config *config;
	struct tn_foreign_set *foreign;
	struct side side[2];
};

static tn_status find_side(struct pair *p, const char *name, struct side *s, int *found, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(p->base);
	struct tn_foreign *foreign = tn_foreign_set_find(p->foreign, name);
	const struct tn_tensor *tensor = tn_checkpoint_find(p->base, name);
	*found = foreign || tensor;
	if (foreign)
		return tn_matrix_of_foreign(p->foreign, foreign, &p->arena, &s->matrix, err);
	return tensor ? tn_matrix_find(&source, p->config, tensor, &s->matrix, err) : TN_OK;
}

static tn_status make_room(struct pair *p, struct side *s, struct tn_error *err)
{
	const struct tn_matrix *m = &s->matrix;
	uint64_t raw = tn_matrix_raw_row_bytes(m) + tn_matrix_raw_fixed_bytes(m);
	for (unsigned i = 0; i < TN_PART_COUNT; i++)
		TN_TRY(tn_arena_array(&p->arena, m->row_bytes[i] + 1, 1, &s->parts[i], err));
	TN_TRY(tn_arena_array(&p->arena, (size_t)raw + 1, 1, &s->raw, err));
	return tn_arena_array(&p->arena, (size_t)m->cols, sizeof *s->values, &s->values, err);
}

static tn_status read_row(const struct pair *p, struct side *s, uint64_t row, struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(p->base);
	struct tn_foreign_block block;
	TN_TRY(tn_matrix_read(p->base->ctx->kernels, &source, &s->matrix, row, 1, s->parts, s->raw, &block, err));
	if (row >= s->format_end)
		TN_TRY(tn_matrix_format_at(&source, &s->matrix, row, &s->format, &s->format_end, err));
	const struct tn_row in = { { s->parts[0], s->parts[1], s->parts[2] } };
	p->base->ctx->kernels->codec[s->format.codec]->decode(s->values, &in, &s->format, (size_t)s->matrix.cols);
	return TN_OK;
}

static int same_values(const float *a, const float *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!(a[i] == b[i]) && !(a[i] != a[i] && b[i] != b[i]))
			return 0;
	return 1;
}

static tn_status compare(struct pair *p, int *same, struct tn_error *err)
{
	struct side *a = &p->side[0], *b = &p->side[1];
	*same = a->matrix.rows == b->matrix.rows && a->matrix.cols == b->matrix.cols;
	for (int i = 0; i < 2 && *same; i++)
		TN_TRY(make_room(p, &p->side[i], err));
	for (uint64_t row = 0; *same && row < a->matrix.rows; row++) {
		TN_TRY(read_row(p, a, row, err));
		TN_TRY(read_row(p, b, row, err));
		*same = same_values(a->values, b->values, (size_t)a->matrix.cols);
	}
	return TN_OK;
}

static tn_status check(struct pair *p, const char *embedding, const char *head, struct tn_error *err)
{
	int there[2], same;
	if (p->base->config)
		TN_TRY(tn_quant_config_parse(p->base->ctx, p->base->config, &p->config, err));
	TN_TRY(tn_foreign_set_create_in(&p->arena, p->base->ctx, p->base, &p->foreign, err));
	TN_TRY(find_side(p, embedding, &p->side[0], &there[0], err));
	TN_TRY(find_side(p, head, &p->side[1], &there[1], err));
	if (!there[0] || !there[1])
		return TN_OK;
	TN_TRY(compare(p, &same, err));
	return same ? TN_OK : tn_fail(err, TN_E_MISMATCH, head,
				      "config.json ties the head to '%.100s', and '%.100s' has other numbers: transformers "
				      "computes with both, mlx-lm with the first alone. Set tie_word_embeddings to false to use "
				      "the head, or take it out of the file", embedding, head);
}

tn_status tn_check_head_copy(const tn_checkpoint *base, const char *embedding, const char *head, struct tn_error *err)
{
	struct pair p = { .base = base };
	tn_arena_init(&p.arena, base->ctx);
	tn_status status = check(&p, embedding, head, err);
	tn_quant_config_destroy(p.config);
	tn_arena_release(&p.arena);
	return status;
}
