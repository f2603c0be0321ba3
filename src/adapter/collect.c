/* SPDX-License-Identifier: Apache-2.0 */
/* From tensors to modules: every tensor of the file becomes part of exactly one entry. */
#include "adapter/adapter.h"

#include "adapter/keys.h"
#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/sort.h"
#include "base/text.h"
#include "store/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { MOST_PARAMETERS = 32 };

/* One tensor and what its name says. */
struct part {
	struct tn_key key;
	const struct tn_tensor *tensor;
};

/* Parts of one module. */
struct group {
	const struct part *parts;
	size_t count;
	const struct tn_tensor *role[TN_KEY_IDLE + 1];
};

static int compare_parts(const void *a, const void *b)
{
	const struct part *x = a, *y = b;
	int order = strcmp(x->key.path, y->key.path);
	if (!order)
		order = (x->key.list_place > y->key.list_place) - (x->key.list_place < y->key.list_place);
	if (!order)
		order = (x->key.depth > y->key.depth) - (x->key.depth < y->key.depth);
	return order ? order : (int)x->key.role - (int)y->key.role;
}

/* ---- shapes ---------------------------------------------------------------------------------------------- */

static tn_status check_dtype(const struct tn_tensor *t, struct tn_error *err)
{
	if (t->dtype != TN_F32 && t->dtype != TN_F16 && t->dtype != TN_BF16 && t->dtype != TN_F64)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' has the dtype %s; F32, F16 or BF16 was expected",
			       t->name, tn_dtype_name(t->dtype));
	return TN_OK;
}

static tn_status check_dims(const struct tn_tensor *t, uint32_t low, uint32_t high, struct tn_error *err)
{
	TN_TRY(check_dtype(t, err));
	if (t->rank < low || t->rank > high)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.100s' has %u dimensions, %u were expected", t->name, t->rank, low);
	if (t->elements == 0)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.100s' is empty", t->name);
	return TN_OK;
}

/* PEFT: A [rank, in...], B [out, rank, 1...]. A convolution's kernel counts as inputs. */
static tn_status shape_peft(struct tn_adapter_entry *e, uint64_t *a_rank, uint64_t *b_rank, struct tn_error *err)
{
	const struct tn_tensor *a = e->a.tensor, *b = e->b.tensor;
	TN_TRY(check_dims(a, 2, 5, err));
	TN_TRY(check_dims(b, 2, 5, err));
	*a_rank = a->shape[0];
	*b_rank = b->elements / b->shape[0];
	e->module.in_features = a->elements / a->shape[0];
	e->module.out_features = b->shape[0];
	e->a.rank_stride = e->module.in_features;
	e->a.feature_stride = 1;
	e->b.rank_stride = 1;
	e->b.feature_stride = *b_rank;
	e->groups = 1;
	return TN_OK;
}

/* mlx-lm: A [in, rank], B [rank, out]; experts A [E, rank, in], B [E, out, rank], and once A [E * rank, in]. */
static tn_status shape_mlx(struct tn_adapter_entry *e, uint64_t *a_rank, uint64_t *b_rank, struct tn_error *err)
{
	const struct tn_tensor *a = e->a.tensor, *b = e->b.tensor;
	TN_TRY(check_dims(a, 2, 3, err));
	TN_TRY(check_dims(b, 2, 3, err));
	e->groups = 1;
	if (b->rank == 2 && a->rank == 2) {
		*a_rank = a->shape[1];
		*b_rank = b->shape[0];
		e->module.in_features = a->shape[0];
		e->module.out_features = b->shape[1];
		e->a.rank_stride = 1;
		e->a.feature_stride = *a_rank;
		e->b.rank_stride = e->module.out_features;
		e->b.feature_stride = 1;
		return TN_OK;
	}
	if (b->rank != 3 || (a->rank == 3 && a->shape[0] != b->shape[0]) || (a->rank == 2 && a->shape[0] % b->shape[0]))
		return tn_fail(err, TN_E_FORMAT, e->module.path, "the factors of '%.100s' have %u and %u dimensions and belong to "
			       "different numbers of experts", e->module.path, a->rank, b->rank);
	e->groups = b->shape[0];
	*a_rank = a->rank == 3 ? a->shape[1] : a->shape[0] / e->groups;
	*b_rank = b->shape[2];
	e->module.in_features = a->shape[a->rank - 1];
	e->module.out_features = b->shape[1];
	e->a.group_stride = *a_rank * e->module.in_features;
	e->a.rank_stride = e->module.in_features;
	e->a.feature_stride = 1;
	e->b.group_stride = e->module.out_features * *b_rank;
	e->b.rank_stride = 1;
	e->b.feature_stride = *b_rank;
	e->module.kind = TN_MODULE_EXPERTS;
	return TN_OK;
}

