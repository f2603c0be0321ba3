/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/jinja_unicode.h"

#include "tokenizer/chars.h"

struct mapping {
	uint32_t first, last, step;
	int32_t delta;
};
struct special {
	uint32_t code, to[3];
};
struct range {
	uint32_t first, last, step;
};
#include "chat/jinja_unicode.def"

uint32_t tn_u_next(const char **p)
{
	size_t bytes;
	int32_t code = tn_char_at(*p, &bytes);
	*p += bytes;
	return (uint32_t)code;
}

size_t tn_u_write(uint32_t code, char *to)
{
	return tn_char_put(to, (int32_t)code);
}

int tn_u_is_space(uint32_t code)
{
	if (code < 0x80)
		return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x1F);
	return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
	       code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

size_t tn_u_rstrip(const char *text, size_t n)
{
	while (n) {
		size_t begin = n - 1;
		while (begin && ((unsigned char)text[begin] & 0xC0) == 0x80)
			begin--;
		const char *p = text + begin;
		if (!tn_u_is_space(tn_u_next(&p)))
			break;
		n = begin;
	}
	return n;
}

size_t tn_u_lstrip(const char *text, size_t n)
{
	const char *p = text, *end = text + n;
	while (p < end) {
		const char *next = p;
		if (!tn_u_is_space(tn_u_next(&next)))
			break;
		p = next;
	}
	return (size_t)(p - text);
}

/* ---- tables ----------------------------------------------------------------------------------------------- */

static int in_ranges(const struct range *ranges, size_t count, uint32_t code)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (code < ranges[middle].first)
			high = middle;
		else if (code > ranges[middle].last)
			low = middle + 1;
		else
			return (code - ranges[middle].first) % ranges[middle].step == 0;
	}
	return 0;
}
#define IN(table, code) in_ranges(table, sizeof table / sizeof *table, code)

static uint32_t mapped(const struct mapping *map, size_t count, uint32_t code)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (code < map[middle].first)
			high = middle;
		else if (code > map[middle].last)
			low = middle + 1;
		else if ((code - map[middle].first) % map[middle].step)
			return code;
		else
			return code + (uint32_t)map[middle].delta;
	}
	return code;
}

static int find_special(const struct special *table, size_t count, uint32_t code, uint32_t out[3])
{
	for (size_t i = 0; i < count && table[i].code <= code; i++) {
		if (table[i].code != code)
			continue;
		for (int k = 0; k < 3; k++)
			out[k] = table[i].to[k];
		return out[2] ? 3 : 2;
	}
	return 0;
}

static int map(const struct mapping *one, size_t count, const struct special *more, size_t more_count, uint32_t code,
	       uint32_t out[3])
{
	int n = find_special(more, more_count, code, out);
	if (n)
		return n;
	out[0] = mapped(one, count, code);
	return 1;
}
#define MAP(to) return map(to##_map, sizeof to##_map / sizeof *to##_map, to##_special, \
			   sizeof to##_special / sizeof *to##_special, code, out)

int tn_u_map(uint32_t code, enum tn_u_case to, uint32_t out[3])
{
	if (code < 0x80) {
		int letter = (code | 32) - 'a' < 26u;
		out[0] = !letter ? code : to == TN_U_LOWER || to == TN_U_FOLD ? (code | 32) : (code & ~32u);
		return 1;
	}
	switch (to) {
	case TN_U_LOWER: MAP(lower);
	case TN_U_UPPER: MAP(upper);
	case TN_U_TITLE: MAP(title);
	default: MAP(fold);
	}
}

int tn_u_decimal(uint32_t code)
{
	for (uint32_t back = 0; back < 10 && back <= code; back++)
		if (IN(decimal_zero, code - back))
			return (int)back;
	return -1;
}

unsigned tn_u_classes(uint32_t code)
{
	unsigned classes = 0;
	classes |= IN(alpha, code) ? TN_U_ALPHA : 0;
	classes |= IN(printable, code) ? TN_U_PRINTABLE : 0;
	classes |= IN(is_lower, code) ? TN_U_IS_LOWER : 0;
	classes |= IN(is_upper, code) ? TN_U_IS_UPPER : 0;
	classes |= IN(is_title, code) ? TN_U_IS_TITLE : 0;
	if (tn_u_decimal(code) >= 0)
		return classes | TN_U_DECIMAL | TN_U_DIGIT | TN_U_NUMERIC;
	classes |= IN(digit, code) ? TN_U_DIGIT | TN_U_NUMERIC : 0;
	return classes | (IN(numeric, code) ? TN_U_NUMERIC : 0);
}
