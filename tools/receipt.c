/* SPDX-License-Identifier: Apache-2.0 */
#include "receipt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

static int fail(struct tn_error *err, tn_status code, const char *path, const char *what)
{
	memset(err, 0, sizeof *err);
	err->code = code;
	snprintf(err->where, sizeof err->where, "%s", path);
	snprintf(err->msg, sizeof err->msg, "the receipt '%.160s' %.200s", path, what);
	return 0;
}

static int fail_errno(struct tn_error *err, const char *path)
{
	char what[200];
	snprintf(what, sizeof what, "could not be written: %s", strerror(errno));
	return fail(err, TN_E_IO, path, what);
}

static int part_path(const struct receipt *receipt, char path[PATH_BYTES])
{
	int n = snprintf(path, PATH_BYTES, "%s.tenon-part", receipt->path);
	return n > 0 && n < PATH_BYTES;
}

/* Every receipt begins with the base. */
static int is_receipt(const char *path)
{
	static const char beginning[] = "{\n  \"base\"";
	char found[sizeof beginning] = "";
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	size_t n = fread(found, 1, sizeof beginning - 1, f);
	fclose(f);
	return n == sizeof beginning - 1 && memcmp(found, beginning, n) == 0;
}

int receipt_begin(struct receipt *receipt, const char *path, int force, struct tn_error *err)
{
	char part[PATH_BYTES];
	*receipt = (struct receipt){ path, NULL };
	if (!path)
		return 1;
	if (!part_path(receipt, part))
		return fail(err, TN_E_LIMIT, path, "has too long a name");
	if (access(path, F_OK) == 0 && !force)
		return fail(err, TN_E_EXISTS, path, "exists; use --force to replace it");
	if (access(path, F_OK) == 0 && !is_receipt(path))
		return fail(err, TN_E_EXISTS, path, "would replace a file that is no receipt; choose another name");
	receipt->file = fopen(part, "w");
	return receipt->file ? 1 : fail_errno(err, path);
}

int receipt_write(void *user, const char *bytes, size_t n)
{
	struct receipt *receipt = user;
	return fwrite(bytes, 1, n, receipt->file) != n;
}

int receipt_end(struct receipt *receipt, struct tn_error *err)
{
	char part[PATH_BYTES];
	if (!receipt->file || !part_path(receipt, part))
		return 1;
	int ok = fflush(receipt->file) == 0 && fsync(fileno(receipt->file)) == 0;
	int saved = errno;
	ok &= fclose(receipt->file) == 0;
	receipt->file = NULL;
	if (ok && rename(part, receipt->path) == 0)
		return 1;
	if (!ok)
		errno = saved;
	fail_errno(err, receipt->path);
	unlink(part);
	return 0;
}

void receipt_abort(struct receipt *receipt)
{
	char part[PATH_BYTES];
	if (!receipt->file || !part_path(receipt, part))
		return;
	fclose(receipt->file);
	receipt->file = NULL;
	unlink(part);
}
