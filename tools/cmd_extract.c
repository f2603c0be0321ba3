/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "derived.h"
#include "groups.h"
#include "module_keys.h"

#include <inttypes.h>
#include <string.h>

static struct {
	const char *model, *tuned, *out, *dialect, *dtype, *base_name, *task_type;
	uint64_t rank;
	double energy;
	struct cli_list keys;
	int save_rest, ignore_rest, force, dry_run;
} args = { .rank = UINT64_MAX, .energy = -1 };

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "folder of the model that was fine-tuned", &args.model },
	{ CLI_TEXT, "--tuned-path", "TUNED", "folder of the fine-tuned model", &args.tuned },
	{ CLI_TEXT, "-o, --save-path", "OUT", "folder of the adapter to write", &args.out },
	{ CLI_WHOLE, "--rank", "R", "largest rank of a module (default: 16, without --energy)", &args.rank },
	{ CLI_SHARE, "--energy", "E", "share of a module's change to keep, 0 to 1, by the smallest rank", &args.energy },
	{ CLI_LIST, "--keys", "NAMES", "modules, separated by commas (default: all but embeddings and head)", &args.keys },
	{ CLI_TEXT, "--dialect", "NAME", "peft (the default) or mlx: who will load it", &args.dialect },
	{ CLI_TEXT, "--dtype", "TYPE", "float32 (the default), bfloat16 or float16: of the factors", &args.dtype },
	{ CLI_FLAG, "--save-rest", NULL, "what else changed goes along whole: norms, biases, embeddings", &args.save_rest },
	{ CLI_FLAG, "--ignore-rest", NULL, "what else changed is left out", &args.ignore_rest },
	{ CLI_TEXT, "--task-type", "TYPE", "of peft (default: CAUSAL_LM)", &args.task_type },
	{ CLI_TEXT, "--base-name", "NAME", "what the configuration calls the base (default: BASE)", &args.base_name },
	{ CLI_FLAG, "--dry-run", NULL, "compute and report, and write nothing", &args.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds an adapter and nothing else", &args.force },
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

static int read_dtype(struct tn_derive_options *o)
{
	static const struct {
		const char *name;
		tn_dtype dtype;
	} dtypes[] = { { "float32", TN_F32 }, { "bfloat16", TN_BF16 }, { "float16", TN_F16 } };
	if (!args.dtype)
		return EXIT_DONE;
	for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
		if (strcmp(args.dtype, dtypes[i].name) == 0) {
			o->keep_dtype = 0;
			o->dtype = dtypes[i].dtype;
			return EXIT_DONE;
		}
	return cli_usage(&command, "'%s' is not a dtype: float32, bfloat16, float16", args.dtype);
}

static int read_words(struct tn_derive_options *o)
{
	if (args.dialect && !derived_dialect(args.dialect, &o->dialect))
		return cli_usage(&command, "'%s' is not a dialect: peft, mlx", args.dialect);
	o->task_type = args.task_type ? args.task_type : "CAUSAL_LM";
	o->base_name = args.base_name;
	return read_dtype(o);
}

static int read_rule(struct tn_extract_options *e)
{
	int rank_given = args.rank != UINT64_MAX, energy_given = args.energy >= 0;
	if (args.rank == 0)
		return cli_usage(&command, "LoRA rank must be > 0");
	if (args.energy == 0)
		return cli_usage(&command, "--energy takes a share above 0, at most 1");
	if (args.save_rest && args.ignore_rest)
		return cli_usage(&command, "--save-rest and --ignore-rest exclude each other");
	if (rank_given || energy_given)
		e->rule = (struct tn_rank_rule){ rank_given ? args.rank : 0, energy_given ? args.energy : 1 };
	e->others = args.save_rest ? TN_OTHERS_SAVED : args.ignore_rest ? TN_OTHERS_IGNORED : TN_OTHERS_REFUSED;
	return EXIT_DONE;
}

/* ---- the result ------------------------------------------------------------------------------------------ */

static void print_json_modules(const tn_draft *d, const struct tn_extracted *e)
{
	for (size_t i = 0; i < tn_draft_derived_count(d); i++) {
		const struct tn_derived_module *m = tn_draft_derived_at(d, i);
		printf("    {\"path\": ");
		cli_print_json_text(m->path);
		printf(", \"kind\": \"%s\", \"rank_before\": null, \"rank\": %" PRIu64 ", \"kept\": %.6g, \"rounding\": %.6g}%s\n",
		       tn_module_kind_name(m->kind), m->rank, m->kept, e->noise[i], i + 1 < tn_draft_derived_count(d) ? "," : "");
	}
}

static void print_json(const tn_draft *d, uint64_t bytes)
{
	const struct tn_extracted *e = tn_draft_extracted(d);
	printf("{\n  \"path\": ");
	if (args.out)
		cli_print_json_text(args.out);
	else
		printf("null");
	printf(",\n  \"saved\": %s,\n  \"dialect\": \"%s\",\n  \"file_bytes\": %" PRIu64 ",\n  \"parameters\": %" PRIu64 ",\n",
	       args.dry_run ? "false" : "true", tn_adapter_dialect_name(tn_adapter_dialect_of(tn_draft_adapter(d))), bytes,
	       tn_adapter_parameters(tn_draft_adapter(d)));
	printf("  \"compared\": %zu,\n  \"unchanged\": %zu,\n  \"kept\": %.6g,\n  \"rounding\": %.6g,\n", e->modules, e->unchanged,
	       e->kept, e->rounding);
	printf("  \"rest\": {\"saved\": %s, \"tensors\": [", e->rest_is_saved ? "true" : "false");
	for (size_t i = 0; i < e->rest_count; i++) {
		printf("%s", i ? ", " : "");
		cli_print_json_text(e->rest[i]);
	}
	printf("]},\n  \"modules\": [\n");
	print_json_modules(d, e);
	printf("  ]\n}\n");
}

/* Modules of one kind and rank in a line, with what the worst of them keeps. */
static int print_modules(const tn_draft *d)
{
	struct groups groups = { 0 };
	int done = 1;
	for (size_t i = 0; i < tn_draft_derived_count(d) && done; i++) {
		const struct tn_derived_module *m = tn_draft_derived_at(d, i);
		char detail[64];
		snprintf(detail, sizeof detail, "rank %" PRIu64, m->rank);
		done = groups_add(&groups, m->path, detail, 0, 0);
		if (done)
			groups_note(&groups, m->kept);
	}
	for (size_t i = 0; i < groups.count && done; i++) {
		char name[512], range[48] = "";
		const struct group *g = &groups.items[i];
		if (g->most > g->least)
			snprintf(range, sizeof range, " to %.5g", g->most);
		printf("%-56s %4" PRIu64 "  %-10s keeps %.5g%s\n", group_name(g, name, sizeof name), g->count, g->detail,
		       g->least, range);
	}
	groups_free(&groups);
	return done;
}

static void print_text(const tn_draft *d, uint64_t file_bytes)
{
	const struct tn_extracted *e = tn_draft_extracted(d);
	const struct tn_derived_module *worst = tn_draft_derived_at(d, 0);
	char bytes[CLI_NUMBER_BYTES];
	for (size_t i = 1; i < tn_draft_derived_count(d); i++)
		if (tn_draft_derived_at(d, i)->kept < worst->kept)
			worst = tn_draft_derived_at(d, i);
	printf("%zu modules, %.5g of their change is kept, least of '%s' with %.5g; unchanged: %zu\n",
	       tn_draft_derived_count(d), e->kept, cli_safe(worst->path), worst->kept, e->unchanged);
	if (e->rounding > 0.001)
		printf("%.3g of the change is no more than the rounding of TUNED makes\n", e->rounding);
	if (e->rest_count)
		printf("%zu other tensors or modules changed: %s\n", e->rest_count, e->rest_is_saved ? "saved whole" : "left out");
	printf("%s%s%s\n", cli_bytes(bytes, file_bytes), args.dry_run ? ", nothing was written" : " -> ",
	       args.dry_run ? "" : cli_safe(args.out));
}

static uint64_t count_bytes(const tn_draft *d)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < tn_draft_count(d); i++)
		bytes += tn_draft_at(d, i)->elements * tn_dtype_bits(tn_draft_at(d, i)->dtype) / 8;
	return bytes;
}

