/* SPDX-License-Identifier: Apache-2.0 */
/* Finding tensors of the base by names that other programs gave them. Wrappers put parts in front ("model.",
 * "language_model.", "transformer."), transformers 5 renamed some inside; what stands behind stays. */
#include "adapter/land.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/sort.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST_NAME = 1024 };

struct tn_base_names {
	const char **by_name;       /* the originals, in the order of names */
	size_t *by_name_target;
	size_t *from_behind;        /* indices into by_name, in the order of names read backwards */
	size_t count;
};

static int compare_behind_n(const char *a, size_t n, const char *b, size_t m)
{
	while (n && m) {
		n--;
		m--;
		if (a[n] != b[m])
			return (unsigned char)a[n] < (unsigned char)b[m] ? -1 : 1;
	}
	return (n > 0) - (m > 0);
}

struct pair {
	const char *name;
	size_t at;
};

static int compare_pairs(const void *a, const void *b)
{
	return strcmp(((const struct pair *)a)->name, ((const struct pair *)b)->name);
}

static int compare_pairs_behind(const void *a, const void *b)
{
	const char *x = ((const struct pair *)a)->name, *y = ((const struct pair *)b)->name;
	return compare_behind_n(x, strlen(x), y, strlen(y));
}

tn_status tn_joint_index(struct tn_joint *j, struct tn_error *err)
{
	struct tn_base_names *n;
	struct pair *pairs;
	size_t count = j->target_count;
	TN_TRY(tn_arena_alloc(j->arena, sizeof *n, &n, err));
	TN_TRY(tn_arena_array(j->arena, count, sizeof *n->by_name, &n->by_name, err));
	TN_TRY(tn_arena_array(j->arena, count, sizeof *n->by_name_target, &n->by_name_target, err));
	TN_TRY(tn_arena_array(j->arena, count, sizeof *n->from_behind, &n->from_behind, err));
	TN_TRY(tn_arena_array(j->arena, count, sizeof *pairs, &pairs, err));
	for (size_t i = 0; i < count; i++)
		pairs[i] = (struct pair){ j->targets[i].name, i };
	tn_sort(pairs, count, sizeof *pairs, compare_pairs);
	for (size_t i = 0; i < count; i++) {
		n->by_name[i] = pairs[i].name;
		n->by_name_target[i] = pairs[i].at;
		pairs[i].at = i;
	}
	tn_sort(pairs, count, sizeof *pairs, compare_pairs_behind);
	for (size_t i = 0; i < count; i++)
		n->from_behind[i] = pairs[i].at;
	n->count = count;
	j->names = n;
	return TN_OK;
}

