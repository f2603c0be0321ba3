/* SPDX-License-Identifier: Apache-2.0 */
/* Small adapters on small bases: what lands where, with which result, and which error names what. Tests carry the names of
 * the seed's tests where there is one. */
#include "adapterlib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MLX(layers, rest) "{\"num_layers\":" #layers ",\"lora_parameters\":{\"rank\":2,\"scale\":2" rest "}}"
#define PEFT(rest) "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]" rest "}"
#define PREFIX "base_model.model."
#define Q0 PREFIX "model.layers.0.self_attn.q_proj"
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* The seed's fixture: W = [[1,0,0],[0,1,0]], A = [[1,0],[0,1],[0,0]] (mlx-lm's order), B = identity, scale 2. */
static const float fixture_w[] = { 1, 0, 0, 0, 1, 0 }, fixture_a[] = { 1, 0, 0, 1, 0, 0 }, fixture_b[] = { 1, 0, 0, 1 };
static const float fixture_a_peft[] = { 1, 0, 0, 0, 1, 0 };

static void write_bias(struct al *t, const char *folder)
{
	static const float bias[] = { 10, 20 };
	const struct al_tensor base[] = { { "l.weight", { 2, 3 }, 2, fixture_w }, { "l.bias", { 2 }, 1, bias } };
	al_write_base(al_path(t, "%s", folder), "{\"model_type\":\"toy\"}", base, 2);
}

static void expect_values(struct al *t, const char *folder, const char *name, const double *values, size_t n, double tol)
{
	tn_checkpoint *c;
	const struct tn_tensor *found;
	al_ok(t, tn_checkpoint_open(t->ctx, folder, &c, &t->err));
	double *got = al_load(t, c, name, &found);
	if (!got)
		fail_msg("no %s", name);
	assert_int_equal(found->elements, n);
	for (size_t i = 0; i < n; i++)
		if (fabs(got[i] - values[i]) > tol)
			fail_msg("%s[%zu] is %g, %g was expected", name, i, got[i], values[i]);
	free(got);
	tn_checkpoint_close(c);
}

/* fuse = forward: W x + 2 B (A x) = [3, 6] for x = [1, 2, 3], so W' = [[3,0,0],[0,3,0]]; the bias stays. */
static void lora_fuse_with_bias_matches_forward(void **state)
{
	struct al *t = *state;
	const struct al_tensor lora[] = { { "l.lora_a", { 3, 2 }, 2, fixture_a }, { "l.lora_b", { 2, 2 }, 2, fixture_b } };
	static const double w[] = { 3, 0, 0, 0, 3, 0 }, bias[] = { 10, 20 };
	write_bias(t, "base");
	al_write_adapter(al_path(t, "a"), MLX(-1, ",\"keys\":[\"l\"]"), "adapters.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "l.weight", w, 6, 0); /* lora_fuse_matches_forward */
	expect_values(t, al_path(t, "out"), "l.bias", bias, 2, 0);
}

/* m = [1.5, 2.5]: rows of length 1.5 and 2.5 (spec G4). */
static void dora_fuse_matches_forward(void **state)
{
	struct al *t = *state;
	static const float m[] = { 1.5f, 2.5f };
	const struct al_tensor lora[] = { { "l.lora_a", { 3, 2 }, 2, fixture_a }, { "l.lora_b", { 2, 2 }, 2, fixture_b },
					  { "l.m", { 2 }, 1, m } };
	static const double w[] = { 1.5, 0, 0, 0, 2.5, 0 };
	static const char config[] = "{\"fine_tune_type\":\"dora\",\"num_layers\":-1,\"lora_parameters\":{\"rank\":2,\"scale\":2,"
				     "\"keys\":[\"l\"]}}";
	write_bias(t, "base");
	al_write_adapter(al_path(t, "a"), config, "adapters.safetensors", lora, 3);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out"))); /* dora_linear_fuse_into_base_round_trip */
	expect_values(t, al_path(t, "out"), "l.weight", w, 6, 1e-7);
	al_write_adapter(al_path(t, "a"), config, "adapters.safetensors", lora, 2);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")), TN_E_FORMAT); /* dora_requires_magnitude */
	al_expect_named(t, "l.m"); /* load_adapters_dora_missing_magnitude_is_err */
	al_write_adapter(al_path(t, "a"), MLX(-1, ",\"keys\":[\"l\"]"), "adapters.safetensors", lora, 3);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")), TN_E_MISMATCH); /* stray m */
}

/* DoRA on a table: m of the rows in mlx-lm's order, of the width in PEFT's. */
static void dora_embedding_fuse_round_trip(void **state)
{
	struct al *t = *state;
	static const float eye[] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 }, zero[6] = { 0 }, m[] = { 0.5f, 2, 3 };
	static const double w[] = { .5, 0, 0, 0, 2, 0, 0, 0, 3 };
	const struct al_tensor base = { "m.embed_tokens.weight", { 3, 3 }, 2, eye };
	const struct al_tensor mlx[] = { { "m.embed_tokens.lora_a", { 3, 2 }, 2, zero }, { "m.embed_tokens.lora_b", { 2, 3 }, 2, zero },
					 { "m.embed_tokens.m", { 3 }, 1, m } };
	const struct al_tensor peft[] = { { PREFIX "m.embed_tokens.lora_embedding_A", { 2, 3 }, 2, zero },
					  { PREFIX "m.embed_tokens.lora_embedding_B", { 3, 2 }, 2, zero },
					  { PREFIX "m.embed_tokens.lora_magnitude_vector", { 3 }, 1, m } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), "{\"fine_tune_type\":\"dora\",\"lora_parameters\":{\"rank\":2,\"keys\":[\"embed_tokens\"]}}",
			 "adapters.safetensors", mlx, 3); /* load_dora_adapter_from_safetensors */
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base.name, w, 9, 0);
	al_write_adapter(al_path(t, "b"), "{\"r\":2,\"use_dora\":true,\"target_modules\":[\"embed_tokens\"]}",
			 "adapter_model.safetensors", peft, 3);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "b"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base.name, w, 9, 0);
	expect_values(t, al_path(t, "out"), "lm_head.weight", (const double[]){ 1, 0, 0, 0, 1, 0, 0, 0, 1 }, 9, 0);
}

