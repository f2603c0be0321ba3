/* SPDX-License-Identifier: Apache-2.0 */
/* New adapters beside those that the real libraries made: names, shapes and configuration of every plain case of
 * data/peft.tar.xz (PEFT 0.21) and data/mlx_adapters.tar.xz (mlx-lm 0.32.2) on the same base; numbers against data/create.json
 * (make_create_vectors.py). */
#include "adapterlib.h"

#include "adapter/create.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KEYS = 16 };

static int is_one_of(const char *name, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(name, *list) == 0)
			return 1;
	return 0;
}

/* The options and the texts that they point to. */
struct wish {
	struct tn_create_options options;
	const char *keys[MOST_KEYS];
};

static void add_keys(struct wish *w, const json_t *names)
{
	for (size_t i = 0; i < json_array_size(names); i++)
		w->keys[w->options.key_count++] = json_string_value(json_array_get(names, i));
	if (json_is_string(names))
		w->keys[w->options.key_count++] = json_string_value(names);
	w->options.keys = w->keys;
}

static tn_draft *draft_for(struct al *t, const char *folder, const struct wish *w)
{
	tn_checkpoint *base;
	tn_draft *draft;
	al_ok(t, tn_checkpoint_open(t->ctx, folder, &base, &t->err));
	al_ok(t, tn_draft_create(base, &w->options, &draft, &t->err));
	tn_checkpoint_close(base);
	return draft;
}

/* Every name of `expected` with its shape, and no other. PEFT also copies whole base tensors of embeddings. */
static void compare_shapes(const char *name, const tn_draft *draft, const json_t *expected)
{
	const char *key;
	json_t *value;
	size_t count = 0;
	json_object_foreach((json_t *)(uintptr_t)expected, key, value) {
		const json_t *shape = json_is_string(json_array_get(value, 0)) ? json_array_get(value, 1) : value;
		const struct tn_parameter *p = tn_draft_find(draft, key);
		if (strstr(key, ".base_layer.weight"))
			continue;
		if (!p || p->rank != json_array_size(shape))
			fail_msg("%s: no parameter %s of that rank", name, key);
		for (uint32_t i = 0; i < p->rank; i++)
			assert_int_equal(p->shape[i], json_integer_value(json_array_get(shape, i)));
		count++;
	}
	assert_int_equal(tn_draft_count(draft), count);
	for (size_t i = 0; i < count; i++) {
		const struct tn_parameter *p = tn_draft_at(draft, i);
		assert_ptr_equal(p, tn_draft_find(draft, p->name));
		assert_ptr_equal(p, tn_draft_of(draft, p->module, p->role));
		assert_true(i == 0 || strcmp(tn_draft_at(draft, i - 1)->name, p->name) < 0);
	}
}

static int same_names(const json_t *a, const json_t *b)
{
	size_t n = json_array_size(a), found = 0;
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < json_array_size(b); k++)
			found += json_equal(json_array_get(a, i), json_array_get(b, k));
	return n == json_array_size(b) && found == n;
}

/* Saves, opens, and holds the configuration against that of the case; the order of a set is not told. */
static void compare_config(struct al *t, const char *name, const tn_draft *draft, const char *theirs, const char *const *skipped)
{
	char path[700];
	const char *out = al_path(t, "new_%s", name), *key;
	tn_adapter *adapter;
	json_t *value;
	al_ok(t, tn_draft_save(draft, out, 0, &t->err));
	snprintf(path, sizeof path, "%s/adapter_config.json", out);
	json_t *ours = al_json(path);
	snprintf(path, sizeof path, "%s/adapter_config.json", theirs);
	json_t *expected = al_json(path);
	json_object_foreach(expected, key, value) {
		const json_t *found = json_object_get(ours, key);
		if (is_one_of(key, skipped))
			continue;
		if (!found || !(json_is_array(value) ? same_names(found, value) : json_equal(found, value)))
			fail_msg("%s: '%s' is not that of the library", name, key);
	}
	json_decref(ours);
	json_decref(expected);
	al_ok(t, tn_adapter_open(t->ctx, out, &adapter, &t->err));
	assert_int_equal(tn_adapter_parameters(adapter), tn_adapter_parameters(tn_draft_adapter(draft)));
	tn_adapter_close(adapter);
}

