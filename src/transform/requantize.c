/* SPDX-License-Identifier: Apache-2.0 */
/* A row of a quantized matrix and its delta, written on a grid again. Why codes are moved by chance and not to the nearest,
 * and what is measured: docs/numerics.md, "Requantizing". */
#include "transform/edit.h"

#include "kernels/quant.h"
#include "weights/format.h"

/* The product alone in s.wanted; true when that is all there is to the delta. */
static int make_wanted(const struct tn_row_edit *e)
{
	const struct tn_delta *delta = &e->loaded->delta;
	const struct tn_row_scratch *s = &e->s;
	if (tn_delta_is_plain(delta)) {
		tn_delta_product_f32(e->kernels, delta, e->delta_row, s->wanted, s->delta);
		return 1;
	}
	tn_delta_row_f64(e->kernels, delta, e->delta_row, s->w, s->truth, TN_SIZES_NONE, NULL, s->delta);
	for (size_t i = 0; i < e->form->cols; i++)
		s->wanted[i] = (float)(s->truth[i] - (double)s->w[i]);
	return 0;
}

/* ---- nearest --------------------------------------------------------------------------------------------- */

/* The sum as mlx_lm.fuse rounds it, in the dtype that MLX dequantizes to; of deltas that are not plain the exact result,
 * rounded once. */
static void sum_like_mlx(const struct tn_row_edit *e, int plain, float *dst)
{
	const struct tn_row_scratch *s = &e->s;
	struct tn_format in = e->in;
	const struct tn_codec *codec = e->kernels->codec[in.codec];
	tn_dtype dtype = codec->byte_scales ? in.has_global_scale ? TN_F32 : TN_BF16 : in.dtype;
	if (!plain) {
		for (size_t i = 0; i < e->form->cols; i++)
			dst[i] = (float)s->truth[i];
		tn_delta_round_row(e->kernels, dst, e->form->cols, dtype);
		return;
	}
	in.like_mlx = 1;
	in.dtype = dtype;
	codec->decode(dst, &e->source, &in, e->form->cols);
	tn_delta_product_like_mlx(e->kernels, &e->loaded->delta, e->delta_row, s->wanted, s->step, s->delta);
	tn_delta_round_row(e->kernels, s->step, e->form->cols, dtype);
	e->kernels->axpy_f32(dst, 1, s->step, e->form->cols);
	tn_delta_round_row(e->kernels, dst, e->form->cols, dtype);
}

static void refit(const struct tn_row_edit *e, int plain)
{
	sum_like_mlx(e, plain, e->s.after);
	e->kernels->codec[e->out.codec]->encode(&e->result, e->s.after, &e->out, e->form->cols);
	e->sum->moved += tn_survival_count_codes(e->source.part[TN_PART_WEIGHT], e->result.part[TN_PART_WEIGHT],
						 e->form->cols, e->in.bits);
}

/* ---- dither ---------------------------------------------------------------------------------------------- */

void tn_requantize_keep_scales(const struct tn_row_edit *e)
{
	for (unsigned p = TN_PART_SCALES; p < TN_PART_COUNT; p++)
		if (e->result.part[p])
			memcpy(e->result.part[p], e->source.part[p], e->form->source_bytes[p]);
}

/* Scales are floats here, and have to be what the file's dtype holds. */
static void gain_grid(const struct tn_row_edit *e, double gain)
{
	size_t n = e->form->source_bytes[TN_PART_SCALES] / sizeof(float);
	for (unsigned p = TN_PART_SCALES; p < TN_PART_COUNT; p++) {
		const float *src = e->source.part[p];
		float *dst = e->result.part[p], g = p == TN_PART_SCALES || e->in.grid->add_zeros ? (float)gain : 1;
		for (size_t i = 0; dst && i < n; i++)
			dst[i] = g == 1 ? src[i] : round_to((float)(gain * (double)src[i]), e->in.dtype);
	}
}

/* The gain of a row goes into its scales and biases. */
static void gain_scales(const struct tn_row_edit *e, double gain)
{
	const struct tn_codec *dense = e->kernels->codec[TN_CODEC_dense];
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = e->in.dtype };
	size_t n = e->in.codec == TN_CODEC_grid ? 0 : e->form->cols / e->in.group;
	if (e->in.codec == TN_CODEC_grid) {
		gain_grid(e, gain);
		return;
	}
	for (unsigned p = TN_PART_SCALES; p < TN_PART_COUNT; p++) {
		struct tn_row in = { { e->source.part[p] } };
		struct tn_row_out out = { { e->result.part[p] } };
		dense->decode(e->s.after, &in, &format, n);
		for (size_t i = 0; i < n; i++)
			e->s.after[i] = (float)(gain * (double)e->s.after[i]);
		dense->encode(&out, e->s.after, &format, n);
	}
}

