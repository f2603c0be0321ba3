/* SPDX-License-Identifier: Apache-2.0 */
/* paths [--rounds N] [NAME...]: the kernels of every instruction set that this CPU can run beside those of `portable`, in turns,
 * on rows that stay in the caches. The median of the ratios is printed, with the least and the greatest; above 1 is faster than
 * portable. Exit status 1 when a path is slower by more than its own spread, and than a twentieth: where the linker puts a loop
 * can make that much. NAME: the jobs whose names hold it. */
#include "kernels/kernels.h"
#include "rounds.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COLS = 2048, ROWS = 32, MOST_M = 64, MOST_RANK = 64, SCRATCH = 1 << 20, KEYS = 256, WIDTH = 128 };
static const double turn_seconds = 0.0005;

struct job {
	void (*run)(const struct tn_kernels *k, const struct job *job);
	struct tn_format format;
	size_t m, rank;
	enum tn_precision precision;
	enum tn_factor_width width;
	char name[64];
};

/* What all jobs read, and where they write. */
static struct {
	float *values, *deltas, *x, *y, *factors;
	double *factors_f64, *sums;
	unsigned char *packed, *plain, *codes, *prepared, *scratch;
	size_t row_bytes[TN_PART_COUNT], part_at[TN_PART_COUNT];
} data;

static double now(void)
{
	return clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}

static void *memory(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
	if (!p)
		abort();
	memset(p, 0, bytes);
	return p;
}

/* ---- jobs ------------------------------------------------------------------------------------------------ */

static struct tn_row_out place(unsigned char *at, size_t row)
{
	struct tn_row_out out;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		out.part[p] = data.row_bytes[p] ? at + data.part_at[p] + row * data.row_bytes[p] : NULL;
	return out;
}

static struct tn_row source(size_t row)
{
	struct tn_row_out out = place(data.packed, row);
	return (struct tn_row){ { out.part[0], out.part[1], out.part[2] } };
}

static void decode(const struct tn_kernels *k, const struct job *job)
{
	for (size_t i = 0; i < ROWS; i++) {
		struct tn_row from = source(i);
		k->codec[job->format.codec]->decode(data.y + i * COLS, &from, &job->format, COLS);
	}
}

static void encode(const struct tn_kernels *k, const struct job *job)
{
	for (size_t i = 0; i < ROWS; i++) {
		struct tn_row_out to = place(data.plain, i);
		k->codec[job->format.codec]->encode(&to, data.values + i * COLS, &job->format, COLS);
	}
}

static void dither(const struct tn_kernels *k, const struct job *job)
{
	struct tn_dither_counts counts = { 0, 0 };
	for (size_t i = 0; i < ROWS; i++) {
		struct tn_row from = source(i);
		void *to = place(data.plain, i).part[0];
		k->codec[job->format.codec]->dither(to, &from, data.deltas, &job->format, COLS, 7, i, &counts);
	}
}

static void step(const struct tn_kernels *k, const struct job *job)
{
	for (size_t i = 0; i < ROWS; i++) {
		struct tn_row from = source(i);
		k->codec[job->format.codec]->steps2(&from, &job->format, COLS);
	}
}

static void add_product(const struct tn_kernels *k, const struct job *job)
{
	struct tn_add_product p = { .a = data.factors, .b = data.factors + MOST_RANK * COLS, .rank = job->rank, .cols = COLS,
				    .rows = ROWS, .scale = 2, .dtype = job->format.dtype, .width = job->width };
	k->add_product(data.plain, COLS * 2, data.packed, COLS * 2, &p, data.scratch);
}

static void product(const struct tn_kernels *k, const struct job *job)
{
	struct tn_product p = { &job->format, COLS, job->m, job->precision, TN_F32 };
	struct tn_rows w = { .first = source(0) };
	memcpy(w.stride, data.row_bytes, sizeof w.stride);
	k->product_prepare(data.prepared, &p, &(struct tn_vectors){ data.x, COLS, 0, job->m });
	k->product_rows(data.y, ROWS, &p, data.prepared, &w, ROWS, data.scratch);
}

