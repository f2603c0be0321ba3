/* SPDX-License-Identifier: Apache-2.0 */
/* codecs [ISA...]: how fast the kernels of each instruction set decode, encode and fuse rows, against limits that are
 * taken between the same runs: memcpy of the same rows, and the multiply-adds that this instruction set can do.
 *
 * Rates are GB/s of float32 written (decode, fuse) or read (encode), and of bytes copied for memcpy. One thread, by its
 * own CPU time. */
#include "kernels/kernels.h"
#include "linear/delta.h"
#include "rounds.h"

#include "isa_enabled.h" /* made by the build: the lines of isa.def that fit the target */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A row of 16 KB; 8 of them stay in any L2 with their copy, and 8192 are four times a large L3. */
enum { COLS = 4096, CACHE_ROWS = 8, MEMORY_ROWS = 8192, SAMPLES = 7, MOST_ROW_BYTES = COLS * 4, RANK = 16 };
static const double sample_seconds = 0.015;

static const struct {
	const char *name;
	struct tn_format format;
} codecs[] = {
	{ "dense bf16", { .codec = TN_CODEC_dense, .dtype = TN_BF16 } },
	{ "affine 2 g64", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 2, .group = 64 } },
	{ "affine 3 g64", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 3, .group = 64 } },
	{ "affine 4 g64", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 4, .group = 64 } },
	{ "affine 5 g64", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 5, .group = 64 } },
	{ "affine 6 g64", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 6, .group = 64 } },
	{ "affine 8 g64", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 8, .group = 64 } },
	{ "mxfp4", { .codec = TN_CODEC_mxfp4, .dtype = TN_BF16, .bits = 4, .group = 32 } },
	{ "mxfp8", { .codec = TN_CODEC_mxfp8, .dtype = TN_BF16, .bits = 8, .group = 32 } },
	{ "nvfp4", { .codec = TN_CODEC_nvfp4, .dtype = TN_BF16, .bits = 4, .group = 16 } },
};

#define ISA(name, arch, needs, flags) double bench_multiply_add_##name(size_t rounds, float *sink);
TN_ISA_LINES
#undef ISA

static const struct {
	const char *isa;
	double (*multiply_add)(size_t rounds, float *sink);
} limits[] = {
#define ISA(name, arch, needs, flags) { #name, bench_multiply_add_##name },
	TN_ISA_LINES
#undef ISA
};

/* Of this thread alone: what others do with the CPU in between is not counted. */
static double now(void)
{
	return clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}

/* ---- samples --------------------------------------------------------------------------------------------- */

/* What one measurement works on. Rows are taken in turn and the turn goes on from sample to sample: with more rows than
 * the cache holds, each is cold when its turn comes. */
struct bench {
	const struct tn_kernels *kernels;
	struct tn_format format;
	struct tn_delta delta;
	void *scratch;
	float *values, *copy;
	unsigned char *packed;
	size_t rows, next;
};

typedef void (*row_fn)(const struct bench *b, size_t row);

static void copy_row(const struct bench *b, size_t row)
{
	memcpy(b->copy + row * COLS, b->values + row * COLS, COLS * sizeof(float));
}

static struct tn_row_out packed_row(const struct bench *b, size_t row)
{
	const struct tn_codec *codec = b->kernels->codec[b->format.codec];
	size_t bytes[TN_PART_COUNT], sum = 0;
	struct tn_row_out out;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		sum += bytes[p] = codec->part_bytes(&b->format, p, COLS);
	unsigned char *at = b->packed + row * sum;
	for (unsigned p = 0; p < TN_PART_COUNT; at += bytes[p++])
		out.part[p] = at;
	return out;
}

static void encode_row(const struct bench *b, size_t row)
{
	struct tn_row_out out = packed_row(b, row);
	b->kernels->codec[b->format.codec]->encode(&out, b->values + row * COLS, &b->format, COLS);
}

static void decode_row(const struct bench *b, size_t row)
{
	struct tn_row_out out = packed_row(b, row);
	struct tn_row in = { { out.part[0], out.part[1], out.part[2] } };
	b->kernels->codec[b->format.codec]->decode(b->copy + row * COLS, &in, &b->format, COLS);
}

/* The whole work on a row of a fuse; the result goes to the rows behind, so that the next turn finds the same base. */
static void fuse_row(const struct bench *b, size_t row)
{
	struct tn_row_out out = packed_row(b, CACHE_ROWS + row);
	decode_row(b, row);
	tn_delta_edit_f32(b->kernels, &b->delta, row, b->copy + row * COLS, b->scratch);
	b->kernels->codec[TN_CODEC_dense]->encode(&out, b->copy + row * COLS, &b->format, COLS);
}

static void lowrank_row(const struct bench *b, size_t row)
{
	b->kernels->lowrank_f32(b->copy + row * COLS, b->delta.a, b->delta.b + row * RANK, RANK, COLS);
}

/* Rows per second. */
static double sample(struct bench *b, row_fn fn)
{
	size_t done = 0;
	double start = now(), seconds;
	do {
		for (int i = 0; i < 64; i++, done++) { /* the clock is a system call */
			fn(b, b->next);
			b->next = (b->next + 1) % b->rows;
		}
		seconds = now() - start;
	} while (seconds < sample_seconds);
	return (double)done / seconds;
}

static const double gb_of_row = COLS * sizeof(float) * 1e-9;

