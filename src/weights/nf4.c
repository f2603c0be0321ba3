/* SPDX-License-Identifier: Apache-2.0 */
/* NF4 as kizzasi's QLoRA stores it (src/lora.rs, QLoraLinear::from_weight). */
#include "weights/nf4.h"

#include "tenon/foreign.h"

#include "base/checked.h"
#include "base/context.h"
#include "base/error.h"

#include <math.h>
#include <string.h>

/* bitsandbytes 0.50, functional.py; every decimal is exactly a float32. */
const float tn_nf4_levels[16] = {
	-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
	-0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
	0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};

float tn_nf4_level(unsigned code)
{
	return tn_nf4_levels[code & 15u];
}

static unsigned nearest(float x)
{
	unsigned best = 0;
	float least = INFINITY;
	for (unsigned code = 0; code < 16; code++) {
		float distance = fabsf(x - tn_nf4_levels[code]);
		if (distance < least) {
			least = distance;
			best = code;
		}
	}
	return best;
}

static void encode_group(const float *values, uint64_t first, uint64_t end, unsigned char *codes, float *scale)
{
	float largest = 1e-10f; /* a group of zeros must not divide by 0 */
	for (uint64_t i = first; i < end; i++)
		if (fabsf(values[i]) > largest)
			largest = fabsf(values[i]);
	for (uint64_t i = first; i < end; i++) {
		float x = values[i] / largest;
		x = x < -1 ? -1 : x > 1 ? 1 : x;
		codes[i / 2] = (unsigned char)(codes[i / 2] | nearest(x) << (i % 2 ? 4 : 0));
	}
	*scale = largest;
}

tn_status tn_nf4_encode(tn_context *ctx, const float *values, uint64_t n, uint64_t group_size, struct tn_nf4 *out,
			struct tn_error *err)
{
	struct tn_nf4 made = { .n = n, .group_size = group_size };
	if (n == 0 || group_size == 0)
		return tn_fail(err, TN_E_ARG, "group_size", "there are %llu values in groups of %llu; both must be above 0",
			       (unsigned long long)n, (unsigned long long)group_size);
	uint64_t groups = tn_ceil_div(n, group_size);
	TN_TRY(tn_buffer_alloc(ctx, (size_t)tn_ceil_div(n, 2), "NF4 codes", &made.codes, err));
	tn_status status = tn_buffer_alloc(ctx, (size_t)groups * sizeof(float), "NF4 scales", &made.scales, err);
	if (status != TN_OK) {
		tn_nf4_release(ctx, &made);
		return status;
	}
	memset(made.codes.data, 0, made.codes.bytes);
	for (uint64_t g = 0; g < groups; g++)
		encode_group(values, g * group_size, tn_min_u64(n, (g + 1) * group_size), made.codes.data,
			     (float *)made.scales.data + g);
	*out = made;
	return TN_OK;
}

void tn_nf4_decode_some(const struct tn_nf4 *nf4, uint64_t first, uint64_t n, float *dst)
{
	const unsigned char *codes = nf4->codes.data;
	const float *scales = nf4->scales.data;
	for (uint64_t i = first; i < first + n; i++)
		*dst++ = tn_nf4_levels[codes[i / 2] >> (i % 2 ? 4 : 0) & 15] * scales[i / nf4->group_size];
}

void tn_nf4_decode(const struct tn_nf4 *nf4, float *dst)
{
	tn_nf4_decode_some(nf4, 0, nf4->n, dst);
}

uint64_t tn_nf4_saved_bytes(const struct tn_nf4 *nf4)
{
	uint64_t dense = nf4->n * sizeof(float), packed = nf4->codes.bytes + 2 * nf4->scales.bytes;
	return dense > packed ? dense - packed : 0;
}

void tn_nf4_release(tn_context *ctx, struct tn_nf4 *nf4)
{
	tn_buffer_release(ctx, &nf4->codes);
	tn_buffer_release(ctx, &nf4->scales);
}
