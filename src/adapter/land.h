/* Where an adapter lands on a base: every tensor of the result, and what is done to its rows. */
#ifndef TN_ADAPTER_LAND_H
#define TN_ADAPTER_LAND_H

#include "adapter/adapter.h"
#include "adapter/selection.h"
#include "store/checkpoint.h"
#include "weights/matrix.h"

/* One tensor of the result. */
struct tn_target {
	const char *name;
	const struct tn_tensor *base;         /* its bytes; NULL for a tensor that only the adapter has */
	const struct tn_matrix *matrix;       /* base is the packed weight of a triple, or holds the codes of another library's
	                                       * module (matrix->foreign); NULL: neither */
	const struct tn_tensor *logical;      /* with a matrix: shape and dtype of the values that it stands for */
	const struct tn_tensor *dense;        /* with a matrix: the values before they were quantized, in dense_file; NULL: none */
	const tn_safetensors *dense_file;
	const struct tn_tensor *replacement;  /* of an adapter's file: stands in for the base's; NULL: none */
	const tn_adapter *replacer;           /* whose file that is */
	int is_new;                           /* the base has no tensor of that name */
	int is_layer;                         /* the weight of one layer's matrix, of no expert: what names of modules speak of */
	int is_dropped;                       /* the tied head's copy of what has changed: it is left out, as by mlx_lm.fuse */
	int is_saved;                         /* replaced through modules_to_save: this module alone, not what is tied to it */
	uint64_t cols;                        /* of the rows that landings count; 0: no landing */
	size_t first_landing, landing_count;
};

typedef enum tn_slot_kind { TN_SLOT_DELTA, TN_SLOT_BIAS, TN_SLOT_TOKENS } tn_slot_kind;

/* A slot in a stack of factors: in which of its columns of rank, and of which group; TN_EVERY_GROUP: it has as many. */
struct tn_slot_part {
	size_t slot;
	uint64_t first_rank, group;
};
#define TN_EVERY_GROUP UINT64_MAX

/* What has to be in memory for some landings. */
struct tn_slot {
	const tn_adapter *adapter;
	const struct tn_adapter_entry *entry;
	double weight;           /* of the adapter, beside the scale of the entry */
	uint64_t rank;
	struct tn_slot_part *stacked;   /* slots whose factors are stacked to make this one; NULL: none */
	size_t stacked_count, stacked_room;
	tn_slot_kind kind;
	struct tn_delta_shape shape;
	size_t target;           /* the first target it lands on: norms and removed parts are computed over its rows */
	uint64_t cols;
	tn_base_change change;
};

/* Rows of a slot's delta, and the rows of a target that they change. */
struct tn_landing {
	size_t target, slot;
	uint64_t target_row, delta_row, rows;
};

/* A change of config.json. */
struct tn_config_edit {
	const char *key;
	int is_flag;
	uint64_t value;
};
enum { TN_MOST_EDITS = 4 };

struct tn_base_names;

struct tn_joint {
	tn_context *ctx;
	const tn_checkpoint *base;
	struct tn_arena *arena;
	struct tn_target *targets;    /* in the order of names once the joint is made */
	size_t target_count, target_room;
	struct tn_landing *landings;  /* in the order of targets and rows */
	size_t landing_count, landing_room;
	struct tn_slot *slots;
	size_t slot_count, slot_room;
	struct tn_config_edit edits[TN_MOST_EDITS];
	size_t edit_count;
	struct tn_foreign_set *foreign;       /* modules of the base that other libraries packed */
	/* while it is being made */
	const tn_adapter *adapter;    /* the one whose modules are landing */
	const struct tn_adapter_config *config; /* its own; target_modules may be PEFT's default for the base */
	double weight;
	size_t own_landings;          /* the first of its landings */
	tn_quant_config *quant;       /* of the base; NULL: none */
	struct tn_base_names *names;
	const char *model_type;       /* of config.json, or "" */
	uint64_t heads, kv_heads;     /* of config.json; 0: it does not say */
	int tied;                     /* head and input embedding are one tensor, or copies */
	int is_copy_checked;          /* the head in the file holds the embedding's values */
	int is_live;                  /* the base stays as it is: a bias may be added where it has none */
	size_t embedding, head;       /* targets, or TN_NO_TARGET */
	const size_t *entry_target;   /* of each entry, the first target it landed on */
};

