/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the target on every file of a folder, and on every beginning of each. */
#include "fuzz_adapter.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

static int run_file(const char *path)
{
	static uint8_t bytes[1 << 16];
	FILE *f = fopen(path, "rb");
	if (!f) {
		perror(path);
		return 0;
	}
	size_t n = fread(bytes, 1, sizeof bytes, f);
	fclose(f);
	for (size_t cut = 0; cut <= n; cut++)
		LLVMFuzzerTestOneInput(bytes, cut);
	return 1;
}

int main(int argc, char **argv)
{
	struct dirent **entries;
	int count = argc > 1 ? scandir(argv[1], &entries, NULL, alphasort) : -1, run = 0;
	for (int i = 0; i < count; i++) {
		char path[4096];
		snprintf(path, sizeof path, "%s/%s", argv[1], entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			run += run_file(path);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	printf("%d files\n", run);
	return run > 0 ? 0 : 1;
}
