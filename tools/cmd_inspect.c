/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "groups.h"

#include <inttypes.h>
#include <string.h>

static const char *base_path;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "BASE", "of an adapter: also what it adds to BASE, and the hash of the tensors it changes",
	  &base_path },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "inspect",
	.usage = "PATH [--model BASE] [--json]",
	.about = "Shows what a safetensors file, a checkpoint folder or an adapter folder holds. Reads headers only, so it\n"
		 "takes no longer for a terabyte. Repeated layers are folded into one line.",
	.options = options,
	.positional_min = 1,
	.positional_max = 1,
};

/* "BF16     [512, 192]", or "affine 4b g64 [512, 192]" with the logical shape. */
static void shape_text(char *out, size_t bytes, const struct tn_weight *w)
{
	const struct tn_tensor *t = w->tensor;
	size_t n;
	if (w->q.mode)
		n = (size_t)snprintf(out, bytes, "%s %db g%d [", w->q.mode, (int)w->q.bits, (int)w->q.group_size);
	else
		n = (size_t)snprintf(out, bytes, "%-8s [", tn_dtype_name(t->dtype));
	for (uint32_t i = 0; i < t->rank && n + 32 < bytes; i++)
		n += (size_t)snprintf(out + n, bytes - n, "%s%" PRIu64, i ? ", " : "", i + 1 < t->rank ? t->shape[i] : w->last);
	snprintf(out + n, bytes - n, "]");
}

/* The lines of a table: name, how many, details, parameters, bytes. */
static void print_groups(const struct groups *groups, const char *what, const char *detail)
{
	char name[512], parameters[CLI_NUMBER_BYTES], bytes[CLI_NUMBER_BYTES];
	int width = (int)strlen(what), middle = 28;
	for (size_t i = 0; i < groups->count; i++) {
		int n = (int)strlen(group_name(&groups->items[i], name, sizeof name));
		width = n > width ? n : width;
		n = (int)strlen(groups->items[i].detail);
		middle = n > middle ? n : middle;
	}
	width = width > 72 ? 72 : width;
	printf("\n%-*s %6s  %-*s %10s %10s\n", width, what, "count", middle, detail, "parameters", "size");
	for (size_t i = 0; i < groups->count; i++) {
		const struct group *g = &groups->items[i];
		printf("%-*s %6" PRIu64 "  %-*s %10s %10s\n", width, group_name(g, name, sizeof name), g->count, middle, g->detail,
		       cli_count(parameters, g->parameters), cli_bytes(bytes, g->bytes));
	}
}

static int print_checkpoint(const tn_checkpoint *c, const tn_weight_list *list)
{
	struct groups groups = { 0 };
	uint64_t parameters = tn_weight_list_parameters(list), bytes = tn_checkpoint_tensor_bytes(c);
	size_t count = tn_checkpoint_count(c), shards = tn_checkpoint_shard_count(c);
	for (size_t i = 0; i < tn_weight_list_count(list); i++) {
		const struct tn_weight *w = tn_weight_list_at(list, i);
		char detail[256];
		shape_text(detail, sizeof detail, w);
		if (!groups_add(&groups, w->tensor->name, detail, w->parameters, w->bytes)) {
			groups_free(&groups);
			return 0;
		}
	}
	char n[CLI_NUMBER_BYTES], b[CLI_NUMBER_BYTES];
	printf("%s %s\n", tn_checkpoint_is_folder(c) ? "checkpoint" : "file", cli_safe(tn_checkpoint_path(c)));
	printf("%zu tensor%s in %zu file%s, %s parameters, %s, %.2f bits per weight\n", count, count == 1 ? "" : "s", shards,
	       shards == 1 ? "" : "s", cli_count(n, parameters), cli_bytes(b, bytes),
	       parameters ? 8.0 * (double)bytes / (double)parameters : 0.0);
	print_groups(&groups, "tensors", "dtype    shape");
	groups_free(&groups);
	return 1;
}

static void print_hash(const char *what, const unsigned char hash[TN_HASH_BYTES])
{
	printf("%s ", what);
	for (int i = 0; i < TN_HASH_BYTES; i++)
		printf("%02x", hash[i]);
	printf("\n");
}

static int print_adapter(const tn_adapter *a)
{
	struct groups groups = { 0 };
	uint64_t bytes = 0, all = tn_adapter_parameters(a);
	const tn_safetensors *file = tn_adapter_file(a);
	for (size_t i = 0; i < tn_safetensors_count(file); i++)
		bytes += tn_safetensors_at(file, i)->bytes;
	for (size_t i = 0; i < tn_adapter_count(a); i++) {
		const struct tn_adapter_module *m = tn_adapter_at(a, i);
		char detail[256];
		uint64_t elements = m->parameters;
		snprintf(detail, sizeof detail, "%-9s rank %-4" PRIu64 " scale %-8g", tn_module_kind_name(m->kind), m->rank,
			 m->scale);
		if (!groups_add(&groups, m->path, detail, elements,
				all ? (uint64_t)((double)bytes * (double)elements / (double)all) : 0)) {
			groups_free(&groups);
			return 0;
		}
	}
	char n[CLI_NUMBER_BYTES], b[CLI_NUMBER_BYTES];
	printf("adapter %s\n", cli_safe(tn_adapter_path(a)));
	printf("%s dialect, %zu modules, %s parameters, %s\n", tn_adapter_dialect_name(tn_adapter_dialect_of(a)),
	       tn_adapter_count(a), cli_count(n, all), cli_bytes(b, bytes));
	unsigned char hash[TN_HASH_BYTES];
	if (tn_adapter_hash(a, hash, NULL) == TN_OK)
		print_hash("hash", hash);
	print_groups(&groups, "modules", "kind, rank, effective scale");
	groups_free(&groups);
	return 1;
}