size_t tn_joint_find_exact(const struct tn_joint *j, const char *name)
{
	const struct tn_base_names *n = j->names;
	size_t low = 0, high = n->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(n->by_name[middle], name);
		if (order == 0)
			return n->by_name_target[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return TN_NO_TARGET;
}

/* ---- endings --------------------------------------------------------------------------------------------- */

/* The first name, in the order from behind, that is not before `ending`. */
static size_t first_behind(const struct tn_base_names *n, const char *ending)
{
	size_t low = 0, high = n->count, m = strlen(ending);
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const char *name = n->by_name[n->from_behind[middle]];
		if (compare_behind_n(name, strlen(name), ending, m) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* A part that is a number tells layers and experts apart: it may not be lost with a prefix. */
static int has_number(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t length = 0;
		while (i + length < n && text[i + length] != '.')
			length++;
		if (length && strspn(text + i, "0123456789") >= length)
			return 1;
		i += length;
	}
	return 0;
}

/* Parts of the prefix text[0..n) that stand in `wanted` too. */
static int shared_parts(const char *text, size_t n, const char *wanted)
{
	int shared = 0;
	for (size_t i = 0; i < n; i++) {
		size_t length = 0;
		while (i + length < n && text[i + length] != '.')
			length++;
		for (const char *at = wanted; at && *at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL)
			if (strncmp(at, text + i, length) == 0 && (at[length] == '.' || !at[length])) {
				shared++;
				break;
			}
		i += length;
	}
	return shared;
}

/* The one name that is `ending`, or ends with "." and it. Of several, the one whose front has most in common with `whole`. */
static size_t find_ending(const struct tn_joint *j, const char *ending, const char *whole)
{
	const struct tn_base_names *n = j->names;
	size_t m = strlen(ending), best = TN_NO_TARGET;
	int best_shared = -1, ambiguous = 0;
	for (size_t i = first_behind(n, ending); i < n->count; i++) {
		const char *name = n->by_name[n->from_behind[i]];
		size_t length = strlen(name);
		if (length < m || memcmp(name + length - m, ending, m) != 0)
			break;
		if (length > m && (name[length - m - 1] != '.' || has_number(name, length - m - 1)))
			continue;
		int shared = length > m ? shared_parts(name, length - m - 1, whole) : 0;
		ambiguous = shared == best_shared || (ambiguous && shared < best_shared);
		if (shared > best_shared) {
			best_shared = shared;
			best = n->by_name_target[n->from_behind[i]];
		}
	}
	return ambiguous ? TN_NO_TARGET : best;
}

/* With fewer and fewer parts in front, but never without one that is a number, nor with the last alone. */
static size_t find_by_endings(const struct tn_joint *j, const char *name)
{
	const char *ending = name;
	for (;;) {
		size_t found = find_ending(j, ending, name);
		const char *dot = strchr(ending, '.');
		if (found != TN_NO_TARGET || !dot || !strchr(dot + 1, '.') || has_number(ending, (size_t)(dot - ending)))
			return found;
		ending = dot + 1;
	}
}

/* The same part of a name in other releases of transformers and in mlx-lm. */
static const char *const renames[][2] = {
	{ "mlp", "block_sparse_moe" }, { "block_sparse_moe", "mlp" },
	{ "mlp", "feed_forward" },     { "feed_forward", "mlp" },
	{ "lm_head", "embed_out" },    { "embed_out", "lm_head" },
	{ "experts.gate_up_proj", "input_linear.weight" },   /* granitemoe */
	{ "experts.down_proj", "output_linear.weight" },
	{ "router.weight", "router.layer.weight" },
};

/* The first place in a name where `part` stands between its dots, or NULL. */
static const char *find_part(const char *name, const char *part)
{
	size_t n = strlen(part);
	for (const char *at = strstr(name, part); at; at = strstr(at + 1, part))
		if ((at == name || at[-1] == '.') && (at[n] == '.' || !at[n]))
			return at;
	return NULL;
}

size_t tn_joint_find(const struct tn_joint *j, const char *name)
{
	size_t found = tn_joint_find_exact(j, name);
	if (found == TN_NO_TARGET)
		found = find_by_endings(j, name);
	for (size_t i = 0; i < sizeof renames / sizeof *renames && found == TN_NO_TARGET; i++) {
		char other[LONGEST_NAME];
		const char *at = find_part(name, renames[i][0]);
		if (!at || (size_t)snprintf(other, sizeof other, "%.*s%s%s", (int)(at - name), name, renames[i][1],
					    at + strlen(renames[i][0])) >= sizeof other)
			continue;
		found = tn_joint_find_exact(j, other);
		if (found == TN_NO_TARGET)
			found = find_by_endings(j, other);
	}
	return found;
}

/* Compares with '_' and '.' alike, from behind: 1 when the shorter text is the end of the longer one at a part's border. */
static int ends_flat(const char *a, size_t n, const char *b, size_t m)
{
	size_t shorter = n < m ? n : m;
	for (size_t i = 1; i <= shorter; i++)
		if ((a[n - i] == '.' ? '_' : a[n - i]) != (b[m - i] == '.' ? '_' : b[m - i]))
			return 0;
	return n == m || (n > m ? a[n - m - 1] == '.' : b[m - n - 1] == '_' || b[m - n - 1] == '.');
}

size_t tn_joint_find_flat(const struct tn_joint *j, const char *path)
{
	size_t found = TN_NO_TARGET, m = strlen(path), best = 0;
	int several = 0;
	for (size_t i = 0; i < j->target_count; i++) {
		const char *name = j->targets[i].name;
		size_t n = strlen(name), tail = strlen(".weight");
		if (n <= tail || strcmp(name + n - tail, ".weight") != 0 || !ends_flat(name, n - tail, path, m))
			continue;
		size_t shared = n - tail < m ? n - tail : m;
		several = shared == best || (several && shared < best);
		if (shared > best) {
			best = shared;
			found = i;
		}
	}
	return several ? TN_NO_TARGET : found;
}

uint64_t tn_joint_layer_count(const struct tn_joint *j, const char *path, struct tn_layer_memo *memo)
{
	uint64_t number, count = 0;
	size_t prefix, other;
	if (!tn_path_in_layer(path, &number, &prefix))
		return 0;
	if (tn_layer_memo_holds(memo, path, prefix))
		return memo->count;
	for (size_t i = 0; i < j->target_count; i++) {
		const char *name = j->targets[i].name;
		if (tn_path_in_layer(name, &number, &other) && other == prefix && memcmp(name, path, prefix) == 0)
			count = number + 1 > count ? number + 1 : count;
	}
	*memo = (struct tn_layer_memo){ path, prefix, count };
	return count;
}

/* ---- the nearest name, for messages ---------------------------------------------------------------------- */

static size_t shared_tail(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b), shared = 0, whole = 0;
	while (n && m && a[n - 1] == b[m - 1]) {
		n--;
		m--;
		shared++;
		if ((n == 0 || a[n - 1] == '.') && (m == 0 || b[m - 1] == '.'))
			whole = shared;
	}
	return whole;
}

static size_t shared_head(const char *a, const char *b)
{
	size_t n = 0;
	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

/* The matrix of the base whose name is most like `name`: most shared at the end, then at the beginning. */
static const char *nearest(const struct tn_joint *j, const char *name)
{
	const char *best = NULL;
	size_t best_tail = 0, best_head = 0;
	for (size_t i = 0; i < j->target_count; i++) {
		const struct tn_tensor *t = tn_target_source(&j->targets[i]);
		if (!t || t->rank < 2)
			continue;
		size_t tail = shared_tail(t->name, name), head = shared_head(t->name, name);
		if (!best || tail > best_tail || (tail == best_tail && head > best_head)) {
			best = t->name;
			best_tail = tail;
			best_head = head;
		}
	}
	return best;
}

tn_status tn_joint_fail_missing(const struct tn_joint *j, const char *path, const char *name, struct tn_error *err)
{
	const char *near = nearest(j, name);
	if (!near)
		return tn_fail(err, TN_E_MISMATCH, path, "the adapter changes '%.100s', and the base '%.60s' has no matrices", path,
			       tn_checkpoint_path(j->base));
	size_t tail = shared_tail(near, name), n = strlen(name) - tail, m = strlen(near) - tail;
	if (tail <= strlen(".weight"))
		return tn_fail(err, TN_E_MISMATCH, path, "the adapter changes '%.80s', and the base has no '%.90s'; the nearest "
			       "it has is '%.90s'. The adapter was trained on another base", path, name, near);
	return tn_fail(err, TN_E_MISMATCH, path,
		       "the adapter changes '%.70s', and the base has no '%.70s'; the nearest it has is '%.70s', which '%.*s' in "
		       "place of '%.*s' would match. The adapter was trained on another base, or its names have another prefix",
		       path, name, near, (int)(m < 40 ? m : 40), near, (int)(n < 40 ? n : 40), name);
}
