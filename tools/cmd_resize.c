/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "derived.h"

static struct {
	struct derived shared;
	const char *adapter;
} args = { DERIVED_INIT, NULL };

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "folder of the base model", &args.shared.model },
	{ CLI_TEXT, "--adapter-path", "ADAPTER", "folder or file of the adapter", &args.adapter },
	{ CLI_TEXT, "-o, --save-path", "OUT", "folder of the adapter to write", &args.shared.path },
	{ CLI_TEXT, "--rank", "R", "largest rank of a module", &args.shared.rank },
	{ CLI_SHARE, "--energy", "E", "share of each module's change to keep, 0 to 1, by the smallest rank", &args.shared.energy },
	{ CLI_TEXT, "--dialect", "NAME", "peft or mlx: who will load it (default: whose it is, else peft)", &args.shared.dialect },
	{ CLI_TEXT, "--dtype", "TYPE", "float32, bfloat16 or float16 (default: float32 where factors are new)",
	  &args.shared.dtype },
	{ CLI_TEXT, "--base-name", "NAME", "what the configuration calls the base (default: as it was)", &args.shared.base_name },
	{ CLI_FLAG, "--dry-run", NULL, "compute and report, and write nothing", &args.shared.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds an adapter and nothing else", &args.shared.force },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "resize",
	.usage = "--model BASE --adapter-path ADAPTER --save-path OUT [--rank R] [--energy E]",
	.about = "Writes ADAPTER with lower ranks: of what it does to each module the nearest of that rank, and says how much\n"
		 "of it is kept. OUT appears whole or not at all; BASE and ADAPTER are only read.",
	.options = options,
};

static int check(struct tn_rank_rule *rule, struct tn_derive_options *o)
{
	int status = derived_check(&command, &args.shared, rule, o);
	if (status != EXIT_DONE)
		return status;
	if (!args.adapter)
		return cli_usage(&command, "--adapter-path is missing");
	if (!args.shared.rank && args.shared.energy < 0)
		return cli_usage(&command, "--rank or --energy says how small the adapter shall be");
	return EXIT_DONE;
}

static int resize(tn_context *ctx, struct tn_derive_options *o, const struct tn_rank_rule *rule)
{
	const struct derived *d = &args.shared;
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_adapter *adapter = NULL;
	tn_draft *draft = NULL;
	int status = EXIT_DONE;
	if (!derived_open(d, ctx, &base, &err) || tn_adapter_open(ctx, args.adapter, &adapter, &err) != TN_OK ||
	    !derived_keeps(d, adapter, &err) ||
	    tn_draft_resize(adapter, base, derived_for(d, adapter, o), rule, &draft, &err) != TN_OK ||
	    !derived_save(d, draft, &err))
		status = cli_fail(command.verb, &err);
	else
		derived_print_all(d, draft);
	tn_draft_destroy(draft);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
	return status;
}

int cmd_resize(int argc, char **argv)
{
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	struct tn_rank_rule rule;
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	status = check(&rule, &o);
	if (status != EXIT_DONE)
		return status;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = resize(ctx, &o, &rule);
	tn_context_destroy(ctx);
	return status;
}
