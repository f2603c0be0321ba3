/* What the tests of fuse share: jobs in one call, tensors as numbers, small models made up. Everything fails the test that
 * calls it. */
#ifndef FUSELIB_H
#define FUSELIB_H

#include "testlib.h"

#include "tenon/tenon.h"

/* A fuse of up to two adapters ("" or NULL: one) into `out`; the options' weights count. The receipt's survivals, by the order
 * of names, go to *survival (may be NULL) up to `room`; returns how many there were. */
struct fuse_job {
	const char *base, *adapter, *second, *out;
	double second_weight;
	struct tn_fuse_options options;
};
#define FUSE_JOB(...) { __VA_ARGS__, .options = TN_FUSE_OPTIONS_INIT }
size_t fuse_run(struct tt *t, tn_context *ctx, const struct fuse_job *job, struct tn_survival *survival, size_t room);
/* The same, expected to fail with that code and a message that holds the text. */
void fuse_refused(struct tt *t, const struct fuse_job *job, tn_status code, const char *text);

/* What verify says of a tensor of `merged`, which FOLDER/base and FOLDER/adapter became with those options (NULL: the usual); name
 * NULL: none. *ok: of everything. */
tn_verdict fuse_verdict(struct tt *t, const char *folder, const struct tn_fuse_options *options, const char *merged, const char *name,
			int *ok);

/* An adapter out of two folders; of `options` the rank is set. */
struct fuse_extraction {
	const char *base, *tuned;
	tn_adapter_dialect dialect;
	struct tn_extract_options options;
};
struct fuse_extraction fuse_extraction_of(const char *base, const char *tuned, tn_adapter_dialect dialect, uint64_t rank);
tn_status fuse_try_extract(tn_context *ctx, const struct fuse_extraction *job, tn_draft **out, struct tn_error *err);
tn_draft *fuse_extract(struct tt *t, const struct fuse_extraction *job);

/* Any tensor of a model folder as doubles; of a quantized layer its exact values. The caller frees them. */
double *fuse_values(struct tt *t, const char *folder, const char *name, size_t *count);
/* A tensor of one file as doubles. */
double *fuse_file_values(struct tt *t, const char *file, const char *name, size_t *count);

/* One F32 tensor of a file to be written. */
struct fuse_tensor {
	const char *name;
	uint64_t rows, cols;   /* rows 0: one dimension */
	const float *values;
};
void fuse_write_tensors(struct tt *t, const char *path, const struct fuse_tensor *tensors, size_t count);
/* The same with three dimensions each, [depth, rows, cols]. */
void fuse_write_stacks(struct tt *t, const char *path, const struct fuse_tensor *tensors, size_t count, uint64_t depth);
/* A model folder of those tensors in `dtype`. */
void fuse_write_model(struct tt *t, const char *folder, const struct fuse_tensor *tensors, size_t count, tn_dtype dtype);
/* An mlx-lm adapter for layers.0.mlp.up_proj: a [in, rank], b [rank, out]. */
void fuse_write_adapter(struct tt *t, const char *folder, const float *a, const float *b, uint64_t in, uint64_t rank,
			uint64_t out, double scale);

/* A normal number. */
float fuse_normal(uint64_t *state);

#endif
