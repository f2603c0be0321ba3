/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

static const struct cli_option options[] = { { CLI_FLAG, NULL, NULL, NULL, NULL } };

static const struct cli_command command = {
	.verb = "verify",
	.usage = "BASE ADAPTER MERGED [--json]",
	.about = "Computes BASE + ADAPTER again, row by row in double precision, and compares MERGED with it: the error of\n"
		 "every merged tensor in units in the last place, and every tensor that changed and should not have, or\n"
		 "should have and did not. Exit status 0 only if all is as it should be. MERGED may come from any tool.",
	.options = options,
	.positional_min = 3,
	.positional_max = 3,
};

static void print_report(const tn_verify *v)
{
	size_t identical = 0, merged = 0, bad = 0;
	double worst = 0, rms = 0;
	for (size_t i = 0; i < tn_verify_count(v); i++) {
		const struct tn_verified_tensor *t = tn_verify_at(v, i);
		identical += t->verdict == TN_VERDICT_IDENTICAL;
		merged += t->verdict == TN_VERDICT_MERGED;
		if (t->verdict == TN_VERDICT_MERGED) {
			worst = t->max_ulp > worst ? t->max_ulp : worst;
			rms = t->rms_ulp > rms ? t->rms_ulp : rms;
		}
		if (!tn_verdict_is_good(t->verdict)) {
			bad++;
			printf("%-11s %s", tn_verdict_name(t->verdict), cli_safe(t->name));
			if (t->max_ulp > 0)
				printf("  (max %.3g ulp, rms %.3g ulp)", t->max_ulp, t->rms_ulp);
			printf("\n");
		} else if (cli.verbose) {
			printf("%-11s %s  (max %.3g ulp, rms %.3g ulp)\n", tn_verdict_name(t->verdict), cli_safe(t->name),
			       t->max_ulp, t->rms_ulp);
		}
	}
	if (!cli.quiet)
		printf("%s: %zu merged (max %.3g ulp, rms %.3g ulp), %zu identical, %zu wrong\n", bad ? "NOT OK" : "ok", merged,
		       worst, rms, identical, bad);
}

static int verify(tn_context *ctx)
{
	struct tn_error err;
	tn_checkpoint *base = NULL, *merged = NULL;
	tn_adapter *adapter = NULL;
	tn_verify *report = NULL;
	int status;
	if (tn_checkpoint_open(ctx, cli.positional[0], &base, &err) != TN_OK ||
	    tn_adapter_open(ctx, cli.positional[1], &adapter, &err) != TN_OK ||
	    tn_checkpoint_open(ctx, cli.positional[2], &merged, &err) != TN_OK ||
	    tn_verify_run(ctx, base, adapter, merged, &report, &err) != TN_OK) {
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
	tn_adapter_close(adapter);
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
