/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of 4 bits times many activations. A strip of rows is unpacked once, a chunk of columns at a time, with its rows in the
 * lanes of vectors; then every x meets it: four or two neighbours of x, the same in all lanes, times those of each row. Sums of a
 * group stay in registers and are scaled once, in float32, so that a tile takes nothing from memory but x and codes that are near.
 *
 * Here x in planes of 8 bits (planes.c prepares them); strips_bf16.c does the same in pairs of BF16, strips_crossed.c with fewer
 * multiplications. */
#include "kernels/x86/strips.h"

/* ---- scales ---------------------------------------------------------------------------------------------- */

/* Those of groups g to g + LANES of a strip's rows, rows in lanes; bias NULL: none, else of integers 2 w + 12 where it is_float. */
TN_INLINE void turn_scales(float (*scale)[STRIP], float (*bias)[STRIP], const struct source *s, const struct tn_format *f, size_t g,
			   size_t groups, const enum scale_kind kind)
{
	const int is_float = kind == SCALE_E8M0 || kind == SCALE_E4M3;
	const floats factor = SPREAD(scale_factor(f));
	for (size_t half = 0; half < 2; half++) {
		ints v[LANES], u[LANES];
		for (size_t i = 0; i < LANES; i++) {
			size_t row = half * LANES + i;
			floats x = load_scales(row_of(s, row, TN_PART_SCALES), g, groups, kind), b = x;
			if (kind == SCALE_E4M3)
				x = MUL(x, factor);
			if (is_float && bias) {
				b = MUL(x, SPREAD(-6));
				x = MUL(x, SPREAD(0.5f));
			} else if (bias) {
				b = load_scales(row_of(s, row, TN_PART_BIASES), g, groups, kind);
			}
			v[i] = AS_INTS(x);
			u[i] = AS_INTS(b);
		}
		turn(v);
		for (size_t i = 0; i < LANES; i++)
			STORE_INTS(scale[i] + half * LANES, v[i]);
		if (!bias)
			continue;
		turn(u);
		for (size_t i = 0; i < LANES; i++)
			STORE_INTS(bias[i] + half * LANES, u[i]);
	}
}

static void fill_scales(float (*scale)[STRIP], float (*bias)[STRIP], const struct source *s, const struct tn_format *f, size_t g,
			size_t groups)
{
	for (size_t end = g + SCALED < groups ? g + SCALED : groups; g < end; g += LANES, scale += LANES, bias += bias ? LANES : 0)
		switch (kind_of(f)) {
		case SCALE_F32: turn_scales(scale, bias, s, f, g, groups, SCALE_F32); break;
		case SCALE_F16: turn_scales(scale, bias, s, f, g, groups, SCALE_F16); break;
		case SCALE_BF16: turn_scales(scale, bias, s, f, g, groups, SCALE_BF16); break;
		case SCALE_E8M0: turn_scales(scale, bias, s, f, g, groups, SCALE_E8M0); break;
		default: turn_scales(scale, bias, s, f, g, groups, SCALE_E4M3); break;
		}
}

/* ---- codes ----------------------------------------------------------------------------------------------- */

/* As bytes: [dword][even, odd][half][LANES] lanes of four codes. */
static void unpack_bytes(unsigned char *codes, const ints *turned, size_t dword, size_t half, const struct tn_format *f)
{
	const int is_float = f->codec != TN_CODEC_affine;
	const ints table = load_e2m1_table();
	unsigned char *to = codes + dword * 4 * STEP_BYTES + half * STEP_BYTES;
	for (size_t i = 0; i < LANES; i++, to += 4 * STEP_BYTES) {
		ints even = AND(turned[i], SPREAD_BYTE(15)), odd = HIGH_NIBBLES(turned[i]);
		STORE_INTS(to, is_float ? LOOK_UP(table, even) : even);
		STORE_INTS(to + 2 * STEP_BYTES, is_float ? LOOK_UP(table, odd) : odd);
	}
}

/* The chunk that begins at column `first`. What comes next in each row is asked for meanwhile. */
static void unpack(const struct strip_form *form, unsigned char *codes, const struct source *s, const struct tn_product *p,
		   size_t first)
{
	const size_t row_bytes = p->cols / 2, begin = first / 2,
		     end = begin + CHUNK / 2 < row_bytes ? begin + CHUNK / 2 : row_bytes;
	for (size_t half = 0; half < 2; half++) {
		const unsigned char *row[LANES];
		for (size_t i = 0; i < LANES; i++) {
			row[i] = row_of(s, half * LANES + i, TN_PART_WEIGHT);
			for (size_t line = 0; line < CHUNK / 2; line += 64)
				_mm_prefetch((const char *)row[i] + begin + CHUNK / 2 + line, _MM_HINT_T1);
		}
		for (size_t at = begin, dword = 0; at < end; at += STEP_BYTES, dword += LANES) {
			ints v[LANES];
			TN_UNROLL(16)
			for (size_t i = 0; i < LANES; i++)
				v[i] = load_codes(row[i], at, row_bytes);
			turn(v);
			form->unpack(codes, v, dword, half, p->format);
		}
	}
}

