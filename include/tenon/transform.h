/* tenon/transform.h - jobs over whole checkpoints: plan, run, look, check.
 *
 * A job reads blocks of rows, decodes, edits, encodes and writes them. A row needs only itself, so blocks are independent:
 * memory stays under the budget of the context for any model size, and the result has the same bits for any number of
 * threads. The output folder appears whole or not at all.
 *
 * Sources. What a fuse makes, and which files go with it: mlx-lm 0.32.2 (mlx_lm/fuse.py, utils.py) and PEFT 0.21
 * (merge_and_unload); docs/adapters.md and docs/numerics.md say where tenon differs, and why.
 * Threads. A plan is run, written down and freed by one thread at a time, and read by many while it does not run.
 */
#ifndef TENON_TRANSFORM_H
#define TENON_TRANSFORM_H

#include "tenon/adapter.h"
#include "tenon/base.h"
#include "tenon/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Receives text in pieces; nonzero stops the writer with TN_E_IO. */
typedef int (*tn_write_fn)(void *user, const char *bytes, size_t n);

/* How a folder is written; flags of the jobs that write one. */
enum tn_save_flags {
	TN_SAVE_FORCE = 1,  /* replace the folder that stands there, if everything in it belongs to a model folder */
	TN_SAVE_RESUME = 2, /* take up an interrupted run of the same job on the same inputs: shards that it has finished are not
	                     * written again. A run with this flag that fails leaves what it has finished for the next one */
	TN_SAVE_CONSUME = 4, /* tn_fuse_run alone: use the base up. One shard of the result is written at a time; when it is
	                      * durable, the shards of the base that nothing else is made from are cut to their headers, so that
	                      * the disk holds one model and a shard. From the first cut on the finished shards are the only
	                      * copy: whatever happens they stay, beside a text file in the base that says so, until a run with
	                      * TN_SAVE_RESUME ends the job. Open the base with tn_checkpoint_open_consumed. Not with
	                      * TN_SAVE_FORCE */
	TN_SAVE_IDENTIFY = 8 /* with TN_SAVE_CONSUME: hash what is changed of the base before, for tn_fuse_receipt */
};

/* ---- fuse ------------------------------------------------------------------------------------------------ */

typedef struct tn_fuse tn_fuse;

typedef enum tn_action {
	TN_ACTION_COPY,       /* byte for byte */
	TN_ACTION_MERGE,      /* W and factors, dense, in the dtype of W */
	TN_ACTION_REQUANTIZE, /* W and factors, in the quantization that W has */
	TN_ACTION_PROMOTE,    /* W and factors, quantized with more bits */
	TN_ACTION_DEQUANTIZE, /* untouched, and dense now */
	TN_ACTION_REPLACE,    /* a tensor of the adapter in place of the base's, or some of its rows */
	TN_ACTION_UNTIE,      /* the head gets a weight of its own, because only one of head and embedding is adapted */
	TN_ACTION_EXPAND,     /* a copy under another name (layer_replication) */
	TN_ACTION_ADD         /* a tensor that the base does not have */
} tn_action;
TN_API const char *tn_action_name(tn_action action); /* "copied", "merged", "requantized", "promoted", ... */

/* How W + D is written on the grid of a quantized W (docs/numerics.md).
 * dither: scales and biases stay, and codes move by floor(d / step + u), u a hash of tensor name, row and column: the mean
 * is exact, however small D is. nearest: scales are fitted again and everything is rounded to nearest, with the formulas and
 * roundings of mlx_lm.fuse. auto: dither wherever the step is large beside the delta: rho >= 2 at 4 bits and more, 4 at 3
 * bits, 6 at 2 bits and less; else nearest. Of checkpoints that other libraries packed those without scales for each row keep
 * them with nearest too, and auto takes it where rho < 1 (docs/foreign.md). */
typedef enum tn_rounding { TN_ROUNDING_AUTO, TN_ROUNDING_DITHER, TN_ROUNDING_NEAREST } tn_rounding;
TN_API const char *tn_rounding_name(tn_rounding rounding); /* "auto", "dither", "nearest" */

/* What is left of a delta D in a quantized tensor. R is the change that was written, U an orthonormal basis of the
 * directions that the adapter reads (the rows of A). */
