/* SPDX-License-Identifier: Apache-2.0 */
#include "adapter/adapter.h"

#include "adapter/identity.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/gguf.h"
#include "store/replaceable.h"
#include "store/safetensors.h"

#include <stdio.h>
#include <string.h>

#define CONFIG_NAME "adapter_config.json"

const char *tn_adapter_dialect_name(tn_adapter_dialect dialect)
{
	static const char *const names[] = {
		[TN_DIALECT_PEFT] = "peft", [TN_DIALECT_MLX_LM] = "mlx-lm", [TN_DIALECT_KOHYA] = "kohya",
		[TN_DIALECT_GGUF] = "gguf",
	};
	return (size_t)dialect < sizeof names / sizeof *names ? names[dialect] : "unknown";
}

const char *tn_module_kind_name(tn_module_kind kind)
{
	static const char *const names[] = {
		[TN_MODULE_LORA] = "lora",
		[TN_MODULE_DORA] = "dora",
		[TN_MODULE_EMBEDDING] = "embedding",
		[TN_MODULE_EMBEDDING_DORA] = "embedding-dora",
		[TN_MODULE_EXPERTS] = "experts",
		[TN_MODULE_TOKENS] = "tokens",
		[TN_MODULE_SAVED] = "saved",
	};
	return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

int tn_adapter_is_folder(const char *path)
{
	char file[TN_PATH_BYTES];
	tn_path_kind kind;
	return tn_path_join(file, path, CONFIG_NAME, NULL) == TN_OK && tn_path_kind_of(file, &kind, NULL) == TN_OK &&
	       kind == TN_PATH_FILE;
}

static tn_status fail_no_weights(const tn_adapter *adapter, const char *name, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind = TN_PATH_MISSING;
	if (tn_path_join(path, adapter->path, "adapter_model.bin", NULL) == TN_OK &&
	    tn_path_kind_of(path, &kind, NULL) == TN_OK && kind == TN_PATH_FILE)
		return tn_fail(err, TN_E_UNSUPPORTED, adapter->path, "'%s' has adapter_model.bin, a Python pickle, and no %s; "
			       "open it with PEFT and save it again, which writes safetensors", adapter->path, name);
	return tn_fail(err, TN_E_NOTFOUND, adapter->path, "'%s' has no %s; the training run has not saved it, or the copy is "
		       "incomplete", adapter->path, name);
}

/* Two trainings in one folder: which of them is meant is for a person to say. */
static tn_status note_unread(tn_adapter *adapter, const char *name, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	TN_TRY(tn_path_join(path, adapter->path, name, err));
	if (tn_path_kind_of(path, &kind, NULL) != TN_OK || kind != TN_PATH_FILE)
		return TN_OK;
	tn_logf(adapter->ctx, TN_LOG_WARNING, "'%s' is used, and '%s' beside it is not", tn_safetensors_path(adapter->file),
		name);
	return tn_arena_text(&adapter->arena, name, strlen(name), &adapter->unread, err);
}

static tn_status open_capped(tn_adapter *adapter, struct tn_file *file, const char *path, struct tn_error *err)
{
	if (file->bytes > TN_ADAPTER_MOST_BYTES) {
		uint64_t bytes = file->bytes;
		tn_file_close(file);
		return tn_fail(err, TN_E_LIMIT, path, "'%s' has %llu bytes; no adapter has more than %llu", path,
			       (unsigned long long)bytes, (unsigned long long)TN_ADAPTER_MOST_BYTES);
	}
	return tn_safetensors_open_file(adapter->ctx, file, path, &adapter->file, err);
}

/* The name that goes with the dialect is preferred; the other one is taken only when that is absent (a link into nothing
 * counts as absent), never when something else stands there. */
static tn_status open_weights(tn_adapter *adapter, struct tn_error *err)
{
	static const char *const names[] = { "adapter_model.safetensors", "adapters.safetensors" };
	int first = adapter->config.dialect == TN_DIALECT_PEFT ? 0 : 1;
	for (int i = 0; i < 2; i++) {
		char path[TN_PATH_BYTES];
		struct tn_file file;
		struct tn_error found;
		TN_TRY(tn_path_join(path, adapter->folder, names[i ? !first : first], err));
		tn_status status = tn_file_open(path, &file, &found);
		if (status == TN_E_NOTFOUND)
			continue;
		if (status != TN_OK)
			return tn_fail_with(err, &found);
		TN_TRY(open_capped(adapter, &file, path, err));
		return i == 0 ? note_unread(adapter, names[!first], err) : TN_OK;
	}
	return fail_no_weights(adapter, names[first], err);
}

/* What llama.cpp checks too (src/llama-adapter.cpp). */
static tn_status open_gguf(tn_adapter *adapter, struct tn_error *err)
{
	struct tn_gguf_info info;
	struct tn_adapter_config *c = &adapter->config;
	*c = (struct tn_adapter_config){ .dialect = TN_DIALECT_GGUF, .bias = "none", .num_layers = TN_ALL_LAYERS };
	TN_TRY(tn_gguf_open(adapter->ctx, adapter->path, &adapter->file, &info, err));
	if (strcmp(info.type, "adapter") != 0 || strcmp(info.adapter_type, "lora") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, adapter->path, "'%s' has the general.type '%s' and the adapter.type '%s'; "
			       "an adapter of the type lora was expected", adapter->path, info.type, info.adapter_type);
	if (info.has_invocation)
		return tn_fail(err, TN_E_UNSUPPORTED, adapter->path, "'%s' is an aLoRA (adapter.alora.invocation_tokens), which "
			       "acts only behind its invocation tokens and cannot be merged", adapter->path);
	c->alpha = info.alpha;
	TN_TRY(tn_arena_text(&adapter->arena, info.architecture, strlen(info.architecture), &c->architecture, err));
	return tn_adapter_collect(adapter, err);
}

static tn_status read_config(tn_adapter *adapter, const char *folder, struct tn_error *err)
{
	char config[TN_PATH_BYTES];
	tn_path_kind kind = TN_PATH_MISSING;
	TN_TRY(tn_arena_text(&adapter->arena, folder, strlen(folder), &adapter->folder, err));
	tn_status status = tn_adapter_config_load(&adapter->arena, folder, &adapter->config, err);
	if (status != TN_E_NOTFOUND)
		return status;
	if (tn_path_join(config, folder, "config.json", NULL) == TN_OK)
		tn_path_kind_of(config, &kind, NULL);
	return tn_fail(err, TN_E_NOTFOUND, folder, "'%s' has no " CONFIG_NAME "%s", folder,
		       kind == TN_PATH_FILE
			       ? ", but the config.json of a model: an adapter was expected, are the two exchanged?"
			       : "; an adapter is the folder that PEFT or mlx-lm saved, with that file and its weights");
}

/* A file of weights. Beside an adapter_config.json it is one that the training run left there, perhaps not its last one; alone it
 * is kohya's, which has its scales in it. */
static tn_status open_lone_file(tn_adapter *adapter, struct tn_error *err)
{
	char folder[TN_PATH_BYTES];
	struct tn_file file;
	const char *path = adapter->path, *slash = strrchr(path, '/');
	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	int has_config = tn_adapter_is_folder(folder);
	if (has_config)
		TN_TRY(read_config(adapter, folder, err));
	else
		adapter->config =
			(struct tn_adapter_config){ .dialect = TN_DIALECT_KOHYA, .bias = "none", .num_layers = TN_ALL_LAYERS };
	TN_TRY(tn_file_open(path, &file, err));
	TN_TRY(open_capped(adapter, &file, path, err));
	TN_TRY(tn_adapter_collect(adapter, err));
	return has_config ? tn_adapter_check_identity(adapter, err) : TN_OK;
}

static tn_status fill(tn_adapter *adapter, const char *path, struct tn_error *err)
{
	tn_path_kind kind;
	TN_TRY(tn_arena_text(&adapter->arena, path, strlen(path), &adapter->path, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind == TN_PATH_FILE && tn_ends_with(path, ".gguf"))
		return open_gguf(adapter, err);
	if (kind == TN_PATH_FILE && tn_ends_with(path, ".safetensors"))
		return open_lone_file(adapter, err);
	if (kind != TN_PATH_FOLDER)
		return tn_fail(err, kind == TN_PATH_MISSING ? TN_E_NOTFOUND : TN_E_ARG, path,
			       "'%s' %s; an adapter is a folder with adapter_config.json and its weights, or a .safetensors or "
			       ".gguf file%s", path, kind == TN_PATH_MISSING ? "does not exist" : "is no adapter",
			       kind == TN_PATH_MISSING ? tn_hub_hint(path) : "");
	TN_TRY(read_config(adapter, path, err));
	TN_TRY(open_weights(adapter, err));
	TN_TRY(tn_adapter_collect(adapter, err));
	return tn_adapter_check_identity(adapter, err);
}

static tn_status make(tn_context *ctx, tn_adapter **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof **out, out, err));
	(*out)->ctx = ctx;
	(*out)->arena = arena;
	return TN_OK;
}

