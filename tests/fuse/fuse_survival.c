/* SPDX-License-Identifier: Apache-2.0 */
/* How much of an adapter survives on a 4-bit grid: the sample at several weights, and a made-up layer of 4096 columns whose
 * step is 4, 12 and 40 times the delta. Expected: dither keeps 0.97 or more where nearest keeps a sixth. */
#include "fuselib.h"

#include "transform/survival.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, COLS = 4096, RANK = 16 };
#define LAYER "model.layers.0.mlp.up_proj.weight"

static const char *const examples = FUSE_EXAMPLES;

/* Means over the weights of one fuse. */
struct mean {
	double rho, cap, cosine, noise, least_cap;
	size_t weights, nearest;
};

static struct mean fuse_mean(struct tt *t, const struct fuse_job *job)
{
	struct tn_survival s[64];
	struct mean m = { .least_cap = HUGE_VAL };
	m.weights = fuse_run(t, t->ctx, job, s, 64);
	assert_in_range(m.weights, 1, 64);
	for (size_t i = 0; i < m.weights; i++) {
		m.rho += s[i].rho / (double)m.weights;
		m.cap += s[i].cap / (double)m.weights;
		m.cosine += s[i].cosine / (double)m.weights;
		m.noise += s[i].noise / (double)m.weights;
		m.least_cap = fmin(m.least_cap, s[i].cap);
		m.nearest += s[i].rounding == TN_ROUNDING_NEAREST;
	}
	return m;
}

static const struct {
	const char *name;
	tn_rounding rounding;
	int promote_bits;
} ways[] = { { "nearest", TN_ROUNDING_NEAREST, 0 }, { "dither", TN_ROUNDING_DITHER, 0 }, { "auto", TN_ROUNDING_AUTO, 0 },
	     { "6 bits", TN_ROUNDING_AUTO, 6 }, { "8 bits", TN_ROUNDING_AUTO, 8 } };
enum { NEAREST, DITHER, AUTO, SIX, EIGHT, WAYS };

/* A row of the table for every way; cap [WAYS] gets the means. */
static void try_ways(struct tt *t, const char *what, const char *base, const char *adapter, double weight,
		     struct mean found[WAYS])
{
	char out[4096];
	snprintf(out, sizeof out, "%s/out", t->folder);
	for (int w = 0; w < WAYS; w++) {
		struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		job.options.weight = weight;
		job.options.rounding = ways[w].rounding;
		job.options.promote_bits = ways[w].promote_bits;
		found[w] = fuse_mean(t, &job);
		print_message("  %-18s %-8s rho %6.2f  cap %6.3f (least %6.3f)  cosine %.3f  noise %6.3f  nearest %zu/%zu\n", what,
			      ways[w].name, found[w].rho, found[w].cap, found[w].least_cap, found[w].cosine, found[w].noise,
			      found[w].nearest, found[w].weights);
	}
}

static void sample_at_weights(void **state)
{
	struct tt *t = *state;
	char base[512], adapter[512];
	struct mean at[3][WAYS];
	static const double weights[] = { 1, 0.25, 0.0625 };
	snprintf(base, sizeof base, "%s/base-mlx-4bit", examples);
	snprintf(adapter, sizeof adapter, "%s/adapters/whisper", examples);
	for (int i = 0; i < 3; i++) {
		char what[32];
		snprintf(what, sizeof what, "whisper x %g", weights[i]);
		try_ways(t, what, base, adapter, weights[i], at[i]);
		assert_true(at[i][EIGHT].least_cap > 0.99 && at[i][EIGHT].cosine > 0.99);
		assert_true(at[i][SIX].least_cap > 0.98);
	}
	assert_true(at[0][AUTO].nearest == at[0][AUTO].weights && at[2][AUTO].nearest == 0);
	assert_true(at[0][NEAREST].least_cap > 0.99);
	assert_true(at[1][DITHER].cap > 0.96 && at[2][DITHER].cap > 0.96);
	assert_true(at[2][NEAREST].cap < 0.4 && at[2][DITHER].least_cap > 0.9);
}

