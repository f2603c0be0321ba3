/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "module_keys.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *out, *rank, *scale, *alpha, *dropout, *num_layers, *type, *dialect, *seed, *init, *task_type, *base_name;
	struct cli_list keys;
	int force;
} args = { .task_type = "CAUSAL_LM" };

static const struct cli_option options[] = {
	{ CLI_TEXT, "-o, --save-path", "DIR", "folder to write", &args.out },
	{ CLI_TEXT, "--rank", "R", "rank of the factors (default: 8)", &args.rank },
	{ CLI_TEXT, "--scale", "S", "factor of B A (default: 20 for mlx)", &args.scale },
	{ CLI_TEXT, "--alpha", "A", "the same as scale * rank (default: 8 for peft)", &args.alpha },
	{ CLI_TEXT, "--num-layers", "N", "the last N layers, -1 for all (default: 16 for mlx, all for peft)", &args.num_layers },
	{ CLI_LIST, "--keys", "NAMES", "modules to adapt, separated by commas, or all-linear; may be repeated", &args.keys },
	{ CLI_TEXT, "--fine-tune-type", "TYPE", "lora (the default) or dora", &args.type },
	{ CLI_TEXT, "--dialect", "NAME", "mlx (the default) or peft: who will train it", &args.dialect },
	{ CLI_TEXT, "--init", "NAME", "mlx, kaiming, gaussian or xorshift (default: the dialect's)", &args.init },
	{ CLI_TEXT, "--seed", "N", "of the random numbers (default: 0)", &args.seed },
	{ CLI_TEXT, "--dropout", "P", "for the training, 0 to 1 (default: 0)", &args.dropout },
	{ CLI_TEXT, "--task-type", "TYPE", "of peft (default: CAUSAL_LM)", &args.task_type },
	{ CLI_TEXT, "--base-name", "NAME", "what the configuration calls the base (default: BASE)", &args.base_name },
	{ CLI_FLAG, "--force", NULL, "replace DIR if it holds an adapter and nothing else", &args.force },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "init",
	.usage = "BASE -o DIR [--rank R] [--scale S | --alpha A] [--keys NAMES] [--dialect mlx|peft]",
	.about = "Makes a new adapter for BASE, ready to be trained: a folder that mlx-lm, or PEFT, loads. It changes nothing\n"
		 "yet, because B is zero. DIR appears whole or not at all; BASE is only read.",
	.options = options,
	.positional_min = 1,
	.positional_max = 1,
};

/* ---- the call -------------------------------------------------------------------------------------------- */

static int read_number(const char *text, double *out)
{
	return !text || cli_number(text, out);
}

static int read_whole(const char *text, uint64_t *out)
{
	return !text || cli_whole(text, out);
}

static int read_layers(const char *text, int64_t *out)
{
	uint64_t n = 0;
	int negative = text && *text == '-';
	if (!read_whole(text ? text + negative : NULL, &n) || n > INT32_MAX)
		return 0;
	if (text)
		*out = negative || n == 0 ? -1 : (int64_t)n;
	return 1;
}

static int is_one_of(const char *text, const char *first, const char *second)
{
	return !text || strcmp(text, first) == 0 || strcmp(text, second) == 0;
}

/* A scale or alpha of zero would count as not given. */
static int read_scales(struct tn_create_options *o)
{
	if (args.scale && args.alpha)
		return cli_usage(&command, "--scale and --alpha exclude each other");
	if (!read_number(args.scale, &o->scale) || (args.scale && !(o->scale > 0)))
		return cli_usage(&command, "--scale takes a number above 0");
	if (!read_number(args.alpha, &o->alpha) || (args.alpha && !(o->alpha > 0)))
		return cli_usage(&command, "LoRA alpha must be > 0.0");
	if (!read_number(args.dropout, &o->dropout))
		return cli_usage(&command, "--dropout takes a number from 0 to 1");
	return EXIT_DONE;
}

static int read_words(struct tn_create_options *o)
{
	struct tn_error err;
	if (!is_one_of(args.type, "lora", "dora"))
		return cli_usage(&command, "'%s' is not a fine-tune type: lora, dora", args.type);
	if (!is_one_of(args.dialect, "mlx", "peft") && strcmp(args.dialect, "mlx-lm") != 0)
		return cli_usage(&command, "'%s' is not a dialect: mlx, peft", args.dialect);
	if (args.init && tn_init_from_name(args.init, &o->init, &err) != TN_OK)
		return cli_usage(&command, "%s", err.msg);
	o->dora = args.type && strcmp(args.type, "dora") == 0;
	o->dialect = args.dialect && strcmp(args.dialect, "peft") == 0 ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM;
	o->task_type = args.task_type;
	o->base_name = args.base_name;
	if (!read_whole(args.rank, &o->rank))
		return cli_usage(&command, "--rank takes a whole number");
	if (!read_whole(args.seed, &o->seed))
		return cli_usage(&command, "--seed takes a whole number");
	if (!read_layers(args.num_layers, &o->num_layers))
		return cli_usage(&command, "--num-layers takes a whole number");
	return EXIT_DONE;
}

