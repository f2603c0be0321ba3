/* SPDX-License-Identifier: Apache-2.0 */
#include "livelib.h"

#include "base/arena.h"
#include "base/context.h"
#include "transform/edit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void live_open(struct tt *t, const char *folder, struct live_base *out)
{
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &out->checkpoint, &t->err));
	tt_ok(t, tn_live_open(out->checkpoint, NULL, &out->live, &t->err));
}

void live_close(struct live_base *base)
{
	tn_live_close(base->live);
	tn_checkpoint_close(base->checkpoint);
}

tn_adapter *live_adapter(struct tt *t, const char *folder)
{
	tn_adapter *a;
	tt_ok(t, tn_adapter_open(t->ctx, folder, &a, &t->err));
	return a;
}

/* ---- truth ----------------------------------------------------------------------------------------------- */

struct truth {
	double *rows;
	size_t cols;
};

static tn_status take_row(void *arg, const struct tn_edit_truth *row, int *closer, struct tn_error *err)
{
	struct truth *truth = arg;
	(void)closer;
	(void)err;
	memcpy(truth->rows + row->unit * truth->cols, row->truth, truth->cols * sizeof(double));
	return TN_OK;
}

static const struct tn_target *find_target(const struct tn_joint *j, const tn_live *live, size_t module)
{
	char name[1024];
	const char *path = tn_live_module_path(live, module);
	/* behind the module's own names those of the embedding that a head is */
	static const char *const names[] = { "%s.weight", "%s", "model.embed_tokens.weight", "wte.weight", "transformer.wte.weight",
					     "model.wte.weight" };
	for (size_t pass = 0; pass < sizeof names / sizeof *names; pass++) {
		if (pass < 2)
			snprintf(name, sizeof name, pass ? "%s" : "%s.weight", path);
		else
			snprintf(name, sizeof name, "%s", names[pass]);
		for (size_t i = 0; i < j->target_count; i++)
			if (strcmp(j->targets[i].name, name) == 0)
				return &j->targets[i];
	}
	fail_msg("no target for %s", path);
	return NULL;
}

/* All rows before they are edited. */
static void read_source(struct tt *t, const struct tn_joint *j, const struct tn_target *target, struct truth *truth)
{
	const struct tn_tensor *source = tn_target_source(target);
	size_t rows = (size_t)source->elements / truth->cols;
	float *row = malloc(truth->cols * sizeof *row);
	void *raw = malloc(truth->cols * 8);
	for (size_t i = 0; i < rows; i++) {
		tt_ok(t, tn_target_read_f32(j, target, i * truth->cols, truth->cols, row, raw, &t->err));
		for (size_t k = 0; k < truth->cols; k++)
			truth->rows[i * truth->cols + k] = (double)row[k];
	}
	free(raw);
	free(row);
}

/* The rows of a block, where an adapter may have brought parts of a triple along. */
static void decode_rows(struct tt *t, const struct tn_joint *j, const struct tn_edit_form *form,
			const struct tn_edit_block *block, struct truth *truth)
{
	struct tn_tensor_source source = tn_checkpoint_source(j->base);
	float *w = malloc(truth->cols * sizeof *w);
	for (uint64_t row = 0; row < block->count; row++) {
		struct tn_format format;
		struct tn_row in = { { NULL } };
		uint64_t end;
		tt_ok(t, tn_matrix_format_at(&source, &form->in, row, &format, &end, &t->err));
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			in.part[p] = form->source_bytes[p] ? block->in[p] + row * form->source_bytes[p] : NULL;
		j->ctx->kernels->codec[format.codec]->decode(w, &in, &format, truth->cols);
		for (size_t k = 0; k < truth->cols; k++)
			truth->rows[row * truth->cols + k] = (double)w[k];
	}
	free(w);
}

