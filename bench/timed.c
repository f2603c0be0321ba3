/* SPDX-License-Identifier: Apache-2.0 */
/* timed FILE COMMAND...: runs the command and writes to FILE one line: seconds, CPU seconds, peak resident kB, peak
 * anonymous kB. The exit status is the command's.
 *
 * Resident memory counts pages of mapped files too, which the system can take back at any time; the anonymous peak is
 * fair to programs that map their input. The kernel keeps no such peak, so it is sampled every 5 ms. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long anonymous_kb(pid_t pid)
{
	char line[256];
	long kb = 0;
	snprintf(line, sizeof line, "/proc/%ld/status", (long)pid);
	FILE *f = fopen(line, "r");
	if (!f)
		return 0;
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "RssAnon: %ld", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

/* Waits for the child; its end wakes us at once, so sampling does not blur the time. */
static long wait_sampling(pid_t child, const sigset_t *ends, int *status, struct rusage *usage)
{
	const struct timespec pause = { 0, 5000000 };
	long peak = 0;
	while (wait4(child, status, WNOHANG, usage) == 0) {
		long kb = anonymous_kb(child);
		peak = kb > peak ? kb : peak;
		sigtimedwait(ends, NULL, &pause);
	}
	return peak;
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

int main(int argc, char **argv)
{
	sigset_t ends;
	struct rusage usage = { 0 };
	int status = 0;
	if (argc < 3)
		return 2;
	sigemptyset(&ends);
	sigaddset(&ends, SIGCHLD);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	double start = now();
	pid_t child = fork();
	if (child < 0)
		return 2;
	if (child == 0) {
		sigprocmask(SIG_UNBLOCK, &ends, NULL);
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	long anonymous = wait_sampling(child, &ends, &status, &usage);
	double seconds = now() - start, cpu = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
	FILE *f = fopen(argv[1], "w");
	if (!f || fprintf(f, "%.4f %.4f %ld %ld\n", seconds, cpu, usage.ru_maxrss, anonymous) < 0 || fclose(f) != 0) {
		perror(argv[1]);
		return 2;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
