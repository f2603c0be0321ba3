/* SPDX-License-Identifier: Apache-2.0 */
#include "module_keys.h"

#include <string.h>

int module_keys_read(const struct cli_command *command, const struct cli_list *values, struct module_keys *out)
{
	size_t used = 0;
	out->count = 0;
	for (int i = 0; i < values->count; i++) {
		size_t n = strlen(values->values[i]) + 1;
		if (n > sizeof out->text - used)
			return cli_usage(command, "the names of --keys are too long");
		memcpy(out->text + used, values->values[i], n);
		for (char *key = out->text + used, *next; key; key = next) {
			next = strchr(key, ',');
			if (next)
				*next++ = '\0';
			if (!*key)
				continue;
			if (out->count == MODULE_KEYS_MOST)
				return cli_usage(command, "--keys takes at most %d names", (int)MODULE_KEYS_MOST);
			out->names[out->count++] = key;
		}
		used += n;
	}
	if (values->count && !out->count)
		return cli_usage(command, "--keys names nothing; name modules, or leave it out");
	return EXIT_DONE;
}
