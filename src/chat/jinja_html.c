/* SPDX-License-Identifier: Apache-2.0 */
/* Filters for HTML and URLs. */
#include "chat/jinja_call.h"

#include <stdio.h>
#include <string.h>

static tn_status escape_text(struct tn_j *j, const struct tn_jstr *s, struct tn_jv *out)
{
	static const char marks[] = "&<>'\"";
	static const char *const forms[] = { "&amp;", "&lt;", "&gt;", "&#39;", "&#34;" };
	struct tn_jbuffer b = { 0 };
	TN_TRY(tn_j_work(j, s->bytes / 16));
	for (size_t i = 0; i < s->bytes; i++) {
		const char *mark = s->text[i] ? strchr(marks, s->text[i]) : NULL;
		TN_TRY(mark ? tn_jb_puts(j, &b, forms[mark - marks]) : tn_jb_add(j, &b, s->text + i, 1));
	}
	TN_TRY(tn_jb_string(j, &b, out));
	out->as.str->markup = 1;
	return TN_OK;
}

tn_status tn_j_escape(struct tn_j *j, struct tn_jv v, struct tn_jv *out)
{
	*out = v;
	if (tn_jv_is_string(v) && v.as.str->markup)
		return TN_OK;
	TN_TRY(tn_j_str(j, v, &v));
	return escape_text(j, v.as.str, out);
}

static tn_status only(struct tn_j *j, const char *name, const struct tn_jargs *args, struct tn_jv *out)
{
	static const char *const names[] = { "value", NULL };
	return tn_j_parameters(j, name, args, names, 1, out);
}

static tn_status filter_escape(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jv v;
	TN_TRY(only(j, "escape", args, &v));
	return tn_j_escape(j, v, out);
}

static tn_status filter_forceescape(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jv v;
	TN_TRY(only(j, "forceescape", args, &v));
	TN_TRY(tn_j_str(j, v, &v));
	return escape_text(j, v.as.str, out);
}

static tn_status filter_safe(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jv v;
	TN_TRY(only(j, "safe", args, &v));
	TN_TRY(tn_j_str(j, v, &v));
	TN_TRY(tn_j_string_kept(j, v.as.str->text, v.as.str->bytes, out));
	out->as.str->markup = 1;
	return TN_OK;
}

/* Letters, digits, _.-~ and, in a path, / stay; in a query a blank becomes +. */
static tn_status quote(struct tn_j *j, struct tn_jbuffer *b, struct tn_jv v, int query)
{
	TN_TRY(tn_j_str(j, v, &v));
	for (size_t i = 0; i < v.as.str->bytes; i++) {
		unsigned char c = (unsigned char)v.as.str->text[i];
		char form[4];
		int plain = (c >= '0' && c <= '9') || (unsigned)((c | 32) - 'a') < 26u ||
			    (c && strchr(query ? "_.-~" : "_.-~/", c));
		snprintf(form, sizeof form, plain ? "%c" : "%%%02X", c);
		TN_TRY(tn_jb_puts(j, b, query && c == ' ' ? "+" : form));
	}
	return TN_OK;
}

static tn_status filter_urlencode(struct tn_j *j, const struct tn_jargs *args, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	struct tn_jlist *pairs, *pair;
	struct tn_jv v;
	TN_TRY(only(j, "urlencode", args, &v));
	if (tn_jv_is_string(v) || !tn_j_is_iterable(v)) {
		TN_TRY(quote(j, &b, v, 0));
		return tn_jb_string(j, &b, out);
	}
	struct tn_jview view = { TN_J_ITEMS, v.kind == TN_J_DICT ? v.as.dict : NULL };
	TN_TRY(tn_j_to_list(j, v.kind == TN_J_DICT ? (struct tn_jv){ .kind = TN_J_VIEW, .as.view = &view } : v, &pairs));
	for (size_t i = 0; i < pairs->count; i++) {
		TN_TRY(tn_j_to_list(j, pairs->items[i], &pair));
		if (pair->count != 2)
			return tn_j_fail(j, TN_E_MISMATCH, "urlencode needs pairs of a name and a value");
		TN_TRY(tn_jb_puts(j, &b, i ? "&" : ""));
		TN_TRY(quote(j, &b, pair->items[0], 1));
		TN_TRY(tn_jb_puts(j, &b, "="));
		TN_TRY(quote(j, &b, pair->items[1], 1));
	}
	return tn_jb_string(j, &b, out);
}

const struct tn_jfilter_entry tn_j_html_filters[] = {
	{ "e", filter_escape }, { "escape", filter_escape }, { "forceescape", filter_forceescape }, { "safe", filter_safe },
	{ "urlencode", filter_urlencode }, { NULL, NULL },
};
