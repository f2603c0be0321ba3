/* SPDX-License-Identifier: Apache-2.0 */
/* The tiny decoders of models/arch: both spellings of their configs, their adapters live, their 4-bit conversions.
 * Logits within 1e-4 * max(1, largest), greedy tokens exact. decoder_cases FOLDER [NAME]: the folder may be another of the
 * same form. */
#include "testlib.h"

#include "base/half.h"
#include "tenon/tenon.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static tn_context *ctx;
static int failures, checks;
static double worst;
static char where[512];

static void report(const char *what, const struct tn_error *err)
{
	failures++;
	printf("%s: %s%s%s: %s\n", where, what, err ? ": " : "", err ? err->where : "", err ? err->msg : "");
}

/* ---- expectations ---------------------------------------------------------------------------------------- */

/* A tensor of expect.safetensors; *n elements, *last the size of its last dimension. NULL: there is none. */
static void *load(const tn_safetensors *file, const char *name, size_t *n, size_t *last)
{
	const struct tn_tensor *t = tn_safetensors_find(file, name);
	if (!t)
		return NULL;
	void *data = malloc(t->bytes + 1);
	struct tn_error err;
	if (tn_safetensors_read(file, t, 0, data, t->bytes, &err) != TN_OK)
		abort();
	*n = t->elements;
	*last = t->shape[t->rank - 1];
	return data;
}

static uint32_t *load_ids(const tn_safetensors *file, const char *name, size_t *n)
{
	size_t last;
	int64_t *wide = load(file, name, n, &last);
	const struct tn_tensor *t = tn_safetensors_find(file, name);
	if (!wide)
		return NULL;
	uint32_t *ids = malloc(*n * sizeof *ids + 1);
	for (size_t i = 0; i < *n; i++)
		ids[i] = t->dtype == TN_I64 ? (uint32_t)wide[i] : ((const uint32_t *)(const void *)wide)[i];
	free(wide);
	return ids;
}

static void compare(const char *what, const float *got, const float *wanted, size_t n)
{
	double largest = 1, off = 0;
	for (size_t i = 0; i < n; i++) {
		largest = fmax(largest, fabs((double)wanted[i]));
		off = isnan(got[i]) ? (double)INFINITY : fmax(off, fabs((double)got[i] - (double)wanted[i]));
	}
	checks++;
	worst = fmax(worst, off / largest);
	if (off > 1e-4 * largest) {
		char text[128];
		snprintf(text, sizeof text, "%s: logits are off by %.3g of %.3g", what, off, largest);
		report(text, NULL);
	}
}

/* ---- a model --------------------------------------------------------------------------------------------- */

struct model {
	tn_checkpoint *base;
	tn_live *live;
	tn_decoder *decoder;
	struct tn_decoder_info info;
};

static int open_model(struct model *m, const char *folder, uint32_t rows)
{
	struct tn_error err = { 0 };
	struct tn_decoder_options options = TN_DECODER_OPTIONS_INIT;
	options.rows = rows;
	*m = (struct model){ 0 };
	if (tn_checkpoint_open(ctx, folder, &m->base, &err) == TN_OK && tn_live_open(m->base, NULL, &m->live, &err) == TN_OK &&
	    tn_decoder_create(m->live, m->base, &options, &m->decoder, &err) == TN_OK) {
		tn_decoder_describe(m->decoder, &m->info);
		return 1;
	}
	report("does not open", &err);
	return 0;
}

static void close_model(struct model *m)
{
	tn_decoder_destroy(m->decoder);
	if (m->live)
		tn_live_close(m->live);
	tn_checkpoint_close(m->base);
}

static uint32_t best(const float *x, size_t n)
{
	size_t at = 0;
	for (size_t i = 1; i < n; i++)
		at = x[i] > x[at] ? i : at;
	return (uint32_t)at;
}