/* token_embd of llama.cpp: A [vocabulary, rank], B [width, rank]. */
static tn_status shape_table(struct tn_adapter_entry *e, uint64_t *a_rank, uint64_t *b_rank, struct tn_error *err)
{
	TN_TRY(check_dims(e->a.tensor, 2, 2, err));
	TN_TRY(check_dims(e->b.tensor, 2, 2, err));
	*a_rank = e->a.tensor->shape[1];
	*b_rank = e->b.tensor->shape[1];
	e->module.in_features = e->a.tensor->shape[0];
	e->module.out_features = e->b.tensor->shape[0];
	e->a.rank_stride = e->b.rank_stride = 1;
	e->a.feature_stride = *a_rank;
	e->b.feature_stride = *b_rank;
	e->groups = 1;
	return TN_OK;
}

/* ---- rank and scale -------------------------------------------------------------------------------------- */

static tn_status fail_rank(const tn_adapter *adapter, const char *path, uint64_t found, double expected,
			   struct tn_error *err)
{
	return tn_fail(err, TN_E_FORMAT, path, "the factors of '%.100s' have the rank %llu, and adapter_config.json of '%.100s' "
		       "says %g: the files are of two adapters", path, (unsigned long long)found, adapter->path, expected);
}

/* PEFT writes rank_pattern sorted by key, so where keys overlap the order of training is lost: then the tensor decides. */
static tn_status check_rank(const tn_adapter *adapter, const char *path, uint64_t found, struct tn_error *err)
{
	const struct tn_adapter_config *c = &adapter->config;
	double expected;
	int offered;
	if (c->adalora_rank) /* pruned module by module */
		return found <= c->adalora_rank ? TN_OK : fail_rank(adapter, path, found, (double)c->adalora_rank, err);
	TN_TRY(tn_pattern_value(&c->ranks, path, (double)c->rank, &expected, err));
	if (expected == (double)found)
		return TN_OK;
	TN_TRY(tn_pattern_offers(&c->ranks, path, (double)c->rank, (double)found, &offered, err));
	if (!offered)
		return fail_rank(adapter, path, found, expected, err);
	tn_logf(adapter->ctx, TN_LOG_INFO, "'%s' has rank %llu where the first pattern says %g: overlapping keys of "
		"rank_pattern lost their order when the file was written", path, (unsigned long long)found, expected);
	return TN_OK;
}

/* target_parameters: A [rank * E, in], B [out, rank * E]; expert e has rows e * rank.. of A and columns e, E + e, .. of B. */
static tn_status stack_experts(const tn_adapter *adapter, struct tn_adapter_entry *e, uint64_t a_rank, uint64_t b_rank,
			       struct tn_error *err)
{
	double rank;
	const char *path = e->module.path;
	TN_TRY(tn_pattern_value(&adapter->config.ranks, path, (double)adapter->config.rank, &rank, err));
	if (a_rank != b_rank || !(rank >= 1) || a_rank % (uint64_t)rank)
		return fail_rank(adapter, path, a_rank, rank, err);
	e->module.rank = (uint64_t)rank;
	e->groups = a_rank / e->module.rank;
	e->module.kind = e->groups > 1 ? TN_MODULE_EXPERTS : TN_MODULE_LORA;
	e->a.group_stride = e->module.rank * e->module.in_features;
	e->b.group_stride = 1;
	e->b.rank_stride = e->groups;
	return tn_effective_scale(&adapter->config, path, e->module.rank, &e->module.scale, err);
}

