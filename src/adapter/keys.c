/* SPDX-License-Identifier: Apache-2.0 */
/* PEFT 0.21 (save_and_load.py, tuners_utils.py): base_model.model.<path>.lora_A.weight and its relatives;
 * mlx-lm 0.32.2: <path>.lora_a; kohya's sd-scripts: lora_te_<path with _ for .>.lora_down.weight. */
#include "adapter/keys.h"

#include "base/error.h"
#include "base/text.h"

#include <string.h>

enum { MOST_PARTS = 64 };

/* The parts of a dotted name. */
struct parts {
	const char *at[MOST_PARTS];
	size_t bytes[MOST_PARTS];
	size_t count;
};

static inline int is_text(const struct parts *p, size_t i, const char *text, size_t bytes)
{
	return i < p->count && p->bytes[i] == bytes && memcmp(text, p->at[i], bytes) == 0;
}
#define is_part(p, i, literal) is_text(p, i, literal, sizeof(literal) - 1)

static void remove_part(struct parts *p, size_t i)
{
	p->count--;
	memmove(p->at + i, p->at + i + 1, (p->count - i) * sizeof *p->at);
	memmove(p->bytes + i, p->bytes + i + 1, (p->count - i) * sizeof *p->bytes);
}

static tn_status split(const char *name, struct parts *p, struct tn_error *err)
{
	const char *at = name;
	p->count = 0;
	for (const char *dot; (dot = strchr(at, '.')) != NULL; at = dot + 1) {
		if (p->count == MOST_PARTS - 1)
			return tn_fail(err, TN_E_LIMIT, name, "the name '%.80s...' has more than %d parts", name, (int)MOST_PARTS);
		p->at[p->count] = at;
		p->bytes[p->count++] = (size_t)(dot - at);
	}
	p->at[p->count] = at;
	p->bytes[p->count++] = strlen(at);
	return TN_OK;
}

static tn_status join(struct tn_arena *arena, const struct parts *p, const char **out, struct tn_error *err)
{
	size_t bytes = 0;
	char *text;
	for (size_t i = 0; i < p->count; i++)
		bytes += p->bytes[i] + 1;
	TN_TRY(tn_arena_alloc(arena, bytes + 1, &text, err));
	*out = text;
	for (size_t i = 0; i < p->count; i++) {
		memcpy(text, p->at[i], p->bytes[i]);
		text += p->bytes[i];
		*text++ = i + 1 < p->count ? '.' : '\0';
	}
	return TN_OK;
}

/* ---- PEFT ------------------------------------------------------------------------------------------------ */

#define ROLE(name, role) { name, sizeof name - 1, role }
static const struct {
	const char *name;
	size_t bytes;
	tn_key_role role;
} peft_roles[] = {
	ROLE("lora_A", TN_KEY_A),
	ROLE("lora_B", TN_KEY_B),
	ROLE("lora_embedding_A", TN_KEY_EMBEDDING_A),
	ROLE("lora_embedding_B", TN_KEY_EMBEDDING_B),
	ROLE("lora_magnitude_vector", TN_KEY_MAGNITUDE),
	ROLE("lora_diag", TN_KEY_DIAGONAL),
	ROLE("lora_E", TN_KEY_DIAGONAL),
	ROLE("lora_velora_embed", TN_KEY_IDLE),
	ROLE("lora_monteclora_sampler", TN_KEY_IDLE),
	ROLE("trainable_tokens_delta", TN_KEY_TOKENS),
	ROLE("original_module", TN_KEY_IDLE),
};

static void strip_front(struct parts *p, const char *part)
{
	while (is_part(p, 0, part))
		remove_part(p, 0);
}

/* Training in parallel wraps the adapted model, or the base: its part stands in front of PEFT's, or behind. */
static void strip_wrappers(struct parts *p)
{
	strip_front(p, "module");
	if (is_part(p, 0, "base_model")) {
		remove_part(p, 0);
		if (is_part(p, 0, "model"))
			remove_part(p, 0);
	}
	strip_front(p, "module");
	for (size_t i = 0; i < p->count;)
		if (is_part(p, i, "_orig_mod") || is_part(p, i, "_fsdp_wrapped_module"))
			remove_part(p, i);
		else
			i++;
}

/* What follows the role: "", weight, bias, an adapter's name, or that and weight or bias. */
static int tail_fits(const struct parts *p, size_t at, tn_key_role *role)
{
	size_t n = p->count - at - 1;
	int is_bias = n > 0 && is_part(p, p->count - 1, "bias");
	if (*role == TN_KEY_IDLE)
		return n <= 3;
	if (n > 2 || (n == 2 && !is_bias && !is_part(p, p->count - 1, "weight")) || (is_bias && *role != TN_KEY_B))
		return 0;
	if (is_bias)
		*role = TN_KEY_BIAS;
	return 1;
}