/* ---- mlx-lm ---------------------------------------------------------------------------------------------- */

static struct wish wish_of_mlx(const json_t *c)
{
	const json_t *p = json_object_get(c, "lora_parameters");
	json_int_t layers = json_integer_value(json_object_get(c, "num_layers"));
	struct wish w = { .options = TN_CREATE_OPTIONS_INIT };
	w.options.dora = strcmp(json_string_value(json_object_get(c, "fine_tune_type")), "dora") == 0;
	w.options.num_layers = layers > 0 ? layers : -1;
	w.options.rank = (uint64_t)json_integer_value(json_object_get(p, "rank"));
	w.options.scale = json_number_value(json_object_get(p, "scale"));
	add_keys(&w, json_object_get(p, "keys"));
	return w;
}

/* Keys that were written are those that were given, in any order, when they are names inside a layer or whole paths. */
static void compare_mlx_config(struct al *t, const char *name, const tn_draft *draft, const json_t *c)
{
	char path[700];
	const char *out = al_path(t, "new_%s", name);
	tn_adapter *adapter;
	al_ok(t, tn_draft_save(draft, out, 0, &t->err));
	snprintf(path, sizeof path, "%s/adapter_config.json", out);
	json_t *ours = al_json(path), *p = json_object_get(ours, "lora_parameters"), *q = json_object_get(c, "lora_parameters");
	json_int_t layers = json_integer_value(json_object_get(c, "num_layers"));
	assert_true(json_equal(json_object_get(ours, "fine_tune_type"), json_object_get(c, "fine_tune_type")));
	assert_int_equal(json_integer_value(json_object_get(ours, "num_layers")), layers > 0 ? layers : -1);
	assert_true(json_equal(json_object_get(p, "rank"), json_object_get(q, "rank")));
	assert_true(json_equal(json_object_get(p, "dropout"), json_object_get(q, "dropout")));
	assert_true(json_number_value(json_object_get(p, "scale")) == json_number_value(json_object_get(q, "scale")));
	assert_true(json_is_real(json_object_get(p, "scale")));
	assert_true(!json_object_get(q, "keys") || same_names(json_object_get(p, "keys"), json_object_get(q, "keys")));
	json_decref(ours);
	al_ok(t, tn_adapter_open(t->ctx, out, &adapter, &t->err));
	tn_adapter_close(adapter);
}

static void every_plain_case_of_mlx_lm(void **state)
{
	/* scales that a new adapter cannot have; files that were robbed of tensors; widths that mlx-lm gets wrong on quantized bases;
	 * whole tensors in place of factors; and nothing chosen at all */
	static const char *const skipped[] = { "scale_0", "scale_negative", "partial_file", "q4_partial_file", "dora_q3",
					       "dora_embedding_q4", "full", "full_partial", "full_q4", "keys_empty", NULL };
	struct al *t = *state;
	json_t *cases = al_json(ADAPTER_DATA "/mlx_adapters/cases.json"), *c;
	const char *name;
	size_t done = 0;
	json_object_foreach(json_object_get(cases, "cases"), name, c) {
		if (is_one_of(name, skipped))
			continue;
		struct wish w = wish_of_mlx(c);
		char base[600];
		snprintf(base, sizeof base, "%s/mlx_adapters/%s", ADAPTER_DATA, json_string_value(json_object_get(c, "base")));
		w.options.keys = w.keys;
		tn_draft *draft = draft_for(t, base, &w);
		compare_shapes(name, draft, json_object_get(c, "tensors"));
		compare_mlx_config(t, name, draft, c);
		tn_draft_destroy(draft);
		done++;
	}
	json_decref(cases);
	assert_int_equal(done, 57);
}

/* ---- PEFT ------------------------------------------------------------------------------------------------ */

