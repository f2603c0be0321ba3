/* What the tests of layers share: a context, arrays of a few words, layers on them. */
#ifndef TENON_LAYERLIB_H
#define TENON_LAYERLIB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tenon/layer.h"

struct lay {
	tn_context *ctx;
	struct tn_error err;
	void *memory[64];
	size_t count;
};

int ly_setup(void **state);
int ly_teardown(void **state);
#define LY_TEST(name) cmocka_unit_test_setup_teardown(name, ly_setup, ly_teardown)

void ly_expect(struct lay *t, tn_status got, tn_status wanted, const char *call);
#define OK(call) ly_expect(t, call, TN_OK, #call)
#define FAILS(call, status) ly_expect(t, call, status, #call)

/* Elements as doubles, rounded to the dtype. */
void ly_store(struct tn_array *a, uint64_t i, double x);
double ly_load(const struct tn_array *a, uint64_t i);
uint64_t ly_elements(const struct tn_array *a);

/* Arrays that are freed with the test, or by ly_forget. Sizes of 0 end the shape. Zeros; given values; numbers in [-1, 1) that
 * look random. */
struct tn_array ly_make(struct lay *t, tn_dtype dtype, uint64_t d0, uint64_t d1, uint64_t d2);
struct tn_array ly_filled(struct lay *t, tn_dtype dtype, uint64_t d0, uint64_t d1, const double *values);
struct tn_array ly_noise(struct lay *t, tn_dtype dtype, uint64_t d0, uint64_t d1, uint64_t d2, unsigned seed);
void ly_forget(struct lay *t);

/* Compares and releases. */
void ly_expect_values(struct lay *t, struct tn_array *y, const double *values, double tolerance);

struct tn_layer_options ly_with(uint64_t rank, double alpha);
tn_layer *ly_layer_on(struct lay *t, const struct tn_linear_weight *w, uint64_t rank, double alpha);

#endif