/* The last part that names a role. */
static int find_role(const struct parts *p, size_t *at, tn_key_role *role)
{
	for (size_t i = p->count; i-- > 0;)
		for (size_t j = 0; j < sizeof peft_roles / sizeof *peft_roles; j++) {
			*role = peft_roles[j].role;
			*at = i;
			if (is_text(p, i, peft_roles[j].name, peft_roles[j].bytes) && tail_fits(p, i, role))
				return 1;
		}
	return 0;
}

static void strip_base_layers(struct parts *p, struct tn_key *key)
{
	for (; p->count && is_part(p, p->count - 1, "base_layer"); p->count--)
		key->depth++;
	for (size_t i = 0; i < p->count;)
		if (is_part(p, i, "base_layer")) {
			remove_part(p, i);
			key->is_inner = 1;
		} else {
			i++;
		}
}

/* X.modules_to_save.weight and X.modules_to_save.default.weight are X.weight; so is X.base_layer.weight. */
static void strip_saved(struct parts *p, struct tn_key *key)
{
	for (size_t i = 0; i < p->count;) {
		if (is_part(p, i, "modules_to_save")) {
			remove_part(p, i);
			if (i + 1 < p->count && is_part(p, i, "default"))
				remove_part(p, i);
		} else if (is_part(p, i, "base_layer")) {
			remove_part(p, i);
			key->of_base_layer = 1;
		} else if (is_part(p, i, "token_adapter")) {
			remove_part(p, i);
		} else {
			i++;
		}
	}
}

static tn_status parse_peft(struct tn_arena *arena, const char *name, struct tn_key *out, struct tn_error *err)
{
	struct parts p;
	size_t at;
	tn_key_role role;
	TN_TRY(split(name, &p, err));
	strip_wrappers(&p);
	*out = (struct tn_key){ .role = TN_KEY_WHOLE };
	if (find_role(&p, &at, &role)) {
		out->role = role;
		p.count = at;
		if (out->role == TN_KEY_TOKENS && p.count && is_part(&p, p.count - 1, "token_adapter"))
			p.count--;
		strip_base_layers(&p, out);
	} else {
		strip_saved(&p, out);
	}
	if (p.count == 0)
		return tn_fail(err, TN_E_FORMAT, name, "'%.100s' names no module", name);
	return join(arena, &p, &out->path, err);
}

/* ---- mlx-lm ---------------------------------------------------------------------------------------------- */

/* Takes ".<number>" off the end of name[0..*n) where that leaves a factor: its place in a list, from 1 on; 0: it has none. */
static unsigned take_list_place(const char *name, size_t *n)
{
	static const char *const factors[] = { ".lora_a", ".lora_b" };
	unsigned place = 0;
	size_t digits = 0, m = sizeof ".lora_a" - 1;
	while (digits < *n && name[*n - 1 - digits] >= '0' && name[*n - 1 - digits] <= '9')
		digits++;
	size_t rest = *n - digits;
	if (!digits || digits > 3 || rest < m + 1 || name[rest - 1] != '.')
		return 0;
	if (memcmp(name + rest - 1 - m, factors[0], m) != 0 && memcmp(name + rest - 1 - m, factors[1], m) != 0)
		return 0;
	for (size_t i = rest; i < *n; i++)
		place = 10 * place + (unsigned)(name[i] - '0');
	*n = rest - 1;
	return place + 1;
}

static tn_status parse_mlx(struct tn_arena *arena, const char *name, struct tn_key *out, struct tn_error *err)
{
	static const struct {
		const char *ending;
		tn_key_role role;
	} roles[] = { { ".lora_a", TN_KEY_A }, { ".lora_b", TN_KEY_B }, { ".m", TN_KEY_MAGNITUDE } };
	size_t n = strlen(name);
	const unsigned place = take_list_place(name, &n);
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
		size_t m = strlen(roles[i].ending);
		if (n <= m || memcmp(name + n - m, roles[i].ending, m) != 0)
			continue;
		*out = (struct tn_key){ .role = roles[i].role, .list_place = place };
		return tn_arena_text(arena, name, n - m, &out->path, err);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.100s' is not an adapter parameter: an mlx-lm adapter of that type holds "
		       "...lora_a, ...lora_b and, with dora, ...m. Whole tensors belong to fine_tune_type full", name);
}

/* ---- kohya ----------------------------------------------------------------------------------------------- */

