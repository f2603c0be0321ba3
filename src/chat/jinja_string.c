/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of str: cases, stripping, asking. */
#include "chat/jinja_call.h"

#include "chat/jinja_unicode.h"

#include <string.h>

/* ---- cases ------------------------------------------------------------------------------------------------ */

static tn_status put_mapped(struct tn_j *j, struct tn_jbuffer *b, uint32_t code, enum tn_u_case to)
{
	uint32_t codes[3];
	int n = tn_u_map(code, to, codes);
	for (int i = 0; i < n; i++)
		TN_TRY(tn_jb_code(j, b, codes[i]));
	return TN_OK;
}

static int is_cased(uint32_t code)
{
	return (tn_u_classes(code) & (TN_U_IS_LOWER | TN_U_IS_UPPER | TN_U_IS_TITLE)) != 0;
}

/* Marks that stand within words. */
static int is_within_words(uint32_t code)
{
	return code == '\'' || code == '.' || code == ':' || code == 0xAD || code == 0xB7 || code == 0x2019 ||
	       (code >= 0x300 && code <= 0x36F);
}

/* A capital sigma at the end of a word becomes the final one. */
static int is_final_sigma(const char *begin, const char *at, const char *end)
{
	const char *p = at;
	uint32_t code = 0;
	do {
		if (p == begin)
			return 0;
		do
			p--;
		while (((unsigned char)*p & 0xC0) == 0x80);
		const char *q = p;
		code = tn_u_next(&q);
	} while (is_within_words(code));
	if (!is_cased(code))
		return 0;
	for (p = at, tn_u_next(&p); p < end;) {
		code = tn_u_next(&p);
		if (!is_within_words(code))
			return !is_cased(code);
	}
	return 1;
}

static tn_status put_lower(struct tn_j *j, struct tn_jbuffer *b, const struct tn_jstr *s, const char *at)
{
	const char *p = at;
	uint32_t code = tn_u_next(&p);
	if (code == 0x3A3 && is_final_sigma(s->text, at, s->text + s->bytes))
		return tn_jb_code(j, b, 0x3C2);
	return put_mapped(j, b, code, TN_U_LOWER);
}

static tn_status finish(struct tn_j *j, const struct tn_jbuffer *b, const struct tn_jstr *of, struct tn_jv *out)
{
	TN_TRY(tn_jb_string(j, b, out));
	out->as.str->markup = of->markup;
	return TN_OK;
}

tn_status tn_j_change_case(struct tn_j *j, const struct tn_jstr *s, int upper, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		TN_TRY(upper ? put_mapped(j, &b, code, TN_U_UPPER) : put_lower(j, &b, s, here));
	}
	return finish(j, &b, s, out);
}

tn_status tn_j_capitalize(struct tn_j *j, const struct tn_jstr *s, struct tn_jv *out)
{
	struct tn_jbuffer b = { 0 };
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		TN_TRY(here == s->text ? put_mapped(j, &b, code, TN_U_TITLE) : put_lower(j, &b, s, here));
	}
	return finish(j, &b, s, out);
}

static tn_status no_arguments(struct tn_j *j, const char *name, const struct tn_jargs *args)
{
	if (args->count || args->named_count)
		return tn_j_fail(j, TN_E_MISMATCH, "str.%s() takes no arguments", name);
	return TN_OK;
}

static tn_status call_upper(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	TN_TRY(no_arguments(j, "upper", args));
	return tn_j_change_case(j, self.as.str, 1, out);
}

static tn_status call_lower(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	TN_TRY(no_arguments(j, "lower", args));
	return tn_j_change_case(j, self.as.str, 0, out);
}

