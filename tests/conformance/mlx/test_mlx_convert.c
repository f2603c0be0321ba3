/* SPDX-License-Identifier: Apache-2.0 */
/* `tenon convert` with the arguments that were given to mlx_lm.convert (model/manifest.json): the same exit status, tensors,
 * config.json, index, files and bits per weight; where mlx-lm refuses, tenon does, in its words where they are MLX's. */
#include "vectors.h"

#include "tenon/checkpoint.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static json_t *manifest, *cases;
static char work[] = "/tmp/tenon-convert-XXXXXX";

/* Runs the case in the work folder, with its output in `said`; the exit status. */
static int run_case(const json_t *args, char *said, size_t bytes)
{
	char command[2048];
	size_t n = (size_t)snprintf(command, sizeof command, "cd '%s' && %s", work, TN_TEST_TENON);
	for (size_t i = 1; i < json_array_size(args); i++)
		n += (size_t)snprintf(command + n, sizeof command - n, " '%s'", json_string_value(json_array_get(args, i)));
	snprintf(command + n, sizeof command - n, " 2>&1");
	FILE *pipe = popen(command, "r");
	assert_non_null(pipe);
	size_t got = fread(said, 1, bytes - 1, pipe);
	said[got] = '\0';
	int status = pclose(pipe);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *argument(const json_t *args, const char *name)
{
	for (size_t i = 0; i + 1 < json_array_size(args); i++)
		if (strcmp(json_string_value(json_array_get(args, i)), name) == 0)
			return json_string_value(json_array_get(args, i + 1));
	return NULL;
}

static void check_tensors(const char *name, const char *folder, json_t *want)
{
	struct tn_error err;
	tn_checkpoint *c;
	const char *tensor;
	json_t *entry;
	if (tn_checkpoint_open(test_context(), folder, &c, &err) != TN_OK)
		fail_msg("%s: %s", name, err.msg);
	if (tn_checkpoint_count(c) != json_object_size(want))
		fail_msg("%s: %zu tensors, %zu were expected", name, tn_checkpoint_count(c), json_object_size(want));
	json_object_foreach(want, tensor, entry) {
		struct tn_buffer bytes;
		const struct tn_tensor *t;
		char digest[65];
		if (tn_checkpoint_load(c, tensor, &bytes, &t, &err) != TN_OK)
			fail_msg("%s: %s", name, err.msg);
		sha256_hex(bytes.data, bytes.bytes, digest);
		tn_buffer_release(test_context(), &bytes);
		if (strcmp(tn_dtype_name(t->dtype), json_string_value(json_array_get(entry, 0))) != 0 ||
		    strcmp(digest, json_string_value(json_array_get(entry, 2))) != 0)
			fail_msg("%s: '%s' has other bytes", name, tensor);
	}
	tn_checkpoint_close(c);
}

static json_t *load(const char *folder, const char *file)
{
	char path[1024];
	snprintf(path, sizeof path, "%s/%s", folder, file);
	json_t *root = json_load_file(path, 0, NULL);
	if (!root)
		fail_msg("no '%s'", path);
	return root;
}

/* Equal, and with the keys of the quantization in the same order. */
static void check_config(const char *name, const char *folder, json_t *want)
{
	json_t *have = load(folder, "config.json");
	char *a = json_dumps(have, 0), *b = json_dumps(want, 0);
	if (strcmp(a, b) != 0)
		fail_msg("%s: config.json is %s, expected %s", name, a, b);
	free(a);
	free(b);
	json_decref(have);
}

static void check_folder(const char *name, const char *folder, json_t *want)
{
	json_t *index = load(folder, "model.safetensors.index.json"), *file;
	size_t i, count = 0;
	if (!json_equal(json_object_get(index, "metadata"), json_object_get(json_object_get(want, "index"), "metadata")))
		fail_msg("%s: the index has another size", name);
	json_decref(index);
	json_array_foreach(json_object_get(want, "files"), i, file) {
		char path[1024];
		snprintf(path, sizeof path, "%s/%s", folder, json_string_value(file));
		if (access(path, R_OK) != 0)
			fail_msg("%s: no %s", name, path);
	}
	DIR *dir = opendir(folder);
	for (const struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_name[0] != '.';
	closedir(dir);
	assert_int_equal(count, json_array_size(json_object_get(want, "files")));
}

/* The words behind "ValueError: ", up to the end of the line. */
static void check_refusal(const char *name, const char *said, json_t *want)
{
	const char *error = json_string_value(json_object_get(want, "error"));
	char words[256];
	if (!error || strncmp(error, "ValueError: ", 12) != 0 || strstr(error, "Cannot save"))
		return;
	snprintf(words, sizeof words, "%.*s", (int)strcspn(error + 12, "\n"), error + 12);
	if (!strstr(said, words))
		fail_msg("%s: it said '%s', expected '%s'", name, said, words);
}

static void every_case(void **state)
{
	const char *name;
	json_t *want;
	int converted = 0, refused = 0;
	(void)state;
	json_object_foreach(cases, name, want) {
		json_t *args = json_object_get(want, "args");
		char said[8192], folder[512];
		snprintf(folder, sizeof folder, "%s/%s", work, argument(args, "--mlx-path"));
		if (strcmp(name, "bad_exists") == 0)
			mkdir(folder, 0777);
		int status = run_case(args, said, sizeof said);
		/* a wrong call is 2 here; in mlx-lm it is 2 or 1 */
		if ((status != 0) != (json_integer_value(json_object_get(want, "status")) != 0))
			fail_msg("%s: exit status %d: %s", name, status, said);
		if (status != 0) {
			check_refusal(name, said, want);
			refused++;
			continue;
		}
		check_tensors(name, folder, json_object_get(want, "tensors"));
		check_config(name, folder, json_object_get(want, "config"));
		check_folder(name, folder, want);
		const char *bits = json_string_value(json_object_get(want, "bits_per_weight"));
		if (bits && !strstr(said, bits))
			fail_msg("%s: it said '%s', expected %s bits per weight", name, said, bits);
		converted++;
	}
	print_message("%d conversions with mlx-lm's bytes, %d refusals\n", converted, refused);
}

static int set_up(void **state)
{
	char path[1024];
	(void)state;
	if (!mkdtemp(work))
		return -1;
	snprintf(path, sizeof path, "%s/sample", work);
	mkdir(path, 0777);
	snprintf(path, sizeof path, "%s/sample/base", work);
	if (symlink(TN_TEST_EXAMPLES "/base", path) != 0)
		return -1;
	snprintf(path, sizeof path, "%s/out", work);
	mkdir(path, 0777);
	manifest = json_load_file(TN_TEST_VECTORS "/model/manifest.json", 0, NULL);
	cases = json_object_get(manifest, "cases");
	return cases ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[128];
	(void)state;
	json_decref(manifest);
	snprintf(command, sizeof command, "rm -rf '%s'", work);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(every_case) };
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
