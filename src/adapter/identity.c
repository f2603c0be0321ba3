/* SPDX-License-Identifier: Apache-2.0 */
/* What an adapter does, and what it does it to, as two hashes. */
#include "adapter/identity.h"

#include "adapter/land.h"
#include "base/error.h"
#include "base/sha256.h"
#include "store/safetensors.h"
#include "weights/foreign.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 1 << 20, SAMPLE_PIECE_BYTES = 4096, SAMPLE_PIECES = 16 };

/* As they lie in memory: everything here runs on little endian. */
static void add_floats(struct tn_sha256 *h, const float *values, uint64_t n)
{
	tn_sha256_add(h, values, (size_t)n * sizeof *values);
}

static tn_status add_tensor(struct tn_sha256 *h, const tn_adapter *adapter, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_buffer values;
	if (!tn_dtype_is_float(t->dtype)) {
		TN_TRY(tn_tensor_load(adapter->file, t, &values, err));
		tn_sha256_add(h, values.data, values.bytes);
		tn_buffer_release(adapter->ctx, &values);
		return TN_OK;
	}
	TN_TRY(tn_buffer_alloc(adapter->ctx, (size_t)t->elements * sizeof(float), t->name, &values, err));
	tn_status status = tn_adapter_load_f32(adapter, t, values.data, err);
	if (status == TN_OK)
		add_floats(h, values.data, t->elements);
	tn_buffer_release(adapter->ctx, &values);
	return status;
}

static tn_status add_factors(struct tn_sha256 *h, const tn_adapter *adapter, const struct tn_adapter_entry *e,
			     struct tn_error *err)
{
	static const struct tn_delta_shape plain = { 0, 1, 0 };
	struct tn_delta delta;
	struct tn_buffer memory;
	TN_TRY(tn_adapter_load_delta(adapter, e, &plain, &delta, &memory, err));
	tn_sha256_add_u64(h, (uint64_t)e->magnitude_of_inputs);
	add_floats(h, delta.a, (uint64_t)(delta.rows / delta.group_rows) * delta.rank * delta.cols);
	add_floats(h, delta.b, (uint64_t)delta.rows * delta.rank);
	tn_buffer_release(adapter->ctx, &memory);
	if (e->magnitude)
		TN_TRY(add_tensor(h, adapter, e->magnitude, err));
	return e->bias ? add_tensor(h, adapter, e->bias, err) : TN_OK;
}

static tn_status add_entry(struct tn_sha256 *h, const tn_adapter *adapter, const struct tn_adapter_entry *e,
			   struct tn_error *err)
{
	uint64_t scale;
	memcpy(&scale, &e->module.scale, sizeof scale);
	tn_sha256_add_text(h, tn_module_kind_name(e->module.kind));
	tn_sha256_add_text(h, e->module.path);
	tn_sha256_add_u64(h, scale);
	tn_sha256_add_u64(h, e->module.rank);
	tn_sha256_add_u64(h, e->module.in_features);
	tn_sha256_add_u64(h, e->module.out_features);
	for (size_t i = 0; e->tokens && i < e->tokens->count; i++)
		tn_sha256_add_u64(h, e->tokens->indices[i]);
	return e->values ? add_tensor(h, adapter, e->values, err) : add_factors(h, adapter, e, err);
}

tn_status tn_adapter_hash(const tn_adapter *adapter, unsigned char hash[TN_HASH_BYTES], struct tn_error *err)
{
	struct tn_sha256 h;
	tn_sha256_init(&h);
	tn_sha256_add_text(&h, "tenon adapter 1");
	tn_sha256_add_u64(&h, (uint64_t)adapter->config.base_change);
	for (size_t i = 0; i < adapter->config.replication_count; i++) {
		tn_sha256_add_u64(&h, adapter->config.replication[i].begin);
		tn_sha256_add_u64(&h, adapter->config.replication[i].end);
	}
	for (size_t i = 0; i < adapter->count; i++)
		TN_TRY(add_entry(&h, adapter, &adapter->entries[i], err));
	tn_sha256_finish(&h, hash);
	return TN_OK;
}

/* ---- the base -------------------------------------------------------------------------------------------- */

/* A hash of base tensors that is being made. */
struct base_hash {
	struct tn_sha256 sha;
	const struct tn_joint *joint;
	unsigned char *piece;       /* [PIECE_BYTES] */
	int sampled;                /* pieces of large tensors in place of all of their bytes */
};

