/* What tensors, files and whole checkpoints hold, as SHA-256. */
#ifndef TN_CONTENT_H
#define TN_CONTENT_H

#include "base/arena.h"
#include "base/sha256.h"
#include "tenon/checkpoint.h"

enum { TN_DIGEST_BYTES = 32, TN_DIGEST_TEXT = 2 * TN_DIGEST_BYTES + 1 };

struct tn_digest {
	unsigned char bytes[TN_DIGEST_BYTES];
};

/* In lower-case hexadecimal digits. */
void tn_digest_text(const struct tn_digest *digest, char text[TN_DIGEST_TEXT]);
/* 1 when the text is a digest. */
int tn_digest_parse(const char *text, struct tn_digest *digest);

/* The digest of the bytes of each tensor, by all threads of the context; a tensor that is NULL is passed over. */
tn_status tn_content_tensors(tn_context *ctx, const tn_checkpoint *checkpoint, const struct tn_tensor *const *tensors,
			     size_t count, struct tn_digest *digests, struct tn_error *err);

/* One digest for a checkpoint: of the names, dtypes, shapes and digests of all its tensors in the order of names. */
void tn_content_sum(const tn_checkpoint *checkpoint, const struct tn_digest *digests, struct tn_digest *sum);

/* Both for every tensor of the checkpoint. */
tn_status tn_content_checkpoint(tn_context *ctx, const tn_checkpoint *checkpoint, struct tn_digest *sum,
				struct tn_error *err);

/* The files beside the weights that a receipt speaks of: those by which programs read the model, the index among them, those
 * of the folder of templates as "additional_chat_templates/name". */
tn_status tn_content_files(const char *folder, struct tn_arena *arena, const char ***names, size_t *count, struct tn_error *err);
/* 1 for a name that can be one of them: it leads nowhere else. */
int tn_content_is_name(const char *name);
tn_status tn_content_file(tn_context *ctx, const char *path, struct tn_digest *digest, uint64_t *bytes,
			  struct tn_error *err);
/* The header of a file of weights: its metadata, and where its tensors are. */
tn_status tn_content_header(tn_context *ctx, const tn_checkpoint *checkpoint, size_t shard, struct tn_digest *digest,
			    uint64_t *bytes, struct tn_error *err);

#endif
