/* SPDX-License-Identifier: Apache-2.0 */
/* speed [--threads N] [--isa NAME] [--rounds N] [ROW...]: the kernels against what nothing can beat on this machine, taken in
 * turns within one run: a copy, a read or a write of the same bytes, or dot products in registers. A round counts when the limit
 * before it and the one after it agree within a tenth; the median of the ratios is printed, with the least and the greatest.
 *
 * speed --serve ROW [--threads N]: answers each line of input with the seconds of one round, so that a peer can take turns. */
#include "rounds.h"
#include "speed.h"

#include "base/half.h"

#include "isa_enabled.h" /* made by the build: the lines of isa.def that fit the target */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define ISA(name, arch, needs, flags) double bench_peak_##name(size_t rounds, float *sink);
TN_ISA_LINES
#undef ISA

static const struct {
	const char *isa;
	double (*peak)(size_t rounds, float *sink);
} peaks[] = {
#define ISA(name, arch, needs, flags) { #name, bench_peak_##name },
	TN_ISA_LINES
#undef ISA
};

/* ---- memory and time ------------------------------------------------------------------------------------- */

/* Of one thread its own time: what others do with the CPU in between is not counted. */
static clockid_t clock_used = CLOCK_THREAD_CPUTIME_ID;

static double now(void)
{
	return clock_seconds(clock_used);
}

void *bench_memory(size_t bytes)
{
	const size_t page = 2 << 20;
	unsigned char *p = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		abort();
	p += (page - (uintptr_t)p % page) % page;
	madvise(p, bytes, MADV_HUGEPAGE);
	memset(p, 1, bytes);
	return p;
}

static uint64_t state = 88172645463325252u;

static float some(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (float)((int64_t)state >> 40) * 0x1p-23f;
}

static double timed(struct bench *b, tn_status (*run)(void *, uint64_t, unsigned, struct tn_error *), uint64_t tasks)
{
	struct tn_work work = { .task_count = tasks, .run = run, .arg = b };
	double begun = now();
	tn_pool_run(b->ctx, &work, NULL);
	return now() - begun;
}

/* ---- one round ------------------------------------------------------------------------------------------- */

struct tn_row bench_row_at(const struct bench *b, size_t matrix, size_t row)
{
	struct tn_row at = { { NULL } };
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (b->row_bytes[p])
			at.part[p] = b->part[matrix][p] + row * b->row_bytes[p];
	return at;
}

static tn_status fuse_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	const struct row *row = b->row;
	size_t first = task * FUSE_ROWS, from = b->turn % MATRICES; /* as many rows as tenon fuse takes at once */
	size_t to = row->kind == FUSE ? (from + MATRICES / 2) % MATRICES : from;
	struct tn_add_product p = { b->a, b->b + first * row->rank, row->rank, row->cols, FUSE_ROWS, 2, TN_BF16, TN_FACTORS_BF16,
				    b->lora ? b->magnitude + first : NULL };
	(void)err;
	b->k->add_product(b->dense[to] + first * row->cols, row->cols * 2, b->dense[from] + first * row->cols, row->cols * 2, &p,
			  b->scratch + worker * SCRATCH);
	return TN_OK;
}

static double fuse(struct bench *b, int with_magnitudes)
{
	b->lora = with_magnitudes;
	return timed(b, fuse_task, OUT / FUSE_ROWS);
}

static tn_status fuse_packed_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	size_t first = task * TASK_ROWS;
	unsigned char *to[TN_PART_COUNT];
	(void)err;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		to[p] = b->row_bytes[p] ? b->part[(b->turn + MATRICES / 2) % MATRICES][p] + first * b->row_bytes[p] : NULL;
	bench_fuse_packed(b, b->k, first, TASK_ROWS, to, b->scratch + worker * SCRATCH);
	return TN_OK;
}

