/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "store/json_out.h"
#include "tenon/transform.h"
#include "transform/engines.h"
#include "transform/inspect.h"
#include "transform/fuse.h"

#include <string.h>

enum { MOST_FINDINGS = 64 };

struct tn_doctor {
	tn_context *ctx;
	struct tn_arena arena;   /* holds this struct too */
	tn_checkpoint *base;
	tn_adapter *adapter;
	tn_fuse *fuse;
	const char *base_path, *adapter_path, *engine;
	struct tn_finding findings[MOST_FINDINGS];
	size_t count;
};

const char *tn_finding_level_name(tn_finding_level level)
{
	return level == TN_FINDING_ERROR ? "error" : level == TN_FINDING_WARNING ? "warning" : "note";
}

static tn_status add(void *arg, int level, const char *where, const char *message, struct tn_error *err)
{
	tn_doctor *d = arg;
	if (d->count == MOST_FINDINGS)
		return TN_OK;
	struct tn_finding *f = &d->findings[d->count];
	TN_TRY(tn_arena_text(&d->arena, where, strlen(where), &f->where, err));
	TN_TRY(tn_arena_text(&d->arena, message, strlen(message), &f->message, err));
	f->level = (tn_finding_level)level;
	d->count++;
	return TN_OK;
}

/* A fault of the files is a finding; a lack of memory is an error of this call. */
static tn_status add_error(tn_doctor *d, const struct tn_error *found, struct tn_error *err)
{
	if (found->code == TN_E_NOMEM)
		return tn_fail(err, TN_E_NOMEM, found->where, "%s", found->msg);
	return add(d, TN_FINDING_ERROR, found->where, found->msg, err);
}

/* Values of every factor: a NaN would be found by a fuse half-way. */
static tn_status check_values(tn_doctor *d, struct tn_error *err)
{
	unsigned char hash[TN_HASH_BYTES];
	struct tn_error found;
	return tn_adapter_hash(d->adapter, hash, &found) == TN_OK ? TN_OK : add_error(d, &found, err);
}

static tn_status note_changes(tn_doctor *d, struct tn_error *err)
{
	for (size_t i = 0; i < d->fuse->joint->edit_count; i++) {
		const struct tn_config_edit *edit = &d->fuse->joint->edits[i];
		const char *text;
		TN_TRY(tn_arena_printf(&d->arena, &text, err, "a fuse sets '%s' to %llu in config.json", edit->key,
				       (unsigned long long)edit->value));
		TN_TRY(add(d, TN_FINDING_NOTE, edit->key, text, err));
	}
	return TN_OK;
}

static tn_status note_unread(tn_doctor *d, struct tn_error *err)
{
	const char *text, *unread = d->adapter->unread;
	if (!unread)
		return TN_OK;
	TN_TRY(tn_arena_printf(&d->arena, &text, err, "the folder has two files of weights: '%s' is used, as "
			       "adapter_config.json is %s's, and '%s' is not; remove the one that is not meant",
			       tn_safetensors_path(tn_adapter_file(d->adapter)),
			       tn_adapter_dialect_name(tn_adapter_dialect_of(d->adapter)), unread));
	return add(d, TN_FINDING_WARNING, unread, text, err);
}

static tn_status examine(tn_doctor *d, struct tn_error *err)
{
	struct tn_error found;
	if (tn_adapter_open(d->ctx, d->adapter_path, &d->adapter, &found) != TN_OK)
		TN_TRY(add_error(d, &found, err));
	if (tn_checkpoint_open(d->ctx, d->base_path, &d->base, &found) != TN_OK)
		TN_TRY(add_error(d, &found, err));
	if (d->adapter) {
		TN_TRY(check_values(d, err));
		TN_TRY(note_unread(d, err));
	}
	if (d->adapter && d->base && tn_fuse_plan(d->ctx, d->base, d->adapter, NULL, &d->fuse, &found) != TN_OK)
		TN_TRY(add_error(d, &found, err));
	if (d->fuse)
		TN_TRY(note_changes(d, err));
	if (!d->engine || !d->adapter)
		return TN_OK;
	return tn_engine_check(d->engine, d->adapter, d->fuse ? d->fuse->joint : NULL, add, d, err);
}

