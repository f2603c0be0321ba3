/* SPDX-License-Identifier: Apache-2.0 */
/* Options and their meaning: mlx-lm 0.32.2, mlx_lm/convert.py. */
#include "convert_adapter.h"
#include "recoding.h"

#include <string.h>
#include <sys/stat.h>

static struct recoding args = { .request = TN_RECODE_REQUEST_INIT };
static const char *bits, *group_size, *dtype, *upload_repo, *to, *adapter, *base_name;
static int quantize, dequantize, trust_remote_code, force;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--hf-path, --model", "DIR", "folder of the model", &args.model },
	{ CLI_TEXT, "--mlx-path, --save-path", "OUT", "folder to write (default: mlx_model); must not exist", &args.save_path },
	{ CLI_FLAG, "-q, --quantize", NULL, "quantize", &quantize },
	{ CLI_TEXT, "--q-bits", "B", "1, 2, 3, 4, 5, 6 or 8 (default: the mode's, 4 for affine)", &bits },
	{ CLI_TEXT, "--q-group-size", "G", "32, 64 or 128 (default: the mode's, 64 for affine)", &group_size },
	{ CLI_TEXT, "--q-mode", "M", "affine (the default), mxfp4, mxfp8 or nvfp4", &args.request.quantization.q.mode },
	{ CLI_TEXT, "--quant-predicate", "R", "mixed_2_6, mixed_3_4, mixed_3_6 or mixed_4_6", &args.request.quantization.recipe },
	{ CLI_TEXT, "--dtype", "T", "float32, float16 or bfloat16 (default: torch_dtype of config.json)", &dtype },
	{ CLI_FLAG, "-d, --dequantize", NULL, "write dense weights, with MLX's own roundings", &dequantize },
	{ CLI_TEXT, "--to", "F", "what others packed as mlx (the same values) or dense; or any model as bnb-nf4", &to },
	{ CLI_FLAG, "--requantize", NULL, "with --to mlx or -q: what MLX cannot hold is decoded and quantized anew",
	  &args.request.requantize },
	{ CLI_BYTES, "--max-shard-size", "SIZE", "most bytes of tensors in one file (default 5G)", &args.request.shard_bytes },
	{ CLI_TEXT, "--receipt", "FILE", "also write what was done as JSON", &args.receipt },
	{ CLI_FLAG, "--dry-run", NULL, "print what would be done, and do nothing", &args.dry_run },
	{ CLI_FLAG, "--resume", NULL, "keep the finished shards of an interrupted run of the same job", &args.resume },
	{ CLI_TEXT, "--upload-repo", "REPO", "not done by tenon; says what to run instead", &upload_repo },
	{ CLI_TEXT, "--adapter-path", "PATH", "convert this adapter of the model, and not the model: --to peft or --to mlx",
	  &adapter },
	{ CLI_TEXT, "--base-name", "NAME", "of an adapter: what its configuration calls the base (default: as it was)",
	  &base_name },
	{ CLI_FLAG, "--force", NULL, "of an adapter: replace OUT if it holds an adapter and nothing else", &force },
	{ CLI_FLAG, "--trust-remote-code", NULL, "accepted; tenon runs no code of models", &trust_remote_code },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "convert",
	.usage = "--hf-path DIR [--mlx-path OUT] [-q ...] [-d] [--dtype T]",
	.about = "What mlx_lm.convert does, with its options: the same tensors, byte for byte, the same config.json and index.\n"
		 "What it skips or ignores in silence, this says. With --adapter-path: an adapter of PEFT, mlx-lm, kohya or\n"
		 "llama.cpp as one that PEFT, or mlx-lm, loads; --to, --dtype, --save-path and --dry-run hold for it too.",
	.options = options,
};

