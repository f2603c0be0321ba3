/* SPDX-License-Identifier: Apache-2.0 */
#include "store/removal.h"

#include "base/error.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

tn_status tn_folder_remove_entry(const char *folder, const char *name, int depth, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	struct stat st;
	TN_TRY(tn_path_join(path, folder, name, err));
	if (lstat(path, &st) != 0)
		return tn_fail_sys(err, errno, path, "could not examine '%s'", path);
	if (S_ISDIR(st.st_mode) && depth > 0)
		return tn_folder_remove(path, depth - 1, err);
	return unlink(path) == 0 ? TN_OK : tn_fail_sys(err, errno, path, "could not remove '%s'", path);
}

tn_status tn_folder_remove(const char *path, int depth, struct tn_error *err)
{
	DIR *dir = opendir(path);
	if (!dir)
		return tn_fail_sys(err, errno, path, "could not open the folder '%s'", path);
	tn_status status = TN_OK;
	const struct dirent *entry;
	while (status == TN_OK && (errno = 0, entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			status = tn_folder_remove_entry(path, entry->d_name, depth, err);
	if (status == TN_OK && errno != 0)
		status = tn_fail_sys(err, errno, path, "could not read the folder '%s'", path);
	closedir(dir);
	if (status == TN_OK && rmdir(path) != 0)
		status = tn_fail_sys(err, errno, path, "could not remove the folder '%s'", path);
	return status;
}
