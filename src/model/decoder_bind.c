/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the modules and tensors that a config asks for, and checks their shapes. */
#include "base/error.h"
#include "model/decoder.h"
#include "weights/head_copy.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 256, REST_BYTES = 128 };

struct binder {
	tn_decoder *d;
	const tn_checkpoint *base;
	const char *prefix;        /* "model." */
	const char *head;          /* "lm_head" */
};

/* Where the parts of a decoder stand in files of Hugging Face and MLX, and where its head does. */
static const struct {
	const char *prefix, *head;
} places[] = {
	{ "model.", "lm_head" },
	{ "transformer.", "lm_head" },
	{ "language_model.model.", "language_model.lm_head" },
	{ "model.language_model.", "lm_head" },
	{ "", "lm_head" },
};

static tn_status remember(tn_decoder *d, size_t module, struct tn_error *err)
{
	TN_TRY(tn_grow(d->ctx, &d->modules, &d->module_capacity, d->module_count + 1, sizeof *d->modules, "modules", err));
	d->modules[d->module_count++] = module;
	return TN_OK;
}

/* ---- one module ------------------------------------------------------------------------------------------ */

enum bias { NO_BIAS, WITH_BIAS, ANY_BIAS };

static tn_status check_shape(tn_decoder *d, const char *name, size_t module, uint64_t out, uint64_t in, enum bias bias,
			     uint64_t experts, struct tn_error *err)
{
	struct tn_module_shape s;
	tn_live_shape(d->live, module, &s);
	if (s.out_features != out || s.in_features != in || s.experts != experts)
		return tn_fail(err, TN_E_MISMATCH, name,
			       "'%.200s' is [%llu, %llu]%s; by config.json [%llu, %llu] was expected", name,
			       (unsigned long long)s.out_features, (unsigned long long)s.in_features,
			       s.experts ? " for each expert" : "", (unsigned long long)out, (unsigned long long)in);
	if (bias == WITH_BIAS && !s.has_bias)
		return tn_fail(err, TN_E_MISMATCH, name, "'%.200s' has no bias, and by config.json there is one", name);
	if (bias == NO_BIAS && s.has_bias)
		return tn_fail(err, TN_E_MISMATCH, name, "'%.200s' has a bias, and by config.json there is none", name);
	return TN_OK;
}

static tn_status bind_path(struct binder *b, const char *path, uint64_t out, uint64_t in, enum bias bias, size_t *module,
			   struct tn_error *err)
{
	*module = tn_live_module(b->d->live, path);
	if (*module == TN_LIVE_NONE)
		return tn_fail(err, TN_E_MISMATCH, path, "the checkpoint has no module '%.200s', and config.json asks for it",
			       path);
	TN_TRY(check_shape(b->d, path, *module, out, in, bias, 0, err));
	return remember(b->d, *module, err);
}

static void layer_path(const struct binder *b, char path[NAME_BYTES], uint64_t layer, const char *rest)
{
	snprintf(path, NAME_BYTES, "%s%s%llu.%s", b->prefix, b->d->config.architecture->names->layers,
		 (unsigned long long)layer, rest);
}

static tn_status bind(struct binder *b, uint64_t layer, const char *rest, uint64_t out, uint64_t in, int bias, size_t *module,
		      struct tn_error *err)
{
	char path[NAME_BYTES];
	layer_path(b, path, layer, rest);
	return bind_path(b, path, out, in, bias ? WITH_BIAS : NO_BIAS, module, err);
}

/* ---- norms ----------------------------------------------------------------------------------------------- */

static tn_status bind_tensor(struct binder *b, const char *path, const char *part, uint64_t width, size_t *tensor,
			     struct tn_error *err)
{
	char name[NAME_BYTES + 16];
	uint64_t n = 0;
	snprintf(name, sizeof name, "%s.%s", path, part);
	*tensor = tn_live_tensor(b->d->live, name);
	if (*tensor == TN_LIVE_NONE)
		return tn_fail(err, TN_E_MISMATCH, name, "the checkpoint has no tensor '%.200s', and config.json asks for it",
			       name);
	tn_snapshot *snapshot = tn_live_snapshot(b->d->live);
	const float *data = tn_snapshot_tensor(snapshot, *tensor, TN_LIVE_DEFAULT, &n);
	tn_snapshot_release(snapshot);
	if (!data || n != width)
		return tn_fail(err, TN_E_MISMATCH, name, "'%.200s' has %llu elements; by config.json %llu were expected", name,
			       (unsigned long long)n, (unsigned long long)width);
	return TN_OK;
}