/* 0 when the configuration has something that tn_create_options cannot ask for. */
static int wish_of_peft(const json_t *c, struct wish *w)
{
	static const char *const known[] = { "r", "lora_alpha", "target_modules", "target_parameters", "use_dora", "fan_in_fan_out",
					     "init_lora_weights", NULL };
	const char *key, *init = json_string_value(json_object_get(c, "init_lora_weights"));
	const json_t *names = json_object_get(c, "target_modules");
	json_t *value;
	json_object_foreach((json_t *)(uintptr_t)c, key, value)
		if (!is_one_of(key, known))
			return 0;
	if ((init && strcmp(init, "gaussian") != 0) || (json_is_string(names) && strcmp(json_string_value(names), "all-linear") != 0))
		return 0;
	*w = (struct wish){ .options = TN_CREATE_OPTIONS_INIT };
	w->options.dialect = TN_DIALECT_PEFT;
	w->options.rank = (uint64_t)json_integer_value(json_object_get(c, "r"));
	w->options.alpha = json_number_value(json_object_get(c, "lora_alpha"));
	w->options.dora = json_is_true(json_object_get(c, "use_dora"));
	w->options.init = init ? TN_INIT_GAUSSIAN : TN_INIT_DEFAULT;
	add_keys(w, names);
	add_keys(w, json_object_get(c, "target_parameters"));
	return 1;
}

static void every_plain_case_of_peft(void **state)
{
	/* what names the base and the release, and a flag that PEFT sets to what its last layer was */
	static const char *const loose[] = { "base_model_name_or_path", "peft_version", NULL };
	struct al *t = *state;
	json_t *cases = al_json(ADAPTER_DATA "/peft/cases.json"), *c;
	const char *name;
	size_t done = 0;
	json_object_foreach(json_object_get(cases, "cases"), name, c) {
		struct wish w;
		char base[600], theirs[600];
		if (!wish_of_peft(json_object_get(c, "config"), &w))
			continue;
		snprintf(base, sizeof base, "%s/peft/%s", ADAPTER_DATA, json_string_value(json_object_get(c, "base")));
		snprintf(theirs, sizeof theirs, "%s/peft/cases/%s", ADAPTER_DATA, name);
		w.options.keys = w.keys;
		tn_draft *draft = draft_for(t, base, &w);
		compare_shapes(name, draft, json_object_get(c, "adapter_keys"));
		compare_config(t, name, draft, theirs, loose);
		tn_draft_destroy(draft);
		done++;
	}
	json_decref(cases);
	assert_int_equal(done, 14);
}

