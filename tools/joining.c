/* SPDX-License-Identifier: Apache-2.0 */
#include "joining.h"

#include <stdlib.h>
#include <string.h>

/* "path:0.7": the weight behind the last colon, unless the whole text names a folder. */
static int split(const char *text, char path[4096], double *weight)
{
	const char *colon = strrchr(text, ':');
	char *end;
	*weight = 1;
	if (snprintf(path, 4096, "%s", text) >= 4096)
		return 0;
	if (!colon || tn_adapter_is_folder(text))
		return 1;
	*weight = strtod(colon + 1, &end);
	if (end == colon + 1 || *end)
		return strchr(colon, '/') != NULL;
	path[colon - text] = '\0';
	return 1;
}

tn_status joining_open(tn_context *ctx, const struct cli_list *paths, struct joining *j, struct tn_fuse_options *options,
		       struct tn_error *err)
{
	for (int i = 0; i < paths->count; i++) {
		char path[4096];
		double weight;
		if (!split(paths->values[i], path, &weight)) {
			*err = (struct tn_error){ .code = TN_E_ARG };
			snprintf(err->msg, sizeof err->msg, "'%.200s' is no adapter and no adapter:weight", paths->values[i]);
			return TN_E_ARG;
		}
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