static tn_status bind_norm_path(struct binder *b, const char *path, uint64_t width, struct tn_norm *norm,
				struct tn_error *err)
{
	TN_TRY(bind_tensor(b, path, "weight", width, &norm->weight, err));
	if (b->d->config.architecture->traits & TN_LAYER_NORM)
		TN_TRY(bind_tensor(b, path, "bias", width, &norm->bias, err));
	return TN_OK;
}

static tn_status bind_norm(struct binder *b, uint64_t layer, const char *rest, uint64_t width, struct tn_norm *norm,
			   struct tn_error *err)
{
	char path[NAME_BYTES];
	if (!rest)
		return TN_OK;
	layer_path(b, path, layer, rest);
	return bind_norm_path(b, path, width, norm, err);
}

/* ---- parts of a layer ------------------------------------------------------------------------------------ */

static tn_status bind_attention(struct binder *b, uint64_t i, struct tn_decoder_layer *l, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_part_names *n = c->architecture->names;
	const uint64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
	const unsigned traits = c->architecture->traits;
	if (traits & TN_FUSED_QKV) {
		TN_TRY(bind(b, i, n->qkv, q + 2 * kv, c->hidden, c->qkv_bias, &l->qkv, err));
	} else {
		TN_TRY(bind(b, i, n->q, q, c->hidden, c->qkv_bias, &l->q, err));
		TN_TRY(bind(b, i, n->k, kv, c->hidden, c->qkv_bias, &l->k, err));
		TN_TRY(bind(b, i, n->v, kv, c->hidden, c->qkv_bias, &l->v, err));
	}
	TN_TRY(bind(b, i, n->o, c->hidden, q, c->o_bias, &l->o, err));
	if (traits & (TN_QK_NORM | TN_QK_NORM_WHOLE)) {
		const int whole = (traits & TN_QK_NORM_WHOLE) != 0;
		TN_TRY(bind_norm(b, i, n->q_norm, whole ? q : c->head_dim, &l->q_norm, err));
		TN_TRY(bind_norm(b, i, n->k_norm, whole ? kv : c->head_dim, &l->k_norm, err));
	}
	return TN_OK;
}

static tn_status bind_mlp(struct binder *b, uint64_t i, struct tn_mlp *mlp, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_part_names *n = c->architecture->names;
	const uint64_t width = c->intermediate;
	mlp->width = width;
	if (c->architecture->traits & TN_FUSED_GATE_UP) {
		TN_TRY(bind(b, i, n->gate_up, 2 * width, c->hidden, c->mlp_bias, &mlp->gate_up, err));
	} else {
		if (!(c->architecture->traits & TN_PLAIN_MLP))
			TN_TRY(bind(b, i, n->gate, width, c->hidden, c->mlp_bias, &mlp->gate, err));
		TN_TRY(bind(b, i, n->up, width, c->hidden, c->mlp_bias, &mlp->up, err));
	}
	return bind(b, i, n->down, c->hidden, width, c->mlp_bias, &mlp->down, err);
}

static tn_status bind_expert(struct binder *b, uint64_t i, uint64_t expert, struct tn_mlp *mlp, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_part_names *n = c->architecture->names;
	const char *const parts[] = { n->expert_gate, n->expert_up, n->expert_down };
	size_t *const modules[] = { &mlp->gate, &mlp->up, &mlp->down };
	mlp->width = c->expert_intermediate;
	for (int p = 0; p < 3; p++) {
		char rest[REST_BYTES];
		snprintf(rest, sizeof rest, "%sexperts.%llu.%s", n->experts, (unsigned long long)expert, parts[p]);
		TN_TRY(bind(b, i, rest, p == 2 ? c->hidden : mlp->width, p == 2 ? mlp->width : c->hidden, 0, modules[p], err));
	}
	return TN_OK;
}

