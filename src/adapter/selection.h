/* Which modules an adapter is for, and with which rank and alpha, by its configuration. */
#ifndef TN_ADAPTER_SELECT_H
#define TN_ADAPTER_SELECT_H

#include "adapter/config.h"

/* PEFT 0.21, in its order: exclude_modules, modules_to_save, a pattern, an exact name, an ending with the layer filter
 * (tuners_utils.py, check_target_module_exists). With target_modules absent everything is selected, and with
 * target_parameters alone nothing: whoever knows the base asks tn_default_targets first. `is_head` matters to all-linear
 * only. */
tn_status tn_select_peft(const struct tn_adapter_config *config, const char *path, int is_head, int *selected,
			 struct tn_error *err);

/* Of a list the path or its end behind a dot, of a pattern the whole path; an absent rule matches nothing. */
tn_status tn_rule_matches(const struct tn_name_rule *rule, const char *path, int *matched, struct tn_error *err);

/* What PEFT takes for target_modules where there are none, by the model_type of the base (peft_targets.def); NULL: it takes
 * nothing and refuses. */
const char *tn_default_targets(const char *model_type, int is_adalora);
/* Such a text as a rule. The memory of names is the arena's; the regex, where there is one, is freed with tn_regex_free. */
tn_status tn_rule_of_targets(struct tn_arena *arena, const char *text, struct tn_name_rule *out, struct tn_error *err);

/* The names of target_parameters that belong to the module `path`, in the order in which transformers registers them:
 * out [config->parameters.count] gets the parameter's own names. Returns how many. */
size_t tn_select_parameters(const struct tn_adapter_config *config, const char *path, const char **out);

/* 1 when entry `i` of modules_to_save speaks of the module `path`: by its plain ending, or by the pattern that
 * selection makes of it. */
tn_status tn_saved_covers(const struct tn_adapter_config *config, size_t i, const char *path, int *covers,
			  struct tn_error *err);

/* mlx-lm: `path` inside its layer equals a key or ends with ".key", or the whole path does, or equals one. A key that
 * names a module outside the layers, or a whole path, is not limited by the window. Without keys: everything inside the
 * window. layer_count is the number of layers beside the module's own, 0 when it is in none. */
int tn_select_mlx(const struct tn_adapter_config *config, const char *path, uint64_t layer_count);
/* The key that made tn_select_mlx say yes, regardless of the window; NULL: none. */
const char *tn_select_mlx_key(const struct tn_adapter_config *config, const char *path);

/* The value of the first pattern that fits, by PEFT's re.match("(.*\.)?(key)$"), or `fallback`. */
tn_status tn_pattern_value(const struct tn_patterns *patterns, const char *path, double fallback, double *out,
			   struct tn_error *err);
/* 1 when any fitting pattern has that value; where none fits, the fallback. */
tn_status tn_pattern_offers(const struct tn_patterns *patterns, const char *path, double fallback, double value,
			    int *offered, struct tn_error *err);

/* alpha / rank, alpha / sqrt(rank), or mlx-lm's scale. 0 for rank 0. */
tn_status tn_effective_scale(const struct tn_adapter_config *config, const char *path, uint64_t rank, double *out,
			     struct tn_error *err);

/* ---- names ----------------------------------------------------------------------------------------------- */

/* 1 when `path` is `name` or ends with "." and `name`. */
int tn_path_has_ending(const char *path, const char *name);
const char *tn_path_last(const char *path);
/* The part behind the first "<container>.<number>.", where the container is named layers, h, blocks, ...; NULL when
 * there is none. *number gets the number, *prefix_bytes the length of what stands before it. */
const char *tn_path_in_layer(const char *path, uint64_t *number, size_t *prefix_bytes);
/* What was counted for a path, for those behind it that lie in the same layers. Begins as zeros; paths must live on. */
struct tn_layer_memo {
	const char *path;
	size_t prefix_bytes;
	uint64_t count;
};
int tn_layer_memo_holds(const struct tn_layer_memo *memo, const char *path, size_t prefix_bytes);
/* By the last part of the name, as transformers and mlx-lm call them. */
int tn_path_is_embedding(const char *path);
int tn_path_is_head(const char *path);
/* GPT-2's Conv1D keeps its weight as [in, out]: by the last part of the name, in these types of models. */
int tn_path_is_conv1d(const char *path);
int tn_model_has_conv1d(const char *model_type);

#endif
