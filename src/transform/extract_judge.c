/* SPDX-License-Identifier: Apache-2.0 */
/* What the adapter will hold, and what becomes of everything else that changed. */
#include "transform/extract.h"

#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "weights/matrix.h"

#include <string.h>

enum { NAMED = 4, NAMES_BYTES = 200 };

/* ---- which modules --------------------------------------------------------------------------------------- */

/* Without keys: every linear layer inside the layers, and experts. */
static tn_status choose(struct tn_extract *x, struct tn_error *err)
{
	static const char *const all_linear[] = { "all-linear" };
	struct tn_create_options o = TN_CREATE_OPTIONS_INIT;
	struct tn_choice choice = { .options = &o };
	int peft = x->dialect == TN_DIALECT_PEFT, by_default = !x->options->key_count;
	o.dialect = x->dialect;
	o.num_layers = -1;
	o.keys = by_default && peft ? all_linear : x->options->keys;
	o.key_count = by_default && peft ? 1 : x->options->key_count;
	struct tn_error found;
	tn_status status = tn_choose_modules(&x->list, &choice, &found);
	if (status != TN_OK && (status != TN_E_MISMATCH || !by_default)) /* a model may have nothing but experts */
		return tn_fail_with(err, &found);
	for (size_t i = 0; i < x->list.count; i++)
		x->list.items[i].chosen |= by_default && x->list.items[i].of_parameter;
	return TN_OK;
}

/* ---- names in messages ----------------------------------------------------------------------------------- */

/* The first few names of many. */
struct names {
	char text[NAMES_BYTES];
	size_t length, count;
};

static void add_name(struct names *n, const char *name, const char *remark)
{
	int room = (int)(NAMES_BYTES - n->length);
	if (n->count++ >= NAMED)
		return;
	int wrote = snprintf(n->text + n->length, (size_t)room, "%s'%.60s'%s", n->length ? ", " : "", name, remark);
	if (wrote >= room) { /* it does not fit: it is one of those that are only counted */
		n->text[n->length] = '\0';
		n->count += NAMED;
	} else {
		n->length += (size_t)wrote;
	}
}

static const char *remark_on(const struct tn_extract_rest *r)
{
	return !r->tuned ? " (gone)" : !r->base ? " (new)" : r->is_reshaped ? " (of another shape)" : "";
}

/* ---- what is no part of the adapter ------------------------------------------------------------------------ */

static int is_left(const struct tn_extract_module *m)
{
	return m->found.differs && !m->module->chosen;
}

static size_t count_left(const struct tn_extract *x, struct names *names, int *modules)
{
	size_t count = 0;
	for (size_t i = 0; i < x->module_count; i++)
		if (is_left(&x->modules[i])) {
			add_name(names, x->modules[i].module->path, "");
			*modules = 1;
			count++;
		}
	for (size_t i = 0; i < x->rest_count; i++)
		if (x->rest[i].found.differs) {
			add_name(names, x->rest[i].name, remark_on(&x->rest[i]));
			count++;
		}
	return count;
}

static tn_status check_left(struct tn_extract *x, struct tn_error *err)
{
	struct names names = { .count = 0 };
	int modules = 0;
	size_t count = count_left(x, &names, &modules), more = count > NAMED ? count - NAMED : 0;
	char rest[40] = "";
	if (more)
		snprintf(rest, sizeof rest, " and %zu more", more);
	if (!count)
		return TN_OK;
	if (x->options->others == TN_OTHERS_SAVED && x->dialect == TN_DIALECT_MLX_LM)
		return tn_fail(err, TN_E_UNSUPPORTED, x->tuned.checkpoint->path, "%s%s changed, and an adapter of mlx-lm has no "
			       "whole tensors beside factors: take the dialect peft%s, or leave the change out (--ignore-rest)",
			       names.text, rest, modules ? ", choose modules (--keys)" : "");
	if (x->options->others == TN_OTHERS_SAVED)
		return TN_OK;
	if (x->options->others == TN_OTHERS_IGNORED) {
		tn_logf(x->ctx, TN_LOG_WARNING, "what changed in %s%s is left out: base and adapter together are not the tuned "
			"model", names.text, rest);
		return TN_OK;
	}
	return tn_fail(err, TN_E_MISMATCH, x->tuned.checkpoint->path, "%zu changed %s no part of the adapter: %s%s. Save %s whole "
		       "beside it (--save-rest)%s, or leave the change out (--ignore-rest)", count,
		       count == 1 ? "tensor is" : "tensors are", names.text, rest, count == 1 ? "it" : "them",
		       modules ? ", choose modules (--keys)" : "");
}

