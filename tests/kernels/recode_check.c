/* SPDX-License-Identifier: Apache-2.0 */
/* Rows from one format into another, by every instruction set that this CPU can run: the bytes that `portable` makes by way of
 * float32, near and past the caches, inside guard pages. */
#include "testlib.h"

#include "base/half.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, MOST_GROUPS = 70, MOST_COLS = MOST_GROUPS * 128 };

static int failures;
static uint64_t seed = 11;

static void complain(const struct tn_kernels *k, const struct tn_recoding *how, const char *what)
{
	if (failures++ < 20)
		printf("FAIL %s: %s (%s, %u bits, group %u, like_mlx %d) to %s (%s, %u bits, group %u), %zu columns, far %d: %s\n", k->isa,
		       k->codec[how->from->codec]->name, tn_dtype_name(how->from->dtype), how->from->bits, how->from->group,
		       how->from->like_mlx, k->codec[how->to->codec]->name, tn_dtype_name(how->to->dtype), how->to->bits,
		       how->to->group, how->cols, how->is_far, what);
}

/* ---- numbers ---------------------------------------------------------------------------------------------- */

/* Kinds of groups: any bits; weights; many ties; tiny; with one outlier; one number again and again; no number below 0; zeros. */
enum { KINDS = 8 };

static float some_weight(void)
{
	return ((float)(int32_t)tt_random(&seed) + (float)(int32_t)tt_random(&seed)) * 0x1p-36f;
}

static uint16_t some_half(int kind, size_t i, tn_dtype dtype)
{
	float x = some_weight();
	switch (kind) {
	case 0: return (uint16_t)tt_random(&seed);
	case 2: x = (float)((int)(tt_random(&seed) % 129) - 64) * 0.125f; break;
	case 3: x *= 0x1p-18f; break;
	case 4: x *= i % 13 == 5 ? 1000.0f : 1.0f; break;
	case 5: x = -0.37f; break;
	case 6: x = x < 0 ? -x : x; break;
	case 7: x = tt_random(&seed) % 2 ? 0.0f : -0.0f; break;
	default: break;
	}
	return dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
}

static void fill_halves(unsigned char *dst, size_t n, size_t group, tn_dtype dtype)
{
	int kind = 1;
	for (size_t i = 0; i < n; i++) {
		if (i % group == 0)
			kind = (int)(tt_random(&seed) % KINDS);
		uint16_t h = some_half(kind, i, dtype);
		memcpy(dst + 2 * i, &h, sizeof h);
	}
}

static void fill_random(unsigned char *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = (unsigned char)tt_random(&seed);
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

/* Rows of one format; `shift` bytes stay free between the last part's end and a guard page. */
struct matrix {
	struct tt_guard guard[TN_PART_COUNT];
	size_t bytes[TN_PART_COUNT], all[TN_PART_COUNT];
	struct tn_rows in;
	struct tn_rows_out out;
};

static void matrix_make(struct matrix *m, const struct tn_codec *codec, const struct tn_format *f, size_t cols, size_t shift)
{
	memset(m, 0, sizeof *m);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		m->bytes[p] = p == TN_PART_BIASES && !codec->has_biases ? 0 : codec->part_bytes(f, p, cols);
		m->all[p] = ROWS * m->bytes[p];
		tt_guard_make(&m->guard[p], m->all[p] + shift);
		if (!m->all[p])
			continue;
		memset(m->guard[p].at_end, 0xC3, m->all[p] + shift);
		m->in.first.part[p] = m->out.first.part[p] = m->guard[p].at_end;
		m->in.stride[p] = m->out.stride[p] = m->bytes[p];
	}
}

static void matrix_free(struct matrix *m)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		tt_guard_free(&m->guard[p]);
}

static void fill(struct matrix *m, const struct tn_recoding *how)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (how->from->codec == TN_CODEC_dense && m->all[p])
			fill_halves(m->guard[p].at_end, m->all[p] / 2, how->to->group, how->from->dtype);
		else
			fill_random(m->guard[p].at_end, m->all[p]);
}

/* Scales and biases as files have them, in half of the groups: weights, not any bits. Or in all of them, biases then multiples of
 * their scales, but for a few that are 0 with a sign, or anything. */
