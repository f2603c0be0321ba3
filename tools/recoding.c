/* SPDX-License-Identifier: Apache-2.0 */
#include "recoding.h"

#include "groups.h"
#include "result_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int recoding_dtype(const char *name, tn_dtype *out)
{
	static const struct {
		const char *name;
		tn_dtype dtype;
	} dtypes[] = { { "float32", TN_F32 }, { "float16", TN_F16 }, { "bfloat16", TN_BF16 } };
	if (!name)
		return 1;
	for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
		if (strcmp(name, dtypes[i].name) == 0) {
			*out = dtypes[i].dtype;
			return 1;
		}
	return 0;
}

int recoding_number(const char *text, int32_t *out)
{
	if (!text)
		return 1;
	long n = strtol(text, NULL, 10);
	if (text[strspn(text, "0123456789")] || n < 1 || n > 1000000)
		return 0;
	*out = (int32_t)n;
	return 1;
}

int recoding_flavour(const char *name, tn_flavour *out)
{
	static const char *const names[] = { "cpu", "metal", "cuda" };
	for (int i = 0; name && i < 3; i++)
		if (strcmp(name, names[i]) == 0) {
			*out = (tn_flavour)i;
			return 1;
		}
	return !name;
}

int recoding_mode(const char *name)
{
	const char *mode;
	if (!name)
		return 1;
	for (size_t i = 0; (mode = tn_quant_mode_name(i)); i++)
		if (strcmp(name, mode) == 0)
			return 1;
	return 0;
}

static int print_plan(const tn_recode *r)
{
	struct groups groups = { 0 };
	for (size_t i = 0; i < tn_recode_count(r); i++) {
		const struct tn_recoded *t = tn_recode_at(r, i);
		char detail[128];
		if (t->action == TN_RECODE_COPY)
			snprintf(detail, sizeof detail, "%s", tn_recode_action_name(t->action));
		else
			snprintf(detail, sizeof detail, "%s: %s -> %s", tn_recode_action_name(t->action), t->from, t->to);
		if (!groups_add(&groups, t->tensor->name, detail, 0, t->bytes_after)) {
			groups_free(&groups);
			return 0;
		}
	}
	for (size_t i = 0; i < groups.count; i++) {
		char name[512], bytes[CLI_NUMBER_BYTES];
		const struct group *g = &groups.items[i];
		printf("%-52s %4" PRIu64 "  %-48s %10s\n", group_name(g, name, sizeof name), g->count, g->detail,
		       cli_bytes(bytes, g->bytes));
	}
	groups_free(&groups);
	return 1;
}

/* mlx_lm.convert succeeds in silence where nothing, or not everything, is quantized. */
static void warn(const struct recoding *c, const tn_recode *r)
{
	size_t quantized = tn_recode_count_of(r, TN_RECODE_QUANTIZE) + tn_recode_count_of(r, TN_RECODE_REQUANTIZE);
	if (c->options_without_quantize)
		fprintf(stderr, "tenon: warning: --q-bits, --q-group-size, --q-mode and recipes do nothing without -q\n");
	if (c->request.quantize && quantized == 0 && c->request.mlx_folder)
		fprintf(stderr, "tenon: warning: no layer was quantized: none is dense with a width that the group size divides\n");
	for (size_t i = 0; c->request.quantize && quantized && i < tn_recode_count(r); i++) {
		const struct tn_recoded *t = tn_recode_at(r, i);
		if (t->why_not)
			fprintf(stderr, "tenon: warning: '%s' stays %s: %s\n", cli_safe(t->tensor->name), t->to,
				cli_safe(t->why_not));
	}
}

static void print_summary(const struct recoding *c, const tn_recode *r, const tn_checkpoint *base, double seconds)
{
	char before[CLI_NUMBER_BYTES], after[CLI_NUMBER_BYTES];
	size_t repacked = tn_recode_count_of(r, TN_RECODE_REPACK), again = tn_recode_count_of(r, TN_RECODE_REQUANTIZE);
	if (repacked || again)
		printf("%srepacked %zu, requantized %zu; ", c->dry_run ? "would have " : "", repacked, again);
	printf("%squantized %zu, dequantized %zu, cast %zu, copied %zu: %s -> %s, %.3f bits per weight",
	       c->dry_run ? "would have " : "", tn_recode_count_of(r, TN_RECODE_QUANTIZE),
	       tn_recode_count_of(r, TN_RECODE_DEQUANTIZE), tn_recode_count_of(r, TN_RECODE_CAST),
	       tn_recode_count_of(r, TN_RECODE_COPY), cli_bytes(before, tn_checkpoint_tensor_bytes(base)),
	       cli_bytes(after, tn_recode_bytes_after(r)), tn_recode_bits_per_weight(r));
	if (c->dry_run)
		printf("; nothing was written\n");
	else
		printf(", in %.2f s -> %s\n", seconds, cli_safe(c->save_path));
}

