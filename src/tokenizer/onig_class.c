/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/onig_class.h"

#include "base/error.h"
#include "tokenizer/chars.h"

#include <string.h>

enum { DEEPEST_CLASS = 20, LONGEST_NAME = 64 };

size_t tn_onig_character(const struct tn_onig_source *source)
{
	size_t n = tn_char_bytes(source->pattern + source->at);
	return n <= source->n - source->at ? n : source->n - source->at;
}

/* ---- names ----------------------------------------------------------------------------------------------- */

/* A name without case, spaces, - and _; `set` is the inside of a class. */
struct named_set {
	const char *name, *set;
};

static const struct named_set properties[] = {
	{ "letter", "\\p{L}" }, { "uppercaseletter", "\\p{Lu}" }, { "lowercaseletter", "\\p{Ll}" },
	{ "titlecaseletter", "\\p{Lt}" }, { "modifierletter", "\\p{Lm}" }, { "otherletter", "\\p{Lo}" },
	{ "casedletter", "\\p{L&}" }, { "mark", "\\p{M}" }, { "combiningmark", "\\p{M}" },
	{ "nonspacingmark", "\\p{Mn}" }, { "spacingmark", "\\p{Mc}" }, { "enclosingmark", "\\p{Me}" },
	{ "number", "\\p{N}" }, { "decimalnumber", "\\p{Nd}" }, { "letternumber", "\\p{Nl}" }, { "othernumber", "\\p{No}" },
	{ "punctuation", "\\p{P}" }, { "connectorpunctuation", "\\p{Pc}" }, { "dashpunctuation", "\\p{Pd}" },
	{ "openpunctuation", "\\p{Ps}" }, { "closepunctuation", "\\p{Pe}" }, { "initialpunctuation", "\\p{Pi}" },
	{ "finalpunctuation", "\\p{Pf}" }, { "otherpunctuation", "\\p{Po}" }, { "symbol", "\\p{S}" },
	{ "mathsymbol", "\\p{Sm}" }, { "currencysymbol", "\\p{Sc}" }, { "modifiersymbol", "\\p{Sk}" },
	{ "othersymbol", "\\p{So}" }, { "separator", "\\p{Z}" }, { "spaceseparator", "\\p{Zs}" },
	{ "lineseparator", "\\p{Zl}" }, { "paragraphseparator", "\\p{Zp}" }, { "other", "\\p{C}" },
	{ "control", "\\p{Cc}" }, { "format", "\\p{Cf}" }, { "unassigned", "\\p{Cn}" }, { "privateuse", "\\p{Co}" },
	{ "surrogate", "\\p{Cs}" },
	{ "alnum", "\\p{Alphabetic}\\p{Nd}" }, { "alpha", "\\p{Alphabetic}" }, { "digit", "\\p{Nd}" },
	{ "blank", "\\p{Zs}\\t" }, { "cntrl", "\\p{Cc}" }, { "lower", "\\p{Lowercase}" }, { "upper", "\\p{Uppercase}" },
	{ "punct", "\\p{P}" }, { "space", "\\p{White_Space}" }, { "xdigit", "0-9A-Fa-f" }, { "word", TN_ONIG_WORD },
	{ "ascii", "\\x00-\\x7F" }, { "any", "\\x00-\\x{10FFFF}" },
	{ "alphabetic", "\\p{Alphabetic}" }, { "uppercase", "\\p{Uppercase}" }, { "lowercase", "\\p{Lowercase}" },
	{ "whitespace", "\\p{White_Space}" }, { "emoji", "\\p{Emoji}" }, { "emojipresentation", "\\p{Emoji_Presentation}" },
	{ "emojimodifier", "\\p{Emoji_Modifier}" }, { "emojicomponent", "\\p{Emoji_Component}" },
	{ "extendedpictographic", "\\p{Extended_Pictographic}" }, { "ideographic", "\\p{Ideographic}" },
	{ "unifiedideograph", "\\p{Unified_Ideograph}" }, { "idstart", "\\p{ID_Start}" }, { "idcontinue", "\\p{ID_Continue}" },
	{ "math", "\\p{Math}" }, { "hexdigit", "\\p{Hex_Digit}" }, { "asciihexdigit", "0-9A-Fa-f" }, { "dash", "\\p{Dash}" },
	{ "diacritic", "\\p{Diacritic}" }, { "cased", "\\p{Cased}" }, { "quotationmark", "\\p{Quotation_Mark}" },
	{ "regionalindicator", "\\p{Regional_Indicator}" }, { "variationselector", "\\p{Variation_Selector}" },
};