/* ---- a made-up layer ------------------------------------------------------------------------------------- */

/* Columns of uneven size, directions that decay, as trained adapters have them. */
static void make_layer(struct tt *t, const char *folder, const char *adapter, double scale)
{
	uint64_t rng = 1;
	float *w = malloc(ROWS * COLS * sizeof *w), *a = malloc(COLS * RANK * sizeof *a), *b = malloc(RANK * ROWS * sizeof *b);
	for (size_t i = 0; i < ROWS * COLS; i++)
		w[i] = 0.02f * fuse_normal(&rng);
	for (size_t c = 0; c < COLS; c++) {
		float size = expf(0.3f * fuse_normal(&rng));
		for (size_t k = 0; k < RANK; k++)
			a[c * RANK + k] = size * fuse_normal(&rng) / sqrtf((float)COLS);
	}
	for (size_t k = 0; k < RANK; k++)
		for (size_t i = 0; i < ROWS; i++)
			b[k * ROWS + i] = fuse_normal(&rng) / sqrtf((float)(k + 1));
	char dense[4096];
	struct fuse_tensor tensor = { LAYER, ROWS, COLS, w };
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	tn_checkpoint *base;
	tn_recode *plan;
	snprintf(dense, sizeof dense, "%s/dense", t->folder);
	fuse_write_model(t, dense, &tensor, 1, TN_BF16);
	fuse_write_adapter(t, adapter, a, b, COLS, RANK, ROWS, scale);
	request.quantize = 1;
	tt_ok(t, tn_checkpoint_open(t->ctx, dense, &base, &t->err));
	tt_ok(t, tn_recode_plan(t->ctx, base, &request, &plan, &t->err));
	tt_ok(t, tn_recode_run(plan, folder, 1, &t->err));
	tn_recode_free(plan);
	tn_checkpoint_close(base);
	free(w);
	free(a);
	free(b);
}

static void wide_layer(void **state)
{
	struct tt *t = *state;
	char base[4096], adapter[4096], out[4096];
	static const double wanted[] = { 4, 12, 40 };
	struct mean at[3][WAYS];
	snprintf(base, sizeof base, "%s/base", t->folder);
	snprintf(adapter, sizeof adapter, "%s/adapter", t->folder);
	snprintf(out, sizeof out, "%s/out", t->folder);
	make_layer(t, base, adapter, 1);
	struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	double rho = fuse_mean(t, &job).rho;
	for (int i = 0; i < 3; i++) {
		char what[32];
		snprintf(what, sizeof what, "4096 wide, rho %g", wanted[i]);
		try_ways(t, what, base, adapter, rho / wanted[i], at[i]);
		assert_true(fabs(at[i][DITHER].rho - wanted[i]) < 0.01 * wanted[i]);
		assert_true(at[i][DITHER].cap > 0.965 && at[i][DITHER].cap < 1.02);
		assert_true(at[i][DITHER].noise < 9.6 / wanted[i]);
		assert_true(at[i][AUTO].cap == at[i][DITHER].cap); /* the same bytes */
	}
	assert_true(at[1][NEAREST].cap < 0.25 && at[2][NEAREST].cap < 0.25 && at[1][DITHER].cap >= 0.97);
	assert_true(at[1][DITHER].noise < 0.8 && at[1][SIX].cap > 0.98 && at[1][EIGHT].cap > 0.99);
}

/* ---- what must hold ---------------------------------------------------------------------------------------- */

static unsigned char *shard_of(const char *folder, size_t *n)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/model.safetensors", folder);
	return tt_read_file(path, n);
}

static void same_shard(const char *a, const char *b)
{
	size_t n, m;
	unsigned char *x = shard_of(a, &n), *y = shard_of(b, &m);
	assert_non_null(x);
	assert_int_equal(n, m);
	assert_memory_equal(x, y, n);
	free(x);
	free(y);
}

