/* SPDX-License-Identifier: Apache-2.0 */
#include "recoding.h"

static struct recoding args = { .request = TN_RECODE_REQUEST_INIT };
static const char *dtype;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model, --hf-path", "DIR", "folder of the model", &args.model },
	{ CLI_TEXT, "--save-path, --mlx-path", "OUT", "folder to write", &args.save_path },
	{ CLI_TEXT, "--dtype", "T", "float32, float16 or bfloat16 for all floating tensors (default: as MLX chooses)", &dtype },
	{ CLI_FLAG, "--like-mlx", NULL, "with MLX's own two roundings, for the same bytes; else exact, rounded once",
	  &args.request.like_mlx },
	{ CLI_BYTES, "--max-shard-size", "SIZE", "most bytes of tensors in one file (default 5G)", &args.request.shard_bytes },
	{ CLI_TEXT, "--receipt", "FILE", "also write what was done as JSON", &args.receipt },
	{ CLI_FLAG, "--dry-run", NULL, "print what would be done, and do nothing", &args.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds a model", &args.force },
	{ CLI_FLAG, "--resume", NULL, "keep the finished shards of an interrupted run of the same job", &args.resume },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "dequantize",
	.usage = "--model DIR --save-path OUT [--dtype float32|float16|bfloat16]",
	.about = "Writes the model with dense weights: every quantized matrix decoded exactly and rounded once.",
	.options = options,
};

int cmd_dequantize(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	args.command = &command;
	args.request.dequantize = 1;
	if (!args.model)
		return cli_usage(&command, "--model is missing");
	if (!args.save_path && !args.dry_run)
		return cli_usage(&command, "--save-path is missing");
	if (!recoding_dtype(dtype, &args.request.dtype))
		return cli_usage(&command, "'%s' is not a dtype: float32, float16, bfloat16", dtype);
	return run_recoding(&args);
}
