/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of attention: every usable instruction set against portable, bit by bit, and against what their comments say. */
#include "testlib.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures;
static uint64_t state = 7;

static void complain(const char *isa, const char *kernel, size_t n, size_t more, const char *what)
{
	failures++;
	printf("%s %s (%zu, %zu): %s\n", isa, kernel, n, more, what);
}

static float some_float(void)
{
	return (float)(int64_t)tt_random(&state) * 0x1p-62f;
}

/* Scores and mixtures of every width and a few counts; exp against the real one. */
static void check_attention(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	enum { MOST = 35, ROOM = 48, WIDTH = 70, NUMBERS = 4096 };
	static float q[WIDTH], rows[ROOM * WIDTH], a[NUMBERS], b[NUMBERS], c[WIDTH];
	for (size_t width = 1; width <= WIDTH; width++)
		for (size_t count = 1; count <= MOST; count++) {
			for (size_t i = 0; i < width; i++)
				q[i] = some_float();
			for (size_t i = 0; i < ROOM * width; i++)
				rows[i] = some_float();
			k->scores_f32(a, q, rows, count, width, 0.37f);
			portable->scores_f32(b, q, rows, count, width, 0.37f);
			for (size_t i = 0; i < count; i++) {
				volatile float dot = 0;
				for (size_t j = 0; j < width; j++) {
					volatile float product = q[j] * rows[i / 16 * 16 * width + j * 16 + i % 16];
					dot = dot + product;
				}
				if (memcmp(&a[i], &b[i], sizeof *a) != 0 || a[i] != dot * 0.37f)
					complain(k->isa, "scores_f32", width, count, "not the sum that its comment defines");
			}
			k->mix_f32(a, b, rows, count, width);
			portable->mix_f32(c, b, rows, count, width);
			if (memcmp(a, c, width * sizeof *a) != 0)
				complain(k->isa, "mix_f32", width, count, "other bits than portable");
		}
	for (size_t i = 0; i < NUMBERS; i++)
		a[i] = ((float)i - NUMBERS / 2) * 0.0421f;
	k->exp_f32(b, a, NUMBERS);
	for (size_t i = 0; i < NUMBERS; i++) {
		double want = exp((double)a[i]), off = fabs((double)b[i] - want);
		if (want < 1e-38 ? b[i] > 1.2e-38f : off > want * 2.5e-7)
			complain(k->isa, "exp_f32", i, 0, "not the exponential");
	}
	portable->exp_f32(a, a, NUMBERS);
	if (memcmp(a, b, sizeof a) != 0)
		complain(k->isa, "exp_f32", NUMBERS, 0, "other bits than portable");
}

int main(void)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!k) {
			printf("NOT RUN: %s\n", tn_kernels_isa_name(i));
			continue;
		}
		check_attention(k, portable);
	}
	return failures != 0;
}
