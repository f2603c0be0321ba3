/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of every instruction set that this CPU can run against `portable`: lengths from 0 to 300, numbers no
 * better aligned than their type and row parts not at all, inside guard pages; the same bits. An instruction set that
 * the CPU lacks is reported as not run.
 *
 *   kernel_check            check
 *   kernel_check --bench    times of the same calls
 *   kernel_check ISA...     only these
 */
#include "testlib.h"

#include "base/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LONGEST = 300, MOST_GROUPS = 19, MOST_GROUP = 128, RANKS = 5, BENCH_COLS = 4096, BENCH_RANK = 16 };

/* Every length while it is a few vectors, then some. */
static size_t next(size_t length)
{
	return length + (length < 130 ? 1 : 10);
}

static int failures;
static uint64_t seed = 7;

static void complain(const char *isa, const char *kernel, size_t n, size_t shift, const char *what)
{
	if (failures++ < 20)
		printf("FAIL %s %s, length %zu, misaligned by %zu: %s\n", isa, kernel, n, shift, what);
}

static void fill_random(void *dst, size_t n)
{
	unsigned char *p = dst;
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)tt_random(&seed);
}

/* Finite, of mixed magnitudes, with some zeros and subnormals. */
static float some_float(void)
{
	uint64_t r = tt_random(&seed);
	if (r % 37 == 0)
		return r & 64 ? 0.0f : -0.0f;
	if (r % 41 == 0)
		return tn_f32_from_bits((uint32_t)(r >> 32) & 0x807FFFFFu);
	return (float)((double)(int64_t)r / 9.2e18) * (float)(1 << (r % 7));
}

/* Room for `bytes` bytes that end at a guard page, with `shift` bytes of it left unused behind them: misaligned, and at
 * shift 0 a byte too far crashes. */
struct place {
	struct tt_guard guard;
	unsigned char *at;
	size_t bytes, shift;
};

static void place_make(struct place *p, size_t bytes, size_t shift)
{
	tt_guard_make(&p->guard, bytes + shift);
	p->at = p->guard.at_end;
	p->bytes = bytes;
	p->shift = shift;
	memset(p->guard.at_begin, 0xC3, (size_t)(p->guard.at_end - p->guard.at_begin));
	memset(p->at, 0xC3, bytes + shift);
}

/* 1 when a byte outside was written. */
static int place_overrun(const struct place *p)
{
	for (const unsigned char *q = p->guard.at_begin; q < p->at; q++)
		if (*q != 0xC3)
			return 1;
	for (size_t i = 0; i < p->shift; i++)
		if (p->at[p->bytes + i] != 0xC3)
			return 1;
	return 0;
}

static void place_free(struct place *p)
{
	tt_guard_free(&p->guard);
}

/* ---- low-rank sums --------------------------------------------------------------------------------------- */

struct lowrank_case {
	struct place a, b, got, want;
	size_t rank, cols, shift;
};

static void lowrank_make(struct lowrank_case *c, size_t rank, size_t cols, size_t shift, size_t element)
{
	c->rank = rank;
	c->cols = cols;
	c->shift = shift;
	place_make(&c->a, rank * cols * sizeof(float), shift);
	place_make(&c->b, rank * element, shift / element * element);
	place_make(&c->got, cols * element, shift / element * element);
	place_make(&c->want, cols * element, 0);
	for (size_t i = 0; i < rank * cols; i++) {
		float x = some_float();
		memcpy(c->a.at + i * sizeof x, &x, sizeof x);
	}
	for (size_t i = 0; i < rank; i++) {
		float x = some_float();
		double wide = (double)x * 1.000000123;
		memcpy(c->b.at + i * element, element == 4 ? (void *)&x : (void *)&wide, element);
	}
}

static void lowrank_judge(struct lowrank_case *c, const char *isa, const char *name)
{
	if (memcmp(c->got.at, c->want.at, c->got.bytes) != 0)
		complain(isa, name, c->cols, c->shift, "other bits than portable");
	if (place_overrun(&c->got))
		complain(isa, name, c->cols, c->shift, "it writes outside");
	place_free(&c->a);
	place_free(&c->b);
	place_free(&c->got);
	place_free(&c->want);
}

