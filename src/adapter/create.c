/* SPDX-License-Identifier: Apache-2.0 */
#include "adapter/create.h"

#include "adapter/identity.h"
#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/st_header.h"

#include <math.h>
#include <string.h>

enum { PARTS = 3 };


/* ---- options --------------------------------------------------------------------------------------------- */

tn_status tn_lora_check(uint64_t rank, double alpha, double dropout, struct tn_error *err)
{
	if (rank == 0)
		return tn_fail(err, TN_E_ARG, "rank", "LoRA rank must be > 0");
	if (!(alpha > 0))
		return tn_fail(err, TN_E_ARG, "alpha", "LoRA alpha must be > 0.0");
	if (!(dropout >= 0 && dropout <= 1))
		return tn_fail(err, TN_E_ARG, "dropout", "LoRA dropout must be in [0.0, 1.0]");
	return TN_OK;
}

static tn_status check_options(const struct tn_create_options *o, struct tn_choice *c, struct tn_error *err)
{
	int peft = o->dialect == TN_DIALECT_PEFT;
	if (!peft && o->dialect != TN_DIALECT_MLX_LM)
		return tn_fail(err, TN_E_ARG, "dialect", "adapters are made in the dialects mlx-lm and peft");
	if ((unsigned)o->init > TN_INIT_XORSHIFT)
		return tn_fail(err, TN_E_ARG, "init", "init is %d, and one of tn_init was expected", (int)o->init);
	if (o->scale != 0 && o->alpha != 0)
		return tn_fail(err, TN_E_ARG, "scale", "scale and alpha exclude each other: scale is alpha / rank");
	double rank = (double)o->rank;
	c->scale = o->scale != 0 ? o->scale : o->alpha != 0 ? o->alpha / rank : peft ? 8 / rank : 20;
	c->alpha = o->alpha != 0 ? o->alpha : c->scale * rank;
	TN_TRY(tn_lora_check(o->rank, o->rank ? c->alpha : 1, o->dropout, err));
	if (!isfinite(c->scale) || !isfinite(c->alpha))
		return tn_fail(err, TN_E_ARG, "scale", "the scale is not a finite number");
	if (!peft && o->dropout >= 1)
		return tn_fail(err, TN_E_ARG, "dropout", "LoRA dropout is %g; mlx-lm takes 0 to below 1", o->dropout);
	if (o->rank > TN_ADAPTER_MOST_RANK)
		return tn_fail(err, TN_E_ARG, "rank", "LoRA rank is %llu; at most %d was expected", (unsigned long long)o->rank,
			       (int)TN_ADAPTER_MOST_RANK);
	return TN_OK;
}

/* ---- parameters ------------------------------------------------------------------------------------------ */

static void shape_a_b(const struct tn_draft *d, const struct tn_base_module *m, uint64_t rank, struct tn_parameter p[PARTS])
{
	int peft = d->dialect == TN_DIALECT_PEFT, stack = m->kind == TN_MODULE_EXPERTS && !m->of_parameter;
	uint64_t wide = m->of_parameter ? rank * m->experts : rank;
	uint64_t a[2] = { peft ? wide : m->in, peft ? m->in : rank }, b[2] = { peft ? m->out : rank, peft ? wide : m->out };
	p[0].rank = p[1].rank = stack ? 3 : 2;
	if (stack) {
		memcpy(p[0].shape, (uint64_t[]){ m->experts, rank, m->in }, 3 * sizeof(uint64_t));
		memcpy(p[1].shape, (uint64_t[]){ m->experts, m->out, rank }, 3 * sizeof(uint64_t));
		return;
	}
	memcpy(p[0].shape, a, sizeof a);
	memcpy(p[1].shape, b, sizeof b);
}

/* PEFT nests the parameters of one module: the one that is registered last stands outermost. */
static tn_status parameter_front(const struct tn_base_modules *m, const struct tn_base_module *item, const char **out,
				 struct tn_error *err)
{
	const char *last = tn_path_last(item->path), *nested = "";
	size_t front = (size_t)(last - item->path) - 1;
	for (size_t i = 0; i < m->count; i++)
		if (m->items[i].chosen && m->items[i].of_parameter && &m->items[i] != item && strcmp(last, "gate_up_proj") == 0 &&
		    strncmp(m->items[i].path, item->path, front + 1) == 0 &&
		    strcmp(tn_path_last(m->items[i].path), "down_proj") == 0)
			nested = ".base_layer";
	return tn_arena_printf(m->arena, out, err, "base_model.model.%.*s%s", (int)front, item->path, nested);
}

