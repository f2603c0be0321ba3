/* SPDX-License-Identifier: Apache-2.0 */
#include "convert_adapter.h"

static int run(tn_context *ctx, const struct adapter_conversion *c, const struct tn_derive_options *o)
{
	const struct derived *d = &c->shared;
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_adapter *adapter = NULL;
	tn_draft *draft = NULL;
	int status = EXIT_DONE;
	if (!derived_open(d, ctx, &base, &err) || tn_adapter_open(ctx, c->adapter, &adapter, &err) != TN_OK ||
	    !derived_keeps(d, adapter, &err) || tn_draft_convert(adapter, base, o, &draft, &err) != TN_OK ||
	    !derived_save(d, draft, &err)) {
		status = cli_fail(c->command->verb, &err);
	} else {
		if (cli.json)
			printf("{\n  \"from\": \"%s\",\n", tn_adapter_dialect_name(tn_adapter_dialect_of(adapter)));
		derived_print(d, draft);
		if (cli.json)
			printf("}\n");
	}
	tn_draft_destroy(draft);
	tn_adapter_close(adapter);
	tn_checkpoint_close(base);
	return status;
}

int convert_adapter(const struct adapter_conversion *c)
{
	struct tn_derive_options o = TN_DERIVE_OPTIONS_INIT;
	struct tn_rank_rule all;
	int status = derived_check(c->command, &c->shared, &all, &o);
	if (status != EXIT_DONE)
		return status;
	if (!c->shared.dialect)
		return cli_usage(c->command, "with --adapter-path, --to says for whom: peft or mlx");
	tn_context *ctx = cli_context(c->command->verb);
	if (!ctx)
		return EXIT_FAILED;
	status = run(ctx, c, &o);
	tn_context_destroy(ctx);
	return status;
}