/* ---- the activations ------------------------------------------------------------------------------------- */

/* A chunk of one x: bytes [step][plane][even, odd][STEP_BYTES], and of each group there the scale, and then the sum. The chunks
 * of all x stand one behind the other. */
TN_INLINE size_t x_bytes(const struct tn_product *p)
{
	return planes_of(p) * CHUNK + (2 * (CHUNK / p->format->group) * sizeof(float) + 63) / 64 * 64;
}

static size_t bytes_of_x(const struct tn_product *p)
{
	return chunks_of(p) * p->m * x_bytes(p);
}

/* The largest whole number for an x: sums of a group's codes times x fit 32 bits. Of a usual group of 64 that leaves 22 bits. */
static float most_of_group(const struct tn_product *p)
{
	const int32_t most = INT32_MAX / (p->format->group * (p->format->codec == TN_CODEC_affine ? 15 : 24));
	return (float)most < most_in(planes_of(p)) ? (float)most : most_in(planes_of(p));
}

TN_INLINE void prepare_as(unsigned char *dst, const struct tn_product *p, const float *x, const unsigned planes)
{
	const size_t group = p->format->group, in_chunk = CHUNK / group;
	const float most = most_of_group(p);
	for (size_t i = 0; i < p->cols; i += CHUNK, dst += p->m * x_bytes(p)) {
		const size_t n = p->cols - i < CHUNK ? p->cols - i : CHUNK;
		float *scales = (float *)(void *)(dst + planes * CHUNK);
		if (n < CHUNK)
			memset(dst, 0, x_bytes(p));
		for (size_t g = 0; g < n / group; g++)
			scales[g] = cut_group((int8_t *)dst, x + i, g * group, group, planes, 8, 8, most, &scales[in_chunk + g]);
	}
}

static void prepare_bytes(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	const float *x = v->x + v->first * v->stride;
	dst += v->first * x_bytes(p);
	for (size_t t = 0; t < v->count; t++, dst += x_bytes(p), x += v->stride)
		switch (planes_of(p)) {
		case 1: prepare_as(dst, p, x, 1); break;
		case 2: prepare_as(dst, p, x, 2); break;
		default: prepare_as(dst, p, x, 3); break;
		}
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* Sums of six x fit the 16 registers of AVX2 where a product needs no other ones. */
#if defined(__AVX512F__) || defined(TN_BYTE_DOTS)
enum { TILE = 6 };
#else
enum { TILE = 3 };
#endif

TN_INLINE ints four_bytes(const int8_t *x)
{
	int32_t four;
	memcpy(&four, x, sizeof four);
	return SPREAD_INT(four);
}

/* sum += codes of `dwords` times those of each x. */
TN_INLINE void add_dwords(ints sum[][2], const unsigned char *codes, const int8_t *const *x, size_t offset, size_t dwords,
			  const int many, int is_float)
{
#if defined(TN_BYTE_DOTS)
	(void)is_float;
	for (size_t d = 0; d < dwords; d++, codes += 4 * STEP_BYTES, offset += 4)
		TN_UNROLL(2)
		for (int odd = 0; odd < 2; odd++) {
			ints a = LOAD_INTS(codes + 2 * odd * STEP_BYTES), b = LOAD_INTS(codes + (2 * odd + 1) * STEP_BYTES);
			TN_UNROLL(6)
			for (int t = 0; t < many; t++) {
				ints v = four_bytes(x[t] + offset + odd * STEP_BYTES);
				sum[t][0] = DOT_BYTES(sum[t][0], a, v);
				sum[t][1] = DOT_BYTES(sum[t][1], b, v);
			}
		}
#else
	/* Words hold two products of 15 and 128 eight times, of 24 and 128 five times. */
	const size_t safe = is_float ? 2 : 4;
	for (size_t d = 0; d < dwords;) {
		ints words[TILE][2];
		TN_UNROLL(6)
		for (int t = 0; t < many; t++)
			words[t][0] = words[t][1] = ZERO_INTS();
		for (size_t end = d + safe < dwords ? d + safe : dwords; d < end; d++, codes += 4 * STEP_BYTES, offset += 4)
			TN_UNROLL(2)
			for (int odd = 0; odd < 2; odd++) {
				ints a = LOAD_INTS(codes + 2 * odd * STEP_BYTES), b = LOAD_INTS(codes + (2 * odd + 1) * STEP_BYTES);
				TN_UNROLL(6)
				for (int t = 0; t < many; t++) {
					ints v = four_bytes(x[t] + offset + odd * STEP_BYTES);
					words[t][0] = ADD_WORDS(words[t][0], MUL_BYTES(a, v));
					words[t][1] = ADD_WORDS(words[t][1], MUL_BYTES(b, v));
				}
			}
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			sum[t][0] = ADD_INTS(sum[t][0], ADD_PAIRS(words[t][0], 1));
			sum[t][1] = ADD_INTS(sum[t][1], ADD_PAIRS(words[t][1], 1));
		}
	}
#endif
}

