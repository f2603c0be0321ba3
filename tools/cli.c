/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

struct cli_common cli;

/* ---- options --------------------------------------------------------------------------------------------- */

static const struct cli_option common_options[] = {
	{ CLI_SECTION, "", NULL, "Common options:", NULL },
	{ CLI_FLAG, "--json", NULL, "result as JSON on stdout", &cli.json },
	{ CLI_BYTES, "--max-memory", "SIZE", "memory for buffers, for example 256M (the default) or 2G", &cli.max_memory },
	{ CLI_COUNT, "--threads", "N", "worker threads (default: one for each CPU)", &cli.threads },
	{ CLI_TEXT, "--isa", "NAME", "kernels to use: portable, avx2, avx512 (default: the best)", &cli.isa },
	{ CLI_FLAG, "-q, --quiet", NULL, "no progress, no summary", &cli.quiet },
	{ CLI_FLAG, "-v, --verbose", NULL, "say more", &cli.verbose },
	{ CLI_FLAG, "-h, --help", NULL, "this text", NULL },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

/* 1 when `arg`, of n bytes, is one of the names, "-q, --quiet". */
static int is_among(const char *names, const char *arg, size_t n)
{
	const char *p = names;
	while (*p) {
		size_t length = strcspn(p, ",");
		if (length == n && memcmp(p, arg, n) == 0)
			return 1;
		p += length;
		p += strspn(p, ", ");
	}
	return 0;
}

int cli_is_near(const char *typed, size_t n, const char *name, size_t m)
{
	size_t front = 0, back = 0;
	while (front < n && front < m && typed[front] == name[front])
		front++;
	while (back < n - front && back < m - front && typed[n - 1 - back] == name[m - 1 - back])
		back++;
	size_t a = n - front - back, b = m - front - back;
	const char *x = typed + front, *y = name + front;
	return (a <= 1 && b <= 1) || (a == 2 && b == 2 && x[0] == y[1] && x[1] == y[0]) || (a == 0 && n >= 4);
}

/* The first name that `arg` may have been meant for; *length is 0 when there is none. */
static const char *near_name(const struct cli_option *options, const char *arg, size_t n, size_t *length)
{
	for (; options->names; options++)
		for (const char *p = options->names; *p; p += *length, p += strspn(p, ", ")) {
			*length = strcspn(p, ",");
			if (options->kind != CLI_SECTION && *length > 2 && cli_is_near(arg, n, p, *length))
				return p;
		}
	*length = 0;
	return "";
}

static int fail_option(const struct cli_command *command, const char *arg, size_t n)
{
	size_t length;
	for (const struct cli_elsewhere *e = command->elsewhere; e && e->names; e++)
		if (is_among(e->names, arg, n))
			return cli_usage(command, "there is no option '%.*s': %s", (int)n, arg, e->instead);
	const char *near = near_name(command->options, arg, n, &length);
	if (!length)
		near = near_name(common_options, arg, n, &length);
	return cli_usage(command, length ? "there is no option '%.*s'; is '%.*s' meant?" : "there is no option '%.*s'", (int)n, arg,
			 (int)length, near);
}

static const struct cli_option *find_option(const struct cli_option *options, const char *arg, size_t n)
{
	for (; options->names; options++)
		if (options->kind != CLI_SECTION && is_among(options->names, arg, n))
			return options;
	return NULL;
}

enum { NAMES_WIDTH = 28 };

/* `taken`: options whose names win over these; a short name that is among them is left out. */
static void print_options(FILE *to, const struct cli_option *options, const struct cli_option *taken)
{
	for (; options->names; options++) {
		char left[64];
		const char *names = options->names, *comma = strchr(names, ',');
		if (options->kind == CLI_SECTION) {
			fprintf(to, "\n%s\n", options->help);
			continue;
		}
		if (taken && comma && find_option(taken, names, (size_t)(comma - names)))
			names = comma + 2;
		snprintf(left, sizeof left, "%s%s%s", names, options->value ? " " : "",
			 options->value ? options->value : "");
		if (strlen(left) > NAMES_WIDTH)
			fprintf(to, "  %s\n  %-*s %s\n", left, NAMES_WIDTH, "", options->help);
		else
			fprintf(to, "  %-*s %s\n", NAMES_WIDTH, left, options->help);
	}
}

static void print_help(const struct cli_command *command)
{
	printf("usage: tenon %s %s\n\n%s\n", command->verb, command->usage, command->about);
	if (command->options->names)
		printf("\nOptions:\n");
	print_options(stdout, command->options, NULL);
	print_options(stdout, common_options, command->options);
}

int cli_usage(const struct cli_command *command, const char *fmt, ...)
{
	char message[4096];
	va_list args;
	va_start(args, fmt);
	vsnprintf(message, sizeof message, fmt, args);
	va_end(args);
	fprintf(stderr, "tenon %s: %s\nusage: tenon %s %s\nTry 'tenon %s --help'.\n", command->verb, cli_safe(message),
		command->verb, command->usage, command->verb);
	return EXIT_USAGE;
}

/* "256M", "2G", "1.5GiB": digits, perhaps a fraction, and a power of 1024. */
static int parse_bytes(const char *text, uint64_t *out)
{
	static const char digits[] = "0123456789", units[] = "KMGT";
	size_t whole = strspn(text, digits), fraction = text[whole] == '.' ? 1 + strspn(text + whole + 1, digits) : 0;
	const char *unit = text + whole + fraction, *found = *unit ? strchr(units, *unit & ~0x20) : NULL;
	if (whole == 0 || fraction == 1)
		return 0;
	double n = strtod(text, NULL);
	for (const char *u = units; found && u <= found; u++)
		n *= 1024;
	const char *rest = found ? unit + 1 : unit;
	if (*rest && strcasecmp(rest, "B") != 0 && (!found || strcasecmp(rest, "iB") != 0))
		return 0;
	if (!(n >= 1 && n < 9e18))
		return 0;
	*out = (uint64_t)n;
	return 1;
}

static int parse_count(const char *text, unsigned *out)
{
	unsigned long n = strtoul(text, NULL, 10);
	if (text[strspn(text, "0123456789")] || n == 0 || n > 1024)
		return 0;
	*out = (unsigned)n;
	return 1;
}

int cli_number(const char *text, double *out)
{
	char *end;
	*out = strtod(text, &end);
	return end != text && text[strspn(text, "-+.eE0123456789")] == '\0' && !*end && isfinite(*out);
}

static int parse_share(const char *text, double *out)
{
	return cli_number(text, out) && *out >= 0 && *out <= 1;
}

static int parse_number(const char *text, double *out)
{
	return cli_number(text, out) && *out >= 0 && *out < 1e30;
}

int cli_whole(const char *text, uint64_t *out)
{
	errno = 0;
	*out = strtoull(text, NULL, 10);
	return *text && text[strspn(text, "0123456789")] == '\0' && errno == 0;
}

static int add_value(const char *text, struct cli_list *list)
{
	list->values[list->count++] = text;
	return 1;
}

/* 1 when the value fits the option. */
static int set_value(const struct cli_option *option, const char *value)
{
	switch (option->kind) {
	case CLI_TEXT: *(const char **)option->target = value; return 1;
	case CLI_BYTES: return parse_bytes(value, option->target);
	case CLI_COUNT: return parse_count(value, option->target);
	case CLI_SHARE: return parse_share(value, option->target);
	case CLI_NUMBER: return parse_number(value, option->target);
	case CLI_WHOLE: return cli_whole(value, option->target);
	case CLI_LIST: return add_value(value, option->target);
	default: return 0;
	}
}

/* One option at argv[*i]; -1: go on, else the exit status. */
static int take_option(const struct cli_command *command, int argc, char **argv, int *i)
{
	const char *arg = argv[*i], *equals = arg[1] == '-' ? strchr(arg, '=') : NULL;
	size_t n = equals ? (size_t)(equals - arg) : strlen(arg);
	const struct cli_option *option = find_option(command->options, arg, n);
	if (!option)
		option = find_option(common_options, arg, n);
	if (!option)
		return fail_option(command, arg, n);
	if (option->kind == CLI_FLAG) {
		if (equals)
			return cli_usage(command, "'%.*s' takes no value", (int)n, arg);
		if (!option->target) {
			print_help(command);
			return EXIT_DONE;
		}
		*(int *)option->target = 1;
		return -1;
	}
	if (!equals && *i + 1 >= argc)
		return cli_usage(command, "'%s' needs a value, %s", arg, option->value);
	const char *value = equals ? equals + 1 : argv[++*i];
	if (option->kind == CLI_LIST && ((const struct cli_list *)option->target)->count == CLI_MOST_VALUES)
		return cli_usage(command, "'%.*s' may be given %d times; '%s' is one too many", (int)n, arg, (int)CLI_MOST_VALUES,
				 value);
	if (!*value || !set_value(option, value))
		return cli_usage(command, "'%s' is not a value for '%.*s' (%s)", value, (int)n, arg, option->help);
	return -1;
}

/* The library knows which kernels there are. */
static int check_isa(const struct cli_command *command)
{
	struct tn_options options = TN_OPTIONS_INIT;
	struct tn_error err;
	tn_context *ctx = NULL;
	options.isa = cli.isa;
	tn_status status = cli.isa ? tn_context_create(&options, &ctx, &err) : TN_OK;
	tn_context_destroy(ctx);
	return status == TN_E_ARG ? cli_usage(command, "%s", err.msg) : -1;
}

int cli_parse(const struct cli_command *command, int argc, char **argv, int *exit_status)
{
	int only_positional = 0;
	for (int i = 1; i < argc; i++) {
		if (!only_positional && strcmp(argv[i], "--") == 0) {
			only_positional = 1;
		} else if (!only_positional && argv[i][0] == '-' && argv[i][1]) {
			*exit_status = take_option(command, argc, argv, &i);
			if (*exit_status >= 0)
				return 0;
		} else if (cli.positional_count == command->positional_max) {
			*exit_status = cli_usage(command, "'%s' is one argument too many%s", argv[i], command->positional_max ? ""
						 : ": everything is named by an option");
			return 0;
		} else {
			cli.positional[cli.positional_count++] = argv[i];
		}
	}
	if (cli.positional_count < command->positional_min) {
		*exit_status = cli_usage(command, "%d argument%s expected, %d given", command->positional_min,
					 command->positional_min == 1 ? " is" : "s are", cli.positional_count);
		return 0;
	}
	*exit_status = check_isa(command);
	return *exit_status < 0;
}

/* ---- progress, interrupts, log --------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;
static int bar_shown;
static double started;

static void on_interrupt(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
}

double cli_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void erase_bar(void)
{
	if (bar_shown)
		fprintf(stderr, "\r\033[K");
	bar_shown = 0;
}

static void draw_bar(const struct tn_progress *p)
{
	enum { WIDTH = 30 };
	char done[CLI_NUMBER_BYTES], total[CLI_NUMBER_BYTES], rate[CLI_NUMBER_BYTES], bar[WIDTH + 1];
	double elapsed = cli_seconds() - started, share = p->total_bytes ? (double)p->done_bytes / (double)p->total_bytes : 1;
	double speed = elapsed > 0 ? (double)p->done_bytes / elapsed : 0;
	int filled = (int)(share * WIDTH);
	for (int i = 0; i < WIDTH; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[WIDTH] = '\0';
	fprintf(stderr, "\r%s [%s] %s of %s, %s/s", p->phase, bar, cli_bytes(done, p->done_bytes),
		cli_bytes(total, p->total_bytes), cli_bytes(rate, (uint64_t)speed));
	if (speed > 0 && p->done_bytes < p->total_bytes)
		fprintf(stderr, ", %.0f s left", (double)(p->total_bytes - p->done_bytes) / speed);
	fprintf(stderr, "\033[K");
	bar_shown = 1;
}

/* Short work shows no bar: it would only flicker. */
static int on_progress(void *user, const struct tn_progress *progress)
{
	int is_terminal = *(const int *)user;
	if (strcmp(progress->phase, "tokens") == 0) /* a bar would stand in the midst of the dialogue */
		return interrupted;
	if (is_terminal && cli_seconds() - started > 0.5)
		draw_bar(progress);
	if (progress->done_bytes >= progress->total_bytes)
		erase_bar();
	return interrupted;
}

static void on_log(void *user, tn_log_level level, const char *message)
{
	(void)user;
	if (level < TN_LOG_WARNING && !cli.verbose)
		return;
	erase_bar();
	fprintf(stderr, "tenon: %s%s\n", level == TN_LOG_WARNING ? "warning: " : "", cli_safe(message));
}

int cli_interrupted(void)
{
	return interrupted;
}

void cli_listen(void)
{
	struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = SA_RESETHAND };
	interrupted = 0;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	struct sigaction hangup; /* ignored under nohup, and that is meant */
	if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
		sigaction(SIGHUP, &action, NULL);
}