/* Conv1D stores [in, out]: the delta is added the other way round, and DoRA's norms are of columns. */
static void peft_fan_in_fan_out_transposes_base_weight(void **state)
{
	struct al *t = *state;
	static const float w_t[] = { 1, 0, 0, 1, 0, 0 }, m[] = { 1.5f, 2.5f };
	static const double lora_w[] = { 3, 0, 0, 3, 0, 0 }, dora_w[] = { 1.5, 0, 0, 2.5, 0, 0 };
	const struct al_tensor base = { "transformer.h.0.attn.c_attn.weight", { 3, 2 }, 2, w_t };
	const struct al_tensor lora[] = { { PREFIX "transformer.h.0.attn.c_attn.lora_A.weight", { 2, 3 }, 2, fixture_a_peft },
					  { PREFIX "transformer.h.0.attn.c_attn.lora_B.weight", { 2, 2 }, 2, fixture_b },
					  { PREFIX "transformer.h.0.attn.c_attn.lora_magnitude_vector", { 2 }, 1, m } };
	al_write_base(al_path(t, "base"), "{\"model_type\":\"gpt2\"}", &base, 1);
	for (int dora = 0; dora < 2; dora++) {
		al_write_adapter(al_path(t, "a"), dora ? "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"c_attn\"],\"use_dora\":true}"
						       : "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"c_attn\"]}",
				 "adapter_model.safetensors", lora, dora ? 3 : 2);
		al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
		expect_values(t, al_path(t, "out"), base.name, dora ? dora_w : lora_w, 6, 1e-7);
	}
}

/* Rank 4 in block 0 alone: scale 4 / 4 there, 4 / 2 elsewhere. */
static void peft_end_to_end_rank_pattern_per_module_scale(void **state)
{
	struct al *t = *state;
	tn_adapter *a;
	const struct al_tensor lora[] = { { Q0 ".lora_A.weight", { 4, 3 }, 2, NULL }, { Q0 ".lora_B.weight", { 2, 4 }, 2, NULL },
					  { PREFIX "model.layers.1.self_attn.q_proj.lora_A.weight", { 2, 3 }, 2, NULL },
					  { PREFIX "model.layers.1.self_attn.q_proj.lora_B.weight", { 2, 2 }, 2, NULL } };
	al_write_adapter(al_path(t, "a"), PEFT(",\"rank_pattern\":{\"layers.0.self_attn.q_proj\":4}"), "adapter_model.safetensors", lora,
			 4);
	al_ok(t, tn_adapter_open(t->ctx, al_path(t, "a"), &a, &t->err));
	assert_true(tn_adapter_at(a, 0)->scale == 1 && tn_adapter_at(a, 0)->rank == 4);
	assert_true(tn_adapter_at(a, 1)->scale == 2 && tn_adapter_at(a, 1)->rank == 2);
	tn_adapter_close(a);
}

/* load_adapters_dora_end_to_end, peft_end_to_end_dora_with_magnitude_vector, peft_key_translation_strips_prefix_maps_suffix_
 * transposes: kinds, shapes and scale of what is read, whatever the order in the file. */
