/* SPDX-License-Identifier: Apache-2.0 */
/* L R^T = Q_l (Q_l^T L) (R^T Q_r) Q_r^T: the middle is small, and its SVD is that of the whole but for the two bases. */
#include "linear/factorise.h"

#include "base/error.h"
#include "linear/lapack.h"

#include <math.h>
#include <string.h>

/* What lies in the workspace. */
struct core {
	size_t n;
	struct tn_panels left, right;   /* as they were before they became bases; then what the factors are */
	struct tn_panels small[2];      /* [n, n]: the parts of the middle; then the singular vectors inside the bases */
	struct tn_panels middle;        /* [n, n] */
	double *scratch;                /* of the bases */
	double *matrix, *s, *u, *vt, *lapack;
	int *ints;
};

struct room {
	double *base;    /* NULL: only counts */
	uint64_t used;
};

static double *take(struct room *room, uint64_t doubles)
{
	uint64_t at = room->used;
	room->used += (doubles + 7) / 8 * 8;
	return room->base ? room->base + at : NULL;
}

static struct tn_panels take_panels(struct room *room, size_t rows, size_t cols)
{
	uint64_t doubles = 0;
	(void)tn_panels_size(rows, cols, &doubles);
	return (struct tn_panels){ take(room, doubles), rows, cols };
}

/* Returns how many doubles that is. */
static uint64_t lay_out(struct core *c, double *base, size_t rows, size_t cols, size_t n)
{
	struct room room = { base, 0 };
	c->n = n;
	c->left = take_panels(&room, rows, n);
	c->right = take_panels(&room, cols, n);
	c->small[0] = take_panels(&room, n, n);
	c->small[1] = take_panels(&room, n, n);
	c->middle = take_panels(&room, n, n);
	c->scratch = take(&room, (n + TN_PANEL + 1) * TN_PANEL);
	c->matrix = take(&room, n * n);
	c->s = take(&room, n);
	c->u = take(&room, n * n);
	c->vt = take(&room, n * n);
	c->lapack = take(&room, tn_svd_work(n, n));
	c->ints = (int *)(void *)take(&room, 4 * n);
	return room.used;
}

tn_status tn_factorise_size(uint64_t rows, uint64_t cols, uint64_t n, const char *name, uint64_t *doubles, struct tn_error *err)
{
	struct core c;
	uint64_t sides;
	if (n > INT32_MAX / TN_PANEL || tn_svd_work(n, n) > INT32_MAX || tn_panels_size(tn_max_u64(rows, n), n, &sides) ||
	    tn_panels_size(tn_max_u64(cols, n), n, &sides))
		return tn_fail(err, TN_E_LIMIT, name, "'%.100s' is too large to be taken apart into %llu singular values", name,
			       (unsigned long long)n);
	*doubles = lay_out(&c, NULL, (size_t)rows, (size_t)cols, (size_t)n);
	return TN_OK;
}

/* ---- the middle ------------------------------------------------------------------------------------------ */

static void copy(const struct tn_panels *dst, const struct tn_panels *src)
{
	memcpy(dst->data, src->data, tn_panels_count(src) * TN_PANEL * src->rows * sizeof *src->data);
}

/* L and R become bases; the middle is (Q_l^T L) (R^T Q_r). */
static void find_middle(const struct tn_kernels *k, struct core *c, struct tn_panel_product *p)
{
	copy(&c->left, &p->left);
	copy(&c->right, &p->right);
	tn_panels_orthonormalise(k, &p->left, c->scratch);
	tn_panels_orthonormalise(k, &p->right, c->scratch);
	tn_panels_gram(k, &c->small[0], &p->left, &c->left);
	tn_panels_gram(k, &c->small[1], &c->right, &p->right);
	tn_panels_multiply(k, &c->middle, &c->small[0], &c->small[1]);
}

