/* SPDX-License-Identifier: Apache-2.0 */
#include "store/replaceable.h"

#include "base/error.h"
#include "store/checkpoint.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* 1 when tenon may delete the entry: of a model folder because it can be had again by running the same job again; of an
 * adapter's because the caller saves that adapter anew. */
static int is_replaceable(const char *name, mode_t mode, int force)
{
	tn_file_role role = tn_file_role_of(name);
	if (force == TN_REPLACE_ADAPTER)
		return !S_ISDIR(mode) && (role == TN_ROLE_ADAPTER || role == TN_ROLE_DOCUMENT);
	if (S_ISDIR(mode))
		return strcmp(name, TN_TEMPLATES_FOLDER) == 0;
	return role == TN_ROLE_WEIGHTS || role == TN_ROLE_CONFIG || role == TN_ROLE_SIDECAR || role == TN_ROLE_DOCUMENT;
}

static tn_status check_entry(const char *folder, const char *name, int force, int *is_right, struct tn_error *err)
{
	char entry[TN_PATH_BYTES];
	struct stat st;
	TN_TRY(tn_path_join(entry, folder, name, err));
	if (lstat(entry, &st) != 0)
		return tn_fail_sys(err, errno, entry, "could not examine '%s'", entry);
	if (!is_replaceable(name, st.st_mode, force))
		return tn_fail(err, TN_E_EXISTS, entry,
			       "'%s' holds '%s', which tenon does not write; move it away, or choose another folder: replacing "
			       "would delete it",
			       folder, name);
	tn_file_role role = tn_file_role_of(name);
	*is_right |= role == TN_ROLE_ADAPTER || role == TN_ROLE_WEIGHTS || role == TN_ROLE_CONFIG;
	return TN_OK;
}

/* A folder that is to be replaced must hold a model, or an adapter, and nothing else. */
static tn_status check_replaceable(tn_context *ctx, const char *path, int force, struct tn_error *err)
{
	struct tn_names names;
	int is_right = 0;
	TN_TRY(tn_folder_list(ctx, path, &names, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < names.count && status == TN_OK; i++)
		status = check_entry(path, names.items[i], force, &is_right, err);
	tn_names_release(&names);
	if (status == TN_OK && !is_right && force == TN_REPLACE_ADAPTER)
		return tn_fail(err, TN_E_EXISTS, path,
			       "'%s' holds no adapter; only adapters are replaced, so choose another folder", path);
	if (status == TN_OK && !is_right)
		status = tn_fail(err, TN_E_EXISTS, path,
				 "'%s' holds no model: neither config.json nor *.safetensors; --force replaces models only, so "
				 "choose another folder",
				 path);
	return status;
}

tn_status tn_replaceable_check(tn_context *ctx, const char *target, int force, struct tn_error *err)
{
	struct stat st;
	if (lstat(target, &st) != 0)
		return errno == ENOENT ? TN_OK : tn_fail_sys(err, errno, target, "could not examine '%s'", target);
	if (!S_ISDIR(st.st_mode))
		return tn_fail(err, TN_E_EXISTS, target, "'%s' exists and is not a folder; choose another name", target);
	struct tn_names names;
	TN_TRY(tn_folder_list(ctx, target, &names, err));
	size_t count = names.count;
	tn_names_release(&names);
	if (count == 0)
		return TN_OK;
	if (!force)
		return tn_fail(err, TN_E_EXISTS, target, "'%s' exists and is not empty; use --force to replace it", target);
	return check_replaceable(ctx, target, force, err);
}

static int is_same_file(const char *a, const char *b)
{
	struct stat x, y;
	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

tn_status tn_replaceable_check_input(const char *save_path, const char *input, struct tn_error *err)
{
	char folder[PATH_MAX];
	if (is_same_file(save_path, input))
		return tn_fail(err, TN_E_ARG, save_path, "'%s' is an input of this job; choose another folder, so that it stays",
			       save_path);
	if (!realpath(input, folder))
		return TN_OK;
	char *slash = strrchr(folder, '/');
	slash[slash == folder] = '\0';
	if (is_same_file(save_path, folder))
		return tn_fail(err, TN_E_ARG, save_path, "'%.150s' holds '%.150s', an input of this job; choose another folder, so "
			       "that it stays", save_path, input);
	return TN_OK;
}
