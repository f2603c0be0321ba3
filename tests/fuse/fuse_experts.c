/* SPDX-License-Identifier: Apache-2.0 */
/* Two adapters on experts, one for the whole stack and one for single experts: they add up, on bases of either form, in either
 * order, and where a single expert has no part the stack's delta stays alone. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { EXPERTS = 4, OUT = 24, IN = 64, STACK_RANK = 3, ONE_RANK = 2, HAVE = 2 };
static const int have[HAVE] = { 3, 0 };   /* the experts that the second adapter is for */
#define BLOCK "model.layers.0.mlp"

static float w[EXPERTS * OUT * IN], stack_a[EXPERTS * STACK_RANK * IN], stack_b[EXPERTS * OUT * STACK_RANK];
static float one_a[HAVE][ONE_RANK * IN], one_b[HAVE][OUT * ONE_RANK];

static void fill(float *values, size_t n, float size, uint64_t *rng)
{
	for (size_t i = 0; i < n; i++)
		values[i] = size * fuse_normal(rng);
}

static double product(const float *a, const float *b, size_t rank, size_t i, size_t c)
{
	double sum = 0;
	for (size_t k = 0; k < rank; k++)
		sum += (double)b[i * rank + k] * (double)a[k * IN + c];
	return sum;
}

/* W + 0.5 * 2 * stack + 2 * 3 * one, of expert e. */
static double truth(size_t e, size_t i, size_t c)
{
	double sum = (double)w[(e * OUT + i) * IN + c];
	sum += 0.5 * 2 * product(stack_a + e * STACK_RANK * IN, stack_b + e * OUT * STACK_RANK, STACK_RANK, i, c);
	for (int h = 0; h < HAVE; h++)
		if (have[h] == (int)e)
			sum += 2.0 * 3 * product(one_a[h], one_b[h], ONE_RANK, i, c);
	return sum;
}

static void write_text(const char *folder, const char *name, const char *text)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	tt_write_text(path, text);
}

static void write_adapters(struct tt *t, const char *stack, const char *single)
{
	char path[4200], names[2 * HAVE][160];
	struct fuse_tensor both[] = { { BLOCK ".switch_mlp.down_proj.lora_a", STACK_RANK, IN, stack_a },
				      { BLOCK ".switch_mlp.down_proj.lora_b", OUT, STACK_RANK, stack_b } };
	struct fuse_tensor ones[2 * HAVE];
	mkdir(stack, 0777);
	mkdir(single, 0777);
	snprintf(path, sizeof path, "%s/adapters.safetensors", stack);
	fuse_write_stacks(t, path, both, 2, EXPERTS);
	write_text(stack, "adapter_config.json", "{\"fine_tune_type\": \"lora\", \"num_layers\": -1, \"lora_parameters\": {\"rank\": 3, "
		   "\"dropout\": 0.0, \"scale\": 2, \"keys\": [\"mlp.switch_mlp.down_proj\"]}}\n");
	for (int h = 0; h < HAVE; h++) {
		snprintf(names[2 * h], sizeof *names, "base_model.model." BLOCK ".experts.%d.down_proj.lora_A.weight", have[h]);
		snprintf(names[2 * h + 1], sizeof *names, "base_model.model." BLOCK ".experts.%d.down_proj.lora_B.weight", have[h]);
		ones[2 * h] = (struct fuse_tensor){ names[2 * h], ONE_RANK, IN, one_a[h] };
		ones[2 * h + 1] = (struct fuse_tensor){ names[2 * h + 1], OUT, ONE_RANK, one_b[h] };
	}
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", single);
	fuse_write_tensors(t, path, ones, 2 * HAVE);
	write_text(single, "adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 6, \"target_modules\": "
		   "[\"experts.3.down_proj\", \"experts.0.down_proj\"]}\n");
}

static void write_base(struct tt *t, const char *folder, int stacked)
{
	char names[EXPERTS][160];
	struct fuse_tensor tensors[EXPERTS] = { { BLOCK ".switch_mlp.down_proj.weight", OUT, IN, w } };
	for (int e = 0; e < EXPERTS && !stacked; e++) {
		snprintf(names[e], sizeof *names, BLOCK ".experts.%d.down_proj.weight", e);
		tensors[e] = (struct fuse_tensor){ names[e], OUT, IN, w + e * OUT * IN };
	}
	fuse_write_model(t, folder, tensors, stacked ? 1 : EXPERTS, TN_F32);
	if (stacked) {
		char path[4200];
		snprintf(path, sizeof path, "%s/model.safetensors", folder);
		assert_int_equal(remove(path), 0);
		fuse_write_stacks(t, path, tensors, 1, EXPERTS);
	}
}