static const float *floats(const struct place *p)
{
	const void *at = p->at;
	return at;
}

static void check_lowrank(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	struct lowrank_case c;
	for (size_t cols = 0; cols <= LONGEST; cols = next(cols))
		for (size_t shift = 0; shift < 64; shift += cols % 3 ? 16 : 4) {
			size_t rank = (cols + shift) % RANKS;
			lowrank_make(&c, rank, cols, shift, sizeof(float));
			k->lowrank_f32((float *)(void *)c.got.at, floats(&c.a), floats(&c.b), rank, cols);
			portable->lowrank_f32((float *)(void *)c.want.at, floats(&c.a), floats(&c.b), rank, cols);
			lowrank_judge(&c, k->isa, "lowrank_f32");
			lowrank_make(&c, rank, cols, shift, sizeof(double));
			k->lowrank_f64((double *)(void *)c.got.at, floats(&c.a), (double *)(void *)c.b.at, rank, cols);
			portable->lowrank_f64((double *)(void *)c.want.at, floats(&c.a), (double *)(void *)c.b.at, rank, cols);
			lowrank_judge(&c, k->isa, "lowrank_f64");
		}
}

/* Portable against the definition, in order and without contraction. */
static void check_lowrank_definition(const struct tn_kernels *k)
{
	enum { RANK = 7, COLS = 133 };
	static float a[RANK * COLS], b[RANK], got[COLS];
	static double wide[RANK], got_wide[COLS];
	for (size_t i = 0; i < RANK * COLS; i++)
		a[i] = some_float();
	for (size_t i = 0; i < RANK; i++)
		wide[i] = (double)(b[i] = some_float());
	k->lowrank_f32(got, a, b, RANK, COLS);
	k->lowrank_f64(got_wide, a, wide, RANK, COLS);
	for (size_t j = 0; j < COLS; j++) {
		volatile float sum = 0;
		volatile double sum_wide = 0;
		for (size_t r = 0; r < RANK; r++) {
			volatile float product = b[r] * a[r * COLS + j];
			volatile double product_wide = wide[r] * (double)a[r * COLS + j];
			sum = sum + product;
			sum_wide = sum_wide + product_wide;
		}
		if (sum != got[j] || sum_wide != got_wide[j])
			complain(k->isa, "lowrank", COLS, 0, "not the sum that its comment defines");
	}
}

/* ---- dot and axpy ---------------------------------------------------------------------------------------- */

static void check_vectors(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	for (size_t n = 0; n <= LONGEST; n = next(n))
		for (size_t shift = 0; shift < 64; shift += 4) {
			struct place a, b, got, want;
			place_make(&a, n * sizeof(float), shift);
			place_make(&b, n * sizeof(float), 60 - shift);
			place_make(&got, n * sizeof(float), shift);
			place_make(&want, n * sizeof(float), 0);
			for (size_t i = 0; i < n; i++) {
				float x[3] = { some_float(), some_float(), some_float() };
				memcpy(a.at + i * sizeof *x, &x[0], sizeof *x);
				memcpy(b.at + i * sizeof *x, &x[1], sizeof *x);
				memcpy(got.at + i * sizeof *x, &x[2], sizeof *x);
				memcpy(want.at + i * sizeof *x, &x[2], sizeof *x);
			}
			float s = k->dot_f32(floats(&a), floats(&b), n), t = portable->dot_f32(floats(&a), floats(&b), n);
			if (memcmp(&s, &t, sizeof s) != 0)
				complain(k->isa, "dot_f32", n, shift, "other bits than portable");
			k->axpy_f32((float *)(void *)got.at, s, floats(&a), n);
			portable->axpy_f32((float *)(void *)want.at, s, floats(&a), n);
			if (memcmp(got.at, want.at, got.bytes) != 0 || place_overrun(&got))
				complain(k->isa, "axpy_f32", n, shift, "other bits than portable, or it writes outside");
			place_free(&a);
			place_free(&b);
			place_free(&got);
			place_free(&want);
		}
}

