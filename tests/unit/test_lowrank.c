/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank factors against the whole SVD by LAPACK: of products, of matrices that are read by rows, exact and randomized; the rule of
 * ranks; the same bits for any number of threads and any instruction set; what is refused. */
#include "testlib.h"

#include "base/error.h"
#include "kernels/kernels.h"
#include "linear/lapack.h"
#include "linear/lowrank.h"
#include "linear/panels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static double some_number(void)
{
	return (double)(int64_t)tt_random(&state) * 0x1p-63;
}

static void *room(size_t bytes)
{
	void *p = calloc(1, bytes);
	assert_non_null(p);
	return p;
}

/* W [rows, cols] with singular values that fall like `fall`^i, up to `rank` of them: the SVD of noise with other values. */
struct sample {
	size_t rows, cols, low;
	double *w, *s, *u, *vt;   /* s descending; W^T = U S V^T to LAPACK: u [low][cols], vt [rows][low] */
	float *narrow;            /* W as float32: its own values, to which s no longer belong exactly */
};

static void take_apart(struct sample *m)
{
	int r = (int)m->cols, c = (int)m->rows, low = (int)m->low, info, lwork = (int)tn_svd_work(m->rows, m->cols);
	double *copy = room(m->rows * m->cols * sizeof *copy), *work = room((size_t)lwork * sizeof *work);
	int *ints = room(8 * m->low * sizeof *ints);
	memcpy(copy, m->w, m->rows * m->cols * sizeof *copy);
	dgesdd_("S", &r, &c, copy, &r, m->s, m->u, &r, m->vt, &low, work, &lwork, ints, &info, 1);
	assert_int_equal(info, 0);
	free(copy);
	free(work);
	free(ints);
}

static void put_together(struct sample *m, size_t rank)
{
	for (size_t i = 0; i < m->rows; i++)
		for (size_t j = 0; j < m->cols; j++) {
			double sum = 0;
			for (size_t t = 0; t < rank; t++)
				sum += m->s[t] * m->vt[i * m->low + t] * m->u[t * m->cols + j];
			m->w[i * m->cols + j] = sum;
		}
}

static struct sample make_sample(size_t rows, size_t cols, size_t rank, double fall)
{
	struct sample m = { rows, cols, rows < cols ? rows : cols, 0, 0, 0, 0, 0 };
	m.w = room(rows * cols * sizeof *m.w);
	m.s = room(m.low * sizeof *m.s);
	m.u = room(m.low * cols * sizeof *m.u);
	m.vt = room(m.low * rows * sizeof *m.vt);
	m.narrow = room(rows * cols * sizeof *m.narrow);
	for (size_t i = 0; i < rows * cols; i++)
		m.w[i] = some_number();
	take_apart(&m);
	for (size_t t = 0; t < m.low; t++)
		m.s[t] = t < rank ? 3 * pow(fall, (double)t) : 0;
	put_together(&m, rank < m.low ? rank : m.low);
	for (size_t i = 0; i < rows * cols; i++)
		m.w[i] = (double)(m.narrow[i] = (float)m.w[i]);
	take_apart(&m);
	return m;
}

static void free_sample(struct sample *m)
{
	free(m->w);
	free(m->s);
	free(m->u);
	free(m->vt);
	free(m->narrow);
}

static tn_status read_sample(void *arg, size_t first, size_t count, float *dst, struct tn_error *err)
{
	(void)err;
	const struct sample *m = arg;
	assert_true(first + count <= m->rows);
	memcpy(dst, m->narrow + first * m->cols, count * m->cols * sizeof *dst);
	return TN_OK;
}

static struct tn_row_source source_of(struct sample *m)
{
	return (struct tn_row_source){ m->rows, m->cols, "a.weight", read_sample, m };
}

/* The sum of s^2 of the first k. */
static double energy_of(const struct sample *m, size_t k)
{
	double sum = 0;
	for (size_t t = 0; t < k && t < m->low; t++)
		sum += m->s[t] * m->s[t];
	return sum;
}