/* What the library would refuse behind the base; the scale has been looked at. */
static int check_numbers(const struct tn_create_options *o)
{
	struct tn_error err;
	return tn_lora_check(o->rank, 1, o->dropout, &err) == TN_OK ? EXIT_DONE : cli_usage(&command, "%s", err.msg);
}

/* ---- the result ------------------------------------------------------------------------------------------ */

static void print_account(const char *key, const struct tn_account *a, const char *end)
{
	if (key)
		printf("  \"%s\": ", key);
	printf("{\"layer\": ");
	if (a->layer == TN_OUTSIDE_LAYERS)
		printf("null");
	else
		printf("%" PRId64, a->layer);
	printf(", \"modules\": %zu, \"trainable\": %" PRIu64 ", \"adapted\": %" PRIu64 ", \"bytes\": %" PRIu64
	       ", \"ratio\": %.6g}%s\n",
	       a->modules, a->trainable, a->adapted, a->bytes, a->ratio, end);
}

static void print_json(const tn_adapter *adapter, const struct tn_accounts *a)
{
	printf("{\n  \"path\": ");
	cli_print_json_text(args.out);
	printf(",\n  \"dialect\": \"%s\",\n  \"base_parameters\": %" PRIu64 ",\n  \"file_bytes\": %" PRIu64 ",\n",
	       tn_adapter_dialect_name(tn_adapter_dialect_of(adapter)), a->base_parameters, a->file_bytes);
	print_account("all", &a->all, ",");
	printf("  \"layers\": [\n");
	for (size_t i = 0; i < a->layer_count; i++) {
		printf("    ");
		print_account(NULL, &a->layers[i], i + 1 < a->layer_count ? "," : "");
	}
	printf("  ]\n}\n");
}

static void print_text(const tn_adapter *adapter, const struct tn_accounts *a)
{
	char trainable[CLI_NUMBER_BYTES], all[CLI_NUMBER_BYTES], bytes[CLI_NUMBER_BYTES];
	double share = a->base_parameters ? 100 * (double)a->all.trainable / (double)(a->base_parameters + a->all.trainable) : 0;
	printf("%zu modules in %zu %s, rank %" PRIu64 ", scale %g: %s trainable parameters of %s (%.3g%%), %s -> %s\n",
	       a->all.modules, a->layer_count, a->layer_count == 1 ? "layer" : "layers", tn_adapter_at(adapter, 0)->rank,
	       tn_adapter_at(adapter, 0)->scale, cli_count(trainable, a->all.trainable),
	       cli_count(all, a->base_parameters + a->all.trainable), share, cli_bytes(bytes, a->file_bytes), cli_safe(args.out));
}

static int init(tn_context *ctx, const struct tn_create_options *o)
{
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_draft *draft = NULL;
	struct tn_accounts accounts = { 0 };
	int status = EXIT_DONE;
	if (tn_checkpoint_open(ctx, cli.positional[0], &base, &err) != TN_OK ||
	    tn_draft_create(base, o, &draft, &err) != TN_OK ||
	    tn_adapter_account(ctx, tn_draft_adapter(draft), base, &accounts, &err) != TN_OK ||
	    tn_draft_save(draft, args.out, args.force, &err) != TN_OK)
		status = cli_fail(command.verb, &err);
	else if (cli.json)
		print_json(tn_draft_adapter(draft), &accounts);
	else if (!cli.quiet)
		print_text(tn_draft_adapter(draft), &accounts);
	tn_accounts_release(ctx, &accounts);
	tn_draft_destroy(draft);
	tn_checkpoint_close(base);
	return status;
}

int cmd_init(int argc, char **argv)
{
	static struct module_keys keys;
	struct tn_create_options o = TN_CREATE_OPTIONS_INIT;
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (!args.out)
		return cli_usage(&command, "-o is missing");
	if (read_scales(&o) != EXIT_DONE || read_words(&o) != EXIT_DONE || check_numbers(&o) != EXIT_DONE ||
	    module_keys_read(&command, &args.keys, &keys) != EXIT_DONE)
		return EXIT_USAGE;
	o.keys = keys.names;
	o.key_count = keys.count;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = init(ctx, &o);
	tn_context_destroy(ctx);
	return status;
}
