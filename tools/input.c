/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

tn_status cli_error(struct tn_error *err, tn_status code, const char *where, const char *fmt, ...)
{
	va_list args;
	*err = (struct tn_error){ .code = code };
	snprintf(err->where, sizeof err->where, "%s", where);
	va_start(args, fmt);
	vsnprintf(err->msg, sizeof err->msg, fmt, args);
	va_end(args);
	return code;
}

tn_status cli_no_memory(struct tn_error *err)
{
	return cli_error(err, TN_E_NOMEM, "", "memory ran out");
}

/* ---- contents -------------------------------------------------------------------------------------------- */

int cli_content_add(struct cli_content *content, const char *bytes, size_t n)
{
	if (content->bytes + n >= content->room) {
		size_t room = 2 * (content->bytes + n) + 256;
		char *text = realloc(content->text, room);
		if (!text)
			return 0;
		content->text = text;
		content->room = room;
	}
	memcpy(content->text + content->bytes, bytes, n);
	content->bytes += n;
	content->text[content->bytes] = '\0';
	return 1;
}

static tn_status read_stream(FILE *from, const char *name, size_t most, struct cli_content *out, struct tn_error *err)
{
	char piece[1 << 14];
	size_t n;
	while ((n = fread(piece, 1, sizeof piece, from)) > 0) {
		if (n > most - out->bytes)
			return cli_error(err, TN_E_LIMIT, name, "'%.200s' is larger than %zu MiB, the most that is read here; "
					 "give a part of it, as head -n 1000 would", name, most >> 20);
		if (!cli_content_add(out, piece, n))
			return cli_no_memory(err);
	}
	if (ferror(from))
		return cli_error(err, TN_E_IO, name, "'%.200s' could not be read: %s", name, strerror(errno));
	return cli_content_add(out, "", 0) ? TN_OK : cli_no_memory(err);
}

tn_status cli_read(const char *path, size_t most, struct cli_content *out, struct tn_error *err)
{
	int is_stdin = strcmp(path, "-") == 0;
	const char *name = is_stdin ? "standard input" : path;
	struct cli_content content = { .text = NULL };
	FILE *from = is_stdin ? stdin : fopen(path, "rb");
	if (!from)
		return cli_error(err, TN_E_NOTFOUND, name, "'%.200s' could not be read: %s", name, strerror(errno));
	tn_status status = read_stream(from, name, most, &content, err);
	if (!is_stdin)
		fclose(from);
	if (status != TN_OK) {
		free(content.text);
		return status;
	}
	*out = content;
	return TN_OK;
}

/* ---- ids and times --------------------------------------------------------------------------------------- */

tn_status cli_parse_ids(const char *text, size_t bytes, const char *where, uint32_t **out, size_t *out_count,
			struct tn_error *err)
{
	const char *p = text, *end = text + bytes;
	uint32_t *ids = malloc((bytes / 2 + 1) * sizeof *ids);
	size_t count = 0;
	if (!ids)
		return cli_no_memory(err);
	while ((p += strspn(p, " \t\r\n,[]")) != end) {
		size_t digits = strspn(p, "0123456789");
		unsigned long long id = strtoull(p, NULL, 10);
		if (digits == 0 || digits > 10 || id >= TN_NO_TOKEN) {
			free(ids);
			return cli_error(err, TN_E_FORMAT, where, "byte %zu of %s: '%.20s' is no token id; ids are whole numbers, "
					 "[1, 2, 3] or 1 2 3", (size_t)(p - text), where, p);
		}
		ids[count++] = (uint32_t)id;
		p += digits;
	}
	*out = ids;
	*out_count = count;
	return TN_OK;
}

const char *cli_clock(char out[CLI_CLOCK_BYTES])
{
	time_t seconds = time(NULL);
	struct tm local;
	return localtime_r(&seconds, &local) && strftime(out, CLI_CLOCK_BYTES, "%Y-%m-%dT%H:%M:%S", &local) ? out : NULL;
}
