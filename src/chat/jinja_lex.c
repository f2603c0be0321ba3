/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_lex.h"

#include "chat/jinja_unicode.h"

#include <string.h>

/* ---- looking ---------------------------------------------------------------------------------------------- */

static int stands_at(const struct tn_jlexer *l, size_t pos, const char *text)
{
	size_t n = strlen(text);
	return pos <= l->bytes && l->bytes - pos >= n && memcmp(l->text + pos, text, n) == 0;
}

static char char_at(const struct tn_jlexer *l, size_t pos)
{
	return pos < l->bytes ? l->text[pos] : '\0';
}

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Behind the white space that begins at pos. */
static size_t past_space(const struct tn_jlexer *l, size_t pos)
{
	while (pos < l->bytes) {
		const char *p = l->text + pos;
		if (!tn_u_is_space(tn_u_next(&p)))
			break;
		pos = (size_t)(p - l->text);
	}
	return pos;
}

/* Goes to pos and counts the lines on the way. */
static void move_to(struct tn_jlexer *l, size_t pos)
{
	for (; l->pos < pos; l->pos++)
		l->line += l->text[l->pos] == '\n';
	l->line_starting = pos > 0 && l->text[pos - 1] == '\n';
	l->j->line = l->line;
}

static tn_status add(struct tn_jlexer *l, enum tn_jtoken_kind kind, struct tn_jtoken **out)
{
	TN_TRY(tn_j_grow(l->j, &l->tokens, &l->capacity, l->count, l->count + 1, sizeof *l->tokens));
	struct tn_jtoken *token = &l->tokens[l->count++];
	*token = (struct tn_jtoken){ .kind = kind, .line = l->line };
	if (out)
		*out = token;
	return TN_OK;
}

/* ---- ends of tags ----------------------------------------------------------------------------------------- */

/* The end of a statement or comment: "+%}", "-%}" with the white space behind it, "%}" with one newline. 0: none here. */
static size_t past_block_end(const struct tn_jlexer *l, size_t pos, const char *end)
{
	if (char_at(l, pos) == '+' && stands_at(l, pos + 1, end))
		return pos + 3;
	if (char_at(l, pos) == '-' && stands_at(l, pos + 1, end))
		return past_space(l, pos + 3);
	if (!stands_at(l, pos, end))
		return 0;
	return pos + 2 + (char_at(l, pos + 2) == '\n');
}

static size_t past_print_end(const struct tn_jlexer *l, size_t pos)
{
	if (char_at(l, pos) == '-' && stands_at(l, pos + 1, "}}"))
		return past_space(l, pos + 3);
	return stands_at(l, pos, "}}") ? pos + 2 : 0;
}

/* ---- text outside of tags --------------------------------------------------------------------------------- */

/* "{%", an optional sign, `word`: the position behind the word, or 0. */
static size_t past_tag_word(const struct tn_jlexer *l, size_t pos, const char *word)
{
	if (!stands_at(l, pos, "{%"))
		return 0;
	pos += 2;
	pos += char_at(l, pos) == '-' || char_at(l, pos) == '+';
	pos = past_space(l, pos);
	return stands_at(l, pos, word) ? pos + strlen(word) : 0;
}

/* Behind "{% raw %}", or 0 when none begins at pos. */
static size_t past_raw_begin(const struct tn_jlexer *l, size_t pos)
{
	pos = past_tag_word(l, pos, "raw");
	if (!pos)
		return 0;
	pos = past_space(l, pos);
	if (stands_at(l, pos, "-%}"))
		return past_space(l, pos + 3);
	return stands_at(l, pos, "%}") ? pos + 2 : 0;
}

static size_t past_raw_end(const struct tn_jlexer *l, size_t pos)
{
	pos = past_tag_word(l, pos, "endraw");
	return pos ? past_block_end(l, past_space(l, pos), "%}") : 0;
}

/* How much of the text in front of a tag stays: `sign` is what stands behind its two characters. */
static size_t kept_bytes(const struct tn_jlexer *l, const char *text, size_t n, char sign, int is_print)
{
	if (sign == '-')
		return tn_u_rstrip(text, n);
	if (sign == '+' || is_print)
		return n;
	size_t line = n;
	while (line && text[line - 1] != '\n')
		line--;
	if (!line && !l->line_starting)
		return n;
	return tn_u_rstrip(text + line, n - line) == 0 ? line : n;
}

static tn_status add_data(struct tn_jlexer *l, size_t end, char sign, int is_print)
{
	struct tn_jtoken *token;
	const char *text = l->text + l->pos;
	size_t n = kept_bytes(l, text, end - l->pos, sign, is_print);
	if (n) {
		TN_TRY(add(l, TN_JT_DATA, &token));
		token->begin = text;
		token->bytes = n;
	}
	move_to(l, end);
	return TN_OK;
}

static tn_status take_raw(struct tn_jlexer *l, size_t begin)
{
	move_to(l, begin);
	for (size_t pos = begin; pos < l->bytes; pos++) {
		size_t end = past_raw_end(l, pos);
		if (!end)
			continue;
		TN_TRY(add_data(l, pos, char_at(l, pos + 2), 0));
		move_to(l, end);
		return TN_OK;
	}
	return tn_j_fail(l->j, TN_E_FORMAT, "Missing end of raw directive");
}

