/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels for codes of other libraries, of every instruction set that this CPU can run, against `portable`: the same
 * codes and values, inside guard pages. */
#include "testlib.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
static uint64_t seed = 7;

static void complain(const char *isa, const char *kernel, unsigned bits, size_t skip, const char *what)
{
	if (failures++ < 20)
		printf("FAIL %s %s, %u bits, from row %zu: %s\n", isa, kernel, bits, skip, what);
}

static void fill_random(void *dst, size_t n)
{
	unsigned char *p = dst;
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)tt_random(&seed);
}

static float some_float(void)
{
	return (float)((double)(int64_t)tt_random(&seed) / 9.2e18);
}

enum { CODE_ROWS = 64, CODE_COLS = 128 };

/* How many bytes [CODE_ROWS, CODE_COLS] codes are, and how far apart stored rows stand. */
static size_t packed_bytes(enum tn_packing packing, unsigned bits, size_t *stride)
{
	size_t all = (size_t)CODE_ROWS * CODE_COLS * bits / 8;
	switch (packing) {
	case TN_PACK_STREAM: *stride = CODE_COLS * bits / 8; return all;
	case TN_PACK_WORDS: *stride = (CODE_COLS + 32 / bits - 1) / (32 / bits) * 4; return *stride * CODE_ROWS;
	case TN_PACK_COLUMNS: case TN_PACK_PLANES: *stride = CODE_ROWS * 4; return all;
	case TN_PACK_AWQ: *stride = CODE_ROWS / 2; return all;
	case TN_PACK_AWQ_FAST: *stride = CODE_COLS * 2; return all;
	case TN_PACK_MARLIN: *stride = CODE_ROWS * 8; return all;
	default: *stride = 0; return all;
	}
}

/* Codes go back to where they came from: the same ones change no byte, others only what is theirs. `codes` are those of the
 * rows behind `skip`. */
static void check_repack(const struct tn_kernels *k, const struct tn_packed *packed, size_t bytes, size_t skip,
			 const uint8_t *codes, uint8_t *scratch)
{
	size_t first = packed->packing == TN_PACK_HIGH_FIRST ? skip * CODE_COLS : skip, rows = CODE_ROWS - skip, n = rows * CODE_COLS;
	struct tn_packed other = *packed;
	struct tt_guard copy;
	uint8_t *changed = malloc(n);
	tt_guard_make(&copy, bytes);
	memcpy(copy.at_end, packed->bytes, bytes);
	k->repack_codes(copy.at_end, packed, codes, first, rows, CODE_COLS);
	if (memcmp(copy.at_end, packed->bytes, bytes) != 0)
		complain(k->isa, "repack_codes", packed->bits, skip, "the same codes change bytes");
	for (size_t i = 0; i < n; i++)
		changed[i] = (uint8_t)(codes[i] ^ (tt_random(&seed) & ((1u << packed->bits) - 1)));
	k->repack_codes(copy.at_end, packed, changed, first, rows, CODE_COLS);
	other.bytes = copy.at_end;
	k->unpack_codes(scratch, &other, first, rows, CODE_COLS);
	if (memcmp(scratch, changed, n) != 0)
		complain(k->isa, "repack_codes", packed->bits, skip, "other codes come back");
	k->repack_codes(copy.at_end, packed, codes, first, rows, CODE_COLS);
	if (memcmp(copy.at_end, packed->bytes, bytes) != 0)
		complain(k->isa, "repack_codes", packed->bits, skip, "bits of others are touched");
	free(changed);
	tt_guard_free(&copy);
}

/* The packed bytes end at a guard page; rows are taken from `skip` on. */
static void check_unpack(const struct tn_kernels *k, const struct tn_kernels *portable, enum tn_packing packing, unsigned bits,
			 size_t skip)
{
	struct tn_packed packed = { packing, bits, NULL, 0 };
	struct tt_guard src, got, want;
	size_t bytes = packed_bytes(packing, bits, &packed.stride), n = (CODE_ROWS - skip) * CODE_COLS;
	tt_guard_make(&src, bytes);
	tt_guard_make(&got, n);
	tt_guard_make(&want, n);
	fill_random(src.at_end, bytes);
	packed.bytes = src.at_end;
	size_t first = packing == TN_PACK_HIGH_FIRST ? skip * CODE_COLS : skip;
	k->unpack_codes(got.at_end, &packed, first, CODE_ROWS - skip, CODE_COLS);
	portable->unpack_codes(want.at_end, &packed, first, CODE_ROWS - skip, CODE_COLS);
	if (memcmp(got.at_end, want.at_end, n) != 0)
		complain(k->isa, "unpack_codes", bits, skip, "other codes than portable");
	check_repack(k, &packed, bytes, skip, got.at_end, want.at_end);
	if (packing == TN_PACK_STREAM && skip == 0) {
		k->pack_codes(src.at_end, got.at_end, (size_t)CODE_ROWS * CODE_COLS, bits);
		packed.stride = CODE_COLS * bits / 8;
		k->unpack_codes(want.at_end, &packed, 0, CODE_ROWS, CODE_COLS);
		if (memcmp(got.at_end, want.at_end, n) != 0)
			complain(k->isa, "pack_codes", bits, 0, "does not come back");
	}
	tt_guard_free(&src);
	tt_guard_free(&got);
	tt_guard_free(&want);
}