tn_status tn_doctor_run(tn_context *ctx, const char *base_path, const char *adapter_path, const char *engine,
			tn_doctor **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_doctor *d;
	if (engine && !tn_engine_exists(engine))
		return tn_fail(err, TN_E_ARG, engine,
			       "there is no engine '%.40s'; peft, mlx, vllm, llama.cpp or ollama was expected", engine);
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *d, &d, err));
	d->ctx = ctx;
	d->arena = arena;
	tn_status status = tn_arena_text(&d->arena, base_path, strlen(base_path), &d->base_path, err);
	if (status == TN_OK)
		status = tn_arena_text(&d->arena, adapter_path, strlen(adapter_path), &d->adapter_path, err);
	if (status == TN_OK && engine)
		status = tn_arena_text(&d->arena, engine, strlen(engine), &d->engine, err);
	if (status == TN_OK)
		status = examine(d, err);
	if (status != TN_OK) {
		tn_doctor_free(d);
		return status;
	}
	*out = d;
	return TN_OK;
}

void tn_doctor_free(tn_doctor *d)
{
	if (!d)
		return;
	tn_fuse_free(d->fuse);
	tn_adapter_close(d->adapter);
	tn_checkpoint_close(d->base);
	struct tn_arena arena = d->arena;
	tn_arena_release(&arena);
}

int tn_doctor_lands(const tn_doctor *d)
{
	return d->fuse != NULL;
}

int tn_doctor_ok(const tn_doctor *d)
{
	for (size_t i = 0; i < d->count; i++)
		if (d->findings[i].level == TN_FINDING_ERROR)
			return 0;
	return 1;
}

size_t tn_doctor_count(const tn_doctor *d)
{
	return d->count;
}

const struct tn_finding *tn_doctor_at(const tn_doctor *d, size_t i)
{
	return i < d->count ? &d->findings[i] : NULL;
}

const tn_adapter *tn_doctor_adapter(const tn_doctor *d)
{
	return d->adapter;
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

static void findings_json(struct tn_json_out *out, const tn_doctor *d)
{
	tn_json_out_begin(out, '[');
	for (size_t i = 0; i < d->count; i++) {
		tn_json_out_begin_line(out, '{');
		tn_json_out_key(out, "level");
		tn_json_out_string(out, tn_finding_level_name(d->findings[i].level));
		tn_json_out_key(out, "where");
		tn_json_out_string(out, d->findings[i].where);
		tn_json_out_key(out, "message");
		tn_json_out_string(out, d->findings[i].message);
		tn_json_out_end(out, '}');
	}
	tn_json_out_end(out, ']');
}

tn_status tn_doctor_json(const tn_doctor *d, tn_write_fn write, void *user, struct tn_error *err)
{
	struct tn_json_out out;
	tn_json_out_init(&out, d->ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "base");
	tn_json_out_string(&out, d->base_path);
	tn_json_out_key(&out, "adapter");
	tn_json_out_string(&out, d->adapter_path);
	tn_json_out_key(&out, "dialect");
	tn_json_out_string(&out, d->adapter ? tn_adapter_dialect_name(tn_adapter_dialect_of(d->adapter)) : NULL);
	tn_json_out_key(&out, "engine");
	tn_json_out_string(&out, d->engine);
	tn_json_out_key(&out, "lands");
	tn_json_out_bool(&out, tn_doctor_lands(d));
	tn_json_out_key(&out, "ok");
	tn_json_out_bool(&out, tn_doctor_ok(d));
	tn_json_out_key(&out, "findings");
	findings_json(&out, d);
	tn_json_out_key(&out, "modules");
	tn_modules_json(&out, d->adapter);
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