struct tn_survival {
	tn_rounding rounding;      /* that was used */
	double rho;                /* rms(step of the grid) / rms(D) */
	uint64_t codes, changed;   /* of the rows that D changes */
	uint64_t clamped;          /* codes that should have gone beyond the end of the grid */
	double cap;                /* <RU, DU> / |DU|^2: 1 is all of it, 0 nothing */
	double cosine;             /* of RU and DU */
	double noise;              /* |R - D|^2 over sum(step^2 / 12), the base's own quantization noise */
};

/* One tensor of the result. Belongs to the plan. */
struct tn_planned_tensor {
	const struct tn_tensor *tensor;            /* name, dtype and shape of the result */
	tn_action action;
	const struct tn_adapter_module *module;    /* of the adapter; NULL for a copy */
	const char *scheme;                        /* "affine, 4 bits, group 64"; NULL: it is not quantized by this plan */
	const struct tn_survival *survival;        /* after the run, of requantized and promoted weights; else NULL */
	int from_dense;                            /* the delta was added to the dense original, and the sum quantized */
};

/* Start from TN_FUSE_OPTIONS_INIT. */
struct tn_fuse_options {
	double weight;                             /* of the adapter, beside its own scale */
	const struct tn_weighted_adapter *more;    /* further adapters; see docs/adapters.md for what can be combined */
	size_t more_count;
	tn_rounding rounding;
	int dequantize;                            /* quantized weights become dense, the untouched too */
	int promote_bits;                          /* 6 or 8: affine with so many bits for touched weights; 0: as the base */
	double min_survival;                       /* weights whose cap is smaller are promoted, or refused without
	                                            * promote_bits; with it no others are promoted. 0: none are */
	int allow_nonfinite;                       /* NaN and infinity in a result are no error */
	const tn_checkpoint *dense_base;           /* what the quantized base was made from: changed weights are its values plus
	                                            * delta, quantized to nearest; NULL: not at hand. Must outlive the plan */
};
#define TN_FUSE_OPTIONS_INIT { 1, NULL, 0, TN_ROUNDING_AUTO, 0, 0, 0, 0, NULL }

/* Plans to add `adapter` to `base`; both, and those in the options, must outlive the plan. `options` may be NULL. No weight
 * is read but nvfp4's global scales.
 * Errors: TN_E_MISMATCH: a module of the adapter has no place on this base, named with the nearest one.
 * TN_E_UNSUPPORTED: a tensor that would be changed has a dtype that tenon does not write; adapters that cannot be combined.
 * TN_E_ARG: options that exclude each other. */
TN_API tn_status tn_fuse_plan(tn_context *ctx, const tn_checkpoint *base, const tn_adapter *adapter,
			      const struct tn_fuse_options *options, tn_fuse **out, struct tn_error *err);
TN_API void tn_fuse_free(tn_fuse *fuse);

TN_API size_t tn_fuse_count(const tn_fuse *fuse);
/* In the order of tensor names. */
TN_API const struct tn_planned_tensor *tn_fuse_at(const tn_fuse *fuse, size_t i);
/* Weights that the adapter changes, and tensors that it does not. */
TN_API size_t tn_fuse_merged_count(const tn_fuse *fuse);
TN_API size_t tn_fuse_copied_count(const tn_fuse *fuse);
/* Bytes that the run will read and write. */
TN_API uint64_t tn_fuse_work_bytes(const tn_fuse *fuse);
/* Memory that the run will use for its buffers, factors included. TN_E_NOMEM when even one thread does not fit into the
 * budget: the message says what is needed. */
TN_API tn_status tn_fuse_memory(const tn_fuse *fuse, uint64_t *bytes, struct tn_error *err);
/* The plan as JSON (docs/json.md); after the run with what survived. Reads the factors, for their hash. */
TN_API tn_status tn_fuse_plan_json(const tn_fuse *fuse, tn_write_fn write, void *user, struct tn_error *err);

/* What tn_fuse_run with these `flags` would refuse before it reads a weight: a base that is no folder, a `save_path` that is an
 * input or holds the file of one, and with TN_SAVE_CONSUME a base that cannot be used up or that another run has begun to use
 * up. Changes nothing.
 * Errors: TN_E_ARG; with TN_SAVE_CONSUME also TN_E_EXISTS, TN_E_UNSUPPORTED, TN_E_IO. */
TN_API tn_status tn_fuse_check_path(const tn_fuse *fuse, const char *save_path, unsigned flags, struct tn_error *err);