static int contains_any(const struct tn_name_rule *rule, const char *path)
{
	for (size_t i = 0; i < rule->count; i++)
		if (strstr(path, rule->names[i]))
			return 1;
	return 0;
}

/* BD-LoRA packs one of the factors: its diagonal blocks stand under each other. */
static tn_status unpack_blocks(const tn_adapter *adapter, struct tn_adapter_entry *e, uint64_t *b_rank,
			       struct tn_error *err)
{
	const struct tn_adapter_config *c = &adapter->config;
	e->a_blocks = e->b_blocks = 1;
	if (!c->bd_blocks)
		return TN_OK;
	int a = contains_any(&c->bd_a, e->module.path), b = contains_any(&c->bd_b, e->module.path);
	if (a && b)
		return tn_fail(err, TN_E_FORMAT, e->module.path, "use_bdlora names '%.100s' for both factors", e->module.path);
	if (!a && !b && c->bd_strict)
		return tn_fail(err, TN_E_FORMAT, e->module.path, "use_bdlora names '%.100s' for neither factor, and "
			       "match_strict is set", e->module.path);
	uint64_t split = a ? e->a.tensor->shape[0] : e->module.out_features;
	if ((a || b) && split % c->bd_blocks)
		return tn_fail(err, TN_E_FORMAT, e->module.path,
			       "'%.100s' is packed from %llu blocks, and %llu does not divide by that",
			       e->module.path, (unsigned long long)c->bd_blocks, (unsigned long long)split);
	if (a) {
		e->a_blocks = c->bd_blocks;
		e->module.in_features *= c->bd_blocks;
	} else if (b) {
		e->b_blocks = c->bd_blocks;
		*b_rank *= c->bd_blocks;
	}
	return TN_OK;
}

static tn_status measure(const tn_adapter *adapter, struct tn_adapter_entry *e, struct tn_error *err)
{
	uint64_t a_rank = 0, b_rank = 0;
	const char *path = e->module.path;
	e->a_blocks = e->b_blocks = 1;
	if (adapter->config.dialect == TN_DIALECT_GGUF && e->module.kind == TN_MODULE_EMBEDDING) {
		TN_TRY(shape_table(e, &a_rank, &b_rank, err));
	} else if (adapter->config.dialect == TN_DIALECT_MLX_LM ||
		   (adapter->config.dialect == TN_DIALECT_GGUF && e->b.tensor->rank == 3)) {
		TN_TRY(shape_mlx(e, &a_rank, &b_rank, err));
	} else {
		TN_TRY(shape_peft(e, &a_rank, &b_rank, err));
		if (e->of_parameter)
			return stack_experts(adapter, e, a_rank, b_rank, err);
		TN_TRY(unpack_blocks(adapter, e, &b_rank, err));
	}
	if (a_rank != b_rank)
		return tn_fail(err, TN_E_FORMAT, path, "the factors of '%.100s' have the ranks %llu and %llu: one of them is "
			       "of another adapter, or it is transposed", path, (unsigned long long)a_rank,
			       (unsigned long long)b_rank);
	e->module.rank = a_rank;
	if (adapter->config.dialect == TN_DIALECT_KOHYA || adapter->config.dialect == TN_DIALECT_GGUF)
		return TN_OK;
	TN_TRY(check_rank(adapter, path, a_rank, err));
	return tn_effective_scale(&adapter->config, path, a_rank, &e->module.scale, err);
}