/* |W - B A|^2. */
static double error_of(const struct sample *m, const struct tn_lowrank_factors *f)
{
	double sum = 0;
	for (size_t i = 0; i < m->rows; i++)
		for (size_t j = 0; j < m->cols; j++) {
			double left = m->w[i * m->cols + j];
			for (size_t t = 0; t < f->rank; t++)
				left -= (double)f->b[i * f->rank + t] * (double)f->a[t * m->cols + j];
			sum += left * left;
		}
	return sum;
}

/* Rows of A and columns of B of one length each, orthogonal, the largest number of A's rows positive. */
static void expect_shape(const struct sample *m, const struct tn_lowrank_factors *f)
{
	for (size_t s = 0; s < f->rank; s++) {
		double largest = 0, a_a = 0, b_b = 0;
		for (size_t j = 0; j < m->cols; j++) {
			double x = (double)f->a[s * m->cols + j];
			a_a += x * x;
			largest = fabs(x) > fabs(largest) ? x : largest;
		}
		for (size_t i = 0; i < m->rows; i++)
			b_b += (double)f->b[i * f->rank + s] * (double)f->b[i * f->rank + s];
		assert_true(largest >= 0);
		assert_true(fabs(a_a - b_b) <= 1e-5 * a_a);
		for (size_t t = 0; t < s; t++) {
			double dot = 0, other = 0;
			for (size_t j = 0; j < m->cols; j++) {
				dot += (double)f->a[s * m->cols + j] * (double)f->a[t * m->cols + j];
				other += (double)f->a[t * m->cols + j] * (double)f->a[t * m->cols + j];
			}
			assert_true(fabs(dot) <= 1e-6 * sqrt(a_a * other));
		}
	}
}

/* ---- bases ----------------------------------------------------------------------------------------------- */

/* Columns of nine directions, of sizes far apart, some with a trace of something else: what is left of these is as good a column of
 * the basis as any. Of columns that were there before nothing is left. */
static void a_basis_is_orthonormal(void **state_)
{
	(void)state_;
	enum { ROWS = 270, COLS = 45, DIRECTIONS = 9 };
	static double directions[ROWS * DIRECTIONS], data[ROWS * 48], scratch[(COLS + TN_PANEL + 1) * TN_PANEL], gram[COLS * 48];
	struct tn_panels m = { data, ROWS, COLS }, g = { gram, COLS, COLS };
	size_t zeros = 0;
	for (size_t i = 0; i < ROWS * DIRECTIONS; i++)
		directions[i] = some_number();
	for (size_t j = 0; j < COLS; j++)
		for (size_t t = 0; t < DIRECTIONS; t++) {
			double share = some_number() * pow(0.25, (double)t);
			for (size_t i = 0; i < ROWS; i++)
				*tn_panels_element(&m, i, j) += share * directions[i * DIRECTIONS + t] + (j % 3 ? 1e-12 * some_number() : 0);
		}
	for (size_t j = 15; j < COLS; j += 3)
		for (size_t i = 0; i < ROWS; i++)
			*tn_panels_element(&m, i, j) = -3 * *tn_panels_element(&m, i, j % 15);
	tn_panels_orthonormalise(tn_kernels_for(NULL), &m, scratch);
	tn_panels_gram(tn_kernels_for(NULL), &g, &m, &m);
	for (size_t i = 0; i < COLS; i++)
		for (size_t j = 0; j < COLS; j++) {
			double x = *tn_panels_element(&g, i, j);
			zeros += i == j && x == 0;
			assert_true(fabs(x - (i == j && x != 0)) < 1e-14);
		}
	assert_int_equal(zeros, 10);
}

/* ---- matrices read by rows ------------------------------------------------------------------------------- */

