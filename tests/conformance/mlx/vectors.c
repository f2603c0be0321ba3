/* SPDX-License-Identifier: Apache-2.0 */
#include "vectors.h"

#include "base/half.h"
#include "base/sha256.h"

#include <stdio.h>
#include <stdlib.h>

tn_context *test_context(void)
{
	static tn_context *ctx;
	if (!ctx)
		assert_int_equal(tn_context_create(NULL, &ctx, NULL), TN_OK);
	return ctx;
}

tn_safetensors *vectors_open(const char *folder, const char *name)
{
	char path[1024];
	struct tn_error err;
	tn_safetensors *file = NULL;
	snprintf(path, sizeof path, "%s/%s/%s", TN_TEST_VECTORS, folder, name);
	if (tn_safetensors_open(test_context(), path, &file, &err) != TN_OK)
		fail_msg("%s", err.msg);
	return file;
}

int vector_load(const tn_safetensors *file, const char *name, struct vector *out)
{
	struct tn_error err;
	*out = (struct vector){ .tensor = tn_safetensors_find(file, name) };
	if (!out->tensor)
		return 0;
	if (tn_safetensors_load(file, name, &out->bytes, NULL, &err) != TN_OK)
		fail_msg("%s", err.msg);
	return 1;
}

void vector_release(struct vector *v)
{
	tn_buffer_release(test_context(), &v->bytes);
}

float *vector_floats(const struct vector *v)
{
	size_t n = (size_t)v->tensor->elements;
	float *out = malloc((n ? n : 1) * sizeof *out);
	assert_non_null(out);
	for (size_t i = 0; i < n; i++) {
		switch (v->tensor->dtype) {
		case TN_F32: out[i] = ((const float *)v->bytes.data)[i]; break;
		case TN_F64: out[i] = (float)((const double *)v->bytes.data)[i]; break;
		case TN_F16: out[i] = tn_f32_from_f16(((const uint16_t *)v->bytes.data)[i]); break;
		case TN_BF16: out[i] = tn_f32_from_bf16(((const uint16_t *)v->bytes.data)[i]); break;
		case TN_I32: out[i] = (float)((const int32_t *)v->bytes.data)[i]; break;
		case TN_U32: out[i] = (float)((const uint32_t *)v->bytes.data)[i]; break;
		default: fail_msg("no floats in %s", v->tensor->name);
		}
	}
	return out;
}

static enum tn_codec_id codec_of(const char *mode)
{
	const struct tn_kernels *k = tn_kernels_for("portable");
	for (int i = 0; i < TN_CODEC_COUNT; i++)
		if (strcmp(k->codec[i]->name, mode) == 0)
			return (enum tn_codec_id)i;
	fail_msg("no codec is called %s", mode);
	return TN_CODEC_dense;
}

struct tn_format vectors_format(const char *name, const char **kind)
{
	static char rest[64];
	char copy[128];
	char mode[16], dtype[8];
	unsigned bits, group;
	rest[0] = '\0';
	snprintf(copy, sizeof copy, "%s", name);
	char *ending = strstr(copy, ".safetensors");
	if (ending)
		*ending = '\0';
	int fields = sscanf(copy, "%15[a-z0-9]_b%u_g%u_%7[a-z0-9]%63s", mode, &bits, &group, dtype, rest);
	if (fields < 4)
		fail_msg("%s: not a name of a vector file", name);
	*kind = rest;
	struct tn_format f = { .codec = codec_of(mode), .bits = (uint8_t)bits, .group = (uint16_t)group };
	f.dtype = strcmp(dtype, "f32") == 0 ? TN_F32 : strcmp(dtype, "f16") == 0 ? TN_F16 : TN_BF16;
	return f;
}

int same_float(float a, float b)
{
	return (a != a && b != b) || tn_f32_bits(a) == tn_f32_bits(b);
}

void sha256_hex(const void *data, size_t n, char hex[65])
{
	struct tn_sha256 h;
	unsigned char digest[32];
	tn_sha256_init(&h);
	tn_sha256_add(&h, data, n);
	tn_sha256_finish(&h, digest);
	for (size_t i = 0; i < sizeof digest; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}
