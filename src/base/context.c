/* SPDX-License-Identifier: Apache-2.0 */
#include "base/context.h"

#include "base/cpu.h"
#include "base/error.h"
#include "base/numeral.h"
#include "base/pool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_THREAD_COUNT = 1024, SPARE_THREADS = 4 };
static const uint64_t default_budget = 256u << 20;

static void *system_alloc(void *user, size_t bytes)
{
	(void)user;
	return malloc(bytes);
}

static void *system_resize(void *user, void *ptr, size_t old_bytes, size_t new_bytes)
{
	(void)user;
	(void)old_bytes;
	return realloc(ptr, new_bytes);
}

static void system_release(void *user, void *ptr, size_t bytes)
{
	(void)user;
	(void)bytes;
	free(ptr);
}

static const struct tn_allocator system_allocator = { system_alloc, system_resize, system_release, NULL };

static tn_status check_size(const struct tn_options *o, struct tn_error *err)
{
	if (o->struct_bytes == 0 || o->struct_bytes > sizeof *o)
		return tn_fail(err, TN_E_ARG, "options",
			       "struct_bytes is %zu, at most %zu was expected: start from TN_OPTIONS_INIT of the same version",
			       o->struct_bytes, sizeof *o);
	return TN_OK;
}

static tn_status check_options(const struct tn_options *o, struct tn_error *err)
{
	const struct tn_allocator *a = &o->allocator;
	if ((a->alloc || a->resize || a->release) && !(a->alloc && a->resize && a->release))
		return tn_fail(err, TN_E_ARG, "options", "an allocator needs all of alloc, resize and release");
	if (o->threads > LARGEST_THREAD_COUNT)
		return tn_fail(err, TN_E_ARG, "options", "threads is %u, at most %d was expected", o->threads,
			       LARGEST_THREAD_COUNT);
	return TN_OK;
}

tn_status tn_context_create(const struct tn_options *options, tn_context **out, struct tn_error *err)
{
	struct tn_options known = TN_OPTIONS_INIT, *o = &known;
	if (options) {
		TN_TRY(check_size(options, err));
		memcpy(o, options, options->struct_bytes); /* an older program's struct is shorter */
	}
	TN_TRY(check_options(o, err));
	struct tn_context made = {
		.heap = o->allocator.alloc ? o->allocator : system_allocator,
		.log = o->log,
		.log_user = o->log_user,
		.progress = o->progress,
		.progress_user = o->progress_user,
		.threads = o->threads ? o->threads : tn_cpu_count(),
		.spare_threads = o->threads == 1 ? 0 : SPARE_THREADS,
		.memory_budget_bytes = o->memory_budget_bytes ? o->memory_budget_bytes : default_budget,
	};
	TN_TRY(tn_context_pick_kernels(&made, o->isa, err));
	tn_context *ctx;
	TN_TRY(tn_alloc(&made, sizeof *ctx, "context", &ctx, err));
	*ctx = made;
	tn_status status = tn_pool_create(ctx, &ctx->pool, err);
	if (status != TN_OK) {
		tn_free(ctx, ctx, sizeof *ctx);
		return status;
	}
	*out = ctx;
	return TN_OK;
}

void tn_context_destroy(tn_context *ctx)
{
	if (!ctx)
		return;
	tn_pool_destroy(ctx->pool);
	tn_free(ctx, ctx, sizeof *ctx);
}

void tn_logf(tn_context *ctx, tn_log_level level, const char *fmt, ...)
{
	if (!ctx->log)
		return;
	char message[512];
	va_list args;
	va_start(args, fmt);
	tn_vsnprintf(message, sizeof message, fmt, args);
	va_end(args);
	ctx->log(ctx->log_user, level, message);
}
