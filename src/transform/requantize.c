/* SPDX-License-Identifier: Apache-2.0 */
/* A row of a quantized matrix and its delta, written on a grid again. Why codes are moved by chance and not to the nearest,
 * and what is measured: docs/numerics.md, "Requantizing". */
#include "transform/edit.h"

#include "kernels/quant.h"
#include "weights/format.h"

#include <math.h>

/* ---- deltas ---------------------------------------------------------------------------------------------- */

/* Rows b A of the group of the first edit; b [count, rank] stands in s.delta. */
static void multiply(const struct tn_row_edit *e, size_t count, float *dst)
{
	const struct tn_delta *d = &e->loaded->delta;
	size_t group = e->delta_row / d->group_rows;
	float *b = e->s.delta;
	struct tn_lowrank p = { d->a + group * d->rank * d->cols, NULL, e->loaded->least, d->rank, d->cols, d->width };
	if (e->loaded->packed) {
		p.packed = e->loaded->packed + group * e->loaded->packed_bytes;
		e->kernels->lowrank_rows(dst, d->cols, &p, b, count, b + TN_ROWS_AT_ONCE * d->rank);
		return;
	}
	for (size_t i = 0; i < count; i++)
		e->kernels->lowrank_f32(dst + i * d->cols, p.a, b + i * d->rank, d->rank, d->cols);
}

/* scale * b of the rows in s.delta; like_mlx: with the roundings of mlx_lm.fuse 0.32.2, which has the scale and scale * B in the
 * dtype of B. 1 when these change nothing. */
static int scale_rows(const struct tn_row_edit *e, size_t count, int like_mlx)
{
	const struct tn_delta *d = &e->loaded->delta;
	const float *b = d->b + e->delta_row * d->rank, scale = round_to((float)d->scale, d->left);
	float *dst = e->s.delta;
	int same = 1;
	for (size_t i = 0; i < count * d->rank; i++) {
		float exact = (float)(d->scale * (double)b[i]), rounded = round_to(scale * b[i], d->left);
		dst[i] = like_mlx ? rounded : exact;
		same &= rounded == exact;
	}
	return same;
}

static int same_grid(const struct tn_row_edit *e)
{
	return e->in.codec == e->out.codec && e->in.bits == e->out.bits && e->in.group == e->out.group;
}

/* What mlx_lm.fuse does: the sum as MLX rounds it, on a grid that is fitted anew. */
static int is_refit(const struct tn_row_edit *e)
{
	return !e->form->dense.tensor && same_grid(e) && !e->form->fits_scales && e->form->rounding == TN_ROUNDING_NEAREST &&
	       !e->kernels->codec[e->in.codec]->nearest;
}

/* Rows of a plain delta in s.wanted, and where they are asked for those that MLX adds in s.product. */
static void make_products(struct tn_row_edit *edits, size_t count)
{
	const struct tn_row_edit *e = &edits[0];
	size_t cols = e->form->cols;
	int same = scale_rows(e, count, 0);
	multiply(e, count, e->s.wanted);
	if (!same && is_refit(e)) {
		scale_rows(e, count, 1);
		multiply(e, count, e->s.product);
	}
	for (size_t i = count; i-- > 0;) {
		edits[i].s.wanted += i * cols;
		edits[i].s.product = same ? edits[i].s.wanted : e->s.product + i * cols;
	}
}

/* ---- gains ----------------------------------------------------------------------------------------------- */

/* Rows that follow from W and a product in float32: not where doubles are taken out of W, or the result's scales could show it. */
static int is_gained(const struct tn_row_edit *e)
{
	const struct tn_delta *d = &e->loaded->delta;
	return !tn_delta_is_plain(d) && !d->removed.rank && e->out.dtype != TN_F32;
}

/* The row of any delta in s.truth, and what it adds in s.wanted. */
static void make_wanted_closely(struct tn_row_edit *e)
{
	const struct tn_row_scratch *s = &e->s;
	const struct tn_delta *d = &e->loaded->delta;
	tn_delta_sum_f64(e->kernels, d, e->delta_row, s->w, s->truth, TN_SIZES_NONE, NULL, s->delta);
	e->gain = d->row_magnitude ? tn_delta_row_gain(d, e->delta_row, s->truth) : 1;
	for (size_t i = 0; i < e->form->cols; i++) {
		s->truth[i] *= d->column_gain ? d->column_gain[i] : e->gain;
		s->wanted[i] = (float)(s->truth[i] - (double)s->w[i]);
	}
}

