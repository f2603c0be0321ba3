/* SPDX-License-Identifier: Apache-2.0 */
/* Experts out of two checkpoints that hold them in different forms. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { EXPERTS = 3, HIDDEN = 16, INNER = 20 };

/* gate [INNER, HIDDEN] above up, and down [HIDDEN, INNER], of each expert. */
struct experts {
	float gate_up[EXPERTS][2 * INNER * HIDDEN], down[EXPERTS][HIDDEN * INNER];
};
#define BLOCK "model.layers.0.block_sparse_moe.experts"

static void write_config(struct tt *t, const char *name)
{
	tt_write_text(tt_path(t, "%s/config.json", name), "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 1}\n");
}

static void write_apart(struct tt *t, const struct experts *x, const char *name)
{
	struct fuse_tensor tensors[3 * EXPERTS];
	char names[3 * EXPERTS][96];
	for (int i = 0; i < EXPERTS; i++) {
		for (int w = 0; w < 3; w++)
			snprintf(names[3 * i + w], sizeof names[0], BLOCK ".%d.w%d.weight", i, w + 1);
		tensors[3 * i] = (struct fuse_tensor){ names[3 * i], INNER, HIDDEN, x->gate_up[i] };
		tensors[3 * i + 1] = (struct fuse_tensor){ names[3 * i + 1], HIDDEN, INNER, x->down[i] };
		tensors[3 * i + 2] = (struct fuse_tensor){ names[3 * i + 2], INNER, HIDDEN, x->gate_up[i] + INNER * HIDDEN };
	}
	const char *path = tt_path(t, "%s", name);
	fuse_write_model(t, path, tensors, 3 * EXPERTS, TN_F32);
	write_config(t, name);
}

static void write_fused(struct tt *t, const struct experts *x, const char *name)
{
	const struct fuse_tensor stacks[] = { { BLOCK ".down_proj", HIDDEN, INNER, x->down[0] },
					      { BLOCK ".gate_up_proj", 2 * INNER, HIDDEN, x->gate_up[0] } };
	const char *path = tt_path(t, "%s", name);
	mkdir(path, 0777);
	fuse_write_stacks(t, tt_path(t, "%s/model.safetensors", name), stacks, 2, EXPERTS);
	write_config(t, name);
}

/* mlx-lm's three stacks. */
static void write_switch(struct tt *t, const struct experts *x, const char *name)
{
	static const char *const names[] = { "down_proj", "gate_proj", "up_proj" };
	static float halves[2][EXPERTS][INNER * HIDDEN];
	const float *values[] = { x->down[0], halves[0][0], halves[1][0] };
	struct fuse_tensor stack[3];
	char full[3][96];
	for (int i = 0; i < EXPERTS; i++)
		for (int up = 0; up < 2; up++)
			memcpy(halves[up][i], x->gate_up[i] + up * INNER * HIDDEN, sizeof halves[up][i]);
	const char *path = tt_path(t, "%s", name);
	mkdir(path, 0777);
	for (int i = 0; i < 3; i++) {
		snprintf(full[i], sizeof full[i], "model.layers.0.block_sparse_moe.switch_mlp.%s.weight", names[i]);
		stack[i] = (struct fuse_tensor){ full[i], i ? INNER : HIDDEN, i ? HIDDEN : INNER, values[i] };
	}
	fuse_write_stacks(t, tt_path(t, "%s/model-1.safetensors", name), stack, 1, EXPERTS);
	fuse_write_stacks(t, tt_path(t, "%s/model-2.safetensors", name), stack + 1, 2, EXPERTS);
	write_config(t, name);
}

/* A change of rank 2. */
static void turn(float *w, size_t rows, size_t cols, uint64_t seed)
{
	float left[2 * 2 * INNER], right[2 * 2 * INNER];
	for (size_t i = 0; i < 4 * INNER; i++) {
		left[i] = fuse_normal(&seed) / 4;
		right[i] = fuse_normal(&seed) / 4;
	}
	for (size_t i = 0; i < rows; i++)
		for (size_t k = 0; k < cols; k++)
			w[i * cols + k] += left[2 * i] * right[2 * k] + left[2 * i + 1] * right[2 * k + 1];
}

static void expect_values(struct tt *t, const char *folder, const char *name, const float *wanted, size_t count)
{
	size_t n;
	double *got = fuse_values(t, folder, name, &n);
	assert_int_equal(n, count);
	for (size_t i = 0; i < n; i++)
		if (fabs(got[i] - (double)wanted[i]) > 1e-6)
			fail_msg("%s, %zu: %g, %g was expected", name, i, got[i], (double)wanted[i]);
	free(got);
}

static void experts_may_stand_in_another_form(void **state)
{
	struct tt *t = *state;
	struct experts x;
	uint64_t seed = 5;
	for (size_t i = 0; i < sizeof x / sizeof(float); i++)
		((float *)&x)[i] = fuse_normal(&seed);
	write_apart(t, &x, "apart");
	write_fused(t, &x, "fused");
	write_switch(t, &x, "switch");
	for (uint64_t i = 0; i < EXPERTS; i++) {
		turn(x.gate_up[i], 2 * INNER, HIDDEN, 10 + i);
		turn(x.down[i], HIDDEN, INNER, 20 + i);
	}
	write_fused(t, &x, "tuned_fused");
	write_switch(t, &x, "tuned_switch");
	write_apart(t, &x, "tuned_apart");
	for (int form = 0; form < 3; form++)
		for (int peft = 0; peft < 2; peft++) {
			static const char *const bases[] = { "apart", "fused", "switch" };
			static const char *const tuned[] = { "tuned_fused", "tuned_switch", "tuned_apart" };
			struct fuse_extraction j = fuse_extraction_of(tt_path(t, "%s", bases[form]), tt_path(t, "%s", tuned[form]),
					      peft ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM, 2);
			char again[4096], adapter[4096];
			tn_draft *d = fuse_extract(t, &j);
			assert_int_equal(tn_draft_derived_count(d), peft ? 2 : 3);
			snprintf(adapter, sizeof adapter, "%s/adapter%d%d", t->folder, form, peft);
			snprintf(again, sizeof again, "%s/again%d%d", t->folder, form, peft);
			tt_ok(t, tn_draft_save(d, adapter, 0, &t->err));
			struct fuse_job fuse = FUSE_JOB(.base = j.base, .adapter = adapter, .out = again);
			fuse_run(t, t->ctx, &fuse, NULL, 0);
			if (form == 2) {
				expect_values(t, again, "model.layers.0.block_sparse_moe.switch_mlp.down_proj.weight", x.down[0],
					      EXPERTS * HIDDEN * INNER);
			} else if (form == 1) {
				expect_values(t, again, BLOCK ".gate_up_proj", x.gate_up[0], EXPERTS * 2 * INNER * HIDDEN);
				expect_values(t, again, BLOCK ".down_proj", x.down[0], EXPERTS * HIDDEN * INNER);
			} else {
				expect_values(t, again, BLOCK ".1.w1.weight", x.gate_up[1], INNER * HIDDEN);
				expect_values(t, again, BLOCK ".2.w3.weight", x.gate_up[2] + INNER * HIDDEN, INNER * HIDDEN);
				expect_values(t, again, BLOCK ".2.w2.weight", x.down[2], HIDDEN * INNER);
			}
			tn_draft_destroy(d);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(experts_may_stand_in_another_form) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
