/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding, whoever does it, leaves every value of a group within a step of what was rounded. Codes or scales that belong elsewhere
 * do not, and a sum over a whole row would hide them. */
#include "transform/verify_block.h"

#include "transform/ulp.h"

#include <math.h>
#include <string.h>

enum { MOST_IN_GROUP = 128 };

/* A group of a row. */
struct group {
	struct tn_row found, base;
	const double *truth;
	const float *values;
	size_t cols;
	int is_kept;                 /* scales and biases are the base's, so that its grid is */
	double lowest, highest;      /* that the found scales reach */
	double base_reach;           /* the size of the largest value on the base's grid, and its even step */
	double base_step;
	double lost;                 /* before the quantization */
};

static const struct tn_codec *codec_of(const struct tn_verify_groups *r, const struct tn_format *f)
{
	return r->kernels->codec[f->codec];
}

static struct tn_row advance(const struct tn_verify_groups *r, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	struct tn_row at;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		at.part[p] = row->part[p] ? (const unsigned char *)row->part[p] + codec_of(r, f)->part_bytes(f, p, cols) : NULL;
	return at;
}

/* The value of codes that are all that byte, or begin with its bits. */
static double value_of_codes(const struct tn_verify_groups *r, const struct tn_row *scales, const struct tn_format *f, int codes)
{
	unsigned char bytes[MOST_IN_GROUP];
	float values[MOST_IN_GROUP];
	struct tn_row row = *scales;
	memset(bytes, codes, sizeof bytes);
	row.part[TN_PART_WEIGHT] = bytes;
	codec_of(r, f)->decode(values, &row, f, f->group);
	return (double)values[0];
}

/* The values of a grid's two ends. */
static void find_ends(const struct tn_verify_groups *r, const struct tn_row *scales, const struct tn_format *f, double ends[2])
{
	double b = value_of_codes(r, scales, f, f->codec == TN_CODEC_affine ? 0xFF : f->codec == TN_CODEC_mxfp8 ? 0x7E : 0x77);
	double a = f->codec == TN_CODEC_affine ? value_of_codes(r, scales, f, 0) : -b;
	ends[0] = fmin(a, b);
	ends[1] = fmax(a, b);
}

static int is_kept(const struct tn_verify_groups *r, const struct group *g)
{
	const struct tn_format *a = r->found_format, *b = r->base_format;
	if (a->codec != b->codec || a->bits != b->bits || a->group != b->group || a->dtype != b->dtype ||
	    a->global_scale != b->global_scale)
		return 0;
	for (unsigned p = TN_PART_SCALES; p < TN_PART_COUNT; p++)
		if (g->found.part[p] &&
		    memcmp(g->found.part[p], g->base.part[p], codec_of(r, a)->part_bytes(a, p, g->cols)) != 0)
			return 0;
	return 1;
}

/* The distance between the values of a grid around x: even for affine, which has one value more than steps; E2M1 has halves up to
 * 2, wholes up to 4 and 6; E4M3 has eight to each power of two. */
static double gap_at(const struct tn_format *f, double x, double lowest, double highest)
{
	if (f->codec == TN_CODEC_affine)
		return (highest - lowest) / ((1 << f->bits) - 1);
	if (f->codec == TN_CODEC_mxfp8) {
		double unit = highest / 448, size = fabs(x) / unit;
		return unit * (size < 0x1p-6 ? 0x1p-9 : exp2(floor(log2(size)) - 3));
	}
	double unit = highest / 6, size = fabs(x) / unit;
	return unit * (size < 2 ? 0.5 : size < 4 ? 1 : 2);
}

/* What the truth becomes where the grid ends before it: on a kept one at any distance. MLX puts 0 on an affine grid by moving one
 * end up to a step, and encoders that round a power of two to the nearest lose up to a third. */
static double within_ends(const struct tn_verify_groups *r, const struct group *g, double truth)
{
	int is_affine = r->found_format->codec == TN_CODEC_affine, at_any_distance = g->is_kept || r->is_gained;
	double beyond = is_affine ? gap_at(r->found_format, 0, g->lowest, g->highest) : g->highest / 2;
	if (truth > g->highest && (at_any_distance || truth - g->highest < beyond + g->lost))
		return g->highest;
	if (truth < g->lowest && (at_any_distance || g->lowest - truth < beyond + g->lost))
		return g->lowest;
	return truth;
}

static double largest(const double *x, size_t n)
{
	double top = 0;
	for (size_t i = 0; i < n; i++)
		top = fmax(top, fabs(x[i]));
	return top;
}

