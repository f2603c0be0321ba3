/* SPDX-License-Identifier: Apache-2.0 */
/* Whole jobs on a model of two small layers. */
#include "oom.h"

#include "tenon/tenon.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void path_in(char path[512], const char *folder, const char *name)
{
	snprintf(path, 512, "%.400s/%.100s", folder, name);
}

static void write_text(const char *folder, const char *name, const char *text)
{
	char path[512];
	path_in(path, folder, name);
	FILE *f = fopen(path, "w");
	oom_require(f && fputs(text, f) >= 0 && fclose(f) == 0, "could not write");
}

/* base: two matrices of 4 x 64 and a norm; lora: factors of rank 2 for both. */
static void a_model_and_an_adapter(const char *folder)
{
	static unsigned char data[4096];
	char path[512];
	path_in(path, folder, "base");
	mkdir(path, 0777);
	write_text(path, "config.json", "{\"model_type\": \"llama\", \"eos_token_id\": 1}");
	write_text(path, "tokenizer.json", "{}");
	path_in(path, folder, "base/model.safetensors");
	tt_write_st(path,
		    "{\"model.layers.0.q_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[4,64],\"data_offsets\":[0,512]},"
		    "\"model.layers.1.q_proj.weight\":{\"dtype\":\"F32\",\"shape\":[4,64],\"data_offsets\":[512,1536]},"
		    "\"model.norm.weight\":{\"dtype\":\"BF16\",\"shape\":[64],\"data_offsets\":[1536,1664]}}",
		    data, 1664);
	path_in(path, folder, "lora");
	mkdir(path, 0777);
	write_text(path, "adapter_config.json",
		   "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"q_proj\"]}");
	path_in(path, folder, "lora/adapter_model.safetensors");
	tt_write_st(path,
		    "{\"base_model.model.model.layers.0.q_proj.lora_A.weight\":"
		    "{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[0,512]},"
		    "\"base_model.model.model.layers.0.q_proj.lora_B.weight\":"
		    "{\"dtype\":\"F32\",\"shape\":[4,2],\"data_offsets\":[512,544]},"
		    "\"base_model.model.model.layers.1.q_proj.lora_A.weight\":"
		    "{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[544,1056]},"
		    "\"base_model.model.model.layers.1.q_proj.lora_B.weight\":"
		    "{\"dtype\":\"F32\",\"shape\":[4,2],\"data_offsets\":[1056,1088]}}",
		    data, 1088);
}

static int swallow(void *user, const char *bytes, size_t n)
{
	(void)user;
	(void)bytes;
	(void)n;
	return 0;
}

static tn_status run_fuse(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char base_path[512], lora_path[512], out[512];
	tn_checkpoint *base = NULL;
	tn_adapter *lora = NULL;
	tn_fuse *plan = NULL;
	path_in(base_path, folder, "base");
	path_in(lora_path, folder, "lora");
	path_in(out, folder, "out");
	tn_status status = tn_checkpoint_open(ctx, base_path, &base, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, lora_path, &lora, err);
	if (status == TN_OK)
		status = tn_fuse_plan(ctx, base, lora, NULL, &plan, err);
	if (status == TN_OK)
		status = tn_fuse_plan_json(plan, swallow, NULL, err);
	if (status == TN_OK)
		status = tn_fuse_run(plan, out, 0, err);
	tn_fuse_free(plan);
	tn_adapter_close(lora);
	tn_checkpoint_close(base);
	return status;
}

const struct oom_scenario oom_fuse = { "fuse", a_model_and_an_adapter, run_fuse, 0 };

/* The base stands for the merged model: every verdict but one is bad, and that is all right. */
static tn_status run_verify(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char base_path[512], lora_path[512];
	tn_checkpoint *base = NULL, *merged = NULL;
	tn_adapter *lora = NULL;
	tn_verify *report = NULL;
	path_in(base_path, folder, "base");
	path_in(lora_path, folder, "lora");
	tn_status status = tn_checkpoint_open(ctx, base_path, &base, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, base_path, &merged, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, lora_path, &lora, err);
	if (status == TN_OK)
		status = tn_adapter_json(ctx, lora, base, swallow, NULL, err);
	if (status == TN_OK)
		status = tn_checkpoint_json(ctx, base, swallow, NULL, err);
	if (status == TN_OK)
		status = tn_verify_run(ctx, base, lora, NULL, merged, &report, err);
	if (status == TN_OK)
		status = tn_verify_json(report, swallow, NULL, err);
	tn_verify_free(report);
	tn_adapter_close(lora);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(base);
	return status;
}

const struct oom_scenario oom_verify = { "verify", a_model_and_an_adapter, run_verify, 0 };

