/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "store/checkpoint.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file with tensors of one byte each: "abc" makes a, b and c, whose bytes are their names. */
static void write_shard(struct tt *t, const char *name, const char *tensors)
{
	char header[2000] = "{";
	for (size_t i = 0; tensors[i]; i++)
		snprintf(header + strlen(header), sizeof header - strlen(header),
			 "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}", i ? "," : "", tensors[i], i,
			 i + 1);
	strcat(header, "}");
	tt_write_st(tt_path(t, "%s", name), header, tensors, strlen(tensors));
}

/* "a=one b=two" as the weight_map. */
static void write_index(struct tt *t, const char *name, const char *map)
{
	char text[2000] = "{\"metadata\":{},\"weight_map\":{", copy[500];
	snprintf(copy, sizeof copy, "%s", map);
	const char *comma = "";
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "), comma = ",")
		snprintf(text + strlen(text), sizeof text - strlen(text), "%s\"%c\":\"%s.safetensors\"", comma, word[0],
			 word + 2);
	strcat(text, "}}");
	tt_write_text(tt_path(t, "%s", name), text);
}

static tn_checkpoint *open_folder(struct tt *t)
{
	tn_checkpoint *c = NULL;
	tt_ok(t, tn_checkpoint_open(t->ctx, t->folder, &c, &t->err));
	return c;
}

static void expect_tensors(struct tt *t, const tn_checkpoint *c, const char *names)
{
	assert_int_equal(tn_checkpoint_count(c), strlen(names));
	for (size_t i = 0; names[i]; i++) {
		const char name[2] = { names[i], 0 };
		char byte = 0;
		const struct tn_tensor *x = tn_checkpoint_find(c, name), *loaded = NULL;
		struct tn_buffer buffer;
		assert_non_null(x);
		assert_ptr_equal(x, tn_checkpoint_at(c, i));
		tt_ok(t, tn_checkpoint_read(c, x, 0, &byte, 1, &t->err));
		assert_int_equal(byte, names[i]);
		tt_ok(t, tn_checkpoint_load(c, name, &buffer, &loaded, &t->err));
		assert_ptr_equal(loaded, x);
		assert_int_equal(*(char *)buffer.data, names[i]);
		tn_buffer_release(t->ctx, &buffer);
	}
	assert_null(tn_checkpoint_at(c, strlen(names)));
	assert_null(tn_checkpoint_find(c, "?"));
	assert_int_equal(tn_checkpoint_tensor_bytes(c), strlen(names));
}

static void expect_refused(struct tt *t, tn_status expected, const char *text)
{
	tn_checkpoint *c = NULL;
	tt_expect(t, tn_checkpoint_open(t->ctx, t->folder, &c, &t->err), expected);
	assert_null(c);
	tt_expect_msg(t, text);
}

static void with_an_index(void **state)
{
	struct tt *t = *state;
	write_shard(t, "two.safetensors", "ca");
	write_shard(t, "one.safetensors", "db");
	write_shard(t, "stray.safetensors", "a"); /* the index does not name it */
	write_index(t, TN_INDEX_NAME, "a=two b=one c=two d=one");
	tt_write_text(tt_path(t, "config.json"), "{\"a\":1}");
	tn_checkpoint *c = open_folder(t);
	expect_tensors(t, c, "abcd");
	assert_true(tn_checkpoint_is_folder(c));
	assert_true(tn_checkpoint_has_index(c));
	assert_int_equal(tn_checkpoint_shard_count(c), 2);
	assert_string_equal(tn_checkpoint_shard_name(c, 0), "one.safetensors");
	assert_string_equal(tn_checkpoint_shard_name(c, 1), "two.safetensors");
	assert_null(tn_checkpoint_shard(c, 2));
	assert_null(tn_checkpoint_shard_name(c, 2));
	assert_int_equal(tn_checkpoint_find(c, "a")->shard, 1);
	assert_string_equal(tn_checkpoint_config(c), "{\"a\":1}");
	assert_string_equal(tn_checkpoint_path(c), t->folder);
	struct tn_buffer buffer;
	tt_expect(t, tn_checkpoint_load(c, "zz", &buffer, NULL, &t->err), TN_E_NOTFOUND);
	tn_checkpoint_close(c);
	tn_checkpoint_close(NULL);
}

static void without_an_index(void **state)
{
	struct tt *t = *state;
	write_shard(t, "model-2.safetensors", "a");
	write_shard(t, "model-1.safetensors", "bc");
	write_shard(t, "adapters.safetensors", "a");
	write_shard(t, "adapter_model.safetensors", "b");
	write_shard(t, "0000100_adapters.safetensors", "c");
	write_shard(t, ".hidden.safetensors", "a");
	tt_write_text(tt_path(t, "model.safetensors.bak"), "junk");
	tn_checkpoint *c = open_folder(t);
	expect_tensors(t, c, "abc");
	assert_false(tn_checkpoint_has_index(c));
	assert_int_equal(tn_checkpoint_shard_count(c), 2);
	assert_string_equal(tn_checkpoint_shard_name(c, 0), "model-1.safetensors");
	assert_null(tn_checkpoint_config(c));
	tn_checkpoint_close(c);
}