/* As tenon does it with matrices in memory. */
static tn_status recode_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	const struct row *row = b->row;
	const struct tn_format bf16 = BF16;
	size_t matrix = b->turn % MATRICES, first = task * TASK_ROWS;
	int decodes = row->kind == DEQUANTIZE;
	struct tn_recoding how = { decodes ? &row->format : &bf16, decodes ? &bf16 : &row->format, TASK_ROWS, row->cols, 1,
				   (float *)(void *)(b->scratch + worker * SCRATCH) };
	struct tn_rows packed = { .first = bench_row_at(b, matrix, first) };
	struct tn_rows dense = { { { b->dense[matrix] + first * row->cols } }, { row->cols * 2 } };
	struct tn_rows_out to;
	(void)err;
	memcpy(packed.stride, b->row_bytes, sizeof packed.stride);
	memcpy(&to, decodes ? &dense : &packed, sizeof to);
	b->k->recode_rows(&to, decodes ? &packed : &dense, &how);
	return TN_OK;
}

static tn_status nf4_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	(void)err;
	bench_nf4_rows(b, task * TASK_ROWS, TASK_ROWS, (float *)(void *)(b->scratch + worker * SCRATCH));
	return TN_OK;
}

static struct tn_product product_of(const struct row *row)
{
	return (struct tn_product){ .format = &row->format, .cols = row->cols, .m = row->m ? row->m : 1,
				    .precision = row->precision, .x_dtype = row->kind == PRODUCT_OF_BF16 ? TN_BF16 : TN_F32 };
}

/* As linear/forward.c cuts matrices. */
static size_t product_rows(const struct row *row)
{
	return row->m < 12 ? TASK_ROWS : MANY_X_ROWS;
}

static tn_status product_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	const struct row *row = b->row;
	size_t count = product_rows(row), first = task * count;
	struct tn_product p = product_of(row);
	struct tn_rows w = { .first = bench_row_at(b, b->turn % MATRICES, first) };
	(void)err;
	memcpy(w.stride, b->row_bytes, sizeof w.stride);
	b->k->product_rows(b->y + first, OUT, &p, b->prepared, &w, count, b->scratch + worker * SCRATCH);
	if (b->lora)
		b->k->lora_expand(b->y + first, OUT, b->factor_b + first * row->rank, TN_BF16, row->rank, count, b->t,
				  row->rank, row->m, 2);
	return TN_OK;
}

const uint16_t *bench_factors_of(const struct bench *b, size_t i)
{
	size_t ranks = b->row->rank ? i * b->row->rank : i / 4 * 120 + ((size_t)8 << i % 4) - 8;
	return b->dense[b->turn % MATRICES] + ranks * (b->row->cols + OUT);
}

/* Tokens with one adapter stand together; so many are one task. */
static size_t tokens_of_task(const struct bench *b)
{
	return b->lora && b->row->m > TOKENS / 16 ? TOKENS / b->row->m : 16;
}

static tn_status adapter_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	const struct row *row = b->row;
	size_t n = tokens_of_task(b), first = task * n, adapter = b->lora ? first * row->m / TOKENS : 0;
	size_t rank = row->rank ? row->rank : (size_t)8 << adapter % 4;
	const uint16_t *factors = bench_factors_of(b, adapter);
	(void)worker;
	(void)err;
	b->k->lora_shrink(b->t + first * MOST_RANK, rank, factors, TN_BF16, rank, row->cols, b->x + first * row->cols,
			  row->cols, n);
	b->k->lora_expand(b->y + first * OUT, OUT, factors + rank * row->cols, TN_BF16, rank, OUT, b->t + first * MOST_RANK,
			  rank, n, 2);
	return TN_OK;
}

static double adapters(struct bench *b, int all)
{
	b->lora = all;
	return timed(b, adapter_task, TOKENS / tokens_of_task(b));
}

static double product(struct bench *b, int lora)
{
	const struct row *row = b->row;
	struct tn_product p = product_of(row);
	double begun = now();
	b->lora = lora;
	b->k->product_prepare(b->prepared, &p, &(struct tn_vectors){ b->x, row->cols, 0, row->m });
	if (lora)
		b->k->lora_shrink(b->t, row->rank, b->factor_a, TN_BF16, row->rank, row->cols, b->x, row->cols, row->m);
	double prepared = now() - begun;
	return prepared + timed(b, product_task, OUT / product_rows(row));
}

