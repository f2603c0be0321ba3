/* SPDX-License-Identifier: Apache-2.0 */
#include "foreign_cases.h"

#include "weights/foreign.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void read_values(struct tt *t, const tn_checkpoint *model, const struct tn_matrix *m, struct foreign_values *out)
{
	struct tn_tensor_source source = tn_checkpoint_source(model);
	const struct tn_codec *codec = tn_kernels_for("portable")->codec[m->format.codec];
	struct tn_foreign_block block;
	unsigned char *parts[TN_PART_COUNT];
	void *raw = aligned_alloc(64, (size_t)(tn_matrix_raw_row_bytes(m) * m->rows + tn_matrix_raw_fixed_bytes(m) + 63) / 64 * 64);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		parts[p] = aligned_alloc(64, ((size_t)m->rows * m->row_bytes[p] + 64) / 64 * 64);
	tt_ok(t, tn_matrix_read(tn_kernels_for("portable"), &source, m, 0, m->rows, parts, raw, &block, &t->err));
	for (uint64_t i = 0; i < m->rows; i++) {
		struct tn_row row = { { NULL } };
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			row.part[p] = parts[p] + i * m->row_bytes[p];
		codec->decode(out->w + i * m->cols, &row, &m->format, (size_t)m->cols);
		double before = 0;
		for (size_t c = 0; c < m->cols; c++) { /* steps are squared and summed */
			double sum = codec->steps2(&row, &m->format, c + 1);
			out->step[i * m->cols + c] = (float)sqrt(sum - before);
			before = sum;
		}
		const struct tn_levels *levels = m->format.grid->levels;
		memset(parts[TN_PART_WEIGHT] + i * m->cols, levels->code[0], (size_t)m->cols);
		codec->decode(out->low + i * m->cols, &row, &m->format, (size_t)m->cols);
		memset(parts[TN_PART_WEIGHT] + i * m->cols, levels->code[levels->count - 1], (size_t)m->cols);
		codec->decode(out->high + i * m->cols, &row, &m->format, (size_t)m->cols);
	}
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		free(parts[p]);
	free(raw);
}

struct foreign_values foreign_values(struct tt *t, const char *folder, const char *module)
{
	struct foreign_values out = { 0 };
	struct tn_foreign_set *set;
	struct tn_arena arena;
	struct tn_matrix m;
	tn_checkpoint *model;
	tn_arena_init(&arena, t->ctx);
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &model, &t->err));
	tt_ok(t, tn_foreign_set_create(t->ctx, model, &set, &t->err));
	snprintf(out.weight, sizeof out.weight, "%s.weight", module);
	struct tn_foreign *f = tn_foreign_set_find(set, out.weight);
	if (!f) {
		snprintf(out.weight, sizeof out.weight, "%s", module);
		f = tn_foreign_set_find(set, out.weight);
	}
	if (!f)
		fail_msg("%s has no module %s", folder, module);
	tt_ok(t, tn_matrix_of_foreign(set, f, &arena, &m, &t->err));
	out.rows = m.rows;
	out.cols = m.cols;
	out.count = (size_t)(m.rows * m.cols);
	out.scales_by_row = tn_foreign_scales_by_row(f);
	out.w = malloc(out.count * sizeof *out.w);
	out.step = malloc(out.count * sizeof *out.step);
	out.low = malloc(out.count * sizeof *out.low);
	out.high = malloc(out.count * sizeof *out.high);
	read_values(t, model, &m, &out);
	tn_foreign_set_destroy(set);
	tn_arena_release(&arena);
	tn_checkpoint_close(model);
	return out;
}

void foreign_free(struct foreign_values *values)
{
	free(values->w);
	free(values->step);
	free(values->low);
	free(values->high);
}

static void write_config(const char *path, const char *module, uint64_t rank, double scale, int dora)
{
	char config[1024];
	const char *key = strstr(module, "layers.0.");
	snprintf(config, sizeof config, "{\"fine_tune_type\": \"%s\", \"num_layers\": -1, \"lora_parameters\": {\"rank\": %d, "
		 "\"dropout\": 0.0, \"scale\": %.17g, \"keys\": [\"%s\"]}}\n", dora ? "dora" : "lora", (int)rank, scale,
		 key ? key + strlen("layers.0.") : module);
	tt_write_text(path, config);
}

void foreign_adapter(struct tt *t, const char *folder, const char *module, const struct foreign_values *base, uint64_t rank,
		     double scale, double gain, double *wanted)
{
	uint64_t seed = 99, in = base->cols, out = base->rows;
	float *a = malloc(in * rank * sizeof *a), *b = malloc(rank * out * sizeof *b), *m = malloc(out * sizeof *m);
	char path[4096], names[3][512];
	for (size_t i = 0; i < in * rank; i++)
		a[i] = fuse_normal(&seed) * 0.1f;
	for (size_t i = 0; i < rank * out; i++)
		b[i] = scale == 0 ? 0 : fuse_normal(&seed) * 0.1f;
	scale = scale == 0 ? 1 : scale;
	for (uint64_t r = 0; r < out; r++) {
		double norm = 0;
		for (uint64_t c = 0; c < in; c++) {
			double d = 0, w = (double)base->w[r * in + c];
			for (uint64_t k = 0; k < rank; k++)
				d += (double)a[c * rank + k] * (double)b[k * out + r];
			wanted[r * in + c] = scale * d;
			norm += (w + scale * d) * (w + scale * d);
		}
		m[r] = (float)(gain * sqrt(norm));
		for (uint64_t c = 0; c < in && gain != 0; c++)
			wanted[r * in + c] = gain * (wanted[r * in + c] + (double)base->w[r * in + c]) - (double)base->w[r * in + c];
	}
	mkdir(folder, 0777);
	snprintf(names[0], sizeof names[0], "%s.lora_a", module);
	snprintf(names[1], sizeof names[1], "%s.lora_b", module);
	snprintf(names[2], sizeof names[2], "%s.m", module);
	struct fuse_tensor tensors[] = { { names[0], in, rank, a }, { names[1], rank, out, b }, { names[2], 0, out, m } };
	snprintf(path, sizeof path, "%s/adapters.safetensors", folder);
	unlink(path);
	fuse_write_tensors(t, path, tensors, gain != 0 ? 3 : 2);
	snprintf(path, sizeof path, "%s/adapter_config.json", folder);
	write_config(path, module, rank, scale, gain != 0);
	free(a);
	free(b);
	free(m);
}