/* Group g of the chunk: the planes of each x from the highest on, 256 times what is there together with the next. What comes
 * out is a whole number of 32 bits (prepare_bytes), and becomes float32 once. */
TN_INLINE void add_group(floats total[][2], const struct strip_chunk *c, size_t g, const int8_t *const *x,
			 const float *const *factor, const unsigned planes, const int many, int is_float)
{
	const size_t run = c->dwords < LANES ? c->dwords : LANES, begin = g * c->dwords, in_chunk = CHUNK / 8 / c->dwords;
	const size_t ahead = (size_t)many * x_bytes(c->p);
	ints sum[TILE][2] = { { ZERO_INTS() } };
	for (unsigned plane = 0; plane < planes; plane++) {
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			sum[t][0] = plane ? TIMES_256(sum[t][0]) : ZERO_INTS();
			sum[t][1] = plane ? TIMES_256(sum[t][1]) : ZERO_INTS();
		}
		TN_UNROLL(6)
		for (int t = 0; t < many; t++)
			ask_for(x[t] + ahead + (g * planes + plane) * c->dwords * 8, c->dwords * 8);
		for (size_t d = 0; d < c->dwords; d += run)
			add_dwords(sum, c->codes + (begin + d) * 4 * STEP_BYTES, x,
				   ((begin + d) / LANES * planes + plane) * 2 * STEP_BYTES + (begin + d) % LANES * 4, run, many,
				   is_float);
	}
	const float *scale = c->scale[g], *bias = c->bias[g];
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		floats f = SPREAD(factor[t][g]), x_sum = SPREAD(factor[t][in_chunk + g]);
		total[t][0] = FMA(TO_FLOATS(sum[t][0]), MUL(LOAD_FLOATS(scale), f), total[t][0]);
		total[t][1] = FMA(TO_FLOATS(sum[t][1]), MUL(LOAD_FLOATS(scale + LANES), f), total[t][1]);
		total[t][0] = FMA(LOAD_FLOATS(bias), x_sum, total[t][0]);
		total[t][1] = FMA(LOAD_FLOATS(bias + LANES), x_sum, total[t][1]);
	}
}

/* The strip with `many` x from x number `t0` on. */
TN_INLINE void tile(const struct strip_chunk *c, size_t t0, const unsigned planes, const int many)
{
	const int is_float = c->p->format->codec != TN_CODEC_affine;
	const size_t bytes = x_bytes(c->p);
	const unsigned char *first = c->prepared + (c->chunk * c->p->m + c->first_x + t0) * bytes;
	float(*to)[STRIP] = c->total + t0;
	const int8_t *x[TILE];
	const float *factor[TILE];
	floats total[TILE][2];
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		x[t] = (const int8_t *)first + (size_t)t * bytes;
		factor[t] = (const float *)(const void *)(x[t] + planes * CHUNK);
		total[t][0] = LOAD_FLOATS(to[t]);
		total[t][1] = LOAD_FLOATS(to[t] + LANES);
	}
	for (size_t g = 0; g < c->count; g++)
		add_group(total, c, g, x, factor, planes, many, is_float);
	TN_UNROLL(6)
	for (int t = 0; t < many; t++) {
		STORE_FLOATS(to[t], total[t][0]);
		STORE_FLOATS(to[t] + LANES, total[t][1]);
	}
}

TN_INLINE void tiles(const struct strip_chunk *c, size_t x_count, const unsigned planes)
{
	for (size_t t = 0, left = (x_count + TILE - 1) / TILE, many; t < x_count; t += many, left--) {
		many = (x_count - t + left - 1) / left; /* tiles of the same size, nearly: small ones wait for their sums */
		switch (many) {
		case 1: tile(c, t, planes, 1); break;
		case 2: tile(c, t, planes, 2); break;
		case 3: tile(c, t, planes, 3); break;
#if defined(__AVX512F__) || defined(TN_BYTE_DOTS)
		case 4: tile(c, t, planes, 4); break;
		case 5: tile(c, t, planes, 5); break;
		default: tile(c, t, planes, 6); break;
#endif
		}
	}
}

static void multiply_bytes(const struct strip_chunk *c, size_t x_count)
{
	switch (planes_of(c->p)) {
	case 1: tiles(c, x_count, 1); break;
	case 2: tiles(c, x_count, 2); break;
	default: tiles(c, x_count, 3); break;
	}
}

