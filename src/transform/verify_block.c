/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/verify_block.h"

#include "base/checked.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "transform/allowance.h"
#include "transform/ulp.h"
#include "weights/foreign.h"

#include <math.h>
#include <string.h>

void tn_verify_add(struct tn_verify_finding *sum, const struct tn_verify_finding *f)
{
	sum->max_ulp = fmax(sum->max_ulp, f->max_ulp);
	sum->worst = fmax(sum->worst, f->worst);
	sum->square_sum += f->square_sum;
	sum->first_row = f->first_row < sum->first_row ? f->first_row : sum->first_row;
	sum->differs |= f->differs;
	sum->not_finite |= f->not_finite;
	sum->not_as_fused |= f->not_as_fused;
	sum->strays |= f->strays;
	sum->far_off |= f->far_off;
	sum->scales += f->scales;
	sum->odd_scales += f->odd_scales;
	sum->odd_row = f->odd_row < sum->odd_row ? f->odd_row : sum->odd_row;
	tn_survival_add(&sum->sums, &f->sums);
}

/* ---- elements of a dense row ------------------------------------------------------------------------------- */

/* `size`: of the largest term; `lost`: what may be wrong beside its rounding. */
static void compare_element(struct tn_verify_finding *f, tn_dtype dtype, double truth, double size, double lost, double m)
{
	double error = fabs(m - truth);
	if (!isfinite(m) || !isfinite(truth)) {
		f->not_finite |= isfinite(truth) || (isnan(truth) != isnan(m)) || (isinf(truth) && m != truth);
		return;
	}
	double ulps = error / tn_ulp(dtype, truth);
	f->max_ulp = fmax(f->max_ulp, ulps);
	f->square_sum += ulps * ulps;
	f->worst = fmax(f->worst, (error - lost) / tn_ulp(dtype, fmax(size, fabs(truth))));
}

/* The block whose rows are being compared. */
struct comparison {
	const struct tn_verify_block *of;
	struct tn_verify_finding *finding;
	const struct tn_kernels *kernels;
	const struct tn_edit_form *form;
	const struct tn_matrix *other;
	const struct tn_edit_block *block;
	unsigned char *merged[TN_PART_COUNT];
	unsigned char *const *wanted;   /* the base's bytes, or a fuse's, laid out as `merged`; NULL: not comparable */
	uint64_t next;                  /* the row behind the last one that was compared */
	float *row, *wanted_delta;      /* wanted_delta: or the base's row */
	uint16_t *halves;               /* of two rows */
	double *untouched;              /* a row that nothing lands on */
	float *coordinates;
};

/* The first row that is not as it should be. */
static void blame(struct tn_verify_finding *f, uint64_t row)
{
	f->first_row = row < f->first_row ? row : f->first_row;
}

static tn_status point_at(const struct comparison *c, uint64_t unit, struct tn_row *row, struct tn_format *format,
			  struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(c->of->merged);
	uint64_t end;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		row->part[p] = c->merged[p] + (size_t)(unit - c->block->first) * c->other->row_bytes[p];
	*format = c->other->format;
	return c->other->global_scale ? tn_matrix_format_at(&source, c->other, unit, format, &end, err) : TN_OK;
}

static struct tn_row base_row(const struct comparison *c, uint64_t unit)
{
	struct tn_row row;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		row.part[p] = c->block->in[p] + (size_t)(unit - c->block->first) * c->form->source_bytes[p];
	return row;
}

static double largest(const float *row, size_t n)
{
	float top = 0;
	for (size_t i = 0; i < n; i++)
		top = fmaxf(top, fabsf(row[i]));
	return (double)top;
}

/* A dense row. What comes from a grid was rounded at the size of its group's ends by other tools. */
static void compare_dense(struct comparison *c, struct tn_verify_finding *f, const struct tn_edit_truth *t)
{
	double floor = c->form->in.format.codec == TN_CODEC_dense ? 0 : largest(t->source, c->form->cols);
	struct tn_allowance a;
	tn_allowance_make(t, c->form, c->other->format.dtype, &a);
	for (size_t i = 0; i < c->form->cols; i++) {
		double size = fmax(t->size ? a.slack * t->size[i] : 0, floor);
		double lost = a.of_truth * fabs(t->truth[i]) + (t->products ? a.of_products * t->products[i] : 0);
		compare_element(f, a.unit, t->truth[i], size, lost, (double)c->row[i]);
	}
}

