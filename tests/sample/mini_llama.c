/* SPDX-License-Identifier: Apache-2.0 */
#include "mini_llama.h"

#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct model {
	tn_context *ctx;
	const tn_checkpoint *weights;
	int missing;
};

/* A tensor as float32; the caller frees it. */
static float *load(struct model *m, const char *fmt, int layer)
{
	char name[128];
	struct tn_buffer bytes;
	const struct tn_tensor *t;
	snprintf(name, sizeof name, fmt, layer);
	if (tn_checkpoint_load(m->weights, name, &bytes, &t, NULL) != TN_OK) {
		m->missing = 1;
		return calloc(MINI_VOCAB * MINI_MLP, sizeof(float));
	}
	float *out = malloc(t->elements * sizeof *out);
	for (uint64_t i = 0; i < t->elements; i++)
		out[i] = t->dtype == TN_F32    ? ((const float *)bytes.data)[i]
			 : t->dtype == TN_BF16 ? tn_f32_from_bf16(((const uint16_t *)bytes.data)[i])
					       : tn_f32_from_f16(((const uint16_t *)bytes.data)[i]);
	tn_buffer_release(m->ctx, &bytes);
	return out;
}

/* x [n, in], w [out, in] -> y [n, out] */
static void linear(struct model *m, float *y, const float *x, int n, int in, int out, const char *name, int layer)
{
	float *w = load(m, name, layer);
	for (int t = 0; t < n; t++)
		for (int o = 0; o < out; o++) {
			double sum = 0;
			for (int i = 0; i < in; i++)
				sum += (double)x[t * in + i] * (double)w[o * in + i];
			y[t * out + o] = (float)sum;
		}
	free(w);
}

static void rms_norm(struct model *m, float *y, const float *x, int n, const char *name, int layer)
{
	float *w = load(m, name, layer);
	for (int t = 0; t < n; t++) {
		double square = 0;
		for (int i = 0; i < MINI_HIDDEN; i++)
			square += (double)x[t * MINI_HIDDEN + i] * (double)x[t * MINI_HIDDEN + i];
		double scale = 1 / sqrt(square / MINI_HIDDEN + 1e-5);
		for (int i = 0; i < MINI_HIDDEN; i++)
			y[t * MINI_HIDDEN + i] = (float)((double)x[t * MINI_HIDDEN + i] * scale) * w[i];
	}
	free(w);
}

/* x [n, heads, MINI_HEAD]: halves of a head are turned against each other, theta 10000. */
static void rope(float *x, int n, int heads)
{
	for (int t = 0; t < n; t++)
		for (int h = 0; h < heads; h++)
			for (int i = 0; i < MINI_HEAD / 2; i++) {
				float *a = x + (t * heads + h) * MINI_HEAD + i, *b = a + MINI_HEAD / 2;
				double angle = t * pow(10000, -2.0 * i / MINI_HEAD), c = cos(angle), s = sin(angle);
				double u = (double)*a, v = (double)*b;
				*a = (float)(u * c - v * s);
				*b = (float)(v * c + u * s);
			}
}

static void attend(float *y, const float *q, const float *k, const float *v, int n)
{
	const int per_kv = MINI_HEADS / MINI_KV_HEADS, kv_width = MINI_KV_HEADS * MINI_HEAD;
	double *p = malloc((size_t)n * sizeof *p);
	for (int t = 0; t < n; t++)
		for (int h = 0; h < MINI_HEADS; h++) {
			const float *qh = q + (t * MINI_HEADS + h) * MINI_HEAD;
			double sum = 0;
			for (int u = 0; u <= t; u++) {
				const float *kh = k + u * kv_width + h / per_kv * MINI_HEAD;
				double dot = 0;
				for (int i = 0; i < MINI_HEAD; i++)
					dot += (double)qh[i] * (double)kh[i];
				sum += p[u] = exp(dot / sqrt(MINI_HEAD));
			}
			for (int i = 0; i < MINI_HEAD; i++) {
				double out = 0;
				for (int u = 0; u <= t; u++)
					out += p[u] * (double)v[u * kv_width + h / per_kv * MINI_HEAD + i];
				y[(t * MINI_HEADS + h) * MINI_HEAD + i] = (float)(out / sum);
			}
		}
	free(p);
}

static void add(float *x, const float *y, int count)
{
	for (int i = 0; i < count; i++)
		x[i] += y[i];
}

static void layer_forward(struct model *m, float *x, int n, int layer, float *scratch)
{
	float *h = scratch, *q = h + n * MINI_MLP, *k = q + n * MINI_MLP, *v = k + n * MINI_MLP, *o = v + n * MINI_MLP;
	const int kv_width = MINI_KV_HEADS * MINI_HEAD;
	rms_norm(m, h, x, n, "model.layers.%d.input_layernorm.weight", layer);
	linear(m, q, h, n, MINI_HIDDEN, MINI_HIDDEN, "model.layers.%d.self_attn.q_proj.weight", layer);
	linear(m, k, h, n, MINI_HIDDEN, kv_width, "model.layers.%d.self_attn.k_proj.weight", layer);
	linear(m, v, h, n, MINI_HIDDEN, kv_width, "model.layers.%d.self_attn.v_proj.weight", layer);
	rope(q, n, MINI_HEADS);
	rope(k, n, MINI_KV_HEADS);
	attend(o, q, k, v, n);
	linear(m, h, o, n, MINI_HIDDEN, MINI_HIDDEN, "model.layers.%d.self_attn.o_proj.weight", layer);
	add(x, h, n * MINI_HIDDEN);
	rms_norm(m, h, x, n, "model.layers.%d.post_attention_layernorm.weight", layer);
	linear(m, q, h, n, MINI_HIDDEN, MINI_MLP, "model.layers.%d.mlp.gate_proj.weight", layer);
	linear(m, k, h, n, MINI_HIDDEN, MINI_MLP, "model.layers.%d.mlp.up_proj.weight", layer);
	for (int i = 0; i < n * MINI_MLP; i++)
		q[i] = q[i] / (1 + expf(-q[i])) * k[i];
	linear(m, h, q, n, MINI_MLP, MINI_HIDDEN, "model.layers.%d.mlp.down_proj.weight", layer);
	add(x, h, n * MINI_HIDDEN);
}

int mini_llama_logits(tn_context *ctx, const tn_checkpoint *model, const int *ids, int count, float *logits)
{
	struct model m = { ctx, model, 0 };
	float *x = malloc((size_t)count * MINI_HIDDEN * sizeof *x), *scratch = malloc((size_t)count * MINI_MLP * 5 * sizeof *x);
	float *table = load(&m, "model.embed_tokens.weight", 0);
	for (int t = 0; t < count; t++)
		for (int i = 0; i < MINI_HIDDEN; i++)
			x[t * MINI_HIDDEN + i] = table[ids[t] * MINI_HIDDEN + i];
	free(table);
	for (int layer = 0; layer < MINI_LAYERS; layer++)
		layer_forward(&m, x, count, layer, scratch);
	rms_norm(&m, scratch, x, count, "model.norm.weight", 0);
	linear(&m, logits, scratch, count, MINI_HIDDEN, MINI_VOCAB, "model.embed_tokens.weight", 0); /* tied head */
	free(scratch);
	free(x);
	return !m.missing;
}
