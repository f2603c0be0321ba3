/* SPDX-License-Identifier: Apache-2.0 */
#include "joining.h"

static const struct cli_option options[] = { { CLI_FLAG, NULL, NULL, NULL, NULL } };

static const struct cli_command command = {
	.verb = "verify",
	.usage = "BASE ADAPTER[:WEIGHT]... MERGED [--json]",
	.about = "Computes BASE + ADAPTER again, row by row in double precision, and compares MERGED with it: the error of\n"
		 "every merged tensor in units in the last place, and every tensor that changed and should not have, or\n"
		 "should have and did not. Exit status 0 only if all is as it should be. MERGED may come from any tool.",
	.options = options,
	.positional_min = 3,
	.positional_max = 16,
};

static void print_line(const struct tn_verified_tensor *t)
{
	printf("%-11s %s", tn_verdict_name(t->verdict), cli_safe(t->name));
	if (t->rho > 0)
		printf("  (%.3g of the delta, cosine %.3g, noise %.3g; step/delta %.3g)", t->cap, t->cosine, t->noise, t->rho);
	else if (t->max_ulp > 0 || tn_verdict_is_good(t->verdict))
		printf("  (max %.3g ulp, rms %.3g ulp)", t->max_ulp, t->rms_ulp);
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
		printf("%zu weights lost most of the adapter: their grid is too coarse for it. Fuse with tenon fuse --rounding dither, "
		       "--promote-bits 8 or --dequantize\n", n.of[TN_VERDICT_LOST]);
}

static int verify(tn_context *ctx)
{
	struct tn_error err;
	tn_checkpoint *base = NULL, *merged = NULL;
	struct joining joining = { .count = 0 };
	struct tn_fuse_options fuse = TN_FUSE_OPTIONS_INIT;
	struct cli_list adapters = { .count = 0 };
	tn_verify *report = NULL;
	int status;
	for (int i = 1; i + 1 < cli.positional_count; i++)
		adapters.values[adapters.count++] = cli.positional[i];
	if (tn_checkpoint_open(ctx, cli.positional[0], &base, &err) != TN_OK ||
	    joining_open(ctx, &adapters, &joining, &fuse, &err) != TN_OK ||
	    tn_checkpoint_open(ctx, cli.positional[cli.positional_count - 1], &merged, &err) != TN_OK ||
	    tn_verify_run(ctx, base, joining.adapters[0], &fuse, merged, &report, &err) != TN_OK) {
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
	joining_close(&joining);
	tn_checkpoint_close(base);
	return status;
}

int cmd_verify(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = verify(ctx);
	tn_context_destroy(ctx);
	return status;
}
