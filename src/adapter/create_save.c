/* SPDX-License-Identifier: Apache-2.0 */
/* A draft as a folder that appears whole or not at all. */
#include "adapter/create.h"

#include "adapter/identity.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "base/half.h"
#include "store/st_writer.h"
#include "store/staging.h"

#include <math.h>
#include <string.h>

enum { PIECE = 4096 };

/* ---- other dtypes than float32 --------------------------------------------------------------------------- */

static uint16_t narrow(float x, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
}

static float widen(uint16_t x, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_f32_from_bf16(x) : tn_f32_from_f16(x);
}

int tn_dtype_holds(tn_dtype dtype, const float *values, uint64_t count)
{
	for (uint64_t i = 0; i < count && dtype != TN_F32; i++) {
		float x = widen(narrow(values[i], dtype), dtype);
		if (memcmp(&values[i], &x, sizeof x) != 0)
			return 0;
	}
	return 1;
}

tn_status tn_parameter_round(const struct tn_parameter *p, float *dst, struct tn_error *err)
{
	for (uint64_t i = 0; i < p->elements; i++) {
		float x = p->data[i];
		dst[i] = p->dtype == TN_F32 ? x : widen(narrow(x, p->dtype), p->dtype);
		if (!isfinite(dst[i]) && isfinite(x))
			return tn_fail(err, TN_E_FORMAT, p->name, "'%.100s' holds %g, which %s does not reach; write it as BF16 "
				       "or F32",
				       p->name, (double)x, tn_dtype_name(p->dtype));
	}
	return TN_OK;
}

/* Of the numbers that the file will have: where some are rounded, of an adapter over a rounded image. */
static tn_status hash_as_written(const tn_draft *d, unsigned char hash[TN_HASH_BYTES], struct tn_error *err)
{
	struct tn_buffer image;
	tn_adapter *rounded = NULL;
	int exact = 1;
	for (size_t i = 0; i < d->count && exact; i++)
		exact = tn_dtype_holds(d->parameters[i].dtype, d->parameters[i].data, d->parameters[i].elements);
	if (exact)
		return tn_adapter_hash(d->adapter, hash, err);
	TN_TRY(tn_buffer_alloc(d->ctx, d->image.bytes, "adapter", &image, err));
	memcpy(image.data, d->image.data, image.bytes);
	tn_status status = TN_OK;
	for (size_t i = 0; i < d->count && status == TN_OK; i++)
		status = tn_parameter_round(&d->parameters[i],
					    (float *)(void *)((unsigned char *)image.data + d->tensors[i]->offset),
					    err);
	if (status == TN_OK)
		status = tn_adapter_open_memory(d->ctx, d->config, strlen(d->config), image.data, image.bytes, "the adapter as "
						"written",
						&rounded, err);
	if (status == TN_OK)
		status = tn_adapter_hash(rounded, hash, err);
	tn_adapter_close(rounded);
	tn_buffer_release(d->ctx, &image);
	return status;
}

/* ---- the files ------------------------------------------------------------------------------------------- */

static tn_status write_narrow(struct tn_st_writer *writer, const struct tn_tensor *t, const struct tn_parameter *p,
			      struct tn_error *err)
{
	uint16_t piece[PIECE];
	for (uint64_t first = 0; first < p->elements; first += PIECE) {
		size_t n = (size_t)tn_min_u64(p->elements - first, PIECE);
		for (size_t i = 0; i < n; i++)
			piece[i] = narrow(p->data[first + i], p->dtype);
		TN_TRY(tn_st_writer_put(writer, t, first * sizeof *piece, piece, n * sizeof *piece, err));
	}
	return TN_OK;
}

/* The layout of narrower tensors is another one, so parameters are found by name. */
static tn_status write_weights(const tn_draft *d, const char *path, struct tn_tensor **tensors,
			       const struct tn_st_metadata *metadata, size_t metadata_count, struct tn_error *err)
{
	struct tn_st_writer *writer;
	TN_TRY(tn_st_writer_create(d->ctx, path, tensors, d->count, metadata, metadata_count, 0, &writer, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < d->count && status == TN_OK; i++) {
		const struct tn_parameter *p = tn_draft_find(d, tensors[i]->name);
		status = p->dtype == TN_F32 ? tn_st_writer_put(writer, tensors[i], 0, p->data, (size_t)tensors[i]->bytes, err)
					    : write_narrow(writer, tensors[i], p, err);
	}
	if (status == TN_OK)
		return tn_st_writer_finish(writer, err);
	tn_st_writer_abort(writer);
	return status;
}

/* The tensors of the file stand behind another header than those of the image. */
static tn_status copy_tensors(const tn_draft *d, struct tn_arena *arena, struct tn_tensor ***out, struct tn_error *err)
{
	struct tn_tensor *copies;
	TN_TRY(tn_arena_array(arena, d->count, sizeof *copies, &copies, err));
	TN_TRY(tn_arena_array(arena, d->count, sizeof(struct tn_tensor *), out, err));
	for (size_t i = 0; i < d->count; i++) {
		copies[i] = *d->tensors[i];
		copies[i].dtype = d->parameters[i].dtype;
		copies[i].bytes = copies[i].elements * tn_dtype_bits(copies[i].dtype) / 8;
		(*out)[i] = &copies[i];
	}
	return TN_OK;
}

static tn_status write_files(const tn_draft *d, struct tn_staging *staging, struct tn_tensor **tensors, struct tn_error *err)
{
	int peft = d->dialect == TN_DIALECT_PEFT;
	unsigned char hash[TN_HASH_BYTES];
	char adapter_text[TN_HASH_TEXT], base_text[TN_HASH_TEXT], path[TN_PATH_BYTES];
	TN_TRY(hash_as_written(d, hash, err));
	tn_hash_text(adapter_text, hash);
	tn_hash_text(base_text, d->base_sample);
	const struct tn_st_metadata metadata[] = {
		{ "format", "pt" }, { TN_METADATA_ADAPTER, adapter_text }, { TN_METADATA_BASE, base_text },
	};
	size_t count = d->has_base_sample ? 3 : 2, first = peft ? 0 : 1;   /* mlx-lm's files have no format */
	TN_TRY(tn_path_join(path, tn_staging_folder(staging), peft ? "adapter_model.safetensors" : "adapters.safetensors", err));
	TN_TRY(write_weights(d, path, tensors, metadata + first, count - first, err));
	return tn_staging_write(staging, "adapter_config.json", d->config, strlen(d->config), err);
}

tn_status tn_draft_check_path(tn_context *ctx, const char *path, int replace, struct tn_error *err)
{
	return tn_replaceable_check(ctx, path, replace ? TN_REPLACE_ADAPTER : TN_REPLACE_NOTHING, err);
}

tn_status tn_draft_save(const tn_draft *d, const char *path, int replace, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_tensor **tensors;
	struct tn_staging *staging = NULL;
	tn_arena_init(&arena, d->ctx);
	tn_status status = copy_tensors(d, &arena, &tensors, err);
	if (status == TN_OK)
		status = tn_staging_begin(d->ctx, path, replace ? TN_REPLACE_ADAPTER : TN_REPLACE_NOTHING, &staging, err);
	if (status == TN_OK)
		status = write_files(d, staging, tensors, err);
	if (status == TN_OK)
		status = tn_staging_commit(staging, err);
	if (status != TN_OK)
		tn_staging_abort(staging);
	tn_arena_release(&arena);
	return status;
}
