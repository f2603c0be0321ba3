/* SPDX-License-Identifier: Apache-2.0 */
/* add_product with a magnitude for each row, in tiles. W + scale * B A of a few rows is kept in float32, near the CPU, while
 * the squares are summed; then each row is multiplied by its gain, rounded and stored. */
#include "kernels/vector/tiles.h"

/* 16 lanes in vectors; and the tiles of a row that are rounded at once. */
enum { SQUARES = SQUARE_LANES / LANES, CHUNK = 4, CHUNK_COLS = CHUNK * TILE_COLS };

/* A call, and its scratch. */
struct gains {
	const struct tn_add_product *p;
	unsigned char *dst;
	const unsigned char *src;
	size_t dst_stride, src_stride;
	enum how how;
	int stream;                        /* past the caches */
	size_t steps;                      /* packed rows of a tile: rank, or its pairs */
	size_t packed, first, cols;        /* columns that can be packed at once, and those that are */
	float *a, *b;                      /* packed columns of A and rows of B */
	float *longest;                    /* of all panels: see settle_row */
	size_t row, count, most;           /* rows whose sums are kept, and room for them */
	float *sums;                       /* of TILE_ROWS of them, or a single one, tile by tile; */
	size_t stride;                     /* times the rows: where the next of them stand */
	double *squares;                   /* [SQUARE_LANES] of each */
	float *lengths;                    /* see settle_row */
};

/* ---- sums ------------------------------------------------------------------------------------------------ */

/* Columns of some rows. */
struct kept_tile {
	const unsigned char *src;
	size_t src_stride;
	const unsigned char *next;         /* what will be read in a while */
	const float *a, *b;                /* packed */
	size_t steps;
	vec scale;
	float *sums;                       /* [count][TILE_COLS] of each tile */
};

/* Tile number i of a panel. */
TN_INLINE void keep_tile(const struct kept_tile *t, vec squares[TILE_ROWS][SQUARES], size_t i, const int count, enum how how,
			 tn_dtype dtype, int scaled)
{
	vec sum[TILE_ROWS][VECTORS];
	TN_UNROLL(8)
	for (int r = 0; r < count; r++)
		PREFETCH(t->next + (size_t)r * t->src_stride);
	sum_tile(sum, t->b, (size_t)count, t->a, t->steps, count, how);
	TN_UNROLL(8)
	for (int r = 0; r < count; r++) {
		add_source(sum[r], LOAD_PAIR(t->src + (size_t)r * t->src_stride), t->scale, dtype, scaled);
		TN_UNROLL(2)
		for (size_t v = 0; v < VECTORS; v++) {
			vec *lanes = &squares[r][(i * VECTORS + v) % SQUARES];
			STORE(t->sums + (size_t)r * TILE_COLS + v * LANES, sum[r][v]);
			*lanes = ADD(*lanes, MUL(sum[r][v], sum[r][v]));
		}
	}
}

/* The last columns, which are no whole tile, in a copy that is one. */
TN_INLINE void keep_last_tile(struct kept_tile t, vec squares[TILE_ROWS][SQUARES], size_t cols, const int count, enum how how,
			      tn_dtype dtype, int scaled)
{
	uint16_t copy[TILE_ROWS][TILE_COLS] = { { 0 } };
	for (int r = 0; r < count; r++)
		memcpy(copy[r], t.src + (size_t)r * t.src_stride, 2 * (cols % TILE_COLS));
	t.src = t.next = (const unsigned char *)copy;
	t.src_stride = sizeof *copy;
	keep_tile(&t, squares, cols / TILE_COLS, count, how, dtype, scaled);
}

TN_INLINE struct kept_tile kept_after(struct kept_tile t, size_t cols, const int count)
{
	t.src += 2 * cols;
	t.next += 2 * cols;
	t.a += t.steps * cols;
	t.sums += (size_t)count * cols;
	return t;
}

/* Lanes of even and odd columns, apart, into the order of the columns. */
TN_INLINE void put_in_order(float lanes[SQUARE_LANES])
{
	float apart[SQUARE_LANES];
	memcpy(apart, lanes, sizeof apart);
	for (size_t l = 0; l < SQUARE_LANES; l++)
		lanes[l] = apart[l / 2 + l % 2 * (SQUARE_LANES / 2)];
}

