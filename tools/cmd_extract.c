/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "derived.h"
#include "module_keys.h"

static struct {
	struct derived shared;
	const char *tuned, *task_type;
	struct cli_list keys;
	int save_rest, ignore_rest;
} args = { .shared = DERIVED_INIT };

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "folder of the model that was fine-tuned", &args.shared.model },
	{ CLI_TEXT, "--tuned-path", "TUNED", "folder of the fine-tuned model", &args.tuned },
	{ CLI_TEXT, "-o, --save-path", "OUT", "folder of the adapter to write", &args.shared.path },
	{ CLI_TEXT, "--rank", "R", "largest rank of a module (default: 16, without --energy)", &args.shared.rank },
	{ CLI_SHARE, "--energy", "E", "share of a module's change to keep, 0 to 1, by the smallest rank", &args.shared.energy },
	{ CLI_LIST, "--keys", "NAMES", "modules, separated by commas (default: all but embeddings and head)", &args.keys },
	{ CLI_TEXT, "--dialect", "NAME", "peft (the default) or mlx: who will load it", &args.shared.dialect },
	{ CLI_TEXT, "--dtype", "TYPE", "float32 (the default), bfloat16 or float16: of the factors", &args.shared.dtype },
	{ CLI_FLAG, "--save-rest", NULL, "what else changed goes along whole: norms, biases, embeddings", &args.save_rest },
	{ CLI_FLAG, "--ignore-rest", NULL, "what else changed is left out", &args.ignore_rest },
	{ CLI_TEXT, "--task-type", "TYPE", "of peft (default: CAUSAL_LM)", &args.task_type },
	{ CLI_TEXT, "--base-name", "NAME", "what the configuration calls the base (default: BASE)", &args.shared.base_name },
	{ CLI_FLAG, "--dry-run", NULL, "compute and report, and write nothing", &args.shared.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds an adapter and nothing else", &args.shared.force },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "extract",
	.usage = "--model BASE --tuned-path TUNED --save-path OUT [--rank R] [--energy E]",
	.about = "Writes what changed between BASE and its fine-tune TUNED as a LoRA adapter that PEFT, or mlx-lm, loads, and\n"
		 "says how much of the change it keeps. OUT appears whole or not at all; BASE and TUNED are only read.",
	.options = options,
};

/* ---- the call -------------------------------------------------------------------------------------------- */

static int check(struct tn_derive_options *o, struct tn_extract_options *e)
{
	struct tn_rank_rule rule;
	int status = derived_check(&command, &args.shared, &rule, o);
	if (status != EXIT_DONE)
		return status;
	if (!args.tuned)
		return cli_usage(&command, "--tuned-path is missing");
	if (args.save_rest && args.ignore_rest)
		return cli_usage(&command, "--save-rest and --ignore-rest exclude each other");
	if (args.shared.rank || args.shared.energy >= 0)
		e->rule = rule;
	e->others = args.save_rest ? TN_OTHERS_SAVED : args.ignore_rest ? TN_OTHERS_IGNORED : TN_OTHERS_REFUSED;
	o->task_type = args.task_type ? args.task_type : "CAUSAL_LM";
	return EXIT_DONE;
}

/* ---- the result ------------------------------------------------------------------------------------------ */

static void print_json(const struct derived *derived, const tn_draft *d)
{
	const struct tn_extracted *e = tn_draft_extracted(d);
	printf("{\n  \"compared\": %zu,\n  \"unchanged\": %zu,\n  \"kept\": ", e->modules, e->unchanged);
	cli_print_json_number(e->kept, 17);
	printf(",\n  \"rounding\": ");
	cli_print_json_number(e->rounding, 17);
	printf(",\n  \"rest\": {\"saved\": %s, \"tensors\": [", e->rest_is_saved ? "true" : "false");
	for (size_t i = 0; i < e->rest_count; i++) {
		printf("%s", i ? ", " : "");
		cli_print_json_text(e->rest[i]);
	}
	printf("]},\n  \"roundings\": {\n");
	for (size_t i = 0; i < tn_draft_derived_count(d); i++) {
		printf("    ");
		cli_print_json_text(tn_draft_derived_at(d, i)->path);
		printf(": ");
		cli_print_json_number(e->noise[i], 17);
		printf("%s\n", i + 1 < tn_draft_derived_count(d) ? "," : "");
	}
	printf("  },\n");
	derived_print(derived, d);
	printf("}\n");
}

static void print_text(const struct derived *derived, const tn_draft *d)
{
	const struct tn_extracted *e = tn_draft_extracted(d);
	const struct tn_derived_module *worst = tn_draft_derived_at(d, 0);
	for (size_t i = 1; i < tn_draft_derived_count(d); i++)
		if (tn_draft_derived_at(d, i)->kept < worst->kept)
			worst = tn_draft_derived_at(d, i);
	derived_print_all(derived, d);
	if (cli.quiet)
		return;
	printf("%.5g of the change is kept, least of '%s' with %.5g; modules without a change: %zu\n", e->kept,
	       cli_safe(worst->path), worst->kept, e->unchanged);
	if (e->rounding > 0.001)
		printf("%.3g of the change is no more than the rounding of TUNED makes\n", e->rounding);
	if (e->rest_count)
		printf("%zu other tensors or modules changed: %s\n", e->rest_count, e->rest_is_saved ? "saved whole" : "left out");
}

static int extract(tn_context *ctx, const struct tn_derive_options *o, const struct tn_extract_options *e)
{
	const struct derived *d = &args.shared;
	struct tn_error err;
	tn_checkpoint *base = NULL, *tuned = NULL;
	tn_draft *draft = NULL;
	int status = EXIT_DONE;
	if (!derived_open(d, ctx, &base, &err) || tn_checkpoint_open(ctx, args.tuned, &tuned, &err) != TN_OK ||
	    tn_draft_extract(base, tuned, o, e, &draft, &err) != TN_OK || !derived_save(d, draft, &err))
		status = cli_fail(command.verb, &err);
	else if (cli.json)
		print_json(d, draft);
	else
		print_text(d, draft);
	tn_draft_destroy(draft);
	tn_checkpoint_close(tuned);
	tn_checkpoint_close(base);
	return status;
}

int cmd_extract(int argc, char **argv)
{
	static struct module_keys keys;
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	struct tn_extract_options e = TN_EXTRACT_OPTIONS_INIT;
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	status = check(&o, &e);
	if (status == EXIT_DONE)
		status = module_keys_read(&command, &args.keys, &keys);
	if (status != EXIT_DONE)
		return status;
	e.keys = keys.names;
	e.key_count = keys.count;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = extract(ctx, &o, &e);
	tn_context_destroy(ctx);
	return status;
}
