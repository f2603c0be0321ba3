/* SPDX-License-Identifier: Apache-2.0 */
/* What an adapter does, and what it does it to, as two hashes. */
#include "adapter/land.h"

#include "base/error.h"
#include "base/sha256.h"
#include "store/safetensors.h"

#include <string.h>

enum { PIECE_BYTES = 1 << 20 };

static void add_u64(struct tn_sha256 *h, uint64_t n)
{
	unsigned char bytes[8];
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(n >> (8 * i));
	tn_sha256_add(h, bytes, sizeof bytes);
}

static void add_text(struct tn_sha256 *h, const char *text)
{
	tn_sha256_add(h, text, strlen(text) + 1);
}

static void add_floats(struct tn_sha256 *h, const float *values, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint32_t u;
		memcpy(&u, &values[i], sizeof u);
		unsigned char bytes[4] = { (unsigned char)u, (unsigned char)(u >> 8), (unsigned char)(u >> 16),
					   (unsigned char)(u >> 24) };
		tn_sha256_add(h, bytes, sizeof bytes);
	}
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
	add_u64(h, (uint64_t)e->magnitude_of_inputs);
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
	add_text(h, tn_module_kind_name(e->module.kind));
	add_text(h, e->module.path);
	add_u64(h, scale);
	add_u64(h, e->module.rank);
	add_u64(h, e->module.in_features);
	add_u64(h, e->module.out_features);
	for (size_t i = 0; e->tokens && i < e->tokens->count; i++)
		add_u64(h, e->tokens->indices[i]);
	return e->values ? add_tensor(h, adapter, e->values, err) : add_factors(h, adapter, e, err);
}

tn_status tn_adapter_hash(const tn_adapter *adapter, unsigned char hash[TN_HASH_BYTES], struct tn_error *err)
{
	struct tn_sha256 h;
	tn_sha256_init(&h);
	add_text(&h, "tenon adapter 1");
	add_u64(&h, (uint64_t)adapter->config.base_change);
	for (size_t i = 0; i < adapter->config.replication_count; i++) {
		add_u64(&h, adapter->config.replication[i].begin);
		add_u64(&h, adapter->config.replication[i].end);
	}
	for (size_t i = 0; i < adapter->count; i++)
		TN_TRY(add_entry(&h, adapter, &adapter->entries[i], err));
	tn_sha256_finish(&h, hash);
	return TN_OK;
}

static tn_status add_base_tensor(struct tn_sha256 *h, const tn_checkpoint *base, const struct tn_tensor *t, void *piece,
				 struct tn_error *err)
{
	add_text(h, t->name);
	add_text(h, tn_dtype_name(t->dtype));
	for (uint32_t i = 0; i < t->rank; i++)
		add_u64(h, t->shape[i]);
	for (uint64_t at = 0; at < t->bytes; at += PIECE_BYTES) {
		size_t n = (size_t)(t->bytes - at < PIECE_BYTES ? t->bytes - at : PIECE_BYTES);
		TN_TRY(tn_checkpoint_read(base, t, at, piece, n, err));
		tn_sha256_add(h, piece, n);
	}
	return TN_OK;
}

/* With layer_replication one tensor of the base stands behind several of the result: each counts, in the order of names. */
static tn_status hash_targets(const struct tn_joint *j, unsigned char hash[TN_HASH_BYTES], void *piece, struct tn_error *err)
{
	struct tn_sha256 h;
	tn_sha256_init(&h);
	add_text(&h, "tenon base 1");
	for (size_t i = 0; i < j->target_count; i++)
		if (j->targets[i].base && (j->targets[i].landing_count || j->targets[i].replacement))
			TN_TRY(add_base_tensor(&h, j->base, j->targets[i].base, piece, err));
	tn_sha256_finish(&h, hash);
	return TN_OK;
}

tn_status tn_adapter_base_hash(const tn_adapter *adapter, const tn_checkpoint *base, unsigned char hash[TN_HASH_BYTES],
			       struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_joint *joint;
	struct tn_buffer piece = { 0 };
	tn_arena_init(&arena, adapter->ctx);
	tn_status status = tn_joint_make(adapter, base, &arena, &joint, err);
	if (status == TN_OK)
		status = tn_buffer_alloc(adapter->ctx, PIECE_BYTES, "hash", &piece, err);
	if (status == TN_OK)
		status = hash_targets(joint, hash, piece.data, err);
	tn_buffer_release(adapter->ctx, &piece);
	tn_arena_release(&arena);
	return status;
}
