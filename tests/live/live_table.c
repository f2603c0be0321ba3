/* SPDX-License-Identifier: Apache-2.0 */
/* Bases that other libraries packed stay in few bits where they can: rows in memory decode to the bits of the weights that the
 * library decodes to, and they take hardly more memory than their files. */
#include "livelib.h"

#include "live/live.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `most`: bytes in memory over those of the file; 0: dense. */
static const struct {
	const char *base;
	enum tn_codec_id codec;
	double most;
} cases[] = {
	{ "bnb_nf4_b64_u8_bf16_40x128", TN_CODEC_table, 1.0 },
	{ "bnb_nf4_b64_dq_u8_bf16_40x128", TN_CODEC_table, 1.1 },
	{ "bnb_nf4_b64_dq_f32_f32_40x128", TN_CODEC_table, 1.1 },
	{ "bnb_fp4_b64_u8_f16_40x128", TN_CODEC_table, 1.0 },
	{ "bnb_fp4_b128_dq_bf16_bf16_40x128", TN_CODEC_table, 1.1 },
	{ "bnb_nf4_b128_u8_f16_24x256", TN_CODEC_table, 1.0 },
	{ "bnb_nf4_b4096_dq_u8_f16_40x128", TN_CODEC_table, 1.1 },
	{ "bnb_nf4_b32_dq_u8_bf16_64x144", TN_CODEC_table, 1.5 },
	{ "bnb_int8_40x128", TN_CODEC_table, 1.0 },
	{ "bnb_int8_24x256", TN_CODEC_table, 1.0 },
	{ "bnb_llama_nf4_dq", TN_CODEC_table, 1.25 },
	{ "bnb_llama_fp4", TN_CODEC_table, 1.25 },
	{ "bnb_llama_int8", TN_CODEC_table, 1.1 },
	{ "ct_fp8_tensor", TN_CODEC_table, 1.1 },
	{ "ct_fp8_channel", TN_CODEC_table, 1.1 },
	{ "ct_fp8_group128", TN_CODEC_table, 1.1 },
	{ "ct_llama_fp8", TN_CODEC_table, 1.15 },
	{ "fp8_block_128", TN_CODEC_table, 1.1 },
	{ "fp8_block_8x64", TN_CODEC_table, 1.1 },
	{ "fp8_channel", TN_CODEC_table, 1.1 },
	{ "fp8_experts", TN_CODEC_table, 1.15 },
	{ "fp8_all_e4m3", TN_CODEC_table, 1.3 },
	{ "modelopt_nvfp4", TN_CODEC_table, 1.4 },
	{ "bnb_nf4_b64_dq_u8_bf16_33x65", TN_CODEC_dense, 0 },
	{ "bnb_nf4_b256_u8_f32_7x100", TN_CODEC_dense, 0 },
	{ "gptq_gqm_v1_b4_g32_asym_act", TN_CODEC_dense, 0 },
	{ "fp8_e5m2_tensor", TN_CODEC_dense, 0 },
	{ "ct_mxfp6", TN_CODEC_dense, 0 },
};

static struct tn_foreign *module_of(struct tn_live *live, const struct tn_live_module *m)
{
	int codes;
	return tn_foreign_set_owner(live->foreign, m->weight, &codes);
}

/* Every row as the module's library decodes it, rounded to its dtype, beside what stands in memory. */
static void check_rows(struct tt *t, const struct tn_live *live, const struct tn_live_module *m, const struct tn_foreign *f,
		       const char *base)
{
	const struct tn_kernels *k = live->ctx->kernels;
	const struct tn_tensor_source source = tn_checkpoint_source(live->base);
	const struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = f->dtype };
	const size_t cols = (size_t)f->cols;
	float *got = malloc(cols * sizeof *got), *want = malloc(cols * sizeof *want);
	void *halves = malloc(cols * sizeof(float)), *scratch = malloc((size_t)(tn_foreign_row_bytes(f) + tn_foreign_fixed_bytes(f)) + 64);
	for (uint64_t r = 0; r < f->rows; r++) {
		struct tn_row row = { { NULL } }, rounded = { { halves } };
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			if (m->linear.part[p])
				row.part[p] = (const unsigned char *)m->linear.part[p] + r * m->linear.row_bytes[p];
		k->codec[m->linear.format.codec]->decode(got, &row, &m->linear.format, cols);
		tt_ok(t, tn_foreign_read(k, &source, f, r, 1, scratch, f->dtype, halves, &t->err));
		k->codec[TN_CODEC_dense]->decode(want, &rounded, &dense, cols);
		if (memcmp(got, want, cols * sizeof *got) != 0)
			fail_msg("%s: row %llu of '%s' has other bits in memory", base, (unsigned long long)r, m->path);
	}
	free(got);
	free(want);
	free(halves);
	free(scratch);
}

static void check_case(struct tt *t, size_t n)
{
	char folder[1024];
	struct live_base base;
	uint64_t packed = 0, unpacked = 0;
	size_t modules = 0;
	snprintf(folder, sizeof folder, "%s/%s", LIVE_FOREIGN, cases[n].base);
	live_open(t, folder, &base);
	for (size_t i = 0; i < base.live->module_count; i++) {
		const struct tn_live_module *m = &base.live->modules[i];
		const struct tn_foreign *f = module_of(base.live, m);
		if (!f)
			continue;
		modules++;
		packed += f->weight.bytes;
		if (m->linear.format.codec != cases[n].codec)
			fail_msg("%s: '%s' is in codec %d", cases[n].base, m->path, (int)m->linear.format.codec);
		check_rows(t, base.live, m, f, cases[n].base);
	}
	for (size_t i = 0; i < base.live->unpacked_count; i++)
		unpacked += base.live->unpacked[i].bytes;
	if (modules == 0 || (cases[n].most > 0 && (double)unpacked > cases[n].most * (double)packed))
		fail_msg("%s: %llu bytes in memory, %llu in the file", cases[n].base, (unsigned long long)unpacked,
			 (unsigned long long)packed);
	live_close(&base);
}

static void packed_modules_stay_small(void **state)
{
	for (size_t n = 0; n < sizeof cases / sizeof *cases; n++)
		check_case(*state, n);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(packed_modules_stay_small) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