static void lora(const struct tn_kernels *k, const struct job *job)
{
	tn_dtype dtype = job->format.dtype;
	k->lora_shrink(data.y, job->rank, data.packed, dtype, job->rank, COLS, data.x, COLS, job->m);
	k->lora_expand(data.y + MOST_M * MOST_RANK, COLS, data.packed, dtype, job->rank, COLS, data.x, job->rank, job->m, 2);
}

static void lowrank(const struct tn_kernels *k, const struct job *job)
{
	k->lowrank_f32(data.y, data.factors, data.factors + MOST_RANK * COLS, job->rank, COLS);
	k->lowrank_f64(data.sums, data.factors, data.factors_f64 + MOST_RANK * COLS, job->rank, COLS);
}

static void vectors(const struct tn_kernels *k, const struct job *job)
{
	(void)job;
	data.y[0] = k->dot_f32(data.values, data.x, ROWS * COLS);
	k->axpy_f32(data.y, 0.5f, data.values, ROWS * COLS);
}

/* Queries of one group: as many as job->m. */
static void scores(const struct tn_kernels *k, const struct job *job)
{
	k->scores_f32(data.y, data.x, job->m, data.values, KEYS / TN_KEY_BLOCK, WIDTH, 0.1f);
}

static void shares(const struct tn_kernels *k, const struct job *job)
{
	struct tn_key_span spans[TN_QUERY_GROUP];
	float sums[TN_QUERY_GROUP];
	for (size_t n = 0; n < job->m; n++)
		spans[n] = (struct tn_key_span){ n, KEYS };
	k->weigh_f32(data.y, sums, spans, job->m, KEYS / TN_KEY_BLOCK);
}

static void exponential(const struct tn_kernels *k, const struct job *job)
{
	(void)job;
	k->exp_f32(data.y, data.x, ROWS * COLS);
}

static void mix(const struct tn_kernels *k, const struct job *job)
{
	const struct tn_key_span all = { 0, KEYS };
	struct tn_key_span spans[TN_QUERY_GROUP];
	for (size_t n = 0; n < job->m; n++)
		spans[n] = all;
	k->mix_f32(data.y, data.x, spans, job->m, data.values, &all, WIDTH);
}

static void all_finite(const struct tn_kernels *k, const struct job *job)
{
	data.y[0] = (float)k->all_finite(data.packed, job->format.dtype, ROWS * COLS);
}

static void unpack(const struct tn_kernels *k, const struct job *job)
{
	struct tn_packed packed = { TN_PACK_STREAM, job->format.bits, data.packed, COLS * job->format.bits / 8u };
	k->unpack_codes(data.codes, &packed, 0, ROWS, COLS);
}

static void pack(const struct tn_kernels *k, const struct job *job)
{
	k->pack_codes(data.plain, data.codes, ROWS * COLS, job->format.bits);
}

/* ---- the list -------------------------------------------------------------------------------------------- */

static struct job jobs[160];
static size_t job_count;

__attribute__((format(printf, 2, 3))) static void add(struct job job, const char *fmt, ...)
{
	va_list args;
	if (job_count == sizeof jobs / sizeof *jobs)
		abort();
	va_start(args, fmt);
	vsnprintf(job.name, sizeof job.name, fmt, args);
	va_end(args);
	jobs[job_count++] = job;
}

static const struct {
	const char *name;
	struct tn_format format;
} formats[] = {
	{ "f32", { .codec = TN_CODEC_dense, .dtype = TN_F32 } },
	{ "f16", { .codec = TN_CODEC_dense, .dtype = TN_F16 } },
	{ "bf16", { .codec = TN_CODEC_dense, .dtype = TN_BF16 } },
	{ "affine-2", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 2, .group = 64 } },
	{ "affine-3", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 3, .group = 64 } },
	{ "affine-4", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 4, .group = 64 } },
	{ "affine-4-g32-f16", { .codec = TN_CODEC_affine, .dtype = TN_F16, .bits = 4, .group = 32 } },
	{ "affine-6", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 6, .group = 64 } },
	{ "affine-8", { .codec = TN_CODEC_affine, .dtype = TN_BF16, .bits = 8, .group = 64 } },
	{ "mxfp4", { .codec = TN_CODEC_mxfp4, .dtype = TN_BF16, .bits = 4, .group = 32 } },
	{ "mxfp8", { .codec = TN_CODEC_mxfp8, .dtype = TN_BF16, .bits = 8, .group = 32 } },
	{ "nvfp4", { .codec = TN_CODEC_nvfp4, .dtype = TN_BF16, .bits = 4, .group = 16 } },
};

