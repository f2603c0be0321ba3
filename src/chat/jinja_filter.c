/* SPDX-License-Identifier: Apache-2.0 */
/* Finding filters; those on texts. */
#include "chat/jinja_call.h"

#include "chat/jinja_unicode.h"

#include <stdio.h>
#include <string.h>

static const struct tn_jfilter_entry *const tables[] = { tn_j_text_filters, tn_j_number_filters, tn_j_list_filters,
							 tn_j_lazy_filters, tn_j_html_filters };

tn_jfilter *tn_j_find_filter(const struct tn_jstr *name)
{
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
		for (const struct tn_jfilter_entry *entry = tables[i]; entry->name; entry++)
			if (tn_js_is(name, entry->name))
				return entry->call;
	return NULL;
}

static const char *refused(const struct tn_jstr *name)
{
	static const char *const names[] = { "random", "pprint", "urlize", "xmlattr", "filesizeformat", "wordwrap", "striptags" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (tn_js_is(name, names[i]))
			return names[i];
	return NULL;
}

int tn_j_knows_filter(const struct tn_jstr *name)
{
	return tn_j_find_filter(name) || refused(name);
}

tn_status tn_j_filter(struct tn_j *j, const struct tn_jstr *name, const struct tn_jargs *args, struct tn_jv *out)
{
	tn_jfilter *call = tn_j_find_filter(name);
	if (call) {
		TN_TRY(tn_j_enter(j));
		TN_TRY(call(j, args, out));
		tn_j_leave(j);
		return TN_OK;
	}
	if (refused(name))
		return tn_j_fail(j, TN_E_UNSUPPORTED, "the filter '%s' is not supported", refused(name));
	return tn_j_fail(j, TN_E_FORMAT, "No filter named '%.*s'.", name->bytes < 80 ? (int)name->bytes : 80, name->text);
}

/* ---- on texts --------------------------------------------------------------------------------------------- */

/* The only value of a filter that takes no more, as a text. */
static tn_status only_text(struct tn_j *j, const char *name, const struct tn_jargs *args, struct tn_jstr **out)
{
	static const char *const names[] = { "value", NULL };
	struct tn_jv v;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, &v));
	TN_TRY(tn_j_str(j, v, &v));
	*out = v.as.str;
	return TN_OK;
}

static tn_status filter_upper(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jstr *s;
	TN_TRY(only_text(j, "upper", args, &s));
	return tn_j_change_case(j, s, 1, out);
}

static tn_status filter_lower(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jstr *s;
	TN_TRY(only_text(j, "lower", args, &s));
	return tn_j_change_case(j, s, 0, out);
}

static tn_status filter_capitalize(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jstr *s;
	TN_TRY(only_text(j, "capitalize", args, &s));
	return tn_j_capitalize(j, s, out);
}

static int parts_words(uint32_t code)
{
	return tn_u_is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
}

/* The first character of a word is in upper case, the rest in lower, by the rules of whole texts. */
static tn_status add_word(struct tn_j *j, struct tn_jbuffer *b, const char *begin, const char *end)
{
	const char *rest = begin;
	struct tn_jv first, others;
	tn_u_next(&rest);
	TN_TRY(tn_j_string_kept(j, begin, (size_t)(rest - begin), &first));
	TN_TRY(tn_j_change_case(j, first.as.str, 1, &first));
	TN_TRY(tn_j_string_kept(j, rest, (size_t)(end - rest), &others));
	TN_TRY(tn_j_change_case(j, others.as.str, 0, &others));
	TN_TRY(tn_j_print(j, b, first));
	return tn_j_print(j, b, others);
}

static tn_status filter_title(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jstr *s;
	struct tn_jbuffer b = { 0 };
	TN_TRY(only_text(j, "title", args, &s));
	const char *p = s->text, *end = p + s->bytes, *word = p;
	while (p < end) {
		const char *here = p;
		if (!parts_words(tn_u_next(&p)))
			continue;
		if (here > word)
			TN_TRY(add_word(j, &b, word, here));
		TN_TRY(tn_jb_add(j, &b, here, (size_t)(p - here)));
		word = p;
	}
	if (end > word)
		TN_TRY(add_word(j, &b, word, end));
	return tn_jb_string(j, &b, out);
}

static tn_status filter_trim(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "chars", NULL };
	struct tn_jv v[2];
	struct tn_jstr *chars = NULL;
	TN_TRY(tn_j_parameters(j, "trim", args, names, 1, v));
	TN_TRY(tn_j_str(j, v[0], &v[0]));
	if (tn_jv_is_given(v[1]) && v[1].kind != TN_J_NONE)
		TN_TRY(tn_j_want_string(j, "trim", v[1], &chars));
	return tn_js_strip(j, v[0].as.str, chars, 1, 1, out);
}

