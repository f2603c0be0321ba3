/* SPDX-License-Identifier: Apache-2.0 */
/* add_product in tiles. The same bits as the portable one: multiplications and additions are fused only where the products are
 * exact, and vdpbf16ps adds the odd product first and then the even one, each rounded. */
#include "kernels/vector/tiles.h"

enum {
	BATCH_COLS = 1024,     /* see struct batch */
	BATCH = BATCH_COLS / TILE_COLS, TILES_OF_PANEL = TN_PANEL_COLS / TILE_COLS
};

/* A call, and its scratch. */
struct work {
	const struct tn_add_product *p;
	unsigned char *dst;
	const unsigned char *src;
	size_t dst_stride, src_stride;
	enum how how;
	int scaled;                        /* sums are multiplied by the scale, where B is not */
	int stream;                        /* past the caches */
	size_t steps;                      /* packed rows of a tile: rank, or its pairs */
	size_t first, cols;                /* columns that are packed */
	float *a, *b, *lengths, *longest;  /* packed columns of A and rows of B, and what settle_row needs */
};

/* Tiles of some rows, from tile number `first` of the packed columns on. */
struct rows {
	size_t row, count;                 /* of B */
	size_t first;
	unsigned char *dst;
	const unsigned char *src;          /* dst, or rows that are not written */
	size_t dst_stride, src_stride;
};

/* Tiles beside each other. Which results are to be looked at again is asked for all of them at once: a CPU that expects no such
 * tile, and finds one, throws away what it has begun of those behind. */
struct batch {
	size_t first;                      /* number of the first tile */
	pair least[BATCH_COLS / TN_PANEL_COLS + 1]; /* of each panel, the first one first; see least_of */
	uint64_t marks[BATCH];             /* not 0: a result is below; in the upper half: it is tied */
	/* what is gone by then: the source, or, where that stays and results are past the caches, those; */
	uint16_t rows[BATCH][TILE_ROWS][TILE_COLS];
	float sums[BATCH][TILE_ROWS][TILE_COLS]; /* as keep_sums() does */
};

TN_INLINE struct panel panel_of(const struct work *w, size_t tile)
{
	size_t panel = tile / TILES_OF_PANEL, first = w->first + panel * TN_PANEL_COLS;
	return (struct panel){ w->p, first, panel_cols(w->p, first), w->longest[panel] };
}

/* Of the row with the highest limit. As signed numbers doubled results are below when they are small, not finite, or at least 2. */
TN_INLINE pair least_of(const struct panel *panel, const struct work *w, size_t rows)
{
	float length = 0;
	for (size_t r = 0; r < rows; r++)
		length = w->lengths[r] > length ? w->lengths[r] : length;
	unsigned limit = settle_row(panel, NULL, length).limit;
	return SPREAD_HALF(limit < 0x4000 ? 2 * limit : 0x7FFF);
}

/* A row of a tile that is looked at again. */
struct again {
	struct settled_row row;
	const float *sums, *a;             /* kept; packed */
	const void *source, *out;
	unsigned char *dst;
};

static __attribute__((noinline)) int settle_again(const struct work *w, const struct again *again, uint64_t which,
						  const vec sum[VECTORS], pair out)
{
	uint16_t halves[TILE_COLS], source[TILE_COLS];
	float sums[TILE_COLS];
	const struct columns columns = { again->a, TILE_COLS, w->how == PAIRS ? ROWS_PAIRED : ROWS_SWAPPED,
					 APART(w->p->dtype) ? LANES : 0 };
	STORE(sums, sum[0]);
	STORE(sums + LANES, sum[1]);
	STORE_PAIR(halves, out);
	memcpy(source, again->source, sizeof source);
	int bad = settle(&again->row, &columns, which, source, sums, halves);
	memcpy(again->dst, halves, sizeof halves);
	return bad;
}

/* Where the two ends of the error round to the same, so does all between them, and nearly every result is done with. Zero may be
 * what became of a subnormal number or of a NaN. */
TN_INLINE int look_at_row(const struct work *w, const struct again *again, tn_dtype dtype)
{
	const unsigned infinite = half_infinity(dtype), limit = again->row.limit;
	const vec error = SPREAD(again->row.error);
	vec sum[VECTORS];
	pair out = LOAD_PAIR(again->out), ties = SPREAD_HALF(1);
	kept_sums(sum, again->sums, out, dtype);
	round_pair(&ties, sum, dtype);
	const int tie = TIED(ties, dtype) != 0;
	out = tie ? narrow_pair(sum[0], sum[1], dtype) : out;
	pair low = narrow_pair(SUB(sum[0], error), SUB(sum[1], error), dtype);
	pair high = narrow_pair(ADD(sum[0], error), ADD(sum[1], error), dtype);
	uint64_t which = undecided(out, SPREAD_HALF(2 * limit), SPREAD_HALF(2 * (infinite - limit)), low, high, 2 * infinite);
	return which || tie ? settle_again(w, again, which, sum, out) : 0;
}