/* ---- one module ------------------------------------------------------------------------------------------ */

static tn_status fail_half(const char *path, const char *has, const char *lacks, struct tn_error *err)
{
	return tn_fail(err, TN_E_FORMAT, path, "'%.100s' has %s and no %s.%s: half of the pair is missing from the file", path,
		       has, path, lacks);
}

static tn_status pick_factors(const tn_adapter *adapter, struct group *g, struct tn_adapter_entry *e, struct tn_error *err)
{
	int mlx = adapter->config.dialect == TN_DIALECT_MLX_LM;
	const char *path = e->module.path;
	const struct tn_tensor *const *role = g->role;
	int embedding = role[TN_KEY_EMBEDDING_A] || role[TN_KEY_EMBEDDING_B];
	e->a.tensor = role[embedding ? TN_KEY_EMBEDDING_A : TN_KEY_A];
	e->b.tensor = role[embedding ? TN_KEY_EMBEDDING_B : TN_KEY_B];
	if (embedding && (role[TN_KEY_A] || role[TN_KEY_B]))
		return tn_fail(err, TN_E_FORMAT, path, "'%.100s' has factors of a linear layer and of an embedding", path);
	if (!e->a.tensor && !e->b.tensor)
		return tn_fail(err, TN_E_FORMAT, path, "'%.100s' has '%.80s' and no factors", path, g->parts[0].tensor->name);
	if (!e->b.tensor)
		return fail_half(path, "lora_a", mlx ? "lora_b" : embedding ? "lora_embedding_B" : "lora_B", err);
	if (!e->a.tensor)
		return fail_half(path, "lora_b", mlx ? "lora_a" : embedding ? "lora_embedding_A" : "lora_A", err);
	mlx |= adapter->config.dialect == TN_DIALECT_GGUF;
	if (embedding || (mlx && e->b.tensor->rank == 2 && tn_path_is_embedding(path)))
		e->module.kind = TN_MODULE_EMBEDDING;
	e->magnitude = role[TN_KEY_MAGNITUDE];
	e->bias = role[TN_KEY_BIAS];
	e->diagonal = role[TN_KEY_DIAGONAL];
	return TN_OK;
}

/* A vector of `n` elements; dimensions of 1 do not count (convolutions). */
static tn_status check_vector(const struct tn_tensor *t, uint64_t n, const char *what, struct tn_error *err)
{
	TN_TRY(check_dtype(t, err));
	if (t->elements != n)
		return tn_fail(err, TN_E_FORMAT, t->name, "'%.100s' has %llu elements; the %s has %llu", t->name,
			       (unsigned long long)t->elements, what, (unsigned long long)n);
	return TN_OK;
}

