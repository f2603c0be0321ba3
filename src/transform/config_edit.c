/* SPDX-License-Identifier: Apache-2.0 */
/* What an adapter changes in config.json: ties, the vocabulary, the number of layers. */
#include "transform/fuse.h"

#include "base/error.h"
#include "store/checkpoint.h"
#include "store/json_text.h"
#include "transform/recode.h"
#include "weights/quant_config.h"

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
			return tn_fail(err, TN_E_MISMATCH, per_layer[i],
				       "'%s' in config.json does not have an entry for every layer", per_layer[i]);
		}
		json_object_set_new(object, per_layer[i], list);
	}
	return TN_OK;
}

/* Some readers of a nested config look for ties at the top (transformers 5), others in text_config (tn_config_ties). */
static int is_for_all_readers(const struct tn_config_edit *edit, const json_t *place)
{
	return strcmp(edit->key, "tie_word_embeddings") == 0 && json_is_object(place);
}

/* Where the key stands already: at the top, in text_config, or under another name; else at the top. */
static tn_status apply(json_t *root, const struct tn_adapter_config *c, const struct tn_config_edit *edit,
		       struct tn_error *err)
{
	json_t *places[] = { root, json_object_get(root, "text_config") };
	int found = 0;
	for (size_t p = 0; p < 2; p++) {
		if (json_object_get(places[p], edit->key) || is_for_all_readers(edit, places[p])) {
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

/* ---- quantization ---------------------------------------------------------------------------------------- */

static tn_status set_layer(tn_quant_config *config, const char *weight, const struct tn_quantization *q,
			   struct tn_error *err)
{
	char layer[TN_NAME_BYTES];
	if (!tn_sibling_name(layer, weight, ""))
		return tn_fail(err, TN_E_LIMIT, weight, "the name of a tensor, '%.100s...', is longer than %d bytes", weight,
			       (int)TN_NAME_BYTES);
	return tn_quant_config_set(config, layer, q, err);
}

static int same_parameters(const struct tn_quantization *a, const struct tn_quantization *b)
{
	return a->bits == b->bits && a->group_size == b->group_size && strcmp(a->mode, b->mode) == 0 &&
	       a->global_scale == b->global_scale;
}

/* What a step makes of a quantized weight; 0 when the configuration says that already: all but those with more bits, and an
 * untied head whose table has an entry of its own. */
static int new_parameters(const struct tn_fuse *fuse, const struct tn_fuse_step *step, const tn_quant_config *config,
			  struct tn_quantization *q)
{
	const struct tn_target *t = &fuse->joint->targets[step->target];
	const struct tn_format *out = &step->form.out;
	struct tn_quantization said;
	if (!t->matrix)
		return 0;
	*q = t->matrix->q;
	if (step->form.by_rows && (out->codec != t->matrix->format.codec || out->bits != q->bits)) {
		*q = (struct tn_quantization){ out->group, out->bits, "affine", 0 };
		return 1;
	}
	if (!t->is_new)
		return 0;
	return tn_quant_config_for_tensor(config, t->name, &said) < TN_QUANT_GLOBAL || !same_parameters(q, &said);
}

/* In the order of names. */
static tn_status set_layers(const struct tn_fuse *fuse, tn_quant_config *config, int *changed, struct tn_error *err)
{
	struct tn_quantization q;
	for (size_t target = 0; target < fuse->joint->target_count; target++) {
		const struct tn_fuse_step *step = fuse->step_of[target];
		if (!step || !new_parameters(fuse, step, config, &q))
			continue;
		TN_TRY(set_layer(config, fuse->joint->targets[target].name, &q, err));
		*changed = 1;
	}
	return TN_OK;
}

/* The configuration that the result has; *out stays NULL when it is the base's. */
static tn_status changed_quantization(const struct tn_fuse *fuse, tn_quant_config **out, struct tn_error *err)
{
	tn_quant_config *config = NULL;
	int changed = 0;
	if (fuse->options.dequantize)
		return TN_OK;
	TN_TRY(tn_quant_config_parse(fuse->ctx, fuse->base->config, &config, err));
	if (!config)
		return TN_OK;
	tn_status status = set_layers(fuse, config, &changed, err);
	if (status == TN_OK && changed) {
		*out = config;
		return TN_OK;
	}
	tn_quant_config_destroy(config);
	return status;
}

static int is_quantized(const struct tn_fuse *fuse)
{
	for (size_t i = 0; i < fuse->joint->target_count; i++)
		if (fuse->joint->targets[i].matrix)
			return 1;
	return 0;
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static tn_status write_mlx(const struct tn_fuse *fuse, const json_t *root, const tn_quant_config *quant,
			   struct tn_text *out, struct tn_error *err)
{
	static const struct tn_json_style compact = { .indent = -1 };
	struct tn_text text;
	struct tn_buffer buffer = { 0 };
	tn_text_init(&text, fuse->ctx);
	tn_status status = tn_json_add_value(&text, root, &compact, err);
	if (status == TN_OK)
		status = tn_quant_config_write(fuse->ctx, text.data, quant, &buffer, err);
	if (status == TN_OK)
		status = tn_text_puts(out, buffer.data, err);
	tn_buffer_release(fuse->ctx, &buffer);
	tn_text_release(&text);
	return status;
}

static tn_status write_config(const struct tn_fuse *fuse, json_t *root, const tn_quant_config *quant, struct tn_text *out,
			      struct tn_error *err)
{
	static const struct tn_json_style style = { .indent = 2, .ascii = 1, .sort_keys = 0 };
	for (size_t i = 0; i < fuse->joint->edit_count; i++)
		TN_TRY(apply(root, &fuse->adapter->config, &fuse->joint->edits[i], err));
	if (quant)
		return write_mlx(fuse, root, quant, out, err);
	if (fuse->options.dequantize)
		tn_config_forget_quantization(root);
	TN_TRY(tn_json_add_value(out, root, &style, err));
	return tn_text_puts(out, "\n", err);
}

tn_status tn_fuse_config(const struct tn_fuse *fuse, struct tn_text *out, struct tn_error *err)
{
	const char *text = fuse->base->config;
	tn_quant_config *quant = NULL;
	json_t *root;
	if (!text)
		return TN_OK;
	TN_TRY(changed_quantization(fuse, &quant, err));
	if (!quant && fuse->joint->edit_count == 0 && !(fuse->options.dequantize && is_quantized(fuse)))
		return tn_text_puts(out, text, err);
	tn_status status = tn_checkpoint_parse_config(fuse->base, &root, err);
	if (status == TN_OK) {
		status = write_config(fuse, root, quant, out, err);
		json_decref(root);
	}
	tn_quant_config_destroy(quant);
	return status;
}
