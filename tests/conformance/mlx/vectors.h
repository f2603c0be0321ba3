/* Reading the vectors that a running MLX made (conformance/mlx). Everything fails the test that calls it. */
#ifndef TN_TEST_VECTORS_H
#define TN_TEST_VECTORS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "tenon/checkpoint.h"

struct vector {
	const struct tn_tensor *tensor;
	struct tn_buffer bytes;
};

tn_context *test_context(void);

/* Opens <vectors>/<folder>/<name>. */
tn_safetensors *vectors_open(const char *folder, const char *name);
/* 1 and the tensor, or 0 when the file has none of that name. */
int vector_load(const tn_safetensors *file, const char *name, struct vector *out);
void vector_release(struct vector *v);
/* Elements as float32 (F64 is rounded, I32 and U32 converted); released with free. */
float *vector_floats(const struct vector *v);

/* "affine_b4_g64_bf16_3d.safetensors" -> the format of that name; *kind gets what follows the dtype, or "". */
struct tn_format vectors_format(const char *name, const char **kind);

/* SHA-256 as hex digits, as the manifests have it. */
void sha256_hex(const void *data, size_t n, char hex[65]);

/* 1 when both are NaN, or have the same bits. */
int same_float(float a, float b);

#endif
