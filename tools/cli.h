/* What all verbs share: options, the context, messages, numbers for people.
 *
 * stdout holds the result, stderr everything else. Exit status: 0 done, 1 failed, 2 called wrongly, 130 interrupted. */
#ifndef TENON_CLI_H
#define TENON_CLI_H

#include "tenon/tenon.h"

#include <stdio.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* ---- options --------------------------------------------------------------------------------------------- */

enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_BYTES, CLI_COUNT, CLI_SHARE, CLI_NUMBER, CLI_WHOLE, CLI_LIST, CLI_SECTION };

/* The values of an option that may be given several times. */
enum { CLI_MOST_VALUES = 16 };
struct cli_list {
	const char *values[CLI_MOST_VALUES];
	int count;
};

struct cli_option {
	enum cli_kind kind;
	const char *names;        /* "--save-path", "-q, --quiet" */
	const char *value;        /* placeholder in the help; NULL for a flag */
	const char *help;
	void *target;             /* int, const char *, uint64_t, unsigned, double, double, uint64_t, struct cli_list */
};

/* Options that users of another program type and that a verb does not have; ends with names == NULL. */
struct cli_elsewhere {
	const char *names;
	const char *instead;      /* why not, or what does it here: follows "there is no option '...': " */
};

struct cli_command {
	const char *verb;
	const char *usage;        /* behind "tenon <verb> " */
	const char *about;        /* a few lines under the usage */
	const struct cli_option *options;   /* ends with names == NULL; the common ones are added */
	const struct cli_elsewhere *elsewhere;   /* or NULL */
	int positional_min, positional_max;
};

/* Settings that every verb takes. */
struct cli_common {
	int json, quiet, verbose;
	unsigned threads;
	uint64_t max_memory;
	const char *isa;
	const char *positional[16];
	int positional_count;
};
extern struct cli_common cli;

/* Parses; on --help, or a wrong call, prints and returns 0 with *exit_status set. 1: go on. */
int cli_parse(const struct cli_command *command, int argc, char **argv, int *exit_status);

/* Whether a name is what was typed but for a slip: one letter too many, too few or another, two neighbours exchanged, or the
 * rest left out. */
int cli_is_near(const char *typed, size_t n, const char *name, size_t m);
/* A finite number in decimal digits, and nothing else. */
int cli_number(const char *text, double *out);
/* The same for a whole number that 64 bits hold. */
int cli_whole(const char *text, uint64_t *out);
/* A wrong call that only the verb can see: prints and returns EXIT_USAGE. */
int cli_usage(const struct cli_command *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- the context ----------------------------------------------------------------------------------------- */

/* A context with the common settings, progress bar and interrupt handling; NULL after a message. */
tn_context *cli_context(const char *verb);

/* Prints the error (as JSON too with --json) and returns the exit status for it. */
int cli_fail(const char *verb, const struct tn_error *err);

/* Of --force and --resume for the jobs that write a folder. */
unsigned cli_save_flags(int force, int resume);

/* 1 after an interrupt. The first one only asks to stop, and the next one ends the program; cli_listen forgets what was asked
 * and waits for the first again. */
int cli_interrupted(void);
void cli_listen(void);

/* ---- errors and input ------------------------------------------------------------------------------------ */

/* Fills *err, and returns its code. */
tn_status cli_error(struct tn_error *err, tn_status code, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
tn_status cli_no_memory(struct tn_error *err);

/* Bytes that grow, with a NUL behind them; `text` is freed by whom it belongs to. Start from zeros. */
struct cli_content {
	char *text;
	size_t bytes, room;
};
/* 0: memory ran out, and the content is as it was. */
int cli_content_add(struct cli_content *content, const char *bytes, size_t n);

/* The most that is read of a text that a model shall read, and of one that is only tokenized. Its tokens take some 35 bytes of
 * memory for each of the text. */
enum { CLI_MOST_PROMPT = 64 << 20, CLI_MOST_TEXT = 256 << 20 };

/* The whole of a file, or of standard input for "-". TN_E_LIMIT: it has more than `most` bytes. */
tn_status cli_read(const char *path, size_t most, struct cli_content *out, struct tn_error *err);

/* Token ids: a JSON list, or numbers with spaces or commas between them. The text has a NUL behind it; the caller frees *ids.
 * TN_E_FORMAT: anything else. */
tn_status cli_parse_ids(const char *text, size_t bytes, const char *where, uint32_t **ids, size_t *count,
			struct tn_error *err);

/* Local time as chat templates are told it: into a buffer of the caller; NULL: there is no clock. */
enum { CLI_CLOCK_BYTES = 32 };
const char *cli_clock(char out[CLI_CLOCK_BYTES]);

/* ---- output ---------------------------------------------------------------------------------------------- */

/* The text with control characters, and bytes that are no UTF-8, as \xNN: whatever comes from a file or a path goes through
 * this on its way to people. The text itself when it is plain, else valid for three further calls. */
const char *cli_safe(const char *text);

/* 1 when the text is UTF-8, and JSON can hold it. */
int cli_is_utf8(const char *text);

/* What a model says, at once to stdout; a terminal gets its control characters, but for line ends and tabs, as \xNN. `text` has
 * a NUL behind it. */
void cli_say(const char *text, size_t bytes);

/* To stdout as a string of JSON; what is no UTF-8 becomes U+FFFD. */
void cli_print_json_text(const char *text);
/* The same for `length` bytes, which must end with a whole character, or with a NUL behind them. */
void cli_print_json_bytes(const char *text, size_t length);

/* To stdout, with so many digits; null for what is not finite, for which JSON has no number. */
void cli_print_json_number(double x, int digits);

/* For the library's JSON writers: to stdout. */
int cli_write(void *user, const char *bytes, size_t n);
/* The same to nowhere: for asking whether something can be written as JSON. */
int cli_discard(void *user, const char *bytes, size_t n);

/* "5.2 MB", "1.10 B": into a buffer of the caller, which is returned. */
enum { CLI_NUMBER_BYTES = 32 };
char *cli_bytes(char out[CLI_NUMBER_BYTES], uint64_t bytes);
char *cli_count(char out[CLI_NUMBER_BYTES], uint64_t count);
double cli_seconds(void);

#define CMD(verb, summary) int cmd_##verb(int argc, char **argv);
#include "cmds.def"
#undef CMD

#endif
