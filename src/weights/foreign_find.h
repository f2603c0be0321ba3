/* Finding foreign modules: what the families share. */
#ifndef TN_FOREIGN_FIND_H
#define TN_FOREIGN_FIND_H

#include "weights/foreign.h"

struct tn_finder {
	tn_context *ctx;
	struct tn_arena *arena;
	const tn_checkpoint *checkpoint;
	struct tn_tensor_source source;
	struct tn_foreign_config config;
	uint8_t *roles;                /* tn_foreign_role of each tensor */
	struct tn_foreign **modules;   /* of each tensor that holds codes */
	struct tn_foreign **owners;    /* of each tensor that is a part of one */
	const float *tables[TN_ELEMENT_COUNT];
	size_t count;                  /* modules */
	int said_label, said_zero;     /* warnings are given once */
};

/* A module being put together: `layer` is the name of its tensors without their suffix. */
struct tn_module {
	struct tn_finder *finder;
	const char *layer;
	struct tn_foreign *f;
};

/* `codes` is `<layer><suffix>`; the dense weight will be called <layer><dense>. Fails when the configuration names another
 * method than those of `methods` (bits 1 << tn_foreign_method), when the tensor is empty, or when the dense name is taken. */
tn_status tn_module_begin(struct tn_finder *finder, const struct tn_tensor *codes, const char *suffix, const char *dense,
			  const char *scheme, unsigned methods, struct tn_module *out, struct tn_error *err);
/* Sets the logical shape; fills rows and cols. */
tn_status tn_module_shape(struct tn_module *m, uint32_t rank, const uint64_t *shape, struct tn_error *err);
/* Registers the module and its tensors. */
tn_status tn_module_end(struct tn_module *m, struct tn_error *err);

/* `<layer><suffix>`: NULL, respectively TN_E_NOTFOUND, when it is not there. */
const struct tn_tensor *tn_module_find(const struct tn_module *m, const char *suffix);
tn_status tn_module_need(const struct tn_module *m, const char *suffix, const struct tn_tensor **out,
			 struct tn_error *err);
/* `<layer><suffix>` goes with the module. */
void tn_module_drop(const struct tn_module *m, const char *suffix);

/* The part, with cells one behind the other, each for `cell_rows` rows. */
void tn_module_rows(struct tn_module *m, unsigned part, const struct tn_tensor *t, uint64_t cell_rows, uint64_t cell_bytes);
/* The part, with a piece of each of `stored` rows in every cell. */
void tn_module_columns(struct tn_module *m, unsigned part, const struct tn_tensor *t, uint64_t stored, uint64_t cell_rows,
		       uint64_t cell_bytes);
tn_status tn_module_table(struct tn_module *m, unsigned element, struct tn_error *err);

/* A scale for each block of row_block x col_block; sizes 0: the whole matrix. The tensor must have that shape; a scale for
 * the whole matrix may have rank 0, or sizes of 1. */
tn_status tn_module_scales(struct tn_module *m, const struct tn_tensor *scales, uint64_t row_block, uint64_t col_block,
			   struct tn_error *err);

/* Loads `<layer><suffix>`, group numbers of the columns, into m->f->group_of; negative ones count from the end. Numbers
 * that are column / group anyway are dropped. */
tn_status tn_module_groups(struct tn_module *m, const struct tn_tensor *t, struct tn_error *err);

/* TN_E_FORMAT unless the tensor has that shape, respectively one of those dtypes (bits 1 << dtype). */
tn_status tn_expect_shape(const struct tn_tensor *t, uint32_t rank, uint64_t a, uint64_t b, struct tn_error *err);
tn_status tn_expect_dtype(const struct tn_tensor *t, uint32_t dtypes, const char *names, struct tn_error *err);
#define TN_BIT(dtype) (1u << (dtype))
#define TN_WORDS (TN_BIT(TN_I32) | TN_BIT(TN_U32))
#define TN_FLOATS (TN_BIT(TN_F32) | TN_BIT(TN_F16) | TN_BIT(TN_BF16))

/* The families. Each looks at one tensor and makes a module when it is the one that gives a module away. */
tn_status tn_find_qweight(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_marlin(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_quant_state(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_scb(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_packed(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_weight_scale(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_expert_scale(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_scale_inv(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);
tn_status tn_find_blocks(struct tn_finder *finder, const struct tn_tensor *t, struct tn_error *err);

#endif
