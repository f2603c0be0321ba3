/* SPDX-License-Identifier: Apache-2.0 */
/* From the names of tensors to modules. PEFT 0.21: base_model.model.<path>.lora_A.weight; mlx-lm 0.32.2: <path>.lora_a. */
#include "adapter/adapter.h"

#include "base/error.h"
#include "base/text.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct half {
	const char *path;
	const struct tn_tensor *tensor;
	int is_b;
};

#define PEFT_PREFIX "base_model.model."

static tn_status parse_name(tn_adapter *adapter, const struct tn_tensor *tensor, struct half *out, struct tn_error *err)
{
	static const char *const endings[2][2] = { { ".lora_A.weight", ".lora_B.weight" }, { ".lora_a", ".lora_b" } };
	int dialect = adapter->config.dialect == TN_DIALECT_PEFT ? 0 : 1;
	const char *name = tensor->name;
	for (int b = 0; b < 2; b++) {
		if (!tn_ends_with(name, endings[dialect][b]))
			continue;
		size_t skip = dialect == 0 && tn_starts_with(name, PEFT_PREFIX) ? strlen(PEFT_PREFIX) : 0;
		out->tensor = tensor;
		out->is_b = b;
		return tn_arena_text(&adapter->arena, name + skip, strlen(name) - skip - strlen(endings[dialect][b]),
				     &out->path, err);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, name,
		       "'%.100s' in '%s' is not a factor of a %s LoRA (...%s, ...%s), and tenon does not apply it", name,
		       tn_safetensors_path(adapter->file), dialect ? "mlx-lm" : "PEFT", endings[dialect][0],
		       endings[dialect][1]);
}

static int compare_halves(const void *a, const void *b)
{
	const struct half *x = a, *y = b;
	int order = strcmp(x->path, y->path);
	return order ? order : x->is_b - y->is_b;
}

static tn_status check_factor(const struct tn_tensor *t, struct tn_error *err)
{
	if (t->rank != 2)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' has %u dimensions, 2 were expected", t->name, t->rank);
	if (t->dtype != TN_F32 && t->dtype != TN_F16 && t->dtype != TN_BF16)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' has the dtype %s; F32, F16 or BF16 was expected",
			       t->name, tn_dtype_name(t->dtype));
	return TN_OK;
}

static double effective_scale(const struct tn_adapter_config *config, uint64_t rank)
{
	if (config->dialect == TN_DIALECT_MLX_LM)
		return config->scale;
	return config->alpha / (config->use_rslora ? sqrt((double)rank) : (double)rank);
}

static tn_status make_entry(tn_adapter *adapter, const struct half *a, const struct half *b, struct tn_error *err)
{
	struct tn_adapter_entry *entry = &adapter->entries[adapter->count];
	int transposed = adapter->config.dialect == TN_DIALECT_MLX_LM;
	TN_TRY(check_factor(a->tensor, err));
	TN_TRY(check_factor(b->tensor, err));
	uint64_t a_rank = a->tensor->shape[transposed], b_rank = b->tensor->shape[!transposed];
	if (a_rank != b_rank)
		return tn_fail(err, TN_E_FORMAT, a->path, "the factors of '%.100s' have the ranks %llu and %llu: one of them is "
			       "of another adapter", a->path, (unsigned long long)a_rank, (unsigned long long)b_rank);
	if (a_rank != adapter->config.rank)
		return tn_fail(err, TN_E_FORMAT, a->path, "the factors of '%.80s' have the rank %llu, and adapter_config.json says "
			       "%llu: the files are of two adapters", a->path, (unsigned long long)a_rank,
			       (unsigned long long)adapter->config.rank);
	entry->a = a->tensor;
	entry->b = b->tensor;
	entry->transposed = transposed;
	entry->module = (struct tn_adapter_module){
		.path = a->path,
		.kind = TN_MODULE_LORA,
		.rank = a_rank,
		.scale = effective_scale(&adapter->config, a_rank),
		.in_features = a->tensor->shape[!transposed],
		.out_features = b->tensor->shape[transposed],
	};
	adapter->count++;
	return TN_OK;
}

static tn_status pair_halves(tn_adapter *adapter, struct half *halves, size_t count, struct tn_error *err)
{
	if (count > 1)
		qsort(halves, count, sizeof *halves, compare_halves);
	TN_TRY(tn_arena_array(&adapter->arena, count, sizeof *adapter->entries, &adapter->entries, err));
	for (size_t i = 0; i < count; i += 2) {
		int paired = i + 1 < count && strcmp(halves[i].path, halves[i + 1].path) == 0;
		if (paired && halves[i].is_b == halves[i + 1].is_b)
			return tn_fail(err, TN_E_FORMAT, halves[i].path, "'%.100s' and '%.100s' are the same factor of one module",
				       halves[i].tensor->name, halves[i + 1].tensor->name);
		if (!paired)
			return tn_fail(err, TN_E_FORMAT, halves[i].path, "'%.100s' has lora_%c and no lora_%c: half of the pair is "
				       "missing from the file", halves[i].path, halves[i].is_b ? 'b' : 'a',
				       halves[i].is_b ? 'a' : 'b');
		TN_TRY(make_entry(adapter, &halves[i], &halves[i + 1], err));
	}
	return TN_OK;
}

