/* Where the parts of a foreign matrix stand and how their values are stored: what its reader and its writer share. */
#ifndef TN_FOREIGN_ROWS_H
#define TN_FOREIGN_ROWS_H

#include "weights/foreign.h"

/* The cell of a part that serves a row. */
uint64_t tn_foreign_cell(const struct tn_foreign *f, const struct tn_slab *slab, uint64_t row);
/* Rows (flat: values) that stand in front of the block's first one in its piece of a part. */
size_t tn_foreign_skip(const struct tn_foreign *f, const struct tn_foreign_block *block, unsigned part);

/* Value i of an array: floats, E4M3, or E8M0 where a byte 255 is NaN. */
float tn_foreign_value(const unsigned char *src, size_t i, tn_dtype dtype);
/* The way back, for F32, F16 and BF16. */
void tn_foreign_put_value(void *dst, size_t i, tn_dtype dtype, float x);
/* Where marlin keeps the scale of column n among 64. */
size_t tn_foreign_marlin_column(size_t n, int one_group);

/* Rows in the form of the grid within scratch of tn_foreign_row_bytes and _fixed_bytes. */
tn_status tn_foreign_load_rows(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			       const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch,
			       struct tn_grid_rows *rows, struct tn_error *err);

#endif
