/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_value.h"

#include "base/checked.h"
#include "base/numeral.h"
#include "chat/jinja_print.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DEEPEST = 600, ROOM_FROM = 256 };

/* ---- memory, limits, errors ------------------------------------------------------------------------------- */

tn_status tn_j_fail(struct tn_j *j, tn_status code, const char *fmt, ...)
{
	char message[320];
	va_list args;
	va_start(args, fmt);
	tn_vsnprintf(message, sizeof message, fmt, args);
	va_end(args);
	message[tn_utf8_valid_prefix(message, strlen(message))] = '\0'; /* it may have been cut in a character */
	return tn_fail(j->err, code, j->where, "line %d of the chat template: %s", j->line, message);
}

tn_status tn_j_alloc(struct tn_j *j, size_t bytes, void *out)
{
	size_t used;
	if (tn_add_size(j->used, bytes, &used) || tn_add_size(used, 16, &used) || used > j->limit)
		return tn_j_fail(j, TN_E_LIMIT, "it takes more than %zu MiB of memory, which no template should", j->limit >> 20);
	TN_TRY(tn_arena_alloc(&j->arena, bytes, out, j->err));
	j->used = used;
	return tn_j_work(j, bytes / 64);
}

tn_status tn_j_array(struct tn_j *j, size_t count, size_t size, void *out)
{
	size_t bytes;
	if (tn_mul_size(count, size, &bytes))
		return tn_j_fail(j, TN_E_LIMIT, "a list of %zu items does not fit in memory", count);
	return tn_j_alloc(j, bytes, out);
}

tn_status tn_j_grow(struct tn_j *j, void *array, size_t *capacity, size_t count, size_t needed, size_t size)
{
	if (needed <= *capacity)
		return TN_OK;
	size_t wanted = *capacity ? *capacity : 8;
	while (wanted < needed)
		if (tn_mul_size(wanted, 2, &wanted))
			return tn_j_fail(j, TN_E_LIMIT, "%zu items do not fit in memory", needed);
	void *old, *made = NULL;
	TN_TRY(tn_j_array(j, wanted, size, &made));
	memcpy(&old, array, sizeof old);
	if (count)
		memcpy(made, old, count * size);
	memcpy(array, &made, sizeof made);
	*capacity = wanted;
	return TN_OK;
}

tn_status tn_j_work(struct tn_j *j, size_t units)
{
	j->steps += units;
	if (j->steps > j->most_steps)
		return tn_j_fail(j, TN_E_LIMIT, "it does not come to an end within %llu steps",
				 (unsigned long long)j->most_steps);
	return TN_OK;
}

tn_status tn_j_enter(struct tn_j *j)
{
	if (j->depth >= DEEPEST)
		return tn_j_fail(j, TN_E_LIMIT, "it is nested, or calls itself, more than %d levels deep", DEEPEST);
	j->depth++;
	return tn_j_work(j, 1);
}

/* ---- strings ---------------------------------------------------------------------------------------------- */

static size_t count_chars(const char *text, size_t n)
{
	size_t chars = 0;
	for (size_t i = 0; i < n; i++)
		chars += ((unsigned char)text[i] & 0xC0) != 0x80;
	return chars;
}

tn_status tn_j_string_kept(struct tn_j *j, const char *text, size_t n, struct tn_jv *out)
{
	struct tn_jstr *s = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *s, &s));
	TN_TRY(tn_j_work(j, n / 64));
	s->text = text;
	s->bytes = n;
	s->chars = count_chars(text, n);
	*out = tn_jv_str(s);
	return TN_OK;
}

tn_status tn_j_string(struct tn_j *j, const char *text, size_t n, struct tn_jv *out)
{
	char *copy = NULL;
	TN_TRY(tn_j_alloc(j, n + 1, &copy));
	memcpy(copy, text, n);
	return tn_j_string_kept(j, copy, n, out);
}

/* Text of both in a new place, with room behind it when it is long. */
static tn_status join_apart(struct tn_j *j, const struct tn_jstr *a, const struct tn_jstr *b, size_t bytes,
			    struct tn_jstr *made)
{
	size_t capacity = bytes < ROOM_FROM ? bytes : bytes * 2;
	char *text = NULL;
	TN_TRY(tn_j_alloc(j, capacity, &text));
	memcpy(text, a->text, a->bytes);
	memcpy(text + a->bytes, b->text, b->bytes);
	made->text = text;
	if (capacity == bytes)
		return TN_OK;
	TN_TRY(tn_j_alloc(j, sizeof *made->room, &made->room));
	*made->room = (struct tn_jroom){ text, bytes, capacity };
	return TN_OK;
}

