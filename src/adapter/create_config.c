/* SPDX-License-Identifier: Apache-2.0 */
/* adapter_config.json as PEFT 0.21 and mlx-lm 0.32.2 write it. */
#include "adapter/create.h"

#include "base/error.h"
#include "store/json_doc.h"
#include "store/json_text.h"

#include <string.h>

/* What LoraConfig(...).save_pretrained writes; what a draft decides is set in it. */
static const char peft_defaults[] =
	"{\"alora_invocation_tokens\": null, \"alpha_pattern\": {}, \"arrow_config\": null, \"auto_mapping\": null, "
	"\"base_model_name_or_path\": null, \"bias\": \"none\", \"corda_config\": null, \"ensure_weight_tying\": false, "
	"\"eva_config\": null, \"exclude_modules\": null, \"fan_in_fan_out\": false, \"inference_mode\": true, "
	"\"init_lora_weights\": true, \"kasa_config\": null, \"layer_replication\": null, \"layers_pattern\": null, "
	"\"layers_to_transform\": null, \"loftq_config\": {}, \"lora_alpha\": 8, \"lora_bias\": false, \"lora_dropout\": 0.0, "
	"\"lora_ga_config\": null, \"megatron_config\": null, \"megatron_core\": \"megatron.core\", \"modules_to_save\": null, "
	"\"monteclora_config\": null, \"peft_type\": \"LORA\", \"peft_version\": \"0.21.2\", \"qalora_group_size\": 16, "
	"\"r\": 8, \"rank_pattern\": {}, \"revision\": null, \"target_modules\": [], \"target_parameters\": null, "
	"\"task_type\": null, \"trainable_token_indices\": null, \"use_bdlora\": null, \"use_dora\": false, "
	"\"use_qalora\": false, \"use_rslora\": false, \"velora_config\": null}";

static const char mlx_defaults[] =
	"{\"fine_tune_type\": \"lora\", \"lora_parameters\": {\"rank\": 8, \"dropout\": 0.0, \"scale\": 20.0}}";

/* A document that is being filled; the first failure sticks. */
struct filler {
	int failed;
};

static void set(struct filler *f, json_t *object, const char *key, json_t *value)
{
	if (!value || json_object_set_new(object, key, value) != 0)
		f->failed = 1;
}

static json_t *name_list(struct filler *f, const char **names, size_t count)
{
	json_t *list = json_array();
	for (size_t i = 0; i < count; i++)
		if (json_array_append_new(list, json_string(names[i])) != 0)
			f->failed = 1;
	return list;
}

/* As Python writes them: a whole number of alpha as an integer. */
static json_t *number(double x)
{
	json_int_t whole = x < 1e15 && x > -1e15 ? (json_int_t)x : 0;
	return whole != 0 && (double)whole == x ? json_integer(whole) : json_real(x);
}

static void fill_pattern(struct filler *f, json_t *root, const char *key, const struct tn_choice_value *values, size_t count)
{
	for (size_t i = 0; i < count; i++)
		set(f, json_object_get(root, key), values[i].key, number(values[i].value));
}

/* Without a module for factors PEFT wants this name. */
static void fill_wholes(struct filler *f, json_t *root, const struct tn_choice *c)
{
	int only_wholes = !c->name_count && !c->parameter_count;
	if (c->bias)
		set(f, root, "bias", json_string("all"));
	if (c->saved_count)
		set(f, root, "modules_to_save", name_list(f, c->saved, c->saved_count));
	if (only_wholes && (c->bias || c->saved_count || c->token_count))
		set(f, root, "target_modules", json_string("dummy-target-modules"));
	if (c->token_count)
		set(f, root, "trainable_token_indices", json_object());
	for (size_t i = 0; i < c->token_count; i++) {
		json_t *list = json_array();
		for (uint64_t k = 0; k < c->tokens[i].count; k++)
			if (json_array_append_new(list, json_integer((json_int_t)c->tokens[i].indices[k])) != 0)
				f->failed = 1;
		set(f, json_object_get(root, "trainable_token_indices"), c->tokens[i].module, list);
	}
}