/* ---- the changed modules ----------------------------------------------------------------------------------- */

static tn_status check_module(const struct tn_extract *x, const struct tn_extract_module *m, struct tn_error *err)
{
	if (m->found.not_finite)
		return tn_fail(err, TN_E_FORMAT, m->module->path, "the change of '%.100s' holds NaN or infinity", m->module->path);
	if (x->dialect == TN_DIALECT_PEFT && m->module->kind == TN_MODULE_EMBEDDING && x->base.joint->tied)
		return tn_fail(err, TN_E_UNSUPPORTED, m->module->path, "'%.100s' is the head as well, and PEFT would change the "
			       "embedding alone; take the dialect mlx, or save it whole (--save-rest)", m->module->path);
	return TN_OK;
}

/* Of factors as float32, where it is known before they are computed. */
static tn_status check_size(const struct tn_extract *x, struct tn_error *err)
{
	const struct tn_rank_rule *rule = &x->options->rule;
	uint64_t bytes = 0, rank;
	for (size_t i = 0; i < x->module_count && rule->energy == 1; i++) {
		const struct tn_extract_module *m = &x->modules[i];
		if (!m->found.differs || !m->module->chosen)
			continue;
		rank = tn_min_u64(m->rows, m->cols);
		rank = rule->rank ? tn_min_u64(rule->rank, rank) : rank;
		bytes += m->groups * rank * (m->rows + m->cols) * sizeof(float);
		if (bytes > TN_ADAPTER_MOST_BYTES)
			return tn_fail(err, TN_E_LIMIT, m->module->path, "the adapter would have more than %llu bytes; choose "
				       "fewer modules or a smaller rank", (unsigned long long)TN_ADAPTER_MOST_BYTES);
	}
	return TN_OK;
}

tn_status tn_extract_judge(struct tn_extract *x, struct tn_error *err)
{
	size_t wanted = 0, changed = 0;
	TN_TRY(choose(x, err));
	for (size_t i = 0; i < x->module_count; i++) {
		const struct tn_extract_module *m = &x->modules[i];
		if (!m->found.differs)
			continue;
		changed++;
		if (!m->module->chosen)
			continue;
		TN_TRY(check_module(x, m, err));
		wanted++;
		x->total += m->groups * tn_extract_group_work(m);
	}
	TN_TRY(check_left(x, err));
	if (!wanted)
		return tn_fail(err, TN_E_MISMATCH, x->tuned.checkpoint->path, "no module of '%.100s' that the adapter is for "
			       "differs from the base's: there is nothing to extract%s", x->tuned.checkpoint->path,
			       changed ? "; name others (--keys)" : "");
	return check_size(x, err);
}

/* ---- whole tensors ----------------------------------------------------------------------------------------- */

static tn_status read_whole(const struct tn_extract *x, const struct tn_target *t, float *dst, struct tn_error *err)
{
	enum { AT_ONCE = 1 << 16 };
	const struct tn_tensor *source = tn_target_source(t);
	uint64_t cols = t->matrix ? t->matrix->cols : 1, step = tn_max_u64(AT_ONCE / cols, 1) * cols;
	struct tn_buffer raw;
	tn_status status = TN_OK;
	TN_TRY(tn_buffer_alloc(x->ctx, (size_t)step * 8, t->name, &raw, err));
	for (uint64_t i = 0; i < source->elements && status == TN_OK; i += step)
		status = tn_target_read_f32(x->tuned.joint, t, i, tn_min_u64(step, source->elements - i), dst + i, raw.data, err);
	tn_buffer_release(x->ctx, &raw);
	return status;
}