static void expect_nearest(struct tt *t, struct sample *m, struct tn_rank_rule rule, double slack)
{
	struct tn_row_source source = source_of(m);
	struct tn_lowrank_factors f;
	tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &rule, 5, &f, &t->err));
	double total = energy_of(m, m->low), best = energy_of(m, f.rank) / total;
	assert_int_equal(f.rank, rule.rank);
	assert_int_equal(f.rank, rule.rank);
	assert_true(fabs(f.total - total) <= 1e-12 * total);
	assert_true(f.kept <= best * (1 + 1e-12) && f.kept >= best * (1 - slack));
	assert_true(fabs(error_of(m, &f) / total - (1 - f.kept)) < 1e-6);
	expect_shape(m, &f);
	double kept = f.kept, error = error_of(m, &f);
	tn_lowrank_cut(&f, m->rows, (f.rank + 1) / 2);
	assert_int_equal(f.rank, (rule.rank + 1) / 2);
	assert_true(fabs(error_of(m, &f) / total - (1 - f.kept)) < 1e-6);
	assert_true(f.rank == rule.rank || (f.kept < kept && error_of(m, &f) > error));
	for (size_t k = 0; k < f.rank && slack < 1e-8; k++)
		assert_true(fabs(f.s[k] - m->s[k]) < 1e-7 * m->s[0]);
	tn_lowrank_release(t->ctx, &f);
}

static void small_matrices_are_exact(void **state_)
{
	struct tt *t = *state_;
	static const size_t shapes[][2] = { { 1, 1 }, { 1, 40 }, { 40, 1 }, { 17, 33 }, { 90, 31 }, { 128, 300 }, { 300, 100 } };
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		struct sample m = make_sample(shapes[i][0], shapes[i][1], 400, 0.97);
		expect_nearest(t, &m, (struct tn_rank_rule){ (m.low + 1) / 2, 1 }, 1e-12);
		free_sample(&m);
	}
}

static void large_matrices_come_near(void **state_)
{
	struct tt *t = *state_;
	static const size_t shapes[][2] = { { 200, 530 }, { 450, 170 } };
	for (size_t i = 0; i < 2; i++) {
		struct sample fast = make_sample(shapes[i][0], shapes[i][1], 1000, 0.8);
		struct sample slow = make_sample(shapes[i][0], shapes[i][1], 1000, 0.995);
		expect_nearest(t, &fast, (struct tn_rank_rule){ 12, 1 }, 1e-9);
		expect_nearest(t, &slow, (struct tn_rank_rule){ 16, 1 }, 0.02);
		expect_nearest(t, &slow, (struct tn_rank_rule){ 100, 1 }, 0.01);
		free_sample(&fast);
		free_sample(&slow);
	}
}

static void a_low_rank_is_found_whole(void **state_)
{
	struct tt *t = *state_;
	struct sample m = make_sample(310, 270, 9, 0.5);
	struct tn_row_source source = source_of(&m);
	struct tn_lowrank_factors f;
	tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 20, 1 }, 1, &f, &t->err));
	assert_true(1 - f.kept < 1e-12);
	assert_true(error_of(&m, &f) < 1e-13 * f.total);
	tn_lowrank_release(t->ctx, &f);
	free_sample(&m);
}

/* What pruning leaves of a product: rows and columns of zeros, and more columns than directions among the others, so that what is
 * left of some of them is rounding noise that the basis has no room for. */
static void pruned_matrices_are_found_whole(void **state_)
{
	struct tt *t = *state_;
	for (size_t trial = 0; trial < 60; trial++) {
		struct sample m = make_sample(32, 24 + trial % 3 * 8, 2, 0.8);
		struct tn_row_source source = source_of(&m);
		struct tn_lowrank_factors f;
		double total = 0, most = 0;
		for (size_t i = 0; i < m.rows * m.cols; i++)
			most = fmax(most, fabs(m.w[i]));
		for (size_t i = 0; i < m.rows * m.cols; i++) {
			m.narrow[i] = fabs(m.w[i]) < most * (0.2 + 0.01 * (double)(trial / 3)) ? 0 : m.narrow[i];
			m.w[i] = (double)m.narrow[i];
			total += m.w[i] * m.w[i];
		}
		tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 40, 1 }, 1, &f, &t->err));
		assert_true(fabs(f.total - total) <= 1e-12 * total);
		assert_true(error_of(&m, &f) < 1e-13 * total);
		tn_lowrank_release(t->ctx, &f);
		free_sample(&m);
	}
}