static void greedy(struct model *m, tn_sequence *s, float *logits, const uint32_t *wanted, size_t n, const float *rows,
		   const char *what)
{
	struct tn_error err;
	const size_t v = m->info.vocabulary;
	for (size_t i = 0; i < n; i++) {
		uint32_t id = best(logits, v);
		if (rows)
			compare(what, logits, rows + i * v, v);
		checks++;
		if (id != wanted[i]) {
			char text[128];
			snprintf(text, sizeof text, "%s: token %zu is %u, not %u", what, i, id, wanted[i]);
			report(text, NULL);
			return;
		}
		struct tn_step step = { .sequence = s, .ids = &id, .count = 1, .logits = logits };
		if (i + 1 < n && tn_decoder_step(m->decoder, &step, 1, &err) != TN_OK) {
			report("step", &err);
			return;
		}
	}
}

/* What a model is held against: names of tensors in its expect.safetensors; NULL: not looked at. */
struct expectation {
	const char *ids, *logits, *greedy, *greedy_logits;
};

static void run(struct model *m, const tn_safetensors *inputs, const tn_safetensors *expect, const struct expectation *e)
{
	size_t n, count, last, v = m->info.vocabulary;
	struct tn_error err;
	tn_sequence *s;
	uint32_t *ids = load_ids(inputs, e->ids, &count);
	float *wanted = load(expect, e->logits, &n, &last);
	if (!ids || !wanted || n != count * v) {
		report("expectation lacks a tensor", NULL);
		free(ids);
		free(wanted);
		return;
	}
	float *logits = calloc(count * v, sizeof *logits);
	struct tn_step step = { .ids = ids, .count = count, .logits = logits, .all_logits = 1 };
	if (tn_sequence_create(m->decoder, count + 32, &s, &err) != TN_OK)
		abort();
	step.sequence = s;
	if (tn_decoder_step(m->decoder, &step, 1, &err) != TN_OK) {
		report("step", &err);
	} else {
		compare(e->logits, logits, wanted, n);
		size_t tokens;
		uint32_t *next = e->greedy ? load_ids(expect, e->greedy, &tokens) : NULL;
		float *rows = e->greedy_logits ? load(expect, e->greedy_logits, &n, &last) : NULL;
		if (next)
			greedy(m, s, logits + (count - 1) * v, next, tokens, rows, e->greedy);
		free(next);
		free(rows);
	}
	tn_sequence_destroy(s);
	free(logits);
	free(wanted);
	free(ids);
}

static tn_safetensors *open_expect(const char *folder)
{
	char path[4096 + 32];
	struct tn_error err;
	tn_safetensors *file;
	snprintf(path, sizeof path, "%s/expect.safetensors", folder);
	return tn_safetensors_open(ctx, path, &file, &err) == TN_OK ? file : NULL;
}

/* ---- the kinds of cases ---------------------------------------------------------------------------------- */

static void run_all(struct model *m, const tn_safetensors *expect)
{
	static const struct expectation whole = { "input_ids", "logits", "greedy", "greedy_logits" };
	static const struct expectation begun = { "short_input_ids", "short_logits", "short_greedy_generate", NULL };
	run(m, expect, expect, &whole);
	if (tn_safetensors_find(expect, "short_input_ids"))
		run(m, expect, expect, &begun);
}

static void run_dense(const char *folder, uint32_t rows)
{
	struct model m;
	tn_safetensors *expect = open_expect(folder);
	if (expect && open_model(&m, folder, rows)) {
		run_all(&m, expect);
		close_model(&m);
	} else if (expect) {
		close_model(&m);
	}
	tn_safetensors_close(expect);
}

/* The same files with config.v4.json in the place of config.json. */
static void run_older(const char *folder)
{
	char work[64], from[4096 + 300], to[400];
	tt_make_folder(work);
	DIR *dir = opendir(folder);
	for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
		const char *name = entry->d_name;
		if (name[0] == '.' || strcmp(name, "config.json") == 0)
			continue;
		snprintf(from, sizeof from, "%s/%s", folder, name);
		snprintf(to, sizeof to, "%s/%s", work, strcmp(name, "config.v4.json") == 0 ? "config.json" : name);
		if (symlink(from, to) != 0)
			abort();
	}
	if (dir)
		closedir(dir);
	run_dense(work, 0);
	tt_remove_tree(work);
}