static tn_status check_extras(const tn_adapter *adapter, struct tn_adapter_entry *e, struct tn_error *err)
{
	const struct tn_adapter_config *c = &adapter->config;
	const char *path = e->module.path;
	int mlx = c->dialect == TN_DIALECT_MLX_LM, dora = c->method == TN_METHOD_DORA;
	if (dora && e->module.kind == TN_MODULE_EXPERTS)
		return tn_fail(err, TN_E_UNSUPPORTED, path, "'%.100s' is a stack of experts, and there is no DoRA for these", path);
	if (dora && !e->magnitude)
		return tn_fail(err, TN_E_FORMAT, path, "'%.100s' has no %s.%s, which DoRA needs", path, path,
			       mlx ? "m" : "lora_magnitude_vector");
	if (!dora && e->magnitude)
		return tn_fail(err, TN_E_MISMATCH, e->magnitude->name, "'%.100s' is the magnitude of a DoRA, and "
			       "adapter_config.json does not say that this is one", e->magnitude->name);
	if (dora) {
		int embedding = e->module.kind == TN_MODULE_EMBEDDING;
		e->magnitude_of_inputs = mlx && embedding;
		e->module.kind = embedding ? TN_MODULE_EMBEDDING_DORA : TN_MODULE_DORA;
		TN_TRY(check_vector(e->magnitude, e->magnitude_of_inputs ? e->module.in_features : e->module.out_features,
				    e->magnitude_of_inputs ? "vocabulary" : "output", err));
	}
	if (e->bias && !c->lora_bias)
		return tn_fail(err, TN_E_MISMATCH, e->bias->name, "'%.100s' is there, and 'lora_bias' is not set", e->bias->name);
	if (e->bias)
		TN_TRY(check_vector(e->bias, e->module.out_features, "output", err));
	int scaled = c->base_change == TN_BASE_KASA || c->adalora_rank;
	if (e->diagonal && !scaled)
		return tn_fail(err, TN_E_MISMATCH, e->diagonal->name, "'%.100s' is there, and adapter_config.json says neither "
			       "KaSA nor AdaLoRA", e->diagonal->name);
	if (scaled && !e->diagonal)
		return tn_fail(err, TN_E_FORMAT, path, "'%.100s' has no %s", path,
			       c->adalora_rank ? "lora_E, which AdaLoRA needs" : "lora_diag, which KaSA needs");
	return e->diagonal ? check_vector(e->diagonal, e->module.rank, "rank", err) : TN_OK;
}

/* PEFT nests the parameters of one module: the last one that is registered stands outermost. */
static tn_status name_parameter(tn_adapter *adapter, const struct group *g, struct tn_adapter_entry *e,
				struct tn_error *err)
{
	const char *names[MOST_PARAMETERS], *path = e->module.path;
	if (adapter->config.parameters.count > MOST_PARAMETERS)
		return tn_fail(err, TN_E_LIMIT, path, "target_parameters has more than %d entries", (int)MOST_PARAMETERS);
	size_t n = tn_select_parameters(&adapter->config, path, names);
	int selected = 0;
	if (n && adapter->config.target.kind != TN_RULE_ABSENT)
		TN_TRY(tn_select_peft(&adapter->config, path, tn_path_is_head(path), &selected, err));
	unsigned depth = g->parts[0].key.depth;
	if (n == 0 || selected)
		return TN_OK;
	if (depth >= n)
		return tn_fail(err, TN_E_MISMATCH, path, "the file has %u parameters of '%.100s', and target_parameters names %zu",
			       depth + 1, path, n);
	e->of_parameter = 1;
	return tn_arena_printf(&adapter->arena, &e->module.path, err, "%s.%s", path, names[n - 1 - depth]);
}

/* kohya: alpha / rank, and 1 without an alpha. */
static tn_status read_alpha(const tn_adapter *adapter, const struct tn_tensor *alpha, struct tn_adapter_module *m,
			    struct tn_error *err)
{
	float value = (float)m->rank;
	if (alpha) {
		TN_TRY(check_vector(alpha, 1, "alpha", err));
		TN_TRY(tn_adapter_load_f32(adapter, alpha, &value, err));
	}
	m->scale = (double)value / (double)m->rank;
	return TN_OK;
}

static tn_status make_factors(tn_adapter *adapter, struct group *g, struct tn_adapter_entry *e, struct tn_error *err)
{
	e->module.path = g->parts[0].key.path;
	e->module.kind = TN_MODULE_LORA;
	e->is_attention_output = g->parts[0].key.is_inner;
	e->list_place = g->parts[0].key.list_place;
	TN_TRY(name_parameter(adapter, g, e, err));
	if (g->parts[0].key.depth && !e->of_parameter)
		return tn_fail(err, TN_E_UNSUPPORTED, e->module.path, "'%.100s' has factors below base_layer, and "
			       "target_parameters does not name a parameter of it", e->module.path);
	TN_TRY(pick_factors(adapter, g, e, err));
	TN_TRY(measure(adapter, e, err));
	TN_TRY(check_extras(adapter, e, err));
	if (adapter->config.dialect == TN_DIALECT_KOHYA)
		TN_TRY(read_alpha(adapter, g->role[TN_KEY_ALPHA], &e->module, err));
	if (adapter->config.dialect == TN_DIALECT_GGUF)
		e->module.scale = adapter->config.alpha != 0 ? adapter->config.alpha / (double)e->module.rank : 1;
	if (e->is_attention_output)
		e->module.scale *= 2;
	e->module.has_bias = e->bias != NULL;
	e->module.experts = e->module.kind == TN_MODULE_EXPERTS ? e->groups : 0;
	return TN_OK;
}

