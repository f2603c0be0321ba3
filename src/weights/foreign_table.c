/* SPDX-License-Identifier: Apache-2.0 */
/* Foreign matrices in memory, where MLX has no form for them: the codec `table`, in which codes keep their bits. */
#include "weights/foreign_rows.h"

#include "base/checked.h"
#include "base/error.h"

/* Columns that share a scale in every row: no more than are decoded at a time, no fewer than a vector. */
enum { MOST_GROUP = 1024, LEAST_GROUP = 16 };

static uint64_t group_of(const struct tn_foreign *f)
{
	uint64_t group = MOST_GROUP, whole = f->cols / tn_foreign_row_groups(f);
	if (f->scales != TN_SCALES_FLAT) /* the last group of a row may be a part of one */
		whole = f->group >= f->cols ? f->cols : f->group;
	while (group >= LEAST_GROUP && (whole % group != 0 || f->cols % group != 0))
		group /= 2;
	return group;
}

/* Codes that kernels can compute, or look up in a register. */
static int find_kind(const struct tn_foreign *f, enum tn_code_kind *kind)
{
	*kind = f->element == TN_ELEMENT_E4M3 ? TN_CODES_E4M3 : f->element == TN_ELEMENT_I8 ? TN_CODES_I8 : TN_CODES_ANY;
	return f->bits == 4 || (f->bits == 8 && *kind != TN_CODES_ANY);
}

int tn_foreign_as_table(const struct tn_foreign *f, struct tn_format *format)
{
	enum tn_code_kind kind;
	uint64_t group = group_of(f);
	if (!find_kind(f, &kind) || f->zeros != TN_ZEROS_NONE || f->group_of || group < LEAST_GROUP)
		return 0;
	*format = (struct tn_format){ .codec = TN_CODEC_table, .dtype = f->dtype, .bits = f->bits, .group = (uint16_t)group,
				      .code_kind = (uint8_t)kind };
	return 1;
}

tn_status tn_foreign_read_table(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
				const struct tn_foreign *f, const struct tn_format *format, uint64_t first, uint64_t count,
				void *scratch, const struct tn_row_out *rows, struct tn_error *err)
{
	struct tn_grid_rows s;
	const size_t cols = (size_t)f->cols, groups = (size_t)tn_foreign_row_groups(f);
	const size_t whole = f->scales == TN_SCALES_FLAT ? cols / groups : (size_t)tn_min_u64(f->group, f->cols);
	TN_TRY(tn_foreign_load_rows(kernels, source, f, first, count, scratch, &s, err));
	for (size_t r = 0; r < count; r++) {
		kernels->pack_codes(rows[r].part[TN_PART_WEIGHT], s.codes + r * cols, cols, f->bits);
		for (size_t g = 0; g < cols / format->group; g++)
			tn_foreign_put_value(rows[r].part[TN_PART_SCALES], g, TN_F32,
					     s.scales[r * groups + g * format->group / whole]);
	}
	return TN_OK;
}
