/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/edit.h"

#include "base/checked.h"
#include "base/error.h"
#include "kernels/kernels.h"
#include "store/safetensors.h"

#include <string.h>

struct tn_edit_form tn_edit_form_of(const struct tn_joint *j, const struct tn_target *t)
{
	const struct tn_tensor *source = tn_target_source(t);
	tn_dtype dtype = tn_target_dtype(t);
	struct tn_edit_form f = { source->bytes, 1, 1, source->dtype != dtype, 64 };
	if (!t->landing_count && !f.converts)
		return f;
	uint64_t width = t->landing_count ? t->cols : 1, rank = 0;
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_slot *slot = &j->slots[j->landings[t->first_landing + i].slot];
		rank = tn_max_u64(rank, slot->kind == TN_SLOT_DELTA ? slot->entry->module.rank : 1);
	}
	f.units = source->elements / width;
	f.source_bytes = width * tn_dtype_bits(source->dtype) / 8;
	f.result_bytes = width * tn_dtype_bits(dtype) / 8;
	f.row_bytes = tn_delta_scratch_bytes((size_t)rank, (size_t)width) + width * (sizeof(float) + 2 * sizeof(double)) + 512;
	return f;
}

tn_status tn_edit_read(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_form *f, uint64_t first,
		       uint64_t count, void *dst, struct tn_error *err)
{
	const struct tn_tensor *source = tn_target_source(t);
	size_t bytes = (size_t)(count * f->source_bytes);
	if (t->replacement)
		return tn_safetensors_read(j->adapter->file, source, first * f->source_bytes, dst, bytes, err);
	return tn_checkpoint_read(j->base, source, first * f->source_bytes, dst, bytes, err);
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* Scratch of one row. */
struct row_scratch {
	double *truth, *size;
	float *w;
	void *delta;
};

static struct row_scratch split_scratch(void *scratch, size_t cols)
{
	struct row_scratch s;
	s.truth = scratch;
	s.size = s.truth + cols;
	s.w = (float *)(s.size + cols);
	s.delta = (unsigned char *)scratch + tn_align_up(cols * (2 * sizeof(double) + sizeof(float)), 64);
	return s;
}

static void decode(const struct tn_joint *j, tn_dtype dtype, const unsigned char *bytes, float *dst, size_t n)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_row row = { { bytes } };
	j->adapter->ctx->kernels->codec[TN_CODEC_dense]->decode(dst, &row, &format, n);
}

static void encode(const struct tn_joint *j, tn_dtype dtype, const float *src, unsigned char *bytes, size_t n)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_row_out row = { { bytes } };
	j->adapter->ctx->kernels->codec[TN_CODEC_dense]->encode(&row, src, &format, n);
}

/* s->w holds the row of the source, and gets that of the result. Sums in double where the result shows it. */
static void edit_row(const struct tn_joint *j, const struct tn_loaded *loaded, tn_dtype dtype, size_t row, size_t cols,
		     const struct row_scratch *s)
{
	const struct tn_kernels *k = j->adapter->ctx->kernels;
	if (loaded->rows) {
		memcpy(s->w, loaded->rows + row * cols, cols * sizeof *s->w);
	} else if (dtype != TN_F32 && tn_delta_is_plain(&loaded->delta)) {
		tn_delta_edit_f32(k, &loaded->delta, row, s->w, s->delta);
	} else {
		tn_delta_row_f64(k, &loaded->delta, row, s->w, s->truth, TN_SIZES_NONE, NULL, s->delta);
		for (size_t i = 0; i < cols; i++)
			s->w[i] = (float)s->truth[i];
	}
}

/* The rows of [first, first + count) that a landing changes. */
struct span {
	uint64_t begin, end;
};

static struct span meet(const struct tn_landing *landing, uint64_t first, uint64_t count)
{
	struct span s = { tn_max_u64(landing->target_row, first),
			  tn_min_u64(landing->target_row + landing->rows, first + count) };
	return s;
}

/* All units, in pieces that fit the scratch. */
static void convert(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_form *f, uint64_t count,
		    const unsigned char *source, unsigned char *result, void *scratch)
{
	uint64_t width = t->landing_count ? t->cols : 1, step = t->landing_count ? 1 : 64;
	float *w = scratch;
	for (uint64_t i = 0; i < count; i += step) {
		size_t n = (size_t)(tn_min_u64(step, count - i) * width);
		decode(j, tn_target_source(t)->dtype, source + i * f->source_bytes, w, n);
		encode(j, tn_target_dtype(t), w, result + i * f->result_bytes, n);
	}
}

