/* What the tests of the weights floor share. Everything fails the test that calls it. */
#ifndef TN_TEST_SUPPORT_H
#define TN_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tenon/weights.h"

#define OK(call)                                                                                                       \
	do {                                                                                                           \
		struct tn_error ok_err = { 0 };                                                                        \
		struct tn_error *err = &ok_err;                                                                        \
		if ((call) != TN_OK || ok_err.code != TN_OK)                                                           \
			fail_msg("%s: %s (%s)", #call, ok_err.msg, ok_err.where);                                      \
	} while (0)

/* The call fails with that code, and the message holds the text. */
#define FAILS(code, text, call)                                                                                        \
	do {                                                                                                           \
		struct tn_error fails_err = { 0 };                                                                     \
		struct tn_error *err = &fails_err;                                                                     \
		tn_status fails_status = (call);                                                                       \
		if (fails_status != (code) || !contains(fails_err.msg, text))                                          \
			fail_msg("%s: %s \"%s\", expected %s \"%s\"", #call, tn_status_name(fails_status),             \
				 fails_err.msg, tn_status_name(code), text);                                           \
	} while (0)

tn_context *test_context(void);
int contains(const char *text, const char *part);

tn_weight_map *map_new(void);
/* A tensor of rank 1 to 3 (sizes of 0 end the list). `data` NULL: floats get a wave of values, everything else
 * counts. */
void map_put(tn_weight_map *map, const char *name, tn_dtype dtype, uint64_t a, uint64_t b, uint64_t c,
	     const void *data);
/* Fails unless the tensor is there with that dtype and shape. Returns its bytes. */
const void *map_expect(const tn_weight_map *map, const char *name, tn_dtype dtype, uint64_t a, uint64_t b, uint64_t c);
int map_has(const tn_weight_map *map, const char *name);
/* A digest of everything in the map, to see that nothing changed. */
uint64_t map_digest(const tn_weight_map *map);

/* A configuration with that global default (mode NULL: affine). */
tn_quant_config *config_new(int32_t group_size, int32_t bits, const char *mode);
tn_quant_config *config_parse(const char *config_json);

/* A number in [-1, 1) that depends on i alone. */
float wave(uint64_t i);

#endif