double bench_ours(struct bench *b)
{
	b->turn++;
	switch (b->row->kind) {
	case FUSE:
	case FUSE_IN_PLACE:
	case FUSE_DORA: return fuse(b, b->row->kind == FUSE_DORA);
	case FUSE_PACKED:
	case FUSE_PACKED_DITHER:
	case FUSE_PACKED_DORA:
	case FUSE_PACKED_DORA_DITHER: return timed(b, fuse_packed_task, OUT / TASK_ROWS);
	case QUANTIZE:
	case DEQUANTIZE: return timed(b, recode_task, OUT / TASK_ROWS);
	case QUANTIZE_NF4:
	case DEQUANTIZE_NF4: return timed(b, nf4_task, OUT / TASK_ROWS);
	case ADAPTERS: return adapters(b, 1);
	default: return product(b, b->row->kind == LORA);
	}
}

/* ---- limits ---------------------------------------------------------------------------------------------- */

static size_t source_bytes(const struct bench *b, unsigned part)
{
	const struct row *row = b->row;
	if (row->kind == ADAPTERS)
		return part ? 0 : (size_t)(bench_factors_of(b, row->m) - bench_factors_of(b, 0)) * 2;
	if (row->kind == QUANTIZE)
		return part ? 0 : OUT * row->cols * 2;
	return OUT * b->row_bytes[part];
}

/* A 64th of each part. */
static tn_status read_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	int dense = b->row->kind == QUANTIZE || b->row->kind == ADAPTERS;
	(void)worker;
	(void)err;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t bytes = source_bytes(b, p) / 64;
		const unsigned char *from = dense ? (const unsigned char *)b->dense[b->turn % MATRICES]
						  : b->part[b->turn % MATRICES][p];
		uint64_t sum[8] = { 0 }, v[8];
		for (size_t i = 0; i + 64 <= bytes; i += 64) {
			__builtin_prefetch(from + task * bytes + i + 4096, 0, 2);
			memcpy(v, from + task * bytes + i, 64);
			for (int l = 0; l < 8; l++)
				sum[l] ^= v[l];
		}
		for (int l = 1; l < 8; l++)
			sum[0] ^= sum[l];
		b->sink += (unsigned)sum[0];
	}
	return TN_OK;
}

static tn_status copy_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	size_t n = OUT / 64 * b->row->cols, from = b->turn % MATRICES, to = (from + MATRICES / 2) % MATRICES;
	(void)worker;
	(void)err;
	memcpy(b->dense[to] + task * n, b->dense[from] + task * n, n * 2);
	return TN_OK;
}

static tn_status write_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	size_t n = OUT / 64 * b->row->cols;
	(void)worker;
	(void)err;
	unsigned char *to = (unsigned char *)(b->dense[b->turn % MATRICES] + task * n);
#if defined(__SSE2__) /* past the caches: what stays in them would be paid for by whoever comes next */
	for (size_t i = 0; i < n * 2; i += 16)
		_mm_stream_si128((__m128i *)(void *)(to + i), _mm_set1_epi8((char)b->turn));
	_mm_sfence();
#else
	memset(to, (int)b->turn, n * 2);
#endif
	return TN_OK;
}

static tn_status peak_task(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct bench *b = arg;
	float sink = 0;
	(void)task;
	(void)worker;
	(void)err;
	b->peak(100000, &sink);
	b->sink += (unsigned)sink;
	return TN_OK;
}

/* Seconds for the operations of the row at the rate of registers. */
static double dots_limit(struct bench *b)
{
	const struct row *row = b->row;
	float sink = 0;
	double wanted = row->kind == ADAPTERS ? 2.0 * TOKENS * (double)row->rank * (double)(row->cols + OUT)
					      : 2.0 * OUT * (double)row->cols * (double)(row->rank ? row->rank : row->m);
	double each = b->peak(100000, &sink);
	double seconds = timed(b, peak_task, 4 * b->threads);
	b->sink += (unsigned)sink;
	return seconds * wanted / (each * 4 * b->threads);
}

static double limit(struct bench *b)
{
	b->turn++;
	switch (b->row->limit) {
	case COPY: return timed(b, copy_task, 64);
	case READ_SOURCE: return timed(b, read_task, 64);
	case WRITE_RESULT: return timed(b, write_task, 64);
	case DOTS: return dots_limit(b);
	case ONE_ADAPTER: return adapters(b, 0);
	case PLAIN_LORA: return fuse(b, 0);
	default: return product(b, 0);
	}
}