static void call_far_off(const struct comparison *c, uint64_t row)
{
	c->finding->far_off = 1;
	blame(c->finding, row);
}

static tn_dtype coarser(tn_dtype a, tn_dtype b)
{
	return tn_dtype_unit(b) > tn_dtype_unit(a) ? b : a;
}

/* A quantized row, group by group. *closer: a closer look would help. */
static tn_status measure_groups(const struct comparison *c, const struct tn_edit_truth *t, const struct tn_row *row,
				const struct tn_format *format, int *closer, struct tn_error *err)
{
	const struct tn_delta *delta = t->loaded && !t->loaded->rows ? &t->loaded->delta : NULL;
	struct tn_tensor_source source = tn_checkpoint_source(c->of->fuse->base);
	struct tn_verify_finding f = { .first_row = TN_VERIFY_NO_ROW, .odd_row = TN_VERIFY_NO_ROW };
	struct tn_row base = base_row(c, t->unit);
	struct tn_format base_format;
	uint64_t end;
	TN_TRY(tn_matrix_format_at(&source, &c->form->in, t->unit, &base_format, &end, err));
	struct tn_verify_groups groups = {
		.kernels = c->kernels, .found = row, .base = &base, .found_format = format, .base_format = &base_format,
		.cols = c->form->cols, .values = c->row, .truth = t->truth, .products = t->products,
		.is_gained = delta && (delta->row_magnitude || delta->column_gain),
		.unit = coarser(base_format.dtype, delta ? delta->coarsest : TN_F32),
	};
	int off = tn_verify_groups_are_off(&groups, &f);
	*closer = off && delta && !t->products;
	if (*closer)
		return TN_OK;
	if (off)
		call_far_off(c, t->unit);
	if (f.odd_scales)
		f.odd_row = t->unit;
	tn_verify_add(c->finding, &f);
	return TN_OK;
}

/* A quantized row as a whole: what of the delta is in it, and whether the rest is explained by the two grids. */
static void measure_row(struct comparison *c, const struct tn_edit_truth *t, const struct tn_row *row,
			const struct tn_format *format)
{
	struct tn_survival_sums sums = { 0 };
	struct tn_row base = base_row(c, t->unit);
	const struct tn_edit_form *f = c->form;
	const struct tn_delta *delta = &t->loaded->delta;
	for (size_t i = 0; i < f->cols; i++)
		c->wanted_delta[i] = (float)(t->truth[i] - (double)t->source[i]);
	struct tn_change_sums change;
	double steps2 = c->kernels->codec[f->in.format.codec]->steps2(&base, &f->in.format, f->cols);
	int is_product = tn_delta_is_plain(delta);
	struct tn_survival_rows rows = { c->kernels, NULL, delta->rank, f->cols, c->halves, c->coordinates };
	if (t->loaded->directions)
		rows.directions = t->loaded->directions +
				  t->delta_row / delta->group_rows * t->loaded->directions_bytes / sizeof(uint16_t);
	tn_survival_sum_row(&change, &rows, 0, t->source, c->row, c->wanted_delta);
	tn_survival_add_row(&sums, &rows, &change, steps2, is_product);
	if (rows.directions && is_product)
		tn_survival_add_directions(&sums, &rows, 1);
	else if (rows.directions)
		tn_survival_add_both(&sums, &rows, c->wanted_delta, 1);
	if (!(sums.error2 <= sums.step2 + c->kernels->codec[format->codec]->steps2(row, format, f->cols) + 4 * sums.delta2))
		call_far_off(c, t->unit);
	tn_survival_add(&c->finding->sums, &sums);
}