static void load_adapters_dora_end_to_end(void **state)
{
	struct al *t = *state;
	const struct al_tensor peft[] = { { Q0 ".lora_A.weight", { 2, 3 }, 2, NULL }, { Q0 ".lora_B.weight", { 4, 2 }, 2, NULL },
					  { Q0 ".lora_magnitude_vector", { 4 }, 1, NULL } };
	const struct al_tensor mlx[] = { { "model.layers.0.self_attn.q_proj.lora_a", { 3, 2 }, 2, NULL },
					 { "model.layers.0.self_attn.q_proj.lora_b", { 2, 4 }, 2, NULL },
					 { "model.layers.0.self_attn.q_proj.m", { 4 }, 1, NULL } };
	for (int i = 0; i < 2; i++) {
		tn_adapter *a;
		al_write_adapter(al_path(t, "a%d", i), i ? "{\"fine_tune_type\":\"dora\",\"lora_parameters\":{\"rank\":2,\"scale\":2}}"
							 : PEFT(",\"use_dora\":true"),
				 i ? "adapters.safetensors" : "adapter_model.safetensors", i ? mlx : peft, 3);
		al_ok(t, tn_adapter_open(t->ctx, al_path(t, "a%d", i), &a, &t->err));
		assert_int_equal(tn_adapter_count(a), 1);
		const struct tn_adapter_module *m = tn_adapter_at(a, 0);
		assert_string_equal(m->path, "model.layers.0.self_attn.q_proj");
		assert_string_equal(tn_module_kind_name(m->kind), "dora");
		assert_true(m->rank == 2 && m->in_features == 3 && m->out_features == 4 && m->scale == 2 && m->parameters == 18);
		tn_adapter_close(a);
	}
}

/* A row of length 0 stays 0 whatever its magnitude is: PEFT and mlx-lm make NaN of it. */
static void dora_of_a_zero_row_keeps_it(void **state)
{
	struct al *t = *state;
	static const float zero[6] = { 0 }, m[] = { 1, 1 }, b[] = { 0, 0, 0, 0 };
	static const double w[6] = { 0 };
	const struct al_tensor base = { "l.weight", { 2, 3 }, 2, zero };
	const struct al_tensor lora[] = { { "l.lora_a", { 3, 2 }, 2, fixture_a }, { "l.lora_b", { 2, 2 }, 2, b },
					  { "l.m", { 2 }, 1, m } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), "{\"fine_tune_type\":\"dora\",\"lora_parameters\":{\"rank\":2,\"keys\":[\"l\"]}}",
			 "adapters.safetensors", lora, 3);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "l.weight", w, 6, 0);
}

/* spec G5: experts [2, 2, 3], A [2, 1, 3], B [2, 2, 1], scale 0.5. */
static void experts_of_mlx_lm(void **state)
{
	struct al *t = *state;
	static const float zero[12] = { 0 }, a[] = { 1, 2, 3, 4, 5, 6 }, b[] = { 1, 10, 2, 20 };
	static const double w[] = { .5, 1, 1.5, 5, 10, 15, 4, 5, 6, 40, 50, 60 };
	const struct al_tensor base = { "model.layers.0.mlp.switch_mlp.up_proj.weight", { 2, 2, 3 }, 3, zero };
	const struct al_tensor lora[] = { { "model.layers.0.mlp.switch_mlp.up_proj.lora_a", { 2, 1, 3 }, 3, a },
					  { "model.layers.0.mlp.switch_mlp.up_proj.lora_b", { 2, 2, 1 }, 3, b } };
	const struct al_tensor old[] = { { "model.layers.0.mlp.switch_mlp.up_proj.lora_a", { 2, 3 }, 2, a }, lora[1] };
	static const char config[] = "{\"num_layers\":-1,\"lora_parameters\":{\"rank\":1,\"scale\":0.5}}";
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), config, "adapters.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base.name, w, 12, 0);
	al_write_adapter(al_path(t, "a"), config, "adapters.safetensors", old, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base.name, w, 12, 0);
}