tn_status tn_j_concat(struct tn_j *j, const struct tn_jstr *a, const struct tn_jstr *b, struct tn_jv *out)
{
	struct tn_jstr *made = NULL;
	struct tn_jroom *room = a->room;
	size_t bytes;
	if (tn_add_size(a->bytes, b->bytes, &bytes) || bytes > j->limit / 2)
		return tn_j_fail(j, TN_E_LIMIT, "a text grows beyond %zu MiB", j->limit >> 21);
	TN_TRY(tn_j_alloc(j, sizeof *made, &made));
	if (room && a->text + a->bytes == room->begin + room->used && room->capacity - room->used >= b->bytes) {
		TN_TRY(tn_j_work(j, b->bytes / 64));
		memmove(room->begin + room->used, b->text, b->bytes);
		room->used += b->bytes;
		made->text = a->text;
		made->room = room;
	} else {
		TN_TRY(join_apart(j, a, b, bytes, made));
	}
	made->bytes = bytes;
	made->chars = a->chars + b->chars;
	*out = tn_jv_str(made);
	return TN_OK;
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

tn_status tn_j_list(struct tn_j *j, size_t n, struct tn_jlist **out)
{
	struct tn_jlist *list = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *list, &list));
	TN_TRY(tn_j_array(j, n, sizeof *list->items, &list->items));
	list->count = n;
	*out = list;
	return TN_OK;
}

tn_status tn_j_pair(struct tn_j *j, struct tn_jv a, struct tn_jv b, struct tn_jv *out)
{
	struct tn_jlist *pair;
	TN_TRY(tn_j_list(j, 2, &pair));
	pair->items[0] = a;
	pair->items[1] = b;
	*out = tn_jv_tuple(pair);
	return TN_OK;
}

/* ---- undefined -------------------------------------------------------------------------------------------- */

static tn_status make_undefined(struct tn_j *j, const char *hint, struct tn_jv object, struct tn_jv name,
				struct tn_jv *out)
{
	struct tn_jundefined *made = NULL;
	TN_TRY(tn_j_alloc(j, sizeof *made, &made));
	made->hint = hint;
	made->object = object;
	made->name = name;
	*out = (struct tn_jv){ .kind = TN_J_UNDEFINED, .as.undefined = made };
	return TN_OK;
}

tn_status tn_j_undefined_name(struct tn_j *j, struct tn_jstr *name, struct tn_jv *out)
{
	return make_undefined(j, NULL, tn_jv_absent(), tn_jv_str(name), out);
}

tn_status tn_j_undefined_in(struct tn_j *j, struct tn_jv object, struct tn_jv name, struct tn_jv *out)
{
	return make_undefined(j, NULL, object, name, out);
}

tn_status tn_j_undefined_hint(struct tn_j *j, const char *hint, struct tn_jv *out)
{
	return make_undefined(j, hint, tn_jv_absent(), tn_jv_absent(), out);
}

tn_status tn_j_fail_undefined(struct tn_j *j, struct tn_jv v)
{
	const struct tn_jundefined *u = v.as.undefined;
	struct tn_jv name;
	if (u->hint)
		return tn_j_fail(j, TN_E_MISMATCH, "%s", u->hint);
	TN_TRY(tn_j_repr(j, u->name, &name));
	int n = name.as.str->bytes < 120 ? (int)name.as.str->bytes : 120;
	if (!tn_jv_is_given(u->object))
		return tn_j_fail(j, TN_E_MISMATCH, "%.*s is undefined", n, name.as.str->text);
	if (!tn_jv_is_string(u->name))
		return tn_j_fail(j, TN_E_MISMATCH, "%s object has no element %.*s", tn_j_type_name(u->object), n,
				 name.as.str->text);
	return tn_j_fail(j, TN_E_MISMATCH, u->object.kind == TN_J_NONE ? "'%s' has no attribute %.*s" :
			 "'%s object' has no attribute %.*s",
			 u->object.kind == TN_J_NONE ? "None" : tn_j_type_name(u->object), n, name.as.str->text);
}
