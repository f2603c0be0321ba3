/* SPDX-License-Identifier: Apache-2.0 */
#include "fuselib.h"

#include "base/half.h"
#include "store/st_writer.h"
#include "weights/matrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- jobs ------------------------------------------------------------------------------------------------ */

struct opened {
	tn_checkpoint *base;
	tn_adapter *adapter, *second;
	struct tn_weighted_adapter more;
	tn_fuse *fuse;
};

static tn_status plan(struct tt *t, tn_context *ctx, const struct fuse_job *job, struct opened *o)
{
	struct tn_fuse_options options = job->options;
	tt_ok(t, tn_checkpoint_open(ctx, job->base, &o->base, &t->err));
	tt_ok(t, tn_adapter_open(ctx, job->adapter, &o->adapter, &t->err));
	if (job->second) {
		tt_ok(t, tn_adapter_open(ctx, job->second, &o->second, &t->err));
		o->more = (struct tn_weighted_adapter){ o->second, job->second_weight };
		options.more = &o->more;
		options.more_count = 1;
	}
	return tn_fuse_plan(ctx, o->base, o->adapter, &options, &o->fuse, &t->err);
}

static void close_all(struct opened *o)
{
	tn_fuse_free(o->fuse);
	tn_adapter_close(o->second);
	tn_adapter_close(o->adapter);
	tn_checkpoint_close(o->base);
}

size_t fuse_run(struct tt *t, tn_context *ctx, const struct fuse_job *job, struct tn_survival *survival, size_t room)
{
	struct opened o = { .fuse = NULL };
	size_t n = 0;
	tt_ok(t, plan(t, ctx, job, &o));
	tt_ok(t, tn_fuse_run(o.fuse, job->out, 1, &t->err));
	for (size_t i = 0; i < tn_fuse_count(o.fuse); i++) {
		const struct tn_survival *s = tn_fuse_at(o.fuse, i)->survival;
		if (s && n < room)
			survival[n] = *s;
		n += s != NULL;
	}
	close_all(&o);
	return n;
}

void fuse_refused(struct tt *t, const struct fuse_job *job, tn_status code, const char *text)
{
	struct opened o = { .fuse = NULL };
	tn_status status = plan(t, t->ctx, job, &o);
	if (status == TN_OK)
		status = tn_fuse_run(o.fuse, job->out, 1, &t->err);
	assert_int_equal(status, code);
	tt_expect_msg(t, text);
	assert_false(tt_exists(job->out));
	close_all(&o);
}

struct fuse_extraction fuse_extraction_of(const char *base, const char *tuned, tn_adapter_dialect dialect, uint64_t rank)
{
	struct fuse_extraction j = { base, tuned, dialect, TN_EXTRACT_OPTIONS_INIT };
	j.options.rule.rank = rank;
	return j;
}

tn_verdict fuse_verdict(struct tt *t, const char *folder, const struct tn_fuse_options *options, const char *merged, const char *name,
			int *ok)
{
	char path[4200];
	tn_checkpoint *before, *after;
	tn_adapter *adapter;
	tn_verify *v;
	tn_verdict found = TN_VERDICT_MISSING;
	snprintf(path, sizeof path, "%s/base", folder);
	tt_ok(t, tn_checkpoint_open(t->ctx, path, &before, &t->err));
	snprintf(path, sizeof path, "%s/adapter", folder);
	tt_ok(t, tn_adapter_open(t->ctx, path, &adapter, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, merged, &after, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, before, adapter, options, after, &v, &t->err));
	for (size_t i = 0; i < tn_verify_count(v); i++)
		if (name && strcmp(tn_verify_at(v, i)->name, name) == 0)
			found = tn_verify_at(v, i)->verdict;
	*ok = tn_verify_ok(v);
	tn_verify_free(v);
	tn_checkpoint_close(after);
	tn_adapter_close(adapter);
	tn_checkpoint_close(before);
	return found;
}

