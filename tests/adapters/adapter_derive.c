/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters in the other dialect: every case of data/peft.tar.xz (PEFT 0.21) and data/mlx_adapters.tar.xz (mlx-lm 0.32.2) either
 * becomes an adapter that changes its base as the original does, byte for byte of the fused model where its numbers were kept, and
 * that gives the first file's tensors on the way back; or it is refused for a reason that is written down here.
 * tests/adapters/check_derive.py has the real libraries load the same. */
#include "adapterlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct archive {
	const char *folder, *adapters;
};
static const struct archive peft = { ADAPTER_DATA "/peft", "cases" }, mlx = { ADAPTER_DATA "/mlx_adapters", "adapters" };

static tn_status convert(struct al *t, const char *base, const char *adapter, tn_adapter_dialect dialect, const char *out)
{
	struct tn_derive_options options = TN_DERIVE_OPTIONS_INIT;
	tn_checkpoint *b = NULL;
	tn_adapter *a = NULL;
	tn_draft *draft = NULL;
	options.dialect = dialect;
	tn_status status = tn_checkpoint_open(t->ctx, base, &b, &t->err);
	if (status == TN_OK)
		status = tn_adapter_open(t->ctx, adapter, &a, &t->err);
	if (status == TN_OK)
		status = tn_draft_convert(a, b, &options, &draft, &t->err);
	if (status == TN_OK)
		status = tn_draft_save(draft, out, 1, &t->err);
	tn_draft_destroy(draft);
	tn_adapter_close(a);
	tn_checkpoint_close(b);
	return status;
}

/* Of one tensor, in units of 2^-23 of its largest element. */
static double tensor_distance(struct al *t, const tn_checkpoint *a, const char *one, const tn_checkpoint *b, const char *other)
{
	const struct tn_tensor *x, *y;
	struct tn_buffer p, q;
	double largest = 0, far = 0;
	al_ok(t, tn_checkpoint_load(a, one, &p, &x, &t->err));
	al_ok(t, tn_checkpoint_load(b, other, &q, &y, &t->err));
	assert_int_equal(x->dtype, y->dtype);
	assert_int_equal(p.bytes, q.bytes);
	int same = memcmp(p.data, q.data, p.bytes) == 0;
	tn_buffer_release(t->ctx, &p);
	tn_buffer_release(t->ctx, &q);
	if (same)
		return 0;
	double *v = al_load(t, a, one, &x), *w = al_load(t, b, other, &y);
	for (uint64_t k = 0; k < x->elements; k++) {
		largest = fmax(largest, fabs(v[k]));
		far = fmax(far, fabs(v[k] - w[k]));
	}
	free(v);
	free(w);
	return far / largest / 0x1p-23;
}

/* The largest distance between two models. What is a tied table in the one may be table and head in the other. */
static double model_distance(struct al *t, const char *one, const char *other)
{
	tn_checkpoint *a, *b;
	double worst = 0;
	size_t heads = 0;
	al_ok(t, tn_checkpoint_open(t->ctx, one, &a, &t->err));
	al_ok(t, tn_checkpoint_open(t->ctx, other, &b, &t->err));
	for (size_t i = 0; i < tn_checkpoint_count(b); i++) {
		char table[64];
		const char *name = tn_checkpoint_at(b, i)->name, *twin = name;
		if (!tn_checkpoint_find(a, name) && strncmp(name, "lm_head", 7) == 0) {
			snprintf(table, sizeof table, "model.embed_tokens%s", name + 7);
			twin = table;
			heads++;
		}
		worst = fmax(worst, tensor_distance(t, a, twin, b, name));
	}
	assert_int_equal(tn_checkpoint_count(a) + heads, tn_checkpoint_count(b));
	tn_checkpoint_close(b);
	tn_checkpoint_close(a);
	return worst;
}

/* Every tensor of the one, and no other, with the same bytes. */
static void same_tensors(struct al *t, const char *name, const char *one, const char *other)
{
	tn_adapter *a, *b;
	al_ok(t, tn_adapter_open(t->ctx, one, &a, &t->err));
	al_ok(t, tn_adapter_open(t->ctx, other, &b, &t->err));
	const tn_safetensors *f = tn_adapter_file(a), *g = tn_adapter_file(b);
	if (tn_safetensors_count(f) != tn_safetensors_count(g))
		fail_msg("%s: %zu tensors became %zu", name, tn_safetensors_count(f), tn_safetensors_count(g));
	for (size_t i = 0; i < tn_safetensors_count(f); i++) {
		const struct tn_tensor *x = tn_safetensors_at(f, i), *y = tn_safetensors_find(g, x->name);
		struct tn_buffer p, q;
		if (!y || y->rank != x->rank || y->dtype != x->dtype || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) != 0)
			fail_msg("%s: '%s' did not come back in its shape and dtype", name, x->name);
		al_ok(t, tn_safetensors_load(f, x->name, &p, NULL, &t->err));
		al_ok(t, tn_safetensors_load(g, x->name, &q, NULL, &t->err));
		if (memcmp(p.data, q.data, p.bytes) != 0)
			fail_msg("%s: '%s' did not come back as it was", name, x->name);
		tn_buffer_release(t->ctx, &p);
		tn_buffer_release(t->ctx, &q);
	}
	tn_adapter_close(b);
	tn_adapter_close(a);
}

