/* Rows of a matrix, one after the other, and from one format into another by way of float32. */
#ifndef TN_BY_VALUES_H
#define TN_BY_VALUES_H

#include "kernels/isa_build.h"
#include "kernels/kernels.h"

static inline struct tn_row row_of(const struct tn_rows *rows, size_t i)
{
	struct tn_row row = rows->first;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (row.part[p])
			row.part[p] = (const char *)row.part[p] + i * rows->stride[p];
	return row;
}

static inline struct tn_row_out row_out_of(const struct tn_rows_out *rows, size_t i)
{
	struct tn_row_out row = rows->first;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (row.part[p])
			row.part[p] = (char *)row.part[p] + i * rows->stride[p];
	return row;
}

static inline void recode_by_values(const struct tn_rows_out *dst, const struct tn_rows *src, const struct tn_recoding *how,
				    const struct tn_codec *from, const struct tn_codec *to)
{
	for (size_t i = 0; i < how->rows; i++) {
		struct tn_row in = row_of(src, i);
		struct tn_row_out out = row_out_of(dst, i);
		from->decode(how->values, &in, how->from, how->cols);
		to->encode(&out, how->values, how->to, how->cols);
	}
}

#endif