static int is_row_gain(const struct tn_row_edit *e)
{
	const struct tn_delta *d = &e->loaded->delta;
	return d->row_magnitude && !d->column_gain && !d->removed.rank && e->form->gains_scales;
}

/* Scales and biases of a row whose grid is kept: 1 when they took its gain. */
static int place_scales(const struct tn_row_edit *e)
{
	const struct tn_delta *delta = &e->loaded->delta;
	if (!is_row_gain(e)) {
		tn_requantize_keep_scales(e);
		return 0;
	}
	tn_delta_sum_f64(e->kernels, delta, e->delta_row, e->s.w, e->s.truth, TN_SIZES_NONE, NULL, e->s.delta);
	gain_scales(e, tn_delta_row_gain(delta, e->delta_row, e->s.truth));
	return 1;
}

/* Codes move, by chance or to the nearest. */
static void keep_grid(const struct tn_row_edit *e)
{
	const struct tn_codec *codec = e->kernels->codec[e->in.codec];
	struct tn_dither_counts counts = { 0, 0 };
	const float *d = e->s.wanted;
	if (place_scales(e)) {
		tn_delta_product_f32(e->kernels, &e->loaded->delta, e->delta_row, e->s.step, e->s.delta);
		d = e->s.step;
	}
	if (e->form->rounding == TN_ROUNDING_NEAREST)
		codec->nearest(e->result.part[TN_PART_WEIGHT], &e->source, d, &e->in, e->form->cols, &counts);
	else
		codec->dither(e->result.part[TN_PART_WEIGHT], &e->source, d, &e->in, e->form->cols, e->form->seed, e->row,
			      &counts);
	e->sum->moved += counts.moved;
	e->sum->clamped += counts.clamped;
}

/* ---- other libraries' grids to nearest -------------------------------------------------------------------- */

static int is_zero(const float *d, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (d[i] != 0)
			return 0;
	return 1;
}

/* How large the scale must be, in steps of the grid around its zero point, that v does not leave it; -1 where the zero point
 * is so far from the middle that the smaller side would stretch the grid for a few values. */
static float needed_scale(const struct tn_grid *grid, float zero, float v)
{
	const struct tn_levels *l = grid->levels;
	float low = l->value[0] - zero, high = l->value[l->count - 1] - zero;
	if (!(low < 0 && high > 0 && -low >= high / 2 && high >= -low / 2))
		return -1;
	return v > 0 ? v / high : v / low;
}

/* Scales of the result: each as small as holds its group of `v`, or the one that it was. Float zero points go with them. */
static void fit_scales(const struct tn_row_edit *e, const float *v)
{
	const struct tn_grid *grid = e->in.grid;
	const float *old = e->source.part[TN_PART_SCALES], *zeros = e->source.part[TN_PART_BIASES];
	float *fitted = e->result.part[TN_PART_SCALES], *moved = e->result.part[TN_PART_BIASES];
	size_t groups = e->form->source_bytes[TN_PART_SCALES] / sizeof(float);
	for (size_t g = 0; g < groups; g++)
		fitted[g] = 0;
	for (size_t i = 0; i < e->form->cols; i++) {
		size_t g = grid->group_of ? grid->group_of[i] : i / grid->group;
		float zero = !grid->has_zeros ? 0 : grid->add_zeros ? -zeros[g] / old[g] : zeros[g];
		float need = needed_scale(grid, zero, (old[g] < 0 ? -v[i] : v[i]) / grid->factor);
		fitted[g] = need < 0 || fitted[g] < 0 ? -1 : need > fitted[g] ? need : fitted[g];
	}
	for (size_t g = 0; g < groups; g++) {
		float s = fitted[g] > 0 ? round_to(old[g] < 0 ? -fitted[g] : fitted[g], e->in.dtype) : old[g];
		fitted[g] = s == 0 ? old[g] : s;
		if (moved && grid->has_zeros)
			moved[g] = grid->add_zeros && fitted[g] != old[g] ? round_to(zeros[g] / old[g] * fitted[g], e->in.dtype) : zeros[g];
	}
}

