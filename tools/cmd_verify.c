/* SPDX-License-Identifier: Apache-2.0 */
#include "joining.h"

static struct {
	const char *receipt, *model, *dense_base;
	struct cli_list adapters;
} args;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--dense-base", "DIR", "what the quantized BASE was made from, when the fuse had it", &args.dense_base },
	{ CLI_TEXT, "--receipt", "FILE", "check a folder against what a run wrote down", &args.receipt },
	{ CLI_TEXT, "--model", "BASE", "with --receipt: where the base is now", &args.model },
	{ CLI_LIST, "--adapter-path", "ADAPTER", "with --receipt: where the adapter is now; may be repeated", &args.adapters },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "verify",
	.usage = "BASE ADAPTER[:WEIGHT]... MERGED | --receipt FILE [MERGED]",
	.about = "Computes BASE + ADAPTER again, row by row in double precision, and compares MERGED with it: the error of\n"
		 "every merged tensor in units in the last place, and every tensor that changed and should not have, or\n"
		 "should have and did not. Exit status 0 only if all is as it should be. MERGED may come from any tool.\n"
		 "With --receipt, every tensor and file of MERGED, and what bases and adapter hold, is held against it.",
	.options = options,
	.positional_min = 0,
	.positional_max = 16,
};

static void print_line(const struct tn_verified_tensor *t)
{
	printf("%-11s %s", tn_verdict_name(t->verdict), cli_safe(t->name));
	if (t->rho > 0)
		printf("  (%.3g of the delta, cosine %.3g, noise %.3g; step/delta %.3g)", t->cap, t->cosine, t->noise, t->rho);
	else if (t->max_ulp > 0 || tn_verdict_is_good(t->verdict))
		printf("  (max %.3g ulp, rms %.3g ulp)", t->max_ulp, t->rms_ulp);
	if (t->row != TN_VERIFY_NO_ROW)
		printf(", first in row %llu", (unsigned long long)t->row);
	printf("\n");
}

/* Numbers over all tensors. */
struct totals {
	size_t of[TN_VERDICT_RESHAPED + 1], bad;
	double max_ulp, rms_ulp, least_cap;
};

static struct totals add_up(const tn_verify *v)
{
	struct totals n = { .least_cap = 1 };
	for (size_t i = 0; i < tn_verify_count(v); i++) {
		const struct tn_verified_tensor *t = tn_verify_at(v, i);
		n.of[t->verdict]++;
		n.bad += !tn_verdict_is_good(t->verdict);
		if (t->verdict == TN_VERDICT_MERGED) {
			n.max_ulp = t->max_ulp > n.max_ulp ? t->max_ulp : n.max_ulp;
			n.rms_ulp = t->rms_ulp > n.rms_ulp ? t->rms_ulp : n.rms_ulp;
		}
		if (t->rho > 0 && t->cap < n.least_cap)
			n.least_cap = t->cap;
	}
	return n;
}

static void print_report(const tn_verify *v)
{
	struct totals n = add_up(v);
	for (size_t i = 0; i < tn_verify_count(v); i++) {
		const struct tn_verified_tensor *t = tn_verify_at(v, i);
		if (!tn_verdict_is_good(t->verdict) || cli.verbose)
			print_line(t);
	}
	if (cli.quiet)
		return;
	size_t requantized = n.of[TN_VERDICT_REQUANTIZED], dequantized = n.of[TN_VERDICT_DEQUANTIZED];
	printf("%s: %zu merged (max %.3g ulp, rms %.3g ulp), ", n.bad ? "NOT OK" : "ok", n.of[TN_VERDICT_MERGED], n.max_ulp,
	       n.rms_ulp);
	if (requantized)
		printf("%zu requantized (at least %.3g of the delta), ", requantized, n.least_cap);
	if (dequantized)
		printf("%zu dequantized, ", dequantized);
	printf("%zu identical, %zu wrong\n", n.of[TN_VERDICT_IDENTICAL], n.bad);
	if (n.of[TN_VERDICT_LOST])
		printf("%zu weights lost most of the adapter: their grid is too coarse for it. Fuse with tenon fuse --rounding "
		       "dither, --promote-bits 8 or --dequantize\n", n.of[TN_VERDICT_LOST]);
}