static const struct strip_form of_bytes = {
	.bytes = bytes_of_x, .prepare = prepare_bytes, .unpack = unpack_bytes, .multiply = multiply_bytes,
};

/* ---- all of it ------------------------------------------------------------------------------------------- */

/* Pairs where one plane of them is enough for what integers take two or three for. Measured. */
static const struct strip_form *form_of(const struct tn_product *p)
{
	(void)p;
#if defined(TN_FAST_PAIRS)
	if (p->x_dtype == TN_BF16 && p->precision != TN_PRECISION_INT8)
		return &TN_ISA_NAME(tn_strips_of_pairs);
	if (p->precision == TN_PRECISION_EXACT)
		return &TN_ISA_NAME(tn_strips_crossed);
#endif
	return &of_bytes;
}

/* Measured. */
static size_t fewest_of_bytes(const struct tn_product *p)
{
#if defined(__AVXVNNI__)
	(void)p;
	return 4;
#else
	return p->precision == TN_PRECISION_EXACT ? 12 : 6;
#endif
}

size_t TN_ISA_NAME(tn_strips_fewest)(const struct tn_product *p)
{
	const struct strip_form *form = form_of(p);
	return form == &of_bytes ? fewest_of_bytes(p) : form->fewest;
}

size_t TN_ISA_NAME(tn_strips_bytes)(const struct tn_product *p)
{
	return form_of(p)->bytes(p);
}

void TN_ISA_NAME(tn_strips_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v)
{
	form_of(p)->prepare(dst, p, v);
}

size_t TN_ISA_NAME(tn_strips_scratch)(const struct tn_product *p)
{
	return sizeof(struct strip_scratch) + STRIPS * (p->m < TOKENS ? p->m : TOKENS) * sizeof(float[STRIP]);
}

static void store_totals(float *y, size_t y_stride, float (*total)[STRIP], size_t rows, size_t x_count)
{
	for (size_t t = 0; t < x_count; t++, y += y_stride) {
		if (rows < STRIP) {
			memcpy(y, total[t], rows * sizeof *y);
			continue;
		}
		STORE_FLOATS(y, LOAD_FLOATS(total[t]));
		STORE_FLOATS(y + LANES, LOAD_FLOATS(total[t] + LANES));
	}
}

/* At most BLOCK rows with at most TOKENS x, from x number first_x on. Columns outside, so that a chunk of x stays near while
 * the strips go by. */
static void multiply_block(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *prepared,
			   const struct source *rows, size_t first_x, size_t x_count, struct strip_scratch *scratch)
{
	const struct tn_format *f = p->format;
	const size_t groups = p->cols / f->group, in_chunk = CHUNK / f->group;
	const struct strip_form *form = form_of(p);
	const int has_bias = f->codec == TN_CODEC_affine || !form->codes_are_floats;
	memset(scratch->total, 0, STRIPS * x_count * sizeof *scratch->total);
	for (size_t chunk = 0, g = 0; g < groups; chunk++, g += in_chunk)
		for (size_t s = 0; s * STRIP < rows->rows; s++) {
			struct source strip = { rows->w, rows->first + s * STRIP, rows->rows - s * STRIP };
			float(*scale)[STRIP] = scratch->scale[s], (*bias)[STRIP] = has_bias ? scratch->bias[s] : NULL;
			if (g % SCALED == 0)
				fill_scales(scale, bias, &strip, f, g, groups);
			unpack(form, scratch->codes, &strip, p, chunk * CHUNK);
			struct strip_chunk c = {
				.p = p, .prepared = prepared, .codes = scratch->codes,
				.scale = (const float(*)[STRIP])scale + g % SCALED, .chunk = chunk,
				.bias = has_bias ? (const float(*)[STRIP])bias + g % SCALED : NULL, .first_group = g,
				.count = groups - g < in_chunk ? groups - g : in_chunk, .dwords = f->group / 8u,
				.first_x = first_x, .total = scratch->total + s * x_count,
			};
			form->multiply(&c, x_count);
		}
	for (size_t s = 0; s * STRIP < rows->rows; s++)
		store_totals(y + s * STRIP, y_stride, scratch->total + s * x_count, rows->rows - s * STRIP, x_count);
}

void TN_ISA_NAME(tn_strips_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *prepared,
				 const struct tn_rows *w, size_t rows, void *scratch)
{
	for (size_t i = 0; i < rows; i += BLOCK)
		for (size_t t = 0; t < p->m; t += TOKENS) {
			struct source block = { w, i, rows - i < BLOCK ? rows - i : BLOCK };
			multiply_block(y + t * y_stride + i, y_stride, p, prepared, &block, t,
				       p->m - t < TOKENS ? p->m - t : TOKENS, scratch);
		}
}