/* Alternates the two and prints the median rate and the median, least and greatest ratio. */
static void print_against_copy(struct bench *b, row_fn fn)
{
	double rate[SAMPLES], ratio[SAMPLES];
	sample(b, fn);
	for (int i = 0; i < SAMPLES; i++) {
		double copied = sample(b, copy_row);
		rate[i] = sample(b, fn);
		ratio[i] = rate[i] / copied;
	}
	const double middle = median(ratio, SAMPLES);
	printf(" | %6.2f GB/s %5.2f (%.2f-%.2f)", median(rate, SAMPLES) * gb_of_row, middle, ratio[0], ratio[SAMPLES - 1]);
	fflush(stdout);
}

/* ---- codecs ---------------------------------------------------------------------------------------------- */

static void bench_codec(struct bench *b, const char *name)
{
	static const size_t sizes[] = { CACHE_ROWS, MEMORY_ROWS };
	static const struct {
		const char *name;
		row_fn fn;
	} ways[] = { { "decode", decode_row }, { "encode", encode_row } };
	for (size_t row = 0; row < MEMORY_ROWS; row++)
		encode_row(b, row);
	for (int w = 0; w < 2; w++) {
		printf("%-8s %-12s %s", b->kernels->isa, name, ways[w].name);
		for (int s = 0; s < 2; s++) {
			b->rows = sizes[s];
			b->next = 0;
			print_against_copy(b, ways[w].fn);
		}
		putchar('\n');
	}
}

/* ---- fuse ------------------------------------------------------------------------------------------------ */

static double multiply_adds(const char *isa)
{
	static float sink;
	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
		if (strcmp(limits[i].isa, isa) == 0) {
			double start = now();
			double operations = limits[i].multiply_add(1000000, &sink);
			return operations / (now() - start);
		}
	return 0;
}

/* In cache: the arithmetic is what limits it. */
static void bench_fuse(struct bench *b, const char *name, row_fn fn)
{
	double rate[SAMPLES], share[SAMPLES];
	b->rows = CACHE_ROWS;
	b->next = 0;
	for (int i = 0; i < SAMPLES; i++) {
		double limit = multiply_adds(b->kernels->isa);
		rate[i] = sample(b, fn) * 2 * RANK * COLS;
		share[i] = rate[i] / limit;
	}
	const double middle = median(share, SAMPLES);
	printf("%-8s %-19s | %6.1f GFLOP/s %5.2f (%.2f-%.2f) of multiply and add", b->kernels->isa, name,
	       median(rate, SAMPLES) * 1e-9, middle, share[0], share[SAMPLES - 1]);
	print_against_copy(b, fn);
	putchar('\n');
}

/* ---- main ------------------------------------------------------------------------------------------------ */

static void *buffer(size_t bytes)
{
	void *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
	if (!p) {
		fprintf(stderr, "codecs: no memory\n");
		exit(1);
	}
	memset(p, 1, bytes); /* touched now, not while a clock runs */
	return p;
}

/* Values that BF16 has, uniform in -1/32 .. 1/32. */
static void fill(float *values, size_t n)
{
	uint64_t x = 88172645463325252u;
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		values[i] = (float)(int8_t)(x >> 32) * 0x1p-12f;
	}
}

static void bench_isa(struct bench *b, const char *isa)
{
	b->kernels = tn_kernels_for(isa);
	if (!b->kernels) {
		printf("%-8s not run: this CPU or this build lacks it\n", isa);
		return;
	}
	for (size_t c = 0; c < sizeof codecs / sizeof *codecs; c++) {
		b->format = codecs[c].format;
		bench_codec(b, codecs[c].name);
	}
	b->format = codecs[0].format;
	for (size_t row = 0; row < CACHE_ROWS; row++)
		encode_row(b, row);
	bench_fuse(b, "low-rank sum r16", lowrank_row);
	bench_fuse(b, "row of a fuse r16", fuse_row);
}

int main(int argc, char **argv)
{
	struct bench b = { 0 };
	float *factors = buffer((RANK * COLS + CACHE_ROWS * RANK) * sizeof(float));
	b.values = buffer((size_t)MEMORY_ROWS * COLS * sizeof(float));
	b.copy = buffer((size_t)MEMORY_ROWS * COLS * sizeof(float));
	b.packed = buffer((size_t)MEMORY_ROWS * MOST_ROW_BYTES);
	b.scratch = buffer(tn_delta_scratch_bytes(RANK, COLS));
	fill(b.values, (size_t)MEMORY_ROWS * COLS);
	fill(factors, RANK * COLS + CACHE_ROWS * RANK);
	b.delta = (struct tn_delta){ .a = factors, .b = factors + RANK * COLS, .rank = RANK, .cols = COLS,
				     .rows = CACHE_ROWS, .group_rows = CACHE_ROWS, .scale = 2 };
	printf("%-28s | %-32s | %s\n", "ratios are to memcpy", "in cache, ratio (least-greatest)", "from memory");
	for (int i = 1; i < argc; i++)
		bench_isa(&b, argv[i]);
	for (unsigned i = 0; argc == 1 && tn_kernels_isa_name(i); i++)
		bench_isa(&b, tn_kernels_isa_name(i));
	free(factors);
	free(b.values);
	free(b.copy);
	free(b.packed);
	free(b.scratch);
	return 0;
}