/* As a POSIX bracket these two also take symbols, respectively all that is seen. */
static const struct named_set brackets[] = {
	{ "punct", "\\p{P}\\p{S}" },
	{ "graph", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}\\p{Co}" },
	{ "print", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}\\p{Co}\\p{Zs}" },
};

static const char *look_up(const struct named_set *sets, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(sets[i].name, name) == 0)
			return sets[i].set;
	return NULL;
}

/* General categories have one or two letters; of those names that are left, scripts are what models use. */
static tn_status put_property(const char *name, struct tn_text *set, struct tn_error *err)
{
	const char *known = look_up(properties, sizeof properties / sizeof *properties, name);
	if (!known)
		known = look_up(brackets, sizeof brackets / sizeof *brackets, name);
	if (known)
		return tn_text_puts(set, known, err);
	return tn_text_printf(set, err, strlen(name) <= 2 ? "\\p{%s}" : "\\p{sc:%s}", name);
}

/* The name up to `end`, in the form of the tables, without the ^ that turns it round. */
static void take_name(const char *from, const char *end, char name[LONGEST_NAME], int *negated)
{
	size_t n = 0;
	if (from < end && *from == '^') {
		*negated = !*negated;
		from++;
	}
	for (; from < end && n + 1 < LONGEST_NAME; from++)
		if (*from != ' ' && *from != '-' && *from != '_')
			name[n++] = (char)(*from >= 'A' && *from <= 'Z' ? *from | 0x20 : *from);
	name[n] = '\0';
}

/* ---- escapes --------------------------------------------------------------------------------------------- */

/* A set of characters that an escape stands for: the inside of a class, and whether the rest is meant. */
struct escape_set {
	struct tn_text *text;
	int negated;
};

/* \p{...}. 0 in *taken when none stands here. */
static tn_status take_property(struct tn_onig_source *s, struct escape_set *set, int *taken, struct tn_error *err)
{
	char name[LONGEST_NAME];
	const char *p = s->pattern + s->at, *end = s->n - s->at > 3 && p[2] == '{' ? strchr(p, '}') : NULL;
	*taken = (p[1] == 'p' || p[1] == 'P') && end;
	if (!*taken)
		return TN_OK;
	set->negated = p[1] == 'P';
	take_name(p + 3, end, name, &set->negated);
	s->at = (size_t)(end + 1 - s->pattern);
	return put_property(name, set->text, err);
}

/* Takes an escape that stands for a set of characters. */
static tn_status take_set(struct tn_onig_source *s, struct escape_set *set, int *taken, struct tn_error *err)
{
	static const struct {
		char letter;
		const char *set;
	} classes[] = { { 's', "\\p{White_Space}" }, { 'w', TN_ONIG_WORD }, { 'd', "\\p{Nd}" }, { 'h', "0-9A-Fa-f" } };
	char c = s->at + 1 < s->n ? s->pattern[s->at + 1] : '\0';
	for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
		if ((c | 0x20) != classes[i].letter)
			continue;
		*taken = 1;
		set->negated = c < 'a';
		s->at += 2;
		return tn_text_puts(set->text, classes[i].set, err);
	}
	return take_property(s, set, taken, err);
}