tn_status tn_adapter_open(tn_context *ctx, const char *path, tn_adapter **out, struct tn_error *err)
{
	tn_adapter *adapter;
	TN_TRY(make(ctx, &adapter, err));
	tn_status status = fill(adapter, path, err);
	if (status != TN_OK) {
		tn_adapter_close(adapter);
		return status;
	}
	*out = adapter;
	return TN_OK;
}

static tn_status fill_from_memory(tn_adapter *adapter, const char *config, size_t config_bytes, const void *weights,
				  size_t weights_bytes, const char *name, struct tn_error *err)
{
	TN_TRY(tn_arena_text(&adapter->arena, name, strlen(name), &adapter->path, err));
	TN_TRY(tn_adapter_config_parse(&adapter->arena, config, config_bytes, name, &adapter->config, err));
	TN_TRY(tn_safetensors_open_memory(adapter->ctx, weights, weights_bytes, name, &adapter->file, err));
	TN_TRY(tn_adapter_collect(adapter, err));
	return tn_adapter_check_identity(adapter, err);
}

tn_status tn_adapter_open_memory(tn_context *ctx, const char *config, size_t config_bytes, const void *weights,
				 size_t weights_bytes, const char *name, tn_adapter **out, struct tn_error *err)
{
	tn_adapter *adapter;
	TN_TRY(make(ctx, &adapter, err));
	tn_status status = fill_from_memory(adapter, config, config_bytes, weights, weights_bytes, name, err);
	if (status != TN_OK) {
		tn_adapter_close(adapter);
		return status;
	}
	*out = adapter;
	return TN_OK;
}