/* ---- a row ----------------------------------------------------------------------------------------------- */

static void fill_halves(uint16_t *dst, size_t n, float size)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = tn_bf16_from_f32(size * (some() + some() + some()));
}

/* Of a codec that only reads: any codes but NaN of E4M3. Scales as of weights: of 4 bits one for each group, of E4M3 for blocks of
 * 128 rows, of int8 for each row. */
static void fill_codes(struct bench *b, size_t m)
{
	const struct tn_format *f = &b->row->format;
	const size_t groups = b->row->cols / f->group;
	float *scales = (float *)(void *)b->part[m][1];
	for (size_t i = 0; i < OUT * b->row_bytes[0]; i++)
		b->part[m][0][i] = (unsigned char)((int)(some() * 128) & (f->code_kind == TN_CODES_E4M3 ? 0xFE : 0xFF));
	for (size_t i = 0; i < OUT * groups; i++) {
		size_t like = f->code_kind == TN_CODES_I8 ? i / groups * groups : i / groups / 128 * 128 * groups + i % groups;
		scales[i] = f->bits == 4 || like == i ? 0.02f * (some() + 1.5f) : scales[like];
	}
}

static void make_matrices(struct bench *b)
{
	const struct row *row = b->row;
	const struct tn_codec *codec = b->k->codec[row->format.codec];
	float *values = bench_memory(row->cols * 4);
	const struct tn_format bf16 = BF16;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		b->row_bytes[p] = p == TN_PART_BIASES && !codec->has_biases ? 0 : codec->part_bytes(&row->format, p, row->cols);
	for (size_t m = 0; m < MATRICES; m++) {
		b->dense[m] = bench_memory(OUT * row->cols * 2);
		fill_halves(b->dense[m], OUT * row->cols, 0.02f);
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			b->part[m][p] = b->row_bytes[p] ? bench_memory(OUT * b->row_bytes[p]) : NULL;
		if (!codec->encode)
			fill_codes(b, m);
		for (size_t i = 0; i < OUT && codec->encode && row->format.codec != TN_CODEC_dense; i++) {
			struct tn_row from = { { b->dense[m] + i * row->cols } }, at = bench_row_at(b, m, i);
			struct tn_row_out to = { { NULL } };
			for (unsigned p = 0; p < TN_PART_COUNT; p++)
				to.part[p] = at.part[p] ? b->part[m][p] + i * b->row_bytes[p] : NULL;
			b->k->codec[TN_CODEC_dense]->decode(values, &from, &bf16, row->cols);
			codec->encode(&to, values, &row->format, row->cols);
		}
		if (row->format.codec == TN_CODEC_dense)
			memcpy(b->part[m][0], b->dense[m], OUT * b->row_bytes[0]);
	}
}

static void make(struct bench *b)
{
	const struct row *row = b->row;
	size_t rank = row->rank ? row->rank : row->kind == ADAPTERS ? MOST_RANK : 1;
	size_t m = row->kind == ADAPTERS ? TOKENS : row->m ? row->m : 1;
	struct tn_product p = product_of(row);
	make_matrices(b);
	if (row->kind == QUANTIZE_NF4 || row->kind == DEQUANTIZE_NF4)
		bench_nf4_make(b);
	b->factor_a = bench_memory(rank * row->cols * 2);
	b->factor_b = bench_memory(rank * OUT * 2);
	b->a = bench_memory(rank * row->cols * 4);
	b->b = bench_memory(rank * OUT * 4);
	fill_halves(b->factor_a, rank * row->cols, 0.02f);
	fill_halves(b->factor_b, rank * OUT, 0.02f);
	for (size_t i = 0; i < rank * row->cols; i++)
		b->a[i] = tn_f32_from_bf16(b->factor_a[i]);
	for (size_t i = 0; i < rank * OUT; i++)
		b->b[i] = tn_f32_from_bf16(b->factor_b[i]);
	b->magnitude = bench_memory(OUT * sizeof *b->magnitude);
	for (size_t i = 0; i < OUT; i++)
		b->magnitude[i] = 1 + some() / 2;
	b->x = bench_memory(m * row->cols * 4);
	b->y = bench_memory(m * OUT * 4);
	b->t = bench_memory(m * (row->kind == ADAPTERS ? MOST_RANK : rank) * 4);
	for (size_t i = 0; i < m * row->cols; i++)
		b->x[i] = p.x_dtype == TN_BF16 ? tn_f32_from_bf16(tn_bf16_from_f32(some())) : some();
	b->prepared = bench_memory(b->k->product_bytes(&p));
	b->scratch = bench_memory(b->threads * SCRATCH);
	if (row->kind >= FUSE_PACKED && row->kind <= FUSE_PACKED_DORA_DITHER)
		bench_load_packed(b);
}