/* g with g |v| the magnitude; 0 where squares overflow or vanish in float32, or have no sum at all. */
static double gain_of(const struct tn_row_edit *e, const float *v)
{
	double length2 = 0;
	for (size_t j = 0, n; j < e->form->cols; j += n) {
		n = e->form->cols - j < TN_PANEL_COLS ? e->form->cols - j : TN_PANEL_COLS;
		length2 += (double)e->kernels->dot_f32(v + j, v + j, n);
	}
	return length2 > 0x1p-80 && length2 < 0x1p100 ? (double)e->loaded->delta.row_magnitude[e->delta_row] / sqrt(length2) : 0;
}

/* g (W + P) - W as (g - 1) W + g P, which loses nothing where g is next to 1. P stands in s.product. */
static void make_wanted(struct tn_row_edit *e)
{
	const struct tn_row_scratch *s = &e->s;
	const struct tn_delta *d = &e->loaded->delta;
	const size_t cols = e->form->cols;
	e->gain = 0;
	if (is_gained(e) && d->row_magnitude && !d->column_gain) {
		memcpy(s->after, s->w, cols * sizeof *s->after);
		e->kernels->axpy_f32(s->after, 1, s->product, cols);
		e->gain = gain_of(e, s->after);
	}
	if (e->gain != 0) {
		memset(s->wanted, 0, cols * sizeof *s->wanted);
		e->kernels->axpy_f32(s->wanted, (float)e->gain, s->product, cols);
		e->kernels->axpy_f32(s->wanted, (float)(e->gain - 1), s->w, cols);
	} else if (is_gained(e) && d->column_gain) {
		for (size_t i = 0; i < cols; i++)
			s->wanted[i] = (float)((d->column_gain[i] - 1) * (double)s->w[i] +
					       d->column_gain[i] * (double)s->product[i]);
	} else {
		make_wanted_closely(e);
	}
}

enum { LOOKED_AT = 16 }; /* every group is a multiple of it */

static const float cancelled = 0x1p-7f, vanished = 0x1p-8f;

/* W + D of LOOKED_AT columns. 1 where one is little beside D or least. */
static int add_block(float *dst, const float *w, const float *d, float least)
{
	float sum[LOOKED_AT];
	int little = 0;
	for (int i = 0; i < LOOKED_AT; i++) {
		sum[i] = w[i] + d[i];
		little |= (fabsf(sum[i]) < fabsf(d[i]) * cancelled) | (fabsf(sum[i]) < least);
	}
	memcpy(dst, sum, sizeof sum);
	return little;
}

/* W + D of gains in s.after: in float32, but in double where W and D, or the products in D, leave next to nothing. */
static void add_gained(const struct tn_row_edit *e)
{
	const struct tn_row_scratch *s = &e->s;
	const struct tn_delta *d = &e->loaded->delta;
	const size_t cols = e->form->cols;
	const float least = vanished * sqrtf(e->kernels->dot_f32(s->wanted, s->wanted, cols) / (float)cols);
	for (size_t i = 0; i < cols; i += LOOKED_AT) {
		if (!add_block(s->after + i, s->w + i, s->wanted + i, least))
			continue;
		for (size_t j = i; j < i + LOOKED_AT; j++)
			if (fabsf(s->after[j]) < fabsf(s->wanted[j]) * cancelled || fabsf(s->after[j]) < least)
				s->after[j] = (float)((d->column_gain ? d->column_gain[j] : e->gain) *
						      tn_delta_element(d, e->delta_row, j, s->w[j]));
	}
}

/* The values that are written, in s.after. */
static void add_wanted(const struct tn_row_edit *e, int plain)
{
	const struct tn_row_scratch *s = &e->s;
	if (!plain && is_gained(e)) {
		add_gained(e);
		return;
	}
	for (size_t i = 0; i < e->form->cols; i++)
		s->after[i] = plain ? s->w[i] + s->wanted[i] : (float)s->truth[i];
}

/* ---- nearest --------------------------------------------------------------------------------------------- */

/* The dtype that MLX dequantizes to. */
static tn_dtype mlx_dtype(const struct tn_row_edit *e)
{
	int byte_scales = e->kernels->codec[e->in.codec]->byte_scales;
	return byte_scales ? e->in.has_global_scale ? TN_F32 : TN_BF16 : e->in.dtype;
}