/* The results in question. */
TN_INLINE const void *results_at(const struct rows *rows, const struct batch *batch, size_t i, size_t r)
{
	const void *out = rows->dst + r * rows->dst_stride + 2 * TILE_COLS * (batch->first + i - rows->first);
	return rows->src != rows->dst ? batch->rows[i][r] : out;
}

/* The rows of marked tiles that marked them, as tile * TILE_ROWS + row; without branches, which nobody could foresee. */
static size_t list_rows(const struct rows *rows, const struct batch *batch, size_t tiles, uint32_t *list)
{
	uint32_t marked[BATCH];
	size_t n = 0, count = 0;
	for (size_t i = 0; i < tiles; i++) {
		marked[n] = (uint32_t)i;
		n += batch->marks[i] != 0;
	}
	for (size_t m = 0; m < n; m++) {
		size_t i = marked[m], tile = batch->first + i;
		pair least = batch->least[tile / TILES_OF_PANEL - batch->first / TILES_OF_PANEL];
		const uint32_t ties = (uint32_t)(batch->marks[i] >> 32);
		for (size_t r = 0; r < rows->count; r++) {
			pair out = LOAD_PAIR(results_at(rows, batch, i, r));
			list[count] = (uint32_t)(i * TILE_ROWS + r);
			count += (MARKS_BELOW(doubled(out), least) | ties) != 0;
		}
	}
	return count;
}

TN_INLINE int look_at_rows(const struct work *w, const struct rows *rows, const struct batch *batch, size_t tiles, tn_dtype dtype)
{
	uint32_t list[BATCH * TILE_ROWS];
	size_t n = list_rows(rows, batch, tiles, list);
	int bad = 0;
	for (size_t k = 0; k < n; k++) {
		size_t i = list[k] / TILE_ROWS, r = list[k] % TILE_ROWS, tile = batch->first + i;
		size_t at = 2 * TILE_COLS * (tile - rows->first);
		const void *kept = batch->rows[i][r], *src = rows->src + r * rows->src_stride + at;
		const struct panel panel = panel_of(w, tile);
		const struct again again = { settle_row(&panel, w->p->b + (rows->row + r) * w->p->rank, w->lengths[r]),
					     batch->sums[i][r],
					     w->a + tile * w->steps * TILE_COLS,
					     rows->src != rows->dst ? src : kept,
					     results_at(rows, batch, i, r),
					     rows->dst + r * rows->dst_stride + at };
		bad |= look_at_row(w, &again, dtype);
	}
	return bad;
}

static __attribute__((noinline)) int look_again(const struct work *w, const struct rows *rows, const struct batch *batch,
						size_t tiles)
{
	return w->p->dtype == TN_BF16 ? look_at_rows(w, rows, batch, tiles, TN_BF16) : look_at_rows(w, rows, batch, tiles, TN_F16);
}

/* Tile number i of a batch. All of its source is read before any of its results is written: rows may be a multiple of 4096 bytes
 * apart, and a CPU that compares no more of addresses than that waits for the write to one row when it reads the next. */
struct tile {
	size_t i;
	int ends_line;                     /* results up to here fill a line, or are the last ones */
	const unsigned char *src, *ahead;  /* what is read, and what will be in a while */
	unsigned char *dst;
	size_t src_stride, dst_stride;
	vec scale;
	pair least;
};

/* Results past the caches, in whole lines: those of the tile before are kept until then. */
TN_INLINE void stream_row(struct batch *batch, const struct tile *t, int r, pair out)
{
	unsigned char *dst = t->dst + (size_t)r * t->dst_stride;
	STORE_PAIR(batch->rows[t->i][r], out);
	if (TILES_OF_LINE > 1 && !t->ends_line)
		return;
	if (TILES_OF_LINE > 1 && t->i % 2)
		STREAM_PAIR(dst - 2 * TILE_COLS, LOAD_PAIR(batch->rows[t->i - 1][r]));
	STREAM_PAIR(dst, out);
}