static tn_status take_comment(struct tn_jlexer *l)
{
	for (size_t pos = l->pos; pos < l->bytes; pos++) {
		size_t end = past_block_end(l, pos, "#}");
		if (!end)
			continue;
		move_to(l, end);
		return TN_OK;
	}
	return tn_j_fail(l->j, TN_E_FORMAT, "Missing end of comment tag");
}

/* Text up to the next tag, and the tag's beginning. */
static tn_status take_text(struct tn_jlexer *l)
{
	size_t pos = l->pos;
	while (pos < l->bytes &&
	       !(l->text[pos] == '{' && pos + 1 < l->bytes && strchr("{%#", l->text[pos + 1]) && l->text[pos + 1]))
		pos++;
	if (pos == l->bytes)
		return add_data(l, pos, '+', 0);
	char what = l->text[pos + 1], sign = char_at(l, pos + 2);
	size_t raw = past_raw_begin(l, pos);
	TN_TRY(add_data(l, pos, sign, what == '{'));
	if (raw)
		return take_raw(l, raw);
	move_to(l, pos + 2 + (sign == '-' || sign == '+'));
	if (what == '#')
		return take_comment(l);
	l->closing = what == '{' ? TN_JT_PRINT_END : TN_JT_BLOCK_END;
	return add(l, what == '{' ? TN_JT_PRINT_BEGIN : TN_JT_BLOCK_BEGIN, NULL);
}

/* ---- inside of tags --------------------------------------------------------------------------------------- */

/* Behind digits with single underscores between them; pos itself when there are none. */
static size_t past_digits(const struct tn_jlexer *l, size_t pos)
{
	while (is_digit(char_at(l, pos)))
		pos += char_at(l, pos + 1) == '_' && is_digit(char_at(l, pos + 2)) ? 2 : 1;
	return pos;
}

static size_t past_exponent(const struct tn_jlexer *l, size_t pos)
{
	if ((char_at(l, pos) | 32) != 'e')
		return pos;
	size_t digits = pos + 1 + (char_at(l, pos + 1) == '+' || char_at(l, pos + 1) == '-');
	return is_digit(char_at(l, digits)) ? past_digits(l, digits) : pos;
}

static unsigned base_at(const struct tn_jlexer *l)
{
	char c = char_at(l, l->pos) == '0' ? (char)(char_at(l, l->pos + 1) | 32) : '\0';
	char digit = (char)(char_at(l, l->pos + 2) | 32);
	if (c == 'x' && (is_digit(digit) || (digit >= 'a' && digit <= 'f')))
		return 16;
	if (c == 'o' && digit >= '0' && digit <= '7')
		return 8;
	return c == 'b' && (digit == '0' || digit == '1') ? 2 : 10;
}

/* Behind the digits of 0x.., 0o.. or 0b... */
static size_t past_based(const struct tn_jlexer *l, size_t pos, unsigned base)
{
	for (;;) {
		char c = char_at(l, pos), low = (char)(c | 32);
		unsigned digit = is_digit(c) ? (unsigned)(c - '0') : low >= 'a' && low <= 'f' ? (unsigned)(low - 'a') + 10 : 99;
		if (digit >= base && c != '_')
			return pos;
		pos++;
	}
}

static tn_status take_number(struct tn_jlexer *l)
{
	struct tn_jtoken *token;
	size_t begin = l->pos, end, whole = past_digits(l, begin);
	unsigned base = base_at(l);
	int after_dot = begin > 0 && l->text[begin - 1] == '.';
	if (base != 10) {
		begin += 2;
		end = past_based(l, begin, base);
	} else {
		end = whole;
		if (!after_dot && char_at(l, whole) == '.' && is_digit(char_at(l, whole + 1)))
			end = past_digits(l, whole + 1);
		end = after_dot ? end : past_exponent(l, end);
		if (end == whole && l->text[begin] == '0') /* 007 is 00 and 7 */
			for (end = begin; char_at(l, end) == '0'; end++)
				;
	}
	TN_TRY(add(l, TN_JT_NUMBER, &token));
	TN_TRY(tn_jinja_number(l->j, l->text + begin, end - begin, base, base == 10 && end > whole, &token->value));
	move_to(l, end);
	return TN_OK;
}

/* Letters, digits and the marks on letters. */
static int is_in_name(uint32_t code)
{
	if (code < 0x80)
		return code == '_' || (code | 32) - 'a' < 26u || is_digit((char)code);
	return (code >= 0x300 && code <= 0x36F) || (tn_u_classes(code) & (TN_U_ALPHA | TN_U_DECIMAL));
}

