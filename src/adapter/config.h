/* adapter_config.json in one form for every dialect. */
#ifndef TN_ADAPTER_CONFIG_H
#define TN_ADAPTER_CONFIG_H

#include "base/arena.h"
#include "base/regex.h"
#include "tenon/adapter.h"

#include <jansson.h>

typedef enum tn_method { TN_METHOD_LORA, TN_METHOD_DORA, TN_METHOD_FULL } tn_method;

/* What the training run did to the base before it began. */
typedef enum tn_base_change {
	TN_BASE_AS_IS,
	TN_BASE_PISSA,     /* the r largest singular triplets taken out */
	TN_BASE_OLORA,     /* the projection on the first r columns taken out */
	TN_BASE_KASA       /* the r smallest singular triplets taken out */
} tn_base_change;

/* Names of modules: a list of endings, or one pattern. */
struct tn_name_rule {
	enum { TN_RULE_ABSENT, TN_RULE_LIST, TN_RULE_REGEX, TN_RULE_ALL_LINEAR } kind;
	const char **names;
	size_t count;
	struct tn_regex *regex;
	const char *text;       /* of the pattern, or of PEFT's default; NULL: a list from a file */
};

/* rank_pattern and alpha_pattern, in the order of the file. */
struct tn_pattern {
	const char *key;
	struct tn_regex *regex; /* NULL: not a regular expression; then it counts as a plain name */
	double value;
};
struct tn_patterns {
	struct tn_pattern *items;
	size_t count;
};

struct tn_layer_range {
	uint64_t begin, end;
};

/* Token rows of one module; module is NULL for the input embedding. */
struct tn_token_rule {
	const char *module;
	uint64_t *indices;
	size_t count;
};

enum { TN_ALL_LAYERS = -1 };

struct tn_adapter_config {
	tn_adapter_dialect dialect;
	tn_method method;
	uint64_t rank;
	double alpha;                    /* mlx-lm: that of the file, else scale * rank */
	double dropout;                  /* of the training */
	/* mlx-lm */
	double scale;
	int64_t num_layers;              /* the last so many layers; TN_ALL_LAYERS */
	int has_keys;
	struct tn_name_rule keys;
	/* PEFT */
	int use_rslora, lora_bias, fan_in_fan_out, tie_on_purpose;
	tn_base_change base_change;
	uint64_t adalora_rank;        /* AdaLoRA: the rank before it was pruned, by which alpha is divided; 0: it is none */
	uint64_t qalora_group;           /* 0: off */
	uint64_t bd_blocks;              /* 0: off */
	int bd_strict;
	struct tn_name_rule bd_a, bd_b;  /* parts of names */
	struct tn_patterns ranks, alphas;
	struct tn_name_rule target, exclude, saved, parameters;
	struct tn_regex **saved_regexes; /* of `saved`, as PEFT uses its entries */
	int has_layers;
	int64_t *layers;
	size_t layer_count;
	struct tn_name_rule layers_pattern;
	struct tn_regex **layer_patterns;
	size_t layer_pattern_count;
	struct tn_layer_range *replication;
	size_t replication_count;
	struct tn_token_rule *tokens;
	size_t token_count;
	/* GGUF */
	const char *architecture;
	const char *bias;                /* "none", "all", "lora_only" */
	const char *task_type;           /* may be NULL */
	const char *base_name;           /* what it calls its base; may be NULL */
	const char *version;             /* of PEFT; may be NULL */
};

/* Reads and normalises adapter_config.json of the folder `path`. Memory is the arena's; patterns are freed with
 * tn_adapter_config_release, also after a failure. */
tn_status tn_adapter_config_load(struct tn_arena *arena, const char *path, struct tn_adapter_config *out,
				 struct tn_error *err);
/* The same from a text that `where` names. */
tn_status tn_adapter_config_parse(struct tn_arena *arena, const char *text, size_t bytes, const char *where,
				  struct tn_adapter_config *out, struct tn_error *err);
void tn_adapter_config_release(struct tn_adapter_config *config);

/* ---- for the files that read one dialect each ------------------------------------------------------------ */

struct tn_config_reader {
	struct tn_arena *arena;
	const json_t *root;
	const char *where;
};

/* null, false, "", [] and {} switch nothing on. */
int tn_config_is_active(const json_t *value);
/* Each of these treats an absent key and null alike, and says what else it found. */
tn_status tn_config_number(const struct tn_config_reader *r, const json_t *object, const char *key, double fallback,
			   double *out, struct tn_error *err);
tn_status tn_config_flag(const struct tn_config_reader *r, const json_t *object, const char *key, int *out,
			 struct tn_error *err);
tn_status tn_config_rank(const struct tn_config_reader *r, const json_t *object, const char *key, uint64_t *out,
			 struct tn_error *err);
tn_status tn_config_text(const struct tn_config_reader *r, const char *key, const char **out, struct tn_error *err);
/* A list of strings; TN_RULE_ABSENT when there is none. With `regex_allowed` a string is a pattern, else a list of one. */
tn_status tn_config_names(const struct tn_config_reader *r, const json_t *object, const char *key, int regex_allowed,
			  struct tn_name_rule *out, struct tn_error *err);
tn_status tn_config_regex(const struct tn_config_reader *r, const char *pattern, const char *key, struct tn_regex **out,
			  struct tn_error *err);

tn_status tn_config_read_peft(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err);
tn_status tn_config_read_mlx(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err);

#endif
