/* SPDX-License-Identifier: Apache-2.0 */
#include "derived.h"

#include "groups.h"
#include "recoding.h"

#include <inttypes.h>
#include <string.h>

/* "mlx", "mlx-lm" or "peft" to *out; 1 when it is one. */
static int read_dialect(const char *name, tn_adapter_dialect *out)
{
	if (strcmp(name, "peft") != 0 && strcmp(name, "mlx") != 0 && strcmp(name, "mlx-lm") != 0)
		return 0;
	*out = strcmp(name, "peft") == 0 ? TN_DIALECT_PEFT : TN_DIALECT_MLX_LM;
	return 1;
}

static uint64_t tensor_bytes(const tn_draft *draft)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < tn_draft_count(draft); i++)
		bytes += tn_draft_at(draft, i)->elements * tn_dtype_bits(tn_draft_at(draft, i)->dtype) / 8;
	return bytes;
}

static void print_module(const struct tn_derived_module *m, const char *end)
{
	printf("    {\"path\": ");
	cli_print_json_text(m->path);
	printf(", \"kind\": \"%s\", \"rank_before\": ", tn_module_kind_name(m->kind));
	if (m->rank_before)
		printf("%" PRIu64, m->rank_before);
	else
		printf("null");
	printf(", \"rank\": %" PRIu64 ", \"kept\": ", m->rank);
	cli_print_json_number(m->kept, 17);
	printf("}%s\n", end);
}

static void print_json(const struct derived *d, const tn_draft *draft)
{
	const tn_adapter *adapter = tn_draft_adapter(draft);
	size_t count = tn_draft_derived_count(draft);
	printf("  \"path\": ");
	if (d->path)
		cli_print_json_text(d->path);
	else
		printf("null");
	printf(",\n  \"saved\": %s,\n  \"dialect\": \"%s\",\n  \"file_bytes\": %" PRIu64 ",\n  \"parameters\": %" PRIu64
	       ",\n  \"modules\": [\n", d->dry_run ? "false" : "true", tn_adapter_dialect_name(tn_adapter_dialect_of(adapter)),
	       tensor_bytes(draft), tn_adapter_parameters(adapter));
	for (size_t i = 0; i < count; i++)
		print_module(tn_draft_derived_at(draft, i), i + 1 < count ? "," : "");
	printf("  ]\n");
}

/* "8", or "4 to 8". */
static void print_ranks(const tn_draft *draft)
{
	uint64_t low = UINT64_MAX, high = 0;
	for (size_t i = 0; i < tn_draft_derived_count(draft); i++) {
		uint64_t rank = tn_draft_derived_at(draft, i)->rank;
		low = rank < low ? rank : low;
		high = rank > high ? rank : high;
	}
	if (low < high)
		printf(", rank %" PRIu64 " to %" PRIu64, low, high);
	else if (high)
		printf(", rank %" PRIu64, high);
}

static void print_text(const struct derived *d, const tn_draft *draft)
{
	char bytes[CLI_NUMBER_BYTES];
	const tn_adapter *adapter = tn_draft_adapter(draft);
	size_t factors = tn_draft_derived_count(draft), count = tn_adapter_count(adapter), whole = 0;
	for (size_t i = 0; i < count; i++)
		whole += tn_adapter_at(adapter, i)->kind == TN_MODULE_SAVED || tn_adapter_at(adapter, i)->kind == TN_MODULE_TOKENS;
	printf("%zu %s", factors, factors == 1 ? "module" : "modules");
	print_ranks(draft);
	if (whole)
		printf(", %zu whole %s", whole, whole == 1 ? "tensor" : "tensors");
	printf(", for %s: %s%s%s\n", tn_adapter_dialect_name(tn_adapter_dialect_of(adapter)), cli_bytes(bytes, tensor_bytes(draft)),
	       d->dry_run ? "; nothing was written" : " -> ", d->dry_run ? "" : cli_safe(d->path));
}

int derived_keeps(const struct derived *d, const tn_adapter *adapter, struct tn_error *err)
{
	return !d->path || tn_adapter_check_path(adapter, d->path, err) == TN_OK;
}