/* The sums of a tile, with its source added, rounded and stored; what is to be looked at again is kept and marked. */
TN_INLINE void finish_tile(struct batch *batch, const struct tile *t, vec sum[TILE_ROWS][VECTORS], const int count, tn_dtype dtype,
			   int scaled, int stream)
{
	pair out[TILE_ROWS], lowest = SPREAD_HALF(0x7FFF), ties = SPREAD_HALF(1);
	TN_UNROLL(8)
	for (int r = 0; r < count; r++) {
		const pair source = LOAD_PAIR((stream ? t->src : t->dst) + (size_t)r * t->src_stride);
		if (!stream)
			STORE_PAIR(batch->rows[t->i][r], source);
		add_source(sum[r], source, t->scale, dtype, scaled);
	}
	TN_UNROLL(8)
	for (int r = 0; r < count; r++) {
		keep_sums(batch->sums[t->i][r], sum[r], dtype);
		out[r] = round_pair(&ties, sum[r], dtype);
	}
	TN_UNROLL(8)
	for (int r = 0; r < count; r++)
		lowest = SMALLER_HALVES(lowest, doubled(out[r]));
	TN_UNROLL(8)
	for (int r = 0; r < count; r++) {
		if (stream)
			stream_row(batch, t, r, out[r]);
		else
			STORE_PAIR(t->dst + (size_t)r * t->dst_stride, out[r]);
	}
	batch->marks[t->i] = MARKS_BELOW(lowest, t->least) | (uint64_t)TIED(ties, dtype) << 32;
}

/* At most BATCH tiles of rows, from number `first` on; stream: into others, past the caches, else in place. */
TN_INLINE void add_batch(const struct work *w, const struct rows *rows, struct batch *batch, size_t tiles, const int count,
			 enum how how, tn_dtype dtype, int scaled, int stream)
{
	const size_t steps = w->steps, begin = batch->first, offset = 2 * TILE_COLS * (begin - rows->first);
	const float *a = w->a + begin * steps * TILE_COLS, *b = w->b;
	struct tile t = { .src = rows->src + offset, .dst = rows->dst + offset, .src_stride = rows->src_stride,
			  .dst_stride = stream ? rows->dst_stride : rows->src_stride,
			  .scale = SPREAD(w->scaled ? (float)w->p->scale : 1.0f) };
	t.ahead = t.src + AHEAD * t.src_stride;
	for (; t.i < tiles; t.i++) {
		const size_t tile = begin + t.i;
		if (t.i == 0 || tile % TILES_OF_PANEL == 0) {
			const struct panel panel = panel_of(w, tile);
			t.least = least_of(&panel, w, (size_t)count);
			batch->least[tile / TILES_OF_PANEL - begin / TILES_OF_PANEL] = t.least;
		}
		vec sum[TILE_ROWS][VECTORS];
		TN_UNROLL(8)
		for (int r = 0; r < count; r++)
			PREFETCH(t.ahead + (size_t)r * t.src_stride);
		a = sum_tile(sum, b, (size_t)count, a, steps, count, how);
		t.ends_line = t.i % TILES_OF_LINE == TILES_OF_LINE - 1 || t.i + 1 == tiles;
		finish_tile(batch, &t, sum, count, dtype, scaled, stream);
		t.src += 2 * TILE_COLS;
		t.ahead += 2 * TILE_COLS;
		t.dst += 2 * TILE_COLS;
	}
}

TN_INLINE int add_tiles(const struct work *w, const struct rows *rows, size_t tiles, const int count, enum how how, tn_dtype dtype,
			int scaled, int stream)
{
	struct batch batch;
	int bad = 0;
	for (size_t done = 0, n; done < tiles; done += n) {
		n = tiles - done < BATCH ? tiles - done : BATCH;
		batch.first = rows->first + done;
		add_batch(w, rows, &batch, n, count, how, dtype, scaled, stream);
		bad |= look_again(w, rows, &batch, n);
	}
	return bad;
}

/* Rows into others, past the caches or not, by way of `copy` where a tile is not whole. */
TN_INLINE int add_tiles_as(const struct work *w, const struct rows *rows, size_t tiles, enum how how, tn_dtype dtype)
{
	if (rows->count == 1)
		return add_tiles(w, rows, tiles, 1, how, dtype, 1, 0);
	if (rows->src != rows->dst)
		return w->scaled ? add_tiles(w, rows, tiles, TILE_ROWS, how, dtype, 1, 1) :
				   add_tiles(w, rows, tiles, TILE_ROWS, how, dtype, 0, 1);
	return w->scaled ? add_tiles(w, rows, tiles, TILE_ROWS, how, dtype, 1, 0) :
			   add_tiles(w, rows, tiles, TILE_ROWS, how, dtype, 0, 0);
}

TN_INLINE int add_tiles_how(const struct work *w, const struct rows *rows, size_t tiles, enum how how)
{
	return w->p->dtype == TN_BF16 ? add_tiles_as(w, rows, tiles, how, TN_BF16) : add_tiles_as(w, rows, tiles, how, TN_F16);
}