/* Runs the plan and writes a Hugging Face folder: shards named as the base's, model.safetensors.index.json, config.json,
 * tokenizer, chat template and every other sidecar. The base must be a folder. `flags`: of enum tn_save_flags.
 * While it runs, the folder is `<parent>/.<name>.tenon-part`, with a journal of finished shards beside it; a run that is
 * killed leaves both, and the next run to the same place takes them up or clears them away.
 * Numerics: sums in float32 (in double where W is F32), one rounding to nearest even to the dtype of W.
 * A quantized base is read once or twice more where the rounding has to be chosen, and where survival is asked for.
 * Errors: TN_E_EXISTS, TN_E_IO (disk full and so on), TN_E_CANCELLED; TN_E_MISMATCH: NaN or infinity, or too little survives.
 * The old state stands then. */
TN_API tn_status tn_fuse_run(tn_fuse *fuse, const char *save_path, unsigned flags, struct tn_error *err);

/* The receipt of a plan that has run into `save_path`: the plan, and SHA-256 of the base, of the dense base, of every tensor, of
 * the files beside the weights and of the headers of these. Reads the result and the dense base once, and of the base what was not
 * copied, unless the run has.
 * Errors: TN_E_MISMATCH: the folder does not hold what the plan wrote. */
TN_API tn_status tn_fuse_receipt(tn_fuse *fuse, const char *save_path, tn_write_fn write, void *user, struct tn_error *err);

/* For a base that may have been used up by a run with TN_SAVE_CONSUME into `save_path`: *is_complete is 1 when that run has put
 * its result there and there is nothing left to do but to remove what is left of the base, which this does. */
TN_API tn_status tn_fuse_settle_consumed(tn_context *ctx, const char *base_path, const char *save_path, int *is_complete,
					 struct tn_error *err);

/* ---- verify ---------------------------------------------------------------------------------------------- */

typedef struct tn_verify tn_verify;

typedef enum tn_verdict {
	TN_VERDICT_IDENTICAL,    /* should not change, and has the same bytes */
	TN_VERDICT_MERGED,       /* holds what the adapter makes of W within two units in the last place (see below) */
	TN_VERDICT_REQUANTIZED,  /* quantized, and holds at least half of the delta: see cap */
	TN_VERDICT_DEQUANTIZED,  /* of a quantized base, untouched, and dense now with the same values */
	TN_VERDICT_CHANGED,      /* should not change, and did */
	TN_VERDICT_NOT_MERGED,   /* should change, and still is the base's */
	TN_VERDICT_LOST,         /* quantized, and less than half of the delta survived */
	TN_VERDICT_WRONG,        /* changed, but not to that */
	TN_VERDICT_MISSING,      /* of base plus adapter, not in the merged checkpoint */
	TN_VERDICT_EXTRA,        /* in the merged checkpoint, not of base plus adapter */
	TN_VERDICT_RESHAPED,     /* another shape or dtype than it should have */
	TN_VERDICT_OTHER_BASE,   /* of a receipt: the base is not the one that was fused; the name is its path */
	TN_VERDICT_OTHER_ADAPTER,
	TN_VERDICT_UNCHECKED     /* of a receipt: a base or an adapter is not where it was */
} tn_verdict;
TN_API const char *tn_verdict_name(tn_verdict verdict); /* "identical", "merged", "requantized", ... */
TN_API int tn_verdict_is_good(tn_verdict verdict);      /* the first four, and unchecked */

/* Error against the result in double, in units in the last place of the dtype of the tensor at the true value (of the base's, where
 * a DoRA is F32 and the base is not, as mlx-lm writes it).
 * A tensor counts as merged when every element is within two such units of the largest of |W|, |the delta| and the true
 * value: tools that round the delta before they add it (PEFT, mlx-lm) lose no more than that. Where an element is not, it may lose
 * what a correct program of another arithmetic loses: one that computes in float32 (sums of products, norms of DoRA, singular
 * vectors of PiSSA), or in the dtype of factors that is narrower than that of W: three times 2^-8 (BF16) or 2^-11 (F16) of the sum
 * of the products' sizes.
 * A quantized weight counts as wrong when an element of it is further from the truth than rounding on its grid takes it, or when a
 * scale of nvfp4 is none that its group asks for. */
struct tn_verified_tensor {
	const char *name;
	tn_verdict verdict;
	double max_ulp, rms_ulp;   /* dense ones: merged, not-merged and wrong; else 0. max_ulp is infinite where a value is NaN or
	                            * infinite and should not be, or the other way round */
	double rho, cap, cosine, noise;   /* of weights that are quantized in both, as in tn_survival; else 0 */
	uint64_t row;              /* of those that are wrong in what a delta changes: the first row that is, all dimensions but
	                            * the last counted as rows; TN_VERIFY_NO_ROW: none, or the tensor as a whole is */
};
#define TN_VERIFY_NO_ROW UINT64_MAX