static tn_status filter_replace(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "s", "old", "new", "count", NULL };
	struct tn_jv v[4];
	int64_t most;
	TN_TRY(tn_j_parameters(j, "replace", args, names, 3, v));
	for (int i = 0; i < 3; i++)
		TN_TRY(tn_j_str(j, v[i], &v[i]));
	TN_TRY(tn_j_want_int(j, "replace", v[3].kind == TN_J_NONE ? tn_jv_absent() : v[3], -1, &most));
	return tn_js_replace(j, v[0].as.str, v[1].as.str, v[2].as.str, most, out);
}

static tn_status filter_string(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "object", NULL };
	TN_TRY(tn_j_parameters(j, "string", args, names, 1, out));
	return tn_j_str(j, *out, out);
}

static tn_status filter_center(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", "width", NULL };
	struct tn_jv v[2], center, name;
	TN_TRY(tn_j_parameters(j, "center", args, names, 1, v));
	TN_TRY(tn_j_str(j, v[0], &v[0]));
	TN_TRY(tn_j_text(j, "center", &name));
	TN_TRY(tn_j_own_attribute(j, v[0], name, &center));
	struct tn_jv width = tn_jv_is_given(v[1]) ? v[1] : tn_jv_int(80);
	struct tn_jargs one = { .count = 1, .items = &width };
	return tn_j_call(j, center, &one, out);
}

static tn_status filter_indent(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "s", "width", "first", "blank", NULL };
	struct tn_jstr newline = { .text = "\n", .bytes = 1, .chars = 1 }, *s;
	struct tn_jv v[4], lines;
	struct tn_jbuffer indent = { 0 }, b = { 0 };
	int64_t width = 0;
	TN_TRY(tn_j_parameters(j, "indent", args, names, 1, v));
	TN_TRY(tn_j_binary(j, TN_JO_ADD, v[0], tn_jv_str(&newline), &lines));
	if (tn_jv_is_string(v[1]))
		TN_TRY(tn_j_print(j, &indent, v[1]));
	else
		TN_TRY(tn_j_want_int(j, "indent", v[1], 4, &width));
	TN_TRY(tn_jb_repeat(j, &indent, " ", 1, width > 0 ? (size_t)width : 0));
	s = lines.as.str;
	TN_TRY(tn_js_splitlines(j, s, 0, &lines));
	for (size_t i = 0; i < lines.as.list->count; i++) {
		struct tn_jv line = lines.as.list->items[i];
		if (i)
			TN_TRY(tn_jb_puts(j, &b, "\n"));
		if (i ? tn_j_truth(v[3]) || line.as.str->bytes : tn_j_truth(v[2]))
			TN_TRY(tn_jb_add(j, &b, indent.data, indent.length));
		TN_TRY(tn_j_print(j, &b, line));
	}
	return tn_jb_string(j, &b, out);
}

/* Up to the last blank within the first `n` code points. */
static tn_status cut_words(struct tn_j *j, const struct tn_jstr *s, size_t n, int words, struct tn_jbuffer *b)
{
	const char *begin;
	size_t bytes;
	tn_js_span(s, 0, n, &begin, &bytes);
	const char *blank = words ? memrchr(begin, ' ', bytes) : NULL;
	return tn_jb_add(j, b, begin, blank ? (size_t)(blank - begin) : bytes);
}

static tn_status filter_truncate(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "s", "length", "killwords", "end", "leeway", NULL };
	struct tn_jstr dots = { .text = "...", .bytes = 3, .chars = 3 }, *s, *end = &dots;
	struct tn_jv v[5];
	struct tn_jbuffer b = { 0 };
	int64_t length, leeway;
	size_t chars;
	int known;
	TN_TRY(tn_j_parameters(j, "truncate", args, names, 1, v));
	TN_TRY(tn_j_length(j, v[0], &chars, &known));
	TN_TRY(tn_j_want_int(j, "truncate", v[1], 255, &length));
	if (tn_jv_is_given(v[3]))
		TN_TRY(tn_j_want_string(j, "truncate", v[3], &end));
	TN_TRY(tn_j_want_int(j, "truncate", v[4].kind == TN_J_NONE ? tn_jv_absent() : v[4], 5, &leeway));
	if (length < (int64_t)end->chars || leeway < 0 || leeway > INT64_MAX / 2 || length > INT64_MAX / 2)
		return tn_j_fail(j, TN_E_MISMATCH, "expected length >= %zu and leeway >= 0", end->chars);
	if (known && (int64_t)chars <= length + leeway) {
		*out = v[0];
		return TN_OK;
	}
	TN_TRY(tn_j_want_string(j, "truncate", v[0], &s));
	TN_TRY(cut_words(j, s, (size_t)length - end->chars, !tn_j_truth(v[2]), &b));
	TN_TRY(tn_jb_add(j, &b, end->text, end->bytes));
	return tn_jb_string(j, &b, out);
}

