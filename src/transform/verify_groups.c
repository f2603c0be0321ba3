/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding, whoever does it, leaves every value of a group within a step of what was rounded. Codes or scales that belong elsewhere
 * do not, and a sum over a whole row would hide them. */
#include "transform/verify_block.h"

#include "transform/ulp.h"

#include <math.h>
#include <string.h>

enum { MOST_IN_GROUP = 128 };

/* A run of whole groups of a row. */
struct run {
	struct tn_row found, base;
	const double *truth;
	const float *values;
	size_t cols;
	double lowest, highest;      /* that the found scales reach */
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

/* The value of a group whose codes are all that byte, or begin with its bits. */
static double value_of_codes(const struct tn_verify_groups *r, const struct tn_row *scales, int codes)
{
	unsigned char bytes[MOST_IN_GROUP];
	float values[MOST_IN_GROUP];
	struct tn_row row = *scales;
	memset(bytes, codes, sizeof bytes);
	row.part[TN_PART_WEIGHT] = bytes;
	codec_of(r, r->found_format)->decode(values, &row, r->found_format, r->found_format->group);
	return (double)values[0];
}

/* Codes of the two ends. */
static void find_ends(const struct tn_verify_groups *r, struct run *g)
{
	int is_affine = r->found_format->codec == TN_CODEC_affine, is_e4m3 = r->found_format->codec == TN_CODEC_mxfp8;
	double a = value_of_codes(r, &g->found, is_affine ? 0 : is_e4m3 ? 0xFE : 0xFF);
	double b = value_of_codes(r, &g->found, is_affine ? 0xFF : is_e4m3 ? 0x7E : 0x77);
	g->lowest = fmin(a, b);
	g->highest = fmax(a, b);
}

/* Scales and biases are the base's, so that its grid has been kept. */
static int is_kept(const struct tn_verify_groups *r, const struct run *g)
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

/* What the truth becomes where the grid ends before it: on a kept one at any distance. Encoders let one end a little early, and
 * those that round a power of two to the nearest by up to a third. */
static double within_ends(const struct run *g, double truth, int at_any_distance)
{
	const double reach = 1.5;
	if (truth > g->highest && (at_any_distance || truth < reach * g->highest))
		return g->highest;
	if (truth < g->lowest && (at_any_distance || truth > reach * g->lowest))
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

/* The squares of errors, less what is lost before the quantization. */
static double errors2(const struct tn_verify_groups *r, const struct run *g, double gain, int at_any_distance)
{
	double lost = TN_VERIFY_ULPS * tn_ulp(r->unit, gain * largest(g->truth, g->cols)), sum = 0;
	for (size_t i = 0; i < g->cols; i++) {
		double error = fabs((double)g->values[i] - within_ends(g, gain * g->truth[i], at_any_distance));
		sum += error > lost ? (error - lost) * (error - lost) : isnan(error) ? error : 0;
	}
	return sum;
}

/* How far the scale of nvfp4, E4M3, is from the one that the largest value asks for; a byte further on is another. */
static int has_odd_scale(const struct tn_verify_groups *r, const struct run *g)
{
	const double unsure = 1 + 4 * tn_dtype_unit(TN_BF16), top = largest(g->truth, g->cols);
	const unsigned char byte = *(const unsigned char *)g->found.part[TN_PART_SCALES], last = 0x7E;
	const unsigned char below = byte ? (unsigned char)(byte - 1) : 0, above = byte < last ? (unsigned char)(byte + 1) : last;
	struct tn_row row = g->found;
	row.part[TN_PART_SCALES] = &below;
	double least = byte ? (value_of_codes(r, &row, 0x77) + g->highest) / 2 : 0;
	row.part[TN_PART_SCALES] = &above;
	double most = byte < last ? (value_of_codes(r, &row, 0x77) + g->highest) / 2 : HUGE_VAL;
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

int tn_verify_groups_are_off(const struct tn_verify_groups *r, struct tn_verify_finding *finding)
{
	const size_t a = r->found_format->group, b = r->base_format->group, cols = a > b ? a : b;
	const double gain = row_gain(r);
	if (!a || !b)
		return 0;
	int off = 0;
	for (size_t i = 0; i + cols <= r->cols; i += cols) {
		double error2 = 0, found2 = 0, base2;
		for (size_t k = i; k < i + cols; k += a) {
			struct run g = { advance(r, r->found, r->found_format, k), advance(r, r->base, r->base_format, k),
					 r->truth + k, r->values + k, a, 0, 0 };
			int kept = is_kept(r, &g);
			find_ends(r, &g);
			error2 += errors2(r, &g, gain, kept || r->is_gained);
			found2 += codec_of(r, r->found_format)->steps2(&g.found, r->found_format, a);
			finding->scales++;
			finding->new_scales += !kept;
			finding->odd_scales += !kept && !r->is_gained && r->found_format->codec == TN_CODEC_nvfp4 &&
					       has_odd_scale(r, &g);
		}
		struct tn_row base = advance(r, r->base, r->base_format, i);
		base2 = codec_of(r, r->base_format)->steps2(&base, r->base_format, cols);
		off |= !(error2 <= (base2 + found2) / 2);
	}
	return off;
}