static void fill_peft(struct filler *f, json_t *root, const struct tn_choice *c, const struct tn_base_modules *m)
{
	const struct tn_create_options *o = c->options;
	int conv1d = 0;
	for (size_t i = 0; i < m->count; i++)
		conv1d |= m->items[i].chosen && m->items[i].is_conv1d;
	set(f, root, "r", json_integer((json_int_t)o->rank));
	set(f, root, "lora_alpha", number(c->alpha));
	set(f, root, "lora_dropout", json_real(o->dropout));
	set(f, root, "use_dora", json_boolean(o->dora));
	set(f, root, "fan_in_fan_out", json_boolean(conv1d));
	set(f, root, "target_modules", name_list(f, c->names, c->name_count));
	if (c->parameter_count)
		set(f, root, "target_parameters", name_list(f, c->parameters, c->parameter_count));
	if (o->init == TN_INIT_GAUSSIAN)
		set(f, root, "init_lora_weights", json_string("gaussian"));
	if (o->task_type)
		set(f, root, "task_type", json_string(o->task_type));
	if (c->lora_bias)
		set(f, root, "lora_bias", json_true());
	fill_wholes(f, root, c);
	fill_pattern(f, root, "rank_pattern", c->ranks, c->rank_count);
	fill_pattern(f, root, "alpha_pattern", c->alphas, c->alpha_count);
	if (!c->layer_count)
		return;
	json_t *layers = json_array();
	for (size_t i = 0; i < c->layer_count; i++)
		if (json_array_append_new(layers, json_integer((json_int_t)c->layers[i])) != 0)
			f->failed = 1;
	set(f, root, "layers_to_transform", layers);
}

static void fill_mlx(struct filler *f, json_t *root, const struct tn_choice *c)
{
	const struct tn_create_options *o = c->options;
	json_t *p = json_object_get(root, "lora_parameters");
	set(f, root, "fine_tune_type", json_string(c->full ? "full" : o->dora ? "dora" : "lora"));
	set(f, root, "num_layers", json_integer(c->num_layers));
	set(f, root, "seed", json_integer((json_int_t)o->seed));
	if (c->full) {
		set(f, root, "lora_parameters", json_null());
		return;
	}
	set(f, p, "rank", json_integer((json_int_t)o->rank));
	set(f, p, "dropout", json_real(o->dropout));
	set(f, p, "scale", json_real(c->scale));
	set(f, p, "keys", name_list(f, c->names, c->name_count));
}

static tn_status print(struct tn_arena *arena, const json_t *root, int indent, const char **out, struct tn_error *err)
{
	struct tn_json_style style = { .indent = indent, .ascii = 1, .sort_keys = 1 };
	struct tn_text text;
	tn_text_init(&text, arena->ctx);
	tn_status status = tn_json_add_value(&text, root, &style, err);
	if (status == TN_OK)
		status = tn_arena_text(arena, text.data, text.length, out, err);
	tn_text_release(&text);
	return status;
}

tn_status tn_create_config(struct tn_arena *arena, const struct tn_choice *c, const struct tn_base_modules *m,
			   const char *base_path, const char **out, struct tn_error *err)
{
	const struct tn_create_options *o = c->options;
	const char *defaults = m->peft ? peft_defaults : mlx_defaults;
	struct filler f = { 0 };
	json_t *root;
	TN_TRY(tn_json_parse(arena->ctx, defaults, strlen(defaults), "adapter_config.json", &root, err));
	json_t *name = json_string(o->base_name ? o->base_name : base_path);
	if (name || o->base_name) /* a path need not be UTF-8, and nobody needs its name */
		set(&f, root, m->peft ? "base_model_name_or_path" : "model", name);
	if (m->peft)
		fill_peft(&f, root, c, m);
	else
		fill_mlx(&f, root, c);
	tn_status status = f.failed ? tn_fail(err, TN_E_ARG, "adapter_config.json", "memory ran out, or a name in the "
							"configuration is not UTF-8")
				    : print(arena, root, m->peft ? 2 : 4, out, err);
	json_decref(root);
	return status;
}