void tn_adapter_close(tn_adapter *adapter)
{
	if (!adapter)
		return;
	tn_safetensors_close(adapter->file);
	tn_adapter_config_release(&adapter->config);
	struct tn_arena arena = adapter->arena;
	tn_arena_release(&arena);
}

tn_status tn_adapter_check_path(const tn_adapter *adapter, const char *path, struct tn_error *err)
{
	TN_TRY(tn_replaceable_check_input(path, adapter->path, err));
	return tn_replaceable_check_input(path, tn_safetensors_path(adapter->file), err);
}

const char *tn_adapter_path(const tn_adapter *adapter)
{
	return adapter->path;
}

tn_adapter_dialect tn_adapter_dialect_of(const tn_adapter *adapter)
{
	return adapter->config.dialect;
}

const tn_safetensors *tn_adapter_file(const tn_adapter *adapter)
{
	return adapter->file;
}

size_t tn_adapter_count(const tn_adapter *adapter)
{
	return adapter->count;
}

const struct tn_adapter_module *tn_adapter_at(const tn_adapter *adapter, size_t i)
{
	return i < adapter->count ? &adapter->entries[i].module : NULL;
}

uint64_t tn_adapter_parameters(const tn_adapter *adapter)
{
	uint64_t n = 0;
	for (size_t i = 0; i < adapter->count; i++)
		n += adapter->entries[i].module.parameters;
	return n;
}
