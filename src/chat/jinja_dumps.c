/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_print.h"

#include "chat/jinja_call.h"
#include "chat/jinja_unicode.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static tn_status dump(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, const struct tn_jdumps *style, size_t depth);

static tn_status dump_escape(struct tn_j *j, struct tn_jbuffer *b, uint32_t code)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
	char form[16];
	const char *found = code && code < 0x80 ? strchr(plain, (int)code) : NULL;
	if (found)
		snprintf(form, sizeof form, "\\%c", letters[found - plain]);
	else if (code < 0x10000)
		snprintf(form, sizeof form, "\\u%04x", (unsigned)code);
	else
		snprintf(form, sizeof form, "\\u%04x\\u%04x", (unsigned)(0xD800 + ((code - 0x10000) >> 10)),
			 (unsigned)(0xDC00 + (code & 0x3FF)));
	return tn_jb_puts(j, b, form);
}

static tn_status dump_string(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jstr *s, int ascii)
{
	const char *p = s->text, *end = p + s->bytes, *begin = p;
	TN_TRY(tn_j_work(j, s->bytes / 16));
	TN_TRY(tn_jb_puts(j, b, "\""));
	while (p < end) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		if (code >= 0x20 && code != '"' && code != '\\' && (code < 0x7F || !ascii))
			continue;
		TN_TRY(tn_jb_add(j, b, begin, (size_t)(here - begin)));
		TN_TRY(dump_escape(j, b, code));
		begin = p;
	}
	TN_TRY(tn_jb_add(j, b, begin, (size_t)(end - begin)));
	return tn_jb_puts(j, b, "\"");
}

static tn_status dump_double(struct tn_j *j, struct tn_jbuffer *b, double value)
{
	if (isnan(value) || isinf(value))
		return tn_jb_puts(j, b, isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity");
	return tn_j_print_double(j, b, value);
}

static tn_status dump_break(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jdumps *style, size_t depth)
{
	if (!style->indent)
		return TN_OK;
	TN_TRY(tn_jb_puts(j, b, "\n"));
	return tn_jb_repeat(j, b, style->indent->text, style->indent->bytes, depth);
}

static tn_status dump_list(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jlist *list, const struct tn_jdumps *style,
			   size_t depth)
{
	if (!list->count)
		return tn_jb_puts(j, b, "[]");
	TN_TRY(tn_jb_puts(j, b, "["));
	for (size_t i = 0; i < list->count; i++) {
		if (i)
			TN_TRY(tn_jb_add(j, b, style->item_separator->text, style->item_separator->bytes));
		TN_TRY(dump_break(j, b, style, depth + 1));
		TN_TRY(dump(j, b, list->items[i], style, depth + 1));
	}
	TN_TRY(dump_break(j, b, style, depth));
	return tn_jb_puts(j, b, "]");
}

/* Keys that are not strings are written as JSON has them, in quotes. */
static tn_status dump_key(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv key, int ascii)
{
	struct tn_jbuffer text = { 0 };
	struct tn_jv name;
	if (tn_jv_is_string(key))
		return dump_string(j, b, key.as.str, ascii);
	if (!tn_jv_is_number(key) && key.kind != TN_J_NONE)
		return tn_j_fail(j, TN_E_MISMATCH, "keys must be str, int, float, bool or None, not %s", tn_j_type_name(key));
	TN_TRY(dump(j, &text, key, NULL, 0));
	TN_TRY(tn_jb_string(j, &text, &name));
	return dump_string(j, b, name.as.str, ascii);
}

static tn_status dump_dict(struct tn_j *j, struct tn_jbuffer *b, struct tn_jdict *dict, const struct tn_jdumps *style, size_t depth)
{
	struct tn_jlist *order;
	if (!dict->count)
		return tn_jb_puts(j, b, "{}");
	TN_TRY(tn_j_list(j, dict->count, &order));
	for (size_t i = 0; i < dict->count; i++)
		TN_TRY(tn_j_pair(j, dict->entries[i].key, dict->entries[i].value, &order->items[i]));
	if (style->sort_keys)
		TN_TRY(tn_j_sort(j, order, tn_j_first_of_pair, NULL, 0));
	TN_TRY(tn_jb_puts(j, b, "{"));
	for (size_t i = 0; i < order->count; i++) {
		const struct tn_jv *pair = order->items[i].as.list->items;
		if (i)
			TN_TRY(tn_jb_add(j, b, style->item_separator->text, style->item_separator->bytes));
		TN_TRY(dump_break(j, b, style, depth + 1));
		TN_TRY(dump_key(j, b, pair[0], style->ascii));
		TN_TRY(tn_jb_add(j, b, style->key_separator->text, style->key_separator->bytes));
		TN_TRY(dump(j, b, pair[1], style, depth + 1));
	}
	TN_TRY(dump_break(j, b, style, depth));
	return tn_jb_puts(j, b, "}");
}

static tn_status dump_kind(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, const struct tn_jdumps *style, size_t depth)
{
	switch (v.kind) {
	case TN_J_NONE: return tn_jb_puts(j, b, "null");
	case TN_J_BOOL: return tn_jb_puts(j, b, v.as.integer ? "true" : "false");
	case TN_J_INT:
	case TN_J_BIG: return tn_j_print_repr(j, b, v);
	case TN_J_FLOAT: return dump_double(j, b, v.as.real);
	case TN_J_STRING: return dump_string(j, b, v.as.str, style->ascii);
	case TN_J_LIST:
	case TN_J_TUPLE: return dump_list(j, b, v.as.list, style, depth);
	case TN_J_DICT: return dump_dict(j, b, v.as.dict, style, depth);
	default: return tn_j_fail(j, TN_E_MISMATCH, "Object of type %s is not JSON serializable", tn_j_type_name(v));
	}
}

static tn_status dump(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, const struct tn_jdumps *style, size_t depth)
{
	TN_TRY(tn_j_enter(j));
	TN_TRY(dump_kind(j, b, v, style, depth));
	tn_j_leave(j);
	return TN_OK;
}

tn_status tn_j_dumps(struct tn_j *j, struct tn_jv v, const struct tn_jdumps *style, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	TN_TRY(dump(j, &b, v, style, 0));
	return tn_jb_string(j, &b, out);
}