/* ---- tokens and whole tensors ---------------------------------------------------------------------------- */

static tn_status make_tokens(tn_adapter *adapter, const struct part *p, struct tn_adapter_entry *e, struct tn_error *err)
{
	const struct tn_adapter_config *c = &adapter->config;
	e->module.path = p->key.path;
	e->module.kind = TN_MODULE_TOKENS;
	e->values = p->tensor;
	TN_TRY(check_dims(p->tensor, 2, 2, err));
	for (size_t i = 0; i < c->token_count && !e->tokens; i++)
		if (!c->tokens[i].module || tn_ends_with(p->key.path, c->tokens[i].module))
			e->tokens = &c->tokens[i];
	if (!e->tokens || e->tokens->count != p->tensor->shape[0])
		return tn_fail(err, TN_E_MISMATCH, p->key.path, "'%.100s' holds %llu rows, and trainable_token_indices names %zu",
			       p->tensor->name, (unsigned long long)p->tensor->shape[0], e->tokens ? e->tokens->count : 0);
	e->module.in_features = p->tensor->shape[0];
	e->module.out_features = p->tensor->shape[1];
	return TN_OK;
}

/* Only what the configuration speaks of may replace a tensor of the base. */
static tn_status check_saved(const tn_adapter *adapter, const struct part *p, struct tn_error *err)
{
	const struct tn_adapter_config *c = &adapter->config;
	const char *name = p->key.path;
	char module[1024];
	int fine = c->dialect == TN_DIALECT_MLX_LM || (tn_ends_with(name, "bias") && strcmp(c->bias, "none") != 0);
	const char *dot = strrchr(name, '.');
	snprintf(module, sizeof module, "%.*s", (int)(dot ? dot - name : 0), name);
	fine = fine || tn_path_is_embedding(module) || tn_path_is_head(module);
	for (size_t i = 0; i < c->saved.count && !fine; i++)
		TN_TRY(tn_saved_covers(c, i, module, &fine, err));
	if (!fine)
		return tn_fail(err, TN_E_MISMATCH, name,
			       "'%.100s' is a whole tensor of the base, and neither modules_to_save "
			       "nor bias speaks of it; add its module to modules_to_save if it is meant to be replaced",
			       p->tensor->name);
	return check_dtype(p->tensor, err);
}

