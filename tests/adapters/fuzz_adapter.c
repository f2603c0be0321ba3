/* SPDX-License-Identifier: Apache-2.0 */
/* Input: a configuration, a newline, then names of tensors, one on each line. Everything that may be said about names by a
 * configuration is asked. */
#include "adapter/config.h"
#include "adapter/keys.h"
#include "adapter/selection.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

static void ask(struct tn_arena *arena, const struct tn_adapter_config *c, const char *name)
{
	struct tn_error err;
	struct tn_key key;
	const char *parameters[64];
	double scale, rank;
	int selected;
	if (tn_key_parse(arena, c, name, &key, &err) != TN_OK)
		return;
	if (c->dialect == TN_DIALECT_MLX_LM)
		tn_select_mlx(c, key.path, 4);
	else if (tn_select_peft(c, key.path, tn_path_is_head(key.path), &selected, &err) != TN_OK)
		return;
	if (c->parameters.count <= 64)
		tn_select_parameters(c, key.path, parameters);
	if (tn_pattern_value(&c->ranks, key.path, (double)c->rank, &rank, &err) == TN_OK)
		tn_effective_scale(c, key.path, c->rank, &scale, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static tn_context *ctx;
	struct tn_options options = TN_OPTIONS_INIT;
	struct tn_adapter_config config;
	struct tn_arena arena;
	struct tn_error err;
	options.threads = 1;
	if (!ctx && tn_context_create(&options, &ctx, NULL) != TN_OK)
		abort();
	char *text = malloc(n + 1);
	if (!text)
		abort();
	if (n)
		memcpy(text, bytes, n);
	text[n] = '\0';
	char *names = memchr(text, '\n', n);
	size_t config_bytes = names ? (size_t)(names - text) : n;
	tn_arena_init(&arena, ctx);
	if (tn_adapter_config_parse(&arena, text, config_bytes, "fuzz", &config, &err) == TN_OK) {
		char *rest = NULL;
		for (char *name = names ? strtok_r(names, "\n", &rest) : NULL; name; name = strtok_r(NULL, "\n", &rest))
			ask(&arena, &config, name);
	}
	tn_adapter_config_release(&config);
	tn_arena_release(&arena);
	free(text);
	return 0;
}
