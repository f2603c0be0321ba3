/* SPDX-License-Identifier: Apache-2.0 */
#include "adapterlib.h"

#include "base/half.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void count_warnings(void *user, tn_log_level level, const char *message)
{
	(void)message;
	((struct al *)user)->warnings += level == TN_LOG_WARNING;
}

int al_setup(void **state)
{
	struct al *t = calloc(1, sizeof *t);
	struct tn_options options = TN_OPTIONS_INIT;
	assert_non_null(t);
	const char *place = getenv("TMPDIR");   /* a file system in memory where there is one: these tests write many small folders */
	snprintf(t->folder, sizeof t->folder, "%.30s/tenon-adapters-XXXXXX", place && strlen(place) <= 30 ? place : "/tmp");
	assert_non_null(mkdtemp(t->folder));
	options.threads = 2;
	options.log = count_warnings;
	options.log_user = t;
	assert_int_equal(tn_context_create(&options, &t->ctx, NULL), TN_OK);
	*state = t;
	return 0;
}

int al_teardown(void **state)
{
	struct al *t = *state;
	char command[128];
	snprintf(command, sizeof command, "rm -rf %s", t->folder);
	int failed = system(command);
	tn_context_destroy(t->ctx);
	free(t);
	return failed;
}

const char *al_path(struct al *t, const char *fmt, ...)
{
	char name[256];
	va_list args;
	va_start(args, fmt);
	vsnprintf(name, sizeof name, fmt, args);
	va_end(args);
	char *path = t->paths[t->next_path++ % 8];
	size_t n = strlen(t->folder);
	memcpy(path, t->folder, n);
	path[n] = '/';
	memcpy(path + n + 1, name, strlen(name) + 1);
	return path;
}

void al_no_error(struct al *t)
{
	t->err = (struct tn_error){ TN_OK, 0, 0, "", "" };
}

/* A call that succeeds leaves t->err alone. */
void al_expect_(struct al *t, tn_status got, tn_status expected, const char *call, const char *file, int line)
{
	if (got == TN_OK && t->err.code != TN_OK)
		print_error("%s\n  touched the error: %s\n", call, t->err.msg);
	_assert_int_equal((uintmax_t)(got == TN_OK ? t->err.code : TN_OK), TN_OK, file, line);
	if (got != expected)
		print_error("%s\n  gave %s, %s was expected: %s\n", call, tn_status_name(got), tn_status_name(expected),
			    got == TN_OK ? "" : t->err.msg);
	_assert_int_equal((uintmax_t)got, (uintmax_t)expected, file, line);
}

void al_expect_named(const struct al *t, const char *text)
{
	if (!strstr(t->err.msg, text) && !strstr(t->err.where, text))
		fail_msg("'%s' is not in the error '%s' (%s)", text, t->err.msg, t->err.where);
}

void al_write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static uint64_t elements(const struct al_tensor *t)
{
	uint64_t n = 1;
	for (unsigned i = 0; i < t->rank; i++)
		n *= t->shape[i];
	return n;
}