static void energy_bounds_the_rank(void **state_)
{
	struct tt *t = *state_;
	static const size_t shapes[][2] = { { 100, 60 }, { 250, 260 } };
	for (size_t i = 0; i < 2; i++) {
		struct sample m = make_sample(shapes[i][0], shapes[i][1], 1000, 0.7);
		struct tn_row_source source = source_of(&m);
		for (size_t k = 1; k < 9; k++) {
			double total = energy_of(&m, m.low);
			struct tn_lowrank_factors f;
			struct tn_rank_rule rule = { 20, (energy_of(&m, k) - 1e-9) / total };
			tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &rule, 1, &f, &t->err));
			assert_int_equal(f.rank, k);
			tn_lowrank_release(t->ctx, &f);
			rule.energy = (energy_of(&m, k) + 1e-9) / total;
			tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &rule, 1, &f, &t->err));
			assert_int_equal(f.rank, k + 1);
			tn_lowrank_release(t->ctx, &f);
			rule.rank = k;
			tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &rule, 1, &f, &t->err));
			assert_int_equal(f.rank, k);
			tn_lowrank_release(t->ctx, &f);
		}
		free_sample(&m);
	}
}

/* Threads, instruction sets. */
static void bits_do_not_depend_on_the_machine(void **state_)
{
	struct tt *t = *state_;
	struct sample m = make_sample(333, 290, 1000, 0.95);
	struct tn_row_source source = source_of(&m);
	struct tn_lowrank_factors first, f;
	tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 21, 1 }, 9, &first, &t->err));
	for (unsigned i = 0; tn_kernels_isa_name(i); i++)
		for (unsigned threads = 1; threads < 5 && tn_kernels_for(tn_kernels_isa_name(i)); threads += 3) {
			struct tn_options o = TN_OPTIONS_INIT;
			tn_context *ctx;
			o.threads = threads;
			o.isa = tn_kernels_isa_name(i);
			tt_ok(t, tn_context_create(&o, &ctx, &t->err));
			tt_ok(t, tn_lowrank_of_rows(ctx, &source, &(struct tn_rank_rule){ 21, 1 }, 9, &f, &t->err));
			assert_int_equal(f.rank, first.rank);
			assert_memory_equal(f.a, first.a, f.rank * m.cols * sizeof *f.a);
			assert_memory_equal(f.b, first.b, f.rank * m.rows * sizeof *f.b);
			tn_lowrank_release(ctx, &f);
			tn_context_destroy(ctx);
		}
	tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 21, 1 }, 10, &f, &t->err));
	assert_memory_not_equal(f.a, first.a, f.rank * m.cols * sizeof *f.a);
	tn_lowrank_release(t->ctx, &f);
	tn_lowrank_release(t->ctx, &first);
	free_sample(&m);
}

/* ---- products -------------------------------------------------------------------------------------------- */

static void products_need_no_matrix(void **state_)
{
	struct tt *t = *state_;
	static const size_t shapes[][3] = { { 60, 90, 12 }, { 90, 31, 20 }, { 14, 50, 40 }, { 50, 14, 40 }, { 5, 6, 33 }, { 1, 9, 1 } };
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		size_t rows = shapes[i][0], cols = shapes[i][1], rank = shapes[i][2];
		struct sample m = make_sample(rows, cols, 1, 1);
		float *a = room(rank * cols * sizeof *a), *b = room(rows * rank * sizeof *b);
		double *scales = room(rank * sizeof *scales);
		for (size_t k = 0; k < rank * cols; k++)
			a[k] = (float)some_number();
		for (size_t k = 0; k < rows * rank; k++)
			b[k] = (float)some_number();
		for (size_t k = 0; k < rank; k++)
			scales[k] = k % 2 ? -0.5 : 3;
		for (size_t r = 0; r < rows; r++)
			for (size_t c = 0; c < cols; c++) {
				m.w[r * cols + c] = 0;
				for (size_t k = 0; k < rank; k++)
					m.w[r * cols + c] += scales[k] * (double)b[r * rank + k] * (double)a[k * cols + c];
			}
		take_apart(&m);
		size_t most = rank < m.low ? rank : m.low;
		for (size_t k = 1; k <= most; k++) {
			struct tn_lowrank_factors f;
			struct tn_factor_product p = { rows, cols, rank, a, b, scales };
			struct tn_rank_rule rule = { k == most ? 0 : k, 1 };
			tt_ok(t, tn_lowrank_of_product(t->ctx, &p, &rule, "a.weight", &f, &t->err));
			double total = energy_of(&m, m.low);
			assert_int_equal(f.rank, k);
			assert_true(fabs(f.total - total) < 1e-12 * total);
			assert_true(fabs(f.kept - energy_of(&m, k) / total) < 1e-12);
			assert_true(fabs(error_of(&m, &f) / total - (1 - f.kept)) < 1e-6);
			expect_shape(&m, &f);
			tn_lowrank_release(t->ctx, &f);
		}
		free(a);
		free(b);
		free(scales);
		free_sample(&m);
	}
}

