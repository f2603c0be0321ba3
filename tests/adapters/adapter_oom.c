/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation of opening, planning, fusing and verifying fails once: the call says so, and nothing is left behind. */
#include "adapterlib.h"
#include "testlib.h"

#include <stdio.h>

#define CASES ADAPTER_DATA "/peft"

static tn_status whole_job(tn_context *ctx, const char *base, const char *adapter, const char *out, struct tn_error *err)
{
	tn_checkpoint *b = NULL, *m = NULL;
	tn_adapter *a = NULL;
	tn_fuse *fuse = NULL;
	tn_verify *v = NULL;
	unsigned char hash[TN_HASH_BYTES];
	tn_status status = tn_checkpoint_open(ctx, base, &b, err);
	if (status == TN_OK)
		status = tn_adapter_open(ctx, adapter, &a, err);
	if (status == TN_OK)
		status = tn_adapter_hash(a, hash, err);
	if (status == TN_OK)
		status = tn_fuse_plan(ctx, b, a, &fuse, err);
	if (status == TN_OK)
		status = tn_fuse_run(fuse, out, 1, err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, out, &m, err);
	if (status == TN_OK)
		status = tn_verify_run(ctx, b, a, m, &v, err);
	tn_verify_free(v);
	tn_checkpoint_close(m);
	tn_fuse_free(fuse);
	tn_adapter_close(a);
	tn_checkpoint_close(b);
	return status;
}

static void sweep(void **state)
{
	static const char *const cases[][2] = {
		{ "llama", "embedding_dora" }, { "llama_tied", "tied_embedding" }, { "llama", "init_pissa" },
		{ "gpt2", "gpt2_conv1d_dora" }, { "mixtral", "moe_target_parameters" }, { "llama", "layer_replication" },
		{ "llama", "trainable_tokens" }, { "llama_bias", "lora_b_bias_base" }, { "llama", "lora_regex_lookahead" },
	};
	struct al *t = *state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char base[512], adapter[512];
		tn_status status = TN_E_NOMEM;
		snprintf(base, sizeof base, "%s/%s", CASES, cases[i][0]);
		snprintf(adapter, sizeof adapter, "%s/cases/%s", CASES, cases[i][1]);
		for (size_t at = 1; status != TN_OK; at += at < 60 ? 1 : at / 23) {
			struct tt_heap heap = { 0 };
			struct tn_options options = TN_OPTIONS_INIT;
			tn_context *ctx;
			options.allocator = tt_heap_allocator(&heap);
			options.threads = 1;
			assert_int_equal(tn_context_create(&options, &ctx, NULL), TN_OK);
			heap.calls = 0;
			heap.fail_at = at;
			status = whole_job(ctx, base, adapter, al_path(t, "out"), &t->err);
			if (status != TN_OK && status != TN_E_NOMEM)
				fail_msg("%s, allocation %zu: %s", cases[i][1], at, t->err.msg);
			tn_context_destroy(ctx);
			if (heap.live_blocks != 0)
				fail_msg("%s, allocation %zu: %zu blocks are left", cases[i][1], at, heap.live_blocks);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { AL_TEST(sweep) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