/* Adapters of single experts, of PEFT's stacks and of mlx-lm's on a base that fuses gate and up: [E, 2 * 1, 3]. */
static void experts_land_on_other_layouts(void **state)
{
	struct al *t = *state;
	static const float zero[12] = { 0 }, a[] = { 1, 2, 3 }, b[] = { 2 };
	static const double only_up_of_1[12] = { [9] = 4, [10] = 8, [11] = 12 };
	const struct al_tensor base[] = { { "model.layers.0.mlp.experts.gate_up_proj", { 2, 2, 3 }, 3, zero },
					  { "model.layers.0.mlp.experts.down_proj", { 2, 3, 1 }, 3, zero } };
	const struct al_tensor lora[] = {
		{ PREFIX "model.layers.0.block_sparse_moe.experts.1.w3.lora_A.weight", { 1, 3 }, 2, a },
		{ PREFIX "model.layers.0.block_sparse_moe.experts.1.w3.lora_B.weight", { 1, 1 }, 2, b },
	};
	al_write_base(al_path(t, "base"), "{}", base, 2);
	al_write_adapter(al_path(t, "a"), "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":2,\"target_modules\":[\"w3\"]}",
			 "adapter_model.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base[0].name, only_up_of_1, 12, 0);
}

/* kohya's names have _ for every dot and alpha in the file; LoCon's convolutions are matrices of out rows. */
static void kohya_files(void **state)
{
	struct al *t = *state;
	static const float alpha = 4;
	static const double w[] = { 3, 0, 0, 0, 3, 0 };
	const struct al_tensor lora[] = {
		{ "lora_te_model_layers_2_self_attn_q_proj.lora_down.weight", { 2, 3 }, 2, fixture_a_peft },
		{ "lora_te_model_layers_2_self_attn_q_proj.lora_up.weight", { 2, 2 }, 2, fixture_b },
		{ "lora_te_model_layers_2_self_attn_q_proj.alpha", { 0 }, 0, &alpha },
	};
	const struct al_tensor loha = { "lora_te_x.hada_w1_a", { 2, 2 }, 2, NULL };
	const struct al_tensor conv = { "unet.down.conv.weight", { 2, 3, 1, 1 }, 4, fixture_w };
	const struct al_tensor locon[] = { { "lora_unet_down_conv.lora_down.weight", { 2, 3, 1, 1 }, 4, fixture_a_peft },
					   { "lora_unet_down_conv.lora_up.weight", { 2, 2, 1, 1 }, 4, fixture_b }, lora[2] };
	al_write_toy(al_path(t, "base"));
	al_write_st(al_path(t, "k.safetensors"), lora, 3);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "k.safetensors"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "model.layers.2.self_attn.q_proj.weight", w, 6, 0);
	al_expect_converted(t, al_path(t, "base"), al_path(t, "k.safetensors"), "model.layers.2.self_attn.q_proj.weight", w, 6);
	al_write_st(al_path(t, "k.safetensors"), &loha, 1);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "k.safetensors"), al_path(t, "out")), TN_E_UNSUPPORTED);
	mkdir(al_path(t, "loras"), 0777); /* what is replaced must not be the adapter itself */
	al_write_st(al_path(t, "loras/k.safetensors"), lora, 3);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "loras/k.safetensors"), al_path(t, "loras")), TN_E_ARG);
	al_expect_named(t, "k.safetensors");
	al_write_base(al_path(t, "conv"), "{}", &conv, 1);
	al_write_st(al_path(t, "k.safetensors"), locon, 2);
	al_ok(t, al_fuse(t, al_path(t, "conv"), al_path(t, "k.safetensors"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), conv.name, (const double[]){ 2, 0, 0, 0, 2, 0 }, 6, 0);
}

/* Three dimensions whose product fits are no factors of a matrix; on a convolution of that kernel they are. */
static void more_dimensions_only_on_a_convolution(void **state)
{
	struct al *t = *state;
	static const float w[12] = { 0 };
	static const struct {
		struct al_tensor base, a, b;
		tn_status status;
		const char *shapes[2];
	} rows[] = {
		{ { "l.weight", { 3, 4 }, 2, w }, { PREFIX "l.lora_A.weight", { 2, 2, 2 }, 3, w },
		  { PREFIX "l.lora_B.weight", { 3, 2 }, 2, w }, TN_E_MISMATCH, { "[2, 2, 2]", "[3, 4]" } },
		{ { "l.weight", { 3, 4 }, 2, w }, { PREFIX "l.lora_A.weight", { 2, 4 }, 2, w },
		  { PREFIX "l.lora_B.weight", { 3, 1, 2 }, 3, w }, TN_E_MISMATCH, { "[3, 1, 2]", "[3, 4]" } },
		{ { "l.weight", { 3, 4, 1 }, 3, w }, { PREFIX "l.lora_A.weight", { 2, 2, 2 }, 3, w },
		  { PREFIX "l.lora_B.weight", { 3, 2, 1 }, 3, w }, TN_E_MISMATCH, { "[2, 2, 2]", "[3, 4, 1]" } },
		{ { "l.weight", { 3, 2, 2 }, 3, w }, { PREFIX "l.lora_A.weight", { 2, 2, 2 }, 3, w },
		  { PREFIX "l.lora_B.weight", { 3, 2, 1 }, 3, w }, TN_OK, { NULL, NULL } },
	};
	for (size_t i = 0; i < COUNT(rows); i++) {
		const struct al_tensor lora[] = { rows[i].a, rows[i].b };
		al_write_base(al_path(t, "base%zu", i), "{}", &rows[i].base, 1);
		al_write_adapter(al_path(t, "a%zu", i), "{\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"l\"]}",
				 "adapter_model.safetensors", lora, 2);
		al_expect(t, al_fuse(t, al_path(t, "base%zu", i), al_path(t, "a%zu", i), al_path(t, "out%zu", i)), rows[i].status);
		for (int k = 0; k < 2 && rows[i].shapes[k]; k++)
			al_expect_named(t, rows[i].shapes[k]);
	}
}