static tn_status name_parts(const struct tn_draft *d, const struct tn_base_modules *m, const struct tn_base_module *item,
			    struct tn_parameter p[PARTS], struct tn_error *err)
{
	static const char *const mlx[] = { "lora_a", "lora_b", "m" };
	static const char *const linear[] = { "lora_A.weight", "lora_B.weight", "lora_magnitude_vector" };
	static const char *const table[] = { "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector" };
	int peft = d->dialect == TN_DIALECT_PEFT;
	const char *const *names = !peft ? mlx : item->kind == TN_MODULE_EMBEDDING ? table : linear;
	const char *front = item->path;
	if (item->of_parameter)
		TN_TRY(parameter_front(m, item, &front, err));
	else if (peft)
		TN_TRY(tn_arena_printf(m->arena, &front, err, "base_model.model.%s", item->path));
	for (int i = 0; i < PARTS; i++)
		TN_TRY(tn_arena_printf(m->arena, &p[i].name, err, "%s.%s", front, names[i]));
	return TN_OK;
}

tn_status tn_draft_reserve(tn_draft *d, size_t count, struct tn_error *err)
{
	TN_TRY(tn_arena_array(&d->arena, count, sizeof(struct tn_tensor *), &d->tensors, err));
	return tn_arena_array(&d->arena, count, sizeof *d->parameters, &d->parameters, err);
}

tn_status tn_draft_add(tn_draft *d, const struct tn_parameter *p, struct tn_error *err)
{
	struct tn_tensor *t;
	uint64_t *shape, elements = 1, size;
	TN_TRY(tn_arena_alloc(&d->arena, sizeof *t, &t, err));
	TN_TRY(tn_arena_array(&d->arena, p->rank, sizeof *shape, &shape, err));
	memcpy(shape, p->shape, p->rank * sizeof *shape);
	for (uint32_t i = 0; i < p->rank; i++)
		if (tn_mul_u64(elements, shape[i], &elements))
			elements = UINT64_MAX;
	if (tn_mul_u64(elements, sizeof(float), &size) || tn_add_u64(d->tensor_bytes, size, &d->tensor_bytes) ||
	    d->tensor_bytes > TN_ADAPTER_MOST_BYTES)
		return tn_fail(err, TN_E_LIMIT, p->name, "the adapter would have more than %llu bytes; choose fewer modules or "
			       "a smaller rank", (unsigned long long)TN_ADAPTER_MOST_BYTES);
	*t = (struct tn_tensor){ .name = p->name, .dtype = TN_F32, .rank = p->rank, .shape = shape, .elements = elements,
				 .bytes = size };
	d->tensors[d->count] = t;
	d->parameters[d->count] = *p;
	d->parameters[d->count++].elements = elements;
	return TN_OK;
}

int tn_mlx_misjudges_dora(tn_module_kind kind, unsigned bits)
{
	return bits && (kind == TN_MODULE_EMBEDDING || kind == TN_MODULE_EMBEDDING_DORA || 32 % bits);
}

tn_status tn_draft_add_module(tn_draft *d, const struct tn_base_modules *m, const struct tn_base_module *item, uint64_t rank,
			      int dora, struct tn_error *err)
{
	struct tn_parameter p[PARTS] = { { .role = TN_PARAMETER_A }, { .role = TN_PARAMETER_B },
					 { .role = TN_PARAMETER_MAGNITUDE, .rank = 1 } };
	int table = item->kind == TN_MODULE_EMBEDDING;
	if (dora && d->dialect == TN_DIALECT_MLX_LM && tn_mlx_misjudges_dora(item->kind, item->bits))
		return tn_fail(err, TN_E_UNSUPPORTED, item->path, "mlx-lm takes the width of '%.100s', which has codes of %u bits, "
			       "for another one when it makes a DoRA, and would not load this one; make a LoRA, or choose "
			       "modules that are not quantized, or linear layers of 1, 2, 4 or 8 bits", item->path, item->bits);
	shape_a_b(d, item, rank, p);
	/* mlx-lm has a magnitude for each vector of a table, PEFT one for each of its columns */
	p[2].shape[0] = table && d->dialect == TN_DIALECT_MLX_LM ? item->in : item->out;
	TN_TRY(name_parts(d, m, item, p, err));
	for (int i = 0; i < (dora ? PARTS : PARTS - 1); i++) {
		p[i].module = item->path;
		p[i].dtype = TN_F32;
		TN_TRY(tn_draft_add(d, &p[i], err));
	}
	return TN_OK;
}

