/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/error.h"
#include "base/sort.h"
#include "store/json_scan.h"
#include "store/st_header.h"

#include <stdlib.h>
#include <string.h>

enum { LARGEST_RANK = 64 };

struct parse {
	struct tn_json_scan scan;
	struct tn_arena *arena;
	struct tn_tensor *tensors; /* heap while growing */
	size_t count, capacity;
	struct tn_st_metadata *metadata;
	size_t metadata_count, metadata_capacity;
	int has_metadata;
};

/* Which members of a tensor's object have been seen. */
struct members {
	int dtype, shape, offsets;
	uint64_t begin, end;
};

static tn_status twice(struct parse *p, const struct tn_json_string *key, const char *name, struct tn_error *err)
{
	return tn_json_fail(&p->scan, key->begin - 1, err, "'%.100s' has the member '%.*s' twice", name,
			    (int)(key->length < 40 ? key->length : 40), p->scan.text + key->begin);
}

static tn_status parse_dtype(struct parse *p, struct tn_tensor *t, struct tn_error *err)
{
	struct tn_json_string value;
	size_t at = p->scan.pos;
	TN_TRY(tn_json_take_string(&p->scan, &value, err));
	if (p->count && tn_json_equals(&p->scan, &value, tn_dtype_name(p->tensors[p->count - 1].dtype))) { /* as mostly */
		t->dtype = p->tensors[p->count - 1].dtype;
		return TN_OK;
	}
	for (int i = 0; i < TN_DTYPE_COUNT; i++)
		if (tn_json_equals(&p->scan, &value, tn_dtype_name((tn_dtype)i))) {
			t->dtype = (tn_dtype)i;
			return TN_OK;
		}
	return tn_json_fail(&p->scan, at, err, "'%.100s' has the dtype '%.*s', which safetensors does not have", t->name,
			    (int)(value.length < 40 ? value.length : 40), p->scan.text + value.begin);
}

static tn_status parse_shape(struct parse *p, struct tn_tensor *t, struct tn_error *err)
{
	uint64_t sizes[LARGEST_RANK];
	uint32_t rank = 0;
	TN_TRY(tn_json_take(&p->scan, '[', "the shape as an array", err));
	int more = tn_json_peek(&p->scan) != ']';
	if (!more)
		TN_TRY(tn_json_take(&p->scan, ']', "']'", err));
	while (more) {
		if (rank == LARGEST_RANK)
			return tn_json_fail(&p->scan, p->scan.pos, err, "'%.100s' has more than %d dimensions", t->name,
					    LARGEST_RANK);
		TN_TRY(tn_json_take_u64(&p->scan, &sizes[rank], err));
		rank++;
		TN_TRY(tn_json_next(&p->scan, ']', &more, err));
	}
	uint64_t *shape;
	TN_TRY(tn_arena_array(p->arena, rank, sizeof *shape, &shape, err));
	memcpy(shape, sizes, rank * sizeof *shape);
	t->rank = rank;
	t->shape = shape;
	return TN_OK;
}

static tn_status parse_offsets(struct parse *p, struct members *m, struct tn_error *err)
{
	TN_TRY(tn_json_take(&p->scan, '[', "data_offsets as an array", err));
	TN_TRY(tn_json_take_u64(&p->scan, &m->begin, err));
	TN_TRY(tn_json_take(&p->scan, ',', "two data_offsets", err));
	TN_TRY(tn_json_take_u64(&p->scan, &m->end, err));
	return tn_json_take(&p->scan, ']', "']' behind two data_offsets", err);
}

/* Members that the format does not know are allowed and skipped; their names must differ too. */
static tn_status parse_member(struct parse *p, struct tn_tensor *t, struct members *m, struct tn_arena *scratch,
			      const char ***unknown, size_t *unknown_count, size_t *unknown_capacity,
			      struct tn_error *err)
{
	struct tn_json_string key;
	TN_TRY(tn_json_take_string(&p->scan, &key, err));
	TN_TRY(tn_json_take(&p->scan, ':', "':'", err));
	tn_json_skip_space(&p->scan);
	if (tn_json_equals(&p->scan, &key, "dtype"))
		return m->dtype++ ? twice(p, &key, t->name, err) : parse_dtype(p, t, err);
	if (tn_json_equals(&p->scan, &key, "shape"))
		return m->shape++ ? twice(p, &key, t->name, err) : parse_shape(p, t, err);
	if (tn_json_equals(&p->scan, &key, "data_offsets"))
		return m->offsets++ ? twice(p, &key, t->name, err) : parse_offsets(p, m, err);
	const char *name;
	TN_TRY(tn_json_decode(&p->scan, &key, scratch, &name, err));
	for (size_t i = 0; i < *unknown_count; i++)
		if (strcmp((*unknown)[i], name) == 0)
			return twice(p, &key, t->name, err);
	if (*unknown_count == 64)
		return tn_json_fail(&p->scan, key.begin - 1, err, "'%.100s' has more than 64 unknown members", t->name);
	TN_TRY(tn_grow(p->scan.ctx, unknown, unknown_capacity, *unknown_count + 1, sizeof **unknown, "JSON keys", err));
	(*unknown)[(*unknown_count)++] = name;
	return tn_json_skip_value(&p->scan, err);
}

