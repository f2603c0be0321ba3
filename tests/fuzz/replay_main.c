/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target on every file of the folders (and on the files) of the command line, each from memory of its exact
 * size, and on every beginning of the small ones. */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SMALL = 1024 };

static size_t files_run;

static void run_beginning(const uint8_t *bytes, size_t n)
{
	uint8_t *exact = malloc(n ? n : 1);
	if (!exact)
		abort();
	if (n)
		memcpy(exact, bytes, n);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
}

static int run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	if (!f || fstat(fileno(f), &st) != 0) {
		perror(path);
		return 1;
	}
	size_t n = (size_t)st.st_size;
	uint8_t *bytes = malloc(n + 1);
	if (!bytes || fread(bytes, 1, n, f) != n) {
		perror(path);
		return 1;
	}
	fclose(f);
	run_beginning(bytes, n);
	for (size_t cut = 0; n <= SMALL && cut < n; cut++)
		run_beginning(bytes, cut);
	free(bytes);
	files_run++;
	return 0;
}

static int run_path(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, NULL, alphasort), failed = 0;
	if (count < 0)
		return run_file(path);
	for (int i = 0; i < count; i++) {
		char full[4096];
		snprintf(full, sizeof full, "%s/%s", path, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			failed |= run_path(full);
		free(entries[i]);
	}
	free(entries);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;
	for (int i = 1; i < argc; i++)
		failed |= run_path(argv[i]);
	printf("%zu files\n", files_run);
	return failed || files_run == 0;
}