tn_status fuse_try_extract(tn_context *ctx, const struct fuse_extraction *j, tn_draft **out, struct tn_error *err)
{
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	tn_checkpoint *base = NULL, *tuned = NULL;
	o.dialect = j->dialect;
	tn_status status = tn_checkpoint_open(ctx, j->base, &base, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, j->tuned, &tuned, err);
	if (status == TN_OK)
		status = tn_draft_extract(base, tuned, &o, &j->options, out, err);
	tn_checkpoint_close(tuned);
	tn_checkpoint_close(base);
	return status;
}

tn_draft *fuse_extract(struct tt *t, const struct fuse_extraction *j)
{
	tn_draft *d = NULL;
	tt_ok(t, fuse_try_extract(t->ctx, j, &d, &t->err));
	return d;
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

static double *widen(const void *bytes, tn_dtype dtype, size_t count)
{
	double *out = malloc((count + 1) * sizeof *out);
	for (size_t i = 0; i < count; i++) {
		switch (dtype) {
		case TN_F64: out[i] = ((const double *)bytes)[i]; break;
		case TN_F32: out[i] = (double)((const float *)bytes)[i]; break;
		case TN_F16: out[i] = (double)tn_f32_from_f16(((const uint16_t *)bytes)[i]); break;
		case TN_BF16: out[i] = (double)tn_f32_from_bf16(((const uint16_t *)bytes)[i]); break;
		default: fail_msg("a tensor of %s", tn_dtype_name(dtype));
		}
	}
	return out;
}

static double *decode(struct tt *t, const tn_checkpoint *model, const struct tn_matrix *m)
{
	struct tn_tensor_source source = tn_checkpoint_source(model);
	unsigned char *raw[TN_PART_COUNT] = { NULL };
	float *row = malloc(m->cols * sizeof *row);
	double *out = malloc(m->rows * m->cols * sizeof *out);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		raw[p] = malloc(m->row_bytes[p] + 1);
	for (uint64_t i = 0; i < m->rows; i++) {
		struct tn_format format;
		struct tn_row in = { { raw[0], raw[1], raw[2] } };
		uint64_t end;
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			if (m->part[p])
				tt_ok(t, tn_checkpoint_read(model, m->part[p], i * m->row_bytes[p], raw[p], m->row_bytes[p], &t->err));
		tt_ok(t, tn_matrix_format_at(&source, m, i, &format, &end, &t->err));
		tn_kernels_for("portable")->codec[format.codec]->decode(row, &in, &format, (size_t)m->cols);
		for (uint64_t c = 0; c < m->cols; c++)
			out[i * m->cols + c] = (double)row[c];
	}
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		free(raw[p]);
	free(row);
	return out;
}

double *fuse_values(struct tt *t, const char *folder, const char *name, size_t *count)
{
	tn_checkpoint *model;
	tn_quant_config *config = NULL;
	struct tn_matrix m;
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &model, &t->err));
	if (tn_checkpoint_config(model))
		tt_ok(t, tn_quant_config_parse(t->ctx, tn_checkpoint_config(model), &config, &t->err));
	struct tn_tensor_source source = tn_checkpoint_source(model);
	const struct tn_tensor *tensor = tn_checkpoint_find(model, name);
	if (!tensor)
		fail_msg("%s has no %s", folder, name);
	tt_ok(t, tn_matrix_find(&source, config, tensor, &m, &t->err));
	double *out = decode(t, model, &m);
	*count = (size_t)(m.rows * m.cols);
	tn_quant_config_destroy(config);
	tn_checkpoint_close(model);
	return out;
}

