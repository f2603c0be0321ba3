/* SPDX-License-Identifier: Apache-2.0 */
/* Logits with adapters attached, against those that PEFT 0.21 (transformers 5.23, float32) and mlx-lm 0.32.2 (MLX 0.32.4, CPU)
 * computed with the same adapters, not merged either: every case of the archives that can be live. */
#include "livelib.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const archives[] = { "peft", "mlx_adapters" };

/* What a peer loses, as a share of the largest logit. PEFT computed in float32; MLX computes in the dtype of the base, which
 * is that of its last norm. */
static double limit_of(const tn_checkpoint *base)
{
	static const char *const norms[] = { "model.norm.weight", "transformer.ln_f.weight", "ln_f.weight" };
	const struct tn_tensor *norm = NULL;
	for (size_t i = 0; i < 3 && !norm; i++)
		norm = tn_checkpoint_find(base, norms[i]);
	assert_non_null(norm);
	return norm->dtype == TN_F32 ? 5e-6 : norm->dtype == TN_F16 ? 4e-3 : 8e-2;
}

static int is_refused(const char *name)
{
	return strcmp(name, "alora") == 0 || strcmp(name, "layer_replication") == 0;
}

struct peer {
	tn_safetensors *file;
	uint32_t *ids;
	float *logits;
	size_t texts, tokens, vocabulary;
};

static int read_peer(struct tt *t, const char *folder, struct peer *p)
{
	char path[600];
	snprintf(path, sizeof path, "%s/expect.safetensors", folder);
	if (!tt_exists(path))
		return 0;
	tt_ok(t, tn_safetensors_open(t->ctx, path, &p->file, &t->err));
	const struct tn_tensor *ids = tn_safetensors_find(p->file, "input_ids"), *logits = tn_safetensors_find(p->file, "logits");
	if (!ids || !logits) {
		tn_safetensors_close(p->file);
		return 0;
	}
	assert_int_equal(logits->dtype, TN_F32);
	assert_int_equal(ids->dtype, TN_I32);
	p->texts = (size_t)logits->shape[0];
	p->tokens = (size_t)logits->shape[1];
	p->vocabulary = (size_t)logits->shape[2];
	p->ids = malloc((size_t)ids->bytes);
	p->logits = malloc((size_t)logits->bytes);
	tt_ok(t, tn_safetensors_read(p->file, ids, 0, p->ids, (size_t)ids->bytes, &t->err));
	tt_ok(t, tn_safetensors_read(p->file, logits, 0, p->logits, (size_t)logits->bytes, &t->err));
	return 1;
}

static void free_peer(struct peer *p)
{
	free(p->ids);
	free(p->logits);
	tn_safetensors_close(p->file);
}

/* The largest error, as a share of the largest logit. */
static double error_of(struct tt *t, tn_decoder *decoder, const struct peer *p)
{
	size_t n = p->tokens * p->vocabulary;
	float *got = malloc(n * sizeof *got);
	double top = 0, error = 0;
	for (size_t i = 0; i < p->texts; i++) {
		tn_sequence *text;
		tt_ok(t, tn_sequence_create(decoder, p->tokens, &text, &t->err));
		struct tn_step step = { text, p->ids + i * p->tokens, p->tokens, got, 1 };
		tt_ok(t, tn_decoder_step(decoder, &step, 1, &t->err));
		for (size_t k = 0; k < n; k++) {
			double wanted = (double)p->logits[i * n + k];
			top = fmax(top, fabs(wanted));
			error = fmax(error, isfinite(got[k]) ? fabs(wanted - (double)got[k]) : HUGE_VAL);
		}
		tn_sequence_destroy(text);
	}
	free(got);
	return error / top;
}

static int check_case(struct tt *t, const char *base, const char *folder, const char *name)
{
	struct peer p;
	struct live_base b;
	tn_decoder *decoder;
	if (is_refused(name) || !read_peer(t, folder, &p))
		return 0;
	live_open(t, base, &b);
	tt_ok(t, tn_decoder_create(b.live, b.checkpoint, NULL, &decoder, &t->err));
	tn_adapter *adapter = live_adapter(t, folder);
	tt_ok(t, tn_live_attach(b.live, "it", adapter, 1, &t->err));
	double error = error_of(t, decoder, &p);
	if (!(error <= limit_of(b.checkpoint)))
		fail_msg("%s: off by %g of the largest logit", name, error);
	tn_decoder_destroy(decoder);
	live_close(&b);
	tn_adapter_close(adapter);
	free_peer(&p);
	return 1;
}

static void test_every_case(void **state)
{
	struct tt *t = *state;
	for (int a = 0; a < 2; a++) {
		char path[512], folder[512], base[512];
		const char *name;
		json_t *info;
		size_t checked = 0;
		snprintf(path, sizeof path, LIVE_DATA "/%s/cases.json", archives[a]);
		json_t *root = json_load_file(path, 0, NULL);
		assert_non_null(root);
		json_object_foreach(json_object_get(root, "cases"), name, info) {
			snprintf(base, sizeof base, LIVE_DATA "/%s/%s", archives[a], json_string_value(json_object_get(info, "base")));
			snprintf(folder, sizeof folder, LIVE_DATA "/%s/%s/%s", archives[a], a ? "adapters" : "cases", name);
			checked += (size_t)check_case(t, base, folder, name);
		}
		assert_int_equal(checked, a ? 63 : 34);
		json_decref(root);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(test_every_case) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