static tn_status take_name(struct tn_jlexer *l)
{
	struct tn_jtoken *token;
	size_t end = l->pos;
	struct tn_jv name, known;
	while (end < l->bytes) {
		const char *p = l->text + end;
		if (!is_in_name(tn_u_next(&p)))
			break;
		end = (size_t)(p - l->text);
	}
	if (end == l->pos)
		return tn_j_fail(l->j, TN_E_FORMAT, "a character that no name has stands outside of a string");
	TN_TRY(tn_j_string_kept(l->j, l->text + l->pos, end - l->pos, &name));
	TN_TRY(tn_jd_get(l->j, l->names, name, &known));
	if (!tn_jv_is_given(known)) {
		TN_TRY(tn_j_string(l->j, l->text + l->pos, end - l->pos, &name)); /* with a NUL behind it */
		TN_TRY(tn_jd_set(l->j, l->names, name, name));
		known = name;
	}
	TN_TRY(add(l, TN_JT_NAME, &token));
	token->value = known;
	move_to(l, end);
	return TN_OK;
}

static tn_status take_string(struct tn_jlexer *l)
{
	struct tn_jtoken *token;
	char quote = l->text[l->pos];
	size_t end = l->pos + 1;
	while (end < l->bytes && l->text[end] != quote)
		end += l->text[end] == '\\' ? 2 : 1;
	if (end >= l->bytes)
		return tn_j_fail(l->j, TN_E_FORMAT, "a string that begins with %c is not closed", quote);
	TN_TRY(add(l, TN_JT_STRING, &token));
	TN_TRY(tn_jinja_unescape(l->j, l->text + l->pos + 1, end - l->pos - 1, &token->value));
	move_to(l, end + 1);
	return TN_OK;
}

static tn_status take_bracket(struct tn_jlexer *l, char c)
{
	static const char opening[] = "{([", closing[] = "})]";
	const char *opens = strchr(opening, c), *closes = strchr(closing, c);
	if (opens) {
		if (l->open_count == sizeof l->open)
			return tn_j_fail(l->j, TN_E_LIMIT, "more than %zu brackets are open", sizeof l->open);
		l->open[l->open_count++] = closing[opens - opening];
	}
	if (closes && !l->open_count)
		return tn_j_fail(l->j, TN_E_FORMAT, "unexpected '%c'", c);
	if (closes && l->open[--l->open_count] != c)
		return tn_j_fail(l->j, TN_E_FORMAT, "unexpected '%c', expected '%c'", c, l->open[l->open_count]);
	return TN_OK;
}

static tn_status take_operator(struct tn_jlexer *l)
{
	static const char *const doubles[] = { "//", "**", "==", "!=", ">=", "<=" };
	struct tn_jtoken *token;
	char c = l->text[l->pos];
	size_t n = 1;
	for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
		n = stands_at(l, l->pos, doubles[i]) ? 2 : n;
	if (n == 1 && (!c || !strchr("+-/*%~[](){}><=.:|,;", c)))
		return tn_j_fail(l->j, TN_E_FORMAT,
				 c > ' ' && c < 0x7F ? "unexpected character '%c'" : "unexpected character 0x%02X", c);
	TN_TRY(take_bracket(l, c));
	TN_TRY(add(l, TN_JT_OPERATOR, &token));
	memcpy(token->op, l->text + l->pos, n);
	move_to(l, l->pos + n);
	return TN_OK;
}

static tn_status take_inside(struct tn_jlexer *l)
{
	size_t end = 0;
	if (!l->open_count)
		end = l->closing == TN_JT_PRINT_END ? past_print_end(l, l->pos) : past_block_end(l, l->pos, "%}");
	if (end) {
		TN_TRY(add(l, l->closing, NULL));
		l->closing = TN_JT_END;
		move_to(l, end);
		return TN_OK;
	}
	size_t pos = past_space(l, l->pos);
	char c = l->text[l->pos];
	if (pos > l->pos) {
		move_to(l, pos);
		return TN_OK;
	}
	if (is_digit(c))
		return take_number(l);
	if (c == '_' || (unsigned char)c >= 0x80 || (unsigned)((c | 32) - 'a') < 26u)
		return take_name(l);
	if (c == '\'' || c == '"')
		return take_string(l);
	return take_operator(l);
}

/* A copy with \n for every newline, and without the last one. */
static tn_status normalize(struct tn_jlexer *l, const char *text, size_t bytes)
{
	char *copy = NULL;
	size_t n = 0;
	TN_TRY(tn_j_alloc(l->j, bytes + 1, &copy));
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n')
			continue;
		copy[n++] = text[i] == '\r' ? '\n' : text[i];
	}
	if (n && copy[n - 1] == '\n')
		n--;
	copy[n] = '\0';
	l->text = copy;
	l->bytes = n;
	return TN_OK;
}

tn_status tn_jinja_lex(struct tn_j *j, const char *text, size_t bytes, struct tn_jlexer *lexer)
{
	*lexer = (struct tn_jlexer){ .j = j, .line = 1, .line_starting = 1, .closing = TN_JT_END };
	TN_TRY(normalize(lexer, text, bytes));
	TN_TRY(tn_jd_new(j, &lexer->names));
	while (lexer->pos < lexer->bytes)
		TN_TRY(lexer->closing == TN_JT_END ? take_text(lexer) : take_inside(lexer));
	return add(lexer, TN_JT_END, NULL);
}
