/* SPDX-License-Identifier: Apache-2.0 */
/* Fusing into what other libraries packed: every checkpoint of the conformance archive keeps its layout, its scales and its
 * configuration; codes move so that base and delta come out on average; verify sees it; and the result does not depend on
 * threads. The weights are those that dequantize reads, which conformance.foreign holds against the libraries. */
#include "foreign_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static json_t *manifest;
static int complaints;

__attribute__((format(printf, 1, 2))) static void complain(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	complaints++;
}

/* ---- what is compared ------------------------------------------------------------------------------------ */

struct sums {
	double error, square, n, worst;
	int beyond;   /* values behind an end of the grid that are not at that end */
};

/* R - D in steps at the result, where the grid holds W + D: below 1, because the result is one of the two values around it. */
static struct sums errors(const struct foreign_values *base, const struct foreign_values *out, const double *wanted)
{
	struct sums s = { 0, 0, 0, 0, 0 };
	for (size_t i = 0; i < base->count; i++) {
		double e = ((double)out->w[i] - (double)base->w[i] - wanted[i]) / (double)out->step[i];
		double low = fmin((double)base->low[i], (double)base->high[i]), high = fmax((double)base->low[i], (double)base->high[i]);
		double sum = (double)base->w[i] + wanted[i];
		if (out->step[i] == 0)
			continue;
		if (sum < low || sum > high) { /* as far as the grid goes */
			s.beyond += (double)out->w[i] != (sum < low ? low : high);
			continue;
		}
		s.error += e;
		s.square += e * e;
		s.n++;
		s.worst = fmax(s.worst, fabs(e));
	}
	return s;
}

static struct tn_survival fuse_once(struct tt *t, const char *folder, const char *adapter, const char *out, unsigned threads,
				    tn_rounding rounding)
{
	struct fuse_job job = FUSE_JOB(.base = folder, .adapter = adapter, .out = out);
	struct tn_options options = TN_OPTIONS_INIT;
	struct tn_survival survival = { .rho = 0 };
	tn_context *ctx;
	options.threads = threads;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	job.options.rounding = rounding;
	assert_int_equal(fuse_run(t, ctx, &job, &survival, 1), 1);
	tn_context_destroy(ctx);
	return survival;
}

/* Names, forms and configurations are those of the base. Returns how many tensors have other bytes. */
static size_t count_changed(struct tt *t, const char *folder, const char *out)
{
	static const char *const files[] = { "config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json" };
	size_t changed = 0;
	for (size_t i = 0; i < 4; i++) {
		size_t n, m;
		char path[1100];
		snprintf(path, sizeof path, "%s/%s", folder, files[i]);
		unsigned char *a = tt_read_file(path, &n);
		unsigned char *b = tt_read_file(tt_path(t, "out/%s", files[i]), &m);
		if (!a != !b || (a && (n != m || memcmp(a, b, n) != 0)))
			complain("%s: %s is not the base's", folder, files[i]);
		free(a);
		free(b);
	}
	tn_checkpoint *base, *fused;
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &base, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, out, &fused, &t->err));
	assert_int_equal(tn_checkpoint_count(base), tn_checkpoint_count(fused));
	for (size_t i = 0; i < tn_checkpoint_count(base); i++) {
		const struct tn_tensor *x = tn_checkpoint_at(base, i), *y = tn_checkpoint_at(fused, i);
		if (strcmp(x->name, y->name) != 0 || x->dtype != y->dtype || x->rank != y->rank || x->bytes != y->bytes ||
		    memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) != 0)
			complain("%s: '%s' became '%s' of another form", folder, x->name, y->name);
		unsigned char *a = malloc(x->bytes + 1), *b = malloc(x->bytes + 1);
		tt_ok(t, tn_checkpoint_read(base, x, 0, a, x->bytes, &t->err));
		tt_ok(t, tn_checkpoint_read(fused, y, 0, b, y->bytes, &t->err));
		changed += memcmp(a, b, x->bytes) != 0;
		free(a);
		free(b);
	}
	tn_checkpoint_close(fused);
	tn_checkpoint_close(base);
	return changed;
}

static void verified(struct tt *t, const char *folder, const char *adapter, const char *out, tn_verdict verdict)
{
	tn_checkpoint *base, *merged;
	tn_adapter *opened;
	tn_verify *v;
	size_t found = 0;
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &base, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, out, &merged, &t->err));
	tt_ok(t, tn_adapter_open(t->ctx, adapter, &opened, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, base, opened, NULL, merged, &v, &t->err));
	for (size_t i = 0; i < tn_verify_count(v); i++)
		found += tn_verify_at(v, i)->verdict == verdict;
	if (found != 1)
		complain("%s: %zu tensors are %s", folder, found, tn_verdict_name(verdict));
	for (size_t i = 0; i < tn_verify_count(v); i++)
		if (!tn_verdict_is_good(tn_verify_at(v, i)->verdict) && tn_verify_at(v, i)->verdict != verdict)
			complain("%s: '%s' is %s", folder, tn_verify_at(v, i)->name, tn_verdict_name(tn_verify_at(v, i)->verdict));
	tn_verify_free(v);
	tn_adapter_close(opened);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(base);
}