/* The same bytes for any number of threads, any instruction set and any memory. */
static void same_everywhere(void **state)
{
	struct tt *t = *state;
	static const struct {
		unsigned threads;
		const char *isa;
		uint64_t memory;
	} settings[] = { { 1, "portable", 0 }, { 7, NULL, 0 }, { 2, NULL, 300 << 10 } };
	char base[512], adapter[512], out[4096], first[4096];
	snprintf(base, sizeof base, "%s/base-mlx-4bit", examples);
	snprintf(adapter, sizeof adapter, "%s/adapters/whisper", examples);
	snprintf(first, sizeof first, "%s/0", t->folder);
	for (int i = 0; i < 3; i++) {
		struct tn_options options = TN_OPTIONS_INIT;
		tn_context *ctx;
		options.threads = settings[i].threads;
		options.isa = settings[i].isa;
		options.memory_budget_bytes = settings[i].memory;
		tt_ok(t, tn_context_create(&options, &ctx, &t->err));
		snprintf(out, sizeof out, "%s/%d", t->folder, i);
		struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		job.options.weight = 0.3; /* auto takes both roundings here */
		fuse_run(t, ctx, &job, NULL, 0);
		tn_context_destroy(ctx);
		same_shard(first, out);
	}
}

static void same_tensors(struct tt *t, const char *a, const char *b)
{
	tn_checkpoint *x, *y;
	tt_ok(t, tn_checkpoint_open(t->ctx, a, &x, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, b, &y, &t->err));
	assert_int_equal(tn_checkpoint_count(x), tn_checkpoint_count(y));
	for (size_t i = 0; i < tn_checkpoint_count(x); i++) {
		struct tn_buffer p, q;
		const struct tn_tensor *tensor = tn_checkpoint_at(x, i);
		tt_ok(t, tn_checkpoint_load(x, tensor->name, &p, NULL, &t->err));
		tt_ok(t, tn_checkpoint_load(y, tensor->name, &q, NULL, &t->err));
		assert_int_equal(p.bytes, q.bytes);
		assert_memory_equal(p.data, q.data, p.bytes);
		tn_buffer_release(t->ctx, &p);
		tn_buffer_release(t->ctx, &q);
	}
	tn_checkpoint_close(y);
	tn_checkpoint_close(x);
}

/* An adapter that does nothing moves no code. */
static void nothing_moves_nothing(void **state)
{
	struct tt *t = *state;
	char base[512], adapter[512], out[4096];
	snprintf(base, sizeof base, "%s/base-mlx-4bit", examples);
	snprintf(adapter, sizeof adapter, "%s/adapters/whisper", examples);
	snprintf(out, sizeof out, "%s/out", t->folder);
	for (int rounding = TN_ROUNDING_AUTO; rounding <= TN_ROUNDING_DITHER; rounding++) {
		struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
		job.options.weight = 0;
		job.options.rounding = (tn_rounding)rounding;
		fuse_run(t, t->ctx, &job, NULL, 0);
		same_tensors(t, base, out);
	}
}

/* Too little is refused before anything is written, or promoted. */
static void least_survival(void **state)
{
	struct tt *t = *state;
	char base[512], adapter[512], out[4096];
	struct tn_survival s[64];
	snprintf(base, sizeof base, "%s/base-mlx-4bit", examples);
	snprintf(adapter, sizeof adapter, "%s/adapters/whisper", examples);
	snprintf(out, sizeof out, "%s/out", t->folder);
	struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	job.options.weight = 0.0625;
	job.options.rounding = TN_ROUNDING_NEAREST;
	job.options.min_survival = 0.5;
	fuse_refused(t, &job, TN_E_MISMATCH, "of the adapter survives");
	job.options.promote_bits = 8;
	size_t n = fuse_run(t, t->ctx, &job, s, 64);
	for (size_t i = 0; i < n; i++)
		assert_true(s[i].cap >= 0.5);
	job.options.promote_bits = 0;
	job.options.rounding = TN_ROUNDING_DITHER;
	fuse_run(t, t->ctx, &job, NULL, 0);
}