double *fuse_file_values(struct tt *t, const char *file, const char *name, size_t *count)
{
	tn_safetensors *st;
	struct tn_buffer bytes;
	const struct tn_tensor *tensor;
	tt_ok(t, tn_safetensors_open(t->ctx, file, &st, &t->err));
	tt_ok(t, tn_safetensors_load(st, name, &bytes, &tensor, &t->err));
	*count = (size_t)tensor->elements;
	double *out = widen(bytes.data, tensor->dtype, *count);
	tn_buffer_release(t->ctx, &bytes);
	tn_safetensors_close(st);
	return out;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static void write_as(struct tt *t, const char *path, const struct fuse_tensor *tensors, size_t count, uint64_t depth,
		     tn_dtype dtype)
{
	struct tn_tensor *made = calloc(count, sizeof *made), **order = calloc(count, sizeof *order);
	uint64_t (*shapes)[3] = calloc(count, sizeof *shapes);
	struct tn_st_writer *writer;
	for (size_t i = 0; i < count; i++) {
		uint64_t rows = tensors[i].rows, cols = tensors[i].cols;
		uint64_t n = (depth ? depth : 1) * (rows ? rows : 1) * cols;
		uint32_t rank = depth ? 3 : rows ? 2 : 1;
		const uint64_t sizes[] = { depth, rows, cols };
		memcpy(shapes[i], sizes + 3 - rank, rank * sizeof *sizes);
		made[i] = (struct tn_tensor){ .name = tensors[i].name, .dtype = dtype, .rank = rank, .shape = shapes[i],
					      .elements = n, .bytes = n * tn_dtype_bits(dtype) / 8 };
		order[i] = &made[i];
	}
	tt_ok(t, tn_st_writer_create(t->ctx, path, order, count, NULL, 0, 0, &writer, &t->err));
	for (size_t i = 0; i < count; i++) {
		uint16_t *half = malloc(made[i].elements * sizeof *half + 1);
		for (uint64_t k = 0; k < made[i].elements && dtype != TN_F32; k++)
			half[k] = dtype == TN_BF16 ? tn_bf16_from_f32(tensors[i].values[k]) : tn_f16_from_f32(tensors[i].values[k]);
		const void *bytes = dtype == TN_F32 ? (const void *)tensors[i].values : half;
		tt_ok(t, tn_st_writer_put(writer, &made[i], 0, bytes, (size_t)made[i].bytes, &t->err));
		free(half);
	}
	tt_ok(t, tn_st_writer_finish(writer, &t->err));
	free(shapes);
	free(order);
	free(made);
}

void fuse_write_tensors(struct tt *t, const char *path, const struct fuse_tensor *tensors, size_t count)
{
	write_as(t, path, tensors, count, 0, TN_F32);
}

void fuse_write_stacks(struct tt *t, const char *path, const struct fuse_tensor *tensors, size_t count, uint64_t depth)
{
	write_as(t, path, tensors, count, depth, TN_F32);
}

void fuse_write_model(struct tt *t, const char *folder, const struct fuse_tensor *tensors, size_t count, tn_dtype dtype)
{
	char path[4096];
	mkdir(folder, 0777);
	snprintf(path, sizeof path, "%s/model.safetensors", folder);
	write_as(t, path, tensors, count, 0, dtype);
	snprintf(path, sizeof path, "%s/config.json", folder);
	tt_write_text(path, "{\"model_type\": \"llama\", \"num_hidden_layers\": 1}\n");
}

void fuse_write_adapter(struct tt *t, const char *folder, const float *a, const float *b, uint64_t in, uint64_t rank,
			uint64_t out, double scale)
{
	char path[4096], config[512];
	struct fuse_tensor tensors[] = { { "model.layers.0.mlp.up_proj.lora_a", in, rank, a },
					 { "model.layers.0.mlp.up_proj.lora_b", rank, out, b } };
	mkdir(folder, 0777);
	snprintf(path, sizeof path, "%s/adapters.safetensors", folder);
	write_as(t, path, tensors, 2, 0, TN_F32);
	snprintf(config, sizeof config, "{\"fine_tune_type\": \"lora\", \"num_layers\": -1, \"lora_parameters\": {\"rank\": %d, "
		 "\"dropout\": 0.0, \"scale\": %.17g, \"keys\": [\"mlp.up_proj\"]}}\n", (int)rank, scale);
	snprintf(path, sizeof path, "%s/adapter_config.json", folder);
	tt_write_text(path, config);
}

float fuse_normal(uint64_t *state)
{
	double u = ((double)(tt_random(state) >> 11) + 1) * 0x1p-53, v = (double)(tt_random(state) >> 11) * 0x1p-53;
	return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}