TN_INLINE void keep_panel(struct kept_tile t, size_t cols, double *squares, const int count, enum how how, tn_dtype dtype,
			  int scaled)
{
	vec sum[TILE_ROWS][SQUARES];
	for (int r = 0; r < count; r++)
		for (int v = 0; v < SQUARES; v++)
			sum[r][v] = ZERO();
	for (size_t i = 0; i < cols / TILE_COLS; i++) {
		keep_tile(&t, sum, i, count, how, dtype, scaled);
		t = kept_after(t, TILE_COLS, count);
	}
	if (cols % TILE_COLS)
		keep_last_tile(t, sum, cols, count, how, dtype, scaled);
	for (int r = 0; r < count; r++) {
		float lanes[SQUARE_LANES];
		for (int v = 0; v < SQUARES; v++)
			STORE(lanes + v * LANES, sum[r][v]);
		if (APART(dtype))
			put_in_order(lanes);
		add_squares(squares + r * SQUARE_LANES, lanes);
	}
}

/* The packed columns of `count` rows, number `at` and following of those that are kept. */
TN_INLINE void keep_rows_as(const struct gains *g, size_t at, const int count, enum how how, tn_dtype dtype, int scaled)
{
	struct kept_tile t = { .src = g->src + (g->row + at) * g->src_stride + 2 * g->first, .src_stride = g->src_stride, .a = g->a,
			       .b = g->b, .steps = g->steps, .sums = g->sums + at * g->stride + (size_t)count * g->first };
	t.next = t.src + AHEAD * t.src_stride;
	t.scale = SPREAD((float)g->p->scale);
	for (size_t first = g->first; first < g->first + g->cols; first += TN_PANEL_COLS) {
		keep_panel(t, panel_cols(g->p, first), g->squares + at * SQUARE_LANES, count, how, dtype, scaled);
		t = kept_after(t, TN_PANEL_COLS, count);
	}
}

TN_INLINE void keep_rows_of(const struct gains *g, size_t at, size_t count, enum how how, tn_dtype dtype)
{
	const int scaled = !moves_into_b(g->p->scale);
	pack_rows(g->b, g->p->b + (g->row + at) * g->p->rank, count, g->p->rank, scaled ? 1.0f : (float)g->p->scale, how == PAIRS);
	if (count == TILE_ROWS && scaled)
		keep_rows_as(g, at, TILE_ROWS, how, dtype, 1);
	else if (count == TILE_ROWS)
		keep_rows_as(g, at, TILE_ROWS, how, dtype, 0);
	else if (scaled)
		keep_rows_as(g, at, 1, how, dtype, 1);
	else
		keep_rows_as(g, at, 1, how, dtype, 0);
}

TN_INLINE void keep_rows_how(const struct gains *g, size_t at, size_t count, enum how how)
{
	if (g->p->dtype == TN_BF16)
		keep_rows_of(g, at, count, how, TN_BF16);
	else
		keep_rows_of(g, at, count, how, TN_F16);
}

static void keep_rows(const struct gains *g, size_t at, size_t count)
{
	switch (g->how) {
#if defined(TN_FAST_PAIRS)
	case PAIRS: keep_rows_how(g, at, count, PAIRS); break;
#endif
	case ROUND_BOTH: keep_rows_how(g, at, count, ROUND_BOTH); break;
	default: keep_rows_how(g, at, count, FUSED); break;
	}
}

/* ---- gains ----------------------------------------------------------------------------------------------- */

/* A row of a panel that is multiplied and rounded. */
struct finished {
	struct settled_row row;
	const float *sums;                 /* of its first tile; */
	size_t step;                       /* and from there to the next one */
	unsigned char *dst;
	const unsigned char *src;
	struct columns columns;            /* of its first tile; */
	size_t per_column;                 /* numbers from a tile's to the next one's, by the width of a tile */
	vec gain, error;
	int stream;
};

/* Field by field: a structure that is copied costs more than a panel. The columns of A are as they were packed, if all of them
 * still are. */
