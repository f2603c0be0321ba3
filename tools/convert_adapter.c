/* SPDX-License-Identifier: Apache-2.0 */
#include "convert_adapter.h"

#include "derived.h"
#include "recoding.h"

static int run(tn_context *ctx, const struct adapter_conversion *c, const struct tn_derive_options *o)
{
	struct derived derived = { c->save_path, c->force, c->dry_run };
	struct tn_error err;
	tn_checkpoint *base = NULL;
	tn_adapter *adapter = NULL;
	tn_draft *draft = NULL;
	int status = EXIT_DONE;
	if (tn_checkpoint_open(ctx, c->model, &base, &err) != TN_OK || tn_adapter_open(ctx, c->adapter, &adapter, &err) != TN_OK ||
	    tn_draft_convert(adapter, base, o, &draft, &err) != TN_OK || !derived_save(&derived, draft, &err)) {
		status = cli_fail(c->command->verb, &err);
	} else {
		if (cli.json)
			printf("{\n  \"from\": \"%s\",\n", tn_adapter_dialect_name(tn_adapter_dialect_of(adapter)));
		derived_print(&derived, draft);
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
	if (!c->model)
		return cli_usage(c->command, "--model is missing: the base that the adapter was trained on");
	if (!derived_dialect(c->to, &o.dialect))
		return cli_usage(c->command, "with --adapter-path, --to says for whom: peft or mlx");
	if (!c->save_path && !c->dry_run)
		return cli_usage(c->command, "--save-path is missing: the folder of the converted adapter");
	if (!recoding_dtype(c->dtype, &o.dtype))
		return cli_usage(c->command, "'%s' is not a dtype: float32, float16, bfloat16", c->dtype);
	o.keep_dtype = !c->dtype;
	o.base_name = c->base_name;
	tn_context *ctx = cli_context(c->command->verb);
	if (!ctx)
		return EXIT_FAILED;
	int status = run(ctx, c, &o);
	tn_context_destroy(ctx);
	return status;
}