static void edit_rows(struct tt *t, const struct tn_joint *j, const struct tn_target *target, struct tn_arena *arena,
		      struct truth *truth)
{
	struct tn_edit_form form;
	struct tn_edit_choice choice = { .dequantize = 1 };
	struct tn_tensor *outputs[TN_PART_COUNT];
	struct tn_edit_block block;
	struct tn_delta_cache *cache;
	uint64_t *takes = calloc(j->slot_count + 1, sizeof *takes);
	tt_ok(t, tn_edit_form_make(j, target, &choice, arena, &form, outputs, &t->err));
	tn_edit_count_takes(j, target, form.units, takes);
	tt_ok(t, tn_delta_cache_create(j, takes, &cache, &t->err));
	struct tn_buffer memory;
	tt_ok(t, tn_buffer_alloc(t->ctx, (size_t)(tn_edit_unit_bytes(&form) * form.units + form.scratch_bytes), "", &memory, &t->err));
	tn_edit_place(&form, NULL, 0, form.units, memory.data, &block);
	tt_ok(t, tn_edit_read(j, &form, &block, &t->err));
	decode_rows(t, j, &form, &block, truth);
	tt_ok(t, tn_edit_truths(j, target, &form, cache, &block, take_row, truth, &t->err));
	tn_buffer_release(t->ctx, &memory);
	tn_delta_cache_free(cache);
	free(takes);
}

double *live_truth(struct tt *t, const struct live_base *base, size_t module, const struct tn_weighted_adapter *adapters,
		   size_t count)
{
	struct tn_arena arena;
	struct tn_joint *j, *empty;
	tn_arena_init(&arena, t->ctx);
	tt_ok(t, tn_joint_open_base(base->checkpoint, &arena, &empty, &t->err));
	tt_ok(t, tn_joint_make_live(adapters, count, empty, &arena, &j, &t->err));
	const struct tn_target *target = find_target(j, base->live, module);
	const struct tn_tensor *source = tn_target_source(target);
	struct truth truth = { .cols = (size_t)source->shape[source->rank - 1] };
	truth.rows = malloc((size_t)source->elements * sizeof(double));
	if (!tn_target_is_packed(target))
		read_source(t, j, target, &truth);
	if (target->landing_count || tn_target_is_packed(target))
		edit_rows(t, j, target, &arena, &truth);
	tn_joint_close_base(empty);
	tn_arena_release(&arena);
	return truth.rows;
}

/* ---- products -------------------------------------------------------------------------------------------- */

float *live_x(size_t m, size_t in, uint64_t seed)
{
	float *x = malloc(m * in * sizeof *x);
	for (size_t i = 0; i < m * in; i++)
		x[i] = (float)((double)(int64_t)tt_random(&seed) / 9.3e18);
	return x;
}

float *live_forward(const tn_snapshot *s, const tn_live *live, size_t module, uint64_t expert, size_t m, const float *x,
		    const size_t *adapter_of_row)
{
	struct tn_module_shape shape;
	tn_live_shape(live, module, &shape);
	size_t out = (size_t)shape.out_features, in = (size_t)shape.in_features;
	float *y = malloc(m * out * sizeof *y);
	void *scratch = malloc(tn_snapshot_scratch_bytes(s, module, m));
	struct tn_live_call call = { .module = module, .m = m, .x = x, .x_stride = in, .y = y, .y_stride = out,
				     .adapter_of_row = adapter_of_row, .expert = expert };
	memset(y, 0xFF, m * out * sizeof *y);
	tn_snapshot_forward(s, &call, scratch);
	free(scratch);
	return y;
}

double live_error(const float *y, const float *x, const double *w, const float *bias, size_t m, size_t out, size_t in)
{
	double worst = 0;
	for (size_t t = 0; t < m; t++) {
		double top = 0, error = 0;
		for (size_t i = 0; i < out; i++) {
			double sum = bias ? (double)bias[i] : 0;
			for (size_t k = 0; k < in; k++)
				sum += w[i * in + k] * (double)x[t * in + k];
			top = fmax(top, fabs(sum));
			error = fmax(error, isfinite(y[t * out + i]) ? fabs(sum - (double)y[t * out + i]) : HUGE_VAL);
		}
		worst = fmax(worst, top > 0 ? error / top : error);
	}
	return worst;
}
