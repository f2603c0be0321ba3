/* What a job read and wrote, by content: the part of its receipt that can be checked. */
#ifndef TN_TRANSFORM_OUTCOME_H
#define TN_TRANSFORM_OUTCOME_H

#include "store/json_out.h"
#include "transform/content.h"

struct tn_outcome_file {
	const char *name;
	uint64_t bytes;
	struct tn_digest digest;
};

struct tn_outcome {
	const char *output;                  /* the folder, as given */
	struct tn_digest base, result;
	struct tn_digest dense;              /* of the dense base, where there is one */
	int has_dense;
	struct tn_digest *tensors;           /* of the result's, in the order of names */
	struct tn_outcome_file *files;       /* beside the weights */
	size_t file_count;
	struct tn_outcome_file *headers;     /* of the files of weights, in their order */
	size_t header_count;
};

/* Hashes `result`, which lies in the folder `output`; all but the bases is filled then. Memory is the arena's. */
tn_status tn_outcome_read(tn_context *ctx, struct tn_arena *arena, const tn_checkpoint *result, const char *output,
			  struct tn_outcome *out, struct tn_error *err);

/* The keys output, base_sha256, dense_base_sha256, output_sha256, files and headers. */
void tn_outcome_json(struct tn_json_out *out, const struct tn_outcome *outcome);
void tn_digest_json(struct tn_json_out *out, const char *key, const struct tn_digest *digest);

#endif
