/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/direct.h"
#include "base/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BYTES = 3000007 };

static void places(void **state)
{
	unsigned char memory[64 + TN_DIRECT_PAGE];
	(void)state;
	for (uint64_t offset = 0; offset < 3 * TN_DIRECT_PAGE; offset += 8)
		for (unsigned from = 0; from < 64; from += 9) {
			const unsigned char *at = tn_direct_place(memory + from, offset);
			assert_int_equal((uintptr_t)at % TN_DIRECT_PAGE, offset % TN_DIRECT_PAGE);
			assert_true((uintptr_t)at >= (uintptr_t)(memory + from) &&
				    (uintptr_t)at < (uintptr_t)(memory + from) + TN_DIRECT_PAGE);
		}
	assert_int_equal((uintptr_t)tn_direct_place(memory, 13) % 8, 0); /* elements stay aligned, whatever a file does */
}

/* What is not in the page cache comes from the disk, the rest through the cache: the same bytes. */
static void reads_what_is_there(void **state)
{
	struct tt *t = *state;
	const char *path = tt_path(t, "f");
	unsigned char *bytes = malloc(BYTES), *memory = malloc(BYTES + 2 * TN_DIRECT_PAGE);
	struct tn_file file;
	for (size_t i = 0; i < BYTES; i++)
		bytes[i] = (unsigned char)(i * 2654435761u >> 11);
	tt_write_file(path, bytes, BYTES);
	tt_ok(t, tn_file_open(path, &file, &t->err));
	assert_int_equal(fsync(file.fd), 0);
	static const size_t ranges[][2] = { { 0, 1 << 20 },        { 4096, 1 << 20 },      { 8, 300000 },  { 552, BYTES - 552 },
					    { 1000000, 2000007 },  { 0, BYTES },           { 4088, 262144 }, { 16, 1000 },
					    { BYTES - 262151, 262151 } };
	for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
		for (unsigned shift = 0; shift < 2; shift++) {
			size_t offset = ranges[i][0], n = ranges[i][1];
			unsigned char *dst = tn_direct_place(memory, offset) + shift; /* the second is not placed */
			posix_fadvise(file.fd, 0, 0, POSIX_FADV_DONTNEED);
			memset(memory, 0xEE, BYTES + 2 * TN_DIRECT_PAGE);
			tt_ok(t, tn_file_read(&file, dst, n, offset, path, &t->err));
			assert_memory_equal(dst, bytes + offset, n);
			assert_true(dst == memory || dst[-1] == 0xEE);
			assert_int_equal(dst[n], 0xEE);
		}
	tt_expect(t, tn_file_read(&file, tn_direct_place(memory, 4096), BYTES, 4096, path, &t->err), TN_E_IO);
	tt_expect_msg(t, "ends at byte");
	tn_file_close(&file);
	free(bytes);
	free(memory);
}

/* Pieces one behind the other in the file, wherever that goes on elsewhere on the disk. */
static void writes_all_pieces(void **state)
{
	struct tt *t = *state;
	enum { PAGE = TN_DIRECT_PAGE, PAGES = 9, STRETCH = 8 << 20, ALL = PAGES * PAGE };
	const char *path = tt_path(t, "f");
	unsigned char *memory = aligned_alloc(PAGE, ALL), *found = malloc(ALL);
	for (size_t i = 0; i < ALL; i++)
		memory[i] = (unsigned char)(i * 2654435761u >> 11);
	for (unsigned before = 0; before <= PAGES; before++) {
		uint64_t offset = 2 * (uint64_t)STRETCH - before * PAGE;
		int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		int direct = tn_direct_open_for(fd, memory, offset);
		struct iovec pieces[] = { { memory, PAGE }, { memory + PAGE, ALL - 2 * PAGE }, { memory + ALL - PAGE, PAGE } };
		tt_ok(t, tn_direct_write(direct >= 0 ? direct : fd, fd, pieces, 3, offset, path, &t->err));
		assert_int_equal(pread(fd, found, ALL, (off_t)offset), ALL);
		assert_memory_equal(found, memory, ALL);
		assert_int_equal(lseek(fd, 0, SEEK_END), offset + ALL);
		close(fd);
		if (direct >= 0)
			close(direct);
	}
	free(memory);
	free(found);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(places), TT_TEST(reads_what_is_there), TT_TEST(writes_all_pieces) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