static void put(FILE *f, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		fputc((int)(value >> (8 * i) & 0xFF), f);
}

static void put_text(FILE *f, const char *text)
{
	put(f, strlen(text), 8);
	fputs(text, f);
}

/* llama.cpp's adapter file: A [2, 3] and B [4, 2] of q_proj, whose rows are interleaved within one head of 4. */
static void write_gguf(const char *path, const char *type, const float *a, const float *b)
{
	FILE *f = fopen(path, "wb");
	uint32_t alpha;
	const float four = 4;
	memcpy(&alpha, &four, sizeof alpha);
	assert_non_null(f);
	fputs("GGUF", f);
	put(f, 3, 4);
	put(f, 2, 8);
	put(f, 4, 8);
	const char *const texts[][2] = { { "general.type", type }, { "general.architecture", "llama" }, { "adapter.type", "lora" } };
	for (size_t i = 0; i < 3; i++) {
		put_text(f, texts[i][0]);
		put(f, 8, 4);
		put_text(f, texts[i][1]);
	}
	put_text(f, "adapter.lora.alpha");
	put(f, 6, 4);
	put(f, alpha, 4);
	for (int i = 0; i < 2; i++) {
		put_text(f, i ? "blk.0.attn_q.weight.lora_b" : "blk.0.attn_q.weight.lora_a");
		put(f, 2, 4);
		put(f, i ? 2 : 3, 8);
		put(f, i ? 4 : 2, 8);
		put(f, 0, 4);
		put(f, i ? 32 : 0, 8);
	}
	while (ftell(f) % 32)
		put(f, 0, 1);
	fwrite(a, sizeof *a, 6, f);
	put(f, 0, 8);
	fwrite(b, sizeof *b, 8, f);
	assert_int_equal(fclose(f), 0);
}

static void gguf_files(void **state)
{
	struct al *t = *state;
	static const float zero[12] = { 0 }, b[] = { 1, 0, 2, 0, 3, 0, 4, 0 };
	/* llama.cpp's rows 0 1 2 3 are rows 0 2 1 3 */
	static const double w[] = { 2, 0, 0, 6, 0, 0, 4, 0, 0, 8, 0, 0 };
	const struct al_tensor base = { "model.layers.0.self_attn.q_proj.weight", { 4, 3 }, 2, zero };
	al_write_base(al_path(t, "base"), "{\"num_attention_heads\":1}", &base, 1);
	write_gguf(al_path(t, "l.gguf"), "adapter", fixture_a_peft, b);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "l.gguf"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base.name, w, 12, 0);
	al_expect_converted(t, al_path(t, "base"), al_path(t, "l.gguf"), base.name, w, 12);
	tn_doctor *d;
	al_ok(t, tn_doctor_run(t->ctx, al_path(t, "base"), al_path(t, "l.gguf"), "llama.cpp", &d, &t->err));
	assert_true(tn_doctor_ok(d)); /* its own format needs no PEFT folder */
	tn_doctor_free(d);
	write_gguf(al_path(t, "l.gguf"), "model", fixture_a_peft, b);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "l.gguf"), al_path(t, "out")), TN_E_UNSUPPORTED);
	write_gguf(al_path(t, "l.gguf"), "adapter", fixture_a_peft, b);
	for (long cut = 0; cut < 350; cut += 7) {
		assert_int_equal(truncate(al_path(t, "l.gguf"), 350 - cut), 0);
		assert_int_not_equal(al_fuse(t, al_path(t, "base"), al_path(t, "l.gguf"), al_path(t, "out")), TN_OK);
	}
}

/* ---- prefixes -------------------------------------------------------------------------------------------- */

