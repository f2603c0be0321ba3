/* The plan of a fuse from inside. */
#ifndef TN_FUSE_H
#define TN_FUSE_H

#include "adapter/land.h"
#include "base/text.h"
#include "tenon/transform.h"
#include "transform/blocks.h"
#include "transform/edit.h"
#include "transform/outcome.h"

/* What becomes of one target, in the order of the input's bytes; item i of the blocks. Scales and biases of a triple that is
 * worked on belong to its weight. */
struct tn_fuse_step {
	size_t target;              /* in the joint */
	uint32_t shard;
	uint64_t offset;            /* of the source: for the order */
	struct tn_tensor *outputs[TN_PART_COUNT];
	tn_action action;
	struct tn_edit_form form;
	const char *scheme;
	struct tn_survival *survival;   /* once it is known */
};

struct tn_fuse {
	tn_context *ctx;
	struct tn_arena arena;      /* holds this struct too */
	const tn_checkpoint *base;
	const tn_adapter *adapter;  /* the first */
	const struct tn_weighted_adapter *adapters;
	size_t adapter_count;
	struct tn_fuse_options options;
	struct tn_joint *joint;
	struct tn_edit_choice *choices;      /* of every target */
	struct tn_planned_tensor *planned;   /* in the order of names */
	struct tn_fuse_step *steps;
	const struct tn_fuse_step **step_of; /* of every target; NULL: it belongs to another one's step */
	unsigned char *taken;                /* of every target: whether it does */
	size_t count, step_count, changed_count;
	struct tn_digest *base_digests;      /* of every tensor of the base, in the order of names; NULL: not computed */
};

/* Finds the dense original of every quantized weight that a delta changes. */
tn_status tn_fuse_find_dense(const struct tn_fuse *fuse, struct tn_error *err);
/* TN_E_MISMATCH when what was measured says that the dense base is not the original of this one. */
tn_status tn_fuse_check_dense(const struct tn_fuse *fuse, const struct tn_fuse_step *step,
			      const struct tn_survival_sums *sum, struct tn_error *err);

/* Makes steps and planned tensors from the choices, again. */
tn_status tn_fuse_make_steps(struct tn_fuse *fuse, struct tn_error *err);

/* Memory of a step beside the form's: what a verification needs. */
struct tn_fuse_extra {
	uint64_t unit_bytes, fixed_bytes;
};
/* Cuts the steps into blocks for this context's budget. blocks->items comes from the arena. `extra` [step_count] may be
 * NULL. */
tn_status tn_fuse_cut(const struct tn_fuse *fuse, const struct tn_fuse_extra *extra, const char *what,
		      struct tn_arena *arena, struct tn_blocks *blocks, struct tn_error *err);

/* Before the run: chooses the rounding of every requantized weight where that is left to the numbers, and promotes or
 * refuses those that lose too much. The steps are made anew when that changes them. */
tn_status tn_fuse_survey(struct tn_fuse *fuse, struct tn_error *err);

/* The step's sums as its survival. */
tn_status tn_fuse_report(struct tn_fuse *fuse, struct tn_fuse_step *step, const struct tn_survival_sums *sum,
			 struct tn_error *err);
/* TN_E_MISMATCH when the sums hold NaN or infinity and the options do not allow it. */
tn_status tn_fuse_check_finite(const struct tn_fuse *fuse, const struct tn_fuse_step *step,
			       const struct tn_survival_sums *sum, struct tn_error *err);

/* Hashes what the result does not copy of the base into fuse->base_digests. */
tn_status tn_fuse_identify(tn_fuse *fuse, struct tn_error *err);

/* The plan as tn_output_place has it, and what people would call it. A base that is used up, and its adapters, count by what
 * is in them; others by sizes and times. */
enum { TN_PLAN_WORDS = 160 };
tn_status tn_fuse_name_plan(const struct tn_fuse *fuse, unsigned flags, unsigned char plan_id[TN_PLAN_ID_BYTES],
			    char words[TN_PLAN_WORDS], struct tn_error *err);