/* ---- one checkpoint -------------------------------------------------------------------------------------- */

enum { RANK = 4 };

/* A delta a seventh of the grid's step: what rounding to nearest would lose. */
static void small_delta(struct tt *t, const char *folder, const char *module)
{
	struct foreign_values base = foreign_values(t, folder, module);
	const char *lora = tt_path(t, "lora"), *out = tt_path(t, "out"), *again = tt_path(t, "again");
	double *wanted = malloc(base.count * sizeof *wanted);
	foreign_adapter(t, lora, module, &base, RANK, 1, 0, wanted);
	double rho = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_DITHER).rho;
	foreign_adapter(t, lora, module, &base, RANK, rho / 7, 0, wanted);
	struct tn_survival s = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_AUTO);
	struct foreign_values fused = foreign_values(t, out, module);
	struct sums e = errors(&base, &fused, wanted);
	if (s.rounding != TN_ROUNDING_DITHER)
		complain("%s: rounding %s at rho %g", folder, tn_rounding_name(s.rounding), s.rho);
	if (count_changed(t, folder, out) != 1)
		complain("%s: other tensors than the codes changed", folder);
	double mean = e.error / e.n, sigma = sqrt(e.square) / e.n, clamped = (double)s.clamped / (double)s.codes;
	if (e.worst > 1.001 || fabs(mean) > 4 * sigma || e.beyond > 0)
		complain("%s: mean error %g of a step (sigma %g), worst %g, %d astray", folder, mean, sigma, e.worst, e.beyond);
	if (s.cap < 0.9 - 1.5 * clamped || s.cap > 1.2)
		complain("%s: %g of the delta is there, %g clamped", folder, s.cap, clamped);
	if (s.cap > 0.55) /* made-up scales can leave most of a delta beyond the grid */
		verified(t, folder, lora, out, TN_VERDICT_REQUANTIZED);
	fuse_once(t, folder, lora, again, 3, TN_ROUNDING_AUTO);
	char *x = tt_describe_tree(out), *y = tt_describe_tree(again);
	if (strcmp(x, y) != 0)
		complain("%s: three threads write other bytes than one", folder);
	free(x);
	free(y);
	foreign_free(&base);
	foreign_free(&fused);
	free(wanted);
}

/* No delta changes no byte; a large one is rounded to nearest and arrives. */
static void other_deltas(struct tt *t, const char *folder, const char *module)
{
	struct foreign_values base = foreign_values(t, folder, module);
	const char *lora = tt_path(t, "lora"), *out = tt_path(t, "out");
	double *wanted = malloc(base.count * sizeof *wanted);
	foreign_adapter(t, lora, module, &base, RANK, 0, 0, wanted);
	for (tn_rounding r = TN_ROUNDING_DITHER; r <= TN_ROUNDING_NEAREST; r++) {
		fuse_once(t, folder, lora, out, 2, r);
		if (count_changed(t, folder, out) != 0)
			complain("%s: a delta of zeros changes bytes", folder);
	}
	foreign_adapter(t, lora, module, &base, RANK, 1, 0, wanted);
	double rho = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_DITHER).rho;
	foreign_adapter(t, lora, module, &base, RANK, rho / 0.7, 0, wanted);
	struct tn_survival s = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_AUTO);
	if (s.rounding != TN_ROUNDING_NEAREST)
		complain("%s: rounding %s at rho %g", folder, tn_rounding_name(s.rounding), s.rho);
	double least = 1 - 1.5 * (double)s.clamped / (double)s.codes - 0.15;
	size_t changed = count_changed(t, folder, out);
	if (s.cap < least || changed < 1 || changed > 3)
		complain("%s: %g of a large delta is there (%llu of %llu clamped)", folder, s.cap, (unsigned long long)s.clamped,
			 (unsigned long long)s.codes);
	foreign_free(&base);
	free(wanted);
}

