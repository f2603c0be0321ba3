/* SPDX-License-Identifier: Apache-2.0 */
#include "base/context.h"
#include "base/cpu.h"
#include "base/error.h"
#include "kernels/kernels.h"

#include "isa_enabled.h" /* made by the build: the lines of isa.def that fit the target */

#include <pthread.h>
#include <string.h>

#define ISA(name, arch, needs, flags) void tn_kernels_fill_##name(struct tn_kernels *k);
TN_ISA_LINES
#undef ISA

static const struct {
	const char *name;
	unsigned needs;
	void (*fill)(struct tn_kernels *k);
} isas[] = {
#define ISA(name, arch, needs, flags) { #name, needs, tn_kernels_fill_##name },
	TN_ISA_LINES
#undef ISA
};

enum { ISA_COUNT = sizeof isas / sizeof *isas };

static struct tn_kernels tables[ISA_COUNT];
static pthread_once_t filled = PTHREAD_ONCE_INIT;

/* The function that fills a table is compiled for its instruction set too, so only usable ones may be called. */
static void fill_tables(void)
{
	unsigned features = tn_cpu_features();
	for (int i = 0; i < ISA_COUNT; i++) {
		if (isas[i].needs & ~features)
			continue;
		isas[i].fill(&tables[i]);
		tables[i].isa = isas[i].name;
	}
}

/* Asked for within loops, so the CPU is not asked again: in a virtual machine each answer takes microseconds. */
const struct tn_kernels *tn_kernels_for(const char *isa)
{
	pthread_once(&filled, fill_tables);
	for (int i = ISA_COUNT; i-- > 0;)
		if (tables[i].isa && (!isa || strcmp(isa, isas[i].name) == 0))
			return &tables[i];
	return NULL;
}

const char *tn_kernels_isa_name(unsigned i)
{
	return i < ISA_COUNT ? isas[i].name : NULL;
}

tn_status tn_context_pick_kernels(tn_context *ctx, const char *isa, struct tn_error *err)
{
	ctx->kernels = tn_kernels_for(isa);
	if (!ctx->kernels)
		return tn_fail(err, TN_E_ARG, isa, "the kernels '%.40s' do not exist in this build, or this CPU cannot run them",
			       isa);
	return TN_OK;
}

const char *tn_context_isa(const tn_context *ctx)
{
	return ctx->kernels->isa;
}
