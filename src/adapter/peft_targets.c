/* SPDX-License-Identifier: Apache-2.0 */
/* What PEFT takes for target_modules where a configuration has none: a list by the base's model_type. */
#include "adapter/selection.h"

#include "base/error.h"

#include <string.h>

struct targets {
	const char *model_type, *lora, *adalora;
};
#define TARGETS(type, lora, adalora) { type, lora, adalora },
static const struct targets known[] = {
#include "adapter/peft_targets.def"
};
#undef TARGETS

const char *tn_default_targets(const char *model_type, int is_adalora)
{
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(known[i].model_type, model_type) == 0) {
			const char *targets = is_adalora ? known[i].adalora : known[i].lora;
			return *targets ? targets : NULL;
		}
	return NULL;
}

static tn_status split(struct tn_arena *arena, const char *text, struct tn_name_rule *out, struct tn_error *err)
{
	TN_TRY(tn_arena_array(arena, strlen(text), sizeof *out->names, &out->names, err));
	for (size_t n; (n = strcspn(text, " ")) > 0; text += n + (text[n] == ' '))
		TN_TRY(tn_arena_text(arena, text, n, &out->names[out->count++], err));
	return TN_OK;
}

tn_status tn_rule_of_targets(struct tn_arena *arena, const char *text, struct tn_name_rule *out, struct tn_error *err)
{
	*out = (struct tn_name_rule){ .kind = strchr(text, '(') ? TN_RULE_REGEX : TN_RULE_LIST, .text = text };
	if (out->kind == TN_RULE_LIST)
		return split(arena, text, out, err);
	return tn_regex_compile(arena->ctx, text, "peft_targets.def", "target_modules", &out->regex, err);
}
