/* SPDX-License-Identifier: Apache-2.0 */
#include "store/json_doc.h"

#include "base/error.h"
#include "base/file.h"
#include "store/json_scan.h"

#include <string.h>

/* jansson reports most failed allocations as damage to the text, or not at all. When it does not complain of what only
 * it can see, and the text is well formed, memory ran out. */
static int ran_out_of_memory(const char *text, size_t bytes, const json_error_t *e)
{
	struct tn_json_scan scan = { NULL, text, bytes, 0, "", 0 };
	switch (json_error_code(e)) {
	case json_error_numeric_overflow: case json_error_duplicate_key: case json_error_null_byte_in_key:
	case json_error_invalid_utf8: case json_error_stack_overflow: return 0;
	default:
		return tn_json_peek(&scan) == '{' && tn_json_skip_value(&scan, NULL) == TN_OK &&
		       tn_json_finish(&scan, NULL) == TN_OK;
	}
}

tn_status tn_json_parse(const char *text, size_t bytes, const char *where, json_t **out, struct tn_error *err)
{
	json_error_t e;
	json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
	if (!root && ran_out_of_memory(text, bytes, &e))
		return tn_fail_nomem(err, where, bytes);
	if (!root)
		return tn_fail_at(err, TN_E_FORMAT, where, (uint64_t)(e.position < 0 ? 0 : e.position),
				  "could not parse the JSON of '%s', line %d, column %d: %s", where, e.line, e.column, e.text);
	if (!json_is_object(root)) {
		json_decref(root);
		return tn_fail(err, TN_E_FORMAT, where, "'%s' must be a JSON object", where);
	}
	*out = root;
	return TN_OK;
}

tn_status tn_json_load(tn_context *ctx, const char *path, json_t **out, struct tn_error *err)
{
	struct tn_buffer text;
	TN_TRY(tn_file_read_text(ctx, path, TN_CONFIG_CAP, &text, err));
	tn_status status = tn_json_parse(text.data, text.bytes - 1, path, out, err);
	tn_buffer_release(ctx, &text);
	return status;
}
