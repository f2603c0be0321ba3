/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_value.h"

#include <string.h>

enum { SMALL = 8 }; /* entries that are looked through one by one */

tn_status tn_jd_new(struct tn_j *j, struct tn_jdict **out)
{
	return tn_j_alloc(j, sizeof **out, out);
}

/* The entry of a key, or count. */
static tn_status find(struct tn_j *j, const struct tn_jdict *dict, struct tn_jv key, uint64_t hash, size_t *out)
{
	int same = 0;
	if (!dict->slots) {
		for (size_t i = 0; i < dict->count && !same; i++) {
			if (dict->entries[i].hash == hash)
				TN_TRY(tn_j_equal(j, dict->entries[i].key, key, &same));
			*out = i;
		}
		if (!same)
			*out = dict->count;
		return TN_OK;
	}
	size_t probes = 0;
	for (size_t at = hash & (dict->slot_count - 1);; at = (at + 1) & (dict->slot_count - 1)) {
		if (++probes > 8)
			TN_TRY(tn_j_work(j, 1));
		if (!dict->slots[at])
			break;
		const struct tn_jentry *entry = &dict->entries[dict->slots[at] - 1];
		if (entry->hash == hash)
			TN_TRY(tn_j_equal(j, entry->key, key, &same));
		*out = dict->slots[at] - 1;
		if (same)
			return TN_OK;
	}
	*out = dict->count;
	return TN_OK;
}

static void fill_slot(struct tn_jdict *dict, size_t entry)
{
	size_t at = dict->entries[entry].hash & (dict->slot_count - 1);
	while (dict->slots[at])
		at = (at + 1) & (dict->slot_count - 1);
	dict->slots[at] = (uint32_t)(entry + 1);
}

/* Slots for twice as many entries as there are. */
static tn_status make_slots(struct tn_j *j, struct tn_jdict *dict)
{
	size_t wanted = dict->slot_count ? dict->slot_count * 4 : SMALL * 8;
	TN_TRY(tn_j_array(j, wanted, sizeof *dict->slots, &dict->slots));
	dict->slot_count = wanted;
	for (size_t i = 0; i < dict->count; i++)
		fill_slot(dict, i);
	return TN_OK;
}

tn_status tn_jd_set(struct tn_j *j, struct tn_jdict *dict, struct tn_jv key, struct tn_jv value)
{
	uint64_t hash;
	size_t at;
	TN_TRY(tn_j_hash(j, key, &hash));
	TN_TRY(find(j, dict, key, hash, &at));
	if (at < dict->count) {
		dict->entries[at].value = value;
		return TN_OK;
	}
	if (dict->count >= UINT32_MAX / 4)
		return tn_j_fail(j, TN_E_LIMIT, "a dict has more keys than memory is for");
	TN_TRY(tn_j_grow(j, &dict->entries, &dict->capacity, dict->count, dict->count + 1, sizeof *dict->entries));
	if (dict->count >= SMALL && dict->count * 2 >= dict->slot_count)
		TN_TRY(make_slots(j, dict));
	dict->entries[dict->count++] = (struct tn_jentry){ key, value, hash };
	if (dict->slots)
		fill_slot(dict, dict->count - 1);
	return TN_OK;
}

tn_status tn_jd_get(struct tn_j *j, const struct tn_jdict *dict, struct tn_jv key, struct tn_jv *out)
{
	uint64_t hash;
	size_t at;
	TN_TRY(tn_j_hash(j, key, &hash));
	TN_TRY(find(j, dict, key, hash, &at));
	*out = at < dict->count ? dict->entries[at].value : tn_jv_absent();
	return TN_OK;
}

tn_status tn_jd_set_text(struct tn_j *j, struct tn_jdict *dict, const char *key, struct tn_jv value)
{
	struct tn_jv name;
	TN_TRY(tn_j_text(j, key, &name));
	return tn_jd_set(j, dict, name, value);
}

tn_status tn_jd_get_text(struct tn_j *j, const struct tn_jdict *dict, const char *key, struct tn_jv *out)
{
	size_t n = strlen(key);
	struct tn_jstr name = { .text = key, .bytes = n, .chars = n };
	return tn_jd_get(j, dict, tn_jv_str(&name), out);
}

tn_status tn_jd_copy(struct tn_j *j, const struct tn_jdict *from, struct tn_jdict **out)
{
	TN_TRY(tn_jd_new(j, out));
	for (size_t i = 0; i < from->count; i++)
		TN_TRY(tn_jd_set(j, *out, from->entries[i].key, from->entries[i].value));
	return TN_OK;
}

tn_status tn_jd_show(struct tn_j *j, const struct tn_jview *view, size_t i, struct tn_jv *out)
{
	const struct tn_jentry *entry = &view->dict->entries[i];
	if (view->what == TN_J_ITEMS)
		return tn_j_pair(j, entry->key, entry->value, out);
	*out = view->what == TN_J_KEYS ? entry->key : entry->value;
	return TN_OK;
}
