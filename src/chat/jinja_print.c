/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_print.h"

#include "chat/jinja_call.h"
#include "chat/jinja_unicode.h"
#include "store/json_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- buffers ---------------------------------------------------------------------------------------------- */

tn_status tn_jb_add(struct tn_j *j, struct tn_jbuffer *b, const char *text, size_t n)
{
	if (n > b->capacity - b->length) {
		if (n > j->limit)
			return tn_j_fail(j, TN_E_LIMIT, "a text grows beyond %zu MiB", j->limit >> 20);
		TN_TRY(tn_j_grow(j, &b->data, &b->capacity, b->length, b->length + n, 1));
	}
	if (n)
		memcpy(b->data + b->length, text, n);
	b->length += n;
	return tn_j_work(j, n / 64);
}

tn_status tn_jb_puts(struct tn_j *j, struct tn_jbuffer *b, const char *text)
{
	return tn_jb_add(j, b, text, strlen(text));
}

tn_status tn_jb_code(struct tn_j *j, struct tn_jbuffer *b, uint32_t code)
{
	char utf8[4];
	return tn_jb_add(j, b, utf8, tn_u_write(code, utf8));
}

tn_status tn_jb_repeat(struct tn_j *j, struct tn_jbuffer *b, const char *text, size_t n, size_t times)
{
	if (n && times > j->limit / n)
		return tn_j_fail(j, TN_E_LIMIT, "a text grows beyond %zu MiB", j->limit >> 20);
	for (size_t i = 0; i < times && n; i++)
		TN_TRY(tn_jb_add(j, b, text, n));
	return TN_OK;
}

tn_status tn_jb_string(struct tn_j *j, const struct tn_jbuffer *b, struct tn_jv *out)
{
	return tn_j_string_kept(j, b->data ? b->data : "", b->length, out);
}

/* ---- numbers ---------------------------------------------------------------------------------------------- */

tn_status tn_j_print_double(struct tn_j *j, struct tn_jbuffer *b, double value)
{
	struct tn_text text;
	if (isnan(value) || isinf(value))
		return tn_jb_puts(j, b, isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
	tn_text_init(&text, j->arena.ctx);
	tn_status status = tn_json_add_double(&text, value, j->err);
	if (status == TN_OK)
		status = tn_jb_add(j, b, text.data, text.length);
	tn_text_release(&text);
	return status;
}

static tn_status print_int(struct tn_j *j, struct tn_jbuffer *b, int64_t value)
{
	char digits[24];
	int n = snprintf(digits, sizeof digits, "%" PRId64, value);
	return tn_jb_add(j, b, digits, (size_t)n);
}

/* ---- repr ------------------------------------------------------------------------------------------------- */

static tn_status repr_escape(struct tn_j *j, struct tn_jbuffer *b, uint32_t code, char quote)
{
	char form[12];
	if (code == '\\' || code == (unsigned char)quote)
		snprintf(form, sizeof form, "\\%c", (int)code);
	else if (code == '\n' || code == '\r' || code == '\t')
		snprintf(form, sizeof form, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
	else
		snprintf(form, sizeof form, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)code);
	return tn_jb_puts(j, b, form);
}

static int is_plain(uint32_t code, char quote)
{
	if (code < 0x7F)
		return code >= ' ' && code != '\\' && code != (unsigned char)quote;
	return (tn_u_classes(code) & TN_U_PRINTABLE) != 0;
}

static tn_status repr_string(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jstr *s)
{
	const char *p = s->text, *end = p + s->bytes, *begin = p;
	char quote = memchr(p, '\'', s->bytes) && !memchr(p, '"', s->bytes) ? '"' : '\'';
	TN_TRY(tn_j_work(j, s->bytes / 16));
	if (s->markup)
		TN_TRY(tn_jb_puts(j, b, "Markup("));
	TN_TRY(tn_jb_add(j, b, &quote, 1));
	while (p < end) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		if (is_plain(code, quote))
			continue;
		TN_TRY(tn_jb_add(j, b, begin, (size_t)(here - begin)));
		TN_TRY(repr_escape(j, b, code, quote));
		begin = p;
	}
	TN_TRY(tn_jb_add(j, b, begin, (size_t)(end - begin)));
	TN_TRY(tn_jb_add(j, b, &quote, 1));
	return s->markup ? tn_jb_puts(j, b, ")") : TN_OK;
}

static tn_status repr_list(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jlist *list, const char *open, const char *close)
{
	TN_TRY(tn_jb_puts(j, b, open));
	for (size_t i = 0; i < list->count; i++) {
		if (i)
			TN_TRY(tn_jb_puts(j, b, ", "));
		TN_TRY(tn_j_print_repr(j, b, list->items[i]));
	}
	return tn_jb_puts(j, b, close);
}