#define TN_NO_TARGET ((size_t)-1)

/* Finds a place for every entry of the adapter: all of them land, no row is changed twice, and every module that the
 * configuration names explicitly has its factors; or the error names the module, what the base has instead, and the nearest
 * name with the change that would have matched. Memory is the arena's; the context's heap is used while it works. */
tn_status tn_joint_make(const tn_adapter *adapter, const tn_checkpoint *base, struct tn_arena *arena,
			struct tn_joint **out, struct tn_error *err);

/* The same for several adapters, one after the other. Plain factors that change the same rows are stacked, so that the order
 * does not matter; everything else that meets on one row is refused, because the result would depend on the order: DoRA and
 * initialisations that changed the base, replaced rows and tensors. */
tn_status tn_joint_make_all(const struct tn_weighted_adapter *adapters, size_t count, const tn_checkpoint *base,
			    struct tn_arena *arena, struct tn_joint **out, struct tn_error *err);

/* What does not depend on adapters: a joint on which none has landed, of a live base. Joints begin as copies of it, so it and
 * its arena outlive them; it is not changed by them. Closed before the arena is released; NULL allowed. */
tn_status tn_joint_open_base(const tn_checkpoint *base, struct tn_arena *arena, struct tn_joint **out, struct tn_error *err);
void tn_joint_close_base(struct tn_joint *empty);

/* The same as tn_joint_make_all for a live base, where a bias also lands on a module that has none: its target is new. */
tn_status tn_joint_make_live(const struct tn_weighted_adapter *adapters, size_t count, const struct tn_joint *empty,
			     struct tn_arena *arena, struct tn_joint **out, struct tn_error *err);

/* Logical shape and dtype of a target's values before they are edited. */
const struct tn_tensor *tn_target_source(const struct tn_target *target);
/* The dtype of the result's values: the base's, that of the adapter's tensor where the base has none. */
tn_dtype tn_target_dtype(const struct tn_target *target);
/* 1 where the values are those of the packed triple, and not of a dense replacement. */
int tn_target_is_packed(const struct tn_target *target);

/* Elements [first, first + count) of a target's source as float32; whole rows of a packed one. `raw` is scratch of
 * count * 8 bytes. */
tn_status tn_target_read_f32(const struct tn_joint *joint, const struct tn_target *target, uint64_t first, uint64_t count,
			     float *dst, void *raw, struct tn_error *err);

/* ---- pieces of the making -------------------------------------------------------------------------------- */

/* The target of that name, or of the only name that differs from it in wrappers in front; TN_NO_TARGET. */
size_t tn_joint_find(const struct tn_joint *joint, const char *name);
/* The target whose name with _ for every dot ends as `path` does, or the other way round; TN_NO_TARGET: none, or several. */
size_t tn_joint_find_flat(const struct tn_joint *joint, const char *path);
size_t tn_joint_find_exact(const struct tn_joint *joint, const char *name);
tn_status tn_joint_add_target(struct tn_joint *joint, const char *name, const struct tn_tensor *base, size_t *out,
			      struct tn_error *err);
tn_status tn_joint_add_slot(struct tn_joint *joint, const struct tn_adapter_entry *entry, tn_slot_kind kind,
			    const struct tn_delta_shape *shape, size_t target, uint64_t cols, size_t *out,
			    struct tn_error *err);
tn_status tn_joint_add_landing(struct tn_joint *joint, size_t target, size_t slot, uint64_t target_row,
			       uint64_t delta_row, uint64_t rows, struct tn_error *err);
tn_status tn_joint_edit_config(struct tn_joint *joint, const char *key, int is_flag, uint64_t value,
			       struct tn_error *err);

