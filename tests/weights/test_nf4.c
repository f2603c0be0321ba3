/* SPDX-License-Identifier: Apache-2.0 */
/* NF4; qlora_... are the names of kizzasi's tests (src/lora.rs). */
#include "support.h"

#include "tenon/foreign.h"

#include <math.h>
#include <stdlib.h>

static float *waves(size_t n, float scale)
{
	float *x = malloc(n * sizeof *x);
	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = wave(i) * scale;
	return x;
}

static void qlora_dequantize_roundtrip(void **state)
{
	enum { N = 37 * 5, GROUP = 16 };
	float *x = waves(N, 0.1f), back[N];
	struct tn_nf4 nf4;
	(void)state;
	OK(tn_nf4_encode(test_context(), x, N, GROUP, &nf4, err));
	assert_true(nf4.codes.bytes == (N + 1) / 2 && nf4.scales.bytes == (N + GROUP - 1) / GROUP * sizeof(float));
	tn_nf4_decode(&nf4, back);
	for (size_t i = 0; i < N; i++) /* half of the widest gap between levels */
		assert_true(fabsf(back[i] - x[i]) <= 0.152f * ((const float *)nf4.scales.data)[i / GROUP]);
	tn_nf4_release(test_context(), &nf4);
	free(x);
}

static void nf4_codes_stand_low_half_first(void **state)
{
	const float x[5] = { -2, 2, 0, 1, 1.5f };
	float back[5];
	struct tn_nf4 nf4;
	(void)state;
	OK(tn_nf4_encode(test_context(), x, 5, 4, &nf4, err));
	const unsigned char *codes = nf4.codes.data;
	assert_int_equal(codes[0], 0xF0); /* -1, then 1 */
	assert_int_equal(codes[1], 0xC7); /* 0, then 0.5: 0.44 is nearer than 0.56 */
	assert_int_equal(codes[2], 0x0F);
	tn_nf4_decode(&nf4, back);
	assert_true(back[0] == -2 && back[1] == 2 && back[2] == 0 && back[3] == tn_nf4_level(12) * 2 && back[4] == 1.5f);
	tn_nf4_release(test_context(), &nf4);
}

static void nf4_zeros_and_nan(void **state)
{
	const float x[4] = { 0, 0, NAN, 0 };
	float back[4];
	struct tn_nf4 nf4;
	(void)state;
	OK(tn_nf4_encode(test_context(), x, 4, 4, &nf4, err));
	tn_nf4_decode(&nf4, back);
	assert_true(back[0] == 0 && back[3] == 0 && back[2] == -1e-10f);
	tn_nf4_release(test_context(), &nf4);
	FAILS(TN_E_ARG, "above 0", tn_nf4_encode(test_context(), x, 4, 0, &nf4, err));
	FAILS(TN_E_ARG, "above 0", tn_nf4_encode(test_context(), x, 0, 4, &nf4, err));
}

static void qlora_memory_savings(void **state)
{
	enum { N = 256 * 128 };
	float *x = waves(N, 1);
	struct tn_nf4 nf4;
	(void)state;
	OK(tn_nf4_encode(test_context(), x, N, 64, &nf4, err));
	assert_int_equal(tn_nf4_saved_bytes(&nf4), N * 4 - N / 2 - 2 * (N / 64) * 4);
	tn_nf4_release(test_context(), &nf4);
	OK(tn_nf4_encode(test_context(), x, 2, 1, &nf4, err));
	assert_int_equal(tn_nf4_saved_bytes(&nf4), 0);
	tn_nf4_release(test_context(), &nf4);
	free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(qlora_dequantize_roundtrip),
		cmocka_unit_test(nf4_codes_stand_low_half_first),
		cmocka_unit_test(nf4_zeros_and_nan),
		cmocka_unit_test(qlora_memory_savings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
