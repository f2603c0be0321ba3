/* SPDX-License-Identifier: Apache-2.0 */
#include "store/st_index.h"

#include "base/error.h"
#include "base/file.h"
#include "store/json_scan.h"
#include "store/json_text.h"
#include "store/st_header.h"

#include <stdlib.h>
#include <string.h>

/* One line of weight_map while reading. */
struct pair {
	const char *tensor, *shard;
};

struct reader {
	struct tn_json_scan scan;
	struct tn_arena *arena;
	struct pair *pairs;
	size_t count, capacity;
	const char *last_shard; /* neighbours mostly share one: keep a single copy of the name */
};

static tn_status check_shard_name(const struct reader *r, const struct pair *pair, size_t at, struct tn_error *err)
{
	const char *s = pair->shard;
	if (!*s || strchr(s, '/') || strchr(s, '\\') || strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
		return tn_json_fail(&r->scan, at, err,
				    "weight_map sends '%.80s' to '%.80s', and a plain file name was expected", pair->tensor,
				    s);
	return TN_OK;
}

static tn_status read_pair(struct reader *r, struct tn_error *err)
{
	struct tn_json_string key, value;
	struct pair pair;
	TN_TRY(tn_json_take_string(&r->scan, &key, err));
	TN_TRY(tn_json_decode(&r->scan, &key, r->arena, &pair.tensor, err));
	TN_TRY(tn_json_take(&r->scan, ':', "':'", err));
	if (tn_json_peek(&r->scan) != '"')
		return tn_json_fail(&r->scan, r->scan.pos, err, "weight_map '%.100s' is not a string", pair.tensor);
	TN_TRY(tn_json_take_string(&r->scan, &value, err));
	if (r->last_shard && tn_json_equals(&r->scan, &value, r->last_shard)) {
		pair.shard = r->last_shard;
	} else {
		TN_TRY(tn_json_decode(&r->scan, &value, r->arena, &pair.shard, err));
		TN_TRY(check_shard_name(r, &pair, value.begin, err));
		r->last_shard = pair.shard;
	}
	TN_TRY(tn_grow(r->scan.ctx, &r->pairs, &r->capacity, r->count + 1, sizeof pair, "index", err));
	r->pairs[r->count++] = pair;
	return TN_OK;
}

static tn_status read_weight_map(struct reader *r, struct tn_error *err)
{
	TN_TRY(tn_json_take(&r->scan, '{', "weight_map as an object", err));
	int more = tn_json_peek(&r->scan) != '}';
	if (!more)
		return tn_json_take(&r->scan, '}', "'}'", err);
	while (more) {
		TN_TRY(read_pair(r, err));
		TN_TRY(tn_json_next(&r->scan, '}', &more, err));
	}
	return TN_OK;
}

static tn_status read_index(struct reader *r, struct tn_error *err)
{
	int seen = 0, more = 1;
	TN_TRY(tn_json_take(&r->scan, '{', "the index as an object", err));
	if (tn_json_peek(&r->scan) == '}')
		more = 0, r->scan.pos++;
	while (more) {
		struct tn_json_string key;
		TN_TRY(tn_json_take_string(&r->scan, &key, err));
		TN_TRY(tn_json_take(&r->scan, ':', "':'", err));
		if (!tn_json_equals(&r->scan, &key, "weight_map"))
			TN_TRY(tn_json_skip_value(&r->scan, err));
		else if (seen++)
			return tn_json_fail(&r->scan, key.begin - 1, err, "weight_map stands twice");
		else
			TN_TRY(read_weight_map(r, err));
		TN_TRY(tn_json_next(&r->scan, '}', &more, err));
	}
	if (!seen)
		return tn_fail(err, TN_E_FORMAT, r->scan.where, "'%s' has no weight_map", r->scan.where);
	return tn_json_finish(&r->scan, err);
}

static int compare_pairs(const void *a, const void *b)
{
	return strcmp(((const struct pair *)a)->tensor, ((const struct pair *)b)->tensor);
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static tn_status list_shards(struct reader *r, struct tn_index *out, struct tn_error *err)
{
	const char **names;
	TN_TRY(tn_arena_array(r->arena, r->count, sizeof *names, &names, err));
	for (size_t i = 0; i < r->count; i++)
		names[i] = r->pairs[i].shard;
	if (r->count > 1)
		qsort(names, r->count, sizeof *names, compare_texts);
	size_t n = 0;
	for (size_t i = 0; i < r->count; i++)
		if (n == 0 || strcmp(names[n - 1], names[i]) != 0)
			names[n++] = names[i];
	out->shards = names;
	out->shard_count = n;
	return TN_OK;
}

static tn_status settle(struct reader *r, struct tn_index *out, struct tn_error *err)
{
	if (r->count > 1)
		qsort(r->pairs, r->count, sizeof *r->pairs, compare_pairs);
	for (size_t i = 1; i < r->count; i++)
		if (strcmp(r->pairs[i - 1].tensor, r->pairs[i].tensor) == 0)
			return tn_fail(err, TN_E_FORMAT, r->pairs[i].tensor,
				       "'%s' binds '%.100s' twice, to '%.60s' and to '%.60s'", r->scan.where,
				       r->pairs[i].tensor, r->pairs[i - 1].shard, r->pairs[i].shard);
	TN_TRY(list_shards(r, out, err));
	TN_TRY(tn_arena_array(r->arena, r->count, sizeof *out->entries, &out->entries, err));
	out->count = r->count;
	for (size_t i = 0; i < r->count; i++) {
		const char *const *found = bsearch(&r->pairs[i].shard, out->shards, out->shard_count, sizeof *out->shards,
						   compare_texts);
		out->entries[i] = (struct tn_index_entry){ r->pairs[i].tensor, (uint32_t)(found - out->shards) };
	}
	return TN_OK;
}

tn_status tn_index_load(struct tn_arena *arena, const char *path, struct tn_index *out, struct tn_error *err)
{
	struct tn_buffer text;
	TN_TRY(tn_file_read_text(arena->ctx, path, TN_ST_LONGEST_HEADER, &text, err));
	struct reader r = { .scan = { arena->ctx, text.data, text.bytes - 1, 0, path, 0 }, .arena = arena };
	tn_status status = read_index(&r, err);
	if (status == TN_OK)
		status = settle(&r, out, err);
	tn_free_array(arena->ctx, r.pairs, r.capacity, sizeof *r.pairs);
	tn_buffer_release(arena->ctx, &text);
	return status;
}

tn_status tn_index_write(const struct tn_tensor *const *by_name, size_t count, const char *const *shards,
			 uint64_t total_bytes, uint64_t total_parameters, tn_index_style style, struct tn_text *text,
			 struct tn_error *err)
{
	int mlx = style == TN_INDEX_MLX, indent = mlx ? 4 : 2;
	TN_TRY(tn_text_printf(text, err, "{\n%*s\"metadata\": {\n%*s\"%s\": %llu,\n%*s\"%s\": %llu\n%*s},\n", indent, "",
			      2 * indent, "", mlx ? "total_size" : "total_parameters",
			      (unsigned long long)(mlx ? total_bytes : total_parameters), 2 * indent, "",
			      mlx ? "total_parameters" : "total_size",
			      (unsigned long long)(mlx ? total_parameters : total_bytes), indent, ""));
	TN_TRY(tn_text_printf(text, err, "%*s\"weight_map\": {", indent, ""));
	for (size_t i = 0; i < count; i++) {
		TN_TRY(tn_text_printf(text, err, "%s\n%*s", i ? "," : "", 2 * indent, ""));
		TN_TRY(tn_json_add_string(text, by_name[i]->name, err));
		TN_TRY(tn_text_puts(text, ": ", err));
		TN_TRY(tn_json_add_string(text, shards[by_name[i]->shard], err));
	}
	if (count)
		TN_TRY(tn_text_printf(text, err, "\n%*s", indent, ""));
	return tn_text_puts(text, mlx ? "}\n}" : "}\n}\n", err);
}