/* The module of another library whose codes that tensor holds; NULL: it is of none. */
struct tn_foreign *tn_joint_foreign_of(const struct tn_joint *joint, const struct tn_tensor *tensor);
/* The name of a module's weight, or of a parameter that is one itself. */
tn_status tn_joint_name_weight(char *name, size_t room, const struct tn_adapter_entry *entry, struct tn_error *err);
/* Landings on the same rows become one landing of stacked factors, or the error says why they cannot. */
tn_status tn_joint_stack(struct tn_joint *joint, struct tn_error *err);
tn_status tn_joint_index(struct tn_joint *joint, struct tn_error *err);
tn_status tn_joint_replicate(struct tn_joint *joint, struct tn_error *err);
/* Lands entry `i`, if it is a whole tensor (saved) or is not (saved 0). */
tn_status tn_joint_land_entry(struct tn_joint *joint, size_t i, int saved, size_t *targets, struct tn_error *err);
/* Entry `failed` has no place: logs which of the others have none either. The joint is of no use afterwards. */
void tn_joint_name_misfits(struct tn_joint *joint, size_t failed, int saved, size_t *targets);
/* Lands an entry on expert tensors; *landed is 0 when the base has no experts of that name. */
tn_status tn_joint_land_experts(struct tn_joint *joint, const struct tn_adapter_entry *entry, int *landed,
				struct tn_error *err);
tn_status tn_joint_land_saved(struct tn_joint *joint, const struct tn_adapter_entry *entry, size_t *target,
			      struct tn_error *err);
tn_status tn_joint_land_tokens(struct tn_joint *joint, const struct tn_adapter_entry *entry, size_t *target,
			       struct tn_error *err);
/* The head's target, made from the embedding's bytes when the two are tied. */
tn_status tn_joint_untie(struct tn_joint *joint, const char *head_path, size_t *head, struct tn_error *err);
/* What the head of a base is called whose table of that name is the head too. */
const char *tn_head_of_table(const char *table);
tn_status tn_joint_settle_ties(struct tn_joint *joint, struct tn_error *err);
/* 1 when some adapter unties them. */
int tn_joint_is_untied(const struct tn_joint *joint);
/* Marks the tied head's copy in the file as one to leave out, when the embedding has changed and it has not. */
void tn_joint_drop_copy(struct tn_joint *joint);
tn_status tn_joint_check_selection(const struct tn_joint *joint, struct tn_error *err);
tn_status tn_joint_check_complete(const struct tn_joint *joint, struct tn_error *err);
tn_status tn_joint_fail_missing(const struct tn_joint *joint, const char *path, const char *name, struct tn_error *err);

/* What a part of an expert's name stands for: gate_proj and w1, up_proj and w3, down_proj and w2, gate_up_proj. */
typedef enum tn_projection { TN_GATE, TN_UP, TN_DOWN, TN_GATE_UP, TN_NO_PROJECTION } tn_projection;
tn_projection tn_projection_of(const char *name);
/* The experts of the block whose name is path[0..bytes), `count` of them, which read `in` inputs. */
struct tn_expert_block {
	const char *path;
	int bytes;
	uint64_t count, in;
};
/* Where the rows of one projection of one expert stand. */
struct tn_expert_place {
	size_t target;
	uint64_t row;
};
/* In whatever form the base holds them by rows; 0 when it has no such expert of so many rows. `role` is not TN_GATE_UP. */
int tn_joint_find_expert(const struct tn_joint *joint, const struct tn_expert_block *block, tn_projection role, uint64_t expert,
			 uint64_t rows, struct tn_expert_place *out);
/* 1 for types of models whose fused experts are stored [E, in, out]. */
int tn_model_has_transposed_experts(const char *model_type);

/* Number of layers beside `path` in the base: the largest number in its container, plus one. 0: it is in none. */
uint64_t tn_joint_layer_count(const struct tn_joint *joint, const char *path, struct tn_layer_memo *memo);

/* ---- before rows are edited ------------------------------------------------------------------------------ */

/* What tn_prepare needs beside the delta: bytes that stay, and bytes while it works. */
void tn_prepare_bytes(const struct tn_joint *joint, const struct tn_slot *slot, uint64_t *stays, uint64_t *works);
/* Computes column gains and removed parts of a delta from the rows of its target. *memory is freed with tn_buffer_release. */
tn_status tn_prepare(const struct tn_joint *joint, const struct tn_slot *slot, struct tn_delta *delta,
		     struct tn_buffer *memory, struct tn_error *err);

#endif