static tn_status recode(tn_context *ctx, const char *from, const char *to, const struct tn_recode_request *request,
			struct tn_error *err)
{
	tn_checkpoint *base = NULL;
	tn_recode *plan = NULL;
	tn_status status = tn_checkpoint_open(ctx, from, &base, err);
	if (status == TN_OK)
		status = tn_recode_plan(ctx, base, request, &plan, err);
	if (status == TN_OK)
		status = tn_recode_plan_json(plan, swallow, NULL, err);
	if (status == TN_OK)
		status = tn_recode_run(plan, to, 0, err);
	tn_recode_free(plan);
	tn_checkpoint_close(base);
	return status;
}

static tn_status run_quantize(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char base_path[512], out[512];
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	path_in(base_path, folder, "base");
	path_in(out, folder, "out");
	request.quantize = 1;
	request.mlx_folder = 1;
	return recode(ctx, base_path, out, &request, err);
}

const struct oom_scenario oom_quantize = { "quantize", a_model_and_an_adapter, run_quantize, 0 };

static void a_quantized_model(const char *folder)
{
	char from[512], to[512];
	struct tn_error err;
	tn_context *ctx;
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	a_model_and_an_adapter(folder);
	path_in(from, folder, "base");
	path_in(to, folder, "packed");
	request.quantize = 1;
	oom_require(tn_context_create(NULL, &ctx, &err) == TN_OK, "no context");
	oom_require(recode(ctx, from, to, &request, &err) == TN_OK, "no quantized model");
	tn_context_destroy(ctx);
}

static tn_status run_dequantize(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char from[512], out[512];
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	path_in(from, folder, "packed");
	path_in(out, folder, "out");
	request.dequantize = 1;
	request.like_mlx = 1;
	request.dtype = TN_F16;
	return recode(ctx, from, out, &request, err);
}

const struct oom_scenario oom_dequantize = { "dequantize", a_quantized_model, run_dequantize, 0 };

/* Two adapters into a quantized model, in more bits; then the verification of a model that was not merged. */
static tn_status join_packed(tn_context *ctx, const char *folder, const tn_checkpoint *base, tn_adapter *const lora[2],
			     struct tn_error *err)
{
	char out[512];
	tn_fuse *plan = NULL;
	tn_verify *report = NULL;
	struct tn_weighted_adapter more = { lora[1], 0.5 };
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	path_in(out, folder, "out");
	options.more = &more;
	options.more_count = 1;
	tn_status status = tn_verify_run(ctx, base, lora[0], &options, base, &report, err);
	if (status == TN_OK)
		status = tn_verify_json(report, swallow, NULL, err);
	options.promote_bits = 8;
	if (status == TN_OK)
		status = tn_fuse_plan(ctx, base, lora[0], &options, &plan, err);
	if (status == TN_OK)
		status = tn_fuse_plan_json(plan, swallow, NULL, err);
	if (status == TN_OK)
		status = tn_fuse_run(plan, out, 0, err);
	tn_fuse_free(plan);
	tn_verify_free(report);
	return status;
}

static tn_status run_fuse_packed(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char base_path[512], lora_path[512];
	tn_checkpoint *base = NULL;
	tn_adapter *lora[2] = { NULL, NULL };
	path_in(base_path, folder, "packed");
	path_in(lora_path, folder, "lora");
	tn_status status = tn_checkpoint_open(ctx, base_path, &base, err);
	for (int i = 0; i < 2 && status == TN_OK; i++)
		status = tn_adapter_open(ctx, lora_path, &lora[i], err);
	if (status == TN_OK)
		status = join_packed(ctx, folder, base, lora, err);
	tn_adapter_close(lora[1]);
	tn_adapter_close(lora[0]);
	tn_checkpoint_close(base);
	return status;
}

const struct oom_scenario oom_fuse_packed = { "fuse into a quantized model", a_quantized_model, run_fuse_packed, 0 };

/* A model that is looked at without memory is not one of other weights. */
static tn_status run_list(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char path[512];
	tn_checkpoint *base = NULL;
	tn_weight_list *list = NULL;
	size_t quantized = 0;
	path_in(path, folder, "packed");
	tn_status status = tn_checkpoint_open(ctx, path, &base, err);
	if (status == TN_OK)
		status = tn_weight_list_create(ctx, base, &list, err);
	for (size_t i = 0; status == TN_OK && i < tn_weight_list_count(list); i++)
		quantized += tn_weight_list_at(list, i)->q.mode != NULL;
	oom_require(status != TN_OK || quantized > 0, "quantized weights were taken for plain tensors");
	tn_weight_list_destroy(list);
	tn_checkpoint_close(base);
	return status;
}

const struct oom_scenario oom_list = { "list weights", a_quantized_model, run_list, 0 };
