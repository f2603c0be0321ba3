/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "groups.h"
#include "joining.h"
#include "result_file.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static struct {
	const char *model, *save_path, *upload_repo, *gguf_path, *rounding, *promote_bits, *receipt, *dense_base;
	struct cli_list adapters;
	struct tn_fuse_options fuse;
	int dry_run, force, resume, consume, export_gguf, trust_remote_code;
} args = { .fuse = TN_FUSE_OPTIONS_INIT };

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "folder of the base model", &args.model },
	{ CLI_LIST, "--adapter-path", "ADAPTER", "folder of the adapter, or FOLDER:WEIGHT; may be repeated", &args.adapters },
	{ CLI_TEXT, "--save-path", "OUT", "folder to write", &args.save_path },
	{ CLI_TEXT, "--receipt", "FILE", "also write what was done as JSON", &args.receipt },
	{ CLI_FLAG, "--dry-run", NULL, "print what would be done, and do nothing", &args.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds a model", &args.force },
	{ CLI_FLAG, "--resume", NULL, "keep the finished shards of an interrupted run of the same job", &args.resume },
	{ CLI_FLAG, "--consume-input", NULL, "use BASE up while OUT grows, on a disk too small for both", &args.consume },
	{ CLI_FLAG, "--allow-nonfinite", NULL, "write NaN and infinity in place of refusing them", &args.fuse.allow_nonfinite },
	{ CLI_TEXT, "--upload-repo", "REPO", "not done by tenon; says what to run instead", &args.upload_repo },
	{ CLI_FLAG, "--export-gguf", NULL, "not done by tenon; says what to run instead", &args.export_gguf },
	{ CLI_TEXT, "--gguf-path", "FILE", "goes with --export-gguf", &args.gguf_path },
	{ CLI_FLAG, "--trust-remote-code", NULL, "accepted; tenon runs no code of models", &args.trust_remote_code },
	{ CLI_SECTION, "", NULL, "Where the base is quantized:", NULL },
	{ CLI_FLAG, "--dequantize, --de-quantize", NULL, "write a dense model", &args.fuse.dequantize },
	{ CLI_TEXT, "--rounding", "R", "auto (the default), dither (keeps small deltas), nearest", &args.rounding },
	{ CLI_TEXT, "--promote-bits", "6|8", "give changed weights so many bits", &args.promote_bits },
	{ CLI_TEXT, "--dense-base", "DIR", "what BASE was quantized from: DIR + ADAPTER is quantized instead", &args.dense_base },
	{ CLI_SHARE, "--min-survival", "X", "refuse (or promote) weights that keep less, 0 to 1", &args.fuse.min_survival },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "fuse",
	.usage = "--model BASE --adapter-path ADAPTER --save-path OUT",
	.about = "Writes BASE + ADAPTER as a complete Hugging Face folder. OUT appears whole or not at all; BASE is only\n"
		 "read, but for --consume-input. Memory stays under --max-memory. A quantized BASE stays quantized as it is.",
	.options = options,
};

static int print_plan(const tn_fuse *fuse)
{
	struct groups groups = { 0 };
	for (size_t i = 0; i < tn_fuse_count(fuse); i++) {
		const struct tn_planned_tensor *p = tn_fuse_at(fuse, i);
		char detail[128];
		if (p->module)
			snprintf(detail, sizeof detail, "%s%s%s%s, rank %" PRIu64 ", scale %g", tn_action_name(p->action),
				 p->scheme ? " (" : "", p->scheme ? p->scheme : "", p->scheme ? ")" : "", p->module->rank,
				 p->module->scale);
		else
			snprintf(detail, sizeof detail, "%s", tn_action_name(p->action));
		if (!groups_add(&groups, p->tensor->name, detail, p->tensor->elements, p->tensor->bytes)) {
			groups_free(&groups);
			return 0;
		}
	}
	for (size_t i = 0; i < groups.count; i++) {
		char name[512], bytes[CLI_NUMBER_BYTES];
		const struct group *g = &groups.items[i];
		printf("%-56s %4" PRIu64 "  %-28s %10s\n", group_name(g, name, sizeof name), g->count, g->detail,
		       cli_bytes(bytes, g->bytes));
	}
	groups_free(&groups);
	return 1;
}

