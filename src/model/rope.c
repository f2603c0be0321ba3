/* SPDX-License-Identifier: Apache-2.0 */
/* Frequencies as modeling_rope_utils.py of transformers 5.23 has them, each step rounded to float32 as there. */
#include "model/decoder.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

/* theta^(2 i / dims), which torch computes in float32. */
static float wave(double theta, uint64_t i, uint64_t dims)
{
	return (float)pow((double)(float)theta, (double)((float)(2 * i) / (float)dims));
}

static void usual(float *inverse, const struct tn_rope *r, double theta, uint64_t pairs)
{
	for (uint64_t i = 0; i < pairs; i++)
		inverse[i] = 1.0f / wave(theta, i, r->dims);
}

static void llama3(float *inverse, const struct tn_rope *r, uint64_t pairs)
{
	const double low = (double)r->original / r->low_freq_factor, high = (double)r->original / r->high_freq_factor;
	for (uint64_t i = 0; i < pairs; i++) {
		float f = inverse[i], length = (float)(2 * pi) / f, scaled = f / (float)r->factor;
		float smooth = ((float)r->original / length - (float)r->low_freq_factor) /
			       (float)(r->high_freq_factor - r->low_freq_factor);
		if ((double)length > low)
			inverse[i] = scaled;
		else if (!((double)length < high))
			inverse[i] = (1 - smooth) * f / (float)r->factor + smooth * f;
	}
}

/* The pair that makes `turns` turns over the original length. */
static double pair_of(const struct tn_rope *r, double turns)
{
	return (double)r->dims * log((double)r->original / (turns * 2 * pi)) / (2 * log(r->theta));
}

static void yarn(float *inverse, const struct tn_rope *r, uint64_t pairs)
{
	double low = pair_of(r, r->beta_fast), high = pair_of(r, r->beta_slow);
	if (r->truncate) {
		low = floor(low);
		high = ceil(high);
	}
	low = fmax(low, 0);
	high = fmin(high, (double)r->dims - 1);
	high += low == high ? 0.001 : 0;
	for (uint64_t i = 0; i < pairs; i++) {
		float length = wave(r->theta, i, r->dims);
		float ramp = ((float)i - (float)low) / (float)(high - low);
		float keep = 1 - fminf(fmaxf(ramp, 0), 1);
		inverse[i] = 1.0f / ((float)r->factor * length) * (1 - keep) + 1.0f / length * keep;
	}
}

static void longrope(float *inverse, const struct tn_rope *r, const double *factors, uint64_t pairs)
{
	for (uint64_t i = 0; i < pairs; i++)
		inverse[i] = 1.0f / ((float)factors[i] * wave(r->theta, i, r->dims));
}

static void dynamic(float *inverse, const struct tn_rope *r, uint64_t length, uint64_t pairs)
{
	const double dims = (double)r->dims;
	double grown = (double)((float)(r->factor * (double)length) / (float)r->trained) - (r->factor - 1);
	usual(inverse, r, r->theta * pow(grown, dims / (dims - 2)), pairs);
}

static void fill(const struct tn_rope *r, uint64_t pairs, float *inverse, float *longer)
{
	usual(inverse, r, r->theta, pairs);
	switch (r->kind) {
	case TN_ROPE_LINEAR:
		for (uint64_t i = 0; i < pairs; i++)
			inverse[i] /= (float)r->factor;
		break;
	case TN_ROPE_LLAMA3: llama3(inverse, r, pairs); break;
	case TN_ROPE_YARN: yarn(inverse, r, pairs); break;
	case TN_ROPE_LONG:
		longrope(inverse, r, r->short_factor, pairs);
		longrope(longer, r, r->long_factor, pairs);
		break;
	default: break;
	}
}

tn_status tn_rope_prepare(tn_decoder *d, struct tn_error *err)
{
	for (unsigned r = 0; r < d->config.ropes; r++) {
		const struct tn_rope *rope = &d->config.rope[r];
		d->pairs[r] = (rope->dims + 1) / 2;
		d->rope_scale[r] = (float)rope->attention_factor;
		for (int i = 0; i < 2; i++)
			TN_TRY(tn_arena_array(&d->arena, d->pairs[r], sizeof(float), &d->inverse[r][i], err));
		fill(rope, d->pairs[r], d->inverse[r][0], d->inverse[r][1]);
	}
	return TN_OK;
}

/* A dynamic rope only grows with a text, to the longest that was seen, and starts again for one within the trained length. */
static void extend_dynamic(const tn_decoder *d, struct tn_kv *kv, unsigned r, size_t length)
{
	const struct tn_rope *rope = &d->config.rope[r];
	uint64_t seen = kv->longest[r] ? kv->longest[r] : rope->trained;
	kv->longest[r] = seen;
	if (length > seen) {
		dynamic(kv->own[r], rope, length, d->pairs[r]);
		kv->inverse[r] = kv->own[r];
		kv->longest[r] = length;
	} else if (length < rope->trained && seen > rope->trained) {
		kv->inverse[r] = d->inverse[r][0];
		kv->longest[r] = rope->trained;
	}
}

size_t tn_rope_extend(const tn_decoder *d, struct tn_kv *kv, size_t length)
{
	size_t kept = kv->length;
	for (unsigned r = 0; r < d->config.ropes; r++) {
		const struct tn_rope *rope = &d->config.rope[r];
		if (!kv->inverse[r])
			kv->inverse[r] = d->inverse[r][0];
		if (rope->kind == TN_ROPE_DYNAMIC)
			extend_dynamic(d, kv, r, length);
		if (rope->kind != TN_ROPE_LONG)
			continue;
		kv->inverse[r] = d->inverse[r][length > rope->original];
		if ((d->config.architecture->traits & TN_LONGROPE_RESTARTS) && length > rope->original && kept <= rope->original)
			kept = 0;
	}
	return kept;
}

void tn_rope_rows(const tn_decoder *d, struct tn_batch *b)
{
	for (unsigned r = 0; r < d->config.ropes; r++)
		for (size_t t = 0; t < b->m; t++) {
			const float *inverse = b->sequence[t]->kv->inverse[r];
			float *c = b->cosine[r] + t * d->pairs[r], *s = b->sine[r] + t * d->pairs[r];
			for (uint64_t i = 0; i < d->pairs[r]; i++) {
				float angle = (float)b->position[t] * inverse[i];
				c[i] = cosf(angle) * d->rope_scale[r];
				s[i] = sinf(angle) * d->rope_scale[r];
			}
		}
}

void tn_rope_turn(const tn_decoder *d, const struct tn_batch *b, unsigned rope, float *x, size_t stride, uint64_t heads,
		  struct tn_row_range rows)
{
	const uint64_t pairs = d->pairs[rope];
	for (size_t t = rows.first; t < rows.end; t++) {
		const float *c = b->cosine[rope] + t * pairs, *s = b->sine[rope] + t * pairs;
		for (uint64_t h = 0; h < heads; h++) {
			float *low = x + t * stride + h * d->config.head_dim, *high = low + pairs;
			for (uint64_t i = 0; i < pairs; i++) {
				float u = low[i], v = high[i];
				low[i] = u * c[i] - v * s[i];
				high[i] = v * c[i] + u * s[i];
			}
		}
	}
}
