/* SPDX-License-Identifier: Apache-2.0 */
/* The error of a landing names the first module that has no place. Here are the others, so that all can be mended at once. */
#include "adapter/land.h"

#include <stdio.h>
#include <string.h>

enum { MOST_NAMED = 8, LIST_BYTES = 900 };

struct misfits {
	size_t count;
	char list[LIST_BYTES];
	size_t length;
};

static void add(struct misfits *m, const char *path)
{
	size_t left = sizeof m->list - m->length;
	if (m->count++ >= MOST_NAMED)
		return;
	int n = snprintf(m->list + m->length, left, "%s'%.100s'", m->length ? ", " : "", path);
	m->length += n > 0 && (size_t)n < left ? (size_t)n : 0;
	m->list[m->length] = '\0';
}

void tn_joint_name_misfits(struct tn_joint *j, size_t failed, int saved, size_t *targets)
{
	struct misfits m = { .count = 0 };
	struct tn_error ignored;
	for (int pass = saved; pass >= 0; pass--)
		for (size_t i = pass == saved ? failed + 1 : 0; i < j->adapter->count; i++)
			if (tn_joint_land_entry(j, i, pass, targets, &ignored) == TN_E_MISMATCH)
				add(&m, j->adapter->entries[i].module.path);
	if (m.count)
		tn_logf(j->ctx, TN_LOG_WARNING, "%zu more modules of the adapter have no place on this base: %s%s", m.count, m.list,
			m.count > MOST_NAMED ? ", ..." : "");
}
