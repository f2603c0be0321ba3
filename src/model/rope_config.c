/* SPDX-License-Identifier: Apache-2.0 */
/* Ropes as transformers 5.23 reads them (modeling_rope_utils.py): rope_parameters, or the older rope_theta, rope_scaling and
 * partial_rotary_factor beside it. */
#include "base/error.h"
#include "model/decoder_config.h"

#include <math.h>
#include <string.h>

static const struct {
	const char *name;
	enum tn_rope_kind kind;
} kinds[] = {
	{ "default", TN_ROPE_DEFAULT }, { "linear", TN_ROPE_LINEAR }, { "dynamic", TN_ROPE_DYNAMIC },
	{ "llama3", TN_ROPE_LLAMA3 }, { "yarn", TN_ROPE_YARN }, { "longrope", TN_ROPE_LONG },
};

/* No model is near these; a rope within them computes no infinities. */
static const double least_amount = 1e-12, most_amount = 1e12;

static tn_status check_amount(const struct tn_fields *f, const char *key, double x, struct tn_error *err)
{
	if (x >= least_amount && x <= most_amount)
		return TN_OK;
	return tn_fail(err, TN_E_FORMAT, f->where, "'%s' of the rope is %g, a number above 0 and up to %g was expected", key, x,
		       most_amount);
}

static tn_status read_kind(const struct tn_fields *f, const struct tn_architecture *family, enum tn_rope_kind *out,
			   struct tn_error *err)
{
	const char *name;
	TN_TRY(tn_field_text(f, "rope_type", &name, err));
	if (!name)
		TN_TRY(tn_field_text(f, "type", &name, err));
	if (!name)
		name = "default";
	/* older Phi-3 files name longrope so */
	if ((family->traits & TN_LONGROPE_RESTARTS) && (strcmp(name, "su") == 0 || strcmp(name, "yarn") == 0))
		name = "longrope";
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].name, name) == 0) {
			*out = kinds[i].kind;
			return TN_OK;
		}
	return tn_fail(err, TN_E_UNSUPPORTED, f->where,
		       "the rope type is '%s'; default, linear, dynamic, llama3, yarn and longrope are known", name);
}

static tn_status read_factors(const struct tn_fields *f, const char *key, uint64_t wanted, struct tn_arena *arena,
			      const double **out, struct tn_error *err)
{
	const json_t *list = json_object_get(f->json, key);
	double *factors;
	if (!json_is_array(list) || json_array_size(list) != wanted)
		return tn_fail(err, TN_E_FORMAT, f->where,
			       "'%s' of the rope has %zu numbers, %llu were expected, one for each pair that turns", key,
			       json_array_size(list), (unsigned long long)wanted);
	TN_TRY(tn_arena_array(arena, wanted, sizeof *factors, &factors, err));
	for (size_t i = 0; i < wanted; i++) {
		factors[i] = json_number_value(json_array_get(list, i));
		TN_TRY(check_amount(f, key, factors[i], err));
	}
	*out = factors;
	return TN_OK;
}

