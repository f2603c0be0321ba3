/* Folding the repeated layers of a model into one line each: names that differ only in numbers, with the same details,
 * make one group, and its name shows the ranges: model.layers.0-31.mlp.down_proj.weight. */
#ifndef TENON_GROUPS_H
#define TENON_GROUPS_H

#include <stddef.h>
#include <stdint.h>

enum { GROUP_NUMBERS = 8 };

struct group {
	char *pattern;              /* the first name, with '#' for its numbers */
	char *detail;
	uint64_t count, parameters, bytes;
	int numbers;
	uint64_t low[GROUP_NUMBERS], high[GROUP_NUMBERS];
};

struct groups {
	struct group *items;        /* in the order in which they appeared */
	size_t count, capacity;
	size_t *slots;              /* hash table of item numbers + 1 */
	size_t slot_count;
};

/* Adds one, its name as cli_safe shows it; 0 when memory ran out. */
int groups_add(struct groups *groups, const char *name, const char *detail, uint64_t parameters, uint64_t bytes);
void groups_free(struct groups *groups);

/* The name of a group with its ranges, in a buffer of the caller. */
char *group_name(const struct group *group, char *out, size_t bytes);

#endif
