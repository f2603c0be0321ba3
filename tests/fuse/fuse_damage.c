/* SPDX-License-Identifier: Apache-2.0 */
/* Quantized weights that were fused rightly, in every scheme and way of rounding, and the same with one group damaged: verify has
 * to tell them apart, at random sizes of deltas, scales and places. */
#include "fuselib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, COLS = 256, RANK = 4 };
#define LAYER "model.layers.0.mlp.up_proj"

static const struct scheme {
	const char *mode;
	int bits, group;
	tn_dtype dtype;
} schemes[] = {
	{ "affine", 4, 64, TN_BF16 }, { "affine", 4, 32, TN_F16 }, { "affine", 4, 128, TN_F32 }, { "affine", 3, 64, TN_BF16 },
	{ "affine", 2, 32, TN_BF16 }, { "affine", 6, 64, TN_BF16 }, { "affine", 8, 64, TN_F16 }, { "affine", 8, 32, TN_BF16 },
	{ "affine", 5, 32, TN_F32 }, { "mxfp4", 4, 32, TN_BF16 }, { "mxfp8", 8, 32, TN_BF16 }, { "nvfp4", 4, 16, TN_BF16 },
	{ "mxfp4", 4, 32, TN_F32 }, { "nvfp4", 4, 16, TN_F16 },
};

static const struct way {
	const char *name;
	tn_rounding rounding;
	int promote_bits;
} ways[] = { { "nearest", TN_ROUNDING_NEAREST, 0 }, { "dither", TN_ROUNDING_DITHER, 0 }, { "auto", TN_ROUNDING_AUTO, 0 },
	     { "8 bits", TN_ROUNDING_AUTO, 8 } };

/* ---- a base and an adapter ------------------------------------------------------------------------------- */

static void make_base(struct tt *t, const struct scheme *scheme, uint64_t *state)
{
	static float w[ROWS * COLS];
	const char *dense = tt_path(t, "dense");
	struct fuse_tensor tensor = { LAYER ".weight", ROWS, COLS, w };
	struct tn_recode_request request = TN_RECODE_REQUEST_INIT;
	tn_checkpoint *base;
	tn_recode *plan;
	tt_remove_tree(dense);
	for (size_t i = 0; i < ROWS * COLS; i++)
		w[i] = 0.03f * fuse_normal(state) + (i / COLS % 8 == 0 ? 0.1f : 0);
	fuse_write_model(t, dense, &tensor, 1, scheme->dtype);
	request.quantize = 1;
	request.quantization.q = (struct tn_quantization){ scheme->group, scheme->bits, scheme->mode, 0 };
	tt_ok(t, tn_checkpoint_open(t->ctx, dense, &base, &t->err));
	tt_ok(t, tn_recode_plan(t->ctx, base, &request, &plan, &t->err));
	tt_ok(t, tn_recode_run(plan, tt_path(t, "base"), 1, &t->err));
	tn_recode_free(plan);
	tn_checkpoint_close(base);
}

/* Deltas from a twentieth of the weights to their size. */
static void make_adapter(struct tt *t, uint64_t *state)
{
	static float a[COLS * RANK], b[RANK * ROWS];
	tt_remove_tree(tt_path(t, "adapter"));
	double size = 0.03 * exp2(-(double)(tt_random(state) % 5));
	for (size_t i = 0; i < COLS * RANK; i++)
		a[i] = fuse_normal(state);
	for (size_t i = 0; i < RANK * ROWS; i++)
		b[i] = fuse_normal(state);
	fuse_write_adapter(t, tt_path(t, "adapter"), a, b, COLS, RANK, ROWS, size / sqrt(RANK));
}

/* ---- damage ---------------------------------------------------------------------------------------------- */

/* One row of the merged file, in memory. */
struct row {
	unsigned char *codes, *scales, *biases;
	const unsigned char *base_scales;
	size_t group_bytes, scale_bytes, groups;
	int is_affine;
};