static double mscale_of(double scale, double mscale)
{
	return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

static tn_status read_yarn(const struct tn_fields *f, struct tn_rope *rope, struct tn_error *err)
{
	double mscale, all_dims;
	if (rope->theta <= 1)
		return tn_fail(err, TN_E_FORMAT, f->where, "'rope_theta' is %g, a yarn rope needs more than 1", rope->theta);
	TN_TRY(tn_field_number(f, "factor", (double)rope->trained / (double)rope->original, &rope->factor, err));
	TN_TRY(tn_field_number(f, "mscale", 0, &mscale, err));
	TN_TRY(tn_field_number(f, "mscale_all_dim", 0, &all_dims, err));
	double usual = mscale != 0 && all_dims != 0 ? mscale_of(rope->factor, mscale) / mscale_of(rope->factor, all_dims)
						    : mscale_of(rope->factor, 1);
	TN_TRY(tn_field_number(f, "attention_factor", usual, &rope->attention_factor, err));
	TN_TRY(tn_field_number(f, "beta_fast", 32, &rope->beta_fast, err));
	TN_TRY(tn_field_number(f, "beta_slow", 1, &rope->beta_slow, err));
	rope->beta_fast = rope->beta_fast != 0 ? rope->beta_fast : 32;
	rope->beta_slow = rope->beta_slow != 0 ? rope->beta_slow : 1;
	TN_TRY(check_amount(f, "beta_fast", rope->beta_fast, err));
	TN_TRY(check_amount(f, "beta_slow", rope->beta_slow, err));
	return tn_field_bool(f, "truncate", 1, &rope->truncate, err);
}

static tn_status read_long(const struct tn_fields *f, struct tn_arena *arena, struct tn_rope *rope, struct tn_error *err)
{
	const uint64_t pairs = (rope->dims + 1) / 2;
	TN_TRY(tn_field_number(f, "factor", (double)rope->trained / (double)rope->original, &rope->factor, err));
	double usual = rope->factor <= 1 ? 1 : sqrt(1 + log(rope->factor) / log((double)rope->original));
	TN_TRY(tn_field_number(f, "attention_factor", usual, &rope->attention_factor, err));
	TN_TRY(read_factors(f, "short_factor", pairs, arena, &rope->short_factor, err));
	return read_factors(f, "long_factor", pairs, arena, &rope->long_factor, err);
}

static tn_status read_llama3(const struct tn_fields *f, struct tn_rope *rope, struct tn_error *err)
{
	TN_TRY(tn_field_number(f, "low_freq_factor", 0, &rope->low_freq_factor, err));
	TN_TRY(tn_field_number(f, "high_freq_factor", 0, &rope->high_freq_factor, err));
	TN_TRY(check_amount(f, "low_freq_factor", rope->low_freq_factor, err));
	TN_TRY(check_amount(f, "high_freq_factor", rope->high_freq_factor, err));
	if (rope->high_freq_factor <= rope->low_freq_factor)
		return tn_fail(err, TN_E_FORMAT, f->where,
			       "the llama3 rope has low_freq_factor %g and high_freq_factor %g, 0 < low < high was expected",
			       rope->low_freq_factor, rope->high_freq_factor);
	return TN_OK;
}

static tn_status read_scaling(const struct tn_fields *f, struct tn_arena *arena, struct tn_rope *rope, struct tn_error *err)
{
	rope->attention_factor = 1;
	if (rope->kind == TN_ROPE_DEFAULT)
		return TN_OK;
	if (rope->kind == TN_ROPE_YARN)
		TN_TRY(read_yarn(f, rope, err));
	else if (rope->kind == TN_ROPE_LONG)
		TN_TRY(read_long(f, arena, rope, err));
	else
		TN_TRY(tn_field_number(f, "factor", 0, &rope->factor, err));
	TN_TRY(check_amount(f, "factor", rope->factor, err));
	TN_TRY(check_amount(f, "attention_factor", rope->attention_factor, err));
	return rope->kind == TN_ROPE_LLAMA3 ? read_llama3(f, rope, err) : TN_OK;
}

/* Which share of a head turns. Families without partial ropes pass the setting over when the rope is the default one, and
 * transformers itself fails on it with any other. */
static tn_status read_dims(const struct tn_fields *f, double share, const struct tn_decoder_config *config,
			   struct tn_rope *rope, struct tn_error *err)
{
	const int partial = (config->architecture->traits & TN_PARTIAL_ROPE) != 0;
	TN_TRY(tn_field_number(f, "partial_rotary_factor", share, &share, err));
	if (!(share > 0 && share <= 1))
		return tn_fail(err, TN_E_FORMAT, f->where, "'partial_rotary_factor' is %g, 0 to 1 was expected", share);
	if (share < 1 && !partial && rope->kind != TN_ROPE_DEFAULT)
		return tn_fail(err, TN_E_UNSUPPORTED, f->where,
			       "'partial_rotary_factor' is %g: '%s' has no partial rope in transformers", share,
			       config->architecture->model_type);
	rope->dims = partial ? (uint64_t)((double)config->head_dim * share) : config->head_dim;
	if (rope->dims == 0 || rope->dims + rope->dims % 2 > config->head_dim)
		return tn_fail(err, TN_E_UNSUPPORTED, f->where, "a rope on %llu of the %llu numbers of a head",
			       (unsigned long long)rope->dims, (unsigned long long)config->head_dim);
	return TN_OK;
}

/* One rope from its dictionary; `theta`, `share` and `original` are what stands beside it (0: nothing). */
static tn_status read_rope(const struct tn_fields *f, struct tn_arena *arena, const struct tn_decoder_config *config,
			   double theta, double share, uint64_t original, struct tn_rope *rope, struct tn_error *err)
{
	*rope = (struct tn_rope){ .trained = config->context };
	TN_TRY(read_kind(f, config->architecture, &rope->kind, err));
	if (json_object_get(f->json, "mrope_section"))
		return tn_fail(err, TN_E_UNSUPPORTED, f->where, "'mrope_section': ropes of several axes are not run");
	TN_TRY(tn_field_number(f, "rope_theta", theta, &rope->theta, err));
	TN_TRY(check_amount(f, "rope_theta", rope->theta, err));
	TN_TRY(tn_field_count(f, "original_max_position_embeddings", config->context, UINT32_MAX, &rope->original, err));
	rope->original = original ? original : rope->original;
	if (rope->kind == TN_ROPE_LONG ? rope->original < 2 : rope->original == 0)
		return tn_fail(err, TN_E_FORMAT, f->where, "'original_max_position_embeddings' is %llu",
			       (unsigned long long)rope->original);
	TN_TRY(read_dims(f, share, config, rope, err));
	if (rope->kind == TN_ROPE_DYNAMIC && rope->dims < 4)
		return tn_fail(err, TN_E_UNSUPPORTED, f->where, "a dynamic rope on heads of 2");
	return read_scaling(f, arena, rope, err);
}

/* Gemma 3: full layers first, then sliding ones. An older rope_scaling is the full layers'. */
static tn_status read_by_layer_type(const struct tn_fields *f, json_t *empty, struct tn_arena *arena,
				    struct tn_decoder_config *config, struct tn_error *err)
{
	const json_t *all = json_object_get(f->json, "rope_parameters"), *older = json_object_get(f->json, "rope_scaling");
	const json_t *full = json_object_get(all, "full_attention"), *sliding = json_object_get(all, "sliding_attention");
	double theta, local;
	TN_TRY(tn_field_number(f, "rope_theta", 1e6, &theta, err));
	TN_TRY(tn_field_number(f, "rope_local_base_freq", 1e4, &local, err));
	if (json_is_object(older))
		full = older;
	struct tn_fields global_fields = { json_is_object(full) ? full : empty, f->where };
	struct tn_fields local_fields = { json_is_object(sliding) ? sliding : empty, f->where };
	config->ropes = 2;
	TN_TRY(read_rope(&global_fields, arena, config, theta, 1, 0, &config->rope[0], err));
	return read_rope(&local_fields, arena, config, local, 1, 0, &config->rope[1], err);
}

static tn_status read_one(const struct tn_fields *f, json_t *empty, struct tn_arena *arena, struct tn_decoder_config *config,
			  struct tn_error *err)
{
	const json_t *now = json_object_get(f->json, "rope_parameters"), *older = json_object_get(f->json, "rope_scaling");
	double theta, share;
	uint64_t original;
	if (json_object_size(older))
		now = older;
	if (json_is_object(json_object_get(now, "full_attention")))
		return tn_fail(err, TN_E_UNSUPPORTED, f->where, "'rope_parameters' differ by layer, which '%s' does not do",
			       config->architecture->model_type);
	TN_TRY(tn_field_number(f, "rope_theta", 1e4, &theta, err));
	TN_TRY(tn_field_number(f, "partial_rotary_factor", 1, &share, err));
	TN_TRY(tn_field_count(f, "original_max_position_embeddings", 0, UINT32_MAX, &original, err));
	struct tn_fields fields = { json_is_object(now) ? now : empty, f->where };
	config->ropes = 1;
	return read_rope(&fields, arena, config, theta, share, original, &config->rope[0], err);
}

tn_status tn_rope_read(const struct tn_fields *f, struct tn_arena *arena, struct tn_decoder_config *config,
		       struct tn_error *err)
{
	const unsigned traits = config->architecture->traits;
	if (traits & TN_LEARNED_POSITIONS)
		return TN_OK;
	json_t *empty = json_object();
	if (!empty)
		return tn_fail_nomem(err, "the rope of the config", 0);
	tn_status status = (traits & TN_ROPE_BY_LAYER_TYPE ? read_by_layer_type : read_one)(f, empty, arena, config, err);
	json_decref(empty);
	return status;
}