/* What is refused, and a word of the reason. */
static const struct {
	const char *name;
	int from_mlx, to_mlx;   /* to_mlx 2: to either */
	const char *word;
} refused[] = {
	{ "lora_b_bias", 0, 1, "lora_bias" },
	{ "lora_b_bias_base", 0, 1, "lora_bias" },
	{ "bias_all", 0, 1, "model.layers.0.mlp.down_proj.bias" },
	{ "bias_lora_only", 0, 1, "model.layers.0.self_attn.q_proj.bias" },
	{ "modules_to_save", 0, 1, "lm_head.weight" },
	{ "embedding_dora", 0, 1, "DoRA of an embedding" },
	{ "tied_embedding", 0, 1, "tied" },
	{ "trainable_tokens", 0, 1, "rows" },
	{ "layer_replication", 0, 2, "layer_replication" },
	{ "alora", 0, 2, "alora_invocation_tokens" },
	{ "keys_empty", 1, 2, "nothing is adapted" },
	{ "dora_embedding", 1, 0, "DoRA of an embedding" },
	{ "dora_embedding_tied", 1, 0, "tied" },
	{ "dora_embedding_bf16", 1, 0, "DoRA of an embedding" },
	{ "dora_q3", 1, 2, "in = 64 was expected" },        /* mlx-lm takes wrong widths for these bases */
	{ "dora_embedding_q4", 1, 2, "out = 64 was expected" },
	{ "full_q4", 1, 2, "as quantized models have them" },
};

static const char *refusal_of(const char *name, int from_mlx, int to_mlx)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (strcmp(refused[i].name, name) == 0 && refused[i].from_mlx == from_mlx &&
		    (refused[i].to_mlx == to_mlx || refused[i].to_mlx == 2))
			return refused[i].word;
	return NULL;
}

/* Computed factors are rounded to float32: scales that differ from the common one, what was taken out of the base. */
static double tolerance(const char *name, int to_mlx)
{
	int scales = strstr(name, "pattern") && !strstr(name, "layers_int_pattern"), removed = strncmp(name, "init_", 5) == 0;
	return (scales && to_mlx) || removed ? 1 : 0;
}

static void remove_folder(const char *path)
{
	char command[600];
	snprintf(command, sizeof command, "rm -rf '%s'", path);
	assert_int_equal(system(command), 0);
}

/* Fuses what was converted beside the original; a bias that the base does not have can only be served, not fused. */
static void compare_fused(struct al *t, const char *name, const char *base, const char *converted, const char *original,
			  tn_status expected, double tolerated)
{
	const char *out = al_path(t, "other");
	tn_status status = al_fuse(t, base, converted, out);
	if (status != expected)
		fail_msg("%s: fused as it was %d, converted %d: %s", name, expected, status, t->err.msg);
	double far = status == TN_OK ? model_distance(t, original, out) : 0;
	if (!(far <= tolerated))
		fail_msg("%s: the fused models are %g of 2^-23 apart", name, far);
	remove_folder(out);
}

/* To its own dialect, to the other one, and back. */
static size_t try_case(struct al *t, const char *name, int from_mlx, const char *base, const char *adapter)
{
	static const tn_adapter_dialect dialects[] = { TN_DIALECT_PEFT, TN_DIALECT_MLX_LM };
	const char *own = al_path(t, "own"), *there = al_path(t, "there"), *back = al_path(t, "back");
	const char *original = al_path(t, "original");
	tn_status fused = al_fuse(t, base, adapter, original);
	size_t converted = 0;
	for (int other = 0; other < 2; other++) {
		int to_mlx = from_mlx != other;
		const char *word = refusal_of(name, from_mlx, to_mlx), *out = other ? there : own;
		tn_status status = convert(t, base, adapter, dialects[to_mlx], out);
		if ((status == TN_OK) != !word)
			fail_msg("%s was %s: %s", name, word ? "converted" : "refused", word ? word : t->err.msg);
		if (word) {
			al_expect_named(t, word);
			continue;
		}
		compare_fused(t, name, base, out, original, fused, tolerance(name, to_mlx));
		converted++;
	}
	/* PEFT copies tables that it did not change; what initialisations took out of the base becomes factors */
	int copies = !from_mlx && (strstr(name, "embedding") || strcmp(name, "lm_head") == 0);
	if (!refusal_of(name, from_mlx, from_mlx) && !copies && strncmp(name, "init_", 5) != 0)
		same_tensors(t, name, adapter, own);
	if (converted == 2 && tolerance(name, 1) == 0) {
		al_ok(t, convert(t, base, there, dialects[from_mlx], back));
		same_tensors(t, name, own, back);
	}
	remove_folder(original);
	return converted;
}

static size_t try_archive(struct al *t, const struct archive *archive, int from_mlx)
{
	char path[512];
	snprintf(path, sizeof path, "%s/cases.json", archive->folder);
	json_t *root = al_json(path), *info;
	const char *name;
	size_t converted = 0;
	json_object_foreach(json_object_get(root, "cases"), name, info) {
		char base[512], adapter[512];
		snprintf(base, sizeof base, "%s/%s", archive->folder, json_string_value(json_object_get(info, "base")));
		snprintf(adapter, sizeof adapter, "%s/%s/%s", archive->folder, archive->adapters, name);
		converted += try_case(t, name, from_mlx, base, adapter);
	}
	json_decref(root);
	return converted;
}

static void test_every_case_of_peft(void **state)
{
	assert_int_equal(try_archive(*state, &peft, 0), 60);
}

static void test_every_case_of_mlx_lm(void **state)
{
	assert_int_equal(try_archive(*state, &mlx, 1), 123);
}

int main(void)
{
	const struct CMUnitTest tests[] = { AL_TEST(test_every_case_of_peft), AL_TEST(test_every_case_of_mlx_lm) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
