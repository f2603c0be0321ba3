/* SPDX-License-Identifier: Apache-2.0 */
#include "joining.h"

#include <string.h>
#include <sys/stat.h>

/* "path:0.7": the weight behind the last colon, unless the whole text names an adapter, or the colon is of a folder above it. */
static int split(const char *text, char path[4096], double *weight)
{
	const char *colon = strrchr(text, ':');
	struct stat st;
	*weight = 1;
	if (snprintf(path, 4096, "%s", text) >= 4096)
		return 0;
	if (!colon || strchr(colon, '/') || tn_adapter_is_folder(text) || (stat(text, &st) == 0 && S_ISREG(st.st_mode)))
		return 1;
	if (!cli_number(colon + 1, weight))
		return 0;
	path[colon - text] = '\0';
	return 1;
}

/* 1 when an adapter that is open is the same folder or file: on one line it is a slip. */
static int is_there(const struct joining *j, const char *path)
{
	struct stat own, other;
	for (int i = 0; i < j->count && stat(path, &own) == 0; i++)
		if (stat(tn_adapter_path(j->adapters[i]), &other) == 0 && own.st_dev == other.st_dev &&
		    own.st_ino == other.st_ino)
			return 1;
	return 0;
}

tn_status joining_open(tn_context *ctx, const struct cli_list *paths, struct joining *j, struct tn_fuse_options *options,
		       struct tn_error *err)
{
	for (int i = 0; i < paths->count; i++) {
		char path[4096];
		double weight;
		if (!split(paths->values[i], path, &weight))
			return cli_error(err, TN_E_ARG, paths->values[i], "'%.200s' ends with no finite number behind its last "
					 "colon: ADAPTER or ADAPTER:WEIGHT was expected", paths->values[i]);
		if (is_there(j, path))
			return cli_error(err, TN_E_ARG, path, "'%.200s' is there twice; add the weights up", path);
		tn_status status = tn_adapter_open(ctx, path, &j->adapters[i], err);
		if (status != TN_OK)
			return status;
		j->count = i + 1;
		if (i == 0)
			options->weight = weight;
		else
			j->more[i - 1] = (struct tn_weighted_adapter){ j->adapters[i], weight };
	}
	options->more = j->more;
	options->more_count = (size_t)(j->count ? j->count - 1 : 0);
	return TN_OK;
}

void joining_close(struct joining *j)
{
	for (int i = 0; i < j->count; i++)
		tn_adapter_close(j->adapters[i]);
	j->count = 0;
}
