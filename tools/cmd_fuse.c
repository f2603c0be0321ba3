/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "groups.h"

#include <inttypes.h>

static struct {
	const char *model, *adapter_path, *save_path, *upload_repo;
	int dry_run, force, resume;
} args;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "folder of the base model", &args.model },
	{ CLI_TEXT, "--adapter-path", "ADAPTER", "folder of the adapter", &args.adapter_path },
	{ CLI_TEXT, "--save-path", "OUT", "folder to write", &args.save_path },
	{ CLI_FLAG, "--dry-run", NULL, "print what would be done, and do nothing", &args.dry_run },
	{ CLI_FLAG, "--force", NULL, "replace OUT if it holds a model", &args.force },
	{ CLI_FLAG, "--resume", NULL, "keep the finished shards of an interrupted run of the same job", &args.resume },
	{ CLI_TEXT, "--upload-repo", "REPO", "not done by tenon; says what to run instead", &args.upload_repo },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "fuse",
	.usage = "--model BASE --adapter-path ADAPTER --save-path OUT",
	.about = "Writes BASE + ADAPTER as a complete Hugging Face folder. OUT appears whole or not at all; BASE is only\n"
		 "read. Memory stays under --max-memory for any model size.",
	.options = options,
};

static int print_plan(const tn_fuse *fuse)
{
	struct groups groups = { 0 };
	for (size_t i = 0; i < tn_fuse_count(fuse); i++) {
		const struct tn_planned_tensor *p = tn_fuse_at(fuse, i);
		char detail[128];
		if (p->module)
			snprintf(detail, sizeof detail, "%s, rank %" PRIu64 ", scale %g", tn_action_name(p->action), p->module->rank,
				 p->module->scale);
		else
			snprintf(detail, sizeof detail, "%s", tn_action_name(p->action));
		if (!groups_add(&groups, p->tensor->name, detail, p->tensor->elements, p->tensor->bytes)) {
			groups_free(&groups);
			return 0;
		}
	}
	for (size_t i = 0; i < groups.count; i++) {
		char name[512], bytes[CLI_NUMBER_BYTES];
		const struct group *g = &groups.items[i];
		printf("%-56s %4" PRIu64 "  %-28s %10s\n", group_name(g, name, sizeof name), g->count, g->detail,
		       cli_bytes(bytes, g->bytes));
	}
	groups_free(&groups);
	return 1;
}

static int dry_run(const tn_fuse *fuse, const tn_checkpoint *base)
{
	struct tn_error err = { .code = TN_E_NOMEM, .msg = "memory ran out" };
	uint64_t memory;
	if (cli.json)
		return tn_fuse_plan_json(fuse, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail(command.verb, &err);
	if (tn_fuse_memory(fuse, &memory, &err) != TN_OK || !print_plan(fuse))
		return cli_fail(command.verb, &err);
	char bytes[CLI_NUMBER_BYTES], buffers[CLI_NUMBER_BYTES];
	printf("would merge %zu tensors and copy %zu: %s in %zu file%s, with %s of buffers; nothing was written\n",
	       tn_fuse_merged_count(fuse), tn_fuse_count(fuse) - tn_fuse_merged_count(fuse),
	       cli_bytes(bytes, tn_checkpoint_tensor_bytes(base)), tn_checkpoint_shard_count(base),
	       tn_checkpoint_shard_count(base) == 1 ? "" : "s", cli_bytes(buffers, memory));
	return EXIT_DONE;
}

static int run(const tn_fuse *fuse, const tn_checkpoint *base)
{
	struct tn_error err;
	double start = cli_seconds();
	if (tn_fuse_run(fuse, args.save_path, cli_save_flags(args.force, args.resume), &err) != TN_OK)
		return cli_fail(command.verb, &err);
	double seconds = cli_seconds() - start;
	if (cli.json)
		return tn_fuse_plan_json(fuse, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail(command.verb, &err);
	char bytes[CLI_NUMBER_BYTES], rate[CLI_NUMBER_BYTES];
	uint64_t n = tn_checkpoint_tensor_bytes(base);
	if (!cli.quiet)
		printf("merged %zu tensors, copied %zu: %s in %.2f s (%s/s) -> %s\n", tn_fuse_merged_count(fuse),
		       tn_fuse_count(fuse) - tn_fuse_merged_count(fuse), cli_bytes(bytes, n), seconds,
		       cli_bytes(rate, seconds > 0 ? (uint64_t)((double)n / seconds) : 0), cli_safe(args.save_path));
	return EXIT_DONE;
}

static int fuse(tn_context *ctx)
{
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_adapter *adapter = NULL;
	tn_fuse *plan = NULL;
	int status;
	if (tn_checkpoint_open(ctx, args.model, &base, &err) != TN_OK ||
	    tn_adapter_open(ctx, args.adapter_path, &adapter, &err) != TN_OK ||
	    tn_fuse_plan(ctx, base, adapter, &plan, &err) != TN_OK)
		status = cli_fail(command.verb, &err);
	else
		status = args.dry_run ? dry_run(plan, base) : run(plan, base);
	tn_fuse_free(plan);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
	return status;
}

int cmd_fuse(int argc, char **argv)
{
	int status;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (args.upload_repo)
		return cli_usage(&command, "tenon does not upload; fuse first, then run: huggingface-cli upload %s %s",
				 args.upload_repo, args.save_path ? args.save_path : "OUT");
	if (!args.model)
		return cli_usage(&command, "--model is missing");
	if (!args.adapter_path)
		return cli_usage(&command, "--adapter-path is missing");
	if (!args.save_path && !args.dry_run)
		return cli_usage(&command, "--save-path is missing");
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = fuse(ctx);
	tn_context_destroy(ctx);
	return status;
}