void al_write_st(const char *path, const struct al_tensor *tensors, size_t count)
{
	char *header = NULL;
	size_t bytes;
	uint64_t offset = 0;
	FILE *text = open_memstream(&header, &bytes), *f = fopen(path, "wb");
	assert_true(text && f);
	fputc('{', text);
	for (size_t i = 0; i < count; i++) {
		const struct al_tensor *t = &tensors[i];
		fprintf(text, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "", t->name);
		for (unsigned d = 0; d < t->rank; d++)
			fprintf(text, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
		fprintf(text, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
			(unsigned long long)(offset + 4 * elements(t)));
		offset += 4 * elements(t);
	}
	fputc('}', text);
	fclose(text);
	uint64_t length = bytes;
	fwrite(&length, 8, 1, f);
	fwrite(header, 1, bytes, f);
	for (size_t i = 0; i < count; i++)
		for (uint64_t k = 0; k < elements(&tensors[i]); k++) {
			float x = tensors[i].values ? tensors[i].values[k] : (float)(k % 97 + 1) / 16;
			fwrite(&x, sizeof x, 1, f);
		}
	assert_int_equal(fclose(f), 0);
	free(header);
}

static void write_folder(const char *folder, const char *config_name, const char *config, const char *file,
			 const struct al_tensor *tensors, size_t count)
{
	char path[512];
	mkdir(folder, 0777);
	snprintf(path, sizeof path, "%s/%s", folder, config_name);
	al_write_text(path, config);
	snprintf(path, sizeof path, "%s/%s", folder, file);
	al_write_st(path, tensors, count);
}

void al_write_base(const char *folder, const char *config, const struct al_tensor *tensors, size_t count)
{
	write_folder(folder, "config.json", config, "model.safetensors", tensors, count);
}

void al_write_adapter(const char *folder, const char *config, const char *file, const struct al_tensor *tensors,
		      size_t count)
{
	write_folder(folder, "adapter_config.json", config, file, tensors, count);
}

void al_write_toy(const char *folder)
{
	static const float w[] = { 1, 0, 0, 0, 1, 0 };
	static const struct al_tensor tensors[] = {
		{ "lm_head.weight", { 4, 3 }, 2, NULL },
		{ "model.embed_tokens.weight", { 4, 3 }, 2, NULL },
		{ "model.layers.0.self_attn.k_proj.weight", { 2, 3 }, 2, w },
		{ "model.layers.0.self_attn.q_proj.weight", { 2, 3 }, 2, w },
		{ "model.layers.1.self_attn.q_proj.weight", { 2, 3 }, 2, w },
		{ "model.layers.2.self_attn.q_proj.weight", { 2, 3 }, 2, w },
		{ "model.layers.3.self_attn.q_proj.weight", { 2, 3 }, 2, w },
		{ "model.layers.3.self_attn.q_proj.bias", { 2 }, 1, NULL },
		{ "model.norm.weight", { 3 }, 1, NULL },
	};
	al_write_base(folder, "{\"model_type\":\"llama\",\"num_hidden_layers\":4,\"tie_word_embeddings\":false}", tensors,
		      sizeof tensors / sizeof *tensors);
}

void al_write_toy_adapter(const char *folder, const char *config, int peft, unsigned rank, unsigned first, unsigned last)
{
	static char names[16][128];
	struct al_tensor tensors[16] = { 0 };
	size_t n = 0;
	for (unsigned i = first; i <= last; i++) {
		snprintf(names[n], sizeof names[n], peft ? "base_model.model.model.layers.%u.self_attn.q_proj.lora_A.weight"
							 : "model.layers.%u.self_attn.q_proj.lora_a", i);
		tensors[n] = (struct al_tensor){ names[n], { peft ? rank : 3, peft ? 3 : rank }, 2, NULL };
		n++;
		snprintf(names[n], sizeof names[n], peft ? "base_model.model.model.layers.%u.self_attn.q_proj.lora_B.weight"
							 : "model.layers.%u.self_attn.q_proj.lora_b", i);
		tensors[n] = (struct al_tensor){ names[n], { peft ? 2 : rank, peft ? rank : 2 }, 2, NULL };
		n++;
	}
	al_write_adapter(folder, config, peft ? "adapter_model.safetensors" : "adapters.safetensors", tensors, n);
}

tn_status al_fuse(struct al *t, const char *base, const char *adapter, const char *out)
{
	tn_checkpoint *b = NULL;
	tn_adapter *a = NULL;
	tn_fuse *fuse = NULL;
	tn_status status = tn_checkpoint_open(t->ctx, base, &b, &t->err);
	if (status == TN_OK)
		status = tn_adapter_open(t->ctx, adapter, &a, &t->err);
	if (status == TN_OK)
		status = tn_fuse_plan(t->ctx, b, a, NULL, &fuse, &t->err);
	if (status == TN_OK)
		status = tn_fuse_run(fuse, out, 1, &t->err);
	tn_fuse_free(fuse);
	tn_adapter_close(a);
	tn_checkpoint_close(b);
	return status;
}

tn_status al_convert(struct al *t, const char *base, const char *adapter, tn_adapter_dialect dialect, const char *out)
{
	struct tn_derive_options options = TN_DERIVE_OPTIONS_INIT;
	tn_checkpoint *b = NULL;
	tn_adapter *a = NULL;
	tn_draft *draft = NULL;
	options.dialect = dialect;
	tn_status status = tn_checkpoint_open(t->ctx, base, &b, &t->err);
	if (status == TN_OK)
		status = tn_adapter_open(t->ctx, adapter, &a, &t->err);
	if (status == TN_OK)
		status = tn_draft_convert(a, b, &options, &draft, &t->err);
	if (status == TN_OK)
		status = tn_draft_save(draft, out, 1, &t->err);
	tn_draft_destroy(draft);
	tn_adapter_close(a);
	tn_checkpoint_close(b);
	return status;
}

double *al_load(struct al *t, const tn_checkpoint *c, const char *name, const struct tn_tensor **tensor)
{
	struct tn_buffer raw;
	const struct tn_tensor *found;
	if (tn_checkpoint_load(c, name, &raw, &found, &t->err) != TN_OK)
		return NULL;
	double *out = malloc(sizeof *out * (found->elements + 1));
	assert_non_null(out);
	for (uint64_t i = 0; i < found->elements; i++)
		switch (found->dtype) {
		case TN_F32: out[i] = (double)((const float *)raw.data)[i]; break;
		case TN_F64: out[i] = ((const double *)raw.data)[i]; break;
		case TN_F16: out[i] = (double)tn_f32_from_f16(((const uint16_t *)raw.data)[i]); break;
		case TN_BF16: out[i] = (double)tn_f32_from_bf16(((const uint16_t *)raw.data)[i]); break;
		default: out[i] = 0;
		}
	tn_buffer_release(t->ctx, &raw);
	*tensor = found;
	return out;
}

json_t *al_json(const char *path)
{
	json_error_t e;
	json_t *root = json_load_file(path, 0, &e);
	if (!root)
		fail_msg("%s: %s", path, e.text);
	return root;
}

void al_expect_converted(struct al *t, const char *base, const char *adapter, const char *name, const double *values, size_t count)
{
	for (int to_mlx = 0; to_mlx < 2; to_mlx++) {
		const char *converted = al_path(t, "converted"), *out = al_path(t, "fused");
		const struct tn_tensor *found;
		tn_checkpoint *fused;
		al_ok(t, al_convert(t, base, adapter, to_mlx ? TN_DIALECT_MLX_LM : TN_DIALECT_PEFT, converted));
		al_ok(t, al_fuse(t, base, converted, out));
		al_ok(t, tn_checkpoint_open(t->ctx, out, &fused, &t->err));
		double *have = al_load(t, fused, name, &found);
		assert_int_equal(found->elements, count);
		for (size_t i = 0; i < count; i++)
			assert_true(have[i] == values[i]);
		free(have);
		tn_checkpoint_close(fused);
	}
}
