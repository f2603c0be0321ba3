/* SPDX-License-Identifier: Apache-2.0 */
#include "recoding.h"

static struct recoding args = { .request = TN_RECODE_REQUEST_INIT };
static const char *bits, *group_size, *dtype, *flavour;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model, --hf-path", "DIR", "folder of the model", &args.model },
	{ CLI_TEXT, "--save-path, --mlx-path", "OUT", "folder to write", &args.save_path },
	{ CLI_TEXT, "--q-bits", "B", "1, 2, 3, 4, 5, 6 or 8 (default: the mode's, 4 for affine)", &bits },
	{ CLI_TEXT, "--q-group-size", "G", "32, 64 or 128 (default: the mode's, 64 for affine)", &group_size },
	{ CLI_TEXT, "--q-mode", "M", "affine (the default), mxfp4, mxfp8 or nvfp4", &args.request.quantization.q.mode },
	{ CLI_TEXT, "--quant-predicate", "R", "mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6", &args.request.quantization.recipe },
	{ CLI_TEXT, "--dtype", "T", "float32, float16 or bfloat16, for scales and what stays dense", &dtype },
	{ CLI_TEXT, "--flavour", "F", "bytes of which MLX backend: cpu (the default), metal, cuda", &flavour },
	{ CLI_BYTES, "--max-shard-size", "SIZE", "most bytes of tensors in one file (default 5G)", &args.request.shard_bytes },
	{ CLI_TEXT, "--receipt", "FILE", "also write what was done as JSON", &args.receipt },
	{ CLI_FLAG, "--dry-run", NULL, "print what would be done, and do nothing", &args.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds a model", &args.force },
	{ CLI_FLAG, "--resume", NULL, "keep the finished shards of an interrupted run of the same job", &args.resume },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "quantize",
	.usage = "--model DIR --save-path OUT [--q-bits B] [--q-group-size G] [--q-mode M]",
	.about = "Writes the model with quantized weights in MLX's layout, the bytes that MLX on a CPU writes. Layers are chosen\n"
		 "as mlx_lm.convert chooses them: embeddings and linears whose width the group size divides.",
	.options = options,
};

int cmd_quantize(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	args.command = &command;
	args.request.quantize = 1;
	struct tn_quantization *q = &args.request.quantization.q;
	if (!args.model)
		return cli_usage(&command, "--model is missing");
	if (!args.save_path && !args.dry_run)
		return cli_usage(&command, "--save-path is missing");
	if (!recoding_number(bits, &q->bits) || !recoding_number(group_size, &q->group_size))
		return cli_usage(&command, "--q-bits and --q-group-size take whole numbers from 1");
	if (!recoding_mode(q->mode))
		return cli_usage(&command, "'%s' is not a mode: affine, mxfp4, mxfp8, nvfp4", q->mode);
	if (!recoding_dtype(dtype, &args.request.dtype))
		return cli_usage(&command, "'%s' is not a dtype: float32, float16, bfloat16", dtype);
	if (!recoding_flavour(flavour, &args.request.flavour))
		return cli_usage(&command, "'%s' is not a flavour: cpu, metal, cuda", flavour);
	return run_recoding(&args);
}