static int is_hex(char c)
{
	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* Appends an escape that stands for one character, or for something that both languages write alike. */
static tn_status put_character_escape(struct tn_onig_source *s, struct tn_text *out, struct tn_error *err)
{
	const char *p = s->pattern + s->at;
	size_t left = s->n - s->at;
	if (left >= 6 && p[1] == 'u' && is_hex(p[2]) && is_hex(p[3]) && is_hex(p[4]) && is_hex(p[5])) {
		s->at += 6;
		return tn_text_printf(out, err, "\\x{%.4s}", p + 2);
	}
	if (left >= 2 && p[1] == 'v') {
		s->at += 2;
		return tn_text_puts(out, "\\x0B", err);
	}
	size_t n = 1;
	if (left >= 4 && p[1] == 'x' && p[2] == '{' && strchr(p, '}'))
		n = (size_t)(strchr(p, '}') + 1 - p);
	else if (left >= 4 && p[1] == 'x' && is_hex(p[2]) && is_hex(p[3]))
		n = 4;
	else if (left >= 2)
		n = 1 + tn_char_bytes(p + 1);
	n = n < left ? n : left;
	s->at += n;
	return tn_text_add(out, p, n, err);
}

/* Outside of classes Oniguruma's \\w has six signs of Latin-1 more. */
tn_status tn_onig_put_escape(struct tn_onig_source *s, struct tn_text *out, struct tn_error *err)
{
	struct tn_text text;
	int word = s->at + 1 < s->n && (s->pattern[s->at + 1] | 0x20) == 'w';
	tn_text_init(&text, out->ctx);
	struct escape_set set = { &text, 0 };
	int taken = 0;
	tn_status status = take_set(s, &set, &taken, err);
	if (status == TN_OK && taken && word)
		status = tn_text_puts(&text, TN_ONIG_LATIN, err);
	if (status == TN_OK && taken)
		status = tn_text_printf(out, err, set.negated ? "[^%s]" : "[%s]", text.data);
	else if (status == TN_OK)
		status = put_character_escape(s, out, err);
	tn_text_release(&text);
	return status;
}

/* ---- classes --------------------------------------------------------------------------------------------- */

/* One of the sets between the && of a class: the inside of a PCRE2 class, and alternatives that are none. */
struct segment {
	struct tn_text flat, others;
};

/* What is before the last && already: lookaheads. */
struct class_parts {
	struct tn_text ahead;
	struct segment segment;
};

static tn_status put_class(struct tn_onig_source *s, struct tn_text *flat, struct tn_text *others, struct tn_error *err);

static tn_status add_set(struct segment *segment, const char *set, int negated, struct tn_error *err)
{
	if (!negated)
		return tn_text_puts(&segment->flat, set, err);
	return tn_text_printf(&segment->others, err, "|[^%s]", set);
}

static tn_status put_bracket(struct tn_onig_source *s, struct segment *segment, int *taken, struct tn_error *err)
{
	const char *p = s->pattern + s->at, *end = p[1] == ':' ? strstr(p + 2, ":]") : NULL;
	char name[LONGEST_NAME];
	int negated = 0;
	*taken = 0;
	if (!end || (size_t)(end - p) >= LONGEST_NAME)
		return TN_OK;
	take_name(p + 2, end, name, &negated);
	const char *set = look_up(brackets, sizeof brackets / sizeof *brackets, name);
	if (!set)
		set = look_up(properties, sizeof properties / sizeof *properties, name);
	if (!set)
		return TN_OK;
	*taken = 1;
	s->at = (size_t)(end + 2 - s->pattern);
	return add_set(segment, set, negated, err);
}

/* A single character, with or without a backslash, in PCRE2's words. */
static tn_status put_single(struct tn_onig_source *s, struct tn_text *out, struct tn_error *err)
{
	char c = s->pattern[s->at];
	if (c == '\\' && s->at + 1 < s->n && s->pattern[s->at + 1] == 'b') {
		s->at += 2;
		return tn_text_puts(out, "\\x08", err);
	}
	if (c == '\\')
		return put_character_escape(s, out, err);
	if (c && strchr("[]^-", c))
		TN_TRY(tn_text_puts(out, "\\", err));
	size_t n = tn_onig_character(s);
	s->at += n;
	return tn_text_add(out, s->pattern + s->at - n, n, err);
}

/* Whether a - and the other end of a range stand here: not another set, and not the end of the class. */
static int at_range(const struct tn_onig_source *s)
{
	const char *p = s->pattern + s->at;
	if (s->n - s->at < 2 || p[0] != '-' || p[1] == ']' || p[1] == '[')
		return 0;
	return p[1] != '\\' || !p[2] || !strchr("sSwWdDhHpP", p[2]);
}

static tn_status put_member(struct tn_onig_source *s, struct segment *segment, struct tn_error *err)
{
	int taken = 0;
	if (s->pattern[s->at] == '[') {
		TN_TRY(put_bracket(s, segment, &taken, err));
		return taken ? TN_OK : put_class(s, &segment->flat, &segment->others, err);
	}
	if (s->pattern[s->at] == '\\') {
		struct tn_text text;
		tn_text_init(&text, segment->flat.ctx);
		struct escape_set set = { &text, 0 };
		tn_status status = take_set(s, &set, &taken, err);
		if (status == TN_OK && taken)
			status = add_set(segment, text.data, set.negated, err);
		tn_text_release(&text);
		if (status != TN_OK || taken)
			return status;
	}
	TN_TRY(put_single(s, &segment->flat, err));
	if (!at_range(s))
		return TN_OK;
	s->at++;
	TN_TRY(tn_text_puts(&segment->flat, "-", err));
	return put_single(s, &segment->flat, err);
}

/* The segment as something that matches one character; an empty one matches none. */
static tn_status put_segment(const struct segment *segment, struct tn_text *out, struct tn_error *err)
{
	if (!segment->others.length)
		return segment->flat.length ? tn_text_printf(out, err, "[%s]", segment->flat.data) : tn_text_puts(out, "(?!)", err);
	if (!segment->flat.length)
		return tn_text_printf(out, err, "(?:%s)", segment->others.data + 1);
	return tn_text_printf(out, err, "(?:[%s]%s)", segment->flat.data, segment->others.data);
}

static tn_status close_segment(struct class_parts *parts, struct tn_error *err)
{
	TN_TRY(tn_text_puts(&parts->ahead, "(?=", err));
	TN_TRY(put_segment(&parts->segment, &parts->ahead, err));
	parts->segment.flat.length = parts->segment.others.length = 0;
	return tn_text_puts(&parts->ahead, ")", err);
}

static tn_status take_members(struct tn_onig_source *s, struct class_parts *parts, struct tn_error *err)
{
	int first = 1;
	for (; s->at < s->n; first = 0) {
		const char *p = s->pattern + s->at;
		if (*p == ']' && !first) {
			s->at++;
			return TN_OK;
		}
		if (p[0] == '&' && p[1] == '&') {
			s->at += 2;
			TN_TRY(close_segment(parts, err));
		} else {
			TN_TRY(put_member(s, &parts->segment, err));
		}
	}
	return tn_fail(err, TN_E_FORMAT, s->where, "the pattern '%.100s' in '%s' has a character class without an end",
		       s->pattern, s->where);
}

/* What is simple goes into `flat`, so that a plain class stays one; anything else becomes an alternative of `others`. */
static tn_status finish_class(const struct class_parts *parts, int negated, struct tn_text *flat, struct tn_text *others,
			      struct tn_error *err)
{
	const struct segment *segment = &parts->segment;
	int simple = !parts->ahead.length && !segment->others.length && segment->flat.length;
	if (simple && !negated)
		return tn_text_puts(flat, segment->flat.data, err);
	if (simple)
		return tn_text_printf(others, err, "|[^%s]", segment->flat.data);
	TN_TRY(tn_text_puts(others, negated ? "|(?:(?!" : "|(?:", err));
	if (parts->ahead.length)
		TN_TRY(tn_text_puts(others, parts->ahead.data, err));
	TN_TRY(put_segment(segment, others, err));
	return tn_text_puts(others, negated ? ")(?s:.))" : ")", err);
}

static tn_status put_class(struct tn_onig_source *s, struct tn_text *flat, struct tn_text *others, struct tn_error *err)
{
	struct class_parts parts;
	if (s->depth == DEEPEST_CLASS)
		return tn_fail(err, TN_E_LIMIT, s->where, "a pattern of '%s' has character classes more than %d levels deep",
			       s->where, (int)DEEPEST_CLASS);
	tn_text_init(&parts.ahead, flat->ctx);
	tn_text_init(&parts.segment.flat, flat->ctx);
	tn_text_init(&parts.segment.others, flat->ctx);
	s->depth++;
	s->at++;
	int negated = s->at < s->n && s->pattern[s->at] == '^';
	s->at += (size_t)negated;
	tn_status status = take_members(s, &parts, err);
	if (status == TN_OK)
		status = finish_class(&parts, negated, flat, others, err);
	s->depth--;
	tn_text_release(&parts.ahead);
	tn_text_release(&parts.segment.flat);
	tn_text_release(&parts.segment.others);
	return status;
}

tn_status tn_onig_put_class(struct tn_onig_source *s, struct tn_text *out, struct tn_error *err)
{
	struct segment whole;
	tn_text_init(&whole.flat, out->ctx);
	tn_text_init(&whole.others, out->ctx);
	tn_status status = put_class(s, &whole.flat, &whole.others, err);
	if (status == TN_OK && !whole.flat.length && strncmp(whole.others.data, "|[^", 3) == 0)
		status = tn_text_puts(out, whole.others.data + 1, err);
	else if (status == TN_OK)
		status = put_segment(&whole, out, err);
	tn_text_release(&whole.flat);
	tn_text_release(&whole.others);
	return status;
}
