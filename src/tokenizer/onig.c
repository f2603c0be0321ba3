/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/onig.h"

#include "base/error.h"
#include "tokenizer/onig_class.h"

#include <string.h>

enum { DEEPEST_GROUP = 200 };

#define WORD "[" TN_ONIG_WORD TN_ONIG_LATIN "]"

/* Where an atom begins in the output: what a quantifier that needs brackets is put around. */
struct translation {
	struct tn_onig_source source;
	struct tn_text *out;
	size_t atom;
	size_t groups[DEEPEST_GROUP];
	int depth;
};

static tn_status insert(struct tn_text *text, size_t at, const char *what, struct tn_error *err)
{
	size_t n = strlen(what), behind = text->length - at;
	TN_TRY(tn_text_puts(text, what, err));
	memmove(text->data + at + n, text->data + at, behind);
	memcpy(text->data + at, what, n);
	return TN_OK;
}

static tn_status put_escape(struct translation *t, struct tn_error *err)
{
	static const char word_edge[] = "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))";
	static const char no_word_edge[] = "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))";
	struct tn_onig_source *s = &t->source;
	char c = s->at + 1 < s->n ? s->pattern[s->at + 1] : '\0';
	if (c == 'b' || c == 'B') {
		s->at += 2;
		return tn_text_puts(t->out, c == 'b' ? word_edge : no_word_edge, err);
	}
	return tn_onig_put_escape(s, t->out, err);
}

/* (?i-m: and (?mx): Ruby's m is what others call s. */
static tn_status put_options(struct translation *t, size_t end, struct tn_error *err)
{
	struct tn_onig_source *s = &t->source;
	for (; s->at < end; s->at++) {
		char c = s->pattern[s->at] == 'm' ? 's' : s->pattern[s->at];
		TN_TRY(tn_text_add(t->out, &c, 1, err));
	}
	return TN_OK;
}

static tn_status open_group(struct translation *t, struct tn_error *err)
{
	struct tn_onig_source *s = &t->source;
	if (t->depth == DEEPEST_GROUP)
		return tn_fail(err, TN_E_LIMIT, s->where, "a pattern of '%s' has groups more than %d levels deep", s->where,
			       (int)DEEPEST_GROUP);
	t->groups[t->depth++] = t->out->length;
	TN_TRY(tn_text_puts(t->out, "(", err));
	s->at++;
	if (s->at >= s->n || s->pattern[s->at] != '?')
		return TN_OK;
	size_t options = strspn(s->pattern + s->at + 1, "imx-");
	char behind = s->pattern[s->at + 1 + options];
	if (options && (behind == ':' || behind == ')')) {
		TN_TRY(put_options(t, s->at + 1 + options, err));
	} else {
		TN_TRY(tn_text_puts(t->out, "?", err));
		s->at++;
	}
	return TN_OK;
}

static size_t digits(const struct tn_onig_source *s, size_t at)
{
	size_t n = 0;
	while (at + n < s->n && s->pattern[at + n] >= '0' && s->pattern[at + n] <= '9')
		n++;
	return n;
}

/* The length of {n}, {n,}, {,m} or {n,m} here, or 0. */
static size_t repeat_length(const struct tn_onig_source *s)
{
	size_t at = s->at + 1, low = digits(s, at), high = 0;
	at += low;
	if (at < s->n && s->pattern[at] == ',') {
		high = digits(s, at + 1);
		at += 1 + high;
	}
	return at < s->n && s->pattern[at] == '}' && (low || high) ? at + 1 - s->at : 0;
}

/* There {n,m}+ is a repeated repeat, here it would be a possessive one. */
static tn_status put_repeat(struct translation *t, struct tn_error *err)
{
	struct tn_onig_source *s = &t->source;
	size_t n = repeat_length(s);
	if (!n) {
		t->atom = t->out->length;
		s->at++;
		return tn_text_puts(t->out, "\\{", err);
	}
	const char *body = s->pattern + s->at + 1;
	TN_TRY(tn_text_puts(t->out, *body == ',' ? "{0" : "{", err));
	TN_TRY(tn_text_add(t->out, body, n - 1, err));
	s->at += n;
	if (s->at < s->n && s->pattern[s->at] == '+') {
		TN_TRY(insert(t->out, t->atom, "(?:", err));
		TN_TRY(tn_text_puts(t->out, ")", err));
	}
	return TN_OK;
}

static tn_status put_next(struct translation *t, struct tn_error *err)
{
	struct tn_onig_source *s = &t->source;
	size_t begin = t->out->length;
	const char *p = s->pattern + s->at;
	switch (*p) {
	case '\\':
		t->atom = begin;
		return put_escape(t, err);
	case '[':
		t->atom = begin;
		return tn_onig_put_class(s, t->out, err);
	case '(':
		return open_group(t, err);
	case ')':
		if (t->depth)
			t->atom = t->groups[--t->depth];
		break;
	case '{':
		return put_repeat(t, err);
	case '*': case '+': case '?':
		break;
	default:
		t->atom = begin;
	}
	size_t n = tn_onig_character(s);
	s->at += n;
	return tn_text_add(t->out, p, n, err);
}

tn_status tn_onig_translate(const char *pattern, size_t n, const char *where, struct tn_text *out, struct tn_error *err)
{
	struct translation t = { .source = { pattern, n, 0, where, 0 }, .out = out, .atom = out->length };
	while (t.source.at < n)
		TN_TRY(put_next(&t, err));
	return TN_OK;
}
