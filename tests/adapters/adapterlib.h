/* What the adapter tests share: a folder of their own, safetensors files and folders from a few words, the cases. */
#ifndef TENON_ADAPTERLIB_H
#define TENON_ADAPTERLIB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tenon/tenon.h"

#include <jansson.h>

struct al {
	char folder[64];
	tn_context *ctx;
	struct tn_error err;
	size_t warnings;       /* logged since the beginning of the test */
	char paths[8][512];
	unsigned next_path;
};
int al_setup(void **state);
int al_teardown(void **state);
#define AL_TEST(function) cmocka_unit_test_setup_teardown(function, al_setup, al_teardown)

const char *al_path(struct al *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void al_expect_(struct al *t, tn_status got, tn_status expected, const char *call, const char *file, int line);
#define al_expect(t, call, expected) al_expect_(t, (al_no_error(t), call), expected, #call, __FILE__, __LINE__)
void al_no_error(struct al *t);
#define al_ok(t, call) al_expect(t, call, TN_OK)
/* The last error names it, in `where` or in its message. */
void al_expect_named(const struct al *t, const char *text);

void al_write_text(const char *path, const char *text);

/* A safetensors file of float32 tensors; without values they are 1, 2, 3, ... over 16. */
struct al_tensor {
	const char *name;
	uint64_t shape[4];
	unsigned rank;
	const float *values;
};
void al_write_st(const char *path, const struct al_tensor *tensors, size_t count);

/* A model folder: config.json and model.safetensors. */
void al_write_base(const char *folder, const char *config, const struct al_tensor *tensors, size_t count);
/* An adapter folder; `file` is adapter_model.safetensors or adapters.safetensors. */
void al_write_adapter(const char *folder, const char *config, const char *file, const struct al_tensor *tensors,
		      size_t count);

/* The seed's toy: four blocks with q_proj and (block 0) k_proj, all [2, 3], and lm_head; config.json of a llama. */
void al_write_toy(const char *folder);
/* Factors of rank r for q_proj of the blocks first..last of the toy, in either dialect. */
void al_write_toy_adapter(const char *folder, const char *config, int peft, unsigned rank, unsigned first, unsigned last);

/* Plans, runs and opens the result. */
tn_status al_fuse(struct al *t, const char *base, const char *adapter, const char *out);
/* The adapter in another dialect, saved. */
tn_status al_convert(struct al *t, const char *base, const char *adapter, tn_adapter_dialect dialect, const char *out);
/* Converted to either dialect it gives this tensor of the fused model these values. */
void al_expect_converted(struct al *t, const char *base, const char *adapter, const char *name, const double *values, size_t count);
/* A tensor of a file as doubles, whatever its float dtype; the caller frees it. NULL when there is none. */
double *al_load(struct al *t, const tn_checkpoint *c, const char *name, const struct tn_tensor **tensor);
json_t *al_json(const char *path);

#endif