/* Of all chosen modules in one line. */
static void warn_of_rank(const struct tn_draft *d, const struct tn_base_modules *m, uint64_t rank)
{
	const struct tn_base_module *first = NULL;
	size_t count = 0;
	for (size_t i = 0; i < m->count; i++)
		if (m->items[i].chosen && rank > tn_min_u64(m->items[i].in, m->items[i].out) && count++ == 0)
			first = &m->items[i];
	if (first)
		tn_logf(d->ctx, TN_LOG_WARNING, "LoRA rank (%llu) exceeds min(out_features, in_features) = %llu of '%s'%s",
			(unsigned long long)rank, (unsigned long long)tn_min_u64(first->in, first->out), first->path,
			count > 1 ? " and of other modules" : "");
}

static tn_status add_modules(struct tn_draft *d, const struct tn_base_modules *m, const struct tn_create_options *o,
			     struct tn_error *err)
{
	size_t chosen = 0;
	for (size_t i = 0; i < m->count; i++)
		chosen += m->items[i].chosen != 0;
	TN_TRY(tn_draft_reserve(d, PARTS * chosen, err));
	for (size_t i = 0; i < m->count; i++)
		if (m->items[i].chosen)
			TN_TRY(tn_draft_add_module(d, m, &m->items[i], o->rank, o->dora, err));
	warn_of_rank(d, m, o->rank);
	return TN_OK;
}

/* ---- the image ------------------------------------------------------------------------------------------- */

static struct tn_parameter take_named(struct tn_parameter *parameters, size_t from, size_t count, const char *name)
{
	size_t i = from;
	while (i + 1 < count && strcmp(parameters[i].name, name) != 0)
		i++;
	struct tn_parameter p = parameters[i];
	parameters[i] = parameters[from];
	return p;
}

/* The layout sorts tensors by name; parameters follow. */
tn_status tn_draft_make_image(tn_draft *d, struct tn_error *err)
{
	struct tn_text header;
	tn_text_init(&header, d->ctx);
	tn_status status = tn_st_header_layout(d->tensors, d->count, NULL, 0, &header, err);
	if (status == TN_OK) {
		const struct tn_tensor *last = d->tensors[d->count - 1];
		status = tn_buffer_alloc(d->ctx, (size_t)(last->offset + last->bytes), "adapter", &d->image, err);
	}
	if (status == TN_OK) {
		memset(d->image.data, 0, d->image.bytes);
		memcpy(d->image.data, header.data, header.length);
	}
	tn_text_release(&header);
	TN_TRY(status);
	for (size_t i = 0; i < d->count; i++) {
		d->parameters[i] = take_named(d->parameters, i, d->count, d->tensors[i]->name);
		d->parameters[i].data = (float *)(void *)((unsigned char *)d->image.data + d->tensors[i]->offset);
	}
	return TN_OK;
}

static const struct tn_base_module *module_of(const struct tn_base_modules *m, const struct tn_parameter *p)
{
	size_t i = 0;
	while (m->items[i].path != p->module)
		i++;
	return &m->items[i];
}

static tn_status fill_numbers(struct tn_draft *d, const struct tn_base_modules *m, const struct tn_create_options *o,
			      const tn_checkpoint *base, struct tn_error *err)
{
	int peft = d->dialect == TN_DIALECT_PEFT;
	tn_init init = o->init != TN_INIT_DEFAULT ? o->init : peft ? TN_INIT_KAIMING : TN_INIT_MLX;
	struct tn_numbers numbers = { init, o->rank, o->seed, !peft };
	for (size_t i = 0; i < d->count; i++)
		tn_init_parameter(&d->parameters[i], module_of(m, &d->parameters[i]), &numbers);
	TN_TRY(tn_adapter_open_memory(d->ctx, d->config, strlen(d->config), d->image.data, d->image.bytes, "the new adapter",
				      &d->adapter, err));
	if (o->dora)
		TN_TRY(tn_create_magnitudes(d->adapter, base, d->image.data, err));
	d->has_base_sample = 1;
	return tn_adapter_base_sample(d->adapter, base, d->base_sample, err);
}

