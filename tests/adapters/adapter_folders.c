/* SPDX-License-Identifier: Apache-2.0 */
/* Which files of a folder are taken, and folders that mean harm: each answers at once. */
#include "adapterlib.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CONFIG "{\"num_layers\":-1,\"lora_parameters\":{\"rank\":2,\"scale\":2}}"
#define PEFT_CONFIG "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]}"

static tn_status open_adapter(struct al *t, const char *folder)
{
	tn_adapter *a;
	tn_status status = tn_adapter_open(t->ctx, folder, &a, &t->err);
	if (status == TN_OK)
		tn_adapter_close(a);
	return status;
}

static void move(const char *folder, const char *from, const char *to)
{
	char a[512], b[512];
	snprintf(a, sizeof a, "%s/%s", folder, from);
	snprintf(b, sizeof b, "%s/%s", folder, to);
	assert_int_equal(rename(a, b), 0);
}

static void peft_load_uses_adapter_model_safetensors_filename(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, PEFT_CONFIG, 1, 2, 0, 3);
	al_ok(t, open_adapter(t, d));
	move(d, "adapter_model.safetensors", "adapters.safetensors");
	al_ok(t, open_adapter(t, d)); /* the other name, because that one is absent */
}

static double scale_of_first(struct al *t, const char *path, unsigned char hash[TN_HASH_BYTES])
{
	tn_adapter *a;
	al_ok(t, tn_adapter_open(t->ctx, path, &a, &t->err));
	double scale = tn_adapter_at(a, 0)->scale;
	al_ok(t, tn_adapter_hash(a, hash, &t->err));
	tn_adapter_close(a);
	return scale;
}

/* Files that a training run left are named themselves: their scale stands in the configuration beside them, and nowhere else. */
static void a_file_of_weights_goes_with_the_configuration_beside_it(void **state)
{
	struct al *t = *state;
	unsigned char whole[TN_HASH_BYTES], file[TN_HASH_BYTES];
	const char *folder = al_path(t, "a");
	al_write_toy_adapter(folder, PEFT_CONFIG, 1, 2, 0, 3);
	assert_true(scale_of_first(t, folder, whole) == 2);
	assert_true(scale_of_first(t, al_path(t, "a/adapter_model.safetensors"), file) == 2);
	assert_memory_equal(whole, file, TN_HASH_BYTES);
	al_write_toy_adapter(al_path(t, "m"), CONFIG, 0, 2, 0, 3);
	move(al_path(t, "m"), "adapters.safetensors", "0000100_adapters.safetensors");
	assert_true(scale_of_first(t, al_path(t, "m/0000100_adapters.safetensors"), file) == 2);
	al_expect(t, open_adapter(t, al_path(t, "m")), TN_E_NOTFOUND);
	for (int i = 0; i < 2; i++) {
		char config[600];
		snprintf(config, sizeof config, "%s/adapter_config.json", i ? al_path(t, "m") : folder);
		assert_int_equal(unlink(config), 0);
		al_expect(t, open_adapter(t, al_path(t, i ? "m/0000100_adapters.safetensors" : "a/adapter_model.safetensors")),
			  TN_E_NOTFOUND);
		al_expect_named(t, i ? "mlx-lm, whose scale" : "PEFT, whose scale");
	}
}

/* A model in the place of an adapter. */
static void a_model_is_told_from_an_adapter(void **state)
{
	struct al *t = *state;
	al_write_toy(al_path(t, "base"));
	al_expect(t, open_adapter(t, al_path(t, "base")), TN_E_NOTFOUND);
	al_expect_named(t, "exchanged?");
}

/* The dialect says which of two files of weights is read; that there are two is said by both ways of opening it. */
static void the_file_that_is_not_read_is_named(void **state)
{
	struct al *t = *state;
	tn_doctor *d;
	const struct al_tensor other = { "x", { 1 }, 1, NULL };
	al_write_toy(al_path(t, "base"));
	al_write_toy_adapter(al_path(t, "a"), PEFT_CONFIG, 1, 2, 0, 3);
	al_ok(t, open_adapter(t, al_path(t, "a")));
	assert_int_equal(t->warnings, 0);
	al_write_st(al_path(t, "a/adapters.safetensors"), &other, 1);
	al_ok(t, open_adapter(t, al_path(t, "a")));
	assert_int_equal(t->warnings, 1);
	al_ok(t, tn_doctor_run(t->ctx, al_path(t, "base"), al_path(t, "a"), NULL, &d, &t->err));
	assert_true(tn_doctor_lands(d) && tn_doctor_ok(d));
	assert_int_equal(tn_doctor_count(d), 1);
	assert_int_equal(tn_doctor_at(d, 0)->level, TN_FINDING_WARNING);
	assert_non_null(strstr(tn_doctor_at(d, 0)->message, "/adapter_model.safetensors' is used"));
	assert_non_null(strstr(tn_doctor_at(d, 0)->message, "'adapters.safetensors' is not"));
	tn_doctor_free(d);
}

