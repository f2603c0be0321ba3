/* SPDX-License-Identifier: Apache-2.0 */
/* Merging into memory: the bytes of a fuse, and back. For dense, quantized, tied, stacked and turned matrices of the archives:
 * products with merged modules have the bits of products with the checkpoint that a fuse writes. */
#include "livelib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { M = 3 };

static const struct {
	const char *archive, *base, *adapter;
} cases[] = {
	{ "peft", "llama", "cases/dora" },
	{ "peft", "llama", "cases/trainable_tokens" },
	{ "peft", "llama_tied", "cases/tied_embedding" },
	{ "peft", "gpt2", "cases/gpt2_conv1d" },
	{ "mlx_adapters", "models/afm7", "errors/afm7_fused_projection" },
	{ "mlx_adapters", "models/llama_tied", "adapters/key_embed_tokens_tied" },
	{ "mlx_adapters", "models/llama_q4_g64", "adapters/q4" },
	{ "mlx_adapters", "models/llama_nvfp4", "adapters/nvfp4" },
	{ "mlx_adapters", "models/mixtral_q4", "adapters/switch_q4" },
};

static int is_conv1d(const char *path)
{
	return strstr(path, ".attn.c_") || strstr(path, ".mlp.c_");
}

static void turn_conv1d(struct tt *t, tn_live *live)
{
	for (size_t i = 0; i < tn_live_module_count(live); i++)
		if (is_conv1d(tn_live_module_path(live, i)))
			tt_ok(t, tn_live_transpose(live, i, &t->err));
}

/* A module in a snapshot and one in another are multiplied alike, to the bit or not. */
static int same_products(const tn_live *a, const tn_snapshot *in_a, size_t i, const tn_live *b, const tn_snapshot *in_b, size_t k)
{
	struct tn_module_shape shape;
	tn_live_shape(a, i, &shape);
	float *x = live_x(M, (size_t)shape.in_features, 4);
	int same = 1;
	for (uint64_t e = 0; e < (shape.experts ? shape.experts : 1); e++) {
		float *y = live_forward(in_a, a, i, e, M, x, NULL), *z = live_forward(in_b, b, k, e, M, x, NULL);
		same &= memcmp(y, z, M * shape.out_features * sizeof *y) == 0;
		free(y);
		free(z);
	}
	free(x);
	return same;
}

static size_t same_module(const tn_live *live, const char *path)
{
	size_t k = tn_live_module(live, path);
	return k == TN_LIVE_NONE ? tn_live_module(live, "lm_head") : k;
}

static void check_case(struct tt *t, size_t n)
{
	char base[512], adapter[512];
	struct live_base b, fused;
	size_t changed = 0;
	snprintf(base, sizeof base, LIVE_DATA "/%s/%s", cases[n].archive, cases[n].base);
	snprintf(adapter, sizeof adapter, LIVE_DATA "/%s/%s", cases[n].archive, cases[n].adapter);
	live_open(t, base, &b);
	turn_conv1d(t, b.live);
	tn_adapter *a = live_adapter(t, adapter);
	tt_ok(t, tn_live_attach(b.live, "a", a, 1, &t->err));
	tt_ok(t, tn_live_fuse(b.live, tt_path(t, "fused%zu", n), 0, &t->err));
	live_open(t, tt_path(t, "fused%zu", n), &fused);
	turn_conv1d(t, fused.live);
	tn_snapshot *before = tn_live_snapshot(b.live), *there = tn_live_snapshot(fused.live);
	tt_ok(t, tn_live_merge(b.live, TN_LIVE_ALL, &t->err));
	tn_snapshot *merged = tn_live_snapshot(b.live);
	assert_true(tn_snapshot_identity(merged, TN_LIVE_DEFAULT) != tn_snapshot_identity(before, TN_LIVE_DEFAULT));
	for (size_t i = 0; i < tn_live_module_count(b.live); i++) {
		size_t k = same_module(fused.live, tn_live_module_path(b.live, i));
		if (!same_products(b.live, merged, i, fused.live, there, k))
			fail_msg("%s: %s is not what the fuse wrote", cases[n].adapter, tn_live_module_path(b.live, i));
		changed += (size_t)tn_snapshot_is_merged(merged, i);
	}
	assert_true(changed > 0);
	tt_ok(t, tn_live_unmerge(b.live, TN_LIVE_ALL, &t->err));
	tn_snapshot *after = tn_live_snapshot(b.live);
	for (size_t i = 0; i < tn_live_module_count(b.live); i++)
		assert_true(same_products(b.live, before, i, b.live, after, i));
	assert_true(tn_snapshot_identity(after, TN_LIVE_DEFAULT) == tn_snapshot_identity(before, TN_LIVE_DEFAULT));
	tn_snapshot_release(before);
	tn_snapshot_release(there);
	tn_snapshot_release(merged);
	tn_snapshot_release(after);
	live_close(&fused);
	live_close(&b);
	tn_adapter_close(a);
}