/* ---- edges ----------------------------------------------------------------------------------------------- */

static void zeros_keep_a_rank_of_one(void **state_)
{
	struct tt *t = *state_;
	static float zeros[600 * 200];
	struct sample m = { 600, 200, 200, 0, 0, 0, 0, zeros };
	for (m.rows = 20; m.rows <= 600; m.rows += 580) {
		struct tn_row_source source = source_of(&m);
		struct tn_lowrank_factors f;
		tt_ok(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 8, 0.9 }, 1, &f, &t->err));
		assert_int_equal(f.rank, 1);
		assert_true(f.kept == 1 && f.total == 0);
		for (size_t i = 0; i < m.cols; i++)
			assert_true(f.a[i] == 0);
		tn_lowrank_release(t->ctx, &f);
	}
}

static void numbers_that_are_none_are_refused(void **state_)
{
	struct tt *t = *state_;
	static float w[600 * 200];
	struct sample m = { 600, 200, 200, 0, 0, 0, 0, w };
	for (size_t i = 0; i < 600 * 200; i++)
		w[i] = (float)some_number();
	for (m.rows = 20; m.rows <= 600; m.rows += 580)
		for (int i = 0; i < 2; i++) {
			struct tn_row_source source = source_of(&m);
			struct tn_lowrank_factors f;
			w[777] = i ? NAN : INFINITY;
			tt_expect(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 8, 1 }, 1, &f, &t->err), TN_E_FORMAT);
			tt_expect_msg(t, "'a.weight'");
			struct tn_factor_product p = { 10, 100, 20, w, w, NULL };
			tt_expect(t, tn_lowrank_of_product(t->ctx, &p, &(struct tn_rank_rule){ 8, 1 }, "b", &f, &t->err), TN_E_FORMAT);
		}
}

static tn_status refuse(void *arg, size_t first, size_t count, float *dst, struct tn_error *err)
{
	(void)arg;
	(void)count;
	(void)dst;
	(void)first;
	return tn_fail(err, TN_E_IO, "a.weight", "not today");
}

static void errors_of_the_rows_come_through(void **state_)
{
	struct tt *t = *state_;
	struct tn_lowrank_factors f;
	struct tn_row_source source = { 500, 400, "a.weight", refuse, NULL };
	tt_expect(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 8, 1 }, 1, &f, &t->err), TN_E_IO);
	t->heap.fail_at = t->heap.calls + 1;
	tt_expect(t, tn_lowrank_of_rows(t->ctx, &source, &(struct tn_rank_rule){ 8, 1 }, 1, &f, &t->err), TN_E_NOMEM);
	t->heap.fail_at = 0;
	assert_true(tn_lowrank_rows_bytes(t->ctx, 14336, 4096, &(struct tn_rank_rule){ 64, 1 }) < 64 << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(a_basis_is_orthonormal),
		TT_TEST(small_matrices_are_exact),
		TT_TEST(large_matrices_come_near),
		TT_TEST(a_low_rank_is_found_whole),
		TT_TEST(pruned_matrices_are_found_whole),
		TT_TEST(energy_bounds_the_rank),
		TT_TEST(bits_do_not_depend_on_the_machine),
		TT_TEST(products_need_no_matrix),
		TT_TEST(zeros_keep_a_rank_of_one),
		TT_TEST(numbers_that_are_none_are_refused),
		TT_TEST(errors_of_the_rows_come_through),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