static tn_status parse_members(struct parse *p, struct tn_tensor *t, struct members *m, struct tn_error *err)
{
	struct tn_arena scratch;
	tn_arena_init(&scratch, p->scan.ctx);
	const char **unknown = NULL;
	size_t unknown_count = 0, unknown_capacity = 0;
	tn_status status = TN_OK;
	int more = 1;
	while (more && status == TN_OK) {
		status = parse_member(p, t, m, &scratch, &unknown, &unknown_count, &unknown_capacity, err);
		if (status == TN_OK)
			status = tn_json_next(&p->scan, '}', &more, err);
	}
	tn_free_array(p->scan.ctx, unknown, unknown_capacity, sizeof *unknown);
	tn_arena_release(&scratch);
	return status;
}

static tn_status parse_tensor(struct parse *p, const struct tn_json_string *key, struct tn_error *err)
{
	struct tn_tensor t = { .name = NULL };
	struct members m = { 0 };
	size_t at = p->scan.pos;
	TN_TRY(tn_json_decode(&p->scan, key, p->arena, &t.name, err));
	TN_TRY(tn_json_take(&p->scan, '{', "a tensor's description as an object", err));
	if (tn_json_peek(&p->scan) != '}')
		TN_TRY(parse_members(p, &t, &m, err));
	const char *missing = !m.dtype ? "dtype" : !m.shape ? "shape" : !m.offsets ? "data_offsets" : NULL;
	if (missing)
		return tn_json_fail(&p->scan, at, err, "'%.100s' has no '%s'", t.name, missing);
	/* until the offsets have been checked, `offset` and `bytes` hold begin and end */
	t.offset = m.begin;
	t.bytes = m.end;
	TN_TRY(tn_grow(p->scan.ctx, &p->tensors, &p->capacity, p->count + 1, sizeof t, "tensor descriptions", err));
	p->tensors[p->count++] = t;
	return TN_OK;
}

static tn_status parse_metadata_entry(struct parse *p, struct tn_error *err)
{
	struct tn_json_string key, value;
	struct tn_st_metadata entry;
	TN_TRY(tn_json_take_string(&p->scan, &key, err));
	TN_TRY(tn_json_decode(&p->scan, &key, p->arena, &entry.key, err));
	TN_TRY(tn_json_take(&p->scan, ':', "':'", err));
	if (tn_json_peek(&p->scan) != '"')
		return tn_json_fail(&p->scan, p->scan.pos, err, "__metadata__ '%.100s' is not a string", entry.key);
	TN_TRY(tn_json_take_string(&p->scan, &value, err));
	TN_TRY(tn_json_decode(&p->scan, &value, p->arena, &entry.value, err));
	TN_TRY(tn_grow(p->scan.ctx, &p->metadata, &p->metadata_capacity, p->metadata_count + 1, sizeof entry, "metadata",
		       err));
	p->metadata[p->metadata_count++] = entry;
	return TN_OK;
}

static int compare_metadata(const void *a, const void *b)
{
	const struct tn_st_metadata *x = a, *y = b;
	return strcmp(x->key, y->key);
}

/* Sorted in a copy: the entries keep their order. */
static tn_status check_metadata_keys(struct parse *p, size_t at, struct tn_error *err)
{
	struct tn_st_metadata *sorted;
	size_t n = p->metadata_count;
	TN_TRY(tn_alloc_array(p->scan.ctx, n, sizeof *sorted, "metadata", &sorted, err));
	memcpy(sorted, p->metadata, n * sizeof *sorted);
	tn_sort(sorted, n, sizeof *sorted, compare_metadata);
	tn_status status = TN_OK;
	for (size_t i = 1; i < n && status == TN_OK; i++)
		if (strcmp(sorted[i - 1].key, sorted[i].key) == 0)
			status = tn_json_fail(&p->scan, at, err, "__metadata__ has the key '%.100s' twice", sorted[i].key);
	tn_free_array(p->scan.ctx, sorted, n, sizeof *sorted);
	return status;
}

