/* SPDX-License-Identifier: Apache-2.0 */
/* Dithering moves a row by d on average, moves nothing for d = 0, and depends on seed, row and column alone. */
#include "base/context.h"
#include "kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { COLS = 256, STREAMS = 4000 };

static const struct tn_format formats[] = {
	{ .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 2, .group = 32 },
	{ .codec = TN_CODEC_affine, .dtype = TN_F16, .bits = 3, .group = 64 },
	{ .codec = TN_CODEC_affine, .dtype = TN_F32, .bits = 4, .group = 64 },
	{ .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 5, .group = 128 },
	{ .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 8, .group = 64 },
	{ .codec = TN_CODEC_mxfp4, .dtype = TN_BF16, .bits = 4, .group = 32 },
	{ .codec = TN_CODEC_mxfp8, .dtype = TN_BF16, .bits = 8, .group = 32 },
	{ .codec = TN_CODEC_nvfp4, .dtype = TN_BF16, .bits = 4, .group = 16 },
	{ .codec = TN_CODEC_nvfp4, .dtype = TN_F32, .bits = 4, .group = 16, .has_global_scale = 1, .global_scale = 3.5f },
};
enum { FORMATS = sizeof formats / sizeof *formats };

struct row {
	unsigned char part[TN_PART_COUNT][COLS * 4];
	float values[COLS];
};

static float noise(uint32_t *state)
{
	float sum = 0;
	for (int i = 0; i < 6; i++) {
		*state = *state * 1664525u + 1013904223u;
		sum += (float)(*state >> 8) * 0x1p-24f - 0.5f;
	}
	return sum;
}

static struct tn_row make_row(const struct tn_kernels *k, const struct tn_format *f, struct row *r, uint32_t seed)
{
	float source[COLS];
	struct tn_row_out out = { { r->part[0], r->part[1], r->part[2] } };
	struct tn_row in = { { r->part[0], r->part[1], r->part[2] } };
	for (int i = 0; i < COLS; i++)
		source[i] = noise(&seed);
	k->codec[f->codec]->encode(&out, source, f, COLS);
	k->codec[f->codec]->decode(r->values, &in, f, COLS);
	return in;
}

/* Of the steps in a group, root mean square. */
static float step_of(const struct tn_codec *codec, const struct tn_format *f, const struct tn_row *row, size_t group)
{
	struct tn_row at = { { NULL } };
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		at.part[p] = (const unsigned char *)row->part[p] + group * codec->part_bytes(f, p, f->group);
	return (float)sqrt(codec->steps2(&at, f, f->group) / f->group);
}

static void no_delta_moves_nothing(void **state)
{
	const struct tn_kernels *k = tn_kernels_for(NULL);
	(void)state;
	for (int i = 0; i < FORMATS; i++) {
		struct row r;
		unsigned char codes[COLS];
		float d[COLS] = { 0 };
		struct tn_dither_counts counts = { 0, 0 };
		struct tn_row in = make_row(k, &formats[i], &r, 7);
		size_t bytes = k->codec[formats[i].codec]->part_bytes(&formats[i], TN_PART_WEIGHT, COLS);
		d[3] = -0.0f;
		for (uint64_t seed = 0; seed < 50; seed++) {
			k->codec[formats[i].codec]->dither(codes, &in, d, &formats[i], COLS, seed, seed, &counts);
			assert_memory_equal(codes, r.part[0], bytes);
		}
		assert_int_equal(counts.moved, 0);
		assert_int_equal(counts.clamped, 0);
	}
}