static unsigned save_flags(void)
{
	return cli_save_flags(args.force, args.resume) | (args.consume ? (unsigned)TN_SAVE_CONSUME : 0) |
	       (args.receipt ? (unsigned)TN_SAVE_IDENTIFY : 0);
}

static int dry_run(const tn_fuse *fuse, const tn_checkpoint *base)
{
	struct tn_error err = { .code = TN_E_NOMEM, .msg = "memory ran out" };
	uint64_t memory;
	if (args.save_path && tn_fuse_check_path(fuse, args.save_path, save_flags(), &err) != TN_OK)
		return cli_fail(command.verb, &err);
	if (cli.json)
		return tn_fuse_plan_json(fuse, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail(command.verb, &err);
	if (tn_fuse_memory(fuse, &memory, &err) != TN_OK || !print_plan(fuse))
		return cli_fail(command.verb, &err);
	char bytes[CLI_NUMBER_BYTES], buffers[CLI_NUMBER_BYTES];
	printf("would merge %zu tensors and copy %zu: %s in %zu file%s, with %s of buffers; nothing was written\n",
	       tn_fuse_merged_count(fuse), tn_fuse_copied_count(fuse),
	       cli_bytes(bytes, tn_checkpoint_tensor_bytes(base)), tn_checkpoint_shard_count(base),
	       tn_checkpoint_shard_count(base) == 1 ? "" : "s", cli_bytes(buffers, memory));
	return EXIT_DONE;
}

/* ---- after the run --------------------------------------------------------------------------------------- */

/* What is left of the adapter, over all weights that stayed quantized. */
struct totals {
	size_t weights, lost, dithered, nearest, promoted;
	double least, worst_rho, noise;
	const char *least_name;
};

static struct totals add_up(const tn_fuse *fuse)
{
	struct totals t = { .least = HUGE_VAL };
	for (size_t i = 0; i < tn_fuse_count(fuse); i++) {
		const struct tn_planned_tensor *p = tn_fuse_at(fuse, i);
		const struct tn_survival *s = p->survival;
		if (!s)
			continue;
		t.weights++;
		t.lost += s->cap < 0.5;
		t.promoted += p->action == TN_ACTION_PROMOTE;
		t.dithered += p->action != TN_ACTION_PROMOTE && s->rounding == TN_ROUNDING_DITHER;
		t.nearest += p->action != TN_ACTION_PROMOTE && s->rounding == TN_ROUNDING_NEAREST;
		t.noise = s->noise > t.noise ? s->noise : t.noise;
		if (s->cap < t.least) {
			t.least = s->cap;
			t.least_name = p->tensor->name;
			t.worst_rho = s->rho;
		}
	}
	return t;
}

/* One line for each group of weights that are alike, with how much of the delta they keep. */
static int print_survival(const tn_fuse *fuse)
{
	struct groups groups = { 0 };
	for (size_t i = 0; i < tn_fuse_count(fuse); i++) {
		const struct tn_planned_tensor *p = tn_fuse_at(fuse, i);
		const struct tn_survival *s = p->survival;
		char detail[160];
		if (!s)
			continue;
		snprintf(detail, sizeof detail, "%s (%s)%s, %s", tn_action_name(p->action), p->scheme,
			 p->from_dense ? " from the dense base" : "", tn_rounding_name(s->rounding));
		if (!groups_add(&groups, p->tensor->name, detail, p->tensor->elements, p->tensor->bytes)) {
			groups_free(&groups);
			return 0;
		}
		groups_note(&groups, 100 * s->cap);
	}
	for (size_t i = 0; i < groups.count; i++) {
		char name[512];
		const struct group *g = &groups.items[i];
		printf("%-44s %4" PRIu64 "  %s, keeps %.0f", group_name(g, name, sizeof name), g->count, g->detail, g->least);
		if (g->most - g->least >= 0.5)
			printf("-%.0f", g->most);
		printf("%% of the delta\n");
	}
	groups_free(&groups);
	return 1;
}

static void print_totals(const tn_fuse *fuse)
{
	struct totals t = add_up(fuse);
	if (!t.weights)
		return;
	if (!cli.quiet)
		printf("%zu quantized weights changed: %zu by dither, %zu to nearest, %zu promoted; least kept %.1f%% (%s)\n",
		       t.weights, t.dithered, t.nearest, t.promoted, 100 * t.least, t.least_name);
	if (t.lost)
		fprintf(stderr,
			"tenon: warning: %zu of %zu weights lost most of the adapter: of '%s' %.0f%% is left, because "
			"the step of its grid is %.1f times the delta. %s\n",
			t.lost, t.weights, t.least_name, 100 * t.least, t.worst_rho,
			t.nearest ? "Use --rounding dither, --promote-bits 8 or --dequantize"
				  : "Use --promote-bits 8 or --dequantize");
}

/* The run and its receipt; 1 when all is well. What JSON cannot hold, as a path that is not UTF-8, is refused before the run. */
static int run_with_receipt(tn_fuse *fuse, struct tn_error *err)
{
	struct result_file receipt;
	if ((cli.json || args.receipt) && tn_fuse_plan_json(fuse, cli_discard, NULL, err) != TN_OK)
		return 0;
	if (!result_file_begin(&receipt, RESULT_RECEIPT, args.receipt, args.save_path, args.force, err))
		return 0;
	int done = tn_fuse_run(fuse, args.save_path, save_flags(), err) == TN_OK &&
		   (!args.receipt || tn_fuse_receipt(fuse, args.save_path, result_file_write, &receipt, err) == TN_OK) &&
		   result_file_end(&receipt, err);
	result_file_abort(&receipt);
	return done;
}

static int run(tn_fuse *fuse, const tn_checkpoint *base)
{
	struct tn_error err = { .code = TN_E_NOMEM, .msg = "memory ran out" };
	double start = cli_seconds();
	if (!run_with_receipt(fuse, &err))
		return cli_fail(command.verb, &err);
	double seconds = cli_seconds() - start;
	if (cli.json)
		return tn_fuse_plan_json(fuse, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail(command.verb, &err);
	char bytes[CLI_NUMBER_BYTES], rate[CLI_NUMBER_BYTES];
	uint64_t n = tn_checkpoint_tensor_bytes(base);
	if (!cli.quiet && !print_survival(fuse))
		return cli_fail(command.verb, &err);
	if (!cli.quiet)
		printf("merged %zu tensors, copied %zu: %s in %.2f s (%s/s) -> %s\n", tn_fuse_merged_count(fuse),
		       tn_fuse_copied_count(fuse), cli_bytes(bytes, n), seconds,
		       cli_bytes(rate, seconds > 0 ? (uint64_t)((double)n / seconds) : 0), cli_safe(args.save_path));
	print_totals(fuse);
	return EXIT_DONE;
}

/* What is said about quantized weights, where none that changes stays quantized. */
static void warn_unused(const tn_fuse *fuse)
{
	const char *unused = args.rounding ? "--rounding" : args.promote_bits ? "--promote-bits"
			     : args.fuse.min_survival > 0 ? "--min-survival" : NULL;
	for (size_t i = 0; unused && i < tn_fuse_count(fuse); i++) {
		tn_action action = tn_fuse_at(fuse, i)->action;
		if (action == TN_ACTION_REQUANTIZE || action == TN_ACTION_PROMOTE)
			return;
	}
	if (unused)
		fprintf(stderr, "tenon: warning: %s does nothing: no weight that changes stays quantized\n", unused);
}

/* -1: there is something to do; else the exit status of a run whose interrupted forerunner had done everything. */
static int settle(tn_context *ctx)
{
	struct tn_error err;
	int is_complete;
	if (!args.consume || !args.resume || args.dry_run)
		return -1;
	if (tn_fuse_settle_consumed(ctx, args.model, args.save_path, &is_complete, &err) != TN_OK)
		return cli_fail(command.verb, &err);
	if (!is_complete)
		return -1;
	if (!cli.quiet)
		printf("the interrupted run had put everything in its place -> %s\n", cli_safe(args.save_path));
	if (args.receipt)
		fprintf(stderr, "tenon: warning: it left no receipt, and the base is gone; tenon inspect shows what was made\n");
	return EXIT_DONE;
}

static int open_dense(tn_context *ctx, tn_checkpoint **dense, struct tn_error *err)
{
	int done = !args.dense_base || tn_checkpoint_open(ctx, args.dense_base, dense, err) == TN_OK;
	args.fuse.dense_base = *dense;
	return done;
}

static int fuse(tn_context *ctx)
{
	struct tn_error err;
	tn_checkpoint *base = NULL, *dense = NULL;
	struct joining joining = { .count = 0 };
	tn_fuse *plan = NULL;
	int status;
	status = settle(ctx);
	if (status >= 0)
		return status;
	if ((args.consume ? tn_checkpoint_open_consumed : tn_checkpoint_open)(ctx, args.model, &base, &err) != TN_OK ||
	    !open_dense(ctx, &dense, &err) || joining_open(ctx, &args.adapters, &joining, &args.fuse, &err) != TN_OK ||
	    tn_fuse_plan(ctx, base, joining.adapters[0], &args.fuse, &plan, &err) != TN_OK)
		status = cli_fail(command.verb, &err);
	else {
		warn_unused(plan);
		status = args.dry_run ? dry_run(plan, base) : run(plan, base);
	}
	tn_fuse_free(plan);
	joining_close(&joining);
	tn_checkpoint_close(dense);
	tn_checkpoint_close(base);
	return status;
}

/* EXIT_DONE when the words of the options are what they can be. */
static int read_words(void)
{
	static const tn_rounding roundings[] = { TN_ROUNDING_AUTO, TN_ROUNDING_DITHER, TN_ROUNDING_NEAREST };
	int found = !args.rounding;
	for (size_t i = 0; i < sizeof roundings / sizeof *roundings && !found; i++)
		if (strcmp(args.rounding, tn_rounding_name(roundings[i])) == 0) {
			args.fuse.rounding = roundings[i];
			found = 1;
		}
	if (!found)
		return cli_usage(&command, "'%s' is not a rounding: auto, dither, nearest", args.rounding);
	if (args.promote_bits && strcmp(args.promote_bits, "6") != 0 && strcmp(args.promote_bits, "8") != 0)
		return cli_usage(&command, "--promote-bits takes 6 or 8");
	if (args.promote_bits)
		args.fuse.promote_bits = args.promote_bits[0] - '0';
	if (args.fuse.dequantize && args.promote_bits)
		return cli_usage(&command, "--dequantize and --promote-bits exclude each other");
	if (args.fuse.dequantize && args.dense_base)
		return cli_usage(&command, "--dequantize and --dense-base exclude each other; give the dense folder as --model");
	return EXIT_DONE;
}

int cmd_fuse(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (args.upload_repo)
		return cli_usage(&command, "tenon does not upload; fuse first, then run: hf upload %s %s",
				 args.upload_repo, args.save_path ? args.save_path : "OUT");
	if (args.export_gguf || args.gguf_path)
		return cli_usage(&command,
				 "tenon writes no GGUF; fuse first, with --dequantize where the base is quantized, "
				 "then run llama.cpp's: convert_hf_to_gguf.py %s --outfile %s",
				 args.save_path ? args.save_path : "OUT",
				 args.gguf_path ? args.gguf_path : "ggml-model-f16.gguf");
	if (!args.model)
		return cli_usage(&command, "--model is missing");
	if (!args.adapters.count)
		return cli_usage(&command, "--adapter-path is missing");
	if (!args.save_path && (!args.dry_run || args.consume)) /* the base says for which folder it is used up */
		return cli_usage(&command, "--save-path is missing");
	if (args.consume && args.force)
		return cli_usage(&command, "--consume-input replaces nothing, so --force does not go with it");
	if (read_words() != EXIT_DONE)
		return EXIT_USAGE;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = fuse(ctx);
	tn_context_destroy(ctx);
	return status;
}
