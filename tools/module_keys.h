/* Names of modules as --keys takes them. */
#ifndef TENON_MODULE_KEYS_H
#define TENON_MODULE_KEYS_H

#include "cli.h"

enum { MODULE_KEYS_MOST = 256, MODULE_KEYS_BYTES = 1 << 16 };

struct module_keys {
	const char *names[MODULE_KEYS_MOST];
	size_t count;
	char text[MODULE_KEYS_BYTES];
};

/* The values of the option, split at commas. EXIT_DONE, or EXIT_USAGE after a message. */
int module_keys_read(const struct cli_command *command, const struct cli_list *values, struct module_keys *out);

#endif