/* ---- codecs ---------------------------------------------------------------------------------------------- */

static const struct {
	tn_dtype dtype;
	int writes;
} dense_dtypes[] = {
	{ TN_F32, 1 }, { TN_F16, 1 }, { TN_BF16, 1 }, { TN_F64, 0 }, { TN_F8_E4M3, 0 }, { TN_F8_E5M2, 0 },
};

/* NaN is a class: which payload comes out is no promise. */
static int same_floats(const unsigned char *a, const unsigned char *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		float x, y;
		memcpy(&x, a + i * sizeof x, sizeof x);
		memcpy(&y, b + i * sizeof y, sizeof y);
		if (isnan(x) ? !isnan(y) : memcmp(&x, &y, sizeof x) != 0)
			return 0;
	}
	return 1;
}

static void check_dense_decode(const struct tn_kernels *k, const struct tn_kernels *portable, tn_dtype dtype, size_t n,
			       size_t shift)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct place src, got, want;
	place_make(&src, n * tn_dtype_bits(dtype) / 8, shift);
	place_make(&got, n * sizeof(float), shift * sizeof(float));
	place_make(&want, n * sizeof(float), 0);
	fill_random(src.at, src.bytes);
	struct tn_row row = { .part = { src.at } };
	k->codec[TN_CODEC_dense]->decode((float *)(void *)got.at, &row, &format, n);
	portable->codec[TN_CODEC_dense]->decode((float *)(void *)want.at, &row, &format, n);
	if (!same_floats(got.at, want.at, n))
		complain(k->isa, tn_dtype_name(dtype), n, shift, "decodes to other bits than portable");
	if (place_overrun(&got))
		complain(k->isa, tn_dtype_name(dtype), n, shift, "decode writes outside");
	place_free(&src);
	place_free(&got);
	place_free(&want);
}

static void check_dense_encode(const struct tn_kernels *k, const struct tn_kernels *portable, tn_dtype dtype, size_t n,
			       size_t shift)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct place src, got, want;
	place_make(&src, n * sizeof(float), shift * sizeof(float));
	place_make(&got, n * tn_dtype_bits(dtype) / 8, shift);
	place_make(&want, got.bytes, 0);
	fill_random(src.at, src.bytes);
	for (size_t i = 0; i < n; i++) {
		float x;
		memcpy(&x, src.at + i * sizeof x, sizeof x);
		x = isnan(x) || i % 2 ? some_float() : x;
		memcpy(src.at + i * sizeof x, &x, sizeof x);
	}
	struct tn_row_out a = { .part = { got.at } }, b = { .part = { want.at } };
	k->codec[TN_CODEC_dense]->encode(&a, floats(&src), &format, n);
	portable->codec[TN_CODEC_dense]->encode(&b, floats(&src), &format, n);
	if (memcmp(got.at, want.at, got.bytes) != 0)
		complain(k->isa, tn_dtype_name(dtype), n, shift, "encodes to other bits than portable");
	if (place_overrun(&got))
		complain(k->isa, tn_dtype_name(dtype), n, shift, "encode writes outside");
	place_free(&src);
	place_free(&got);
	place_free(&want);
}

static void check_dense(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	for (size_t d = 0; d < sizeof dense_dtypes / sizeof *dense_dtypes; d++)
		for (size_t n = 0; n <= LONGEST; n = next(n))
			for (size_t shift = 0; shift < 8; shift += n % 4 ? 3 : 1) {
				check_dense_decode(k, portable, dense_dtypes[d].dtype, n, shift);
				if (dense_dtypes[d].writes)
					check_dense_encode(k, portable, dense_dtypes[d].dtype, n, shift);
			}
}

/* All patterns at once, against base/half.h, which unit/test_half holds against the definition of each format; NaN keeps its bits
 * when it is decoded, for files of wider floats have them, and is one of its class when it is encoded. */
