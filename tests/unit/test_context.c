/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/context.h"
#include "base/cpu.h"
#include "kernels/kernels.h"

#include "isa_enabled.h" /* made by the build: the lines of isa.def that fit the target */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void defaults(void **state)
{
	struct tt *t = *state;
	tn_context *ctx = NULL;
	tt_ok(t, tn_context_create(NULL, &ctx, &t->err));
	assert_int_equal(ctx->threads, tn_cpu_count());
	assert_true(ctx->memory_budget_bytes == UINT64_C(256) << 20);
	assert_non_null(tn_context_isa(ctx));
	tn_context_destroy(ctx);
	tn_context_destroy(NULL);
}

static const struct {
	const char *name;
	unsigned needs;
} isas[] = {
#define ISA(name, arch, needs, flags) { #name, needs },
	TN_ISA_LINES
#undef ISA
};

/* Lines go from slow to fast: the last that the CPU can run is taken, and any that it can run when it is asked for. */
static void the_fastest_kernels_are_chosen(void **state)
{
	struct tt *t = *state;
	const char *last = NULL;
	for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
		struct tn_options o = TN_OPTIONS_INIT;
		tn_context *ctx;
		o.isa = isas[i].name;
		assert_string_equal(tn_kernels_isa_name((unsigned)i), isas[i].name);
		if (isas[i].needs & ~tn_cpu_features()) {
			assert_null(tn_kernels_for(isas[i].name));
			tt_expect(t, tn_context_create(&o, &ctx, &t->err), TN_E_ARG);
			continue;
		}
		tt_ok(t, tn_context_create(&o, &ctx, &t->err));
		assert_string_equal(tn_context_isa(ctx), isas[i].name);
		assert_ptr_equal(ctx->kernels, tn_kernels_for(isas[i].name));
		tn_context_destroy(ctx);
		last = isas[i].name;
	}
	assert_non_null(last);
	assert_string_equal(tn_kernels_for(NULL)->isa, last);
	assert_string_equal(tn_context_isa(t->ctx), last);
}

/* The line of features; an emulator that shows the file of the machine below it has none of that name there. */
#if defined(__x86_64__)
static const char features_line[] = "flags";
#else
static const char features_line[] = "Features";
#endif

/* By what Linux says of this CPU: a feature that is overlooked would make everything slow without a word. */
static void no_feature_is_overlooked(void **state)
{
	static const struct {
		const char *flag;
		unsigned feature;
	} flags[] = { { " avx2 ", TN_CPU_AVX2 }, { " avx512dq ", TN_CPU_AVX512 }, { " avx512_vnni ", TN_CPU_AVX512_VNNI },
		      { " avx512_bf16 ", TN_CPU_AVX512_BF16 }, { " avx_vnni ", TN_CPU_AVX_VNNI },
		      { " sha_ni ", TN_CPU_SHA }, { " asimddp ", TN_CPU_NEON_DOT } };
	FILE *f = fopen("/proc/cpuinfo", "r");
	char *line = NULL;
	size_t room = 0;
	(void)state;
	while (f && getline(&line, &room, f) > 0)
		if (strncmp(line, features_line, sizeof features_line - 1) == 0)
			break;
	if (!f || feof(f))
		skip();
	line[strcspn(line, "\n")] = ' ';
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		assert_int_equal((tn_cpu_features() & flags[i].feature) != 0, strstr(line, flags[i].flag) != NULL);
	free(line);
	fclose(f);
}

/* Where pairs of BF16 take two cycles, kernels that live by them must not be chosen. */
static void pairs_are_fast_but_for_intel(void **state)
{
	const unsigned features = tn_cpu_features();
	FILE *f = fopen("/proc/cpuinfo", "r");
	char *line = NULL;
	size_t room = 0;
	(void)state;
	while (f && getline(&line, &room, f) > 0)
		if (strncmp(line, "vendor_id", 9) == 0)
			break;
	if (!f || feof(f))
		skip();
	if (strstr(line, "GenuineIntel") || !(features & TN_CPU_AVX512_BF16))
		assert_int_equal(features & TN_CPU_FAST_PAIRS, 0);
	else
		assert_int_not_equal(features & TN_CPU_FAST_PAIRS, 0);
	for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
		if (strcmp(isas[i].name, "avx512bf16") == 0)
			assert_int_not_equal(isas[i].needs & TN_CPU_FAST_PAIRS, 0);
	free(line);
	fclose(f);
}