static void tame(struct matrix *m, const struct tn_format *f)
{
	const int all = (int)(tt_random(&seed) % 2);
	for (unsigned p = TN_PART_SCALES; p < TN_PART_COUNT && f->codec == TN_CODEC_affine && f->dtype != TN_F32; p++)
		for (size_t i = 0; i < m->all[p] / 2; i += all ? 1 : 2) {
			uint16_t h = some_half(1, i, f->dtype), scale;
			memcpy(&scale, m->guard[TN_PART_SCALES].at_end + 2 * i, sizeof scale);
			if (all && p == TN_PART_BIASES && tt_random(&seed) % 32) {
				float x = f->dtype == TN_BF16 ? tn_f32_from_bf16(scale) : tn_f32_from_f16(scale);
				x *= -(float)(tt_random(&seed) % 255);
				h = f->dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
			}
			memcpy(m->guard[p].at_end + 2 * i, &h, sizeof h);
		}
}

/* The sign of a NaN that becomes F16 is nobody's: decoders do not promise it. */
static int same_bytes(const unsigned char *a, const unsigned char *b, size_t n, int is_f16)
{
	for (size_t i = 0; is_f16 && i < n; i += 2)
		if (a[i] != b[i] || (a[i + 1] & 0x7F) != (b[i + 1] & 0x7F) || (a[i + 1] != b[i + 1] && ((a[i + 1] & 0x7F) != 0x7E || a[i])))
			return 0;
	return is_f16 || memcmp(a, b, n) == 0;
}

static void check(const struct tn_kernels *k, const struct tn_format *from, const struct tn_format *to, size_t cols, size_t shift,
		  int is_far)
{
	static float values[MOST_COLS];
	const struct tn_kernels *portable = tn_kernels_for("portable");
	const struct tn_recoding how = { from, to, ROWS, cols, is_far, values };
	struct matrix src, got, want;
	matrix_make(&src, k->codec[from->codec], from, cols, shift);
	matrix_make(&got, k->codec[to->codec], to, cols, shift);
	matrix_make(&want, k->codec[to->codec], to, cols, 0);
	fill(&src, &how);
	tame(&src, from);
	k->recode_rows(&got.out, &src.in, &how);
	portable->recode_rows(&want.out, &src.in, &how);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		int is_f16 = to->codec == TN_CODEC_dense && to->dtype == TN_F16;
		if (got.all[p] && !same_bytes(got.guard[p].at_end, want.guard[p].at_end, got.all[p], is_f16))
			complain(k, &how, "other bytes than portable");
		for (size_t i = 0; got.all[p] && i < shift; i++)
			if (got.guard[p].at_end[got.all[p] + i] != 0xC3)
				complain(k, &how, "writes outside");
	}
	matrix_free(&src);
	matrix_free(&got);
	matrix_free(&want);
}

/* Both ways between dense rows and a format. Results of 64 columns and more that end at a page begin at a line too. */
static void check_format(const struct tn_kernels *k, const struct tn_format *f)
{
	static const size_t counts[] = { 0, 1, 3, 4, 7, 16, 33, 67 };
	for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
		for (int bf16 = 0; bf16 < 2; bf16++) {
			struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = bf16 ? TN_BF16 : TN_F16 };
			size_t cols = counts[c] * f->group, shift = c % 3;
			if (!f->flavour)
				check(k, f, &dense, cols, c % 2 ? 0 : shift, (int)(c % 2));
			if (!f->like_mlx)
				check(k, &dense, f, cols, shift, 0);
		}
}

/* E2M1 with every scale, NaN too, into E4M3, which keeps the sign of a NaN. */
static void check_codes(const struct tn_kernels *k)
{
	static const struct tn_format to = { .codec = TN_CODEC_mxfp8, .dtype = TN_F32, .bits = 8, .group = 32 };
	for (int form = 0; form < 4; form++) {
		const enum tn_codec_id id = form % 2 ? TN_CODEC_nvfp4 : TN_CODEC_mxfp4;
		const struct tn_format from = { .codec = id, .dtype = TN_BF16, .bits = 4, .group = k->codec[id]->groups[0],
						.like_mlx = (uint8_t)(form / 2) };
		for (size_t cols = 32; cols < 4000; cols += 992)
			check(k, &from, &to, cols, 1, 0);
	}
}