/* What PEFT takes where nothing is named, by model_type. */
static void without_keys_peft_s_list_counts(void **state)
{
	static const struct al_tensor tensors[] = {
		{ "model.language_model.layers.0.self_attn.q_proj.weight", { 2, 3 }, 2, NULL },
		{ "model.language_model.layers.0.mlp.up_proj.weight", { 2, 3 }, 2, NULL },
		{ "model.language_model.layers.1.self_attn.v_proj.weight", { 2, 3 }, 2, NULL },
		{ "model.vision_tower.layers.0.self_attn.q_proj.weight", { 2, 3 }, 2, NULL },
	};
	static const struct {
		const char *type;
		int64_t layers;
		const char *chosen;
	} rows[] = {
		{ "gemma4", -1, "0.self_attn.q_proj 1.self_attn.v_proj" },
		{ "gemma4", 1, "1.self_attn.v_proj" },
		{ "unheard-of", -1, NULL },
		{ "bert", -1, NULL },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct wish w = { .options = TN_CREATE_OPTIONS_INIT };
		char config[80], chosen[200] = "";
		tn_checkpoint *base;
		tn_draft *draft;
		snprintf(config, sizeof config, "{\"model_type\":\"%s\"}", rows[i].type);
		al_write_base(al_path(t, "base%zu", i), config, tensors, 4);
		w.options.dialect = TN_DIALECT_PEFT;
		w.options.rank = 2;
		w.options.num_layers = rows[i].layers;
		al_ok(t, tn_checkpoint_open(t->ctx, al_path(t, "base%zu", i), &base, &t->err));
		tn_status status = tn_draft_create(base, &w.options, &draft, &t->err);
		tn_checkpoint_close(base);
		assert_int_equal(status == TN_OK, rows[i].chosen != NULL);
		if (!rows[i].chosen) {
			al_expect_named(t, "keys");
			continue;
		}
		for (size_t k = 0; k < tn_draft_count(draft); k++)
			if (tn_draft_at(draft, k)->role == TN_PARAMETER_A)
				snprintf(chosen + strlen(chosen), sizeof chosen - strlen(chosen), "%s%s", *chosen ? " " : "",
					 strstr(tn_draft_at(draft, k)->module, "layers.") + strlen("layers."));
		assert_string_equal(chosen, rows[i].chosen);
		tn_draft_destroy(draft);
	}
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

static float word(const char *hex)
{
	char digits[9] = { 0 };
	float x;
	memcpy(digits, hex, 8);
	uint32_t u = (uint32_t)strtoul(digits, NULL, 16);
	memcpy(&x, &u, sizeof x);
	return x;
}

/* Largest distance in units of the last place of the expected values. */
static double distance(const float *got, uint64_t n, const char *expected)
{
	double worst = 0;
	assert_int_equal(strlen(expected), 8 * n);
	for (uint64_t i = 0; i < n; i++) {
		double x = (double)word(expected + 8 * i);
		int e;
		frexp(x, &e);
		worst = fmax(worst, fabs((double)got[i] - x) / ldexp(1, e - 24));
	}
	return worst;
}

/* Both libraries sum squares in float32, tenon in double: a few units lie between. mlx-lm rounds what it decodes of a quantized
 * base to bfloat16 before it takes the norm, tenon does not: a quarter of a percent. */
static void compare_magnitudes(struct al *t, const char *dialect)
{
	json_t *vectors = al_json(TEST_SOURCE "/data/create.json"), *c, *expected;
	const char *name, *key;
	int peft = strcmp(dialect, "peft") == 0;
	json_t *cases = al_json(peft ? ADAPTER_DATA "/peft/cases.json" : ADAPTER_DATA "/mlx_adapters/cases.json");
	json_object_foreach(json_object_get(json_object_get(vectors, "magnitudes"), dialect), name, c) {
		const json_t *its = json_object_get(json_object_get(cases, "cases"), name);
		struct wish w;
		char base[600];
		if (peft)
			assert_true(wish_of_peft(json_object_get(its, "config"), &w));
		else
			w = wish_of_mlx(its);
		w.options.keys = w.keys;
		snprintf(base, sizeof base, "%s/%s/%s", ADAPTER_DATA, peft ? "peft" : "mlx_adapters",
			 json_string_value(json_object_get(its, "base")));
		tn_draft *draft = draft_for(t, base, &w);
		assert_true(json_object_size(c) > 0);
		json_object_foreach(c, key, expected) {
			const struct tn_parameter *p = tn_draft_find(draft, key);
			assert_non_null(p);
			double d = distance(p->data, p->elements, json_string_value(expected));
			if (d > (strstr(name, "_q") || strstr(name, "fp4") ? 40000 : 4))
				fail_msg("%s: %s is %g units from the library's", name, key, d);
		}
		tn_draft_destroy(draft);
	}
	json_decref(cases);
	json_decref(vectors);
}

static void magnitudes_are_those_of_peft(void **state)
{
	compare_magnitudes(*state, "peft");
}

static void magnitudes_are_those_of_mlx_lm(void **state)
{
	compare_magnitudes(*state, "mlx");
}

/* One factor A as it stands in the file, filled by the initialisation alone. */
static float *fill_a(const json_t *shape, const struct tn_base_module *module, const struct tn_numbers *numbers, uint64_t *n)
{
	struct tn_parameter p = { .name = "a", .role = TN_PARAMETER_A, .rank = (uint32_t)json_array_size(shape), .elements = 1 };
	for (uint32_t i = 0; i < p.rank; i++) {
		p.shape[i] = (uint64_t)json_integer_value(json_array_get(shape, i));
		p.elements *= p.shape[i];
	}
	p.data = calloc(p.elements, sizeof(float));
	tn_init_parameter(&p, module, numbers);
	*n = p.elements;
	return p.data;
}

static uint64_t number(const json_t *v, const char *key)
{
	const json_t *value = json_object_get(v, key);
	return json_is_string(value) ? strtoull(json_string_value(value), NULL, 10) : (uint64_t)json_integer_value(value);
}

static void uniform_numbers_are_those_of_mlx(void **state)
{
	json_t *vectors = al_json(TEST_SOURCE "/data/create.json"), *list = json_object_get(vectors, "uniform");
	(void)state;
	assert_int_equal(json_array_size(list), 5);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *v = json_array_get(list, i), *shape = json_object_get(v, "shape");
		char key[17];
		uint64_t seed = number(v, "seed"), n, rank = (uint64_t)json_integer_value(json_array_get(shape, 1));
		struct tn_base_module module = { .path = json_string_value(json_object_get(v, "path")), .in = number(v, "inputs") };
		struct tn_numbers numbers = { TN_INIT_MLX, rank, seed, 1 };
		snprintf(key, sizeof key, "%016llx", (unsigned long long)tn_init_key(seed, module.path));
		assert_string_equal(key, json_string_value(json_object_get(v, "key")));
		float *a = fill_a(shape, &module, &numbers, &n);
		assert_true(distance(a, n, json_string_value(json_object_get(v, "values"))) == 0);
		free(a);
	}
	json_decref(vectors);
}

