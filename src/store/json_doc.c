/* SPDX-License-Identifier: Apache-2.0 */
#include "store/json_doc.h"

#include "base/error.h"
#include "base/file.h"

#include <string.h>

tn_status tn_json_parse(const char *text, size_t bytes, const char *where, json_t **out, struct tn_error *err)
{
	json_error_t e;
	json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
	if (!root && json_error_code(&e) == json_error_out_of_memory)
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