/* MLX keeps the experts of a layer in one stack. */
static tn_status bind_stack(struct binder *b, uint64_t i, struct tn_mlp *mlp, struct tn_error *err)
{
	static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
	const struct tn_decoder_config *c = &b->d->config;
	size_t *const modules[] = { &mlp->gate, &mlp->up, &mlp->down };
	mlp->width = c->expert_intermediate;
	for (int p = 0; p < 3; p++) {
		char rest[REST_BYTES], path[NAME_BYTES];
		snprintf(rest, sizeof rest, "%sswitch_mlp.%s", c->architecture->names->experts, parts[p]);
		layer_path(b, path, i, rest);
		*modules[p] = tn_live_module(b->d->live, path);
		if (*modules[p] == TN_LIVE_NONE)
			return tn_fail(err, TN_E_MISMATCH, path, "the checkpoint has no module '%.200s'", path);
		TN_TRY(check_shape(b->d, path, *modules[p], p == 2 ? c->hidden : mlp->width, p == 2 ? mlp->width : c->hidden,
				   NO_BIAS, c->experts, err));
		TN_TRY(remember(b->d, *modules[p], err));
	}
	return TN_OK;
}

static const struct tn_mlp no_mlp = { TN_LIVE_NONE, TN_LIVE_NONE, TN_LIVE_NONE, TN_LIVE_NONE, 0 };

static tn_status bind_shared(struct binder *b, uint64_t i, struct tn_decoder_layer *l, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_part_names *n = c->architecture->names;
	char rest[REST_BYTES];
	l->mlp.width = c->shared_intermediate;
	snprintf(rest, sizeof rest, "%sgate_proj", n->shared);
	TN_TRY(bind(b, i, rest, l->mlp.width, c->hidden, 0, &l->mlp.gate, err));
	snprintf(rest, sizeof rest, "%sup_proj", n->shared);
	TN_TRY(bind(b, i, rest, l->mlp.width, c->hidden, 0, &l->mlp.up, err));
	snprintf(rest, sizeof rest, "%sdown_proj", n->shared);
	TN_TRY(bind(b, i, rest, c->hidden, l->mlp.width, 0, &l->mlp.down, err));
	return bind(b, i, n->shared_gate, 1, c->hidden, 0, &l->shared_gate, err);
}

static tn_status bind_experts(struct binder *b, uint64_t i, struct tn_decoder_layer *l, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_part_names *n = c->architecture->names;
	char rest[REST_BYTES], path[NAME_BYTES];
	struct tn_mlp *experts;
	snprintf(rest, sizeof rest, "%sswitch_mlp.gate_proj", n->experts);
	layer_path(b, path, i, rest);
	l->stacked = tn_live_module(b->d->live, path) != TN_LIVE_NONE;
	const uint64_t count = l->stacked ? 1 : c->experts;
	TN_TRY(tn_arena_array(&b->d->arena, count, sizeof *experts, &experts, err));
	l->expert = experts;
	for (uint64_t e = 0; e < count; e++) {
		experts[e] = no_mlp;
		TN_TRY(l->stacked ? bind_stack(b, i, experts, err) : bind_expert(b, i, e, &experts[e], err));
	}
	TN_TRY(bind(b, i, n->router, c->experts, c->hidden, 0, &l->router, err));
	return c->architecture->traits & TN_SHARED_EXPERT ? bind_shared(b, i, l, err) : TN_OK;
}

static tn_status bind_layer(struct binder *b, uint64_t i, struct tn_decoder_layer *l, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_norm none = { TN_LIVE_NONE, TN_LIVE_NONE };
	*l = (struct tn_decoder_layer){
		.config = &c->layer[i], .norm = { none, none, none, none }, .q_norm = none, .k_norm = none, .q = TN_LIVE_NONE,
		.k = TN_LIVE_NONE, .v = TN_LIVE_NONE, .qkv = TN_LIVE_NONE, .o = TN_LIVE_NONE, .mlp = no_mlp,
		.router = TN_LIVE_NONE, .shared_gate = TN_LIVE_NONE,
	};
	for (int k = 0; k < 4; k++)
		TN_TRY(bind_norm(b, i, c->architecture->names->norm[k], c->hidden, &l->norm[k], err));
	TN_TRY(bind_attention(b, i, l, err));
	return l->config->has_experts ? bind_experts(b, i, l, err) : bind_mlp(b, i, &l->mlp, err);
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

static int find_place(struct binder *b)
{
	char path[NAME_BYTES];
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		b->prefix = places[i].prefix;
		b->head = places[i].head;
		snprintf(path, sizeof path, "%s%s", b->prefix, b->d->config.architecture->names->embedding);
		if (tn_live_module(b->d->live, path) != TN_LIVE_NONE)
			return 1;
	}
	return 0;
}

