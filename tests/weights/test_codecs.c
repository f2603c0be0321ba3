/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of every codec: every instruction set gives the bits of the portable one, at any alignment, without touching
 * a byte outside its rows. And the flavours against the worked examples of MLX's GPU sources. */
#include "support.h"

#include "base/half.h"
#include "kernels/kernels.h"
#include "weights/format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- memory with an edge --------------------------------------------------------------------------------- */

/* n bytes that end where a page begins that nobody may touch. */
struct edged {
	unsigned char *map, *data;
	size_t total;
};

static struct edged edged_new(size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
	struct edged e = { .total = room + page };
	e.map = mmap(NULL, e.total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(e.map != MAP_FAILED);
	assert_int_equal(mprotect(e.map + room, page, PROT_NONE), 0);
	e.data = e.map + room - n;
	return e;
}

static void edged_free(struct edged *e)
{
	munmap(e->map, e->total);
}

/* ---- every format ---------------------------------------------------------------------------------------- */

typedef void (*format_fn)(const struct tn_format *format);

static void for_formats(format_fn check)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (int id = 0; id < TN_CODEC_COUNT; id++) {
		const struct tn_codec *codec = tn_codec_info((enum tn_codec_id)id);
		for (int b = 0; b < 8 && codec->bits[b]; b++)
			for (int g = 0; g < 4 && codec->groups[g]; g++)
				for (int d = 0; d < 3; d++)
					for (uint8_t variant = 0; variant < 6; variant++) {
						struct tn_format f = { .codec = (enum tn_codec_id)id,
								       .dtype = dtypes[d],
								       .bits = codec->bits[b],
								       .group = codec->groups[g] };
						f.flavour = variant % 3;
						f.like_mlx = variant >= 3;
						check(&f);
						if (!codec->takes_global_scale)
							continue;
						f.has_global_scale = 1;
						f.global_scale = 2.5f;
						check(&f);
					}
	}
}

/* Values of every size, rounded to the dtype; whole groups of zeros and of one value among them. */
static void fill(float *w, size_t n, tn_dtype dtype)
{
	for (size_t i = 0; i < n; i++) {
		float x = wave(i) * exp2f(wave(i / 256 + 77) * 20);
		if (i / 128 % 9 == 3)
			x = i % 2 ? 0.0f : -0.0f;
		if (i / 128 % 9 == 5)
			x = -0.75f;
		w[i] = dtype == TN_F16 ? tn_f32_from_f16(tn_f16_from_f32(x)) : tn_f32_from_bf16(tn_bf16_from_f32(x));
	}
}

enum { COLS = 128 * 18 };

static size_t encode_edged(const struct tn_codec *codec, const struct tn_format *f, const float *w, size_t cols,
			   unsigned char *out)
{
	struct tn_row_out row = { { 0 } };
	struct edged parts[TN_PART_COUNT], src = edged_new(cols * sizeof *w);
	size_t at = 0;
	memcpy(src.data, w, cols * sizeof *w);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		parts[p] = edged_new(codec->part_bytes(f, p, cols));
		row.part[p] = parts[p].data;
	}
	codec->encode(&row, (const float *)(const void *)src.data, f, cols);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t n = codec->part_bytes(f, p, cols);
		memcpy(out + at, parts[p].data, n);
		at += n;
		edged_free(&parts[p]);
	}
	edged_free(&src);
	return at;
}

static void decode_edged(const struct tn_codec *codec, const struct tn_format *f, const unsigned char *bytes,
			 size_t cols, float *out)
{
	struct tn_row row = { { 0 } };
	struct edged parts[TN_PART_COUNT], dst = edged_new(cols * sizeof *out);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t n = codec->part_bytes(f, p, cols);
		parts[p] = edged_new(n);
		memcpy(parts[p].data, bytes, n);
		bytes += n;
		row.part[p] = parts[p].data;
	}
	codec->decode((float *)(void *)dst.data, &row, f, cols);
	memcpy(out, dst.data, cols * sizeof *out);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		edged_free(&parts[p]);
	edged_free(&dst);
}

static void check_isas(const struct tn_format *f)
{
	static float w[COLS], first[COLS], y[COLS];
	static unsigned char bytes[COLS * 8], other[COLS * 8];
	size_t cols = (size_t)f->group * 7;
	fill(w, cols, f->dtype);
	const struct tn_codec *portable = tn_codec_info(f->codec);
	size_t n = encode_edged(portable, f, w, cols, bytes);
	decode_edged(portable, f, bytes, cols, first);
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!k)
			continue;
		assert_int_equal(encode_edged(k->codec[f->codec], f, w, cols, other), n);
		if (memcmp(bytes, other, n) != 0)
			fail_msg("%s (%s): b%u g%u flavour %u encodes to other bytes than the portable kernel",
				 portable->name, k->isa, f->bits, f->group, f->flavour);
		decode_edged(k->codec[f->codec], f, bytes, cols, y);
		if (memcmp(first, y, cols * sizeof *y) != 0)
			fail_msg("%s (%s): b%u g%u decodes to other bits than the portable kernel", portable->name,
				 k->isa, f->bits, f->group);
	}
}