static void check_dense_values(const struct tn_kernels *k)
{
	static uint16_t patterns[65536], back[65536];
	static float values[65536];
	for (unsigned i = 0; i < 65536; i++)
		patterns[i] = (uint16_t)i;
	for (int bf16 = 0; bf16 < 2; bf16++) {
		struct tn_format format = { .codec = TN_CODEC_dense, .dtype = bf16 ? TN_BF16 : TN_F16 };
		struct tn_row row = { .part = { patterns } };
		struct tn_row_out out = { .part = { back } };
		k->codec[TN_CODEC_dense]->decode(values, &row, &format, 65536);
		k->codec[TN_CODEC_dense]->encode(&out, values, &format, 65536);
		for (unsigned i = 0; i < 65536; i++) {
			float want = bf16 ? tn_f32_from_bf16((uint16_t)i) : tn_f32_from_f16((uint16_t)i);
			unsigned nan = bf16 ? 0x7FC0 : (i & 0x8000u) | 0x7E00;
			if (tn_f32_bits(values[i]) != tn_f32_bits(want) || back[i] != (isnan(want) ? nan : i))
				complain(k->isa, tn_dtype_name(format.dtype), i, 0, "a pattern does not survive");
		}
	}
}

/* ---- quantized codecs ------------------------------------------------------------------------------------ */

struct row_places {
	struct place part[TN_PART_COUNT];
	struct tn_row in;
	struct tn_row_out out;
};

static void row_make(struct row_places *row, const struct tn_codec *codec, const struct tn_format *format, size_t cols,
		     size_t shift)
{
	memset(row, 0, sizeof *row);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t bytes = codec->part_bytes(format, p, cols);
		if (p == TN_PART_BIASES && !codec->has_biases)
			bytes = 0;
		place_make(&row->part[p], bytes, shift + p);
		row->in.part[p] = bytes || cols == 0 ? row->part[p].at : NULL;
		row->out.part[p] = bytes || cols == 0 ? row->part[p].at : NULL;
	}
}

static void row_free(struct row_places *row)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		place_free(&row->part[p]);
}

/* Any bytes decode, to the same values everywhere. */
static void check_row_decode(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *format,
			     size_t cols, size_t shift)
{
	const struct tn_codec *codec = k->codec[format->codec];
	struct row_places row;
	struct place got, want;
	row_make(&row, codec, format, cols, shift);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		fill_random(row.part[p].at, row.part[p].bytes);
	place_make(&got, cols * sizeof(float), shift * sizeof(float));
	place_make(&want, cols * sizeof(float), 0);
	codec->decode((float *)(void *)got.at, &row.in, format, cols);
	portable->codec[format->codec]->decode((float *)(void *)want.at, &row.in, format, cols);
	if (!same_floats(got.at, want.at, cols))
		complain(k->isa, codec->name, cols, shift, "decodes to other bits than portable");
	if (place_overrun(&got))
		complain(k->isa, codec->name, cols, shift, "decode writes outside");
	place_free(&got);
	place_free(&want);
	row_free(&row);
}

static void check_row_encode(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *format,
			     size_t cols, size_t shift)
{
	const struct tn_codec *codec = k->codec[format->codec];
	struct row_places got, want;
	struct place src;
	place_make(&src, cols * sizeof(float), shift * sizeof(float));
	for (size_t i = 0; i < cols; i++) {
		float x = some_float() * (i % 3 ? 1.0f : 1 / (float)(1 << i % 23)); /* small beside the largest, too */
		if (shift == 3 && i % 61 == 40) /* in some groups what is no number, or infinite */
			x = tn_f32_from_bits((uint32_t)tt_random(&seed) | 0x7F800000u);
		if (shift == 6 && i % 61 == 40)
			x = i % 2 ? INFINITY : -INFINITY;
		memcpy(src.at + i * sizeof x, &x, sizeof x);
	}
	row_make(&got, codec, format, cols, shift);
	row_make(&want, codec, format, cols, 0);
	codec->encode(&got.out, floats(&src), format, cols);
	portable->codec[format->codec]->encode(&want.out, floats(&src), format, cols);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		if (memcmp(got.part[p].at, want.part[p].at, got.part[p].bytes) != 0)
			complain(k->isa, codec->name, cols, shift, "encodes to other bits than portable");
		if (place_overrun(&got.part[p]))
			complain(k->isa, codec->name, cols, shift, "encode writes outside");
	}
	row_free(&got);
	row_free(&want);
	place_free(&src);
}