static void xorshift_numbers_are_those_of_the_seed(void **state)
{
	json_t *vectors = al_json(TEST_SOURCE "/data/create.json"), *list = json_object_get(vectors, "xorshift");
	(void)state;
	assert_int_equal(json_array_size(list), 4);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *v = json_array_get(list, i);
		const char *expected = json_string_value(json_object_get(v, "values"));
		uint64_t rank = number(v, "rank"), in = number(v, "in"), out = number(v, "out"), seed = number(v, "seed"), n = rank * in;
		float *a = malloc(n * sizeof *a), *swapped = calloc(n, sizeof *a);
		tn_init_xorshift(a, rank, in, out, seed);
		assert_true(distance(a, n, expected) == 0);
		/* in mlx-lm's file the same numbers stand the other way round */
		struct tn_base_module module = { .path = "x", .in = in, .out = out };
		struct tn_parameter p = { .role = TN_PARAMETER_A, .rank = 2, .shape = { in, rank }, .elements = n, .data = swapped };
		struct tn_numbers numbers = { TN_INIT_XORSHIFT, rank, seed, 1 };
		tn_init_parameter(&p, &module, &numbers);
		for (uint64_t k = 0; k < n; k++)
			assert_true(swapped[k % in * rank + k / in] == a[k]);
		free(a);
		free(swapped);
	}
	json_decref(vectors);
}

/* Mean and deviation of many numbers, and what they must never leave. */
static void check_moments(const struct tn_parameter *p, double deviation, double bound)
{
	double sum = 0, squares = 0, largest = 0;
	for (uint64_t i = 0; i < p->elements; i++) {
		sum += (double)p->data[i];
		squares += (double)p->data[i] * (double)p->data[i];
		largest = fmax(largest, fabs((double)p->data[i]));
	}
	double n = (double)p->elements;
	assert_true(fabs(sum / n) < 5 * deviation / sqrt(n));
	assert_true(fabs(sqrt(squares / n) / deviation - 1) < 5 / sqrt(n));
	assert_true(largest <= bound && largest > 0.5 * fmin(bound, 2 * deviation));
}

static void check_zero(const struct tn_parameter *p)
{
	for (uint64_t i = 0; i < p->elements; i++)
		assert_true(p->data[i] == 0);
}