static void wrong_options(void **state)
{
	struct tt *t = *state;
	struct tn_options o = TN_OPTIONS_INIT;
	tn_context *ctx = (tn_context *)state, *untouched = ctx;
	o.struct_bytes = 0;
	tt_expect(t, tn_context_create(&o, &ctx, &t->err), TN_E_ARG);
	o.struct_bytes = sizeof o + 1;
	tt_expect(t, tn_context_create(&o, &ctx, &t->err), TN_E_ARG);
	o.struct_bytes = sizeof o;
	o.isa = "z80";
	tt_expect(t, tn_context_create(&o, &ctx, &t->err), TN_E_ARG);
	tt_expect_msg(t, "z80");
	o.isa = NULL;
	o.allocator.alloc = tt_heap_allocator(&t->heap).alloc;
	tt_expect(t, tn_context_create(&o, &ctx, &t->err), TN_E_ARG);
	o.allocator.alloc = NULL;
	o.threads = 100000;
	tt_expect(t, tn_context_create(&o, &ctx, &t->err), TN_E_ARG);
	assert_ptr_equal(ctx, untouched);
	tt_expect(t, tn_context_create(&o, &ctx, NULL) == TN_E_ARG ? TN_OK : TN_E_ARG, TN_OK);
}

/* A program that was built against an older library hands over a shorter struct: nothing behind it may be read. */
static void shorter_options(void **state)
{
	struct tt *t = *state;
	struct tn_options o = TN_OPTIONS_INIT;
	struct tt_guard g;
	size_t older = offsetof(struct tn_options, memory_budget_bytes);
	tt_guard_make(&g, older);
	o.struct_bytes = older;
	o.threads = 3;
	memcpy(g.at_end, &o, older);
	tn_context *ctx;
	tt_ok(t, tn_context_create((const void *)g.at_end, &ctx, &t->err));
	assert_int_equal(ctx->threads, 3);
	assert_true(ctx->memory_budget_bytes == UINT64_C(256) << 20);
	tn_context_destroy(ctx);
	tt_guard_free(&g);
}

static char last_log[600];

static void keep_log(void *user, tn_log_level level, const char *message)
{
	*(tn_log_level *)user = level;
	strncpy(last_log, message, sizeof last_log - 1);
}

static void log_goes_to_the_caller(void **state)
{
	struct tt *t = *state;
	struct tn_options o = TN_OPTIONS_INIT;
	tn_log_level level = TN_LOG_DEBUG;
	tn_context *ctx;
	char large[2000];
	o.log = keep_log;
	o.log_user = &level;
	tt_ok(t, tn_context_create(&o, &ctx, &t->err));
	tn_logf(ctx, TN_LOG_WARNING, "%d %s", 7, "seven");
	assert_string_equal(last_log, "7 seven");
	assert_int_equal(level, TN_LOG_WARNING);
	memset(large, 'x', sizeof large - 1);
	large[sizeof large - 1] = '\0';
	tn_logf(ctx, TN_LOG_INFO, "%s", large);
	assert_true(strlen(last_log) > 400);
	tn_context_destroy(ctx);
	tn_logf(t->ctx, TN_LOG_INFO, "nobody listens");
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(defaults), TT_TEST(wrong_options), TT_TEST(shorter_options),
					    TT_TEST(log_goes_to_the_caller),
					    TT_TEST(no_feature_is_overlooked), TT_TEST(pairs_are_fast_but_for_intel),
					    TT_TEST(the_fastest_kernels_are_chosen) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
