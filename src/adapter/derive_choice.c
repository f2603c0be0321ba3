/* SPDX-License-Identifier: Apache-2.0 */
/* What adapter_config.json says of given pairs: which modules they are for, in as few names as say just these, and with which
 * rank and scale. */
#include "adapter/pairs.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int has_name(const char *const *names, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return 1;
	return 0;
}

static void add_name(const char **names, size_t *count, const char *name)
{
	if (!has_name(names, *count, name))
		names[(*count)++] = name;
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void sort_names(const char **names, size_t count)
{
	if (count > 1)
		qsort(names, count, sizeof *names, compare_texts);
}

/* ---- names of PEFT --------------------------------------------------------------------------------------- */

/* 1 when every module of that kind whose name ends so is chosen. */
static int names_chosen_only(const struct tn_base_modules *m, const char *ending, int of_parameter)
{
	for (size_t i = 0; i < m->count; i++)
		if (!m->items[i].chosen && m->items[i].of_parameter == of_parameter && tn_path_has_ending(m->items[i].path, ending))
			return 0;
	return 1;
}

static tn_status name_peft(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	TN_TRY(tn_arena_array(m->arena, m->count, sizeof *c->names, &c->names, err));
	TN_TRY(tn_arena_array(m->arena, m->count, sizeof *c->parameters, &c->parameters, err));
	for (size_t i = 0; i < m->count; i++) {
		const struct tn_base_module *item = &m->items[i];
		const char *ending = item->of_parameter ? tn_path_inside(item->path) : tn_path_last(item->path);
		if (!item->chosen)
			continue;
		const char *name = names_chosen_only(m, ending, item->of_parameter) ? ending : item->path;
		if (item->of_parameter)
			add_name(c->parameters, &c->parameter_count, name);
		else
			add_name(c->names, &c->name_count, name);
	}
	return TN_OK;
}

/* ---- names of mlx-lm ------------------------------------------------------------------------------------- */

/* 1 when every module that the key selects in layers from `first` on is chosen. */
static int key_chosen_only(const struct tn_base_modules *m, const char *key, uint64_t first)
{
	uint64_t number;
	size_t prefix;
	for (size_t i = 0; i < m->count; i++) {
		const char *inside = tn_path_in_layer(m->items[i].path, &number, &prefix);
		if (inside && number >= first && strcmp(inside, key) == 0 && !m->items[i].chosen)
			return 0;
	}
	return 1;
}

/* The window begins at the first layer that has a pair; a whole path is not limited by it. */
static tn_status name_mlx(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	uint64_t number, first = UINT64_MAX, all = tn_base_modules_layers(m);
	size_t prefix;
	TN_TRY(tn_arena_array(m->arena, m->count, sizeof *c->names, &c->names, err));
	for (size_t i = 0; i < m->count; i++)
		if (m->items[i].chosen && tn_path_in_layer(m->items[i].path, &number, &prefix) && number < first)
			first = number;
	for (size_t i = 0; i < m->count; i++) {
		const char *path = m->items[i].path, *inside = tn_path_in_layer(path, &number, &prefix);
		if (!m->items[i].chosen || (inside && has_name(c->names, c->name_count, inside)))
			continue;
		add_name(c->names, &c->name_count, inside && key_chosen_only(m, inside, first) ? inside : path);
	}
	c->num_layers = first && first < all ? (int64_t)(all - first) : TN_ALL_LAYERS;
	return TN_OK;
}

/* ---- ranks and scales ------------------------------------------------------------------------------------ */

/* The value that most have; of several the first. */
static double most_common(const double *values, size_t count)
{
	double best = count ? values[0] : 0;
	size_t most = 0;
	for (size_t i = 0; i < count; i++) {
		size_t n = 0;
		for (size_t k = i; k < count; k++)
			n += values[k] == values[i];
		if (n > most) {
			most = n;
			best = values[i];
		}
	}
	return best;
}

/* The alpha that a program divides by the rank to get this scale again. */
static double alpha_of(const struct tn_pair *p)
{
	double rank = (double)p->rank, alpha = p->scale * rank;
	double around[] = { alpha, nextafter(alpha, HUGE_VAL), nextafter(alpha, -HUGE_VAL) };
	for (size_t i = 0; i < 3; i++)
		if (around[i] / rank == p->scale)
			return around[i];
	return alpha;
}

/* "^model\.layers\.0\.self_attn\.q_proj": PEFT matches "(.*\.)?(key)$", so that this is one module alone. */
static tn_status anchor(struct tn_arena *arena, const char *path, const char **out, struct tn_error *err)
{
	char *text;
	TN_TRY(tn_arena_array(arena, 2 * strlen(path) + 2, 1, &text, err));
	*out = text;
	*text++ = '^';
	for (; *path; path++) {
		int plain = (*path >= 'a' && *path <= 'z') || (*path >= 'A' && *path <= 'Z') || (*path >= '0' && *path <= '9') ||
			    *path == '_' || (unsigned char)*path >= 0x80; /* a part of a letter */
		if (!plain)
			*text++ = '\\';
		*text++ = *path;
	}
	return TN_OK;
}

/* A pattern's lines for all values but the usual one: by the last part of the name where all modules that end so have that
 * value, else by whole paths. */
static tn_status list_values(struct tn_arena *arena, const struct tn_pairs *p, const double *values, double usual,
			     const struct tn_choice_value **out, size_t *count, struct tn_error *err)
{
	struct tn_choice_value *lines;
	TN_TRY(tn_arena_array(arena, p->count, sizeof *lines, &lines, err));
	*out = lines;
	for (size_t i = 0; i < p->count; i++) {
		const char *path = p->items[i].module->path, *last = tn_path_last(path);
		int alike = 1, is_there = 0;
		if (values[i] == usual)
			continue;
		for (size_t k = 0; k < p->count && alike; k++)
			alike = values[k] == values[i] || strcmp(tn_path_last(p->items[k].module->path), last) != 0;
		for (size_t k = 0; k < *count && alike; k++)
			is_there |= strcmp(lines[k].key, last) == 0;
		if (is_there)
			continue;
		lines[*count].value = values[i];
		lines[*count].key = last;
		if (!alike)
			TN_TRY(anchor(arena, path, &lines[*count].key, err));
		(*count)++;
	}
	return TN_OK;
}

static tn_status rank_peft(struct tn_arena *arena, const struct tn_pairs *p, struct tn_choice *c, struct tn_create_options *o,
			   struct tn_error *err)
{
	double *ranks, *alphas;
	o->rank = 8; /* PEFT's own numbers, for a file without pairs */
	c->alpha = 8;
	if (!p->count)
		return TN_OK;
	TN_TRY(tn_arena_array(arena, p->count, sizeof *ranks, &ranks, err));
	TN_TRY(tn_arena_array(arena, p->count, sizeof *alphas, &alphas, err));
	for (size_t i = 0; i < p->count; i++) {
		ranks[i] = (double)p->items[i].rank;
		alphas[i] = alpha_of(&p->items[i]);
	}
	double rank = most_common(ranks, p->count);
	o->rank = (uint64_t)rank;
	c->alpha = most_common(alphas, p->count);
	TN_TRY(list_values(arena, p, ranks, rank, &c->ranks, &c->rank_count, err));
	return list_values(arena, p, alphas, c->alpha, &c->alphas, &c->alpha_count, err);
}

/* One rank and one scale for all. */
static tn_status rank_mlx(struct tn_arena *arena, const struct tn_pairs *p, struct tn_choice *c, struct tn_create_options *o,
			  struct tn_error *err)
{
	double *scales;
	TN_TRY(tn_arena_array(arena, p->count, sizeof *scales, &scales, err));
	size_t n = 0;
	for (size_t i = 0; i < p->count; i++) {
		o->rank = o->rank > p->items[i].rank ? o->rank : p->items[i].rank;
		if (p->items[i].scale != 0) /* the others can be divided by it */
			scales[n++] = p->items[i].scale;
	}
	c->scale = most_common(scales, n);
	return TN_OK;
}

tn_status tn_pairs_choose(struct tn_arena *arena, const struct tn_pairs *p, struct tn_base_modules *m, struct tn_create_options *o,
			  struct tn_choice *c, struct tn_error *err)
{
	int peft = p->dialect == TN_DIALECT_PEFT;
	*c = (struct tn_choice){ .options = o };
	for (size_t i = 0; i < m->count; i++)
		m->items[i].chosen = 0;
	for (size_t i = 0; i < p->count; i++) {
		m->items[p->items[i].module - p->modules.items].chosen = 1;
		c->lora_bias |= p->items[i].bias != NULL;
	}
	TN_TRY(peft ? name_peft(m, c, err) : name_mlx(m, c, err));
	sort_names(c->names, c->name_count);
	sort_names(c->parameters, c->parameter_count);
	return peft ? rank_peft(arena, p, c, o, err) : rank_mlx(arena, p, c, o, err);
}
