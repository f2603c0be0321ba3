/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "model/decoder_config.h"

#include <math.h>

static const json_t *field(const struct tn_fields *f, const char *key)
{
	const json_t *value = json_object_get(f->json, key);
	return json_is_null(value) ? NULL : value;
}

tn_status tn_field_number(const struct tn_fields *f, const char *key, double fallback, double *out, struct tn_error *err)
{
	const json_t *value = field(f, key);
	if (value && !json_is_number(value))
		return tn_fail(err, TN_E_FORMAT, f->where, "'%s' is no number", key);
	*out = value ? json_number_value(value) : fallback;
	return TN_OK;
}

tn_status tn_field_count(const struct tn_fields *f, const char *key, uint64_t fallback, uint64_t most, uint64_t *out,
			 struct tn_error *err)
{
	double n;
	TN_TRY(tn_field_number(f, key, (double)fallback, &n, err));
	if (!(n >= 0 && n == floor(n)))
		return tn_fail(err, TN_E_FORMAT, f->where, "'%s' is %g, a count was expected", key, n);
	if (n > (double)most)
		return tn_fail(err, TN_E_LIMIT, f->where, "'%s' is %g, at most %llu is taken", key, n, (unsigned long long)most);
	*out = (uint64_t)n;
	return TN_OK;
}

tn_status tn_field_bool(const struct tn_fields *f, const char *key, int fallback, int *out, struct tn_error *err)
{
	const json_t *value = field(f, key);
	if (value && !json_is_boolean(value))
		return tn_fail(err, TN_E_FORMAT, f->where, "'%s' is neither true nor false", key);
	*out = value ? json_is_true(value) : fallback;
	return TN_OK;
}

tn_status tn_field_text(const struct tn_fields *f, const char *key, const char **out, struct tn_error *err)
{
	const json_t *value = field(f, key);
	if (value && !json_is_string(value))
		return tn_fail(err, TN_E_FORMAT, f->where, "'%s' is no text", key);
	*out = value ? json_string_value(value) : NULL;
	return TN_OK;
}