static int verify(tn_context *ctx)
{
	struct tn_error err;
	tn_checkpoint *base = NULL, *merged = NULL, *dense = NULL;
	struct joining joining = { .count = 0 };
	struct tn_fuse_options fuse = TN_FUSE_OPTIONS_INIT;
	struct cli_list adapters = { .count = 0 };
	tn_verify *report = NULL;
	int status;
	for (int i = 1; i + 1 < cli.positional_count; i++)
		adapters.values[adapters.count++] = cli.positional[i];
	if (tn_checkpoint_open(ctx, cli.positional[0], &base, &err) != TN_OK ||
	    (args.dense_base && tn_checkpoint_open(ctx, args.dense_base, &dense, &err) != TN_OK) ||
	    joining_open(ctx, &adapters, &joining, &fuse, &err) != TN_OK ||
	    tn_checkpoint_open(ctx, cli.positional[cli.positional_count - 1], &merged, &err) != TN_OK ||
	    (fuse.dense_base = dense, tn_verify_run(ctx, base, joining.adapters[0], &fuse, merged, &report, &err)) != TN_OK) {
		status = cli_fail(command.verb, &err);
	} else {
		status = tn_verify_ok(report) ? EXIT_DONE : EXIT_FAILED;
		if (!cli.json)
			print_report(report);
		else if (tn_verify_json(report, cli_write, NULL, &err) != TN_OK)
			status = cli_fail(command.verb, &err);
	}
	tn_verify_free(report);
	tn_checkpoint_close(merged);
	tn_checkpoint_close(dense);
	joining_close(&joining);
	tn_checkpoint_close(base);
	return status;
}

/* ---- against a receipt ----------------------------------------------------------------------------------- */

static void print_receipt_report(const tn_verify *v)
{
	size_t same = 0, bad = 0;
	for (size_t i = 0; i < tn_verify_count(v); i++) {
		const struct tn_verified_tensor *t = tn_verify_at(v, i);
		same += t->verdict == TN_VERDICT_IDENTICAL;
		bad += !tn_verdict_is_good(t->verdict);
		if (t->verdict != TN_VERDICT_IDENTICAL || cli.verbose)
			printf("%-13s %s\n", tn_verdict_name(t->verdict), cli_safe(t->name));
	}
	if (!cli.quiet)
		printf("%s: %zu tensors, files and inputs are as the receipt has them, %zu are not\n", bad ? "NOT OK" : "ok",
		       same, bad);
}

static int verify_receipt(tn_context *ctx)
{
	struct tn_error err;
	struct tn_receipt_inputs inputs = { cli.positional_count ? cli.positional[0] : NULL, args.model, args.adapters.values,
					    (size_t)args.adapters.count, args.dense_base };
	tn_verify *report = NULL;
	if (tn_verify_receipt(ctx, args.receipt, &inputs, &report, &err) != TN_OK)
		return cli_fail(command.verb, &err);
	int status = tn_verify_ok(report) ? EXIT_DONE : EXIT_FAILED;
	if (!cli.json)
		print_receipt_report(report);
	else if (tn_verify_json(report, cli_write, NULL, &err) != TN_OK)
		status = cli_fail(command.verb, &err);
	tn_verify_free(report);
	return status;
}

int cmd_verify(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (args.receipt && cli.positional_count > 1)
		return cli_usage(&command, "with --receipt at most one folder is expected, %d given", cli.positional_count);
	if (!args.receipt && (args.model || args.adapters.count))
		return cli_usage(&command, "--model and --adapter-path go with --receipt");
	if (!args.receipt && cli.positional_count < 3)
		return cli_usage(&command, "3 arguments are expected, %d given", cli.positional_count);
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = args.receipt ? verify_receipt(ctx) : verify(ctx);
	tn_context_destroy(ctx);
	return status;
}