static void check(struct tt *t, const char *out, int stacked)
{
	for (size_t e = 0; e < EXPERTS; e++) {
		char name[160];
		size_t n;
		snprintf(name, sizeof name, stacked ? BLOCK ".switch_mlp.down_proj.weight" : BLOCK ".experts.%zu.down_proj.weight", e);
		double *all = fuse_values(t, out, name, &n), *got = all + (stacked ? e * OUT * IN : 0);
		for (size_t i = 0; i < OUT; i++)
			for (size_t c = 0; c < IN; c++)
				assert_true(fabs(got[i * IN + c] - truth(e, i, c)) < 2e-6);
		free(all);
	}
}

static void they_add_up(void **state)
{
	struct tt *t = *state;
	char base[4096], stack[4096], single[4096], out[4096];
	uint64_t rng = 11;
	fill(w, sizeof w / sizeof *w, 0.1f, &rng);
	fill(stack_a, sizeof stack_a / sizeof *stack_a, 0.2f, &rng);
	fill(stack_b, sizeof stack_b / sizeof *stack_b, 0.2f, &rng);
	fill(one_a[0], HAVE * ONE_RANK * IN, 0.2f, &rng);
	fill(one_b[0], HAVE * OUT * ONE_RANK, 0.2f, &rng);
	snprintf(stack, sizeof stack, "%s/stack", t->folder);
	snprintf(single, sizeof single, "%s/single", t->folder);
	snprintf(out, sizeof out, "%s/out", t->folder);
	write_adapters(t, stack, single);
	for (int form = 0; form < 4; form++) {
		int stacked = form & 1, turned = form & 2;
		snprintf(base, sizeof base, "%s/base%d", t->folder, stacked);
		if (!turned)
			write_base(t, base, stacked);
		struct fuse_job job = { .base = base, .adapter = turned ? single : stack, .second = turned ? stack : single,
					.second_weight = turned ? 0.5 : 2, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		job.options.weight = turned ? 2 : 0.5;
		fuse_run(t, t->ctx, &job, NULL, 0);
		check(t, out, stacked);
	}
}

/* Quantized along the rows, the same delta is measured and moved as one. */
static void on_a_grid(void **state)
{
	struct tt *t = *state;
	char base[4096], packed[4096], stack[4096], single[4096], out[4096];
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	struct tn_survival s[4];
	tn_checkpoint *dense;
	tn_recode *plan;
	snprintf(base, sizeof base, "%s/base", t->folder);
	snprintf(packed, sizeof packed, "%s/packed", t->folder);
	snprintf(stack, sizeof stack, "%s/stack", t->folder);
	snprintf(single, sizeof single, "%s/single", t->folder);
	snprintf(out, sizeof out, "%s/out", t->folder);
	write_adapters(t, stack, single);
	write_base(t, base, 1);
	request.quantize = 1;
	request.quantization.q.bits = 8;
	tt_ok(t, tn_checkpoint_open(t->ctx, base, &dense, &t->err));
	tt_ok(t, tn_recode_plan(t->ctx, dense, &request, &plan, &t->err));
	tt_ok(t, tn_recode_run(plan, packed, 0, &t->err));
	tn_recode_free(plan);
	tn_checkpoint_close(dense);
	struct fuse_job job = { .base = packed, .adapter = stack, .second = single, .second_weight = 2, .out = out,
				.options = TN_FUSE_OPTIONS_INIT };
	job.options.weight = 0.5;
	assert_int_equal(fuse_run(t, t->ctx, &job, s, 4), 1);
	assert_true(s[0].cap > 0.98 && s[0].cosine > 0.99);
	size_t n;
	double *got = fuse_values(t, out, BLOCK ".switch_mlp.down_proj.weight", &n);
	for (size_t e = 0; e < EXPERTS; e++)
		for (size_t i = 0; i < OUT * IN; i++)
			assert_true(fabs(got[e * OUT * IN + i] - truth(e, i / IN, i % IN)) < 0.02);
	free(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(they_add_up), TT_TEST(on_a_grid) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