tn_status tn_adapter_collect(tn_adapter *adapter, struct tn_error *err)
{
	size_t count = tn_safetensors_count(adapter->file);
	struct half *halves;
	if (count == 0)
		return tn_fail(err, TN_E_FORMAT, tn_safetensors_path(adapter->file), "'%s' holds no tensor: nothing would be adapted",
			       tn_safetensors_path(adapter->file));
	TN_TRY(tn_alloc_array(adapter->ctx, count, sizeof *halves, "adapter", &halves, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < count && status == TN_OK; i++)
		status = parse_name(adapter, tn_safetensors_at(adapter->file, i), &halves[i], err);
	if (status == TN_OK)
		status = pair_halves(adapter, halves, count, err);
	tn_free_array(adapter->ctx, halves, count, sizeof *halves);
	return status;
}

/* ---- factors in memory ----------------------------------------------------------------------------------- */

size_t tn_adapter_delta_bytes(const struct tn_adapter_entry *entry)
{
	return (size_t)(entry->a->elements + entry->b->elements) * sizeof(float);
}

/* [rows, cols] to [cols, rows]. */
static void transpose(float *dst, const float *src, size_t rows, size_t cols)
{
	for (size_t i = 0; i < rows; i++)
		for (size_t j = 0; j < cols; j++)
			dst[j * rows + i] = src[i * cols + j];
}

static tn_status check_finite(const struct tn_tensor *t, const float *values, struct tn_error *err)
{
	for (uint64_t i = 0; i < t->elements; i++)
		if (!isfinite(values[i]))
			return tn_fail_at(err, TN_E_FORMAT, t->name, t->offset + i * tn_dtype_bits(t->dtype) / 8,
					  "'%.100s' holds %s at element %llu: the training run diverged, or the file is damaged",
					  t->name, isnan(values[i]) ? "NaN" : "infinity", (unsigned long long)i);
	return TN_OK;
}

/* One factor as float32 in the order of PEFT: A [rank, in], B [out, rank]. */
static tn_status load_factor(const tn_adapter *adapter, const struct tn_tensor *t, int transposed, float *dst,
			     struct tn_error *err)
{
	struct tn_buffer raw, values = { 0 };
	TN_TRY(tn_safetensors_load(adapter->file, t->name, &raw, NULL, err));
	tn_status status = TN_OK;
	if (transposed)
		status = tn_buffer_alloc(adapter->ctx, (size_t)t->elements * sizeof(float), t->name, &values, err);
	if (status == TN_OK) {
		struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
		struct tn_row row = { { raw.data } };
		float *decoded = transposed ? values.data : dst;
		adapter->ctx->kernels->codec[TN_CODEC_dense]->decode(decoded, &row, &format, (size_t)t->elements);
		status = check_finite(t, decoded, err);
		if (status == TN_OK && transposed)
			transpose(dst, decoded, (size_t)t->shape[0], (size_t)t->shape[1]);
	}
	tn_buffer_release(adapter->ctx, &values);
	tn_buffer_release(adapter->ctx, &raw);
	return status;
}

tn_status tn_adapter_load_delta(const tn_adapter *adapter, const struct tn_adapter_entry *entry, struct tn_delta *delta,
				struct tn_buffer *memory, struct tn_error *err)
{
	struct tn_buffer buffer;
	TN_TRY(tn_buffer_alloc(adapter->ctx, tn_adapter_delta_bytes(entry), entry->module.path, &buffer, err));
	float *a = buffer.data, *b = a + entry->a->elements;
	tn_status status = load_factor(adapter, entry->a, entry->transposed, a, err);
	if (status == TN_OK)
		status = load_factor(adapter, entry->b, entry->transposed, b, err);
	if (status != TN_OK) {
		tn_buffer_release(adapter->ctx, &buffer);
		return status;
	}
	*memory = buffer;
	*delta = (struct tn_delta){
		.a = a,
		.b = b,
		.rank = (size_t)entry->module.rank,
		.in = (size_t)entry->module.in_features,
		.out = (size_t)entry->module.out_features,
		.scale = entry->module.scale,
	};
	return TN_OK;
}