static tn_status fill(struct tn_draft *d, const tn_checkpoint *base, const struct tn_create_options *o, struct tn_error *err)
{
	struct tn_base_modules modules;
	struct tn_choice choice = { .options = o };
	d->dialect = o->dialect;
	TN_TRY(check_options(o, &choice, err));
	TN_TRY(tn_base_modules_list(&d->arena, base, o->dialect == TN_DIALECT_PEFT, &modules, err));
	TN_TRY(tn_choose_modules(&modules, &choice, err));
	TN_TRY(tn_create_config(&d->arena, &choice, &modules, base->path, &d->config, err));
	TN_TRY(add_modules(d, &modules, o, err));
	TN_TRY(tn_draft_make_image(d, err));
	return fill_numbers(d, &modules, o, base, err);
}

tn_status tn_draft_begin(tn_context *ctx, tn_draft **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof **out, out, err));
	(*out)->ctx = ctx;
	(*out)->arena = arena;
	return TN_OK;
}

tn_status tn_draft_create(const tn_checkpoint *base, const struct tn_create_options *options, tn_draft **out,
			  struct tn_error *err)
{
	static const struct tn_create_options defaults = TN_CREATE_OPTIONS_INIT;
	tn_draft *d;
	TN_TRY(tn_draft_begin(base->ctx, &d, err));
	tn_status status = fill(d, base, options ? options : &defaults, err);
	if (status != TN_OK) {
		tn_draft_destroy(d);
		return status;
	}
	*out = d;
	return TN_OK;
}

void tn_draft_destroy(tn_draft *d)
{
	if (!d)
		return;
	tn_adapter_close(d->adapter);
	tn_buffer_release(d->ctx, &d->image);
	struct tn_arena arena = d->arena;
	tn_arena_release(&arena);
}

/* ---- reading and writing --------------------------------------------------------------------------------- */

size_t tn_draft_count(const tn_draft *d)
{
	return d->count;
}

const struct tn_parameter *tn_draft_at(const tn_draft *d, size_t i)
{
	return i < d->count ? &d->parameters[i] : NULL;
}

const struct tn_parameter *tn_draft_find(const tn_draft *d, const char *name)
{
	size_t low = 0, high = d->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(d->parameters[middle].name, name);
		if (order == 0)
			return &d->parameters[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

const struct tn_parameter *tn_draft_of(const tn_draft *d, const char *module, tn_parameter_role role)
{
	for (size_t i = 0; i < d->count; i++)
		if (d->parameters[i].role == role && strcmp(d->parameters[i].module, module) == 0)
			return &d->parameters[i];
	return NULL;
}

const tn_adapter *tn_draft_adapter(const tn_draft *d)
{
	return d->adapter;
}

static void write_shape(char text[80], uint32_t rank, const uint64_t *shape)
{
	size_t n = 0;
	for (uint32_t i = 0; i < rank && n < 80; i++)
		n += (size_t)snprintf(text + n, 80 - n, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
}

tn_status tn_draft_set(tn_draft *d, const char *name, uint32_t rank, const uint64_t *shape, const float *data,
		       struct tn_error *err)
{
	const struct tn_parameter *p = tn_draft_find(d, name);
	char given[80] = "", expected[80];
	if (!p)
		return tn_fail(err, TN_E_NOTFOUND, name, "the adapter has no parameter '%.100s'", name);
	if (rank != p->rank || memcmp(shape, p->shape, rank * sizeof *shape) != 0) {
		write_shape(given, rank, shape);
		write_shape(expected, p->rank, p->shape);
		return tn_fail(err, TN_E_MISMATCH, name, "'%.100s' is [%s], and values of [%s] were given", name, expected, given);
	}
	for (uint64_t i = 0; i < p->elements; i++)
		if (!isfinite(data[i]))
			return tn_fail(err, TN_E_ARG, name, "element %llu of the values for '%.100s' is %g",
				       (unsigned long long)i, name, (double)data[i]);
	memcpy(p->data, data, (size_t)p->elements * sizeof *data);
	return TN_OK;
}