static size_t count_verdicts(const tn_verify *v, tn_verdict verdict)
{
	size_t n = 0;
	for (size_t i = 0; i < tn_verify_count(v); i++)
		n += tn_verify_at(v, i)->verdict == verdict;
	return n;
}

static size_t verify(struct tt *t, const struct fuse_job *job, tn_verdict verdict, int ok)
{
	tn_checkpoint *base, *merged;
	tn_adapter *adapter;
	tn_verify *v;
	fuse_run(t, t->ctx, job, NULL, 0);
	tt_ok(t, tn_checkpoint_open(t->ctx, job->base, &base, &t->err));
	tt_ok(t, tn_checkpoint_open(t->ctx, job->out, &merged, &t->err));
	tt_ok(t, tn_adapter_open(t->ctx, job->adapter, &adapter, &t->err));
	tt_ok(t, tn_verify_run(t->ctx, base, adapter, &job->options, merged, &v, &t->err));
	assert_int_equal(tn_verify_ok(v), ok);
	size_t n = count_verdicts(v, verdict);
	tn_verify_free(v);
	tn_adapter_close(adapter);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(base);
	return n;
}

/* Verify finds in the files what the fuse said. */
static void verify_sees_it(void **state)
{
	struct tt *t = *state;
	char base[512], adapter[512], out[4096];
	snprintf(base, sizeof base, "%s/base-mlx-4bit", examples);
	snprintf(adapter, sizeof adapter, "%s/adapters/whisper", examples);
	snprintf(out, sizeof out, "%s/out", t->folder);
	struct fuse_job job = { .base = base, .adapter = adapter, .out = out, .options = TN_FUSE_OPTIONS_INIT };
	job.options.weight = 0.0625;
	job.options.rounding = TN_ROUNDING_DITHER;
	assert_int_equal(verify(t, &job, TN_VERDICT_REQUANTIZED, 1), 42);
	job.options.rounding = TN_ROUNDING_NEAREST;
	assert_true(verify(t, &job, TN_VERDICT_LOST, 0) > 30);
	job.options.promote_bits = 6;
	assert_int_equal(verify(t, &job, TN_VERDICT_REQUANTIZED, 1), 42);
	job.options.promote_bits = 0;
	job.options.dequantize = 1;
	assert_int_equal(verify(t, &job, TN_VERDICT_MERGED, 1), 42);
	assert_int_equal(verify(t, &job, TN_VERDICT_DEQUANTIZED, 1), 1);
}

/* Codes that differ, in rows of every length: from none to all of them. */
static void differing_codes(void **state)
{
	unsigned char a[128], b[128];
	(void)state;
	for (unsigned bits = 1; bits <= 8; bits++)
		for (size_t codes = 0; codes * bits <= 8 * sizeof a; codes += 1 + codes % 3) {
			for (unsigned one_in = 1; one_in <= 4; one_in++) {
				uint64_t want = 0;
				memset(a, 0x5A, sizeof a);
				memcpy(b, a, sizeof b);
				for (size_t i = 0; i < codes; i += one_in, want++) /* the lowest or the highest bit of a code */
					b[(i * bits + i % 2 * (bits - 1)) / 8] ^= (unsigned char)(1u << (i * bits + i % 2 * (bits - 1)) % 8);
				assert_int_equal(tn_survival_count_codes(a, b, codes, bits), want);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(sample_at_weights),
		TT_TEST(wide_layer),
		TT_TEST(same_everywhere),
		TT_TEST(nothing_moves_nothing),
		TT_TEST(least_survival),
		TT_TEST(verify_sees_it),
		TT_TEST(differing_codes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
