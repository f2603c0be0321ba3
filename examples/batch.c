/* SPDX-License-Identifier: Apache-2.0 */
/* One batch, a different adapter for every row: what a server does with requests for many adapters of one base. Each row asks
 * the query projection of the first layer for the same input; the rows are then computed again one by one, and compared.
 *
 *   batch examples/base examples/adapters/pirate examples/adapters/robot */
#include <tenon/tenon.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static struct tn_error err;
#define MUST(call)                                               \
	do {                                                     \
		if ((call) != TN_OK) {                           \
			fprintf(stderr, "batch: %s\n", err.msg); \
			exit(1);                                 \
		}                                                \
	} while (0)

enum { MOST = 64 };

int main(int argc, char **argv)
{
	tn_context *ctx;
	tn_checkpoint *base;
	tn_live *live;
	tn_adapter *adapters[MOST] = { 0 };
	size_t choice[MOST], m = (size_t)argc - 1;
	struct tn_module_shape shape;
	if (argc < 2 || m > MOST)
		return fprintf(stderr, "usage: batch BASE [ADAPTER...]\n"), 2;
	MUST(tn_context_create(NULL, &ctx, &err));
	MUST(tn_checkpoint_open(ctx, argv[1], &base, &err));
	MUST(tn_live_open(base, NULL, &live, &err));
	for (size_t i = 1; i < m; i++) { /* not enabled: rows choose */
		MUST(tn_adapter_open(ctx, argv[i + 1], &adapters[i], &err));
		MUST(tn_live_attach_disabled(live, argv[i + 1], adapters[i], 1, &err));
	}
	size_t module = tn_live_module(live, "model.layers.0.self_attn.q_proj");
	if (module == TN_LIVE_NONE)
		return fprintf(stderr, "batch: the base has no model.layers.0.self_attn.q_proj\n"), 1;
	tn_live_shape(live, module, &shape);
	size_t in = shape.in_features, out = shape.out_features;

	tn_snapshot *now = tn_live_snapshot(live);
	float *x = malloc(m * in * sizeof *x), *y = malloc(m * out * sizeof *y), *alone = malloc(out * sizeof *alone);
	void *scratch = malloc(tn_snapshot_scratch_bytes(now, module, m));
	for (size_t i = 0; i < m * in; i++)
		x[i] = sinf((float)(i % in));
	for (size_t i = 0; i < m; i++)
		choice[i] = i ? tn_snapshot_adapter(now, argv[i + 1]) : TN_LIVE_BASE;
	struct tn_live_call all = { .module = module, .m = m, .x = x, .x_stride = in, .y = y, .y_stride = out,
				    .adapter_of_row = choice };
	tn_snapshot_forward(now, &all, scratch);
	for (size_t i = 0; i < m; i++) {
		struct tn_live_call one = { .module = module, .m = 1, .x = x, .x_stride = in, .y = alone, .y_stride = out,
					    .adapter_of_row = &choice[i] };
		double length = 0, error = 0;
		tn_snapshot_forward(now, &one, scratch);
		for (size_t k = 0; k < out; k++) {
			length += (double)y[i * out + k] * (double)y[i * out + k];
			error = fmax(error, fabs((double)(y[i * out + k] - alone[k])));
		}
		printf("%s: |y| = %.5f, alone %s\n", i ? argv[i + 1] : "base", sqrt(length),
		       error < 1e-5 ? "the same" : "different");
	}
	free(scratch);
	free(alone);
	free(y);
	free(x);
	tn_snapshot_release(now);
	tn_live_close(live);
	for (size_t i = 1; i < m; i++)
		tn_adapter_close(adapters[i]);
	tn_checkpoint_close(base);
	tn_context_destroy(ctx);
	return 0;
}
