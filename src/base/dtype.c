/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <string.h>

static const struct dtype_info {
	const char *name;
	uint8_t bits;
	uint8_t is_float;
} dtypes[TN_DTYPE_COUNT] = {
	[TN_BOOL] = { "BOOL", 8, 0 },
	[TN_F4] = { "F4", 4, 1 },
	[TN_F6_E2M3] = { "F6_E2M3", 6, 1 },
	[TN_F6_E3M2] = { "F6_E3M2", 6, 1 },
	[TN_U8] = { "U8", 8, 0 },
	[TN_I8] = { "I8", 8, 0 },
	[TN_F8_E5M2] = { "F8_E5M2", 8, 1 },
	[TN_F8_E4M3] = { "F8_E4M3", 8, 1 },
	[TN_F8_E8M0] = { "F8_E8M0", 8, 0 },
	[TN_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 8, 1 },
	[TN_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 8, 1 },
	[TN_I16] = { "I16", 16, 0 },
	[TN_U16] = { "U16", 16, 0 },
	[TN_F16] = { "F16", 16, 1 },
	[TN_BF16] = { "BF16", 16, 1 },
	[TN_I32] = { "I32", 32, 0 },
	[TN_U32] = { "U32", 32, 0 },
	[TN_F32] = { "F32", 32, 1 },
	[TN_C64] = { "C64", 64, 0 },
	[TN_F64] = { "F64", 64, 1 },
	[TN_I64] = { "I64", 64, 0 },
	[TN_U64] = { "U64", 64, 0 },
};

static const struct dtype_info *info(tn_dtype dtype)
{
	static const struct dtype_info none = { "unknown", 0, 0 };
	return (unsigned)dtype < TN_DTYPE_COUNT ? &dtypes[dtype] : &none;
}

const char *tn_dtype_name(tn_dtype dtype)
{
	return info(dtype)->name;
}

unsigned tn_dtype_bits(tn_dtype dtype)
{
	return info(dtype)->bits;
}

int tn_dtype_is_float(tn_dtype dtype)
{
	return info(dtype)->is_float;
}

tn_status tn_dtype_from_name(const char *name, tn_dtype *out, struct tn_error *err)
{
	for (int i = 0; i < TN_DTYPE_COUNT; i++)
		if (strcmp(dtypes[i].name, name) == 0) {
			*out = (tn_dtype)i;
			return TN_OK;
		}
	return tn_fail(err, TN_E_NOTFOUND, name, "'%.40s' is not a safetensors dtype (F32, F16, BF16, U32, ...)", name);
}