static tn_status parse_kohya(struct tn_arena *arena, const char *name, struct tn_key *out, struct tn_error *err)
{
	static const struct {
		const char *ending;
		tn_key_role role;
	} roles[] = { { ".lora_down.weight", TN_KEY_A }, { ".lora_up.weight", TN_KEY_B }, { ".lora_A.weight", TN_KEY_A },
		      { ".lora_B.weight", TN_KEY_B }, { ".alpha", TN_KEY_ALPHA } };
	static const char *const fronts[] = { "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_",
					      "lycoris_" };
	int is_peft = tn_starts_with(name, "base_model."), is_mlx = tn_ends_with(name, ".lora_a") || tn_ends_with(name, ".lora_b");
	if (is_peft || is_mlx)
		return tn_fail(err, TN_E_NOTFOUND, name,
			       "'%.100s' is a name of %s, whose scale stands in adapter_config.json, and the file lies without "
			       "one: put the adapter_config.json that was saved with it beside it",
			       name, is_peft ? "PEFT" : "mlx-lm");
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
		if (!tn_ends_with(name, roles[i].ending) || strlen(name) == strlen(roles[i].ending))
			continue;
		const char *path = name;
		for (size_t k = 0; k < sizeof fronts / sizeof *fronts && path == name; k++)
			path += tn_starts_with(name, fronts[k]) ? strlen(fronts[k]) : 0;
		*out = (struct tn_key){ .role = roles[i].role };
		return tn_arena_text(arena, path, strlen(path) - strlen(roles[i].ending), &out->path, err);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.100s' is not lora_down, lora_up or alpha: tenon applies the LoRA and "
		       "LoCon of kohya files, and no LoHa, LoKr, DoRA, tucker or full differences", name);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------ */

static const char *const gguf_names[][2] = {
	{ "attn_q", "self_attn.q_proj" },    { "attn_k", "self_attn.k_proj" },      { "attn_v", "self_attn.v_proj" },
	{ "attn_output", "self_attn.o_proj" }, { "ffn_gate", "mlp.gate_proj" },     { "ffn_up", "mlp.up_proj" },
	{ "ffn_down", "mlp.down_proj" },     { "ffn_gate_inp", "mlp.gate" },        { "ffn_gate_exps", "mlp.switch_mlp.gate_proj" },
	{ "ffn_up_exps", "mlp.switch_mlp.up_proj" }, { "ffn_down_exps", "mlp.switch_mlp.down_proj" },
};

/* llama.cpp's names of weights, without ".weight", as Hugging Face has them. */
static tn_status name_gguf(struct tn_arena *arena, const char *name, size_t n, const char **out, struct tn_error *err)
{
	size_t digits = strspn(name + (n > 4 ? 4 : n), "0123456789");
	if (n == strlen("token_embd") && strncmp(name, "token_embd", n) == 0)
		return tn_arena_printf(arena, out, err, "model.embed_tokens");
	if (n == strlen("output") && strncmp(name, "output", n) == 0)
		return tn_arena_printf(arena, out, err, "lm_head");
	const char *rest = name + 4 + digits + 1;
	for (size_t i = 0; tn_starts_with(name, "blk.") && digits && i < sizeof gguf_names / sizeof *gguf_names; i++)
		if ((size_t)(rest - name) < n && strlen(gguf_names[i][0]) == n - (size_t)(rest - name) &&
		    memcmp(rest, gguf_names[i][0], strlen(gguf_names[i][0])) == 0)
			return tn_arena_printf(arena, out, err, "model.layers.%.*s.%s", (int)digits, name + 4, gguf_names[i][1]);
	return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.100s' is a weight for which tenon does not know the name in Hugging Face's "
		       "layout", name);
}

static tn_status parse_gguf(struct tn_arena *arena, const char *name, struct tn_key *out, struct tn_error *err)
{
	int is_b = tn_ends_with(name, ".weight.lora_b");
	if (!is_b && !tn_ends_with(name, ".weight.lora_a"))
		return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.100s' is not a factor (....weight.lora_a, ....weight.lora_b)",
			       name);
	*out = (struct tn_key){ .role = is_b ? TN_KEY_B : TN_KEY_A };
	return name_gguf(arena, name, strlen(name) - strlen(".weight.lora_a"), &out->path, err);
}

tn_status tn_key_parse(struct tn_arena *arena, const struct tn_adapter_config *config, const char *name,
		       struct tn_key *out, struct tn_error *err)
{
	if (config->dialect == TN_DIALECT_PEFT)
		return parse_peft(arena, name, out, err);
	if (config->dialect == TN_DIALECT_GGUF)
		return parse_gguf(arena, name, out, err);
	if (config->dialect == TN_DIALECT_KOHYA)
		return parse_kohya(arena, name, out, err);
	if (config->method == TN_METHOD_LORA || config->method == TN_METHOD_DORA)
		return parse_mlx(arena, name, out, err);
	*out = (struct tn_key){ .role = TN_KEY_WHOLE, .path = name };
	if (tn_ends_with(name, ".lora_a") || tn_ends_with(name, ".lora_b"))
		return tn_fail(err, TN_E_MISMATCH, name, "'%.100s' is a factor, and fine_tune_type is full: the files are of two "
			       "adapters", name);
	return TN_OK;
}