static int show(const tn_draft *d)
{
	if (cli.json) {
		print_json(d, count_bytes(d));
		return 1;
	}
	if (cli.quiet)
		return 1;
	if (!print_modules(d))
		return 0;
	print_text(d, count_bytes(d));
	return 1;
}

static int extract(tn_context *ctx, const struct tn_derive_options *o, const struct tn_extract_options *e)
{
	struct tn_error err;
	tn_checkpoint *base = NULL, *tuned = NULL;
	tn_draft *draft = NULL;
	tn_status status = args.dry_run ? TN_OK : tn_draft_check_path(ctx, args.out, args.force, &err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, args.model, &base, &err);
	if (status == TN_OK)
		status = tn_checkpoint_open(ctx, args.tuned, &tuned, &err);
	if (status == TN_OK)
		status = tn_draft_extract(base, tuned, o, e, &draft, &err);
	if (status == TN_OK && !derived_save(&(struct derived){ args.out, args.force, args.dry_run }, draft, &err))
		status = err.code;
	if (status == TN_OK && !show(draft))
		status = cli_no_memory(&err);
	tn_draft_destroy(draft);
	tn_checkpoint_close(tuned);
	tn_checkpoint_close(base);
	return status == TN_OK ? EXIT_DONE : cli_fail(command.verb, &err);
}

int cmd_extract(int argc, char **argv)
{
	static struct module_keys keys;
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	struct tn_extract_options e = TN_EXTRACT_OPTIONS_INIT;
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (!args.model || !args.tuned)
		return cli_usage(&command, "--%s is missing", args.model ? "tuned-path" : "model");
	if (!args.out && !args.dry_run)
		return cli_usage(&command, "--save-path is missing");
	if (read_words(&o) != EXIT_DONE || read_rule(&e) != EXIT_DONE ||
	    module_keys_read(&command, &args.keys, &keys) != EXIT_DONE)
		return EXIT_USAGE;
	e.keys = keys.names;
	e.key_count = keys.count;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = extract(ctx, &o, &e);
	tn_context_destroy(ctx);
	return status;
}