static void locate_adapter_safetensors_falls_back_when_preferred_is_broken_symlink(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	move(d, "adapters.safetensors", "adapter_model.safetensors");
	assert_int_equal(symlink("nowhere", al_path(t, "a/adapters.safetensors")), 0);
	al_ok(t, open_adapter(t, d));
}

static void locate_adapter_safetensors_rejects_non_regular_preferred_path_even_with_valid_fallback(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	move(d, "adapters.safetensors", "adapter_model.safetensors");
	assert_int_equal(mkdir(al_path(t, "a/adapters.safetensors"), 0777), 0);
	al_expect(t, open_adapter(t, d), TN_E_IO);
	al_expect_named(t, "adapters.safetensors");
}

static void locate_adapter_safetensors_rejects_non_regular_fallback_path(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	assert_int_equal(unlink(al_path(t, "a/adapters.safetensors")), 0);
	assert_int_equal(mkdir(al_path(t, "a/adapter_model.safetensors"), 0777), 0);
	al_expect(t, open_adapter(t, d), TN_E_IO);
}

static void locate_adapter_safetensors_surfaces_symlink_loop_as_typed_file_io(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	move(d, "adapters.safetensors", "adapter_model.safetensors");
	assert_int_equal(symlink("adapters.safetensors", al_path(t, "a/adapters.safetensors")), 0);
	al_expect(t, open_adapter(t, d), TN_E_IO);
}

static void load_adapters_non_regular_safetensors_is_err(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	assert_int_equal(unlink(al_path(t, "a/adapters.safetensors")), 0);
	assert_int_equal(mkfifo(al_path(t, "a/adapters.safetensors"), 0666), 0);
	al_expect(t, open_adapter(t, d), TN_E_IO);
}

static void load_adapters_oversized_safetensors_is_err(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	assert_int_equal(truncate(al_path(t, "a/adapters.safetensors"), 3LL << 30), 0);
	al_expect(t, open_adapter(t, d), TN_E_LIMIT);
	al_expect_named(t, "adapters.safetensors");
}

static void check_adapter_safetensors_missing_file_is_file_io_open(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	assert_int_equal(unlink(al_path(t, "a/adapters.safetensors")), 0);
	al_expect(t, open_adapter(t, d), TN_E_NOTFOUND);
	al_expect_named(t, "adapters.safetensors"); /* load_adapters_no_weights_file_at_all_is_not_found */
	al_write_text(al_path(t, "a/adapter_model.bin"), "pickle");
	al_expect(t, open_adapter(t, d), TN_E_UNSUPPORTED);
	al_expect_named(t, "adapter_model.bin");
}

static void load_adapters_missing_config_is_err(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	assert_int_equal(unlink(al_path(t, "a/adapter_config.json")), 0);
	al_expect(t, open_adapter(t, d), TN_E_NOTFOUND); /* read_adapter_config_missing_file_is_file_io */
	assert_int_equal(mkdir(al_path(t, "a/adapter_config.json"), 0777), 0);
	al_expect(t, open_adapter(t, d), TN_E_IO);       /* read_adapter_config_non_regular_file_is_err */
}

static void load_adapters_missing_dir_is_err(void **state)
{
	struct al *t = *state;
	al_expect(t, open_adapter(t, al_path(t, "nowhere")), TN_E_NOTFOUND);
	al_expect_named(t, "nowhere");
}

static void read_adapter_config_oversized_body_is_cap_exceeded(void **state)
{
	struct al *t = *state;
	const char *d = al_path(t, "a");
	al_write_toy_adapter(d, CONFIG, 0, 2, 0, 3);
	assert_int_equal(truncate(al_path(t, "a/adapter_config.json"), (1 << 20) + 1), 0);
	al_expect(t, open_adapter(t, d), TN_E_LIMIT);
}

