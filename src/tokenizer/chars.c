/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/chars.h"

#include <utf8proc.h>

int32_t tn_char_last(const char *p, size_t n, size_t *bytes)
{
	size_t at = n - 1;
	while (at > 0 && ((unsigned char)p[at] & 0xC0) == 0x80)
		at--;
	return tn_char_at(p + at, bytes);
}

size_t tn_char_put(char dst[4], int32_t c)
{
	return (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)dst);
}

tn_status tn_text_add_char(struct tn_text *text, int32_t c, struct tn_error *err)
{
	char bytes[4];
	size_t n = tn_char_put(bytes, c);
	return tn_text_add(text, bytes, n, err);
}

int tn_char_is_space(int32_t c)
{
	return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
	       c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static int has_category(int32_t c, utf8proc_category_t first, utf8proc_category_t last)
{
	utf8proc_category_t category = utf8proc_category(c);
	return category >= first && category <= last;
}

enum char_class { PUNCTUATION, CONTROL, MARK, NONSPACING, NUMERIC };

static const struct otherwise {
	enum char_class which;
	int32_t first, last;
	int is_one;
} otherwise[] = {
#define OTHERWISE(which, first, last, is_one) { which, first, last, is_one },
#define LOWER(first, last, distance)
#include "tokenizer/char_classes.def"
#undef LOWER
#undef OTHERWISE
};

/* What the library's table says, where that is not what its category says. */
static int is_of_class(int32_t c, enum char_class which, int by_category)
{
	size_t low = 0, count = sizeof otherwise / sizeof *otherwise, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct otherwise *o = &otherwise[middle];
		if (o->which < which || (o->which == which && o->last < c))
			low = middle + 1;
		else
			high = middle;
	}
	int found = low < count && otherwise[low].which == which && otherwise[low].first <= c;
	return found ? otherwise[low].is_one : by_category;
}

int tn_char_is_numeric(int32_t c)
{
	return is_of_class(c, NUMERIC, has_category(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO));
}

int tn_char_is_punctuation(int32_t c)
{
	if (c < 0x80)
		return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
	return is_of_class(c, PUNCTUATION, has_category(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO));
}

int tn_char_is_mark(int32_t c)
{
	return is_of_class(c, MARK, has_category(c, UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME));
}

int tn_char_is_nonspacing(int32_t c)
{
	return is_of_class(c, NONSPACING, utf8proc_category(c) == UTF8PROC_CATEGORY_MN);
}

int tn_char_is_control(int32_t c)
{
	if (c == '\t' || c == '\n' || c == '\r')
		return 0;
	return is_of_class(c, CONTROL, has_category(c, UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO));
}

int tn_char_is_chinese(int32_t c)
{
	static const int32_t blocks[][2] = {
		{ 0x4E00, 0x9FFF }, { 0x3400, 0x4DBF }, { 0x20000, 0x2A6DF }, { 0x2A700, 0x2B73F }, { 0x2B740, 0x2B81F },
		{ 0x2B920, 0x2CEAF }, { 0xF900, 0xFAFF }, { 0x2F800, 0x2FA1F },
	};
	for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
		if (c >= blocks[i][0] && c <= blocks[i][1])
			return 1;
	return 0;
}

static const struct {
	int32_t first, last, distance;
} young_capitals[] = {
#define OTHERWISE(which, first, last, is_one)
#define LOWER(first, last, distance) { first, last, distance },
#include "tokenizer/char_classes.def"
#undef LOWER
#undef OTHERWISE
};

size_t tn_char_lower(int32_t c, int32_t dst[2])
{
	if (c == 0x130) {
		dst[0] = 'i';
		dst[1] = 0x307;
		return 2;
	}
	dst[0] = utf8proc_tolower(c);
	for (size_t i = 0; c >= young_capitals[0].first && i < sizeof young_capitals / sizeof *young_capitals; i++)
		if (c >= young_capitals[i].first && c <= young_capitals[i].last)
			dst[0] = c + young_capitals[i].distance;
	return 1;
}

enum category { LU, LL, LM, LO, HAN, MN, MC, ND, NO, PD, PO, SM, SO, CF, CATEGORY_COUNT };

/* Of three bytes and of four. */
static const int32_t elders[CATEGORY_COUNT][2] = {
	[LU] = { 0x1E00, 0x10400 }, [LL] = { 0x1E01, 0x10428 }, [LM] = { 0x1D2C, 0x10780 }, [LO] = { 0x0904, 0x10330 },
	[HAN] = { 0x4E00, 0x20000 }, [MN] = { 0x1DC0, 0x1D167 }, [MC] = { 0x0903, 0x11000 }, [ND] = { 0x0966, 0x104A0 },
	[NO] = { 0x0B72, 0x10107 }, [PD] = { 0x2010, 0x10EAD }, [PO] = { 0x0964, 0x10100 }, [SM] = { 0x2200, 0x1D6C1 },
	[SO] = { 0x2100, 0x1F300 }, [CF] = { 0x200B, 0x110BD },
};

static const struct {
	int32_t first, last;
	enum category category;
} young[] = {
#define YOUNG(first, last, category) { first, last, category },
#include "tokenizer/young_chars.def"
#undef YOUNG
};

int32_t tn_char_elder(int32_t c)
{
	size_t low = 0, high = sizeof young / sizeof *young;
	if (c < young[0].first)
		return c;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (young[middle].last < c)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == sizeof young / sizeof *young || c < young[low].first)
		return c;
	return elders[young[low].category][c > 0xFFFF];
}

int tn_char_is_word(int32_t c)
{
	/* letters that Unicode counts among the symbols: circled and squared ones */
	if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
	    (c >= 0x1F170 && c <= 0x1F189))
		return 1;
	if (c == 0x200C || c == 0x200D)
		return 1;
	c = tn_char_elder(c);
	return has_category(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) || utf8proc_category(c) == UTF8PROC_CATEGORY_PC;
}

/* Printable bytes of Latin-1 stand for themselves; the other 68 are U+0100 and on, in their order. */
int32_t tn_byte_char(unsigned char byte)
{
	if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD))
		return byte;
	if (byte <= 0x20)
		return 0x100 + byte;
	return byte == 0xAD ? 0x143 : 0x121 + byte - 0x7F;
}

int tn_char_byte(int32_t c)
{
	if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF && c != 0xAD))
		return c;
	if (c >= 0x100 && c <= 0x120)
		return c - 0x100;
	if (c >= 0x121 && c <= 0x142)
		return c - 0x121 + 0x7F;
	return c == 0x143 ? 0xAD : -1;
}

size_t tn_grapheme_bytes(const char *p, size_t n)
{
	size_t at, bytes;
	utf8proc_int32_t before = tn_char_at(p, &at), state = 0;
	while (at < n) {
		utf8proc_int32_t c = tn_char_at(p + at, &bytes);
		if (utf8proc_grapheme_break_stateful(before, c, &state))
			break;
		before = c;
		at += bytes;
	}
	return at;
}