/* Character by character: no letter looks at its neighbours. */
static tn_status call_casefold(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	struct tn_jbuffer b = { 0 };
	TN_TRY(no_arguments(j, "casefold", args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;)
		TN_TRY(put_mapped(j, &b, tn_u_next(&p), TN_U_FOLD));
	return finish(j, &b, s, out);
}

static tn_status call_capitalize(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	TN_TRY(no_arguments(j, "capitalize", args));
	return tn_j_capitalize(j, self.as.str, out);
}

static tn_status call_title(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	struct tn_jbuffer b = { 0 };
	int inside = 0;
	TN_TRY(no_arguments(j, "title", args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		TN_TRY(inside ? put_lower(j, &b, s, here) : put_mapped(j, &b, code, TN_U_TITLE));
		inside = is_cased(code);
	}
	return finish(j, &b, s, out);
}

static tn_status call_swapcase(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	struct tn_jbuffer b = { 0 };
	TN_TRY(no_arguments(j, "swapcase", args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;) {
		const char *here = p;
		uint32_t code = tn_u_next(&p);
		unsigned classes = tn_u_classes(code);
		if (classes & TN_U_IS_UPPER)
			TN_TRY(put_lower(j, &b, s, here));
		else
			TN_TRY(classes & TN_U_IS_LOWER ? put_mapped(j, &b, code, TN_U_UPPER) : tn_jb_code(j, &b, code));
	}
	return finish(j, &b, s, out);
}

/* ---- stripping -------------------------------------------------------------------------------------------- */

static int is_among(uint32_t code, const struct tn_jstr *chars)
{
	if (!chars)
		return tn_u_is_space(code);
	for (const char *p = chars->text, *end = p + chars->bytes; p < end;)
		if (tn_u_next(&p) == code)
			return 1;
	return 0;
}

tn_status tn_js_strip(struct tn_j *j, const struct tn_jstr *s, const struct tn_jstr *chars, int left, int right, struct tn_jv *out)
{
	const char *begin = s->text, *end = begin + s->bytes;
	while (left && begin < end) {
		const char *p = begin;
		if (!is_among(tn_u_next(&p), chars))
			break;
		begin = p;
	}
	while (right && end > begin) {
		const char *p = end - 1;
		while (((unsigned char)*p & 0xC0) == 0x80)
			p--;
		const char *q = p;
		if (!is_among(tn_u_next(&q), chars))
			break;
		end = p;
	}
	TN_TRY(tn_j_work(j, (s->bytes - (size_t)(end - begin)) / 8));
	TN_TRY(tn_j_string_kept(j, begin, (size_t)(end - begin), out));
	out->as.str->markup = s->markup;
	return TN_OK;
}

static tn_status strip_by(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int left, int right,
			  struct tn_jv *out)
{
	static const char *const names[] = { "/chars", NULL };
	struct tn_jv chars;
	struct tn_jstr *set = NULL;
	TN_TRY(tn_j_parameters(j, name, args, names, 0, &chars));
	if (tn_jv_is_given(chars) && chars.kind != TN_J_NONE)
		TN_TRY(tn_j_want_string(j, name, chars, &set));
	return tn_js_strip(j, self.as.str, set, left, right, out);
}

static tn_status call_strip(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return strip_by(j, "strip", self, args, 1, 1, out);
}

static tn_status call_lstrip(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return strip_by(j, "lstrip", self, args, 1, 0, out);
}

static tn_status call_rstrip(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return strip_by(j, "rstrip", self, args, 0, 1, out);
}

static tn_status remove_end(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, int suffix,
			    struct tn_jv *out)
{
	static const char *const names[] = { "/affix", NULL };
	const struct tn_jstr *s = self.as.str;
	struct tn_jv v;
	struct tn_jstr *affix;
	TN_TRY(tn_j_parameters(j, name, args, names, 1, &v));
	TN_TRY(tn_j_want_string(j, name, v, &affix));
	size_t n = affix->bytes;
	if (n > s->bytes || memcmp(suffix ? s->text + s->bytes - n : s->text, affix->text, n) != 0)
		n = 0;
	return tn_j_string_kept(j, s->text + (suffix ? 0 : n), s->bytes - n, out);
}

static tn_status call_removeprefix(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return remove_end(j, "removeprefix", self, args, 0, out);
}

static tn_status call_removesuffix(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return remove_end(j, "removesuffix", self, args, 1, out);
}

/* ---- asking ----------------------------------------------------------------------------------------------- */

/* Every character is in one of the classes, and there is one. */
static tn_status all_in(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, unsigned classes,
			struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	int all = s->bytes > 0;
	TN_TRY(no_arguments(j, name, args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end && all;)
		all = (tn_u_classes(tn_u_next(&p)) & classes) != 0;
	*out = tn_jv_bool(all);
	return TN_OK;
}

#define ASK(name, classes)                                                                                            \
	static tn_status call_##name(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out) \
	{                                                                                                             \
		return all_in(j, #name, self, args, classes, out);                                                    \
	}
ASK(isalpha, TN_U_ALPHA)
ASK(isalnum, TN_U_ALPHA | TN_U_DECIMAL | TN_U_DIGIT | TN_U_NUMERIC)
ASK(isdecimal, TN_U_DECIMAL)
ASK(isdigit, TN_U_DIGIT)
ASK(isnumeric, TN_U_NUMERIC)

/* Cased characters are all of one case, and there is one. */
static tn_status one_case(struct tn_j *j, const char *name, struct tn_jv self, const struct tn_jargs *args, unsigned wanted,
			  struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	unsigned seen = 0;
	TN_TRY(no_arguments(j, name, args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end;)
		seen |= tn_u_classes(tn_u_next(&p)) & (TN_U_IS_LOWER | TN_U_IS_UPPER | TN_U_IS_TITLE);
	*out = tn_jv_bool(seen == wanted);
	return TN_OK;
}

static tn_status call_islower(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return one_case(j, "islower", self, args, TN_U_IS_LOWER, out);
}

static tn_status call_isupper(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	return one_case(j, "isupper", self, args, TN_U_IS_UPPER, out);
}

static tn_status call_istitle(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	int inside = 0, is = 1, cased = 0;
	TN_TRY(no_arguments(j, "istitle", args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end && is;) {
		unsigned classes = tn_u_classes(tn_u_next(&p));
		int capital = (classes & (TN_U_IS_UPPER | TN_U_IS_TITLE)) != 0, small = (classes & TN_U_IS_LOWER) != 0;
		is = capital ? !inside : !small || inside;
		inside = capital || small;
		cased |= inside;
	}
	*out = tn_jv_bool(is && cased);
	return TN_OK;
}

static tn_status call_isspace(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	TN_TRY(no_arguments(j, "isspace", args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	*out = tn_jv_bool(s->bytes && tn_u_lstrip(s->text, s->bytes) == s->bytes);
	return TN_OK;
}

static tn_status call_isascii(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	TN_TRY(no_arguments(j, "isascii", args));
	*out = tn_jv_bool(self.as.str->bytes == self.as.str->chars);
	return TN_OK;
}

static tn_status call_isprintable(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	if (!self.as.str->bytes) {
		*out = tn_jv_bool(1);
		return TN_OK;
	}
	return all_in(j, "isprintable", self, args, TN_U_PRINTABLE, out);
}

static tn_status call_isidentifier(struct tn_j *j, struct tn_jv self, const struct tn_jargs *args, struct tn_jv *out)
{
	const struct tn_jstr *s = self.as.str;
	int is = s->bytes > 0;
	TN_TRY(no_arguments(j, "isidentifier", args));
	TN_TRY(tn_j_work(j, s->bytes / 8));
	for (const char *p = s->text, *end = p + s->bytes; p < end && is;) {
		unsigned wanted = TN_U_ALPHA | (p == s->text ? 0u : TN_U_DECIMAL);
		uint32_t code = tn_u_next(&p);
		is = code == '_' || (tn_u_classes(code) & wanted);
	}
	*out = tn_jv_bool(is);
	return TN_OK;
}

const struct tn_jmethod tn_j_string_methods[] = {
	{ "upper", call_upper }, { "lower", call_lower }, { "casefold", call_casefold }, { "capitalize", call_capitalize },
	{ "title", call_title }, { "swapcase", call_swapcase }, { "strip", call_strip }, { "lstrip", call_lstrip },
	{ "rstrip", call_rstrip }, { "removeprefix", call_removeprefix }, { "removesuffix", call_removesuffix },
	{ "isalpha", call_isalpha }, { "isalnum", call_isalnum }, { "isdecimal", call_isdecimal }, { "isdigit", call_isdigit },
	{ "isnumeric", call_isnumeric }, { "islower", call_islower }, { "isupper", call_isupper }, { "istitle", call_istitle },
	{ "isspace", call_isspace }, { "isascii", call_isascii }, { "isprintable", call_isprintable },
	{ "isidentifier", call_isidentifier }, { NULL, NULL },
};
