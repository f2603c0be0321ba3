/* SPDX-License-Identifier: Apache-2.0 */
/* measure LIMIT_KB COMMAND...: runs the command and fails when its peak resident memory exceeds the limit. tenon maps no
 * files, so what is resident is its own memory and its code. The peak goes to stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	long limit = atol(argv[1]);
	pid_t child = fork();
	if (child == 0) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	int status;
	struct rusage usage;
	if (child < 0 || wait4(child, &status, 0, &usage) < 0)
		return 2;
	fprintf(stderr, "measure: peak %ld kB of %ld kB\n", usage.ru_maxrss, limit);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	if (usage.ru_maxrss > limit) {
		fprintf(stderr, "measure: that is too much\n");
		return 1;
	}
	return 0;
}