/* ---- what a run leaves for the next one ------------------------------------------------------------------ */

/* As remarks in the journal: what was chosen for every target, hashes of the base, and what was measured of finished steps. */
tn_status tn_fuse_note_choices(const struct tn_fuse *fuse, struct tn_output *output, struct tn_error *err);
tn_status tn_fuse_note_digests(const struct tn_fuse *fuse, struct tn_output *output, struct tn_error *err);
tn_status tn_fuse_note_sums(struct tn_output *output, size_t step, const struct tn_survival_sums *sums, struct tn_error *err);
/* What is made, in words, and sizes and times of the base's files, before any of them is used up. */
tn_status tn_fuse_note_files(const struct tn_fuse *fuse, const char *words, struct tn_output *output, struct tn_error *err);
/* The words of the remarks, without a NUL; NULL: there are none. */
const char *tn_fuse_recall_words(const char *remarks, size_t *n);
/* TN_E_MISMATCH when a file that is still whole is not the one of the remarks (NULL: there are none). */
tn_status tn_fuse_check_files(const struct tn_fuse *fuse, const char *remarks, struct tn_error *err);
/* Takes choices and hashes from the remarks; *has_choices is 1 when there were any, and the steps are made anew. */
tn_status tn_fuse_recall(struct tn_fuse *fuse, const char *remarks, int *has_choices, struct tn_error *err);
/* Sums of steps [step_count], as far as there are remarks of them. */
void tn_fuse_recall_sums(const struct tn_fuse *fuse, const char *remarks, struct tn_survival_sums *sums);

/* ---- using the base up ----------------------------------------------------------------------------------- */

/* For each shard of the base, the shard of the result behind which it can go. */
struct tn_consumption {
	const struct tn_fuse *fuse;
	uint32_t *last_use;
	int is_marked;
	char output[TN_PATH_BYTES];
};
/* Refuses bases that cannot be used up, and a base that another run is using up. */
tn_status tn_consumption_open(const struct tn_fuse *fuse, const char *save_path, unsigned flags,
			      struct tn_consumption *consumption, struct tn_error *err);
/* Once the steps stand. */
tn_status tn_consumption_plan(struct tn_consumption *consumption, struct tn_arena *arena, struct tn_error *err);
/* TN_E_EXISTS when a run `with` that has cut files of the base: what is to be read of them is gone. */
tn_status tn_consumption_check_whole(const struct tn_fuse *fuse, const char *with, struct tn_error *err);
/* TN_E_EXISTS when files of the base were cut by a run that made something else, and what that was; TN_E_NOTFOUND when nothing
 * is left that says so. */
tn_status tn_consumption_check_begun(const struct tn_consumption *consumption, const char *words, struct tn_error *err);
/* What is gone must be in shards that are finished. */
tn_status tn_consumption_check(const struct tn_consumption *consumption, const struct tn_output *output, struct tn_error *err);
/* Says in the base what is to come. */
tn_status tn_consumption_begin(struct tn_consumption *consumption, struct tn_output *output, struct tn_error *err);
/* The shards of the result up to this one are durable: cuts what only they were made from. */
tn_status tn_consumption_advance(const struct tn_consumption *consumption, size_t shard, struct tn_error *err);
/* The result stands in its place. */
tn_status tn_consumption_end(const struct tn_consumption *consumption, struct tn_error *err);

/* The plan as JSON; with what came of it (NULL: nothing yet), in the plan's order of tensors, the receipt. */
tn_status tn_fuse_write_json(const struct tn_fuse *fuse, const struct tn_outcome *outcome, tn_write_fn write, void *user,
			     struct tn_error *err);

/* The base's config.json with what the fuse changes in it; empty when the base has none. */
tn_status tn_fuse_config(const struct tn_fuse *fuse, struct tn_text *out, struct tn_error *err);

#endif