/* The gain of a DoRA goes into scales where a row has its own, else into the codes. */
static void row_gain(struct tt *t, const char *folder, const char *module)
{
	struct foreign_values base = foreign_values(t, folder, module);
	const char *lora = tt_path(t, "lora"), *out = tt_path(t, "out");
	double *wanted = malloc(base.count * sizeof *wanted);
	foreign_adapter(t, lora, module, &base, RANK, 1, 0, wanted);
	double rho = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_DITHER).rho;
	foreign_adapter(t, lora, module, &base, RANK, rho / 4, 1.25, wanted);
	struct tn_survival s = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_DITHER);
	struct foreign_values fused = foreign_values(t, out, module);
	struct sums e = errors(&base, &fused, wanted);
	size_t changed = count_changed(t, folder, out);
	if (base.scales_by_row != (changed > 1))
		complain("%s: %zu tensors changed", folder, changed);
	if (base.scales_by_row && (e.worst > 5 || fabs(e.error / e.n) > 0.1 || s.cap < 0.6))
		complain("%s: DoRA, mean error %g, worst %g, %g of the delta", folder, e.error / e.n, e.worst, s.cap);
	if (s.cap > 0.55) /* made-up scales can leave most of a delta beyond the grid */
		verified(t, folder, lora, out, TN_VERDICT_REQUANTIZED);
	foreign_free(&base);
	foreign_free(&fused);
	free(wanted);
}

/* --dequantize leaves the whole model dense. */
static void dense(struct tt *t, const char *folder, const char *module)
{
	struct foreign_values base = foreign_values(t, folder, module);
	struct fuse_job job = FUSE_JOB(.base = folder, .adapter = tt_path(t, "lora"), .out = tt_path(t, "out"));
	double *wanted = malloc(base.count * sizeof *wanted), worst = 0;
	size_t n;
	foreign_adapter(t, job.adapter, module, &base, RANK, 1, 0, wanted);
	job.options.dequantize = 1;
	assert_int_equal(fuse_run(t, t->ctx, &job, NULL, 0), 0);
	double *out = fuse_file_values(t, tt_path(t, "out/model.safetensors"), base.weight, &n);
	assert_int_equal(n, base.count);
	for (size_t i = 0; i < n; i++) {
		double truth = (double)base.w[i] + wanted[i], unit = fmax(fabs((double)base.w[i]), fabs(truth));
		worst = fmax(worst, fabs(out[i] - truth) / fmax(unit, 1e-6));
	}
	if (worst > 0x1.02p-8)
		complain("%s: dense and %g off", folder, worst);
	char *config = (char *)tt_read_file(tt_path(t, "out/config.json"), &n);
	if (!config || strstr(config, "quantization_config") || tt_exists(tt_path(t, "out/quantize_config.json")))
		complain("%s: the dense model still speaks of a quantization", folder);
	verified(t, folder, job.adapter, job.out, TN_VERDICT_MERGED);
	free(config);
	free(out);
	foreign_free(&base);
	free(wanted);
}

/* ---- stacks of experts ----------------------------------------------------------------------------------- */

/* PEFT's target_parameters: A [rank * E, in], B [out, rank * E], expert fastest in the columns of B. */
static void write_stack(struct tt *t, const char *folder, const char *module, const struct foreign_values *base, uint64_t experts,
			double scale, double *wanted)
{
	uint64_t seed = 5, in = base->cols, out = base->rows / experts, n = RANK * experts;
	float *a = malloc(n * in * sizeof *a), *b = malloc(out * n * sizeof *b);
	char path[4096], names[2][512], config[1024];
	for (size_t i = 0; i < n * in; i++)
		a[i] = fuse_normal(&seed) * 0.1f;
	for (size_t i = 0; i < out * n; i++)
		b[i] = fuse_normal(&seed) * 0.1f;
	for (uint64_t r = 0; r < base->rows; r++)
		for (uint64_t c = 0; c < in; c++) {
			double d = 0;
			for (uint64_t k = 0; k < RANK; k++)
				d += (double)b[r % out * n + k * experts + r / out] * (double)a[(r / out * RANK + k) * in + c];
			wanted[r * in + c] = scale * d;
		}
	int parent = (int)(strrchr(module, '.') - module);
	snprintf(names[0], sizeof names[0], "base_model.model.%.*s.lora_A.weight", parent, module);
	snprintf(names[1], sizeof names[1], "base_model.model.%.*s.lora_B.weight", parent, module);
	struct fuse_tensor tensors[] = { { names[0], n, in, a }, { names[1], out, n, b } };
	mkdir(folder, 0777);
	snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
	unlink(path);
	fuse_write_tensors(t, path, tensors, 2);
	snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %.17g, \"target_modules\": [], "
		 "\"target_parameters\": [\"%s\"], \"peft_version\": \"0.19.1\"}", RANK, scale * RANK, module);
	snprintf(path, sizeof path, "%s/adapter_config.json", folder);
	tt_write_text(path, config);
	free(a);
	free(b);
}

