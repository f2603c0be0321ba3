/* SPDX-License-Identifier: Apache-2.0 */
/* verify on what mlx_lm.fuse and PEFT's merge_and_unload made in every pair of dtypes (make_peer_fuses.py): all of them are right
 * within the arithmetic of their makers, and none is after one thing in it was changed. */
#include "fuselib.h"

#include "base/half.h"
#include "transform/ulp.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A case, and one of the weights that its adapter lands on. */
struct subject {
	struct tt *t;
	char folder[4096], name[256];
	double *base, *merged;
	size_t count, cols;
	tn_dtype dtype;              /* of merged */
};

static void copy_file(const char *from, const char *to)
{
	size_t n;
	unsigned char *bytes = tt_read_file(from, &n);
	assert_non_null(bytes);
	tt_write_file(to, bytes, n);
	free(bytes);
}

/* ---- mutants --------------------------------------------------------------------------------------------- */

static double delta_rms(const struct subject *s)
{
	double sum = 0;
	for (size_t i = 0; i < s->count; i++)
		sum += (s->merged[i] - s->base[i]) * (s->merged[i] - s->base[i]);
	return sqrt(sum / (double)s->count);
}

static double largest(const double *x, size_t n)
{
	double top = 0;
	for (size_t i = 0; i < n; i++)
		top = fmax(top, fabs(x[i]));
	return top;
}

static void scale_delta(const struct subject *s, double *x, double by)
{
	for (size_t i = 0; i < s->count; i++)
		x[i] = s->base[i] + by * (s->merged[i] - s->base[i]);
}

static void without_adapter(const struct subject *s, double *x)
{
	memcpy(x, s->base, s->count * sizeof *x);
}

static void a_little_less(const struct subject *s, double *x)
{
	scale_delta(s, x, 0.96);
}

static void a_little_more(const struct subject *s, double *x)
{
	scale_delta(s, x, 1.04);
}

static void twice(const struct subject *s, double *x)
{
	scale_delta(s, x, 2);
}

static void without_a_row(const struct subject *s, double *x)
{
	memcpy(x + 7 * s->cols, s->base + 7 * s->cols, s->cols * sizeof *x);
}

static void rows_swapped(const struct subject *s, double *x)
{
	memcpy(x + 2 * s->cols, s->merged + 5 * s->cols, s->cols * sizeof *x);
	memcpy(x + 5 * s->cols, s->merged + 2 * s->cols, s->cols * sizeof *x);
}

/* By a fifth of what deltas are, and by what the last places of the weights can show. */
static void one_element(const struct subject *s, double *x)
{
	tn_dtype coarse = strstr(s->folder, "_bf16_") ? TN_BF16 : strstr(s->folder, "_f16_") ? TN_F16 : TN_F32;
	x[11 * s->cols + 3] += 0.2 * delta_rms(s) + 6 * tn_ulp(coarse, largest(s->merged, s->count));
}

static void transposed_block(const struct subject *s, double *x)
{
	for (size_t i = 0; i < 8; i++)
		for (size_t k = 0; k < 8; k++)
			x[i * s->cols + k] = s->merged[k * s->cols + i];
}

static void not_finite(const struct subject *s, double *x)
{
	x[s->cols + 1] = (double)NAN;
}

static const struct mutant {
	const char *what;
	void (*make)(const struct subject *s, double *x);
} mutants[] = {
	{ "the base's weight", without_adapter }, { "0.96 of the delta", a_little_less }, { "1.04 of the delta", a_little_more },
	{ "twice the delta", twice }, { "a row of the base", without_a_row }, { "two rows swapped", rows_swapped },
	{ "one element changed", one_element }, { "a block transposed", transposed_block }, { "a NaN", not_finite },
};

static void narrow(const struct subject *s, const double *x, unsigned char *out)
{
	for (size_t i = 0; i < s->count; i++) {
		float value = (float)x[i];
		uint16_t half = s->dtype == TN_F16 ? tn_f16_from_f32(value) : tn_bf16_from_f32(value);
		memcpy(out + i * (s->dtype == TN_F32 ? 4 : 2), s->dtype == TN_F32 ? (void *)&value : (void *)&half,
		       s->dtype == TN_F32 ? 4 : 2);
	}
}

/* The case's result with other values in the subject's weight. */
static void write_mutant(const struct subject *s, const double *x, const char *folder)
{
	char path[4200], copy[4200];
	tn_safetensors *st;
	size_t n;
	snprintf(path, sizeof path, "%s/merged/model.safetensors", s->folder);
	snprintf(copy, sizeof copy, "%s/model.safetensors", folder);
	unsigned char *bytes = tt_read_file(path, &n);
	tt_ok(s->t, tn_safetensors_open(s->t->ctx, path, &st, &s->t->err));
	narrow(s, x, bytes + tn_safetensors_find(st, s->name)->offset);
	tn_safetensors_close(st);
	tt_write_file(copy, bytes, n);
	free(bytes);
	snprintf(path, sizeof path, "%s/merged/config.json", s->folder);
	snprintf(copy, sizeof copy, "%s/config.json", folder);
	copy_file(path, copy);
}

