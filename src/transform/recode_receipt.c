/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a recode as JSON, and a receipt once it has run. */
#include "transform/recode.h"

#include "base/error.h"
#include "store/checkpoint.h"
#include "store/json_out.h"
#include "transform/inspect.h"
#include "transform/outcome.h"

static void step_json(struct tn_json_out *out, const struct tn_recode *r, const struct tn_recode_step *step)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "name");
	tn_json_out_string(out, step->info.tensor->name);
	tn_json_out_key(out, "action");
	tn_json_out_string(out, tn_recode_action_name(step->info.action));
	tn_json_out_key(out, "from");
	tn_json_out_string(out, step->info.from);
	tn_json_out_key(out, "to");
	tn_json_out_string(out, step->info.to);
	tn_json_out_key(out, "bytes_before");
	tn_json_out_u64(out, step->info.bytes_before);
	tn_json_out_key(out, "bytes_after");
	tn_json_out_u64(out, step->info.bytes_after);
	tn_json_out_key(out, "shard");
	tn_json_out_string(out, r->shards[step->shard].name);
	tn_json_out_end(out, '}');
}

/* A tensor of the result: several make the triple that a step writes. */
static void written_json(struct tn_json_out *out, const struct tn_tensor *t, const struct tn_digest *digest)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "name");
	tn_json_out_string(out, t->name);
	tn_tensor_form_json(out, t);
	tn_digest_json(out, "sha256", digest);
	tn_json_out_end(out, '}');
}

static void sums_json(struct tn_json_out *out, const struct tn_recode *r)
{
	tn_json_out_key(out, "base");
	tn_json_out_string(out, tn_checkpoint_path(r->base));
	tn_json_out_key(out, "parameters");
	tn_json_out_u64(out, r->parameters);
	tn_json_out_key(out, "bytes_before");
	tn_json_out_u64(out, tn_checkpoint_tensor_bytes(r->base));
	tn_json_out_key(out, "bytes_after");
	tn_json_out_u64(out, r->bytes_after);
	tn_json_out_key(out, "bits_per_weight");
	tn_json_out_double(out, tn_recode_bits_per_weight(r));
	tn_json_out_key(out, "shards");
	tn_json_out_u64(out, r->shard_count);
	for (int action = TN_RECODE_COPY; action <= TN_RECODE_REQUANTIZE; action++) {
		tn_json_out_key(out, tn_recode_action_name((tn_recode_action)action));
		tn_json_out_u64(out, tn_recode_count_of(r, (tn_recode_action)action));
	}
}

/* With `result` (NULL: none) the receipt. */
static tn_status write_json(const tn_recode *r, const tn_checkpoint *result, const struct tn_outcome *outcome, tn_write_fn write,
			    void *user, struct tn_error *err)
{
	struct tn_json_out out;
	tn_json_out_init(&out, r->ctx, write, user);
	tn_json_out_begin(&out, '{');
	sums_json(&out, r);
	if (result)
		tn_outcome_json(&out, outcome);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < r->count; i++)
		step_json(&out, r, &r->steps[i]);
	tn_json_out_end(&out, ']');
	if (result) {
		tn_json_out_key(&out, "written");
		tn_json_out_begin(&out, '[');
		for (size_t i = 0; i < result->count; i++)
			written_json(&out, result->by_name[i], &outcome->tensors[i]);
		tn_json_out_end(&out, ']');
	}
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}

tn_status tn_recode_plan_json(const tn_recode *r, tn_write_fn write, void *user, struct tn_error *err)
{
	return write_json(r, NULL, NULL, write, user, err);
}

tn_status tn_recode_receipt(const tn_recode *r, const char *save_path, tn_write_fn write, void *user, struct tn_error *err)
{
	struct tn_outcome outcome;
	struct tn_arena arena;
	tn_checkpoint *result;
	TN_TRY(tn_checkpoint_open(r->ctx, save_path, &result, err));
	tn_arena_init(&arena, r->ctx);
	tn_status status = TN_OK;
	if (tn_checkpoint_tensor_bytes(result) != r->bytes_after)
		status = tn_fail(err, TN_E_MISMATCH, save_path, "'%s' does not hold what the plan wrote; something else has "
				 "changed it", save_path);
	if (status == TN_OK)
		status = tn_outcome_read(r->ctx, &arena, result, save_path, &outcome, err);
	if (status == TN_OK)
		status = tn_content_checkpoint(r->ctx, r->base, &outcome.base, err);
	if (status == TN_OK)
		status = write_json(r, result, &outcome, write, user, err);
	tn_arena_release(&arena);
	tn_checkpoint_close(result);
	return status;
}