/* A stream of n codes, bit by bit, between pages that nobody may touch. */
static void check_stream(const struct tn_kernels *k, size_t n, unsigned bits)
{
	struct tt_guard codes, stream, back;
	struct tn_packed packed = { TN_PACK_STREAM, bits, NULL, n * bits / 8 };
	tt_guard_make(&codes, n);
	tt_guard_make(&back, n);
	tt_guard_make(&stream, n * bits / 8);
	fill_random(codes.at_end, n);
	for (size_t i = 0; i < n; i++)
		codes.at_end[i] &= (unsigned char)((1u << bits) - 1);
	k->pack_codes(stream.at_end, codes.at_end, n, bits);
	for (size_t i = 0; i < n * bits; i++)
		if ((stream.at_end[i / 8] >> i % 8 & 1) != (codes.at_end[i / bits] >> i % bits & 1)) {
			complain(k->isa, "pack_codes", bits, n, "other bits than the codes'");
			break;
		}
	packed.bytes = stream.at_end;
	k->unpack_codes(back.at_end, &packed, 0, 1, n);
	if (memcmp(back.at_end, codes.at_end, n) != 0)
		complain(k->isa, "unpack_codes", bits, n, "other codes than were packed");
	tt_guard_free(&codes);
	tt_guard_free(&back);
	tt_guard_free(&stream);
}

static void check_grid(const struct tn_kernels *k, const struct tn_kernels *portable, int add_zeros, int zeros, int index, unsigned most)
{
	float table[256], scales[8], zero[8], got[CODE_COLS], want[CODE_COLS];
	uint8_t codes[CODE_COLS];
	uint32_t group_of[CODE_COLS];
	for (int i = 0; i < 256; i++)
		table[i] = some_float();
	for (int i = 0; i < 8; i++) {
		scales[i] = some_float();
		zero[i] = some_float();
	}
	fill_random(codes, sizeof codes);
	for (size_t i = 0; i < CODE_COLS; i++)
		codes[i] = (uint8_t)(codes[i] % most);
	for (uint32_t i = 0; i < CODE_COLS; i++)
		group_of[i] = i * 5 % 8;
	struct tn_grid grid = { .table = table, .code_count = most, .scales = scales, .zeros = zeros ? zero : NULL, .group_of = index ? group_of : NULL,
				.group = 20, .offset = 7, .add_zeros = add_zeros, .factor = index || most == 15 ? 0.3f : 1 };
	k->grid_f32(got, codes, CODE_COLS, &grid);
	portable->grid_f32(want, codes, CODE_COLS, &grid);
	if (memcmp(got, want, sizeof got) != 0)
		complain(k->isa, "grid_f32", CODE_COLS, 0, "other bits than portable");
}

/* Numbers of nibbles, from any of them on: usual scales and others, groups that a way for whole ones can take, and others. */
static void check_nibbles(const struct tn_kernels *k, const struct tn_kernels *portable, int turn)
{
	enum { MOST = 900 };
	static const tn_dtype dtypes[] = { TN_BF16, TN_F16, TN_F32 };
	static const size_t groups[] = { 64, 32, 20, 96 };
	static const float odd[] = { 0, -0.0f, 1e-30f, 1e-44f, 1e30f, 3e38f, INFINITY, NAN };
	float table[256] = { 0 }, scales[MOST / 20 + 2], zeros[MOST / 20 + 2];
	unsigned char nibbles[MOST / 2 + 64], want[MOST * sizeof(float)];
	struct tt_guard got;
	const tn_dtype dtype = dtypes[turn % 3];
	const size_t size = dtype == TN_F32 ? 4 : 2, skip = turn % 5 == 4 ? 3 : (size_t)(turn % 5) * 2, n = (size_t)(tt_random(&seed) % MOST);
	struct tn_grid grid = { .table = table, .code_count = 16, .scales = scales, .group = groups[turn / 3 % 4], .factor = 1 };
	for (int i = 0; i < 16; i++)
		table[i] = some_float() * (turn % 11 == 10 && i == 5 ? 1e-30f : 1.0f);
	for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
		scales[i] = turn % 2 && i % 3 == 1 ? odd[tt_random(&seed) % 8] : some_float();
		zeros[i] = some_float();
	}
	fill_random(nibbles, sizeof nibbles);
	grid.offset = turn % 4 ? tt_random(&seed) % grid.group : 0;
	grid.zeros = turn % 13 == 12 ? zeros : NULL;
	grid.add_zeros = turn % 17 == 16;
	grid.factor = turn % 7 == 6 ? 0.3f : 1.0f;
	tt_guard_make(&got, n * size);
	k->nibble_values(got.at_end, dtype, nibbles, skip, n, &grid, turn % 3 == 0);
	portable->nibble_values(want, dtype, nibbles, skip, n, &grid, 0);
	for (size_t i = 0; i < n; i++)
		if (memcmp(got.at_end + i * size, want + i * size, size) != 0) {
			complain(k->isa, "nibble_values", (unsigned)turn, i, "other bits than portable");
			break;
		}
	tt_guard_free(&got);
}