static size_t try_mutants(struct subject *s, const char *folder)
{
	size_t passed = 0;
	double *x = malloc(s->count * sizeof *x);
	for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
		int ok;
		memcpy(x, s->merged, s->count * sizeof *x);
		mutants[i].make(s, x);
		write_mutant(s, x, folder);
		tn_verdict verdict = fuse_verdict(s->t, s->folder, NULL, folder, s->name, &ok);
		if (ok || (verdict != TN_VERDICT_WRONG && verdict != TN_VERDICT_NOT_MERGED)) {
			print_error("%s: '%s' with %s is %s\n", s->folder, s->name, mutants[i].what, tn_verdict_name(verdict));
			passed++;
		}
	}
	free(x);
	return passed;
}

/* ---- cases ------------------------------------------------------------------------------------------------- */

/* The first weight that differs from the base. */
static void find_subject(struct subject *s)
{
	char path[4200];
	tn_checkpoint *merged;
	snprintf(path, sizeof path, "%s/merged", s->folder);
	tt_ok(s->t, tn_checkpoint_open(s->t->ctx, path, &merged, &s->t->err));
	for (size_t i = 0; i < tn_checkpoint_count(merged) && !*s->name; i++) {
		const struct tn_tensor *tensor = tn_checkpoint_at(merged, i);
		if (tensor->rank < 2 || strcmp(tensor->name, "lm_head.weight") == 0)
			continue;
		snprintf(s->name, sizeof s->name, "%s", tensor->name);
		s->dtype = tensor->dtype;
		s->cols = (size_t)tensor->shape[tensor->rank - 1];
	}
	tn_checkpoint_close(merged);
	s->merged = fuse_values(s->t, path, s->name, &s->count);
	snprintf(path, sizeof path, "%s/base", s->folder);
	s->base = fuse_values(s->t, path, s->name, &s->count);
}

static void every_pair_of_dtypes(void **state)
{
	struct tt *t = *state;
	size_t cases = 0, wrong = 0, passed = 0;
	DIR *folder = opendir(FUSE_PEER_FUSES);
	const char *mutant = tt_path(t, "mutant");
	assert_non_null(folder);
	mkdir(mutant, 0777);
	for (const struct dirent *e; (e = readdir(folder));) {
		struct subject s = { .t = t };
		char merged[4200];
		int ok;
		if (e->d_name[0] == '.')
			continue;
		snprintf(s.folder, sizeof s.folder, "%s/%s", FUSE_PEER_FUSES, e->d_name);
		snprintf(merged, sizeof merged, "%s/merged", s.folder);
		find_subject(&s);
		cases++;
		tn_verdict verdict = fuse_verdict(t, s.folder, NULL, merged, s.name, &ok);
		if (!ok || verdict != TN_VERDICT_MERGED) {
			print_error("%s: '%s' is %s\n", s.folder, s.name, tn_verdict_name(verdict));
			wrong++;
		}
		passed += try_mutants(&s, mutant);
		free(s.base);
		free(s.merged);
	}
	closedir(folder);
	assert_int_equal(cases, 63);
	assert_int_equal(wrong, 0);
	assert_int_equal(passed, 0);
}

/* ---- a scale that is off --------------------------------------------------------------------------------- */

enum { SIZE = 128, RANK = 4 };

/* A model whose only weight is large beside the delta, so that no element tells much. */
static void write_large(struct tt *t, const char *base, const char *adapter)
{
	static float w[SIZE * SIZE], a[SIZE * RANK], b[RANK * SIZE];
	uint64_t state = 5;
	for (size_t i = 0; i < SIZE * SIZE; i++)
		w[i] = 0.05f * fuse_normal(&state);
	for (size_t i = 0; i < SIZE * RANK; i++) {
		a[i] = 0.04f * fuse_normal(&state);
		b[i] = 0.04f * fuse_normal(&state);
	}
	struct fuse_tensor tensor = { "model.layers.0.mlp.up_proj.weight", SIZE, SIZE, w };
	fuse_write_model(t, base, &tensor, 1, TN_BF16);
	fuse_write_adapter(t, adapter, a, b, SIZE, RANK, SIZE, 1);
}

static void a_scale_that_is_off(void **state)
{
	static const struct {
		double weight;
		int ok;
	} cases[] = { { 1, 1 }, { 0.999, 1 }, { 1.001, 1 }, { 0.95, 0 }, { 1.05, 0 }, { 0.5, 0 }, { 0, 0 }, { -1, 0 } };
	struct tt *t = *state;
	const char *base = tt_path(t, "case/base"), *adapter = tt_path(t, "case/adapter"), *out = tt_path(t, "out");
	mkdir(tt_path(t, "case"), 0777);
	write_large(t, base, adapter);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct fuse_job job = FUSE_JOB(.base = base, .adapter = adapter, .out = out);
		int ok;
		job.options.weight = cases[i].weight;
		fuse_run(t, t->ctx, &job, NULL, 0);
		tn_verdict verdict = fuse_verdict(t, tt_path(t, "case"), NULL, out, "model.layers.0.mlp.up_proj.weight", &ok);
		if (ok != cases[i].ok)
			fail_msg("%g of the delta is %s", cases[i].weight, tn_verdict_name(verdict));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(every_pair_of_dtypes),
		TT_TEST(a_scale_that_is_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
