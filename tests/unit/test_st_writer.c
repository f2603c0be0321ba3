/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/direct.h"
#include "store/st_writer.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

static const uint64_t shape[] = { 1000 };
static const struct tn_tensor plain = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = shape, .elements = 1000,
					.bytes = 1000 };

struct piece {
	struct tn_st_writer *writer;
	const struct tn_tensor *tensor;
	uint64_t from;
	tn_status status;
};

static void *put_piece(void *arg)
{
	struct piece *p = arg;
	for (uint64_t at = p->from; at < 1000 && p->status == TN_OK; at += 4) {
		unsigned char byte = (unsigned char)(at * 3);
		p->status = tn_st_writer_put(p->writer, p->tensor, at, &byte, 1, NULL);
	}
	return NULL;
}

static void any_order_from_any_thread(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = plain, b = plain, *list[] = { &a, &b };
	struct tn_st_writer *writer;
	b.name = "b";
	tt_ok(t, tn_st_writer_create(t->ctx, tt_path(t, "f"), list, 2, NULL, 0, 0, &writer, &t->err));
	struct piece pieces[4];
	pthread_t threads[4];
	for (uint64_t i = 0; i < 4; i++) {
		pieces[i] = (struct piece){ writer, &b, i, TN_OK };
		assert_int_equal(pthread_create(&threads[i], NULL, put_piece, &pieces[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(pieces[i].status, TN_OK);
	}
	tt_ok(t, tn_st_writer_finish(writer, &t->err));

	tn_safetensors *file;
	unsigned char bytes[1000];
	tt_ok(t, tn_safetensors_open(t->ctx, tt_path(t, "f"), &file, &t->err));
	tt_ok(t, tn_safetensors_read(file, tn_safetensors_find(file, "b"), 0, bytes, 1000, &t->err));
	for (size_t i = 0; i < 1000; i++)
		assert_int_equal(bytes[i], (unsigned char)(i * 3));
	tt_ok(t, tn_safetensors_read(file, tn_safetensors_find(file, "a"), 0, bytes, 1000, &t->err));
	for (size_t i = 0; i < 1000; i++)
		assert_int_equal(bytes[i], 0); /* what was not written is zero */
	tn_safetensors_close(file);
}

static void bytes_that_do_not_fit(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = plain, *list[] = { &a };
	struct tn_st_writer *writer;
	char bytes[16] = "";
	tt_ok(t, tn_st_writer_create(t->ctx, tt_path(t, "f"), list, 1, NULL, 0, 0, &writer, &t->err));
	tt_ok(t, tn_st_writer_put(writer, &a, 1000, bytes, 0, &t->err));
	tt_expect(t, tn_st_writer_put(writer, &a, 1000, bytes, 1, &t->err), TN_E_ARG);
	tt_expect(t, tn_st_writer_put(writer, &a, 990, bytes, 11, &t->err), TN_E_ARG);
	tt_expect(t, tn_st_writer_put(writer, &a, UINT64_MAX, bytes, 2, &t->err), TN_E_ARG);
	tn_st_writer_abort(writer);
	tn_st_writer_abort(NULL);
}

static void files_that_cannot_be_made(void **state)
{
	struct tt *t = *state;
	struct tn_tensor a = plain, *list[] = { &a };
	struct tn_st_writer *writer = NULL;
	tt_write_text(tt_path(t, "there"), "mine");
	tt_expect(t, tn_st_writer_create(t->ctx, tt_path(t, "there"), list, 1, NULL, 0, 0, &writer, &t->err), TN_E_IO);
	tt_expect(t, tn_st_writer_create(t->ctx, tt_path(t, "no/f"), list, 1, NULL, 0, 0, &writer, &t->err), TN_E_NOTFOUND);
	a.bytes = a.elements = UINT64_C(1) << 60; /* more than any disk: found before any work */
	tt_expect(t, tn_st_writer_create(t->ctx, tt_path(t, "large"), list, 1, NULL, 0, 0, &writer, &t->err), TN_E_IO);
	assert_null(writer);
	assert_false(tt_exists(tt_path(t, "large")));
	size_t n;
	unsigned char *kept = tt_read_file(tt_path(t, "there"), &n);
	assert_string_equal((char *)kept, "mine");
	free(kept);
}

/* ---- blocks that go past the page cache ------------------------------------------------------------------ */

enum { LARGE = 3000001, BLOCK = 300007, LARGES = 3 };

struct pile {
	struct tn_st_writer *writer;
	struct tn_tensor *tensors;
	unsigned char *bytes;          /* of every tensor, one after the other */
	unsigned first, step;
	int every_other_unplaced;
	tn_status status;
};

/* Block k of all tensors' blocks; 7 and their number have no common divisor, so neighbours come in any order. */
static void *put_blocks(void *arg)
{
	struct pile *p = arg;
	unsigned per = (LARGE + BLOCK - 1) / BLOCK, all = per * LARGES;
	unsigned char *memory = malloc(BLOCK + TN_DIRECT_PAGE);
	for (unsigned i = p->first; i < all && p->status == TN_OK; i += p->step) {
		unsigned k = i * 7 % all, which = k / per;
		size_t at = (size_t)(k % per) * BLOCK, n = LARGE - at < BLOCK ? LARGE - at : BLOCK;
		const struct tn_tensor *tensor = &p->tensors[which];
		unsigned char *block = tn_direct_place(memory, tensor->offset + at);
		if (p->every_other_unplaced && k % 2)
			block = memory + (block == memory);
		memcpy(block, p->bytes + (size_t)which * LARGE + at, n);
		p->status = tn_st_writer_put(p->writer, tensor, at, block, n, NULL);
	}
	free(memory);
	return NULL;
}

static void check_pile(struct tt *t, const char *path, const struct pile *p)
{
	tn_safetensors *file;
	unsigned char *found = malloc(LARGE);
	tt_ok(t, tn_safetensors_open(t->ctx, path, &file, &t->err));
	for (size_t i = 0; i < LARGES; i++) {
		tt_ok(t, tn_safetensors_read(file, tn_safetensors_find(file, p->tensors[i].name), 0, found, LARGE, &t->err));
		assert_memory_equal(found, p->bytes + i * LARGE, LARGE);
	}
	tn_safetensors_close(file);
	free(found);
}

/* What was written past the cache does not stay in it for a tenth: half of the blocks went through it. A folder that takes no
 * direct writes (a file system in memory) has nothing but its cache. */
static void check_cache(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), direct = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	assert_true(fd >= 0);
	const size_t bytes = (size_t)lseek(fd, 0, SEEK_END), pages = (bytes + TN_DIRECT_PAGE - 1) / TN_DIRECT_PAGE;
	unsigned char *kept = malloc(pages);
	void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	struct statfs system;
	size_t cached = 0;
	assert_true(map != MAP_FAILED && fstatfs(fd, &system) == 0);
	assert_int_equal(mincore(map, bytes, kept), 0);
	for (size_t i = 0; i < pages; i++)
		cached += kept[i] & 1;
	if (direct >= 0 && system.f_type != TMPFS_MAGIC && sysconf(_SC_PAGESIZE) == TN_DIRECT_PAGE)
		assert_true(cached * 10 <= pages);
	munmap(map, bytes);
	free(kept);
	close(fd);
	if (direct >= 0)
		close(direct);
}

static void large_blocks_in_any_order(void **state)
{
	struct tt *t = *state;
	const uint64_t large_shape[] = { LARGE };
	unsigned char *bytes = malloc((size_t)LARGES * LARGE);
	for (size_t i = 0; i < (size_t)LARGES * LARGE; i++)
		bytes[i] = (unsigned char)(i * 2654435761u >> 13);
	for (unsigned round = 0; round < 6; round++) {
		const char *path = tt_path(t, "large%u", round);
		static const char *const names[] = { "a", "b", "d" };
		struct tn_tensor large[LARGES], small = plain, *list[LARGES + 1] = { &small };
		unsigned threads = round % 3 == 0 ? 1 : 4;
		struct pile piles[4];
		pthread_t ids[4];
		small.name = "c"; /* shares pages with two large ones */
		for (size_t i = 0; i < LARGES; i++) {
			large[i] = (struct tn_tensor){ .name = names[i], .dtype = TN_U8, .rank = 1, .shape = large_shape,
						       .elements = LARGE, .bytes = LARGE };
			list[i + 1] = &large[i];
		}
		struct tn_st_writer *writer;
		tt_ok(t, tn_st_writer_create(t->ctx, path, list, LARGES + 1, NULL, 0, 0, &writer, &t->err));
		for (unsigned i = 0; i < threads; i++) {
			piles[i] = (struct pile){ writer, large, bytes, i, threads, round % 2 == 1, TN_OK };
			assert_int_equal(pthread_create(&ids[i], NULL, put_blocks, &piles[i]), 0);
		}
		tt_ok(t, tn_st_writer_put(writer, &small, 0, bytes, 1000, &t->err));
		for (unsigned i = 0; i < threads; i++) {
			pthread_join(ids[i], NULL);
			assert_int_equal(piles[i].status, TN_OK);
		}
		if (round == 5) {
			tn_st_writer_abort(writer); /* with edges that nobody came for */
			continue;
		}
		tt_ok(t, tn_st_writer_finish(writer, &t->err));
		check_cache(path);
		check_pile(t, path, &piles[0]);
	}
	free(bytes);
}

/* ---- small tensors between such blocks ------------------------------------------------------------------- */

enum { SMALLS = 9 };
static const uint64_t small_bytes[SMALLS] = { 1, 1500, 700, 4096, 32768, 12001, 3, 32769, 900 };

/* The k-th tensor of the file: a large one stands before, between and behind two groups of small ones. */
static void name_small(struct tn_tensor *tensor, uint64_t *bytes, size_t k)
{
	static const char *const names[SMALLS + 3] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l" };
	int is_large = k % 6 == 0 || k == SMALLS + 2;
	size_t smalls_before = k - k / 6 - 1;
	*bytes = is_large ? LARGE / 3 : small_bytes[smalls_before];
	*tensor = (struct tn_tensor){ .name = names[k], .dtype = TN_U8, .rank = 1, .shape = bytes, .elements = *bytes, .bytes = *bytes };
}

static void small_tensors_between_large_ones(void **state)
{
	enum { ALL = SMALLS + 3 };
	struct tt *t = *state;
	unsigned char *bytes = malloc(LARGE), *memory = malloc(LARGE + TN_DIRECT_PAGE), *found = malloc(LARGE);
	for (size_t i = 0; i < LARGE; i++)
		bytes[i] = (unsigned char)(i * 2654435761u >> 11);
	for (size_t round = 0; round < ALL; round++) {
		const char *path = tt_path(t, "smalls%zu", round);
		struct tn_tensor tensors[ALL], *list[ALL];
		uint64_t shapes[ALL];
		struct tn_st_writer *writer;
		tn_safetensors *file;
		for (size_t k = 0; k < ALL; k++) {
			name_small(&tensors[k], &shapes[k], k);
			list[k] = &tensors[k];
		}
		tt_ok(t, tn_st_writer_create(t->ctx, path, list, ALL, NULL, 0, 0, &writer, &t->err));
		for (size_t i = 0; i < ALL; i++) { /* 5 and 12 have no common divisor */
			size_t k = (i * 5 + round) % ALL;
			unsigned char *block = tn_direct_place(memory, tensors[k].offset);
			memcpy(block, bytes + k, tensors[k].bytes);
			tt_ok(t, tn_st_writer_put(writer, &tensors[k], 0, block, tensors[k].bytes, &t->err));
		}
		tt_ok(t, tn_st_writer_finish(writer, &t->err));
		tt_ok(t, tn_safetensors_open(t->ctx, path, &file, &t->err));
		for (size_t k = 0; k < ALL; k++) {
			const struct tn_tensor *read = tn_safetensors_find(file, tensors[k].name);
			tt_ok(t, tn_safetensors_read(file, read, 0, found, tensors[k].bytes, &t->err));
			assert_memory_equal(found, bytes + k, tensors[k].bytes);
		}
		tn_safetensors_close(file);
	}
	free(bytes);
	free(memory);
	free(found);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(any_order_from_any_thread), TT_TEST(bytes_that_do_not_fit),
					    TT_TEST(files_that_cannot_be_made), TT_TEST(large_blocks_in_any_order),
					    TT_TEST(small_tensors_between_large_ones) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