static int check(void)
{
	struct tn_quantization *q = &args.request.quantization.q;
	if (upload_repo)
		return cli_usage(&command, "tenon does not upload; convert first, then run: hf upload %s %s",
				 upload_repo, args.save_path);
	if (!args.model)
		return cli_usage(&command, "--hf-path is missing");
	if (force || base_name)
		return cli_usage(&command, "--force and --base-name go with --adapter-path");
	if (!recoding_number(bits, &q->bits) || !recoding_number(group_size, &q->group_size))
		return cli_usage(&command, "--q-bits and --q-group-size take whole numbers from 1");
	if (!recoding_mode(q->mode))
		return cli_usage(&command, "'%s' is not a mode: affine, mxfp4, mxfp8, nvfp4", q->mode);
	if (!recoding_dtype(dtype, &args.request.dtype))
		return cli_usage(&command, "'%s' is not a dtype: float32, float16, bfloat16", dtype);
	if (to && strcmp(to, "mlx") != 0 && strcmp(to, "dense") != 0 && strcmp(to, "bnb-nf4") != 0)
		return cli_usage(&command, "'%s' is no target: mlx, dense, bnb-nf4", to);
	if (to && strcmp(to, "bnb-nf4") == 0 && (quantize || dequantize || args.request.requantize))
		return cli_usage(&command, "--to bnb-nf4 is a quantization of its own; leave out -q, -d and --requantize");
	if (args.request.requantize && !quantize && !(to && strcmp(to, "mlx") == 0))
		return cli_usage(&command, "--requantize goes with --to mlx or -q");
	if (to && strcmp(to, "dense") == 0 && quantize)
		return cli_usage(&command, "--to dense and -q exclude each other");
	if (quantize && dequantize)
		return cli_usage(&command, "Choose either quantize or dequantize, not both.");
	return -1;
}

/* The other job: most options are of the first one alone. */
static int convert_the_adapter(void)
{
	const struct tn_recode_request *r = &args.request;
	struct adapter_conversion job = { &command, adapter, DERIVED_INIT };
	job.shared.model = args.model;
	job.shared.path = args.save_path;
	job.shared.dialect = to;
	job.shared.dtype = dtype;
	job.shared.base_name = base_name;
	job.shared.force = force;
	job.shared.dry_run = args.dry_run;
	if (quantize || dequantize || r->requantize || bits || group_size || r->quantization.q.mode || r->quantization.recipe ||
	    r->shard_bytes || args.receipt || args.resume || upload_repo)
		return cli_usage(&command, "with --adapter-path there are --model, --to, --dtype, --save-path, --base-name, "
				 "--force and --dry-run");
	return convert_adapter(&job);
}

/* mlx_lm.convert writes to a new place only. */
static int refuse_existing(void)
{
	struct stat st;
	struct tn_error err = { .code = TN_E_EXISTS };
	if (args.dry_run || lstat(args.save_path, &st) != 0)
		return 0;
	snprintf(err.where, sizeof err.where, "%s", args.save_path);
	snprintf(err.msg, sizeof err.msg,
		 "Cannot save to the path %s as it already exists. Please delete the file/directory or specify a new path to save "
		 "to.",
		 args.save_path);
	cli_fail(command.verb, &err);
	return 1;
}

int cmd_convert(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (adapter)
		return convert_the_adapter();
	args.save_path = args.save_path ? args.save_path : "mlx_model";
	status = check();
	if (status >= 0)
		return status;
	if (refuse_existing())
		return EXIT_FAILED;
	args.command = &command;
	args.options_without_quantize = !quantize && !args.request.requantize &&
					(args.request.quantization.recipe || bits || group_size ||
					 args.request.quantization.q.mode);
	args.request.quantize = quantize;
	args.request.to_mlx = to && strcmp(to, "mlx") == 0;
	args.request.to_nf4 = to && strcmp(to, "bnb-nf4") == 0;
	args.request.dequantize = dequantize || (to && !args.request.to_mlx);
	args.request.like_mlx = args.request.mlx_folder = !args.request.to_nf4;
	return run_recoding(&args);
}
