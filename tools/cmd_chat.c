/* SPDX-License-Identifier: Apache-2.0 */
#include "speaker.h"

#include <editline/readline.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	struct speaker_options speaker;
	uint64_t most_tokens;
} args;

static const struct cli_option options[] = {
	SPEAKER_MODEL_OPTIONS(args.speaker),
	SPEAKER_TEXT_OPTIONS(args.speaker, "a system message in front of the dialogue"),
	{ CLI_WHOLE, "-n, -m, --max-tokens", "N", "at most so many tokens in a reply (default 1000)", &args.most_tokens },
	SPEAKER_SAMPLING_OPTIONS(args.speaker),
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "chat",
	.usage = "--model DIR [--adapter-path ADAPTER[:WEIGHT]]... [options]",
	.about = "A dialogue in the model's own chat template, with the first adapter. Lines that begin with / are for tenon:\n"
		 "/adapter NAME, /adapter off, /adapter, /reset, /help, /quit. Adapters change between two turns and the base\n"
		 "stays where it is. Ctrl-C stops a reply.",
	.options = options,
	.elsewhere = speaker_elsewhere,
	.positional_max = 0,
};

static const char help[] =
	"/adapter NAME  speak with that adapter: one of --adapter-path, or a folder\n"
	"/adapter off   speak with the base alone\n"
	"/adapter       list them\n"
	"/reset         begin the dialogue again\n"
	"/quit          end (so does Ctrl-D)\n";

/* ---- the dialogue ---------------------------------------------------------------------------------------- */

struct dialogue {
	struct tn_chat_message *messages;
	size_t count, capacity;
	struct cli_content reply;
	int failed;                /* memory for the reply ran out */
};

static char *copy(const char *text, size_t n)
{
	char *p = malloc(n + 1);
	if (p) {
		memcpy(p, text, n);
		p[n] = '\0';
	}
	return p;
}

static int add(struct dialogue *d, const char *role, const char *text, size_t n)
{
	if (d->count == d->capacity) {
		size_t larger = d->capacity ? 2 * d->capacity : 16;
		struct tn_chat_message *messages = realloc(d->messages, larger * sizeof *messages);
		if (!messages)
			return 0;
		d->messages = messages;
		d->capacity = larger;
	}
	char *content = copy(text, n);
	if (!content)
		return 0;
	d->messages[d->count++] = (struct tn_chat_message){ role, content };
	return 1;
}

static void forget(struct dialogue *d, size_t count)
{
	while (d->count > count) {
		char *content;
		memcpy(&content, &d->messages[--d->count].content, sizeof content); /* it is our own copy */
		free(content);
	}
}

static int begin(struct dialogue *d)
{
	forget(d, 0);
	const char *system = args.speaker.system;
	return !system || add(d, "system", system, strlen(system));
}

static int keep(void *user, uint32_t id, const char *piece, size_t bytes)
{
	struct dialogue *d = user;
	(void)id;
	if (!piece)
		return 0;
	cli_say(piece, bytes);
	d->failed = !cli_content_add(&d->reply, piece, bytes);
	return d->failed;
}

/* A turn that fails leaves the dialogue as it was. */
static void turn(struct speaker *s, struct dialogue *d, const char *line)
{
	struct speaker_reply reply = { .most_tokens = args.most_tokens, .say = keep, .user = d };
	struct tn_buffer ids = { 0 };
	struct tn_error err;
	const size_t before = d->count;
	tn_status status = add(d, "user", line, strlen(line)) ? TN_OK : cli_no_memory(&err);
	d->reply.bytes = 0;
	d->failed = 0;
	cli_listen();
	if (status == TN_OK)
		status = speaker_render(s, d->messages, d->count, 0, &ids, &err);
	if (status == TN_OK)
		status = speaker_reply(s, ids.data, ids.bytes / sizeof(uint32_t), &reply, &err);
	tn_buffer_release(s->ctx, &ids);
	printf("\n");
	if (status == TN_OK && (d->failed || !add(d, "assistant", d->reply.text ? d->reply.text : "", d->reply.bytes)))
		status = cli_no_memory(&err);
	if (status != TN_OK) {
		forget(d, before);
		cli_fail(command.verb, &err);
		return;
	}
	speaker_print_full(s, command.verb, &reply);
	if (cli.verbose)
		speaker_print_speed(s);
}

/* ---- what begins with / ---------------------------------------------------------------------------------- */

static void list_adapters(struct speaker *s)
{
	tn_snapshot *now = tn_live_snapshot(s->live);
	struct tn_attachment a;
	for (size_t i = 0; i < tn_snapshot_count(now); i++) {
		tn_snapshot_at(now, i, &a);
		printf("%s\n", cli_safe(a.name));
	}
	if (tn_snapshot_count(now) == 0)
		printf("no adapters\n");
	tn_snapshot_release(now);
}

static int same_path(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	while (n > 1 && a[n - 1] == '/')
		n--;
	while (m > 1 && b[m - 1] == '/')
		m--;
	return n == m && memcmp(a, b, n) == 0;
}

/* The name under which an adapter is attached, for that name or for its path; 0: it is not. Folders elsewhere may end in the
 * same name, so the last part of a path is not enough. They stand in the order in which they were opened. */
