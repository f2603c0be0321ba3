/* tenon/create.h - new adapters: chosen for a base, initialised, filled by a trainer, saved.
 *
 * A draft is an adapter in memory: the factors of every chosen module as float32, which a trainer may read and write at
 * their place. It is a tn_adapter at any time (tn_draft_adapter), so it can be fused, verified and attached without being
 * saved.
 *
 * Sources. mlx-lm 0.32.2 (lora.py, tuner/utils.py, tuner/lora.py, tuner/dora.py), PEFT 0.21 (tuners/lora/config.py,
 * layer.py, dora.py), kizzasi-model (src/lora.rs: LoraConfig, LoraLinear::new). What is written for which base, and where
 * the choices of these programs are not visible in a checkpoint: docs/adapters.md.
 */
#ifndef TENON_CREATE_H
#define TENON_CREATE_H

#include "tenon/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How A begins. B begins with zeros, so that a new adapter changes nothing; where an initialisation puts its numbers into
 * B, A is zero. `in` is what the module reads: of an embedding its vocabulary. Every module has numbers of its own, drawn
 * from the seed and its path, so that they do not depend on which others are chosen. */
typedef enum tn_init {
	TN_INIT_DEFAULT,   /* of the dialect: mlx or kaiming */
	TN_INIT_MLX,       /* "mlx": A uniform in [-1/sqrt(in), 1/sqrt(in)), embeddings too; mx.random.uniform of MLX with the
	                    * key tn_init_key gives, in the order of A [in, rank], of experts [experts, rank, in] */
	TN_INIT_KAIMING,   /* "kaiming": PEFT's default. A the same bounds in the order [rank, in]; of an embedding A is zero
	                    * and B normal with deviation 1 */
	TN_INIT_GAUSSIAN,  /* "gaussian": PEFT's. A normal with deviation 1/rank; embeddings as above */
	TN_INIT_XORSHIFT   /* "xorshift": kizzasi's. A [rank, in] in [-k, k), k = sqrt(2/in), from a xorshift64 that begins with
	                    * seed + in + out; its LoraLinear has the seed 42, its QLoraLinear 137 */
} tn_init;
TN_API const char *tn_init_name(tn_init init); /* "default", "mlx", "kaiming", "gaussian", "xorshift" */
/* TN_E_NOTFOUND: no such initialisation. */
TN_API tn_status tn_init_from_name(const char *name, tn_init *out, struct tn_error *err);

/* The key of a module's numbers, as mx.random.key takes it: the first eight bytes, least significant first, of SHA-256 over
 * the seed (eight bytes, least significant first) and the path. */
TN_API uint64_t tn_init_key(uint64_t seed, const char *path);

/* Fills A [rank, in] as TN_INIT_XORSHIFT does. */
TN_API void tn_init_xorshift(float *a, uint64_t rank, uint64_t in_features, uint64_t out_features, uint64_t seed);

enum { TN_DIALECTS_LAYERS = 0 };

/* Start from TN_CREATE_OPTIONS_INIT. */
struct tn_create_options {
	tn_adapter_dialect dialect;  /* TN_DIALECT_MLX_LM or TN_DIALECT_PEFT */
	int dora;
	uint64_t rank;
	double scale;                /* the factor of B A; 0: not given */
	double alpha;                /* scale * rank; 0: not given. Neither given: scale 20 as mlx-lm, alpha 8 as PEFT */
	double dropout;              /* for a trainer */
	int64_t num_layers;          /* the last so many layers; negative: all; TN_DIALECTS_LAYERS: 16 as mlx-lm, all as PEFT */
	const char *const *keys;     /* modules by name ("self_attn.q_proj", "q_proj", "embed_tokens", a whole path); PEFT also
	                              * "all-linear", and parameters ("mlp.experts.down_proj"). None: mlx-lm: every linear layer,
	                              * embedding and stack of experts inside the layers; PEFT: its default for the base's
	                              * model_type, TN_E_ARG where it has none */
	size_t key_count;
	uint64_t seed;
	tn_init init;
	const char *base_name;       /* what adapter_config.json calls the base; NULL: path of the checkpoint */
	const char *task_type;       /* PEFT; NULL: none. "CAUSAL_LM", ... */
};
#define TN_CREATE_OPTIONS_INIT \
	{ TN_DIALECT_MLX_LM, 0, 8, 0, 0, 0, TN_DIALECTS_LAYERS, NULL, 0, 0, TN_INIT_DEFAULT, NULL, "CAUSAL_LM" }