/* The plain one against numbers that are computed here. */
static void check_plain_nibbles(const struct tn_kernels *k)
{
	static const unsigned char nibbles[] = { 0x12, 0x3F, 0x80 };
	static const float scales[] = { 2, 0.5f };
	float table[256], got[4];
	uint16_t halves[4];
	for (int i = 0; i < 256; i++)
		table[i] = (float)i + 0.125f;
	const struct tn_grid grid = { .table = table, .code_count = 16, .scales = scales, .group = 3, .offset = 1, .factor = 1 };
	k->nibble_values(got, TN_F32, nibbles, 1, 4, &grid, 0);
	k->nibble_values(halves, TN_BF16, nibbles, 1, 4, &grid, 0);
	if (got[0] != 4.25f || got[1] != 6.25f || got[2] != 7.5625f || got[3] != 4.0625f)
		complain(k->isa, "nibble_values", 4, 0, "other numbers");
	if (halves[0] != 0x4088 || halves[1] != 0x40C8 || halves[2] != 0x40F2 || halves[3] != 0x4082)
		complain(k->isa, "nibble_values", 4, 0, "other BF16");
}

static void check_codes(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	for (unsigned bits = 1; bits <= 8; bits++)
		for (size_t skip = 0; skip < 20; skip += 3) {
			check_unpack(k, portable, TN_PACK_STREAM, bits, skip);
			check_unpack(k, portable, TN_PACK_WORDS, bits, skip);
			check_unpack(k, portable, TN_PACK_COLUMNS, bits, skip);
			check_unpack(k, portable, TN_PACK_PLANES, bits == 8 ? 7 : bits, skip);
		}
	for (unsigned bits = 1; bits <= 8; bits++)
		for (size_t n = 1; n <= 80; n++)
			if (n * bits % 8 == 0)
				check_stream(k, n, bits);
	for (size_t skip = 0; skip < 20; skip++)
		for (int packing = TN_PACK_HIGH_FIRST; packing <= TN_PACK_MARLIN; packing++)
			if (packing != TN_PACK_COLUMNS && packing != TN_PACK_PLANES)
				check_unpack(k, portable, (enum tn_packing)packing, 4, skip);
	for (int i = 0; i < 24; i++)
		check_grid(k, portable, (i & 3) == 3, i & 1, i >> 2 & 1, i < 8 ? 256 : i < 16 ? 16 : 15);
	check_plain_nibbles(k);
	for (int turn = 0; turn < 600; turn++)
		check_nibbles(k, portable, turn);
}

/* Against a plain loop: weights, zeros, tiny and huge numbers, infinity and NaN. */
static void check_level_codes(const struct tn_kernels *k)
{
	enum { BLOCKS = 9 };
	float values[BLOCKS * TN_LEVEL_BLOCK], bounds[15], largest[BLOCKS];
	uint8_t codes[sizeof values / sizeof *values / 2];
	for (int i = 0; i < 15; i++)
		bounds[i] = ((float)i - 7.2f) * 0.1f;
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		size_t block = i / TN_LEVEL_BLOCK;
		values[i] = block == 1 ? 0 : some_float() * (block == 2 ? 1e-42f : block == 3 ? 1e38f : 1);
		if (block > 5 && i % 31 == 3)
			values[i] = block == 6 ? NAN : block == 7 ? INFINITY : -INFINITY;
	}
	k->level_codes(codes, largest, values, BLOCKS, bounds);
	for (size_t b = 0; b < BLOCKS; b++) {
		float top = 0;
		for (size_t i = b * TN_LEVEL_BLOCK; i < (b + 1) * TN_LEVEL_BLOCK; i++)
			top = fabsf(values[i]) > top ? fabsf(values[i]) : top;
		if (memcmp(&top, &largest[b], sizeof top) != 0)
			complain(k->isa, "level_codes", 4, b, "another largest magnitude");
		for (size_t i = b * TN_LEVEL_BLOCK; i < (b + 1) * TN_LEVEL_BLOCK; i++) {
			float x = values[i] * (1.0f / (top > 1e-38f ? top : 1e-38f));
			unsigned code = 0;
			for (int n = 0; n < 15; n++)
				code += bounds[n] < x;
			if ((codes[i / 2] >> (i % 2 ? 0 : 4) & 15u) != code)
				complain(k->isa, "level_codes", 4, b, "another code");
		}
	}
}

int main(void)
{
	const struct tn_kernels *portable = tn_kernels_for("portable"), *k;
	const char *name;
	for (unsigned i = 0; (name = tn_kernels_isa_name(i)); i++) {
		k = tn_kernels_for(name);
		if (!k) {
			printf("%s: NOT RUN, this CPU lacks it\n", name);
			continue;
		}
		check_codes(k, portable);
		check_level_codes(k);
	}
	return failures != 0;
}