static void every_isa_gives_the_portable_bits_inside_guard_pages(void **state)
{
	(void)state;
	for_formats(check_isas);
}

/* Parts one byte into their memory. */
static void check_misaligned(const struct tn_format *f)
{
	static float w[COLS], y[COLS];
	static unsigned char bytes[COLS * 8], moved[TN_PART_COUNT][COLS * 5];
	size_t cols = (size_t)f->group * 3, at = 0;
	if (f->flavour)
		return;
	fill(w, cols, f->dtype);
	size_t n = encode_edged(tn_codec_info(f->codec), f, w, cols, bytes);
	decode_edged(tn_codec_info(f->codec), f, bytes, cols, y);
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		struct tn_row_out out;
		struct tn_row in;
		float aligned[COLS / 4];
		if (!k)
			continue;
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			in.part[p] = out.part[p] = moved[p] + 1;
		k->codec[f->codec]->encode(&out, w, f, cols);
		for (unsigned p = at = 0; p < TN_PART_COUNT; p++) {
			size_t part = k->codec[f->codec]->part_bytes(f, p, cols);
			assert_memory_equal(moved[p] + 1, bytes + at, part);
			at += part;
		}
		assert_int_equal(at, n);
		k->codec[f->codec]->decode(aligned, &in, f, cols);
		assert_memory_equal(aligned, y, cols * sizeof *y);
	}
}

static void parts_may_stand_at_any_address(void **state)
{
	(void)state;
	for_formats(check_misaligned);
}

/* A run of groups out of the middle of a row is a row. */
static void check_slice(const struct tn_format *f)
{
	static float w[COLS], whole[COLS], part[COLS];
	static unsigned char bytes[COLS * 8];
	const struct tn_codec *codec = tn_codec_info(f->codec);
	size_t cols = (size_t)f->group * 6, first = (size_t)f->group * 2, at = 0;
	struct tn_row row;
	if (f->group == 16) /* two groups are a word */
		assert_int_equal(first * f->bits % 32, 0);
	fill(w, cols, f->dtype);
	encode_edged(codec, f, w, cols, bytes);
	decode_edged(codec, f, bytes, cols, whole);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		row.part[p] = bytes + at + codec->part_bytes(f, p, first);
		at += codec->part_bytes(f, p, cols);
	}
	codec->decode(part, &row, f, first);
	assert_memory_equal(part, whole + first, first * sizeof *part);
}

static void groups_are_independent(void **state)
{
	(void)state;
	for_formats(check_slice);
}

/* ---- flavours -------------------------------------------------------------------------------------------- */

/* The groups of spec/quantization.md, section 8: r = (11 i + 3) mod 32. */
static float sample(const char *group, int i)
{
	float r = (float)((11 * i + 3) % 32);
	if (strcmp(group, "pos") == 0)
		return 0.25f + r / 32;
	if (strcmp(group, "neg") == 0)
		return -0.25f - r / 32;
	if (strcmp(group, "minbig") == 0)
		return (r - 20) / 16;
	return strcmp(group, "maxbig") == 0 ? (r - 9) / 16 : 0;
}