/* The sum as mlx_lm.fuse rounds it: to F16 or BF16 in `halves`, which stand in for nothing else yet; F32 in s.after. */
static void sum_like_mlx(const struct tn_row_edit *e, tn_dtype dtype, uint16_t *halves)
{
	const struct tn_row_scratch *s = &e->s;
	const tn_dtype product = e->loaded->delta.product;
	struct tn_format in = e->in;
	in.like_mlx = 1;
	in.dtype = dtype;
	e->kernels->codec[in.codec]->decode(s->after, &e->source, &in, e->form->cols);
	if (dtype != TN_F32) {
		e->kernels->round_sums(halves, s->after, s->product, product, dtype, e->form->cols);
		return;
	}
	for (size_t i = 0; i < e->form->cols; i++)
		s->after[i] += round_to(s->product[i], product);
}

/* Of deltas that are not plain the exact result, rounded once. */
static void refit(const struct tn_row_edit *e, uint16_t *halves, int plain)
{
	const size_t cols = e->form->cols;
	const tn_dtype dtype = mlx_dtype(e);
	const struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = dtype };
	if (plain) {
		sum_like_mlx(e, dtype, halves);
	} else {
		add_wanted(e, 0);
		if (dtype != TN_F32)
			e->kernels->codec[TN_CODEC_dense]->encode(&(struct tn_row_out){ { halves } }, e->s.after, &dense, cols);
	}
	if (dtype == TN_F32) {
		e->kernels->codec[e->out.codec]->encode(&e->result, e->s.after, &e->out, cols);
	} else {
		struct tn_recoding how = { &dense, &e->out, 1, cols, 0, e->s.after };
		e->kernels->recode_rows(&(struct tn_rows_out){ .first = e->result },
					&(struct tn_rows){ .first = { { halves } } }, &how);
	}
	e->sum->moved += tn_survival_count_codes(e->source.part[TN_PART_WEIGHT], e->result.part[TN_PART_WEIGHT], cols, e->in.bits);
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
	if (!is_row_gain(e)) {
		tn_requantize_keep_scales(e);
		return 0;
	}
	gain_scales(e, e->gain);
	return 1;
}

/* Codes move, by chance or to the nearest. */
static void keep_grid(const struct tn_row_edit *e)
{
	const struct tn_codec *codec = e->kernels->codec[e->in.codec];
	struct tn_dither_counts counts = { 0, 0 };
	const float *d = place_scales(e) ? e->s.product : e->s.wanted;
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
			moved[g] = grid->add_zeros && fitted[g] != old[g] ? round_to(zeros[g] / old[g] * fitted[g], e->in.dtype)
									  : zeros[g];
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
	add_wanted(e, plain);
	fit_scales(e, s->after);
	e->sum->clamped += count_beyond(e, s->after);
	e->kernels->codec[e->out.codec]->encode(&e->result, s->after, &e->out, e->form->cols);
	e->sum->moved += tn_survival_count_codes(e->source.part[TN_PART_WEIGHT], e->result.part[TN_PART_WEIGHT], e->form->cols, 8);
}

/* ---- anew ------------------------------------------------------------------------------------------------ */