static tn_status filter_wordcount(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jstr *s;
	int64_t words = 0;
	int inside = 0;
	TN_TRY(only_text(j, "wordcount", args, &s));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;) {
		uint32_t code = tn_u_next(&p);
		int is = code == '_' || (tn_u_classes(code) & (TN_U_ALPHA | TN_U_DECIMAL | TN_U_DIGIT | TN_U_NUMERIC));
		words += is && !inside;
		inside = is;
	}
	*out = tn_jv_int(words);
	return TN_OK;
}

static tn_status filter_format(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jv text, values;
	if (args->count > 1 && args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "can't handle positional and keyword arguments at the same time");
	TN_TRY(tn_j_str(j, args->items[0], &text));
	if (args->named_count) {
		struct tn_jdict *dict;
		TN_TRY(tn_jd_new(j, &dict));
		for (size_t i = 0; i < args->named_count; i++)
			TN_TRY(tn_jd_set(j, dict, tn_jv_str(args->names[i]), args->named[i]));
		values = tn_jv_dict(dict);
	} else {
		struct tn_jlist *list;
		TN_TRY(tn_j_list(j, args->count - 1, &list));
		for (size_t i = 0; i < list->count; i++)
			list->items[i] = args->items[i + 1];
		values = tn_jv_tuple(list);
	}
	return tn_j_percent(j, text.as.str, values, out);
}

/* json.dumps(indent=...): a number of blanks, or a text; none: all on one line. */
static tn_status json_indent(struct tn_j *j, struct tn_jv v, const struct tn_jstr **out)
{
	struct tn_jbuffer b = { 0 };
	int64_t n;
	*out = NULL;
	if (!tn_jv_is_given(v) || v.kind == TN_J_NONE)
		return TN_OK;
	if (!tn_jv_is_string(v)) {
		TN_TRY(tn_j_want_int(j, "tojson", v, 0, &n));
		TN_TRY(tn_jb_repeat(j, &b, " ", 1, n > 0 ? (size_t)n : 0));
		TN_TRY(tn_jb_string(j, &b, &v));
	}
	*out = v.as.str;
	return TN_OK;
}

static tn_status filter_tojson(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "x", "ensure_ascii", "indent", "separators", "sort_keys", NULL };
	static const struct tn_jstr comma = { .text = ",", .bytes = 1, .chars = 1 },
				    blank = { .text = ", ", .bytes = 2, .chars = 2 },
				    colon = { .text = ": ", .bytes = 2, .chars = 2 };
	struct tn_jv v[5];
	struct tn_jdumps style = { .key_separator = &colon };
	TN_TRY(tn_j_parameters(j, "tojson", args, names, 1, v));
	TN_TRY(json_indent(j, v[2], &style.indent));
	style.item_separator = style.indent ? &comma : &blank;
	if (tn_jv_is_given(v[3]) && v[3].kind != TN_J_NONE) {
		struct tn_jlist *pair;
		TN_TRY(tn_j_to_list(j, v[3], &pair));
		if (pair->count != 2 || !tn_jv_is_string(pair->items[0]) || !tn_jv_is_string(pair->items[1]))
			return tn_j_fail(j, TN_E_MISMATCH, "the separators of tojson must be two texts");
		style.item_separator = pair->items[0].as.str;
		style.key_separator = pair->items[1].as.str;
	}
	style.ascii = tn_j_truth(v[1]);
	style.sort_keys = tn_j_truth(v[4]);
	return tn_j_dumps(j, v[0], &style, out);
}

const struct tn_jfilter_entry tn_j_text_filters[] = {
	{ "upper", filter_upper }, { "lower", filter_lower }, { "capitalize", filter_capitalize }, { "title", filter_title },
	{ "trim", filter_trim }, { "replace", filter_replace }, { "string", filter_string }, { "center", filter_center },
	{ "indent", filter_indent }, { "truncate", filter_truncate }, { "wordcount", filter_wordcount },
	{ "format", filter_format }, { "tojson", filter_tojson }, { NULL, NULL },
};
