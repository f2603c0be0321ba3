/* SPDX-License-Identifier: Apache-2.0 */
#include "layerlib.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int ly_setup(void **state)
{
	struct lay *t = calloc(1, sizeof *t);
	struct tn_options options = TN_OPTIONS_INIT;
	options.threads = 2;
	assert_int_equal(tn_context_create(&options, &t->ctx, NULL), TN_OK);
	*state = t;
	return 0;
}

int ly_teardown(void **state)
{
	struct lay *t = *state;
	ly_forget(t);
	tn_context_destroy(t->ctx);
	free(t);
	return 0;
}

void ly_expect(struct lay *t, tn_status got, tn_status wanted, const char *call)
{
	if (got != wanted)
		fail_msg("%s gave %s: %s", call, tn_status_name(got), got ? t->err.msg : "");
}
void ly_store(struct tn_array *a, uint64_t i, double x)
{
	uint16_t h = a->dtype == TN_F16 ? tn_f16_from_f32((float)x) : tn_bf16_from_f32((float)x);
	if (a->dtype == TN_F32)
		((float *)a->data)[i] = (float)x;
	else
		memcpy((char *)a->data + 2 * i, &h, 2);
}

double ly_load(const struct tn_array *a, uint64_t i)
{
	uint16_t h;
	if (a->dtype == TN_F32)
		return (double)((const float *)a->data)[i];
	memcpy(&h, (const char *)a->data + 2 * i, 2);
	return (double)(a->dtype == TN_F16 ? tn_f32_from_f16(h) : tn_f32_from_bf16(h));
}

uint64_t ly_elements(const struct tn_array *a)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < a->rank; i++)
		n *= a->shape[i];
	return n;
}

struct tn_array ly_make(struct lay *t, tn_dtype dtype, uint64_t d0, uint64_t d1, uint64_t d2)
{
	struct tn_array a = { .dtype = dtype, .shape = { d0, d1, d2 }, .rank = d2 ? 3 : d1 ? 2 : 1 };
	a.bytes = (size_t)ly_elements(&a) * tn_dtype_bits(dtype) / 8;
	a.data = calloc(1, a.bytes + 64);
	assert_true(t->count < 64);
	t->memory[t->count++] = a.data;
	return a;
}

struct tn_array ly_filled(struct lay *t, tn_dtype dtype, uint64_t d0, uint64_t d1, const double *values)
{
	struct tn_array a = ly_make(t, dtype, d0, d1, 0);
	for (uint64_t i = 0; i < ly_elements(&a); i++)
		ly_store(&a, i, values[i]);
	return a;
}

struct tn_array ly_noise(struct lay *t, tn_dtype dtype, uint64_t d0, uint64_t d1, uint64_t d2, unsigned seed)
{
	struct tn_array a = ly_make(t, dtype, d0, d1, d2);
	uint32_t x = seed * 2654435761u + 12345;
	for (uint64_t i = 0; i < ly_elements(&a); i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		ly_store(&a, i, (double)x / 2147483648.0 - 1);
	}
	return a;
}

void ly_expect_values(struct lay *t, struct tn_array *y, const double *values, double tolerance)
{
	for (uint64_t i = 0; i < ly_elements(y); i++)
		if (fabs(ly_load(y, i) - values[i]) > tolerance)
			fail_msg("element %llu is %g, %g was expected", (unsigned long long)i, ly_load(y, i), values[i]);
	tn_array_release(t->ctx, y);
}

struct tn_layer_options ly_with(uint64_t rank, double alpha)
{
	struct tn_layer_options o = TN_LAYER_OPTIONS_INIT;
	o.rank = rank;
	o.alpha = alpha;
	return o;
}

tn_layer *ly_layer_on(struct lay *t, const struct tn_linear_weight *w, uint64_t rank, double alpha)
{
	struct tn_layer_options o = ly_with(rank, alpha);
	tn_layer *l;
	OK(tn_layer_create(t->ctx, w, &o, &l, &t->err));
	return l;
}

void ly_forget(struct lay *t)
{
	while (t->count)
		free(t->memory[--t->count]);
}