/* The same two factors under every name that is met in the wild. */
static void prefixes_of_wrappers(void **state)
{
	struct al *t = *state;
	static const char *const fronts[] = {
		"base_model.model.model.layers.0.self_attn.q_proj.lora_%c.weight",
		"base_model.model.model.layers.0.self_attn.q_proj.lora_%c.default.weight",
		"base_model.model.model.layers.0.self_attn.q_proj.lora_%c.pirate.weight",
		"base_model.model.layers.0.self_attn.q_proj.lora_%c.weight",
		"base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_%c.weight",
		"module.base_model.model.model.layers.0.self_attn.q_proj.lora_%c.weight",
		"base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_%c.weight",
		"base_model.model.module.model.layers.0.self_attn.q_proj.lora_%c.weight",
		"model.layers.0.self_attn.q_proj.lora_%c.weight",
		"base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_%c.weight",
		"base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_%c.weight",
	};
	static const double w[] = { 3, 0, 0, 0, 3, 0 };
	for (size_t i = 0; i < COUNT(fronts); i++) {
		char a[128], b[128];
		snprintf(a, sizeof a, fronts[i], 'A');
		snprintf(b, sizeof b, fronts[i], 'B');
		const struct al_tensor lora[] = { { a, { 2, 3 }, 2, fixture_a_peft }, { b, { 2, 2 }, 2, fixture_b } };
		al_write_toy(al_path(t, "base"));
		al_write_adapter(al_path(t, "a"), PEFT(",\"layers_to_transform\":null,\"exclude_modules\":\".*[123].*\""),
				 "adapter_model.safetensors", lora, 2);
		al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
		expect_values(t, al_path(t, "out"), "model.layers.0.self_attn.q_proj.weight", w, 6, 0);
	}
}

