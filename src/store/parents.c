/* SPDX-License-Identifier: Apache-2.0 */
#include "store/parents.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* `path` is the deepest of those that were made, and is used up. */
static void remove_made(char *path, int made)
{
	for (; made > 0 && rmdir(path) == 0; made--) {
		char *slash = strrchr(path, '/');
		if (!slash || slash == path)
			break;
		*slash = '\0';
	}
}

void tn_parents_remove(struct tn_parents *p)
{
	char path[TN_PATH_BYTES];
	snprintf(path, sizeof path, "%s", p->path);
	remove_made(path, p->made);
	p->made = 0;
}

tn_status tn_parents_make(struct tn_parents *p, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	size_t n = strlen(p->path);
	if (n >= sizeof path)
		return tn_fail(err, TN_E_LIMIT, p->path, "the path is longer than %d bytes", TN_PATH_BYTES - 1);
	memcpy(path, p->path, n + 1);
	size_t last = 0;
	for (size_t i = 1; i <= n; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		char kept = path[i];
		path[i] = '\0';
		if (mkdir(path, 0777) == 0)
			p->made++;
		else if (errno != EEXIST) {
			tn_status status = tn_fail_sys(err, errno, path, "could not make the folder '%s'", path);
			path[last] = '\0';
			remove_made(path, p->made);
			p->made = 0;
			return status;
		}
		last = i;
		path[i] = kept;
	}
	return TN_OK;
}

tn_status tn_parents_sync(const struct tn_parents *p, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	snprintf(path, sizeof path, "%s", p->path);
	TN_TRY(tn_folder_sync(path, err));
	for (int i = 0; i < p->made; i++) {
		char *slash = strrchr(path, '/');
		if (slash)
			slash[slash == path] = '\0';
		else
			memcpy(path, ".", 2);
		TN_TRY(tn_folder_sync(path, err));
	}
	return TN_OK;
}