static const struct example {
	const char *mode, *group;
	tn_flavour flavour;
	uint32_t scale; /* bits of the F32 scale, or the byte */
	uint32_t words[8];
} examples[] = {
	{ "affine", "zero", TN_FLAVOUR_METAL, 0xb3d6bf95, { 0 } },
	{ "affine", "pos", TN_FLAVOUR_METAL, 0xbd835e51, { 0x7d28d38e, 0xb16c17c2, 0xf5a05b06, 0x39e49f4a } },
	{ "affine", "neg", TN_FLAVOUR_CPU, 0x3d835e51, { 0x7d28d38e, 0xb16c17c2, 0xf5a05b06, 0x39e49f4a } },
	{ "affine", "neg", TN_FLAVOUR_METAL, 0x3da66666, { 0x6a26a27b, 0x915915a2, 0xc4804805, 0x37b37c38 } },
	{ "affine", "minbig", TN_FLAVOUR_CPU, 0x3e000000, { 0x82d82c72, 0x4e94e83e, 0x0a5fa4fa, 0xc61c60b6 } },
	{ "affine", "minbig", TN_FLAVOUR_CUDA, 0x3e000000, { 0x83d82d72, 0x4f94e93e, 0x0b5fa5fa, 0xc71c61b6 } },
	{ "affine", "maxbig", TN_FLAVOUR_CUDA, 0xbe000000, { 0x8d38e39e, 0xc17c27d2, 0xf5b06b16, 0x49f4af5a } },
	{ "mxfp4", "zero", TN_FLAVOUR_CPU, 0x7f, { 0 } },
	{ "mxfp4", "zero", TN_FLAVOUR_METAL, 0, { 0 } },
	{ "mxfp4", "zero", TN_FLAVOUR_CUDA, 0, { 0 } },
	{ "mxfp4", "pos", TN_FLAVOUR_METAL, 0x7d, { 0x53653653, 0x46546546, 0x26466465, 0x65264264 } },
	{ "mxfp4", "neg", TN_FLAVOUR_CUDA, 0x7d, { 0xdbedbedb, 0xcedcedce, 0xaeceeced, 0xedaecaec } },
	{ "mxfp4", "minbig", TN_FLAVOUR_CUDA, 0x7d, { 0xae3ae2be, 0xd49d4ae4, 0xe0c50d48, 0x2ce2ce1c } },
	{ "mxfp4", "maxbig", TN_FLAVOUR_METAL, 0x7d, { 0x4a63a62b, 0x864964a6, 0xc5075074, 0x62c62c51 } },
	{ "mxfp8", "zero", TN_FLAVOUR_CUDA, 0, { 0 } },
	{ "mxfp8",
	  "pos",
	  TN_FLAVOUR_CUDA,
	  0x77,
	  { 0x6c78736b, 0x746d7874, 0x79746e79, 0x7079756f, 0x76707a76, 0x6876717a, 0x72697772, 0x78726a78 } },
	{ "mxfp8",
	  "neg",
	  TN_FLAVOUR_METAL,
	  0x77,
	  { 0xecf8f3eb, 0xf4edf8f4, 0xf9f4eef9, 0xf0f9f5ef, 0xf6f0faf6, 0xe8f6f1fa, 0xf2e9f7f2, 0xf8f2eaf8 } },
	{ "mxfp8",
	  "maxbig",
	  TN_FLAVOUR_CUDA,
	  0x77,
	  { 0xea786aec, 0x6ee8786c, 0x7a70e479, 0xd87a71e0, 0x73007a72, 0xf174587b, 0x64f07560, 0x7768ee76 } },
	{ "nvfp4", "zero", TN_FLAVOUR_METAL, 0, { 0 } },
	{ "nvfp4", "zero", TN_FLAVOUR_CUDA, 0, { 0x77777777, 0x77777777 } },
	{ "nvfp4", "pos", TN_FLAVOUR_METAL, 0x24, { 0x64764764, 0x57647647 } },
	{ "nvfp4", "minbig", TN_FLAVOUR_CUDA, 0x23, { 0xbf4cf4cf, 0xe59e5af5 } },
};

static void check_example(const struct example *e)
{
	struct tn_quantization q = { TN_QUANT_DEFAULT, TN_QUANT_DEFAULT, e->mode, 0 };
	struct tn_quantized got;
	float w[32];
	int affine = strcmp(e->mode, "affine") == 0;
	uint64_t n = strcmp(e->mode, "nvfp4") == 0 ? 16 : 32;
	if (affine)
		q.group_size = 32;
	for (int i = 0; i < 32; i++)
		w[i] = sample(e->group, i);
	const struct tn_array a = { TN_F32, 2, { 1, n }, w, n * 4 };
	OK(tn_quantize(test_context(), &a, &q, NULL, e->flavour, &got, err));
	uint32_t scale = 0;
	memcpy(&scale, got.scales.data, affine ? 4 : 1);
	if (scale != e->scale || memcmp(got.weight.data, e->words, got.weight.bytes) != 0)
		fail_msg("%s %s flavour %d: scale %x, first word %08x; expected %x, %08x", e->mode, e->group,
			 (int)e->flavour, scale, *(uint32_t *)got.weight.data, e->scale, e->words[0]);
	tn_quantized_release(test_context(), &got);
}

static void flavours_follow_the_worked_examples(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
		check_example(&examples[i]);
}

/* Codes i mod 2^bits, as the stream they are on disk (spec/quantization.md, 8.1). */
static void codes_are_a_little_endian_bit_stream(void **state)
{
	static const struct {
		uint8_t bits;
		uint32_t words[8];
	} streams[] = {
		{ 2, { 0xe4e4e4e4, 0xe4e4e4e4 } },
		{ 3, { 0x88fac688, 0xc688fac6, 0xfac688fa } },
		{ 4, { 0x76543210, 0xfedcba98, 0x76543210, 0xfedcba98 } },
		{ 5, { 0x8a418820, 0xc5a92839, 0xca307b9a, 0x38bdab49, 0xffbbcdeb } },
		{ 6, { 0x440c2040, 0xa2481c61, 0x3ce34c2c, 0x544d2450, 0xa6585d65, 0x7de75c6d } },
		{ 8,
		  { 0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c, 0x13121110, 0x17161514, 0x1b1a1918, 0x1f1e1d1c } },
	};
	const float one = 1, zero = 0;
	(void)state;
	for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
		float y[32];
		struct tn_format f = {
			.codec = TN_CODEC_affine, .dtype = TN_F32, .bits = streams[i].bits, .group = 32
		};
		struct tn_row row = { { streams[i].words, &one, &zero } };
		tn_codec_info(TN_CODEC_affine)->decode(y, &row, &f, 32);
		for (int k = 0; k < 32; k++)
			assert_true(y[k] == (float)(k % (1 << streams[i].bits)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_isa_gives_the_portable_bits_inside_guard_pages),
		cmocka_unit_test(parts_may_stand_at_any_address),
		cmocka_unit_test(groups_are_independent),
		cmocka_unit_test(flavours_follow_the_worked_examples),
		cmocka_unit_test(codes_are_a_little_endian_bit_stream),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
