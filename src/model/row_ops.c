/* SPDX-License-Identifier: Apache-2.0 */
/* Norms and activations of the rows of a step. */
#include "kernels/kernels.h"
#include "model/decoder.h"

#include <math.h>

static void rms(const struct tn_kernels *k, float *y, const float *x, size_t n, const float *w, float epsilon, float offset)
{
	float scale = 1.0f / sqrtf(k->dot_f32(x, x, n) / (float)n + epsilon);
	for (size_t i = 0; i < n; i++)
		y[i] = x[i] * scale * (w[i] + offset);
}

static void layer_norm(float *y, const float *x, size_t n, const float *w, const float *bias, float epsilon)
{
	double sum = 0, square = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)x[i];
	const float mean = (float)(sum / (double)n);
	for (size_t i = 0; i < n; i++)
		square += (double)(x[i] - mean) * (double)(x[i] - mean);
	const float scale = 1.0f / sqrtf((float)(square / (double)n) + epsilon);
	for (size_t i = 0; i < n; i++)
		y[i] = (x[i] - mean) * scale * w[i] + (bias ? bias[i] : 0.0f);
}

void tn_norm_rows(const tn_decoder *d, const struct tn_batch *b, const struct tn_norm *norm, float *y, const float *x,
		  size_t stride, size_t width, uint64_t heads)
{
	const unsigned traits = d->config.architecture->traits;
	const float offset = traits & TN_NORM_PLUS_ONE ? 1.0f : 0.0f, epsilon = d->config.epsilon;
	const float *w = NULL, *bias = NULL;
	uint64_t n;
	for (size_t t = 0; t < b->m; t++) {
		if (t == 0 || b->adapter[t] != b->adapter[t - 1]) {
			w = tn_snapshot_tensor(b->snapshot, norm->weight, b->adapter[t], &n);
			bias = norm->bias == TN_LIVE_NONE ? NULL : tn_snapshot_tensor(b->snapshot, norm->bias, b->adapter[t], &n);
		}
		for (uint64_t h = 0; h < heads; h++) {
			const size_t at = t * stride + h * width;
			if (traits & TN_LAYER_NORM)
				layer_norm(y + at, x + at, width, w, bias, epsilon);
			else
				rms(d->ctx->kernels, y + at, x + at, width, w, epsilon, offset);
		}
	}
}

enum { PIECE = 64 };

/* y[i] = x[i] / (1 + exp(-s x[i])) */
static void sigmoid_product(const struct tn_kernels *k, float *x, size_t n, float s)
{
	float e[PIECE];
	for (size_t i = 0; i < n; i++)
		e[i] = -s * x[i];
	k->exp_f32(e, e, n);
	for (size_t i = 0; i < n; i++)
		x[i] = x[i] / (1 + e[i]);
}

/* 0.5 x (1 + tanh(u)) is x / (1 + exp(-2 u)). */
static void gelu_tanh(const struct tn_kernels *k, float *x, size_t n)
{
	float e[PIECE];
	for (size_t i = 0; i < n; i++)
		e[i] = -2 * 0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
	k->exp_f32(e, e, n);
	for (size_t i = 0; i < n; i++)
		x[i] = x[i] / (1 + e[i]);
}

/* At most PIECE numbers, in place. */
static void activate(const struct tn_kernels *k, enum tn_activation activation, float *x, size_t n)
{
	switch (activation) {
	case TN_SILU: sigmoid_product(k, x, n, 1); return;
	case TN_GELU_QUICK: sigmoid_product(k, x, n, 1.702f); return;
	case TN_GELU_TANH: gelu_tanh(k, x, n); return;
	case TN_GELU:
		for (size_t i = 0; i < n; i++)
			x[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678118654752f));
		return;
	default:
		for (size_t i = 0; i < n; i++)
			x[i] = x[i] > 0 ? (activation == TN_RELU ? x[i] : x[i] * x[i]) : 0;
	}
}

void tn_activate_rows(const tn_decoder *d, float *wide, size_t m, size_t stride, size_t width, int gated)
{
	const struct tn_kernels *k = d->ctx->kernels;
	for (size_t t = 0; t < m; t++)
		for (size_t i = 0; i < width; i += PIECE) {
			float *gate = wide + t * stride + i;
			const float *up = gate + width;
			const size_t n = width - i < PIECE ? width - i : PIECE;
			activate(k, d->config.activation, gate, n);
			for (size_t j = 0; gated && j < n; j++)
				gate[j] *= up[j];
		}
}

void tn_softcap(float *x, size_t n, float cap)
{
	for (size_t i = 0; i < n; i++)
		x[i] = tanhf(x[i] / cap) * cap;
}
