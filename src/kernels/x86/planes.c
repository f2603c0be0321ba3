/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of 4 bits times activations, in integers. The activations of a group become whole numbers n of at most 24, 16 or 8 bits
 * times a scale, n = 65536 h + 256 m + l with every part in a signed byte; products of a code and a byte are added exactly, so
 * the only error is that of the rounding to n: 2^-23, 2^-15 or 2^-7 of the largest in the group; 2^-22 where words are added
 * (MIDDLE_BITS). A quarter of the multiplications
 * that float32 takes, and no conversion of codes.
 *
 *   sum of w x over a group = scale * (sum of code * x) + bias * (sum of x)
 *
 * E2M1 codes are looked up as 2 w + 12, which is not negative: scale / 2, and a bias of -6 scale. */
#include "kernels/x86/codes4.h"

/* Codes of a step, each below 32: the even ones and the odd ones. */
struct codes {
	ints even, odd;
};

#if defined(TN_BYTE_DOTS)
enum { MIDDLE_BITS = 8 };

/* The sums of eight products each of codes and activations: planes from the highest on, 256 times what is there with the next. */
TN_INLINE ints dot_planes(struct codes c, const int8_t *x, const unsigned planes)
{
	ints sum = ZERO_INTS();
	TN_UNROLL(3)
	for (unsigned i = 0; i < planes; i++, x += 2 * STEP_BYTES) {
		sum = i ? TIMES_256(sum) : sum;
		sum = DOT_BYTES(DOT_BYTES(sum, c.even, LOAD_INTS(x)), c.odd, LOAD_INTS(x + STEP_BYTES));
	}
	return sum;
}
#else
/* One less than there could be: what the highest plane stands for is 2^15 then, and -2^15 is a factor of 16 bits. */
enum { MIDDLE_BITS = 7 };

/* Words of four products each with the activations of one plane. */
TN_INLINE ints words_of(struct codes c, const int8_t *x)
{
	return ADD_WORDS(MUL_BYTES(c.even, LOAD_INTS(x)), MUL_BYTES(c.odd, LOAD_INTS(x + STEP_BYTES)));
}

/* The sums of eight products each of codes and activations. Words are added in pairs by a multiplication, which takes along what
 * the plane stands for. */
TN_INLINE ints dot_planes(struct codes c, const int8_t *x, const unsigned planes)
{
	ints sum = ADD_PAIRS(words_of(c, x + (planes - 1) * 2 * STEP_BYTES), 1);
	if (planes > 1)
		sum = ADD_INTS(sum, ADD_PAIRS(words_of(c, x + (planes - 2) * 2 * STEP_BYTES), 1 << 8));
	if (planes > 2)
		sum = SUB_INTS(sum, ADD_PAIRS(words_of(c, x), -(1 << 15)));
	return sum;
}
#endif

/* ---- the activations ------------------------------------------------------------------------------------- */

int TN_ISA_NAME(tn_planes_take)(const struct tn_product *p)
{
	const struct tn_format *f = p->format;
	return !f->like_mlx && ((f->codec == TN_CODEC_affine && f->bits == 4) || f->codec == TN_CODEC_mxfp4 ||
				f->codec == TN_CODEC_nvfp4);
}

size_t TN_ISA_NAME(tn_planes_bytes)(const struct tn_product *p)
{
	return p->m * vector_bytes(p);
}

static void prepare_one(unsigned char *dst, const struct tn_product *p, const float *x)
{
	const unsigned planes = planes_of(p);
	const float most = planes == 3 ? 127 << (8 + MIDDLE_BITS) : most_in(planes);
	size_t group = p->format->group, groups = p->cols / group;
	float *scales = (float *)(void *)(dst + steps_of(p) * planes * 2 * STEP_BYTES), *sums = scales + group_room(p);
	memset(dst, 0, vector_bytes(p));
	for (size_t g = 0; g < groups; g++) {
		if (planes == 3)
			scales[g] = cut_group((int8_t *)dst, x, g * group, group, 3, MIDDLE_BITS, 8, most, &sums[g]);
		else if (planes == 2)
			scales[g] = cut_group((int8_t *)dst, x, g * group, group, 2, 8, 8, most, &sums[g]);
		else
			scales[g] = cut_group((int8_t *)dst, x, g * group, group, 1, 8, 8, most, &sums[g]);
	}
}