/* Bounds and moments of each initialisation, for a layer and a table, in both dialects; what is not random is zero. */
static void every_initialisation_has_its_distribution(void **state)
{
	struct al *t = *state;
	static const char *const keys[] = { "model.embed_tokens", "self_attn.q_proj" };
	const double in = 32, vocabulary = 96, rank = 64;
	for (int peft = 0; peft < 2; peft++)
		for (int init = TN_INIT_MLX; init <= TN_INIT_XORSHIFT; init++) {
			struct wish w = { .options = TN_CREATE_OPTIONS_INIT };
			w.options.dialect = peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM;
			w.options.rank = 64;
			w.options.init = (tn_init)init;
			w.options.keys = keys;
			w.options.key_count = 2;
			tn_draft *d = draft_for(t, ADAPTER_DATA "/peft/llama", &w);
			const char *q = "model.layers.2.self_attn.q_proj", *table = "model.embed_tokens";
			int by_table_b = init == TN_INIT_KAIMING || init == TN_INIT_GAUSSIAN;
			double bound = init == TN_INIT_XORSHIFT ? sqrt(2 / in) : 1 / sqrt(in);
			double table_bound = init == TN_INIT_XORSHIFT ? sqrt(2 / vocabulary) : 1 / sqrt(vocabulary);
			if (init == TN_INIT_GAUSSIAN)
				check_moments(tn_draft_of(d, q, TN_PARAMETER_A), 1 / rank, 6 / rank);
			else
				check_moments(tn_draft_of(d, q, TN_PARAMETER_A), bound / sqrt(3), bound * 1.0000001);
			check_zero(tn_draft_of(d, q, TN_PARAMETER_B));
			check_zero(tn_draft_of(d, table, by_table_b ? TN_PARAMETER_A : TN_PARAMETER_B));
			if (by_table_b)
				check_moments(tn_draft_of(d, table, TN_PARAMETER_B), 1, 6);
			else
				check_moments(tn_draft_of(d, table, TN_PARAMETER_A), table_bound / sqrt(3), table_bound * 1.0000001);
			tn_draft_destroy(d);
		}
}

static void the_seed_and_the_path_decide_and_nothing_else(void **state)
{
	struct al *t = *state;
	static const char *const all[] = { "q_proj", "v_proj" }, *const one[] = { "v_proj" };
	struct wish w = { .options = TN_CREATE_OPTIONS_INIT };
	w.options.keys = all;
	w.options.key_count = 2;
	w.options.seed = 7;
	tn_draft *a = draft_for(t, ADAPTER_DATA "/peft/llama", &w), *b;
	w.options.keys = one;
	w.options.key_count = 1;
	b = draft_for(t, ADAPTER_DATA "/peft/llama", &w);
	const char *v0 = "model.layers.0.self_attn.v_proj", *v1 = "model.layers.1.self_attn.v_proj";
	const struct tn_parameter *p = tn_draft_of(a, v0, TN_PARAMETER_A), *q = tn_draft_of(b, v0, TN_PARAMETER_A);
	assert_memory_equal(p->data, q->data, p->elements * sizeof(float));
	assert_memory_not_equal(p->data, tn_draft_of(a, v1, TN_PARAMETER_A)->data, p->elements * sizeof(float));
	tn_draft_destroy(b);
	w.options.seed = 8;
	b = draft_for(t, ADAPTER_DATA "/peft/llama", &w);
	assert_memory_not_equal(p->data, tn_draft_of(b, v0, TN_PARAMETER_A)->data, p->elements * sizeof(float));
	tn_draft_destroy(a);
	tn_draft_destroy(b);
}

/* mlx-lm takes 32 / bits codes for a word, and a packed table for a dense one: what it would not load is not made for it. */
static void mlx_lm_gets_no_dora_of_another_width(void **state)
{
	static const struct {
		const char *base, *key;
		int dora, peft;
		tn_status status;
	} cases[] = {
		{ "llama_q3_g64", "self_attn.k_proj", 1, 0, TN_E_UNSUPPORTED }, { "llama_q3_g64", "self_attn.k_proj", 0, 0, TN_OK },
		{ "llama_q3_g64", "self_attn.k_proj", 1, 1, TN_OK },		{ "llama_q4_g64", "self_attn.k_proj", 1, 0, TN_OK },
		{ "llama_q4_g64", "embed_tokens", 1, 0, TN_E_UNSUPPORTED },	{ "llama_bf16", "embed_tokens", 1, 0, TN_OK },
		{ "llama_mxfp8", "self_attn.k_proj", 1, 0, TN_OK },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char base[512];
		tn_checkpoint *c;
		tn_draft *draft = NULL;
		struct tn_create_options o = TN_CREATE_OPTIONS_INIT;
		o.dialect = cases[i].peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM;
		o.dora = cases[i].dora;
		o.keys = &cases[i].key;
		o.key_count = 1;
		snprintf(base, sizeof base, ADAPTER_DATA "/mlx_adapters/models/%s", cases[i].base);
		al_ok(t, tn_checkpoint_open(t->ctx, base, &c, &t->err));
		al_expect(t, tn_draft_create(c, &o, &draft, &t->err), cases[i].status);
		if (cases[i].status != TN_OK)
			al_expect_named(t, cases[i].key);
		tn_checkpoint_close(c);
		tn_draft_destroy(draft);
	}
}