/* On another grid, or from values that lie on none. */
static void encode_sum(const struct tn_row_edit *e, int plain)
{
	add_wanted(e, plain);
	if (e->out.codec == TN_CODEC_grid)
		place_scales(e);
	e->kernels->codec[e->out.codec]->encode(&e->result, e->s.after, &e->out, e->form->cols);
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

/* Whether codes become codes of the same kind, whose values say everything. */
static int stays_codes(const struct tn_row_edit *e)
{
	return !e->form->dense.tensor && same_grid(e) && !e->form->fits_scales;
}

/* Whether a row is written without its values. */
static int by_codes(const struct tn_row_edit *e, int plain)
{
	return plain && stays_codes(e);
}

/* `halves` is scratch. */
static void write_row(const struct tn_row_edit *e, uint16_t *halves, int plain)
{
	if (e->form->dense.tensor || !same_grid(e))
		encode_sum(e, plain);
	else if (e->form->fits_scales)
		refit_grid(e, plain);
	else if (is_refit(e))
		refit(e, halves, plain);
	else
		keep_grid(e);
}

/* By the codes alone, where the codec can. */
static int sum_codes(const struct tn_row_edit *e, uint16_t *halves, struct tn_change_sums *sums)
{
	const struct tn_codec *codec = e->kernels->codec[e->in.codec];
	struct tn_row result = { { e->result.part[0], e->result.part[1], e->result.part[2] } };
	return codec->change_sums && e->in.dtype == e->out.dtype &&
	       codec->change_sums(sums, halves, &e->source, &result, &e->in, e->s.wanted, e->form->cols) &&
	       tn_survival_is_usual(sums);
}

/* What write_row and sum_codes do, together, where the codec can. */
static int refit_at_once(const struct tn_row_edit *e, uint16_t *halves, struct tn_change_sums *sums)
{
	const struct tn_codec *codec = e->kernels->codec[e->in.codec];
	struct tn_refit refit = { e->s.product, e->loaded->delta.product, e->s.wanted, halves, { 0, 0, 0 }, 0 };
	if (!codec->refit || !is_refit(e) || mlx_dtype(e) != e->out.dtype || e->in.dtype != e->out.dtype ||
	    !codec->refit(&refit, &e->result, &e->source, &e->in, e->form->cols) || !tn_survival_is_usual(&refit.sums))
		return 0;
	*sums = refit.sums;
	e->sum->moved += refit.moved;
	return 1;
}

/* The result of a row, and what became of it. */
static void write_and_sum(const struct tn_row_edit *e, const struct tn_survival_rows *rows, size_t i, int plain,
			  struct tn_change_sums *sums)
{
	const struct tn_row_scratch *s = &e->s;
	uint16_t *halves = rows->halves + i * tn_survival_stride(e->form->cols);
	struct tn_row result = { { e->result.part[0], e->result.part[1], e->result.part[2] } };
	if (plain && refit_at_once(e, halves, sums))
		return;
	write_row(e, halves, plain);
	if (stays_codes(e) && sum_codes(e, halves, sums))
		return;
	if (by_codes(e, plain))
		tn_edit_source(e, s->w);
	e->kernels->codec[e->out.codec]->decode(s->after, &result, &e->out, e->form->cols);
	tn_survival_sum_row(sums, rows, i, s->w, s->after, s->wanted);
}

static void requantize_row(struct tn_row_edit *e, const struct tn_survival_rows *rows, size_t i, int plain)
{
	struct tn_change_sums sums = { 0, 0, 0 };
	if (!by_codes(e, plain))
		tn_edit_source(e, e->s.w);
	if (e->form->dense.tensor)
		add_drift(e);
	if (!plain)
		make_wanted(e);
	write_and_sum(e, rows, i, plain, &sums);
	tn_survival_add_row(e->sum, rows, &sums, e->kernels->codec[e->in.codec]->steps2(&e->source, &e->in, e->form->cols), plain);
}

/* Rows whose D is no product: two at a time, for the coordinates of D are summed too. */
static void requantize_any(struct tn_row_edit *edits, size_t count, const struct tn_survival_rows *rows)
{
	enum { TOGETHER = TN_ROWS_AT_ONCE / 2 };
	const struct tn_row_edit *e = &edits[0];
	const size_t cols = e->form->cols;
	if (!e->loaded->delta.removed.rank) {
		scale_rows(e, count, 0);
		multiply(e, count, e->s.product);
	}
	for (size_t i = count; i-- > 0;) {
		edits[i].s.wanted += i * cols;
		edits[i].s.product += i * cols;
	}
	for (size_t i = 0, n; i < count; i += n) {
		n = count - i < TOGETHER ? count - i : TOGETHER;
		for (size_t r = 0; r < n; r++)
			requantize_row(&edits[i + r], rows, r, 0);
		if (rows->directions)
			tn_survival_add_both(e->sum, rows, edits[i].s.wanted, n);
	}
}

void tn_requantize_rows(struct tn_row_edit *edits, size_t count)
{
	const struct tn_row_edit *e = &edits[0];
	const struct tn_loaded *loaded = e->loaded;
	const struct tn_delta *d = &loaded->delta;
	struct tn_survival_rows rows = { e->kernels, NULL, d->rank, d->cols, e->s.halves, e->s.delta };
	if (loaded->directions)
		rows.directions = loaded->directions + e->delta_row / d->group_rows * loaded->directions_bytes / sizeof(uint16_t);
	if (!tn_delta_is_plain(d)) {
		requantize_any(edits, count, &rows);
		return;
	}
	make_products(edits, count);
	for (size_t i = 0; i < count; i++)
		requantize_row(&edits[i], &rows, i, 1);
	if (rows.directions)
		tn_survival_add_directions(e->sum, &rows, count);
}