/* Weights of GPT-2 lie [in, out] in files of Hugging Face, and [out, in] in those of MLX. The fused matrix tells: the others
 * may be square. */
static tn_status turn_conv1d(struct binder *b, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	const struct tn_part_names *n = c->architecture->names;
	const char *const modules[] = { n->qkv, n->o, n->up, n->down };
	struct tn_module_shape s;
	char path[NAME_BYTES];
	layer_path(b, path, 0, n->qkv);
	size_t first = tn_live_module(b->d->live, path);
	if (first == TN_LIVE_NONE)
		return TN_OK;
	tn_live_shape(b->d->live, first, &s);
	const int turned = s.out_features == c->hidden && s.in_features == 3 * c->hidden;
	for (uint64_t i = 0; i < c->layers; i++)
		for (int k = 0; k < 4; k++) {
			layer_path(b, path, i, modules[k]);
			size_t module = tn_live_module(b->d->live, path);
			if (turned && module != TN_LIVE_NONE)
				TN_TRY(tn_live_transpose(b->d->live, module, err));
		}
	return TN_OK;
}

/* A tied head is the embedding's matrix; the live base has a module for it, which an adapter may untie. */
static tn_status bind_head(struct binder *b, struct tn_error *err)
{
	const struct tn_decoder_config *c = &b->d->config;
	char name[NAME_BYTES];
	snprintf(name, sizeof name, "%s.weight", b->head);
	if (!c->tied && !tn_checkpoint_find(b->base, name))
		return tn_fail(err, TN_E_MISMATCH, name,
			       "the checkpoint has no tensor '%.200s', and config.json does not tie the head", name);
	if (c->tied) {
		char embedding[NAME_BYTES];
		snprintf(embedding, sizeof embedding, "%s%s.weight", b->prefix, c->architecture->names->embedding);
		TN_TRY(tn_check_head_copy(b->base, embedding, name, err));
	}
	if (tn_live_module(b->d->live, b->head) != TN_LIVE_NONE)
		return bind_path(b, b->head, c->vocabulary, c->hidden, ANY_BIAS, &b->d->head, err);
	b->d->head = b->d->embedding;
	return TN_OK;
}

static tn_status bind_ends(struct binder *b, struct tn_error *err)
{
	tn_decoder *d = b->d;
	const struct tn_decoder_config *c = &d->config;
	char path[NAME_BYTES];
	snprintf(path, sizeof path, "%s%s", b->prefix, c->architecture->names->embedding);
	TN_TRY(bind_path(b, path, c->vocabulary, c->hidden, ANY_BIAS, &d->embedding, err));
	TN_TRY(bind_head(b, err));
	if (c->architecture->names->positions) {
		snprintf(path, sizeof path, "%s%s", b->prefix, c->architecture->names->positions);
		TN_TRY(bind_path(b, path, c->context, c->hidden, ANY_BIAS, &d->positions, err));
	}
	d->final_norm.bias = TN_LIVE_NONE;
	snprintf(path, sizeof path, "%s%s", b->prefix, c->architecture->names->final_norm);
	return bind_norm_path(b, path, c->hidden, &d->final_norm, err);
}

tn_status tn_decoder_bind(tn_decoder *d, const tn_checkpoint *base, struct tn_error *err)
{
	struct binder b = { .d = d, .base = base };
	if (!find_place(&b))
		return tn_fail(err, TN_E_MISMATCH, d->config.architecture->names->embedding,
			       "the checkpoint has no embedding under a name that '%s' uses", d->config.architecture->model_type);
	if (d->config.architecture->traits & TN_CONV1D)
		TN_TRY(turn_conv1d(&b, err));
	TN_TRY(bind_ends(&b, err));
	TN_TRY(tn_arena_array(&d->arena, d->config.layers, sizeof *d->layer, &d->layer, err));
	for (uint64_t i = 0; i < d->config.layers; i++)
		TN_TRY(bind_layer(&b, i, &d->layer[i], err));
	return TN_OK;
}