/* Codes moved by changes of all sizes: far beyond the grid, next to nothing, none, and no number. */
static void check_row_dither(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *format,
			     size_t cols, size_t shift)
{
	const struct tn_codec *codec = k->codec[format->codec];
	struct row_places row, got, want;
	struct tn_dither_counts got_counts = { 3, 4 }, want_counts = { 3, 4 };
	static float d[MOST_GROUPS * MOST_GROUP];
	row_make(&row, codec, format, cols, shift);
	row_make(&got, codec, format, cols, shift);
	row_make(&want, codec, format, cols, 0);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		fill_random(row.part[p].at, row.part[p].bytes);
	for (size_t i = 0; i < cols; i++)
		d[i] = i % 23 == 5 ? 0 : i % 29 == 7 ? NAN : some_float() * (i % 3 ? 1.0f : 1e-3f);
	codec->dither(got.part[0].at, &row.in, d, format, cols, seed, shift, &got_counts);
	portable->codec[format->codec]->dither(want.part[0].at, &row.in, d, format, cols, seed, shift, &want_counts);
	if (memcmp(got.part[0].at, want.part[0].at, got.part[0].bytes) != 0 || got_counts.moved != want_counts.moved ||
	    got_counts.clamped != want_counts.clamped || place_overrun(&got.part[0]))
		complain(k->isa, codec->name, cols, shift, "moves codes otherwise than portable, or writes outside");
	row_free(&row);
	row_free(&got);
	row_free(&want);
}

static void check_format(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *format)
{
	for (size_t groups = 0; groups <= MOST_GROUPS; groups += groups < 5 ? 1 : 7) /* some together have their grids made at once */
		for (size_t shift = 0; shift < 8; shift += 3) {
			if (!format->flavour)
				check_row_decode(k, portable, format, groups * format->group, shift);
			if (k->codec[format->codec]->encode && !format->like_mlx)
				check_row_encode(k, portable, format, groups * format->group, shift);
			if (k->codec[format->codec]->dither && !format->like_mlx && !format->flavour)
				check_row_dither(k, portable, format, groups * format->group, shift);
		}
}

/* Every codec of codecs.def with bits and groups of its own, in every form it has. */
static void check_quantized(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (int c = 0; c < TN_CODEC_COUNT; c++)
		for (int form = 0; form < 3 * 3 * 2 * 2; form++) {
			const struct tn_codec *codec = k->codec[c];
			struct tn_format format = { .codec = (enum tn_codec_id)c, .dtype = dtypes[form % 3],
						    .flavour = (uint8_t)(form / 3 % 3), .like_mlx = (uint8_t)(form / 9 % 2),
						    .has_global_scale = (uint8_t)(form / 18), .global_scale = 3.5f };
			if (format.has_global_scale && !codec->takes_global_scale)
				continue;
			for (int b = 0; b < 8 && codec->bits[b]; b++)
				for (int g = 0; g < 4 && codec->groups[g]; g++) {
					format.bits = codec->bits[b];
					format.group = codec->groups[g];
					check_format(k, portable, &format);
				}
		}
}

/* ---- which was chosen ------------------------------------------------------------------------------------ */

static void check_choice(const char *best)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx;
	if (tn_context_create(NULL, &ctx, NULL) != TN_OK || strcmp(tn_context_isa(ctx), best) != 0)
		complain(best, "choice", 0, 0, "it is the best that this CPU has, and another was chosen");
	tn_context_destroy(ctx);
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		options.isa = tn_kernels_isa_name(i);
		tn_status status = tn_context_create(&options, &ctx, NULL);
		if ((status == TN_OK) != (k != NULL))
			complain(options.isa, "choice", 0, 0, "usable by one way of asking and not by the other");
		if (status != TN_OK)
			continue;
		if (strcmp(tn_context_isa(ctx), options.isa) != 0 || strcmp(k->isa, options.isa) != 0)
			complain(options.isa, "choice", 0, 0, "another was given");
		tn_context_destroy(ctx);
	}
}