static double one_turn(void *bench)
{
	return bench_ours(bench);
}

static double one_limit(void *bench)
{
	return limit(bench);
}

static void measure(struct bench *b, size_t wanted)
{
	static const char *const limits[] = { "memcpy", "read", "write", "dots in registers", "the same without",
					      "one adapter", "plain LoRA" };
	const double error = bench_check(b);
	struct rounds r;
	if (!take_rounds(&r, wanted, one_turn, one_limit, b)) {
		printf("| %s | %u | busy: %zu of %zu rounds were steady | | | | |\n", b->row->name, b->threads, r.count, wanted);
		return;
	}
	const double middle = median(r.ratio, r.count);
	printf("| %s | %u | %.3f ms | %.3f ms | %.2f (%.2f - %.2f) of %s | %.1e %s | %s |\n", b->row->name, b->threads,
	       median(r.time, r.count) * 1e3, median(r.limit_time, r.count) * 1e3, middle, r.ratio[0], r.ratio[r.count - 1],
	       limits[b->row->limit], error, error <= b->row->most ? "ok" : "WRONG", b->k->isa);
	fflush(stdout);
}

static void serve(struct bench *b)
{
	char line[64];
	printf("%g\n", bench_check(b));
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		printf("%.9f\n", line[0] == 'l' ? limit(b) : bench_ours(b));
		fflush(stdout);
	}
}

struct arguments {
	unsigned threads;
	const char *isa, *serve;
	size_t rounds;
};

static int run_row(const struct row *row, const struct arguments *arg)
{
	struct bench b = { .row = row, .threads = arg->threads };
	struct tn_options options = TN_OPTIONS_INIT;
	options.threads = arg->threads;
	options.isa = arg->isa;
	clock_used = arg->threads > 1 ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
	if (tn_context_create(&options, &b.ctx, NULL) != TN_OK)
		return 77; /* this CPU cannot */
	b.k = tn_kernels_for(tn_context_isa(b.ctx));
	for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++)
		if (strcmp(peaks[i].isa, b.k->isa) == 0)
			b.peak = peaks[i].peak;
	make(&b);
	if (arg->serve)
		serve(&b);
	else
		measure(&b, arg->rounds);
	tn_context_destroy(b.ctx);
	return 0;
}

static int run_apart(const struct row *row, const struct arguments *arg)
{
	int status = 1;
	pid_t child = fork();
	if (child == 0)
		exit(run_row(row, arg));
	return child < 0 || waitpid(child, &status, 0) < 0 || status != 0;
}

int main(int argc, char **argv)
{
	struct arguments arg = { 1, NULL, NULL, 9 };
	int i = 1, failed = 0;
	for (int code = 0; code < 256; code++) {
		e4m3_table[code] = tn_f32_from_f8_e4m3((uint8_t)code);
		whole_table[code] = (float)(int8_t)code;
	}
	for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
		const char *value = argv[i + 1];
		if (strcmp(argv[i], "--threads") == 0)
			arg.threads = (unsigned)atoi(value);
		else if (strcmp(argv[i], "--rounds") == 0)
			arg.rounds = (size_t)atoi(value) % MOST_ROUNDS;
		else if (strcmp(argv[i], "--isa") == 0)
			arg.isa = value;
		else
			arg.serve = value;
	}
	for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
		int wanted = arg.serve ? strcmp(arg.serve, rows[r].name) == 0 : i == argc;
		for (int n = i; n < argc && !arg.serve; n++)
			wanted |= strcmp(argv[n], rows[r].name) == 0;
		if (wanted)
			failed |= arg.serve ? run_row(&rows[r], &arg) : run_apart(&rows[r], &arg);
	}
	return failed;
}
