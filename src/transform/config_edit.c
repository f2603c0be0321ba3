/* SPDX-License-Identifier: Apache-2.0 */
/* What an adapter changes in config.json: ties, the vocabulary, the number of layers. */
#include "transform/fuse.h"

#include "base/error.h"
#include "store/checkpoint.h"
#include "store/json_text.h"

#include <string.h>

/* Other names of the same setting: GPT-2 and its relatives. */
static const char *const aliases[][2] = { { "num_hidden_layers", "n_layer" }, { "num_hidden_layers", "num_layers" },
					  { "num_hidden_layers", "n_layers" } };

/* Lists that say something of every layer, in their order. */
static const char *const per_layer[] = { "layer_types", "no_rope_layers", "sliding_window_layers" };

static tn_status set_value(json_t *object, const struct tn_config_edit *edit, const char *key, struct tn_error *err)
{
	json_t *value = edit->is_flag ? json_boolean(edit->value != 0) : json_integer((json_int_t)edit->value);
	if (json_object_set_new(object, key, value) != 0)
		return tn_fail_nomem(err, "config.json", sizeof value);
	return TN_OK;
}

static tn_status repeat_lists(json_t *object, const struct tn_adapter_config *c, uint64_t layers, struct tn_error *err)
{
	for (size_t i = 0; i < sizeof per_layer / sizeof *per_layer; i++) {
		json_t *old = json_object_get(object, per_layer[i]), *list;
		if (!json_is_array(old) || !(list = json_array()))
			continue;
		for (size_t r = 0; r < c->replication_count; r++)
			for (uint64_t layer = c->replication[r].begin; layer < c->replication[r].end; layer++)
				json_array_append(list, json_array_get(old, (size_t)layer));
		if (json_array_size(list) != layers) {
			json_decref(list);
			return tn_fail(err, TN_E_MISMATCH, per_layer[i], "'%s' in config.json does not have an entry for every layer",
				       per_layer[i]);
		}
		json_object_set_new(object, per_layer[i], list);
	}
	return TN_OK;
}

/* Where the key stands already: at the top, in text_config, or under another name; else at the top. */
static tn_status apply(json_t *root, const struct tn_adapter_config *c, const struct tn_config_edit *edit,
		       struct tn_error *err)
{
	json_t *places[] = { root, json_object_get(root, "text_config") };
	int found = 0;
	for (size_t p = 0; p < 2; p++) {
		if (json_object_get(places[p], edit->key)) {
			TN_TRY(set_value(places[p], edit, edit->key, err));
			found = 1;
		}
		for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
			if (strcmp(aliases[i][0], edit->key) == 0 && json_object_get(places[p], aliases[i][1])) {
				TN_TRY(set_value(places[p], edit, aliases[i][1], err));
				found = 1;
			}
		if (json_is_object(places[p]) && strcmp(edit->key, "num_hidden_layers") == 0)
			TN_TRY(repeat_lists(places[p], c, edit->value, err));
	}
	return found ? TN_OK : set_value(root, edit, edit->key, err);
}

tn_status tn_fuse_config(const struct tn_fuse *fuse, struct tn_text *out, struct tn_error *err)
{
	static const struct tn_json_style style = { .indent = 2, .ascii = 1, .sort_keys = 0 };
	const char *text = fuse->base->config;
	json_t *root;
	if (!text)
		return TN_OK;
	if (fuse->joint->edit_count == 0)
		return tn_text_puts(out, text, err);
	TN_TRY(tn_checkpoint_parse_config(fuse->base, &root, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < fuse->joint->edit_count && status == TN_OK; i++)
		status = apply(root, &fuse->adapter->config, &fuse->joint->edits[i], err);
	if (status == TN_OK)
		status = tn_json_add_value(out, root, &style, err);
	json_decref(root);
	return status == TN_OK ? tn_text_puts(out, "\n", err) : status;
}