/* The mean change over many seeds is d wherever the grid goes on in both directions: within five standard errors. */
static void unbiased(void **state)
{
	const struct tn_kernels *k = tn_kernels_for(NULL);
	(void)state;
	for (int i = 0; i < FORMATS; i++) {
		const struct tn_format *f = &formats[i];
		const struct tn_codec *codec = k->codec[f->codec];
		struct row r;
		unsigned char codes[COLS];
		float d[COLS], moved[COLS];
		double sum[COLS] = { 0 }, square[COLS] = { 0 };
		uint32_t rng = 99;
		struct tn_row in = make_row(k, f, &r, 11);
		for (size_t j = 0; j < COLS; j++)
			d[j] = noise(&rng) * 0.4f * step_of(codec, f, &in, j / f->group);
		for (uint64_t seed = 0; seed < STREAMS; seed++) {
			struct tn_dither_counts counts = { 0, 0 };
			struct tn_row out = { { codes, in.part[1], in.part[2] } };
			codec->dither(codes, &in, d, f, COLS, seed * 7919, 5, &counts);
			codec->decode(moved, &out, f, COLS);
			for (int j = 0; j < COLS; j++) {
				double change = (double)moved[j] - (double)r.values[j];
				sum[j] += change;
				square[j] += change * change;
			}
		}
		int checked = 0;
		for (int j = 0; j < COLS; j++) {
			double mean = sum[j] / STREAMS, variance = square[j] / STREAMS - mean * mean;
			double error = sqrt(variance / STREAMS) + 1e-7;
			if (fabs(mean) < 0.6 * fabs((double)d[j])) /* at an end of the grid: what goes beyond is lost */
				continue;
			checked++;
			assert_true(fabs(mean - (double)d[j]) < 5 * error + 1e-3 * fabs((double)d[j]));
		}
		assert_true(checked > (f->bits <= 2 ? COLS / 3 : COLS * 3 / 4));
	}
}

static double wider_step(unsigned code)
{
	static const double values[] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6 };
	unsigned m = code & 7u;
	double below = m ? values[m] - values[m - 1] : 0, above = m < 7 ? values[m + 1] - values[m] : 0;
	return below > above ? below : above;
}

/* Of E2M1 codes the wider of the two distances to the neighbours, by the numbers that the codes stand for; scales of 1 and 2. */
static void steps_of_e2m1(void **state)
{
	(void)state;
	for (int i = 0; i < FORMATS; i++) {
		const struct tn_format *f = &formats[i];
		unsigned char codes[COLS / 2], scales[COLS / 16];
		uint32_t rng = 17;
		double truth = 0;
		if ((f->codec != TN_CODEC_mxfp4 && f->codec != TN_CODEC_nvfp4) || f->has_global_scale)
			continue;
		for (size_t g = 0; g < COLS / f->group; g++)
			scales[g] = (unsigned char)(f->codec == TN_CODEC_mxfp4 ? 127 + g % 2 : 0x38 + 8 * (g % 2));
		for (size_t j = 0; j < COLS / 2; j++) {
			rng = rng * 1664525u + 1013904223u;
			codes[j] = (unsigned char)(rng >> 24);
			double a = wider_step(codes[j]), b = wider_step(codes[j] >> 4), scale = 2 * j / f->group % 2 ? 2 : 1;
			truth += scale * scale * (a * a + b * b);
		}
		for (unsigned n = 0; tn_kernels_isa_name(n); n++) {
			const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(n));
			if (k)
				assert_true(k->codec[f->codec]->steps2(&(struct tn_row){ { codes, scales } }, f, COLS) == truth);
		}
	}
}

/* Every instruction set gives the bits of the portable one, and the result is a function of seed and row. */
static void deterministic(void **state)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	(void)state;
	for (int i = 0; i < FORMATS; i++) {
		const struct tn_format *f = &formats[i];
		struct row r;
		unsigned char a[COLS], b[COLS];
		float d[COLS];
		uint32_t rng = 5;
		size_t bytes = portable->codec[f->codec]->part_bytes(f, TN_PART_WEIGHT, COLS);
		struct tn_row in = make_row(portable, f, &r, 3);
		for (int j = 0; j < COLS; j++)
			d[j] = noise(&rng) * 0.3f;
		for (unsigned n = 0; tn_kernels_isa_name(n); n++) {
			const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(n));
			struct tn_dither_counts x = { 0, 0 }, y = { 0, 0 };
			if (!k)
				continue;
			portable->codec[f->codec]->dither(a, &in, d, f, COLS, 42, 1000, &x);
			k->codec[f->codec]->dither(b, &in, d, f, COLS, 42, 1000, &y);
			assert_memory_equal(a, b, bytes);
			assert_memory_equal(&x, &y, sizeof x);
			k->codec[f->codec]->dither(b, &in, d, f, COLS, 42, 1001, &y);
			assert_memory_not_equal(a, b, bytes);
			k->codec[f->codec]->dither(b, &in, d, f, COLS, 43, 1000, &y);
			assert_memory_not_equal(a, b, bytes);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_delta_moves_nothing),
		cmocka_unit_test(unbiased),
		cmocka_unit_test(steps_of_e2m1),
		cmocka_unit_test(deterministic),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
