/* An open checkpoint from inside, and which files of a model folder are what. */
#ifndef TN_STORE_CHECKPOINT_H
#define TN_STORE_CHECKPOINT_H

#include "base/arena.h"
#include "base/file.h"
#include "tenon/checkpoint.h"

#include <jansson.h>

struct tn_checkpoint {
	tn_context *ctx;
	struct tn_arena arena;             /* holds this struct too */
	const char *path;
	int is_folder, has_index;
	int is_consumed;                   /* shards may have been cut to their headers: store/consume.h */
	tn_safetensors **shards;
	const char **shard_names;
	size_t shard_count;
	int folder;                        /* of shards at rest, else -1 */
	const struct tn_tensor **by_name;
	size_t count;
	uint64_t tensor_bytes;
	const char *config;                /* text of config.json, or NULL */
};

/* config.json as a document; errors name it with its folder. TN_E_NOTFOUND: there is none. The caller calls json_decref. */
tn_status tn_checkpoint_parse_config(const tn_checkpoint *c, json_t **out, struct tn_error *err);

/* Whether that document ties the head to the input embedding. What the language model's own section (text_config) says wins over
 * what the whole says, as for the decoder. NULL, or neither says it: 0. */
int tn_config_ties(const json_t *config);

#define TN_INDEX_NAME "model.safetensors.index.json"

/* What a name in a model folder stands for, for copying and for replacing. */
typedef enum tn_file_role {
	TN_ROLE_WEIGHTS,     /* *.safetensors and its index */
	TN_ROLE_CONFIG,      /* config.json */
	TN_ROLE_SIDECAR,     /* tokenizer, chat template, generation config, code, licence: travels with the model */
	TN_ROLE_ADAPTER,     /* files of an adapter */
	TN_ROLE_DOCUMENT,    /* README.md and other pages about the model that stood there */
	TN_ROLE_OTHER_WEIGHTS, /* the same model in another format: .bin, .gguf, ... */
	TN_ROLE_UNKNOWN
} tn_file_role;
tn_file_role tn_file_role_of(const char *name);

/* For a path that is not there: what to do when it is the name of a repository on the Hugging Face Hub, as mlx-lm and PEFT take
 * these; "" when it cannot be one. */
const char *tn_hub_hint(const char *path);

/* The one subfolder that travels with a model: further chat templates (transformers 4.53, tokenization_utils_base.py). */
#define TN_TEMPLATES_FOLDER "additional_chat_templates"

#endif
