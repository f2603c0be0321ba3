/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/plan_id.h"

#include "adapter/adapter.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"

#include <string.h>

void tn_plan_id_begin(struct tn_sha256 *id, const char *job)
{
	tn_sha256_init(id);
	tn_sha256_add_u64(id, TN_RESULTS_VERSION);
	tn_plan_id_add_text(id, job);
}

void tn_plan_id_add(struct tn_sha256 *id, const void *bytes, size_t n)
{
	uint64_t length = n;
	tn_sha256_add(id, &length, sizeof length);
	tn_sha256_add(id, bytes, n);
}

void tn_plan_id_add_text(struct tn_sha256 *id, const char *text)
{
	tn_plan_id_add(id, text ? text : "", text ? strlen(text) : 0);
}

static void add_file(struct tn_sha256 *id, const struct tn_file *file)
{
	const uint64_t state[] = { file->bytes, (uint64_t)tn_file_modified(file) };
	tn_plan_id_add(id, state, sizeof state);
}

void tn_plan_id_add_checkpoint(struct tn_sha256 *id, const tn_checkpoint *checkpoint)
{
	for (size_t i = 0; i < checkpoint->shard_count; i++) {
		tn_plan_id_add_text(id, checkpoint->shard_names[i]);
		add_file(id, &checkpoint->shards[i]->file);
	}
	tn_plan_id_add_text(id, checkpoint->config);
}

void tn_plan_id_add_consumed(struct tn_sha256 *id, const tn_checkpoint *checkpoint)
{
	for (size_t i = 0; i < checkpoint->shard_count; i++)
		tn_plan_id_add_text(id, checkpoint->shard_names[i]);
	for (size_t i = 0; i < checkpoint->count; i++) {
		const uint64_t range[] = { checkpoint->by_name[i]->offset, checkpoint->by_name[i]->bytes };
		tn_plan_id_add_text(id, checkpoint->by_name[i]->name);
		tn_plan_id_add(id, range, sizeof range);
	}
	tn_plan_id_add_text(id, checkpoint->config);
}

/* An adapter without a configuration file says everything in its tensors. */
void tn_plan_id_add_adapter(struct tn_sha256 *id, const tn_adapter *adapter)
{
	char path[TN_PATH_BYTES];
	struct tn_file config;
	add_file(id, &adapter->file->file);
	if (!adapter->folder || tn_path_join(path, adapter->folder, "adapter_config.json", NULL) != TN_OK ||
	    tn_file_open(path, &config, NULL) != TN_OK)
		return;
	add_file(id, &config);
	tn_file_close(&config);
}

tn_status tn_plan_id_add_adapter_content(struct tn_sha256 *id, const tn_adapter *adapter, unsigned char hash[TN_HASH_BYTES],
					 struct tn_digest *config, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	uint64_t bytes;
	*config = (struct tn_digest){ { 0 } };
	TN_TRY(tn_adapter_hash(adapter, hash, err));
	tn_plan_id_add(id, hash, TN_HASH_BYTES);
	if (!adapter->folder)
		return TN_OK;
	TN_TRY(tn_path_join(path, adapter->folder, "adapter_config.json", err));
	TN_TRY(tn_content_file(adapter->ctx, path, config, &bytes, err));
	tn_plan_id_add(id, config->bytes, sizeof config->bytes);
	return TN_OK;
}