/* Rows that nothing lands on, and that are written in another way than they were. */
static tn_status compare_values(struct comparison *c, uint64_t first, uint64_t end, struct tn_error *err)
{
	const struct tn_edit_form *f = c->form;
	struct tn_tensor_source source = tn_checkpoint_source(c->of->fuse->base);
	for (uint64_t unit = first; unit < end; unit++) {
		struct tn_row row = { { NULL } }, base = base_row(c, unit);
		struct tn_format format, in;
		uint64_t same_up_to;
		int closer;
		struct tn_edit_truth t = { .unit = unit, .source = c->wanted_delta, .truth = c->untouched };
		TN_TRY(tn_matrix_format_at(&source, &f->in, unit, &in, &same_up_to, err));
		c->kernels->codec[in.codec]->decode(c->wanted_delta, &base, &in, f->cols);
		TN_TRY(point_at(c, unit, &row, &format, err));
		c->kernels->codec[format.codec]->decode(c->row, &row, &format, f->cols);
		for (size_t k = 0; k < f->cols; k++)
			c->untouched[k] = (double)c->wanted_delta[k];
		if (format.codec == TN_CODEC_dense)
			compare_dense(c, c->finding, &t);
		else
			TN_TRY(measure_groups(c, &t, &row, &format, &closer, err));
	}
	return TN_OK;
}

/* Rows that nothing lands on, from the last one that was compared up to `end`. */
static tn_status compare_between(struct comparison *c, uint64_t end, struct tn_error *err)
{
	uint64_t first = c->next;
	c->next = end;
	if (!c->wanted)
		return compare_values(c, first, end, err);
	for (unsigned p = 0; p < TN_PART_COUNT && end > first; p++) {
		size_t bytes = c->other->row_bytes[p], at = (size_t)(first - c->block->first) * bytes;
		if (bytes && memcmp(c->wanted[p] + at, c->merged[p] + at, (size_t)(end - first) * bytes) != 0) {
			c->finding->strays = 1;
			blame(c->finding, first);
		}
	}
	return TN_OK;
}

/* What tools lose by summing the products in float32 is found with a closer look. */
static tn_status compare_row(void *arg, const struct tn_edit_truth *t, int *closer, struct tn_error *err)
{
	struct comparison *c = arg;
	struct tn_row row;
	struct tn_format format;
	TN_TRY(compare_between(c, t->unit, err));
	c->next = t->unit + 1;
	TN_TRY(point_at(c, t->unit, &row, &format, err));
	c->kernels->codec[format.codec]->decode(c->row, &row, &format, c->form->cols);
	if (format.codec != TN_CODEC_dense) {
		TN_TRY(measure_groups(c, t, &row, &format, closer, err));
		if (!t->loaded->rows && !*closer)
			measure_row(c, t, &row, &format);
		return TN_OK;
	}
	struct tn_verify_finding f = { .first_row = TN_VERIFY_NO_ROW, .odd_row = TN_VERIFY_NO_ROW };
	compare_dense(c, &f, t);
	*closer = !t->loaded->rows && !t->products && f.worst > TN_VERIFY_ULPS;
	if (*closer)
		return TN_OK;
	if (f.worst > TN_VERIFY_ULPS || f.not_finite)
		blame(&f, t->unit);
	tn_verify_add(c->finding, &f);
	return TN_OK;
}

static int same_bytes(const struct tn_matrix *other, uint64_t rows, unsigned char *const *a, unsigned char *const *b)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (memcmp(a[p], b[p], (size_t)rows * other->row_bytes[p]) != 0)
			return 0;
	return 1;
}

static int same_layout(const struct tn_matrix *m, const struct tn_edit_form *f)
{
	const struct tn_format *a = &m->format, *b = &f->in.format;
	return a->codec == b->codec && a->bits == b->bits && a->group == b->group && a->dtype == b->dtype;
}

/* Two rows of floats, two of halves, which end at a multiple of TN_DIRECTION_COLS, and one of doubles. */
static size_t rows_bytes(const struct tn_edit_form *f)
{
	return 5 * tn_align_up(f->cols * sizeof(float), 64) + 64;
}