static tn_status add_bytes(struct base_hash *h, const struct tn_tensor *t, uint64_t at, uint64_t n, struct tn_error *err)
{
	for (uint64_t end = at + n; at < end; at += PIECE_BYTES) {
		size_t count = (size_t)(end - at < PIECE_BYTES ? end - at : PIECE_BYTES);
		TN_TRY(tn_checkpoint_read(h->joint->base, t, at, h->piece, count, err));
		tn_sha256_add(&h->sha, h->piece, count);
	}
	return TN_OK;
}

static tn_status add_base_tensor(struct base_hash *h, const struct tn_tensor *t, struct tn_error *err)
{
	tn_sha256_add_text(&h->sha, t->name);
	tn_sha256_add_text(&h->sha, tn_dtype_name(t->dtype));
	for (uint32_t i = 0; i < t->rank; i++)
		tn_sha256_add_u64(&h->sha, t->shape[i]);
	if (!h->sampled || t->bytes <= SAMPLE_PIECES * SAMPLE_PIECE_BYTES)
		return add_bytes(h, t, 0, t->bytes, err);
	for (uint64_t i = 0; i < SAMPLE_PIECES; i++)
		TN_TRY(add_bytes(h, t, (t->bytes - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1) * i, SAMPLE_PIECE_BYTES, err));
	return TN_OK;
}

/* The tensor of a target; of a quantized one all that it is made of. */
static tn_status add_target(struct base_hash *h, const struct tn_target *t, struct tn_error *err)
{
	const struct tn_foreign *f = t->matrix ? t->matrix->foreign : NULL;
	for (unsigned p = 0; f && p < TN_FOREIGN_PARTS; p++)
		if (f->part[p].tensor)
			TN_TRY(add_base_tensor(h, f->part[p].tensor, err));
	if (f)
		return TN_OK;
	TN_TRY(add_base_tensor(h, t->base, err));
	for (unsigned p = TN_PART_SCALES; t->matrix && p < TN_PART_COUNT; p++)
		if (t->matrix->part[p])
			TN_TRY(add_base_tensor(h, t->matrix->part[p], err));
	return t->matrix && t->matrix->global_scale ? add_base_tensor(h, t->matrix->global_scale, err) : TN_OK;
}

static int compare_targets(const void *a, const void *b)
{
	return strcmp((*(const struct tn_target *const *)a)->name, (*(const struct tn_target *const *)b)->name);
}

/* What `count` landings and the replacements of an adapter change. With layer_replication one tensor of the base stands behind
 * several of the result: each counts, in the order of names. */
static tn_status hash_landings(struct base_hash *h, const tn_adapter *adapter, const struct tn_landing *landings, size_t count,
			       unsigned char hash[TN_HASH_BYTES], struct tn_error *err)
{
	const struct tn_joint *j = h->joint;
	const struct tn_target **changed;
	size_t n = 0;
	TN_TRY(tn_alloc_array(j->ctx, j->target_count, sizeof *changed, "hash", &changed, err));
	for (size_t i = 0; i < count; i++)
		changed[landings[i].target] = &j->targets[landings[i].target];
	for (size_t i = 0; i < j->target_count; i++)
		if (j->targets[i].base && (changed[i] || (j->targets[i].replacement && j->targets[i].replacer == adapter)))
			changed[n++] = &j->targets[i];
	if (n > 1)
		qsort(changed, n, sizeof *changed, compare_targets);
	tn_sha256_init(&h->sha);
	tn_sha256_add_text(&h->sha, h->sampled ? "tenon base sample 1" : "tenon base 1");
	tn_status status = TN_OK;
	for (size_t i = 0; i < n && status == TN_OK; i++)
		status = add_target(h, changed[i], err);
	tn_free_array(j->ctx, changed, j->target_count, sizeof *changed);
	if (status == TN_OK)
		tn_sha256_finish(&h->sha, hash);
	return status;
}