static void test_merged_is_fused(void **state)
{
	for (size_t n = 0; n < sizeof cases / sizeof *cases; n++)
		check_case(*state, n);
}

static void test_errors(void **state)
{
	struct tt *t = *state;
	struct live_base b;
	live_write_base(tt_path(t, "base"));
	live_write_adapter(tt_path(t, "a0"), 0, 1);
	live_open(t, tt_path(t, "base"), &b);
	tn_adapter *a = live_adapter(t, tt_path(t, "a0"));
	size_t q = tn_live_module(b.live, LIVE_Q), v = tn_live_module(b.live, LIVE_V);
	tt_expect(t, tn_live_merge(b.live, q, &t->err), TN_E_ARG);
	tt_expect(t, tn_live_merge(b.live, TN_LIVE_NONE, &t->err), TN_E_ARG);
	tt_expect(t, tn_live_unmerge(b.live, TN_LIVE_NONE, &t->err), TN_E_ARG);
	tt_expect(t, tn_live_fuse(b.live, tt_path(t, "out"), 0, &t->err), TN_E_ARG);
	tt_expect(t, tn_live_unmerge(b.live, q, &t->err), TN_E_NOTFOUND);
	tt_ok(t, tn_live_attach(b.live, "a", a, 1, &t->err));
	tt_ok(t, tn_live_merge(b.live, q, &t->err));
	tt_expect(t, tn_live_merge(b.live, q, &t->err), TN_E_EXISTS);
	tt_expect_msg(t, "merged already");
	tt_expect(t, tn_live_detach(b.live, "a", &t->err), TN_E_ARG);
	tt_expect(t, tn_live_enable(b.live, "a", 0, &t->err), TN_E_ARG);
	tt_expect(t, tn_live_swap(b.live, "a", "a", a, 1, &t->err), TN_E_ARG);
	tt_expect(t, tn_live_attach(b.live, "b", a, 1, &t->err), TN_E_ARG);
	tt_expect_msg(t, "tn_live_unmerge");
	tt_ok(t, tn_live_attach_disabled(b.live, "b", a, 1, &t->err));
	tn_snapshot *now = tn_live_snapshot(b.live);
	assert_true(tn_snapshot_is_merged(now, q) && !tn_snapshot_is_merged(now, v));
	tn_snapshot_release(now);
	tt_ok(t, tn_live_detach(b.live, "b", &t->err));
	tt_ok(t, tn_live_merge(b.live, TN_LIVE_ALL, &t->err));
	tt_expect(t, tn_live_merge(b.live, TN_LIVE_ALL, &t->err), TN_E_EXISTS);
	tt_ok(t, tn_live_unmerge(b.live, q, &t->err));
	tt_expect(t, tn_live_unmerge(b.live, q, &t->err), TN_E_NOTFOUND);
	tt_ok(t, tn_live_unmerge(b.live, TN_LIVE_ALL, &t->err));
	tt_ok(t, tn_live_detach(b.live, "a", &t->err));
	live_close(&b);
	tn_adapter_close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(test_merged_is_fused), TT_TEST(test_errors) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
