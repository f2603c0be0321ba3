/* SPDX-License-Identifier: Apache-2.0 */
/* What a verification found: to look at, and as JSON. */
#include "transform/verify.h"

#include "base/error.h"
#include "store/json_out.h"

#include <stdlib.h>
#include <string.h>

const char *tn_verdict_name(tn_verdict verdict)
{
	static const char *const names[] = {
		[TN_VERDICT_IDENTICAL] = "identical",     [TN_VERDICT_MERGED] = "merged",
		[TN_VERDICT_REQUANTIZED] = "requantized", [TN_VERDICT_DEQUANTIZED] = "dequantized",
		[TN_VERDICT_CHANGED] = "changed",         [TN_VERDICT_NOT_MERGED] = "not-merged",
		[TN_VERDICT_LOST] = "lost",               [TN_VERDICT_WRONG] = "wrong",
		[TN_VERDICT_MISSING] = "missing",         [TN_VERDICT_EXTRA] = "extra",
		[TN_VERDICT_RESHAPED] = "reshaped",       [TN_VERDICT_OTHER_BASE] = "other-base",
		[TN_VERDICT_OTHER_ADAPTER] = "other-adapter", [TN_VERDICT_UNCHECKED] = "unchecked",
	};
	return (size_t)verdict < sizeof names / sizeof *names ? names[verdict] : "unknown";
}

int tn_verdict_is_good(tn_verdict verdict)
{
	return verdict == TN_VERDICT_IDENTICAL || verdict == TN_VERDICT_MERGED || verdict == TN_VERDICT_REQUANTIZED ||
	       verdict == TN_VERDICT_DEQUANTIZED || verdict == TN_VERDICT_UNCHECKED;
}

tn_status tn_verify_create(tn_context *ctx, tn_verify **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_verify *v;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *v, &v, err));
	v->ctx = ctx;
	v->arena = arena;
	*out = v;
	return TN_OK;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct tn_verified_tensor *)a)->name, ((const struct tn_verified_tensor *)b)->name);
}

tn_status tn_verify_settle(tn_verify *v, struct tn_error *err)
{
	if (v->count > 1)
		qsort(v->tensors, v->count, sizeof *v->tensors, compare_names);
	v->ok = 1;
	for (size_t i = 0; i < v->count; i++) {
		v->ok &= tn_verdict_is_good(v->tensors[i].verdict);
		TN_TRY(tn_arena_text(&v->arena, v->tensors[i].name, strlen(v->tensors[i].name), &v->tensors[i].name, err));
	}
	return TN_OK;
}

void tn_verify_free(tn_verify *v)
{
	if (!v)
		return;
	struct tn_arena arena = v->arena;
	tn_arena_release(&arena);
}

int tn_verify_ok(const tn_verify *v)
{
	return v->ok;
}

size_t tn_verify_count(const tn_verify *v)
{
	return v->count;
}

const struct tn_verified_tensor *tn_verify_at(const tn_verify *v, size_t i)
{
	return i < v->count ? &v->tensors[i] : NULL;
}

static void survival_json(struct tn_json_out *out, const struct tn_verified_tensor *t)
{
	tn_json_out_key(out, "rho");
	tn_json_out_double(out, t->rho);
	tn_json_out_key(out, "cap");
	tn_json_out_double(out, t->cap);
	tn_json_out_key(out, "cosine");
	tn_json_out_double(out, t->cosine);
	tn_json_out_key(out, "noise");
	tn_json_out_double(out, t->noise);
}

tn_status tn_verify_json(const tn_verify *v, tn_write_fn write, void *user, struct tn_error *err)
{
	struct tn_json_out out;
	tn_json_out_init(&out, v->ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "ok");
	tn_json_out_bool(&out, v->ok);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < v->count; i++) {
		const struct tn_verified_tensor *t = &v->tensors[i];
		tn_json_out_begin_line(&out, '{');
		tn_json_out_key(&out, "name");
		tn_json_out_string(&out, t->name);
		tn_json_out_key(&out, "status");
		tn_json_out_string(&out, tn_verdict_name(t->verdict));
		tn_json_out_key(&out, "max_ulp");
		tn_json_out_double(&out, t->max_ulp);
		tn_json_out_key(&out, "rms_ulp");
		tn_json_out_double(&out, t->rms_ulp);
		if (t->row != TN_VERIFY_NO_ROW) {
			tn_json_out_key(&out, "row");
			tn_json_out_u64(&out, t->row);
		}
		if (t->rho > 0)
			survival_json(&out, t);
		tn_json_out_end(&out, '}');
	}
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
