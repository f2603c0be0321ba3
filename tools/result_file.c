/* SPDX-License-Identifier: Apache-2.0 */
#include "result_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

static const struct {
	const char *noun;
	size_t at;
	const char *beginning; /* what stands there in every such file */
} kinds[] = {
	[RESULT_RECEIPT] = { "the receipt", 0, "{\n  \"base\"" },
	[RESULT_LOGITS] = { "the file of logits", sizeof(uint64_t), "{\"logits\":" }, /* behind the length of the header */
};

static int fail(struct tn_error *err, tn_status code, const struct result_file *result, const char *what)
{
	cli_error(err, code, result->path, "%s '%.160s' %.200s", kinds[result->kind].noun, result->path, what);
	return 0;
}

static int fail_errno(struct tn_error *err, const struct result_file *result)
{
	char what[200];
	snprintf(what, sizeof what, "could not be written: %s", strerror(errno));
	return fail(err, TN_E_IO, result, what);
}

static int part_path(const struct result_file *result, char path[PATH_BYTES])
{
	int n = snprintf(path, PATH_BYTES, "%s.tenon-part", result->path);
	return n > 0 && n < PATH_BYTES;
}

static int is_of_kind(const char *path, result_kind kind)
{
	char found[32] = "";
	const size_t n = strlen(kinds[kind].beginning), wanted = kinds[kind].at + n;
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	size_t got = fread(found, 1, wanted, f);
	fclose(f);
	return got == wanted && memcmp(found + kinds[kind].at, kinds[kind].beginning, n) == 0;
}

/* Spelled alike; behind links only the rename at the end can tell. */
static int is_same_path(const char *path, const char *folder)
{
	size_t n = folder ? strlen(folder) : 0;
	while (n > 1 && folder[n - 1] == '/')
		n--;
	return folder && strlen(path) == n && memcmp(path, folder, n) == 0;
}

int result_file_begin(struct result_file *result, result_kind kind, const char *path, const char *folder, int force,
		      struct tn_error *err)
{
	char part[PATH_BYTES];
	*result = (struct result_file){ path, kind, NULL };
	if (!path)
		return 1;
	if (!part_path(result, part))
		return fail(err, TN_E_LIMIT, result, "has too long a name");
	if (folder && kind == RESULT_RECEIPT && !cli_is_utf8(folder))
		return fail(err, TN_E_ARG, result, "cannot name the folder that is written: it is not UTF-8, and JSON holds "
			    "nothing else; choose another name");
	if (is_same_path(path, folder))
		return fail(err, TN_E_ARG, result, "would take the name of the folder that is written; choose another name");
	if (access(path, F_OK) == 0 && !force)
		return fail(err, TN_E_EXISTS, result, "exists; use --force to replace it");
	if (access(path, F_OK) == 0 && !is_of_kind(path, kind))
		return fail(err, TN_E_EXISTS, result, "would replace a file that is not one; choose another name");
	result->file = fopen(part, "w");
	return result->file ? 1 : fail_errno(err, result);
}

int result_file_write(void *user, const char *bytes, size_t n)
{
	struct result_file *result = user;
	return fwrite(bytes, 1, n, result->file) != n;
}

int result_file_end(struct result_file *result, struct tn_error *err)
{
	char part[PATH_BYTES];
	if (!result->file || !part_path(result, part))
		return 1;
	int ok = fflush(result->file) == 0 && fsync(fileno(result->file)) == 0;
	int saved = errno;
	ok &= fclose(result->file) == 0;
	result->file = NULL;
	if (ok && rename(part, result->path) == 0)
		return 1;
	if (!ok)
		errno = saved;
	fail_errno(err, result);
	unlink(part);
	return 0;
}

void result_file_abort(struct result_file *result)
{
	char part[PATH_BYTES];
	if (!result->file || !part_path(result, part))
		return;
	fclose(result->file);
	result->file = NULL;
	unlink(part);
}