/* Every entry of a table belongs to it alone: a table that was silently left portable would pass every comparison. */
static void check_own_entries(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	if (k == portable)
		return;
#define KERNEL(ret, name, args)                 \
	if (!k->name || k->name == portable->name) \
		complain(k->isa, #name, 0, 0, "the entry is portable's");
#include "kernels/kernels.def"
#undef KERNEL
	for (int i = 0; i < TN_CODEC_COUNT; i++)
		if (!k->codec[i] || k->codec[i] == portable->codec[i])
			complain(k->isa, portable->codec[i]->name, 0, 0, "the codec is portable's");
}

/* ---- times ----------------------------------------------------------------------------------------------- */

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static float bench_a[BENCH_RANK * BENCH_COLS], bench_b[BENCH_RANK], bench_dst[BENCH_COLS];
static double bench_wide[BENCH_RANK], bench_dst_wide[BENCH_COLS];
static uint64_t bench_raw[BENCH_COLS];

#define BENCH(isa, name, call)                                                                                 \
	do {                                                                                                   \
		size_t rounds_ = 0;                                                                            \
		double begun_ = seconds(), took_;                                                              \
		do {                                                                                           \
			for (int i_ = 0; i_ < 50; i_++)                                                        \
				call;                                                                          \
			rounds_ += 50;                                                                         \
			took_ = seconds() - begun_;                                                            \
		} while (took_ < 0.05);                                                                        \
		printf("%-10s %-16s %9.1f ns for %d columns\n", isa, name, took_ / (double)rounds_ * 1e9, BENCH_COLS); \
	} while (0)

static void bench(const struct tn_kernels *k)
{
	for (size_t i = 0; i < BENCH_RANK * BENCH_COLS; i++)
		bench_a[i] = some_float();
	for (size_t i = 0; i < BENCH_RANK; i++)
		bench_wide[i] = (double)(bench_b[i] = some_float());
	BENCH(k->isa, "lowrank_f32 r16", k->lowrank_f32(bench_dst, bench_a, bench_b, BENCH_RANK, BENCH_COLS));
	BENCH(k->isa, "lowrank_f64 r16", k->lowrank_f64(bench_dst_wide, bench_a, bench_wide, BENCH_RANK, BENCH_COLS));
	for (size_t d = 0; d < sizeof dense_dtypes / sizeof *dense_dtypes; d++) {
		struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dense_dtypes[d].dtype };
		struct tn_row row = { .part = { bench_raw } };
		struct tn_row_out out = { .part = { bench_raw } };
		char name[40];
		snprintf(name, sizeof name, "decode %s", tn_dtype_name(format.dtype));
		BENCH(k->isa, name, k->codec[TN_CODEC_dense]->decode(bench_dst, &row, &format, BENCH_COLS));
		if (!dense_dtypes[d].writes)
			continue;
		snprintf(name, sizeof name, "encode %s", tn_dtype_name(format.dtype));
		BENCH(k->isa, name, k->codec[TN_CODEC_dense]->encode(&out, bench_a, &format, BENCH_COLS));
	}
}

int main(int argc, char **argv)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	const char *best = "portable";
	int timing = argc > 1 && strcmp(argv[1], "--bench") == 0;
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const char *isa = tn_kernels_isa_name(i);
		const struct tn_kernels *k = tn_kernels_for(isa);
		best = k ? isa : best;
		if (!tt_is_chosen(argc, argv, isa))
			continue;
		if (!k) {
			printf("NOT RUN %s: this CPU cannot\n", isa);
			continue;
		}
		if (timing) {
			bench(k);
			continue;
		}
		check_own_entries(k, portable);
		check_lowrank(k, portable);
		check_lowrank_definition(k);
		check_dense(k, portable);
		check_dense_values(k);
		check_vectors(k, portable);
		check_quantized(k, portable);
		printf("checked %s\n", isa);
	}
	if (!timing)
		check_choice(best);
	return failures != 0;
}