/* A quantize that quantizes nothing, or a dequantize that changes nothing, is a mistake; mlx_lm.convert is content. */
static int has_work(const struct recoding *c, const tn_recode *r, struct tn_error *err)
{
	size_t quantized = tn_recode_count_of(r, TN_RECODE_QUANTIZE), n = tn_recode_count(r);
	if (c->request.mlx_folder || (c->request.quantize ? quantized != 0 : tn_recode_count_of(r, TN_RECODE_COPY) != n))
		return 1;
	*err = (struct tn_error){ .code = TN_E_MISMATCH };
	snprintf(err->where, sizeof err->where, "%s", c->model);
	if (c->request.quantize)
		snprintf(err->msg, sizeof err->msg,
			 "'%.120s' has nothing to quantize: no layer is dense with a width that the group size divides; a model "
			 "that is quantized already goes through tenon dequantize first",
			 c->model);
	else
		snprintf(err->msg, sizeof err->msg,
			 "'%.120s' has nothing to dequantize: no tensor is packed in a way that tenon reads", c->model);
	return 0;
}

/* Of a run that did not happen the plan. */
static int write_receipt(const struct recoding *c, const tn_recode *r, struct result_file *receipt, struct tn_error *err)
{
	if (!c->receipt)
		return 1;
	return (c->dry_run ? tn_recode_plan_json(r, result_file_write, receipt, err)
			   : tn_recode_receipt(r, c->save_path, result_file_write, receipt, err)) == TN_OK;
}

static int run_plan(const struct recoding *c, const tn_recode *r, const tn_checkpoint *base)
{
	struct tn_error err = { .code = TN_E_NOMEM, .msg = "memory ran out" };
	struct result_file receipt;
	double start = cli_seconds();
	warn(c, r);
	/* what JSON cannot hold, as a path that is not UTF-8, is refused before the run */
	if (!has_work(c, r, &err) || ((cli.json || c->receipt) && tn_recode_plan_json(r, cli_discard, NULL, &err) != TN_OK) ||
	    !result_file_begin(&receipt, RESULT_RECEIPT, c->receipt, c->save_path, c->force, &err))
		return cli_fail(c->command->verb, &err);
	int done = c->dry_run || tn_recode_run(r, c->save_path, cli_save_flags(c->force, c->resume), &err) == TN_OK;
	done = done && write_receipt(c, r, &receipt, &err) && result_file_end(&receipt, &err);
	result_file_abort(&receipt);
	if (!done)
		return cli_fail(c->command->verb, &err);
	if (cli.json)
		return tn_recode_plan_json(r, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail(c->command->verb, &err);
	if (c->dry_run && !print_plan(r))
		return cli_fail(c->command->verb, &err);
	if (!cli.quiet)
		print_summary(c, r, base, cli_seconds() - start);
	return EXIT_DONE;
}

/* The parameters that the library refuses for an empty matrix are refused before any file is looked at. */
static int check_request(const struct recoding *c, tn_context *ctx)
{
	const struct tn_quantization *q = &c->request.quantization.q;
	float none;
	const struct tn_array w = { .dtype = TN_F32, .rank = 2, .data = &none,
				    .shape = { 0, q->group_size > 0 ? (uint64_t)q->group_size : 128 } };
	const char *recipe = c->request.quantization.recipe;
	struct tn_quantized matrix;
	struct tn_error err;
	if (recipe && tn_recipe_bits(recipe, "", 0, 1) == 0)
		return cli_usage(c->command, "'%s' is not a recipe: mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6", recipe);
	if (recipe && c->request.quantize && q->mode && strcmp(q->mode, "affine") != 0)
		return cli_usage(c->command, "Quant predicates only support 'affine' quantization.");
	tn_status status = tn_quantize(ctx, &w, q, NULL, c->request.flavour, &matrix, &err);
	if (status == TN_E_ARG)
		return cli_usage(c->command, "%s", err.msg);
	if (status != TN_OK)
		return cli_fail(c->command->verb, &err);
	tn_quantized_release(ctx, &matrix);
	return -1;
}

int run_recoding(const struct recoding *c)
{
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_recode *plan = NULL;
	int status;
	tn_context *ctx = cli_context(c->command->verb);
	if (!ctx)
		return EXIT_FAILED;
	status = check_request(c, ctx);
	if (status >= 0) {
		tn_context_destroy(ctx);
		return status;
	}
	if (tn_checkpoint_open(ctx, c->model, &base, &err) != TN_OK ||
	    tn_recode_plan(ctx, base, &c->request, &plan, &err) != TN_OK)
		status = cli_fail(c->command->verb, &err);
	else
		status = run_plan(c, plan, base);
	tn_recode_free(plan);
	tn_checkpoint_close(base);
	tn_context_destroy(ctx);
	return status;
}