static tn_status parse_metadata(struct parse *p, struct tn_error *err)
{
	size_t at = p->scan.pos;
	if (p->has_metadata++)
		return tn_json_fail(&p->scan, at, err, "__metadata__ stands twice");
	if (tn_json_peek(&p->scan) == 'n')
		return tn_json_take_null(&p->scan, err);
	TN_TRY(tn_json_take(&p->scan, '{', "__metadata__ as an object or null", err));
	int more = tn_json_peek(&p->scan) != '}';
	if (!more)
		return tn_json_take(&p->scan, '}', "'}'", err);
	while (more) {
		TN_TRY(parse_metadata_entry(p, err));
		TN_TRY(tn_json_next(&p->scan, '}', &more, err));
	}
	return check_metadata_keys(p, at, err);
}

static tn_status parse_json(struct parse *p, struct tn_error *err)
{
	TN_TRY(tn_json_take(&p->scan, '{', "the header as an object", err));
	int more = tn_json_peek(&p->scan) != '}';
	if (!more)
		TN_TRY(tn_json_take(&p->scan, '}', "'}'", err));
	while (more) {
		struct tn_json_string key;
		TN_TRY(tn_json_take_string(&p->scan, &key, err));
		TN_TRY(tn_json_take(&p->scan, ':', "':'", err));
		tn_json_skip_space(&p->scan);
		if (tn_json_equals(&p->scan, &key, "__metadata__"))
			TN_TRY(parse_metadata(p, err));
		else
			TN_TRY(parse_tensor(p, &key, err));
		TN_TRY(tn_json_next(&p->scan, '}', &more, err));
	}
	return tn_json_finish(&p->scan, err);
}

/* By (begin, end), then by name so that the order of empty tensors is fixed. */
static int compare_offsets(const void *a, const void *b)
{
	const struct tn_tensor *x = a, *y = b;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(const struct tn_tensor *const *)a)->name, (*(const struct tn_tensor *const *)b)->name);
}

/* The end of a path, where the file's name is: a long one leaves room for what is said of it. */
static const char *end_of(const char *path)
{
	enum { SHOWN = 140 };
	size_t n = strlen(path);
	path += n > SHOWN ? n - SHOWN : 0;
	while ((*path & 0xC0) == 0x80) /* inside a character of UTF-8 */
		path++;
	return path;
}

/* Size in bytes from dtype and shape. */
static tn_status measure(const char *file, struct tn_tensor *t, uint64_t *bytes, struct tn_error *err)
{
	uint64_t elements = 1, bits;
	int overflow = 0, zero = 0;
	for (uint32_t i = 0; i < t->rank; i++) {
		zero |= t->shape[i] == 0;
		overflow |= tn_mul_u64(elements, t->shape[i], &elements);
	}
	if (zero && overflow) /* such as [0, 2^63, 4]: the product depends on the order; no real tensor looks so */
		return tn_fail(err, TN_E_FORMAT, t->name, "the product of the shape of '%.100s' in '%s' exceeds 2^64",
			       t->name, file);
	if (overflow || tn_mul_u64(elements, tn_dtype_bits(t->dtype), &bits))
		return tn_fail(err, TN_E_FORMAT, t->name,
			       "the size of '%.100s' in '%s' exceeds 2^64 bits: its shape is damaged", t->name, file);
	if (bits % 8)
		return tn_fail(err, TN_E_FORMAT, t->name,
			       "'%.100s' in '%s' has %llu elements of %u bits, which is not a whole number of bytes", t->name,
			       file, (unsigned long long)elements, tn_dtype_bits(t->dtype));
	t->elements = elements;
	*bytes = bits / 8;
	return TN_OK;
}