static void zero_codes(struct row *r, size_t g)
{
	memset(r->codes + g * r->group_bytes, 0, r->group_bytes);
}

static void zero_scale(struct row *r, size_t g)
{
	memset(r->scales + g * r->scale_bytes, 0, r->scale_bytes);
}

/* The next power of two (mx), or the next E4M3. */
static void scale_up(struct row *r, size_t g)
{
	r->scales[g * r->scale_bytes]++;
}

static void scale_down(struct row *r, size_t g)
{
	r->scales[g * r->scale_bytes]--;
}

static void swap(unsigned char *a, unsigned char *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char x = a[i];
		a[i] = b[i];
		b[i] = x;
	}
}

static void swap_codes(struct row *r, size_t g)
{
	swap(r->codes + g * r->group_bytes, r->codes + (g + 1) % r->groups * r->group_bytes, r->group_bytes);
}

/* The highest bit of 4 and 8 bits: the sign, where there is one. */
static void flip_codes(struct row *r, size_t g)
{
	for (size_t i = 0; i < r->group_bytes; i++)
		r->codes[g * r->group_bytes + i] ^= 0x88;
}

enum { EVERY_SCHEME, BYTE_SCALES };
static const struct damage {
	const char *what;
	void (*make)(struct row *row, size_t group);
	int of;
} damages[] = { { "codes are zero", zero_codes, EVERY_SCHEME }, { "the scale is zero", zero_scale, EVERY_SCHEME },
		{ "codes are swapped", swap_codes, EVERY_SCHEME }, { "codes have another bit", flip_codes, EVERY_SCHEME },
		{ "the scale is one more", scale_up, BYTE_SCALES }, { "the scale is one less", scale_down, BYTE_SCALES } };

static unsigned char *part_of(struct tt *t, const char *folder, const char *part, unsigned char *bytes, size_t *row_bytes)
{
	tn_checkpoint *model;
	char name[128];
	snprintf(name, sizeof name, LAYER "%s", part);
	tt_ok(t, tn_checkpoint_open(t->ctx, folder, &model, &t->err));
	const struct tn_tensor *tensor = tn_checkpoint_find(model, name);
	unsigned char *at = tensor ? bytes + tensor->offset : NULL;
	*row_bytes = tensor ? (size_t)tensor->bytes / ROWS : 0;
	if (tensor && strcmp(part, ".scales") == 0)
		assert_int_equal(tensor->shape[0], ROWS);
	tn_checkpoint_close(model);
	return at;
}

struct tally {
	size_t right, wronged, damaged, unseen, odd, odd_unseen;
};

/* A scale of nvfp4 that is one off may be what rounding makes of another sum: where the largest value lies between the two. */
static int may_be_unseen(const struct scheme *scheme, const struct damage *damage)
{
	return strcmp(scheme->mode, "nvfp4") == 0 && damage->of == BYTE_SCALES;
}

