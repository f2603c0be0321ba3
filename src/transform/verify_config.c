/* SPDX-License-Identifier: Apache-2.0 */
/* config.json says what is computed with the weights. Programs that save a model rewrite it, and rightly: they add fields, leave
 * out those that are their default, and know others by other names, or correct what older files say. What both files say of a field
 * that decides results must be the same. */
#include "transform/verify.h"

#include "base/error.h"
#include "base/file.h"
#include "store/checkpoint.h"
#include "store/json_doc.h"
#include "transform/fuse.h"

#include <string.h>

static const char *const fields[] = {
	"model_type", "tie_word_embeddings", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
	"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "num_local_experts", "num_experts",
	"num_experts_per_tok", "n_embd", "n_head", "n_layer", "hidden_act", "hidden_activation", "activation_function",
	"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "rope_scaling", "rope_parameters",
	"partial_rotary_factor", "sliding_window", "use_sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping",
	"final_logit_softcapping", "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling",
	"norm_topk_prob",
};

static int is_edited(const struct tn_joint *j, const char *key)
{
	for (size_t i = 0; i < j->edit_count; i++)
		if (strcmp(j->edits[i].key, key) == 0)
			return 1;
	return 0;
}

static int agree(const json_t *a, const json_t *b)
{
	if (!a || !b || json_is_null(a) || json_is_null(b))
		return 1;
	return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b) : json_equal(a, b);
}

/* One number for all layers, and a list with it for each of them (gemma3n's intermediate_size). */
static int is_repeated(const json_t *list, const json_t *number)
{
	if (!json_is_array(list) || !json_is_number(number))
		return 0;
	for (size_t i = 0; i < json_array_size(list); i++)
		if (!json_is_number(json_array_get(list, i)) || !agree(json_array_get(list, i), number))
			return 0;
	return json_array_size(list) > 0;
}

static int is_no_window(const json_t *window)
{
	return json_is_integer(window) && json_integer_value(window) == 0;
}

static int is_text(const json_t *value, const char *text)
{
	return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

/* What transformers 5 corrects: qwen2_moe's window is 0 where none is used, and the "gelu" of Gemma 1 always stood for the
 * approximation. */
static int is_corrected(const json_t *base, const json_t *merged, const char *field)
{
	const json_t *a = json_object_get(base, field), *b = json_object_get(merged, field);
	const json_t *type = json_object_get(base, "model_type");
	if (strcmp(field, "sliding_window") == 0)
		return is_text(type, "qwen2_moe") && is_no_window(b) && !json_is_true(json_object_get(base, "use_sliding_window"));
	return strcmp(field, "hidden_act") == 0 && is_text(type, "gemma") && is_text(a, "gelu") && is_text(b, "gelu_pytorch_tanh");
}

/* Of objects, which are ropes', the numbers that both have: programs write lists out or leave them out, and rename types. */
static int field_agrees(const json_t *a, const json_t *b)
{
	if (!json_is_object(a) || !json_is_object(b))
		return json_is_object(a) || json_is_object(b) || agree(a, b) || is_repeated(a, b) || is_repeated(b, a);
	for (void *at = json_object_iter((json_t *)(uintptr_t)a); at; at = json_object_iter_next((json_t *)(uintptr_t)a, at)) {
		const json_t *value = json_object_iter_value(at), *other = json_object_get(b, json_object_iter_key(at));
		if (json_is_number(value) && json_is_number(other) && !agree(value, other))
			return 0;
	}
	return 1;
}

static tn_status compare(const struct tn_joint *j, const json_t *base, const json_t *merged, const char *section, tn_verify *v,
			 struct tn_error *err)
{
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		const char *name;
		if (is_edited(j, fields[i]) || is_corrected(base, merged, fields[i]) ||
		    field_agrees(json_object_get(base, fields[i]), json_object_get(merged, fields[i])))
			continue;
		TN_TRY(tn_arena_printf(&v->arena, &name, err, "config.json: %s%s", section, fields[i]));
		v->tensors[v->count++] = (struct tn_verified_tensor){ .name = name, .verdict = TN_VERDICT_CHANGED,
								      .row = TN_VERIFY_NO_ROW };
	}
	return TN_OK;
}

/* A lone file has none. */
static tn_status miss_config(const tn_checkpoint *merged, tn_verify *v, struct tn_error *err)
{
	tn_path_kind kind;
	TN_TRY(tn_path_kind_of(merged->path, &kind, err));
	if (kind == TN_PATH_FOLDER)
		v->tensors[v->count++] = (struct tn_verified_tensor){ .name = "config.json", .verdict = TN_VERDICT_MISSING,
								      .row = TN_VERIFY_NO_ROW };
	return TN_OK;
}

size_t tn_verify_config_room(void)
{
	return 2 * sizeof fields / sizeof *fields;
}

tn_status tn_verify_config(const struct tn_fuse *fuse, const tn_checkpoint *merged, tn_verify *v, struct tn_error *err)
{
	json_t *base_root, *merged_root;
	if (!fuse->base->config)
		return TN_OK;
	if (!merged->config)
		return miss_config(merged, v, err);
	TN_TRY(tn_checkpoint_parse_config(fuse->base, &base_root, err));
	tn_status status = tn_checkpoint_parse_config(merged, &merged_root, err);
	if (status == TN_OK) {
		status = compare(fuse->joint, base_root, merged_root, "", v, err);
		if (status == TN_OK)
			status = compare(fuse->joint, json_object_get(base_root, "text_config"),
					 json_object_get(merged_root, "text_config"), "text_config.", v, err);
		json_decref(merged_root);
	}
	json_decref(base_root);
	return status;
}