static void list_products(const char *name, const struct tn_format *format)
{
	static const char *const precisions[] = { "exact", "16", "int8" };
	for (size_t m = 1; m <= 16; m *= 16)
		for (int p = 0; p < (format->codec == TN_CODEC_dense ? 1 : 3); p++)
			add((struct job){ .run = product, .format = *format, .m = m, .precision = (enum tn_precision)p },
			    "product-%s-%s-m%zu", name, precisions[p], m);
}

static void list_formats(void)
{
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
		const struct tn_format *f = &formats[i].format;
		const struct tn_codec *codec = tn_kernels_for("portable")->codec[f->codec];
		add((struct job){ .run = decode, .format = *f }, "decode-%s", formats[i].name);
		add((struct job){ .run = encode, .format = *f }, "encode-%s", formats[i].name);
		if (codec->dither)
			add((struct job){ .run = dither, .format = *f }, "dither-%s", formats[i].name);
		if (codec->steps2)
			add((struct job){ .run = step, .format = *f }, "step-%s", formats[i].name);
		list_products(formats[i].name, f);
	}
}

static void list(void)
{
	static const enum tn_factor_width widths[] = { TN_FACTORS_BF16, TN_FACTORS_WIDE };
	list_formats();
	for (size_t i = 0; i < 3; i++) {
		const struct tn_format *f = &formats[i].format;
		for (size_t m = 1; m <= 16; m *= 16)
			add((struct job){ .run = lora, .format = *f, .m = m, .rank = 16 }, "lora-%s-m%zu", formats[i].name, m);
		add((struct job){ .run = all_finite, .format = *f }, "finite-%s", formats[i].name);
		for (size_t w = 0; w < 2 && f->dtype != TN_F32; w++)
			for (size_t rank = 8; rank <= 64; rank *= 8)
				add((struct job){ .run = add_product, .format = *f, .rank = rank, .width = widths[w] },
				    "fuse-%s-r%zu-%s", formats[i].name, rank, w ? "f32" : "bf16");
	}
	add((struct job){ .run = lowrank, .rank = 16 }, "lowrank-r16");
	add((struct job){ .run = vectors }, "dot-axpy");
	add((struct job){ .run = exponential }, "exp");
	for (size_t queries = 1; queries <= TN_QUERY_GROUP; queries *= 2) {
		add((struct job){ .run = scores, .m = queries }, "scores-%zu", queries);
		add((struct job){ .run = shares, .m = queries }, "shares-%zu", queries);
		add((struct job){ .run = mix, .m = queries }, "mix-%zu", queries);
	}
	for (uint8_t bits = 2; bits <= 8; bits = (uint8_t)(2 * bits)) {
		add((struct job){ .run = unpack, .format = { .bits = bits } }, "unpack-%u", bits);
		add((struct job){ .run = pack, .format = { .bits = bits } }, "pack-%u", bits);
	}
}

/* ---- turns ----------------------------------------------------------------------------------------------- */

static float some(void)
{
	static uint64_t state = 88172645463325252u;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (float)((int64_t)state >> 40) * 0x1p-23f;
}

static void make_data(void)
{
	data.values = memory(ROWS * COLS * 4);
	data.deltas = memory(COLS * 4);
	data.x = memory(MOST_M * COLS * 4);
	data.y = memory(2 * MOST_M * COLS * 4);
	data.factors = memory(MOST_RANK * (COLS + ROWS) * 4);
	data.factors_f64 = memory(MOST_RANK * (COLS + ROWS) * 8);
	data.sums = memory(COLS * 8);
	data.packed = memory(ROWS * COLS * 8);
	data.plain = memory(ROWS * COLS * 8);
	data.codes = memory(ROWS * COLS);
	data.scratch = memory(SCRATCH);
	for (size_t i = 0; i < ROWS * COLS; i++)
		data.values[i] = 0.02f * some();
	for (size_t i = 0; i < COLS; i++)
		data.deltas[i] = 0.0005f * some();
	for (size_t i = 0; i < MOST_M * COLS; i++)
		data.x[i] = some();
	for (size_t i = 0; i < MOST_RANK * (COLS + ROWS); i++) /* BF16 values */
		data.factors_f64[i] = (double)(data.factors[i] = (float)(int)(some() * 127) / 1024);
}

