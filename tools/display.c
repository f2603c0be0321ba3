/* SPDX-License-Identifier: Apache-2.0 */
/* Names and messages come from files of strangers: on a terminal their control characters are commands. */
#include "cli.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* Bytes of the UTF-8 character at s; 0 when none stands there. A NUL ends it like any byte that cannot follow. */
static size_t character_bytes(const unsigned char *s)
{
	if (s[0] < 0x80)
		return 1;
	size_t n = s[0] > 0xF4 || s[0] < 0xC2 ? 0 : s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	int overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
	int beyond = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
	return overlong || beyond ? 0 : n;
}

/* C0, DEL and C1; the last are commands to a terminal as well. */
static int is_control(const unsigned char *s)
{
	return s[0] < 0x20 || s[0] == 0x7F || (s[0] == 0xC2 && s[1] < 0xA0);
}

static int is_plain(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	for (size_t n; *s; s += n) {
		n = character_bytes(s);
		if (n == 0 || is_control(s))
			return 0;
	}
	return 1;
}

int cli_is_utf8(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	for (size_t n; *s; s += n) {
		n = character_bytes(s);
		if (n == 0)
			return 0;
	}
	return 1;
}

static void escape(const char *text, char *out, size_t room)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n = 0;
	while (*s && n + 20 < room) { /* four bytes of four characters, and the dots */
		size_t length = character_bytes(s), bytes = length ? length : 1;
		int plain = length && !is_control(s);
		for (size_t i = 0; i < bytes; i++)
			n += (size_t)snprintf(out + n, room - n, plain ? "%c" : "\\x%02x", s[i]);
		s += bytes;
	}
	snprintf(out + n, room - n, "%s", *s ? "..." : "");
}

const char *cli_safe(const char *text)
{
	enum { TEXTS = 4, LONGEST = 8192 };
	static _Thread_local char texts[TEXTS][LONGEST];
	static _Thread_local unsigned next;
	if (is_plain(text))
		return text;
	char *out = texts[next++ % TEXTS];
	escape(text, out, LONGEST);
	return out;
}

void cli_say(const char *text, size_t bytes)
{
	const int terminal = isatty(STDOUT_FILENO);
	for (size_t i = 0, n; i < bytes; i += n) {
		const unsigned char *s = (const unsigned char *)text + i;
		n = character_bytes(s);
		n = n && n <= bytes - i ? n : 1;
		if (terminal && is_control(s) && *s != '\n' && *s != '\t')
			for (size_t k = 0; k < n; k++)
				printf("\\x%02x", s[k]);
		else
			fwrite(s, 1, n, stdout);
	}
	fflush(stdout);
}

void cli_print_json_text(const char *text)
{
	cli_print_json_bytes(text, strlen(text));
}

void cli_print_json_bytes(const char *text, size_t length)
{
	const unsigned char *s = (const unsigned char *)text, *end = s + length;
	putchar('"');
	while (s < end) {
		size_t n = character_bytes(s);
		if (n == 0)
			printf("\xEF\xBF\xBD"); /* U+FFFD, for JSON holds nothing but UTF-8 */
		else if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if (is_control(s))
			printf("\\u%04x", n == 2 ? s[1] : s[0]);
		else
			fwrite(s, 1, n, stdout);
		s += n ? n : 1;
	}
	putchar('"');
}

void cli_print_json_number(double x, int digits)
{
	if (isfinite(x))
		printf("%.*g", digits, x);
	else
		printf("null");
}
