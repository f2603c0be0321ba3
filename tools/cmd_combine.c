/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "derived.h"
#include "joining.h"

#include <string.h>

static struct {
	struct derived shared;
	const char *type, *method;
	struct cli_list adapters;
	uint64_t seed;
	double density;
} args = { .shared = DERIVED_INIT, .density = -1 };

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "folder of the base model", &args.shared.model },
	{ CLI_LIST, "--adapter-path", "ADAPTER", "folder or file of an adapter, or PATH:WEIGHT; may be repeated", &args.adapters },
	{ CLI_TEXT, "-o, --save-path", "OUT", "folder of the adapter to write", &args.shared.path },
	{ CLI_TEXT, "--combination-type", "TYPE", "one of these (default: cat)", &args.type },
	{ CLI_TEXT, "--rank", "R", "compress to this rank (default: cat adds ranks up, svd takes the largest)",
	  &args.shared.rank },
	{ CLI_SHARE, "--energy", "E", "compress to the smallest rank that keeps this share, 0 to 1", &args.shared.energy },
	{ CLI_SHARE, "--density", "D", "part of the numbers that stays, where the type leaves some out", &args.density },
	{ CLI_TEXT, "--majority-sign-method", "M", "of ties: total (the default) or frequency", &args.method },
	{ CLI_WHOLE, "--seed", "N", "of what dare leaves out (default: 0)", &args.seed },
	{ CLI_TEXT, "--dialect", "NAME", "peft or mlx: who will load it (default: whose the first is, else peft)",
	  &args.shared.dialect },
	{ CLI_TEXT, "--dtype", "TYPE", "float32, bfloat16 or float16 (default: the source's where it holds them)",
	  &args.shared.dtype },
	{ CLI_TEXT, "--base-name", "NAME", "what the configuration calls the base (default: as it was)", &args.shared.base_name },
	{ CLI_FLAG, "--dry-run", NULL, "compute and report, and write nothing", &args.shared.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds an adapter and nothing else", &args.shared.force },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "combine",
	.usage = "--model BASE --adapter-path ADAPTER[:W] --adapter-path ADAPTER[:W] ... --save-path OUT",
	.about = "Writes several adapters of BASE, of any dialects, as one: their sum (cat), of which nothing is lost, or what\n"
		 "PEFT's other types of combinations make of them: svd (the sum, compressed), linear, ties, dare_linear,\n"
		 "dare_ties, magnitude_prune (on the factors), ties_svd, dare_linear_svd, dare_ties_svd, magnitude_prune_svd\n"
		 "(on the products). OUT appears whole or not at all; BASE and the adapters are only read.",
	.options = options,
};

static int read_type(struct tn_combine_options *c)
{
	struct tn_error err;
	if (args.type && tn_combination_from_name(args.type, &c->type, &err) != TN_OK)
		return cli_usage(&command, "%s", err.msg);
	if (args.method && strcmp(args.method, "total") != 0 && strcmp(args.method, "frequency") != 0)
		return cli_usage(&command, "'%s' is no way to elect signs: total, frequency", args.method);
	if (tn_combination_has_density(c->type) != (args.density >= 0) || args.density == 0)
		return cli_usage(&command, tn_combination_has_density(c->type) ? "%s needs a --density above 0, at most 1"
									       : "%s leaves nothing out; --density is not for it",
				 tn_combination_name(c->type));
	c->by_frequency = args.method && strcmp(args.method, "frequency") == 0;
	c->density = args.density >= 0 ? args.density : 0;
	c->seed = args.seed;
	return EXIT_DONE;
}

static int check(struct tn_combine_options *c, struct tn_derive_options *o)
{
	int status = derived_check(&command, &args.shared, &c->rule, o);
	if (status != EXIT_DONE)
		return status;
	if (!args.adapters.count)
		return cli_usage(&command, "--adapter-path is missing");
	return read_type(c);
}

/* The adapters are opened as for a fuse: the first apart. */
static tn_status draft_of(tn_context *ctx, const tn_checkpoint *base, struct joining *joining, struct tn_derive_options *o,
			  const struct tn_combine_options *c, tn_draft **out, struct tn_error *err)
{
	struct tn_fuse_options fuse = TN_FUSE_OPTIONS_INIT;
	struct tn_weighted_adapter all[CLI_MOST_VALUES];
	tn_status status = joining_open(ctx, &args.adapters, joining, &fuse, err);
	if (status != TN_OK)
		return status;
	for (int i = 0; i < joining->count; i++)
		if (!derived_keeps(&args.shared, joining->adapters[i], err))
			return err->code;
	all[0] = (struct tn_weighted_adapter){ joining->adapters[0], fuse.weight };
	for (size_t i = 0; i < fuse.more_count; i++)
		all[i + 1] = fuse.more[i];
	return tn_draft_combine(all, fuse.more_count + 1, base, derived_for(&args.shared, joining->adapters[0], o), c, out, err);
}

static int combine(tn_context *ctx, struct tn_derive_options *o, const struct tn_combine_options *c)
{
	const struct derived *d = &args.shared;
	struct joining joining = { .count = 0 };
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_draft *draft = NULL;
	int status = EXIT_DONE;
	if (!derived_open(d, ctx, &base, &err) || draft_of(ctx, base, &joining, o, c, &draft, &err) != TN_OK ||
	    !derived_save(d, draft, &err))
		status = cli_fail(command.verb, &err);
	else
		derived_print_all(d, draft);
	tn_draft_destroy(draft);
	joining_close(&joining);
	tn_checkpoint_close(base);
	return status;
}

int cmd_combine(int argc, char **argv)
{
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	struct tn_combine_options c = TN_COMBINE_OPTIONS_INIT;
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	status = check(&c, &o);
	if (status != EXIT_DONE)
		return status;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = combine(ctx, &o, &c);
	tn_context_destroy(ctx);
	return status;
}