static void a_single_file(void **state)
{
	struct tt *t = *state;
	tn_checkpoint *c;
	write_shard(t, "adapters.safetensors", "ba");
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "adapters.safetensors"), &c, &t->err));
	expect_tensors(t, c, "ab");
	assert_false(tn_checkpoint_is_folder(c));
	assert_string_equal(tn_checkpoint_shard_name(c, 0), "adapters.safetensors");
	tn_checkpoint_close(c);
}

static void other_index_names(void **state)
{
	struct tt *t = *state;
	write_shard(t, "one.safetensors", "a");
	write_index(t, "diffusion_pytorch_model.safetensors.index.json", "a=one");
	tn_checkpoint *c = open_folder(t);
	assert_true(tn_checkpoint_has_index(c));
	tn_checkpoint_close(c);
	write_index(t, "x.safetensors.index.json", "a=one");
	expect_refused(t, TN_E_FORMAT, "two indexes");
	write_index(t, TN_INDEX_NAME, "a=one"); /* the usual name settles it */
	c = open_folder(t);
	tn_checkpoint_close(c);
}

static void missing_things(void **state)
{
	struct tt *t = *state;
	tn_checkpoint *c = NULL;
	tt_expect(t, tn_checkpoint_open(t->ctx, tt_path(t, "no"), &c, &t->err), TN_E_NOTFOUND);
	expect_refused(t, TN_E_NOTFOUND, "No .safetensors files");
	write_shard(t, "adapters.safetensors", "a");
	expect_refused(t, TN_E_NOTFOUND, "No .safetensors files");
	write_shard(t, "one.safetensors", "a");
	write_index(t, TN_INDEX_NAME, "a=one b=two");
	expect_refused(t, TN_E_NOTFOUND, "two.safetensors");
	tt_expect_msg(t, TN_INDEX_NAME);
}

static void index_against_headers(void **state)
{
	struct tt *t = *state;
	write_shard(t, "one.safetensors", "ab");
	write_shard(t, "two.safetensors", "c");
	write_index(t, TN_INDEX_NAME, "a=one b=one c=two d=two");
	expect_refused(t, TN_E_FORMAT, "'d'");
	write_index(t, TN_INDEX_NAME, "a=one c=two");
	expect_refused(t, TN_E_FORMAT, "'b'");
	write_index(t, TN_INDEX_NAME, "a=one b=two c=two");
	expect_refused(t, TN_E_FORMAT, "'b'");
	tt_expect_msg(t, "one.safetensors");
	write_shard(t, "two.safetensors", "cb");
	write_index(t, TN_INDEX_NAME, "a=one b=one c=two");
	expect_refused(t, TN_E_FORMAT, "two shards");
	write_index(t, TN_INDEX_NAME, "");
	expect_refused(t, TN_E_FORMAT, "no tensor");
	tt_write_text(tt_path(t, TN_INDEX_NAME), "{\"weight_map\":{\"a\":\"../one.safetensors\"}}");
	expect_refused(t, TN_E_FORMAT, "plain file name");
	tt_write_text(tt_path(t, TN_INDEX_NAME), "{");
	expect_refused(t, TN_E_FORMAT, TN_INDEX_NAME);
}

static void the_same_name_without_index(void **state)
{
	struct tt *t = *state;
	write_shard(t, "model-1.safetensors", "ab");
	write_shard(t, "model-2.safetensors", "cb");
	expect_refused(t, TN_E_FORMAT, "'b'");
	tt_expect_msg(t, "model-1.safetensors");
	tt_expect_msg(t, "model-2.safetensors");
}

static void a_configuration_is_named_with_its_folder(void **state)
{
	struct tt *t = *state;
	json_t *root = NULL;
	write_shard(t, "model.safetensors", "a");
	tt_write_text(tt_path(t, "config.json"), "{\"a\":}");
	tn_checkpoint *c = open_folder(t);
	tt_expect(t, tn_checkpoint_parse_config(c, &root, &t->err), TN_E_FORMAT);
	tt_expect_msg(t, tt_path(t, "config.json"));
	tn_checkpoint_close(c);
}

