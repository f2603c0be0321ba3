/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/model_rules.h"

#include "base/text.h"
#include "tenon/weights.h"

#include <string.h>

enum match { ENDS, HAS, IS };

static const struct rule {
	const char *model_type;
	enum match match;
	const char *text;
	unsigned effect;
} rules[] = {
#define ALIAS(type, of)
#define RULE(type, match, text, effect) { #type, match, text, TN_RULE_##effect },
#include "weights/model_rules.def"
#undef RULE
#undef ALIAS
};

static const struct alias {
	const char *model_type, *of;
} aliases[] = {
#define ALIAS(type, of) { #type, #of },
#define RULE(type, match, text, effect)
#include "weights/model_rules.def"
#undef RULE
#undef ALIAS
};

static int matches(const struct rule *rule, const char *path)
{
	switch (rule->match) {
	case ENDS: return tn_ends_with(path, rule->text);
	case HAS: return strstr(path, rule->text) != NULL;
	default: return strcmp(path, rule->text) == 0;
	}
}

unsigned tn_model_rules(const char *model_type, const char *path)
{
	unsigned effects = TN_RULE_NONE;
	if (!model_type)
		return effects;
	for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
		if (strcmp(aliases[i].model_type, model_type) == 0) {
			model_type = aliases[i].of;
			break;
		}
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
		if (strcmp(rules[i].model_type, model_type) == 0 && matches(&rules[i], path))
			effects |= rules[i].effect;
	return effects;
}

int tn_model_keeps_dtype(const char *model_type, const char *tensor)
{
	return (tn_model_rules(model_type, tensor) & TN_RULE_KEEP_DTYPE) != 0;
}