static int find_attached(struct speaker *s, const char *wanted, char name[SPEAKER_NAME_BYTES])
{
	tn_snapshot *now = tn_live_snapshot(s->live);
	struct tn_attachment a;
	int found = 0;
	for (size_t i = 0; i < tn_snapshot_count(now) && !found; i++) {
		tn_snapshot_at(now, i, &a);
		found = strcmp(a.name, wanted) == 0 || same_path(tn_adapter_path(s->joining.adapters[i]), wanted);
	}
	if (found)
		snprintf(name, SPEAKER_NAME_BYTES, "%s", a.name);
	tn_snapshot_release(now);
	return found;
}

/* A folder that was not named before: opened and attached, for this choice alone. */
static tn_status attach_new(struct speaker *s, const char *path, const char *name, struct tn_error *err)
{
	struct joining *j = &s->joining;
	if (j->count == CLI_MOST_VALUES)
		return cli_error(err, TN_E_LIMIT, path, "'%.200s' would be one adapter more than the %d that a chat takes", path,
				 CLI_MOST_VALUES);
	tn_adapter *adapter;
	tn_status status = tn_adapter_open(s->ctx, path, &adapter, err);
	if (status != TN_OK)
		return status;
	status = tn_live_attach_disabled(s->live, name, adapter, 1, err);
	if (status == TN_OK)
		j->adapters[j->count++] = adapter;
	else
		tn_adapter_close(adapter);
	return status;
}

static void choose_adapter(struct speaker *s, const char *wanted)
{
	char name[SPEAKER_NAME_BYTES];
	struct tn_error err;
	const char *use = wanted;
	tn_status status = TN_OK;
	if (strcmp(wanted, "off") == 0) {
		use = "";
	} else {
		use = name;
		if (!find_attached(s, wanted, name))
			status = attach_new(s, wanted, speaker_free_name(s, name, wanted), &err);
	}
	if (status == TN_OK)
		status = tn_sequence_use(s->text, use, &err);
	if (status != TN_OK)
		cli_fail(command.verb, &err);
}

/* 0: the program ends. */
static int obey(struct speaker *s, struct dialogue *d, char *line)
{
	char *word = strtok(line, " \t"), *rest = strtok(NULL, "");
	if (rest)
		rest += strspn(rest, " \t");
	if (strcmp(word, "/quit") == 0 || strcmp(word, "/exit") == 0)
		return 0;
	if (strcmp(word, "/reset") == 0)
		begin(d);
	else if (strcmp(word, "/adapter") == 0 && rest && *rest)
		choose_adapter(s, rest);
	else if (strcmp(word, "/adapter") == 0)
		list_adapters(s);
	else
		printf("%s", help);
	return 1;
}

/* ---- lines ----------------------------------------------------------------------------------------------- */

/* The caller frees it; NULL: the end, or an interrupt. */
static char *read_line(int terminal)
{
	char *line = NULL;
	size_t capacity = 0;
	if (terminal) {
		line = readline("> ");
		if (line && *line)
			add_history(line);
		return line;
	}
	ssize_t n = getline(&line, &capacity, stdin);
	if (n < 0) {
		free(line);
		return NULL;
	}
	if (strlen(line) < (size_t)n)
		fprintf(stderr, "tenon %s: warning: a line has a NUL character; what stands behind it is left out\n", command.verb);
	line[strcspn(line, "\n")] = '\0';
	return line;
}

static int talk(struct speaker *s)
{
	struct dialogue d = { 0 };
	const int terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	int go_on = begin(&d);
	if (!speaker_has_template(s))
		fprintf(stderr, "tenon %s: warning: the model has no chat template; each message is sent alone, without the "
			"turns before it\n",
			command.verb);
	while (go_on) {
		cli_listen();
		char *line = read_line(terminal);
		if (!line && terminal && cli_interrupted())
			printf("\n");
		else if (!line)
			go_on = 0;
		else if (line[0] == '/')
			go_on = obey(s, &d, line);
		else if (line[strspn(line, " \t")])
			turn(s, &d, line);
		free(line);
	}
	forget(&d, 0);
	free(d.messages);
	free(d.reply.text);
	return EXIT_DONE;
}

int cmd_chat(int argc, char **argv)
{
	struct speaker s;
	struct tn_error err;
	char name[SPEAKER_NAME_BYTES];
	int status;
	memset(&args, 0, sizeof args);
	args.most_tokens = 1000;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if ((status = speaker_check(&command, &args.speaker)) >= 0)
		return status;
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	tn_status opened = speaker_open(ctx, &args.speaker, SPEAKER_NEEDS_TEXT | SPEAKER_VOICES, &s, &err);
	if (opened == TN_OK)
		opened = speaker_check_template(&s, "--system", args.speaker.system, &err);
	if (opened == TN_OK)
		opened = speaker_check_template(&s, "--chat-template-config", args.speaker.template_config, &err);
	if (opened == TN_OK)
		opened = tn_sequence_create(s.decoder, 4096 < s.info.context ? 4096 : (size_t)s.info.context, &s.text, &err);
	if (opened == TN_OK && s.joining.count)
		opened = tn_sequence_use(s.text, speaker_adapter_name(name, tn_adapter_path(s.joining.adapters[0])), &err);
	status = opened == TN_OK ? talk(&s) : cli_fail(command.verb, &err);
	speaker_close(&s);
	tn_context_destroy(ctx);
	return status;
}
