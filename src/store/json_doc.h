/* Small configuration files as jansson documents: at most 1 MiB, UTF-8, no key twice, positions in every error. */
#ifndef TN_JSON_DOC_H
#define TN_JSON_DOC_H

#include "base/context.h"

#include <jansson.h>

enum { TN_CONFIG_CAP = 1 << 20 };

/* Parses a file that holds a JSON object. The caller calls json_decref. Errors: those of tn_file_read_text; TN_E_FORMAT:
 * not JSON (with the byte), not an object, or behind a byte order mark. NaN, Infinity and -Infinity are read as Python reads
 * them, and no number is too large. */
tn_status tn_json_load(tn_context *ctx, const char *path, json_t **out, struct tn_error *err);

/* The same for a text; `where` names it. */
tn_status tn_json_parse(tn_context *ctx, const char *text, size_t bytes, const char *where, json_t **out,
			struct tn_error *err);

/* How a number that jansson cannot hold stood in the text: one that is not finite, or a whole one beyond 64 bits. NULL: any
 * other value. To the rest of jansson such a number is a string that is no text; tn_json_add_value writes it as it stood. */
const char *tn_json_number_token(const json_t *value);

#endif
