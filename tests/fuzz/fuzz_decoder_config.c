/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the config.json of a decoder: refused with words, or every number of it lies where the decoder counts on it. */
#include "fuzz.h"
#include "testlib.h"

#include "model/decoder_config.h"
#include "store/checkpoint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_layers(const struct tn_decoder_config *c)
{
	for (uint64_t i = 0; i < c->layers; i++) {
		const struct tn_layer_config *l = &c->layer[i];
		require(l->rope == TN_NO_ROPE || l->rope < c->ropes, "a layer with a rope that is not there");
		require(!l->has_experts || (c->experts && c->experts_per_token && c->experts_per_token <= c->experts),
			"a layer without its experts");
	}
}

static void check(const struct tn_decoder_config *c)
{
	require(c->architecture && c->vocabulary && c->hidden && c->layers && c->context, "a size of 0");
	require(c->kv_heads && c->heads % c->kv_heads == 0 && c->head_dim, "heads that do not come out even");
	require(c->heads * c->head_dim <= (uint64_t)1 << 22, "heads wider than any model's");
	for (unsigned r = 0; r < c->ropes; r++) {
		const struct tn_rope *rope = &c->rope[r];
		require(rope->dims && rope->dims + rope->dims % 2 <= c->head_dim, "a rope wider than a head");
		require(rope->theta > 0, "a rope without a base");
		require(rope->kind != TN_ROPE_LONG || (rope->short_factor && rope->long_factor), "longrope without its factors");
	}
	check_layers(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static tn_context *ctx;
	struct tn_decoder_config config;
	struct tn_error err = { 0 };
	struct tn_arena arena;
	if (!ctx && tn_context_create(NULL, &ctx, NULL) != TN_OK)
		abort();
	char *text = malloc(size + 1);
	require(text != NULL, "no memory");
	memcpy(text, data, size);
	text[size] = '\0';
	struct tn_checkpoint base = { .ctx = ctx, .path = "base", .config = text };
	tn_arena_init(&arena, ctx);
	if (tn_decoder_config_read(&base, &arena, &config, &err) == TN_OK)
		check(&config);
	else
		require(err.msg[0] != '\0', "refused without a word");
	tn_arena_release(&arena);
	free(text);
	return 0;
}