static void check_formats(const struct tn_kernels *k)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (int c = 0; c < TN_CODEC_COUNT; c++)
		for (int form = 0; form < 3 * 2 * 2 * 2; form++) {
			const struct tn_codec *codec = k->codec[c];
			struct tn_format f = { .codec = (enum tn_codec_id)c, .dtype = dtypes[form % 3], .flavour = (uint8_t)(form / 3 % 2),
					       .like_mlx = (uint8_t)(form / 6 % 2), .has_global_scale = (uint8_t)(form / 12),
					       .global_scale = 3.5f };
			if (f.has_global_scale && !codec->takes_global_scale)
				continue;
			for (int b = 0; b < 8 && codec->bits[b]; b++)
				for (int g = 0; g < 4 && codec->groups[g]; g++) {
					f.bits = codec->bits[b];
					f.group = codec->groups[g];
					check_format(k, &f);
				}
		}
}

/* Groups with every possible largest magnitude, for codecs that make their scale of it. */
static void check_tops(const struct tn_kernels *k, enum tn_codec_id id)
{
	static uint16_t halves[ROWS * 4096];
	static unsigned char codes[2][ROWS * 4096], scales[2][ROWS * 4096];
	static float values[4096];
	const struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = TN_BF16 };
	const struct tn_format f = { .codec = id, .dtype = TN_BF16, .bits = k->codec[id]->bits[0], .group = k->codec[id]->groups[0] };
	const struct tn_recoding how = { &dense, &f, ROWS, 4096, 0, values };
	const struct tn_rows src = { { { halves } }, { 4096 * sizeof *halves } };
	size_t cols[TN_PART_COUNT] = { k->codec[id]->part_bytes(&f, 0, 4096), k->codec[id]->part_bytes(&f, 1, 4096) };
	for (unsigned top = 0; top < 0x8000;) {
		for (size_t i = 0; i < ROWS * 4096; i++) {
			unsigned below = top < 700 ? top : i % 7 ? 700 : top;
			unsigned size = i % f.group == 0 ? top : top - (unsigned)(tt_random(&seed) % (below + 1));
			halves[i] = (uint16_t)(size | (tt_random(&seed) & 0x8000));
			top += i % f.group == f.group - 1u;
			top = top < 0x8000 ? top : 0x8000;
		}
		for (int n = 0; n < 2; n++) {
			struct tn_rows_out dst = { { { codes[n], scales[n] } }, { cols[0], cols[1] } };
			(n ? tn_kernels_for("portable") : k)->recode_rows(&dst, &src, &how);
		}
		if (memcmp(codes[0], codes[1], sizeof codes[0]) != 0 || memcmp(scales[0], scales[1], sizeof scales[0]) != 0)
			complain(k, &how, "groups of some largest magnitude have other bytes than portable");
	}
}

/* Byte by byte the values of all scales, where they are bytes. */
static void check_scales(const struct tn_kernels *k, enum tn_codec_id id)
{
	static unsigned char codes[256 * 32], scales[256];
	static uint16_t halves[2][256 * 32];
	static float values[256 * 32];
	const struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = TN_BF16 };
	const struct tn_format f = { .codec = id, .dtype = TN_BF16, .bits = k->codec[id]->bits[0], .group = k->codec[id]->groups[0] };
	const struct tn_recoding how = { &f, &dense, 1, 256u * f.group, 0, values };
	const struct tn_rows src = { { { codes, scales } }, { 0 } };
	for (int turn = 0; turn < 64; turn++) {
		for (unsigned i = 0; i < 256; i++)
			scales[i] = (unsigned char)i;
		for (size_t i = 0; i < sizeof codes; i++)
			codes[i] = (unsigned char)(i + (unsigned)turn * 41);
		for (int n = 0; n < 2; n++) {
			struct tn_rows_out dst = { { { halves[n] } }, { 0 } };
			(n ? tn_kernels_for("portable") : k)->recode_rows(&dst, &src, &how);
		}
		if (memcmp(halves[0], halves[1], sizeof halves[0]) != 0)
			complain(k, &how, "values of some scale have other bytes than portable");
	}
}

int main(void)
{
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!k) {
			printf("%s: not run, this CPU lacks it\n", tn_kernels_isa_name(i));
			continue;
		}
		check_formats(k);
		check_codes(k);
		for (int c = 0; c < TN_CODEC_COUNT; c++)
			if (k->codec[c]->byte_scales) {
				check_tops(k, (enum tn_codec_id)c);
				check_scales(k, (enum tn_codec_id)c);
			}
		printf("%s: %d failures\n", k->isa, failures);
	}
	return failures != 0;
}