static tn_status hash_base(const tn_adapter *adapter, const tn_checkpoint *base, int sampled,
			   unsigned char hash[TN_HASH_BYTES], struct tn_error *err)
{
	struct tn_weighted_adapter one = { adapter, 1 };
	struct tn_arena arena;
	struct tn_joint *empty = NULL, *joint;
	struct tn_buffer piece = { 0 };
	tn_arena_init(&arena, adapter->ctx);
	tn_status status = tn_joint_open_base(base, &arena, &empty, err);
	if (status == TN_OK) /* a bias that the base does not have is no part of it */
		status = tn_joint_make_live(&one, 1, empty, &arena, &joint, err);
	if (status == TN_OK)
		status = tn_buffer_alloc(adapter->ctx, PIECE_BYTES, "hash", &piece, err);
	if (status == TN_OK) {
		struct base_hash h = { .joint = joint, .piece = piece.data, .sampled = sampled };
		status = hash_landings(&h, adapter, joint->landings, joint->landing_count, hash, err);
	}
	tn_buffer_release(adapter->ctx, &piece);
	tn_joint_close_base(empty);
	tn_arena_release(&arena);
	return status;
}

tn_status tn_adapter_base_hash(const tn_adapter *adapter, const tn_checkpoint *base, unsigned char hash[TN_HASH_BYTES],
			       struct tn_error *err)
{
	return hash_base(adapter, base, 0, hash, err);
}

tn_status tn_adapter_base_sample(const tn_adapter *adapter, const tn_checkpoint *base, unsigned char hash[TN_HASH_BYTES],
				 struct tn_error *err)
{
	return hash_base(adapter, base, 1, hash, err);
}

/* ---- what files say of themselves ------------------------------------------------------------------------ */

void tn_hash_text(char text[TN_HASH_TEXT], const unsigned char hash[TN_HASH_BYTES])
{
	static const char digits[] = "0123456789abcdef";
	for (int i = 0; i < TN_HASH_BYTES; i++) {
		text[2 * i] = digits[hash[i] >> 4];
		text[2 * i + 1] = digits[hash[i] & 15];
	}
	text[2 * TN_HASH_BYTES] = '\0';
}

static const char *stored_hash(const tn_adapter *adapter, const char *wanted)
{
	for (size_t i = 0; i < tn_safetensors_metadata_count(adapter->file); i++) {
		const char *key, *value;
		tn_safetensors_metadata_at(adapter->file, i, &key, &value);
		if (strcmp(key, wanted) == 0)
			return value;
	}
	return NULL;
}

tn_status tn_adapter_check_identity(const tn_adapter *adapter, struct tn_error *err)
{
	const char *stored = stored_hash(adapter, TN_METADATA_ADAPTER), *path = tn_safetensors_path(adapter->file);
	unsigned char hash[TN_HASH_BYTES];
	char found[TN_HASH_TEXT];
	if (!stored)
		return TN_OK;
	TN_TRY(tn_adapter_hash(adapter, hash, err));
	tn_hash_text(found, hash);
	if (strcmp(stored, found) == 0)
		return TN_OK;
	return tn_fail(err, TN_E_MISMATCH, path, "the weights or adapter_config.json were changed since tenon wrote them: they "
		       "have the hash %s, and '%s' says %.64s; copy both files again, or remove that key from the metadata if "
		       "the change was meant", found, TN_METADATA_ADAPTER, stored);
}

tn_status tn_joint_check_base(const struct tn_joint *j, struct tn_error *err)
{
	const char *stored = stored_hash(j->adapter, TN_METADATA_BASE);
	struct tn_buffer piece;
	unsigned char hash[TN_HASH_BYTES];
	char found[TN_HASH_TEXT];
	if (!stored || j->base->is_consumed) /* its bytes may be gone */
		return TN_OK;
	TN_TRY(tn_buffer_alloc(j->ctx, PIECE_BYTES, "hash", &piece, err));
	struct base_hash h = { .joint = j, .piece = piece.data, .sampled = 1 };
	tn_status status = hash_landings(&h, j->adapter, j->landings + j->own_landings, j->landing_count - j->own_landings, hash,
					 err);
	tn_buffer_release(j->ctx, &piece);
	TN_TRY(status);
	tn_hash_text(found, hash);
	if (strcmp(stored, found) != 0)
		tn_logf(j->ctx, TN_LOG_WARNING, "'%s' was made for another base than '%s': its %s is %.80s, and this base gives %s",
			j->adapter->path, tn_checkpoint_path(j->base), TN_METADATA_BASE, stored, found);
	return TN_OK;
}