static void run_adapter(const char *folder, const char *adapter_folder, const char *inputs_folder)
{
	static const struct expectation whole = { "input_ids", "logits", "greedy", "greedy_logits" };
	static const struct expectation no_rows = { "input_ids", "logits", "greedy", NULL };
	static const struct expectation inside = { "short_input_ids", "short_logits", NULL, NULL };
	struct model m;
	struct tn_error err;
	tn_adapter *adapter = NULL;
	tn_safetensors *expect = open_expect(adapter_folder), *inputs = open_expect(inputs_folder);
	const int mlx = strstr(adapter_folder, "mlx") != NULL, sliding = strstr(folder, "gemma2") != NULL;
	if (open_model(&m, folder, 0)) {
		if (tn_adapter_open(ctx, adapter_folder, &adapter, &err) != TN_OK ||
		    tn_live_attach(m.live, "a", adapter, 1, &err) != TN_OK)
			report("the adapter does not attach", &err);
		else
			run(&m, inputs, expect, mlx ? (sliding ? &inside : &no_rows) : &whole);
	}
	close_model(&m);
	tn_adapter_close(adapter);
	tn_safetensors_close(inputs);
	tn_safetensors_close(expect);
}

static void run_quantized(const char *folder)
{
	static const struct expectation whole = { "input_ids", "transformers_logits", "transformers_greedy", NULL };
	struct model m;
	tn_safetensors *expect = open_expect(folder);
	if (expect && open_model(&m, folder, 0))
		run(&m, expect, expect, &whole);
	if (expect)
		close_model(&m);
	tn_safetensors_close(expect);
}

static void run_family(const char *root, const char *name)
{
	char folder[2048], other[4096], q4[4096];
	snprintf(folder, sizeof folder, "%s/%s", root, name);
	snprintf(where, sizeof where, "%s", name);
	run_dense(folder, 0);
	snprintf(where, sizeof where, "%s in batches of 5", name);
	run_dense(folder, 5);
	snprintf(where, sizeof where, "%s config.v4.json", name);
	run_older(folder);
	snprintf(other, sizeof other, "%s/adapters", folder);
	DIR *dir = opendir(other);
	for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(where, sizeof where, "%s %s", name, entry->d_name);
		snprintf(other, sizeof other, "%s/adapters/%s", folder, entry->d_name);
		run_adapter(folder, other, folder);
	}
	if (dir)
		closedir(dir);
	snprintf(q4, sizeof q4, "%s/mlx_q4", folder);
	snprintf(other, sizeof other, "%s/mlx_q4_lora", folder);
	snprintf(where, sizeof where, "%s mlx_q4", name);
	if (tt_exists(q4))
		run_quantized(q4);
	snprintf(where, sizeof where, "%s mlx_q4_lora", name);
	if (tt_exists(other))
		run_adapter(q4, other, q4);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv)
{
	char *names[256];
	int count = 0;
	DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
	if (!dir || tn_context_create(NULL, &ctx, NULL) != TN_OK) {
		fprintf(stderr, "usage: decoder_cases FOLDER [NAME]\n");
		return 2;
	}
	for (struct dirent *entry; (entry = readdir(dir)) != NULL && count < 256;)
		if (entry->d_name[0] != '.' && (argc < 3 || strcmp(argv[2], entry->d_name) == 0))
			names[count++] = strdup(entry->d_name);
	closedir(dir);
	qsort(names, (size_t)count, sizeof *names, by_name);
	for (int i = 0; i < count; i++) {
		run_family(argv[1], names[i]);
		free(names[i]);
	}
	tn_context_destroy(ctx);
	printf("%d models, %d checks, %d failures; logits off by %.2g of the largest at most\n", count, checks, failures, worst);
	return failures || count == 0 || checks < count;
}