/* Names that say how many files there are hold even where no index does. */
static void a_numbering_without_index(void **state)
{
	struct tt *t = *state;
	write_shard(t, "model-00001-of-00003.safetensors", "a");
	expect_refused(t, TN_E_NOTFOUND, "model-00002-of-00003.safetensors");
	write_shard(t, "model-00003-of-00003.safetensors", "c");
	expect_refused(t, TN_E_NOTFOUND, "model-00002-of-00003.safetensors");
	write_shard(t, "model-00002-of-00003.safetensors", "b");
	write_shard(t, "x-00001-of-00001.safetensors", "d");
	tn_checkpoint *c = open_folder(t);
	expect_tensors(t, c, "abcd");
	tn_checkpoint_close(c);
	assert_int_equal(unlink(tt_path(t, "model-00001-of-00003.safetensors")), 0);
	expect_refused(t, TN_E_NOTFOUND, "model-00001-of-00003.safetensors");
}

static void damaged_parts(void **state)
{
	struct tt *t = *state;
	write_shard(t, "model-1.safetensors", "ab");
	tt_write_text(tt_path(t, "model-2.safetensors"), "short");
	expect_refused(t, TN_E_FORMAT, "model-2.safetensors");
	assert_int_equal(unlink(tt_path(t, "model-2.safetensors")), 0);
	tt_write_text(tt_path(t, "config.json"), "\xFF");
	expect_refused(t, TN_E_FORMAT, "config.json");
	assert_int_equal(unlink(tt_path(t, "config.json")), 0);
	assert_int_equal(mkdir(tt_path(t, "config.json"), 0700), 0);
	expect_refused(t, TN_E_IO, "config.json");
}

/* models--x--y/snapshots/<commit>/model.safetensors -> ../../blobs/<hash>: a path in a link is the user's own. */
static void hugging_face_cache(void **state)
{
	struct tt *t = *state;
	static const char *const folders[] = { "blobs", "snapshots", "snapshots/c0ffee" };
	for (int i = 0; i < 3; i++)
		assert_int_equal(mkdir(tt_path(t, "%s", folders[i]), 0700), 0);
	write_shard(t, "blobs/b1", "a");
	write_shard(t, "blobs/b2", "b");
	write_index(t, "blobs/b3", "a=one b=two");
	tt_write_text(tt_path(t, "blobs/b4"), "{}");
	assert_int_equal(symlink("../../blobs/b1", tt_path(t, "snapshots/c0ffee/one.safetensors")), 0);
	assert_int_equal(symlink("../../blobs/b2", tt_path(t, "snapshots/c0ffee/two.safetensors")), 0);
	assert_int_equal(symlink("../../blobs/b3", tt_path(t, "snapshots/c0ffee/" TN_INDEX_NAME)), 0);
	assert_int_equal(symlink("../../blobs/b4", tt_path(t, "snapshots/c0ffee/config.json")), 0);
	tn_checkpoint *c;
	tt_ok(t, tn_checkpoint_open(t->ctx, tt_path(t, "snapshots/c0ffee"), &c, &t->err));
	expect_tensors(t, c, "ab");
	assert_string_equal(tn_checkpoint_config(c), "{}");
	tn_checkpoint_close(c);
	assert_int_equal(unlink(tt_path(t, "blobs/b2")), 0);
	tt_expect(t, tn_checkpoint_open(t->ctx, tt_path(t, "snapshots/c0ffee"), &c, &t->err), TN_E_NOTFOUND);
	tt_expect_msg(t, "two.safetensors");
}

static void roles(void **state)
{
	(void)state;
	assert_int_equal(tn_file_role_of("model.safetensors"), TN_ROLE_WEIGHTS);
	assert_int_equal(tn_file_role_of(TN_INDEX_NAME), TN_ROLE_WEIGHTS);
	assert_int_equal(tn_file_role_of("pytorch_model.bin.index.json"), TN_ROLE_OTHER_WEIGHTS);
	assert_int_equal(tn_file_role_of("config.json"), TN_ROLE_CONFIG);
	assert_int_equal(tn_file_role_of("tokenizer.json"), TN_ROLE_SIDECAR);
	assert_int_equal(tn_file_role_of("adapter_config.json"), TN_ROLE_ADAPTER);
	assert_int_equal(tn_file_role_of("0000100_adapters.safetensors"), TN_ROLE_ADAPTER);
	assert_int_equal(tn_file_role_of("README.md"), TN_ROLE_DOCUMENT);
	assert_int_equal(tn_file_role_of("notes"), TN_ROLE_UNKNOWN);
	assert_int_equal(tn_file_role_of(".x.json"), TN_ROLE_UNKNOWN);
	assert_int_equal(tn_file_role_of(""), TN_ROLE_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(with_an_index),         TT_TEST(without_an_index),   TT_TEST(a_single_file),
		TT_TEST(other_index_names),     TT_TEST(missing_things),     TT_TEST(index_against_headers),
		TT_TEST(the_same_name_without_index), TT_TEST(a_numbering_without_index),
		TT_TEST(a_configuration_is_named_with_its_folder),
		TT_TEST(damaged_parts), TT_TEST(hugging_face_cache),
		TT_TEST(roles),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
