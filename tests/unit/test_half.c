/* SPDX-License-Identifier: Apache-2.0 */
/* Every 16-bit and 8-bit float both ways, against values computed in double from the definition of the format. */
#include "testlib.h"

#include "base/half.h"

#include <math.h>

struct format {
	int exponent_bits, mantissa_bits, bias;
	int has_infinity;   /* IEEE: the last exponent is for infinity and NaN */
	unsigned nan;       /* else: this magnitude is NaN (with FNUZ: this pattern) */
	int fnuz;
};

static double value_of(const struct format *f, unsigned pattern)
{
	unsigned sign = pattern >> (f->exponent_bits + f->mantissa_bits);
	unsigned magnitude = pattern & ((1u << (f->exponent_bits + f->mantissa_bits)) - 1);
	int exponent = (int)(magnitude >> f->mantissa_bits);
	unsigned mantissa = magnitude & ((1u << f->mantissa_bits) - 1);
	if (f->has_infinity && exponent == (1 << f->exponent_bits) - 1)
		return mantissa ? (double)NAN : sign ? -(double)INFINITY : (double)INFINITY;
	if (!f->has_infinity && (f->fnuz ? pattern : magnitude) == f->nan)
		return (double)NAN;
	double value = exponent ? ldexp(1.0 + ldexp(mantissa, -f->mantissa_bits), exponent - f->bias)
				: ldexp(mantissa, 1 - f->bias - f->mantissa_bits);
	return sign ? -value : value;
}

static const struct format f16 = { 5, 10, 15, 1, 0, 0 }, bf16 = { 8, 7, 127, 1, 0, 0 };

static void expect_same(unsigned pattern, float got, double want)
{
	if (isnan(want) ? !isnan(got) : (double)got != want || !signbit(got) != !signbit(want))
		fail_msg("pattern %04x: %.9g, expected %.9g", pattern, (double)got, want);
}

static void decode_all(void **state)
{
	static const struct format e4m3 = { 4, 3, 7, 0, 0x7F, 0 }, e5m2 = { 5, 2, 15, 1, 0, 0 },
				   e4m3fnuz = { 4, 3, 8, 0, 0x80, 1 }, e5m2fnuz = { 5, 2, 16, 0, 0x80, 1 };
	(void)state;
	for (unsigned i = 0; i < 0x10000; i++) {
		expect_same(i, tn_f32_from_f16((uint16_t)i), value_of(&f16, i));
		expect_same(i, tn_f32_from_bf16((uint16_t)i), value_of(&bf16, i));
	}
	for (unsigned i = 0; i < 0x100; i++) {
		expect_same(i, tn_f32_from_f8_e4m3((uint8_t)i), value_of(&e4m3, i));
		expect_same(i, tn_f32_from_f8_e5m2((uint8_t)i), value_of(&e5m2, i));
		expect_same(i, tn_f32_from_f8_e4m3fnuz((uint8_t)i), value_of(&e4m3fnuz, i));
		expect_same(i, tn_f32_from_f8_e5m2fnuz((uint8_t)i), value_of(&e5m2fnuz, i));
	}
}

/* The magnitude nearest to |x|, ties to the even pattern, found by search among the values of the format; what lies
 * half a step or more above the largest is infinity. */
static unsigned nearest(const struct format *f, double x, unsigned infinity)
{
	unsigned low = 0, high = infinity;
	x = fabs(x);
	while (high - low > 1) {
		unsigned middle = (low + high) / 2;
		if (value_of(f, middle) <= x)
			low = middle;
		else
			high = middle;
	}
	double below = value_of(f, low);
	double above = high == infinity ? 2 * below - value_of(f, low - 1) : value_of(f, high);
	double down = x - below, up = above - x;
	if (isinf(x))
		return infinity;
	return down < up ? low : up < down ? high : low % 2 ? high : low;
}

static void expect_rounded(float x)
{
	unsigned sign = signbit(x) ? 0x8000 : 0;
	unsigned want16 = sign | nearest(&f16, (double)x, 0x7C00), wantb = sign | nearest(&bf16, (double)x, 0x7F80);
	if (tn_f16_from_f32(x) != want16)
		fail_msg("f16 of %a: %04x, expected %04x", (double)x, tn_f16_from_f32(x), want16);
	if (tn_bf16_from_f32(x) != wantb)
		fail_msg("bf16 of %a: %04x, expected %04x", (double)x, tn_bf16_from_f32(x), wantb);
}

/* Each value of the format comes back, and so does what lies halfway to the next, and just beside halfway. */
static void encode_values_and_ties(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 0x10000; i++) {
		const struct format *formats[] = { &f16, &bf16 };
		for (int k = 0; k < 2; k++) {
			double value = value_of(formats[k], i), next = value_of(formats[k], (i + 1) & 0xFFFF);
			if (isnan(value) || isinf(value))
				continue;
			assert_int_equal(k ? tn_bf16_from_f32((float)value) : tn_f16_from_f32((float)value), i);
			float half = isfinite(next) ? (float)(value / 2 + next / 2) : (float)value;
			expect_rounded(half);
			expect_rounded(nextafterf(half, INFINITY));
			expect_rounded(nextafterf(half, -INFINITY));
		}
	}
}

static void encode_edges_and_random(void **state)
{
	static const float edges[] = { 65504.f, 65519.996f, 65520.f, 65536.f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1p-26f,
				       0x1p-149f, 0x1p-126f, 0x1.fffffep127f, 0x1.fep127f, 0x1.ffp127f, 0x1.fefffep127f };
	uint64_t seed = 1;
	(void)state;
	for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
		expect_rounded(edges[i]);
		expect_rounded(-edges[i]);
	}
	for (int i = 0; i < 2000000; i++) {
		float x = tn_f32_from_bits((uint32_t)tt_random(&seed));
		if (!isnan(x))
			expect_rounded(x);
	}
	assert_int_equal(tn_f16_from_f32(INFINITY), 0x7C00);
	assert_int_equal(tn_f16_from_f32(-INFINITY), 0xFC00);
	assert_int_equal(tn_bf16_from_f32(-INFINITY), 0xFF80);
	assert_int_equal(tn_f16_from_f32(-0.0f), 0x8000);
	assert_int_equal(tn_bf16_from_f32(-0.0f), 0x8000);
}

/* A NaN stays one whatever its payload: rounding must not carry it into infinity or zero. */
static void nan_stays_nan(void **state)
{
	(void)state;
	for (uint32_t payload = 1; payload < 1u << 23; payload += payload < 0x4000 ? 1 : 997)
		for (uint32_t sign = 0; sign < 2; sign++) {
			float x = tn_f32_from_bits(sign << 31 | 0x7F800000u | payload);
			assert_true((tn_f16_from_f32(x) & 0x7FFF) > 0x7C00);
			assert_true((tn_bf16_from_f32(x) & 0x7FFF) > 0x7F80);
		}
	assert_int_equal(tn_bf16_from_f32(NAN), 0x7FC0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(decode_all), cmocka_unit_test(encode_values_and_ties),
					    cmocka_unit_test(encode_edges_and_random), cmocka_unit_test(nan_stays_nan) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