struct tn_fuse_extra tn_verify_extra(const struct tn_edit_form *f, const struct tn_matrix *other)
{
	struct tn_fuse_extra extra = { tn_matrix_raw_row_bytes(other), TN_PARTS_PADDING + 64 + rows_bytes(f) +
				       tn_matrix_raw_fixed_bytes(other) };
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		extra.unit_bytes += other->row_bytes[p];
	return extra;
}

static void place_rows(struct comparison *c, unsigned char *at)
{
	size_t bytes = tn_align_up(c->form->cols * sizeof(float), 64);
	c->row = (float *)(void *)at;
	c->wanted_delta = (float *)(void *)(at + bytes);
	c->halves = (uint16_t *)(void *)(at + 2 * bytes);
	c->untouched = (double *)(void *)(at + 3 * bytes + 64);
}

/* Outside the rows that are summed, the bytes have to be the fuse's. */
static tn_status compare_block(struct comparison *c, const struct tn_fuse_step *step, struct tn_edit_block *b,
			       struct tn_error *err)
{
	const struct tn_joint *j = c->of->fuse->joint;
	const struct tn_target *target = &j->targets[step->target];
	const struct tn_edit_form *f = c->form;
	int packed = f->in.format.codec != TN_CODEC_dense && c->other->format.codec != TN_CODEC_dense;
	if (packed && f->is_measured) {
		c->wanted = same_layout(c->other, f) ? b->in : NULL;
		c->finding->differs = !c->wanted || !same_bytes(c->other, b->count, b->in, c->merged);
	} else {
		c->finding->differs = f->apart || !tn_verify_same_row_bytes(c->other, f) ||
				      !same_bytes(c->other, b->count, b->in, c->merged);
		if (f->apart) /* else it would write over the source, and what nothing lands on stays as it is */
			TN_TRY(tn_edit_units(j, target, f, c->of->deltas, b, &c->finding->sums, err));
		c->wanted = tn_verify_same_row_bytes(c->other, f) ? b->out : NULL;
		if (step->action == TN_ACTION_DEQUANTIZE)
			return compare_values(c, b->first, b->first + b->count, err);
		c->finding->not_as_fused = !c->wanted || !same_bytes(c->other, b->count, b->out, c->merged);
		if (!c->finding->not_as_fused && !target->landing_count)
			return TN_OK;
	}
	c->coordinates = tn_edit_row_scratch(b->scratch, f).delta;
	TN_TRY(tn_edit_truths(j, target, f, c->of->deltas, b, compare_row, c, err));
	return target->landing_count ? compare_between(c, b->first + b->count, err) : TN_OK;
}

tn_status tn_verify_compare(const struct tn_verify_block *of, void *scratch, struct tn_verify_finding *finding,
			    struct tn_error *err)
{
	const struct tn_edit_form *f = &of->step->form;
	struct comparison c = { .of = of, .finding = finding, .kernels = of->fuse->ctx->kernels, .form = f, .other = of->other,
				.next = of->first };
	struct tn_stored stored[TN_PART_COUNT];
	struct tn_tensor_source source = tn_checkpoint_source(of->merged);
	struct tn_foreign_block pieces;
	struct tn_edit_block b;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		stored[p] = (struct tn_stored){ of->other->part[p], NULL };
	unsigned char *at = tn_parts_place(scratch, NULL, 0, of->count, of->other->row_bytes, c.merged);
	place_rows(&c, at);
	at += rows_bytes(f);
	uint64_t raw = tn_matrix_raw_row_bytes(of->other) * of->count + tn_matrix_raw_fixed_bytes(of->other);
	tn_edit_place(f, NULL, of->first, of->count, at + tn_align_up((size_t)raw, 64), &b);
	c.block = &b;
	TN_TRY(tn_edit_read(of->fuse->joint, f, &b, err));
	if (of->other->foreign)
		TN_TRY(tn_matrix_read(c.kernels, &source, of->other, of->first, of->count, c.merged, at, &pieces, err));
	else
		TN_TRY(tn_parts_read(of->merged, stored, of->other->row_bytes, of->first, of->count, c.merged, err));
	return compare_block(&c, of->step, &b, err);
}