tn_status tn_edit_units(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_form *f,
			struct tn_delta_cache *cache, uint64_t first, uint64_t count, unsigned char *source,
			unsigned char *result, void *scratch, struct tn_error *err)
{
	struct row_scratch s = split_scratch(scratch, (size_t)t->cols);
	if (f->converts)
		convert(j, t, f, count, source, result, scratch);
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *landing = &j->landings[t->first_landing + i];
		struct span span = meet(landing, first, count);
		const struct tn_loaded *loaded;
		if (span.begin >= span.end)
			continue;
		TN_TRY(tn_delta_cache_take(cache, landing->slot, &loaded, err));
		for (uint64_t row = span.begin; row < span.end; row++) {
			decode(j, tn_target_source(t)->dtype, source + (row - first) * f->source_bytes, s.w, (size_t)t->cols);
			edit_row(j, loaded, tn_target_dtype(t), (size_t)(row - landing->target_row + landing->delta_row),
				 (size_t)t->cols, &s);
			encode(j, tn_target_dtype(t), s.w, result + (row - first) * f->result_bytes, (size_t)t->cols);
		}
		tn_delta_cache_return(cache, landing->slot);
	}
	return TN_OK;
}

static void exact_row(const struct tn_joint *j, const struct tn_loaded *loaded, size_t row, size_t cols,
		      enum tn_delta_sizes sizes, const struct row_scratch *s)
{
	if (!loaded->rows) {
		tn_delta_row_f64(j->adapter->ctx->kernels, &loaded->delta, row, s->w, s->truth, sizes, s->size, s->delta);
		return;
	}
	for (size_t i = 0; i < cols; i++) {
		s->truth[i] = (double)loaded->rows[row * cols + i];
		s->size[i] = s->truth[i] < 0 ? -s->truth[i] : s->truth[i];
	}
}

/* How much more than one product's rounding a float32 computation of the whole delta may lose: sums of `rank` products, norms
 * of rows, singular vectors. PEFT computes all of them so. */
static double float32_slack(const struct tn_delta *d)
{
	return 1 + (double)d->rank / 8 + (d->row_magnitude || d->column_gain ? 4 : 0) + (d->removed.rank ? 256 : 0);
}

/* With sizes that allow for what a float32 result shows of all this. */
static void widen_sizes(const struct tn_loaded *loaded, tn_dtype dtype, size_t cols, double *size)
{
	double slack = dtype == TN_F32 && !loaded->rows ? float32_slack(&loaded->delta) : 1;
	for (size_t i = 0; i < cols; i++)
		size[i] *= slack;
}

tn_status tn_edit_truths(const struct tn_joint *j, const struct tn_target *t, const struct tn_edit_form *f,
			 struct tn_delta_cache *cache, uint64_t first, uint64_t count, const unsigned char *source,
			 void *scratch, tn_edit_visit visit, void *arg, struct tn_error *err)
{
	struct row_scratch s = split_scratch(scratch, (size_t)t->cols);
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *landing = &j->landings[t->first_landing + i];
		struct span span = meet(landing, first, count);
		const struct tn_loaded *loaded;
		if (span.begin >= span.end)
			continue;
		TN_TRY(tn_delta_cache_take(cache, landing->slot, &loaded, err));
		for (uint64_t row = span.begin; row < span.end; row++) {
			decode(j, tn_target_source(t)->dtype, source + (row - first) * f->source_bytes, s.w, (size_t)t->cols);
			size_t delta_row = (size_t)(row - landing->target_row + landing->delta_row);
			exact_row(j, loaded, delta_row, (size_t)t->cols, TN_SIZES_SUMS, &s);
			if (!visit(arg, row, 0, s.truth, s.size))
				continue;
			exact_row(j, loaded, delta_row, (size_t)t->cols, TN_SIZES_PRODUCTS, &s);
			widen_sizes(loaded, tn_target_dtype(t), (size_t)t->cols, s.size);
			visit(arg, row, 1, s.truth, s.size);
		}
		tn_delta_cache_return(cache, landing->slot);
	}
	return TN_OK;
}

void tn_edit_count_takes(const struct tn_joint *j, const struct tn_target *t, uint64_t units_per_block, uint64_t *takes)
{
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *l = &j->landings[t->first_landing + i];
		if (l->rows)
			takes[l->slot] += (l->target_row + l->rows - 1) / units_per_block - l->target_row / units_per_block + 1;
	}
}