static tn_status add_whole(struct tn_extract *x, struct tn_pairs *pairs, const char *path, const struct tn_target *t,
			   struct tn_error *err)
{
	const struct tn_tensor *s = tn_target_source(t);
	struct tn_whole *w = &pairs->wholes[pairs->whole_count++];
	if (!tn_dtype_is_float(s->dtype) || s->rank > TN_PARAMETER_RANK)
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' is %s with %u dimensions, and an adapter holds floats of "
			       "at most %d", t->name, tn_dtype_name(s->dtype), s->rank, (int)TN_PARAMETER_RANK);
	*w = (struct tn_whole){ .path = path, .rank = s->rank, .dtype = s->dtype };
	memcpy(w->shape, s->shape, s->rank * sizeof *s->shape);
	TN_TRY(tn_arena_array(&x->arena, (size_t)s->elements, sizeof *w->values, &w->values, err));
	return read_whole(x, t, w->values, err);
}

static tn_status fail_whole(const char *path, const char *why, struct tn_error *err)
{
	return tn_fail(err, TN_E_UNSUPPORTED, path, "'%.100s' %s", path, why);
}

static tn_status save_module(struct tn_extract *x, struct tn_pairs *pairs, const struct tn_extract_module *m, struct tn_error *err)
{
	const struct tn_base_module *b = m->module;
	const char *path, *head;
	size_t base = b->weight ? tn_joint_find(x->base.joint, b->weight) : TN_NO_TARGET;
	size_t tuned = b->weight ? tn_joint_find(x->tuned.joint, b->weight) : TN_NO_TARGET;
	if (base == TN_NO_TARGET || tuned == TN_NO_TARGET)
		return fail_whole(b->path, "is a stack of experts, and cannot be saved whole; choose it (--keys)", err);
	TN_TRY(tn_arena_printf(&x->arena, &path, err, "%s.weight", b->path));
	TN_TRY(add_whole(x, pairs, path, &x->tuned.joint->targets[tuned], err));
	if (b->kind != TN_MODULE_EMBEDDING || !x->base.joint->tied || !x->tuned.joint->tied) /* a head of its own is the rest */
		return TN_OK;
	/* the head of PEFT's model keeps the base's tensor, unless it is saved too */
	TN_TRY(tn_arena_printf(&x->arena, &head, err, "lm_head.weight"));
	pairs->wholes[pairs->whole_count] = pairs->wholes[pairs->whole_count - 1];
	pairs->wholes[pairs->whole_count++].path = head;
	return TN_OK;
}

static tn_status save_rest(struct tn_extract *x, struct tn_pairs *pairs, const struct tn_extract_rest *r, struct tn_error *err)
{
	const char *path;
	if (!r->tuned)
		return fail_whole(r->name, "is of the base and not of the tuned model, which no adapter can say", err);
	TN_TRY(tn_base_tensor_name(&x->list, r->name, &path, err));
	return add_whole(x, pairs, path, r->tuned, err);
}

tn_status tn_extract_wholes(struct tn_extract *x, struct tn_pairs *pairs, struct tn_error *err)
{
	if (x->options->others != TN_OTHERS_SAVED)
		return TN_OK;
	TN_TRY(tn_arena_array(&x->arena, 2 * x->module_count + x->rest_count, sizeof *pairs->wholes, &pairs->wholes, err));
	for (size_t i = 0; i < x->module_count; i++)
		if (is_left(&x->modules[i]))
			TN_TRY(save_module(x, pairs, &x->modules[i], err));
	for (size_t i = 0; i < x->rest_count; i++)
		if (x->rest[i].found.differs)
			TN_TRY(save_rest(x, pairs, &x->rest[i], err));
	return TN_OK;
}
