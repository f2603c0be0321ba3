/* What changed between a base and a checkpoint that was tuned from it, as an adapter: from inside.
 *
 * Every module that the dialect can name knows its rows in both checkpoints (tn_module_pieces), in whatever form they hold them:
 * wrapped names, experts one by one or stacked, any codec. Rows that stand together in both make a piece; tensors that are no
 * module's are pieces too, and all pieces are compared first. Then the modules that changed are taken apart, one by one. */
#ifndef TN_EXTRACT_H
#define TN_EXTRACT_H

#include "adapter/derive.h"

/* One of the two checkpoints. */
struct tn_extract_side {
	const tn_checkpoint *checkpoint;
	struct tn_joint *joint;       /* its tensors by name */
	unsigned char *used;          /* of the targets: a module has rows in it, or it has a counterpart */
};

/* Rows that stand together in both. */
struct tn_extract_piece {
	struct tn_matrix base, tuned;
	uint64_t base_row, tuned_row;
	uint64_t row, rows;           /* of the module, as it is stored */
	size_t owner;                 /* module, or module_count + rest */
	int is_bytes;                 /* no floats: rows of one byte, compared as they are */
};

/* What a comparison found. */
struct tn_extract_finding {
	double delta2;                /* the sum of the squares of the change */
	double noise2;                /* what rounding to the dtype, or grid, of the tuned weights adds to the change */
	int differs;                  /* by more than a rounding from the one dtype to the other */
	int not_finite;
};

struct tn_extract_module {
	const struct tn_base_module *module;
	int by_inputs;                /* stored [in, out] */
	uint64_t groups, rows, cols;  /* of one group as it is stored */
	size_t first_piece, piece_count;
	struct tn_extract_finding found;
};

/* A group is read some times to be taken apart, which nobody knows beforehand; for the progress it is four. */
static inline uint64_t tn_extract_group_work(const struct tn_extract_module *m)
{
	return 4 * m->rows * m->cols * sizeof(float);
}

/* A tensor that is no module's. */
struct tn_extract_rest {
	const char *name;
	const struct tn_target *base, *tuned;     /* NULL: that side has none */
	int is_reshaped;
	struct tn_extract_finding found;
};

struct tn_extract {
	tn_context *ctx;
	struct tn_arena arena;
	const struct tn_extract_options *options;
	tn_adapter_dialect dialect;
	struct tn_extract_side base, tuned;
	struct tn_base_modules list;
	struct tn_extract_module *modules;        /* in the order of `list`, without those of other shapes */
	size_t module_count;
	struct tn_extract_rest *rest;             /* in the order of names */
	size_t rest_count;
	struct tn_extract_piece *pieces;
	size_t piece_count, piece_room;
	uint64_t done, total;         /* bytes of changes, as float32, that were read and will be to take modules apart */
};

/* Finds the two sides' modules and the rest. Errors: TN_E_MISMATCH names what has no counterpart, or another shape. */
tn_status tn_extract_match(struct tn_extract *x, struct tn_error *err);
/* Compares everything, and fills `found`. */
tn_status tn_extract_survey(struct tn_extract *x, struct tn_error *err);

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* Memory to read rows of a piece: unit bytes for each row, and fixed ones. The change of a row is [cols] float32 beside it. */
void tn_extract_piece_bytes(const struct tn_extract_piece *piece, uint64_t *unit_bytes, uint64_t *fixed_bytes);
/* The change of rows [first, first + count) of the piece to dst [count, cols]; `scratch` aligned to 64. *finding (may be NULL)
 * is added to. */
tn_status tn_extract_read(const struct tn_extract *x, const struct tn_extract_piece *piece, uint64_t first, uint64_t count,
			  float *dst, void *scratch, struct tn_extract_finding *finding, struct tn_error *err);

/* Factors of group `group` of a module, as it is stored. Memory of *out: tn_lowrank_release. */
struct tn_lowrank_factors;
tn_status tn_extract_factor(struct tn_extract *x, const struct tn_extract_module *module, uint64_t group,
			    const struct tn_rank_rule *rule, struct tn_lowrank_factors *out, struct tn_error *err);
/* The same of all groups, as the dialect has them. Memory is the arena's. */
tn_status tn_extract_pair(struct tn_extract *x, const struct tn_extract_module *module, const struct tn_rank_rule *rule,
			  struct tn_pair *out, struct tn_error *err);

/* ---- what changed ---------------------------------------------------------------------------------------- */

/* Chooses the modules that the adapter is for (`chosen` of struct tn_base_module). Errors: TN_E_MISMATCH: none of them changed; or
 * what else changed, by name, unless the options say what to do with it. */
tn_status tn_extract_judge(struct tn_extract *x, struct tn_error *err);
/* The whole tensors that go along, where the options say so. */
tn_status tn_extract_wholes(struct tn_extract *x, struct tn_pairs *pairs, struct tn_error *err);

#endif
