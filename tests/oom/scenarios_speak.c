/* SPDX-License-Identifier: Apache-2.0 */
/* A decoder of one small layer that speaks with an adapter. */
#include "oom.h"

#include "tenon/tenon.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { HIDDEN = 16, WORDS = 8 };

static void write_config(const char *folder)
{
	char path[512];
	snprintf(path, sizeof path, "%.400s/config.json", folder);
	FILE *f = fopen(path, "w");
	oom_require(f && fprintf(f, "{\"model_type\": \"llama\", \"hidden_size\": %d, \"vocab_size\": %d, \"num_hidden_layers\": 1,"
				 "\"num_attention_heads\": 2, \"intermediate_size\": 16, \"tie_word_embeddings\": true, "
				 "\"eos_token_id\": 3, \"max_position_embeddings\": 8, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}}",
				 HIDDEN, WORDS) > 0 &&
			    fclose(f) == 0,
		    "could not write");
}

/* Where a text ends says the one, and another one the other. */
static void write_ends(const char *folder)
{
	char path[512];
	snprintf(path, sizeof path, "%.400s/generation_config.json", folder);
	FILE *f = fopen(path, "w");
	oom_require(f && fputs("{\"eos_token_id\": 5}", f) >= 0 && fclose(f) == 0, "could not write");
}

static void add_tensor(char *header, size_t bytes, const char *name, int rows, size_t *at)
{
	size_t n = strlen(header), size = (size_t)(rows ? rows : 1) * HIDDEN * 4;
	char shape[32];
	snprintf(shape, sizeof shape, rows ? "%d,%d" : "%d", rows ? rows : HIDDEN, HIDDEN);
	snprintf(header + n, bytes - n, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
		 n > 1 ? "," : "", name, shape, *at, *at + size);
	*at += size;
}

static void a_model_that_speaks(const char *folder)
{
	static const char *const norms[] = { "input_layernorm", "post_attention_layernorm" };
	static const char *const matrices[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
						"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj" };
	static float data[4096];
	char path[512], name[128], header[4096] = "{";
	size_t bytes = 0;
	for (size_t i = 0; i < sizeof data / sizeof *data; i++)
		data[i] = (float)(i * 7 % 13) / 13 - 0.5f;
	snprintf(path, sizeof path, "%.400s/base", folder);
	mkdir(path, 0777);
	write_config(path);
	write_ends(path);
	add_tensor(header, sizeof header, "model.embed_tokens.weight", WORDS, &bytes);
	for (int i = 0; i < 7; i++) {
		snprintf(name, sizeof name, "model.layers.0.%s.weight", matrices[i]);
		add_tensor(header, sizeof header, name, HIDDEN, &bytes);
	}
	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, "model.layers.0.%s.weight", norms[i]);
		add_tensor(header, sizeof header, name, 0, &bytes);
	}
	add_tensor(header, sizeof header, "model.norm.weight", 0, &bytes);
	strcat(header, "}");
	strcat(path, "/model.safetensors");
	tt_write_st(path, header, data, bytes);
}

/* A prompt, then tokens beyond what was reserved and beyond the trained length. */
static tn_status speak(tn_context *ctx, tn_decoder *decoder, struct tn_error *err)
{
	static const uint32_t prompt[4] = { 1, 2, 3, 4 };
	struct tn_sampling sampling = { .temperature = 1, .top_p = 0.9, .top_k = 5 };
	tn_sampler *sampler = NULL;
	tn_sequence *text = NULL;
	float logits[WORDS];
	tn_status status = tn_sampler_create(ctx, &sampling, WORDS, &sampler, err);
	if (status == TN_OK)
		status = tn_sequence_create(decoder, 2, &text, err);
	if (status == TN_OK)
		status = tn_sequence_use(text, "", err);
	uint32_t id = 0;
	struct tn_step step = { .sequence = text, .ids = prompt, .count = 4, .logits = logits };
	for (int i = 0; i < 80 && status == TN_OK; i++) {
		status = tn_decoder_step(decoder, &step, 1, err);
		if (status == TN_OK)
			id = tn_sampler_next(sampler, logits, NULL, 0);
		oom_require(id < WORDS, "a token of the vocabulary");
		step.ids = &id;
		step.count = 1;
	}
	tn_sequence_destroy(text);
	tn_sampler_destroy(sampler);
	return status;
}

static tn_status run_speak(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char path[512];
	tn_checkpoint *base = NULL;
	tn_live *live = NULL;
	tn_decoder *decoder = NULL;
	struct tn_decoder_info info;
	snprintf(path, sizeof path, "%.400s/base", folder);
	tn_status status = tn_checkpoint_open(ctx, path, &base, err);
	if (status == TN_OK)
		status = tn_live_open(base, NULL, &live, err);
	if (status == TN_OK)
		status = tn_decoder_create(live, base, NULL, &decoder, err);
	if (status == TN_OK) {
		tn_decoder_describe(decoder, &info);
		oom_require(info.end_count == 1 && info.end_ids[0] == 5, "texts would end elsewhere");
		status = speak(ctx, decoder, err);
	}
	tn_decoder_destroy(decoder);
	tn_live_close(live);
	tn_checkpoint_close(base);
	return status;
}

const struct oom_scenario oom_speak = { "speak", a_model_that_speaks, run_speak, 0 };