/* gpt-oss keeps the transpose of the parameter that an adapter of transformers is trained on. */
static void stacks_take_their_experts(void **state)
{
	static const char *const rows[][2] = { { "gptoss_mxfp4", "model.layers.0.mlp.experts.gate_up_proj" },
					       { "gptoss_mxfp4", "model.layers.0.mlp.experts.down_proj" },
					       { "fp8_experts", "model.layers.0.mlp.experts.gate_up_proj" } };
	struct tt *t = *state;
	complaints = 0;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char folder[1024];
		snprintf(folder, sizeof folder, "%s/%s", FUSE_FOREIGN, rows[i][0]);
		struct foreign_values base = foreign_values(t, folder, rows[i][1]);
		const char *lora = tt_path(t, "lora"), *out = tt_path(t, "out");
		double *wanted = malloc(base.count * sizeof *wanted);
		write_stack(t, lora, rows[i][1], &base, 2, 1, wanted);
		double rho = fuse_once(t, folder, lora, out, 1, TN_ROUNDING_DITHER).rho;
		write_stack(t, lora, rows[i][1], &base, 2, rho / 3, wanted);
		fuse_once(t, folder, lora, out, 1, TN_ROUNDING_DITHER);
		struct foreign_values fused = foreign_values(t, out, rows[i][1]);
		struct sums e = errors(&base, &fused, wanted);
		if (e.worst > 1.001 || e.beyond || fabs(e.error) > 4 * sqrt(e.square) || count_changed(t, folder, out) != 1)
			complain("%s: mean error %g, worst %g", folder, e.error / e.n, e.worst);
		foreign_free(&base);
		foreign_free(&fused);
		free(wanted);
	}
	assert_int_equal(complaints, 0);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void refusals_say_what_to_run(void **state)
{
	static const char folder[] = FUSE_FOREIGN "/awq_gemm_g64", module[] = "model.layers.0.self_attn.k_proj";
	struct tt *t = *state;
	struct foreign_values base = foreign_values(t, folder, module);
	double *wanted = malloc(base.count * sizeof *wanted);
	struct fuse_job job = FUSE_JOB(.base = folder, .adapter = tt_path(t, "lora"), .out = tt_path(t, "out"));
	foreign_adapter(t, job.adapter, module, &base, RANK, 1e-3, 0, wanted);
	job.options.promote_bits = 8;
	fuse_refused(t, &job, TN_E_UNSUPPORTED, "tenon convert --to mlx on the base before --promote-bits");
	job.options.promote_bits = 0;
	job.options.min_survival = 0.9;
	job.options.rounding = TN_ROUNDING_NEAREST;
	fuse_refused(t, &job, TN_E_MISMATCH, "use --rounding dither, or --dequantize");
	foreign_free(&base);
	free(wanted);
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

/* Matrices without NaN; stacks have a test of their own. */
static void for_each(struct tt *t, void (*check)(struct tt *t, const char *folder, const char *module))
{
	const json_t *entry;
	size_t i, checked = 0;
	complaints = 0;
	json_array_foreach(json_object_get(manifest, "folders"), i, entry) {
		const char *name = json_string_value(json_object_get(entry, "folder"));
		void *module = json_object_iter(json_object_get(entry, "modules"));
		const json_t *shape = json_object_get(json_object_iter_value(module), "shape");
		char folder[1024];
		if (json_array_size(shape) != 2 || strstr(name, "fp8_all_"))
			continue;
		snprintf(folder, sizeof folder, "%s/%s", FUSE_FOREIGN, name);
		check(t, folder, json_object_iter_key(module));
		checked++;
	}
	assert_true(checked > 100);
	assert_int_equal(complaints, 0);
}

static void codes_move_and_nothing_else(void **state)
{
	for_each(*state, small_delta);
}

static void nothing_and_much(void **state)
{
	for_each(*state, other_deltas);
}

static void gains_go_into_scales(void **state)
{
	for_each(*state, row_gain);
}

static void dense_on_demand(void **state)
{
	for_each(*state, dense);
}

static int set_up(void **state)
{
	(void)state;
	manifest = json_load_file(FUSE_FOREIGN "/manifest.json", 0, NULL);
	json_t *more = json_load_file(FUSE_FOREIGN "/../foreign_more/manifest.json", 0, NULL);
	json_array_extend(json_object_get(manifest, "folders"), json_object_get(more, "folders"));
	json_decref(more);
	return manifest ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	json_decref(manifest);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(codes_move_and_nothing_else),
		TT_TEST(nothing_and_much),
		TT_TEST(gains_go_into_scales),
		TT_TEST(dense_on_demand),
		TT_TEST(stacks_take_their_experts),
		TT_TEST(refusals_say_what_to_run),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
