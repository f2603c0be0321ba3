/* SPDX-License-Identifier: Apache-2.0 */
/* A base whose products are large enough for several threads, and adapters for it. */
#include "livelib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static float number(uint64_t *seed)
{
	return (float)((double)(int64_t)tt_random(seed) / 9.3e18);
}

/* Tensors of float32, one behind the other. */
struct file {
	char header[8192];
	size_t at, values;
	float *data;
};

static void add(struct file *f, const char *name, size_t rows, size_t cols, uint64_t *seed)
{
	size_t n = rows * cols;
	f->at += (size_t)snprintf(f->header + f->at, sizeof f->header - f->at,
				  "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[%zu,%zu]}", f->at ? "," : "{", name, rows,
				  cols, f->values * sizeof(float), (f->values + n) * sizeof(float));
	f->data = realloc(f->data, (f->values + n) * sizeof *f->data);
	for (size_t i = 0; i < n; i++)
		f->data[f->values++] = number(seed);
}

static void write_file(struct file *f, const char *folder, const char *name)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	snprintf(f->header + f->at, sizeof f->header - f->at, "}");
	tt_write_st(path, f->header, f->data, f->values * sizeof *f->data);
	free(f->data);
}

void live_write_base(const char *folder)
{
	struct file f = { .at = 0 };
	uint64_t seed = 3;
	add(&f, "model.layers.0.self_attn.q_proj.weight", LIVE_OUT, LIVE_IN, &seed);
	add(&f, "model.layers.0.self_attn.v_proj.weight", LIVE_OUT, LIVE_IN, &seed);
	mkdir(folder, 0777);
	write_file(&f, folder, "model.safetensors");
	char path[4096];
	snprintf(path, sizeof path, "%s/config.json", folder);
	tt_write_text(path, "{\"model_type\": \"llama\", \"tie_word_embeddings\": false}");
}

void live_write_adapter(const char *folder, int dora, uint64_t seed)
{
	static const char *const names[] = { "q_proj", "v_proj" };
	struct file f = { .at = 0 };
	char name[256];
	for (int i = 0; i < 2; i++) {
		static const char front[] = "base_model.model.model.layers.0.self_attn";
		snprintf(name, sizeof name, "%s.%s.lora_A.weight", front, names[i]);
		add(&f, name, LIVE_RANK, LIVE_IN, &seed);
		snprintf(name, sizeof name, "%s.%s.lora_B.weight", front, names[i]);
		add(&f, name, LIVE_OUT, LIVE_RANK, &seed);
		snprintf(name, sizeof name, "%s.%s.lora_magnitude_vector", front, names[i]);
		if (dora)
			add(&f, name, 1, LIVE_OUT, &seed);
	}
	mkdir(folder, 0777);
	write_file(&f, folder, "adapter_model.safetensors");
	char path[4096], config[512];
	snprintf(path, sizeof path, "%s/adapter_config.json", folder);
	snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": 12, \"target_modules\": [\"q_proj\", "
		 "\"v_proj\"], \"use_dora\": %s}", LIVE_RANK, dora ? "true" : "false");
	tt_write_text(path, config);
}
