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

static float activate(enum tn_activation activation, float x)
{
	switch (activation) {
	case TN_SILU: return x / (1 + expf(-x));
	case TN_GELU: return 0.5f * x * (1 + erff(x * 0.70710678118654752f));
	case TN_GELU_TANH: return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
	case TN_GELU_QUICK: return x / (1 + expf(-1.702f * x));
	case TN_RELU: return x > 0 ? x : 0;
	default: return x > 0 ? x * x : 0;
	}
}

void tn_activate_rows(enum tn_activation activation, float *wide, size_t m, size_t stride, size_t width, int gated)
{
	for (size_t t = 0; t < m; t++) {
		float *gate = wide + t * stride, *up = gate + width;
		for (size_t i = 0; i < width; i++)
			gate[i] = gated ? activate(activation, gate[i]) * up[i] : activate(activation, gate[i]);
	}
}

void tn_softcap(float *x, size_t n, float cap)
{
	for (size_t i = 0; i < n; i++)
		x[i] = tanhf(x[i] / cap) * cap;
}
