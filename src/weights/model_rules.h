/* What mlx-lm's model files say of single modules: model_rules.def. */
#ifndef TN_MODEL_RULES_H
#define TN_MODEL_RULES_H

enum { TN_RULE_NONE = 0, TN_RULE_EIGHT_BITS = 1, TN_RULE_DENSE = 2, TN_RULE_KEEP_DTYPE = 4, TN_RULE_PARAMETER = 8 };

/* The effects (or of TN_RULE_*) that hold for a path in a model of that type; model_type may be NULL. */
unsigned tn_model_rules(const char *model_type, const char *path);

#endif