/* The rows of the job's format, encoded by portable; prepared activations have room for the path that wants most. */
static void make_job(const struct job *job)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	struct tn_product p = { &job->format, COLS, job->m ? job->m : 1, job->precision, TN_F32 };
	size_t most = 0, at = 0;
	memset(data.row_bytes, 0, sizeof data.row_bytes);
	if (!job->format.dtype)
		return;
	for (unsigned part = 0; part < TN_PART_COUNT; part++) {
		data.part_at[part] = at;
		data.row_bytes[part] = portable->codec[job->format.codec]->part_bytes(&job->format, part, COLS);
		at += (data.row_bytes[part] * ROWS + 63) / 64 * 64;
	}
	for (size_t i = 0; i < ROWS; i++) {
		struct tn_row_out to = place(data.packed, i);
		portable->codec[job->format.codec]->encode(&to, data.values + i * COLS, &job->format, COLS);
	}
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		size_t bytes = k ? k->product_bytes(&p) : 0;
		if (k && k->product_scratch_bytes(&p) > SCRATCH)
			abort();
		most = bytes > most ? bytes : most;
	}
	free(data.prepared);
	data.prepared = memory(most);
}

static double turn(const struct tn_kernels *k, const struct job *job, size_t times)
{
	double begun = now();
	for (size_t i = 0; i < times; i++)
		job->run(k, job);
	return (now() - begun) / (double)times;
}

/* 1 when the path is slower than portable. */
static int compare_path(const struct tn_kernels *k, const struct job *job, size_t rounds)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	double ratio[MOST_ROUNDS], slow = turn(portable, job, 2), fast = turn(k, job, 2);
	size_t slow_times = (size_t)(turn_seconds / slow) + 1, fast_times = (size_t)(turn_seconds / fast) + 1;
	for (size_t i = 0; i < rounds; i++) {
		slow = turn(portable, job, slow_times);
		ratio[i] = slow / turn(k, job, fast_times);
	}
	double middle = median(ratio, rounds), least = ratio[0], greatest = ratio[rounds - 1];
	int is_slower = middle + (greatest - least) < 1 && middle < 0.95;
	printf(" %.2f (%.2f - %.2f)%s |", middle, least, greatest, is_slower ? " SLOWER" : "");
	return is_slower;
}

static int is_wanted(const struct job *job, int count, char **names)
{
	for (int i = 0; i < count; i++)
		if (strstr(job->name, names[i]))
			return 1;
	return count == 0;
}

int main(int argc, char **argv)
{
	int first = 1, slower = 0;
	size_t rounds = 9;
	if (argc > 2 && strcmp(argv[1], "--rounds") == 0) {
		rounds = (size_t)atoi(argv[2]) % MOST_ROUNDS;
		first = 3;
	}
	list();
	make_data();
	printf("| portable's time over that of | portable, us |");
	for (unsigned i = 1; tn_kernels_isa_name(i); i++)
		printf(" %s |", tn_kernels_isa_name(i));
	printf("\n");
	for (size_t j = 0; j < job_count; j++) {
		if (!is_wanted(&jobs[j], argc - first, argv + first))
			continue;
		make_job(&jobs[j]);
		turn(tn_kernels_for("portable"), &jobs[j], 1);
		printf("| %s | %.1f |", jobs[j].name, turn(tn_kernels_for("portable"), &jobs[j], 9) * 1e6);
		for (unsigned i = 1; tn_kernels_isa_name(i); i++) {
			const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
			if (k && rounds)
				slower |= compare_path(k, &jobs[j], rounds);
			else
				printf(" NOT RUN |");
		}
		printf("\n");
		fflush(stdout);
	}
	return slower;
}