/* LAPACK reads the middle M by columns, so it gets M^T = U S V^T, and M = V S U^T. */
static tn_status split_middle(struct core *c, const char *name, struct tn_error *err)
{
	int n = (int)c->n, lwork = (int)tn_svd_work(c->n, c->n), info = 0;
	for (size_t i = 0; i < c->n; i++)
		for (size_t j = 0; j < c->n; j++)
			c->matrix[i * c->n + j] = *tn_panels_element(&c->middle, i, j);
	if (isfinite(tn_panels_squares(&c->middle)))
		dgesdd_("S", &n, &n, c->matrix, &n, c->s, c->u, &n, c->vt, &n, c->lapack, &lwork, c->ints, &info, 1);
	else
		info = -1;
	if (info != 0)
		return tn_fail(err, TN_E_FORMAT, name, "the singular values of '%.100s' do not converge; it holds NaN or infinity",
			       name);
	return TN_OK;
}

/* ---- the factors ----------------------------------------------------------------------------------------- */

/* The bases times the vectors inside them, each with the root of the singular values. */
static void make_factors(const struct tn_kernels *k, struct core *c, const struct tn_panel_product *p, size_t rank)
{
	for (size_t i = 0; i < 2; i++) {
		c->small[i].cols = rank;
		tn_panels_clear(&c->small[i]);
	}
	for (size_t t = 0; t < rank; t++)
		for (size_t i = 0; i < c->n; i++) {
			*tn_panels_element(&c->small[0], i, t) = c->vt[i * c->n + t] * sqrt(c->s[t]);
			*tn_panels_element(&c->small[1], i, t) = c->u[t * c->n + i] * sqrt(c->s[t]);
		}
	c->left.cols = c->right.cols = rank;
	tn_panels_multiply(k, &c->left, &p->left, &c->small[0]);
	tn_panels_multiply(k, &c->right, &p->right, &c->small[1]);
}

static double sign_of(const struct tn_panels *m, size_t column)
{
	double largest = 0;
	for (size_t i = 0; i < m->rows; i++)
		if (fabs(*tn_panels_element(m, i, column)) > fabs(largest))
			largest = *tn_panels_element(m, i, column);
	return largest < 0 ? -1 : 1;
}

static void write_factors(const struct core *c, struct tn_lowrank_factors *out)
{
	for (size_t t = 0; t < out->rank; t++) {
		out->s[t] = c->s[t];
		double sign = sign_of(&c->right, t);
		for (size_t i = 0; i < c->right.rows; i++)
			out->a[t * c->right.rows + i] = (float)(sign * *tn_panels_element(&c->right, i, t));
		for (size_t i = 0; i < c->left.rows; i++)
			out->b[i * out->rank + t] = (float)(sign * *tn_panels_element(&c->left, i, t));
	}
}

tn_status tn_factorise(tn_context *ctx, struct tn_panel_product *product, const struct tn_rank_rule *rule, double *work,
		       struct tn_lowrank_factors *out, struct tn_error *err)
{
	struct core c;
	struct tn_lowrank_factors made = { 0 };
	size_t rows = product->left.rows, cols = product->right.rows;
	(void)lay_out(&c, work, rows, cols, product->left.cols);
	find_middle(ctx->kernels, &c, product);
	TN_TRY(split_middle(&c, product->name, err));
	double total = 0;
	for (size_t i = 0; i < c.n; i++)
		total += c.matrix[i] = c.s[i] * c.s[i];
	made.total = product->total >= 0 ? product->total : total;
	made.rank = tn_rank_for(c.matrix, c.n, made.total, rule);
	size_t bytes = (size_t)made.rank * (sizeof *made.s + (rows + cols) * sizeof *made.a);
	TN_TRY(tn_buffer_alloc(ctx, bytes, product->name, &made.memory, err));
	made.s = made.memory.data;
	made.a = (float *)(made.s + made.rank);
	made.b = made.a + made.rank * cols;
	make_factors(ctx->kernels, &c, product, (size_t)made.rank);
	write_factors(&c, &made);
	tn_lowrank_cut(&made, rows, made.rank);
	*out = made;
	return TN_OK;
}