void TN_ISA_NAME(tn_planes_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	for (size_t t = v->first; t < v->first + v->count; t++)
		prepare_one(dst + t * vector_bytes(p), p, v->x + t * v->stride);
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* Lanes that a group takes at most: 128 codes. */
enum { MOST_ORDERS = 16 };

/* One x, and how a group lies in the lanes. */
struct vector {
	const int32_t (*orders)[LANES];
	const int8_t *bytes;
	const float *scales, *sums;
	size_t cols, groups, steps;
	size_t lanes_per_group;
	float factor;                      /* of all scales */
	size_t ahead;                      /* bytes to what is read next */
};

/* Step i of the steps that LANES groups take: which group's scale each lane needs. */
static void make_orders(int32_t orders[MOST_ORDERS][LANES], size_t lanes_per_group)
{
	unsigned shift = 0; /* a group is a power of two, and this is done for every few rows */
	while ((size_t)1 << shift < lanes_per_group)
		shift++;
	for (size_t i = 0; i < lanes_per_group; i++)
		for (size_t l = 0; l < LANES; l++)
			orders[i][l] = (int32_t)((uint32_t)(i * LANES + l) >> shift);
}

/* The codes at the end of a row that fill no vector. */
TN_INLINE ints load_rest(const unsigned char *row, size_t at, size_t row_bytes)
{
	unsigned char padded[STEP_BYTES];
	memset(padded, 0, sizeof padded);
	memcpy(padded, row + at, row_bytes - at);
	return LOAD_INTS(padded);
}

struct rows {
	const unsigned char *codes[ROWS], *scales[ROWS], *biases[ROWS];
};

/* Sums of rows with one x, lane by lane. */
struct sums {
	floats codes[ROWS], biases[ROWS], scale[ROWS];
};

TN_INLINE void add_step(struct sums *sum, const struct rows *rows, const struct vector *x, size_t step, ints order, const int n,
			const unsigned planes, int is_float, int whole)
{
	const int8_t *bytes = x->bytes + step * planes * 2 * STEP_BYTES;
	const size_t at = step * STEP_BYTES;
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		ints v = whole ? LOAD_INTS(rows->codes[r] + at) : load_rest(rows->codes[r], at, x->cols / 2);
		struct codes c = { AND(v, SPREAD_BYTE(15)), HIGH_NIBBLES(v) };
		_mm_prefetch((const char *)rows->codes[r] + at + x->ahead, _MM_HINT_T1);
		if (is_float) {
			const ints table = load_e2m1_table();
			c.even = LOOK_UP(table, c.even);
			c.odd = LOOK_UP(table, c.odd);
		}
		sum->codes[r] = FMA(TO_FLOATS(dot_planes(c, bytes, planes)), CHOOSE(sum->scale[r], order), sum->codes[r]);
	}
}

TN_INLINE void multiply(float *y, const struct rows *rows, const struct vector *x, const int n, const unsigned planes,
			const enum scale_kind kind)
{
	const int is_float = kind == SCALE_E8M0 || kind == SCALE_E4M3;
	const size_t full = x->cols / 2 / STEP_BYTES;
	struct sums sum;
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		sum.codes[r] = sum.biases[r] = ZERO();
	size_t step = 0;
	for (size_t g = 0; g < x->groups; g += LANES) {
		floats x_scale = LOAD_FLOATS(x->scales + g), x_sum = LOAD_FLOATS(x->sums + g);
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			floats s = load_scales(rows->scales[r], g, x->groups, kind);
			if (kind == SCALE_E4M3)
				s = MUL(s, SPREAD(x->factor));
			floats bias = is_float ? MUL(s, SPREAD(-6)) : load_scales(rows->biases[r], g, x->groups, kind);
			sum.biases[r] = FMA(bias, x_sum, sum.biases[r]);
			sum.scale[r] = MUL(is_float ? MUL(s, SPREAD(0.5f)) : s, x_scale);
		}
		size_t end = step + x->lanes_per_group < full ? step + x->lanes_per_group : full, i = 0;
		for (; step < end; step++, i++)
			add_step(&sum, rows, x, step, LOAD_INTS(x->orders[i]), n, planes, is_float, 1);
		if (i < x->lanes_per_group && step == full && step < x->steps)
			add_step(&sum, rows, x, step++, LOAD_INTS(x->orders[i]), n, planes, is_float, 0);
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = SUM(ADD(sum.codes[r], sum.biases[r]));
}

TN_DEFINE_MULTIPLY_ROWS

static struct vector vector_at(const struct tn_product *p, const unsigned char *planes, const struct tn_rows *w,
			       const int32_t (*orders)[LANES])
{
	const struct tn_format *f = p->format;
	const unsigned char *scales = planes + steps_of(p) * planes_of(p) * 2 * STEP_BYTES;
	struct vector x = {
		.orders = orders,
		.bytes = (const int8_t *)planes,
		.scales = (const float *)(const void *)scales,
		.sums = (const float *)(const void *)scales + group_room(p),
		.cols = p->cols,
		.groups = p->cols / f->group,
		.steps = steps_of(p),
		.lanes_per_group = f->group / 8u,
		.factor = scale_factor(f),
		.ahead = 2 * ROWS * w->stride[TN_PART_WEIGHT],
	};
	return x;
}

void TN_ISA_NAME(tn_planes_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *planes,
				 const struct tn_rows *w, size_t rows)
{
	int32_t orders[MOST_ORDERS][LANES];
	make_orders(orders, p->format->group / 8u);
	const struct vector first = vector_at(p, planes, w, (const int32_t(*)[LANES])orders);
	const size_t bytes = vector_bytes(p);
	for (size_t i = 0, n; i < rows; i += n) {
		struct rows now = { { NULL }, { NULL }, { NULL } };
		n = rows - i >= ROWS ? ROWS : 1;
		for (size_t r = 0; r < n; r++) {
			now.codes[r] = (const unsigned char *)w->first.part[TN_PART_WEIGHT] + (i + r) * w->stride[TN_PART_WEIGHT];
			now.scales[r] = (const unsigned char *)w->first.part[TN_PART_SCALES] + (i + r) * w->stride[TN_PART_SCALES];
			if (w->first.part[TN_PART_BIASES])
				now.biases[r] = (const unsigned char *)w->first.part[TN_PART_BIASES] +
						(i + r) * w->stride[TN_PART_BIASES];
		}
		for (size_t t = 0; t < p->m; t++) {
			struct vector x = first;
			x.bytes += t * bytes;
			x.scales += t * bytes / sizeof *x.scales;
			x.sums += t * bytes / sizeof *x.sums;
			multiply_rows(y + t * y_stride + i, &now, &x, (int)n, planes_of(p), kind_of(p->format));
		}
	}
}