tn_context *cli_context(const char *verb)
{
	static int is_terminal;
	struct tn_options options = TN_OPTIONS_INIT;
	struct tn_error err;
	tn_context *ctx;
	is_terminal = !cli.quiet && isatty(STDERR_FILENO);
	started = cli_seconds();
	options.log = on_log;
	options.progress = on_progress;
	options.progress_user = &is_terminal;
	options.threads = cli.threads;
	options.memory_budget_bytes = cli.max_memory;
	options.isa = cli.isa;
	cli_listen();
	if (tn_context_create(&options, &ctx, &err) != TN_OK) {
		cli_fail(verb, &err);
		return NULL;
	}
	return ctx;
}

/* ---- output ---------------------------------------------------------------------------------------------- */

unsigned cli_save_flags(int force, int resume)
{
	return (force ? (unsigned)TN_SAVE_FORCE : 0) | (resume ? (unsigned)TN_SAVE_RESUME : 0);
}

int cli_write(void *user, const char *bytes, size_t n)
{
	(void)user;
	return fwrite(bytes, 1, n, stdout) != n;
}

int cli_discard(void *user, const char *bytes, size_t n)
{
	(void)user;
	(void)bytes;
	(void)n;
	return 0;
}

int cli_fail(const char *verb, const struct tn_error *err)
{
	erase_bar();
	fprintf(stderr, "tenon %s: %s\n", verb, cli_safe(err->msg));
	if (cli.json) {
		printf("{\n  \"ok\": false,\n  \"error\": {\"code\": \"%s\", \"where\": ", tn_status_name(err->code));
		cli_print_json_text(err->where);
		printf(", \"message\": ");
		cli_print_json_text(err->msg);
		printf("}\n}\n");
	}
	return err->code == TN_E_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
}

static char *scaled(char out[CLI_NUMBER_BYTES], double n, const char *const *units)
{
	int i = 0;
	while (n >= 999.5 && units[i + 1]) {
		n /= 1000;
		i++;
	}
	int digits = i == 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
	snprintf(out, CLI_NUMBER_BYTES, "%.*f%s%s", digits, n, *units[i] ? " " : "", units[i]);
	return out;
}

char *cli_bytes(char out[CLI_NUMBER_BYTES], uint64_t bytes)
{
	static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB", NULL };
	return scaled(out, (double)bytes, units);
}

char *cli_count(char out[CLI_NUMBER_BYTES], uint64_t count)
{
	static const char *const units[] = { "", "k", "M", "B", "T", NULL };
	return scaled(out, (double)count, units);
}