static int out_of_memory(void)
{
	struct tn_error err = { .code = TN_E_NOMEM, .msg = "memory ran out" };
	return cli_fail("inspect", &err);
}

static int inspect_checkpoint(tn_context *ctx, const char *path)
{
	struct tn_error err;
	tn_checkpoint *c;
	tn_weight_list *list = NULL;
	int status = EXIT_DONE;
	if (tn_checkpoint_open(ctx, path, &c, &err) != TN_OK)
		return cli_fail("inspect", &err);
	if (cli.json)
		status = tn_checkpoint_json(ctx, c, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail("inspect", &err);
	else if (tn_weight_list_create(ctx, c, &list, &err) != TN_OK)
		status = cli_fail("inspect", &err);
	else if (!print_checkpoint(c, list))
		status = out_of_memory();
	tn_weight_list_destroy(list);
	tn_checkpoint_close(c);
	return status;
}

static void print_account(const char *name, const struct tn_account *a)
{
	char trainable[CLI_NUMBER_BYTES], adapted[CLI_NUMBER_BYTES], bytes[CLI_NUMBER_BYTES];
	printf("%-16s %7zu %10s %10s %8.3f%% %10s\n", name, a->modules, cli_count(trainable, a->trainable),
	       cli_count(adapted, a->adapted), 100 * a->ratio, cli_bytes(bytes, a->bytes));
}

/* 1 when the second stands behind the first and says the same. */
static int is_alike(const struct tn_account *a, const struct tn_account *b)
{
	return a->layer != TN_OUTSIDE_LAYERS && b->layer == a->layer + 1 && a->modules == b->modules &&
	       a->trainable == b->trainable && a->adapted == b->adapted;
}

/* What the adapter adds, layer by layer. */
static int print_accounts(tn_context *ctx, const tn_adapter *a, const tn_checkpoint *base, struct tn_error *err)
{
	struct tn_accounts accounts;
	char name[64];
	if (tn_adapter_account(ctx, a, base, &accounts, err) != TN_OK)
		return 0;
	printf("\n%-16s %7s %10s %10s %9s %10s\n", "layer", "modules", "trainable", "adapted", "ratio", "memory");
	for (size_t i = 0, end; i < accounts.layer_count; i = end) {
		const struct tn_account *layer = &accounts.layers[i];
		for (end = i + 1; end < accounts.layer_count && is_alike(&accounts.layers[end - 1], &accounts.layers[end]);)
			end++;
		if (end - i > 1)
			snprintf(name, sizeof name, "%" PRId64 "-%" PRId64 ", each", layer->layer, accounts.layers[end - 1].layer);
		else
			snprintf(name, sizeof name, "%" PRId64, layer->layer);
		print_account(layer->layer == TN_OUTSIDE_LAYERS ? "outside" : name, layer);
	}
	print_account("all", &accounts.all);
	double all = (double)(accounts.base_parameters + accounts.all.trainable);
	printf("%.3f%% of the base with the adapter is trainable\n", all > 0 ? 100 * (double)accounts.all.trainable / all : 0);
	tn_accounts_release(ctx, &accounts);
	return 1;
}

static int show_adapter(tn_context *ctx, const tn_adapter *a, const tn_checkpoint *base)
{
	struct tn_error err;
	unsigned char hash[TN_HASH_BYTES];
	if (cli.json)
		return tn_adapter_json(ctx, a, base, cli_write, NULL, &err) == TN_OK ? EXIT_DONE : cli_fail("inspect", &err);
	if (base && tn_adapter_base_hash(a, base, hash, &err) != TN_OK)
		return cli_fail("inspect", &err);
	if (!print_adapter(a))
		return out_of_memory();
	if (base && !print_accounts(ctx, a, base, &err))
		return cli_fail("inspect", &err);
	if (base)
		print_hash("\nhash of the base's tensors", hash);
	return EXIT_DONE;
}

static int inspect_adapter(tn_context *ctx, const char *path)
{
	struct tn_error err;
	tn_adapter *a = NULL;
	tn_checkpoint *base = NULL;
	int status;
	if (tn_adapter_open(ctx, path, &a, &err) != TN_OK ||
	    (base_path && tn_checkpoint_open(ctx, base_path, &base, &err) != TN_OK))
		status = cli_fail("inspect", &err);
	else
		status = show_adapter(ctx, a, base);
	tn_checkpoint_close(base);
	tn_adapter_close(a);
	return status;
}

int cmd_inspect(int argc, char **argv)
{
	int status;
	base_path = NULL;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	const char *path = cli.positional[0];
	size_t n = strlen(path);
	int gguf = n > 5 && strcmp(path + n - 5, ".gguf") == 0;
	/* a lone file of weights is an adapter where a base is named that it shall land on */
	status = base_path || gguf || tn_adapter_is_folder(path) ? inspect_adapter(ctx, path) : inspect_checkpoint(ctx, path);
	tn_context_destroy(ctx);
	return status;
}