static tn_status make_saved(tn_adapter *adapter, const struct part *p, struct tn_adapter_entry *e, struct tn_error *err)
{
	if (adapter->config.dialect == TN_DIALECT_PEFT)
		TN_TRY(check_saved(adapter, p, err));
	e->module.path = p->key.path;
	e->module.kind = TN_MODULE_SAVED;
	e->values = p->tensor;
	e->module.out_features = p->tensor->rank ? p->tensor->shape[0] : 1;
	e->module.in_features = p->tensor->rank > 1 && p->tensor->shape[0] ? p->tensor->elements / p->tensor->shape[0] : 1;
	return TN_OK;
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

static tn_status make_entry(tn_adapter *adapter, struct group *g, struct tn_error *err)
{
	struct tn_adapter_entry *e = &adapter->entries[adapter->count];
	tn_key_role first = g->parts[0].key.role;
	for (size_t i = 0; i < g->count; i++) {
		const struct part *p = &g->parts[i];
		if (g->role[p->key.role] && p->key.role != TN_KEY_WHOLE)
			return tn_fail(err, TN_E_FORMAT, p->key.path, "'%.100s' and '%.100s' are the same part of one module",
				       g->role[p->key.role]->name, p->tensor->name);
		g->role[p->key.role] = p->tensor;
		e->module.parameters += p->tensor->elements;
	}
	if (first == TN_KEY_WHOLE)
		TN_TRY(make_saved(adapter, &g->parts[0], e, err));
	else if (first == TN_KEY_TOKENS)
		TN_TRY(make_tokens(adapter, &g->parts[0], e, err));
	else
		TN_TRY(make_factors(adapter, g, e, err));
	adapter->count++;
	return TN_OK;
}

static int compare_entries(const void *a, const void *b)
{
	const struct tn_adapter_entry *x = a, *y = b;
	int order = strcmp(x->module.path, y->module.path);
	return order ? order : (x->list_place > y->list_place) - (x->list_place < y->list_place);
}

/* How many of the parts belong together with the first. */
static size_t group_size(const struct part *parts, size_t count)
{
	const struct tn_key *first = &parts[0].key;
	int apart = first->role == TN_KEY_WHOLE || first->role == TN_KEY_TOKENS;
	size_t n = 1;
	for (; n < count && strcmp(parts[n].key.path, first->path) == 0; n++)
		if (parts[n].key.depth != first->depth || parts[n].key.list_place != first->list_place ||
		    (parts[n].key.role != first->role && (apart || parts[n].key.role >= TN_KEY_TOKENS)))
			break;
	return n;
}

static tn_status group_parts(tn_adapter *adapter, const struct part *parts, size_t count, struct tn_error *err)
{
	size_t entries = 0;
	for (size_t i = 0; i < count; i += group_size(parts + i, count - i))
		entries++;
	TN_TRY(tn_arena_array(&adapter->arena, entries, sizeof *adapter->entries, &adapter->entries, err));
	for (size_t i = 0; i < count;) {
		struct group g = { .parts = parts + i, .count = group_size(parts + i, count - i) };
		TN_TRY(make_entry(adapter, &g, err));
		i += g.count;
	}
	tn_sort(adapter->entries, adapter->count, sizeof *adapter->entries, compare_entries);
	return TN_OK;
}

static tn_status collect(tn_adapter *adapter, struct part *parts, struct tn_error *err)
{
	size_t count = tn_safetensors_count(adapter->file), n = 0;
	for (size_t i = 0; i < count; i++) {
		struct part *p = &parts[n];
		p->tensor = adapter->file->header.by_name[i]; /* nearly the order of modules */
		TN_TRY(tn_key_parse(&adapter->arena, &adapter->config, p->tensor->name, &p->key, err));
		if (p->key.role == TN_KEY_IDLE)
			tn_logf(adapter->ctx, TN_LOG_INFO, "'%s' has no effect on the weights", p->tensor->name);
		else
			n++;
	}
	tn_sort(parts, n, sizeof *parts, compare_parts);
	return group_parts(adapter, parts, n, err);
}

tn_status tn_adapter_collect(tn_adapter *adapter, struct tn_error *err)
{
	const struct tn_adapter_config *c = &adapter->config;
	size_t count = tn_safetensors_count(adapter->file);
	struct part *parts;
	int meant = c->has_keys && c->keys.count == 0;
	if (count == 0 && !meant)
		return tn_fail(err, TN_E_FORMAT, tn_safetensors_path(adapter->file),
			       "'%s' holds no tensor: nothing would be adapted", tn_safetensors_path(adapter->file));
	TN_TRY(tn_alloc_array(adapter->ctx, count, sizeof *parts, "adapter", &parts, err));
	tn_status status = collect(adapter, parts, err);
	tn_free_array(adapter->ctx, parts, count, sizeof *parts);
	return status;
}
