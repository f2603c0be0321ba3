/* tenon/lora_config.h - adapter_config.json by itself: what it says, and which rank, scale and place it gives a module.
 *
 * Both shapes of the file, PEFT's flat one and mlx-lm's with `lora_parameters`, in one form. tn_adapter_open reads the same
 * file by the same rules, so what is refused here is refused there; what is written: tenon/create.h.
 *
 * Sources. mlxrs 0.1.0, src/lm/lora.rs (LoraConfig, LoraParameters, PeftSelection, ModuleMatcher, FineTuneType,
 * read_adapter_config); mlx-swift-lm (LoRAConfiguration); mlx-lm 0.32.2 (tuner/utils.py); PEFT 0.21 (tuners/lora/config.py,
 * tuners/tuners_utils.py: check_target_module_exists). Where these differ: docs/adapters.md.
 *
 * Everything handed out belongs to the configuration. Patterns come from files: a match has a limit of steps (TN_E_LIMIT).
 */
#ifndef TENON_LORA_CONFIG_H
#define TENON_LORA_CONFIG_H

#include "tenon/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_lora_config tn_lora_config;

typedef enum tn_fine_tune { TN_FINE_TUNE_LORA, TN_FINE_TUNE_DORA, TN_FINE_TUNE_FULL } tn_fine_tune;
TN_API const char *tn_fine_tune_name(tn_fine_tune fine_tune); /* "lora", "dora", "full" */

/* Reads adapter_config.json of a folder: a regular file of at most 1 MiB.
 * Errors: TN_E_NOTFOUND, TN_E_IO; TN_E_LIMIT: larger; TN_E_FORMAT: not JSON, a value of another kind, a rank below 1, a pattern
 * that is none; TN_E_UNSUPPORTED: a setting that tenon does not apply, named. */
TN_API tn_status tn_lora_config_read(tn_context *ctx, const char *folder, tn_lora_config **out, struct tn_error *err);
/* The same from the text of such a file. */
TN_API tn_status tn_lora_config_parse(tn_context *ctx, const char *json, size_t bytes, tn_lora_config **out,
				      struct tn_error *err);
TN_API void tn_lora_config_destroy(tn_lora_config *config);   /* NULL allowed */

/* ---- what it says ---------------------------------------------------------------------------------------- */

/* An entry of rank_pattern or alpha_pattern. */
struct tn_lora_pattern {
	const char *pattern;
	double value;
};

enum { TN_LORA_ALL_LAYERS = -1 };

struct tn_lora_parameters {
	tn_adapter_dialect dialect;        /* TN_DIALECT_PEFT or TN_DIALECT_MLX_LM */
	tn_fine_tune fine_tune;            /* dora also by `use_dora` */
	uint64_t rank;                     /* 8 when the file has none; AdaLoRA: init_r */
	double alpha;                      /* PEFT: 8 when the file has none; mlx-lm: that of the file, else scale * rank */
	double scale;                      /* of modules that no pattern speaks of. mlx-lm: alpha / rank wins over `scale`; 20 when
	                                    * the file has neither */
	double dropout;                    /* of the training; 0 when the file has none */
	int64_t num_layers;                /* mlx-lm: the last so many, 16 when the file has none; else TN_LORA_ALL_LAYERS */
	int use_rslora, fan_in_fan_out;
	const int64_t *layers_to_transform;
	size_t layers_to_transform_count;  /* 0: all */
	const char *const *layers_pattern;
	size_t layers_pattern_count;
	const struct tn_lora_pattern *rank_pattern, *alpha_pattern;   /* in the order of the file, which decides */
	size_t rank_pattern_count, alpha_pattern_count;
};
TN_API const struct tn_lora_parameters *tn_lora_config_parameters(const tn_lora_config *config);

/* Rules over the paths of modules. */
typedef enum tn_lora_rule {
	TN_LORA_KEYS,              /* mlx-lm */
	TN_LORA_TARGET_MODULES,    /* PEFT */
	TN_LORA_EXCLUDE_MODULES    /* PEFT */
} tn_lora_rule;

typedef enum tn_matcher_kind {
	TN_MATCHER_NONE,           /* the file has no such rule */
	TN_MATCHER_LIST,           /* names: the path, or its end behind a dot */
	TN_MATCHER_REGEX,          /* Python's re.fullmatch with the whole path */
	TN_MATCHER_ALL_LINEAR      /* "all-linear", in any case: everything but the head */
} tn_matcher_kind;

struct tn_module_matcher {
	tn_matcher_kind kind;
	const char *const *names;  /* [count] of a list */
	size_t count;
	const char *pattern;       /* of a regex */
};
TN_API void tn_lora_config_matcher(const tn_lora_config *config, tn_lora_rule rule, struct tn_module_matcher *out);
/* Whether that rule alone speaks of a module; TN_MATCHER_NONE speaks of none. */
TN_API tn_status tn_lora_config_matches(const tn_lora_config *config, tn_lora_rule rule, const char *path, int *matches,
					struct tn_error *err);

/* ---- what holds for a module ----------------------------------------------------------------------------- */

/* rank, alpha and scale may be NULL. PEFT: the first pattern of the file that fits counts, by re.match("(.*\.)?(pattern)$");
 * scale is alpha / rank, with use_rslora alpha / sqrt(rank), 0 for a rank of 0 or less, which counts as 0. TN_E_LIMIT. */
TN_API tn_status tn_lora_config_module(const tn_lora_config *config, const char *path, uint64_t *rank, double *alpha,
				       double *scale, struct tn_error *err);

/* Whether the configuration selects a linear layer, all rules together, by names alone: whether there is such a module and
 * whether it is linear the caller knows. `layer_count`: layers of the model, for mlx-lm's window; 0: no window.
 * PEFT, in its order: exclude_modules, modules_to_save, target_modules, layers_to_transform with layers_pattern; without
 * target_modules everything that is left, with target_parameters alone nothing. mlx-lm: keys and the window; without keys
 * everything inside the layers of the window. */
TN_API tn_status tn_lora_config_selects(const tn_lora_config *config, const char *path, uint64_t layer_count, int *selects,
					struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