static __attribute__((noinline)) int add_some_tiles(const struct work *w, const struct rows *rows, size_t tiles)
{
	switch (w->how) {
#if defined(TN_FAST_PAIRS)
	case PAIRS: return add_tiles_how(w, rows, tiles, PAIRS);
#endif
	case ROUND_BOTH: return add_tiles_how(w, rows, tiles, ROUND_BOTH);
	default: return add_tiles_how(w, rows, tiles, FUSED);
	}
}

/* The last columns, which are no whole tile, in a copy that is one. */
static int add_last_tile(const struct work *w, struct rows rows, size_t cols)
{
	uint16_t copy[TILE_ROWS][TILE_COLS] = { { 0 } };
	unsigned char *dst = rows.dst;
	size_t dst_stride = rows.dst_stride;
	for (size_t r = 0; r < rows.count; r++)
		memcpy(copy[r], rows.src + r * rows.src_stride, 2 * cols);
	rows.src = rows.dst = (unsigned char *)copy;
	rows.src_stride = rows.dst_stride = sizeof *copy;
	int bad = add_some_tiles(w, &rows, 1);
	for (size_t r = 0; r < rows.count; r++)
		memcpy(dst + r * dst_stride, copy[r], 2 * cols);
	return bad;
}

/* Rows from `row` on, in place if not past the caches. */
static int add_rows(const struct work *w, size_t row, size_t count)
{
	size_t whole = w->cols / TILE_COLS, left = w->cols % TILE_COLS, offset = 2 * w->first;
	struct rows rows = {
		row,	       count,	     0, w->dst + row * w->dst_stride + offset, w->src + row * w->src_stride + offset,
		w->dst_stride, w->src_stride
	};
	if (rows.src != rows.dst && !(w->stream && count == TILE_ROWS)) {
		for (size_t r = 0; r < count; r++)
			memcpy(rows.dst + r * rows.dst_stride, rows.src + r * rows.src_stride, 2 * w->cols);
		rows.src = rows.dst;
		rows.src_stride = rows.dst_stride;
	}
	int bad = add_some_tiles(w, &rows, whole);
	rows.first = whole;
	rows.dst += 2 * TILE_COLS * whole;
	rows.src += 2 * TILE_COLS * whole;
	return left ? bad | add_last_tile(w, rows, left) : bad;
}

/* Packs columns from w->first on. */
static void pack_columns(const struct work *w)
{
	float *a = w->a;
	for (size_t first = w->first; first < w->first + w->cols; first += TN_PANEL_COLS) {
		w->longest[(first - w->first) / TN_PANEL_COLS] = pack_panel(a, w->p, first, w->how);
		a += w->steps * TN_PANEL_COLS;
	}
}

/* All rows of the packed columns, TILE_ROWS at a time. */
static int add_columns(const struct work *w)
{
	const struct tn_add_product *p = w->p;
	int bad = 0;
	for (size_t i = 0, n; i < p->rows; i += n) {
		n = p->rows - i < TILE_ROWS ? 1 : TILE_ROWS;
		const float *b = p->b + i * p->rank, scale = w->scaled ? 1.0f : (float)p->scale;
		if (n == TILE_ROWS)
			pack_rows(w->b, b, TILE_ROWS, p->rank, scale, w->how == PAIRS);
		else
			pack_rows(w->b, b, 1, p->rank, scale, w->how == PAIRS);
		for (size_t r = 0; r < n; r++)
			w->lengths[r] = row_length(p, b + r * p->rank);
		bad |= add_rows(w, i, n);
	}
	return bad;
}

int TN_ISA_NAME(tn_vector_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
					  const struct tn_add_product *p, void *scratch)
{
	struct work w = { .p = p, .dst = dst, .src = src, .dst_stride = dst_stride, .src_stride = src_stride, .how = how_for(p),
			  .scaled = !moves_into_b(p->scale), .a = scratch };
	/* pairs take half the room */
	size_t wide = tn_add_product_packed_cols(p->rank, p->cols) * (w.how == PAIRS && p->rank % 2 == 0 ? 2 : 1);
	int bad = 0;
	if (p->row_magnitude)
		return TN_ISA_NAME(tn_vector_gain_product)(dst, dst_stride, src, src_stride, p, scratch);
	w.steps = w.how == PAIRS ? (p->rank + 1) / 2 : p->rank;
	w.b = w.a + w.steps * wide;
	w.lengths = w.b + w.steps * TILE_ROWS;
	w.longest = w.lengths + TILE_ROWS;
	w.stream = dst != src && p->rows * p->cols * 2 >= STREAM_FROM && ((uintptr_t)dst | dst_stride) % LINE_BYTES == 0;
	for (w.first = 0; w.first < p->cols; w.first += wide) {
		w.cols = p->cols - w.first < wide ? p->cols - w.first : wide;
		pack_columns(&w);
		bad |= add_columns(&w);
	}
	if (w.stream)
		END_STREAM();
	return bad;
}