int derived_save(const struct derived *d, const tn_draft *draft, struct tn_error *err)
{
	return d->dry_run || tn_draft_save(draft, d->path, d->force, err) == TN_OK;
}

void derived_print(const struct derived *d, const tn_draft *draft)
{
	if (cli.json)
		print_json(d, draft);
	else if (!cli.quiet)
		print_text(d, draft);
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

/* "3", or "3 to 6". */
static const char *range_of(const struct group *g, char out[48])
{
	int n = snprintf(out, 48, "%.5g", g->least);
	if (g->most > g->least)
		snprintf(out + n, 48 - (size_t)n, " to %.5g", g->most);
	return out;
}

/* Modules of one kind in a line, with their ranks and what they keep: two lists of the same groups. */
static void print_groups(const tn_draft *draft)
{
	struct groups ranks = { 0 }, kept = { 0 };
	int done = 1;
	for (size_t i = 0; i < tn_draft_derived_count(draft) && done; i++) {
		const struct tn_derived_module *m = tn_draft_derived_at(draft, i);
		char before[32] = "rank ";   /* what was made of matrices had none */
		if (m->rank_before)
			snprintf(before, sizeof before, "rank %" PRIu64 " -> ", m->rank_before);
		done = groups_add(&ranks, m->path, before, 0, 0) && groups_add(&kept, m->path, before, 0, 0);
		if (!done)
			break;
		groups_note(&ranks, (double)m->rank);
		groups_note(&kept, m->kept);
	}
	for (size_t i = 0; i < kept.count && i < ranks.count; i++) {
		char name[512], rank[48], all[96], keeps[48];
		const struct group *g = &ranks.items[i];
		snprintf(all, sizeof all, "%s%s", g->detail, range_of(g, rank));
		printf("%-52s %4" PRIu64 "  %-18s  keeps %s\n", group_name(g, name, sizeof name), g->count, all,
		       range_of(&kept.items[i], keeps));
	}
	groups_free(&ranks);
	groups_free(&kept);
}

void derived_print_all(const struct derived *d, const tn_draft *draft)
{
	if (cli.json)
		printf("{\n");
	else if (!cli.quiet)
		print_groups(draft);
	derived_print(d, draft);
	if (cli.json)
		printf("}\n");
}

/* ---- options --------------------------------------------------------------------------------------------- */

int derived_check(const struct cli_command *command, const struct derived *d, struct tn_rank_rule *rule,
		  struct tn_derive_options *options)
{
	rule->rank = 0;
	if (!d->model)
		return cli_usage(command, "--model is missing");
	if (!d->path && !d->dry_run)
		return cli_usage(command, "--save-path is missing");
	if (d->rank && !cli_whole(d->rank, &rule->rank))
		return cli_usage(command, "--rank takes a whole number");
	if (d->rank && rule->rank == 0)
		return cli_usage(command, "LoRA rank must be > 0");
	if (d->energy == 0)
		return cli_usage(command, "--energy takes a share above 0, at most 1");
	if (d->dialect && !read_dialect(d->dialect, &options->dialect))
		return cli_usage(command, "'%s' is not a dialect: peft, mlx", d->dialect);
	if (!recoding_dtype(d->dtype, &options->dtype))
		return cli_usage(command, "'%s' is not a dtype: float32, float16, bfloat16", d->dtype);
	rule->energy = d->energy < 0 ? 1 : d->energy;
	options->keep_dtype = !d->dtype;
	options->base_name = d->base_name;
	return EXIT_DONE;
}

const struct tn_derive_options *derived_for(const struct derived *d, const tn_adapter *adapter, struct tn_derive_options *options)
{
	if (!d->dialect)
		options->dialect = tn_adapter_dialect_of(adapter) == TN_DIALECT_MLX_LM ? TN_DIALECT_MLX_LM : TN_DIALECT_PEFT;
	return options;
}

int derived_open(const struct derived *d, tn_context *ctx, tn_checkpoint **base, struct tn_error *err)
{
	return (d->dry_run || tn_draft_check_path(ctx, d->path, d->force, err) == TN_OK) &&
	       tn_checkpoint_open(ctx, d->model, base, err) == TN_OK;
}