/* Values that lie more than a rounding of the scale beyond the ends of the result's grid. */
static uint64_t count_beyond(const struct tn_row_edit *e, const float *v)
{
	const struct tn_grid *grid = e->in.grid;
	const struct tn_levels *l = grid->levels;
	const float *scales = e->result.part[TN_PART_SCALES], *zeros = e->result.part[TN_PART_BIASES];
	float least = l->value[0], most = l->value[l->count - 1], slack = (most - least) / 100;
	uint64_t count = 0;
	for (size_t i = 0; i < e->form->cols; i++) {
		size_t g = grid->group_of ? grid->group_of[i] : i / grid->group;
		float zero = !grid->has_zeros ? 0 : grid->add_zeros ? -zeros[g] / scales[g] : zeros[g];
		float x = v[i] / grid->factor / scales[g] + zero;
		count += x < least - slack || x > most + slack;
	}
	return count;
}

static void refit_grid(const struct tn_row_edit *e, int plain)
{
	const struct tn_row_scratch *s = &e->s;
	if (is_zero(s->wanted, e->form->cols)) {
		keep_grid(e);
		return;
	}
	for (size_t i = 0; i < e->form->cols; i++)
		s->after[i] = plain ? s->w[i] + s->wanted[i] : (float)s->truth[i];
	fit_scales(e, s->after);
	e->sum->clamped += count_beyond(e, s->after);
	e->kernels->codec[e->out.codec]->encode(&e->result, s->after, &e->out, e->form->cols);
	e->sum->moved += tn_survival_count_codes(e->source.part[TN_PART_WEIGHT], e->result.part[TN_PART_WEIGHT], e->form->cols, 8);
}

/* ---- anew ------------------------------------------------------------------------------------------------ */

static int same_grid(const struct tn_row_edit *e)
{
	return e->in.codec == e->out.codec && e->in.bits == e->out.bits && e->in.group == e->out.group;
}

/* On another grid, or from values that lie on none. */
static void encode_sum(const struct tn_row_edit *e, int plain)
{
	const struct tn_row_scratch *s = &e->s;
	for (size_t i = 0; i < e->form->cols; i++)
		s->after[i] = plain ? s->w[i] + s->wanted[i] : (float)s->truth[i];
	if (e->out.codec == TN_CODEC_grid)
		place_scales(e);
	e->kernels->codec[e->out.codec]->encode(&e->result, s->after, &e->out, e->form->cols);
	e->sum->moved += !same_grid(e) ? e->form->cols
				       : tn_survival_count_codes(e->source.part[TN_PART_WEIGHT], e->result.part[TN_PART_WEIGHT],
								 e->form->cols, e->out.codec == TN_CODEC_grid ? 8 : e->in.bits);
}

/* How far the quantized base is from what is said to be its original. */
static void add_drift(const struct tn_row_edit *e)
{
	const struct tn_row_scratch *s = &e->s;
	e->kernels->codec[e->in.codec]->decode(s->after, &e->source, &e->in, e->form->cols);
	for (size_t i = 0; i < e->form->cols; i++) {
		double w = (double)s->w[i], d = (double)s->after[i] - w;
		e->sum->dense2 += w * w;
		e->sum->drift2 += d * d;
	}
}

static void measure(const struct tn_row_edit *e, int plain)
{
	const struct tn_row_scratch *s = &e->s;
	struct tn_row result = { { e->result.part[0], e->result.part[1], e->result.part[2] } };
	struct tn_survival_row row = {
		e->kernels, &e->loaded->delta, e->loaded->basis, e->delta_row, plain, s->w, s->after, s->wanted, s->step, s->delta,
	};
	e->kernels->codec[e->out.codec]->decode(s->after, &result, &e->out, e->form->cols);
	e->kernels->codec[e->in.codec]->step(s->step, &e->source, &e->in, e->form->cols);
	tn_survival_add_row(e->sum, &row);
}

void tn_requantize_row(const struct tn_row_edit *e)
{
	int has_dense = e->form->dense.tensor != NULL;
	tn_edit_source(e, e->s.w);
	if (has_dense)
		add_drift(e);
	int plain = make_wanted(e);
	if (has_dense || !same_grid(e))
		encode_sum(e, plain);
	else if (e->form->fits_scales)
		refit_grid(e, plain);
	else if (e->form->rounding == TN_ROUNDING_NEAREST && !e->kernels->codec[e->in.codec]->nearest)
		refit(e, plain);
	else
		keep_grid(e);
	measure(e, plain);
}