/* LoraConfig::validate of kizzasi, in its words. TN_E_ARG. */
TN_API tn_status tn_lora_check(uint64_t rank, double alpha, double dropout, struct tn_error *err);

/* ---- drafts ---------------------------------------------------------------------------------------------- */

/* Used by one thread at a time while it is written. */
typedef struct tn_draft tn_draft;

typedef enum tn_parameter_role {
	TN_PARAMETER_A, TN_PARAMETER_B, TN_PARAMETER_MAGNITUDE,
	TN_PARAMETER_OTHER     /* of adapters that were opened: biases, whole tensors, token rows */
} tn_parameter_role;

enum { TN_PARAMETER_RANK = 5 };

/* One trainable tensor, as it stands in the file. Belongs to the draft. */
struct tn_parameter {
	const char *name;      /* in the file: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight */
	const char *module;    /* path: model.layers.0.self_attn.q_proj */
	tn_parameter_role role;
	uint32_t rank;
	uint64_t shape[TN_PARAMETER_RANK]; /* mlx-lm: A [in, rank], B [rank, out]; PEFT: A [rank, in], B [out, rank] */
	uint64_t elements;
	tn_dtype dtype;        /* that tn_draft_save writes: TN_F32, TN_BF16 or TN_F16 */
	float *data;           /* [elements], writable at any time; all must be finite when the draft is used */
};

/* Chooses the modules of `base`, which must outlive the call only, and makes their factors. DoRA magnitudes are the norms of
 * the base's rows (PEFT's embeddings: columns), quantized ones decoded, read in blocks. `options` may be NULL.
 * Memory: the adapter in float32, and a block for each thread. The result depends on the options and the base alone.
 * Errors: TN_E_ARG: an option has no meaning, in the seed's words for rank, alpha and dropout. TN_E_MISMATCH: a key names no
 * module of the base (the message names the nearest), or the base has none to choose. TN_E_UNSUPPORTED: DoRA for experts. */
TN_API tn_status tn_draft_create(const tn_checkpoint *base, const struct tn_create_options *options, tn_draft **out,
				 struct tn_error *err);
/* The adapter in a folder of PEFT or mlx-lm as a draft, to be trained further: all its tensors as float32, and its configuration
 * as it stands. What its file says of the base goes along. Errors: those of tn_adapter_open; TN_E_UNSUPPORTED: another dialect. */
TN_API tn_status tn_draft_open(tn_context *ctx, const char *path, tn_draft **out, struct tn_error *err);
TN_API void tn_draft_destroy(tn_draft *draft);

/* Trainable tensors in the order of names. */
TN_API size_t tn_draft_count(const tn_draft *draft);
TN_API const struct tn_parameter *tn_draft_at(const tn_draft *draft, size_t i);
/* By name in the file, or by module and role; NULL when there is none. */
TN_API const struct tn_parameter *tn_draft_find(const tn_draft *draft, const char *name);
TN_API const struct tn_parameter *tn_draft_of(const tn_draft *draft, const char *module, tn_parameter_role role);

/* Copies values in. TN_E_NOTFOUND: no such parameter. TN_E_MISMATCH: another shape than it has. TN_E_ARG: NaN or infinity. */
TN_API tn_status tn_draft_set(tn_draft *draft, const char *name, uint32_t rank, const uint64_t *shape, const float *data,
			      struct tn_error *err);

/* The adapter that the draft is now. Belongs to the draft; what is written to the parameters shows in it. */
TN_API const tn_adapter *tn_draft_adapter(const tn_draft *draft);

/* Writes adapter_config.json and adapters.safetensors (PEFT: adapter_model.safetensors): a folder that mlx-lm, respectively
 * PEFT, loads. It appears whole or not at all. The weights carry the identity of the adapter and a sample of its base in
 * their metadata (tenon/adapter.h). With `replace` a folder that holds an adapter and nothing else is replaced. Values of BF16 and
 * F16 parameters are rounded to the nearest, ties to even; the identity is that of what is written.
 * Errors: TN_E_EXISTS: the folder is there and not empty; TN_E_IO; TN_E_FORMAT: a parameter holds NaN or infinity, or a value that
 * F16 does not reach. */
TN_API tn_status tn_draft_save(const tn_draft *draft, const char *path, int replace, struct tn_error *err);
/* TN_E_EXISTS where tn_draft_save would be refused by what stands there: for asking before a draft is made that takes long. */
TN_API tn_status tn_draft_check_path(tn_context *ctx, const char *path, int replace, struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