/* An adapter of a language model on a base that also sees: the tower's q_proj are no missing targets. */
static void a_vision_tower_is_left_alone(void **state)
{
	struct al *t = *state;
	static const double w[] = { 3, 0, 0, 0, 3, 0 };
	const struct al_tensor base[] = {
		{ "language_model.model.layers.0.self_attn.q_proj.weight", { 2, 3 }, 2, fixture_w },
		{ "vision_tower.encoder.layers.0.self_attn.q_proj.weight", { 2, 3 }, 2, fixture_w },
	};
	const struct al_tensor lora[] = { { Q0 ".lora_A.weight", { 2, 3 }, 2, fixture_a_peft }, { Q0 ".lora_B.weight", { 2, 2 }, 2, fixture_b } };
	al_write_base(al_path(t, "base"), "{}", base, 2);
	al_write_adapter(al_path(t, "a"), PEFT(""), "adapter_model.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), base[0].name, w, 6, 0);
}

/* Modules that are called like parts of an adapter (PEFT, tests/test_low_level_api.py). */
static void modules_with_confusing_names(void **state)
{
	struct al *t = *state;
	static const double w[] = { 3, 0, 0, 0, 3, 0 };
	static const char *const modules[] = { "lora_A", "lora_B", "weight", "bias", "default", "x.lora_A.y" };
	for (size_t i = 0; i < COUNT(modules); i++) {
		char name[64], a[128], b[128], config[160];
		snprintf(name, sizeof name, "m.%s.weight", modules[i]);
		snprintf(a, sizeof a, PREFIX "m.%s.lora_A.weight", modules[i]);
		snprintf(b, sizeof b, PREFIX "m.%s.lora_B.weight", modules[i]);
		snprintf(config, sizeof config, "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"m.%s\"]}", modules[i]);
		const struct al_tensor base = { name, { 2, 3 }, 2, fixture_w };
		const struct al_tensor lora[] = { { a, { 2, 3 }, 2, fixture_a_peft }, { b, { 2, 2 }, 2, fixture_b } };
		al_write_base(al_path(t, "base"), "{}", &base, 1);
		al_write_adapter(al_path(t, "a"), config, "adapter_model.safetensors", lora, 2);
		if (al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")) != TN_OK)
			fail_msg("%s: %s", modules[i], t->err.msg);
		expect_values(t, al_path(t, "out"), name, w, 6, 0);
	}
}

/* ---- more ------------------------------------------------------------------------------------------------ */

static void verify_tells_right_from_wrong(void **state)
{
	struct al *t = *state;
	al_write_toy(al_path(t, "base"));
	al_write_toy_adapter(al_path(t, "a"), PEFT(""), 1, 2, 0, 3);
	al_write_toy_adapter(al_path(t, "b"), "{\"r\":2,\"lora_alpha\":4.0001,\"target_modules\":[\"q_proj\"]}", 1, 2, 0, 3);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	for (int i = 0; i < 2; i++) {
		tn_checkpoint *base, *merged;
		tn_adapter *a;
		tn_verify *v;
		al_ok(t, tn_checkpoint_open(t->ctx, al_path(t, "base"), &base, &t->err));
		al_ok(t, tn_checkpoint_open(t->ctx, al_path(t, "out"), &merged, &t->err));
		al_ok(t, tn_adapter_open(t->ctx, al_path(t, i ? "b" : "a"), &a, &t->err));
		al_ok(t, tn_verify_run(t->ctx, base, a, NULL, merged, &v, &t->err));
		assert_int_equal(tn_verify_ok(v), i == 0);
		tn_verify_free(v);
		al_ok(t, tn_verify_run(t->ctx, base, a, NULL, base, &v, &t->err));
		assert_false(tn_verify_ok(v));
		tn_verify_free(v);
		tn_adapter_close(a);
		tn_checkpoint_close(merged);
		tn_checkpoint_close(base);
	}
}

/* ensure_weight_tying: the head's factors are the embedding's, turned round, though target_modules names one only. */
static void tying_on_purpose_adapts_both(void **state)
{
	struct al *t = *state;
	const struct al_tensor lora[] = { { PREFIX "model.embed_tokens.lora_embedding_A", { 2, 4 }, 2, NULL },
					  { PREFIX "model.embed_tokens.lora_embedding_B", { 3, 2 }, 2, NULL },
					  { PREFIX "lm_head.lora_A.weight", { 2, 3 }, 2, NULL },
					  { PREFIX "lm_head.lora_B.weight", { 4, 2 }, 2, NULL } };
	al_write_toy(al_path(t, "base"));
	al_write_adapter(al_path(t, "a"), "{\"r\":2,\"target_modules\":[\"embed_tokens\"],\"ensure_weight_tying\":true}",
			 "adapter_model.safetensors", lora, 4);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	al_write_adapter(al_path(t, "a"), "{\"r\":2,\"target_modules\":[\"embed_tokens\"]}", "adapter_model.safetensors", lora, 4);
	al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")), TN_E_MISMATCH);
}

/* The same change in both dialects has one hash; another scale has another. */
static void the_hash_is_of_the_change(void **state)
{
	struct al *t = *state;
	unsigned char hash[3][TN_HASH_BYTES];
	const struct al_tensor mlx[] = { { "l.lora_a", { 3, 2 }, 2, fixture_a }, { "l.lora_b", { 2, 2 }, 2, fixture_b } };
	const struct al_tensor peft[] = { { PREFIX "l.lora_A.weight", { 2, 3 }, 2, fixture_a_peft },
					  { PREFIX "l.lora_B.weight", { 2, 2 }, 2, fixture_b } };
	static const char *const configs[] = { MLX(-1, ""), "{\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"l\"]}",
					       "{\"r\":2,\"lora_alpha\":5,\"target_modules\":[\"l\"]}" };
	for (int i = 0; i < 3; i++) {
		tn_adapter *a;
		al_write_adapter(al_path(t, "a%d", i), configs[i], i ? "adapter_model.safetensors" : "adapters.safetensors",
				 i ? peft : mlx, 2);
		al_ok(t, tn_adapter_open(t->ctx, al_path(t, "a%d", i), &a, &t->err));
		al_ok(t, tn_adapter_hash(a, hash[i], &t->err));
		tn_adapter_close(a);
	}
	assert_memory_equal(hash[0], hash[1], TN_HASH_BYTES);
	assert_memory_not_equal(hash[1], hash[2], TN_HASH_BYTES);
}

static void the_doctor_says_what_is_wrong(void **state)
{
	struct al *t = *state;
	tn_doctor *d;
	al_write_toy(al_path(t, "base"));
	al_write_toy_adapter(al_path(t, "a"), PEFT(",\"use_rslora\":true"), 1, 2, 0, 3);
	al_ok(t, tn_doctor_run(t->ctx, al_path(t, "base"), al_path(t, "a"), "llama.cpp", &d, &t->err));
	assert_true(tn_doctor_lands(d) && tn_doctor_ok(d));
	assert_string_equal(tn_doctor_at(d, 0)->where, "use_rslora");
	tn_doctor_free(d);
	al_write_toy_adapter(al_path(t, "a"), PEFT(""), 1, 2, 0, 2);
	al_ok(t, tn_doctor_run(t->ctx, al_path(t, "base"), al_path(t, "a"), "mlx", &d, &t->err));
	assert_false(tn_doctor_lands(d));
	assert_false(tn_doctor_ok(d));
	tn_doctor_free(d);
	al_expect(t, tn_doctor_run(t->ctx, al_path(t, "base"), al_path(t, "a"), "word", &d, &t->err), TN_E_ARG);
}

/* BD-LoRA: A packed [2, 2] of two diagonal blocks is [[a,b,0,0],[0,0,c,d]]. */
static void bd_lora_is_block_diagonal(void **state)
{
	struct al *t = *state;
	static const float zero[8] = { 0 }, a[] = { 1, 2, 3, 4 };
	static const double w[] = { 1, 2, 0, 0, 0, 0, 3, 4 };
	const struct al_tensor base = { "l.weight", { 2, 4 }, 2, zero };
	const struct al_tensor lora[] = { { PREFIX "l.lora_A.weight", { 2, 2 }, 2, a }, { PREFIX "l.lora_B.weight", { 2, 2 }, 2, fixture_b } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), "{\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"l\"],\"use_bdlora\":{\"nblocks\":2,"
			 "\"target_modules_bd_a\":[\"l\"]}}", "adapter_model.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "l.weight", w, 8, 0);
}

/* QA-LoRA with groups of 2: A[:, c / 2] * in / 4. */
static void qa_lora_is_dense(void **state)
{
	struct al *t = *state;
	static const float zero[8] = { 0 }, a[] = { 1, 2, 3, 4 };
	static const double w[] = { 1, 1, 2, 2, 3, 3, 4, 4 };
	const struct al_tensor base = { "l.weight", { 2, 4 }, 2, zero };
	const struct al_tensor lora[] = { { PREFIX "l.lora_A.weight", { 2, 2 }, 2, a }, { PREFIX "l.lora_B.weight", { 2, 2 }, 2, fixture_b } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), "{\"r\":2,\"lora_alpha\":2,\"target_modules\":[\"l\"],\"use_qalora\":true,"
			 "\"qalora_group_size\":2}", "adapter_model.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "l.weight", w, 8, 0);
}

/* OLoRA of rank 1 with scale 2 on diag(3, 1): 2 * [3, 0; 0, 0] is taken out, and 2 B A added. */
static void olora_takes_out_as_much_as_its_scale(void **state)
{
	struct al *t = *state;
	static const float base_w[] = { 3, 0, 0, 1 }, a[] = { 0, 1 }, b[] = { 0, 1 };
	static const double w[] = { -3, 0, 0, 3 };
	const struct al_tensor base = { "l.weight", { 2, 2 }, 2, base_w };
	const struct al_tensor lora[] = { { PREFIX "l.lora_A.weight", { 1, 2 }, 2, a }, { PREFIX "l.lora_B.weight", { 2, 1 }, 2, b } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), "{\"r\":1,\"lora_alpha\":2,\"target_modules\":[\"l\"],\"init_lora_weights\":\"olora\"}",
			 "adapter_model.safetensors", lora, 2);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "l.weight", w, 4, 1e-12);
}