static void try_damage(struct tt *t, const struct scheme *scheme, const struct way *way, const struct tn_fuse_options *options,
		       const struct damage *damage, uint64_t *state, struct tally *tally)
{
	const char *out = tt_path(t, "out"), *path = tt_path(t, "out/model.safetensors");
	size_t n, code_bytes, scale_bytes, bias_bytes, base_bytes, base_n;
	unsigned char *bytes = tt_read_file(path, &n), *whole = malloc(n);
	unsigned char *base = tt_read_file(tt_path(t, "base/model.safetensors"), &base_n);
	memcpy(whole, bytes, n);
	struct row r = { .codes = part_of(t, out, ".weight", bytes, &code_bytes),
			 .scales = part_of(t, out, ".scales", bytes, &scale_bytes),
			 .biases = part_of(t, out, ".biases", bytes, &bias_bytes) };
	size_t row = tt_random(state) % ROWS;
	const unsigned char *base_scales = part_of(t, tt_path(t, "base"), ".scales", base, &base_bytes) + row * base_bytes;
	r.is_affine = r.biases != NULL;
	r.scale_bytes = !r.is_affine ? 1 : scheme->dtype == TN_F32 ? 4 : 2;
	r.groups = scale_bytes / r.scale_bytes;
	r.group_bytes = code_bytes / r.groups;
	r.codes += row * code_bytes;
	r.scales += row * scale_bytes;
	size_t group = tt_random(state) % r.groups;
	damage->make(&r, group);
	int is_base = base_bytes == scale_bytes && memcmp(base_scales + group * r.scale_bytes, r.scales + group * r.scale_bytes,
							  r.scale_bytes) == 0;
	if (memcmp(whole, bytes, n) != 0 && !(may_be_unseen(scheme, damage) && is_base)) {
		int ok;
		tt_write_file(path, bytes, n);
		tn_verdict verdict = fuse_verdict(t, tt_path(t, "."), options, out, LAYER ".weight", &ok);
		int unseen = ok || verdict != TN_VERDICT_WRONG;
		if (may_be_unseen(scheme, damage)) {
			tally->odd++;
			tally->odd_unseen += (size_t)unseen;
		} else {
			tally->damaged++;
			tally->unseen += (size_t)unseen;
		}
		if (unseen && !may_be_unseen(scheme, damage))
			print_error("%s, %d bits, groups of %d, %s: %s in row %zu, group %zu: %s\n", scheme->mode, scheme->bits,
				    scheme->group, way->name, damage->what, row, group, tn_verdict_name(verdict));
		tt_write_file(path, whole, n);
	}
	free(base);
	free(whole);
	free(bytes);
}

static void try_way(struct tt *t, const struct scheme *scheme, const struct way *way, uint64_t *state, struct tally *tally)
{
	struct fuse_job job = FUSE_JOB(.base = tt_path(t, "base"), .adapter = tt_path(t, "adapter"), .out = tt_path(t, "out"));
	int ok;
	job.options.rounding = way->rounding;
	job.options.promote_bits = way->promote_bits;
	fuse_run(t, t->ctx, &job, NULL, 0);
	tn_verdict verdict = fuse_verdict(t, tt_path(t, "."), &job.options, job.out, LAYER ".weight", &ok);
	tally->right++;
	if (verdict != TN_VERDICT_REQUANTIZED && verdict != TN_VERDICT_LOST) {
		print_error("%s, %d bits, groups of %d, %s: %s\n", scheme->mode, scheme->bits, scheme->group, way->name,
			    tn_verdict_name(verdict));
		tally->wronged++;
	}
	int byte_scales = strcmp(scheme->mode, "affine") != 0 && !way->promote_bits;
	for (size_t i = 0; i < sizeof damages / sizeof *damages; i++)
		if (damages[i].of == EVERY_SCHEME || byte_scales)
			try_damage(t, scheme, way, &job.options, &damages[i], state, tally);
}

static void one_damaged_group(void **state)
{
	struct tt *t = *state;
	uint64_t random = 20;
	const char *rounds = getenv("FUSE_DAMAGE_ROUNDS");
	struct tally tally = { 0 };
	for (int round = 0; round < (rounds ? atoi(rounds) : 2); round++)
		for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++) {
			make_base(t, &schemes[s], &random);
			make_adapter(t, &random);
			for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
				try_way(t, &schemes[s], &ways[w], &random, &tally);
		}
	print_message("  %zu fuses, %zu damaged groups; nvfp4 scales that are one off: %zu, of which %zu are not seen\n", tally.right,
		      tally.damaged, tally.odd, tally.odd_unseen);
	assert_int_equal(tally.wronged, 0);
	assert_int_equal(tally.unseen, 0);
	assert_true(tally.odd_unseen * 3 < tally.odd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(one_damaged_group),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
