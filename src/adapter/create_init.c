/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers that factors begin with. */
#include "adapter/create.h"

#include "base/error.h"
#include "base/sha256.h"

#include <math.h>
#include <string.h>

/* ---- names ----------------------------------------------------------------------------------------------- */

static const char *const init_names[] = {
	[TN_INIT_DEFAULT] = "default", [TN_INIT_MLX] = "mlx", [TN_INIT_KAIMING] = "kaiming", [TN_INIT_GAUSSIAN] = "gaussian",
	[TN_INIT_XORSHIFT] = "xorshift",
};
enum { INIT_COUNT = sizeof init_names / sizeof *init_names };

const char *tn_init_name(tn_init init)
{
	return (size_t)init < INIT_COUNT ? init_names[init] : "unknown";
}

tn_status tn_init_from_name(const char *name, tn_init *out, struct tn_error *err)
{
	for (size_t i = 0; i < INIT_COUNT; i++)
		if (strcmp(name, init_names[i]) == 0) {
			*out = (tn_init)i;
			return TN_OK;
		}
	return tn_fail(err, TN_E_NOTFOUND, name, "'%.60s' is not an initialisation: mlx, kaiming, gaussian, xorshift", name);
}

/* ---- xorshift64 ------------------------------------------------------------------------------------------ */

/* kizzasi-model, src/lora.rs: SeededRng. A number in [-1, 1). */
static float next_xorshift(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (float)((double)*state / 18446744073709551616.0 * 2.0 - 1.0);
}

static uint64_t begin_xorshift(uint64_t seed, uint64_t in, uint64_t out, float *scale)
{
	uint64_t state = seed + in + out;
	*scale = sqrtf(2.0f / (float)in);
	return state ? state : 1;
}

void tn_init_xorshift(float *a, uint64_t rank, uint64_t in, uint64_t out, uint64_t seed)
{
	float scale;
	uint64_t state = begin_xorshift(seed, in, out, &scale);
	for (uint64_t i = 0; i < rank * in; i++)
		a[i] = next_xorshift(&state) * scale;
}

/* ---- Threefry-2x32 --------------------------------------------------------------------------------------- */

uint64_t tn_init_key(uint64_t seed, const char *path)
{
	struct tn_sha256 h;
	unsigned char bytes[8], digest[32];
	uint64_t key = 0;
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(seed >> (8 * i));
	tn_sha256_init(&h);
	tn_sha256_add(&h, bytes, sizeof bytes);
	tn_sha256_add(&h, path, strlen(path));
	tn_sha256_finish(&h, digest);
	for (int i = 7; i >= 0; i--)
		key = key << 8 | digest[i];
	return key;
}

struct pair {
	uint32_t a, b;
};

static uint32_t rotate(uint32_t x, unsigned n)
{
	return x << n | x >> (32 - n);
}

/* Salmon et al., 2011, 20 rounds, as JAX and MLX have it. */
static struct pair threefry(uint64_t key, struct pair count)
{
	static const unsigned char turns[2][4] = { { 13, 15, 26, 6 }, { 17, 29, 16, 24 } };
	uint32_t k[3] = { (uint32_t)(key >> 32), (uint32_t)key, 0 };
	k[2] = k[0] ^ k[1] ^ 0x1BD11BDA;
	struct pair v = { count.a + k[0], count.b + k[1] };
	for (uint32_t round = 0; round < 5; round++) {
		for (int i = 0; i < 4; i++) {
			v.a += v.b;
			v.b = rotate(v.b, turns[round % 2][i]) ^ v.a;
		}
		v.a += k[(round + 1) % 3];
		v.b += k[(round + 2) % 3] + round + 1;
	}
	return v;
}

/* Word `i` of mx.random.bits(n words, key): word i and word i + n/2 (rounded up) come of one count. */
static uint32_t random_word(uint64_t key, uint64_t n, uint64_t i)
{
	uint64_t half = n / 2, second = n - half;
	if (n % 2 && i == half)
		return threefry(key, (struct pair){ (uint32_t)half, 0 }).a;
	struct pair v = threefry(key, (struct pair){ (uint32_t)(i % second), (uint32_t)(second + i % second) });
	return i < half ? v.a : v.b;
}

/* mx.random.uniform(-bound, bound, shape, key) of MLX 0.32: the quotient is rounded to float32 and kept below 1. */
static float uniform(uint64_t key, uint64_t n, uint64_t i, float bound)
{
	float u = (float)random_word(key, n, i) / 4294967296.0f;
	u = u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
	float width = bound + bound;
	float product = width * u;
	return product - bound;
}

/* Box and Muller. */
static float normal(uint64_t key, uint64_t i)
{
	struct pair v = threefry(key, (struct pair){ (uint32_t)i, (uint32_t)(i >> 32) });
	double u = ((double)v.a + 1) / 4294967296.0, angle = 6.283185307179586 * (double)v.b / 4294967296.0;
	return (float)(sqrt(-2 * log(u)) * cos(angle));
}

/* ---- one factor ------------------------------------------------------------------------------------------ */

/* Element i in the order [experts, rank, in] of A as it lies in the file, which for a linear layer of mlx-lm is [in, rank]. */
struct order {
	uint64_t rank, in;
	int swapped;
};

static uint64_t place(const struct order *o, uint64_t i)
{
	return o->swapped ? i % o->in * o->rank + i / o->in : i;
}

static void fill_xorshift(float *data, uint64_t n, const struct order *o, const struct tn_base_module *m, uint64_t seed)
{
	float scale;
	uint64_t state = begin_xorshift(seed, m->in, m->out, &scale);
	for (uint64_t i = 0; i < n; i++)
		data[place(o, i)] = next_xorshift(&state) * scale;
}

void tn_init_parameter(const struct tn_parameter *p, const struct tn_base_module *m, const struct tn_numbers *numbers)
{
	tn_init init = numbers->init;
	uint64_t rank = numbers->rank, seed = numbers->seed;
	uint64_t key = tn_init_key(seed, m->path), n = p->elements;
	int by_peft = init == TN_INIT_KAIMING || init == TN_INIT_GAUSSIAN, table = by_peft && m->kind == TN_MODULE_EMBEDDING;
	struct order o = { rank, m->in, numbers->inputs_first && p->rank == 2 };
	float bound = (float)(1 / sqrt((double)m->in)), deviation = table ? 1.0f : 1.0f / (float)rank;
	if (p->role != (table ? TN_PARAMETER_B : TN_PARAMETER_A))
		return;
	if (init == TN_INIT_XORSHIFT) {
		fill_xorshift(p->data, n, &o, m, seed);
		return;
	}
	if (init == TN_INIT_MLX)
		o.swapped = 0;
	for (uint64_t i = 0; i < n; i++)
		p->data[table ? i : place(&o, i)] = init == TN_INIT_GAUSSIAN || table ? normal(key, i) * deviation
										     : uniform(key, n, i, bound);
}