/* KaSA of rank 1 on diag(3, 1): the base becomes diag(3, 0), and 2 B diag(d) A is added. */
static void kasa_truncates_the_base(void **state)
{
	struct al *t = *state;
	static const float base_w[] = { 3, 0, 0, 1 }, a[] = { 0, 1 }, b[] = { 0, 1 }, d[] = { 5 };
	static const double w[] = { 3, 0, 0, 10 };
	const struct al_tensor base = { "l.weight", { 2, 2 }, 2, base_w };
	const struct al_tensor lora[] = { { PREFIX "l.lora_A.weight", { 1, 2 }, 2, a }, { PREFIX "l.lora_B.weight", { 2, 1 }, 2, b },
					  { PREFIX "l.lora_diag", { 1 }, 1, d } };
	al_write_base(al_path(t, "base"), "{}", &base, 1);
	al_write_adapter(al_path(t, "a"), "{\"r\":1,\"lora_alpha\":2,\"target_modules\":[\"l\"],\"kasa_config\":{\"beta\":0.0001}}",
			 "adapter_model.safetensors", lora, 3);
	al_ok(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")));
	expect_values(t, al_path(t, "out"), "l.weight", w, 4, 1e-12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(lora_fuse_with_bias_matches_forward),
		AL_TEST(dora_fuse_matches_forward),
		AL_TEST(dora_embedding_fuse_round_trip),
		AL_TEST(peft_fan_in_fan_out_transposes_base_weight),
		AL_TEST(peft_end_to_end_rank_pattern_per_module_scale),
		AL_TEST(load_adapters_dora_end_to_end),
		AL_TEST(dora_of_a_zero_row_keeps_it),
		AL_TEST(experts_of_mlx_lm),
		AL_TEST(experts_land_on_other_layouts),
		AL_TEST(kohya_files),
		AL_TEST(more_dimensions_only_on_a_convolution),
		AL_TEST(gguf_files),
		AL_TEST(prefixes_of_wrappers),
		AL_TEST(a_vision_tower_is_left_alone),
		AL_TEST(modules_with_confusing_names),
		AL_TEST(verify_tells_right_from_wrong),
		AL_TEST(tying_on_purpose_adapts_both),
		AL_TEST(the_hash_is_of_the_change),
		AL_TEST(the_doctor_says_what_is_wrong),
		AL_TEST(bd_lora_is_block_diagonal),
		AL_TEST(qa_lora_is_dense),
		AL_TEST(olora_takes_out_as_much_as_its_scale),
		AL_TEST(kasa_truncates_the_base),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