TN_INLINE void set_finished(struct finished *f, const struct gains *g, size_t at, const struct panel *panel, double gain)
{
	const struct tn_add_product *p = g->p;
	const size_t row = g->row + at, first = panel->first;
	const size_t together = at < g->count / TILE_ROWS * TILE_ROWS ? TILE_ROWS : 1, whole = at / together * together;
	const int packed = g->cols == p->cols;
	f->row = gained_row(panel, p->b + row * p->rank, g->lengths[at], gain);
	f->sums = g->sums + whole * g->stride + together * first + (at - whole) * TILE_COLS;
	f->step = together * TILE_COLS;
	f->dst = g->dst + row * g->dst_stride + 2 * first;
	f->src = g->src + row * g->src_stride + 2 * first;
	f->columns.a = packed ? g->a + first * g->steps : p->a + first;
	f->columns.stride = packed ? TILE_COLS : p->cols;
	f->columns.apart = packed && APART(p->dtype) ? LANES : 0;
	f->columns.rows = !packed ? ROWS_AS_THEY_ARE : g->how == PAIRS ? ROWS_PAIRED : ROWS_SWAPPED;
	f->per_column = packed ? g->steps : 1;
	f->gain = SPREAD((float)gain);
	f->error = SPREAD(f->row.error);
	f->stream = g->stream;
}

/* A tile's results with the error added, or taken away. */
TN_INLINE void ends_of(vec low[VECTORS], vec high[VECTORS], const struct finished *f, size_t j)
{
	const float *sums = f->sums + j / TILE_COLS * f->step;
	TN_UNROLL(2)
	for (int v = 0; v < VECTORS; v++) {
		vec result = MUL(f->gain, LOAD(sums + v * LANES));
		low[v] = SUB(result, f->error);
		high[v] = ADD(result, f->error);
	}
}

/* n columns from j on, a tile or less: what differs at its ends is computed in double. */
static __attribute__((noinline)) pair finish_slowly(const struct finished *f, size_t j, size_t n, pair low, pair high)
{
	uint16_t source[TILE_COLS], halves[TILE_COLS], ends[TILE_COLS];
	struct columns columns = f->columns;
	columns.a += j * f->per_column;
	memcpy(source, f->src + 2 * j, 2 * n);
	STORE_PAIR(halves, low);
	STORE_PAIR(ends, high);
	for (size_t l = 0; l < n; l++)
		if (halves[l] != ends[l])
			halves[l] = in_double(&f->row, &columns, l, widen(source[l], f->row.panel->p->dtype));
	return LOAD_PAIR(halves);
}

/* Columns from j on, in `tiles` whole ones; or n < TILE_COLS of them in one. As round_gained(). */
TN_INLINE void finish_tiles(const struct finished *f, size_t j, const int tiles, size_t n, tn_dtype dtype)
{
	pair out[CHUNK], differ = SPREAD_HALF(0), ties = SPREAD_HALF(1);
	vec low[VECTORS], high[VECTORS];
	TN_UNROLL(4)
	for (int i = 0; i < tiles; i++) {
		ends_of(low, high, f, j + (size_t)i * TILE_COLS);
		out[i] = round_pair(&ties, low, dtype);
		differ = OR_DIFFERENT(differ, out[i], round_pair(&ties, high, dtype));
	}
	if (__builtin_expect(ANY_BIT(differ) || TIED(ties, dtype), 0)) {
		TN_UNROLL(4)
		for (int i = 0; i < tiles; i++) {
			const size_t at = j + (size_t)i * TILE_COLS;
			ends_of(low, high, f, at);
			const pair upper = narrow_pair(high[0], high[1], dtype);
			out[i] = narrow_pair(low[0], low[1], dtype);
			if (ANY_BIT(OR_DIFFERENT(SPREAD_HALF(0), out[i], upper)))
				out[i] = finish_slowly(f, at, n, out[i], upper);
		}
	}
	if (n < TILE_COLS) {
		uint16_t halves[TILE_COLS];
		STORE_PAIR(halves, out[0]);
		memcpy(f->dst + 2 * j, halves, 2 * n);
		return;
	}
	TN_UNROLL(4)
	for (int i = 0; i < tiles; i++) {
		unsigned char *dst = f->dst + 2 * (j + (size_t)i * TILE_COLS);
		if (f->stream)
			STREAM_PAIR(dst, out[i]);
		else
			STORE_PAIR(dst, out[i]);
	}
}