/* Every adapter that the real libraries wrote, opened as a draft and saved, is the same adapter; and a second time, when it has an
 * identity. */
static void check_round_trip(struct al *t, const char *folder)
{
	unsigned char before[TN_HASH_BYTES], after[TN_HASH_BYTES];
	tn_adapter *original, *saved;
	tn_draft *d;
	const char *out = al_path(t, "again");
	al_ok(t, tn_adapter_open(t->ctx, folder, &original, &t->err));
	al_ok(t, tn_draft_open(t->ctx, folder, &d, &t->err));
	assert_int_equal(tn_draft_count(d), tn_safetensors_count(tn_adapter_file(original)));
	al_ok(t, tn_draft_save(d, out, 1, &t->err));
	tn_draft_destroy(d);
	al_ok(t, tn_draft_open(t->ctx, out, &d, &t->err));
	al_ok(t, tn_draft_save(d, out, 1, &t->err));
	tn_draft_destroy(d);
	al_ok(t, tn_adapter_open(t->ctx, out, &saved, &t->err));
	al_ok(t, tn_adapter_hash(original, before, &t->err));
	al_ok(t, tn_adapter_hash(saved, after, &t->err));
	assert_memory_equal(before, after, TN_HASH_BYTES);
	tn_adapter_close(original);
	tn_adapter_close(saved);
}

static void adapters_of_the_libraries_open_as_drafts(void **state)
{
	struct al *t = *state;
	static const char *const archives[][2] = { { "peft", "cases" }, { "mlx_adapters", "adapters" } };
	size_t done = 0;
	for (int i = 0; i < 2; i++) {
		char path[700];
		snprintf(path, sizeof path, "%s/%s/cases.json", ADAPTER_DATA, archives[i][0]);
		json_t *root = al_json(path), *c;
		const char *name;
		json_object_foreach(json_object_get(root, "cases"), name, c) {
			tn_adapter *adapter;
			snprintf(path, sizeof path, "%s/%s/%s/%s", ADAPTER_DATA, archives[i][0], archives[i][1], name);
			if (tn_adapter_open(t->ctx, path, &adapter, &t->err) != TN_OK)
				continue;   /* aLoRA */
			int whole = tn_adapter_count(adapter) == 0;
			const tn_safetensors *file = tn_adapter_file(adapter);
			for (size_t k = 0; k < tn_safetensors_count(file); k++)
				whole |= !tn_dtype_is_float(tn_safetensors_at(file, k)->dtype);
			tn_adapter_close(adapter);
			if (whole)
				continue;   /* keys_empty; packed weights of full_q4 */
			check_round_trip(t, path);
			done++;
		}
		json_decref(root);
	}
	assert_true(done > 90);
	tn_draft *d = NULL;
	al_write_text(al_path(t, "lone.safetensors"), "");
	assert_int_not_equal(tn_draft_open(t->ctx, al_path(t, "lone.safetensors"), &d, &t->err), TN_OK);
	assert_null(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(every_plain_case_of_mlx_lm),
		AL_TEST(every_plain_case_of_peft),
		AL_TEST(without_keys_peft_s_list_counts),
		AL_TEST(magnitudes_are_those_of_peft),
		AL_TEST(magnitudes_are_those_of_mlx_lm),
		AL_TEST(uniform_numbers_are_those_of_mlx),
		AL_TEST(xorshift_numbers_are_those_of_the_seed),
		AL_TEST(every_initialisation_has_its_distribution),
		AL_TEST(the_seed_and_the_path_decide_and_nothing_else),
		AL_TEST(mlx_lm_gets_no_dora_of_another_width),
		AL_TEST(adapters_of_the_libraries_open_as_drafts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