static void load_adapters_nonpositive_rank_is_out_of_range(void **state)
{
	struct al *t = *state;
	mkdir(al_path(t, "a"), 0777);
	al_write_text(al_path(t, "a/adapter_config.json"), "{\"lora_parameters\":{\"rank\":0}}");
	al_expect(t, open_adapter(t, al_path(t, "a")), TN_E_FORMAT); /* before the weights are looked for */
	al_expect_named(t, "rank");
}

/* ---- harm ------------------------------------------------------------------------------------------------ */

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void a_catastrophic_pattern_comes_to_an_end(void **state)
{
	struct al *t = *state;
	double begin = seconds();
	static const char *const configs[] = {
		"{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":\"(([a-z._0-9]+)+)+[A-Z]\"}",
		"{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"(([a-z._0-9]+)+)+[A-Z]\":2}}",
		"{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"q_proj\"],\"exclude_modules\":\"((.*)*)*[A-Z]$\"}",
	};
	al_write_toy(al_path(t, "base"));
	for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
		al_write_toy_adapter(al_path(t, "a"), configs[i], 1, 2, 0, 3);
		al_expect(t, al_fuse(t, al_path(t, "base"), al_path(t, "a"), al_path(t, "out")), TN_E_LIMIT);
		al_expect_named(t, "steps");
	}
	assert_true(seconds() - begin < 20);
}

static void a_million_keys_answer_quickly(void **state)
{
	struct al *t = *state;
	enum { COUNT = 1000000 };
	mkdir(al_path(t, "a"), 0777);
	al_write_text(al_path(t, "a/adapter_config.json"), PEFT_CONFIG);
	FILE *f = fopen(al_path(t, "a/adapter_model.safetensors"), "wb");
	assert_non_null(f);
	uint64_t length = 0;
	fwrite(&length, 8, 1, f);
	fputc('{', f);
	for (unsigned i = 0; i < COUNT; i++)
		fprintf(f, "%s\"x.%u.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", i);
	fputc('}', f);
	length = (uint64_t)ftell(f) - 8;
	rewind(f);
	fwrite(&length, 8, 1, f);
	assert_int_equal(fclose(f), 0);
	double begin = seconds();
	tn_status status = open_adapter(t, al_path(t, "a"));
	assert_true(status == TN_E_FORMAT || status == TN_E_UNSUPPORTED);
	al_expect_named(t, "lora_B");
	assert_true(seconds() - begin < 30);
}

static void a_name_of_thousands_of_parts_is_refused(void **state)
{
	struct al *t = *state;
	char name[4096] = "a";
	for (size_t i = 0; i < 1000; i++)
		strcat(name, ".a");
	strcat(name, ".lora_A.weight");
	struct al_tensor tensor = { name, { 2, 3 }, 2, NULL };
	al_write_adapter(al_path(t, "a"), PEFT_CONFIG, "adapter_model.safetensors", &tensor, 1);
	al_expect(t, open_adapter(t, al_path(t, "a")), TN_E_LIMIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		AL_TEST(peft_load_uses_adapter_model_safetensors_filename),
		AL_TEST(a_file_of_weights_goes_with_the_configuration_beside_it),
		AL_TEST(a_model_is_told_from_an_adapter),
		AL_TEST(the_file_that_is_not_read_is_named),
		AL_TEST(locate_adapter_safetensors_falls_back_when_preferred_is_broken_symlink),
		AL_TEST(locate_adapter_safetensors_rejects_non_regular_preferred_path_even_with_valid_fallback),
		AL_TEST(locate_adapter_safetensors_rejects_non_regular_fallback_path),
		AL_TEST(locate_adapter_safetensors_surfaces_symlink_loop_as_typed_file_io),
		AL_TEST(load_adapters_non_regular_safetensors_is_err),
		AL_TEST(load_adapters_oversized_safetensors_is_err),
		AL_TEST(check_adapter_safetensors_missing_file_is_file_io_open),
		AL_TEST(load_adapters_missing_config_is_err),
		AL_TEST(load_adapters_missing_dir_is_err),
		AL_TEST(read_adapter_config_oversized_body_is_cap_exceeded),
		AL_TEST(load_adapters_nonpositive_rank_is_out_of_range),
		AL_TEST(a_catastrophic_pattern_comes_to_an_end),
		AL_TEST(a_million_keys_answer_quickly),
		AL_TEST(a_name_of_thousands_of_parts_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