TN_INLINE void finish_panel(const struct finished *f, size_t cols, tn_dtype dtype)
{
	size_t j = 0;
	for (; j + CHUNK_COLS <= cols; j += CHUNK_COLS)
		finish_tiles(f, j, CHUNK, TILE_COLS, dtype);
	for (; j + TILE_COLS <= cols; j += TILE_COLS)
		finish_tiles(f, j, 1, TILE_COLS, dtype);
	if (j < cols)
		finish_tiles(f, j, 1, cols - j, dtype);
}

static void finish_row(const struct gains *g, size_t at, double gain)
{
	const struct tn_add_product *p = g->p;
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		const struct panel panel = { p, first, panel_cols(p, first), g->longest[first / TN_PANEL_COLS] };
		struct finished f;
		set_finished(&f, g, at, &panel, gain);
		if (p->dtype == TN_BF16)
			finish_panel(&f, panel.cols, TN_BF16);
		else
			finish_panel(&f, panel.cols, TN_F16);
	}
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* Columns from `first` on, if they are not packed yet. */
static void pack_columns(struct gains *g, size_t first)
{
	if (g->cols && first == g->first)
		return;
	g->first = first;
	g->cols = g->p->cols - first < g->packed ? g->p->cols - first : g->packed;
	float *a = g->a;
	for (size_t at = first; at < first + g->cols; at += TN_PANEL_COLS) {
		g->longest[at / TN_PANEL_COLS] = pack_panel(a, g->p, at, g->how);
		a += g->steps * TN_PANEL_COLS;
	}
}

/* The sums and squares of some rows. */
static void sum_rows(struct gains *g)
{
	const struct tn_add_product *p = g->p;
	memset(g->squares, 0, g->count * SQUARE_LANES * sizeof *g->squares);
	for (size_t r = 0; r < g->count; r++)
		g->lengths[r] = row_length(p, p->b + (g->row + r) * p->rank);
	for (size_t first = 0; first < p->cols; first += g->packed) {
		pack_columns(g, first);
		for (size_t i = 0, n; i < g->count; i += n) {
			n = g->count - i < TILE_ROWS ? 1 : TILE_ROWS;
			keep_rows(g, i, n);
		}
	}
}

static int finish_rows(const struct gains *g)
{
	const double whole = whole_length(g->p, g->longest);
	int bad = 0;
	for (size_t r = 0; r < g->count; r++) {
		size_t row = g->row + r;
		double gain = row_gain(g->p, row, g->squares + r * SQUARE_LANES, (double)g->lengths[r] * whole);
		if (gain != 0)
			finish_row(g, r, gain);
		else
			bad |= row_in_double(g->p, row, g->dst + row * g->dst_stride, g->src + row * g->src_stride);
	}
	return bad;
}

static void place_scratch(struct gains *g, void *scratch)
{
	g->squares = scratch;
	g->sums = (float *)(g->squares + g->most * SQUARE_LANES);
	g->a = g->sums + g->most * g->stride;
	g->b = g->a + g->steps * g->packed;
	g->lengths = g->b + g->steps * TILE_ROWS;
	g->longest = g->lengths + g->most;
}

int TN_ISA_NAME(tn_vector_gain_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
					const struct tn_add_product *p, void *scratch)
{
	struct gains g = { .p = p, .dst = dst, .src = src, .dst_stride = dst_stride, .src_stride = src_stride, .how = how_for(p),
			   .packed = tn_gain_packed_cols(p->rank, p->cols),
			   .stride = tn_gain_stride(p->cols) };
	int bad = 0;
	g.steps = g.how == PAIRS ? (p->rank + 1) / 2 : p->rank;
	/* with all of A packed, the fewer rows are kept, the nearer they are */
	g.most = g.packed < p->cols ? TN_GAIN_ROWS / TILE_ROWS * TILE_ROWS : TILE_ROWS;
	g.stream = dst != src && p->rows * p->cols * 2 >= STREAM_FROM && ((uintptr_t)dst | dst_stride) % LINE_BYTES == 0;
	place_scratch(&g, scratch);
	for (; g.row < p->rows; g.row += g.count) {
		g.count = p->rows - g.row < g.most ? p->rows - g.row : g.most;
		sum_rows(&g);
		bad |= finish_rows(&g);
	}
	if (g.stream)
		END_STREAM();
	return bad;
}
