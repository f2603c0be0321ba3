/* Low-rank factors of a product of two tall matrices in panels: what lowrank.c and sketch.c share. */
#ifndef TN_FACTORISE_H
#define TN_FACTORISE_H

#include "linear/lowrank.h"
#include "linear/panels.h"

/* L R^T. */
struct tn_panel_product {
	struct tn_panels left, right;   /* [rows, n] and [cols, n]; overwritten */
	double total;                   /* the sum of the squares of the matrix that it stands for; negative: its own */
	const char *name;
};

/* Doubles of workspace, aligned to 64. TN_E_LIMIT: too large. */
tn_status tn_factorise_size(uint64_t rows, uint64_t cols, uint64_t n, const char *name, uint64_t *doubles, struct tn_error *err);
tn_status tn_factorise(tn_context *ctx, struct tn_panel_product *product, const struct tn_rank_rule *rule, double *work,
		       struct tn_lowrank_factors *out, struct tn_error *err);

#endif