static tn_status repr_dict(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jdict *dict)
{
	TN_TRY(tn_jb_puts(j, b, "{"));
	for (size_t i = 0; i < dict->count; i++) {
		if (i)
			TN_TRY(tn_jb_puts(j, b, ", "));
		TN_TRY(tn_j_print_repr(j, b, dict->entries[i].key));
		TN_TRY(tn_jb_puts(j, b, ": "));
		TN_TRY(tn_j_print_repr(j, b, dict->entries[i].value));
	}
	return tn_jb_puts(j, b, "}");
}

static tn_status repr_view(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v)
{
	const struct tn_jview *view = v.as.view;
	TN_TRY(tn_jb_puts(j, b, tn_j_type_name(v)));
	TN_TRY(tn_jb_puts(j, b, "(["));
	for (size_t i = 0; i < view->dict->count; i++) {
		struct tn_jv item;
		if (i)
			TN_TRY(tn_jb_puts(j, b, ", "));
		TN_TRY(tn_jd_show(j, view, i, &item));
		TN_TRY(tn_j_print_repr(j, b, item));
	}
	return tn_jb_puts(j, b, "])");
}

static tn_status repr_range(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jrange *r)
{
	TN_TRY(tn_jb_puts(j, b, "range("));
	TN_TRY(print_int(j, b, r->start));
	TN_TRY(tn_jb_puts(j, b, ", "));
	TN_TRY(print_int(j, b, r->stop));
	if (r->step != 1) {
		TN_TRY(tn_jb_puts(j, b, ", "));
		TN_TRY(print_int(j, b, r->step));
	}
	return tn_jb_puts(j, b, ")");
}

/* Things that Python shows with an address, and nobody means to show. */
static tn_status repr_object(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v)
{
	TN_TRY(tn_jb_puts(j, b, "<"));
	if (v.kind == TN_J_FUNC && v.as.func->macro) {
		struct tn_jv name = tn_jv_str(v.as.func->macro->name);
		TN_TRY(tn_jb_puts(j, b, "Macro "));
		TN_TRY(tn_j_print_repr(j, b, name));
	} else if (v.kind == TN_J_NAMESPACE) {
		TN_TRY(tn_jb_puts(j, b, "Namespace "));
		TN_TRY(repr_dict(j, b, v.as.dict));
	} else if (v.kind == TN_J_LOOP) {
		size_t length;
		TN_TRY(tn_jl_length(j, v.as.loop, &length));
		TN_TRY(tn_jb_puts(j, b, "LoopContext "));
		TN_TRY(print_int(j, b, (int64_t)v.as.loop->index));
		TN_TRY(tn_jb_puts(j, b, "/"));
		TN_TRY(print_int(j, b, (int64_t)length));
	} else {
		TN_TRY(tn_jb_puts(j, b, tn_j_type_name(v)));
		TN_TRY(tn_jb_puts(j, b, " object"));
	}
	return tn_jb_puts(j, b, ">");
}

static tn_status print_kind(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v)
{
	switch (v.kind) {
	case TN_J_UNDEFINED: return tn_jb_puts(j, b, "Undefined");
	case TN_J_NONE: return tn_jb_puts(j, b, "None");
	case TN_J_BOOL: return tn_jb_puts(j, b, v.as.integer ? "True" : "False");
	case TN_J_INT: return print_int(j, b, v.as.integer);
	case TN_J_BIG: return tn_jb_add(j, b, v.as.str->text, v.as.str->bytes);
	case TN_J_FLOAT: return tn_j_print_double(j, b, v.as.real);
	case TN_J_STRING: return repr_string(j, b, v.as.str);
	case TN_J_LIST: return repr_list(j, b, v.as.list, "[", "]");
	case TN_J_TUPLE: return repr_list(j, b, v.as.list, "(", v.as.list->count == 1 ? ",)" : ")");
	case TN_J_DICT: return repr_dict(j, b, v.as.dict);
	case TN_J_VIEW: return repr_view(j, b, v);
	case TN_J_RANGE: return repr_range(j, b, v.as.range);
	default: return repr_object(j, b, v);
	}
}

tn_status tn_j_print_repr(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v)
{
	TN_TRY(tn_j_enter(j));
	TN_TRY(print_kind(j, b, v));
	tn_j_leave(j);
	return TN_OK;
}

tn_status tn_j_repr(struct tn_j *j, struct tn_jv v, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	TN_TRY(tn_j_print_repr(j, &b, v));
	return tn_jb_string(j, &b, out);
}

tn_status tn_j_print(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v)
{
	if (v.kind == TN_J_UNDEFINED)
		return TN_OK;
	if (tn_jv_is_string(v))
		return tn_jb_add(j, b, v.as.str->text, v.as.str->bytes);
	return tn_j_print_repr(j, b, v);
}

tn_status tn_j_str(struct tn_j *j, struct tn_jv v, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	if (tn_jv_is_string(v)) {
		*out = v;
		return TN_OK;
	}
	TN_TRY(tn_j_print(j, &b, v));
	return tn_jb_string(j, &b, out);
}
