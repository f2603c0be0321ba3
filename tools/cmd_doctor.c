/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "groups.h"

#include <inttypes.h>
#include <string.h>

static const char *engine;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--for", "ENGINE", "also say what peft, mlx, vllm, llama.cpp or ollama makes of it", &engine },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "doctor",
	.usage = "BASE ADAPTER [--for ENGINE] [--json]",
	.about = "Will ADAPTER land on BASE? Shows its modules with rank and effective scale, what is wrong and how to mend it.\n"
		 "Nothing is written. Exit status 0 only if it lands and ENGINE takes it.",
	.options = options,
	.positional_min = 2,
	.positional_max = 2,
};

static int print_modules(const tn_adapter *a)
{
	struct groups groups = { 0 };
	char name[512];
	for (size_t i = 0; i < tn_adapter_count(a); i++) {
		const struct tn_adapter_module *m = tn_adapter_at(a, i);
		char detail[256];
		snprintf(detail, sizeof detail, "%-14s rank %-5" PRIu64 " scale %-10g %" PRIu64 " -> %" PRIu64,
			 tn_module_kind_name(m->kind), m->rank, m->scale, m->in_features, m->out_features);
		if (!groups_add(&groups, m->path, detail, m->parameters, m->parameters)) {
			groups_free(&groups);
			return 0;
		}
	}
	for (size_t i = 0; i < groups.count; i++)
		printf("  %5" PRIu64 "  %-52s %s\n", groups.items[i].count, group_name(&groups.items[i], name, sizeof name),
		       groups.items[i].detail);
	groups_free(&groups);
	return 1;
}

static int print_doctor(const tn_doctor *d)
{
	const tn_adapter *a = tn_doctor_adapter(d);
	if (a) {
		printf("%s dialect, %zu modules\n", tn_adapter_dialect_name(tn_adapter_dialect_of(a)), tn_adapter_count(a));
		if (!print_modules(a))
			return 0;
	}
	for (size_t i = 0; i < tn_doctor_count(d); i++) {
		const struct tn_finding *f = tn_doctor_at(d, i);
		printf("%s: %s\n", tn_finding_level_name(f->level), cli_safe(f->message));
	}
	printf("%s\n", tn_doctor_lands(d) ? "It lands: every tensor has its place on this base." : "It does not land.");
	return 1;
}

int cmd_doctor(int argc, char **argv)
{
	int status;
	struct tn_error err;
	tn_doctor *d;
	engine = NULL;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	if (tn_doctor_run(ctx, cli.positional[0], cli.positional[1], engine, &d, &err) != TN_OK) {
		status = cli_fail(command.verb, &err);
		tn_context_destroy(ctx);
		return err.code == TN_E_ARG ? EXIT_USAGE : status;
	}
	status = tn_doctor_ok(d) ? EXIT_DONE : EXIT_FAILED;
	if (cli.json && tn_doctor_json(d, cli_write, NULL, &err) != TN_OK)
		status = cli_fail(command.verb, &err);
	else if (!cli.json && !print_doctor(d))
		status = EXIT_FAILED;
	tn_doctor_free(d);
	tn_context_destroy(ctx);
	return status;
}
