/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct {
	const char *verb, *summary;
	int (*run)(int argc, char **argv);
} commands[] = {
#define CMD(verb, summary) { #verb, summary, cmd_##verb },
#include "cmds.def"
#undef CMD
};

enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_overview(FILE *to)
{
	fprintf(to, "usage: tenon VERB [OPTIONS]\n\n"
		    "Joins LoRA adapters to safetensors checkpoints.\n\nVerbs:\n");
	for (int i = 0; i < COMMAND_COUNT; i++)
		fprintf(to, "  %-10s %s\n", commands[i].verb, commands[i].summary);
	fprintf(to, "\n'tenon VERB --help' says more about each. 'tenon --version' prints the version.\n");
}

/* A checkpoint can have more shards than the usual limit of 1024 open files. */
static void raise_file_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Where the caller closed stdin, stdout or stderr, the next file that is opened would take its number, and with it what is said
 * there: a receipt, a weight. To read from, or write to, what stands there now fails, as with what was closed. */
static void take_standard_numbers(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
			return;
}

/* A result that could not be written (a full disk behind stdout) is a failure. */
static int close_stdout(int status)
{
	int failed = ferror(stdout) | (fclose(stdout) != 0);
	if (failed && status == EXIT_DONE) {
		fprintf(stderr, "tenon: the output could not be written\n");
		return EXIT_FAILED;
	}
	return status;
}

static int run_verb(int argc, char **argv)
{
	for (int i = 0; i < COMMAND_COUNT; i++)
		if (strcmp(argv[0], commands[i].verb) == 0)
			return close_stdout(commands[i].run(argc, argv));
	fprintf(stderr, "tenon: there is no verb '%s'", cli_safe(argv[0]));
	for (int i = 0; i < COMMAND_COUNT; i++)
		if (cli_is_near(argv[0], strlen(argv[0]), commands[i].verb, strlen(commands[i].verb))) {
			fprintf(stderr, "; is '%s' meant?\n'tenon help' lists them.\n", commands[i].verb);
			return EXIT_USAGE;
		}
	fprintf(stderr, "\n");
	print_overview(stderr);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	static char help[] = "--help";
	take_standard_numbers();
	raise_file_limit();
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk, and what was begun is cleared away */
	if (argc < 2) {
		print_overview(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "help") == 0 && argc > 2)
		return run_verb(2, (char *[]){ argv[2], help, NULL });
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		print_overview(stdout);
		return close_stdout(EXIT_DONE);
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("tenon %s\n", tn_version());
		return close_stdout(EXIT_DONE);
	}
	return run_verb(argc - 1, argv + 1);
}