/* Each tensor begins where the one before ends: no hole, no overlap, no two names for the same bytes. */
static tn_status check_offsets(struct parse *p, uint64_t file_bytes, struct tn_error *err)
{
	const char *file = end_of(p->scan.where);
	uint64_t at = 0, data = 8 + (uint64_t)p->scan.length, have = file_bytes == TN_ST_CUT ? TN_ST_CUT : file_bytes - data;
	for (size_t i = 0; i < p->count; i++) {
		struct tn_tensor *t = &p->tensors[i];
		uint64_t begin = t->offset, end = t->bytes, bytes = 0;
		if (begin != at || end < begin)
			return tn_fail_at(err, TN_E_FORMAT, t->name, data + begin,
					  "'%.100s' in '%s' has data_offsets [%llu, %llu], and the data before it end at %llu: "
					  "tensors may not overlap or leave holes",
					  t->name, file, (unsigned long long)begin, (unsigned long long)end,
					  (unsigned long long)at);
		TN_TRY(measure(file, t, &bytes, err));
		if (end - begin != bytes)
			return tn_fail_at(err, TN_E_FORMAT, t->name, data + begin,
					  "'%.100s' in '%s' has %llu bytes of data, and its dtype and shape need %llu", t->name,
					  file, (unsigned long long)(end - begin), (unsigned long long)bytes);
		if (end > have)
			return tn_fail_at(err, TN_E_FORMAT, t->name, file_bytes,
					  "'%.100s' in '%s' ends at byte %llu of the data, and the file has %llu: it is cut "
					  "short; get it again",
					  t->name, file, (unsigned long long)end, (unsigned long long)have);
		at = end;
		t->bytes = bytes;
		t->offset = data + begin;
	}
	if (at != have && have != TN_ST_CUT)
		return tn_fail_at(err, TN_E_FORMAT, p->scan.where, data + at,
				  "'%s' has %llu bytes behind its last tensor; a safetensors file ends with it",
				  p->scan.where, (unsigned long long)(have - at));
	return TN_OK;
}

static tn_status index_names(struct parse *p, const struct tn_tensor ***out, struct tn_error *err)
{
	const struct tn_tensor **by_name;
	TN_TRY(tn_arena_array(p->arena, p->count, sizeof *by_name, &by_name, err));
	for (size_t i = 0; i < p->count; i++)
		by_name[i] = &p->tensors[i];
	tn_sort(by_name, p->count, sizeof *by_name, compare_names);
	for (size_t i = 1; i < p->count; i++)
		if (strcmp(by_name[i - 1]->name, by_name[i]->name) == 0)
			return tn_fail(err, TN_E_FORMAT, by_name[i]->name, "the header of '%s' has the tensor '%.100s' twice",
				       p->scan.where, by_name[i]->name);
	*out = by_name;
	return TN_OK;
}

/* The arrays move from the heap, where they grew, into the arena. */
static tn_status settle(struct parse *p, struct tn_error *err)
{
	struct tn_tensor *tensors;
	struct tn_st_metadata *metadata;
	TN_TRY(tn_arena_array(p->arena, p->count, sizeof *tensors, &tensors, err));
	TN_TRY(tn_arena_array(p->arena, p->metadata_count, sizeof *metadata, &metadata, err));
	if (p->count)
		memcpy(tensors, p->tensors, p->count * sizeof *tensors);
	if (p->metadata_count)
		memcpy(metadata, p->metadata, p->metadata_count * sizeof *metadata);
	tn_free_array(p->scan.ctx, p->tensors, p->capacity, sizeof *p->tensors);
	tn_free_array(p->scan.ctx, p->metadata, p->metadata_capacity, sizeof *p->metadata);
	p->tensors = tensors;
	p->metadata = metadata;
	p->capacity = p->metadata_capacity = 0;
	return TN_OK;
}

tn_status tn_st_header_parse(struct tn_arena *arena, const char *text, size_t length, uint64_t file_bytes,
			     const char *where, struct tn_st_header *out, struct tn_error *err)
{
	size_t valid = tn_utf8_valid_prefix(text, length);
	if (valid != length)
		return tn_fail_at(err, TN_E_FORMAT, where, 8 + valid, "the header of '%s' is not UTF-8: byte %zu is 0x%02X",
				  where, valid + 8, (unsigned char)text[valid]);
	struct parse p = { .scan = { arena->ctx, text, length, 0, where, 8 }, .arena = arena };
	tn_status status = parse_json(&p, err);
	if (status == TN_OK)
		status = settle(&p, err);
	if (status != TN_OK) {
		if (p.capacity)
			tn_free_array(arena->ctx, p.tensors, p.capacity, sizeof *p.tensors);
		if (p.metadata_capacity)
			tn_free_array(arena->ctx, p.metadata, p.metadata_capacity, sizeof *p.metadata);
		return status;
	}
	const struct tn_tensor **by_name = NULL;
	tn_sort(p.tensors, p.count, sizeof *p.tensors, compare_offsets);
	TN_TRY(index_names(&p, &by_name, err));
	TN_TRY(check_offsets(&p, file_bytes, err));
	*out = (struct tn_st_header){ p.tensors, by_name, p.count, p.metadata, p.metadata_count };
	return TN_OK;
}