/* On the base's grid a value goes to either side (dither). On one that was fitted anew it goes to the nearest, and what it was
 * fitted to may itself be half a step from the base (--dense-base). With a gain the grid was stretched, and then codes moved. */
static double most_error(const struct tn_verify_groups *r, const struct group *g, double truth, double value)
{
	const struct tn_format *f = r->found_format, *b = r->base_format;
	double here = gap_at(f, fmin(fabs(truth), fabs(value)), g->lowest, g->highest);
	if (g->is_kept)
		return here + g->lost;
	double there = b->codec == TN_CODEC_affine ? g->base_step : gap_at(b, truth, -g->base_reach, g->base_reach);
	return (r->is_gained ? here : here / 2) + there / 2 + g->lost;
}

static int is_off(const struct tn_verify_groups *r, const struct group *g, double gain)
{
	const double least = most_error(r, g, 0, 0); /* gaps are narrowest around 0 */
	for (size_t i = 0; i < g->cols; i++) {
		if (fabs((double)g->values[i] - gain * g->truth[i]) <= least)
			continue;
		double truth = within_ends(r, g, gain * g->truth[i]), value = (double)g->values[i];
		if (!(fabs(value - truth) <= most_error(r, g, truth, value)))
			return 1;
	}
	return 0;
}

/* How far the scale of nvfp4, E4M3, is from the one that the largest value asks for; a byte further on is another. */
static int has_odd_scale(const struct tn_verify_groups *r, const struct group *g)
{
	const double unsure = 1 + 3 * tn_dtype_unit(r->unit), top = largest(g->truth, g->cols);
	const unsigned char byte = *(const unsigned char *)g->found.part[TN_PART_SCALES], last = 0x7E;
	const unsigned char below = byte ? (unsigned char)(byte - 1) : 0, above = byte < last ? (unsigned char)(byte + 1) : last;
	struct tn_row row = g->found;
	row.part[TN_PART_SCALES] = &below;
	double least = byte ? (value_of_codes(r, &row, r->found_format, 0x77) + g->highest) / 2 : 0;
	row.part[TN_PART_SCALES] = &above;
	double most = byte < last ? (value_of_codes(r, &row, r->found_format, 0x77) + g->highest) / 2 : HUGE_VAL;
	return top * unsure < least || top > most * unsure;
}

static double row_gain(const struct tn_verify_groups *r)
{
	double both = 0, square = 0;
	for (size_t i = 0; i < r->cols && r->is_gained; i++) {
		both += (double)r->values[i] * r->truth[i];
		square += r->truth[i] * r->truth[i];
	}
	return square > 0 ? fmin(fmax(both / square, 0.25), 4) : 1;
}

static struct group group_at(const struct tn_verify_groups *r, size_t first, double gain)
{
	const size_t cols = r->found_format->group, base_first = first - first % r->base_format->group;
	struct group g = { .found = advance(r, r->found, r->found_format, first),
			   .base = advance(r, r->base, r->base_format, base_first),
			   .truth = r->truth + first, .values = r->values + first, .cols = cols };
	double ends[2], top = gain * largest(g.truth, cols);
	g.is_kept = is_kept(r, &g);
	find_ends(r, g.is_kept ? &g.found : &g.base, r->base_format, ends);
	g.base_reach = fmax(fabs(ends[0]), fabs(ends[1]));
	g.base_step = (ends[1] - ends[0]) / ((1 << r->base_format->bits) - 1);
	if (!g.is_kept)
		find_ends(r, &g.found, r->found_format, ends);
	g.lowest = ends[0];
	g.highest = ends[1];
	if (r->products)
		top = fmax(top, largest(r->products + first, cols));
	g.lost = TN_VERIFY_ULPS * tn_ulp(r->unit, fmax(top, g.base_reach));
	return g;
}

int tn_verify_groups_are_off(const struct tn_verify_groups *r, struct tn_verify_finding *finding)
{
	const double gain = row_gain(r);
	int off = 0, takes_odd = r->found_format->codec == TN_CODEC_nvfp4 && !r->is_gained;
	if (!r->found_format->group || !r->base_format->group)
		return 0;
	for (size_t i = 0; i < r->cols; i += r->found_format->group) {
		struct group g = group_at(r, i, gain);
		off |= is_off(r, &g, gain);
		finding->scales++;
		finding->new_scales += !g.is_kept;
		finding->odd_scales += !g.is_kept && takes_odd && has_odd_scale(r, &g);
	}
	return off;
}