/* Compares `merged`, of any tool, with base plus adapter, row by row. Fields of config.json that decide what is computed, and that
 * both files say otherwise, are TN_VERDICT_CHANGED under the name "config.json: hidden_size"; other files are a receipt's matter.
 * `options` may be NULL; of it weight, further adapters and the dense base count. The checkpoints stay the caller's; the report
 * outlives them. */
TN_API tn_status tn_verify_run(tn_context *ctx, const tn_checkpoint *base, const tn_adapter *adapter,
			       const struct tn_fuse_options *options, const tn_checkpoint *merged, tn_verify **out,
			       struct tn_error *err);
/* Where things are that a receipt speaks of, when not where it says: NULL and 0. An adapter for each, in the same order. */
struct tn_receipt_inputs {
	const char *folder, *base;
	const char *const *adapters;
	size_t adapter_count;
	const char *dense_base;
};
/* Checks a folder against the file of its receipt (tn_fuse_receipt, tn_recode_receipt): every tensor, file and header of weights
 * identical, changed, missing or extra; base, dense base and adapters by their content. `inputs` may be NULL.
 * Errors: TN_E_FORMAT: the file is no receipt, or has no hashes. */
TN_API tn_status tn_verify_receipt(tn_context *ctx, const char *receipt, const struct tn_receipt_inputs *inputs,
				   tn_verify **out, struct tn_error *err);
TN_API void tn_verify_free(tn_verify *verify);
TN_API int tn_verify_ok(const tn_verify *verify);          /* every verdict is good */
TN_API size_t tn_verify_count(const tn_verify *verify);
TN_API const struct tn_verified_tensor *tn_verify_at(const tn_verify *verify, size_t i);
TN_API tn_status tn_verify_json(const tn_verify *verify, tn_write_fn write, void *user, struct tn_error *err);

/* ---- doctor ---------------------------------------------------------------------------------------------- */

typedef struct tn_doctor tn_doctor;

typedef enum tn_finding_level {
	TN_FINDING_ERROR,    /* it will not land, or the engine refuses it */
	TN_FINDING_WARNING,  /* it lands, and something is not as it seems; or the engine ignores a part in silence */
	TN_FINDING_NOTE      /* good to know: flags that an engine needs */
} tn_finding_level;
TN_API const char *tn_finding_level_name(tn_finding_level level); /* "error", "warning", "note" */

struct tn_finding {
	tn_finding_level level;
	const char *where;      /* a module, tensor, key or file; may be empty */
	const char *message;    /* what is, and what to do */
};

/* Will the adapter at `adapter_path` land on the base at `base_path`? `engine` is "mlx", "peft", "vllm", "llama.cpp",
 * "ollama" or NULL: what that program would refuse, ignore or need as well. Faults of the two are findings; only a wrong
 * call and a lack of memory fail. */
TN_API tn_status tn_doctor_run(tn_context *ctx, const char *base_path, const char *adapter_path, const char *engine,
			       tn_doctor **out, struct tn_error *err);
TN_API void tn_doctor_free(tn_doctor *doctor);
TN_API int tn_doctor_lands(const tn_doctor *doctor);          /* on this base, with tenon */
TN_API int tn_doctor_ok(const tn_doctor *doctor);             /* no finding is an error */
TN_API size_t tn_doctor_count(const tn_doctor *doctor);
TN_API const struct tn_finding *tn_doctor_at(const tn_doctor *doctor, size_t i);
/* NULL when it could not be opened. */
TN_API const tn_adapter *tn_doctor_adapter(const tn_doctor *doctor);
TN_API tn_status tn_doctor_json(const tn_doctor *doctor, tn_write_fn write, void *user, struct tn_error *err);

/* ---- inspect --------------------------------------------------------------------------------------------- */

/* A description of a safetensors file, a checkpoint folder or an adapter folder as JSON (docs/json.md). */
TN_API tn_status tn_checkpoint_json(tn_context *ctx, const tn_checkpoint *checkpoint, tn_write_fn write, void *user,
				    struct tn_error *err);
/* With a base (NULL: none) also the hash of the tensors of it that the adapter changes, which reads them, and the adapter's
 * account. */
TN_API tn_status tn_adapter_json(tn_context *ctx, const tn_adapter *adapter, const tn_checkpoint *base, tn_write_fn write,
				 void *user, struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
