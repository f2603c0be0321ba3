/* SPDX-License-Identifier: Apache-2.0 */
#include "groups.h"

#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 2048 };

/* The name with '#' for each dotted part that is a number; the numbers into `numbers`. */
static int make_pattern(const char *name, char *pattern, uint64_t numbers[GROUP_NUMBERS])
{
	int count = 0;
	size_t n = 0;
	while (*name && n + 1 < LONGEST_NAME) {
		size_t length = strcspn(name, "."), digits = strspn(name, "0123456789");
		if (digits == length && length > 0 && length < 19 && count < GROUP_NUMBERS) {
			numbers[count++] = strtoull(name, NULL, 10);
			pattern[n++] = '#';
		} else {
			for (size_t i = 0; i < length && n + 1 < LONGEST_NAME; i++)
				pattern[n++] = name[i];
		}
		name += length;
		if (*name == '.' && n + 1 < LONGEST_NAME) {
			pattern[n++] = '.';
			name++;
		}
	}
	pattern[n] = '\0';
	return count;
}

static size_t hash(const char *a, const char *b)
{
	uint64_t h = 1469598103934665603u;
	for (; *a; a++)
		h = (h ^ (unsigned char)*a) * 1099511628211u;
	for (h *= 31; *b; b++)
		h = (h ^ (unsigned char)*b) * 1099511628211u;
	return (size_t)h;
}

static size_t *find_slot(struct groups *groups, const char *pattern, const char *detail)
{
	size_t i = hash(pattern, detail) & (groups->slot_count - 1);
	for (;; i = (i + 1) & (groups->slot_count - 1)) {
		size_t *slot = &groups->slots[i];
		if (!*slot)
			return slot;
		const struct group *group = &groups->items[*slot - 1];
		if (strcmp(group->pattern, pattern) == 0 && strcmp(group->detail, detail) == 0)
			return slot;
	}
}

/* Keeps the table at most half full. */
static int make_room(struct groups *groups)
{
	if (groups->count == groups->capacity) {
		size_t capacity = groups->capacity ? groups->capacity * 2 : 64;
		struct group *items = realloc(groups->items, capacity * sizeof *items);
		if (!items)
			return 0;
		groups->items = items;
		groups->capacity = capacity;
	}
	if (groups->slot_count < 2 * (groups->count + 1)) {
		size_t slot_count = groups->slot_count ? groups->slot_count * 2 : 256;
		size_t *slots = calloc(slot_count, sizeof *slots);
		if (!slots)
			return 0;
		free(groups->slots);
		groups->slots = slots;
		groups->slot_count = slot_count;
		for (size_t i = 0; i < groups->count; i++)
			*find_slot(groups, groups->items[i].pattern, groups->items[i].detail) = i + 1;
	}
	return 1;
}

static struct group *new_group(struct groups *groups, const char *pattern, const char *detail)
{
	struct group group = { .pattern = strdup(pattern), .detail = strdup(detail) };
	if (!group.pattern || !group.detail) {
		free(group.pattern);
		free(group.detail);
		return NULL;
	}
	groups->items[groups->count++] = group;
	return &groups->items[groups->count - 1];
}

int groups_add(struct groups *groups, const char *name, const char *detail, uint64_t parameters, uint64_t bytes)
{
	char pattern[LONGEST_NAME];
	uint64_t numbers[GROUP_NUMBERS];
	int count = make_pattern(cli_safe(name), pattern, numbers);
	if (!make_room(groups))
		return 0;
	size_t *slot = find_slot(groups, pattern, detail);
	struct group *group = *slot ? &groups->items[*slot - 1] : new_group(groups, pattern, detail);
	if (!group)
		return 0;
	if (!*slot) {
		*slot = groups->count;
		group->numbers = count;
		memcpy(group->low, numbers, sizeof numbers);
		memcpy(group->high, numbers, sizeof numbers);
	}
	for (int i = 0; i < count; i++) {
		if (numbers[i] < group->low[i])
			group->low[i] = numbers[i];
		if (numbers[i] > group->high[i])
			group->high[i] = numbers[i];
	}
	group->count++;
	group->parameters += parameters;
	group->bytes += bytes;
	return 1;
}

void groups_free(struct groups *groups)
{
	for (size_t i = 0; i < groups->count; i++) {
		free(groups->items[i].pattern);
		free(groups->items[i].detail);
	}
	free(groups->items);
	free(groups->slots);
	*groups = (struct groups){ 0 };
}

char *group_name(const struct group *group, char *out, size_t bytes)
{
	size_t n = 0;
	int number = 0;
	for (const char *p = group->pattern; *p && n + 48 < bytes; p++) {
		if (*p != '#' || number >= group->numbers)
			out[n++] = *p;
		else if (group->low[number] == group->high[number])
			n += (size_t)snprintf(out + n, bytes - n, "%llu", (unsigned long long)group->low[number++]);
		else {
			n += (size_t)snprintf(out + n, bytes - n, "%llu-%llu", (unsigned long long)group->low[number],
					      (unsigned long long)group->high[number]);
			number++;
		}
	}
	out[n] = '\0';
	return out;
}
